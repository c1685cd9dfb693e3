//! The verb `maintenance`: its begin, extension and early end by a person, and its end by timer.
//!
//! Invariants: as for the other verbs, every change passes the one writer and is a ledger entry.
//! While the process lives, the end is a time of the monotonic clock, so that a jump of the wall
//! clock neither ends nor extends it.
//! The state file has the wall clock time, for a restart.

use crate::domain::maintenance::{Maintenance, SAME};
use crate::domain::rollout::{self, Hold, ReleaseState, RolloutInput, RolloutState};
use crate::runtime::builder::SnapshotBuilder;
use crate::runtime::shared::{ChangeOrigin, ChangeRefused, ChangeResult, SharedState};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::telemetry::clock;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const EFFECT: &str =
    "ceilings and both_arms only report, waves hold; the comparison, the fuse and harm_users_max go on";

impl SharedState {
    /// Begins a maintenance of `length` (checked by the caller), or extends the current one.
    pub fn maintain(
        &self,
        name: &str,
        origin: &ChangeOrigin,
        change: &str,
        length: Duration,
    ) -> Result<ChangeResult, ChangeRefused> {
        let mut writer = self.writer();
        let (running, release_state) = self.remembered(&writer, name)?;
        if running.state == RolloutState::RolledBack {
            let why = Hold::Tripped.explain(name);
            return Err(ChangeRefused::NotNow(format!(
                "{name} needs no maintenance, nobody is in new: {why}"
            )));
        }
        let now = clock::now();
        let until = now + length;
        if let Some((present, ends)) = &running.maintenance {
            if present.change != change {
                return Err(ChangeRefused::NotNow(format!(
                    "the maintenance {} of {name} stands until {}; to end it first: {}",
                    present.change,
                    clock::rfc3339(present.until_ms),
                    Maintenance::end_command(name)
                )));
            }
            if until <= *ends + SAME {
                let until = clock::rfc3339(present.until_ms);
                return Ok(ChangeResult {
                    state: running.state,
                    ledger: present.entry,
                    message: format!(
                        "the maintenance {change} stands already, until {until}; to end it earlier: {}",
                        Maintenance::end_command(name)
                    ),
                    commit: None,
                });
            }
        }
        let at_ms = clock::at_ms();
        let until_ms = at_ms.saturating_add(i64::try_from(length.as_millis()).unwrap_or(i64::MAX));
        let of = Maintenance {
            change: change.to_owned(),
            at_ms,
            until_ms,
            actor: origin.actor.clone(),
            reason: origin.reason.clone().unwrap_or_default(),
            entry: 0,
        };
        let longer = if running.maintenance.is_some() { "goes on" } else { "begins" };
        let message = format!("maintenance {change} until {}: {EFFECT}", clock::rfc3339(until_ms));
        let detail = format!("maintenance {change} {longer}, until {}: {EFFECT}", clock::rfc3339(until_ms));
        let evidence =
            json!({"change": change, "until": clock::rfc3339(until_ms), "for_s": length.as_secs_f64()});
        let (release_state, _) = rollout::step(&release_state, RolloutInput::Maintain(of));
        writer.maintained.insert(name.to_owned(), until);
        Ok(self.change(
            &mut writer,
            &running,
            release_state,
            "maintenance",
            origin,
            detail,
            evidence,
            message,
        ))
    }

    /// Ends the current maintenance early, for a person.
    pub fn end_maintenance(&self, name: &str, origin: &ChangeOrigin) -> Result<ChangeResult, ChangeRefused> {
        let mut writer = self.writer();
        let (running, _) = self.remembered(&writer, name)?;
        let Some((of, _)) = &running.maintenance else {
            return Err(ChangeRefused::NotNow(format!("no maintenance of {name} is in force")));
        };
        let detail = format!("maintenance {} ends before its time", of.change);
        Ok(self.without_maintenance(&mut writer, &running, origin, detail))
    }

    /// Ends every maintenance whose time is over.
    /// Called by a timer.
    pub fn end_maintenances(&self) {
        let now = clock::now();
        let over =
            |running: &ReleaseSnapshot| running.maintenance.as_ref().is_some_and(|(_, until)| *until <= now);
        if !self.snapshot().releases.iter().any(|running| over(running)) {
            return;
        }
        let mut writer = self.writer();
        // Read again under the lock: a person may just have extended one.
        let snapshot = self.snapshot();
        for running in snapshot.releases.iter().filter(|running| over(running)) {
            let Some((of, _)) = &running.maintenance else { continue };
            let origin = ChangeOrigin { actor: "proxy".into(), reason: None };
            let detail = format!("maintenance {} has ended: ceilings and both_arms act again", of.change);
            self.without_maintenance(&mut writer, running, &origin, detail);
        }
    }

    fn without_maintenance(
        &self,
        writer: &mut SnapshotBuilder,
        running: &ReleaseSnapshot,
        origin: &ChangeOrigin,
        detail: String,
    ) -> ChangeResult {
        let name = &running.release.name;
        let release_state = writer.image.releases.get(name).cloned().unwrap_or_default();
        let change = release_state.maintenance.as_ref().map(|of| of.change.clone());
        let (release_state, _) = rollout::step(&release_state, RolloutInput::EndMaintenance);
        writer.maintained.remove(name);
        let evidence = json!({"change": change, "ends": true});
        let message = "the maintenance is over: ceilings and both_arms act again, waves go on".to_owned();
        self.change(writer, running, release_state, "maintenance", origin, detail, evidence, message)
    }

    fn remembered(
        &self,
        writer: &SnapshotBuilder,
        name: &str,
    ) -> Result<(Arc<ReleaseSnapshot>, ReleaseState), ChangeRefused> {
        let snapshot = self.snapshot();
        let Some(running) = snapshot.releases.iter().find(|r| r.release.name == name) else {
            return Err(ChangeRefused::UnknownRelease(name.to_owned()));
        };
        Ok((running.clone(), writer.image.releases.get(name).cloned().unwrap_or_default()))
    }
}
