//! The page's token: entered once, then kept by the browser in a cookie that no script can read.
//!
//! The cookie holds the token itself, so a token removed from the token file is invalid at once, in
//! every browser. All ports of a host share cookies, so the cookie's name contains the port: two
//! proxies on one machine do not sign each other's users out.
//!
//! Invariants: `SameSite=Strict` (pages of other sites do not send it), `HttpOnly`, and `Secure` if
//! the page came over https. A change by cookie needs an `Origin` as well (see `auth`).

use super::auth::{AuthState, port_named, refuse};
use super::dto;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::sync::Arc;

pub const PATH: &str = "/api/v1/session";
/// Thirty days.
const AGE_MAX_S: u32 = 30 * 24 * 60 * 60;

/// The token in the cookie of the server at `port`.
pub fn token(headers: &HeaderMap, port: Option<u16>) -> Option<Vec<u8>> {
    let name = cookie_name(port);
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
    let mut pairs = pairs.flat_map(|v| v.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(n, _)| *n == name)?;
    URL_SAFE_NO_PAD.decode(value).ok().filter(|token| !token.is_empty())
}

fn cookie_name(port: Option<u16>) -> String {
    match port {
        Some(port) => format!("grayling-{port}"),
        None => "grayling".to_owned(),
    }
}

