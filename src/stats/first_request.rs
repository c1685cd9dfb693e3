//! FIRST: each user's first request of the draw. Users join *slots* by arrival; each slot is a few
//! tables.
//!
//! The slots are disjoint sets of users, so given a table's margins the events of `new` are
//! hypergeometric, whatever other slots have shown.
//! A slot closes *label-blind*: by the number of users and of failures, never by arm.
//! A rule that also required a user of each arm would depend on labels: a slot prolonged for lack
//! of users of `new` is known to begin with users of stable only, and the failures may be theirs.
//!
//! Errors and client errors are judged once, when all outcomes are final.
//! Latency is judged group by group, as soon as a group of the slot cannot change any more, so that
//! a hanging request counts while it hangs.
//!
//! Requests whose server was in a spell or warming up are left out of a table ([`super::servers`]).
//! The choice is made once, before the table's first bet: a slot with a server that may be in a
//! spell waits until that is certain.
//!
//! A failure of `new` is a reported failure. A failure of stable is also a request without an
//! answer at the deadline.
//! This can only exonerate `new`, and makes unequal time-outs harmless.
//!
//! Invariants: each user is in one slot; a table is bet on once; a slot is kept until the deadline,
//! and longer only while one of its servers may be in a spell.

use super::latency::{AgeTable, SlotAges};
use super::servers::{Excuse, ServerClusters, ServerIndex, ServerMark};
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::e_process::EProcess;
use crate::stats::engine::{ERROR_ODDS, LEVELS, Level};
use crate::stats::hypergeometric_bet::{PerArm, cell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Number of failures that closes a slot with few users.
pub const FAILURES_ENOUGH: u64 = 8;
/// Minimum of expected users of each arm in a slot.
pub const EXPECTED_MIN: f64 = 2.0;

#[derive(Clone, Debug)]
pub struct FirstRequestTest {
    errors: EProcess,
    client_errors: EProcess,
    redirects: EProcess,
    latency: [EProcess; LEVELS],
    slots: VecDeque<ArrivalSlot>,
}

#[derive(Clone, Debug)]
struct ArrivalSlot {
    /// Number of the first interval.
    from: u64,
    /// The interval after the last one. `None` while the slot is open.
    until: Option<u64>,
    arrived: PerArm,
    failed: PerArm,
    client_errors: PerArm,
    redirects: PerArm,
    table: Option<Arc<AgeTable>>,
    ages: Box<[SlotAges; LEVELS]>,
    /// The largest factor of its users. A group that is final for this factor is final for all
    /// users.
    factor: f64,
    /// Number of final groups, by level.
    judged: [usize; LEVELS],
    /// Requests in the order of arrival.
    entries: Vec<SlotEntry>,
    /// The requests that latency leaves out are chosen; errors have been bet on.
    latency_is_settled: bool,
    errors_are_done: bool,
}

/// A first request of a slot.
#[derive(Clone, Copy, Debug)]
struct SlotEntry {
    interval: u64,
    arm: Arm,
    place: Option<ServerIndex>,
    /// The outcome, and the buckets of its latency.
    exit: Option<(FirstOutcome, [usize; LEVELS])>,
    broke: bool,
    /// Left out of latency.
    excused: bool,
}

/// The outcome of a first request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstOutcome {
    Done,
    ClientError,
    Redirected,
    Failed,
    Censored,
}

impl Default for FirstRequestTest {
    fn default() -> Self {
        FirstRequestTest {
            errors: EProcess::new(ERROR_ODDS.len()),
            client_errors: EProcess::new(ERROR_ODDS.len()),
            redirects: EProcess::new(ERROR_ODDS.len()),
            latency: std::array::from_fn(|_| EProcess::new(*super::latency::ROWS)),
            slots: VecDeque::new(),
        }
    }
}

impl FirstRequestTest {
    /// Drops the open slots: another draw begins.
    pub fn forget(&mut self) {
        self.slots.clear();
    }

