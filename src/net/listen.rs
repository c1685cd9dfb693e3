//! Listening sockets, and the client's side of a connection.
//!
//! Every worker has a socket of its own on the same port (SO_REUSEPORT within one process), so the
//! kernel spreads the connections and nothing is shared on accept.
//!
//! [`ClientStream`] enforces what hyper has no timer for, or one that means something else. A head
//! has `header_timeout` from its first byte, and so has the first byte of all; between two requests
//! a client may be silent for `keepalive_timeout` (hyper has one timer for these, and sets it anew
//! for each request); and a client that takes nothing of what is written to it for
//! `body_idle_timeout` is closed.
//!
//! A connection that is closed while its client still sends is reset by the kernel, and the answer
//! (a 431, a 413 of the upstream) may never be read. So the end is said first, and what still comes
//! is thrown away for a second at most (RFC 9112 §9.6). Not so of a tunnel, of which only one
//! direction has ended then.

use super::alarm::Alarm;
use super::tls::Agreed;
use socket2::{Domain, Protocol, Socket, Type};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

const BACKLOG: i32 = 4096;

/// One socket per worker, all on the same address. Port 0 is allowed: all get the one that the
/// first was given.
pub fn bind_workers(address: SocketAddr, workers: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if workers > 1 && address.port() != 0 {
        // With SO_REUSEPORT a second process would silently take a share of the users: without it,
        // it is told.
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
    // On Linux what is accepted inherits it, at no cost.
    socket.set_tcp_keepalive(&super::keepalive())?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Where a client connection stands; shared with the service that answers its requests. Atomic only
/// because hyper wants to be able to send a connection that may become a tunnel to another thread.
#[derive(Default)]
pub struct Progress(AtomicU8);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    /// No byte yet.
    Fresh,
    /// Between two requests: no byte of the next one yet.
    Idle,
    /// A head is coming in.
    Head,
    /// A request is being answered.
    Busy,
    /// HTTP/2, which has its own limits.
    Http2,
    /// No HTTP any more: there is no head to wait for.
    Tunnel,
}

impl Stage {
    const ALL: [Stage; 6] =
        [Stage::Fresh, Stage::Idle, Stage::Head, Stage::Busy, Stage::Http2, Stage::Tunnel];
}

impl Progress {
    pub fn request_began(&self) {
        if !self.is_http2() {
            self.enter(Stage::Busy);
        }
    }

    pub fn is_http2(&self) -> bool {
        self.stage() == Stage::Http2
    }

    /// The response has been handed over whole: what comes next is a new head. HTTP/1 only.
    pub fn request_ended(&self) {
        self.enter(Stage::Idle);
    }

    /// What was HTTP/1.1 is a tunnel from now on.
    pub fn switched(&self) {
        self.enter(Stage::Tunnel);
    }

    fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Relaxed);
    }

    fn stage(&self) -> Stage {
        Stage::ALL[usize::from(self.0.load(Relaxed)) % Stage::ALL.len()]
    }
}

/// How long a client is waited for.
#[derive(Clone, Copy)]
pub struct Patience {
    /// For its first byte.
    pub first: Duration,
    /// For the first byte of its next request.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// To take a piece of what is written to it.
    pub write: Duration,
}

/// How long, and how much, a client may go on sending after the end of what it is told.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9110 §15.5.9. Nothing else can be on its way to the client then: it is between two answers.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A client's stream, TCP or TLS, with deadlines for request heads and for writing.
pub struct ClientStream<S> {
    inner: S,
    progress: Arc<Progress>,
    patience: Patience,
    /// What is expected next of [`PREFACE`]; nothing once it was HTTP/1 after all.
    preface: &'static [u8],
    /// What was read to see which protocol it is.
    ahead: Vec<u8>,
    /// When it has been silent, or busy with a head, for too long: of the stage that it was seen
    /// in.
    silent_until: Option<(Stage, Instant)>,
    alarm: Alarm,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Since the end was said: until when, and how much was thrown away.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    pub fn new(stream: S, progress: Arc<Progress>, patience: Patience) -> Self {
        ClientStream {
            inner: stream,
            progress,
            patience,
            preface: PREFACE,
            ahead: Vec::new(),
            silent_until: None,
            alarm: Alarm::default(),
            write_timer: None,
            linger: None,
        }
    }

