//! Critical routes: a wave waits for the evidence of each of them, and reports how long.

use super::{all_recomputed, comes_to, gate};
use crate::world::{Behaviour, Config, Load, Origin, Service, World, eventually, grayling, seconds, turn};
use serde_json::json;
use std::time::Duration;

const SOUND: Service =
    Service { median_ms: 8.0, spread: 0.3, tail: 0.0, tail_ms: 0.0, fails: 0.0, ugly: false, broken: None };

#[test]
fn a_wave_waits_for_a_critical_route_and_a_person_may_skip_it() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    [&stable, &new].iter().for_each(|origin| origin.behave(Behaviour::Service(SOUND)));
    let waves = ["weight = \"20%\", bake = \"2s\"", "weight = \"50%\", bake = \"2s\""];
    let mut config = Config::new(stable.address, new.address)
        .waves(&waves)
        .watchdog("margin_errors = \"1%\"\nmargin_latency = \"90%\"\nmargin_latency_tail = \"100%\"\nlatency_tolerance = \"100%\"")
        .release("critical = [\"refunds\"]");
    config.rest = "[[route]]\nname = \"refunds\"\npath = \"/refunds\"\nrelease = \"billing\"\n".into();
    let proxy = world.run(&config);
    // One request in two hundred.
    let load = Load::start_with(proxy.http, 48, Duration::from_millis(25), |client, user| {
        let rare = user.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b))) % 200 == 0;
        client.get(if rare { "/refunds" } else { "/accounts" }, &[("x-user-id", user)])
    });
    let api = proxy.api();
    comes_to(&api, seconds(30), "20%", "progressing", 20.0);
    eventually(seconds(120), "all requests have shown that they fail no more often", || {
        (gate(&api, "errors").as_deref() == Some("pass")).then_some(())
    });
    let release = api.release();
    assert_eq!(
        (release["wave"].as_str(), gate(&api, "errors:refunds").as_deref()),
        (Some("20%"), Some("inconclusive"))
    );
    let gates = release["gates"].as_array().cloned().unwrap_or_default();
    let of_route = gates.iter().find(|g| g["name"] == "errors:refunds").expect("it is told");
    assert!(of_route["needs_requests"].as_u64().is_some_and(|n| n > 100), "{of_route}");
    let slowest = release["progress"]["slowest"].as_str().unwrap_or_default();
    assert!(slowest.contains(":refunds, about "), "{slowest}");
    let status = grayling(&["status", "--admin", &format!("http://{}", proxy.admin)]);
    let told = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(told.contains("  slowest   ") && told.contains("errors:refunds"), "{told}");

    let ask = |despite: &str| {
        let body = json!({"reason": "seen by hand", "wave": "50%", "despite": [despite]});
        api.try_post("promote", &body).expect("the admin answers")
    };
    let unknown = ask("errors:refund");
    assert_eq!(unknown.status, 400, "{}", unknown.text());
    assert!(unknown.text().contains("`errors:refunds`"), "{}", unknown.text());
    let opened = ask("errors:refunds");
    assert_eq!(opened.status, 200, "{}", opened.text());
    let ledger = api.ledger();
    let entry = ledger.iter().find(|e| e["kind"] == "promote").expect("the ledger has it");
    let skipped = entry["evidence"]["skipped"].as_array().cloned().unwrap_or_default();
    assert!(skipped.iter().any(|gate| gate == "errors:refunds"), "{entry:#}");
    assert!(all_recomputed(&ledger) >= 2);
    drop(load);
}
