//! The decision for a request of a release.

use crate::domain::decide::{Decision, Reason};
use crate::runtime::snapshot::CohortLabel;
use crate::stats::arm::Arm;
use crate::stats::users::UserUnit;

/// The decision for a request of a release.
#[derive(Clone, Copy)]
pub struct Decided {
    /// Index into the plan's releases.
    pub release: usize,
    pub arm: Arm,
    pub cohort: CohortLabel,
    pub reason: &'static str,
    pub unit: Option<UserUnit>,
    /// Distinguishes users in sketches; also samples users for the log.
    pub user_hash: Option<u64>,
    /// The hash alone chose the arm.
    pub drawn: bool,
}

impl Decided {
    pub fn new(release: usize, decision: &Decision, user_hash: Option<u64>) -> Decided {
        Decided {
            release,
            arm: decision.arm,
            cohort: match decision.reason {
                Reason::Segment(i) => CohortLabel::Segment(i),
                Reason::Weight => CohortLabel::Weight,
                Reason::NoUserId | Reason::Tripped | Reason::Excluded(_) => CohortLabel::None,
            },
            reason: decision.reason.label(),
            unit: decision.unit,
            user_hash,
            drawn: decision.randomised(),
        }
    }
}

/// The arm that served a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    AsDecided,
    /// Counted as a connect error of `new`; stable answered.
    ByStable,
}
