//! What the comparison detects on real sockets, and what it ignores: latency, 4xx, one route of
//! several, users who differ; and that a restart keeps its evidence.

use crate::world::{
    Admin, Behaviour, Config, Load, Origin, Proxy, Service, World, eventually, figure, long, never, seconds,
    times, turn,
};
use serde_json::Value;
use std::time::{Duration, Instant};

const SOUND: Service = Service {
    median_ms: 8.0,
    spread: 0.25,
    tail: 0.0,
    tail_ms: 0.0,
    fails: 0.001,
    ugly: false,
    broken: None,
};

struct Scene {
    stable: Origin,
    new: Origin,
    proxy: Proxy,
    load: Load,
    world: World,
}

/// Two versions with some 24,000 users, until stable's usual latency is known: 5,000 answers.
fn scene(service: Service, adjust: impl FnOnce(&mut Config)) -> Scene {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    for origin in [&stable, &new] {
        origin.behave(Behaviour::Service(service));
    }
    let mut config = Config::new(stable.address, new.address).watchdog("errors_max = \"60%\"");
    adjust(&mut config);
    let proxy = world.run(&config);
    let paths = ["/accounts", "/invoices", "/refunds", "/usage"];
    let load = Load::start_with(proxy.http, 48, Duration::from_millis(25), move |client, user| {
        let path = paths[user.bytes().map(usize::from).sum::<usize>() % paths.len()];
        client.get(path, &[("x-user-id", user)])
    });
    let api = proxy.api();
    eventually(seconds(60), "stable's usual latency is known, and new is warm", || {
        let told = signal(&api, "latency")?["detail"].as_str()?.to_owned();
        (!told.contains("too little") && new.total() > 1_000).then_some(())
    });
    assert!(proxy.api().trip().is_none(), "tripped before anything happened: {}", proxy.said());
    Scene { stable, new, proxy, load, world }
}

fn signal(api: &Admin, name: &str) -> Option<Value> {
    let release = api.release();
    release["watchdog"]["signals"].as_array()?.iter().find(|s| s["signal"] == name).cloned()
}

fn ratio(api: &Admin, name: &str) -> f64 {
    signal(api, name).and_then(|s| s["evidence_ratio"].as_f64()).unwrap_or(0.0)
}

/// `new` changes to `worse`; expects a rollback for the cause.
fn flips(
    what: &str,
    cause: &str,
    within: Duration,
    worse: Service,
    adjust: impl FnOnce(&mut Config),
) -> Value {
    let _turn = turn();
    let scene = scene(SOUND, adjust);
    let (onset, before) = (Instant::now(), scene.new.total());
    scene.new.behave(Behaviour::Service(worse));
    let api = scene.proxy.api();
    let took = eventually(within, &format!("new is at 0% after {what}"), || {
        (api.weight() == 0.0).then(|| onset.elapsed())
    });
    let trip = api.trip().expect("the status tells the trip");
    let requests = scene.new.total() - before;
    figure(&format!(
        "{what}: at 0% after {} ms, {requests} requests of new; {}: {}",
        took.as_millis(),
        trip["cause"],
        trip["detail"]
    ));
    assert_eq!(trip["cause"], cause, "{trip}");
    assert!(trip["evidence"]["e_value"].as_f64().is_some_and(|e| e >= 1000.0), "{trip}");
    assert!(trip["evidence"]["rows"].as_array().is_some_and(|rows| !rows.is_empty()), "{trip}");
    drop(scene.load);
    trip
}

/// Both versions unchanged: no rollback.
fn left_alone(what: &str, during: Duration, scene: &Scene) {
    let api = scene.proxy.api();
    let before = scene.new.total();
    never(during, &format!("new was flipped: {what}"), || api.trip().is_some());
    figure(&format!("{what}: left alone for {} requests of new", scene.new.total() - before));
}

#[test]
fn a_new_that_is_slower_than_is_tolerated_is_flipped() {
    flips("p50 +60%", "latency", seconds(40), Service { median_ms: 12.8, ..SOUND }, |_| {});
}

