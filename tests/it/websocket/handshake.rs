//! Requests for a WebSocket, the upstream's agreement, and the data before it.

use super::{AGREES, KEY, Side, alive, handshake, is_silent, scene, user};
use crate::world::{H2Origin, RELEASE, eventually, seconds};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

#[test]
fn row_17_an_upgrade_is_decided_counted_and_tunnelled() {
    let scene = scene(|_| {});
    let mut client = scene.connect();
    client.send(handshake(
        &user(true),
        "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: x; y=1\r\nX-Once: 1\r\n",
    ));
    let mut server = scene.new.next();
    assert!(server.head.starts_with("GET /feed?x=1 HTTP/1.1\r\n"), "{}", server.head);
    for (name, value) in [
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", KEY),
        ("sec-websocket-version", "13"),
        ("sec-websocket-protocol", "a, b"),
        ("sec-websocket-extensions", "x; y=1"),
        ("host", "grayling.test"),
        ("x-grayling-arm", "new"),
        ("x-grayling-release", RELEASE),
        ("via", "1.1 grayling"),
    ] {
        assert_eq!(server.lines(name), [format!("{name}: {value}")], "{}", server.head);
    }
    assert_eq!(scene.metric("grayling_requests_in_flight", &[("arm", "new")]), 1.0);
    assert_eq!(scene.websockets(), 0.0);

    server.send(AGREES.replace(
        "\r\n\r\n",
        "\r\nSec-WebSocket-Protocol: b\r\nContent-Length: 7\r\nKeep-Alive: x\r\n\r\nat once",
    ));
    let told = client.told();
    assert_eq!(told.status, 101);
    for (name, value) in [
        ("connection", Some("upgrade")),
        ("upgrade", Some("websocket")),
        ("sec-websocket-accept", Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")),
        ("sec-websocket-protocol", Some("b")),
        ("content-length", None),
        ("transfer-encoding", None),
        ("keep-alive", None),
    ] {
        assert_eq!(told.header(name), value, "{told:?}");
    }
    assert_eq!(client.hear(7), "at once");
    alive(&mut client, &mut server);

    scene.has_websockets(1.0);
    assert_eq!(scene.metric("grayling_websockets", &[("release", RELEASE), ("arm", "new")]), 1.0);
    assert_eq!(scene.metric("grayling_requests_total", &[("arm", "new"), ("outcome", "ok")]), 1.0);
    assert_eq!(scene.metric("grayling_requests_in_flight", &[]), 0.0, "it is answered");
    assert_eq!(scene.metric("grayling_connections", &[]), 1.0);

    drop(client);
    assert!(server.is_closed());
    drop(server);
    scene.has_websockets(0.0);
    eventually(seconds(5), "no connection", || {
        (scene.metric("grayling_connections", &[]) == 0.0).then_some(())
    });
    assert_eq!(scene.metric("grayling_requests_total", &[("release", RELEASE)]), 1.0, "counted once");
}

#[test]
fn row_17_nothing_that_was_sent_too_early_reaches_the_upstream_before_it_has_agreed() {
    let scene = scene(|_| {});
    let mut client = scene.connect();
    client.send(handshake(&user(true), "") + "too early");
    let mut server = scene.new.next();
    client.send(", and more");
    assert!(server.from.buffer().is_empty() && is_silent(server.socket(), Duration::from_millis(300)));
    server.send(AGREES);
    assert_eq!(client.told().status, 101);
    server.hears("too early, and more");
    alive(&mut client, &mut server);
}

#[test]
fn row_17_what_was_sent_too_early_is_the_next_request_where_the_upstream_does_not_agree() {
    let scene = scene(|_| {});
    let mut client = scene.connect();
    let next = format!("GET /next HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: {}\r\n\r\n", user(true));
    client.send(handshake(&user(true), "") + &next);
    let mut server = scene.new.next();
    assert!(server.from.buffer().is_empty() && is_silent(server.socket(), Duration::from_millis(200)));
    server.send("HTTP/1.1 401 Unauthorized\r\nwww-authenticate: x\r\ncontent-length: 5\r\n\r\nlogin");
    let told = client.told();
    assert_eq!((told.status, told.body.as_str(), told.header("www-authenticate")), (401, "login", Some("x")));
    // On the same connections, both.
    server.head = server.request();
    assert!(server.head.starts_with("GET /next "), "{}", server.head);
    assert_eq!((server.lines("upgrade"), server.lines("connection")), (vec![], vec![]));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext");
    assert_eq!(client.told().body, "next");
    for (status, outcome) in [(404, "client_error"), (500, "server_error"), (200, "ok")] {
        let before = scene.outcome(outcome);
        client.send(handshake(&user(true), ""));
        server.head = server.request();
        server.send(format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\n\r\nno"));
        assert_eq!(client.told().status, status);
        eventually(seconds(5), outcome, || (scene.outcome(outcome) > before).then_some(()));
    }
}

#[test]
fn row_18_a_101_that_does_not_match_the_handshake_is_502_and_the_connection_is_destroyed() {
    let scene = scene(|_| {});
    let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
    let answers = [
        AGREES.replace("s3p", "S3p"),
        AGREES.replace(&format!("{accept}\r\n"), ""),
        AGREES.replace(accept, &format!("{accept}\r\n{accept}")),
        AGREES.replace("Upgrade: websocket", "Upgrade: h2c"),
        AGREES.replace("Upgrade: websocket\r\n", ""),
        AGREES.replace("Connection: Upgrade\r\n", ""),
        AGREES.replace("Connection: Upgrade", "Connection: close"),
    ];
    for (n, answer) in (1..).zip(&answers) {
        let mut client = scene.commands(true);
        let mut server = scene.new.next();
        server.send(answer);
        assert_eq!(client.told().status, 502, "{answer}");
        assert!(server.is_closed(), "{answer}");
        let reset = [("arm", "new"), ("outcome", "reset")];
        eventually(seconds(5), answer, || {
            (scene.metric("grayling_requests_total", &reset) == f64::from(n)).then_some(())
        });
    }
    assert_eq!(scene.websockets(), 0.0);
}

#[test]
fn row_16_an_upgrade_to_anything_else_is_removed_and_served_as_plain_http() {
    let scene = scene(|_| {});
    let mut server: Option<Side> = None;
    let mut client = scene.connect();
    for (connection, upgrade) in [
        ("upgrade", "websocket, h2c"),
        ("upgrade", "h2c, websocket"),
        ("upgrade", "websocket\r\nupgrade: h2c"),
        ("upgrade", "websocket\r\nupgrade: websocket"),
        ("upgrade", "websocket/13"),
        ("upgrade", "h2c"),
        ("upgrade", ""),
        ("keep-alive", "websocket"),
    ] {
        client.send(format!(
            "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {}\r\nconnection: {connection}\r\nupgrade: {upgrade}\r\nsec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n",
            user(true)
        ));
        let server = match &mut server {
            Some(server) => {
                server.head = server.request();
                server
            }
            none => none.insert(scene.new.next()),
        };
        assert_eq!((server.lines("upgrade"), server.lines("connection")), (vec![], vec![]), "{upgrade}");
        server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        assert_eq!(client.told().status, 200, "{upgrade}");
    }
    // HTTP/1.0 has no upgrades.
    let mut client = scene.connect();
    client.send(handshake(&user(true), "").replace("HTTP/1.1", "HTTP/1.0"));
    let server = server.as_mut().unwrap();
    server.head = server.request();
    assert_eq!((server.lines("upgrade"), server.lines("connection")), (vec![], vec![]));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(client.told().status, 200);
}

#[test]
fn row_17_a_handshake_that_is_none_is_400_and_reaches_nobody() {
    let scene = scene(|_| {});
    let good = handshake(&user(true), "");
    let key = format!("Sec-WebSocket-Key: {KEY}\r\n");
    for bad in [
        good.replace("GET", "POST"),
        good.replace("GET", "HEAD"),
        good.replace(&key, ""),
        good.replace(&key, &key.repeat(2)),
        good.replace(KEY, "c2hvcnQ="),
        good.replace(KEY, ""),
        good.replace("Sec-WebSocket-Version: 13\r\n", ""),
        good.replace("Sec-WebSocket-Version: 13\r\n", &"Sec-WebSocket-Version: 13\r\n".repeat(2)),
        good.replace("Upgrade\r\n", "Upgrade, sec-websocket-key\r\n"),
        handshake(&user(true), "Content-Length: 3\r\n") + "abc",
        handshake(&user(true), "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n",
    ] {
        let mut client = scene.connect();
        client.send(&bad);
        let told = client.told_head();
        assert_eq!(told.status, 400, "{bad}");
        assert_eq!(told.header("connection"), Some("close"), "{bad}");
    }
    assert!(scene.new.nobody_came());
    assert_eq!(scene.metric("grayling_requests_total", &[("release", RELEASE)]), 0.0, "nobody is blamed");
}

#[test]
fn a_server_that_speaks_http2_only_has_no_websockets_and_is_not_blamed() {
    let origin = H2Origin::start("new");
    let scene = scene(|config| {
        config.new = vec![origin.address];
        config.upstream_new = Some("http2 = true".into());
    });
    let mut client = scene.commands(true);
    let told = client.told();
    assert_eq!(told.status, 501);
    assert!(told.body.contains("HTTP/2"), "{told:?}");
    assert_eq!(scene.metric("grayling_requests_total", &[("arm", "new"), ("outcome", "rejected")]), 1.0);
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {}\r\n\r\n", user(true)));
    assert_eq!(client.told().status, 200, "the connection goes on");
}

#[test]
fn a_server_whose_settings_come_before_the_handshake_is_not_set_aside_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // An empty SETTINGS frame.
            let _ = stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
            std::thread::spawn(move || while let Ok(1..) = stream.read(&mut [0; 1000]) {});
        }
    });
    let scene = scene(|config| {
        config.new = vec![address];
        config.upstream_new = Some("http2 = true".into());
    });
    for _ in 0..10 {
        assert_eq!(scene.commands(true).told().status, 501);
    }
    assert_eq!((scene.outcome("rejected"), scene.outcome("connect_error")), (10.0, 0.0));
}

#[test]
fn row_17_a_websocket_to_an_http2_upstream_has_an_http_1_1_connection_of_its_own() {
    let scene = scene(|config| config.upstream_new = Some("http2 = true".into()));
    let (mut client, mut server) = scene.opens(true);
    assert!(server.head.starts_with("GET /feed?x=1 HTTP/1.1\r\n"), "{}", server.head);
    assert_eq!(server.lines("upgrade"), ["upgrade: websocket"]);
    alive(&mut client, &mut server);
    assert_eq!(scene.metric("grayling_requests_total", &[("arm", "new"), ("outcome", "ok")]), 1.0);
    // Over https by ALPN: `servers_are_reached_over_tls_and_verified_with_a_ca_of_ones_own`.
}
