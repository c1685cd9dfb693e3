//! All events that the data plane reports to the watchdog for each exchange: the workers run in
//! this process, and the test reads their feed instead of the watchdog.

use crate::rows::wire::{DATA, END_STREAM, End, HEADERS, Http2, WINDOW_UPDATE, frame, get_with};
use crate::rows::{RawOrigin, Script, Then, Wire, get};
use crate::world::{Config, RELEASE, World, bucket, eventually, grayling, seconds, users_in_new};
use grayling::config;
use grayling::net::listen;
use grayling::proxy::listener::{self, Listeners};
use grayling::proxy::worker::ServingStage;
use grayling::runtime::shared::{ConfigSource, SharedState};
use grayling::stats::engine::{EventKind, RequestEvent, size_class};
use grayling::store::ledger::LedgerTail as LedgerEnd;
use grayling::store::state::StateFound;
use grayling::store::state_key::StateKey;
use grayling::telemetry::counters::AnswerCounts;
use grayling::telemetry::log::Log;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

/// One worker in front of one origin, with every user on stable, and without a watchdog.
struct Plane {
    shared: Arc<SharedState>,
    http: SocketAddr,
    stage: tokio::sync::watch::Sender<ServingStage>,
    worker: Option<JoinHandle<()>>,
    _world: World,
}

impl Plane {
    fn before(origin: SocketAddr) -> Plane {
        Plane::with(origin, |_| {})
    }

    fn with(origin: SocketAddr, adjust: impl FnOnce(&mut Config)) -> Plane {
        let world = World::new();
        let gone = "127.0.0.1:9".parse().unwrap();
        let mut config = Config::new(origin, gone).weight("0%");
        config.listen = "workers = 1".into();
        adjust(&mut config);
        let path = world.write(&config);
        let checked = config::load(&path).result.unwrap_or_else(|report| panic!("{report}"));
        let source = ConfigSource {
            path,
            text: checked.text.clone(),
            sha256: checked.sha256.clone(),
            loaded_at_ms: 0,
            last_error: None,
            last_report: None,
        };
        let (http, mut sockets) =
            listen::bind_workers(checked.config.listen.http[0], 1, listen::DualStack::System).unwrap();
        let (end, key, log) = (LedgerEnd::default(), StateKey::new([7; 32]), Log::silent().unwrap());
        let shared = Arc::new(SharedState::new(checked, source, StateFound::Empty, end, key, log, None));
        shared.connections.limit.store(1000, Ordering::Relaxed);
        let (stage, staged) = tokio::sync::watch::channel(ServingStage::Serving);
        let listeners = Listeners { http: vec![sockets.remove(0)], https: vec![] };
        let of_worker = shared.clone();
        let worker = std::thread::spawn(move || listener::run(0, listeners, of_worker, staged).unwrap());
        Plane { shared, http, stage, worker: Some(worker), _world: world }
    }

    /// All events until `ended` requests had ended, except their arrivals.
    fn told(&self, ended: u64) -> Vec<EventKind> {
        self.events(ended).into_iter().map(|event| event.what).filter(|w| *w != EventKind::Arrived).collect()
    }

    fn events(&self, ended: u64) -> Vec<RequestEvent> {
        eventually(seconds(10), &format!("{ended} requests have ended"), || {
            (self.counters().requests() >= ended).then_some(())
        });
        let mut all = vec![];
        self.shared.events.drain(|_, event| all.push(event));
        all
    }

    fn counters(&self) -> Arc<grayling::runtime::release_counters::ReleaseCounters> {
        self.shared.snapshot().releases[0].counters.clone()
    }

    fn answers(&self) -> AnswerCounts {
        self.counters().arms[0].answers()
    }
}

trait Requests {
    fn requests(&self) -> u64;
}

impl Requests for grayling::runtime::release_counters::ReleaseCounters {
    /// Of both arms.
    fn requests(&self) -> u64 {
        self.arms.iter().map(|arm| arm.requests()).sum()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        let _ = self.stage.send(ServingStage::Stopping);
        let _ = self.worker.take().map(JoinHandle::join);
    }
}

fn ended(bytes: u64) -> EventKind {
    EventKind::Ended { size: size_class(bytes), client_slow: false }
}

/// The events of a raw client request that an origin answers with these bytes.
fn told_of(request: &str, answer: &str) -> Vec<EventKind> {
    let origin = RawOrigin::start();
    origin.follows(Script { pieces: vec![answer.into()], then: Then::Close });
    let plane = Plane::before(origin.address);
    let mut wire = Wire::connect(plane.http);
    wire.send(request);
    if request.starts_with("HEAD") {
        wire.told_head()
    } else {
        wire.told()
    };
    plane.told(1)
}

