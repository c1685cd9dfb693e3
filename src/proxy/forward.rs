//! Sends a prepared request to an upstream, and waits for the response head.
//!
//! Invariants: a request is sent again only if no byte of it left this machine, or if its server
//! says that it has not processed it.
//! A body of a known, small length is received before an upstream's connection is taken.
//! `new` that takes no connection fails over to stable, where the config allows it.

use super::breaker;
use super::deadline::HeadDeadline;
use super::error::{RequestError, Retry};
use super::headers::{self, Framing, TRACEPARENT, X_GRAYLING_ARM};
use super::record::RequestRecord;
use super::request_body::{ClientFault, RequestBody, RequestBodyState};
use super::trace;
use super::upgrade::UpgradeRequest;
use super::worker::HeldBody;
use crate::domain::config::{OnUnreachable, Protocol};
use crate::domain::outcome::Outcome;
use crate::net::lazy_timer::LazyTimer;
use crate::net::request_form::ask_for_trailers;
use crate::runtime::traces::AttemptResult;
use crate::stats::arm::Arm;
use crate::telemetry::clock;
use crate::upstream::pool::{ConnectionLease, NoConnection, PoolLimits};
use crate::upstream::send_error::SendError;
use crate::upstream::server::{DownServers, ServerState, TriedServers, UpstreamState};
use http::header::HOST;
use http::{HeaderMap, Method, Request, Response};
use hyper::body::{Body, Incoming};
use serde_json::json;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

/// How often a request is sent whose servers say that they have not processed it.
const SENDS_MAX: u32 = 3;

/// A request that is decided and ready to be sent.
pub struct PreparedRequest {
    pub record: Box<RequestRecord>,
    /// Until it is sent. Boxed, because it is moved often.
    pub request: Box<Option<Request<RequestBody>>>,
    pub body_state: Rc<RequestBodyState>,
    /// After a fail-over: stable.
    pub upstream: Arc<UpstreamState>,
    /// `Some` iff it asks for a WebSocket.
    pub upgrade: Option<UpgradeRequest>,
    /// The names of the trailers must reach the client before the trailers.
    pub announces_trailers: bool,
}

impl PreparedRequest {
    /// How long it may wait for its response head after its client has left.
    pub fn abandoned_max(&self) -> Duration {
        let limits = &self.record.snapshot().config.limits;
        limits.abandoned_max.unwrap_or(self.upstream.config.response_timeout)
    }
}

/// A response whose head has arrived.
pub struct UpstreamResponse {
    pub response: Response<Incoming>,
    pub lease: ConnectionLease<RequestBody>,
    /// When the head arrived. Monotonic.
    pub arrived: Duration,
}

/// Sends the request to its upstream, or else to stable.
pub async fn forward(prepared: &mut PreparedRequest) -> Result<UpstreamResponse, RequestError> {
    let mut now = prepared.record.began();
    let held = room_for_body(prepared);
    if held.is_some() {
        receive_body(prepared).await?;
        now = clock::now();
    }
    let sent = send(prepared, now).await;
    if let Err(error) = &sent
        && error.retry() == Retry::OtherUpstream
    {
        drop(sent);
        // Boxed: nearly no request needs it.
        Box::pin(send_to_stable(prepared)).await
    } else {
        sent
    }
}

/// Room for the body, if it is to be received before it is sent.
fn room_for_body(prepared: &PreparedRequest) -> Option<HeldBody> {
    let PreparedRequest { record, request, body_state, upgrade, .. } = prepared;
    if body_state.is_whole() || !body_state.is_sized() || upgrade.is_some() || record.is_grpc() {
        return None;
    }
    let length = (**request).as_ref()?.body().size_hint().exact()? as usize;
    let allowed = length <= record.snapshot().config.limits.request_buffer;
    allowed.then(|| record.worker().hold_body(length)).flatten()
}

