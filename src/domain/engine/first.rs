//! FIRST: each user on his first request of the draw. Users are put into *slots* by arrival; each slot is a few tables.
//!
//! The slots are disjoint sets of users, so given a table's margins the events of `new` are hypergeometric whatever other slots have shown. A slot
//! closes *label-blind*: by how many came and how many failed, never by which arm they are of. (The reference also asks for one user of each arm. That is a look
//! at the labels: a slot prolonged because `new` had nobody is known to have had only stable's users at its start, where the failures may be.)
//!
//! Errors and client errors are judged once, when all outcomes are final. Latency is judged group by group, as soon as a group of the slot can
//! not change any more, so that a request which hangs counts while it hangs.
//!
//! Invariants: each user is in one slot; a table is bet on once; slots are kept no longer than the deadline.

use super::cell::{Pair, cell};
use super::latency::{Ages, Table};
use super::mixture::Mixture;
use super::save::{Eye, Pen};
use super::{ERROR_ODDS, LEVELS, Level};
use crate::domain::decide::Arm;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Failures from which on a slot closes though few users are in it.
pub const FAILURES_ENOUGH: u64 = 8;
/// Users of each arm that are to be expected in a slot.
pub const EXPECTED_MIN: f64 = 2.0;

#[derive(Clone, Debug)]
pub struct First {
    errors: Mixture,
    client_errors: Mixture,
    redirects: Mixture,
    latency: [Mixture; LEVELS],
    slots: VecDeque<Slot>,
}

#[derive(Clone, Debug)]
struct Slot {
    /// Number of the first interval.
    from: u64,
    /// After the last one; `None` while it is open.
    until: Option<u64>,
    arrived: Pair,
    failed: Pair,
    client_errors: Pair,
    redirects: Pair,
    /// Over, in whatever way: not failed by silence.
    settled: Pair,
    table: Option<Arc<Table>>,
    ages: Box<[Ages; LEVELS]>,
    /// The largest factor of any user in it: by then everybody's group is final.
    factor: f64,
    /// Groups final so far, by level.
    judged: [usize; LEVELS],
}

/// How a first request came out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done,
    ClientError,
    Redirected,
    Failed,
    Censored,
}

impl Default for First {
    fn default() -> Self {
        First {
            errors: Mixture::new(ERROR_ODDS.len()),
            client_errors: Mixture::new(ERROR_ODDS.len()),
            redirects: Mixture::new(ERROR_ODDS.len()),
            latency: std::array::from_fn(|_| Mixture::new(*super::latency::ROWS)),
            slots: VecDeque::new(),
        }
    }
}

impl First {
    /// What is on its way is dropped: another draw begins.
    pub fn forget(&mut self) {
        self.slots.clear();
    }

    pub fn grant(&mut self, mass: f64, budget: bool) {
        let counted = [&mut self.errors, &mut self.client_errors, &mut self.redirects];
        for mixture in counted.into_iter().chain(&mut self.latency) {
            mixture.grant(mass, budget);
        }
    }

    /// A user's first request arrives in this interval.
    pub fn enter(&mut self, interval: u64, arm: Arm, factor: f64, table: Option<&Arc<Table>>) {
        if self.slots.back().is_none_or(|slot| slot.until.is_some_and(|until| until <= interval)) {
            self.slots.push_back(Slot::opened(interval, table.cloned()));
        }
        if let Some(slot) = self.slot(interval) {
            *slot.arrived.of(arm) += 1;
            slot.factor = slot.factor.max(factor);
        }
    }

