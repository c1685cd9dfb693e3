//! Numbers and codes into sentences for people: of the judge ([`crate::domain::judge::ruling`]),
//! of ceilings, of the counts behind a trip. `past` has those of the own past, `gates` those of the
//! gates.
//!
//! Invariants: pure and total; nothing is decided here. No other code compares these texts.

pub(super) mod gates;
mod past;

use super::judge::ruling::{Blind, Figures, Measured, Ruling, Why};
use super::maintenance::Would;
use super::share;
use super::verdict::{Cause, DecisionText, Judgement, JudgementEvidence, SignalResult};
use crate::domain::judge::ceiling::CeilingSample;
use crate::domain::judge::onset::{BadReason, DecisionCounts};
use crate::domain::judge::trailing_windows::FittedCeiling;
use crate::domain::judge::verdict_inputs::{HOLD, WaitingUsers};
use crate::stats::engine::{DetectionLimit, Signal as Compared};
use std::time::Duration;

fn percent(share: f64) -> f64 {
    100.0 * share
}

/// `4.2 ms`, `42 ms`.
fn milliseconds(time: Duration) -> String {
    let decimals = usize::from(time < Duration::from_millis(10));
    format!("{:.decimals$} ms", time.as_secs_f64() * 1e3)
}

fn latency(known: Option<Duration>) -> String {
    known.map_or_else(|| "unknown".to_owned(), milliseconds)
}

impl From<Ruling> for Judgement {
    fn from(ruling: Ruling) -> Self {
        let Ruling { state, verdict, why, decided, progress, figures, evidence } = ruling;
        let words = Sentence { figures: &figures, evidence: &evidence };
        let what = words.why(&why);
        let reason = match &decided {
            Some(Some(by)) => format!("{what}: {}", by.counts()),
            // No onset stands out, so the counts of the last minute are shown.
            Some(None) => format!("{what} ({} failed in the last minute)", words.counts()),
            None => what.clone(),
        };
        let signals = progress.into_iter().map(|progress| SignalResult {
            signal: progress.of.label(),
            stratum: progress.stratum,
            evidence_ratio: progress.ratio,
            detail: words.detail(progress.of),
        });
        let signals = signals.collect();
        let decided = decided.map(|by| DecisionText { what, by });
        Judgement { state, verdict, withheld: false, reason, signals, decided, evidence }
    }
}

/// The words of one look.
struct Sentence<'r> {
    figures: &'r Figures,
    evidence: &'r JudgementEvidence,
}

