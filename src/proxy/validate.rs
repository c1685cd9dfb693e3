//! Validates a request before any other code uses it: the one place to check against RFC 9110
//! (semantics), RFC 9112 (HTTP/1.1) and RFC 9113 (HTTP/2).
//!
//! Invariants: a refused request reaches no route, no upstream and no evidence.
//! An admitted request has one host, one length and one identity.
//! Its `Connection` removes no field that the decision used from the upstream's view.
//! One pass over the headers; a valid request costs no allocation.
//!
//! hyper and h2 refuse the following before this code runs, with 400 (or a stream error) and the
//! end of the connection; each has a test: white space before a colon, obs-fold, NUL, bare CR (RFC
//! 9112 §2.2, §5; RFC 9110 §5.5); `Transfer-Encoding` in HTTP/1.0 or not ending in `chunked` (RFC
//! 9112 §6.1, §6.3); `Content-Length` that is no number, or several that differ (§6.3); a head that
//! is too big, too many fields (RFC 6585 §5); in HTTP/2 upper-case names, `Connection` and its
//! like, `TE` other than `trailers`, pseudo fields that are unknown, repeated or late (RFC 9113
//! §8.2, §8.3). They drop `Content-Length` beside `Transfer-Encoding`, and close the connection
//! after the response (RFC 9112 §6.1).

use super::error::RequestError;
use super::headers::{self, HeadFacts, X_FORWARDED};
use crate::domain::config::{Identity, IdentitySource, RequestLimits};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Version};
use http_body::Body;

/// No legitimate client sends more connection options.
const CONNECTION_OPTIONS_MAX: usize = 9;

/// Cost of a field beside name and value (RFC 9113 §10.5.1 counts 32; HTTP/1 sends `: ` and CR LF).
const FIELD_OVERHEAD_BYTES: usize = 4;

/// Refuses a request that servers may read differently.
pub fn validate_head(
    parts: &Parts,
    body: &impl Body,
    identity: &Identity,
    limits: &RequestLimits,
) -> Result<HeadFacts, RequestError> {
    method_and_target(parts, limits)?;
    let mut seen = Seen::default();
    for (name, value) in &parts.headers {
        seen.bytes += name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES;
        seen.fields += 1;
        // RFC 9113 §8.2.1: no white space at either end of a value. (HTTP/1 does not count it as
        // part of the value.)
        if parts.version == Version::HTTP_2 && is_padded(value) {
            return Err(bad("white space around a field value"));
        }
        match *name {
            HOST => host_line(value, &mut seen)?,
            // RFC 9112 §6.1, §6.3: the last coding frames the body, and servers differ on anything
            // but a single `chunked`.
            TRANSFER_ENCODING => {
                if std::mem::replace(&mut seen.transfer_encoding, true)
                    || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
                {
                    return Err(bad("transfer-encoding other than chunked"));
                }
            }
            // RFC 9112 §6.3, RFC 9113 §8.1.1: one length, and the body has it.
            CONTENT_LENGTH => {
                let length = decimal(value).filter(|_| seen.content_length.is_none());
                seen.content_length = Some(length.ok_or(bad("content-length"))?);
                seen.facts.padded_length = value.len() > 1 && value.as_bytes()[0] == b'0';
            }
            CONNECTION => connection_line(value, identity, &mut seen)?,
            // RFC 9110 §10.1.1: 100-continue is the only expectation.
            EXPECT => {
                if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
                    return Err(RequestError::Expectation);
                }
                seen.facts.expects = true;
            }
            _ => {
                seen.facts.note(name, value);
                identity_line(name, identity, &mut seen)?;
            }
        }
    }
    if seen.bytes > limits.header_bytes || seen.fields > limits.header_count {
        return Err(RequestError::HeadersTooBig);
    }
    if seen.content_length.is_some_and(|length| body.size_hint().exact() != Some(length)) {
        return Err(bad("content-length and body differ"));
    }
    host(parts, &seen)?;
    Ok(seen.facts)
}

