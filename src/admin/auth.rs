//! Access control of the admin API: Host, Origin, method, token and content type, in this order.
//!
//! - `Host` must be an IP literal, localhost, or listed in `[admin] hosts`: a web page that
//!   resolves a name of its own to this address (DNS rebinding) gets nothing. An `Origin` must be
//!   that same host.
//! - A browser sends in `Sec-Fetch-Site` which page makes the request. Pages of other sites, and of
//!   other ports of this host, may only link here. Otherwise an `<iframe>` of any page, which sends
//!   no `Origin`, could hold event streams open.
//! - Changes need a token, and off loopback every GET does. On loopback without a token file a
//!   change is allowed, unless `local_changes` is false; its actor is then [`LOCAL`]. The page
//!   sends its token in a cookie (`session`); a change by cookie needs an `Origin`, which every
//!   browser sends.
//! - livez, readyz and metrics are open to every peer under every Host: probes and scrapers choose
//!   the host name freely.
//! - Signing in is open to every peer, under the accepted hosts. The page holds no data, so it is
//!   sent with a 401 as well, and asks for the token.
//!
//! Invariants: unproven claims are refused (an unknown peer is not on loopback). The tokens are
//! those of the plan in force (`domain::tokens`). So a token file that `check` refuses admits no
//! one, and a removed token is invalid as soon as the reload is in force.

use super::dto::{ErrorBody, SessionBody};
use super::{page, session};
use crate::domain::config;
use crate::domain::tokens::Tokens;
use arc_swap::ArcSwap;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The actor of a change that needed no token.
pub const LOCAL: &str = "local";

/// Paths that are open to every peer under every Host.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// The last segment of `/api/v1/releases/R/...`: each of them changes something.
const CHANGES: [&str; 2] = ["rollback", "resume"];

/// The actor, for the ledger: the name of the token, or [`LOCAL`]. In the extensions of every
/// admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub String);

/// The settings of the checks; a reload may replace them while requests run.
pub struct AuthState(ArcSwap<Access>);

#[derive(PartialEq)]
struct Access {
    hosts: Vec<String>,
    tokens: Option<Tokens>,
    local_changes: bool,
}

impl AuthState {
    pub fn new(admin: &config::Admin) -> Self {
        AuthState(ArcSwap::from_pointee(Access::new(admin)))
    }

    /// The name of the token's owner.
    pub(super) fn owner(&self, token: &[u8]) -> Result<String, AccessRefused> {
        owner(&self.0.load(), token)
    }

    /// The actor and the need for a token, for the page.
    pub(super) fn session(&self, parts: &Parts) -> SessionBody {
        let access = self.0.load_full();
        let need = need(&access, parts, WantedAccess::Change);
        let actor = identify(&access, parts, need).ok().map(|Actor(name)| name);
        SessionBody { actor, token_needed: need != NeededAccess::Nothing }
    }

    /// Puts `admin` into force. Returns whether that admits other requests than before.
    #[must_use]
    pub fn replace(&self, admin: &config::Admin) -> bool {
        let access = Access::new(admin);
        let differs = **self.0.load() != access;
        self.0.store(Arc::new(access));
        differs
    }
}

impl Access {
    fn new(admin: &config::Admin) -> Self {
        Access {
            hosts: admin.hosts.clone(),
            tokens: admin.tokens.clone(),
            local_changes: admin.local_changes,
        }
    }
}

