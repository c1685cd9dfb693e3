//! A critical route: what is usual for stable on it, and the trial of the present wave.
//!
//! A route has a table of latencies of its own: a quick one has no answers above the p99 of all, and
//! a slow one has hardly any below it, so that nothing could be shown of either. The table is learnt
//! from stable's answers at all times, whether a wave bakes or not.
//!
//! Invariants: pure; constant memory; only events of its own route are taken.

use super::shown::Route;
use super::trial::{Margins, Trial, Yardstick};
use crate::domain::cohort::Weight;
use crate::domain::decide::Arm;
use crate::domain::engine::latency::Table;
use crate::domain::engine::save::{Eye, Pen};
use crate::domain::engine::{Event, What};
use crate::domain::histogram;
use std::sync::Arc;
use std::time::Duration;

/// Answers of stable that a table needs, and how often it is made anew.
const TABLE_MIN: f64 = 500.0;
const TABLE_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Critical {
    name: Arc<str>,
    /// Its number among the routes that are judged apart.
    stratum: u8,
    usual: Vec<f64>,
    table: Option<Arc<Table>>,
    table_at: Duration,
    /// There while a wave is judged.
    pub trial: Option<Trial>,
}

/// What a restart keeps of a critical route.
#[derive(Clone, Debug)]
pub struct Kept {
    pub name: String,
    pub trial: Option<Trial>,
    usual: Vec<f64>,
}

impl Critical {
    pub fn new(name: Arc<str>, stratum: u8) -> Critical {
        Critical {
            name,
            stratum,
            usual: vec![0.0; histogram::BUCKETS],
            table: None,
            table_at: Duration::ZERO,
            trial: None,
        }
    }

    /// The routes of these names, each with what is known of it; `strata`: names of the routes that
    /// are judged apart.
    pub fn of(names: &[String], strata: &[Arc<str>], known: Vec<Critical>) -> Vec<Critical> {
        let mut known = known;
        let numbered = names.iter().filter_map(|name| {
            let stratum = strata.iter().position(|stratum| **stratum == **name)?;
            let was = known.iter().position(|of| *of.name == **name).map(|at| known.swap_remove(at));
            let stratum = u8::try_from(stratum).ok()?;
            Some(match was {
                Some(was) => Critical { stratum, ..was },
                None => Critical::new(strata[usize::from(stratum)].clone(), stratum),
            })
        });
        numbered.collect()
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its name, if it has its number among these.
    pub fn place(&self, strata: &[Arc<str>]) -> Option<&str> {
        let is_there = strata.get(usize::from(self.stratum)).is_some_and(|name| *name == self.name);
        is_there.then_some(&*self.name)
    }

    /// `yardstick`: of all requests; its table says whether latency is compared at all.
    pub fn push(&mut self, event: &Event, yardstick: &Yardstick<'_>) {
        let Event { request, what, after } = *event;
        if request.stratum != Some(self.stratum) {
            return;
        }
        if request.arm == Arm::Stable && matches!(what, What::Answered | What::Redirected) {
            let us = 1e6 * after.as_secs_f64().max(yardstick.floor.as_secs_f64()) / yardstick.factor;
            self.usual[histogram::index(us.max(0.0).round() as u64)] += 1.0;
        }
        let Some(trial) = &mut self.trial else { return };
        let table = yardstick.table.and(self.table.as_ref());
        trial.push(event, &Yardstick { table, ..*yardstick });
    }

    pub fn tick(&mut self, now: Duration, deadline: Duration) {
        let due = self.table.is_none() || now >= self.table_at + TABLE_EVERY;
        if due && self.usual.iter().sum::<f64>() >= TABLE_MIN {
            let edges: Vec<f64> = histogram::EDGES.iter().map(|edge| f64::from(*edge)).collect();
            self.table = Some(Arc::new(Table::new(&edges, &self.usual).monotone()));
            self.table_at = now;
            self.usual.iter_mut().for_each(|n| *n /= 2.0);
        }
        if let Some(trial) = &mut self.trial {
            trial.tick(now, deadline);
        }
    }

    pub fn shown(&self) -> Option<Route> {
        let reading = self.trial.as_ref()?.reading();
        Some(Route { name: self.name.clone(), reading })
    }

    pub fn save(&self, pen: &mut Pen) {
        pen.text(&self.name);
        pen.f64s(&self.usual);
        pen.u32(u32::from(self.trial.is_some()));
        if let Some(trial) = &self.trial {
            trial.save(pen);
        }
    }

    /// Takes what an earlier process has kept of this route.
    pub fn take(&mut self, kept: Kept) {
        (self.usual, self.trial) = (kept.usual, kept.trial);
    }
}

impl Kept {
    /// `margins`: those that it was saved under. `None`: it was saved under another weight, or is no
    /// such thing.
    pub fn restore(
        margins: Margins,
        weight: Weight,
        tick: Duration,
        now: Duration,
        eye: &mut Eye<'_>,
    ) -> Option<Kept> {
        let (name, usual) = (eye.text()?, eye.f64s(histogram::BUCKETS)?);
        let trial = match eye.u32()? {
            0 => None,
            _ => Some(Trial::restore(margins, weight, tick, now, eye)?),
        };
        Some(Kept { name, trial, usual })
    }
}
