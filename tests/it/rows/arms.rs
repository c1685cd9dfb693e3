//! Rows 27 to 33a and 43 to 45: arms that are unreachable, slow, full; the admin port; bounded
//! growth, and no leaks.

use super::{OK, RawOrigin, Scene, Script, Then, Wire, get, lines, post};
use crate::world::{RELEASE, Series, World, eventually, raw, seconds, times};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A closed port.
fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn of_arm(scene: &Scene, arm: &str, outcome: &str) -> f64 {
    scene.proxy.api().metric("grayling_requests_total", &[("arm", arm), ("outcome", outcome)]).unwrap_or(0.0)
}

#[test]
fn row_27_a_new_that_cannot_be_connected_to_is_one_connect_error_and_nothing_of_stable() {
    let scene = Scene::with(|config| config.new = vec![closed_port(), closed_port()]);
    assert_eq!(scene.send(post("content-length: 5\r\n", "hello")).status, 200);
    assert_eq!(lines(&scene.stable.last(), "x-grayling-arm"), ["x-grayling-arm: stable"]);
    assert_eq!((of_arm(&scene, "new", "connect_error"), of_arm(&scene, "stable", "ok")), (1.0, 0.0));
    assert_eq!(scene.stable.requests().len(), 1);

    let reads = Scene::with(|config| {
        config.new = vec![closed_port()];
        config.release = "on_unreachable = \"reads\"".into();
    });
    assert_eq!(reads.send(post("content-length: 5\r\n", "hello")).status, 502);
    assert_eq!(reads.send(get("")).status, 200);
    assert_eq!(reads.stable.requests().len(), 1);
}

#[test]
fn row_27_another_server_of_new_is_tried_before_stable() {
    let second = RawOrigin::start();
    let scene = Scene::with(|config| config.new = vec![closed_port(), second.address]);
    for _ in 0..10 {
        assert_eq!(scene.send(get("")).status, 200);
    }
    assert_eq!((second.requests().len(), scene.stable.requests().len()), (10, 0));
    scene.nobody_is_blamed();
}

/// An origin that takes a request and then calls `does`; counts the requests.
pub fn origin_that(does: impl Fn(&mut TcpStream) + Send + Sync + Copy + 'static) -> Once {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = requests.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let count = count.clone();
            std::thread::spawn(move || {
                if let Ok(1..) = stream.read(&mut [0; 4096]) {
                    count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    does(&mut stream);
                }
            });
        }
    });
    Once { address, requests }
}

