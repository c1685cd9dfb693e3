//! The response of the proxy itself: a short JSON body, in which nothing comes from the request.

use super::error::{RequestError, Source};
use super::response_body::ResponseBody;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// The response that tells a client of an error.
pub fn error_response(error: RequestError) -> Response<ResponseBody> {
    let (status, text) = (error.status(), error.text());
    let mut response = Response::new(ResponseBody::text(format!("{{\"error\":\"{text}\"}}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        // RFC 9110 §15.5.6.
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    if error.source() == Source::Client {
        // After a request that could not be read reliably, nothing more is read (RFC 9112 §9.6).
        // HTTP/2 has no such field: there hyper removes it.
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
