//! Feeds deliberately damaged request heads to all code that reads them before an upstream does:
//! validate, identity, headers.
//!
//! Heads that hyper would refuse are included as far as its types allow, since no code in this
//! folder may depend on hyper's checks.

use super::headers::{self, Forwarded, HeadFacts, Peer};
use super::{identity, path, validate};
use crate::domain::config::{
    Identity, IdentitySource, Normalise, PathPattern, RequestLimits, ResponseHeadLimits,
};
use crate::mutate;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use http_body_util::Full;
use proptest::prelude::*;
use std::net::IpAddr;
use std::time::Duration;

const SEEDS: &[&str] = &[
    "GET /accounts/42/x?user=bob\nhost: a.test\nx-user-id: alice\ncookie: a=1; uid=\"carol\"\n",
    "GET /?user=b%6Fb&user=eve\nhost: a.test\ncookie: a=1\ncookie: uid=carol\ncookie: uid=dave\n",
    "POST /accounts/%34%32\nhost: a.test:80\nx-user-id:  dave \ncontent-length: 007\n",
    "POST /a/../accounts/7\nhost: [::1]\nx-user-id: erin\ntransfer-encoding: chunked\nexpect: 100-continue\n",
    "GET /x\nhost: a.test\nconnection: close, x-hop\nx-hop: 1\nx-forwarded-for: 6.6.6.6, ::ffff:10.0.0.1\nx-grayling-arm: new\n",
    "GET /x\nhost: a.test\nte: trailers\nupgrade: h2c\nhttp2-settings: x\nkeep-alive: 5\nforwarded: for=1.1.1.1\nvia: 1.0 x\nx-request-id: r\n",
];

const WORDS: &[&str] = &[
    "\n",
    ":",
    ": ",
    ",",
    ";",
    "=",
    "\"",
    " ",
    "\t",
    "_",
    "-",
    "%",
    "%2f",
    "%2e%2e",
    "/",
    "//",
    "..",
    "\\",
    "?",
    "&",
    "+",
    "0",
    "99999999999999999999",
    "x-user-id: mallory\n",
    "x_user_id: mallory\n",
    "X-User-Id",
    "cookie: uid=mallory\n",
    "uid=",
    "user=mallory",
    "accounts",
    "connection: x-user-id\n",
    "connection: cookie\n",
    "connection: content-length\n",
    "connection: x-forwarded-for\n",
    "connection: x_grayling_arm\n",
    "content-length: 5\n",
    "transfer-encoding: chunked\n",
    "host: b.test\n",
    "host",
    "x-grayling-arm: new\n",
    "x_grayling_release: r\n",
    "x-grayling-: \n",
    "x-forwarded-for: 6.6.6.6\n",
    "x-forwarded-for: unknown\n",
    "x_forwarded_proto: https\n",
    "10.0.0.1",
    "::1",
    "expect: 100-continue\n",
    "proxy-connection: close\n",
    "trailer: x-user-id\n",
    "traceparent: 00-0-0-00\n",
    "\u{0}",
    "ä",
    "\u{ff}",
];

fn identity() -> Identity {
    let pattern = PathPattern { segments: vec![Some("accounts".into()), None] };
    Identity {
        from: vec![
            IdentitySource::Header(HeaderName::from_static("x-user-id")),
            IdentitySource::Cookie("uid".into()),
            IdentitySource::Query("user".into()),
            IdentitySource::Path(pattern),
        ],
        normalise: Normalise::Lowercase,
        max_bytes: 12,
    }
}

fn limits() -> RequestLimits {
    RequestLimits {
        header_bytes: 8192,
        header_count: 40,
        response_head: ResponseHeadLimits { bytes: 8192, fields: 40 },
        uri_bytes: 4096,
        connections: 1,
        requests_in_flight: 1,
        header_timeout: Duration::ZERO,
        body_idle_timeout: Duration::ZERO,
        request_buffer: 0,
        keepalive_timeout: Duration::ZERO,
        drain: Duration::ZERO,
        abandoned_max: None,
        stream_grace: Duration::from_secs(1),
    }
}

