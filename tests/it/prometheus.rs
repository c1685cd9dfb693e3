//! A real Prometheus scrapes the real binary with the shipped rules: all names in rules and
//! dashboard are served, and an alert fires on a rollback.

use crate::world::{Behaviour, Client, Config, Load, Origin, World, eventually, not_tested, seconds, turn};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn shipped(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of metrics in a text, as they are scraped.
fn names(text: &str) -> BTreeSet<String> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = text.match_indices("grayling_").filter(|(at, _)| !text[..*at].ends_with(is_word));
    starts.map(|(at, _)| text[at..].chars().take_while(|c| is_word(*c)).collect()).collect()
}

fn expressions(of: &Value, found: &mut Vec<String>) {
    match of {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| match (key.as_str(), value) {
            ("expr" | "definition", Value::String(text)) => found.push(text.clone()),
            _ => expressions(value, found),
        }),
        Value::Array(list) => list.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

struct Prometheus(Child, SocketAddr);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Prometheus {
    fn start(world: &World, admin: SocketAddr) -> Prometheus {
        // As shipped, except for the address and the interval.
        let config = shipped("prometheus/prometheus.yml")
            .replace("127.0.0.1:9900", &admin.to_string())
            .replace("5s", "1s");
        Prometheus::start_at(world, Prometheus::free_address(), &config)
    }

    fn free_address() -> SocketAddr {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn start_at(world: &World, address: SocketAddr, config: &str) -> Prometheus {
        std::fs::write(world.path("rules.yml"), shipped("prometheus/rules.yml")).unwrap();
        let file = world.path("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", world.path("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it was there just now");
        let up = Prometheus(child, address);
        eventually(seconds(60), "Prometheus is ready", || {
            Client::new(address).get("/-/ready", &[]).ok().filter(|a| a.status == 200)
        });
        up
    }

    fn json(&self, path: &str) -> Option<Value> {
        let answer = Client::new(self.1).get(path, &[]).ok().filter(|a| a.status == 200)?;
        serde_json::from_str(&answer.text()).ok()
    }
}

fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !here {
        not_tested(&format!("{program}: Debian's package prometheus has it (tests/run installs it)"));
    }
    here
}

#[test]
fn an_alert_fires_on_a_rollback_and_what_rules_and_dashboard_name_is_served() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    [&stable, &new].iter().for_each(|origin| origin.cost(0.01));
    let receiver = Origin::start("receiver");
    let waves = ["weight = \"30%\", bake = \"1h\", requests_min = 1", "weight = \"100%\""];
    let mut config = Config::new(stable.address, new.address).waves(&waves);
    config.rest = format!(
        "[alert.oncall]\nalertmanager = \"http://{}\"\n[upstream.v1.resources]\nscrape = \"http://{}/metrics\"\n[upstream.v2.resources]\nscrape = \"http://{}/metrics\"\n\
         [[release.billing.resource]]\nname = \"cpu\"\nreading = \"process_cpu_seconds_total\"\nceiling = 1e9\n",
        receiver.address, stable.address, new.address
    );
    let proxy = world.run(&config);
    let _load = Load::start(proxy.http, 4, Duration::from_millis(5));
    let api = proxy.api();
    eventually(seconds(60), "the first wave is open", || (api.release()["weight"] == 30.0).then_some(()));
    new.behave(Behaviour::Status(500, 1.0));
    eventually(seconds(60), "it is taken out", || api.trip());

    // Every name, even if Prometheus is not installed.
    let dashboard: Value = serde_json::from_str(&shipped("grafana/grayling.json")).unwrap();
    let mut asked = vec![];
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 15, "{asked:?}");
    let rules = shipped("prometheus/rules.yml");
    let rules: Vec<&str> = rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let named = &names(&asked.join("\n")) | &names(&rules.join("\n"));
    eventually(seconds(60), "what rules and dashboard name is served", || {
        let page = Client::new(proxy.admin).get("/metrics", &[]).unwrap().text();
        let served = names(&page.lines().filter(|l| !l.starts_with('#')).collect::<Vec<_>>().join("\n"));
        let missing: Vec<_> = named.difference(&served).collect();
        if !missing.is_empty() {
            println!("not served: {missing:?}");
        }
        missing.is_empty().then_some(())
    });

    if !is_here("prometheus") {
        return;
    }
    let prometheus = Prometheus::start(&world, proxy.admin);
    eventually(seconds(60), "the alert fires", || {
        let alerts = prometheus.json("/api/v1/alerts")?;
        let mut alerts = alerts["data"]["alerts"].as_array()?.clone().into_iter();
        alerts.find(|a| a["labels"]["alertname"] == "GraylingRolledBack" && a["state"] == "firing")
    });
    let rules = prometheus.json("/api/v1/rules").unwrap();
    let groups = rules["data"]["groups"].as_array().unwrap();
    let all: Vec<&Value> = groups.iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(all.len() > 10 && all.iter().all(|rule| rule["health"] != "err"), "{all:#?}");
    // Another rollback, after requests of `new`, which Prometheus observes; it appears as an
    // annotation in the graphs.
    new.behave(Behaviour::Answer);
    let before = new.total();
    assert_eq!(api.resume("rollback", "a test").status, 200);
    eventually(seconds(60), "new is asked again", || (new.total() >= before + 20).then_some(()));
    assert_eq!(api.change("rollback", "a test").status, 200);
    // The dashboard's queries are valid PromQL, and have a result, so that no panel is empty.
    for text in asked.iter().filter(|text| !text.starts_with("label_values")) {
        let query =
            text.replace("$release", ".*").replace("$instance", ".*").replace("$__rate_interval", "10s");
        let encoded: String = query.bytes().map(|b| format!("%{b:02x}")).collect();
        eventually(seconds(30), &format!("Prometheus answers {text}"), || {
            let answer = prometheus.json(&format!("/api/v1/query?query={encoded}")).expect("it is PromQL");
            answer["data"]["result"].as_array().is_some_and(|found| !found.is_empty()).then_some(())
        });
    }
}

