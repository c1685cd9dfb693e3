//! New connections to servers: TCP, then TLS where the server is https; or a unix socket.
//!
//! Invariants: a dead address does not use up the time of the others. It delays the requests that
//! meet it first by a quarter of a second at most; from then on it is tried last.
//! An https server is never spoken to in plain text.

use crate::domain::config::{Protocol, Scheme};
use crate::net::tls::{self, AgreedProtocol};
use crate::upstream::pool::NoConnection;
use crate::upstream::server::{ServerState, is_local};
use socket2::SockRef;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout_at};

/// RFC 8305, 5 and 8: the recommended "connection attempt delay".
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);
/// How long an attempt outside of any request may take.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The pause before a unix socket whose queue is full is tried again.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);

pub(super) fn too_late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "not within connect_timeout")
}

/// An open connection; with TLS, the server's identity is verified.
pub enum RawConnection {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Unix(UnixStream),
}

/// An open connection and the address that it leads to.
pub struct Connected {
    pub stream: RawConnection,
    /// `None`: a unix socket.
    pub address: Option<SocketAddr>,
}

/// A connection that is being opened, and its address.
type Attempt<'a> = (SocketAddr, Pin<Box<dyn Future<Output = io::Result<RawConnection>> + Send + 'a>>);

/// Connects and does the handshake.
/// Tries the addresses in turn, a different one first each time and dead ones last.
///
/// # Errors
/// No address could be connected to within `at_most`, or this machine lacks the means.
/// [`NoConnection::NotHttp1`]: an HTTP/2 server of which HTTP/1.1 is wanted, for a WebSocket.
pub async fn connect(
    server: &ServerState,
    protocol: Protocol,
    at_most: Duration,
) -> Result<Connected, NoConnection> {
    let until = Instant::now() + at_most;
    if let Some(path) = server.server.unix_path() {
        return match timeout_at(until, open_unix(path)).await.unwrap_or_else(|_| Err(too_late())) {
            Ok(stream) => Ok(Connected { stream: RawConnection::Unix(stream), address: None }),
            Err(error) if is_local(&error) => Err(NoConnection::Local(error)),
            Err(error) => Err(NoConnection::Unreachable(error)),
        };
    }
    let connected = match *server.addresses.in_order() {
        [] => {
            let unresolved = io::Error::new(io::ErrorKind::NotFound, "its name does not resolve");
            Err(NoConnection::Unreachable(unresolved))
        }
        [address] => match timeout_at(until, open(server, protocol, address)).await {
            Ok(Ok(stream)) => Ok(Connected { stream, address: Some(address) }),
            Ok(Err(error)) if is_alpn_refusal(server, protocol, &error) => Err(NoConnection::NotHttp1),
            Ok(Err(error)) if is_local(&error) => Err(NoConnection::Local(error)),
            Ok(Err(error)) => Err(NoConnection::Unreachable(error)),
            Err(_) => Err(NoConnection::Unreachable(too_late())),
        },
        // Boxed: most servers have one address.
        ref addresses => Box::pin(race(server, protocol, addresses, until)).await,
    };
    if matches!(connected, Err(NoConnection::Unreachable(_))) {
        server.want_lookup();
    }
    connected
}

/// Opens a connection to the first address that accepts one (RFC 8305).
/// The next address is tried when one has failed, or after [`NEXT_ADDRESS_AFTER`]; the attempts
/// before it go on. An attempt that a later one has overtaken counts as failed.
async fn race(
    server: &ServerState,
    protocol: Protocol,
    addresses: &[SocketAddr],
    until: Instant,
) -> Result<Connected, NoConnection> {
    let share = until.saturating_duration_since(Instant::now()) / u32::try_from(addresses.len()).unwrap_or(1);
    let pause = NEXT_ADDRESS_AFTER.min(share);
    let mut waiting = addresses.iter();
    let mut attempts: Vec<Attempt<'_>> = Vec::with_capacity(addresses.len());
    let (mut failure, mut local) = (too_late(), None);
    let note_failed = |address| {
        server.addresses.note_failed(address);
        server.want_lookup();
    };
    loop {
        match waiting.next() {
            Some(address) => attempts.push((*address, Box::pin(open(server, protocol, *address)))),
            None if attempts.is_empty() => return Err(local.unwrap_or(NoConnection::Unreachable(failure))),
            None => {}
        }
        let next_at = if waiting.as_slice().is_empty() { until } else { until.min(Instant::now() + pause) };
        match timeout_at(next_at, first_of(&mut attempts)).await {
            Ok((index, address, Ok(stream))) => {
                attempts.drain(..index).for_each(|(slower, _)| note_failed(slower));
                server.addresses.note_connected(address);
                return Ok(Connected { stream, address: Some(address) });
            }
            Ok((_, _, Err(error))) if is_alpn_refusal(server, protocol, &error) => {
                return Err(NoConnection::NotHttp1);
            }
            // Another address may need other means: this machine may lack IPv6.
            Ok((_, _, Err(error))) if is_local(&error) => local = Some(NoConnection::Local(error)),
            Ok((_, address, Err(error))) => {
                note_failed(address);
                failure = error;
            }
            Err(_) if Instant::now() >= until => {
                attempts.drain(..).for_each(|(late, _)| note_failed(late));
                return Err(NoConnection::Unreachable(too_late()));
            }
            Err(_) => {}
        }
    }
}

