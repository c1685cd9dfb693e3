//! A request, from top to bottom: take the snapshot → match the route → find the user → decide →
//! rewrite headers → send → wrap the body, so that the outcome is counted when the stream ends.
//! A WebSocket is counted with its 101; the client's connection continues as a tunnel.
//!
//! Invariants: one snapshot a request. A request is sent again only if no byte of it left this
//! machine. Only the upstream and the client are waited for.

use super::access::{ClearId, Story};
use super::client::Client;
use super::deadline::{Deadlines, HeadDeadline};
use super::decision::Decided;
use super::detached::{GoesOn, Keeps};
use super::error::{RequestError, Retry};
use super::exchange::Exchange;
use super::guard;
use super::headers::{
    self, Forwarded, Framing, Peer, RequestId, TRACEPARENT, X_GRAYLING_ARM, X_GRAYLING_RELEASE,
};
use super::identity;
use super::on_new::Carrier;
use super::path;
use super::request_body::{ClientFault, RequestBody, Upload};
use super::respond;
use super::response_body::ResponseBody;
use super::result_code::Reader;
use super::trace::{self, Candidate};
use super::upgrade::Ask;
use super::websocket::{self, Handshake};
use super::worker::Worker;
use crate::domain::decide::{Arm, Reason, decide};
use crate::domain::fuse::Blown;
use crate::domain::outcome::Outcome;
use crate::domain::plan::{FailedUsers, OnUnreachable, Protocol, Target, WatchdogMode};
use crate::domain::segment::{Subject, UserSet};
use crate::domain::verdict::Cause;
use crate::live::apply::{Origin, StableSign, TripCall};
use crate::live::clock;
use crate::live::evidence;
use crate::live::failed;
use crate::live::snapshot::{Cohort, ReleaseLive, Snapshot};
use crate::live::traces::Came;
use crate::live::upstream::{Down, ServerLive, Tried, UpstreamLive};
use crate::net::pool::{Lease, NoConnection, SendError, Terms};
use crate::net::request_form::TakesTrailers;
use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use serde_json::json;
use std::borrow::Cow;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Answers one request. Nothing waits before the decision.
pub fn answer(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + use<> {
    client.progress.request_began();
    let http1 = request.version() != Version::HTTP_2;
    let exchange = prepare(worker, client, worker.live.snapshot(), request).map(|prepared| {
        let changes = prepared.exchange.may_change_something();
        let at_most = prepared.abandoned_max();
        let keeps =
            changes.then(|| Keeps { worker: worker.clone(), upload: prepared.upload.clone(), at_most });
        GoesOn::new(exchange(prepared), keeps)
    });
    if exchange.is_err() {
        worker.live.rejected.of(worker.index).add(1);
        if http1 {
            client.progress.request_ended();
        }
    }
    async move {
        match exchange {
            Ok(exchange) => exchange.await,
            Err(error) => respond::error_response(error),
        }
    }
}

/// A request that is decided and ready to be sent.
struct Prepared {
    exchange: Box<Exchange>,
    /// Until it is sent. Boxed, because it is moved often.
    request: Box<Option<Request<RequestBody>>>,
    upload: Rc<Upload>,
    upstream: Arc<UpstreamLive>,
    /// `Some` iff it asks for a WebSocket.
    ask: Option<Ask>,
}

impl Prepared {
    /// How long it may wait for its response head after its client has left.
    fn abandoned_max(&self) -> Duration {
        let limits = &self.exchange.snapshot().plan.limits;
        limits.abandoned_max.unwrap_or(self.upstream.config.response_timeout)
    }
}

/// From the snapshot to the decision, and the headers for the upstream.
fn prepare(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    snapshot: Arc<Snapshot>,
    request: Request<Incoming>,
) -> Result<Prepared, RequestError> {
    let began = clock::now();
    let (mut parts, body) = request.into_parts();
    let http1 = parts.version != Version::HTTP_2;
    let room = worker.enter(&snapshot.plan.limits).ok_or(RequestError::Overload)?;
    let admitted = guard::admit(&parts, &body, &snapshot.plan.identity, &snapshot.plan.limits)?;
    if admitted.reserved {
        headers::drop_reserved(&mut parts.headers);
    }

    let host = host(&parts);
    let name = host.as_ref().map_or("", |h| host_name(h.to_str().unwrap_or("")));
    let reading = path::read(parts.uri.path());
    let route = route(&snapshot, name, &reading, &parts.method)?;

    if snapshot.routes[route].barred {
        return Err(RequestError::Barred);
    }

    let trusted = |ip| snapshot.plan.listen.trusts(ip);
    let peer = if trusted(client.address) { Peer::Trusted } else { Peer::Stranger };
    let address = match peer {
        Peer::Trusted => headers::forwarded_address(&parts.headers, trusted).unwrap_or(client.address),
        Peer::Stranger => client.address,
    };

    let target = snapshot.routes[route].target;
    let found = match target {
        Target::Release(_) => {
            let (headers, uri, names) = (&parts.headers, &parts.uri, client.names.as_ref());
            identity::user_id(&snapshot.plan.identity, headers, uri, &reading.normal, names)
        }
        Target::Upstream(_) => None,
    };
    let user_hash = found.as_deref().map(UserSet::hash);
    let decided = match target {
        Target::Release(index) => {
            let live = &snapshot.releases[index];
            let user_id = found.as_deref();
            let subject = Subject { user_id, headers: Some(&parts.headers), address: Some(address) };
            let decision = decide(&live.release, live.force, &subject);
            Some(Decided {
                release: index,
                arm: decision.arm,
                cohort: cohort(decision.reason),
                reason: decision.reason.label(),
                unit: decision.unit,
                user_hash,
                drawn: decision.randomised(),
            })
        }
        Target::Upstream(_) => None,
    };
    let user_key = worker.user_key(&snapshot.plan.log);
    let mut story = Story {
        user: found.as_deref().zip(user_key).map(|(id, key)| failed::hashed(&key, id)),
        clear: match (&decided, snapshot.plan.state.failed_users) {
            (Some(Decided { arm: Arm::New, .. }), FailedUsers::Clear) => found.as_deref().map(ClearId::of),
            _ => None,
        },
        sampled: worker.samples(snapshot.plan.log.sample, user_hash),
        method: parts.method.clone(),
        // In normal form, as matched: the segment to hide is counted in it.
        uri: match &reading.normal {
            Cow::Borrowed(_) => parts.uri.clone(),
            Cow::Owned(normal) => normal.parse().unwrap_or_default(),
        },
        request_id: RequestId::Made([0, 0]),
        address,
        grpc: false,
    };
    drop(found);

    let traced = match &snapshot.plan.traces {
        None => None,
        Some(traces) => {
            let candidate = Candidate { peer, user_hash, method: &parts.method, route };
            trace::begin(worker, &snapshot, traces, &mut parts.headers, candidate)
        }
    };
    let upgrade = parts.extensions.remove::<OnUpgrade>().filter(|_| websocket::is_asked(&parts));
    let (by, scheme) = (&client.address_value, client.scheme);
    let forwarded = Forwarded { by, peer, scheme, host: host.as_ref(), admitted };
    story.request_id = headers::for_upstream(&mut parts.headers, &forwarded, || worker.random());
    let ask = match upgrade {
        Some(upgrade) => {
            let handshake = Handshake::read(&parts, &body)?;
            websocket::ask(&mut parts.headers);
            Some(Ask { handshake, upgrade, client: client.clone() })
        }
        None => None,
    };
    let upstream = match (target, &decided) {
        (Target::Release(index), Some(decided)) => {
            let live = &snapshot.releases[index];
            parts.headers.insert(X_GRAYLING_RELEASE, live.header.clone());
            parts.headers.insert(X_GRAYLING_ARM, headers::arm_value(decided.arm));
            live.upstream(decided.arm).clone()
        }
        (Target::Upstream(index) | Target::Release(index), _) => snapshot.upstreams[index].clone(),
    };
    story.grpc = headers::is_grpc(&parts) && upstream.config.transport.protocol == Protocol::Http2;
    if admitted.takes_trailers && !http1 {
        // Trailers are forwarded to HTTP/2 clients only.
        parts.extensions.insert(TakesTrailers);
    }
    if let Some(host) = host.filter(|_| parts.uri.authority().is_some()) {
        parts.headers.insert(HOST, host);
    }
    if body.size_hint().exact().is_none() {
        // hyper sends a GET's body only if a header announces it.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if parts.uri.authority().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    parts.version = Version::HTTP_11;

    let upload = Upload::of(&body, began);
    let body_idle_timeout = (!story.grpc).then_some(snapshot.plan.limits.body_idle_timeout);
    let progress = http1.then(|| client.progress.clone());
    let carrier = http1.then(|| Carrier::Connection(client.cancel.clone()));
    let mut exchange =
        Exchange::begin(worker.clone(), snapshot, upload.clone(), route, decided, story, began);
    exchange.occupies(room, progress);
    exchange.enters_new(carrier);
    exchange.trace(traced);
    let body = RequestBody::new(body, upload.clone(), body_idle_timeout);
    let request = Box::new(Some(Request::from_parts(parts, body)));
    Ok(Prepared { exchange, request, upload, upstream, ask })
}

/// The route of the path's normal form. If a server may read another path, and a route with a path
/// is involved, the request is refused as ambiguous.
fn route(
    snapshot: &Snapshot,
    host: &str,
    reading: &path::Reading<'_>,
    method: &Method,
) -> Result<usize, RequestError> {
    let find = |path: &str| snapshot.table.find(host, path, method);
    let route = find(&reading.normal);
    if let Some(lenient) = &reading.lenient {
        let has_path = |route: Option<usize>| route.is_some_and(|r| snapshot.plan.routes[r].path != "/");
        if has_path(route) || has_path(find(lenient)) {
            return Err(RequestError::BadRequest("an ambiguous path"));
        }
    }
    if reading.bare.as_deref().is_some_and(|bare| find(bare) != route) {
        return Err(RequestError::BadRequest("an ambiguous path"));
    }
    route.ok_or(RequestError::NoRoute)
}

/// From the decision to the response head; the body carries the exchange to its end.
fn exchange(prepared: Prepared) -> impl Future<Output = Response<ResponseBody>> {
    // Outside the block: an `async fn` stores the destructured parts twice.
    let Prepared { mut exchange, mut request, upload, upstream, ask } = prepared;
    async move {
        exchange.runs();
        let handshake = ask.as_ref().map(|ask| &ask.handshake);
        let began = exchange.began();
        let sent = send(&mut exchange, &upstream, &mut request, &upload, handshake, began).await;
        let sent = if let Err(error) = &sent
            && error.retry() == Retry::OtherUpstream
        {
            drop(sent);
            // Boxed: nearly no request needs it.
            Box::pin(send_to_stable(&mut exchange, &mut request, &upload, handshake)).await
        } else {
            sent.map(|sent| (sent, upstream))
        };
        answered(exchange, sent, ask, began)
    }
}

/// `new` takes no connection: sends the request to stable, if the config allows it.
async fn send_to_stable(
    exchange: &mut Exchange,
    request: &mut Option<Request<RequestBody>>,
    upload: &Upload,
    handshake: Option<&Handshake>,
) -> Result<(Sent, Arc<UpstreamLive>), RequestError> {
    let stable = fall_back(exchange, request)?;
    let sent = send(exchange, &stable, request, upload, handshake, clock::now()).await;
    if let Some(release) = exchange.release()
        && let Some(blown) = release.tally.fuse.judge(release.stable.last_sign())
    {
        blow(exchange, release, blown);
    }
    sent.map(|sent| (sent, stable))
}

/// The response for the client.
fn answered(
    mut exchange: Box<Exchange>,
    sent: Result<(Sent, Arc<UpstreamLive>), RequestError>,
    ask: Option<Ask>,
    began: Duration,
) -> Response<ResponseBody> {
    match sent {
        Ok(((response, lease, now), upstream)) => {
            let took = exchange.upload().upstream_waits_since().map(|since| now.saturating_sub(since));
            exchange.answered(response.status(), response.headers(), took, now);
            if let Some(ask) = ask.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
                return ask.agreed(exchange, response, lease, now);
            }
            let whole = upstream.config.total_timeout;
            let total = whole.map(|whole| began + whole);
            let idle = (!exchange.is_grpc()).then_some(upstream.config.idle_timeout);
            let deadlines = Deadlines { idle, total, whole };
            let (mut parts, body) = response.into_parts();
            // The upstream's version is not forwarded (RFC 9110 §2.5).
            parts.version = Version::HTTP_11;
            headers::drop_hop_by_hop(&mut parts.headers);
            if let Some(arm) = exchange.exposed_arm() {
                parts.headers.insert(X_GRAYLING_ARM, headers::arm_value(arm));
            }
            let code = exchange.rules().and_then(|rules| Reader::of(rules, parts.status, &parts.headers));
            let body = ResponseBody::upstream(body, exchange, lease, parts.status, deadlines, code, now);
            Response::from_parts(parts, body)
        }
        Err(error) => {
            exchange.fail(error, error.status());
            respond::error_response(error)
        }
    }
}

/// The response head, and its arrival time.
type Sent = (Response<Incoming>, Lease<RequestBody>, Duration);

/// Sends a request to the least loaded server of `upstream`; waits for the response head.
async fn send(
    exchange: &mut Exchange,
    upstream: &Arc<UpstreamLive>,
    request: &mut Option<Request<RequestBody>>,
    upload: &Upload,
    handshake: Option<&Handshake>,
    mut now: Duration,
) -> Result<Sent, RequestError> {
    if handshake.is_some() && upstream.config.transport.protocol == Protocol::Http2 {
        return Err(RequestError::TunnelNotServed);
    }
    let full = |held| {
        let by_clients = held || upstream.is_held_by_clients();
        Err(if by_clients { RequestError::Overload } else { RequestError::Saturated })
    };
    let Some(room) = upstream.enter() else { return full(false) };
    exchange.hold(room);
    // Users of `new` can fail over to stable; other requests have no alternative.
    let down = if fused(exchange, upstream).is_some() { Down::Never } else { Down::Last };
    let mut tried = Tried::default();
    while let Some((index, server)) = upstream.choose(&tried, down) {
        exchange.load(server.enter());
        exchange.goes_to(index, now);
        let worker = exchange.worker().clone();
        if let Some(traced) = exchange.traced() {
            trace::attempt(traced, &worker, upstream, index, now);
        }
        let mut held = false;
        // Moved, to keep the future small: it stores all that is in scope at an await.
        let mut lease =
            match handshake.is_none().then(|| worker.pools.free(server, terms(upstream), now)).flatten() {
                Some(lease) => lease,
                None => {
                    // Clients occupy the connections: this wait is not the upstream's.
                    held = worker.pools.is_full(server, terms(upstream)) && upstream.is_held_by_clients();
                    if held {
                        exchange.excuse();
                    }
                    // Boxed: most requests find a free connection.
                    let leased = match handshake {
                        Some(_) => Box::pin(worker.pools.tunnel(server, terms(upstream))).await,
                        None => Box::pin(worker.pools.connection(server, terms(upstream))).await,
                    };
                    now = clock::now();
                    match leased {
                        Ok(lease) => lease,
                        Err(NoConnection::Unreachable(error)) => {
                            tell(exchange, upstream, server, &error);
                            came(exchange, Came::Failed(Outcome::ConnectError), now);
                            refused(exchange, upstream, index);
                            tried.add(index);
                            continue;
                        }
                        Err(NoConnection::Local(_)) => return Err(RequestError::NoLocalResources),
                        Err(NoConnection::Busy) => return full(held),
                        Err(NoConnection::Tunnels) => return Err(RequestError::TooManyTunnels),
                    }
                }
            };
        if held {
            upload.move_on(now);
        }
        let mut awaited = None;
        if upload.whole() {
            exchange.received(now);
            awaited = Some(server.awaited());
        }
        if !lease.reused {
            server.accepted();
        }
        let sent = {
            let mut sending = std::pin::pin!({
                let Some(mut request) = request.take() else { return Err(RequestError::NoLocalResources) };
                if !request.headers().contains_key(HOST) {
                    request.headers_mut().insert(HOST, server.authority.clone());
                }
                if let Some(traced) = exchange.traced() {
                    request.headers_mut().insert(TRACEPARENT, trace::told(traced));
                }
                lease.send(request)
            });
            let began = exchange.began();
            let mut too_late = HeadDeadline::new(upload, upstream, began, now);
            loop {
                tokio::select! {
                    biased;
                    sent = &mut sending => break sent,
                    () = upload.until_whole(), if !upload.whole() => {
                        exchange.received(clock::now());
                        awaited = Some(server.awaited());
                    }
                    () = &mut too_late => {
                        // The total time-out has expired: by whose fault?
                        let total = upstream.config.total_timeout;
                        let took = clock::now().saturating_sub(began);
                        let slow = total.is_some_and(|t| took >= t && upload.client_took_half_of(t));
                        return Err(if slow { RequestError::SlowRequestBody } else { RequestError::NoResponseInTime });
                    }
                }
            }
        };
        drop(awaited);
        now = clock::now();
        match sent {
            Ok(response) => {
                server.accepted();
                came(exchange, Came::Status(response.status().as_u16()), now);
                let framing = match handshake {
                    Some(handshake) => handshake.framing(&response),
                    None => headers::framing(&response),
                };
                if framing == Framing::Faulty {
                    return Err(RequestError::FaultyResponseHead);
                }
                upstream.answered(now);
                if let Some(release) = fused(exchange, upstream) {
                    release.tally.fuse.connected();
                }
                return Ok((response, lease, now));
            }
            // The server had closed a pooled connection, and the request came back unsent: try
            // another one. A new connection that breaks at once is a refusal.
            Err(SendError::Unsent(unsent)) => {
                *request = Some(*unsent);
                came(exchange, Came::Failed(Outcome::ConnectError), now);
                if !lease.reused {
                    refused(exchange, upstream, index);
                    tried.add(index);
                }
            }
            Err(SendError::Broken(_)) => {
                return Err(match upload.client_fault() {
                    Some(ClientFault::Broken) => RequestError::BadRequestBody,
                    Some(ClientFault::Slow) => RequestError::SlowRequestBody,
                    // The upstream lost patience with the client before this machine did.
                    None if !upload.whole() && upload.client_dawdled() => RequestError::SlowRequestBody,
                    None => RequestError::ConnectionBroken,
                });
            }
        }
    }
    Err(RequestError::Unreachable)
}

/// The upstream's limits of connections.
fn terms(upstream: &UpstreamLive) -> Terms {
    Terms {
        connect_timeout: upstream.config.connect_timeout,
        connection_idle: upstream.config.connection_idle,
        connections_max: upstream.config.connections_max,
        http2_ping: upstream.config.http2_ping,
    }
}

/// `new` takes no connection, nothing was sent: counts it, and fails over where configured.
fn fall_back(
    exchange: &mut Exchange,
    request: &mut Option<Request<RequestBody>>,
) -> Result<Arc<UpstreamLive>, RequestError> {
    let release = exchange.release().cloned().filter(|_| exchange.arm() == Some(Arm::New));
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
    exchange.failed_over();
    request.headers_mut().insert(X_GRAYLING_ARM, headers::arm_value(Arm::Stable));
    Ok(release.stable.clone())
}

/// The release whose fuse counts connections to `upstream`: only for `new`, not after a fail-over.
fn fused<'a>(exchange: &'a Exchange, upstream: &UpstreamLive) -> Option<&'a Arc<ReleaseLive>> {
    exchange
        .release()
        .filter(|r| exchange.arm() == Some(Arm::New) && Arc::ptr_eq(&r.new.load, &upstream.load))
}

