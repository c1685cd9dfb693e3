//! A critical route: stable's usual latency on it, and the trial of the present wave.
//!
//! A route has a latency table of its own: a fast route has no answers above the p99 of all, and a
//! slow one hardly any below it, so that neither could ever pass.
//! The table is learnt from stable's answers at all times, whether a wave bakes or not.
//!
//! Invariants: pure; constant memory; only events of its own route are taken.

use super::trial::{Margins, Reference, Trial};
use crate::domain::gates::margin_gates::RouteEvidence;
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::cohort::Weight;
use crate::stats::engine::{EventKind, RequestEvent};
use crate::stats::histogram;
use crate::stats::latency::AgeTable;
use std::sync::Arc;
use std::time::Duration;

/// Answers of stable that a table needs, and the time between two tables.
const TABLE_MIN: f64 = 500.0;
const TABLE_EVERY: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct CriticalRoute {
    name: Arc<str>,
    /// Its stratum number.
    stratum: u8,
    usual: Vec<f64>,
    table: Option<Arc<AgeTable>>,
    table_at: Duration,
    /// `Some` while a wave is judged.
    pub trial: Option<Trial>,
}

/// The state of a critical route that a restart keeps.
#[derive(Clone, Debug)]
pub struct CriticalRouteCheckpoint {
    pub name: String,
    pub trial: Option<Trial>,
    usual: Vec<f64>,
}

impl CriticalRoute {
    pub fn new(name: Arc<str>, stratum: u8) -> CriticalRoute {
        CriticalRoute {
            name,
            stratum,
            usual: vec![0.0; histogram::BUCKETS],
            table: None,
            table_at: Duration::ZERO,
            trial: None,
        }
    }

    /// The routes of these names, with their known state. `strata`: names of the strata.
    pub fn of(names: &[String], strata: &[Arc<str>], known: Vec<CriticalRoute>) -> Vec<CriticalRoute> {
        let mut known = known;
        let numbered = names.iter().filter_map(|name| {
            let stratum = strata.iter().position(|stratum| **stratum == **name)?;
            let was = known.iter().position(|of| *of.name == **name).map(|at| known.swap_remove(at));
            let stratum = u8::try_from(stratum).ok()?;
            Some(match was {
                Some(was) => CriticalRoute { stratum, ..was },
                None => CriticalRoute::new(strata[usize::from(stratum)].clone(), stratum),
            })
        });
        numbered.collect()
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its name, if its number has this name in `strata`.
    pub fn place(&self, strata: &[Arc<str>]) -> Option<&str> {
        let is_there = strata.get(usize::from(self.stratum)).is_some_and(|name| *name == self.name);
        is_there.then_some(&*self.name)
    }

    /// `reference`: of all requests. Its table decides whether latency is compared at all.
    pub fn push(&mut self, event: &RequestEvent, reference: &Reference<'_>) {
        let RequestEvent { request, what, after } = *event;
        if request.stratum != Some(self.stratum) {
            return;
        }
        if request.arm == Arm::Stable && matches!(what, EventKind::Answered | EventKind::Redirected) {
            let us = 1e6 * after.as_secs_f64().max(reference.floor.as_secs_f64()) / reference.factor;
            self.usual[histogram::index(us.max(0.0).round() as u64)] += 1.0;
        }
        let Some(trial) = &mut self.trial else { return };
        let table = reference.table.and(self.table.as_ref());
        trial.push(event, &Reference { table, ..*reference });
    }

    pub fn tick(&mut self, now: Duration, deadline: Duration) {
        let due = self.table.is_none() || now >= self.table_at + TABLE_EVERY;
        if due && self.usual.iter().sum::<f64>() >= TABLE_MIN {
            let edges: Vec<f64> = histogram::EDGES.iter().map(|edge| f64::from(*edge)).collect();
            self.table = Some(Arc::new(AgeTable::new(&edges, &self.usual).monotone()));
            self.table_at = now;
            self.usual.iter_mut().for_each(|n| *n /= 2.0);
        }
        if let Some(trial) = &mut self.trial {
            trial.tick(now, deadline);
        }
    }

    pub fn shown(&self) -> Option<RouteEvidence> {
        let reading = self.trial.as_ref()?.reading();
        Some(RouteEvidence { name: self.name.clone(), reading })
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.text(&self.name);
        encoder.f64s(&self.usual);
        encoder.u32(u32::from(self.trial.is_some()));
        if let Some(trial) = &self.trial {
            trial.save(encoder);
        }
    }

    /// Takes over the state that an earlier process saved.
    pub fn take(&mut self, kept: CriticalRouteCheckpoint) {
        (self.usual, self.trial) = (kept.usual, kept.trial);
    }
}

impl CriticalRouteCheckpoint {
    /// `margins`: those of the saved trial. `None`: saved under another weight, or no route.
    pub fn restore(
        margins: Margins,
        weight: Weight,
        tick: Duration,
        now: Duration,
        decoder: &mut Decoder<'_>,
    ) -> Option<CriticalRouteCheckpoint> {
        let (name, usual) = (decoder.text()?, decoder.f64s(histogram::BUCKETS)?);
        let trial = match decoder.u32()? {
            0 => None,
            _ => Some(Trial::restore(margins, weight, tick, now, decoder)?),
        };
        Some(CriticalRouteCheckpoint { name, trial, usual })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::engine::RequestStart;
    use crate::stats::noninferiority::BETA;
    use crate::stats::noninferiority::tests::Dice;
    use crate::stats::users::UserUnit;

    const MARGINS: Margins = Margins { errors: 0.01, latency: 0.1, tail: 0.5 };
    const TICK: Duration = Duration::from_millis(100);

    /// The trials of all requests and of a route with this share of them.
    fn shown(requests: u64, more_failures: f64, share_of_route: f64) -> (Trial, CriticalRoute) {
        let weight = Weight::from_parts(200_000);
        let trial = || Trial::new(MARGINS, weight, TICK, Duration::ZERO);
        let (mut all, mut refunds) = (trial(), CriticalRoute::new("refunds".into(), 3));
        refunds.trial = Some(trial());
        let mut dice = Dice(5);
        for n in 0..requests {
            let at = Duration::from_millis(10 * n);
            let unit = UserUnit::from_index((dice.uniform() * 16e6) as u32);
            let arm = if unit.bucket() < weight.parts() { Arm::New } else { Arm::Stable };
            let critical = dice.uniform() < share_of_route;
            let stratum = Some(if critical { 3 } else { 0 });
            let request =
                RequestStart { id: n, at, arm, unit: Some(unit), drawn: true, stratum, server: None };
            let worse = critical && arm == Arm::New;
            let failed = dice.uniform() < if worse { 0.001 + more_failures } else { 0.001 };
            let what = if failed { EventKind::Failed } else { EventKind::Answered };
            let after = Duration::from_micros((4_000.0 * (1.0 + dice.uniform())) as u64);
            let reference = Reference { table: None, factor: 1.0, floor: Duration::ZERO, is_warming: false };
            for event in [
                RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO },
                RequestEvent { request, what, after },
            ] {
                all.push(&event, &reference);
                refunds.push(&event, &reference);
            }
            all.tick(at, TICK);
            refunds.tick(at, TICK);
        }
        (all, refunds)
    }

