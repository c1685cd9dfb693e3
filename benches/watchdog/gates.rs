//! The gates that promote (T13, T14): exactly at a margin they pass in one of twenty at most, and with equal arms they pass soon.
//!
//! Event by event, through the trial that a wave is judged by. A delay is the number of requests of `new` that have arrived until the gate passes.

use crate::dice::{Dice, Latencies};
use crate::table::{Bench, quantile, row, thousands};
use grayling::domain::cohort::Weight;
use grayling::domain::decide::Arm;
use grayling::domain::engine::latency::Table;
use grayling::domain::engine::users::{UNITS, Unit};
use grayling::domain::engine::{Event, Request, What};
use grayling::domain::gate::noninferior::BETA;
use grayling::domain::gate::trial::{Trial, Yardstick};
use grayling::domain::gate::{Margins, Reading};
use grayling::domain::histogram::EDGES;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Copy)]
struct Crowd {
    /// 0: nobody comes twice.
    users: usize,
    share: f64,
    /// Share of users who fail always, wherever they are.
    poisoned: f64,
    /// Of the requests of stable, and of new.
    fails: [f64; 2],
    slower: f64,
    /// σ of the log of users' own speed.
    users_differ: f64,
}

const ALIKE: Crowd =
    Crowd { users: 0, share: 0.05, poisoned: 0.0, fails: [0.001; 2], slower: 1.0, users_differ: 0.0 };

/// So many requests of both arms a second.
const RATE: u64 = 2_000;
/// Requests of both arms between two looks.
const LOOK: u64 = 500;

struct Run<'a> {
    crowd: Crowd,
    margins: Margins,
    /// Of `new`.
    requests: u64,
    latencies: &'a Latencies,
    table: &'a Arc<Table>,
}

impl Run<'_> {
    /// Requests of `new` until it passes.
    fn passes(&self, seed: u64, gate: fn(&Reading) -> f64) -> Option<u64> {
        let Crowd { users, share, poisoned, fails, slower, users_differ } = self.crowd;
        let (tick, weight) = (Duration::from_millis(100), Weight::from_parts((share * 1e6) as u32));
        let mut dice = Dice::new(seed);
        let mut trial = Trial::new(self.margins, weight, tick, Duration::ZERO);
        let (mut arrived, mut n) = (0, 0u64);
        while arrived < self.requests {
            n += 1;
            let at = Duration::from_micros(1_000_000 * n / RATE);
            let user = if users == 0 { n } else { dice.below(users) as u64 };
            // Where a user stands, and what he is like, is drawn anew in each run.
            let mut of_user = Dice::new((seed << 32) ^ user ^ 0x5eed_0000_0000_0000);
            let unit = Unit::from_index(of_user.below(UNITS as usize) as u32);
            let fails_always = of_user.chance(poisoned);
            let usual = (users_differ * of_user.normal()).exp();
            let arm = if unit.bucket() < weight.parts() { Arm::New } else { Arm::Stable };
            arrived += u64::from(arm == Arm::New);
            let request =
                Request { id: n, at, arm, unit: Some(unit), drawn: true, stratum: None, server: None };
            let failed = fails_always || dice.chance(fails[arm.index()]);
            let ms = self.latencies.draw(&mut dice).0 * usual * if arm == Arm::New { slower } else { 1.0 };
            let yardstick = Yardstick { table: Some(self.table), factor: 1.0, floor: Duration::ZERO };
            trial.push(&Event { request, what: What::Arrived, after: Duration::ZERO }, &yardstick);
            let what = if failed { What::Failed } else { What::Answered };
            trial.push(&Event { request, what, after: Duration::from_secs_f64(ms / 1e3) }, &yardstick);
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

pub fn rows(bench: &Bench, latencies: &Arc<Latencies>) {
    let shares = latencies.buckets(1.0);
    let edges: Vec<f64> = EDGES.iter().map(|e| f64::from(*e)).collect();
    let table = Arc::new(Table::new(&edges, &shares.iter().map(|s| s * 1e6).collect::<Vec<_>>()).monotone());
    let margins = |points: f64| Margins { errors: points / 100.0, latency: 0.1 };
    let run = |crowd: Crowd, points: f64, requests: u64| Run {
        crowd,
        margins: margins(points),
        requests,
        latencies,
        table: &table,
    };
    if bench.wants("T13") {
        let errors: fn(&Reading) -> f64 = |r| r.e_errors;
        let body: fn(&Reading) -> f64 = |r| r.e_body;
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
            // Beyond 5% by no more than the runs' own noise.
            let met = n as f64 <= 0.05 * of as f64 + 2.0 * (0.0475 * of as f64).sqrt();
            row("T13", &what, "5%", of, &format!("promoted {:.1}%", 100.0 * n as f64 / of as f64), Some(met));
        }
    }
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
        for (name, gate) in [("body", (|r| r.e_body) as fn(&Reading) -> f64), ("tail", |r| r.e_tail)] {
            let delays = bench.runs("T14", bench.pick(300, 60), |seed| run.passes(seed, gate));
            let [median, p95] = [0.5, 0.95].map(|q| quantile(&delays, q));
            let what = format!("gate of latency, {name}, equal arms, share 5%");
            row("T14", &what, "", delays.len(), &format!("{} / {}", thousands(median), thousands(p95)), None);
        }
    }
}
