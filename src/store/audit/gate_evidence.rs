//! The numbers that gates were judged on, as the ledger stores them, and the verdicts recomputed
//! from them.
//!
//! ```text
//! evidence.gates = { "decision": "open", "input": { … every number … },
//!                    "verdicts": [ { "name", "verdict", "on": { … numbers, codes … },
//!                                    "detail" }, … ] }
//! ```
//!
//! Invariants: [`recompute`] uses only the entry. It compares names, verdicts and figures (`on`),
//! never sentences. A decision that does not follow from its input is an error, never a warning.
//! The domain has no JSON: it is written and read here.

use super::evidence::ResourceRecord;
use crate::domain::gates::figures::{GateFigure, GateFigures, figures};
use crate::domain::gates::{
    self, Gate, GateInput, HealthyServers, Margins, OpenHoursState, PromotionState, RouteEvidence,
    TrialReading, WatchdogReport, WaveDetectionLimit, WaveEvidence,
};
use crate::domain::rollout::wave_controller::WaveStatus;
use crate::domain::verdict::WatchdogState;
use crate::domain::wave::Promotion;
use crate::stats::engine::DetectionLimit;
use crate::stats::hypergeometric_bet::PerArm;
use crate::store::shared_error::SharedError;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateDecision {
    Open,
    Finish,
    Hold,
    Promote,
}

impl GateDecision {
    const ALL: [GateDecision; 4] =
        [GateDecision::Open, GateDecision::Finish, GateDecision::Hold, GateDecision::Promote];

    pub fn label(self) -> &'static str {
        match self {
            GateDecision::Open => "open",
            GateDecision::Finish => "finish",
            GateDecision::Hold => "hold",
            GateDecision::Promote => "promote",
        }
    }

    /// Do these verdicts allow the decision? A person may open a wave against any verdict.
    fn follows(self, gates: &[Gate]) -> bool {
        match self {
            GateDecision::Open | GateDecision::Finish => gates::passes(gates),
            GateDecision::Hold => !gates::passes(gates),
            GateDecision::Promote => true,
        }
    }
}

pub fn written(wave_status: &WaveStatus, decision: GateDecision) -> Value {
    json!({
        "decision": decision.label(),
        "input": wave_status.input.as_ref().map(input),
        "verdicts": wave_status.gates.iter().map(|gate| verdict(gate, wave_status.input.as_ref())).collect::<Vec<_>>(),
    })
}

/// The decision and gates recomputed from an entry's evidence (its `gates`).
#[derive(Clone, PartialEq, Debug)]
pub struct Recomputed {
    pub decision: GateDecision,
    pub gates: Vec<Gate>,
}

