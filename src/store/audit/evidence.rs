//! The grounds of a verdict in the form that the ledger stores.
//! A reader of an entry can recompute the verdict from them.
//!
//! They are stored under `grounds` in an entry's `evidence`, beside the figures for people.
//! Invariants: the stored values are those that were judged (whole milliseconds, floats that read
//! back to the last bit, infinity as the word `inf`).
//! Parsing ignores what a later version adds to `evidence`, and never guesses a missing value.

use crate::domain::breaker::BreakerTrip;
use crate::domain::config::Server;
use crate::domain::judge::ceiling::CeilingSample;
use crate::domain::judge::onset::ArmCountsSince;
use crate::domain::judge::verdict_inputs;
use crate::domain::resource;
use crate::domain::verdict::{Cause, JudgementEvidence, METHOD};
use crate::stats::engine::SIGNALS;
use crate::stats::hypergeometric_bet::PerArm;
use crate::store::audit::gate_evidence::{self, GateDecision, RecomputeError};
use crate::store::shared_error::SharedError;
use crate::telemetry::clock;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// The result of recomputing an entry's verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecomputedVerdict {
    /// The entry has no verdict: a weight change, a start.
    None,
    /// A person's decision.
    ByHand,
    /// The recorded data give the same verdict.
    Same,
    /// A version that stored too little recorded it.
    Unknown,
    /// Another method judged it, which this version does not have.
    OtherMethod(u32),
    /// The recorded data do not give the verdict.
    Other(Contradiction),
}

