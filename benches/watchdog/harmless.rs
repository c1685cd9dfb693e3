//! Rows in which `new` is no worse: how often it is blamed.

use crate::dice::Latencies;
use crate::slots;
use crate::table::{Bench, row};
use crate::world::{ALPHA, Crowd, Fault, Regulars, Weather, World, percent};
use grayling::stats::engine::Signal;
use std::sync::Arc;

/// The highest E of a run, and its parts at that time.
#[derive(Clone, Copy, Default)]
struct Sup {
    e: f64,
    tripped: bool,
    signals: [[f64; 4]; 6],
    notice: f64,
    notice_parts: [f64; 4],
}

impl Sup {
    fn look(&mut self, world: &World) {
        let e = world.e_value();
        self.tripped |= world.tripped().is_some();
        if e > self.e {
            (self.e, self.signals) = (e, Signal::ALL.map(|signal| world.engine().parts(signal)));
        }
        let notice = world.engine().notice();
        if notice > self.notice {
            (self.notice, self.notice_parts) = (notice, world.engine().notice_parts());
        }
    }
}

fn trips(sups: &[Sup]) -> usize {
    sups.iter().filter(|s| s.tripped).count()
}

fn over(sups: &[f64]) -> (String, bool) {
    let share = |e: f64| sups.iter().filter(|s| **s >= e).count() as f64 / sups.len() as f64;
    let (a, b, c) = (share(20.0), share(100.0), share(2000.0));
    (format!("{a:.3} / {b:.3} / {c:.4}"), a <= 0.05 && b <= 0.015 && c <= 0.003)
}

fn tell(id: &str, scenario: &str, sups: &[Sup]) {
    let (n, trips) = (sups.len(), trips(sups));
    let notices = sups.iter().filter(|s| s.notice >= 1.0 / ALPHA).count();
    let highest = sups.iter().copied().max_by(|a, b| a.e.total_cmp(&b.e)).unwrap_or_default();
    let [errors, client, latency, ..] = highest.signals.map(|parts| parts.iter().sum::<f64>());
    let reached = format!(
        "{trips} trips, {notices} notices; E ≥ 20 / 100 / 2000: {}; highest {:.1} (errors {errors:.1}, client errors {client:.1}, latency {latency:.1})",
        over(&sups.iter().map(|s| s.e).collect::<Vec<_>>()).0,
        highest.e
    );
    row(id, scenario, "≤ 1 in 300", n, &reached, Some(trips as f64 <= (n as f64 / 300.0).max(1.0)));
    blamed(&format!("{id} {scenario}"), sups);
}

/// Prints the signal and part of each trip and notice.
fn blamed(what: &str, sups: &[Sup]) {
    for (seed, s) in sups.iter().enumerate() {
        if s.e >= 1.0 / ALPHA {
            eprintln!("  TRIP {what}: run {seed}, errors, client errors, latency by part {:.1?}", s.signals);
        }
        if s.notice >= 1.0 / ALPHA {
            eprintln!("  NOTICE {what}: run {seed}, by part {:.1?}", s.notice_parts);
        }
    }
}

pub fn rows(bench: &Bench, latencies: &Arc<Latencies>) {
    t1(bench, latencies);
    t2(bench, latencies);
    if bench.wants("T2") || bench.wants("rushes") {
        rushes(bench);
    }
    if bench.wants("T12") {
        t12(bench, latencies);
    }
    if bench.wants("T15") {
        let requests = bench.pick(500_000, 200_000);
        for (name, crowd) in [("strangers", Crowd::Strangers), ("20,000 ugly users", Crowd::ugly(20_000))] {
            let sups = bench.runs("T15", bench.pick(300, 20), |seed| {
                let mut world = World::new(seed, crowd, 200, 0, latencies);
                world.fault = Fault::Better;
                calm(&mut world, &[5.0], requests)
            });
            let what = format!("`new` better (errors ×.5, latency ×.9), {name}, {requests} requests");
            let trips = trips(&sups);
            row("T15", &what, "no trip", sups.len(), &format!("{trips} trips"), Some(trips == 0));
        }
    }
    if bench.wants("T18") {
        t18(bench, latencies);
    }
}

/// Runs the weights one after the other, with this many requests of both arms in each.
fn calm(world: &mut World, weights: &[f64], requests: u64) -> Sup {
    let mut sup = Sup::default();
    for weight in weights {
        world.weigh(percent(*weight));
        let until = world.requests + requests;
        while world.requests < until {
            world.tick();
            sup.look(world);
        }
    }
    sup
}

