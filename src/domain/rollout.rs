//! The state of a release beside its file, and its effect on the weight.
//!
//! A pure state machine: `step(state, input) → state`, and `force(state, file, conditions) → what
//! is in force`.
//! [`wave_controller`] decides when the next wave may open; this file applies an opening, and every
//! other input, to the state.
//!
//! Invariants (each has a test that tries to break it):
//! * A trip is a latch: only `Resume` of the rollback and a higher attempt clear it.
//!   A reload, a restart, or an older attempt does not.
//! * A resume ends the hold that it names, and no other.
//! * The weight in force is never above the file's weight, or the plan's current wave.
//! * Waves open one at a time, in their order; none while the release is held.
//! * In a maintenance no wave opens, and none begins over a trip.
//! * An attempt lower than the highest seen is held at 0%: a reverted file must not bring back a
//!   build.
//! * Users that `holdback` keeps on stable stay there until the plan is finished; for a weight set
//!   by hand, until the file changes.
//! * A freeze limits the weight to its value at that time; it never raises it.
//! * Another version ([`version`]) begins at 0%, with new evidence: the weight that the previous
//!   version earned does not apply to it.

mod progress;
pub(crate) mod version;
pub mod wave_controller;

use super::decide::Effective;
use super::maintenance::Maintenance;
use super::verdict::Cause;
use super::wave::{Exposure, Strategy, Wave};
use crate::stats::cohort::Weight;
pub use progress::PlanProgress;
use version::{VersionChange, Versions};

/// The memory of one release, which survives a restart.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ReleaseState {
    /// The highest attempt seen.
    pub attempt: u64,
    pub trip: Option<Trip>,
    pub freeze: Option<Freeze>,
    /// Held at 0% until a person ends the hold.
    pub awaits: Option<ManualHold>,
    /// The current wave; `None` before the first one, and for a weight set by hand.
    pub progress: Option<PlanProgress>,
    pub pause: Option<Pause>,
    /// Ceilings only report, and waves hold.
    /// It concerns the environment of the release, so another attempt or version does not end it.
    pub maintenance: Option<Maintenance>,
    /// The servers behind both arms in the last file.
    pub versions: Versions,
    /// Number of the current stage: it changes whenever a bake starts again, so that no saved bake
    /// is used for another stage. The writer sets it; 0: not yet.
    pub stage: u64,
    /// Since when it is complete, in milliseconds since the Unix epoch; `None`: it is not.
    pub complete_since_ms: Option<i64>,
}

impl ReleaseState {
    /// The current holds that a person may end.
    pub fn ends(&self) -> Vec<HoldKind> {
        let holds = |ends: &HoldKind| match ends {
            HoldKind::Rollback => self.trip.is_some(),
            HoldKind::Freeze => self.freeze.is_some(),
            HoldKind::Hold => self.awaits.is_some(),
            HoldKind::Pause => self.pause.is_some(),
        };
        HoldKind::ALL.into_iter().filter(holds).collect()
    }

    /// Sets the number of the ledger entry on every decision since the last call.
    pub fn number(&mut self, entry: u64) {
        let decided = [
            self.trip.as_mut().map(|t| &mut t.entry),
            self.freeze.as_mut().map(|f| &mut f.entry),
            self.pause.as_mut().map(|p| &mut p.entry),
            self.progress.as_mut().map(|p| &mut p.entry),
            self.maintenance.as_mut().map(|m| &mut m.entry),
        ];
        decided.into_iter().flatten().filter(|number| **number == 0).for_each(|number| *number = entry);
    }

    /// Index of the current wave.
    pub fn present(&self, waves: &[Wave]) -> Option<usize> {
        self.progress.as_ref()?.place(waves)
    }

    /// The reach that the file gives at this point of its plan.
    pub fn exposure(&self, strategy: Strategy<'_>) -> Exposure {
        match strategy {
            Strategy::ByHand(exposure) => exposure,
            Strategy::Waves(waves) => self.present(waves).map_or(Exposure::NOBODY, |i| {
                let finished = self.progress.as_ref().is_some_and(|p| p.finished);
                if finished { waves[i].exposure } else { waves[i].until_complete }
            }),
        }
    }

