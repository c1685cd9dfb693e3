//! The single writer: every change of the state in force passes here. The latch is here.
//!
//! A change takes the writer's lock, publishes the next snapshot, and queues the state image and
//! the ledger entries for the state writer, which makes them durable and announces them.
//!
//! Invariants (the rules of state): only four things raise a weight: the file (an edit, or a wave
//! of its plan whose gates passed), a person's `promote` along that plan (both in `waves`), a
//! person's `resume`, and a new `attempt`. A trip is a latch. A reload is applied whole or not at
//! all. A change that needs a restart is refused.

use super::snapshot::{ReleaseSnapshot, Snapshot};
use super::traces::TraceQueue;
use crate::config;
use crate::domain::config::{OnAnomaly, WhenEmpty};
use crate::domain::decide::Effective;
use crate::domain::proxy_header_error::ProxyHeaderError;
use crate::domain::rollout::wave_controller;
use crate::domain::rollout::{
    self, Freeze, Hold, ManualHold, ReleaseState, RolloutInput, RolloutState, RolloutStep, Trip,
};
use crate::domain::verdict::Cause;
use crate::domain::wave::Exposure;
use crate::runtime::builder::{EvidenceEffect, SnapshotBuilder, file_origin};
use crate::runtime::conflicts::{self, Block, ServerAliases};
use crate::runtime::event_ring::EventRing;
pub use crate::runtime::views::{ReleaseView, StageEvidence};
use crate::runtime::wave_checkpoint;
use crate::stats::arm::Arm;
use crate::store::ledger::{LedgerEntry, LedgerTail};
use crate::store::state::{StateFound, StateImage};
use crate::store::state_key::StateKey;
use crate::store::writer::{CommitId, CommitQueue, NotDurable};
use crate::telemetry::alert_counts::AlertCounts;
use crate::telemetry::clock;
use crate::telemetry::counters::{ArmCounters, Counter, ErrorCounts, PerWorker, USER_WINDOWS};
use crate::telemetry::log::Log;
use crate::telemetry::sliding_window::SlidingWindow;
use crate::telemetry::throttle::Throttle;
use crate::upstream::server::ConnectionBudget;
use arc_swap::ArcSwap;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Time limit for resolving all upstream names together, for the conflict check of a standing trip.
const RESOLVE: Duration = Duration::from_secs(1);

/// State shared by all threads of one proxy.
pub struct SharedState {
    snapshot: ArcSwap<Snapshot>,
    writer: Mutex<SnapshotBuilder>,
    pub commits: Arc<CommitQueue<Snapshot>>,
    /// Receipt of the save at start.
    first: CommitId,
    pub log: Log,
    pub workers: usize,
    pub gauges: Gauges,
    /// Connections to servers, and how many the open files limit allows.
    pub connections: Arc<ConnectionBudget>,
    pub alerts: AlertCounts,
    /// Request events of the releases, for the watchdog.
    pub events: EventRing,
    /// Traced requests that wait for the exporter.
    pub traces: TraceQueue,
    /// Counts of routes that lead to an upstream directly.
    pub direct: Arc<ArmCounters>,
    /// Requests that the proxy refused before it found a release.
    pub rejected: PerWorker<Counter>,
    /// Responses that the proxy made itself.
    pub errors: ErrorCounts,
    /// By release: the watchdog's last judgement, and the last five minutes of [stable, new].
    views: Mutex<BTreeMap<String, ReleaseView>>,
    /// Why the state directory was unusable at start, until every held release is resumed.
    pub(super) lost: Mutex<Option<String>>,
    /// The state directory, for reading; `None`: it was unusable at start.
    pub directory: Option<PathBuf>,
    /// Key for the hashes of segment users on disk.
    pub key: StateKey,
    /// Wakes the reloader: a refused file may be acceptable now.
    pub reload_wanted: tokio::sync::Notify,
}

/// Global counts and limits, beside the snapshot.
#[derive(Default)]
pub struct Gauges {
    pub connections: AtomicUsize,
    /// The maximum since the last read.
    pub connections_most: AtomicUsize,
    /// The same for requests.
    pub requests_most: AtomicUsize,
    pub requests_in_flight: AtomicUsize,
    /// Request bodies that are held in memory, by their lengths.
    pub bodies_held_bytes: AtomicUsize,
    pub ticks_late: AtomicU64,
    /// Connections closed because of their PROXY header, by [`ProxyHeaderError`].
    proxy_headers_refused: [AtomicU64; ProxyHeaderError::ALL.len()],
    proxy_header_told: Throttle,
    pub reloads_ok: AtomicU64,
    pub reloads_failed: AtomicU64,
    pub reload_ok_at_ms: AtomicU64,
    pub last_reload_ok: AtomicBool,
    /// Open event streams, and events dropped because the reader was too slow.
    pub event_streams: AtomicUsize,
    pub events_dropped: AtomicU64,
    phase: AtomicU8,
}

