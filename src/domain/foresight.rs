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
            let told = requests_to_see(0.001, share, base, times).unwrap();
            assert!((0.6..1.6).contains(&(told / median)), "{share} {base} ×{times}: {told:.0} of {median}");
        }
    }

    #[test]
    fn a_doubled_rate_of_a_thousandth_at_one_percent_of_500_a_second_takes_80_minutes() {
        let minutes = time_to_see(0.001, 0.01, 0.001, 2.0, 500.0).unwrap().as_secs_f64() / 60.0;
        assert!((75.0..90.0).contains(&minutes), "{minutes}");
    }

    proptest! {
        #[test]
        fn more_of_anything_is_seen_sooner(
            share in 0.001f64..0.45, base in 1e-5f64..0.05, times in 1.1f64..9.0, alpha in 1e-6f64..0.05,
        ) {
            let told = requests_to_see(alpha, share, base, times).unwrap();
            prop_assert!(told.is_finite() && told > 0.0);
            prop_assert!(requests_to_see(alpha, share, base, times * 1.2).unwrap() < told);
            prop_assert!(requests_to_see(alpha, share, base * 1.5, times).unwrap() < told);
            prop_assert!(requests_to_see(alpha / 2.0, share, base, times).unwrap() > told);
            prop_assert!(requests_to_see(alpha, 1.0, base, times).is_none());
            prop_assert!(requests_to_see(alpha, 0.0, base, times).is_none());
        }
    }
}
