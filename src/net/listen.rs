//! Listening sockets, and the client's side of a connection.
//!
//! Every worker has its own socket on the same port (SO_REUSEPORT within one process).
//! The kernel spreads the connections, and workers share nothing on accept.
//!
//! [`ClientStream`] enforces the time-outs that hyper lacks or defines otherwise:
//! * `header_timeout`: from the first byte of a request head to its end, and for the first byte of
//!   the connection.
//! * `keepalive_timeout`: between two requests. hyper has one timer for both and restarts it for
//!   each request.
//! * `body_idle_timeout`: for a client that takes nothing of what is written to it.
//!
//! The kernel resets a connection that is closed while its client still sends.
//! The client may then never read the response (a 431, a 413 of the upstream).
//! So the write half is shut down first, and further input is discarded for a second at most (RFC
//! 9112 §9.6). A tunnel is exempt: only one of its directions has ended.

use super::tls::AgreedProtocol;
use crate::net::lazy_timer::LazyTimer;
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

/// Whether an IPv6 wildcard address takes IPv4 connections, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DualStack {
    /// As the system is configured (net.ipv6.bindv6only); by default it does.
    System,
    Ipv6Only,
}

/// Binds one socket per worker, all on the same address. With port 0 all get the port of the first.
pub fn bind_workers(
    address: SocketAddr,
    workers: usize,
    stack: DualStack,
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    if workers > 1 && address.port() != 0 {
        // With SO_REUSEPORT a second process would silently take a share of the users.
        // A bind without it fails instead.
        drop(bind(address, false, stack)?);
    }
    let first = bind(address, workers > 1, stack)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        sockets.push(bind(address, true, stack)?);
    }
    Ok((address, sockets))
}

fn bind(address: SocketAddr, shared: bool, stack: DualStack) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if stack == DualStack::Ipv6Only {
        socket.set_only_v6(true)?;
    }
    // On Linux an accepted socket inherits it at no cost.
    socket.set_tcp_keepalive(&super::keepalive())?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The stage of a client connection, shared with the service that answers its requests.
/// Atomic only because hyper requires `Send` of a connection that may be upgraded.
#[derive(Default)]
pub struct ConnectionState(AtomicU8);

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum ConnectionStage {
    /// No byte yet.
    Fresh,
    /// Between two requests: no byte of the next one yet.
    Idle,
    /// A request head is being read.
    Head,
    /// A request is being answered.
    Busy,
    /// HTTP/2, which has its own limits.
    Http2,
    /// Not HTTP any more: no further head is expected.
    Tunnel,
}

impl ConnectionStage {
    const ALL: [ConnectionStage; 6] = [
        ConnectionStage::Fresh,
        ConnectionStage::Idle,
        ConnectionStage::Head,
        ConnectionStage::Busy,
        ConnectionStage::Http2,
        ConnectionStage::Tunnel,
    ];
}

impl ConnectionState {
    pub fn request_began(&self) {
        if !self.is_http2() {
            self.enter(ConnectionStage::Busy);
        }
    }

    pub fn is_http2(&self) -> bool {
        self.stage() == ConnectionStage::Http2
    }

    /// The whole response was handed to hyper; the next byte begins a new head. HTTP/1 only.
    pub fn request_ended(&self) {
        self.enter(ConnectionStage::Idle);
    }

    /// The connection has become a tunnel.
    pub fn switched(&self) {
        self.enter(ConnectionStage::Tunnel);
    }

    fn enter(&self, stage: ConnectionStage) {
        self.0.store(stage as u8, Relaxed);
    }

    fn stage(&self) -> ConnectionStage {
        ConnectionStage::ALL[usize::from(self.0.load(Relaxed)) % ConnectionStage::ALL.len()]
    }
}

/// Time-outs of a client.
#[derive(Clone, Copy)]
pub struct ClientTimeouts {
    /// For its first byte.
    pub first: Duration,
    /// For the first byte of its next request.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// To take a part of what is written to it.
    pub write: Duration,
}

/// How long, and how many bytes, a client may go on sending after our write half is shut down.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// RFC 9110 §15.5.9. The stream is between two responses then, so this cannot cut into one.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The client got a 408.
#[derive(Debug, thiserror::Error)]
#[error("the request head came too slowly")]
pub struct SlowHead;