fn t1(bench: &Bench, latencies: &Arc<Latencies>) {
    if !bench.wants("T1") {
        return;
    }
    let law = slots::Law::new(latencies);
    let runs = bench.pick(1000, 100);
    for share in [0.01, 0.05, 0.2, 0.5] {
        let requests = bench.pick(1_000_000, 100_000);
        let sups = bench.runs("T1 slots", runs, |seed| slots::sup(&law, seed, share, requests));
        let what =
            format!("no difference, slots alone, share {}%, {requests} requests of new", share * 100.0);
        let (reached, met) = over(&sups);
        row("T1", &what, ".05 / .015 / .003", sups.len(), &reached, Some(met));
    }
    for share in [1.0, 5.0, 20.0, 50.0] {
        let requests = bench.pick(200_000, 100_000);
        let sups = bench.runs("T1 events", bench.pick(400, 100), |seed| {
            let mut world = World::new(seed, Crowd::Strangers, 500, 0, latencies);
            calm(&mut world, &[share], requests).e
        });
        let what =
            format!("no difference, whole engine, strangers, share {share}%, {requests} requests of both");
        let (reached, met) = over(&sups);
        row("T1", &what, ".05 / .015 / .003", sups.len(), &reached, Some(met));
    }
}

fn t2(bench: &Bench, latencies: &Arc<Latencies>) {
    if !bench.wants("T2") {
        return;
    }
    let ticks = bench.pick(4200, 2400);
    let ugly = Crowd::ugly(20_000);
    let waves: &[f64] = &[1.0, 5.0, 20.0, 50.0, 5.0, 20.0];
    for (name, crowd, known, waves) in [
        ("strangers", Crowd::Strangers, false, None),
        ("20,000 ugly users", ugly, false, None),
        ("20,000 ugly users, waves 1, 5, 20, 50, 5, 20%", ugly, false, Some(waves)),
        ("20,000 ugly users, their past known, waves 1, 5, 20, 50, 5, 20%", ugly, true, Some(waves)),
    ] {
        let sups = bench.runs(&format!("T2 {name}"), bench.pick(334, 40), |seed| {
            let mut world = World::new(seed, crowd, 100, 0, latencies);
            if known {
                world.requests(120_000);
            }
            let one = [[1.0, 5.0, 20.0, 50.0][seed as usize % 4]];
            let waves = waves.unwrap_or(&one);
            let mut sup = Sup::default();
            for i in 0..ticks {
                if i % (ticks / waves.len()) == 0 && i / (ticks / waves.len()) < waves.len() {
                    world.weigh(percent(waves[i * waves.len() / ticks]));
                }
                // A different phase of the weather in each wave.
                world.weather = weather(i + 150 * (seed as usize % 17));
                world.tick();
                sup.look(&world);
            }
            sup
        });
        blamed(&format!("T2 {name}"), &sups);
        let (reached, met) = over(&sups.iter().map(|s| s.e).collect::<Vec<_>>());
        let what = format!("diurnal load, shared outages, brown-outs, drift of share, {name}, {ticks} ticks");
        row("T2", &what, ".05 / .015 / .003", sups.len(), &reached, Some(met));
    }
}

/// Some users are busy during repeated slow periods, each a little slower than the last: which of
/// them were slow before depends on the tolerated latency.
fn rushes(bench: &Bench) {
    let latencies = &Arc::new(Latencies::narrow());
    let alike = Regulars { users: 20_000, sigma: 0.0, ugly: false, heavy: 1 };
    let ugly = Regulars { sigma: 0.6, ugly: true, ..alike };
    let faults =
        [("alike", Fault::None), ("`new` 15% slower", Fault::Stretch(1.15)), ("`new` better", Fault::Better)];
    for (name, of) in [("users alike", alike), ("ugly users", ugly)] {
        for (what, fault) in faults {
            let sups = bench.runs(&format!("T2 rushes {what}"), bench.pick(300, 40), |seed| {
                let mut world = World::new(seed, Crowd::Regulars(of), 150, 0, latencies);
                world.fault = fault;
                world.requests(6_000);
                world.weigh(percent([5.0, 20.0, 50.0][seed as usize % 3]));
                world.ticks(300);
                let mut sup = Sup::default();
                for slower in [1.0, 1.5, 1.0, 2.5, 1.0, 4.0, 1.0] {
                    for _ in 0..30 {
                        world.weather = Weather {
                            slower,
                            crowded: if slower > 1.0 { 0.95 } else { 0.0 },
                            ..Weather::default()
                        };
                        world.tick();
                        sup.look(&world);
                    }
                }
                sup
            });
            let what = format!("rushes of some users while all is slow, {name}, {what}");
            blamed(&what, &sups);
            let (reached, met) = over(&sups.iter().map(|s| s.e).collect::<Vec<_>>());
            row("T2", &what, ".05 / .015 / .003", sups.len(), &reached, Some(met));
        }
    }
}

