//! Bad requests of both arms in the last minute, ten seconds and two seconds, by user.
//!
//! Owns the samples for ceilings. Invariants: pure; a user counts as defined in
//! [`crate::domain::judge::bad_requests`], so no account crosses a ceiling alone; all spans end at
//! the same moment.

use super::ceiling::{CeilingSample, RECENT, USERS_MIN, WINDOW};
use crate::domain::judge::bad_requests::BadRequests;
use crate::domain::judge::verdict_inputs::CeilingCrossing;
use crate::stats::arm::Arm;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::users::UserUnit;
use std::time::Duration;

/// A precaution requires that both arms are bad in the very last seconds too.
const CURRENT: Duration = Duration::from_secs(2);
const MINUTE: usize = 0;
const LAST: usize = 1;
const NOW: usize = 2;

#[derive(Clone, Debug)]
pub struct TrailingWindows {
    /// By span and arm.
    bad: [[BadRequests; 2]; 3],
}

impl Default for TrailingWindows {
    fn default() -> Self {
        TrailingWindows {
            bad: [WINDOW, RECENT, CURRENT].map(|span| Arm::BOTH.map(|_| BadRequests::new(span))),
        }
    }
}

impl TrailingWindows {
    pub fn came(&mut self, arm: Arm, requests: u64) {
        self.bad.iter_mut().for_each(|span| span[arm.index()].came(requests));
    }

    pub fn was_bad(&mut self, arm: Arm, user: Option<UserUnit>) {
        self.bad.iter_mut().for_each(|span| span[arm.index()].was_bad(user));
    }

    /// Adds `n` bad requests, with users distributed like the recorded ones.
    pub fn more_were_bad(&mut self, arm: Arm, n: u64) {
        self.bad.iter_mut().for_each(|span| span[arm.index()].more_were_bad(n));
    }

    pub fn close(&mut self, end: Duration) {
        self.bad.iter_mut().flatten().for_each(|bad| bad.close(end));
    }

    fn sample(&self, span: usize) -> CeilingSample {
        let [stable, new] = &self.bad[span];
        CeilingSample {
            requests: PerArm::new(new.requests(), stable.requests()),
            bad: PerArm::new(new.count(), stable.count()),
        }
    }

    /// The last minute.
    pub fn minute(&self) -> CeilingSample {
        self.sample(MINUTE)
    }

    /// The last ten seconds.
    pub fn last(&self) -> CeilingSample {
        self.sample(LAST)
    }

    /// The samples for a ceiling: empty if too few users of `new` are affected.
    pub fn crossing(&self) -> CeilingCrossing {
        let enough = |span: usize| {
            let users = self.bad[span][Arm::New.index()].users();
            if users >= USERS_MIN { self.sample(span) } else { CeilingSample::default() }
        };
        CeilingCrossing {
            minute: enough(MINUTE),
            recent: enough(LAST),
            all: self.last(),
            current: self.sample(NOW),
        }
    }
}

/// Stable's own share of bad requests before any user was in `new`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StableBefore {
    requests: f64,
    bad: f64,
}

/// Requests of stable from which its own share is known.
pub const KNOWN: f64 = 200.0;
/// A default ceiling does not fit if stable's own share exceeds this part of it: the only possible
/// result would be that both arms are bad ([`super::ceiling::NEAR`]).
const FITS: f64 = super::ceiling::NEAR;
/// A ceiling set in the file does not fit if stable exceeds it by half.
const FITS_STATED: f64 = 1.5;
/// Such a ceiling is then raised to this multiple of stable's own share.
const TIMES_OWN: f64 = 2.0;
/// The part of the slow average that each step keeps.
const KEEPS: f64 = 0.999;

/// The ceiling adapted to this service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FittedCeiling {
    /// As configured.
    AsGiven,
    /// Set aside: it is a default, and stable itself has this share of bad requests.
    SetAside { own: f64 },
    /// Raised: the file sets it, and stable itself has this share.
    Raised { own: f64, limit: f64 },
}

impl StableBefore {
    /// Takes the last ten seconds of stable. Called at most once per ten seconds.
    pub fn learn(&mut self, last: CeilingSample) {
        self.requests = self.requests * KEEPS + last.requests.stable as f64;
        self.bad = self.bad * KEEPS + last.bad.stable as f64;
    }

    pub fn parts(&self) -> [f64; 2] {
        [self.requests, self.bad]
    }

    pub fn from_parts([requests, bad]: [f64; 2]) -> StableBefore {
        StableBefore { requests, bad }
    }

    /// Stable's own share of bad requests, if known.
    pub fn own(&self) -> Option<f64> {
        (self.requests >= KNOWN).then(|| self.bad / self.requests)
    }

    /// Does a ceiling of this share fit? `is_stated`: the file sets it.
    pub fn fit(&self, limit: f64, is_stated: bool) -> FittedCeiling {
        let most = limit * if is_stated { FITS_STATED } else { FITS };
        match self.own().filter(|own| *own > most) {
            None => FittedCeiling::AsGiven,
            Some(own) if is_stated => FittedCeiling::Raised { own, limit: (TIMES_OWN * own).max(limit) },
            Some(own) => FittedCeiling::SetAside { own },
        }
    }
}

impl FittedCeiling {
    /// The limit in force; `None`: no limit.
    pub fn limit(self, given: f64) -> Option<f64> {
        match self {
            FittedCeiling::AsGiven => Some(given),
            FittedCeiling::SetAside { .. } => None,
            FittedCeiling::Raised { limit, .. } => Some(limit.min(1.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stable(requests: u64, bad: u64) -> CeilingSample {
        CeilingSample { requests: PerArm::new(0, requests), bad: PerArm::new(0, bad) }
    }

    #[test]
    fn a_ceiling_fits_unless_stable_is_near_it_or_exceeds_one_that_is_stated() {
        let mut before = StableBefore::default();
        assert_eq!(before.fit(0.02, false), FittedCeiling::AsGiven, "nothing is known");
        (0..100).for_each(|_| before.learn(stable(100, 2)));
        assert_eq!(before.fit(0.03, false), FittedCeiling::AsGiven);
        assert_eq!(before.fit(0.02, true), FittedCeiling::AsGiven);
        (0..100).for_each(|_| before.learn(stable(100, 8)));
        let own = before.own().expect("known");
        assert!((0.04..0.06).contains(&own), "{own}");
        assert_eq!(before.fit(0.02, false), FittedCeiling::SetAside { own });
        assert_eq!(before.fit(0.02, true), FittedCeiling::Raised { own, limit: 2.0 * own });
        assert_eq!(before.fit(0.04, true), FittedCeiling::AsGiven);
    }

    #[test]
    fn no_account_crosses_a_ceiling_alone() {
        let mut spans = TrailingWindows::default();
        spans.came(Arm::New, 100);
        (0..50).for_each(|_| spans.was_bad(Arm::New, Some(UserUnit::from_index(7))));
        spans.close(Duration::from_secs(1));
        assert_eq!(spans.crossing().minute, CeilingSample::default());
        assert_eq!(spans.crossing().all.bad.new, 2);
        (0..10).for_each(|user| spans.was_bad(Arm::New, Some(UserUnit::from_index(user))));
        spans.close(Duration::from_secs(2));
        assert_eq!(spans.crossing().minute.bad.new, 11);
    }
}
