//! Exchanges of one release that are under way on `new`: how many, since when, and since when the
//! release holds `new` at 0%.
//!
//! An exchange is under way from the decision until the end of its response, or of its tunnel.
//! The workers write the counts; every thread reads them.
//! The single writer ([`crate::runtime::shared`]) writes the hold.
//!
//! Invariants: each count has one writing worker. The number is exact at all times; the age of the
//! oldest exchange is as of the worker's last check (`LOOK`). An attempt that was held when the
//! next one began stays held, for its exchanges.

use super::clock;
use crate::telemetry::counters::{Counter, PerWorker};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often each worker checks its exchanges.
pub const LOOK: Duration = Duration::from_secs(1);

pub struct UnderWay {
    workers: PerWorker<WorkerUnderWay>,
    /// Monotonic, plus one; 0: not held.
    held_since_ms: AtomicU64,
    attempt: AtomicU64,
    /// Attempts below this one stay held, since `over_since_ms`.
    over_below: AtomicU64,
    over_since_ms: AtomicU64,
    /// Wall clock at which the hold began, until its last exchange has ended; 0: nothing to report.
    reported_from_ms: AtomicU64,
    /// The most exchanges under way in this hold.
    most: AtomicU64,
}

/// The cells of one worker.
#[derive(Default)]
struct WorkerUnderWay {
    count: Counter,
    /// Monotonic time at which the oldest exchange began, plus one; 0: none.
    oldest_ms: AtomicU64,
}

/// The exchanges under way now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UnderWayNow {
    pub count: u64,
    /// The age of the oldest; `None`: there is none.
    pub oldest: Option<Duration>,
}

/// All exchanges that were under way when a hold began have ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drained {
    pub most: u64,
    pub held_at_ms: i64,
}

impl UnderWay {
    pub fn new(workers: usize) -> Self {
        UnderWay {
            workers: PerWorker::new(workers, WorkerUnderWay::default),
            held_since_ms: AtomicU64::new(0),
            attempt: AtomicU64::new(0),
            over_below: AtomicU64::new(0),
            over_since_ms: AtomicU64::new(0),
            reported_from_ms: AtomicU64::new(0),
            most: AtomicU64::new(0),
        }
    }

    pub fn began(&self, worker: usize) {
        self.workers.of(worker).count.add(1);
    }

    pub fn ended(&self, worker: usize) {
        self.workers.of(worker).count.subtract(1);
    }

    /// Records when this worker's oldest exchange began (monotonic).
    pub fn note_oldest(&self, worker: usize, began: Option<Duration>) {
        let ms = began.map_or(0, |began| began.as_millis() as u64 + 1);
        self.workers.of(worker).oldest_ms.store(ms, Relaxed);
    }

    pub fn count(&self) -> u64 {
        // Workers are read one after the other: the sum may be below zero for a moment.
        let sum = self.workers.iter().fold(0u64, |sum, mine| sum.wrapping_add(mine.count.read()));
        if sum > i64::MAX as u64 { 0 } else { sum }
    }

    pub fn present(&self) -> UnderWayNow {
        let count = self.count();
        let began = self.workers.iter().map(|mine| mine.oldest_ms.load(Relaxed)).filter(|ms| *ms > 0).min();
        // Exchanges that began after the last check are younger than `LOOK`.
        let oldest =
            || began.map_or(Duration::ZERO, |ms| clock::now().saturating_sub(Duration::from_millis(ms - 1)));
        UnderWayNow { count, oldest: (count > 0).then(oldest) }
    }

