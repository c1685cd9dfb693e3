//! The evidence of the present wave, from the same events that the watchdog judges. It restarts
//! with each wave.
//!
//! Requests are grouped by arrival in intervals, which count when they are final (a deadline after
//! their end), and in *slots* of several intervals. A slot closes by the number of requests, never
//! by their outcomes.
//! Only requests whose arm the hash alone chose are compared; all of them count as requests and
//! users.
//!
//! A trial covers a whole release or one of its routes, depending on the events that it receives.
//!
//! Invariants: pure, time is an argument; constant memory: a few numbers for each group of buckets,
//! a sketch of users for each arm, the intervals of one deadline.

mod saved;

use crate::stats::arm::Arm;
use crate::stats::cohort::Weight;
use crate::stats::design_effect::{self, ServerTimeCells};
use crate::stats::engine::{EventKind, RequestEvent};
use crate::stats::histogram;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::hyperloglog::{self, REGISTERS};
use crate::stats::latency::{AgeTable, SlotAges};
use crate::stats::noninferiority::{BodyTest, FailureTest, GroupSpread, TailTest, design_effect};
use crate::stats::users::{CLUSTERS, FACTOR_MAX, UserUnit};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Minimum of expected requests of each arm in a slot.
const EXPECTED_MIN: f64 = 2.0;
/// Maximum of intervals.
const INTERVALS_MAX: usize = 4096;

/// The margins up to which `new` may be worse and still be promoted.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Margins {
    /// A difference of shares: `0.001` is 0.1 percentage points.
    pub errors: f64,
    /// `0.1`: 10% slower.
    pub latency: f64,
    /// `0.5`: 50% more answers above stable's p99.
    pub tail: f64,
}

impl Margins {
    /// The limit on the ratio of answers above stable's p99.
    pub fn tail_ratio(&self) -> f64 {
        1.0 + self.tail
    }
}

/// Stable's usual latency, and this user's factor: the engine's scale.
pub struct Reference<'a> {
    pub table: Option<&'a Arc<AgeTable>>,
    pub factor: f64,
    /// Faster answers count as this fast.
    pub floor: Duration,
    /// All of `new`, or the server of this request, warms up: its latency is not compared.
    pub is_warming: bool,
}

impl Reference<'_> {
    /// The compared latency in µs, divided by `by`.
    pub fn us(&self, after: Duration, by: f64) -> f64 {
        let quick = (after.as_secs_f64() / by).max(self.floor.as_secs_f64());
        (1e6 * quick / self.factor).max(1.0)
    }
}

/// The evidence of a wave. The e-values are tempered: see [`crate::stats::noninferiority`].
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct TrialReading {
    /// Without requests that the client or the proxy ended.
    pub requests: PerArm,
    pub users: PerArm,
    /// Final requests whose arm the hash alone chose, and the failed ones.
    pub compared: PerArm,
    pub failed: PerArm,
    /// Answered, or unanswered for long enough to count; and above stable's p99.
    pub timed: PerArm,
    pub slow: PerArm,
    pub e_errors: f64,
    pub e_body: f64,
    pub e_tail: f64,
    pub design_errors: f64,
    pub design_latency: f64,
    pub design_tail: f64,
    /// Standard deviation of the logarithm of single answers' latencies.
    pub spread_latency: f64,
    /// Distance of the share of requests to `new` from the weight, in standard deviations.
    pub share_z: f64,
}

#[derive(Clone, Copy, Default, Debug)]
struct UserCluster {
    requests: u32,
    failed: u32,
    timed: u32,
    slow: u32,
    log_latency: f32,
    arm: Option<Arm>,
}

#[derive(Clone, Default, Debug)]
struct TrialInterval {
    all: PerArm,
    arrived: PerArm,
    excused: PerArm,
    answered: PerArm,
    told_failed: PerArm,
    broke: PerArm,
    /// Requests without an outcome whose latency is not compared.
    untimed: PerArm,
    /// With the arms swapped.
    ages: SlotAges,
    timed: PerArm,
    slow: PerArm,
    table: Option<Arc<AgeTable>>,
}

