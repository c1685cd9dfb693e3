//! The deadline: how long after its end an interval is final.
//! A request not answered by then is late.
//!
//! Invariants: pure; bounded by [`LEAST`] and [`MOST`]; a lack of samples never shortens it. With
//! too few samples of stable, these apply in order: the last known deadline, the one from `new`,
//! the upstream's response time-out, limited to `UNKNOWN`. The limit does no harm, since a late
//! answer of `new` is no failure, and known failures must not wait longer.

use crate::stats::histogram::Histogram;
use std::time::Duration;

/// The shortest, and the longest.
pub const LEAST: Duration = Duration::from_millis(250);
pub const MOST: Duration = Duration::from_secs(60);
/// The limit while nothing is known.
const UNKNOWN: Duration = Duration::from_secs(2);
/// The number of successes from which a tail is known.
const KNOWN: u64 = 100;
/// The factor on p99.9.
const TIMES: u32 = 4;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AnswerDeadline {
    known: Option<Duration>,
    of_new: Option<Duration>,
    time_out: Duration,
}

impl AnswerDeadline {
    /// `time_out`: the upstream's response time-out.
    pub fn new(time_out: Duration) -> AnswerDeadline {
        AnswerDeadline { known: None, of_new: None, time_out }
    }

    /// Takes the successes of the last minutes.
    pub fn observe(&mut self, stable: &Histogram, new: &Histogram, time_out: Duration) {
        let of = |usual: &Histogram| {
            let p999 = usual.quantile(0.999).filter(|_| usual.total() >= KNOWN)?;
            Some((p999 * TIMES).clamp(LEAST, MOST))
        };
        self.time_out = time_out;
        self.known = of(stable).or(self.known);
        self.of_new = of(new).or(self.of_new);
    }

    pub fn now(&self) -> Duration {
        self.known.or(self.of_new).unwrap_or_else(|| self.time_out.clamp(LEAST, UNKNOWN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(n: u64, ms: u64) -> Histogram {
        let mut histogram = Histogram::default();
        (0..n).for_each(|_| histogram.record(Duration::from_millis(ms)));
        histogram
    }

    #[test]
    fn what_was_known_last_holds_where_stable_is_quiet() {
        let time_out = Duration::from_secs(30);
        let nothing = histogram(0, 0);
        let mut deadline = AnswerDeadline::new(time_out);
        assert_eq!(deadline.now(), UNKNOWN);
        deadline.observe(&nothing, &histogram(200, 1000), time_out);
        assert!((3.6..4.5).contains(&deadline.now().as_secs_f64()), "{:?}", deadline.now());
        deadline.observe(&histogram(200, 100), &nothing, time_out);
        let known = deadline.now();
        assert!((0.36..0.45).contains(&known.as_secs_f64()), "{known:?}");
        deadline.observe(&histogram(99, 5000), &histogram(1000, 5000), time_out);
        assert_eq!(deadline.now(), known);
        deadline.observe(&histogram(100, 1), &nothing, time_out);
        assert_eq!(deadline.now(), LEAST);
    }
}
