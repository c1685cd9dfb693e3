//! The last five minutes of an arm: for the status, the share, and the ceilings of the watchdog.
//! The watchdog's thread writes them from the differences of the tallies; readers take a lock.
//!
//! Invariants: windows are monotonic (no wall clock); constant memory: [`SLICES`] slices of
//! histogram.

use crate::stats::histogram::Histogram;
use crate::telemetry::counters::{AnswerCounts, ArmCounters};
use std::collections::VecDeque;
use std::time::Duration;

pub const SLICE: Duration = Duration::from_secs(5);
/// Five minutes.
pub const SLICES: usize = 60;

#[derive(Default)]
pub struct SlidingWindow {
    slices: VecDeque<PeriodCounts>,
    last: Option<PeriodCounts>,
    slice_began: Duration,
    /// The last call.
    at: Duration,
}

/// Counts of a period; latencies end at the response head, which no slow client can delay.
#[derive(Clone, Default)]
pub struct PeriodCounts {
    pub requests: u64,
    pub failures: u64,
    pub answers: AnswerCounts,
    pub latency: Histogram,
    /// Latencies of the successful requests.
    pub success: Histogram,
}

impl PeriodCounts {
    fn add(&mut self, other: &PeriodCounts) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.answers.iter_mut().zip(other.answers).for_each(|(mine, more)| *mine += more);
        self.latency.add(&other.latency);
        self.success.add(&other.success);
    }

    /// The totals of an arm since the start of the process.
    pub fn of(counters: &ArmCounters) -> PeriodCounts {
        PeriodCounts {
            requests: counters.requests(),
            failures: counters.failures(),
            answers: counters.answers(),
            latency: counters.response().histogram,
            success: counters.success().histogram,
        }
    }

    pub fn since(&self, before: &PeriodCounts) -> PeriodCounts {
        PeriodCounts {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            answers: std::array::from_fn(|i| self.answers[i].saturating_sub(before.answers[i])),
            latency: difference(&self.latency, &before.latency),
            success: difference(&self.success, &before.success),
        }
    }
}

fn difference(after: &Histogram, before: &Histogram) -> Histogram {
    Histogram { counts: std::array::from_fn(|i| after.counts[i].saturating_sub(before.counts[i])) }
}

/// How long so many slices are, of which the last one is as long as this.
pub fn counted(slices: usize, last: Duration) -> Duration {
    match slices {
        0 => Duration::ZERO,
        n => SLICE * (n - 1) as u32 + last,
    }
}

impl SlidingWindow {
    /// Clears the slices: counts up to the last call are no longer shown.
    pub fn forget(&mut self) {
        self.slices.clear();
    }

    /// Adds the counts since the last call.
    pub fn observe(&mut self, counters: &ArmCounters, now: Duration) {
        let total = PeriodCounts::of(counters);
        let delta = total.since(self.last.as_ref().unwrap_or(&PeriodCounts::default()));
        self.last = Some(total);
        self.at = now;
        if self.slices.is_empty() || now >= self.slice_began + SLICE {
            self.slices.push_back(PeriodCounts::default());
            self.slice_began = now;
            if self.slices.len() > SLICES {
                self.slices.pop_front();
            }
        }
        if let Some(slice) = self.slices.back_mut() {
            slice.add(&delta);
        }
    }

    /// How long it has counted: five minutes at most.
    pub fn counted(&self) -> Duration {
        counted(self.slices.len(), self.at.saturating_sub(self.slice_began))
    }

    /// The last `window`, in whole slices, including the current one.
    pub fn last(&self, window: Duration) -> PeriodCounts {
        let slices = (window.as_millis() / SLICE.as_millis()).max(1) as usize;
        let mut sum = PeriodCounts::default();
        for slice in self.slices.iter().rev().take(slices) {
            sum.add(slice);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_minutes_are_remembered_and_no_more() {
        let counters = ArmCounters::new(1);
        let mut recent = SlidingWindow::default();
        for second in 0..600u64 {
            counters.workers.of(0).requests.add(1);
            counters.workers.of(0).answers[second as usize % 2].add(1);
            recent.observe(&counters, Duration::from_secs(second));
        }
        assert_eq!(recent.counted(), Duration::from_secs(299));
        assert_eq!(recent.last(Duration::from_secs(300)).requests, 300);
        assert_eq!(recent.last(Duration::from_secs(60)).requests, 60);
        assert_eq!(recent.last(Duration::from_secs(300)).answers, [150, 150, 0, 0, 0]);
    }
}
