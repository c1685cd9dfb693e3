//! The JSON types of the admin API: the server writes them, the command line reads them.
//!
//! Invariants: external scripts rely on the names, so a field may be added but none renamed.
//! A field that another version may omit has a default. A figure that is not known yet is `null`,
//! never a zero that looks healthy. Weights, shares and `enters_at` are percentages, `_ratio` is 0
//! to 1, times of day are RFC 3339 in UTC.

use crate::domain::{rollout, verdict};
use crate::telemetry::counters;
use serde::{Deserialize, Serialize};
use serde_json::Value;

mod requests;
mod running;
pub use requests::{ChangeRequest, JsonObject, MaintenanceRequest, SignIn};
pub use running::{CeilingBody, GatesBody, RouteBody, RunningBody, ServiceBody, SpellsBody, StandingBody};

/// `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusBody {
    pub version: String,
    pub uptime_s: u64,
    /// When this was computed, by the server's clock.
    #[serde(default)]
    pub at: String,
    pub config: ConfigStatus,
    /// Why trips are in memory only; `null` while the state file can be written.
    #[serde(default)]
    pub state_error: Option<String>,
    pub releases: Vec<ReleaseBody>,
    /// Releases that are not in the file any more but still rolled back: no user may be sent to
    /// their servers.
    #[serde(default)]
    pub removed: Vec<RemovedRelease>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemovedRelease {
    pub name: String,
    pub cause: String,
    pub at: String,
    pub servers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Number of configs that came into force since the start.
    pub revision: u64,
    /// Of the file's bytes, in hex.
    pub sha256: String,
    pub loaded_at: String,
    /// Why the current file is not in force.
    pub last_error: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseBody {
    pub name: String,
    pub attempt: u64,
    pub state: ReleaseStateLabel,
    /// The highest that was ever in force: only a higher one re-arms.
    #[serde(default)]
    pub attempt_seen: u64,
    /// In force.
    pub weight: f64,
    /// As in the file.
    pub weight_configured: f64,
    /// The part of it that `holdback` keeps on stable until the release is complete; `null`: none.
    #[serde(default)]
    pub held_back: Option<f64>,
    /// If complete: how much longer its alarms go on. `null`: it is not complete.
    #[serde(default)]
    pub soak_left_s: Option<u64>,
    /// The current wave's name; `null` before the first one, and for a weight set by hand.
    #[serde(default)]
    pub wave: Option<String>,
    /// The plan's waves in order; empty for a weight set by hand.
    #[serde(default)]
    pub waves: Vec<WaveBody>,
    /// The state of the next step; `null` for a weight set by hand.
    #[serde(default)]
    pub progress: Option<ProgressBody>,
    /// Share of the last minute's requests that went to `new`; `null` without requests.
    #[serde(default)]
    pub share_actual: Option<f64>,
    /// Slowness of `new` is no evidence yet; `null`: no part of it warms up.
    #[serde(default)]
    pub warming_up: Option<WarmUpBody>,
    /// Ceilings only report, and waves hold; `null`: no maintenance is in force.
    #[serde(default)]
    pub maintenance: Option<MaintenanceBody>,
    /// Why the weight in force is below the configured one, in a sentence.
    #[serde(default)]
    pub held: Option<String>,
    /// What a `resume` can end now: `rollback`, `freeze`, `hold`, `pause`, `alarm`.
    #[serde(default)]
    pub ends: Vec<String>,
    #[serde(default)]
    pub trip: Option<TripBody>,
    pub arms: ArmsBody,
    /// Exchanges with `new` that have not ended, tunnels among them.
    #[serde(default)]
    pub under_way: UnderWayBody,
    #[serde(default)]
    pub gates: Vec<GateBody>,
    /// The watched resources of the two versions.
    #[serde(default)]
    pub resources: Vec<ResourceBody>,
    pub watchdog: WatchdogBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaintenanceBody {
    /// The id of the change that needs it.
    pub change: String,
    pub at: String,
    /// When it ends by itself.
    pub until: String,
    pub actor: String,
    #[serde(default)]
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUpBody {
    /// Remaining time.
    pub left_s: u64,
    /// Responses that it still needs.
    pub answers_left: u32,
    /// The server; `null`: all of `new`, after a raise.
    pub server: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnderWayBody {
    pub requests: u64,
    /// When the oldest began, within a second; `null`: there is none.
    pub since: Option<String>,
}

/// Numbers are in the unit of the reading; an unknown one is `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResourceBody {
    pub name: String,
    /// The expression or queries, as in the file.
    pub reading: String,
    /// `hold` or `trip`.
    pub on: String,
    pub stable: ResourceUseBody,
    pub new: ResourceUseBody,
    pub ceiling: Option<f64>,
    pub times_stable_max: Option<f64>,
    /// Consecutive readings over a limit that decide; and how many of the newest are over one.
    pub in_a_row: u64,
    pub over: u64,
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: String,
    pub detail: String,
}

/// The newest reading of one arm.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceUseBody {
    /// Over its servers.
    pub mean: Option<f64>,
    pub highest: Option<f64>,
    /// Why it could not be read.
    pub lack: Option<String>,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WaveBody {
    pub name: String,
    pub weight: f64,
    /// In `new` in this wave, whatever the weight.
    #[serde(default)]
    pub segments: Vec<String>,
    pub bake_s: f64,
    /// `auto` or `by-hand`.
    pub open: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressBody {
    /// Number of the current wave, from 1; 0: before the first.
    pub number: u64,
    /// How long the watchdog has watched it, in all processes: the bake.
    #[serde(default)]
    pub baked_s: f64,
    /// How long it was in force without being watched: the watchdog was blind, or got no CPU time.
    #[serde(default)]
    pub unwatched_s: f64,
    /// The wave that opens next; `null` in the last one.
    #[serde(default)]
    pub next: Option<String>,
    /// How long it has been held after its bake. During the bake: the unwatched time, if that is
    /// much. `null`: it is not held.
    #[serde(default)]
    pub held_s: Option<f64>,
    /// The unmet conditions of a held wave, gate by gate.
    #[serde(default)]
    pub missing: Vec<String>,
    /// How long the current wave needs to detect a deviation of its margin.
    #[serde(default)]
    pub power: Option<String>,
    /// The gate that takes longest in the current wave, and how long, in words.
    #[serde(default)]
    pub slowest: Option<String>,
    #[serde(default)]
    pub paused: Option<PausedBody>,
    #[serde(default)]
    pub open_hours: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PausedBody {
    pub at: String,
    pub actor: String,
    pub reason: String,
}

/// If several apply, the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseStateLabel {
    Pending,
    Progressing,
    Paused,
    Complete,
    Frozen,
    RolledBack,
}

impl From<rollout::RolloutState> for ReleaseStateLabel {
    fn from(state: rollout::RolloutState) -> Self {
        match state {
            rollout::RolloutState::Pending => ReleaseStateLabel::Pending,
            rollout::RolloutState::Progressing => ReleaseStateLabel::Progressing,
            rollout::RolloutState::Paused => ReleaseStateLabel::Paused,
            rollout::RolloutState::Complete => ReleaseStateLabel::Complete,
            rollout::RolloutState::Frozen => ReleaseStateLabel::Frozen,
            rollout::RolloutState::RolledBack => ReleaseStateLabel::RolledBack,
        }
    }
}

impl ReleaseStateLabel {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            ReleaseStateLabel::Pending => "pending",
            ReleaseStateLabel::Progressing => "progressing",
            ReleaseStateLabel::Paused => "paused",
            ReleaseStateLabel::Complete => "complete",
            ReleaseStateLabel::Frozen => "frozen",
            ReleaseStateLabel::RolledBack => "rolled back",
        }
    }
}

/// The decision that holds the release: a trip, or the freeze of a release that is `frozen`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TripBody {
    pub cause: String,
    pub at: String,
    pub actor: String,
    /// One sentence, with the counts.
    pub detail: String,
    /// The counts and statistics of the decision.
    #[serde(default)]
    pub evidence: Value,
    /// From the first failure that counted; `null` for a person's decision.
    #[serde(default)]
    pub onset_to_trip_ms: Option<u64>,
    /// The counts that decided; `null` for a person's decision.
    #[serde(default)]
    pub decided_by: Option<DecidedByBody>,
    /// Soon after a trip on less than ten seconds of evidence, stable showed the same; and since
    /// when.
    #[serde(default)]
    pub stable_shows_the_same: bool,
    #[serde(default)]
    pub stable_same_since: Option<String>,
}

/// Counts since the onset.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecidedByBody {
    /// A signal of the comparison, `latency_p99_max`, or `breaker`.
    pub signal: String,
    /// `null`: of all routes.
    pub route: Option<String>,
    /// The only server of `new` that is affected, or the only one of `new`.
    pub server: Option<String>,
    pub one_server: bool,
    pub since: String,
    pub for_ms: u64,
    pub new: DecidedArmBody,
    /// `null`: stable was not compared.
    pub stable: Option<DecidedArmBody>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DecidedArmBody {
    pub requests: u64,
    pub bad: u64,
    /// Of the requests: those without a response yet.
    pub waiting: u64,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ArmsBody {
    pub stable: ArmStatus,
    pub new: ArmStatus,
}

/// The last five minutes of one arm; `users`, `in_flight` and the servers are current.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArmStatus {
    /// The upstream's name.
    pub upstream: String,
    pub requests: u64,
    pub failures: u64,
    /// `null` without requests; so are the latencies.
    pub error_ratio: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub answers: AnswersBody,
    pub users: u64,
    pub in_flight: u64,
    pub servers_healthy: u64,
    pub servers: Vec<ServerStatus>,
}

/// The requests of an arm by the status class of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswersBody {
    #[serde(rename = "2xx")]
    pub success: u64,
    #[serde(rename = "3xx")]
    pub redirection: u64,
    #[serde(rename = "4xx")]
    pub client_error: u64,
    #[serde(rename = "5xx")]
    pub server_error: u64,
    /// Without a response head.
    pub none: u64,
}

