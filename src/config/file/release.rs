//! The mirror of `[release.NAME]` and of its tables.

use super::{Duration, HeaderMatch, Percent, Size};
use schemars::JsonSchema;
use serde::Deserialize;

/// A gray release. Its weight is set by hand, or raised wave by wave.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The upstream with the trusted version.
    pub stable: String,
    /// The upstream with the released version.
    pub new: String,
    /// Default: the release's name. A new salt assigns every user anew.
    pub salt: Option<String>,
    /// Raise it for a new build behind `new`, or to re-arm after a rollback.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = 1))]
    pub attempt: Option<u64>,
    /// The share of users in `new`. Not allowed together with waves.
    #[schemars(extend("default" = "0%"))]
    pub weight: Option<Percent>,
    /// A reload that raises the weight by more is refused.
    #[schemars(extend("default" = "100%"))]
    pub step_max: Option<Percent>,
    /// This share stays on stable at 100% until the release is complete; with a weight set by hand,
    /// until the file changes it. At most 50%.
    #[schemars(extend("default" = "0%"))]
    pub holdback: Option<Percent>,
    /// How long the alarms stay active after the release is complete.
    #[schemars(extend("default" = "7d"))]
    pub soak: Option<Duration>,
    /// In `new` at any weight, unless tripped or excluded.
    #[schemars(extend("default" = []))]
    pub segments: Option<Vec<String>>,
    /// Never in `new`.
    #[schemars(extend("default" = []))]
    pub excluded: Option<Vec<String>>,
    /// The requests that go to stable if no connection to `new` can be made and nothing was sent.
    #[schemars(extend("default" = "stable"))]
    pub on_unreachable: Option<OnUnreachable>,
    /// The action on an anomaly.
    #[schemars(extend("default" = "rollback"))]
    pub on_anomaly: Option<OnAnomaly>,
    /// The action if both arms exceed a ceiling for 30 s.
    #[schemars(extend("default" = "freeze"))]
    pub on_both_bad: Option<OnAnomaly>,
    /// Slowness is no evidence against `new` for this long after a raise from 0% or by a factor of
    /// two, and against a server for this long after its start. It also lasts until 20 answers have
    /// come.
    #[schemars(extend("default" = "60s"))]
    pub warm_up: Option<Duration>,
    /// The servers of this file run the same builds as before and have only moved. It declares one
    /// move.
    #[schemars(extend("default" = false))]
    pub same_version: Option<bool>,
    /// When waves may open automatically: days, hours and a time zone, as in "Mon-Thu 09:00-16:00
    /// Europe/London".
    pub open_hours: Option<String>,
    /// Routes of this release (by name) that each have gates of their own, with the same margins.
    #[schemars(length(max = 16), extend("default" = []))]
    pub critical: Option<Vec<String>>,
    /// The steps of the plan, instead of a weight. Each opens when the gates of the one before
    /// pass.
    #[schemars(length(min = 1, max = 64))]
    pub wave: Option<Vec<Wave>>,
    /// The watched resources of the two versions.
    #[schemars(length(max = 16))]
    pub resource: Option<Vec<Resource>>,
    /// From one reading of all resources to the next.
    #[schemars(extend("default" = "5s"))]
    pub resource_interval: Option<Duration>,
    pub outcome: Option<OutcomeRules>,
    pub watchdog: Option<Watchdog>,
}

/// One step of the plan. Segments add up from wave to wave, and the weight never decreases.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// Its identifier. Default: its weight, or the segments that join.
    pub name: Option<String>,
    /// Segments that join `new` with this wave.
    #[schemars(extend("default" = []))]
    pub segments: Option<Vec<String>>,
    /// Default: the weight of the wave before.
    pub weight: Option<Percent>,
    /// Watched time before the wave is judged. A restart keeps that time.
    #[schemars(extend("default" = "10m"))]
    pub bake: Option<Duration>,
    /// Minimum of requests of `new` in this wave.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = 500))]
    pub requests_min: Option<u64>,
    /// Minimum of distinct users in this wave, in each arm where there are two.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = 5))]
    pub users_min: Option<u64>,
    /// The trigger that opens it, once the gates of the wave before pass.
    #[schemars(extend("default" = "auto"))]
    pub open: Option<Open>,
}