#[derive(Clone, Debug)]
pub struct Trial {
    margins: Margins,
    share: f64,
    tick: Duration,
    began: Duration,
    oldest: u64,
    intervals: VecDeque<TrialInterval>,
    /// Final intervals that are not bet on yet.
    slot: TrialInterval,
    reading: TrialReading,
    errors: FailureTest,
    body: BodyTest,
    tail: TailTest,
    clusters: Vec<UserCluster>,
    /// Of ln µs, by arm.
    latencies: [GroupSpread; 2],
    /// By server and time: of failures, of ln µs, of answers above p99.
    cells: [ServerTimeCells; 3],
    users: [Box<[u8; REGISTERS]>; 2],
}

impl Trial {
    pub fn new(margins: Margins, weight: Weight, tick: Duration, now: Duration) -> Trial {
        Trial {
            margins,
            share: weight.ratio(),
            tick,
            began: now,
            oldest: number(now, tick),
            intervals: VecDeque::new(),
            slot: TrialInterval::default(),
            reading: TrialReading::default(),
            errors: FailureTest::new(margins.errors),
            body: BodyTest::default(),
            tail: TailTest::new(margins.tail_ratio()),
            clusters: vec![UserCluster::default(); CLUSTERS],
            latencies: [GroupSpread::default(); 2],
            cells: Default::default(),
            users: std::array::from_fn(|_| Box::new([0; REGISTERS])),
        }
    }

    pub fn margins(&self) -> Margins {
        self.margins
    }

    /// Sets edited margins. The evidence for a changed margin restarts with the requests that come
    /// from now on; the rest is kept.
    pub fn set_margins(&mut self, margins: Margins) {
        let was = std::mem::replace(&mut self.margins, margins);
        let nothing = PerArm::default();
        if was.errors != margins.errors {
            self.errors = FailureTest::new(margins.errors);
            (self.reading.compared, self.reading.failed) = (nothing, nothing);
        }
        if was.latency != margins.latency {
            self.body = BodyTest::default();
            // Ages of `new` were divided by the old margin.
            self.slot.table = None;
            self.intervals.iter_mut().for_each(|interval| interval.table = None);
        }
        if was.tail != margins.tail {
            self.tail = TailTest::new(margins.tail_ratio());
            (self.reading.timed, self.reading.slow) = (nothing, nothing);
        }
    }

