//! The opening handshake of a WebSocket (RFC 6455 §4, RFC 9110 §7.8): detects a request for one,
//! and checks the response.
//!
//! Invariants: `websocket` is the only protocol switched to. A request that names another beside it
//! is an ordinary one, without its `Upgrade`. An invalid handshake is refused before routing.
//! A 101 that does not answer this very key is invalid.

use super::error::RequestError;
use super::headers::Framing;
use aws_lc_rs::digest;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, Version};
use http_body::Body;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// RFC 6455 §1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// RFC 6455 §4.1.
const KEY_BYTES: usize = 16;

/// A client's handshake, to compare the response with.
pub struct Handshake {
    accept: String,
}

/// Whether the request asks for a WebSocket and nothing else. Call before the hop-by-hop fields are
/// removed.
pub fn is_upgrade_request(parts: &Parts) -> bool {
    // RFC 9110 §7.8: in HTTP/1.0 an Upgrade must be ignored; HTTP/2 has none.
    parts.version == Version::HTTP_11 && names_websocket(&parts.headers)
}

/// One `Upgrade`, to `websocket`, and named by `Connection`.
fn names_websocket(headers: &HeaderMap) -> bool {
    let is = |token: &[u8], word: &str| token.trim_ascii().eq_ignore_ascii_case(word.as_bytes());
    let mut options = headers.get_all(CONNECTION).iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    one(headers, &UPGRADE).is_some_and(|v| is(v.as_bytes(), "websocket"))
        && options.any(|option| is(option, "upgrade"))
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut lines = headers.get_all(name).iter();
    lines.next().filter(|_| lines.next().is_none())
}

impl Handshake {
    /// Reads the handshake of such a request. Call after the hop-by-hop fields were removed, so
    /// that fields named by `Connection` are gone.
    pub fn read(parts: &Parts, body: &impl Body) -> Result<Handshake, RequestError> {
        if parts.method != Method::GET {
            return Err(RequestError::BadRequest("a websocket handshake is a GET"));
        }
        if !body.is_end_stream() {
            return Err(RequestError::BadRequest("a websocket handshake has no body"));
        }
        // Client and server agree on the version.
        if one(&parts.headers, &SEC_WEBSOCKET_VERSION).is_none() {
            return Err(RequestError::BadRequest("a websocket handshake has one sec-websocket-version"));
        }
        let key = one(&parts.headers, &SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
        let random = |key: &&[u8]| BASE64_STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES);
        let key = key.filter(random).ok_or(RequestError::BadRequest(
            "a websocket handshake has one sec-websocket-key, of 16 bytes in base64",
        ))?;
        Ok(Handshake { accept: accept(key) })
    }

    /// Checks the response to the handshake. Anything but a 101 is framed as usual.
    pub fn framing<B>(&self, response: &Response<B>) -> Framing {
        let headers = response.headers();
        let accepted = one(headers, &SEC_WEBSOCKET_ACCEPT).is_some_and(|v| v == self.accept.as_str());
        match response.status() == StatusCode::SWITCHING_PROTOCOLS {
            true if accepted && names_websocket(headers) => Framing::Sound,
            true => Framing::Faulty,
            false => super::headers::framing(response),
        }
    }
}

/// Sets the fields that ask for a WebSocket, after the hop-by-hop fields were removed.
pub fn set_upgrade_fields(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, WEBSOCKET);
}

/// The same for the head of a 101, which has no body (RFC 9110 §8.6), whatever its fields.
pub fn set_switched_fields(headers: &mut HeaderMap) {
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    set_upgrade_fields(headers);
}

/// RFC 6455 §4.2.2. SHA-1 only proves that the server has understood; it authenticates nothing.
fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    BASE64_STANDARD.encode(context.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http_body_util::{Empty, Full};

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn parts(lines: &[(&str, &str)]) -> Parts {
        let request = lines.iter().fold(Request::builder(), |r, (name, value)| r.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    fn handshake(lines: &[(&str, &str)]) -> Result<Handshake, RequestError> {
        Handshake::read(&parts(lines), &Empty::<&[u8]>::new())
    }

    #[test]
    fn the_accept_of_rfc_6455_section_1_3() {
        assert_eq!(accept(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn one_token_that_connection_names_asks_for_it() {
        for lines in [
            &[("connection", "Upgrade"), ("upgrade", "WebSocket")][..],
            &[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")],
            &[("connection", "keep-alive"), ("connection", "UPGRADE"), ("upgrade", "websocket")],
        ] {
            assert!(is_upgrade_request(&parts(lines)), "{lines:?}");
        }
        for lines in [
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")][..],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "websocket")],
            &[("connection", "upgrade"), ("upgrade", "websocket/13")],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "upgrades"), ("upgrade", "websocket")],
            &[("upgrade", "websocket")],
            &[("connection", "upgrade")],
        ] {
            assert!(!is_upgrade_request(&parts(lines)), "{lines:?}");
        }
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let mut parts = parts(&[("connection", "upgrade"), ("upgrade", "websocket")]);
            parts.version = version;
            assert!(!is_upgrade_request(&parts), "{version:?}");
        }
    }

    #[test]
    fn a_handshake_has_one_key_one_version_and_no_body() {
        let version = ("sec-websocket-version", "13");
        assert!(handshake(&[("sec-websocket-key", KEY), version]).is_ok());
        // The server decides which one.
        assert!(handshake(&[("sec-websocket-key", KEY), ("sec-websocket-version", "8")]).is_ok());
        for lines in [
            &[version][..],
            &[("sec-websocket-key", KEY)],
            &[("sec-websocket-key", KEY), version, version],
            &[("sec-websocket-key", KEY), ("sec-websocket-key", KEY), version],
            &[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ"), version],
            &[("sec-websocket-key", "c2hvcnQ="), version],
            &[("sec-websocket-key", ""), version],
            &[("sec-websocket-key", "not base64, not at all!!"), version],
        ] {
            assert!(handshake(lines).is_err(), "{lines:?}");
        }
        let whole = parts(&[("sec-websocket-key", KEY), version]);
        assert!(Handshake::read(&whole, &Full::new(&b"x"[..])).is_err());
        let mut posted = whole;
        posted.method = Method::POST;
        assert!(Handshake::read(&posted, &Empty::<&[u8]>::new()).is_err());
    }

    #[test]
    fn only_the_answer_to_this_key_agrees() {
        let handshake = handshake(&[("sec-websocket-key", KEY), ("sec-websocket-version", "13")]);
        let handshake = handshake.ok().unwrap();
        let framing = |status: u16, lines: &[(&str, &str)]| {
            let response = lines
                .iter()
                .fold(Response::builder().status(status), |r, (name, value)| r.header(*name, *value));
            handshake.framing(&response.body(()).unwrap())
        };
        let [connection, upgrade] = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let accept = ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(framing(101, &[connection, upgrade, accept]), Framing::Sound);
        assert_eq!(framing(200, &[]), Framing::Sound);
        for lines in [
            &[connection, upgrade][..],
            &[connection, accept],
            &[upgrade, accept],
            &[connection, ("upgrade", "h2c"), accept],
            &[connection, upgrade, accept, accept],
            &[connection, upgrade, ("sec-websocket-accept", "S3pPLMBiTxaQ9kYGzzhZRbK+xOo=")],
        ] {
            assert_eq!(framing(101, lines), Framing::Faulty, "{lines:?}");
        }
        // No handshake leads to another interim response.
        assert_eq!(framing(103, &[connection, upgrade, accept]), Framing::Faulty);
    }
}
