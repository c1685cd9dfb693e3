//! Listening sockets, and the client's side of a connection.
//!
//! Every worker has a socket of its own on the same port (SO_REUSEPORT within one process), so the kernel spreads the
//! connections and nothing is shared on accept.
//!
//! [`ClientStream`] enforces what hyper has no timer for, or one that means something else. A head has `header_timeout` from its first byte
//! (hyper's own timer also runs between two requests, where `keepalive_timeout` is meant, so hyper gets that one); the first byte of all
//! has `keepalive_timeout`, which hyper does not watch while it waits to see which protocol it is; and a client that takes nothing of
//! what is written to it for `body_idle_timeout` is closed.

use socket2::{Domain, Protocol, Socket, Type};
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

const BACKLOG: i32 = 4096;

/// One socket per worker, all on the same address. Port 0 is allowed: all get the one that the first was given.
pub fn bind_workers(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if workers > 1 && address.port() != 0 {
        // With SO_REUSEPORT a second process would silently take a share of the users: without it, it is told.
        drop(bind(address, false)?);
    }
    let first = bind(address, workers > 1)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind(address, true)?);
    }
    Ok((address, sockets))
}

fn bind(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where a client connection stands; shared with the service that answers its requests.
#[derive(Default)]
pub struct Progress(Cell<Stage>);

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Stage {
    /// No byte yet.
    #[default]
    Fresh,
    /// Between two requests: no byte of the next one yet.
    Idle,
    /// A head is coming in.
    Head,
    /// A request is being answered.
    Busy,
    /// HTTP/2, which has its own limits.
    Http2,
}

impl Progress {
    pub fn request_began(&self) {
        if !self.is_http2() {
            self.0.set(Stage::Busy);
        }
    }

    pub fn is_http2(&self) -> bool {
        self.0.get() == Stage::Http2
    }

    /// The response has been handed over whole: what comes next is a new head. HTTP/1 only.
    pub fn request_ended(&self) {
        self.0.set(Stage::Idle);
    }
}

/// How long a client is waited for.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For its first byte.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// To take a piece of what is written to it.
    pub write: Duration,
}

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9110 §15.5.9. Nothing else can be on its way to the client then: it is between two answers.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A client's stream, TCP or TLS, with deadlines for request heads and for writing.
pub struct ClientStream<S> {
    inner: S,
    progress: Rc<Progress>,
    patience: Patience,
    /// What is expected next of [`PREFACE`]; nothing once it was HTTP/1 after all.
    preface: &'static [u8],
    timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    pub fn new(stream: S, progress: Rc<Progress>, patience: Patience) -> Self {
        ClientStream { inner: stream, progress, patience, preface: PREFACE, timer: None, write_timer: None }
    }

    /// Bytes came while no request was being answered.
    fn began(&mut self, bytes: &[u8]) {
        let compared = self.preface.len().min(bytes.len());
        let is_preface = compared > 0 && bytes[..compared] == self.preface[..compared];
        self.preface = if is_preface { &self.preface[compared..] } else { b"" };
        let stage = if is_preface && self.preface.is_empty() { Stage::Http2 } else { Stage::Head };
        if self.progress.0.replace(stage) != stage {
            self.timer = None;
        }
    }

    fn too_slow(&mut self, cx: &mut Context<'_>) -> io::Error {
        let may_be_told = self.progress.0.get() == Stage::Head && self.write_timer.is_none();
        if may_be_told && self.preface.is_empty() {
            // The buffer of a socket that nothing was written to takes these few bytes, or the client is gone.
            let _ = Pin::new(&mut self.inner).poll_write(cx, TOO_SLOW);
        }
        io::Error::new(io::ErrorKind::TimedOut, "request head too slow")
    }

    /// A write that does not move has its time, too.
    fn written(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.write_timer = None;
            return polled;
        }
        let patience = self.patience.write;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        match timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")))
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let stage = this.progress.0.get();
        match (stage, &polled) {
            (Stage::Busy | Stage::Http2, _) => this.timer = None,
            (_, Poll::Ready(Ok(()))) if buffer.filled().len() > before => {
                this.began(&buffer.filled()[before..])
            }
            (Stage::Fresh | Stage::Head, Poll::Pending) => {
                let timeout = if stage == Stage::Head { this.patience.head } else { this.patience.idle };
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                if timer.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(this.too_slow(cx)));
                }
            }
            _ => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }
}
