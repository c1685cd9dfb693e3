//! An HTTP/2 origin in plain text, by prior knowledge: a thread with its own runtime, and a
//! behaviour that can change at run time.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq)]
pub enum H2Behaviour {
    /// `NAME METHOD AUTHORITY PATH BODY-BYTES`.
    Answer,
    /// A body that ends in the middle: the stream is reset.
    CutBody,
    /// A first piece, and then no more data.
    Stall,
    /// The same before the request has been received in full.
    StallAtOnce,
    /// Like `Stall` for POSTs; an answer to all other requests.
    StallPosts,
    /// A body that never ends.
    Endless,
    Delay(Duration),
}

struct Shared {
    name: String,
    behaviour: Mutex<H2Behaviour>,
    connections: AtomicU64,
    requests: AtomicU64,
    /// Bodies that were dropped before their end.
    broken_off: Arc<AtomicU64>,
    /// `x-key` of every complete request.
    keys: Mutex<Vec<String>>,
    /// `te` of every request: its lines.
    te: Mutex<Vec<Vec<String>>>,
    /// Connections are closed as soon as they are established.
    deaf: AtomicBool,
    hang_up: tokio::sync::Notify,
}

pub struct H2Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl H2Origin {
    pub fn start(name: &str) -> H2Origin {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            name: name.into(),
            behaviour: Mutex::new(H2Behaviour::Answer),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            broken_off: Arc::default(),
            keys: Mutex::default(),
            te: Mutex::default(),
            deaf: AtomicBool::new(false),
            hang_up: tokio::sync::Notify::new(),
        });
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let inside = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, inside) => {}
                    _ = stopped => {}
                }
            });
        });
        H2Origin { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn behave(&self, behaviour: H2Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// Ends every connection at once.
    pub fn hang_up(&self) {
        self.shared.hang_up.notify_waiters();
    }

    /// From now on connections are closed as soon as they are established, or no longer.
    pub fn deaf(&self, deaf: bool) {
        self.shared.deaf.store(deaf, Ordering::Relaxed);
    }

    pub fn keys(&self) -> Vec<String> {
        self.shared.keys.lock().unwrap().clone()
    }

    /// The lines of `te` in the last request.
    pub fn te(&self) -> Vec<String> {
        self.shared.te.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    pub fn broken_off(&self) -> u64 {
        self.shared.broken_off.load(Ordering::Relaxed)
    }

    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.stop.take().map(|s| s.send(()));
        self.thread.take().map(|t| t.join());
    }
}

async fn accept(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        shared.connections.fetch_add(1, Ordering::Relaxed);
        let (shared, inside) = (shared.clone(), shared.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(shared.clone(), request));
            let builder = hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
            if inside.deaf.load(Ordering::Relaxed) {
                return;
            }
            tokio::select! {
                _ = builder.serve_connection(TokioIo::new(stream), service) => {}
                () = inside.hang_up.notified() => {}
            }
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Either<Full<Bytes>, Pieces>>, Infallible> {
    shared.requests.fetch_add(1, Ordering::Relaxed);
    let (parts, body) = request.into_parts();
    let te = parts.headers.get_all("te").iter().map(|v| v.to_str().unwrap().to_owned()).collect();
    shared.te.lock().unwrap().push(te);
    if *shared.behaviour.lock().unwrap() == H2Behaviour::StallAtOnce {
        let broken_off = shared.broken_off.clone();
        let first = Some(Bytes::from_static(b"first"));
        let pieces = Pieces { first, then: Then::Nothing, broken_off, _request: Some(body) };
        return Ok(Response::new(Either::Right(pieces)));
    }
    let body = body.collect().await;
    if let (Ok(_), Some(key)) = (&body, parts.headers.get("x-key")) {
        shared.keys.lock().unwrap().push(key.to_str().unwrap_or_default().to_owned());
    }
    let received = body.map_or(0, |b| b.to_bytes().len());
    let behaviour = *shared.behaviour.lock().unwrap();
    if let H2Behaviour::Delay(time) = behaviour {
        tokio::time::sleep(time).await;
    }
    let authority = parts.uri.authority().map_or("-", |a| a.as_str());
    let text = format!("{} {} {authority} {} {received}", shared.name, parts.method, parts.uri.path());
    let pieces = |first: Option<String>, then| {
        let broken_off = shared.broken_off.clone();
        Either::Right(Pieces { first: first.map(Bytes::from), then, broken_off, _request: None })
    };
    let body = match behaviour {
        H2Behaviour::StallPosts if parts.method == "POST" => pieces(Some(text), Then::Nothing),
        H2Behaviour::Answer | H2Behaviour::Delay(_) | H2Behaviour::StallPosts => {
            Either::Left(Full::new(text.into()))
        }
        H2Behaviour::Endless => pieces(None, Then::More),
        H2Behaviour::CutBody => {
            let fault = Box::pin(tokio::time::sleep(Duration::from_millis(50)));
            pieces(Some(text), Then::Fault(fault))
        }
        H2Behaviour::Stall | H2Behaviour::StallAtOnce => pieces(Some(text), Then::Nothing),
    };
    Ok(Response::new(body))
}

struct Pieces {
    first: Option<Bytes>,
    then: Then,
    broken_off: Arc<AtomicU64>,
    _request: Option<Incoming>,
}

impl Drop for Pieces {
    fn drop(&mut self) {
        self.broken_off.fetch_add(1, Ordering::Relaxed);
    }
}

enum Then {
    Nothing,
    More,
    /// A reset overtakes data that are not sent yet: it has to wait.
    Fault(Pin<Box<tokio::time::Sleep>>),
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        static PIECE: [u8; 16 << 10] = [b'x'; 16 << 10];
        if let Some(piece) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match &mut self.then {
            Then::Nothing => Poll::Pending,
            Then::More => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&PIECE))))),
            Then::Fault(wait) => wait.as_mut().poll(cx).map(|()| Some(Err(io::Error::other("cut")))),
        }
    }
}
