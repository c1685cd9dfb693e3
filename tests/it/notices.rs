//! The notice "slower by more than `latency_notice`": it holds no waves, an edit of the level
//! restarts its evidence, it ends once `new` is fixed, and a person can end it.

use crate::world::{
    Admin, Behaviour, Config, Load, Origin, Proxy, Service, World, eventually, figure, long, never, seconds,
    turn,
};
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
