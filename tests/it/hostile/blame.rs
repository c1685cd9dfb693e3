//! HTTP/1.1 clients of users in `new`, with every kind of fault: none of it counts against `new`.

use super::{CROWD, Fault, Scene, connect, connect_with, crowd, hear, keep_pace, leave, pause, say};
use std::io::Read;
use std::net::Shutdown;

fn head(fault: &Fault<'_>, line: &str, fields: &str) -> String {
    format!("{line} HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: {}\r\n{fields}\r\n", fault.user)
}

#[test]
fn clients_that_leave_at_any_point_are_not_held_against_new() {
    let scene = Scene::start(|_, _| {});
    scene.suffers("left in mid-head", 64, 1, |f| {
        let stream = connect(f.address);
        let whole = head(f, "GET /", "x-more: of it\r\n");
        say(&stream, &whole[..1 + f.n as usize % (whole.len() - 1)]);
        leave(stream, f.n);
    });
    let gone_after = |f: &Fault<'_>, bytes: &str| {
        let all = crowd(f, bytes, None);
        keep_pace(f);
        keep_pace(f);
        all.into_iter().zip(0..).for_each(|(stream, n)| leave(stream, n));
        keep_pace(f);
    };
    scene.suffers("left while new thinks", 4, CROWD, |f| gone_after(f, &head(f, "GET /hang", "")));
    scene.suffers("left with the answer on its way", 4, CROWD, |f| {
        let all = crowd(f, &(head(f, "POST /", "content-length: 5\r\n") + "hello"), None);
        all.into_iter().zip(0..).for_each(|(stream, n)| leave(stream, n));
        keep_pace(f);
    });
    scene.suffers("left in mid-body of a known length", 4, CROWD, |f| {
        gone_after(f, &(head(f, "POST /", "content-length: 1000\r\n") + "a part"));
    });
    scene.suffers("left in mid-body in chunks", 4, CROWD, |f| {
        gone_after(f, &(head(f, "POST /", "transfer-encoding: chunked\r\n") + "5\r\nhello\r\n5\r\nhe"));
    });
    scene.suffers("left in mid-answer", 32, 1, |f| {
        let mut stream = connect_with(f.address, Some(4096)).expect("the proxy takes connections");
        say(&stream, head(f, "GET /large", ""));
        let _ = stream.read(&mut [0; 1000]);
        leave(stream, f.n);
    });
    scene.ends();
}

#[test]
fn clients_with_malformed_bodies_are_not_held_against_new() {
    let scene = Scene::start(|_, _| {});
    scene.suffers("a body that ends before its length", 64, 1, |f| {
        let stream = connect(f.address);
        say(&stream, head(f, "POST /", "content-length: 100\r\n") + "a part");
        let _ = stream.shutdown(Shutdown::Write);
        hear(&stream);
    });
    scene.suffers("chunks that end without the last", 64, 1, |f| {
        let stream = connect(f.address);
        say(&stream, head(f, "POST /", "transfer-encoding: chunked\r\n") + "5\r\nhello\r\n");
        let _ = stream.shutdown(Shutdown::Write);
        hear(&stream);
    });
    let broken = [
        "zz\r\nhello\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "-1\r\nhello\r\n",
        "ffffffffffffffffff\r\n",
        "5\nhello\n0\n\n",
        "5\r\nhello\r\n0\r\nno field\r\n\r\n",
    ];
    scene.suffers("malformed chunks", 64, 1, |f| {
        let stream = connect(f.address);
        let body = broken[f.n as usize % broken.len()];
        say(&stream, head(f, "POST /", "transfer-encoding: chunked\r\n") + body);
        let _ = stream.shutdown(Shutdown::Write);
        hear(&stream);
    });
    scene.suffers("rubbish after a request", 64, 1, |f| {
        let stream = connect(f.address);
        say(&stream, head(f, "GET /", "") + "\0\x01 rubbish\r\n\r\n");
        hear(&stream);
    });
    scene.ends();
}

