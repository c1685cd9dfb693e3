//! The state of a release that the watchdog and the waves publish for readers: judgement, recent
//! counts, and the evidence of the present stage.
//!
//! Invariants: written by the threads of the watchdog and the wave controller, under one lock; a
//! figure of another stage never counts for the present one.

use super::resources::ResourceReadings;
use crate::domain::gates::{KnownTraffic, RouteEvidence, TrialReading};
use crate::domain::rollout::wave_controller::{WaveStatus, WaveTime};
use crate::domain::service_profile::ServiceProfile;
use crate::domain::verdict::{Judgement, StandingFinding};
use crate::runtime::wave_checkpoint::WaveCheckpoint;
use crate::stats::arm::Arm;
use crate::telemetry::sliding_window::SlidingWindow;
use std::time::Duration;

#[derive(Default)]
pub struct ReleaseView {
    pub judgement: Option<Judgement>,
    /// Monotonic time of the last look.
    pub looked: Duration,
    /// Since when E of a signal is notable without being a trip.
    pub suspicion: Option<Duration>,
    pub recent: [SlidingWindow; 2],
    /// The checkpoint that an earlier process saved for the present stage. The watchdog takes it.
    pub checkpoint: Option<WaveCheckpoint>,
    /// The watchdog's evidence of the present stage.
    pub shown: Option<StageEvidence>,
    /// The known properties of the service, as of a moment ago.
    pub known: Option<ServiceProfile>,
    /// Start of the notice "slower by more than `latency_notice`"; monotonic.
    pub notice_since: Option<Duration>,
    /// What a person has accepted, and the watchdog has not ended yet.
    pub accepted: Vec<StandingFinding>,
    /// The outlook of the next step, with its stage.
    pub wave_status: Option<(u64, WaveStatus)>,
    /// The last readings of watched resources.
    pub resources: Vec<ResourceReadings>,
}

/// The watchdog's evidence of a stage.
#[derive(Clone, Debug)]
pub struct StageEvidence {
    /// [`super::snapshot::ReleaseSnapshot::stage`].
    pub stage: u64,
    /// Watched time, by this process and earlier ones.
    pub watched: Duration,
    /// Time of the stage in earlier processes.
    pub before: WaveTime,
    /// The evidence of the wave. `None`: no wave to judge.
    pub reading: Option<TrialReading>,
    /// The same for each critical route.
    pub critical: Vec<RouteEvidence>,
}

impl ReleaseView {
    /// Does this finding stand, and has no person accepted it?
    pub fn has_found(&self, finding: StandingFinding) -> bool {
        let stands = match finding {
            StandingFinding::Notice => self.notice_since.is_some(),
            StandingFinding::Alarm => self.judgement.as_ref().is_some_and(|of| of.alarm().is_some()),
        };
        stands && !self.accepted.contains(&finding)
    }

    /// The time of this stage. Zero if nothing is known of it.
    pub fn spent(&self, stage: u64) -> WaveTime {
        let wave_status = self.wave_status.as_ref().filter(|(of, _)| *of == stage);
        let shown = self.shown.as_ref().filter(|shown| shown.stage == stage);
        let spent = wave_status.map(|(_, wave_status)| wave_status.spent).or(shown.map(|shown| shown.before));
        let watched = shown.map_or(Duration::ZERO, |shown| shown.watched);
        let spent = spent.unwrap_or_default();
        WaveTime { watched, open: spent.open.max(watched), ..spent }
    }

    /// The traffic of the last minute, and stable's requests and failures of the last five.
    pub fn traffic(&self) -> KnownTraffic {
        let [minute, five] = [60, 300].map(Duration::from_secs);
        let requests = self.recent.iter().map(|arm| arm.last(minute).requests).sum::<u64>();
        let stable = self.recent[Arm::Stable.index()].last(five);
        KnownTraffic { rate: requests as f64 / 60.0, requests: stable.requests, failures: stable.failures }
    }

    /// Share of the requests of the last `window` that went to `new`. `None`: no requests.
    pub fn share(&self, window: Duration) -> Option<f64> {
        let [stable, new] = [0, 1].map(|arm| self.recent[arm].last(window).requests);
        (stable + new > 0).then(|| new as f64 / (stable + new) as f64)
    }
}