/// Receives the body whole, within the time-outs of the client.
async fn receive_body(prepared: &mut PreparedRequest) -> Result<(), RequestError> {
    let PreparedRequest { record, request, body_state, upstream, .. } = prepared;
    let total = upstream.config.total_timeout.map(|total| clock::instant(record.began() + total).into());
    let Some(request) = request.as_mut() else { return Err(RequestError::NoLocalResources) };
    let mut too_late = LazyTimer::default();
    let mut receiving = std::pin::pin!(request.body_mut().receive());
    let received = poll_fn(|cx| match (receiving.as_mut().poll(cx), total) {
        (Poll::Pending, Some(total)) => too_late.poll(cx, total).map(|()| None),
        (received, _) => received.map(Some),
    });
    match (received.await, body_state.client_fault()) {
        (Some(Ok(())), _) => Ok(()),
        (None, _) | (_, Some(ClientFault::Slow)) => Err(RequestError::SlowRequestBody),
        (Some(Err(_)), _) => Err(RequestError::BadRequestBody),
    }
}

/// `new` takes no connection: sends the request to stable, if the config allows it.
async fn send_to_stable(prepared: &mut PreparedRequest) -> Result<UpstreamResponse, RequestError> {
    prepared.upstream = fail_over(&mut prepared.record, &mut prepared.request)?;
    let sent = send(prepared, clock::now()).await;
    breaker::judge_after_fail_over(&prepared.record);
    sent
}

