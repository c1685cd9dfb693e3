//! Tests that run the real binary, and tests of the repository's structure: one test binary, one
//! module per subject.
//!
//! `tests/run` installs their dependencies (nginx, wrk, …) and runs each behaviour once.
//! `tests/run --long` also runs the long tests (see [`world::long`]).

// A test fails by panicking; clippy allows that in `#[test]` functions only, not in their helpers.
#![allow(clippy::unwrap_used)]

mod affected;
mod alerts;
mod basics;
mod client_certificates;
mod climbs;
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
mod listeners;
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
mod unix_sockets;
mod verbs;
mod versions;
mod watchdog;
mod waves;
mod websocket;
mod wire_damaged;
mod world;

#[path = "../mutate.rs"]
mod mutate;
