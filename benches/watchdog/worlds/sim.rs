//! Traffic of a [`World`] through the whole decision path, driven like the watchdog's thread:
//! [`Judge`] with its engine, its ceilings and deferred signals, and the breaker beside it.
//!
//! Invariants: a run depends on the world and the seed alone; the judge gets only data that the
//! proxy would know, in the order of time; the deadline follows stable's p99.9 by the rule of
//! `watch::watchdog`.

use super::climb::{self, Plan, Step};
use super::world::{Account, FORGETS, Fault, LEARN, Pace, Trouble, WARM_UP, Weather, World};
use crate::dice::Dice;
use grayling::domain::breaker::Breaker;
use grayling::domain::judge::deadline::AnswerDeadline;
use grayling::domain::judge::{ExchangeDurations, Judge, JudgeInput, TickSettings};
use grayling::domain::verdict::{Cause, Judgement, Verdict, VerdictLimits};
use grayling::stats::arm::Arm;
use grayling::stats::cohort::Weight;
use grayling::stats::engine::{
    Engine, EngineSettings, EventKind, RequestEvent, RequestStart, SHARES, Signal,
};
use grayling::stats::servers::{ServerIndex, ServerMark};
use grayling::stats::users::{Baseline, UNITS, UserUnit};
use grayling::telemetry::counters::ArmCounters;
use grayling::telemetry::sliding_window::SlidingWindow;
use std::sync::Arc;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(100);
const TICKS_A_SECOND: f64 = 10.0;
/// Outcomes further away than this many ticks never come.
const HORIZON: usize = 1024;
/// Ticks between two observations of the tallies.
const OBSERVE: u64 = 5;
const SECOND: Duration = Duration::from_secs(1);
/// Response time-out of the proxy.
const TIME_OUT: Duration = Duration::from_secs(30);
const BURST: f64 = 0.5;
/// The size class of a body, and its duration after the head.
const SIZE: u8 = 6;
const BODY_MS: f64 = 1.0;
/// Duration of a refused connection.
const AT_ONCE_MS: f64 = 1.0;
/// The default settings.
const LIMITS: VerdictLimits = VerdictLimits {
    alpha: 0.001,
    errors_max: 0.02,
    latency_p99_max: Duration::from_secs(2),
    stated: [false; 2],
    latency_tolerance: 0.2,
    latency_notice: 0.03,
    latency_floor: Duration::from_millis(2),
};

/// The result of a plan.
pub enum Climbed {
    /// Seconds since the first raise.
    Complete(f64),
    /// Taken out or frozen, and when.
    Out(&'static str, f64),
    /// The present wave, and the gates that do not pass.
    Held(f64, String),
}

/// A run's first trip.
#[derive(Clone, Debug)]
pub struct Trip {
    pub cause: Cause,
    /// Seconds since the first raise.
    pub at: f64,
    pub reason: String,
    /// E of each signal by part, where it is above the start value; and the rows of the loudest
    /// one.
    pub parts: String,
}

struct Person {
    unit: UserUnit,
    times: f32,
    /// Chosen for a fault, or poisoned, if it is below their share.
    lot: f32,
}

/// The present pauses and spells of one server.
struct Server {
    next: f64,
    until: f64,
    fallen: Option<Trouble>,
    /// When each of its requests ends.
    busy: Vec<f64>,
    began: f64,
    /// It refused the last connection.
    refused: bool,
}

pub struct Sim<'w> {
    world: &'w World,
    dice: Dice,
    people: Vec<Person>,
    accounts: Vec<UserUnit>,
    judge: Judge,
    breaker: Breaker,
    breaker_trip: bool,
    tallies: [ArmCounters; 2],
    recent: [SlidingWindow; 2],
    weight: Weight,
    share_of_new: f64,
    servers: [Vec<Server>; 2],
    /// Logarithms of the present factors of load and latency.
    wanders: [f64; 2],
    /// When an arm has served all arrivals, given its capacity.
    free_at: [f64; 2],
    deadline: AnswerDeadline,
    tick: u64,
    ids: u64,
    of_new: usize,
    stable_alive: Option<Duration>,
    due: Vec<Vec<RequestEvent>>,
    events: Vec<RequestEvent>,
    /// The plan, and the start of its present wave. It replaces the world's waves.
    plan: Option<(Plan, f64)>,
}