impl Sentence<'_> {
    /// Why it has its state.
    fn why(&self, why: &Why) -> String {
        let limits = &self.figures.limits;
        match why {
            Why::Worse(signal) => self.worse(*signal),
            Why::Failing(cause) => blamed(
                *cause,
                &format!(
                    "{} of new failed in the last minute, ceiling {:.2}%{}",
                    self.failing(),
                    percent(limits.errors_max),
                    self.control()
                ),
            ),
            Why::Slow(cause) => blamed(*cause, &format!("{}{}", self.slow(), self.control())),
            Why::Silent(silent) => silent.sentence(),
            Why::BothSlower => format!("both arms are slow ({}): not blamed on new", self.medians()),
            Why::BothFailing => {
                format!("both arms fail ({} in the last minute): not blamed on new", self.counts())
            }
            Why::BothSlow => format!("both arms are slow ({}): not blamed on new", self.slow()),
            Why::Blind(blind) => blind.sentence(),
            Why::Waits => format!("waiting to be sure: {}; {}", self.counts(), self.slow()),
            Why::Suspicious(signal, route) => {
                format!("{}, {route}: {}; {}", signal.cause().label(), self.counts(), self.medians())
            }
            Why::SmallBodies => format!(
                "users of new get empty or far smaller answers more often, beyond chance ({}): waves hold",
                self.seen(Compared::Empty)
            ),
            Why::Noticed => format!(
                "new is slower than stable by more than {:.0}%, beyond chance ({}): a notice, which holds nothing",
                percent(limits.latency_notice),
                self.medians()
            ),
            Why::WorseThanBefore => {
                format!("new does worse than in its own past ({}): waves hold", self.past())
            }
            Why::NoRequest => "no request of new in the last minute".to_owned(),
            Why::Usual => self.counts(),
        }
    }

    /// `new` is worse than stable by this signal.
    fn worse(&self, signal: Compared) -> String {
        let tolerance = percent(self.figures.limits.latency_tolerance);
        match signal {
            Compared::Errors => "users of new fail more often than users of stable, beyond chance".to_owned(),
            Compared::ClientErrors => {
                "users of new get 4xx answers more often than users of stable, beyond chance".to_owned()
            }
            Compared::Latency => format!(
                "new is slower than stable by more than {tolerance:.0}%, beyond chance ({})",
                self.medians()
            ),
            Compared::Redirects => {
                "users of new are redirected more often than users of stable, beyond chance".to_owned()
            }
            Compared::Duration => format!(
                "whole exchanges of new take longer than those of stable by more than {tolerance:.0}%, beyond chance"
            ),
            Compared::Empty => {
                "users of new get empty or far smaller answers more often than users of stable, beyond chance"
                    .to_owned()
            }
        }
    }

    /// The numbers of one signal.
    fn detail(&self, of: Measured) -> String {
        let (limits, control) = (&self.figures.limits, self.control());
        match of {
            Measured::Compared(signal) => format!("{}{control}", self.compared(signal)),
            Measured::Notice => {
                let unseen =
                    self.evidence.detection_limit.map(|b| format!("; {}", b.sentence(limits.latency_notice)));
                format!(
                    "slower by more than {:.0}%: {}{}{control}{}",
                    percent(limits.latency_notice),
                    self.medians(),
                    self.not_yet(),
                    unseen.unwrap_or_default()
                )
            }
            Measured::ErrorsMax => format!("{} of {:.2}%", self.failing(), percent(limits.errors_max)),
            Measured::LatencyMax => self.slow(),
            Measured::Past => self.past(),
        }
    }

    fn compared(&self, signal: Compared) -> String {
        match signal {
            Compared::Errors => self.counts(),
            Compared::ClientErrors => {
                let (bad, requests) = (self.evidence.client_errors, self.evidence.minute.requests);
                format!(
                    "new {} of {}, stable {} of {} with 4xx",
                    bad.new, requests.new, bad.stable, requests.stable
                )
            }
            Compared::Latency => format!("{}{}", self.medians(), self.not_yet()),
            Compared::Redirects | Compared::Duration | Compared::Empty => self.seen(signal),
        }
    }

    /// Failures and requests of the last minute.
    fn counts(&self) -> String {
        let CeilingSample { requests, bad } = self.evidence.minute;
        format!("new {} of {}, stable {} of {}", bad.new, requests.new, bad.stable, requests.stable)
    }

    /// The share of `new` that failed in the last minute.
    fn failing(&self) -> String {
        share::percent(percent(self.evidence.minute.new_ratio()), 2)
    }

    /// Redirects, long exchanges or small bodies of the last minute.
    fn seen(&self, signal: Compared) -> String {
        let (CeilingSample { requests, bad }, what) = match signal {
            Compared::Redirects => (self.figures.redirects, "redirected"),
            Compared::Duration => (self.figures.long, "above p99 of stable's exchanges"),
            _ => (self.figures.small, "with a body far smaller than usual"),
        };
        format!(
            "new {} of {}, stable {} of {} {what} in the last minute",
            bad.new, requests.new, bad.stable, requests.stable
        )
    }

    fn medians(&self) -> String {
        let [new, stable] = self.figures.p50.map(latency);
        let [p99_new, p99_stable] = [self.evidence.p99_new, self.evidence.p99_stable].map(latency);
        format!("p50 of new {new}, of stable {stable}; p99 {p99_new}, {p99_stable}")
    }

    /// The answers above the ceiling of latency.
    fn slow(&self) -> String {
        let [p99_new, p99_stable] = [self.evidence.p99_new, self.evidence.p99_stable].map(latency);
        let CeilingSample { requests, bad } = self.evidence.slow;
        format!(
            "p99 of new {p99_new}, of stable {p99_stable}; {} of {} above {:.0} ms",
            bad.new,
            requests.new,
            self.evidence.latency_p99_max.as_secs_f64() * 1e3
        )
    }

    fn past(&self) -> String {
        match &self.figures.past {
            Some(report) => report.sentence(),
            None => "the soak is over: it is not compared with its past any more".to_owned(),
        }
    }

    fn control(&self) -> &'static str {
        if self.figures.controlled { "" } else { "; no control: ceilings only" }
    }

    fn not_yet(&self) -> &'static str {
        if self.figures.compares_latency { "" } else { "; too little is known of stable yet" }
    }
}

