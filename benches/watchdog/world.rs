//! Traffic through the whole decision path ([`Judge`] with its engine), event by event: different
//! users, each in the arm of its hash; outcomes at their own time.
//!
//! Invariants: arrivals are passed in the order of time, and each outcome in the tick in which it
//! happens; the engine gets only data that the proxy would know; the arms differ by [`Fault`]
//! alone.

use crate::dice::{Dice, Latencies};
use crate::rivals::Rivals;
use grayling::domain::judge::{ExchangeDurations, Judge, JudgeInput, TickSettings};
use grayling::domain::verdict::{Cause, Verdict, VerdictLimits};
use grayling::stats::arm::Arm;
use grayling::stats::cohort::Weight;
use grayling::stats::engine::{Engine, EngineSettings, EventKind, RequestEvent, RequestStart};
use grayling::stats::histogram::Histogram;
use grayling::stats::users::{Baseline, UNITS, UserUnit};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub const TICK: Duration = Duration::from_millis(100);
/// Outcomes further away than this many ticks never come.
/// The size class of all bodies, and how long they take after the head.
const SIZE: u8 = 6;
const BODY: Duration = Duration::from_millis(1);
const HORIZON: usize = 512;
pub const ALPHA: f64 = 0.001;

/// The users.
#[derive(Clone, Copy, PartialEq)]
pub enum Crowd {
    /// Equal users, each for the first time.
    Strangers,
    Regulars(Regulars),
}

#[derive(Clone, Copy, PartialEq)]
pub struct Regulars {
    pub users: usize,
    /// σ of log latency between users.
    pub sigma: f64,
    /// 2% ten times slower, poison accounts (0.2% always fail), frail ones (1.8% fail one time in
    /// five). In one run of three the most frequent user always fails.
    pub ugly: bool,
    /// User = users · u^heavy. 1: all equal; 2 and more: a few users make most of the traffic.
    pub heavy: i32,
}

impl Crowd {
    pub fn ugly(users: usize) -> Crowd {
        Crowd::Regulars(Regulars { users, sigma: 0.6, ugly: true, heavy: 2 })
    }
}

/// The fault of `new`.
#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// This additional share of requests fails.
    Points(f64),
    /// Each user's failure rate is multiplied by this.
    Times(f64),
    /// All latencies are multiplied by this.
    Stretch(f64),
    /// The slowest 2% take twice as long.
    Tail,
    /// (share, ms): this share takes so much longer.
    Stall(f64, f64),
    /// Never answers; fails after 30 s.
    Hang,
    /// Responds with 404 on this route.
    NotFound(u8),
    /// Half the failures, 10% faster.
    Better,
}

/// Incidents of both arms.
#[derive(Clone, Copy)]
pub struct Weather {
    /// (share that fails in an outage, ms until then in `new`, in stable)
    pub outage: Option<(f64, f64, f64)>,
    /// A brown-out: all latencies are multiplied by this.
    pub slower: f64,
    /// Requests per tick are multiplied by this.
    pub load: f64,
    /// This share of the requests of `new` is missing.
    pub missing: f64,
    /// This share of the requests is from 5% of the users.
    pub crowded: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Weather { outage: None, slower: 1.0, load: 1.0, missing: 0.0, crowded: 0.0 }
    }
}

#[derive(Clone, Copy)]
struct Person {
    unit: UserUnit,
    times: f32,
    fails: f32,
    harmed: bool,
    seen: bool,
}

/// Time spent in the engine.
#[derive(Clone, Copy, Default)]
pub struct Clock {
    pub push: Duration,
    pub tick: Duration,
    pub events: u64,
    pub ticks: u64,
}

#[derive(Clone)]
pub struct World {
    judge: Judge,
    /// E at the last look, and the first rollback that the judge requested.
    e_value: f64,
    tripped: Option<Cause>,
    /// Answers of stable and of new in the last minute and ten seconds, as far as they go.
    minute: [Histogram; 2],
    recent: [Histogram; 2],
    pub dice: Dice,
    latencies: Arc<Latencies>,
    people: Vec<Person>,
    crowd: Crowd,
    weight: Weight,
    pub routes: u8,
    /// Requests per tick, of both arms.
    pub rate: usize,
    pub fails: f64,
    pub fault: Fault,
    pub weather: Weather,
    tick: u64,
    ids: u64,
    /// Future outcomes, by tick.
    due: Vec<Vec<RequestEvent>>,
    spare: Vec<RequestEvent>,
    /// Stable's successes. Their p99.9 determines the deadline.
    usual: Histogram,
    deadline: Duration,
    /// Requests of new at the end of each tick.
    arrived: Vec<u64>,
    pub new_requests: u64,
    pub requests: u64,
    /// Requests of the failing route.
    pub route_requests: u64,
    pub harmed: u64,
    pub rivals: Option<Rivals>,
    /// Users of new, and those of them who have come since the weight was set.
    of_new: [u64; 2],
    pub clock: Option<Clock>,
    arrivals: Vec<RequestEvent>,
}

