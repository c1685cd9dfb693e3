//! Evidence that `new` is *not* worse by more than a margin, on which a wave is promoted.
//! It consists of three e-processes. Each starts at 1 with its wave and reaches 1/β with
//! probability β at most, if `new` is at its margin or beyond. There is no restart within a wave,
//! since only a whole wave is proof.
//!
//! [`FailureTest`]: H₀ "p(new) ≥ max(p(stable) + margin, 1.5 × p(stable))", the mean of two
//! processes that are valid for it: blocks of requests that bet on the difference, and bets on the
//! ratio of counts.
//! [`TailTest`]: the ratio alone, of answers above stable's p99, with a limit of its own.
//! [`BodyTest`]: the log-rank bets of the engine with the arms swapped.
//!
//! *Users repeat themselves*: a user who always fails is the same failure each time.
//! Therefore the wealth is *tempered*: raised to the power 1/d, where d ≥ 1 is the design effect
//! (Kish 1965; Rao, Scott 1987), the variance between groups of users against that of independent
//! requests. By Jensen's inequality a mean of at most 1 stays at most 1.
//!
//! Source: Waudby-Smith, Ramdas, estimating means of bounded random variables by betting (2023).

use crate::stats::codec::{Decoder, Encoder};
use crate::stats::hypergeometric_bet::{Bet, PerArm};

/// The error probability of a gate, which passes at 1/β.
pub const BETA: f64 = 0.05;
/// The limit on the ratio of failure rates, however small the margin would be.
pub const RATIO_MAX: f64 = 1.5;
const BETS: [f64; 8] = [0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95];
/// The alternatives of the ratio, as powers of the limit: 1 is the limit itself, 0 is "alike".
const RATIOS: [f64; 6] = [0.55, 0.235, 0.0, -0.26, -0.71, -1.71];
/// Keeps written e-values finite.
const LOG_MAX: f64 = 690.0;
/// Maximum of rows that are read from a file.
const BODY_ROWS_MAX: usize = 64;

/// The mean of e^(log/d).
fn mean_exp(logs: &[f64], design_effect: f64) -> f64 {
    let exp = |log: &f64| (log / design_effect.max(1.0)).min(LOG_MAX).exp();
    logs.iter().map(exp).sum::<f64>() / logs.len().max(1) as f64
}

#[derive(Clone, Debug)]
pub struct FailureTest {
    margin: f64,
    difference: [f64; BETS.len()],
    ratio: RatioTest,
    coin: u64,
}

impl FailureTest {
    /// `margin`: a difference of shares. `0.001` is 0.1 percentage points.
    pub fn new(margin: f64) -> FailureTest {
        let coin = 0x9e37_79b9_7f4a_7c15;
        FailureTest { margin, difference: [0.0; BETS.len()], ratio: RatioTest::new(RATIO_MAX), coin }
    }

    /// Takes the requests of one slot and the failed ones. The slot must not have been chosen by
    /// its failures.
    pub fn push(&mut self, requests: PerArm, failed: PerArm) {
        let failed = failed.capped(requests);
        let blocks = requests.new.min(requests.stable);
        if blocks == 0 {
            return;
        }
        self.ratio.push(requests, failed);
        // Blocks of one size each. The requests of a block are drawn at random, whatever their
        // outcomes.
        let new = self.dealt(requests.new, failed.new, blocks);
        let stable = self.dealt(requests.stable, failed.stable, blocks);
        let mut bad: Vec<u64> = new.iter().chain(&stable).map(|(block, _)| *block).collect();
        bad.sort_unstable();
        bad.dedup();
        let share =
            |of: &[(u64, f64)], block: u64| of.iter().find(|(b, _)| *b == block).map_or(0.0, |(_, s)| *s);
        for (log, bet) in self.difference.iter_mut().zip(BETS) {
            *log += (blocks - bad.len() as u64) as f64 * (bet * self.margin).ln_1p();
            for block in &bad {
                let seen = self.margin + share(&stable, *block) - share(&new, *block);
                *log += (1.0 + bet * seen).max(1e-300).ln();
            }
        }
    }

