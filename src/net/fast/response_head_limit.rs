//! The server's side of an HTTP/1.1 connection.
//! It bounds the bytes before a response head is complete.
//! It checks a reused connection once more before a request goes out on it.
//!
//! hyper skips interim responses one by one, so a server that floods them would block an exchange.
//!
//! A server may close an idle connection at any time.
//! The kernel sees the close at once, the runtime only at its next turn.
//! A request written in between is lost, though it could have been handed back unsent.
//! So the socket itself is polled: by the write batch for a few sockets in one call ([`spent`]), or
//! else by the stream.
//!
//! A server may answer before it has read the whole request, and close (413, 401).
//! Then a write fails although the answer is there, and hyper would end without reading it.
//! So a failed write is reported as done, and the read shows the answer, or else the end.
//!
//! Invariants: until the head is complete, at most [`HEAD_BYTES_MAX`] are read; then the connection
//! fails. No request is written to a reused connection whose end this machine has already received.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// What a server may send before its response head is complete, interim responses included.
/// Far above the size of one read, because the first piece of a body may come with the head.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// State shared by the sender of a request and its connection.
/// Atomic only because hyper requires `Send` of a connection that may be upgraded.
pub struct ResponseHeadLimit {
    /// How much more a server may send before its head is complete.
    left: AtomicUsize,
    /// The check to do before the request is written.
    look: AtomicU8,
    socket: RawFd,
}

/// Values of [`ResponseHeadLimit::look`].
const NOTHING: u8 = 0;
const ASK: u8 = 1;
/// The check has found the end of the connection.
const END: u8 = 2;

/// No head is expected.
const NO_BOUND: usize = usize::MAX;

impl ResponseHeadLimit {
    /// A request is sent, and its response head is expected.
    /// `reused`: the connection was used before, so the server may have closed it.
    pub fn opens(&self, reused: bool) {
        self.left.store(HEAD_BYTES_MAX, Relaxed);
        self.look.store(if reused { ASK } else { NOTHING }, Relaxed);
    }

    /// The head is complete, or there will be none.
    pub fn closes(&self) {
        self.left.store(NO_BOUND, Relaxed);
        self.look.store(NOTHING, Relaxed);
    }

    /// The socket, if it is to be checked. It is open as long as the stream is.
    pub fn commands(&self) -> Option<RawFd> {
        (self.look.load(Relaxed) == ASK).then_some(self.socket)
    }

    /// Stores the result of [`spent`].
    pub fn note_spent(&self, spent: bool) {
        self.look.store(if spent { END } else { NOTHING }, Relaxed);
    }
}

/// Which sockets the peer has closed, or has sent unexpected data on.
/// One call to the kernel, without the runtime. `None`: the call failed. A `None` socket is
/// skipped.
pub fn spent<const N: usize>(sockets: [Option<RawFd>; N]) -> Option<[bool; N]> {
    let events = libc::POLLIN | libc::POLLRDHUP;
    // A negative descriptor is ignored (poll(2)).
    let mut asked = sockets.map(|socket| libc::pollfd { fd: socket.unwrap_or(-1), events, revents: 0 });
    // SAFETY: `asked` is valid for reads and writes of its length; an invalid descriptor is
    // reported as such.
    let answered = unsafe { libc::poll(asked.as_mut_ptr(), asked.len() as libc::nfds_t, 0) };
    (answered >= 0).then(|| asked.map(|asked| asked.revents != 0))
}

/// A stream over one socket.
pub trait SocketBased {
    fn socket(&self) -> RawFd;
}

impl SocketBased for TcpStream {
    fn socket(&self) -> RawFd {
        self.as_raw_fd()
    }
}

impl SocketBased for TlsStream<TcpStream> {
    fn socket(&self) -> RawFd {
        self.get_ref().0.as_raw_fd()
    }
}

impl SocketBased for UnixStream {
    fn socket(&self) -> RawFd {
        self.as_raw_fd()
    }
}

/// A connection to a server that counts the bytes before a head, and ends instead of taking a
/// request too late.
pub struct ServerStream<S> {
    inner: S,
    head: Arc<ResponseHeadLimit>,
    /// The server takes no more bytes.
    refuses: bool,
}

impl<S: SocketBased> ServerStream<S> {
    pub fn new(inner: S) -> (Self, Arc<ResponseHeadLimit>) {
        let socket = inner.socket();
        let head = Arc::new(ResponseHeadLimit {
            left: AtomicUsize::new(NO_BOUND),
            look: AtomicU8::new(NOTHING),
            socket,
        });
        (ServerStream { inner, head: head.clone(), refuses: false }, head)
    }
}

impl<S> ServerStream<S> {
    /// The result of writing `offered` bytes, or of flushing (0).
    fn written(&mut self, offered: usize, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match polled {
            Poll::Ready(Err(error)) if is_refusal(&error) => {
                self.refuses = true;
                Poll::Ready(Ok(offered))
            }
            polled => polled,
        }
    }
}

/// The peer has closed. What it sent before can still be read, and then the end.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead + SocketBased + Unpin> AsyncRead for ServerStream<S> {
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
        // hyper reads before it takes a request, and hands the request back if the connection has
        // ended.
        if polled.is_pending() {
            if let Some(socket) = self.head.commands() {
                // If the call fails, the request itself will show it.
                self.head.note_spent(spent([Some(socket)]) == Some([true]));
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
        if self.refuses {
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(bytes.len(), polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refuses {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.inner).poll_flush(cx).map_ok(|()| 0);
        self.written(0, polled).map_ok(|_| ())
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
        let offered = slices.iter().map(|slice| slice.len()).sum();
        if self.refuses {
            return Poll::Ready(Ok(offered));
        }
        let polled = crate::net::poll_write_pieces(Pin::new(&mut self.inner), cx, slices);
        self.written(offered, polled)
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
        // Sent but unread data turns the close into a reset.
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
