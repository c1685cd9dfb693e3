//! Alerts on real sockets: Debian's Alertmanager, and small receivers that verify the messages with
//! their own code; also receivers that are slow, refuse, or are absent for a while.

use crate::world::{
    Admin, Authority, Behaviour, Client, Config, Load, Origin, Proxy, Validity, World, eventually, never,
    put, seconds, users_in_new,
};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Used only in this test: 32 bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
/// The first tries follow quickly, later ones after at most half a minute; with room for a busy
/// machine.
const SOON: Duration = Duration::from_secs(45);

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// `tests/data/alert_receiver.py`.
struct Receiver {
    child: Child,
    port: u16,
    calls: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn start(port: u16, secret: Option<&str>) -> Receiver {
        Receiver::start_with(port, &secret.into_iter().collect::<Vec<_>>())
    }

    /// The secret, and files with certificate and key: https.
    fn start_with(port: u16, arguments: &[&str]) -> Receiver {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/alert_receiver.py");
        let mut child = Command::new("python3")
            .arg(script)
            .arg(port.to_string())
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed (tests/run installs it)");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.next().and_then(|l| l.parse().ok()).expect("it says where it listens");
        let calls = Arc::new(Mutex::new(vec![]));
        let kept = calls.clone();
        std::thread::spawn(move || {
            lines.for_each(|line| kept.lock().unwrap().push(serde_json::from_str(&line).unwrap()));
        });
        Receiver { child, port, calls }
    }

    fn calls(&self) -> Vec<Value> {
        self.calls.lock().unwrap().clone()
    }