    /// Resets the latency of this level. Slots in progress belong to the old level and are not
    /// judged.
    pub fn restart(&mut self, level: Level, budget: bool) {
        self.latency[level as usize].restart(budget);
        self.slots.iter_mut().for_each(|slot| slot.judged[level as usize] = usize::MAX);
    }

    pub fn grant(&mut self, mass: f64, budget: bool) {
        let counted = [&mut self.errors, &mut self.client_errors, &mut self.redirects];
        for mixture in counted.into_iter().chain(&mut self.latency) {
            mixture.grant(mass, budget);
        }
    }

    /// Adds a user's first request, which arrives in this interval. Returns its number in the slot.
    pub fn enter(
        &mut self,
        interval: u64,
        arm: Arm,
        factor: f64,
        table: Option<&Arc<AgeTable>>,
        place: Option<ServerIndex>,
    ) -> u32 {
        if self.slots.back().is_none_or(|slot| slot.until.is_some_and(|until| until <= interval)) {
            self.slots.push_back(ArrivalSlot::opened(interval, table.cloned()));
        }
        let Some(slot) = self.slot(interval) else { return u32::MAX };
        *slot.arrived.of(arm) += 1;
        slot.factor = slot.factor.max(factor);
        slot.entries.push(SlotEntry { interval, arm, place, exit: None, broke: false, excused: false });
        slot.entries.len() as u32 - 1
    }

    /// Ends a first request that arrived in `interval`.
    /// `buckets`: of its relative latency by level; for a censored request, of its age.
    pub fn exit(&mut self, interval: u64, number: u32, exit: FirstOutcome, buckets: [usize; LEVELS]) {
        let Some(slot) = self.slot(interval) else { return };
        let Some(entry) = slot.entries.get_mut(number as usize) else { return };
        entry.exit = Some((exit, buckets));
        let (arm, counts) = (entry.arm, slot.latency_is_settled && !entry.excused);
        match exit {
            FirstOutcome::Failed => *slot.failed.of(arm) += 1,
            FirstOutcome::ClientError => *slot.client_errors.of(arm) += 1,
            FirstOutcome::Redirected => *slot.redirects.of(arm) += 1,
            FirstOutcome::Done | FirstOutcome::Censored => {}
        }
        if counts {
            slot.count_latency(arm, exit, buckets);
        }
    }

    /// The body broke after [`FirstOutcome::Done`]: it is a failure after all.
    pub fn broke(&mut self, interval: u64, number: u32) {
        let Some(slot) = self.slot(interval) else { return };
        let Some(entry) = slot.entries.get_mut(number as usize) else { return };
        entry.broke = true;
        *slot.failed.of(entry.arm) += 1;
    }

    /// Closes the open slot with interval `next` if it is large enough. Uses totals only.
    pub fn close(&mut self, next: u64, share: f64) {
        let Some(slot) = self.slots.back_mut().filter(|slot| slot.until.is_none()) else { return };
        let n = slot.arrived.total() as f64;
        let both_expected = n * share >= EXPECTED_MIN && n * (1.0 - share) >= EXPECTED_MIN;
        let bad = slot.failed.total() + slot.client_errors.total() + slot.redirects.total();
        if both_expected || bad >= FAILURES_ENOUGH {
            // The rest of the present interval belongs to this slot, too: an answer finds its slot
            // by interval.
            slot.until = Some(next + 1);
        }
    }

