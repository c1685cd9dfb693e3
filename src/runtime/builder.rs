//! Builds the next snapshot from a plan, the remembered state, and the previous snapshot.
//!
//! Invariants: only `apply` holds a [`SnapshotBuilder`], under its lock.
//! Counters, servers, load and evidence are carried over from the previous snapshot by name.
//! Ledger entries are numbered here, without gaps.

use super::snapshot::{CohortLabel, ReleaseSnapshot, RouteCounts, RouteSnapshot, Snapshot};
use crate::config::{ReleaseStanding, Standings};
use crate::domain::config::{Config, Release, Target};
use crate::domain::decide::Effective;
use crate::domain::rollout::version::VersionChange;
use crate::domain::rollout::{
    self, Conditions, Hold, ManualHold, ReleaseState, RolloutInput, RolloutState, RolloutStep, version,
};
use crate::domain::segment::Segment;
use crate::domain::verdict::METHOD;
use crate::domain::wave::Exposure;
use crate::runtime::conflicts::Block;
use crate::runtime::release_counters::ReleaseCounters;
use crate::runtime::routes::RouteTable;
use crate::runtime::shared::ChangeOrigin;
use crate::runtime::shared::ConfigSource;
use crate::stats::arm::Arm;
use crate::stats::cohort::Weight;
use crate::store::audit::evidence;
use crate::store::chain;
use crate::store::ledger::LedgerEntry;
use crate::store::membership::{Membership, MembershipIdentity};
use crate::store::state::{RECENT_MAX, StateImage};
use crate::store::state_key::StateKey;
use crate::telemetry::clock;
use crate::telemetry::counters::{ArmCounters, OutcomeCounts};
use crate::upstream::server::UpstreamState;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct SnapshotBuilder {
    pub image: StateImage,
    pub source: ConfigSource,
    pub stop_file: bool,
    pub counts: HashMap<String, Arc<OutcomeCounts>>,
    pub epochs: u64,
    pub evidence: u64,
    /// A snapshot has been made: a stage that begins from now on is not the one in the state file.
    pub started: bool,
    /// When each maintenance ends, by release; monotonic.
    pub maintained: HashMap<String, Duration>,
    /// Conflicts with a standing trip, found at start.
    pub barred: Vec<Block>,
    /// The last membership recorded in the ledger, by release.
    pub told: HashMap<String, MembershipIdentity>,
    pub key: StateKey,
}

/// The effect of a change of the weight in force on the watchdog's evidence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum EvidenceEffect {
    Keeps,
    StartsAfresh,
}

impl SnapshotBuilder {
    pub(super) fn now(&self) -> Conditions {
        Conditions { stop_file: self.stop_file }
    }

    fn release_state(&self, release: &Release) -> ReleaseState {
        self.image.releases.get(&release.name).cloned().unwrap_or_default()
    }

    fn effective(
        &self,
        release: &Release,
        release_state: &ReleaseState,
    ) -> (Effective, Option<Hold>, RolloutState) {
        let strategy = release.strategy();
        let exposure = release_state.exposure(strategy);
        let (mut effective, mut hold) =
            rollout::effective(release_state, exposure, release.attempt, self.now());
        if let (Some(by), None) = (self.barred_by(&release.name), &release_state.trip) {
            (effective, hold) = (Effective::Held, Some(Hold::Barred { by }));
        }
        let state = RolloutState::of(release_state, strategy, hold.as_ref(), effective);
        (effective, hold, state)
    }

    /// Records the attempt and the plan of a file.
    /// `before`: the snapshot in force until now.
    pub(super) fn meet(
        &mut self,
        config: &Config,
        release: &Release,
        before: Option<&Snapshot>,
    ) -> RolloutStep {
        let (next, what) = self.met(config, release, before);
        self.image.releases.insert(release.name.clone(), next);
        what
    }

