//! The implications of a release's settings: for the running service, from its own figures, or for
//! an example if none are known.
//!
//! Every number is computed by the code that decides, or by the code that estimates the needs of
//! gates.
//!
//! Invariants: pure; figures from the network may be any number, and none of them causes a panic.

use crate::admin::{dto, service};
use crate::cli::text::{milliseconds, percent};
use crate::domain::config::{Config, Release, WatchdogConfig};
use crate::domain::gates::margin_gates::{ERRORS, LATENCY, TAIL};
use crate::domain::gates::sample_size::{CriticalTraffic, GateDuration, UsualStable, longest, takes};
use crate::domain::gates::{Margins, seconds};
use crate::domain::judge::SLOW_SHARE;
use crate::domain::judge::trailing_windows::{FittedCeiling, KNOWN, StableBefore};
use crate::domain::wave::{Strategy, Wave};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::cohort::Weight;
use crate::stats::engine::warms_up;
use crate::stats::power::{alpha_of_route, failing_seen, slowdown_seen, time_to_see};
use serde::Serialize;
use std::time::Duration;

/// The example without known traffic: requests a second of both versions, and the share that fails.
pub const RATE: f64 = 500.0;
pub const FAILING: f64 = 0.001;

/// One of `releases` in the JSON. Times end in `_s` or `_ms`, `_ratio` is 0 to 1, `weight` is a
/// percentage. Unknown values are `null`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Implied {
    pub name: String,
    /// `service`: of the running service. `example`: of an assumed traffic.
    pub figures: &'static str,
    /// With `--against`: why the service's properties are not known.
    pub lack: Option<String>,
    /// Requests a second, of both versions.
    pub rate: f64,
    /// Share of stable's requests that fail.
    pub failing_ratio: f64,
    pub p99_ms: Option<f64>,
    /// Time that was counted.
    pub counted_s: Option<f64>,
    /// Only for a service.
    pub ceilings: Vec<CeilingFit>,
    pub pauses: Option<Pauses>,
    /// A present wave has shown the design effects of users. Otherwise times are lower bounds.
    pub of_wave: bool,
    /// Routes whose total failure would not be found within the bake of some wave.
    pub rare_routes: Vec<Rare>,
    /// By wave. For a weight set by hand, one step without bake and gates.
    pub waves: Vec<ImpliedStep>,
}

/// The fit of a ceiling for the service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CeilingFit {
    /// `errors_max` or `latency_p99_max`.
    pub key: &'static str,
    /// As in the file: a percentage, or a time.
    pub given: String,
    /// `fits`; `set_aside`, `raised`; `unknown`.
    pub verdict: &'static str,
    /// Stable's own share: of failures, of longer answers.
    pub own_ratio: Option<f64>,
    /// The share of requests of `new` above which the ceiling is exceeded. `null`: none.
    pub in_force_ratio: Option<f64>,
    /// Why it is not known.
    pub why: Option<String>,
}

/// Spells of single servers of stable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pauses {
    /// Time during which spells could be found. `null`: not yet.
    pub seen_s: Option<f64>,
    /// Answers of stable still needed before they can be found.
    pub answers_missing: u64,
    pub slow: dto::SpellsBody,
    pub failed: dto::SpellsBody,
    /// Failures of a spell are excused only if another server of `new` is sound.
    pub servers_of_new: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rare {
    pub name: String,
    /// Requests a second, of both versions.
    pub rate: f64,
    pub waves: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ImpliedStep {
    pub name: String,
    /// From 1 on. `null`: a weight set by hand.
    pub number: Option<usize>,
    pub weight: f64,
    /// Users of both versions are compared.
    pub controlled: bool,
    pub bake_s: Option<f64>,
    /// The part of its bake, at most, in which slowness is no evidence.
    pub warm_up_s: Option<f64>,
    /// The gate that takes longest, and its time. `null`: not known.
    pub slowest: Option<String>,
    pub needs_s: Option<f64>,
    pub gates: Vec<GateTakes>,
    /// Time until a doubled and a tenfold failure rate are found.
    pub doubled_s: Option<f64>,
    pub tenfold_s: Option<f64>,
    /// The lowest share of failures, and the smallest slowdown of all answers, that are found
    /// within the bake. `null`: none.
    pub found_failing_ratio: Option<f64>,
    pub found_slower_ratio: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GateTakes {
    pub name: String,
    /// The key of the gate's margin, and its value in the file.
    pub key: Option<&'static str>,
    pub margin_ratio: Option<f64>,
    pub needs_s: Option<f64>,
}

/// For each release whose watchdog is on. `running`: the state from the proxy.
pub fn implied(config: &Config, running: Option<&dto::RunningBody>) -> Vec<Implied> {
    let on = config.releases.iter().enumerate().filter(|(_, release)| release.watchdog.enabled);
    on.map(|(index, release)| {
        let known = running.map(|running| service_of(running, &release.name));
        match known {
            Some(Ok(known)) => of_service(config, index, known),
            Some(Err(lack)) => of_example(release, Some(lack)),
            None => of_example(release, None),
        }
    })
    .collect()
}

/// The known properties of its service, or why there are none.
fn service_of<'r>(running: &'r dto::RunningBody, name: &str) -> Result<&'r dto::ServiceBody, String> {
    let standing = running.releases.get(name).ok_or("the running config does not name it")?;
    let service = standing.service.as_ref().ok_or("the proxy has no figures of it yet")?;
    if service.rate > 0.0 && service.requests > 0 {
        return Ok(service);
    }
    Err(format!("no request of stable in the last {}", shown_seconds(service.counted_s)))
}

