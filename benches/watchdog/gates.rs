//! The promotion gates (T13, T14): exactly at a margin they pass in 5% of runs at most, and with
//! equal arms they pass soon.
//!
//! The events go through the same trial by which waves are judged. A delay is the number of
//! requests of `new` that have arrived until the gate passes.

use crate::dice::{Dice, Latencies};
use crate::table::{Bench, quantile, row, thousands};
use grayling::domain::gates::trial::{Reference, Trial};
use grayling::domain::gates::{Margins, TrialReading};
use grayling::stats::arm::Arm;
use grayling::stats::cohort::Weight;
use grayling::stats::engine::{EventKind, RequestEvent, RequestStart};
use grayling::stats::histogram::EDGES;
use grayling::stats::latency::AgeTable;
use grayling::stats::noninferiority::BETA;
use grayling::stats::users::{UNITS, UserUnit};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy)]
struct Crowd {
    /// 0: no user comes twice.
    users: usize,
    share: f64,
    /// Share of users who always fail, in either arm.
    poisoned: f64,
    /// Shares of failed requests, in stable and in new.
    fails: [f64; 2],
    slower: f64,
    /// σ of the logarithm of users' own latency.
    users_differ: f64,
}

const ALIKE: Crowd =
    Crowd { users: 0, share: 0.05, poisoned: 0.0, fails: [0.001; 2], slower: 1.0, users_differ: 0.0 };

/// Requests a second of both arms.
const RATE: u64 = 2_000;
/// Requests of both arms between two looks.
const LOOK: u64 = 500;

struct Run<'a> {
    crowd: Crowd,
    margins: Margins,
    /// Requests of `new`.
    requests: u64,
    latencies: &'a Latencies,
    table: &'a Arc<AgeTable>,
}

impl Run<'_> {
    /// Requests of `new` until it passes.
    fn passes(&self, seed: u64, gate: fn(&TrialReading) -> f64) -> Option<u64> {
        let Crowd { users, share, poisoned, fails, slower, users_differ } = self.crowd;
        let (tick, weight) = (Duration::from_millis(100), Weight::from_parts((share * 1e6) as u32));
        let mut dice = Dice::new(seed);
        let mut trial = Trial::new(self.margins, weight, tick, Duration::ZERO);
        let (mut arrived, mut n) = (0, 0u64);
        while arrived < self.requests {
            n += 1;
            let at = Duration::from_micros(1_000_000 * n / RATE);
            let user = if users == 0 { n } else { dice.below(users) as u64 };
            // The users' places and properties are drawn again in each run.
            let mut of_user = Dice::new((seed << 32) ^ user ^ 0x5eed_0000_0000_0000);
            let unit = UserUnit::from_index(of_user.below(UNITS as usize) as u32);
            let fails_always = of_user.chance(poisoned);
            let usual = (users_differ * of_user.normal()).exp();
            let arm = if unit.bucket() < weight.parts() { Arm::New } else { Arm::Stable };
            arrived += u64::from(arm == Arm::New);
            let request =
                RequestStart { id: n, at, arm, unit: Some(unit), drawn: true, stratum: None, server: None };
            let failed = fails_always || dice.chance(fails[arm.index()]);
            let ms = self.latencies.draw(&mut dice).0 * usual * if arm == Arm::New { slower } else { 1.0 };
            let reference =
                Reference { table: Some(self.table), factor: 1.0, floor: Duration::ZERO, is_warming: false };
            trial
                .push(&RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO }, &reference);
            let what = if failed { EventKind::Failed } else { EventKind::Answered };
            trial.push(&RequestEvent { request, what, after: Duration::from_secs_f64(ms / 1e3) }, &reference);
            if n % LOOK == 0 {
                trial.tick(at, Duration::from_secs(2));
                if gate(&trial.reading()) >= 1.0 / BETA {
                    return Some(arrived);
                }
            }
        }
        None
    }
}

/// Servers that pause: their requests during a pause are answered at its end.
#[derive(Clone, Copy)]
struct Pauses {
    /// Number in new, in stable.
    servers: [usize; 2],
    seconds: f64,
    every: f64,
    /// Share of the arrivals in a pause that fail at once, instead of waiting for its end.
    fails: f64,
    /// Additional share of failed requests of `new`, besides its pauses.
    more_failures: f64,
    slower: f64,
    /// Pauses of `new` are longer by this factor.
    longer: f64,
}

