//! Compares `new` with its own past: the only comparison left when all users are in `new`.
//!
//! # Method
//!
//! Each minute gives one sample: the shares of failures, client errors, redirects and slow answers,
//! and the logarithms of median and p99. The past is a slow average of them (two hours), with their
//! variance over minutes. It is learnt while the hash puts users into both arms. A raise leaves
//! little weight to the time before it, so the past is mostly that of the last wave. At 100%
//! learning continues, to follow the rhythm of the day, but never from a minute that looks worse.
//! There the past stays bound to the last wave: a median to at most twice its value, a share to at
//! most twice the sum of its value and [`PastMeasure::points`].
//!
//! `new` is worse if the last minute, or the last ten, exceed the past by a factor of [`FACTOR`],
//! by [`PastMeasure::points`], and by [`Z`] standard deviations. The newest part of that time must
//! show it, too, so that a pause of a few seconds is not enough. A sign that lasts [`HOLD`] raises
//! the alarm, which stands until there was no sign for [`CALM`], or until a person accepts it: then
//! the past is learnt again from the present level.
//!
//! # Assumptions
//!
//! * Users who join with a higher weight are like those before them: the hash chooses them.
//! * The service is stationary except for a rhythm: within two hours its load, its latency (less
//!   than twice) and its usual failures change little.
//!   Without a control, a fault that hits stable as well (a slow shared database) cannot be
//!   distinguished from a worse `new`: it is reported as well.
//! * One user is no evidence: shares count at most [`crate::domain::judge::bad_requests::OF_ONE`]
//!   bad requests of a user in a span, and need [`USERS_MIN`] users.
//!   A median counts requests: one client that makes more than half of them moves it.
//! * Fewer than [`REQUESTS_MIN`] requests of `new` a minute give no sample.
//!
//! Invariants: pure, time is an argument; it never trips anything; memory is bounded (spans of
//! [`BadRequests`], a minute of histograms). While the past is unknown, nothing is called worse,
//! and the state is reported as unknown.

use crate::domain::judge::bad_requests::BadRequests;
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::engine::{EventKind, RequestEvent};
use crate::stats::histogram::Histogram;
use std::collections::VecDeque;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
/// Interval of judgements.
const JUDGE: Duration = Duration::from_secs(4);
const MINUTE: Duration = Duration::from_secs(60);
/// The newest part of a minute, the minute, and a longer span for little traffic.
const SPANS: [Duration; 3] = [Duration::from_secs(10), MINUTE, Duration::from_secs(600)];
/// Answers after a raise are slow at first.
const WARM_UP: Duration = MINUTE;
/// The smallest factor that counts as a raise.
const RAISE: f64 = 1.5;
/// The most minutes of the past that count, and those left after a raise.
const MEMORY: f64 = 120.0;
const MEMORY_AFTER_RAISE: f64 = 5.0;
/// Minutes with a control, and without one, until the past is known.
const KNOWN: f64 = 3.0;
pub const KNOWN_UNCONTROLLED: f64 = 10.0;
/// Requests of a minute that make a sample.
pub const REQUESTS_MIN: u64 = 30;
/// The least bad requests, and users of them, for a sign.
const BAD_MIN: u64 = 10;
pub const USERS_MIN: u64 = 5;
/// Worse by this factor ...
pub const FACTOR: f64 = 2.0;
/// ... and beyond chance by this many standard deviations.
pub const Z: f64 = 5.0;
/// Requests of one user are correlated: this many count as one.
const DESIGN_EFFECT: f64 = 2.0;
/// A sample is clipped to this many standard deviations from the average.
const CLIP: f64 = 4.0;
/// A sign must last this long without a break.
pub const HOLD: Duration = Duration::from_secs(20);
/// The alarm ends when there was no sign for this long.
pub const CALM: Duration = Duration::from_secs(300);

/// The compared quantities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PastMeasure {
    Errors,
    ClientErrors,
    Redirects,
    /// Answers that take more than twice the past's p99.
    Tail,
    Median,
}

const SHARES: usize = 4;

impl PastMeasure {
    const ALL: [PastMeasure; SHARES + 1] = [
        PastMeasure::Errors,
        PastMeasure::ClientErrors,
        PastMeasure::Redirects,
        PastMeasure::Tail,
        PastMeasure::Median,
    ];