fn percent(percent: f64) -> Weight {
    Weight::from_parts((percent * 10_000.0).round() as u32)
}

fn other_side(unit: UserUnit, arm: Arm, weight: Weight) -> bool {
    (unit.bucket() < weight.parts()) != (arm == Arm::New)
}

impl<'w> Sim<'w> {
    pub fn new(world: &'w World, seed: u64) -> Sim<'w> {
        let mut dice = Dice::new(seed);
        let unit = |dice: &mut Dice| UserUnit::from_index((dice.uniform() * f64::from(UNITS)) as u32);
        let mut people: Vec<Person> = (0..world.users)
            .map(|_| Person {
                unit: unit(&mut dice),
                times: (world.service.sigma_users * dice.normal()).exp() as f32,
                lot: 1.0,
            })
            .collect();
        if world.poisoned > 0.0 || matches!(world.fault, Fault::Users(_)) {
            people.iter_mut().for_each(|person| person.lot = dice.uniform() as f32);
        }
        // An account of `new` is in it from the first wave on; one of stable never.
        let [first, highest] = [f64::min, f64::max]
            .map(|pick| percent(world.waves.iter().map(|w| w.1).reduce(pick).unwrap_or(0.0)));
        let accounts = world.accounts.iter().map(|account| {
            let weight = if account.arm == Arm::New { first } else { highest };
            loop {
                let unit = unit(&mut dice);
                if !other_side(unit, account.arm, weight) {
                    return unit;
                }
            }
        });
        let accounts = accounts.collect();
        let strata = if world.service.medians.len() > 1 { world.service.medians.len().min(16) } else { 0 };
        let settings = EngineSettings {
            alpha: LIMITS.alpha,
            tick: TICK,
            latency_tolerance: LIMITS.latency_tolerance,
            latency_notice: LIMITS.latency_notice,
            latency_floor: LIMITS.latency_floor,
            strata,
            warm_up: Duration::from_secs_f64(world.warm_up),
            shares: SHARES,
        };
        let latency_p99_max = Duration::from_secs_f64(world.latency_p99_max / 1e3);
        // A ceiling that differs from the default counts as stated.
        let stated = [false, latency_p99_max != LIMITS.latency_p99_max];
        let limits = VerdictLimits { latency_p99_max, stated, ..LIMITS };
        let engine = Engine::new(settings, Weight::ZERO, Baseline::default(), Duration::ZERO);
        let names: Vec<Arc<str>> = (0..strata).map(|i| format!("r{i}").into()).collect();
        let servers = Arm::BOTH.map(|arm| {
            let n = world.servers[usize::from(arm == Arm::Stable)];
            (0..n)
                .map(|_| {
                    let next = world.pauses.map_or(f64::INFINITY, |p| {
                        -LEARN + if p.poisson { gap(&mut dice, p.every) } else { p.every * dice.uniform() }
                    });
                    Server {
                        next,
                        until: f64::NEG_INFINITY,
                        fallen: None,
                        busy: vec![],
                        began: 0.0,
                        refused: false,
                    }
                })
                .collect()
        });
        Sim {
            world,
            dice,
            people,
            accounts,
            judge: Judge::new(limits, engine, names.into()),
            breaker: Breaker::new(world.servers[0]),
            breaker_trip: false,
            tallies: Arm::BOTH.map(|_| ArmCounters::new(1)),
            recent: Default::default(),
            weight: Weight::ZERO,
            share_of_new: 0.0,
            servers,
            wanders: [0.0; 2],
            free_at: [f64::NEG_INFINITY; 2],
            deadline: AnswerDeadline::new(TIME_OUT),
            tick: 0,
            ids: 0,
            of_new: 0,
            stable_alive: None,
            due: (0..HORIZON).map(|_| Vec::new()).collect(),
            events: vec![],
            plan: None,
        }
    }

    /// Runs the plan of a release instead of the world's waves. Spells of servers of `new` recur
    /// after each raise. Returns the release's state at the end.
    pub fn climb(mut self) -> Climbed {
        let longest = 3.0 * climb::bakes(self.world.rate).as_secs_f64();
        while self.second() < longest {
            if self.plan.is_none() && self.second() >= 0.0 {
                let plan = Plan::new(self.world.rate, TICK, LIMITS.latency_floor, self.now());
                self.plan = Some((plan, 0.0));
            }
            let judgement = self.step();
            if self.breaker_trip {
                return Climbed::Out(Cause::Fuse.label(), self.second());
            }
            if let Verdict::Breach(cause) = judgement.verdict
                && self.weight > Weight::ZERO
            {
                return Climbed::Out(cause.label(), self.second());
            }
            let (now, deadline) = (self.now(), self.deadline.now());
            let Some((plan, opened)) = &mut self.plan else { continue };
            match plan.look(now, deadline, self.tick, &judgement) {
                Step::Stays => {}
                Step::Raise(weight) => {
                    *opened = self.tick as f64 / TICKS_A_SECOND - LEARN;
                    self.raise(weight);
                }
                Step::Complete => return Climbed::Complete(self.second()),
            }
        }
        let held = self.plan.map(|(plan, _)| (plan.percent(), plan.missing.join("; ")));
        let (percent, missing) = held.unwrap_or_default();
        Climbed::Held(percent, missing)
    }

    fn raise(&mut self, weight: Weight) {
        self.weight = weight;
        self.share_of_new = self.traffic_of_new();
        let now = self.now();
        self.judge.engine_mut().weigh(weight, now);
    }

    /// Runs until the first trip, or the end. `each` gets every judgement.
    pub fn run(mut self, mut each: impl FnMut(f64, &Judgement)) -> Option<Trip> {
        while self.second() < self.world.lasts {
            let judgement = self.step();
            each(self.second(), &judgement);
            if self.breaker_trip {
                let (reason, parts) = (String::new(), String::new());
                return Some(Trip { cause: Cause::Fuse, at: self.second(), reason, parts });
            }
            if let Verdict::Breach(cause) = judgement.verdict
                && self.weight > Weight::ZERO
            {
                let servers = self.judge.engine().servers();
                let spells = [ServerMark::Slow, ServerMark::Failed].map(|kind| {
                    let began = Arm::BOTH.map(|arm| servers.spells(kind, arm));
                    (began, servers.allowed(kind), servers.too_many(kind))
                });
                let parts = format!("{}; spells of stable and new: {spells:?}", parts(&judgement));
                return Some(Trip { cause, at: self.second(), reason: judgement.reason, parts });
            }
        }
        None
    }

    /// The share of the requests to `new`: a few users make most of the traffic.
    fn traffic_of_new(&self) -> f64 {
        let n = self.people.len() as f64;
        let of = |i: usize| ((i as f64 + 1.0) / n).sqrt() - (i as f64 / n).sqrt();
        let is_new = |person: &Person| person.unit.bucket() < self.weight.parts();
        self.people.iter().enumerate().filter(|(_, person)| is_new(person)).map(|(i, _)| of(i)).sum()
    }

    /// Seconds since the first raise.
    fn second(&self) -> f64 {
        self.tick as f64 / TICKS_A_SECOND - LEARN
    }

    fn now(&self) -> Duration {
        TICK * self.tick as u32
    }

    fn step(&mut self) -> Judgement {
        let began = self.second();
        for (at, weight) in &self.world.waves {
            if began >= *at && began < at + 1.0 / TICKS_A_SECOND {
                self.raise(percent(*weight));
            }
        }
        self.arrivals(began);
        self.tick += 1;
        let slot = (self.tick as usize - 1) % HORIZON;
        let due = std::mem::take(&mut self.due[slot]);
        for event in &due {
            self.count(event);
        }
        self.events.extend_from_slice(&due);
        self.due[slot] = due;
        self.due[slot].clear();
        let mut events = std::mem::take(&mut self.events);
        let timeouts = self.deadline.now() / 4;
        for event in &mut events {
            if let EventKind::Left { unusual } = &mut event.what {
                *unusual = event.after > timeouts;
            }
        }
        self.judge.push_all(&events);
        if let Some((plan, _)) = &mut self.plan {
            plan.push_all(&events, self.judge.engine());
        }
        events.clear();
        self.events = events;
        let now = self.now();
        self.judge.tick(now, self.deadline.now(), |_| {});
        if self.tick.is_multiple_of(OBSERVE) {
            for arm in Arm::BOTH {
                self.recent[arm.index()].observe(&self.tallies[arm.index()], now);
            }
            let [stable, new] =
                [Arm::Stable, Arm::New].map(|arm| self.recent[arm.index()].last(300 * SECOND).success);
            self.deadline.observe(&stable, &new, TIME_OUT);
        }
        let last = |window| Arm::BOTH.map(|arm| self.recent[arm.index()].last(window).latency);
        let (minute, recent) = (last(60 * SECOND), last(10 * SECOND));
        let [minute, recent] = [&minute, &recent]
            .map(|of| ExchangeDurations { new: &of[Arm::New.index()], stable: &of[Arm::Stable.index()] });
        self.judge.look(&JudgeInput { now, ticks: TickSettings::OnTime, minute, recent })
    }

    fn count(&mut self, event: &RequestEvent) {
        let counts = self.tallies[event.request.arm.index()].workers.of(0);
        match event.what {
            EventKind::Ended { .. } => {}
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected => {
                counts.response.record(event.after);
                if event.what != EventKind::ClientError {
                    counts.success.record(event.after);
                }
                match event.request.arm {
                    Arm::New => self.breaker.connected(),
                    Arm::Stable => self.stable_alive = Some(event.request.at + event.after),
                }
            }
            _ => counts.response.record(event.after),
        }
    }

    fn arrivals(&mut self, began: f64) {
        let load: f64 = self
            .world
            .shared
            .iter()
            .map(|s| match s.what {
                Weather::Load(times) if (s.at..s.at + s.lasts).contains(&began) => times,
                _ => 1.0,
            })
            .product();
        let [load_wanders, times_wander] = self.wander();
        let parallel = self.world.parallel;
        let n = self.dice.poisson(self.world.rate * load * load_wanders / TICKS_A_SECOND / parallel as f64);
        // Sorted by construction: the arrivals of a tick are evenly spread.
        for i in 0..n {
            let at = i as f64 / n as f64 / TICKS_A_SECOND;
            let number = (self.people.len() as f64 * self.dice.uniform().powi(2)) as usize;
            let Person { mut unit, times, lot } = self.people[number];
            if self.world.rotating {
                unit = UserUnit::from_index((self.dice.uniform() * f64::from(UNITS)) as u32);
            }
            for _ in 0..parallel {
                self.request(began + at, unit, f64::from(times) * times_wander, lot, None);
            }
        }
        for i in 0..self.world.accounts.len() {
            let account = self.world.accounts[i];
            let n = match account.pace {
                Pace::PerSecond(rate) if rate >= TICKS_A_SECOND => self.dice.poisson(rate / TICKS_A_SECOND),
                Pace::PerSecond(rate) => u64::from(due(began, rate)),
                Pace::Bursts { of, within, each } => {
                    u64::from(began.rem_euclid(each) < within && due(began, of / within))
                }
            };
            for _ in 0..n {
                self.request(began, self.accounts[i], 1.0, 1.0, Some(account));
            }
        }
    }

    /// The present factors of load and latency.
    fn wander(&mut self) -> [f64; 2] {
        let sigma = self.world.wanders;
        if sigma == 0.0 {
            return [1.0; 2];
        }
        let keeps = 0.5f64.powf(1.0 / (FORGETS * TICKS_A_SECOND));
        for log in &mut self.wanders {
            *log = keeps * *log + sigma * (1.0 - keeps * keeps).sqrt() * self.dice.normal();
        }
        self.wanders.map(f64::exp)
    }

    fn request(&mut self, second: f64, unit: UserUnit, times: f64, lot: f32, account: Option<Account>) {
        let arm = if unit.bucket() < self.weight.parts() { Arm::New } else { Arm::Stable };
        let route = self.dice.below(self.world.service.medians.len());
        let stratum = (self.world.service.medians.len() > 1 && route < 16).then_some(route as u8);
        self.ids += 1;
        let at = Duration::from_secs_f64(second + LEARN);
        let number = self.choose(arm, second);
        let server = Some(number as u8);
        let mut request =
            RequestStart { id: self.ids, at, arm, unit: Some(unit), drawn: true, stratum, server };
        self.events.push(RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO });
        let mut number = number;
        let outcome = self.outcome(second, arm, &mut number, route, times, account);
        if self.world.balanced {
            let ends = outcome.map_or(f64::INFINITY, |(ms, _)| second + ms / 1e3);
            self.servers[arm.index()][number].busy.push(ends);
        }
        let Some((ms, mut what)) = outcome else {
            return;
        };
        let lot = f64::from(lot);
        if lot < self.world.poisoned {
            what = EventKind::Failed;
        }
        request.server = Some(number as u8);
        let after = Duration::from_nanos((ms * 1e6) as u64);
        let worse = arm == Arm::New && second >= WARM_UP;
        let (mut what, mut size, mut body_ms) = (what, SIZE, BODY_MS);
        match self.world.fault {
            Fault::Redirects if worse && what == EventKind::Answered => {
                (what, size) = (EventKind::Redirected, 0)
            }
            Fault::Empties if worse => size = 0,
            Fault::SlowBodies(ms) if worse => body_ms = ms,
            Fault::Users(share) if worse && lot < share => what = EventKind::Failed,
            Fault::Route if worse && route == 0 => what = EventKind::Failed,
            _ => {}
        }
        self.tell_at(RequestEvent { request, what, after });
        if matches!(what, EventKind::Answered | EventKind::Redirected | EventKind::ClientError) {
            let after = after + Duration::from_nanos((body_ms * 1e6) as u64);
            self.tell_at(RequestEvent {
                request,
                what: EventKind::Ended { size, client_slow: false },
                after,
            });
        }
    }