/// An empty `value` deletes the cookie.
fn cookie(parts: &Parts, value: &str) -> Option<HeaderValue> {
    let age = if value.is_empty() { 0 } else { AGE_MAX_S };
    // Only the browser knows the page's scheme. It is in Origin, which was compared with Host.
    let https = parts.headers.get(header::ORIGIN).is_some_and(|o| o.as_bytes().starts_with(b"https://"));
    let secure = if https { "; Secure" } else { "" };
    let name = cookie_name(port_named(parts));
    let text = format!("{name}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).ok()
}

/// Returns the page's actor, and whether a change needs a token.
pub async fn show(Extension(auth): Extension<Arc<AuthState>>, request: Request) -> Json<dto::SessionBody> {
    let (parts, _) = request.into_parts();
    Json(auth.session(&parts))
}

/// Signs in: `{"token": "..."}`.
pub async fn begin(Extension(auth): Extension<Arc<AuthState>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body =
        Json::<dto::JsonObject<dto::SignIn>>::from_request(Request::from_parts(parts.clone(), body), &())
            .await;
    let sent = match body {
        Ok(Json(dto::JsonObject(dto::SignIn { token }))) => token.trim().as_bytes().to_vec(),
        Err(fault) => {
            let hint = Some("{\"token\": \"...\"}".to_owned());
            return refuse(StatusCode::BAD_REQUEST, fault.body_text(), hint);
        }
    };
    match auth.owner(&sent) {
        Ok(actor) => {
            let answer = Json(dto::SessionBody { actor: Some(actor), token_needed: true });
            let value = URL_SAFE_NO_PAD.encode(&sent);
            with_cookie(answer.into_response(), cookie(&parts, &value))
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// Signs out.
pub async fn end(request: Request) -> Response {
    let (parts, _) = request.into_parts();
    with_cookie(StatusCode::NO_CONTENT.into_response(), cookie(&parts, ""))
}

fn with_cookie(mut answer: Response, cookie: Option<HeaderValue>) -> Response {
    if let Some(cookie) = cookie {
        answer.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::auth::{Actor, guard};
    use crate::domain::config;
    use crate::domain::tokens::Tokens;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::ConnectInfo;
    use axum::routing::{get, post};
    use std::net::SocketAddr;
    use tower::ServiceExt;

    const NEAR: &str = "127.0.0.1:5000";
    const FAR: &str = "10.0.0.7:5000";
    const TOKEN: &str = "k9 is=not;a token-of-any-length"; // with characters that a cookie cannot hold, except blanks

    struct Server {
        router: Router,
        auth: Arc<AuthState>,
    }

    fn admin(text: &str) -> config::Admin {
        config::Admin { tokens: Tokens::parse(text.as_bytes()).ok(), hosts: vec![], local_changes: true }
    }

    impl Server {
        fn new() -> Server {
            let auth = Arc::new(AuthState::new(&admin(&format!("alice {}\n", token_text()))));
            let actor = |Extension(Actor(name)): Extension<Actor>| async move { name };
            let router = Router::new()
                .route("/", get(actor))
                .route("/api/v1/status", get(actor))
                .route("/api/v1/releases/{release}/rollback", post(actor))
                .route(PATH, get(show).post(begin).delete(end))
                .layer(Extension(auth.clone()))
                .layer(axum::middleware::from_fn_with_state(auth.clone(), guard));
            Server { router, auth }
        }

        /// `method path`, then headers as lines; a body after an empty one.
        async fn ask(&self, peer: &str, text: &str) -> (u16, Option<String>, String) {
            let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
            let mut lines = head.lines();
            let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
            let mut request = axum::http::Request::builder().method(method).uri(path);
            for (name, value) in lines.filter_map(|l| l.split_once(": ")) {
                request = request.header(name, value);
            }
            let peer: SocketAddr = peer.parse().unwrap();
            let request = request.extension(ConnectInfo(peer)).body(Body::from(body.to_owned())).unwrap();
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let cookie = answer.headers().get(header::SET_COOKIE).map(|v| v.to_str().unwrap().to_owned());
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, cookie, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn signs_in(&self, peer: &str, origin: &str, token: &str) -> (u16, Option<String>) {
            let host = origin.split_once("://").unwrap().1;
            let head = format!("POST {PATH}\nhost: {host}\norigin: {origin}\ncontent-type: application/json");
            let body = serde_json::json!({ "token": token }).to_string();
            let (status, cookie, _) = self.ask(peer, &format!("{head}\n\n{body}")).await;
            (status, cookie)
        }
    }

    fn token_text() -> String {
        TOKEN.replace(' ', "")
    }

    #[tokio::test]
    async fn a_token_is_kept_in_a_strict_cookie_of_this_port_that_no_script_reads() {
        let server = Server::new();
        let (status, cookie) = server.signs_in(FAR, "http://10.0.0.1:9900", &token_text()).await;
        let value = URL_SAFE_NO_PAD.encode(token_text());
        let expected = format!("grayling-9900={value}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
        assert_eq!((status, cookie.as_deref()), (200, Some(expected.as_str())));
        let (_, cookie) = server.signs_in(FAR, "https://10.0.0.1", &token_text()).await;
        let cookie = cookie.unwrap();
        assert!(cookie.starts_with("grayling=") && cookie.ends_with("; Secure"), "{cookie}");
        for wrong in ["", "alice", "k9is=not;atoken-of-any-lengt", "k9is=not;atoken-of-any-length2"] {
            assert_eq!(server.signs_in(FAR, "http://10.0.0.1:9900", wrong).await, (401, None), "{wrong:?}");
        }
        let out = format!("DELETE {PATH}\nhost: 10.0.0.1:9900\norigin: http://10.0.0.1:9900");
        let (status, cookie, _) = server.ask(FAR, &out).await;
        assert_eq!(status, 204);
        assert!(cookie.unwrap().starts_with("grayling-9900=; Path=/; Max-Age=0;"));
    }

    #[tokio::test]
    async fn the_cookie_opens_what_the_token_does_until_the_token_is_gone() {
        let server = Server::new();
        let value = URL_SAFE_NO_PAD.encode(token_text());
        let host = "host: 10.0.0.1:9900";
        let cookie = format!("cookie: theme=dark; grayling-9900={value}");
        let read = format!("GET /api/v1/status\n{host}\n{cookie}");
        assert_eq!(server.ask(FAR, &read).await.0, 200);
        assert_eq!(server.ask(FAR, &read).await.2, "alice");
        let json = "content-type: application/json";
        let change = format!("POST /api/v1/releases/r/rollback\n{host}\n{cookie}\n{json}");
        let ours = format!("{change}\norigin: http://10.0.0.1:9900");
        assert_eq!((server.ask(FAR, &ours).await.0, server.ask(NEAR, &ours).await.0), (200, 200));
        let foreign = format!("{change}\norigin: http://10.0.0.1:8080");
        assert_eq!(server.ask(FAR, &change).await.0, 403, "a change by cookie without an Origin");
        assert_eq!(server.ask(FAR, &foreign).await.0, 403, "another port of the same host is another place");
        let elsewhere = read.replace("grayling-9900=", "grayling-9901=");
        assert_eq!(server.ask(FAR, &elsewhere).await.0, 401, "the cookie of another port");
        assert!(server.auth.replace(&admin("bob another-token-entirely\n")));
        assert_eq!((server.ask(FAR, &read).await.0, server.ask(FAR, &ours).await.0), (401, 401));
    }

    #[tokio::test]
    async fn signing_in_is_open_and_the_page_asks_for_it() {
        let server = Server::new();
        let host = "host: 10.0.0.1:9900";
        let (status, _, body) = server.ask(FAR, &format!("GET /\n{host}")).await;
        assert!(status == 401 && body.starts_with("<!doctype html>"), "it asks for the token: {body}");
        assert_eq!(server.ask(NEAR, &format!("GET /\n{host}")).await.0, 200);
        assert!(server.ask(FAR, "GET /api/v1/status\nhost: 10.0.0.1:9900").await.2.starts_with('{'));
        assert_eq!(server.ask(FAR, "GET /\nhost: evil.example").await.0, 403);
        assert_eq!(server.ask(FAR, &format!("GET {PATH}\n{host}")).await.0, 401);
        assert_eq!(server.ask(FAR, &format!("POST /\n{host}\ncontent-type: application/json")).await.0, 401);
        let plain = format!("POST {PATH}\n{host}\ncontent-type: text/plain\n\n{{}}");
        assert_eq!(server.ask(FAR, &plain).await.0, 415, "what another page's form could send");
        let foreign = format!("DELETE {PATH}\n{host}\norigin: http://evil.example");
        assert_eq!(server.ask(FAR, &foreign).await.0, 403);
        let near = server.ask(NEAR, &format!("GET {PATH}\nhost: localhost:9900")).await;
        assert_eq!((near.0, near.2.as_str()), (200, r#"{"actor":null,"token_needed":true}"#));
    }
}
