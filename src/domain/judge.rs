//! The judge of one release: final intervals in, a judgement out.
//!
//! It weighs the comparison, the ceilings and stable's own state against each other.
//! Invariants: pure (time is an argument); never blames `new` for an incident of both arms; never
//! takes missing data for health; a trip has its cause and its numbers. It decides in codes and
//! numbers ([`ruling`]); `describe` makes the sentences.
//!
//! Rules that separate a common outage from a bad `new`:
//! - An interval is judged when it is final, so unequal time-outs have no effect.
//! - A ceiling trips at once only if stable is clearly better (see `ceiling`), and does not trip if
//!   the last ten seconds are not bad. A ceiling that stable itself exceeds before `new` has users
//!   does not fit ([`crate::domain::judge::trailing_windows`]).
//! - While stable is in [`crate::domain::judge::stable_trouble`], and for a moment after, a signal
//!   is *deferred*: every interval is scored as before, but the wealth won in that time is set
//!   [`crate::domain::judge::set_aside`]. It counts if `new` is still clearly worse for ten
//!   seconds, or if E is overwhelming for a minute of trouble. Failures of stable defer errors and
//!   latency (a failed request did not succeed in time either), slowness defers latency, client
//!   errors defer client errors.
//! - Both arms bad for 30 s is a separate cause: a precaution, because `new` may be the load on a
//!   shared database.

pub(crate) mod bad_requests;
pub(crate) mod ceiling;
pub mod deadline;
pub(crate) mod notice;
pub(crate) mod onset;
mod own_counts;
pub mod own_past;
pub(crate) mod ruling;
pub(crate) mod set_aside;
pub(crate) mod stable_trouble;
pub(crate) mod suspicion;
pub(crate) mod trailing_windows;
pub(crate) mod unanswered;
pub(crate) mod verdict_inputs;
mod without_control;

use super::verdict::{
    Cause, Judgement, JudgementEvidence, StandingFinding, Verdict, VerdictLimits, WatchdogState,
};
use crate::domain::judge::bad_requests::BadRequests;
use crate::domain::judge::ceiling::{
    BAD_MIN, CeilingInterval, CeilingSample, CeilingWindow, NEAR, RECENT, WINDOW,
};
use crate::domain::judge::notice::LatencyNotice;
use crate::domain::judge::onset::{BadReason, Onsets, SlowFrom};
use crate::domain::judge::own_counts::{interval, take_failures};
use crate::domain::judge::own_past::OwnPast;
use crate::domain::judge::set_aside::{EvidenceParts, SetAside};
use crate::domain::judge::stable_trouble::StableState;
use crate::domain::judge::trailing_windows::{FittedCeiling, StableBefore, TrailingWindows};
use crate::domain::judge::unanswered::Unanswered;
use crate::domain::judge::verdict_inputs::{
    BAD_NOW_MIN, CeilingCrossing, CeilingState, ComparisonState, OVERWHELMING, SUSPICIOUS, TestResult,
    VerdictInputs, WaitingUsers,
};
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::engine::{self, Engine, EventKind, FinalInterval, Level, RequestEvent};
use crate::stats::first_event::FirstEventKind;
use crate::stats::histogram::Histogram;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::servers::{ServerIndex, ServerMark};
use ruling::{Blind, Figures, Measured, Progress, Ruling, Why};
use std::sync::Arc;
use std::time::Duration;

/// Blind after this long without a request of stable, while `new` has some.
const SILENCE: Duration = RECENT;
/// Blind after this long without a final interval. An interval is final after a minute at the
/// latest.
const STALE: Duration = Duration::from_secs(75);
/// The share of answers above `latency_p99_max` that means "p99 above it".
pub const SLOW_SHARE: f64 = 0.01;
/// The quantile of stable's latency above which answers count as slow here.
const USUAL: f64 = 0.9;
/// Minimum difference between the arms' shares of small bodies for a trip.
const SMALL_GAP: f64 = 0.5;
/// The stratum of a signal when no route stands out.
const ALL: &str = "all";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TickSettings {
    OnTime,
    /// The thread was starved, which may itself cause the observation.
    Late,
}

/// Durations of whole exchanges, by completion.
#[derive(Clone, Copy)]
pub struct ExchangeDurations<'a> {
    pub new: &'a Histogram,
    pub stable: &'a Histogram,
}

impl ExchangeDurations<'_> {
    fn sample(&self, limit: Duration) -> CeilingSample {
        CeilingSample {
            requests: PerArm::new(self.new.total(), self.stable.total()),
            bad: PerArm::new(self.new.over(limit), self.stable.over(limit)),
        }
    }
}

