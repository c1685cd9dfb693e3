//! The connections of the admin API.
//!
//! livez, readyz and `rollback` must be answered whatever other clients of this port do: send
//! nothing, send a byte every few seconds or half a request, read nothing, or open connections in a
//! loop. A full room closes a connection that waits for its client (`room`), so no client has to
//! wait for a time-out to get in.
//!
//! Invariants: the connections, and the bytes buffered for each, are bounded; so are the times for
//! a head, a body and a response. A request has a [`AdminConnection`] on its connection. A
//! connection that has become an event stream lives as long as its reader reads, and has no place
//! in a room: `events` bounds the number of streams.

use super::auth::refuse;
use crate::admin::connection_limit::{AdminStage, Capacity, ConnectionLimit, ConnectionSlot, lock};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::response::Response;
use http::{Method, Request, StatusCode};
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tower::ServiceExt;

/// A connection is closed at this age, whatever it does.
const AGE_MAX: Duration = Duration::from_secs(60);
/// Data unacknowledged for this long will not arrive.
const GONE_AFTER: Duration = Duration::from_secs(20);
/// For a request head, and between two requests.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// For a request with its body and its response head.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Size limit of a request body. The longest legitimate one is a reason of 4 KiB, as JSON.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Size limit of the read buffer, and so of a request head.
const READ_BYTES_MAX: usize = 64 << 10;
/// Delay after a failed accept: the client has left, or there was no descriptor and one was freed.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, router: Router, capacity: Capacity) {
    let (local, remote) = (ConnectionLimit::new(capacity.local), ConnectionLimit::new(capacity.remote));
    let turns = Arc::new(Semaphore::new(1));
    // Evicted connections, whose sockets are closed once this task yields.
    let (mut closing, closing_max) = (0, (capacity.local / 8).max(1));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                let scarce = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
                if scarce && !lock(&remote).evict() {
                    lock(&local).evict();
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let room = if peer.ip().to_canonical().is_loopback() { &local } else { &remote };
        let evicted = Arc::new(Notify::new());
        let (place, full) =
            ConnectionLimit::enter(room, peer.ip(), evicted.clone(), Instant::now().into_std());
        let service = ConnectionService {
            router: router.clone(),
            turns: turns.clone(),
            peer,
            lease: AdminConnection::new(place),
        };
        tokio::spawn(async move {
            let lease = service.lease.clone();
            tokio::select! {
                () = connection(stream, service) => {}
                () = lease.ends() => {}
                () = evicted.notified() => {}
            }
        });
        closing += usize::from(full);
        if closing == closing_max {
            closing = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// The lifetime of a connection, and its place; in the extensions of each of its requests.
#[derive(Clone)]
pub struct AdminConnection(Arc<Mutex<AdminTimeouts>>);

struct AdminTimeouts {
    until: Instant,
    place: Option<ConnectionSlot>,
}

impl AdminConnection {
    fn new(place: ConnectionSlot) -> AdminConnection {
        AdminConnection(Arc::new(Mutex::new(AdminTimeouts {
            until: Instant::now() + AGE_MAX,
            place: Some(place),
        })))
    }

    /// Gives back the place of an ordinary connection: streams have their own limit.
    pub fn becomes_stream(&self) {
        self.terms().place = None;
    }

    /// Extends the connection's life to at least `by` from now.
    pub fn extend(&self, by: Duration) {
        let mut terms = self.terms();
        terms.until = terms.until.max(Instant::now() + by);
    }

    fn enter(&self, stage: AdminStage) {
        if let Some(place) = &self.terms().place {
            place.enter_stage(stage, Instant::now().into_std());
        }
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

    fn terms(&self) -> MutexGuard<'_, AdminTimeouts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the requests of one connection.
#[derive(Clone)]
struct ConnectionService {
    router: Router,
    /// One permit, for all connections.
    turns: Arc<Semaphore>,
    peer: SocketAddr,
    lease: AdminConnection,
}

async fn connection(stream: TcpStream, service: ConnectionService) {
    let _ = stream.set_nodelay(true);
    // Otherwise data for a peer that is gone, and with it a stream, would be kept for a quarter of
    // an hour.
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(GONE_AFTER));
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = service.clone().answer(request);
        async move {
            let answer = tokio::time::timeout(ANSWER_WITHIN, answer).await;
            // hyper closes the connection.
            answer
                .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the request took too long")))
        }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).half_close(false);
    server.max_buf_size(READ_BYTES_MAX);
    // The client causes all such errors.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

impl ConnectionService {
    /// Receives the request whole, and answers it.
    async fn answer(self, request: Request<Incoming>) -> io::Result<Response<SentBody>> {
        let (parts, body) = request.into_parts();
        let response = match Limited::new(body, BODY_BYTES_MAX).collect().await {
            Ok(body) => {
                self.lease.enter(AdminStage::Working);
                let mut request = Request::from_parts(parts, Body::from(body.to_bytes()));
                request.extensions_mut().insert(ConnectInfo(self.peer));
                request.extensions_mut().insert(self.lease.clone());
                self.route(request).await
            }
            Err(error) if error.is::<LengthLimitError>() => {
                let hint = Some(format!("at most {} KiB", BODY_BYTES_MAX >> 10));
                refuse(StatusCode::PAYLOAD_TOO_LARGE, "the body of the request is too long", hint)
            }
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        self.lease.enter(AdminStage::Sending);
        Ok(response.map(|body| SentBody { body, lease: self.lease }))
    }

    /// A read may take milliseconds of this thread (metrics, status), and a client may pipeline
    /// thousands. So reads take turns in order of arrival, and other ready tasks run between two of
    /// them. Changes and an orchestrator's probes do not wait. A read that waits for the disk gives
    /// up its turn.
    async fn route(&self, request: Request<Body>) -> Response {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let costs = reads && !matches!(request.uri().path(), "/livez" | "/readyz");
        let mut response = pin!(self.router.clone().oneshot(request));
        let first = if costs {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            tokio::task::yield_now().await;
            poll_fn(|cx| Poll::Ready(response.as_mut().poll(cx))).await
        } else {
            Poll::Pending
        };
        let answered = match first {
            Poll::Ready(answered) => answered,
            Poll::Pending => response.await,
        };
        answered.unwrap_or_else(|never| match never {})
    }
}

/// A response body. At its end the connection waits for its client again.
struct SentBody {
    body: Body,
    lease: AdminConnection,
}

impl http_body::Body for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for SentBody {
    fn drop(&mut self) {
        self.lease.enter(AdminStage::Receiving);
    }
}
