//! The trace exporter: OTLP over HTTP, in its JSON encoding (OpenTelemetry Protocol 1.x, "JSON
//! Protobuf Encoding"), with the attributes of the semantic conventions for HTTP spans.
//!
//! Written by hand: the `opentelemetry` crates add a second HTTP client and an exporter runtime
//! (or, for the messages alone, protobuf and the SDK) for a page of JSON.
//!
//! Invariants: one batch at a time is in flight, taken from one worker's queue, and the queues
//! behind it are bounded.
//! So an absent collector costs the memory of the queues in `live::traces`, and of one queue more.
//! A batch is retried only where the protocol allows it.
//! Trouble is logged once, and its end.
//! No attribute identifies the user or contains a path, a query or a header of a client.

use super::call::{Call, CallError};
use crate::domain::config::TracesConfig;
use crate::domain::digest::hex;
use crate::domain::outcome::{Blame, Outcome};
use crate::runtime::shared::SharedState;
use crate::runtime::traces::{AttemptResult, TracedAttempt, TracedExchange};
use crate::telemetry::backoff::Backoff;
use crate::telemetry::clock;
use crate::telemetry::random;
use crate::telemetry::throttle::{TroubleEdges, Turn};
use http::{Method, StatusCode, header};
use serde::{Serialize, Serializer};
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Requests per call.
pub const BATCH_MAX: usize = 512;
/// The pause after an empty queue.
const EVERY: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a retry.
const RETRY: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30) };
/// Limit of a response: a short message about a partial success.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// A reason is one line of the log.
const WHY_CHARS: usize = 200;

/// Kinds of spans, as the protocol numbers them.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
/// Flags: sampled; whether the parent is remote is known; it is remote.
const FLAGS: u32 = 0x101;
const FLAG_REMOTE: u32 = 0x200;

pub struct SpanExporter {
    shared: Arc<SharedState>,
    /// The batch in flight: kept until its result is known.
    batch: Vec<TracedExchange>,
    /// Requests beyond the size of a call.
    rest: Vec<TracedExchange>,
    /// Failed calls in a row.
    failures: u32,
    trouble: TroubleEdges,
    instance: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("it answered {status}")]
    Refused { status: StatusCode, retry_after: Option<Duration> },
}

