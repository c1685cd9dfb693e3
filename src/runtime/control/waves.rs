//! Opens waves automatically: applies the gates' verdicts through the one writer.
//! The verbs of a person are in [`super::verbs`].
//!
//! Invariants: a decision of the gates is valid only for the stage it was judged in.
//! Every decision is a ledger entry with its numbers.
//! No wave opens during a trip, a freeze, a hold or another release's standing trip.

use crate::config::Standings;
use crate::domain::rollout::wave_controller::{WaveAction, WaveStatus};
use crate::domain::rollout::{self, Opener, ReleaseState, RolloutInput, RolloutState, RolloutStep};
use crate::domain::wave::Wave;
use crate::runtime::builder::{EvidenceEffect, SnapshotBuilder};
use crate::runtime::shared::{ChangeOrigin, ChangeRefused, ChangeResult, SharedState};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::cohort::Weight;
use crate::store::audit::gate_evidence::{self, GateDecision};
use crate::store::ledger::LedgerEntry;
use crate::store::writer::CommitId;
use serde_json::{Value, json};
use std::sync::Arc;

/// The `actor` of decisions by the gates.
const ACTOR: &str = "waves";

impl SharedState {
    /// Applies and records a decision of the gates for this stage.
    /// `None`: the stage is over, or a hold prevents it.
    pub fn advance(&self, name: &str, stage: u64, wave_status: &WaveStatus) -> Option<CommitId> {
        let mut writer = self.writer();
        let (running, release_state) = self.with_waves(&writer, name).ok()?;
        if running.stage != stage
            || running.hold.is_some()
            || running.maintenance.is_some()
            || barred_by(&writer, &running).is_some()
        {
            return None;
        }
        let waves = &running.release.waves;
        let (release_state, what) = match wave_status.act {
            WaveAction::Wait => return None,
            WaveAction::Open => {
                rollout::step(&release_state, RolloutInput::Open { waves, opener: Opener::Gates })
            }
            WaveAction::Finish => rollout::step(&release_state, RolloutInput::Finish { waves }),
            WaveAction::TellHold => (release_state, RolloutStep::Unchanged),
        };
        let present = running.wave().map_or("the start", |w| w.name.as_str());
        let (decision, detail, index) = match what {
            RolloutStep::Opened(index) => {
                let after = match running.wave() {
                    Some(before) => format!("`{}` has passed every gate: ", before.name),
                    None => String::new(),
                };
                (GateDecision::Open, format!("{after}wave `{}` opens", waves[index].name), Some(index))
            }
            RolloutStep::Finished => (
                GateDecision::Finish,
                match running.held_back() {
                    Weight::ZERO => format!("`{present}` has passed every gate: the plan is fulfilled"),
                    back => format!(
                        "`{present}` has passed every gate: the plan is fulfilled, and the {back} that was held back moves to new"
                    ),
                },
                running.present,
            ),
            _ if wave_status.act == WaveAction::TellHold => {
                let missing = wave_status.held.as_ref().map(|h| h.missing.join("; ")).unwrap_or_default();
                (GateDecision::Hold, format!("held in `{present}`: {missing}"), running.present)
            }
            _ => return None,
        };
        let wave = index.and_then(|i| Some(wave_record(&running, i, waves.get(i)?)));
        let evidence = json!({"wave": wave, "gates": gate_evidence::written(wave_status, decision)});
        let origin = ChangeOrigin { actor: ACTOR.into(), reason: None };
        self.change(&mut writer, &running, release_state, "wave", &origin, detail, evidence, String::new())
            .commit
    }

    /// The state of each release.
    pub fn standings(&self) -> Standings {
        self.writer().standings(&self.snapshot())
    }

    /// Another release's standing trip that forbids more users on the servers of this one's `new`.
    pub fn barred_by(&self, release: &ReleaseSnapshot) -> Option<String> {
        barred_by(&self.writer(), release)
    }

    pub(super) fn with_waves(
        &self,
        writer: &SnapshotBuilder,
        name: &str,
    ) -> Result<(Arc<ReleaseSnapshot>, ReleaseState), ChangeRefused> {
        let snapshot = self.snapshot();
        let Some(running) = snapshot.releases.iter().find(|r| r.release.name == name) else {
            return Err(ChangeRefused::UnknownRelease(name.to_owned()));
        };
        if running.release.waves.is_empty() {
            return Err(ChangeRefused::NotNow(format!(
                "the weight of {name} is set by hand: edit `weight` in [release.{name}], or give it waves"
            )));
        }
        Ok((running.clone(), writer.image.releases.get(name).cloned().unwrap_or_default()))
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn change(
        &self,
        writer: &mut SnapshotBuilder,
        running: &ReleaseSnapshot,
        release_state: ReleaseState,
        kind: &str,
        origin: &ChangeOrigin,
        detail: String,
        evidence: Value,
        message: String,
    ) -> ChangeResult {
        let name = &running.release.name;
        writer.image.releases.insert(name.clone(), release_state);
        let before = self.snapshot();
        let next = Arc::new(writer.reforce(&before, self.workers, |r| r == name, EvidenceEffect::Keeps));
        let after = next.releases.iter().find(|r| r.release.name == *name);
        let entry = LedgerEntry {
            weight_before: Some(running.effective.weight().percent()),
            weight_after: after.map(|r| r.effective.weight().percent()),
            evidence,
            ..writer.entry(kind, Some(&running.release), origin, detail)
        };
        let entry = writer.record(entry, &next);
        let (state, ledger) = (after.map_or(RolloutState::Pending, |r| r.state), entry.n);
        let commit = self.publish(writer, next, vec![entry], None);
        ChangeResult { state, ledger, message, commit: Some(commit) }
    }
}

/// Claims older than the trip continue unchanged, but get no more users.
pub(super) fn barred_by(writer: &SnapshotBuilder, release: &ReleaseSnapshot) -> Option<String> {
    let name = &release.release.name;
    let mut trips = writer.image.releases.iter().filter_map(|(n, m)| Some((n, m.trip.as_ref()?)));
    let servers = release.new.aliases();
    trips
        .find(|(n, trip)| *n != name && trip.servers.iter().any(|s| servers.contains(s)))
        .map(|(n, _)| n.clone())
}

pub(super) fn wave_record(running: &ReleaseSnapshot, index: usize, wave: &Wave) -> Value {
    let segments = running.release.segments.iter().take(wave.exposure.segments).map(|s| s.name.as_str());
    json!({
        "number": index + 1,
        "of": running.release.waves.len(),
        "name": wave.name,
        "weight": wave.exposure.weight.percent(),
        "held_back": wave.holds_back().percent(),
        "segments": segments.collect::<Vec<_>>(),
    })
}
