//! Rows 47, 48 and 50: HTTP/2 servers that end connections, refuse streams or allow few, and
//! request bodies that are received before they are sent.

use super::wire::{DATA, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM, SETTINGS, frame};
use super::{Scene, Wire, get, post};
use crate::world::{
    Behaviour, Client, Nginx, Origin, World, eventually, figure, never, seconds, times, turn,
};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// RFC 9113 §6.5.2.
fn max_concurrent_streams(streams: u8) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, streams])
}

/// Everybody in `new`, which is this HTTP/2 server.
fn scene(new: SocketAddr, lines: &str) -> Scene {
    Scene::with(|config| {
        config.new = vec![new];
        config.upstream_new = Some(format!("http2 = true\n{lines}"));
    })
}

#[test]
fn row_47_no_request_is_lost_when_nginx_ends_its_connections_and_each_post_is_executed_once() {
    const THREADS: u64 = 8;
    let _turn = turn();
    let total = times(1_000, 10_000);
    let (world, origin) = (World::new(), Origin::start("origin"));
    let nginx = Nginx::start_http2(&world, "http2", "keepalive_requests 100;", origin.address);
    let scene = scene(nginx.address, "");
    let address = scene.proxy.http;
    let statuses: Vec<BTreeMap<String, u64>> = std::thread::scope(|scope| {
        let call = |client: &mut Client, n: u64| {
            let key = format!("key-{n}");
            // Two of five are POSTs.
            match n % 5 {
                0 | 1 => client.post("/pay", &[("x-user-id", "u"), ("x-key", &key)], key.as_bytes()),
                _ => client.get_as("u"),
            }
        };
        let threads: Vec<_> = (0..THREADS)
            .map(|t| {
                scope.spawn(move || {
                    let (mut client, mut counts) = (Client::new(address), BTreeMap::new());
                    for n in (t..total).step_by(THREADS as usize) {
                        let said = match call(&mut client, n) {
                            Ok(answer) => answer.status.to_string(),
                            Err(error) => error.to_string(),
                        };
                        *counts.entry(said).or_insert(0) += 1;
                    }
                    counts
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|counts| counts.keys().eq(["200"])), "{statuses:?}");
    let mut keys: Vec<String> = origin
        .received()
        .iter()
        .filter(|request| request.method == "POST")
        .map(|request| {
            let key = request.header("x-key").expect("each POST has its key").to_owned();
            assert_eq!(request.body, key.as_bytes());
            key
        })
        .collect();
    let executed = keys.len();
    keys.sort();
    keys.dedup();
    let posts = (0..total).filter(|n| n % 5 < 2).count();
    assert_eq!((executed, keys.len()), (posts, posts), "each POST is executed once");
    scene.nobody_is_blamed();
    let resent = scene.proxy.api().metric("grayling_resent_total", &[]).unwrap();
    let logged = scene.proxy.events("request").iter().filter(|line| line["resent"].is_u64()).count();
    figure(&format!(
        "row 47, nginx with `keepalive_requests 100`: {total} requests, {posts} of them POSTs, none lost; {resent} sent again, {logged} lines say so"
    ));
}

/// What the server does with the next request.
#[derive(Clone, Copy, Debug)]
enum Act {
    Answer,
    Refuse,
    /// GOAWAY that does not cover the request.
    GoAway,
    /// The connection ends without a GOAWAY.
    Close,
}

/// An HTTP/2 server that follows a list, and refuses when it has ended.
struct Acting {
    address: SocketAddr,
    /// The body of each request, and the connection that it came on.
    requests: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Acting {
    fn start(acts: &[Act]) -> Acting {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(vec![]));
        let acts = Arc::new(Mutex::new(VecDeque::from(acts.to_vec())));
        let recorded = requests.clone();
        std::thread::spawn(move || {
            for id in 0.. {
                let http2 = Http2::accept(&listener);
                let (acts, recorded) = (acts.clone(), recorded.clone());
                std::thread::spawn(move || act(http2, id, &acts, &recorded));
            }
        });
        Acting { address, requests }
    }

    fn bodies(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }

    fn connections(&self) -> Vec<usize> {
        self.requests.lock().unwrap().iter().map(|(id, _)| *id).collect()
    }
}

fn act(mut http2: Http2, id: usize, acts: &Mutex<VecDeque<Act>>, recorded: &Mutex<Vec<(usize, String)>>) {
    http2.timeouts(seconds(60));
    loop {
        let (mut body, mut ended, mut stream) = (vec![], false, 0);
        while !ended {
            match http2.next() {
                Ok(Some(f)) if f.kind == HEADERS || f.kind == DATA => {
                    ended = f.flags & END_STREAM != 0;
                    stream = f.stream;
                    if f.kind == DATA {
                        body.extend(f.payload);
                    }
                }
                Ok(Some(_)) => {}
                _ => return,
            }
        }
        recorded.lock().unwrap().push((id, String::from_utf8_lossy(&body).into_owned()));
        match acts.lock().unwrap().pop_front().unwrap_or(Act::Refuse) {
            Act::Answer => http2.headers(stream, &[(":status", "200"), ("content-length", "0")], END_STREAM),
            Act::Refuse => {
                let _ = http2.send(&frame(RST_STREAM, 0, stream, &7u32.to_be_bytes()));
            }
            Act::GoAway => {
                let _ = http2.send(&frame(GOAWAY, 0, 0, &[0; 8]));
            }
            Act::Close => return,
        }
    }
}

#[test]
fn row_47_a_request_that_was_not_processed_is_sent_again_on_another_connection_three_times_in_all() {
    let hello = || post("content-length: 5\r\n", "hello");
    let chunked = post("transfer-encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n");
    use Act::{Answer, Close, GoAway, Refuse};
    for (request, lines, acts, status, sent, blamed, detail) in [
        (get(""), "", &[Refuse, Answer][..], 200, 2, 0.0, None),
        (hello(), "", &[Refuse, Answer], 200, 2, 0.0, None),
        (hello(), "", &[GoAway, Answer], 200, 2, 0.0, None),
        (hello(), "", &[GoAway, Refuse, Answer], 200, 3, 0.0, None),
        (get(""), "", &[Refuse, GoAway, Refuse], 502, 3, 1.0, Some("unprocessed")),
        // A connection that ends without a word proves nothing.
        (hello(), "", &[Close, Answer], 502, 1, 1.0, Some("connection_broken")),
        (get(""), "", &[Close, Answer], 502, 1, 1.0, Some("connection_broken")),
        // The bytes of a body of unknown length are gone.
        (chunked, "", &[Refuse, Answer], 502, 1, 0.0, Some("not_resent")),
        (get(""), "resend_unprocessed = false", &[Refuse, Answer], 502, 1, 0.0, Some("not_resent")),
        (hello(), "resend_unprocessed = false", &[GoAway, Answer], 502, 1, 0.0, Some("not_resent")),
    ] {
        let what = format!("{request:?} {lines} {acts:?}");
        let server = Acting::start(acts);
        let scene = scene(server.address, lines);
        assert_eq!(scene.send(&request).status, status, "{what}");
        let body = if request.starts_with("POST") { "hello" } else { "" };
        assert_eq!(server.bodies(), vec![body; sent], "{what}");
        let mut connections = server.connections();
        connections.dedup();
        assert_eq!(connections.len(), sent, "each on another connection: {what}");
        let line = scene.proxy.event("request");
        assert_eq!(line["detail"].as_str(), detail, "{what}: {line}");
        let resent = sent as u64 - 1;
        assert_eq!(line["resent"].as_u64(), (resent > 0).then_some(resent), "{what}: {line}");
        assert_eq!(scene.proxy.api().metric("grayling_resent_total", &[]), Some(resent as f64), "{what}");
        assert_eq!(scene.outcome("reset"), blamed, "{what}");
        if blamed == 0.0 {
            scene.nobody_is_blamed();
        }
    }
}

#[test]
fn row_48_requests_beside_eight_long_downloads_of_an_nginx_that_allows_eight_streams_are_answered() {
    let (world, origin) = (World::new(), Origin::start("origin"));
    origin.behave(Behaviour::AsAsked);
    let lines = "http2_max_concurrent_streams 8; limit_rate 4k;";
    let nginx = Nginx::start_http2(&world, "http2", lines, origin.address);
    let scene = scene(nginx.address, "response_timeout = \"5s\"");
    // 256 KiB each: a minute.
    let mut downloads: Vec<Wire> = (0..8)
        .map(|_| {
            let mut wire = scene.connect();
            wire.send("GET /large HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: alice\r\n\r\n");
            wire
        })
        .collect();
    for download in &mut downloads {
        assert_eq!(download.told_head().status, 200);
    }
    for n in 0..20 {
        assert_eq!(scene.send(get("")).status, 200, "request {n}");
        assert_eq!(scene.send(post("content-length: 5\r\n", "hello")).status, 200, "POST {n}");
    }
    let open = scene.proxy.api().metric("grayling_requests_in_flight", &[("arm", "new")]);
    assert_eq!(open, Some(8.0), "the downloads are under way");
    drop(downloads);
    scene.nobody_is_blamed();
}

#[test]
fn row_48_many_requests_at_once_to_a_server_of_few_streams_have_as_many_connections_as_they_need() {
    let (world, origin) = (World::new(), Origin::start("origin"));
    // None of them makes room for another.
    origin.behave(Behaviour::Hang);
    let nginx = Nginx::start_http2(&world, "http2", "http2_max_concurrent_streams 2;", origin.address);
    let scene = scene(nginx.address, "connect_timeout = \"5s\"");
    let mut clients: Vec<Wire> = (0..40).map(|_| scene.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("")));
    eventually(seconds(10), "all are at the origin at once", || (origin.total() == 40).then_some(()));
}

#[test]
fn row_48_a_server_that_allows_no_stream_has_one_connection_and_is_saturated() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let scene = scene(listener.local_addr().unwrap(), "connect_timeout = \"3s\"\nconnection_idle = \"1m\"");
    let mut clients: Vec<Wire> = (0..5).map(|_| scene.connect()).collect();
    clients.iter_mut().for_each(|client| client.send(get("")));
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 24]).unwrap();
    let mut server = Http2::over(stream);
    server.send(&max_concurrent_streams(0)).unwrap();
    for client in &mut clients {
        assert_eq!(client.told().status, 503);
    }
    scene.counts("saturated", 5.0);
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "a second connection");
    // A request that waits is sent as soon as the server allows one.
    let mut client = scene.connect();
    client.send(get(""));
    server.timeouts(Duration::from_millis(100));
    never(
        Duration::from_millis(300),
        "a request is sent",
        || matches!(server.next(), Ok(Some(frame)) if frame.kind == HEADERS),
    );
    server.timeouts(seconds(10));
    server.send(&max_concurrent_streams(1)).unwrap();
    let stream = server.next_of(&[HEADERS]).stream;
    server.headers(stream, &[(":status", "200"), ("content-length", "0")], END_STREAM);
    assert_eq!(client.told().status, 200);
}