#[derive(Clone, Copy)]
pub struct JudgeInput<'a> {
    /// Monotonic, of the same clock as [`CeilingInterval::end`].
    pub now: Duration,
    pub ticks: TickSettings,
    pub minute: ExchangeDurations<'a>,
    /// The last ten seconds.
    pub recent: ExchangeDurations<'a>,
}

impl JudgeInput<'_> {
    /// Of the latency of `new` and of stable, in the last minute.
    fn quantiles(&self, q: f64) -> [Option<Duration>; 2] {
        [self.minute.new, self.minute.stable].map(|of| of.quantile(q))
    }
}

/// What the comparison and the ceilings say at one look.
#[derive(Clone, Copy)]
struct Says {
    compared: TestResult,
    errors: TestResult,
    latency: TestResult,
}

impl Says {
    fn waits(&self) -> bool {
        [self.compared, self.errors, self.latency].contains(&TestResult::Waits)
    }
}

#[derive(Clone, Debug)]
pub struct Judge {
    limits: VerdictLimits,
    engine: Engine,
    /// Names of the strata.
    strata: Arc<[Arc<str>]>,
    window: CeilingWindow,
    /// When each ceiling (errors, latency) was first over without a break.
    over_since: [Option<Duration>; 2],
    /// When stable's last ten seconds were last bad, by the ceilings' limits of errors and latency.
    stable_bad: [Option<Duration>; 2],
    stable: StableState,
    /// By user: failures of final intervals, and successes above `latency_p99_max`.
    failures: TrailingWindows,
    slow: TrailingWindows,
    /// The same of stable, before `new` had users.
    before: [StableBefore; 2],
    learnt: Duration,
    /// Time of the last tick.
    ticked: Duration,
    silence: Unanswered,
    /// A longer answer is late. Known from the first answer of either arm on.
    usual_wait: Option<Duration>,
    has_answered: bool,
    /// Redirects, long exchanges and small bodies of the last minute, by user.
    seen: [[BadRequests; 2]; 3],
    /// Small bodies of the last ten seconds.
    small_now: [BadRequests; 2],
    aside: SetAside,
    /// Counts since the onset of the cause of a trip.
    onsets: Onsets,
    notice: LatencyNotice,
    /// `new` against its own past, where there is no control.
    own_past: OwnPast,
    /// The release has been complete for long, so that comparison has ended.
    soaked: bool,
    /// Start of `new` being clearly worse, and of overwhelming evidence, while a signal is
    /// deferred.
    worse_since: Option<Duration>,
    overwhelming_since: Option<Duration>,
    /// The last final interval with a request of stable, and of new.
    seen_stable: Option<Duration>,
    seen_new: Option<Duration>,
    started: Option<Duration>,
}

impl Judge {
    /// `strata`: names of the engine's strata.
    pub fn new(limits: VerdictLimits, engine: Engine, strata: Arc<[Arc<str>]>) -> Judge {
        Judge {
            limits,
            engine,
            strata,
            window: CeilingWindow::default(),
            over_since: [None; 2],
            stable_bad: [None; 2],
            stable: StableState::default(),
            failures: TrailingWindows::default(),
            slow: TrailingWindows::default(),
            before: [StableBefore::default(); 2],
            learnt: Duration::ZERO,
            ticked: Duration::ZERO,
            silence: Unanswered::default(),
            usual_wait: None,
            has_answered: false,
            seen: [(); 3].map(|()| Arm::BOTH.map(|_| BadRequests::new(WINDOW))),
            small_now: Arm::BOTH.map(|_| BadRequests::new(RECENT)),
            aside: SetAside::default(),
            onsets: Onsets::default(),
            notice: LatencyNotice::default(),
            own_past: OwnPast::default(),
            soaked: false,
            worse_since: None,
            overwhelming_since: None,
            seen_stable: None,
            seen_new: None,
            started: None,
        }
    }

    /// Applies edited limits from the next look on. Only the evidence of an edited level restarts.
    pub fn set_limits(&mut self, limits: VerdictLimits) {
        let was = self.limits;
        let floor = was.latency_floor != limits.latency_floor;
        if floor || was.latency_tolerance != limits.latency_tolerance {
            self.engine.restart_level(Level::Flip);
        }
        if floor || was.latency_notice != limits.latency_notice {
            self.engine.restart_level(Level::Notice);
            self.notice.end(notice::BY_EDIT);
        }
        if was.alpha != limits.alpha {
            self.engine.edit_alpha(limits.alpha);
        }
        if was.latency_p99_max != limits.latency_p99_max {
            // Counts above the old limit are no evidence about the new limit.
            (self.slow, self.before[1]) = (TrailingWindows::default(), StableBefore::default());
        }
        self.engine.set_levels(limits.latency_tolerance, limits.latency_notice, limits.latency_floor);
        self.limits = limits;
    }

