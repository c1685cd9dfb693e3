//! Bodies on their way. The outcome of an exchange is known when the response body ends, or when it
//! is dropped.
//!
//! Invariants: a response that the upstream cut short never ends cleanly for the client (an error
//! here makes hyper close an HTTP/1 connection without terminator, and reset an HTTP/2 stream); the
//! clock for a stalled upstream runs only while the upstream is waited for, not while the client
//! is; what the client did to its own body is blamed on the client.

use super::cancel::CancelToken;
use super::exchange::Exchange;
use super::forward;
use super::result_code::Reader;
use super::serve::Worker;
use super::stream;
use crate::domain::outcome::{Blame, Outcome};
use crate::live::clock;
use crate::net::alarm::Alarm;
use crate::net::pool::Lease;
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::Instant;

/// A client that was waited for as long as this, in all, may be why the upstream gave the exchange
/// up: no common server has less patience with a body (uWSGI 4 s, Kestrel 5 s).
const DAWDLE: Duration = Duration::from_secs(3);

/// A client that was waited for less than this while its body came exerted no pressure: it is the
/// time that a piece takes to be written, or that this thread was away.
const PRESSURE: Duration = Duration::from_millis(1);

/// For what is left of an answer whose client has left.
const REST_MAX: Duration = Duration::from_millis(500);
const REST_BYTES_MAX: usize = 64 * 1024;

/// How far the request body has come, and what became of it; shared with the exchange.
pub struct Upload {
    stage: Cell<Stage>,
    /// Waiting for the client to send more: then silence is not the upstream's.
    waits_for_client: Cell<bool>,
    /// For how long the client was waited for in all, before the wait that is on: to send more, or
    /// to take what came.
    waited: Cell<Duration>,
    waits_since: Cell<Option<Duration>>,
    /// When the head of the answer was there, and for how long the client had been waited for until
    /// then. (Here, since this is never moved.)
    headed: Cell<Duration>,
    waited_before: Cell<Duration>,
    /// Monotonic.
    moved_at: Cell<Duration>,
    became_whole: Notify,
    /// Its length was known from the beginning.
    sized: bool,
    /// Nobody waits for the answer any more: what is still to come is not sent on.
    stopped: CancelToken,
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
    pub fn of(body: &Incoming, now: Duration) -> Rc<Upload> {
        let stage = if body.is_end_stream() { Stage::Whole } else { Stage::Running };
        let stopped = CancelToken::default();
        if stage == Stage::Running {
            stopped.arm();
        }
        Rc::new(Upload {
            stopped,
            stage: Cell::new(stage),
            waits_for_client: Cell::new(false),
            waited: Cell::default(),
            waits_since: Cell::default(),
            headed: Cell::default(),
            waited_before: Cell::default(),
            moved_at: Cell::new(now),
            became_whole: Notify::new(),
            sized: body.size_hint().exact().is_some(),
            client_gone: Cell::new(false),
        })
    }

    /// Has the whole body been received?
    pub fn whole(&self) -> bool {
        self.stage.get() == Stage::Whole
    }

    /// Was its length known from the beginning?
    pub fn sized(&self) -> bool {
        self.sized
    }

    /// Ends when the body has been received whole, if it was not yet.
    pub async fn until_whole(&self) {
        self.became_whole.notified().await;
    }

    fn complete(&self) {
        self.moved_at.set(clock::now());
        self.stage.set(Stage::Whole);
        self.became_whole.notify_one();
    }

    /// The upstream's time begins only now.
    pub fn move_on(&self, now: Duration) {
        self.moved_at.set(now);
    }

