//! The mirror of `[release.NAME]` and of the tables in it.

use super::{Duration, HeaderMatch, Percent, Size};
use schemars::JsonSchema;
use serde::Deserialize;

/// A gray release: its weight set by hand, or raised wave by wave.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The upstream that everyone trusts.
    pub stable: String,
    /// The upstream being released.
    pub new: String,
    /// Default: the release's name. Changing it deals every user anew.
    pub salt: Option<String>,
    /// Raise it for a new build behind `new`, or to re-arm after a rollback.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = 1))]
    pub attempt: Option<u64>,
    /// The share of users in `new`; not beside waves.
    #[schemars(extend("default" = "0%"))]
    pub weight: Option<Percent>,
    /// A reload that raises the weight by more is refused.
    #[schemars(extend("default" = "100%"))]
    pub step_max: Option<Percent>,
    /// So many of 100% stay on stable until the release is complete; beside a weight set by hand:
    /// until the file says otherwise. At most 50%.
    #[schemars(extend("default" = "0%"))]
    pub holdback: Option<Percent>,
    /// For so long after the release is complete its alarms go on.
    #[schemars(extend("default" = "7d"))]
    pub soak: Option<Duration>,
    /// In `new` whatever the weight, unless tripped or excluded.
    #[schemars(extend("default" = []))]
    pub segments: Option<Vec<String>>,
    /// Never in `new`.
    #[schemars(extend("default" = []))]
    pub excluded: Option<Vec<String>>,
    /// Who goes to stable when no connection to `new` can be made and nothing was sent.
    #[schemars(extend("default" = "stable"))]
    pub on_unreachable: Option<OnUnreachable>,
    /// What an anomaly does.
    #[schemars(extend("default" = "rollback"))]
    pub on_anomaly: Option<OnAnomaly>,
    /// What both arms over a ceiling for 30 s do.
    #[schemars(extend("default" = "freeze"))]
    pub on_both_bad: Option<OnAnomaly>,
    /// Slowness is no evidence against `new` for so long after a raise from 0% or by a factor of
    /// two, and of a server after its start; until at least 20 answers have come.
    #[schemars(extend("default" = "60s"))]
    pub warm_up: Option<Duration>,
    /// The servers of this file run the builds that were there before: they have only moved. It
    /// declares one move.
    #[schemars(extend("default" = false))]
    pub same_version: Option<bool>,
    /// When waves may open by themselves: days, hours and a time zone, as in "Mon-Thu 09:00-16:00
    /// Europe/London".
    pub open_hours: Option<String>,
    /// Routes of this release (by name) that are gated each with the same margins, apart from all
    /// together.
    #[schemars(length(max = 16), extend("default" = []))]
    pub critical: Option<Vec<String>>,
    /// The steps of the plan, instead of a weight: each opens when the one before has proved
    /// itself.
    #[schemars(length(min = 1, max = 64))]
    pub wave: Option<Vec<Wave>>,
    /// What of the resources of the two versions is watched.
    #[schemars(length(max = 16))]
    pub resource: Option<Vec<Resource>>,
    /// From one reading of all of them to the next.
    #[schemars(extend("default" = "5s"))]
    pub resource_interval: Option<Duration>,
    pub outcome: Option<OutcomeRules>,
    pub watchdog: Option<Watchdog>,
}

/// One step: segments add up from wave to wave, the weight never goes down.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// It is known by it. Default: its weight, or the segments that join.
    pub name: Option<String>,
    /// Join `new` with this wave.
    #[schemars(extend("default" = []))]
    pub segments: Option<Vec<String>>,
    /// Default: that of the wave before.
    pub weight: Option<Percent>,
    /// It is judged once the watchdog has watched it for so long; a restart keeps that time.
    #[schemars(extend("default" = "10m"))]
    pub bake: Option<Duration>,
    /// Of `new`, in this wave.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = 500))]
    pub requests_min: Option<u64>,
    /// Distinct ones, in this wave; of each arm, where there are two.
    #[schemars(range(min = 1, max = 1_000_000_000), extend("default" = 5))]
    pub users_min: Option<u64>,
    /// What opens it, once the wave before has proved itself.
    #[schemars(extend("default" = "auto"))]
    pub open: Option<Open>,
}

