//! The sentences of the gates ([`crate::domain::gates`]): the numbers of each, and what is missing.
//!
//! Invariants: pure and total; a gate's verdict never depends on its sentence.

use crate::domain::gates::{
    GateNeeds, HealthyServers, Margins, OpenHoursState, PromotionState, TrialReading, WatchdogReport,
    WaveDetectionLimit, WaveEvidence,
};
use crate::domain::share::percent;
use crate::domain::verdict::WatchdogState;
use crate::domain::wave::Promotion;
use crate::stats::engine::DetectionLimit;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::noninferiority::BETA;
use std::time::Duration;

pub const NO_CONTROL: &str = "no control: nobody to compare with";

pub fn durable(is_durable: bool) -> String {
    match is_durable {
        true => "decisions are on disk".to_owned(),
        false => "a crash would forget decisions: mend the state directory".to_owned(),
    }
}

pub fn barred(by: &str) -> String {
    format!("its `new` are servers of {by}, which is rolled back: resume {by} first")
}

pub fn promotion(of: &PromotionState) -> String {
    match of.promotion {
        Promotion::Auto => "opens by itself".to_owned(),
        Promotion::ByHand => "a person opens it: grayling promote".to_owned(),
    }
}

pub fn hours(of: &OpenHoursState) -> String {
    let next = of.next.as_ref().map(|next| format!("; next {next}")).unwrap_or_default();
    if of.open { of.text.clone() } else { format!("closed now: {}{next}", of.text) }
}

pub fn bake(of: &WaveEvidence) -> String {
    format!("{} of {}", seconds(of.baked), seconds(of.bake))
}

pub fn requests(of: &WaveEvidence) -> String {
    format!("{} of {} of new", of.reading.requests.new, of.requests_min)
}

pub fn users(of: &WaveEvidence) -> String {
    let PerArm { new, stable } = of.reading.users;
    let seen = if of.controlled { format!("new {new}, stable {stable}") } else { format!("new {new}") };
    format!("{seen}; {} needed", of.users_min)
}

/// `actual`: the share of requests that went to `new`.
pub fn share(of: &WaveEvidence, actual: f64) -> String {
    format!(
        "{} of requests went to new, {} are configured",
        percent(100.0 * actual, 2),
        percent(100.0 * of.share, 2)
    )
}

/// The share is off beyond chance.
pub fn share_off(of: &WaveEvidence, actual: f64) -> String {
    let why = "beyond chance: a fault of the set-up and not of new (are user ids lost or doubled on one side, or is one arm not reached?)";
    format!("{}, {why}", share(of, actual))
}

pub fn servers(HealthyServers { all, healthy }: HealthyServers) -> String {
    format!("new {} of {} healthy, stable {} of {}", healthy.new, all.new, healthy.stable, all.stable)
}

/// The state of the watchdog, which is against the wave.
pub fn watchdog_state(dog: &WatchdogReport, state: WatchdogState) -> String {
    format!("{}: {}", state.label(), dog.reason)
}

/// Its reason, and E of `needed`.
pub fn watchdog_evidence(dog: &WatchdogReport, needed: f64) -> String {
    format!("{}; {}", dog.reason, e_of_hold(dog, needed))
}

pub fn watchdog_quiet(dog: &WatchdogReport, needed: f64) -> String {
    format!("quiet, {}", e_of_hold(dog, needed))
}

fn e_of_hold(dog: &WatchdogReport, needed: f64) -> String {
    format!("E {:.2} of {needed:.0}", dog.e_value)
}

pub fn detection_limit(of: WaveDetectionLimit, detection_limit: DetectionLimit) -> String {
    format!("{}; {:.0}% may be", detection_limit.sentence(of.latency_notice), 100.0 * of.margin)
}

pub fn errors(of: &TrialReading, margins: &Margins) -> String {
    let (n, bad) = (of.compared, of.failed);
    format!(
        "new {} of {} failed, stable {} of {}; no worse than {} points by E {}",
        bad.new,
        n.new,
        bad.stable,
        n.stable,
        points(margins.errors),
        e_of(of.e_errors)
    )
}

pub fn latency(of: &TrialReading, margins: &Margins) -> String {
    let margin = 100.0 * margins.latency;
    format!("not slower by {margin:.0}% by E {}, of {} answers of new", e_of(of.e_body), of.timed.new)
}

pub fn tail(of: &TrialReading, margins: &Margins) -> String {
    let (n, slow) = (of.timed, of.slow);
    format!(
        "above p99 of stable: new {} of {}, stable {} of {}; less than {} times as many by E {}",
        slow.new,
        n.new,
        slow.stable,
        n.stable,
        points(margins.tail_ratio() / 100.0),
        e_of(of.e_tail)
    )
}

/// What follows the numbers of a margin gate.
#[derive(Clone, Copy, Debug)]
pub enum More {
    FailsTooOften,
    SlowTooOften,
    StableUnknown,
    NoSign,
    Needs(GateNeeds),
    /// Requests that count as one.
    Repeats(f64),
}

impl More {
    pub fn sentence(self) -> String {
        match self {
            More::FailsTooOften => "; it fails more often than it may".to_owned(),
            More::SlowTooOften => "; it is slow more often than it may".to_owned(),
            More::StableUnknown => "; too little is known of stable yet".to_owned(),
            More::NoSign => "; what has come does not point to a pass".to_owned(),
            More::Needs(GateNeeds { requests, time }) => match time {
                Some(time) => {
                    format!("; about {requests} more requests of new, {} at this rate", seconds(time))
                }
                None => format!("; about {requests} more requests of new, none has come yet"),
            },
            More::Repeats(n) => format!(
                "; users repeat themselves, or servers have bad moments: {n:.1} requests count as one"
            ),
        }
    }
}

fn e_of(e: f64) -> String {
    let needed = 1.0 / BETA;
    if e >= 1000.0 { format!("above 1000 of {needed:.0}") } else { format!("{e:.2} of {needed:.0}") }
}

/// `0.001` → `0.1`.
pub fn points(share: f64) -> String {
    let text = format!("{:.4}", 100.0 * share);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// As text: `40 s`, `12 min`, `3.5 h`.
pub fn seconds(time: Duration) -> String {
    let s = time.as_secs_f64();
    match s {
        s if s < 10.0 => format!("{:.1} s", (s * 10.0).floor() / 10.0),
        s if s < 120.0 => format!("{:.0} s", s.floor()),
        s if s < 7200.0 => format!("{:.0} min", (s / 60.0).floor()),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// `0.1 points at 5%: about 40 min at this rate`.
pub fn power(margin: f64, share: f64, time: Duration) -> String {
    format!("{} points at {}%: about {} at this rate", points(margin), points(share), seconds(time))
}
