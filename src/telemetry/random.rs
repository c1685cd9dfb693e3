//! Random numbers.
//!
//! Invariants: [`fill`] is the only source of secrets. [`Random`] is for all else: ids, jitter, the
//! demo; two of them never give the same numbers.

use super::clock;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The system has no random numbers.
#[derive(Debug, thiserror::Error)]
#[error("the system has no random numbers")]
pub struct Unavailable;

/// Fills `bytes` with random numbers that are fit for a secret.
pub fn fill(bytes: &mut [u8]) -> Result<(), Unavailable> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| Unavailable)
}

/// Not for secrets. SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(Cell<u64>);

impl Default for Random {
    fn default() -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let mut bytes = [0; 8];
        let seed = match fill(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes),
            Err(Unavailable) => clock::at_ms() as u64 ^ MADE.fetch_add(1, Relaxed) << 48,
        };
        Random(Cell::new(seed))
    }
}

impl Random {
    pub fn number(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// `0.0 .. 1.0`.
    pub fn unit(&self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn chance(&self, share: f64) -> bool {
        self.unit() < share
    }

    /// `low ..= high`.
    pub fn between(&self, (low, high): (u64, u64)) -> u64 {
        low + self.number() % (high - low + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_in_their_bounds_and_differ() {
        let (a, b) = (Random::default(), Random::default());
        assert_ne!([a.number(), a.number()], [b.number(), b.number()]);
        assert!((0..1000).all(|_| (0.0..1.0).contains(&a.unit()) && (3..=5).contains(&a.between((3, 5)))));
        assert!((3..=5).all(|n| (0..1000).any(|_| a.between((3, 5)) == n)));
        assert!(!a.chance(0.0) && a.chance(1.0));
    }
}
