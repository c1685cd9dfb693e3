//! Request → user id: the first source of the config that yields one wins.
//!
//! Invariants: a token that does not verify yields nothing, nor does an id that is empty after
//! `normalise`. An id over `max_bytes` ends the search. Such a request goes to stable and is
//! counted; it is never assigned at random. An id that stands in the request as it is costs no
//! allocation.

use crate::domain::config::{
    CertificateName, Identity, IdentitySource, JwtKey, JwtSource, JwtTrust, PathPattern, normalise,
};
use crate::net::tls::CertificateNames;
use http::header::COOKIE;
use http::{HeaderMap, Uri};
use jsonwebtoken::{Validation, dangerous, decode, decode_header};
use serde_json::{Map, Value};
use std::borrow::Cow;

/// `path`: the request's, in normal form. `certificate`: the names in the client's, if it sent one.
pub fn user_id<'a>(
    identity: &Identity,
    headers: &'a HeaderMap,
    uri: &'a Uri,
    path: &'a str,
    certificate: Option<&'a CertificateNames>,
) -> Option<Cow<'a, [u8]>> {
    for source in &identity.from {
        let Some(raw) = read(source, headers, uri, path, certificate) else { continue };
        let id = match raw {
            Cow::Borrowed(raw) => normalise(identity.normalise, raw),
            Cow::Owned(raw) => Cow::Owned(normalise(identity.normalise, &raw).into_owned()),
        };
        if id.is_empty() {
            continue;
        }
        return (id.len() <= identity.max_bytes).then_some(id);
    }
    None
}

fn read<'a>(
    source: &IdentitySource,
    headers: &'a HeaderMap,
    uri: &'a Uri,
    path: &'a str,
    certificate: Option<&'a CertificateNames>,
) -> Option<Cow<'a, [u8]>> {
    match source {
        IdentitySource::Header(name) => Some(headers.get(name)?.as_bytes().trim_ascii().into()),
        IdentitySource::Cookie(name) => cookie(headers, name).map(Cow::Borrowed),
        IdentitySource::Query(name) => query(uri, name),
        IdentitySource::Path(pattern) => in_path(path, pattern),
        IdentitySource::ClientCert(CertificateName::Common) => {
            certificate?.common.as_deref().map(Cow::Borrowed)
        }
        IdentitySource::ClientCert(CertificateName::Alternative) => {
            certificate?.alternative.as_deref().map(Cow::Borrowed)
        }
        IdentitySource::Jwt(source) => jwt(headers, source).map(Cow::Owned),
    }
}

/// RFC 6265 §4.2.1: `name=value; name=value`. The first with the name counts; quotes around a value
/// are removed.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|v| v.as_bytes().split(|b| *b == b';'));
    for pair in pairs {
        let pair = pair.trim_ascii();
        let Some(equals) = pair.iter().position(|b| *b == b'=') else { continue };
        let (key, value) = (pair[..equals].trim_ascii_end(), pair[equals + 1..].trim_ascii());
        if key == name.as_bytes() {
            return Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value));
        }
    }
    None
}

/// Percent-decoded; "+" is a plus.
fn query<'a>(uri: &'a Uri, name: &str) -> Option<Cow<'a, [u8]>> {
    let pairs = uri.query()?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut found = pairs.filter(|(key, _)| decoded(key) == name.as_bytes());
    found.next().map(|(_, value)| decoded(value))
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    percent_encoding::percent_decode_str(text).into()
}

fn in_path<'a>(path: &'a str, pattern: &PathPattern) -> Option<Cow<'a, [u8]>> {
    let mut segments = path.strip_prefix('/')?.split('/');
    let mut found = None;
    for wanted in &pattern.segments {
        let segment = segments.next()?;
        match wanted {
            Some(literal) if literal == segment => {}
            Some(_) => return None,
            None => found = Some(decoded(segment)),
        }
    }
    found
}

