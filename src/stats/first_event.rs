//! ONCE: a log-rank test over users, of the *first* failure, first client error, first very slow
//! answer of each user in the draw.
//!
//! Users join a *cohort* when they enter (see [`entry_cohort`]). When the cohort closes, the totals
//! of its labels are revealed and its events so far are scored as one table.
//! From then on each first event is a draw without replacement from all users of the cohort who are
//! still clean, whether they came in this interval or not.
//! The risk set only shrinks, by the scored events.
//!
//! Two simpler forms are not valid:
//!
//! - A risk set of the clean users *of this interval*: users who come often and never fail would be
//!   controls again and again. If chance put few of them into `new`, each failure of other users
//!   would count too much (the mean of E is above 1 and grows without bound; a test holds the
//!   counter-example).
//! - Users who enter a cohort while its events are scored: that reveals each entrant's label before
//!   it is drawn.
//!
//! A cohort whose share of `new` differs from the drawn share beyond chance is left out: part of
//! `new` stayed away for a while, so the users of a bad hour are not like the rest of the cohort.
//! The imbalance that is left in cannot trip by itself: three standard deviations of labels are
//! worth 4.5 nats at most. (The rule reads only totals of labels, and each table is fair whatever
//! they are.)
//!
//! A slow user is no longer clean, by the same threshold in both arms. Whether the event counts
//! against `new` depends on the tolerance.
//! If users of `new` were clean until their event counts, its frequent users would stay clean
//! longer than stable's, and would count against `new` when both arms are slow (identical versions
//! tripped in 10% of runs).
//! A user whose event does not count stays in the risk set. Otherwise a `new` that is slower within
//! the tolerance would lose its many users who are rarely slower, and keep the few who often are.
//! A `new` that *is* faster, or fails less, for a while also has more clean users who may have
//! their event later (see `Deficit`).
//!
//! Invariants: a user has each kind of event once in a draw; tables are final when they are scored;
//! closing depends on totals and the clock only; counted events are a subset of the events.

use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::e_process::EProcess;
use crate::stats::engine::{ERROR_ODDS, LEVELS};
use crate::stats::first_request::EXPECTED_MIN;
use crate::stats::hypergeometric_bet::{Bet, PerArm, cell};
use std::ops::AddAssign;
use std::time::Duration;

/// Standard deviations by which a cohort's share of `new` may differ from the drawn share.
const DRIFT_Z: f64 = 3.0;
/// Entry cohorts in a draw.
pub const COHORTS: usize = 32;
/// Odds ratios of a first very slow answer, one alternative each.
pub const SLOW_ODDS: [f64; 4] = [1.5, 3.0, 10.0, 50.0];

/// An event that can happen to a user for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstEventKind {
    Failed,
    ClientError,
    /// Slower than p98, and than p99.9, of stable, by level.
    Slow98(usize),
    Slow999(usize),
    Redirected,
    /// The whole exchange took longer than stable's p99.
    Long,
    /// The body is empty, or far smaller than usual.
    Empty,
}

/// Number of kinds: two for each level, and five.
pub const KINDS: usize = 5 + 2 * LEVELS;

impl FirstEventKind {
    pub fn index(self) -> usize {
        match self {
            FirstEventKind::Failed => 0,
            FirstEventKind::ClientError => 1,
            FirstEventKind::Slow98(level) => 2 + 2 * level,
            FirstEventKind::Slow999(level) => 3 + 2 * level,
            FirstEventKind::Redirected => 2 + 2 * LEVELS,
            FirstEventKind::Empty => 3 + 2 * LEVELS,
            FirstEventKind::Long => 4 + 2 * LEVELS,
        }
    }
}

/// A set of kinds, as bits by [`FirstEventKind::index`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstEventKinds(pub u16);

/// The effect of one request on its user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstEvents {
    /// The user is no longer clean of these kinds.
    pub all: FirstEventKinds,
    /// The events of these kinds count against the arm.
    pub counted: FirstEventKinds,
}

impl From<FirstEventKinds> for FirstEvents {
    fn from(kinds: FirstEventKinds) -> FirstEvents {
        FirstEvents { all: kinds, counted: kinds }
    }
}

impl FirstEventKinds {
    pub fn with(self, kind: FirstEventKind) -> FirstEventKinds {
        FirstEventKinds(self.0 | 1 << kind.index())
    }

    pub fn has(self, kind: FirstEventKind) -> bool {
        self.0 & 1 << kind.index() != 0
    }

    pub fn without(self, kinds: &[FirstEventKind]) -> FirstEventKinds {
        kinds.iter().fold(self, |left, kind| FirstEventKinds(left.0 & !(1 << kind.index())))
    }
}

