//! State shared by the threads at run time. The data plane reads a snapshot and writes its own
//! counters; the watchdog reads the counters; one writer (`apply`) makes the next snapshot. They
//! meet only here.

mod aftermath;
pub mod apply;
pub mod chain;
pub mod checkpoint;
pub mod claim;
pub mod decided;
pub mod evidence;
pub mod failed;
pub mod feed;
pub mod gates;
pub mod keeper;
mod kept;
pub mod ledger;
pub mod maintenance;
pub mod membership;
pub mod meter;
pub mod private;
pub mod proof;
pub mod release_tally;
pub mod resources;
pub mod route;
pub mod scribe;
pub mod snapshot;
pub mod state;
pub mod state_key;
pub mod timeline;
pub mod traces;
pub mod verbs;
pub mod verify;
mod view;
mod waves;
mod writer;