/// A reading of both versions and its limit: `ceiling`, `times_stable_max`, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Label in metrics.
    pub name: String,
    /// From each server's own metrics: a series, `rate(SERIES)`, or a quotient of two of these.
    pub reading: Option<String>,
    /// Or the address of a Prometheus server for the queries `new` and `stable`.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub prometheus: Option<String>,
    /// PromQL with one value as its result.
    pub new: Option<String>,
    /// PromQL with one value as its result.
    pub stable: Option<String>,
    /// The maximum for any server of `new`.
    pub ceiling: Option<f64>,
    /// The maximum of `new` as a multiple of stable's reading, averaged over their servers.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub times_stable_max: Option<f64>,
    /// Smaller readings count as this value in the comparison.
    #[schemars(range(min = 0), extend("default" = 0.0))]
    pub floor: Option<f64>,
    /// Consecutive readings that must agree.
    #[schemars(range(min = 2, max = 60), extend("default" = 3))]
    pub in_a_row: Option<u64>,
    /// `trip`: the watchdog takes `new` out. Waves hold in both cases.
    #[schemars(extend("default" = "hold"))]
    pub on: Option<OnResource>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnResource {
    Hold,
    Trip,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    Auto,
    /// `grayling promote`.
    ByHand,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnUnreachable {
    Stable,
    Reads,
    Error,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnAnomaly {
    Rollback,
    Freeze,
}

/// The definition of a failure of an arm, besides time-outs, resets and truncations.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutcomeRules {
    /// Statuses, "429", and ranges of them, "500-599".
    #[schemars(extend("default" = ["500-599"]))]
    pub status: Option<Vec<String>>,
    /// A response with this header and value.
    pub header: Option<HeaderMatch>,
    /// A result code in a JSON body.
    pub body: Option<BodyRule>,
    /// `grpc-status`, in trailers or in the head.
    #[schemars(extend("default" = false))]
    pub grpc: Option<bool>,
}

/// Evaluated while the body passes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BodyRule {
    /// As in `$.result.code`, `$.items[0].code`.
    pub path: String,
    /// A failure if the value equals this.
    pub equals: Option<String>,
    /// A failure if the value is present and differs from this.
    pub not_equals: Option<String>,
    /// A longer body is not judged.
    #[schemars(extend("default" = "16KiB"))]
    pub max: Option<Size>,
}

/// Absent: on, with the defaults.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Watchdog {
    #[schemars(extend("default" = true))]
    pub enabled: Option<bool>,
    /// `report`: reports its decisions, and does not act on them.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Option<WatchdogMode>,
    /// Probability of flipping a release that is not worse.
    #[schemars(range(min = 1e-9, max = 0.1), extend("default" = 0.001))]
    pub alpha: Option<f64>,
    /// Ceiling of the share of failures of `new`, whatever stable's share is. The default is set
    /// aside if stable itself exceeds it by half before `new` has users.
    #[schemars(extend("default" = "2%"))]
    pub errors_max: Option<Percent>,
    /// Ceiling of the 99th percentile of its successful answers, with the same rule.
    #[schemars(extend("default" = "2s"))]
    pub latency_p99_max: Option<Duration>,
    /// If `new` is slower than stable by more, beyond chance, it is taken out.
    #[schemars(extend("default" = "20%"))]
    pub latency_tolerance: Option<Percent>,
    /// If `new` is slower than stable by more, beyond chance, the watchdog alerts, without further
    /// action.
    #[schemars(extend("default" = "3%"))]
    pub latency_notice: Option<Percent>,
    /// Waves hold while a late slowdown by more than `margin_latency` would not be detected.
    #[schemars(extend("default" = false))]
    pub hold_when_blind: Option<bool>,
    /// The excess of failures over stable, in percentage points, up to which `new` is promoted to
    /// the next wave.
    #[schemars(extend("default" = "0.1%"))]
    pub margin_errors: Option<Percent>,
    /// The slowdown up to which `new` is promoted.
    #[schemars(extend("default" = "10%"))]
    pub margin_latency: Option<Percent>,
    /// The excess of answers above stable's p99 up to which `new` is promoted: with 50%, 1.5 times
    /// as many.
    #[schemars(extend("default" = "50%"))]
    pub margin_latency_tail: Option<Percent>,
    /// Faster answers count as this fast, so differences below it do not count. "0s": every
    /// difference counts.
    #[schemars(extend("default" = "2ms"))]
    pub latency_floor: Option<Duration>,
    /// Judged separately, in addition to all together: each route, or nothing.
    #[schemars(extend("default" = ["route"]))]
    pub strata: Option<Vec<Stratum>>,
    /// `new` is taken out if it has failed more users than this since the evidence began, at any
    /// rate. 0: no limit.
    #[schemars(range(min = 0, max = 100_000), extend("default" = 0))]
    pub harm_users_max: Option<u64>,
    /// Time between two looks, from 50ms to 250ms.
    #[schemars(extend("default" = "100ms"))]
    pub tick: Option<Duration>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WatchdogMode {
    Enforce,
    Report,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Stratum {
    Route,
}
