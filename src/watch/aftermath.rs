//! After a trip on little evidence: does stable show the same?
//!
//! What hits both versions may reach `new` a moment earlier. A trip on less than [`LITTLE`] of
//! evidence is therefore looked back at for [`WITHIN`]: where stable shows the same, the ledger,
//! the alert and the status say so. The trip stands: a person decides.
//!
//! Invariants: it changes nothing that is in force; each trip is told once.

use crate::domain::engine::Signal;
use crate::domain::onset::{BadBy, Decided, Onsets};
use crate::domain::rollout::{State, Trip};
use crate::domain::verdict::Cause;
use crate::live::apply::Live;
use crate::live::decided::{at_ms, time_of_day};
use crate::live::snapshot::ReleaseLive;
use std::time::Duration;

/// Evidence that is little, from the onset to the trip.
const LITTLE: Duration = Duration::from_secs(10);
/// How long after the trip it is looked for.
const WITHIN: Duration = Duration::from_secs(30);

pub struct Aftermath {
    rolled_back: bool,
    /// What the watchdog decided on last.
    decided: Option<Decided>,
    /// What is looked for in stable, and until when.
    looks_for: Option<(Decided, Duration)>,
}

impl Aftermath {
    pub fn new(release: &ReleaseLive) -> Aftermath {
        Aftermath { rolled_back: release.state == State::RolledBack, decided: None, looks_for: None }
    }

    pub fn decided_by(&mut self, decided: Option<Decided>) {
        self.decided = decided;
    }

    /// At each look of the watchdog. `release`: of the snapshot that this look is at, so that a
    /// trip of this very look is seen at the next.
    pub fn look(&mut self, live: &Live, release: &ReleaseLive, onsets: &Onsets, now: Duration) {
        let rolled_back = release.state == State::RolledBack;
        if rolled_back && !std::mem::replace(&mut self.rolled_back, rolled_back) {
            let trip = live.memory(&release.release.name).and_then(|memory| memory.trip);
            let decided = self.decided.take();
            // The fuse has no counts of its own here.
            let refused = || onsets.decided(BadBy::Signal(Signal::Errors), None, None, now);
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
            let since_ms = at_ms(first.unwrap_or(now));
            let detail = format!(
                "stable shows the same since {}: {} of {} of stable {}",
                time_of_day(since_ms),
                recent.bad,
                recent.requests,
                of.by.words(of.limit)
            );
            live.stable_shows_the_same(&release.release.name, since_ms, detail, &recent);
            self.looks_for = None;
        } else if now >= *until {
            self.looks_for = None;
        }
    }
}

/// A person's rollback is none on evidence.
fn is_on_little(trip: &Trip) -> bool {
    let took = trip.onset_to_trip_ms.map(Duration::from_millis);
    trip.cause != Cause::Manual && took.is_some_and(|took| took < LITTLE)
}
