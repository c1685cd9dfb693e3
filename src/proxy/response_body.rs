//! A response body in transit. The outcome of an exchange is known when the response body ends or
//! is dropped.
//!
//! Invariants: a response that the upstream truncates never ends cleanly for the client.
//! An error here makes hyper close an HTTP/1 connection without a terminator, or reset an HTTP/2
//! stream. The stall timer of the upstream runs only while the upstream is waited for.

use super::deadline::{self, Deadlines};
use super::error::RequestError;
use super::headers;
use super::record::RequestRecord;
use super::request_body::{BodyError, RequestBody};
use super::result_code::{BodyVerdict, Reader};
use crate::domain::grpc::GrpcStatus;
use crate::domain::outcome::{Blame, Outcome};
use crate::net::lazy_timer::LazyTimer;
use crate::telemetry::clock;
use crate::upstream::pool::ConnectionLease;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// Bounds on reading the rest of a response after its client has left.
const REST_MAX: Duration = Duration::from_millis(500);
const REST_BYTES_MAX: usize = 64 * 1024;

/// A response body for a client.
pub enum ResponseBody {
    /// Written by the proxy itself.
    Text(Option<Bytes>),
    /// Streamed from an upstream; `None` once it has ended.
    Upstream(Option<Box<UpstreamBody>>),
}

/// A response body in transit, with the actions at its end.
pub struct UpstreamBody {
    inner: Incoming,
    record: Box<RequestRecord>,
    lease: Option<ConnectionLease<RequestBody>>,
    status: StatusCode,
    deadlines: Deadlines,
    /// The deadline for the next piece. Monotonic.
    until: Option<Duration>,
    alarm: LazyTimer,
    /// Reads the result code, if the release has one.
    code: Option<Reader>,
    /// The outcome by the trailers.
    by_trailers: Option<Outcome>,
    /// It broke, and the error is not passed to the client yet.
    broke: bool,
}

impl ResponseBody {
    pub fn text(text: String) -> Self {
        ResponseBody::Text(Some(text.into()))
    }

    pub fn nothing() -> Self {
        ResponseBody::Text(None)
    }

    pub fn upstream(
        inner: Incoming,
        record: Box<RequestRecord>,
        lease: ConnectionLease<RequestBody>,
        status: StatusCode,
        deadlines: Deadlines,
        code: Option<Reader>,
        now: Duration,
    ) -> Self {
        record.body_state().begin_response_body(now);
        let mut upstream_body = UpstreamBody {
            inner,
            record,
            lease: Some(lease),
            status,
            deadlines,
            until: None,
            alarm: LazyTimer::default(),
            code,
            by_trailers: None,
            broke: false,
        };
        if upstream_body.inner.is_end_stream() {
            upstream_body.end_whole();
            return ResponseBody::Upstream(None);
        }
        upstream_body.record.track_response(upstream_body.inner.size_hint().exact().is_some(), now);
        // Boxed for the same reason as the exchange.
        ResponseBody::Upstream(Some(Box::new(upstream_body)))
    }
}

impl UpstreamBody {
    /// Reads the rest of a response whose client has left, within a short bound.
    /// It may hold a result code or trailers, and then its connection can be reused.
    /// `early`: the client had left before the head.
    async fn read_rest(mut self: Box<Self>, early: bool) {
        let until = Instant::now() + REST_MAX;
        let mut bytes = 0;
        let error = loop {
            let next = tokio::time::timeout_at(until, poll_fn(|cx| self.poll(cx)));
            match next.await {
                Ok(Some(Ok(frame))) => {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    if frame.is_trailers() || self.inner.is_end_stream() {
                        return self.end_whole();
                    }
                    if bytes > REST_BYTES_MAX {
                        break None;
                    }
                }
                Ok(None) => return self.end_whole(),
                Ok(Some(Err(error))) => break Some(error),
                Err(_) => break None,
            }
        };
        match error {
            Some(error) => self.record.end_with_error(error, self.status),
            // Without a client at the head, the outcome is the head's. Otherwise the client
            // cancelled it.
            None if early => self.record.end(self.record.by_head(), self.status),
            None => self.record.end(Outcome::Cancelled, self.status),
        }
    }

    /// The body arrived whole.
    fn end_whole(&mut self) {
        let now = clock::now();
        if let Some(lease) = self.lease.take().filter(|_| self.record.body_state().is_whole()) {
            lease.give_back(now);
        }
        if self.by_trailers.is_none() && self.record.awaits_grpc_status() {
            self.record.note_no_grpc_status();
        }
        let outcome = self.outcome();
        let client_slow = self.record.body_state().client_was_slow(now);
        self.record.end_with_body(outcome, self.status, client_slow, now);
    }

