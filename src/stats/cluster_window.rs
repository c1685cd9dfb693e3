//! WINDOW: overlapping windows of traffic. In each window, each *cluster* of hash buckets has a
//! score against its own *past*, its mean while no user was in `new`.
//!
//! Earlier waves are not part of the past. There the scores of clusters in `new` had the tolerance
//! taken off, and a `new` with little load may have been faster. Against such a past, clusters that
//! stay in `new` would seem to get worse when load moves, although they are no worse than stable.
//!
//! Given the pooled scores, the clusters of `new` are a random subset of the active clusters. This
//! gives one exact e-value per window and score, whatever the users are like.
//! Windows overlap and share users, so their e-values are **added, never multiplied**: S = Σ
//! prior(window) · e(window), where the priors sum to 1.
//! S only grows, and its mean at the end is at most 1. So S may be added to a supermartingale and
//! watched without end (Markov at the stopping time).
//!
//! Windows have 1, 2, 3, 4, 6, 8, 12 … units. Memory: 12 bytes a score, cluster and level; a level
//! is allocated with its first window.
//! The scores of a cluster are adjacent in memory: a request touches one place, and a window is
//! judged in all scores at once.
//!
//! A score may be *deferred* for a while: wealth won in that time does not count for the judge.
//! The part of S from windows that overlap such a time is also summed separately. S without that
//! part is smaller than S, so it may be watched like S.
//!
//! Invariants: only final outcomes, in the order in which their intervals became final; a cluster
//! that the weight splits is left out.

use super::users::CLUSTERS;
use crate::stats::codec::{Decoder, Encoder};
use std::f64::consts::LN_2;

/// Minimum of requests of both arms in the smallest window.
pub const UNIT: u32 = 4096;
/// Windows of `UNIT` · 2^level.
const LEVELS_MAX: usize = 16;
/// Windows of each level: one block (at the lowest level only), two and three.
const LENGTHS: usize = 3;
const SIZES: usize = LENGTHS * LEVELS_MAX;
/// Minimum size of a batch of requests, whose mean is subtracted from each score of it.
/// So a common incident is no evidence against the users who came during it, even if fewer users of
/// one arm came.
/// A batch consists of whole intervals: the requests of an interval are in the order of their
/// outcomes, and a cut would put the late failures into one batch.
const TOGETHER: usize = 256;
/// Scores of a request.
pub const ROWS: usize = 8;
/// The score that gives the minimum detectable effect: the body's rank, at the level of notice.
const SIGHT_ROW: usize = 5;
/// Pseudo-observations that shrink a cluster's own mean.
const SHRINK: f64 = 20.0;

/// The clusters of each arm. Those between are left out.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ClusterSplit {
    /// Clusters below are `new`.
    pub below: usize,
    /// Clusters from here on are stable.
    pub from: usize,
}

/// One cluster's sums over a span of traffic.
#[derive(Clone, Copy, Default, Debug)]
struct ClusterSums {
    requests: f32,
    scores: [f32; ROWS],
}

impl ClusterSums {
    fn add(&mut self, requests: f32, scores: &[f32; ROWS]) {
        self.requests += requests;
        for (mine, more) in self.scores.iter_mut().zip(scores) {
            *mine += more;
        }
    }
}

/// The tallies of all clusters. Empty until the first count.
#[derive(Clone, Default, Debug)]
struct ClusterBlock {
    tallies: Vec<ClusterSums>,
    /// Scores that were deferred at some time in it.
    deferred: ScoreSet,
}

/// A set of scores, as bits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ScoreSet(u8);

impl ScoreSet {
    pub fn with(self, rows: std::ops::Range<usize>) -> ScoreSet {
        rows.fold(self, |all, row| ScoreSet(all.0 | 1 << row))
    }

    fn has(self, row: usize) -> bool {
        self.0 & 1 << row != 0
    }

    fn or(self, other: ScoreSet) -> ScoreSet {
        ScoreSet(self.0 | other.0)
    }
}

impl ClusterBlock {
    fn clear(&mut self) {
        self.tallies.fill(ClusterSums::default());
        self.deferred = ScoreSet::default();
    }

