//! State shared by the threads at run time. The data plane reads a snapshot and writes its own
//! counters; the watchdog reads the counters; one writer (`apply`) makes the next snapshot. They
//! meet only here.

mod aftermath;
pub mod apply;
pub mod checkpoint;
pub mod claim;
pub mod decided;
pub mod feed;
pub mod maintenance;
pub mod meter;
pub mod proof;
pub mod release_tally;
pub mod resources;
pub mod route;
pub mod snapshot;
pub mod traces;
pub mod verbs;
mod view;
mod waves;
mod writer;
