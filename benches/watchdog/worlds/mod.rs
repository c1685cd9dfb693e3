//! The worlds of a real service: table N, in which `new` is no worse, and table M, in which it is
//! worse.
//!
//! `cargo bench --bench watchdog -- worlds-n` (or `worlds-m`) is reduced: fewer runs. `--full`: the
//! published number of runs; `N4`, `N4.2`: those rows alone; `--seed 17`: that run alone, with the
//! judge's states; `--runs 3`; `--threads 1`.
//! All traffic goes through the whole decision path: see [`sim`].

mod climb;
mod sim;
mod sound;
mod world;
mod worse;

use crate::table::{Bench, quantile, row, thousands};
use grayling::domain::verdict::{Cause, SignalResult};
use sim::{Climbed, Sim, Trip};
use std::collections::BTreeMap;
use world::World;

/// A row: its number, its description, and the world; in table M with the limits of median and p95,
/// in seconds.
pub struct Row {
    pub id: &'static str,
    pub what: String,
    pub world: World,
    pub limit: Option<[f64; 2]>,
    /// Runs with `--full`, and without.
    pub runs: [u64; 2],
    /// The same for runs with a plan, in table N.
    pub climbs: [u64; 2],
}

pub fn rows(bench: &Bench, table: &str) {
    let rows = if table == "worlds-n" { sound::rows() } else { worse::rows() };
    let head = if table == "worlds-n" { "rollbacks" } else { "median / p95, s" };
    println!("| # | world | limit | runs | {head} | met |\n|---|---|---|---|---|---|");
    for of in rows
        .iter()
        .filter(|of| bench.wants(of.id) || of.id.split('.').next().is_some_and(|id| bench.wants(id)))
    {
        match bench.seed {
            Some(seed) => replay(of, seed),
            None => run(bench, of),
        }
    }
}

fn run(bench: &Bench, of: &Row) {
    let n = bench.count.unwrap_or(bench.pick(of.runs[0], of.runs[1]));
    let trips = bench.runs(&format!("{} {}", of.id, of.what), n, |seed| told(of, seed));
    for (seed, trip) in trips.iter().enumerate() {
        if let Some(Told { what, at, reason, .. }) = trip.as_ref().filter(|_| of.limit.is_none()) {
            eprintln!("  {} --seed {seed}: {} after {at:.1} s: {reason}", of.id, what);
        }
    }
    match of.limit {
        None => {
            sound(of, &trips);
            climbs(bench, of);
        }
        Some(limit) => worse(of, limit, &trips),
    }
}

/// The first trip. If no user is left in stable, the alarm counts, if it comes first.
fn told(of: &Row, seed: u64) -> Option<Told> {
    let mut alarm = None;
    let mut alone = of.world.waves.last().is_some_and(|(_, percent)| *percent >= 100.0);
    alone &= of.limit.is_some();
    let trip = Sim::new(&of.world, seed).run(|at, judgement| {
        let stands =
            |s: &&SignalResult| s.signal == SignalResult::WORSE_THAN_BEFORE && s.evidence_ratio >= 1.0;
        if alone && alarm.is_none() && judgement.signals.iter().any(|s| stands(&s)) {
            alarm = Some(at);
        }
    });
    match (trip, alarm) {
        (Some(trip), Some(at)) if trip.at < at => Some(Told::trip(trip)),
        (_, Some(at)) => {
            Some(Told { what: SignalResult::WORSE_THAN_BEFORE, blamed: true, at, reason: String::new() })
        }
        (trip, None) => trip.map(Told::trip),
    }
}

/// The result of a run.
struct Told {
    what: &'static str,
    /// `new` is blamed.
    blamed: bool,
    /// Seconds since the first raise.
    at: f64,
    reason: String,
}

impl Told {
    fn trip(Trip { cause, at, reason, parts }: Trip) -> Told {
        Told {
            what: cause.label(),
            blamed: cause != Cause::BothArms,
            at,
            reason: format!("{reason} [{parts}]"),
        }
    }
}

fn causes<'t>(trips: impl Iterator<Item = &'t Told>) -> String {
    let mut by_cause = BTreeMap::new();
    trips.for_each(|trip| *by_cause.entry(trip.what).or_insert(0) += 1);
    let each: Vec<String> = by_cause.iter().map(|(cause, n)| format!("{n} {cause}")).collect();
    if each.is_empty() { "0".to_owned() } else { each.join(", ") }
}