    fn met(
        &self,
        config: &Config,
        release: &Release,
        before: Option<&Snapshot>,
    ) -> (ReleaseState, RolloutStep) {
        let stranger = self.stranger();
        let release_state = self.image.releases.get(&release.name).unwrap_or(&stranger);
        let old = before.and_then(|s| s.releases.iter().find(|r| r.release.name == release.name));
        let standing = match old.map(|r| r.effective) {
            Some(Effective::At(exposure)) => exposure,
            Some(Effective::Held) | None => Exposure::NOBODY,
        };
        let (attempt, strategy) = (release.attempt, release.strategy());
        let was = before.map(|_| self.version_standing(old, release_state));
        let versions = release.versions(config);
        let renamed = |before: &Snapshot| {
            release_state.attempt == 0
                && version::takes_place(Release::removed(&before.config, config), &versions)
        };
        let change = match before {
            Some(before) if old.is_none() && renamed(before) => VersionChange::Declared,
            _ => release_state.versions.change(&versions, attempt > release_state.attempt, was),
        };
        let weight_edited = old.is_some_and(|old| old.release.weight_by_hand() != release.weight_by_hand());
        let configured =
            RolloutInput::Configure { attempt, strategy, standing, versions, change, weight_edited };
        let (mut next, what) = rollout::step(release_state, configured);
        if self.stop_file {
            next = rollout::step(&next, RolloutInput::Stop { strategy }).0;
        }
        (next, what)
    }

    /// Applies the presence of `grayling.stop` to each release.
    pub(super) fn hold_by_stop_file(&mut self, config: &Config) {
        for release in &config.releases {
            if let Some(release_state) = self.image.releases.get_mut(&release.name) {
                *release_state =
                    rollout::step(release_state, RolloutInput::Stop { strategy: release.strategy() }).0;
            }
        }
    }

    /// The standing of a release, for an edit of its versions; `shared`: `None` if the file did not
    /// name it.
    fn version_standing(
        &self,
        running: Option<&Arc<ReleaseSnapshot>>,
        release_state: &ReleaseState,
    ) -> version::VersionState {
        let exposure = match running.map(|r| r.effective) {
            Some(Effective::At(exposure)) => exposure,
            Some(Effective::Held) | None => Exposure::NOBODY,
        };
        let complete = running.is_some_and(|r| r.state == RolloutState::Complete);
        let held = match running {
            // Any hold, except that of a version that waits for its weight: no user has reached
            // that one.
            Some(running) => {
                let waits = Some(Hold::Awaits(ManualHold::NewVersion));
                release_state.guards_versions() || running.hold.is_some() && running.hold != waits
            }
            // The file names it again after a removal: which version earned its weight is unknown.
            None => release_state.attempt != 0,
        };
        version::VersionState { complete, exposure, held }
    }

    /// The snapshot for `plan`; counters, servers and evidence are carried over.
    pub(super) fn assemble(
        &mut self,
        config: Arc<Config>,
        before: Option<(&Snapshot, &[(String, RolloutStep)])>,
        direct: &Arc<ArmCounters>,
        workers: usize,
    ) -> Snapshot {
        let old = before.map(|(s, _)| s);
        let begun = |name: &str| before.is_some_and(|(_, begun)| begun.iter().any(|(n, _)| n == name));
        let old_upstream = |name: &str| {
            old.and_then(|s| s.upstreams.iter().find(|u| u.config.name == name)).map(Arc::as_ref)
        };
        let upstreams: Vec<_> = config
            .upstreams
            .iter()
            .map(|u| Arc::new(UpstreamState::new(u.clone(), old_upstream(&u.name))))
            .collect();
        let mut releases = vec![];
        for (i, release) in config.releases.iter().enumerate() {
            let earlier = old.and_then(|s| s.releases.iter().find(|r| r.release.name == release.name));
            let evidence = match earlier {
                Some(e) if begun(&release.name) || e.release.salt != release.salt => {
                    EvidenceEffect::StartsAfresh
                }
                _ => EvidenceEffect::Keeps,
            };
            let (stable, new) = (upstreams[release.stable].clone(), upstreams[release.new].clone());
            let strata = ReleaseSnapshot::strata(&config, i);
            let before = earlier.map(Arc::as_ref);
            let running = self.release(release.clone(), before, [stable, new], strata, evidence, workers);
            releases.push(Arc::new(running));
        }
        let mut counts = HashMap::new();
        let mut counter = |key: String| -> Arc<OutcomeCounts> {
            let kept = self.counts.get(&key).cloned();
            counts
                .entry(key)
                .or_insert_with(|| kept.unwrap_or_else(|| Arc::new(OutcomeCounts::new(workers))))
                .clone()
        };
        let barred =
            |i: usize| self.barred.iter().any(|b| matches!(b, Block::Routes(routes) if routes.contains(&i)));
        let barred: Vec<bool> = (0..config.routes.len()).map(barred).collect();
        let routes = config.routes.iter().zip(barred).map(|(route, barred)| {
            let route_counts = match route.target {
                Target::Release(i) => {
                    let release = &config.releases[i];
                    RouteCounts::Release(Arm::BOTH.map(|arm| {
                        CohortLabel::all(release)
                            .map(|cohort| {
                                let cohort = cohort.label(release);
                                counter(format!(
                                    "{}\n{}\n{cohort}\n{}",
                                    release.name,
                                    arm.label(),
                                    route.name
                                ))
                            })
                            .collect()
                    }))
                }
                Target::Upstream(_) => RouteCounts::Upstream {
                    counts: counter(format!("\n\n\n{}", route.name)),
                    counters: direct.clone(),
                },
            };
            let stratum = match route.target {
                Target::Release(i) => releases[i].strata.iter().position(|name| **name == *route.name),
                Target::Upstream(_) => None,
            };
            let stratum = stratum.map(|i| i as u8);
            RouteSnapshot {
                name: route.name.as_str().into(),
                target: route.target,
                counts: route_counts,
                barred,
                stratum,
            }
        });
        let routes = Arc::new(routes.collect());
        self.counts = counts;
        self.started = true;
        Snapshot {
            revision: old.map_or(1, |s| s.revision + 1),
            table: Arc::new(RouteTable::new(&config.routes)),
            config,
            routes,
            upstreams,
            releases,
        }
    }