/// `readyz` is 200 in `Serving`, else 503.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServingPhase {
    Starting,
    Serving,
    Draining,
}

impl Gauges {
    pub fn phase(&self) -> ServingPhase {
        match self.phase.load(Relaxed) {
            0 => ServingPhase::Starting,
            1 => ServingPhase::Serving,
            _ => ServingPhase::Draining,
        }
    }

    pub fn enter(&self, phase: ServingPhase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Counts it. Returns whether a log line about it is due.
    pub fn proxy_header_refused(&self, refusal: ProxyHeaderError) -> bool {
        self.proxy_headers_refused[refusal.index()].fetch_add(1, Relaxed);
        self.proxy_header_told.is_due()
    }

    pub fn proxy_headers_refused(&self, refusal: ProxyHeaderError) -> u64 {
        self.proxy_headers_refused[refusal.index()].load(Relaxed)
    }
}

/// The file behind the state in force.
#[derive(Clone, Debug)]
pub struct ConfigSource {
    pub path: PathBuf,
    pub text: String,
    pub sha256: String,
    pub loaded_at_ms: i64,
    /// Why the current file is not in force.
    pub last_error: Option<String>,
    /// The same with the faulty lines and carets under them, where the error has a line.
    pub last_report: Option<String>,
}

/// The author of a change.
#[derive(Clone, Debug)]
pub struct ChangeOrigin {
    pub actor: String,
    pub reason: Option<String>,
}

/// A decision to take `new` out, with its evidence.
pub struct TripCall {
    pub cause: Cause,
    pub origin: ChangeOrigin,
    pub detail: String,
    pub evidence: Value,
    /// Monotonic time of the first sign.
    pub onset: Option<Duration>,
    /// Does stable accept connections? No users are moved to an arm that does not.
    pub stable: StableSign,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StableSign {
    Answers,
    Silent,
}

/// The result of a change.
#[derive(Debug, Clone)]
pub struct ChangeResult {
    pub state: RolloutState,
    /// The ledger entry's number.
    pub ledger: u64,
    pub message: String,
    pub commit: Option<CommitId>,
}

#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ChangeRefused {
    #[error("no release is called `{0}`")]
    UnknownRelease(String),
    /// It conflicts with the state in force.
    #[error("{0}")]
    NotNow(String),
    /// The request is incomplete.
    #[error("{0}")]
    Unclear(String),
}

impl SharedState {
    /// The state of a proxy that is about to serve `checked`.
    ///
    /// If `found` is lost, every release waits for a person. `ledger`: the ledger's end on disk.
    pub fn new(
        checked: config::CheckedConfig,
        source: ConfigSource,
        found: StateFound,
        ledger: LedgerTail,
        key: StateKey,
        log: Log,
        kept: Option<&Path>,
    ) -> SharedState {
        let config = Arc::new(checked.config);
        let empty = matches!(found, StateFound::Empty);
        let (mut image, lost) = match found {
            // Written by a version without hashes: the chain begins after the lines on disk.
            StateFound::Known(image) if image.ledger.hash.is_empty() => {
                (StateImage { ledger: LedgerTail { n: image.ledger.n, hash: ledger.hash }, ..image }, None)
            }
            StateFound::Known(image) => (image, None),
            StateFound::Empty => (StateImage::default(), None),
            // Remembered trips still stand; missing ones may stand as well.
            StateFound::Behind(mut image, why) => {
                for release_state in image.releases.values_mut() {
                    release_state.awaits.get_or_insert(ManualHold::StateLost);
                }
                (StateImage { hold_strangers: true, ledger, ..image }, Some(why.to_string()))
            }
            StateFound::Lost(why) => {
                (StateImage { hold_strangers: true, ledger, ..StateImage::default() }, Some(why.to_string()))
            }
        };
        let conflicts = match image.releases.values().any(|m| m.trip.is_some()) {
            true => {
                conflicts::conflicts(&config, &ServerAliases::of(&config, RESOLVE), &image.releases, &key)
            }
            false => vec![],
        };
        for conflict in &conflicts {
            let effect = match &conflict.bars {
                Block::Release { name, .. } => format!("{name} is held at 0%"),
                Block::Routes(_) => "its routes are answered 503".to_owned(),
            };
            log.event("conflict", serde_json::json!({"error": conflict.message, "effect": effect}));
        }
        let told: Vec<&str> = conflicts.iter().map(|c| c.message.as_str()).collect();
        let source = ConfigSource { last_error: (!told.is_empty()).then(|| told.join("\n")), ..source };
        if image.hold_strangers {
            for release in &config.releases {
                image.releases.entry(release.name.clone()).or_insert_with(|| ReleaseState {
                    attempt: release.attempt,
                    awaits: Some(ManualHold::StateLost),
                    ..ReleaseState::default()
                });
            }
        } else if empty && config.state.when_empty == WhenEmpty::Hold {
            for release in config.releases.iter().filter(|r| r.strategy().lets_in()) {
                let held = ReleaseState {
                    attempt: release.attempt,
                    awaits: Some(ManualHold::NoMemory),
                    ..ReleaseState::default()
                };
                image.releases.insert(release.name.clone(), held);
            }
            image.hold_strangers = !image.releases.is_empty();
        }
        let workers = config.listen.workers();
        // At start a failed lookup counts as present.
        let stop_file = StopFile::beside(&source.path) != StopFile::Absent;
        let mut writer = SnapshotBuilder {
            image,
            source,
            stop_file,
            counts: HashMap::new(),
            epochs: 0,
            evidence: 0,
            started: false,
            maintained: HashMap::new(),
            barred: conflicts.into_iter().map(|c| c.bars).collect(),
            told: HashMap::new(),
            key: key.clone(),
        };
        let direct = Arc::new(ArmCounters::new(workers));
        let mut entries = vec![];
        for release in &config.releases {
            writer.meet(&config, release, None);
        }
        let snapshot = Arc::new(writer.assemble(config, None, &direct, workers));
        let mut views = BTreeMap::new();
        for release in &snapshot.releases {
            let name = &release.release.name;
            let checkpoint = wave_checkpoint::read(kept, release);
            let bakes = release.wave().filter(|_| !release.finished && release.hold.is_none());
            if let (Err(why), Some(wave)) = (&checkpoint, bakes) {
                log.event(
                    "wave_bakes_again",
                    serde_json::json!({"release": name, "wave": wave.name, "why": why.to_string()}),
                );
            }
            let detail = match (&release.hold, release.wave()) {
                (Some(hold), _) => format!("started, held: {}", hold.explain(name)),
                (None, Some(wave)) => match &checkpoint {
                    _ if release.finished => {
                        format!("started in wave `{}`, the last, which has passed", wave.name)
                    }
                    Ok(found) => format!(
                        "started in wave `{}`, {}",
                        wave.name,
                        wave_controller::baked_of(found.spent.watched, wave.bake)
                    ),
                    Err(why) => format!("started in wave `{}`, which bakes again: {why}", wave.name),
                },
                (None, None) => "started".to_owned(),
            };
            views.insert(name.clone(), ReleaseView { checkpoint: checkpoint.ok(), ..ReleaseView::default() });
            let entry = LedgerEntry {
                weight_after: Some(release.effective.weight().percent()),
                ..writer.entry("start", Some(&release.release), &file_origin(), detail)
            };
            entries.push(writer.record(entry, &snapshot));
        }
        snapshot.publish_holds();
        let commits = CommitQueue::new(snapshot.clone(), None);
        let gauges = Gauges::default();
        gauges.last_reload_ok.store(true, Relaxed);
        gauges.reload_ok_at_ms.store(clock::at_ms() as u64, Relaxed);
        let first = commits.enqueue(writer.image.clone(), entries, None, snapshot.clone());
        SharedState {
            first,
            snapshot: ArcSwap::new(snapshot),
            writer: Mutex::new(writer),
            commits,
            log,
            workers,
            gauges,
            connections: Arc::new(ConnectionBudget::new(workers)),
            alerts: AlertCounts::default(),
            events: EventRing::new(workers),
            traces: TraceQueue::new(workers),
            direct,
            rejected: PerWorker::new(workers, Counter::default),
            errors: ErrorCounts::new(workers),
            views: Mutex::new(views),
            lost: Mutex::new(lost),
            directory: None,
            key,
            reload_wanted: tokio::sync::Notify::new(),
        }
    }

