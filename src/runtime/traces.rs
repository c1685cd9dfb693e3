//! Traced requests: the record that the data plane makes of one, and the queue to the exporter
//! (`watch::traces`).
//!
//! Invariants: no caller waits.
//! Each worker's queue is bounded, and requests beyond it are dropped and counted.
//! Times are monotonic, and the exporter resolves names, so that a request pays for neither.
//! The only client data is the method: no path, no user, no header.

use super::snapshot::{CohortLabel, Snapshot};
use crate::domain::outcome::Outcome;
use crate::stats::arm::Arm;
use crate::telemetry::counters::PerWorker;
use crate::upstream::server::UpstreamState;
use http::Method;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The most requests of one worker that wait: a few hundred bytes each.
pub const WAITING_MAX: usize = 2048;

/// One exchange: a span of this server, and one for each attempted upstream server.
pub struct TracedExchange {
    pub trace_id: u128,
    /// The caller's span, if the request named one.
    pub parent: Option<u64>,
    pub span_id: u64,
    /// Monotonic, as is every time here.
    pub began: Duration,
    pub ended: Duration,
    pub method: Method,
    pub outcome: Outcome,
    /// The label of the error that ended it.
    pub detail: Option<&'static str>,
    /// The status sent to the client; `None`: the client was gone.
    pub status: Option<u16>,
    pub snapshot: Arc<Snapshot>,
    /// Index of the plan's routes.
    pub route: usize,
    pub decided: Option<TracedDecision>,
    /// Bytes of the response body.
    pub bytes: u64,
    pub attempts: Vec<TracedAttempt>,
}

#[derive(Clone, Copy)]
pub struct TracedDecision {
    /// Index of the plan's releases.
    pub release: usize,
    pub arm: Arm,
    pub cohort: CohortLabel,
    pub reason: &'static str,
    /// Stable answered for `new`, which refused connections.
    pub by_stable: bool,
}

/// One attempt at a server.
pub struct TracedAttempt {
    pub span_id: u64,
    pub began: Duration,
    /// When the response head arrived, or the attempt failed.
    pub ended: Option<Duration>,
    pub upstream: Arc<UpstreamState>,
    /// Index of its servers.
    pub server: usize,
    pub came: AttemptResult,
}

/// The result of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptResult {
    /// No result yet.
    Nothing,
    Status(u16),
    Failed(Outcome),
}

impl TracedExchange {
    pub fn spans(&self) -> u64 {
        1 + self.attempts.len() as u64
    }

    /// Ends the current attempt, if it has not ended yet.
    pub fn came(&mut self, came: AttemptResult, now: Duration) {
        if let Some(attempt) = self.attempts.last_mut().filter(|a| a.ended.is_none()) {
            (attempt.came, attempt.ended) = (came, Some(now));
        }
    }
}

/// The waiting requests by worker, and the counts of spans by result.
pub struct TraceQueue {
    waiting: PerWorker<Mutex<Vec<TracedExchange>>>,
    /// Requests that the exporter took and has not finished.
    taken: AtomicUsize,
    /// Spans that found no room.
    pub no_room: AtomicU64,
    /// Spans that the collector refused.
    pub refused: AtomicU64,
    pub sent: AtomicU64,
    /// Failed calls to the collector.
    pub calls_failed: AtomicU64,
}

impl TraceQueue {
    pub fn new(workers: usize) -> Self {
        TraceQueue {
            waiting: PerWorker::new(workers, Mutex::default),
            taken: AtomicUsize::default(),
            no_room: AtomicU64::default(),
            refused: AtomicU64::default(),
            sent: AtomicU64::default(),
            calls_failed: AtomicU64::default(),
        }
    }

    /// Never blocks for long: the lock is this worker's, and the exporter holds it for a swap of
    /// two pointers.
    pub fn enqueue(&self, worker: usize, traced: Box<TracedExchange>) {
        let mut waiting = self.waiting.of(worker).lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_MAX {
            waiting.push(*traced);
        } else {
            self.no_room.fetch_add(traced.spans(), Relaxed);
        }
    }

    /// Takes all waiting requests of the next worker that has some.
    /// They count as waiting until [`Self::done`].
    pub fn take(&self) -> Vec<TracedExchange> {
        let take = |queue: &Mutex<Vec<TracedExchange>>| {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            self.taken.fetch_add(queue.len(), Relaxed);
            std::mem::take(&mut *queue)
        };
        self.waiting.iter().map(take).find(|taken| !taken.is_empty()).unwrap_or_default()
    }

    /// This many of the taken requests were delivered or dropped.
    pub fn done(&self, requests: usize) {
        self.taken.fetch_sub(requests, Relaxed);
    }

    /// Requests that wait, including those taken by the exporter.
    pub fn waiting(&self) -> usize {
        let queued = |queue: &Mutex<Vec<_>>| queue.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.waiting.iter().map(queued).sum::<usize>() + self.taken.load(Relaxed)
    }
}
