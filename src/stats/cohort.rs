//! User id + salt → bucket → in `new` or not.
//! Owns the frozen hash (version 1): a change here moves users, and is a bug.
//!
//! ```text
//! seed   = xxh3_64(salt as UTF-8 bytes)
//! h      = xxh3_64_with_seed(user id bytes after `normalise`, seed)
//! bucket = (h as u128 * 1_000_000) >> 64            # 0 ..= 999_999
//! in new = bucket < weight                          # weight = round(percent * 10_000)
//! ```
//!
//! Invariants: a bucket is below [`BUCKETS`]; a weight is at most [`BUCKETS`]; raising a weight
//! only adds users. Weights are parsed from their decimal text and never pass through a float. Test
//! vectors: `tests/data/cohort_vectors.txt`.

use std::fmt;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The number of buckets, and of the parts of a full weight.
pub const BUCKETS: u32 = 1_000_000;

/// The seed derived from a release's salt; computed once, when the plan is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Salt(u64);

impl Salt {
    pub fn new(salt: &str) -> Self {
        Salt(xxh3_64(salt.as_bytes()))
    }

    /// The bucket of a (normalised) user id under this salt.
    pub fn bucket(self, user_id: &[u8]) -> Bucket {
        Bucket(part(self.hash(user_id), BUCKETS))
    }

    /// `h` of the specification above.
    pub fn hash(self, user_id: &[u8]) -> u64 {
        xxh3_64_with_seed(user_id, self.0)
    }
}

/// The index of the hash among `of` equal parts.
pub fn part(hash: u64, of: u32) -> u32 {
    ((u128::from(hash) * u128::from(of)) >> 64) as u32
}

/// The position of a user, `0 ..= 999_999`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Bucket(u32);

impl Bucket {
    pub fn of_hash(hash: u64) -> Bucket {
        Bucket(part(hash, BUCKETS))
    }

    pub fn index(self) -> u32 {
        self.0
    }

    /// The lowest weight that has this bucket in `new`.
    pub fn enters_at(self) -> Weight {
        Weight(self.0 + 1)
    }
}

/// The share of users in `new`, in parts per million.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Weight(u32);

impl Weight {
    pub const ZERO: Weight = Weight(0);
    pub const FULL: Weight = Weight(BUCKETS);

    /// From parts per million; clamped to 100%.
    pub fn from_parts(parts: u32) -> Weight {
        Weight(parts.min(BUCKETS))
    }

    pub fn parts(self) -> u32 {
        self.0
    }

    pub fn holds(self, bucket: Bucket) -> bool {
        bucket.0 < self.0
    }

    /// `0.0 ..= 1.0`, for display and statistics only.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / f64::from(BUCKETS)
    }

    /// `0.0 ..= 100.0`, for display only.
    pub fn percent(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }

    /// Parses `"5%"`, `"0.25%"`: 0 to 100 with at most four decimals and a percent sign.
    pub fn parse(text: &str) -> Result<Weight, WeightError> {
        let digits = text.trim().strip_suffix('%').ok_or(WeightError::NoPercentSign)?.trim_end();
        let (whole, decimals) = digits.split_once('.').unwrap_or((digits, "0"));
        let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !number(whole) || !number(decimals) {
            return Err(WeightError::NotANumber);
        }
        if decimals.len() > 4 {
            return Err(WeightError::TooFine);
        }
        if whole.trim_start_matches('0').len() > 3 {
            return Err(WeightError::TooLarge);
        }
        let digit = |s: &str| s.bytes().fold(0u32, |n, b| n * 10 + u32::from(b - b'0'));
        let fraction = digit(decimals) * 10u32.pow(4 - decimals.len() as u32);
        let parts = digit(whole.trim_start_matches('0')) * 10_000 + fraction;
        if parts > BUCKETS { Err(WeightError::TooLarge) } else { Ok(Weight(parts)) }
    }
}

/// Shortest decimal form: `5%`, `0.25%`.
impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / 10_000, self.0 % 10_000);
        if fraction == 0 {
            return write!(f, "{whole}%");
        }
        let decimals = format!("{fraction:04}");
        write!(f, "{whole}.{}%", decimals.trim_end_matches('0'))
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WeightError {
    #[error("a percentage needs its sign")]
    NoPercentSign,
    #[error("not a percentage")]
    NotANumber,
    #[error("more than four decimals")]
    TooFine,
    #[error("more than 100%")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_are_read_from_decimal_text() {
        for (text, parts) in [
            ("0%", 0),
            ("5%", 50_000),
            ("5.0%", 50_000),
            ("0.0001%", 1),
            ("33.3333%", 333_333),
            ("100%", 1_000_000),
            ("100.0000%", 1_000_000),
            ("007%", 70_000),
        ] {
            assert_eq!(Weight::parse(text), Ok(Weight(parts)), "{text}");
        }
        for (text, fault) in [
            ("5", WeightError::NoPercentSign),
            ("", WeightError::NoPercentSign),
            ("%", WeightError::NotANumber),
            (".5%", WeightError::NotANumber),
            ("5.%", WeightError::NotANumber),
            ("-1%", WeightError::NotANumber),
            ("1e1%", WeightError::NotANumber),
            ("0.00001%", WeightError::TooFine),
            ("100.0001%", WeightError::TooLarge),
            ("99999999999%", WeightError::TooLarge),
        ] {
            assert_eq!(Weight::parse(text), Err(fault), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_weight_reads_back_as_it_is_written(parts in 0u32..=BUCKETS) {
            prop_assert_eq!(Weight::parse(&Weight(parts).to_string()), Ok(Weight(parts)));
        }

        #[test]
        fn a_raised_weight_moves_nobody_out(id in proptest::collection::vec(any::<u8>(), 0..80),
                                            salt in ".{0,20}", a in 0u32..=BUCKETS, b in 0u32..=BUCKETS) {
            let (low, high) = (a.min(b), a.max(b));
            let bucket = Salt::new(&salt).bucket(&id);
            prop_assert!(bucket.index() < BUCKETS);
            prop_assert!(!Weight(low).holds(bucket) || Weight(high).holds(bucket));
            prop_assert!(bucket.enters_at().holds(bucket));
            prop_assert!(!Weight(bucket.enters_at().parts() - 1).holds(bucket));
        }
    }
}
