//! The server's side of an HTTP/1.1 connection, with a bound on what may come before a response
//! head is complete, and a last look before a request goes out on a connection that was used
//! before.
//!
//! The HTTP library skips interim responses one by one; a server that floods them would keep an
//! exchange busy for ever.
//!
//! A server closes a connection that was idle for too long whenever it likes. The kernel knows at
//! once; the runtime learns of it at its next turn, and a request written in between is lost,
//! though it could have been handed back unsent. So the socket itself is asked: together with a few
//! others by whoever sends their requests one after the other ([`spent`]), or else by the stream.
//!
//! Invariants: while a head is waited for, at most [`HEAD_BYTES_MAX`] are read; then the connection
//! fails. No request is written to a used connection whose end this machine has already received.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// What a server may send before the head of its response is complete, interim responses included.
/// Far above what one read can bring, for the first piece of a body may come with the head.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// What the sender of a request tells its connection. Atomic only because hyper wants to be able to
/// send a connection that may become a tunnel to another thread.
pub struct HeadRoom {
    /// How much more a server may send before its head is there.
    left: AtomicUsize,
    /// What is to be done before the request is written.
    look: AtomicU8,
    socket: RawFd,
}

/// Values of [`HeadRoom::look`].
const NOTHING: u8 = 0;
const ASK: u8 = 1;
/// It was asked, and the connection is at its end.
const END: u8 = 2;

/// While no head is waited for.
const NO_BOUND: usize = usize::MAX;

impl HeadRoom {
    /// A request is on its way: the head of its response is waited for. `reused`: on a connection
    /// that the server may have closed.
    pub fn opens(&self, reused: bool) {
        self.left.store(HEAD_BYTES_MAX, Relaxed);
        self.look.store(if reused { ASK } else { NOTHING }, Relaxed);
    }

    /// The head is there, or there will be none.
    pub fn closes(&self) {
        self.left.store(NO_BOUND, Relaxed);
        self.look.store(NOTHING, Relaxed);
    }

    /// The socket, if it is to be asked. It is open as long as the stream is.
    pub fn asks(&self) -> Option<RawFd> {
        (self.look.load(Relaxed) == ASK).then_some(self.socket)
    }

    /// It was asked, by [`spent`].
    pub fn told(&self, spent: bool) {
        self.look.store(if spent { END } else { NOTHING }, Relaxed);
    }
}

/// Of sockets, which the other side has closed, or has said something on that nobody asked it. Of
/// the kernel, past the runtime, in one call. `None`: it does not say. A socket that is `None` is
/// not asked.
pub fn spent<const N: usize>(sockets: [Option<RawFd>; N]) -> Option<[bool; N]> {
    let events = libc::POLLIN | libc::POLLRDHUP;
    // A negative one is left out (poll(2)).
    let mut asked = sockets.map(|socket| libc::pollfd { fd: socket.unwrap_or(-1), events, revents: 0 });
    // SAFETY: `asked` is valid for reads and writes of its length; a descriptor that is none is
    // reported as such.
    let answered = unsafe { libc::poll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, 0) };
    (answered >= 0).then(|| asked.map(|asked| asked.revents != 0))
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

/// A connection to a server that counts what comes while a head is waited for, and ends rather than
/// take a request too late.
pub struct ServerStream<S> {
    inner: S,
    head: Arc<HeadRoom>,
}

impl<S: OverTcp> ServerStream<S> {
    pub fn new(inner: S) -> (Self, Arc<HeadRoom>) {
        let socket = inner.tcp().as_raw_fd();
        let head =
            Arc::new(HeadRoom { left: AtomicUsize::new(NO_BOUND), look: AtomicU8::new(NOTHING), socket });
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
        // hyper reads before it takes up a request, and hands it back if the connection is at its
        // end.
        if polled.is_pending() {
            if let Some(socket) = self.head.asks() {
                // If the kernel does not say: the request tells.
                self.head.told(spent([Some(socket)]) == Some([true]));
            }
            if self.head.look.load(Relaxed) == END {
                self.head.look.store(NOTHING, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream as StdStream};
    use std::time::{Duration, Instant};

    #[test]
    fn whoever_has_closed_or_said_something_is_spent_and_nobody_else() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pair = || {
            let ours = StdStream::connect(listener.local_addr().unwrap()).unwrap();
            (ours, listener.accept().unwrap().0)
        };
        let [quiet, closed, half_closed, talks, reset] = std::array::from_fn(|_| pair());
        drop(closed.1);
        half_closed.1.shutdown(std::net::Shutdown::Write).unwrap();
        (&talks.1).write_all(b"HTTP/1.1 408 Request Timeout").unwrap();
        // What was sent and not read makes the end a reset.
        (&reset.0).write_all(b"unread").unwrap();
        drop(reset.1);
        let [quiet, closed, half_closed, talks, reset] =
            [&quiet.0, &closed.0, &half_closed.0, &talks.0, &reset.0].map(|ours| Some(ours.as_raw_fd()));
        let until = Instant::now() + Duration::from_secs(5);
        let expected = Some([false, true, true, false, true, true]);
        while spent([quiet, closed, half_closed, None, talks, reset]) != expected {
            assert!(Instant::now() < until, "{:?}", spent([quiet, closed, half_closed, None, talks, reset]));
        }
    }
}
