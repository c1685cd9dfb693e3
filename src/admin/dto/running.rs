//! The body of `GET /api/v1/config`: what runs, how far each release has come, and what is known of
//! its service. `check --against` compares a file with it.
//!
//! Invariants: as of all answers of the API; a figure that is not known yet is `null`. Times end in
//! `_s` or `_ms`, `_ratio` is 0 to 1.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub text: String,
    pub path: std::path::PathBuf,
    /// Of the file's bytes, in hex.
    pub sha256: String,
    /// How far each release has come: no file knows.
    #[serde(default)]
    pub releases: std::collections::BTreeMap<String, Standing>,
    /// What a release begins with that is not among them, as in the state file.
    #[serde(default)]
    pub stranger: serde_json::Value,
    /// `grayling.stop` is there.
    #[serde(default)]
    pub stop_file: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// The present wave; `null` before the first one, and for a weight set by hand.
    #[serde(default)]
    pub wave: Option<String>,
    /// What that wave gives.
    #[serde(default)]
    pub weight_configured: f64,
    #[serde(default)]
    pub segments_configured: usize,
    #[serde(default)]
    pub finished: bool,
    /// In force.
    #[serde(default)]
    pub weight: f64,
    #[serde(default)]
    pub segments: usize,
    /// The last wave, or 100% set by hand, is in force and has proved itself.
    #[serde(default)]
    pub complete: bool,
    /// It is rolled back, frozen or held: another version needs a declaration.
    #[serde(default)]
    pub guarded: bool,
    /// Requests a second in the last minute; those of stable in the last five, and its failures.
    #[serde(default)]
    pub rate: f64,
    #[serde(default)]
    pub requests: u64,
    #[serde(default)]
    pub failures: u64,
    /// What is remembered of it, as in the state file: what holds it is computed from that.
    #[serde(default)]
    pub memory: serde_json::Value,
    /// The release whose rollback forbids users on the servers of this one's `new`.
    #[serde(default)]
    pub barred_by: Option<String>,
    /// What is known of the service; `null` until the watchdog has looked.
    #[serde(default)]
    pub service: Option<Service>,
}

/// What is known of a service: by its figures it is told whether ceilings fit, which spells are
/// excused, and how long gates take.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// How long requests have been counted: since the start, five minutes at most.
    pub counted_s: f64,
    /// Requests a second in that time, of both arms.
    pub rate: f64,
    /// Of stable, in that time.
    pub requests: u64,
    pub failures: u64,
    pub p99_ms: Option<f64>,
    /// Nobody has been in `new` in this attempt: how ceilings fit is still learnt.
    pub learns: bool,
    pub errors_max: Ceiling,
    pub latency_p99_max: Ceiling,
    /// How long spells of slowness could be seen; `null`: not yet.
    pub seen_s: Option<f64>,
    /// Of single servers of stable.
    pub spells_slow: Spells,
    pub spells_failed: Spells,
    /// Answers of stable that are missing until latency is compared.
    pub answers_missing: u64,
    pub gates: Gates,
    /// Of the variance of single requests of stable, the part that servers' moments make up, in
    /// spans of 1, 4 and 16 s: of errors, of latency, of its tail.
    pub moments: [[f64; 3]; 3],
    /// Those that are judged apart.
    pub routes: Vec<Route>,
}

/// What stable was like before anybody was in `new`: a slow average of counts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ceiling {
    /// The one in force: a share of requests, a time in ms.
    pub given: f64,
    pub requests: f64,
    /// Those that failed, or took longer.
    pub bad: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Spells {
    pub n: u64,
    pub longest_s: f64,
    /// In how long a time: since the first of them.
    pub over_s: Option<f64>,
    /// One of `new` is excused up to this length.
    pub excused_s: f64,
    /// `new` has far more of them than stable: none is excused.
    pub too_many: bool,
}

/// What gates of margins count with, of stable.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gates {
    /// The present wave has shown it; else users who repeat themselves are not known yet.
    pub of_wave: bool,
    pub failing_ratio: f64,
    /// Answers above its p99.
    pub slow_ratio: f64,
    /// Standard deviation of the logarithm of latencies.
    pub spread: f64,
    /// So many requests count as one.
    pub design_errors: f64,
    pub design_latency: f64,
    pub design_latency_tail: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    pub name: String,
    /// Requests a second, of both arms.
    pub rate: f64,
    /// Of a critical route, as the present wave has shown it.
    pub gates: Option<Gates>,
}
