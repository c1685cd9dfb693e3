//! Estimates how soon a fault is detected: for the choice of a weight and an `alpha`, before there
//! is any traffic.
//!
//! A failure is of `new` with probability s under H₀, where s is the share of `new`, and with q =
//! s·r / (s·r + 1 − s) if `new` fails r times as often. So each failure is worth the divergence
//! KL(q ‖ s) nats. ln(1/α) nats are needed, and `PRICE` more, since r is unknown beforehand. (Wald,
//! 1947, for the expected length of a sequential test.)
//!
//! Invariants: pure; an estimate of the median, for users who differ little.
//! The engine's real figures are measured in `benches/watchdog`.

use crate::stats::noninferiority::body_grows;
use std::time::Duration;

/// The engine's cost, in nats, of betting on many faults at once: from its medians in rows T4 to T6
/// of `benches/watchdog` (1 to 50%, ×2 to ×10).
const PRICE: f64 = 2.6;

/// Requests of `new` until detection, if `new` fails `times` as often as stable, of which a share
/// of `base` fails. `None` without a control: no detection.
pub fn requests_to_see(alpha: f64, share: f64, base: f64, times: f64) -> Option<f64> {
    if !(share > 0.0 && share < 1.0 && base > 0.0 && times > 1.0) {
        return None;
    }
    let failing = (base * times).min(1.0);
    let (of_new, of_stable) = (share * failing, (1.0 - share) * base);
    let q = of_new / (of_new + of_stable);
    let nats = q * (q / share).ln() + (1.0 - q) * ((1.0 - q) / (1.0 - share)).ln();
    let events_per_request_of_new = (of_new + of_stable) / share;
    Some(((1.0 / alpha).ln() + PRICE) / (nats * events_per_request_of_new))
}

/// The same as a time, at `rate` requests a second of both arms.
pub fn time_to_see(alpha: f64, share: f64, base: f64, times: f64, rate: f64) -> Option<Duration> {
    let seconds = requests_to_see(alpha, share, base, times)? / (rate * share);
    (rate > 0.0 && seconds < 1e9).then(|| Duration::from_secs_f64(seconds))
}

/// The lowest share of failures of `new` that so many requests of it show, where stable has `base`
/// of them. `None`: not even if all of them fail.
pub fn failing_seen(alpha: f64, share: f64, base: f64, requests: f64) -> Option<f64> {
    let seen = |times: f64| requests_to_see(alpha, share, base, times).is_some_and(|n| n <= requests);
    let all = 1.0 / base;
    if !seen(all) {
        return None;
    }
    let (mut below, mut above) = (0.0, all.ln());
    for _ in 0..60 {
        let middle = (below + above) / 2.0;
        if seen(middle.exp()) { above = middle } else { below = middle }
    }
    Some((base * above.exp()).min(1.0))
}

/// By how much `new` must be slower in all its answers for so many requests of it to show it, where
/// `tolerated` is no matter: `0.3` is by 30%. `spread`: of the logarithm of stable's latencies.
/// `None`: no control, or not even if it is ten times slower, which is the most that is bet on.
pub fn slowdown_seen(alpha: f64, share: f64, spread: f64, tolerated: f64, requests: f64) -> Option<f64> {
    if !(share > 0.0 && share < 1.0 && requests > 0.0) {
        return None;
    }
    // The information grows with the square of what is between them.
    let of_one = body_grows(spread, 1.0, share);
    let apart = (((1.0 / alpha).ln() + PRICE) / (of_one * requests)).sqrt();
    let slower = (1.0 + tolerated) * apart.exp() - 1.0;
    (slower <= 9.0).then_some(slower)
}

/// `alpha` of one of so many routes that are judged apart, beside all requests together: the
/// evidence of each is one part of the mean over them.
pub fn alpha_of_route(alpha: f64, routes: usize) -> f64 {
    alpha / routes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Medians of the engine, in requests of `new` in final intervals: rows T4 to T6 of
    /// `benches/watchdog`.
    #[test]
    fn the_estimate_is_near_what_the_engine_reaches() {
        let reached = [
            (0.01, 0.001, 10.0, 839.0),
            (0.05, 0.001, 10.0, 806.0),
            (0.2, 0.001, 10.0, 1133.0),
            (0.5, 0.001, 10.0, 2006.0),
            (0.05, 0.001, 5.0, 2114.0),
            (0.05, 0.001, 2.0, 25_755.0),
            (0.05, 0.01, 2.0, 2982.0),
        ];
        for (share, base, times, median) in reached {
            let seen = requests_to_see(0.001, share, base, times).unwrap();
            assert!((0.6..1.6).contains(&(seen / median)), "{share} {base} ×{times}: {seen:.0} of {median}");
        }
    }

    #[test]
    fn a_doubled_rate_of_a_thousandth_at_one_percent_of_500_a_second_takes_80_minutes() {
        let minutes = time_to_see(0.001, 0.01, 0.001, 2.0, 500.0).unwrap().as_secs_f64() / 60.0;
        assert!((75.0..90.0).contains(&minutes), "{minutes}");
    }

    /// Rows T8 of `benches/watchdog`: all slower by 20% and by 5%, strangers, with levels of 3% and
    /// of none.
    #[test]
    fn the_slowdown_that_is_seen_is_near_what_the_engine_reaches() {
        for (tolerated, median, slower) in [(0.03, 396.0, 0.2), (0.0, 270.0, 0.2), (0.0, 3_578.0, 0.05)] {
            let seen = slowdown_seen(0.001, 0.05, 0.55, tolerated, median).unwrap();
            assert!((0.75..1.35).contains(&(seen / slower)), "{slower} after {median}: {seen}");
        }
        assert!(slowdown_seen(0.001, 0.05, 0.5, 0.2, 1e9).unwrap() > 0.2, "never below what is tolerated");
        assert_eq!(slowdown_seen(0.001, 1.0, 0.5, 0.2, 1e9), None);
        assert_eq!(slowdown_seen(0.001, 0.05, 0.5, 0.2, 1.0), None);
    }

    #[test]
    fn the_failures_that_are_seen_are_those_of_which_the_time_is_told() {
        let base = 0.001;
        let needed = requests_to_see(0.001, 0.05, base, 5.0).unwrap();
        let seen = failing_seen(0.001, 0.05, base, needed).unwrap();
        assert!((seen / (5.0 * base) - 1.0).abs() < 1e-6, "{seen}");
        assert_eq!(failing_seen(0.001, 0.05, base, 3.0), None);
        assert_eq!(failing_seen(0.001, 1.0, base, 1e9), None);
    }

    proptest! {
        #[test]
        fn more_of_anything_is_seen_sooner(
            share in 0.001f64..0.45, base in 1e-5f64..0.05, times in 1.1f64..9.0, alpha in 1e-6f64..0.05,
        ) {
            let seen = requests_to_see(alpha, share, base, times).unwrap();
            prop_assert!(seen.is_finite() && seen > 0.0);
            prop_assert!(requests_to_see(alpha, share, base, times * 1.2).unwrap() < seen);
            prop_assert!(requests_to_see(alpha, share, base * 1.5, times).unwrap() < seen);
            prop_assert!(requests_to_see(alpha / 2.0, share, base, times).unwrap() > seen);
            prop_assert!(requests_to_see(alpha, 1.0, base, times).is_none());
            prop_assert!(requests_to_see(alpha, 0.0, base, times).is_none());
        }
    }
}
