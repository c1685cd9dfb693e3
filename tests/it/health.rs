//! Active health checks: a server that reports a failure gets no requests, and no user moves to an
//! arm that is not theirs.

use crate::world::{
    Authority, Behaviour, Client, Config, H2Behaviour, H2Origin, HEALTHZ, Load, Nginx, Origin, Proxy,
    Validity, World, eventually, figure, median, never, seconds, turn, users_in_new,
};
use serde_json::Value;
use std::time::{Duration, Instant};

const HEALTH: &str = "health = { path = \"/healthz\", interval = \"100ms\" }";

fn healthy(proxy: &Proxy, arm: &str, wanted: u64) {
    eventually(seconds(15), &format!("{wanted} servers of {arm} are healthy"), || {
        (proxy.api().release()["arms"][arm]["servers_healthy"] == wanted).then_some(())
    });
}

fn probes(origin: &Origin) -> usize {
    origin.received().iter().filter(|r| r.path == HEALTHZ).count()
}

fn others(origin: &Origin) -> usize {
    origin.received().iter().filter(|r| r.path != HEALTHZ).count()
}

#[test]
fn a_server_that_fails_its_probes_is_left_out_and_comes_back() {
    let world = World::new();
    let (sick, well, new) = (Origin::start("sick"), Origin::start("well"), Origin::start("new"));
    let mut config = Config::new(sick.address, new.address).upstreams(HEALTH).weight("0%");
    config.stable.push(well.address);
    let proxy = world.run(&config);
    sick.behave(Behaviour::Status(503, 1.0));
    healthy(&proxy, "stable", 1);
    let before = others(&sick);
    let mut client = proxy.client();
    for n in 0..50 {
        assert_eq!(client.get_as(&format!("user-{n}")).unwrap().text(), "well");
    }
    assert_eq!(others(&sick), before);
    let servers = proxy.api().release()["arms"]["stable"]["servers"].clone();
    let down: Vec<&Value> = servers.as_array().unwrap().iter().filter(|s| s["healthy"] == false).collect();
    assert_eq!((down.len(), &down[0]["down"]), (1, &Value::from("status 503")));
    told_down(&proxy, "status 503");
    sick.behave(Behaviour::Answer);
    healthy(&proxy, "stable", 2);
    eventually(seconds(10), "it serves again", || {
        (client.get_as("anyone").unwrap().text() == "sick").then_some(())
    });
    // Probes are not counted.
    let counted = proxy.api().metric("grayling_requests_total", &[]).unwrap_or(0.0);
    assert_eq!(counted as usize, others(&sick) + others(&well));
}

#[test]
fn users_of_a_new_that_is_down_go_where_on_unreachable_says() {
    for on_unreachable in ["stable", "reads", "error"] {
        let world = World::new();
        let (stable, new) = (Origin::start("stable"), Origin::start("new"));
        new.behave(Behaviour::Status(503, 1.0));
        let mut config = Config::new(stable.address, new.address);
        config.upstream_new = Some(HEALTH.into());
        let config =
            config.release(&format!("on_unreachable = \"{on_unreachable}\"")).watchdog("enabled = false");
        let proxy = world.run(&config);
        healthy(&proxy, "new", 0);
        let before = others(&new);
        let user = &users_in_new("user", 20, 1)[0];
        let headers = [("x-user-id", user.as_str())];
        let read = proxy.client().get("/bill", &headers).unwrap();
        let write = proxy.client().post("/pay", &headers, b"42").unwrap();
        let expected = match on_unreachable {
            "stable" => (200, 200),
            "reads" => (200, 502),
            _ => (502, 502),
        };
        assert_eq!((read.status, write.status), expected, "{on_unreachable}");
        assert_eq!(others(&new), before, "nothing is sent to it");
        let errors =
            proxy.api().metric("grayling_requests_total", &[("arm", "new"), ("outcome", "connect_error")]);
        assert_eq!(errors, Some(2.0), "{on_unreachable}");
    }
}