    /// Records when the release became complete, or that it is not.
    pub fn note_complete(&mut self, state: RolloutState, at_ms: i64) {
        self.complete_since_ms = match state {
            RolloutState::Complete => self.complete_since_ms.or(Some(at_ms)),
            _ => None,
        };
    }

    /// Is there a hold that only a person lifts?
    fn is_held(&self) -> bool {
        self.trip.is_some() || self.freeze.is_some() || self.awaits.is_some()
    }
}

/// A person holds the waves at their position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pause {
    pub at_ms: i64,
    pub actor: String,
    pub reason: String,
    /// Number of the ledger entry that records it; 0: not recorded yet.
    pub entry: u64,
}

/// Why a release is held until a person ends the hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManualHold {
    /// There is no state at all, and `[state] when_empty` is "hold".
    NoMemory,
    /// The state could not be read or written at start.
    StateLost,
    /// A stop file held every release. Its removal alone lets no user in.
    StopFile,
    /// Another version is behind `new`, and no person has chosen a weight for it yet.
    NewVersion,
}

/// A hold that a person's `resume` ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldKind {
    Rollback,
    Freeze,
    Hold,
    Pause,
}

impl HoldKind {
    pub const ALL: [HoldKind; 4] = [HoldKind::Rollback, HoldKind::Freeze, HoldKind::Hold, HoldKind::Pause];

    pub fn label(self) -> &'static str {
        match self {
            HoldKind::Rollback => "rollback",
            HoldKind::Freeze => "freeze",
            HoldKind::Hold => "hold",
            HoldKind::Pause => "pause",
        }
    }

    pub fn parse(label: &str) -> Option<HoldKind> {
        HoldKind::ALL.into_iter().find(|ends| ends.label() == label)
    }

    /// The command that ends it.
    pub fn command(self, release: &str) -> String {
        format!("grayling resume {release} --ends {} --reason TEXT", self.label())
    }
}

/// The latch: why `new` is held at 0%.
#[derive(Clone, PartialEq, Debug)]
pub struct Trip {
    pub cause: Cause,
    pub attempt: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// `watchdog`, or the name of a token.
    pub actor: String,
    pub detail: String,
    /// JSON; opaque here.
    pub evidence: String,
    pub onset_to_trip_ms: Option<u64>,
    /// Since when stable shows the same, if it did soon after a trip on little evidence.
    pub stable_same_at_ms: Option<i64>,
    /// The servers of `new` at that time.
    /// No other release or route may send users to them while the trip stands.
    pub servers: Vec<String>,
    /// Other claims on those servers at that time: they are allowed.
    pub others: Vec<OtherPath>,
    /// Number of the ledger entry that records it; 0: not recorded yet.
    pub entry: u64,
}

/// Another path by which users reached the servers of a tripped `new`, as of the trip.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherPath {
    /// A description of the claim, and of its users.
    pub claim: String,
    /// The match conditions of its routes.
    pub routes: Vec<String>,
    pub weight: Weight,
}

/// The weight is held at its value, for a person to decide.
#[derive(Clone, PartialEq, Debug)]
pub struct Freeze {
    pub cause: Cause,
    pub at_ms: i64,
    pub actor: String,
    pub detail: String,
    /// The maximum in force while frozen.
    pub weight: Weight,
    /// Number of the ledger entry that records it; 0: not recorded yet.
    pub entry: u64,
}

