//! The sentences of `new`'s own past ([`crate::domain::judge::own_past`]).
//!
//! Invariants: pure and total.

use crate::domain::judge::own_past::{KNOWN_UNCONTROLLED, PastMeasure, PastResult, Report, Shown};

impl Report {
    /// What is said of the past, with the numbers.
    pub fn sentence(&self) -> String {
        match self.says {
            PastResult::Learns => "there is a control: its past is being learnt".to_owned(),
            PastResult::Unknown => format!(
                "its past is not known, and is learnt at 100%: {:.0} of {KNOWN_UNCONTROLLED:.0} minutes",
                self.minutes
            ),
            PastResult::Usual => self.numbers(),
            // After a restart the alarm stands, and nothing has come yet.
            PastResult::Worse(measure) if self.shown.is_empty() => {
                format!("worse in {}: no request in the last minute", measure.words())
            }
            PastResult::Worse(measure) => format!("worse in {}: {}", measure.words(), self.numbers()),
        }
    }

    fn numbers(&self) -> String {
        self.shown.iter().map(Shown::sentence).collect::<Vec<_>>().join("; ")
    }
}

impl Shown {
    fn sentence(&self) -> String {
        match *self {
            Shown::Share { measure, bad, requests, usual } => format!(
                "{} {bad} of {requests} in the last minute, usually {:.2}%",
                measure.words(),
                100.0 * usual
            ),
            Shown::Median { now, usual_us } => {
                format!("median {:.1} ms, usually {:.1} ms", now.as_secs_f64() * 1e3, usual_us / 1e3)
            }
        }
    }
}

impl PastMeasure {
    fn words(self) -> &'static str {
        match self {
            PastMeasure::Errors => "failures",
            PastMeasure::ClientErrors => "4xx answers",
            PastMeasure::Redirects => "redirects",
            PastMeasure::Tail => "answers above twice the p99 of its past",
            PastMeasure::Median => "median",
        }
    }
}
