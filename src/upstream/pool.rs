//! Connection pools of one worker: they open, keep and reuse connections to the servers of
//! upstreams.
//!
//! Invariants: a pool belongs to one worker, so nothing here locks.
//! An HTTP/1.1 connection is kept only after its response has ended and its request was sent whole.
//! A connection unused for longer than `connection_idle` is closed.
//! A connection older than `connection_age_max`, or to an address that has left the server's name,
//! takes no further request ([`crate::upstream::connection_origin`]).
//! A server has at most `connections_max` connections, divided among the workers (at least one
//! each).
//!
//! Tunnels: the pool does not reuse the connection of a tunnel, but counts it until the tunnel
//! ends. Tunnels last for hours, so they get at most three quarters of a server's connections.
//!
//! HTTP/2: the requests of a worker to a server share one connection, as long as it has a stream
//! for each: as many as the server's SETTINGS allow (`crate::upstream::stream_limit`), and at most
//! `STREAMS_MAX`. Further connections are opened for the requests that wait, as many as these need.
//! A server that allows no stream has one connection, on which the requests wait for its SETTINGS.
//! A connection retires after `REQUESTS_MAX` requests, and after a request that its server
//! has refused without processing it.
//! A request that asks for a WebSocket gets an HTTP/1.1 connection of its own.
//!
//! Dead servers: no PING is sent unless `http2_ping` is set.
//! A gRPC server ends a connection that gets more than two PINGs in five minutes without data.
//! Instead, a connection that is unheard for too long (`crate::upstream::silence_detector`) takes
//! no further request while another may be opened. TCP ends a connection whose data or keepalive
//! probes stay unacknowledged for two minutes ([`crate::net::ACKNOWLEDGED_WITHIN`]).

use crate::domain::config::{Protocol, ResponseHeadLimits};
use crate::net::fast::inline_connection::{InlineConnection, StaleCheck};
use crate::net::fast::response_head_limit::SocketBased;
use crate::net::request_form::{http1_form, http2_form};
use crate::stats::hasher::BuildHasher;
use crate::telemetry::clock;
use crate::upstream::connect::{RawConnection, connect, too_late};
use crate::upstream::connection_origin::ConnectionOrigin;
use crate::upstream::http2_start::http2_over;
use crate::upstream::send_error::SendError;
use crate::upstream::server::{ConnectionBudget, STREAMS_MAX, ServerState};
use crate::upstream::silence_detector::SilentSince;
use crate::upstream::stream_limit::StreamLimit;
use http::{HeaderValue, Request, Response, Version};
use http_body::{Body, Frame};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{TrySendError, http2};
use pin_project_lite::pin_project;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// Requests in total on one HTTP/2 connection. Many servers close theirs after a thousand (nginx),
/// and requests in flight at that moment are lost. The client side can retire it when none is in
/// flight.
const REQUESTS_MAX: usize = 500;
/// Size limit of the response head of a health probe.
pub(super) const HEAD_BYTES: u32 = 64 << 10;
/// How long a connection may take to write the rest of a request that was answered early.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// All pools of one worker.
pub struct Pools<B> {
    budget: Arc<ConnectionBudget>,
    worker: usize,
    servers: RefCell<HashMap<u64, Rc<ServerPool<B>>, BuildHasher>>,
}

struct ServerPool<B> {
    idle: RefCell<Vec<IdleConnection<B>>>,
    /// HTTP/2 connections that may take another request.
    shared: RefCell<Vec<Rc<SharedConnection<B>>>>,
    /// HTTP/2 connections that are being opened.
    connecting: Cell<usize>,
    /// Requests without a free stream.
    waiting: Cell<usize>,
    /// Streams of the last HTTP/2 connection that was opened: those of the next one.
    streams_expected: Cell<usize>,
    open: Cell<usize>,
    /// How many of `open` are a tunnel, or were requested to become one.
    tunnels: Cell<usize>,
    /// Notified when a connection is returned or ends.
    freed: Rc<Notify>,
    used_ms: Cell<u64>,
}

struct IdleConnection<B> {
    connection: InlineConnection<B>,
    since: Duration,
}

/// An HTTP/2 connection.
struct SharedConnection<B> {
    sender: http2::SendRequest<B>,
    scheme: &'static str,
    authority: HeaderValue,
    streams: Cell<usize>,
    limit: Rc<StreamLimit>,
    requests: Cell<usize>,
    /// The server has refused a request without processing it.
    refused: Cell<bool>,
    used_ms: Cell<u64>,
    unheard: Rc<SilentSince>,
    origin: ConnectionOrigin,
}

