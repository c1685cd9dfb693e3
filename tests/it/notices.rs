//! The notice "slower by more than `latency_notice`": it holds no waves, an edit of the level
//! restarts its evidence, it ends once `new` is fixed, and a person can end it. A person can also
//! end the alarm `worse_than_before`, which keeps a release from becoming complete.

use crate::world::{
    Admin, Behaviour, Config, Load, Origin, Proxy, Service, World, eventually, figure, grayling, long, never,
    seconds, turn,
};
use grayling::domain::judge::own_past::{OwnPast, PastResult};
use grayling::stats::arm::Arm;
use grayling::stats::codec::Encoder;
use grayling::stats::engine::{EventKind, RequestEvent, RequestStart};
use grayling::stats::users::{UNITS, UserUnit};
use serde_json::json;
use std::time::{Duration, Instant};

const SOUND: Service =
    Service { median_ms: 25.0, spread: 0.3, tail: 0.0, tail_ms: 0.0, fails: 0.0, ugly: false, broken: None };

struct Scene {
    new: Origin,
    _stable: Origin,
    proxy: Proxy,
    load: Load,
    world: World,
    config: Config,
}

fn watchdog(notice: &str) -> String {
    format!("errors_max = \"60%\"\nlatency_tolerance = \"100%\"\nlatency_notice = \"{notice}\"")
}

/// `new` becomes slower by 40%, at a notice level of 3%, until the notice stands.
fn noticed() -> Scene {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    [&stable, &new].iter().for_each(|origin| origin.behave(Behaviour::Service(SOUND)));
    let config = Config::new(stable.address, new.address).watchdog(&watchdog("3%"));
    let proxy = world.run(&config);
    let load = Load::start_with(proxy.http, 48, Duration::from_millis(25), |client, user| {
        client.get("/", &[("x-user-id", user)])
    });
    let scene = Scene { new, _stable: stable, proxy, load, world, config };
    let api = scene.proxy.api();
    eventually(seconds(120), "stable's usual latency is known, and new is warm", || {
        let release = api.release();
        let signals = release["watchdog"]["signals"].as_array()?.clone();
        let told = signals.iter().find(|s| s["signal"] == "latency")?["detail"].as_str()?.to_owned();
        (!told.contains("too little") && scene.new.total() > 1_000).then_some(())
    });
    scene.new.behave(slower());
    eventually(seconds(240), "the notice stands", || stands(&api));
    scene
}

fn slower() -> Behaviour {
    Behaviour::Service(Service { median_ms: 1.4 * SOUND.median_ms, ..SOUND })
}

fn stands(api: &Admin) -> Option<()> {
    api.release()["watchdog"]["notice_s"].as_f64().map(drop)
}

fn ended(proxy: &Proxy, why: &str) -> bool {
    proxy.events("notice_ended").iter().any(|e| e["why"].as_str().is_some_and(|told| told.contains(why)))
}

#[test]
fn a_person_ends_a_notice_which_holds_nothing() {
    let _turn = turn();
    let scene = noticed();
    let api = scene.proxy.api();
    let detail = api.release()["watchdog"]["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("a notice, which holds nothing"), "{detail}");
    scene.new.behave(Behaviour::Service(SOUND));
    let answer = api.resume("notice", "accepted: the new cipher costs 40%");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().contains("its evidence starts afresh"), "{}", answer.text());
    eventually(seconds(10), "the notice is over", || (stands(&api).is_none()).then_some(()));
    eventually(seconds(10), "the log says so", || ended(&scene.proxy, "a person").then_some(()));
    let ledger = api.ledger();
    let entry = ledger.iter().find(|e| e["evidence"]["ends"] == "notice").expect("the ledger has it");
    assert_eq!(
        (entry["kind"].as_str(), entry["weight_before"] == entry["weight_after"]),
        (Some("resume"), true)
    );
    let again = api.resume("notice", "once more");
    assert_eq!(again.status, 409, "{}", again.text());
    assert!(again.text().contains("no notice of billing stands"), "{}", again.text());
    let unknown = api.resume("notices", "a slip");
    assert!(unknown.status == 400 && unknown.text().contains("`notice`"), "{}", unknown.text());
    drop(scene.load);
}

