//! The domain: the meaning of a configuration and all decisions. No clock, no I/O, no async, no
//! serde, no metrics. Time is an argument.
//!
//! All other modules may import from here; this imports from none of them.
//! So a test can drive any decision with plain values.

pub mod breaker;
pub mod config;
pub mod decide;
mod describe;
pub mod digest;
pub mod failure_rules;
pub mod gates;
pub mod hours;
pub mod judge;
pub mod maintenance;
pub mod outcome;
pub mod proxy_header_error;
pub mod resource;
pub mod rollout;
pub mod segment;
pub mod service_profile;
pub mod share;
pub mod tokens;
pub mod verdict;
pub mod wave;