/// Why a verdict does not follow from the recorded data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    #[error("the figures of a gate are missing")]
    NoFigures,
    #[error(transparent)]
    Gates(#[from] RecomputeError),
    #[error("no cause is called `{0}`")]
    UnknownCause(String),
    #[error("its grounds cannot be read: {0}")]
    Malformed(#[source] SharedError<serde_json::Error>),
    #[error("the parts of its evidence do not add up to what it says")]
    Sum,
    #[error("`{name}` is recorded as {recorded}, its grounds give {found}")]
    Figure { name: &'static str, recorded: Value, found: Value },
    #[error("it says `{}`, and `{}` follows from its evidence", .says.label(), .follows.label())]
    OtherCause { says: Cause, follows: Cause },
    #[error("it says `{}`, which does not follow from its evidence", .0.label())]
    NoCause(Cause),
}

/// Does this evidence have a verdict that can be recomputed?
pub fn has_verdict(evidence: &Value) -> bool {
    ["gates", "grounds"].iter().any(|key| evidence.get(key).is_some_and(|of| !of.is_null()))
}

/// Recomputes the verdict of an entry from its `cause` (`None`: no verdict), the number of its
/// method, and its evidence.
/// Gates of waves are under `gates`: see [`gate_evidence::recompute`].
///
/// An entry without a number is of method 1, by a version that recorded no figures of gates.
pub fn again(cause: Option<&str>, method: Option<u32>, evidence: &Value) -> RecomputedVerdict {
    let of_method = method.unwrap_or(1);
    if has_verdict(evidence) && of_method != METHOD {
        return RecomputedVerdict::OtherMethod(of_method);
    }
    if evidence.get("gates").is_some_and(|gates| !gates.is_null()) {
        let verdicts = evidence["gates"]["verdicts"].as_array();
        if method.is_some() && verdicts.is_some_and(|all| all.iter().any(|v| v.get("on").is_none())) {
            return RecomputedVerdict::Other(Contradiction::NoFigures);
        }
        return match gate_evidence::recompute(evidence) {
            Ok(found) if found.decision == GateDecision::Promote => RecomputedVerdict::ByHand,
            Ok(_) => RecomputedVerdict::Same,
            Err(why) => RecomputedVerdict::Other(why.into()),
        };
    }
    let Some(cause) = cause else { return RecomputedVerdict::None };
    let Some(cause) = Cause::parse(cause) else {
        return RecomputedVerdict::Other(Contradiction::UnknownCause(cause.to_owned()));
    };
    if cause == Cause::Manual {
        return RecomputedVerdict::ByHand;
    }
    let Some(recorded) = evidence.get("grounds") else { return RecomputedVerdict::Unknown };
    let inputs: EvidenceRecord = match EvidenceRecord::deserialize(recorded) {
        Ok(inputs) => inputs,
        Err(fault) => return RecomputedVerdict::Other(Contradiction::Malformed(fault.into())),
    };
    let found = match &inputs {
        EvidenceRecord::Fuse(breaker) => breaker.breaker_trip().follows().then_some(Cause::Fuse),
        EvidenceRecord::Resource(of) => {
            resource::ResourceInputs::from(of.clone()).trips().then_some(Cause::Resource)
        }
        EvidenceRecord::Harm(harm) => {
            verdict_inputs::FailedUserLimit::from(*harm).is_too_much().then_some(Cause::Harm)
        }
        EvidenceRecord::Watchdog(of) => {
            let of = verdict_inputs::VerdictInputs::from(**of);
            if !of.comparison.adds_up() {
                return RecomputedVerdict::Other(Contradiction::Sum);
            }
            of.cause()
        }
    };
    if let Err(why) = inputs.fits(cause, evidence) {
        return RecomputedVerdict::Other(why);
    }
    match found {
        Some(found) if found == cause => RecomputedVerdict::Same,
        Some(follows) => RecomputedVerdict::Other(Contradiction::OtherCause { says: cause, follows }),
        None => RecomputedVerdict::Other(Contradiction::NoCause(cause)),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum EvidenceRecord {
    Watchdog(Box<WatchdogRecord>),
    Fuse(BreakerRecord),
    Harm(HarmRecord),
    Resource(ResourceRecord),
}

impl EvidenceRecord {
    /// Do the figures beside the grounds, for people, agree with the grounds?
    fn fits(&self, cause: Cause, evidence: &Value) -> Result<(), Contradiction> {
        let figures: Vec<(&'static str, Value)> = match self {
            EvidenceRecord::Fuse(of) => vec![("refused_in_a_row", json!(of.in_a_row))],
            EvidenceRecord::Harm(of) => {
                vec![("users_failed", json!(of.users)), ("harm_users_max", json!(of.users_max))]
            }
            EvidenceRecord::Resource(of) => vec![("resource", json!(of.name))],
            EvidenceRecord::Watchdog(of) => {
                let e = of.comparison.e.map(|n| n.0);
                let mut figures = vec![
                    ("cause", json!(cause.label())),
                    ("alpha", json!(of.comparison.alpha.0)),
                    ("e_value", json!(e.iter().sum::<f64>())),
                    ("errors_max", json!(of.errors.limit.0)),
                ];
                figures.extend(E_VALUES.into_iter().zip(e.map(|e| json!(e))));
                figures
            }
        };
        for (name, found) in figures {
            let recorded = &evidence[name];
            if !gate_evidence::same(recorded, &found) {
                return Err(Contradiction::Figure { name, recorded: recorded.clone(), found });
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct WatchdogRecord {
    comparison: ComparisonRecord,
    errors: CeilingRecord,
    latency: CeilingRecord,
    silent: WaitingRecord,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct WaitingRecord {
    silent_ms: u64,
    waiting: u64,
    waiting_long: u64,
    users: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct ComparisonRecord {
    alpha: ExtendedFloat,
    /// By [`crate::stats::engine::Signal::ALL`].
    e: [ExtendedFloat; SIGNALS],
    parts: [[ExtendedFloat; 4]; SIGNALS],
    failing: u64,
    deferred: bool,
    calm: bool,
    worse: TableRecord,
    worse_ms: u64,
    #[serde(default)]
    overwhelming_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct CeilingRecord {
    limit: ExtendedFloat,
    minute: TableRecord,
    recent: TableRecord,
    all: TableRecord,
    current: TableRecord,
    over_ms: u64,
    calm: bool,
    controlled: bool,
}

/// Requests and failures of `new`, then of stable.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct TableRecord([u64; 4]);

#[derive(Clone, Serialize, Deserialize)]
struct BreakerRecord {
    in_a_row: u32,
    /// By server: failed tries, and whether its probes found it down.
    servers: Vec<(u32, bool)>,
    dead_ms: u64,
    stable_ms: u64,
    now_ms: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct HarmRecord {
    users: u64,
    users_max: u64,
}

/// Also used by the gate of a wave.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct ResourceRecord {
    name: String,
    on: String,
    ceiling: Option<ExtendedFloat>,
    times_stable_max: Option<ExtendedFloat>,
    floor: ExtendedFloat,
    in_a_row: usize,
    controlled: bool,
    /// Each: mean and maximum of `new`, then of stable; `null`: unreadable.
    readings: Vec<[Option<[ExtendedFloat; 2]>; 2]>,
}

/// A float that may be outside of JSON's numbers.
#[derive(Clone, Copy)]
struct ExtendedFloat(f64);

impl Serialize for ExtendedFloat {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            n if n.is_finite() => to.serialize_f64(n),
            n if n > 0.0 => to.serialize_str("inf"),
            _ => to.serialize_str("nan"),
        }
    }
}

impl<'de> Deserialize<'de> for ExtendedFloat {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::Number(n) => Ok(ExtendedFloat(n.as_f64().unwrap_or(f64::NAN))),
            Value::String(word) if word == "inf" => Ok(ExtendedFloat(f64::INFINITY)),
            Value::String(word) if word == "nan" => Ok(ExtendedFloat(f64::NAN)),
            _ => Err(serde::de::Error::custom("not a number")),
        }
    }
}

impl From<CeilingSample> for TableRecord {
    fn from(of: CeilingSample) -> Self {
        TableRecord([of.requests.new, of.bad.new, of.requests.stable, of.bad.stable])
    }
}

impl From<TableRecord> for CeilingSample {
    fn from(TableRecord([n1, k1, n0, k0]): TableRecord) -> Self {
        CeilingSample { requests: PerArm::new(n1, n0), bad: PerArm::new(k1, k0) }
    }
}

impl From<verdict_inputs::CeilingState> for CeilingRecord {
    fn from(of: verdict_inputs::CeilingState) -> Self {
        let verdict_inputs::CeilingCrossing { minute, recent, all, current } = of.of;
        let (limit, over_ms, calm, controlled) =
            (ExtendedFloat(of.limit), of.over_ms, of.calm, of.controlled);
        let [minute, recent, all, current] = [minute, recent, all, current].map(TableRecord::from);
        CeilingRecord { limit, minute, recent, all, current, over_ms, calm, controlled }
    }
}

impl From<CeilingRecord> for verdict_inputs::CeilingState {
    fn from(of: CeilingRecord) -> Self {
        let [minute, recent, all, current] =
            [of.minute, of.recent, of.all, of.current].map(CeilingSample::from);
        let (limit, over_ms, calm, controlled) = (of.limit.0, of.over_ms, of.calm, of.controlled);
        let of = verdict_inputs::CeilingCrossing { minute, recent, all, current };
        verdict_inputs::CeilingState { of, limit, over_ms, calm, controlled }
    }
}

impl From<verdict_inputs::ComparisonState> for ComparisonRecord {
    fn from(of: verdict_inputs::ComparisonState) -> Self {
        let verdict_inputs::ComparisonState {
            alpha,
            e,
            parts,
            failing,
            deferred,
            calm,
            worse,
            worse_ms,
            overwhelming_ms,
        } = of;
        let (alpha, e, parts) =
            (ExtendedFloat(alpha), e.map(ExtendedFloat), parts.map(|row| row.map(ExtendedFloat)));
        ComparisonRecord {
            alpha,
            e,
            parts,
            failing,
            deferred,
            calm,
            worse: worse.into(),
            worse_ms,
            overwhelming_ms,
        }
    }
}

impl From<ComparisonRecord> for verdict_inputs::ComparisonState {
    fn from(of: ComparisonRecord) -> Self {
        let ComparisonRecord { alpha, e, parts, failing, deferred, calm, worse, worse_ms, overwhelming_ms } =
            of;
        let (alpha, e, parts) = (alpha.0, e.map(|n| n.0), parts.map(|row| row.map(|n| n.0)));
        verdict_inputs::ComparisonState {
            alpha,
            e,
            parts,
            failing,
            deferred,
            calm,
            worse: worse.into(),
            worse_ms,
            overwhelming_ms,
        }
    }
}

impl From<WatchdogRecord> for verdict_inputs::VerdictInputs {
    fn from(of: WatchdogRecord) -> Self {
        let WatchdogRecord { comparison, errors, latency, silent } = of;
        let WaitingRecord { silent_ms, waiting, waiting_long, users } = silent;
        verdict_inputs::VerdictInputs {
            comparison: comparison.into(),
            errors: errors.into(),
            latency: latency.into(),
            silent: verdict_inputs::WaitingUsers { silent_ms, waiting, waiting_long, users },
        }
    }
}

impl From<verdict_inputs::VerdictInputs> for WatchdogRecord {
    fn from(of: verdict_inputs::VerdictInputs) -> Self {
        let verdict_inputs::WaitingUsers { silent_ms, waiting, waiting_long, users } = of.silent;
        WatchdogRecord {
            comparison: of.comparison.into(),
            errors: of.errors.into(),
            latency: of.latency.into(),
            silent: WaitingRecord { silent_ms, waiting, waiting_long, users },
        }
    }
}

impl BreakerRecord {
    fn breaker_trip(&self) -> BreakerTrip {
        let BreakerRecord { in_a_row, servers, dead_ms, stable_ms, now_ms } = self.clone();
        BreakerTrip { in_a_row, servers, dead_ms, stable_ms, now_ms }
    }
}

impl From<HarmRecord> for verdict_inputs::FailedUserLimit {
    fn from(HarmRecord { users, users_max }: HarmRecord) -> Self {
        verdict_inputs::FailedUserLimit { users, users_max }
    }
}

impl From<&resource::ResourceInputs> for ResourceRecord {
    fn from(of: &resource::ResourceInputs) -> Self {
        let resource::ResourceLimits { ceiling, times_stable_max, floor, in_a_row } = of.limits;
        let used = |of: resource::ArmUse| [ExtendedFloat(of.mean), ExtendedFloat(of.highest)];
        let reading = |of: &resource::ResourceReading| [of.new.map(used), of.stable.map(used)];
        ResourceRecord {
            name: of.name.to_string(),
            on: of.on.label().to_owned(),
            ceiling: ceiling.map(ExtendedFloat),
            times_stable_max: times_stable_max.map(ExtendedFloat),
            floor: ExtendedFloat(floor),
            in_a_row,
            controlled: of.controlled,
            readings: of.readings.iter().map(reading).collect(),
        }
    }
}

impl From<ResourceRecord> for resource::ResourceInputs {
    fn from(of: ResourceRecord) -> Self {
        let used =
            |[mean, highest]: [ExtendedFloat; 2]| resource::ArmUse { mean: mean.0, highest: highest.0 };
        let reading = |[new, stable]: [Option<[ExtendedFloat; 2]>; 2]| resource::ResourceReading {
            new: new.map(used),
            stable: stable.map(used),
        };
        let trips = of.on == resource::ResourceAction::Trip.label();
        resource::ResourceInputs {
            name: of.name.into(),
            on: if trips { resource::ResourceAction::Trip } else { resource::ResourceAction::Hold },
            limits: resource::ResourceLimits {
                ceiling: of.ceiling.map(|n| n.0),
                times_stable_max: of.times_stable_max.map(|n| n.0),
                floor: of.floor.0,
                in_a_row: of.in_a_row,
            },
            controlled: of.controlled,
            readings: of.readings.into_iter().map(reading).collect(),
        }
    }
}

fn written(inputs: &EvidenceRecord) -> Value {
    // Numbers, words and lists of them always serialize.
    serde_json::to_value(inputs).unwrap_or_default()
}

/// The counts behind an open breaker: connections to `new` alone.
fn breaker_counts(breaker_trip: &BreakerTrip, servers: &[Server], since: Duration) -> Value {
    let one = match servers {
        [one] => Some(one.authority()),
        _ => None,
    };
    let refused = ArmCountsSince {
        requests: breaker_trip.in_a_row.into(),
        bad: breaker_trip.in_a_row.into(),
        waiting: 0,
    };
    json!({
        "signal": "fuse",
        "route": null,
        "server": one,
        "one_server": one.is_some(),
        "since": clock::rfc3339(clock::wall_ms(since)),
        "for_ms": clock::now().saturating_sub(since).as_millis() as u64,
        "new": arm_counts(&refused),
        "stable": null,
    })
}

/// The counts of one arm, as the ledger stores them.
pub fn arm_counts(of: &ArmCountsSince) -> Value {
    json!({"requests": of.requests, "bad": of.bad, "waiting": of.waiting})
}

/// Evidence of an open breaker; `new`: the servers of `new`.
pub fn breaker_evidence(breaker_trip: BreakerTrip, new: &[Server], since: Duration) -> Value {
    let decided_by = breaker_counts(&breaker_trip, new, since);
    let names: Vec<String> = new.iter().map(Server::to_string).collect();
    let BreakerTrip { in_a_row, servers, dead_ms, stable_ms, now_ms } = breaker_trip;
    let inputs = EvidenceRecord::Fuse(BreakerRecord { in_a_row, servers, dead_ms, stable_ms, now_ms });
    json!({
        "refused_in_a_row": in_a_row,
        "refused_in_a_row_min": crate::domain::breaker::IN_A_ROW,
        "servers": names,
        "decided_by": decided_by,
        "grounds": written(&inputs),
    })
}

/// Evidence of too many failed users.
pub fn failed_users_evidence(harm: verdict_inputs::FailedUserLimit, requests: u64) -> Value {
    let verdict_inputs::FailedUserLimit { users, users_max } = harm;
    let inputs = written(&EvidenceRecord::Harm(HarmRecord { users, users_max }));
    json!({"users_failed": users, "harm_users_max": users_max, "requests_failed": requests, "grounds": inputs})
}

/// Evidence of a resource that `new` uses too much of.
pub fn of_resource(of: &resource::ResourceInputs, users_failed: u64) -> Value {
    let inputs = written(&EvidenceRecord::Resource(of.into()));
    json!({"resource": &*of.name, "users_failed": users_failed, "grounds": inputs})
}

/// Evidence of a watchdog's verdict; `users_failed`: since the evidence began.
pub fn of_watchdog(of: &JudgementEvidence, cause: Cause, users_failed: u64) -> Value {
    let ms = |d: Option<std::time::Duration>| d.map(|d| d.as_secs_f64() * 1e3);
    let arm = |requests: u64, bad: u64, p99: Option<std::time::Duration>| json!({"requests": requests, "failures": bad, "p99_ms": ms(p99)});
    let inputs = WatchdogRecord::from(of.inputs);
    let mut all = json!({
        "cause": cause.label(),
        "window_s": of.window.as_secs(),
        "new": arm(of.minute.requests.new, of.minute.bad.new, of.p99_new),
        "stable": arm(of.minute.requests.stable, of.minute.bad.stable, of.p99_stable),
        "last_10s": {
            "new": {"requests": of.recent.requests.new, "failures": of.recent.bad.new},
            "stable": {"requests": of.recent.requests.stable, "failures": of.recent.bad.stable},
        },
        "slow": {"new": of.slow.bad.new, "of_new": of.slow.requests.new, "stable": of.slow.bad.stable, "of_stable": of.slow.requests.stable},
        "errors_max": of.errors_max,
        "latency_p99_max_ms": ms(Some(of.latency_p99_max)),
        "alpha": of.alpha,
        "e_value": of.e_value,
        "e_value_notice": of.e_notice,
        "blind_below": of.detection_limit.map(|b| b.below).filter(|below| below.is_finite()),
        "blind_requests": of.detection_limit.map(|b| b.requests),
        "client_errors": {"new": of.client_errors.new, "stable": of.client_errors.stable},
        "rows": of.rows.iter().map(|(row, wealth)| json!({"row": row, "wealth": wealth})).collect::<Vec<_>>(),
        "users_clean": {"new": of.clean.new, "stable": of.clean.stable},
        "users_failed": users_failed,
        "share": of.share,
        "grounds": written(&EvidenceRecord::Watchdog(Box::new(inputs))),
    });
    E_VALUES.into_iter().zip(of.e).for_each(|(name, e)| all[name] = json!(e));
    all
}

/// The JSON keys for the E of each of [`crate::stats::engine::Signal::ALL`].
const E_VALUES: [&str; SIGNALS] = [
    "e_value_errors",
    "e_value_client_errors",
    "e_value_latency",
    "e_value_redirects",
    "e_value_duration",
    "e_value_empty",
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table() -> impl Strategy<Value = CeilingSample> {
        (0u64..400, 0u64..200, 0u64..4000, 0u64..400).prop_map(|(n1, k1, n0, k0)| CeilingSample {
            requests: PerArm::new(n1 + k1, n0 + k0),
            bad: PerArm::new(k1, k0),
        })
    }

    fn ceiling() -> impl Strategy<Value = verdict_inputs::CeilingState> {
        (table(), table(), table(), table(), 0.0f64..0.5, 0u64..60_000, any::<bool>(), any::<bool>())
            .prop_map(|(minute, recent, all, current, limit, over_ms, calm, controlled)| {
                verdict_inputs::CeilingState {
                    of: verdict_inputs::CeilingCrossing { minute, recent, all, current },
                    limit,
                    over_ms,
                    calm,
                    controlled,
                }
            })
    }

    fn any_grounds() -> impl Strategy<Value = verdict_inputs::VerdictInputs> {
        let part =
            || prop_oneof![3 => 0.0f64..2e3, 1 => any::<f64>().prop_map(f64::abs), 1 => Just(f64::INFINITY)];
        let parts = proptest::array::uniform6(proptest::array::uniform4(part()));
        (
            parts,
            1e-9f64..0.1,
            0u64..9,
            any::<bool>(),
            any::<bool>(),
            table(),
            (0u64..20_000, 0u64..120_000, 0u64..9_000, 0u64..9),
            ceiling(),
            ceiling(),
        )
            .prop_map(|(parts, alpha, failing, deferred, calm, worse, spells, errors, latency)| {
                let (worse_ms, overwhelming_ms, silent_ms, waiting) = spells;
                let e = parts.map(|row| row.iter().sum());
                let comparison = verdict_inputs::ComparisonState {
                    alpha,
                    e,
                    parts,
                    failing,
                    deferred,
                    calm,
                    worse,
                    worse_ms,
                    overwhelming_ms,
                };
                let silent =
                    verdict_inputs::WaitingUsers { silent_ms, waiting, waiting_long: 0, users: waiting };
                verdict_inputs::VerdictInputs { comparison, errors, latency, silent }
            })
    }

    #[test]
    fn the_counts_of_a_breaker_name_the_server_if_there_is_one() {
        let server =
            |host: &str| Server { scheme: crate::domain::config::Scheme::Http, host: host.into(), port: 1 };
        let trip = BreakerTrip { in_a_row: 5, ..BreakerTrip::default() };
        let one = breaker_counts(&trip, &[server("a")], Duration::ZERO);
        assert_eq!(
            (&one["server"], &one["new"]["bad"], &one["stable"]),
            (&json!("a:1"), &json!(5), &Value::Null)
        );
        let two = breaker_counts(&trip, &[server("a"), server("b")], Duration::ZERO);
        assert_eq!(two["one_server"], false);
    }

    proptest! {
        #[test]
        fn the_verdict_is_found_again_from_what_is_written_and_no_other(of in any_grounds()) {
            prop_assume!(!of.comparison.e.iter().any(|e| e.is_nan()));
            let inputs = WatchdogRecord::from(of);
            let e = of.comparison.e;
            let mut text = json!({
                "grounds": written(&EvidenceRecord::Watchdog(Box::new(inputs))), "alpha": of.comparison.alpha,
                "e_value": of.comparison.e_value(), "errors_max": of.errors.limit,
            });
            E_VALUES.into_iter().zip(e).for_each(|(name, e)| text[name] = json!(e));
            let mut read: Value = serde_json::from_str(&text.to_string()).unwrap();
            for cause in Cause::ALL.into_iter().filter(|c| *c != Cause::Manual) {
                read["cause"] = json!(cause.label());
                let found = again(Some(cause.label()), Some(METHOD), &read);
                prop_assert_eq!(found == RecomputedVerdict::Same, of.cause() == Some(cause), "{:?} for {:?}", found, of);
            }
        }
    }

    #[test]
    fn what_was_recorded_by_an_earlier_version_is_not_guessed_at() {
        assert_eq!(again(Some("errors"), None, &json!({"e_value": 2000.0})), RecomputedVerdict::Unknown);
        assert_eq!(again(None, None, &Value::Null), RecomputedVerdict::None);
        assert_eq!(again(Some("manual"), None, &Value::Null), RecomputedVerdict::ByHand);
        assert!(matches!(again(Some("mood"), None, &Value::Null), RecomputedVerdict::Other(_)));
        assert!(matches!(
            again(Some("errors"), Some(METHOD), &json!({"grounds": {"watchdog": 7}})),
            RecomputedVerdict::Other(_)
        ));
    }

    #[test]
    fn a_resource_that_new_uses_too_much_of_is_found_again() {
        use crate::domain::resource::tests::inputs;
        let over = inputs(&[(11.0, 0.1), (11.5, 0.1), (12.0, 1.0 / 3.0)]);
        let read = |of: &resource::ResourceInputs| {
            let text = of_resource(of, 3).to_string();
            again(Some("resource"), Some(METHOD), &serde_json::from_str(&text).unwrap())
        };
        assert_eq!(read(&over), RecomputedVerdict::Same);
        assert!(matches!(
            read(&resource::ResourceInputs { on: resource::ResourceAction::Hold, ..over.clone() }),
            RecomputedVerdict::Other(_)
        ));
        assert!(matches!(
            read(&inputs(&[(11.0, 1.0), (f64::NAN, 1.0), (11.0, 1.0)])),
            RecomputedVerdict::Other(_)
        ));
        assert!(matches!(read(&inputs(&[(11.0, 1.0); 2])), RecomputedVerdict::Other(_)));
    }

    #[test]
    fn a_fuse_and_too_much_harm_are_found_again() {
        let breaker_trip = BreakerTrip {
            in_a_row: 5,
            servers: vec![(5, false), (0, true)],
            dead_ms: 9,
            stable_ms: 9,
            now_ms: 10,
        };
        assert_eq!(
            again(Some("fuse"), Some(METHOD), &breaker_evidence(breaker_trip.clone(), &[], Duration::ZERO)),
            RecomputedVerdict::Same
        );
        assert!(matches!(
            again(
                Some("fuse"),
                Some(METHOD),
                &breaker_evidence(BreakerTrip { stable_ms: 8, ..breaker_trip }, &[], Duration::ZERO)
            ),
            RecomputedVerdict::Other(_)
        ));
        let harm = |users| failed_users_evidence(verdict_inputs::FailedUserLimit { users, users_max: 3 }, 9);
        assert_eq!(again(Some("harm"), Some(METHOD), &harm(4)), RecomputedVerdict::Same);
        assert!(matches!(again(Some("harm"), Some(METHOD), &harm(3)), RecomputedVerdict::Other(_)));
    }
}
