//! The admin API's connections.
//!
//! Invariants: a bounded number of them, each with a deadline for heads, for idling and for a whole request, so that nobody who can
//! reach the port can take the proxy's descriptors, or lock people out for longer than the deadline. A connection that has become a stream of events
//! lives as long as its reader reads, and takes up no room of the others; how many there may be says `events`.

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tower::ServiceExt;

/// Connections at once from elsewhere, and from this machine, which keeps room of its own; further ones are closed.
const CONNECTIONS_MAX: usize = 96;
const CONNECTIONS_LOCAL_MAX: usize = 64;
/// A connection is closed at this age, whatever it does: one that reads nothing holds its room no longer.
const AGE_MAX: Duration = Duration::from_secs(60);
/// What was sent and not acknowledged for so long will not arrive.
const GONE_AFTER: Duration = Duration::from_secs(20);
/// For a request head, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// For a request with its body and its answer's head.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, router: Router) {
    let (room, local) =
        (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::new(Semaphore::new(CONNECTIONS_LOCAL_MAX)));
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or a client that was gone already.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let room = if peer.ip().to_canonical().is_loopback() { &local } else { &room };
        if let Ok(permit) = room.clone().try_acquire_owned() {
            let router = router.clone();
            tokio::spawn(async move {
                let lease = Lease::new(permit);
                tokio::select! {
                    () = connection(stream, peer, router, lease.clone()) => {}
                    () = lease.ends() => {}
                }
            });
        }
    }
}

/// How long a connection may live, and the room that it takes up; in the extensions of each of its requests.
#[derive(Clone)]
pub struct Lease(Arc<Mutex<Terms>>);

struct Terms {
    until: Instant,
    room: Option<OwnedSemaphorePermit>,
}

impl Lease {
    fn new(room: OwnedSemaphorePermit) -> Lease {
        Lease(Arc::new(Mutex::new(Terms { until: Instant::now() + AGE_MAX, room: Some(room) })))
    }

    /// Gives back the room of an ordinary connection: the stream has a bound of its own.
    pub fn becomes_stream(&self) {
        self.terms().room = None;
    }

    /// It lives for so long from now, if not longer.
    pub fn extend(&self, by: Duration) {
        let mut terms = self.terms();
        terms.until = terms.until.max(Instant::now() + by);
    }

    async fn ends(&self) {
        loop {
            let until = self.terms().until;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    fn terms(&self) -> MutexGuard<'_, Terms> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router, lease: Lease) {
    let _ = stream.set_nodelay(true);
    // A peer that is gone without a word does not keep what it was sent, and so a stream, for a quarter of an hour.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(GONE_AFTER));
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(lease.clone());
        let router = router.clone();
        async move {
            match tokio::time::timeout(ANSWER_WITHIN, router.oneshot(request)).await {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(never)) => match never {},
                // hyper closes the connection.
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the request took too long")),
            }
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).half_close(false);
    // How it ended is the client's business.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}
