//! Every kind of damage to a ledger is found, and an intact ledger passes.

use super::*;
use crate::domain::breaker::BreakerTrip;
use crate::domain::config::{Scheme, Server};
use crate::domain::verdict::METHOD;
use crate::store::audit::evidence::breaker_evidence;
use crate::store::ledger::{self, Ledger};
use crate::store::state::tests::scratch;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

fn entry(n: u64, kind: &str, cause: Option<&str>, evidence: Value) -> LedgerEntry {
    LedgerEntry {
        n,
        at: "2026-01-01T00:00:00.000Z".into(),
        release: Some("r".into()),
        attempt: Some(1),
        kind: kind.into(),
        cause: cause.map(str::to_owned),
        actor: "watchdog".into(),
        reason: Some("ümläut \"quoted\" \u{1f600}".into()),
        detail: "d".into(),
        weight_before: Some(5.0),
        weight_after: Some(if kind == "trip" { 0.0 } else { 0.1 + 0.2 }),
        held: Some(false),
        under_way: None,
        membership: None,
        evidence,
        method: Some(METHOD),
        prev: String::new(),
        hash: String::new(),
        rebuilt: false,
    }
}

/// An intact ledger: weights, a trip, a resume, one line that a crash had lost.
fn honest() -> Vec<Vec<u8>> {
    let breaker_trip =
        BreakerTrip { in_a_row: 5, servers: vec![(5, false)], dead_ms: 9, stable_ms: 9, now_ms: 10 };
    let server = Server { scheme: Scheme::Http, host: "a".into(), port: 80 };
    let mut entries = vec![
        entry(1, "start", None, Value::Null),
        entry(2, "weight", None, json!({"x": 1e-7, "y": [1.5, 2]})),
        entry(3, "trip", Some("fuse"), breaker_evidence(breaker_trip, &[server], Duration::ZERO)),
        entry(4, "resume", None, Value::Null),
        entry(5, "trip", Some("manual"), Value::Null),
        entry(6, "start", None, Value::Null),
    ];
    let mut prev = ORIGIN.to_owned();
    for entry in &mut entries {
        chain::seal(entry, &prev).unwrap();
        prev = entry.hash.clone();
    }
    entries[3].rebuilt = true;
    entries.iter().map(|e| (serde_json::to_string(e).unwrap() + "\n").into_bytes()).collect()
}

fn end(lines: &[Vec<u8>]) -> LedgerTail {
    let last: LedgerEntry = serde_json::from_slice(lines.last().unwrap()).unwrap();
    LedgerTail { n: last.n, hash: last.hash }
}

fn verified(bytes: &[u8], known: Option<&LedgerTail>) -> VerifyReport {
    let mut verifier = Verifier::new(None);
    bytes.split_inclusive(|b| *b == b'\n').for_each(|line| verifier.line(line));
    verifier.finish(known)
}

#[test]
fn an_honest_ledger_is_sound_and_its_verdicts_are_found_again() {
    let lines = honest();
    let report = verified(&lines.concat(), Some(&end(&lines)));
    assert!(report.sound(), "{:?}", report.faults);
    assert_eq!((report.first, report.last, report.unchained_to), (1, 6, 0));
    assert_eq!((report.verdicts, report.by_hand, report.unknown), (1, 1, 0));
    assert_eq!(report.head, end(&lines).hash);
}

#[test]
fn every_single_byte_that_is_flipped_is_found() {
    let lines = honest();
    let (whole, known) = (lines.concat(), end(&lines));
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            for known in [Some(&known), None] {
                // Without the state file a torn end is found as well; so the one exception is an
                // empty ledger.
                let report = verified(&bytes, known);
                assert!(!report.sound(), "byte {at}, bit {bit}: {}", String::from_utf8_lossy(&bytes));
            }
        }
    }
}

