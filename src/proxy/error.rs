//! Failure → response to the client: a short JSON body, in which nothing comes from the request.

use super::body::ResponseBody;
use crate::domain::outcome::Outcome;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// Why the proxy itself answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Caused by the upstream, the client, or a limit of the arm: with its outcome.
    Upstream(Outcome),
    /// CONNECT and TRACE.
    MethodNotServed,
    UriTooLong,
    HeadersTooBig,
    /// An `Expect` other than 100-continue.
    Expectation,
    /// A request that servers may read differently, with the part at fault.
    BadRequest(&'static str),
    NoRoute,
    /// The route leads to the servers of a version that is rolled back.
    Barred,
    /// `[limits] requests_in_flight`.
    Overload,
    /// The WebSockets to the server have reached their limit.
    TooManyTunnels,
    /// A WebSocket to an HTTP/2 upstream.
    TunnelNotServed,
    /// The client sent a body that is not HTTP.
    BadRequestBody,
    /// The client sent its body too slowly.
    SlowRequestBody,
}

impl Failure {
    /// The outcome that is counted, if a route was found.
    pub fn outcome(self) -> Outcome {
        match self {
            Failure::Upstream(outcome) => outcome,
            Failure::MethodNotServed
            | Failure::UriTooLong
            | Failure::HeadersTooBig
            | Failure::Expectation
            | Failure::BadRequest(_)
            | Failure::NoRoute
            | Failure::Barred
            | Failure::TooManyTunnels
            | Failure::TunnelNotServed
            | Failure::Overload => Outcome::Rejected,
            Failure::BadRequestBody | Failure::SlowRequestBody => Outcome::Cancelled,
        }
    }

    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Failure::Upstream(Outcome::Timeout) => {
                (StatusCode::GATEWAY_TIMEOUT, "the service did not answer in time")
            }
            Failure::Upstream(Outcome::ConnectError) => {
                (StatusCode::BAD_GATEWAY, "the service cannot be reached")
            }
            Failure::Upstream(Outcome::Saturated) => (StatusCode::SERVICE_UNAVAILABLE, "the service is busy"),
            Failure::Upstream(Outcome::ProxyError) => {
                (StatusCode::SERVICE_UNAVAILABLE, "the proxy is out of resources")
            }
            Failure::Upstream(_) => (StatusCode::BAD_GATEWAY, "the service broke the connection"),
            Failure::MethodNotServed => (StatusCode::METHOD_NOT_ALLOWED, "this method is not served"),
            Failure::UriTooLong => (StatusCode::URI_TOO_LONG, "the request target is too long"),
            Failure::HeadersTooBig => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's header fields are too many or too big",
            ),
            Failure::Expectation => (StatusCode::EXPECTATION_FAILED, "this expectation is not met here"),
            Failure::BadRequest(what) => (StatusCode::BAD_REQUEST, what),
            Failure::NoRoute => (StatusCode::NOT_FOUND, "no route matches"),
            Failure::Barred => (StatusCode::SERVICE_UNAVAILABLE, "this version is rolled back"),
            Failure::Overload => (StatusCode::SERVICE_UNAVAILABLE, "the proxy is busy"),
            Failure::TooManyTunnels => (StatusCode::SERVICE_UNAVAILABLE, "too many websockets are open"),
            Failure::TunnelNotServed => {
                (StatusCode::NOT_IMPLEMENTED, "no websockets here: this service is spoken to in HTTP/2")
            }
            Failure::BadRequestBody => (StatusCode::BAD_REQUEST, "the request body is malformed"),
            Failure::SlowRequestBody => (StatusCode::REQUEST_TIMEOUT, "the request body came too slowly"),
        }
    }

    pub fn status(self) -> StatusCode {
        self.answer().0
    }

    /// After a request that could not be parsed reliably, nothing more is read (RFC 9112 §9.6).
    fn ends_connection(self) -> bool {
        match self {
            Failure::MethodNotServed
            | Failure::UriTooLong
            | Failure::HeadersTooBig
            | Failure::Expectation
            | Failure::BadRequest(_)
            | Failure::BadRequestBody
            | Failure::SlowRequestBody => true,
            Failure::Upstream(_)
            | Failure::NoRoute
            | Failure::Barred
            | Failure::TooManyTunnels
            | Failure::TunnelNotServed
            | Failure::Overload => false,
        }
    }

    pub fn response(self) -> Response<ResponseBody> {
        let (status, text) = self.answer();
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
        if self.ends_connection() {
            // HTTP/2 has no such field: there hyper removes it.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
