//! What the watchdog reaches, beside the figures it is to reach: Markdown, by the numbers of the table of the design (T1 to T19).
//!
//! `cargo bench --bench watchdog` is reduced: fewer and shorter runs, minutes. `-- --full`: the runs of the design. `-- T18 T8`: those rows alone. Two threads; progress
//! on stderr. Seeded: the same figures everywhere, but for the cost.
//!
//! Everything with users goes through the engine event by event. A delay is the number of requests of `new` that have *arrived* from the onset to the trip, so those
//! that come while intervals wait to become final are in it; the figure after "final" is without them: requests in intervals that were final at the trip.

mod dice;
mod faults;
mod gates;
mod harmless;
mod rivals;
mod slots;
mod table;
mod versus;
mod world;

use std::sync::Arc;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let full = args.iter().any(|a| a == "--full");
    let only = args.into_iter().filter(|a| !a.starts_with("--")).collect();
    let bench = table::Bench { full, only, started: Instant::now() };
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
