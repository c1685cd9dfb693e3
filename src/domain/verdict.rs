//! What a watchdog says: causes, states, verdicts, signals, and the numbers behind them.
//!
//! Invariants: pure values; every judgement carries the evidence that it was made from; labels are those of the status, the metrics and
//! the ledger, and read back as they are written.

use super::ceiling::Sample;
use super::evidence::{Pair, ROWS, Round};
use std::time::Duration;

/// Why a release was taken out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Cause {
    Fuse,
    Ceiling,
    Errors,
    BothArms,
    Manual,
}

impl Cause {
    pub const ALL: [Cause; 5] = [Cause::Fuse, Cause::Ceiling, Cause::Errors, Cause::BothArms, Cause::Manual];

    pub fn label(self) -> &'static str {
        match self {
            Cause::Fuse => "fuse",
            Cause::Ceiling => "ceiling",
            Cause::Errors => "errors",
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
    pub stratum: &'static str,
    /// Logarithmic: 0 none, 1 trips.
    pub evidence_ratio: f64,
    pub detail: String,
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
    /// Trips at 1/alpha.
    pub e_value: f64,
    pub carried: f64,
    pub first: [f64; ROWS],
    pub once: [f64; ROWS],
    /// Users who can still be evidence.
    pub clean: Pair,
    /// Share of users in `new`.
    pub share: f64,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Judgement {
    pub state: State,
    pub verdict: Verdict,
    /// One sentence, for people: why this state.
    pub reason: String,
    pub signals: Vec<Signal>,
    pub evidence: Evidence,
    /// Asks for a new round: the flags of users cleared, then `Judge::round` with this reason. Nothing breaks if it
    /// comes late or never, but little is seen until then.
    pub renew: Option<Round>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    pub alpha: f64,
    pub errors_max: f64,
    pub latency_p99_max: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_read_as_they_are_written() {
        for cause in Cause::ALL {
            assert_eq!(Cause::parse(cause.label()), Some(cause));
        }
        assert_eq!(Cause::parse("latency"), None);
    }
}
