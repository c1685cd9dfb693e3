//! The domain: the meaning of a configuration and all decisions. No clock, no I/O, no async, no
//! serde, no metrics. Time is an argument.
//!
//! All other modules may import from here; this imports from none of them.
//! So a test can drive any decision with plain values.

pub mod decide;
mod describe;
pub mod digest;
pub mod fuse;
pub mod gate;
pub mod hours;
pub mod judge;
pub mod known;
pub mod maintenance;
pub mod outcome;
pub mod plan;
pub mod refusal;
pub mod resource;
pub mod rollout;
pub mod segment;
pub mod share;
pub mod success;
pub mod tokens;
pub mod verdict;
pub mod wave;