/// A client's stream, TCP or TLS, with deadlines for request heads and for writes.
pub struct ClientStream<S> {
    inner: S,
    progress: Arc<ConnectionState>,
    timeouts: ClientTimeouts,
    /// The rest of [`PREFACE`] that is expected; empty once the connection is HTTP/1.
    preface: &'static [u8],
    /// Bytes read to detect the protocol.
    ahead: Vec<u8>,
    /// The deadline for the next byte or for the head, with the stage it was set in.
    silent_until: Option<(ConnectionStage, Instant)>,
    alarm: LazyTimer,
    write_timer: Option<Pin<Box<Sleep>>>,
    /// Set once the write half is shut down: the deadline, and the bytes discarded so far.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
}

impl<S: AsyncWrite + Unpin> ClientStream<S> {
    pub fn new(stream: S, progress: Arc<ConnectionState>, timeouts: ClientTimeouts) -> Self {
        ClientStream {
            inner: stream,
            progress,
            timeouts,
            preface: PREFACE,
            ahead: Vec::new(),
            silent_until: None,
            alarm: LazyTimer::default(),
            write_timer: None,
            linger: None,
        }
    }

    /// Waits for the first bytes, and detects the protocol from them.
    ///
    /// # Errors
    /// None came in time, or none at all.
    pub async fn speaks(&mut self) -> io::Result<AgreedProtocol>
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
        Ok(if self.progress.is_http2() { AgreedProtocol::Http2 } else { AgreedProtocol::Http1 })
    }

    /// Reads, within the deadline of the current stage.
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
        if matches!(stage, ConnectionStage::Fresh | ConnectionStage::Idle | ConnectionStage::Head)
            && buffer.filled().len() > before
        {
            self.began(&buffer.filled()[before..]);
        }
        polled
    }

    /// Bytes came while no request was being answered.
    fn began(&mut self, bytes: &[u8]) {
        let compared = self.preface.len().min(bytes.len());
        let is_preface = compared > 0 && bytes[..compared] == self.preface[..compared];
        self.preface = if is_preface { &self.preface[compared..] } else { b"" };
        let stage = if is_preface && self.preface.is_empty() {
            ConnectionStage::Http2
        } else {
            ConnectionStage::Head
        };
        if self.progress.stage() != stage {
            self.progress.enter(stage);
            self.silent_until = None;
        }
    }

    /// Nothing has come. Ready once the deadline of `stage` has passed.
    fn waits(&mut self, stage: ConnectionStage, cx: &mut Context<'_>) -> Poll<()> {
        let timeouts = match stage {
            ConnectionStage::Fresh => self.timeouts.first,
            ConnectionStage::Idle => self.timeouts.idle,
            ConnectionStage::Head => self.timeouts.head,
            ConnectionStage::Busy | ConnectionStage::Http2 | ConnectionStage::Tunnel => {
                self.silent_until = None;
                return Poll::Pending;
            }
        };
        let until = match self.silent_until {
            Some((of, until)) if of == stage => until,
            _ => Instant::now() + timeouts,
        };
        self.silent_until = Some((stage, until));
        ready!(self.alarm.poll(cx, until));
        // The client is still reading a response, which has a time-out of its own.
        if stage == ConnectionStage::Idle && self.write_timer.is_some() {
            let until = Instant::now() + timeouts;
            self.silent_until = Some((stage, until));
            return self.alarm.poll(cx, until);
        }
        Poll::Ready(())
    }

    fn too_slow(&mut self, cx: &mut Context<'_>) -> io::Error {
        let may_be_told = self.progress.stage() == ConnectionStage::Head && self.write_timer.is_none();
        if may_be_told && self.preface.is_empty() {
            // The buffer of a socket without pending writes takes these few bytes, or the client is
            // gone.
            let _ = Pin::new(&mut self.inner).poll_write(cx, TOO_SLOW);
            return io::Error::new(io::ErrorKind::TimedOut, SlowHead);
        }
        io::Error::new(io::ErrorKind::TimedOut, "request head too slow")
    }

    /// A write that makes no progress has a time-out.
    fn written(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if polled.is_ready() {
            self.write_timer = None;
            return polled;
        }
        let timeouts = self.timeouts.write;
        let timer = self.write_timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeouts)));
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
        // Between two requests hyper does not poll for reading until bytes arrive.
        // This flush is its last call, so it arms the timer.
        if self.progress.stage() == ConnectionStage::Idle && self.waits(ConnectionStage::Idle, cx).is_ready()
        {
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
        // The client of a tunnel may go on: its bytes belong to the server.
        if this.progress.stage() == ConnectionStage::Tunnel {
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
