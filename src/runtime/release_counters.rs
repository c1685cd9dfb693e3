//! All counts of one release: of both arms, of connections to `new`, of failed users.
//!
//! Invariant: they outlive every snapshot that names the release.

use crate::domain::breaker::{Breaker, BreakerTrip};
use crate::stats::arm::Arm;
use crate::store::failed_users::FailedUsers;
use crate::telemetry::clock;
use crate::telemetry::counters::{ArmCounters, Counter, PerWorker};
use crate::telemetry::under_way::UnderWay;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// All counts of one release; it outlives every snapshot that names the release.
pub struct ReleaseCounters {
    pub arms: [ArmCounters; 2],
    pub user_id_missing: PerWorker<Counter>,
    /// Of each arm: responses whose result code was not read, because of the coding of the body.
    pub codes_unread: [UnreadCodes; 2],
    pub breaker: SharedBreaker,
    pub failed: FailedUsers,
    pub under_way: UnderWay,
}

/// Responses of an arm whose result code was not read.
pub struct UnreadCodes {
    counts: PerWorker<Counter>,
    logged: AtomicBool,
}

impl UnreadCodes {
    fn new(workers: usize) -> Self {
        UnreadCodes { counts: PerWorker::new(workers, Counter::default), logged: AtomicBool::new(false) }
    }

    /// Counts one. Returns whether it is the first.
    pub fn count(&self, worker: usize) -> bool {
        self.counts.of(worker).add(1);
        !self.logged.swap(true, Relaxed)
    }

    pub fn read(&self) -> u64 {
        self.counts.iter().map(Counter::read).sum()
    }
}

/// The circuit breaker of a release, shared by the workers: a lock where connections to `new` fail,
/// one load where they succeed.
#[derive(Default)]
pub struct SharedBreaker {
    breaker: Mutex<Breaker>,
    /// There are refusals to clear.
    strained: AtomicBool,
    /// `now_ms` of the first refusal in a row.
    since_ms: AtomicU64,
}

impl SharedBreaker {
    /// `new` accepted a connection, or answered.
    pub fn connected(&self) {
        if self.strained.load(Relaxed) {
            let mut breaker = self.lock();
            breaker.connected();
            self.strained.store(false, Relaxed);
        }
    }

    /// Resets the breaker, because new evidence begins.
    pub fn renew(&self) {
        *self.lock() = Breaker::default();
        self.strained.store(false, Relaxed);
    }

    /// A server refused a connection; `out`: which of all servers get no request; `stable_alive`:
    /// when stable last answered.
    pub fn refused(
        &self,
        server: usize,
        out: &[bool],
        stable_alive: Option<Duration>,
    ) -> Option<BreakerTrip> {
        let mut breaker = self.lock();
        if breaker.servers() != out.len() {
            *breaker = Breaker::new(out.len());
        }
        if !self.strained.swap(true, Relaxed) {
            self.since_ms.store(clock::now_ms(), Relaxed);
        }
        breaker.refused(server, out, clock::now(), stable_alive)
    }

    /// Stable answered: were the refusals already enough?
    pub fn judge(&self, stable_alive: Option<Duration>) -> Option<BreakerTrip> {
        self.lock().judge(clock::now(), stable_alive)
    }

    /// Monotonic time of the first refusal in a row.
    pub fn since(&self) -> Duration {
        Duration::from_millis(self.since_ms.load(Relaxed))
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReleaseCounters {
    pub fn new(workers: usize) -> Self {
        ReleaseCounters {
            arms: [ArmCounters::new(workers), ArmCounters::new(workers)],
            user_id_missing: PerWorker::new(workers, Counter::default),
            codes_unread: [UnreadCodes::new(workers), UnreadCodes::new(workers)],
            breaker: SharedBreaker::default(),
            failed: FailedUsers::default(),
            under_way: UnderWay::new(workers),
        }
    }

    pub fn arm(&self, arm: Arm) -> &ArmCounters {
        &self.arms[arm.index()]
    }
}