    /// Ends a finding that a person has accepted.
    pub fn accept(&mut self, finding: StandingFinding) {
        match finding {
            StandingFinding::Notice => {
                self.engine.end_notice();
                self.notice.end(notice::BY_HAND);
            }
            StandingFinding::Alarm => self.own_past.begin_anew(),
        }
    }

    pub fn notice(&mut self) -> &mut LatencyNotice {
        &mut self.notice
    }

    /// Sets the strata.
    pub fn stratify(&mut self, strata: Arc<[Arc<str>]>, now: Duration) {
        self.engine.stratify(strata.len(), now);
        self.strata = strata;
    }

    /// The outcomes of the last ten minutes.
    pub fn onsets(&self) -> &Onsets {
        &self.onsets
    }

    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    pub fn into_engine(self) -> Engine {
        self.engine
    }

    /// Stable's usual values and its trouble, for the next attempt.
    pub fn stable(&self) -> &StableState {
        &self.stable
    }

    /// Stable's values before `new` had users.
    pub fn before(&self) -> [StableBefore; 2] {
        self.before
    }

    pub fn knows_stable(&mut self, stable: StableState, before: [StableBefore; 2]) {
        (self.stable, self.before) = (stable, before);
    }

    /// Advances the time: judges the intervals that became final, `deadline` after their end, and
    /// passes them to `told`.
    pub fn tick(&mut self, now: Duration, deadline: Duration, mut told: impl FnMut(&CeilingInterval)) {
        let mut finals = vec![];
        self.engine.defer(self.stable.defers(now), now);
        let (failures, stable) = (&mut self.failures, &mut self.stable);
        self.engine.tick(now, deadline, |of| {
            finals.push(interval(&of));
            take_failures(failures, &of);
            stable.take_final(&of);
        });
        self.stable.tick(now, deadline);
        self.usual_wait = self.has_answered.then_some(deadline);
        self.seen.iter_mut().flatten().chain(&mut self.small_now).for_each(|bad| bad.close(now));
        self.ticked = now;
        self.slow.close(now);
        self.learn_before(now);
        self.tick_past(now);
        for of in &finals {
            self.push(of);
            told(of);
        }
    }

    /// Saves the state that a restart must keep.
    pub fn save(&self, now: Duration, encoder: &mut Encoder) {
        self.before.iter().flat_map(StableBefore::parts).for_each(|part| encoder.f64(part));
        self.engine.save(now, encoder);
    }

    /// The judge as saved. `None`: saved with other routes, or by another version.
    pub fn restore(
        limits: VerdictLimits,
        settings: engine::EngineSettings,
        strata: Arc<[Arc<str>]>,
        decoder: &mut Decoder<'_>,
        now: Duration,
    ) -> Option<Judge> {
        let mut before = || Some(StableBefore::from_parts([decoder.f64()?, decoder.f64()?]));
        let before = [before()?, before()?];
        let engine = Engine::restore(settings, decoder, now)?;
        Some(Judge { before, ..Judge::new(limits, engine, strata) })
    }

    /// Takes a final interval, each once and in order.
    fn push(&mut self, interval: &CeilingInterval) {
        self.window.push(interval);
        self.started.get_or_insert(interval.end);
        if interval.requests.stable > 0 {
            self.seen_stable = Some(interval.end);
        }
        if interval.requests.new > 0 {
            self.seen_new = Some(interval.end);
        }
    }

    pub fn look(&mut self, look: &JudgeInput<'_>) -> Judgement {
        self.rule(look).into()
    }

