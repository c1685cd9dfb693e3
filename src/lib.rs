//! The map of the house.
//!
//! grayling is a gray-release proxy: it stands in front of two versions of a service, sends each
//! user to `stable` or to `new` by a hash of the user's id, watches both, and takes `new` out again
//! when it is worse.
//!
//! ```text
//!             file ──► config ──► Plan                      admin ◄── people, Prometheus
//!                                  │                          │
//!   users ──► proxy ──────────► live::Snapshot ◄──── live::apply ──► scribe ──► state file, ledger
//!               │ counts           ▲                          ▲
//!               └──► live::tally, live::epoch ──► watch ──────┘
//! ```
//!
//! # Rooms
//!
//! * [`domain`]: what everything means, pure: no clock, no I/O, no async. Time is an argument.
//! * [`config`]: TOML → Plan, with every fault at once; the file changed.
//! * [`net`]: sockets: listening, TLS, names, pooled connections.
//! * [`live`]: what the threads share: one snapshot, one writer, counters, the state directory.
//! * [`proxy`]: the data plane; `proxy::forward` tells one request from top to bottom.
//! * [`watch`]: slow tasks that judge and tell: the watchdog, the waves, health probes, alerts,
//!   traces.
//! * [`admin`]: the API for people and machines. [`cli`]: the commands. [`app`]: builds and wires
//!   it all, orders the drain.
//!
//! Imports point down only: domain ← config, net, live ← proxy, watch ← admin ← app ← cli. `proxy`
//! and `watch` never import each other; they meet in `live`. A test holds this.
//!
//! # Threads
//!
//! Data plane: one single-threaded runtime a core, each with its own listener socket, upstream
//! pools and counters. Control plane: one thread and runtime (admin, the file, names, waves). The
//! watchdog's tick, the scribe (disk), and the log's writer each have a thread of their own, so
//! that none starves with another.
//!
//! # The hot path's contract
//!
//! One snapshot load a request; no lock (but where `new` cannot be connected to or has failed a
//! user, and the worker's own where a request is traced); no allocation for metrics and no label
//! formatting: handles live in the snapshot; counters and latency buckets are per worker, summed by
//! whoever reads; nothing waits but for the client and the upstream. Global limits are a few shared
//! atomics beside the snapshot.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod domain;
pub mod live;
pub mod net;
pub mod proxy;
pub mod watch;

#[cfg(test)]
#[path = "../tests/mutate.rs"]
mod mutate;
