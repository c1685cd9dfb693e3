//! The access log's lines.
//!
//! Invariants: one request is one line, whatever bytes a client sent; a query, a user id, `Authorization` and `Cookie`
//! are never written in clear; a user appears as a keyed hash, and only where the config has a key.

use super::exchange::{Served, Story, Told};
use crate::domain::plan::LogFormat;
use crate::live::clock;
use aws_lc_rs::hmac;
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// How a user id is written: the first 64 bits of its HMAC-SHA256 under the config's key, in hex.
pub fn hashed_user(key: &hmac::Key, user_id: &[u8]) -> Box<str> {
    let tag = hmac::sign(key, user_id);
    tag.as_ref()[..8].iter().map(|b| format!("{b:02x}")).collect::<String>().into()
}

pub fn line(told: &Told<'_>, format: LogFormat) -> String {
    match format {
        LogFormat::Json => json_line(told),
        LogFormat::Combined => combined_line(told),
    }
}

fn json_line(told: &Told<'_>) -> String {
    let story = told.story;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("at", clock::rfc3339(clock::at_ms()).into());
    put("event", "request".into());
    put("method", story.method.as_str().into());
    put("path", path(story).into());
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
    if told.client_gone {
        put("client_gone", true.into());
    }
    put("duration_ms", json!((told.took.as_secs_f64() * 1e6).round() / 1e3));
    put("bytes", told.bytes.into());
    put("client", story.address.to_string().into());
    if let Some(id) = &story.request_id {
        put("request_id", String::from_utf8_lossy(id.as_bytes()).into());
    }
    if let Some(user) = &story.user {
        put("user", user.as_ref().into());
    }
    Value::Object(fields).to_string()
}

/// `client - user [time] "request" status bytes "-" "-"`, as Apache has it.
fn combined_line(told: &Told<'_>) -> String {
    let story = told.story;
    let now = jiff::Timestamp::now();
    let time = now.strftime("%d/%b/%Y:%H:%M:%S +0000");
    let user = story.user.as_deref().unwrap_or("-");
    let path: String = path(story).chars().flat_map(char::escape_default).collect();
    let (method, status, bytes) = (&story.method, status(told), told.bytes);
    format!("{} - {user} [{time}] \"{method} {path} HTTP/1.1\" {status} {bytes} \"-\" \"-\"", story.address)
}

fn status(told: &Told<'_>) -> u16 {
    if told.client_gone { 499 } else { told.status.as_u16() }
}

/// The path without query, and with `{id}` where a user id stood.
fn path(story: &Story) -> Cow<'_, str> {
    let path = story.uri.path();
    let Some(hidden) = story.id_in_path else { return path.into() };
    let mask = |(i, segment)| if i == hidden + 1 { "{id}" } else { segment };
    path.split('/').enumerate().map(mask).collect::<Vec<_>>().join("/").into()
}
