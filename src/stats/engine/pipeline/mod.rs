//! The engine: puts events into intervals, and final intervals into FIRST, ONCE and WINDOW
//! ([`super`]).
//!
//! Invariants: an event changes only the interval in which its request arrived; if that interval is
//! final, it changes only the counts of its failure; users, draws and scopes change in the order of
//! time.

mod clusters;
mod interval;
mod levels;
mod persistence;
mod randomization;
mod reading;
mod settle;
mod trailers;

use super::{
    DetectionLimit, EngineSettings, EventKind, FAILURES_MAX, FailedRequest, FinalInterval, IntervalCounts,
    LEVELS, Level, RequestEvent, RequestStart, SIGNALS, STRATA_MAX, Shares, Signal,
};
use crate::stats::arm::Arm;
use crate::stats::cluster_window::{self, ClusterWindows};
use crate::stats::cohort::Weight;
use crate::stats::engine::pipeline::randomization::Randomization;
use crate::stats::first_event::{
    self, FirstEventKind, FirstEventKinds, FirstEventTest, FirstEvents, UserMark,
};
use crate::stats::first_request::{FirstOutcome, FirstRequestTest};
use crate::stats::hasher::BuildHasher;
use crate::stats::histogram;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::latency::AgeTable;
use crate::stats::servers::{ServerClusters, ServerIndex};
use crate::stats::users::{Baseline, PagedTable, UserUnit};
use interval::{OpenInterval, OpenRequest, RequestOutcome, Scored, UnmarkedRequest, UserEffect, place};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// The users of a stratum are distinguished by bucket, those of the pooled comparison by unit.
const STRATUM_SHIFT: u32 = 4;
/// Raises with a budget of their own, per attempt.
const RAISES: u8 = 10;
/// Answers of stable that a latency table needs, and the time between two tables.
const TABLE_MIN: f64 = 5000.0;
const TABLE_EVERY: Duration = Duration::from_secs(60);

/// Number of rows in [`Engine::rows`].
const ROWS_TOLD: usize = 5;
/// Events whose users are prefetched together.
pub const AT_ONCE: usize = 32;
/// Maximum of intervals. A longer deadline is cut.
const INTERVALS_MAX: u64 = 4096;

/// FIRST and ONCE of all requests, or of one route.
#[derive(Clone, Debug)]
struct TestScope {
    first: FirstRequestTest,
    once: FirstEventTest,
    marks: PagedTable<UserMark>,
}

impl TestScope {
    fn new(shift: u32) -> TestScope {
        TestScope {
            first: FirstRequestTest::default(),
            once: FirstEventTest::default(),
            marks: PagedTable::new(shift),
        }
    }

    fn evidence(&self, signal: Signal) -> [f64; 2] {
        let (first, once) = (&self.first, &self.once);
        let slow = |level: Level| {
            let of = |kind| once.mixture(kind).mean();
            0.5 * of(FirstEventKind::Slow98(level as usize))
                + 0.5 * of(FirstEventKind::Slow999(level as usize))
        };
        match signal {
            Signal::Errors => [first.errors().mean(), once.mixture(FirstEventKind::Failed).mean()],
            Signal::ClientErrors => {
                [first.client_errors().mean(), once.mixture(FirstEventKind::ClientError).mean()]
            }
            Signal::Latency => [first.latency(Level::Flip).mean(), slow(Level::Flip)],
            // WINDOW has no row for these signals, so FIRST and ONCE also have its half.
            Signal::Redirects => {
                [2.0 * first.redirects().mean(), 2.0 * once.mixture(FirstEventKind::Redirected).mean()]
            }
            Signal::Duration => [0.0, 4.0 * once.mixture(FirstEventKind::Long).mean()],
            Signal::Empty => [0.0, 4.0 * once.mixture(FirstEventKind::Empty).mean()],
        }
    }