    /// The same configuration, with the state in force recomputed for the releases of `which`.
    pub(super) fn reforce(
        &mut self,
        before: &Snapshot,
        workers: usize,
        which: impl Fn(&str) -> bool,
        evidence: EvidenceEffect,
    ) -> Snapshot {
        let releases = before.releases.iter().map(|old| {
            if !which(&old.release.name) {
                return old.clone();
            }
            let (stable, new, strata) = (old.stable.clone(), old.new.clone(), old.strata.clone());
            Arc::new(self.release(old.release.clone(), Some(old), [stable, new], strata, evidence, workers))
        });
        Snapshot {
            revision: before.revision,
            config: before.config.clone(),
            table: before.table.clone(),
            routes: before.routes.clone(),
            upstreams: before.upstreams.clone(),
            releases: releases.collect(),
        }
    }

    fn release(
        &mut self,
        release: Arc<Release>,
        before: Option<&ReleaseSnapshot>,
        [stable, new]: [Arc<UpstreamState>; 2],
        strata: Arc<[Arc<str>]>,
        evidence: EvidenceEffect,
        workers: usize,
    ) -> ReleaseSnapshot {
        let release_state = self.release_state(&release);
        let (effective, hold, state) = self.effective(&release, &release_state);
        let (exposure, present) =
            (release_state.exposure(release.strategy()), release_state.present(&release.waves));
        let keep = before.filter(|_| evidence != EvidenceEffect::StartsAfresh);
        if let (Some(before), None) = (before, keep) {
            before.counters.breaker.renew();
        }
        let evidence_id = keep.map_or_else(
            || {
                self.evidence += 1;
                self.evidence
            },
            |b| b.evidence_id,
        );
        let same_epoch = keep.filter(|b| {
            b.effective == effective
                && b.strata == strata
                && b.release.salt == release.salt
                && b.release.watchdog.tick == release.watchdog.tick
                && same_segments(in_force(&b.release, effective), in_force(&release, effective))
                && same_segments(&b.release.excluded, &release.excluded)
        });
        let epoch = same_epoch.map_or_else(
            || {
                self.epochs += 1;
                self.epochs
            },
            |b| b.epoch,
        );
        let named = |release: &Release, i: Option<usize>| Some(release.waves.get(i?)?.name.clone());
        let same_stage = keep
            .filter(|b| b.effective == effective && named(&b.release, b.present) == named(&release, present));
        let stage = match same_stage {
            Some(before) => before.stage,
            None if !self.started && release_state.stage > 0 => release_state.stage,
            // Above every entry's number, so no stage saved under this name has the same one.
            None => 1 + release_state.stage.max(before.map_or(0, |b| b.stage)).max(self.image.ledger.n),
        };
        let mut complete_since_ms = None;
        if let Some(release_state) = self.image.releases.get_mut(&release.name) {
            release_state.stage = stage;
            release_state.note_complete(state, clock::at_ms());
            complete_since_ms = release_state.complete_since_ms;
        }
        let maintenance = release_state.maintenance.map(|of| {
            let until = self.maintained.entry(release.name.clone());
            let until = *until.or_insert_with(|| clock::now() + of.left(clock::at_ms()));
            (of, until)
        });
        let header = http::HeaderValue::from_str(&release.name);
        ReleaseSnapshot {
            counters: before.map_or_else(|| Arc::new(ReleaseCounters::new(workers)), |b| b.counters.clone()),
            // The config check ensures that names are valid header values.
            header: header.unwrap_or(http::HeaderValue::from_static("unnamed")),
            release,
            effective,
            hold,
            state,
            exposure,
            present,
            finished: release_state.progress.is_some_and(|p| p.finished),
            paused: release_state.pause.is_some(),
            maintenance,
            stage,
            complete_since_ms,
            stable,
            new,
            epoch,
            strata,
            evidence_id,
        }
    }

