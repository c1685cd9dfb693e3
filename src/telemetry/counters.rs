//! Counters that the data plane writes: one set per worker, summed by the reader.
//!
//! Invariants: a worker writes only its own cells, so a count is a load and a store, never a locked
//! instruction. No count is lost or decreases, also across reloads (cells live as long as their
//! name is in the plan). Labels are names from the config only.

use crate::domain::outcome::Outcome;
use crate::stats::histogram::{self, Histogram};
use crate::stats::hyperloglog;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A counter with one writer and many readers.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    pub fn subtract(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(n), Relaxed);
    }

    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One value per worker, each on cache lines of its own.
pub struct PerWorker<T>(Box<[Padded<T>]>);

#[repr(align(128))]
struct Padded<T>(T);

impl<T> PerWorker<T> {
    pub fn new(workers: usize, make: impl Fn() -> T) -> Self {
        PerWorker((0..workers).map(|_| Padded(make())).collect())
    }

    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|p| &p.0)
    }
}

/// `grayling_errors_total`: the responses that the proxy made itself, by the label of their cause.
/// Labels are words of the source code, so their number is bounded.
pub struct ErrorCounts(PerWorker<Mutex<BTreeMap<&'static str, u64>>>);

impl ErrorCounts {
    pub fn new(workers: usize) -> Self {
        ErrorCounts(PerWorker::new(workers, Mutex::default))
    }

    /// A worker takes its own lock, for which only a scrape competes.
    pub fn count(&self, worker: usize, detail: &'static str) {
        let mut counts = self.0.of(worker).lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(detail).or_default() += 1;
    }

    /// The sums over all workers.
    pub fn read(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for counts in self.0.iter() {
            let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
            for (detail, count) in counts.iter() {
                *sums.entry(*detail).or_default() += count;
            }
        }
        sums
    }
}

/// `grayling_requests_total` of one release, arm, cohort and route: a count per outcome.
pub struct OutcomeCounts(PerWorker<[Counter; Outcome::ALL.len()]>);

impl OutcomeCounts {
    pub fn new(workers: usize) -> Self {
        OutcomeCounts(PerWorker::new(workers, Default::default))
    }

    pub fn count(&self, worker: usize, outcome: Outcome) {
        self.0.of(worker)[outcome as usize].add(1);
    }

    pub fn read(&self, outcome: Outcome) -> u64 {
        self.0.iter().map(|c| c[outcome as usize].read()).sum()
    }
}

/// Latencies in logarithmic buckets, with their sum.
pub struct Latencies {
    buckets: Box<[Counter]>,
    sum_us: Counter,
}

impl Default for Latencies {
    fn default() -> Self {
        Latencies {
            buckets: (0..histogram::BUCKETS).map(|_| Counter::default()).collect(),
            sum_us: Counter::default(),
        }
    }
}

impl Latencies {
    pub fn record(&self, took: Duration) {
        let us = took.as_micros() as u64;
        self.buckets[histogram::index(us)].add(1);
        self.sum_us.add(us);
    }
}

/// The class of a response by its status alone, even if a release's rules call it a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum AnswerClass {
    /// 2xx.
    Success,
    /// 3xx.
    Redirection,
    /// 4xx.
    ClientError,
    /// 5xx, and beyond.
    ServerError,
    /// No response head arrived.
    None,
}

impl AnswerClass {
    pub const COUNT: usize = 5;

    /// `None`: 101, a tunnel.
    pub fn of(status: http::StatusCode) -> Option<AnswerClass> {
        match status.as_u16() / 100 {
            ..2 => None,
            2 => Some(AnswerClass::Success),
            3 => Some(AnswerClass::Redirection),
            4 => Some(AnswerClass::ClientError),
            5.. => Some(AnswerClass::ServerError),
        }
    }
}

/// Counts by [`AnswerClass`].
pub type AnswerCounts = [u64; AnswerClass::COUNT];

