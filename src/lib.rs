//! The map of the crate.
//!
//! grayling is a gray-release proxy. It stands in front of two versions of a service and sends each
//! user to `stable` or to `new` by a hash of the user's id. It watches both versions, and takes
//! `new` out of service when it is worse.
//!
//! ```text
//!             file ──► config ──► Plan                      admin ◄── people, Prometheus
//!                                  │                          │
//!   users ──► proxy ──────────► live::Snapshot ◄──── live::apply ──► scribe ──► state file, ledger
//!               │ counts           ▲                          ▲
//!               └──► live::tally, live::feed ───► watch ──────┘
//! ```
//!
//! # Modules
//!
//! * [`domain`]: the meaning of a config and all decisions. Pure: no clock, no I/O, no async; time
//!   is an argument.
//! * [`config`]: parses TOML into a Plan, reports all faults at once, and watches the file.
//! * [`net`]: sockets: listening, TLS, names, pooled connections.
//! * [`live`]: state shared by the threads: one snapshot with one writer, counters, the state
//!   directory.
//! * [`proxy`]: the data plane; `proxy::handle` handles one request from top to bottom.
//! * [`watch`]: slow tasks: the watchdog, the waves, health probes, alerts, traces.
//! * [`admin`]: the API for people and machines. [`cli`]: the commands.
//! * [`app`]: builds and connects all of it, and orders the drain.
//!
//! Imports point down only: domain ← config, net, live ← proxy, watch ← admin ← app ← cli.
//! `proxy` and `watch` never import each other; they meet in `live`. A test checks this.
//!
//! # Threads
//!
//! Data plane: one single-threaded runtime a core, each with its own listener socket, upstream
//! pools and counters. Control plane: one thread and runtime (admin, the file, names, waves).
//! The watchdog, the scribe (state file, ledger), the keeper (files of evidence) and the log writer
//! each have a thread of their own, so that none starves another.
//!
//! # Rules for the hot path
//!
//! * One snapshot load a request.
//! * No lock, with two exceptions: `new` cannot be connected to or has failed a user; and a traced
//!   request takes its worker's own lock.
//! * No allocation and no label formatting for metrics: the handles are in the snapshot.
//! * Counters and latency buckets are per worker, and summed on reading.
//! * Only the client and the upstream are waited for.
//! * Global limits are a few shared atomics beside the snapshot.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod net;
pub mod proxy;
pub mod runtime;
pub mod stats;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod upstream;

#[cfg(test)]
#[path = "../tests/mutate.rs"]
mod mutate;
