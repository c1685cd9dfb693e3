//! Listening sockets, and the client's side of a connection.
//!
//! Every worker has a socket of its own on the same port (SO_REUSEPORT within one process), so the kernel spreads the
//! connections and nothing is shared on accept.
//!
//! [`ClientStream`] enforces `header_timeout`: hyper's own timer also runs between two requests, where
//! `keepalive_timeout` is meant, so hyper gets that one, and the time a head takes is watched here, from its first byte.

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
    /// Between two requests: no byte of the next one yet.
    #[default]
    Idle,
    /// A head is coming in.
    Head,
    /// A request is being answered; or this is HTTP/2, which has its own limits.
    Busy,
}

impl Progress {
    pub fn request_began(&self) {
        self.0.set(Stage::Busy);
    }

    /// The response has been handed over whole: what comes next is a new head. HTTP/1 only.
    pub fn request_ended(&self) {
        self.0.set(Stage::Idle);
    }
}

/// A client's stream, TCP or TLS, with a deadline for request heads.
pub struct ClientStream<S> {
    inner: S,
    progress: Rc<Progress>,
    header_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Bytes of the HTTP/2 preface (RFC 9113 §3.4) that have come; none any more once something else came.
    preface: Option<usize>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<S> ClientStream<S> {
    pub fn new(stream: S, progress: Rc<Progress>, header_timeout: Duration) -> Self {
        ClientStream { inner: stream, progress, header_timeout, timer: None, preface: Some(0) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.inner).poll_read(cx, buffer);
        match (this.progress.0.get(), &polled) {
            (Stage::Busy, _) => this.timer = None,
            (Stage::Idle | Stage::Head, Poll::Ready(Ok(()))) if buffer.filled().len() > before => {
                this.progress.0.set(Stage::Head);
                if let Some(seen) = this.preface {
                    let came = &buffer.filled()[before..];
                    let wanted = &PREFACE[seen..];
                    let n = came.len().min(wanted.len());
                    this.preface = (came[..n] == wanted[..n]).then_some(seen + n);
                    if this.preface == Some(PREFACE.len()) {
                        this.progress.0.set(Stage::Busy);
                    }
                }
            }
            // A connection that has never said anything has not earned the patience for one between two requests.
            (Stage::Idle, Poll::Pending) if this.preface != Some(0) => this.timer = None,
            (Stage::Idle | Stage::Head, Poll::Pending) => {
                let timeout = this.header_timeout;
                let timer = this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
                if timer.as_mut().poll(cx).is_ready() {
                    let slow = io::Error::new(io::ErrorKind::TimedOut, "request head too slow");
                    return Poll::Ready(Err(slow));
                }
            }
            _ => {}
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
}