impl AnswersBody {
    /// Each class with its label.
    pub fn labelled(&self) -> [(&'static str, u64); 5] {
        let AnswersBody { success, redirection, client_error, server_error, none } = *self;
        [("2xx", success), ("3xx", redirection), ("4xx", client_error), ("5xx", server_error), ("none", none)]
    }
}

impl From<counters::AnswerCounts> for AnswersBody {
    fn from(of: counters::AnswerCounts) -> AnswersBody {
        let [success, redirection, client_error, server_error, none] = of;
        AnswersBody { success, redirection, client_error, server_error, none }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServerStatus {
    pub name: String,
    pub healthy: bool,
    /// Why its health probes fail; absent: they do not, or there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateBody {
    pub name: String,
    /// `pass`, `fail` or `inconclusive`.
    pub verdict: String,
    pub detail: String,
    /// Estimate of the further requests of `new` it needs, if `new` is like stable, and of their
    /// time at the wave's rate so far; `null`: none, or there is no estimate.
    #[serde(default)]
    pub needs_requests: Option<u64>,
    #[serde(default)]
    pub needs_s: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WatchdogBody {
    pub state: WatchdogStateLabel,
    /// Why this state, in a sentence.
    #[serde(default)]
    pub detail: String,
    #[serde(default)]
    pub signals: Vec<SignalBody>,
    /// The limits for `new`, from the file.
    #[serde(default)]
    pub limits: Option<LimitsBody>,
    /// How long the notice "slower by more than `latency_notice`" stands; `null`: it does not.
    #[serde(default)]
    pub notice_s: Option<f64>,
    /// The ceilings that do not fit this service, each with what is in force instead.
    #[serde(default)]
    pub unfit: Vec<String>,
}

/// `[release.X.watchdog]`. Shares are 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LimitsBody {
    pub enabled: bool,
    /// `mode = "report"`: it reports what it would do, and does nothing.
    pub report_only: bool,
    pub alpha: f64,
    pub errors_max: f64,
    pub latency_p99_max_ms: f64,
    pub latency_tolerance: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchdogStateLabel {
    Quiet,
    Suspicious,
    Tripped,
    BothArms,
    Blind,
}

impl From<verdict::WatchdogState> for WatchdogStateLabel {
    fn from(state: verdict::WatchdogState) -> Self {
        match state {
            verdict::WatchdogState::Quiet => WatchdogStateLabel::Quiet,
            verdict::WatchdogState::Suspicious => WatchdogStateLabel::Suspicious,
            verdict::WatchdogState::Tripped => WatchdogStateLabel::Tripped,
            verdict::WatchdogState::BothArms => WatchdogStateLabel::BothArms,
            verdict::WatchdogState::Blind => WatchdogStateLabel::Blind,
        }
    }
}

impl WatchdogStateLabel {
    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            WatchdogStateLabel::Quiet => "quiet",
            WatchdogStateLabel::Suspicious => "suspicious",
            WatchdogStateLabel::Tripped => "tripped",
            WatchdogStateLabel::BothArms => "both arms are bad: not blamed on new",
            WatchdogStateLabel::Blind => "blind: it cannot judge now",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SignalBody {
    pub signal: String,
    pub stratum: String,
    /// 0: none, 1: trips (logarithmic); `null` for a signal that has no such measure.
    #[serde(default)]
    pub evidence_ratio: Option<f64>,
    pub detail: String,
}

/// `GET /api/v1/explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainBody {
    pub release: String,
    /// `null` without a user id.
    pub bucket: Option<u32>,
    /// `stable` or `new`.
    pub arm: String,
    /// `weight`, `segment`, `excluded`, `tripped` or `no_user_id`.
    pub reason: String,
    /// The lowest weight with this user in `new`.
    pub enters_at: Option<f64>,
    /// The weight in force.
    #[serde(default)]
    pub weight: Option<f64>,
    /// The segment that decided, if one did.
    #[serde(default)]
    pub segment: Option<String>,
    /// The wave in which this user enters; `null`: in none, or the weight is set by hand.
    #[serde(default)]
    pub wave: Option<String>,
    /// `holdback` keeps this user on stable until the release is complete.
    #[serde(default)]
    pub held_back: bool,
    /// How long the current wave needs to detect a deviation of its margin.
    #[serde(default)]
    pub power: Option<String>,
}

/// `GET /api/v1/config/file`: the file on the disk, whether it is in force or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFileBody {
    pub path: std::path::PathBuf,
    pub text: Option<String>,
    /// Why it cannot be read.
    pub error: Option<String>,
    /// Why it is not in force: one line per fault.
    pub last_error: Option<String>,
    /// The same with the faulty lines, and carets under them, if a fault has a line.
    pub last_report: Option<String>,
    /// When the config in force was loaded.
    pub loaded_at: String,
}

/// `GET /api/v1/session`: the page's actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBody {
    /// `null`: not signed in.
    pub actor: Option<String>,
    /// Whether a change needs a token here.
    pub token_needed: bool,
}

/// The response to a change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeAnswer {
    pub state: ReleaseStateLabel,
    /// The number of the ledger's entry.
    pub ledger: u64,
    /// What is in force now, in a sentence.
    pub message: String,
    /// After a rollback: the exchanges that have not ended yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_way: Option<UnderWayBody>,
}

/// An element of the array of `GET /api/v1/ledger?since=N`.
pub use crate::store::ledger::LedgerEntry;

/// `GET /api/v1/ledger/end`: number and hash of the last entry, as the running proxy knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerEnd {
    pub n: u64,
    pub hash: String,
}

