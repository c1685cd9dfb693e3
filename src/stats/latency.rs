//! Latency as *time to success*: age groups cut at stable's own quantiles, and the alternatives bet
//! on.
//!
//! There are two kinds of rows. The *body* rows are log-rank chains over the groups up to p95: a
//! `new` slower by 3 … 900% finishes fewer of its requests in each group.
//! Each *tail* row is one test, "still running after the cut?", with an odds ratio.
//! A failed request never succeeds and stays in the risk set: to censor it would blame the arm with
//! the longer time-out in a common incident.
//! Only requests that the client aborted are censored, at the age of the abort.
//!
//! Invariants: a table is made from stable's answers only, before the requests that it judges
//! arrive; cuts ascend; chain rows are never positive.

use crate::stats::e_process::EProcess;
use crate::stats::hypergeometric_bet::{Bet, PerArm, cell};
use std::sync::LazyLock;
use std::time::Duration;

const BODY: [f64; 10] = [0.10, 0.20, 0.30, 0.40, 0.50, 0.60, 0.70, 0.80, 0.90, 0.95];
const TAIL: [f64; 4] = [0.98, 0.99, 0.995, 0.999];
/// The body rows: slowdowns of `new`.
const STRETCH: [f64; 7] = [0.03, 0.07, 0.15, 0.30, 0.70, 2.0, 9.0];

#[derive(Clone, Copy, PartialEq, Debug)]
enum AgeCut {
    /// A quantile of stable.
    At(f64),
    /// This multiple of p99.9.
    Times(f64),
}

/// The tail rows: odds ratios of still running after the cut.
const EXCEED: [(AgeCut, &[f64]); 7] = [
    (AgeCut::At(0.90), &[1.5, 4.0]),
    (AgeCut::At(0.98), &[1.4, 2.5, 8.0]),
    (AgeCut::At(0.99), &[1.4, 2.5, 8.0, 50.0]),
    (AgeCut::At(0.995), &[2.0, 5.0, 30.0]),
    (AgeCut::At(0.999), &[2.0, 5.0, 30.0, 300.0]),
    (AgeCut::Times(2.0), &[3.0, 10.0, 100.0]),
    (AgeCut::Times(4.0), &[5.0, 50.0, 3000.0]),
];

/// Rows of the latency mixture: body, then tail.
pub static ROWS: LazyLock<usize> =
    LazyLock::new(|| STRETCH.len() + EXCEED.iter().map(|(_, odds)| odds.len()).sum::<usize>());

/// The alternative of a row, as text.
pub fn label(row: usize) -> String {
    if let Some(stretch) = STRETCH.get(row) {
        return format!("slower by {:.0}%", 100.0 * stretch);
    }
    let mut tail = EXCEED.iter().flat_map(|(cut, odds)| odds.iter().map(move |o| (cut, o)));
    match tail.nth(row - STRETCH.len()) {
        Some((AgeCut::At(level), odds)) => format!("still running after p{}, odds × {odds}", 100.0 * level),
        Some((AgeCut::Times(by), odds)) => format!("still running after {by} × p99.9, odds × {odds}"),
        None => String::new(),
    }
}

/// Upper bound of the groups of a table.
pub const GROUPS_MAX: usize = 17;

/// The age groups, and the alternatives on them.
#[derive(Clone, Debug, PartialEq)]
pub struct AgeTable {
    /// Histogram bucket → group.
    group: Vec<u8>,
    /// Upper end of each group but the last, in the unit of the edges.
    cuts: Vec<f64>,
    /// Body rows: log odds ratio of finishing, by group.
    chain: Vec<Vec<f64>>,
    /// Tail rows: the last group before the cut, and the log odds ratio.
    exceed: Vec<(usize, f64)>,
    body_end: usize,
    /// Buckets above these are slower than p98, p99.9.
    slow: [usize; 2],
    /// Upper end of the bucket of p98.
    slow_from: Duration,
    p99: usize,
    /// Mid-rank of each bucket among stable's answers, and the logarithm of its middle.
    rank: Vec<f32>,
    log_middles: Vec<f64>,
}

