//! The two versions of the demo: a small billing service, each with its own thread, runtime and
//! port.
//!
//! Invariants: both do the same work at the same pace and fail at the same low rate. Only the fault
//! that was switched on differs. A fault is real: it is visible on the wire.

use crate::telemetry::random::Random;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// The share of responses that are a 500 in both versions, as in production.
pub const FAILS: f64 = 0.002;
/// The share of responses that the fault turns into a 500.
pub const FAULT_FAILS: f64 = 0.3;
/// The latency that the fault adds to each response.
pub const FAULT_SLOWER_MS: (u64, u64) = (220, 300);
/// The time of normal work, and that of the few slow responses.
const WORK_MS: (u64, u64) = (4, 16);
const LONG_WORK_MS: (u64, u64) = (80, 100);
const LONG_WORK: f64 = 0.005;
/// Size limit of an invoice.
const BODY_BYTES_MAX: usize = 16 << 10;

const HEALTHY: u8 = 0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DemoFault {
    Errors = 1,
    Latency = 2,
}

/// A running version; it ends when dropped.
pub struct DemoService {
    pub address: SocketAddr,
    service: Arc<DemoReply>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct DemoReply {
    version: &'static str,
    /// A [`DemoFault`], or [`HEALTHY`].
    fault: AtomicU8,
    invoices: AtomicU64,
}

impl DemoService {
    pub fn start(version: &'static str) -> io::Result<DemoService> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let service =
            Arc::new(DemoReply { version, fault: AtomicU8::new(HEALTHY), invoices: AtomicU64::new(1000) });
        let (stop, stopped) = oneshot::channel();
        let serving = service.clone();
        let body = move || {
            runtime.block_on(async move {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(version.to_owned()).spawn(body)?;
        Ok(DemoService { address, service, stop: Some(stop), thread: Some(thread) })
    }

    /// Switches the fault on, from the next request.
    pub fn break_with(&self, fault: DemoFault) {
        self.service.fault.store(fault as u8, Relaxed);
    }
}

impl Drop for DemoService {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(listener: TcpListener, service: Arc<DemoReply>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is free; one will be.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let service = service.clone();
        // Ends with its connection, or with the runtime.
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

impl DemoReply {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let random = Random::default();
        let (parts, body) = request.into_parts();
        let Ok(sent) = Limited::new(body, BODY_BYTES_MAX).collect().await else {
            return reply(StatusCode::PAYLOAD_TOO_LARGE, json!({"error": "invoice too large"}));
        };
        let work = if random.chance(LONG_WORK) { LONG_WORK_MS } else { WORK_MS };
        let mut work_ms = random.between(work);
        let mut fails = FAILS;
        match self.fault.load(Relaxed) {
            f if f == DemoFault::Errors as u8 => fails = FAULT_FAILS,
            f if f == DemoFault::Latency as u8 => work_ms += random.between(FAULT_SLOWER_MS),
            _ => {}
        }
        tokio::time::sleep(Duration::from_millis(work_ms)).await;
        if random.chance(fails) {
            return reply(StatusCode::INTERNAL_SERVER_ERROR, json!({"error": "tariff not found"}));
        }
        let user = parts.headers.get("x-user-id").map(|v| String::from_utf8_lossy(v.as_bytes()));
        match (&parts.method, parts.uri.path()) {
            (&Method::GET, "/balance") => reply(
                StatusCode::OK,
                json!({"version": self.version, "user": user, "balance": "12.50", "currency": "EUR"}),
            ),
            (&Method::POST, "/invoices") => reply(
                StatusCode::CREATED,
                json!({"version": self.version, "user": user, "invoice": self.invoices.fetch_add(1, Relaxed),
                       "bytes": sent.to_bytes().len()}),
            ),
            _ => reply(StatusCode::NOT_FOUND, json!({"error": "there is GET /balance and POST /invoices"})),
        }
    }
}

fn reply(status: StatusCode, body: serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{body}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}
