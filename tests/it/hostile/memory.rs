//! The memory cost of hostile clients: bounded during the attack, returned afterwards.
//!
//! The figures depend on the build under test: `GRAYLING_BINARY=target/release/grayling tests/run
//! hostile::memory`.

use super::{connect, connect_with, resident_kib, say};
use crate::rows::wire::{CONTINUATION, END_HEADERS, END_STREAM, HEADERS, Http2, RST_STREAM, block, frame};
use crate::world::{Behaviour, Config, Origin, Proxy, World, eventually, figure, long, seconds, turn};
use std::net::TcpStream;
use std::time::Duration;

struct Scene {
    proxy: Proxy,
    _origins: [Origin; 2],
    _world: World,
}

fn scene(limits: &str) -> Scene {
    let world = World::new();
    let origins = ["stable", "new"].map(Origin::start);
    origins.iter().for_each(|o| o.behave(Behaviour::AsAsked));
    let mut config = Config::new(origins[0].address, origins[1].address).upstreams("connections_max = 4096");
    config.limits = limits.into();
    config.rest = "[log]\nsample = \"0%\"\n".into();
    let proxy = world.run(&config);
    // Memory allocated once, by the first requests.
    for _ in 0..50 {
        assert_eq!(proxy.client().get_as("warm").unwrap().status, 200);
    }
    Scene { proxy, _origins: origins, _world: world }
}

impl Scene {
    /// Memory returns close to its earlier value.
    fn gives_back(&self, what: &str, before: u64, peak: u64, left_max: u64) {
        let api = self.proxy.api();
        eventually(seconds(20), "the connections end", || {
            (api.metric("grayling_connections", &[]) == Some(0.0)).then_some(())
        });
        let mut least = u64::MAX;
        let start = std::time::Instant::now();
        while least > before + left_max && start.elapsed() < seconds(20) {
            // Other requests continue: an allocator that is never called returns nothing.
            let _ = self.proxy.client().get_as("other");
            least = least.min(resident_kib(&self.proxy));
            std::thread::sleep(Duration::from_millis(20));
        }
        figure(&format!(
            "memory, {what}: {before} KiB before, at most {peak} KiB, {least} KiB {:.1} s after the end",
            start.elapsed().as_secs_f64()
        ));
        assert!(
            least <= before + left_max,
            "{what}: {before} KiB before, {peak} at most, {least} afterwards"
        );
    }
}

#[test]
fn ten_thousand_slow_connections_are_cheap_and_given_back() {
    if !long() {
        return;
    }
    let _turn = turn();
    // As many as the open files limit allows, which the test itself shares.
    let kinds: [(&str, u64, u64, &str); 5] = [
        ("idle, nothing said", 3_000, 24, ""),
        ("in mid-head", 3_000, 96, "GET / HTTP/1.1\r\nhost: a\r\nx-a:"),
        ("idle after a request", 2_000, 96, "GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        ("in mid-body", 800, 300, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\nx"),
        ("that do not read", 400, 1_500, "GET /large HTTP/1.1\r\nhost: a\r\n\r\n"),
    ];
    let scene = scene("header_timeout = \"60s\"\nbody_idle_timeout = \"60s\"");
    let start = resident_kib(&scene.proxy);
    let api = scene.proxy.api();
    let (mut all, mut before, mut peak): (Vec<TcpStream>, u64, u64) = (vec![], start, start);
    for (what, count, each_max, bytes) in kinds {
        let receive_bytes = bytes.contains("large").then_some(4096);
        for _ in 0..count {
            let stream = connect_with(scene.proxy.http, receive_bytes).expect("the proxy takes connections");
            say(&stream, bytes);
            all.push(stream);
        }
        let standing = || api.metric("grayling_connections", &[]).unwrap_or(0.0) as usize;
        eventually(seconds(20), &format!("{what}: all {} stand", all.len()), || {
            (standing() == all.len()).then_some(())
        });
        std::thread::sleep(Duration::from_millis(500)); // until all bytes are processed
        let now = resident_kib(&scene.proxy);
        let each = now.saturating_sub(before) as f64 / count as f64;
        figure(&format!("memory, {count} connections {what}: {each:.1} KiB each"));
        assert!(each < each_max as f64, "{what}: {each:.1} KiB each");
        (before, peak) = (now, peak.max(now));
    }
    drop(all);
    // Of some 230 MB: grown tables keep their size, and so do pages with any live allocation.
    scene.gives_back("9,200 slow connections", start, peak, 40_000);
}