/// Why the evidence of an entry does not have the form of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedEvidence {
    #[error("`{field}` is missing, or not what it should be")]
    Field { field: &'static str },
    #[error("`{field}` is missing, or not what it should be")]
    List { field: &'static str, source: SharedError<serde_json::Error> },
    #[error("`verdicts` is missing")]
    NoVerdicts,
    #[error("`{found}` is no {wanted}")]
    Word { field: &'static str, found: String, wanted: &'static str },
}

/// Why the verdicts of an entry do not follow from its numbers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecomputeError {
    #[error(transparent)]
    Malformed(#[from] MalformedEvidence),
    #[error("{recorded} verdicts are recorded, the numbers give {found}")]
    Count { recorded: usize, found: usize },
    #[error("a gate is recorded as `{recorded}`, the numbers give `{found}`")]
    Name { recorded: String, found: String },
    #[error("the gate `{gate}` is recorded as {recorded}, the numbers give {found}")]
    Verdict { gate: String, recorded: String, found: &'static str },
    #[error("the gate `{gate}`: {source}")]
    Figures { gate: String, source: FiguresDiffer },
    #[error("the decision `{}` does not follow from its verdicts", .0.label())]
    Decision(GateDecision),
}

/// How the recorded figures of a gate differ from those that the numbers give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FiguresDiffer {
    #[error("{recorded} figures are recorded, the numbers give {found}")]
    Count { recorded: usize, found: usize },
    #[error("`{name}` is recorded as {recorded}, the numbers give {found}")]
    Value { name: String, recorded: Value, found: Value },
}

/// Recomputes the verdicts in the evidence of a ledger entry of kind `wave` or `promote`.
/// Figures are compared where they are recorded: entries without a method number have none.
///
/// # Errors
/// A missing or unreadable value; a verdict or figure that the numbers do not give; a decision that
/// does not follow from them.
pub fn recompute(evidence: &Value) -> Result<Recomputed, RecomputeError> {
    let of = &evidence["gates"];
    let decision = word(of, "decision", "decision", |label| {
        GateDecision::ALL.into_iter().find(|decision| decision.label() == label)
    })?;
    let recorded = of["verdicts"].as_array().ok_or(MalformedEvidence::NoVerdicts)?;
    // A person may open a wave before any gate was judged.
    if decision == GateDecision::Promote && of["input"].is_null() && recorded.is_empty() {
        return Ok(Recomputed { decision, gates: vec![] });
    }
    let input = read(&of["input"])?;
    let gates = gates::judge(&input);
    if recorded.len() != gates.len() {
        return Err(RecomputeError::Count { recorded: recorded.len(), found: gates.len() });
    }
    for (gate, recorded) in gates.iter().zip(recorded) {
        let (name, found) = (&*gate.name, gate.verdict.label());
        let recorded_name = text(recorded, "name")?;
        if recorded_name != name {
            return Err(RecomputeError::Name { recorded: recorded_name, found: name.to_owned() });
        }
        let recorded_verdict = text(recorded, "verdict")?;
        if recorded_verdict != found {
            let (gate, recorded) = (name.to_owned(), recorded_verdict);
            return Err(RecomputeError::Verdict { gate, recorded, found });
        }
        if let Some(on) = recorded.get("on") {
            same_figures(on, &figures(name, &input))
                .map_err(|source| RecomputeError::Figures { gate: name.to_owned(), source })?;
        }
    }
    if !decision.follows(&gates) {
        return Err(RecomputeError::Decision(decision));
    }
    Ok(Recomputed { decision, gates })
}

fn verdict(of: &Gate, input: Option<&GateInput>) -> Value {
    let on: serde_json::Map<String, Value> = input.map_or_else(Default::default, |input| {
        figures(&of.name, input)
            .into_iter()
            .map(|(name, figure)| (name.into_owned(), figure_json(figure)))
            .collect()
    });
    json!({"name": &*of.name, "verdict": of.verdict.label(), "on": on, "detail": of.detail})
}

/// JSON has no infinity: it becomes `null`.
fn figure_json(figure: GateFigure) -> Value {
    match figure {
        GateFigure::Number(number) => json!(number),
        GateFigure::Code(code) => json!(code),
    }
}

/// Figures are counts, sums and quotients, which every machine computes alike: compared to the last
/// bit.
pub(super) fn same(recorded: &Value, found: &Value) -> bool {
    match (recorded.as_f64(), found.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => recorded == found,
    }
}

fn same_figures(recorded: &Value, found: &GateFigures) -> Result<(), FiguresDiffer> {
    let count = recorded.as_object().map_or(0, serde_json::Map::len);
    if count != found.len() {
        return Err(FiguresDiffer::Count { recorded: count, found: found.len() });
    }
    for (name, figure) in found {
        let (recorded, found) = (&recorded[&**name], figure_json(*figure));
        if !same(recorded, &found) {
            let (name, recorded) = (name.to_string(), recorded.clone());
            return Err(FiguresDiffer::Value { name, recorded, found });
        }
    }
    Ok(())
}

fn pair(of: PerArm) -> Value {
    json!({"new": of.new, "stable": of.stable})
}

fn input(of: &GateInput) -> Value {
    json!({
        "proof": of.wave_evidence.as_ref().map(wave_evidence),
        "door": of.promotion.as_ref().map(|d| json!({
            "open": match d.promotion { Promotion::Auto => "auto", Promotion::ByHand => "by-hand" },
            "hours": d.hours.as_ref().map(|h| json!({"text": h.text, "open": h.open, "next": h.next})),
        })),
        "durable": of.durable,
        "barred_by": of.barred_by,
    })
}

fn wave_evidence(of: &WaveEvidence) -> Value {
    let mut all = json!({
        "controlled": of.controlled,
        "baked_us": of.baked.as_micros() as u64,
        "bake_us": of.bake.as_micros() as u64,
        "requests_min": of.requests_min,
        "users_min": of.users_min,
        "margin_errors": of.margins.errors,
        "margin_latency": of.margins.latency,
        "margin_latency_tail": of.margins.tail,
        "share": of.share,
        "requests": pair(of.reading.requests),
        "users": pair(of.reading.users),
        "share_z": of.reading.share_z,
        "critical": of.critical.iter().map(critical).collect::<Vec<_>>(),
        "servers": pair(of.servers.all),
        "servers_healthy": pair(of.servers.healthy),
        "resources": of.resources.iter().map(ResourceRecord::from).collect::<Vec<_>>(),
        "watchdog": {
            "state": of.watchdog.state.map(WatchdogState::label),
            "passes": of.watchdog.passes,
            "reason": of.watchdog.reason,
            "e_value": of.watchdog.e_value,
            "e_notice": of.watchdog.e_notice,
            "alpha": of.watchdog.alpha,
            "sight": of.watchdog.detection_limit.map(detection_limit),
        },
    });
    reading(&of.reading, &mut all);
    all
}

/// The figures that the margin gates are judged from.
fn reading(r: &TrialReading, to: &mut Value) {
    for (name, of) in [("compared", r.compared), ("failed", r.failed), ("timed", r.timed), ("slow", r.slow)] {
        to[name] = pair(of);
    }
    let numbers = [
        ("e_errors", r.e_errors),
        ("e_latency", r.e_body),
        ("e_latency_tail", r.e_tail),
        ("design_effect_errors", r.design_errors),
        ("design_effect_latency", r.design_latency),
        ("design_effect_latency_tail", r.design_tail),
        ("spread_latency", r.spread_latency),
    ];
    for (name, number) in numbers {
        to[name] = json!(number);
    }
}

fn read_reading(of: &Value) -> Result<TrialReading, MalformedEvidence> {
    Ok(TrialReading {
        compared: both(of, "compared")?,
        failed: both(of, "failed")?,
        timed: both(of, "timed")?,
        slow: both(of, "slow")?,
        e_errors: number(of, "e_errors")?,
        e_body: number(of, "e_latency")?,
        e_tail: number(of, "e_latency_tail")?,
        design_errors: number(of, "design_effect_errors")?,
        design_latency: number(of, "design_effect_latency")?,
        design_tail: number(of, "design_effect_latency_tail")?,
        spread_latency: number(of, "spread_latency")?,
        ..TrialReading::default()
    })
}

/// For a route, only its margins are judged.
fn critical(of: &RouteEvidence) -> Value {
    let mut all = json!({"route": &*of.name});
    reading(&of.reading, &mut all);
    all
}

fn read_critical(of: &Value) -> Result<RouteEvidence, MalformedEvidence> {
    Ok(RouteEvidence { name: text(of, "route")?.into(), reading: read_reading(of)? })
}

/// JSON has no infinity: an unbounded unseen effect becomes `null`.
fn detection_limit(of: WaveDetectionLimit) -> Value {
    json!({
        "latency_notice": of.latency_notice,
        "margin": of.margin,
        "requests": of.detection_limit.map(|b| b.requests),
        "below": of.detection_limit.map(|b| b.below).filter(|below| below.is_finite()),
    })
}

fn read_sight(of: &Value) -> Result<WaveDetectionLimit, MalformedEvidence> {
    let below = match &of["below"] {
        Value::Null => f64::INFINITY,
        _ => number(of, "below")?,
    };
    let detection_limit = match &of["requests"] {
        Value::Null => None,
        _ => Some(DetectionLimit { below, requests: whole(of, "requests")? }),
    };
    Ok(WaveDetectionLimit {
        detection_limit,
        latency_notice: number(of, "latency_notice")?,
        margin: number(of, "margin")?,
    })
}

fn read(of: &Value) -> Result<GateInput, MalformedEvidence> {
    let there = |key: &str| Some(&of[key]).filter(|v| !v.is_null());
    Ok(GateInput {
        wave_evidence: there("proof").map(read_proof).transpose()?,
        promotion: there("door").map(read_door).transpose()?,
        durable: boolean(of, "durable")?,
        barred_by: optional(of, "barred_by"),
    })
}

fn read_door(of: &Value) -> Result<PromotionState, MalformedEvidence> {
    let promotion = word(of, "open", "way to open", |word| match word {
        "auto" => Some(Promotion::Auto),
        "by-hand" => Some(Promotion::ByHand),
        _ => None,
    })?;
    let hours = match &of["hours"] {
        Value::Null => None,
        h => Some(OpenHoursState {
            text: text(h, "text")?,
            open: boolean(h, "open")?,
            next: optional(h, "next"),
        }),
    };
    Ok(PromotionState { promotion, hours })
}

fn read_proof(of: &Value) -> Result<WaveEvidence, MalformedEvidence> {
    let dog = &of["watchdog"];
    // Earlier versions wrote none.
    let resources = match &of["resources"] {
        Value::Null => vec![],
        list => Vec::<ResourceRecord>::deserialize(list)
            .map_err(|error| MalformedEvidence::List { field: "resources", source: error.into() })?,
    };
    let state = match &dog["state"] {
        Value::Null => None,
        _ => Some(word(dog, "state", "state", |label| {
            WatchdogState::ALL.into_iter().find(|s| s.label() == label)
        })?),
    };
    Ok(WaveEvidence {
        controlled: boolean(of, "controlled")?,
        baked: Duration::from_micros(whole(of, "baked_us")?),
        bake: Duration::from_micros(whole(of, "bake_us")?),
        requests_min: whole(of, "requests_min")?,
        users_min: whole(of, "users_min")?,
        margins: Margins {
            errors: number(of, "margin_errors")?,
            latency: number(of, "margin_latency")?,
            tail: number(of, "margin_latency_tail")?,
        },
        share: number(of, "share")?,
        reading: TrialReading {
            requests: both(of, "requests")?,
            users: both(of, "users")?,
            share_z: number(of, "share_z")?,
            ..read_reading(of)?
        },
        critical: match &of["critical"] {
            Value::Array(routes) => routes.iter().map(read_critical).collect::<Result<_, _>>()?,
            _ => return Err(missing("critical")),
        },
        servers: HealthyServers { all: both(of, "servers")?, healthy: both(of, "servers_healthy")? },
        watchdog: WatchdogReport {
            state,
            passes: boolean(dog, "passes")?,
            reason: text(dog, "reason")?,
            e_value: number(dog, "e_value")?,
            e_notice: number(dog, "e_notice")?,
            alpha: number(dog, "alpha")?,
            detection_limit: Some(&dog["sight"]).filter(|v| !v.is_null()).map(read_sight).transpose()?,
        },
        resources: resources.into_iter().map(Into::into).collect(),
    })
}

fn missing(field: &'static str) -> MalformedEvidence {
    MalformedEvidence::Field { field }
}

/// The meaning of a word; `wanted`: what `of` finds for it.
fn word<T>(
    json: &Value,
    field: &'static str,
    wanted: &'static str,
    of: impl Fn(&str) -> Option<T>,
) -> Result<T, MalformedEvidence> {
    let found = text(json, field)?;
    of(&found).ok_or(MalformedEvidence::Word { field, found, wanted })
}

fn number(of: &Value, key: &'static str) -> Result<f64, MalformedEvidence> {
    of[key].as_f64().ok_or_else(|| missing(key))
}

fn whole(of: &Value, key: &'static str) -> Result<u64, MalformedEvidence> {
    of[key].as_u64().ok_or_else(|| missing(key))
}

fn boolean(of: &Value, key: &'static str) -> Result<bool, MalformedEvidence> {
    of[key].as_bool().ok_or_else(|| missing(key))
}

fn text(of: &Value, key: &'static str) -> Result<String, MalformedEvidence> {
    optional(of, key).ok_or_else(|| missing(key))
}

fn optional(of: &Value, key: &str) -> Option<String> {
    of[key].as_str().map(str::to_owned)
}

fn both(of: &Value, key: &'static str) -> Result<PerArm, MalformedEvidence> {
    Ok(PerArm::new(whole(&of[key], "new")?, whole(&of[key], "stable")?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::gates::tests::{good, input as facts, silent};
    use crate::domain::rollout::wave_controller::{WaveAction, WaveController, WavePosition};
    use crate::domain::wave::tests::waves;
    use proptest::prelude::*;

    fn wave_status(input: GateInput) -> WaveStatus {
        let plan = waves("20%:10m 100%:10m");
        let standing = WavePosition {
            stage: 1,
            waves: &plan,
            present: Some(0),
            finished: false,
            held: false,
            paused: false,
            watched: Duration::from_secs(3600),
            before: Default::default(),
        };
        WaveController::new(1, Duration::ZERO).look(&standing, Some(input), Duration::from_secs(3600))
    }

    /// The entry as the ledger stores it, after serialization to text.
    fn entry(wave_status: &WaveStatus, decision: GateDecision) -> Value {
        let text = json!({"gates": written(wave_status, decision)}).to_string();
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_verdict_is_found_again_from_what_the_ledger_keeps() {
        let passed = wave_status(facts(Some(good())));
        assert_eq!(passed.act, WaveAction::Open);
        let found = recompute(&entry(&passed, GateDecision::Open)).unwrap();
        assert_eq!((found.decision, found.gates), (GateDecision::Open, passed.gates.clone()));
        let held = wave_status(facts(Some(silent())));
        assert_eq!(recompute(&entry(&held, GateDecision::Hold)).unwrap().gates, held.gates);
        assert!(recompute(&entry(&held, GateDecision::Promote)).is_ok(), "a person may");
        assert!(
            recompute(&entry(&held, GateDecision::Open)).unwrap_err().to_string().contains("does not follow")
        );
        assert!(recompute(&entry(&passed, GateDecision::Hold)).is_err());
        let hours =
            OpenHoursState { text: "Mon 09:00-16:00 UTC".into(), open: false, next: Some("Mon".into()) };
        let promotion = Some(PromotionState { promotion: Promotion::ByHand, hours: Some(hours) });
        let first = wave_status(GateInput {
            promotion,
            wave_evidence: None,
            durable: false,
            barred_by: Some("b".into()),
        });
        assert!(recompute(&entry(&first, GateDecision::Hold)).is_ok());
    }

    #[test]
    fn a_changed_number_is_found_where_it_changes_a_verdict() {
        let resources = vec![crate::domain::resource::tests::inputs(&[(1.0, 1.0 / 3.0 + 0.5); 3])];
        let mut wave_evidence = WaveEvidence { resources, ..good() };
        let detection_limit = Some(DetectionLimit { below: 0.01, requests: 8192 });
        wave_evidence.watchdog.detection_limit =
            Some(WaveDetectionLimit { detection_limit, latency_notice: 0.03, margin: 0.1 });
        let entry = entry(&wave_status(facts(Some(wave_evidence))), GateDecision::Open);
        for (path, value) in [
            ("/gates/input/proof/e_errors", json!(19.0)),
            ("/gates/input/proof/failed/new", json!(21)),
            ("/gates/input/proof/users/new", json!(4)),
            ("/gates/input/proof/servers_healthy/stable", json!(2)),
            ("/gates/input/proof/watchdog/e_value", json!(11.0)),
            ("/gates/input/proof/watchdog/sight/below", json!(0.04)),
            ("/gates/input/proof/watchdog/sight/below", json!(null)),
            ("/gates/input/durable", json!(false)),
            ("/gates/input/proof/resources/0/readings/2/0/0", json!(9.0)),
            ("/gates/input/proof/requests", json!(null)),
            ("/gates/verdicts/3/verdict", json!("fail")),
            ("/gates/verdicts/3/name", json!("error")),
            ("/gates/verdicts/3/on/e", json!(41)),
            ("/gates/decision", json!("hold")),
            ("/gates/decision", json!("perhaps")),
        ] {
            let mut forged = entry.clone();
            *forged.pointer_mut(path).unwrap_or_else(|| panic!("no {path}")) = value;
            assert!(recompute(&forged).is_err(), "{path}");
        }
    }

    /// The path of every number and code in `value`.
    fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(k, v)| leaves(v, &format!("{path}/{k}"), found))
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(i, v)| leaves(v, &format!("{path}/{i}"), found));
            }
            Value::Null => {}
            _ => found.push(path.to_owned()),
        }
    }

    #[test]
    fn sentences_may_be_reworded_and_every_number_name_and_verdict_is_compared() {
        let resources = vec![crate::domain::resource::tests::inputs(&[(1.0, 1.0 / 3.0 + 0.5); 3])];
        let mut wave_evidence = WaveEvidence { resources, ..good() };
        wave_evidence.watchdog.detection_limit = Some(WaveDetectionLimit {
            detection_limit: Some(DetectionLimit { below: 0.01, requests: 8192 }),
            latency_notice: 0.03,
            margin: 0.1,
        });
        wave_evidence.critical = vec![RouteEvidence { name: "refunds".into(), reading: good().reading }];
        let hours = OpenHoursState { text: "Mon 09:00-16:00 UTC".into(), open: true, next: None };
        let promotion = Some(PromotionState { promotion: Promotion::Auto, hours: Some(hours) });
        let whole =
            entry(&wave_status(GateInput { promotion, ..facts(Some(wave_evidence)) }), GateDecision::Open);
        let mut paths = vec![];
        leaves(&whole, "", &mut paths);
        assert!(paths.len() > 100, "{}", paths.len());
        for path in paths {
            let mut changed = whole.clone();
            let leaf = changed.pointer_mut(&path).unwrap();
            let sentence = ["/detail", "/reason", "/text"].iter().any(|end| path.ends_with(end));
            // Actions of a resource other than holding waves decide nothing here.
            let indifferent = path.ends_with("/resources/0/on");
            *leaf = match leaf.clone() {
                Value::String(_) if sentence => json!("in other words"),
                Value::String(word) => json!(format!("{word}x")),
                Value::Bool(holds) => json!(!holds),
                Value::Number(n) if n.is_u64() => json!(n.as_u64().unwrap() + 1),
                Value::Number(n) => json!(n.as_f64().unwrap() * 1.000_001 + 1e-6),
                other => panic!("{path}: {other}"),
            };
            assert_eq!(recompute(&changed).is_ok(), sentence || indifferent, "{path}");
        }
    }

    proptest! {
        /// Doubles survive serialization to text well enough for the same verdicts.
        #[test]
        fn any_numbers_give_the_same_verdicts_again(e in 0.0f64..1e6, f in 0.0f64..1e6, z in -9.0f64..9.0, share in 1e-6f64..1.0, n in 0u64..1 << 40) {
            let mut wave_evidence = WaveEvidence { baked: Duration::from_nanos(n), ..good() };
            let r = &mut wave_evidence.reading;
            (r.e_errors, r.e_body, r.e_tail, r.share_z, r.compared.new) = (e, f, e / 7.0, z, n);
            (r.design_errors, r.design_latency, wave_evidence.share, wave_evidence.watchdog.e_value) = (1.0 + f, 1.0 + e, share, e / 3.0);
            let wave_status = wave_status(facts(Some(wave_evidence)));
            let decision = if gates::passes(&wave_status.gates) { GateDecision::Open } else { GateDecision::Hold };
            prop_assert_eq!(recompute(&entry(&wave_status, decision)).map(|r| r.gates), Ok(wave_status.gates.clone()));
        }
    }
}