    fn all(&mut self) -> &mut [ClusterSums] {
        if self.tallies.is_empty() {
            self.tallies = vec![ClusterSums::default(); CLUSTERS];
        }
        &mut self.tallies
    }

    fn add(&mut self, other: &ClusterBlock) {
        self.deferred = self.deferred.or(other.deferred);
        if other.tallies.is_empty() {
            return;
        }
        for (mine, theirs) in self.all().iter_mut().zip(&other.tallies) {
            mine.add(theirs.requests, &theirs.scores);
        }
    }

    fn save(&self, encoder: &mut Encoder) {
        encoder.u16(u16::from(self.deferred.0));
        let of = |counters: &ClusterSums| std::iter::once(counters.requests).chain(counters.scores);
        encoder.f32s(self.tallies.len() * (1 + ROWS), self.tallies.iter().flat_map(of));
    }

    fn restore(decoder: &mut Decoder<'_>) -> Option<ClusterBlock> {
        let deferred = ScoreSet(u8::try_from(decoder.u16()?).ok()?);
        let all = decoder.f32s_of(&[0, CLUSTERS * (1 + ROWS)])?;
        let counters = |of: &[f32]| {
            let (requests, scores) = of.split_first()?;
            Some(ClusterSums { requests: *requests, scores: scores.try_into().ok()? })
        };
        let tallies = all.chunks_exact(1 + ROWS).map(counters).collect::<Option<Vec<_>>>()?;
        Some(ClusterBlock { tallies, deferred })
    }
}

#[derive(Clone, Debug)]
pub struct ClusterWindows {
    /// Share of the prior by score.
    shares: [f64; ROWS],
    split: ClusterSplit,
    /// ln 1/α: the nats for which a window's tilt is chosen.
    needs: f64,
    /// Per level: the block being filled, and the two before it.
    levels: Vec<[ClusterBlock; 3]>,
    /// The sums while no user was in `new`, and the means of them as of the wave's start.
    past: ClusterBlock,
    base: Vec<[f32; ROWS]>,
    /// Cluster and scores of the present batch.
    together: Vec<(u16, [f32; ROWS])>,
    in_unit: u32,
    units: u64,
    /// S by score, and the part of it from windows in which the score was deferred.
    sums: [f64; ROWS],
    sums_deferred: [f64; ROWS],
    /// Scores that are deferred now.
    deferred: ScoreSet,
    /// Detectable effect of the newest window of each size. `None` before the first one of the
    /// present wave, or since the start.
    detection_limit: [Option<WindowDetectionLimit>; SIZES],
}

/// The minimum detectable effect of a window in one score.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WindowDetectionLimit {
    /// Requests of both arms in the window.
    pub requests: u64,
    /// The smallest difference between the arms' mean scores that is detected in half of all cases.
    pub least: f64,
}

impl ClusterWindows {
    pub fn new(shares: [f64; ROWS], split: ClusterSplit, alpha: f64) -> ClusterWindows {
        ClusterWindows {
            sums: [0.0; ROWS],
            sums_deferred: [0.0; ROWS],
            deferred: ScoreSet::default(),
            shares,
            split,
            needs: (1.0 / alpha).ln(),
            levels: vec![Default::default()],
            past: ClusterBlock::default(),
            base: Vec::new(),
            together: Vec::new(),
            in_unit: 0,
            units: 0,
            detection_limit: [None; SIZES],
        }
    }

    /// Starts a wave with other clusters in `new`. S stays and its priors go on, so no budget is
    /// added.
    pub fn wave(&mut self, split: ClusterSplit) {
        self.split = split;
        self.together.clear();
        self.levels = vec![Default::default()];
        self.in_unit = 0;
        self.detection_limit = [None; SIZES];
        self.rebase();
    }

