//! When the next wave opens: the part of a rollout that counts time.
//!
//! A wave *bakes* while the watchdog watches it.
//! Time without a process, with a blind watchdog, or without CPU for it does not count.
//! A restart keeps the time so far ([`WaveTime`]).
//! An edit of the wave's reach, or a resume after a rollback, restarts the bake.
//! Once the wave is baked, its gates are judged at every look, and the next wave opens when all
//! pass.
//! The wave is *held* while a gate does not pass, and also while too much of its time is unwatched.
//!
//! Invariants: pure; monotonic time is an argument, and no wall clock is read.
//! No wave opens on readings of another wave, or while the release is held or paused.

use crate::domain::gates::{self, BAKE, Gate, GateInput, GateVerdict, OPEN_HOURS, WATCHDOG};
use crate::domain::wave::Wave;
use std::borrow::Cow;
use std::time::Duration;

/// The position of a release in its plan.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WavePosition<'a> {
    /// Changes whenever the bake starts again.
    pub stage: u64,
    pub waves: &'a [Wave],
    pub present: Option<usize>,
    pub finished: bool,
    /// A hold is in force: the gates are not judged.
    pub held: bool,
    pub paused: bool,
    /// How long the watchdog has watched this stage, in all processes.
    pub watched: Duration,
    /// Time of this stage counted by earlier processes.
    pub before: WaveTime,
}

/// The time of a stage, summed over all processes. Monotonic time only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WaveTime {
    /// Time watched by the watchdog: the bake.
    pub watched: Duration,
    /// All time in which a process had this stage in force.
    pub open: Duration,
    /// How long its gates have held the baked stage without a break; zero: not held.
    pub held: Duration,
}

impl WaveTime {
    /// Longer than any stage lasts.
    const MAX: Duration = Duration::from_secs(20 * 365 * 86_400);

    /// Are these times possible?
    pub fn is_plausible(&self) -> bool {
        self.watched <= self.open && self.held <= self.open && self.open <= WaveTime::MAX
    }

    /// Open without being watched.
    pub fn unwatched(&self) -> Duration {
        self.open.saturating_sub(self.watched)
    }

    /// Is so much of it unwatched that the bake is late?
    fn is_late(&self) -> bool {
        self.unwatched() >= UNWATCHED_MIN.max(self.watched / UNWATCHED_SHARE)
    }
}

/// `baked 3 h 12 min of 24 h`.
pub fn baked_of(watched: Duration, bake: Duration) -> String {
    format!("baked {} of {}", hours(watched.min(bake)), hours(bake))
}