    /// Smaller rises of the share are ignored.
    pub fn points(self) -> f64 {
        match self {
            PastMeasure::Errors => 0.01,
            PastMeasure::Tail => 0.02,
            PastMeasure::ClientErrors => 0.03,
            PastMeasure::Redirects => 0.1,
            PastMeasure::Median => 0.0,
        }
    }
}

/// A mean and a variance over minutes, with fading memory.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct FadingAverage {
    n: f64,
    mean: f64,
    variance: f64,
}

impl FadingAverage {
    fn learn(&mut self, mut x: f64) {
        if self.n >= KNOWN_UNCONTROLLED {
            // A short trouble widens the variance only a little.
            let exposure = CLIP * self.variance.sqrt().max(0.02 * self.mean.abs()).max(1e-3);
            x = x.clamp(self.mean - exposure, self.mean + exposure);
        }
        self.n = (self.n + 1.0).min(MEMORY);
        let off = x - self.mean;
        self.mean += off / self.n;
        self.variance = (1.0 - 1.0 / self.n) * (self.variance + off * off / self.n);
    }

    /// Limits the mean to `most`; a sample beyond it does not widen the variance either.
    fn learn_to(&mut self, x: f64, most: f64) {
        let variance = self.variance;
        self.learn(x);
        if self.mean > most {
            (self.mean, self.variance) = (most, variance);
        }
    }

    fn save(&self, encoder: &mut Encoder) {
        encoder.f64s(&[self.n, self.mean, self.variance]);
    }

    fn restore(decoder: &mut Decoder<'_>) -> Option<FadingAverage> {
        let mut of = [0.0; 3];
        decoder.logs(&mut of)?;
        let [n, mean, variance] = of;
        let plausible = (0.0..=MEMORY).contains(&n) && mean.abs() <= 1e6 && (0.0..=1e6).contains(&variance);
        plausible.then_some(FadingAverage { n, mean, variance })
    }
}

/// The usual values of `new`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct PastValues {
    shares: [FadingAverage; SHARES],
    /// Logarithms of µs.
    median: FadingAverage,
    p99: FadingAverage,
    /// The means learnt with a control, at the raise that ended it.
    anchor: Option<([f64; SHARES], f64)>,
}

impl PastValues {
    fn minutes(&self) -> f64 {
        self.median.n
    }

    fn is_known(&self) -> bool {
        self.anchor.is_some() && self.minutes() >= KNOWN
    }

    fn fade(&mut self) {
        let all = self.shares.iter_mut().chain([&mut self.median, &mut self.p99]);
        all.for_each(|average| average.n = average.n.min(MEMORY_AFTER_RAISE));
    }

    /// Limits all further learning by the current means.
    fn cast_anchor(&mut self) {
        self.anchor = Some((self.shares.map(|of| of.mean), self.median.mean));
    }

    /// The highest means: of the shares, and of the logarithm of the median.
    fn most(&self) -> ([f64; SHARES], f64) {
        let Some((shares, median)) = self.anchor else { return ([f64::INFINITY; SHARES], f64::INFINITY) };
        let most = |i: usize| FACTOR * (shares[i] + PastMeasure::ALL[i].points());
        (std::array::from_fn(most), median + FACTOR.ln())
    }

    /// Answers above it are slow.
    fn slow_from(&self) -> Option<Duration> {
        let us = FACTOR * self.p99.mean.exp();
        (self.p99.n >= KNOWN).then(|| Duration::from_secs_f64((us / 1e6).clamp(0.0, 1e6)))
    }
}

/// The current result.
#[derive(Clone, PartialEq, Debug)]
pub enum PastResult {
    /// There is a control: the past is being learnt.
    Learns,
    /// No control, and no past either.
    Unknown,
    Usual,
    Worse(PastMeasure),
}

/// A standing alarm.
#[derive(Clone, Copy, PartialEq, Debug)]
struct PastAlarm {
    measure: PastMeasure,
    /// Time of the last sign.
    seen: Duration,
}