    /// Computes each cluster's own mean in the past.
    fn rebase(&mut self) {
        self.base.clear();
        self.base.resize(self.past.tallies.len(), [0.0; ROWS]);
        let (mut total, mut sums) = (0.0, [0.0; ROWS]);
        for of in &self.past.tallies {
            total += f64::from(of.requests);
            sums.iter_mut().zip(of.scores).for_each(|(sum, score)| *sum += f64::from(score));
        }
        for (base, of) in self.base.iter_mut().zip(&self.past.tallies) {
            for ((base, score), sum) in base.iter_mut().zip(of.scores).zip(sums) {
                let mean = sum / f64::max(total, 1.0);
                *base = ((f64::from(score) + SHRINK * mean) / (f64::from(of.requests) + SHRINK)) as f32;
            }
        }
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64s(&self.sums);
        encoder.f64s(&self.sums_deferred);
        encoder.u64(self.units);
        encoder.u32(self.in_unit);
        encoder.u64(self.levels.len() as u64);
        self.levels.iter().flatten().for_each(|block| block.save(encoder));
        self.past.save(encoder);
    }

    /// `self` with the saved state. The split and the shares are the present ones.
    pub fn restore(mut self, decoder: &mut Decoder<'_>) -> Option<ClusterWindows> {
        self.sums = decoder.f64s(ROWS)?.try_into().ok()?;
        self.sums_deferred = decoder.f64s(ROWS)?.try_into().ok()?;
        self.units = decoder.u64()?;
        self.in_unit = decoder.u32()?.min(UNIT - 1);
        let levels = decoder.u64()?;
        if !(1..=LEVELS_MAX as u64).contains(&levels) {
            return None;
        }
        let mut block = || ClusterBlock::restore(decoder);
        self.levels.clear();
        for _ in 0..levels {
            self.levels.push([block()?, block()?, block()?]);
        }
        self.past = block()?;
        self.rebase();
        Some(self)
    }

    /// Starts the windows anew and drops the data of unfinished ones. Priors and S go on.
    pub fn begin_anew(&mut self) {
        self.together.clear();
        self.levels = vec![Default::default()];
        self.in_unit = 0;
    }

    /// Fewer clusters are `new`. The others are compared as before.
    pub fn thin(&mut self, split: ClusterSplit) {
        self.split = split;
    }

    /// Takes a final request of a user whose arm the hash alone chose.
    pub fn push(&mut self, cluster: u16, scores: &[f32; ROWS]) {
        self.together.push((cluster, *scores));
    }

    /// Outcomes of these scores that become final from now on are deferred: windows that contain
    /// any are also summed separately.
    pub fn defer(&mut self, rows: ScoreSet) {
        self.deferred = rows;
    }

    /// Drops S and the data of windows in these scores. The past stays.
    pub fn forget(&mut self, rows: std::ops::Range<usize>) {
        for row in rows {
            (self.sums[row], self.sums_deferred[row]) = (0.0, 0.0);
            let blocks = self.levels.iter_mut().flatten();
            blocks.flat_map(|block| &mut block.tallies).for_each(|counters| counters.scores[row] = 0.0);
            self.together.iter_mut().for_each(|(_, scores)| scores[row] = 0.0);
        }
    }

    /// All requests of an interval have been pushed.
    /// `nobody` is in `new`: the requests belong to the past, not to a window.
    pub fn interval_ends(&mut self, nobody: bool) {
        let n = self.together.len();
        let filling = &mut self.levels[0][0];
        filling.deferred = filling.deferred.or(self.deferred);
        if n < TOGETHER {
            return;
        }
        let mut mean = [0.0; ROWS];
        for (_, scores) in &self.together {
            mean.iter_mut().zip(scores).for_each(|(mean, score)| *mean += score / n as f32);
        }
        let block = if nobody { &mut self.past } else { &mut self.levels[0][0] }.all();
        for (cluster, scores) in self.together.drain(..) {
            let rest = std::array::from_fn(|row| scores[row] - mean[row]);
            block[usize::from(cluster)].add(1.0, &rest);
        }
        self.in_unit += if nobody { 0 } else { n as u32 };
        if self.in_unit >= UNIT {
            self.in_unit = 0;
            self.units += 1;
            self.close_unit();
        }
    }

