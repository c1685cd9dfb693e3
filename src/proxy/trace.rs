//! Samples requests for tracing, and propagates the trace to upstreams (W3C Trace Context).
//!
//! Invariants: a sampled user is traced in every request.
//! The sampled flag counts from trusted proxies only.
//! An incoming trace is continued. One that cannot be parsed is restarted, without its `tracestate`
//! (§4.3 there).

use super::headers::{Peer, TRACEPARENT, traceparent};
use super::worker::Worker;
use crate::domain::config::TracesConfig;
use crate::domain::outcome::Outcome;
use crate::runtime::snapshot::Snapshot;
use crate::runtime::traces::{AttemptResult, TracedAttempt, TracedExchange};
use crate::upstream::server::UpstreamState;
use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use std::sync::Arc;
use std::time::Duration;

const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const SAMPLED: u8 = 1;

/// The fields of an incoming `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl Parent {
    fn read(headers: &HeaderMap) -> Option<Parent> {
        let mut all = headers.get_all(TRACEPARENT).iter();
        let (first, second) = (all.next()?, all.next());
        second.is_none().then(|| Parent::parse(first.as_bytes()))?
    }

    /// §3.2: `00-TRACE-SPAN-FLAGS` in lower case; later versions may append fields.
    fn parse(text: &[u8]) -> Option<Parent> {
        let hex = |range: std::ops::Range<usize>| {
            text.get(range)?.iter().try_fold(0u128, |all, byte| {
                let digit = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return None,
                };
                Some(all << 4 | u128::from(digit))
            })
        };
        let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
        let version = hex(0..2)?;
        let ends = match version {
            0 => text.len() == 55,
            0xff => false,
            _ => matches!(text.get(55), None | Some(b'-')),
        };
        let parent =
            Parent { trace_id: hex(3..35)?, span_id: hex(36..52)? as u64, flags: hex(53..55)? as u8 };
        (dashes && ends && parent.trace_id != 0 && parent.span_id != 0).then_some(parent)
    }
}

/// A request that may be traced.
pub struct Candidate<'a> {
    pub peer: Peer,
    pub user_hash: Option<u64>,
    pub method: &'a Method,
    pub route: usize,
}

/// The trace of this request, if it is sampled.
pub fn begin_trace(
    worker: &Worker,
    snapshot: &Arc<Snapshot>,
    traces: &TracesConfig,
    headers: &mut HeaderMap,
    candidate: Candidate<'_>,
) -> Option<Box<TracedExchange>> {
    let Candidate { peer, user_hash, method, route } = candidate;
    let marked = |headers: &HeaderMap| Parent::read(headers).is_some_and(|p| p.flags & SAMPLED != 0);
    if !(worker.is_sampled(traces.sample, user_hash) || peer == Peer::Trusted && marked(headers)) {
        return None;
    }
    let parent = Parent::read(headers);
    if parent.is_none() {
        headers.remove(TRACESTATE);
    }
    let made = || u128::from(worker.random()) << 64 | u128::from(worker.random() | 1);
    Some(Box::new(TracedExchange {
        trace_id: parent.map_or_else(made, |p| p.trace_id),
        parent: parent.map(|p| p.span_id),
        span_id: worker.random() | 1,
        began: Duration::ZERO,
        ended: Duration::ZERO,
        method: method.clone(),
        outcome: Outcome::Ok,
        detail: None,
        status: None,
        snapshot: snapshot.clone(),
        route,
        decided: None,
        bytes: 0,
        attempts: vec![],
    }))
}

/// Records an attempt at a server.
pub fn add_attempt(
    traced: &mut TracedExchange,
    worker: &Worker,
    upstream: &Arc<UpstreamState>,
    server: usize,
    now: Duration,
) {
    traced.attempts.push(TracedAttempt {
        span_id: worker.random() | 1,
        began: now,
        ended: None,
        upstream: upstream.clone(),
        server,
        came: AttemptResult::Nothing,
    });
}

/// The `traceparent` for the server of the current attempt: a child of that attempt.
pub fn child_traceparent(traced: &TracedExchange) -> HeaderValue {
    let span = traced.attempts.last().map_or(traced.span_id, |attempt| attempt.span_id);
    traceparent((traced.trace_id >> 64) as u64, traced.trace_id as u64, span, SAMPLED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{cases, damaged};
    use proptest::prelude::*;

    const SOUND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parse(text: &str) -> Option<Parent> {
        Parent::parse(text.as_bytes())
    }

    #[test]
    fn a_parent_is_read_as_the_standard_has_it() {
        let parent = parse(SOUND).unwrap();
        assert_eq!(parent.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((parent.span_id, parent.flags), (0xb7ad_6b71_6920_3331, 1));
        assert_eq!(parse(&SOUND.replacen("00", "cc", 1)), Some(parent), "a later version");
        assert_eq!(parse(&format!("{}-more", SOUND.replacen("00", "cc", 1))), Some(parent));
        for wrong in [
            "",
            "00",
            &SOUND.to_uppercase(),
            &SOUND.replacen("00", "ff", 1),
            &format!("{SOUND}-more"),
            &format!("{}x", SOUND.replacen("00", "cc", 1)),
            &SOUND.replace('-', "_"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, HeaderValue::from_static(SOUND));
        assert!(Parent::read(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(SOUND));
        assert_eq!(Parent::read(&headers), None);
    }

    proptest! {
        #![proptest_config(cases(256))]
        #[test]
        fn a_damaged_parent_is_refused_or_means_what_it_says(text in damaged([SOUND], ["-", "0", "f"])) {
            if let Some(Parent { trace_id, span_id, flags }) = Parent::parse(&text) {
                let said = format!("-{trace_id:032x}-{span_id:016x}-{flags:02x}");
                prop_assert_eq!(&text[2..55], said.as_bytes());
            }
        }
    }
}
