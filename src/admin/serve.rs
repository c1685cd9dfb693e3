//! The admin API's connections.
//!
//! Invariants: a bounded number of them, each with a deadline for heads, for idling and for a whole request, so that nobody who can
//! reach the port can take the proxy's descriptors, or lock people out for longer than the deadline.

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
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

/// Connections at once from elsewhere, and from this machine, which keeps room of its own; further ones are closed.
const CONNECTIONS_MAX: usize = 96;
const CONNECTIONS_LOCAL_MAX: usize = 64;
/// A connection is closed at this age, whatever it does: one that reads nothing holds its room no longer.
const AGE_MAX: Duration = Duration::from_secs(60);
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
                let _ = tokio::time::timeout(AGE_MAX, connection(stream, peer, router)).await;
                drop(permit);
            });
        }
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, router: Router) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
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
