//! The watchdog's raw material: requests of a release counted by the interval in which they *arrived*.
//!
//! An [`Epoch`] lasts as long as what decides about a user's arm stays the same; a reload that changes it starts a new
//! one, and requests in flight stay with the old. Counting by arrival, and judging an interval only when it is final
//! (its end + the deadline), keeps a shared outage with unequal time-outs from blaming an arm.
//!
//! User-level evidence (`domain::evidence` says why it is counted so): an epoch is a *round*. A user enters it with the
//! first request that the hash alone sent somewhere. While he is clean, one request at a time *represents* him
//! (`PENDING`); if it fails, or is unanswered at the deadline, that is his first failure (`FAILED`), counted by the cohort
//! that he entered in, and he is not at risk again in this round. The unit is the bucket: a weight never cuts through
//! one; users who share a bucket act as one.
//!
//! Invariants: a worker writes only its own ring; flags are shared and changed by single atomic operations; nothing here
//! locks or allocates after `new`; what arrives after an interval was judged never changes that interval.

use super::tally::PerWorker;
use crate::domain::cohort::{BUCKETS, Bucket};
use crate::domain::decide::Arm;
use crate::domain::evidence::{self, COHORTS};
use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

/// Intervals that a ring holds; the deadline is capped so that an interval is judged long before it is reused.
pub const RING: u64 = 1024;

/// Bits of a bucket's flags. The low six are the cohort of entry + 1; 0: not seen in this round.
const COHORT: u8 = 0x3f;
const PENDING: u8 = 0x40;
const FAILED: u8 = 0x80;
/// Entered after the last cohort had closed.
const COHORT_NONE: u8 = COHORTS as u8 + 1;

/// A flag byte for each bucket.
struct UserFlags(Box<[AtomicU8]>);

/// How a request stands for its user.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Role {
    cohort: Option<usize>,
    /// It is his first of the round.
    enters: bool,
}

impl UserFlags {
    fn new() -> Self {
        // Zeroed pages come from the kernel untouched: a bucket costs memory once somebody of it was seen.
        UserFlags(vec![0u8; BUCKETS as usize].into_iter().map(AtomicU8::new).collect())
    }

    /// Lets one request stand for the users of a bucket, if none does now and none has failed.
    fn represent(&self, bucket: Bucket, entry_cohort: Option<usize>) -> Option<Role> {
        let flags = &self.0[bucket.index() as usize];
        let mut seen = flags.load(Relaxed);
        if seen == 0 {
            let code = entry_cohort.map_or(COHORT_NONE, |c| c as u8 + 1);
            match flags.compare_exchange(0, code | PENDING, Relaxed, Relaxed) {
                Ok(_) => return Some(Role { cohort: entry_cohort, enters: true }),
                Err(now) => seen = now,
            }
        }
        let code = seen & COHORT;
        if seen & (PENDING | FAILED) != 0 || code == COHORT_NONE {
            return None;
        }
        (flags.fetch_or(PENDING, Relaxed) & (PENDING | FAILED) == 0)
            .then_some(Role { cohort: Some(usize::from(code) - 1), enters: false })
    }

    fn clear_pending(&self, bucket: Bucket) {
        self.0[bucket.index() as usize].fetch_and(!PENDING, Relaxed);
    }

    /// Was it not set before?
    fn set_failed(&self, bucket: Bucket) -> bool {
        self.0[bucket.index() as usize].fetch_or(FAILED, Relaxed) & FAILED == 0
    }
}

pub struct Epoch {
    /// Grows with each epoch of the process.
    pub id: u64,
    tick: Duration,
    workers: PerWorker<[Box<[Interval]>; 2]>,
    users: UserFlags,
    began: Duration,
    /// A client who waits longer for a head, and leaves, says something about the arm. Written by the watchdog.
    patience_us: AtomicU64,
    /// Intervals below this number are judged.
    judged: AtomicU64,
}

/// One worker's counts of one arm in one interval.
#[derive(Default)]
struct Interval {
    /// Number of the interval + 1; 0: never used.
    stamp: AtomicU64,
    requests: AtomicU32,
    answered: AtomicU32,
    /// Ended by the client or by the proxy itself.
    excused: AtomicU32,
    /// Of those: clients who left without a head after more than the patience.
    gave_up: AtomicU32,
    entered: AtomicU32,
    entered_settled: AtomicU32,
    users_failed: AtomicU64,
    /// Representing requests, by cohort of entry.
    at_risk: [AtomicU16; COHORTS],
    risk_settled: [AtomicU16; COHORTS],
}

