//! The bake survives restarts and kills: they cost only the time not saved yet.

use super::{comes_to, gate, stands};
use crate::world::{Admin, Config, Origin, Proxy, World, eventually, figure, seconds, turn};
use std::time::{Duration, Instant};

const BAKE_S: f64 = 8.0;
/// Saved every two seconds; the rest is for a busy machine.
const GAP_S: f64 = 3.5;

struct Scene {
    world: World,
    config: Config,
    _origins: [Origin; 2],
}

fn scene() -> Scene {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    // A wave of testers only: there is no control, so only time counts.
    let mut config = Config::new(stable.address, new.address).waves(&[
        &format!("segments = [\"testers\"], bake = \"{BAKE_S}s\", requests_min = 1, users_min = 1"),
        "weight = \"1%\", bake = \"1h\"",
    ]);
    config.rest = "[segment.testers]\nusers = [\"tess\"]\n".into();
    Scene { world, config, _origins: [stable, new] }
}

fn baked_s(api: &Admin) -> f64 {
    api.release()["progress"]["baked_s"].as_f64().unwrap_or(0.0)
}

/// Sends requests of a tester until it has baked for `longer_s` more, or the next wave is open.
fn bakes(proxy: &Proxy, longer_s: f64) -> f64 {
    let (api, mut client) = (proxy.api(), proxy.client());
    let mut first = None;
    eventually(seconds(30), &format!("it bakes for {longer_s} s"), || {
        let _ = client.get_as("tess");
        std::thread::sleep(Duration::from_millis(20));
        let (wave, baked) = (stands(&api).0, baked_s(&api));
        // Another wave counts from zero.
        let first = *first.get_or_insert(baked);
        (wave == "1%" || (wave == "testers" && baked >= first + longer_s)).then_some(baked)
    })
}

