//! Rows 20 to 22, and the HTTP/2 form of other rows.

use super::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, GET, GOAWAY, HEADERS, Http2, PING, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, block, frame, get_with,
};
use super::{OK, Scene, Script, Then, body, get, lines};
use crate::world::{eventually, figure, seconds, turn};
use std::time::Duration;

fn ask(scene: &Scene, fields: &[(&str, &str)]) -> End {
    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    http2.headers(1, fields, END_STREAM);
    http2.end_of(1)
}

fn refuses(scene: &Scene, status: u16, fields: &[(&str, &str)]) {
    let before = scene.received();
    let end = ask(scene, fields);
    assert!(end.is_refusal(status), "{fields:?}: {end:?}");
    assert_eq!(scene.received(), before, "an origin has received something of {fields:?}");
}

/// Without one of the pseudo-header fields, and with others.
fn instead<'a>(without: &str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = GET.iter().filter(|(name, _)| *name != without).copied();
    let pseudo = more.iter().filter(|(name, _)| name.starts_with(':')).copied();
    let rest = more.iter().filter(|(name, _)| !name.starts_with(':')).copied();
    pseudo.chain(kept).chain(rest).collect()
}

#[test]
fn row_17_a_tunnel_over_http2_is_not_offered_so_that_browsers_take_http_1_1() {
    let scene = Scene::start();
    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    let settings = http2.next().unwrap().expect("SETTINGS come first");
    assert_eq!(settings.kind, SETTINGS);
    // RFC 8441 §3: SETTINGS_ENABLE_CONNECT_PROTOCOL.
    assert!(settings.payload.chunks(6).all(|pair| pair[..2] != [0, 8]), "{:?}", settings.payload);
    let extended = instead(":method", &[(":method", "CONNECT"), (":protocol", "websocket")]);
    refuses(&scene, 405, &extended);
    scene.nobody_is_blamed();
}