fn add16(counter: &AtomicU16) {
    counter.store(counter.load(Relaxed).saturating_add(1), Relaxed);
}

fn take_back(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).saturating_sub(1), Relaxed);
}

fn take_back16(counter: &AtomicU16) {
    counter.store(counter.load(Relaxed).saturating_sub(1), Relaxed);
}

fn add(counter: &AtomicU32) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}

/// What a request carries from arrival to outcome.
#[derive(Clone, Copy)]
pub struct Ticket {
    interval: u64,
    arm: Arm,
    bucket: Option<Bucket>,
    role: Option<Role>,
}

/// How a request ended without a response head, for the evidence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Blamed on the upstream.
    Failed,
    /// Ended by the client or by the proxy: neither a success nor a failure of the arm.
    Excused,
    /// As `Excused`; the client left before a response head came.
    GaveUp,
}

/// One arm's counts of one final interval, all workers together.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct FinalCounts {
    pub requests: u64,
    /// Ended by the client or by the proxy itself: neither answered nor failed.
    pub excused: u64,
    /// Of those: clients who left without a head after an unusual wait.
    pub gave_up: u64,
    /// Failed, or not answered by the deadline.
    pub failed: u64,
    /// Users whose first request of the round this was, and how many of those failed.
    pub entered: u64,
    pub entered_failed: u64,
    /// By cohort of entry.
    pub first_failures: [u64; COHORTS],
    /// A bit in 64 for each user who failed, by bucket: enough to tell five users from one.
    pub users_failed: u64,
}

/// A final interval.
pub struct Final {
    pub end: Duration,
    /// The cohort of those who entered in it.
    pub entered_as: Option<usize>,
    pub stable: FinalCounts,
    pub new: FinalCounts,
}

impl Epoch {
    pub fn new(id: u64, tick: Duration, workers: usize, now: Duration) -> Self {
        let ring = || (0..RING).map(|_| Interval::default()).collect::<Box<[_]>>();
        let epoch = Epoch {
            id,
            tick,
            workers: PerWorker::new(workers, || [ring(), ring()]),
            users: UserFlags::new(),
            began: now,
            patience_us: AtomicU64::new(u64::MAX),
            judged: AtomicU64::new(0),
        };
        epoch.judged.store(epoch.interval_at(now), Relaxed);
        epoch
    }

    pub fn tick(&self) -> Duration {
        self.tick
    }

    /// The longest deadline that this ring can wait for.
    pub fn deadline_max(&self) -> Duration {
        self.tick * (RING as u32 - 64)
    }

    pub fn interval_at(&self, now: Duration) -> u64 {
        (now.as_nanos() / self.tick.as_nanos().max(1)) as u64
    }

    /// A request arrived. `bucket` is given where the user is known; `randomised` where the hash alone chose the arm.
    pub fn arrive(
        &self,
        worker: usize,
        arm: Arm,
        bucket: Option<Bucket>,
        randomised: Randomised,
        now: Duration,
    ) -> Ticket {
        let interval = self.interval_at(now);
        let cell = self.opened(worker, arm, interval);
        add(&cell.requests);
        let role = bucket
            .filter(|_| randomised == Randomised::Yes)
            .and_then(|bucket| self.users.represent(bucket, self.entry_cohort(interval)));
        if let Some(role) = role {
            if role.enters {
                add(&cell.entered);
            }
            if let Some(cohort) = role.cohort {
                add16(&cell.at_risk[cohort]);
            }
        }
        Ticket { interval, arm, bucket, role }
    }

    /// The head of the response is there: the arm has answered in time. How fast the body goes is the client's pace as well.
    pub fn head(&self, worker: usize, ticket: Ticket) {
        if let Some(cell) = self.open_cell(worker, ticket) {
            add(&cell.answered);
            if let Some((bucket, role)) = ticket.bucket.zip(ticket.role) {
                if role.enters {
                    add(&cell.entered_settled);
                }
                if let Some(cohort) = role.cohort {
                    add16(&cell.risk_settled[cohort]);
                }
                self.users.clear_pending(bucket);
            }
        } else if let Some((bucket, _)) = ticket.bucket.zip(ticket.role) {
            // Judged as unanswered: that was the failure, whatever comes later.
            self.users.set_failed(bucket);
        }
    }

