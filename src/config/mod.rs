//! Reads the config file into a [`crate::domain::config::Config`], or reports every fault; compares
//! an edit; watches for changes.
//!
//! * `keys`: the one definition of every key
//! * `schema`: the JSON schema from it; `reference`: `config/reference.toml` from it
//! * `values`, `reader`, `check`, `sections`, `telemetry`, `entities`, `alerts`: TOML text →
//!   Config, every fault with its place
//! * `critical`: the routes of a release with gates of their own
//! * `waves`: the steps of a release's plan; `resources`: the watched resources of its two versions
//! * `tls`: certificates and keys → rustls configurations
//! * `diagnostics`: how faults are shown
//! * `diff`: the effects of a change of plan: moves, refusals, warnings
//! * `watcher`: changes of the file
//!
//! Invariants: a Config exists only if no fault was found; the modules keep no state; they do not
//! panic on any file.

mod alerts;
pub(crate) mod check;
mod combinations;
mod critical;
pub(crate) mod diagnostics;
pub(crate) mod diff;
mod entities;
mod files;
pub(crate) mod keys;
mod reader;
mod resources;
pub(crate) mod schema;
mod sections;
mod telemetry;
mod tls;
pub(crate) mod values;
pub(crate) mod watcher;
mod waves;

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

pub use check::{CheckedConfig, load, parse};
pub use diagnostics::{Color, Diagnostic, Diagnostics, Severity};
pub use diff::{PlanFinding, PlanFindingKind, ReleaseStanding, Standings, compare};