#[test]
fn idle_http2_connections_are_cheap_and_given_back() {
    let _turn = turn();
    let scene = scene("");
    let (start, api) = (resident_kib(&scene.proxy), scene.proxy.api());
    let count = 2_000;
    let mut all: Vec<Http2> = (0..count).map(|_| Http2::connect(scene.proxy.http, &[])).collect();
    eventually(seconds(20), "they stand", || {
        (api.metric("grayling_connections", &[]) == Some(f64::from(count))).then_some(())
    });
    std::thread::sleep(Duration::from_millis(500));
    let peak = resident_kib(&scene.proxy);
    let each = (peak - start) as f64 / f64::from(count);
    figure(&format!("memory, {count} idle HTTP/2 connections: {each:.1} KiB each"));
    assert!(each < 64.0, "{each:.1} KiB each");
    all.clear();
    scene.gives_back("idle HTTP/2 connections", start, peak, 30_000);
}

#[test]
fn floods_of_frames_cost_little_and_are_given_back() {
    let _turn = turn();
    let get = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/large")];
    let head = |id: u32, flags: u8, block: &[u8]| frame(HEADERS, flags, id, block);
    let bomb = {
        // An entry of 4,000 bytes in the table, and then the entry again and again (RFC 7541 §6.1,
        // §6.2.1).
        let mut block = block(&get);
        block.extend([0x40, 1, b'a', 127, 0xa1, 0x1e]);
        block.extend(vec![b'x'; 127 + 0x21 + 0x1e * 128]);
        block.resize(16_000, 0x80 | 62);
        block
    };
    let more = block(&[("x-a", &"x".repeat(15_000))]);
    type Flood<'a> = Box<dyn Fn(&mut Http2) + Sync + 'a>;
    let floods: [(&str, Flood<'_>); 4] = [
        (
            "rapid reset",
            Box::new(|h| {
                for id in (0..20_000).map(|n| 2 * n + 1) {
                    let reset = frame(RST_STREAM, 0, id, &8u32.to_be_bytes());
                    if h.send(&[head(id, END_HEADERS | END_STREAM, &block(&get)), reset].concat()).is_err() {
                        return;
                    }
                }
            }),
        ),
        (
            "continuations",
            Box::new(|h| {
                let _ = h.send(&head(1, END_STREAM, &block(&get)));
                while h.send(&frame(CONTINUATION, 0, 1, &more)).is_ok() {}
            }),
        ),
        (
            "header bombs",
            Box::new(|h| {
                for id in (0..100).map(|n| 2 * n + 1) {
                    if h.send(&head(id, END_HEADERS | END_STREAM, &bomb)).is_err() {
                        return;
                    }
                }
            }),
        ),
        (
            "shut windows",
            Box::new(|h| {
                for id in (0..100).map(|n| 2 * n + 1) {
                    let _ = h.send(&head(id, END_HEADERS | END_STREAM, &block(&get)));
                }
                std::thread::sleep(Duration::from_millis(1_500));
            }),
        ),
    ];
    for (what, flood) in floods {
        let scene = scene("body_idle_timeout = \"1s\"");
        let (before, mut peak) = (resident_kib(&scene.proxy), 0);
        std::thread::scope(|scope| {
            let attack = || {
                let settings: &[(u16, u32)] = if what == "shut windows" { &[(4, 0)] } else { &[] };
                flood(&mut Http2::connect(scene.proxy.http, settings));
            };
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(attack)).collect();
            while threads.iter().any(|t| !t.is_finished()) {
                peak = peak.max(resident_kib(&scene.proxy));
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        drop(connect(scene.proxy.http));
        assert!(peak < before + 200_000, "{what}: from {before} to {peak} KiB");
        scene.gives_back(what, before, peak, 30_000);
    }
}