    /// The body broke after [`Epoch::head`]: a failure after all. If the interval is judged already it counts in the present one.
    pub fn broke(&self, worker: usize, ticket: Ticket, now: Duration) {
        let represented = ticket.bucket.zip(ticket.role);
        let newly = |bucket: Bucket| self.users.set_failed(bucket);
        if let Some(cell) = self.open_cell(worker, ticket) {
            take_back(&cell.answered);
            self.mark(cell, ticket.bucket);
            if let Some((_, role)) = represented.filter(|(bucket, _)| newly(*bucket)) {
                if role.enters {
                    take_back(&cell.entered_settled);
                }
                if let Some(cohort) = role.cohort {
                    take_back16(&cell.risk_settled[cohort]);
                }
            }
            return;
        }
        let cell = self.opened(worker, ticket.arm, self.interval_at(now));
        add(&cell.requests);
        self.mark(cell, ticket.bucket);
        if let Some(cohort) =
            represented.filter(|(bucket, _)| newly(*bucket)).and_then(|(_, role)| role.cohort)
        {
            add16(&cell.at_risk[cohort]);
        }
    }

    /// The cell of a ticket whose interval is not judged yet.
    fn open_cell(&self, worker: usize, ticket: Ticket) -> Option<&Interval> {
        let cell = self.cell(worker, ticket.arm, ticket.interval);
        let open =
            ticket.interval >= self.judged.load(Acquire) && cell.stamp.load(Relaxed) == ticket.interval + 1;
        open.then_some(cell)
    }

    /// The request of `ticket` has ended without [`Epoch::head`]. Once, and on the worker that called [`Epoch::arrive`].
    pub fn end(&self, worker: usize, ticket: Ticket, ending: Ending, now: Duration) {
        let represented = ticket.bucket.zip(ticket.role);
        let Some(cell) = self.open_cell(worker, ticket) else {
            // Judged as unanswered: that was the failure, whatever came of it later.
            if let Some((bucket, _)) = represented {
                self.users.set_failed(bucket);
            }
            if ending == Ending::Failed {
                self.mark(self.opened(worker, ticket.arm, self.interval_at(now)), ticket.bucket);
            }
            return;
        };
        match ending {
            Ending::Failed => {
                self.mark(cell, ticket.bucket);
                if let Some((bucket, _)) = represented {
                    self.users.set_failed(bucket);
                }
            }
            Ending::Excused | Ending::GaveUp => {
                add(&cell.excused);
                let waited = now.saturating_sub(self.start(ticket.interval)).as_micros() as u64;
                if ending == Ending::GaveUp && waited > self.patience_us.load(Relaxed) {
                    add(&cell.gave_up);
                }
                if let Some((bucket, role)) = represented {
                    if role.enters {
                        add(&cell.entered_settled);
                    }
                    if let Some(cohort) = role.cohort {
                        add16(&cell.risk_settled[cohort]);
                    }
                    self.users.clear_pending(bucket);
                }
            }
        }
    }

    fn mark(&self, cell: &Interval, bucket: Option<Bucket>) {
        if let Some(bucket) = bucket {
            // Buckets are evenly spread already: their low bits make a fair choice of one bit in 64.
            let bits = cell.users_failed.load(Relaxed) | 1 << (bucket.index() % 64);
            cell.users_failed.store(bits, Relaxed);
        }
    }

    /// The cell of an interval, cleared when it comes round.
    fn opened(&self, worker: usize, arm: Arm, interval: u64) -> &Interval {
        let cell = self.cell(worker, arm, interval);
        if cell.stamp.load(Relaxed) != interval + 1 {
            for counter in [
                &cell.requests,
                &cell.answered,
                &cell.excused,
                &cell.gave_up,
                &cell.entered,
                &cell.entered_settled,
            ] {
                counter.store(0, Relaxed);
            }
            for counter in cell.at_risk.iter().chain(&cell.risk_settled) {
                counter.store(0, Relaxed);
            }
            cell.users_failed.store(0, Relaxed);
            cell.stamp.store(interval + 1, Release);
        }
        cell
    }