impl ExportError {
    /// OTLP/HTTP allows a retry for these, and no others.
    fn is_passing(&self) -> bool {
        match self {
            ExportError::Call(_) => true,
            ExportError::Refused { status, .. } => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl SpanExporter {
    pub fn new(shared: Arc<SharedState>) -> Self {
        let mut id = [0u8; 16];
        // Without random numbers, instances are not distinguishable.
        let _ = random::fill(&mut id);
        let instance = hex(&id);
        SpanExporter {
            shared,
            batch: vec![],
            rest: vec![],
            failures: 0,
            trouble: TroubleEdges::default(),
            instance,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(&mut self) {
        loop {
            let wait = self.round().await;
            tokio::time::sleep(wait).await;
        }
    }

    /// One try for each waiting batch: at the end of the process.
    pub async fn last(&mut self) {
        while self.round().await.is_zero() {}
    }

    /// At most one call; returns the pause until the next.
    async fn round(&mut self) -> Duration {
        let snapshot = self.shared.snapshot();
        let Some(config) = &snapshot.config.traces else {
            // Switched off: the waiting requests are from before.
            self.drop_batch();
            self.shared.traces.done(self.rest.len());
            self.rest.clear();
            loop {
                let taken = self.shared.traces.take().len();
                self.shared.traces.done(taken);
                if taken == 0 {
                    break;
                }
            }
            return EVERY;
        };
        if self.batch.is_empty() {
            if self.rest.is_empty() {
                self.rest = self.shared.traces.take();
            }
            let at = self.rest.len().min(BATCH_MAX);
            self.batch = self.rest.drain(..at).collect();
        }
        if self.batch.is_empty() {
            return EVERY;
        }
        let spans: u64 = self.batch.iter().map(|traced| traced.spans()).sum();
        let traces = &self.shared.traces;
        match self.call(config).await {
            Ok(rejected) => {
                traces.sent.fetch_add(spans.saturating_sub(rejected), Relaxed);
                traces.refused.fetch_add(rejected.min(spans), Relaxed);
                if self.trouble.turn(false) == Some(Turn::Ends) {
                    self.shared
                        .log
                        .event("traces_delivered_again", json!({"collector": config.address.to_string()}));
                }
                self.drop_batch();
                self.failures = 0;
                Duration::ZERO
            }
            Err(error) => {
                traces.calls_failed.fetch_add(1, Relaxed);
                let passing = error.is_passing();
                if self.trouble.turn(true) == Some(Turn::Begins) {
                    let effect = match passing {
                        true => "spans wait, and are dropped where there is no more room",
                        false => "these spans are dropped",
                    };
                    let (collector, error) = (config.address.to_string(), error.to_string());
                    let told = json!({"collector": collector, "error": error, "effect": effect});
                    self.shared.log.event("traces_not_delivered", told);
                }
                if !passing {
                    traces.refused.fetch_add(spans, Relaxed);
                    self.drop_batch();
                    return EVERY;
                }
                self.failures = self.failures.saturating_add(1);
                let wait = RETRY.after(self.failures);
                match error {
                    ExportError::Refused { retry_after: Some(asked), .. } => wait.max(asked),
                    _ => wait,
                }
            }
        }
    }

    /// Ends the batch: its result is known.
    fn drop_batch(&mut self) {
        self.shared.traces.done(self.batch.len());
        self.batch.clear();
    }

    /// The number of spans that the collector rejected, from an accepted batch.
    async fn call(&self, config: &TracesConfig) -> Result<u64, ExportError> {
        let headers = [("content-type", "application/json".to_owned())];
        let call = Call {
            to: &config.address,
            tls: config.tls.as_ref(),
            method: Method::POST,
            path: &config.address.path,
            headers: &headers,
            body: message(&self.batch, &self.instance).into(),
            answer_bytes_max: ANSWER_BYTES_MAX,
            within: TIMEOUT,
        };
        let answer = call.make().await?;
        if !answer.status.is_success() {
            let asked = answer.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
            let retry_after = asked.map(|s| Duration::from_secs(s).min(RETRY.max));
            return Err(ExportError::Refused { status: answer.status, retry_after });
        }
        let (rejected, why) = rejected(&answer.body);
        if rejected > 0 {
            let (collector, why) =
                (config.address.to_string(), why.chars().take(WHY_CHARS).collect::<String>());
            let told = json!({"collector": collector, "spans": rejected, "error": why});
            self.shared.log.event("traces_rejected", told);
        }
        Ok(rejected)
    }
}

/// `partialSuccess`: a number, which JSON of protobuf writes as a string, and a message.
fn rejected(answer: &[u8]) -> (u64, String) {
    let answer: serde_json::Value = serde_json::from_slice(answer).unwrap_or_default();
    let partial = &answer["partialSuccess"];
    let number = &partial["rejectedSpans"];
    let rejected = number.as_u64().or_else(|| number.as_str()?.parse().ok()).unwrap_or(0);
    (rejected, partial["errorMessage"].as_str().unwrap_or_default().to_owned())
}

/// `ExportTraceServiceRequest`.
/// Serialized directly, without a tree of values: a thousand spans take milliseconds.
fn message(batch: &[TracedExchange], instance: &str) -> Vec<u8> {
    let wall = WallClock::now();
    let version = env!("CARGO_PKG_VERSION");
    let message = OtlpMessage {
        resource_spans: [ResourceSpans {
            resource: OtlpResource {
                attributes: [
                    text("service.name", "grayling"),
                    text("service.version", version),
                    text("service.instance.id", instance),
                ],
            },
            scope_spans: [ScopeSpans {
                scope: OtlpScope { name: "grayling", version },
                spans: batch.iter().flat_map(|traced| spans(traced, &wall)).collect(),
            }],
        }],
    };
    // A tree of texts and numbers always serializes.
    serde_json::to_vec(&message).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OtlpMessage<'a> {
    resource_spans: [ResourceSpans<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    resource: OtlpResource<'a>,
    scope_spans: [ScopeSpans<'a>; 1],
}

#[derive(Serialize)]
struct OtlpResource<'a> {
    attributes: [OtlpAttribute<'a>; 3],
}

#[derive(Serialize)]
struct ScopeSpans<'a> {
    scope: OtlpScope,
    spans: Vec<OtlpSpan<'a>>,
}

#[derive(Serialize)]
struct OtlpScope {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OtlpSpan<'a> {
    trace_id: TraceId,
    span_id: SpanId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_span_id: Option<SpanId>,
    flags: u32,
    name: String,
    kind: u8,
    start_time_unix_nano: OtlpNumber,
    end_time_unix_nano: OtlpNumber,
    attributes: Vec<OtlpAttribute<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<OtlpStatus>,
}

#[derive(Serialize)]
struct OtlpStatus {
    code: u8,
}

#[derive(Serialize)]
struct OtlpAttribute<'a> {
    key: &'static str,
    value: OtlpValue<'a>,
}

#[derive(Serialize)]
enum OtlpValue<'a> {
    #[serde(rename = "stringValue")]
    Text(Cow<'a, str>),
    #[serde(rename = "intValue")]
    Number(OtlpNumber),
}

/// Ids are hexadecimal digits, not base64 like other bytes.
struct TraceId(u128);
struct SpanId(u64);
/// 64-bit numbers are written as strings.
struct OtlpNumber(u64);

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl Serialize for SpanId {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl Serialize for OtlpNumber {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(itoa::Buffer::new().format(self.0))
    }
}

/// Converts monotonic time to wall clock.
/// Made when a batch is sent, so a clock set right meanwhile is right for the whole batch.
struct WallClock(Duration);

impl WallClock {
    fn now() -> WallClock {
        WallClock(clock::since_epoch().saturating_sub(clock::now()))
    }

    fn ns(&self, at: Duration) -> OtlpNumber {
        OtlpNumber(u64::try_from((self.0 + at).as_nanos()).unwrap_or(u64::MAX))
    }
}

fn spans<'a>(traced: &'a TracedExchange, wall: &WallClock) -> Vec<OtlpSpan<'a>> {
    let mut spans = Vec::with_capacity(1 + traced.attempts.len());
    spans.push(server_span(traced, wall));
    spans
        .extend(traced.attempts.iter().enumerate().map(|(n, attempt)| client_span(traced, attempt, n, wall)));
    spans
}

fn server_span<'a>(traced: &'a TracedExchange, wall: &WallClock) -> OtlpSpan<'a> {
    let config = &traced.snapshot.config;
    let method = method(&traced.method);
    let mut attributes = vec![text("http.request.method", method)];
    let mut name = if method == OTHER { "HTTP".to_owned() } else { method.to_owned() };
    // Names and paths of the file under which `traced` was decided.
    if let Some(route) = config.routes.get(traced.route) {
        name = format!("{name} {}", route.path);
        attributes.push(text("http.route", route.path.as_str()));
        attributes.push(text("grayling.route", route.name.as_str()));
    }
    if let Some(status) = traced.status {
        attributes.push(number("http.response.status_code", status.into()));
    }
    attributes.push(number("http.response.body.size", traced.bytes));
    attributes.push(text("grayling.outcome", traced.outcome.label()));
    if let Some(detail) = traced.detail {
        attributes.push(text("grayling.detail", detail));
    }
    if let Some(decided) = &traced.decided
        && let Some(release) = config.releases.get(decided.release)
    {
        attributes.push(text("grayling.release", release.name.as_str()));
        attributes.push(text("grayling.arm", decided.arm.label()));
        attributes.push(text("grayling.cohort", decided.cohort.label(release)));
        attributes.push(text("grayling.reason", decided.reason));
        if decided.by_stable {
            attributes.push(text("grayling.served_by", "stable"));
        }
    }
    // In a server span, a client's fault is no error.
    let failed = match traced.outcome.blame() {
        Blame::Nobody | Blame::Client => None,
        Blame::Upstream | Blame::Proxy => Some(match (traced.outcome, traced.status) {
            (Outcome::ServerError, Some(status)) if status >= 500 => status.to_string(),
            (outcome, _) => outcome.label().to_owned(),
        }),
    };
    span(
        traced,
        CollectorAnswer { span_id: traced.span_id, parent: traced.parent, kind: SERVER, name },
        [wall.ns(traced.began), wall.ns(traced.ended)],
        attributes,
        failed,
    )
}

fn client_span<'a>(
    traced: &TracedExchange,
    attempt: &'a TracedAttempt,
    n: usize,
    wall: &WallClock,
) -> OtlpSpan<'a> {
    let method = method(&traced.method);
    let name = if method == OTHER { "HTTP" } else { method };
    let mut attributes = vec![
        text("http.request.method", method),
        text("grayling.upstream", attempt.upstream.config.name.as_str()),
    ];
    if let Some(server) = attempt.upstream.servers.get(attempt.server) {
        attributes.push(text("server.address", server.server.host.as_str()));
        if server.server.unix_path().is_none() {
            attributes.push(number("server.port", server.server.port.into()));
        }
    }
    if n > 0 {
        attributes.push(number("http.request.resend_count", n as u64));
    }
    let failed = match attempt.came {
        AttemptResult::Nothing => None,
        // In a client span, 4xx is an error too.
        AttemptResult::Status(status) => {
            attributes.push(number("http.response.status_code", status.into()));
            (status >= 400).then(|| status.to_string())
        }
        AttemptResult::Failed(outcome) => Some(outcome.label().to_owned()),
    };
    span(
        traced,
        CollectorAnswer {
            span_id: attempt.span_id,
            parent: Some(traced.span_id),
            kind: CLIENT,
            name: name.to_owned(),
        },
        [wall.ns(attempt.began), wall.ns(attempt.ended.unwrap_or(traced.ended))],
        attributes,
        failed,
    )
}

