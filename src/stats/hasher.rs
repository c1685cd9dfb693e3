//! A hasher for maps with keys that no client can choose: config names, and internal numbers.
//!
//! Invariant: not for keys from requests.
//! It has no secret, so a client that chooses keys could make them collide.

use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub type BuildHasher = BuildHasherDefault<Xxh3>;

#[derive(Default)]
pub struct Xxh3(u64);

impl Hasher for Xxh3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// The end of a string.
    fn write_u8(&mut self, byte: u8) {
        self.0 = self.0.rotate_left(8) ^ u64::from(byte);
    }

    /// The odd number nearest to 2^64 / φ spreads a count over all bits (Knuth, TAOCP 3, 6.4).
    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_map_finds_what_was_put_into_it() {
        let mut paths: HashMap<String, usize, BuildHasher> = HashMap::default();
        let mut numbers: HashMap<u64, u64, BuildHasher> = HashMap::default();
        for n in 0..10_000 {
            paths.insert(format!("/route/{n}"), n);
            numbers.insert(n as u64, n as u64);
        }
        assert!((0..10_000).all(|n| paths.get(format!("/route/{n}").as_str()) == Some(&n)));
        assert!((0..10_000).all(|n| numbers.get(&n) == Some(&n)));
    }
}
