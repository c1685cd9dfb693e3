//! A client connection: PROXY header, TLS, HTTP/1.1 or HTTP/2 with their limits, a tunnel after
//! them, and the graceful end.
//!
//! Invariant: a client that misuses HTTP/2, or is idle too long, loses its connection.

use super::access::{self, RefusedRequest};
use super::carrier::Carrier;
use super::client::Client;
use super::handle::handle;
use super::response_body::ResponseBody;
use super::stream::{Executor, Streams};
use super::worker::{ServingStage, Worker};
use crate::domain::config::RequestLimits;
use crate::domain::proxy_header_error::ProxyHeaderError;
use crate::net::fast::write_batching::BatchedStream;
use crate::net::listen::{ClientStream, ClientTimeouts, ConnectionState, SlowHead};
use crate::net::proxy_protocol;
use crate::net::tls::{self, AgreedProtocol};
use crate::runtime::shared::SharedState;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use std::convert::Infallible;
use std::error::Error;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

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

/// A connection that was accepted and counted.
pub struct Arrival {
    pub stream: TcpStream,
    pub address: IpAddr,
    /// A PROXY header with the client's address comes first.
    /// From other peers it would be invalid HTTP or TLS.
    pub announced: bool,
    /// On the https socket: the TLS config in force at accept time.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    pub counted: Counted,
}