#[test]
fn a_new_whose_tail_grew_is_flipped() {
    let worse = Service { tail: 0.05, tail_ms: 120.0, ..SOUND };
    flips("5% of the answers take 120 ms instead of 8", "latency", seconds(40), worse, |_| {});
}

#[test]
fn a_new_that_fails_ten_times_as_often_is_flipped() {
    let worse = Service { fails: 0.01, ..SOUND };
    flips("failures from 0.1% to 1%", "errors", seconds(60), worse, |_| {});
}

#[test]
fn a_new_that_fails_every_other_request_is_flipped() {
    flips("+50 points of failures", "errors", seconds(20), Service { fails: 0.501, ..SOUND }, |_| {});
}

#[test]
fn a_new_that_answers_404_to_everyone_on_one_route_is_flipped() {
    let routes = |config: &mut Config| {
        config.rest = ["/refunds", "/invoices", "/usage"]
            .map(|path| {
                format!("[[route]]\nname = \"{}\"\npath = \"{path}\"\nrelease = \"billing\"\n", &path[1..])
            })
            .concat();
    };
    let worse = Service { broken: Some(("/refunds", 404)), ..SOUND };
    let trip = flips("404 on one route of four", "client_errors", seconds(30), worse, routes);
    let detail = trip["detail"].as_str().unwrap_or_default();
    assert!(detail.contains("route refunds"), "{detail}");
}

#[test]
fn a_new_that_is_a_little_slower_is_noticed_and_left_in() {
    noticed(1.15);
}

#[test]
fn a_new_that_is_slower_by_as_much_as_is_tolerated_is_noticed_and_left_in() {
    if !long() {
        return;
    }
    noticed(1.2);
}

fn noticed(slower: f64) {
    let what = format!("p50 +{:.0}%", 100.0 * (slower - 1.0));
    let _turn = turn();
    let scene = scene(SOUND, |_| {});
    let (onset, before) = (Instant::now(), scene.new.total());
    scene.new.behave(Behaviour::Service(Service { median_ms: slower * SOUND.median_ms, ..SOUND }));
    let api = scene.proxy.api();
    let took = eventually(seconds(90), "the notice level is crossed", || {
        assert!(api.trip().is_none(), "{what} is tolerated: {}", scene.proxy.said());
        (ratio(&api, "latency_notice") >= 1.0).then(|| onset.elapsed())
    });
    let requests = scene.new.total() - before;
    figure(&format!("{what}: noticed after {} ms, {requests} requests of new", took.as_millis()));
    assert_eq!(api.release()["watchdog"]["state"], "suspicious");
    left_alone(&what, seconds(3), &scene);
    drop(scene.load);
}

#[test]
fn in_report_mode_it_says_what_it_would_have_done() {
    let _turn = turn();
    // It is suspicious first, and decided later: each is an event.
    let scene = scene(SOUND, |config| config.watchdog += "\nmode = \"report\"");
    scene.new.behave(Behaviour::Service(Service { fails: 0.03, ..SOUND }));
    let told = eventually(seconds(20), "the log says what it would have done", || {
        let events = scene.proxy.events("watchdog");
        events
            .iter()
            .filter_map(|e| e["detail"].as_str())
            .find(|d| d.contains("would have"))
            .map(str::to_owned)
    });
    assert!(told.contains("new"), "{told}");
    left_alone("report only", seconds(2), &scene);
    assert!(scene.proxy.api().weight() > 0.0);
    drop(scene.load);
}

#[test]
fn users_who_differ_are_no_reason_to_flip() {
    let _turn = turn();
    let scene = scene(Service { ugly: true, ..SOUND }, |_| {});
    left_alone("some users slow, some failing always", seconds(times(6, 12)), &scene);
    drop(scene.load);
}

#[test]
fn answers_that_all_take_as_long_are_no_reason_to_flip() {
    let _turn = turn();
    let scene = scene(Service { median_ms: 20.0, spread: 0.0, fails: 0.1, ..SOUND }, |_| {});
    left_alone("20 ms for each answer, one in ten fails", seconds(times(5, 10)), &scene);
    drop(scene.load);
}

