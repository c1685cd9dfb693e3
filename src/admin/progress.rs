//! The progress of a release in its plan, and the resource usage of its versions, for the status.
//!
//! Invariants: all values belong to the announced stage, or are omitted; unknown figures are
//! omitted.

use super::dto;
use crate::config::ReleaseStanding;
use crate::domain::config::{ResourceConfig, ResourceSource};
use crate::domain::gates::{self, KnownTraffic};
use crate::domain::resource::{ResourceInputs, ResourceResult};
use crate::domain::rollout::wave_controller::WaveStatus;
use crate::domain::rollout::{Freeze, Pause, ReleaseState, Trip};
use crate::domain::wave::Promotion;
use crate::runtime::resources::{inputs, seen};
use crate::runtime::shared::ReleaseView;
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::arm::Arm;
use crate::store::state;
use crate::telemetry::clock;
use serde::Deserialize;
use serde_json::Value;

fn wave_status<'a>(release: &ReleaseSnapshot, view: &'a ReleaseView) -> Option<&'a WaveStatus> {
    view.wave_status.as_ref().filter(|(stage, _)| *stage == release.stage).map(|(_, wave_status)| wave_status)
}

/// The decision that holds a release: a trip, or a freeze.
pub fn trip(tripped: Option<Trip>, frozen: Option<Freeze>) -> Option<dto::TripBody> {
    match (tripped, frozen) {
        (Some(trip), _) => {
            let evidence: Value = serde_json::from_str(&trip.evidence).unwrap_or(Value::Null);
            let decided_by = evidence.get("decided_by").filter(|of| !of.is_null());
            Some(dto::TripBody {
                cause: trip.cause.label().to_owned(),
                at: clock::rfc3339(trip.at_ms),
                actor: trip.actor,
                detail: trip.detail,
                // Absent in the evidence of earlier versions.
                decided_by: decided_by.and_then(|of| dto::DecidedByBody::deserialize(of).ok()),
                evidence,
                onset_to_trip_ms: trip.onset_to_trip_ms,
                stable_shows_the_same: trip.stable_same_at_ms.is_some(),
                stable_same_since: trip.stable_same_at_ms.map(clock::rfc3339),
            })
        }
        (None, Some(freeze)) => Some(dto::TripBody {
            cause: freeze.cause.label().to_owned(),
            at: clock::rfc3339(freeze.at_ms),
            actor: freeze.actor,
            detail: freeze.detail,
            evidence: Value::Null,
            onset_to_trip_ms: None,
            decided_by: None,
            stable_shows_the_same: false,
            stable_same_since: None,
        }),
        (None, None) => None,
    }
}

pub fn waves(release: &ReleaseSnapshot) -> Vec<dto::WaveBody> {
    let segments = |n: usize| release.release.segments.iter().take(n).map(|s| s.name.clone()).collect();
    let wave = |w: &crate::domain::wave::Wave| dto::WaveBody {
        name: w.name.clone(),
        weight: w.exposure.weight.percent(),
        segments: segments(w.exposure.segments),
        bake_s: w.bake.as_secs_f64(),
        open: match w.promotion {
            Promotion::Auto => "auto",
            Promotion::ByHand => "by-hand",
        }
        .to_owned(),
    };
    release.release.waves.iter().map(wave).collect()
}

pub fn progress(
    release: &ReleaseSnapshot,
    view: &ReleaseView,
    pause: Option<Pause>,
) -> Option<dto::ProgressBody> {
    if release.release.waves.is_empty() {
        return None;
    }
    let wave_status = wave_status(release, view);
    let held = wave_status.and_then(|o| o.held.as_ref());
    let spent = view.spent(release.stage);
    let rounded = |s: f64| (s * 10.0).round() / 10.0;
    Some(dto::ProgressBody {
        number: release.present.map_or(0, |i| i as u64 + 1),
        baked_s: rounded(spent.watched.as_secs_f64()),
        unwatched_s: rounded(spent.unwatched().as_secs_f64()),
        next: release.next_wave().map(|w| w.name.clone()),
        held_s: held.map(|h| rounded(h.lasting.as_secs_f64())),
        missing: held.map(|h| h.missing.clone()).unwrap_or_default(),
        power: power(release, view),
        slowest: wave_status.and_then(|o| slowest(&o.gates)),
        paused: pause.filter(|_| release.paused).map(|p| dto::PausedBody {
            at: clock::rfc3339(p.at_ms),
            actor: p.actor,
            reason: p.reason,
        }),
        open_hours: release.release.open_hours.as_ref().map(ToString::to_string),
    })
}