    /// Loaded once per request.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    pub fn source(&self) -> ConfigSource {
        self.writer().source.clone()
    }

    /// The memory of a release, also of one that the file no longer names.
    pub fn release_state(&self, release: &str) -> Option<ReleaseState> {
        self.writer().image.releases.get(release).cloned()
    }

    /// Why changes are not durable, or earlier ones may be lost; `None`: no error.
    pub fn state_error(&self) -> Option<String> {
        let waits = |r: &Arc<ReleaseSnapshot>| matches!(r.hold, Some(Hold::Awaits(_)));
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.commits
            .error()
            .map(|error| error.to_string())
            .or(lost.filter(|_| self.snapshot.load().releases.iter().any(waits)))
    }

    /// To be called once the state writer runs, before the first request. If the first save fails,
    /// no later decision would survive: every release is then held until a person resumes it.
    pub fn hold_unless_durable(&self, at_most: Duration) -> Result<(), NotDurable> {
        let Err(why) = self.commits.wait(self.first, at_most) else { return Ok(()) };
        let mut writer = self.writer();
        writer.image.hold_strangers = true;
        for release_state in writer.image.releases.values_mut() {
            release_state.awaits.get_or_insert(ManualHold::StateLost);
        }
        let before = self.snapshot.load_full();
        let next = Arc::new(writer.reforce(&before, self.workers, |_| true, EvidenceEffect::Keeps));
        let entries = writer.changes(&before, &next, &[]);
        self.publish(&mut writer, next, entries, None);
        let lost = format!("earlier rollbacks may be forgotten: at the start, {why}");
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(lost);
        Err(why)
    }