/// A request's stream of an HTTP/2 connection; released when dropped.
struct LeasedStream<B> {
    shared: Rc<SharedConnection<B>>,
    pool: Rc<ServerPool<B>>,
}

enum LeasedSender<B> {
    Http1(InlineConnection<B>, StaleCheck),
    Http2(LeasedStream<B>),
}

/// Limits of connections, from the upstream's config.
#[derive(Clone, Copy)]
pub struct PoolLimits {
    pub connect_timeout: Duration,
    pub connection_idle: Duration,
    pub connections_max: usize,
    pub http2_ping: Option<Duration>,
    pub connection_age_max: Option<Duration>,
    pub response_head: ResponseHeadLimits,
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// The server refused, cannot be reached, or did not answer in time.
    #[error("no connection: {0}")]
    Unreachable(io::Error),
    /// A local failure: no file descriptor, no port, no memory.
    #[error("cannot make a connection: {0}")]
    Local(io::Error),
    /// All connections that the server may have were busy for `connect_timeout`.
    #[error("all connections are busy")]
    Busy,
    /// The server of an HTTP/2 upstream does not speak HTTP/1.1, which a tunnel needs.
    #[error("the server does not speak HTTP/1.1")]
    NotHttp1,
    /// The tunnels of the server have reached their limit.
    #[error("no room for a tunnel")]
    Tunnels,
}

/// A connection, or a stream of one, lent to one exchange.
/// Dropping it without [`ConnectionLease::give_back`] closes an HTTP/1.1 connection; a stream ends
/// with its body.
pub struct ConnectionLease<B> {
    sender: LeasedSender<B>,
    pool: Rc<ServerPool<B>>,
    /// It was used before, so the server may have closed it in the meantime.
    pub reused: bool,
    /// Set for a request that asks for a tunnel.
    tunnel: Option<ReservedTunnel<B>>,
}

/// Keeps the connection of a tunnel counted in the pool until it is dropped.
pub struct TunnelRoom<B> {
    _open: OpenConnection<B>,
    _reserved: ReservedTunnel<B>,
}

