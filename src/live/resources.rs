//! What was last read of the two versions' resources, for whoever judges or tells it.
//!
//! Invariants: readings belong to the evidence that they were taken in, and to a time with users in
//! `new`; what is older than a few readings is not known; a resource of the file that nobody has
//! read yet is there, with no reading.

use super::apply::View;
use super::snapshot::ReleaseLive;
use crate::domain::decide::Force;
use crate::domain::plan::Resource;
use crate::domain::resource::{Grounds, Reading};
use crate::domain::wave::Reach;
use std::sync::Arc;
use std::time::Duration;

/// A reading takes at most this long.
pub const WITHIN: Duration = Duration::from_secs(5);

/// Of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// As it was configured then.
    pub resource: Resource,
    /// The newest, whatever it is good for; and why there is none, of stable and of new.
    pub newest: Reading,
    pub lacks: [Option<String>; 2],
    /// Those that count; the newest last.
    readings: Vec<Reading>,
    /// Of the evidence, when they were taken.
    evidence_id: u64,
    /// Monotonic.
    pub at: Duration,
}

impl Seen {
    /// Takes a reading up, after those `before`.
    pub fn next(
        before: Option<Seen>,
        resource: &Resource,
        (newest, lacks): (Reading, [Option<String>; 2]),
        release: &ReleaseLive,
        now: Duration,
    ) -> Seen {
        let same = |seen: &Seen| seen.resource == *resource && seen.evidence_id == release.evidence_id;
        let mut readings = before.filter(same).map(|seen| seen.readings).unwrap_or_default();
        readings.push(newest);
        let excess = readings.len().saturating_sub(resource.limits.in_a_row);
        readings.drain(..excess);
        if !has_users(release) {
            readings.clear();
        }
        let resource = resource.clone();
        Seen { resource, newest, lacks, readings, evidence_id: release.evidence_id, at: now }
    }

    fn is_recent(&self, interval: Duration, now: Duration) -> bool {
        now.saturating_sub(self.at) <= 2 * interval + WITHIN
    }
}

fn has_users(release: &ReleaseLive) -> bool {
    match release.force {
        Force::Held => false,
        Force::At(reach) => reach != Reach::NOBODY,
    }
}

/// What was seen of a resource, if that is recent.
pub fn seen<'v>(
    release: &ReleaseLive,
    view: &'v View,
    resource: &Resource,
    now: Duration,
) -> Option<&'v Seen> {
    let interval = release.release.resource_interval;
    view.resources.iter().find(|seen| seen.resource == *resource && seen.is_recent(interval, now))
}

/// What each resource of the file is judged on, in the order of the file.
pub fn grounds(release: &ReleaseLive, view: &View, now: Duration) -> Vec<Grounds> {
    let share = release.force.weight().ratio();
    let of = |resource: &Resource| Grounds {
        name: Arc::clone(&resource.name),
        on: resource.on,
        limits: resource.limits,
        controlled: share > 0.0 && share < 1.0,
        readings: seen(release, view, resource, now)
            .filter(|seen| seen.evidence_id == release.evidence_id)
            .map(|seen| seen.readings.clone())
            .unwrap_or_default(),
    };
    release.release.resources.iter().map(of).collect()
}
