//! Learns the moments of stable's servers at all times, so that the design effect of a wave can be
//! predicted before the wave.
//!
//! Invariants: pure; constant memory; of stable alone.

use super::trial::{Reference, bucket};
use crate::stats::arm::Arm;
use crate::stats::design_effect::{ServerMoments, ServerTimeCells, place};
use crate::stats::engine::{EventKind, RequestEvent};
use crate::stats::noninferiority::GroupSpread;
use std::time::Duration;

/// Scores of failures, of ln µs, of answers above p99.
#[derive(Clone, Debug, Default)]
pub struct MomentsLearner {
    cells: [ServerTimeCells; 3],
    all: [GroupSpread; 3],
}

impl MomentsLearner {
    pub fn push(&mut self, event: &RequestEvent, reference: &Reference<'_>) {
        let RequestEvent { request, what, after } = *event;
        if request.arm != Arm::Stable || request.unit.is_none() {
            return;
        }
        let failed = match what {
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected => 0.0,
            EventKind::Failed | EventKind::Broke => 1.0,
            EventKind::Arrived
            | EventKind::Excused
            | EventKind::Left { .. }
            | EventKind::Ended { .. }
            | EventKind::EndedAsClientError => return,
        };
        let (moment, place) = (request.at + after, place(Arm::Stable, request.server));
        self.add(0, moment, place, failed);
        if let Some(table) = reference.table.filter(|_| failed == 0.0) {
            let us = reference.us(after, 1.0);
            self.add(1, moment, place, us.ln());
            self.add(2, moment, place, f64::from(u8::from(table.above_p99(bucket(us)))));
        }
    }

    fn add(&mut self, of: usize, moment: Duration, place: usize, score: f64) {
        self.cells[of].push(moment, place, 1.0, score);
        let all = &mut self.all[of];
        (all.n, all.sum, all.squares) = (all.n + 1.0, all.sum + score, all.squares + score * score);
    }

    /// The moments of errors, latency, tail.
    pub fn moments(&self) -> [ServerMoments; 3] {
        std::array::from_fn(|i| {
            let variance = GroupSpread::variance(&[self.all[i], GroupSpread::default()]);
            self.cells[i].moments(variance)
        })
    }
}