/// Measures whether it climbs within three times its bake.
fn climbs(bench: &Bench, of: &Row) {
    let n = bench.count.unwrap_or(bench.pick(of.climbs[0], of.climbs[1]));
    if of.climbs == [0; 2] {
        return;
    }
    let world = climb::world(&of.world);
    let ends = bench.runs(&format!("{} climbs", of.id), n, |seed| Sim::new(&world, seed).climb());
    let mut others = BTreeMap::new();
    let mut minutes = vec![];
    for (seed, end) in ends.iter().enumerate() {
        minutes.push(match end {
            Climbed::Complete(at) => Some((at / 60.0) as u64),
            Climbed::Out(what, at) => {
                eprintln!("  {} climbs --seed {seed}: {what} after {at:.0} s", of.id);
                *others.entry((*what).to_owned()).or_insert(0) += 1;
                None
            }
            Climbed::Held(percent, missing) => {
                eprintln!("  {} climbs --seed {seed}: held at {percent}%: {missing}", of.id);
                *others.entry(format!("held at {percent}%")).or_insert(0) += 1;
                None
            }
        });
    }
    let complete = minutes.iter().flatten().count();
    let [median, p95] = [0.5, 0.95].map(|q| thousands(quantile(&minutes, q)));
    let others: String = others.iter().map(|(what, n)| format!("; {n} {what}")).collect();
    let bakes = climb::bakes(of.world.rate).as_secs() / 60;
    row(
        &format!("{} climbs", of.id),
        &of.what,
        &format!("95% within {} min", 3 * bakes),
        n as usize,
        &format!("{complete} complete, {median} / {p95} min{others}"),
        Some(complete as f64 >= 0.95 * n as f64),
    );
}

/// A freeze because both arms are bad is no rollback. The row shows the number of freezes.
fn sound(of: &Row, trips: &[Option<Told>]) {
    let blamed = trips.iter().flatten().filter(|trip| trip.blamed).count();
    let most = (trips.len() as f64 / 200.0).max(1.0);
    row(
        of.id,
        &of.what,
        "1 in 200",
        trips.len(),
        &causes(trips.iter().flatten()),
        Some(blamed as f64 <= most),
    );
}

fn worse(of: &Row, [median, p95]: [f64; 2], trips: &[Option<Told>]) {
    let onset = world::WARM_UP;
    let early = trips.iter().flatten().filter(|trip| trip.at < onset).count();
    let delays: Vec<Option<u64>> =
        trips.iter().map(|trip| trip.as_ref().map(|t| (1e3 * (t.at - onset).max(0.0)) as u64)).collect();
    let reached = [0.5, 0.95].map(|q| quantile(&delays, q));
    let seconds = |ms: Option<u64>| match ms {
        Some(ms) if ms < 10_000 => format!("{:.1}", ms as f64 / 1e3),
        ms => thousands(ms.map(|ms| ms / 1000)),
    };
    let figures = format!(
        "{} / {} ({}{})",
        seconds(reached[0]),
        seconds(reached[1]),
        causes(trips.iter().flatten()),
        if early > 0 { format!("; {early} before the onset") } else { String::new() }
    );
    let within = |ms: Option<u64>, limit: f64| ms.is_some_and(|ms| ms as f64 <= 1e3 * limit);
    let met = within(reached[0], median) && within(reached[1], p95) && early == 0;
    row(of.id, &of.what, &format!("{median} / {p95} s"), trips.len(), &figures, Some(met));
}

/// One run, with each change of the judge's state, and the highest E in between.
fn replay(of: &Row, seed: u64) {
    let mut was = None;
    let mut highest = 0.0f64;
    let trip = Sim::new(&of.world, seed).run(|at, judgement| {
        highest = highest.max(judgement.evidence.e_value);
        if was != Some(judgement.state) {
            was = Some(judgement.state);
            eprintln!(
                "  {at:8.1} s  highest E {highest:.3e}  {}: {}",
                judgement.state.label(),
                judgement.reason
            );
            highest = 0.0;
        }
    });
    let end = trip
        .map_or("no trip".to_owned(), |t| format!("{} after {:.1} s: {}", t.cause.label(), t.at, t.reason));
    row(of.id, &format!("{}, seed {seed}", of.what), "", 1, &end, None);
}
