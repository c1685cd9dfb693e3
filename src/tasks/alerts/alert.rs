//! Alerts to the configured receivers: each one at its begin and at its end.
//!
//! An alert is a state, not an event.
//! Five times a second the standing alerts are derived from the *announced* snapshot (so that every
//! alert is durable), and each change goes to the queue of every receiver (`receiver.rs`).
//! So a restart loses nothing either: alerts that stand then are sent again, with the time at which
//! they began.
//!
//! Invariants: nothing waits for this task, and this task waits for no receiver.
//! A state that can come and go by itself must be absent for half a minute before its alert ends.
//! Labels are names from the config and words from this file.

use super::receiver::AlertQueue as Mailbox;
use crate::domain::rollout::RolloutState;
use crate::domain::rollout::wave_controller::{HeldBy, hours};
use crate::domain::share::progress;
use crate::domain::verdict;
use crate::runtime::shared::SharedState;
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::store::audit::timeline;
use crate::store::ledger::LedgerEntry;
use crate::telemetry::clock;
use crate::telemetry::clock::time_of_day;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::TryRecvError;

const LOOK: Duration = Duration::from_millis(200);
/// How long a flapping state must be absent before it ends.
const OVER: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AlertKind {
    Trip,
    Freeze,
    BothArms,
    LatencyNotice,
    Suspicious,
    WorseThanBefore,
    StuckWave,
    ReloadFailed,
    StateNotDurable,
}

impl AlertKind {
    #[cfg(test)]
    const ALL: [AlertKind; 9] = [
        AlertKind::Trip,
        AlertKind::Freeze,
        AlertKind::BothArms,
        AlertKind::LatencyNotice,
        AlertKind::Suspicious,
        AlertKind::WorseThanBefore,
        AlertKind::StuckWave,
        AlertKind::ReloadFailed,
        AlertKind::StateNotDurable,
    ];

    pub fn label(self) -> &'static str {
        match self {
            AlertKind::Trip => "trip",
            AlertKind::Freeze => "freeze",
            AlertKind::BothArms => "both_arms",
            AlertKind::LatencyNotice => "latency_notice",
            AlertKind::Suspicious => "suspicious",
            AlertKind::WorseThanBefore => "worse_than_before",
            AlertKind::StuckWave => "stuck_wave",
            AlertKind::ReloadFailed => "reload_failed",
            AlertKind::StateNotDurable => "state_not_durable",
        }
    }

    /// `alertname` for an Alertmanager: the same as in the rules of `config/prometheus`.
    pub fn alertname(self) -> &'static str {
        match self {
            AlertKind::Trip => "GraylingRolledBack",
            AlertKind::Freeze => "GraylingFrozen",
            AlertKind::BothArms => "GraylingBothArmsFailing",
            AlertKind::LatencyNotice => "GraylingNewIsSlower",
            AlertKind::Suspicious => "GraylingNewIsSuspicious",
            AlertKind::WorseThanBefore => "GraylingNewIsWorseThanBefore",
            AlertKind::StuckWave => "GraylingWaveHeld",
            AlertKind::ReloadFailed => "GraylingReloadFailed",
            AlertKind::StateNotDurable => "GraylingStateNotDurable",
        }
    }

    /// `page`: a person acts now; `ticket`: a person acts today.
    pub fn severity(self) -> &'static str {
        match self {
            AlertKind::Trip | AlertKind::Freeze | AlertKind::BothArms | AlertKind::StateNotDurable => "page",
            AlertKind::LatencyNotice
            | AlertKind::Suspicious
            | AlertKind::WorseThanBefore
            | AlertKind::StuckWave
            | AlertKind::ReloadFailed => "ticket",
        }
    }

    /// The part of the README with instructions for the alert.
    pub fn runbook(self) -> &'static str {
        "README.md#what-to-do-about-an-alert"
    }

    /// The first command to type.
    pub fn first_command(self, release: Option<&str>) -> String {
        let release = release.unwrap_or("RELEASE");
        match self {
            AlertKind::Trip => format!("grayling affected {release} --since 1h"),
            AlertKind::Freeze
            | AlertKind::BothArms
            | AlertKind::LatencyNotice
            | AlertKind::Suspicious
            | AlertKind::WorseThanBefore
            | AlertKind::StuckWave
            | AlertKind::StateNotDurable => "grayling status".to_owned(),
            AlertKind::ReloadFailed => "grayling check".to_owned(),
        }
    }

    /// Can it end by itself, and come again?
    fn flickers(self) -> bool {
        match self {
            // Its own minute defines the end.
            AlertKind::Trip | AlertKind::Freeze | AlertKind::Suspicious | AlertKind::ReloadFailed => false,
            AlertKind::BothArms
            | AlertKind::LatencyNotice
            | AlertKind::WorseThanBefore
            | AlertKind::StuckWave
            | AlertKind::StateNotDurable => true,
        }
    }
}