#[test]
fn testers_pinned_to_new_who_are_slow_and_fail_are_no_reason_to_flip() {
    let _turn = turn();
    let scene = scene(SOUND, |config| {
        config.release = "segments = [\"testers\"]".into();
        config.rest = "[segment.testers]\nheader = { name = \"x-plan\", equals = \"internal\" }\n".into();
    });
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for tester in 0..4 {
            let (proxy, stop) = (&scene.proxy, &stop);
            scope.spawn(move || {
                let mut client = proxy.client();
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let user = format!("tester-{tester}");
                    let headers = [("x-user-id", user.as_str()), ("x-plan", "internal"), ("x-slow", "1")];
                    let _ = client.get("/tests", &headers);
                }
            });
        }
        // Their own path is broken and slow in both versions, and only they use it.
        let broken = Service { broken: Some(("/tests", 500)), ..SOUND };
        scene.stable.behave(Behaviour::Service(broken));
        scene.new.behave(Behaviour::Service(broken));
        left_alone("four testers pinned to new, whose requests all fail", seconds(times(5, 8)), &scene);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    drop(scene.load);
}

#[test]
fn load_that_comes_and_goes_with_trouble_that_both_share_is_no_reason_to_flip() {
    let _turn = turn();
    let scene = scene(SOUND, |_| {});
    let both = |service: Service| {
        scene.stable.behave(Behaviour::Service(service));
        scene.new.behave(Behaviour::Service(service));
    };
    let api = scene.proxy.api();
    for service in [
        Service { median_ms: 20.0, ..SOUND },
        Service { fails: 0.02, ..SOUND },
        Service { median_ms: 30.0, fails: 0.05, tail: 0.02, tail_ms: 300.0, ..SOUND },
        SOUND,
    ] {
        both(service);
        // More load arrives for a while, then stops.
        let more = Load::start(scene.proxy.http, 24, Duration::from_millis(20));
        never(Duration::from_millis(2_500), &format!("new was flipped: {service:?}"), || {
            api.trip().is_some()
        });
        drop(more);
    }
    drop(scene.load);
}

#[test]
fn a_restart_forgets_no_evidence() {
    let _turn = turn();
    for hard in [false, true] {
        // So strict that nothing trips during the test.
        let mut scene = scene(SOUND, |config| config.watchdog = "errors_max = \"60%\"\nalpha = 1e-9".into());
        scene.new.behave(Behaviour::Service(Service { fails: 0.03, ..SOUND }));
        let api = scene.proxy.api();
        eventually(seconds(60), "there is evidence against new", || {
            (ratio(&api, "errors") > 0.25).then_some(())
        });
        // Enough evidence: it must not trip.
        scene.new.behave(Behaviour::Service(SOUND));
        drop(scene.load);
        // Requests in flight become final, and are written every five seconds.
        let before = eventually(seconds(20), "the evidence stands still", || {
            let before = ratio(&api, "errors");
            std::thread::sleep(Duration::from_millis(600));
            (ratio(&api, "errors") == before).then_some(before)
        });
        if hard {
            let written = || {
                std::fs::metadata(scene.world.folder().join("state/evidence-billing.bin"))
                    .and_then(|m| m.modified())
                    .ok()
            };
            let last = written();
            eventually(seconds(15), "the evidence is written again", || (written() != last).then_some(()));
            scene.proxy.kill();
        } else {
            scene.proxy.signal("TERM");
            assert!(scene.proxy.ends_within(seconds(10)).success());
        }
        let again = Proxy::start(&scene.world.config_file());
        let after = eventually(seconds(10), &format!("the evidence is there again: {before:.2}"), || {
            let after = ratio(&again.api(), "errors");
            (after >= before - 0.15).then_some(after)
        });
        figure(&format!(
            "evidence of errors before a restart (killed: {hard}) {before:.2}, after it {after:.2}"
        ));
        again.event("evidence_restored");
        assert_eq!(again.events("evidence_restored").len(), 1);
    }
}
