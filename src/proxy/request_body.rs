//! A request body, streamed or held whole, and its state, which the exchange reads.
//!
//! Invariants: faults in a request body are blamed on the client.
//! The upstream's time does not run while the client is waited for.
//! A body that is held was received whole; it can be sent more than once.

use super::cancel_token::CancelToken;
use crate::net::lazy_timer::LazyTimer;
use crate::telemetry::clock;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::cell::Cell;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// An upstream may abort because it waited this long, in total, for the client. No common server
/// has less patience with a body (uWSGI 4 s, Kestrel 5 s).
const DAWDLE: Duration = Duration::from_secs(3);

/// A shorter wait for the client is no back-pressure: writing a piece, or a late thread, takes that
/// long.
const PRESSURE: Duration = Duration::from_millis(1);

/// Progress and result of the request body; shared with the exchange.
pub struct RequestBodyState {
    stage: Cell<BodyStage>,
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
    pub stopped: CancelToken,
    /// The client has left, and the exchange continues without it.
    pub client_gone: Cell<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyStage {
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

impl RequestBodyState {
    pub fn new(body: &Incoming, now: Duration) -> Rc<RequestBodyState> {
        let stage = if body.is_end_stream() { BodyStage::Whole } else { BodyStage::Running };
        let stopped = CancelToken::default();
        if stage == BodyStage::Running {
            stopped.arm();
        }
        Rc::new(RequestBodyState {
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
    pub fn is_whole(&self) -> bool {
        self.stage.get() == BodyStage::Whole
    }

    /// Whether the length was known from the beginning.
    pub fn is_sized(&self) -> bool {
        self.sized
    }

    /// Resolves when the body is received whole. Call only while it is not.
    pub async fn until_whole(&self) {
        self.became_whole.notified().await;
    }

    fn mark_whole(&self) {
        self.moved_at.set(clock::now());
        self.stage.set(BodyStage::Whole);
        self.became_whole.notify_one();
    }

    /// Restarts the upstream's time.
    pub fn restart_upstream_time(&self, now: Duration) {
        self.moved_at.set(now);
    }

    /// When its last piece came, or else the request.
    pub fn moved_at(&self) -> Duration {
        self.moved_at.get()
    }

    pub fn client_fault(&self) -> Option<ClientFault> {
        match self.stage.get() {
            BodyStage::Broken => Some(ClientFault::Broken),
            BodyStage::Slow => Some(ClientFault::Slow),
            BodyStage::Running | BodyStage::Whole => None,
        }
    }

    /// Starts a wait for the client.
    pub fn begin_client_wait(&self) {
        if self.waits_since.get().is_none() {
            self.waits_since.set(Some(clock::now()));
        }
    }

    /// Ends the wait: the client has moved.
    pub fn end_client_wait(&self) {
        if let Some(since) = self.waits_since.take() {
            self.waited.set(self.waited.get() + clock::now().saturating_sub(since));
        }
    }

    /// The response head has arrived; its body follows.
    pub fn begin_response_body(&self, now: Duration) {
        self.headed.set(now);
        if self.has_waited() {
            self.waited_before.set(self.client_wait());
        }
    }

    /// Whether most of the time since the head was spent waiting for the client.
    pub fn client_was_slow(&self, now: Duration) -> bool {
        self.has_waited() && {
            let of_client = self.client_wait().saturating_sub(self.waited_before.get());
            is_most(of_client, now.saturating_sub(self.headed.get()))
        }
    }

    /// False for nearly all clients, so the clock need not be read.
    fn has_waited(&self) -> bool {
        self.waits_since.get().is_some() || self.waited.get() > Duration::ZERO
    }

    /// How long the client was waited for, in total.
    fn client_wait(&self) -> Duration {
        match self.waits_since.get() {
            Some(since) => self.waited.get() + clock::now().saturating_sub(since),
            None => self.waited.get(),
        }
    }

    /// Whether the client was so slow that an upstream may have lost patience.
    pub fn client_dawdled(&self) -> bool {
        self.client_wait() >= DAWDLE
    }

    /// Whether half of this time or more was spent waiting for the client.
    pub fn client_took_half_of(&self, total: Duration) -> bool {
        self.client_wait() >= total / 2
    }

    /// When the upstream's time to answer began: when the last piece of the body moved.
    /// `None` while the client is waited for.
    pub fn upstream_waits_since(&self) -> Option<Duration> {
        let waits_for_client = self.stage.get() == BodyStage::Running && self.waits_for_client.get();
        (!waits_for_client).then(|| self.moved_at.get())
    }
}

/// A client's request body for an upstream.
pub struct RequestBody {
    source: BodySource,
    body_state: Rc<RequestBodyState>,
    /// `None`: no time-out for a silent client.
    idle_timeout: Option<Duration>,
    /// The deadline for the client's next piece.
    until: Option<Instant>,
    alarm: LazyTimer,
}

enum BodySource {
    Streamed(Incoming),
    Held(Bytes),
}

/// The pieces of a body that is being received. The first one is not copied if it is the whole.
#[derive(Default)]
struct ReceivedPieces {
    first: Bytes,
    all: BytesMut,
}

impl ReceivedPieces {
    fn add(&mut self, piece: Bytes) {
        if self.first.is_empty() {
            self.first = piece;
        } else {
            if self.all.is_empty() {
                self.all.extend_from_slice(&self.first);
            }
            self.all.extend_from_slice(&piece);
        }
    }

    fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

impl RequestBody {
    pub fn new(incoming: Incoming, body_state: Rc<RequestBodyState>, idle_timeout: Option<Duration>) -> Self {
        RequestBody::of(BodySource::Streamed(incoming), body_state, idle_timeout)
    }

    fn of(source: BodySource, body_state: Rc<RequestBodyState>, idle_timeout: Option<Duration>) -> Self {
        RequestBody { source, body_state, idle_timeout, until: None, alarm: LazyTimer::default() }
    }

    /// The same body, to be sent again; `None` for one whose bytes are not held.
    pub fn copy(&self) -> Option<RequestBody> {
        let bytes = match &self.source {
            BodySource::Held(bytes) => bytes.clone(),
            BodySource::Streamed(incoming) if incoming.is_end_stream() => Bytes::new(),
            BodySource::Streamed(_) => return None,
        };
        Some(RequestBody::of(BodySource::Held(bytes), self.body_state.clone(), self.idle_timeout))
    }

    /// Receives it whole, and holds it.
    pub async fn receive(&mut self) -> Result<(), BodyError> {
        let mut pieces = ReceivedPieces::default();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut *self).poll_frame(cx)).await {
            if let Ok(piece) = frame?.into_data() {
                pieces.add(piece);
            }
            if self.body_state.is_whole() {
                break;
            }
        }
        self.source = BodySource::Held(pieces.whole());
        Ok(())
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
        if this.body_state.stopped.is_cancelled() {
            return Poll::Ready(Some(Err(BodyError::Client)));
        }
        let incoming = match &mut this.source {
            BodySource::Streamed(incoming) => incoming,
            BodySource::Held(bytes) => {
                let whole = std::mem::take(bytes);
                return Poll::Ready((!whole.is_empty()).then(|| Ok(Frame::data(whole))));
            }
        };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                this.until = None;
                this.body_state.waits_for_client.set(false);
                this.body_state.end_client_wait();
                this.body_state.moved_at.set(clock::now());
                if incoming.is_end_stream() {
                    this.body_state.mark_whole();
                }
                // Request trailers are dropped: an upstream may merge them into its headers.
                match frame.into_data() {
                    Ok(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
                    Err(_) => {
                        this.body_state.mark_whole();
                        Poll::Ready(None)
                    }
                }
            }
            Poll::Ready(Some(Err(_))) => {
                this.body_state.stage.set(BodyStage::Broken);
                Poll::Ready(Some(Err(BodyError::Client)))
            }
            Poll::Ready(None) => {
                this.body_state.end_client_wait();
                this.body_state.mark_whole();
                Poll::Ready(None)
            }
            Poll::Pending => {
                let _ = this.body_state.stopped.poll(cx);
                this.body_state.waits_for_client.set(true);
                this.body_state.begin_client_wait();
                let Some(timeout) = this.idle_timeout else { return Poll::Pending };
                let until = *this.until.get_or_insert_with(|| Instant::now() + timeout);
                ready!(this.alarm.poll(cx, until));
                this.body_state.stage.set(BodyStage::Slow);
                Poll::Ready(Some(Err(BodyError::Client)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Streamed(incoming) => incoming.is_end_stream(),
            BodySource::Held(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Streamed(incoming) => incoming.size_hint(),
            BodySource::Held(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
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

/// Whether most of the time of a body was spent waiting for the client.
fn is_most(of_client: Duration, of_body: Duration) -> bool {
    of_client >= PRESSURE && of_client > of_body / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_in_pieces_is_held_in_order_and_one_piece_is_not_copied() {
        let whole = |pieces: &[Bytes]| {
            let mut received = ReceivedPieces::default();
            pieces.iter().for_each(|piece| received.add(piece.clone()));
            received.whole()
        };
        let piece = |text: &'static [u8]| Bytes::copy_from_slice(text);
        let one = piece(b"one");
        assert_eq!(whole(std::slice::from_ref(&one)).as_ptr(), one.as_ptr());
        assert_eq!(whole(&[one, piece(b" two"), piece(b" three")]), "one two three");
        assert_eq!(whole(&[]), "");
    }

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