/// A reading of both versions, and what it is held against: `ceiling`, `times_stable_max`, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Label in metrics.
    pub name: String,
    /// Of each server's own metrics: a series, `rate(SERIES)`, or one of these divided by another.
    pub reading: Option<String>,
    /// Or the address of a Prometheus server, which is asked for `new` and `stable`.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub prometheus: Option<String>,
    /// PromQL that gives one value.
    pub new: Option<String>,
    /// Likewise.
    pub stable: Option<String>,
    /// The most that any server of `new` may use.
    pub ceiling: Option<f64>,
    /// So many times what stable uses `new` may use, on an average of their servers.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub times_stable_max: Option<f64>,
    /// Smaller readings count as this much when the two are compared.
    #[schemars(range(min = 0), extend("default" = 0.0))]
    pub floor: Option<f64>,
    /// So many readings in a row must say the same.
    #[schemars(range(min = 2, max = 60), extend("default" = 3))]
    pub in_a_row: Option<u64>,
    /// `trip`: the watchdog takes `new` out; waves hold either way.
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

/// What counts as a failure of an arm, beside time-outs, resets and truncations.
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

/// Read as the body passes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BodyRule {
    /// As in `$.result.code`, `$.items[0].code`.
    pub path: String,
    /// A failure if it is this.
    pub equals: Option<String>,
    /// A failure if it is there and is not this.
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
    /// `report`: says what it would do, and does nothing.
    #[schemars(extend("default" = "enforce"))]
    pub mode: Option<WatchdogMode>,
    /// Chance of flipping a release that is not worse.
    #[schemars(range(min = 1e-9, max = 0.1), extend("default" = 0.001))]
    pub alpha: Option<f64>,
    /// Ceiling for the share of failures of `new`, whatever stable does. The default is set aside
    /// where stable itself exceeds it by half before anybody is in `new`.
    #[schemars(extend("default" = "2%"))]
    pub errors_max: Option<Percent>,
    /// Likewise for the 99th percentile of its successful answers.
    #[schemars(extend("default" = "2s"))]
    pub latency_p99_max: Option<Duration>,
    /// Slower than stable by more, beyond chance: `new` is taken out.
    #[schemars(extend("default" = "20%"))]
    pub latency_tolerance: Option<Percent>,
    /// Slower than stable by more, beyond chance: the watchdog says so, and nothing more.
    #[schemars(extend("default" = "3%"))]
    pub latency_notice: Option<Percent>,
    /// Do waves hold while a late slowdown by more than `margin_latency` would not be seen?
    #[schemars(extend("default" = false))]
    pub hold_when_blind: Option<bool>,
    /// By so many points of failures more than stable `new` may have and still be promoted to the
    /// next wave.
    #[schemars(extend("default" = "0.1%"))]
    pub margin_errors: Option<Percent>,
    /// So much slower than stable `new` may be and still be promoted.
    #[schemars(extend("default" = "10%"))]
    pub margin_latency: Option<Percent>,
    /// By so much more than stable `new` may have of answers above stable's p99 and still be
    /// promoted: with 50%, 1.5 times as many.
    #[schemars(extend("default" = "50%"))]
    pub margin_latency_tail: Option<Percent>,
    /// Quicker answers count as this quick, so that differences below it are none; 0s: every
    /// difference counts.
    #[schemars(extend("default" = "2ms"))]
    pub latency_floor: Option<Duration>,
    /// What is judged apart as well as together: each route, or nothing.
    #[schemars(extend("default" = ["route"]))]
    pub strata: Option<Vec<Stratum>>,
    /// `new` has failed more users than this since the evidence began: out, whatever the rate; 0:
    /// no limit.
    #[schemars(range(min = 0, max = 100_000), extend("default" = 0))]
    pub harm_users_max: Option<u64>,
    /// Between two looks, from 50ms to 250ms.
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