/// Requests a second of both arms, and the share of `new`.
const PAUSING_RATE: u64 = 200;
const PAUSING_SHARE: f64 = 0.05;

impl Pauses {
    /// Minutes until the gate passes, checked every ten seconds after a bake of ten minutes, for up
    /// to an hour. `table`: of stable with its pauses.
    fn passes(
        &self,
        seed: u64,
        latencies: &Latencies,
        table: &Arc<AgeTable>,
        gate: fn(&TrialReading) -> f64,
    ) -> Option<u64> {
        let weight = Weight::from_parts((PAUSING_SHARE * 1e6) as u32);
        let margins = Margins { errors: 0.01, latency: 0.1, tail: 0.5 };
        let mut trial = Trial::new(margins, weight, Duration::from_millis(100), Duration::ZERO);
        let mut world = PausingWorld::new(*self, seed);
        let mut due: Vec<(f64, RequestEvent)> = vec![];
        for n in 0..3600 * PAUSING_RATE {
            let at = n as f64 / PAUSING_RATE as f64;
            let (arrived, outcome, done) = world.request(n, at, latencies);
            let reference = Reference {
                table: Some(table),
                factor: 1.0,
                floor: Duration::from_millis(2),
                is_warming: false,
            };
            trial.push(&arrived, &reference);
            due.push((done, outcome));
            if n % (PAUSING_RATE / 10) != 0 {
                continue;
            }
            due.sort_by(|a, b| a.0.total_cmp(&b.0));
            let over = due.partition_point(|(done, _)| *done <= at);
            due.drain(..over).for_each(|(_, event)| trial.push(&event, &reference));
            trial.tick(Duration::from_secs_f64(at), Duration::from_secs(4));
            if n % (10 * PAUSING_RATE) == 0 && at >= 600.0 && gate(&trial.reading()) >= 1.0 / BETA {
                return Some(at as u64 / 60);
            }
        }
        None
    }

    /// The table of stable's answers in this world.
    fn table(&self, latencies: &Latencies) -> Arc<AgeTable> {
        let edges: Vec<f64> = EDGES.iter().map(|e| f64::from(*e)).collect();
        let mut counts = vec![0.0; grayling::stats::histogram::BUCKETS];
        let mut world = PausingWorld::new(*self, 1 << 40);
        for n in 0..600 * PAUSING_RATE {
            let (_, RequestEvent { request, after, .. }, _) =
                world.request(n, n as f64 / PAUSING_RATE as f64, latencies);
            if request.arm == Arm::Stable {
                counts[grayling::stats::histogram::index(after.as_micros() as u64)] += 1.0;
            }
        }
        Arc::new(AgeTable::new(&edges, &counts).monotone())
    }
}

struct PausingWorld {
    of: Pauses,
    dice: Dice,
    seed: u64,
    /// The next pause of each server.
    next: Vec<f64>,
}

impl PausingWorld {
    fn new(of: Pauses, seed: u64) -> PausingWorld {
        let mut dice = Dice::new(seed ^ 0xabcd_0000);
        let next = (0..of.servers[0] + of.servers[1]).map(|_| of.every * dice.uniform()).collect();
        PausingWorld { of, dice, seed, next }
    }

