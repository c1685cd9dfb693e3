//! The serde types of the state file. The domain does not depend on serde.
//!
//! Invariants: a field that an earlier version did not write has a default; a field that no version
//! has written is refused.

use super::StateImage;
use crate::domain::maintenance::Maintenance;
use crate::domain::rollout::version::Versions;
use crate::domain::rollout::{Freeze, ManualHold, OtherPath, Pause, PlanProgress, ReleaseState, Trip};
use crate::domain::verdict::Cause;
use crate::domain::wave::Exposure;
use crate::stats::cohort::Weight;
use crate::store::ledger::{LedgerEntry, LedgerTail};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileImage {
    pub(super) releases: BTreeMap<String, FileReleaseState>,
    hold_strangers: bool,
    ledger: u64,
    #[serde(default)]
    ledger_hash: String,
    recent: Vec<LedgerEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileReleaseState {
    attempt: u64,
    trip: Option<FileTrip>,
    freeze: Option<FileFreeze>,
    awaits: Option<FileAwaits>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<FileProgress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pause: Option<FilePause>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    maintenance: Option<FileMaintenance>,
    #[serde(default)]
    versions: FileVersions,
    #[serde(default, skip_serializing_if = "is_zero")]
    stage: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    complete_since_ms: Option<i64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct FileVersions {
    stable: Vec<String>,
    new: Vec<String>,
    same_declared: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileProgress {
    wave: String,
    weight_ppm: u32,
    segments: usize,
    finished: bool,
    #[serde(default)]
    entry: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePause {
    at_ms: i64,
    actor: String,
    reason: String,
    #[serde(default)]
    entry: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMaintenance {
    change: String,
    at_ms: i64,
    until_ms: i64,
    actor: String,
    reason: String,
    entry: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileAwaits {
    NoMemory,
    StateLost,
    StopFile,
    NewVersion,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileTrip {
    cause: String,
    attempt: u64,
    at_ms: i64,
    actor: String,
    detail: String,
    evidence: String,
    onset_to_trip_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stable_same_at_ms: Option<i64>,
    servers: Vec<String>,
    #[serde(default)]
    others: Vec<FileOther>,
    #[serde(default)]
    entry: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOther {
    claim: String,
    routes: Vec<String>,
    weight_ppm: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileFreeze {
    cause: String,
    at_ms: i64,
    actor: String,
    detail: String,
    weight_ppm: u32,
    #[serde(default)]
    entry: u64,
}

impl From<&StateImage> for FileImage {
    fn from(image: &StateImage) -> Self {
        let memory = |m: &ReleaseState| FileReleaseState {
            attempt: m.attempt,
            trip: m.trip.as_ref().map(|t| FileTrip {
                cause: t.cause.label().to_owned(),
                attempt: t.attempt,
                at_ms: t.at_ms,
                actor: t.actor.clone(),
                detail: t.detail.clone(),
                evidence: t.evidence.clone(),
                onset_to_trip_ms: t.onset_to_trip_ms,
                stable_same_at_ms: t.stable_same_at_ms,
                servers: t.servers.clone(),
                others: t
                    .others
                    .iter()
                    .map(|o| FileOther {
                        claim: o.claim.clone(),
                        routes: o.routes.clone(),
                        weight_ppm: o.weight.parts(),
                    })
                    .collect(),
                entry: t.entry,
            }),
            freeze: m.freeze.as_ref().map(|f| FileFreeze {
                cause: f.cause.label().to_owned(),
                at_ms: f.at_ms,
                actor: f.actor.clone(),
                detail: f.detail.clone(),
                weight_ppm: f.weight.parts(),
                entry: f.entry,
            }),
            awaits: m.awaits.map(|a| match a {
                ManualHold::NoMemory => FileAwaits::NoMemory,
                ManualHold::StateLost => FileAwaits::StateLost,
                ManualHold::StopFile => FileAwaits::StopFile,
                ManualHold::NewVersion => FileAwaits::NewVersion,
            }),
            progress: m.progress.as_ref().map(|p| FileProgress {
                wave: p.wave.clone(),
                weight_ppm: p.exposure.weight.parts(),
                segments: p.exposure.segments,
                finished: p.finished,
                entry: p.entry,
            }),
            pause: m.pause.as_ref().map(|p| FilePause {
                at_ms: p.at_ms,
                actor: p.actor.clone(),
                reason: p.reason.clone(),
                entry: p.entry,
            }),
            maintenance: m.maintenance.as_ref().map(|m| FileMaintenance {
                change: m.change.clone(),
                at_ms: m.at_ms,
                until_ms: m.until_ms,
                actor: m.actor.clone(),
                reason: m.reason.clone(),
                entry: m.entry,
            }),
            versions: FileVersions {
                stable: m.versions.stable.clone(),
                new: m.versions.new.clone(),
                same_declared: m.versions.same_declared,
            },
            stage: m.stage,
            complete_since_ms: m.complete_since_ms,
        };
        FileImage {
            releases: image.releases.iter().map(|(name, m)| (name.clone(), memory(m))).collect(),
            hold_strangers: image.hold_strangers,
            ledger: image.ledger.n,
            ledger_hash: image.ledger.hash.clone(),
            recent: image.recent.clone(),
        }
    }
}

/// A cause that no version has written, as in the file.
#[derive(Debug, thiserror::Error)]
#[error("unknown cause `{0}`")]
pub struct UnknownCause(String);

impl TryFrom<FileImage> for StateImage {
    type Error = UnknownCause;

    fn try_from(file: FileImage) -> Result<Self, UnknownCause> {
        let cause = |label: &str| Cause::parse(label).ok_or_else(|| UnknownCause(label.to_owned()));
        let memory = |m: FileReleaseState| -> Result<ReleaseState, UnknownCause> {
            Ok(ReleaseState {
                attempt: m.attempt,
                trip: m
                    .trip
                    .map(|t| {
                        Ok::<_, UnknownCause>(Trip {
                            cause: cause(&t.cause)?,
                            attempt: t.attempt,
                            at_ms: t.at_ms,
                            actor: t.actor,
                            detail: t.detail,
                            evidence: t.evidence,
                            onset_to_trip_ms: t.onset_to_trip_ms,
                            stable_same_at_ms: t.stable_same_at_ms,
                            servers: t.servers,
                            others: t
                                .others
                                .into_iter()
                                .map(|o| OtherPath {
                                    claim: o.claim,
                                    routes: o.routes,
                                    weight: Weight::from_parts(o.weight_ppm),
                                })
                                .collect(),
                            entry: t.entry,
                        })
                    })
                    .transpose()?,
                freeze: m
                    .freeze
                    .map(|f| {
                        Ok::<_, UnknownCause>(Freeze {
                            cause: cause(&f.cause)?,
                            at_ms: f.at_ms,
                            actor: f.actor,
                            detail: f.detail,
                            weight: Weight::from_parts(f.weight_ppm),
                            entry: f.entry,
                        })
                    })
                    .transpose()?,
                awaits: m.awaits.map(|a| match a {
                    FileAwaits::NoMemory => ManualHold::NoMemory,
                    FileAwaits::StateLost => ManualHold::StateLost,
                    FileAwaits::StopFile => ManualHold::StopFile,
                    FileAwaits::NewVersion => ManualHold::NewVersion,
                }),
                progress: m.progress.map(|p| PlanProgress {
                    wave: p.wave,
                    exposure: Exposure { weight: Weight::from_parts(p.weight_ppm), segments: p.segments },
                    finished: p.finished,
                    entry: p.entry,
                }),
                pause: m.pause.map(|p| Pause {
                    at_ms: p.at_ms,
                    actor: p.actor,
                    reason: p.reason,
                    entry: p.entry,
                }),
                maintenance: m.maintenance.map(|m| Maintenance {
                    change: m.change,
                    at_ms: m.at_ms,
                    until_ms: m.until_ms,
                    actor: m.actor,
                    reason: m.reason,
                    entry: m.entry,
                }),
                versions: Versions {
                    stable: m.versions.stable,
                    new: m.versions.new,
                    same_declared: m.versions.same_declared,
                },
                stage: m.stage,
                complete_since_ms: m.complete_since_ms,
            })
        };
        let releases = file.releases.into_iter().map(|(name, m)| Ok((name, memory(m)?)));
        Ok(StateImage {
            releases: releases.collect::<Result<_, UnknownCause>>()?,
            hold_strangers: file.hold_strangers,
            ledger: LedgerTail { n: file.ledger, hash: file.ledger_hash },
            recent: file.recent,
        })
    }
}
