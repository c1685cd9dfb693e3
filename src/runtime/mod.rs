//! State that the threads share. The data plane reads a snapshot and writes its own counters; the
//! tasks read the counters; one writer makes the next snapshot. They meet only here.

mod builder;
pub mod conflicts;
pub mod control;
pub mod decision_counts;
pub mod event_ring;
pub mod gate_inputs;
pub mod release_counters;
pub mod resources;
pub mod routes;
pub mod shared;
pub mod snapshot;
pub mod traces;
mod views;
pub mod wave_checkpoint;
