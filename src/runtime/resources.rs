//! The latest resource readings of the two versions, for judgement and display.
//!
//! Invariants: readings belong to the evidence that they were taken in, and to a time with users in
//! `new`. Readings older than a few intervals are not used. A configured resource without a reading
//! is present, with an empty reading.

use super::snapshot::ReleaseSnapshot;
use crate::domain::config::ResourceConfig;
use crate::domain::decide::Effective;
use crate::domain::resource::{ResourceInputs, ResourceReading};
use crate::domain::wave::Exposure;
use crate::runtime::shared::ReleaseView;
use std::sync::Arc;
use std::time::Duration;

/// Time limit of a reading.
pub const WITHIN: Duration = Duration::from_secs(5);

/// The readings of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceReadings {
    /// The configuration at the time of the reading.
    pub resource: ResourceConfig,
    /// The newest reading, even if unusable; and why values are missing, of stable and of new.
    pub newest: ResourceReading,
    pub lacks: [Option<String>; 2],
    /// The usable readings; the newest last.
    readings: Vec<ResourceReading>,
    /// The evidence at the time of the readings.
    evidence_id: u64,
    /// Monotonic.
    pub at: Duration,
}

impl ResourceReadings {
    /// Adds a reading to those of `before`.
    pub fn next(
        before: Option<ResourceReadings>,
        resource: &ResourceConfig,
        (newest, lacks): (ResourceReading, [Option<String>; 2]),
        release: &ReleaseSnapshot,
        now: Duration,
    ) -> ResourceReadings {
        let same =
            |seen: &ResourceReadings| seen.resource == *resource && seen.evidence_id == release.evidence_id;
        let mut readings = before.filter(same).map(|seen| seen.readings).unwrap_or_default();
        readings.push(newest);
        let excess = readings.len().saturating_sub(resource.limits.in_a_row);
        readings.drain(..excess);
        if !has_users(release) {
            readings.clear();
        }
        let resource = resource.clone();
        ResourceReadings { resource, newest, lacks, readings, evidence_id: release.evidence_id, at: now }
    }

    fn is_recent(&self, interval: Duration, now: Duration) -> bool {
        now.saturating_sub(self.at) <= 2 * interval + WITHIN
    }
}

fn has_users(release: &ReleaseSnapshot) -> bool {
    match release.effective {
        Effective::Held => false,
        Effective::At(exposure) => exposure != Exposure::NOBODY,
    }
}

/// The readings of a resource, if they are recent.
pub fn seen<'v>(
    release: &ReleaseSnapshot,
    view: &'v ReleaseView,
    resource: &ResourceConfig,
    now: Duration,
) -> Option<&'v ResourceReadings> {
    let interval = release.release.resource_interval;
    view.resources.iter().find(|seen| seen.resource == *resource && seen.is_recent(interval, now))
}

/// The grounds for each configured resource, in the order of the file.
pub fn inputs(release: &ReleaseSnapshot, view: &ReleaseView, now: Duration) -> Vec<ResourceInputs> {
    let share = release.effective.weight().ratio();
    let of = |resource: &ResourceConfig| ResourceInputs {
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