#[test]
fn row_50_slow_uploads_hold_no_connection_of_an_upstream() {
    let scene = Scene::with(|config| config.upstream_new = Some("connections_max = 2".into()));
    let mut slow: Vec<Wire> = (0..8).map(|_| scene.connect()).collect();
    slow.iter_mut().for_each(|wire| wire.send(post("content-length: 10\r\n", "hello")));
    let in_flight = || scene.proxy.api().metric("grayling_requests_in_flight", &[("arm", "new")]);
    eventually(seconds(5), "all are in flight", || (in_flight() == Some(8.0)).then_some(()));
    assert_eq!(scene.send(get("")).status, 200);
    slow.iter_mut().for_each(|wire| wire.send("world"));
    for wire in &mut slow {
        assert_eq!(wire.told().status, 200);
    }
    let posts: Vec<String> = scene.new.requests().into_iter().filter(|r| r.starts_with("POST")).collect();
    assert_eq!(posts.len(), 8);
    for post in &posts {
        assert_eq!(super::lines(post, "content-length"), ["content-length: 10"]);
        assert_eq!(super::body(post), "helloworld");
    }
    scene.nobody_is_blamed();
}

#[test]
fn row_50_a_body_beyond_request_buffer_is_streamed() {
    for (limits, holds) in
        [("", true), ("request_buffer = \"9B\"", false), ("request_buffer = \"0B\"", false)]
    {
        let origin = super::arms::origin_that(|stream| while let Ok(1..) = stream.read(&mut [0; 64]) {});
        let scene = Scene::with(|config| {
            config.new = vec![origin.address];
            config.limits = limits.into();
        });
        let mut wire = scene.connect();
        wire.send(post("content-length: 10\r\n", "hello"));
        if holds {
            never(Duration::from_millis(300), "the head is sent", || origin.count() > 0);
            wire.send("world");
        }
        eventually(seconds(5), "the head is sent", || (origin.count() == 1).then_some(()));
    }
}
