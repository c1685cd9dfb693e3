//! The gates of the next wave. Each gate is *pass*, *fail* or *inconclusive*, with its numbers.
//! Only *pass* opens, so missing data never opens a wave.
//!
//! Critical routes have margin gates of their own (`errors:refunds`): five points more failures on
//! 0.5% of the traffic do not show in the total.
//!
//! [`judge`] is a pure function of [`GateInput`]. The ledger keeps the input of each decision, so
//! any verdict can be recomputed.
//! If all users of a wave are pinned, or all are in `new`, there is no control: those gates pass
//! and state "no control".
//!
//! Invariants: an input without numbers never passes; a wave without a successor has the same gates
//! but for the promotion by hand.

pub(crate) mod critical_route;
pub(crate) mod figures;
pub(crate) mod margin_gates;
pub(crate) mod moments;
pub(crate) mod sample_size;
pub mod trial;

use super::describe::gates::{self as words, NO_CONTROL};
pub use super::describe::gates::{points, seconds};
use super::resource::{ResourceInputs, ResourceResult};
use super::verdict::{self, Judgement, WatchdogState};
use super::wave::Promotion;
pub use crate::domain::gates::margin_gates::RouteEvidence;
use crate::stats::engine::DetectionLimit;
use crate::stats::hypergeometric_bet::PerArm;
use crate::stats::noninferiority::requests_needed;
use std::borrow::Cow;
use std::time::Duration;
pub use trial::{Margins, TrialReading};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GateVerdict {
    Pass,
    /// The numbers are against it.
    Fail,
    /// Not decided yet.
    Inconclusive,
}

