//! Rows in which `new` is broken: the number of its requests until detection. And the cost of the
//! engine.

use crate::dice::Latencies;
use crate::slots;
use crate::table::{Bench, quantile, row, thousands};
use crate::world::{ALPHA, Crowd, Fault, World, percent};
use grayling::stats::engine::Level;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The result from the onset to the trip.
#[derive(Clone, Copy)]
enum Seen {
    Early,
    Never,
    /// Requests of new that arrived; those in final intervals; those of the broken route; the time.
    After {
        arrived: u64,
        last: u64,
        route: u64,
        took: Duration,
    },
}

fn until_seen(world: &mut World, fault: Fault, level: Level, most: u64) -> Seen {
    let seen = |world: &World| match level {
        Level::Flip => world.tripped().is_some(),
        Level::Notice => world.engine().notice() >= 1.0 / ALPHA,
    };
    if seen(world) {
        return Seen::Early;
    }
    let (before, began, route) = (world.new_requests, world.now(), world.route_requests);
    world.fault = fault;
    while world.new_requests - before < most {
        world.tick();
        if seen(world) {
            return Seen::After {
                arrived: world.new_requests - before,
                last: world.new_final().saturating_sub(before),
                route: world.route_requests - route,
                took: world.now() - began,
            };
        }
    }
    Seen::Never
}

/// Progress of the wave at the onset.
#[derive(Clone, Copy, PartialEq)]
enum Onset {
    /// The wave is sound until latency is compared, after 500 requests of new.
    Warm,
    /// At the start of the wave.
    AtOnce,
    /// 90% of the users of new have been seen in the wave.
    Late,
}

#[derive(Clone, Copy)]
struct Case {
    crowd: Crowd,
    share: f64,
    /// Requests per tick, of both arms.
    rate: usize,
    routes: u8,
    fails: f64,
    /// Requests of both arms on stable, before the wave.
    learn: u64,
    onset: Onset,
    fault: Fault,
    level: Level,
    /// `latency_notice`.
    notice: f64,
    /// Requests of new after which it counts as not detected.
    most: u64,
}

const STRANGERS: Case = Case {
    crowd: Crowd::Strangers,
    share: 5.0,
    rate: 100,
    routes: 0,
    fails: 0.001,
    learn: 6000,
    onset: Onset::AtOnce,
    fault: Fault::None,
    level: Level::Flip,
    notice: 0.03,
    most: 0,
};

impl Case {
    /// Ends at four times the limit, plus the arrivals of about four seconds while intervals wait.
    fn at_most(self, limit: u64) -> Case {
        let wait = (80.0 * self.rate as f64 * self.share / 100.0) as u64;
        Case { most: 4 * limit + wait, ..self }
    }

    /// Runs until the onset.
    fn sound(&self, seed: u64, latencies: &Arc<Latencies>) -> World {
        let mut world = World::new(seed, self.crowd, self.rate, self.routes, latencies);
        world.fails = self.fails;
        world.notice_at(self.notice);
        world.requests(self.learn);
        world.weigh(percent(self.share));
        match self.onset {
            Onset::AtOnce => {}
            Onset::Warm => {
                while world.new_requests < 600 {
                    world.tick();
                }
            }
            Onset::Late => {
                while world.seen_of_new() < 0.9 {
                    world.tick();
                }
            }
        }
        world
    }
}

fn run(case: &Case, seed: u64, latencies: &Arc<Latencies>) -> Seen {
    until_seen(&mut case.sound(seed, latencies), case.fault, case.level, case.most)
}

struct Delays {
    runs: usize,
    early: usize,
    arrived: Vec<Option<u64>>,
    last: Vec<Option<u64>>,
    route: Vec<Option<u64>>,
    took: Vec<Option<u64>>,
}