/// Serves a connection from its first byte to its end.
pub async fn run(
    worker: Rc<Worker>,
    arrival: Arrival,
    limits: RequestLimits,
    stage: watch::Receiver<ServingStage>,
) {
    let Arrival { mut stream, mut address, announced, tls, counted: _counted } = arrival;
    let _ = stream.set_nodelay(true);
    if announced {
        match proxy_protocol::take(&mut stream, limits.header_timeout).await {
            Ok(header) => address = header.source.unwrap_or(address),
            Err(refusal) => return log_refusal(&worker.shared, address, refusal),
        }
    }
    let stream = BatchedStream::new(stream);
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
fn log_refusal(shared: &SharedState, peer: IpAddr, refusal: ProxyHeaderError) {
    if shared.gauges.proxy_header_refused(refusal) {
        let hint = "[listen] proxy_protocol: connections from trusted_proxies begin with a PROXY header (HAProxy: send-proxy-v2, \
                    check-send-proxy; nginx: proxy_protocol on)";
        shared.log.event(
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
    agreed: Option<AgreedProtocol>,
    limits: &RequestLimits,
    mut stage: watch::Receiver<ServingStage>,
) {
    let client = Rc::new(client);
    let timeouts = ClientTimeouts {
        first: limits.header_timeout,
        idle: limits.keepalive_timeout,
        head: limits.header_timeout,
        write: limits.body_idle_timeout,
    };
    let mut stream = ClientStream::new(stream, client.progress.clone(), timeouts);
    let speaks = match agreed {
        Some(agreed) => agreed,
        None => tokio::select! {
            speaks = stream.speaks() => match speaks {
                Ok(speaks) => speaks,
                Err(_) => return,
            },
            // A client that has sent nothing gets no response.
            _ = stage.wait_for(|stage| *stage != ServingStage::Serving) => return,
        },
    };
    let io = TokioIo::new(stream);
    let streams = Streams::new(limits.body_idle_timeout);
    // Two boxes: HTTP/1 connections are many, and the HTTP/2 future is large.
    match speaks {
        AgreedProtocol::Http1 => {
            let service = service_fn(|request: Request<Incoming>| {
                let carrier = Carrier::Connection(client.cancel.clone());
                let handled = handle(&worker, &client, carrier, request);
                async { Ok::<Response<ResponseBody>, Infallible>(handled.await) }
            });
            // It may become a tunnel.
            let connection = Box::pin(http1(limits).serve_connection(io, service).with_upgrades());
            drive_http(connection, |c| c.graceful_shutdown(), &client, &streams, limits, stage).await;
        }
        AgreedProtocol::Http2 => {
            let service = service_fn(|request: Request<Incoming>| {
                let stream = streams.open();
                let handled = handle(&worker, &client, Carrier::Stream(stream.clone()), request);
                async move {
                    let response = handled.await;
                    stream.answered();
                    Ok::<Response<ResponseBody>, Infallible>(response)
                }
            });
            let connection = Box::pin(http2(limits, Executor(streams.clone())).serve_connection(io, service));
            let finish = |c: Pin<&mut http2::Connection<_, _, _>>| c.graceful_shutdown();
            Box::pin(drive_http(connection, finish, &client, &streams, limits, stage)).await;
        }
    }
    if let Some(fault) = client.fault.take() {
        record_fault(&worker, &client, &fault);
    }
    if let Some(tunnel) = client.tunnel.take() {
        Box::pin(tunnel.run(&client.cancel, limits.body_idle_timeout)).await;
    }
}

/// hyper, or the stream of the client, has answered a head that could not be read: counts and logs
/// that. (In HTTP/2 such a request is a stream error, which is not reported.)
#[cold]
fn record_fault(worker: &Worker, client: &Client, fault: &hyper::Error) {
    let why = fault.to_string();
    let timed_out = || {
        let cause = fault.source()?.downcast_ref::<io::Error>()?;
        cause.get_ref()?.downcast_ref::<SlowHead>()
    };
    let (detail, status) = if fault.is_parse_too_large() && why.starts_with("URI") {
        ("uri_too_long", StatusCode::URI_TOO_LONG)
    } else if fault.is_parse_too_large() {
        ("headers_too_big", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else if fault.is_parse() {
        ("malformed_request", StatusCode::BAD_REQUEST)
    } else if timed_out().is_some() {
        ("slow_request_head", StatusCode::REQUEST_TIMEOUT)
    } else {
        return;
    };
    let shared = &worker.shared;
    shared.rejected.of(worker.index).add(1);
    shared.errors.count(worker.index, detail);
    let config = &shared.snapshot().config;
    let request = RefusedRequest {
        head: None,
        status,
        detail,
        why: &why,
        grpc_status: None,
        took: Duration::ZERO,
        address: client.address,
    };
    shared.log.line(access::format_refused(&request, &config.identity, config.log.format));
}

/// Drives a connection while it is HTTP. `finish` starts its graceful shutdown.
async fn drive_http<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<Box<C>>,
    finish: impl Fn(Pin<&mut C>),
    client: &Client,
    streams: &Streams,
    limits: &RequestLimits,
    mut stage: watch::Receiver<ServingStage>,
) {
    if *stage.borrow() == ServingStage::Serving {
        match serve_until_end(connection.as_mut(), client, streams, limits, &mut stage).await {
            ServiceEnd::Ended => return,
            ServiceEnd::Drain => {}
            ServiceEnd::Misused(grace) => {
                // GOAWAY first.
                finish(connection.as_mut());
                let _ = tokio::time::timeout(grace, connection).await;
                return;
            }
        }
    }
    finish(connection.as_mut());
    let ended = poll_fn(|cx| poll_connection(connection.as_mut(), client, cx));
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
    connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    client: &Client,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // The check comes first: during the poll an exchange may end, and another begin.
    if client.cancel.is_cancelled() {
        return Poll::Ready(());
    }
    if let Poll::Ready(ended) = connection.poll(cx) {
        client.fault.set(ended.err());
        return Poll::Ready(());
    }
    client.cancel.poll(cx)
}

/// Why a connection leaves its normal service.
enum ServiceEnd {
    /// It ended; its exchanges have recorded how.
    Ended,
    Drain,
    /// The client has misused it, or was idle too long; it ends after this time.
    Misused(Duration),
}

/// Drives a connection until it ends, has to drain, or was misused.
/// Runs on every poll of the connection, so it skips the checks that cannot have changed.
/// After the first poll, the stage is compared by version only.
/// The HTTP/2 limits are checked for HTTP/2 only.
async fn serve_until_end(
    mut connection: Pin<&mut impl Future<Output = hyper::Result<()>>>,
    client: &Client,
    streams: &Streams,
    limits: &RequestLimits,
    stage: &mut watch::Receiver<ServingStage>,
) -> ServiceEnd {
    let seen = stage.clone();
    let mut changed = pin!(stage.changed());
    let mut wait_for_misuse = pin!(wait_for_misuse(&client.progress, streams, limits));
    let mut waits = false;
    poll_fn(move |cx| {
        if poll_connection(connection.as_mut(), client, cx).is_ready() {
            return Poll::Ready(ServiceEnd::Ended);
        }
        let look = !std::mem::replace(&mut waits, true) || seen.has_changed().unwrap_or(true);
        if look && changed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(ServiceEnd::Drain);
        }
        if client.progress.is_http2()
            && let Poll::Ready(grace) = wait_for_misuse.as_mut().poll(cx)
        {
            return Poll::Ready(ServiceEnd::Misused(grace));
        }
        Poll::Pending
    })
    .await
}

/// Resolves when an HTTP/2 client has had no stream open for `keepalive_timeout` (PINGs alone do
/// not keep a connection), or has reset too many. Returns the time it has left.
/// For HTTP/1 the stream of the client times its heads.
async fn wait_for_misuse(progress: &ConnectionState, streams: &Streams, limits: &RequestLimits) -> Duration {
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

fn http1(limits: &RequestLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The client stream times heads and the idle time between requests.
        .header_read_timeout(None)
        // hyper needs room for at least one read.
        .max_buf_size(limits.header_bytes.max(8192))
        .half_close(false);
    // Up to hyper's default `validate` enforces the limit, at no cost here.
    if limits.header_count > HEADERS_OF_HYPER {
        builder.max_headers(limits.header_count);
    }
    builder
}

fn http2(limits: &RequestLimits, executor: Executor) -> http2::Builder<Executor> {
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

/// Counts an open connection until it is dropped.
pub struct Counted(pub Arc<SharedState>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.gauges.connections.fetch_sub(1, Relaxed);
    }
}