    /// One for all who enter in an interval, by the interval's start.
    fn entry_cohort(&self, interval: u64) -> Option<usize> {
        evidence::entry_cohort(self.start(interval).saturating_sub(self.began))
    }

    fn start(&self, interval: u64) -> Duration {
        Duration::from_nanos(self.tick.as_nanos() as u64 * interval)
    }

    fn cell(&self, worker: usize, arm: Arm, interval: u64) -> &Interval {
        &self.workers.of(worker)[arm.index()][(interval % RING) as usize]
    }

    /// Judges the intervals that ended more than `deadline` ago, oldest first; each once. One caller: the watchdog.
    ///
    pub fn judge(&self, now: Duration, deadline: Duration, mut take: impl FnMut(Final)) {
        let deadline = deadline.min(self.deadline_max());
        self.patience_us.store((deadline / 4).as_micros() as u64, Relaxed);
        let Some(closed) = now.checked_sub(deadline) else { return };
        let until = self.interval_at(closed);
        // After a long sleep older intervals are overwritten or stale; they are skipped, not guessed.
        let from = self.judged.load(Relaxed).max(until.saturating_sub(RING / 2));
        for interval in from..until {
            self.judged.store(interval + 1, Release);
            take(Final {
                end: self.start(interval + 1),
                entered_as: self.entry_cohort(interval),
                stable: self.read(Arm::Stable, interval),
                new: self.read(Arm::New, interval),
            });
        }
    }

    /// Is everything judged that arrived up to `then`? So an epoch that ended then can be forgotten.
    pub fn judged_beyond(&self, then: Duration) -> bool {
        self.judged.load(Relaxed) > self.interval_at(then)
    }

    fn read(&self, arm: Arm, interval: u64) -> FinalCounts {
        let mut sum = FinalCounts::default();
        for worker in self.workers.iter() {
            let cell = &worker[arm.index()][(interval % RING) as usize];
            if cell.stamp.load(Acquire) != interval + 1 {
                continue;
            }
            let read = |c: &AtomicU32| u64::from(c.load(Relaxed));
            sum.requests += read(&cell.requests);
            let excused = read(&cell.excused);
            sum.excused += excused;
            sum.gave_up += read(&cell.gave_up);
            sum.failed += read(&cell.requests).saturating_sub(read(&cell.answered) + excused);
            sum.entered += read(&cell.entered);
            sum.entered_failed += read(&cell.entered).saturating_sub(read(&cell.entered_settled));
            for (sum, (at_risk, settled)) in
                sum.first_failures.iter_mut().zip(cell.at_risk.iter().zip(&cell.risk_settled))
            {
                *sum += u64::from(at_risk.load(Relaxed).saturating_sub(settled.load(Relaxed)));
            }
            sum.users_failed |= cell.users_failed.load(Relaxed);
        }
        sum
    }
}

