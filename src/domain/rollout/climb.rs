//! When the next wave opens: the part of a rollout that is of this process alone, since it counts time.
//!
//! A wave *bakes* from when it came into force, in this process: a restart bakes again, and so does whatever makes it another wave (an edit of its reach, a resume). Once it is baked, its gates
//! are judged at every look; it opens the next one when all pass, and is *held* as long as one does not.
//!
//! Invariants: pure; monotonic time is an argument; nothing is opened on a reading of another wave, nor while the release is held or paused.

use crate::domain::gate::{self, BAKE, Gate, Input, OPEN_HOURS, Verdict};
use crate::domain::wave::Wave;
use std::time::Duration;

/// Where a release stands.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Standing<'a> {
    /// Another one whenever the bake begins anew.
    pub stage: u64,
    pub waves: &'a [Wave],
    pub present: Option<usize>,
    pub finished: bool,
    /// Something is in force below what the plan says: nothing is judged.
    pub held: bool,
    pub paused: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Climb {
    stage: u64,
    since: Duration,
    held: Option<Held>,
    /// The verdicts of the last hold that was told, and when.
    told: Vec<(&'static str, Verdict)>,
    told_at: Duration,
    tellings: u32,
}

/// A baked wave that does not pass.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// Monotonic.
    pub since: Duration,
    /// For people: the gates that do not pass, each with its numbers.
    pub missing: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Wait,
    /// The next wave.
    Open,
    /// There is none: the plan is fulfilled.
    Finish,
    /// It goes on waiting, for another reason than was told: worth a line in the ledger.
    TellHold,
}

/// How it looks now.
#[derive(Clone, PartialEq, Debug)]
pub struct Outlook {
    pub baked: Duration,
    pub gates: Vec<Gate>,
    /// What they were judged from.
    pub input: Option<Input>,
    pub held: Option<Held>,
    pub act: Act,
}

/// Holds of one wave that are written down, and the time between two; a gate that wavers must not fill a disk.
const TELLINGS_MAX: u32 = 16;
const TELL_EVERY: Duration = Duration::from_secs(60);

impl Climb {
    pub fn new(stage: u64, now: Duration) -> Climb {
        Climb { stage, since: now, held: None, told: vec![], told_at: now, tellings: 0 }
    }

    /// How long the present wave has baked: what an input for [`Climb::look`] is made with.
    pub fn baked(&mut self, stage: u64, now: Duration) -> Duration {
        if self.stage != stage {
            *self = Climb::new(stage, now);
        }
        now.saturating_sub(self.since)
    }

    /// `input`: what the gates are judged from; `None` where nothing is known of the present stage yet.
    pub fn look(&mut self, standing: &Standing<'_>, input: Option<Input>, now: Duration) -> Outlook {
        let baked = self.baked(standing.stage, now);
        let Some(input) = input.filter(|_| !standing.held && !standing.finished) else {
            self.held = None;
            return Outlook { baked, gates: vec![], input: None, held: None, act: Act::Wait };
        };
        let gates = gate::judge(&input);
        let passes = gate::passes(&gates);
        let last = standing.present.is_some_and(|i| i + 1 >= standing.waves.len());
        let missing = || gates.iter().filter(|g| g.verdict != Verdict::Pass);
        // Time, the clock on the wall and a person's pause are no reasons to call somebody.
        let waits = passes || standing.paused || missing().any(|g| [BAKE, OPEN_HOURS].contains(&g.name));
        self.held = match self.held.take() {
            _ if waits => None,
            held => Some(Held {
                since: held.map_or(now, |h| h.since),
                missing: missing().map(|g| format!("{}: {}", g.name, g.detail)).collect(),
            }),
        };
        let verdicts: Vec<_> = missing().map(|g| (g.name, g.verdict)).collect();
        let due = self.tellings == 0 || now.saturating_sub(self.told_at) >= TELL_EVERY;
        let news = self.held.is_some() && self.told != verdicts && due && self.tellings < TELLINGS_MAX;
        let act = match () {
            () if passes && !standing.paused => {
                if last {
                    Act::Finish
                } else {
                    Act::Open
                }
            }
            () if news => Act::TellHold,
            () => Act::Wait,
        };
        if act == Act::TellHold {
            (self.told, self.told_at) = (verdicts, now);
            self.tellings += 1;
        }
        Outlook { baked, gates, input: Some(input), held: self.held.clone(), act }
    }
}