    /// The server of a request.
    fn choose(&mut self, arm: Arm, second: f64) -> usize {
        let servers = &mut self.servers[arm.index()];
        let any = self.dice.below(servers.len());
        if !self.world.balanced {
            return any;
        }
        servers.iter_mut().for_each(|server| server.busy.retain(|ends| *ends > second));
        let n = servers.len();
        (0..n).min_by_key(|i| (servers[*i].busy.len(), (i + n - any) % n)).unwrap_or(any)
    }

    fn tell_at(&mut self, event: RequestEvent) {
        let then = ((event.request.at + event.after).as_nanos() / TICK.as_nanos()) as usize;
        if then < self.tick as usize + HORIZON {
            self.due[then % HORIZON].push(event);
        }
    }

    /// The duration and the outcome. `None`: no answer at all.
    fn outcome(
        &mut self,
        second: f64,
        arm: Arm,
        number: &mut usize,
        route: usize,
        times: f64,
        account: Option<Account>,
    ) -> Option<(f64, EventKind)> {
        let world = self.world;
        let new = arm == Arm::New;
        if let Some(account) = account {
            return Some(account.takes.map_or((20.0, EventKind::Failed), |ms| (ms, EventKind::Answered)));
        }
        let service = &world.service;
        let mut ms = service.medians[route] * times * (service.sigma * self.dice.normal()).exp();
        let (mut fails, mut tail) = (service.fails, service.tail);
        let worse = new && second >= WARM_UP;
        match world.fault {
            Fault::Points(more) if worse => fails += more,
            Fault::Slow(more, takes) if worse => tail = (tail.0 + more, takes),
            Fault::Stretch(by) if worse => ms *= by,
            Fault::Hang if worse => return None,
            _ => {}
        }
        if self.dice.chance(tail.0) {
            ms = tail.1;
        }
        if new {
            self.of_new += 1;
            if let Some((n, takes)) = world.first
                && self.of_new <= n
            {
                ms = takes;
            }
        }
        for shared in &world.shared {
            let at = shared.at - if new { shared.lead } else { 0.0 };
            if !(at..at + shared.lasts).contains(&second) {
                continue;
            }
            match shared.what {
                Weather::Fails(share, after) if self.dice.chance(share) => {
                    return Some((after[usize::from(!new)], EventKind::Failed));
                }
                Weather::Slower(by) => ms *= by,
                Weather::Fails(..) | Weather::Load(_) => {}
            }
        }
        let Some(served) = self.serve(second, arm, number, ms) else {
            return Some((AT_ONCE_MS, EventKind::Failed));
        };
        ms = served;
        if let Some(capacity) = world.capacity {
            let of_new = self.share_of_new;
            let share = if new { of_new } else { 1.0 - of_new };
            let free = &mut self.free_at[arm.index()];
            // For an arm of any size, bursts of up to `BURST` seconds of its capacity do not wait.
            *free = free.max(second) + 1.0 / (capacity * world.rate * share).max(1e-9);
            ms += 1e3 * (*free - second - BURST).max(0.0);
        }
        let u = self.dice.uniform();
        let what = match u {
            u if u < fails => EventKind::Failed,
            u if u < fails + service.client_errors => EventKind::ClientError,
            _ => EventKind::Answered,
        };
        Some((ms, what))
    }

