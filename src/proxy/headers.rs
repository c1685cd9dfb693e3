//! Removes and adds header fields between client and upstream.
//!
//! Invariants: hop-by-hop fields are never forwarded (RFC 9110 §7.6.1), nor those named by
//! `Connection`. No `x-grayling-*` of a client reaches an upstream.
//! `x-forwarded-*` hold the values that this proxy saw, unless the peer is trusted.

use crate::domain::grpc::has_grpc_type;
use crate::stats::arm::Arm;
use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, TRAILER,
    TRANSFER_ENCODING, VIA,
};
use http::request::Parts;
use http::{Method, Response, Version};
use std::fmt;
use std::net::IpAddr;

pub const X_GRAYLING: &str = "x-grayling-";
pub const X_FORWARDED: &str = "x-forwarded-";
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const X_GRAYLING_RELEASE: HeaderName = HeaderName::from_static("x-grayling-release");
pub const X_GRAYLING_ARM: HeaderName = HeaderName::from_static("x-grayling-arm");

/// Fields added to most requests for an upstream: those below, and the release's two. Exact,
/// because a larger reserve would grow the map for nothing.
const FIELDS_ADDED: usize = 8;

/// Limit for a request id from a client; a longer one is replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The peer of a client connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Its `x-forwarded-*` are believed and extended.
    Trusted,
    Stranger,
}

pub fn arm_value(arm: Arm) -> HeaderValue {
    match arm {
        Arm::Stable => HeaderValue::from_static("stable"),
        Arm::New => HeaderValue::from_static("new"),
    }
}

/// Results of the pass of `validate` over the headers, so that later code need not search again.
#[derive(Default, Clone, Copy)]
pub struct HeadFacts {
    /// There is an `x-grayling-*`.
    pub reserved: bool,
    /// There is a `Forwarded`, or an `x-forwarded-*`.
    pub forwarded: bool,
    /// There is an `x-request-id` or a `traceparent`.
    pub traced: bool,
    pub expects: bool,
    /// `Content-Length` has leading zeros.
    pub padded_length: bool,
    /// `te: trailers`.
    pub takes_trailers: bool,
    /// Number of `Cookie` lines.
    pub cookies: usize,
}

impl HeadFacts {
    pub fn note(&mut self, name: &HeaderName, value: &HeaderValue) {
        // Nearly no name begins with one of these letters.
        match name.as_str().as_bytes() {
            [b'x', ..] => {
                self.reserved |= begins_like(name, X_GRAYLING);
                self.forwarded |= begins_like(name, X_FORWARDED);
                self.traced |= *name == X_REQUEST_ID;
            }
            [b'c', ..] => self.cookies += usize::from(*name == COOKIE),
            [b'f', ..] => self.forwarded |= *name == FORWARDED,
            [b't', b'e'] => self.takes_trailers |= lists(value, "trailers"),
            [b't', ..] => self.traced |= *name == TRACEPARENT,
            _ => {}
        }
    }
}

/// The size of the fields, as RFC 9113 §10.5.1 counts it.
pub fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
}

/// Whether a comma-separated list has this element.
fn lists(value: &HeaderValue, wanted: &str) -> bool {
    value
        .as_bytes()
        .split(|b| *b == b',')
        .any(|word| word.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
}

/// Drops every `x-grayling-*` of a client, also spellings that CGI reads alike.
/// Call before anything reads the headers.
pub fn drop_reserved(headers: &mut HeaderMap) {
    drop_all(headers, X_GRAYLING);
}

fn drop_all(headers: &mut HeaderMap, prefix: &str) {
    // Nearly no request has one, so the names are checked before anything is allocated.
    while let Some(name) = headers.keys().find(|n| begins_like(n, prefix)).cloned() {
        headers.remove(name);
    }
}

/// Whether the name begins with `prefix`, or with a spelling that CGI reads alike (RFC 3875
/// §4.1.18: `-` becomes `_`).
pub fn begins_like(name: &HeaderName, prefix: &str) -> bool {
    name.as_str().get(..prefix.len()).is_some_and(|start| is_like(start, prefix))
}

/// Equal except for `_` and `-`.
pub fn is_like(a: &str, b: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    a.len() == b.len() && a.bytes().zip(b.bytes()).all(|(x, y)| fold(x) == fold(y))
}

/// RFC 9113 §8.2.3: joins the cookie fields before a request goes to HTTP/1.
pub fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, whole);
    }
}

