//! How an exchange ended, and who is to blame.
//!
//! Invariant: only actions of the upstream count against its arm.
//! Actions of the client or of the proxy never do, otherwise any client could cause a rollback.

/// How one exchange ended. The labels are those of `grayling_requests_total{outcome}`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// 1xx to 3xx, and the body arrived whole.
    Ok,
    /// 4xx from the upstream.
    ClientError,
    /// 5xx from the upstream.
    ServerError,
    /// No connection, nothing sent.
    ConnectError,
    /// No head within `response_timeout`, a stall in the body, or the whole exchange too long.
    Timeout,
    /// The connection broke before a response head was complete, or the response was not HTTP.
    Reset,
    /// The response body ended early, although the head may have said 200.
    Truncated,
    /// More than the upstream's `requests_in_flight_max`, or its connections all busy for
    /// `connect_timeout`.
    Saturated,
    /// The proxy's own limits: 503, or a request it would not forward.
    Rejected,
    /// The client went away or sent a broken body.
    Cancelled,
    /// A local fault: no file descriptor, no port.
    ProxyError,
}

impl Outcome {
    pub const ALL: [Outcome; 11] = [
        Outcome::Ok,
        Outcome::ClientError,
        Outcome::ServerError,
        Outcome::ConnectError,
        Outcome::Timeout,
        Outcome::Reset,
        Outcome::Truncated,
        Outcome::Saturated,
        Outcome::Rejected,
        Outcome::Cancelled,
        Outcome::ProxyError,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::ClientError => "client_error",
            Outcome::ServerError => "server_error",
            Outcome::ConnectError => "connect_error",
            Outcome::Timeout => "timeout",
            Outcome::Reset => "reset",
            Outcome::Truncated => "truncated",
            Outcome::Saturated => "saturated",
            Outcome::Rejected => "rejected",
            Outcome::Cancelled => "cancelled",
            Outcome::ProxyError => "proxy_error",
        }
    }

    /// The outcome of a response that arrived whole.
    pub fn of_status(status: http::StatusCode) -> Outcome {
        match status.as_u16() {
            500.. => Outcome::ServerError,
            400..=499 => Outcome::ClientError,
            _ => Outcome::Ok,
        }
    }

    pub fn blame(self) -> Blame {
        match self {
            Outcome::Ok | Outcome::ClientError => Blame::Nobody,
            Outcome::ServerError
            | Outcome::ConnectError
            | Outcome::Timeout
            | Outcome::Reset
            | Outcome::Truncated
            | Outcome::Saturated => Blame::Upstream,
            Outcome::Cancelled => Blame::Client,
            Outcome::Rejected | Outcome::ProxyError => Blame::Proxy,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blame {
    /// The exchange is a success, or a 4xx that has a signal of its own.
    Nobody,
    Upstream,
    Client,
    Proxy,
}
