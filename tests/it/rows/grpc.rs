//! Rows 46 and 49, and row 32 for gRPC: the requirements of a gRPC call, frame by frame.
//!
//! tools/grpc.rs makes the calls of a real client to a real server.

use super::wire::{
    DATA, END_HEADERS, END_STREAM, End, HEADERS, Http2, PING, RST_STREAM, WINDOW_UPDATE, block, frame,
    get_with,
};
use crate::world::{Config, H2Origin, Proxy, World, eventually, long, never, seconds, users_in_new};
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

/// RFC 9113 §7.
const CANCEL: [u8; 4] = [0, 0, 0, 8];

pub(super) const CALL: [(&str, &str); 7] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "grayling.test"),
    (":path", "/t.T/Call"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("x-user-id", "alice"),
];

/// A proxy with every user on this server, which uses HTTP/2.
fn before(server: SocketAddr, upstreams: &str, limits: &str) -> (World, Proxy) {
    let world = World::new();
    // No listener is there, and no user is sent there.
    let other = "127.0.0.1:9".parse().unwrap();
    let mut config = Config::new(server, other).weight("0%").watchdog("enabled = false");
    config.upstreams = format!("http2 = true\n{upstreams}");
    config.limits = limits.into();
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    (world, proxy)
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn outcome(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]).unwrap_or(0.0)
}

#[test]
fn row_46_te_trailers_of_an_http2_client_is_passed_on_to_http2_servers() {
    let (world, server) = (World::new(), H2Origin::start("stable"));
    // `new` accepts no connection: its users go to stable, with the field.
    let gone = listener().1;
    let mut config = Config::new(server.address, gone).watchdog("enabled = false");
    config.upstreams = "http2 = true".into();
    let proxy = world.run(&config);
    let user = &users_in_new("user", 20, 1)[0];
    let te_of = |fields: &[(&str, &str)]| {
        let mut http2 = Http2::connect(proxy.http, &[]);
        http2.headers(1, fields, END_STREAM);
        assert!(matches!(http2.end_of(1), End::Answer(200, _)));
        server.te()
    };
    assert_eq!(te_of(&get_with(&[("te", "trailers")])), ["trailers"]);
    assert_eq!(te_of(&get_with(&[])), [""; 0]);
    let of_new = CALL.map(|field| if field.0 == "x-user-id" { ("x-user-id", user.as_str()) } else { field });
    assert_eq!(te_of(&of_new), ["trailers"]);
    let asked = [("x-user-id", "alice"), ("te", "trailers"), ("connection", "te")];
    assert_eq!(proxy.client().get("/", &asked).unwrap().status, 200);
    assert_eq!(server.te(), ["trailers"]);
}

#[test]
fn row_32_a_cancel_of_a_grpc_call_is_passed_on_at_once_and_that_of_another_write_is_not() {
    let (listener, address) = listener();
    let (_world, proxy) = before(address, "", "");
    let mut client = Http2::connect(proxy.http, &[]);
    // A message of five bytes (flag and length): half of it is sent where the call continues.
    let (whole, half) = (&[0, 0, 0, 0, 0][..], &[0, 0][..]);
    let begin = |client: &mut Http2, stream, whole_| {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &block(&CALL));
        bytes.extend(match whole_ {
            true => frame(DATA, END_STREAM, stream, whole),
            false => frame(DATA, 0, stream, half),
        });
        client.send(&bytes).unwrap();
    };
    begin(&mut client, 1, true);
    let mut server = Http2::accept(&listener);
    let cases = [(1, true, false), (3, true, true), (5, false, false), (7, false, true)];
    for (stream, whole, answered) in cases {
        if stream > 1 {
            begin(&mut client, stream, whole);
        }
        let called = server.next_of(&[HEADERS]).stream;
        let data = server.next_of(&[DATA]);
        assert_eq!((data.stream, data.flags & END_STREAM != 0), (called, whole));
        if answered {
            server.headers(called, &[(":status", "200"), ("content-type", "application/grpc")], 0);
            client.next_of(&[HEADERS]);
        }
        let began = Instant::now();
        client.send(&frame(RST_STREAM, 0, stream, &CANCEL)).unwrap();
        // Not the end of the client's messages: the server could take that for a whole request.
        let next = server.next_of(&[DATA, RST_STREAM]);
        let what = format!("whole: {whole}, answered: {answered}");
        assert_eq!((next.kind, next.stream), (RST_STREAM, called), "{what}");
        assert_eq!(next.payload, CANCEL, "{what}");
        assert!(began.elapsed() < seconds(1), "{:?}, {what}", began.elapsed());
    }
    eventually(seconds(5), "each is the client's", || (outcome(&proxy, "cancelled") == 4.0).then_some(()));

    // A POST that was received in full may have been executed: the proxy waits for its outcome.
    let other = CALL.map(|(name, value)| (name, if name == "content-type" { "text/plain" } else { value }));
    client.headers(9, &other, END_STREAM);
    let called = server.next_of(&[HEADERS]).stream;
    client.send(&frame(RST_STREAM, 0, 9, &CANCEL)).unwrap();
    server.timeouts(Duration::from_millis(10));
    never(
        Duration::from_millis(500),
        "it is cancelled",
        || matches!(server.next(), Ok(Some(f)) if f.kind == RST_STREAM),
    );
    server.headers(called, &[(":status", "200")], END_STREAM);
    eventually(seconds(5), "its outcome counts", || (outcome(&proxy, "ok") == 1.0).then_some(()));
}