/// Removes leading zeros, which servers may read differently (RFC 9110 §8.6).
fn canonical_length(headers: &mut HeaderMap) {
    let Some(length) = headers.get(CONTENT_LENGTH).filter(|v| v.len() > 1 && v.as_bytes()[0] == b'0') else {
        return;
    };
    let digits = length.as_bytes();
    let first = digits.iter().position(|b| *b != b'0').unwrap_or(digits.len() - 1);
    if let Ok(canonical) = HeaderValue::from_bytes(&digits[first..]) {
        headers.insert(CONTENT_LENGTH, canonical);
    }
}

/// Whether the head of a response reliably tells where its body ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    Sound,
    Faulty,
}

/// RFC 9112 §6.1 to §6.3. Values that hyper lets through would reach the client, and frame the body
/// differently there.
pub fn framing<B>(response: &Response<B>) -> Framing {
    let headers = response.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let digits = |v: &HeaderValue| !v.is_empty() && v.as_bytes().iter().all(u8::is_ascii_digit);
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let coding = codings.next();
    let chunked = |v: &HeaderValue| v.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let faulty = response.status().is_informational()
        || lengths.next().is_some()
        || length.is_some_and(|v| !digits(v))
        || coding.is_some_and(|v| !chunked(v) || length.is_some() || response.version() == Version::HTTP_10)
        || codings.next().is_some();
    if faulty { Framing::Faulty } else { Framing::Sound }
}

/// Whether it is a gRPC call: a POST over HTTP/2 with gRPC's content type.
/// gRPC-Web (`application/grpc-web`) is not: that is an ordinary POST.
pub fn is_grpc(head: &Parts) -> bool {
    head.method == Method::POST && head.version == Version::HTTP_2 && has_grpc_type(&head.headers)
}

/// Drops the fields that are meant for one connection only.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    // One pass over the few present names costs less than a look-up of each possible one.
    while let Some(name) = headers.keys().find(|name| is_hop_by_hop(name)).cloned() {
        if name == CONNECTION {
            drop_named(headers);
        }
        headers.remove(name);
    }
}

/// The trailers that a response announces, without those that are not forwarded.
pub fn announced(headers: &HeaderMap) -> Option<HeaderValue> {
    let names: Vec<String> = headers
        .get_all(TRAILER)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .filter_map(|name| name.trim().parse::<HeaderName>().ok())
        .filter(may_be_trailer)
        .map(|name| name.to_string())
        .collect();
    if names.is_empty() { None } else { names.join(", ").parse().ok() }
}

/// Drops the fields that must not stand in trailers.
pub fn drop_from_trailers(trailers: &mut HeaderMap) {
    while let Some(name) = trailers.keys().find(|name| !may_be_trailer(name)).cloned() {
        trailers.remove(name);
    }
}

/// RFC 9110 §6.5.1: no field of framing, routing, authentication, request modifiers, or the
/// handling of the content. Nor a field of this proxy.
fn may_be_trailer(name: &HeaderName) -> bool {
    let forbidden = is_hop_by_hop(name)
        || matches!(
            name.as_str(),
            "authorization"
                | "cache-control"
                | "content-encoding"
                | "content-length"
                | "content-range"
                | "content-type"
                | "cookie"
                | "expect"
                | "host"
                | "max-forwards"
                | "range"
                | "set-cookie"
                | "www-authenticate"
        )
        || begins_like(name, X_GRAYLING);
    !forbidden
}

