//! Reads the evidence: E by signal, by route, by row.
//!
//! Invariants: reading changes nothing; the signals' parts sum to E.

use super::*;
use crate::stats::e_process::{self, EProcess};
use crate::stats::engine::{DetectionLimit, ERROR_ODDS, Level, SHARES, Signal};
use crate::stats::first_event::{self, FirstEventKind};
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::latency;

/// The lead of one stratum over the next at which it is named.
const FAR_LOUDER: f64 = 10.0;

impl Engine {
    /// E. A trip if it reaches 1/α.
    pub fn e_value(&self) -> f64 {
        Signal::ALL.iter().map(|signal| self.evidence(*signal)).sum()
    }

    /// Requests of intervals that are not final, and the known failures among them.
    /// This is no evidence. It only shows the present state.
    pub fn present(&self) -> [PerArm; 2] {
        let of = |read: fn(&IntervalCounts) -> u64, arm: Arm| {
            self.intervals.iter().map(|i| read(&i.counts[arm.index()])).sum()
        };
        let both = |read| PerArm::new(of(read, Arm::New), of(read, Arm::Stable));
        [both(|c| c.requests.saturating_sub(c.excused)), both(|c| c.told_failed)]
    }

    /// The part of a signal in E.
    pub fn evidence(&self, signal: Signal) -> f64 {
        let window: f64 = window_rows(signal).map(|row| self.windows.sum(row)).sum();
        self.carried[signal as usize] + self.drawn(signal) + 0.5 * self.pooled_share() * window
    }

    /// The parts of FIRST, ONCE and WINDOW in a signal's E, and of earlier draws.
    pub fn parts(&self, signal: Signal) -> [f64; 4] {
        let of =
            |part: usize| self.share_of(signal) * self.of_draw(|scope| alone(scope.evidence(signal), part));
        let window: f64 = window_rows(signal).map(|row| self.windows.sum(row)).sum();
        [of(0), of(1), 0.5 * self.pooled_share() * window, self.carried[signal as usize]]
    }

    /// The part of WINDOW from windows that overlap a deferred time.
    pub fn windows_deferred(&self, signal: Signal) -> f64 {
        let sum: f64 = window_rows(signal).map(|row| self.windows.sum_deferred(row)).sum();
        0.5 * self.pooled_share() * sum
    }

    /// The same for [`Engine::notice`].
    pub fn notice_parts(&self) -> [f64; 4] {
        let of = |part: usize| self.of_draw(|scope| alone(scope.notice(), part));
        let window: f64 = NOTICE_ROWS.map(|row| self.windows.sum(row)).sum();
        [of(0), of(1), 0.5 * self.pooled_share() * window, self.carried[NOTICE]]
    }

    /// E of "slower by more than the notice level".
    pub fn notice(&self) -> f64 {
        let window: f64 = NOTICE_ROWS.map(|row| self.windows.sum(row) - self.windows.sum_deferred(row)).sum();
        let window = window.max(0.0);
        self.carried[NOTICE] + self.drawn_notice() + 0.5 * self.pooled_share() * window
    }

    /// The stratum that a signal comes from, with its own E: higher than all strata together, or
    /// far higher than any other.
    pub fn loudest(&self, signal: Signal) -> Option<(usize, f64)> {
        let of = |scope: &TestScope| scope.evidence(signal).iter().sum::<f64>() / 2.0;
        let mut each: Vec<(usize, f64)> = self.strata.iter().map(of).enumerate().collect();
        each.sort_by(|a, b| b.1.total_cmp(&a.1));
        let (loudest, next) = (*each.first()?, each.get(1)?.1);
        (loudest.1 > of(&self.pooled) || loudest.1 >= FAR_LOUDER * next).then_some(loudest)
    }

    /// [`Engine::evidence`] without any data.
    pub fn nothing(signal: Signal) -> f64 {
        Engine::nothing_of_parts(signal).iter().sum()
    }

    /// The same, for FIRST and ONCE separately.
    pub fn nothing_of_parts(signal: Signal) -> [f64; 2] {
        let parts = match signal {
            Signal::Errors | Signal::ClientErrors | Signal::Latency => [0.25, 0.25],
            Signal::Redirects => [0.5, 0.5],
            Signal::Duration | Signal::Empty => [0.0, 1.0],
        };
        parts.map(|part| part * e_process::PRIOR * SHARES[signal as usize])
    }

    fn share_of(&self, signal: Signal) -> f64 {
        self.settings.shares[signal as usize]
    }

