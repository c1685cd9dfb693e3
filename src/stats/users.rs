//! Per-user memory: a table of small values by *unit*, one sixteen-millionth of the hash.
//!
//! A unit refines a bucket (unit / 16 is the bucket), so no weight splits a unit.
//! Users who share a unit act as one.
//! Memory is bounded and grows with the users seen: pages of 64 units, and a directory of 1 MB.
//!
//! Invariants: a unit that was never written reads as the default; only [`PagedTable::clear`]
//! forgets a value.

use crate::stats::codec::{Decoder, Encoder};

/// Units in each bucket of the hash.
const UNITS_IN_BUCKET: u32 = 16;
/// Units of the hash in all.
pub const UNITS: u32 = crate::stats::cohort::BUCKETS * UNITS_IN_BUCKET;
/// Groups of buckets that WINDOW compares, its unit of randomisation.
pub const CLUSTERS: usize = 10_000;
const PAGE: usize = 64;

/// A user, as the evidence identifies users.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct UserUnit(u32);

impl UserUnit {
    /// `index` is below [`UNITS`]. Larger values become the last unit.
    pub fn from_index(index: u32) -> UserUnit {
        UserUnit(index.min(UNITS - 1))
    }

    /// The hash is [`crate::stats::cohort::Salt::hash`].
    pub fn of_hash(hash: u64) -> UserUnit {
        UserUnit(crate::stats::cohort::part(hash, UNITS))
    }

    pub fn index(self) -> u32 {
        self.0
    }

    /// Bucket of the cohort hash, `0 ..= 999_999`.
    pub fn bucket(self) -> u32 {
        self.0 / UNITS_IN_BUCKET
    }

    pub fn cluster(self) -> usize {
        (self.0 / (UNITS / CLUSTERS as u32)) as usize
    }
}

/// A value for each unit. Pages are allocated when they are written.
#[derive(Clone, Debug)]
pub struct PagedTable<T> {
    /// 2^shift units share a value.
    shift: u32,
    /// Page number + 1; 0: none.
    directory: Vec<u32>,
    pages: Vec<[T; PAGE]>,
}

impl<T: Copy + Default + PartialEq> PagedTable<T> {
    pub fn new(shift: u32) -> PagedTable<T> {
        let places = (UNITS >> shift) as usize + 1;
        PagedTable { shift, directory: vec![0; places.div_ceil(PAGE)], pages: Vec::new() }
    }

    pub fn shift(&self) -> u32 {
        self.shift
    }

    pub fn read(&self, unit: UserUnit) -> T {
        let place = (unit.0 >> self.shift) as usize;
        match self.directory[place / PAGE] {
            0 => T::default(),
            page => self.pages[page as usize - 1][place % PAGE],
        }
    }

    /// Fetches the memory of a unit into the cache, for a [`PagedTable::at`] that follows.
    /// The result has no meaning. The caller uses it only so that the read is not optimised away.
    pub fn touch(&self, unit: UserUnit) -> u32 {
        let place = (unit.0 >> self.shift) as usize;
        let page = self.directory[place / PAGE];
        let known = page != 0 && self.pages[page as usize - 1][place % PAGE] != T::default();
        page + u32::from(known)
    }

    pub fn at(&mut self, unit: UserUnit) -> &mut T {
        let place = (unit.0 >> self.shift) as usize;
        let entry = &mut self.directory[place / PAGE];
        if *entry == 0 {
            self.pages.push([T::default(); PAGE]);
            *entry = self.pages.len() as u32;
        }
        &mut self.pages[*entry as usize - 1][place % PAGE]
    }

    /// Writes (unit, 16 bits) for each value.
    pub fn save(&self, encoder: &mut Encoder, bits: impl Fn(T) -> u16) {
        encoder.u64(self.iter().count() as u64);
        for (unit, value) in self.iter() {
            encoder.u32(unit.0);
            encoder.u16(bits(value));
        }
    }

    pub fn restore(decoder: &mut Decoder<'_>, shift: u32, value: impl Fn(u16) -> T) -> Option<PagedTable<T>> {
        let mut paged = PagedTable::new(shift);
        for _ in 0..decoder.length(6)? {
            let (unit, bits) = (UserUnit::from_index(decoder.u32()?), decoder.u16()?);
            *paged.at(unit) = value(bits);
        }
        Some(paged)
    }

    pub fn clear(&mut self) {
        self.directory.fill(0);
        self.pages.clear();
    }

    /// All written values, each with its (first) unit, in the order of units.
    pub fn iter(&self) -> impl Iterator<Item = (UserUnit, T)> + '_ {
        let shift = self.shift;
        self.directory.iter().enumerate().filter(|(_, page)| **page != 0).flat_map(move |(i, page)| {
            let of = &self.pages[*page as usize - 1];
            of.iter()
                .enumerate()
                .filter(|(_, v)| **v != T::default())
                .map(move |(j, v)| (UserUnit((((i * PAGE + j) as u32) << shift).min(UNITS - 1)), *v))
        })
    }
}

