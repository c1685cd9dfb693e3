//! Detects a silent server on an HTTP/2 connection, without a PING.
//!
//! Invariant: a connection is unheard from the first request sent on it until any byte arrives.
//! A connection without requests is never unheard.

use crate::upstream::stream_limit::SettingsReader;
use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A server may disappear without a FIN, and all requests share its connection.
/// So the connection retires when nothing arrives on it for this long after a request was sent.
/// A live server that takes longer for every response costs one more connection each time.
const UNHEARD_MAX: Duration = Duration::from_secs(10);

/// When the first request was sent after the last byte arrived. Monotonic, in ms.
#[derive(Default)]
pub struct SilentSince(Cell<Option<u64>>);

impl SilentSince {
    pub fn sent(&self, now_ms: u64) {
        if self.0.get().is_none() {
            self.0.set(Some(now_ms));
        }
    }

    pub fn for_too_long(&self, now_ms: u64) -> bool {
        self.0.get().is_some_and(|since| now_ms.saturating_sub(since) >= UNHEARD_MAX.as_millis() as u64)
    }
}

/// A stream to a server that records when something arrives, and reads the SETTINGS in it.
pub struct SilenceDetector<S> {
    stream: S,
    unheard: Rc<SilentSince>,
    settings: SettingsReader,
}

impl<S> SilenceDetector<S> {
    pub fn new(stream: S, unheard: Rc<SilentSince>, settings: SettingsReader) -> Self {
        SilenceDetector { stream, unheard, settings }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SilenceDetector<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.unheard.0.set(None);
            self.settings.read(&buffer.filled()[before..]);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SilenceDetector<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_runs_from_the_first_request_that_nothing_has_followed() {
        let unheard = SilentSince::default();
        let max = UNHEARD_MAX.as_millis() as u64;
        assert!(!unheard.for_too_long(max));
        unheard.sent(1000);
        unheard.sent(1000 + max - 1);
        assert!(!unheard.for_too_long(1000 + max - 1));
        assert!(unheard.for_too_long(1000 + max));
        unheard.0.set(None);
        assert!(!unheard.for_too_long(1000 + max));
    }
}