#[test]
fn the_size_of_a_body_is_told_by_the_bytes_that_passed() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let hundred = "x".repeat(100);
    let cases = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), 0),
        ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), 0),
        (format!("{chunked}0\r\n\r\n"), 0),
        ("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_owned(), 0),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx".to_owned(), 1),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{hundred}"), 100),
        (format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{hundred}"), 100),
        // The chunk headers are not part of the body.
        (format!("{chunked}1\r\nx\r\n64\r\n{hundred}\r\n0\r\n\r\n"), 101),
    ];
    for (answer, bytes) in cases {
        assert_eq!(told_of(&get(""), &answer), [EventKind::Answered, ended(bytes)], "{answer}");
    }
    assert_eq!((size_class(0), size_class(1), size_class(100)), (0, 1, 4), "empty is a class of its own");
}

#[test]
fn redirects_and_client_errors_end_as_other_answers_do() {
    let with = |status: &str, body: &str| {
        let length = body.len();
        told_of(&get(""), &format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"))
    };
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect"] {
        assert_eq!(with(status, ""), [EventKind::Redirected, ended(0)], "{status}");
    }
    assert_eq!(with("404 Not Found", "gone"), [EventKind::ClientError, ended(4)]);
    assert_eq!(with("503 Busy", "busy"), [EventKind::Failed], "a failure's body is of no interest");
}

#[test]
fn an_answer_that_has_no_body_by_definition_tells_no_size() {
    let head = get("").replacen("GET", "HEAD", 1);
    assert_eq!(told_of(&head, "HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n"), [EventKind::Answered]);
    assert_eq!(told_of(&get(""), "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\n\r\n"), [EventKind::Answered]);
}

#[test]
fn a_body_that_breaks_is_told_as_broken_and_has_no_end() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    assert_eq!(told_of(&get(""), cut), [EventKind::Answered, EventKind::Broke]);
}

#[test]
fn a_slow_upstream_is_not_a_slow_client_and_the_end_is_when_the_body_ends() {
    let (listener, address) = listener();
    let plane = Plane::before(address);
    let mut wire = Wire::connect(plane.http);
    wire.send(get(""));
    let mut origin = Wire::over(listener.accept().unwrap().0);
    origin.read_some();
    origin.send("HTTP/1.1 200 OK\r\ncontent-length: 20\r\n\r\n");
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(30));
        origin.send("ab");
    }
    assert_eq!(wire.told().body.len(), 20);
    let events = plane.events(1);
    assert_eq!(
        events.iter().map(|e| e.what).collect::<Vec<_>>(),
        [EventKind::Arrived, EventKind::Answered, ended(20)]
    );
    assert!(events[2].after - events[1].after >= Duration::from_millis(250), "{events:?}");
}

#[test]
fn a_client_that_reads_slowly_is_told_apart_over_http1() {
    let (listener, address) = listener();
    let plane = Plane::before(address);
    let mut wire = Wire::connect(plane.http);
    wire.send(get(""));
    let bytes = 24 << 20;
    // More than all buffers on the way: the rest waits for the client.
    let origin = std::thread::spawn(move || {
        let mut origin = Wire::over(listener.accept().unwrap().0);
        origin.read_some();
        origin.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n"));
        origin.send(vec![b'x'; bytes]);
        origin
    });
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(wire.told().body.len(), bytes);
    drop(origin.join());
    let slow = EventKind::Ended { size: size_class(bytes as u64), client_slow: true };
    assert_eq!(plane.told(1), [EventKind::Answered, slow]);
}

#[test]
fn a_client_that_reads_slowly_is_told_apart_over_http2() {
    let origin = RawOrigin::start();
    let bytes = 1 << 20;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {bytes}\r\n\r\n");
    origin.answers([head.into_bytes(), vec![b'x'; bytes]].concat());
    let plane = Plane::before(origin.address);
    // The window of 65,535 bytes is full at once, and stays full for a while.
    let mut client = Http2::connect(plane.http, &[]);
    client.headers(1, &get_with(&[]), END_STREAM);
    client.next_of(&[DATA]);
    std::thread::sleep(Duration::from_millis(500));
    let more = (bytes as u32).to_be_bytes();
    client.send(&[frame(WINDOW_UPDATE, 0, 0, &more), frame(WINDOW_UPDATE, 0, 1, &more)].concat()).unwrap();
    while client.next_of(&[DATA]).flags & END_STREAM == 0 {}
    let slow = EventKind::Ended { size: size_class(bytes as u64), client_slow: true };
    assert_eq!(plane.told(1), [EventKind::Answered, slow]);
}

