//! The counts that decided a trip, with names of routes and servers and wall clock times.
//!
//! Written once, at the trip, into the evidence (`decided_by`) and the sentence; the status reads
//! the evidence. Invariants: nothing here decides; an unknown name is left out.

use super::snapshot::ReleaseSnapshot;
use crate::domain::breaker::BreakerTrip;
use crate::domain::config::Server;
use crate::domain::judge::onset::{ArmCountsSince, DecisionCounts};
use crate::domain::rollout::wave_controller::hours;
use crate::domain::verdict::{DecisionText, Judgement};
use crate::telemetry::clock;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

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
        let since = time_of_day(at_ms(of.onset));
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
            "since": clock::rfc3339(at_ms(of.onset)),
            "for_ms": of.lasted.as_millis() as u64,
            "new": share(&of.new),
            "stable": share(&of.stable),
            "stable_usual_ratio": of.stable_usual,
            "slow_from_ms": of.limit.map(|limit| limit.as_secs_f64() * 1e3),
        })
    }
}

/// The counts behind a blown fuse: connections to `new` alone.
pub fn of_fuse(blown: &BreakerTrip, servers: &[Server], since: Duration) -> Value {
    let one = match servers {
        [one] => Some(one.authority()),
        _ => None,
    };
    let refused = ArmCountsSince { requests: blown.in_a_row.into(), bad: blown.in_a_row.into(), waiting: 0 };
    json!({
        "signal": "fuse",
        "route": null,
        "server": one,
        "one_server": one.is_some(),
        "since": clock::rfc3339(at_ms(since)),
        "for_ms": clock::now().saturating_sub(since).as_millis() as u64,
        "new": share(&refused),
        "stable": null,
    })
}

pub fn share(of: &ArmCountsSince) -> Value {
    json!({"requests": of.requests, "bad": of.bad, "waiting": of.waiting})
}

/// The wall clock time of a monotonic time.
pub fn at_ms(at: Duration) -> i64 {
    let ago = clock::now().saturating_sub(at).as_millis();
    clock::at_ms().saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
}

/// `12:03:07 UTC`.
pub fn time_of_day(at_ms: i64) -> String {
    let text = clock::rfc3339(at_ms);
    match text.get(11..19) {
        Some(time) => format!("{time} UTC"),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Scheme;

    #[test]
    fn times_and_servers_are_told_in_short() {
        assert_eq!(time_of_day(1_700_000_000_000), "22:13:20 UTC");
        let server = |host: &str| Server { scheme: Scheme::Http, host: host.into(), port: 1 };
        assert_eq!(server("10.0.0.7").authority(), "10.0.0.7:1");
        assert_eq!(server("::1").authority(), "[::1]:1");
        let blown = BreakerTrip { in_a_row: 5, ..BreakerTrip::default() };
        let of = of_fuse(&blown, &[server("a")], Duration::ZERO);
        assert_eq!(
            (&of["server"], &of["new"]["bad"], &of["stable"]),
            (&json!("a:1"), &json!(5), &Value::Null)
        );
        assert_eq!(of_fuse(&blown, &[server("a"), server("b")], Duration::ZERO)["one_server"], false);
    }
}
