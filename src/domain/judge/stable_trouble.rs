//! Is stable in trouble, that is, far worse than usual?
//!
//! "Usual" is a slow average of its own share of bad requests.
//! So a service with ordinary background errors is not in trouble, and neither is one with an
//! account that retries: a user counts as defined in [`crate::domain::judge::bad_requests`].
//! Trouble needs [`USERS_MIN`] users, [`TIMES_USUAL`] times the usual share, and more than chance.
//!
//! Invariants: pure; `new` has no part in it. During trouble each sample moves the average by at
//! most the bound of trouble. So an outage does not become usual within minutes, and a level that
//! stays does within half an hour.

use crate::domain::judge::bad_requests::BadRequests;
use crate::stats::arm::Arm;
use crate::stats::engine::{EventKind, FinalInterval, RequestEvent, SIGNALS, Signal};
use crate::stats::users::UserUnit;
use std::time::Duration;

/// The least distinct users that stable must have failed in [`SPAN`].
pub const USERS_MIN: u64 = 5;
/// The least multiple of the usual share of its requests.
pub const TIMES_USUAL: f64 = 3.0;
/// The least number of standard deviations above the usual.
const BEYOND_CHANCE: f64 = 4.0;
/// The span that counts as now.
pub const SPAN: Duration = Duration::from_secs(10);
/// The time constant of the average.
const MEMORY: Duration = Duration::from_secs(15 * 60);
/// The interval of learning.
const EVERY: Duration = Duration::from_secs(1);
/// At first every sample is learnt without a bound.
const FIRST: Duration = Duration::from_secs(2);

/// After a trouble, its requests become final during this time, beyond the span that detects its
/// end; a longer deadline is cut.
const AFTERMATH_MAX: Duration = Duration::from_secs(20);

/// Stable's performance compared with its usual one, by signal.
#[derive(Clone, Debug, Default)]
pub struct StableState {
    troubles: [SignalTrouble; SIGNALS],
    /// The deadline at the last tick: how long after its end an interval became final.
    deadline: Duration,
}

impl StableState {
    /// Takes request events: trouble shows in them before the interval is final.
    /// Answers that took longer than `slow_from` are slow; `None`: not known yet.
    pub fn record(&mut self, events: &[RequestEvent], slow_from: Option<Duration>) {
        let [errors, client_errors, latency, redirects, ..] = &mut self.troubles;
        let (mut answered, mut failed, mut client) = (0, 0, 0);
        for event in events.iter().filter(|event| event.request.arm == Arm::Stable) {
            let user = event.request.unit;
            match event.what {
                EventKind::Answered | EventKind::Redirected => {
                    answered += 1;
                    if event.what == EventKind::Redirected {
                        redirects.was_bad(user);
                    }
                    if slow_from.is_some_and(|limit| event.after > limit) {
                        latency.was_bad(user);
                    }
                }
                EventKind::ClientError => {
                    client += 1;
                    client_errors.was_bad(user);
                }
                EventKind::Failed | EventKind::Left { unusual: true } => {
                    failed += 1;
                    errors.was_bad(user);
                }
                EventKind::Broke => errors.was_bad(user),
                EventKind::EndedAsClientError => client_errors.was_bad(user),
                EventKind::Arrived
                | EventKind::Excused
                | EventKind::Left { unusual: false }
                | EventKind::Ended { .. } => {}
            }
        }
        errors.came(answered + client + failed);
        client_errors.came(answered + client);
        redirects.came(answered);
        latency.came(if slow_from.is_some() { answered } else { 0 });
    }

    /// A request without a result at its deadline has failed.
    pub fn take_final(&mut self, of: &FinalInterval<'_>) {
        let errors = &mut self.troubles[Signal::Errors as usize];
        for failure in of.failures.iter().filter(|f| f.arm == Arm::Stable && !f.reported) {
            errors.came(1);
            errors.was_bad(failure.user);
        }
    }

    /// Advances time; intervals become final `deadline` after their end.
    pub fn tick(&mut self, now: Duration, deadline: Duration) {
        self.troubles.iter_mut().for_each(|trouble| trouble.tick(now));
        self.deadline = deadline;
    }

    /// By signal: is stable in trouble that could cause this signal, or was it a moment ago?
    pub fn defers(&self, now: Duration) -> [bool; SIGNALS] {
        let aftermath = SPAN + self.deadline.min(AFTERMATH_MAX);
        let [errors, client_errors, latency, redirects, duration, empty] =
            std::array::from_fn(|signal| self.troubles[signal].within(now, aftermath));
        [errors, client_errors, errors || latency, redirects, errors || latency || duration, empty]
    }

    pub fn is_in_trouble(&self) -> bool {
        self.troubles.iter().any(|trouble| trouble.on)
    }
}

/// A slow average.
#[derive(Clone, Copy, Debug, Default)]
struct SlowAverage {
    requests: f64,
    bad: f64,
    /// How long it has been learning, and when it last did.
    age: Duration,
    at: Duration,
}