#[derive(Clone, PartialEq, Debug)]
pub enum RolloutInput<'a> {
    /// A file was applied. `standing`: the reach in force before it, if known.
    Configure {
        attempt: u64,
        strategy: Strategy<'a>,
        standing: Exposure,
        versions: Versions,
        change: VersionChange,
        /// The weight that the file sets by hand differs from the previous one.
        weight_edited: bool,
    },
    Trip(Trip),
    Freeze(Freeze),
    /// `grayling.stop` exists.
    Stop {
        strategy: Strategy<'a>,
    },
    /// A person ends one hold of the release.
    /// `at`: the wave in which it continues after a rollback; `None`: the current one.
    Resume {
        ends: HoldKind,
        at: Option<&'a Wave>,
    },
    Pause(Pause),
    /// A maintenance begins, or is extended.
    Maintain(Maintenance),
    EndMaintenance,
    /// Stable shows the same since this time, soon after the trip.
    StableSame {
        at_ms: i64,
    },
    /// The next wave opens.
    Open {
        waves: &'a [Wave],
        opener: Opener,
    },
    /// The last wave passed its gates: the users held back move to `new`, too.
    Finish {
        waves: &'a [Wave],
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opener {
    /// Every gate of the previous wave passed.
    Gates,
    /// A person, against any verdict of the gates.
    Person,
}

/// The effect of an input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RolloutStep {
    Unchanged,
    /// First seen.
    Met,
    /// A new attempt: all holds of the old one end, and new evidence begins.
    Rearmed,
    /// Another version begins, within the same attempt: new evidence begins.
    VersionBegun,
    Tripped,
    Frozen,
    Resumed,
    Paused,
    Unpaused,
    Maintained,
    MaintenanceEnded,
    /// The wave of this index.
    Opened(usize),
    Finished,
}