    pub fn push(&mut self, event: &RequestEvent, reference: &Reference<'_>) {
        let RequestEvent { request, what, after } = *event;
        if request.at < self.began {
            return;
        }
        let late = number(request.at, self.tick) < self.oldest;
        // A failure that comes out after its interval was final is one more that failed.
        if late && !matches!(what, EventKind::Failed | EventKind::Broke) {
            return;
        }
        let index = if late { 0 } else { (number(request.at, self.tick) - self.oldest) as usize };
        if index >= INTERVALS_MAX {
            return;
        }
        if index >= self.intervals.len() {
            let table = reference.table.cloned();
            self.intervals.resize_with(index + 1, || TrialInterval {
                table: table.clone(),
                ..TrialInterval::default()
            });
        }
        let (interval, arm) = (&mut self.intervals[index], request.arm);
        match what {
            EventKind::Arrived => {
                *interval.all.of(arm) += 1;
                if let Some(unit) = request.unit {
                    let (register, rank) = hyperloglog::register(spread(unit));
                    let known = &mut self.users[arm.index()][register];
                    *known = rank.max(*known);
                }
            }
            EventKind::Excused | EventKind::Left { .. } => {
                *interval.all.of(arm) = interval.all.of(arm).saturating_sub(1)
            }
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected => {}
            EventKind::Failed
            | EventKind::Broke
            | EventKind::Ended { .. }
            | EventKind::EndedAsClientError => {}
        }
        let Some(unit) = request.unit.filter(|_| request.drawn) else { return };
        let cluster = &mut self.clusters[unit.cluster()];
        cluster.arm = Some(arm);
        let (moment, place) = (request.at + after, design_effect::place(arm, request.server));
        let [of_failures, of_latency, of_slowness] = &mut self.cells;
        match what {
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected => {
                of_failures.push(moment, place, 1.0, 0.0)
            }
            EventKind::Failed | EventKind::Broke => of_failures.push(moment, place, 1.0, 1.0),
            EventKind::Arrived
            | EventKind::Excused
            | EventKind::Left { .. }
            | EventKind::Ended { .. }
            | EventKind::EndedAsClientError => {}
        }
        match what {
            EventKind::Arrived => {
                *interval.arrived.of(arm) += 1;
                cluster.requests += 1;
            }
            EventKind::Failed | EventKind::Broke => {
                cluster.failed += 1;
                if what == EventKind::Failed {
                    *interval.told_failed.of(arm) += 1;
                } else {
                    *interval.broke.of(arm) += 1;
                }
                // Its request is no longer in the interval that it arrived in.
                if late {
                    *interval.arrived.of(arm) += 1;
                    *interval.answered.of(arm) += u64::from(what == EventKind::Broke);
                }
            }
            EventKind::Excused | EventKind::Left { .. } => {
                *interval.excused.of(arm) += 1;
                cluster.requests = cluster.requests.saturating_sub(1);
            }
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected => {
                *interval.answered.of(arm) += 1
            }
            EventKind::Ended { .. } | EventKind::EndedAsClientError => {}
        }
        // A user whose usual latency is far from that of others is compared by failures alone.
        if reference.factor >= FACTOR_MAX {
            match what {
                EventKind::Arrived => {
                    *interval.untimed.of(arm) += 1;
                    if let Some(table) = &interval.table {
                        *interval.ages.censored[table.group(0)].of(other(arm)) += 1;
                    }
                }
                EventKind::Broke | EventKind::Ended { .. } | EventKind::EndedAsClientError => {}
                _ if late => {}
                _ => *interval.untimed.of(arm) = interval.untimed.of(arm).saturating_sub(1),
            }
            return;
        }
        if let Some(table) = &interval.table {
            let us = reference.us(after, 1.0);
            let faster = if arm == Arm::New { reference.us(after, 1.0 + self.margins.latency) } else { us };
            let group = table.group(bucket(faster));
            match what {
                EventKind::Answered | EventKind::ClientError | EventKind::Redirected
                    if reference.is_warming =>
                {
                    *interval.ages.censored[table.group(0)].of(other(arm)) += 1;
                }
                EventKind::Answered | EventKind::ClientError | EventKind::Redirected => {
                    *interval.ages.done[group].of(other(arm)) += 1;
                    let slow = table.above_p99(bucket(us));
                    *interval.timed.of(arm) += 1;
                    *interval.slow.of(arm) += u64::from(slow);
                    let log = us.ln();
                    cluster.timed += 1;
                    cluster.slow += u32::from(slow);
                    cluster.log_latency += log as f32;
                    of_latency.push(moment, place, 1.0, log);
                    of_slowness.push(moment, place, 1.0, f64::from(u8::from(slow)));
                    let all = &mut self.latencies[arm.index()];
                    (all.n, all.sum, all.squares) = (all.n + 1.0, all.sum + log, all.squares + log * log);
                }
                EventKind::Excused | EventKind::Left { .. } => {
                    *interval.ages.censored[group].of(other(arm)) += 1
                }
                EventKind::Arrived
                | EventKind::Failed
                | EventKind::Broke
                | EventKind::Ended { .. }
                | EventKind::EndedAsClientError => {}
            }
        }
    }

    /// Advances the time: intervals count `deadline` after their end.
    pub fn tick(&mut self, now: Duration, deadline: Duration) {
        let deadline = deadline.min(self.tick * INTERVALS_MAX as u32);
        let until = number(now.saturating_sub(deadline), self.tick);
        while self.oldest < until {
            let Some(interval) = self.intervals.pop_front() else {
                self.oldest = until;
                break;
            };
            self.oldest += 1;
            self.settle(interval);
        }
    }

    fn settle(&mut self, interval: TrialInterval) {
        self.reading.requests += interval.all;
        let same_table = match (&self.slot.table, &interval.table) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if !same_table {
            self.bet();
        }
        self.slot.table = interval.table.clone();
        self.slot.add(&interval);
        let n = self.slot.arrived.total() as f64;
        if n * self.share >= EXPECTED_MIN && n * (1.0 - self.share) >= EXPECTED_MIN {
            self.bet();
        }
    }

    /// Bets on the slot, and starts the next one.
    fn bet(&mut self) {
        let slot = std::mem::take(&mut self.slot);
        let mut compared = slot.arrived;
        compared.take(slot.excused);
        // Slow is not failed: a request without an answer is a matter of latency until it fails.
        let mut failed = slot.told_failed;
        failed += slot.broke;
        let failed = failed.capped(compared);
        self.reading.compared += compared;
        self.reading.failed += failed;
        self.errors.push(compared, failed);
        let Some(table) = &slot.table else { return };
        let mut hung = compared;
        hung.take(slot.answered);
        hung.take(slot.told_failed);
        hung.take(slot.untimed);
        let (mut timed, mut slow) = (slot.timed, slot.slow);
        timed += hung;
        slow += hung;
        self.reading.timed += timed;
        self.reading.slow += slow;
        self.tail.push(timed, slow);
        let ages = SlotAges { arrived: PerArm::new(slot.arrived.stable, slot.arrived.new), ..slot.ages };
        self.body.push(table.body(&ages));
    }

