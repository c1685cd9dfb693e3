//! What every thread uses beside its work: clock, log, counters, throttles, random numbers.
//!
//! Invariants: nothing here decides; a worker writes only its own cells.

pub(crate) mod alert_counts;
pub(crate) mod backoff;
pub(crate) mod clock;
pub mod counters;
pub mod log;
pub(crate) mod random;
pub mod sliding_window;
pub(crate) mod throttle;
pub(crate) mod under_way;
