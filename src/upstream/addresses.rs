//! The addresses of one server: those that its name resolves to now, and which of them are dead.
//!
//! Invariants: the list is never empty once the name has resolved. A dead address stays in the
//! list: it is tried after all others, so a wrong verdict costs no request. An address that leaves
//! the list is forgotten. Only opening a connection takes the lock.

use crate::telemetry::backoff::Backoff;
use crate::telemetry::clock;
use arc_swap::{ArcSwap, Guard};
use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The pause before a dead address is tried again, outside of any request.
const RETRY: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };

pub struct ServerAddresses {
    list: ArcSwap<Vec<SocketAddr>>,
    /// Changes with the list; never 0.
    generation: AtomicU64,
    turn: AtomicUsize,
    dead: Mutex<Vec<DeadAddress>>,
}

struct DeadAddress {
    address: SocketAddr,
    failures_in_a_row: u32,
    retry_at_ms: u64,
}

impl ServerAddresses {
    pub fn new(list: Vec<SocketAddr>) -> Self {
        ServerAddresses {
            list: ArcSwap::from_pointee(list),
            generation: AtomicU64::new(1),
            turn: AtomicUsize::new(0),
            dead: Mutex::default(),
        }
    }

    pub fn load(&self) -> Guard<Arc<Vec<SocketAddr>>> {
        self.list.load()
    }

    /// Replaces the list.
    pub fn store(&self, list: Vec<SocketAddr>) {
        self.dead().retain(|dead| list.contains(&dead.address));
        self.list.store(Arc::new(list));
        self.generation.fetch_add(1, Release);
    }

    /// Equal generations have equal lists. To be read before the list.
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// The order in which to try the addresses: a different first one each time, dead ones last.
    pub fn in_order(&self) -> Vec<SocketAddr> {
        let list = self.list.load();
        let mut order = list.to_vec();
        if order.len() > 1 {
            let dead = self.dead();
            let failures =
                |a: &SocketAddr| dead.iter().find(|d| d.address == *a).map_or(0, |d| d.failures_in_a_row);
            // Sorted before it is rotated: the turns are among the live addresses only.
            order.sort_by_key(failures);
            let live = order.iter().take_while(|a| failures(a) == 0).count();
            if live > 1 {
                order[..live].rotate_left(self.turn.fetch_add(1, Relaxed) % live);
            }
        }
        order
    }

    /// A connection to this address was opened.
    pub fn note_connected(&self, address: SocketAddr) {
        self.dead().retain(|dead| dead.address != address);
    }

    /// No connection to this address could be opened, or another address was faster by far.
    pub fn note_failed(&self, address: SocketAddr) {
        if self.list.load().len() < 2 {
            return;
        }
        let mut dead = self.dead();
        let at = dead.iter().position(|d| d.address == address).unwrap_or_else(|| {
            dead.push(DeadAddress { address, failures_in_a_row: 0, retry_at_ms: 0 });
            dead.len() - 1
        });
        let entry = &mut dead[at];
        entry.failures_in_a_row = entry.failures_in_a_row.saturating_add(1);
        entry.retry_at_ms = clock::now_ms() + RETRY.after(entry.failures_in_a_row).as_millis() as u64;
    }

    pub fn is_retry_due(&self) -> bool {
        let now_ms = clock::now_ms();
        self.dead().iter().any(|d| d.retry_at_ms <= now_ms)
    }

    /// The dead addresses whose pause is over; a new pause begins for each.
    pub fn take_due(&self) -> Vec<SocketAddr> {
        let now_ms = clock::now_ms();
        let mut dead = self.dead();
        let due = dead.iter_mut().filter(|d| d.retry_at_ms <= now_ms).map(|d| {
            d.retry_at_ms = now_ms + RETRY.max.as_millis() as u64;
            d.address
        });
        due.collect()
    }

    fn dead(&self) -> MutexGuard<'_, Vec<DeadAddress>> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u8) -> Vec<SocketAddr> {
        (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 80))).collect()
    }

    #[test]
    fn live_addresses_take_turns_and_dead_ones_come_last() {
        let all = addresses(3);
        let known = ServerAddresses::new(all.clone());
        let firsts: Vec<_> = (0..4).map(|_| known.in_order()[0]).collect();
        assert_eq!(firsts, [all[0], all[1], all[2], all[0]]);
        known.note_failed(all[0]);
        known.note_failed(all[0]);
        known.note_failed(all[1]);
        for _ in 0..3 {
            assert_eq!(known.in_order(), [all[2], all[1], all[0]]);
        }
        known.note_connected(all[0]);
        let mut firsts: Vec<_> = (0..2).map(|_| known.in_order()[0]).collect();
        firsts.sort_unstable();
        assert_eq!(firsts, [all[0], all[2]]);
    }

    #[test]
    fn a_dead_address_is_due_after_its_pause_and_forgotten_when_it_leaves_the_name() {
        let all = addresses(2);
        let known = ServerAddresses::new(all.clone());
        known.note_failed(all[0]);
        assert!(!known.is_retry_due() && known.take_due().is_empty(), "its pause has just begun");
        known.dead()[0].retry_at_ms = 0;
        assert_eq!((known.take_due(), known.take_due()), (vec![all[0]], vec![]));
        let before = known.generation();
        known.store(vec![all[1]]);
        assert!(known.dead().is_empty() && known.generation() != before);
    }

    #[test]
    fn the_only_address_is_never_dead() {
        let known = ServerAddresses::new(addresses(1));
        known.note_failed(addresses(1)[0]);
        assert!(known.dead().is_empty());
    }
}
