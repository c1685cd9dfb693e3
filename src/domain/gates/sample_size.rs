//! The number of requests that each gate needs, and the resulting duration of a wave: estimated
//! from stable, for a `new` that is like it.
//!
//! The judged gates ([`crate::domain::gates::margin_gates`]) and `check --against` use the same
//! functions.
//!
//! Invariants: pure; estimates are for people and decide nothing; a time is finite, or `None`.

use super::{BAKE, Margins, REQUESTS, TrialReading, base};
use crate::domain::gates::margin_gates::{ERRORS, LATENCY, TAIL};
use crate::domain::wave::Wave;
use crate::stats::design_effect::{ServerMoments, expected};
use crate::stats::noninferiority::{body_needed, requests_needed, tail_needed};
use std::borrow::Cow;
use std::time::Duration;

/// Standard deviation of the logarithm of latencies, if unknown.
const USUAL_SPREAD: f64 = 0.6;
/// Minimum of stable's answers for an estimate of the share above its p99.
const TIMED_MIN: u64 = 1_000;
/// The share above p99, if unknown.
const ABOVE_P99: f64 = 0.01;

/// Stable's properties, as the gates use them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct UsualStable {
    /// Share of failed requests.
    pub failing: f64,
    /// Share of answers above its p99.
    pub slow: f64,
    /// Standard deviation of the logarithm of single answers' latencies.
    pub spread: f64,
    /// Design effects of errors, latency, tail: this many requests count as one.
    pub design: [f64; 3],
    /// The part of servers' moments in them, which depends on the wave.
    pub moments: [ServerMoments; 3],
}

impl UsualStable {
    /// As the present wave has shown it so far.
    pub fn of(reading: &TrialReading) -> UsualStable {
        let (bad, n) = (reading.failed.stable, reading.compared.stable);
        let (slow, timed) = (reading.slow.stable, reading.timed.stable);
        let design = [reading.design_errors, reading.design_latency, reading.design_tail];
        UsualStable {
            slow: if timed < TIMED_MIN { ABOVE_P99 } else { base(slow, timed) },
            design: design.map(|effect| effect.max(1.0)),
            ..UsualStable::before_a_wave(bad, n, Some(reading.spread_latency))
        }
    }

    /// Before a wave has shown the design effects: `failed` of stable's requests `of` have failed.
    pub fn before_a_wave(failed: u64, of: u64, spread: Option<f64>) -> UsualStable {
        UsualStable {
            failing: base(failed, of),
            slow: ABOVE_P99,
            spread: spread.filter(|spread| *spread > 0.0).unwrap_or(USUAL_SPREAD),
            design: [1.0; 3],
            moments: Default::default(),
        }
    }

    /// Independent requests of `new` that the margin gates need: errors, latency, tail.
    pub fn independent(&self, margins: &Margins, share: f64) -> [f64; 3] {
        [
            requests_needed(self.failing, margins.errors, share),
            body_needed(self.spread, margins.latency, share),
            tail_needed(self.slow, margins.tail_ratio(), share),
        ]
    }

    /// The same for requests with their design effects.
    /// `rate`: requests a second of both arms; `servers`: of `new` and of stable.
    pub fn requests(&self, margins: &Margins, share: f64, rate: f64, servers: [f64; 2]) -> [f64; 3] {
        let independent = self.independent(margins, share);
        std::array::from_fn(|i| {
            independent[i] * self.design[i].max(expected(&self.moments[i], rate, share, servers))
        })
    }
}

/// A route with gates of its own.
#[derive(Clone, PartialEq, Debug)]
pub struct CriticalTraffic<'r> {
    pub name: &'r str,
    /// Requests a second, of both arms. `None`: unknown.
    pub rate: Option<f64>,
    pub usual: UsualStable,
}

/// The time that a gate takes from the start of its wave.
#[derive(Clone, PartialEq, Debug)]
pub struct GateDuration {
    pub gate: Cow<'static, str>,
    /// `None`: no estimate, because no requests come.
    pub time: Option<Duration>,
}