/// Sends the request to the least loaded server of its upstream; waits for the response head.
async fn send(prepared: &mut PreparedRequest, mut now: Duration) -> Result<UpstreamResponse, RequestError> {
    let PreparedRequest { record, request, body_state, upstream, upgrade, .. } = prepared;
    let handshake = upgrade.as_ref().map(|upgrade| &upgrade.handshake);
    let room = upstream.enter().ok_or_else(|| no_room(upstream, false))?;
    record.hold_room(room);
    // Users of `new` can fail over to stable; other requests have no alternative.
    let down = if breaker::counting_release(record, upstream).is_some() {
        DownServers::Never
    } else {
        DownServers::Last
    };
    let mut tried = TriedServers::default();
    let mut sends = 0;
    while let Some((index, server)) = upstream.choose(&tried, down) {
        begin_attempt(record, upstream, index, server, now);
        let worker = record.worker().clone();
        let mut held = false;
        // Moved, to keep the future small: it stores all that is in scope at an await.
        let mut lease = match handshake
            .is_none()
            .then(|| worker.pools.free(server, terms(record, upstream), now))
            .flatten()
        {
            Some(lease) => lease,
            None => {
                // Clients occupy the connections: this wait is not the upstream's.
                held = worker.pools.is_full(server, terms(record, upstream)) && upstream.is_held_by_clients();
                if held {
                    record.withdraw_event();
                }
                // Boxed: most requests find a free connection.
                let leased = match handshake {
                    Some(_) => Box::pin(worker.pools.tunnel(server, terms(record, upstream))).await,
                    None => Box::pin(worker.pools.connection(server, terms(record, upstream))).await,
                };
                now = clock::now();
                match leased {
                    Ok(lease) => lease,
                    Err(NoConnection::Unreachable(error)) => {
                        log_server_refused(record, upstream, server, &error);
                        record_attempt(record, AttemptResult::Failed(Outcome::ConnectError), now);
                        breaker::count_refusal(record, upstream, index);
                        tried.add(index);
                        continue;
                    }
                    Err(NoConnection::NotHttp1) => return Err(RequestError::TunnelNotServed),
                    Err(NoConnection::Local(_)) => return Err(RequestError::NoLocalResources),
                    Err(NoConnection::Busy) => return Err(no_room(upstream, held)),
                    Err(NoConnection::Tunnels) => return Err(RequestError::TooManyTunnels),
                }
            }
        };
        if held {
            body_state.restart_upstream_time(now);
        }
        let mut awaited = None;
        if body_state.is_whole() {
            record.mark_received(now);
            awaited = Some(server.awaited());
        }
        if !lease.reused {
            server.accepted();
        }
        let mut copied = None;
        let sent = {
            let mut sending = std::pin::pin!({
                let Some(mut request) = request.take() else { return Err(RequestError::NoLocalResources) };
                address_to(server, record, &mut request);
                if lease.is_http2() && upstream.config.resend_unprocessed {
                    copied = copy(&request);
                }
                lease.send(request)
            });
            let began = record.began();
            let mut too_late = HeadDeadline::new(body_state, upstream, began, now);
            loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => break sent,
                    () = body_state.until_whole(), if !body_state.is_whole() => {
                        record.mark_received(clock::now());
                        awaited = Some(server.awaited());
                    }
                    () = &mut too_late => return Err(blame_for_late_head(upstream, body_state, began)),
                }
            }
        };
        drop(awaited);
        now = clock::now();
        match sent {
            Ok(response) => {
                server.accepted();
                record_attempt(record, AttemptResult::Status(response.status().as_u16()), now);
                let framing = match handshake {
                    Some(handshake) => handshake.framing(&response),
                    None => headers::framing(&response),
                };
                if framing == Framing::Faulty {
                    return Err(RequestError::FaultyResponseHead);
                }
                if is_head_too_big(record, upstream, response.headers()) {
                    return Err(RequestError::ResponseHeadTooBig);
                }
                upstream.answered(now);
                if let Some(release) = breaker::counting_release(record, upstream) {
                    release.counters.breaker.connected();
                }
                return Ok(UpstreamResponse { response, lease, arrived: now });
            }
            // A server of HTTP/2 need not speak HTTP/1.1, and its SETTINGS may come before the
            // request is sent. A client that asks for a WebSocket must not set it aside.
            Err(SendError::Unsent(_) | SendError::Broken)
                if !lease.reused
                    && handshake.is_some()
                    && upstream.config.transport.protocol == Protocol::Http2 =>
            {
                return Err(RequestError::TunnelNotServed);
            }
            // The server had closed a pooled connection, and the request came back unsent: try
            // another one. A new connection that breaks at once is a refusal.
            Err(SendError::Unsent(unsent)) => {
                **request = Some(*unsent);
                record_attempt(record, AttemptResult::Failed(Outcome::ConnectError), now);
                if !lease.reused {
                    breaker::count_refusal(record, upstream, index);
                    tried.add(index);
                }
            }
            Err(SendError::HeadTooBig) => return Err(RequestError::ResponseHeadTooBig),
            Err(SendError::Unprocessed) => {
                record_attempt(record, AttemptResult::Failed(Outcome::Reset), now);
                let Some(copied) = copied else { return Err(RequestError::NotResent) };
                sends += 1;
                if sends == SENDS_MAX {
                    return Err(RequestError::Unprocessed);
                }
                record.count_resent();
                upstream.load.resent.fetch_add(1, Relaxed);
                **request = Some(*copied);
            }
            Err(SendError::Broken) => return Err(blame_for_broken_connection(body_state)),
        }
    }
    Err(RequestError::Unreachable)
}

/// hyper measures heads of HTTP/1.1 as they are read.
fn is_head_too_big(record: &RequestRecord, upstream: &UpstreamState, headers: &HeaderMap) -> bool {
    let limits = record.snapshot().config.limits.response_head;
    let http2 = upstream.config.transport.protocol == Protocol::Http2;
    headers.len() > limits.fields || (http2 && headers::size(headers) > limits.bytes)
}

/// Records the server that gets the request.
fn begin_attempt(
    record: &mut RequestRecord,
    upstream: &Arc<UpstreamState>,
    index: usize,
    server: &Arc<ServerState>,
    now: Duration,
) {
    record.hold_load(server.enter());
    record.assign_server(index, now);
    record.trace_attempt(upstream, index, now);
}

/// Completes the head for the server that gets it.
fn address_to(server: &ServerState, record: &mut RequestRecord, request: &mut Request<RequestBody>) {
    if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, server.authority.clone());
    }
    if server.protocol == Protocol::Http1 {
        ask_for_trailers(request);
    }
    if let Some(traced) = record.traced() {
        request.headers_mut().insert(TRACEPARENT, trace::child_traceparent(traced));
    }
}