    /// Bets on final data: errors `deadline` after a slot's end, latency as its groups pass.
    pub fn judge(
        &mut self,
        now: Duration,
        tick: Duration,
        deadline: Duration,
        divisors: [f64; LEVELS],
        servers: &ServerClusters,
    ) {
        for slot in &mut self.slots {
            let Some(age) = slot.age(now, tick) else { break };
            // By this age the slowness that makes a spell is known.
            let known = servers.limit().is_none_or(|limit| age >= limit);
            if !slot.latency_is_settled && known {
                slot.settle_latency(now, tick, servers);
            }
            if slot.latency_is_settled {
                slot.judge_latency(age, age >= deadline, divisors, &mut self.latency);
            }
            if age >= deadline
                && !slot.errors_are_done
                && let Some((at_risk, failed)) = slot.failures(now, tick, servers)
            {
                slot.errors_are_done = true;
                bet(&mut self.errors, at_risk, failed.capped(at_risk));
                bet(&mut self.client_errors, slot.arrived, slot.client_errors.capped(slot.arrived));
                bet(&mut self.redirects, slot.arrived, slot.redirects.capped(slot.arrived));
            }
        }
        let is_over = |slot: &ArrivalSlot| {
            let age = slot.age(now, tick).unwrap_or_default();
            slot.errors_are_done && slot.latency_is_settled && age >= deadline
        };
        while self.slots.front().is_some_and(is_over) {
            self.slots.pop_front();
        }
    }

    pub fn save(&self, encoder: &mut Encoder) {
        let counted = [&self.errors, &self.client_errors, &self.redirects];
        counted.into_iter().chain(&self.latency).for_each(|m| m.save(encoder));
    }

    pub fn restore(decoder: &mut Decoder<'_>) -> Option<FirstRequestTest> {
        let rows = ERROR_ODDS.len();
        let (errors, client_errors) = (EProcess::restore(decoder, rows)?, EProcess::restore(decoder, rows)?);
        let redirects = EProcess::restore(decoder, rows)?;
        let mut latency = || EProcess::restore(decoder, *super::latency::ROWS);
        let latency = [latency()?, latency()?];
        Some(FirstRequestTest { errors, client_errors, redirects, latency, slots: VecDeque::new() })
    }

    pub fn errors(&self) -> &EProcess {
        &self.errors
    }

    pub fn client_errors(&self) -> &EProcess {
        &self.client_errors
    }

    pub fn redirects(&self) -> &EProcess {
        &self.redirects
    }

    pub fn latency(&self, level: Level) -> &EProcess {
        &self.latency[level as usize]
    }

    fn slot(&mut self, interval: u64) -> Option<&mut ArrivalSlot> {
        let after = self.slots.partition_point(|slot| slot.from <= interval);
        let slot = self.slots.get_mut(after.checked_sub(1)?)?;
        slot.until.is_none_or(|until| interval < until).then_some(slot)
    }
}

impl SlotEntry {
    fn has_failed(&self) -> bool {
        match self.exit {
            None => self.arm == Arm::Stable,
            Some((exit, _)) => exit == FirstOutcome::Failed || self.broke,
        }
    }
}

fn one(arm: Arm) -> PerArm {
    let mut pair = PerArm::default();
    *pair.of(arm) = 1;
    pair
}

/// Bets on one table of failures.
pub fn bet(mixture: &mut EProcess, at_risk: PerArm, events: PerArm) {
    if events.total() > 0 {
        for (row, odds) in ERROR_ODDS.iter().enumerate() {
            mixture.push(row, cell(at_risk, events, odds.ln()));
        }
    }
}

impl ArrivalSlot {
    fn opened(from: u64, table: Option<Arc<AgeTable>>) -> ArrivalSlot {
        ArrivalSlot {
            from,
            until: None,
            arrived: PerArm::default(),
            failed: PerArm::default(),
            client_errors: PerArm::default(),
            redirects: PerArm::default(),
            table,
            ages: Box::default(),
            factor: 1.0,
            judged: [0; LEVELS],
            entries: vec![],
            latency_is_settled: false,
            errors_are_done: false,
        }
    }

    fn count_latency(&mut self, arm: Arm, exit: FirstOutcome, buckets: [usize; LEVELS]) {
        // A failed request never succeeds, so it stays in the risk set.
        if let (Some(table), true) = (&self.table, exit != FirstOutcome::Failed) {
            for (ages, bucket) in self.ages.iter_mut().zip(buckets) {
                let counts = if exit == FirstOutcome::Censored { &mut ages.censored } else { &mut ages.done };
                *counts[table.group(bucket)].of(arm) += 1;
            }
        }
    }

