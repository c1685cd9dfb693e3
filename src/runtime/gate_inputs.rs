//! Collects the input of a wave's gates, from the snapshot and the watchdog's figures.
//! The wave controller calls it several times a second, a `promote` once.
//!
//! Invariants: a stage without evidence is judged on none, so its gates are inconclusive.
//! The watchdog's last judgement is used for at most 3 s.

use super::resources;
use super::snapshot::ReleaseSnapshot;
use crate::domain::gates::{
    HealthyServers, OpenHoursState, PromotionState, RouteEvidence, TrialReading, WatchdogReport,
    WaveDetectionLimit, WaveEvidence,
};
use crate::domain::wave::{Wave, door_after};
use crate::runtime::shared::{ReleaseView, StageEvidence};
use crate::stats::arm::Arm;
use crate::stats::engine::DetectionLimit;
use crate::stats::hypergeometric_bet::PerArm;
use std::time::Duration;

const STALE: Duration = Duration::from_secs(3);

/// The evidence of the current wave: none until the watchdog has started its stage.
pub fn wave_evidence(
    release: &ReleaseSnapshot,
    wave: &Wave,
    view: &ReleaseView,
    now: Duration,
) -> WaveEvidence {
    let shown = view.shown.as_ref().filter(|shown| shown.stage == release.stage);
    let fresh = view.judgement.as_ref().filter(|_| now.saturating_sub(view.looked) < STALE);
    let watchdog = match fresh {
        Some(judgement) => {
            WatchdogReport::new(judgement, detection_limit(release, judgement.evidence.detection_limit))
        }
        None => WatchdogReport {
            state: None,
            passes: false,
            reason: String::new(),
            e_value: 0.0,
            e_notice: 0.0,
            alpha: 1.0,
            detection_limit: detection_limit(release, None),
        },
    };
    let of = |arm: Arm| release.upstream(arm);
    WaveEvidence {
        controlled: wave.controlled(),
        baked: shown.map_or(Duration::ZERO, |shown| shown.watched),
        bake: wave.bake,
        requests_min: wave.requests_min,
        users_min: wave.users_min,
        margins: release.release.watchdog.margins,
        share: wave.until_complete.weight.ratio(),
        reading: shown.and_then(|shown| shown.reading).unwrap_or_default(),
        critical: critical(release, shown),
        servers: HealthyServers {
            all: PerArm::new(of(Arm::New).servers.len() as u64, of(Arm::Stable).servers.len() as u64),
            healthy: PerArm::new(of(Arm::New).healthy() as u64, of(Arm::Stable).healthy() as u64),
        },
        watchdog,
        resources: resources::inputs(release, view, now),
    }
}

fn detection_limit(
    release: &ReleaseSnapshot,
    detection_limit: Option<DetectionLimit>,
) -> Option<WaveDetectionLimit> {
    let of = &release.release.watchdog;
    let (latency_notice, margin) = (of.latency_notice, of.margins.latency);
    of.hold_when_blind.then_some(WaveDetectionLimit { detection_limit, latency_notice, margin })
}

/// One entry per critical route of the file; a route without figures has empty evidence.
fn critical(release: &ReleaseSnapshot, shown: Option<&StageEvidence>) -> Vec<RouteEvidence> {
    let one = |name: &String| {
        let known: Option<&RouteEvidence> =
            shown.and_then(|shown| shown.critical.iter().find(|route| *route.name == **name));
        known
            .cloned()
            .unwrap_or_else(|| RouteEvidence { name: name.as_str().into(), reading: TrialReading::default() })
    };
    release.release.critical.iter().map(one).collect()
}

/// How the next wave opens, or how the users held back from the last one move to `new`; `None`: no
/// step follows.
pub fn promotion(release: &ReleaseSnapshot, at_ms: i64) -> Option<PromotionState> {
    let promotion = door_after(&release.release.waves, release.present)?;
    let hours = release.release.open_hours.as_ref().map(|hours| OpenHoursState {
        text: hours.to_string(),
        open: hours.hold(at_ms),
        next: hours.next(at_ms),
    });
    Some(PromotionState { promotion, hours })
}