/// `GET /api/v1/ledger/hashed`: the name of the key, and the hashes in the order of the requested
/// numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HashedBody {
    pub key: String,
    pub hashes: Vec<String>,
}

/// The body of `GET /readyz`, whether it is 200 or 503.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReadyDetails {
    pub phase: PhaseLabel,
    /// Why the last reload failed. The proxy goes on with the config before.
    #[serde(default)]
    pub last_reload_error: Option<String>,
    /// `release/arm` of every arm without a healthy server.
    #[serde(default)]
    pub arms_without_server: Vec<String>,
    /// `release: why it is held, and what to type` of every release with less in force than its
    /// file says.
    #[serde(default)]
    pub releases_held: Vec<String>,
    /// Why changes are not durable, or earlier ones may be forgotten.
    #[serde(default)]
    pub state_error: Option<String>,
}

/// `readyz` is 200 in `serving`, else 503; nothing else makes it 503.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseLabel {
    Starting,
    Serving,
    Draining,
}

/// Every response of the API that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
    /// What to do or type.
    #[serde(default)]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: &str = r#"{"version": "0.1.0", "uptime_s": 812,
     "config": {"revision": 4, "sha256": "…", "loaded_at": "2026-11-23T06:02:11Z", "last_error": null},
     "releases": [{"name": "cbs-v2", "attempt": 1, "state": "progressing", "weight": 5.0, "weight_configured": 5.0, "wave": null,
       "share_actual": 4.97,
       "trip": null,
       "arms": {"stable": {"requests": 15432, "failures": 9, "error_ratio": 0.0006, "p50_ms": 3.1, "p99_ms": 22.0,
        "answers": {"2xx": 15420, "3xx": 1, "4xx": 2, "5xx": 5, "none": 4}, "users": 8112, "in_flight": 3, "servers_healthy": 2}, "new": {}},
       "gates": [{"name": "errors", "verdict": "inconclusive", "detail": "…"}],
       "watchdog": {"state": "quiet", "signals": [{"signal": "errors", "stratum": "all", "evidence_ratio": 0.11, "detail": "new 41 of 812, stable 9 of 15432"}]}}]}"#;

    /// Every name and value of `published` is in `written`, which may have more.
    fn holds(written: &Value, published: &Value, at: &str) {
        match (written, published) {
            (Value::Object(w), Value::Object(p)) => {
                for (key, value) in p {
                    let found = w.get(key).unwrap_or_else(|| panic!("{at}.{key} is missing"));
                    holds(found, value, &format!("{at}.{key}"));
                }
            }
            (Value::Array(w), Value::Array(p)) => {
                assert_eq!(w.len(), p.len(), "{at}");
                w.iter().zip(p).for_each(|(w, p)| holds(w, p, at));
            }
            _ => assert_eq!(written, published, "{at}"),
        }
    }

    #[test]
    fn the_published_status_is_read_and_written_with_the_same_names() {
        let published: Value = serde_json::from_str(PUBLISHED).unwrap();
        let status: StatusBody = serde_json::from_str(PUBLISHED).unwrap();
        holds(&serde_json::to_value(&status).unwrap(), &published, "status");
    }

    #[test]
    fn states_have_the_published_names() {
        let name = |v: Value| v.as_str().map(str::to_owned).unwrap();
        use ReleaseStateLabel as R;
        let states = [R::Pending, R::Progressing, R::Paused, R::Complete, R::Frozen, R::RolledBack]
            .map(|s| name(serde_json::to_value(s).unwrap()));
        assert_eq!(states, ["pending", "progressing", "paused", "complete", "frozen", "rolled_back"]);
        use WatchdogStateLabel as W;
        let states = [W::Quiet, W::Suspicious, W::Tripped, W::BothArms, W::Blind]
            .map(|s| name(serde_json::to_value(s).unwrap()));
        assert_eq!(states, ["quiet", "suspicious", "tripped", "both_arms", "blind"]);
    }

    #[test]
    fn a_change_may_wait_with_its_reason_but_not_misspell_it() {
        let read = serde_json::from_str::<ChangeRequest>;
        assert_eq!(read("{}").unwrap().reason, None);
        assert_eq!(read(r#"{"reason": "5xx"}"#).unwrap().reason.as_deref(), Some("5xx"));
        assert!(read(r#"{"raeson": "5xx"}"#).is_err());
        let body = serde_json::from_str::<JsonObject<ChangeRequest>>;
        assert_eq!(body(r#"{"reason": "5xx"}"#).unwrap().0.reason.as_deref(), Some("5xx"));
        for no_object in ["[]", r#"["5xx"]"#, "null", "1", r#"{"reason": "a", "reason": "b"}"#] {
            assert!(body(no_object).is_err(), "{no_object}");
        }
        let pause = read(r#"{"reason": "lunch", "ends": "pause"}"#).unwrap();
        assert_eq!((pause.foreign_field(&[]), pause.foreign_field(&["ends", "at"])), (Some("ends"), None));
        assert_eq!(serde_json::to_string(&ChangeRequest::default()).unwrap(), "{}");
    }
}
