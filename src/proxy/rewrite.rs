//! Rewrites the head of a request for its upstream: fields, target and version.
//!
//! Invariant: the form does not depend on the server that gets the request. The server's authority
//! and the trace's span are added for each attempt (`forward`).

use super::client::Client;
use super::decision::Decided;
use super::error::{ErrorForm, RequestError};
use super::headers::{self, Forwarded, HeadFacts, Peer, RequestId, X_GRAYLING_ARM, X_GRAYLING_RELEASE};
use super::upgrade::UpgradeRequest;
use super::websocket::{self, Handshake};
use super::worker::Worker;
use crate::domain::config::{Protocol, Target};
use crate::net::request_form::TakesTrailers;
use crate::runtime::snapshot::{ReleaseSnapshot, Snapshot};
use crate::stats::arm::Arm;
use crate::upstream::server::UpstreamState;
use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Uri, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::rc::Rc;
use std::sync::Arc;

/// The upstream that gets a request, and why.
pub struct Destination<'a> {
    pub upstream: &'a Arc<UpstreamState>,
    /// The release and the arm that was decided, if the route has a release.
    pub decided: Option<(&'a ReleaseSnapshot, Arm)>,
}

impl<'a> Destination<'a> {
    pub fn new(snapshot: &'a Snapshot, target: Target, decided: Option<&Decided>) -> Destination<'a> {
        match (target, decided) {
            (Target::Release(index), Some(decided)) => {
                let running: &ReleaseSnapshot = &snapshot.releases[index];
                Destination { upstream: running.upstream(decided.arm), decided: Some((running, decided.arm)) }
            }
            (Target::Upstream(index) | Target::Release(index), _) => {
                Destination { upstream: &snapshot.upstreams[index], decided: None }
            }
        }
    }
}

/// The facts that the form for the upstream depends on.
pub struct Rewrite<'a> {
    pub worker: &'a Worker,
    pub client: &'a Rc<Client>,
    pub peer: Peer,
    /// The requested authority.
    pub host: Option<HeaderValue>,
    pub facts: HeadFacts,
    pub destination: &'a Destination<'a>,
}

/// What became of a head.
pub struct Rewritten {
    pub request_id: RequestId,
    /// A gRPC call to an HTTP/2 server.
    pub grpc: bool,
    /// The form of errors, for a gRPC call to any server.
    pub error_form: ErrorForm,
    /// `Some` iff it asks for a WebSocket.
    pub upgrade: Option<UpgradeRequest>,
}

impl Rewrite<'_> {
    pub fn apply(self, head: &mut Parts, body: &Incoming) -> Result<Rewritten, RequestError> {
        let Rewrite { worker, client, peer, host, facts, destination } = self;
        // Read before the hop-by-hop fields are removed.
        let upgrade = head.extensions.remove::<OnUpgrade>().filter(|_| websocket::is_upgrade_request(head));
        let (by, scheme) = (&client.address_value, client.scheme);
        let forwarded = Forwarded { by, peer, scheme, host: host.as_ref(), facts };
        let request_id = headers::for_upstream(&mut head.headers, &forwarded, || worker.random());
        let upgrade = match upgrade {
            Some(upgrade) => {
                let handshake = Handshake::read(head, body)?;
                websocket::set_upgrade_fields(&mut head.headers);
                Some(UpgradeRequest { handshake, upgrade, client: client.clone() })
            }
            None => None,
        };
        if let Some((release, arm)) = destination.decided {
            head.headers.insert(X_GRAYLING_RELEASE, release.header.clone());
            head.headers.insert(X_GRAYLING_ARM, headers::arm_value(arm));
        }
        let http2_upstream = destination.upstream.config.transport.protocol == Protocol::Http2;
        let call = headers::is_grpc(head);
        let (grpc, error_form) = (call && http2_upstream, ErrorForm::of_call(call));
        if facts.takes_trailers {
            head.extensions.insert(TakesTrailers);
        }
        if let Some(host) = host.filter(|_| head.uri.authority().is_some()) {
            head.headers.insert(HOST, host);
        }
        if body.size_hint().exact().is_none() {
            // hyper sends a GET's body only if a header announces it.
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if head.uri.authority().is_some() {
            head.uri = origin_form(&head.uri);
        }
        head.version = Version::HTTP_11;
        Ok(Rewritten { request_id, grpc, error_form, upgrade })
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