    /// Waits for the first bytes, which say what the client speaks.
    ///
    /// # Errors
    /// There were none in time, or none at all.
    pub async fn speaks(&mut self) -> io::Result<Agreed>
    where
        S: AsyncRead,
    {
        while !self.preface.is_empty() {
            let mut bytes = [MaybeUninit::uninit(); PREFACE.len()];
            let mut bytes = ReadBuf::uninit(&mut bytes[..self.preface.len()]);
            poll_fn(|cx| self.poll_more(cx, &mut bytes)).await?;
            if bytes.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.ahead.extend_from_slice(bytes.filled());
        }
        Ok(if self.progress.is_http2() { Agreed::Http2 } else { Agreed::Http1 })
    }

    /// Reads, within the time that the client has.
    fn poll_more(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead,
    {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let stage = self.progress.stage();
        if polled.is_pending() {
            ready!(self.waits(stage, cx));
            return Poll::Ready(Err(self.too_slow(cx)));
        }
        if matches!(stage, Stage::Fresh | Stage::Idle | Stage::Head) && buffer.filled().len() > before {
            self.began(&buffer.filled()[before..]);
        }
        polled
    }

    /// Bytes came while no request was being answered.
    fn began(&mut self, bytes: &[u8]) {
        let compared = self.preface.len().min(bytes.len());
        let is_preface = compared > 0 && bytes[..compared] == self.preface[..compared];
        self.preface = if is_preface { &self.preface[compared..] } else { b"" };
        let stage = if is_preface && self.preface.is_empty() { Stage::Http2 } else { Stage::Head };
        if self.progress.stage() != stage {
            self.progress.enter(stage);
            self.silent_until = None;
        }
    }

    /// Nothing has come. Ready if the client has had its time.
    fn waits(&mut self, stage: Stage, cx: &mut Context<'_>) -> Poll<()> {
        let patience = match stage {
            Stage::Fresh => self.patience.first,
            Stage::Idle => self.patience.idle,
            Stage::Head => self.patience.head,
            Stage::Busy | Stage::Http2 | Stage::Tunnel => {
                self.silent_until = None;
                return Poll::Pending;
            }
        };
        let until = match self.silent_until {
            Some((of, until)) if of == stage => until,
            _ => Instant::now() + patience,
        };
        self.silent_until = Some((stage, until));
        ready!(self.alarm.poll(cx, until));
        // It still has an answer to read, which has a time of its own.
        if stage == Stage::Idle && self.write_timer.is_some() {
            let until = Instant::now() + patience;
            self.silent_until = Some((stage, until));
            return self.alarm.poll(cx, until);
        }
        Poll::Ready(())
    }

    fn too_slow(&mut self, cx: &mut Context<'_>) -> io::Error {
        let may_be_told = self.progress.stage() == Stage::Head && self.write_timer.is_none();
        if may_be_told && self.preface.is_empty() {
            // The buffer of a socket that nothing was written to takes these few bytes, or the
            // client is gone.
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
        if !self.ahead.is_empty() {
            let fits = self.ahead.len().min(buffer.remaining());
            let rest = self.ahead.split_off(fits);
            buffer.put_slice(&std::mem::replace(&mut self.ahead, rest));
            return Poll::Ready(Ok(()));
        }
        self.poll_more(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The library does not read again between two requests until something has come: this is
        // the last that is heard of it.
        if self.progress.stage() == Stage::Idle && self.waits(Stage::Idle, cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.written(cx, flushed.map_ok(|()| 0)).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
        }
        // The client of a tunnel may go on: what it sends is the server's.
        if this.progress.stage() == Stage::Tunnel {
            return Poll::Ready(Ok(()));
        }
        let (until, thrown) = this.linger.get_or_insert_with(|| (Box::pin(tokio::time::sleep(LINGER)), 0));
        let mut piece = [const { MaybeUninit::uninit() }; 4096];
        while *thrown < LINGER_BYTES_MAX {
            let mut piece = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut this.inner).poll_read(cx, &mut piece) {
                Poll::Ready(Ok(())) if !piece.filled().is_empty() => *thrown += piece.filled().len(),
                // The client has ended, too.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => return until.as_mut().poll(cx).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
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