#[derive(Clone, Debug)]
pub struct OwnPast {
    /// Share of users in `new`.
    share: f64,
    raised: Option<Duration>,
    /// Quicker answers count as this quick.
    floor: Duration,
    /// By measure, then by span.
    bad: [[BadRequests; SPANS.len()]; SHARES],
    /// The answers of a minute, by ten seconds.
    answers: VecDeque<(Duration, Histogram)>,
    past: PastValues,
    closed: Duration,
    judged: Duration,
    sampled: Duration,
    over: [Option<Duration>; SHARES + 1],
    alarm: Option<PastAlarm>,
    /// Progress of the highest measure towards an alarm.
    ratio: f64,
    /// The numbers of the last judgement, of each measure that is known.
    shown: Vec<Shown>,
}

/// The numbers of one measure in the last minute, and its usual value.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Shown {
    Share { measure: PastMeasure, bad: u64, requests: u64, usual: f64 },
    Median { now: Duration, usual_us: f64 },
}

/// What is said of the past, and the numbers behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    pub says: PastResult,
    /// Minutes of the past that are known.
    pub minutes: f64,
    pub shown: Vec<Shown>,
}

impl Default for OwnPast {
    fn default() -> Self {
        OwnPast {
            share: 0.0,
            raised: None,
            floor: Duration::from_millis(2),
            bad: [(); SHARES].map(|()| SPANS.map(BadRequests::new)),
            answers: VecDeque::new(),
            past: PastValues::default(),
            closed: Duration::ZERO,
            judged: Duration::ZERO,
            sampled: Duration::ZERO,
            over: [None; SHARES + 1],
            alarm: None,
            ratio: 0.0,
            shown: vec![],
        }
    }
}

impl OwnPast {
    pub fn set_floor(&mut self, floor: Duration) {
        self.floor = floor;
    }

    /// Forgets the past and what was found against it, to learn the present level as the usual one.
    pub fn begin_anew(&mut self) {
        let (share, raised, floor, closed) = (self.share, self.raised, self.floor, self.closed);
        let anew = OwnPast::default();
        *self = OwnPast { share, raised, floor, closed, judged: closed, sampled: closed, ..anew };
    }

    /// Takes the request events of both arms.
    pub fn record(&mut self, events: &[RequestEvent]) {
        let slow_from = self.past.slow_from();
        for event in events.iter().filter(|event| event.request.arm == Arm::New) {
            let slow = slow_from.is_some_and(|from| event.after > from);
            let user = event.request.unit;
            let mut came = |which: usize, is_bad: bool| {
                for bad in &mut self.bad[which] {
                    bad.came(1);
                    if is_bad {
                        bad.was_bad(user);
                    }
                }
            };
            match event.what {
                EventKind::Answered | EventKind::ClientError | EventKind::Redirected => {
                    came(0, false);
                    came(1, event.what == EventKind::ClientError);
                    came(2, event.what == EventKind::Redirected);
                    if slow_from.is_some() {
                        came(3, slow);
                    }
                    if let Some((_, histogram)) = self.answers.back_mut() {
                        histogram.record(event.after.max(self.floor));
                    }
                }
                EventKind::Failed => came(0, true),
                // A client who leaves after such a wait was not served.
                EventKind::Left { .. } if slow => came(0, true),
                EventKind::Broke => self.bad[0].iter_mut().for_each(|bad| bad.was_bad(user)),
                EventKind::EndedAsClientError => self.bad[1].iter_mut().for_each(|bad| bad.was_bad(user)),
                EventKind::Arrived
                | EventKind::Excused
                | EventKind::Left { .. }
                | EventKind::Ended { .. } => {}
            }
        }
    }

    /// Advances time; `share` of users are in `new`.
    pub fn tick(&mut self, now: Duration, share: f64) {
        if share != self.share {
            self.follow(share, now);
        }
        if now.saturating_sub(self.closed) < SECOND {
            return;
        }
        self.closed = now;
        self.bad.iter_mut().flatten().for_each(|bad| bad.close(now));
        if self.answers.back().is_none_or(|(began, _)| now.saturating_sub(*began) >= SPANS[0]) {
            self.answers.push_back((now, Histogram::default()));
            while self.answers.len() > (MINUTE.as_secs() / SPANS[0].as_secs()) as usize + 1 {
                self.answers.pop_front();
            }
        }
        if now.saturating_sub(self.judged) >= JUDGE {
            self.judged = now;
            self.judge(now);
        }
        if now.saturating_sub(self.sampled) >= MINUTE {
            self.sampled = now;
            self.learn(now);
        }
    }