impl<B: Body + Unpin + 'static> Pools<B>
where
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub fn new(worker: usize, budget: Arc<ConnectionBudget>) -> Self {
        Pools { budget, worker, servers: RefCell::default() }
    }

    /// Returns a free connection to `server`, if there is one.
    pub fn free(&self, server: &ServerState, terms: PoolLimits, now: Duration) -> Option<ConnectionLease<B>> {
        let pool = self.pool(server.id);
        pool.used_ms.set(now.as_millis() as u64);
        match server.protocol {
            Protocol::Http1 => pool.take(terms.connection_idle, now),
            Protocol::Http2 => pool.stream(terms.connection_idle, self.quota(terms.connections_max)),
        }
    }

    /// Returns a free connection to `server`, else opens one, else waits for the next that is
    /// freed.
    pub async fn connection(
        &self,
        server: &Arc<ServerState>,
        terms: PoolLimits,
    ) -> Result<ConnectionLease<B>, NoConnection> {
        let pool = self.pool(server.id);
        let deadline = Instant::now() + terms.connect_timeout;
        let quota = self.quota(terms.connections_max);
        match server.protocol {
            Protocol::Http1 => self.exclusive(server, pool, terms, deadline, quota).await,
            Protocol::Http2 => self.multiplexed(server, pool, terms, deadline, quota).await,
        }
    }

    /// Returns a connection that is to become a tunnel, if the server has room for one more.
    pub async fn tunnel(
        &self,
        server: &Arc<ServerState>,
        terms: PoolLimits,
    ) -> Result<ConnectionLease<B>, NoConnection> {
        let quota = self.quota(terms.connections_max);
        let reserved = ReservedTunnel::within(quota - quota.div_ceil(4), &self.pool(server.id), &self.budget);
        let reserved = reserved.ok_or(NoConnection::Tunnels)?;
        let (pool, deadline) = (self.pool(server.id), Instant::now() + terms.connect_timeout);
        let lease = self.exclusive(server, pool, terms, deadline, quota).await?;
        Ok(ConnectionLease { tunnel: Some(reserved), ..lease })
    }

    /// Whether the next request to `server` has to wait for a connection.
    pub fn is_full(&self, server: &ServerState, terms: PoolLimits) -> bool {
        let pool = self.pool(server.id);
        let shared = pool.shared.borrow();
        pool.open.get() >= self.quota(terms.connections_max)
            && pool.idle.borrow().is_empty()
            && !shared.iter().any(|shared| shared.has_room())
    }

    async fn exclusive(
        &self,
        server: &Arc<ServerState>,
        pool: Rc<ServerPool<B>>,
        terms: PoolLimits,
        deadline: Instant,
        quota: usize,
    ) -> Result<ConnectionLease<B>, NoConnection> {
        loop {
            if let Some(lease) = pool.take(terms.connection_idle, clock::now()) {
                return Ok(lease);
            }
            if pool.open.get() < quota {
                break;
            }
            if timeout_at(deadline, pool.freed.notified()).await.is_err() {
                return Err(NoConnection::Busy);
            }
        }
        let open = OpenConnection::new(&pool, &self.budget)?;
        let connected = connect(server, Protocol::Http1, terms.connect_timeout).await?;
        let origin = ConnectionOrigin::new(server, connected.address, terms.connection_age_max);
        let sender = match connected.stream {
            RawConnection::Plain(stream) => http1_over(stream, open, origin, terms).await?,
            RawConnection::Tls(stream) => http1_over(*stream, open, origin, terms).await?,
            RawConnection::Unix(stream) => http1_over(stream, open, origin, terms).await?,
        };
        Ok(ConnectionLease { sender, pool, reused: false, tunnel: None })
    }

    async fn multiplexed(
        &self,
        server: &Arc<ServerState>,
        pool: Rc<ServerPool<B>>,
        terms: PoolLimits,
        deadline: Instant,
        quota: usize,
    ) -> Result<ConnectionLease<B>, NoConnection> {
        let _waiting = CountedInPool::begin(&pool, |pool| &pool.waiting);
        loop {
            if let Some(lease) = pool.stream(terms.connection_idle, quota) {
                return Ok(lease);
            }
            if pool.needs_another() && pool.open.get() < quota {
                if let Some(lease) = self.open_shared(server, &pool, terms).await? {
                    return Ok(lease);
                }
                continue;
            }
            let connecting = pool.connecting.get() > 0;
            if timeout_at(deadline, pool.freed.notified()).await.is_err() {
                return Err(if connecting {
                    NoConnection::Unreachable(too_late())
                } else {
                    NoConnection::Busy
                });
            }
        }
    }

    /// Opens an HTTP/2 connection, and waits for the server's SETTINGS.
    /// `None`: they allow no stream.
    async fn open_shared(
        &self,
        server: &Arc<ServerState>,
        pool: &Rc<ServerPool<B>>,
        terms: PoolLimits,
    ) -> Result<Option<ConnectionLease<B>>, NoConnection> {
        // Lets the waiting requests go on at any end, also when this future is dropped.
        let _connecting = Connecting::begin(pool);
        let deadline = Instant::now() + terms.connect_timeout;
        let open = OpenConnection::new(pool, &self.budget)?;
        let unheard = Rc::new(SilentSince::default());
        let limit = StreamLimit::new(pool.freed.clone());
        let heard = (&unheard, &limit);
        let connected = connect(server, Protocol::Http2, terms.connect_timeout).await?;
        let origin = ConnectionOrigin::new(server, connected.address, terms.connection_age_max);
        let sender = match connected.stream {
            RawConnection::Plain(stream) => http2_over(stream, open, terms, heard).await?,
            RawConnection::Tls(stream) => http2_over(*stream, open, terms, heard).await?,
            RawConnection::Unix(stream) => http2_over(stream, open, terms, heard).await?,
        };
        let unreachable = |why: &str| NoConnection::Unreachable(io::Error::other(why));
        let allowed = match timeout_at(deadline, limit.until_known()).await {
            Ok(Some(allowed)) if !sender.is_closed() => allowed,
            Ok(_) => return Err(unreachable("the server ended the HTTP/2 connection at once")),
            Err(_) => return Err(unreachable("no SETTINGS of HTTP/2 within connect_timeout")),
        };
        server.allow_streams(allowed);
        pool.streams_expected.set(if allowed == 0 { STREAMS_MAX } else { allowed });
        let shared = Rc::new(SharedConnection {
            sender,
            scheme: server.server.scheme.as_str(),
            authority: server.authority.clone(),
            streams: Cell::new(0),
            limit,
            requests: Cell::new(0),
            refused: Cell::new(false),
            used_ms: Cell::new(clock::now_ms()),
            unheard,
            origin,
        });
        pool.shared.borrow_mut().push(shared.clone());
        Ok((allowed > 0).then(|| ConnectionLease {
            sender: LeasedSender::Http2(LeasedStream::begin(shared, pool)),
            pool: pool.clone(),
            reused: false,
            tunnel: None,
        }))
    }

    /// This worker's share of `connections_max`.
    fn quota(&self, connections_max: usize) -> usize {
        let more = usize::from(self.worker < connections_max % self.budget.workers);
        (connections_max / self.budget.workers + more).max(1)
    }

    fn pool(&self, server: u64) -> Rc<ServerPool<B>> {
        let mut servers = self.servers.borrow_mut();
        let fresh = || {
            Rc::new(ServerPool {
                idle: RefCell::default(),
                shared: RefCell::default(),
                connecting: Cell::new(0),
                waiting: Cell::new(0),
                streams_expected: Cell::new(STREAMS_MAX),
                open: Cell::new(0),
                tunnels: Cell::new(0),
                freed: Rc::default(),
                used_ms: Cell::new(clock::now_ms()),
            })
        };
        servers.entry(server).or_insert_with(fresh).clone()
    }

    /// Closes connections that were unused for too long, and drops the pools of unused servers.
    /// Call from a timer.
    pub fn sweep(&self, connection_idle: Duration) {
        const FORGET_MS: u64 = 300_000;
        let now = clock::now_ms();
        self.servers.borrow_mut().retain(|_, pool| {
            pool.idle.borrow_mut().retain_mut(|i| i.fresh(connection_idle, clock::now()));
            pool.shared.borrow_mut().retain(|s| s.fresh(connection_idle, now));
            pool.open.get() > 0 || now.saturating_sub(pool.used_ms.get()) < FORGET_MS
        });
    }
}

