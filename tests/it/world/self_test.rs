//! Tests of the test environment, without the proxy: a faulty origin would invalidate every other
//! test.

use super::{Behaviour, Client, Load, Nginx, Origin, World, eventually, raw, seconds, wrk};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

#[test]
fn an_origin_does_what_it_is_told_and_records_what_came() {
    let origin = Origin::start("v1");
    let mut client = Client::new(origin.address);
    client.timeout = Duration::from_millis(300);
    assert_eq!(client.get_as("alice").unwrap().text(), "v1");

    origin.behave(Behaviour::Status(500, 1.0));
    assert_eq!(client.get_as("alice").unwrap().status, 500);

    origin.behave(Behaviour::Echo);
    let answer = client.post("/pay", &[("x-key", "k1")], b"42").unwrap();
    assert!(answer.text().contains("POST /pay") && answer.text().contains("k1"), "{}", answer.text());

    origin.behave(Behaviour::CutBody);
    assert_eq!(client.get_as("alice").unwrap_err().kind(), ErrorKind::UnexpectedEof);

    origin.behave(Behaviour::Reset);
    let error = client.get_as("alice").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    origin.behave(Behaviour::Delay(Duration::from_millis(50)));
    let start = Instant::now();
    assert_eq!(client.get_as("alice").unwrap().status, 200);
    assert!(start.elapsed() >= Duration::from_millis(50));

    origin.behave(Behaviour::CloseAfter);
    assert_eq!(client.get_as("alice").unwrap().status, 200);
    eventually(seconds(5), "the kept connection is closed", || client.get_as("alice").err());

    origin.behave(Behaviour::Hang);
    let error = client.get_as("alice").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");

    let received = origin.received();
    assert_eq!(origin.total() as usize, received.len());
    let post = received.iter().find(|r| r.method == "POST").unwrap();
    assert_eq!(
        (post.path.as_str(), post.body.as_slice(), post.header("x-key")),
        ("/pay", &b"42"[..], Some("k1"))
    );
}

#[test]
fn an_origin_refuses_and_listens_again_on_the_same_port() {
    let origin = Origin::start("v1");
    let mut kept = Client::new(origin.address);
    assert_eq!(kept.get_as("a").unwrap().status, 200);
    origin.refuse();
    assert!(kept.get_as("a").is_err(), "a connection that stood is closed");
    assert_eq!(Client::new(origin.address).get_as("a").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    origin.listen();
    assert_eq!(Client::new(origin.address).get_as("a").unwrap().status, 200);
}

#[test]
fn the_client_reads_chunked_bodies_and_shows_raw_bytes() {
    let origin = Origin::start("v1");
    origin.behave(Behaviour::Echo);
    let chunked =
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    let answer = raw(origin.address, chunked, Duration::from_millis(200));
    assert!(String::from_utf8_lossy(&answer).ends_with("abcde"));
    assert_eq!(origin.received()[0].body, b"abcde");
    raw(
        origin.address,
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc",
        Duration::from_millis(50),
    );
    eventually(seconds(5), "a request cut short is counted apart", || {
        (origin.unfinished() == 1).then_some(())
    });
    assert_eq!(origin.total(), 1);
}

#[test]
fn wrk_counts_the_answers_of_a_real_nginx_and_of_a_failing_origin() {
    let world = World::new();
    let nginx = Nginx::start(&world, "v1");
    assert_eq!(Client::new(nginx.address).get_as("alice").unwrap().text(), "v1 alice\n");
    let counted = wrk(&world, nginx.address, 4, seconds(1)).finish();
    assert!(counted.requests > 100 && counted.non_2xx == 0 && counted.socket_errors == 0, "{counted:?}");

    let origin = Origin::start("v2");
    origin.behave(Behaviour::Status(500, 1.0));
    let counted = wrk(&world, origin.address, 4, seconds(1)).finish();
    assert!(counted.requests > 100 && counted.non_2xx == counted.requests, "{counted:?}");
    let load = Load::start(origin.address, 2, Duration::from_millis(1));
    eventually(seconds(5), "the load has had answers", || (load.total() > 20).then_some(()));
    let counts = load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["500"], "{counts:?}");
}
