//! The state directory: what must survive a restart, and the ledger of decisions.
//!
//! Invariants: a change is announced only after it is on disk, or known not to be; only the owner
//! may read the files.

pub mod audit;
pub mod chain;
pub(crate) mod checkpoints;
pub(crate) mod failed_users;
pub mod ledger;
pub(crate) mod membership;
pub(crate) mod permissions;
mod shared_error;
pub mod state;
pub mod state_key;
pub(crate) mod writer;
