//! Rows 1 to 19: requirements for a client's HTTP/1.1 request.

use super::{RawOrigin, Scene, Wire, body, get, lines, post};

#[test]
fn row_01_length_beside_chunked_is_chunked_alone_upstream_and_the_end_of_the_connection() {
    let scene = Scene::start();
    let smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: grayling.test\r\n\r\n";
    for order in [
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ncontent-length: 53\r\n",
    ] {
        let mut wire = scene.connect();
        wire.send(post(order, smuggled));
        assert_eq!(wire.told().status, 200);
        assert!(wire.is_closed(), "what follows is not read");
        let received = scene.new.last();
        assert_eq!(lines(&received, "content-length"), [""; 0], "{received}");
        assert_eq!(lines(&received, "transfer-encoding"), ["transfer-encoding: chunked"], "{received}");
        assert_eq!(body(&received), "0\r\n\r\n");
    }
    assert_eq!(scene.received(), 2, "the smuggled request reached nobody");
    scene.nobody_is_blamed();
}

#[test]
fn row_02_a_transfer_encoding_other_than_one_chunked_is_400() {
    let scene = Scene::start();
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "identity, chunked",
        "chunked, identity",
        "gzip",
        "identity",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        ",chunked",
        "",
    ] {
        scene.refuses(400, post(&format!("transfer-encoding: {coding}\r\n"), "0\r\n\r\n"));
    }
    for two in [
        "chunked\r\ntransfer-encoding: chunked",
        "gzip\r\ntransfer-encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
    ] {
        scene.refuses(400, post(&format!("transfer-encoding: {two}\r\n"), "0\r\n\r\n"));
    }
    for other in [
        "transfer-encoding:\u{b}chunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer\u{0}-encoding: chunked\r\n",
    ] {
        scene.refuses(400, post(other, "0\r\n\r\n"));
    }
    assert_eq!(scene.send(post("Transfer-Encoding: CHUNKED\r\n", "3\r\nabc\r\n0\r\n\r\n")).status, 200);
    assert_eq!(body(&scene.new.last()), "3\r\nabc\r\n0\r\n\r\n");
    scene.nobody_is_blamed();
}

#[test]
fn row_03_chunked_in_http_1_0_and_lengths_that_are_none_are_400() {
    let scene = Scene::start();
    scene.refuses(400, "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    for length in
        ["+5", "-5", "5x", "0x5", "5 5", "5, 6", "", "99999999999999999999", "5\r\ncontent-length: 6"]
    {
        scene.refuses(400, post(&format!("content-length: {length}\r\n"), "hello"));
    }
    scene.nobody_is_blamed();
}

#[test]
fn row_04_equal_lengths_and_leading_zeros_are_one_canonical_length() {
    let scene = Scene::start();
    for length in ["5\r\ncontent-length: 5", "005", "5\r\ncontent-length: 005", "005\r\ncontent-length: 5"] {
        assert_eq!(
            scene.send(post(&format!("content-length: {length}\r\n"), "hello")).status,
            200,
            "{length}"
        );
        let received = scene.new.last();
        assert_eq!(lines(&received, "content-length"), ["content-length: 5"], "{received}");
        assert_eq!(body(&received), "hello");
    }
    assert_eq!(scene.send(post("content-length: 000\r\n", "")).status, 200);
    assert_eq!(lines(&scene.new.last(), "content-length"), ["content-length: 0"]);
    scene.nobody_is_blamed();
}

#[test]
fn row_05_bad_chunks_are_400_and_their_upstream_connection_is_never_used_again() {
    let scene = Scene::start();
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(40_000));
    let bad = [
        "zz\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\r\n0\r\n\r\n",
        "3\r\nabcX\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "11111111111111111\r\nabc\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        &long,
    ];
    let mut connections = 0;
    for chunks in bad {
        let mut wire = scene.connect();
        wire.send(post("transfer-encoding: chunked\r\n", chunks));
        let told = wire.told();
        assert_eq!(told.status, 400, "{:?}", &chunks[..chunks.len().min(40)]);
        assert!(wire.is_closed());
        connections += 1;
    }
    assert_eq!(scene.new.requests(), [""; 0], "no whole request");
    // If the response preceded the fault: the client's connection ends, and no arm is blamed.
    let mut wire = scene.connect();
    wire.send(post("content-length: 5\r\n", "hello"));
    assert_eq!(wire.told().status, 200);
    let fresh = scene.new.connections();
    assert!(fresh.iter().all(|c| *c as usize >= connections), "{fresh:?}");
    scene.counts("cancelled", bad.len() as f64);
    scene.nobody_is_blamed();
}

