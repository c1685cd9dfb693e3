//! Row 23: clients that are slow on purpose, or vanish silently.

use super::wire::{DATA, End, GET, HEADERS, Http2, block, frame};
use super::{OK, Scene, Script, Then, Wire, get, post};
use crate::world::{eventually, seconds};
use std::time::{Duration, Instant};

fn scene() -> Scene {
    Scene::with(|config| {
        config.limits =
            "header_timeout = \"1s\"\nbody_idle_timeout = \"1s\"\nkeepalive_timeout = \"2s\"".into();
        config.upstreams = "response_timeout = \"10s\"\nidle_timeout = \"10s\"".into();
    })
}

/// The time until the proxy ends it.
fn ended_after(wire: &mut Wire) -> Duration {
    let start = Instant::now();
    assert!(wire.is_closed(), "left open");
    start.elapsed()
}

#[test]
fn row_23_a_head_that_comes_too_slowly_is_408_however_its_bytes_drip() {
    let scene = scene();
    for begin in ["GET / HT", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n"] {
        let mut wire = scene.connect();
        wire.send(begin);
        let start = Instant::now();
        let told = wire.told();
        // Bytes that may have been HTTP/2 are closed without an HTTP/1.1 response.
        let wanted = if "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".starts_with(begin) { 0 } else { 408 };
        assert_eq!(told.status, wanted, "{begin:?}");
        assert!(wire.is_closed() && start.elapsed() < seconds(3), "{:?}", start.elapsed());
    }
    let mut wire = scene.connect();
    wire.send("GET / HTTP/1.1\r\n");
    let start = Instant::now();
    let dripped = eventually(seconds(5), "a dripping head is ended", || {
        std::thread::sleep(Duration::from_millis(100));
        wire.send("x: y\r\n");
        wire.socket().set_nonblocking(true).unwrap();
        let peeked = wire.socket().peek(&mut [0; 16]);
        wire.socket().set_nonblocking(false).unwrap();
        peeked.is_ok_and(|n| n > 0).then(|| wire.told())
    });
    assert_eq!(dripped.status, 408);
    assert!(start.elapsed() >= Duration::from_millis(900) && start.elapsed() < seconds(3));
    // Also on a connection that has served before.
    let mut wire = scene.connect();
    wire.send(get(""));
    assert_eq!(wire.told().status, 200);
    wire.send("GET / HTTP/1.1\r\nho");
    assert_eq!(wire.told().status, 408);
    scene.nobody_is_blamed();
}

#[test]
fn row_23_a_connection_without_a_byte_and_one_without_a_second_request_are_closed() {
    let scene = scene();
    // A connection without any byte has the time limit of a head; one that was served before, the
    // limit between two requests.
    let took = ended_after(&mut scene.connect());
    assert!(took >= Duration::from_millis(900) && took < Duration::from_millis(1_900), "{took:?}");
    let mut wire = scene.connect();
    wire.send(get(""));
    assert_eq!(wire.told().status, 200);
    let took = ended_after(&mut wire);
    assert!(took >= Duration::from_millis(1500) && took < seconds(5), "{took:?}");
    scene.nobody_is_blamed();
}

#[test]
fn row_23_a_body_that_stalls_is_408_and_the_clients_fault() {
    let scene = scene();
    for body in [post("content-length: 10\r\n", "hello"), post("transfer-encoding: chunked\r\n", "5\r\nhel")]
    {
        let mut wire = scene.connect();
        wire.send(body);
        assert_eq!(wire.told().status, 408);
        assert!(wire.is_closed());
    }
    scene.counts("cancelled", 2.0);
    assert_eq!(scene.new.requests(), [""; 0]);
    scene.nobody_is_blamed();
}

#[test]
fn row_23_in_http2_a_body_that_stalls_is_408_and_a_head_that_never_ends_is_closed() {
    let scene = scene();
    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    let mut fields = GET;
    fields[0].1 = "POST";
    http2.headers(1, &fields, 0);
    let _ = http2.send(&frame(DATA, 0, 1, b"hel"));
    assert!(matches!(http2.end_of(1), End::Answer(408, _)));
    scene.counts("cancelled", 1.0);
    // No END_HEADERS, and no further frame: not even the answer to a ping may come in between (RFC
    // 9113 §6.10).
    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    let _ = http2.send(&frame(HEADERS, 0, 1, &block(&GET)));
    let start = Instant::now();
    assert!(matches!(http2.end_of(1), End::Closed | End::Goaway));
    assert!(start.elapsed() < seconds(8), "{:?}", start.elapsed());
    scene.nobody_is_blamed();
}

#[test]
fn row_23_a_client_that_does_not_read_is_closed_and_it_is_its_own_fault() {
    let scene = scene();
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n{}", "x".repeat(50_000_000));
    scene.new.follows(Script { pieces: vec![large.into()], then: Then::Keep });
    let mut wire = scene.connect();
    let _ = socket2::SockRef::from(wire.socket()).set_recv_buffer_size(4096);
    let start = Instant::now();
    wire.send(get(""));
    scene.counts("cancelled", 1.0);
    assert!(start.elapsed() < seconds(4), "{:?}", start.elapsed());
    // The same for a POST: its head has been sent, so the rest of its response is cancelled (row
    // 32).
    let mut wire = scene.connect();
    let _ = socket2::SockRef::from(wire.socket()).set_recv_buffer_size(4096);
    wire.send(post("content-length: 2\r\n", "ok"));
    scene.counts("cancelled", 2.0);
    scene.new.answers(OK);
    assert_eq!(scene.send(get("")).status, 200);
    scene.nobody_is_blamed();
}