    fn notice(&self) -> [f64; 2] {
        let of = |kind| self.once.mixture(kind).mean();
        let notice = Level::Notice as usize;
        let slow = 0.5 * of(FirstEventKind::Slow98(notice)) + 0.5 * of(FirstEventKind::Slow999(notice));
        [self.first.latency(Level::Notice).mean(), slow]
    }
}

/// Share of the prior by row of WINDOW: body rank, slower than p98, than p99.9; failed; client
/// error.
/// The first three again for notice, which is an E of its own.
fn window_shares(shares: &Shares) -> [f64; cluster_window::ROWS] {
    let [errors, client_errors, latency, ..] = *shares;
    [latency / 2.0, latency / 4.0, latency / 4.0, errors, client_errors, 0.5, 0.25, 0.25]
}

const FAILED_ROW: usize = 3;
const NOTICE_ROWS: std::ops::Range<usize> = 5..8;
/// Index of notice in `carried`.
const NOTICE: usize = Signal::ALL.len();

fn window_rows(signal: Signal) -> std::ops::Range<usize> {
    match signal {
        Signal::Errors => 3..4,
        Signal::ClientErrors => 4..5,
        Signal::Latency => 0..3,
        Signal::Redirects | Signal::Duration | Signal::Empty => 0..0,
    }
}

/// The evidence of one attempt of one release.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: EngineSettings,
    weight: Weight,
    highest: Weight,
    draw: Randomization,
    drawn_at: Duration,
    /// Age of the draw when this process restored it.
    drawn_before: Duration,
    raises_left: u8,
    /// Number of draws so far that share one budget.
    again: f64,
    /// Prior mass of FIRST and ONCE of this draw.
    mass: f64,
    /// E of earlier draws: by signal, and for notice.
    carried: [f64; Signal::ALL.len() + 1],
    pooled: TestScope,
    strata: Vec<TestScope>,
    windows: ClusterWindows,
    detection_limit: Option<DetectionLimit>,
    baseline: Baseline,
    /// Relative latencies of stable's answers, and the table made from them.
    usual: Vec<f64>,
    table: Option<Arc<AgeTable>>,
    table_at: Duration,
    servers: ServerClusters,
    /// Absolute latencies of stable's answers, of all users.
    answers: Vec<f64>,
    /// Requests of stable, and failed ones, as a decaying average.
    failing: [f64; 2],
    /// Requests with a late head: a long exchange is no further evidence against them.
    late_heads: HashSet<u64, BuildHasher>,
    /// Slow requests of spells in progress. They count if the spell outlasts its limit.
    held: Vec<UserEffect>,
    outlasted: Vec<UserEffect>,
    exchanges: clusters::WholeExchanges,
    /// Requests of intervals before this one cannot become slow any more.
    marked_until: u64,
    /// Number of the oldest interval that is not final.
    oldest: u64,
    intervals: VecDeque<OpenInterval>,
    /// The last settled interval, emptied: its memory is reused.
    spare: OpenInterval,
    /// By request number, which the proxy assigns.
    open: HashMap<u64, OpenRequest, BuildHasher>,
    coin: u64,
}

impl Engine {
    /// `baseline`: learnt about users before the attempt.
    pub fn new(settings: EngineSettings, weight: Weight, baseline: Baseline, now: Duration) -> Engine {
        let strata = apart(settings.strata);
        let draw = Randomization::of_all(weight);
        let mut engine = Engine {
            settings,
            weight,
            highest: weight,
            draw,
            drawn_at: now,
            drawn_before: Duration::ZERO,
            raises_left: RAISES,
            again: 0.0,
            mass: 1.0,
            carried: [0.0; Signal::ALL.len() + 1],
            pooled: TestScope::new(0),
            strata: (0..strata).map(|_| TestScope::new(STRATUM_SHIFT)).collect(),
            windows: ClusterWindows::new(window_shares(&settings.shares), draw.split(), settings.alpha),
            detection_limit: None,
            baseline,
            usual: vec![0.0; histogram::BUCKETS],
            table: None,
            table_at: now,
            servers: ServerClusters::new(settings.warm_up),
            answers: vec![0.0; histogram::BUCKETS],
            failing: [0.0; 2],
            late_heads: HashSet::default(),
            held: vec![],
            outlasted: vec![],
            exchanges: clusters::WholeExchanges::new(),
            marked_until: number(now, settings.tick),
            oldest: number(now, settings.tick),
            intervals: VecDeque::new(),
            spare: OpenInterval::default(),
            open: HashMap::default(),
            coin: 0x9e37_79b9_7f4a_7c15,
        };
        engine.warm_up_from_the_start();
        engine
    }

