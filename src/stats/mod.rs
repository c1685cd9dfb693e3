//! Sequential tests: pure functions of counts and times, without a config.
//!
//! A gray release compares two arms while users differ, servers pause and requests are in flight.
//! The tests here stay valid at every look.
//!
//! Invariants: no clock, no I/O, no config; nothing here imports another room.

pub mod arm;
pub mod cell;
pub mod cohort;
pub mod design;
pub mod distinct;
pub mod engine;
pub mod first;
pub mod foresight;
pub mod histogram;
pub mod latency;
pub mod mixture;
pub mod noninferior;
pub mod once;
pub mod quick;
pub mod save;
pub mod servers;
pub mod users;
pub mod window;
