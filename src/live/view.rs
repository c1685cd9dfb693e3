//! What the watchdog and the waves show of a release to whoever looks: judgement, recent counts,
//! and what the present stage has shown.
//!
//! Invariants: written by the watchdog's thread and the conductor's, under one lock; a figure of
//! another stage is not taken for one of this.

use super::checkpoint::Checkpoint;
use super::recent::Recent;
use super::resources::Seen;
use crate::domain::decide::Arm;
use crate::domain::gate::{Reading, Route, Traffic};
use crate::domain::known::Known;
use crate::domain::rollout::climb::{Outlook, Spent};
use crate::domain::verdict::Judgement;
use std::time::Duration;

#[derive(Default)]
pub struct View {
    pub judgement: Option<Judgement>,
    /// Monotonic time of that.
    pub looked: Duration,
    /// Since when E of a signal is worth a person's look, without being a trip.
    pub suspicion: Option<Duration>,
    pub recent: [Recent; 2],
    /// What an earlier process has saved of the stage that goes on. The watchdog takes it.
    pub checkpoint: Option<Checkpoint>,
    /// What the watchdog has of the present stage.
    pub shown: Option<Shown>,
    /// What it knows of the service, a moment ago.
    pub known: Option<Known>,
    /// Since when the notice "slower by more than `latency_notice`" stands; monotonic.
    pub notice_since: Option<Duration>,
    /// A person has ended it, and the watchdog does not know yet.
    pub end_notice: bool,
    /// How the next step of this stage looks.
    pub outlook: Option<(u64, Outlook)>,
    /// What was last read of what it watches of resources.
    pub resources: Vec<Seen>,
}

/// What the watchdog has of a stage.
#[derive(Clone, Debug)]
pub struct Shown {
    /// [`ReleaseLive::stage`].
    pub stage: u64,
    /// How long it was watched, by this process and earlier ones.
    pub watched: Duration,
    /// What an earlier process has counted.
    pub before: Spent,
    /// What the wave has shown; `None`: there is no wave to judge.
    pub reading: Option<Reading>,
    /// The same of each critical route.
    pub critical: Vec<Route>,
}

impl View {
    /// The time of this stage; zero where nothing is known of it.
    pub fn spent(&self, stage: u64) -> Spent {
        let outlook = self.outlook.as_ref().filter(|(of, _)| *of == stage);
        let shown = self.shown.as_ref().filter(|shown| shown.stage == stage);
        let spent = outlook.map(|(_, outlook)| outlook.spent).or(shown.map(|shown| shown.before));
        let watched = shown.map_or(Duration::ZERO, |shown| shown.watched);
        let spent = spent.unwrap_or_default();
        Spent { watched, open: spent.open.max(watched), ..spent }
    }

    /// The traffic of the last minute, and how stable did in five.
    pub fn traffic(&self) -> Traffic {
        let [minute, five] = [60, 300].map(Duration::from_secs);
        let requests = self.recent.iter().map(|arm| arm.last(minute).requests).sum::<u64>();
        let stable = self.recent[Arm::Stable.index()].last(five);
        Traffic { rate: requests as f64 / 60.0, requests: stable.requests, failures: stable.failures }
    }

    /// Share of the requests of the last `window` that went to `new`; `None` without requests.
    pub fn share(&self, window: Duration) -> Option<f64> {
        let [stable, new] = [0, 1].map(|arm| self.recent[arm].last(window).requests);
        (stable + new > 0).then(|| new as f64 / (stable + new) as f64)
    }
}