    /// The learnt baseline of users, for the next attempt.
    pub fn into_baseline(self) -> Baseline {
        self.baseline
    }

    /// A server has started and warms up.
    pub fn server_starts(&mut self, place: ServerIndex, now: Duration) {
        self.servers.server_warms_up(place, now);
    }

    /// The servers of an arm have other numbers; see [`ServerClusters::renumber`].
    pub fn servers_renumbered(&mut self, arm: Arm, before: &[Option<u8>]) {
        self.servers.renumber(arm, before);
    }

    pub fn servers(&self) -> &ServerClusters {
        &self.servers
    }

    /// Takes over the servers of an earlier attempt. Warm-ups and bets begin anew.
    pub fn knows_servers(&mut self, mut servers: ServerClusters) {
        servers.begin_anew(self.settings.warm_up);
        self.servers = servers;
        self.warm_up_from_the_start();
    }

    /// An attempt that begins with users in `new` warms up at once.
    fn warm_up_from_the_start(&mut self) {
        if self.weight > Weight::ZERO {
            self.servers.release_warms_up(self.drawn_at);
        }
    }

    /// Sets the deferred signals. Final outcomes are scored as before, and WINDOW records which of
    /// its windows overlap the deferred time.
    pub fn defer(&mut self, mut signals: [bool; SIGNALS], now: Duration) {
        // Slowness does not count either while `new` warms up.
        let warming = self.servers.warming(now).is_some();
        signals[Signal::Latency as usize] |= warming;
        let deferred = Signal::ALL.into_iter().zip(signals).filter(|(_, deferred)| *deferred);
        let rows = deferred
            .fold(cluster_window::ScoreSet::default(), |rows, (signal, _)| rows.with(window_rows(signal)));
        self.windows.defer(if warming { rows.with(NOTICE_ROWS) } else { rows });
    }

    /// Applies edited latency settings. Final outcomes keep their scores.
    pub fn set_levels(&mut self, latency_tolerance: f64, latency_notice: f64, latency_floor: Duration) {
        self.settings = EngineSettings { latency_tolerance, latency_notice, latency_floor, ..self.settings };
    }

    pub fn weight(&self) -> Weight {
        self.weight
    }

    /// The user of a request whose arm the hash alone chose, under the weight in force.
    /// WINDOW takes all such requests, whether or not their users are in the draw: it compares with
    /// a time without users in `new`.
    fn placed(&self, request: &RequestStart) -> Option<UserUnit> {
        let arm = |unit: UserUnit| if unit.bucket() < self.weight.parts() { Arm::New } else { Arm::Stable };
        let counts = request.drawn && request.at >= self.drawn_at;
        request.unit.filter(|unit| counts && arm(*unit) == request.arm)
    }

    fn scopes(&mut self) -> impl Iterator<Item = &mut TestScope> {
        std::iter::once(&mut self.pooled).chain(&mut self.strata)
    }

    /// Fetches the memory of the users of at most [`AT_ONCE`] events, before they are pushed.
    /// It is scattered, and fetching it one by one took most of the time.
    pub fn prefetch(&self, few: &[RequestEvent]) {
        let touch = |unit: UserUnit| self.baseline.touch(unit).wrapping_add(self.pooled.marks.touch(unit));
        let touched = few.iter().filter_map(|event| event.request.unit).map(touch);
        std::hint::black_box(touched.fold(0, u32::wrapping_add));
    }

    pub fn push(&mut self, event: &RequestEvent) {
        self.push_with(event, None);
    }

