//! ONCE: a user's *first* failure, first client error, first very slow answer of the draw: a
//! log-rank test over users.
//!
//! Users are put into a *cohort* when they enter (see [`entry_cohort`]). Once the cohort has
//! closed, its labels' totals are revealed, its events so far are scored as one table, and from
//! then on each user's first event is a draw without replacement from all of the cohort's users who
//! are still clean, whether they came in this interval or not. The set only ever shrinks by what
//! was scored.
//!
//! Two forms that look simpler are not valid. To take as "at risk" the clean users *of this
//! interval* lets users who come often and never fail be the control again and again: if chance put
//! few of them into `new`, every failure of others counts too much (mean of E above 1, growing
//! without bound; a test holds the counter-example). To let users enter an open cohort while its
//! events are scored, as the reference does, reveals each entrant's label before it is drawn.
//!
//! A cohort whose labels are not the share that was drawn, beyond chance, is left out: part of
//! `new` did not come for a while, so whoever came in a bad hour is not like the rest of the
//! cohort. What is left in, however bad the hour, cannot trip by that alone: three standard
//! deviations of labels are worth 4.5 nats at most. (Only totals of labels are looked at, and each
//! table is fair whatever they are.)
//!
//! Whoever has been slow is no longer clean, by the same clock in both arms; whether it counts as
//! an event of `new` is asked with its tolerance. Were he clean until it counts, those of `new` who
//! come often would stay clean for longer than those of stable, and be held against it when all is
//! slow for both (identical versions tripped in a tenth of runs). If it does not count, he stays
//! among those at risk all the same: a `new` that is slower within the tolerance would lose its
//! many users who are hardly ever that slow, and be left with the few who are. The same as of the
//! first comes of a `new` that *is* quicker, or fails less, for a while: what its users were spared
//! they may catch up on (see `Spared`).
//!
//! Invariants: a user has each kind of event once in a draw; tables are final when they are scored;
//! closing looks at totals and the clock only; what counts is never more than what ended.

use super::cell::{Bet, Pair, cell};
use super::first::EXPECTED_MIN;
use super::mixture::Mixture;
use super::save::{Eye, Pen};
use super::{ERROR_ODDS, LEVELS};
use crate::domain::decide::Arm;
use std::ops::AddAssign;
use std::time::Duration;

/// Standard deviations by which a cohort's share of `new` may be off.
const DRIFT_Z: f64 = 3.0;
/// Cohorts of entry in a draw.
pub const COHORTS: usize = 32;
/// Odds of a first very slow answer.
pub const SLOW_ODDS: [f64; 4] = [1.5, 3.0, 10.0, 50.0];

/// What can happen to a user for the first time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Failed,
    ClientError,
    /// Slower than p98, and than p99.9, of stable: by level.
    Slow98(usize),
    Slow999(usize),
    Redirected,
    /// The whole exchange took longer than p99 of stable's.
    Long,
    /// The body is empty, or far smaller than usual.
    Empty,
}

/// All kinds: two of each level, and five.
pub const KINDS: usize = 5 + 2 * LEVELS;

impl Kind {
    pub fn index(self) -> usize {
        match self {
            Kind::Failed => 0,
            Kind::ClientError => 1,
            Kind::Slow98(level) => 2 + 2 * level,
            Kind::Slow999(level) => 3 + 2 * level,
            Kind::Redirected => 2 + 2 * LEVELS,
            Kind::Empty => 3 + 2 * LEVELS,
            Kind::Long => 4 + 2 * LEVELS,
        }
    }
}

/// A set of kinds, as bits by [`Kind::index`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds(pub u16);

/// What one request did to its user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    /// Of these kinds he is clean no longer.
    pub all: Kinds,
    /// And these speak against his arm.
    pub counted: Kinds,
}

impl From<Kinds> for Ends {
    fn from(kinds: Kinds) -> Ends {
        Ends { all: kinds, counted: kinds }
    }
}

impl Kinds {
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind.index())
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind.index() != 0
    }

    pub fn without(self, kinds: &[Kind]) -> Kinds {
        kinds.iter().fold(self, |left, kind| Kinds(left.0 & !(1 << kind.index())))
    }
}