/// The state of a user in a draw: the low six bits are the entry cohort + 1 (0: not seen), the
/// others the kinds of events so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UserMark(u16);

const COHORT_BITS: u16 = 6;
/// Entered after the last cohort had closed.
const COHORT_NONE: u16 = COHORTS as u16 + 1;

impl UserMark {
    pub fn entered(cohort: Option<usize>) -> UserMark {
        UserMark(cohort.map_or(COHORT_NONE, |c| c as u16 + 1))
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn from_bits(bits: u16) -> UserMark {
        UserMark(bits)
    }

    pub fn seen(self) -> bool {
        self.0 != 0
    }

    fn cohort(self) -> Option<usize> {
        let code = self.0 & ((1 << COHORT_BITS) - 1);
        (code != 0 && code != COHORT_NONE).then(|| usize::from(code) - 1)
    }

    fn kinds(self) -> FirstEventKinds {
        FirstEventKinds(self.0 >> COHORT_BITS)
    }

    pub fn has_any(self, kinds: &[FirstEventKind]) -> bool {
        kinds.iter().any(|kind| self.kinds().has(*kind))
    }

    /// The mark without these kinds of events.
    pub fn without(self, kinds: &[FirstEventKind]) -> UserMark {
        UserMark(self.0 & ((1 << COHORT_BITS) - 1) | self.kinds().without(kinds).0 << COHORT_BITS)
    }

    /// Marks the kinds and returns those that are new.
    fn had(&mut self, kinds: FirstEventKinds) -> FirstEventKinds {
        let new = kinds.0 << COHORT_BITS & !self.0;
        self.0 |= new;
        FirstEventKinds(new >> COHORT_BITS)
    }
}

/// The cohort of users who enter at this age of the draw.
/// Each cohort is longer than the one before by √2, so that at any time most users are in closed
/// cohorts.
/// `None` after about eighteen hours: such users count in FIRST only.
///
/// Call it once per interval, with its start: all users who enter in an interval belong to one
/// cohort.
pub fn entry_cohort(age_of_draw: Duration) -> Option<usize> {
    let seconds = u128::from(age_of_draw.as_secs().min(1 << 40)) + 1;
    let cohort = (seconds * seconds).ilog2() as usize;
    (cohort < COHORTS).then_some(cohort)
}

#[derive(Clone, Debug)]
pub struct FirstEventTest {
    /// The cohort that users enter now.
    open: usize,
    /// The group of each cohort: a cohort too small to be judged joins the next one.
    group_of: [usize; COHORTS],
    closed: [bool; COHORTS],
    /// Users entered so far, by group.
    entered: [PerArm; COHORTS],
    kinds: [KindEvidence; KINDS],
}

#[derive(Clone, Debug)]
struct KindEvidence {
    mixture: EProcess,
    spared: Deficit,
    /// Scored events, by group.
    had: [EndedUsers; COHORTS],
    /// Events since the group was opened, not scored yet.
    waiting: [EndedUsers; COHORTS],
    /// Events of the present interval.
    now: [EndedUsers; COHORTS],
}

/// Users who are no longer clean, and those of them whose event counts.
#[derive(Clone, Copy, Debug, Default)]
struct EndedUsers {
    all: PerArm,
    counted: PerArm,
}

impl EndedUsers {
    fn capped(self, by: PerArm) -> EndedUsers {
        let all = self.all.capped(by);
        EndedUsers { all, counted: self.counted.capped(all) }
    }
}

impl AddAssign for EndedUsers {
    fn add_assign(&mut self, other: EndedUsers) {
        self.all += other.all;
        self.counted += other.counted;
    }
}

impl EndedUsers {
    /// The table of `now`, for these users `entered`.
    fn table(self, entered: PerArm, now: EndedUsers) -> RiskTable {
        let (mut clean, mut at_risk) = (entered, entered);
        clean.take(self.all);
        at_risk.take(self.counted);
        RiskTable { clean, at_risk, ended: now.capped(clean) }
    }
}

/// One table: the clean users, the risk set, and the events.
#[derive(Clone, Copy, Default)]
struct RiskTable {
    clean: PerArm,
    at_risk: PerArm,
    ended: EndedUsers,
}

/// Expected minus observed events in `new`.
/// That many more users of `new` than of stable are still clean and prone to the event, and a
/// common incident then affects them.
/// Up to this number, excess events of `new` are counted as stable's. This makes a bet smaller,
/// whatever the table, so it stays valid.
/// A chance difference is not counted, because it would cost power.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Deficit {
    expected: f64,
    variance: f64,
    ended: f64,
}

