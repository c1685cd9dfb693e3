//! The server's side of an HTTP/1.1 connection, with a bound on what may come before a response head is complete, and a last look
//! before a request goes out on a connection that was used before.
//!
//! The HTTP library skips interim responses one by one; a server that floods them would keep an exchange busy for ever.
//!
//! A server closes a connection that was idle for too long whenever it likes. The kernel knows at once; the runtime learns of it at its
//! next turn, and a request written in between is lost, though it could have been handed back unsent. So the socket itself is asked.
//!
//! Invariants: while a head is waited for, at most [`HEAD_BYTES_MAX`] are read; then the connection fails. No request is written to a
//! used connection whose end this machine has already received.

use socket2::SockRef;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What a server may send before the head of its response is complete, interim responses included.
/// Far above what one read can bring, for the first piece of a body may come with the head.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// What the sender of a request tells its connection. Atomic only because hyper wants to be able to send a connection that may
/// become a tunnel to another thread.
pub struct HeadRoom {
    /// How much more a server may send before its head is there.
    left: AtomicUsize,
    /// The socket is to be asked before the request is written.
    look: AtomicBool,
}

/// While no head is waited for.
const NO_BOUND: usize = usize::MAX;

impl Default for HeadRoom {
    fn default() -> Self {
        HeadRoom { left: AtomicUsize::new(NO_BOUND), look: AtomicBool::new(false) }
    }
}

impl HeadRoom {
    /// A request is on its way: the head of its response is waited for. `reused`: on a connection that the server may have closed.
    pub fn opens(&self, reused: bool) {
        self.left.store(HEAD_BYTES_MAX, Relaxed);
        self.look.store(reused, Relaxed);
    }

    /// The head is there, or there will be none.
    pub fn closes(&self) {
        self.left.store(NO_BOUND, Relaxed);
        self.look.store(false, Relaxed);
    }
}

/// A stream over a TCP socket.
pub trait OverTcp {
    fn tcp(&self) -> &TcpStream;
}

impl OverTcp for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl OverTcp for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

/// Has the server closed, or said something that nobody asked it? Of the kernel, past the runtime.
fn is_spent(stream: &TcpStream) -> bool {
    let asked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    !matches!(asked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A connection to a server that counts what comes while a head is waited for, and ends rather than take a request too late.
pub struct ServerStream<S> {
    inner: S,
    head: Arc<HeadRoom>,
}

impl<S> ServerStream<S> {
    pub fn new(inner: S) -> (Self, Arc<HeadRoom>) {
        let head = Arc::<HeadRoom>::default();
        (ServerStream { inner, head: head.clone() }, head)
    }
}

impl<S: AsyncRead + OverTcp + Unpin> AsyncRead for ServerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.head.left.load(Relaxed) == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no end of the response head",
            )));
        }
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        // hyper reads before it takes up a request, and hands it back if the connection is at its end.
        let look = self.head.look.load(Relaxed) && polled.is_pending();
        if look {
            self.head.look.store(false, Relaxed);
            if is_spent(self.inner.tcp()) {
                return Poll::Ready(Ok(()));
            }
        }
        let room = self.head.left.load(Relaxed);
        if room != NO_BOUND {
            self.head.left.store(room.saturating_sub(buffer.filled().len() - before), Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ServerStream<S> {
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
        super::poll_write_pieces(Pin::new(&mut self.inner), cx, slices)
    }
}