fn jwt(headers: &HeaderMap, source: &JwtSource) -> Option<Vec<u8>> {
    let value = headers.get(&source.header)?.as_bytes().trim_ascii();
    let token = match value.get(..7) {
        Some(scheme) if scheme.eq_ignore_ascii_case(b"bearer ") => value[7..].trim_ascii_start(),
        _ => value,
    };
    let claims: Map<String, Value> = match &source.trust {
        JwtTrust::Unverified => dangerous::insecure_decode_claims(token).ok()?,
        JwtTrust::Keys { keys, .. } => {
            let header = decode_header(token).ok()?;
            let fits = |k: &&JwtKey| {
                k.algorithms.contains(&header.alg)
                    && (header.kid.is_none() || k.id.is_none() || k.id == header.kid)
            };
            keys.iter().filter(fits).find_map(|key| {
                let mut validation = Validation::new(header.alg);
                // `exp` and `nbf` are checked if present; the audience is left to the upstream
                // service.
                validation.required_spec_claims.clear();
                validation.validate_nbf = true;
                validation.validate_aud = false;
                decode::<Map<String, Value>>(token, &key.key, &validation).ok().map(|t| t.claims)
            })?
        }
    };
    match claims.get(&source.claim)? {
        Value::String(id) => Some(id.clone().into_bytes()),
        Value::Number(id) if id.is_i64() || id.is_u64() => Some(id.to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Normalise;
    use http::{HeaderName, HeaderValue};
    use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, encode};
    use proptest::prelude::*;
    use serde_json::json;

    fn id(from: IdentitySource, headers: &HeaderMap, uri: &str) -> Option<String> {
        let identity = Identity { from: vec![from], normalise: Normalise::None, max_bytes: 16 };
        let uri = uri.parse().unwrap();
        user_id(&identity, headers, &uri, uri.path(), None)
            .map(|id| String::from_utf8_lossy(&id).into_owned())
    }

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        let mut map = HeaderMap::new();
        map.insert(HeaderName::from_static(name), HeaderValue::from_bytes(value).unwrap());
        map
    }

    #[test]
    fn ids_are_read_from_headers_cookies_queries_and_paths() {
        let header = || IdentitySource::Header(HeaderName::from_static("x-user-id"));
        assert_eq!(id(header(), &with("x-user-id", b" alice "), "/"), Some("alice".into()));
        assert_eq!(id(header(), &with("x-user-id", b"  "), "/"), None);
        assert_eq!(id(header(), &with("x-user-id", b"seventeen-letters"), "/"), None);
        let cookie = || IdentitySource::Cookie("uid".into());
        assert_eq!(id(cookie(), &with("cookie", b"a=1; uid=\"bob\"; uid=eve"), "/"), Some("bob".into()));
        assert_eq!(id(cookie(), &with("cookie", b"xuid=1; uid"), "/"), None);
        let query = || IdentitySource::Query("user".into());
        assert_eq!(id(query(), &HeaderMap::new(), "/?a=1&user=a%2Fb+c&user=d"), Some("a/b+c".into()));
        assert_eq!(id(query(), &HeaderMap::new(), "/?users=1"), None);
        let pattern = PathPattern { segments: vec![Some("accounts".into()), None] };
        let path = || IdentitySource::Path(pattern.clone());
        assert_eq!(id(path(), &HeaderMap::new(), "/accounts/4%32/x"), Some("42".into()));
        assert_eq!(id(path(), &HeaderMap::new(), "/accounts"), None);
        assert_eq!(id(path(), &HeaderMap::new(), "/accountsx/42"), None);
    }

    #[test]
    fn a_token_counts_only_if_it_verifies() {
        let key =
            JwtKey { id: None, algorithms: vec![Algorithm::HS256], key: DecodingKey::from_secret(b"right") };
        let source = || {
            IdentitySource::Jwt(JwtSource {
                header: HeaderName::from_static("authorization"),
                claim: "sub".into(),
                trust: JwtTrust::Keys { file: "jwks.json".into(), keys: vec![key.clone()] },
            })
        };
        let token = |secret: &[u8], claims: Value| {
            let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(secret)).unwrap();
            with("authorization", format!("Bearer {token}").as_bytes())
        };
        assert_eq!(id(source(), &token(b"right", json!({"sub": "carol"})), "/"), Some("carol".into()));
        assert_eq!(id(source(), &token(b"right", json!({"sub": 42})), "/"), Some("42".into()));
        assert_eq!(id(source(), &token(b"right", json!({"sub": 4.2})), "/"), None);
        assert_eq!(id(source(), &token(b"right", json!({"sub": "carol", "exp": 1})), "/"), None);
        assert_eq!(id(source(), &token(b"wrong", json!({"sub": "carol"})), "/"), None);
        assert_eq!(id(source(), &with("authorization", b"Bearer x.y.z"), "/"), None);
        // "alg": "none", without a signature.
        let none = b"eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYXJvbCJ9.";
        assert_eq!(id(source(), &with("authorization", none), "/"), None);
    }

    #[test]
    fn a_damaged_token_names_nobody_but_its_user() {
        let secret = b"a-secret-of-more-than-thirty-two-bytes";
        let key = |algorithms: &[Algorithm]| JwtKey {
            id: None,
            algorithms: algorithms.to_vec(),
            key: DecodingKey::from_secret(secret),
        };
        let source = IdentitySource::Jwt(JwtSource {
            header: HeaderName::from_static("authorization"),
            claim: "sub".into(),
            trust: JwtTrust::Keys {
                file: "jwks.json".into(),
                keys: vec![key(&[Algorithm::HS256, Algorithm::HS512])],
            },
        });
        let identity = Identity { from: vec![source], normalise: Normalise::None, max_bytes: 64 };
        let signed = |algorithm, claims: Value| {
            let token = encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret)).unwrap();
            format!("Bearer {token}")
        };
        let seeds = [
            signed(Algorithm::HS256, json!({"sub": "carol"})),
            signed(Algorithm::HS512, json!({"sub": 42, "nbf": 1, "aud": "x"})),
            signed(Algorithm::HS256, json!({"sub": "expired", "exp": 1})),
            // Without a signature, and with another key's.
            "bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJldmUifQ.".to_string(),
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJldmUifQ.c2lnbmVkLWJ5LXNvbWVib2R5LWVsc2U".to_string(),
        ];
        let words = [
            ".",
            "..",
            " ",
            "Bearer ",
            "=",
            "-",
            "_",
            "+",
            "/",
            "e30",
            "eyJhbGciOiJub25lIn0",
            "eyJzdWIiOiJldmUifQ",
            "A",
            "\t",
        ];
        let mut runner = proptest::test_runner::TestRunner::new(crate::mutate::cases(400));
        let held = runner.run(&crate::mutate::damaged(seeds, words), |bytes| {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let headers = HeaderMap::from_iter([(HeaderName::from_static("authorization"), value)]);
            let uri = Uri::from_static("/");
            let found = user_id(&identity, &headers, &uri, "/", None);
            prop_assert!(matches!(found.as_deref(), None | Some(b"carol" | b"42")), "{found:?}");
            Ok(())
        });
        held.unwrap();
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_panics(value in proptest::collection::vec(0x20u8..0x7f, 0..200), path in "/[!-~]{0,60}") {
            let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            for name in ["cookie", "authorization", "x-user-id"] {
                headers.insert(HeaderName::from_static(name), value.clone());
            }
            let unverified = JwtSource {
                header: HeaderName::from_static("authorization"),
                claim: "sub".into(),
                trust: JwtTrust::Unverified,
            };
            for from in [
                IdentitySource::Cookie("a".into()),
                IdentitySource::Query("a".into()),
                IdentitySource::Path(PathPattern { segments: vec![None] }),
                IdentitySource::Jwt(unverified),
            ] {
                let identity = Identity { from: vec![from], normalise: Normalise::Digits, max_bytes: 16 };
                let _ = user_id(&identity, &headers, &uri, uri.path(), None);
            }
        }
    }
}
