//! Rows 18 and 24 to 26: requirements for an upstream's response.
//! Violations count against its arm.

use super::{OK, Scene, Script, Then, Wire, get, post};
use crate::world::{RELEASE, eventually, seconds};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

fn script(pieces: &[&str], then: Then) -> Script {
    Script { pieces: pieces.iter().map(|p| p.as_bytes().to_vec()).collect(), then }
}

/// Waits for this many failures of `new` in the status, which is updated at intervals.
fn blamed(scene: &Scene, failures: u64) {
    eventually(seconds(5), "the failures are in the status", || {
        let arms = &scene.proxy.api().release()["arms"];
        (arms["new"]["failures"].as_u64() == Some(failures)).then_some(())
    });
}

/// Every faulty response is a 502 and counts as `reset` of `new`; its connection is not used again.
fn each_is_502(scene: &Scene, faulty: &[String]) {
    for (i, response) in faulty.iter().enumerate() {
        scene.new.answers(response.as_bytes());
        let told = scene.send(get(""));
        assert_eq!(told.status, 502, "{response:?} {told:?}");
        scene.counts("reset", (i + 1) as f64);
        scene.new.answers(OK);
        assert_eq!(scene.send(get("")).status, 200, "after {response:?}");
        let connections = scene.new.connections();
        let [.., of_fault, next] = connections[..] else { panic!("{connections:?}") };
        assert_ne!(of_fault, next, "used again after {response:?}");
    }
    blamed(scene, faulty.len() as u64);
}

#[test]
fn row_06_nul_bare_cr_and_obs_fold_in_a_response_are_502() {
    let scene = Scene::start();
    let lines = ["x-a: a\0b", "x-a: a\rb", "x-a: a\r\n folded", " x-a: b", "x-a"];
    let faulty = lines.map(|line| format!("HTTP/1.1 200 OK\r\n{line}\r\ncontent-length: 2\r\n\r\nok"));
    each_is_502(&scene, &faulty);
}