impl AgeTable {
    /// `edges`: inner borders of the buckets, ascending. `counts`: stable's answers in the buckets.
    pub fn new(edges: &[f64], counts: &[f64]) -> AgeTable {
        let total: f64 = counts.iter().map(|c| c + 0.01).sum();
        let mut sum = 0.0;
        let cdf: Vec<f64> = counts
            .iter()
            .map(|c| {
                sum += c + 0.01;
                sum / total
            })
            .collect();
        let f = &cdf[..edges.len()];
        let at = |level: f64| nearest(f, level);
        let top = edges[at(0.999)];
        let times = |by: f64| edges.partition_point(|e| *e < by * top).min(edges.len() - 1);
        let place = |cut: AgeCut| match cut {
            AgeCut::At(level) => at(level),
            AgeCut::Times(by) => times(by),
        };
        let levels = BODY.iter().chain(&TAIL).map(|l| at(*l));
        let mut borders: Vec<usize> = levels.chain([times(2.0), times(4.0)]).collect();
        borders.sort_unstable();
        borders.dedup();
        let number = |border: usize| borders.partition_point(|b| *b < border);
        let group = (0..counts.len()).map(|bucket| number(bucket) as u8).collect();

        let log_edges: Vec<f64> = edges.iter().map(|e| e.ln()).collect();
        let survival: Vec<f64> = f.iter().map(|f| (1.0 - f).clamp(1e-7, 1.0)).collect();
        let log_survival: Vec<f64> = survival.iter().map(|s| s.ln()).collect();
        let body_end = number(at(0.95));
        let chain = STRETCH.iter().map(|stretch| {
            let mut row = vec![0.0; borders.len() + 1];
            let (mut p0, mut p1) = (1.0, 1.0);
            for (g, border) in borders.iter().enumerate().take(body_end + 1) {
                let q0 = survival[*border];
                let q1 = interpolate(&log_edges, &log_survival, log_edges[*border] - stretch.ln_1p()).exp();
                let hazard = |q: f64, p: f64| (1.0 - q / p).clamp(1e-6, 1.0 - 1e-6);
                let odds = |h: f64| (h / (1.0 - h)).ln();
                row[g] = (odds(hazard(q1, p1)) - odds(hazard(q0, p0))).min(0.0);
                (p0, p1) = (q0, q1);
            }
            row
        });
        let exceed = EXCEED
            .iter()
            .flat_map(|(cut, odds)| odds.iter().map(|o| (number(place(*cut)), o.ln())))
            .collect();
        let mut below = 0.0;
        let rank = cdf
            .iter()
            .map(|c| {
                let mid = (below + c) / 2.0;
                below = *c;
                mid as f32
            })
            .collect();
        AgeTable {
            group,
            chain: chain.collect(),
            exceed,
            body_end,
            cuts: borders.iter().map(|b| edges[*b]).collect(),
            slow: [cdf.partition_point(|c| *c < 0.98), tail_from(&cdf, [0.98, 0.999])],
            slow_from: Duration::from_micros(
                edges[cdf.partition_point(|c| *c < 0.98).min(edges.len() - 1)] as u64,
            ),
            p99: tail_from(&cdf, [0.9, 0.99]),
            rank,
            log_middles: middles(&log_edges),
        }
    }

    /// The table for a `new` whose answers are divided by the tolerance: the log odds ratios of
    /// finishing (≤ 0) never grow in magnitude with age.
    ///
    /// H₀ is then "no slower", not "alike", so a bet must not grow when an answer of `new` comes
    /// earlier.
    /// Where all answers take nearly the same time, stable finishes nothing before that moment and
    /// everything at it; an equal `new`, divided, has finished before it. Without this step a row
    /// bets almost nothing on the time before and everything on the moment, when only failures of
    /// `new` are left: identical versions that take 20 ms, or 10, 20, 30 ms, tripped in most runs.
    /// With log odds ratios that only shrink, an earlier answer is at least as much evidence for
    /// `new`.
    pub fn monotone(mut self) -> AgeTable {
        for row in &mut self.chain {
            for g in (1..row.len()).rev() {
                row[g - 1] = row[g - 1].min(row[g]);
            }
        }
        self
    }

    pub fn groups(&self) -> usize {
        self.cuts.len() + 1
    }

    pub fn group(&self, bucket: usize) -> usize {
        usize::from(self.group[bucket])
    }

    /// Upper ends of the groups, without the last one's (infinite).
    pub fn cuts(&self) -> &[f64] {
        &self.cuts
    }

    /// Whether it is slower than stable's p98, p99.9.
    pub fn slow(&self, bucket: usize) -> [bool; 2] {
        self.slow.map(|border| bucket > border)
    }

    /// The latency from which an answer of a typical user is slower than p98. Edges are in µs.
    pub fn slow_from(&self) -> Duration {
        self.slow_from
    }

    pub fn above_p99(&self, bucket: usize) -> bool {
        bucket > self.p99
    }

    /// Share of stable's answers that are faster, `0 ..= 1`.
    pub fn rank(&self, bucket: usize) -> f32 {
        self.rank[bucket]
    }

    /// Standard deviation of the logarithm of stable's latencies.
    pub fn spread(&self) -> f64 {
        let (mut below, mut sum, mut squares) = (0.0, 0.0, 0.0);
        for (rank, log) in self.rank.iter().zip(&self.log_middles) {
            // The mid-rank is half of the bucket's own share above the share below it.
            let share = (2.0 * (f64::from(*rank) - below)).max(0.0);
            below += share;
            (sum, squares) = (sum + share * log, squares + share * log * log);
        }
        (squares - sum * sum).max(0.0).sqrt()
    }

    /// The slowdown of all answers that raises their mean rank by `shift`. `0.05`: 5%.
    /// `None`: above thirty-fold.
    pub fn stretch_of(&self, shift: f64) -> Option<f64> {
        let ranks: Vec<f64> = self.rank.iter().map(|rank| f64::from(*rank)).collect();
        let (mut below, mut above) = (0.0, 30.0f64.ln());
        if self.shift_of(above, &ranks) < shift {
            return None;
        }
        for _ in 0..40 {
            let middle = (below + above) / 2.0;
            match self.shift_of(middle, &ranks) < shift {
                true => below = middle,
                false => above = middle,
            }
        }
        Some(above.exp_m1())
    }

