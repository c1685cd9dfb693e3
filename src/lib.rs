//! The map of the crate.
//!
//! grayling is a gray-release proxy. It stands in front of two versions of a service and sends each
//! user to `stable` or to `new` by a hash of the user's id. It watches both versions, and takes
//! `new` out of service when it is worse.
//!
//! ```text
//!             file ──► config ──► Config                     admin ◄── people, Prometheus
//!                                  │                           │
//!   users ──► proxy ────────► runtime::snapshot ◄── runtime::shared ──► store: state file, ledger
//!               │ counts           ▲                           ▲
//!               └──► telemetry::counters, runtime::event_ring ──► tasks
//! ```
//!
//! # Modules
//!
//! From the lowest to the highest:
//!
//! * [`stats`]: the sequential tests, pure functions of counts and times.
//! * [`domain`]: the meaning of a config and all decisions. Pure: no clock, no I/O, no async; time
//!   is an argument.
//! * [`config`]: parses TOML into a [`domain::config::Config`], reports all faults at once, and
//!   watches the file.
//! * [`telemetry`]: counters, the log, the clock, the sliding window.
//! * [`net`]: sockets: listening, TLS, the PROXY protocol; `net::fast` has the fast paths.
//! * [`upstream`]: servers, their names, health and connection pools.
//! * [`store`]: the state directory: state file, ledger, checkpoints; and the readers of the
//!   ledger.
//! * [`runtime`]: state that the threads share: one snapshot with one writer.
//! * [`proxy`]: the data plane; `proxy::handle` handles one request from top to bottom.
//! * [`tasks`]: slow tasks: the watchdog, the wave controller, health checks, alerts, traces.
//! * [`admin`]: the API for people and machines, and the metrics.
//! * [`app`]: builds and connects all of it, and orders the drain.
//! * [`cli`]: the commands.
//!
//! Imports point down only.
//! `proxy` and `tasks` never import each other: they meet in `runtime`.
//! A test checks both.
//!
//! # Threads
//!
//! Data plane: one single-threaded runtime a core, each with its own listener socket, upstream
//! pools and counters. Control plane: one thread and runtime (admin, the file, names, waves).
//! The watchdog, the state writer (state file, ledger), the checkpoint writer (evidence) and the
//! log writer each have a thread of their own, so that none starves another.
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

mod admin;
mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod net;
pub mod proxy;
pub mod runtime;
pub mod stats;
pub mod store;
mod tasks;
pub mod telemetry;
mod upstream;

#[cfg(test)]
#[path = "../tests/mutate.rs"]
mod mutate;
