//! The complete grounds of a verdict, and the verdict that follows from these numbers alone.
//!
//! [`crate::domain::judge::Judge`] collects grounds (with the durations of conditions) and
//! evaluates them. The ledger stores them, and every reader of the ledger can evaluate them again.
//! Invariants: pure and total.
//! The same grounds give the same verdict for ever, and no numbers, however forged, panic.
//! Times that affect a verdict are whole milliseconds, so that the stored values are the judged
//! ones.
//!
//! The evidence of the comparison is the product over every table since it began: it is stored as
//! its sums, not replayed.

use super::ceiling::{CeilingPosition, CeilingSample, NEAR, RECENT, standing};
use crate::domain::verdict::Cause;
use crate::stats::engine::Engine;
use crate::stats::engine::{SIGNALS, Signal};
use std::time::Duration;

/// How long a crossed ceiling must last when stable is not clearly better.
pub const HOLD: Duration = Duration::from_secs(30);
/// Bad requests of an arm in ten seconds that are more than noise.
pub const BAD_NOW_MIN: u64 = 5;
/// The number of failures, not final yet, from which slowness counts as failing.
const FAILING: u64 = 3;
/// The E from which `new` is suspicious.
pub const SUSPICIOUS: f64 = 10.0;
/// The E that a trouble of stable does not explain, if it lasts for `OVERWHELMING_FOR` during that
/// trouble: a head start of one arm is outweighed by the events that then hit both.
pub const OVERWHELMING: f64 = 1e6;
const OVERWHELMING_FOR: Duration = Duration::from_secs(60);

/// The result of one of the tests at one look.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TestResult {
    Nothing,
    Waits,
    Both,
    Trips(Cause),
}

/// The samples compared with a ceiling.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct CeilingCrossing {
    pub minute: CeilingSample,
    /// Decides whether stable is clearly better now; empty with too few users.
    pub recent: CeilingSample,
    /// The same for any number of users: is `new` still bad?
    pub all: CeilingSample,
    /// The last seconds: an outage that is over justifies no precaution.
    pub current: CeilingSample,
}

/// A ceiling at one look.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct CeilingState {
    pub of: CeilingCrossing,
    /// The share of bad requests that is too much.
    pub limit: f64,
    /// Without a break.
    pub over_ms: u64,
    /// Stable has not been bad for a while.
    pub calm: bool,
    /// The hash puts users into both arms.
    pub controlled: bool,
}

impl CeilingCrossing {
    pub fn is_over(&self, limit: f64) -> bool {
        standing(&self.minute, limit) != CeilingPosition::Under && self.all.new_ratio() > limit
    }
}

impl CeilingState {
    pub fn result(&self) -> TestResult {
        let CeilingState { of, limit, .. } = *self;
        let CeilingCrossing { minute, recent, all, current } = of;
        if !of.is_over(limit) {
            return TestResult::Nothing;
        }
        let mut stands = standing(&minute, limit);
        if !self.calm {
            stands = CeilingPosition::Both;
        } else if standing(&recent, limit) == CeilingPosition::New {
            stands = CeilingPosition::New;
        }
        let lasted = self.over_ms >= HOLD.as_millis() as u64;
        match stands {
            CeilingPosition::New => TestResult::Trips(Cause::Ceiling),
            CeilingPosition::Unclear if lasted || (!self.controlled && minute.requests.stable == 0) => {
                TestResult::Trips(Cause::Ceiling)
            }
            CeilingPosition::Both if lasted && minute.clearly_worse() && all.clearly_worse() => {
                TestResult::Trips(Cause::Ceiling)
            }
            CeilingPosition::Both
                if lasted
                    && current.new_ratio() > limit
                    && [minute, current].iter().all(|of| of.stable_ratio() >= NEAR * limit) =>
            {
                TestResult::Trips(Cause::BothArms)
            }
            CeilingPosition::Both => TestResult::Both,
            CeilingPosition::Unclear | CeilingPosition::Under => TestResult::Waits,
        }
    }
}

/// The comparison at one look.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ComparisonState {
    pub alpha: f64,
    /// The contribution of each of [`Signal::ALL`] to E.
    pub e: [f64; SIGNALS],
    /// Its parts: first requests, first failures, windows, and the gain of earlier draws.
    pub parts: [[f64; 4]; SIGNALS],
    /// Failures of `new` that are not final yet, if clearly more than stable's.
    pub failing: u64,
    /// E crosses only with evidence gained while stable was in trouble.
    /// So `new` must also be clearly worse in the last ten seconds, or the evidence overwhelming.
    pub deferred: bool,
    /// Stable is no longer in trouble.
    pub calm: bool,
    /// The last ten seconds, by the loudest signal.
    pub worse: CeilingSample,
    /// How long `new` has been clearly worse in them, without a break.
    pub worse_ms: u64,
    /// How long a deferred comparison has been overwhelming while stable is in trouble, without a
    /// break.
    pub overwhelming_ms: u64,
}

impl ComparisonState {
    pub fn set(&mut self, parts: [[f64; 4]; SIGNALS]) {
        (self.parts, self.e) = (parts, parts.map(|parts| parts.iter().sum()));
    }

    pub fn e_value(&self) -> f64 {
        self.e.iter().sum()
    }

    pub fn crossed(&self) -> bool {
        self.e_value() >= 1.0 / self.alpha
    }