pub fn settings(strata: usize) -> EngineSettings {
    let latency_floor = Duration::from_millis(2);
    EngineSettings {
        alpha: ALPHA,
        tick: TICK,
        latency_tolerance: 0.2,
        latency_notice: 0.03,
        latency_floor,
        strata,
        warm_up: Duration::ZERO,
        shares: grayling::stats::engine::SHARES,
    }
}

fn judge(settings: EngineSettings) -> Judge {
    let limits = VerdictLimits {
        alpha: settings.alpha,
        errors_max: 0.02,
        latency_p99_max: Duration::from_secs(2),
        stated: [false; 2],
        latency_tolerance: settings.latency_tolerance,
        latency_notice: settings.latency_notice,
        latency_floor: settings.latency_floor,
    };
    let names: Vec<Arc<str>> = (0..settings.strata).map(|i| format!("r{i}").into()).collect();
    let engine = Engine::new(settings, Weight::ZERO, Baseline::default(), Duration::ZERO);
    Judge::new(limits, engine, names.into())
}

pub fn percent(percent: f64) -> Weight {
    Weight::from_parts((percent * 10_000.0).round() as u32)
}

impl World {
    pub fn new(seed: u64, crowd: Crowd, rate: usize, routes: u8, latencies: &Arc<Latencies>) -> World {
        let mut dice = Dice::new(seed);
        let people = match crowd {
            Crowd::Strangers => Vec::new(),
            Crowd::Regulars(of) => people(&mut dice, of),
        };
        let settings = settings(usize::from(routes));
        World {
            judge: judge(settings),
            e_value: 0.0,
            tripped: None,
            minute: Default::default(),
            recent: Default::default(),
            dice,
            latencies: latencies.clone(),
            people,
            crowd,
            weight: Weight::ZERO,
            routes,
            rate,
            fails: 0.001,
            fault: Fault::None,
            weather: Weather::default(),
            tick: 0,
            ids: 0,
            due: (0..HORIZON).map(|_| Vec::new()).collect(),
            spare: Vec::new(),
            usual: Histogram::default(),
            deadline: Duration::from_secs(2),
            arrived: Vec::new(),
            new_requests: 0,
            requests: 0,
            route_requests: 0,
            harmed: 0,
            rivals: None,
            of_new: [0; 2],
            clock: None,
            arrivals: Vec::new(),
        }
    }

    /// Sets the notice level. Call it first.
    pub fn notice_at(&mut self, latency_notice: f64) {
        let settings = EngineSettings { latency_notice, ..settings(usize::from(self.routes)) };
        self.judge = judge(settings);
    }

    pub fn now(&self) -> Duration {
        TICK * self.tick as u32
    }

    pub fn weigh(&mut self, weight: Weight) {
        self.weight = weight;
        self.of_new = [0; 2];
        for person in &mut self.people {
            person.seen = false;
            self.of_new[0] += u64::from(person.unit.bucket() < weight.parts());
        }
        let now = self.now();
        self.judge.engine_mut().weigh(weight, now);
    }