#[test]
fn row_20_http2_has_one_authority_and_clean_fields() {
    let scene = Scene::start();
    assert_eq!(ask(&scene, &GET), End::Answer(200, "ok".into()));
    assert_eq!(lines(&scene.new.last(), "host"), ["host: grayling.test"]);
    assert!(scene.new.last().starts_with("GET /x HTTP/1.1\r\n"));
    assert_eq!(ask(&scene, &get_with(&[("host", "Grayling.TEST")])), End::Answer(200, "ok".into()));
    assert_eq!(lines(&scene.new.last(), "host"), ["host: grayling.test"]);
    assert_eq!(ask(&scene, &instead(":authority", &[("host", "b.test")])), End::Answer(200, "ok".into()));
    assert_eq!(lines(&scene.new.last(), "host"), ["host: b.test"]);

    refuses(&scene, 400, &get_with(&[("host", "other.test")]));
    refuses(&scene, 400, &get_with(&[("host", "grayling.test"), ("host", "grayling.test")]));
    refuses(&scene, 400, &instead(":authority", &[]));
    refuses(&scene, 400, &instead(":authority", &[(":authority", "")]));
    refuses(&scene, 400, &instead(":authority", &[("host", "a"), ("host", "b")]));
    refuses(&scene, 400, &instead(":authority", &[(":authority", "user:pw@grayling.test")]));
    refuses(&scene, 400, &instead(":authority", &[(":authority", "user@grayling.test")]));
    refuses(&scene, 400, &instead(":authority", &[(":authority", "a b")]));
    refuses(&scene, 400, &instead(":authority", &[(":authority", "a,b")]));
    refuses(&scene, 400, &instead(":scheme", &[(":scheme", "ftp")]));
    refuses(&scene, 400, &instead(":scheme", &[]));
    refuses(&scene, 400, &instead(":path", &[]));
    for path in ["", "x", "*", "http://grayling.test/x", "/a b"] {
        refuses(&scene, 400, &instead(":path", &[(":path", path)]));
    }
    for (name, value) in [
        ("x-a", " padded"),
        ("x-a", "padded "),
        ("x-a", "\tpadded"),
        ("x-user", "a\r\nx: y"),
        ("x-a", "a\0b"),
        ("X-Upper", "a"),
        ("x a", "b"),
        ("x:a", "b"),
        ("", "b"),
        ("connection", "close"),
        ("connection", "x-user-id"),
        ("keep-alive", "5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("te", "trailers, deflate"),
        (":method", "POST"),
        (":late", "pseudo"),
        (":status", "200"),
        ("x-user-id", "bob"),
        ("x_user_id", "bob"),
        ("content-length", "5"),
    ] {
        refuses(&scene, 400, &get_with(&[(name, value)]));
    }
    refuses(&scene, 417, &get_with(&[("expect", "else")]));
    refuses(&scene, 405, &instead(":method", &[(":method", "TRACE")]));
    refuses(&scene, 405, &[(":method", "CONNECT"), (":authority", "a:443")]);
    // It is for one hop (RFC 9110 §10.1.4), so `Connection` names it. HTTP/2: row 46.
    assert_eq!(ask(&scene, &get_with(&[("te", "trailers")])), End::Answer(200, "ok".into()));
    let asked = scene.new.last();
    assert_eq!(
        (lines(&asked, "te"), lines(&asked, "connection")),
        (vec!["te: trailers"], vec!["connection: te"])
    );
    scene.nobody_is_blamed();
}

#[test]
fn row_20_lengths_in_http2_are_one_and_true() {
    let scene = Scene::start();
    let post = |lengths: &[&'static str], data: &[u8]| {
        let mut fields = instead(":method", &[(":method", "POST")]);
        fields.extend(lengths.iter().map(|l| ("content-length", *l)));
        let mut http2 = Http2::connect(scene.proxy.http, &[]);
        http2.headers(1, &fields, 0);
        let _ = http2.send(&frame(DATA, END_STREAM, 1, data));
        http2.end_of(1)
    };
    for lengths in [&["4"][..], &["6"], &["5", "5"], &["5", "6"], &["+5"], &["x"], &["5, 5"], &[""]] {
        let end = post(lengths, b"hello");
        assert!(end.is_refusal(400), "{lengths:?}: {end:?}");
    }
    assert_eq!(scene.new.requests(), [""; 0], "no whole request");
    assert_eq!(post(&["005"], b"hello"), End::Answer(200, "ok".into()));
    assert_eq!(
        (lines(&scene.new.last(), "content-length"), body(&scene.new.last()).to_owned()),
        (vec!["content-length: 5"], "hello".into())
    );
    assert_eq!(post(&[], b"hello"), End::Answer(200, "ok".into()));
    let received = scene.new.last();
    assert_eq!(lines(&received, "transfer-encoding"), ["transfer-encoding: chunked"]);
    assert_eq!(body(&received), "5\r\nhello\r\n0\r\n\r\n");
    scene.nobody_is_blamed();
}

#[test]
fn row_21_crumbs_of_a_cookie_are_joined_before_http1() {
    let scene = Scene::with(|config| {
        config.rest.push_str("[identity]\nfrom = [{ cookie = \"uid\" }]\n");
    });
    let crumbs = [("cookie", "a=1"), ("cookie", "uid=carol"), ("cookie", "b=2; c=3")];
    assert_eq!(ask(&scene, &get_with(&crumbs)), End::Answer(200, "ok".into()));
    assert_eq!(lines(&scene.new.last(), "cookie"), ["cookie: a=1; uid=carol; b=2; c=3"]);
    scene.nobody_is_blamed();
}

#[test]
fn row_26_an_upstream_that_dies_in_mid_body_is_a_reset_stream() {
    let scene = Scene::start();
    let cut = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    scene.new.follows(Script { pieces: vec![cut.into()], then: Then::Close });
    assert_eq!(ask(&scene, &GET), End::Reset);
    scene.counts("truncated", 1.0);
}

#[test]
fn rows_10_and_13_in_http2_too_much_is_431_or_414_and_a_trailer_is_dropped() {
    let scene = Scene::start();
    let many = vec![("x-a", "b"); 120];
    refuses(&scene, 431, &get_with(&many));
    let long = "x".repeat(9_000);
    refuses(&scene, 414, &instead(":path", &[(":path", &format!("/{long}"))]));
    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    let mut big = block(&GET);
    (0..8).for_each(|_| big.extend(block(&[("x-big", &long)])));
    let pieces: Vec<&[u8]> = big.chunks(16_000).collect();
    for (i, piece) in pieces.iter().enumerate() {
        let kind = if i == 0 { HEADERS } else { CONTINUATION };
        let mut flags = if i == 0 { END_STREAM } else { 0 };
        flags |= if i + 1 == pieces.len() { END_HEADERS } else { 0 };
        let _ = http2.send(&frame(kind, flags, 1, piece));
    }
    let end = http2.end_of(1);
    assert!(end.is_refusal(431), "{end:?}");
    assert_eq!(scene.received(), 0);

    let mut http2 = Http2::connect(scene.proxy.http, &[]);
    http2.headers(1, &instead(":method", &[(":method", "POST")]), 0);
    let _ = http2.send(&frame(DATA, 0, 1, b"abc"));
    http2.headers(1, &[("x-user-id", "bob"), ("x-grayling-arm", "stable")], END_STREAM);
    assert_eq!(http2.end_of(1), End::Answer(200, "ok".into()));
    assert_eq!(body(&scene.new.last()), "3\r\nabc\r\n0\r\n\r\n");
    scene.nobody_is_blamed();
}

/// Resident memory of the proxy, in KiB.
fn resident_kib(scene: &Scene) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scene.proxy.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Has the attack ended, by a GOAWAY or a close of the proxy?
fn is_ended(http2: &mut Http2) -> bool {
    loop {
        match http2.next() {
            Err(_) => return true,
            Ok(Some(f)) if f.kind == GOAWAY => return true,
            Ok(Some(_)) => {}
            Ok(None) => return false,
        }
    }
}

/// Runs an attack on several connections at once. Each must end with GOAWAY; others are served
/// meanwhile and afterwards; no arm is blamed; memory grows by less than `growth_kib_max`.
fn attack(name: &str, growth_kib_max: u64, attack: impl Fn(&mut Http2) + Sync) {
    let _turn = turn();
    let scene = Scene::with(|config| {
        config.rest = "[log]\nsample = \"0%\"\n".into();
        config.limits = "keepalive_timeout = \"4s\"\nbody_idle_timeout = \"2s\"".into();
    });
    assert_eq!(scene.send(get("")).status, 200);
    let before = resident_kib(&scene);
    let mut peak = before;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut http2 = Http2::connect(scene.proxy.http, &[]);
                    attack(&mut http2);
                    http2.timeouts(seconds(15));
                    assert!(is_ended(&mut http2), "{name}: no GOAWAY and no end");
                })
            })
            .collect();
        let mut others = scene.connect();
        while threads.iter().any(|t| !t.is_finished()) {
            others.send(get(""));
            assert_eq!(others.told().status, 200, "{name}: others are served");
            peak = peak.max(resident_kib(&scene));
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    assert_eq!(scene.send(get("")).status, 200);
    figure(&format!(
        "row 22, {name}: resident memory {before} KiB, at most {peak} KiB during it, with 8 attackers"
    ));
    assert!(peak - before < growth_kib_max, "{name}: from {before} to {peak} KiB");
    scene.nobody_is_blamed();
}