pub fn step(release_state: &ReleaseState, input: RolloutInput<'_>) -> (ReleaseState, RolloutStep) {
    let mut next = release_state.clone();
    match input {
        RolloutInput::Configure { attempt, strategy, versions, change, .. }
            if release_state.attempt != 0 && attempt > release_state.attempt =>
        {
            let awaits = change.holds(strategy).or(release_state.awaits);
            let maintenance = release_state.maintenance.clone();
            (
                ReleaseState { attempt, awaits, versions, maintenance, ..ReleaseState::default() },
                RolloutStep::Rearmed,
            )
        }
        RolloutInput::Configure { attempt, strategy, versions, change, .. } if change.is_another() => {
            let attempt = release_state.attempt.max(attempt);
            let (trip, mut freeze) = (release_state.trip.clone(), release_state.freeze.clone());
            // It begins at 0%, and a standing freeze never raises that.
            freeze.iter_mut().for_each(|freeze| freeze.weight = Weight::ZERO);
            let awaits = change.holds(strategy).or(release_state.awaits);
            let maintenance = release_state.maintenance.clone();
            let next = ReleaseState {
                attempt,
                trip,
                freeze,
                awaits,
                versions,
                maintenance,
                ..ReleaseState::default()
            };
            (next, RolloutStep::VersionBegun)
        }
        RolloutInput::Configure { attempt, strategy, standing, versions, weight_edited, .. } => {
            let what = if release_state.attempt == 0 { RolloutStep::Met } else { RolloutStep::Unchanged };
            next.attempt = next.attempt.max(attempt);
            // The same build on other servers: the trip covers those, too.
            if let Some(trip) = &mut next.trip {
                let moved = versions.new.iter().filter(|server| !release_state.versions.new.contains(server));
                trip.servers.extend(moved.cloned());
                trip.servers.sort();
                trip.servers.dedup();
            }
            next.versions = versions;
            next.progress = PlanProgress::under(release_state.progress.as_ref(), strategy, standing);
            // A person has chosen a weight for the waiting version.
            if weight_edited && next.awaits == Some(ManualHold::NewVersion) {
                next.awaits = None;
            }
            if let Strategy::ByHand(_) = strategy {
                next.pause = None;
            }
            // Frozen: a lower weight takes effect, and nothing raises it again.
            let weight = next.exposure(strategy).weight;
            if let Some(freeze) = &mut next.freeze {
                freeze.weight = freeze.weight.min(weight);
            }
            (next, what)
        }
        RolloutInput::Trip(_) if release_state.trip.is_some() => (next, RolloutStep::Unchanged),
        RolloutInput::Trip(trip) => {
            next.trip = Some(trip);
            (next, RolloutStep::Tripped)
        }
        RolloutInput::StableSame { at_ms } => {
            if let Some(trip) = &mut next.trip {
                trip.stable_same_at_ms.get_or_insert(at_ms);
            }
            (next, RolloutStep::Unchanged)
        }
        RolloutInput::Freeze(_) if release_state.trip.is_some() || release_state.freeze.is_some() => {
            (next, RolloutStep::Unchanged)
        }
        RolloutInput::Freeze(freeze) => {
            next.freeze = Some(freeze);
            (next, RolloutStep::Frozen)
        }
        RolloutInput::Stop { strategy } => {
            // Also during a trip: if that is lifted while the file exists, removing the file must
            // let no user in.
            if strategy != Strategy::ByHand(Exposure::NOBODY) {
                next.awaits.get_or_insert(ManualHold::StopFile);
            }
            (next, RolloutStep::Unchanged)
        }
        RolloutInput::Resume { ends, .. } if !release_state.ends().contains(&ends) => {
            (next, RolloutStep::Unchanged)
        }
        RolloutInput::Resume { ends: HoldKind::Pause, .. } => {
            next.pause = None;
            (next, RolloutStep::Unpaused)
        }
        RolloutInput::Resume { ends, at } => {
            match ends {
                HoldKind::Rollback => {
                    next.trip = None;
                    if let (Some(progress), Some(wave)) = (&mut next.progress, at) {
                        *progress = PlanProgress::entering(wave);
                        // A freeze that also stands never raises the weight.
                        if let Some(freeze) = &mut next.freeze {
                            freeze.weight = freeze.weight.min(wave.until_complete.weight);
                        }
                    }
                }
                HoldKind::Freeze => next.freeze = None,
                HoldKind::Hold => next.awaits = None,
                HoldKind::Pause => {}
            }
            (next, RolloutStep::Resumed)
        }
        RolloutInput::Pause(_) if release_state.pause.is_some() => (next, RolloutStep::Unchanged),
        RolloutInput::Pause(pause) => {
            next.pause = Some(pause);
            (next, RolloutStep::Paused)
        }
        RolloutInput::Maintain(_) if release_state.trip.is_some() => (next, RolloutStep::Unchanged),
        RolloutInput::Maintain(maintenance) => {
            next.maintenance = Some(maintenance);
            (next, RolloutStep::Maintained)
        }
        RolloutInput::EndMaintenance => match next.maintenance.take() {
            Some(_) => (next, RolloutStep::MaintenanceEnded),
            None => (next, RolloutStep::Unchanged),
        },
        RolloutInput::Open { opener, .. }
            if release_state.is_held()
                || release_state.maintenance.is_some()
                || (opener == Opener::Gates && release_state.pause.is_some()) =>
        {
            (next, RolloutStep::Unchanged)
        }
        RolloutInput::Open { waves, .. } => {
            let index = release_state.present(waves).map_or(0, |i| i + 1);
            let Some(wave) = waves.get(index) else { return (next, RolloutStep::Unchanged) };
            next.progress = Some(PlanProgress::entering(wave));
            (next, RolloutStep::Opened(index))
        }
        RolloutInput::Finish { .. }
            if release_state.is_held()
                || release_state.pause.is_some()
                || release_state.maintenance.is_some() =>
        {
            (next, RolloutStep::Unchanged)
        }
        RolloutInput::Finish { waves } => {
            let last = release_state.present(waves).is_some_and(|i| i + 1 == waves.len());
            match next.progress.as_mut().filter(|p| last && !p.finished) {
                Some(progress) => progress.finished = true,
                None => return (next, RolloutStep::Unchanged),
            }
            (next, RolloutStep::Finished)
        }
    }
}

/// Conditions outside the release that affect its weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Conditions {
    /// `grayling.stop` exists.
    pub stop_file: bool,
}

/// Why the weight in force is below the file's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hold {
    Tripped,
    StopFile,
    AttemptOld {
        seen: u64,
    },
    Awaits(ManualHold),
    /// Its `new` has servers of another release's standing trip.
    Barred {
        by: String,
    },
    Frozen,
}

impl Hold {
    pub fn kind(&self) -> HoldKind {
        match self {
            Hold::Tripped => HoldKind::Rollback,
            Hold::Frozen => HoldKind::Freeze,
            Hold::StopFile | Hold::AttemptOld { .. } | Hold::Awaits(_) | Hold::Barred { .. } => {
                HoldKind::Hold
            }
        }
    }

