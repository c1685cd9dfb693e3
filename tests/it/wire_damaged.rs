//! Deliberately damaged requests, byte for byte, to the real binary; and the requests that an
//! origin received for them.
//!
//! The claims are those of `proxy/guard.rs` and `proxy/headers.rs`, checked with a separate parser
//! that accepts only the strict grammar of RFC 9112.
//! A request at an origin has one meaning, contains no client field that is not meant for it, and
//! names the user that the arm was chosen for.

use crate::mutate;
use crate::rows::Scene;
use crate::world::{RELEASE, bucket, figure};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SEEDS: &[&str] = &[
    "GET /x HTTP/1.1\r\nhost: a.test\r\nx-user-id: alice\r\n\r\n",
    "GET /a/../b/%2e%2e/c?user=bob&x=1 HTTP/1.1\r\nHost: a.test:80\r\nX-User-Id: bob\r\nCookie: a=1; uid=\"carol\"\r\ncookie: b=2\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: a.test\r\nx-user-id: carol\r\ncontent-length: 5\r\n\r\nhello",
    "POST /x HTTP/1.1\r\nhost: a.test\r\nx-user-id: dave\r\ntransfer-encoding: chunked\r\ntrailer: x-user-id\r\n\r\n5\r\nhello\r\n3;a=b\r\nabc\r\n0\r\nx-user-id: eve\r\n\r\n",
    "GET http://b.test/x HTTP/1.1\r\nhost: a.test\r\nx-user-id: erin\r\nconnection: close, x-hop\r\nx-hop: 1\r\n\r\n",
    "GET /x HTTP/1.0\r\nx-user-id: frank\r\n\r\n",
    "GET /one HTTP/1.1\r\nhost: a.test\r\nx-user-id: grace\r\n\r\nGET /two HTTP/1.1\r\nhost: a.test\r\nx-user-id: heidi\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: a.test\r\nx-user-id: ivan\r\nx-forwarded-for: 1.2.3.4\r\nx-grayling-arm: new\r\nforwarded: for=1.2.3.4\r\nvia: 1.1 x\r\n\r\n",
    "POST /x HTTP/1.1\r\nhost: [::1]:80\r\nx-user-id: judy\r\nexpect: 100-continue\r\ncontent-length: 3\r\nte: trailers\r\nupgrade: h2c\r\n\r\nabc",
];

const WORDS: &[&str] = &[
    "\r\n",
    "\n",
    "\r",
    "\r\n\r\n",
    ":",
    " ",
    "\t",
    "\0",
    ",",
    ";",
    "_",
    "-",
    "0",
    "1",
    "+5",
    "0x5",
    "007",
    "ffffffffffffffff",
    "host",
    "Host: b\r\n",
    "host:a.test, b.test\r\n",
    "content-length: 5\r\n",
    "Content-Length: 0\r\n",
    "content-length",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: identity\r\n",
    "Transfer-Encoding : chunked\r\n",
    "transfer_encoding: chunked\r\n",
    "chunked",
    "chunked, chunked",
    "x-user-id: mallory\r\n",
    "x_user_id: mallory\r\n",
    "X-User-Id",
    "x-user-id",
    "connection: x-user-id\r\n",
    "connection: content-length\r\n",
    "connection: host\r\n",
    "connection: keep-alive\r\n",
    "proxy-connection: close\r\n",
    "keep-alive: 5\r\n",
    "x-grayling-arm: new\r\n",
    "x_grayling_release: r\r\n",
    "X-Grayling-",
    "x-forwarded-for: 6.6.6.6\r\n",
    "x_forwarded_for: 6.6.6.6\r\n",
    "expect: 100-continue\r\n",
    "upgrade: h2c\r\n",
    "te: chunked\r\n",
    "GET",
    "POST",
    "CONNECT",
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2.0",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "*",
    "/",
    "//",
    "/../",
    "%2e",
    "%2f",
    "%00",
    "\\",
    "?",
    "#",
    "@",
    "http://",
    "http://u@b.test/",
    "ä",
    "\u{ff}",
    "0\r\n\r\n",
    "5\r\nhello\r\n",
    "GET /smuggled HTTP/1.1\r\nhost: c.test\r\n\r\n",
];

/// Fields of one connection, and fields that only grayling writes.
const NEVER: [&str; 9] = [
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
    "trailer",
    "upgrade",
    "expect",
    "forwarded",
];