#[test]
fn a_client_that_never_makes_the_upstream_wait_is_not_slow() {
    let origin = RawOrigin::start();
    let plane = Plane::before(origin.address);
    // Its window is closed, but there is only one piece: the upstream has finished it.
    let mut client = Http2::connect(plane.http, &[(4, 0)]);
    client.headers(1, &get_with(&[]), END_STREAM);
    client.next_of(&[HEADERS]);
    std::thread::sleep(Duration::from_millis(100));
    client.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])).unwrap();
    client.next_of(&[DATA]);
    let events = plane.events(1);
    assert_eq!(
        events.iter().map(|e| e.what).collect::<Vec<_>>(),
        [EventKind::Arrived, EventKind::Answered, ended(2)]
    );
    assert!(events[2].after - events[1].after < Duration::from_millis(90), "{events:?}");

    // Pieces that come one after the other, and are read as they come.
    let pieces = 40;
    let mut script = vec![format!("HTTP/1.1 200 OK\r\ncontent-length: {pieces}\r\n\r\n").into_bytes()];
    script.resize(1 + pieces, b"x".to_vec());
    origin.follows(Script { pieces: script, then: Then::Keep });
    let mut wire = Wire::connect(plane.http);
    wire.send(get(""));
    assert_eq!(wire.told().body.len(), pieces);
    assert_eq!(plane.told(2), [EventKind::Answered, ended(pieces as u64)]);
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Answers each gRPC call with these head fields, this body, and these trailers.
struct Calls {
    plane: Plane,
    client: Http2,
    server: Http2,
    stream: u32,
}

const GRPC: [(&str, &str); 2] = [(":status", "200"), ("content-type", "application/grpc")];

impl Calls {
    fn begin() -> Calls {
        let (listener, address) = listener();
        let plane = Plane::with(address, |config| {
            config.upstreams = "http2 = true".into();
        });
        let mut client = Http2::connect(plane.http, &[]);
        client.headers(1, &call(), END_STREAM);
        let server = Http2::accept(&listener);
        Calls { plane, client, server, stream: 1 }
    }

    fn told(&mut self, more: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) -> Vec<EventKind> {
        let stream = self.stream;
        if stream > 1 {
            self.client.headers(stream, &call(), END_STREAM);
        }
        self.stream += 2;
        let called = self.server.next_of(&[HEADERS]).stream;
        let head: Vec<(&str, &str)> = GRPC.iter().chain(more).copied().collect();
        let trailers_only = body.is_empty() && trailers.is_empty();
        self.server.headers(called, &head, if trailers_only { END_STREAM } else { 0 });
        if !body.is_empty() {
            self.server.send(&frame(DATA, 0, called, body)).unwrap();
        }
        if !trailers_only {
            self.server.headers(called, trailers, END_STREAM);
        }
        assert!(matches!(self.client.end_of(stream), End::Answer(200, _)));
        self.plane.told(u64::from(stream.div_ceil(2)))
    }
}

fn call() -> Vec<(&'static str, &'static str)> {
    let more = [("content-type", "application/grpc"), ("te", "trailers")];
    let post = get_with(&more).into_iter();
    post.map(|(name, value)| (name, if name == ":method" { "POST" } else { value })).collect()
}

#[test]
fn a_grpc_status_in_the_trailers_is_told_as_one_in_the_head_is() {
    let mut calls = Calls::begin();
    let message = [0, 0, 0, 0, 2, 8, 1];
    assert_eq!(calls.told(&[], &message, &[("grpc-status", "0")]), [EventKind::Answered, ended(7)]);
    // No message before the trailers, or no separate head before them either.
    assert_eq!(calls.told(&[], &[], &[("grpc-status", "0")]), [EventKind::Answered, ended(0)]);
    assert_eq!(calls.told(&[("grpc-status", "0")], &[], &[]), [EventKind::Answered, ended(0)]);
    // NOT_FOUND is the caller's fault, UNAVAILABLE the server's.
    assert_eq!(calls.told(&[("grpc-status", "5")], &[], &[]), [EventKind::ClientError, ended(0)]);
    let late = [EventKind::Answered, EventKind::EndedAsClientError];
    assert_eq!(calls.told(&[], &[], &[("grpc-status", "5")]), late);
    assert_eq!(calls.told(&[], &message, &[("grpc-status", "5")]), late);
    assert_eq!(calls.told(&[("grpc-status", "14")], &[], &[]), [EventKind::Failed]);
    assert_eq!(calls.told(&[], &message, &[("grpc-status", "14")]), [EventKind::Answered, EventKind::Broke]);
    // By HTTP status all responses are equal.
    assert_eq!(calls.plane.answers(), [8, 0, 0, 0, 0]);
}