/// State of the pass over the headers.
#[derive(Default)]
struct Seen {
    bytes: usize,
    fields: usize,
    hosts: usize,
    transfer_encoding: bool,
    content_length: Option<u64>,
    connection_options: usize,
    /// The identity's header sources that were seen, a bit each.
    identities: u64,
    facts: HeadFacts,
}

fn bad(what: &'static str) -> RequestError {
    RequestError::BadRequest(what)
}

fn method_and_target(parts: &Parts, limits: &RequestLimits) -> Result<(), RequestError> {
    // RFC 9110 §9.3.6: this proxy makes no CONNECT tunnels. §9.3.8: TRACE would disclose the fields
    // that it adds for the upstream.
    if parts.method == Method::CONNECT || parts.method == Method::TRACE {
        return Err(RequestError::MethodNotServed);
    }
    let target = parts.uri.path_and_query().map_or("", |p| p.as_str());
    // RFC 9110 §15.5.15.
    if target.len() > limits.uri_bytes {
        return Err(RequestError::UriTooLong);
    }
    // RFC 9112 §3.2, RFC 9113 §8.3.1: an absolute path; `*` for OPTIONS only; the authority form
    // for CONNECT only.
    let asterisk = target == "*" && parts.method == Method::OPTIONS;
    // RFC 9112 §3.2.2, RFC 3986 §3: a target in absolute form (`http://a?x`) may have no path. In
    // HTTP/2 `:path` begins with one.
    let absolute = parts.version != Version::HTTP_2 && parts.uri.authority().is_some();
    let without_path = absolute && target.starts_with('?');
    if !(target.starts_with('/') || asterisk || without_path) {
        return Err(bad("request target"));
    }
    // RFC 9110 §4.2: the supported schemes.
    if parts.uri.scheme_str().is_some_and(|s| s != "http" && s != "https") {
        return Err(bad("scheme of the request target"));
    }
    // RFC 9110 §4.2.4, RFC 9113 §8.3.1: no userinfo, which can make a host look like another.
    if parts.uri.authority().is_some_and(|a| !is_authority(a.as_str().as_bytes())) {
        return Err(bad("authority of the request target"));
    }
    Ok(())
}

fn host_line(value: &HeaderValue, seen: &mut Seen) -> Result<(), RequestError> {
    seen.hosts += 1;
    // RFC 9112 §3.2: refuses an invalid one, and more than one.
    if seen.hosts > 1 || !is_authority(value.as_bytes()) {
        return Err(bad("host"));
    }
    Ok(())
}

fn host(parts: &Parts, seen: &Seen) -> Result<(), RequestError> {
    match parts.version {
        // RFC 9112 §3.2: only HTTP/1.0 may omit it.
        Version::HTTP_10 => Ok(()),
        // RFC 9113 §8.3.1: `Host` must not differ from `:authority`; one of them is required.
        Version::HTTP_2 => match (parts.uri.authority(), parts.headers.get(HOST)) {
            (Some(a), Some(h)) if !a.as_str().as_bytes().eq_ignore_ascii_case(h.as_bytes()) => {
                Err(bad("host differs from :authority"))
            }
            (None, None) => Err(bad("no :authority and no host")),
            _ => Ok(()),
        },
        _ if seen.hosts == 0 => Err(bad("no host")),
        _ => Ok(()),
    }
}

/// RFC 9110 §7.6.1: a client may name fields for this hop only, which are then removed.
/// Refused are the fields of decision, framing and trust: otherwise a client could hide them from
/// the upstream.
fn connection_line(value: &HeaderValue, identity: &Identity, seen: &mut Seen) -> Result<(), RequestError> {
    for option in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
        // RFC 9110 §5.6.1.2: empty elements of a list are ignored.
        if option.is_empty() {
            continue;
        }
        seen.connection_options += 1;
        if seen.connection_options > CONNECTION_OPTIONS_MAX {
            return Err(bad("too many connection options"));
        }
        let is = |name: &HeaderName| option.eq_ignore_ascii_case(name.as_str().as_bytes());
        let forwarded = option
            .get(..X_FORWARDED.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(X_FORWARDED.as_bytes()));
        let identifies = identity.from.iter().any(|source| match source {
            IdentitySource::Header(name) => is(name),
            IdentitySource::Jwt(jwt) => is(&jwt.header),
            IdentitySource::Cookie(_) => is(&COOKIE),
            IdentitySource::Query(_) | IdentitySource::Path(_) | IdentitySource::ClientCert(_) => false,
        });
        if forwarded || identifies || is(&HOST) || is(&CONTENT_LENGTH) || !option.iter().all(is_token) {
            return Err(bad("a connection option that is no client's to choose"));
        }
    }
    Ok(())
}