/// Parses a request at an origin by the strict grammar: name in lower case and value of each field.
fn strictly(request: &[u8]) -> Result<Vec<(String, Vec<u8>)>, String> {
    let end = request.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no end of the head")?;
    let (head, body) = (&request[..end], &request[end + 4..]);
    let text: Vec<&[u8]> = split(head);
    if head.iter().zip(head.iter().skip(1)).any(|(a, b)| (*a == b'\r') != (*b == b'\n'))
        || head.ends_with(b"\r")
    {
        return Err("a CR or an LF alone".into());
    }
    let [line, fields @ ..] = &text[..] else { return Err("no request line".into()) };
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [method, target, b"HTTP/1.1"] = words[..] else { return Err("request line".into()) };
    let is_token = |word: &[u8]| {
        !word.is_empty() && word.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
    };
    if !is_token(method) || method == b"CONNECT" || method == b"TRACE" {
        return Err("method".into());
    }
    if !(target.starts_with(b"/") || target == b"*" && method == b"OPTIONS")
        || target.iter().any(|b| *b <= b' ' || *b == 0x7f || *b == b'#')
    {
        return Err("target".into());
    }
    let mut parsed = Vec::new();
    for field in fields {
        let colon = field.iter().position(|b| *b == b':').ok_or("a field without a colon")?;
        let (name, value) = (&field[..colon], field[colon + 1..].trim_ascii());
        if !is_token(name) || value.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
            return Err(format!("field {:?}", String::from_utf8_lossy(field)));
        }
        parsed.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
    framed(&parsed, body)?;
    Ok(parsed)
}

fn split(head: &[u8]) -> Vec<&[u8]> {
    let (mut lines, mut rest) = (Vec::new(), head);
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}

fn all<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Vec<&'a [u8]> {
    fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_slice()).collect()
}

/// One length or one coding, and the body has it.
fn framed(fields: &[(String, Vec<u8>)], body: &[u8]) -> Result<(), String> {
    match (&all(fields, "content-length")[..], &all(fields, "transfer-encoding")[..]) {
        ([], []) if body.is_empty() => Ok(()),
        ([length], []) => match std::str::from_utf8(length).map(str::parse::<usize>) {
            Ok(Ok(n)) if n == body.len() && length == &n.to_string().as_bytes() => Ok(()),
            _ => Err(format!("a length of {:?} and {} bytes", String::from_utf8_lossy(length), body.len())),
        },
        ([], [b"chunked"]) if body.ends_with(b"0\r\n\r\n") => Ok(()),
        framing => Err(format!("framing {framing:?}, {} bytes of body", body.len())),
    }
}

/// The fault of a request that an origin of this arm received.
fn fault(request: &[u8], arm: &str, percent: u32) -> Result<(), String> {
    let fields = strictly(request)?;
    for (name, value) in &fields {
        // Of these the proxy sends its own: it asks for trailers where the client takes them.
        let asks = [("connection", &b"te"[..]), ("te", b"trailers")];
        if asks.iter().any(|(asked, only)| name == asked && value != only) {
            return Err(format!("`{name}` came through"));
        }
        let folded = name.replace('_', "-");
        let ours = ["x-grayling-arm", "x-grayling-release"].contains(&name.as_str());
        if NEVER.contains(&name.as_str()) || folded.starts_with("x-grayling-") && !ours {
            return Err(format!("`{name}` came through"));
        }
        if folded.starts_with("x-forwarded-") && name.contains('_')
            || folded == "x-user-id" && name.contains('_')
        {
            return Err(format!("`{name}` came through"));
        }
    }
    // An HTTP/1.0 request may have none; then the proxy sets the server's own name.
    let once = |name: &str| match all(&fields, name)[..] {
        [value] => Ok(value),
        ref values => Err(format!("{} of `{name}`", values.len())),
    };
    once("host")?;
    once("x-request-id")?;
    if once("x-forwarded-for")? != b"127.0.0.1"
        || once("x-forwarded-proto")? != b"http"
        || all(&fields, "x-forwarded-host").len() > 1
    {
        return Err("a stranger is believed".into());
    }
    if once("x-grayling-arm")? != arm.as_bytes() || once("x-grayling-release")? != RELEASE.as_bytes() {
        return Err("the arm is not the one it was sent to".into());
    }
    let user = match all(&fields, "x-user-id")[..] {
        [] => &b""[..],
        [id] => id,
        _ => return Err("two users".into()),
    };
    let in_new = !user.is_empty() && user.len() <= 256 && bucket(RELEASE, user) < percent * 10_000;
    if in_new != (arm == "new") {
        return Err(format!("user {:?} in {arm}", String::from_utf8_lossy(user)));
    }
    Ok(())
}