/// Standard deviations that count as chance. With more, late events of spared users could win a
/// bet; with fewer, power is lost needlessly.
const SPARED_Z: f64 = 1.0;

impl Deficit {
    fn now(&self) -> f64 {
        (self.expected - self.ended - SPARED_Z * self.variance.sqrt()).max(0.0)
    }

    /// Takes the tables of a moment, and moves late events of spared users from `new` to stable.
    fn settle(&mut self, tables: &mut [RiskTable]) {
        let spared = self.now();
        let before = self.expected - self.ended;
        for RiskTable { clean, ended, .. } in tables.iter() {
            let (n, k) = (clean.total() as f64, ended.all.total() as f64);
            let share = clean.new as f64 / n.max(1.0);
            self.expected += k * share;
            self.variance += k * share * (1.0 - share) * (n - k) / (n - 1.0).max(1.0);
            self.ended += ended.all.new as f64;
        }
        let excess = (before - (self.expected - self.ended)).max(0.0);
        let mut owed = spared.min(excess).ceil() as u64;
        for RiskTable { ended, .. } in tables {
            let n = owed.min(ended.counted.new);
            ended.counted.new -= n;
            ended.counted.stable += n;
            owed -= n;
        }
    }

    fn save(&self, encoder: &mut Encoder) {
        [self.expected, self.variance, self.ended].into_iter().for_each(|v| encoder.f64(v));
    }

    fn restore(decoder: &mut Decoder<'_>) -> Option<Deficit> {
        Some(Deficit { expected: decoder.f64()?, variance: decoder.f64()?, ended: decoder.f64()? })
    }
}

fn odds(kind: usize) -> &'static [f64] {
    let slow = 2..2 + 2 * LEVELS;
    if slow.contains(&kind) || kind == FirstEventKind::Long.index() { &SLOW_ODDS } else { &ERROR_ODDS }
}

impl Default for FirstEventTest {
    fn default() -> Self {
        FirstEventTest {
            open: 0,
            group_of: [0; COHORTS],
            closed: [false; COHORTS],
            entered: Default::default(),
            kinds: std::array::from_fn(|kind| KindEvidence::new(EProcess::new(odds(kind).len()))),
        }
    }
}

impl FirstEventTest {
    /// Starts another draw: all users are unseen again. The wealth stays.
    pub fn restart(&mut self) {
        let old = std::mem::take(self);
        for (of, was) in self.kinds.iter_mut().zip(old.kinds) {
            of.mixture = was.mixture;
        }
    }

    /// Resets one kind: no user has had it.
    pub fn restart_kind(&mut self, kind: FirstEventKind, budget: bool) {
        let of = &mut self.kinds[kind.index()];
        of.mixture.restart(budget);
        *of = KindEvidence::new(std::mem::replace(&mut of.mixture, EProcess::new(0)));
    }

    pub fn grant(&mut self, mass: f64, budget: bool) {
        self.kinds.iter_mut().for_each(|of| of.mixture.grant(mass, budget));
    }