/// RFC 9110 §7.6.1, §11.7, RFC 9112 §6.1, and fields of older software.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Drops the fields that `Connection` names.
fn drop_named(headers: &mut HeaderMap) {
    // The values of nearly all requests, which name no field.
    let mut lines = headers.get_all(CONNECTION).iter();
    let said = |line: &HeaderValue| {
        [&b"keep-alive"[..], b"close"].iter().any(|word| line.as_bytes().eq_ignore_ascii_case(word))
    };
    if lines.next().is_some_and(said) && lines.next().is_none() {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
        // The most common: one is no field, the other is dropped anyway.
        .filter(|token| !token.eq_ignore_ascii_case("close") && !token.eq_ignore_ascii_case("keep-alive"))
        .filter_map(|token| token.parse().ok())
        // Framing and host belong to the message: hyper has already used them.
        .filter(|name: &HeaderName| *name != CONTENT_LENGTH && *name != HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// The facts about the client that the upstream gets.
pub struct Forwarded<'a> {
    /// The client's address, for `X-Forwarded-For`.
    pub by: &'a HeaderValue,
    pub peer: Peer,
    pub scheme: &'static str,
    pub host: Option<&'a HeaderValue>,
    pub facts: HeadFacts,
}

/// A client's address in the format of `X-Forwarded-For`.
pub fn address_value(address: IpAddr) -> HeaderValue {
    let text = address.to_canonical().to_string();
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// Turns a client's request headers into those for an upstream, except the arm, which a fail-over
/// may change. Returns the request id.
pub fn for_upstream(
    headers: &mut HeaderMap,
    forwarded: &Forwarded<'_>,
    random: impl Fn() -> u64,
) -> RequestId {
    let (facts, peer) = (&forwarded.facts, forwarded.peer);
    drop_hop_by_hop(headers);
    // Reserved at once: the map that HTTP/2 has decoded would grow twice.
    headers.reserve(FIELDS_ADDED);
    if facts.padded_length {
        canonical_length(headers);
    }
    if facts.cookies > 1 {
        join_cookies(headers);
    }
    if facts.forwarded && peer == Peer::Stranger {
        drop_all(headers, X_FORWARDED);
        headers.remove(FORWARDED);
    }
    if facts.expects {
        // This proxy sends the 100 when the upstream begins to read the body.
        headers.remove(EXPECT);
    }
    if peer == Peer::Trusted {
        headers.append(X_FORWARDED_FOR, forwarded.by.clone());
    } else {
        headers.insert(X_FORWARDED_FOR, forwarded.by.clone());
    }
    if peer == Peer::Stranger || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(forwarded.scheme));
    }
    if peer == Peer::Stranger || !headers.contains_key(X_FORWARDED_HOST) {
        match forwarded.host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
    headers.append(VIA, HeaderValue::from_static("1.1 grayling"));
    if !(facts.traced && headers.contains_key(TRACEPARENT)) {
        let (a, b, c) = (random() | 1, random(), random() | 1);
        headers.insert(TRACEPARENT, traceparent(a, b, c, 0));
    }
    if facts.traced
        && let Some(id) = headers.get(X_REQUEST_ID)
        && !id.is_empty()
        && id.len() <= REQUEST_ID_BYTES_MAX
    {
        return RequestId::Given(id.clone());
    }
    let id = [random(), random()];
    headers.insert(X_REQUEST_ID, hex_value(&id));
    RequestId::Made(id)
}

/// The id of a request in logs, here and upstream.
pub enum RequestId {
    Given(HeaderValue),
    /// 128 random bits.
    Made([u64; 2]),
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestId::Given(id) => f.write_str(&String::from_utf8_lossy(id.as_bytes())),
            RequestId::Made([high, low]) => write!(f, "{high:016x}{low:016x}"),
        }
    }
}

/// The client's address by trusted proxies: the last in `x-forwarded-for` that is not one of them.
pub fn forwarded_address(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut found = None;
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for word in value.to_str().ok()?.rsplit(',') {
            let address = word.trim().parse::<IpAddr>().ok()?.to_canonical();
            found = Some(address);
            if !trusted(address) {
                return found;
            }
        }
    }
    found
}