impl GateVerdict {
    pub fn label(self) -> &'static str {
        match self {
            GateVerdict::Pass => "pass",
            GateVerdict::Fail => "fail",
            GateVerdict::Inconclusive => "inconclusive",
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct Gate {
    /// One of [`NAMES`]. For a critical route, its name follows after a colon.
    pub name: Cow<'static, str>,
    pub verdict: GateVerdict,
    /// A sentence with the numbers.
    pub detail: String,
    /// What is still missing, if it can be estimated.
    pub needs: Option<GateNeeds>,
}

/// The estimated data that a gate still needs, if `new` is like stable.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct GateNeeds {
    /// Requests of `new`.
    pub requests: u64,
    /// At the wave's rate so far. `None`: no request yet.
    pub time: Option<Duration>,
}

/// All grounds of a verdict.
#[derive(Clone, PartialEq, Debug)]
pub struct GateInput {
    /// The evidence of the present wave. `None`: no wave yet, the first one waits for its
    /// promotion.
    pub wave_evidence: Option<WaveEvidence>,
    /// `None`: no wave follows.
    pub promotion: Option<PromotionState>,
    /// Decisions survive a crash.
    pub durable: bool,
    /// The release whose standing rollback forbids more users on these servers.
    pub barred_by: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct WaveEvidence {
    /// The hash assigns users to both arms.
    pub controlled: bool,
    pub baked: Duration,
    pub bake: Duration,
    pub requests_min: u64,
    pub users_min: u64,
    pub margins: Margins,
    /// Share of users in `new`.
    pub share: f64,
    pub reading: TrialReading,
    /// One for each critical route.
    pub critical: Vec<RouteEvidence>,
    pub servers: HealthyServers,
    pub watchdog: WatchdogReport,
    /// Empty: no resource is watched, and there is no gate.
    pub resources: Vec<ResourceInputs>,
}

/// Servers of each arm, and the healthy ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HealthyServers {
    pub all: PerArm,
    pub healthy: PerArm,
}

/// The state of the watchdog.
#[derive(Clone, PartialEq, Debug)]
pub struct WatchdogReport {
    /// `None`: no look yet.
    pub state: Option<WatchdogState>,
    /// It has looked, has seen requests of `new`, and has no finding against it.
    pub passes: bool,
    pub reason: String,
    pub e_value: f64,
    /// E of "slower by more than the notice level".
    pub e_notice: f64,
    pub alpha: f64,
    /// `Some` if waves hold while late changes would not be detected.
    pub detection_limit: Option<WaveDetectionLimit>,
}

impl WatchdogReport {
    /// The watchdog's latest judgement, for the gates.
    pub fn new(judgement: &Judgement, detection_limit: Option<WaveDetectionLimit>) -> WatchdogReport {
        WatchdogReport {
            state: Some(judgement.state),
            passes: judgement.verdict == verdict::Verdict::Pass,
            reason: judgement.reason.clone(),
            e_value: judgement.evidence.e_value.max(judgement.evidence.e_small),
            e_notice: judgement.evidence.e_notice,
            alpha: judgement.evidence.alpha,
            detection_limit,
        }
    }
}

/// The minimum detectable effect of a late change in the wave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WaveDetectionLimit {
    /// `None`: no window of the wave is full yet.
    pub detection_limit: Option<DetectionLimit>,
    pub latency_notice: f64,
    /// The largest late change that may stay undetected.
    pub margin: f64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PromotionState {
    pub promotion: Promotion,
    pub hours: Option<OpenHoursState>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenHoursState {
    pub text: String,
    pub open: bool,
    /// Start of the next open hours.
    pub next: Option<String>,
}

/// E of the comparison from which on a wave holds.
const E_HOLDS: f64 = 10.0;
/// Standard deviations beyond which a difference of the share is not chance.
const SHARE_Z: f64 = 4.5;
/// Minimum of the difference, relative to the weight.
const SHARE_OFF: f64 = 0.05;
/// Minimum of failures of `new` for a *fail*.
const FAILURES_TOLD: u64 = 10;

/// Gates that only time or a person passes. A wave that waits for nothing else is not stuck.
pub const BAKE: &str = "bake";
pub const REQUESTS: &str = "requests";
pub const OPEN: &str = "open";
pub const OPEN_HOURS: &str = "open_hours";
pub const WATCHDOG: &str = "watchdog";

/// All gate names.
pub const NAMES: [&str; 15] = [
    BAKE,
    REQUESTS,
    "users",
    "errors",
    "latency",
    "latency_tail",
    "share",
    "servers",
    "watchdog",
    "sight",
    "resources",
    "state",
    "barred",
    OPEN,
    OPEN_HOURS,
];

pub fn passes(gates: &[Gate]) -> bool {
    !gates.is_empty() && gates.iter().all(|gate| gate.verdict == GateVerdict::Pass)
}

pub fn judge(input: &GateInput) -> Vec<Gate> {
    let mut gates = vec![];
    if let Some(wave_evidence) = &input.wave_evidence {
        gates.extend([bake(wave_evidence), requests(wave_evidence), users(wave_evidence)]);
        gates.extend(margin_gates::all(wave_evidence));
        gates.extend(margin_gates::critical(wave_evidence));
        gates.push(share(wave_evidence));
        gates.extend([servers(wave_evidence), watchdog(wave_evidence)]);
        gates.extend(
            wave_evidence.watchdog.detection_limit.map(|of| detection_limit(wave_evidence.controlled, of)),
        );
        gates.extend(resources(&wave_evidence.resources));
    }
    gates.push(gate("state", when(input.durable), words::durable(input.durable)));
    if let Some(by) = &input.barred_by {
        gates.push(gate("barred", GateVerdict::Fail, words::barred(by)));
    }
    if let Some(of) = &input.promotion {
        gates.push(gate(OPEN, when(of.promotion == Promotion::Auto), words::promotion(of)));
        gates.extend(of.hours.as_ref().map(|hours| gate(OPEN_HOURS, when(hours.open), words::hours(hours))));
    }
    gates
}

fn gate(name: &'static str, verdict: GateVerdict, detail: String) -> Gate {
    Gate { name: name.into(), verdict, detail, needs: None }
}

/// True if a gate of this name exists, for these critical routes.
pub fn is_known<'n>(name: &str, critical: impl IntoIterator<Item = &'n str>) -> bool {
    match name.split_once(':') {
        Some((gate, route)) => {
            margin_gates::BY_ROUTE.contains(&gate) && critical.into_iter().any(|known| known == route)
        }
        None => NAMES.contains(&name),
    }
}

/// The gate that takes longest, of those with an estimate.
pub fn slowest(gates: &[Gate]) -> Option<(&Gate, GateNeeds)> {
    let told = gates.iter().filter(|gate| gate.verdict != GateVerdict::Pass);
    let time = |needs: GateNeeds| needs.time.unwrap_or(Duration::MAX);
    told.filter_map(|gate| Some((gate, gate.needs?))).max_by_key(|(_, needs)| time(*needs))
}

fn when(holds: bool) -> GateVerdict {
    if holds { GateVerdict::Pass } else { GateVerdict::Inconclusive }
}

fn bake(of: &WaveEvidence) -> Gate {
    gate(BAKE, when(of.baked >= of.bake), words::bake(of))
}

fn requests(of: &WaveEvidence) -> Gate {
    let enough = of.reading.requests.new >= of.requests_min && of.reading.requests.new > 0;
    gate(REQUESTS, when(enough), words::requests(of))
}

fn users(of: &WaveEvidence) -> Gate {
    let PerArm { new, stable } = of.reading.users;
    let least = if of.controlled { new.min(stable) } else { new };
    gate("users", when(least >= of.users_min), words::users(of))
}

/// A share that differs from the weight is a fault of the set-up: the arms are then not the assumed
/// ones.
fn share(of: &WaveEvidence) -> Gate {
    let name = "share";
    if !of.controlled {
        return gate(name, GateVerdict::Pass, NO_CONTROL.into());
    }
    let n = of.reading.compared;
    let actual = ratio(n.new, n.total());
    let off = (actual - of.share).abs() > SHARE_OFF * of.share.min(1.0 - of.share);
    match () {
        () if n.total() == 0 => gate(name, GateVerdict::Inconclusive, "no request to compare yet".into()),
        () if off && of.reading.share_z.abs() > SHARE_Z => {
            gate(name, GateVerdict::Fail, words::share_off(of, actual))
        }
        () => gate(name, GateVerdict::Pass, words::share(of, actual)),
    }
}

fn servers(of: &WaveEvidence) -> Gate {
    let HealthyServers { all, healthy } = of.servers;
    let well = healthy == all && all.new > 0 && all.stable > 0;
    gate("servers", if well { GateVerdict::Pass } else { GateVerdict::Fail }, words::servers(of.servers))
}

fn watchdog(of: &WaveEvidence) -> Gate {
    let name = WATCHDOG;
    let dog = &of.watchdog;
    let Some(state) = dog.state else {
        return gate(name, GateVerdict::Inconclusive, "it has not looked yet".into());
    };
    match state {
        WatchdogState::Tripped | WatchdogState::BothArms => {
            gate(name, GateVerdict::Fail, words::watchdog_state(dog, state))
        }
        _ if dog.e_value >= E_HOLDS => gate(name, GateVerdict::Fail, words::watchdog_evidence(dog, E_HOLDS)),
        WatchdogState::Quiet if dog.passes => {
            gate(name, GateVerdict::Pass, words::watchdog_quiet(dog, E_HOLDS))
        }
        // A notice only informs. The margins decide the promotion.
        WatchdogState::Suspicious if dog.passes => {
            gate(name, GateVerdict::Pass, words::watchdog_evidence(dog, E_HOLDS))
        }
        _ => gate(name, GateVerdict::Inconclusive, words::watchdog_state(dog, state)),
    }
}

/// The gate of `hold_when_blind`: a late slowdown by more than `margin_latency` would be detected.
fn detection_limit(controlled: bool, of: WaveDetectionLimit) -> Gate {
    let name = "sight";
    match of.detection_limit {
        _ if !controlled => gate(name, GateVerdict::Pass, NO_CONTROL.into()),
        None => {
            gate(name, GateVerdict::Inconclusive, "not known before the wave's first 4096 requests".into())
        }
        Some(b) => {
            let seen = (1.0 + b.below) * (1.0 + of.latency_notice) <= 1.0 + of.margin;
            gate(name, when(seen), words::detection_limit(of, b))
        }
    }
}

/// One gate for all resources. It passes if each is within its limits.
fn resources(of: &[ResourceInputs]) -> Option<Gate> {
    if of.is_empty() {
        return None;
    }
    let says: Vec<ResourceResult> = of.iter().map(ResourceInputs::result).collect();
    let verdict = match () {
        () if says.iter().any(|say| matches!(say, ResourceResult::Over(_) | ResourceResult::Both)) => {
            GateVerdict::Fail
        }
        () if says.iter().all(|say| *say == ResourceResult::Within) => GateVerdict::Pass,
        () => GateVerdict::Inconclusive,
    };
    let details: Vec<String> = of.iter().map(ResourceInputs::detail).collect();
    Some(gate("resources", verdict, details.join(" | ")))
}

/// The base rate of stable, never zero: an event that was not observed may still happen.
fn base(bad: u64, of: u64) -> f64 {
    (bad as f64 + 0.5) / (of as f64 + 1.0)
}

fn ratio(part: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 }
}

fn rounded(n: f64) -> u64 {
    let unit = 10f64.powf(n.max(1.0).log10().floor() - 1.0).max(1.0);
    ((n / unit).ceil() * unit) as u64
}

/// The known traffic of a release.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct KnownTraffic {
    /// Requests a second, of both arms.
    pub rate: f64,
    /// Requests of stable.
    pub requests: u64,
    pub failures: u64,
}

/// The duration of a wave at this share that shows a deviation of `margin`, at this traffic.
/// `None`: no traffic, or no control.
pub fn time_needed(traffic: &KnownTraffic, margin: f64, share: f64) -> Option<Duration> {
    let rate = traffic.rate * share;
    if rate <= 0.0 || share >= 1.0 {
        return None;
    }
    let needed = requests_needed(base(traffic.failures, traffic.requests), margin, share);
    Some(Duration::from_secs_f64((needed / rate).min(1e9)))
}

/// `0.1 points at 5%: about 40 min at this rate`.
pub fn power(traffic: &KnownTraffic, margin: f64, share: f64) -> Option<String> {
    let time = time_needed(traffic, margin, share)?;
    Some(words::power(margin, share, time))
}

#[cfg(test)]
pub(crate) mod tests;