#[test]
fn lines_that_are_removed_swapped_doubled_or_cut_off_are_found_and_named() {
    let lines = honest();
    let known = end(&lines);
    let told = |lines: &[Vec<u8>]| {
        let report = verified(&lines.concat(), Some(&known));
        let first = report.faults.first().unwrap_or_else(|| panic!("found nothing in {} lines", lines.len()));
        (first.line, first.what.clone())
    };
    let mut removed = lines.clone();
    removed.remove(2);
    assert_eq!(
        told(&removed),
        (3, "entry 3 is missing before entry 4: lines were removed or swapped".into())
    );
    assert!(told(&lines[2..]).1.contains("begins at entry 3: entries 1 to 2 are missing"));
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    assert_eq!(told(&swapped).0, 2);
    let mut doubled = lines.clone();
    doubled.insert(2, lines[1].clone());
    assert!(told(&doubled).1.contains("entry 2 stands after entry 2"));
    assert!(told(&lines[..4]).1.contains("ends at entry 4, the state file knows entry 6"));
    assert!(told(&[]).1.contains("the ledger is empty"));
    // A changed line end: the next line becomes part of it.
    let mut torn = lines.concat();
    torn.truncate(torn.len() - 5);
    assert!(verified(&torn, Some(&known)).faults[0].what.contains("it has no end"));
}

#[test]
fn a_ledger_written_anew_fits_itself_and_neither_the_state_nor_a_noted_hash() {
    let lines = honest();
    let known = end(&lines);
    let mut entries: Vec<LedgerEntry> = lines.iter().map(|l| serde_json::from_slice(l).unwrap()).collect();
    entries[1].actor = "nobody".into();
    let mut prev = ORIGIN.to_owned();
    for entry in &mut entries {
        chain::seal(entry, &prev).unwrap();
        prev = entry.hash.clone();
    }
    let forged: Vec<Vec<u8>> =
        entries.iter().map(|e| (serde_json::to_string(e).unwrap() + "\n").into_bytes()).collect();
    assert!(verified(&forged.concat(), None).sound());
    assert!(
        verified(&forged.concat(), Some(&known)).faults[0]
            .what
            .contains("not the one that the state file knows")
    );
    let mut verifier = Verifier::new(Some(known.hash.clone()));
    forged.iter().for_each(|line| verifier.line(line));
    assert!(verifier.finish(None).faults[0].what.contains("noted elsewhere"));
    let mut verifier = Verifier::new(Some(known.hash.clone()));
    lines.iter().for_each(|line| verifier.line(line));
    assert_eq!(verifier.finish(None).anchor, Some(6));
}

#[test]
fn one_line_that_is_replaced_does_not_fit_the_next_even_if_its_own_hash_does() {
    let mut lines = honest();
    let mut forged: LedgerEntry = serde_json::from_slice(&lines[1]).unwrap();
    forged.actor = "nobody".into();
    let prev = forged.prev.clone();
    chain::seal(&mut forged, &prev).unwrap();
    lines[1] = (serde_json::to_string(&forged).unwrap() + "\n").into_bytes();
    let report = verified(&lines.concat(), None);
    let what = "entry 3 does not follow from the line before it: one of the two was replaced";
    assert_eq!(report.faults, [LedgerFault { line: 3, what: what.into() }]);
}

#[test]
fn a_verdict_that_does_not_follow_from_its_evidence_is_found_in_a_chain_that_fits() {
    let breaker_trip =
        BreakerTrip { in_a_row: 4, servers: vec![(5, false)], dead_ms: 9, stable_ms: 9, now_ms: 10 };
    let mut forged = entry(1, "trip", Some("fuse"), breaker_evidence(breaker_trip, &[], Duration::ZERO));
    chain::seal(&mut forged, ORIGIN).unwrap();
    let report = verified((serde_json::to_string(&forged).unwrap() + "\n").as_bytes(), None);
    assert!(report.faults[0].what.contains("does not follow from its evidence"), "{:?}", report.faults);
}

#[test]
fn an_entry_of_another_method_is_counted_and_not_recomputed() {
    let breaker_trip =
        BreakerTrip { in_a_row: 4, servers: vec![(5, false)], dead_ms: 9, stable_ms: 9, now_ms: 10 };
    let mut of_later = entry(1, "trip", Some("fuse"), breaker_evidence(breaker_trip, &[], Duration::ZERO));
    of_later.method = Some(METHOD + 1);
    chain::seal(&mut of_later, ORIGIN).unwrap();
    let line = serde_json::to_string(&of_later).unwrap() + "\n";
    let report = verified(line.as_bytes(), None);
    assert!(report.sound(), "{:?}", report.faults);
    assert_eq!((report.verdicts, report.other_methods), (0, [(METHOD + 1, 1)].into()));
}