/// Did the hash alone choose the arm? Who is pinned has no control in the other arm.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Randomised {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cohort::Salt;

    const TICK: Duration = Duration::from_millis(100);
    const DEADLINE: Duration = Duration::from_millis(250);

    fn epoch() -> Epoch {
        Epoch::new(1, TICK, 2, Duration::ZERO)
    }

    fn user(name: &str) -> Option<Bucket> {
        Some(Salt::new("s").bucket(name.as_bytes()))
    }

    fn judged(epoch: &Epoch, now_ms: u64) -> Vec<Final> {
        let mut all = vec![];
        epoch.judge(Duration::from_millis(now_ms), DEADLINE, |f| all.push(f));
        all
    }

    fn first_failures(all: &[Final]) -> u64 {
        all.iter().flat_map(|f| f.new.first_failures).sum()
    }

    #[test]
    fn an_interval_is_judged_once_and_only_when_final() {
        let epoch = epoch();
        let at = Duration::from_millis(10);
        let ticket = epoch.arrive(0, Arm::New, user("a"), Randomised::Yes, at);
        epoch.end(0, ticket, Ending::Failed, at);
        assert!(judged(&epoch, 349).is_empty());
        let first = judged(&epoch, 350);
        assert_eq!(first.len(), 1);
        let new = first[0].new;
        assert_eq!((new.requests, new.failed, new.entered, new.entered_failed), (1, 1, 1, 1));
        assert_eq!(first_failures(&first), 1);
        assert!(judged(&epoch, 350).is_empty());
    }

    #[test]
    fn a_user_who_retries_a_thousand_times_fails_once() {
        let epoch = epoch();
        for i in 0..1000 {
            let at = Duration::from_millis(i);
            let ticket = epoch.arrive((i % 2) as usize, Arm::New, user("a"), Randomised::Yes, at);
            epoch.end((i % 2) as usize, ticket, Ending::Failed, at);
        }
        let all = judged(&epoch, 5000);
        assert_eq!(all.iter().map(|f| f.new.requests).sum::<u64>(), 1000);
        assert_eq!(all.iter().map(|f| f.new.entered).sum::<u64>(), 1);
        assert_eq!(first_failures(&all), 1);
        assert_eq!(all.iter().fold(0, |b, f| b | f.new.users_failed).count_ones(), 1);
    }

    #[test]
    fn an_unanswered_request_is_a_failure_at_the_deadline_and_only_one() {
        let epoch = epoch();
        let hanging = epoch.arrive(0, Arm::New, user("a"), Randomised::Yes, Duration::ZERO);
        let all = judged(&epoch, 400);
        assert_eq!((all[0].new.failed, first_failures(&all)), (1, 1));
        epoch.head(0, hanging);
        // He has had his failure in this round: no further one counts.
        let again = epoch.arrive(0, Arm::New, user("a"), Randomised::Yes, Duration::from_millis(500));
        epoch.end(0, again, Ending::Failed, Duration::from_millis(500));
        assert_eq!(first_failures(&judged(&epoch, 2000)), 0);
    }

    #[test]
    fn a_client_that_goes_away_is_no_failure() {
        let epoch = epoch();
        let ticket = epoch.arrive(0, Arm::New, user("a"), Randomised::Yes, Duration::ZERO);
        epoch.end(0, ticket, Ending::Excused, Duration::from_millis(20));
        assert_eq!(judged(&epoch, 2000)[0].new.failed, 0);
    }

    #[test]
    fn a_body_that_breaks_is_a_failure_whenever_it_breaks() {
        for breaks_at in [20, 5_000] {
            let epoch = epoch();
            let ticket = epoch.arrive(0, Arm::New, user("a"), Randomised::Yes, Duration::ZERO);
            epoch.head(0, ticket);
            let mut all = if breaks_at > 1_000 { judged(&epoch, breaks_at) } else { vec![] };
            epoch.broke(0, ticket, Duration::from_millis(breaks_at));
            all.extend(judged(&epoch, breaks_at + 2_000));
            assert_eq!(all.iter().map(|f| f.new.failed).sum::<u64>(), 1, "at {breaks_at} ms");
            assert_eq!(first_failures(&all), 1, "at {breaks_at} ms");
        }
    }

    #[test]
    fn a_slow_reader_is_no_failure() {
        let epoch = epoch();
        let ticket = epoch.arrive(0, Arm::New, user("a"), Randomised::Yes, Duration::ZERO);
        epoch.head(0, ticket);
        assert_eq!(judged(&epoch, 60_000).iter().map(|f| f.new.failed).sum::<u64>(), 0);
    }

    #[test]
    fn pinned_users_are_counted_but_are_no_evidence() {
        let epoch = epoch();
        let ticket = epoch.arrive(0, Arm::New, user("a"), Randomised::No, Duration::ZERO);
        epoch.end(0, ticket, Ending::Failed, Duration::ZERO);
        let counts = judged(&epoch, 2000)[0].new;
        assert_eq!((counts.requests, counts.failed, counts.entered), (1, 1, 0));
    }

    #[test]
    fn a_ring_that_comes_round_starts_from_nothing() {
        let epoch = epoch();
        for lap in 0..3 {
            let at = TICK * (RING as u32 * lap);
            let ticket = epoch.arrive(0, Arm::Stable, user("a"), Randomised::Yes, at);
            epoch.head(0, ticket);
            let mut seen = 0;
            epoch.judge(at + TICK * 10, DEADLINE, |f| seen += f.stable.requests);
            assert_eq!(seen, 1, "lap {lap}");
        }
    }
}