/// Requests of `new` in this wave, as its gate counts them.
fn requests(api: &Admin) -> u64 {
    let release = api.release();
    let gates = release["gates"].as_array().cloned().unwrap_or_default();
    let detail =
        gates.iter().find(|g| g["name"] == "requests").and_then(|g| g["detail"].as_str()).unwrap_or("");
    detail.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn start_entry(api: &Admin) -> String {
    let ledger = api.ledger();
    let start = ledger.iter().rfind(|e| e["kind"] == "start").expect("it has started");
    start["detail"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_bake_that_is_restarted_again_and_again_opens_in_time() {
    let _turn = turn();
    let scene = scene();
    let begun = Instant::now();
    let mut proxy = scene.world.run(&scene.config);
    let mut baked = bakes(&proxy, 2.5);
    let mut restarts = 0;
    while stands(&proxy.api()).0 != "1%" {
        assert!(restarts < 8, "after {restarts} restarts it has baked for {baked} s of {BAKE_S}");
        let counted = requests(&proxy.api());
        if restarts % 2 == 0 {
            proxy.kill();
        } else {
            proxy.signal("TERM");
            assert!(proxy.ends_within(seconds(10)).success());
        }
        proxy = Proxy::start(&scene.world.config_file());
        let told = start_entry(&proxy.api());
        assert!(told.starts_with("started in wave `testers`, baked ") && told.ends_with(" of 8 s"), "{told}");
        let after =
            eventually(seconds(5), "the bake goes on", || Some(baked_s(&proxy.api())).filter(|s| *s > 0.0));
        let lost = baked - after;
        figure(&format!("restart {restarts}: {baked:.1} s had baked, {after:.1} s after it ({told})"));
        assert!(lost <= if restarts % 2 == 0 { GAP_S } else { 0.6 }, "{lost} s were lost: {told}");
        // Requests of the wave survive as well; a kill may lose only those that are not final yet.
        if restarts % 2 == 1 {
            eventually(seconds(5), &format!("{counted} requests still count"), || {
                (requests(&proxy.api()) >= counted).then_some(())
            });
        }
        (baked, restarts) = (bakes(&proxy, 3.0), restarts + 1);
    }
    assert!(restarts >= 2, "it was to be restarted");
    figure(&format!(
        "a bake of 8 s, restarted {restarts} times, opened after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let ledger = proxy.api().ledger();
    let opened = ledger
        .iter()
        .rfind(|e| e["kind"] == "wave" && e["detail"].as_str().is_some_and(|d| d.contains("`1%`")));
    let wave_evidence = &opened.expect("the wave opened").clone()["evidence"]["gates"]["input"]["proof"];
    assert_eq!(wave_evidence["users"]["new"], 1, "{wave_evidence}");
    assert!(wave_evidence["baked_us"].as_u64().is_some_and(|us| us >= 8_000_000), "{wave_evidence}");
}

#[test]
fn what_is_saved_applies_to_its_own_wave_alone_and_what_bakes_again_is_reported() {
    let _turn = turn();
    let scene = scene();
    let mut proxy = scene.world.run(&scene.config);
    let wave_file = scene.world.path("state/wave-billing.bin");
    // Each: an action while the proxy is down, and the message of the next start.
    type Away = fn(&Scene, &std::path::Path);
    let away: [(&str, Away); 3] = [
        ("is damaged, or of another version", |_, file| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes[40] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("nothing was saved of it", |_, file| std::fs::remove_file(file).unwrap()),
        ("is of another wave, plan or attempt", |scene, _| {
            let text = scene.config.text().replace(
                "segments = [\"testers\"], bake",
                "name = \"first\", segments = [\"testers\"], bake",
            );
            scene.world.write_text(&text);
        }),
    ];
    for (why, happens) in away {
        let api = proxy.api();
        eventually(seconds(20), "it has baked for two seconds", || (baked_s(&api) > 2.0).then_some(()));
        proxy.signal("TERM");
        assert!(proxy.ends_within(seconds(10)).success());
        happens(&scene, &wave_file);
        proxy = Proxy::start(&scene.world.config_file());
        let told = start_entry(&proxy.api());
        assert!(told.contains("bakes again") && told.contains(why), "{why}: {told}");
        assert!(proxy.event("wave_bakes_again")["why"].as_str().is_some_and(|w| w.contains(why)));
        assert!(baked_s(&proxy.api()) < 2.0, "{why}");
    }
}

#[test]
fn a_rollback_forgets_the_bake_also_where_a_kill_comes_at_once() {
    let _turn = turn();
    let scene = scene();
    let mut proxy = scene.world.run(&scene.config);
    bakes(&proxy, 3.0);
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    assert_eq!(proxy.api().resume("rollback", "a test").status, 200);
    proxy.kill();
    let proxy = Proxy::start(&scene.world.config_file());
    comes_to(&proxy.api(), seconds(10), "testers", "progressing", 0.0);
    assert!(baked_s(&proxy.api()) < 2.0, "{}", start_entry(&proxy.api()));
}

#[test]
fn a_wave_that_is_held_is_held_for_as_long_after_a_restart() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    // No traffic: the first wave is baked, and has no evidence.
    let config = Config::new(stable.address, new.address)
        .waves(&["weight = \"1%\", bake = \"0s\"", "weight = \"5%\", bake = \"0s\""]);
    let mut proxy = world.run(&config);
    let held_s = |api: &Admin| api.release()["progress"]["held_s"].as_f64();
    eventually(seconds(20), "it is held", || held_s(&proxy.api()).filter(|s| *s > 4.0));
    assert_eq!(gate(&proxy.api(), "bake").as_deref(), Some("pass"));
    for hard in [true, false] {
        if hard {
            proxy.kill();
        } else {
            proxy.signal("TERM");
            assert!(proxy.ends_within(seconds(10)).success());
        }
        proxy = Proxy::start(&world.config_file());
        let after = eventually(seconds(10), "it is held again", || held_s(&proxy.api()));
        assert!(after >= 1.5, "held for {after} s after a restart (killed: {hard})");
        assert!(proxy.api().metric("grayling_wave_held_seconds", &[]).is_some_and(|s| s >= 1.5));
    }
}