impl SlowAverage {
    fn share(&self) -> f64 {
        if self.requests > 0.0 { self.bad / self.requests } else { 0.0 }
    }

    fn learn(&mut self, now: Duration, requests: u64, bad: f64) {
        if self.at == Duration::ZERO {
            self.at = now;
        }
        if now.saturating_sub(self.at) < EVERY || requests == 0 {
            return;
        }
        let bad = if self.age < FIRST { bad } else { bad.min(self.bound(requests)) };
        // A span is seen once in each of its steps.
        let step = EVERY.as_secs_f64() / SPAN.as_secs_f64();
        let keep = (-EVERY.as_secs_f64() / MEMORY.as_secs_f64()).exp();
        self.requests = keep * self.requests + step * requests as f64;
        self.bad = keep * self.bad + step * bad;
        (self.at, self.age) = (now, self.age.saturating_add(EVERY));
    }

    /// The number of bad requests among `requests` that is trouble.
    fn bound(&self, requests: u64) -> f64 {
        let expected = self.share() * requests as f64;
        (TIMES_USUAL * expected).max(expected + BEYOND_CHANCE * expected.sqrt()).max(USERS_MIN as f64)
    }
}

/// The trouble of one signal.
#[derive(Clone, Debug)]
struct SignalTrouble {
    /// Stable's requests in the last [`SPAN`].
    now: BadRequests,
    usual: SlowAverage,
    /// When it was last seen in trouble.
    seen: Option<Duration>,
    on: bool,
}

impl Default for SignalTrouble {
    fn default() -> Self {
        SignalTrouble { now: BadRequests::new(SPAN), usual: SlowAverage::default(), seen: None, on: false }
    }
}

impl SignalTrouble {
    /// Adds finished requests of stable.
    fn came(&mut self, requests: u64) {
        self.now.came(requests);
    }

    /// Marks one of them as bad.
    fn was_bad(&mut self, user: Option<UserUnit>) {
        self.now.was_bad(user);
    }

    /// Advances time.
    fn tick(&mut self, now: Duration) {
        self.now.close(now);
        let (requests, bad) = (self.now.requests(), self.now.count());
        let known = self.usual.requests > 0.0;
        self.on = known && self.now.users() >= USERS_MIN && bad as f64 >= self.usual.bound(requests);
        if self.on {
            self.seen = Some(now);
        }
        self.usual.learn(now, requests, bad as f64);
    }

    /// Is it in trouble now, or was it within `after`?
    fn within(&self, now: Duration, after: Duration) -> bool {
        self.seen.is_some_and(|at| now.saturating_sub(at) <= after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::engine::tests::Dice;

    /// 20 requests a tick of 100 ms.
    struct Service {
        trouble: SignalTrouble,
        dice: Dice,
        tick: u32,
        /// Ticks in trouble.
        on: u32,
    }

    impl Service {
        fn new() -> Service {
            Service { trouble: SignalTrouble::default(), dice: Dice::new(1), tick: 0, on: 0 }
        }

        fn run(&mut self, seconds: u32, share: f64, account: bool) -> &mut Service {
            self.on = 0;
            for _ in 0..10 * seconds {
                self.tick += 1;
                self.trouble.came(20);
                for _ in 0..20 {
                    if self.dice.uniform() < share {
                        let user = (self.dice.uniform() * 1e6) as u32;
                        self.trouble.was_bad(Some(UserUnit::from_index(user)));
                    }
                }
                if account {
                    self.trouble.was_bad(Some(UserUnit::from_index(5)));
                }
                self.trouble.tick(Duration::from_millis(100) * self.tick);
                self.on += u32::from(self.trouble.on);
            }
            self
        }
    }

    #[test]
    fn background_errors_are_usual_and_three_times_as_many_are_not() {
        for share in [0.001, 0.01, 0.03] {
            let mut stable = Service::new();
            stable.run(300, share, true);
            assert!(stable.run(600, share, true).on < 30, "{share}: {}", stable.on);
            let worse = (5.0 * share).max(0.02);
            assert!(stable.run(60, worse, true).on > 500, "{share}: {}", stable.on);
            assert!((0.8..4.0).contains(&(stable.trouble.usual.share() / share)), "{share}");
        }
    }

    #[test]
    fn one_account_that_fails_is_no_trouble() {
        let mut stable = Service::new();
        stable.run(300, 0.0, false);
        assert_eq!(stable.run(60, 0.0, true).on, 0);
    }

    #[test]
    fn an_outage_does_not_become_usual_and_a_level_that_stays_does() {
        let mut stable = Service::new();
        stable.run(900, 0.001, false);
        assert!(stable.run(300, 0.3, false).on > 2900, "{}", stable.on);
        stable.run(1800, 0.02, false);
        assert_eq!(stable.run(60, 0.02, false).on, 0);
    }
}
