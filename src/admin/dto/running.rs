//! The body of `GET /api/v1/config`: the running config, the progress of each release, and the
//! known properties of its service. `check --against` compares a file with it.
//!
//! Invariants: those of all answers of the API; an unknown figure is `null`. Times end in `_s` or
//! `_ms`, `_ratio` is 0 to 1.

use serde::{Deserialize, Serialize};

/// `GET /api/v1/config`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningBody {
    pub text: String,
    pub path: std::path::PathBuf,
    /// Of the file's bytes, in hex.
    pub sha256: String,
    /// The progress of each release, which is not in the file.
    #[serde(default)]
    pub releases: std::collections::BTreeMap<String, StandingBody>,
    /// The initial memory of a release that is not among them, as in the state file.
    #[serde(default)]
    pub stranger: serde_json::Value,
    /// `grayling.stop` exists.
    #[serde(default)]
    pub stop_file: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StandingBody {
    /// The present wave. `null`: before the first one, or for a weight set by hand.
    #[serde(default)]
    pub wave: Option<String>,
    /// The weight of that wave.
    #[serde(default)]
    pub weight_configured: f64,
    #[serde(default)]
    pub segments_configured: usize,
    #[serde(default)]
    pub finished: bool,
    /// The weight in force.
    #[serde(default)]
    pub weight: f64,
    #[serde(default)]
    pub segments: usize,
    /// The last wave, or 100% set by hand, is in force and its gates have passed.
    #[serde(default)]
    pub complete: bool,
    /// It is rolled back, frozen or held: another version needs a declaration.
    #[serde(default)]
    pub guarded: bool,
    /// Requests a second in the last minute; requests and failures of stable in the last five.
    #[serde(default)]
    pub rate: f64,
    #[serde(default)]
    pub requests: u64,
    #[serde(default)]
    pub failures: u64,
    /// The memory of the release, as in the state file. Its holds are computed from that.
    #[serde(default)]
    pub memory: serde_json::Value,
    /// The release whose rollback forbids users on the servers of this one's `new`.
    #[serde(default)]
    pub barred_by: Option<String>,
    /// The known properties of the service. `null` until the watchdog has looked.
    #[serde(default)]
    pub service: Option<ServiceBody>,
}

/// The known properties of a service, from which follow the fit of ceilings, the excused spells,
/// and the time of gates.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceBody {
    /// Counted time: since the start, five minutes at most.
    pub counted_s: f64,
    /// Requests a second in that time, of both arms.
    pub rate: f64,
    /// Requests of stable in that time, and its failures.
    pub requests: u64,
    pub failures: u64,
    pub p99_ms: Option<f64>,
    /// `new` has had no users in this attempt: the fit of ceilings is still learnt.
    pub learns: bool,
    pub errors_max: CeilingBody,
    pub latency_p99_max: CeilingBody,
    /// Time during which slow spells could be found. `null`: not yet.
    pub seen_s: Option<f64>,
    /// Of single servers of stable.
    pub spells_slow: SpellsBody,
    pub spells_failed: SpellsBody,
    /// Answers of stable still needed before latency is compared.
    pub answers_missing: u64,
    pub gates: GatesBody,
    /// The part of the variance of stable's single requests from servers' moments, in spans of 1, 4
    /// and 16 s: of errors, of latency, of its tail.
    pub moments: [[f64; 3]; 3],
    /// The strata.
    pub routes: Vec<RouteBody>,
}

/// Stable's values before `new` had users: decaying averages of counts.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CeilingBody {
    /// The ceiling in force: a share of requests, a time in ms.
    pub given: f64,
    pub requests: f64,
    /// Requests that failed, or took longer.
    pub bad: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpellsBody {
    pub n: u64,
    pub longest_s: f64,
    /// Time since the end of the oldest one.
    pub over_s: Option<f64>,
    /// Excused length of a spell of `new`.
    pub excused_s: f64,
    /// `new` has far more spells than stable, so none is excused.
    pub too_many: bool,
}

/// Stable's properties, as the margin gates use them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GatesBody {
    /// The present wave has shown them. Otherwise the design effects of users are not known yet.
    pub of_wave: bool,
    pub failing_ratio: f64,
    /// Share of answers above its p99.
    pub slow_ratio: f64,
    /// Standard deviation of the logarithm of latencies.
    pub spread: f64,
    /// Design effects: this many requests count as one.
    pub design_errors: f64,
    pub design_latency: f64,
    pub design_latency_tail: f64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteBody {
    pub name: String,
    /// Requests a second, of both arms.
    pub rate: f64,
    /// Of a critical route, as the present wave has shown it.
    pub gates: Option<GatesBody>,
}
