//! Reconstructs who was in `new` and when, from the ledger alone: lays out the entries of one
//! release in time, and follows a user along them.
//!
//! Invariants: pure, and never a guess: a stretch for which the ledger's data are incomplete is
//! `Unclear`, with the reason. Times are wall clock times of the entries, in milliseconds since
//! 1970. A request under way at that time was decided by the entry before.

use crate::domain::segment::UserSet;
use crate::stats::cohort::Weight;
use crate::store::ledger::LedgerEntry;
use crate::store::membership::{Lookup, Membership, WasInNew};
use std::collections::BTreeSet;
use std::sync::Arc;

/// The state between two entries.
#[derive(Clone, Debug)]
pub struct TimelineSpan {
    pub from_ms: i64,
    /// For the last one: the end of the requested period.
    pub to_ms: i64,
    /// The entry that began it.
    pub entry: u64,
    pub attempt: Option<u64>,
    pub weight: Weight,
    /// No user was in `new`; `None`: an earlier version did not record it.
    pub held: Option<bool>,
    /// `None`: likewise.
    pub membership: Option<Arc<Membership>>,
}

/// A period of one user in `new`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stay {
    pub from_ms: i64,
    pub to_ms: i64,
    /// Why it is not certain; empty: it is certain.
    pub unclear: Vec<String>,
}

/// Exchanges that were under way on `new` when a hold began, and continued.
#[derive(Clone, Debug)]
pub struct LeftOver {
    /// The state before the hold.
    before: Option<TimelineSpan>,
    pub from_ms: i64,
    /// The end of the last exchange, or of the hold; `None`: the ledger has no end.
    pub until_ms: Option<i64>,
    pub requests: u64,
}

#[derive(Debug, Default)]
pub struct Timeline {
    pub stretches: Vec<TimelineSpan>,
    pub left_over: Vec<LeftOver>,
    /// The end of the requested period.
    pub until_ms: i64,
    /// The first entry of the release; `None`: there is none.
    pub begins_ms: Option<i64>,
    /// Entries with a time before that of the previous entry: the clock went back.
    pub clock_went_back: Vec<u64>,
    /// Starts of the proxy within the period: it had not been running for some time before.
    pub starts_ms: Vec<i64>,
}

