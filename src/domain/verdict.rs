//! What a watchdog says: causes, states, verdicts, signals, and the numbers behind them.
//!
//! Invariants: pure values; every judgement carries the evidence that it was made from; labels are
//! those of the status, the metrics and the ledger, and read back as they are written.

use super::ceiling::Sample;
use super::engine::cell::Pair;
use super::engine::servers::Warming;
use super::engine::{Blindness, SIGNALS};
use super::grounds::Grounds;
use super::onset::Decided;
use std::sync::Arc;
use std::time::Duration;

/// The number of the method by which verdicts follow from their numbers: of [`super::grounds`] and
/// of [`super::gate::judge`].
///
/// Raise it with every change by which recorded numbers would give another verdict, or by which
/// other numbers are recorded. `ledger --verify` recomputes the entries of this method, and counts
/// the others.
pub const METHOD: u32 = 3;

/// Why a release was taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cause {
    Fuse,
    Ceiling,
    Errors,
    ClientErrors,
    Latency,
    /// Redirects to another place.
    Redirects,
    /// Whole exchanges are slow.
    Duration,
    /// Bodies are empty, or far smaller than usual.
    Empty,
    /// More users failed than is allowed, whatever the rate.
    Harm,
    /// `new` uses up more than it may.
    Resource,
    BothArms,
    Manual,
}

impl Cause {
    pub const ALL: [Cause; 12] = [
        Cause::Fuse,
        Cause::Ceiling,
        Cause::Errors,
        Cause::ClientErrors,
        Cause::Latency,
        Cause::Redirects,
        Cause::Duration,
        Cause::Empty,
        Cause::Harm,
        Cause::Resource,
        Cause::BothArms,
        Cause::Manual,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Cause::Fuse => "fuse",
            Cause::Ceiling => "ceiling",
            Cause::Errors => "errors",
            Cause::ClientErrors => "client_errors",
            Cause::Latency => "latency",
            Cause::Redirects => "redirects",
            Cause::Duration => "duration",
            Cause::Empty => "empty",
            Cause::Harm => "harm",
            Cause::Resource => "resource",
            Cause::BothArms => "both_arms",
            Cause::Manual => "manual",
        }
    }

    pub fn parse(label: &str) -> Option<Cause> {
        Cause::ALL.into_iter().find(|cause| cause.label() == label)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    Quiet,
    Suspicious,
    Tripped,
    BothArms,
    Blind,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Quiet, State::Suspicious, State::Tripped, State::BothArms, State::Blind];

    pub fn label(self) -> &'static str {
        match self {
            State::Quiet => "quiet",
            State::Suspicious => "suspicious",
            State::Tripped => "tripped",
            State::BothArms => "both_arms",
            State::Blind => "blind",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Pass,
    Breach(Cause),
    /// Silence is not success.
    Inconclusive,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Signal {
    pub signal: &'static str,
    /// A route's name, or "all".
    pub stratum: Arc<str>,
    /// Logarithmic: 0 none, 1 trips (or, where it never trips, tells or holds).
    pub evidence_ratio: f64,
    pub detail: String,
}

impl Signal {
    /// `new` is slower, by too little to be taken out: told, and nothing more.
    pub const LATENCY_NOTICE: &'static str = "latency_notice";
    /// `new` does worse than in its own past, without a control: told, and the release is not
    /// completed.
    pub const WORSE_THAN_BEFORE: &'static str = "worse_than_before";
    /// `new` uses more than it may of what only holds waves.
    pub const RESOURCE_HOLD: &'static str = "resource_hold";

    /// Is it on its way to a rollback?
    pub fn can_trip(&self) -> bool {
        !matches!(self.signal, Signal::LATENCY_NOTICE | Signal::WORSE_THAN_BEFORE | Signal::RESOURCE_HOLD)
    }
}

/// The numbers behind a judgement, frozen: enough to find the same verdict again.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    pub window: Duration,
    /// The last minute, and the last ten seconds of it.
    pub minute: Sample,
    pub recent: Sample,
    pub errors_max: f64,
    pub latency_p99_max: Duration,
    /// Answers of the last minute, and those above `latency_p99_max`.
    pub slow: Sample,
    pub p99_new: Option<Duration>,
    pub p99_stable: Option<Duration>,
    pub alpha: f64,
    /// Trips at 1/alpha; the sum of `e`.
    pub e_value: f64,
    /// By signal.
    pub e: [f64; SIGNALS],
    /// Of far smaller bodies, counted or not.
    pub e_small: f64,
    /// Of "slower by more than the notice level".
    pub e_notice: f64,
    /// What a late change would have to be to be seen; `None`: not known yet.
    pub blindness: Option<Blindness>,
    /// Answers with 4xx in the last minute.
    pub client_errors: Pair,
    /// What carries the strongest signal: label and wealth.
    pub rows: Vec<(String, f64)>,
    /// Users who can still be evidence.
    pub clean: Pair,
    /// Share of users in `new`.
    pub share: f64,
    /// A warm-up of `new` that goes on.
    pub warming: Option<Warming>,
    /// What the verdict follows from.
    pub grounds: Grounds,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Judgement {
    pub state: State,
    pub verdict: Verdict,
    /// One sentence, for people: why this state.
    pub reason: String,
    pub signals: Vec<Signal>,
    /// What a trip was decided on, where the judge has found one.
    pub decided: Option<Told>,
    pub evidence: Evidence,
}

/// The counts that decided, and what they show.
#[derive(Clone, PartialEq, Debug)]
pub struct Told {
    /// What is wrong with `new`; for people.
    pub what: String,
    /// `None`: no request of the last ten minutes was bad by itself.
    pub by: Option<Decided>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    pub alpha: f64,
    pub errors_max: f64,
    pub latency_p99_max: Duration,
    /// The file states `errors_max`, and `latency_p99_max`: else they are defaults, which are set
    /// aside where they do not fit the service.
    pub stated: [bool; 2],
    /// Slower than stable by more, beyond chance: a trip. `0.2`: a fifth.
    pub latency_tolerance: f64,
    /// Likewise: a notice.
    pub latency_notice: f64,
    /// Quicker answers count as this quick.
    pub latency_floor: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_read_as_they_are_written() {
        for cause in Cause::ALL {
            assert_eq!(Cause::parse(cause.label()), Some(cause));
        }
        assert_eq!(Cause::parse("mood"), None);
    }
}