    /// Its arrival, its outcome, and the time of the outcome.
    fn request(&mut self, n: u64, at: f64, latencies: &Latencies) -> (RequestEvent, RequestEvent, f64) {
        let Pauses { servers, seconds, every, fails, more_failures, slower, longer } = self.of;
        let user = self.dice.below(20_000) as u64;
        let mut of_user = Dice::new((self.seed << 32) ^ user ^ 0x5eed_0000_0000_0000);
        let unit = UserUnit::from_index(of_user.below(UNITS as usize) as u32);
        let weight = Weight::from_parts((PAUSING_SHARE * 1e6) as u32);
        let arm = if unit.bucket() < weight.parts() { Arm::New } else { Arm::Stable };
        let new = arm == Arm::New;
        let (first, number) = if new { (0, servers[0]) } else { (servers[0], servers[1]) };
        let server = self.dice.below(number);
        let lasts = if new { seconds * longer } else { seconds };
        let next = &mut self.next[first + server];
        while *next + lasts < at {
            *next += every;
        }
        let (pauses, end) = (*next <= at, *next + lasts);
        let times = if new { slower } else { 1.0 };
        let quick = self.dice.chance(fails);
        let failed = pauses && quick || self.dice.chance(0.001 + if new { more_failures } else { 0.0 });
        let ms = latencies.draw(&mut self.dice).0 * times;
        let waits = if pauses && !quick { 1e3 * (end - at) } else { 0.0 };
        let after =
            if failed { Duration::from_millis(1) } else { Duration::from_secs_f64((ms + waits) / 1e3) };
        let (at_duration, server) = (Duration::from_secs_f64(at), u8::try_from(server).ok());
        let request = RequestStart {
            id: n,
            at: at_duration,
            arm,
            unit: Some(unit),
            drawn: true,
            stratum: None,
            server,
        };
        let what = if failed { EventKind::Failed } else { EventKind::Answered };
        let arrived = RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO };
        (arrived, RequestEvent { request, what, after }, at + after.as_secs_f64())
    }
}

fn pauses(bench: &Bench, latencies: &Arc<Latencies>) {
    let sound = Pauses {
        servers: [1, 10],
        seconds: 1.0,
        every: 60.0,
        fails: 0.0,
        more_failures: 0.0,
        slower: 1.0,
        longer: 1.0,
    };
    let refuses = Pauses { fails: 1.0, seconds: 2.0, every: 600.0, servers: [2, 10], ..sound };
    let errors: fn(&TrialReading) -> f64 = |r| r.e_errors;
    let body: fn(&TrialReading) -> f64 = |r| r.e_body;
    let tail: fn(&TrialReading) -> f64 = |r| r.e_tail;
    let all: fn(&TrialReading) -> f64 = |r| r.e_errors.min(r.e_body).min(r.e_tail);
    let cases = [
        ("1:10, errors 1 point worse", Pauses { more_failures: 0.01, ..sound }, errors, true),
        ("1:10, 10% slower, body", Pauses { slower: 1.1, ..sound }, body, true),
        ("1:10, pauses 1.5 times as long, tail", Pauses { longer: 1.5, ..sound }, tail, true),
        ("1:1, 10% slower, body", Pauses { slower: 1.1, servers: [1, 1], ..sound }, body, true),
        ("3:30, 10% slower, body", Pauses { slower: 1.1, servers: [3, 30], ..sound }, body, true),
        (
            "2:10 refuse for 2 s each 600 s, errors 1 point worse",
            Pauses { more_failures: 0.01, ..refuses },
            errors,
            true,
        ),
        ("1:10, sound, all gates", sound, all, false),
        ("1:1, sound, all gates", Pauses { servers: [1, 1], ..sound }, all, false),
        ("3:30, sound, all gates", Pauses { servers: [3, 30], ..sound }, all, false),
        ("2:10 refuse for 2 s each 600 s, sound, all gates", refuses, all, false),
    ];
    for (name, world, gate, at_margin) in cases {
        let row_name = if at_margin { "T13" } else { "T14" };
        if !bench.wants(row_name) && !bench.wants("pauses") {
            continue;
        }
        let table = world.table(latencies);
        let runs =
            bench.runs(&format!("{row_name} {name}"), bench.count.unwrap_or(bench.pick(300, 60)), |seed| {
                world.passes(seed, latencies, &table, gate)
            });
        let (passed, of) = (runs.iter().flatten().count(), runs.len());
        let what =
            format!("servers pause (1 s each 60 s), {PAUSING_RATE}/s, 5%, baked 10 min, to 60 min: {name}");
        let [median, p95] = [0.5, 0.95].map(|q| quantile(&runs, q));
        let reached = format!(
            "promoted {:.1}%; after {} / {} min",
            100.0 * passed as f64 / of as f64,
            thousands(median),
            thousands(p95)
        );
        let share = passed as f64 / of as f64;
        let met = if at_margin { share <= 0.05 + 2.0 * (0.0475 / of as f64).sqrt() } else { share >= 0.95 };
        row(row_name, &what, if at_margin { "5%" } else { "95%" }, of, &reached, Some(met));
    }
}

