//! One health probe of one server: a connection of its own, one GET, its status; or one call of
//! gRPC's health protocol.
//!
//! Invariants: it uses the addresses, TLS and HTTP version of a request, but none of its counters.
//! It takes at most its time-out and keeps at most `BODY_BYTES` of the body.
//! It leaves no connection and no task behind, also when it is dropped.
//! A local failure, a late wake-up or an unresolved name is no verdict on the server.

use super::connect::{RawConnection, connect};
use super::grpc_health;
use super::pool::{HEAD_BYTES, NoConnection};
use crate::domain::config::{Health, Protocol};
use crate::net::http_call::{HttpCallError, exchange, read_body};
use crate::upstream::server::ServerState;
use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// More of a response is not read: the status is known, and the connection is closed.
const BODY_BYTES: usize = 64 << 10;
/// A time-out noticed later than this is blamed on this machine.
const LATE: Duration = Duration::from_millis(100);
/// A reason must fit into a log line.
const WHY_CHARS: usize = 200;

#[derive(Debug, PartialEq, Eq)]
pub enum ProbeResult {
    Well,
    /// The reason, as text for the log.
    Sick(String),
    /// No verdict.
    Unknown,
}

enum ProbeError {
    Local,
    TooLate,
    Sick(String),
}

pub async fn probe(server: &ServerState, health: &Health, within: Duration) -> ProbeResult {
    if server.server.unix_path().is_none() && server.addresses.load().is_empty() {
        return ProbeResult::Unknown;
    }
    let until = Instant::now() + within;
    let asked = timeout_at(until, ask(server, health, within)).await;
    match asked.unwrap_or(Err(ProbeError::TooLate)) {
        Ok(status) if status.is_success() => ProbeResult::Well,
        // A redirect is a failure: its target is not this server.
        Ok(status) => ProbeResult::Sick(format!("status {}", status.as_u16())),
        Err(ProbeError::TooLate) if until.elapsed() <= LATE => {
            ProbeResult::Sick(format!("timed out after {within:?}"))
        }
        Err(ProbeError::TooLate | ProbeError::Local) => ProbeResult::Unknown,
        Err(ProbeError::Sick(why)) => ProbeResult::Sick(why.chars().take(WHY_CHARS).collect()),
    }
}

async fn ask(server: &ServerState, health: &Health, within: Duration) -> Result<StatusCode, ProbeError> {
    let stood = connect(server, server.protocol, within).await.map_err(|why| match why {
        NoConnection::Local(_) | NoConnection::Busy | NoConnection::Tunnels | NoConnection::NotHttp1 => {
            ProbeError::Local
        }
        NoConnection::Unreachable(error) => match error.kind() {
            io::ErrorKind::TimedOut => ProbeError::TooLate,
            io::ErrorKind::ConnectionRefused => ProbeError::Sick("refused".into()),
            _ => ProbeError::Sick(error.to_string()),
        },
    })?;
    match stood.stream {
        RawConnection::Plain(stream) => ask_over(server, health, within, stream).await,
        RawConnection::Tls(stream) => ask_over(server, health, within, *stream).await,
        RawConnection::Unix(stream) => ask_over(server, health, within, stream).await,
    }
}

async fn ask_over<S>(
    server: &ServerState,
    health: &Health,
    within: Duration,
    stream: S,
) -> Result<StatusCode, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let target = Uri::builder()
        .scheme(server.server.scheme.as_str())
        .authority(server.authority.as_bytes())
        .path_and_query(health.path.clone());
    if let Some(service) = &health.grpc {
        let target = target.build().map_err(|e| ProbeError::Sick(format!("it cannot be asked: {e}")))?;
        let serving = grpc_health::check(stream, target, service, within).await;
        return serving.map(|()| StatusCode::OK).map_err(ProbeError::Sick);
    }
    let request = Request::get(health.path.as_str()).header(USER_AGENT, "grayling-health");
    let invalid = |e: http::Error| ProbeError::Sick(format!("it cannot be asked: {e}"));
    let answer = match server.protocol {
        Protocol::Http1 => {
            let request = request.header(HOST, &server.authority).header(CONNECTION, "close");
            exchange(stream, request.body(Full::default()).map_err(invalid)?, BODY_BYTES).await
        }
        Protocol::Http2 => {
            let request = request.uri(target.build().map_err(invalid)?);
            exchange_http2(stream, request.body(Full::default()).map_err(invalid)?).await
        }
    };
    match answer {
        Ok(answer) => Ok(answer.status()),
        Err(HttpCallError::TooLong(status)) => Ok(status),
        Err(error) => Err(ProbeError::Sick(format!("no answer: {error}"))),
    }
}

/// Starts HTTP/2 for one probe. The connection ends when the set is dropped.
pub(super) async fn http2_client<S>(
    stream: S,
) -> hyper::Result<(http2::SendRequest<Full<Bytes>>, JoinSet<hyper::Result<()>>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(HEAD_BYTES)
        .handshake(TokioIo::new(stream))
        .await?;
    let mut connections = JoinSet::new();
    connections.spawn(connection);
    Ok((sender, connections))
}

async fn exchange_http2<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, HttpCallError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| HttpCallError::Broken(Box::new(error));
    let (mut sender, _connection) = http2_client(stream).await.map_err(broken)?;
    read_body(sender.send_request(request).await.map_err(broken)?, BODY_BYTES).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::{Scheme, Server, Upstream};
    use crate::upstream::server::{UpstreamState, test_upstream};
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_name_that_was_never_resolved_says_nothing_of_its_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health =
            Health { path: "/healthz".parse().unwrap(), grpc: None, interval: Duration::from_secs(1) };
        let second = Duration::from_secs(1);
        let port = address.port();
        let server = Server { scheme: Scheme::Http, host: "billing.internal".into(), port };
        let upstream = Upstream { health: Some(health.clone()), ..test_upstream(vec![server]) };
        let upstream = UpstreamState::new(Arc::new(upstream), None);
        let server = &upstream.servers[0];
        assert_eq!(probe(server, &health, second).await, ProbeResult::Unknown);
        // With an address it is probed there.
        server.addresses.store(vec![address]);
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        });
        assert_eq!(probe(server, &health, Duration::from_secs(10)).await, ProbeResult::Well);
        // The listener is closed by now.
        assert_eq!(
            probe(server, &health, Duration::from_secs(10)).await,
            ProbeResult::Sick("refused".into())
        );
    }
}
