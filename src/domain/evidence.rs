//! The comparison of failures of the two arms that may be looked at ten times a second for days: a safe log-rank test
//! over users in a restart mixture.
//!
//! # What is counted
//!
//! Requests are grouped by *arrival*, in intervals; an interval is judged once, when it is final (its end + c), and its event is
//! "failed, or not answered by then". Scoring failures as they come would blame whichever arm has the shorter time-out.
//!
//! # Why users who differ cannot fool it
//!
//! The hash draws *users*, not requests, once per round. H₀, "new is no worse", says that who comes when, and whose requests fail, does not
//! depend on the arm. Then the users and their histories are fixed, and only the labels are random: exchangeable. The two
//! processes here reveal labels in an order in which what comes next is a plain draw:
//!
//! - FIRST: each user on his first request of the round. The slots are disjoint sets of users, closed label-blind; given (n₁, n₀, k),
//!   k₁ is hypergeometric whatever has been seen in other slots.
//! - ONCE: users are put into a *cohort* when they enter (see [`entry_cohort`]). Once the cohort has closed, its labels' totals are revealed,
//!   its failures so far are scored as one table, and from then on each user's first failure is a draw without replacement from all of the cohort's
//!   users who are still clean, whether they came in this interval or not. The set only ever shrinks by what was scored.
//!
//! Two forms that look simpler are not valid. To take as "at risk" the clean users *of this interval* lets users who come often and never fail be
//! the control again and again: if chance put few of them into `new`, every failure of others counts too much (mean of E above 1,
//! growing without bound; a test holds the counter-example). To let users enter an open cohort reveals the entrants' labels in the same way.
//!
//! # Rounds
//!
//! A change of weight changes the labels. Whoever failed before is fixed under H₀, but evidence won with the same users' old labels is not independent of
//! the new ones (those below the old weight stay in `new`): multiplying the two would count one coin twice. So each weight is a
//! *round*: flags are cleared, all users of the hash take part (movers too: their past on stable is fixed under H₀ like anybody's),
//! the process starts anew with prior mass of its own, and what earlier rounds had won is kept as a *summand*. Each round is valid by itself, so the chance
//! of ever tripping is at most α times the mass granted: 1, + 1 per raise (at most ten an attempt), + 1 shared by all other changes.
//! Pinned users (segments), fail-overs, users without an id are in no round: no control.
//!
//! Invariants: pure; what is kept does not grow; closing rules never look at labels; E stays finite.

/// Log odds ratios of failing: 1.25, 1.5, 2, 3, 5, 10, 40, 1000.
pub const ROWS: usize = 8;
const ODDS: [f64; ROWS] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 40.0, 1000.0];
/// Cohorts of entry in a round.
pub const COHORTS: usize = 32;
/// Raises that bring a fresh budget, per attempt.
const RAISES: u8 = 10;
/// E of no data.
pub const PRIOR: f64 = 0.5;
/// The exact moment generating function up to this many draws, a closed bound above.
const EXACT_DRAWS: f64 = 32.0;

/// The cohort of users who enter at this age of the round: each is longer by √2 than the one before, so that most users are in closed
/// ones at any time. `None` after some eighteen hours: such users count in FIRST only.
///
/// To be asked once per interval (with its start), not per request: all who enter in an interval are of one cohort.
pub fn entry_cohort(age_of_round: std::time::Duration) -> Option<usize> {
    let seconds = u128::from(age_of_round.as_secs().min(1 << 40)) + 1;
    let cohort = (seconds * seconds).ilog2() as usize;
    (cohort < COHORTS).then_some(cohort)
}

/// New and stable, in that order of argument everywhere.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Pair {
    pub new: u64,
    pub stable: u64,
}

impl Pair {
    pub fn new(new: u64, stable: u64) -> Pair {
        Pair { new, stable }
    }

    pub fn total(self) -> u64 {
        self.new + self.stable
    }
}

impl std::ops::AddAssign for Pair {
    fn add_assign(&mut self, other: Pair) {
        self.new += other.new;
        self.stable += other.stable;
    }
}

impl Pair {
    fn take(&mut self, other: Pair) {
        self.new = self.new.saturating_sub(other.new);
        self.stable = self.stable.saturating_sub(other.stable);
    }

    fn capped(self, by: Pair) -> Pair {
        Pair { new: self.new.min(by.new), stable: self.stable.min(by.stable) }
    }
}

/// What one final interval says of the users whom the hash alone placed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Users {
    /// Users whose first request of the round arrived in this interval.
    pub entered: Pair,
    /// Those of them whose first request failed, or was not answered in time.
    pub entered_failed: Pair,
    /// The cohort of those who entered.
    pub entered_as: Option<usize>,
    /// Users who failed for the first time in the round with a request of this interval, by the cohort that they entered in
    /// (those who failed on their first request among them).
    pub first_failures: [Pair; COHORTS],
}