#[test]
fn row_06_nul_bare_cr_obs_fold_and_space_before_the_colon_are_400() {
    let scene = Scene::start();
    for line in [
        "x-a: a\0b\r\n",
        "x-a: a\rb\r\n",
        "x-a: a\r\n folded\r\n",
        "x-a: a\r\n\tfolded\r\n",
        "x-a : b\r\n",
        "x-a\t: b\r\n",
        " x-a: b\r\n",
        "x a: b\r\n",
        ": b\r\n",
        "x-a\r\n",
        "x-\u{e9}: b\r\n",
        "x-a: \u{7f}\r\n",
        "x\0a: b\r\n",
    ] {
        scene.refuses(400, get(line));
    }
    for request in [
        "GET /a\0b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET  /a HTTP/1.1\r\nhost: a\r\n\r\n",
        "G\rT /a HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /a HTTP/1.1\rhost: a\r\n\r\n",
        "GET /a HTTP/9.9\r\nhost: a\r\n\r\n",
        "GET /a HTTP/1.1 \r\nhost: a\r\n\r\n",
    ] {
        scene.refuses(400, request);
    }
    scene.nobody_is_blamed();
}

#[test]
fn row_07_no_host_two_hosts_or_an_invalid_host_is_400() {
    let scene = Scene::start();
    for hosts in [
        "",
        "host: a\r\nhost: a\r\n",
        "host: a\r\nHOST: b\r\n",
        "host: \r\n",
        "host: a b\r\n",
        "host: a,b\r\n",
        "host: u@a\r\n",
        "host: a/b\r\n",
        "host: a:80x\r\n",
        "host: http://a\r\n",
        "host: [::1\r\n",
        "host: a?b\r\n",
        "host: a#b\r\n",
        "host: \u{e9}\r\n",
    ] {
        scene.refuses(400, format!("GET / HTTP/1.1\r\n{hosts}x-user-id: alice\r\n\r\n"));
    }
    for good in ["host: a.example:8080\r\n", "host: [::1]:80\r\n", "host: 10.0.0.1\r\n"] {
        assert_eq!(scene.send(format!("GET / HTTP/1.1\r\n{good}x-user-id: a\r\n\r\n")).status, 200, "{good}");
        assert_eq!(lines(&scene.new.last(), "host"), [good.trim_end()]);
    }
    // RFC 9112 §3.2: HTTP/1.0 may omit it; the request upstream is HTTP/1.1, and has one.
    assert_eq!(scene.send("GET / HTTP/1.0\r\nx-user-id: a\r\n\r\n").status, 200);
    assert_eq!(lines(&scene.new.last(), "host"), [format!("host: {}", scene.new.address)]);
    scene.nobody_is_blamed();
}

#[test]
fn row_08_the_authority_of_an_absolute_target_replaces_host() {
    let scene = Scene::start();
    let request =
        |target: &str| format!("GET {target} HTTP/1.1\r\nhost: other.example\r\nx-user-id: alice\r\n\r\n");
    assert_eq!(scene.send(request("http://real.example:81/p?q=1")).status, 200);
    let received = scene.new.last();
    assert!(received.starts_with("GET /p?q=1 HTTP/1.1\r\n"), "{received}");
    assert_eq!(lines(&received, "host"), ["host: real.example:81"]);
    assert_eq!(lines(&received, "x-forwarded-host"), ["x-forwarded-host: real.example:81"]);
    assert_eq!(scene.send(request("http://real.example")).status, 200);
    assert!(scene.new.last().starts_with("GET / HTTP/1.1\r\n"));
    assert_eq!(scene.send(request("http://real.example?q=1")).status, 200);
    assert!(scene.new.last().starts_with("GET /?q=1 HTTP/1.1\r\n"), "{}", scene.new.last());
    for bad in [
        "?q=1",
        "http://?q=1",
        "http://user:pw@real.example/",
        "http://user@real.example/",
        "ftp://real.example/",
        "http:///p",
        "real.example:80",
        "*",
        "p",
    ] {
        scene.refuses(400, request(bad));
    }
    scene.refuses(400, "GET http://real.example/ HTTP/1.1\r\nx-user-id: alice\r\n\r\n");
    scene.nobody_is_blamed();
}

