//! A WebSocket after its handshake: bytes in both directions, until a side ends it, the release is
//! rolled back, or the drain is over.
//!
//! It runs in the task of the client's connection, so it counts as one connection and the drain
//! owns it. It holds no request room, because its exchange ended with the 101.
//! `[limits] connections` and the upstream's `connections_max` bound the tunnels.
//!
//! Invariants: no byte of the client is processed before the upstream has agreed.
//! A tunnel costs two buffers. Its end is blamed on no one.
//! It may be silent without limit: TCP keepalive detects a peer that is gone.
//! It ends when a peer takes no data for `body_idle_timeout`, or stays silent that long after the
//! other has ended. A tunnel of `new` ends `stream_grace` after its release is held at 0%
//! (`super::on_new`); one of stable is never cut.

use super::cancel_token::CancelToken;
use super::on_new::TrackedRequest;
use super::request_body::RequestBody;
use crate::runtime::release_counters::ReleaseCounters;
use crate::stats::arm::Arm;
use crate::telemetry::counters::{ArmCounters, WorkerArmCounters};
use crate::upstream::pool::TunnelRoom;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

/// Buffer of one direction; a tunnel has two.
const PIECE_BYTES: usize = 4 * 1024;

/// A tunnel that both sides have agreed to.
pub struct Tunnel {
    client: OnUpgrade,
    server: OnUpgrade,
    /// Set for a tunnel to `new`.
    _on_new: Option<TrackedRequest>,
    _room: Option<TunnelRoom<RequestBody>>,
    _counted: OpenTunnel,
}

impl Tunnel {
    pub fn new(
        client: OnUpgrade,
        server: OnUpgrade,
        on_new: Option<TrackedRequest>,
        room: Option<TunnelRoom<RequestBody>>,
        counted: OpenTunnel,
    ) -> Tunnel {
        Tunnel { client, server, _on_new: on_new, _room: room, _counted: counted }
    }

    /// Runs to the end, or until it is cancelled. `stall`: how long a peer may take nothing.
    pub async fn run(self, cancel: &CancelToken, stall: Duration) {
        // A side may disappear before it has switched.
        let (Ok(client), Ok(server)) = (self.client.await, self.server.await) else { return };
        tokio::select! {
            () = copy_both_directions(TokioIo::new(client), TokioIo::new(server), stall) => {}
            () = cancel.cancelled() => {}
        }
    }
}

/// An open tunnel, counted for the arm that has agreed to it, until it is dropped.
/// It holds counters only, because a tunnel outlives many snapshots.
pub struct OpenTunnel {
    counters: TunnelTally,
    worker: usize,
}

/// The counters of the arm that has agreed to a tunnel.
pub enum TunnelTally {
    Release(Arc<ReleaseCounters>, Arm),
    Upstream(Arc<ArmCounters>),
    /// A route to a release always has a decision, so this does not occur.
    Nowhere,
}

impl OpenTunnel {
    pub fn begin(counters: TunnelTally, worker: usize) -> Self {
        let switched = OpenTunnel { counters, worker };
        switched.counts(|counts| counts.tunnels.add(1));
        switched
    }

    fn counts(&self, count: impl FnOnce(&WorkerArmCounters)) {
        match &self.counters {
            TunnelTally::Release(counters, arm) => count(counters.arm(*arm).workers.of(self.worker)),
            TunnelTally::Upstream(counters) => count(counters.workers.of(self.worker)),
            TunnelTally::Nowhere => {}
        }
    }
}

impl Drop for OpenTunnel {
    fn drop(&mut self) {
        self.counts(|counts| counts.tunnels.subtract(1));
    }
}

/// Copies in both directions, until both have ended or one of them breaks.
async fn copy_both_directions(
    client: impl AsyncRead + AsyncWrite,
    server: impl AsyncRead + AsyncWrite,
    stall: Duration,
) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = tokio::io::split(server);
    let moved = Cell::new(Instant::now());
    let mut up = pin!(copy_direction(from_client, to_server, stall, &moved));
    let mut down = pin!(copy_direction(from_server, to_client, stall, &moved));
    tokio::select! {
        ended = &mut up => if ended.is_ok() { finish_other_direction(down, stall, &moved).await },
        ended = &mut down => if ended.is_ok() { finish_other_direction(up, stall, &moved).await },
    }
}

/// One direction. Forwards the end as well, because the other may continue.
async fn copy_direction(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    stall: Duration,
    moved: &Cell<Instant>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut piece).await?;
        moved.set(Instant::now());
        let written = async {
            match &piece[..read] {
                [] => to.shutdown().await,
                bytes => {
                    to.write_all(bytes).await?;
                    to.flush().await
                }
            }
        };
        timeout(stall, written).await??;
        if read == 0 {
            return Ok(());
        }
    }
}

/// One side has ended: the other may finish, but not be silent.
async fn finish_other_direction(
    rest: impl Future<Output = io::Result<()>>,
    stall: Duration,
    moved: &Cell<Instant>,
) {
    let silent = async {
        while moved.get().elapsed() < stall {
            sleep_until(moved.get() + stall).await;
        }
    };
    moved.set(Instant::now());
    tokio::select! {
        // No side is left that needs the result.
        _ = rest => {}
        () = silent => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{DuplexStream, duplex};

    const STALL: Duration = Duration::from_secs(60);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// Writes all pieces, shuts down, and returns everything it has read.
    async fn peer(stream: DuplexStream, pieces: &[Vec<u8>]) -> Vec<u8> {
        let (mut from, mut to) = tokio::io::split(stream);
        let speak = async {
            for piece in pieces {
                to.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            to.shutdown().await.unwrap();
        };
        let mut heard = vec![];
        let (_, read) = tokio::join!(speak, from.read_to_end(&mut heard));
        read.unwrap();
        heard
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3 * PIECE_BYTES), 0..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_side_hears_all_that_the_other_says_and_its_end(
            up in pieces(), down in pieces(), room in 1usize..2 * PIECE_BYTES,
        ) {
            let (client, of_client) = duplex(room);
            let (server, of_server) = duplex(room);
            let ((), by_client, by_server) = run(async {
                tokio::join!(copy_both_directions(of_client, of_server, STALL), peer(client, &up), peer(server, &down))
            });
            prop_assert_eq!(by_server, up.concat());
            prop_assert_eq!(by_client, down.concat());
        }
    }

    #[test]
    fn a_side_that_breaks_ends_both() {
        run(async {
            let (client, of_client) = duplex(16);
            let (mut server, of_server) = duplex(16);
            let speaks = async {
                drop(client);
                // Until the writes fail.
                while server.write_all(&[7; 64]).await.is_ok() {}
            };
            tokio::join!(copy_both_directions(of_client, of_server, STALL), speaks);
        });
    }

    #[test]
    fn a_side_that_takes_nothing_ends_both_in_time() {
        run(async {
            let (client, of_client) = duplex(16);
            let (mut server, of_server) = duplex(16);
            let flood = async { while server.write_all(&[7; 64]).await.is_ok() {} };
            tokio::join!(copy_both_directions(of_client, of_server, Duration::from_millis(50)), flood);
            drop(client);
        });
    }
}
