//! Bodies in transit. The outcome of an exchange is known when the response body ends or is
//! dropped.
//!
//! Invariants: a response that the upstream truncates never ends cleanly for the client.
//! An error here makes hyper close an HTTP/1 connection without a terminator, or reset an HTTP/2
//! stream. The stall timer of the upstream runs only while the upstream is waited for.
//! Faults in a request body are blamed on the client.

use super::cancel::CancelToken;
use super::error::RequestError;
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

/// An upstream may abort because it waited this long, in total, for the client. No common server
/// has less patience with a body (uWSGI 4 s, Kestrel 5 s).
const DAWDLE: Duration = Duration::from_secs(3);

/// A shorter wait for the client is no back-pressure: writing a piece, or a late thread, takes that
/// long.
const PRESSURE: Duration = Duration::from_millis(1);

/// Bounds on reading the rest of a response after its client has left.
const REST_MAX: Duration = Duration::from_millis(500);
const REST_BYTES_MAX: usize = 64 * 1024;

/// Progress and result of the request body; shared with the exchange.
pub struct Upload {
    stage: Cell<Stage>,
    /// Waiting for the client to send more, so a silence is not the upstream's.
    waits_for_client: Cell<bool>,
    /// Total time waited for the client (to send, or to take the response), without the current
    /// wait.
    waited: Cell<Duration>,
    waits_since: Cell<Option<Duration>>,
    /// When the response head arrived, and the total wait for the client before it. (Stored here
    /// because this struct never moves.)
    headed: Cell<Duration>,
    waited_before: Cell<Duration>,
    /// Monotonic.
    moved_at: Cell<Duration>,
    became_whole: Notify,
    /// The length was known from the beginning.
    sized: bool,
    /// The response is no longer needed: the rest of the body is not sent.
    stopped: CancelToken,
    /// The client has left, and the exchange continues without it.
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

/// A fault of the client in its body.
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

    /// Whether the whole body was received.
    pub fn whole(&self) -> bool {
        self.stage.get() == Stage::Whole
    }

    /// Whether the length was known from the beginning.
    pub fn sized(&self) -> bool {
        self.sized
    }

    /// Resolves when the body is received whole. Call only while it is not.
    pub async fn until_whole(&self) {
        self.became_whole.notified().await;
    }

    fn complete(&self) {
        self.moved_at.set(clock::now());
        self.stage.set(Stage::Whole);
        self.became_whole.notify_one();
    }

    /// Restarts the upstream's time.
    pub fn move_on(&self, now: Duration) {
        self.moved_at.set(now);
    }

    /// When its last piece came, or else the request.
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

    /// Starts a wait for the client.
    fn waits(&self) {
        if self.waits_since.get().is_none() {
            self.waits_since.set(Some(clock::now()));
        }
    }

    /// Ends the wait: the client has moved.
    fn waits_no_more(&self) {
        if let Some(since) = self.waits_since.take() {
            self.waited.set(self.waited.get() + clock::now().saturating_sub(since));
        }
    }

    /// The response head has arrived; its body follows.
    fn body_begins(&self, now: Duration) {
        self.headed.set(now);
        if self.has_waited() {
            self.waited_before.set(self.client_took());
        }
    }

    /// Whether most of the time since the head was spent waiting for the client.
    fn client_was_slow(&self, now: Duration) -> bool {
        self.has_waited() && {
            let of_client = self.client_took().saturating_sub(self.waited_before.get());
            is_most(of_client, now.saturating_sub(self.headed.get()))
        }
    }

    /// False for nearly all clients, so the clock need not be read.
    fn has_waited(&self) -> bool {
        self.waits_since.get().is_some() || self.waited.get() > Duration::ZERO
    }

    /// How long the client was waited for, in total.
    fn client_took(&self) -> Duration {
        match self.waits_since.get() {
            Some(since) => self.waited.get() + clock::now().saturating_sub(since),
            None => self.waited.get(),
        }
    }

    /// Whether the client was so slow that an upstream may have lost patience.
    pub fn client_dawdled(&self) -> bool {
        self.client_took() >= DAWDLE
    }

    /// Whether half of this time or more was spent waiting for the client.
    pub fn client_took_half_of(&self, total: Duration) -> bool {
        self.client_took() >= total / 2
    }

    /// When the upstream's time to answer began: when the last piece of the body moved.
    /// `None` while the client is waited for.
    pub fn upstream_waits_since(&self) -> Option<Duration> {
        let waits_for_client = self.stage.get() == Stage::Running && self.waits_for_client.get();
        (!waits_for_client).then(|| self.moved_at.get())
    }
}

