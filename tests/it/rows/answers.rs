//! Answers as real servers give them: trailers, answers before the end of the request, gRPC errors,
//! the reason of each error that the proxy makes itself (row 52).

use super::grpc::CALL;
use super::wire::{END_STREAM, HEADERS, Http2};
use super::{Scene, get, lines, post};
use crate::world::{Config, Nginx, World, eventually, seconds};
use std::io::{Read, Write};
use std::net::TcpListener;

#[test]
fn trailers_reach_a_client_that_asks_for_them_and_forbidden_ones_do_not() {
    let scene = Scene::start();
    let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum, set-cookie, x-grayling-arm\r\n\
                  transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
                  x-sum: 7\r\nset-cookie: a=1\r\nx-grayling-arm: new\r\ncontent-length: 9\r\n\r\n";
    scene.new.answers(answer);
    let read = |lines: &str| {
        let mut wire = scene.connect();
        wire.send(get(&format!("{lines}connection: close\r\n")));
        let mut all = Vec::new();
        while let some @ [_, ..] = &wire.read_some()[..] {
            all.extend_from_slice(some);
        }
        String::from_utf8_lossy(&all).into_owned()
    };
    for te in ["te: trailers\r\n", "te: gzip;q=0.5, trailers\r\n"] {
        let received = read(te);
        assert!(received.contains("\r\ntrailer: x-sum\r\n"), "{received}");
        assert!(received.ends_with("2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n"), "{received}");
        let asked = scene.new.last();
        assert_eq!(
            (lines(&asked, "te"), lines(&asked, "connection")),
            (vec!["te: trailers"], vec!["connection: te"])
        );
    }
    let received = read("");
    assert!(received.ends_with("2\r\nok\r\n0\r\n\r\n") && !received.contains("trailer"), "{received}");
    assert!(lines(&scene.new.last(), "te").is_empty());
    // HTTP/2 needs no announcement.
    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    http2.headers(1, &super::wire::get_with(&[("te", "trailers")]), END_STREAM);
    http2.next_of(&[HEADERS]);
    assert_eq!(http2.next_of(&[HEADERS]).flags & END_STREAM, END_STREAM);
}

#[test]
fn an_answer_before_the_end_of_the_request_reaches_the_client_though_the_server_closes() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            // A part of the request stays unread, so the close resets the connection.
            let _ = stream.read_exact(&mut [0; 10_000]);
            let answer = "HTTP/1.1 413 Too Large\r\nconnection: close\r\ncontent-length: 3\r\n\r\nbig";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let mut config = Config::new(address, address_of_nobody()).weight("0%").watchdog("enabled = false");
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    let request = post("content-length: 100000\r\n", &"x".repeat(100_000));
    for n in 0..200 {
        let mut wire = super::Wire::connect(proxy.http);
        wire.send(&request);
        let received = wire.told();
        assert_eq!((received.status, received.body.as_str()), (413, "big"), "request {n}");
    }
    let outcome = |outcome| proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]);
    eventually(seconds(5), "all are counted", || (outcome("client_error") == Some(200.0)).then_some(()));
}

#[test]
fn the_413_of_a_real_nginx_reaches_the_client() {
    let world = World::new();
    let nginx = Nginx::start_limited(&world, "stable", "client_max_body_size 1k;");
    let mut config = Config::new(nginx.address, address_of_nobody()).weight("0%").watchdog("enabled = false");
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    for length in [100_000, 3_000_000] {
        let request = post(&format!("content-length: {length}\r\n"), &"x".repeat(length));
        for n in 0..50 {
            let mut wire = super::Wire::connect(proxy.http);
            wire.send(&request);
            assert_eq!(wire.told().status, 413, "request {n} of {length} bytes");
        }
    }
}

/// No listener is there.
fn address_of_nobody() -> std::net::SocketAddr {
    "127.0.0.1:9".parse().unwrap()
}

#[test]
fn options_asterisk_goes_where_the_root_of_its_host_goes() {
    let scene = Scene::start();
    let received = scene.send("OPTIONS * HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: alice\r\n\r\n");
    assert_eq!(received.status, 200);
    assert!(scene.new.last().starts_with("OPTIONS * HTTP/1.1\r\n"), "{}", scene.new.last());
}

