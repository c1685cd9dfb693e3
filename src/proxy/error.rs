//! The errors of a proxied request, one row each: why a client gets no response of an upstream, or
//! not the whole of it.
//!
//! Invariants: each error has one source, one outcome and one label.
//! A text for a client contains nothing from its request.

use crate::domain::grpc::GrpcStatus;
use crate::domain::outcome::Outcome;
use http::StatusCode;

/// Why a request is refused, fails, or ends early.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// CONNECT and TRACE.
    MethodNotServed,
    UriTooLong,
    HeadersTooBig,
    /// An `Expect` other than 100-continue.
    Expectation,
    /// A request that servers may read differently, with the part at fault.
    BadRequest(&'static str),
    /// The client sent a body that is not HTTP.
    BadRequestBody,
    /// The client sent its body too slowly.
    SlowRequestBody,
    /// The client was too slow, or broke off, while the response body passed.
    ClientAtFault,
    NoRoute,
    /// The route leads to the servers of a version that is rolled back.
    Barred,
    /// `[limits] requests_in_flight`, or clients occupy all room of the upstream.
    Overload,
    /// The WebSockets to the server have reached their limit.
    TooManyTunnels,
    /// A WebSocket to an HTTP/2 upstream whose server does not speak HTTP/1.1.
    TunnelNotServed,
    /// No file descriptor, or no port.
    NoLocalResources,
    /// No server takes a connection.
    Unreachable,
    /// No room in the upstream, or no free connection.
    Saturated,
    /// The response head came too late.
    NoResponseInTime,
    /// The connection broke before the response head was complete.
    ConnectionBroken,
    /// The server has not processed the request, and it may not or cannot be sent again.
    NotResent,
    /// The servers have not processed the request, however often it was sent.
    Unprocessed,
    /// The response head does not tell reliably where its body ends.
    FaultyResponseHead,
    /// Over `[limits] response_header_count` or `response_header_bytes`.
    ResponseHeadTooBig,
    /// The response body came too slowly.
    BodyTimeout,
    /// The response body broke off.
    BodyTruncated,
}

/// The party that caused an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Client,
    /// A limit, a route or a fault of this proxy.
    Proxy,
    Upstream,
}

/// The form in which a client gets an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorForm {
    /// Status and JSON.
    Http,
    /// 200 with a gRPC status.
    Grpc,
}

impl ErrorForm {
    pub fn of_call(grpc: bool) -> ErrorForm {
        if grpc { ErrorForm::Grpc } else { ErrorForm::Http }
    }

    /// The HTTP status that the client gets.
    pub fn status(self, error: RequestError) -> StatusCode {
        match self {
            ErrorForm::Http => error.status(),
            ErrorForm::Grpc => StatusCode::OK,
        }
    }
}

/// Whether the request may be sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    No,
    /// No byte of it was sent: another upstream can get it.
    OtherUpstream,
}

/// One row.
struct Facts {
    source: Source,
    outcome: Outcome,
    retry: Retry,
    detail: &'static str,
    status: StatusCode,
    text: &'static str,
}

impl RequestError {
    pub fn source(self) -> Source {
        self.facts().source
    }

    /// The outcome that is counted, if a route was found.
    pub fn outcome(self) -> Outcome {
        self.facts().outcome
    }

    pub fn retry(self) -> Retry {
        self.facts().retry
    }

