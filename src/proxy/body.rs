//! Bodies on their way. The outcome of an exchange is known when the response body ends, or when it is dropped.
//!
//! Invariants: a response that the upstream cut short never ends cleanly for the client (an error here makes hyper close an
//! HTTP/1 connection without terminator, and reset an HTTP/2 stream); the clock for a stalled upstream runs only while
//! the upstream is waited for, not while the client is; what the client did to its own body is blamed on the client.

use super::exchange::Exchange;
use super::forward;
use super::result_code::Reader;
use super::serve::Worker;
use super::stream;
use crate::domain::outcome::{Blame, Outcome};
use crate::net::pool::Lease;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, Sleep};

/// A client that was waited for as long as this, in all, may be why the upstream gave the exchange up: no common server has less patience
/// with a body (uWSGI 4 s, Kestrel 5 s).
const DAWDLE: Duration = Duration::from_secs(3);

/// How far the request body has come, and what became of it; shared with the exchange.
pub struct Upload {
    stage: Cell<Stage>,
    /// Waiting for the client to send more: then silence is not the upstream's.
    waits_for_client: Cell<bool>,
    /// For how long the client was waited for in all, before the wait that is on: to send more, or to take what came.
    waited: Cell<Duration>,
    waits_since: Cell<Option<Instant>>,
    moved_at: Cell<Instant>,
    became_whole: Notify,
    /// The client went away, and the exchange goes on without it.
    pub client_gone: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    Whole,
    /// Broken framing, or the connection ended.
    Broken,
    /// Nothing came for `body_idle_timeout`.
    Slow,
}

/// What the client did to its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientFault {
    Broken,
    Slow,
}

impl Upload {
    pub fn of(body: &Incoming) -> Rc<Upload> {
        Rc::new(Upload {
            stage: Cell::new(if body.is_end_stream() { Stage::Whole } else { Stage::Running }),
            waits_for_client: Cell::new(false),
            waited: Cell::default(),
            waits_since: Cell::default(),
            moved_at: Cell::new(Instant::now()),
            became_whole: Notify::new(),
            client_gone: Cell::new(false),
        })
    }

    /// Has the whole body been received?
    pub fn whole(&self) -> bool {
        self.stage.get() == Stage::Whole
    }

    /// Ends when the body has been received whole, if it was not yet.
    pub async fn until_whole(&self) {
        self.became_whole.notified().await;
    }

    fn complete(&self) {
        self.moved_at.set(Instant::now());
        self.stage.set(Stage::Whole);
        self.became_whole.notify_one();
    }

    /// The upstream's time begins only now.
    pub fn move_on(&self) {
        self.moved_at.set(Instant::now());
    }

    /// When its last piece came; at first, when the request did.
    pub fn moved_at(&self) -> Instant {
        self.moved_at.get()
    }

    pub fn client_fault(&self) -> Option<ClientFault> {
        match self.stage.get() {
            Stage::Broken => Some(ClientFault::Broken),
            Stage::Slow => Some(ClientFault::Slow),
            Stage::Running | Stage::Whole => None,
        }
    }

    /// The client is waited for from now on.
    fn waits(&self) {
        if self.waits_since.get().is_none() {
            self.waits_since.set(Some(Instant::now()));
        }
    }

    /// It has moved.
    fn waits_no_more(&self) {
        if let Some(since) = self.waits_since.take() {
            self.waited.set(self.waited.get() + since.elapsed());
        }
    }

    /// For how long the client was waited for, in all.
    fn client_took(&self) -> Duration {
        let waits = self.waits_since.get().map_or(Duration::ZERO, |since| since.elapsed());
        self.waited.get() + waits
    }

    /// Has the client taken so long that an upstream may have lost patience with it?
    pub fn client_dawdled(&self) -> bool {
        self.client_took() >= DAWDLE
    }

    /// Was half of this time or more the client's?
    pub fn client_took_half_of(&self, total: Duration) -> bool {
        self.client_took() >= total / 2
    }

    /// When the upstream's time to answer began: when the last piece of the body moved. `None` while the client is waited for.
    pub fn upstream_waits_since(&self) -> Option<Instant> {
        let waits_for_client = self.stage.get() == Stage::Running && self.waits_for_client.get();
        (!waits_for_client).then(|| self.moved_at.get())
    }
}