pub struct Once {
    pub address: SocketAddr,
    requests: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Once {
    pub fn count(&self) -> usize {
        self.requests.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[test]
fn row_28_what_breaks_after_a_byte_was_sent_is_502_and_is_never_sent_again() {
    let origin = origin_that(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 O");
    });
    let scene = Scene::with(|config| config.new = vec![origin.address]);
    for _ in 0..5 {
        assert_eq!(scene.send(post("content-length: 5\r\n", "hello")).status, 502);
    }
    assert_eq!((origin.count(), scene.stable.requests().len()), (5, 0));
    scene.counts("reset", 5.0);
}

#[test]
fn row_29_a_pooled_connection_that_the_upstream_has_closed_is_nobodys_fault() {
    let scene = Scene::start();
    scene.new.follows(Script { pieces: vec![OK.into()], then: Then::Close });
    for n in 0..30 {
        assert_eq!(scene.send(get("")).status, 200);
        // Sometimes the close is seen before the next request, sometimes not.
        std::thread::sleep(Duration::from_millis(n % 3));
    }
    assert_eq!(scene.new.requests().len(), 30);
    scene.nobody_is_blamed();
}

#[test]
fn row_30_an_upstream_too_slow_for_the_head_is_504_and_one_that_stalls_in_the_body_is_closed() {
    let silent = origin_that(|stream| while let Ok(1..) = stream.read(&mut [0; 64]) {});
    let times = "response_timeout = \"300ms\"\nidle_timeout = \"300ms\"";
    let scene = Scene::with(|config| {
        config.new = vec![silent.address];
        config.upstreams = times.into();
    });
    assert_eq!(scene.send(get("")).status, 504);
    scene.counts("timeout", 1.0);

    let stalls = origin_that(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
    });
    let scene = Scene::with(|config| {
        config.new = vec![stalls.address];
        config.upstreams = times.into();
    });
    let mut wire = scene.connect();
    wire.send(get(""));
    assert_eq!(wire.told_head().status, 200);
    assert_eq!(wire.read_some(), b"half");
    assert!(wire.is_closed());
    scene.counts("timeout", 1.0);
}

#[test]
fn row_32_a_client_that_aborts_cancels_a_get_and_not_a_post_that_was_received_whole() {
    let slow = origin_that(|stream| {
        std::thread::sleep(Duration::from_millis(400));
        let _ = stream.write_all(OK.as_bytes());
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
    });
    let scene = Scene::with(|config| config.new = vec![slow.address]);
    let mut wire = scene.connect();
    wire.send(get(""));
    eventually(seconds(5), "the GET is at the origin", || (slow.count() == 1).then_some(()));
    drop(wire);
    scene.counts("cancelled", 1.0);
    let mut wire = scene.connect();
    wire.send(post("content-length: 5\r\n", "hello"));
    eventually(seconds(5), "the POST is at the origin", || (slow.count() == 2).then_some(()));
    drop(wire);
    scene.counts("ok", 1.0);
    eventually(seconds(5), "both are logged as the client's end", || {
        let told = scene.proxy.events("request");
        told.iter().map(|e| &e["status"]).eq([499, 499].iter()).then_some(())
    });
    scene.nobody_is_blamed();
}

#[test]
fn row_33_more_connections_than_allowed_are_503_with_retry_after_and_the_admin_still_answers() {
    let scene = Scene::with(|config| config.limits = "connections = 16".into());
    let mut held: Vec<Wire> = (0..16).map(|_| scene.connect()).collect();
    for wire in &mut held {
        wire.send(get(""));
        assert_eq!(wire.told().status, 200);
    }
    let told = scene.connect().told();
    assert_eq!((told.status, told.header("retry-after")), (503, Some("1")));
    assert_eq!(scene.proxy.api().get("/livez").status, 200);
    held.clear();
    eventually(seconds(5), "there is room again", || (scene.send(get("")).status == 200).then_some(()));
    scene.nobody_is_blamed();
}

#[test]
fn row_33_more_requests_in_flight_than_allowed_are_503_with_retry_after_and_blame_nobody() {
    let silent = origin_that(|stream| while let Ok(1..) = stream.read(&mut [0; 64]) {});
    let scene = Scene::with(|config| {
        config.limits = "requests_in_flight = 8".into();
        config.new = vec![silent.address];
    });
    let mut held: Vec<Wire> = (0..8).map(|_| scene.connect()).collect();
    held.iter_mut().for_each(|wire| wire.send(get("")));
    eventually(seconds(5), "eight are in flight", || (silent.count() == 8).then_some(()));
    let told = scene.send(get(""));
    assert_eq!((told.status, told.header("retry-after")), (503, Some("1")));
    assert_eq!(scene.proxy.api().get("/livez").status, 200);
    held.clear();
    scene.counts("cancelled", 8.0);
    scene.nobody_is_blamed();
}

#[test]
fn row_33a_an_upstream_that_is_full_is_503_saturated_and_the_other_arm_notices_nothing() {
    let silent = origin_that(|stream| while let Ok(1..) = stream.read(&mut [0; 64]) {});
    for room in ["requests_in_flight_max = 4", "connections_max = 4\nconnect_timeout = \"200ms\""] {
        let before = silent.count();
        let scene = Scene::with(|config| {
            config.new = vec![silent.address];
            config.upstream_new = Some(room.into());
        });
        let mut held: Vec<Wire> = (0..4).map(|_| scene.connect()).collect();
        held.iter_mut().for_each(|wire| wire.send(get("")));
        eventually(seconds(5), "four are in flight", || (silent.count() == before + 4).then_some(()));
        let told = scene.send(get(""));
        assert_eq!((told.status, told.header("retry-after")), (503, Some("1")), "{room}");
        assert_eq!(of_arm(&scene, "new", "saturated"), 1.0);
        let stable = scene.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(stable.status, 200, "{room}");
    }
}

#[test]
fn row_43_the_admin_port_keeps_strangers_out_and_the_data_port_has_none_of_its_paths() {
    let world = World::new();
    std::fs::write(world.path("tokens"), "ops 0123456789abcdef0123456789abcdef\n").unwrap();
    let scene = Scene::with(|config| {
        config.rest = format!("[admin]\ntoken_file = \"{}\"\n", world.path("tokens").display());
    });
    let admin = scene.proxy.admin;
    let status = |request: String| {
        let answer = raw(admin, request.as_bytes(), seconds(2));
        String::from_utf8_lossy(&answer).split(' ').nth(1).unwrap_or_default().to_owned()
    };
    let ask = |method: &str, path: &str, lines: &str| {
        status(format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{lines}\r\n"))
    };
    let (ours, foreign) = ("host: 127.0.0.1\r\n", "host: evil.example\r\n");
    assert_eq!(ask("GET", "/api/v1/status", ours), "200");
    assert_eq!(ask("GET", "/api/v1/status", foreign), "403");
    for open in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(ask("GET", open, foreign), "200", "{open}");
    }
    let rollback = format!("/api/v1/releases/{RELEASE}/rollback");
    assert_eq!(ask("GET", &rollback, ours), "405");
    let json = format!("{ours}content-type: application/json\r\ncontent-length: 14\r\n");
    let change = |more: &str| {
        status(format!(
            "POST {rollback} HTTP/1.1\r\nconnection: close\r\n{json}{more}\r\n{{\"reason\":\"x\"}}"
        ))
    };
    let token = "authorization: Bearer 0123456789abcdef0123456789abcdef\r\n";
    assert_eq!(change(""), "401");
    assert_eq!(change("authorization: Bearer another\r\n"), "401");
    assert_eq!(change(&format!("{token}origin: http://evil.example\r\n")), "403");
    assert!(scene.proxy.api().trip().is_none(), "nothing was changed");
    for path in ["/metrics", "/livez", "/api/v1/status", &rollback] {
        let told = scene.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\n\r\n"));
        assert_eq!((told.status, told.body.as_str()), (200, "ok"), "{path} is just a path");
    }
    assert_eq!(scene.new.requests().len(), 4);
    assert_eq!(change(token), "200");
    assert!(scene.proxy.api().trip().is_some(), "with a token it is");
}

#[test]
fn row_44_ten_thousand_methods_hosts_paths_and_users_make_no_new_series() {
    let scene = Scene::with(|config| config.rest = "[log]\nsample = \"0%\"\n".into());
    assert_eq!(scene.send(get("")).status, 200);
    scene.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    let series = || -> BTreeSet<Series> {
        let all = scene.proxy.api().metrics();
        all.into_keys().filter(|(name, _)| name.starts_with("grayling_")).collect()
    };
    // Some series appear with the first tick after a request.
    let name = "grayling_share_ratio";
    eventually(seconds(10), name, || scene.proxy.api().metric(name, &[]));
    let before = series();
    let mut wire = scene.connect();
    for n in 0..times(1_000, 10_000) {
        wire.send(format!("M{n} /p{n}?q={n} HTTP/1.1\r\nhost: h{n}.example\r\nx-user-id: u{n}\r\n\r\n"));
        assert_eq!(wire.told().status, 200);
    }
    let grown: Vec<_> = series().difference(&before).cloned().collect();
    assert_eq!(grown, []);
    let text = scene.proxy.api().get("/metrics").text();
    assert!(!text.contains("h77.example") && !text.contains("M77") && !text.contains("u77"));
    scene.nobody_is_blamed();
}

#[test]
fn row_45_a_log_line_is_one_json_object_whatever_is_sent_and_secrets_are_not_in_it() {
    let scene = Scene::start();
    let start = Instant::now();
    for path in ["/%0d%0a{}", "/\u{1b}[31mred", "/a\"b", "/%1b%5b31m", "/\\u0000", "/{\"event\":\"x\"}"] {
        let lines = "authorization: Bearer s3cr3t-token\r\ncookie: session=s3cr3t-cookie\r\nx-request-id: \u{1b}]0;id\r\nuser-agent: s3cr3t-agent\r\n";
        let lines = lines.replace('\u{1b}', "\t");
        scene.send(format!(
            "GET {path}?token=s3cr3t-query HTTP/1.1\r\nhost: a\r\nx-user-id: s3cr3t-user\r\n{lines}\r\n"
        ));
    }
    scene.send("GET /last HTTP/1.1\r\nhost: a\r\nx-user-id: s3cr3t-user\r\n\r\n");
    eventually(seconds(5), "the last is in the log", || {
        scene.proxy.events("request").iter().any(|e| e["path"] == "/last").then_some(())
    });
    // Every line parses, or `events` would have panicked.
    let said = scene.proxy.said();
    assert!(!said.contains("s3cr3t"), "{said}");
    assert!(said.bytes().all(|b| b == b'\n' || b >= 0x20), "a control byte is in the log");
    assert!(start.elapsed() < seconds(10));
    scene.nobody_is_blamed();
}