#[test]
fn a_stable_that_is_down_is_tried_all_the_same_and_nobody_goes_to_new() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    // Too slow for its probe's second, but not for its users.
    stable.behave(Behaviour::Delay(Duration::from_millis(1500)));
    let proxy = world.run(&Config::new(stable.address, new.address).upstreams(HEALTH).weight("0%"));
    healthy(&proxy, "stable", 0);
    assert_eq!(proxy.api().get("/readyz").status, 200);
    assert_eq!(proxy.client().get_as("anyone").unwrap().text(), "stable");
    assert_eq!(others(&new), 0);
    told_down(&proxy, "timed out after 1s");
}

#[test]
fn a_reload_begins_and_ends_probes_and_so_does_the_drain() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address);
    let mut proxy = world.run(&config);
    stable.behave(Behaviour::Status(503, 1.0));
    assert_eq!(probes(&stable), 0);
    world.write(&config.clone().upstreams(HEALTH));
    healthy(&proxy, "stable", 0);
    world.write(&config);
    healthy(&proxy, "stable", 1);
    let seen = probes(&stable);
    never(Duration::from_millis(500), "it is probed no more", || probes(&stable) > seen);
    world.write(&config.clone().upstreams(HEALTH));
    healthy(&proxy, "stable", 0);
    proxy.signal("TERM");
    proxy.ends_within(seconds(10));
    let seen = probes(&stable);
    never(Duration::from_millis(500), "it is probed no more", || probes(&stable) > seen);
}

/// Waits until the last log line about a server that is down begins with `reason`: a line takes a
/// moment to arrive.
fn told_down(proxy: &Proxy, reason: &str) {
    eventually(seconds(5), &format!("a server is told to be down: {reason}"), || {
        let told = proxy.events("server_down").pop()?;
        told["reason"].as_str()?.starts_with(reason).then_some(())
    });
}

#[test]
fn nginx_is_probed_and_left_out_while_it_says_503() {
    let world = World::new();
    let (stable, new) = (Nginx::start(&world, "stable"), Nginx::start(&world, "new"));
    let proxy = world.run(&Config::new(stable.address, new.address).upstreams(HEALTH));
    let user = &users_in_new("user", 20, 1)[0];
    let mut client = proxy.client();
    assert_eq!(client.get_as(user).unwrap().text(), format!("new {user}\n"));
    new.sick(true);
    healthy(&proxy, "new", 0);
    told_down(&proxy, "status 503");
    assert_eq!(client.get_as(user).unwrap().text(), format!("stable {user}\n"));
    new.sick(false);
    healthy(&proxy, "new", 1);
    assert_eq!(client.get_as(user).unwrap().text(), format!("new {user}\n"));
    assert!(new.probes().contains("\"GET /healthz HTTP/1.1\""), "{}", new.probes());
    assert!(new.probes().contains("\"grayling-health\""), "{}", new.probes());
}

#[test]
fn probes_over_tls_trust_whom_requests_trust_and_speak_what_they_speak() {
    let world = World::new();
    let (ca, stranger) = (Authority::new("internal"), Authority::new("stranger"));
    ca.write(&world, "internal.pem");
    let (trusted, strange) =
        (ca.server(&world, "good", Validity::Now), stranger.server(&world, "bad", Validity::Now));
    let good = Nginx::start_tls(&world, "good", &trusted.0, &trusted.1);
    let bad = Nginx::start_tls(&world, "bad", &strange.0, &strange.1);
    let new = Origin::start("new");
    for (http2, version) in [(false, "HTTP/1.1"), (true, "HTTP/2.0")] {
        let _ = std::fs::remove_dir_all(world.path("state"));
        let lines = format!("http2 = {http2}\nca_file = \"internal.pem\"\n{HEALTH}");
        let mut config = Config::new(good.address, new.address).upstreams(&lines).weight("0%");
        config.schemes = ["https", "http"];
        config.upstream_new = Some(String::new());
        config.stable.push(bad.address);
        let proxy = world.run(&config);
        healthy(&proxy, "stable", 1);
        let status = proxy.api().release()["arms"]["stable"]["servers"].clone();
        let down = status.as_array().unwrap().iter().find(|s| s["healthy"] == false).unwrap().clone();
        assert_eq!(down["name"], format!("https://{}", bad.address), "{status}");
        eventually(seconds(10), "it is down by its probes, for its certificate", || {
            let told = proxy.events("server_down").pop()?;
            told["reason"].as_str()?.contains("certificate").then_some(())
        });
        eventually(seconds(10), "the other is asked", || {
            good.probes().contains(&format!("\"GET /healthz {version}\" 204")).then_some(())
        });
        assert_eq!(bad.probes(), "", "nothing is sent to a stranger");
        good.sick(true);
        healthy(&proxy, "stable", 0);
        told_down(&proxy, "status 503");
        good.sick(false);
        healthy(&proxy, "stable", 1);
    }
}

