//! The domain: the meaning of a configuration and all decisions. No clock, no I/O, no async, no
//! serde, no metrics. Time is an argument.
//!
//! All other modules may import from here; this imports from none of them.
//! So a test can drive any decision with plain values.

pub mod aside;
pub mod bad;
pub mod before;
pub mod ceiling;
pub mod deadline;
pub mod decide;
mod describe;
pub mod digest;
pub mod fuse;
pub mod gate;
pub mod grounds;
pub mod hours;
pub mod judge;
pub mod known;
pub mod maintenance;
pub mod notice;
pub mod onset;
pub mod outcome;
pub mod plan;
pub mod refusal;
pub mod resource;
pub mod rollout;
pub mod segment;
pub mod share;
pub mod silence;
pub mod spans;
pub mod success;
pub mod suspicion;
pub mod tokens;
pub mod trouble;
pub mod verdict;
pub mod wave;
