//! The start of HTTP/2 on a connection to a server: its windows, buffers and limits.
//!
//! Invariants: the connection window holds the windows of all streams, so a slow client stalls only
//! its own stream. No request is sent before the server's SETTINGS.

use crate::domain::config::ResponseHeadLimits;
use crate::net::LocalExecutor;
use crate::upstream::pool::{NoConnection, PoolLimits};
use crate::upstream::server::STREAMS_MAX;
use crate::upstream::silence_detector::{SilenceDetector, SilentSince};
use crate::upstream::stream_limit::{SettingsReader, StreamLimit};
use http_body::Body;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::io;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

const STREAM_WINDOW_BYTES: u32 = 128 << 10;
const CONNECTION_WINDOW_BYTES: u32 = STREAM_WINDOW_BYTES * STREAMS_MAX as u32;
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// After a PING of `http2_ping`: the time until the connection is ended.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Starts HTTP/2 on a connection. `open` is dropped at its end.
pub async fn http2_over<S, B>(
    stream: S,
    open: impl Sized + 'static,
    terms: PoolLimits,
    (unheard, limit): (&Rc<SilentSince>, &Rc<StreamLimit>),
) -> Result<http2::SendRequest<B>, NoConnection>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let stream = SilenceDetector::new(stream, unheard.clone(), SettingsReader::new(limit.clone()));
    let handshake = http2::Builder::new(LocalExecutor)
        .timer(TokioTimer::new())
        // No request is sent before the server's SETTINGS.
        .initial_max_send_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(header_list_max(terms.response_head))
        .keep_alive_interval(terms.http2_ping)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake::<_, B>(TokioIo::new(stream))
        .await;
    let (sender, connection) = handshake.map_err(|e| NoConnection::Unreachable(io::Error::other(e)))?;
    let limit = limit.clone();
    tokio::task::spawn_local(async move {
        // The exchanges that use the connection get its error.
        let _ = connection.await;
        limit.end();
        drop(open);
    });
    Ok(sender)
}

/// h2 resets a stream beyond this limit, and does not say why. So it gets a wider one, and the head
/// is measured again.
fn header_list_max(limits: ResponseHeadLimits) -> u32 {
    u32::try_from(limits.bytes.saturating_mul(4)).unwrap_or(u32::MAX)
}