#[test]
fn an_http2_server_is_probed_over_http2_on_connections_of_the_probes_own() {
    let world = World::new();
    let (stable, new) = (H2Origin::start("stable"), Origin::start("new"));
    let mut config =
        Config::new(stable.address, new.address).upstreams(&format!("http2 = true\n{HEALTH}")).weight("0%");
    config.upstream_new = Some(String::new());
    let proxy = world.run(&config);
    eventually(seconds(10), "it is probed", || (stable.requests() >= 5).then_some(()));
    healthy(&proxy, "stable", 1);
    assert_eq!(proxy.client().get("/", &[]).unwrap().text(), "stable GET grayling.test / 0");
    stable.deaf(true);
    healthy(&proxy, "stable", 0);
    told_down(&proxy, "no answer: ");
    stable.deaf(false);
    healthy(&proxy, "stable", 1);
    // The users' connection is not one that a probe has ended.
    let mut client = proxy.client();
    let before = stable.requests();
    while stable.requests() < before + 20 {
        assert_eq!(client.get("/", &[]).unwrap().status, 200);
    }
    // A body without end is not read to its end: the status suffices.
    stable.behave(H2Behaviour::Endless);
    let before = stable.requests();
    eventually(seconds(10), "it is probed on", || (stable.requests() >= before + 5).then_some(()));
    healthy(&proxy, "stable", 1);
    stable.behave(H2Behaviour::Delay(seconds(60)));
    eventually(seconds(15), "it is too slow", || {
        let server = proxy.api().release()["arms"]["stable"]["servers"][0].clone();
        (server["down"] == "timed out after 1s").then_some(())
    });
}

#[test]
fn a_server_that_hangs_for_ever_when_probed_is_down_and_collects_no_connections() {
    let world = World::new();
    let (hanging, well, new) = (Origin::start("hanging"), Origin::start("well"), Origin::start("new"));
    hanging.behave_to_probes(Behaviour::Hang);
    let mut config = Config::new(hanging.address, new.address).upstreams(HEALTH).weight("0%");
    config.stable.push(well.address);
    config.upstream_new = Some(String::new());
    let mut proxy = world.run(&config);
    healthy(&proxy, "stable", 1);
    told_down(&proxy, "timed out after 1s");
    let before = probes(&hanging);
    eventually(seconds(15), "it is probed on, one probe at a time", || {
        assert!(hanging.open() <= 2, "{} connections", hanging.open());
        (probes(&hanging) >= before + 3).then_some(())
    });
    assert_eq!(others(&hanging), 0);
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/", &[]).unwrap().text(), "well"));
    // No probe delays the end.
    proxy.signal("TERM");
    proxy.ends_within(seconds(10));
}

#[test]
fn a_name_that_does_not_resolve_is_no_failed_probe() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let text = Config::new(stable.address, new.address).upstreams(HEALTH).weight("0%").text();
    let servers = format!("servers = [\"http://{}\"", stable.address);
    let text = text.replacen(&servers, &format!("{servers}, \"http://not-there.invalid:9001\""), 1);
    let proxy = Proxy::start(&world.write_text(&text));
    let before = probes(&stable);
    eventually(seconds(10), "the other is probed ten times", || {
        (probes(&stable) >= before + 10).then_some(())
    });
    assert_eq!(proxy.events("server_down"), Vec::<Value>::new());
    let mut client = proxy.client();
    (0..20).for_each(|_| assert_eq!(client.get("/", &[]).unwrap().text(), "stable"));
}

