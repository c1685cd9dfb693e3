//! Gives memory back to the machine after a burst: the C library's allocator keeps what thousands of connections had until it is asked.
//!
//! Invariants: asked only when a burst is over, as each worker may wait for some milliseconds meanwhile; never on a worker's thread.

use crate::live::apply::Live;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// A connection that is not counted any more has still to be dropped, and others may be about to end: it is asked in the looks after the one that saw it.
const TIMES: u32 = 2;
/// Fewer connections are no burst.
const BURST_MIN: usize = 256;

/// The most connections since memory was given back last.
#[derive(Default)]
struct Burst {
    most: usize,
}

impl Burst {
    /// Is one over: are half of the connections gone?
    fn is_over(&mut self, most: usize, connections: usize) -> bool {
        self.most = self.most.max(most).max(connections);
        let over = self.most - connections >= BURST_MIN && connections <= self.most / 2;
        if over {
            self.most = connections;
        }
        over
    }
}

pub async fn run(live: Arc<Live>) {
    let (mut burst, mut due) = (Burst::default(), 0);
    loop {
        tokio::time::sleep(EVERY).await;
        if due > 0 {
            due -= 1;
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
        let gauges = &live.gauges;
        if burst.is_over(gauges.connections_most.swap(0, Relaxed), gauges.connections.load(Relaxed)) {
            due = TIMES;
        }
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: it may be called at any time, by any thread (glibc manual, `malloc_trim` in malloc.h: MT-Safe).
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries give back by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_once_half_of_it_is_gone() {
        let mut burst = Burst::default();
        let over: Vec<usize> = [100, 9_000, 6_000, 4_500, 4_400, 300, 299, 0, 200, 0]
            .into_iter()
            .filter(|n| burst.is_over(0, *n))
            .collect();
        assert_eq!(over, [4_500, 300, 0]);
        assert!(burst.is_over(2_000, 3), "it came and went between two looks");
    }
}