#[test]
fn row_22_rapid_reset_ends_in_goaway() {
    attack("rapid reset", 30_000, |http2| {
        for n in 0..20_000 {
            let id = 2 * n + 1;
            let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, id, &block(&GET));
            pair.extend(frame(RST_STREAM, 0, id, &8u32.to_be_bytes()));
            if http2.send(&pair).is_err() {
                return;
            }
        }
    });
}

#[test]
fn row_22_resets_at_leisure_end_in_goaway() {
    attack("resets one by one", 30_000, |http2| {
        for n in 0..2_000 {
            let id = 2 * n + 1;
            // A POST whose body never comes: accepted, sent upstream, reset.
            let mut fields = GET;
            fields[0].1 = "POST";
            let one = frame(HEADERS, END_HEADERS, id, &block(&fields));
            if http2.send(&one).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
            if http2.send(&frame(RST_STREAM, 0, id, &8u32.to_be_bytes())).is_err() {
                return;
            }
        }
    });
}

#[test]
fn row_22_resets_that_the_server_is_made_to_send_end_in_goaway() {
    attack("made you reset", 30_000, |http2| {
        for n in 0..20_000 {
            let id = 2 * n + 1;
            let mut fields = GET;
            fields[0].1 = "POST";
            let mut pair = frame(HEADERS, END_HEADERS, id, &block(&fields));
            // RFC 9113 §6.9: an increment of 0 is a stream error.
            pair.extend(frame(WINDOW_UPDATE, 0, id, &0u32.to_be_bytes()));
            if http2.send(&pair).is_err() {
                return;
            }
        }
    });
}