    /// Distributes `failed` of `n` requests over the blocks at random. Returns the blocks with a
    /// failure, and their share of failures.
    fn dealt(&mut self, n: u64, failed: u64, blocks: u64) -> Vec<(u64, f64)> {
        let size = n / blocks;
        let mut dealt: Vec<(u64, f64)> = Vec::new();
        let mut left = failed;
        // Selection sampling: each remaining position is a failure with probability left / rest
        // (Knuth, 3.4.2 S).
        for position in 0..n {
            if left == 0 {
                break;
            }
            if self.uniform() * ((n - position) as f64) < left as f64 {
                left -= 1;
                let block = position / size;
                match dealt.last_mut().filter(|(b, _)| *b == block) {
                    Some((_, share)) => *share += 1.0 / size as f64,
                    None if block < blocks => dealt.push((block, 1.0 / size as f64)),
                    None => {}
                }
            }
        }
        dealt
    }

    /// xorshift64*, seeded, so that the same requests give the same evidence.
    fn uniform(&mut self) -> f64 {
        self.coin ^= self.coin >> 12;
        self.coin ^= self.coin << 25;
        self.coin ^= self.coin >> 27;
        (self.coin.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64s(&self.difference);
        self.ratio.save(encoder);
        encoder.u64(self.coin);
    }

    pub fn restore(margin: f64, decoder: &mut Decoder<'_>) -> Option<FailureTest> {
        let mut failures = FailureTest::new(margin);
        decoder.logs(&mut failures.difference)?;
        failures.ratio = RatioTest::restore(RATIO_MAX, decoder)?;
        // A xorshift generator never reaches zero.
        failures.coin = decoder.u64().filter(|coin| *coin != 0)?;
        Some(failures)
    }

    pub fn e_value(&self, design_effect: f64) -> f64 {
        0.5 * mean_exp(&self.difference, design_effect) + 0.5 * self.ratio.e_value(design_effect)
    }
}

/// H₀: `new` is bad at least `limit` times as often as stable.
#[derive(Clone, Debug)]
pub struct RatioTest {
    limit: f64,
    logs: [f64; RATIOS.len()],
}

pub type TailTest = RatioTest;

impl RatioTest {
    pub fn new(limit: f64) -> RatioTest {
        RatioTest { limit, logs: [0.0; RATIOS.len()] }
    }

    pub fn push(&mut self, of: PerArm, bad: PerArm) {
        let (n1, n0) = (of.new as f64, of.stable as f64);
        if of.new == 0 || of.stable == 0 {
            return;
        }
        // Under H₀ a bad request is of `new` with at least this probability; the binomial bounds
        // the conditional law.
        let share = self.limit * n1 / (self.limit * n1 + n0);
        let (k1, k) = (bad.new as f64, bad.total() as f64);
        for (log, q) in self.logs.iter_mut().zip(below(self.limit)) {
            *log += k1 * q.ln() - k * ((q - 1.0) * share).ln_1p();
        }
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64s(&self.logs);
    }

    pub fn restore(limit: f64, decoder: &mut Decoder<'_>) -> Option<RatioTest> {
        let mut ratio = RatioTest::new(limit);
        decoder.logs(&mut ratio.logs)?;
        Some(ratio)
    }

    pub fn e_value(&self, design_effect: f64) -> f64 {
        mean_exp(&self.logs, design_effect)
    }
}

/// The alternatives, as multiples of the limit.
fn below(limit: f64) -> impl Iterator<Item = f64> {
    RATIOS.into_iter().map(move |power| limit.powf(power - 1.0))
}

/// H₀: `new`, made faster by the margin, is still no faster than stable.
#[derive(Clone, Debug, Default)]
pub struct BodyTest(Vec<f64>);

impl BodyTest {
    /// Takes bets of the engine's body rows, with the arms swapped.
    pub fn push(&mut self, bets: impl Iterator<Item = Bet>) {
        for (row, bet) in bets.enumerate() {
            if self.0.len() <= row {
                self.0.resize(row + 1, 0.0);
            }
            self.0[row] += bet.log;
        }
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.u64(self.0.len() as u64);
        encoder.f64s(&self.0);
    }

    pub fn restore(decoder: &mut Decoder<'_>) -> Option<BodyTest> {
        let rows = decoder.length(8).filter(|rows| *rows <= BODY_ROWS_MAX)?;
        let mut body = BodyTest(vec![0.0; rows]);
        decoder.logs(&mut body.0)?;
        Some(body)
    }