#[test]
fn row_52_each_error_of_the_proxy_has_its_reason_in_the_log_and_in_a_metric() {
    let scene = Scene::with(|config| {
        config.upstreams = "response_timeout = \"300ms\"".into();
        config.rest = "[log]\nsample = \"0%\"\n".into();
    });
    let head = "host: grayling.test\r\nx-user-id: alice\r\n";
    scene.new.answers("no http at all\r\n\r\n");
    let cases = [
        (get("connection: x-user-id\r\n"), 400, "bad_request"),
        (format!("TRACE / HTTP/1.1\r\n{head}\r\n"), 405, "method_not_served"),
        (get("expect: tea\r\n"), 417, "expectation"),
        // The HTTP library answers these.
        (get("x : y\r\n"), 400, "malformed_request"),
        (format!("GET / HTTP/1.1\r\n{head}x: {}\r\n\r\n", "y".repeat(200_000)), 431, "headers_too_big"),
        (get(""), 502, "connection_broken"),
    ];
    for (n, (request, status, detail)) in cases.iter().enumerate() {
        let received = scene.send(request);
        assert_eq!(received.status, *status, "{detail}: {received:?}");
        let counted = || scene.proxy.api().metric("grayling_errors_total", &[("detail", detail)]);
        eventually(seconds(5), detail, || (counted() == Some(1.0)).then_some(()));
        let logged =
            eventually(seconds(5), "a line for it", || scene.proxy.events("request").get(n).cloned());
        assert_eq!(
            (logged["status"].as_u64(), logged["detail"].as_str()),
            (Some(u64::from(*status)), Some(*detail))
        );
        if *detail == "malformed_request" {
            assert_eq!(logged["why"], "invalid HTTP header parsed");
            assert!(logged.get("path").is_none() && logged.get("route").is_none());
        }
    }
}

#[test]
fn row_52_a_grpc_call_gets_an_error_of_the_proxy_as_grpc() {
    let world = World::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    // It sends its SETTINGS, and then nothing.
    std::thread::spawn(move || {
        let open: Vec<_> = (silent.incoming().flatten())
            .map(|mut stream| stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).map(|()| stream))
            .collect();
        drop(open);
    });
    let mut config = Config::new(address, address_of_nobody());
    config = config.weight("0%").watchdog("enabled = false");
    config.upstreams = "http2 = true\nresponse_timeout = \"300ms\"".into();
    config.listen = "workers = 1".into();
    config.rest = "[log]\nsample = \"0%\"\n".into();
    let proxy = world.run(&config);
    let mut client = Http2::connect(proxy.http, &[]);
    let mut call = |stream, fields: &[(&str, &str)]| {
        client.headers(stream, fields, END_STREAM);
        client.next_of(&[HEADERS])
    };
    // A head alone that ends the stream.
    let answer = call(1, &CALL);
    assert_eq!((super::wire::status(&answer.payload), answer.flags & END_STREAM), (200, END_STREAM));
    let logged = eventually(seconds(5), "its line", || proxy.events("request").first().cloned());
    assert_eq!((logged["status"].as_u64(), logged["grpc_status"].as_u64()), (Some(200), Some(4)));
    assert_eq!(logged["detail"], "no_response_in_time");
    // A request that is refused before it has a route.
    let twice: Vec<_> = CALL.into_iter().chain([("x-user-id", "bob")]).collect();
    let answer = call(3, &twice);
    assert_eq!((super::wire::status(&answer.payload), answer.flags & END_STREAM), (200, END_STREAM));
    let logged = eventually(seconds(5), "its line", || proxy.events("request").get(1).cloned());
    assert_eq!((logged["grpc_status"].as_u64(), logged["detail"].as_str()), (Some(13), Some("bad_request")));
    // Not gRPC.
    let other = CALL.map(|(name, value)| (name, if name == "content-type" { "text/plain" } else { value }));
    let answer = call(5, &other);
    assert_eq!(super::wire::status(&answer.payload), 504);
}