    /// Five points more failures on 0.5% of the traffic.
    #[test]
    fn a_fault_of_a_critical_route_is_seen_on_it_and_not_in_the_whole() {
        let (all, refunds) = shown(600_000, 0.05, 0.005);
        assert!(all.reading().e_errors >= 1.0 / BETA, "{:?}", all.reading());
        let of = refunds.shown().unwrap().reading;
        assert!((400..800).contains(&of.compared.new), "only its own are counted: {of:?}");
        assert!(of.e_errors < 1.0, "{of:?}");
        let (_, sound) = shown(600_000, 0.0, 0.01);
        assert!(sound.shown().unwrap().reading.e_errors >= 1.0 / BETA);
    }

    #[test]
    fn a_route_has_a_table_of_its_own_and_is_kept_over_a_restart() {
        let (_, refunds) = shown(50_000, 0.0, 0.1);
        assert!(refunds.table.is_some(), "5,000 answers of stable suffice");
        let (_, few) = shown(5_000, 0.0, 0.1);
        assert!(few.table.is_none());
        let mut encoder = Encoder::new();
        refunds.save(&mut encoder);
        let bytes = encoder.finish();
        let mut decoder = Decoder::open(&bytes).unwrap();
        let weight = Weight::from_parts(200_000);
        let kept =
            CriticalRouteCheckpoint::restore(MARGINS, weight, TICK, Duration::ZERO, &mut decoder).unwrap();
        assert_eq!((decoder.end(), &*kept.name), (Some(()), "refunds"));
        let mut again = CriticalRoute::new("refunds".into(), 1);
        again.take(kept);
        assert_eq!(again.shown(), refunds.shown());
        assert_eq!(again.usual, refunds.usual);
        // With another number its state is kept.
        let strata: Vec<Arc<str>> = ["api".into(), "refunds".into()].into();
        let of = CriticalRoute::of(&["refunds".to_owned(), "gone".to_owned()], &strata, vec![refunds]);
        assert_eq!(of.iter().map(|of| of.place(&strata)).collect::<Vec<_>>(), [Some("refunds")]);
        assert!(of[0].table.is_some());
    }
}