    /// Removes a user from the comparison.
    pub fn leave(&mut self, mark: UserMark, arm: Arm) {
        let Some(cohort) = mark.cohort() else { return };
        let group = self.group_of[cohort];
        let one = |of: &mut PerArm| *of.of(arm) = of.of(arm).saturating_sub(1);
        one(&mut self.entered[group]);
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            match (mark.kinds().0 >> kind & 1 == 1, self.closed[group]) {
                (false, _) => {}
                // Whether the event counted is not stored. To assume that it did favours `new`.
                (true, closed) => {
                    let ended = if closed { &mut of.had[group] } else { &mut of.waiting[group] };
                    [&mut ended.all, &mut ended.counted].into_iter().for_each(one);
                }
            }
        }
    }

    /// Users of one cohort entered in an interval. Earlier cohorts close.
    /// `None`: the last cohort has closed.
    pub fn entered(&mut self, cohort: Option<usize>, users: PerArm, share: f64) {
        self.close_until(cohort.unwrap_or(COHORTS), share);
        if let Some(cohort) = cohort.filter(|c| *c < COHORTS) {
            self.entered[self.group_of[cohort]] += users;
        }
    }

    /// The clock of the draw has reached this cohort, so earlier ones close. A cohort too small to
    /// be judged continues in the next.
    fn close_until(&mut self, cohort: usize, share: f64) {
        while self.open < cohort.min(COHORTS) {
            let group = self.group_of[self.open];
            let n = self.entered[group].total() as f64;
            let closes = n * share >= EXPECTED_MIN && n * (1.0 - share) >= EXPECTED_MIN;
            if closes {
                self.closed[group] = true;
                let off = self.entered[group].new as f64 - n * share;
                if off.abs() > DRIFT_Z * (n * share * (1.0 - share)).sqrt() {
                    self.entered[group] = PerArm::default();
                }
                let users = self.entered[group];
                for (kind, of) in self.kinds.iter_mut().enumerate() {
                    let table = of.had[group].table(users, std::mem::take(&mut of.waiting[group]));
                    of.had[group] += table.ended;
                    of.bet(odds(kind), &mut [table]);
                }
            }
            self.open += 1;
            if self.open < COHORTS {
                self.group_of[self.open] = if closes { self.open } else { group };
            }
        }
    }

    /// Takes the events of a request of a final interval.
    pub fn event(&mut self, mark: &mut UserMark, arm: Arm, ends: FirstEvents) {
        let Some(cohort) = mark.cohort() else { return };
        let new = mark.had(ends.all);
        if new == FirstEventKinds::default() {
            return;
        }
        let group = self.group_of[cohort];
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            let now = &mut of.now[group];
            *now.all.of(arm) += u64::from(new.0 >> kind & 1);
            *now.counted.of(arm) += u64::from((new.0 & ends.counted.0) >> kind & 1);
        }
    }

    /// Scores the events of the gathered interval, as disjoint draws of one moment.
    pub fn score(&mut self) {
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            let mut tables = [RiskTable::default(); COHORTS];
            let mut n = 0;
            for group in 0..COHORTS {
                let ended = std::mem::take(&mut of.now[group]);
                if ended.all.total() == 0 {
                    continue;
                }
                if self.closed[group] {
                    tables[n] = of.had[group].table(self.entered[group], ended);
                    of.had[group] += tables[n].ended;
                    n += 1;
                } else {
                    of.waiting[group] += ended;
                }
            }
            of.bet(odds(kind), &mut tables[..n]);
        }
    }

    /// `entering`: users seen in intervals that are not final yet, with their cohorts.
    pub fn save(&self, encoder: &mut Encoder, entering: &[(Option<usize>, PerArm)], share: f64) {
        let mut of = self.clone();
        entering.iter().for_each(|(cohort, users)| of.entered(*cohort, *users, share));
        encoder.u64(of.open as u64);
        for group in 0..COHORTS {
            encoder.u16(of.group_of[group] as u16);
            encoder.u16(u16::from(of.closed[group]));
            of.entered[group].save(encoder);
        }
        for kind in &of.kinds {
            kind.mixture.save(encoder);
            kind.spared.save(encoder);
            let ended = kind.had.iter().chain(&kind.waiting);
            ended.flat_map(|of| [of.all, of.counted]).for_each(|pair| pair.save(encoder));
        }
    }

    pub fn restore(decoder: &mut Decoder<'_>) -> Option<FirstEventTest> {
        let mut once = FirstEventTest {
            open: usize::try_from(decoder.u64()?).ok()?.min(COHORTS),
            ..FirstEventTest::default()
        };
        for group in 0..COHORTS {
            once.group_of[group] = usize::from(decoder.u16()?).min(COHORTS - 1);
            once.closed[group] = decoder.u16()? != 0;
            once.entered[group] = PerArm::restore(decoder)?;
        }
        for (kind, of) in once.kinds.iter_mut().enumerate() {
            of.mixture = EProcess::restore(decoder, odds(kind).len())?;
            of.spared = Deficit::restore(decoder)?;
            for ended in of.had.iter_mut().chain(&mut of.waiting) {
                *ended = EndedUsers { all: PerArm::restore(decoder)?, counted: PerArm::restore(decoder)? };
            }
        }
        Some(once)
    }

    pub fn mixture(&self, kind: FirstEventKind) -> &EProcess {
        &self.kinds[kind.index()].mixture
    }

    /// Clean users of closed cohorts: those who can still be evidence.
    pub fn clean(&self, kind: FirstEventKind) -> PerArm {
        let of = &self.kinds[kind.index()];
        let mut sum = PerArm::default();
        for group in (0..COHORTS).filter(|g| self.closed[*g]) {
            let mut users = self.entered[group];
            users.take(of.had[group].all);
            sum += users;
        }
        sum
    }
}

impl KindEvidence {
    fn new(mixture: EProcess) -> KindEvidence {
        KindEvidence {
            mixture,
            spared: Deficit::default(),
            had: Default::default(),
            waiting: Default::default(),
            now: Default::default(),
        }
    }

