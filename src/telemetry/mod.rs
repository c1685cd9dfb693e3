//! What every thread uses beside its work: clock, log, counters, throttles, random numbers.
//!
//! Invariants: nothing here decides; a worker writes only its own cells.

pub mod alerts;
pub mod backoff;
pub mod clock;
pub mod log;
pub mod random;
pub mod recent;
pub mod tally;
pub mod throttle;
pub mod under_way;
