//! A call to a configured address: a receiver of alerts, a metrics page, a trace collector.
//!
//! Invariants: those of [`http_call`]. No error contains the path of an address, which may be a
//! secret.

use crate::domain::config::{Address, FromFiles};
use crate::net::http_call::{self, HttpCall, HttpCallError};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::Full;
use std::time::Duration;

pub struct Call<'a> {
    pub to: &'a Address,
    pub tls: Option<&'a FromFiles<rustls::ClientConfig>>,
    pub method: Method,
    /// With query.
    pub path: &'a str,
    pub headers: &'a [(&'static str, String)],
    pub body: Bytes,
    /// Limit of the response body; 0: the body is not read.
    pub answer_bytes_max: usize,
    pub within: Duration,
}

pub struct CallAnswer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    #[error("its answer has more than {0} bytes")]
    TooLong(usize),
}

impl Call<'_> {
    pub async fn make(self) -> Result<CallAnswer, CallError> {
        let Call { to, tls, method, path, headers, body, answer_bytes_max, within } = self;
        let mut request =
            http_call::request(method, &to.authority(), path).header(header::CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| CallError::Unreachable(error.to_string()))?;
        let call = HttpCall {
            host: &to.host,
            port: to.port,
            tls: tls.map(|tls| &tls.config),
            request,
            body_bytes_max: answer_bytes_max,
            within,
        };
        let answer = call.make().await.map_err(|error| match error {
            HttpCallError::TimedOut => CallError::TimedOut(within),
            HttpCallError::TooLong(_) => CallError::TooLong(answer_bytes_max),
            HttpCallError::Connect(_) | HttpCallError::Broken(_) => CallError::Unreachable(error.to_string()),
        })?;
        let (head, body) = answer.into_parts();
        Ok(CallAnswer { status: head.status, headers: head.headers, body })
    }
}