#[test]
fn two_hundred_servers_probed_at_once_do_not_disturb_users() {
    let _turn = turn();
    let world = World::new();
    let (many, new) = (Origin::start_on_all("many"), Origin::start("new"));
    let port = many.address.port();
    let mut config = Config::new(many.address, new.address).weight("0%");
    config.stable = (1..=200).map(|n| ([127, 0, 0, n], port).into()).collect();
    let proxy = world.run(&config);
    let median_of = |what: &str| {
        let (began, mut client, mut times) = (Instant::now(), Client::new(proxy.http), vec![]);
        while began.elapsed() < seconds(3) {
            let asked = Instant::now();
            assert_eq!(client.get("/", &[]).unwrap().text(), "many", "{what}");
            times.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        let (p50, worst) = (median(times.clone()), times.iter().copied().fold(0.0, f64::max));
        figure(&format!(
            "users of 200 servers, {what}: {} requests, p50 {p50:.1} ms, worst {worst:.0} ms",
            times.len()
        ));
        p50
    };
    let alone = median_of("not probed");
    world.write(&config.clone().upstreams("health = { path = \"/healthz\", interval = \"500ms\" }"));
    eventually(seconds(10), "they are probed", || (probes(&many) >= 200).then_some(()));
    let probed = median_of("probed twice a second");
    healthy(&proxy, "stable", 200);
    many.behave_to_probes(Behaviour::Hang);
    healthy(&proxy, "stable", 0);
    let hanging = median_of("all hang when probed");
    many.behave_to_probes(Behaviour::Answer);
    healthy(&proxy, "stable", 200);
    assert!(probed < 10.0 * alone + 20.0, "{probed} ms, and {alone} ms without probes");
    assert!(hanging < 10.0 * alone + 20.0, "{hanging} ms, and {alone} ms without probes");
}

#[test]
fn probes_end_when_a_drain_begins_while_it_still_runs() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut proxy = world.run(&Config::new(stable.address, new.address).upstreams(HEALTH).weight("0%"));
    stable.behave(Behaviour::Delay(seconds(3)));
    stable.behave_to_probes(Behaviour::Answer);
    eventually(seconds(10), "it is probed", || (probes(&stable) >= 3).then_some(()));
    let mut client = proxy.client();
    let slow = std::thread::spawn(move || client.get("/slow", &[]).unwrap().status);
    eventually(seconds(5), "the request is there", || (others(&stable) == 1).then_some(()));
    proxy.signal("TERM");
    eventually(seconds(2), "it drains", || (proxy.api().get("/readyz").status == 503).then_some(()));
    // One may have been in flight.
    let seen = probes(&stable) + 1;
    never(Duration::from_millis(800), "it is probed on", || probes(&stable) > seen);
    assert!(!slow.is_finished(), "the drain was over before its end was looked at");
    assert_eq!(slow.join().unwrap(), 200);
    assert_eq!(proxy.ends_within(seconds(10)).code(), Some(0));
}

#[test]
fn probes_are_no_evidence_and_no_request() {
    let world = World::new();
    let (stable, sick, well) = (Origin::start("stable"), Origin::start("sick"), Origin::start("well"));
    let mut config = Config::new(stable.address, sick.address).upstreams(HEALTH).weight("50%");
    config.new.push(well.address);
    let proxy = world.run(&config);
    sick.behave_to_probes(Behaviour::Status(503, 1.0));
    healthy(&proxy, "new", 1);
    let before = probes(&sick);
    eventually(seconds(15), "many probes fail", || (probes(&sick) >= before + 30).then_some(()));
    let release = proxy.api().release();
    for arm in ["stable", "new"] {
        let of = &release["arms"][arm];
        assert_eq!((&of["requests"], &of["failures"], &of["users"]), (&0.into(), &0.into(), &0.into()));
    }
    assert_eq!(proxy.api().metric("grayling_requests_total", &[]).unwrap_or(0.0), 0.0);
    // With users, only their requests count, and no signal rises.
    let load = Load::start(proxy.http, 4, Duration::from_millis(5));
    eventually(seconds(20), "six hundred answers", || (load.total() >= 600).then_some(()));
    let counts = load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["200"], "{counts:?}");
    let answered: u64 = counts.values().sum();
    eventually(seconds(5), "every request is counted, and nothing else", || {
        let counted = proxy.api().metric("grayling_requests_total", &[("outcome", "ok")])?;
        (counted == answered as f64).then_some(())
    });
    assert_eq!(proxy.api().metric("grayling_requests_total", &[]), Some(answered as f64));
    let release = proxy.api().release();
    assert_eq!(release["arms"]["new"]["failures"], 0);
    assert_eq!(release["watchdog"]["state"], "quiet", "{}", release["watchdog"]);
    assert!(proxy.api().trip().is_none());
}

