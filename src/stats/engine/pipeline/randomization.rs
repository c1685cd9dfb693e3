//! Which labels are freshly randomised, and the effect of another weight. [`crate::stats::engine`]
//! has the rules.
//!
//! Invariants: a user is compared only on the side of its bucket; a draw begins with all users
//! unseen; every budget is granted once.

use super::{Engine, NOTICE, STRATUM_SHIFT, TestScope, apart};
use crate::stats::arm::Arm;
use crate::stats::cluster_window::ClusterSplit;
use crate::stats::cohort::{BUCKETS, Weight};
use crate::stats::engine::{Signal, warms_up};
use crate::stats::first_event::{FirstEventTest, UserMark};
use crate::stats::first_request::FirstRequestTest;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::users::{CLUSTERS, UserUnit};
use std::time::Duration;

/// The compared users and their sides, by bucket, `0 ..= 1_000_000`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Randomization {
    /// Lower buckets are not in the draw.
    pub(super) from: u32,
    /// Buckets `from ..` this are `new`.
    pub(super) new_below: u32,
    /// Buckets from here on are stable.
    pub(super) stable_from: u32,
}

impl Randomization {
    pub(super) fn side(&self, unit: UserUnit) -> Option<Arm> {
        match unit.bucket() {
            bucket if bucket < self.from => None,
            bucket if bucket < self.new_below => Some(Arm::New),
            bucket if bucket >= self.stable_from => Some(Arm::Stable),
            _ => None,
        }
    }

    /// Expected share of `new` among the compared users.
    pub(super) fn share(&self) -> f64 {
        let (new, stable) = (self.new_below - self.from, BUCKETS - self.stable_from);
        f64::from(new) / f64::from((new + stable).max(1))
    }

    /// All users, at this weight.
    pub(super) fn of_all(weight: Weight) -> Randomization {
        Randomization { from: 0, new_below: weight.parts(), stable_from: weight.parts() }
    }

    /// The split of WINDOW, which compares all clusters: those below the draw have their own past.
    pub(super) fn split(&self) -> ClusterSplit {
        let buckets = BUCKETS / CLUSTERS as u32;
        ClusterSplit {
            below: (self.new_below / buckets) as usize,
            from: self.stable_from.div_ceil(buckets) as usize,
        }
    }
}

impl Engine {
    /// Applies another weight. Requests in flight leave the comparison.
    pub fn weigh(&mut self, weight: Weight, now: Duration) {
        let was = std::mem::replace(&mut self.weight, weight);
        if weight == was {
            return;
        }
        self.forget_what_is_on_its_way();
        match warms_up(was, weight) {
            true => self.servers.release_warms_up(now),
            false => self.servers.wave(),
        }
        let highest = self.highest;
        self.highest = highest.max(weight);
        match () {
            () if weight > highest && highest == Weight::ZERO => {
                self.begin(Randomization::of_all(weight), now)
            }
            () if weight > highest => {
                self.begin(Randomization { from: highest.parts(), ..Randomization::of_all(weight) }, now);
                self.grant();
            }
            () if weight == Weight::ZERO => self.draw.new_below = self.draw.from,
            () if weight < was && weight.parts() > self.draw.from && self.draw.new_below > weight.parts() => {
                self.thin(weight);
            }
            () => self.draw_again(now),
        }
    }

    /// Keeps all evidence of this draw and adds a budget, as long as there are any left.
    fn grant(&mut self) {
        let budget = self.raises_left > 0;
        self.raises_left = self.raises_left.saturating_sub(1);
        let mass = std::mem::replace(&mut self.mass, 1.0);
        self.scopes().for_each(|scope| {
            scope.first.grant(mass, budget);
            scope.once.grant(mass, budget);
        });
    }

    /// Sets the strata. All users are drawn again.
    pub fn stratify(&mut self, strata: usize, now: Duration) {
        self.forget_what_is_on_its_way();
        self.draw_again(now);
        self.settings.strata = strata;
        self.strata = (0..apart(strata)).map(|_| TestScope::new(STRATUM_SHIFT)).collect();
    }

    fn forget_what_is_on_its_way(&mut self) {
        self.open.clear();
        self.held.clear();
        self.outlasted.clear();
        self.intervals.iter_mut().for_each(|i| i.waiting = 0);
        self.scopes().for_each(|scope| scope.first.forget());
    }

    fn draw_again(&mut self, now: Duration) {
        let drawn = Signal::ALL.map(|signal| self.drawn(signal));
        self.carried.iter_mut().zip(drawn).for_each(|(carried, won)| *carried += won);
        self.carried[NOTICE] += self.drawn_notice();
        self.again += 1.0;
        // 1/2, 1/6, 1/12, …: the sum is 1, and the hundredth draw still has a ten-thousandth.
        self.mass = 1.0 / (self.again * (self.again + 1.0));
        self.begin(Randomization::of_all(self.weight), now);
        self.scopes().for_each(|scope| {
            (scope.first, scope.once) = (FirstRequestTest::default(), FirstEventTest::default());
        });
    }

    /// Starts a draw whose users have not been seen yet.
    fn begin(&mut self, draw: Randomization, now: Duration) {
        (self.draw, self.drawn_at, self.drawn_before) = (draw, now, Duration::ZERO);
        for interval in &mut self.intervals {
            interval.entered.fill(PerArm::default());
            interval.bad.clear();
            interval.scored.clear();
        }
        self.scopes().for_each(|scope| {
            scope.once.restart();
            scope.marks.clear();
        });
        self.windows.wave(draw.split());
        self.detection_limit = None;
    }

    /// Users from this weight on have left `new`, and leave the comparison.
    fn thin(&mut self, weight: Weight) {
        let share = self.draw.share();
        for i in 0..self.intervals.len() {
            let cohort = self.cohort(self.oldest + i as u64);
            let entered = std::mem::take(&mut self.intervals[i].entered);
            let scopes = std::iter::once(&mut self.pooled).chain(&mut self.strata);
            for (scope, users) in scopes.zip(entered) {
                scope.once.entered(cohort, users, share);
            }
        }
        let leavers = Randomization { from: weight.parts(), ..self.draw };
        self.scopes().for_each(|scope| {
            let leave: Vec<_> =
                scope.marks.iter().filter(|(unit, _)| leavers.side(*unit) == Some(Arm::New)).collect();
            for (unit, mark) in leave {
                scope.once.leave(mark, Arm::New);
                *scope.marks.at(unit) = UserMark::default();
            }
        });
        self.draw.new_below = weight.parts();
        self.windows.thin(self.draw.split());
    }
}