    /// When its last piece came; at first, when the request did.
    pub fn moved_at(&self) -> Duration {
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
            self.waits_since.set(Some(clock::now()));
        }
    }

    /// It has moved.
    fn waits_no_more(&self) {
        if let Some(since) = self.waits_since.take() {
            self.waited.set(self.waited.get() + clock::now().saturating_sub(since));
        }
    }

    /// The head of the answer is there; its body follows.
    fn body_begins(&self, now: Duration) {
        self.headed.set(now);
        if self.has_waited() {
            self.waited_before.set(self.client_took());
        }
    }

    /// Was most of the time since then spent on waiting for the client?
    fn client_was_slow(&self, now: Duration) -> bool {
        self.has_waited() && {
            let of_client = self.client_took().saturating_sub(self.waited_before.get());
            is_most(of_client, now.saturating_sub(self.headed.get()))
        }
    }

    /// Hardly any client is waited for.
    fn has_waited(&self) -> bool {
        self.waits_since.get().is_some() || self.waited.get() > Duration::ZERO
    }

    /// For how long the client was waited for, in all.
    fn client_took(&self) -> Duration {
        match self.waits_since.get() {
            Some(since) => self.waited.get() + clock::now().saturating_sub(since),
            None => self.waited.get(),
        }
    }

    /// Has the client taken so long that an upstream may have lost patience with it?
    pub fn client_dawdled(&self) -> bool {
        self.client_took() >= DAWDLE
    }

    /// Was half of this time or more the client's?
    pub fn client_took_half_of(&self, total: Duration) -> bool {
        self.client_took() >= total / 2
    }

    /// When the upstream's time to answer began: when the last piece of the body moved. `None`
    /// while the client is waited for.
    pub fn upstream_waits_since(&self) -> Option<Duration> {
        let waits_for_client = self.stage.get() == Stage::Running && self.waits_for_client.get();
        (!waits_for_client).then(|| self.moved_at.get())
    }
}

/// A client's request body on its way to an upstream.
pub struct RequestBody {
    inner: Incoming,
    upload: Rc<Upload>,
    /// `None`: the client may be silent for as long as it likes.
    idle_timeout: Option<Duration>,
    /// Until when the client is waited for.
    until: Option<Instant>,
    alarm: Alarm,
}

impl RequestBody {
    pub fn new(inner: Incoming, upload: Rc<Upload>, idle_timeout: Option<Duration>) -> Self {
        RequestBody { inner, upload, idle_timeout, until: None, alarm: Alarm::default() }
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
        if this.upload.stopped.is_cancelled() {
            return Poll::Ready(Some(Err(BodyError::Client)));
        }
        match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.until = None;
                this.upload.waits_for_client.set(false);
                this.upload.waits_no_more();
                this.upload.moved_at.set(clock::now());
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
                let _ = this.upload.stopped.poll(cx);
                this.upload.waits_for_client.set(true);
                this.upload.waits();
                let Some(timeout) = this.idle_timeout else { return Poll::Pending };
                let until = *this.until.get_or_insert_with(|| Instant::now() + timeout);
                ready!(this.alarm.poll(cx, until));
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

impl std::error::Error for BodyError {
    /// The reason that hyper resets the stream with. Without one it would be INTERNAL_ERROR.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static CANCEL: LazyLock<h2::Error> = LazyLock::new(|| h2::Reason::CANCEL.into());
        match self {
            BodyError::Client => Some(&*CANCEL),
            BodyError::Upstream => None,
        }
    }
}

/// What a client receives.
pub enum ResponseBody {
    /// Written by the proxy itself.
    Text(Option<Bytes>),
    /// Streamed from an upstream; `None` once it has ended.
    Upstream(Option<Box<Download>>),
}

/// A response body on its way, with what must happen at its end.
pub struct Download {
    inner: Incoming,
    exchange: Box<Exchange>,
    lease: Option<Lease<RequestBody>>,
    status: StatusCode,
    deadlines: Deadlines,
    /// Until when the next piece is waited for. Monotonic.
    until: Option<Duration>,
    alarm: Alarm,
    /// Reads the result code, where the release has one.
    code: Option<Reader>,
    /// What the trailers said.
    by_trailers: Option<Outcome>,
    /// It broke, and the client is not told yet.
    broke: bool,
}

/// Was most of the time of a body spent on waiting for the client?
fn is_most(of_client: Duration, of_body: Duration) -> bool {
    of_client >= PRESSURE && of_client > of_body / 2
}

/// Times of the upstream's config that bear on a response body.
#[derive(Clone, Copy)]
pub struct Deadlines {
    /// Between two pieces, if bounded.
    pub idle: Option<Duration>,
    /// Of the whole exchange. Monotonic.
    pub total: Option<Duration>,
    /// How long that was, from its beginning.
    pub whole: Option<Duration>,
}

impl Deadlines {
    /// Until when a piece is waited for from now on; `None`: for ever.
    fn next(&self, now: Duration) -> Option<Duration> {
        let idle = self.idle.map(|idle| now + idle);
        idle.into_iter().chain(self.total).min()
    }
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
        exchange: Box<Exchange>,
        lease: Lease<RequestBody>,
        status: StatusCode,
        deadlines: Deadlines,
        code: Option<Reader>,
        now: Duration,
    ) -> Self {
        exchange.upload().body_begins(now);
        let mut download = Download {
            inner,
            exchange,
            lease: Some(lease),
            status,
            deadlines,
            until: None,
            alarm: Alarm::default(),
            code,
            by_trailers: None,
            broke: false,
        };
        if download.inner.is_end_stream() {
            download.ended();
            return ResponseBody::Upstream(None);
        }
        download.exchange.answers(download.inner.size_hint().exact().is_some(), now);
        // Boxed for the same reason as the exchange.
        ResponseBody::Upstream(Some(Box::new(download)))
    }
}

