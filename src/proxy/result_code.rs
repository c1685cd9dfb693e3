//! Reads the result code inside a JSON body while the body passes.
//!
//! Invariants: no piece is delayed, and nothing is kept beyond the rule's bound.
//! A body that cannot be read (compressed, too long, no JSON, no such field) is no failure.

use crate::domain::failure_rules::{BodyRule, FailureRules, JsonStep};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

/// Keeps the pieces of a body while they pass, up to the bound.
#[derive(Debug)]
pub struct Reader {
    kept: Vec<u8>,
    bytes_max: usize,
    over: bool,
}

impl Reader {
    /// A reader for this response's body, if a rule needs it and it is readable.
    pub fn for_response(rules: &FailureRules, status: StatusCode, headers: &HeaderMap) -> Option<Reader> {
        let rule = rules.body.as_ref()?;
        let plain = headers.get(header::CONTENT_ENCODING).is_none_or(|e| e.as_bytes() == b"identity");
        let bodiless = status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED;
        let json = headers.get(header::CONTENT_TYPE).and_then(|t| t.to_str().ok()).is_some_and(is_json);
        (plain && json && !bodiless).then(|| Reader {
            kept: Vec::new(),
            bytes_max: rule.bytes_max,
            over: false,
        })
    }

    pub fn read_piece(&mut self, piece: &[u8]) {
        if self.over || self.kept.len() + piece.len() > self.bytes_max {
            (self.over, self.kept) = (true, Vec::new());
        } else {
            self.kept.extend_from_slice(piece);
        }
    }

    /// The body is complete: whether the rule counts it as a failure.
    pub fn fails(&self, rule: &BodyRule) -> bool {
        if self.over {
            return false;
        }
        let Ok(body) = serde_json::from_slice::<Value>(&self.kept) else { return false };
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
        let mut reader = Reader::for_response(&rules, StatusCode::OK, &json).expect("JSON is read");
        body.as_bytes().chunks(pieces).for_each(|piece| reader.read_piece(piece));
        reader.fails(rule)
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
            Reader::for_response(&rules, StatusCode::from_u16(status).unwrap(), &headers(pairs)).is_some()
        };
        assert!(readable(&[("content-type", "application/problem+json")], 200));
        assert!(!readable(&[("content-type", "application/json"), ("content-encoding", "gzip")], 200));
        assert!(!readable(&[("content-type", "text/html")], 200));
        assert!(!readable(&[], 200));
        assert!(!readable(&[("content-type", "application/json")], 204));
    }

    proptest! {
        #[test]
        fn any_body_is_survived_within_the_bound(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let rule = rule(&[JsonStep::Key("a".into())], FailureRule::Unless("0".into()));
            let mut reader = Reader { kept: vec![], bytes_max: 64, over: false };
            for piece in &pieces {
                reader.read_piece(piece);
                prop_assert!(reader.kept.len() <= 64);
            }
            reader.fails(&rule);
        }
    }
}