    pub fn reading(&self) -> TrialReading {
        let of = |arm: Arm| self.clusters.iter().filter(move |c| c.arm == Some(arm));
        let shares = |n: fn(&UserCluster) -> u32, bad: fn(&UserCluster) -> u32, cells: &ServerTimeCells| {
            let spread = |arm: Arm| {
                let (all, some) =
                    of(arm).fold((0.0, 0.0), |(a, b), c| (a + f64::from(n(c)), b + f64::from(bad(c))));
                GroupSpread { n: all, sum: some, squares: some }
            };
            let arms = Arm::BOTH.map(spread);
            let by_users = design_effect(arms, |i| {
                Box::new(of(Arm::BOTH[i]).map(move |c| (f64::from(n(c)), f64::from(bad(c)))))
            });
            crossed(by_users, cells, &arms)
        };
        let [of_failures, of_latency, of_slowness] = &self.cells;
        let design_errors = shares(|c| c.requests, |c| c.failed.min(c.requests), of_failures);
        let design_tail = shares(|c| c.timed, |c| c.slow, of_slowness);
        let by_users = design_effect(self.latencies, |i| {
            Box::new(of(Arm::BOTH[i]).map(|c| (f64::from(c.timed), f64::from(c.log_latency))))
        });
        let design_latency = crossed(by_users, of_latency, &self.latencies);
        TrialReading {
            users: PerArm::new(self.users_of(Arm::New), self.users_of(Arm::Stable)),
            e_errors: self.errors.e_value(design_errors),
            e_body: self.body.e_value(design_latency),
            e_tail: self.tail.e_value(design_tail),
            design_errors,
            design_latency,
            design_tail,
            spread_latency: GroupSpread::variance(&self.latencies).sqrt(),
            share_z: self.share_z(),
            ..self.reading
        }
    }

    fn users_of(&self, arm: Arm) -> u64 {
        hyperloglog::estimate(self.users[arm.index()].iter().copied())
    }

    /// The z-score of the requests to `new`, given its groups of users and the number of requests
    /// of each group.
    fn share_z(&self) -> f64 {
        let all = self.clusters.iter().map(|c| f64::from(c.requests));
        let (sum, squares) = all.fold((0.0, 0.0), |(sum, squares), n| (sum + n, squares + n * n));
        let new: f64 =
            self.clusters.iter().filter(|c| c.arm == Some(Arm::New)).map(|c| f64::from(c.requests)).sum();
        let variance = self.share * (1.0 - self.share) * (squares - sum * sum / CLUSTERS as f64);
        if variance > 0.0 { (new - self.share * sum) / variance.sqrt() } else { 0.0 }
    }
}

impl TrialInterval {
    fn add(&mut self, other: &TrialInterval) {
        self.arrived += other.arrived;
        self.excused += other.excused;
        self.answered += other.answered;
        self.told_failed += other.told_failed;
        self.broke += other.broke;
        self.untimed += other.untimed;
        self.timed += other.timed;
        self.slow += other.slow;
        let groups = self.ages.done.iter_mut().zip(&other.ages.done);
        groups.chain(self.ages.censored.iter_mut().zip(&other.ages.censored)).for_each(|(a, b)| *a += *b);
    }
}

/// The effects of users and of servers' moments are crossed: variances add.
fn crossed(by_users: f64, cells: &ServerTimeCells, arms: &[GroupSpread; 2]) -> f64 {
    by_users + cells.effect(GroupSpread::variance(arms)) - 1.0
}

fn number(at: Duration, tick: Duration) -> u64 {
    at.as_nanos() as u64 / (tick.as_nanos() as u64).max(1)
}

pub fn bucket(us: f64) -> usize {
    histogram::index(us.round() as u64)
}

fn other(arm: Arm) -> Arm {
    match arm {
        Arm::New => Arm::Stable,
        Arm::Stable => Arm::New,
    }
}

/// Units are a prefix of the hash. Mixed again (SplitMix64's finaliser), they serve as a sketch's
/// hash.
fn spread(unit: UserUnit) -> u64 {
    let mut z = u64::from(unit.index()).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
