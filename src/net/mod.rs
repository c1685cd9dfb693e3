//! Sockets: listening, TLS, resolving names, connections to upstreams.

pub(crate) mod fast;
pub(crate) mod http_call;
pub(crate) mod lazy_timer;
pub mod listen;
pub(crate) mod proxy_protocol;
pub(crate) mod request_form;
pub(crate) mod tls;

use socket2::TcpKeepalive;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncWrite, ReadBuf};

/// A connection may stay silent for long, a tunnel without limit.
/// TCP keepalive detects a peer that is gone without a FIN within two minutes.
pub fn keepalive() -> TcpKeepalive {
    let (idle, interval, retries) = (Duration::from_secs(60), Duration::from_secs(15), 4);
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries)
}

/// TCP_USER_TIMEOUT of a connection to a server: how long sent data may stay unacknowledged (RFC
/// 5482). Keepalive probes are not sent while data is outstanding.
/// It equals the total time of [`keepalive`], because a shorter one would override that (tcp(7)).
pub const ACKNOWLEDGED_WITHIN: Duration = Duration::from_secs(120);

/// Runs hyper's tasks (HTTP/2 streams) on the thread of their connection.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Total size up to which pieces are copied into one write: a head and a short body.
const GATHERED_BYTES_MAX: usize = 4 * 1024;

/// Writes pieces. Few bytes go out as one write: a copy costs less than a vectored write.
fn poll_write_pieces<S: AsyncWrite + Unpin>(
    mut stream: Pin<&mut S>,
    cx: &mut Context<'_>,
    pieces: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let total: usize = pieces.iter().map(|piece| piece.len()).sum();
    match pieces {
        [piece] => stream.poll_write(cx, piece),
        pieces if total <= GATHERED_BYTES_MAX => {
            let mut gathered = [MaybeUninit::uninit(); GATHERED_BYTES_MAX];
            let mut gathered = ReadBuf::uninit(&mut gathered);
            pieces.iter().for_each(|piece| gathered.put_slice(piece));
            stream.as_mut().poll_write(cx, gathered.filled())
        }
        pieces => stream.poll_write_vectored(cx, pieces),
    }
}