    /// The last entry of the ledger in the state file, or in the image that is about to be written.
    pub fn ledger_end(&self) -> LedgerTail {
        self.writer().image.ledger.clone()
    }

    pub fn views(&self) -> MutexGuard<'_, BTreeMap<String, ReleaseView>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Standing trips of releases that the file no longer names.
    pub fn removed_trips(&self) -> Vec<(String, Trip)> {
        let named = self.snapshot.load();
        let writer = self.writer();
        let trips = writer.image.releases.iter().filter_map(|(name, m)| Some((name, m.trip.clone()?)));
        let removed = trips.filter(|(name, _)| named.config.release(name).is_none());
        removed.map(|(name, trip)| (name.clone(), trip)).collect()
    }

    pub(super) fn writer(&self) -> MutexGuard<'_, SnapshotBuilder> {
        // A panic under this lock is a bug in assembly; the old snapshot is still in force.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings a file into force, or returns every reason against it. `Ok` holds the other findings.
    pub fn reload(
        &self,
        checked: config::CheckedConfig,
        source: ConfigSource,
    ) -> Result<Vec<String>, Vec<String>> {
        // Before the lock: a resolver that does not answer must not delay a rollback.
        let tripped = self.writer().image.releases.values().any(|m| m.trip.is_some());
        let aliases = tripped.then(|| ServerAliases::of(&checked.config, RESOLVE));
        let mut writer = self.writer();
        let before = self.snapshot.load_full();
        let findings = config::compare(&before.config, &checked.config, &writer.standings(&before));
        let aliases = aliases.unwrap_or_else(|| ServerAliases::of(&checked.config, Duration::ZERO));
        let (refused, told): (Vec<_>, Vec<_>) =
            findings.into_iter().partition(|f| f.kind == config::PlanFindingKind::Refused);
        let mut refused: Vec<String> = refused.into_iter().map(|f| f.message).collect();
        let conflicts = conflicts::conflicts(&checked.config, &aliases, &writer.image.releases, &self.key);
        refused.extend(conflicts.into_iter().map(|c| c.message));
        if !refused.is_empty() {
            drop(writer);
            self.reload_failed(refused.join("; "), None);
            return Err(refused);
        }
        let config = Arc::new(checked.config);
        let mut begun = vec![];
        for release in &config.releases {
            let step = writer.meet(&config, release, Some(&before));
            if matches!(step, RolloutStep::Rearmed | RolloutStep::VersionBegun) {
                begun.push((release.name.clone(), step));
            }
        }
        writer.source = source;
        writer.barred = vec![];
        let next = Arc::new(writer.assemble(config, Some((&before, &begun)), &self.direct, self.workers));
        let entries = writer.changes(&before, &next, &begun);
        self.publish(&mut writer, next.clone(), entries, None);
        drop(writer);
        self.forget_recent(&next, &begun);
        self.gauges.reloads_ok.fetch_add(1, Relaxed);
        self.gauges.last_reload_ok.store(true, Relaxed);
        self.gauges.reload_ok_at_ms.store(clock::at_ms() as u64, Relaxed);
        Ok(told.into_iter().map(|f| f.message).collect())
    }