/// Waits for the first attempt to end, and removes it: its index, its address, its result.
async fn first_of(attempts: &mut Vec<Attempt<'_>>) -> (usize, SocketAddr, io::Result<RawConnection>) {
    poll_fn(|cx| {
        for index in 0..attempts.len() {
            if let Poll::Ready(result) = attempts[index].1.as_mut().poll(cx) {
                let (address, _) = attempts.remove(index);
                return Poll::Ready((index, address, result));
            }
        }
        Poll::Pending
    })
    .await
}

/// Tries the dead addresses whose pause is over. No request waits for it.
pub async fn retry_dead(server: &ServerState) {
    for address in server.addresses.take_due() {
        let opened = timeout_at(Instant::now() + RETRY_MAX, open(server, server.protocol, address)).await;
        match opened.unwrap_or_else(|_| Err(too_late())) {
            Ok(_) => server.addresses.note_connected(address),
            // Says nothing of the address.
            Err(error) if is_local(&error) => {}
            Err(_) => server.addresses.note_failed(address),
        }
    }
}

/// A full queue of the listener refuses at once, unlike that of TCP: waits for room in it.
async fn open_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(QUEUE_FULL_PAUSE).await,
            opened => return opened,
        }
    }
}

async fn open(server: &ServerState, protocol: Protocol, address: SocketAddr) -> io::Result<RawConnection> {
    let stream = TcpStream::connect(address).await?;
    // Requests are small and written whole: Nagle's algorithm would only delay them.
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(&stream);
    let _ = socket.set_tcp_keepalive(&crate::net::keepalive());
    let _ = socket.set_tcp_user_timeout(Some(crate::net::ACKNOWLEDGED_WITHIN));
    secure(server, protocol, stream).await
}

/// The server speaks none of the offered protocols (RFC 7301 §3.2), or picks another one.
fn is_alpn_refusal(server: &ServerState, protocol: Protocol, error: &io::Error) -> bool {
    if protocol == server.protocol {
        return false;
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Server;
    use crate::upstream::server::{UpstreamState, test_upstream};
    use std::sync::Arc;
    use tokio::net::TcpListener;

    fn server(addresses: Vec<SocketAddr>) -> Arc<ServerState> {
        let server = Server { scheme: Scheme::Http, host: "billing.internal".into(), port: 80 };
        let upstream = test_upstream(vec![server]);
        let server = UpstreamState::new(Arc::new(upstream), None).servers[0].clone();
        server.addresses.store(addresses);
        server
    }

    /// An address that answers nothing, as long as the value lives: the queue of its listener is
    /// full.
    fn black_hole() -> (SocketAddr, impl Sized) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut filling = vec![];
        let within = Duration::from_millis(200);
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, within) {
            filling.push(stream);
            assert!(filling.len() < 16, "its queue does not fill");
        }
        (address, (socket, filling))
    }

    #[tokio::test]
    async fn a_dead_address_is_overtaken_once_and_tried_last_from_then_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let (dead, _full) = black_hole();
        let server = server(vec![dead, live]);
        let began = Instant::now();
        let ten = Duration::from_secs(10);
        for _ in 0..2 {
            assert_eq!(connect(&server, Protocol::Http1, ten).await.ok().unwrap().address, Some(live));
        }
        assert!(began.elapsed() < ten / 2, "the dead address took its share of the time");
        assert!(began.elapsed() >= NEXT_ADDRESS_AFTER, "it was tried first");
        assert!(server.is_lookup_wanted());
        for _ in 0..3 {
            assert_eq!(server.addresses.in_order(), [live, dead]);
            assert_eq!(connect(&server, Protocol::Http1, ten).await.ok().unwrap().address, Some(live));
        }
    }

    #[tokio::test]
    async fn a_refused_address_passes_its_turn_on_and_comes_back_when_it_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let live = listener.local_addr().unwrap();
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = server(vec![refusing, live]);
        for _ in 0..2 {
            assert_eq!(
                connect(&server, Protocol::Http1, Duration::from_secs(10)).await.ok().unwrap().address,
                Some(live)
            );
        }
        assert_eq!(server.addresses.in_order(), [live, refusing]);
        let _back = std::net::TcpListener::bind(refusing).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while server.addresses.in_order()[0] != refusing {
            assert!(Instant::now() < until, "it was not tried again");
            retry_dead(&server).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn without_a_live_address_the_error_is_that_of_the_server_and_comes_in_time() {
        let ((first, _full), (second, _full_too)) = (black_hole(), black_hole());
        let server = server(vec![first, second]);
        let began = Instant::now();
        let failed = connect(&server, Protocol::Http1, Duration::from_millis(300)).await.err();
        assert!(matches!(failed, Some(NoConnection::Unreachable(e)) if e.kind() == io::ErrorKind::TimedOut));
        assert!(began.elapsed() >= Duration::from_millis(300));
    }
}