    /// True if no server had a spell, run or warm-up since the slot began.
    fn is_calm(&self, tick: Duration, servers: &ServerClusters) -> bool {
        servers.calm_since(tick * u32::try_from(self.from).unwrap_or(u32::MAX))
    }

    /// Chooses the requests that latency leaves out, unless the choice is still uncertain.
    fn settle_latency(&mut self, now: Duration, tick: Duration, servers: &ServerClusters) {
        let Some(excused) = self.excused(ServerMark::Slow, now, tick, servers) else { return };
        self.latency_is_settled = true;
        let mut at_risk = self.arrived;
        for number in excused {
            self.entries[number].excused = true;
            at_risk.take(one(self.entries[number].arm));
        }
        self.ages.iter_mut().for_each(|ages| ages.arrived = at_risk);
        for number in 0..self.entries.len() {
            let SlotEntry { arm, exit, excused, .. } = self.entries[number];
            if let (Some((exit, buckets)), false) = (exit, excused) {
                self.count_latency(arm, exit, buckets);
            }
        }
    }

    /// Requests at risk of a failure, and failed ones. `None`: the excused requests are not certain
    /// yet.
    fn failures(&self, now: Duration, tick: Duration, servers: &ServerClusters) -> Option<(PerArm, PerArm)> {
        let excused = self.excused(ServerMark::Failed, now, tick, servers)?;
        let mut at_risk = self.arrived;
        let mut failed = self.failed;
        // Unanswered requests of stable have failed.
        let silent = self.entries.iter().filter(|e| e.arm == Arm::Stable && e.exit.is_none());
        failed.stable += silent.count() as u64;
        for number in excused {
            let entry = &self.entries[number];
            at_risk.take(one(entry.arm));
            if entry.has_failed() {
                failed.take(one(entry.arm));
            }
        }
        Some((at_risk, failed))
    }

    /// The numbers of the excused requests. `None`: not certain yet.
    fn excused(
        &self,
        kind: ServerMark,
        now: Duration,
        tick: Duration,
        servers: &ServerClusters,
    ) -> Option<Vec<usize>> {
        let mut excused = vec![];
        if self.is_calm(tick, servers) {
            return Some(excused);
        }
        for (number, entry) in self.entries.iter().enumerate() {
            let Some(place) = entry.place else { continue };
            let arrived = tick * u32::try_from(entry.interval).unwrap_or(u32::MAX);
            let found = match kind {
                ServerMark::Slow => servers.slow(place, arrived, now),
                ServerMark::Failed => servers.failed(place, arrived, now),
            };
            match found {
                Excuse::No => {}
                Excuse::Yes => excused.push(number),
                Excuse::Undecided => return None,
            }
        }
        Some(excused)
    }

    /// Time since its end. `None` while it is open.
    fn age(&self, now: Duration, tick: Duration) -> Option<Duration> {
        now.checked_sub(tick * u32::try_from(self.until?).ok()?)
    }