impl<B> IdleConnection<B> {
    fn fresh(&mut self, connection_idle: Duration, now: Duration) -> bool {
        now.saturating_sub(self.since) < connection_idle
            && !self.connection.is_closed()
            && !self.connection.is_retired(now)
    }
}

impl<B> ServerPool<B> {
    /// Takes the connection used last, if one is free: the others then age and are closed.
    fn take(self: &Rc<Self>, connection_idle: Duration, now: Duration) -> Option<ConnectionLease<B>> {
        let mut idle = self.idle.borrow_mut();
        while let Some(mut candidate) = idle.pop() {
            if candidate.fresh(connection_idle, now) {
                // Even right after its last use: some servers close after each response without
                // `Connection: close`. The check costs a fifth system call.
                let sender = LeasedSender::Http1(candidate.connection, StaleCheck::Closely);
                return Some(ConnectionLease { sender, pool: self.clone(), reused: true, tunnel: None });
            }
        }
        None
    }

    /// Keeps the connection for the next request.
    fn keep(&self, mut connection: InlineConnection<B>, now: Duration) {
        connection.rest();
        self.idle.borrow_mut().push(IdleConnection { connection, since: now });
        self.freed.notify_one();
    }

    /// A stream on an open HTTP/2 connection: the first with room, so that later ones age and are
    /// closed.
    fn stream(self: &Rc<Self>, connection_idle: Duration, quota: usize) -> Option<ConnectionLease<B>> {
        let now = clock::now_ms();
        // A worn connection is dropped only if another may take its place.
        let worn = |s: &SharedConnection<B>| {
            let is_old = s.origin.is_too_old(Duration::from_millis(now));
            (s.requests.get() >= REQUESTS_MAX || s.refused.get() || s.unheard.for_too_long(now) || is_old)
                && self.open.get() < quota
        };
        let mut shared = self.shared.borrow_mut();
        // hyper ends a retired connection with its last stream.
        shared.retain(|s| s.fresh(connection_idle, now) && !worn(s));
        let free = shared.iter().find(|shared| shared.has_room())?;
        let sender = LeasedSender::Http2(LeasedStream::begin(free.clone(), self));
        Some(ConnectionLease { sender, pool: self.clone(), reused: true, tunnel: None })
    }
}

