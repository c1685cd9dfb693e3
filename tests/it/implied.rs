//! `check --against` says what settings imply for the service that runs: by its own figures, under
//! traffic.

use crate::world::{
    Call, Config, Demand, Fleet, Proxy, Reply, Traffic, World, eventually, figure, grayling, latency,
    seconds, turn,
};
use serde_json::Value;
use std::time::Duration;

const WAVES: [&str; 3] =
    ["weight = \"5%\", bake = \"12h\"", "weight = \"50%\", bake = \"2s\"", "weight = \"100%\""];

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
    config.waves[0] = "{ weight = \"5%\", bake = \"12h\", open = \"by-hand\" }".into();
    config.stable = stable.addresses.clone();
    config.watchdog = String::new();
    let proxy = world.run(&config);

    // Nobody has come yet.
    let (text, json) = told(&world, &proxy, &config);
    assert!(text.contains("release `billing`: nothing is known of its service: "), "{text}");
    assert!(text.contains("its 3 waves take 12.2 h at least; of 500 requests/s"), "{text}");
    assert_eq!(json["releases"][0]["figures"], "example");

    let _traffic = Traffic::start(proxy.http, Demand::steady(400.0, 4_000));
    let (text, json) = eventually(seconds(120), "stable is known, with its pauses", || {
        let (text, json) = told(&world, &proxy, &config);
        let n = json["releases"][0]["pauses"]["slow"]["n"].as_u64().unwrap_or(0);
        if n < 3 {
            std::thread::sleep(Duration::from_millis(500));
        }
        (n >= 3).then_some((text, json))
    });
    let lines: Vec<&str> = text.lines().collect();
    let starts = |begins: &str| {
        let line = lines.iter().find(|line| line.trim_start().starts_with(begins));
        *line.unwrap_or_else(|| panic!("{begins}: {text}"))
    };
    assert!(starts("release `billing`: ").contains(" requests/s; of stable "), "{text}");
    let aside = starts("ceilings  errors_max 2% does not fit: stable itself fails ");
    assert!(
        aside.contains("so the default is set aside") && aside.contains("latency_p99_max 2 s fits"),
        "{text}"
    );
    let status = proxy.api().status();
    let unfit = status.pointer("/releases/0/watchdog/unfit/0").and_then(Value::as_str).unwrap_or_default();
    assert!(unfit.starts_with("errors_max is set aside: it is a default, and stable"), "{status:#}");
    let pauses = starts("pauses    servers of stable pause: ");
    assert!(
        pauses.contains(" spells in the last ") && pauses.contains("; spells of new of up to "),
        "{text}"
    );
    assert!(
        starts("wave 1 (5%): 12.0 h (bake); its bake finds failures from ").contains(" and slowdowns from ")
    );
    assert!(starts("wave 2 (50%): at least ").contains("; bake 2.0 s; its bake finds "), "{text}");
    assert_eq!(starts("wave 3 (100%)"), "  wave 3 (100%): 10 min (bake); no control: ceilings only");
    assert!(lines.len() <= 9, "a summary, four lines a release, one a wave, one of changes: {text}");
    figure(&format!("check --against:\n{text}"));

    // The same as JSON.
    let release = &json["releases"][0];
    let near = |at: &str, low: f64, high: f64| {
        let value = release.pointer(at).and_then(Value::as_f64).unwrap_or(f64::NAN);
        assert!((low..high).contains(&value), "{at}: {value} in {release:#}");
    };
    assert_eq!(
        (&release["figures"], &release["ceilings"][0]["verdict"]),
        (&"service".into(), &"set_aside".into())
    );
    near("/rate", 50.0, 500.0);
    near("/failing_ratio", 0.02, 0.06);
    near("/ceilings/0/own_ratio", 0.016, 0.06);
    near("/pauses/slow/longest_s", 0.0, 2.0);
    // As much again by half and a quarter of a second, and half a second at least.
    let longest = release["pauses"]["slow"]["longest_s"].as_f64().unwrap_or_default();
    let excused = f64::max(1.5 * longest + 0.25, 0.5);
    near("/pauses/slow/excused_s", excused - 0.001, excused + 0.001);
    near("/waves/0/found_failing_ratio", 0.03, 0.1);

    // A ceiling that is stated is raised, and one that fits is left.
    config.watchdog = "errors_max = \"1%\"".into();
    let (text, _) = told(&world, &proxy, &config);
    assert!(
        text.contains("errors_max 1% does not fit: ") && text.contains(", twice stable's own share"),
        "{text}"
    );
    config.watchdog = "errors_max = \"20%\"\nlatency_p99_max = \"3s\"".into();
    let (text, _) = told(&world, &proxy, &config);
    assert!(text.contains("errors_max 20% fits") && text.contains("is learnt from the reload on"), "{text}");

    // A wave shows what users repeat, and what was learnt before it stays.
    config.watchdog = String::new();
    assert_eq!(proxy.api().promote("5%", "a test").status, 200);
    let (text, json) = eventually(seconds(60), "the wave has shown enough", || {
        let (text, json) = told(&world, &proxy, &config);
        std::thread::sleep(Duration::from_millis(500));
        (json["releases"][0]["of_wave"] == true).then_some((text, json))
    });
    assert!(text.contains("\n  wave 2 (50%): about "), "{text}");
    assert_eq!(json["releases"][0]["ceilings"][0]["verdict"], "set_aside", "{text}");
}