/// A day in five minutes; an outage and a brown-out about every minute; up to half of `new` stays
/// away for a while.
fn weather(tick: usize) -> Weather {
    let day = (tick as f64 / 3000.0 * std::f64::consts::TAU).sin();
    let mut weather = Weather { load: 1.0 + 0.7 * day, ..Weather::default() };
    let (minute, second) = (tick / 600, tick % 600);
    if minute % 2 == 0 && (200..250).contains(&second) {
        let share = [1.0, 0.3, 0.05][minute / 2 % 3];
        // Each arm has its own time-out.
        weather.outage = Some(match minute % 4 {
            0 => (share, 30.0, 1200.0),
            _ => (share, 3000.0, 400.0),
        });
    }
    if minute % 2 == 1 && (200..400).contains(&second) {
        weather.slower = [1.5, 3.0, 8.0][minute / 2 % 3];
    }
    if (350..550).contains(&second) {
        weather.missing = 0.1 * (1 + minute % 5) as f64;
    }
    weather
}

fn t12(bench: &Bench, latencies: &Arc<Latencies>) {
    for (name, late) in [("at once", false), ("users seen", true)] {
        let sups = bench.runs("T12", bench.pick(300, 30), |seed| {
            let mut world = World::new(seed, Crowd::ugly(20_000), 100, 0, latencies);
            let mut sup = Sup::default();
            world.weigh(percent([2.0, 5.0, 20.0, 50.0][seed as usize % 4]));
            world.ticks(if late { 600 } else { 60 });
            let share = [1.0, 0.3, 0.08][seed as usize % 3];
            let (a, b) = if seed % 2 == 0 { (1000.0, 3000.0) } else { (3000.0, 1000.0) };
            for i in 0..500 {
                let outage = (i < 100).then_some((share, a, b));
                world.weather = Weather { outage, ..Weather::default() };
                world.tick();
                sup.look(&world);
            }
            sup
        });
        let trips = trips(&sups);
        let what =
            format!("shared outage, failing after 1 s in one arm and 3 s in the other, engine, {name}");
        row("T12", &what, "no trip", sups.len(), &format!("{trips} trips"), Some(trips == 0));
        blamed(&what, &sups);
    }
}

fn t18(bench: &Bench, latencies: &Arc<Latencies>) {
    let runs = bench.pick(300, 12);
    let requests = 100_000;
    let mut seeds = 0;
    let mut blame = |what: &str, crowd: Crowd, known: bool, weights: &[f64], requests: u64| {
        let users = if let Crowd::Regulars(of) = crowd { of.users as u64 } else { 0 };
        seeds += 10_000;
        let sups = bench.runs(&format!("T18 {what}"), runs, |seed| {
            let mut world = World::new(seeds + seed, crowd, 100, 0, latencies);
            if known {
                world.requests(6 * users);
            }
            calm(&mut world, weights, requests)
        });
        tell("T18", &format!("alike versions: {what}, {requests} requests"), &sups);
    };
    // Users in new, and their share.
    let sizes = [(200, 5.0), (200, 50.0), (1000, 5.0), (5000, 20.0), (25_000, 50.0)];
    let ugly = Regulars { users: 0, sigma: 0.6, ugly: true, heavy: 2 };
    let kinds = [
        ("σ 0.6, ugly, heavy", ugly, false),
        ("σ 0.6, ugly, heavy, past known", ugly, true),
        ("σ 0.3, ugly, heavy", Regulars { sigma: 0.3, ..ugly }, false),
        ("σ 0.6, ugly, very heavy", Regulars { heavy: 4, ..ugly }, false),
    ];
    for (i, (name, kind, known)) in kinds.into_iter().enumerate() {
        for (in_new, share) in sizes {
            let users = (f64::from(in_new) * 100.0 / share).round() as usize;
            let what = format!("{name}; {in_new} in new, {share}%");
            blame(&what, Crowd::Regulars(Regulars { users, ..kind }), known, &[share], requests);
        }
        for users in [4_000, 40_000].into_iter().filter(|_| i < 2) {
            let what = format!("{name}; {users} users, waves 1, 5, 20, 50, 5, 20, 50% of");
            let waves = [1.0, 5.0, 20.0, 50.0, 5.0, 20.0, 50.0];
            blame(&what, Crowd::Regulars(Regulars { users, ..kind }), known, &waves, requests / 4);
        }
    }
}