fn hex_value(words: &[u64; 2]) -> HeaderValue {
    let mut text = [0u8; 32];
    let at = hex(&mut text, 0, words[0]);
    hex(&mut text, at, words[1]);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// W3C Trace Context §3.2: version, trace id, parent id, flags (1: sampled).
pub fn traceparent(trace_high: u64, trace_low: u64, parent: u64, flags: u8) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[54] = b'0' + (flags & 1);
    let at = hex(&mut text, 3, trace_high);
    hex(&mut text, at, trace_low);
    hex(&mut text, at + 17, parent);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("00"))
}

/// Writes lower-case hex from `at` on, eight digits at a time. Returns the end.
fn hex(text: &mut [u8], at: usize, word: u64) -> usize {
    for (half, digits) in
        [word >> 32, word & 0xffff_ffff].into_iter().zip(text[at..at + 16].chunks_exact_mut(8))
    {
        // Each half-byte in a byte of its own, the highest first in memory.
        let mut spread = half;
        spread = (spread | spread << 16) & 0x0000_ffff_0000_ffff;
        spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // 1 in each byte that holds ten or more, which becomes a letter.
        let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        let ascii = spread + 0x3030_3030_3030_3030 + letters * u64::from(b'a' - b'0' - 10);
        digits.copy_from_slice(&ascii.to_be_bytes());
    }
    at + 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn forward(map: &mut HeaderMap, peer: Peer) {
        let host = HeaderValue::from_static("billing.example");
        let facts = HeadFacts {
            reserved: false,
            forwarded: true,
            traced: true,
            expects: true,
            padded_length: true,
            takes_trailers: false,
            cookies: map.get_all(COOKIE).iter().count(),
        };
        let forwarded = Forwarded {
            by: &address_value("10.0.0.9".parse().unwrap()),
            peer,
            scheme: "http",
            host: Some(&host),
            facts,
        };
        let _ = for_upstream(map, &forwarded, || 0xab);
    }

    proptest::proptest! {
        #[test]
        fn numbers_are_written_as_hexadecimal(word: u64) {
            let mut text = [b' '; 18];
            proptest::prop_assert_eq!(hex(&mut text, 1, word), 17);
            proptest::prop_assert_eq!(std::str::from_utf8(&text).unwrap(), format!(" {word:016x} "));
        }
    }

    #[test]
    fn hop_by_hop_fields_do_not_pass() {
        let mut map = headers(&[
            ("connection", "close, x-once"),
            ("connection", "keep-alive"),
            ("keep-alive", "5"),
            ("x-once", "1"),
            // The pool adds it again for HTTP/2 servers: `net::request_form`.
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        drop_hop_by_hop(&mut map);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn a_grpc_call_is_a_post_over_http2_of_its_content_type() {
        let head = |method: Method, version, kind: &'static str| {
            let request = http::Request::builder().method(method).version(version);
            request.header("content-type", kind).body(()).unwrap().into_parts().0
        };
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=1"] {
            assert!(is_grpc(&head(Method::POST, Version::HTTP_2, kind)), "{kind}");
            assert!(!is_grpc(&head(Method::POST, Version::HTTP_11, kind)), "{kind}");
            assert!(!is_grpc(&head(Method::GET, Version::HTTP_2, kind)), "{kind}");
        }
        for kind in
            ["application/grpc-web", "application/grpcx", "application/json", "", "text/application/grpc"]
        {
            assert!(!is_grpc(&head(Method::POST, Version::HTTP_2, kind)), "{kind}");
        }
    }

    #[test]
    fn a_config_names_no_header_that_does_not_pass() {
        let names = [
            "connection",
            "keep-alive",
            "proxy-connection",
            "http2-settings",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
        ];
        for name in names {
            assert!(is_hop_by_hop(&HeaderName::from_static(name)), "{name}");
        }
        for name in names.into_iter().chain(["expect"]) {
            assert!(crate::config::values::header_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_stranger_cannot_forge_where_it_comes_from() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-port", "1"),
            ("x_forwarded_for", "1.2.3.4"),
            ("forwarded", "for=1.2.3.4"),
        ]);
        forward(&mut map, Peer::Stranger);
        assert_eq!(map.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["10.0.0.9"]);
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "billing.example");
        for gone in ["forwarded", "x-forwarded-port", "x_forwarded_for"] {
            assert!(!map.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let mut map = headers(&[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")]);
        forward(&mut map, Peer::Trusted);
        assert_eq!(map.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["1.2.3.4", "10.0.0.9"]);
        assert_eq!(map["x-forwarded-proto"], "https");
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let map = headers(&[("x-forwarded-for", "6.6.6.6, 1.2.3.4"), ("x-forwarded-for", "10.0.0.1")]);
        assert_eq!(forwarded_address(&map, trusted), Some("1.2.3.4".parse().unwrap()));
        // An IPv4-mapped address, as a hop that listens on both families writes it.
        let mapped = headers(&[("x-forwarded-for", "::ffff:1.2.3.4, ::ffff:10.0.0.1")]);
        assert_eq!(forwarded_address(&mapped, trusted), Some("1.2.3.4".parse().unwrap()));
        let garbage = headers(&[("x-forwarded-for", "unknown")]);
        assert_eq!(forwarded_address(&garbage, trusted), None);
    }

    #[test]
    fn ids_are_created_where_there_are_none() {
        let mut map = HeaderMap::new();
        forward(&mut map, Peer::Stranger);
        assert_eq!(map["x-request-id"], "00000000000000ab00000000000000ab");
        assert_eq!(map["traceparent"], "00-00000000000000ab00000000000000ab-00000000000000ab-00");
        let mut map = headers(&[("x-request-id", "mine")]);
        forward(&mut map, Peer::Stranger);
        assert_eq!(map["x-request-id"], "mine");
    }

    #[test]
    fn what_a_client_sends_in_our_name_is_dropped() {
        let mut map = headers(&[
            ("x-grayling-arm", "new"),
            ("x-grayling-arm", "new"),
            ("x-grayling-x", ""),
            ("x_grayling_arm", "new"),
        ]);
        drop_reserved(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn names_that_differ_in_underscores_only_are_alike() {
        assert!(is_like("x_user-id", "x-user_id"));
        assert!(!is_like("x-user-id", "x-user-ie") && !is_like("x-user", "x-user-id"));
    }

    #[test]
    fn crumbs_of_a_cookie_are_joined_and_a_length_has_one_spelling() {
        let mut map =
            headers(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3"), ("content-length", "007")]);
        forward(&mut map, Peer::Stranger);
        assert_eq!(map.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
        assert_eq!(map["content-length"], "7");
        let mut map = headers(&[("content-length", "000")]);
        forward(&mut map, Peer::Stranger);
        assert_eq!(map["content-length"], "0");
    }

    #[test]
    fn a_response_has_one_frame_or_none() {
        let framing = |version, lines: &[(&'static str, &'static str)]| {
            let mut response = Response::builder().version(version).body(()).unwrap();
            *response.headers_mut() = headers(lines);
            framing(&response)
        };
        let http11 = |lines: &[(&'static str, &'static str)]| framing(Version::HTTP_11, lines);
        assert_eq!(http11(&[]), Framing::Sound);
        assert_eq!(http11(&[("content-length", "3")]), Framing::Sound);
        assert_eq!(http11(&[("transfer-encoding", "Chunked")]), Framing::Sound);
        for faulty in [
            &[("content-length", "3"), ("content-length", "3")][..],
            &[("content-length", "+3")],
            &[("content-length", "3"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(http11(faulty), Framing::Faulty, "{faulty:?}");
        }
        assert_eq!(framing(Version::HTTP_10, &[("transfer-encoding", "chunked")]), Framing::Faulty);
    }
}
