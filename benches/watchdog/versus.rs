//! The same traffic for three judges: fixed thresholds (Flagger's), a sequential test of requests
//! (mSPRT), and the engine.

use crate::dice::Latencies;
use crate::rivals::{Rivals, Trip};
use crate::table::{Bench, quantile, thousands};
use crate::world::{Crowd, Fault, Weather, World, percent};
use std::sync::Arc;
use std::time::Duration;

/// Ticks before the onset, and observed ticks after it. 500 requests a second, 5% in new.
const SOUND: u64 = 1800;
const OBSERVED: u64 = 6600;
const RATE: usize = 50;

#[derive(Clone, Copy)]
enum What {
    Fault(Fault),
    /// Both arms fail for this many ticks.
    Outage(u64),
    /// Both arms are three times slower.
    BrownOut(u64),
}

#[derive(Clone, Copy, Default)]
struct Run {
    trips: [Option<Trip>; 3],
    harmed: u64,
}

fn run(seed: u64, what: What, latencies: &Arc<Latencies>) -> Run {
    let mut world = World::new(seed, Crowd::ugly(20_000), RATE, 0, latencies);
    world.requests(100_000);
    world.weigh(percent(5.0));
    world.rivals = Some(Rivals::new(world.usual(), world.now()));
    let mut engine = None;
    for tick in 0..SOUND + OBSERVED {
        let after = tick.checked_sub(SOUND);
        match (what, after) {
            (What::Fault(fault), Some(0)) => world.fault = fault,
            (What::Outage(ticks), Some(t)) => {
                let outage = (t < ticks).then_some((0.8, 50.0, 50.0));
                world.weather = Weather { outage, ..Weather::default() };
            }
            (What::BrownOut(ticks), Some(t)) => {
                let slower = if t < ticks { 3.0 } else { 1.0 };
                world.weather = Weather { slower, ..Weather::default() };
            }
            _ => {}
        }
        world.tick();
        if engine.is_none() && world.tripped().is_some() {
            engine = Some(Trip { at: world.now(), harmed: world.harmed });
        }
    }
    let rivals = world.rivals.as_ref();
    Run {
        trips: [rivals.and_then(|r| r.flagger), rivals.and_then(|r| r.msprt), engine],
        harmed: world.harmed,
    }
}

pub fn rows(bench: &Bench, latencies: &Arc<Latencies>) {
    if !bench.wants("versus") {
        return;
    }
    println!(
        "\nThe same traffic, 20,000 ugly users, 5% in new, 500/s, a fault after three minutes, observed for eleven: tripped before the onset (false) or, if \
         nothing is wrong with new alone, at all; seen of those left; median delay; median of users of new who were harmed before it (all, if it was not seen).\n"
    );
    println!(
        "| scenario | runs | judge | false | seen | delay | users harmed |\n|---|---|---|---|---|---|---|"
    );
    let runs = bench.pick(50, 8);
    let cases = [
        ("nothing", What::Fault(Fault::None)),
        ("outage of both, 6 minutes", What::Outage(3600)),
        ("outage of both, 30 s", What::Outage(300)),
        ("brown-out of both ×3, 6 minutes", What::BrownOut(3600)),
        ("+50 points", What::Fault(Fault::Points(0.5))),
        ("+1 point", What::Fault(Fault::Points(0.01))),
        ("×10 of 0.1%", What::Fault(Fault::Times(10.0))),
        ("×5 of 0.1%", What::Fault(Fault::Times(5.0))),
        ("all ×1.5", What::Fault(Fault::Stretch(1.5))),
        ("1% stalls +1 s", What::Fault(Fault::Stall(0.01, 1000.0))),
        ("404 to everyone", What::Fault(Fault::NotFound(0))),
        ("total hang", What::Fault(Fault::Hang)),
    ];
    for (name, what) in cases {
        let results = bench.runs(&format!("versus {name}"), runs, |seed| run(seed, what, latencies));
        for (judge, label) in ["fixed thresholds", "mSPRT", "engine"].into_iter().enumerate() {
            println!("{}", tell(name, label, judge, what, &results));
        }
    }
}

fn tell(name: &str, label: &str, judge: usize, what: What, runs: &[Run]) -> String {
    let n = runs.len();
    let faulty = !matches!(what, What::Outage(_) | What::BrownOut(_) | What::Fault(Fault::None));
    if !faulty {
        let tripped = runs.iter().filter(|r| r.trips[judge].is_some()).count();
        return format!("| {name} | {n} | {label} | {tripped} of {n} | | | |");
    }
    let onset = |run: &Run| run.trips[judge].is_some_and(|t| t.at <= began());
    let early = runs.iter().filter(|r| onset(r)).count();
    let left: Vec<&Run> = runs.iter().filter(|r| !onset(r)).collect();
    let seen = left.iter().filter(|r| r.trips[judge].is_some()).count();
    let delay: Vec<_> =
        left.iter().map(|r| r.trips[judge].map(|t| (t.at - began()).as_millis() as u64)).collect();
    let harmed: Vec<_> = left.iter().map(|r| Some(r.trips[judge].map_or(r.harmed, |t| t.harmed))).collect();
    let seconds = quantile(&delay, 0.5).map_or("–".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1e3));
    format!(
        "| {name} | {n} | {label} | {early} of {n} | {seen} of {} | {seconds} | {} |",
        left.len(),
        thousands(quantile(&harmed, 0.5))
    )
}

/// 100,000 requests to learn from, then the sound part.
fn began() -> Duration {
    crate::world::TICK * (100_000 / RATE as u32 + SOUND as u32)
}
