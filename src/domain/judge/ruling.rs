//! The decision of a look in codes and numbers. `domain::describe` has its sentences.
//!
//! Invariants: pure values, without a sentence.

use crate::domain::judge::ceiling::CeilingSample;
use crate::domain::judge::onset::DecisionCounts;
use crate::domain::judge::own_past;
use crate::domain::judge::verdict_inputs::WaitingUsers;
use crate::domain::verdict::{Cause, JudgementEvidence, SignalResult, Verdict, VerdictLimits, WatchdogState};
use crate::stats::engine::Signal as Compared;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, PartialEq, Debug)]
pub struct Ruling {
    pub state: WatchdogState,
    pub verdict: Verdict,
    pub why: Why,
    /// Of a trip: the counts since the onset of its cause, if any request was bad by itself.
    pub decided: Option<Option<DecisionCounts>>,
    pub progress: Vec<Progress>,
    pub figures: Figures,
    pub evidence: JudgementEvidence,
}

/// Why a look has its state.
#[derive(Clone, PartialEq, Debug)]
pub enum Why {
    /// `new` is worse than stable by this signal.
    Worse(Compared),
    /// Failures of `new` exceed their ceiling; the cause may be both arms.
    Failing(Cause),
    /// Likewise slow answers.
    Slow(Cause),
    Silent(WaitingUsers),
    /// The comparison of latency has crossed, and both arms are in trouble.
    BothSlower,
    BothFailing,
    /// Both arms exceed the ceiling of latency.
    BothSlow,
    Blind(Blind),
    /// Something has crossed, and may be over in a moment.
    Waits,
    /// The evidence of this signal is high on this route, or on all.
    Suspicious(Compared, Arc<str>),
    /// Small bodies have crossed, and are too few users for a trip.
    SmallBodies,
    /// A notice stands.
    Noticed,
    WorseThanBefore,
    NoRequest,
    Usual,
}

/// Why nothing can be judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Blind {
    /// The watchdog has too little CPU time.
    Starved,
    /// No interval has become final for this long.
    Stale(Duration),
    /// `new` has requests, and stable has had none for this long.
    NoStable(Duration),
}

/// The progress of a signal towards its trip, report or hold.
#[derive(Clone, PartialEq, Debug)]
pub struct Progress {
    pub of: Measured,
    /// A route's name, or "all".
    pub stratum: Arc<str>,
    pub ratio: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measured {
    Compared(Compared),
    Notice,
    ErrorsMax,
    LatencyMax,
    Past,
}

impl Measured {
    pub fn label(self) -> &'static str {
        match self {
            Measured::Compared(signal) => signal.cause().label(),
            Measured::Notice => SignalResult::LATENCY_NOTICE,
            Measured::ErrorsMax => "errors_max",
            Measured::LatencyMax => "latency_p99_max",
            Measured::Past => SignalResult::WORSE_THAN_BEFORE,
        }
    }
}

/// Numbers that the sentences name, beside those in [`JudgementEvidence`].
#[derive(Clone, PartialEq, Debug)]
pub struct Figures {
    pub limits: VerdictLimits,
    /// The hash assigns users to both arms.
    pub controlled: bool,
    /// Enough is known of stable to compare latency.
    pub compares_latency: bool,
    /// Of the last minute, by user.
    pub redirects: CeilingSample,
    pub long: CeilingSample,
    pub small: CeilingSample,
    /// Median latency of `new`, and of stable.
    pub p50: [Option<Duration>; 2],
    /// `new` against its own past; `None`: the soak is over.
    pub past: Option<own_past::Report>,
}