    /// `ends`: what [`Engine::ended`] gives for this event, if the caller knows it.
    pub fn push_with(&mut self, event: &RequestEvent, ends: Option<FirstEvents>) {
        let RequestEvent { request, what, after } = *event;
        let at = number(request.at, self.settings.tick);
        if at < self.oldest {
            return self.push_late(&request, what, after, ends);
        }
        let index = (at - self.oldest) as usize;
        // No clock jumps this far ahead: the caller's clock is monotonic, and `tick` follows it.
        if index as u64 >= 2 * INTERVALS_MAX {
            return;
        }
        self.open_interval(index);
        if what == EventKind::Arrived {
            return self.arrive(&request, at);
        }
        let interval = &mut self.intervals[index];
        let counts = &mut interval.counts[request.arm.index()];
        match what {
            EventKind::Answered | EventKind::Redirected => counts.answered += 1,
            EventKind::ClientError => {
                counts.answered += 1;
                counts.client_errors += 1;
            }
            EventKind::Failed => interval.failed(&request),
            EventKind::Excused => counts.excused += 1,
            EventKind::Left { unusual } => {
                counts.excused += 1;
                counts.gave_up += u64::from(unusual);
            }
            EventKind::Broke => {
                counts.answered = counts.answered.saturating_sub(1);
                interval.failed(&request);
            }
            EventKind::EndedAsClientError => return self.end_as_client_error(&request, index),
            EventKind::Arrived | EventKind::Ended { .. } => {}
        }
        if matches!(what, EventKind::Answered | EventKind::Redirected) {
            self.learn(&request, after);
        }
        match what {
            EventKind::Ended { size, client_slow } => {
                let ends = ends.unwrap_or_else(|| self.ended(event, size, client_slow));
                self.take_end(event, size, client_slow, ends, index);
            }
            _ => self.outcome(&request, what, after, index),
        }
    }

    fn open_interval(&mut self, index: usize) {
        if index >= self.intervals.len() {
            let table = self.table().cloned();
            let spare = &mut self.spare;
            let opened = || OpenInterval { table: table.clone(), ..std::mem::take(spare) };
            self.intervals.resize_with(index + 1, opened);
        }
    }

    fn arrive(&mut self, request: &RequestStart, at: u64) {
        let index = (at - self.oldest) as usize;
        let scopes = 1 + self.strata.len();
        let cohort = self.cohort(at);
        self.intervals[index].counts[request.arm.index()].requests += 1;
        if let Some(place) = place(request) {
            self.servers.came(place, request.at);
        }
        let Some(unit) = self.placed(request) else { return };
        let interval = &mut self.intervals[index];
        let compared = self.draw.side(unit) == Some(request.arm);
        let factor = self.baseline.factor(unit);
        interval.waiting += 1;
        interval.entered.resize(scopes, PerArm::default());
        let mut first = [None; 2];
        let of_stratum = request.stratum.map(|s| 1 + usize::from(s));
        for (flag, number) in first.iter_mut().zip([Some(0), of_stratum]) {
            let Some(number) = number.filter(|n| compared && *n < scopes) else { continue };
            let scope = if number == 0 { &mut self.pooled } else { &mut self.strata[number - 1] };
            let mark = scope.marks.at(unit);
            if !mark.seen() {
                *mark = UserMark::entered(cohort);
                *interval.entered[number].of(request.arm) += 1;
                let table = interval.table.as_ref();
                *flag = Some(scope.first.enter(at, request.arm, factor, table, place(request)));
            }
        }
        let (arm, stratum) = (request.arm, request.stratum);
        let place = place(request);
        let pending = self.intervals[index].pending.len() as u32;
        if let Some(place) = place {
            let (factor, came_out) = (factor as f32, RequestOutcome::Not);
            let waiting = UnmarkedRequest { id: request.id, place, unit, factor, came_out };
            self.intervals[index].pending.push(waiting);
        }
        let answered = false;
        let open = OpenRequest { interval: at, unit, arm, stratum, place, factor, pending, first, answered };
        self.open.insert(request.id, open);
    }

