//! What is known of a service, as the API tells it and as the command line reads it: both ways
//! are here, so that the functions that decide count with the same figures on both sides.
//!
//! Invariants: what comes from the network may be any number, and none of them panics.

use super::dto;
use crate::domain::config::WatchdogConfig;
use crate::domain::gates::sample_size::{UsualStable, time};
use crate::domain::judge::trailing_windows::StableBefore;
use crate::domain::service_profile::{SpellProfile, StratumProfile};
use crate::runtime::shared::ReleaseView;
use crate::stats::arm::Arm;
use std::time::Duration;

const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// Requests of stable by which its share of failures is that of the last minutes alone.
const REQUESTS_MIN: u64 = 1_000;

/// `None`: the watchdog has not looked yet.
pub fn figures(view: &ReleaseView, watchdog: &WatchdogConfig) -> Option<dto::ServiceBody> {
    let known = view.known.as_ref()?;
    let [stable, new] = Arm::BOTH.map(|arm| view.recent[arm.index()].last(FIVE_MINUTES));
    let counted = view.recent[Arm::Stable.index()].counted();
    let seconds = counted.as_secs_f64().max(1.0);
    let [errors, slow] = known.before;
    let ceiling = |given: f64, of: StableBefore| {
        let [requests, bad] = of.parts();
        dto::CeilingBody { given, requests, bad }
    };
    let [spells_slow, spells_failed] = known.spells.map(|of| dto::SpellsBody {
        n: of.n,
        longest_s: of.longest.as_secs_f64(),
        over_s: of.over.map(|over| over.as_secs_f64()),
        excused_s: of.allowed.as_secs_f64(),
        too_many: of.too_many,
    });
    let usual = known.of_wave;
    // Where few come in five minutes, all that came before anybody was in `new` say more.
    let [came, failed] = errors.parts();
    let few = stable.requests < REQUESTS_MIN && came > stable.requests as f64;
    let (failures, requests) = match few {
        true => (failed.round() as u64, came.round() as u64),
        false => (stable.failures, stable.requests),
    };
    let before = UsualStable::before_a_wave(failures, requests, known.spread);
    let route = |of: &StratumProfile| {
        let gates = of.of_wave.map(|usual| gates(&usual, true));
        dto::RouteBody { name: of.name.to_string(), rate: of.rate, gates }
    };
    Some(dto::ServiceBody {
        counted_s: counted.as_secs_f64(),
        rate: (stable.requests + new.requests) as f64 / seconds,
        requests: stable.requests,
        failures: stable.failures,
        p99_ms: stable.success.quantile(0.99).map(|p99| 1e3 * p99.as_secs_f64()),
        learns: known.learns,
        errors_max: ceiling(watchdog.errors_max, errors),
        latency_p99_max: ceiling(1e3 * watchdog.latency_p99_max.as_secs_f64(), slow),
        seen_s: known.seen_for.map(|seen| seen.as_secs_f64()),
        spells_slow,
        spells_failed,
        answers_missing: known.answers_missing.ceil() as u64,
        gates: gates(&usual.unwrap_or(before), usual.is_some()),
        moments: known.moments,
        routes: known.routes.iter().map(route).collect(),
    })
}

fn gates(of: &UsualStable, of_wave: bool) -> dto::GatesBody {
    let [design_errors, design_latency, design_latency_tail] = of.design;
    dto::GatesBody {
        of_wave,
        failing_ratio: of.failing,
        slow_ratio: of.slow,
        spread: of.spread,
        design_errors,
        design_latency,
        design_latency_tail,
    }
}

/// What gates count with; `service`: that they are of.
pub fn usual(of: &dto::GatesBody, service: &dto::ServiceBody) -> UsualStable {
    UsualStable {
        failing: of.failing_ratio,
        slow: of.slow_ratio,
        spread: of.spread,
        design: [of.design_errors, of.design_latency, of.design_latency_tail].map(|effect| effect.max(1.0)),
        moments: service.moments,
    }
}

pub fn before(of: &dto::CeilingBody) -> StableBefore {
    StableBefore::from_parts([of.requests, of.bad])
}

pub fn spells(of: &dto::SpellsBody) -> SpellProfile {
    let long = |seconds: f64| time(seconds).unwrap_or_default();
    SpellProfile {
        n: of.n,
        longest: long(of.longest_s),
        over: of.over_s.map(long),
        allowed: long(of.excused_s),
        too_many: of.too_many,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::service_profile::ServiceProfile;

    #[test]
    fn figures_survive_serialisation() {
        let spells = SpellProfile {
            n: 31,
            longest: Duration::from_millis(1_000),
            over: Some(Duration::from_secs(3_500)),
            allowed: Duration::from_millis(1_750),
            too_many: false,
        };
        let usual = UsualStable {
            failing: 0.03,
            slow: 0.012,
            spread: 0.4,
            design: [1.5, 2.0, 3.5],
            moments: [[0.01; 3]; 3],
        };
        let route = StratumProfile { name: "refunds".into(), rate: 0.5, of_wave: Some(usual) };
        let before = [StableBefore::from_parts([100_000.0, 3_100.0]), StableBefore::default()];
        let known = ServiceProfile {
            learns: true,
            before,
            seen_for: Some(Duration::from_secs(7_200)),
            spells: [spells, SpellProfile::default()],
            answers_missing: 12.3,
            spread: Some(0.4),
            of_wave: Some(usual),
            moments: usual.moments,
            routes: vec![route],
        };
        let config = crate::config::parse(
            include_str!("../../config/grayling.toml"),
            std::path::Path::new("/g/grayling.toml"),
        );
        let watchdog = &config.map_err(|report| report.to_string()).unwrap().config.releases[0].watchdog;
        assert_eq!(figures(&ReleaseView::default(), watchdog), None, "it has not looked yet");
        let view =
            |known: &ServiceProfile| ReleaseView { known: Some(known.clone()), ..ReleaseView::default() };
        let again = |known: &ServiceProfile| -> dto::ServiceBody {
            let text = serde_json::to_string(&figures(&view(known), watchdog)).unwrap();
            serde_json::from_str(&text).unwrap()
        };
        let service = again(&known);
        assert_eq!([&service.errors_max, &service.latency_p99_max].map(super::before), before);
        assert_eq!([&service.spells_slow, &service.spells_failed].map(super::spells), known.spells);
        assert_eq!((super::usual(&service.gates, &service), service.gates.of_wave), (usual, true));
        assert_eq!(service.routes[0].gates.map(|gates| super::usual(&gates, &service)), Some(usual));
        assert_eq!((service.answers_missing, service.errors_max.given), (13, 0.02));
        // Before a wave: of what came before anybody was in `new`, where few have come since.
        let service = again(&ServiceProfile { of_wave: None, ..known });
        assert!(!service.gates.of_wave && (service.gates.failing_ratio - 0.031).abs() < 1e-4);
        assert_eq!(service.gates.spread, 0.4);
        // A field that another version does not have is none.
        assert_eq!(super::usual(&serde_json::from_str("{}").unwrap(), &service).design, [1.0; 3]);
    }
}