/// In the two largest units: `3 h 12 min`, `24 h`, `2 min 5 s`, `1.5 s`.
pub fn hours(time: Duration) -> String {
    let s = time.as_secs();
    let two = |big: u64, unit: &str, small: u64, rest: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {rest}"),
    };
    match s {
        0..10 => format!("{} s", (time.as_secs_f64() * 10.0).floor() / 10.0),
        10..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", s % 60, "s"),
        3600..172_800 => two(s / 3600, "h", s / 60 % 60, "min"),
        _ => two(s / 86_400, "days", s / 3600 % 24, "h"),
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct WaveController {
    stage: u64,
    since: Duration,
    /// Since when the gates have held it, and the duration counted by earlier processes.
    held: Option<(Duration, Duration)>,
    /// The gates have been judged in this process.
    judged: bool,
    /// The verdicts of the last recorded hold, and when.
    told: Vec<(Cow<'static, str>, GateVerdict)>,
    told_at: Duration,
    tellings: u32,
}

/// A wave that does not continue, for a reason other than time, hours or a pause.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldWave {
    pub cause: HeldBy,
    /// The duration; for [`HeldBy::Unwatched`]: the unwatched time.
    pub lasting: Duration,
    /// The gates that do not pass, with their numbers; for people.
    pub missing: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeldBy {
    /// It is baked, and a gate does not pass.
    Gates,
    /// It is not baked, because much of its time was not watched.
    Unwatched,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaveAction {
    Wait,
    /// The next wave.
    Open,
    /// There is none: the plan is finished.
    Finish,
    /// It continues to wait, for a reason not recorded yet: worth a ledger entry.
    TellHold,
}

/// The state at a look.
#[derive(Clone, PartialEq, Debug)]
pub struct WaveStatus {
    pub spent: WaveTime,
    pub gates: Vec<Gate>,
    /// The input of the gates.
    pub input: Option<GateInput>,
    pub held: Option<HeldWave>,
    pub act: WaveAction,
}

/// The most recorded holds of one wave, and the time between two; a flapping gate must not fill a
/// disk.
const TELLINGS_MAX: u32 = 16;
const TELL_EVERY: Duration = Duration::from_secs(60);
/// A bake is late if this much time was not watched, and at least a tenth of the watched time.
const UNWATCHED_MIN: Duration = Duration::from_secs(10);
const UNWATCHED_SHARE: u32 = 10;

impl WaveController {
    pub fn new(stage: u64, now: Duration) -> WaveController {
        WaveController {
            stage,
            since: now,
            held: None,
            judged: false,
            told: vec![],
            told_at: now,
            tellings: 0,
        }
    }

    /// `input`: the input of the gates; `None` while the current stage has none.
    pub fn look(
        &mut self,
        standing: &WavePosition<'_>,
        input: Option<GateInput>,
        now: Duration,
    ) -> WaveStatus {
        if self.stage != standing.stage {
            *self = WaveController::new(standing.stage, now);
        }
        let (watched, before) = (standing.watched, standing.before);
        let open = (before.open + now.saturating_sub(self.since)).max(watched);
        let mut spent = WaveTime { watched, open, held: Duration::ZERO };
        let Some(input) = input.filter(|_| !standing.held && !standing.finished) else {
            // The hold time of an earlier process is kept until this one has judged.
            spent.held = if self.judged { Duration::ZERO } else { before.held };
            self.held = None;
            return WaveStatus { spent, gates: vec![], input: None, held: None, act: WaveAction::Wait };
        };
        let gates = gates::judge(&input);
        let passes = gates::passes(&gates);
        let last = standing.present.is_some_and(|i| i + 1 >= standing.waves.len());
        let missing = || gates.iter().filter(|g| g.verdict != GateVerdict::Pass);
        // Time, the wall clock and a person's pause are no reasons for an alert.
        let waits = passes || standing.paused || missing().any(|g| [BAKE, OPEN_HOURS].contains(&&*g.name));
        let earlier = if self.judged { Duration::ZERO } else { before.held };
        self.judged = true;
        self.held = if waits { None } else { self.held.or(Some((now, earlier))) };
        spent.held = self.held.map_or(Duration::ZERO, |(since, earlier)| earlier + (now - since));
        let bakes = missing().any(|g| g.name == BAKE);
        let named = |of: &[&str]| {
            let named = missing().filter(|g| of.is_empty() || of.contains(&&*g.name));
            named.map(|g| format!("{}: {}", g.name, g.detail)).collect()
        };
        let held = match () {
            () if self.held.is_some() => {
                Some(HeldWave { cause: HeldBy::Gates, lasting: spent.held, missing: named(&[]) })
            }
            () if bakes && !standing.paused && spent.is_late() => Some(HeldWave {
                cause: HeldBy::Unwatched,
                lasting: spent.unwatched(),
                missing: named(&[BAKE, WATCHDOG]),
            }),
            () => None,
        };
        let verdicts: Vec<_> = missing().map(|g| (g.name.clone(), g.verdict)).collect();
        let due = self.tellings == 0 || now.saturating_sub(self.told_at) >= TELL_EVERY;
        let news = held.is_some() && self.told != verdicts && due && self.tellings < TELLINGS_MAX;
        let act = match () {
            () if passes && !standing.paused => {
                if last {
                    WaveAction::Finish
                } else {
                    WaveAction::Open
                }
            }
            () if news => WaveAction::TellHold,
            () => WaveAction::Wait,
        };
        if act == WaveAction::TellHold {
            (self.told, self.told_at) = (verdicts, now);
            self.tellings += 1;
        }
        WaveStatus { spent, gates, input: Some(input), held, act }
    }
}