/// Records the end of an attempt, if the request is traced.
fn came(exchange: &mut Exchange, came: Came, now: Duration) {
    if let Some(traced) = exchange.traced() {
        traced.came(came, now);
    }
}

/// Logs why a connection to a server failed: a name, a port, a certificate.
fn tell(exchange: &Exchange, upstream: &UpstreamLive, server: &ServerLive, error: &std::io::Error) {
    if server.worth_telling() {
        let (name, server) = (&upstream.config.name, server.server.to_string());
        let told = json!({"upstream": name, "server": server, "error": error.to_string()});
        exchange.worker().live.log.event("server_refused", told);
    }
}

/// A server refused a connection: it is skipped for a while, and the fuse counts it.
fn refused(exchange: &Exchange, upstream: &UpstreamLive, server: usize) {
    upstream.servers[server].refused();
    if let Some(release) = fused(exchange, upstream) {
        // Servers that are down get no request, so they need not have refused one.
        let out: Vec<bool> = upstream.servers.iter().map(|s| s.down()).collect();
        if let Some(blown) = release.tally.fuse.refused(server, &out, release.stable.last_sign()) {
            blow(exchange, release, blown);
        }
    }
}

/// `new` is unreachable, and stable answers: trips at once, so the next request goes to stable.
fn blow(exchange: &Exchange, release: &ReleaseLive, blown: Blown) {
    let watchdog = &release.release.watchdog;
    if !watchdog.enabled || watchdog.mode == WatchdogMode::Report {
        return;
    }
    let servers = release.release.new_servers(&exchange.snapshot().plan);
    let call = TripCall {
        cause: Cause::Fuse,
        origin: Origin { actor: "fuse".into(), reason: None },
        detail: unusable(&release.new),
        evidence: evidence::of_fuse(blown, &servers, release.tally.fuse.since()),
        onset: Some(release.tally.fuse.since()),
        stable: StableSign::Answers,
    };
    // It may name a release of an earlier snapshot; a removed release needs no trip.
    let _ = exchange.worker().live.trip(&release.release.name, call);
}

