//! The access log: the facts that it uses about a request, and the format of its lines.
//!
//! Invariants: one request is one line, whatever bytes a client sent.
//! Query, user id, `Authorization` and `Cookie` are never written in clear.
//! A user appears as a keyed hash, and only if the config has a key.

use super::decision::{Decided, Served};
use super::error::ErrorForm;
use super::headers::RequestId;
use super::path;
use super::worker::Worker;
use crate::domain::config::{Config, FailedUserIds, Identity, IdentitySource, LogFormat};
use crate::domain::grpc::GrpcStatus;
use crate::domain::outcome::Outcome;
use crate::stats::arm::Arm;
use crate::store::failed_users;
use crate::telemetry::clock;
use http::{Method, StatusCode, Uri};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::net::IpAddr;
use std::time::Duration;

/// The facts about a request that the log may use. Nothing is formatted before it is written.
pub struct LogContext {
    pub method: Method,
    pub uri: Uri,
    pub request_id: RequestId,
    pub address: IpAddr,
    pub user: LoggedUser,
    /// A gRPC call to an HTTP/2 server.
    pub grpc: bool,
    pub error_form: ErrorForm,
}

/// The user of a request, as the log may show it.
pub struct LoggedUser {
    /// Keyed hash of the user id, if the config has a key.
    pub hash: Option<Box<str>>,
    /// The user id, if the config lists users failed by `new` in clear.
    pub clear: Option<ClearId>,
    /// This user's ordinary requests are logged.
    pub sampled: bool,
}

impl LoggedUser {
    pub fn new(
        worker: &Worker,
        config: &Config,
        user_id: Option<&[u8]>,
        user_hash: Option<u64>,
        decided: Option<&Decided>,
    ) -> LoggedUser {
        let lists_clear = config.state.failed_users == FailedUserIds::Clear;
        let on_new = decided.is_some_and(|d| d.arm == Arm::New);
        LoggedUser {
            hash: user_id.zip(worker.user_key(&config.log)).map(|(id, key)| failed_users::hashed(&key, id)),
            clear: user_id.filter(|_| lists_clear && on_new).map(ClearId::new),
            sampled: worker.is_sampled(config.log.sample, user_hash),
        }
    }
}

/// A user id, stored inline; only a long one allocates.
pub enum ClearId {
    Short([u8; CLEAR_SHORT], u8),
    Long(Box<[u8]>),
}

const CLEAR_SHORT: usize = 39;

impl ClearId {
    pub fn new(id: &[u8]) -> ClearId {
        let mut short = [0; CLEAR_SHORT];
        match short.get_mut(..id.len()) {
            Some(place) => {
                place.copy_from_slice(id);
                ClearId::Short(short, id.len() as u8)
            }
            None => ClearId::Long(id.into()),
        }
    }

    pub fn text(&self) -> String {
        let bytes = match self {
            ClearId::Short(bytes, length) => &bytes[..usize::from(*length)],
            ClearId::Long(bytes) => bytes,
        };
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// A closed exchange, for the log.
pub struct AccessRecord<'a> {
    pub log_context: &'a LogContext,
    pub route: &'a str,
    pub release: Option<&'a str>,
    pub decided: Option<&'a Decided>,
    pub served: Served,
    pub outcome: Outcome,
    pub status: StatusCode,
    pub client_gone: bool,
    /// Its release holds `new`, and the exchange has exceeded its grace.
    pub cancelled: bool,
    pub took: Duration,
    pub bytes: u64,
    /// How often it was sent again, because its server had not processed it.
    pub resent: u8,
    /// `Some` iff it is traced.
    pub trace_id: Option<u128>,
    /// The label of the error that ended it.
    pub detail: Option<&'static str>,
    /// The text of that error.
    pub why: Option<&'static str>,
    /// Of a gRPC call that was answered with an error of this proxy.
    pub grpc_status: Option<GrpcStatus>,
}

/// A request that was refused before it had a route.
pub struct RefusedRequest<'a> {
    /// `None`: its head could not be read.
    pub head: Option<(&'a Method, &'a Uri)>,
    /// The status that the client got.
    pub status: StatusCode,
    pub detail: &'static str,
    /// What is wrong with the request, in words that contain nothing of it.
    pub why: &'a str,
    pub grpc_status: Option<GrpcStatus>,
    pub took: Duration,
    pub address: IpAddr,
}

/// The most bytes of a path in the line of a refused request, whose target may be too long.
const REFUSED_PATH_BYTES_MAX: usize = 1024;

