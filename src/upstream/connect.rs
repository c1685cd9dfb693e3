//! New connections to servers: TCP, then TLS where the server is https.
//!
//! Invariants: a dead address does not use up the time of the others.
//! An https server is never spoken to in plain text.

use crate::domain::config::{Protocol, Scheme};
use crate::net::tls::{self, AgreedProtocol};
use crate::upstream::pool::NoConnection;
use crate::upstream::server::{ServerState, is_local};
use socket2::SockRef;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

pub(super) fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "not within connect_timeout")
}

/// An open connection; with TLS, the server's identity is verified.
pub enum RawConnection {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Connects and does the handshake. Tries the addresses in turn, with a different first one each
/// time. Each gets its share of the remaining time, so that a dead one does not use up that of the
/// others. `protocol`: HTTP/1.1 also for a WebSocket to an HTTP/2 server.
pub async fn connect(
    server: &ServerState,
    protocol: Protocol,
    at_most: Duration,
) -> Result<RawConnection, NoConnection> {
    let addresses = server.addresses.load_full();
    let unresolved = || io::Error::new(io::ErrorKind::NotFound, "its name does not resolve");
    let mut failure = NoConnection::Unreachable(unresolved());
    let (until, count, first) = (Instant::now() + at_most, addresses.len(), server.next_address());
    for tried in 0..count {
        let address = addresses[(first + tried) % count];
        let share = until.saturating_duration_since(Instant::now()) / (count - tried) as u32;
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            // Requests are small and written whole: Nagle's algorithm would only delay them.
            let _ = stream.set_nodelay(true);
            let socket = SockRef::from(&stream);
            let _ = socket.set_tcp_keepalive(&crate::net::keepalive());
            let _ = socket.set_tcp_user_timeout(Some(crate::net::ACKNOWLEDGED_WITHIN));
            secure(server, protocol, stream).await
        };
        let connected = timeout_at(Instant::now() + share, connecting).await;
        match connected.unwrap_or_else(|_| Err(too_late())) {
            Ok(stood) => return Ok(stood),
            Err(error) if protocol != server.protocol && is_alpn_refusal(&error) => {
                return Err(NoConnection::NotHttp1);
            }
            Err(error) if is_local(&error) => return Err(NoConnection::Local(error)),
            Err(error) => failure = NoConnection::Unreachable(error),
        }
    }
    Err(failure)
}

/// The server speaks none of the offered protocols (RFC 7301 §3.2), or picks another one.
fn is_alpn_refusal(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(
        cause,
        Some(
            rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)
                | rustls::Error::PeerMisbehaved(rustls::PeerMisbehaved::SelectedUnofferedApplicationProtocol)
        )
    )
}

async fn secure(server: &ServerState, protocol: Protocol, stream: TcpStream) -> io::Result<RawConnection> {
    let Some(tls) = &server.tls else {
        return match server.server.scheme {
            Scheme::Http => Ok(RawConnection::Plain(stream)),
            // Never falls back to plain text.
            Scheme::Https => Err(io::Error::other("TLS is not set up")),
        };
    };
    let config = if protocol == server.protocol {
        tls.built.config.clone()
    } else {
        let mut config = rustls::ClientConfig::clone(&tls.built.config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    };
    let (stream, agreed) = tls::connect(config, tls.name.clone(), stream).await?;
    match (protocol, agreed) {
        (Protocol::Http2, AgreedProtocol::Http1) => Err(io::Error::other("the server does not speak HTTP/2")),
        (Protocol::Http1, _) | (Protocol::Http2, AgreedProtocol::Http2) => {
            Ok(RawConnection::Tls(Box::new(stream)))
        }
    }
}
