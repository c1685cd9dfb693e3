//! An HTTP/1.1 connection to a server that is polled inside the task that uses it.
//!
//! hyper splits a connection into a handle, which takes requests, and a future, which does the I/O.
//! Usually that future has a task of its own.
//! Each request then costs two wake-ups, two scheduler turns and cold caches.
//! Here the future is stored beside its handle.
//! The task that waits for a response, or for a piece of its body, polls it.
//!
//! Every waker of the future is a relay, which wakes the task that uses the connection now.
//! Handle and future also wake each other while that task polls them.
//! Such a wake sets a flag, and the same poll follows it up.
//!
//! A request is sent in a turn of [`super::write_batching`], outside the task of its user.
//! A separate flag (`told`) then distinguishes "the response is there" from a wake of the future.
//!
//! Invariants:
//! * No wake is lost: the future is polled again before the current poll returns, or the user is
//!   woken.
//! * An unused connection wakes no task. The wake is recorded and handled before the next use.
//! * Dropping a [`InlineConnection`] closes its connection.

use crate::domain::config::ResponseHeadLimits;
use crate::net::fast::response_head_limit::{ResponseHeadLimit, ServerStream, SocketBased};
use crate::net::fast::write_batching;
use http::{Request, Response};
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;

/// hyper's default limit of header fields. With a higher limit it allocates two places of 32 bytes
/// for each field and each response.
const HEADERS_OF_HYPER: usize = 100;
/// The least buffer that hyper accepts, twice.
const READ_BYTES_MIN: usize = 16 << 10;

/// Polls in a row for one user. After them, other tasks run first.
const ROUNDS_MAX: usize = 8;

pub struct InlineConnection<B> {
    handle: http1::SendRequest<B>,
    connection: Rc<PolledConnection>,
    /// Whether it may take no further request, by the rules of its owner.
    is_retired: Option<Box<dyn Fn(Duration) -> bool>>,
}

struct PolledConnection {
    /// `None` once it has ended, and while it is being polled.
    future: Cell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    /// The future has not ended, so the socket is open.
    open: Cell<bool>,
    head: Arc<ResponseHeadLimit>,
    relay: Arc<SharedWaker>,
    /// The waker of `relay`.
    waker: Waker,
    sender: Waker,
}

/// Wakes the task that uses a connection.
/// One thread uses its lock and atomics; they are there because a `Waker` is `Send + Sync`.
#[derive(Default)]
struct SharedWaker {
    user: Mutex<Option<Waker>>,
    woken: AtomicBool,
    /// The handle has a response, or an error.
    told: AtomicBool,
    /// The user is polling now, and checks `woken` itself.
    inside: AtomicBool,
}

/// The waker of a handle: sets `told` when the result of its request is known.
struct ResultWaker(Arc<SharedWaker>);

impl SharedWaker {
    fn user(&self) -> MutexGuard<'_, Option<Waker>> {
        self.user.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn used_by(&self, waker: &Waker) {
        let mut user = self.user();
        if !user.as_ref().is_some_and(|user| user.will_wake(waker)) {
            *user = Some(waker.clone());
        }
    }

    /// Runs `act` inside the user's poll: a wake sets `woken` but does not wake the task.
    fn within<T>(&self, act: impl FnOnce() -> T) -> T {
        self.inside.store(true, Relaxed);
        let done = act();
        self.inside.store(false, Relaxed);
        done
    }
}

impl Wake for SharedWaker {
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

impl Wake for ResultWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.told.store(true, Relaxed);
    }
}

