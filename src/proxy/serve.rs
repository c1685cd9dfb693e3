//! A worker: one thread with a single-threaded runtime, its own listener socket, pools and
//! counters. It owns its connections from accept to drain.
//!
//! Invariants: on the request path workers share only the snapshot and a few atomics.
//! No error ends the accept loop.
//! On drain the worker accepts the backlog, closes the socket and asks every connection to finish.
//! What is still open after `drain` is dropped.

use super::body::{RequestBody, ResponseBody};
use super::cancel::{self, CancelToken, OnNew};
use super::forward;
use super::headers;
use super::stream::{self, Executor, Streams};
use super::tunnel::Tunnel;
use crate::domain::cohort::{BUCKETS, Weight};
use crate::domain::plan::{Limits, Log};
use crate::domain::refusal::Refusal;
use crate::live::apply::Live;
use crate::live::random::Random;
use crate::net::listen::{ClientStream, Patience, Progress};
use crate::net::outbox::{self, Outgoing};
use crate::net::pool::Pools;
use crate::net::proxy_protocol;
use crate::net::tls::{self, Agreed, CertificateNames};
use aws_lc_rs::hmac;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};

const SWEEP: Duration = Duration::from_secs(1);
/// HTTP/2 streams that one client connection may have open.
const STREAMS_MAX: u32 = 256;
/// Streams that a client opened and reset before this worker processed them (CVE-2023-44487).
/// More of them end the connection with GOAWAY.
const RESETS_PENDING_MAX: usize = 20;
/// Streams of one connection that the server reset because of client errors (CVE-2025-8671).
/// More of them end the connection with GOAWAY.
const ERRORS_MAX: usize = 128;
/// Flow-control windows of a stream and of a connection: they bound the memory of a connection.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// After GOAWAY for too many resets: streams are still accepted until the client has seen it.
const ABUSER_GRACE: Duration = Duration::from_secs(1);
/// A draining HTTP/2 connection is closed after this long without an open stream.
const DRAIN_QUIET: Duration = Duration::from_secs(2);
/// hyper's default limit of header fields. With a higher limit it allocates that many slots for
/// each request.
const HEADERS_OF_HYPER: usize = 100;
/// Bytes of a response that are buffered for a client that reads slowly.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;

/// The stage of a worker's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Serving,
    /// Finish what is in flight, within `[limits] drain`.
    Draining,
    /// Stop at once.
    Stopping,
}

pub struct Worker {
    pub index: usize,
    pub live: Arc<Live>,
    pub pools: Pools<RequestBody>,
    random: Random,
    user_key: RefCell<Option<(Vec<u8>, hmac::Key)>>,
    /// Exchanges that continue without their client. `None` at the very end: then none can be
    /// spawned.
    detached: RefCell<Option<JoinSet<()>>>,
    /// The exchanges in flight on any `new`.
    pub on_new: OnNew,
}

/// A worker's sockets.
pub struct Doors {
    pub http: StdListener,
    pub https: Option<StdListener>,
}

/// The socket through which a client came in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Http,
    Https,
}

/// A client connection.
pub struct Client {
    /// The peer's address, or the source in its PROXY header.
    pub address: IpAddr,
    /// The address, as sent to upstreams.
    pub address_value: HeaderValue,
    /// "http" or "https".
    pub scheme: &'static str,
    /// The names in its client certificate.
    pub names: Option<CertificateNames>,
    pub progress: Arc<Progress>,
    /// For HTTP/1.1 and for a tunnel: ends the connection.
    pub cancel: Rc<CancelToken>,
    /// The tunnel that the connection becomes when HTTP ends.
    pub tunnel: Cell<Option<Tunnel>>,
}

impl Client {
    fn new(address: IpAddr, scheme: &'static str, names: Option<CertificateNames>) -> Self {
        let address_value = headers::address_value(address);
        Client {
            address,
            address_value,
            scheme,
            names,
            progress: Arc::default(),
            cancel: Rc::default(),
            tunnel: Cell::new(None),
        }
    }
}

