//! What the watchdog knows of a service, for a person who chooses settings; and how many
//! requests come to each route that is judged apart.
//!
//! Invariants: constant memory; requests are counted by arrival, for five minutes.

use crate::domain::gates::moments::MomentsLearner;
use crate::domain::gates::trial::Reference;
use crate::domain::judge::Judge;
use crate::domain::service_profile::{self, ServiceProfile, StratumProfile};
use crate::runtime::shared::{ReleaseView, SharedState};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::engine::{Engine, EventKind, RequestEvent};
use crate::telemetry::sliding_window::{SLICE, SLICES, counted};
use serde_json::json;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Logs each ceiling that fits this service no longer, or fits it again.
pub fn log_unfit(
    shared: &SharedState,
    release: &ReleaseSnapshot,
    was: Option<&ServiceProfile>,
    is: &ServiceProfile,
) {
    let watchdog = &release.release.watchdog;
    let of = |known: Option<&ServiceProfile>| -> BTreeMap<&'static str, String> {
        known.into_iter().flat_map(|known| known.unfit(watchdog)).collect()
    };
    let (was, is) = (of(was), of(Some(is)));
    let name = &release.release.name;
    for (ceiling, effect) in is.iter().filter(|(ceiling, _)| !was.contains_key(*ceiling)) {
        shared.log.event("ceiling_unfit", json!({"release": name, "ceiling": ceiling, "effect": effect}));
    }
    for ceiling in was.keys().filter(|ceiling| !is.contains_key(*ceiling)) {
        shared.log.event("ceiling_fits", json!({"release": name, "ceiling": ceiling}));
    }
}

/// Requests by route, in the last five minutes.
#[derive(Default)]
pub struct RouteRates {
    slices: VecDeque<Vec<u32>>,
    slice_began: Duration,
    /// The last call.
    at: Duration,
}

impl RouteRates {
    /// Begins anew: the routes have other numbers.
    pub fn forget(&mut self) {
        *self = RouteRates::default();
    }

    /// Time goes on, and these have come.
    pub fn push_all(&mut self, events: &[RequestEvent], now: Duration) {
        self.at = now;
        if self.slices.is_empty() || now >= self.slice_began + SLICE {
            self.slices.push_back(vec![]);
            self.slice_began = now;
            if self.slices.len() > SLICES {
                self.slices.pop_front();
            }
        }
        let Some(slice) = self.slices.back_mut() else { return };
        for event in events.iter().filter(|event| event.what == EventKind::Arrived) {
            let Some(route) = event.request.stratum.map(usize::from) else { continue };
            if slice.len() <= route {
                slice.resize(route + 1, 0);
            }
            slice[route] += 1;
        }
    }

    /// Requests a second.
    fn of(&self, route: usize) -> f64 {
        let sum: u64 = self.slices.iter().filter_map(|slice| slice.get(route)).map(|n| u64::from(*n)).sum();
        let counted = counted(self.slices.len(), self.at.saturating_sub(self.slice_began));
        if counted.is_zero() { 0.0 } else { sum as f64 / counted.as_secs_f64() }
    }
}

/// Learns from what has happened, in the order of time.
pub fn learn(moments: &mut MomentsLearner, events: &[RequestEvent], engine: &Engine, floor: Duration) {
    for event in events {
        let (table, factor) = (engine.reference(), engine.factor(event.request.unit));
        moments.push(event, &Reference { table, factor, floor, is_warming: false });
    }
}

/// What is known of a release at this moment.
pub fn of(
    release: &ReleaseSnapshot,
    judge: &Judge,
    view: &ReleaseView,
    (rates, moments): (&RouteRates, &MomentsLearner),
    now: Duration,
) -> ServiceProfile {
    let shown = view.shown.as_ref().filter(|shown| shown.stage == release.stage);
    let of_wave = shown.and_then(|shown| shown.reading).as_ref().and_then(service_profile::shown);
    let route = |(number, name): (usize, &Arc<str>)| {
        let of = shown.and_then(|shown| shown.critical.iter().find(|route| route.name == *name));
        let of_wave = of.and_then(|of| service_profile::shown(&of.reading));
        StratumProfile { name: name.clone(), rate: rates.of(number), of_wave }
    };
    let routes = release.strata.iter().enumerate().map(route).collect();
    ServiceProfile::of(judge, of_wave, moments.moments(), routes, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::arm::Arm;
    use crate::stats::engine::RequestStart;

    #[test]
    fn requests_are_counted_by_route_and_forgotten_after_five_minutes() {
        let mut rates = RouteRates::default();
        let event = |what, stratum| {
            let request = RequestStart {
                id: 1,
                at: Duration::ZERO,
                arm: Arm::New,
                unit: None,
                drawn: false,
                stratum,
                server: None,
            };
            RequestEvent { request, what, after: Duration::ZERO }
        };
        let events = [
            event(EventKind::Arrived, Some(2)),
            event(EventKind::Answered, Some(2)),
            event(EventKind::Arrived, None),
            event(EventKind::Arrived, Some(0)),
        ];
        let at = |tick: u32| Duration::from_millis(100) * tick;
        // Soon after the start the rate is that of the time since then.
        let mut fresh = RouteRates::default();
        (0..10).for_each(|tick| fresh.push_all(&events, at(tick)));
        assert!((10.0..12.0).contains(&fresh.of(0)), "{}", fresh.of(0));
        (0..6_000).for_each(|tick| rates.push_all(&events, at(tick)));
        let of = [rates.of(0), rates.of(1), rates.of(2)];
        assert!((9.5..10.1).contains(&of[0]) && of[0] == of[2] && of[1] == 0.0, "{of:?}");
        (6_000..9_100).for_each(|tick| rates.push_all(&[], at(tick)));
        assert_eq!(rates.of(0), 0.0);
    }
}