impl<B> InlineConnection<B>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Opens an HTTP/1.1 connection over `stream`. `kept` is dropped when the connection ends.
    ///
    /// # Errors
    /// hyper returns none today.
    pub async fn new<S>(
        stream: S,
        kept: impl Sized + 'static,
        limits: ResponseHeadLimits,
    ) -> Result<Self, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + SocketBased + Unpin + Send + 'static,
    {
        let (stream, head) = ServerStream::new(stream);
        let mut builder = http1::Builder::new();
        // RFC 9112 §5.1: a proxy removes white space between a name and its colon.
        builder.allow_spaces_after_header_name_in_responses(true);
        builder.max_header_size(limits.bytes);
        // hyper would read up to 400 KiB at once, and keep it for a client that reads slowly.
        builder.max_buf_size(limits.bytes.max(READ_BYTES_MIN));
        // Up to hyper's default the places are on the stack.
        if limits.fields > HEADERS_OF_HYPER {
            builder.max_headers(limits.fields);
        }
        let (handle, connection) = builder.handshake::<_, B>(TokioIo::new(stream)).await?;
        let connection = async move {
            // The exchange that uses the connection gets its error, and so does the task of a
            // tunnel.
            let _ = connection.with_upgrades().await;
            drop(kept);
        };
        let relay = Arc::<SharedWaker>::default();
        let waker = Waker::from(relay.clone());
        let future = Cell::new(Some(Box::pin(connection) as Pin<Box<dyn Future<Output = ()>>>));
        let sender = Waker::from(Arc::new(ResultWaker(relay.clone())));
        let connection =
            Rc::new(PolledConnection { future, open: Cell::new(true), head, relay, waker, sender });
        connection.turn();
        Ok(InlineConnection { handle, connection, is_retired: None })
    }

    /// With a rule by which it takes no further request from some time on.
    pub fn retired_when(mut self, is_retired: impl Fn(Duration) -> bool + 'static) -> Self {
        self.is_retired = Some(Box::new(is_retired));
        self
    }
}

impl PolledConnection {
    fn turn(&self) {
        self.relay.woken.store(false, Relaxed);
        let Some(mut future) = self.future.take() else { return };
        let polled = self.relay.within(|| future.as_mut().poll(&mut Context::from_waker(&self.waker)));
        if polled.is_ready() {
            self.open.set(false);
        } else {
            self.future.set(Some(future));
        }
    }
}

impl write_batching::Deferred for PolledConnection {
    fn commands(&self) -> Option<RawFd> {
        self.head.commands().filter(|_| self.open.get())
    }

    fn note_spent(&self, spent: bool) {
        self.head.note_spent(spent);
    }

    /// Runs outside the user's task: wakes the user if there is something for it to handle.
    fn turn(&self) {
        let SharedWaker { woken, told, .. } = &*self.relay;
        if !woken.load(Relaxed) {
            return;
        }
        told.store(false, Relaxed);
        PolledConnection::turn(self);
        let goes_on = self.open.get() && !woken.load(Relaxed) && !told.load(Relaxed);
        if !goes_on && let Some(user) = &*self.relay.user() {
            user.wake_by_ref();
        }
    }
}