    /// The decision of a look, in codes and numbers.
    fn rule(&mut self, look: &JudgeInput<'_>) -> Ruling {
        let VerdictLimits { alpha, errors_max, latency_p99_max, .. } = self.limits;
        let [sum_minute, sum_recent] = [WINDOW, RECENT].map(|span| self.window.sum(span));
        let (minute, recent) = (sum_minute.sample, sum_recent.sample);
        let slow = self.slow.minute();
        let signals = engine::Signal::ALL;
        let [requests, bad] = self.engine.present();
        let present = CeilingSample { requests, bad };
        let mut comparison = ComparisonState {
            alpha,
            failing: if present.clearly_worse() { present.bad.new } else { 0 },
            ..ComparisonState::default()
        };
        self.weigh(look.now, signals.map(|signal| self.engine.parts(signal)), &mut comparison);
        let (e_value, loudest) = (comparison.e_value(), comparison.loudest());

        let [fit_errors, fit_slow] = self.fitted();
        // A limit of 1.0 is never exceeded.
        let errors_limit = fit_errors.limit(errors_max).unwrap_or(1.0);
        let errors = self.ceiling(0, look.now, self.failures.crossing(), errors_limit);
        let slow_limit = fit_slow.limit(SLOW_SHARE).unwrap_or(1.0);
        let latency = self.ceiling(1, look.now, self.slow.crossing(), slow_limit);
        // Stable may also leave its users waiting.
        let [failing, _, slow_stable, ..] = self.stable.defers(look.now);
        let silent = if failing || slow_stable {
            WaitingUsers::default()
        } else {
            self.silence.look(look.now, self.usual_wait)
        };
        comparison.worse = match loudest {
            engine::Signal::Errors => self.failures.last(),
            engine::Signal::ClientErrors => CeilingSample { bad: sum_recent.client_errors, ..recent },
            engine::Signal::Latency => {
                look.recent.sample(look.minute.stable.quantile(USUAL).unwrap_or(latency_p99_max))
            }
            signal => self.by_user(signal),
        };
        self.compare(look.now, &mut comparison);
        let inputs = VerdictInputs { comparison, errors, latency, silent };
        let says = Says { compared: comparison.result(), errors: errors.result(), latency: latency.result() };
        if self.notice.look(look.now, self.engine.notice() >= 1.0 / alpha) {
            self.engine.end_notice();
        }
        let noticed = self.notice.since().is_some();

        let (state, verdict, why) = match self.blamed(says, loudest, silent) {
            Some(blamed) => blamed,
            None => self.unblamed(look, says, &comparison, noticed, minute.requests.new),
        };
        let decided = (state == WatchdogState::Tripped).then(|| {
            let (by, route, usual) = self.trouble(says, loudest, [errors_limit, slow_limit]);
            self.onsets.decided(by, route, usual, look.now)
        });
        let [p99_new, p99_stable] = look.quantiles(0.99);
        let evidence = JudgementEvidence {
            window: WINDOW,
            minute,
            recent,
            errors_max: errors_limit,
            latency_p99_max,
            slow,
            p99_new,
            p99_stable,
            alpha,
            e_value,
            e: comparison.e,
            e_small: self.engine.evidence(engine::Signal::Empty),
            e_notice: self.engine.notice(),
            detection_limit: self.engine.detection_limit(),
            client_errors: sum_minute.client_errors,
            rows: self.engine.rows(loudest),
            clean: self.engine.clean(),
            share: self.engine.share(),
            warming: self.engine.servers().warming(look.now).filter(|_| !self.engine.has_had_nobody()),
            inputs,
        };
        let progress = self.progress(&minute, &slow, noticed);
        Ruling { state, verdict, why, decided, progress, figures: self.figures(look), evidence }
    }

    /// A trip, or trouble of both arms.
    fn blamed(
        &self,
        says: Says,
        loudest: engine::Signal,
        silent: WaitingUsers,
    ) -> Option<(WatchdogState, Verdict, Why)> {
        let both = |why| (WatchdogState::BothArms, Verdict::Inconclusive, why);
        Some(match (says.compared, says.errors, says.latency) {
            (TestResult::Trips(cause), ..) => {
                (WatchdogState::Tripped, Verdict::Breach(cause), Why::Worse(loudest))
            }
            (_, TestResult::Trips(cause), _) => {
                (WatchdogState::Tripped, Verdict::Breach(cause), Why::Failing(cause))
            }
            (_, _, TestResult::Trips(cause)) => {
                (WatchdogState::Tripped, Verdict::Breach(cause), Why::Slow(cause))
            }
            _ if silent.result() != TestResult::Nothing => {
                (WatchdogState::Tripped, Verdict::Breach(Cause::Latency), Why::Silent(silent))
            }
            (TestResult::Both, ..) if loudest == engine::Signal::Latency => both(Why::BothSlower),
            (TestResult::Both, ..) | (_, TestResult::Both, _) => both(Why::BothFailing),
            (_, _, TestResult::Both) => both(Why::BothSlow),
            _ => return None,
        })
    }