impl Timeline {
    /// The timeline of `release` between two times.
    /// `entries`: the whole ledger, in order.
    pub fn of<'a>(
        entries: impl Iterator<Item = &'a LedgerEntry>,
        release: &str,
        since_ms: i64,
        until_ms: i64,
    ) -> Timeline {
        let mut timeline = Timeline { until_ms, ..Timeline::default() };
        let (mut membership, mut last_ms) = (None, i64::MIN);
        let mut all: Vec<TimelineSpan> = vec![];
        for entry in entries.filter(|e| e.release.as_deref() == Some(release)) {
            let Some(at_ms) = at_ms(&entry.at) else { continue };
            // They have ended, or users are let in again, or the process that had them is gone.
            let over = entry.kind == "drained" || entry.held == Some(false) || entry.kind == "start";
            if over && let Some(left) = timeline.left_over.last_mut().filter(|l| l.until_ms.is_none()) {
                left.until_ms = Some(at_ms);
                left.requests = left.requests.max(entry.evidence["requests"].as_u64().unwrap_or(0));
            }
            if let Some(requests) = entry.under_way {
                let before = all.last().cloned();
                timeline.left_over.push(LeftOver { before, from_ms: at_ms, until_ms: None, requests });
            }
            let Some(weight) = entry.weight_after else { continue };
            if at_ms < last_ms {
                timeline.clock_went_back.push(entry.n);
            }
            last_ms = at_ms;
            timeline.begins_ms.get_or_insert(at_ms);
            if entry.kind == "start" && (since_ms..until_ms).contains(&at_ms) {
                timeline.starts_ms.push(at_ms);
            }
            if let Some(told) = &entry.membership {
                membership = Some(Arc::new(told.clone()));
            } else if entry.held.is_none() {
                membership = None;
            }
            if let Some(before) = all.last_mut() {
                // If the clock went back, the stretch covers all times in between: an overlap is
                // better than a missed user.
                (before.from_ms, before.to_ms) = (before.from_ms.min(at_ms), before.from_ms.max(at_ms));
            }
            // Rounded: a weight has four decimals, and fits.
            let parts = (weight * 10_000.0).round().clamp(0.0, 1e6) as u32;
            all.push(TimelineSpan {
                from_ms: at_ms,
                to_ms: i64::MAX,
                entry: entry.n,
                attempt: entry.attempt,
                weight: Weight::from_parts(parts),
                held: entry.held,
                membership: membership.clone(),
            });
        }
        let within = |l: &LeftOver| l.from_ms < until_ms && l.until_ms.is_none_or(|end| end > since_ms);
        timeline.left_over.retain(within);
        for left in &mut timeline.left_over {
            left.from_ms = left.from_ms.max(since_ms);
            left.until_ms = left.until_ms.map(|end| end.min(until_ms));
        }
        timeline.stretches = all
            .into_iter()
            .map(|s| TimelineSpan { from_ms: s.from_ms.max(since_ms), to_ms: s.to_ms.min(until_ms), ..s })
            .filter(|s| s.from_ms < s.to_ms)
            .collect();
        timeline
    }

    /// When a user was, or may have been, in `new`. `user`: the id as in a request.
    pub fn follow(&self, user: &[u8], lookup: &Lookup<'_>) -> Vec<Stay> {
        let mut parts: Vec<Stay> = vec![];
        for stretch in &self.stretches {
            let Some(unclear) = stretch.has(user, lookup) else { continue };
            match parts.last_mut().filter(|last| last.to_ms == stretch.from_ms && last.unclear == unclear) {
                Some(last) => last.to_ms = stretch.to_ms,
                None => parts.push(Stay { from_ms: stretch.from_ms, to_ms: stretch.to_ms, unclear }),
            }
        }
        for left in &self.left_over {
            let was_in = left.before.as_ref().and_then(|before| before.has(user, lookup));
            let Some(mut unclear) = was_in else { continue };
            let to_ms = left.until_ms.unwrap_or(self.until_ms);
            unclear.push(format!(
                "{} requests of users who were in new were still under way: whose, the ledger does not say",
                left.requests
            ));
            parts.push(Stay { from_ms: left.from_ms, to_ms, unclear });
        }
        parts.sort_by_key(|part| part.from_ms);
        parts
    }

    /// The numbers of a user that [`Timeline::follow`] looks up under a key.
    pub fn numbers(&self, user: &[u8]) -> BTreeSet<u64> {
        let before = self.left_over.iter().filter_map(|left| left.before.as_ref());
        let stretches = self.stretches.iter().chain(before).filter(|s| s.held != Some(true));
        let keyed = stretches.filter_map(|s| s.membership.as_deref());
        let keyed = keyed.filter(|m| !m.key.is_empty());
        keyed.filter_map(|m| m.normalised(user).map(|id| UserSet::hash(&id))).collect()
    }

    pub fn attempts(&self) -> Vec<u64> {
        let mut attempts: Vec<u64> = self.stretches.iter().filter_map(|s| s.attempt).collect();
        attempts.sort_unstable();
        attempts.dedup();
        attempts
    }
}

impl TimelineSpan {
    /// `None`: the user was not in `new`. Else why that is uncertain; empty: it is certain.
    fn has(&self, user: &[u8], lookup: &Lookup<'_>) -> Option<Vec<String>> {
        if self.held == Some(true) {
            return None;
        }
        let (Some(membership), Some(false)) = (&self.membership, self.held) else {
            let why =
                format!("an earlier version wrote entry {}, which does not say who is in new", self.entry);
            return Some(vec![why]);
        };
        let id = membership.normalised(user)?;
        match membership.was_in(&id, self.weight, lookup) {
            WasInNew::In => Some(vec![]),
            WasInNew::Out => None,
            WasInNew::Unclear { otherwise, segments } => {
                let otherwise = if otherwise { "was in new" } else { "was not in new" };
                Some(
                    segments
                        .iter()
                        .map(|name| format!("unless segment {name} decided, this user {otherwise}"))
                        .collect(),
                )
            }
        }
    }
}

