//! The measured figures of the watchdog beside its targets, as Markdown, in the rows T1 to T19.
//!
//! `cargo bench --bench watchdog` is reduced: fewer and shorter runs, minutes. `-- --full`: the
//! published number of runs. `-- T18 T8`: those rows alone. Two threads; progress on stderr.
//! Seeded: the same figures on every machine, except for the cost.
//!
//! `-- worlds-n`, `-- worlds-m`: the tables N and M of real services, through the whole decision
//! path; see [`worlds`].
//!
//! In table T, all traffic with users goes through the engine event by event. A delay is the number
//! of requests of `new` that have *arrived* from the onset to the trip, including those in
//! intervals that are not final yet. The figure after "final" counts only requests in intervals
//! that were final at the trip.

mod dice;
mod faults;
mod gates;
mod harmless;
mod rivals;
mod slots;
mod table;
mod versus;
mod world;
mod worlds;

use std::sync::Arc;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let full = args.iter().any(|a| a == "--full");
    let number = |name: &str| {
        let at = args.iter().position(|a| a == name)?;
        args.get(at + 1)?.parse().ok()
    };
    let (seed, count, threads) = (number("--seed"), number("--runs"), number("--threads").unwrap_or(2));
    let is_row = |a: &&String| !a.starts_with('-') && a.parse::<u64>().is_err();
    let mut only: Vec<String> = args.iter().filter(is_row).cloned().collect();
    let worlds = only.iter().position(|a| a.starts_with("worlds-")).map(|at| only.remove(at));
    let bench = table::Bench { full, only, seed, count, threads: threads as usize, started: Instant::now() };
    if let Some(table) = worlds {
        return worlds::rows(&bench, &table);
    }
    let latencies = Arc::new(dice::Latencies::default());
    println!("| # | scenario | limit | runs | reached | met |\n|---|---|---|---|---|---|");
    harmless::rows(&bench, &latencies);
    faults::rows(&bench, &latencies);
    gates::rows(&bench, &latencies);
    if bench.wants("T16") {
        table::row("T16", "vectors", "1e-9", 0, "held by the tests beside the engine", Some(true));
    }
    faults::cost(&bench, &latencies);
    versus::rows(&bench, &latencies);
}