    /// The state while nothing trips: the first of these that holds.
    fn unblamed(
        &self,
        look: &JudgeInput<'_>,
        says: Says,
        comparison: &ComparisonState,
        noticed: bool,
        requests_new: u64,
    ) -> (WatchdogState, Verdict, Why) {
        let suspicious = |why| (WatchdogState::Suspicious, Verdict::Inconclusive, why);
        match self.blind(look) {
            Some(blind) => (WatchdogState::Blind, Verdict::Inconclusive, Why::Blind(blind)),
            None if says.waits() => suspicious(Why::Waits),
            None if comparison.e_value() >= SUSPICIOUS => {
                let loudest = comparison.loudest();
                suspicious(Why::Suspicious(loudest, self.stratum(loudest)))
            }
            None if self.engine.evidence(engine::Signal::Empty) >= SUSPICIOUS => suspicious(Why::SmallBodies),
            // A notice only informs: the margins decide the promotion.
            None if noticed && requests_new > 0 => (WatchdogState::Suspicious, Verdict::Pass, Why::Noticed),
            None if self.is_worse_than_before() => suspicious(Why::WorseThanBefore),
            None if requests_new == 0 => (WatchdogState::Quiet, Verdict::Inconclusive, Why::NoRequest),
            None => (WatchdogState::Quiet, Verdict::Pass, Why::Usual),
        }
    }

    /// How requests became bad by the cause of a trip, on which route, and their usual share.
    /// A ceiling has no control, so half of it is taken as a normal rate.
    fn trouble(
        &self,
        says: Says,
        loudest: engine::Signal,
        [errors, slow]: [f64; 2],
    ) -> (BadReason, Option<u8>, Option<f64>) {
        match (says.compared, says.errors, says.latency) {
            (TestResult::Trips(_), ..) => {
                (BadReason::Signal(loudest), self.route(loudest).map(|i| i as u8), None)
            }
            (_, TestResult::Trips(_), _) => {
                (BadReason::Signal(engine::Signal::Errors), None, Some(errors / 2.0))
            }
            (_, _, TestResult::Trips(_)) => (BadReason::OverMax, None, Some(slow / 2.0)),
            // No request is answered.
            _ => (BadReason::Signal(engine::Signal::Latency), None, None),
        }
    }

    /// The progress of each signal.
    fn progress(&self, minute: &CeilingSample, slow: &CeilingSample, noticed: bool) -> Vec<Progress> {
        let VerdictLimits { alpha, errors_max, .. } = self.limits;
        let towards = |of: &CeilingSample, limit: f64| {
            let ratio = (of.new_ratio() / limit.max(1e-9)).ln_1p() / std::f64::consts::LN_2;
            (ratio * (of.bad.new as f64 / BAD_MIN as f64).min(1.0)).clamp(0.0, 1.0)
        };
        let scaled =
            |e: f64, nothing: f64| ((e / nothing).ln() / (1.0 / (alpha * nothing)).ln()).clamp(0.0, 1.0);
        let compared = |of: engine::Signal| Progress {
            of: Measured::Compared(of),
            stratum: self.stratum(of),
            ratio: scaled(self.engine.evidence(of), Engine::nothing(of)),
        };
        let overall = |of: Measured, ratio: f64| Progress { of, stratum: ALL.into(), ratio };
        let notice =
            if noticed { 1.0 } else { scaled(self.engine.notice(), crate::stats::e_process::PRIOR * 0.5) };
        let mut all: Vec<Progress> = engine::Signal::ALL.into_iter().map(compared).collect();
        all.extend([
            overall(Measured::Notice, notice),
            overall(Measured::ErrorsMax, towards(minute, errors_max)),
            overall(Measured::LatencyMax, towards(slow, SLOW_SHARE)),
            overall(Measured::Past, self.past_ratio()),
        ]);
        all
    }

    fn figures(&self, look: &JudgeInput<'_>) -> Figures {
        Figures {
            limits: self.limits,
            controlled: self.controlled(),
            compares_latency: self.engine.compares_latency(),
            redirects: self.by_user(engine::Signal::Redirects),
            long: self.by_user(engine::Signal::Duration),
            small: self.by_user(engine::Signal::Empty),
            p50: look.quantiles(0.5),
            past: self.past_report(),
        }
    }

    /// The route where a signal is loudest, if it is louder there than in all.
    fn stratum(&self, signal: engine::Signal) -> Arc<str> {
        self.route(signal).and_then(|i| self.strata.get(i)).cloned().unwrap_or_else(|| ALL.into())
    }