#[test]
fn clients_that_are_slow_on_purpose_are_not_held_against_new() {
    let scene = Scene::start(|_, config| {
        config.limits =
            "header_timeout = \"300ms\"\nbody_idle_timeout = \"200ms\"\nkeepalive_timeout = \"500ms\"".into();
    });
    scene.suffers("a head that never ends", 24, CROWD, |f| {
        crowd(f, "GET / HTTP/1.1\r\nhost: gray", None).iter().for_each(|s| drop(hear(s)));
    });
    scene.suffers("a body that never ends", 24, CROWD, |f| {
        let body = match f.n % 2 {
            0 => head(f, "POST /", "content-length: 100\r\n") + "a part",
            _ => head(f, "POST /", "transfer-encoding: chunked\r\n") + "5\r\nhel",
        };
        for stream in crowd(f, &body, None) {
            assert!(hear(&stream).starts_with("HTTP/1.1 408 "), "the client's own fault");
        }
    });
    scene.suffers("an answer that is not read", 24, CROWD, |f| {
        let all = crowd(f, &head(f, "GET /large", ""), Some(4096));
        // The proxy's time-out ends them, which cannot be observed here without reading.
        pause(500);
        all.into_iter().for_each(|stream| leave(stream, 0));
    });
    scene.ends();
}

/// Requests that the proxy answers by itself, by status: other tests cover their meaning (rows 1 to
/// 19).
#[test]
fn requests_that_are_refused_are_not_held_against_new() {
    let scene = Scene::start(|_, _| {});
    let many = "x-a: b\r\n".repeat(150);
    let big = format!("x-a: {}\r\n", "x".repeat(40_000));
    let long = format!("GET /{}", "x".repeat(9_000));
    let options = "connection: a, b, c, d, e, f, g, h, i, j\r\n";
    let kinds: [(&str, &[(&str, &str)]); 7] = [
        (
            "400",
            &[
                ("GET /", "host: other.test\r\n"),
                ("GET /", "x-user-id: bob\r\n"),
                ("GET /", "x_user_id: bob\r\n"),
                ("GET /", "connection: x-user-id\r\n"),
                ("GET /", "connection: content-length\r\n"),
                ("GET /", options),
                ("POST /", "content-length: 5\r\ncontent-length: 6\r\n"),
                ("POST /", "content-length: +5\r\n"),
                ("POST /", "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
                ("POST /", "transfer-encoding: gzip, chunked\r\n"),
                ("GET ftp://a/", ""),
                ("GET http://u:p@a/", ""),
                ("GET *", ""),
                ("GET /", "x y: z\r\n"),
                ("GET /", "x : z\r\n"),
                ("GET /", "x: a\r\n folded\r\n"),
                ("GET /", "x: \0\r\n"),
            ],
        ),
        ("405", &[("TRACE /", ""), ("CONNECT a:443", "")]),
        ("414", &[(&long, "")]),
        ("417", &[("POST /", "expect: a miracle\r\ncontent-length: 1\r\n")]),
        ("431", &[("GET /", &many), ("GET /", &big)]),
        (
            "400",
            &[("GET /", "transfer-encoding: identity\r\n"), ("GET /", "transfer-encoding: xchunked\r\n")],
        ),
        ("HTTP", &[("GET /\u{1}", ""), ("GET", ""), ("GET / HTTP/9.9\r\nx:", ""), ("\0", "")]),
    ];
    for (status, requests) in kinds {
        let what =
            if status == "HTTP" { "no HTTP at all".to_owned() } else { format!("refused with {status}") };
        scene.suffers(&what, 64, 1, |f| {
            let stream = connect(f.address);
            let (line, fields) = requests[f.n as usize % requests.len()];
            say(&stream, head(f, line, fields));
            let said = hear(&stream);
            let refused = said.is_empty() || said.contains(status) || said.contains(" 400 ");
            assert!(refused, "{line:?} {fields:?}: {said}");
        });
    }
    scene.ends();
}

/// More clients than new's connections leave in mid-body, as fast as they can: for a moment there
/// is no room for others, and these clients are the cause.
#[test]
fn a_flood_of_clients_that_leave_is_not_held_against_new() {
    let scene = Scene::start(|_, config| {
        config.upstreams = "connections_max = 16\nrequests_in_flight_max = 64".into();
        config.limits = "body_idle_timeout = \"2s\"".into();
    });
    scene.suffers("a body that stalls on every connection that new may have", 8, CROWD, |f| {
        let body = head(f, "POST /", "content-length: 1000\r\n") + "a part";
        let all = crowd(f, &body, None);
        pause(150);
        all.into_iter().zip(0..).for_each(|(stream, n)| leave(stream, n));
    });
    let counts = scene.load.stop();
    assert!(counts.keys().all(|k| k == "200" || k == "503"), "{counts:?}");
    assert!(counts["200"] > 100, "{counts:?}");
}
