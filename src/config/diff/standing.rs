//! The state of releases, and the effect of an edit on it, computed by the state machine
//! (`domain::rollout`), so that its holds and rules apply here too.
//!
//! Invariants: pure; the file's state ([`ReachState::given`]) and the one in force
//! ([`ReachState::effective`]) are never mixed.

use super::versions;
use crate::domain::config::{Config, Release};
use crate::domain::decide::Effective;
use crate::domain::rollout::version::{self, VersionChange};
use crate::domain::rollout::{self, Conditions, Hold, ReleaseState, RolloutInput, RolloutStep};
use crate::domain::segment::Segment;
use crate::domain::wave::Exposure;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The state of all releases, and what holds them. The default: no memory and no holds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Standings {
    /// By name, including releases that the running file no longer names.
    pub releases: BTreeMap<String, ReleaseStanding>,
    /// The initial memory of a release that is not among them.
    pub stranger: ReleaseState,
    pub now: Conditions,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReleaseStanding {
    pub release_state: ReleaseState,
    /// The reach in force.
    pub exposure: Exposure,
    /// The state of its versions, for an edit of them.
    pub version: version::VersionState,
    /// The release whose rollback forbids users on the servers of this one's `new`.
    pub barred_by: Option<String>,
}

impl Standings {
    pub fn of(&self, release: &Release) -> ReleaseStanding {
        let stranger =
            || ReleaseStanding { release_state: self.stranger.clone(), ..ReleaseStanding::default() };
        let mut standing = self.releases.get(&release.name).cloned().unwrap_or_else(stranger);
        if standing.release_state.attempt == 0 {
            standing.release_state.attempt = release.attempt;
        }
        standing
    }
}

/// The reach that a file gives a release, and the part of it in force.
#[derive(Debug, Clone, PartialEq)]
pub struct ReachState {
    pub release_state: ReleaseState,
    pub given: Exposure,
    pub effective: Effective,
    /// The reason why less is in force.
    pub hold: Option<Hold>,
}

impl ReachState {
    pub fn of(release: &Release, standing: &ReleaseStanding, now: Conditions) -> ReachState {
        let release_state = standing.release_state.clone();
        let given = release_state.exposure(release.strategy());
        let (mut effective, mut hold) = rollout::effective(&release_state, given, release.attempt, now);
        if let (Some(by), None) = (&standing.barred_by, &release_state.trip) {
            (effective, hold) = (Effective::Held, Some(Hold::Barred { by: by.clone() }));
        }
        ReachState { release_state, given, effective, hold }
    }

    /// The segments that are in `new`.
    fn in_force(&self, release: &Release) -> Vec<Arc<Segment>> {
        match self.effective {
            Effective::Held => vec![],
            Effective::At(exposure) => release.segments.iter().take(exposure.segments).cloned().collect(),
        }
    }

    /// The hold and the command that ends it: `rolled back; ...`.
    pub fn why_held(&self, name: &str) -> Option<String> {
        self.hold.as_ref().map(|hold| hold.explain(name))
    }
}

/// A release before and after an edit.
pub struct ReleaseEdit<'a> {
    pub before: &'a Release,
    pub after: &'a Release,
    pub standing: ReleaseStanding,
    pub change: VersionChange,
    pub was: ReachState,
    pub is: ReachState,
    /// The edit begins another attempt.
    pub rearmed: bool,
}

impl<'a> ReleaseEdit<'a> {
    /// `old` and `new` are the plans of the two releases.
    pub fn new(
        [old, new]: [&Config; 2],
        before: &'a Release,
        after: &'a Release,
        standings: &Standings,
    ) -> ReleaseEdit<'a> {
        let standing = standings.of(before);
        let change = versions::change(old, new, before, after, &standing);
        let (was, strategy) = (ReachState::of(before, &standing, standings.now), after.strategy());
        let configured = RolloutInput::Configure {
            attempt: after.attempt,
            strategy,
            standing: standing.exposure,
            versions: after.versions(new),
            // An undeclared change is refused: the rest is compared as if it were declared the
            // same.
            change: if change == VersionChange::Undeclared { VersionChange::Same } else { change },
            weight_edited: before.weight_by_hand() != after.weight_by_hand(),
        };
        let (mut release_state, step) = rollout::step(&standing.release_state, configured);
        if standings.now.stop_file {
            release_state = rollout::step(&release_state, RolloutInput::Stop { strategy }).0;
        }
        // It stays barred while it leads to the same servers and the other release's rollback
        // stands.
        let same_servers = old.upstreams[before.new].servers == new.upstreams[after.new].servers;
        let stands = |by: &String| standings.releases.get(by).is_some_and(|s| s.release_state.trip.is_some());
        let barred_by = standing.barred_by.clone().filter(|by| same_servers && stands(by));
        let next = ReleaseStanding { release_state, barred_by, ..standing.clone() };
        let is = ReachState::of(after, &next, standings.now);
        ReleaseEdit { before, after, standing, change, was, is, rearmed: step == RolloutStep::Rearmed }
    }

    /// True if every user stays in the same arm.
    pub fn moves_nobody(&self) -> bool {
        let same = |a: &[Arc<Segment>], b: &[Arc<Segment>]| {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
        };
        let [was, is] = [(&self.was, self.before), (&self.is, self.after)].map(|(s, r)| s.in_force(r));
        match (self.was.effective, self.is.effective) {
            (Effective::Held, Effective::Held) => true,
            (a, b) => {
                a.weight() == b.weight()
                    && self.before.salt == self.after.salt
                    && same(&was, &is)
                    && same(&self.before.excluded, &self.after.excluded)
            }
        }
    }

    /// A suffix for the file's weight and waves, if they are not in force at once.
    pub fn later(&self) -> &'static str {
        if self.is.effective == Effective::At(self.is.given) {
            ""
        } else {
            ", which waits for the end of the hold"
        }
    }
}
