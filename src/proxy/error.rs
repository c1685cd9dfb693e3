//! Failure → what the client is told. One short JSON body for each; nothing in it comes from the request.

use super::body::ResponseBody;
use crate::domain::outcome::Outcome;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

/// Why the proxy answers by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// The upstream did it, or the client, or a limit of the arm: with its outcome.
    Upstream(Outcome),
    /// CONNECT and TRACE.
    MethodNotServed,
    UriTooLong,
    NoRoute,
    /// The route leads to the servers of a version that is rolled back.
    Barred,
    /// `[limits] requests_in_flight`.
    Overload,
    /// The client sent a body that is not HTTP.
    BadRequestBody,
    /// The client sent its body too slowly.
    SlowRequestBody,
}

impl Failure {
    /// What is counted for it, where a route was found.
    pub fn outcome(self) -> Outcome {
        match self {
            Failure::Upstream(outcome) => outcome,
            Failure::MethodNotServed
            | Failure::UriTooLong
            | Failure::NoRoute
            | Failure::Barred
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
            Failure::NoRoute => (StatusCode::NOT_FOUND, "no route matches"),
            Failure::Barred => (StatusCode::SERVICE_UNAVAILABLE, "this version is rolled back"),
            Failure::Overload => (StatusCode::SERVICE_UNAVAILABLE, "the proxy is busy"),
            Failure::BadRequestBody => (StatusCode::BAD_REQUEST, "the request body is malformed"),
            Failure::SlowRequestBody => (StatusCode::REQUEST_TIMEOUT, "the request body came too slowly"),
        }
    }

    pub fn status(self) -> StatusCode {
        self.answer().0
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
        response
    }
}
