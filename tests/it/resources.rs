//! Resource use of the two versions, with the real binary: the responses stay correct while the CPU
//! time rises, and that is sufficient.

use crate::world::{
    Admin, Browser, Config, Load, Origin, Proxy, World, eventually, grayling, never, seconds, turn,
};
use serde_json::{Value, json};
use std::time::Duration;

/// All gates of waves except resources pass soon, and the timing of a busy machine causes no trip.
/// Margins that the noise of a busy machine does not reach: these tests are on resources.
const EASY: &str = "margin_errors = \"20%\"\nmargin_latency = \"90%\"\nlatency_notice = \"100%\"\nlatency_tolerance = \"100%\"\nlatency_floor = \"100ms\"\nmargin_latency_tail = \"100%\"";

struct Scene {
    _stable: Origin,
    new: Origin,
    proxy: Proxy,
    world: World,
    _load: Load,
}

/// `limits`: those of the resource.
fn scene(config: impl FnOnce(Config) -> Config, limits: &str) -> Scene {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    [&stable, &new].iter().for_each(|origin| origin.cost(0.010));
    let mut config = config(Config::new(stable.address, new.address).watchdog(EASY));
    for (name, origin) in [("v1", &stable), ("v2", &new)] {
        config.rest +=
            &format!("[upstream.{name}.resources]\nscrape = \"http://{}/metrics\"\n", origin.address);
    }
    config.rest += &format!(
        "[[release.billing.resource]]\nname = \"cpu\"\nreading = \"rate(process_cpu_seconds_total) / rate(http_requests_total)\"\n\
         in_a_row = 3\n{limits}\n"
    );
    let config = config.release("resource_interval = \"1s\"");
    let proxy = world.run(&config);
    let load = Load::start(proxy.http, 4, Duration::from_millis(5));
    Scene { _stable: stable, new, proxy, world, _load: load }
}

fn resource(api: &Admin) -> Value {
    api.release()["resources"][0].clone()
}

fn comes_to(api: &Admin, verdict: &str) -> Value {
    eventually(seconds(60), &format!("resource is {verdict}"), || {
        Some(resource(api)).filter(|r| r["verdict"] == verdict)
    })
}

#[test]
fn a_version_that_uses_more_while_its_answers_stay_right_is_taken_out_and_the_record_says_why() {
    let _turn = turn();
    let scene = scene(|config| config.weight("30%"), "times_stable_max = 1.5\non = \"trip\"");
    let api = scene.proxy.api();
    let within = comes_to(&api, "pass");
    let near = |value: &Value| value.as_f64().is_some_and(|v| (v - 0.01).abs() < 1e-3);
    assert!(near(&within["new"]["mean"]) && near(&within["stable"]["mean"]), "{within:#}");
    assert!(api.trip().is_none());

    scene.new.cost(0.030);
    let trip = eventually(seconds(60), "it is taken out", || api.trip());
    assert_eq!(
        [&trip["cause"], &trip["actor"], &trip["evidence"]["resource"]],
        ["resource", "watchdog", "cpu"]
    );
    assert!(trip["detail"].as_str().unwrap().contains("at most 1.5 times stable"), "{trip:#}");
    let readings = trip["evidence"]["grounds"]["resource"]["readings"].as_array().unwrap().clone();
    assert_eq!(readings.len(), 3);
    // A part of the first of the three may be from the time before.
    assert!(readings.iter().all(|r| r[0][0].as_f64() > Some(0.015)), "{readings:?}");
    let release = api.release();
    assert_eq!([&release["state"], &release["arms"]["new"]["failures"]], [&json!("rolled_back"), &json!(0)]);
    assert_eq!(api.metric("grayling_rollbacks_total", &[("cause", "resource")]), Some(1.0));

    // The page shows the same.
    let browser = Browser::start(scene.world.folder());
    browser.open(&format!("http://{}/#/resources", scene.proxy.admin));
    let told = browser.reads("table.resources", "at most 1.5 × stable");
    assert!(told.contains("taken out by the watchdog") && told.contains("0.01"), "{told}");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(browser);

    // `ledger --verify` recomputes the same verdict, and detects a forged reading.
    let state = scene.world.path("state");
    drop(scene.proxy);
    let verify = || grayling(&["ledger", "--verify", "--state", state.to_str().unwrap()]);
    let sound = verify();
    assert_eq!(sound.status.code(), Some(0), "{}", String::from_utf8_lossy(&sound.stdout));
    assert!(
        String::from_utf8_lossy(&sound.stdout).contains("1 found again"),
        "{}",
        String::from_utf8_lossy(&sound.stdout)
    );
    let file = state.join("ledger.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"on\":\"trip\"", "\"on\":\"hold\"", 1)).unwrap();
    let forged = verify();
    let told = String::from_utf8_lossy(&forged.stdout).into_owned();
    assert_ne!(forged.status.code(), Some(0), "{told}");
    assert!(told.contains("does not follow from its evidence"), "{told}");
}