#[test]
fn a_probe_of_stable_is_no_sign_of_life_for_the_fuse() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address).release("on_unreachable = \"error\"");
    config.upstreams = HEALTH.into();
    config.upstream_new = Some(String::new());
    let proxy = world.run(&config);
    eventually(seconds(10), "stable is probed", || (probes(&stable) >= 3).then_some(()));
    new.refuse();
    let user = &users_in_new("user", 20, 1)[0];
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get_as(user).unwrap().status, 502);
    }
    assert!(proxy.api().trip().is_none_or(|trip| trip["cause"] != "fuse"), "{:?}", proxy.api().trip());
    // A user's response is one.
    assert_eq!(client.get("/", &[]).unwrap().text(), "stable");
    eventually(seconds(5), "the fuse blows", || {
        let _ = client.get_as(user);
        proxy.api().trip()
    });
}

#[test]
fn a_trip_says_which_servers_refused_and_which_were_down_by_their_probes() {
    let world = World::new();
    let (stable, refusing, sick) =
        (Origin::start("stable"), Origin::start("refusing"), Origin::start("sick"));
    let mut config = Config::new(stable.address, refusing.address).upstreams("");
    config.new.push(sick.address);
    // The interval is so long that probes do not find the refusing server first.
    config.upstream_new = Some("health = { path = \"/healthz\", interval = \"3s\" }".into());
    sick.behave_to_probes(Behaviour::Status(503, 1.0));
    let proxy = world.run(&config);
    healthy(&proxy, "new", 1);
    refusing.refuse();
    let user = &users_in_new("user", 20, 1)[0];
    let mut client = proxy.client();
    let trip = eventually(seconds(5), "the fuse blows", || {
        assert_eq!(client.get_as(user).unwrap().text(), "stable");
        proxy.api().trip()
    });
    assert_eq!(trip["cause"], "fuse", "{trip}");
    let (refused, down) = (refusing.address, sick.address);
    let told = format!(
        "no server of new can be used: no connection to http://{refused}; down by health probes: http://{down} (status 503)"
    );
    assert!(trip["detail"].as_str().unwrap().starts_with(&told), "{trip}");
    assert_eq!(others(&sick), 0);
}

#[test]
fn a_server_that_flaps_is_told_of_in_few_lines_and_none_of_its_changes_is_forgotten() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address).upstreams(HEALTH).weight("0%");
    config.upstream_new = Some(String::new());
    let proxy = world.run(&config);
    let began = Instant::now();
    for _ in 0..8 {
        stable.behave_to_probes(Behaviour::Status(503, 1.0));
        healthy(&proxy, "stable", 0);
        stable.behave_to_probes(Behaviour::Answer);
        healthy(&proxy, "stable", 1);
    }
    let told = || [proxy.events("server_down"), proxy.events("server_up")].concat();
    eventually(seconds(15), "all changes are told", || {
        let changes: u64 = told().iter().map(|line| line["changes"].as_u64().unwrap()).sum();
        (changes == 16).then_some(())
    });
    let most = 1 + began.elapsed().as_secs() / 10;
    assert!(told().len() as u64 <= most, "{} lines, {most} at most", told().len());
    let last = proxy.log().into_iter().rfind(|l| l["changes"].is_u64()).unwrap();
    assert_eq!(last["event"], "server_up", "{last}");
}