    /// Ledger entries for the changes of a reload.
    pub(super) fn changes(
        &mut self,
        before: &Snapshot,
        after: &Snapshot,
        begun: &[(String, RolloutStep)],
    ) -> Vec<LedgerEntry> {
        let mut entries = vec![];
        for release in &after.releases {
            let name = &release.release.name;
            let old = before.releases.iter().find(|r| r.release.name == *name);
            let weight_before = old.map_or(Weight::ZERO, |r| r.effective.weight());
            let weight_after = release.effective.weight();
            let configured = old.map(|r| r.exposure.weight) != Some(release.exposure.weight);
            let held = |r: &ReleaseSnapshot| r.effective == Effective::Held;
            let hold_changed = old.is_some_and(|old| held(old) != held(release));
            let roll = MembershipIdentity::of(&release.release, release.exposure, &after.config.identity);
            let begun = begun.iter().find(|(begun, _)| begun == name).map(|(_, step)| *step);
            let kind = if begun == Some(RolloutStep::Rearmed) {
                "attempt"
            } else if begun == Some(RolloutStep::VersionBegun) {
                "version"
            } else if weight_before != weight_after || configured || hold_changed {
                "weight"
            } else if self.told.get(name) != Some(&roll) {
                "membership"
            } else {
                continue;
            };
            let mut detail = match kind {
                "membership" => {
                    "the file says otherwise who is in new: its salt, the segments, or how ids are read"
                        .to_owned()
                }
                "attempt" => {
                    format!("attempt {}: armed again, evidence starts afresh", release.release.attempt)
                }
                "version" => {
                    format!(
                        "another version: {}; evidence starts afresh",
                        release.release.versions(&after.config)
                    )
                }
                _ => release.sentence(),
            };
            let servers = release.release.versions(&after.config);
            let was = old.map(|old| old.release.versions(&before.config));
            if kind == "attempt" && was.is_some_and(|was| was.change(&servers, true, None).is_another()) {
                detail.push_str(&format!("; another version: {servers}"));
            }
            if let Some(hold) = &release.hold {
                detail.push_str(&format!("; in force {weight_after}: {}", hold.explain(name)));
            }
            let entry = LedgerEntry {
                weight_before: Some(weight_before.percent()),
                weight_after: Some(weight_after.percent()),
                ..self.entry(kind, Some(&release.release), &file_origin(), detail)
            };
            entries.push(self.record(entry, after));
        }
        for old in &before.releases {
            if !after.releases.iter().any(|r| r.release.name == old.release.name) {
                let entry = LedgerEntry {
                    weight_before: Some(old.effective.weight().percent()),
                    weight_after: Some(0.0),
                    ..self.entry(
                        "removed",
                        Some(&old.release),
                        &file_origin(),
                        "not in the file any more".into(),
                    )
                };
                entries.push(self.record(entry, after));
            }
        }
        entries
    }

