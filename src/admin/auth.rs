//! Who may ask the admin API what: Host, Origin, method, token and content type, in this order.
//!
//! - `Host` must be an IP literal, localhost, or listed in `[admin] hosts`: a web page that points a name of its own
//!   at this address (DNS rebinding) gets nothing. An `Origin` must be that same host.
//! - Changes need a token, and off loopback every GET does. On loopback without a token file a change is allowed;
//!   its actor is then [`LOCAL`]. The page sends it in a cookie (`session`); a change by cookie needs an `Origin`, which every browser sends.
//! - livez, readyz and metrics are open to every peer under every Host: probes and scrapers name the host as they like.
//! - Signing in is open to every peer, under our hosts; the page, which holds no data, comes with a 401 as well: it asks for the token.
//!
//! Invariants: what cannot be proven is refused (an unknown peer is not on loopback, an unreadable token file knows
//! nobody); tokens are compared in constant time; the token file is read anew for every request that needs it, so a
//! token removed from it is worth nothing from then on.

use super::dto::{ErrorBody, Session};
use super::{page, session};
use crate::domain::plan;
use arc_swap::ArcSwap;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts, uri::Authority};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The actor of a change that needed no token.
pub const LOCAL: &str = "local";

/// A token file larger than this is none.
const TOKEN_FILE_BYTES_MAX: u64 = 1 << 20;

/// Paths that are open to every peer under every Host.
const OPEN: [&str; 3] = ["/livez", "/readyz", "/metrics"];

/// The last part of `/api/v1/releases/R/...`: each of them changes something.
const CHANGES: [&str; 2] = ["rollback", "resume"];

/// Who asks, for the ledger: the name of the token, or [`LOCAL`]. In the extensions of every request that got through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(pub String);

/// What the checks need to know; a reload may change it while requests run.
pub struct AuthState(ArcSwap<Access>);

struct Access {
    hosts: Vec<String>,
    tokens: Option<TokenFile>,
}

impl AuthState {
    pub fn new(admin: &plan::Admin) -> Self {
        AuthState(ArcSwap::from_pointee(Access::of(admin)))
    }

    /// Whose token this is.
    pub(super) async fn owner(&self, token: &[u8]) -> Result<String, Refusal> {
        owner(&self.0.load_full(), token.to_owned()).await
    }

    /// Who asks, as far as a page wants to know.
    pub(super) async fn session(&self, parts: &Parts) -> Session {
        let access = self.0.load_full();
        match need(&access, parts, Wish::Change) {
            Need::Nothing => Session { actor: Some(LOCAL.to_owned()), token_needed: false },
            Need::Token => {
                let actor = identify(&access, parts, Need::Token).await.ok();
                Session { actor: actor.map(|Actor(name)| name), token_needed: true }
            }
        }
    }

    /// From now on `admin` is in force.
    pub fn replace(&self, admin: &plan::Admin) {
        self.0.store(Arc::new(Access::of(admin)));
    }
}

impl Access {
    fn of(admin: &plan::Admin) -> Self {
        Access { hosts: admin.hosts.clone(), tokens: admin.token_file.clone().map(TokenFile::new) }
    }
}

