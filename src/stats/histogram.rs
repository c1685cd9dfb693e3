//! Durations in logarithmic buckets, at most 9% apart, from 100 µs to 120 s, including the
//! boundaries of the Prometheus histogram.
//!
//! Invariants: bucket `i` holds `EDGES[i-1] < µs <= EDGES[i]`, the last one everything above.
//! [`PROMETHEUS_LE`] are edges, so a cumulative count at them is exact.
//! [`index`] costs a table lookup and one comparison.

use std::time::Duration;

/// Upper ends of the buckets, inclusive, in µs.
#[rustfmt::skip]
pub const EDGES: [u32; 181] = [
    100, 109, 118, 128, 139, 151, 164, 178, 193, 210, 228, 247, 268, 291, 316, 343, 373, 405, 439, 477, 518,
    562, 611, 663, 720, 781, 848, 921, 1_000, 1_079, 1_165, 1_257, 1_357, 1_465, 1_581, 1_707, 1_842, 1_988,
    2_146, 2_316, 2_500, 2_700, 2_916, 3_150, 3_402, 3_674, 3_969, 4_286, 4_629, 5_000, 5_400, 5_833, 6_300,
    6_804, 7_349, 7_937, 8_572, 9_259, 10_000, 10_793, 11_650, 12_574, 13_572, 14_649, 15_811, 17_066, 18_420,
    19_882, 21_459, 23_162, 25_000, 27_001, 29_163, 31_498, 34_020, 36_743, 39_685, 42_862, 46_294, 50_000,
    54_003, 58_326, 62_996, 68_040, 73_487, 79_370, 85_724, 92_587, 100_000, 107_935, 116_499, 125_743, 135_721,
    146_490, 158_114, 170_660, 184_202, 198_818, 214_594, 231_621, 250_000, 270_015, 291_632, 314_980, 340_198,
    367_434, 396_850, 428_622, 462_937, 500_000, 540_030, 583_265, 629_961, 680_395, 734_867, 793_701, 857_244,
    925_875, 1_000_000, 1_079_348, 1_164_993, 1_257_433, 1_357_209, 1_464_901, 1_581_139, 1_706_600, 1_842_016,
    1_988_177, 2_145_936, 2_316_212, 2_500_000, 2_700_149, 2_916_323, 3_149_803, 3_401_975, 3_674_336,
    3_968_503, 4_286_220, 4_629_374, 5_000_000, 5_400_299, 5_832_645, 6_299_605, 6_803_950, 7_348_672,
    7_937_005, 8_572_440, 9_258_747, 10_000_000, 10_816_334, 11_699_308, 12_654_362, 13_687_381, 14_804_729,
    16_013_289, 17_320_508, 18_734_440, 20_263_796, 21_917_999, 23_707_239, 25_642_542, 27_735_830, 30_000_000,
    32_401_792, 34_995_871, 37_797_631, 40_823_700, 44_092_035, 47_622_032, 51_434_639, 55_552_483, 60_000_000,
    64_803_584, 69_991_742, 75_595_263, 81_647_400, 88_184_070, 95_244_063, 102_869_278, 111_104_965,
    120_000_000,
];

pub const BUCKETS: usize = EDGES.len() + 1;

/// The boundaries rendered for Prometheus, in µs, with the text of the label `le` in seconds.
pub const PROMETHEUS_LE: [(u32, &str); 15] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (5_000_000, "5"),
    (10_000_000, "10"),
    (30_000_000, "30"),
    (60_000_000, "60"),
];

/// A value's power of two and the four bits after its leading one: cells of at most 6.25%, so each
/// has at most one edge.
const fn cell(us: u32) -> usize {
    let us = if us < 16 { 16 } else { us };
    let exponent = 31 - us.leading_zeros();
    ((exponent as usize) << 4) | ((us >> (exponent - 4)) & 15) as usize
}

