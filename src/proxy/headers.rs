//! What is taken off and put on a message between client and upstream.
//!
//! Invariants: hop-by-hop fields never pass (RFC 9110 §7.6.1), also those that `Connection` names; no `x-grayling-*` of a client is
//! ever seen by an upstream; `x-forwarded-*` say what this proxy saw, unless the peer is trusted.

use crate::domain::decide::Arm;
use http::header::{
    CONNECTION, EXPECT, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};
use std::net::IpAddr;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const X_GRAYLING_RELEASE: HeaderName = HeaderName::from_static("x-grayling-release");
pub const X_GRAYLING_ARM: HeaderName = HeaderName::from_static("x-grayling-arm");

/// A request id that a client may choose: longer ones are replaced.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The client as the proxy sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Its `x-forwarded-*` are believed and added to.
    Trusted,
    Stranger,
}

pub fn arm_value(arm: Arm) -> HeaderValue {
    match arm {
        Arm::Stable => HeaderValue::from_static("stable"),
        Arm::New => HeaderValue::from_static("new"),
    }
}

/// Drops every `x-grayling-*` that a client sent. Before anything reads the headers.
pub fn drop_reserved(headers: &mut HeaderMap) {
    // Nearly no request has one: the names are looked at before anything is allocated.
    // Gateways behind (CGI, WSGI) take `_` for `-`.
    let plain = |b: u8| if b == b'_' { b'-' } else { b };
    let reserved = |n: &&HeaderName| n.as_str().bytes().map(plain).take(11).eq(*b"x-grayling-");
    while let Some(name) = headers.keys().find(reserved).cloned() {
        headers.remove(name);
    }
}

/// Drops what is meant for one connection only.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|token| token.trim().parse().ok())
            // The body's framing belongs to the message: hyper has resolved it already.
            .filter(|name: &HeaderName| *name != http::header::CONTENT_LENGTH && *name != HOST)
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
    }
    for name in [
        KEEP_ALIVE,
        PROXY_CONNECTION,
        HTTP2_SETTINGS,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ] {
        headers.remove(name);
    }
}

/// What this proxy tells the upstream of the client.
pub struct Forwarded<'a> {
    pub address: IpAddr,
    pub peer: Peer,
    pub scheme: &'static str,
    pub host: Option<&'a HeaderValue>,
}

/// Makes a client's request headers fit for an upstream; all but the arm, which a fail-over may change.
pub fn for_upstream(headers: &mut HeaderMap, forwarded: &Forwarded<'_>, random: impl Fn() -> u64) {
    drop_hop_by_hop(headers);
    // The upstream's 100 is answered by this proxy, which reads the body when the upstream does.
    headers.remove(EXPECT);
    let address = HeaderValue::from_str(&forwarded.address.to_canonical().to_string());
    if let Ok(address) = address {
        match (forwarded.peer, headers.get(X_FORWARDED_FOR)) {
            (Peer::Trusted, Some(_)) => {
                headers.append(X_FORWARDED_FOR, address);
            }
            _ => {
                headers.insert(X_FORWARDED_FOR, address);
            }
        }
    }
    if forwarded.peer == Peer::Stranger {
        headers.remove(FORWARDED);
    }
    if forwarded.peer == Peer::Stranger || !headers.contains_key(X_FORWARDED_PROTO) {
        headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(forwarded.scheme));
    }
    if forwarded.peer == Peer::Stranger || !headers.contains_key(X_FORWARDED_HOST) {
        match forwarded.host {
            Some(host) => headers.insert(X_FORWARDED_HOST, host.clone()),
            None => headers.remove(X_FORWARDED_HOST),
        };
    }
    headers.append(VIA, HeaderValue::from_static("1.1 grayling"));
    if headers.get(X_REQUEST_ID).is_none_or(|id| id.is_empty() || id.len() > REQUEST_ID_BYTES_MAX) {
        headers.insert(X_REQUEST_ID, hex_value(&[random(), random()], ""));
    }
    if !headers.contains_key(TRACEPARENT) {
        // W3C Trace Context §3.2: version, trace id, parent id, flags (not sampled).
        let (a, b, c) = (random() | 1, random(), random() | 1);
        headers.insert(TRACEPARENT, traceparent(a, b, c));
    }
}

pub fn request_id(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(X_REQUEST_ID)
}

/// The client's address as trusted proxies tell it: the last of `x-forwarded-for` that is not one of them.
pub fn forwarded_address(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut found = None;
    for value in headers.get_all(X_FORWARDED_FOR).iter().rev() {
        for word in value.to_str().ok()?.rsplit(',') {
            let address: IpAddr = word.trim().parse().ok()?;
            found = Some(address);
            if !trusted(address) {
                return found;
            }
        }
    }
    found
}

fn hex_value(words: &[u64], prefix: &str) -> HeaderValue {
    let mut text = [0u8; 64];
    let mut at = prefix.len();
    text[..at].copy_from_slice(prefix.as_bytes());
    for word in words {
        at = hex(&mut text, at, *word);
    }
    HeaderValue::from_bytes(&text[..at]).unwrap_or(HeaderValue::from_static("0"))
}

fn traceparent(trace_high: u64, trace_low: u64, parent: u64) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let at = hex(&mut text, 3, trace_high);
    hex(&mut text, at, trace_low);
    hex(&mut text, at + 17, parent);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("00"))
}

fn hex(text: &mut [u8], at: usize, word: u64) -> usize {
    for i in 0..16 {
        text[at + i] = b"0123456789abcdef"[(word >> (60 - 4 * i)) as usize & 15];
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
        let forwarded =
            Forwarded { address: "10.0.0.9".parse().unwrap(), peer, scheme: "http", host: Some(&host) };
        for_upstream(map, &forwarded, || 0xab);
    }

    #[test]
    fn hop_by_hop_fields_do_not_pass() {
        let mut map = headers(&[
            ("connection", "close, x-once"),
            ("connection", "keep-alive"),
            ("keep-alive", "5"),
            ("x-once", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        drop_hop_by_hop(&mut map);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }

    #[test]
    fn a_stranger_cannot_forge_where_it_comes_from() {
        let mut map = headers(&[
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil.example"),
            ("forwarded", "for=1.2.3.4"),
        ]);
        forward(&mut map, Peer::Stranger);
        assert_eq!(map.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["10.0.0.9"]);
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "billing.example");
        assert!(!map.contains_key("forwarded"));
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
}