/// A copy of the request, to be sent again; `None` for one whose body is not held.
fn copy(request: &Request<RequestBody>) -> Option<Box<Request<RequestBody>>> {
    let mut copied = Request::new(request.body().copy()?);
    *copied.method_mut() = request.method().clone();
    *copied.uri_mut() = request.uri().clone();
    *copied.version_mut() = request.version();
    *copied.headers_mut() = request.headers().clone();
    *copied.extensions_mut() = request.extensions().clone();
    Some(Box::new(copied))
}

/// The error of an upstream that is full. `held`: clients occupied its connections.
fn no_room(upstream: &UpstreamState, held: bool) -> RequestError {
    let by_clients = held || upstream.is_held_by_clients();
    if by_clients { RequestError::Overload } else { RequestError::Saturated }
}

/// The error of a response head that came too late. If the total time-out has expired, the client
/// may be at fault.
fn blame_for_late_head(
    upstream: &UpstreamState,
    body_state: &RequestBodyState,
    began: Duration,
) -> RequestError {
    let total = upstream.config.total_timeout;
    let took = clock::now().saturating_sub(began);
    let slow = total.is_some_and(|t| took >= t && body_state.client_took_half_of(t));
    if slow { RequestError::SlowRequestBody } else { RequestError::NoResponseInTime }
}

/// The error of a connection that broke before the response head.
fn blame_for_broken_connection(body_state: &RequestBodyState) -> RequestError {
    match body_state.client_fault() {
        Some(ClientFault::Broken) => RequestError::BadRequestBody,
        Some(ClientFault::Slow) => RequestError::SlowRequestBody,
        // The upstream lost patience with the client before this machine did.
        None if !body_state.is_whole() && body_state.client_dawdled() => RequestError::SlowRequestBody,
        None => RequestError::ConnectionBroken,
    }
}

/// The upstream's limits of connections.
fn terms(record: &RequestRecord, upstream: &UpstreamState) -> PoolLimits {
    PoolLimits {
        connect_timeout: upstream.config.connect_timeout,
        connection_idle: upstream.config.connection_idle,
        connections_max: upstream.config.connections_max,
        http2_ping: upstream.config.http2_ping,
        connection_age_max: upstream.config.connection_age_max,
        response_head: record.snapshot().config.limits.response_head,
    }
}

/// `new` takes no connection, nothing was sent: counts it, and returns stable where the config
/// allows a fail-over.
fn fail_over(
    record: &mut RequestRecord,
    request: &mut Option<Request<RequestBody>>,
) -> Result<Arc<UpstreamState>, RequestError> {
    let release = record.release().cloned().filter(|_| record.arm() == Some(Arm::New));
    let (Some(release), Some(request)) = (release, request) else { return Err(RequestError::Unreachable) };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let allowed = match release.release.on_unreachable {
        OnUnreachable::Stable => true,
        OnUnreachable::Reads => reads,
        OnUnreachable::Error => false,
    };
    if !allowed {
        return Err(RequestError::Unreachable);
    }
    record.record_fail_over();
    request.headers_mut().insert(X_GRAYLING_ARM, headers::arm_value(Arm::Stable));
    Ok(release.stable.clone())
}

/// Records the end of an attempt, if the request is traced.
fn record_attempt(record: &mut RequestRecord, came: AttemptResult, now: Duration) {
    if let Some(traced) = record.traced() {
        traced.came(came, now);
    }
}

/// Logs why a connection to a server failed: a name, a port, a certificate.
fn log_server_refused(
    record: &RequestRecord,
    upstream: &UpstreamState,
    server: &ServerState,
    error: &std::io::Error,
) {
    if server.worth_telling() {
        let (name, server) = (&upstream.config.name, server.server.to_string());
        let fields = json!({"upstream": name, "server": server, "error": error.to_string()});
        record.worker().shared.log.event("server_refused", fields);
    }
}