/// Per cell: the number of edges in the cells below.
static START: [u8; 512] = {
    let mut start = [0u8; 512];
    let mut c = 0;
    while c < 512 {
        let mut below = 0;
        // Bucket i holds (edge, next edge]: an edge itself counts from the value after it on.
        while below < EDGES.len() && cell(EDGES[below]) < c {
            below += 1;
        }
        start[c] = below as u8;
        c += 1;
    }
    start
};

/// The bucket of a duration.
pub fn index(duration_us: u64) -> usize {
    let us = if duration_us > EDGES[EDGES.len() - 1] as u64 { u32::MAX } else { duration_us as u32 };
    let start = START[cell(us)] as usize;
    start + usize::from(start < EDGES.len() && us > EDGES[start])
}

pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Counts per bucket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Histogram {
    pub counts: [u64; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; BUCKETS] }
    }
}

impl Histogram {
    pub fn record(&mut self, duration: Duration) {
        self.counts[index(micros(duration))] += 1;
    }

    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
    }

    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The number of durations of at most this many µs; exact at an edge, otherwise without the
    /// bucket that contains `us`.
    pub fn at_most(&self, us: u32) -> u64 {
        self.counts[..EDGES.partition_point(|edge| *edge <= us)].iter().sum()
    }

    /// The number of durations surely longer: without the bucket that contains the limit.
    pub fn over(&self, limit: Duration) -> u64 {
        self.counts[(index(micros(limit)) + 1).min(BUCKETS)..].iter().sum()
    }

    /// Linear within a bucket; durations above the last edge count as the last edge.
    /// `None` without a sample.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total as f64;
        let mut below = 0.0;
        for (i, &n) in self.counts.iter().enumerate() {
            let n = n as f64;
            if n > 0.0 && below + n >= rank {
                let low = if i == 0 { 0.0 } else { f64::from(EDGES[i - 1]) };
                let high = f64::from(EDGES[i.min(EDGES.len() - 1)]);
                let us = low + (high - low) * ((rank - below) / n).clamp(0.0, 1.0);
                return Some(Duration::from_micros(us.round() as u64));
            }
            below += n;
        }
        Some(Duration::from_micros(u64::from(EDGES[EDGES.len() - 1])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges_climb_by_at_most_nine_percent_and_hold_the_boundaries_of_prometheus() {
        assert!(EDGES.windows(2).all(|e| e[0] < e[1] && f64::from(e[1]) / f64::from(e[0]) <= 1.09));
        assert!((EDGES[0], EDGES[EDGES.len() - 1]) == (100, 120_000_000));
        for (us, text) in PROMETHEUS_LE {
            assert!(EDGES.contains(&us));
            assert_eq!((text.parse::<f64>().unwrap_or(0.0) * 1e6).round() as u32, us);
        }
    }

    #[test]
    fn an_edge_belongs_to_the_bucket_below_it() {
        for (i, edge) in EDGES.iter().enumerate() {
            assert_eq!(index(u64::from(*edge)), i, "{edge}");
            assert_eq!(index(u64::from(*edge) + 1), i + 1, "{edge}");
        }
        assert_eq!((index(0), index(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut h = Histogram::default();
        assert_eq!(h.quantile(0.5), None);
        (1..=10_000u64).for_each(|ms| h.record(Duration::from_millis(ms)));
        for q in [0.01, 0.5, 0.9, 0.99, 0.999, 1.0] {
            let (got, want) = (h.quantile(q).unwrap_or_default().as_secs_f64(), q * 10.0);
            assert!((got / want - 1.0).abs() < 0.09, "{q}: {got}");
        }
        assert_eq!(h.at_most(1_000_000), 1000);
        assert_eq!(h.over(Duration::from_secs(5)), 5000);
    }

    proptest! {
        #[test]
        fn the_look_up_agrees_with_a_search(us in 0u64..200_000_000, small in 0u64..3_000) {
            for us in [us, small] {
                prop_assert_eq!(index(us), EDGES.partition_point(|e| u64::from(*e) < us));
            }
        }
    }
}
