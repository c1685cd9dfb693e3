//! A request, from its head to its response, in phases:
//!
//! 1. **admit**: takes room in the process, and refuses a request that servers may read differently
//!    (`validate`).
//! 2. **route**: host, path and method name the route (`path`, `routing`).
//! 3. **identify**: the client's address and the user (`identity`).
//! 4. **decide**: stable or new (`domain::decide`).
//! 5. **rewrite**: the head for the upstream (`rewrite`, `headers`, `trace`).
//! 6. **forward**: sends the request, and waits for the response head (`forward`, `breaker`).
//! 7. **respond**: the upstream's response, or that of an error (`respond`).
//! 8. **record**: counts and logs the request (`record`).
//!
//! [`prepare`] runs the phases that do not wait, and opens the record. The record is closed with an
//! error, with the end of the response body (`response_body`), or with the 101 of a WebSocket
//! (`upgrade`).
//!
//! Invariants: one snapshot a request. Only the upstream and the client are waited for.

use super::access::{self, LogContext, LoggedUser, RefusedRequest};
use super::carrier::Carrier;
use super::client::Client;
use super::decision::Decided;
use super::detached::{CompleteDetached, DetachedContext};
use super::error::{ErrorForm, RequestError};
use super::forward::{PreparedRequest, forward};
use super::headers::{self, HeadFacts, Peer};
use super::record::{RecordOpening, RequestRecord};
use super::request_body::{RequestBody, RequestBodyState};
use super::respond::{error_response, respond};
use super::response_body::ResponseBody;
use super::rewrite::{self, Destination};
use super::routing;
use super::trace::{self, Candidate};
use super::worker::{RequestRoom, Worker};
use super::{identity, path, validate};
use crate::domain::config::{Config, Target};
use crate::domain::decide;
use crate::domain::segment::{Subject, UserSet};
use crate::runtime::snapshot::Snapshot;
use crate::telemetry::clock;
use http::request::Parts;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use std::borrow::Cow;
use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

/// Handles one request. Nothing waits before the decision.
/// `carrier`: the task that carries the response to the client.
pub fn handle(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    carrier: Carrier,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> + use<> {
    client.progress.request_began();
    let http1 = request.version() != Version::HTTP_2;
    let handling = prepare(worker, client, carrier, request).map(|mut prepared| {
        let context = prepared.record.may_change_something().then(|| DetachedContext {
            worker: worker.clone(),
            body_state: prepared.body_state.clone(),
            at_most: prepared.abandoned_max(),
        });
        let exchange = async move {
            let forwarded = forward(&mut prepared).await;
            respond(prepared, forwarded)
        };
        CompleteDetached::new(exchange, context)
    });
    if handling.is_err() && http1 {
        client.progress.request_ended();
    }
    async move {
        match handling {
            Ok(handling) => handling.await,
            Err(Refusal { error, form }) => error_response(error, form),
        }
    }
}

/// A request without a record is refused.
struct Refusal {
    error: RequestError,
    form: ErrorForm,
}

/// Counts and logs a refusal.
#[cold]
fn refuse(worker: &Worker, client: &Client, head: &Parts, began: Duration, error: RequestError) -> Refusal {
    let form = ErrorForm::of_call(headers::is_grpc(head));
    let shared = &worker.shared;
    shared.rejected.of(worker.index).add(1);
    shared.errors.count(worker.index, error.detail());
    let config = &shared.snapshot().config;
    let request = RefusedRequest {
        head: Some((&head.method, &head.uri)),
        status: form.status(error),
        detail: error.detail(),
        why: error.text(),
        grpc_status: (form == ErrorForm::Grpc).then(|| error.grpc_status()),
        took: clock::now().saturating_sub(began),
        address: client_address(client, config, head).1,
    };
    shared.log.line(access::format_refused(&request, &config.identity, config.log.format));
    Refusal { error, form }
}

/// The phases before the first wait.
fn prepare(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    carrier: Carrier,
    request: Request<Incoming>,
) -> Result<PreparedRequest, Refusal> {
    let began = clock::now();
    let snapshot = worker.shared.snapshot();
    let config = &snapshot.config;
    let (mut head, body) = request.into_parts();
    let http1 = head.version != Version::HTTP_2;

    let admitted = admit(worker, config, &mut head, &body);
    let Admitted { room, facts } = admitted.map_err(|error| refuse(worker, client, &head, began, error))?;
    let routed = route(&snapshot, &head).map_err(|error| refuse(worker, client, &head, began, error))?;
    let sender = identify(client, config, &head, &routed);
    let decided = decide(&snapshot, &head, &routed, &sender);

    let logged_user =
        LoggedUser::new(worker, config, sender.user_id.as_deref(), sender.user_hash, decided.as_ref());
    let normal_uri = routed.normal_uri(&head);
    let Sender { peer, address, user_hash, .. } = sender;
    let Routed { route, target, host, .. } = routed;
    let traced = config.traces.as_ref().and_then(|traces| {
        let candidate = Candidate { peer, user_hash, method: &head.method, route };
        trace::begin_trace(worker, &snapshot, traces, &mut head.headers, candidate)
    });
    let destination = Destination::new(&snapshot, target, decided.as_ref());
    let outgoing = rewrite::Rewrite { worker, client, peer, host, facts, destination: &destination };
    let rewritten = outgoing.apply(&mut head, &body);
    let rewritten = rewritten.map_err(|error| refuse(worker, client, &head, began, error))?;

    // In HTTP/2 they need no announcement.
    let announces_trailers = http1 && facts.takes_trailers;
    let body_state = RequestBodyState::new(&body, began);
    let log_context = LogContext {
        method: head.method.clone(),
        uri: normal_uri,
        request_id: rewritten.request_id,
        address,
        user: logged_user,
        grpc: rewritten.grpc,
        error_form: rewritten.error_form,
    };
    let body_idle_timeout = (!log_context.grpc).then_some(config.limits.body_idle_timeout);
    let upstream = destination.upstream.clone();
    let record = RequestRecord::open(RecordOpening {
        worker: worker.clone(),
        snapshot: snapshot.clone(),
        body_state: body_state.clone(),
        route,
        decided,
        began,
        log_context,
        traced,
        room,
        progress: http1.then(|| client.progress.clone()),
        carrier,
    });
    let body = RequestBody::new(body, body_state.clone(), body_idle_timeout);
    let request = Box::new(Some(Request::from_parts(head, body)));
    let upgrade = rewritten.upgrade;
    Ok(PreparedRequest { record, request, body_state, upstream, upgrade, announces_trailers })
}

/// A request that every server reads alike, with its room in the process.
struct Admitted {
    room: RequestRoom,
    facts: HeadFacts,
}

/// Takes room for the request, and refuses a request that servers may read differently.
fn admit(
    worker: &Worker,
    config: &Config,
    head: &mut Parts,
    body: &Incoming,
) -> Result<Admitted, RequestError> {
    let room = worker.take_request_room(&config.limits).ok_or(RequestError::Overload)?;
    let facts = validate::validate_head(head, body, &config.identity, &config.limits)?;
    if facts.reserved {
        headers::drop_reserved(&mut head.headers);
    }
    Ok(Admitted { room, facts })
}

/// A request with its route.
struct Routed<'a> {
    /// Index into the plan's routes.
    route: usize,
    target: Target,
    /// The path in normal form, as matched.
    path: Cow<'a, str>,
    /// The requested authority.
    host: Option<HeaderValue>,
}

