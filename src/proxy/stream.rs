//! The HTTP/2 streams of one client connection: their tasks, their number, and the limits on abuse.
//!
//! HTTP/2 allows two ways to keep a server busy that hyper does not limit.
//! A stream whose window stays shut holds its response (and the upstream's connection) for ever.
//! A stream that is reset right after it was accepted makes room for the next (CVE-2023-44487 at a
//! slower pace). Both are bounded here.
//!
//! Invariants: a response that its client does not take for `body_idle_timeout` is dropped, and
//! blamed on the client. A connection whose resets exceed its answered streams by `RESETS_MAX`
//! takes no more streams.

use super::cancel_token::CancelToken;
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, Sleep};

/// How many more streams a client may reset before a response than it lets be answered.
const RESETS_MAX: u32 = 200;

/// All streams of one connection.
pub struct Streams {
    running: Cell<usize>,
    /// When the last of them ended.
    quiet_since: Cell<Instant>,
    resets: Cell<u32>,
    abused: Notify,
    timeouts: Duration,
    /// The state of the stream whose task comes next.
    opened: Cell<Option<Rc<StreamState>>>,
}

impl Streams {
    pub fn new(body_idle_timeout: Duration) -> Rc<Self> {
        Rc::new(Streams {
            running: Cell::new(0),
            quiet_since: Cell::new(Instant::now()),
            resets: Cell::new(0),
            abused: Notify::new(),
            timeouts: body_idle_timeout,
            opened: Cell::new(None),
        })
    }

    /// Opens the stream of a request: call it once in the service.
    /// hyper spawns the stream's task right after it has called the service, so [`Executor`] passes
    /// the same state to that task.
    pub fn open(&self) -> Rc<StreamState> {
        let state = Rc::<StreamState>::default();
        self.opened.set(Some(state.clone()));
        state
    }

    /// How long no stream has been open.
    pub fn quiet_for(&self) -> Duration {
        if self.running.get() > 0 { Duration::ZERO } else { self.quiet_since.get().elapsed() }
    }

    /// Resolves when the client has reset too many.
    pub async fn abused(&self) {
        self.abused.notified().await;
    }

    fn ended(&self, state: &StreamState) {
        self.running.set(self.running.get().saturating_sub(1));
        self.quiet_since.set(Instant::now());
        let resets = match state.answered.get() {
            true => self.resets.get().saturating_sub(1),
            false => self.resets.get() + 1,
        };
        self.resets.set(resets);
        if resets > RESETS_MAX {
            self.abused.notify_one();
        }
    }
}

/// Runs hyper's tasks (one an HTTP/2 stream) on the thread of their connection.
#[derive(Clone)]
pub struct Executor(pub Rc<Streams>);

impl<F: Future + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.running.set(self.0.running.get() + 1);
        let state = self.0.opened.take().unwrap_or_default();
        spawn_local(Stream { future, state, streams: self.0.clone(), timer: None });
    }
}

/// State that the code inside a stream's task shares with its wrapper.
#[derive(Default)]
pub struct StreamState {
    /// Ends the task.
    pub cancel: CancelToken,
    answered: Cell<bool>,
    /// When a piece of a body was handed over; `None` once the client wants the next.
    offered_at: Cell<Option<Instant>>,
}

impl StreamState {
    /// The response head is ready.
    pub fn answered(&self) {
        self.answered.set(true);
    }

    /// A piece of the body was handed over.
    pub fn piece_offered(&self) {
        self.offered_at.set(Some(Instant::now()));
    }

    /// The next piece is wanted.
    pub fn piece_wanted(&self) {
        self.offered_at.set(None);
    }
}

pin_project! {
    struct Stream<F: Future> {
        #[pin]
        future: F,
        state: Rc<StreamState>,
        streams: Rc<Streams>,
        timer: Option<Pin<Box<Sleep>>>,
    }

    impl<F: Future> PinnedDrop for Stream<F> {
        fn drop(this: Pin<&mut Self>) {
            this.streams.ended(&this.state);
        }
    }
}

impl<F: Future> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        // Ready: the task ends, and dropping it resets the stream.
        if this.state.cancel.is_cancelled() {
            return Poll::Ready(());
        }
        if this.future.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match this.state.offered_at.get() {
            None => *this.timer = None,
            Some(at) => {
                let until = at + this.streams.timeouts;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                // Ready: as above.
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
            }
        }
        this.state.cancel.poll(cx)
    }
}
