//! A trial as bytes and back, so that a restart keeps the evidence of the present wave.
//!
//! Saved: every final interval that was bet on, the groups of users, and the sketches of distinct
//! users.
//! Not saved: intervals that are not final, and the slot that is not full. Both are cut by arrival
//! time alone, so their loss is not biased towards either arm.
//!
//! Invariants: a read returns what was written, or nothing; a trial of another weight is nothing.

use super::{Margins, Trial, UserCluster};
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::cohort::Weight;
use crate::stats::design_effect::ServerTimeCells;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::hyperloglog::REGISTERS;
use crate::stats::noninferiority::{BodyTest, FailureTest, GroupSpread, TailTest};
use crate::stats::users::CLUSTERS;
use std::time::Duration;

impl Trial {
    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64(self.share);
        let of = &self.reading;
        for pair in [of.requests, of.compared, of.failed, of.timed, of.slow] {
            pair.save(encoder);
        }
        self.errors.save(encoder);
        self.body.save(encoder);
        self.tail.save(encoder);
        for spread in self.latencies {
            encoder.f64s(&[spread.n, spread.sum, spread.squares]);
        }
        self.cells.iter().for_each(|cells| cells.save(encoder));
        for sketch in &self.users {
            encoder.bytes(&sketch[..]);
        }
        let used: Vec<_> = self.clusters.iter().enumerate().filter(|(_, c)| c.arm.is_some()).collect();
        encoder.u64(used.len() as u64);
        for (index, cluster) in used {
            encoder.u32(index as u32);
            encoder.u32(u32::from(cluster.arm == Some(Arm::New)));
            for count in [cluster.requests, cluster.failed, cluster.timed, cluster.slow] {
                encoder.u32(count);
            }
            encoder.f64(f64::from(cluster.log_latency));
        }
    }

    /// `margins`: those of the saved trial. `None`: saved under another weight, or no trial.
    pub fn restore(
        margins: Margins,
        weight: Weight,
        tick: Duration,
        now: Duration,
        decoder: &mut Decoder<'_>,
    ) -> Option<Trial> {
        let mut trial = Trial::new(margins, weight, tick, now);
        (decoder.f64()? == trial.share).then_some(())?;
        let mut pair = || PerArm::restore(decoder);
        let of = &mut trial.reading;
        (of.requests, of.compared, of.failed) = (pair()?, pair()?, pair()?);
        (of.timed, of.slow) = (pair()?, pair()?);
        trial.errors = FailureTest::restore(margins.errors, decoder)?;
        trial.body = BodyTest::restore(decoder)?;
        trial.tail = TailTest::restore(margins.tail_ratio(), decoder)?;
        for spread in &mut trial.latencies {
            let mut numbers = [0.0; 3];
            decoder.logs(&mut numbers)?;
            let [n, sum, squares] = numbers;
            (n >= 0.0 && squares >= 0.0).then_some(())?;
            *spread = GroupSpread { n, sum, squares };
        }
        for cells in &mut trial.cells {
            *cells = ServerTimeCells::restore(decoder)?;
        }
        for sketch in &mut trial.users {
            sketch.copy_from_slice(decoder.bytes(REGISTERS)?);
            sketch.iter().all(|rank| u32::from(*rank) < u64::BITS).then_some(())?;
        }
        let used = decoder.length(CLUSTER_BYTES).filter(|used| *used <= CLUSTERS)?;
        for _ in 0..used {
            let cluster = trial.clusters.get_mut(decoder.u32()? as usize)?;
            let arm = if decoder.u32()? == 1 { Arm::New } else { Arm::Stable };
            let mut count = || decoder.u32();
            let (requests, failed, timed, slow) = (count()?, count()?, count()?, count()?);
            let log_latency = decoder.log()? as f32;
            log_latency.is_finite().then_some(())?;
            *cluster = UserCluster { requests, failed, timed, slow, log_latency, arm: Some(arm) };
        }
        Some(trial)
    }
}

/// Size of one group of users in the file.
const CLUSTER_BYTES: usize = 6 * 4 + 8;
