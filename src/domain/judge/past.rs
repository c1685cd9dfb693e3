//! The judge's use of `new`'s own past ([`crate::domain::before`]).
//!
//! Invariants: it never trips; it reports nothing as worse once the release is soaked.

use super::*;
use crate::domain::before::{Before, Says};

impl Judge {
    /// The past of `new`.
    pub fn own_past(&self) -> &Before {
        &self.own_past
    }

    pub fn knows_own_past(&mut self, past: Before) {
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
        !self.soaked && matches!(self.own_past.says(), Says::Worse(_))
    }

    /// Progress of the signal towards an alarm, and the numbers.
    pub(super) fn told_of_past(&self) -> (f64, String) {
        match self.soaked {
            true => (0.0, "the soak is over: it is not compared with its past any more".to_owned()),
            false => (self.own_past.ratio(), self.own_past.detail()),
        }
    }
}