    /// Learns stable's answers, relative to the user's own past.
    fn learn(&mut self, request: &RequestStart, after: Duration) {
        if request.arm != Arm::Stable {
            return;
        }
        let us = self.settings.compared_us(after, 1.0);
        self.answers[bucket(after.as_secs_f64() * 1e6)] += 1.0;
        let factor = match request.unit {
            Some(unit) if self.highest == Weight::ZERO => {
                self.coin ^= self.coin << 13;
                self.coin ^= self.coin >> 7;
                self.coin ^= self.coin << 17;
                self.baseline.learn(unit, us, self.coin as f64 / u64::MAX as f64);
                self.baseline.factor(unit)
            }
            Some(unit) => self.baseline.factor(unit),
            None => 1.0,
        };
        self.usual[bucket(us / factor)] += 1.0;
    }

    /// Takes the outcome of a drawn request whose interval is not final.
    fn outcome(&mut self, request: &RequestStart, what: EventKind, after: Duration, index: usize) {
        let at = self.oldest + index as u64;
        let Some(open) = self.open.get_mut(&request.id).filter(|open| open.interval == at) else {
            // Not drawn; or answered, not a first request, and broken now.
            if what == EventKind::Broke
                && let Some(unit) = self.placed(request)
            {
                let interval = &mut self.intervals[index];
                let kinds = failed_kinds(interval.table.is_some());
                interval.bad.push(UserEffect::by(request, unit, kinds));
                interval.scored.push(Scored::correction(unit));
            }
            return;
        };
        // A repeated report. Counted twice, it would hide another request without an answer.
        if open.answered && what != EventKind::Broke {
            return;
        }
        // An interval has no pending requests once it is marked.
        let answers = matches!(what, EventKind::Answered | EventKind::ClientError | EventKind::Redirected);
        if at >= self.marked_until
            && let Some(pending) = self.intervals[index].pending.get_mut(open.pending as usize)
        {
            (pending.place, pending.came_out) = match what {
                EventKind::Failed | EventKind::Broke => {
                    (place(request).unwrap_or(pending.place), RequestOutcome::Failed)
                }
                _ if answers => {
                    let limit = self.servers.limit().map(|limit| limit.mul_f64(open.factor.max(1.0)));
                    let late = limit.is_some_and(|limit| after > limit);
                    let came_out = if late { RequestOutcome::Late } else { RequestOutcome::Answered };
                    if late {
                        self.late_heads.insert(request.id);
                    }
                    (place(request).unwrap_or(pending.place), came_out)
                }
                _ => (pending.place, RequestOutcome::Excused),
            };
        }
        if answers && let Some(place) = place(request) {
            self.servers.answers(place, request.at, request.at + after);
        }
        let interval = &mut self.intervals[index];
        let table = interval.table.as_ref();
        let exit = match what {
            EventKind::Arrived | EventKind::Ended { .. } | EventKind::EndedAsClientError => return,
            EventKind::Answered => FirstOutcome::Done,
            EventKind::ClientError => FirstOutcome::ClientError,
            EventKind::Redirected => FirstOutcome::Redirected,
            EventKind::Failed | EventKind::Broke => FirstOutcome::Failed,
            EventKind::Excused | EventKind::Left { .. } => FirstOutcome::Censored,
        };
        let divisors = match request.arm {
            Arm::New => self.settings.divisors(),
            Arm::Stable => [1.0; LEVELS],
        };
        let quicker = |by| bucket(self.settings.compared_us(after, by) / open.factor);
        let buckets = divisors.map(quicker);
        let as_it_was = quicker(1.0);
        let scopes = [Some(&mut self.pooled), open.stratum.and_then(|s| self.strata.get_mut(usize::from(s)))];
        for (scope, first) in scopes.into_iter().zip(open.first) {
            let (Some(scope), Some(number)) = (scope, first) else { continue };
            match what {
                EventKind::Broke => scope.first.broke(open.interval, number),
                _ => scope.first.exit(open.interval, number, exit, buckets),
            }
        }
        let kinds_of = |buckets: [usize; LEVELS]| {
            let kinds = match (exit, table) {
                (FirstOutcome::Failed, table) => failed_kinds(table.is_some()),
                (_, Some(table)) => slow_kinds(table, buckets),
                (_, None) => FirstEventKinds::default(),
            };
            match exit {
                FirstOutcome::ClientError => kinds.with(FirstEventKind::ClientError),
                FirstOutcome::Redirected => kinds.with(FirstEventKind::Redirected),
                _ => kinds,
            }
        };
        let ends = FirstEvents { all: kinds_of([as_it_was; LEVELS]), counted: kinds_of(buckets) };
        let kinds = ends.counted;
        if ends != FirstEvents::default() {
            interval
                .bad
                .push(UserEffect { stratum: open.stratum, ..UserEffect::by(request, open.unit, ends) });
        }
        if what == EventKind::Broke {
            interval.scored.push(Scored::correction(open.unit));
        } else {
            let rank = match table {
                Some(_) if exit == FirstOutcome::Failed => [1.0; LEVELS],
                Some(table) => buckets.map(|b| table.rank(b)),
                None => [0.0; LEVELS],
            };
            interval.scored.push(Scored {
                cluster: open.unit.cluster() as u16,
                place: place(request),
                rank,
                kinds,
                correction: false,
            });
            interval.waiting = interval.waiting.saturating_sub(1);
        }
        open.answered = true;
        let may_break =
            matches!(exit, FirstOutcome::Done | FirstOutcome::ClientError | FirstOutcome::Redirected)
                && open.first.iter().any(Option::is_some);
        if may_break {
            interval.kept.push(request.id);
        } else {
            self.open.remove(&request.id);
        }
    }