    fn follow(&mut self, share: f64, now: Duration) {
        let (was, is) = (self.controlled(), share > 0.0 && share < 1.0);
        if share >= RAISE * self.share {
            self.raised = Some(now);
            self.past.fade();
        }
        if was && !is && share >= 1.0 && self.past.minutes() >= KNOWN {
            self.past.cast_anchor();
        }
        if share < 1.0 {
            // There is stable to compare with again, or no user in `new`.
            (self.past.anchor, self.alarm, self.over) = (None, None, Default::default());
        }
        self.share = share;
    }

    fn controlled(&self) -> bool {
        self.share > 0.0 && self.share < 1.0
    }

    /// All users are in `new`.
    fn alone(&self) -> bool {
        self.share >= 1.0
    }

    fn is_warm(&self, now: Duration) -> bool {
        self.raised.is_none_or(|at| now.saturating_sub(at) >= WARM_UP + SPANS[0])
    }

    /// The answers of the last minute, and of its newest part.
    fn answers(&self) -> [Histogram; 2] {
        let mut sums = [Histogram::default(), Histogram::default()];
        self.answers.iter().for_each(|(_, cell)| sums[0].add(cell));
        self.answers.iter().rev().take(2).for_each(|(_, cell)| sums[1].add(cell));
        sums
    }

    fn learn(&mut self, now: Duration) {
        if self.share <= 0.0 || self.over.iter().any(Option::is_some) || self.alarm.is_some() {
            return;
        }
        let minute = 1;
        if self.bad[0][minute].requests() < REQUESTS_MIN {
            return;
        }
        let (most, most_median) = self.past.most();
        for ((average, bad), most) in self.past.shares.iter_mut().zip(&self.bad).zip(most) {
            if bad[minute].requests() >= REQUESTS_MIN {
                average.learn_to(share(&bad[minute]), most);
            }
        }
        let [answers, _] = self.answers();
        if let (true, Some(p50), Some(p99)) =
            (self.is_warm(now), answers.quantile(0.5), answers.quantile(0.99))
        {
            self.past.median.learn_to(log_us(p50), most_median);
            self.past.p99.learn(log_us(p99));
        }
        if self.alone() && self.past.anchor.is_none() && self.past.minutes() >= KNOWN_UNCONTROLLED {
            self.past.cast_anchor();
        }
    }

    fn judge(&mut self, now: Duration) {
        self.ratio = 0.0;
        if !self.alone() || !self.past.is_known() {
            return;
        }
        let mut all = vec![];
        for (i, measure) in PastMeasure::ALL.into_iter().enumerate() {
            let (over, ratio, shown) = match measure {
                PastMeasure::Median => self.median(now),
                measure => self.share_of(i, measure, now),
            };
            all.extend(shown);
            self.over[i] = over.then(|| self.over[i].unwrap_or(now));
            let lasts = self.over[i].map_or(Duration::ZERO, |since| now.saturating_sub(since));
            self.ratio = self.ratio.max(ratio.clamp(0.0, 0.99));
            if lasts >= HOLD && self.alarm.is_none() {
                self.alarm = Some(PastAlarm { measure, seen: now });
            }
        }
        self.shown = all;
        if let Some(alarm) = &mut self.alarm {
            if self.over.iter().any(Option::is_some) {
                alarm.seen = now;
            } else if now.saturating_sub(alarm.seen) >= CALM {
                self.alarm = None;
            }
        }
    }

    /// Is a share beyond its past, its progress towards that, and the numbers.
    fn share_of(&self, i: usize, measure: PastMeasure, now: Duration) -> (bool, f64, Option<Shown>) {
        let (past, bad) = (&self.past.shares[i], &self.bad[i]);
        if past.n < KNOWN || (measure == PastMeasure::Tail && !self.is_warm(now)) {
            return (false, 0.0, None);
        }
        let p = past.mean.max(0.0);
        let beyond = |span: usize| {
            let (of, variance) = (&bad[span], past.variance / if span == 2 { 4.0 } else { 1.0 });
            let n = of.requests().max(1) as f64;
            let usual = p.max(1.0 / n);
            let chance = Z * (DESIGN_EFFECT * usual * (1.0 - usual).max(0.0) / n + variance).sqrt();
            let limit = p + ((FACTOR - 1.0) * p).max(measure.points()).max(chance);
            let enough = of.requests() >= REQUESTS_MIN && of.count() >= BAD_MIN && of.users() >= USERS_MIN;
            ((enough && share(of) >= limit), (share(of) - p) / (limit - p))
        };
        let goes_on = |span: usize| bad[span].count() >= 2 && share(&bad[span]) >= p + measure.points() / 2.0;
        let [(minute, a), (ten, b)] = [beyond(1), beyond(2)];
        let over = (minute && goes_on(0)) || (ten && goes_on(1));
        let ratio = if bad[1].users() >= USERS_MIN { a.max(b) } else { 0.0 };
        let shown = Shown::Share { measure, bad: bad[1].count(), requests: bad[1].requests(), usual: p };
        (over, ratio, Some(shown))
    }