/// Marks a precaution as such.
fn blamed(cause: Cause, detail: &str) -> String {
    match cause {
        Cause::BothArms => format!(
            "precaution: both arms have been bad for {} s, and new may be why: {detail}",
            HOLD.as_secs()
        ),
        _ => detail.to_owned(),
    }
}

impl Blind {
    fn sentence(self) -> String {
        match self {
            Blind::Starved => "the watchdog is starved of CPU time".to_owned(),
            Blind::Stale(since) => format!("no interval has become final for {} s", since.as_secs()),
            Blind::NoStable(since) => {
                format!("no request of stable for {} s: nothing to compare with", since.as_secs())
            }
        }
    }
}

impl WaitingUsers {
    fn sentence(&self) -> String {
        format!(
            "new leaves its users waiting: {} of {} for 5 s and more, {} for 10 s, and nobody was answered for {} s",
            self.waiting,
            self.users,
            self.waiting_long,
            self.silent_ms / 1000
        )
    }
}

impl DetectionLimit {
    /// As a sentence. `notice`: `latency_notice`.
    pub fn sentence(&self, notice: f64) -> String {
        let within = format!("in the next {} requests", self.requests);
        match (1.0 + self.below) * (1.0 + notice) - 1.0 {
            all if all.is_finite() => {
                format!("a late change below {:.1}% would not be seen {within}", 100.0 * all)
            }
            _ => format!("no late change of latency would be seen {within}"),
        }
    }
}

impl BadReason {
    /// The description of the bad requests. `limit`: the latency above which they are slow.
    pub fn words(self, limit: Option<Duration>) -> String {
        match self {
            BadReason::Signal(Compared::Errors) => "failed".to_owned(),
            BadReason::Signal(Compared::ClientErrors) => "got a 4xx".to_owned(),
            BadReason::Signal(Compared::Redirects) => "were redirected".to_owned(),
            BadReason::Signal(Compared::Duration) => "took longer to their end than is usual".to_owned(),
            BadReason::Signal(Compared::Empty) => "had an empty or far smaller body".to_owned(),
            BadReason::Signal(Compared::Latency) | BadReason::OverMax => match limit {
                Some(limit) => format!("took longer than {}", milliseconds(limit)),
                None => "were slow".to_owned(),
            },
        }
    }
}

impl DecisionCounts {
    /// `23 of 41 of new failed, 2 of 812 of stable`.
    pub fn counts(&self) -> String {
        let DecisionCounts { new, stable, .. } = self;
        let mut out = format!(
            "{} of {} of new {}, {} of {} of stable",
            new.bad,
            new.requests,
            self.by.words(self.limit),
            stable.bad,
            stable.requests
        );
        if self.waits() {
            out.push_str(&format!(
                "; {} of new have no answer yet, {} of stable",
                new.waiting, stable.waiting
            ));
        }
        out
    }
}

impl FittedCeiling {
    /// What is in force in place of a ceiling that does not fit; `None`: it fits.
    pub fn sentence(&self) -> Option<String> {
        let percent = |share: f64| format!("{:.1}%", 100.0 * share);
        match *self {
            FittedCeiling::AsGiven => None,
            FittedCeiling::SetAside { own } => {
                Some(format!("set aside: it is a default, and stable itself has {}", percent(own)))
            }
            FittedCeiling::Raised { own, limit } => Some(format!(
                "in force at {}, since stable itself has {}",
                percent(limit.min(1.0)),
                percent(own)
            )),
        }
    }
}

impl Would {
    /// The reason of a judgement that a maintenance turned into a report.
    pub fn sentence(self, change: &str, reason: &str) -> String {
        let would = match self {
            Would::TakeOut => "it would have taken new out",
            Would::Alarm => "it would have been an alarm",
        };
        format!("maintenance {change}: {would}: {reason}")
    }
}
