//! The definition of success for a release: config rules over the status, a header, the gRPC
//! status, and a code inside a JSON body.
//!
//! Success is a business term and not an HTTP status: a billing system may answer 200 with a fault
//! inside.
//! A failure by a rule is an [`Outcome::ServerError`] of the arm.
//!
//! Invariants: a body is read as it passes, never delayed, and never kept beyond the rule's
//! bound.
//! An unreadable body (of an unknown coding, too long, no JSON, no such path in it) is no failure:
//! a rule without a result blames no one.

use super::grpc::{GrpcStatus, has_grpc_type};
use super::outcome::Outcome;
use http::{HeaderMap, HeaderName, StatusCode};

/// `[release.X.outcome]`.
#[derive(Clone, Debug, PartialEq)]
pub struct FailureRules {
    /// Inclusive ranges of statuses that are failures.
    pub status: Vec<(u16, u16)>,
    /// A response with this header and value is a failure.
    pub header: Option<(HeaderName, Vec<u8>)>,
    pub body: Option<BodyRule>,
    /// `grpc-status`, in trailers or in the head, of responses with gRPC's content type.
    pub grpc: bool,
}

impl Default for FailureRules {
    fn default() -> Self {
        FailureRules { status: vec![(500, 599)], header: None, body: None, grpc: true }
    }
}

/// A result code in a JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct BodyRule {
    pub path: Vec<JsonStep>,
    pub fails: FailureRule,
    /// The rule does not apply to a longer body.
    pub bytes_max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonStep {
    Key(String),
    Index(usize),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureRule {
    If(String),
    Unless(String),
}

impl FailureRule {
    pub fn at(&self, code: &str) -> bool {
        match self {
            FailureRule::If(bad) => code == bad,
            FailureRule::Unless(good) => code != good,
        }
    }
}

impl FailureRules {
    /// The outcome by the head alone.
    pub fn of_head(&self, status: StatusCode, headers: &HeaderMap) -> HeadOutcome {
        let code = status.as_u16();
        if self.status.iter().any(|(low, high)| (*low..=*high).contains(&code)) {
            return HeadOutcome::Is(Outcome::ServerError);
        }
        if let Some((name, value)) = &self.header
            && headers.get_all(name).iter().any(|v| v.as_bytes() == value.as_slice())
        {
            return HeadOutcome::Is(Outcome::ServerError);
        }
        // An error of HTTP has no gRPC status.
        if self.grpc && status.is_success() && has_grpc_type(headers) {
            return match GrpcStatus::of(headers) {
                Some(grpc_status) => HeadOutcome::Is(grpc_status.outcome()),
                None => HeadOutcome::AwaitsGrpcStatus,
            };
        }
        // Ranges may leave some 5xx out: then they are no failures.
        HeadOutcome::Is(if status.is_client_error() { Outcome::ClientError } else { Outcome::Ok })
    }
}

/// The outcome of a response by its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeadOutcome {
    Is(Outcome),
    /// No failure so far: the trailers have the status. Without one the call has failed.
    AwaitsGrpcStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect()
    }

    #[test]
    fn the_head_is_judged_by_status_header_and_grpc() {
        let of = |rules: &FailureRules, status, pairs: &[(&'static str, &'static str)]| match rules
            .of_head(StatusCode::from_u16(status).unwrap(), &headers(pairs))
        {
            HeadOutcome::Is(outcome) => outcome,
            HeadOutcome::AwaitsGrpcStatus => panic!("{pairs:?} has a status"),
        };
        let plain = FailureRules::default();
        assert_eq!(
            [200, 302, 404, 499, 500, 599].map(|s| of(&plain, s, &[])),
            [
                Outcome::Ok,
                Outcome::Ok,
                Outcome::ClientError,
                Outcome::ClientError,
                Outcome::ServerError,
                Outcome::ServerError,
            ]
        );
        let own = FailureRules { status: vec![(502, 504), (429, 429)], ..FailureRules::default() };
        assert_eq!(
            [500, 503, 429, 404].map(|s| of(&own, s, &[])),
            [Outcome::Ok, Outcome::ServerError, Outcome::ServerError, Outcome::ClientError,]
        );
        let header = (HeaderName::from_static("x-result"), b"FAILED".to_vec());
        let by_header = FailureRules { header: Some(header), ..FailureRules::default() };
        assert_eq!(of(&by_header, 200, &[("x-result", "FAILED")]), Outcome::ServerError);
        assert_eq!(of(&by_header, 200, &[("x-result", "fine")]), Outcome::Ok);
        let grpc = ("content-type", "application/grpc");
        for (status, want) in [
            ("0", Outcome::Ok),
            ("1", Outcome::Cancelled),
            ("5", Outcome::ClientError),
            ("14", Outcome::ServerError),
            ("x", Outcome::ServerError),
        ] {
            assert_eq!(of(&plain, 200, &[grpc, ("grpc-status", status)]), want, "{status}");
        }
        let head = |rules: &FailureRules, status, pairs: &[(&'static str, &'static str)]| {
            rules.of_head(StatusCode::from_u16(status).unwrap(), &headers(pairs))
        };
        assert_eq!(head(&plain, 200, &[grpc]), HeadOutcome::AwaitsGrpcStatus);
        assert_eq!(head(&plain, 404, &[grpc]), HeadOutcome::Is(Outcome::ClientError));
        assert_eq!(of(&plain, 200, &[("grpc-status", "14")]), Outcome::Ok, "no gRPC");
        let off = FailureRules { grpc: false, ..FailureRules::default() };
        assert_eq!(of(&off, 200, &[grpc, ("grpc-status", "14")]), Outcome::Ok);
    }
}