#[test]
fn row_52_a_response_head_over_its_limits_is_502_with_its_reason() {
    let head = |fields: usize, bytes: usize| {
        let fields: String = (0..fields).map(|n| format!("x-{n}: {}\r\n", "v".repeat(bytes))).collect();
        format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok")
    };
    let received = |limits: &str, answer: String| {
        let scene = Scene::with(|config| config.limits = limits.into());
        scene.new.answers(answer);
        let status = scene.send(get("")).status;
        let logged = eventually(seconds(5), "a line", || scene.proxy.events("request").first().cloned());
        let detail = logged["detail"].as_str().map(str::to_owned);
        if status != 200 {
            assert_eq!(logged["why"], "response: over response_header_count or response_header_bytes");
            scene.counts("reset", 1.0);
        }
        (status, detail)
    };
    let over = (502, Some("response_headers_too_big".to_owned()));
    assert_eq!(received("", head(150, 1)), over);
    assert_eq!(received("response_header_count = 200", head(150, 1)), (200, None));
    assert_eq!(received("response_header_count = 20", head(19, 1)), (200, None));
    assert_eq!(received("response_header_count = 20", head(20, 1)), over);
    assert_eq!(received("", head(70, 1000)), over);
    assert_eq!(received("response_header_bytes = \"128KiB\"", head(70, 1000)), (200, None));
}

#[test]
fn row_52_in_http2_a_response_head_over_its_limits_is_502_with_its_reason() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = Config::new(listener.local_addr().unwrap(), address_of_nobody());
    config = config.weight("0%").watchdog("enabled = false");
    config.upstreams = "http2 = true".into();
    config.listen = "workers = 1".into();
    config.limits = "response_header_bytes = \"8KiB\"".into();
    let proxy = world.run(&config);
    let mut client = Http2::connect(proxy.http, &[]);
    let mut server = None;
    for (n, (fields, bytes, passes)) in
        [(20, 10, true), (150, 1, false), (20, 500, false)].into_iter().enumerate()
    {
        let stream = 2 * n as u32 + 1;
        client.headers(stream, &super::wire::get_with(&[]), END_STREAM);
        let server = server.get_or_insert_with(|| Http2::accept(&listener));
        let called = server.next_of(&[HEADERS]).stream;
        let fields: Vec<_> = (0..fields).map(|n| (format!("x-{n}"), "v".repeat(bytes))).collect();
        let mut head = vec![(":status", "200")];
        head.extend(fields.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        server.headers(called, &head, END_STREAM);
        let status = super::wire::status(&client.next_of(&[HEADERS]).payload);
        assert_eq!(status == 200, passes, "{n}");
    }
    let counted = || proxy.api().metric("grayling_errors_total", &[("detail", "response_headers_too_big")]);
    eventually(seconds(5), "both are counted", || (counted() == Some(2.0)).then_some(()));
}

#[test]
fn a_result_code_in_a_compressed_body_is_judged_and_an_unknown_coding_is_told_once() {
    let scene = Scene::with(|config| {
        config.release =
            "[release.billing.outcome]\nbody = { path = \"$.resultCode\", not_equals = \"0\" }".into();
    });
    let answer = |coding: &str, body: &[u8]| {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        scene.new.answers([head.as_bytes(), body].concat());
        assert_eq!(scene.send(get("")).status, 200);
    };
    // `{"resultCode": 17}` by gzip(1), brotli and zstd(1).
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    answer("gzip", &bytes(GZIP));
    scene.counts("server_error", 1.0);
    answer("br", &bytes(BROTLI));
    scene.counts("server_error", 2.0);
    answer("zstd", &bytes(ZSTD));
    scene.counts("server_error", 3.0);
    for n in 1..=3 {
        answer("deflate", b"whatever it is");
        scene.counts("ok", f64::from(n));
    }
    // Not what its head says.
    answer("gzip", b"{\"resultCode\": 17}");
    scene.counts("ok", 4.0);
    let unread = scene.proxy.api().metric("grayling_result_codes_unread_total", &[("arm", "new")]);
    assert_eq!(unread, Some(4.0));
    let received = scene.proxy.events("result_code_unread");
    assert_eq!((received.len(), received[0]["content_encoding"].as_str()), (1, Some("deflate")));
}

const GZIP: &str = "1f8b0800000000000203ab562a4a2d2ecd2971ce4f4955b2523034af05005608973312000000";
const BROTLI: &str = "8b08807b22726573756c74436f6465223a2031377d03";
const ZSTD: &str = "28b52ffd20129100007b22726573756c74436f6465223a2031377d";
