//! Seeded random numbers, the same on every machine; and the synthetic mixture of latencies.

use grayling::stats::histogram;

/// xorshift64*.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.bits();
        }
        dice
    }

    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// By inversion; above a mean of 60, a rounded normal.
    pub fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 60.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (floor, mut product, mut n) = ((-mean).exp(), self.uniform(), 0);
        while product > floor {
            product *= self.uniform();
            n += 1;
        }
        n
    }

    /// By the gaps between hits while these are few, else a rounded normal.
    pub fn binomial(&mut self, n: u64, p: f64) -> u64 {
        if p > 0.5 {
            return n - self.binomial(n, 1.0 - p);
        }
        let mean = n as f64 * p;
        if mean > 60.0 {
            let sd = (mean * (1.0 - p)).sqrt();
            return ((mean + sd * self.normal()).round().max(0.0) as u64).min(n);
        }
        if mean <= 0.0 {
            return 0;
        }
        let (mut hits, mut at, rest) = (0, 0.0, (-p).ln_1p());
        loop {
            at += ((1.0 - self.uniform()).ln() / rest).floor() + 1.0;
            if at > n as f64 {
                return hits;
            }
            hits += 1;
        }
    }
}

/// In ms: p50 40, σ 0.5 of the logarithm; 2% ten times slower (p99 400 ms, p99.9 about 900 ms).
/// Drawn from its own quantiles with one look-up.
pub struct Latencies {
    body: Vec<f32>,
    slow_share: f64,
}

const STEPS: usize = 1 << 14;
const SLOW_SHARE: f64 = 0.02;

impl Default for Latencies {
    fn default() -> Self {
        Latencies { body: body(40.0, 0.5), slow_share: SLOW_SHARE }
    }
}

/// Quantiles of a log-normal, ms.
fn body(median: f64, sigma: f64) -> Vec<f32> {
    let at = |i: usize| (i as f64 + 0.5) / STEPS as f64;
    (0..STEPS).map(|i| (median * (sigma * normal_quantile(at(i))).exp()) as f32).collect()
}

impl Latencies {
    /// A service without a tail: p50 8 ms, p99.9 17 ms. When it is twice as slow, nearly all
    /// answers are slower than nearly all were before.
    pub fn narrow() -> Latencies {
        Latencies { body: body(8.0, 0.25), slow_share: 0.0 }
    }

    /// (ms, true if it is one of the slow 2%)
    pub fn draw(&self, dice: &mut Dice) -> (f64, bool) {
        let bits = dice.bits();
        let ms = f64::from(self.body[(bits >> 50) as usize]);
        let slow = ((bits & 0xffff_ffff) as f64) < self.slow_share * 4_294_967_296.0;
        (if slow { 10.0 * ms } else { ms }, slow)
    }

    /// Share of requests in each bucket of the histogram, with latencies multiplied by `times`.
    pub fn buckets(&self, times: f64) -> Vec<f64> {
        let mut shares = vec![0.0; histogram::BUCKETS];
        for ms in &self.body {
            for (slower, share) in [(1.0, 1.0 - self.slow_share), (10.0, self.slow_share)] {
                let us = (f64::from(*ms) * 1e3 * slower * times).round() as u64;
                shares[histogram::index(us)] += share / STEPS as f64;
            }
        }
        shares
    }
}

/// Acklam's rational approximation: relative error below 1.2e-9.
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 5] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 4] = [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416];
    let poly = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |q: f64| poly(&C, q) / (poly(&D, q) * q + 1.0);
    match p {
        p if p < 0.02425 => tail((-2.0 * p.ln()).sqrt()),
        p if p > 1.0 - 0.02425 => -tail((-2.0 * (1.0 - p).ln()).sqrt()),
        p => {
            let (q, r) = (p - 0.5, (p - 0.5) * (p - 0.5));
            poly(&A, r) * q / (poly(&B, r) * r + 1.0)
        }
    }
}
