//! Row 32: writes whose clients have left.

use super::wire::{END_STREAM, Http2, RST_STREAM, frame};
use super::{OK, Scene, post};
use crate::world::{Client, H2Behaviour, H2Origin, eventually, figure, seconds, turn};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

const ABANDONED: usize = 800;
const ROOM: &str = "connections_max = 1000\nidle_timeout = \"10m\"";

/// Sends endless responses to POSTs; an `ok` to all other requests.
struct Endless {
    address: SocketAddr,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Endless {
    fn start() -> Endless {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _ = socket2::SockRef::from(&listener).listen(4096);
        let address = listener.local_addr().unwrap();
        let (begun, ended) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let counts = (begun.clone(), ended.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let (begun, ended) = counts.clone();
                std::thread::spawn(move || {
                    let mut piece = [0; 4096];
                    while let Ok(n @ 1..) = stream.read(&mut piece) {
                        if !piece[..n].starts_with(b"POST") {
                            let _ = stream.write_all(OK.as_bytes());
                            continue;
                        }
                        begun.fetch_add(1, SeqCst);
                        let _ = stream.write_all(
                            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n",
                        );
                        while let Ok(1..) = stream.read(&mut piece) {}
                        ended.fetch_add(1, SeqCst);
                    }
                });
            }
        });
        Endless { address, begun, ended }
    }
}

/// `ended`: the number of exchanges that were broken off at the server.
fn all_are_let_go(mut scene: Scene, what: &str, ended: impl Fn() -> usize) {
    let began = Instant::now();
    let mut other = Client::new(scene.proxy.http);
    eventually(seconds(10), "the server is told of all", || {
        assert_eq!(other.get_as("somebody-else").unwrap().status, 200, "others are served meanwhile");
        (ended() >= ABANDONED).then_some(())
    });
    let told = began.elapsed();
    scene.nobody_is_blamed();
    let began = Instant::now();
    scene.proxy.signal("TERM");
    assert!(scene.proxy.ends_within(seconds(5)).success());
    let exit = began.elapsed();
    figure(&format!("{ABANDONED} abandoned POSTs, {what}: told after {told:?}, exit after {exit:?}"));
}

#[test]
fn row_32_abandoned_posts_whose_answers_have_no_end_are_let_go_http1() {
    let _turn = turn();
    let origin = Endless::start();
    let scene = Scene::with(|config| {
        config.new = vec![origin.address];
        config.upstreams = ROOM.into();
    });
    let clients: Vec<TcpStream> = (0..ABANDONED)
        .map(|_| {
            let mut client = TcpStream::connect(scene.proxy.http).unwrap();
            client.set_read_timeout(Some(seconds(10))).unwrap();
            client.write_all(post("content-length: 5\r\n", "hello").as_bytes()).unwrap();
            client
        })
        .collect();
    for mut client in &clients {
        client.read_exact(&mut [0; 15]).unwrap();
    }
    assert_eq!(origin.begun.load(SeqCst), ABANDONED);
    drop(clients);
    all_are_let_go(scene, "HTTP/1.1", || origin.ended.load(SeqCst));
}

#[test]
fn row_32_abandoned_posts_whose_answers_have_no_end_are_let_go_http2() {
    const STREAMS: usize = 100;
    let _turn = turn();
    let origin = H2Origin::start("new");
    origin.behave(H2Behaviour::StallPosts);
    let scene = Scene::with(|config| {
        config.new = vec![origin.address];
        config.upstreams = format!("{ROOM}\nhttp2 = true");
    });
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", "grayling.test")];
    let fields = [&fields[..], &[("x-user-id", "alice")]].concat();
    let streams = || (0..STREAMS as u32).map(|i| 2 * i + 1);
    let mut clients: Vec<Http2> = (0..ABANDONED / STREAMS)
        .map(|_| {
            let mut client = Http2::connect(scene.proxy.http, &[]);
            streams().for_each(|stream| client.headers(stream, &fields, END_STREAM));
            client
        })
        .collect();
    eventually(seconds(20), "all are at the server", || {
        (origin.requests() as usize >= ABANDONED).then_some(())
    });
    // Their heads must be sent to the clients: the test is about the time after them.
    eventually(seconds(10), "all are answered", || {
        let answered =
            scene.proxy.api().metric("grayling_upstream_response_seconds_count", &[("arm", "new")]);
        (answered.unwrap_or(0.0) >= ABANDONED as f64).then_some(())
    });
    for client in &mut clients {
        let resets: Vec<u8> =
            streams().flat_map(|stream| frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())).collect();
        client.send(&resets).unwrap();
    }
    // The clients stay, and read nothing.
    all_are_let_go(scene, "HTTP/2", || origin.broken_off() as usize);
}

#[test]
fn row_32_an_abandoned_post_waits_for_its_head_at_most_for_abandoned_max_and_a_drain_waits_with_it() {
    let silent = super::arms::origin_that(|stream| while let Ok(1..) = stream.read(&mut [0; 64]) {});
    let mut scene = Scene::with(|config| {
        config.new = vec![silent.address];
        config.limits = "abandoned_max = \"2s\"".into();
    });
    let mut wire = scene.connect();
    wire.send(post("content-length: 5\r\n", "hello"));
    eventually(seconds(5), "it is at the origin", || (silent.count() == 1).then_some(()));
    let began = Instant::now();
    drop(wire);
    scene.proxy.signal("TERM");
    assert!(scene.proxy.ends_within(seconds(10)).success());
    let took = began.elapsed();
    assert!((Duration::from_millis(1800)..seconds(6)).contains(&took), "{took:?}");
}

#[test]
fn row_32_what_the_head_of_an_abandoned_post_says_counts_and_so_does_a_code_in_a_short_body() {
    let answers = super::arms::origin_that(|stream| {
        std::thread::sleep(Duration::from_millis(300));
        let _ = stream.write_all(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
        );
        let _ = stream.write_all(b"12\r\n{\"resultCode\":\"7\"}\r\n0\r\n\r\n");
        while let Ok(1..) = stream.read(&mut [0; 64]) {}
    });
    let scene = Scene::with(|config| {
        config.new = vec![answers.address];
        config.rest.push_str(
            "[release.billing.outcome]\nbody = { path = \"$.resultCode\", not_equals = \"0\", max = \"16KiB\" }\n",
        );
    });
    let mut wire = scene.connect();
    wire.send(post("content-length: 5\r\n", "hello"));
    eventually(seconds(5), "it is at the origin", || (answers.count() == 1).then_some(()));
    drop(wire);
    scene.counts("server_error", 1.0);
}