/// The middleware: `Router::layer(axum::middleware::from_fn_with_state(state, guard))`, outermost.
/// `admin::serve` puts the peer's address into the extensions, as [`ConnectInfo`]; without it every
/// peer counts as remote.
pub async fn guard(State(state): State<Arc<AuthState>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let access = state.0.load_full();
    match admit(&access, &parts) {
        Ok(actor) => {
            parts.extensions.insert(actor);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => {
            let is_page = parts.uri.path() == "/" && parts.method == Method::GET;
            let mut response = refusal.into_response();
            if is_page && response.status() == StatusCode::UNAUTHORIZED {
                page::as_answer(&mut response);
            }
            response
        }
    }
}

fn admit(access: &Access, parts: &Parts) -> Result<Actor, AccessRefused> {
    let path = parts.uri.path();
    if !OPEN.contains(&path) {
        host_is_ours(&access.hosts, parts)?;
    }
    origin_is_ours(parts)?;
    page_is_ours(parts)?;
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    let wish = if reads && !PRIVATE.contains(&path) { WantedAccess::Read } else { WantedAccess::Change };
    if reads && changes(path) {
        return Err(AccessRefused::MustBePost);
    }
    let actor = if (reads && OPEN.contains(&path)) || (!reads && path == session::PATH) {
        Actor(LOCAL.to_owned())
    } else {
        let need = need(access, parts, wish);
        identify(access, parts, need)?
    };
    if parts.method == Method::POST && !is_json(&parts.headers) {
        return Err(AccessRefused::NotJson);
    }
    Ok(actor)
}

/// Paths that list users, or confirm a guess: they need a token, as a change does.
const PRIVATE: [&str; 2] = ["/api/v1/failed", "/api/v1/ledger/hashed"];

fn changes(path: &str) -> bool {
    path.strip_prefix("/api/v1/releases/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(_, verb)| CHANGES.contains(&verb))
}

#[derive(Clone, Copy)]
enum WantedAccess {
    Read,
    /// Or a request that lists users.
    Change,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum NeededAccess {
    Token,
    Nothing,
    /// There is no token file, and `local_changes` is false.
    NoLocalChanges,
}

fn need(access: &Access, parts: &Parts, wish: WantedAccess) -> NeededAccess {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let near = peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback());
    match wish {
        _ if !near => NeededAccess::Token,
        WantedAccess::Change if access.tokens.is_some() => NeededAccess::Token,
        WantedAccess::Change if !access.local_changes => NeededAccess::NoLocalChanges,
        WantedAccess::Change | WantedAccess::Read => NeededAccess::Nothing,
    }
}

fn identify(access: &Access, parts: &Parts, need: NeededAccess) -> Result<Actor, AccessRefused> {
    match need {
        NeededAccess::Nothing => return Ok(Actor(LOCAL.to_owned())),
        NeededAccess::NoLocalChanges => return Err(AccessRefused::NoLocalChanges),
        NeededAccess::Token => {}
    }
    let sent = match bearer(&parts.headers) {
        Some(token) => token.to_owned(),
        None => {
            let token = session::token(&parts.headers, port_named(parts)).ok_or(match access.tokens {
                Some(_) => AccessRefused::TokenNeeded,
                None => AccessRefused::NoTokensKnown,
            })?;
            let reads = matches!(parts.method, Method::GET | Method::HEAD);
            if !reads && !parts.headers.contains_key(header::ORIGIN) {
                return Err(AccessRefused::OriginMissing);
            }
            token
        }
    };
    owner(access, &sent).map(Actor)
}

fn owner(access: &Access, sent: &[u8]) -> Result<String, AccessRefused> {
    let tokens = access.tokens.as_ref().ok_or(match access.local_changes {
        true => AccessRefused::NoTokensKnown,
        false => AccessRefused::NoLocalChanges,
    })?;
    tokens.name_of(sent).map(str::to_owned).ok_or(AccessRefused::TokenUnknown)
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = only(headers, header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(7)?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = only(headers, header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    let essence = value.split(';').next().unwrap_or("");
    essence.trim().eq_ignore_ascii_case("application/json")
}

/// The value of a header that occurs exactly once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// The port in the client's request; `None`: the default one.
pub(super) fn port_named(parts: &Parts) -> Option<u16> {
    named(parts)?.port_u16()
}

/// The host in the client's request: the Host header, or the authority of HTTP/2 and of the
/// absolute form; if both are there they must be equal.
fn named(parts: &Parts) -> Option<Authority> {
    let host = match parts.headers.contains_key(header::HOST) {
        true => Some(only(&parts.headers, header::HOST)?.to_str().ok()?.parse::<Authority>().ok()?),
        false => None,
    };
    let named = match (host, parts.uri.authority().cloned()) {
        (Some(host), Some(authority)) => (host == authority).then_some(host)?,
        (host, authority) => host.or(authority)?,
    };
    (!named.as_str().contains('@')).then_some(named)
}

fn host_is_ours(hosts: &[String], parts: &Parts) -> Result<(), AccessRefused> {
    let named = named(parts).ok_or(AccessRefused::HostMissing)?;
    let host = named.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let known = host.parse::<IpAddr>().is_ok() || host == "localhost" || hosts.contains(&host);
    if known { Ok(()) } else { Err(AccessRefused::HostForeign(host)) }
}

fn origin_is_ours(parts: &Parts) -> Result<(), AccessRefused> {
    if !parts.headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let ours = || {
        let origin = only(&parts.headers, header::ORIGIN)?.to_str().ok()?;
        let (scheme, rest) = origin.split_once("://")?;
        let default_port = match scheme {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let origin = rest.parse::<Authority>().ok()?;
        let named = named(parts)?;
        let place = |a: &Authority| (a.host().to_ascii_lowercase(), a.port_u16().unwrap_or(default_port));
        (!origin.as_str().contains('@') && place(&origin) == place(&named)).then_some(())
    };
    ours().ok_or(AccessRefused::OriginForeign)
}

/// Fetch Metadata (W3C): only browsers send it, and scripts cannot set it. A user may follow a
/// link.
fn page_is_ours(parts: &Parts) -> Result<(), AccessRefused> {
    let Some(site) = parts.headers.get("sec-fetch-site") else { return Ok(()) };
    let says = |name: &str, value: &str| parts.headers.get(name).is_some_and(|v| v == value);
    let link = parts.method == Method::GET
        && says("sec-fetch-mode", "navigate")
        && says("sec-fetch-dest", "document");
    let ours = site == "same-origin" || site == "none";
    if ours || link || OPEN.contains(&parts.uri.path()) { Ok(()) } else { Err(AccessRefused::OriginForeign) }
}

/// Why a request was refused. The texts never contain a token, or the token file's place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AccessRefused {
    #[error("the request does not say, once and clearly, which host it means")]
    HostMissing,
    #[error("the host `{0}` is not one of this server's")]
    HostForeign(String),
    #[error("requests from pages of other sites are refused")]
    OriginForeign,
    #[error("a change by the page's cookie needs an Origin")]
    OriginMissing,
    #[error("GET changes nothing here")]
    MustBePost,
    #[error("this needs a token")]
    TokenNeeded,
    #[error("the token is not known")]
    TokenUnknown,
    #[error("this needs a token, and no token file is configured")]
    NoTokensKnown,
    #[error("no change is taken here: `local_changes` is false, and no token file is configured")]
    NoLocalChanges,
    #[error("a change needs a JSON body")]
    NotJson,
}

impl AccessRefused {
    fn status(&self) -> StatusCode {
        match self {
            AccessRefused::HostMissing
            | AccessRefused::HostForeign(_)
            | AccessRefused::OriginForeign
            | AccessRefused::OriginMissing
            | AccessRefused::NoLocalChanges => StatusCode::FORBIDDEN,
            AccessRefused::MustBePost => StatusCode::METHOD_NOT_ALLOWED,
            AccessRefused::TokenNeeded | AccessRefused::TokenUnknown | AccessRefused::NoTokensKnown => {
                StatusCode::UNAUTHORIZED
            }
            AccessRefused::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    fn hint(&self) -> String {
        match self {
            AccessRefused::HostMissing => "send one Host header".into(),
            AccessRefused::HostForeign(host) => {
                format!("use an IP address or localhost, or add \"{host}\" to `hosts` under [admin]")
            }
            AccessRefused::OriginMissing => "outside a browser send `Authorization: Bearer TOKEN`".into(),
            AccessRefused::OriginForeign => "open the page under the address of this server itself".into(),
            AccessRefused::MustBePost => {
                "send POST with content-type application/json and {\"reason\": \"...\"}".into()
            }
            AccessRefused::TokenNeeded | AccessRefused::TokenUnknown => {
                "send `Authorization: Bearer TOKEN`; on the command line: --token-file FILE".into()
            }
            AccessRefused::NoTokensKnown => "set `token_file` under [admin]; its lines are `NAME TOKEN`".into(),
            AccessRefused::NoLocalChanges => {
                "create `grayling.stop` beside the config file to put every release at 0%, or set `token_file` under [admin]; \
                 its lines are `NAME TOKEN`"
                    .into()
            }
            AccessRefused::NotJson => "send content-type application/json and {\"reason\": \"...\"}".into(),
        }
    }
}

impl IntoResponse for AccessRefused {
    fn into_response(self) -> Response {
        let mut response = refuse(self.status(), self.to_string(), Some(self.hint()));
        let headers = response.headers_mut();
        match self.status() {
            StatusCode::UNAUTHORIZED => {
                headers
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"grayling\""));
            }
            StatusCode::METHOD_NOT_ALLOWED => {
                headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
            }
            _ => {}
        }
        response
    }
}

/// An error response, in the common format.
pub fn refuse(status: StatusCode, error: impl Into<String>, hint: Option<String>) -> Response {
    (status, axum::Json(ErrorBody { error: error.into(), hint })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::{get, post};
    use axum::{Extension, Router};
    use tower::ServiceExt;

    const NEAR: &str = "127.0.0.1:5000";
    const FAR: &str = "10.0.0.7:5000";
    const ALICE: &str = "s3cret-0123456789";
    const BOB: &str = "t0ken-0123456789";
    const TWO: &str = "# people\n\nalice  s3cret-0123456789\n  bob\tt0ken-0123456789 \n";

    fn router(state: Arc<AuthState>) -> Router {
        let actor = |Extension(Actor(name)): Extension<Actor>| async move { name };
        Router::new()
            .route("/livez", get(actor))
            .route("/readyz", get(actor))
            .route("/metrics", get(actor))
            .route("/api/v1/status", get(actor))
            .route("/api/v1/events", get(actor))
            .route("/api/v1/failed", get(actor))
            .route("/api/v1/releases/{release}/rollback", post(actor))
            .layer(axum::middleware::from_fn_with_state(state, guard))
    }

    fn admin(tokens: Option<&str>) -> config::Admin {
        let tokens = tokens.map(|text| Tokens::parse(text.as_bytes()).unwrap());
        config::Admin { tokens, hosts: vec!["gray.example.com".to_owned()], local_changes: true }
    }

    fn state(tokens: Option<&str>) -> Arc<AuthState> {
        Arc::new(AuthState::new(&admin(tokens)))
    }

    /// `method path`, then headers as lines.
    fn request(peer: &str, text: &str) -> Request {
        let mut lines = text.lines();
        let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
        let mut request = axum::http::Request::builder().method(method).uri(path);
        for (name, value) in lines.filter_map(|l| l.split_once(": ")) {
            request = request.header(name, value);
        }
        let peer: SocketAddr = peer.parse().unwrap();
        request.extension(ConnectInfo(peer)).body(Body::empty()).unwrap()
    }

    async fn ask(state: &Arc<AuthState>, request: Request) -> (u16, HeaderMap, String) {
        let answer = router(state.clone()).oneshot(request).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn expect(state: &Arc<AuthState>, peer: &str, text: &str, status: u16) -> String {
        let (found, _, body) = ask(state, request(peer, text)).await;
        assert_eq!(found, status, "{peer}: {text}\n{body}");
        if !(200..300).contains(&status) {
            let told: ErrorBody = serde_json::from_str(&body).unwrap();
            assert!(told.hint.is_some(), "{body}");
        }
        body
    }

    #[tokio::test]
    async fn a_host_must_be_an_address_or_localhost_or_listed() {
        let state = state(None);
        for (host, status) in [
            ("127.0.0.1:9900", 200),
            ("127.0.0.1", 200),
            ("[::1]:9900", 200),
            ("192.168.7.7:9900", 200),
            ("localhost:9900", 200),
            ("LocalHost", 200),
            ("gray.example.com:9900", 200),
            ("Gray.Example.Com", 200),
            ("evil.example.com:9900", 403),
            ("localhost.evil.example.com", 403),
            ("127.0.0.1.evil.example.com", 403),
            ("gray.example.com@evil.example.com", 403),
            ("evil.example.com@localhost", 403),
            ("", 403),
            ("not a host", 403),
        ] {
            expect(&state, NEAR, &format!("GET /api/v1/status\nhost: {host}"), status).await;
            for open in OPEN {
                expect(&state, NEAR, &format!("GET {open}\nhost: {host}"), 200).await;
            }
        }
        expect(&state, NEAR, "GET /api/v1/status", 403).await;
        expect(&state, NEAR, "GET /api/v1/status\nhost: localhost\nhost: localhost", 403).await;
        expect(&state, NEAR, "GET http://localhost/api/v1/status", 200).await;
        expect(&state, NEAR, "GET http://evil.example.com/api/v1/status", 403).await;
        expect(&state, NEAR, "GET http://localhost/api/v1/status\nhost: evil.example.com", 403).await;
        expect(&state, NEAR, "GET http://evil.example.com/api/v1/status\nhost: localhost", 403).await;
    }

    #[tokio::test]
    async fn an_origin_must_be_the_host_itself() {
        let state = state(None);
        for (host, origin, status) in [
            ("localhost:9900", "http://localhost:9900", 200),
            ("LOCALHOST:9900", "http://localhost:9900", 200),
            ("localhost", "http://localhost", 200),
            ("localhost:80", "http://localhost", 200),
            ("gray.example.com", "https://gray.example.com", 200),
            ("localhost:9900", "http://localhost:8080", 403),
            ("localhost:9900", "http://localhost", 403),
            ("localhost:9900", "http://127.0.0.1:9900", 403),
            ("localhost:9900", "http://evil.example.com", 403),
            ("localhost:9900", "http://x@localhost:9900", 403),
            ("localhost:9900", "null", 403),
            ("localhost:9900", "", 403),
            ("localhost:9900", "file://localhost:9900", 403),
        ] {
            let read = format!("GET /api/v1/status\nhost: {host}\norigin: {origin}");
            expect(&state, NEAR, &read, status).await;
            let change = format!(
                "POST /api/v1/releases/a/rollback\nhost: {host}\norigin: {origin}\ncontent-type: application/json"
            );
            expect(&state, NEAR, &change, status).await;
        }
        let twice = "GET /api/v1/status\nhost: localhost\norigin: http://localhost\norigin: http://localhost";
        expect(&state, NEAR, twice, 403).await;
    }

    #[tokio::test]
    async fn a_get_on_a_changing_path_is_405_and_allows_post() {
        let state = state(None);
        for (method, status) in [("GET", 405), ("HEAD", 405), ("POST", 200)] {
            let text = format!(
                "{method} /api/v1/releases/a/rollback\nhost: localhost\ncontent-type: application/json"
            );
            let (found, headers, _) = ask(&state, request(NEAR, &text)).await;
            assert_eq!(found, status, "{method}");
            assert_eq!(headers.contains_key("allow"), status == 405, "{method}");
        }
    }

    #[tokio::test]
    async fn a_change_must_be_json() {
        let state = state(None);
        for (line, status) in [
            ("content-type: application/json", 200),
            ("content-type: Application/JSON; charset=utf-8", 200),
            ("content-type: text/plain", 415),
            ("content-type: application/x-www-form-urlencoded", 415),
            ("content-type: application/jsonp", 415),
            ("accept: application/json", 415),
        ] {
            let text = format!("POST /api/v1/releases/a/rollback\nhost: localhost\n{line}");
            expect(&state, NEAR, &text, status).await;
        }
    }

    #[tokio::test]
    async fn who_needs_a_token_and_who_is_the_actor() {
        let (without, with) = (state(None), state(Some(TWO)));
        let change = "POST /api/v1/releases/a/rollback\nhost: localhost\ncontent-type: application/json";
        let read = "GET /api/v1/status\nhost: localhost";
        for (state, peer, text, authorization, status, actor) in [
            // On loopback: reads are free, and so are changes while no token file is configured.
            (&without, NEAR, read, "", 200, LOCAL),
            (&without, NEAR, change, "", 200, LOCAL),
            (&with, NEAR, read, "", 200, LOCAL),
            (&with, NEAR, change, "", 401, ""),
            (&with, NEAR, change, "Bearer s3cret-0123456789", 200, "alice"),
            (&with, NEAR, change, "bearer t0ken-0123456789", 200, "bob"),
            (&with, NEAR, change, "Bearer s3cret-012345678", 401, ""),
            (&with, NEAR, change, "Bearer s3cret-0123456789x", 401, ""),
            (&with, NEAR, change, "Bearer alice s3cret-0123456789", 401, ""),
            (&with, NEAR, change, "Bearer ", 401, ""),
            (&with, NEAR, change, "Bearer people", 401, ""),
            (&with, NEAR, change, "Basic s3cret-0123456789", 401, ""),
            (&with, NEAR, change, "s3cret-0123456789", 401, ""),
            (&with, "[::1]:5", read, "", 200, LOCAL),
            (&with, "[::ffff:127.0.0.1]:5", read, "", 200, LOCAL),
            // Off loopback: all but the open paths need one.
            (&with, FAR, read, "", 401, ""),
            (&with, FAR, read, "Bearer s3cret-0123456789", 200, "alice"),
            (&with, FAR, change, "", 401, ""),
            (&with, FAR, change, "Bearer t0ken-0123456789", 200, "bob"),
            (&with, FAR, "GET /\nhost: localhost", "", 401, ""),
            (&with, FAR, "GET /livez", "", 200, LOCAL),
            (&with, FAR, "GET /readyz", "", 200, LOCAL),
            (&with, FAR, "GET /metrics", "", 200, LOCAL),
            (&with, FAR, "POST /livez\ncontent-type: application/json", "", 401, ""),
            (&without, FAR, read, "", 401, ""),
            (&without, FAR, read, "Bearer s3cret-0123456789", 401, ""),
            (&without, FAR, change, "", 401, ""),
        ] {
            let text = match authorization {
                "" => text.to_owned(),
                sent => format!("{text}\nauthorization: {sent}"),
            };
            let (found, headers, body) = ask(state, request(peer, &text)).await;
            assert_eq!(found, status, "{peer}: {text}\n{body}");
            assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{peer}: {text}");
            if status == 200 {
                assert_eq!(body, actor, "{peer}: {text}");
            }
            assert!(!body.contains("s3cret"), "{body}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_not_known_is_a_remote_one() {
        let mut anonymous = request(NEAR, "GET /api/v1/status\nhost: localhost");
        anonymous.extensions_mut().clear();
        assert_eq!(ask(&state(None), anonymous).await.0, 401);
    }

    #[tokio::test]
    async fn a_reload_changes_hosts_and_tokens() {
        let state = state(Some(TWO));
        let text = "GET /api/v1/status\nhost: other.example.com";
        let with =
            |token: &str| format!("GET /api/v1/status\nhost: localhost\nauthorization: Bearer {token}");
        expect(&state, NEAR, text, 403).await;
        expect(&state, FAR, &with(BOB), 200).await;
        let tokens = Tokens::parse(format!("alice {ALICE}").as_bytes()).ok();
        assert!(state.replace(&config::Admin {
            tokens,
            hosts: vec!["other.example.com".into()],
            local_changes: true
        }));
        expect(&state, NEAR, text, 200).await;
        expect(&state, NEAR, "GET /api/v1/status\nhost: gray.example.com", 403).await;
        expect(&state, FAR, &with(BOB), 401).await;
        expect(&state, FAR, &with(ALICE), 200).await;
    }

    #[tokio::test]
    async fn without_local_changes_and_tokens_nobody_changes_anything_and_is_told_what_is_left() {
        let state = Arc::new(AuthState::new(&config::Admin { local_changes: false, ..admin(None) }));
        let change = "POST /api/v1/releases/a/rollback\nhost: localhost\ncontent-type: application/json";
        let json = |body: String| serde_json::from_str::<ErrorBody>(&body).unwrap().hint.unwrap();
        for text in [change.to_owned(), "GET /api/v1/failed\nhost: localhost".to_owned()] {
            let hint = json(expect(&state, NEAR, &text, 403).await);
            assert!(hint.contains("grayling.stop") && hint.contains("token_file"), "{hint}");
        }
        expect(&state, NEAR, "GET /api/v1/status\nhost: localhost", 200).await;
        expect(&state, FAR, change, 401).await;
        // With tokens the setting has no further effect.
        assert!(state.replace(&config::Admin { local_changes: false, ..admin(Some(TWO)) }));
        expect(&state, NEAR, change, 401).await;
        expect(&state, NEAR, &format!("{change}\nauthorization: Bearer {ALICE}"), 200).await;
    }

    #[tokio::test]
    async fn pages_of_other_sites_and_ports_may_link_here_and_nothing_more() {
        let state = state(None);
        let read = "GET /api/v1/events\nhost: localhost:9900";
        let json = "content-type: application/json";
        let change = format!("POST /api/v1/releases/a/rollback\nhost: localhost:9900\n{json}");
        for (site, mode, dest, reads, changes) in [
            ("same-origin", "cors", "empty", 200, 200),
            ("none", "navigate", "document", 200, 200),
            ("cross-site", "no-cors", "image", 403, 403),
            ("same-site", "no-cors", "script", 403, 403),
            ("cross-site", "cors", "empty", 403, 403),
            ("cross-site", "navigate", "iframe", 403, 403),
            ("cross-site", "navigate", "document", 200, 403),
            ("", "", "", 403, 403),
        ] {
            let lines = format!("sec-fetch-site: {site}\nsec-fetch-mode: {mode}\nsec-fetch-dest: {dest}");
            expect(&state, NEAR, &format!("{read}\n{lines}"), reads).await;
            expect(&state, NEAR, &format!("{change}\n{lines}"), changes).await;
            for open in OPEN {
                expect(&state, NEAR, &format!("GET {open}\nhost: localhost:9900\n{lines}"), 200).await;
            }
        }
    }
}
