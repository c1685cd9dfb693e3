//! Connections of one worker to the servers of upstreams: made, kept, handed out again.
//!
//! Invariants: a worker's pool is its own, so nothing here locks; a connection is kept only after its response has
//! ended and its request was sent whole; one unused for longer than `connection_idle` is closed; a server has at most
//! `connections_max` connections, divided among the workers (at least one each); a server that sends [`HEAD_BYTES_MAX`] without a final
//! response head (a flood of 1xx, which the HTTP library skips one by one) loses the connection.

use crate::live::clock;
use crate::live::upstream::{ServerLive, is_local};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// What a server may send before the head of its response is complete, interim responses included.
/// Far above what one read can bring, for the first piece of a body may come with the head.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// All pools of one worker.
pub struct Pools<B> {
    workers: usize,
    worker: usize,
    servers: RefCell<HashMap<u64, Rc<ServerPool<B>>>>,
}

struct ServerPool<B> {
    idle: RefCell<Vec<Idle<B>>>,
    open: Cell<usize>,
    /// A connection came back, or one has ended.
    freed: Notify,
    used_ms: Cell<u64>,
}

struct Idle<B> {
    sender: SendRequest<B>,
    head: Rc<HeadRoom>,
    since_ms: u64,
}

/// What a connection may cost; from the upstream's config.
#[derive(Clone, Copy)]
pub struct Terms {
    pub connect_timeout: Duration,
    pub connection_idle: Duration,
    pub connections_max: usize,
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// The server refused, cannot be reached, or did not answer in time.
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    /// This machine could not: no file descriptor, no port, no memory.
    #[error("cannot make a connection: {0}")]
    Local(io::Error),
    /// All connections that the server may have were busy for `connect_timeout`.
    #[error("all connections are busy")]
    Busy,
}

/// A connection, lent to one exchange. Dropped without [`Lease::give_back`] it is closed.
pub struct Lease<B> {
    sender: SendRequest<B>,
    head: Rc<HeadRoom>,
    pool: Rc<ServerPool<B>>,
    /// Was it used before? Then the server may have closed it in the meantime.
    pub reused: bool,
}

/// A request that could not be sent.
pub enum SendError<B> {
    /// No byte of it left: here it is again.
    Unsent(Box<Request<B>>),
    /// The connection failed after something was sent, or while the head of the response came in.
    Broken(hyper::Error),
}

impl<B: Body + 'static> Pools<B>
where
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(worker: usize, workers: usize) -> Self {
        Pools { workers, worker, servers: RefCell::default() }
    }

    /// A connection to `server`: one that is free, else a new one, else the next that comes free.
    pub async fn connection(&self, server: &Arc<ServerLive>, terms: Terms) -> Result<Lease<B>, NoConnection> {
        let pool = self.pool(server.id);
        pool.used_ms.set(clock::now_ms());
        if let Some(lease) = pool.take(terms.connection_idle) {
            return Ok(lease);
        }
        let deadline = Instant::now() + terms.connect_timeout;
        let quota = self.quota(terms.connections_max);
        while pool.open.get() >= quota {
            if timeout_at(deadline, pool.freed.notified()).await.is_err() {
                return Err(NoConnection::Busy);
            }
            if let Some(lease) = pool.take(terms.connection_idle) {
                return Ok(lease);
            }
        }
        pool.open.set(pool.open.get() + 1);
        // Counts the connection down again however it ends, also if this future is dropped.
        let open = Open(pool.clone());
        let (sender, head) = connect::<B>(server, open, terms.connect_timeout).await?;
        Ok(Lease { sender, head, pool, reused: false })
    }

    /// This worker's part of `connections_max`.
    fn quota(&self, connections_max: usize) -> usize {
        let more = usize::from(self.worker < connections_max % self.workers);
        (connections_max / self.workers + more).max(1)
    }

    fn pool(&self, server: u64) -> Rc<ServerPool<B>> {
        let mut servers = self.servers.borrow_mut();
        let fresh = || {
            Rc::new(ServerPool {
                idle: RefCell::default(),
                open: Cell::new(0),
                freed: Notify::new(),
                used_ms: Cell::new(clock::now_ms()),
            })
        };
        servers.entry(server).or_insert_with(fresh).clone()
    }

    /// Closes what was unused for too long; forgets servers that nobody asked for in a while. For a timer.
    pub fn sweep(&self, connection_idle: Duration) {
        const FORGET_MS: u64 = 300_000;
        let now = clock::now_ms();
        self.servers.borrow_mut().retain(|_, pool| {
            pool.idle.borrow_mut().retain(|i| i.fresh(connection_idle, now));
            pool.open.get() > 0 || now.saturating_sub(pool.used_ms.get()) < FORGET_MS
        });
    }
}