    /// The label in the log.
    pub fn detail(self) -> &'static str {
        self.facts().detail
    }

    /// The status for the client, if it has none yet.
    pub fn status(self) -> StatusCode {
        self.facts().status
    }

    /// The text for the client.
    pub fn text(self) -> &'static str {
        self.facts().text
    }

    /// The status for a gRPC client.
    pub fn grpc_status(self) -> GrpcStatus {
        GrpcStatus::of_http(self.status())
    }

    fn facts(self) -> Facts {
        match self {
            RequestError::MethodNotServed => by_client(
                Outcome::Rejected,
                "method_not_served",
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not served",
            ),
            RequestError::UriTooLong => by_client(
                Outcome::Rejected,
                "uri_too_long",
                StatusCode::URI_TOO_LONG,
                "the request target is too long",
            ),
            RequestError::HeadersTooBig => by_client(
                Outcome::Rejected,
                "headers_too_big",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "the request's header fields are too many or too big",
            ),
            RequestError::Expectation => by_client(
                Outcome::Rejected,
                "expectation",
                StatusCode::EXPECTATION_FAILED,
                "this expectation is not met here",
            ),
            RequestError::BadRequest(part) => {
                by_client(Outcome::Rejected, "bad_request", StatusCode::BAD_REQUEST, part)
            }
            RequestError::BadRequestBody => by_client(
                Outcome::Cancelled,
                "bad_request_body",
                StatusCode::BAD_REQUEST,
                "the request body is malformed",
            ),
            RequestError::SlowRequestBody => by_client(
                Outcome::Cancelled,
                "slow_request_body",
                StatusCode::REQUEST_TIMEOUT,
                "the request body came too slowly",
            ),
            RequestError::ClientAtFault => by_client(
                Outcome::Cancelled,
                "client_at_fault",
                StatusCode::REQUEST_TIMEOUT,
                "the response was taken too slowly",
            ),
            RequestError::NoRoute => {
                by_proxy(Outcome::Rejected, "no_route", StatusCode::NOT_FOUND, "no route matches")
            }
            RequestError::Barred => by_proxy(
                Outcome::Rejected,
                "version_rolled_back",
                StatusCode::SERVICE_UNAVAILABLE,
                "this version is rolled back",
            ),
            RequestError::Overload => {
                by_proxy(Outcome::Rejected, "overload", StatusCode::SERVICE_UNAVAILABLE, "the proxy is busy")
            }
            RequestError::TooManyTunnels => by_proxy(
                Outcome::Rejected,
                "too_many_websockets",
                StatusCode::SERVICE_UNAVAILABLE,
                "too many websockets are open",
            ),
            RequestError::TunnelNotServed => by_proxy(
                Outcome::Rejected,
                "websocket_not_served",
                StatusCode::NOT_IMPLEMENTED,
                "no websockets here: this service speaks HTTP/2 only",
            ),
            RequestError::NoLocalResources => by_proxy(
                Outcome::ProxyError,
                "no_local_resources",
                StatusCode::SERVICE_UNAVAILABLE,
                "the proxy is out of resources",
            ),
            RequestError::Unreachable => Facts {
                retry: Retry::OtherUpstream,
                ..by_upstream(
                    Outcome::ConnectError,
                    "unreachable",
                    StatusCode::BAD_GATEWAY,
                    "the service cannot be reached",
                )
            },
            RequestError::Saturated => by_upstream(
                Outcome::Saturated,
                "saturated",
                StatusCode::SERVICE_UNAVAILABLE,
                "the service is busy",
            ),
            RequestError::NoResponseInTime => by_upstream(
                Outcome::Timeout,
                "no_response_in_time",
                StatusCode::GATEWAY_TIMEOUT,
                "the service did not answer in time",
            ),
            RequestError::ConnectionBroken => by_upstream(
                Outcome::Reset,
                "connection_broken",
                StatusCode::BAD_GATEWAY,
                "the service broke the connection",
            ),
            RequestError::NotResent => by_proxy(
                Outcome::ProxyError,
                "not_resent",
                StatusCode::BAD_GATEWAY,
                "the service has not processed the request",
            ),
            RequestError::Unprocessed => by_upstream(
                Outcome::Reset,
                "unprocessed",
                StatusCode::BAD_GATEWAY,
                "the service has not processed the request",
            ),
            RequestError::FaultyResponseHead => by_upstream(
                Outcome::Reset,
                "faulty_response_head",
                StatusCode::BAD_GATEWAY,
                "the service broke the connection",
            ),
            RequestError::ResponseHeadTooBig => by_upstream(
                Outcome::Reset,
                "response_headers_too_big",
                StatusCode::BAD_GATEWAY,
                "response: over response_header_count or response_header_bytes",
            ),
            RequestError::BodyTimeout => by_upstream(
                Outcome::Timeout,
                "body_timeout",
                StatusCode::GATEWAY_TIMEOUT,
                "the service did not answer in time",
            ),
            RequestError::BodyTruncated => by_upstream(
                Outcome::Truncated,
                "body_truncated",
                StatusCode::BAD_GATEWAY,
                "the service broke the connection",
            ),
        }
    }
}

fn by_client(outcome: Outcome, detail: &'static str, status: StatusCode, text: &'static str) -> Facts {
    Facts { source: Source::Client, outcome, retry: Retry::No, detail, status, text }
}

fn by_proxy(outcome: Outcome, detail: &'static str, status: StatusCode, text: &'static str) -> Facts {
    Facts { source: Source::Proxy, outcome, retry: Retry::No, detail, status, text }
}

fn by_upstream(outcome: Outcome, detail: &'static str, status: StatusCode, text: &'static str) -> Facts {
    Facts { source: Source::Upstream, outcome, retry: Retry::No, detail, status, text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::outcome::Blame;
    use std::collections::BTreeSet;

    const ALL: [RequestError; 24] = [
        RequestError::MethodNotServed,
        RequestError::UriTooLong,
        RequestError::HeadersTooBig,
        RequestError::Expectation,
        RequestError::BadRequest("host"),
        RequestError::BadRequestBody,
        RequestError::SlowRequestBody,
        RequestError::ClientAtFault,
        RequestError::NoRoute,
        RequestError::Barred,
        RequestError::Overload,
        RequestError::TooManyTunnels,
        RequestError::TunnelNotServed,
        RequestError::NoLocalResources,
        RequestError::Unreachable,
        RequestError::Saturated,
        RequestError::NoResponseInTime,
        RequestError::ConnectionBroken,
        RequestError::NotResent,
        RequestError::Unprocessed,
        RequestError::FaultyResponseHead,
        RequestError::ResponseHeadTooBig,
        RequestError::BodyTimeout,
        RequestError::BodyTruncated,
    ];

    #[test]
    fn each_error_has_its_own_label() {
        let labels: BTreeSet<&str> = ALL.iter().map(|error| error.detail()).collect();
        assert_eq!(labels.len(), ALL.len());
    }

    #[test]
    fn an_arm_is_blamed_for_the_errors_of_its_upstream_and_for_no_other() {
        for error in ALL {
            let blamed = error.outcome().blame() == Blame::Upstream;
            assert_eq!(blamed, error.source() == Source::Upstream, "{error:?}");
        }
    }

    #[test]
    fn only_a_request_of_which_nothing_was_sent_goes_to_another_upstream() {
        for error in ALL {
            let again = error.retry() == Retry::OtherUpstream;
            assert_eq!(again, error == RequestError::Unreachable, "{error:?}");
        }
    }
}