/// The body of a worker thread: serves until the stage changes.
///
/// # Errors
/// The runtime or the socket cannot be set up.
pub fn run(index: usize, doors: Doors, live: Arc<Live>, stage: watch::Receiver<Stage>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker {
        index,
        pools: Pools::new(index, live.connections.clone()),
        random: Random::default(),
        user_key: RefCell::default(),
        detached: RefCell::new(Some(JoinSet::new())),
        on_new: OnNew::new(index),
        live,
    });
    let (http, https) = {
        let _context = runtime.enter();
        (TcpListener::from_std(doors.http)?, doors.https.map(TcpListener::from_std).transpose()?)
    };
    let served = runtime.block_on(worker.clone().serve(http, https, stage));
    // From here on nothing may be spawned: dropped exchanges are cancelled.
    // The set leaves the cell first, because a dropped exchange may borrow the cell.
    let detached = worker.detached.borrow_mut().take();
    drop(detached);
    drop(runtime);
    served
}

impl Worker {
    async fn serve(
        self: Rc<Self>,
        http: TcpListener,
        https: Option<TcpListener>,
        mut stage: watch::Receiver<Stage>,
    ) -> io::Result<()> {
        let sweeper = spawn_local(self.clone().sweep());
        let canceller = spawn_local(cancel::run(self.clone()));
        spawn_local(outbox::run());
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                (door, accepted) = accept(&http, https.as_ref()) => match accepted {
                    Ok((stream, address)) => self.connect(&mut connections, stream, address.ip(), door, &stage),
                    // Out of descriptors, or the client was gone before accept: neither ends the
                    // worker.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                },
                _ = stage.changed() => break,
                Some(_) = connections.join_next() => {}
            }
        }
        // The kernel has already completed the handshake with clients in the backlog.
        while let Some((door, Ok((stream, address)))) = now_or_never(accept(&http, https.as_ref())).await {
            self.connect(&mut connections, stream, address.ip(), door, &stage);
        }
        drop((http, https));
        let drain = self.live.snapshot().plan.limits.drain;
        let finished = async {
            while connections.join_next().await.is_some() {}
            while let Some(detached) = self.next_detached() {
                detached.await;
            }
        };
        tokio::select! {
            () = finished => {}
            () = tokio::time::sleep(drain) => {}
            _ = stage.wait_for(|s| *s == Stage::Stopping) => {}
        }
        sweeper.abort();
        canceller.abort();
        Ok(())
    }

    fn connect(
        self: &Rc<Self>,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        address: IpAddr,
        door: Door,
        stage: &watch::Receiver<Stage>,
    ) {
        let snapshot = self.live.snapshot();
        let limits = &snapshot.plan.limits;
        let room = limits.connections.min(self.live.connections.limit.load(Relaxed));
        let before = self.live.gauges.connections.fetch_add(1, Relaxed);
        self.live.gauges.connections_most.fetch_max(before + 1, Relaxed);
        if before >= room {
            self.live.gauges.connections.fetch_sub(1, Relaxed);
            // A TLS client could read no response before its handshake, for which there is no room.
            if door == Door::Http {
                refuse(&stream);
            }
            return;
        }
        let tls = match (door, &snapshot.plan.tls) {
            (Door::Http, _) => None,
            (Door::Https, Some(tls)) => Some(tls.server.config.clone()),
            // No plan that removes [tls] from a listener comes into force.
            (Door::Https, None) => {
                self.live.gauges.connections.fetch_sub(1, Relaxed);
                return;
            }
        };
        let counted = Counted(self.live.clone());
        let address = address.to_canonical();
        let listen = &snapshot.plan.listen;
        let announced = listen.proxy_protocol && listen.trusts(address);
        let arrival = Arrival { stream, address, announced, tls, _counted: counted };
        connections.spawn_local(connection(self.clone(), arrival, limits.clone(), stage.clone()));
    }

    /// Takes room for one more request in the whole process.
    pub fn enter(&self, limits: &Limits) -> Option<RequestRoom> {
        let gauges = &self.live.gauges;
        let before = gauges.requests_in_flight.fetch_add(1, Relaxed);
        // A load is cheaper than `fetch_max`, and mostly enough.
        if before >= gauges.requests_most.load(Relaxed) {
            gauges.requests_most.fetch_max(before + 1, Relaxed);
        }
        // On the error path, dropping it gives the room back.
        let room = RequestRoom(self.live.clone());
        (before < limits.requests_in_flight).then_some(room)
    }

    /// Lets `future` run on for at most `at_most` after its client has left. The drain waits for
    /// it.
    pub fn detach(&self, at_most: Duration, future: impl Future<Output = ()> + 'static) {
        if let Some(detached) = self.detached.borrow_mut().as_mut() {
            while detached.try_join_next().is_some() {}
            detached.spawn_local(async move {
                let _ = tokio::time::timeout(at_most, future).await;
            });
        }
    }

    /// Whether [`Self::detach`] still works. At the very end, dropped exchanges are cancelled.
    pub fn detaches(&self) -> bool {
        self.detached.try_borrow().is_ok_and(|d| d.is_some())
    }

    fn next_detached(&self) -> Option<impl Future<Output = ()> + use<>> {
        let mut detached = self.detached.borrow_mut();
        let set = detached.as_mut().filter(|s| !s.is_empty())?;
        let mut waiting = std::mem::replace(set, JoinSet::new());
        Some(async move { while waiting.join_next().await.is_some() {} })
    }

    /// For request ids and trace ids, not for secrets.
    pub fn random(&self) -> u64 {
        self.random.number()
    }

    /// Whether this user's ordinary requests are logged. The same users are always chosen, so that
    /// their log is complete.
    pub fn samples(&self, share: Weight, user_hash: Option<u64>) -> bool {
        if share == Weight::ZERO {
            return false;
        }
        let place = user_hash.unwrap_or_else(|| self.random());
        ((u128::from(place) * u128::from(BUCKETS)) >> 64) < u128::from(share.parts())
    }

    /// The key that hashes user ids in the log.
    pub fn user_key(&self, log: &Log) -> Option<hmac::Key> {
        let wanted = log.user_key.as_ref()?;
        let mut cached = self.user_key.borrow_mut();
        if cached.as_ref().is_none_or(|(bytes, _)| bytes != wanted) {
            *cached = Some((wanted.clone(), hmac::Key::new(hmac::HMAC_SHA256, wanted)));
        }
        cached.as_ref().map(|(_, key)| key.clone())
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let snapshot = self.live.snapshot();
            let longest = snapshot.plan.upstreams.iter().map(|u| u.connection_idle).max();
            self.pools.sweep(longest.unwrap_or(Duration::ZERO));
        }
    }
}

