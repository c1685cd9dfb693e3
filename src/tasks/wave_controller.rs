//! The wave controller: several times a second it checks, for each release with a plan, whether the
//! next wave may open.
//! The logic is in `domain` (`rollout::climb`, `gate`); this file only collects its input and
//! forwards its decisions.
//!
//! Invariants: durations are monotonic. Figures that the watchdog has not updated for a while are
//! not used. Waves open only through the one writer, which checks again that the stage is the same.

use crate::domain::gates::GateInput;
use crate::domain::rollout::wave_controller::{WaveAction, WaveController, WavePosition};
use crate::runtime::gate_inputs::{promotion, wave_evidence};
use crate::runtime::shared::{ServingPhase, SharedState, StageEvidence};
use crate::telemetry::clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(200);

/// Runs until it is dropped.
pub async fn run(shared: Arc<SharedState>) {
    let mut climbs = BTreeMap::new();
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        // No decisions while the proxy starts or stops.
        if shared.gauges.phase() != ServingPhase::Serving {
            continue;
        }
        look(&shared, &mut climbs, clock::now(), clock::at_ms());
    }
}

fn look(shared: &SharedState, climbs: &mut BTreeMap<String, WaveController>, now: Duration, at_ms: i64) {
    let snapshot = shared.snapshot();
    let planned =
        |name: &str| snapshot.releases.iter().any(|r| r.release.name == name && !r.release.waves.is_empty());
    climbs.retain(|name, _| planned(name));
    let durable = shared.state_error().is_none();
    for release in snapshot.releases.iter().filter(|r| !r.release.waves.is_empty()) {
        let name = &release.release.name;
        let climb = climbs.entry(name.clone()).or_insert_with(|| WaveController::new(release.stage, now));
        // No judgement before the watchdog has started this stage.
        let shown = shared
            .views()
            .get(name)
            .and_then(|view| view.shown.clone())
            .filter(|shown| shown.stage == release.stage);
        let (watched, before) = shown.as_ref().map(|shown| (shown.watched, shown.before)).unwrap_or_default();
        let standing = WavePosition {
            stage: release.stage,
            waves: &release.release.waves,
            present: release.present,
            finished: release.finished,
            held: release.hold.is_some(),
            paused: release.paused || release.maintenance.is_some(),
            watched,
            before,
        };
        let wave_evidence = match (release.wave(), &shown) {
            (Some(wave), Some(StageEvidence { reading: Some(_), .. })) => {
                shared.views().get(name).map(|view| Some(wave_evidence(release, wave, view, now)))
            }
            (None, Some(_)) => Some(None),
            _ => None,
        };
        let barred_by = shared.barred_by(release);
        let input = wave_evidence.map(|wave_evidence| GateInput {
            wave_evidence,
            promotion: promotion(release, at_ms),
            durable,
            barred_by,
        });
        let wave_status = climb.look(&standing, input, now);
        if wave_status.act != WaveAction::Wait {
            // If the stage is over by now, the next look handles the next one.
            let _ = shared.advance(name, release.stage, &wave_status);
        }
        if let Some(view) = shared.views().get_mut(name) {
            view.wave_status = Some((release.stage, wave_status));
        }
    }
}
