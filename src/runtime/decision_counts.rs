//! The counts that decided a trip, with names of routes and servers and wall clock times.
//!
//! Written once, at the trip, into the evidence (`decided_by`) and the sentence; the status reads
//! the evidence. Invariants: nothing here decides; an unknown name is left out.

use super::snapshot::ReleaseSnapshot;
use crate::domain::judge::onset::DecisionCounts;
use crate::domain::rollout::wave_controller::hours;
use crate::domain::verdict::{DecisionText, Judgement};
use crate::store::audit::evidence::arm_counts;
use crate::telemetry::clock;
use serde_json::{Value, json};
use std::sync::Arc;

/// Resolves the numbers of a [`DecisionCounts`] to names.
pub struct DecisionNames<'n> {
    pub release: &'n ReleaseSnapshot,
    /// The routes that are judged separately.
    pub strata: &'n [Arc<str>],
}

impl DecisionNames<'_> {
    fn route(&self, of: &DecisionCounts) -> Option<&str> {
        self.strata.get(usize::from(of.route?)).map(|name| &**name)
    }

    /// The one server that has the trouble, or the only server of `new`.
    fn server(&self, of: &DecisionCounts) -> Option<String> {
        let servers = &self.release.new.servers;
        let one = match servers.len() {
            1 => servers.first(),
            _ => of.server.and_then(|i| servers.get(usize::from(i))),
        };
        one.map(|server| server.server.authority())
    }

    /// `since 12:03:07 UTC (14 s) 23 of 41 of new failed, 2 of 812 of stable; route refunds`.
    pub fn sentence(&self, of: &DecisionCounts) -> String {
        let since = clock::time_of_day(clock::wall_ms(of.onset));
        let mut out = format!("since {since} ({}) {}", hours(of.lasted), of.counts());
        if let Some(route) = self.route(of) {
            out.push_str(&format!("; route {route}"));
        }
        if let Some(server) = self.server(of) {
            out.push_str(&format!("; one server: {server}"));
        }
        out
    }

    /// Replaces the numbers in a judgement's reason by names.
    pub fn name(&self, judgement: &mut Judgement) {
        if let Some(DecisionText { what, by: Some(of) }) = &judgement.decided {
            judgement.reason = format!("{what}: {}", self.sentence(of));
        }
    }

    /// The JSON for the ledger and the status.
    pub fn evidence(&self, of: &DecisionCounts) -> Value {
        let server = self.server(of);
        json!({
            "signal": of.by.label(),
            "route": self.route(of),
            "server": server,
            "one_server": server.is_some(),
            "since": clock::rfc3339(clock::wall_ms(of.onset)),
            "for_ms": of.lasted.as_millis() as u64,
            "new": arm_counts(&of.new),
            "stable": arm_counts(&of.stable),
            "stable_usual_ratio": of.stable_usual,
            "slow_from_ms": of.limit.map(|limit| limit.as_secs_f64() * 1e3),
        })
    }
}
