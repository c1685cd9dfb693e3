//! The server's side of an HTTP/1.1 connection, with a bound on what may come before a response head is complete.
//!
//! The HTTP library skips interim responses one by one; a server that floods them would keep an exchange busy for ever.
//!
//! Invariant: while a head is waited for, at most [`HEAD_BYTES_MAX`] are read; then the connection fails.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a server may send before the head of its response is complete, interim responses included.
/// Far above what one read can bring, for the first piece of a body may come with the head.
pub const HEAD_BYTES_MAX: usize = 1024 * 1024;

/// How much more a server may send before its head is there; `None` while no head is waited for.
#[derive(Default)]
pub struct HeadRoom(Cell<Option<usize>>);

impl HeadRoom {
    /// A request is on its way: the head of its response is waited for.
    pub fn opens(&self) {
        self.0.set(Some(HEAD_BYTES_MAX));
    }

    /// The head is there, or there will be none.
    pub fn closes(&self) {
        self.0.set(None);
    }
}

/// A connection to a server that counts what comes while a head is waited for.
pub struct ServerStream<S> {
    inner: S,
    head: Rc<HeadRoom>,
}

impl<S> ServerStream<S> {
    pub fn new(inner: S) -> (Self, Rc<HeadRoom>) {
        let head = Rc::<HeadRoom>::default();
        (ServerStream { inner, head: head.clone() }, head)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ServerStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.head.0.get() == Some(0) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "no end of the response head",
            )));
        }
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Some(room) = self.head.0.get() {
            self.head.0.set(Some(room.saturating_sub(buffer.filled().len() - before)));
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
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }
}