#[test]
fn a_long_grpc_stream_is_answered_by_its_head_long_before_it_ends() {
    let mut calls = Calls::begin();
    let called = calls.server.next_of(&[HEADERS]).stream;
    calls.server.headers(called, &GRPC, 0);
    calls.client.next_of(&[HEADERS]);
    assert_eq!(calls.plane.told(0), [EventKind::Answered]);
    calls.server.send(&frame(DATA, 0, called, &[0, 0, 0, 0, 0])).unwrap();
    calls.client.next_of(&[DATA]);
    calls.server.headers(called, &[("grpc-status", "7")], END_STREAM);
    calls.client.next_of(&[HEADERS]);
    assert_eq!(calls.plane.told(1), [EventKind::EndedAsClientError]);
}

#[test]
fn a_code_in_the_body_that_fails_is_told_as_broken_and_stays_in_the_class_of_its_status() {
    let origin = RawOrigin::start();
    origin.answers(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 12\r\n\r\n{\"code\": 17}",
    );
    let plane = Plane::with(origin.address, |config| {
        config.release = "[release.billing.outcome]\nbody = { path = \"$.code\", not_equals = \"0\" }".into();
    });
    let mut wire = Wire::connect(plane.http);
    wire.send(get(""));
    assert_eq!(wire.told().status, 200);
    assert_eq!(plane.told(1), [EventKind::Answered, EventKind::Broke]);
    assert_eq!(plane.answers(), [1, 0, 0, 0, 0]);
}

#[test]
fn every_request_is_in_one_class_of_answers_or_in_none() {
    let origin = RawOrigin::start();
    let plane = Plane::with(origin.address, |config| {
        config.upstreams = "response_timeout = \"200ms\"".into();
    });
    let ask = |answer: &str, then| {
        origin.follows(Script { pieces: vec![answer.into()], then });
        let mut wire = Wire::connect(plane.http);
        wire.send(get("connection: close\r\n"));
        wire.told().status
    };
    for status in
        ["200 OK", "204 No Content", "206 Partial", "301 Moved", "304 Not Modified", "404 Not Found"]
    {
        ask(&format!("HTTP/1.1 {status}\r\nconnection: close\r\n\r\n"), Then::Close);
    }
    for status in [500, 503, 599] {
        ask(&format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n"), Then::Keep);
    }
    // It breaks off in the body: its status was 200.
    ask("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", Then::Close);
    // No head: a reset, and a time-out.
    assert_eq!(ask("HTT", Then::Close), 502);
    assert_eq!(ask("", Then::Keep), 504);
    plane.events(12);
    assert_eq!(plane.answers(), [4, 2, 1, 3, 2]);
}

#[test]
fn the_mix_of_both_arms_is_in_the_status_and_told_in_words() {
    let world = World::new();
    let (stable, new) = (RawOrigin::start(), RawOrigin::start());
    new.answers("HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n");
    let proxy = world.run(&Config::new(stable.address, new.address));
    let of_new = users_in_new("user", 20, 3);
    let mut client = proxy.client();
    let mut ask = |user: &str| client.get_as(user).unwrap().status;
    assert_eq!(of_new.iter().map(|user| ask(user)).collect::<Vec<_>>(), [302; 3]);
    let of_stable: Vec<String> = (0..)
        .map(|n| format!("other-{n}"))
        .filter(|u| bucket(RELEASE, u.as_bytes()) >= 200_000)
        .take(4)
        .collect();
    assert_eq!(of_stable.iter().map(|user| ask(user)).collect::<Vec<_>>(), [200; 4]);
    stable.answers("HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone");
    assert_eq!(ask(&of_stable[0]), 404);
    stable.follows(Script { pieces: vec!["HTT".into()], then: Then::Close });
    assert_eq!(ask(&of_stable[1]), 502);

    let wanted = json!({
        "stable": {"2xx": 4, "3xx": 0, "4xx": 1, "5xx": 0, "none": 1},
        "new": {"2xx": 0, "3xx": 3, "4xx": 0, "5xx": 0, "none": 0},
    });
    eventually(seconds(5), "the status has all of them", || {
        let arms = proxy.api().release()["arms"].clone();
        let answers = json!({"stable": arms["stable"]["answers"], "new": arms["new"]["answers"]});
        (answers == wanted).then_some(())
    });
    let told = grayling(&["status", "--admin", &format!("http://{}", proxy.admin)]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for line in [
        "answers of stable: 2xx 4 (66.67%), 4xx 1 (16.67%), none 1 (16.67%)\n",
        "answers of new: 3xx 3 (100.00%)\n",
    ] {
        assert!(told.contains(line), "{told}");
    }
}
