//! The route of a request, by the host, the path and the method that it names.

use super::error::RequestError;
use super::path::Reading;
use crate::runtime::snapshot::Snapshot;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderValue, Method};

/// The route of the path's normal form. If a server may read another path, and a route with a path
/// is involved, the request is refused as ambiguous.
pub fn find_route(
    snapshot: &Snapshot,
    host: &str,
    reading: &Reading<'_>,
    method: &Method,
) -> Result<usize, RequestError> {
    let find = |path: &str| snapshot.table.find(host, path, method);
    let route = find(&reading.normal);
    if let Some(lenient) = &reading.lenient {
        let has_path = |route: Option<usize>| route.is_some_and(|r| snapshot.config.routes[r].path != "/");
        if has_path(route) || has_path(find(lenient)) {
            return Err(RequestError::BadRequest("an ambiguous path"));
        }
    }
    if reading.bare.as_deref().is_some_and(|bare| find(bare) != route) {
        return Err(RequestError::BadRequest("an ambiguous path"));
    }
    route.ok_or(RequestError::NoRoute)
}

/// The requested authority: of the target (HTTP/2, absolute form), else the Host.
pub fn requested_host(head: &Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => {
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            HeaderValue::from_str(host).ok()
        }
        None => head.headers.get(HOST).cloned(),
    }
}

/// Without the port.
pub fn host_name(authority: &str) -> &str {
    match authority.bytes().rposition(|byte| byte == b':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}
