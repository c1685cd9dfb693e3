//! The state directory: what must survive a restart, and the ledger of decisions.
//!
//! Invariants: a change is announced only after it is on disk, or known not to be; only the owner
//! may read the files.

pub mod audit;
pub mod chain;
pub mod checkpoints;
pub mod failed_users;
pub mod ledger;
pub mod membership;
pub mod permissions;
mod shared_error;
pub mod state;
pub mod state_key;
pub mod writer;