/// One of the requests in flight in the whole process.
pub struct RequestRoom(Arc<Live>);

impl Drop for RequestRoom {
    fn drop(&mut self) {
        self.0.gauges.requests_in_flight.fetch_sub(1, Relaxed);
    }
}

/// A connection that was accepted and counted.
struct Arrival {
    stream: TcpStream,
    address: IpAddr,
    /// A PROXY header with the client's address comes first.
    /// From other peers it would be invalid HTTP or TLS.
    announced: bool,
    /// On the https socket: the TLS config in force at accept time.
    tls: Option<Arc<rustls::ServerConfig>>,
    _counted: Counted,
}

async fn connection(worker: Rc<Worker>, arrival: Arrival, limits: Limits, stage: watch::Receiver<Stage>) {
    let Arrival { mut stream, mut address, announced, tls, _counted } = arrival;
    let _ = stream.set_nodelay(true);
    if announced {
        match proxy_protocol::take(&mut stream, limits.header_timeout).await {
            Ok(header) => address = header.source.unwrap_or(address),
            Err(refusal) => return tell_refusal(&worker.live, address, refusal),
        }
    }
    let stream = Outgoing::new(stream);
    let Some(config) = tls else {
        let client = Client::new(address, "http", None);
        serve(worker, stream, client, None, &limits, stage).await;
        return;
    };
    // The time-out also covers a silent client. A failed handshake is not logged: the client is at
    // fault.
    let handshake = Box::pin(tokio::time::timeout(limits.header_timeout, tls::accept(config, stream)));
    if let Ok(Ok(accepted)) = handshake.await {
        let client = Client::new(address, "https", accepted.names);
        serve(worker, accepted.stream, client, Some(accepted.agreed), &limits, stage).await;
    }
}