    pub fn e_value(&self, design_effect: f64) -> f64 {
        if self.0.is_empty() { 1.0 } else { mean_exp(&self.0, design_effect) }
    }
}

/// Natural logarithm of the wealth that the best bet must reach, including the mixture's other
/// bets: fitted to simulated needs.
const WON: f64 = 4.8;

/// The estimated requests of `new` that show it is no worse than `margin`, if it fails as often as
/// stable (`base`). For people.
pub fn requests_needed(base: f64, margin: f64, share: f64) -> f64 {
    let others = ((1.0 - share) / share.max(1e-6)).max(1.0);
    let grows = |bet: f64| {
        let no_failure = (1.0 - base) * (bet * (margin + base)).ln_1p();
        no_failure + base * (1.0 + bet * (margin + base - 1.0)).max(1e-12).ln()
    };
    let by_difference = BETS.into_iter().map(grows).fold(0.0, f64::max);
    WON / grows_by_ratio(base, RATIO_MAX, others).max(by_difference).max(1e-12)
}

/// The same for answers above stable's p99, a share of `base` in stable.
pub fn tail_needed(base: f64, limit: f64, share: f64) -> f64 {
    let others = ((1.0 - share) / share.max(1e-6)).max(1e-6);
    WON / grows_by_ratio(base, limit, others).max(1e-12)
}

/// The same for the body of latency. `sd`: of the logarithm of single answers.
pub fn body_needed(sd: f64, margin: f64, share: f64) -> f64 {
    WON / body_grows(sd, margin.ln_1p(), share).max(1e-12)
}

/// Nats won by a request of `new` whose latencies differ from stable's by `apart`, in the
/// logarithm.
pub fn body_grows(sd: f64, apart: f64, share: f64) -> f64 {
    let apart = apart / sd.max(1e-3);
    BODY_POWER * (1.0 - share) * apart * apart / 2.0
}

/// The power of age groups, relative to the best test of a shift of log-normal latencies.
const BODY_POWER: f64 = 0.7;

/// Nats per request of `new`.
fn grows_by_ratio(base: f64, limit: f64, others: f64) -> f64 {
    let at = limit / (limit + others);
    let grows = |q: f64| base * (q.ln() - (1.0 + others) * ((q - 1.0) * at).ln_1p());
    below(limit).map(grows).fold(0.0, f64::max)
}

/// Sums for the design effect of groups of users: the variance of a difference of two means by
/// groups, against that of independent requests. At least 1.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct GroupSpread {
    pub n: f64,
    pub sum: f64,
    /// Sum of squares of single requests.
    pub squares: f64,
}

impl GroupSpread {
    fn mean(&self) -> f64 {
        self.sum / self.n.max(1.0)
    }

    /// Variance of single requests, within the arms.
    pub fn variance(arms: &[GroupSpread; 2]) -> f64 {
        let (sum, n) = arms.iter().fold((0.0, 0.0), |(sum, n), arm| (sum + arm.within(), n + arm.n));
        sum / f64::max(n, 1.0)
    }

    /// Σ (x − mean)² over requests.
    fn within(&self) -> f64 {
        (self.squares - self.n * self.mean() * self.mean()).max(0.0)
    }
}