impl<B> Idle<B> {
    fn fresh(&self, connection_idle: Duration, now_ms: u64) -> bool {
        !self.sender.is_closed() && now_ms.saturating_sub(self.since_ms) < connection_idle.as_millis() as u64
    }
}

impl<B> ServerPool<B> {
    /// The connection used last, if one is free: the others grow old and are closed.
    fn take(self: &Rc<Self>, connection_idle: Duration) -> Option<Lease<B>> {
        let now = clock::now_ms();
        let mut idle = self.idle.borrow_mut();
        while let Some(candidate) = idle.pop() {
            if candidate.fresh(connection_idle, now) {
                let Idle { sender, head, .. } = candidate;
                return Some(Lease { sender, head, pool: self.clone(), reused: true });
            }
        }
        None
    }
}

/// One open connection of a pool.
struct Open<B>(Rc<ServerPool<B>>);

impl<B> Drop for Open<B> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.freed.notify_one();
    }
}

/// Tries the addresses in turn, beginning with another one each time; each gets its share of the time that is left, so that a dead
/// one does not use up that of the others.
async fn connect<B>(
    server: &ServerLive,
    open: Open<B>,
    at_most: Duration,
) -> Result<(SendRequest<B>, Rc<HeadRoom>), NoConnection>
where
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let addresses = server.addresses.load_full();
    let unresolved = || io::Error::new(io::ErrorKind::NotFound, "its name does not resolve");
    let mut failure = NoConnection::Unreachable(unresolved());
    let (until, count, first) = (Instant::now() + at_most, addresses.len(), server.next_address());
    for tried in 0..count {
        let address = addresses[(first + tried) % count];
        let share = until.saturating_duration_since(Instant::now()) / (count - tried) as u32;
        let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "not within connect_timeout");
        let connected = timeout_at(Instant::now() + share, TcpStream::connect(address)).await;
        match connected.unwrap_or_else(|_| Err(timed_out())) {
            Ok(stream) => {
                // Answers are small and written whole: waiting for more would only delay them.
                let _ = stream.set_nodelay(true);
                let head = Rc::<HeadRoom>::default();
                let stream = ServerStream { inner: stream, head: head.clone() };
                let handshake = http1::Builder::new().handshake::<_, B>(TokioIo::new(stream));
                let (sender, connection) =
                    handshake.await.map_err(|e| NoConnection::Unreachable(io::Error::other(e)))?;
                tokio::task::spawn_local(async move {
                    // How it ended is told to the exchange that used it.
                    let _ = connection.await;
                    drop(open);
                });
                return Ok((sender, head));
            }
            Err(error) if is_local(&error) => return Err(NoConnection::Local(error)),
            Err(error) => failure = NoConnection::Unreachable(error),
        }
    }
    Err(failure)
}

impl<B: Body + 'static> Lease<B> {
    /// Sends a request and waits for the head of its response.
    pub async fn send(&mut self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        // A pooled connection is ready as soon as its task has seen the last response end.
        if poll_fn(|cx| self.sender.poll_ready(cx)).await.is_err() {
            return Err(SendError::Unsent(Box::new(request)));
        }
        self.head.0.set(Some(HEAD_BYTES_MAX));
        let sent = self.sender.try_send_request(request).await;
        self.head.0.set(None);
        sent.map_err(|mut error| match error.take_message() {
            Some(request) => SendError::Unsent(Box::new(request)),
            None => SendError::Broken(error.into_error()),
        })
    }

    /// The response has ended and the request was sent whole: the connection may serve another.
    pub fn give_back(self) {
        if self.sender.is_closed() {
            return;
        }
        self.pool.idle.borrow_mut().push(Idle {
            sender: self.sender,
            head: self.head,
            since_ms: clock::now_ms(),
        });
        self.pool.freed.notify_one();
    }
}

/// How much more a server may send before its head is there; `None` while no head is waited for.
#[derive(Default)]
struct HeadRoom(Cell<Option<usize>>);

/// A connection to a server that counts what comes while a head is waited for.
struct ServerStream {
    inner: TcpStream,
    head: Rc<HeadRoom>,
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.head.0.get() == Some(0) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no end of the response head",
            )));
        }
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Some(room) = self.head.0.get() {
            self.head.0.set(Some(room.saturating_sub(buffer.filled().len() - before)));
        }
        polled
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
}