impl Routed<'_> {
    /// The target of the request with the normal form of its path: the segment that the log hides
    /// is counted in that form.
    fn normal_uri(&self, head: &Parts) -> http::Uri {
        match &self.path {
            Cow::Borrowed(_) => head.uri.clone(),
            Cow::Owned(normal) => normal.parse().unwrap_or_default(),
        }
    }
}

/// Finds the route, by host, path and method.
fn route<'a>(snapshot: &Snapshot, head: &'a Parts) -> Result<Routed<'a>, RequestError> {
    let host = routing::requested_host(head);
    let name = host.as_ref().map_or("", |h| routing::host_name(h.to_str().unwrap_or("")));
    // RFC 9110 §9.3.7: `OPTIONS *` is about the server. It goes where `/` of its host goes.
    let reading = path::read(if head.uri.path() == "*" { "/" } else { head.uri.path() });
    let route = routing::find_route(snapshot, name, &reading, &head.method)?;
    let running = &snapshot.routes[route];
    if running.barred {
        return Err(RequestError::Barred);
    }
    Ok(Routed { route, target: running.target, path: reading.normal, host })
}

/// The sender of a request.
struct Sender<'a> {
    peer: Peer,
    /// The client's address. A trusted peer may name another than its own.
    address: IpAddr,
    /// `None` on a route that goes to an upstream directly.
    user_id: Option<Cow<'a, [u8]>>,
    user_hash: Option<u64>,
}

/// Finds out who sends the request: the client's address, and the user.
fn identify<'a>(client: &'a Client, config: &Config, head: &'a Parts, routed: &'a Routed<'_>) -> Sender<'a> {
    let (peer, address) = client_address(client, config, head);
    let user_id = match routed.target {
        Target::Release(_) => {
            let names = client.names.as_ref();
            identity::user_id(&config.identity, &head.headers, &head.uri, &routed.path, names)
        }
        Target::Upstream(_) => None,
    };
    let user_hash = user_id.as_deref().map(UserSet::hash);
    Sender { peer, address, user_id, user_hash }
}

/// The client's address. A trusted peer may name another than its own.
fn client_address(client: &Client, config: &Config, head: &Parts) -> (Peer, IpAddr) {
    let trusted = |ip| config.listen.trusts(ip);
    if !trusted(client.address) {
        return (Peer::Stranger, client.address);
    }
    let named = headers::forwarded_address(&head.headers, trusted);
    (Peer::Trusted, named.unwrap_or(client.address))
}

/// Decides between stable and new. `None` on a route that goes to an upstream directly.
fn decide(snapshot: &Snapshot, head: &Parts, routed: &Routed<'_>, sender: &Sender<'_>) -> Option<Decided> {
    let Target::Release(index) = routed.target else { return None };
    let running = &snapshot.releases[index];
    let user_id = sender.user_id.as_deref();
    let subject = Subject { user_id, headers: Some(&head.headers), address: Some(sender.address) };
    let decision = decide::decide(&running.release, running.effective, &subject);
    Some(Decided::new(index, &decision, sender.user_hash))
}