    fn median(&self, now: Duration) -> (bool, f64, Option<Shown>) {
        let [minute, newest] = self.answers();
        let past = &self.past.median;
        let (Some(p50), true) = (minute.quantile(0.5), past.n >= KNOWN && self.is_warm(now)) else {
            return (false, 0.0, None);
        };
        let limit = FACTOR.ln().max(Z * past.variance.sqrt());
        let rise = |of: Duration| log_us(of) - past.mean;
        let goes_on = newest.quantile(0.5).is_some_and(|p50| rise(p50) >= 0.5 * limit);
        let over = minute.total() >= REQUESTS_MIN && rise(p50) >= limit && goes_on;
        (over, rise(p50) / limit, Some(Shown::Median { now: p50, usual_us: past.mean.exp() }))
    }

    pub fn result(&self) -> PastResult {
        match self.alarm {
            Some(alarm) => PastResult::Worse(alarm.measure),
            None if !self.alone() => PastResult::Learns,
            None if !self.past.is_known() => PastResult::Unknown,
            None => PastResult::Usual,
        }
    }

    /// 1: an alarm stands.
    pub fn ratio(&self) -> f64 {
        if self.alarm.is_some() { 1.0 } else { self.ratio }
    }

    pub fn report(&self) -> Report {
        Report { says: self.result(), minutes: self.past.minutes(), shown: self.shown.clone() }
    }

    /// Writes the state for a restart; it contains no users.
    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64(self.share);
        self.past.shares.iter().for_each(|average| average.save(encoder));
        self.past.median.save(encoder);
        self.past.p99.save(encoder);
        match &self.past.anchor {
            Some((shares, median)) => {
                encoder.u32(1);
                encoder.f64s(shares);
                encoder.f64s(&[*median]);
            }
            None => encoder.u32(0),
        }
        let measure = |alarm: &PastAlarm| PastMeasure::ALL.iter().position(|m| *m == alarm.measure);
        encoder.u32(self.alarm.as_ref().and_then(measure).map_or(0, |i| i as u32 + 1));
    }

    /// A standing alarm continues until it was calm long enough.
    pub fn restore(decoder: &mut Decoder<'_>, now: Duration) -> Option<OwnPast> {
        let share = decoder.f64().filter(|share| *share <= 1.0)?;
        let mut past = PastValues::default();
        for average in &mut past.shares {
            *average = FadingAverage::restore(decoder)?;
        }
        past.median = FadingAverage::restore(decoder)?;
        past.p99 = FadingAverage::restore(decoder)?;
        if decoder.u32()? == 1 {
            let (mut shares, mut median) = ([0.0; SHARES], [0.0]);
            decoder.logs(&mut shares)?;
            decoder.logs(&mut median)?;
            past.anchor = Some((shares, median[0]));
        }
        let alarm = match decoder.u32()? {
            0 => None,
            n => Some(PastAlarm { measure: *PastMeasure::ALL.get(n as usize - 1)?, seen: now }),
        };
        // Connections and caches of this process are cold.
        let raised = Some(now);
        Some(OwnPast {
            share,
            raised,
            past,
            alarm,
            closed: now,
            judged: now,
            sampled: now,
            ..OwnPast::default()
        })
    }
}

fn share(of: &BadRequests) -> f64 {
    of.count() as f64 / of.requests().max(1) as f64
}

fn log_us(of: Duration) -> f64 {
    (of.as_secs_f64() * 1e6).max(1.0).ln()
}

#[cfg(test)]
mod tests;
