//! slowhttptest in its four modes, a thousand connections each, while others are served.

use super::run;
use crate::world::{Config, Origin, RELEASE, World, eventually, figure, long, seconds, turn};
use std::time::{Duration, Instant};

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_slow_connections_of_every_kind_end_at_the_deadlines_and_nobody_else_notices() {
    if !long() {
        return;
    }
    let _turn = turn();
    let (world, stable, new) = (World::new(), Origin::start("stable"), Origin::start(&"n".repeat(300_000)));
    let mut config = Config::new(stable.address, new.address).weight("50%");
    config.limits = "header_timeout = \"1s\"\nbody_idle_timeout = \"1s\"\nkeepalive_timeout = \"2s\"".into();
    config.upstreams = "connections_max = 2000".into();
    let proxy = world.run(&config);
    let in_new = &crate::world::users_in_new("user", 50, 1)[0];
    let url = format!("http://{}/", proxy.http);
    // A head that never ends; a body that never ends; overlapping ranges; a response that is read a
    // few bytes a second.
    let ways: [(&str, Vec<&str>); 4] = [
        ("slowloris", vec!["-H", "-i", "10"]),
        ("slow body", vec!["-B", "-s", "8192", "-i", "10"]),
        ("ranges", vec!["-R", "-t", "GET"]),
        ("slow read", vec!["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "32", "-k", "1"]),
    ];
    for (what, how) in ways {
        let before = resident_kib(proxy.pid());
        let fixed = ["-c", "1000", "-r", "1000", "-l", "5", "-p", "2", "-u", &url, "-j", "x"];
        let arguments: Vec<String> = how.iter().chain(&fixed[..10]).map(|a| a.to_string()).collect();
        let attack = std::thread::spawn(move || run("slowhttptest", arguments));
        let (mut latencies, mut most, mut connections) = (Vec::new(), before, 0.0f64);
        let mut client = proxy.client();
        while !attack.is_finished() {
            let asked = Instant::now();
            let answer = client.get_as(in_new);
            let answer = answer.or_else(|_| client.get_as(in_new)).expect("others are served"); // kept alive for two seconds
            assert_eq!(answer.status, 200, "{what}");
            latencies.push(asked.elapsed());
            most = most.max(resident_kib(proxy.pid()));
            connections = connections.max(proxy.api().metric("grayling_connections", &[]).unwrap_or(0.0));
            std::thread::sleep(Duration::from_millis(20)); // the pace of an ordinary user
        }
        let said = attack.join().unwrap();
        eventually(seconds(10), "the slow ones have been ended", || {
            (proxy.api().metric("grayling_connections", &[]).unwrap_or(0.0) <= 2.0).then_some(())
        });
        latencies.sort();
        let p99 = latencies[latencies.len() * 99 / 100];
        figure(&format!(
            "slowhttptest, {what}: at most {connections} connections, {} others served, p99 {} ms, {} MiB more memory",
            latencies.len(),
            p99.as_millis(),
            most.saturating_sub(before) / 1024
        ));
        // Ranges are not slow: the origin ignores them, and all have their response at once.
        assert!(
            connections >= 300.0 || what == "ranges",
            "{what}: the attack has not taken place: {}",
            said.text
        );
        // Without slowness it ends soon.
        assert!(latencies.len() >= 10 && p99 < seconds(2), "{what}: {latencies:?}");
        assert!(most - before < 300 * 1024, "{what}: {} KiB more", most - before);
        assert!(proxy.api().trip().is_none(), "{what}");
    }
    for outcome in ["server_error", "connect_error", "timeout", "reset", "truncated", "saturated"] {
        let labels = [("outcome", outcome), ("release", RELEASE)];
        assert_eq!(proxy.api().metric("grayling_requests_total", &labels).unwrap_or(0.0), 0.0, "{outcome}");
    }
}