fn delays(seen: &[Seen]) -> Delays {
    let of = |pick: fn(&Seen) -> Option<u64>| {
        seen.iter().filter(|s| !matches!(s, Seen::Early)).map(pick).collect::<Vec<_>>()
    };
    Delays {
        runs: seen.len(),
        early: seen.iter().filter(|s| matches!(s, Seen::Early)).count(),
        arrived: of(|s| if let Seen::After { arrived, .. } = s { Some(*arrived) } else { None }),
        last: of(|s| if let Seen::After { last, .. } = s { Some(*last) } else { None }),
        route: of(|s| if let Seen::After { route, .. } = s { Some(*route) } else { None }),
        took: of(|s| if let Seen::After { took, .. } = s { Some(took.as_millis() as u64) } else { None }),
    }
}

fn both(delays: &[Option<u64>]) -> String {
    format!("{} / {}", thousands(quantile(delays, 0.5)), thousands(quantile(delays, 0.95)))
}

fn one(bench: &Bench, latencies: &Arc<Latencies>, id: &str, what: &str, limit: u64, case: Case) {
    let case = case.at_most(limit);
    let seen = bench.runs(&format!("{id} {what}"), runs(bench, limit), |seed| run(&case, seed, latencies));
    tell(id, what, limit, &seen, as_simulated(bench, limit, &case));
}

/// Several faults on copies of one sound wave.
fn several(bench: &Bench, latencies: &Arc<Latencies>, id: &str, sound: Case, faults: &[(&str, u64, Case)]) {
    let slowest = faults.iter().map(|(_, limit, _)| *limit).max().unwrap_or(0);
    let seen = bench.runs(&format!("{id} {}", faults[0].0), runs(bench, slowest), |seed| {
        let world = sound.sound(seed, latencies);
        let befalls = |(_, limit, case): &(&str, u64, Case)| {
            let case = case.at_most(*limit);
            until_seen(&mut world.clone(), case.fault, case.level, case.most)
        };
        faults.iter().map(befalls).collect::<Vec<_>>()
    });
    for (i, (what, limit, _)) in faults.iter().enumerate() {
        tell(id, what, *limit, &seen.iter().map(|of| of[i]).collect::<Vec<_>>(), None);
    }
}

fn runs(bench: &Bench, limit: u64) -> u64 {
    if limit > 15_000 { bench.pick(300, 8) } else { bench.pick(300, 20) }
}

/// Only the slots, under the same fault: the difference is the cost of the parts for users.
fn as_simulated(bench: &Bench, limit: u64, case: &Case) -> Option<String> {
    let of_new = match case.fault {
        Fault::Times(by) => case.fails * by,
        Fault::Points(more) => case.fails + more,
        _ => return None,
    };
    if case.crowd != Crowd::Strangers {
        return None;
    }
    let run = |seed| slots::until_seen(seed, case.share / 100.0, case.fails, of_new, 4 * limit);
    Some(both(&bench.runs("  slots alone", 10 * runs(bench, limit), run)))
}

fn tell(id: &str, what: &str, limit: u64, seen: &[Seen], simulated: Option<String>) {
    let d = delays(seen);
    let early = if d.early > 0 { format!("; {} before the onset", d.early) } else { String::new() };
    let simulated = simulated.map_or(String::new(), |of| format!("; slots alone {of}"));
    let reached = format!("{}; final {}{simulated}{early}", both(&d.arrived), both(&d.last));
    let met = quantile(&d.arrived, 0.95).is_some_and(|p95| p95 <= limit);
    row(id, what, &thousands(Some(limit)), d.runs, &reached, Some(met));
}

