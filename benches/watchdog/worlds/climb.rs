//! The promotion of a version that is no worse, through the plan of a release (5, 20, 50, 100%)
//! beside the judge, with the gates and the wave controller of the product.
//!
//! Invariants: a wave opens by [`WaveController`] alone, from the evidence of a [`Trial`] of the
//! same events; servers are healthy, the state is on disk, and nobody promotes by hand.

use super::world::{Spell, World};
use grayling::domain::gates::trial::{Margins, Reference, Trial};
use grayling::domain::gates::{
    self, GateInput, HealthyServers, PromotionState, WatchdogReport, WaveEvidence,
};
use grayling::domain::rollout::wave_controller::{WaveAction, WaveController, WavePosition, WaveTime};
use grayling::domain::verdict::{Judgement, WatchdogState};
use grayling::domain::wave::{Exposure, Promotion, Wave};
use grayling::stats::cohort::Weight;
use grayling::stats::engine::{Engine, RequestEvent};
use grayling::stats::hypergeometric_bet::PerArm;
use std::time::Duration;

/// The default margins.
const MARGINS: Margins = Margins { errors: 0.001, latency: 0.1, tail: 0.5 };
/// Percent in `new`, and minutes of bake at [`RATE`] requests a second.
const PLAN: [(f64, f64); 4] = [(5.0, 30.0), (20.0, 30.0), (50.0, 30.0), (100.0, 10.0)];
const RATE: f64 = 200.0;
/// Ticks between two looks of the controller.
const LOOK: u64 = 10;

/// The result of one look at the plan.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step {
    Stays,
    Raise(Weight),
    Complete,
}

pub struct Plan {
    waves: Vec<Wave>,
    present: usize,
    trial: Trial,
    climb: WaveController,
    watched: Duration,
    last: Duration,
    tick: Duration,
    floor: Duration,
    /// The gates that did not pass at the last look.
    pub missing: Vec<String>,
}

/// The bake is longer where fewer requests come.
fn bake(minutes: f64, rate: f64) -> Duration {
    Duration::from_secs_f64(60.0 * minutes * (RATE / rate).max(1.0))
}

/// The total bake of the plan.
pub fn bakes(rate: f64) -> Duration {
    PLAN.iter().map(|(_, minutes)| bake(*minutes, rate)).sum()
}

/// The same world, where the plan begins at its first weight. A spell of `new` follows each raise,
/// with the delay that it had after the last one.
pub fn world(of: &World) -> World {
    let last = of.waves.last().map_or(0.0, |(at, _)| *at);
    let after =
        |spell: &Spell| Spell { at: if spell.at >= last { spell.at - last } else { spell.at }, ..*spell };
    World { waves: vec![(0.0, PLAN[0].0)], spells: of.spells.iter().map(after).collect(), ..of.clone() }
}

impl Plan {
    /// Opens its first wave now.
    pub fn new(rate: f64, tick: Duration, floor: Duration, now: Duration) -> Plan {
        let wave = |(percent, minutes): (f64, f64)| {
            let exposure = Exposure { weight: Weight::from_parts((percent * 10_000.0) as u32), segments: 0 };
            Wave {
                name: format!("{percent}%"),
                exposure,
                until_complete: exposure,
                bake: bake(minutes, rate),
                requests_min: 500,
                users_min: 5,
                promotion: Promotion::Auto,
            }
        };
        let waves: Vec<Wave> = PLAN.into_iter().map(wave).collect();
        Plan {
            trial: Trial::new(MARGINS, waves[0].until_complete.weight, tick, now),
            waves,
            present: 0,
            climb: WaveController::new(0, now),
            watched: Duration::ZERO,
            last: now,
            tick,
            floor,
            missing: vec![],
        }
    }

    pub fn percent(&self) -> f64 {
        PLAN[self.present].0
    }

    pub fn push_all(&mut self, events: &[RequestEvent], engine: &Engine) {
        for event in events {
            let (table, factor) = (engine.reference(), engine.factor(event.request.unit));
            let is_warming = engine.is_warming(&event.request);
            self.trial.push(event, &Reference { table, factor, floor: self.floor, is_warming });
        }
    }

    pub fn look(&mut self, now: Duration, deadline: Duration, ticks: u64, judgement: &Judgement) -> Step {
        self.trial.tick(now, deadline);
        let passed = now.saturating_sub(std::mem::replace(&mut self.last, now));
        if judgement.state != WatchdogState::Blind {
            self.watched += passed;
        }
        let wave = &self.waves[self.present];
        if !ticks.is_multiple_of(LOOK) || self.watched < wave.bake {
            return Step::Stays;
        }
        let standing = WavePosition {
            stage: self.present as u64,
            waves: &self.waves,
            present: Some(self.present),
            finished: false,
            held: false,
            paused: false,
            watched: self.watched,
            before: WaveTime::default(),
        };
        let servers = PerArm::new(1, 1);
        let wave_evidence = WaveEvidence {
            controlled: wave.controlled(),
            baked: self.watched,
            bake: wave.bake,
            requests_min: wave.requests_min,
            users_min: wave.users_min,
            margins: MARGINS,
            share: wave.until_complete.weight.ratio(),
            reading: self.trial.reading(),
            critical: vec![],
            servers: HealthyServers { all: servers, healthy: servers },
            watchdog: WatchdogReport::new(judgement, None),
            resources: vec![],
        };
        let follows = self.present + 1 < self.waves.len();
        let promotion = follows.then_some(PromotionState { promotion: Promotion::Auto, hours: None });
        let input =
            GateInput { wave_evidence: Some(wave_evidence), promotion, durable: true, barred_by: None };
        let wave_status = self.climb.look(&standing, Some(input), now);
        let missing = wave_status.gates.iter().filter(|gate| gate.verdict != gates::GateVerdict::Pass);
        self.missing = missing.map(|gate| format!("{}: {}", gate.name, gate.detail)).collect();
        match wave_status.act {
            WaveAction::Open => {
                self.present += 1;
                let weight = self.waves[self.present].until_complete.weight;
                self.trial = Trial::new(MARGINS, weight, self.tick, now);
                self.watched = Duration::ZERO;
                Step::Raise(weight)
            }
            WaveAction::Finish => Step::Complete,
            WaveAction::Wait | WaveAction::TellHold => Step::Stays,
        }
    }
}