    /// Serves it by a server of the arm, in its present state. If a server refuses the connection,
    /// the next one is tried. `None`: all refused, or the connection was reset. The breaker counts
    /// refusals.
    fn serve(&mut self, second: f64, arm: Arm, number: &mut usize, ms: f64) -> Option<f64> {
        let servers = self.servers[arm.index()].len();
        for _ in 0..servers {
            match self.serve_by(second, arm, *number, ms) {
                Served::In(ms) => return Some(ms),
                Served::Reset => return None,
                Served::Refused => *number = (*number + 1) % servers,
            }
        }
        None
    }

    fn serve_by(&mut self, second: f64, arm: Arm, number: usize, ms: f64) -> Served {
        let in_trouble = |(i, server): (usize, &Server)| i != number && second < server.until;
        let another = self.servers[arm.index()].iter().enumerate().any(in_trouble);
        let server = &mut self.servers[arm.index()][number];
        if let Some(pauses) = self.world.pauses
            && second >= server.next
            && !(pauses.alone && another)
        {
            (server.began, server.until) = (server.next, server.next + pauses.lasts);
            server.fallen = Some(pauses.trouble);
            let jitter = 0.8 + 0.4 * self.dice.uniform();
            server.next +=
                if pauses.poisson { gap(&mut self.dice, pauses.every) } else { pauses.every * jitter };
        }
        let opened = self.plan.as_ref().map_or(0.0, |(_, opened)| *opened);
        for spell in &self.world.spells {
            let at = spell.at + if arm == Arm::New { opened } else { 0.0 };
            if spell.arm == arm && spell.server == number && second >= at && second < at + spell.lasts {
                let starts = matches!(spell.trouble, Trouble::Started(_)) && server.began < at;
                (server.began, server.until) = (at, at + spell.lasts);
                if starts {
                    let now = Duration::from_secs_f64(second + LEARN);
                    self.judge.engine_mut().server_starts(ServerIndex { arm, server: number as u8 }, now);
                }
                server.fallen = Some(spell.trouble);
            }
        }
        let Some(trouble) = server.fallen.filter(|_| second < server.until) else {
            if std::mem::take(&mut server.refused) {
                let now = Duration::from_secs_f64(second + LEARN);
                self.judge.engine_mut().server_starts(ServerIndex { arm, server: number as u8 }, now);
            }
            return Served::In(ms);
        };
        server.refused = matches!(trouble, Trouble::Refuses);
        let left = server.until - second;
        Served::In(match trouble {
            Trouble::Stalls => ms + 1e3 * left,
            Trouble::Slower(by) | Trouble::Started(by) => ms * by,
            Trouble::SlowerAtFirst(by) => ms * (1.0 + (by - 1.0) * left / (server.until - server.began)),
            Trouble::Resets => return Served::Reset,
            Trouble::Refuses => {
                let now = Duration::from_secs_f64(second + LEARN);
                if arm == Arm::New {
                    let breaker_trip = self.breaker.refused(number, &[], now, self.stable_alive);
                    self.breaker_trip |= breaker_trip.is_some();
                }
                return Served::Refused;
            }
        })
    }
}

/// A server's result for a request: milliseconds of an answer, or none.
enum Served {
    In(f64),
    Refused,
    Reset,
}

fn parts(judgement: &Judgement) -> String {
    let comparison = judgement.evidence.inputs.comparison;
    let signals =
        Signal::ALL.iter().zip(comparison.parts).filter(|(_, parts)| parts.iter().sum::<f64>() > 1.0);
    let parts: Vec<String> = signals.map(|(signal, parts)| format!("{signal:?} {parts:.1?}")).collect();
    let rows = judgement.evidence.rows.iter().take(2).map(|(row, wealth)| format!("{row}: {wealth:.1}"));
    format!("{}; {}", parts.join(", "), rows.collect::<Vec<_>>().join(", "))
}

/// True if one of these evenly spread requests is due in the tick that begins now.
fn due(began: f64, rate: f64) -> bool {
    ((began + 1.0 / TICKS_A_SECOND) * rate).floor() > (began * rate).floor()
}

fn gap(dice: &mut Dice, mean: f64) -> f64 {
    -mean * (1.0 - dice.uniform()).ln()
}
