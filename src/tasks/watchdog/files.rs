//! The watchdog's evidence over a restart: what is queued for the disk, and what is read back.
//!
//! Invariants: evidence is restored only for the same attempt, salt and routes, and only if it did
//! not end in a trip; no tick waits for the disk.

use super::{WatchedRelease, levels, limits, settings};
use crate::domain::judge::Judge;
use crate::domain::verdict::VerdictLimits;
use crate::runtime::shared::SharedState;
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::users::Baseline;
use crate::store::checkpoints::{self, CheckpointQueue};
use crate::store::failed_users;
use crate::tasks::past_figures;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Evidence is written at this interval, and at most this many bytes a second.
const KEEP_EVERY: Duration = Duration::from_secs(5);
/// The time and the evidence of the current wave are written at this interval: a restart loses that
/// much.
const KEEP_STAGE_EVERY: Duration = Duration::from_secs(2);
const KEEP_BYTES_A_SECOND: u64 = 1 << 20;

/// The files in which evidence outlives the process.
pub struct EvidenceFiles {
    /// The state directory.
    pub directory: PathBuf,
    pub checkpoint_queue: Arc<CheckpointQueue>,
}

impl WatchedRelease {
    /// Restores the evidence of an earlier process, if attempt, salt and routes are the same, and
    /// it did not end in a trip: a trip is in the state file, and a person may have cleared it
    /// since.
    pub(super) fn restored(release: &ReleaseSnapshot, bytes: &[u8], now: Duration) -> Option<Self> {
        let mut dog = WatchedRelease::new(release, Baseline::default(), now);
        let mut decoder = Decoder::open(bytes)?;
        let mut same = decoder.text()? == release.release.name;
        same &= decoder.text()? == release.release.salt_text;
        same &= decoder.u64()? == release.release.attempt;
        same &= decoder.u64()? == release.strata.len() as u64;
        for name in release.strata.iter() {
            same &= decoder.text()? == **name;
        }
        same.then_some(())?;
        let was = decoder.f64s(3)?;
        let settings = settings(release);
        let [latency_tolerance, latency_notice, floor]: [f64; 3] = was.try_into().ok()?;
        let latency_floor = Duration::try_from_secs_f64(floor).ok()?;
        let before = VerdictLimits { latency_tolerance, latency_notice, latency_floor, ..limits(release) };
        let mut judge = Judge::restore(before, settings, release.strata.clone(), &mut decoder, now)?;
        if judge.engine().e_value() >= 1.0 / settings.alpha {
            return None;
        }
        judge.engine_mut().weigh(release.effective.weight(), now);
        // Levels edited while no process ran restart their evidence, too.
        judge.set_limits(limits(release));
        dog.judge = judge;
        Some(dog)
    }

    /// Queues the evidence for writing, every few seconds; a large one less often.
    pub(super) fn keep(&mut self, release: &ReleaseSnapshot, archive: &EvidenceFiles, now: Duration) {
        if now < self.keep_by {
            return;
        }
        let mut encoder = Encoder::new();
        encoder.text(&release.release.name);
        encoder.text(&release.release.salt_text);
        encoder.u64(release.release.attempt);
        encoder.u64(self.strata.len() as u64);
        self.strata.iter().for_each(|name| encoder.text(name));
        encoder.f64s(&levels(&limits(release)));
        self.judge.save(now, &mut encoder);
        let bytes = encoder.finish();
        self.keep_by = now + KEEP_EVERY.max(Duration::from_secs(bytes.len() as u64 / KEEP_BYTES_A_SECOND));
        archive.checkpoint_queue.enqueue_sealed(checkpoints::evidence_file(&release.release.name), bytes);
    }

    /// Queues the data that a restart needs to continue the current wave.
    pub(super) fn keep_stage(
        &mut self,
        shared: &SharedState,
        release: &ReleaseSnapshot,
        archive: &EvidenceFiles,
        now: Duration,
    ) {
        if now < self.stage.keep_by || release.release.waves.is_empty() || self.stage.number != release.stage
        {
            return;
        }
        self.stage.keep_by = now + KEEP_STAGE_EVERY;
        let name = &release.release.name;
        let spent = shared.views().get(name).map(|view| view.spent(release.stage)).unwrap_or_default();
        let e_value = self.judge.engine().e_value();
        let bytes = self.stage.render(release, &spent, e_value);
        archive.checkpoint_queue.enqueue(checkpoints::wave_file(name), bytes);
    }

    /// Queues the past figures of `new`: small, and without users.
    pub(super) fn keep_past(&mut self, release: &ReleaseSnapshot, archive: &EvidenceFiles, now: Duration) {
        if now < self.keep_past_by {
            return;
        }
        self.keep_past_by = now + KEEP_EVERY;
        let bytes = past_figures::render(release, self.judge.own_past());
        archive.checkpoint_queue.enqueue(checkpoints::past_file(&release.release.name), bytes);
    }

    /// The same for the list of failed users, if it has grown.
    pub(super) fn keep_failed(&mut self, release: &ReleaseSnapshot, archive: &EvidenceFiles, now: Duration) {
        if now < self.keep_failed_by {
            return;
        }
        let name = &release.release.name;
        for (attempt, bytes) in release.counters.failed.to_write(name) {
            self.keep_failed_by =
                now + KEEP_EVERY.max(Duration::from_secs(bytes.len() as u64 / KEEP_BYTES_A_SECOND));
            archive.checkpoint_queue.enqueue(failed_users::file(name, attempt), bytes);
        }
    }
}

/// Restores the list of users that `new` failed in the current attempt before the restart.
pub(super) fn remember_failed(shared: &SharedState, release: &ReleaseSnapshot, archive: &EvidenceFiles) {
    let (name, attempt) = (&release.release.name, release.release.attempt);
    let Some(bytes) = checkpoints::read(&archive.directory, &failed_users::file(name, attempt)) else {
        return;
    };
    let key = shared.snapshot().config.log.user_key.as_deref().map(failed_users::key);
    let number = |id: &failed_users::FailedUserId| failed_users::number_of(key.as_ref(), id);
    release.counters.failed.restore(attempt, release.evidence_id, &bytes, number);
}