#[test]
fn row_22_a_flood_of_continuations_ends_in_goaway() {
    attack("continuations", 30_000, |http2| {
        let _ = http2.send(&frame(HEADERS, END_STREAM, 1, &block(&GET)));
        let piece = block(&[("x-a", &"x".repeat(15_000))]);
        for _ in 0..20_000 {
            if http2.send(&frame(CONTINUATION, 0, 1, &piece)).is_err() {
                return;
            }
        }
    });
    attack("empty continuations", 30_000, |http2| {
        let _ = http2.send(&frame(HEADERS, END_STREAM, 1, &block(&GET)));
        for _ in 0..200_000 {
            if http2.send(&frame(CONTINUATION, 0, 1, b"")).is_err() {
                return;
            }
        }
    });
}

#[test]
fn row_22_a_header_bomb_stays_small_and_ends() {
    attack("header bomb", 40_000, |http2| {
        // An entry of 4,000 bytes in the table, then named 16,000 times in one block (RFC 7541
        // §6.1, §6.2.1).
        let mut entry = block(&GET);
        entry.extend([0x40, 1, b'a', 127]);
        let mut n = 4_000 - 127;
        while n >= 128 {
            entry.push((n % 128 + 128) as u8);
            n /= 128;
        }
        entry.push(n as u8);
        entry.extend(vec![b'x'; 4_000]);
        for stream in 0..100u32 {
            let mut bomb = if stream == 0 { entry.clone() } else { block(&GET) };
            bomb.resize(16_000, 0x80 | 62);
            if http2.send(&frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &bomb)).is_err() {
                return;
            }
        }
    });
}

#[test]
fn row_22_empty_data_ends_in_goaway() {
    attack("empty DATA", 30_000, |http2| {
        let mut fields = GET;
        fields[0].1 = "POST";
        http2.headers(1, &fields, 0);
        for _ in 0..200_000 {
            if http2.send(&frame(DATA, 0, 1, b"")).is_err() {
                return;
            }
        }
    });
}

#[test]
fn row_22_pings_do_not_keep_an_idle_connection_for_ever() {
    attack("pings", 30_000, |http2| {
        http2.timeouts(Duration::from_millis(50));
        for _ in 0..400 {
            if http2.send(&frame(PING, 0, 0, &[0; 8])).is_err() || http2.next().is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn row_22_windows_that_stay_shut_hold_no_response_and_no_upstream() {
    let _turn = turn();
    let scene =
        Scene::with(|config| config.limits = "body_idle_timeout = \"2s\"\nkeepalive_timeout = \"3s\"".into());
    let large = format!("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n{}", "x".repeat(1_000_000));
    scene.new.answers(large);
    let before = resident_kib(&scene);
    // No window at all; and a window of a single byte of each response.
    for window in [0, 1] {
        let done = scene.outcome("cancelled");
        let mut all: Vec<Http2> = (0..4).map(|_| Http2::connect(scene.proxy.http, &[(4, window)])).collect();
        for http2 in &mut all {
            (0..100).for_each(|n| http2.headers(2 * n + 1, &GET, END_STREAM));
        }
        let mut peak = before;
        // Well before the proxy's pings, which no client answers here, end the connections.
        eventually(seconds(9), "every response is given up, and blamed on its client", || {
            peak = peak.max(resident_kib(&scene));
            (scene.outcome("cancelled") == done + 400.0).then_some(())
        });
        figure(&format!(
            "row 22, window of {window}: resident memory {before} KiB, at most {peak} KiB with 400 streams of 1 MB"
        ));
        assert!(peak - before < 200_000, "from {before} to {peak} KiB");
        for http2 in &mut all {
            http2.timeouts(seconds(20));
            assert!(is_ended(http2), "a connection without a stream that lives is ended");
        }
    }
    scene.new.answers(OK);
    assert_eq!(scene.send(get("")).status, 200);
    scene.nobody_is_blamed();
}
