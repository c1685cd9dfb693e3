//! The response for the client: of the upstream, or of the proxy itself.
//!
//! Invariants: no hop-by-hop field of an upstream reaches a client.
//! A response of the proxy is a short JSON body, in which nothing comes from the request.
//! For a gRPC call it is a gRPC status with a message.

use super::deadline::Deadlines;
use super::error::{ErrorForm, RequestError, Source};
use super::forward::{PreparedRequest, UpstreamResponse};
use super::headers::{self, X_GRAYLING_ARM};
use super::response_body::ResponseBody;
use super::result_code::{Readable, Reader};
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, TRAILER};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::Body;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

const GRPC_MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Responds with what was forwarded, or with the error that ends the record.
pub fn respond(
    prepared: PreparedRequest,
    forwarded: Result<UpstreamResponse, RequestError>,
) -> Response<ResponseBody> {
    match forwarded {
        Ok(upstream_response) => pass_on(prepared, upstream_response),
        Err(error) => {
            let mut record = prepared.record;
            let form = record.error_form();
            record.end_with_own_response(error, form);
            error_response(error, form)
        }
    }
}

/// The upstream's response. Its body carries the record to its end.
fn pass_on(prepared: PreparedRequest, upstream_response: UpstreamResponse) -> Response<ResponseBody> {
    let PreparedRequest { mut record, upstream, upgrade, announces_trailers, .. } = prepared;
    let UpstreamResponse { response, lease, arrived: now } = upstream_response;
    let took = record.body_state().upstream_waits_since().map(|since| now.saturating_sub(since));
    record.record_head(response.status(), response.headers(), took, now);
    if let Some(upgrade) = upgrade.filter(|_| response.status() == StatusCode::SWITCHING_PROTOCOLS) {
        return upgrade.complete(record, response, lease, now);
    }
    let whole = upstream.config.total_timeout;
    let total = whole.map(|whole| record.began() + whole);
    let idle = (!record.is_grpc()).then_some(upstream.config.idle_timeout);
    let deadlines = Deadlines { idle, total, whole };
    let (mut parts, body) = response.into_parts();
    // The upstream's version is not forwarded (RFC 9110 §2.5).
    parts.version = Version::HTTP_11;
    // hyper sends the trailers that this field names, after a body in chunks.
    let announced = (announces_trailers && body.size_hint().exact().is_none())
        .then(|| headers::announced(&parts.headers));
    headers::drop_hop_by_hop(&mut parts.headers);
    if let Some(announced) = announced.flatten() {
        parts.headers.insert(TRAILER, announced);
    }
    if let Some(arm) = record.exposed_arm() {
        parts.headers.insert(X_GRAYLING_ARM, headers::arm_value(arm));
    }
    let readable = match record.rules() {
        Some(rules) => Reader::for_response(rules, parts.status, &parts.headers),
        None => Readable::No,
    };
    let code = match readable {
        Readable::By(reader) => Some(reader),
        Readable::No => None,
        Readable::Coded => {
            record.note_unread_code(parts.headers.get(CONTENT_ENCODING));
            None
        }
    };
    let body = ResponseBody::upstream(body, record, lease, parts.status, deadlines, code, now);
    Response::from_parts(parts, body)
}

/// The response that tells a client of an error.
pub fn error_response(error: RequestError, form: ErrorForm) -> Response<ResponseBody> {
    match form {
        ErrorForm::Http => http_error(error),
        ErrorForm::Grpc => grpc_error(error),
    }
}

/// A response of head only (gRPC's "Trailers-Only").
fn grpc_error(error: RequestError) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::nothing());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from(u16::from(error.grpc_status().0)));
    // gRPC over HTTP/2: printable ASCII but for `%`, which begins an escape.
    let message = utf8_percent_encode(error.text(), GRPC_MESSAGE).to_string();
    if let Ok(message) = HeaderValue::from_str(&message) {
        headers.insert("grpc-message", message);
    }
    response
}

fn http_error(error: RequestError) -> Response<ResponseBody> {
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