/// A client's request body on its way to an upstream.
pub struct RequestBody {
    inner: Incoming,
    upload: Rc<Upload>,
    idle_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl RequestBody {
    pub fn new(inner: Incoming, upload: Rc<Upload>, idle_timeout: Duration) -> Self {
        RequestBody { inner, upload, idle_timeout, timer: None }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.timer = None;
                this.upload.waits_for_client.set(false);
                this.upload.waits_no_more();
                this.upload.moved_at.set(Instant::now());
                if this.inner.is_end_stream() {
                    this.upload.complete();
                }
                // Trailers of a request are dropped: an upstream may take them for headers.
                match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(_) => {
                        this.upload.complete();
                        Poll::Ready(None)
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => {
                this.upload.stage.set(Stage::Broken);
                Poll::Ready(Some(Err(BodyError::Client)))
            }
            Poll::Ready(None) => {
                this.upload.waits_no_more();
                this.upload.complete();
                Poll::Ready(None)
            }
            Poll::Pending => {
                this.upload.waits_for_client.set(true);
                this.upload.waits();
                let timeout = this.idle_timeout;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                ready!(timer.as_mut().poll(cx));
                this.upload.stage.set(Stage::Slow);
                Poll::Ready(Some(Err(BodyError::Client)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Why a body ended early.
#[derive(Debug)]
pub enum BodyError {
    Client,
    Upstream,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BodyError::Client => "the client's body ended early",
            BodyError::Upstream => "the upstream's body ended early",
        })
    }
}

impl std::error::Error for BodyError {}

/// What a client receives.
#[expect(clippy::large_enum_variant, reason = "a box would cost every response an allocation")]
pub enum ResponseBody {
    /// Written by the proxy itself.
    Text(Option<Bytes>),
    /// Streamed from an upstream; `None` once it has ended.
    Upstream(Option<Download>),
}

/// A response body on its way, with what must happen at its end.
pub struct Download {
    inner: Incoming,
    exchange: Exchange,
    lease: Option<Lease<RequestBody>>,
    status: StatusCode,
    deadlines: Deadlines,
    timer: Option<Pin<Box<Sleep>>>,
    /// Reads the result code, where the release has one.
    code: Option<Reader>,
    /// What the trailers said.
    by_trailers: Option<Outcome>,
}

/// Times of the upstream's config that bear on a response body.
#[derive(Clone, Copy)]
pub struct Deadlines {
    /// Between two pieces.
    pub idle: Duration,
    /// Of the whole exchange.
    pub total: Option<Instant>,
    /// How long that was, from its beginning.
    pub whole: Option<Duration>,
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
        exchange: Exchange,
        lease: Lease<RequestBody>,
        status: StatusCode,
        deadlines: Deadlines,
        code: Option<Reader>,
    ) -> Self {
        let (lease, timer, by_trailers) = (Some(lease), None, None);
        let download = Download { inner, exchange, lease, status, deadlines, timer, code, by_trailers };
        if download.inner.is_end_stream() {
            download.ended();
            return ResponseBody::Upstream(None);
        }
        ResponseBody::Upstream(Some(download))
    }

    /// Reads to the end for the sake of the outcome: the client is gone.
    pub async fn drain(mut self) {
        while let Some(Ok(_)) = self.frame().await {}
    }
}

impl Download {
    /// The body arrived whole.
    fn ended(mut self) {
        if let Some(lease) = self.lease.take().filter(|_| self.exchange.upload().whole()) {
            lease.give_back();
        }
        let outcome = self.outcome();
        self.exchange.end(outcome, self.status);
    }

    /// What the head said, unless the body or its trailers say worse.
    fn outcome(&self) -> Outcome {
        let by_head = self.exchange.by_head();
        let Some(rules) = self.exchange.rules().filter(|_| by_head.blame() == Blame::Nobody) else {
            return by_head;
        };
        let fails = |code: &Reader| rules.body.as_ref().is_some_and(|rule| code.fails(rule));
        if self.code.as_ref().is_some_and(fails) {
            return Outcome::ServerError;
        }
        self.by_trailers.unwrap_or(by_head)
    }

    /// A break in mid-body: what the client did may be the reason.
    fn is_the_clients(&self) -> bool {
        let upload = self.exchange.upload();
        upload.client_fault().is_some() || upload.client_dawdled()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Outcome>>> {
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.timer = None;
                if let Some(data) = frame.data_ref() {
                    self.exchange.passed(data.len());
                    if let Some(code) = &mut self.code {
                        code.passes(data);
                    }
                }
                if let Some(trailers) = frame.trailers_ref() {
                    self.by_trailers = self.exchange.rules().and_then(|rules| rules.of_grpc(trailers));
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // The upstream may have answered before it had the whole request: a client that breaks its body breaks both. And one that
            // reads slowly makes the upstream wait to write.
            Poll::Ready(Some(Err(_))) if self.is_the_clients() => Poll::Ready(Some(Err(Outcome::Cancelled))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Outcome::Truncated))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => loop {
                let deadlines = self.deadlines;
                let timer = self.timer.get_or_insert_with(|| {
                    let idle = Instant::now() + deadlines.idle;
                    let until = deadlines.total.map_or(idle, |total| total.min(idle));
                    Box::pin(tokio::time::sleep_until(until))
                });
                ready!(timer.as_mut().poll(cx));
                let late = forward::woke_late(timer.deadline());
                let waits_for_client = self.exchange.upload().upstream_waits_since().is_none();
                let over = deadlines.total.is_some_and(|total| total <= Instant::now());
                if late || (waits_for_client && !over) {
                    let again = if late { forward::GRACE } else { deadlines.idle };
                    timer.as_mut().reset(Instant::now() + again);
                    continue;
                }
                // It is the whole exchange that took too long: whose time was it?
                let upload = self.exchange.upload();
                let excused = over && deadlines.whole.is_some_and(|t| upload.client_took_half_of(t));
                let outcome = if excused { Outcome::Cancelled } else { Outcome::Timeout };
                return Poll::Ready(Some(Err(outcome)));
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
        let Some(download) = slot else { return Poll::Ready(None) };
        stream::wanted();
        let upload = download.exchange.upload();
        if upload.whole() {
            upload.waits_no_more();
        }
        match ready!(download.poll(cx)) {
            Some(Ok(frame)) => {
                stream::offered();
                download.exchange.upload().waits();
                if frame.is_trailers() || download.inner.is_end_stream() {
                    // hyper does not ask again.
                    if let Some(download) = slot.take() {
                        download.ended();
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                if let Some(download) = slot.take() {
                    download.ended();
                }
                Poll::Ready(None)
            }
            Some(Err(outcome)) => {
                if let Some(mut download) = slot.take() {
                    let status = download.status;
                    download.exchange.end(outcome, status);
                }
                Poll::Ready(Some(Err(BodyError::Upstream)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, ResponseBody::Text(None) | ResponseBody::Upstream(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |t| t.len() as u64)),
            ResponseBody::Upstream(Some(download)) => download.inner.size_hint(),
            ResponseBody::Upstream(None) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    /// The client went away in mid-body. What may have changed something upstream is read to its end, so that its outcome
    /// counts for the arm; anything else is cancelled (by dropping it).
    fn drop(&mut self) {
        if let ResponseBody::Upstream(slot) = self
            && let Some(download) = slot.take()
            && download.exchange.may_change_something()
            && download.exchange.upload().whole()
            && download.exchange.worker().detaches()
        {
            let worker = download.exchange.worker().clone();
            download.exchange.upload().client_gone.set(true);
            worker.detach(ResponseBody::Upstream(Some(download)).drain());
        }
    }
}

/// An exchange that must not be cancelled by its client: if it is dropped when its request has been received whole, it goes on
/// by itself to its end (a POST that was sent may have been carried out).
pub struct GoesOn<F: Future + 'static> {
    future: Option<Pin<Box<F>>>,
    upload: Rc<Upload>,
    worker: Rc<Worker>,
}

impl<F: Future<Output = http::Response<ResponseBody>> + 'static> GoesOn<F> {
    pub fn new(worker: Rc<Worker>, upload: Rc<Upload>, future: F) -> Self {
        GoesOn { future: Some(Box::pin(future)), upload, worker }
    }
}

impl<F: Future<Output = http::Response<ResponseBody>> + 'static> Future for GoesOn<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Some(future) = &mut self.future else { return Poll::Pending };
        let response = ready!(future.as_mut().poll(cx));
        self.future = None;
        Poll::Ready(response)
    }
}

impl<F: Future + 'static> Drop for GoesOn<F> {
    fn drop(&mut self) {
        if self.upload.whole()
            && let Some(future) = self.future.take()
        {
            self.upload.client_gone.set(true);
            self.worker.detach(finish(future));
        }
    }
}

/// `F`'s output is a response by construction; it is drained so that its outcome is counted.
async fn finish<F: Future + 'static>(future: Pin<Box<F>>) {
    drop(future.await);
}