fn of_example(release: &Release, lack: Option<String>) -> Implied {
    let usual = UsualStable { failing: FAILING, ..UsualStable::before_a_wave(0, 0, None) };
    Implied {
        name: release.name.clone(),
        figures: "example",
        lack,
        rate: RATE,
        failing_ratio: FAILING,
        p99_ms: None,
        counted_s: None,
        ceilings: vec![],
        pauses: None,
        of_wave: false,
        rare_routes: vec![],
        waves: steps(release, RATE, &usual, [1.0; 2], 0.0, &[], false),
    }
}

fn of_service(config: &Config, index: usize, known: &dto::ServiceBody) -> Implied {
    let release = &config.releases[index];
    let servers = |upstream: usize| config.upstreams.get(upstream).map_or(0, |of| of.servers.len());
    let of_servers = [release.new, release.stable].map(|of| servers(of) as f64);
    let usual = service::usual(&known.gates, known);
    let critical = release.critical.iter().map(|name| {
        let route = known.routes.iter().find(|route| route.name == *name);
        let of_wave = route.and_then(|route| route.gates.as_ref());
        CriticalTraffic {
            name,
            rate: route.map(|route| route.rate),
            usual: of_wave.map_or(usual, |gates| service::usual(gates, known)),
        }
    });
    let critical: Vec<CriticalTraffic<'_>> = critical.collect();
    Implied {
        name: release.name.clone(),
        figures: "service",
        lack: None,
        rate: known.rate,
        failing_ratio: known.failures as f64 / known.requests.max(1) as f64,
        p99_ms: known.p99_ms,
        counted_s: Some(known.counted_s),
        ceilings: ceilings(&release.watchdog, known).into(),
        pauses: Some(Pauses {
            seen_s: known.seen_s,
            answers_missing: known.answers_missing,
            slow: known.spells_slow,
            failed: known.spells_failed,
            servers_of_new: servers(release.new),
        }),
        of_wave: known.gates.of_wave,
        rare_routes: rare(config, index, known, &usual),
        waves: steps(release, known.rate, &usual, of_servers, known.answers_missing as f64, &critical, true),
    }
}

/// The fit of the file's ceilings for the service, by the rule of the judge.
fn ceilings(of: &WatchdogConfig, known: &dto::ServiceBody) -> [CeilingFit; 2] {
    let limit_ms = 1e3 * of.latency_p99_max.as_secs_f64();
    let [errors_stated, latency_stated] = of.stated;
    let share = percent(100.0 * of.errors_max);
    // Whole seconds are written as in the file.
    let time =
        if limit_ms % 1e3 == 0.0 { format!("{:.0} s", limit_ms / 1e3) } else { milliseconds(limit_ms) };
    let errors = service::before(&known.errors_max);
    let latency = service::before(&known.latency_p99_max);
    let mut latency = ceiling("latency_p99_max", time, &latency, (SLOW_SHARE, latency_stated), known.learns);
    if (known.latency_p99_max.given - limit_ms).abs() > 1e-6 {
        // The learnt values belong to another limit.
        let why = match known.learns {
            true => "it is not the running one, and is learnt from the reload on".to_owned(),
            false => "it is not the running one, and users have been in new: it holds as given".to_owned(),
        };
        latency = CeilingFit {
            verdict: "unknown",
            own_ratio: None,
            in_force_ratio: Some(SLOW_SHARE),
            why: Some(why),
            ..latency
        };
    }
    [ceiling("errors_max", share, &errors, (of.errors_max, errors_stated), known.learns), latency]
}

fn ceiling(
    key: &'static str,
    given: String,
    before: &StableBefore,
    (limit, is_stated): (f64, bool),
    learns: bool,
) -> CeilingFit {
    let fitted = before.fit(limit, is_stated);
    let own_ratio = before.own();
    let verdict = match (fitted, own_ratio) {
        (_, None) => "unknown",
        (FittedCeiling::AsGiven, _) => "fits",
        (FittedCeiling::SetAside { .. }, _) => "set_aside",
        (FittedCeiling::Raised { .. }, _) => "raised",
    };
    let [requests, _] = before.parts();
    let why = own_ratio.is_none().then(|| match learns {
        true => format!("{requests:.0} of {KNOWN:.0} requests of stable are counted"),
        false => "users were in new before enough of stable had been seen".to_owned(),
    });
    CeilingFit { key, given, verdict, own_ratio, in_force_ratio: fitted.limit(limit), why }
}

