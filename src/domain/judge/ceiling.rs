//! Ceilings: a share of bad requests of `new` that is too much in any state of stable, and the role
//! of stable in that decision.
//!
//! A plain comparison with the ceiling blames `new` in half of all shared outages: noise decides
//! which arm crosses first. So a ceiling trips at once only if stable is clearly better: under 80%
//! of the ceiling, and the difference beyond chance. Otherwise the crossing must last.
//!
//! The window is the last minute of *final* intervals, by arrival, so arms with different time-outs
//! are comparable. Trouble that is over but still in the window does not count: the last ten
//! seconds must be bad too. Invariants: pure; bounded memory.

use crate::stats::hypergeometric_bet::PerArm;
use std::collections::VecDeque;
use std::time::Duration;

pub const WINDOW: Duration = Duration::from_secs(60);
/// The span that counts as "now".
pub const RECENT: Duration = Duration::from_secs(10);
/// A ceiling needs this many bad requests ...
pub const BAD_MIN: u64 = 10;
/// ... of this many users, where users are known.
pub const USERS_MIN: u64 = 5;
/// If stable has this share of a ceiling too, both arms are affected; from half of it on as well,
/// unless `new` is clearly worse.
pub const NEAR: f64 = 0.8;
/// Nats of the likelihood ratio that are beyond chance, for looks ten times a second: about four
/// and a half standard deviations. With few bad requests, a number of standard deviations would be
/// wrong, because the tail of such counts is longer.
const BEYOND_CHANCE: f64 = 10.0;
/// Intervals of 50 ms in a window, and some.
const INTERVALS_MAX: usize = 1300;

/// Requests of both arms, and the bad ones among them.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CeilingSample {
    pub requests: PerArm,
    pub bad: PerArm,
}

impl CeilingSample {
    pub fn new_ratio(&self) -> f64 {
        ratio(self.bad.new, self.requests.new)
    }

    pub fn stable_ratio(&self) -> f64 {
        ratio(self.bad.stable, self.requests.stable)
    }

    /// New is worse than stable by more than noise, and by a factor of two.
    pub fn clearly_worse(&self) -> bool {
        let (n1, n0) = (self.requests.new as f64, self.requests.stable as f64);
        let (p1, p0) = (self.new_ratio(), self.stable_ratio());
        if self.requests.new == 0 || self.requests.stable == 0 || p1 <= p0 || p1 < 2.0 * p0 {
            return false;
        }
        let pooled = self.bad.total() as f64 / (n1 + n0);
        n1 * divergence(p1.min(1.0), pooled) + n0 * divergence(p0.min(1.0), pooled) >= BEYOND_CHANCE
    }
}

/// Kullback-Leibler divergence of two Bernoulli distributions, in nats.
fn divergence(p: f64, from: f64) -> f64 {
    let term = |p: f64, q: f64| if p > 0.0 && q > 0.0 { p * (p / q).ln() } else { 0.0 };
    (term(p, from) + term(1.0 - p, 1.0 - from)).max(0.0)
}

fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

/// One final interval: all requests of the release that arrived in it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct CeilingInterval {
    pub end: Duration,
    /// All arrivals, including pinned users, except those aborted by the client or failed by the
    /// proxy.
    pub requests: PerArm,
    /// Blamed on the upstream, or not answered by the deadline of the interval.
    pub failed: PerArm,
    /// Answered with a 4xx.
    pub client_errors: PerArm,
}

/// The position of `new` relative to a ceiling.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CeilingPosition {
    Under,
    /// Over, and stable is clearly better.
    New,
    /// Over, and stable has too little data for a decision.
    Unclear,
    /// Over, and stable is near it or over it too.
    Both,
}

/// `limit`: the share of bad requests that is too much.
pub fn standing(sample: &CeilingSample, limit: f64) -> CeilingPosition {
    if sample.bad.new < BAD_MIN || sample.new_ratio() <= limit {
        CeilingPosition::Under
    } else if sample.requests.stable > 0 && sample.stable_ratio() >= NEAR * limit {
        CeilingPosition::Both
    } else if sample.clearly_worse() {
        CeilingPosition::New
    } else if sample.requests.stable > 0 && sample.stable_ratio() >= limit / 2.0 {
        CeilingPosition::Both
    } else {
        CeilingPosition::Unclear
    }
}