/// A trusted proxy does not send the configured PROXY header. Its connection is closed without a
/// response, so the cause is logged.
fn tell_refusal(live: &Live, peer: IpAddr, refusal: Refusal) {
    if live.gauges.proxy_header_refused(refusal) {
        let hint = "[listen] proxy_protocol: connections from trusted_proxies begin with a PROXY header (HAProxy: send-proxy-v2, \
                    check-send-proxy; nginx: proxy_protocol on)";
        live.log.event(
            "proxy_header_refused",
            json!({"peer": peer.to_string(), "cause": refusal.label(), "hint": hint}),
        );
    }
}

/// `agreed`: by ALPN; for plain text the first bytes decide.
async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    worker: Rc<Worker>,
    stream: S,
    client: Client,
    agreed: Option<Agreed>,
    limits: &Limits,
    mut stage: watch::Receiver<Stage>,
) {
    let client = Rc::new(client);
    let patience = Patience {
        first: limits.header_timeout,
        idle: limits.keepalive_timeout,
        head: limits.header_timeout,
        write: limits.body_idle_timeout,
    };
    let mut stream = ClientStream::new(stream, client.progress.clone(), patience);
    let speaks = match agreed {
        Some(agreed) => agreed,
        None => tokio::select! {
            speaks = stream.speaks() => match speaks {
                Ok(speaks) => speaks,
                Err(_) => return,
            },
            // A client that has sent nothing gets no response.
            _ = stage.wait_for(|stage| *stage != Stage::Serving) => return,
        },
    };
    let io = TokioIo::new(stream);
    let streams = Streams::new(limits.body_idle_timeout);
    let service = service_fn(|request: Request<Incoming>| {
        let answer = forward::answer(&worker, &client, request);
        async {
            let response = answer.await;
            stream::answered();
            Ok::<Response<ResponseBody>, Infallible>(response)
        }
    });
    // Two boxes: HTTP/1 connections are many, and the HTTP/2 future is large.
    match speaks {
        Agreed::Http1 => {
            // It may become a tunnel.
            let connection = Box::pin(http1(limits).serve_connection(io, service).with_upgrades());
            converse(connection, |c| c.graceful_shutdown(), &client, &streams, limits, stage).await;
        }
        Agreed::Http2 => {
            let connection = Box::pin(http2(limits, Executor(streams.clone())).serve_connection(io, service));
            let finish = |c: Pin<&mut http2::Connection<_, _, _>>| c.graceful_shutdown();
            Box::pin(converse(connection, finish, &client, &streams, limits, stage)).await;
        }
    }
    if let Some(tunnel) = client.tunnel.take() {
        Box::pin(tunnel.run(&client.cancel, limits.body_idle_timeout)).await;
    }
}

/// Drives a connection while it is HTTP. `finish` starts its graceful shutdown.
async fn converse<C: Future>(
    mut connection: Pin<Box<C>>,
    finish: impl Fn(Pin<&mut C>),
    client: &Client,
    streams: &Streams,
    limits: &Limits,
    mut stage: watch::Receiver<Stage>,
) {
    if *stage.borrow() == Stage::Serving {
        match until_told(connection.as_mut(), client, streams, limits, &mut stage).await {
            Told::Ended => return,
            Told::Drain => {}
            Told::Outstays(grace) => {
                // GOAWAY first.
                finish(connection.as_mut());
                let _ = tokio::time::timeout(grace, connection).await;
                return;
            }
        }
    }
    finish(connection.as_mut());
    let ended = poll_fn(|cx| poll_connection(connection.as_mut(), &client.cancel, cx));
    // A graceful shutdown waits for a PONG, which a client that does not read never sends.
    let quiet = async {
        tokio::time::sleep(DRAIN_QUIET).await;
        while streams.quiet_for() < DRAIN_QUIET {
            tokio::time::sleep(DRAIN_QUIET.saturating_sub(streams.quiet_for())).await;
        }
    };
    tokio::select! {
        () = ended => {}
        () = quiet, if client.progress.is_http2() => {}
    }
}