    /// The rise of the mean rank if all answers are slower by `log` (natural logarithm).
    fn shift_of(&self, log: f64, ranks: &[f64]) -> f64 {
        let mut below = 0.0;
        let mut shift = 0.0;
        for (bucket, rank) in ranks.iter().enumerate() {
            // The mid-rank is half of the bucket's own share above the share below it.
            let share = 2.0 * (rank - below);
            below += share;
            let slower = interpolate(&self.log_middles, ranks, self.log_middles[bucket] + log);
            shift += share.max(0.0) * (slower - rank);
        }
        shift
    }

    /// The last group that the body rows need.
    pub fn body_end(&self) -> usize {
        self.body_end
    }

    /// The last group that a tail row needs.
    pub fn tail_ends(&self) -> impl Iterator<Item = usize> + '_ {
        self.exceed.iter().map(|(end, _)| *end)
    }

    /// Bets in the body rows, once the groups up to [`AgeTable::body_end`] are final.
    pub fn bet_body(&self, slot: &SlotAges, mixture: &mut EProcess) {
        self.body(slot).enumerate().for_each(|(row, bet)| mixture.push(row, bet));
    }

    /// The bets of the body rows on a slot whose groups up to [`AgeTable::body_end`] are final.
    pub fn body(&self, slot: &SlotAges) -> impl Iterator<Item = Bet> {
        self.chain.iter().map(|chain| {
            let (mut at_risk, mut sum) = (slot.arrived, Bet::default());
            for (g, lambda) in chain.iter().enumerate() {
                if *lambda != 0.0 && slot.done[g].total() > 0 {
                    sum += cell(at_risk, slot.done[g], *lambda);
                }
                at_risk.take(slot.done[g]);
                at_risk.take(slot.censored[g]);
            }
            sum
        })
    }

    /// Bets in a tail row, once the groups up to its end are final.
    pub fn bet_tail(&self, row: usize, slot: &SlotAges, mixture: &mut EProcess) {
        let (end, lambda) = self.exceed[row];
        let (mut at_risk, mut running) = (slot.arrived, slot.arrived);
        for g in 0..=end {
            at_risk.take(slot.censored[g]);
            running.take(slot.censored[g]);
            running.take(slot.done[g]);
        }
        if running.total() > 0 {
            mixture.push(self.chain.len() + row, cell(at_risk, running, lambda));
        }
    }
}

/// One slot's requests by age group.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct SlotAges {
    pub arrived: PerArm,
    /// Succeeded in this group.
    pub done: [PerArm; GROUPS_MAX],
    /// Aborted by the client in this group.
    pub censored: [PerArm; GROUPS_MAX],
}

/// A bucket with a smaller share of the answers counts as empty.
const EMPTY: f64 = 5e-5;
/// So many empty buckets are a gap.
const GAP: usize = 4;

/// The bucket of the upper quantile. Where answers of one kind lie apart (a time-out of 3 s in a
/// service of 30 ms): the middle of the gap below them, if it is above the lower quantile. Answers
/// on both sides of a gap stay on their side, whatever the tolerance and the user's factor.
fn tail_from(cdf: &[f64], quantiles: [f64; 2]) -> usize {
    let [lower, upper] = quantiles.map(|share| cdf.partition_point(|c| *c < share));
    let share = |bucket: usize| cdf[bucket] - bucket.checked_sub(1).map_or(0.0, |below| cdf[below]);
    let (mut longest, mut from) = (0..0, lower);
    for bucket in lower..=upper.min(cdf.len() - 1) {
        if bucket == upper || share(bucket) >= EMPTY {
            if bucket - from > longest.len() {
                longest = from..bucket;
            }
            from = bucket + 1;
        }
    }
    if longest.len() >= GAP { longest.start + longest.len() / 2 } else { upper }
}

/// The middles of the buckets between these borders.
/// The first and the last bucket use their only border.
fn middles(log_edges: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (log_edges.first(), log_edges.last()) else { return vec![] };
    let between = log_edges.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0);
    std::iter::once(*first).chain(between).chain(std::iter::once(*last)).collect()
}

fn nearest(ascending: &[f64], level: f64) -> usize {
    let distance = |i: usize| (ascending[i] - level).abs();
    (0..ascending.len()).fold(0, |best, i| if distance(i) < distance(best) { i } else { best })
}

/// Linear between the points; 0 before the first, the last value after the last.
fn interpolate(x: &[f64], y: &[f64], at: f64) -> f64 {
    let after = x.partition_point(|p| *p <= at);
    if after == 0 {
        return 0.0;
    }
    if after == x.len() {
        return y[after - 1];
    }
    let slope = (y[after] - y[after - 1]) / (x[after] - x[after - 1]);
    slope * (at - x[after - 1]) + y[after - 1]
}
