//! The known properties of a service, for people who choose settings: stable's values on which
//! ceilings, excuses and gates depend.
//!
//! Invariants: pure values, all of them the watchdog's own; an unknown value is absent.

use super::judge::{Judge, SLOW_SHARE};
use crate::domain::config::WatchdogConfig;
use crate::domain::gates::TrialReading;
use crate::domain::gates::sample_size::UsualStable;
use crate::domain::judge::trailing_windows::StableBefore;
use crate::stats::design_effect::ServerMoments;
use crate::stats::engine::Engine;
use crate::stats::servers::ServerMark;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, PartialEq, Debug)]
pub struct ServiceProfile {
    /// `new` has had no users in this attempt: the fit of the ceilings is still learnt.
    pub learns: bool,
    /// Stable's own share of failures, and of answers above `latency_p99_max`.
    pub before: [StableBefore; 2],
    /// Time during which spells could be found. `None`: not yet.
    pub seen_for: Option<Duration>,
    /// Of slowness, of failures.
    pub spells: [SpellProfile; 2],
    /// Answers of stable still needed before latency is compared.
    pub answers_missing: f64,
    /// Standard deviation of the logarithm of stable's latencies.
    pub spread: Option<f64>,
    /// As the present wave has shown it, if it has enough requests.
    pub of_wave: Option<UsualStable>,
    /// Of stable's servers: of errors, of latency, of its tail.
    pub moments: [ServerMoments; 3],
    pub routes: Vec<StratumProfile>,
}

impl ServiceProfile {
    /// The ceilings that do not fit this service: the key of each, and what is in force instead.
    pub fn unfit(&self, watchdog: &WatchdogConfig) -> impl Iterator<Item = (&'static str, String)> {
        let given = [("errors_max", watchdog.errors_max), ("latency_p99_max", SLOW_SHARE)];
        let all = given.into_iter().zip(self.before).zip(watchdog.stated);
        all.filter_map(|(((key, given), before), stated)| Some((key, before.fit(given, stated).sentence()?)))
    }
}

/// A stratum.
#[derive(Clone, PartialEq, Debug)]
pub struct StratumProfile {
    pub name: Arc<str>,
    /// Requests a second, of both arms.
    pub rate: f64,
    /// As the present wave has shown it. Critical routes only.
    pub of_wave: Option<UsualStable>,
}

/// Spells of single servers of stable.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct SpellProfile {
    pub n: u64,
    pub longest: Duration,
    /// Time since the end of the oldest one.
    pub over: Option<Duration>,
    /// Excused length of a spell of `new`.
    pub allowed: Duration,
    /// `new` has far more spells, so none is excused.
    pub too_many: bool,
}

/// Requests of stable after which a wave has shown enough of it.
const SHOWN_MIN: u64 = 1_000;

/// Stable's properties as a wave has shown them, if it has enough requests.
pub fn shown(reading: &TrialReading) -> Option<UsualStable> {
    let usual = UsualStable::of(reading);
    let finite = [usual.failing, usual.slow, usual.spread].iter().chain(&usual.design).all(|n| n.is_finite());
    (reading.compared.stable >= SHOWN_MIN && finite).then_some(usual)
}

impl ServiceProfile {
    pub fn of(
        judge: &Judge,
        of_wave: Option<UsualStable>,
        moments: [ServerMoments; 3],
        routes: Vec<StratumProfile>,
        now: Duration,
    ) -> ServiceProfile {
        let engine: &Engine = judge.engine();
        let servers = engine.servers();
        let spells = [ServerMark::Slow, ServerMark::Failed].map(|kind| {
            let (n, longest) = servers.usual_spells(kind);
            SpellProfile {
                n: n as u64,
                longest,
                over: servers.usual_for(kind, now),
                allowed: servers.allowed(kind),
                too_many: servers.too_many(kind),
            }
        });
        ServiceProfile {
            learns: engine.has_had_nobody(),
            before: judge.before(),
            seen_for: servers.seen_for(now),
            spells,
            answers_missing: engine.answers_missing(),
            spread: engine.reference().map(|table| table.spread()).filter(|spread| spread.is_finite()),
            of_wave,
            moments: moments.map(|of| of.map(|part| if part.is_finite() { part } else { 0.0 })),
            routes,
        }
    }
}