/// Routes for which a wave is too short.
fn rare(config: &Config, index: usize, known: &dto::ServiceBody, usual: &UsualStable) -> Vec<Rare> {
    let release = &config.releases[index];
    let judged = ReleaseSnapshot::strata(config, index);
    if judged.len() < 2 {
        return vec![];
    }
    let alpha = alpha_of_route(release.watchdog.alpha, judged.len());
    // Waves hold for critical routes, however rare they are.
    let others = judged.iter().filter(|name| !release.critical.iter().any(|critical| *critical == ***name));
    let rare = others.filter_map(|name| {
        let route = known.routes.iter().find(|route| *route.name == **name)?;
        let all_fail = 1.0 / usual.failing;
        let unseen = |wave: &&Wave| {
            let share = wave.until_complete.weight.ratio();
            let time = time_to_see(alpha, share, usual.failing, all_fail, route.rate);
            wave.controlled() && time.is_none_or(|time| time > wave.bake)
        };
        let waves: Vec<String> = release.waves.iter().filter(unseen).map(|wave| wave.name.clone()).collect();
        (!waves.is_empty()).then(|| Rare { name: route.name.clone(), rate: route.rate, waves })
    });
    rare.collect()
}

fn steps(
    release: &Release,
    rate: f64,
    usual: &UsualStable,
    servers: [f64; 2],
    late: f64,
    critical: &[CriticalTraffic<'_>],
    with_gates: bool,
) -> Vec<ImpliedStep> {
    let watchdog = &release.watchdog;
    let seen = |share: f64, times: f64| {
        let rate = rate / usual.design[0].max(1.0);
        time_to_see(watchdog.alpha, share, usual.failing, times, rate).map(|time| time.as_secs_f64())
    };
    let waves = match release.strategy() {
        Strategy::Waves(waves) => waves,
        Strategy::ByHand(exposure) => {
            let share = exposure.weight.ratio();
            return vec![ImpliedStep {
                name: exposure.weight.to_string(),
                number: None,
                weight: exposure.weight.percent(),
                controlled: share > 0.0 && share < 1.0,
                bake_s: None,
                warm_up_s: None,
                slowest: None,
                needs_s: None,
                gates: vec![],
                doubled_s: seen(share, 2.0),
                tenfold_s: seen(share, 10.0),
                found_failing_ratio: None,
                found_slower_ratio: None,
            }];
        }
    };
    let mut was = Weight::ZERO;
    let mut all = vec![];
    for (number, wave) in waves.iter().enumerate() {
        let weight = wave.until_complete.weight;
        let share = weight.ratio();
        let warm_up = if warms_up(was, weight) { release.warm_up.min(wave.bake) } else { Duration::ZERO };
        was = weight;
        let gates: Vec<GateDuration> = match with_gates {
            true => takes(wave, &watchdog.margins, (rate, usual), servers, late, critical),
            false => vec![],
        };
        let slowest = longest(&gates);
        let requests = |of: Duration, design: f64| rate * share * of.as_secs_f64() / design.max(1.0);
        let [design_errors, design_latency, _] = usual.design;
        let in_bake = requests(wave.bake, design_errors);
        let warm = requests(wave.bake.saturating_sub(warm_up), design_latency);
        all.push(ImpliedStep {
            name: wave.name.clone(),
            number: Some(number + 1),
            weight: weight.percent(),
            controlled: wave.controlled(),
            bake_s: Some(wave.bake.as_secs_f64()),
            warm_up_s: (!warm_up.is_zero()).then_some(warm_up.as_secs_f64()),
            slowest: slowest.map(|of| of.gate.to_string()),
            needs_s: slowest.and_then(|of| of.time).map(|time| time.as_secs_f64()),
            gates: gates.iter().map(|of| gate_takes(of, &watchdog.margins)).collect(),
            doubled_s: seen(share, 2.0),
            tenfold_s: seen(share, 10.0),
            found_failing_ratio: failing_seen(watchdog.alpha, share, usual.failing, in_bake),
            found_slower_ratio: slowdown_seen(
                watchdog.alpha,
                share,
                usual.spread,
                watchdog.latency_tolerance,
                warm,
            ),
        });
    }
    all
}

fn gate_takes(of: &GateDuration, margins: &Margins) -> GateTakes {
    let margin = match of.gate.split(':').next() {
        Some(ERRORS) => Some(("margin_errors", margins.errors)),
        Some(LATENCY) => Some(("margin_latency", margins.latency)),
        Some(TAIL) => Some(("margin_latency_tail", margins.tail)),
        _ => None,
    };
    let (key, margin_ratio) = margin.unzip();
    let needs_s = of.time.map(|time| time.as_secs_f64());
    GateTakes { name: of.gate.to_string(), key, margin_ratio, needs_s }
}

/// As text. An invalid time is shown as zero.
pub fn shown_seconds(s: f64) -> String {
    seconds(Duration::try_from_secs_f64(s).unwrap_or_default())
}