    /// A first request that arrived in `interval` is over. `buckets`: of its relative latency by level; of a censored one, of its age.
    pub fn exit(&mut self, interval: u64, arm: Arm, exit: Exit, buckets: [usize; LEVELS]) {
        let Some(slot) = self.slot(interval) else { return };
        match exit {
            Exit::Failed => *slot.failed.of(arm) += 1,
            Exit::ClientError => *slot.client_errors.of(arm) += 1,
            Exit::Redirected => *slot.redirects.of(arm) += 1,
            Exit::Done | Exit::Censored => {}
        }
        *slot.settled.of(arm) += 1;
        // It stays at risk of an answer for ever.
        if let (Some(table), true) = (&slot.table, exit != Exit::Failed) {
            for (ages, bucket) in slot.ages.iter_mut().zip(buckets) {
                let counts = if exit == Exit::Censored { &mut ages.censored } else { &mut ages.done };
                *counts[table.group(bucket)].of(arm) += 1;
            }
        }
    }

    /// The body broke after [`Exit::Done`]: a failure after all.
    pub fn broke(&mut self, interval: u64, arm: Arm) {
        if let Some(slot) = self.slot(interval) {
            *slot.failed.of(arm) += 1;
        }
    }

    /// In interval `next`: may the open slot end with it? Looks at totals only.
    pub fn close(&mut self, next: u64, share: f64) {
        let Some(slot) = self.slots.back_mut().filter(|slot| slot.until.is_none()) else { return };
        let n = slot.arrived.total() as f64;
        let both_expected = n * share >= EXPECTED_MIN && n * (1.0 - share) >= EXPECTED_MIN;
        let bad = slot.failed.total() + slot.client_errors.total() + slot.redirects.total();
        if both_expected || bad >= FAILURES_ENOUGH {
            // What is left of the present interval is of this slot too: an answer finds its slot by interval.
            slot.until = Some(next + 1);
        }
    }

    /// Bets on what is final: errors `deadline` after a slot's end, latency as its groups pass.
    pub fn judge(&mut self, now: Duration, tick: Duration, deadline: Duration, divisors: [f64; LEVELS]) {
        for slot in &mut self.slots {
            let Some(age) = slot.age(now, tick) else { break };
            slot.judge_latency(age, age >= deadline, divisors, &mut self.latency);
        }
        while self.slots.front().and_then(|slot| slot.age(now, tick)).is_some_and(|age| age >= deadline) {
            let Some(slot) = self.slots.pop_front() else { return };
            // What has not answered by now has failed: whoever waits longest is not the better one for it.
            let mut failed = slot.arrived;
            failed.take(slot.settled);
            failed += slot.failed;
            bet(&mut self.errors, slot.arrived, failed.capped(slot.arrived));
            bet(&mut self.client_errors, slot.arrived, slot.client_errors.capped(slot.arrived));
            bet(&mut self.redirects, slot.arrived, slot.redirects.capped(slot.arrived));
        }
    }

    pub fn save(&self, pen: &mut Pen) {
        let counted = [&self.errors, &self.client_errors, &self.redirects];
        counted.into_iter().chain(&self.latency).for_each(|m| m.save(pen));
    }

    pub fn restore(eye: &mut Eye<'_>) -> Option<First> {
        let rows = ERROR_ODDS.len();
        let (errors, client_errors) = (Mixture::restore(eye, rows)?, Mixture::restore(eye, rows)?);
        let redirects = Mixture::restore(eye, rows)?;
        let mut latency = || Mixture::restore(eye, *super::latency::ROWS);
        let latency = [latency()?, latency()?];
        Some(First { errors, client_errors, redirects, latency, slots: VecDeque::new() })
    }

    pub fn errors(&self) -> &Mixture {
        &self.errors
    }

    pub fn client_errors(&self) -> &Mixture {
        &self.client_errors
    }

    pub fn redirects(&self) -> &Mixture {
        &self.redirects
    }

    pub fn latency(&self, level: Level) -> &Mixture {
        &self.latency[level as usize]
    }

    fn slot(&mut self, interval: u64) -> Option<&mut Slot> {
        let after = self.slots.partition_point(|slot| slot.from <= interval);
        let slot = self.slots.get_mut(after.checked_sub(1)?)?;
        slot.until.is_none_or(|until| interval < until).then_some(slot)
    }
}

