//! The domain: the meaning of a configuration and all decisions. No clock, no I/O, no async, no
//! serde, no metrics. Time is an argument.
//!
//! All other modules may import from here; this imports from none of them.
//! So a test can drive any decision with plain values.

pub mod breaker;
pub mod config;
pub mod decide;
mod describe;
pub(crate) mod digest;
pub(crate) mod failure_rules;
pub mod gates;
pub(crate) mod grpc;
pub(crate) mod hours;
pub mod judge;
pub(crate) mod maintenance;
pub(crate) mod outcome;
pub(crate) mod proxy_header_error;
pub(crate) mod resource;
pub mod rollout;
pub mod segment;
mod server;
pub(crate) mod service_profile;
pub(crate) mod share;
pub(crate) mod tokens;
pub mod verdict;
pub mod wave;