    /// Corrects a score of a request that was pushed before.
    pub fn correct(&mut self, cluster: usize, row: usize, score: f32) {
        self.levels[0][0].all()[cluster].scores[row] += score;
    }

    /// Block 0 of level 0 is full. Scores the last 2 and the last 3 blocks of this level (at level
    /// 0 the last one, too), folds it into the next level, and so on.
    fn close_unit(&mut self) {
        let mut rest = Residuals::default();
        self.base.resize(CLUSTERS, [0.0; ROWS]);
        for level in 0.. {
            // Index of the block of this level that closes now: 1, 2, …
            let j = self.units >> level;
            let mut window = self.levels[level][0].clone();
            for length in 1..=LENGTHS as u64 {
                if length > 1 {
                    if j < length {
                        break;
                    }
                    window.add(&self.levels[level][length as usize - 1]);
                } else if level > 0 {
                    continue;
                }
                let ways = if level == 0 { 3.0 } else { 2.0 };
                let prior = window_prior(level, j) / ways;
                rest.of(&window.tallies, &self.base, self.split);
                // WINDOW is half of E.
                let needs = self.needs + LN_2 - (self.shares[SIGHT_ROW] * prior).ln();
                self.detection_limit[LENGTHS * level + length as usize - 1] =
                    rest.detection_limit(SIGHT_ROW, needs);
                for (row, sum) in self.sums.iter_mut().enumerate() {
                    let share = self.shares[row] * prior;
                    if let Some(log_e) = rest.log_e(row, self.needs - share.ln()) {
                        let won = share * log_e.min(600.0).exp();
                        *sum += won;
                        self.sums_deferred[row] += if window.deferred.has(row) { won } else { 0.0 };
                    }
                }
            }
            let last = level + 1 == LEVELS_MAX;
            if !last {
                if self.levels.len() == level + 1 {
                    self.levels.push(Default::default());
                }
                let (below, above) = self.levels.split_at_mut(level + 1);
                above[0][0].add(&below[level][0]);
            }
            let [filling, one, two] = &mut self.levels[level];
            std::mem::swap(one, two);
            std::mem::swap(filling, one);
            filling.clear();
            if last || self.units & ((1 << (level + 1)) - 1) != 0 {
                return;
            }
        }
    }

    /// S of one score, times its share of the prior.
    pub fn sum(&self, row: usize) -> f64 {
        self.sums[row]
    }

    /// The part of [`ClusterWindows::sum`] from windows in which the score was deferred.
    pub fn sum_deferred(&self, row: usize) -> f64 {
        self.sums_deferred[row]
    }

    pub fn units(&self) -> u64 {
        self.units
    }

    /// The minimum detectable effects of the newest window of each size, in the body of latency at
    /// the level of notice.
    pub fn detection_limit(&self) -> impl Iterator<Item = &WindowDetectionLimit> {
        self.detection_limit.iter().flatten()
    }
}

/// Sums to at most 1 over level ≥ 0, j ≥ 1 (1.07 > Σ 1/(m ln² m), m ≥ 3).
fn window_prior(level: usize, j: u64) -> f64 {
    let (level, m) = (level as f64, j as f64 + 2.0);
    1.0 / ((level + 1.0) * (level + 2.0)) / (1.07 * m * m.ln() * m.ln())
}

/// The residuals of the active clusters' scores in a window, after their own past and the common
/// shift are subtracted.
/// The residuals of a batch sum to zero, so they must not be winsorised: an arm whose users stay
/// away during a common incident would then seem to fail more than the other.
#[derive(Default)]
struct Residuals {
    /// Active clusters in order. The first `new` of them are `new`.
    rest: Vec<[f64; ROWS]>,
    new: usize,
    squares: [f64; ROWS],
    /// Requests in active clusters: of `new`, and of both arms.
    requests: [f64; 2],
}

