//! ONCE: a user's *first* failure, first client error, first very slow answer of the draw: a log-rank test over users.
//!
//! Users are put into a *cohort* when they enter (see [`entry_cohort`]). Once the cohort has closed, its labels' totals are revealed, its events so far are
//! scored as one table, and from then on each user's first event is a draw without replacement from all of the cohort's users who are still clean, whether
//! they came in this interval or not. The set only ever shrinks by what was scored.
//!
//! Two forms that look simpler are not valid. To take as "at risk" the clean users *of this interval* lets users who come often and never fail be
//! the control again and again: if chance put few of them into `new`, every failure of others counts too much (mean of E above 1,
//! growing without bound; a test holds the counter-example). To let users enter an open cohort while its events are scored, as the reference
//! does, reveals each entrant's label before it is drawn.
//!
//! A cohort whose labels are not the share that was drawn, beyond chance, is left out: part of `new` did not come for a while, so whoever came in a bad hour is not like the rest of the
//! cohort. What is left in, however bad the hour, cannot trip by that alone: three standard deviations of labels are worth 4.5 nats at most. (Only totals of
//! labels are looked at, and each table is fair whatever they are.)
//!
//! Invariants: a user has each kind of event once in a draw; tables are final when they are scored; closing looks at totals and the clock only.

use super::cell::{Pair, cell};
use super::first::EXPECTED_MIN;
use super::mixture::Mixture;
use super::save::{Eye, Pen};
use super::{ERROR_ODDS, LEVELS};
use crate::domain::decide::Arm;
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
}

/// All kinds: two, and two of each level.
pub const KINDS: usize = 2 + 2 * LEVELS;

impl Kind {
    pub fn index(self) -> usize {
        match self {
            Kind::Failed => 0,
            Kind::ClientError => 1,
            Kind::Slow98(level) => 2 + 2 * level,
            Kind::Slow999(level) => 3 + 2 * level,
        }
    }
}

/// A set of kinds, as bits by [`Kind::index`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Kinds(pub u8);

impl Kinds {
    pub fn with(self, kind: Kind) -> Kinds {
        Kinds(self.0 | 1 << kind.index())
    }

    pub fn has(self, kind: Kind) -> bool {
        self.0 & 1 << kind.index() != 0
    }
}

/// What a draw remembers of a user: low six bits the cohort of entry + 1 (0: not seen), then the kinds he has had.
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
        Kinds((self.0 >> COHORT_BITS) as u8)
    }

    /// Marks the kinds; gives those that are new.
    fn had(&mut self, kinds: Kinds) -> Kinds {
        let new = u16::from(kinds.0) << COHORT_BITS & !self.0;
        self.0 |= new;
        Kinds((new >> COHORT_BITS) as u8)
    }
}

/// The cohort of users who enter at this age of the draw: each is longer by √2 than the one before, so that most users are in closed
/// ones at any time. `None` after some eighteen hours: such users count in FIRST only.
///
/// To be asked once per interval (with its start), not per request: all who enter in an interval are of one cohort.
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
    /// Had the event already, by group; taken out of the risk set when scored.
    had: [Pair; COHORTS],
    /// Had it while the group was open; not scored yet.
    waiting: [Pair; COHORTS],
    /// Of the interval that is being gathered.
    now: [Pair; COHORTS],
}

fn odds(kind: usize) -> &'static [f64] {
    if kind < 2 { &ERROR_ODDS } else { &SLOW_ODDS }
}

impl Default for Once {
    fn default() -> Self {
        Once {
            open: 0,
            group_of: [0; COHORTS],
            closed: [false; COHORTS],
            entered: Default::default(),
            kinds: std::array::from_fn(|kind| Of {
                mixture: Mixture::new(odds(kind).len()),
                had: Default::default(),
                waiting: Default::default(),
                now: Default::default(),
            }),
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
            if mark.kinds().0 >> kind & 1 == 1 {
                one(if self.closed[group] { &mut of.had[group] } else { &mut of.waiting[group] });
            }
        }
    }

    /// Users who entered in an interval, all of one cohort; those before it close. `None`: the last one has closed.
    pub fn entered(&mut self, cohort: Option<usize>, users: Pair, share: f64) {
        self.close_until(cohort.unwrap_or(COHORTS), share);
        if let Some(cohort) = cohort.filter(|c| *c < COHORTS) {
            self.entered[self.group_of[cohort]] += users;
        }
    }

    /// The clock of the draw has come to this cohort: those before it close. One too small to be judged goes on into the next.
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
                    let events = std::mem::take(&mut of.waiting[group]).capped(users);
                    bet(&mut of.mixture, odds(kind), &[(users, events)]);
                    of.had[group] += events;
                }
            }
            self.open += 1;
            if self.open < COHORTS {
                self.group_of[self.open] = if closes { self.open } else { group };
            }
        }
    }

    /// A request of a final interval had these events.
    pub fn event(&mut self, mark: &mut Mark, arm: Arm, kinds: Kinds) {
        let Some(cohort) = mark.cohort() else { return };
        let new = mark.had(kinds);
        if new == Kinds::default() {
            return;
        }
        let group = self.group_of[cohort];
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            *of.now[group].of(arm) += u64::from(new.0 >> kind & 1);
        }
    }

    /// The interval has been gathered: its events are scored, as disjoint draws of one moment.
    pub fn score(&mut self) {
        for (kind, of) in self.kinds.iter_mut().enumerate() {
            let mut tables = [(Pair::default(), Pair::default()); COHORTS];
            let mut n = 0;
            for group in 0..COHORTS {
                let events = std::mem::take(&mut of.now[group]);
                if events.total() == 0 {
                    continue;
                }
                if self.closed[group] {
                    let mut users = self.entered[group];
                    users.take(of.had[group]);
                    let events = events.capped(users);
                    tables[n] = (users, events);
                    n += 1;
                    of.had[group] += events;
                } else {
                    of.waiting[group] += events;
                }
            }
            bet(&mut of.mixture, odds(kind), &tables[..n]);
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
            kind.had.iter().chain(&kind.waiting).for_each(|pair| pair.save(pen));
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
            for pair in of.had.iter_mut().chain(&mut of.waiting) {
                *pair = Pair::restore(eye)?;
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
            users.take(of.had[group]);
            sum += users;
        }
        sum
    }
}

/// Tables that are disjoint draws of one moment.
fn bet(mixture: &mut Mixture, odds: &[f64], tables: &[(Pair, Pair)]) {
    if tables.iter().all(|(_, events)| events.total() == 0) {
        return;
    }
    for (row, odds) in odds.iter().enumerate() {
        let mut sum = super::cell::Bet::default();
        for (at_risk, events) in tables {
            sum += cell(*at_risk, *events, odds.ln());
        }
        mixture.push(row, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// E of failures after a cohort of such labels has closed, and such of its users have failed while it was open, or after.
    fn after(users: Pair, failed: Pair, late: bool) -> f64 {
        let mut once = Once::default();
        once.entered(Some(0), users, 0.2);
        let fail = |once: &mut Once| {
            for (arm, n) in [(Arm::New, failed.new), (Arm::Stable, failed.stable)] {
                for _ in 0..n {
                    once.event(&mut Mark::entered(Some(0)), arm, Kinds::default().with(Kind::Failed));
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