impl<B> ServerPool<B> {
    /// Whether the connections that are being opened are too few for the requests that wait.
    fn needs_another(&self) -> bool {
        let shared = self.shared.borrow();
        let allows_none = !shared.is_empty() && shared.iter().all(|shared| shared.limit.was_never_open());
        let coming = self.connecting.get().saturating_mul(self.streams_expected.get());
        !allows_none && self.waiting.get() > coming
    }
}

impl<B> SharedConnection<B> {
    fn has_room(&self) -> bool {
        self.streams.get() < self.limit.allowed()
    }

    fn fresh(&self, connection_idle: Duration, now_ms: u64) -> bool {
        let unused_ms = now_ms.saturating_sub(self.used_ms.get());
        !self.sender.is_closed()
            && !self.origin.has_left()
            && (self.streams.get() > 0 || unused_ms < connection_idle.as_millis() as u64)
    }
}

impl<B> LeasedStream<B> {
    fn begin(shared: Rc<SharedConnection<B>>, pool: &Rc<ServerPool<B>>) -> Self {
        shared.streams.set(shared.streams.get() + 1);
        shared.requests.set(shared.requests.get() + 1);
        shared.unheard.sent(clock::now_ms());
        LeasedStream { shared, pool: pool.clone() }
    }
}

impl<B: Body + 'static> LeasedStream<B> {
    async fn send(&self, request: Request<B>) -> Result<Response<Incoming>, SendError<B>> {
        let (request, host) = http2_form(request, self.shared.scheme, &self.shared.authority);
        match self.shared.sender.clone().try_send_request(request).await {
            Ok(mut response) => {
                *response.version_mut() = Version::HTTP_11;
                Ok(response)
            }
            Err(error) => Err(match SendError::from(error) {
                SendError::Unsent(request) => SendError::Unsent(Box::new(http1_form(*request, host))),
                SendError::Unprocessed => {
                    self.shared.refused.set(true);
                    SendError::Unprocessed
                }
                other => other,
            }),
        }
    }
}

pin_project! {
    /// Waits for a response head.
    #[project = SendingProjection]
    enum Sending<H1, H2> {
        Http1 { #[pin] head: H1 },
        Http2 { head: Pin<Box<H2>> },
    }
}

impl<B, H1, H2> Future for Sending<H1, H2>
where
    H1: Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>>,
    H2: Future<Output = Result<Response<Incoming>, SendError<B>>>,
{
    type Output = H2::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            SendingProjection::Http1 { head } => head.poll(cx).map_err(SendError::from),
            SendingProjection::Http2 { head } => head.as_mut().poll(cx),
        }
    }
}

impl<B> Drop for LeasedStream<B> {
    fn drop(&mut self) {
        self.shared.streams.set(self.shared.streams.get().saturating_sub(1));
        self.shared.used_ms.set(clock::now_ms());
        self.pool.freed.notify_one();
    }
}

/// Counts a request that waits, or a connection that is being opened; counted down on drop.
struct CountedInPool<B>(Rc<ServerPool<B>>, fn(&ServerPool<B>) -> &Cell<usize>);

/// An HTTP/2 connection that is being opened.
struct Connecting<B>(CountedInPool<B>);

impl<B> Connecting<B> {
    fn begin(pool: &Rc<ServerPool<B>>) -> Self {
        Connecting(CountedInPool::begin(pool, |pool| &pool.connecting))
    }
}

impl<B> Drop for Connecting<B> {
    fn drop(&mut self) {
        // They look again when this future has ended.
        self.0.0.freed.notify_waiters();
    }
}

impl<B> CountedInPool<B> {
    fn begin(pool: &Rc<ServerPool<B>>, count: fn(&ServerPool<B>) -> &Cell<usize>) -> Self {
        count(pool).set(count(pool).get() + 1);
        CountedInPool(pool.clone(), count)
    }
}

impl<B> Drop for CountedInPool<B> {
    fn drop(&mut self) {
        let count = (self.1)(&self.0);
        count.set(count.get().saturating_sub(1));
    }
}

/// One open connection of a pool; counted down on drop.
struct OpenConnection<B>(Rc<ServerPool<B>>, Arc<ConnectionBudget>);

impl<B> OpenConnection<B> {
    /// The other descriptors are for client connections, the admin API and the disk.
    fn new(pool: &Rc<ServerPool<B>>, budget: &Arc<ConnectionBudget>) -> Result<Self, NoConnection> {
        // On the error below, its drop counts it down again.
        let open = OpenConnection::taken_over(pool, budget);
        if budget.is_exceeded() {
            return Err(NoConnection::Local(io::Error::other(
                "too many connections for the limit of open files",
            )));
        }
        Ok(open)
    }
}

