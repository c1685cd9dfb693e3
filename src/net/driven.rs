//! An HTTP/1.1 connection to a server, that runs inside the task of whoever uses it.
//!
//! The HTTP library splits a connection in two: a handle that requests are given to, and a future
//! that reads and writes. The usual way is a task for that future; then each request is handed from
//! the task of its client to that of its server and back, and costs two wake-ups, two turns of the
//! scheduler, and cold caches. Here the future lies beside its handle, and is polled by whoever
//! waits for a response or for a piece of its body.
//!
//! All that may wake the future wakes a relay, which wakes the task that uses the connection at the
//! moment. Handle and future also wake each other, while that very task polls them: that is noted,
//! and followed up on the spot.
//!
//! A request is sent in a turn of the [`outbox`], away from its user: what comes of it at once is
//! told apart from what wakes the future.
//!
//! Invariants: a wake is never lost: it polls the future again before whoever polls has his answer,
//! or it wakes the user; nobody is woken for a connection that nobody uses, but it is noted, and
//! looked at before the next use. Dropped: closed.

use super::head_room::{HeadRoom, OverTcp, ServerStream};
use super::outbox;
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
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::unconstrained;

/// Follow-ups on the spot; then others have their turn.
const ROUNDS_MAX: usize = 8;

pub struct Driven<B> {
    handle: http1::SendRequest<B>,
    connection: Rc<Connection>,
}

struct Connection {
    /// `None` once it has ended, and while it has its turn.
    future: Cell<Option<Pin<Box<dyn Future<Output = ()>>>>>,
    /// Its socket is, too.
    open: Cell<bool>,
    head: Arc<HeadRoom>,
    relay: Arc<Relay>,
    /// Of `relay`.
    waker: Waker,
    teller: Waker,
}

/// Wakes whoever uses a connection. Its atomics and its lock have one thread to themselves: that of
/// the runtime. A waker must not know that.
#[derive(Default)]
struct Relay {
    user: Mutex<Option<Waker>>,
    woken: AtomicBool,
    /// A response, or why there is none.
    told: AtomicBool,
    /// The user is polling, and will look at `woken` by itself.
    inside: AtomicBool,
}

/// What a handle wakes, once it knows what came of its request.
struct Teller(Arc<Relay>);

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

impl Wake for Teller {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.told.store(true, Relaxed);
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
        let future = Cell::new(Some(Box::pin(connection) as Pin<Box<dyn Future<Output = ()>>>));
        let teller = Waker::from(Arc::new(Teller(relay.clone())));
        let connection = Rc::new(Connection { future, open: Cell::new(true), head, relay, waker, teller });
        connection.turn();
        Ok(Driven { handle, connection })
    }
}

impl Connection {
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

impl outbox::Turn for Connection {
    fn asks(&self) -> Option<RawFd> {
        self.head.asks().filter(|_| self.open.get())
    }

    fn told(&self, spent: bool) {
        self.head.told(spent);
    }

    /// Away from its user: what he is to look at wakes him.
    fn turn(&self) {
        let Relay { woken, told, .. } = &*self.relay;
        if !woken.load(Relaxed) {
            return;
        }
        told.store(false, Relaxed);
        Connection::turn(self);
        let goes_on = self.open.get() && !woken.load(Relaxed) && !told.load(Relaxed);
        if !goes_on && let Some(user) = &*self.relay.user() {
            user.wake_by_ref();
        }
    }
}

impl<B> Driven<B> {
    /// Polls `what` comes out of the connection, which alone can make it ready: so it needs no
    /// waker. And the connection, as often as there is something to do for it.
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

    /// Has it ended, as far as is known? Looks at what has come since it was used.
    pub fn is_closed(&mut self) -> bool {
        if self.connection.relay.woken.load(Relaxed) {
            self.connection.turn();
        }
        !self.connection.open.get() || self.handle.is_closed()
    }

    /// Can it take a request at once?
    pub fn is_ready(&mut self) -> bool {
        // A connection that has said so has nothing left to do, unless the server has closed it;
        // which is asked before the next use.
        self.handle.is_ready() || (!self.is_closed() && self.handle.is_ready())
    }