/// A client's request body in transit to an upstream.
pub struct RequestBody {
    inner: Incoming,
    upload: Rc<Upload>,
    /// `None`: no time-out for a silent client.
    idle_timeout: Option<Duration>,
    /// The deadline for the client's next piece.
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
                // Request trailers are dropped: an upstream may merge them into its headers.
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
    /// The reason of hyper's stream reset. Without a source it would be INTERNAL_ERROR.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        static CANCEL: LazyLock<h2::Error> = LazyLock::new(|| h2::Reason::CANCEL.into());
        match self {
            BodyError::Client => Some(&*CANCEL),
            BodyError::Upstream => None,
        }
    }
}

/// A response body for a client.
pub enum ResponseBody {
    /// Written by the proxy itself.
    Text(Option<Bytes>),
    /// Streamed from an upstream; `None` once it has ended.
    Upstream(Option<Box<Download>>),
}

/// A response body in transit, with the actions at its end.
pub struct Download {
    inner: Incoming,
    exchange: Box<Exchange>,
    lease: Option<Lease<RequestBody>>,
    status: StatusCode,
    deadlines: Deadlines,
    /// The deadline for the next piece. Monotonic.
    until: Option<Duration>,
    alarm: Alarm,
    /// Reads the result code, if the release has one.
    code: Option<Reader>,
    /// The outcome by the trailers.
    by_trailers: Option<Outcome>,
    /// It broke, and the error is not passed to the client yet.
    broke: bool,
}

/// Whether most of the time of a body was spent waiting for the client.
fn is_most(of_client: Duration, of_body: Duration) -> bool {
    of_client >= PRESSURE && of_client > of_body / 2
}

/// The upstream's time-outs that apply to a response body.
#[derive(Clone, Copy)]
pub struct Deadlines {
    /// Between two pieces, if bounded.
    pub idle: Option<Duration>,
    /// Of the whole exchange. Monotonic.
    pub total: Option<Duration>,
    /// The length of that time-out, from the beginning.
    pub whole: Option<Duration>,
}

impl Deadlines {
    /// The deadline for the next piece, from now; `None`: none.
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
                        return self.ended();
                    }
                    if bytes > REST_BYTES_MAX {
                        break None;
                    }
                }
                Ok(None) => return self.ended(),
                Ok(Some(Err(error))) => break Some(error),
                Err(_) => break None,
            }
        };
        match error {
            Some(error) => self.exchange.fail(error, self.status),
            // Without a client at the head, the outcome is the head's. Otherwise the client
            // cancelled it.
            None if early => self.exchange.end(self.exchange.by_head(), self.status),
            None => self.exchange.end(Outcome::Cancelled, self.status),
        }
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

    /// The head's outcome, unless the body or its trailers are worse.
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

    /// A body broke midway: whether the client may be the cause.
    fn is_the_clients(&self) -> bool {
        let upload = self.exchange.upload();
        upload.client_fault().is_some() || upload.client_dawdled()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestError>>> {
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
            // The upstream may have answered before it had the whole request: a broken request body
            // breaks both. A client that reads slowly makes the upstream wait to write.
            Poll::Ready(Some(Err(_))) if self.is_the_clients() => {
                Poll::Ready(Some(Err(RequestError::ClientLeft)))
            }
            Poll::Ready(Some(Err(_))) => Poll::Ready(Some(Err(RequestError::BodyTruncated))),
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
                // The total time-out has expired: by whose fault?
                let upload = self.exchange.upload();
                let excused = over && deadlines.whole.is_some_and(|t| upload.client_took_half_of(t));
                let error = if excused { RequestError::ClientLeft } else { RequestError::BodyTimeout };
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
                    // hyper does not poll again.
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
            Some(Err(error)) => {
                download.exchange.fail(error, download.status);
                // Earlier pieces are written first: hyper would discard them with the connection.
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
    /// The client left midway, or the exchange is cancelled. Dropping cancels the rest of the
    /// response, at once or after `Download::read_rest`. No drain waits for it.
    fn drop(&mut self) {
        let ResponseBody::Upstream(slot) = self else { return };
        let Some(mut download) = slot.take() else { return };
        // An HTTP/2 server would otherwise get the rest of the request, and keep both streams open.
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

/// An exchange in flight. If its client must not cancel it, and the request was received whole, a
/// drop lets it run on by itself to the response head. (A POST that was sent may have been carried
/// out.)
pub struct GoesOn<F: Future + 'static> {
    future: Option<Pin<Box<F>>>,
    /// `Some` for a request that may have side effects.
    keeps: Option<Keeps>,
}

/// The context of an exchange that continues without its client.
pub struct Keeps {
    pub worker: Rc<Worker>,
    pub upload: Rc<Upload>,
    /// How long it may wait for the response head.
    pub at_most: Duration,
}

impl<F: Future<Output = http::Response<ResponseBody>> + 'static> GoesOn<F> {
    pub fn new(future: F, keeps: Option<Keeps>) -> Self {
        // Boxed: hyper reserves room for it as long as the connection is open.
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

/// `F`'s output is a response; dropping it ends its exchange.
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
            // The time to hand a piece over.
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