impl<B> OpenConnection<B> {
    /// Counts a connection that is already open.
    fn taken_over(pool: &Rc<ServerPool<B>>, budget: &Arc<ConnectionBudget>) -> Self {
        budget.open.fetch_add(1, Relaxed);
        pool.open.set(pool.open.get() + 1);
        OpenConnection(pool.clone(), budget.clone())
    }
}

impl<B> Drop for OpenConnection<B> {
    fn drop(&mut self) {
        self.1.open.fetch_sub(1, Relaxed);
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.freed.notify_one();
    }
}

/// A place among the tunnels to a server; given back when dropped.
struct ReservedTunnel<B>(Rc<ServerPool<B>>, Arc<ConnectionBudget>);

impl<B> ReservedTunnel<B> {
    fn within(at_most: usize, pool: &Rc<ServerPool<B>>, budget: &Arc<ConnectionBudget>) -> Option<Self> {
        (pool.tunnels.get() < at_most).then(|| {
            pool.tunnels.set(pool.tunnels.get() + 1);
            ReservedTunnel(pool.clone(), budget.clone())
        })
    }
}

impl<B> Drop for ReservedTunnel<B> {
    fn drop(&mut self) {
        self.0.tunnels.set(self.0.tunnels.get().saturating_sub(1));
    }
}

async fn http1_over<S, B>(
    stream: S,
    open: OpenConnection<B>,
    origin: ConnectionOrigin,
    terms: PoolLimits,
) -> Result<LeasedSender<B>, NoConnection>
where
    S: AsyncRead + AsyncWrite + SocketBased + Unpin + Send + 'static,
    B: Body + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let connection = InlineConnection::new(stream, open, terms.response_head).await;
    let connection = connection.map_err(|e| NoConnection::Unreachable(io::Error::other(e)))?;
    let connection = connection.retired_when(move |now| origin.has_left() || origin.is_too_old(now));
    Ok(LeasedSender::Http1(connection, StaleCheck::Lightly))
}

impl<B: Body + 'static> ConnectionLease<B> {
    pub fn is_http2(&self) -> bool {
        matches!(self.sender, LeasedSender::Http2(_))
    }

    /// Sends a request (in HTTP/1.1 form), and waits for the head of its response.
    pub fn send(
        &mut self,
        request: Request<B>,
    ) -> impl Future<Output = Result<Response<Incoming>, SendError<B>>> {
        // Hands the request over before the first await, so that no future stores it.
        match &mut self.sender {
            LeasedSender::Http1(connection, look) => Sending::Http1 { head: connection.send(request, *look) },
            LeasedSender::Http2(stream) => Sending::Http2 { head: Box::pin(stream.send(request)) },
        }
    }

    /// The server has switched protocols: the connection now belongs to a tunnel.
    /// `None` for a lease that is not from [`Pools::tunnel`].
    pub fn switched(self) -> Option<TunnelRoom<B>> {
        // hyper's part of the connection ends, and with it the count.
        if let LeasedSender::Http1(connection, _) = self.sender
            && let Some(rest) = connection.into_rest()
        {
            tokio::task::spawn_local(rest);
        }
        self.tunnel.map(|reserved| {
            let open = OpenConnection::taken_over(&self.pool, &reserved.1);
            TunnelRoom { _open: open, _reserved: reserved }
        })
    }

    /// Polls the next frame of the response's body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Incoming,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.sender {
            LeasedSender::Http1(connection, _) => connection.poll_frame(cx, body),
            LeasedSender::Http2(_) => Pin::new(body).poll_frame(cx),
        }
    }

    /// The response has ended and the request was received whole: the connection may serve another.
    pub fn give_back(self, now: Duration) {
        let LeasedSender::Http1(mut connection, _) = self.sender else { return };
        if connection.is_ready() {
            self.pool.keep(connection, now);
        } else if !connection.is_closed() {
            // The response came before the request was written; the rest of the request is still
            // sent.
            let pool = self.pool;
            tokio::task::spawn_local(async move {
                let settled = timeout_at(Instant::now() + SETTLE_MAX, connection.settled()).await;
                if settled.is_ok() && connection.is_ready() {
                    pool.keep(connection, clock::now());
                }
            });
        }
    }
}