/// One table of failures.
pub fn bet(mixture: &mut Mixture, at_risk: Pair, events: Pair) {
    if events.total() > 0 {
        for (row, odds) in ERROR_ODDS.iter().enumerate() {
            mixture.push(row, cell(at_risk, events, odds.ln()));
        }
    }
}

impl Slot {
    fn opened(from: u64, table: Option<Arc<Table>>) -> Slot {
        Slot {
            from,
            until: None,
            arrived: Pair::default(),
            failed: Pair::default(),
            client_errors: Pair::default(),
            redirects: Pair::default(),
            settled: Pair::default(),
            table,
            ages: Box::default(),
            factor: 1.0,
            judged: [0; LEVELS],
        }
    }

    /// Since its end; `None` while it is open.
    fn age(&self, now: Duration, tick: Duration) -> Option<Duration> {
        now.checked_sub(tick * u32::try_from(self.until?).ok()?)
    }

    fn judge_latency(
        &mut self,
        age: Duration,
        all: bool,
        divisors: [f64; LEVELS],
        latency: &mut [Mixture; LEVELS],
    ) {
        let Some(table) = &self.table else { return };
        let age_us = age.as_secs_f64() * 1e6;
        for (level, mixture) in latency.iter_mut().enumerate() {
            let (ages, judged) = (&mut self.ages[level], &mut self.judged[level]);
            let slowest = self.factor * divisors[level];
            while *judged < table.cuts().len() && (all || table.cuts()[*judged] * slowest <= age_us) {
                ages.arrived = self.arrived;
                if *judged == table.body_end() {
                    table.bet_body(ages, mixture);
                }
                for (row, end) in table.tail_ends().enumerate() {
                    if end == *judged {
                        table.bet_tail(row, ages, mixture);
                    }
                }
                *judged += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four of new and forty of stable: one of each arm is refused, one of new is never answered, one of stable breaks after its head.
    #[test]
    fn each_failure_is_one_failure() {
        let (mut first, mut plain) = (First::default(), Mixture::new(ERROR_ODDS.len()));
        let (tick, buckets) = (Duration::from_millis(100), [0; LEVELS]);
        (0..4).for_each(|_| first.enter(0, Arm::New, 1.0, None));
        (0..40).for_each(|_| first.enter(0, Arm::Stable, 1.0, None));
        first.exit(0, Arm::New, Exit::Failed, buckets);
        (0..2).for_each(|_| first.exit(0, Arm::New, Exit::Done, buckets));
        first.exit(0, Arm::Stable, Exit::Failed, buckets);
        (0..39).for_each(|_| first.exit(0, Arm::Stable, Exit::Done, buckets));
        first.broke(0, Arm::Stable);
        first.close(1, 0.1);
        first.judge(tick * 20, tick, tick * 10, [1.0; LEVELS]);
        bet(&mut plain, Pair::new(4, 40), Pair::new(2, 2));
        assert_eq!(first.errors(), &plain);
    }

    /// Looks come at any moment of an interval: what arrived in its first half is answered after the slot has closed.
    #[test]
    fn an_answer_finds_its_slot_though_it_closed_in_the_same_interval() {
        let mut first = First::default();
        let (tick, buckets) = (Duration::from_millis(100), [0; LEVELS]);
        (0..40).for_each(|_| first.enter(5, Arm::Stable, 1.0, None));
        (0..4).for_each(|_| first.enter(5, Arm::New, 1.0, None));
        first.close(5, 0.1);
        first.enter(5, Arm::New, 1.0, None);
        (0..40).for_each(|_| first.exit(5, Arm::Stable, Exit::Done, buckets));
        (0..5).for_each(|_| first.exit(5, Arm::New, Exit::Done, buckets));
        first.judge(tick * 30, tick, tick * 10, [1.0; LEVELS]);
        assert_eq!(first.errors(), &Mixture::new(ERROR_ODDS.len()), "nobody failed");
        assert!(first.slots.is_empty());
    }
}
