//! The decision for a request of a release.

use crate::domain::decide::Arm;
use crate::domain::engine::users::Unit;
use crate::live::snapshot::Cohort;

/// The decision for a request of a release.
#[derive(Clone, Copy)]
pub struct Decided {
    /// Index into the plan's releases.
    pub release: usize,
    pub arm: Arm,
    pub cohort: Cohort,
    pub reason: &'static str,
    pub unit: Option<Unit>,
    /// Distinguishes users in sketches; also samples users for the log.
    pub user_hash: Option<u64>,
    /// The hash alone chose the arm.
    pub drawn: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    AsDecided,
    /// Counted as a connect error of `new`; stable answered.
    ByStable,
}
