//! Requests that are traced: what the data plane notes of one, and where it waits for whoever
//! delivers it (`watch::traces`).
//!
//! Invariants: nobody waits for it; each worker's queue is bounded, and what does not fit is
//! dropped and counted; times are monotonic, and names are resolved by whoever delivers, so that a
//! request pays for neither; nothing of a client is kept but its method: no path, no user, no
//! header.

use super::snapshot::{Cohort, Snapshot};
use super::tally::PerWorker;
use super::upstream::UpstreamLive;
use crate::domain::decide::Arm;
use crate::domain::outcome::Outcome;
use http::Method;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Requests of one worker that may wait: a few hundred bytes each.
pub const WAITING_MAX: usize = 2048;

/// One exchange: a span of this server, and one for each server of an upstream that was asked.
pub struct Traced {
    pub trace_id: u128,
    /// The span of whoever asked, where it said so.
    pub parent: Option<u64>,
    pub span_id: u64,
    /// Monotonic, as is every time here.
    pub began: Duration,
    pub ended: Duration,
    pub method: Method,
    pub outcome: Outcome,
    /// What the client was told; `None`: it was gone.
    pub status: Option<u16>,
    pub snapshot: Arc<Snapshot>,
    /// Index of the plan's routes.
    pub route: usize,
    pub decided: Option<TracedDecision>,
    /// Of the response's body.
    pub bytes: u64,
    pub attempts: Vec<Attempt>,
}

#[derive(Clone, Copy)]
pub struct TracedDecision {
    /// Index of the plan's releases.
    pub release: usize,
    pub arm: Arm,
    pub cohort: Cohort,
    pub reason: &'static str,
    /// Stable answered for `new`, which could not be connected to.
    pub by_stable: bool,
}

/// One server that was asked, or could not be.
pub struct Attempt {
    pub span_id: u64,
    pub began: Duration,
    /// The head of the response was there, or there was none.
    pub ended: Option<Duration>,
    pub upstream: Arc<UpstreamLive>,
    /// Index of its servers.
    pub server: usize,
    pub came: Came,
}

/// What came of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// Nothing yet.
    Nothing,
    Status(u16),
    Failed(Outcome),
}

impl Traced {
    pub fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }

    /// The present attempt has ended, if it has not before.
    pub fn came(&mut self, came: Came, now: Duration) {
        if let Some(attempt) = self.attempts.last_mut().filter(|a| a.ended.is_none()) {
            (attempt.came, attempt.ended) = (came, Some(now));
        }
    }
}

/// What waits, by worker; and what became of spans, counted.
pub struct Traces {
    waiting: PerWorker<Mutex<Vec<Traced>>>,
    /// Requests that were taken, and of which it is not known yet what becomes of them.
    taken: AtomicUsize,
    /// Spans that found no room.
    pub no_room: AtomicU64,
    /// Spans that the collector will not have.
    pub refused: AtomicU64,
    pub sent: AtomicU64,
    /// Calls to the collector.
    pub calls_failed: AtomicU64,
}

impl Traces {
    pub fn new(workers: usize) -> Self {
        Traces {
            waiting: PerWorker::new(workers, Mutex::default),
            taken: AtomicUsize::default(),
            no_room: AtomicU64::default(),
            refused: AtomicU64::default(),
            sent: AtomicU64::default(),
            calls_failed: AtomicU64::default(),
        }
    }

    /// Never waits: the lock is this worker's, and whoever delivers holds it for an exchange of two
    /// pointers.
    pub fn hand_in(&self, worker: usize, traced: Box<Traced>) {
        let mut waiting = self.waiting.of(worker).lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX {
            waiting.push(*traced);
        } else {
            self.no_room.fetch_add(traced.spans(), Relaxed);
        }
    }

    /// Of the next worker that has some, all that wait; they wait on until they are [`Self::done`]
    /// with.
    pub fn take(&self) -> Vec<Traced> {
        let take = |queue: &Mutex<Vec<Traced>>| {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.taken.fetch_add(queue.len(), Relaxed);
            std::mem::take(&mut *queue)
        };
        self.waiting.iter().map(take).find(|taken| !taken.is_empty()).unwrap_or_default()
    }

    /// So many of those taken were delivered, or dropped.
    pub fn done(&self, requests: usize) {
        self.taken.fetch_sub(requests, Relaxed);
    }

    /// Requests that wait, those that are on their way among them.
    pub fn waiting(&self) -> usize {
        let queued = |queue: &Mutex<Vec<_>>| queue.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.waiting.iter().map(queued).sum::<usize>() + self.taken.load(Relaxed)
    }
}
