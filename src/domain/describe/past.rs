//! The sentences of `new`'s own past ([`crate::domain::judge::own_past`]).
//!
//! Invariants: pure and total.

use crate::domain::judge::own_past::{KNOWN_UNCONTROLLED, Measure, Report, Says, Shown};

impl Report {
    /// What is said of the past, with the numbers.
    pub fn told(&self) -> String {
        match self.says {
            Says::Learns => "there is a control: its past is being learnt".to_owned(),
            Says::Unknown => format!(
                "its past is not known, and is learnt at 100%: {:.0} of {KNOWN_UNCONTROLLED:.0} minutes",
                self.minutes
            ),
            Says::Usual => self.numbers(),
            // After a restart the alarm stands, and nothing has come yet.
            Says::Worse(measure) if self.shown.is_empty() => {
                format!("worse in {}: no request in the last minute", measure.words())
            }
            Says::Worse(measure) => format!("worse in {}: {}", measure.words(), self.numbers()),
        }
    }

    fn numbers(&self) -> String {
        self.shown.iter().map(Shown::told).collect::<Vec<_>>().join("; ")
    }
}

impl Shown {
    fn told(&self) -> String {
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

impl Measure {
    fn words(self) -> &'static str {
        match self {
            Measure::Errors => "failures",
            Measure::ClientErrors => "4xx answers",
            Measure::Redirects => "redirects",
            Measure::Tail => "answers above twice the p99 of its past",
            Measure::Median => "median",
        }
    }
}