/// Resource use from a Prometheus server that scrapes both versions, by PromQL, through a real one.
#[test]
fn a_resource_is_asked_of_a_real_prometheus_and_takes_out_a_version_that_uses_more() {
    if !is_here("prometheus") {
        return;
    }
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    [&stable, &new].iter().for_each(|origin| origin.cost(0.010));
    let address = Prometheus::free_address();
    let used = |version: &str| {
        format!(
            "sum(rate(process_cpu_seconds_total{{version=\\\"{version}\\\"}}[5s])) / sum(rate(http_requests_total{{version=\\\"{version}\\\"}}[5s]))"
        )
    };
    let mut config = Config::new(stable.address, new.address)
        .weight("30%")
        .release("resource_interval = \"1s\"")
        .watchdog("latency_tolerance = \"100%\"\nlatency_floor = \"100ms\"");
    config.rest = format!(
        "[[release.billing.resource]]\nname = \"cpu\"\nprometheus = \"http://{address}\"\nnew = \"{}\"\nstable = \"{}\"\ntimes_stable_max = 1.5\nin_a_row = 3\non = \"trip\"\n",
        used("v2"),
        used("v1")
    );
    // The proxy first: without a Prometheus the use is unknown, and no reason for a rollback.
    let proxy = world.run(&config);
    let _load = Load::start(proxy.http, 4, Duration::from_millis(5));
    let api = proxy.api();
    let resource = || api.release()["resources"][0].clone();
    eventually(seconds(30), "nobody answers", || {
        resource()["new"]["lack"].as_str().is_some_and(|lack| lack.contains("no connection")).then_some(())
    });
    let scrape = |version: &str, origin: &Origin| {
        format!("      - targets: [\"{}\"]\n        labels: {{ version: {version} }}\n", origin.address)
    };
    let scrapes = format!(
        "global:\n  scrape_interval: 1s\nscrape_configs:\n  - job_name: billing\n    static_configs:\n{}{}",
        scrape("v1", &stable),
        scrape("v2", &new)
    );
    let prometheus = Prometheus::start_at(&world, address, &scrapes);
    let near =
        |value: &Value, wanted: f64| value.as_f64().is_some_and(|v| (v - wanted).abs() < wanted / 10.0);
    eventually(seconds(60), "both are within it", || {
        let r = resource();
        (r["verdict"] == "pass" && near(&r["new"]["mean"], 0.01) && near(&r["stable"]["mean"], 0.01))
            .then_some(())
    });
    assert!(api.trip().is_none());

    new.cost(0.030);
    let trip = eventually(seconds(60), "it is taken out", || api.trip());
    assert_eq!([&trip["cause"], &trip["evidence"]["resource"]], ["resource", "cpu"]);
    assert_eq!(api.release()["arms"]["new"]["failures"], 0);

    // Without traffic or without Prometheus, the use is unknown.
    eventually(seconds(60), "nobody is in new: no rate, or none that is a number", || {
        (api.metric("grayling_resource_known", &[("arm", "new")]) == Some(0.0)).then_some(())
    });
    drop(prometheus);
    eventually(seconds(30), "neither is known", || {
        (api.metric("grayling_resource_known", &[("arm", "stable")]) == Some(0.0)).then_some(())
    });
}

#[test]
fn promtool_finds_no_fault_in_what_ships_nor_in_what_is_served() {
    if !is_here("promtool") {
        return;
    }
    let run = |arguments: &[&str], input: Option<&str>| {
        let mut child = Command::new("promtool")
            .args(arguments)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, input.unwrap_or_default().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    };
    run(&["check", "config", "config/prometheus/prometheus.yml"], None);
    run(&["test", "rules", "tests/data/prometheus_rules_test.yml"], None);
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address));
    Client::new(proxy.http).get_as("somebody").unwrap();
    let page = Client::new(proxy.admin).get("/metrics", &[]).unwrap().text();
    run(&["check", "metrics"], Some(&page));
}
