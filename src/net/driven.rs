//! An HTTP/1.1 connection to a server, that runs inside the task of whoever uses it.
//!
//! The HTTP library splits a connection in two: a handle that requests are given to, and a future that reads and writes. The usual way is
//! a task for that future; then each request is handed from the task of its client to that of its server and back, and costs two
//! wake-ups, two turns of the scheduler, and cold caches. Here the future lies beside its handle, and is polled by whoever waits
//! for a response or for a piece of its body.
//!
//! All that may wake the future wakes a relay, which wakes the task that uses the connection at the moment. Handle and future also
//! wake each other, while that very task polls them: that is noted, and followed up on the spot.
//!
//! Invariants: a wake is never lost: it polls the future again before whoever polls has his answer, or it wakes the user; nobody is woken for
//! a connection that nobody uses, but it is noted, and looked at before the next use. Dropped: closed.

use super::head_room::{HeadRoom, OverTcp, ServerStream};
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;

/// Follow-ups on the spot; then others have their turn.
const ROUNDS_MAX: usize = 8;

pub struct Driven<B> {
    handle: http1::SendRequest<B>,
    /// `None` once it has ended.
    connection: Option<Pin<Box<dyn Future<Output = ()>>>>,
    head: Arc<HeadRoom>,
    relay: Arc<Relay>,
    /// Of `relay`.
    waker: Waker,
}

/// Wakes whoever uses a connection. Its atomics and its lock have one thread to themselves: that of the runtime. A waker must not
/// know that.
#[derive(Default)]
struct Relay {
    user: Mutex<Option<Waker>>,
    woken: AtomicBool,
    /// The user is polling, and will look at `woken` by itself.
    inside: AtomicBool,
}

impl Relay {
    fn user(&self) -> MutexGuard<'_, Option<Waker>> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used_by(&self, waker: &Waker) {
        let mut user = self.user();
        if !user.as_ref().is_some_and(|user| user.will_wake(waker)) {
            *user = Some(waker.clone());
        }
    }

    /// Whom `act` wakes is here already, and will look.
    fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        self.inside.store(true, Relaxed);
        let done = act();
        self.inside.store(false, Relaxed);
        done
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Relaxed);
        if !self.inside.load(Relaxed)
            && let Some(user) = &*self.user()
        {
            user.wake_by_ref();
        }
    }
}

impl<B> Driven<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Speaks HTTP/1.1 over `stream`; `kept` is dropped with the connection's end.
    ///
    /// # Errors
    /// None that the library knows of today.
    pub async fn new<S>(stream: S, kept: impl Sized + 'static) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + OverTcp + Unpin + Send + 'static,
    {
        let (stream, head) = ServerStream::new(stream);
        let (handle, connection) = http1::Builder::new().handshake::<_, B>(TokioIo::new(stream)).await?;
        let connection = async move {
            // How it ended is told to the exchange that used it; of a tunnel, to whoever runs it.
            let _ = connection.with_upgrades().await;
            drop(kept);
        };
        let relay = Arc::<Relay>::default();
        let waker = Waker::from(relay.clone());
        let mut driven = Driven { handle, connection: Some(Box::pin(connection)), head, relay, waker };
        driven.turn();
        Ok(driven)
    }
}

impl<B> Driven<B> {
    /// One turn of the connection.
    fn turn(&mut self) {
        self.relay.woken.store(false, Relaxed);
        let Some(connection) = &mut self.connection else { return };
        let polled = self.relay.within(|| connection.as_mut().poll(&mut Context::from_waker(&self.waker)));
        if polled.is_ready() {
            self.connection = None;
        }
    }

    /// Polls `what` comes out of the connection, which alone can make it ready: so it needs no waker. And the connection, as often as there
    /// is something to do for it.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut what: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.relay.used_by(cx.waker());
        for _ in 0..ROUNDS_MAX {
            if self.relay.woken.load(Relaxed) {
                self.turn();
            }
            let polled = self.relay.within(|| what(&mut Context::from_waker(Waker::noop())));
            if polled.is_ready() || !self.relay.woken.load(Relaxed) {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Has it ended, as far as is known? Looks at what has come since it was used.
    pub fn is_closed(&mut self) -> bool {
        if self.relay.woken.load(Relaxed) {
            self.turn();
        }
        self.connection.is_none() || self.handle.is_closed()
    }

    /// Can it take a request at once?
    pub fn is_ready(&mut self) -> bool {
        // A connection that has said so has nothing left to do, unless the server has closed it; which is asked before the next use.
        self.handle.is_ready() || (!self.is_closed() && self.handle.is_ready())
    }

    /// Ends when it can take a request, or never will.
    pub async fn settled(&mut self) {
        poll_fn(|cx| {
            self.relay.used_by(cx.waker());
            if self.is_closed() || self.handle.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Nobody uses it any more, for now; it is ready. What woke it in its user's last turn was the library asking for more of a body that
    /// has ended: whatever the socket had to say in that turn was read before.
    pub fn rest(&mut self) {
        *self.relay.user() = None;
        self.relay.woken.store(false, Relaxed);
    }

    /// The server has switched: the rest of the connection is to be run by somebody else.
    pub fn into_rest(self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        self.connection
    }

    /// A piece of a response's body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }
}

impl<B: Body + 'static> Driven<B> {
    /// Sends a request and waits for the head of its response. `look`: the server may have closed in the meantime; ask the kernel first.
    pub fn send(
        &mut self,
        request: Request<B>,
        look: Look,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> {
        self.head.opens(look == Look::Closely);
        let sending = self.relay.within(|| self.handle.try_send_request(request));
        // Out of the runtime's budget, which would keep it from being ready for want of a turn, and wake nobody.
        Sending { driven: self, sending: unconstrained(sending) }
    }
}

pin_project! {
    /// A head is waited for. (No `async` block: that would hold what it sends twice.)
    struct Sending<'a, B, F> {
        driven: &'a mut Driven<B>,
        #[pin]
        sending: F,
    }
}

impl<B, F: Future> Future for Sending<'_, B, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let sent = this.driven.poll(cx, |cx| this.sending.as_mut().poll(cx));
        if sent.is_ready() {
            this.driven.head.closes();
        }
        sent
    }
}

/// How well to look whether a used connection still stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// What the runtime has been told will do.
    Lightly,
    /// Ask the kernel.
    Closely,
}