/// Ready once the connection has ended, or is cancelled.
fn poll_connection(
    connection: Pin<&mut impl Future>,
    cancel: &CancelToken,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // The check comes first: during the poll an exchange may end, and another begin.
    if cancel.is_cancelled() || connection.poll(cx).is_ready() {
        return Poll::Ready(());
    }
    cancel.poll(cx)
}

/// Why a connection leaves its normal service.
enum Told {
    /// It ended; its exchanges have recorded how.
    Ended,
    Drain,
    /// The client has misused it, or was idle too long; it ends after this time.
    Outstays(Duration),
}

/// Runs on every poll of the connection, so it skips the checks that cannot have changed.
/// After the first poll, the stage is compared by version only.
/// The HTTP/2 limits are checked for HTTP/2 only.
async fn until_told(
    mut connection: Pin<&mut impl Future>,
    client: &Client,
    streams: &Streams,
    limits: &Limits,
    stage: &mut watch::Receiver<Stage>,
) -> Told {
    let seen = stage.clone();
    let mut changed = pin!(stage.changed());
    let mut outstays = pin!(outstays(&client.progress, streams, limits));
    let mut waits = false;
    poll_fn(move |cx| {
        if poll_connection(connection.as_mut(), &client.cancel, cx).is_ready() {
            return Poll::Ready(Told::Ended);
        }
        let look = !std::mem::replace(&mut waits, true) || seen.has_changed().unwrap_or(true);
        if look && changed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Told::Drain);
        }
        if client.progress.is_http2()
            && let Poll::Ready(grace) = outstays.as_mut().poll(cx)
        {
            return Poll::Ready(Told::Outstays(grace));
        }
        Poll::Pending
    })
    .await
}

/// Resolves when an HTTP/2 client has had no stream open for `keepalive_timeout` (PINGs alone do
/// not keep a connection), or has reset too many. Returns the time it has left.
/// For HTTP/1 the stream of the client times its heads.
async fn outstays(progress: &Progress, streams: &Streams, limits: &Limits) -> Duration {
    let quiet = async {
        loop {
            let left = limits.keepalive_timeout.saturating_sub(streams.quiet_for());
            if left.is_zero() && progress.is_http2() {
                return;
            }
            tokio::time::sleep(if left.is_zero() { limits.keepalive_timeout } else { left }).await;
        }
    };
    tokio::select! {
        () = quiet => limits.body_idle_timeout,
        () = streams.abused() => ABUSER_GRACE,
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The client stream times heads and the idle time between requests.
        .header_read_timeout(None)
        // hyper needs room for at least one read.
        .max_buf_size(limits.header_bytes.max(8192))
        .half_close(false);
    // Up to hyper's default the guard enforces the limit, at no cost here.
    if limits.header_count > HEADERS_OF_HYPER {
        builder.max_headers(limits.header_count);
    }
    builder
}

fn http2(limits: &Limits, executor: Executor) -> http2::Builder<Executor> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES_MAX)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        // A client behind another proxy may be gone although TCP reports it as alive.
        // gRPC clients answer PINGs and do not limit them; only servers do.
        .keep_alive_interval(Some(limits.keepalive_timeout))
        .keep_alive_timeout(limits.header_timeout);
    builder
}

struct Counted(Arc<Live>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.gauges.connections.fetch_sub(1, Relaxed);
    }
}

/// Over `[limits] connections`: a cheap response, then close.
fn refuse(stream: &TcpStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // The socket is new: its buffer takes these few bytes, or the client is gone.
    let _ = stream.try_write(FULL);
}

async fn accept(
    http: &TcpListener,
    https: Option<&TcpListener>,
) -> (Door, io::Result<(TcpStream, SocketAddr)>) {
    let tls = async {
        match https {
            Some(listener) => listener.accept().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        accepted = http.accept() => (Door::Http, accepted),
        accepted = tls => (Door::Https, accepted),
    }
}

async fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
