//! The judge's use of `new`'s own past ([`crate::domain::judge::own_past`]).
//!
//! Invariants: it never trips; it reports nothing as worse once the release is soaked.

use super::*;
use crate::domain::judge::own_past::{self, OwnPast, Report};

impl Judge {
    /// The past of `new`.
    pub fn own_past(&self) -> &OwnPast {
        &self.own_past
    }

    pub fn knows_own_past(&mut self, past: OwnPast) {
        self.own_past = past;
    }

    /// Ends or resumes the comparison with `new`'s own past.
    pub fn set_soaked(&mut self, soaked: bool) {
        self.soaked = soaked;
    }

    pub(super) fn tick_past(&mut self, now: Duration) {
        self.own_past.set_floor(self.limits.latency_floor);
        self.own_past.tick(now, self.engine.weight().ratio());
    }

    pub(super) fn is_worse_than_before(&self) -> bool {
        !self.soaked && matches!(self.own_past.result(), own_past::PastResult::Worse(_))
    }

    /// Progress of the signal towards an alarm.
    pub(super) fn past_ratio(&self) -> f64 {
        if self.soaked { 0.0 } else { self.own_past.ratio() }
    }

    /// `None`: the soak is over, and it is not compared with its past any more.
    pub(super) fn past_report(&self) -> Option<Report> {
        (!self.soaked).then(|| self.own_past.report())
    }
}