pub fn gates(release: &ReleaseSnapshot, view: &ReleaseView) -> Vec<dto::GateBody> {
    let gate = |g: &gates::Gate| dto::GateBody {
        name: g.name.clone().into_owned(),
        verdict: g.verdict.label().to_owned(),
        detail: g.detail.clone(),
        needs_requests: g.needs.map(|needs| needs.requests),
        needs_s: g.needs.and_then(|needs| needs.time).map(|time| time.as_secs_f64().round()),
    };
    wave_status(release, view).map(|o| o.gates.iter().map(gate).collect()).unwrap_or_default()
}

pub fn resources(release: &ReleaseSnapshot, view: &ReleaseView) -> Vec<dto::ResourceBody> {
    let now = clock::now();
    let one = |(resource, of): (&ResourceConfig, ResourceInputs)| {
        let seen = seen(release, view, resource, now);
        let used = |arm: Arm| {
            let newest = seen.map(|seen| seen.newest).unwrap_or_default();
            let used = if arm == Arm::New { newest.new } else { newest.stable };
            let lack = match seen {
                Some(seen) => seen.lacks[arm.index()].clone(),
                None => Some("not read yet".to_owned()),
            };
            dto::ResourceUseBody { mean: used.map(|u| u.mean), highest: used.map(|u| u.highest), lack }
        };
        dto::ResourceBody {
            name: resource.name.to_string(),
            reading: match &resource.source {
                ResourceSource::Scraped(expression) => expression.text.clone(),
                ResourceSource::Asked { new, stable, .. } => format!("new: {new}; stable: {stable}"),
            },
            on: resource.on.label().to_owned(),
            stable: used(Arm::Stable),
            new: used(Arm::New),
            ceiling: resource.limits.ceiling,
            times_stable_max: resource.limits.times_stable_max,
            in_a_row: resource.limits.in_a_row as u64,
            over: of.over() as u64,
            verdict: match of.result() {
                ResourceResult::Within => "pass",
                ResourceResult::Over(_) | ResourceResult::Both => "fail",
                ResourceResult::Unclear => "inconclusive",
            }
            .to_owned(),
            detail: of.detail(),
        }
    };
    release.release.resources.iter().zip(inputs(release, view, now)).map(one).collect()
}

/// The deviation that the current wave can detect, and after how long.
pub fn power(release: &ReleaseSnapshot, view: &ReleaseView) -> Option<String> {
    let wave = release.wave().filter(|w| w.controlled() && release.hold.is_none())?;
    gates::power(&view.traffic(), release.release.watchdog.margins.errors, wave.until_complete.weight.ratio())
}

/// How long the current wave needs for its slowest gate; gates without an estimate are omitted.
fn slowest(gates: &[gates::Gate]) -> Option<String> {
    let (gate, needs) = gates::slowest(gates)?;
    let long = match needs.time {
        Some(time) => format!("about {}", gates::seconds(time)),
        None => "no request of it has come yet".to_owned(),
    };
    Some(format!("{}, {long} ({} more requests of new)", gate.name, needs.requests))
}

/// The state of a release, for a client that compares files; and the figures of its service.
pub fn standing(
    of: &ReleaseStanding,
    traffic: Option<KnownTraffic>,
    service: Option<dto::ServiceBody>,
) -> dto::StandingBody {
    let progress = of.release_state.progress.as_ref();
    let configured = progress.map_or(of.exposure, |p| p.exposure);
    // Evidence is long, and the client does not use it.
    let evidence = |trip: &Trip| Trip { evidence: "{}".into(), ..trip.clone() };
    let release_state =
        ReleaseState { trip: of.release_state.trip.as_ref().map(evidence), ..of.release_state.clone() };
    dto::StandingBody {
        wave: progress.map(|p| p.wave.clone()),
        weight_configured: configured.weight.percent(),
        segments_configured: configured.segments,
        finished: progress.is_some_and(|p| p.finished),
        weight: of.exposure.weight.percent(),
        segments: of.exposure.segments,
        complete: of.version.complete,
        guarded: of.version.held,
        rate: traffic.map_or(0.0, |t| t.rate),
        requests: traffic.map_or(0, |t| t.requests),
        failures: traffic.map_or(0, |t| t.failures),
        memory: state::release_state_json(&release_state),
        barred_by: of.barred_by.clone(),
        service,
    }
}
