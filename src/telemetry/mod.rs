//! What every thread uses beside its work: clock, log, counters, throttles, random numbers.
//!
//! Invariants: nothing here decides; a worker writes only its own cells.

pub mod alert_counts;
pub mod backoff;
pub mod clock;
pub mod counters;
pub mod log;
pub mod random;
pub mod sliding_window;
pub mod throttle;
pub mod under_way;