#[test]
fn a_grpc_call_may_be_silent_and_unread_for_longer_than_the_idle_timeouts() {
    let (listener, address) = listener();
    let idle = "idle_timeout = \"200ms\"";
    let (_world, proxy) = before(address, idle, "body_idle_timeout = \"200ms\"");
    // The client accepts one byte (SETTINGS_INITIAL_WINDOW_SIZE) until it gives more credit.
    let mut client = Http2::connect(proxy.http, &[(4, 1)]);
    client.headers(1, &CALL, 0);
    client.send(&frame(DATA, 0, 1, b"a")).unwrap();
    let mut server = Http2::accept(&listener);
    let called = server.next_of(&[HEADERS]).stream;
    assert_eq!(server.next_of(&[DATA]).payload, b"a");
    server.headers(called, &[(":status", "200"), ("content-type", "application/grpc")], 0);
    server.send(&[frame(DATA, 0, called, b"A"), frame(DATA, 0, called, b"B")].concat()).unwrap();
    assert_eq!(client.next_of(&[DATA]).payload, b"A");
    server.timeouts(Duration::from_millis(10));
    never(
        Duration::from_millis(1500),
        "the call is ended",
        || matches!(server.next(), Ok(Some(f)) if f.kind == RST_STREAM),
    );
    server.timeouts(seconds(10));
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])).unwrap();
    assert_eq!(client.next_of(&[DATA]).payload, b"B");
    client.send(&frame(DATA, END_STREAM, 1, b"b")).unwrap();
    assert_eq!(server.next_of(&[DATA]).payload, b"b");
    server.headers(called, &[("grpc-status", "0")], END_STREAM);
    assert!(matches!(client.end_of(1), End::Answer(..)));
    eventually(seconds(5), "it is counted", || (outcome(&proxy, "ok") == 1.0).then_some(()));
}

/// The server's side of a connection with one open stream.
fn one_open_stream(upstreams: &str) -> (World, Proxy, Http2, Http2) {
    let (listener, address) = listener();
    let (world, proxy) = before(address, upstreams, "");
    let mut client = Http2::connect(proxy.http, &[]);
    client.headers(1, &CALL, 0);
    let mut server = Http2::accept(&listener);
    server.next_of(&[HEADERS]);
    (world, proxy, client, server)
}

#[test]
fn row_49_a_server_is_pinged_where_http2_ping_asks_for_it() {
    let (_world, _proxy, _client, mut server) = one_open_stream("http2_ping = \"100ms\"");
    for _ in 0..3 {
        let ping = server.next_of(&[PING]);
        assert_eq!((ping.stream, ping.payload.len()), (0, 8));
    }
}

#[test]
fn row_49_a_quiet_connection_to_a_server_gets_no_ping_by_default() {
    if !long() {
        return;
    }
    let (_world, _proxy, _client, mut server) = one_open_stream("");
    server.timeouts(Duration::from_millis(10));
    // Before the key existed, the interval was 10 s.
    never(seconds(12), "a PING", || matches!(server.next(), Ok(Some(f)) if f.kind == PING));
}

#[test]
fn row_49_a_server_that_is_gone_without_a_word_is_left_without_a_ping() {
    if !long() {
        return;
    }
    let (listener, address) = listener();
    let (_world, proxy) = before(address, "response_timeout = \"1s\"\nconnection_idle = \"60s\"", "");
    // The first connection gets one response, and then none.
    let answers = std::thread::spawn(move || {
        let answer = |server: &mut Http2| {
            let stream = server.next_of(&[HEADERS]).stream;
            server.headers(stream, &[(":status", "204")], END_STREAM);
        };
        let mut first = Http2::accept(&listener);
        answer(&mut first);
        let mut second = Http2::accept(&listener);
        answer(&mut second);
        (first, second)
    });
    let ask = || proxy.client().post("/", &[("x-user-id", "alice")], b"x").map(|answer| answer.status).ok();
    assert_eq!(ask(), Some(204));
    assert_eq!(ask(), Some(504));
    eventually(seconds(15), "a request goes out on another connection", || {
        (ask() == Some(204)).then_some(())
    });
    drop(answers.join().unwrap());
}
