//! Turns one 2×2 table into a bet: the conditional likelihood of the events of `new`, given all
//! events of both arms.
//!
//! Invariants: under exchangeable labels the mean of exp(ln L) is at most 1, whatever the margins
//! (a test enumerates it); no function here uses more than one table.
//!
//! Sources: Lindon, Malek, anytime-valid inference for multinomial count data; ter Schure,
//! Grünwald, safe log-rank test.
//! For the bound: Vatutin, Mikhailov (a hypergeometric count is a sum of independent coins),
//! Chebyshev, Markov (the worst sum of coins of given mean and variance has two points).

use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};

/// Up to this many draws the moment generating function is exact, above it is a closed bound.
const EXACT_DRAWS: f64 = 32.0;

/// Values of new and stable, in that order of arguments everywhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PerArm {
    pub new: u64,
    pub stable: u64,
}

impl PerArm {
    pub fn new(new: u64, stable: u64) -> PerArm {
        PerArm { new, stable }
    }

    pub fn of(&mut self, arm: Arm) -> &mut u64 {
        match arm {
            Arm::New => &mut self.new,
            Arm::Stable => &mut self.stable,
        }
    }

    pub fn save(self, encoder: &mut Encoder) {
        encoder.u64(self.new);
        encoder.u64(self.stable);
    }

    pub fn restore(decoder: &mut Decoder<'_>) -> Option<PerArm> {
        Some(PerArm { new: decoder.u64()?, stable: decoder.u64()? })
            .filter(|p| p.new.checked_add(p.stable).is_some())
    }

    pub fn total(self) -> u64 {
        self.new.saturating_add(self.stable)
    }

    pub fn take(&mut self, other: PerArm) {
        self.new = self.new.saturating_sub(other.new);
        self.stable = self.stable.saturating_sub(other.stable);
    }

    pub fn capped(self, by: PerArm) -> PerArm {
        PerArm { new: self.new.min(by.new), stable: self.stable.min(by.stable) }
    }
}

impl std::ops::AddAssign for PerArm {
    fn add_assign(&mut self, other: PerArm) {
        self.new += other.new;
        self.stable += other.stable;
    }
}

/// The result of one table for one alternative.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Bet {
    /// ln L = λ k₁ − B.
    pub log: f64,
    /// B − λ μ, in nats: the expected loss of the bet under H₀.
    pub cost: f64,
}

impl std::ops::AddAssign for Bet {
    fn add_assign(&mut self, other: Bet) {
        self.log += other.log;
        self.cost += other.cost;
    }
}

/// `events` of the users `at_risk` had the event. `lambda`: log odds ratio of the alternative.
/// Rows and columns are flipped so that the drawn counts are small.
pub fn cell(at_risk: PerArm, events: PerArm, lambda: f64) -> Bet {
    let (n, mut k) = (at_risk.total() as f64, events.total() as f64);
    if k <= 0.0 || k >= n || at_risk.new == 0 || at_risk.stable == 0 || lambda == 0.0 {
        return Bet::default();
    }
    let (mut drawn, mut a, mut lambda) = (events.new as f64, at_risk.new as f64, lambda);
    if k > n - k {
        drawn = a - drawn;
        k = n - k;
        lambda = -lambda;
    }
    if at_risk.new > at_risk.stable {
        a = at_risk.stable as f64;
        drawn = k - drawn;
        lambda = -lambda;
    }
    let b = log_mgf(a, n - a, k, lambda);
    Bet { log: lambda * drawn - b, cost: (b - lambda * k * (a / n)).max(0.0) }
}

/// ln E exp(λX) of X ~ Hypergeometric(n₁ + n₀, k, n₁): exact for few draws, else an upper bound.
fn log_mgf(n1: f64, n0: f64, k: f64, lambda: f64) -> f64 {
    let m = k.min(n1);
    if m <= EXACT_DRAWS {
        let lowest = (k - n0).max(0.0);
        let (mut u, mut s0, mut s1, mut p, e) = (1.0, 0.0, 0.0, 1.0, lambda.exp());
        let mut j = lowest;
        while j <= m {
            s0 += u;
            s1 += u * p;
            p *= e;
            u = if j < m { u * (n1 - j) * (k - j) / ((j + 1.0) * (n0 - k + j + 1.0)) } else { 0.0 };
            j += 1.0;
        }
        return f64::ln(s1 / s0) + lambda * lowest;
    }
    let n = n1 + n0;
    let mean = k * (n1 / n);
    let variance = mean * (n0 / n) * (n - k) / (n - 1.0);
    let (m1, m2, c) = (mean / m, (mean - variance) / m, lambda.exp_m1());
    if lambda > 0.0 {
        let a = (m1 - m2) / (1.0 - m1);
        let w = (1.0 - (1.0 - m1) / (1.0 - a)).max(0.0);
        m * ((1.0 - w) * (a * c).ln_1p() + w * lambda)
    } else {
        m * (m1 * m1 / m2) * (m2 / m1 * c).ln_1p()
    }
}
