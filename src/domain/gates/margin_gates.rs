//! The margin gates: failures, the body of latency, its tail; for all requests of a release and for
//! each critical route.
//! Each gate includes an estimate of the data that it still needs, and of the time.
//!
//! Invariants: a gate passes by its e-value alone; estimates are for people and decide nothing.

use super::{
    FAILURES_TOLD, Gate, GateNeeds, GateVerdict, Margins, TrialReading, WaveEvidence, ratio, rounded,
};
use crate::domain::describe::gates::{self as words, More, NO_CONTROL};
use crate::domain::gates::sample_size::UsualStable;
use crate::stats::noninferiority::{BETA, RATIO_MAX};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// The evidence of a critical route.
#[derive(Clone, PartialEq, Debug)]
pub struct RouteEvidence {
    pub name: Arc<str>,
    pub reading: TrialReading,
}

pub const ERRORS: &str = "errors";
pub const LATENCY: &str = "latency";
pub const TAIL: &str = "latency_tail";
/// The gates that each critical route also has: `errors:refunds`.
pub const BY_ROUTE: [&str; 3] = [ERRORS, LATENCY, TAIL];

/// The grounds of a margin gate.
struct MarginInput<'p> {
    route: Option<&'p str>,
    controlled: bool,
    margins: Margins,
    share: f64,
    /// Duration of the wave so far, for estimates of time.
    baked: Duration,
    reading: &'p TrialReading,
}

/// The gates of all requests.
pub fn all(wave_evidence: &WaveEvidence) -> [Gate; 3] {
    gates(&of(wave_evidence, None, &wave_evidence.reading))
}

/// The gates of each critical route.
pub fn critical(wave_evidence: &WaveEvidence) -> impl Iterator<Item = Gate> {
    wave_evidence
        .critical
        .iter()
        .flat_map(|route| gates(&of(wave_evidence, Some(&route.name), &route.reading)))
}

fn of<'p>(
    wave_evidence: &'p WaveEvidence,
    route: Option<&'p str>,
    reading: &'p TrialReading,
) -> MarginInput<'p> {
    let WaveEvidence { controlled, margins, share, baked, .. } = *wave_evidence;
    MarginInput { route, controlled, margins, share, baked, reading }
}

fn gates(of: &MarginInput<'_>) -> [Gate; 3] {
    [errors(of), latency(of), tail(of)]
}

impl MarginInput<'_> {
    fn gate(
        &self,
        name: &'static str,
        verdict: GateVerdict,
        detail: String,
        needs: Option<GateNeeds>,
    ) -> Gate {
        let name = match self.route {
            Some(route) => Cow::Owned(format!("{name}:{route}")),
            None => Cow::Borrowed(name),
        };
        Gate { name, verdict, detail, needs }
    }

    /// A gate that is not decided yet, and what it needs; `design`: requests that count as one.
    fn waits(&self, name: &'static str, numbers: String, needed: f64, design: f64, n: u64, e: f64) -> Gate {
        let needs = self.needs(needed * design, n, e);
        let more = needs.map_or(More::NoSign, More::Needs);
        let repeats = (design >= 1.5).then_some(More::Repeats(design));
        let more: String = [more].into_iter().chain(repeats).map(More::sentence).collect();
        self.gate(name, GateVerdict::Inconclusive, numbers + &more, needs)
    }

    fn uncontrolled(&self, name: &'static str) -> Option<Gate> {
        (!self.controlled).then(|| self.gate(name, GateVerdict::Pass, NO_CONTROL.into(), None))
    }

    /// Independent requests of `new` that each gate needs.
    fn needed(&self) -> [f64; 3] {
        UsualStable::of(self.reading).independent(&self.margins, self.share)
    }

    /// The missing requests, if `needed` are expected, `n` have come and the present value is `e`.
    /// `None`: what has come does not point to a pass.
    fn needs(&self, needed: f64, n: u64, e: f64) -> Option<GateNeeds> {
        let n = n as f64;
        let more = match () {
            () if n < needed => needed - n,
            // More than expected have come: extrapolates the growth of E so far.
            () if e > 1.5 => n * ((1.0 / BETA).ln() / e.ln() - 1.0),
            () => return None,
        };
        // Latency is compared later than failures, while requests already come.
        let came = n.max(self.reading.compared.new as f64);
        let per_second = came / self.baked.as_secs_f64().max(1e-3);
        let time = (came > 0.0 && self.baked > Duration::ZERO)
            .then(|| Duration::from_secs_f64((more / per_second).clamp(0.0, 1e9)));
        Some(GateNeeds { requests: rounded(more), time })
    }
}

fn errors(of: &MarginInput<'_>) -> Gate {
    if let Some(gate) = of.uncontrolled(ERRORS) {
        return gate;
    }
    let (n, bad, e) = (of.reading.compared, of.reading.failed, of.reading.e_errors);
    let [new, stable] = [ratio(bad.new, n.new), ratio(bad.stable, n.stable)];
    let limit = (stable + of.margins.errors).max(RATIO_MAX * stable);
    let detail = words::errors(of.reading, &of.margins);
    let [needed, ..] = of.needed();
    if e >= 1.0 / BETA {
        return of.gate(ERRORS, GateVerdict::Pass, detail, None);
    }
    if bad.new >= FAILURES_TOLD && new > limit && n.new as f64 >= needed.min(5_000.0) {
        return of.gate(ERRORS, GateVerdict::Fail, detail + &More::FailsTooOften.sentence(), None);
    }
    of.waits(ERRORS, detail, needed, of.reading.design_errors.max(1.0), n.new, e)
}

fn latency(of: &MarginInput<'_>) -> Gate {
    if let Some(gate) = of.uncontrolled(LATENCY) {
        return gate;
    }
    let (n, e) = (of.reading.timed.new, of.reading.e_body);
    let mut detail = words::latency(of.reading, &of.margins);
    if e >= 1.0 / BETA {
        return of.gate(LATENCY, GateVerdict::Pass, detail, None);
    }
    if n == 0 {
        detail += &More::StableUnknown.sentence();
    }
    let [_, needed, _] = of.needed();
    of.waits(LATENCY, detail, needed, of.reading.design_latency.max(1.0), n, e)
}

fn tail(of: &MarginInput<'_>) -> Gate {
    if let Some(gate) = of.uncontrolled(TAIL) {
        return gate;
    }
    let (n, slow, e) = (of.reading.timed, of.reading.slow, of.reading.e_tail);
    let limit = of.margins.tail_ratio();
    let mut detail = words::tail(of.reading, &of.margins);
    if e >= 1.0 / BETA {
        return of.gate(TAIL, GateVerdict::Pass, detail, None);
    }
    let often = ratio(slow.stable, n.stable).max(0.01);
    if slow.new >= 5 * FAILURES_TOLD && ratio(slow.new, n.new) > limit * often {
        return of.gate(TAIL, GateVerdict::Fail, detail + &More::SlowTooOften.sentence(), None);
    }
    if n.new == 0 {
        detail += &More::StableUnknown.sentence();
    }
    let [.., needed] = of.needed();
    of.waits(TAIL, detail, needed, of.reading.design_tail.max(1.0), n.new, e)
}
