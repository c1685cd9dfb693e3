//! The numbers and codes on which each gate was judged, by name. The ledger keeps them beside a
//! verdict, and they are compared when the verdict is recomputed.
//! Sentences are for people and are never compared.
//!
//! Invariants: pure; every value of [`GateInput`] that a verdict depends on is a figure of a gate,
//! so a changed input contradicts the recorded verdict.

use super::{self as gate, BAKE, GateInput, OPEN, OPEN_HOURS, WaveEvidence, ratio};
use crate::domain::resource::{Limit, ResourceInputs, ResourceReading, ResourceResult};
use crate::domain::verdict::WatchdogState;
use crate::domain::wave::Promotion;
use crate::stats::hypergeometric_bet::PerArm;
use std::borrow::Cow;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum GateFigure {
    Number(f64),
    Code(&'static str),
}

pub type GateFigures = Vec<(Cow<'static, str>, GateFigure)>;

#[derive(Default)]
struct List(GateFigures);

impl List {
    fn number(&mut self, name: impl Into<Cow<'static, str>>, value: f64) -> &mut List {
        self.0.push((name.into(), GateFigure::Number(value)));
        self
    }

    fn code(&mut self, name: impl Into<Cow<'static, str>>, code: &'static str) -> &mut List {
        self.0.push((name.into(), GateFigure::Code(code)));
        self
    }

    fn flag(&mut self, name: &'static str, holds: bool) -> &mut List {
        self.code(name, if holds { "yes" } else { "no" })
    }

    fn pair(&mut self, name: &'static str, of: PerArm) -> &mut List {
        self.number(format!("new_{name}"), of.new as f64).number(format!("stable_{name}"), of.stable as f64)
    }
}

/// The figures of a gate. Empty if it has none.
pub fn figures(gate: &str, input: &GateInput) -> GateFigures {
    let mut list = List::default();
    match (gate, &input.wave_evidence, &input.promotion) {
        ("state", ..) => _ = list.flag("durable", input.durable),
        ("barred", ..) => _ = list.flag("barred", input.barred_by.is_some()),
        (OPEN, _, Some(promotion)) => {
            let how = match promotion.promotion {
                Promotion::Auto => "auto",
                Promotion::ByHand => "by-hand",
            };
            list.code("open", how);
        }
        (OPEN_HOURS, _, Some(promotion)) => {
            list.flag("open", promotion.hours.as_ref().is_some_and(|hours| hours.open));
        }
        (_, Some(wave_evidence), _) => {
            let of_route = gate.split_once(':').and_then(|(gate, route)| {
                let route = wave_evidence.critical.iter().find(|of| *of.name == *route)?;
                Some((gate, &route.reading))
            });
            let (gate, reading) = of_route.unwrap_or((gate, &wave_evidence.reading));
            of_proof(gate, wave_evidence, reading, &mut list);
        }
        _ => {}
    }
    list.0
}

/// `r`: of all requests, or of the gate's route.
fn of_proof(gate: &str, of: &WaveEvidence, r: &gate::TrialReading, list: &mut List) {
    match gate {
        BAKE => {
            _ = list
                .number("baked_us", of.baked.as_micros() as f64)
                .number("bake_us", of.bake.as_micros() as f64)
        }
        "requests" => _ = list.pair("requests", r.requests).number("requests_min", of.requests_min as f64),
        "users" => {
            list.pair("users", r.users).number("users_min", of.users_min as f64);
            list.flag("controlled", of.controlled);
        }
        "errors" => {
            list.pair("requests", r.compared).pair("failed", r.failed).number("e", r.e_errors);
            list.number("margin", of.margins.errors).number("design_effect", r.design_errors);
        }
        "latency" => {
            list.pair("timed", r.timed).number("e", r.e_body);
            list.number("margin", of.margins.latency).number("design_effect", r.design_latency);
            list.number("spread", r.spread_latency);
        }
        "latency_tail" => {
            list.pair("timed", r.timed).pair("slow", r.slow).number("e", r.e_tail);
            list.number("margin", of.margins.tail).number("design_effect", r.design_tail);
        }
        "share" => {
            list.number("share", ratio(r.compared.new, r.compared.total()));
            list.number("share_configured", of.share).number("z", r.share_z);
        }
        "servers" => _ = list.pair("servers", of.servers.all).pair("servers_healthy", of.servers.healthy),
        "watchdog" => {
            let dog = &of.watchdog;
            list.code("state", dog.state.map_or("none", WatchdogState::label)).flag("passes", dog.passes);
            list.number("e", dog.e_value).number("e_notice", dog.e_notice).number("alpha", dog.alpha);
        }
        "sight" => {
            if let Some(detection_limit) = of.watchdog.detection_limit {
                list.number("latency_notice", detection_limit.latency_notice)
                    .number("margin", detection_limit.margin);
                if let Some(detection_limit) = detection_limit.detection_limit {
                    list.number("requests", detection_limit.requests as f64)
                        .number("below", detection_limit.below);
                }
            }
        }
        "resources" => of.resources.iter().for_each(|one| of_resource(one, list)),
        _ => {}
    }
}

fn of_resource(of: &ResourceInputs, list: &mut List) {
    let name = &of.name;
    let says = match of.result() {
        ResourceResult::Within => "within",
        ResourceResult::Over(Limit::Ceiling) => "over_ceiling",
        ResourceResult::Over(Limit::TimesStable) => "over_times_stable",
        ResourceResult::Both => "both",
        ResourceResult::Unclear => "unclear",
    };
    list.code(format!("{name}.says"), says);
    list.number(format!("{name}.in_a_row"), of.limits.in_a_row as f64);
    list.number(format!("{name}.floor"), of.limits.floor);
    for (limit, value) in [("ceiling", of.limits.ceiling), ("times_stable_max", of.limits.times_stable_max)] {
        if let Some(value) = value {
            list.number(format!("{name}.{limit}"), value);
        }
    }
    type Read = fn(&ResourceReading) -> Option<f64>;
    let sums: [(&str, Read); 4] = [
        ("new_mean", |r| r.new.map(|used| used.mean)),
        ("new_highest", |r| r.new.map(|used| used.highest)),
        ("stable_mean", |r| r.stable.map(|used| used.mean)),
        ("stable_highest", |r| r.stable.map(|used| used.highest)),
    ];
    for (what, read) in sums {
        list.number(format!("{name}.{what}_sum"), of.readings.iter().filter_map(read).sum());
    }
    list.code(format!("{name}.controlled"), if of.controlled { "yes" } else { "no" });
    list.number(format!("{name}.readings"), of.readings.len() as f64);
}