impl Download {
    /// Reads what is left of an answer whose client has left: a result code or trailers may stand
    /// in it, and its connection may serve another request. Not for long: an answer without an end
    /// has nobody to read it. `early`: the client had left before the head.
    async fn read_rest(mut self: Box<Self>, early: bool) {
        let until = Instant::now() + REST_MAX;
        let mut bytes = 0;
        let outcome = loop {
            let next = tokio::time::timeout_at(until, poll_fn(|cx| self.poll(cx)));
            match next.await {
                Ok(Some(Ok(frame))) => {
                    bytes += frame.data_ref().map_or(0, Bytes::len);
                    if frame.is_trailers() || self.inner.is_end_stream() {
                        return self.ended();
                    }
                    if bytes > REST_BYTES_MAX {
                        break None;
                    }
                }
                Ok(None) => return self.ended(),
                Ok(Some(Err(outcome))) => break Some(outcome),
                Err(_) => break None,
            }
        };
        // The head came for nobody: what it says is the outcome. Else the client broke off.
        let unread = if early { self.exchange.by_head() } else { Outcome::Cancelled };
        self.exchange.end(outcome.unwrap_or(unread), self.status);
    }

    /// The body arrived whole.
    fn ended(&mut self) {
        let now = clock::now();
        if let Some(lease) = self.lease.take().filter(|_| self.exchange.upload().whole()) {
            lease.give_back(now);
        }
        let outcome = self.outcome();
        let client_slow = self.exchange.upload().client_was_slow(now);
        self.exchange.end_whole(outcome, self.status, client_slow, now);
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
        let polled = match &mut self.lease {
            Some(lease) => lease.poll_frame(cx, &mut self.inner),
            None => Poll::Ready(None),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.until = None;
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
            // The upstream may have answered before it had the whole request: a client that breaks
            // its body breaks both. And one that reads slowly makes the upstream wait to write.
            Poll::Ready(Some(Err(_))) if self.is_the_clients() => Poll::Ready(Some(Err(Outcome::Cancelled))),
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(Outcome::Truncated))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => loop {
                let deadlines = self.deadlines;
                self.until = self.until.or_else(|| deadlines.next(clock::now()));
                let Some(until) = self.until else { return Poll::Pending };
                ready!(self.alarm.poll(cx, clock::instant(until).into()));
                let now = clock::now();
                let late = forward::woke_late(until, now);
                let waits_for_client = self.exchange.upload().upstream_waits_since().is_none();
                let over = deadlines.total.is_some_and(|total| total <= now);
                if late || (waits_for_client && !over) {
                    let more = if late { Some(forward::GRACE) } else { deadlines.idle };
                    self.until = more.map(|more| now + more);
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
        if download.broke {
            *slot = None;
            return Poll::Ready(Some(Err(BodyError::Upstream)));
        }
        match ready!(download.poll(cx)) {
            Some(Ok(frame)) => {
                if !download.exchange.is_grpc() {
                    stream::offered();
                }
                if frame.is_trailers() || download.inner.is_end_stream() {
                    // hyper does not ask again.
                    if let Some(mut download) = slot.take() {
                        download.ended();
                    }
                } else {
                    download.exchange.upload().waits();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            None => {
                if let Some(mut download) = slot.take() {
                    download.ended();
                }
                Poll::Ready(None)
            }
            Some(Err(outcome)) => {
                download.exchange.end(outcome, download.status);
                // What came before is written first: hyper would throw it away with the connection.
                download.broke = true;
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
            ResponseBody::Upstream(Some(download)) => download.inner.size_hint(),
            ResponseBody::Upstream(None) => SizeHint::with_exact(0),
        }
    }
}

impl Drop for ResponseBody {
    /// The client went away in mid-body, or the exchange is cancelled. What is left of the answer
    /// is cancelled (by dropping it), at once or after `Download::read_rest`; no drain waits for
    /// it.
    fn drop(&mut self) {
        let ResponseBody::Upstream(slot) = self else { return };
        let Some(mut download) = slot.take() else { return };
        // An HTTP/2 server would be sent the rest of the request, and hold both streams open.
        download.exchange.upload().stopped.cancel();
        if download.exchange.is_cancelled() {
            download.exchange.end(Outcome::Cancelled, download.status);
        } else if download.exchange.may_change_something()
            && download.exchange.upload().whole()
            && download.exchange.worker().detaches()
        {
            let early = download.exchange.upload().client_gone.replace(true);
            spawn_local(download.read_rest(early));
        }
    }
}

/// An exchange on its way. One that must not be cancelled by its client goes on by itself to the
/// response head, if this is dropped when its request has been received whole (a POST that was sent
/// may have been carried out).
pub struct GoesOn<F: Future + 'static> {
    future: Option<Pin<Box<F>>>,
    /// Of one that may change something.
    keeps: Option<Keeps>,
}

/// What an exchange without its client needs.
pub struct Keeps {
    pub worker: Rc<Worker>,
    pub upload: Rc<Upload>,
    /// How long it may wait for the response head.
    pub at_most: Duration,
}

impl<F: Future<Output = http::Response<ResponseBody>> + 'static> GoesOn<F> {
    pub fn new(future: F, keeps: Option<Keeps>) -> Self {
        // Boxed: hyper keeps room for it as long as the connection stands.
        GoesOn { future: Some(Box::pin(future)), keeps }
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
        if let Some(Keeps { worker, upload, at_most }) = &self.keeps
            && upload.whole()
            && let Some(future) = self.future.take()
        {
            upload.client_gone.set(true);
            worker.detach(*at_most, until_head(future));
        }
    }
}

/// `F`'s output is a response by construction; dropping it ends its exchange.
async fn until_head<F: Future + 'static>(future: Pin<Box<F>>) {
    drop(future.await);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_slow_that_took_most_of_the_time_and_made_somebody_wait() {
        let us = Duration::from_micros;
        for (of_client, of_body, slow) in [
            (0, 0, false),
            (0, 1_000_000, false),
            // What it takes to hand a piece over.
            (20, 30, false),
            (999, 1000, false),
            (1000, 1500, true),
            (400_000, 1_000_000, false),
            (600_000, 1_000_000, true),
        ] {
            assert_eq!(is_most(us(of_client), us(of_body)), slow, "{of_client} of {of_body} us");
        }
    }
}