/// Why no server can be used. Those that probes found down were not connected to.
fn unusable(new: &UpstreamLive) -> String {
    let (mut refusing, mut down) = (vec![], vec![]);
    for server in &new.servers {
        match server.why_down() {
            Some(why) => down.push(format!("{} ({why})", server.server)),
            None => refusing.push(server.server.to_string()),
        }
    }
    let (refusing, failing) = (refusing.join(", "), down.join(", "));
    match (refusing.is_empty(), down.is_empty()) {
        (_, true) => format!("no server of new takes a connection ({refusing})"),
        (true, false) => format!("no server of new can be used: all fail their health probes: {failing}"),
        (false, false) => {
            format!(
                "no server of new can be used: no connection to {refusing}; down by health probes: {failing}"
            )
        }
    }
}

fn cohort(reason: Reason) -> Cohort {
    match reason {
        Reason::Segment(i) => Cohort::Segment(i),
        Reason::Weight => Cohort::Weight,
        Reason::NoUserId | Reason::Tripped | Reason::Excluded(_) => Cohort::None,
    }
}

/// The requested authority: of the target (HTTP/2, absolute form), else the Host.
fn host(parts: &Parts) -> Option<HeaderValue> {
    match parts.uri.authority() {
        Some(authority) => {
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            HeaderValue::from_str(host).ok()
        }
        None => parts.headers.get(HOST).cloned(),
    }
}

/// Without the port.
fn host_name(authority: &str) -> &str {
    match authority.bytes().rposition(|byte| byte == b':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

/// RFC 9112 §3.2.1, RFC 9113 §8.3.1: an empty path is sent as `/`. hyper would send an empty target
/// for `http://a#b`, which is no valid request line, and `?b` for `http://a?b` over HTTP/2.
fn origin_form(uri: &Uri) -> Uri {
    let shown = uri.path_and_query().filter(|path| path.as_str() != "/").cloned();
    let with_path = match shown {
        Some(query) if query.as_str().starts_with('?') => format!("/{}", query.as_str()).parse().ok(),
        shown => shown,
    };
    Uri::from(with_path.unwrap_or(PathAndQuery::from_static("/")))
}
