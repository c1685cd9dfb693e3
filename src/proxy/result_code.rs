//! Reads the result code inside a JSON body while the body passes.
//!
//! Invariants: no piece is delayed, and nothing is kept beyond the rule's bound.
//! A body that cannot be read (an unknown coding, too long, no JSON, no such field) is no failure.
//! A compressed body is kept as it is, and decoded once it is complete.

use super::content_coding::{ContentCoding, Decoded};
use crate::domain::failure_rules::{BodyRule, FailureRules, JsonStep};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

/// Keeps the pieces of a body while they pass, up to the bound.
#[derive(Debug)]
pub struct Reader {
    kept: Vec<u8>,
    bytes_max: usize,
    over: bool,
    coding: ContentCoding,
}

/// Whether the result code of a response can be read.
#[derive(Debug)]
pub enum Readable {
    By(Reader),
    /// No rule needs it, or there is no JSON in it.
    No,
    /// Its coding is unknown.
    Coded,
}

/// What the rule says of a complete body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyVerdict {
    Fails,
    Passes,
    /// It is not in the coding that its head names.
    Undecodable,
}

impl Reader {
    /// A reader for this response's body, if a rule needs it and it is readable.
    pub fn for_response(rules: &FailureRules, status: StatusCode, headers: &HeaderMap) -> Readable {
        let Some(rule) = &rules.body else { return Readable::No };
        let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let json = headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).is_some_and(is_json);
        if bodiless || !json {
            return Readable::No;
        }
        let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
        let coding = match (codings.next(), codings.next()) {
            (None, _) => Some(ContentCoding::Identity),
            (Some(one), None) => ContentCoding::named(one.as_bytes()),
            (Some(_), Some(_)) => None,
        };
        match coding {
            Some(coding) => {
                Readable::By(Reader { kept: Vec::new(), bytes_max: rule.bytes_max, over: false, coding })
            }
            None => Readable::Coded,
        }
    }

    pub fn read_piece(&mut self, piece: &[u8]) {
        if self.over || self.kept.len() + piece.len() > self.bytes_max {
            (self.over, self.kept) = (true, Vec::new());
        } else {
            self.kept.extend_from_slice(piece);
        }
    }

    /// The body is complete: what the rule says of it.
    pub fn judge(self, rule: &BodyRule) -> BodyVerdict {
        if self.over || self.kept.is_empty() {
            return BodyVerdict::Passes;
        }
        match self.coding.decode(self.kept, self.bytes_max) {
            Decoded::Whole(body) if Reader::fails(&body, rule) => BodyVerdict::Fails,
            Decoded::Whole(_) | Decoded::TooLong => BodyVerdict::Passes,
            Decoded::Broken => BodyVerdict::Undecodable,
        }
    }

    /// Whether the rule counts this JSON as a failure.
    fn fails(body: &[u8], rule: &BodyRule) -> bool {
        let Ok(body) = serde_json::from_slice::<Value>(body) else { return false };
        let place = rule.path.iter().try_fold(&body, |at, step| match step {
            JsonStep::Key(key) => at.get(key),
            JsonStep::Index(i) => at.get(i),
        });
        let code = match place {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => value.to_string(),
            Some(Value::Array(_) | Value::Object(_)) | None => return false,
        };
        rule.fails.at(&code)
    }
}

/// `application/json`, or any `+json` (RFC 6839).
fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media == "application/json" || media == "text/json" || media.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::failure_rules::FailureRule;
    use http::HeaderName;
    use proptest::prelude::*;

    fn rule(path: &[JsonStep], fails: FailureRule) -> BodyRule {
        BodyRule { path: path.to_vec(), fails, bytes_max: 64 }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    fn read(body: &str, rule: &BodyRule, pieces: usize) -> bool {
        let rules = FailureRules { body: Some(rule.clone()), ..FailureRules::default() };
        let json = headers(&[("content-type", "application/json; charset=utf-8")]);
        let Readable::By(mut reader) = Reader::for_response(&rules, StatusCode::OK, &json) else {
            panic!("JSON is read")
        };
        body.as_bytes().chunks(pieces).for_each(|piece| reader.read_piece(piece));
        reader.judge(rule) == BodyVerdict::Fails
    }

    #[test]
    fn a_code_inside_a_200_decides() {
        let code = rule(&[JsonStep::Key("resultCode".into())], FailureRule::Unless("0".into()));
        for (body, fails) in [
            (r#"{"resultCode": 0}"#, false),
            (r#"{"resultCode": "0"}"#, false),
            (r#"{"resultCode": 17}"#, true),
            (r#"{"resultCode": "E17"}"#, true),
            (r#"{"resultCode": null}"#, true),
            (r#"{"resultCode": {"is": "more"}}"#, false),
            (r#"{"other": 1}"#, false),
            (r#"{"resultCode": 17"#, false),
            ("", false),
        ] {
            for pieces in [1, 3, 100] {
                assert_eq!(read(body, &code, pieces), fails, "{body}");
            }
        }
        let long = format!(r#"{{"resultCode": 17, "pad": "{}"}}"#, "x".repeat(64));
        assert!(!read(&long, &code, 10), "a body over the bound is not judged");
        let deep = rule(
            &[JsonStep::Key("a".into()), JsonStep::Index(1), JsonStep::Key("ok".into())],
            FailureRule::If("false".into()),
        );
        assert!(read(r#"{"a": [1, {"ok": false}]}"#, &deep, 5));
        assert!(!read(r#"{"a": [1, {"ok": true}]}"#, &deep, 5));
    }

    #[test]
    fn what_cannot_be_read_is_not_read() {
        let rules =
            FailureRules { body: Some(rule(&[], FailureRule::If("0".into()))), ..FailureRules::default() };
        let readable = |pairs: &[(&'static str, &'static str)], status| {
            let status = StatusCode::from_u16(status).unwrap();
            matches!(Reader::for_response(&rules, status, &headers(pairs)), Readable::By(_))
        };
        assert!(readable(&[("content-type", "application/problem+json")], 200));
        assert!(readable(&[("content-type", "application/json"), ("content-encoding", "gzip")], 200));
        assert!(!readable(&[("content-type", "application/json"), ("content-encoding", "deflate")], 200));
        assert!(!readable(&[("content-type", "text/html")], 200));
        assert!(!readable(&[], 200));
        assert!(!readable(&[("content-type", "application/json")], 204));
    }

    proptest! {
        #[test]
        fn any_body_is_survived_within_the_bound(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let rule = rule(&[JsonStep::Key("a".into())], FailureRule::Unless("0".into()));
            let mut reader =
                Reader { kept: vec![], bytes_max: 64, over: false, coding: ContentCoding::Identity };
            for piece in &pieces {
                reader.read_piece(piece);
                prop_assert!(reader.kept.len() <= 64);
            }
            reader.judge(&rule);
        }
    }
}