    /// Clears the figures of another version or attempt, which must not appear under these names.
    fn forget_recent(&self, now: &Snapshot, begun: &[(String, RolloutStep)]) {
        let mut views = self.views();
        for release in now.releases.iter().filter(|r| begun.iter().any(|(n, _)| *n == r.release.name)) {
            if let Some(view) = views.get_mut(&release.release.name) {
                view.recent.iter_mut().for_each(SlidingWindow::forget);
            }
            let minutes = 0..USER_WINDOWS as u64;
            minutes.for_each(|m| Arm::BOTH.iter().for_each(|arm| release.counters.arm(*arm).clear_users(m)));
        }
    }

    /// Records that the file cannot be brought into force. Nothing else changes.
    pub fn reload_failed(&self, mut why: String, report: Option<String>) {
        if let Some(way_out) = self.way_out() {
            why.push_str(&format!(". {way_out}"));
        }
        {
            let source = &mut self.writer().source;
            (source.last_error, source.last_report) = (Some(why), report);
        }
        self.gauges.reloads_failed.fetch_add(1, Relaxed);
        self.gauges.last_reload_ok.store(false, Relaxed);
    }

    /// The command that takes users out of `new` while the file is refused; `None`: `new` has no
    /// users.
    fn way_out(&self) -> Option<String> {
        let snapshot = self.snapshot.load();
        let occupied = snapshot
            .releases
            .iter()
            .filter(|r| matches!(r.effective, Effective::At(exposure) if exposure != Exposure::NOBODY));
        let commands: Vec<String> =
            occupied.map(|r| format!("grayling rollback {}", r.release.name)).collect();
        (!commands.is_empty()).then(|| format!("To take users out now: {}", commands.join(", or: ")))
    }

    /// Takes `new` out, or freezes it where config or a silent stable requires. Waits for no disk.
    pub fn trip(&self, name: &str, call: TripCall) -> Result<ChangeResult, ChangeRefused> {
        let mut writer = self.writer();
        let before = self.snapshot.load_full();
        let Some(running) = before.releases.iter().find(|r| r.release.name == name) else {
            return Err(ChangeRefused::UnknownRelease(name.to_owned()));
        };
        let release = running.release.clone();
        let release_state = writer.image.releases.get(name).cloned().unwrap_or_default();
        let already = |state, ledger, what: &str| ChangeResult {
            state,
            ledger,
            message: format!("it was {what} before"),
            commit: None,
        };
        if let Some(trip) = &release_state.trip {
            return Ok(already(RolloutState::RolledBack, trip.entry, "rolled back"));
        }
        let by_policy = match call.cause {
            Cause::Manual => OnAnomaly::Rollback,
            Cause::BothArms => release.on_both_bad,
            _ => release.on_anomaly,
        };
        let freeze = by_policy == OnAnomaly::Freeze || call.stable == StableSign::Silent;
        if let (true, Some(freeze)) = (freeze, &release_state.freeze) {
            return Ok(already(RolloutState::Frozen, freeze.entry, "frozen"));
        }
        let mut detail = call.detail;
        if call.stable == StableSign::Silent {
            detail.push_str(
                "; stable takes no connections, so nobody is sent there: frozen. To send everybody to stable all the same, create grayling.stop beside the config file",
            );
        }
        let onset_to_trip_ms = call.onset.map(|onset| clock::now().saturating_sub(onset).as_millis() as u64);
        let input = if freeze {
            RolloutInput::Freeze(Freeze {
                cause: call.cause,
                at_ms: clock::at_ms(),
                actor: call.origin.actor.clone(),
                detail: detail.clone(),
                weight: running.effective.weight(),
                entry: 0,
            })
        } else {
            RolloutInput::Trip(Trip {
                cause: call.cause,
                attempt: release.attempt,
                at_ms: clock::at_ms(),
                actor: call.origin.actor.clone(),
                detail: detail.clone(),
                evidence: call.evidence.to_string(),
                onset_to_trip_ms,
                stable_same_at_ms: None,
                others: conflicts::others(
                    &before.config,
                    name,
                    &release.new_servers(&before.config),
                    &self.key,
                ),
                servers: running.new.aliases(),
                entry: 0,
            })
        };
        let (release_state, _) = rollout::step(&release_state, input);
        writer.image.releases.insert(name.to_owned(), release_state);
        let next = Arc::new(writer.reforce(&before, self.workers, |r| r == name, EvidenceEffect::Keeps));
        let kind = if freeze { "freeze" } else { "trip" };
        let after = next.releases.iter().find(|r| r.release.name == name);
        let entry = LedgerEntry {
            weight_before: Some(running.effective.weight().percent()),
            weight_after: after.map(|r| r.effective.weight().percent()),
            evidence: call.evidence,
            cause: Some(call.cause.label().to_owned()),
            ..writer.entry(kind, Some(&release), &call.origin, format!("{}: {detail}", call.cause.label()))
        };
        let entry = writer.record(entry, &next);
        let (state, ledger) = (if freeze { RolloutState::Frozen } else { RolloutState::RolledBack }, entry.n);
        let rollback = (!freeze).then(|| (name.to_owned(), call.cause.label()));
        let commit = self.publish(&mut writer, next, vec![entry], rollback);
        let message = if freeze {
            format!("held at {}: {detail}", running.effective.weight())
        } else {
            "new requests go to stable".to_owned()
        };
        Ok(ChangeResult { state, ledger, message, commit: Some(commit) })
    }