    pub(super) fn entry(
        &self,
        kind: &str,
        release: Option<&Release>,
        origin: &ChangeOrigin,
        detail: String,
    ) -> LedgerEntry {
        LedgerEntry {
            n: 0,
            at: clock::rfc3339(clock::at_ms()),
            release: release.map(|r| r.name.clone()),
            attempt: release.map(|r| r.attempt),
            kind: kind.to_owned(),
            cause: None,
            actor: origin.actor.clone(),
            reason: origin.reason.clone(),
            detail,
            weight_before: None,
            weight_after: None,
            held: None,
            under_way: None,
            membership: None,
            evidence: Value::Null,
            method: None,
            prev: String::new(),
            hash: String::new(),
            rebuilt: false,
        }
    }

    /// The state of each release.
    pub(super) fn standings(&self, now: &Snapshot) -> Standings {
        let mut releases: BTreeMap<String, ReleaseStanding> = BTreeMap::new();
        for (name, release_state) in &self.image.releases {
            let standing =
                ReleaseStanding { release_state: release_state.clone(), ..ReleaseStanding::default() };
            releases.insert(name.clone(), standing);
        }
        for running in &now.releases {
            let standing = releases.entry(running.release.name.clone()).or_default();
            if let Effective::At(exposure) = running.effective {
                standing.exposure = exposure;
            }
            standing.version = self.version_standing(Some(running), &standing.release_state);
            standing.barred_by = self.barred_by(&running.release.name);
        }
        Standings { releases, stranger: self.stranger(), now: self.now() }
    }

    fn barred_by(&self, name: &str) -> Option<String> {
        self.barred.iter().find_map(|bar| match bar {
            Block::Release { name: barred, by } if barred == name => Some(by.clone()),
            _ => None,
        })
    }

    /// The initial memory of a release without any.
    fn stranger(&self) -> ReleaseState {
        ReleaseState {
            awaits: self.image.hold_strangers.then_some(ManualHold::StateLost),
            ..ReleaseState::default()
        }
    }

    /// Records the membership from here on, numbers an entry, chains it to the previous one, and
    /// keeps it among the latest.
    /// `next`: the snapshot that comes into force with it.
    pub(super) fn record(&mut self, mut entry: LedgerEntry, next: &Snapshot) -> LedgerEntry {
        let named = |r: &&Arc<ReleaseSnapshot>| Some(&r.release.name) == entry.release.as_ref();
        match (next.releases.iter().find(named), &entry.release) {
            (Some(running), Some(name)) => {
                let held = running.effective == Effective::Held;
                entry.held = Some(held);
                entry.under_way = running.counters.under_way.found_by_hold(held);
                let (release, identity) = (&running.release, &next.config.identity);
                let roll = MembershipIdentity::of(release, running.exposure, identity);
                if self.told.get(name) != Some(&roll) {
                    self.told.insert(name.clone(), roll);
                    entry.membership = Some(Membership::of(release, running.exposure, identity, &self.key));
                }
            }
            (None, Some(name)) => {
                entry.held = Some(true);
                self.told.remove(name);
            }
            (_, None) => {}
        }
        entry.method = evidence::has_verdict(&entry.evidence).then_some(METHOD);
        entry.n = self.image.ledger.n.saturating_add(1);
        // Numbers, words and lists of them always serialize.
        if chain::seal(&mut entry, &self.image.ledger.hash).is_ok() {
            self.image.ledger.hash = entry.hash.clone();
        }
        self.image.ledger.n = entry.n;
        if let Some(release_state) = entry.release.as_ref().and_then(|name| self.image.releases.get_mut(name))
        {
            release_state.number(entry.n);
        }
        let recent = &mut self.image.recent;
        recent.push(entry.clone());
        let excess = recent.len().saturating_sub(RECENT_MAX);
        recent.drain(..excess);
        entry
    }
}

/// The segments that are in `new` now.
fn in_force(release: &Release, effective: Effective) -> &[Arc<Segment>] {
    match effective {
        Effective::Held => &[],
        Effective::At(exposure) => &release.segments[..exposure.segments.min(release.segments.len())],
    }
}

fn same_segments(a: &[Arc<Segment>], b: &[Arc<Segment>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
}

pub(super) fn file_origin() -> ChangeOrigin {
    ChangeOrigin { actor: "file".into(), reason: None }
}
