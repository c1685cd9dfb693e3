//! Counts distinct users in small constant memory: HyperLogLog (Flajolet et al. 2007) with linear
//! counting for small numbers.
//!
//! Pure functions: the caller owns the registers, as atomics.
//! Registers of several intervals merge (maximum).
//! Invariants: a rank is 1 ..= 55, so it fits a byte; [`register`] never returns an index beyond
//! [`REGISTERS`].
//! The standard error is 1.04 / √1024 = 3.3%.

pub const REGISTERS: usize = 1024;
const INDEX_BITS: u32 = REGISTERS.trailing_zeros();

/// The register of a user's (uniform, 64-bit) hash, and the rank to raise it to if its value is
/// lower.
pub fn register(hash: u64) -> (usize, u8) {
    let index = (hash >> (64 - INDEX_BITS)) as usize;
    let rank = (hash << INDEX_BITS).leading_zeros().min(64 - INDEX_BITS) + 1;
    (index, rank as u8)
}

/// Number of distinct users for these registers (0: never touched).
/// Missing registers count as untouched.
pub fn estimate(registers: impl Iterator<Item = u8>) -> u64 {
    let m = REGISTERS as f64;
    let (mut seen, mut touched, mut sum) = (0usize, 0usize, 0.0f64);
    for rank in registers.take(REGISTERS) {
        seen += 1;
        touched += usize::from(rank > 0);
        sum += (-f64::from(rank)).exp2();
    }
    sum += (REGISTERS - seen) as f64;
    let raw = 0.7213 / (1.0 + 1.079 / m) * m * m / sum;
    let empty = REGISTERS - touched;
    if raw <= 2.5 * m && empty > 0 {
        return (m * (m / empty as f64).ln()).round() as u64;
    }
    raw.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn count(users: u64) -> u64 {
        let mut registers = [0u8; REGISTERS];
        for user in 0..users {
            for _ in 0..2 {
                let (i, rank) = register(xxh3_64(&user.to_le_bytes()));
                registers[i] = registers[i].max(rank);
            }
        }
        estimate(registers.into_iter())
    }

    #[test]
    fn users_are_counted_within_a_few_percent_however_often_they_come() {
        assert_eq!(count(0), 0);
        for users in [1u64, 2, 5, 20, 100, 1_000, 2_600, 5_000, 20_000, 200_000] {
            let error = count(users).abs_diff(users) as f64;
            assert!(error <= (0.12 * users as f64).max(0.5), "{users} were taken for {}", count(users));
        }
    }

    #[test]
    fn a_register_and_its_rank_stay_in_bounds() {
        assert_eq!(register(0), (0, 55));
        assert_eq!(register(u64::MAX), (REGISTERS - 1, 1));
        assert_eq!(estimate(std::iter::empty()), 0);
        assert!(estimate(std::iter::repeat_n(u8::MAX, REGISTERS)) > 0);
    }
}