/// An alert that stands, or stood.
#[derive(Clone, PartialEq, Debug)]
pub struct StandingAlert {
    pub kind: AlertKind,
    pub release: Option<String>,
    pub attempt: Option<u64>,
    pub cause: Option<&'static str>,
    /// Wall clock, milliseconds since the Unix epoch.
    pub since_ms: i64,
    /// One line.
    pub summary: String,
    /// The numbers, and the commands to type.
    pub detail: String,
    /// Increases when more becomes known: 0 at first.
    /// Each value is sent once.
    pub update: u8,
    /// How long a wave was held: each receiver has its own limit before it gets the alert.
    pub held: Option<Duration>,
}

/// The begin or the end of an alert.
#[derive(Clone, PartialEq, Debug)]
pub struct AlertChange {
    pub alert: StandingAlert,
    /// When it ended; `None`: it stands.
    pub over_ms: Option<i64>,
}

type AlertKey = (AlertKind, Option<String>);

/// The standing alerts, and when each was last seen.
#[derive(Default)]
struct StandingAlerts(BTreeMap<AlertKey, (StandingAlert, Duration)>);

impl StandingAlerts {
    /// Applies the alerts seen `now`; returns the changes.
    fn follow(&mut self, seen: Vec<StandingAlert>, now: Duration, at_ms: i64) -> Vec<AlertChange> {
        let mut changed = vec![];
        for alert in seen {
            let key = (alert.kind, alert.release.clone());
            match self.0.get_mut(&key) {
                Some((known, last)) if alert.since_ms == known.since_ms && alert.update > known.update => {
                    (*known, *last) = (alert.clone(), now);
                    changed.push(AlertChange { alert, over_ms: None });
                }
                // The same alert, even with other numbers.
                // A trip after a resume between two looks is another one.
                Some((known, last)) if !alert.kind.flickers() && alert.since_ms == known.since_ms => {
                    *last = now
                }
                Some((known, last)) if alert.kind.flickers() => {
                    (known.detail, *last) = (alert.detail, now);
                }
                Some((known, last)) => {
                    let over = std::mem::replace(known, alert.clone());
                    *last = now;
                    changed.push(AlertChange { alert: over, over_ms: Some(at_ms) });
                    changed.push(AlertChange { alert, over_ms: None });
                }
                None => {
                    self.0.insert(key, (alert.clone(), now));
                    changed.push(AlertChange { alert, over_ms: None });
                }
            }
        }
        self.0.retain(|(kind, _), (alert, last)| {
            let timeouts = if kind.flickers() { OVER } else { Duration::ZERO };
            let stands = now == *last || now.saturating_sub(*last) < timeouts;
            if !stands {
                changed.push(AlertChange { alert: alert.clone(), over_ms: Some(at_ms) });
            }
            stands
        });
        changed
    }
}

/// A receiver, and the alerts sent to it.
struct ReceiverState {
    mailbox: Mailbox,
    standing: StandingAlerts,
}