fn log_mgf(n1: f64, n0: f64, k: f64, lambda: f64) -> f64 {
    let m = k.min(n1);
    if m <= EXACT_DRAWS {
        let lowest = (k - n0).max(0.0);
        let (mut u, mut s0, mut s1, mut p, e) = (1.0, 0.0, 0.0, 1.0, lambda.exp());
        let mut j = lowest;
        while j <= m {
            s0 += u;
            s1 += u * p;
            p *= e;
            u = if j < m { u * (n1 - j) * (k - j) / ((j + 1.0) * (n0 - k + j + 1.0)) } else { 0.0 };
            j += 1.0;
        }
        return f64::ln(s1 / s0) + lambda * lowest;
    }
    // The law is that of a sum of m independent coins of known mean and variance (Vatutin, Mikhailov); the worst such sum for a convex
    // exponential has two points (Chebyshev, Markov).
    let n = n1 + n0;
    let mean = k * (n1 / n);
    let variance = mean * (n0 / n) * (n - k) / (n - 1.0);
    let (m1, m2, c) = (mean / m, (mean - variance) / m, lambda.exp_m1());
    if lambda > 0.0 {
        let a = (m1 - m2) / (1.0 - m1);
        let w = (1.0 - (1.0 - m1) / (1.0 - a)).max(0.0);
        m * ((1.0 - w) * (a * c).ln_1p() + w * lambda)
    } else {
        m * (m1 * m1 / m2) * (m2 / m1 * c).ln_1p()
    }
}

/// (ln L, dτ) of one 2×2 table: `at_risk` users, of whom `events` failed. Rows and columns are flipped so that the drawn counts are small.
pub fn cell(at_risk: Pair, events: Pair, lambda: f64) -> (f64, f64) {
    let (n, mut k) = (at_risk.total() as f64, events.total() as f64);
    if k <= 0.0 || k >= n || at_risk.new == 0 || at_risk.stable == 0 || lambda == 0.0 {
        return (0.0, 0.0);
    }
    let (mut drawn, mut a, mut lambda) = (events.new as f64, at_risk.new as f64, lambda);
    if k > n - k {
        drawn = a - drawn;
        k = n - k;
        lambda = -lambda;
    }
    if at_risk.new > at_risk.stable {
        a = at_risk.stable as f64;
        drawn = k - drawn;
        lambda = -lambda;
    }
    let b = log_mgf(a, n - a, k, lambda);
    (lambda * drawn - b, (b - lambda * k * (a / n)).max(0.0))
}

fn unspent(tau: f64) -> f64 {
    0.5 / (1.0 + tau.ln_1p())
}

/// The restart mixture: one wealth per alternative; the drip lets a late change be seen after a good past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mixture {
    wealth: [f64; ROWS],
    tau: [f64; ROWS],
}

impl Default for Mixture {
    fn default() -> Self {
        Mixture { wealth: [PRIOR; ROWS], tau: [0.0; ROWS] }
    }
}

impl Mixture {
    /// Bets on tables that are disjoint draws of one moment.
    pub fn update(&mut self, tables: &[(Pair, Pair)]) {
        if tables.iter().all(|(_, events)| events.total() == 0) {
            return;
        }
        for (row, odds) in ODDS.iter().enumerate() {
            let lambda = odds.ln();
            let (mut ll, mut dt) = (0.0, 0.0);
            for &(at_risk, events) in tables {
                let (l, d) = cell(at_risk, events, lambda);
                ll += l;
                dt += d;
            }
            let drip = unspent(self.tau[row]) - unspent(self.tau[row] + dt);
            self.tau[row] += dt;
            self.wealth[row] = ((self.wealth[row] + drip) * ll.min(600.0).exp()).min(1e150);
        }
    }

    pub fn mean(&self) -> f64 {
        self.wealth.iter().sum::<f64>() / ROWS as f64
    }

    /// Wealth per alternative, in the order of the odds ratios.
    pub fn wealth(&self) -> [f64; ROWS] {
        self.wealth
    }
}

/// May a table be scored? Looks at totals only, never at which arm failed.
fn may_close(at_risk: Pair, failures: u64, share: f64) -> bool {
    let n = at_risk.total() as f64;
    at_risk.new >= 1
        && at_risk.stable >= 1
        && ((n * share >= 2.0 && n * (1.0 - share) >= 2.0) || failures >= 8)
}

/// Users of one or several cohorts, judged together once they have closed.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
struct Group {
    /// Entered; when closed: still clean.
    users: Pair,
    /// Failed while the group was open; not scored yet.
    failed: Pair,
    closed: bool,
}

/// Why a round begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Round {
    /// The weight rises (a wave, or by hand): a budget of α of its own, ten times an attempt.
    Raised,
    /// Lowered, or renewed because most users have failed: shares one budget with all others of its kind.
    Other,
    /// Renewed because a shared outage has spoilt the evidence: as `Other`, and what was won is dropped.
    Spoilt,
}