    /// A tick of traffic, then a look.
    pub fn tick(&mut self) {
        let load = (self.rate as f64 * self.weather.load).round().max(1.0) as usize;
        let start = self.now();
        for i in 0..load {
            self.request(start + TICK * i as u32 / load as u32);
        }
        let began = self.clock.map(|_| Instant::now());
        self.judge.push_all(&self.arrivals);
        self.tick += 1;
        let slot = (self.tick as usize - 1) % HORIZON;
        let mut due = std::mem::replace(&mut self.due[slot], std::mem::take(&mut self.spare));
        self.judge.push_all(&due);
        let pushed = began.map(|began| began.elapsed());
        for event in &due {
            if event.what == EventKind::Answered {
                let arm = event.request.arm.index();
                self.minute[arm].record(event.after);
                self.recent[arm].record(event.after);
            }
            if event.request.arm == Arm::Stable && event.what == EventKind::Answered {
                self.usual.record(event.after);
            }
            if let Some(rivals) = &mut self.rivals {
                rivals.completed(event);
            }
        }
        if self.tick.is_multiple_of(50) {
            self.deadline = match self.usual.quantile(0.999).filter(|_| self.usual.total() >= 100) {
                Some(p999) => (p999 * 4).clamp(Duration::from_millis(250), Duration::from_secs(60)),
                None => Duration::from_secs(2),
            };
            if self.tick.is_multiple_of(3000) {
                self.usual.counts.iter_mut().for_each(|n| *n /= 2);
            }
        }
        let events = (self.arrivals.len() + due.len()) as u64;
        self.arrivals.clear();
        due.clear();
        self.spare = due;
        let began = self.clock.map(|_| Instant::now());
        self.judge.tick(self.now(), self.deadline, |_| {});
        self.look();
        if let (Some(clock), Some(pushed), Some(began)) = (&mut self.clock, pushed, began) {
            clock.push += pushed;
            clock.tick += began.elapsed();
            clock.events += events;
            clock.ticks += 1;
        }
        self.arrived.push(self.new_requests);
        let (now, harmed) = (self.now(), self.harmed);
        if let Some(rivals) = &mut self.rivals {
            rivals.tick(now, harmed);
        }
    }

    fn look(&mut self) {
        let (now, ticks) = (TICK * self.tick as u32, TickSettings::OnTime);
        let [minute, recent] =
            [&self.minute, &self.recent].map(|[stable, new]| ExchangeDurations { new, stable });
        let look = JudgeInput { now, ticks, minute, recent };
        let judgement = self.judge.look(&look);
        self.e_value = judgement.evidence.e_value;
        if let Verdict::Breach(cause) = judgement.verdict {
            self.tripped.get_or_insert(cause);
        }
        if self.tick.is_multiple_of(100) {
            self.recent = Default::default();
        }
        if self.tick.is_multiple_of(600) {
            self.minute = Default::default();
        }
    }

    pub fn engine(&self) -> &Engine {
        self.judge.engine()
    }

    /// E at the last look.
    pub fn e_value(&self) -> f64 {
        self.e_value
    }

    /// The first rollback that the judge requested.
    pub fn tripped(&self) -> Option<Cause> {
        self.tripped
    }

    pub fn ticks(&mut self, n: usize) {
        (0..n).for_each(|_| self.tick());
    }

    /// Share of the users of new who have come.
    pub fn seen_of_new(&self) -> f64 {
        self.of_new[1] as f64 / self.of_new[0].max(1) as f64
    }

    /// Stable's successes by latency.
    pub fn usual(&self) -> &Histogram {
        &self.usual
    }

    /// Runs at least this many requests of both arms.
    pub fn requests(&mut self, n: u64) {
        let until = self.requests + n;
        while self.requests < until {
            self.tick();
        }
    }

    /// Requests of new that had arrived by the end of the last final interval.
    pub fn new_final(&self) -> u64 {
        let ticks = (self.deadline.as_millis() as usize).div_ceil(TICK.as_millis() as usize);
        self.arrived.len().checked_sub(1 + ticks).map_or(0, |i| self.arrived[i])
    }

