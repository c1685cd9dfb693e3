//! `check --against` says what settings imply for the service that runs: by its own figures, under
//! traffic.

use crate::world::{
    Call, Config, Demand, Fleet, Proxy, Reply, Traffic, World, eventually, grayling, latency, seconds, turn,
};
use serde_json::Value;
use std::time::Duration;

const WAVES: [&str; 3] =
    ["weight = \"5%\", bake = \"10m\"", "weight = \"50%\", bake = \"2s\"", "weight = \"100%\""];

/// Three servers, one of which pauses each four seconds; 4% of requests fail.
fn ails(call: &Call<'_>) -> Reply {
    let (turn, into) = (call.at.as_millis() / 4_000, call.at.as_millis() % 4_000);
    if turn % 3 == call.server as u128 && into < 800 {
        return Reply::ok(Duration::from_millis(800 - into as u64));
    }
    let after = latency(call, 12.0, 0.3);
    if call.draws[2] < 0.04 { Reply::status(500, after) } else { Reply::ok(after) }
}

/// What `check FILE --against` prints of this config, and the same as JSON.
fn told(world: &World, proxy: &Proxy, config: &Config) -> (String, Value) {
    let file = world.path("config/edited.toml");
    // The ports are those that the proxy has, not those that the file asks for.
    std::fs::write(&file, config.text()).unwrap();
    let admin = format!("http://{}", proxy.admin);
    let run = |json: &[&str]| {
        let out = grayling(&[&["check", file.to_str().unwrap(), "--against", &admin], json].concat());
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    (run(&[]), serde_json::from_str(&run(&["--json"])).unwrap())
}

#[test]
fn settings_are_held_against_the_service_that_runs() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Fleet::start(3, ails), Fleet::start(1, ails));
    let mut config = Config::new(stable.addresses[0], new.addresses[0]).waves(&WAVES);
    config.waves[0] = "{ weight = \"5%\", bake = \"10m\", open = \"by-hand\" }".into();
    config.stable = stable.addresses.clone();
    config.watchdog = String::new();
    let proxy = world.run(&config);

    // Nobody has come yet.
    let (text, json) = told(&world, &proxy, &config);
    assert!(text.contains("release `billing`: nothing is known of its service: "), "{text}");
    assert!(text.contains("its 3 waves take 20 min at least; of 500 requests/s"), "{text}");
    assert_eq!(json["releases"][0]["figures"], "example");

    let _traffic = Traffic::start(proxy.http, Demand { per_second: 400.0, users: 4_000, heavy: None });
    let (text, json) = eventually(seconds(120), "stable is known, with its pauses", || {
        let (text, json) = told(&world, &proxy, &config);
        let n = json["releases"][0]["pauses"]["slow"]["n"].as_u64().unwrap_or(0);
        if n < 3 {
            std::thread::sleep(Duration::from_millis(500));
        }
        (n >= 3).then_some((text, json))
    });
    println!("{text}");
    println!("{json:#}");
}