    /// The rows with the most wealth in a signal's pooled comparison: label and wealth.
    pub fn rows(&self, signal: Signal) -> Vec<(String, f64)> {
        let (first, once) = (&self.pooled.first, &self.pooled.once);
        let of = |mixture: &EProcess, label: &dyn Fn(usize) -> String| -> Vec<(String, f64)> {
            mixture.wealth().iter().enumerate().map(|(row, w)| (label(row), *w)).collect()
        };
        let odds = |part: &'static str| move |row: usize| format!("{part}, odds × {}", ERROR_ODDS[row]);
        let slow =
            |part: &'static str| move |row: usize| format!("{part}, odds × {}", first_event::SLOW_ODDS[row]);
        let flip = Level::Flip as usize;
        let mut rows = match signal {
            Signal::Errors => [
                of(first.errors(), &odds("first request of a user")),
                of(once.mixture(FirstEventKind::Failed), &odds("first failure of a user")),
            ]
            .concat(),
            Signal::ClientErrors => [
                of(first.client_errors(), &odds("first request of a user")),
                of(once.mixture(FirstEventKind::ClientError), &odds("first 4xx of a user")),
            ]
            .concat(),
            Signal::Redirects => [
                of(first.redirects(), &odds("first request of a user")),
                of(once.mixture(FirstEventKind::Redirected), &odds("first redirect of a user")),
            ]
            .concat(),
            Signal::Duration => {
                of(once.mixture(FirstEventKind::Long), &slow("first exchange above p99 of a user"))
            }
            Signal::Empty => of(once.mixture(FirstEventKind::Empty), &odds("first small body of a user")),
            Signal::Latency => [
                of(first.latency(Level::Flip), &latency::label),
                of(once.mixture(FirstEventKind::Slow98(flip)), &slow("first above p98 of a user")),
                of(once.mixture(FirstEventKind::Slow999(flip)), &slow("first above p99.9 of a user")),
            ]
            .concat(),
        };
        if !window_rows(signal).is_empty() {
            let window: f64 = window_rows(signal).map(|row| self.windows.sum(row)).sum();
            rows.push(("users against their own past".to_owned(), window));
        }
        rows.sort_by(|a, b| b.1.total_cmp(&a.1));
        rows.truncate(ROWS_TOLD);
        rows
    }

    /// True if no user has been in `new` in this attempt.
    pub fn has_had_nobody(&self) -> bool {
        self.highest == Weight::ZERO
    }

    /// Users who can still have their first failure, and be evidence.
    pub fn clean(&self) -> PerArm {
        self.pooled.once.clean(FirstEventKind::Failed)
    }

    /// Expected share of `new` among the compared users. 0 or 1: no control.
    pub fn share(&self) -> f64 {
        self.draw.share()
    }

    /// True if latency is compared: stable's usual latency is known.
    pub fn compares_latency(&self) -> bool {
        self.table.is_some()
    }

    /// Answers of stable still needed before latency is compared and slow spells are found.
    pub fn answers_missing(&self) -> f64 {
        let known = self.usual.iter().sum::<f64>();
        if self.compares_latency() { 0.0 } else { (TABLE_MIN - known).max(1.0) }
    }

    /// The minimum detectable effect of WINDOW's most sensitive new window.
    /// `None` before the first one of this wave (or since the start), and while latency is not
    /// compared.
    pub fn detection_limit(&self) -> Option<DetectionLimit> {
        self.detection_limit
    }

    /// Computes [`Engine::detection_limit`]: some hundred thousand steps, so only when a window has
    /// closed.
    pub(super) fn look_at_sight(&self) -> Option<DetectionLimit> {
        let table = self.table()?;
        let sharpest = self.windows.detection_limit().min_by(|a, b| a.least.total_cmp(&b.least))?;
        let below = table.stretch_of(sharpest.least).unwrap_or(f64::INFINITY);
        Some(DetectionLimit { below, requests: sharpest.requests })
    }

    /// The table for answers that arrive now. `None` while too little is known.
    pub fn reference(&self) -> Option<&Arc<AgeTable>> {
        self.table()
    }

    /// True if all of `new`, or the server of this request, was warming up when it arrived.
    pub fn is_warming(&self, request: &RequestStart) -> bool {
        self.servers.was_warming(place(request), request.at)
    }

    /// The user's latency as a multiple of the population's, learnt before the attempt.
    pub fn factor(&self, unit: Option<UserUnit>) -> f64 {
        unit.map_or(1.0, |unit| self.baseline.factor(unit))
    }

    /// Number of drawn requests that are still tracked.
    #[cfg(test)]
    pub fn in_flight(&self) -> usize {
        self.open.len()
    }

    fn pooled_share(&self) -> f64 {
        if self.strata.is_empty() { 1.0 } else { 0.5 }
    }

    /// The part of FIRST and ONCE of this draw in a signal's E.
    pub(super) fn drawn(&self, signal: Signal) -> f64 {
        self.share_of(signal) * self.of_draw(|scope| scope.evidence(signal))
    }

    pub(super) fn drawn_notice(&self) -> f64 {
        self.of_draw(TestScope::notice)
    }

    fn of_draw(&self, of: impl Fn(&TestScope) -> [f64; 2]) -> f64 {
        let sum = |scope: &TestScope| of(scope).iter().sum::<f64>();
        let pooled = self.pooled_share() * 0.25 * sum(&self.pooled);
        let strata = self.strata.iter().map(sum).sum::<f64>() / self.strata.len().max(1) as f64;
        self.mass * (pooled + 0.5 * 0.5 * strata)
    }
}
