//! One HTTP/1.1 exchange on a connection of its own: a receiver of alerts, a metrics page, a trace
//! collector, the admin API of a running proxy, the health probe of a server.
//!
//! Invariants: a call ends within its time limit, for any behaviour of the peer.
//! At most [`HEAD_BYTES_MAX`] of the head and `body_bytes_max` of the body are kept.
//! Redirects are not followed: a call goes to the given address only.
//! No connection and no task is left behind, also when a call is dropped.
//! No error contains the path of a request or its headers, which may be secrets.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use std::{error, io};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Limit of the head of a response.
pub const HEAD_BYTES_MAX: usize = 64 << 10;

pub struct HttpCall<'a> {
    /// A name, or an IP address without brackets.
    pub host: &'a str,
    pub port: u16,
    pub tls: Option<&'a Arc<rustls::ClientConfig>>,
    pub request: Request<Full<Bytes>>,
    /// Limit of the response body; 0: the body is not read.
    pub body_bytes_max: usize,
    /// For the whole call.
    pub within: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum HttpCallError {
    #[error("{0}")]
    Connect(io::Error),
    /// The TLS handshake or the exchange failed.
    #[error("{0}")]
    Broken(Box<dyn error::Error + Send + Sync>),
    /// The head was received.
    #[error("the body is too long")]
    TooLong(StatusCode),
    #[error("timed out")]
    TimedOut,
}

fn broken(error: impl error::Error + Send + Sync + 'static) -> HttpCallError {
    HttpCallError::Broken(Box::new(error))
}

/// A request with the headers that calls have in common.
pub fn request(method: Method, authority: &str, path: &str) -> request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("grayling/", env!("CARGO_PKG_VERSION")))
}

impl HttpCall<'_> {
    pub async fn make(self) -> Result<Response<Bytes>, HttpCallError> {
        let made = tokio::time::timeout(self.within, self.make_unbounded()).await;
        made.unwrap_or(Err(HttpCallError::TimedOut))
    }

    async fn make_unbounded(self) -> Result<Response<Bytes>, HttpCallError> {
        let HttpCall { host, port, tls, request, body_bytes_max, .. } = self;
        let stream = TcpStream::connect((host, port)).await.map_err(HttpCallError::Connect)?;
        match tls {
            None => exchange(stream, request, body_bytes_max).await,
            Some(tls) => {
                let name = ServerName::try_from(host.to_owned()).map_err(broken)?;
                let connector = tokio_rustls::TlsConnector::from(tls.clone());
                let stream = connector.connect(name, stream).await.map_err(broken)?;
                exchange(stream, request, body_bytes_max).await
            }
        }
    }
}

/// The exchange on a connection that stands. It has no time limit of its own.
pub async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    body_bytes_max: usize,
) -> Result<Response<Bytes>, HttpCallError> {
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(broken)?;
    let answered = async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        read_body(answer, body_bytes_max).await
    };
    // Driven here and not in a task, so it ends with the exchange. Its own result adds nothing to
    // the response.
    let drive = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answered => answer,
        never = drive => match never {},
    }
}

/// Reads the body of a response up to its limit; 0: the body is not read.
pub async fn read_body(
    answer: Response<Incoming>,
    body_bytes_max: usize,
) -> Result<Response<Bytes>, HttpCallError> {
    let (head, mut body) = answer.into_parts();
    let mut read = vec![];
    while body_bytes_max > 0
        && let Some(frame) = body.frame().await
    {
        let frame = frame.map_err(broken)?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        if data.len() > body_bytes_max - read.len() {
            return Err(HttpCallError::TooLong(head.status));
        }
        read.extend_from_slice(data);
    }
    Ok(Response::from_parts(head, read.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// One call to a peer that sends `answer` and keeps the connection open.
    async fn call(answer: Vec<u8>, body_bytes_max: usize) -> Result<Response<Bytes>, HttpCallError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let within = Duration::from_millis(if answer.is_empty() { 50 } else { 30_000 });
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(&answer).await;
            // Ends when the caller has closed the connection.
            while !matches!(stream.read(&mut [0; 1024]).await, Ok(0) | Err(_)) {}
        });
        let request = request(Method::GET, "peer", "/s3cret").body(Full::default()).unwrap();
        let call = HttpCall { host: "127.0.0.1", port, tls: None, request, body_bytes_max, within };
        let made = call.make().await;
        peer.await.unwrap();
        made
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit_and_the_connection_is_closed() {
        let answer = || b"HTTP/1.1 201 Created\r\ncontent-length: 4\r\n\r\nbody".to_vec();
        let read = call(answer(), 4).await.unwrap();
        assert_eq!((read.status(), &read.body()[..]), (StatusCode::CREATED, &b"body"[..]));
        assert!(matches!(call(answer(), 3).await, Err(HttpCallError::TooLong(StatusCode::CREATED))));
        assert!(call(answer(), 0).await.unwrap().body().is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_is_silent_or_speaks_something_else_is_an_error() {
        assert!(matches!(call(vec![], 1).await, Err(HttpCallError::TimedOut)));
        let endless = [b"HTTP/1.1 200 OK\r\na: ".to_vec(), vec![b'a'; HEAD_BYTES_MAX]].concat();
        for answer in [b"220 mail\r\n\r\n".to_vec(), endless] {
            let error = call(answer, 1).await.unwrap_err();
            assert!(matches!(error, HttpCallError::Broken(_)), "{error:?}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