/// The time of an entry.
pub fn at_ms(at: &str) -> Option<i64> {
    at.parse::<jiff::Timestamp>().ok().map(|t| t.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::clock;
    use serde_json::json;

    fn entry(
        n: u64,
        at_ms: i64,
        kind: &str,
        weight: f64,
        held: Option<bool>,
        membership: bool,
    ) -> LedgerEntry {
        let membership = membership.then(|| {
            json!({"salt": "s", "normalise": "none", "id_bytes_max": 256, "excluded": [],
                   "segments": [{"name": "by-header", "users": 0, "numbers": [], "by_request": true}]})
        });
        serde_json::from_value(json!({
            "n": n, "at": clock::rfc3339(at_ms), "release": "r", "attempt": 1, "kind": kind, "actor": "file", "detail": "",
            "weight_after": weight, "held": held, "membership": membership,
        }))
        .unwrap()
    }

    /// Users by the weight at which they enter: below 5%, between 5% and 20%, above.
    fn users() -> [String; 3] {
        let salt = crate::stats::cohort::Salt::new("s");
        let of = |range: std::ops::Range<u32>| {
            let mut all = (0..).map(|i| format!("u{i}"));
            all.find(|u| range.contains(&salt.bucket(u.as_bytes()).index())).unwrap()
        };
        [of(0..50_000), of(50_000..200_000), of(200_000..1_000_000)]
    }

    #[test]
    fn who_was_in_new_may_have_stayed_until_the_last_exchange_that_a_hold_found_has_ended() {
        let held = |under_way: u64| LedgerEntry {
            under_way: Some(under_way),
            ..entry(2, 2_000, "trip", 0.0, Some(true), false)
        };
        let drained = LedgerEntry {
            weight_after: None,
            evidence: json!({"requests": 4}),
            ..entry(3, 2_500, "drained", 0.0, Some(true), false)
        };
        let entries = [entry(1, 1_000, "start", 5.0, Some(false), true), held(3), drained];
        let [inside, _, outside] = users();
        let none = Lookup::NOTHING;
        let timeline = Timeline::of(entries.iter(), "r", 0, 9_000);
        let parts = timeline.follow(inside.as_bytes(), &none);
        let times: Vec<_> = parts.iter().map(|p| (p.from_ms, p.to_ms)).collect();
        assert_eq!(times, [(1_000, 2_000), (2_000, 2_500)]);
        assert!(parts[1].unclear.last().unwrap().starts_with("4 requests"), "{parts:?}");
        // A header may have let in a user of stable: the result says so.
        let of_stable = timeline.follow(outside.as_bytes(), &none);
        assert!(of_stable.iter().all(|part| !part.unclear.is_empty()), "{of_stable:?}");
        // Outside of the requested period, and not over yet.
        assert!(Timeline::of(entries.iter(), "r", 3_000, 9_000).left_over.is_empty());
        let going_on = Timeline::of(entries[..2].iter(), "r", 0, 9_000);
        assert_eq!(going_on.follow(inside.as_bytes(), &none)[1].to_ms, 9_000);
    }

    #[test]
    fn a_user_is_followed_over_weights_holds_and_restarts() {
        let entries = [
            entry(1, 1_000, "start", 5.0, Some(false), true),
            entry(2, 2_000, "weight", 20.0, Some(false), false),
            entry(3, 3_000, "trip", 0.0, Some(true), false),
            entry(4, 4_000, "start", 0.0, Some(true), true),
            entry(5, 5_000, "resume", 5.0, Some(false), false),
        ];
        let timeline = Timeline::of(entries.iter(), "r", 1_500, 6_000);
        assert_eq!((timeline.begins_ms, &timeline.starts_ms[..]), (Some(1_000), &[4_000][..]));
        let parts = |user: &str| -> Vec<(i64, i64, bool)> {
            let parts = timeline.follow(user.as_bytes(), &Lookup::NOTHING);
            parts.into_iter().map(|p| (p.from_ms, p.to_ms, p.unclear.is_empty())).collect()
        };
        let [low, middle, high] = users();
        assert_eq!(parts(&low), [(1_500, 3_000, true), (5_000, 6_000, true)]);
        // A header may have let these in: the ledger does not record headers.
        assert_eq!(parts(&middle), [(1_500, 2_000, false), (2_000, 3_000, true), (5_000, 6_000, false)]);
        assert_eq!(parts(&high), [(1_500, 3_000, false), (5_000, 6_000, false)]);
        assert!(Timeline::of(entries.iter(), "other", 0, 9_000).begins_ms.is_none());
    }

    #[test]
    fn what_an_earlier_version_did_not_tell_is_unclear() {
        let entries =
            [entry(1, 1_000, "start", 5.0, None, false), entry(2, 2_000, "start", 5.0, Some(false), true)];
        let timeline = Timeline::of(entries.iter(), "r", 0, 3_000);
        let parts = timeline.follow(users()[0].as_bytes(), &Lookup::NOTHING);
        assert_eq!(parts.len(), 2);
        assert!(parts[0].unclear[0].contains("entry 1") && parts[1].unclear.is_empty(), "{parts:?}");
    }

    #[test]
    fn a_clock_that_is_put_back_loses_nobody() {
        let entries = [
            entry(1, 5_000, "start", 5.0, Some(false), true),
            entry(2, 2_000, "trip", 0.0, Some(true), false),
            entry(3, 6_000, "resume", 20.0, Some(false), false),
        ];
        let timeline = Timeline::of(entries.iter(), "r", 0, 9_000);
        assert_eq!(timeline.clock_went_back, [2]);
        let parts = timeline.follow(users()[0].as_bytes(), &Lookup::NOTHING);
        let times: Vec<_> = parts.iter().map(|p| (p.from_ms, p.to_ms)).collect();
        assert_eq!(times, [(2_000, 5_000), (6_000, 9_000)]);
    }
}