pub fn rows(bench: &Bench, latencies: &Arc<Latencies>) {
    let show = |id: &str, what: &str, limit: u64, case: Case| {
        if bench.wants(id) {
            one(bench, latencies, id, what, limit, case);
        }
    };
    let (notice, times, stretch) = (Level::Notice, Fault::Times, Fault::Stretch);
    for (share, t3, t4) in [(1.0, 15, 1900), (5.0, 18, 2300), (20.0, 30, 2600), (50.0, 55, 4700)] {
        let half = Case { share, rate: 20, fault: Fault::Points(0.5), ..STRANGERS };
        show("T3", &format!("+50 points, strangers, {share}%, 200/s"), t3, half);
        let tenfold = Case { share, fault: times(10.0), ..STRANGERS };
        show("T4", &format!("×10, strangers, {share}%, 1,000/s"), t4, tenfold);
    }
    show("T5", "×5, strangers", 6900, Case { fault: times(5.0), ..STRANGERS });
    show("T5", "×2, strangers", 60_000, Case { fault: times(2.0), ..STRANGERS });
    show("T6", "1% fail, ×2, strangers", 6700, Case { fails: 0.01, fault: times(2.0), ..STRANGERS });
    for (share, limit) in [(1.0, 1750), (50.0, 4000)] {
        let point = Case { share, fault: Fault::Points(0.01), ..STRANGERS };
        show("T7", &format!("+1 point, strangers, {share}%"), limit, point);
    }

    let warm = Case { onset: Onset::Warm, ..STRANGERS };
    for (by, alike, ugly) in [(1.05, 7500, 22_000), (1.2, 450, 700)] {
        let slower = Case { fault: stretch(by), level: notice, ..warm };
        show("T8", &format!("notice: all ×{by}, strangers, warm"), alike, slower);
        let plain = Case { notice: 0.0, ..slower };
        show("T8", "the same, `latency_notice` 0 (as simulated)", alike, plain);
        for (learn, past) in [(200_000, "past known"), (0, "past unknown")] {
            let regulars = Case { crowd: Crowd::ugly(20_000), learn, onset: Onset::AtOnce, ..slower };
            show(
                "T8",
                &format!("notice: all ×{by} at once, 1,000 ugly users in new, {past}"),
                ugly,
                regulars,
            );
            let plain = Case { notice: 0.0, ..regulars };
            show("T8", "the same, `latency_notice` 0 (as simulated)", ugly, plain);
        }
    }
    for (what, limit, fault) in [
        ("slowest 2% doubled", 8900, Fault::Tail),
        ("1% stalls +1 s", 5000, Fault::Stall(0.01, 1000.0)),
        ("0.1% stalls +5 s", 22_000, Fault::Stall(0.001, 5000.0)),
    ] {
        show("T9", &format!("flip: {what}, strangers, warm"), limit, Case { fault, ..warm });
        let plain = Case { fault, level: notice, notice: 0.0, ..warm };
        show("T9", &format!("notice 0: {what}, strangers, warm"), limit, plain);
    }

    let late = Case { crowd: Crowd::ugly(100_000), onset: Onset::Late, learn: 300_000, ..STRANGERS };
    if bench.wants("T10") {
        let fifth = Case { fault: stretch(1.2), level: notice, ..late };
        let slightly = Case { fault: stretch(1.05), level: notice, ..late };
        let faults = [
            ("late, 5,000 ugly users: ×5", 6500, Case { fault: times(5.0), ..late }),
            ("late, 5,000 ugly users: notice ×1.2", 1300, fifth),
            ("late, 5,000 ugly users: notice ×1.05", 18_000, slightly),
        ];
        several(bench, latencies, "T10", late, &faults);
        let faults = [
            ("late, 5,000 ugly users: notice ×1.2, `latency_notice` 0 (as simulated)", 1300, fifth),
            ("late, 5,000 ugly users: notice ×1.05, `latency_notice` 0 (as simulated)", 18_000, slightly),
        ];
        several(bench, latencies, "T10", Case { notice: 0.0, ..late }, &faults);
        let few = Case { crowd: Crowd::ugly(20_000), learn: 200_000, ..late };
        let slow = Case { rate: 20, fault: Fault::Points(0.5), ..few };
        one(bench, latencies, "T10", "late, 1,000 ugly users: +50 points (anchor 14/24)", 24, slow);
        let slower = Case { fault: stretch(1.2), level: notice, ..few };
        let flip = Case { fault: stretch(1.5), ..few };
        let faults = [
            ("late, 1,000 ugly users: ×5 (anchor 4,533/12,322)", 12_322, Case { fault: times(5.0), ..few }),
            ("late, 1,000 ugly users: notice ×1.2 (anchor 494/1,394)", 1394, slower),
            ("late, 1,000 ugly users: flip ×1.5", 1394, flip),
        ];
        several(bench, latencies, "T10", few, &faults);
        let unknown = Case { learn: 0, ..slower };
        one(bench, latencies, "T10", "late, 1,000 ugly users: notice ×1.2, past unknown", 1394, unknown);
    }

    hang(bench, latencies);
    not_found(bench, latencies);
}

