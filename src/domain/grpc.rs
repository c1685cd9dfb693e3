//! gRPC's statuses: the outcome that each one stands for, and the status of an HTTP error.
//!
//! The division into faults of the server and faults of the caller follows gRPC's own documents
//! (grpc/doc/statuscodes.md, grpc/doc/http-grpc-status-mapping.md).

use super::outcome::Outcome;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

/// A status of gRPC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GrpcStatus(pub u8);

impl GrpcStatus {
    pub const OK: GrpcStatus = GrpcStatus(0);
    pub const UNKNOWN: GrpcStatus = GrpcStatus(2);
    pub const DEADLINE_EXCEEDED: GrpcStatus = GrpcStatus(4);
    pub const PERMISSION_DENIED: GrpcStatus = GrpcStatus(7);
    pub const UNIMPLEMENTED: GrpcStatus = GrpcStatus(12);
    pub const INTERNAL: GrpcStatus = GrpcStatus(13);
    pub const UNAVAILABLE: GrpcStatus = GrpcStatus(14);
    pub const UNAUTHENTICATED: GrpcStatus = GrpcStatus(16);

    /// `grpc-status` of a head or of trailers, if it is there.
    /// A value that is no known status is UNKNOWN, as clients read it.
    pub fn of(fields: &HeaderMap) -> Option<GrpcStatus> {
        let written = fields.get("grpc-status")?;
        let code = written.to_str().ok().and_then(|text| text.parse::<u8>().ok());
        Some(code.filter(|code| *code <= 16).map_or(GrpcStatus::UNKNOWN, GrpcStatus))
    }

    /// The status that a gRPC client gets for an error of HTTP.
    pub fn of_http(status: StatusCode) -> GrpcStatus {
        match status.as_u16() {
            400 => GrpcStatus::INTERNAL,
            401 => GrpcStatus::UNAUTHENTICATED,
            403 => GrpcStatus::PERMISSION_DENIED,
            404 => GrpcStatus::UNIMPLEMENTED,
            // gRPC's document has UNAVAILABLE, which says "send it again". Here the server may have
            // executed the call.
            504 => GrpcStatus::DEADLINE_EXCEEDED,
            429 | 502 | 503 => GrpcStatus::UNAVAILABLE,
            _ => GrpcStatus::UNKNOWN,
        }
    }

    pub fn outcome(self) -> Outcome {
        match self.0 {
            0 => Outcome::Ok,
            // CANCELLED is the caller's wish.
            1 => Outcome::Cancelled,
            // UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            2 | 4 | 12..=15 => Outcome::ServerError,
            // INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED,
            // FAILED_PRECONDITION, ABORTED, OUT_OF_RANGE, UNAUTHENTICATED.
            _ => Outcome::ClientError,
        }
    }
}

/// Whether it is the content type of gRPC. That of gRPC-Web (`application/grpc-web`) is not: its
/// status is in the body.
pub fn is_grpc_type(value: &HeaderValue) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    match value.as_bytes().split_at_checked(TYPE.len()) {
        Some((start, rest)) => {
            start.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b'+' | b';'))
        }
        None => false,
    }
}

/// Whether the head is that of a gRPC message.
pub fn has_grpc_type(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(is_grpc_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_one_side_at_fault_or_none() {
        let of = |status: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert("grpc-status", HeaderValue::from_static(status));
            GrpcStatus::of(&fields).unwrap().outcome()
        };
        assert_eq!(of("0"), Outcome::Ok);
        assert_eq!(of("1"), Outcome::Cancelled);
        for server in ["2", "4", "12", "13", "14", "15", "17", "300", "x", "", "-1"] {
            assert_eq!(of(server), Outcome::ServerError, "{server}");
        }
        for caller in ["3", "5", "6", "7", "8", "9", "10", "11", "16"] {
            assert_eq!(of(caller), Outcome::ClientError, "{caller}");
        }
        assert_eq!(GrpcStatus::of(&HeaderMap::new()), None);
    }

    #[test]
    fn grpc_web_is_not_grpc() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/gRPC;x=1"] {
            assert!(is_grpc_type(&HeaderValue::from_static(kind)), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpcx", "application/json", "", "text/grpc"] {
            assert!(!is_grpc_type(&HeaderValue::from_static(kind)), "{kind}");
        }
    }
}
