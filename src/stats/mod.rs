//! Sequential tests: pure functions of counts and times, without a config.
//!
//! A gray release compares two arms while users differ, servers pause and requests are in flight.
//! The tests here stay valid at every look.
//!
//! Invariants: no clock, no I/O, no config; nothing here imports another room.

pub mod arm;
pub(crate) mod cluster_window;
pub mod codec;
pub mod cohort;
pub(crate) mod design_effect;
pub mod e_process;
pub mod engine;
pub(crate) mod first_event;
pub mod first_request;
pub(crate) mod hasher;
pub mod histogram;
pub mod hypergeometric_bet;
pub(crate) mod hyperloglog;
pub mod latency;
pub mod noninferiority;
pub(crate) mod power;
pub mod servers;
pub mod users;
