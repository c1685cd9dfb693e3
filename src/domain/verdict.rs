//! The results of a watchdog: causes, states, verdicts, signals, and the numbers behind them.
//!
//! Invariants: pure values; every judgement carries its evidence; labels are those of the status,
//! the metrics and the ledger, and parse back to the same value.

use crate::domain::judge::ceiling::CeilingSample;
use crate::domain::judge::onset::DecisionCounts;
use crate::domain::judge::verdict_inputs::VerdictInputs;
use crate::stats::engine::{self, DetectionLimit, SIGNALS};
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::servers::WarmUp;
use std::sync::Arc;
use std::time::Duration;

/// The version of the method that derives verdicts from their numbers: in
/// [`crate::domain::judge::verdict_inputs`] and [`crate::domain::gates::judge`].
///
/// Raise it with every change after which recorded numbers give another verdict, or other numbers
/// are recorded.
/// `ledger --verify` recomputes the entries of this method, and counts the others.
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
    /// More users failed than allowed, at any rate.
    Harm,
    /// `new` uses more of a resource than allowed.
    Resource,
    BothArms,
    Manual,
}

impl engine::Signal {
    /// The cause of a trip by this signal.
    pub fn cause(self) -> Cause {
        match self {
            engine::Signal::Errors => Cause::Errors,
            engine::Signal::ClientErrors => Cause::ClientErrors,
            engine::Signal::Latency => Cause::Latency,
            engine::Signal::Redirects => Cause::Redirects,
            engine::Signal::Duration => Cause::Duration,
            engine::Signal::Empty => Cause::Empty,
        }
    }
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
pub enum WatchdogState {
    Quiet,
    Suspicious,
    Tripped,
    BothArms,
    Blind,
}

impl WatchdogState {
    pub const ALL: [WatchdogState; 5] = [
        WatchdogState::Quiet,
        WatchdogState::Suspicious,
        WatchdogState::Tripped,
        WatchdogState::BothArms,
        WatchdogState::Blind,
    ];

    pub fn label(self) -> &'static str {
        match self {
            WatchdogState::Quiet => "quiet",
            WatchdogState::Suspicious => "suspicious",
            WatchdogState::Tripped => "tripped",
            WatchdogState::BothArms => "both_arms",
            WatchdogState::Blind => "blind",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Pass,
    Breach(Cause),
    /// Missing data are not success.
    Inconclusive,
}

#[derive(Clone, PartialEq, Debug)]
pub struct SignalResult {
    pub signal: &'static str,
    /// A route's name, or "all".
    pub stratum: Arc<str>,
    /// Logarithmic: 0 none, 1 trips (or, for a signal that never trips, reports or holds).
    pub evidence_ratio: f64,
    pub detail: String,
}

impl SignalResult {
    /// `new` is slower, by too little for a trip: reported only.
    pub const LATENCY_NOTICE: &'static str = "latency_notice";
    /// `new` is worse than its own past, without a control: reported, and the release does not
    /// become complete.
    pub const WORSE_THAN_BEFORE: &'static str = "worse_than_before";
    /// `new` exceeds a resource limit that only holds waves.
    pub const RESOURCE_HOLD: &'static str = "resource_hold";

    /// Can it lead to a rollback?
    pub fn can_trip(&self) -> bool {
        !matches!(
            self.signal,
            SignalResult::LATENCY_NOTICE | SignalResult::WORSE_THAN_BEFORE | SignalResult::RESOURCE_HOLD
        )
    }
}

/// What the watchdog has found and reports until a person accepts it: no hold of the weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StandingFinding {
    /// [`SignalResult::LATENCY_NOTICE`].
    Notice,
    /// [`SignalResult::WORSE_THAN_BEFORE`].
    Alarm,
}

impl StandingFinding {
    pub const ALL: [StandingFinding; 2] = [StandingFinding::Notice, StandingFinding::Alarm];

    /// The name under which a resume ends it.
    pub fn label(self) -> &'static str {
        match self {
            StandingFinding::Notice => "notice",
            StandingFinding::Alarm => "alarm",
        }
    }

    pub fn parse(label: &str) -> Option<StandingFinding> {
        StandingFinding::ALL.into_iter().find(|finding| finding.label() == label)
    }

    /// The command that ends it.
    pub fn command(self, release: &str) -> String {
        format!("grayling resume {release} --ends {} --reason TEXT", self.label())
    }
}

/// The numbers behind a judgement, frozen: sufficient to recompute the verdict.
#[derive(Clone, PartialEq, Debug)]
pub struct JudgementEvidence {
    pub window: Duration,
    /// The last minute, and the last ten seconds of it.
    pub minute: CeilingSample,
    pub recent: CeilingSample,
    pub errors_max: f64,
    pub latency_p99_max: Duration,
    /// Answers of the last minute, and those above `latency_p99_max`.
    pub slow: CeilingSample,
    pub p99_new: Option<Duration>,
    pub p99_stable: Option<Duration>,
    pub alpha: f64,
    /// Trips at 1/alpha; the sum of `e`.
    pub e_value: f64,
    /// By signal.
    pub e: [f64; SIGNALS],
    /// E of far smaller bodies, whether counted or not.
    pub e_small: f64,
    /// E of "slower by more than the notice level".
    pub e_notice: f64,
    /// The size of a late change that would be detected; `None`: not known yet.
    pub detection_limit: Option<DetectionLimit>,
    /// Answers with 4xx in the last minute.
    pub client_errors: PerArm,
    /// The components of the strongest signal: label and wealth.
    pub rows: Vec<(String, f64)>,
    /// Users who can still give evidence.
    pub clean: PerArm,
    /// Share of users in `new`.
    pub share: f64,
    /// The current warm-up of `new`.
    pub warming: Option<WarmUp>,
    /// The grounds of the verdict.
    pub inputs: VerdictInputs,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Judgement {
    pub state: WatchdogState,
    pub verdict: Verdict,
    /// A decision that the mode, a switch or a maintenance keeps from being carried out.
    pub withheld: bool,
    /// One sentence, for people: why this state.
    pub reason: String,
    pub signals: Vec<SignalResult>,
    /// The counts behind a trip, if the judge found any.
    pub decided: Option<DecisionText>,
    pub evidence: JudgementEvidence,
}

impl Judgement {
    /// The alarm that stands: `new` does worse than in its own past.
    pub fn alarm(&self) -> Option<&SignalResult> {
        self.signals.iter().find(|s| s.signal == SignalResult::WORSE_THAN_BEFORE && s.evidence_ratio >= 1.0)
    }
}

/// The counts behind a decision, with their description.
#[derive(Clone, PartialEq, Debug)]
pub struct DecisionText {
    /// The fault of `new`; for people.
    pub what: String,
    /// `None`: no request of the last ten minutes was bad by itself.
    pub by: Option<DecisionCounts>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct VerdictLimits {
    pub alpha: f64,
    pub errors_max: f64,
    pub latency_p99_max: Duration,
    /// The file sets `errors_max`, and `latency_p99_max`; otherwise they are defaults, which are
    /// set aside where they do not fit the service.
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
        for finding in StandingFinding::ALL {
            assert_eq!(StandingFinding::parse(finding.label()), Some(finding));
        }
    }
}