/// The time that each gate of a wave takes, of those that time passes.
/// `rate`: requests a second of both arms; `servers`: of `new`, of stable; `late`: answers of
/// stable needed before latency is compared.
pub fn takes(
    wave: &Wave,
    margins: &Margins,
    (rate, usual): (f64, &UsualStable),
    servers: [f64; 2],
    late: f64,
    critical: &[CriticalTraffic<'_>],
) -> Vec<GateDuration> {
    let share = wave.until_complete.weight.ratio();
    let takes = |gate: Cow<'static, str>, time| GateDuration { gate, time };
    let mut all = vec![takes(BAKE.into(), Some(wave.bake))];
    // Requests of segments are not counted separately.
    all.push(takes(REQUESTS.into(), time(wave.requests_min as f64 / (rate * share))));
    if !wave.controlled() {
        return all;
    }
    let names = [ERRORS, LATENCY, TAIL];
    let after = [0.0, late, late].map(|answers| answers / (rate * (1.0 - share)));
    let needed = usual.requests(margins, share, rate, servers);
    for (i, name) in names.into_iter().enumerate() {
        all.push(takes(name.into(), time(after[i] + needed[i] / (rate * share))));
    }
    for route in critical {
        let of_route = route.rate.unwrap_or_default();
        let needed = route.usual.requests(margins, share, of_route, servers);
        for (i, name) in names.into_iter().enumerate() {
            let seconds = route.rate.map(|rate| after[i] + needed[i] / (rate * share));
            all.push(takes(format!("{name}:{}", route.name).into(), seconds.and_then(time)));
        }
    }
    all
}

/// The longest of these. One without an estimate is longer than any.
pub fn longest(of: &[GateDuration]) -> Option<&GateDuration> {
    of.iter().max_by_key(|takes| takes.time.unwrap_or(Duration::MAX))
}

/// `None`: infinite, or not a number.
pub fn time(seconds: f64) -> Option<Duration> {
    (0.0..1e9).contains(&seconds).then(|| Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::wave::tests::waves;

    const MARGINS: Margins = Margins { errors: 0.001, latency: 0.1, tail: 0.5 };

    fn slowest(wave: &str, rate: f64, late: f64, critical: &[CriticalTraffic<'_>]) -> (String, Option<u64>) {
        let usual = UsualStable::before_a_wave(30, 30_000, None);
        let all = takes(&waves(wave)[0], &MARGINS, (rate, &usual), [1.0, 10.0], late, critical);
        let of = longest(&all).unwrap();
        (of.gate.to_string(), of.time.map(|time| time.as_secs() / 60))
    }

    #[test]
    fn a_wave_takes_as_long_as_its_slowest_gate() {
        assert_eq!(slowest("5%", 200.0, 0.0, &[]).0, "errors");
        assert_eq!(slowest("5%", 100_000.0, 0.0, &[]), ("bake".into(), Some(10)));
        assert_eq!(slowest("100%", 0.5, 0.0, &[]), ("requests".into(), Some(16)));
        assert_eq!(slowest("testers", 200.0, 0.0, &[]), ("requests".into(), None));
        assert_eq!(slowest("5%", 0.0, 0.0, &[]).1, None);
        let usual = UsualStable::before_a_wave(0, 0, None);
        let refunds = |rate| [CriticalTraffic { name: "refunds", rate, usual }];
        assert_eq!(slowest("5%", 100_000.0, 0.0, &refunds(Some(1.0))).0, "latency_tail:refunds");
        assert_eq!(slowest("5%", 100_000.0, 0.0, &refunds(None)).1, None);
        // 5,000 answers at one a second come first.
        assert!(slowest("50%", 2.0, 5_000.0, &[]).1 > slowest("50%", 2.0, 0.0, &[]).1);
    }

    #[test]
    fn servers_that_pause_make_it_longer_and_the_longer_the_fewer_they_are() {
        let takes = |of_servers: f64, servers| {
            let usual =
                UsualStable { moments: [[of_servers; 3]; 3], ..UsualStable::before_a_wave(30, 30_000, None) };
            let all = takes(&waves("5%")[0], &MARGINS, (200.0, &usual), servers, 0.0, &[]);
            all.into_iter().find(|takes| takes.gate == TAIL).and_then(|takes| takes.time).unwrap()
        };
        let calm = takes(0.0, [1.0, 10.0]);
        assert!(takes(0.02, [1.0, 10.0]) > 2 * calm, "{calm:?}");
        assert!(takes(0.02, [3.0, 30.0]) < takes(0.02, [1.0, 10.0]));
    }

    #[test]
    fn figures_that_make_no_sense_give_no_time() {
        for figure in [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MAX, f64::MIN_POSITIVE] {
            let usual = UsualStable {
                failing: figure,
                slow: figure,
                spread: figure,
                design: [figure; 3],
                moments: [[figure; 3]; 3],
            };
            let critical = [CriticalTraffic { name: "r", rate: Some(figure), usual }];
            for wave in waves("testers 5% 50% 100%") {
                takes(&wave, &MARGINS, (figure, &usual), [figure; 2], figure, &critical);
            }
        }
    }
}