/// The first wave is one of testers, so that no gate but resources depends on the speed of this
/// machine.
#[test]
fn a_wave_holds_while_new_uses_more_and_while_nobody_knows() {
    let _turn = turn();
    // Spread over the calls of one thread, so that each reading has one.
    let testers: Vec<String> = (0..500).step_by(20).map(|n| format!("\"user-0-{n}\"")).collect();
    let waves =
        ["segments = [\"testers\"], bake = \"1s\", requests_min = 20", "weight = \"20%\", bake = \"1h\""];
    let with = |mut config: Config| {
        config.rest = format!("[segment.testers]\nusers = [{}]\n", testers.join(", "));
        config.waves(&waves)
    };
    let scene = scene(with, "ceiling = 0.02\non = \"hold\"");
    let api = scene.proxy.api();
    scene.new.cost(0.030);
    let gate = |verdict: &str, told: &str| {
        eventually(seconds(60), &format!("the gate of resources says {verdict}: {told}"), || {
            let gates = api.release()["gates"].as_array()?.clone();
            let gate = gates.into_iter().find(|g| g["name"] == "resources")?;
            (gate["verdict"] == verdict && gate["detail"].as_str()?.contains(told)).then_some(())
        });
    };
    gate("fail", "over it in 3 readings in a row");
    eventually(seconds(60), "it is held by resources alone", || {
        let held = api.release()["progress"]["missing"].as_array()?.clone();
        held.iter().any(|m| m.as_str().is_some_and(|m| m.starts_with("resources: "))).then_some(())
    });
    assert!(api.trip().is_none() && api.weight() == 0.0, "{:#}", api.release());
    let text = grayling(&["status", "--admin", &format!("http://{}", scene.proxy.admin)]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("over it in 3 readings in a row") && text.contains("100% of a hold"), "{text}");

    // A signal that only holds is not shown as progress towards a rollback.
    let evidence = |signal: &str| api.metric("grayling_watchdog_evidence_ratio", &[("signal", signal)]);
    assert_eq!((evidence("resource_hold"), evidence("resource")), (Some(1.0), None));
    let browser = Browser::start(scene.world.folder());
    browser.open(&format!("http://{}/", scene.proxy.admin));
    let told = browser.reads(".answers", "It uses more than it may: cpu");
    assert!(!told.contains("100% of the way") && told.contains("nothing is taken out"), "{told}");
    browser.open(&format!("http://{}/#/resources", scene.proxy.admin));
    browser.reads("table.resources .verdict", "over");

    // Its metrics are gone: that is no reason to open.
    scene.new.tell_no_cost();
    gate("inconclusive", "new unknown");
    let lack = resource(&api)["new"]["lack"].clone();
    assert!(lack.as_str().unwrap().contains("there is no series"), "{lack}");
    browser.reads("table.resources .verdict", "not known");
    browser.reads("table.resources", "there is no series");
    assert_eq!(browser.complaints(), Vec::<String>::new());
    drop(browser);
    let labels = [("arm", "new"), ("resource", "cpu")];
    assert_eq!(api.metric("grayling_resource_known", &labels), Some(0.0));
    assert_eq!(api.metric("grayling_resource_reading", &labels), None);
    never(seconds(3), "it opened on silence", || api.weight() != 0.0);

    // It is fixed: the wave opens, and the ledger has the readings.
    scene.new.cost(0.010);
    eventually(seconds(90), "the next wave is open", || (api.release()["weight"] == 20.0).then_some(()));
    let ledger = api.ledger();
    let open = ledger.iter().rfind(|e| e["evidence"]["gates"]["decision"] == "open").unwrap();
    grayling::store::audit::gate_evidence::recompute(&open["evidence"]).unwrap();
    let used = &open["evidence"]["gates"]["input"]["proof"]["resources"][0]["readings"];
    assert_eq!(used.as_array().map(Vec::len), Some(3), "{open:#}");
}
