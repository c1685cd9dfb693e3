//! State that the threads share. The data plane reads a snapshot and writes its own counters; the
//! tasks read the counters; one writer makes the next snapshot. They meet only here.

mod builder;
pub(crate) mod conflicts;
pub(crate) mod control;
pub(crate) mod decision_counts;
pub mod event_ring;
pub(crate) mod gate_inputs;
pub mod release_counters;
pub(crate) mod resources;
pub mod routes;
pub mod shared;
pub(crate) mod snapshot;
pub mod traces;
mod views;
pub(crate) mod wave_checkpoint;