    /// Ends when it can take a request, or never will.
    pub async fn settled(&mut self) {
        poll_fn(|cx| {
            self.connection.relay.used_by(cx.waker());
            if self.is_closed() || self.handle.is_ready() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Nobody uses it any more, for now; it is ready. What woke it in its user's last turn was the
    /// library asking for more of a body that has ended: whatever the socket had to say in that
    /// turn was read before.
    pub fn rest(&mut self) {
        *self.connection.relay.user() = None;
        self.connection.relay.woken.store(false, Relaxed);
    }

    /// The server has switched: the rest of the connection is to be run by somebody else.
    pub fn into_rest(self) -> Option<Pin<Box<dyn Future<Output = ()>>>> {
        self.connection.future.take()
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

impl<B> Drop for Driven<B> {
    fn drop(&mut self) {
        // Also if it still waits for a turn.
        self.connection.open.set(false);
        self.connection.future.take();
    }
}

impl<B: Body + 'static> Driven<B> {
    /// Sends a request and waits for the head of its response. `look`: the server may have closed
    /// in the meantime; ask the kernel first.
    pub fn send(
        &mut self,
        request: Request<B>,
        look: Look,
    ) -> impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> {
        self.connection.head.opens(look == Look::Closely);
        let sending = self.connection.relay.within(|| self.handle.try_send_request(request));
        // Out of the runtime's budget, which would keep it from being ready for want of a turn, and
        // wake nobody.
        Sending { driven: self, posted: false, sending: unconstrained(sending) }
    }
}

pin_project! {
    /// A head is waited for. (No `async` block: that would hold what it sends twice.)
    struct Sending<'a, B, F> {
        driven: &'a mut Driven<B>,
        posted: bool,
        #[pin]
        sending: F,
    }
}

impl<B, F: Future> Future for Sending<'_, B, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        let connection = &this.driven.connection;
        let posted = !std::mem::replace(this.posted, true) && outbox::post(connection.clone());
        let sent = if posted {
            // Sent in its turn; what comes of that wakes whoever is here.
            connection.relay.used_by(cx.waker());
            this.sending.as_mut().poll(&mut Context::from_waker(&connection.teller))
        } else {
            this.driven.poll(cx, |cx| this.sending.as_mut().poll(cx))
        };
        if sent.is_ready() {
            this.driven.connection.head.closes();
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Empty;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::time::Duration;
    use tokio::net::TcpStream;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    fn request() -> Request<Empty<Bytes>> {
        Request::builder().uri("/").header("host", "server").body(Empty::new()).unwrap()
    }

    /// A request is read, and answered.
    fn serve(server: &mut StdStream) {
        assert!(server.read(&mut [0; 1000]).unwrap() > 0);
        server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    }

    /// Ours was used once and is free again; the runtime believes it to be open.
    async fn used() -> (Driven<Empty<Bytes>>, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut server = listener.accept().unwrap().0;
        let mut driven = Driven::new(ours, ()).await.unwrap();
        let (answer, mut server) = tokio::join!(driven.send(request(), Look::Lightly), async {
            tokio::task::spawn_blocking(move || {
                serve(&mut server);
                server
            })
            .await
            .unwrap()
        });
        drop(answer.map_err(TrySendError::into_error).expect("answered"));
        driven.settled().await;
        driven.rest();
        server.set_nonblocking(true).unwrap();
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        (driven, server)
    }

    #[test]
    fn a_request_comes_back_unsent_from_a_connection_that_was_closed_just_before() {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        // Sent in a turn of the outbox, and where there is none.
        for outbox in [true, false] {
            let unsent = async {
                let sender = outbox.then(|| spawn_local(outbox::run()));
                yield_now().await;
                let (mut driven, server) = used().await;
                // From here on the runtime does not come to hear of it before the request is on its
                // way.
                drop(server);
                let Err(mut error) = driven.send(request(), Look::Closely).await else {
                    panic!("there is nobody to answer")
                };
                if let Some(sender) = sender {
                    sender.abort();
                }
                error.take_message()
            };
            let unsent =
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), unsent).await });
            assert!(unsent.expect("in time").is_some(), "outbox: {outbox}");
        }
    }
}
