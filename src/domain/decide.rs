//! `decide(release, hold, subject)` → arm and reason: the one place that chooses a user's arm.
//!
//! Order: no id → stable; tripped → excluded → segment → weight. Invariants: pure; no allocation.
//! The same user id, salt, weight, segments and hold give the same answer. During a hold no user is
//! in `new`.

use super::segment::{Segment, Subject, UserSet};
use super::wave::{self, Exposure};
use crate::domain::config::Release;
pub use crate::stats::arm::Arm;
use crate::stats::cohort::{Bucket, Weight};
use crate::stats::users::UserUnit;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    NoUserId,
    /// Held at 0%: by a trip, or by any other hold.
    Tripped,
    /// Index into [`Release::excluded`].
    Excluded(usize),
    /// Index into [`Release::segments`].
    Segment(usize),
    Weight,
}

impl Reason {
    pub fn label(self) -> &'static str {
        match self {
            Reason::NoUserId => "no_user_id",
            Reason::Tripped => "tripped",
            Reason::Excluded(_) => "excluded",
            Reason::Segment(_) => "segment",
            Reason::Weight => "weight",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    pub arm: Arm,
    pub reason: Reason,
    /// `None` without a user id.
    pub bucket: Option<Bucket>,
    /// The same at the resolution at which the watchdog distinguishes users.
    pub unit: Option<UserUnit>,
}

impl Decision {
    /// Did the hash alone choose the arm? Only then the other arm has a control.
    pub fn randomised(&self) -> bool {
        matches!(self.reason, Reason::Weight)
    }
}

/// The reach of a release in force right now, after trips and holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effective {
    /// No user is in `new`, for any weight and segments.
    Held,
    At(Exposure),
}

impl Effective {
    pub fn weight(self) -> Weight {
        match self {
            Effective::Held => Weight::ZERO,
            Effective::At(exposure) => exposure.weight,
        }
    }
}

pub fn decide(release: &Release, effective: Effective, subject: &Subject<'_>) -> Decision {
    let Some(id) = subject.user_id else {
        return Decision { arm: Arm::Stable, reason: Reason::NoUserId, bucket: None, unit: None };
    };
    let hash = release.salt.hash(id);
    let bucket = Bucket::of_hash(hash);
    let to =
        |arm, reason| Decision { arm, reason, bucket: Some(bucket), unit: Some(UserUnit::of_hash(hash)) };
    let Effective::At(Exposure { weight, segments }) = effective else {
        return to(Arm::Stable, Reason::Tripped);
    };
    if !(release.excluded.is_empty() && release.segments.is_empty()) {
        let number = Some(UserSet::hash(id));
        let holds = |segment: &Arc<Segment>| segment.holds_numbered(number, subject);
        if let Some(i) = release.excluded.iter().position(holds) {
            return to(Arm::Stable, Reason::Excluded(i));
        }
        if let Some(i) = release.segments.iter().take(segments).position(holds) {
            return to(Arm::New, Reason::Segment(i));
        }
    }
    to(if weight.holds(bucket) { Arm::New } else { Arm::Stable }, Reason::Weight)
}

/// Does `holdback` keep this user on stable until the release is complete?
pub fn is_held_back(release: &Release, subject: &Subject<'_>) -> bool {
    let Some(id) = subject.user_id else { return false };
    let bucket = Bucket::of_hash(release.salt.hash(id));
    let until_complete = Exposure { weight: release.weight, segments: 0 }.held_back(release.holdback);
    let pinned = |list: &[Arc<Segment>]| list.iter().any(|s| s.holds(subject));
    release.weight.holds(bucket)
        && !until_complete.weight.holds(bucket)
        && !pinned(&release.segments)
        && !pinned(&release.excluded)
}

/// The index of the wave in which this user enters, if any.
pub fn enters(release: &Release, subject: &Subject<'_>) -> Option<usize> {
    let bucket = Bucket::of_hash(release.salt.hash(subject.user_id?));
    if release.excluded.iter().any(|s| s.holds(subject)) {
        return None;
    }
    wave::first_with(&release.waves, bucket, release.segments.iter().position(|s| s.holds(subject)))
}
