//! The watchdog's data of the current stage of a release's plan: how long it was watched, and the
//! evidence of its wave, over all requests and for each critical route.
//!
//! Invariants: a trial belongs to one stage. An edited margin restarts the evidence for that margin
//! only. The usual latencies of a critical route outlive stages.

use crate::domain::gates::critical_route::CriticalRoute;
use crate::domain::gates::margin_gates::RouteEvidence;
use crate::domain::gates::trial::{Reference, Trial};
use crate::domain::rollout::wave_controller::WaveTime;
use crate::runtime::shared::{ReleaseView, StageEvidence};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::runtime::wave_checkpoint::{self, WaveCheckpoint};
use crate::stats::engine::{Engine, RequestEvent};
use std::sync::Arc;
use std::time::Duration;

pub struct WatchedStage {
    /// [`ReleaseSnapshot::stage`].
    pub number: u64,
    /// Time of this stage in which the watchdog could judge.
    /// Late ticks and ticks of a blind judge do not count.
    pub watched: Duration,
    /// Time counted by earlier processes.
    pub before: WaveTime,
    /// When it is next written.
    pub keep_by: Duration,
    /// The wave's evidence, if there is a wave to judge.
    trial: Option<Trial>,
    critical: Vec<CriticalRoute>,
}

impl WatchedStage {
    pub fn new(number: u64, critical: Vec<CriticalRoute>) -> WatchedStage {
        WatchedStage {
            number,
            watched: Duration::ZERO,
            before: WaveTime::default(),
            keep_by: Duration::ZERO,
            trial: None,
            critical,
        }
    }

    /// Continues from the checkpoint of an earlier process.
    pub fn restored(release: &ReleaseSnapshot, checkpoint: WaveCheckpoint) -> WatchedStage {
        let WaveCheckpoint { spent, trial, critical: kept } = checkpoint;
        let mut critical = CriticalRoute::of(&release.release.critical, &release.strata, vec![]);
        for kept in kept {
            if let Some(of) = critical.iter_mut().find(|of| **of.name() == *kept.name) {
                of.take(kept);
            }
        }
        WatchedStage {
            watched: spent.watched,
            before: spent,
            trial,
            ..WatchedStage::new(release.stage, critical)
        }
    }

    /// The data of critical routes, for the next stage.
    pub fn into_critical(mut self) -> Vec<CriticalRoute> {
        self.critical.iter_mut().for_each(|of| of.trial = None);
        self.critical
    }

    /// Follows the release's stage, critical routes and margins; starts a new stage where another
    /// began.
    pub fn follow(self, release: &ReleaseSnapshot, now: Duration) -> WatchedStage {
        let mut stage = match self.number == release.stage {
            true => self,
            false => WatchedStage::new(release.stage, self.into_critical()),
        };
        stage.name_critical(release);
        let of = &release.release.watchdog;
        match release.wave().filter(|_| !release.finished) {
            Some(wave) => {
                let begins = || Trial::new(of.margins, wave.until_complete.weight, of.tick, now);
                stage.trial.get_or_insert_with(begins).set_margins(of.margins);
                for route in &mut stage.critical {
                    route.trial.get_or_insert_with(begins).set_margins(of.margins);
                }
            }
            None => {
                stage.trial = None;
                stage.critical.iter_mut().for_each(|of| of.trial = None);
            }
        }
        stage
    }

    fn name_critical(&mut self, release: &ReleaseSnapshot) {
        let (names, strata): (_, &[Arc<str>]) = (&release.release.critical, &release.strata);
        if !self.critical.iter().map(|of| of.place(strata)).eq(names.iter().map(|name| Some(&**name))) {
            self.critical = CriticalRoute::of(names, strata, std::mem::take(&mut self.critical));
        }
    }

    /// Events of the release, in the order of time.
    pub fn push_all(&mut self, events: &[RequestEvent], engine: &Engine, floor: Duration) {
        if self.trial.is_none() && self.critical.is_empty() {
            return;
        }
        for event in events {
            let (table, factor) = (engine.reference(), engine.factor(event.request.unit));
            let is_warming = engine.is_warming(&event.request);
            let reference = Reference { table, factor, floor, is_warming };
            if let Some(trial) = &mut self.trial {
                trial.push(event, &reference);
            }
            self.critical.iter_mut().for_each(|of| of.push(event, &reference));
        }
    }

    pub fn tick(&mut self, now: Duration, deadline: Duration) {
        if let Some(trial) = &mut self.trial {
            trial.tick(now, deadline);
        }
        self.critical.iter_mut().for_each(|of| of.tick(now, deadline));
    }

    /// `afresh`: recomputes the wave's evidence, which costs more than a look.
    pub fn shown(&self, view: &ReleaseView, afresh: bool) -> StageEvidence {
        let WatchedStage { number, watched, before, .. } = *self;
        let known = view.shown.as_ref().filter(|shown| shown.stage == number && !afresh);
        let (reading, critical): (_, Vec<RouteEvidence>) = match known {
            Some(shown) => (shown.reading, shown.critical.clone()),
            None => (
                self.trial.as_ref().map(Trial::reading),
                self.critical.iter().filter_map(CriticalRoute::shown).collect(),
            ),
        };
        StageEvidence { stage: number, watched, before, reading, critical }
    }

    pub fn render(&self, release: &ReleaseSnapshot, spent: &WaveTime, e_value: f64) -> Vec<u8> {
        wave_checkpoint::render(release, spent, self.trial.as_ref(), &self.critical, e_value)
    }
}
