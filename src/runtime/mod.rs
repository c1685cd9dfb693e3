//! State that the threads share. The data plane reads a snapshot and writes its own counters; the
//! tasks read the counters; one writer makes the next snapshot. They meet only here.

pub mod apply;
pub mod checkpoint;
pub mod claim;
pub mod control;
pub mod decided;
pub mod feed;
pub mod proof;
pub mod release_tally;
pub mod resources;
pub mod route;
pub mod snapshot;
pub mod traces;
mod view;
mod writer;
