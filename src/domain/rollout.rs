//! What is remembered of a release beside its file, and what that does to its weight.
//!
//! A pure state machine: `step(memory, input) → memory`, and `force(memory, file, circumstances) → what is in force`.
//!
//! Invariants (each has a test that tries to break it):
//! * A trip is a latch: only `Resume` and a higher attempt clear it. Not a reload, a restart, or an older attempt.
//! * What is in force is never above the file's weight.
//! * An attempt lower than one that was seen is held at 0%: a reverted file must not bring back a build.
//! * A freeze holds the weight at most where it was; it never raises it.

use super::cohort::Weight;
use super::decide::Force;
use super::verdict::Cause;

/// What survives a restart, of one release.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Memory {
    /// The highest attempt seen.
    pub attempt: u64,
    pub trip: Option<Trip>,
    pub freeze: Option<Freeze>,
    /// Held until a person says `resume`, because earlier trips may be forgotten.
    pub awaits: Option<Awaits>,
}

/// Why earlier trips may be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Awaits {
    /// There is no state at all, and `[state] when_empty` is "hold".
    NoMemory,
    /// The state could not be read or written at start.
    StateLost,
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
    /// The servers of `new` at that time. No other release or route may send users to them while the trip stands.
    pub servers: Vec<String>,
    /// What else led users to those servers then: it is let be.
    pub others: Vec<Other>,
}

/// A way by which users came to the servers of a tripped `new` beside it, as it was then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Other {
    /// What it is, and of which users.
    pub claim: String,
    /// What its routes match.
    pub routes: Vec<String>,
    pub weight: Weight,
}

/// The weight is held where it was, for a person to decide.
#[derive(Clone, PartialEq, Debug)]
pub struct Freeze {
    pub cause: Cause,
    pub at_ms: i64,
    pub actor: String,
    pub detail: String,
    /// In force at most, while frozen.
    pub weight: Weight,
}

#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// A file was applied that gives this attempt and weight.
    Configure {
        attempt: u64,
        weight: Weight,
    },
    Trip(Trip),
    Freeze(Freeze),
    /// A person clears trip, freeze and hold. Not an attempt lower than was seen: that would forget what the higher one did.
    Resume,
}

/// What an input did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Unchanged,
    /// First seen.
    Met,
    /// A new attempt: whatever held the old one is over, evidence starts afresh.
    Rearmed,
    Tripped,
    Frozen,
    Resumed,
}

pub fn step(memory: &Memory, input: Input) -> (Memory, Step) {
    let mut next = memory.clone();
    match input {
        Input::Configure { attempt, .. } if memory.attempt == 0 => {
            next.attempt = attempt;
            (next, Step::Met)
        }
        Input::Configure { attempt, .. } if attempt > memory.attempt => {
            (Memory { attempt, awaits: memory.awaits, ..Memory::default() }, Step::Rearmed)
        }
        Input::Configure { weight, .. } => {
            // Frozen: a lower weight is obeyed, and then nothing raises it again.
            if let Some(freeze) = &mut next.freeze {
                freeze.weight = freeze.weight.min(weight);
            }
            (next, Step::Unchanged)
        }
        Input::Trip(_) if memory.trip.is_some() => (next, Step::Unchanged),
        Input::Trip(trip) => {
            next.trip = Some(trip);
            (next, Step::Tripped)
        }
        Input::Freeze(_) if memory.trip.is_some() || memory.freeze.is_some() => (next, Step::Unchanged),
        Input::Freeze(freeze) => {
            next.freeze = Some(freeze);
            (next, Step::Frozen)
        }
        Input::Resume => {
            let cleared = Memory { attempt: memory.attempt, ..Memory::default() };
            let step = if cleared == *memory { Step::Unchanged } else { Step::Resumed };
            (cleared, step)
        }
    }
}

/// What the world outside the release says, that bears on its weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Circumstances {
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
    Awaits(Awaits),
    /// Its `new` are the servers of another release's standing trip.
    Barred {
        by: String,
    },
    Frozen,
}

impl Hold {
    /// For people: what holds, and what they can do.
    pub fn explain(&self, release: &str) -> String {
        match self {
            Hold::Tripped => format!(
                "rolled back; mend `new` and raise `attempt`, or: grayling resume {release} --reason TEXT"
            ),
            Hold::StopFile => {
                "a file grayling.stop stands beside the config file; remove it to go on".to_owned()
            }
            Hold::Awaits(Awaits::StateLost) => format!(
                "earlier rollbacks may be forgotten: the state directory could not be used at a start, or knew nothing of this release; look at it, then: grayling resume {release} --reason TEXT"
            ),
            Hold::AttemptOld { seen } => format!(
                "the file's attempt is lower than {seen}, which was seen before: write `attempt = {seen}` or higher in [release.{release}]"
            ),
            Hold::Awaits(Awaits::NoMemory) => format!(
                "no memory of earlier rollbacks was found and [state] when_empty is \"hold\"; to begin: grayling resume {release} --reason TEXT"
            ),
            Hold::Barred { by } => format!(
                "its `new` are the servers of {by}, which is rolled back; resume {by} first (grayling resume {by} --reason TEXT), or point it elsewhere"
            ),
            Hold::Frozen => format!(
                "frozen; a lower weight in the file is obeyed, a higher one is not; to go on: grayling resume {release} --reason TEXT"
            ),
        }
    }
}