    fn route(&self, signal: engine::Signal) -> Option<usize> {
        let (stratum, e) = self.engine.loudest(signal).unzip();
        stratum.filter(|_| e.is_some_and(|e| e >= SUSPICIOUS))
    }

    /// True if the hash assigns users to both arms.
    fn controlled(&self) -> bool {
        let share = self.engine.weight().ratio();
        share > 0.0 && share < 1.0
    }

    fn ceiling(&mut self, which: usize, now: Duration, of: CeilingCrossing, limit: f64) -> CeilingState {
        let ails = |of: &CeilingSample| of.bad.stable >= BAD_NOW_MIN && of.stable_ratio() >= NEAR * limit;
        if ails(&of.all) || ails(&of.current) {
            self.stable_bad[which] = Some(now);
        }
        let since = match of.is_over(limit) {
            true => *self.over_since[which].get_or_insert(now),
            false => {
                self.over_since[which] = None;
                now
            }
        };
        let over_ms = whole_ms(now, since);
        CeilingState { of, limit, over_ms, calm: self.calm(which, now), controlled: self.controlled() }
    }

    /// True if stable has not been bad for a while, by the ceiling and by its usual values.
    /// That window is ten seconds long, so what `new` does then is at least ten seconds after
    /// stable's recovery.
    fn calm(&self, which: usize, now: Duration) -> bool {
        let of = [engine::Signal::Errors, engine::Signal::Latency][which];
        let bad = self.stable_bad[which].is_some_and(|at| now.saturating_sub(at) < RECENT);
        !bad && !self.stable.defers(now)[of as usize]
    }

    /// The evidence that counts.
    /// If signals are deferred and all evidence together would suffice, it is all evidence, and
    /// [`ComparisonState::deferred`] has the further conditions.
    fn weigh(&mut self, now: Duration, parts: EvidenceParts, of: &mut ComparisonState) {
        let deferred = self.stable.defers(now);
        let windows = engine::Signal::ALL.map(|signal| self.engine.windows_deferred(signal));
        // A body may be small for many reasons, so it trips only if most users get one.
        let [stable, new] = &self.small_now;
        let small = CeilingSample {
            requests: PerArm::new(new.requests(), stable.requests()),
            bad: PerArm::new(new.count(), stable.count()),
        };
        let counts_small = small.new_ratio() - small.stable_ratio() >= SMALL_GAP;
        let counted = |mut parts: EvidenceParts| {
            if !counts_small {
                parts[engine::Signal::Empty as usize] = [0.0; crate::domain::judge::set_aside::PARTS];
            }
            parts
        };
        of.set(counted(self.aside.take(&parts, windows, deferred)));
        if of.crossed() || !deferred.contains(&true) {
            (of.deferred, of.calm) = (false, true);
            return;
        }
        let counts = *of;
        of.set(counted(parts));
        if !of.crossed() {
            *of = counts;
            return;
        }
        of.deferred = true;
        of.calm = !self.stable.is_in_trouble();
    }

    /// Records the durations that a deferred comparison needs.
    fn compare(&mut self, now: Duration, of: &mut ComparisonState) {
        let lasts = |since: &mut Option<Duration>, is_so: bool| match is_so {
            true => whole_ms(now, *since.get_or_insert(now)),
            false => {
                *since = None;
                0
            }
        };
        of.worse_ms = lasts(&mut self.worse_since, of.deferred && of.is_worse());
        let overwhelming = of.deferred && !of.calm && of.e_value() >= OVERWHELMING;
        of.overwhelming_ms = lasts(&mut self.overwhelming_since, overwhelming);
    }

    fn blind(&self, look: &JudgeInput<'_>) -> Option<Blind> {
        if look.ticks == TickSettings::Late {
            return Some(Blind::Starved);
        }
        let (last, started) = (self.window.last_end()?, self.started?);
        let since = look.now.saturating_sub(last);
        if since > STALE {
            return Some(Blind::Stale(since));
        }
        let age = |seen: Option<Duration>| last.saturating_sub(seen.unwrap_or(started));
        let traffic = self.seen_new.is_some_and(|seen| last.saturating_sub(seen) < SILENCE);
        let silence = age(self.seen_stable);
        (self.controlled() && traffic && silence >= SILENCE).then_some(Blind::NoStable(silence))
    }
}

fn whole_ms(now: Duration, since: Duration) -> u64 {
    now.saturating_sub(since).as_millis() as u64
}

#[cfg(test)]
mod tests;
