//! Sends a POST with JSON and classifies the result; used for alerts.
//!
//! Invariants: those of [`crate::tasks::call`]; the response body is not read.

use crate::domain::config::{Address, FromFiles};
use crate::tasks::call::{Call, CallError};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::Value;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The upper limit of an accepted `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

pub struct Post {
    pub body: Bytes,
    pub headers: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    #[error(transparent)]
    Failed(#[from] CallError),
    /// `lasting`: an unchanged retry will hardly succeed.
    #[error("answered {status}")]
    Refused { status: StatusCode, lasting: bool, retry_after: Option<Duration> },
}

impl PostError {
    /// The pause that the other side requested.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            PostError::Refused { retry_after, .. } => *retry_after,
            PostError::Failed(_) => None,
        }
    }
}

impl Post {
    pub fn json(value: &Value) -> Post {
        Post { body: value.to_string().into(), headers: vec![] }
    }

    pub fn header(&mut self, name: &'static str, value: String) {
        self.headers.push((name, value));
    }

    /// Succeeds when the other side has answered with a 2xx.
    pub async fn send(
        &self,
        to: &Address,
        tls: Option<&FromFiles<rustls::ClientConfig>>,
    ) -> Result<(), PostError> {
        let mut headers = self.headers.clone();
        headers.push(("content-type", "application/json".to_owned()));
        let (method, path, headers) = (Method::POST, to.path.as_str(), &headers[..]);
        let (body, within) = (self.body.clone(), TIMEOUT);
        let call = Call { to, tls, method, path, headers, body, answer_bytes_max: 0, within };
        let answer = call.make().await?;
        let status = answer.status;
        if status.is_success() {
            return Ok(());
        }
        let asked = answer.headers.get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        Err(PostError::Refused {
            status,
            lasting: !status.is_server_error()
                && ![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
                    .contains(&status),
            retry_after: asked.map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX)),
        })
    }
}