/// What is in force for a release whose file says `weight` and `attempt`; and why, if that is less.
pub fn force(memory: &Memory, weight: Weight, attempt: u64, now: Circumstances) -> (Force, Option<Hold>) {
    let held = if memory.trip.is_some() {
        Some(Hold::Tripped)
    } else if now.stop_file {
        Some(Hold::StopFile)
    } else if attempt < memory.attempt {
        Some(Hold::AttemptOld { seen: memory.attempt })
    } else {
        memory.awaits.map(Hold::Awaits)
    };
    match (held, &memory.freeze) {
        (Some(hold), _) => (Force::Held, Some(hold)),
        (None, Some(freeze)) => (Force::At(weight.min(freeze.weight)), Some(Hold::Frozen)),
        (None, None) => (Force::At(weight), None),
    }
}

/// `state` of the admin API, for a weight set by hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Pending,
    Progressing,
    Complete,
    Frozen,
    RolledBack,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Pending, State::Progressing, State::Complete, State::Frozen, State::RolledBack];

    pub fn label(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Progressing => "progressing",
            State::Complete => "complete",
            State::Frozen => "frozen",
            State::RolledBack => "rolled_back",
        }
    }

    pub fn of(memory: &Memory, hold: Option<&Hold>, force: Force) -> State {
        match (hold, &memory.trip, force) {
            (_, Some(_), _) => State::RolledBack,
            (Some(Hold::Frozen), ..) => State::Frozen,
            (Some(_), ..) => State::Pending,
            (None, None, Force::At(Weight::FULL)) => State::Complete,
            (None, None, _) => State::Progressing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn trip() -> Trip {
        Trip {
            cause: Cause::Errors,
            attempt: 1,
            at_ms: 0,
            actor: "watchdog".into(),
            detail: String::new(),
            evidence: "{}".into(),
            onset_to_trip_ms: None,
            servers: vec![],
            others: vec![],
        }
    }

    fn freeze(weight: Weight) -> Freeze {
        Freeze { cause: Cause::Errors, at_ms: 0, actor: "watchdog".into(), detail: String::new(), weight }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            (1u64..4, 0u32..=1_000_000)
                .prop_map(|(attempt, w)| Input::Configure { attempt, weight: Weight::from_parts(w) }),
            Just(Input::Trip(trip())),
            (0u32..=1_000_000).prop_map(|w| Input::Freeze(freeze(Weight::from_parts(w)))),
            Just(Input::Resume),
        ]
    }

    proptest! {
        #[test]
        fn a_trip_is_lifted_only_by_resume_or_a_higher_attempt(
            inputs in proptest::collection::vec((any_input(), 1u64..4, 0u32..=1_000_000, any::<bool>()), 0..60)
        ) {
            let mut memory = Memory::default();
            for (input, attempt, weight, stop_file) in inputs {
                let (next, what) = step(&memory, input.clone());
                if memory.trip.is_some() && next.trip.is_none() {
                    let by_a_person = match input {
                        Input::Resume => true,
                        Input::Configure { attempt, .. } => attempt > memory.attempt,
                        _ => false,
                    };
                    prop_assert!(by_a_person, "{input:?} lifted a trip");
                    prop_assert!(matches!(what, Step::Resumed | Step::Rearmed));
                }
                memory = next;
                let weight = Weight::from_parts(weight);
                let now = Circumstances { stop_file };
                let (force, hold) = force(&memory, weight, attempt, now);
                prop_assert!(force.weight() <= weight);
                if memory.trip.is_some() || stop_file || attempt < memory.attempt {
                    prop_assert_eq!(force, Force::Held);
                }
                prop_assert_eq!(hold.is_none(), force == Force::At(weight) && memory.freeze.is_none());
            }
        }
    }

    #[test]
    fn an_older_attempt_than_was_seen_is_held() {
        let (memory, _) = step(&Memory::default(), Input::Configure { attempt: 3, weight: Weight::FULL });
        let (memory, what) = step(&memory, Input::Configure { attempt: 2, weight: Weight::FULL });
        assert_eq!(what, Step::Unchanged);
        let (held, why) = force(&memory, Weight::FULL, 2, Circumstances::default());
        assert_eq!((held, why), (Force::Held, Some(Hold::AttemptOld { seen: 3 })));
    }

    #[test]
    fn a_frozen_weight_goes_down_but_not_up() {
        let five = Weight::from_parts(50_000);
        let (memory, _) = step(&Memory { attempt: 1, ..Memory::default() }, Input::Freeze(freeze(five)));
        let at = |w| force(&memory, Weight::from_parts(w), 1, Circumstances::default()).0;
        assert_eq!(at(10_000), Force::At(Weight::from_parts(10_000)));
        assert_eq!(at(500_000), Force::At(five));
        let one = Weight::from_parts(10_000);
        let (memory, _) = step(&memory, Input::Configure { attempt: 1, weight: one });
        let (force, _) = force(&memory, five, 1, Circumstances::default());
        assert_eq!(force, Force::At(one), "lowered once, it is not raised again");
    }
}