pub fn format_refused(request: &RefusedRequest<'_>, identity: &Identity, format: LogFormat) -> String {
    let path = request.head.map(|(_, uri)| refused_path(uri, identity)).unwrap_or_default();
    let method = request.head.map_or("-", |(method, _)| method.as_str());
    if format == LogFormat::Combined {
        let line = CombinedLine { address: request.address, user: "-", method, path: &path };
        return line.format(request.status.as_u16(), 0);
    }
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("at", clock::rfc3339(clock::at_ms()).into());
    put("event", "request".into());
    if request.head.is_some() {
        put("method", method.into());
        put("path", path.into());
    }
    put("status", request.status.as_u16().into());
    if let Some(grpc_status) = request.grpc_status {
        put("grpc_status", grpc_status.0.into());
    }
    put("outcome", Outcome::Rejected.label().into());
    put("detail", request.detail.into());
    put("why", request.why.into());
    put("duration_ms", milliseconds(request.took));
    put("client", request.address.to_string().into());
    Value::Object(fields).to_string()
}

/// The path as far as it may be shown. Where a user id may stand in a path, only a path with one
/// reading is shown.
fn refused_path(uri: &Uri, identity: &Identity) -> String {
    let reading = path::read(uri.path());
    let ambiguous = reading.lenient.is_some() || reading.bare.is_some();
    let names_users = identity.from.iter().any(|source| matches!(source, IdentitySource::Path(_)));
    if ambiguous && names_users {
        return "{ambiguous}".into();
    }
    let shown = hide_ids(&reading.normal, identity);
    // A target is ASCII, so this cuts at most an escape.
    shown.chars().take(REFUSED_PATH_BYTES_MAX).collect()
}

pub fn format_line(request: &AccessRecord<'_>, identity: &Identity, format: LogFormat) -> String {
    let path = hide_ids(request.log_context.uri.path(), identity);
    match format {
        LogFormat::Json => json_line(request, &path),
        LogFormat::Combined => combined_line(request, &path),
    }
}

fn json_line(request: &AccessRecord<'_>, path: &str) -> String {
    let log_context = request.log_context;
    let mut fields = Map::new();
    let mut put = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    put("at", clock::rfc3339(clock::at_ms()).into());
    put("event", "request".into());
    put("method", log_context.method.as_str().into());
    put("path", path.into());
    put("status", status(request).into());
    put("outcome", request.outcome.label().into());
    put("route", request.route.into());
    if let (Some(release), Some(decided)) = (request.release, request.decided) {
        put("release", release.into());
        put("arm", decided.arm.label().into());
        put("reason", decided.reason.into());
    }
    if request.served == Served::ByStable {
        put("outcome", "connect_error".into());
        put("served_by", "stable".into());
    }
    if let Some(grpc_status) = request.grpc_status {
        put("grpc_status", grpc_status.0.into());
    }
    if let Some(detail) = request.detail {
        put("detail", detail.into());
    }
    if let Some(why) = request.why {
        put("why", why.into());
    }
    if request.client_gone {
        put("client_gone", true.into());
    }
    if request.cancelled {
        put("ended_by", "hold".into());
    }
    if request.resent > 0 {
        put("resent", request.resent.into());
    }
    put("duration_ms", milliseconds(request.took));
    put("bytes", request.bytes.into());
    put("client", log_context.address.to_string().into());
    put("request_id", log_context.request_id.to_string().into());
    if let Some(trace_id) = request.trace_id {
        put("trace_id", format!("{trace_id:032x}").into());
    }
    if let Some(user) = &log_context.user.hash {
        put("user", user.as_ref().into());
    }
    Value::Object(fields).to_string()
}

fn milliseconds(took: Duration) -> Value {
    json!((took.as_secs_f64() * 1e6).round() / 1e3)
}

fn combined_line(request: &AccessRecord<'_>, path: &str) -> String {
    let log_context = request.log_context;
    let user = log_context.user.hash.as_deref().unwrap_or("-");
    let line = CombinedLine { address: log_context.address, user, method: log_context.method.as_str(), path };
    line.format(status(request), request.bytes)
}

/// Apache's format: `client - user [time] "request" status bytes "-" "-"`.
struct CombinedLine<'a> {
    address: IpAddr,
    user: &'a str,
    method: &'a str,
    path: &'a str,
}

impl CombinedLine<'_> {
    fn format(&self, status: u16, bytes: u64) -> String {
        let CombinedLine { address, user, method, path } = self;
        let now = jiff::Timestamp::now();
        let time = now.strftime("%d/%b/%Y:%H:%M:%S +0000");
        let path: String = path.chars().flat_map(char::escape_default).collect();
        format!("{address} - {user} [{time}] \"{method} {path} HTTP/1.1\" {status} {bytes} \"-\" \"-\"")
    }
}

fn status(request: &AccessRecord<'_>) -> u16 {
    if request.client_gone { 499 } else { request.status.as_u16() }
}

/// The path without query. `{id}` replaces each segment that the config allows for a user id,
/// whichever source named the user.
fn hide_ids<'a>(path: &'a str, identity: &Identity) -> Cow<'a, str> {
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
