//! Responses before the end of the request, bodies with trailers, silent connections: against an
//! origin written byte by byte.

use crate::world::{Config, Proxy, World, eventually, raw, seconds, users_in_new};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Passes every connection to `serve`, on its own thread.
fn origin(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Reads up to the end of a head.
fn read_head(stream: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn answering(answer: &'static [u8], then: Duration) -> SocketAddr {
    origin(move |mut stream| {
        while !read_head(&mut stream).is_empty() {
            let _ = stream.write_all(answer);
            std::thread::sleep(then);
        }
    })
}

fn run(world: &World, new: SocketAddr, limits: &str) -> Proxy {
    let stable = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Duration::ZERO);
    let mut config = Config::new(stable, new).upstreams("response_timeout = \"1s\"");
    config.limits = limits.into();
    world.run(&config)
}

fn outcome(proxy: &Proxy, outcome: &str) -> f64 {
    proxy.api().metric("grayling_requests_total", &[("arm", "new"), ("outcome", outcome)]).unwrap_or(0.0)
}

fn post_head(user: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    )
}

#[test]
fn a_client_that_breaks_its_body_after_an_early_head_is_not_the_arms_fault() {
    let world = World::new();
    let new = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\nhello", seconds(30));
    let proxy = run(&world, new, "");
    let user = &users_in_new("user", 20, 1)[0];
    for broken in ["zz\r\nrubbish\r\n", ""] {
        let mut stream = TcpStream::connect(proxy.http).unwrap();
        stream.write_all(post_head(user).as_bytes()).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream.write_all(broken.as_bytes()).unwrap();
        let _ = stream.shutdown(Shutdown::Write);
        drop(stream);
    }
    eventually(seconds(5), "both are the client's", || (outcome(&proxy, "cancelled") == 2.0).then_some(()));
    assert_eq!(outcome(&proxy, "truncated"), 0.0);
}

#[test]
fn the_upstreams_time_begins_when_the_last_chunk_has_come() {
    let world = World::new();
    let new = origin(|mut stream| {
        while !read_head(&mut stream).is_empty() {
            let mut body = Vec::new();
            let mut byte = [0];
            while !body.ends_with(b"0\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                body.push(byte[0]);
            }
            std::thread::sleep(Duration::from_millis(500));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let proxy = run(&world, new, "");
    let mut stream = TcpStream::connect(proxy.http).unwrap();
    stream.write_all(post_head(&users_in_new("user", 20, 1)[0]).as_bytes()).unwrap();
    std::thread::sleep(Duration::from_millis(800)); // the client is slow
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"));
    eventually(seconds(5), "it is counted", || (outcome(&proxy, "ok") == 1.0).then_some(()));
}

#[test]
fn an_answer_with_trailers_is_counted_for_what_it_is() {
    let world = World::new();
    let new = answering(
        b"HTTP/1.1 500 No\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n2\r\nno\r\n0\r\nx-t: 1\r\n\r\n",
        Duration::ZERO,
    );
    let proxy = run(&world, new, "");
    let mut client = proxy.client();
    for user in users_in_new("user", 20, 4) {
        assert_eq!(client.get("/", &[("x-user-id", &user), ("te", "trailers")]).unwrap().status, 500);
    }
    eventually(seconds(5), "all failed", || (outcome(&proxy, "server_error") == 4.0).then_some(()));
}

#[test]
fn the_end_of_a_drain_cuts_an_answer_without_end_and_the_proxy_ends_with_0() {
    let world = World::new();
    let new = origin(|mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        while stream.write_all(b"5\r\nhello\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut proxy = run(&world, new, "drain = \"500ms\"");
    let user = &users_in_new("user", 20, 1)[0];
    let mut stream = TcpStream::connect(proxy.http).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\ncontent-length: 2\r\n\r\nhi").unwrap();
    assert!(read_head(&mut stream).starts_with("HTTP/1.1 200"));
    proxy.signal("TERM");
    assert_eq!(proxy.ends_within(seconds(10)).code(), Some(0), "{}", proxy.said());
}

#[test]
fn connections_that_say_nothing_do_not_keep_others_out() {
    let world = World::new();
    let new = answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", Duration::ZERO);
    let proxy = run(&world, new, "connections = 8\nheader_timeout = \"500ms\"");
    for said in [&b""[..], b"PRI", b"PRI * HTTP/2.0\r\n"] {
        let silent: Vec<TcpStream> = (0..8)
            .map(|_| {
                let mut stream = TcpStream::connect(proxy.http).unwrap();
                stream.write_all(said).unwrap();
                stream
            })
            .collect();
        let began = Instant::now();
        eventually(seconds(10), "there is room again", || {
            let answer =
                raw(proxy.http, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", seconds(2));
            answer.starts_with(b"HTTP/1.1 200").then_some(())
        });
        assert!(began.elapsed() < seconds(5), "{said:?}");
        drop(silent);
    }
}