/// What a draw remembers of a user: low six bits the cohort of entry + 1 (0: not seen), then the
/// kinds he has had.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mark(u16);

const COHORT_BITS: u16 = 6;
/// Entered after the last cohort had closed.
const COHORT_NONE: u16 = COHORTS as u16 + 1;

impl Mark {
    pub fn entered(cohort: Option<usize>) -> Mark {
        Mark(cohort.map_or(COHORT_NONE, |c| c as u16 + 1))
    }

    pub fn bits(self) -> u16 {
        self.0
    }

    pub fn from_bits(bits: u16) -> Mark {
        Mark(bits)
    }

    pub fn seen(self) -> bool {
        self.0 != 0
    }

    fn cohort(self) -> Option<usize> {
        let code = self.0 & ((1 << COHORT_BITS) - 1);
        (code != 0 && code != COHORT_NONE).then(|| usize::from(code) - 1)
    }

    fn kinds(self) -> Kinds {
        Kinds(self.0 >> COHORT_BITS)
    }

    pub fn has_any(self, kinds: &[Kind]) -> bool {
        kinds.iter().any(|kind| self.kinds().has(*kind))
    }

    /// As if he had not had them.
    pub fn without(self, kinds: &[Kind]) -> Mark {
        Mark(self.0 & ((1 << COHORT_BITS) - 1) | self.kinds().without(kinds).0 << COHORT_BITS)
    }

    /// Marks the kinds; gives those that are new.
    fn had(&mut self, kinds: Kinds) -> Kinds {
        let new = kinds.0 << COHORT_BITS & !self.0;
        self.0 |= new;
        Kinds(new >> COHORT_BITS)
    }
}

/// The cohort of users who enter at this age of the draw: each is longer by √2 than the one before,
/// so that most users are in closed ones at any time. `None` after some eighteen hours: such users
/// count in FIRST only.
///
/// To be asked once per interval (with its start), not per request: all who enter in an interval
/// are of one cohort.
pub fn entry_cohort(age_of_draw: Duration) -> Option<usize> {
    let seconds = u128::from(age_of_draw.as_secs().min(1 << 40)) + 1;
    let cohort = (seconds * seconds).ilog2() as usize;
    (cohort < COHORTS).then_some(cohort)
}

#[derive(Clone, Debug)]
pub struct Once {
    /// The cohort that is entering now.
    open: usize,
    /// Cohorts too small to be judged are one with the next: which one each belongs to.
    group_of: [usize; COHORTS],
    closed: [bool; COHORTS],
    /// Entered so far, by group.
    entered: [Pair; COHORTS],
    kinds: [Of; KINDS],
}

#[derive(Clone, Debug)]
struct Of {
    mixture: Mixture,
    spared: Spared,
    /// Not clean any more, by group, as far as scored.
    had: [Ended; COHORTS],
    /// Since the group was opened; not scored yet.
    waiting: [Ended; COHORTS],
    /// Of the interval that is being gathered.
    now: [Ended; COHORTS],
}

/// Users who are clean no longer, and those of them whose event counts.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    all: Pair,
    counted: Pair,
}

impl Ended {
    fn capped(self, by: Pair) -> Ended {
        let all = self.all.capped(by);
        Ended { all, counted: self.counted.capped(all) }
    }
}

impl AddAssign for Ended {
    fn add_assign(&mut self, other: Ended) {
        self.all += other.all;
        self.counted += other.counted;
    }
}

impl Ended {
    /// Of so many users: who can still end, and what ends now.
    fn table(self, entered: Pair, now: Ended) -> Table {
        let (mut clean, mut at_risk) = (entered, entered);
        clean.take(self.all);
        at_risk.take(self.counted);
        Table { clean, at_risk, ended: now.capped(clean) }
    }
}

/// One table: users who were clean, all who are at risk, and what became of them.
#[derive(Clone, Copy, Default)]
struct Table {
    clean: Pair,
    at_risk: Pair,
    ended: Ended,
}