/// All responses until the proxy closes.
fn answers(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("the proxy listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Closing our half would count as leaving.
    // A connection left open ends with this request, or soon by a time-out.
    let end = b"\r\n\r\nGET /end HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
    let _ = stream.write_all(&[bytes, end].concat());
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return answer,
            Ok(n) => answer.extend_from_slice(&piece[..n]),
            Err(e) => {
                let slow = matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
                assert!(!slow, "left open after {:?}", String::from_utf8_lossy(bytes));
                return answer;
            }
        }
    }
}

fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let lines = text.split("HTTP/1.").skip(1);
    lines.filter_map(|line| line.get(2..5)?.parse().ok()).filter(|status| *status >= 200).collect()
}

#[test]
fn what_an_origin_receives_of_damaged_requests_has_one_meaning_and_one_user() {
    const PERCENT: u32 = 50;
    let scene = Scene::with(|config| {
        config.weight = format!("{PERCENT}%");
        config.rest = "[log]\nsample = \"0%\"\n".into();
        config.limits =
            "header_timeout = \"100ms\"\nbody_idle_timeout = \"100ms\"\nkeepalive_timeout = \"100ms\"".into();
    });
    let start = Instant::now();
    let (sent, forwarded, refused) = (Cell::new(0u64), Cell::new(0u64), Cell::new(0u64));
    let last = RefCell::new(String::new());
    let add = |to: &Cell<u64>, n: usize| to.set(to.get() + n as u64);
    let mut runner = TestRunner::new(mutate::cases(300));
    let result = runner.run(&mutate::damaged(SEEDS, WORDS), |bytes| {
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        let answer = answers(scene.proxy.http, &bytes);
        let statuses = statuses(&answer);
        add(&sent, 1);
        for status in &statuses {
            let known = [200, 400, 404, 405, 408, 413, 414, 417, 431, 501, 505].contains(status);
            prop_assert!(known, "{status} to {:?}: {:?}", shown(), String::from_utf8_lossy(&answer));
        }
        let mut received = Vec::new();
        for (arm, origin) in [("stable", &scene.stable), ("new", &scene.new)] {
            for request in origin.take() {
                let became = String::from_utf8_lossy(&request).into_owned();
                if let Err(why) = fault(&request, arm, PERCENT) {
                    prop_assert!(false, "{why}: {:?} became {became:?}", shown());
                }
                received.push(became);
            }
        }
        // As many as were answered: none smuggled inside another.
        let served = statuses.iter().filter(|s| **s == 200).count();
        let before = last.replace(shown());
        prop_assert!(
            received.len() == served,
            "{received:?} received, {statuses:?} answered: {:?} after {before:?}",
            shown()
        );
        add(&forwarded, received.len());
        add(&refused, statuses.len() - served);
        Ok(())
    });
    if let Err(proptest::test_runner::TestError::Fail(why, _)) = result {
        panic!("{why}");
    }
    scene.nobody_is_blamed();
    let (sent, forwarded, refused) = (sent.get(), forwarded.get(), refused.get());
    let each = start.elapsed().as_secs_f64() * 1e3 / sent as f64;
    figure(&format!("{sent} damaged requests: {forwarded} forwarded, {refused} refused, {each:.1} ms each"));
    assert!(forwarded * 10 > sent && refused * 10 > sent, "the seeds or the words have lost their meaning");
}

/// A permanent regression test for a finding of the test above.
#[test]
fn a_target_without_a_path_is_asked_for_as_a_slash() {
    let scene = Scene::start();
    for target in ["http://b.test", "http://b.test/", "http://b.test#/x", "http://b.test#", "/#x", "/"] {
        let told = scene.send(format!("GET {target} HTTP/1.1\r\nhost: a.test\r\nx-user-id: alice\r\n\r\n"));
        assert_eq!(told.status, 200, "{target}");
        let received = scene.new.take();
        assert!(
            received[0].starts_with(b"GET / HTTP/1.1\r\n"),
            "{target}: {:?}",
            String::from_utf8_lossy(&received[0])
        );
    }
    scene.nobody_is_blamed();
}