/// Looks and sends, until it is dropped.
pub async fn run(shared: Arc<SharedState>) {
    let mut receivers: Vec<ReceiverState> = vec![];
    let mut reload_failed: Option<i64> = None;
    // A rollback that a script has lifted before the next look is sent nevertheless.
    let mut decided = shared.commits.told.subscribe();
    loop {
        let config = shared.snapshot().config.clone();
        receivers.retain(|told| config.alerts.contains(told.mailbox.receiver()));
        for receiver in &config.alerts {
            if !receivers.iter().any(|told| told.mailbox.receiver() == receiver) {
                let mailbox = Mailbox::open(receiver.clone(), shared.clone());
                receivers.push(ReceiverState { mailbox, standing: StandingAlerts::default() });
            }
        }
        shared.alerts.keep(|name| config.alerts.iter().any(|r| r.name == name));
        if shared.gauges.last_reload_ok.load(Relaxed) {
            reload_failed = None;
        } else {
            reload_failed.get_or_insert_with(clock::at_ms);
        }
        // In this order: the look finds everything announced before it, unless that is over.
        let brief: Vec<StandingAlert> =
            std::iter::from_fn(|| next_of(&mut decided)).filter_map(|entry| of_entry(&entry)).collect();
        let mut seen = look(&shared, reload_failed);
        for alert in brief {
            if !seen.iter().any(|known| known.kind == alert.kind && known.release == alert.release) {
                seen.push(alert);
            }
        }
        for ReceiverState { mailbox, standing } in &mut receivers {
            let timeouts = mailbox.receiver().stuck_after;
            let due = |alert: &&StandingAlert| alert.held.is_none_or(|held| held >= timeouts);
            let due = seen.iter().filter(due).cloned().collect();
            for notice in standing.follow(due, clock::now(), clock::at_ms()) {
                let (alert, over) = (&notice.alert, notice.over_ms.is_some());
                shared.log.event(
                    "alert",
                    json!({"alert": alert.kind.label(), "release": alert.release, "state": if over { "resolved" } else { "firing" },
                           "summary": alert.summary, "receiver": mailbox.receiver().name}),
                );
                mailbox.put(notice);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The next announced entry; entries missed by lagging are skipped.
fn next_of(decided: &mut Receiver<LedgerEntry>) -> Option<LedgerEntry> {
    loop {
        match decided.try_recv() {
            Ok(entry) => return Some(entry),
            Err(TryRecvError::Lagged(_)) => {}
            Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
        }
    }
}

/// The alert of a rollback or a freeze, from its ledger entry.
fn of_entry(entry: &LedgerEntry) -> Option<StandingAlert> {
    let (kind, what) = match &*entry.kind {
        "trip" => (AlertKind::Trip, "the new version was taken out"),
        "freeze" => (AlertKind::Freeze, "it was frozen"),
        _ => return None,
    };
    let release = entry.release.clone()?;
    let cause = entry.cause.as_deref().and_then(verdict::Cause::parse)?;
    Some(StandingAlert {
        kind,
        attempt: entry.attempt,
        cause: Some(cause.label()),
        since_ms: timeline::at_ms(&entry.at)?,
        summary: format!("{release}: {what} ({}, by {}), and let go at once", cause.label(), entry.actor),
        detail: entry.detail.clone(),
        update: 0,
        held: None,
        release: Some(release),
    })
}

fn look(shared: &SharedState, reload_failed: Option<i64>) -> Vec<StandingAlert> {
    let at_ms = clock::at_ms();
    let of_all = |kind: AlertKind, since_ms: i64, summary: &str, detail: String| StandingAlert {
        kind,
        release: None,
        attempt: None,
        cause: None,
        since_ms,
        summary: summary.to_owned(),
        detail,
        update: 0,
        held: None,
    };
    let mut seen = vec![];
    if let Some(since) = reload_failed {
        let why = shared.source().last_error.unwrap_or_default();
        let summary = "the config file as it stands is not in force: the one before is";
        seen.push(of_all(
            AlertKind::ReloadFailed,
            since,
            summary,
            format!("{why}\nTo see all of it: grayling check"),
        ));
    }
    if let Some(why) = shared.state_error() {
        let summary = "rollbacks are in memory only, or earlier ones may be forgotten";
        seen.push(of_all(AlertKind::StateNotDurable, at_ms, summary, why));
    }
    for release in &shared.commits.announced().releases {
        seen.extend(of_release(shared, release, at_ms));
    }
    seen
}

fn of_release(shared: &SharedState, release: &ReleaseSnapshot, at_ms: i64) -> Vec<StandingAlert> {
    let name = &release.release.name;
    let of = |kind: AlertKind, cause, since_ms: i64, summary: String, detail: String| StandingAlert {
        kind,
        release: Some(name.clone()),
        attempt: Some(release.release.attempt),
        cause,
        since_ms,
        summary,
        detail,
        update: 0,
        held: None,
    };
    let mut seen = vec![];
    let release_state = match release.state {
        RolloutState::RolledBack | RolloutState::Frozen => shared.release_state(name).unwrap_or_default(),
        _ => Default::default(),
    };
    if let (RolloutState::RolledBack, Some(trip)) = (release.state, release_state.trip) {
        let (cause, actor, why) = (trip.cause.label(), &trip.actor, &trip.detail);
        let summary =
            format!("{name}: the new version was taken out ({cause}, by {actor}); everybody is on stable");
        let same = trip.stable_same_at_ms.map_or(String::new(), |at_ms| {
            format!("\nStable shows the same since {}: the cause may be what both share", time_of_day(at_ms))
        });
        let update = u8::from(trip.stable_same_at_ms.is_some());
        let detail = format!(
            "{why}{same}\nNothing but a person brings it back: mend `new` and raise `attempt`, or: grayling resume {name} --ends rollback --reason TEXT"
        );
        seen.push(StandingAlert { update, ..of(AlertKind::Trip, Some(cause), trip.at_ms, summary, detail) });
    }
    if let (RolloutState::Frozen, Some(freeze)) = (release.state, release_state.freeze) {
        let (cause, weight, why) = (freeze.cause.label(), freeze.weight, &freeze.detail);
        let summary = format!("{name}: held at {weight} ({cause}); a person must decide");
        let detail = format!(
            "{why}\ngrayling rollback {name}, or: grayling resume {name} --ends freeze --reason TEXT"
        );
        seen.push(of(AlertKind::Freeze, Some(cause), freeze.at_ms, summary, detail));
    }
    let (judgement, wave_status, suspicion) = match shared.views().get(name) {
        Some(view) => (view.judgement.clone(), view.wave_status.clone(), view.suspicion),
        None => (None, None, None),
    };
    if let Some(held) =
        wave_status.filter(|(stage, _)| *stage == release.stage).and_then(|(_, wave_status)| wave_status.held)
        && release.hold.is_none()
    {
        let waits = held.lasting;
        let wave = release.wave().map_or("the start", |wave| wave.name.as_str());
        let summary = match held.cause {
            HeldBy::Gates => format!("{name}: `{wave}` has baked, and the next wave does not open"),
            HeldBy::Unwatched => {
                format!("{name}: `{wave}` bakes late, because {} of its time were not watched", hours(waits))
            }
        };
        let detail =
            format!("{}\nTo see each gate with its numbers: grayling status", held.missing.join("\n"));
        let since_ms = at_ms - i64::try_from(waits.as_millis()).unwrap_or(0);
        seen.push(StandingAlert {
            held: Some(waits),
            ..of(AlertKind::StuckWave, None, since_ms, summary, detail)
        });
    }
    if let Some(judgement) =
        judgement.filter(|_| release.release.watchdog.enabled && release.state != RolloutState::RolledBack)
    {
        if judgement.state == verdict::WatchdogState::BothArms {
            let summary = format!("{name}: both versions are bad; not blamed on the new one");
            seen.push(of(AlertKind::BothArms, None, at_ms, summary, judgement.reason.clone()));
        }
        if let Some(since) = suspicion.filter(|_| !release.is_soaked(at_ms)) {
            let strongest = judgement.signals.iter().filter(|s| s.can_trip());
            let strongest = strongest.max_by(|a, b| a.evidence_ratio.total_cmp(&b.evidence_ratio));
            let why = strongest.map_or(String::new(), |s| {
                format!("{}, {}: {} of a trip; {}", s.signal, s.stratum, progress(s.evidence_ratio), s.detail)
            });
            let detail = format!(
                "{why}\nIt does not suffice for a rollback. To see each signal with its counts: grayling status. \
                 A rollback is always safe: grayling rollback {name}"
            );
            let summary = format!("{name}: something speaks against the new version, for a minute or more");
            seen.push(of(AlertKind::Suspicious, None, clock::wall_ms(since), summary, detail));
        }
        // Signals that are watched until the release is soaked.
        let stands = |name: &str| {
            let soaked = release.is_soaked(at_ms);
            judgement.signals.iter().find(|s| !soaked && s.signal == name && s.evidence_ratio >= 1.0)
        };
        if let Some(signal) = stands(verdict::SignalResult::WORSE_THAN_BEFORE) {
            let summary = format!("{name}: the new version does worse than in its own past; it is left in");
            let detail = format!(
                "{}\nThere is no control at 100%: is it the version, or what it depends on?\nTo look: grayling status. To take it out: grayling rollback {name} --reason TEXT\nTo accept it: {}",
                signal.detail,
                verdict::StandingFinding::Alarm.command(name)
            );
            seen.push(of(AlertKind::WorseThanBefore, None, at_ms, summary, detail));
        }
        if let Some(signal) = stands(verdict::SignalResult::LATENCY_NOTICE) {
            let summary =
                format!("{name}: the new version is slower than stable, beyond chance; it is left in");
            seen.push(of(AlertKind::LatencyNotice, None, at_ms, summary, signal.detail.clone()));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert(kind: AlertKind, since_ms: i64) -> StandingAlert {
        StandingAlert {
            kind,
            release: Some("r".into()),
            attempt: Some(1),
            cause: None,
            since_ms,
            summary: "s".into(),
            detail: "d".into(),
            update: 0,
            held: None,
        }
    }

    fn told(notices: &[AlertChange]) -> Vec<(AlertKind, i64, bool)> {
        notices.iter().map(|n| (n.alert.kind, n.alert.since_ms, n.over_ms.is_some())).collect()
    }

    #[test]
    fn what_begins_and_what_is_over_is_told_once() {
        let mut standing = StandingAlerts::default();
        let mut at =
            |s: u64, seen: &[StandingAlert]| told(&standing.follow(seen.to_vec(), Duration::from_secs(s), 0));
        let trip = alert(AlertKind::Trip, 7);
        assert_eq!(at(1, std::slice::from_ref(&trip)), [(AlertKind::Trip, 7, false)]);
        assert_eq!(at(2, &[trip]), []);
        let again = alert(AlertKind::Trip, 9);
        assert_eq!(
            at(3, &[again]),
            [(AlertKind::Trip, 7, true), (AlertKind::Trip, 9, false)],
            "resumed, and tripped again"
        );
        assert_eq!(at(4, &[]), [(AlertKind::Trip, 9, true)]);
        assert_eq!(at(5, &[]), []);
    }

    #[test]
    fn what_is_learnt_of_an_alert_that_stands_is_told_once() {
        let mut standing = StandingAlerts::default();
        let mut at = |s: u64, update: u8| {
            let trip = StandingAlert { update, ..alert(AlertKind::Trip, 7) };
            let notices = standing.follow(vec![trip], Duration::from_secs(s), 0);
            notices.iter().map(|n| (n.alert.update, n.over_ms.is_some())).collect::<Vec<_>>()
        };
        assert_eq!(
            [at(1, 0), at(2, 0), at(3, 1), at(4, 1)],
            [vec![(0, false)], vec![], vec![(1, false)], vec![]]
        );
    }

    #[test]
    fn what_flickers_is_over_only_when_it_stays_away() {
        let mut standing = StandingAlerts::default();
        let mut at =
            |s: u64, seen: &[StandingAlert]| told(&standing.follow(seen.to_vec(), Duration::from_secs(s), 0));
        assert_eq!(at(1, &[alert(AlertKind::BothArms, 1)]), [(AlertKind::BothArms, 1, false)]);
        assert_eq!(at(20, &[]), []);
        assert_eq!(at(21, &[alert(AlertKind::BothArms, 21)]), [], "the same as before");
        assert_eq!(at(50, &[]), []);
        assert_eq!(at(51, &[]), [(AlertKind::BothArms, 1, true)]);
    }

    #[test]
    fn names_are_words_and_each_kind_has_its_own() {
        let labels: std::collections::BTreeSet<_> = AlertKind::ALL.iter().map(|k| k.label()).collect();
        let names: std::collections::BTreeSet<_> = AlertKind::ALL.iter().map(|k| k.alertname()).collect();
        assert_eq!((labels.len(), names.len()), (AlertKind::ALL.len(), AlertKind::ALL.len()));
    }
}
