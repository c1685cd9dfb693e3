//! One HTTP/1.1 POST over a connection of its own: how alerts leave the house.
//!
//! Invariants: a call ends within [`TIMEOUT`], whatever the other side does; an answer's body is not read; redirects are not followed (an alert goes
//! where the config says, or nowhere); no error has the path of an address in it, which may be a secret.

use crate::domain::plan::{Address, Built};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::Value;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait that an answer may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

pub struct Post {
    pub body: Bytes,
    pub headers: Vec<(&'static str, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    #[error("no connection: {0}")]
    Unreachable(String),
    #[error("no answer within {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// `lasting`: trying again as it is will hardly help.
    #[error("answered {status}")]
    Refused { status: StatusCode, lasting: bool, retry_after: Option<Duration> },
}

impl PostError {
    /// How long the other side asked to be left in peace.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            PostError::Refused { retry_after, .. } => *retry_after,
            _ => None,
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

    /// Done when the other side has answered with a 2xx.
    pub async fn send(
        &self,
        to: &Address,
        tls: Option<&Built<rustls::ClientConfig>>,
    ) -> Result<(), PostError> {
        match tokio::time::timeout(TIMEOUT, self.send_unbounded(to, tls)).await {
            Ok(sent) => sent,
            Err(_) => Err(PostError::TimedOut),
        }
    }

    async fn send_unbounded(
        &self,
        to: &Address,
        tls: Option<&Built<rustls::ClientConfig>>,
    ) -> Result<(), PostError> {
        let unreachable = |error: &dyn std::fmt::Display| PostError::Unreachable(error.to_string());
        let stream = TcpStream::connect((to.host.as_str(), to.port)).await.map_err(|e| unreachable(&e))?;
        match tls {
            None => self.exchange(to, stream).await,
            Some(tls) => {
                let name = ServerName::try_from(to.host.clone()).map_err(|e| unreachable(&e))?;
                let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
                let stream = connector.connect(name, stream).await.map_err(|e| unreachable(&e))?;
                self.exchange(to, stream).await
            }
        }
    }

    async fn exchange(
        &self,
        to: &Address,
        stream: impl AsyncRead + AsyncWrite + Unpin,
    ) -> Result<(), PostError> {
        let unreachable = |error: &dyn std::fmt::Display| PostError::Unreachable(error.to_string());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
        let shown = to.to_string();
        let host = shown.split_once("://").map_or(shown.as_str(), |(_, host)| host);
        let mut request = Request::post(to.path.as_str())
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, concat!("grayling/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(self.body.clone())).map_err(|e| unreachable(&e))?;
        let answered = async { sender.send_request(request).await.map_err(|e| unreachable(&e)) };
        // Driven here, not in a task: it ends with the call.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<std::convert::Infallible>().await
        };
        let answer = tokio::select! {
            answer = answered => answer?,
            never = drive => match never {},
        };
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let asked = answer.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        Err(PostError::Refused {
            status,
            lasting: !status.is_server_error()
                && ![StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS]
                    .contains(&status),
            retry_after: asked.map(|s| Duration::from_secs(s).min(RETRY_AFTER_MAX)),
        })
    }
}
