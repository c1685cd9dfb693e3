//! The margin gates: failures, the body of latency, its tail; for all requests of a release and for
//! each critical route.
//! Each gate includes an estimate of the data that it still needs, and of the time.
//!
//! Invariants: a gate passes by its e-value alone; estimates are for people and decide nothing.

use super::needed::Usual;
use super::noninferior::{BETA, RATIO_MAX};
use super::{
    FAILURES_TOLD, Gate, Margins, NO_CONTROL, Needs, Proof, Reading, Verdict, e_of, points, ratio, rounded,
    seconds, users_repeat,
};
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// The evidence of a critical route.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    pub name: Arc<str>,
    pub reading: Reading,
}

pub const ERRORS: &str = "errors";
pub const LATENCY: &str = "latency";
pub const TAIL: &str = "latency_tail";
/// The gates that each critical route also has: `errors:refunds`.
pub const BY_ROUTE: [&str; 3] = [ERRORS, LATENCY, TAIL];

/// The grounds of a margin gate.
struct Of<'p> {
    route: Option<&'p str>,
    controlled: bool,
    margins: Margins,
    share: f64,
    /// Duration of the wave so far, for estimates of time.
    baked: Duration,
    reading: &'p Reading,
}

/// The gates of all requests.
pub fn all(proof: &Proof) -> [Gate; 3] {
    gates(&of(proof, None, &proof.reading))
}

/// The gates of each critical route.
pub fn critical(proof: &Proof) -> impl Iterator<Item = Gate> {
    proof.critical.iter().flat_map(|route| gates(&of(proof, Some(&route.name), &route.reading)))
}

fn of<'p>(proof: &'p Proof, route: Option<&'p str>, reading: &'p Reading) -> Of<'p> {
    let Proof { controlled, margins, share, baked, .. } = *proof;
    Of { route, controlled, margins, share, baked, reading }
}

fn gates(of: &Of<'_>) -> [Gate; 3] {
    [errors(of), latency(of), tail(of)]
}

impl Of<'_> {
    fn gate(&self, name: &'static str, verdict: Verdict, detail: String, needs: Option<Needs>) -> Gate {
        let name = match self.route {
            Some(route) => Cow::Owned(format!("{name}:{route}")),
            None => Cow::Borrowed(name),
        };
        Gate { name, verdict, detail, needs }
    }

    fn uncontrolled(&self, name: &'static str) -> Option<Gate> {
        (!self.controlled).then(|| self.gate(name, Verdict::Pass, NO_CONTROL.into(), None))
    }

    /// Independent requests of `new` that each gate needs.
    fn needed(&self) -> [f64; 3] {
        Usual::of(self.reading).independent(&self.margins, self.share)
    }

    /// The missing requests, if `needed` are expected, `n` have come and the present value is `e`.
    fn needs(&self, needed: f64, n: u64, e: f64, detail: &mut String) -> Option<Needs> {
        let n = n as f64;
        let more = match () {
            () if n < needed => needed - n,
            // More than expected have come: extrapolates the growth of E so far.
            () if e > 1.5 => n * ((1.0 / BETA).ln() / e.ln() - 1.0),
            () => {
                detail.push_str("; what has come does not point to a pass");
                return None;
            }
        };
        // Latency is compared later than failures, while requests already come.
        let came = n.max(self.reading.compared.new as f64);
        let per_second = came / self.baked.as_secs_f64().max(1e-3);
        let time = (came > 0.0 && self.baked > Duration::ZERO)
            .then(|| Duration::from_secs_f64((more / per_second).clamp(0.0, 1e9)));
        let requests = rounded(more);
        let _ = write!(detail, "; about {requests} more requests of new");
        match time {
            Some(time) => {
                let _ = write!(detail, ", {} at this rate", seconds(time));
            }
            None => detail.push_str(", none has come yet"),
        }
        Some(Needs { requests, time })
    }
}

fn errors(of: &Of<'_>) -> Gate {
    if let Some(gate) = of.uncontrolled(ERRORS) {
        return gate;
    }
    let (n, bad, e) = (of.reading.compared, of.reading.failed, of.reading.e_errors);
    let [new, stable] = [ratio(bad.new, n.new), ratio(bad.stable, n.stable)];
    let limit = (stable + of.margins.errors).max(RATIO_MAX * stable);
    let mut detail = format!(
        "new {} of {} failed, stable {} of {}; no worse than {} points by E {}",
        bad.new,
        n.new,
        bad.stable,
        n.stable,
        points(of.margins.errors),
        e_of(e)
    );
    let [needed, ..] = of.needed();
    if e >= 1.0 / BETA {
        return of.gate(ERRORS, Verdict::Pass, detail, None);
    }
    if bad.new >= FAILURES_TOLD && new > limit && n.new as f64 >= needed.min(5_000.0) {
        detail.push_str("; it fails more often than it may");
        return of.gate(ERRORS, Verdict::Fail, detail, None);
    }
    let design = of.reading.design_errors.max(1.0);
    let needs = of.needs(needed * design, n.new, e, &mut detail);
    users_repeat(&mut detail, design);
    of.gate(ERRORS, Verdict::Inconclusive, detail, needs)
}

fn latency(of: &Of<'_>) -> Gate {
    if let Some(gate) = of.uncontrolled(LATENCY) {
        return gate;
    }
    let (n, e) = (of.reading.timed.new, of.reading.e_body);
    let margin = 100.0 * of.margins.latency;
    let mut detail = format!("not slower by {margin:.0}% by E {}, of {n} answers of new", e_of(e));
    if e >= 1.0 / BETA {
        return of.gate(LATENCY, Verdict::Pass, detail, None);
    }
    if n == 0 {
        detail.push_str("; too little is known of stable yet");
    }
    let design = of.reading.design_latency.max(1.0);
    let [_, needed, _] = of.needed();
    let needs = of.needs(needed * design, n, e, &mut detail);
    users_repeat(&mut detail, design);
    of.gate(LATENCY, Verdict::Inconclusive, detail, needs)
}

fn tail(of: &Of<'_>) -> Gate {
    if let Some(gate) = of.uncontrolled(TAIL) {
        return gate;
    }
    let (n, slow, e) = (of.reading.timed, of.reading.slow, of.reading.e_tail);
    let limit = of.margins.tail_ratio();
    let mut detail = format!(
        "above p99 of stable: new {} of {}, stable {} of {}; less than {} times as many by E {}",
        slow.new,
        n.new,
        slow.stable,
        n.stable,
        points(limit / 100.0),
        e_of(e)
    );
    if e >= 1.0 / BETA {
        return of.gate(TAIL, Verdict::Pass, detail, None);
    }
    let often = ratio(slow.stable, n.stable).max(0.01);
    if slow.new >= 5 * FAILURES_TOLD && ratio(slow.new, n.new) > limit * often {
        detail.push_str("; it is slow more often than it may");
        return of.gate(TAIL, Verdict::Fail, detail, None);
    }
    let design = of.reading.design_tail.max(1.0);
    if n.new == 0 {
        detail.push_str("; too little is known of stable yet");
    }
    let [.., needed] = of.needed();
    let needs = of.needs(needed * design, n.new, e, &mut detail);
    users_repeat(&mut detail, design);
    of.gate(TAIL, Verdict::Inconclusive, detail, needs)
}
