//! A worker: one thread, one single-threaded runtime, one listener socket, pools and counters of
//! its own; its connections from accept to drain.
//!
//! Invariants: workers share nothing on the request path but the snapshot and a few atomics; a
//! worker never stops accepting because of an error; on drain the backlog is accepted before the
//! socket is closed, every connection is told to finish, and what is still open after `drain` is
//! dropped.

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
use crate::live::clock;
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
/// Streams that a client has opened and reset before this worker has looked at them
/// (CVE-2023-44487): more, and it gets GOAWAY.
const RESETS_PENDING_MAX: usize = 20;
/// Streams of one connection that this side had to reset because of the client's errors
/// (CVE-2025-8671): more, and it gets GOAWAY.
const ERRORS_MAX: usize = 128;
/// What a client may send before a body is read, a stream and a connection: what one connection can
/// cost in memory.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// After GOAWAY for too many resets: streams go on being accepted until the client has seen it.
const ABUSER_GRACE: Duration = Duration::from_secs(1);
/// An HTTP/2 connection that drains is closed when no stream has been open for so long.
const DRAIN_QUIET: Duration = Duration::from_secs(2);
/// More fields than these hyper refuses unless it is told otherwise; then it makes room for so many
/// for each request.
const HEADERS_OF_HYPER: usize = 100;
/// Of a response, what waits for a client that reads slowly.
const STREAM_SEND_BYTES_MAX: usize = 64 * 1024;

/// What the life of a worker is told by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Serving,
    /// Finish what is in flight, within the time given by `[limits] drain`.
    Draining,
    /// Stop at once.
    Stopping,
}

pub struct Worker {
    pub index: usize,
    pub live: Arc<Live>,
    pub pools: Pools<RequestBody>,
    random: Cell<u64>,
    user_key: RefCell<Option<(Vec<u8>, hmac::Key)>>,
    /// Exchanges that go on without their client; also what keeps them from being spawned at the
    /// very end.
    detached: RefCell<Option<JoinSet<()>>>,
    /// What is under way on any `new`.
    pub on_new: OnNew,
}

/// A worker's sockets.
pub struct Doors {
    pub http: StdListener,
    pub https: Option<StdListener>,
}

/// Which of them a client came in by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Door {
    Http,
    Https,
}