    /// The head's outcome, unless the body or its trailers are worse.
    fn outcome(&mut self) -> Outcome {
        let by_head = self.record.by_head();
        let Some(rules) = self.record.rules().filter(|_| by_head.blame() == Blame::Nobody) else {
            return by_head;
        };
        let verdict = self.code.take().zip(rules.body.as_ref()).map(|(code, rule)| code.judge(rule));
        match verdict {
            Some(BodyVerdict::Fails) => return Outcome::ServerError,
            Some(BodyVerdict::Undecodable) => self.record.note_unread_code(None),
            Some(BodyVerdict::Passes) | None => {}
        }
        match self.by_trailers {
            Some(outcome) => outcome,
            None if self.record.awaits_grpc_status() => Outcome::ServerError,
            None => by_head,
        }
    }

    /// A body broke midway: whether the client may be the cause.
    fn may_be_client_fault(&self) -> bool {
        let body_state = self.record.body_state();
        body_state.client_fault().is_some() || body_state.client_dawdled()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
        let polled = match &mut self.lease {
            Some(lease) => lease.poll_frame(cx, &mut self.inner),
            None => Poll::Ready(None),
        };
        match polled {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.until = None;
                if let Some(trailers) = frame.trailers_mut() {
                    headers::drop_from_trailers(trailers);
                }
                if let Some(data) = frame.data_ref() {
                    self.record.add_bytes(data.len());
                    if let Some(code) = &mut self.code {
                        code.read_piece(data);
                    }
                }
                if let Some(trailers) = frame.trailers_ref().filter(|_| self.record.awaits_grpc_status()) {
                    self.by_trailers = GrpcStatus::of(trailers).map(GrpcStatus::outcome);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // The upstream may have answered before it had the whole request: a broken request body
            // breaks both. A client that reads slowly makes the upstream wait to write.
            Poll::Ready(Some(Err(_))) if self.may_be_client_fault() => {
                Poll::Ready(Some(Err(RequestError::ClientAtFault)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(RequestError::BodyTruncated))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => loop {
                let deadlines = self.deadlines;
                self.until = self.until.or_else(|| deadlines.next(clock::now()));
                let Some(until) = self.until else { return Poll::Pending };
                ready!(self.alarm.poll(cx, clock::instant(until).into()));
                let now = clock::now();
                let late = deadline::woke_late(until, now);
                let waits_for_client = self.record.body_state().upstream_waits_since().is_none();
                let over = deadlines.total.is_some_and(|total| total <= now);
                if late || (waits_for_client && !over) {
                    let more = if late { Some(deadline::GRACE) } else { deadlines.idle };
                    self.until = more.map(|more| now + more);
                    continue;
                }
                // The total time-out has expired: by whose fault?
                let body_state = self.record.body_state();
                let excused = over && deadlines.whole.is_some_and(|t| body_state.client_took_half_of(t));
                let error = if excused { RequestError::ClientAtFault } else { RequestError::BodyTimeout };
                return Poll::Ready(Some(Err(error)));
            },
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let slot = match &mut *self {
            ResponseBody::Text(text) => return Poll::Ready(text.take().map(|t| Ok(Frame::data(t)))),
            ResponseBody::Upstream(slot) => slot,
        };
        let Some(upstream_body) = slot else { return Poll::Ready(None) };
        upstream_body.record.carrier().piece_wanted();
        let body_state = upstream_body.record.body_state();
        if body_state.is_whole() {
            body_state.end_client_wait();
        }
        if upstream_body.broke {
            *slot = None;
            return Poll::Ready(Some(Err(BodyError::Upstream)));
        }
        match ready!(upstream_body.poll(cx)) {
            Some(Ok(frame)) => {
                if !upstream_body.record.is_grpc() {
                    upstream_body.record.carrier().piece_offered();
                }
                if frame.is_trailers() || upstream_body.inner.is_end_stream() {
                    // hyper does not poll again.
                    if let Some(mut upstream_body) = slot.take() {
                        upstream_body.end_whole();
                    }
                } else {
                    upstream_body.record.body_state().begin_client_wait();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                if let Some(mut upstream_body) = slot.take() {
                    upstream_body.end_whole();
                }
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                upstream_body.record.end_with_error(error, upstream_body.status);
                // Earlier pieces are written first: hyper would discard them with the connection.
                upstream_body.broke = true;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Text(None) | ResponseBody::Upstream(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            ResponseBody::Upstream(Some(upstream_body)) => upstream_body.inner.size_hint(),
            ResponseBody::Upstream(None) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    /// The client left midway, or the exchange is cancelled. Dropping cancels the rest of the
    /// response, at once or after `UpstreamBody::read_rest`. No drain waits for it.
    fn drop(&mut self) {
        let ResponseBody::Upstream(slot) = self else { return };
        let Some(mut upstream_body) = slot.take() else { return };
        // An HTTP/2 server would otherwise get the rest of the request, and keep both streams open.
        upstream_body.record.body_state().stopped.cancel();
        if upstream_body.record.is_cancelled() {
            upstream_body.record.end(Outcome::Cancelled, upstream_body.status);
        } else if upstream_body.record.may_change_something()
            && upstream_body.record.body_state().is_whole()
            && upstream_body.record.worker().can_detach()
        {
            let early = upstream_body.record.body_state().client_gone.replace(true);
            spawn_local(upstream_body.read_rest(early));
        }
    }
}
