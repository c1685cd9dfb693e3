//! The config file → [`crate::domain::plan::Plan`], or every reason why not; what an edit changes;
//! and that it changed.
//!
//! * `file`: the exact mirror of the file, for the JSON schema
//! * `keys`, `value`, `read`, `check`, `sections`, `telemetry`, `named`, `alerts`: TOML text →
//!   Plan, every fault with its place
//! * `critical`: the routes of a release that are gated each for itself
//! * `waves`: the steps of a release's plan; `resources`: what of its two versions is watched
//!   beside their answers
//! * `tls`: certificates and keys → what rustls wants
//! * `report`: how faults are shown
//! * `compare`: what a change of plan moves, refuses, warns of
//! * `watch`: the file changed
//!
//! Invariants: a Plan exists only if no fault was found; nothing here keeps state; nothing here
//! panics whatever the file has.

mod alerts;
pub mod check;
pub mod compare;
mod critical;
pub mod file;
pub mod keys;
mod named;
mod outside;
mod read;
pub mod report;
mod resources;
mod sections;
mod telemetry;
mod tls;
mod together;
pub mod value;
pub mod watch;
mod waves;

#[cfg(test)]
mod tests;

pub use check::{Checked, Loaded, load, parse};
pub use compare::{Finding, FindingKind, Standing, Standings, compare};
pub use report::{Color, Fault, Report, Severity};