impl<B> InlineConnection<B> {
    /// Polls `what`, and the connection as often as it was woken.
    /// Only the connection can make `what` ready, so `what` needs no waker.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut what: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let relay = &self.connection.relay;
        relay.used_by(cx.waker());
        for _ in 0..ROUNDS_MAX {
            if relay.woken.load(Relaxed) {
                self.connection.turn();
            }
            let polled = relay.within(|| what(&mut Context::from_waker(Waker::noop())));
            if polled.is_ready() || !relay.woken.load(Relaxed) {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether the connection has ended. Handles wakes since its last use first.
    pub fn is_closed(&mut self) -> bool {
        if self.connection.relay.woken.load(Relaxed) {
            self.connection.turn();
        }
        !self.connection.open.get() || self.handle.is_closed()
    }

    /// Whether it is open, but may take no further request.
    pub fn is_retired(&self, now: Duration) -> bool {
        self.is_retired.as_ref().is_some_and(|is_retired| is_retired(now))
    }

    /// Whether it can take a request at once.
    pub fn is_ready(&mut self) -> bool {
        // A ready handle has no work left, unless the server has closed the connection.
        // That is checked before the next use.
        self.handle.is_ready() || (!self.is_closed() && self.handle.is_ready())
    }

    /// Resolves when it can take a request, or never will.
    pub async fn settled(&mut self) {
        poll_fn(|cx| {
            self.connection.relay.used_by(cx.waker());
            if self.is_closed() || self.handle.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Marks a ready connection as unused.
    /// The wake that is discarded here was hyper's request for more of a body that has ended.
    /// Anything from the socket in that turn was read before.
    pub fn rest(&mut self) {
        *self.connection.relay.user() = None;
        self.connection.relay.woken.store(false, Relaxed);
    }

    /// The server has switched protocols: returns the connection's future, which now needs a task
    /// of its own.
    pub fn into_rest(self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        self.connection.future.take()
    }

    /// Polls the next frame of a response's body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.poll(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }
}

impl<B> Drop for InlineConnection<B> {
    fn drop(&mut self) {
        // The connection may still be queued for a turn.
        self.connection.open.set(false);
        self.connection.future.take();
    }
}

impl<B: Body + 'static> InlineConnection<B> {
    /// Sends a request and waits for the head of its response.
    /// [`StaleCheck::Closely`]: the server may have closed the connection, so the kernel is asked
    /// first.
    pub fn send(
        &mut self,
        request: Request<B>,
        look: StaleCheck,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> {
        self.connection.head.opens(look == StaleCheck::Closely);
        let sending = self.connection.relay.within(|| self.handle.try_send_request(request));
        // tokio's cooperative budget could make it pending and wake only a no-op waker.
        Sending { inline: self, scheduled: false, sending: unconstrained(sending) }
    }
}

pin_project! {
    /// Waits for a response head. (An `async` block would store the request twice.)
    struct Sending<'a, B, F> {
        inline: &'a mut InlineConnection<B>,
        scheduled: bool,
        #[pin]
        sending: F,
    }
}

impl<B, F: Future> Future for Sending<'_, B, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let connection = &this.inline.connection;
        let scheduled =
            !std::mem::replace(this.scheduled, true) && write_batching::schedule(connection.clone());
        let sent = if scheduled {
            // Sent in its turn; the result wakes this task.
            connection.relay.used_by(cx.waker());
            this.sending.as_mut().poll(&mut Context::from_waker(&connection.sender))
        } else {
            this.inline.poll(cx, |cx| this.sending.as_mut().poll(cx))
        };
        if sent.is_ready() {
            this.inline.connection.head.closes();
        }
        sent
    }
}

/// How to check that a used connection is still open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StaleCheck {
    /// By the events that the runtime has already seen.
    Lightly,
    /// By a call to the kernel.
    Closely,
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as StdStream};
    use tokio::net::TcpStream;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    fn request() -> Request<Empty<Bytes>> {
        Request::builder().uri("/").header("host", "server").body(Empty::new()).unwrap()
    }

    /// Reads a request and answers it.
    fn serve(server: &mut StdStream) {
        assert!(server.read(&mut [0; 1000]).unwrap() > 0);
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    }

    /// A connection that was used once and is free again; the runtime believes that it is open.
    async fn used() -> (InlineConnection<Empty<Bytes>>, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = listener.accept().unwrap().0;
        let mut inline =
            InlineConnection::new(ours, (), ResponseHeadLimits { bytes: 8192, fields: 100 }).await.unwrap();
        let (answer, mut server) = tokio::join!(inline.send(request(), StaleCheck::Lightly), async {
            tokio::task::spawn_blocking(move || {
                serve(&mut server);
                server
            })
            .await
            .unwrap()
        });
        drop(answer.map_err(TrySendError::into_error).expect("answered"));
        inline.settled().await;
        inline.rest();
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        (inline, server)
    }

    #[test]
    fn a_request_comes_back_unsent_from_a_connection_that_was_closed_just_before() {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        // Sent in a turn of the write batch, and without one.
        for batch in [true, false] {
            let unsent = async {
                let sender = batch.then(|| spawn_local(write_batching::run()));
                yield_now().await;
                let (mut inline, server) = used().await;
                // From here on the runtime cannot see the close before the request is sent.
                drop(server);
                let Err(mut error) = inline.send(request(), StaleCheck::Closely).await else {
                    panic!("there is nobody to answer")
                };
                if let Some(sender) = sender {
                    sender.abort();
                }
                error.take_message()
            };
            let unsent =
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), unsent).await });
            assert!(unsent.expect("in time").is_some(), "batch: {batch}");
        }
    }
}
