//! Other methods on the same traffic: fixed thresholds on a window, as in Flagger, and a sequential
//! test of requests (mSPRT).
//!
//! Neither changes the traffic: each is evaluated as if it alone decided.

use grayling::stats::arm::Arm;
use grayling::stats::engine::{EventKind, RequestEvent};
use grayling::stats::histogram::Histogram;
use std::time::Duration;

/// Flagger's defaults for a canary: a check a minute, five failed ones in a row, 99% success, p99
/// 500 ms. Here p99 is 1.5 times stable's earlier p99, as an operator with knowledge of the service
/// would set it.
const EVERY: Duration = Duration::from_secs(60);
const FAILED_CHECKS: u32 = 5;
const SUCCESS_MIN: f64 = 0.99;
const P99_SLACK: f64 = 1.5;

#[derive(Clone, Copy, Debug)]
pub struct Trip {
    pub at: Duration,
    pub harmed: u64,
}

#[derive(Clone)]
pub struct Rivals {
    p99_max: Duration,
    checked: Duration,
    failed_checks: u32,
    answered: u64,
    failed: u64,
    minute: Histogram,
    arms: [Sums; 2],
    pub flagger: Option<Trip>,
    pub msprt: Option<Trip>,
}

/// Sums of one arm, since the wave began.
#[derive(Default, Clone, Copy)]
struct Sums {
    requests: f64,
    failed: f64,
    answered: f64,
    log: f64,
    squares: f64,
}

impl Rivals {
    /// `usual`: stable's latencies before the attempt.
    pub fn new(usual: &Histogram, now: Duration) -> Rivals {
        Rivals {
            p99_max: usual.quantile(0.99).unwrap_or(Duration::from_millis(500)).mul_f64(P99_SLACK),
            checked: now,
            failed_checks: 0,
            answered: 0,
            failed: 0,
            minute: Histogram::default(),
            arms: Default::default(),
            flagger: None,
            msprt: None,
        }
    }

    pub fn completed(&mut self, event: &RequestEvent) {
        let arm = event.request.arm;
        let sums = &mut self.arms[arm.index()];
        let failed = event.what == EventKind::Failed;
        sums.requests += 1.0;
        sums.failed += f64::from(u8::from(failed));
        if !failed {
            let log = (event.after.as_secs_f64() * 1e3).max(0.01).ln();
            sums.answered += 1.0;
            sums.log += log;
            sums.squares += log * log;
        }
        if arm == Arm::New {
            self.minute.record(event.after);
            // Its default metric counts only 5xx: a 404 is a success.
            *(if failed { &mut self.failed } else { &mut self.answered }) += 1;
        }
    }

    pub fn tick(&mut self, now: Duration, harmed: u64) {
        let trip = Trip { at: now, harmed };
        if self.msprt.is_none() && self.sequential() {
            self.msprt = Some(trip);
        }
        if now < self.checked + EVERY {
            return;
        }
        self.checked = now;
        let n = self.answered + self.failed;
        let bad = (self.answered as f64) < SUCCESS_MIN * n as f64
            || self.minute.quantile(0.99).is_some_and(|p99| p99 > self.p99_max);
        self.failed_checks = if n > 0 && bad { self.failed_checks + 1 } else { 0 };
        if self.failed_checks >= FAILED_CHECKS && self.flagger.is_none() {
            self.flagger = Some(trip);
        }
        (self.answered, self.failed, self.minute) = (0, 0, Histogram::default());
    }

    /// Johari and others: a normal mixture over the difference of two means, α/2 each for failures
    /// and for log latency.
    fn sequential(&self) -> bool {
        let [stable, new] = [Arm::Stable, Arm::New].map(|arm| self.arms[arm.index()]);
        let beyond = |difference: f64, variance: f64, tau: f64| {
            let (v, t) = (variance, tau * tau);
            let log = 0.5 * (v / (v + t)).ln() + difference * difference * t / (2.0 * v * (v + t));
            difference > 0.0 && log >= (2.0 / crate::world::ALPHA).ln()
        };
        if new.answered + new.failed < 20.0 || stable.answered < 20.0 {
            return false;
        }
        let p = (new.failed + stable.failed) / (new.requests + stable.requests);
        let each = |a: f64, b: f64| 1.0 / a + 1.0 / b;
        let failures = p > 0.0
            && beyond(
                new.failed / new.requests - stable.failed / stable.requests,
                p * (1.0 - p) * each(new.requests, stable.requests),
                0.005,
            );
        let n = new.answered + stable.answered;
        let mean = (new.log + stable.log) / n;
        let spread = (new.squares + stable.squares) / n - mean * mean;
        let slower = new.answered >= 20.0
            && beyond(
                new.log / new.answered - stable.log / stable.answered,
                spread * each(new.answered, stable.answered),
                0.1,
            );
        failures || slower
    }
}
