//! The breaker of a release: it counts connections that the servers of `new` refuse, and trips the
//! release when `new` is unreachable and stable answers.
//!
//! Invariant: only requests that were decided for `new`, and have not failed over, count.

use super::record::RequestRecord;
use crate::domain::breaker::BreakerTrip;
use crate::domain::config::WatchdogMode;
use crate::domain::verdict::Cause;
use crate::runtime::shared::{ChangeOrigin, StableSign, TripCall};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::arm::Arm;
use crate::store::audit::evidence;
use crate::upstream::server::UpstreamState;
use std::sync::Arc;

/// The release whose breaker counts connections to `upstream`: only for `new`, not after a
/// fail-over.
pub fn counting_release<'a>(
    record: &'a RequestRecord,
    upstream: &UpstreamState,
) -> Option<&'a Arc<ReleaseSnapshot>> {
    record.release().filter(|r| record.arm() == Some(Arm::New) && Arc::ptr_eq(&r.new.load, &upstream.load))
}

/// A server refused a connection: it is skipped for a while, and the breaker counts it.
pub fn count_refusal(record: &RequestRecord, upstream: &UpstreamState, server: usize) {
    upstream.servers[server].refused();
    if let Some(release) = counting_release(record, upstream) {
        // Servers that are down get no request, so they need not have refused one.
        let out: Vec<bool> = upstream.servers.iter().map(|s| s.down()).collect();
        if let Some(breaker_trip) = release.counters.breaker.refused(server, &out, release.stable.last_sign())
        {
            trip_on_breaker(record, release, breaker_trip);
        }
    }
}

/// Stable has answered or failed after a fail-over: the breaker may have waited for that.
pub fn judge_after_fail_over(record: &RequestRecord) {
    if let Some(release) = record.release()
        && let Some(breaker_trip) = release.counters.breaker.judge(release.stable.last_sign())
    {
        trip_on_breaker(record, release, breaker_trip);
    }
}

/// `new` is unreachable, and stable answers: trips at once, so the next request goes to stable.
fn trip_on_breaker(record: &RequestRecord, release: &ReleaseSnapshot, breaker_trip: BreakerTrip) {
    let watchdog = &release.release.watchdog;
    if !watchdog.enabled || watchdog.mode == WatchdogMode::Report {
        return;
    }
    let call = TripCall {
        cause: Cause::Fuse,
        origin: ChangeOrigin { actor: "fuse".into(), reason: None },
        detail: describe_unusable(&release.new),
        evidence: evidence::breaker_evidence(
            breaker_trip,
            &release.new.config.servers,
            release.counters.breaker.since(),
        ),
        onset: Some(release.counters.breaker.since()),
        stable: StableSign::Answers,
    };
    // It may name a release of an earlier snapshot; a removed release needs no trip.
    let _ = record.worker().shared.trip(&release.release.name, call);
}

/// Why no server can be used. Those that probes found down were not connected to.
fn describe_unusable(new: &UpstreamState) -> String {
    let (mut refusing, mut down) = (vec![], vec![]);
    for server in &new.servers {
        match server.why_down() {
            Some(why) => down.push(format!("{} ({why})", server.server)),
            None => refusing.push(server.server.to_string()),
        }
    }
    let (refusing, failing) = (refusing.join(", "), down.join(", "));
    match (refusing.is_empty(), down.is_empty()) {
        (_, true) => format!("no server of new takes a connection ({refusing})"),
        (true, false) => format!("no server of new can be used: all fail their health probes: {failing}"),
        (false, false) => {
            format!(
                "no server of new can be used: no connection to {refusing}; down by health probes: {failing}"
            )
        }
    }
}