#[derive(Clone, Copy, Debug)]
struct CeilingEntry {
    end: Duration,
    sample: CeilingSample,
    client_errors: PerArm,
}

/// The sum over the last span of the window.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct CeilingSum {
    pub sample: CeilingSample,
    pub client_errors: PerArm,
}

/// The last minute of final intervals.
#[derive(Clone, Debug, Default)]
pub struct CeilingWindow {
    entries: VecDeque<CeilingEntry>,
}

impl CeilingWindow {
    /// Adds an interval; intervals come in order.
    pub fn push(&mut self, of: &CeilingInterval) {
        let end = of.end;
        self.entries.push_back(CeilingEntry {
            end,
            sample: CeilingSample { requests: of.requests, bad: of.failed },
            client_errors: of.client_errors,
        });
        while self.entries.len() > INTERVALS_MAX
            || self.entries.front().is_some_and(|first| end.saturating_sub(first.end) >= WINDOW)
        {
            self.entries.pop_front();
        }
    }

    pub fn last_end(&self) -> Option<Duration> {
        self.entries.back().map(|last| last.end)
    }

    /// The sum over the last `span` of final intervals.
    pub fn sum(&self, span: Duration) -> CeilingSum {
        let mut sum = CeilingSum::default();
        let Some(last) = self.last_end() else { return sum };
        for entry in self.entries.iter().rev().take_while(|e| last.saturating_sub(e.end) < span) {
            sum.sample.requests += entry.sample.requests;
            sum.sample.bad += entry.sample.bad;
            sum.client_errors += entry.client_errors;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(n1: u64, k1: u64, n0: u64, k0: u64) -> CeilingSample {
        CeilingSample { requests: PerArm::new(n1, n0), bad: PerArm::new(k1, k0) }
    }

    #[test]
    fn stable_decides_what_a_crossed_ceiling_means() {
        for (s, want) in [
            (sample(1000, 19, 1000, 0), CeilingPosition::Under),
            (sample(1000, 50, 1000, 0), CeilingPosition::Under),
            (sample(1000, 51, 1000, 0), CeilingPosition::New),
            (sample(1000, 51, 1000, 25), CeilingPosition::Both),
            (sample(1000, 120, 1000, 35), CeilingPosition::New),
            (sample(1000, 120, 1000, 41), CeilingPosition::Both),
            (sample(1000, 51, 1000, 300), CeilingPosition::Both),
            (sample(40, 20, 3, 0), CeilingPosition::Unclear),
            (sample(40, 20, 0, 0), CeilingPosition::Unclear),
            (sample(20, 20, 10, 10), CeilingPosition::Both),
        ] {
            assert_eq!(standing(&s, 0.05), want, "{s:?}");
        }
    }

    fn interval(end: Duration, of: CeilingSample) -> CeilingInterval {
        let (requests, failed) = (of.requests, of.bad);
        CeilingInterval { end, requests, failed, ..CeilingInterval::default() }
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let mut window = CeilingWindow::default();
        let at = |i: u64| Duration::from_millis(100 * i);
        for i in 0..3000 {
            window.push(&interval(at(i), sample(1, u64::from(i < 2000), 2, 0)));
        }
        assert_eq!(window.entries.len(), 600);
        assert_eq!(
            window.sum(WINDOW),
            CeilingSum { sample: sample(600, 0, 1200, 0), ..CeilingSum::default() }
        );
        assert_eq!(window.sum(RECENT).sample, sample(100, 0, 200, 0));
        window.push(&interval(at(9000), sample(1, 1, 1, 1)));
        let last = window.sum(WINDOW);
        assert_eq!(last, CeilingSum { sample: sample(1, 1, 1, 1), ..CeilingSum::default() });
    }
}