    /// Applies the stop file. The caller looks up `presence`: no file access under the lock.
    pub fn heed_stop_file(&self, presence: StopFile) {
        let stop = match presence {
            StopFile::Present => true,
            StopFile::Absent => false,
            StopFile::Unknown => return,
        };
        let mut writer = self.writer();
        if stop == writer.stop_file {
            return;
        }
        writer.stop_file = stop;
        let before = self.snapshot.load_full();
        if stop {
            // The hold outlives the file: only a person lets users in again.
            writer.hold_by_stop_file(&before.config);
        }
        let next = Arc::new(writer.reforce(&before, self.workers, |_| true, EvidenceEffect::Keeps));
        let (kind, detail) = match stop {
            true => ("stop", "grayling.stop appeared: every release is held at 0%"),
            false => ("unstop", "grayling.stop is gone: its releases stay held until a person resumes them"),
        };
        let entry = writer.entry(kind, None, &file_origin(), detail.to_owned());
        let mut entries = vec![writer.record(entry, &next)];
        entries.extend(writer.changes(&before, &next, &[]));
        self.publish(&mut writer, next, entries, None);
    }

    /// Records that the last exchange on a held `new` has ended. Called by a timer.
    pub fn note_drained(&self) {
        for running in &self.snapshot.load().releases {
            let Some(drained) = running.counters.under_way.drained() else { continue };
            let mut writer = self.writer();
            let now = self.snapshot.load_full();
            let count = drained.most;
            let detail = format!("the last of {count} exchanges that were under way on new has ended");
            let held_at = clock::rfc3339(drained.held_at_ms);
            let origin = ChangeOrigin { actor: "proxy".into(), reason: None };
            let entry = LedgerEntry {
                evidence: serde_json::json!({"requests": count, "held_at": held_at}),
                ..writer.entry("drained", Some(&running.release), &origin, detail)
            };
            let entry = writer.record(entry, &now);
            self.publish(&mut writer, now, vec![entry], None);
        }
    }

    pub(super) fn publish(
        &self,
        writer: &mut SnapshotBuilder,
        next: Arc<Snapshot>,
        entries: Vec<LedgerEntry>,
        rollback: Option<(String, &'static str)>,
    ) -> CommitId {
        self.snapshot.store(next.clone());
        next.publish_holds();
        self.commits.enqueue(writer.image.clone(), entries, rollback, next)
    }
}

/// `grayling.stop` beside the config file holds every release at 0%.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopFile {
    Present,
    Absent,
    /// The folder cannot be read: nothing changes.
    Unknown,
}

impl StopFile {
    pub fn beside(config: &Path) -> StopFile {
        // A dangling symlink counts as present.
        match config.with_file_name("grayling.stop").symlink_metadata() {
            Ok(_) => StopFile::Present,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => StopFile::Absent,
            Err(_) => StopFile::Unknown,
        }
    }
}