#[test]
fn the_weights_of_an_entry_must_be_those_of_its_verdict() {
    let breaker_trip =
        BreakerTrip { in_a_row: 5, servers: vec![(5, false)], dead_ms: 9, stable_ms: 9, now_ms: 10 };
    for (kind, after, follows) in
        [("trip", 0.0, true), ("trip", 5.0, false), ("freeze", 5.0, true), ("freeze", 0.0, false)]
    {
        let mut decided =
            entry(1, kind, Some("fuse"), breaker_evidence(breaker_trip.clone(), &[], Duration::ZERO));
        decided.weight_after = Some(after);
        chain::seal(&mut decided, ORIGIN).unwrap();
        let report = verified((serde_json::to_string(&decided).unwrap() + "\n").as_bytes(), None);
        assert_eq!(report.sound(), follows, "{kind} {after}: {:?}", report.faults);
    }
}

/// As the previous version wrote it.
fn old(n: u64) -> String {
    json!({"n": n, "at": "2025-01-01T00:00:00Z", "release": "r", "attempt": 1, "kind": "trip", "actor": "watchdog", "reason": null,
           "detail": "errors: new 41 of 812", "weight_before": 5.0, "weight_after": 0.0, "evidence": {"e_value": 1.0}})
    .to_string()
        + "\n"
}

#[test]
fn a_ledger_of_the_version_before_goes_on_as_a_chain_that_holds_what_stood_there() {
    let dir = scratch("ledger-old");
    std::fs::write(dir.join(ledger::FILE), old(1) + &old(2)).unwrap();
    let mut ledger = Ledger::open(&dir).unwrap();
    assert_eq!(ledger.last(), 2);
    // A line lost in a crash, from the state file of that version.
    ledger.append(&[serde_json::from_str(&old(3)).unwrap()]).unwrap();
    let mut next = entry(4, "start", None, Value::Null);
    chain::seal(&mut next, &ledger.end().hash).unwrap();
    ledger.append(&[next.clone()]).unwrap();
    assert_eq!(Ledger::open(&dir).unwrap().end(), &LedgerTail { n: 4, hash: next.hash.clone() });
    let bytes = std::fs::read(ledger.path()).unwrap();
    let report = verified(&bytes, Some(ledger.end()));
    assert!(report.sound(), "{:?}", report.faults);
    assert_eq!((report.unchained_to, report.last, report.unknown), (3, 4, 3));
    // From now on the chain protects them too.
    let changed = String::from_utf8(bytes).unwrap().replacen("41 of 812", "14 of 812", 1);
    assert!(verified(changed.as_bytes(), None).faults[0].what.contains("without hashes, up to 3"));
    // A ledger without any hash is accepted as such.
    let report = verified((old(1) + &old(2)).as_bytes(), Some(&LedgerTail { n: 2, hash: String::new() }));
    assert!(report.sound(), "{:?}", report.faults);
    assert_eq!((report.unchained_to, report.head.as_str()), (2, ""));
}

proptest! {
    #[test]
    fn an_entry_that_is_read_and_written_again_is_the_same_line(
        reason in prop::option::of(".{0,30}"), detail in ".{0,30}", weight: f64, e: f64, small in 0.0f64..1.0, n: u64,
    ) {
        prop_assume!(weight.is_finite());
        let evidence = json!({"z": e, "a": {"nested": [small, n, -1, null]}, "text": detail});
        let mut first = LedgerEntry { reason, detail, weight_after: Some(weight), ..entry(1, "trip", None, evidence) };
        chain::seal(&mut first, ORIGIN).unwrap();
        let line = serde_json::to_string(&first).unwrap();
        // A rebuilt line comes from the state file.
        let pretty = serde_json::to_string_pretty(&first).unwrap();
        let again: LedgerEntry = serde_json::from_str(&pretty).unwrap();
        prop_assert_eq!(serde_json::to_string(&again).unwrap(), line.clone());
        prop_assert!(chain::split(line.as_bytes()).unwrap().fits());
        let rebuilt = serde_json::to_string(&LedgerEntry { rebuilt: true, ..again }).unwrap();
        prop_assert!(chain::split(rebuilt.as_bytes()).unwrap().fits());
    }

    #[test]
    fn damage_is_told_and_never_a_panic(bytes in crate::mutate::damaged(
        [honest().concat()], ["\n", "{", "}", "\"n\":7,", "\"n\":18446744073709551615,", "\"n\":0", "null", "inf", "\"hash\":\"", ",\"rebuilt\":true}"],
    )) {
        let lines = honest();
        let report = verified(&bytes, Some(&end(&lines)));
        prop_assert_eq!(report.sound(), bytes == lines.concat(), "{:?}", report.faults);
    }
}