    /// The hold and its remedy, for people.
    pub fn explain(&self, release: &str) -> String {
        match self {
            Hold::Tripped => format!(
                "rolled back; mend `new` and raise `attempt`, or: {}",
                HoldKind::Rollback.command(release)
            ),
            Hold::StopFile => format!(
                "a file grayling.stop stands beside the config file; remove it, then: {}",
                HoldKind::Hold.command(release)
            ),
            Hold::AttemptOld { seen } => format!(
                "the file's attempt is lower than {seen}, which was seen before: write `attempt = {seen}` or higher in [release.{release}]"
            ),
            Hold::Awaits(awaits) => {
                let why = match awaits {
                    ManualHold::StateLost => {
                        "earlier rollbacks may be forgotten: the state directory could not be used at a start, or knew nothing of this release; look at it, then"
                    }
                    ManualHold::NoMemory => {
                        "the state directory was empty at the start, so earlier rollbacks may be forgotten; to begin"
                    }
                    ManualHold::StopFile => "a file grayling.stop held it; the file is gone; to go on",
                    ManualHold::NewVersion => {
                        "another version is behind `new` or `stable`, or the release has another name: it begins at 0%; to let users in, write another weight into the file, or (waves, segments)"
                    }
                };
                format!("{why}: {}", HoldKind::Hold.command(release))
            }
            Hold::Barred { by } => format!(
                "its `new` are the servers of {by}, which is rolled back; resume {by} first ({}), or point it elsewhere",
                HoldKind::Rollback.command(by)
            ),
            Hold::Frozen => format!(
                "frozen; a lower weight in the file is obeyed, a higher one is not; to go on: {}",
                HoldKind::Freeze.command(release)
            ),
        }
    }
}

/// The force for a release whose file gives `reach` and `attempt`; and the hold, if that is less.
pub fn effective(
    release_state: &ReleaseState,
    exposure: Exposure,
    attempt: u64,
    now: Conditions,
) -> (Effective, Option<Hold>) {
    let held = if release_state.trip.is_some() {
        Some(Hold::Tripped)
    } else if now.stop_file {
        Some(Hold::StopFile)
    } else if attempt < release_state.attempt {
        Some(Hold::AttemptOld { seen: release_state.attempt })
    } else {
        release_state.awaits.map(Hold::Awaits)
    };
    match (held, &release_state.freeze) {
        (Some(hold), _) => (Effective::Held, Some(hold)),
        (None, Some(freeze)) => (
            Effective::At(Exposure { weight: exposure.weight.min(freeze.weight), ..exposure }),
            Some(Hold::Frozen),
        ),
        (None, None) => (Effective::At(exposure), None),
    }
}

/// `state` of the admin API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RolloutState {
    Pending,
    Progressing,
    Paused,
    Complete,
    Frozen,
    RolledBack,
}

impl RolloutState {
    pub const ALL: [RolloutState; 6] = [
        RolloutState::Pending,
        RolloutState::Progressing,
        RolloutState::Paused,
        RolloutState::Complete,
        RolloutState::Frozen,
        RolloutState::RolledBack,
    ];

    pub fn label(self) -> &'static str {
        match self {
            RolloutState::Pending => "pending",
            RolloutState::Progressing => "progressing",
            RolloutState::Paused => "paused",
            RolloutState::Complete => "complete",
            RolloutState::Frozen => "frozen",
            RolloutState::RolledBack => "rolled_back",
        }
    }

    /// The last one that applies.
    pub fn of(
        release_state: &ReleaseState,
        strategy: Strategy<'_>,
        hold: Option<&Hold>,
        effective: Effective,
    ) -> RolloutState {
        let finished = match strategy {
            Strategy::ByHand(_) => effective.weight() == Weight::FULL,
            Strategy::Waves(_) => release_state.progress.as_ref().is_some_and(|p| p.finished),
        };
        let waits = matches!(strategy, Strategy::Waves(_)) && release_state.progress.is_none();
        match hold {
            _ if release_state.trip.is_some() => RolloutState::RolledBack,
            Some(Hold::Frozen) => RolloutState::Frozen,
            None if finished => RolloutState::Complete,
            _ if release_state.pause.is_some() => RolloutState::Paused,
            Some(_) => RolloutState::Pending,
            None if waits => RolloutState::Pending,
            None => RolloutState::Progressing,
        }
    }
}

#[cfg(test)]
mod tests;