fn hang(bench: &Bench, latencies: &Arc<Latencies>) {
    if !bench.wants("T11") {
        return;
    }
    let regulars = Case { crowd: Crowd::ugly(20_000), learn: 100_000, ..STRANGERS };
    for (what, case) in [
        ("strangers, warm", Case { onset: Onset::Warm, ..STRANGERS }),
        ("1,000 ugly users, at once", Case { onset: Onset::AtOnce, ..regulars }),
        ("1,000 ugly users, late", Case { onset: Onset::Late, ..regulars }),
    ] {
        let case = Case { rate: 200, fault: Fault::Hang, most: 6000, ..case };
        let seen = bench.runs("T11", bench.pick(300, 10), |seed| run(&case, seed, latencies));
        let d = delays(&seen);
        let reached = format!("{} ms", both(&d.took));
        let met = quantile(&d.took, 0.95).is_some_and(|ms| ms <= 1000);
        row("T11", &format!("total hang, engine, 2,000/s, {what}"), "1 s", d.runs, &reached, Some(met));
    }
}

fn not_found(bench: &Bench, latencies: &Arc<Latencies>) {
    if !bench.wants("T19") {
        return;
    }
    let regulars = Case { crowd: Crowd::ugly(20_000), learn: 100_000, ..STRANGERS };
    for (what, case) in [
        ("strangers, at once", STRANGERS),
        ("1,000 ugly users, at once", regulars),
        ("1,000 ugly users, late", Case { onset: Onset::Late, ..regulars }),
    ] {
        let case = Case { rate: 50, routes: 10, fault: Fault::NotFound(3), most: 6000, ..case };
        let seen = bench.runs("T19", bench.pick(300, 20), |seed| run(&case, seed, latencies));
        let d = delays(&seen);
        let reached =
            format!("{} of the route, {} in all; final {}", both(&d.route), both(&d.arrived), both(&d.last));
        let met = quantile(&d.route, 0.95).is_some_and(|n| n <= 60);
        row(
            "T19",
            &format!("404 on one route of ten, 500/s, {what}"),
            "60 of the route",
            d.runs,
            &reached,
            Some(met),
        );
    }
}

/// Measured on this machine, including its other load.
pub fn cost(bench: &Bench, latencies: &Arc<Latencies>) {
    if !bench.wants("T17") {
        return;
    }
    for (what, crowd, rate) in [
        ("strangers, 5,000/s", Crowd::Strangers, 500),
        ("20,000 ugly users, 5,000/s", Crowd::ugly(20_000), 500),
        ("20,000 ugly users, 500/s", Crowd::ugly(20_000), 50),
    ] {
        let mut world = World::new(1, crowd, rate, 0, latencies);
        world.requests(20_000);
        world.weigh(percent(5.0));
        world.requests(50_000);
        world.clock = Some(Default::default());
        world.requests(400_000);
        let clock = world.clock.unwrap_or_default();
        let reached = format!(
            "{:.0} ns an event of the engine; {:.1} µs a tick with its slot",
            clock.push.as_nanos() as f64 / clock.events.max(1) as f64,
            clock.tick.as_nanos() as f64 / 1e3 / clock.ticks.max(1) as f64,
        );
        row("T17", &format!("cost, {what}"), "20 µs a slot", 1, &reached, None);
    }
    let began = Instant::now();
    for seed in 0..20 {
        std::hint::black_box(World::new(seed, Crowd::Strangers, 1, 0, latencies));
    }
    row("T17", "an engine is made", "", 20, &format!("{:.1?}", began.elapsed() / 20), None);
}