    /// Takes an event of a request whose interval is final. A request without an answer has failed
    /// already, so only events after the head count.
    fn push_late(
        &mut self,
        request: &RequestStart,
        what: EventKind,
        after: Duration,
        ends: Option<FirstEvents>,
    ) {
        let tick = self.settings.tick;
        let index = (number(request.at + after, tick).saturating_sub(self.oldest)) as usize;
        let late = matches!(
            what,
            EventKind::Failed | EventKind::Broke | EventKind::Ended { .. } | EventKind::EndedAsClientError
        );
        if !late || index as u64 >= 2 * INTERVALS_MAX {
            return;
        }
        self.open_interval(index);
        match what {
            EventKind::Ended { size, client_slow } => {
                let event = RequestEvent { request: *request, what, after };
                let ends = ends.unwrap_or_else(|| self.ended(&event, size, client_slow));
                return self.take_end(&event, size, client_slow, ends, index);
            }
            EventKind::EndedAsClientError => return self.end_late_as_client_error(request, index),
            _ => {}
        }
        let placed = self.placed(request);
        let interval = &mut self.intervals[index];
        if what == EventKind::Failed && request.arm == Arm::Stable {
            // It already counts as a failure in its own interval.
            interval.counts[request.arm.index()].mark(request.unit);
            return;
        }
        interval.failed(request);
        // The request of `new` already counts in its own interval, and as slow there. To count it
        // as a failure now would blame the arm with the longer time-out.
        if what == EventKind::Failed {
            return;
        }
        interval.counts[request.arm.index()].requests += 1;
        if let Some(unit) = placed {
            let kinds = failed_kinds(interval.table.is_some());
            interval.bad.push(UserEffect::by(request, unit, kinds));
            interval.scored.push(Scored::correction(unit));
        }
    }