impl Residuals {
    fn of(&mut self, window: &[ClusterSums], base: &[[f32; ROWS]], split: ClusterSplit) {
        let active = || {
            let of = |b: std::ops::Range<usize>| window[b.clone()].iter().zip(&base[b]);
            let stable = split.from.min(window.len())..window.len();
            of(0..split.below).chain(of(stable)).filter(|(counters, _)| counters.requests > 0.0)
        };
        let (mut excess, mut count) = ([0.0; ROWS], 0.0);
        for (counters, base) in active() {
            let n = f64::from(counters.requests);
            count += n;
            for row in 0..ROWS {
                excess[row] += f64::from(counters.scores[row]) - n * f64::from(base[row]);
            }
        }
        // Subtracts the change that is common to both arms.
        let shift = excess.map(|excess| excess / f64::max(count, 1.0));
        self.squares = [0.0; ROWS];
        self.rest.clear();
        for (counters, base) in active() {
            let n = f64::from(counters.requests);
            let mut rest = [0.0; ROWS];
            for row in 0..ROWS {
                rest[row] = f64::from(counters.scores[row]) - n * (f64::from(base[row]) + shift[row]);
                self.squares[row] += rest[row] * rest[row];
            }
            self.rest.push(rest);
        }
        let of_new = window[..split.below].iter().filter(|counters| counters.requests > 0.0);
        self.new = of_new.clone().count();
        self.requests = [of_new.map(|counters| f64::from(counters.requests)).sum(), count];
    }

    /// Label-blind. The smallest detectable sum is √(2·needs) standard deviations of the sum.
    /// A shift of every score of `new` moves the sum by the shift × the requests of `new` × the
    /// share of stable.
    fn detection_limit(&self, row: usize, needs: f64) -> Option<WindowDetectionLimit> {
        let (m, n1) = (self.rest.len(), self.new);
        let [of_new, all] = self.requests;
        if n1 < 1 || m - n1 < 1 || of_new >= all {
            return None;
        }
        let pi = n1 as f64 / m as f64;
        let sd = (pi * (1.0 - pi) * self.squares[row]).sqrt();
        let least = (2.0 * needs).sqrt() * sd / (of_new * (1.0 - of_new / all));
        Some(WindowDetectionLimit { requests: all as u64, least })
    }

    /// ln e of one score. `None` if the sum is below 3 standard deviations: e is taken as 0, which
    /// is valid.
    /// `needs`: the nats to reach, which choose the tilt label-blind.
    fn log_e(&self, row: usize, needs: f64) -> Option<f64> {
        let (m, n1) = (self.rest.len(), self.new);
        if n1 < 1 || m - n1 < 1 || self.squares[row] <= 0.0 {
            return None;
        }
        let total: f64 = self.rest[..n1].iter().map(|rest| rest[row]).sum();
        let pi = n1 as f64 / m as f64;
        let sd = (pi * (1.0 - pi) * self.squares[row]).sqrt();
        if sd <= 0.0 || total < 3.0 * sd {
            return None;
        }
        let rest: Vec<f64> = self.rest.iter().map(|rest| rest[row]).collect();
        Some(log_e(&rest, n1, needs))
    }
}

