//! The pause before the next try, after failures in a row.
//!
//! Invariants: a pause doubles with each failure, up to a maximum, and is never longer.
//! It is shortened by up to a quarter, at random, so that many callers do not try at the same time.

use super::random::Random;
use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// After the first failure.
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// The pause after this many failures in a row; the first is 1.
    pub fn after(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let whole = self.first.saturating_mul(1 << doublings).min(self.max);
        whole.mul_f64(1.0 - Random::default().unit() / 4.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_doubles_within_its_bounds_and_is_never_the_same() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };
        for (failures, whole) in [(1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (32, 30.0), (u32::MAX, 30.0)] {
            let pauses: Vec<f64> = (0..100).map(|_| backoff.after(failures).as_secs_f64()).collect();
            assert!(pauses.iter().all(|pause| (whole * 0.749..=whole).contains(pause)), "{pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{pauses:?}");
        }
    }
}
