//! Formats the lines of the access log.
//!
//! Invariants: one request is one line, whatever bytes a client sent.
//! Query, user id, `Authorization` and `Cookie` are never written in clear.
//! A user appears as a keyed hash, and only if the config has a key.

use super::exchange::{Served, Story, Told};
use crate::domain::plan::{Identity, IdentitySource, LogFormat};
use crate::live::clock;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

pub fn line(told: &Told<'_>, identity: &Identity, format: LogFormat) -> String {
    let path = path(told.story, identity);
    match format {
        LogFormat::Json => json_line(told, &path),
        LogFormat::Combined => combined_line(told, &path),
    }
}

fn json_line(told: &Told<'_>, path: &str) -> String {
    let story = told.story;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("at", clock::rfc3339(clock::at_ms()).into());
    put("event", "request".into());
    put("method", story.method.as_str().into());
    put("path", path.into());
    put("status", status(told).into());
    put("outcome", told.outcome.label().into());
    put("route", told.route.into());
    if let (Some(release), Some(decided)) = (told.release, told.decided) {
        put("release", release.into());
        put("arm", decided.arm.label().into());
        put("reason", decided.reason.into());
    }
    if told.served == Served::ByStable {
        put("outcome", "connect_error".into());
        put("served_by", "stable".into());
    }
    if let Some(detail) = told.detail {
        put("detail", detail.into());
    }
    if told.client_gone {
        put("client_gone", true.into());
    }
    if told.cancelled {
        put("ended_by", "hold".into());
    }
    put("duration_ms", json!((told.took.as_secs_f64() * 1e6).round() / 1e3));
    put("bytes", told.bytes.into());
    put("client", story.address.to_string().into());
    put("request_id", story.request_id.to_string().into());
    if let Some(trace_id) = told.trace_id {
        put("trace_id", format!("{trace_id:032x}").into());
    }
    if let Some(user) = &story.user {
        put("user", user.as_ref().into());
    }
    Value::Object(fields).to_string()
}

/// Apache's format: `client - user [time] "request" status bytes "-" "-"`.
fn combined_line(told: &Told<'_>, path: &str) -> String {
    let story = told.story;
    let now = jiff::Timestamp::now();
    let time = now.strftime("%d/%b/%Y:%H:%M:%S +0000");
    let user = story.user.as_deref().unwrap_or("-");
    let path: String = path.chars().flat_map(char::escape_default).collect();
    let (method, status, bytes) = (&story.method, status(told), told.bytes);
    format!("{} - {user} [{time}] \"{method} {path} HTTP/1.1\" {status} {bytes} \"-\" \"-\"", story.address)
}

fn status(told: &Told<'_>) -> u16 {
    if told.client_gone { 499 } else { told.status.as_u16() }
}

/// The path without query. `{id}` replaces each segment that the config allows for a user id,
/// whichever source named the user.
fn path<'a>(story: &'a Story, identity: &Identity) -> Cow<'a, str> {
    let path = story.uri.path();
    let mut segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut hidden = false;
    for source in &identity.from {
        let IdentitySource::Path(pattern) = source else { continue };
        let fits = pattern.segments.len() <= segments.len()
            && pattern.segments.iter().zip(&segments).all(|(p, s)| p.as_deref().is_none_or(|p| p == *s));
        if fits {
            for (i, _) in pattern.segments.iter().enumerate().filter(|(_, p)| p.is_none()) {
                segments[i] = "{id}";
                hidden = true;
            }
        }
    }
    if hidden { format!("/{}", segments.join("/")).into() } else { path.into() }
}