/// The middleware: `Router::layer(axum::middleware::from_fn_with_state(state, guard))`, outermost. The server must put
/// the peer's address into the extensions (`into_make_service_with_connect_info::<SocketAddr>()`); without it every
/// peer is taken for a remote one.
pub async fn guard(State(state): State<Arc<AuthState>>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let access = state.0.load_full();
    match admit(&access, &parts).await {
        Ok(actor) => {
            parts.extensions.insert(actor);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(refusal) => {
            let asks = parts.uri.path() == "/" && parts.method == Method::GET;
            let mut response = refusal.into_response();
            if asks && response.status() == StatusCode::UNAUTHORIZED {
                page::as_answer(&mut response);
            }
            response
        }
    }
}

async fn admit(access: &Access, parts: &Parts) -> Result<Actor, Refusal> {
    let path = parts.uri.path();
    if !OPEN.contains(&path) {
        host_is_ours(&access.hosts, parts)?;
    }
    origin_is_ours(parts)?;
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    let wish = if reads && !PRIVATE.contains(&path) { Wish::Read } else { Wish::Change };
    if reads && changes(path) {
        return Err(Refusal::MustBePost);
    }
    let actor = if (reads && OPEN.contains(&path)) || (!reads && path == session::PATH) {
        Actor(LOCAL.to_owned())
    } else {
        let need = need(access, parts, wish);
        identify(access, parts, need).await?
    };
    if parts.method == Method::POST && !is_json(&parts.headers) {
        return Err(Refusal::NotJson);
    }
    Ok(actor)
}

/// What names users, or tells whether a guess is right: a token is needed for it as for a change.
const PRIVATE: [&str; 2] = ["/api/v1/failed", "/api/v1/ledger/hashed"];

fn changes(path: &str) -> bool {
    path.strip_prefix("/api/v1/releases/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(_, verb)| CHANGES.contains(&verb))
}

#[derive(Clone, Copy)]
enum Wish {
    Read,
    /// Or what names users.
    Change,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Token,
    Nothing,
}

fn need(access: &Access, parts: &Parts, wish: Wish) -> Need {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let near = peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback());
    match wish {
        _ if !near => Need::Token,
        Wish::Change if access.tokens.is_some() => Need::Token,
        Wish::Change | Wish::Read => Need::Nothing,
    }
}

async fn identify(access: &Access, parts: &Parts, need: Need) -> Result<Actor, Refusal> {
    if need == Need::Nothing {
        return Ok(Actor(LOCAL.to_owned()));
    }
    let sent = match bearer(&parts.headers) {
        Some(token) => token.to_owned(),
        None => {
            let token = session::token(&parts.headers, port_named(parts)).ok_or(match access.tokens {
                Some(_) => Refusal::TokenNeeded,
                None => Refusal::NoTokensKnown,
            })?;
            let reads = matches!(parts.method, Method::GET | Method::HEAD);
            if !reads && !parts.headers.contains_key(header::ORIGIN) {
                return Err(Refusal::OriginMissing);
            }
            token
        }
    };
    owner(access, sent).await.map(Actor)
}

async fn owner(access: &Access, sent: Vec<u8>) -> Result<String, Refusal> {
    let tokens = access.tokens.clone().ok_or(Refusal::NoTokensKnown)?;
    // Read apart: a slow disk must not hold up who asks for /livez.
    let known = tokio::task::spawn_blocking(move || tokens.read()).await;
    let known = known.ok().and_then(Result::ok).ok_or(Refusal::TokenFileUnreadable)?;
    known.name_of(&sent).map(str::to_owned).ok_or(Refusal::TokenUnknown)
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

/// The value of a header that stands there exactly once.
fn only(headers: &HeaderMap, name: header::HeaderName) -> Option<&HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then_some(first)
}

/// The port that the client believes to talk to; none: the default one.
pub(super) fn port_named(parts: &Parts) -> Option<u16> {
    named(parts)?.port_u16()
}

/// Where the client believes to be: the Host header, or the authority of HTTP/2 and of the absolute form; if both are
/// there they must name the same.
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

fn host_is_ours(hosts: &[String], parts: &Parts) -> Result<(), Refusal> {
    let named = named(parts).ok_or(Refusal::HostMissing)?;
    let host = named.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let known = host.parse::<IpAddr>().is_ok() || host == "localhost" || hosts.contains(&host);
    if known { Ok(()) } else { Err(Refusal::HostForeign(host)) }
}

fn origin_is_ours(parts: &Parts) -> Result<(), Refusal> {
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
    ours().ok_or(Refusal::OriginForeign)
}

/// Why a request did not get through. The texts never quote a token, nor where the token file is.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
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
    #[error("the token file cannot be read, so nobody can be let in")]
    TokenFileUnreadable,
    #[error("a change needs a JSON body")]
    NotJson,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Refusal::HostMissing
            | Refusal::HostForeign(_)
            | Refusal::OriginForeign
            | Refusal::OriginMissing => StatusCode::FORBIDDEN,
            Refusal::MustBePost => StatusCode::METHOD_NOT_ALLOWED,
            Refusal::TokenNeeded | Refusal::TokenUnknown | Refusal::NoTokensKnown => StatusCode::UNAUTHORIZED,
            Refusal::TokenFileUnreadable => StatusCode::SERVICE_UNAVAILABLE,
            Refusal::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }

    fn hint(&self) -> String {
        match self {
            Refusal::HostMissing => "send one Host header".into(),
            Refusal::HostForeign(host) => {
                format!("use an IP address or localhost, or add \"{host}\" to `hosts` under [admin]")
            }
            Refusal::OriginMissing => "outside a browser send `Authorization: Bearer TOKEN`".into(),
            Refusal::OriginForeign => "open the page under the address of this server itself".into(),
            Refusal::MustBePost => {
                "send POST with content-type application/json and {\"reason\": \"...\"}".into()
            }
            Refusal::TokenNeeded | Refusal::TokenUnknown => {
                "send `Authorization: Bearer TOKEN`; on the command line: --token-file FILE".into()
            }
            Refusal::NoTokensKnown => "set `token_file` under [admin]; its lines are `name token`".into(),
            Refusal::TokenFileUnreadable => "make `token_file` of [admin] readable for the proxy".into(),
            Refusal::NotJson => "send content-type application/json and {\"reason\": \"...\"}".into(),
        }
    }
}