/// Counts of one worker for one arm of a release (or for an upstream routed to directly).
#[derive(Default)]
pub struct WorkerArmCounters {
    pub in_flight: Counter,
    /// Open WebSockets: their exchanges have ended.
    pub tunnels: Counter,
    pub requests: Counter,
    pub failures: Counter,
    /// Requests by [`AnswerClass`].
    pub answers: [Counter; AnswerClass::COUNT],
    /// Whole exchange.
    pub duration: Latencies,
    /// Until the response head, from the moment when the upstream had the request.
    pub response: Latencies,
    /// The same for successful requests only: defines "usual" for the arm.
    pub success: Latencies,
}

/// The counters of one arm: every worker's, and the shared sketch of distinct users.
pub struct ArmCounters {
    pub workers: PerWorker<WorkerArmCounters>,
    users: [Box<[AtomicU8]>; USER_WINDOWS],
}

/// Minutes in the sketch of distinct users: the current one and five before it.
pub const USER_WINDOWS: usize = 6;

impl ArmCounters {
    pub fn new(workers: usize) -> Self {
        let registers = || (0..hyperloglog::REGISTERS).map(|_| AtomicU8::new(0)).collect();
        ArmCounters {
            workers: PerWorker::new(workers, WorkerArmCounters::default),
            users: std::array::from_fn(|_| registers()),
        }
    }

    /// Records a user in this minute.
    /// The workers share the registers: one changes a few times a minute.
    pub fn saw(&self, user_hash: u64, minute: u64) {
        let (index, rank) = hyperloglog::register(user_hash);
        let register = &self.users[minute as usize % USER_WINDOWS][index];
        if register.load(Relaxed) < rank {
            register.fetch_max(rank, Relaxed);
        }
    }

    /// Clears the minute that the sketch will use next; called once a minute, ahead of it.
    pub fn clear_users(&self, minute: u64) {
        for register in &self.users[minute as usize % USER_WINDOWS] {
            register.store(0, Relaxed);
        }
    }

    /// Distinct users of the last five to six minutes, within about 3%.
    pub fn distinct_users(&self) -> u64 {
        let largest = |i: usize| self.users.iter().map(|w| w[i].load(Relaxed)).max().unwrap_or(0);
        hyperloglog::estimate((0..hyperloglog::REGISTERS).map(largest))
    }

    pub fn in_flight(&self) -> u64 {
        self.workers.iter().fold(0u64, |n, w| n.wrapping_add(w.in_flight.read()))
    }

    pub fn tunnels(&self) -> u64 {
        self.workers.iter().fold(0u64, |n, w| n.wrapping_add(w.tunnels.read()))
    }

    pub fn requests(&self) -> u64 {
        self.workers.iter().map(|w| w.requests.read()).sum()
    }

    pub fn failures(&self) -> u64 {
        self.workers.iter().map(|w| w.failures.read()).sum()
    }

    pub fn answers(&self) -> AnswerCounts {
        std::array::from_fn(|class| self.workers.iter().map(|w| w.answers[class].read()).sum())
    }

    pub fn duration(&self) -> LatencySum {
        LatencySum::of(self.workers.iter().map(|w| &w.duration))
    }

    pub fn success(&self) -> LatencySum {
        LatencySum::of(self.workers.iter().map(|w| &w.success))
    }

    pub fn response(&self) -> LatencySum {
        LatencySum::of(self.workers.iter().map(|w| &w.response))
    }
}

/// The sum of all workers' latencies.
#[derive(Clone)]
pub struct LatencySum {
    pub histogram: Histogram,
    pub sum_us: u64,
}

impl LatencySum {
    fn of<'a>(workers: impl Iterator<Item = &'a Latencies>) -> Self {
        let mut sum = LatencySum { histogram: Histogram::default(), sum_us: 0 };
        for worker in workers {
            for (total, bucket) in sum.histogram.counts.iter_mut().zip(&worker.buckets) {
                *total += bucket.read();
            }
            sum.sum_us += worker.sum_us.read();
        }
        sum
    }
}