    /// The signal with the most evidence against `new`, relative to its value without any.
    /// A failed request never succeeds in time either, so failures take precedence over slowness.
    pub fn loudest(&self) -> Signal {
        let of = |signal: &Signal| self.e[*signal as usize] / Engine::nothing(*signal);
        let loudest = Signal::ALL.into_iter().rev().max_by(|a, b| of(a).total_cmp(&of(b)));
        let failing = of(&Signal::Errors) >= SUSPICIOUS || self.failing >= FAILING;
        let slow = of(&Signal::Latency) >= SUSPICIOUS;
        match loudest {
            // An exchange is as slow as its head.
            Some(Signal::Duration) if slow && !failing => Signal::Latency,
            Some(Signal::Latency | Signal::Duration) if failing => Signal::Errors,
            // A redirect has no body.
            Some(Signal::Empty) if of(&Signal::Redirects) >= SUSPICIOUS => Signal::Redirects,
            Some(signal) => signal,
            None => Signal::Errors,
        }
    }

    /// Worse right now, by more than noise.
    pub fn is_worse(&self) -> bool {
        self.worse.clearly_worse() && self.worse.bad.new >= BAD_NOW_MIN
    }

    pub fn result(&self) -> TestResult {
        let (crossed, cause) = (self.crossed(), self.loudest().cause());
        if !self.deferred {
            return if crossed { TestResult::Trips(cause) } else { TestResult::Nothing };
        }
        let lasted = self.worse_ms >= RECENT.as_millis() as u64;
        let overwhelming = self.overwhelming_ms >= OVERWHELMING_FOR.as_millis() as u64;
        match crossed {
            true if (self.is_worse() && lasted) || overwhelming => TestResult::Trips(cause),
            true if self.calm => TestResult::Waits,
            true => TestResult::Both,
            false => TestResult::Nothing,
        }
    }

    /// Is the contribution of each signal the sum of its parts?
    pub fn adds_up(&self) -> bool {
        self.e.iter().zip(&self.parts).all(|(e, parts)| {
            let sum: f64 = parts.iter().sum();
            (e.is_infinite() && sum.is_infinite()) || (e - sum).abs() <= 1e-6 * e.abs().max(1e-9)
        })
    }
}

/// Users of `new` who wait while slowness is no evidence: in a warm-up, and without a control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WaitingUsers {
    /// Time since the last answer of `new`.
    pub silent_ms: u64,
    /// Users who have waited for 5 s, and for 10 s.
    pub waiting: u64,
    pub waiting_long: u64,
    /// All users of that time.
    pub users: u64,
}

/// The least number of users who wait in vain.
const WAITING_MIN: u64 = 5;
const SILENT_MS: u64 = 5_000;
/// One user in this many waits long.
const WAITING_LONG: u64 = 20;

impl WaitingUsers {
    /// No user is answered, or too many wait too long.
    pub fn result(&self) -> TestResult {
        let nobody = self.silent_ms >= SILENT_MS && self.waiting >= WAITING_MIN;
        let long =
            self.waiting_long >= WAITING_MIN && self.waiting_long.saturating_mul(WAITING_LONG) >= self.users;
        if nobody || long { TestResult::Trips(Cause::Latency) } else { TestResult::Nothing }
    }
}

/// All data that a look was judged on.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct VerdictInputs {
    pub comparison: ComparisonState,
    pub errors: CeilingState,
    pub latency: CeilingState,
    pub silent: WaitingUsers,
}

impl VerdictInputs {
    /// The first reason in this order: comparison, failures, slowness, silence.
    pub fn cause(&self) -> Option<Cause> {
        let all =
            [self.comparison.result(), self.errors.result(), self.latency.result(), self.silent.result()];
        all.into_iter().find_map(|say| match say {
            TestResult::Trips(cause) => Some(cause),
            TestResult::Nothing | TestResult::Waits | TestResult::Both => None,
        })
    }
}

/// The number of distinct users that `new` failed, and the limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FailedUserLimit {
    pub users: u64,
    pub users_max: u64,
}

impl FailedUserLimit {
    pub fn is_too_much(&self) -> bool {
        self.users_max > 0 && self.users > self.users_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::hypergeometric_bet::PerArm;
    use proptest::prelude::*;

    fn sample() -> impl Strategy<Value = CeilingSample> {
        let n = || prop_oneof![0u64..60, any::<u64>()];
        (n(), n(), n(), n())
            .prop_map(|(a, b, c, d)| CeilingSample { requests: PerArm::new(a, b), bad: PerArm::new(c, d) })
    }

    proptest! {
        #[test]
        fn forged_numbers_say_something_and_never_panic(
            minute in sample(), recent in sample(), all in sample(), current in sample(),
            limit: f64, over_ms: u64, calm: bool, controlled: bool,
            e: [f64; SIGNALS], alpha: f64, failing: u64, deferred: bool, worse in sample(), worse_ms: u64, overwhelming_ms: u64,
        ) {
            let ceiling = CeilingState { of: CeilingCrossing { minute, recent, all, current }, limit, over_ms, calm, controlled };
            let parts = e.map(|e| [e, 0.0, 0.0, 0.0]);
            let comparison =
                ComparisonState { alpha, e, parts, failing, deferred, calm, worse, worse_ms, overwhelming_ms };
            let inputs =
                VerdictInputs { comparison, errors: ceiling, latency: ceiling, silent: WaitingUsers::default() };
            prop_assert_eq!(inputs.cause(), inputs.cause());
        }
    }

    #[test]
    fn harm_is_more_than_is_allowed_and_no_limit_is_none() {
        let says = |users, users_max| FailedUserLimit { users, users_max }.is_too_much();
        assert_eq!([says(3, 3), says(4, 3), says(9, 0)], [false, true, false]);
    }
}