/// The evidence of one attempt.
#[derive(Clone, Debug)]
pub struct Errors {
    share: f64,
    first: Mixture,
    once: Mixture,
    slot: (Pair, Pair),
    groups: [Group; COHORTS],
    /// Which group a cohort belongs to.
    group_of: [usize; COHORTS],
    /// The cohort that is entering now.
    open: usize,
    /// Prior mass of this round.
    mass: f64,
    /// What earlier rounds had won.
    carried: f64,
    raises_left: u8,
    /// Rounds so far that share one budget.
    others: f64,
    /// Users of closed cohorts who have failed.
    spent: u64,
}

impl Errors {
    /// `share` of users in `new`: the weight, `0.0 ..= 1.0`.
    pub fn new(share: f64) -> Errors {
        Errors {
            share,
            first: Mixture::default(),
            once: Mixture::default(),
            slot: Default::default(),
            groups: Default::default(),
            group_of: [0; COHORTS],
            open: 0,
            mass: 1.0,
            carried: 0.0,
            raises_left: RAISES,
            others: 0.0,
            spent: 0,
        }
    }

    /// The next interval is of a new round: other labels, cleared flags.
    pub fn round(&mut self, why: Round, share: f64) {
        let carried = if why == Round::Spoilt { 0.0 } else { self.e_value() };
        let (mut raises_left, mut others) = (self.raises_left, self.others);
        let mass = if why == Round::Raised && raises_left > 0 {
            raises_left -= 1;
            1.0
        } else {
            // 1/2, 1/6, 1/12, …: sums to 1, and the hundredth still has a ten-thousandth.
            others += 1.0;
            1.0 / (others * (others + 1.0))
        };
        *self = Errors { mass, carried, raises_left, others, ..Errors::new(share) };
    }

    pub fn push(&mut self, users: &Users) {
        self.push_first(users);
        self.push_once(users);
    }

    fn push_first(&mut self, users: &Users) {
        self.slot.0 += users.entered;
        self.slot.1 += users.entered_failed.capped(users.entered);
        let (at_risk, failed) = self.slot;
        if may_close(at_risk, failed.total(), self.share) {
            self.first.update(&[self.slot]);
            self.slot = Default::default();
        }
    }

    fn push_once(&mut self, users: &Users) {
        let mut tables = [(Pair::default(), Pair::default()); 2 * COHORTS];
        let mut n = 0;
        // Cohorts close by the clock of the round, in order; one too small to be judged goes on into the next.
        let entering = users.entered_as.unwrap_or(COHORTS);
        while self.open < entering {
            let group = self.group_of[self.open];
            let Group { users, failed, .. } = self.groups[group];
            let closes = may_close(users, 0, self.share);
            if closes {
                tables[n] = (users, failed.capped(users));
                n += 1;
                self.groups[group].users.take(failed);
                self.spent += failed.total();
                self.groups[group].closed = true;
            }
            self.open += 1;
            if self.open < COHORTS {
                self.group_of[self.open] = if closes { self.open } else { group };
            }
        }
        if n > 0 {
            self.once.update(&tables[..n]);
            n = 0;
        }
        if let Some(cohort) = users.entered_as {
            self.groups[self.group_of[cohort.min(COHORTS - 1)]].users += users.entered;
        }
        let mut failures = [Pair::default(); COHORTS];
        for (cohort, failed) in users.first_failures.iter().enumerate().take(self.open + 1) {
            failures[self.group_of[cohort]] += *failed;
        }
        for (group, failed) in self.groups.iter_mut().zip(failures).filter(|(_, failed)| failed.total() > 0) {
            if group.closed {
                let failed = failed.capped(group.users);
                tables[n] = (group.users, failed);
                n += 1;
                group.users.take(failed);
                self.spent += failed.total();
            } else {
                group.failed += failed;
            }
        }
        self.once.update(&tables[..n]);
    }

    /// Trips at 1/α.
    pub fn e_value(&self) -> f64 {
        self.carried + self.mass * (0.5 * self.first.mean() + 0.5 * self.once.mean())
    }

    pub fn first(&self) -> &Mixture {
        &self.first
    }

    pub fn once(&self) -> &Mixture {
        &self.once
    }

    pub fn carried(&self) -> f64 {
        self.carried
    }

    /// Have most users failed already, so that little can be seen any more? Looks at totals only.
    pub fn exhausted(&self) -> bool {
        self.spent >= 100 && self.spent > 3 * self.clean().total()
    }

    /// Users in cohorts that have closed and who have not failed yet: who can still be evidence.
    pub fn clean(&self) -> Pair {
        let mut sum = Pair::default();
        self.groups.iter().filter(|g| g.closed).for_each(|g| sum += g.users);
        sum
    }
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
pub(crate) mod tests;
