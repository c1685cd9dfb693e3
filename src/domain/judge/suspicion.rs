//! Since when there is evidence against `new` that does not suffice for a trip: E of one signal.
//!
//! Invariants: pure; it begins when E of any signal has been at least [`E_MIN`] for [`LASTS`]
//! without a break, and ends when none has been for as long.

use crate::stats::engine::SIGNALS;
use std::time::Duration;

/// E of a signal that merits attention.
pub const E_MIN: f64 = 20.0;
pub const LASTS: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Default, Debug)]
pub struct Suspicion {
    /// Since when it stands.
    since: Option<Duration>,
    /// Since when the observation differs from that.
    differs: Option<Duration>,
}

impl Suspicion {
    /// Takes the E of each signal at a look; returns since when the suspicion stands, if it does.
    pub fn look(&mut self, e: &[f64; SIGNALS], now: Duration) -> Option<Duration> {
        let is_so = e.iter().any(|e| *e >= E_MIN);
        if is_so == self.since.is_some() {
            self.differs = None;
            return self.since;
        }
        let differs = *self.differs.get_or_insert(now);
        if now.saturating_sub(differs) >= LASTS {
            self.since = is_so.then_some(now);
            self.differs = None;
        }
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stands_after_a_minute_and_ends_after_a_minute_without_it() {
        let mut of = Suspicion::default();
        let mut look = |s: u64, e: f64| {
            let mut all = [1.0; SIGNALS];
            all[2] = e;
            of.look(&all, Duration::from_secs(s)).map(|at| at.as_secs())
        };
        assert_eq!([look(0, 19.0), look(10, 20.0), look(69, 30.0)], [None; 3]);
        assert_eq!([look(70, 20.0), look(80, 900.0)], [Some(70); 2]);
        // A break of less than a minute ends nothing.
        assert_eq!([look(90, 1.0), look(149, 1.0), look(150, 21.0), look(160, 1.0)], [Some(70); 4]);
        assert_eq!([look(219, 1.0), look(220, 1.0)], [Some(70), None]);
        // A break in the minute before prevents the begin, too.
        assert_eq!([look(230, 20.0), look(280, 1.0), look(290, 20.0), look(349, 20.0)], [None; 4]);
        assert_eq!(look(350, 20.0), Some(350));
    }
}
