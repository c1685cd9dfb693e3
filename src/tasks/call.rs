//! One HTTP/1.1 exchange on its own connection, with a peer that is not an upstream server: a
//! receiver of alerts, a metrics page.
//!
//! Invariants: a call ends within its time limit, for any behaviour of the peer. At most
//! `answer_bytes_max` of the body are read. Redirects are not followed (a call goes to the
//! configured address only). No error contains the path of an address, which may be a secret.

use crate::domain::config::{Address, FromFiles};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

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
    pub body: Vec<u8>,
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

fn unreachable(error: impl std::fmt::Display) -> CallError {
    CallError::Unreachable(error.to_string())
}

impl Call<'_> {
    pub async fn make(self) -> Result<CallAnswer, CallError> {
        let within = self.within;
        match tokio::time::timeout(within, self.unbounded()).await {
            Ok(answer) => answer,
            Err(_) => Err(CallError::TimedOut(within)),
        }
    }

    async fn unbounded(self) -> Result<CallAnswer, CallError> {
        let stream = TcpStream::connect((self.to.host.as_str(), self.to.port)).await.map_err(unreachable)?;
        match self.tls {
            None => self.exchange(stream).await,
            Some(tls) => {
                let name = ServerName::try_from(self.to.host.clone()).map_err(unreachable)?;
                let connector = tokio_rustls::TlsConnector::from(tls.config.clone());
                let stream = connector.connect(name, stream).await.map_err(unreachable)?;
                self.exchange(stream).await
            }
        }
    }

    async fn exchange(self, stream: impl AsyncRead + AsyncWrite + Unpin) -> Result<CallAnswer, CallError> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(header::HOST, self.to.authority())
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, concat!("grayling/", env!("CARGO_PKG_VERSION")));
        for (name, value) in self.headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(self.body)).map_err(unreachable)?;
        let answered = async {
            let (head, mut body) = sender.send_request(request).await.map_err(unreachable)?.into_parts();
            let mut read = vec![];
            while self.answer_bytes_max > 0
                && let Some(frame) = body.frame().await
            {
                let frame = frame.map_err(unreachable)?;
                read.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                if read.len() > self.answer_bytes_max {
                    return Err(CallError::TooLong(self.answer_bytes_max));
                }
            }
            Ok(CallAnswer { status: head.status, headers: head.headers, body: read })
        };
        // Driven here and not in a task, so it ends with the call.
        let drive = async {
            let _ = connection.await;
            std::future::pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            answer = answered => answer,
            never = drive => match never {},
        }
    }
}
