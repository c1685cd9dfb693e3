//! The page's token: asked for once, then kept by the browser in a cookie that no script can read.
//!
//! The cookie holds the token itself, so a token that leaves the token file is worth nothing from then on, wherever it is kept. Cookies are
//! shared by all ports of a host, so its name has the port: two proxies on one machine do not sign each other's users out.
//!
//! Invariants: strict (no other site's page makes the browser send it), http-only, only for the API's paths, `Secure` where the page came over https; a
//! change by cookie needs an `Origin` as well (see `auth`).

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

/// `value` empty: forget it.
fn cookie(parts: &Parts, value: &str) -> Option<HeaderValue> {
    let age = if value.is_empty() { 0 } else { AGE_MAX_S };
    // Only the browser knows how the page came; it says so in Origin, which was held against Host.
    let https = parts.headers.get(header::ORIGIN).is_some_and(|o| o.as_bytes().starts_with(b"https://"));
    let secure = if https { "; Secure" } else { "" };
    let name = cookie_name(port_named(parts));
    let text = format!("{name}={value}; Path=/api/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).ok()
}

/// Who the page speaks for, and whether a change needs a token.
pub async fn show(Extension(auth): Extension<Arc<AuthState>>, request: Request) -> Json<dto::Session> {
    let (parts, _) = request.into_parts();
    Json(auth.session(&parts).await)
}

/// Signs in: `{"token": "..."}`.
pub async fn begin(Extension(auth): Extension<Arc<AuthState>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = Json::<dto::SignIn>::from_request(Request::from_parts(parts.clone(), body), &()).await;
    let sent = match body {
        Ok(Json(dto::SignIn { token })) => token.trim().as_bytes().to_vec(),
        Err(fault) => {
            let hint = Some("{\"token\": \"...\"}".to_owned());
            return refuse(StatusCode::BAD_REQUEST, fault.body_text(), hint);
        }
    };
    match auth.owner(&sent).await {
        Ok(actor) => {
            let answer = Json(dto::Session { actor: Some(actor), token_needed: true });
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