    /// `state` of each webhook so far.
    fn states(&self) -> Vec<String> {
        self.calls()
            .iter()
            .map(|c| c["body"]["data"]["state"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Alertmanager(Child, SocketAddr);

impl Alertmanager {
    fn start(world: &World, port: u16) -> Alertmanager {
        let config = world.path("alertmanager.yml");
        std::fs::write(&config, "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n").unwrap();
        let storage = world
            .path(&format!("alertmanager-{port}-{:?}", Instant::now()).replace([' ', ':', '{', '}'], ""));
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", storage.display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus-alertmanager is installed (tests/run installs it)");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let up = Alertmanager(child, address);
        eventually(seconds(30), "the Alertmanager is ready", || {
            Client::new(address).get("/-/ready", &[]).ok().filter(|a| a.status == 200)
        });
        up
    }

    /// Grayling's rollback alert in the Alertmanager.
    fn rollback(&self) -> Option<Value> {
        let answer = Client::new(self.1).get("/api/v2/alerts", &[("connection", "close")]).ok()?;
        let alerts: Vec<Value> = serde_json::from_slice(&answer.body).ok()?;
        alerts.into_iter().find(|a| a["labels"]["alertname"] == "GraylingRolledBack")
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scene(world: &World, alerts: &str) -> (Proxy, [Origin; 2]) {
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address);
    config.rest = alerts.to_owned();
    (world.run(&config), [stable, new])
}

fn rollback(api: &Admin) {
    assert_eq!(api.change("rollback", "cents are wrong").status, 200);
}

fn resume(api: &Admin) {
    assert_eq!(api.resume("rollback", "mended").status, 200);
}

#[test]
fn an_alertmanager_is_told_again_while_it_stands_and_when_it_is_over_also_after_it_was_away() {
    let world = World::new();
    let port = free_port();
    let alertmanager = Alertmanager::start(&world, port);
    let alerts = format!("[alert.oncall]\nalertmanager = \"http://127.0.0.1:{port}\"\nrepeat = \"1s\"\n");
    let (proxy, _origins) = scene(&world, &alerts);
    let api = proxy.api();
    never(Duration::from_millis(500), "an alert before anything happened", || {
        alertmanager.rollback().is_some()
    });
    rollback(&api);
    let first = eventually(SOON, "the alert is there", || alertmanager.rollback());
    assert_eq!(first["labels"]["release"], "billing");
    assert_eq!([&first["labels"]["cause"], &first["labels"]["severity"]], ["manual", "page"]);
    assert!(first["annotations"]["description"].as_str().unwrap().contains("cents are wrong"), "{first}");
    let again = eventually(SOON, "it is told again", || {
        alertmanager.rollback().filter(|a| a["updatedAt"] != first["updatedAt"])
    });
    assert_eq!((&again["labels"], &again["startsAt"]), (&first["labels"], &first["startsAt"]));
    assert_ne!(again["endsAt"], first["endsAt"], "it holds for longer now");
    resume(&api);
    eventually(SOON, "it is over", || alertmanager.rollback().is_none().then_some(()));

    drop(alertmanager);
    rollback(&api);
    eventually(SOON, "a call has failed", || {
        api.metric("grayling_alerts_sent_total", &[("receiver", "oncall"), ("result", "failure")])
            .filter(|n| *n > 0.0)
    });
    eventually(SOON, "it waits", || api.metric("grayling_alerts_waiting", &[]).filter(|n| *n == 1.0));
    let alertmanager = Alertmanager::start(&world, port);
    let missed = eventually(SOON, "it gets what it missed", || alertmanager.rollback());
    assert_eq!(missed["startsAt"], api.trip().unwrap()["at"], "with the time at which it began");
    resume(&api);
    eventually(SOON, "over again", || alertmanager.rollback().is_none().then_some(()));
    proxy.tells("alert_not_told");
    proxy.tells("alert_told_again");
}

#[test]
fn a_webhook_that_was_away_gets_each_beginning_and_end_in_order_signed() {
    let world = World::new();
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/webhook.secret"), format!("{SECRET}\n")).unwrap();
    let port = free_port();
    let alerts = format!(
        "[alert.hook]\nwebhook = \"http://127.0.0.1:{port}/grayling?x=1\"\nsecret_file = \"webhook.secret\"\n"
    );
    let (proxy, _origins) = scene(&world, &alerts);
    let api = proxy.api();
    // No receiver listens there yet.
    rollback(&api);
    eventually(SOON, "the beginning waits", || {
        api.metric("grayling_alerts_waiting", &[]).filter(|n| *n == 1.0)
    });
    resume(&api);
    eventually(SOON, "the end waits behind it", || {
        api.metric("grayling_alerts_waiting", &[]).filter(|n| *n == 2.0)
    });
    let receiver = Receiver::start(port, Some(SECRET));
    eventually(SOON, "both are told", || (receiver.calls().len() == 2).then_some(()));
    rollback(&api);
    eventually(SOON, "the next one too", || (receiver.calls().len() == 3).then_some(()));
    assert_eq!(receiver.states(), ["firing", "resolved", "firing"]);
    let calls = receiver.calls();
    for call in &calls {
        assert_eq!((&call["fault"], &call["path"]), (&Value::Null, &Value::from("/grayling?x=1")), "{call}");
        let data = &call["body"]["data"];
        assert_eq!([&data["alert"], &data["release"], &data["cause"]], ["trip", "billing", "manual"]);
    }
    assert_eq!(calls[0]["body"]["type"], "grayling.alert.firing");
    let ids: std::collections::BTreeSet<_> = calls.iter().map(|c| c["id"].to_string()).collect();
    assert_eq!(ids.len(), 3, "each message has an id of its own");
    assert_eq!(api.metric("grayling_alerts_waiting", &[]), Some(0.0));
    assert_eq!(api.metric("grayling_alerts_dropped_total", &[]), Some(0.0));
    resume(&api);
    eventually(SOON, "it is over", || (receiver.calls().len() == 4).then_some(()));
    // However short: a rollback that a script lifts at once is sent too.
    rollback(&api);
    resume(&api);
    eventually(SOON, "the short one too", || {
        (receiver.states()[4..] == ["firing", "resolved"]).then_some(())
    });
    rollback(&api);
    eventually(SOON, "one that stays", || (receiver.calls().len() == 7).then_some(()));
    let calls = receiver.calls();
    // A restart sends the standing alert again under the same id, which lets a receiver
    // deduplicate.
    drop(proxy);
    let proxy = Proxy::start(&world.config_file());
    eventually(SOON, "told after the restart", || (receiver.calls().len() > calls.len()).then_some(()));
    assert_eq!(receiver.calls().last().map(|c| c["id"].clone()), calls.last().map(|c| c["id"].clone()));
    drop(proxy);
}

#[test]
fn a_receiver_that_hangs_or_refuses_holds_up_nobody_and_its_address_is_told_to_nobody() {
    let world = World::new();
    std::fs::create_dir_all(world.path("config")).unwrap();
    let slack = Receiver::start(0, None);
    let port = slack.port;
    for (file, path) in [
        ("good", "services/T0/secret-part"),
        ("hangs", "hang/secret-part"),
        ("refuses", "refuse/secret-part"),
    ] {
        std::fs::write(
            world.path(&format!("config/{file}.url")),
            format!("http://127.0.0.1:{port}/{path}\n"),
        )
        .unwrap();
    }
    let alerts =
        ["hangs", "refuses", "good"].map(|name| format!("[alert.{name}]\nslack_file = \"{name}.url\"\n"));
    let (proxy, _origins) = scene(&world, &alerts.concat());
    let api = proxy.api();
    rollback(&api);
    let good =
        || slack.calls().into_iter().filter(|c| c["path"] == "/services/T0/secret-part").collect::<Vec<_>>();
    eventually(SOON, "the one that is well is told", || (good().len() == 1).then_some(()));
    assert!(good()[0]["body"]["text"].as_str().unwrap().contains("cents are wrong"));
    // Failing receivers do not affect users.
    let mut client = proxy.client();
    for user in users_in_new("user", 20, 20) {
        assert_eq!(client.get_as(&user).unwrap().text(), "stable");
    }
    resume(&api);
    eventually(SOON, "its end too", || (good().len() == 2).then_some(()));
    let refused = || slack.calls().iter().filter(|c| c["path"] == "/refuse/secret-part").count();
    eventually(SOON, "one that refuses is tried again", || (refused() > 1).then_some(()));
    eventually(SOON, "both wait for those that did not take them", || {
        let waits = |name| api.metric("grayling_alerts_waiting", &[("receiver", name)]);
        (waits("hangs") >= Some(1.0) && waits("refuses") == Some(2.0) && waits("good") == Some(0.0))
            .then_some(())
    });
    proxy.tells("alert_not_told");
    let told = proxy.said();
    assert!(!told.contains("secret-part"), "the log has the address of a Slack webhook: {told}");
    assert!(!api.get("/metrics").text().contains("secret-part"));
}

#[test]
fn two_bad_arms_and_a_freeze_are_told_of() {
    let world = World::new();
    put(&world, "webhook.secret", SECRET);
    let receiver = Receiver::start(0, Some(SECRET));
    let alerts = format!(
        "[alert.hook]\nwebhook = \"http://127.0.0.1:{}/\"\nsecret_file = \"webhook.secret\"\n",
        receiver.port
    );
    let (proxy, [stable, new]) = scene(&world, &alerts);
    let api = proxy.api();
    let told = |alert: &str| {
        receiver.calls().into_iter().map(|c| c["body"]["data"].clone()).find(|d| d["alert"] == alert)
    };
    let load = Load::start(proxy.http, 24, Duration::from_millis(30));
    eventually(SOON, "both have had requests", || (stable.total() > 500 && new.total() > 100).then_some(()));
    [&stable, &new].iter().for_each(|origin| origin.behave(Behaviour::Status(500, 1.0)));
    let both = eventually(SOON, "two bad arms are told of", || told("both_arms"));
    assert_eq!([&both["state"], &both["severity"], &both["release"]], ["firing", "page", "billing"]);
    [&stable, &new].iter().for_each(|origin| origin.behave(Behaviour::Answer));
    drop(load);
    assert!(api.trip().is_none(), "an outage that both had is over: {}", proxy.said());
}

#[test]
fn a_freeze_is_told_of() {
    let world = World::new();
    put(&world, "webhook.secret", SECRET);
    let receiver = Receiver::start(0, Some(SECRET));
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address)
        .release("on_anomaly = \"freeze\"")
        .watchdog("harm_users_max = 1");
    config.rest = format!(
        "[alert.hook]\nwebhook = \"http://127.0.0.1:{}/\"\nsecret_file = \"webhook.secret\"\n",
        receiver.port
    );
    let proxy = world.run(&config);
    new.behave(Behaviour::Status(500, 1.0));
    let mut client = proxy.client();
    users_in_new("user", 20, 2).iter().for_each(|user| _ = client.get_as(user));
    let freeze = eventually(SOON, "the freeze is told of", || receiver.calls().first().cloned());
    let told = &freeze["body"]["data"];
    assert_eq!([&told["alert"], &told["cause"], &told["state"]], ["freeze", "harm", "firing"], "{freeze}");
    assert!(told["summary"].as_str().unwrap().contains("held at 20%"), "{freeze}");
    assert_eq!(proxy.api().resume("freeze", "mended").status, 200);
    eventually(SOON, "and its end", || (receiver.states() == ["firing", "resolved"]).then_some(()));
}

#[test]
fn an_https_receiver_is_told_if_the_system_vouches_for_it_and_else_nothing_is_sent() {
    let world = World::new();
    put(&world, "webhook.secret", SECRET);
    let (trusted, stranger) = (Authority::new("trusted"), Authority::new("stranger"));
    let authorities = trusted.write(&world, "trusted.pem");
    let receivers = [(&trusted, "good"), (&stranger, "strange")].map(|(authority, name)| {
        let (certificate, key) = authority.server(&world, name, Validity::Now);
        Receiver::start_with(0, &[SECRET, certificate.to_str().unwrap(), key.to_str().unwrap()])
    });
    let alerts = ["good", "strange"].iter().zip(&receivers).map(|(name, receiver)| {
        format!(
            "[alert.{name}]\nwebhook = \"https://localhost:{}/\"\nsecret_file = \"webhook.secret\"\n",
            receiver.port
        )
    });
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config { rest: alerts.collect(), ..Config::new(stable.address, new.address) };
    let proxy = Proxy::start_trusting(&world.write(&config), &authorities);
    rollback(&proxy.api());
    let call =
        eventually(SOON, "the one that is vouched for is told", || receivers[0].calls().first().cloned());
    assert_eq!(call["fault"], Value::Null);
    let failed = [("receiver", "strange"), ("result", "failure")];
    eventually(SOON, "the other one is not spoken to", || {
        proxy.api().metric("grayling_alerts_sent_total", &failed).filter(|n| *n >= 1.0)
    });
    assert_eq!(receivers[1].calls(), Vec::<Value>::new());
    proxy.tells("certificate");
}

#[test]
fn a_refused_file_a_lost_state_and_a_new_receiver_are_told_of() {
    let world = World::new();
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/webhook.secret"), SECRET).unwrap();
    let receiver = Receiver::start(0, Some(SECRET));
    let alerts = format!(
        "[alert.hook]\nwebhook = \"http://127.0.0.1:{}/\"\nsecret_file = \"webhook.secret\"\n",
        receiver.port
    );
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let plain = Config::new(stable.address, new.address);
    let told = Config { rest: alerts, ..plain.clone() };
    let proxy = world.run(&plain);
    rollback(&proxy.api());
    world.write(&told);
    let of = |alert: &str, state: &str| {
        let calls = receiver.calls();
        calls.into_iter().find(|c| c["body"]["data"]["alert"] == alert && c["body"]["data"]["state"] == state)
    };
    eventually(SOON, "a receiver that is new to the file is told what stands", || of("trip", "firing"));
    world.write_text(&told.text().replace("weight =", "wieght ="));
    let refused = eventually(SOON, "the refused file is told of", || of("reload_failed", "firing"));
    assert!(refused["body"]["data"]["detail"].as_str().unwrap().contains("wieght"), "{refused}");
    world.write(&told);
    eventually(SOON, "and its end", || of("reload_failed", "resolved"));
    assert_eq!(receiver.calls().iter().find(|c| !c["fault"].is_null()), None);
    drop(proxy);

    std::fs::remove_dir_all(world.path("state")).unwrap();
    std::fs::write(world.path("state"), "not a directory").unwrap();
    let _proxy = world.run(&told);
    eventually(SOON, "a state that is not durable is told of", || of("state_not_durable", "firing"));
}

#[test]
fn a_wave_that_is_held_is_told_to_those_whose_patience_is_over() {
    let world = World::new();
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/webhook.secret"), format!("{SECRET}\n")).unwrap();
    let [soon, late] = [0, 0].map(|port| Receiver::start(port, Some(SECRET)));
    let to = |name: &str, port: u16, after: &str| {
        format!(
            "[alert.{name}]\nwebhook = \"http://127.0.0.1:{port}/\"\nsecret_file = \"webhook.secret\"\nstuck_after = \"{after}\"\n"
        )
    };
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    // No traffic: the first wave is baked, and has no evidence.
    let mut config = Config::new(stable.address, new.address)
        .waves(&["weight = \"1%\", bake = \"0s\"", "weight = \"5%\", bake = \"0s\""]);
    config.rest = to("soon", soon.port, "1s") + &to("late", late.port, "1h");
    let proxy = world.run(&config);
    let told = eventually(SOON, "a held wave is told", || {
        soon.calls().into_iter().map(|call| call["body"]["data"].clone()).find(|d| d["alert"] == "stuck_wave")
    });
    let said = told.to_string();
    assert!(said.contains("`1%` has baked") && said.contains("requests: 0 of 500 of new"), "{said}");
    assert_eq!(late.calls().len(), 0, "an hour is not over: {:?}", late.calls());
    // The gates of a held wave do not suppress other alerts.
    rollback(&proxy.api());
    eventually(SOON, "the rollback is told to both", || {
        let trips = |r: &Receiver| r.calls().iter().any(|c| c["body"]["data"]["alert"] == "trip");
        (trips(&soon) && trips(&late)).then_some(())
    });
}