/// The design effect. `groups` of one arm: requests in each, and the sum over them.
pub fn design_effect<'a>(
    arms: [GroupSpread; 2],
    groups: impl Fn(usize) -> Box<dyn Iterator<Item = (f64, f64)> + 'a>,
) -> f64 {
    let (mut clustered, mut independent) = (0.0, 0.0);
    for (i, arm) in arms.iter().enumerate().filter(|(_, arm)| arm.n > 0.0) {
        let between: f64 = groups(i).map(|(n, sum)| (sum - arm.mean() * n).powi(2)).sum();
        clustered += between / (arm.n * arm.n);
        independent += arm.within() / (arm.n * arm.n);
    }
    if independent > 0.0 { (clustered / independent).max(1.0) } else { 1.0 }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub struct Dice(pub u64);

    impl Dice {
        pub fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }

        pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
            (0..n).filter(|_| self.uniform() < p).count() as u64
        }
    }

    /// Requests of `new` until it passes, at 20%: slots of 5 and 20.
    fn passes_after(seed: u64, margin: f64, stable: f64, new: f64, most: u64) -> Option<u64> {
        let (mut failures, mut dice) = (FailureTest::new(margin), Dice(seed));
        (0..most / 5).find_map(|slot| {
            let failed = PerArm::new(dice.binomial(5, new), dice.binomial(20, stable));
            failures.push(PerArm::new(5, 20), failed);
            (failures.e_value(1.0) >= 1.0 / BETA).then_some(5 * (slot + 1))
        })
    }

    /// A small version of the simulation in `benches/watchdog`.
    #[test]
    fn a_new_exactly_at_its_margin_is_promoted_in_one_of_twenty_at_most() {
        for (margin, stable, new) in [(0.01, 0.001, 0.011), (0.001, 0.002, 0.003), (0.001, 0.01, 0.015)] {
            let runs = 400;
            let passed =
                (0..runs).filter(|seed| passes_after(*seed, margin, stable, new, 8_000).is_some()).count();
            assert!(passed as f64 <= 0.05 * runs as f64 + 9.0, "{passed} of {runs} at {margin}");
        }
    }

    #[test]
    fn equal_arms_pass_a_margin_of_a_point_soon() {
        let mut needed: Vec<u64> =
            (0..200).map(|seed| passes_after(seed, 0.01, 0.001, 0.001, 20_000).unwrap_or(u64::MAX)).collect();
        needed.sort_unstable();
        assert!(needed[189] <= 1_500, "p95 {}", needed[189]);
        let guess = requests_needed(0.001, 0.01, 0.2);
        assert!((0.5..2.0).contains(&(guess / needed[100] as f64)), "{guess} of {}", needed[100]);
    }

    #[test]
    fn what_is_needed_is_about_what_the_design_simulated() {
        for (margin, simulated) in [(0.01, 520.0), (0.005, 1_400.0), (0.001, 14_000.0)] {
            let guess = requests_needed(0.001, margin, 0.05);
            assert!((0.6..1.7).contains(&(guess / simulated)), "{margin}: {guess}");
        }
    }

    #[test]
    fn one_user_who_fails_again_and_again_in_stable_proves_nothing() {
        let (mut failures, mut ratio_alone) = (FailureTest::new(0.001), RatioTest::new(RATIO_MAX));
        for _ in 0..100 {
            failures.push(PerArm::new(10, 100), PerArm::new(0, 10));
            ratio_alone.push(PerArm::new(10, 100), PerArm::new(0, 10));
        }
        assert!(failures.e_value(1.0) > 1e3, "taken for many users it would pass");
        // Stable: 100 users with 90 requests each, and one with 1,000 requests that all failed.
        let arms = [
            GroupSpread { n: 10_000.0, sum: 1_000.0, squares: 1_000.0 },
            GroupSpread { n: 1_000.0, ..GroupSpread::default() },
        ];
        let groups = |arm: usize| -> Box<dyn Iterator<Item = (f64, f64)>> {
            match arm {
                0 => Box::new(std::iter::repeat_n((90.0, 0.0), 100).chain([(1_000.0, 1_000.0)])),
                _ => Box::new(std::iter::repeat_n((10.0, 0.0), 100)),
            }
        };
        let design_effect = design_effect(arms, groups);
        assert!(design_effect > 500.0, "{design_effect}");
        assert!(failures.e_value(design_effect) < 2.0);
    }

    #[test]
    fn the_tail_passes_if_it_is_alike_and_not_if_it_is_twice_as_long() {
        let (mut alike, mut longer, mut dice) = (TailTest::new(1.5), TailTest::new(1.5), Dice(3));
        for _ in 0..3_000 {
            let of = PerArm::new(5, 20);
            alike.push(of, PerArm::new(dice.binomial(5, 0.01), dice.binomial(20, 0.01)));
            longer.push(of, PerArm::new(dice.binomial(5, 0.02), dice.binomial(20, 0.01)));
        }
        assert!(alike.e_value(1.0) >= 1.0 / BETA && longer.e_value(1.0) < 1.0);
    }
}