#[test]
fn row_06_white_space_before_the_colon_in_a_response_is_removed() {
    let scene = Scene::start();
    scene.new.answers(
        "HTTP/1.1 200 OK\r\nx-a : b\r\nx-b\t: c\r\ntransfer-encoding : chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    let told = scene.send(get(""));
    assert_eq!((told.status, told.body.as_str()), (200, "ok"));
    assert_eq!((told.header("x-a"), told.header("x-b")), (Some("b"), Some("c")));
    scene.counts("ok", 1.0);
}

#[test]
fn row_18_a_101_nobody_asked_for_and_a_flood_of_1xx_are_502_and_the_connection_is_destroyed() {
    let scene = Scene::with(|config| config.upstreams = "response_timeout = \"20s\"".into());
    let switch =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n".to_owned();
    let flood = format!("{}{OK}", "HTTP/1.1 102 Processing\r\n\r\n".repeat(200_000));
    each_is_502(&scene, &[switch, flood]);
    // A few are skipped.
    scene
        .new
        .answers(format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n{OK}"));
    let told = scene.send(get(""));
    assert_eq!((told.status, told.body.as_str()), (200, "ok"));
}

#[test]
fn row_24_bad_framing_in_a_response_is_502() {
    let scene = Scene::start();
    let heads = [
        "content-length: 2\r\ncontent-length: 3",
        "content-length: +2",
        "content-length: -2",
        "content-length: 2, 2",
        "content-length: x",
        "content-length: 2\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: gzip",
        "transfer-encoding: chunked, identity",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    ];
    let mut faulty: Vec<String> =
        heads.iter().map(|h| format!("HTTP/1.1 200 OK\r\n{h}\r\n\r\n2\r\nok\r\n0\r\n\r\n")).collect();
    faulty.push("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into());
    faulty.push("no http at all\r\n\r\n".into());
    faulty.push("HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n".into());
    faulty.push("HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n".into());
    each_is_502(&scene, &faulty);
}

#[test]
fn row_24_a_bad_chunk_in_a_response_body_never_ends_cleanly() {
    let scene = Scene::start();
    let bad = ["3\r\nabcX\r\n0\r\n\r\n", "3\r\nabc\r\nzz\r\n", "3\nabc\r\n0\r\n\r\n"];
    for (i, chunks) in bad.iter().enumerate() {
        scene.new.answers(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}"));
        let mut wire = scene.connect();
        wire.send(get(""));
        let mut all = Vec::new();
        while let some @ [_, ..] = &wire.read_some()[..] {
            all.extend_from_slice(some);
        }
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(!all.ends_with("0\r\n\r\n"), "{all:?}");
        scene.counts("truncated", (i + 1) as f64);
    }
}

#[test]
fn row_25_bytes_after_a_response_leave_it_intact_and_the_connection_is_never_used_again() {
    let scene = Scene::start();
    let ok = OK.to_owned();
    let (head, no_content, not_modified) = (
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n",
    );
    let more = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
    let cases: [(&str, &str, &str); 5] = [
        ("GET", &ok, "garbage"),
        ("GET", &ok, more),
        ("HEAD", head, "ok"),
        ("GET", no_content, "body"),
        ("GET", not_modified, "ok"),
    ];
    for (method, response, after) in cases {
        let together = format!("{response}{after}");
        for pieces in [&[together.as_str()][..], &[response, after]] {
            scene.new.follows(script(pieces, Then::Keep));
            let request = get("").replace("GET", method);
            let mut wire = scene.connect();
            wire.send(&request);
            let told = wire.told_head();
            let wanted = response.split(' ').nth(1).unwrap();
            assert_eq!(told.status.to_string(), wanted);
            if method == "GET" && wanted == "200" {
                assert_eq!(wire.read_some(), b"ok");
            }
            let sent_on = *scene.new.connections().last().unwrap();
            std::thread::sleep(Duration::from_millis(60)); // the bytes after it have arrived
            scene.new.answers(OK);
            wire.send(get(""));
            let told = wire.told();
            assert_eq!((told.status, told.body.as_str()), (200, "ok"), "after {method} {pieces:?}");
            assert_ne!(
                *scene.new.connections().last().unwrap(),
                sent_on,
                "used again after {method} {pieces:?}"
            );
        }
    }
    scene.nobody_is_blamed();
}

#[test]
fn row_26_an_upstream_that_dies_in_mid_body_never_ends_cleanly_for_the_client() {
    let scene = Scene::start();
    let cut = [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc",
    ];
    for (i, response) in cut.iter().enumerate() {
        scene.new.follows(script(&[response], Then::Close));
        let mut wire = scene.connect();
        wire.send(get(""));
        let mut all = Vec::new();
        while let some @ [_, ..] = &wire.read_some()[..] {
            all.extend_from_slice(some);
        }
        let all = String::from_utf8_lossy(&all).into_owned();
        assert!(all.starts_with("HTTP/1.1 200") && !all.ends_with("0\r\n\r\n"), "{all:?}");
        scene.counts("truncated", (i + 1) as f64);
    }
    blamed(&scene, 2);
}

/// The upstream answers before it has read the whole request; then the client's chunks break.
#[test]
fn row_05_a_bad_chunk_after_the_head_of_the_response_closes_and_is_the_clients() {
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = origin.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in origin.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                let _ = stream.read(&mut piece);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n");
                while let Ok(1..) = stream.read(&mut piece) {}
            });
        }
    });
    let scene = Scene::with(|config| config.new = vec![address]);
    for broken in ["zz\r\n", "3\r\nabcX\r\n"] {
        let mut wire: Wire = scene.connect();
        wire.send(post("transfer-encoding: chunked\r\n", "3\r\nabc\r\n"));
        assert_eq!(wire.told_head().status, 200);
        wire.send(broken);
        let mut all = Vec::new();
        while let some @ [_, ..] = &wire.read_some()[..] {
            all.extend_from_slice(some);
        }
        assert!(!all.ends_with(b"0\r\n\r\n"), "{all:?}");
    }
    // Or its client leaves in the middle of both bodies.
    let mut wire = scene.connect();
    wire.send(post("transfer-encoding: chunked\r\n", "3\r\nabc\r\n"));
    assert_eq!(wire.told_head().status, 200);
    drop(wire);
    eventually(seconds(5), "all have ended", || {
        let open = scene.proxy.api().metric("grayling_requests_in_flight", &[("release", RELEASE)]);
        (open == Some(0.0)).then_some(())
    });
    scene.counts("cancelled", 3.0);
    scene.nobody_is_blamed();
}

#[test]
fn a_get_with_a_chunked_body_keeps_its_body() {
    let scene = Scene::start();
    assert_eq!(scene.send(get("transfer-encoding: chunked\r\n") + "3\r\nabc\r\n0\r\n\r\n").status, 200);
    assert_eq!(super::body(&scene.new.last()), "3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(scene.send(get("content-length: 3\r\n") + "abc").status, 200);
    assert_eq!(super::body(&scene.new.last()), "abc");
}