#[test]
fn row_09_connect_and_trace_are_405() {
    let scene = Scene::start();
    scene.refuses(405, "CONNECT real.example:443 HTTP/1.1\r\nhost: real.example:443\r\n\r\n");
    scene.refuses(405, "TRACE / HTTP/1.1\r\nhost: a\r\nx-secret: s\r\n\r\n");
    let told = scene.send("TRACE / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(told.header("allow").is_some_and(|v| v.contains("GET")), "{told:?}");
    scene.nobody_is_blamed();
}

#[test]
fn row_10_a_target_too_long_is_414_a_head_too_big_or_with_too_many_fields_431() {
    let scene = Scene::start();
    let uri = |n: usize| format!("GET /{} HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\n\r\n", "x".repeat(n));
    assert_eq!(scene.send(uri(8 * 1024 - 1)).status, 200);
    let before = scene.received();
    scene.refuses(414, uri(8 * 1024));
    scene.refuses(414, uri(20_000));
    scene.refuses(431, get(&format!("x-a: {}\r\n", "x".repeat(33 * 1024))));
    scene.refuses(431, get(&format!("x-a: {}\r\n", "x".repeat(500_000))));
    scene.refuses(431, get(&"x-a: b\r\n".repeat(99)));
    scene.refuses(431, get(&"x-a: b\r\n".repeat(2_000)));
    assert_eq!(scene.received(), before);
    assert_eq!(scene.send(get(&"x-a: b\r\n".repeat(98))).status, 200);
    assert_eq!(scene.send(get(&format!("x-a: {}\r\n", "x".repeat(31 * 1024)))).status, 200);
    scene.nobody_is_blamed();
}

#[test]
fn row_11_routes_match_the_normal_form_what_is_ambiguous_is_400_and_the_path_goes_as_it_came() {
    let api = RawOrigin::start();
    let scene = Scene::with(|config| {
        config.rest = format!(
            "[upstream.api]\nservers = [\"http://{}\"]\n[[route]]\npath = \"/api\"\nupstream = \"api\"\n",
            api.address
        );
    });
    let ask =
        |path: &str| scene.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\n\r\n")).status;
    for path in [
        "/api",
        "//api/x",
        "/x/../api/x",
        "/%61pi/x",
        "/./api//x",
        "/%2e%2E/api",
        "/api/x%20y?a=%2f/../",
        "/api/cars;color=red/1",
    ] {
        assert_eq!(ask(path), 200, "{path}");
        assert!(api.last().starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{path}: {}", api.last());
    }
    let of_api = api.requests().len();
    for path in [
        "/apix",
        "/api/../x",
        "/api/%2e%2e/x",
        "/x%2fy",
        "/x\\y",
        "/x?y=/../api",
        "/x;y/api",
        "/apix;y",
        "/x;/y?;/api",
    ] {
        assert_eq!(ask(path), 200, "{path}");
        assert!(scene.new.last().starts_with(&format!("GET {path} HTTP/1.1\r\n")), "{path}");
    }
    for path in [
        "/api%2fx",
        "/api%2Fx",
        "/api/a%2fb",
        "/x/..%2fapi",
        "/x%2f..%2f..%2fapi",
        "/api/..%5cx",
        "/api\\x",
        "/x/..;/api",
        "/api/..;a=b/x",
        "/api;x",
        "/api;x/y",
        "/api%3Bx/y",
        "/;x/api",
    ] {
        scene.refuses(400, format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-user-id: a\r\n\r\n"));
    }
    assert_eq!(api.requests().len(), of_api);
    scene.nobody_is_blamed();
}

#[test]
fn row_12_connection_cannot_name_what_is_decided_on_and_the_rest_it_names_is_removed() {
    let scene = Scene::start();
    for named in [
        "x-user-id",
        "close, X-User-Id",
        "X-Forwarded-For",
        "x-forwarded-anything",
        "host",
        "content-length",
        "a, b, c, d, e, f, g, h, i, j",
        "a, b, c, d, e\r\nconnection: f, g, h, i, j",
        "a b",
        "x@y",
    ] {
        scene.refuses(400, get(&format!("connection: {named}\r\n")));
    }
    let sent = get(
        "connection: x-once, , keep-alive\r\nconnection: X-Twice\r\nx-once: 1\r\nx-twice: 2\r\nkeep-alive: 5\r\nx-kept: 3\r\nte: gzip\r\nproxy-connection: x\r\nproxy-authorization: x\r\ntrailer: x\r\n",
    );
    assert_eq!(scene.send(sent).status, 200);
    let received = scene.new.last();
    for gone in [
        "connection",
        "x-once",
        "x-twice",
        "keep-alive",
        "te",
        "proxy-connection",
        "proxy-authorization",
        "trailer",
    ] {
        assert_eq!(lines(&received, gone), [""; 0], "{received}");
    }
    assert_eq!(lines(&received, "x-kept"), ["x-kept: 3"]);
    assert_eq!(scene.send(get("connection: a, b, c, d, e, f, g, h, i\r\n")).status, 200);
    scene.nobody_is_blamed();
}

#[test]
fn row_13_an_identity_twice_or_under_a_similar_name_is_400_and_one_in_a_trailer_is_dropped() {
    let scene = Scene::start();
    for more in [
        "x-user-id: bob\r\n",
        "X-User-ID: alice\r\n",
        "x_user_id: bob\r\n",
        "x-user_id: bob\r\n",
        "X_USER-ID: bob\r\n",
    ] {
        scene.refuses(400, get(more));
    }
    scene.refuses(400, "GET / HTTP/1.1\r\nhost: a\r\nx_user_id: bob\r\n\r\n");
    let chunks = "3\r\nabc\r\n0\r\nx-user-id: bob\r\nx-grayling-arm: new\r\n\r\n";
    assert_eq!(scene.send(post("transfer-encoding: chunked\r\ntrailer: x-user-id\r\n", chunks)).status, 200);
    let received = scene.new.last();
    assert_eq!(body(&received), "3\r\nabc\r\n0\r\n\r\n");
    assert!(!received.contains("bob"), "{received}");
    scene.nobody_is_blamed();
}

#[test]
fn row_14_no_id_an_empty_one_and_one_too_long_are_stable_and_counted() {
    let scene = Scene::start();
    let long = "x".repeat(257);
    let ids = ["", "x-user-id:\r\n", "x-user-id: \t \r\n", &format!("x-user-id: {long}\r\n")];
    for id in ids {
        for _ in 0..3 {
            assert_eq!(scene.send(format!("GET / HTTP/1.1\r\nhost: a\r\n{id}\r\n")).status, 200);
        }
    }
    assert_eq!((scene.stable.requests().len(), scene.new.requests().len()), (12, 0));
    assert_eq!(scene.proxy.api().metric("grayling_user_id_missing_total", &[]), Some(12.0));
    scene.nobody_is_blamed();
}

#[test]
fn row_15_what_a_stranger_says_of_forwarding_is_overwritten_and_of_grayling_removed() {
    let lies = "x-forwarded-for: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nx-forwarded-host: evil\r\nx-forwarded-port: 1\r\nx_forwarded_for: 1.2.3.4\r\nforwarded: for=1.2.3.4\r\nx-grayling-arm: stable\r\nx-grayling-release: r\r\nx_grayling_arm: stable\r\nx-grayling-else: 1\r\n";
    let scene = Scene::start();
    assert_eq!(scene.send(get(lies)).status, 200);
    let received = scene.new.last();
    assert_eq!(lines(&received, "x-forwarded-for"), ["x-forwarded-for: 127.0.0.1"]);
    assert_eq!(lines(&received, "x-forwarded-proto"), ["x-forwarded-proto: http"]);
    assert_eq!(lines(&received, "x-forwarded-host"), ["x-forwarded-host: grayling.test"]);
    assert_eq!(lines(&received, "x-grayling-arm"), ["x-grayling-arm: new"]);
    assert_eq!(lines(&received, "x-grayling-release"), ["x-grayling-release: billing"]);
    for gone in ["x-forwarded-port", "x_forwarded_for", "forwarded", "x_grayling_arm", "x-grayling-else"] {
        assert_eq!(lines(&received, gone), [""; 0], "{received}");
    }
    scene.nobody_is_blamed();

    let scene = Scene::with(|config| config.listen.push_str("\ntrusted_proxies = [\"127.0.0.0/8\"]"));
    assert_eq!(scene.send(get(lies)).status, 200);
    let received = scene.new.last();
    assert_eq!(lines(&received, "x-forwarded-proto"), ["x-forwarded-proto: https"]);
    let for_lines = lines(&received, "x-forwarded-for").join(" ");
    assert!(for_lines.contains("1.2.3.4") && for_lines.contains("127.0.0.1"), "{received}");
    assert_eq!(lines(&received, "x-grayling-arm"), ["x-grayling-arm: new"]);
    assert_eq!(lines(&received, "x-grayling-else"), [""; 0]);
}

#[test]
fn row_16_an_upgrade_to_h2c_is_removed_and_served_as_http_1_1() {
    let scene = Scene::start();
    let mut wire = scene.connect();
    let upgrade =
        "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n";
    wire.send(get(upgrade));
    assert_eq!(wire.told().status, 200);
    wire.send(get(""));
    assert_eq!(wire.told().status, 200, "the connection goes on in HTTP/1.1");
    for received in scene.new.requests() {
        for gone in ["connection", "upgrade", "http2-settings"] {
            assert_eq!(lines(&received, gone), [""; 0], "{received}");
        }
    }
    scene.nobody_is_blamed();
}

#[test]
fn row_19_expect_100_continue_works_and_another_expectation_is_417() {
    let scene = Scene::start();
    let mut wire: Wire = scene.connect();
    wire.send(post("content-length: 5\r\nexpect: 100-continue\r\n", ""));
    assert_eq!(wire.told().status, 100);
    wire.send("hello");
    assert_eq!(wire.told().status, 200);
    let received = scene.new.last();
    assert_eq!(body(&received), "hello");
    assert_eq!(lines(&received, "expect"), [""; 0]);
    for other in ["200-ok", "100-continue, x", "", "100-continue\r\nexpect: x"] {
        scene.refuses(417, post(&format!("content-length: 5\r\nexpect: {other}\r\n"), ""));
    }
    scene.nobody_is_blamed();
}
