//! The tests that run the real binary, and those that hold the house in order: one test binary, a
//! module a subject.
//!
//! `tests/run` installs what they need (nginx, wrk, …) and runs each behaviour once.
//! `tests/run --long` also runs the long tests (see [`world::long`]).

// A test that cannot go on says so by panicking; clippy knows that of `#[test]` functions only, not
// of what they call.
#![allow(clippy::unwrap_used)]

mod affected;
mod alerts;
mod basics;
mod cohort;
mod cohorts;
mod demo;
mod early;
mod events;
mod evidence;
mod faults;
mod health;
mod hostile;
mod implied;
mod latch;
mod leaving;
mod ledger;
mod maintenance;
mod metrics;
mod notices;
mod page;
mod posts;
mod prometheus;
mod proxy_protocol;
mod reload;
mod resources;
mod resumption;
mod rows;
mod secrets;
mod services;
mod tidy;
mod tls;
mod told;
mod tools;
mod traces;
mod verbs;
mod versions;
mod watchdog;
mod waves;
mod websocket;
mod wire_damaged;
mod world;

#[path = "../mutate.rs"]
mod mutate;