    /// Advances the time. Intervals become final `deadline` after their end and are passed to
    /// `take`, oldest first.
    pub fn tick(&mut self, now: Duration, deadline: Duration, mut take: impl FnMut(FinalInterval<'_>)) {
        let tick = self.settings.tick;
        let deadline = deadline.min(tick * INTERVALS_MAX as u32);
        let until = number(now.saturating_sub(deadline), tick);
        let units = self.windows.units();
        self.mark_servers(now);
        let warmed = self.servers.warming(now).is_some();
        self.servers.tick(now);
        if warmed && self.servers.warming(now).is_none() {
            // Latency windows must not contain a warm-up, so long windows begin now.
            self.windows.begin_anew();
        }
        self.decide_held(now);
        while self.oldest < until {
            let mut interval = self.intervals.pop_front().unwrap_or_default();
            let at = self.oldest;
            self.oldest += 1;
            self.expire(at, &mut interval);
            let calm = self.servers.calm_since(tick * u32::try_from(at).unwrap_or(u32::MAX));
            if !calm {
                self.excuse(at, &mut interval, now);
            }
            interval.bad.append(&mut self.outlasted);
            self.learn_failures(&interval.counts[Arm::Stable.index()]);
            take(FinalInterval {
                end: tick * u32::try_from(at + 1).unwrap_or(u32::MAX),
                new: interval.counts[Arm::New.index()],
                stable: interval.counts[Arm::Stable.index()],
                failures: &interval.failures,
            });
            self.settle(at, interval);
            if self.intervals.is_empty() && self.open.is_empty() {
                self.oldest = until;
            }
        }
        if self.windows.units() > units {
            self.detection_limit = self.look_at_sight();
        }
        let (share, divisors) = (self.draw.share(), self.settings.divisors());
        let present = number(now, tick);
        let servers = &self.servers;
        for scope in std::iter::once(&mut self.pooled).chain(&mut self.strata) {
            scope.first.close(present, share);
            scope.first.judge(now, tick, deadline, divisors, servers);
        }
        if now >= self.table_at + TABLE_EVERY || self.table.is_none() {
            self.tabulate(now);
        }
    }

    /// The cohort of all users who enter in an interval, by the interval's start.
    fn cohort(&self, interval: u64) -> Option<usize> {
        let start = Duration::from_nanos((self.settings.tick.as_nanos() as u64).saturating_mul(interval));
        first_event::entry_cohort(start.saturating_sub(self.drawn_at) + self.drawn_before)
    }
}

/// Number of strata. A single route needs no stratum.
fn apart(strata: usize) -> usize {
    if strata > 1 { strata.min(STRATA_MAX) } else { 0 }
}

fn alone(of: [f64; 2], part: usize) -> [f64; 2] {
    std::array::from_fn(|i| if i == part { of[i] } else { 0.0 })
}

fn number(at: Duration, tick: Duration) -> u64 {
    // 64 bits of nanoseconds are five hundred years; a division of 128 bits is a call.
    at.as_nanos() as u64 / (tick.as_nanos() as u64).max(1)
}

fn bucket(us: f64) -> usize {
    histogram::index(us.max(0.0).round() as u64)
}

/// A failure is no answer, however fast: it counts as the slowest possible.
fn failed_kinds(compares_latency: bool) -> FirstEventKinds {
    let failed = FirstEventKinds::default().with(FirstEventKind::Failed);
    if !compares_latency {
        return failed;
    }
    (0..LEVELS).fold(failed, |kinds, level| {
        kinds.with(FirstEventKind::Slow98(level)).with(FirstEventKind::Slow999(level))
    })
}

/// All kinds of events that slowness causes.
const SLOWNESS: FirstEventKinds = FirstEventKinds(0b11_1100 | 1 << (4 + 2 * LEVELS));

/// Slower than nearly all of stable's answers, by the bucket of each level.
fn slow_kinds(table: &AgeTable, buckets: [usize; LEVELS]) -> FirstEventKinds {
    buckets.into_iter().enumerate().fold(FirstEventKinds::default(), |kinds, (level, bucket)| {
        let [p98, p999] = table.slow(bucket);
        let kinds = if p98 { kinds.with(FirstEventKind::Slow98(level)) } else { kinds };
        if p999 { kinds.with(FirstEventKind::Slow999(level)) } else { kinds }
    })
}