/// By how many the users of `new` who are clean no longer are fewer than the labels' law expects:
/// so many more of them than of stable's are left who are about to be, and when all have trouble,
/// they are. Events in excess, up to that, are taken for stable's: that makes a bet smaller,
/// whatever the table, so it stays fair. What chance brings is not counted, or each good turn of
/// the dice would cost power.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Spared {
    expected: f64,
    variance: f64,
    ended: f64,
}

/// Standard deviations that may be chance. More, and what is caught up on would be worth a bet;
/// fewer, and power is lost for nothing.
const SPARED_Z: f64 = 1.0;

impl Spared {
    fn now(&self) -> f64 {
        (self.expected - self.ended - SPARED_Z * self.variance.sqrt()).max(0.0)
    }

    /// Takes the tables of a moment; what is caught up on in them is no longer of `new`.
    fn settle(&mut self, tables: &mut [Table]) {
        let spared = self.now();
        let before = self.expected - self.ended;
        for Table { clean, ended, .. } in tables.iter() {
            let (n, k) = (clean.total() as f64, ended.all.total() as f64);
            let share = clean.new as f64 / n.max(1.0);
            self.expected += k * share;
            self.variance += k * share * (1.0 - share) * (n - k) / (n - 1.0).max(1.0);
            self.ended += ended.all.new as f64;
        }
        let excess = (before - (self.expected - self.ended)).max(0.0);
        let mut owed = spared.min(excess).ceil() as u64;
        for Table { ended, .. } in tables {
            let n = owed.min(ended.counted.new);
            ended.counted.new -= n;
            ended.counted.stable += n;
            owed -= n;
        }
    }

    fn save(&self, pen: &mut Pen) {
        [self.expected, self.variance, self.ended].into_iter().for_each(|v| pen.f64(v));
    }

    fn restore(eye: &mut Eye<'_>) -> Option<Spared> {
        Some(Spared { expected: eye.f64()?, variance: eye.f64()?, ended: eye.f64()? })
    }
}

fn odds(kind: usize) -> &'static [f64] {
    let slow = 2..2 + 2 * LEVELS;
    if slow.contains(&kind) || kind == Kind::Long.index() { &SLOW_ODDS } else { &ERROR_ODDS }
}

impl Default for Once {
    fn default() -> Self {
        Once {
            open: 0,
            group_of: [0; COHORTS],
            closed: [false; COHORTS],
            entered: Default::default(),
            kinds: std::array::from_fn(|kind| Of::new(Mixture::new(odds(kind).len()))),
        }
    }
}

impl Once {
    /// Another draw: all users are unseen again. What was won stays.
    pub fn restart(&mut self) {
        let old = std::mem::take(self);
        for (of, was) in self.kinds.iter_mut().zip(old.kinds) {
            of.mixture = was.mixture;
        }
    }

    /// One kind starts anew: nobody has had it.
    pub fn restart_kind(&mut self, kind: Kind, budget: bool) {
        let of = &mut self.kinds[kind.index()];
        of.mixture.restart(budget);
        *of = Of::new(std::mem::replace(&mut of.mixture, Mixture::new(0)));
    }

    pub fn grant(&mut self, mass: f64, budget: bool) {
        self.kinds.iter_mut().for_each(|of| of.mixture.grant(mass, budget));
    }