struct CollectorAnswer {
    span_id: u64,
    parent: Option<u64>,
    kind: u8,
    name: String,
}

fn span<'a>(
    traced: &TracedExchange,
    head: CollectorAnswer,
    [start, end]: [OtlpNumber; 2],
    mut attributes: Vec<OtlpAttribute<'a>>,
    failed: Option<String>,
) -> OtlpSpan<'a> {
    let remote = if head.kind == SERVER && head.parent.is_some() { FLAG_REMOTE } else { 0 };
    // STATUS_CODE_ERROR
    let status = failed.is_some().then_some(OtlpStatus { code: 2 });
    if let Some(failed) = failed {
        attributes.push(text("error.type", failed));
    }
    OtlpSpan {
        trace_id: TraceId(traced.trace_id),
        span_id: SpanId(head.span_id),
        parent_span_id: head.parent.map(SpanId),
        flags: FLAGS | remote,
        name: head.name,
        kind: head.kind,
        start_time_unix_nano: start,
        end_time_unix_nano: end,
        attributes,
        status,
    }
}

/// The conventions' name for an unknown method: a client may invent any number of them.
const OTHER: &str = "_OTHER";

fn method(method: &Method) -> &'static str {
    const KNOWN: [Method; 9] = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::CONNECT,
        Method::OPTIONS,
        Method::TRACE,
        Method::PATCH,
    ];
    const NAMES: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    KNOWN.iter().position(|known| known == method).map_or(OTHER, |at| NAMES[at])
}

fn text<'a>(key: &'static str, value: impl Into<Cow<'a, str>>) -> OtlpAttribute<'a> {
    OtlpAttribute { key, value: OtlpValue::Text(value.into()) }
}

fn number<'a>(key: &'static str, value: u64) -> OtlpAttribute<'a> {
    OtlpAttribute { key, value: OtlpValue::Number(OtlpNumber(value)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_nobody_knows_is_no_name_of_a_client() {
        assert_eq!(method(&Method::PATCH), "PATCH");
        assert_eq!(method(&Method::from_bytes(b"ALICE").unwrap()), OTHER);
    }

    #[test]
    fn what_a_collector_rejects_is_read_and_garbage_is_nothing() {
        assert_eq!(
            rejected(br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"x"}}"#),
            (3, "x".into())
        );
        assert_eq!(rejected(br#"{"partialSuccess":{"rejectedSpans":3}}"#).0, 3);
        for nothing in [&b""[..], b"{}", b"\xff", b"[]", br#"{"partialSuccess":7}"#] {
            assert_eq!(rejected(nothing).0, 0);
        }
    }
}