impl IntoResponse for Refusal {
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

/// An answer that is no success, in the one form that all of them have.
pub fn refuse(status: StatusCode, error: impl Into<String>, hint: Option<String>) -> Response {
    (status, axum::Json(ErrorBody { error: error.into(), hint })).into_response()
}

/// The file of `[admin] token_file`: lines `name token`, `#` begins a comment line.
#[derive(Debug, Clone)]
pub struct TokenFile(PathBuf);

/// What a token file says.
#[derive(Default)]
pub struct Tokens {
    known: Vec<(String, Vec<u8>)>,
    /// The lines that are neither `name token` nor a comment. They let nobody in; the others still hold.
    pub faults: Vec<String>,
}

impl TokenFile {
    pub fn new(path: PathBuf) -> Self {
        TokenFile(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it as it is now.
    pub fn read(&self) -> std::io::Result<Tokens> {
        let mut text = Vec::new();
        std::fs::File::open(&self.0)?.take(TOKEN_FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > TOKEN_FILE_BYTES_MAX {
            return Err(std::io::Error::other("it is larger than 1 MiB: not a token file"));
        }
        Ok(Tokens::parse(&text))
    }
}

impl Tokens {
    fn parse(text: &[u8]) -> Tokens {
        let mut tokens = Tokens::default();
        for (i, line) in text.split(|b| *b == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let mut words = line.split(u8::is_ascii_whitespace).filter(|w| !w.is_empty());
            let (name, token, rest) = (words.next(), words.next(), words.next());
            match (name.and_then(|n| std::str::from_utf8(n).ok()), token, rest) {
                (Some(name), Some(token), None) => tokens.known.push((name.to_owned(), token.to_owned())),
                // The line is not quoted: it may hold a secret.
                _ => tokens.faults.push(format!("line {}: not of the form `name token`", i + 1)),
            }
        }
        tokens
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whose token this is. Looks at every line, so that the time taken does not tell which one was near.
    fn name_of(&self, token: &[u8]) -> Option<&str> {
        let same = |(_, known): &&(String, Vec<u8>)| verify_slices_are_equal(known, token).is_ok();
        self.known.iter().filter(same).fold(None, |first, (name, _)| first.or(Some(name.as_str())))
    }
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

    fn router(state: Arc<AuthState>) -> Router {
        let actor = |Extension(Actor(name)): Extension<Actor>| async move { name };
        Router::new()
            .route("/livez", get(actor))
            .route("/readyz", get(actor))
            .route("/metrics", get(actor))
            .route("/api/v1/status", get(actor))
            .route("/api/v1/releases/{release}/rollback", post(actor))
            .layer(axum::middleware::from_fn_with_state(state, guard))
    }

    fn state(tokens: Option<&Path>) -> Arc<AuthState> {
        let hosts = vec!["gray.example.com".to_owned()];
        Arc::new(AuthState::new(&plan::Admin { token_file: tokens.map(Path::to_owned), hosts }))
    }

    fn file(name: &str, text: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("grayling-auth-{}-{name}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        path
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
        let tokens = file("table", "# people\n\nalice  s3cret\n  bob\tt0ken \n");
        let (without, with) = (state(None), state(Some(&tokens)));
        let change = "POST /api/v1/releases/a/rollback\nhost: localhost\ncontent-type: application/json";
        let read = "GET /api/v1/status\nhost: localhost";
        for (state, peer, text, authorization, status, actor) in [
            // On loopback: reads are free, changes are as long as no token file is configured.
            (&without, NEAR, read, "", 200, LOCAL),
            (&without, NEAR, change, "", 200, LOCAL),
            (&with, NEAR, read, "", 200, LOCAL),
            (&with, NEAR, change, "", 401, ""),
            (&with, NEAR, change, "Bearer s3cret", 200, "alice"),
            (&with, NEAR, change, "bearer t0ken", 200, "bob"),
            (&with, NEAR, change, "Bearer s3cre", 401, ""),
            (&with, NEAR, change, "Bearer s3cretx", 401, ""),
            (&with, NEAR, change, "Bearer alice s3cret", 401, ""),
            (&with, NEAR, change, "Bearer ", 401, ""),
            (&with, NEAR, change, "Bearer people", 401, ""),
            (&with, NEAR, change, "Basic s3cret", 401, ""),
            (&with, NEAR, change, "s3cret", 401, ""),
            (&with, "[::1]:5", read, "", 200, LOCAL),
            (&with, "[::ffff:127.0.0.1]:5", read, "", 200, LOCAL),
            // Off loopback: all but the open paths need one.
            (&with, FAR, read, "", 401, ""),
            (&with, FAR, read, "Bearer s3cret", 200, "alice"),
            (&with, FAR, change, "", 401, ""),
            (&with, FAR, change, "Bearer t0ken", 200, "bob"),
            (&with, FAR, "GET /\nhost: localhost", "", 401, ""),
            (&with, FAR, "GET /livez", "", 200, LOCAL),
            (&with, FAR, "GET /readyz", "", 200, LOCAL),
            (&with, FAR, "GET /metrics", "", 200, LOCAL),
            (&with, FAR, "POST /livez\ncontent-type: application/json", "", 401, ""),
            (&without, FAR, read, "", 401, ""),
            (&without, FAR, read, "Bearer s3cret", 401, ""),
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
        std::fs::remove_file(tokens).unwrap();
    }

    #[tokio::test]
    async fn a_peer_that_is_not_known_is_a_remote_one() {
        let mut anonymous = request(NEAR, "GET /api/v1/status\nhost: localhost");
        anonymous.extensions_mut().clear();
        assert_eq!(ask(&state(None), anonymous).await.0, 401);
    }

    #[tokio::test]
    async fn a_token_holds_from_when_it_is_in_the_file_until_it_is_not() {
        let path = file("changes", "alice one\n");
        let state = state(Some(&path));
        let with =
            |token: &str| format!("GET /api/v1/status\nhost: localhost\nauthorization: Bearer {token}");
        expect(&state, FAR, &with("one"), 200).await;
        expect(&state, FAR, &with("two"), 401).await;
        // A line with a fault lets nobody in and locks nobody out.
        std::fs::write(&path, "alice two\nhalf\n").unwrap();
        expect(&state, FAR, &with("one"), 401).await;
        expect(&state, FAR, &with("two"), 200).await;
        expect(&state, FAR, &with("half"), 401).await;
        std::fs::remove_file(&path).unwrap();
        expect(&state, FAR, &with("two"), 503).await;
    }

    #[tokio::test]
    async fn a_reload_changes_hosts_and_tokens() {
        let state = state(None);
        let text = "GET /api/v1/status\nhost: other.example.com";
        expect(&state, NEAR, text, 403).await;
        state.replace(&plan::Admin { token_file: None, hosts: vec!["other.example.com".into()] });
        expect(&state, NEAR, text, 200).await;
        expect(&state, NEAR, "GET /api/v1/status\nhost: gray.example.com", 403).await;
    }

    #[test]
    fn a_token_file_says_which_line_is_wrong_without_quoting_it() {
        let tokens = Tokens::parse(b"alice a\r\n# c\nsecret\nbob b c\n\xff\xfe x\ncarol c");
        assert_eq!(tokens.len(), 2);
        assert_eq!((tokens.name_of(b"a"), tokens.name_of(b"c")), (Some("alice"), Some("carol")));
        let lines: Vec<_> = tokens.faults.iter().map(|f| f.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 3", "line 4", "line 5"]);
        assert!(!tokens.faults.concat().contains("secret"));
    }
}