    fn request(&mut self, at: Duration) {
        let (who, unit, times, fails) = match self.crowd {
            Crowd::Strangers => {
                let unit = UserUnit::from_index((self.dice.bits() >> 33) as u32 % UNITS);
                (usize::MAX, unit, 1.0, self.fails)
            }
            Crowd::Regulars(of) => {
                // Without crowding no random number is drawn, so that the other seeds keep their
                // runs.
                let crowded = self.weather.crowded > 0.0 && self.dice.chance(self.weather.crowded);
                let of_these = self.people.len() as f64 * if crowded { 0.05 } else { 1.0 };
                let who = (of_these * self.dice.uniform().powi(of.heavy)) as usize;
                let person = &self.people[who];
                let fails = if person.fails < 0.0 { self.fails } else { f64::from(person.fails) };
                (who, person.unit, f64::from(person.times), fails)
            }
        };
        let arm = if unit.bucket() < self.weight.parts() { Arm::New } else { Arm::Stable };
        let missing = self.weather.missing;
        if arm == Arm::New && missing > 0.0 && self.dice.chance(missing) {
            return;
        }
        let stratum = (self.routes > 1).then(|| self.dice.below(usize::from(self.routes)) as u8);
        self.ids += 1;
        let request =
            RequestStart { id: self.ids, at, arm, unit: Some(unit), drawn: true, stratum, server: Some(0) };
        self.requests += 1;
        if arm == Arm::New {
            self.new_requests += 1;
            if let Some(person) = self.people.get_mut(who)
                && !std::mem::replace(&mut person.seen, true)
            {
                self.of_new[1] += 1;
            }
            if let Fault::NotFound(route) = self.fault {
                self.route_requests += u64::from(stratum.is_none_or(|s| s == route));
            }
        }
        self.arrivals.push(RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO });
        if let Some((ms, what)) = self.outcome(who, arm, stratum, times, fails) {
            let after = Duration::from_nanos((ms * 1e6) as u64);
            self.push_at(RequestEvent { request, what, after });
            if what == EventKind::Answered {
                let what = EventKind::Ended { size: SIZE, client_slow: false };
                self.push_at(RequestEvent { request, what, after: after + BODY });
            }
        }
    }

    fn push_at(&mut self, event: RequestEvent) {
        let then = ((event.request.at + event.after).as_nanos() / TICK.as_nanos()) as usize;
        if then < self.tick as usize + HORIZON {
            self.due[then % HORIZON].push(event);
        }
    }

    fn outcome(
        &mut self,
        who: usize,
        arm: Arm,
        stratum: Option<u8>,
        times: f64,
        fails: f64,
    ) -> Option<(f64, EventKind)> {
        if let Some((share, new_ms, stable_ms)) = self.weather.outage
            && self.dice.chance(share)
        {
            return Some((if arm == Arm::New { new_ms } else { stable_ms }, EventKind::Failed));
        }
        let (base, slow) = self.latencies.draw(&mut self.dice);
        let mut ms = base * times * self.weather.slower;
        let u = self.dice.uniform();
        let mut what = if u < fails { EventKind::Failed } else { EventKind::Answered };
        if arm == Arm::Stable || self.fault == Fault::None {
            return Some((ms, what));
        }
        let sound = (ms, what);
        match self.fault {
            Fault::None => {}
            Fault::Points(p) if u < fails + p => what = EventKind::Failed,
            Fault::Times(by) if u < fails * by => what = EventKind::Failed,
            Fault::Points(_) | Fault::Times(_) => {}
            Fault::Stretch(by) => ms *= by,
            Fault::Tail => ms *= if slow { 2.0 } else { 1.0 },
            Fault::Stall(share, more) => ms += if self.dice.chance(share) { more } else { 0.0 },
            Fault::Hang => (ms, what) = (30_000.0, EventKind::Failed),
            Fault::NotFound(route) if stratum.is_none_or(|s| s == route) => {
                (ms, what) = (5.0, EventKind::ClientError);
            }
            Fault::NotFound(_) => {}
            Fault::Better => {
                ms *= 0.9;
                if u >= fails * 0.5 {
                    what = EventKind::Answered;
                }
            }
        }
        if (ms > sound.0 || what != sound.1)
            && let Some(person) = self.people.get_mut(who)
            && !std::mem::replace(&mut person.harmed, true)
        {
            self.harmed += 1;
        }
        Some((ms, what))
    }
}

fn people(dice: &mut Dice, of: Regulars) -> Vec<Person> {
    let mut people: Vec<Person> = (0..of.users)
        .map(|_| {
            let unit = UserUnit::from_index((dice.uniform() * f64::from(UNITS)) as u32);
            let mut times = (of.sigma * dice.normal()).exp();
            // Below zero: the world's usual rate.
            let mut fails = -1.0;
            if of.ugly {
                times *= if dice.chance(0.02) { 10.0 } else { 1.0 };
                fails = match dice.uniform() {
                    u if u < 0.002 => 1.0,
                    u if u < 0.02 => 0.2,
                    _ => -1.0,
                };
            }
            Person { unit, times: times as f32, fails, harmed: false, seen: false }
        })
        .collect();
    if of.ugly && dice.chance(1.0 / 3.0) {
        people[0].fails = 1.0;
    }
    people
}