/// Each user's usual latency on stable, learnt before `new` had users and frozen then.
///
/// Any label-blind covariate leaves the comparison valid; a bad one only costs power.
/// 16 bits a user: 11 of level (1% steps of the mean log latency, shrunk to the population by one
/// pseudo-observation), 5 of count.
#[derive(Clone, Debug)]
pub struct Baseline {
    users: PagedTable<u16>,
    sum: f64,
    count: f64,
}

/// Bound of a user's factor, slower and faster.
pub const FACTOR_MAX: f64 = 4.0;

impl Default for Baseline {
    fn default() -> Self {
        Baseline { users: PagedTable::new(0), sum: 0.0, count: 0.0 }
    }
}

impl Baseline {
    /// Takes a success of stable. `coin` is uniform in `0.0 .. 1.0` and makes the rounding
    /// unbiased.
    pub fn learn(&mut self, unit: UserUnit, latency_us: f64, coin: f64) {
        let log = latency_us.max(1.0).ln();
        self.sum += log;
        self.count += 1.0;
        let population = 100.0 * self.sum / self.count;
        let at = self.users.at(unit);
        let (level, n) = match *at {
            0 => (population.round(), 0),
            seen => (f64::from(seen >> 5), seen & 31),
        };
        let n = (n + 1).min(31);
        let level = level + ((100.0 * log - level) / f64::from(n + 1) + coin).floor();
        *at = (level.clamp(0.0, 2047.0) as u16) << 5 | n;
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64(self.sum);
        encoder.f64(self.count);
        self.users.save(encoder, |bits| bits);
    }

    pub fn restore(decoder: &mut Decoder<'_>) -> Option<Baseline> {
        let (sum, count) = (decoder.f64()?, decoder.f64()?);
        Some(Baseline { sum, count, users: PagedTable::restore(decoder, 0, |bits| bits)? })
    }

    /// As [`PagedTable::touch`].
    pub fn touch(&self, unit: UserUnit) -> u32 {
        self.users.touch(unit)
    }

    /// This user's latency as a multiple of the population's.
    pub fn factor(&self, unit: UserUnit) -> f64 {
        if self.count == 0.0 {
            return 1.0;
        }
        match self.users.read(unit) {
            0 => 1.0,
            seen => {
                let relative = f64::from(seen >> 5) / 100.0 - self.sum / self.count.max(1.0);
                relative.exp().clamp(1.0 / FACTOR_MAX, FACTOR_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_table_reads_what_was_written_and_nothing_else(
            writes in prop::collection::vec((0..UNITS, 1u16..), 0..50), shift in 0u32..5,
        ) {
            let mut table = PagedTable::new(shift);
            let mut told = std::collections::BTreeMap::new();
            for (index, value) in writes {
                *table.at(UserUnit::from_index(index)) = value;
                told.insert(index >> shift, value);
            }
            for (place, value) in &told {
                prop_assert_eq!(table.read(UserUnit::from_index(place << shift)), *value);
            }
            prop_assert_eq!(table.iter().count(), told.len());
        }
    }

    proptest! {
        #[test]
        fn no_weight_cuts_through_a_unit(hash: u64) {
            let bucket = crate::stats::cohort::Bucket::of_hash(hash).index();
            prop_assert_eq!(UserUnit::of_hash(hash).bucket(), bucket);
            prop_assert_eq!(UserUnit::of_hash(hash).cluster() as u32, bucket / 100);
        }
    }

    #[test]
    fn ten_thousand_users_cost_little_memory() {
        let mut table = PagedTable::<u16>::new(0);
        for i in 0..10_000 {
            *table.at(UserUnit::from_index(i * 1600)) = 1;
        }
        let bytes = table.directory.len() * 4 + table.pages.len() * PAGE * 2;
        assert!(bytes < 2_500_000, "{bytes}");
    }

    #[test]
    fn a_user_slower_than_others_is_known_after_a_few_answers() {
        let (slow, usual) = (UserUnit::from_index(5), UserUnit::from_index(77_777));
        let mut baseline = Baseline::default();
        for i in 0..1000 {
            baseline.learn(UserUnit::from_index(1000 + i), 40_000.0, 0.5);
        }
        for _ in 0..20 {
            baseline.learn(slow, 120_000.0, 0.5);
        }
        assert!((2.5..3.2).contains(&baseline.factor(slow)), "{}", baseline.factor(slow));
        assert_eq!(baseline.factor(usual), 1.0);
    }
}
