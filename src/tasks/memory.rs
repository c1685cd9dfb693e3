//! Returns memory to the system after a burst: the C library's allocator keeps the memory of
//! thousands of connections until `malloc_trim`.
//!
//! Invariants: called only when a burst is over, since each worker may wait for some milliseconds
//! meanwhile; never on a worker's thread.

use crate::runtime::shared::SharedState;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// A connection that is no longer counted has still to be dropped, and others may be about to end.
/// So the call is made in the looks after the one that saw the end.
const TIMES: u32 = 2;
/// Fewer connections, or requests in flight (one HTTP/2 connection has many), are no burst.
const BURST_MIN: usize = 256;

/// The maximum since the last return of memory.
#[derive(Default)]
struct MemoryBurst {
    most: usize,
}

impl MemoryBurst {
    /// Is a burst over, that is, are half of them gone? `most`: the maximum since the last look.
    fn is_over(&mut self, most: usize, now: usize) -> bool {
        self.most = self.most.max(most).max(now);
        let over = self.most - now >= BURST_MIN && now <= self.most / 2;
        if over {
            self.most = now;
        }
        over
    }
}

pub async fn run(shared: Arc<SharedState>) {
    let (mut of_connections, mut of_requests, mut due) = (MemoryBurst::default(), MemoryBurst::default(), 0);
    loop {
        tokio::time::sleep(EVERY).await;
        if due > 0 {
            due -= 1;
            let _ = tokio::task::spawn_blocking(give_back).await;
        }
        let gauges = &shared.gauges;
        let connections = (gauges.connections_most.swap(0, Relaxed), gauges.connections.load(Relaxed));
        // Requests come and go by the hundred: their burst is over when a whole look was quieter.
        let requests = gauges.requests_most.swap(gauges.requests_in_flight.load(Relaxed), Relaxed);
        let connections_over = of_connections.is_over(connections.0, connections.1);
        if of_requests.is_over(requests, requests) || connections_over {
            due = TIMES;
        }
    }
}

#[cfg(target_env = "gnu")]
fn give_back() {
    // SAFETY: callable at any time, by any thread (glibc manual, `malloc_trim` in malloc.h:
    // MT-Safe).
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries return memory by themselves, or have no such call.
#[cfg(not(target_env = "gnu"))]
fn give_back() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_once_half_of_it_is_gone() {
        let mut burst = MemoryBurst::default();
        let over: Vec<usize> = [100, 9_000, 6_000, 4_500, 4_400, 300, 299, 0, 200, 0]
            .into_iter()
            .filter(|n| burst.is_over(0, *n))
            .collect();
        assert_eq!(over, [4_500, 300, 0]);
        assert!(burst.is_over(2_000, 3), "it came and went between two looks");
    }
}