/// A user has one id. Two lines of it, or a spelling with `_` that CGI reads alike (RFC 3875
/// §4.1.18), could give this proxy and the upstream different users.
fn identity_line(name: &HeaderName, identity: &Identity, seen: &mut Seen) -> Result<(), RequestError> {
    for (index, source) in identity.from.iter().enumerate() {
        let wanted = match source {
            IdentitySource::Header(name) => name,
            IdentitySource::Jwt(jwt) => &jwt.header,
            IdentitySource::Cookie(_)
            | IdentitySource::Query(_)
            | IdentitySource::Path(_)
            | IdentitySource::ClientCert(_) => continue,
        };
        if name == wanted {
            let bit = 1u64.checked_shl(index as u32).unwrap_or(1 << 63);
            if seen.identities & bit != 0 {
                return Err(bad("more than one user id"));
            }
            seen.identities |= bit;
        } else if headers::is_like(name.as_str(), wanted.as_str()) {
            return Err(bad("a user id under a similar name"));
        }
    }
    Ok(())
}

fn is_padded(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}

/// RFC 9110 §8.6: digits only.
fn decimal(value: &HeaderValue) -> Option<u64> {
    let digits = value.as_bytes();
    let all = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits).ok().filter(|_| all)?.parse().ok()
}

/// RFC 9110 §5.6.2.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// `uri-host [":" port]` (RFC 9110 §7.2, RFC 3986 §3.2), with a host. The comma, which RFC 3986
/// allows in a name, is refused: it is left over when two Host fields were joined.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.iter().rposition(|b| *b == b':') {
        Some(colon) if !authority[colon..].contains(&b']') => (&authority[..colon], &authority[colon + 1..]),
        _ => (authority, &b""[..]),
    };
    port.len() <= 5 && port.iter().all(u8::is_ascii_digit) && is_host(host)
}

/// Characters of a host name, except escapes.
static IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let others = b"-._~!$&'()*+;=";
    let mut i = 0;
    while i < others.len() {
        table[others[i] as usize] = true;
        i += 1;
    }
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] |= byte.is_ascii_alphanumeric();
        byte += 1;
    }
    table
};

fn is_host(host: &[u8]) -> bool {
    if let Some(literal) = host.strip_prefix(b"[") {
        let inner = literal.strip_suffix(b"]").and_then(|l| std::str::from_utf8(l).ok());
        return inner.is_some_and(|l| l.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let mut rest = host;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'%' => match after {
                [a, b, after @ ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => after,
                _ => return false,
            },
            _ if IN_HOST[usize::from(*byte)] => after,
            _ => return false,
        };
    }
    !host.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for good in
            ["a", "a.example", "a.example:80", "127.0.0.1:8080", "[::1]", "[::1]:80", "a_b", "x%41", "a:"]
        {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        let bad = [
            "", ":80", "a b", "a,b", "u@a", "a/b", "a:b", "a:1:2", "a:123456", "[::1", "[x]", "::1", "a%4",
            "a\t", "ä", "a?b", "a#b", "a\\b", "[::1]x", "<a>",
        ];
        for bad in bad {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn a_length_is_digits_only() {
        let length = |text: &'static str| decimal(&HeaderValue::from_static(text));
        assert_eq!((length("0"), length("007")), (Some(0), Some(7)));
        for bad in ["", "+1", "-1", "1 ", "0x1", "1,1", "99999999999999999999"] {
            assert_eq!(length(bad), None, "{bad}");
        }
    }
}