    /// A snapshot with this attempt is published; `held`: no user is in `new`.
    pub fn publish(&self, attempt: u64, held: bool) {
        let now_ms = clock::now_ms() + 1;
        let held_since_ms = self.held_since_ms.load(Relaxed);
        let was_held = held_since_ms != 0;
        if self.attempt.swap(attempt, Relaxed) < attempt && was_held {
            self.over_since_ms.store(held_since_ms, Relaxed);
            self.over_below.store(attempt, Relaxed);
        }
        if held && !was_held {
            self.most.store(self.count(), Relaxed);
            self.reported_from_ms.store(clock::at_ms().max(1) as u64, Relaxed);
            self.held_since_ms.store(now_ms, Relaxed);
        } else if !held && was_held {
            self.held_since_ms.store(0, Relaxed);
            self.reported_from_ms.store(0, Relaxed);
        }
    }

    /// The number of exchanges under way when a hold is about to begin, if any.
    pub fn found_by_hold(&self, held: bool) -> Option<u64> {
        let begins = held && self.held_since_ms.load(Relaxed) == 0;
        begins.then(|| self.count()).filter(|count| *count > 0)
    }

    /// Since when exchanges of this attempt are held; `None`: they are not.
    pub fn held_since(&self, attempt: u64) -> Option<Duration> {
        let over = attempt < self.over_below.load(Relaxed);
        let since_ms = if over { &self.over_since_ms } else { &self.held_since_ms }.load(Relaxed);
        (since_ms > 0).then(|| Duration::from_millis(since_ms - 1))
    }

    /// Returns once when the last exchange of a hold has ended. Called by a timer.
    pub fn drained(&self) -> Option<Drained> {
        let from_ms = self.reported_from_ms.load(Relaxed);
        if from_ms == 0 {
            return None;
        }
        let count = self.count();
        let most = self.most.fetch_max(count, Relaxed).max(count);
        if count > 0 {
            return None;
        }
        self.reported_from_ms.store(0, Relaxed);
        (most > 0).then_some(Drained { most, held_at_ms: from_ms as i64 })
    }
}

impl UnderWayNow {
    /// A sentence for people, after `new` was taken out.
    pub fn sentence(&self, stream_grace: Duration) -> String {
        let Some(oldest) = self.oldest else {
            return "none is under way on new".to_owned();
        };
        let (count, are) = (self.count, if self.count == 1 { "is" } else { "are" });
        let since = match oldest.as_secs() {
            0 => "for less than a second".to_owned(),
            seconds => format!("since {seconds} s"),
        };
        format!(
            "{count} {are} still under way on new, the oldest {since}; streams among them end within {} s",
            stream_grace.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_was_held_stays_held_when_the_next_one_begins() {
        let under_way = UnderWay::new(1);
        under_way.publish(1, false);
        assert_eq!(under_way.held_since(1), None);
        under_way.publish(1, true);
        assert!(under_way.held_since(1).is_some());
        under_way.publish(2, false);
        assert!(under_way.held_since(1).is_some() && under_way.held_since(2).is_none());
        // An attempt that ended without a hold is not held: its build may be stable now.
        under_way.publish(3, false);
        assert_eq!(under_way.held_since(2), None);
    }

    #[test]
    fn a_hold_reports_once_that_its_last_exchange_has_ended() {
        let under_way = UnderWay::new(2);
        under_way.publish(1, true);
        assert_eq!(under_way.drained(), None, "nothing was under way");
        under_way.publish(1, false);
        under_way.began(0);
        under_way.began(1);
        under_way.publish(1, true);
        under_way.ended(0);
        assert_eq!(under_way.drained(), None);
        under_way.ended(1);
        assert_eq!(under_way.drained().map(|d| d.most), Some(2));
        assert_eq!(under_way.drained(), None);
    }

    #[test]
    fn the_sentence_after_a_rollback_is_true_of_what_is_under_way() {
        let say = |count, oldest| UnderWayNow { count, oldest }.sentence(Duration::from_secs(30));
        assert_eq!(say(0, None), "none is under way on new");
        assert_eq!(
            say(3, Some(Duration::from_secs(12))),
            "3 are still under way on new, the oldest since 12 s; \
             streams among them end within 30 s"
        );
        assert!(say(1, Some(Duration::ZERO)).contains("1 is still under way on new, the oldest for less"));
    }
}