    /// Bets on tables that are disjoint draws of one moment.
    fn bet(&mut self, odds: &[f64], tables: &mut [RiskTable]) {
        self.spared.settle(tables);
        if tables.iter().all(|table| table.ended.counted.total() == 0) {
            return;
        }
        for (row, odds) in odds.iter().enumerate() {
            let mut sum = Bet::default();
            for RiskTable { at_risk, ended, .. } in &*tables {
                sum += cell(*at_risk, ended.counted, odds.ln());
            }
            self.mixture.push(row, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E of failures for a cohort with these labels, whose users failed while it was open, or after
    /// it closed (`late`).
    fn after(users: PerArm, failed: PerArm, late: bool) -> f64 {
        let mut once = FirstEventTest::default();
        once.entered(Some(0), users, 0.2);
        let fail = |once: &mut FirstEventTest| {
            for (arm, n) in [(Arm::New, failed.new), (Arm::Stable, failed.stable)] {
                for _ in 0..n {
                    once.event(
                        &mut UserMark::entered(Some(0)),
                        arm,
                        FirstEventKinds::default().with(FirstEventKind::Failed).into(),
                    );
                }
            }
            once.score();
        };
        if !late {
            fail(&mut once);
        }
        once.entered(Some(9), PerArm::default(), 0.2);
        if late {
            fail(&mut once);
        }
        once.mixture(FirstEventKind::Failed).mean()
    }

    /// Of 10,000 users, 20% are in `new`. Each moment has these events, of which so many of `new`
    /// count.
    /// Returns the highest wealth after each moment.
    fn moments(of: &[(PerArm, u64)]) -> Vec<f64> {
        let mut once = FirstEventTest::default();
        once.entered(Some(0), PerArm::new(2000, 8000), 0.2);
        once.entered(Some(9), PerArm::default(), 0.2);
        let slow = FirstEventKinds::default().with(FirstEventKind::Slow999(0));
        let tolerated = FirstEvents { all: slow, counted: FirstEventKinds::default() };
        of.iter()
            .map(|(ended, counted)| {
                let mut end = |arm, n, ends| {
                    (0..n).for_each(|_| once.event(&mut UserMark::entered(Some(0)), arm, ends))
                };
                end(Arm::New, *counted, slow.into());
                end(Arm::New, ended.new - counted, tolerated);
                end(Arm::Stable, ended.stable, slow.into());
                once.score();
                once.mixture(FirstEventKind::Slow999(0)).wealth().iter().copied().fold(0.0, f64::max)
            })
            .collect()
    }

    /// 500 users are busy in both hours of a common incident. The others rarely come.
    #[test]
    fn a_trouble_that_both_have_twice_blames_nobody() {
        // First hour: two thirds of the busy users are slow, in `new` half of them beyond the
        // tolerance. Second hour: all others.
        assert!(moments(&[(PerArm::new(67, 267), 33), (PerArm::new(33, 133), 33)])[1] < 2.0);
        // `new` was better than stable in the first hour, and has as many events in the second as
        // stable had in both.
        assert!(moments(&[(PerArm::new(20, 267), 20), (PerArm::new(80, 133), 80)])[1] < 10.0);
        assert!(moments(&[(PerArm::new(0, 400), 0), (PerArm::new(100, 0), 100)])[1] < 10.0);
    }

    /// Most of `new` is slow within the tolerance once. A few users of both arms are slow beyond it
    /// repeatedly.
    #[test]
    fn who_is_slow_within_the_tolerance_leaves_nobody_to_blame() {
        let rare = vec![(PerArm::new(5, 20), 5); 10];
        assert!(moments(&[vec![(PerArm::new(1500, 0), 0)], rare].concat())[10] < 2.0);
    }

    #[test]
    fn what_new_was_spared_hides_no_trouble_of_its_own() {
        assert!(moments(&[(PerArm::new(20, 267), 20), (PerArm::new(250, 133), 250)])[1] > 1e4);
        // Much of `new` was slow within the tolerance for long. It has no credit for that.
        let long = vec![(PerArm::new(1, 4), 0); 200];
        assert!(moments(&[long, vec![(PerArm::new(60, 60), 60)]].concat())[200] > 1e4);
    }

    /// Half of `new` stayed away at first. Then all users came, and failed as often as in stable.
    #[test]
    fn a_cohort_of_which_some_stayed_away_says_nothing() {
        for late in [false, true] {
            assert!(after(PerArm::new(2000, 8000), PerArm::new(200, 400), late) > 1e6);
            assert!(after(PerArm::new(1400, 8600), PerArm::new(200, 800), late) < 1.0);
            assert!(after(PerArm::new(2600, 7400), PerArm::new(200, 100), late) < 1.0);
        }
    }
}