pub fn rows(bench: &Bench, latencies: &Arc<Latencies>) {
    let shares = latencies.buckets(1.0);
    let edges: Vec<f64> = EDGES.iter().map(|e| f64::from(*e)).collect();
    let table =
        Arc::new(AgeTable::new(&edges, &shares.iter().map(|s| s * 1e6).collect::<Vec<_>>()).monotone());
    let margins = |points: f64| Margins { errors: points / 100.0, latency: 0.1, tail: 0.5 };
    let run = |crowd: Crowd, points: f64, requests: u64| Run {
        crowd,
        margins: margins(points),
        requests,
        latencies,
        table: &table,
    };
    if bench.wants("T13") {
        let errors: fn(&TrialReading) -> f64 = |r| r.e_errors;
        let body: fn(&TrialReading) -> f64 = |r| r.e_body;
        let few = Crowd { users: 5_000, ..ALIKE };
        let cases = [
            ("errors, 1 point", Crowd { fails: [0.001, 0.011], ..ALIKE }, 1.0, errors),
            ("errors, 0.1 point", Crowd { fails: [0.001, 0.002], ..ALIKE }, 0.1, errors),
            ("errors, 1.5 times 1%", Crowd { fails: [0.01, 0.015], ..ALIKE }, 0.1, errors),
            (
                "errors, 0.5 point, 5,000 users, 1% of them fail always",
                Crowd { fails: [0.001, 0.006], poisoned: 0.01, ..few },
                0.5,
                errors,
            ),
            ("latency, 10% slower", Crowd { slower: 1.1, ..ALIKE }, 1.0, body),
            (
                "latency, 10% slower, 5,000 users, σ 0.6 between them",
                Crowd { slower: 1.1, users_differ: 0.6, ..few },
                1.0,
                body,
            ),
        ];
        for (name, crowd, points, gate) in cases {
            let requests = bench.pick(40_000, 20_000);
            let run = run(Crowd { share: 0.2, ..crowd }, points, requests);
            let passed = bench
                .runs(&format!("T13 {name}"), bench.pick(600, 200), |seed| run.passes(seed, gate).is_some());
            let (n, of) = (passed.iter().filter(|p| **p).count(), passed.len());
            let what = format!("gate exactly at its margin: {name}, share 20%, {requests} requests of new");
            // Above 5% by no more than the sampling error of the runs.
            let met = n as f64 <= 0.05 * of as f64 + 2.0 * (0.0475 * of as f64).sqrt();
            row("T13", &what, "5%", of, &format!("promoted {:.1}%", 100.0 * n as f64 / of as f64), Some(met));
        }
    }
    pauses(bench, latencies);
    if bench.wants("T14") {
        for (points, limit) in [(1.0, 1_500), (0.1, 42_000)] {
            for share in [0.05, 0.2] {
                let run = run(Crowd { share, ..ALIKE }, points, 3 * limit);
                let delays = bench.runs("T14", bench.pick(300, 60), |seed| run.passes(seed, |r| r.e_errors));
                let [median, p95] = [0.5, 0.95].map(|q| quantile(&delays, q));
                let what = format!("gate, equal arms, margin {points} point, share {}%", share * 100.0);
                let reached = format!("{} / {}", thousands(median), thousands(p95));
                let met = p95.is_some_and(|p95| p95 <= limit);
                row(
                    "T14",
                    &what,
                    &format!("p95 {}", thousands(Some(limit))),
                    delays.len(),
                    &reached,
                    Some(met),
                );
            }
        }
        let run = run(ALIKE, 1.0, 40_000);
        for (name, gate) in [("body", (|r| r.e_body) as fn(&TrialReading) -> f64), ("tail", |r| r.e_tail)] {
            let delays = bench.runs("T14", bench.pick(300, 60), |seed| run.passes(seed, gate));
            let [median, p95] = [0.5, 0.95].map(|q| quantile(&delays, q));
            let what = format!("gate of latency, {name}, equal arms, share 5%");
            row("T14", &what, "", delays.len(), &format!("{} / {}", thousands(median), thousands(p95)), None);
        }
    }
}