/// A head, as far as hyper's types can hold it.
fn head(bytes: &[u8], version: Version) -> Option<Parts> {
    let mut lines = bytes.split(|b| *b == b'\n');
    let mut words = lines.next()?.split(|b| *b == b' ');
    let request = Request::builder().version(version).method(words.next()?).uri(words.next()?);
    let fields = lines.filter_map(|line| {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
    });
    let (mut parts, ()) = request.body(()).ok()?.into_parts();
    parts.headers = HeaderMap::new();
    for (name, value) in fields {
        parts.headers.append(name, value);
    }
    Some(parts)
}

fn admit(parts: &Parts) -> Option<HeadFacts> {
    let length = parts.headers.get("content-length").and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let body = Full::new(bytes::Bytes::from(vec![0; length.unwrap_or(0).min(4096)]));
    validate::validate_head(parts, &body, &identity(), &limits()).ok()
}

fn user(parts: &Parts) -> Option<Vec<u8>> {
    let reading = path::read(parts.uri.path());
    let found = identity::user_id(&identity(), &parts.headers, &parts.uri, &reading.normal, None);
    found.map(|id| id.into_owned())
}

fn trusted(ip: IpAddr) -> bool {
    ip.to_string().starts_with("10.")
}

proptest! {
    #![proptest_config(mutate::cases(512))]

    #[test]
    fn what_passes_of_a_damaged_head_says_the_same_to_the_upstream_as_it_said_here(
        bytes in mutate::damaged(SEEDS, WORDS),
        http2: bool,
        believed: bool,
    ) {
        let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        let Some(mut parts) = head(&bytes, version) else { return Ok(()) };
        if let Some(address) = headers::forwarded_address(&parts.headers, trusted) {
            prop_assert_eq!(address, address.to_canonical());
        }
        // Also for a head that will be refused: no panic, no empty id, none that is too long.
        if let Some(id) = user(&parts) {
            prop_assert!(!id.is_empty() && id.len() <= 12 && !id.iter().any(u8::is_ascii_uppercase), "{id:?}");
        }
        let Some(facts) = admit(&parts) else { return Ok(()) };
        if facts.reserved {
            headers::drop_reserved(&mut parts.headers);
        }
        let before = user(&parts);
        let peer = if believed { Peer::Trusted } else { Peer::Stranger };
        let host = parts.headers.get("host").cloned();
        let address = "192.0.2.1".parse().unwrap();
        let by = &headers::address_value(address);
        let forwarded = Forwarded { by, peer, scheme: "http", host: host.as_ref(), facts };
        headers::for_upstream(&mut parts.headers, &forwarded, || 7);
        prop_assert_eq!(&before, &user(&parts), "the upstream reads another user");

        let of = |name: &str| parts.headers.get_all(name).iter().count();
        for never in [
            "connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "expect", "http2-settings",
            "proxy-authorization",
        ] {
            prop_assert_eq!(of(never), 0, "{}", never);
        }
        for name in parts.headers.keys() {
            prop_assert!(!headers::begins_like(name, headers::X_GRAYLING), "{name}");
        }
        prop_assert!(of("content-length") <= 1 && of("cookie") <= 1 && of("host") <= 1 && of("traceparent") >= 1);
        prop_assert!(of("x-request-id") >= 1 && of("via") >= 1);
        if !believed {
            let claims: Vec<_> = parts.headers.iter().filter(|(name, _)| headers::begins_like(name, headers::X_FORWARDED)).collect();
            prop_assert!(claims.len() == 2 + usize::from(host.is_some()), "{claims:?}");
            prop_assert_eq!(&parts.headers["x-forwarded-for"], "192.0.2.1");
            prop_assert_eq!(of("forwarded"), 0);
        }
        // A second proxy like this one would admit it, and find the same.
        parts.version = Version::HTTP_11;
        parts.headers.entry("host").or_insert(HeaderValue::from_static("a.test"));
        prop_assert!(admit(&parts).is_some(), "what was admitted once is refused as it is forwarded: {:?}", parts);
    }
}