/// `rest` has mean 0, and its first `n1` clusters are `new`.
fn log_e(rest: &[f64], n1: usize, needs: f64) -> f64 {
    let m = rest.len();
    let squares = rest.iter().map(|r| r * r).sum::<f64>();
    let top = rest.iter().fold(0.0, |top, r| f64::max(top, r.abs()));
    let total: f64 = rest[..n1].iter().sum();
    let pi = n1 as f64 / m as f64;
    let v0 = m as f64 * pi * (1.0 - pi);
    let sd = (pi * (1.0 - pi) * squares).sqrt();
    // The tilt that is optimal for `needs`: λK′ − K = needs.
    let lambda_max = 8.0 / top;
    let mut lambda = (2.0 * needs).sqrt() / sd;
    let (mut k, mut vt, mut h) = (0.0, 0.0, 0.0);
    for step in 0..8 {
        lambda = lambda.max(1e-3 * lambda_max).min(lambda_max);
        let (mut k1, mut k2) = (0.0, 0.0);
        (k, vt, h) = (0.0, 0.0, 0.0);
        for r in rest {
            let g = (lambda * r).exp_m1();
            k += (pi * g).ln_1p();
            h += g;
            let p = pi * (1.0 + g) / (1.0 + pi * g);
            let v = p * (1.0 - p);
            k1 += p * r;
            k2 += v * r * r;
            vt += v;
        }
        let f = lambda * k1 - k - needs;
        if step == 7 || f.abs() < 0.3 || (lambda >= lambda_max && f < 0.0) {
            break;
        }
        lambda -= f / f64::max(lambda * k2, 1e-12);
    }
    // Independent coins of probability π, conditioned on their sum n₁: the ratio of the two point
    // probabilities is at most 0.4688 √(2π) √(V₀/Vt) e^{1/(12 V₀)} (Baillon, Cominetti, Vaisman;
    // Robbins). Hoeffding: sampling with replacement.
    let conditioned = k + 0.1614 + 0.5 * (v0 / vt).ln() + 1.0 / (12.0 * v0);
    let hoeffding = n1 as f64 * (h / m as f64).ln_1p();
    lambda * total - conditioned.min(hoeffding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn vectors() -> Value {
        let text = include_str!("../../tests/data/watchdog_windows.json");
        serde_json::from_str(text).expect("vectors are JSON")
    }

    fn floats(value: &Value) -> Vec<f32> {
        value
            .as_array()
            .map(|a| a.iter().filter_map(|x| x.as_f64()).map(|x| x as f32).collect())
            .unwrap_or_default()
    }

    /// Of the first score only.
    fn log_e(score: &[f32], requests: &[f32], base: &[f32], split: ClusterSplit, needs: f64) -> Option<f64> {
        let row = |x: &f32| std::array::from_fn(|row| if row == 0 { *x } else { 0.0 });
        let counters = |(n, y): (&f32, &f32)| ClusterSums { requests: *n, scores: row(y) };
        let window: Vec<ClusterSums> = requests.iter().zip(score).map(counters).collect();
        let mut rest = Residuals::default();
        rest.of(&window, &base.iter().map(row).collect::<Vec<_>>(), split);
        rest.log_e(0, needs)
    }

    fn cases(value: &Value) -> &[Value] {
        value.as_array().map(Vec::as_slice).unwrap_or_default()
    }

    #[test]
    fn windows_match_the_reference() {
        let vectors = vectors();
        let mut spoke = 0;
        for case in cases(&vectors["log_e_cases"]) {
            let below = case[3].as_u64().unwrap_or(0) as usize;
            let split = ClusterSplit { below, from: below };
            let needs = case[4].as_f64().unwrap_or(0.0);
            let got = log_e(&floats(&case[0]), &floats(&case[1]), &floats(&case[2]), split, needs);
            match (got, case[5].as_f64()) {
                (Some(got), Some(want)) => {
                    assert!((got - want).abs() <= 1e-9 * want.abs().max(1.0), "{got} for {want}");
                    spoke += 1;
                }
                (got, want) => assert_eq!(got, want),
            }
        }
        assert!(spoke >= 20, "{spoke}");
        for case in cases(&vectors["prior_cases"]) {
            let prior = window_prior(case[0].as_u64().unwrap_or(0) as usize, case[1].as_u64().unwrap_or(0));
            let want = case[2].as_f64().unwrap_or(0.0);
            assert!((prior - want).abs() <= 1e-12, "{prior} for {want}");
        }
    }

    /// Some users of `new` stay away during a common incident.
    /// With winsorised residuals the users who come later would seem worse: the parts cut off would
    /// have balanced the residuals of the users present.
    #[test]
    fn whoever_stays_away_in_a_bad_hour_is_not_held_against_the_rest() {
        let half = CLUSTERS / 2;
        let mut highest = 0.0f64;
        for seed in 0..30 {
            let mut dice = crate::stats::engine::tests::Dice::new(seed);
            let mut windows =
                ClusterWindows::new([0.125; ROWS], ClusterSplit { below: half, from: half }, 0.001);
            for interval in 0..45 {
                let bad = interval < 15;
                for _ in 0..300 {
                    let cluster = (dice.uniform() * CLUSTERS as f64) as u16;
                    if bad && usize::from(cluster) < half && dice.uniform() < 0.5 {
                        continue;
                    }
                    let slow = bad && dice.uniform() < 0.02;
                    windows.push(cluster, &[f32::from(u8::from(slow)); ROWS]);
                }
                windows.interval_ends(false);
            }
            assert!(windows.units() >= 2);
            highest = highest.max((0..ROWS).map(|row| windows.sum(row)).sum());
        }
        assert!(highest < 20.0, "{highest}");
    }

    #[test]
    fn the_least_that_can_be_seen_is_seen() {
        let mut dice = crate::stats::engine::tests::Dice::new(3);
        for (clusters, below) in [(2000, 100), (2000, 1000), (500, 400)] {
            let mut window: Vec<ClusterSums> = (0..clusters)
                .map(|_| {
                    let n = 1.0 + (8.0 * dice.uniform()) as f32;
                    ClusterSums { requests: n, scores: [n * (dice.uniform() as f32 - 0.5); ROWS] }
                })
                .collect();
            let split = ClusterSplit { below, from: below };
            let mut rest = Residuals::default();
            let base = vec![[0.0; ROWS]; clusters];
            rest.of(&window, &base, split);
            // Subtracts the chance difference between the arms, so that only the shift is left.
            let [of_new, all] = rest.requests;
            let chance: f64 =
                rest.rest[..below].iter().map(|r| r[0]).sum::<f64>() / (of_new * (1.0 - of_new / all));
            let detection_limit = rest.detection_limit(0, 12.0).unwrap();
            for counters in &mut window[..below] {
                counters.scores[0] += counters.requests * (detection_limit.least - chance) as f32;
            }
            rest.of(&window, &base, split);
            let nats = rest.log_e(0, 12.0).unwrap();
            assert!((9.0..14.0).contains(&nats), "{clusters} {below}: {nats}");
            assert_eq!(detection_limit.requests, all as u64);
        }
    }

    /// Enumerates all choices of `new` in small populations with extreme values: the mean of e is
    /// at most 1.
    #[test]
    fn a_window_is_fair_whatever_users_are_like() {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        for case in 0..60 {
            let clusters = 6 + (uniform() * 8.0) as usize;
            let n1 = 1 + (uniform() * 3.0) as usize;
            let requests: Vec<f32> = (0..clusters).map(|_| 1.0 + (uniform() * 8.0) as f32).collect();
            let score: Vec<f32> = requests
                .iter()
                .enumerate()
                .map(|(i, n)| match case % 3 {
                    0 => n * uniform() as f32,
                    1 => (uniform().powf(-1.0) as f32).min(1e6),
                    _ => {
                        if i == 0 {
                            1.0
                        } else {
                            0.0
                        }
                    }
                })
                .collect();
            let needs = [0.5, 2.0, 5.0][case % 3];
            let (mut sum, mut count) = (0.0, 0.0);
            for chosen in (0u32..1 << clusters).filter(|set| set.count_ones() as usize == n1) {
                let order: Vec<usize> = (0..clusters)
                    .filter(|i| chosen >> i & 1 == 1)
                    .chain((0..clusters).filter(|i| chosen >> i & 1 == 0))
                    .collect();
                let pick = |of: &[f32]| order.iter().map(|i| of[*i]).collect::<Vec<_>>();
                let split = ClusterSplit { below: n1, from: n1 };
                let e = log_e(&pick(&score), &pick(&requests), &vec![0.0; clusters], split, needs);
                sum += e.map_or(0.0, f64::exp);
                count += 1.0;
            }
            assert!(sum / count <= 1.0 + 1e-9, "case {case}: {}", sum / count);
        }
    }

    #[test]
    fn priors_of_all_windows_sum_to_at_most_one() {
        let sum: f64 =
            (0..LEVELS_MAX).map(|level| (1..200_000u64).map(|j| window_prior(level, j)).sum::<f64>()).sum();
        assert!((0.5..=1.0).contains(&sum), "{sum}");
    }
}
