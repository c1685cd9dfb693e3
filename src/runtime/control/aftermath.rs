//! After a trip on little evidence: records that stable shows the same trouble.

use crate::domain::judge::onset::ArmCountsSince;
use crate::domain::rollout::{self, RolloutInput};
use crate::runtime::shared::{ChangeOrigin, SharedState};
use crate::store::audit::evidence::arm_counts;
use crate::telemetry::clock;
use serde_json::json;

impl SharedState {
    /// Records that stable shows the same trouble soon after a trip on little evidence: beside the
    /// trip, and as a ledger entry.
    pub fn stable_shows_the_same(&self, name: &str, since_ms: i64, detail: String, recent: &ArmCountsSince) {
        let mut writer = self.writer();
        let snapshot = self.snapshot();
        let Some(running) = snapshot.releases.iter().find(|r| r.release.name == name) else { return };
        let release_state = writer.image.releases.get(name).cloned().unwrap_or_default();
        let Some(trip) = release_state.trip.as_ref().filter(|trip| trip.stable_same_at_ms.is_none()) else {
            return;
        };
        let evidence =
            json!({"trip": trip.entry, "since": clock::rfc3339(since_ms), "stable": arm_counts(recent)});
        let (release_state, _) = rollout::step(&release_state, RolloutInput::StableSame { at_ms: since_ms });
        let origin = ChangeOrigin { actor: "watchdog".into(), reason: None };
        let kind = "stable_shows_the_same";
        self.change(&mut writer, running, release_state, kind, &origin, detail, evidence, String::new());
    }
}
