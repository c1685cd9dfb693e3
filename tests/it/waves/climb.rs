//! One climb with real servers: nginx in front of two versions of a service, wrk in front of the
//! proxy, and a plan with short times.

use super::{all_recomputed, comes_to, gate};
use crate::world::{
    Behaviour, Config, Nginx, Origin, Proxy, Service, World, eventually, figure, grayling, seconds, turn, wrk,
};
use std::time::{Duration, Instant};

struct Scene {
    _stable: Origin,
    new: Origin,
    proxy: Proxy,
    _nginx: [Nginx; 2],
    world: World,
}

/// The service's own time must dominate, and not that of two shared cores.
const SOUND: Service =
    Service { median_ms: 25.0, spread: 0.2, tail: 0.0, tail_ms: 0.0, fails: 0.0, ugly: false, broken: None };

fn scene(waves: &[&str]) -> Scene {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    [&stable, &new].iter().for_each(|origin| origin.behave(Behaviour::Service(SOUND)));
    let nginx = [
        Nginx::start_before(&world, "stable", stable.address),
        Nginx::start_before(&world, "new", new.address),
    ];
    let mut config = Config::new(nginx[0].address, nginx[1].address).waves(waves).watchdog(
        "margin_errors = \"1%\"\nmargin_latency = \"50%\"\nlatency_notice = \"50%\"\nlatency_tolerance = \"100%\"\nmargin_latency_tail = \"100%\"",
    );
    config.rest =
        "[segment.testers]\nusers = [\"user-1\", \"user-2\", \"user-3\", \"user-4\", \"user-5\"]\n".into();
    config.release = "holdback = \"20%\"\n".into();
    let proxy = world.run(&config);
    Scene { _stable: stable, new, proxy, _nginx: nginx, world }
}

const TESTERS: &str = "segments = [\"testers\"], bake = \"1s\", requests_min = 5";

#[test]
fn from_testers_to_everybody_on_evidence() {
    let _turn = turn();
    let scene = scene(&[
        TESTERS,
        "weight = \"20%\", bake = \"2s\"",
        "weight = \"50%\", bake = \"2s\"",
        "weight = \"100%\", bake = \"2s\"",
    ]);
    let (api, start) = (scene.proxy.api(), Instant::now());
    let load = wrk(&scene.world, scene.proxy.http, 64, seconds(240));
    let mut times = vec![];
    for (wave, weight) in [("testers", 0.0), ("20%", 20.0), ("50%", 50.0), ("100%", 80.0)] {
        let what = format!("wave {wave}");
        eventually(seconds(100), &what, || {
            let release = api.release();
            assert!(release["trip"].is_null(), "tripped: {release:#}");
            (release["wave"] == wave && release["weight"] == weight).then_some(())
        });
        times.push(format!("{wave} after {:.0} s", start.elapsed().as_secs_f64()));
    }
    comes_to(&api, seconds(60), "100%", "complete", 100.0);
    let counted = load.stop();
    assert_eq!((counted.non_2xx, counted.socket_errors), (0, 0), "{counted:?}");

    let ledger = api.ledger();
    let opened: Vec<&str> = (ledger.iter())
        .filter(|e| e["evidence"]["gates"]["decision"] == "open")
        .filter_map(|e| e["evidence"]["wave"]["name"].as_str())
        .collect();
    assert_eq!(opened, ["testers", "20%", "50%", "100%"]);
    let finish = ledger.iter().find(|e| e["evidence"]["gates"]["decision"] == "finish").unwrap();
    let weights = ["weight_before", "weight_after"].map(|key| finish[key].as_f64());
    assert_eq!(weights, [Some(80.0), Some(100.0)]);
    let told = "the 20% that was held back moves to new";
    assert!(finish["detail"].as_str().is_some_and(|d| d.ends_with(told)), "{finish:#}");
    assert_eq!(finish["evidence"]["gates"]["input"]["proof"]["controlled"], true, "{finish:#}");
    let found = all_recomputed(&ledger);
    assert!(found >= 5);
    let verified = grayling(&["ledger", "--verify", "--admin", &format!("http://{}", scene.proxy.admin)]);
    let told = String::from_utf8_lossy(&verified.stdout);
    let wanted = format!("{found} found again from the evidence");
    assert!(verified.status.success() && told.contains(&wanted), "{wanted}: {told}");
    // The entry has the numbers: any reader can recompute the verdict.
    let last = ledger.iter().rfind(|e| e["evidence"]["gates"]["decision"] == "open").unwrap();
    let wave_evidence = &last["evidence"]["gates"]["input"]["proof"];
    assert!(wave_evidence["e_errors"].as_f64().is_some_and(|e| e >= 20.0), "{wave_evidence:#}");
    assert!(
        wave_evidence["users"]["new"].as_u64().is_some_and(|n| (850..1150).contains(&n)),
        "{wave_evidence:#}"
    );
    figure(&format!("climb over nginx: {}, {} requests, none failed", times.join(", "), counted.requests));
}

#[test]
fn a_new_that_is_a_little_worse_at_twenty_percent_goes_no_further() {
    let _turn = turn();
    let scene = scene(&[
        TESTERS,
        "weight = \"20%\", bake = \"2s\"",
        "weight = \"50%\", bake = \"2s\"",
        "weight = \"100%\"",
    ]);
    let api = scene.proxy.api();
    let load = wrk(&scene.world, scene.proxy.http, 64, seconds(120));
    comes_to(&api, seconds(60), "20%", "progressing", 20.0);
    scene.new.behave(Behaviour::Service(Service { fails: 0.02, ..SOUND }));
    let start = Instant::now();
    let mut held = false;
    while start.elapsed() < seconds(15) && api.trip().is_none() {
        let release = api.release();
        let weight = release["weight"].as_f64().unwrap_or_default();
        assert!(weight <= 20.0, "it went on to {weight}%: {release:#}");
        held |= release["progress"]["held_s"].as_f64().is_some()
            && gate(&api, "errors").as_deref() != Some("pass");
        std::thread::sleep(Duration::from_millis(50));
    }
    let tripped = api.trip();
    load.stop();
    assert!(held || tripped.is_some(), "neither held nor rolled back: {:#}", api.release());
    let ledger = api.ledger();
    all_recomputed(&ledger);
    let told = ledger.iter().any(|e| e["kind"] == "trip" || e["evidence"]["gates"]["decision"] == "hold");
    assert!(told, "the ledger says nothing of it: {ledger:#?}");
    figure(&match tripped {
        Some(trip) => format!(
            "2% failures at 20%: rolled back after {:.1} s: {}",
            start.elapsed().as_secs_f64(),
            trip["detail"]
        ),
        None => format!("2% failures at 20%: held for {:.0} s", start.elapsed().as_secs_f64()),
    });
}
