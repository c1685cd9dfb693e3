//! After a trip on little evidence: checks whether stable shows the same trouble.
//!
//! A fault that hits both versions may reach `new` a moment earlier. So after a trip on less than
//! [`LITTLE`] of evidence, stable is checked for [`WITHIN`]. If it shows the same, the ledger, the
//! alert and the status report it. The trip stands: a person decides.
//!
//! Invariants: the check changes nothing that is in force; each trip is reported once.

use crate::domain::judge::onset::{BadReason, DecisionCounts, Onsets};
use crate::domain::rollout::{RolloutState, Trip};
use crate::domain::verdict::Cause;
use crate::runtime::shared::SharedState;
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::engine::Signal;
use crate::telemetry::clock::{time_of_day, wall_ms};
use std::time::Duration;

/// The limit of little evidence, from the onset to the trip.
const LITTLE: Duration = Duration::from_secs(10);
/// How long after the trip stable is checked.
const WITHIN: Duration = Duration::from_secs(30);

pub struct Aftermath {
    rolled_back: bool,
    /// The watchdog's last decision.
    decided: Option<DecisionCounts>,
    /// The trouble to look for in stable, and until when.
    looks_for: Option<(DecisionCounts, Duration)>,
}

impl Aftermath {
    pub fn new(release: &ReleaseSnapshot) -> Aftermath {
        Aftermath { rolled_back: release.state == RolloutState::RolledBack, decided: None, looks_for: None }
    }

    pub fn decided_by(&mut self, decided: Option<DecisionCounts>) {
        self.decided = decided;
    }

    /// Called at each look of the watchdog. `release` comes from the snapshot of this look, so a
    /// trip of this look is processed at the next.
    pub fn look(&mut self, shared: &SharedState, release: &ReleaseSnapshot, onsets: &Onsets, now: Duration) {
        let rolled_back = release.state == RolloutState::RolledBack;
        if rolled_back && !std::mem::replace(&mut self.rolled_back, rolled_back) {
            let trip =
                shared.release_state(&release.release.name).and_then(|release_state| release_state.trip);
            let decided = self.decided.take();
            // Refused connections have no counts of their own here.
            let refused = || onsets.decided(BadReason::Signal(Signal::Errors), None, None, now);
            self.looks_for = trip
                .filter(is_on_little)
                .and_then(|trip| if trip.cause == Cause::Fuse { refused() } else { decided })
                .map(|of| (of, now + WITHIN));
        }
        self.rolled_back = rolled_back;
        if !rolled_back {
            self.looks_for = None;
        }
        let Some((of, until)) = &self.looks_for else { return };
        let (recent, first) = onsets.of_stable(of, now);
        if of.is_shown_by(&recent) {
            let since_ms = wall_ms(first.unwrap_or(now));
            let detail = format!(
                "stable shows the same since {}: {} of {} of stable {}",
                time_of_day(since_ms),
                recent.bad,
                recent.requests,
                of.by.words(of.limit)
            );
            shared.stable_shows_the_same(&release.release.name, since_ms, detail, &recent);
            self.looks_for = None;
        } else if now >= *until {
            self.looks_for = None;
        }
    }
}

/// A person's rollback is not based on evidence.
fn is_on_little(trip: &Trip) -> bool {
    let took = trip.onset_to_trip_ms.map(Duration::from_millis);
    trip.cause != Cause::Manual && took.is_some_and(|took| took < LITTLE)
}
