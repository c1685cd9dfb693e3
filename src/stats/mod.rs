//! Sequential tests: pure functions of counts and times, without a config.
//!
//! A gray release compares two arms while users differ, servers pause and requests are in flight.
//! The tests here stay valid at every look.
//!
//! Invariants: no clock, no I/O, no config; nothing here imports another room.

pub mod arm;
pub mod cluster_window;
pub mod codec;
pub mod cohort;
pub mod design_effect;
pub mod e_process;
pub mod engine;
pub mod first_event;
pub mod first_request;
pub mod hasher;
pub mod histogram;
pub mod hypergeometric_bet;
pub mod hyperloglog;
pub mod latency;
pub mod noninferiority;
pub mod power;
pub mod servers;
pub mod users;