/// After an edit the old level has no effect; after a fix the notice ends within 15 min.
#[test]
fn an_edited_notice_starts_anew_and_ends_when_new_is_mended() {
    if !long() {
        return;
    }
    let _turn = turn();
    let scene = noticed();
    let api = scene.proxy.api();
    // Slower by 40% is more than 15%, too: it is noticed again, on new evidence.
    scene.world.write(&scene.config.clone().watchdog(&watchdog("15%")));
    eventually(seconds(10), "the edit ends the notice", || ended(&scene.proxy, "edited").then_some(()));
    // The status follows the log by a tick: the old notice must not pass for a new one.
    eventually(seconds(10), "the status says so", || stands(&api).is_none().then_some(()));
    eventually(seconds(180), "it is noticed anew", || stands(&api));
    let (mended, before) = (Instant::now(), scene.new.total());
    scene.new.behave(Behaviour::Service(SOUND));
    eventually(seconds(900), "the notice is over", || stands(&api).is_none().then_some(()));
    let took = mended.elapsed();
    figure(&format!(
        "mended: the notice of 15% ended after {} s, {} requests of new",
        took.as_secs(),
        scene.new.total() - before
    ));
    assert!(ended(&scene.proxy, "not been slower"));
    never(seconds(30), "it is noticed again, though new is as fast as stable", || stands(&api).is_some());
    // Edited after the fix: it ends at once.
    scene.new.behave(slower());
    eventually(seconds(180), "it is noticed once more", || stands(&api));
    scene.new.behave(Behaviour::Service(SOUND));
    scene.world.write(&scene.config.clone().watchdog(&watchdog("60%")));
    eventually(seconds(10), "the edit ends it", || stands(&api).is_none().then_some(()));
    never(seconds(30), "it is noticed at 60%", || stands(&api).is_some());
    drop(scene.load);
}

/// The file of an earlier process whose alarm stands: after five minutes at 50% without a failure,
/// and two at 100%, a fifth of the requests fail.
fn past_with_an_alarm(config: &Config) -> Vec<u8> {
    let mut past = OwnPast::default();
    for second in 1..600_u64 {
        let events = (0..40).map(|i| {
            let request = RequestStart {
                id: 0,
                at: Duration::ZERO,
                arm: Arm::New,
                unit: Some(UserUnit::from_index((second * 40 + i) as u32 % 1_000 * (UNITS / 1_000))),
                drawn: true,
                stratum: None,
                server: None,
            };
            let what = if second > 420 && i % 5 == 0 { EventKind::Failed } else { EventKind::Answered };
            RequestEvent { request, what, after: Duration::from_millis(20) }
        });
        past.record(&events.collect::<Vec<_>>());
        past.tick(Duration::from_secs(second), if second > 300 { 1.0 } else { 0.5 });
    }
    let says = past.result();
    assert!(matches!(says, PastResult::Worse(_)), "{says:?}");
    let mut encoder = Encoder::with(b"grayling-past 1\n");
    let server = format!("http://{}", config.new[0]);
    ["billing", "billing", "1", &server].iter().for_each(|text| encoder.text(text));
    past.save(&mut encoder);
    encoder.finish()
}

#[test]
fn a_person_who_accepts_an_alarm_lets_the_release_become_complete() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address)
        .waves(&["weight = \"100%\", bake = \"1s\", requests_min = 20, users_min = 5"]);
    let mut proxy = world.run(&config);
    eventually(seconds(20), "the wave is open", || (proxy.api().release()["weight"] == 100.0).then_some(()));
    proxy.signal("TERM");
    proxy.ends_within(seconds(20));
    std::fs::write(world.path("state/past-billing.bin"), past_with_an_alarm(&config)).unwrap();
    let proxy = world.run(&config);
    let api = proxy.api();
    let load = Load::start(proxy.http, 4, Duration::from_millis(10));
    let release = eventually(seconds(30), "the alarm alone holds the release", || {
        let release = api.release();
        let missing = release["progress"]["missing"].as_array()?.clone();
        let alone = missing.len() == 1 && missing[0].as_str()?.starts_with("watchdog");
        (alone && release["watchdog"]["detail"].as_str()?.contains("in its own past")).then_some(release)
    });
    assert_eq!((&release["ends"], &release["state"]), (&json!(["alarm"]), &json!("progressing")));
    let admin = format!("http://{}", proxy.admin);
    let shell = |args: &[&str]| {
        let out = grayling(&[args, &["--admin", &admin]].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (out.status.code(), text(&out.stdout) + &text(&out.stderr))
    };
    let (_, told) = shell(&["status"]);
    let command = "accept: grayling resume billing --ends alarm --reason TEXT; or roll back: ";
    assert!(told.contains(command), "{told}");
    never(seconds(3), "it is complete", || api.release()["state"] == "complete");

    let why = "the new cipher costs that";
    let resume = ["resume", "billing", "--ends", "alarm", "--reason", why];
    let (code, said) = shell(&resume);
    assert!(code == Some(0) && said.contains("counts as the usual one"), "{said}");
    eventually(seconds(15), "it is complete", || (api.release()["state"] == "complete").then_some(()));
    assert_eq!(api.release()["ends"], json!([]));
    let ledger = api.ledger();
    let entry = ledger.iter().find(|e| e["evidence"]["ends"] == "alarm").expect("the ledger has it");
    let facts = ["kind", "actor", "reason"].map(|key| entry[key].as_str());
    assert_eq!(facts, [Some("resume"), Some("local"), Some(why)], "{entry:#}");
    let (code, said) = shell(&resume);
    assert!(code == Some(1) && said.contains("no alarm of billing stands"), "{said}");
    drop(load);
}