    /// A user leaves the comparison.
    pub fn leave(&mut self, mark: Mark, arm: Arm) {
        let Some(cohort) = mark.cohort() else { return };
        let group = self.group_of[cohort];
        let one = |of: &mut Pair| *of.of(arm) = of.of(arm).saturating_sub(1);
        one(&mut self.entered[group]);
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            match (mark.kinds().0 >> kind & 1 == 1, self.closed[group]) {
                (false, _) => {}
                // Whether his event counted is not remembered; as if it had is the side on which
                // `new` is not blamed.
                (true, closed) => {
                    let ended = if closed { &mut of.had[group] } else { &mut of.waiting[group] };
                    [&mut ended.all, &mut ended.counted].into_iter().for_each(one);
                }
            }
        }
    }

    /// Users who entered in an interval, all of one cohort; those before it close. `None`: the last
    /// one has closed.
    pub fn entered(&mut self, cohort: Option<usize>, users: Pair, share: f64) {
        self.close_until(cohort.unwrap_or(COHORTS), share);
        if let Some(cohort) = cohort.filter(|c| *c < COHORTS) {
            self.entered[self.group_of[cohort]] += users;
        }
    }

    /// The clock of the draw has come to this cohort: those before it close. One too small to be
    /// judged goes on into the next.
    fn close_until(&mut self, cohort: usize, share: f64) {
        while self.open < cohort.min(COHORTS) {
            let group = self.group_of[self.open];
            let n = self.entered[group].total() as f64;
            let closes = n * share >= EXPECTED_MIN && n * (1.0 - share) >= EXPECTED_MIN;
            if closes {
                self.closed[group] = true;
                let off = self.entered[group].new as f64 - n * share;
                if off.abs() > DRIFT_Z * (n * share * (1.0 - share)).sqrt() {
                    self.entered[group] = Pair::default();
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

    /// A request of a final interval did this.
    pub fn event(&mut self, mark: &mut Mark, arm: Arm, ends: Ends) {
        let Some(cohort) = mark.cohort() else { return };
        let new = mark.had(ends.all);
        if new == Kinds::default() {
            return;
        }
        let group = self.group_of[cohort];
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            let now = &mut of.now[group];
            *now.all.of(arm) += u64::from(new.0 >> kind & 1);
            *now.counted.of(arm) += u64::from((new.0 & ends.counted.0) >> kind & 1);
        }
    }

    /// The interval has been gathered: its events are scored, as disjoint draws of one moment.
    pub fn score(&mut self) {
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            let mut tables = [Table::default(); COHORTS];
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

    /// `entering`: users seen in intervals that are not final yet, and the cohort of each.
    pub fn save(&self, pen: &mut Pen, entering: &[(Option<usize>, Pair)], share: f64) {
        let mut of = self.clone();
        entering.iter().for_each(|(cohort, users)| of.entered(*cohort, *users, share));
        pen.u64(of.open as u64);
        for group in 0..COHORTS {
            pen.u16(of.group_of[group] as u16);
            pen.u16(u16::from(of.closed[group]));
            of.entered[group].save(pen);
        }
        for kind in &of.kinds {
            kind.mixture.save(pen);
            kind.spared.save(pen);
            let ended = kind.had.iter().chain(&kind.waiting);
            ended.flat_map(|of| [of.all, of.counted]).for_each(|pair| pair.save(pen));
        }
    }

    pub fn restore(eye: &mut Eye<'_>) -> Option<Once> {
        let mut once = Once { open: usize::try_from(eye.u64()?).ok()?.min(COHORTS), ..Once::default() };
        for group in 0..COHORTS {
            once.group_of[group] = usize::from(eye.u16()?).min(COHORTS - 1);
            once.closed[group] = eye.u16()? != 0;
            once.entered[group] = Pair::restore(eye)?;
        }
        for (kind, of) in once.kinds.iter_mut().enumerate() {
            of.mixture = Mixture::restore(eye, odds(kind).len())?;
            of.spared = Spared::restore(eye)?;
            for ended in of.had.iter_mut().chain(&mut of.waiting) {
                *ended = Ended { all: Pair::restore(eye)?, counted: Pair::restore(eye)? };
            }
        }
        Some(once)
    }

    pub fn mixture(&self, kind: Kind) -> &Mixture {
        &self.kinds[kind.index()].mixture
    }

    /// Users of closed cohorts who have not had it yet: who can still be evidence.
    pub fn clean(&self, kind: Kind) -> Pair {
        let of = &self.kinds[kind.index()];
        let mut sum = Pair::default();
        for group in (0..COHORTS).filter(|g| self.closed[*g]) {
            let mut users = self.entered[group];
            users.take(of.had[group].all);
            sum += users;
        }
        sum
    }
}

impl Of {
    fn new(mixture: Mixture) -> Of {
        Of {
            mixture,
            spared: Spared::default(),
            had: Default::default(),
            waiting: Default::default(),
            now: Default::default(),
        }
    }

    /// Tables that are disjoint draws of one moment.
    fn bet(&mut self, odds: &[f64], tables: &mut [Table]) {
        self.spared.settle(tables);
        if tables.iter().all(|table| table.ended.counted.total() == 0) {
            return;
        }
        for (row, odds) in odds.iter().enumerate() {
            let mut sum = Bet::default();
            for Table { at_risk, ended, .. } in &*tables {
                sum += cell(*at_risk, ended.counted, odds.ln());
            }
            self.mixture.push(row, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E of failures after a cohort of such labels has closed, and such of its users have failed
    /// while it was open, or after.
    fn after(users: Pair, failed: Pair, late: bool) -> f64 {
        let mut once = Once::default();
        once.entered(Some(0), users, 0.2);
        let fail = |once: &mut Once| {
            for (arm, n) in [(Arm::New, failed.new), (Arm::Stable, failed.stable)] {
                for _ in 0..n {
                    once.event(&mut Mark::entered(Some(0)), arm, Kinds::default().with(Kind::Failed).into());
                }
            }
            once.score();
        };
        if !late {
            fail(&mut once);
        }
        once.entered(Some(9), Pair::default(), 0.2);
        if late {
            fail(&mut once);
        }
        once.mixture(Kind::Failed).mean()
    }

    /// Of 10,000 users, a fifth of them in `new`: so many end in each moment, and so many of those
    /// of `new` count. The best of the bets after each.
    fn moments(of: &[(Pair, u64)]) -> Vec<f64> {
        let mut once = Once::default();
        once.entered(Some(0), Pair::new(2000, 8000), 0.2);
        once.entered(Some(9), Pair::default(), 0.2);
        let slow = Kinds::default().with(Kind::Slow999(0));
        let tolerated = Ends { all: slow, counted: Kinds::default() };
        of.iter()
            .map(|(ended, counted)| {
                let mut end =
                    |arm, n, ends| (0..n).for_each(|_| once.event(&mut Mark::entered(Some(0)), arm, ends));
                end(Arm::New, *counted, slow.into());
                end(Arm::New, ended.new - counted, tolerated);
                end(Arm::Stable, ended.stable, slow.into());
                once.score();
                once.mixture(Kind::Slow999(0)).wealth().iter().copied().fold(0.0, f64::max)
            })
            .collect()
    }

    /// 500 users are busy in both hours of trouble that both versions have; others hardly come.
    #[test]
    fn a_trouble_that_both_have_twice_blames_nobody() {
        // Two thirds of the busy are slow in the first, of `new` half of them beyond the tolerance;
        // all who are left in the second.
        assert!(moments(&[(Pair::new(67, 267), 33), (Pair::new(33, 133), 33)])[1] < 2.0);
        // `new` was better than stable in the first, and has as much trouble in the second as
        // stable had in both.
        assert!(moments(&[(Pair::new(20, 267), 20), (Pair::new(80, 133), 80)])[1] < 10.0);
        assert!(moments(&[(Pair::new(0, 400), 0), (Pair::new(100, 0), 100)])[1] < 10.0);
    }

    /// Most of `new` is slow within the tolerance once; a few users of both are slow beyond it,
    /// again and again.
    #[test]
    fn who_is_slow_within_the_tolerance_leaves_nobody_to_blame() {
        let rare = vec![(Pair::new(5, 20), 5); 10];
        assert!(moments(&[vec![(Pair::new(1500, 0), 0)], rare].concat())[10] < 2.0);
    }

    #[test]
    fn what_new_was_spared_hides_no_trouble_of_its_own() {
        assert!(moments(&[(Pair::new(20, 267), 20), (Pair::new(250, 133), 250)])[1] > 1e4);
        // Much of `new` was slow within the tolerance for long: it is owed nothing for that.
        let long = vec![(Pair::new(1, 4), 0); 200];
        assert!(moments(&[long, vec![(Pair::new(60, 60), 60)]].concat())[200] > 1e4);
    }

    /// Half of `new` stayed away at first; then all came, and failed as stable did.
    #[test]
    fn a_cohort_of_which_some_stayed_away_says_nothing() {
        for late in [false, true] {
            assert!(after(Pair::new(2000, 8000), Pair::new(200, 400), late) > 1e6);
            assert!(after(Pair::new(1400, 8600), Pair::new(200, 800), late) < 1.0);
            assert!(after(Pair::new(2600, 7400), Pair::new(200, 100), late) < 1.0);
        }
    }
}