/// A client connection.
pub struct Client {
    /// Of the peer, or whom its PROXY header speaks for: whoever speaks HTTP here.
    pub address: IpAddr,
    /// What upstreams are told of it.
    pub address_value: HeaderValue,
    /// "http" or "https".
    pub scheme: &'static str,
    /// Of the certificate that it has shown.
    pub names: Option<CertificateNames>,
    pub progress: Arc<Progress>,
    /// Of HTTP/1.1, and of a tunnel: ends the connection.
    pub cancel: Rc<CancelToken>,
    /// What its connection goes on as, once HTTP has ended.
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

/// The body of a worker thread: serves until told to stop.
///
/// # Errors
/// The runtime or the socket cannot be set up.
pub fn run(index: usize, doors: Doors, live: Arc<Live>, stage: watch::Receiver<Stage>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker {
        index,
        pools: Pools::new(index, live.clone()),
        random: Cell::new(seed(index)),
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
    // From here on nothing new may be spawned: what is dropped now is cancelled.
    // (Out of the cell first: what is dropped may look for it.)
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
                    // Out of descriptors, or a client that was gone before it was accepted: neither
                    // ends the worker.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                },
                _ = stage.changed() => break,
                Some(_) = connections.join_next() => {}
            }
        }
        // Whoever is in the backlog has been promised an answer by the kernel.
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
        let room = limits.connections.min(self.live.gauges.connections_room.load(Relaxed));
        let before = self.live.gauges.connections.fetch_add(1, Relaxed);
        self.live.gauges.connections_most.fetch_max(before + 1, Relaxed);
        if before >= room {
            self.live.gauges.connections.fetch_sub(1, Relaxed);
            // A TLS client could not read an answer before its handshake, which is what there is no
            // room for.
            if door == Door::Http {
                refuse(&stream);
            }
            return;
        }
        let tls = match (door, &snapshot.plan.tls) {
            (Door::Http, _) => None,
            (Door::Https, Some(tls)) => Some(tls.server.config.clone()),
            // No plan comes into force that takes [tls] from a listener.
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

    /// Room for one more request in the whole process.
    pub fn enter(&self, limits: &Limits) -> Option<RequestRoom> {
        let gauges = &self.live.gauges;
        let before = gauges.requests_in_flight.fetch_add(1, Relaxed);
        // Asked first: mostly it is not the most.
        if before >= gauges.requests_most.load(Relaxed) {
            gauges.requests_most.fetch_max(before + 1, Relaxed);
        }
        // Gives the room back by itself if it was one too many.
        let room = RequestRoom(self.live.clone());
        (before < limits.requests_in_flight).then_some(room)
    }

    /// Lets `future` go on by itself, for so long: its client is gone. Drain waits for it.
    pub fn detach(&self, at_most: Duration, future: impl Future<Output = ()> + 'static) {
        if let Some(detached) = self.detached.borrow_mut().as_mut() {
            while detached.try_join_next().is_some() {}
            detached.spawn_local(async move {
                let _ = tokio::time::timeout(at_most, future).await;
            });
        }
    }

    /// Not at the very end: then what is dropped is cancelled.
    pub fn detaches(&self) -> bool {
        self.detached.try_borrow().is_ok_and(|d| d.is_some())
    }

    fn next_detached(&self) -> Option<impl Future<Output = ()> + use<>> {
        let mut detached = self.detached.borrow_mut();
        let set = detached.as_mut().filter(|s| !s.is_empty())?;
        let mut waiting = std::mem::replace(set, JoinSet::new());
        Some(async move { while waiting.join_next().await.is_some() {} })
    }

    /// Not for secrets: request ids and trace ids. SplitMix64 (Steele, Lea, Flood 2014).
    pub fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Are this user's ordinary requests written? Always the same users, so that their whole story
    /// is there.
    pub fn samples(&self, share: Weight, user_hash: Option<u64>) -> bool {
        if share == Weight::ZERO {
            return false;
        }
        let place = user_hash.unwrap_or_else(|| self.random());
        ((u128::from(place) * u128::from(BUCKETS)) >> 64) < u128::from(share.parts())
    }

    /// The key that user ids are hashed under in the log.
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

/// One request that is being answered, of the whole process.
pub struct RequestRoom(Arc<Live>);

impl Drop for RequestRoom {
    fn drop(&mut self) {
        self.0.gauges.requests_in_flight.fetch_sub(1, Relaxed);
    }
}

/// A connection that has just been accepted, and counted.
struct Arrival {
    stream: TcpStream,
    address: IpAddr,
    /// A PROXY header comes first, and says whose the connection is. From anybody else it would be
    /// bad HTTP, or no TLS.
    announced: bool,
    /// What to shake hands with, on the https socket: the pair that is in force as the client comes
    /// in.
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
    // Also against a client that says nothing. A handshake that fails is the client's own affair.
    let handshake = Box::pin(tokio::time::timeout(limits.header_timeout, tls::accept(config, stream)));
    if let Ok(Ok(accepted)) = handshake.await {
        let client = Client::new(address, "https", accepted.names);
        serve(worker, accepted.stream, client, Some(accepted.agreed), &limits, stage).await;
    }
}

/// A proxy that does not send what it is configured to: its connection is closed without a word, so
/// the log has one.
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

/// `agreed`: by ALPN; in plain text the first bytes tell.
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
            // A client that has said nothing is promised nothing.
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
    // Each in a box of its own: there are many of the one, and the other takes up a lot of room.
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

/// A connection as long as it speaks HTTP. `finish`: tells it to end after what is in flight.
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
    // A graceful end waits for a PONG, which a client that reads nothing never sends.
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
    // First: while it is polled its exchange may end, and another begin.
    if cancel.is_cancelled() || connection.poll(cx).is_ready() {
        return Poll::Ready(());
    }
    cancel.poll(cx)
}

/// Why a connection does not simply go on.
enum Told {
    /// How a client's connection ends is told by its exchanges.
    Ended,
    Drain,
    /// Its client is to be given this much time more.
    Outstays(Duration),
}

/// Polled at every turn of the connection, so it looks at what cannot have happened as cheaply as
/// can be: the stage by its version, once the task is to be woken by it; and at HTTP/2's affairs
/// where it is HTTP/2.
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

/// Ends when an HTTP/2 client has had no stream open for `keepalive_timeout` (pings alone do not
/// keep a connection), or has reset too many: with the time that is left to it. HTTP/1 is timed
/// where its heads are read.
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
        // Heads, and the time between two requests, are timed by the stream.
        .header_read_timeout(None)
        // hyper wants room for at least one read.
        .max_buf_size(limits.header_bytes.max(8192))
        .half_close(false);
    // What is within the library's own bound is told by the guard, and costs nothing here.
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
        // A client behind another proxy may be gone while TCP says that it is there.
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

/// More connections than `[limits] connections`: an answer that costs nothing, then the end.
fn refuse(stream: &TcpStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // The socket is fresh: its buffer takes these few bytes, or the client is gone.
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

fn seed(index: usize) -> u64 {
    let mut bytes = [0u8; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => clock::at_ms() as u64 ^ (index as u64) << 48,
    }
}