    fn judge_latency(
        &mut self,
        age: Duration,
        all: bool,
        divisors: [f64; LEVELS],
        latency: &mut [EProcess; LEVELS],
    ) {
        let Some(table) = &self.table else { return };
        let age_us = age.as_secs_f64() * 1e6;
        for (level, mixture) in latency.iter_mut().enumerate() {
            let (ages, judged) = (&mut self.ages[level], &mut self.judged[level]);
            let slowest = self.factor * divisors[level];
            while *judged < table.cuts().len() && (all || table.cuts()[*judged] * slowest <= age_us) {
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

    const TICK: Duration = Duration::from_millis(100);

    fn enter(
        first: &mut FirstRequestTest,
        interval: u64,
        arm: Arm,
        n: usize,
        place: Option<ServerIndex>,
    ) -> Vec<u32> {
        (0..n).map(|_| first.enter(interval, arm, 1.0, None, place)).collect()
    }

    /// 4 requests of new and 40 of stable. One of each arm is refused, one of each is never
    /// answered, and one of stable breaks after its head.
    /// A missing answer is a failure of stable only.
    #[test]
    fn each_failure_is_one_failure() {
        let (mut first, mut plain) = (FirstRequestTest::default(), EProcess::new(ERROR_ODDS.len()));
        let buckets = [0; LEVELS];
        let new = enter(&mut first, 0, Arm::New, 4, None);
        let stable = enter(&mut first, 0, Arm::Stable, 40, None);
        first.exit(0, new[0], FirstOutcome::Failed, buckets);
        (1..3).for_each(|i| first.exit(0, new[i], FirstOutcome::Done, buckets));
        first.exit(0, stable[0], FirstOutcome::Failed, buckets);
        (1..39).for_each(|i| first.exit(0, stable[i], FirstOutcome::Done, buckets));
        first.broke(0, stable[1]);
        first.close(1, 0.1);
        first.judge(TICK * 20, TICK, TICK * 10, [1.0; LEVELS], &ServerClusters::new(Duration::ZERO));
        bet(&mut plain, PerArm::new(4, 40), PerArm::new(1, 3));
        assert_eq!(first.errors(), &plain);
    }

    /// A slot may close in the middle of an interval: requests of its first half are answered after
    /// that.
    #[test]
    fn an_answer_finds_its_slot_though_it_closed_in_the_same_interval() {
        let mut first = FirstRequestTest::default();
        let buckets = [0; LEVELS];
        let mut all = enter(&mut first, 5, Arm::Stable, 40, None);
        all.extend(enter(&mut first, 5, Arm::New, 4, None));
        first.close(5, 0.1);
        all.extend(enter(&mut first, 5, Arm::New, 1, None));
        all.iter().for_each(|number| first.exit(5, *number, FirstOutcome::Done, buckets));
        first.judge(TICK * 30, TICK, TICK * 10, [1.0; LEVELS], &ServerClusters::new(Duration::ZERO));
        assert_eq!(first.errors(), &EProcess::new(ERROR_ODDS.len()), "nobody failed");
        assert!(first.slots.is_empty());
    }

    /// One of two servers of `new` fails all of its requests for a second. The two servers of
    /// stable do not fail.
    #[test]
    fn a_server_that_fails_beside_a_sound_one_is_left_out() {
        let (mut first, mut servers) = (FirstRequestTest::default(), ServerClusters::new(Duration::ZERO));
        let at = |arm, server| Some(ServerIndex { arm, server });
        let (failing, sound) = (at(Arm::New, 0), at(Arm::New, 1));
        let buckets = [0; LEVELS];
        for interval in 0..10 {
            let now = TICK * interval as u32;
            for (place, n, exit) in [
                (failing, 2, FirstOutcome::Failed),
                (sound, 2, FirstOutcome::Done),
                (at(Arm::Stable, 0), 10, FirstOutcome::Done),
                (at(Arm::Stable, 1), 10, FirstOutcome::Done),
            ] {
                let Some(place) = place else { continue };
                for number in enter(&mut first, interval, place.arm, n, Some(place)) {
                    first.exit(interval, number, exit, buckets);
                    servers.came(place, now);
                    let (bad, fine): (&[_], _) =
                        if exit == FirstOutcome::Failed { (&[None], 0) } else { (&[], 1) };
                    servers.mark(place, ServerMark::Failed, now, bad, fine, now);
                }
            }
            servers.tick(now);
            first.close(interval, 0.2);
        }
        (0..100).for_each(|i| servers.tick(TICK * (10 + i)));
        first.judge(TICK * 100, TICK, TICK * 10, [1.0; LEVELS], &servers);
        let nothing = EProcess::new(ERROR_ODDS.len());
        assert_eq!(first.errors(), &nothing);
    }
}
