//! Verifies a ledger: recomputes the chain, and each verdict from its recorded grounds.
//!
//! A verdict is compared by names, codes and numbers, never by its sentences, which may be
//! reworded.
//! An entry of another method ([`crate::domain::verdict::METHOD`]) is counted, not recomputed.
//!
//! Lines come one by one, from a file or over the wire.
//! Invariants: a changed byte, and a missing, extra, swapped or cut line is a fault, reported with
//! its line number and a description.
//! Damage is no error: the rest is still verified.
//! An end cut off at the end of a line can be detected only with the state file's (or the running
//! proxy's) last entry: [`Verifier::finish`].

use super::evidence::{self, RecomputedVerdict};
use crate::domain::digest::{Digest, hex};
use crate::domain::verdict::Cause;
use crate::store::chain::{self, ORIGIN};
use crate::store::ledger::{LedgerEntry, LedgerTail};
use std::collections::BTreeMap;
use std::fmt::Display;

/// The most faults listed; more are counted.
const FAULTS_TOLD_MAX: usize = 20;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerFault {
    /// From 1; 0: the ledger as a whole.
    pub line: u64,
    pub what: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    pub lines: u64,
    /// Numbers of the first entry and the last.
    pub first: u64,
    pub last: u64,
    /// The last entry written without hashes; 0: none.
    pub unchained_to: u64,
    /// Hash of the last entry; empty: it has none.
    pub head: String,
    /// Verdicts that were recomputed, those decided by persons, and those recorded by a version
    /// that stored too little.
    pub verdicts: u64,
    pub by_hand: u64,
    pub unknown: u64,
    /// Entries judged by another method, which are not recomputed: by its number.
    pub other_methods: BTreeMap<u32, u64>,
    pub faults: Vec<LedgerFault>,
    /// Faults beyond those listed.
    pub more: u64,
    /// The entry that has the anchor hash.
    pub anchor: Option<u64>,
}

impl VerifyReport {
    pub fn sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// All faults are at the end: an entry may be about to be written.
    pub fn may_be_unfinished(&self) -> bool {
        !self.sound() && self.faults.iter().all(|fault| fault.line == 0 || fault.line == self.lines)
    }

    fn fault(&mut self, line: u64, what: impl Into<String>) {
        match self.faults.len() < FAULTS_TOLD_MAX {
            true => self.faults.push(LedgerFault { line, what: what.into() }),
            false => self.more += 1,
        }
    }
}

/// Takes the lines of a ledger in order.
pub struct Verifier {
    report: VerifyReport,
    /// The expected `prev` of the next line; `None`: unknown after the previous line.
    prev: Option<String>,
    /// Unreadable lines since the last readable one.
    unreadable: u64,
    chained: bool,
    unchained: Digest,
    anchor: Option<String>,
}

impl Verifier {
    /// `anchor`: a hash that was noted elsewhere, and must occur.
    pub fn new(anchor: Option<String>) -> Verifier {
        Verifier {
            report: VerifyReport::default(),
            prev: Some(ORIGIN.to_owned()),
            unreadable: 0,
            chained: false,
            unchained: Digest::default(),
            anchor,
        }
    }

    /// The next line, with its end.
    pub fn line(&mut self, bytes: &[u8]) {
        self.report.lines += 1;
        let line = self.report.lines;
        let Some(text) = bytes.strip_suffix(b"\n") else {
            self.report.fault(line, "it has no end: a crash in the middle of writing it, or its last byte was changed (the next start of the proxy cuts it off, and writes the entry again)");
            return;
        };
        let sealed = chain::split(text);
        let Ok(entry) = serde_json::from_slice::<LedgerEntry>(text) else {
            if !self.chained {
                self.unchained.add(bytes);
            }
            self.report.fault(line, "this is not an entry: it was changed or cut");
            self.unreadable += 1;
            self.prev = sealed.map(|sealed| sealed.hash.to_owned());
            return;
        };
        self.number(line, entry.n);
        match sealed {
            Some(sealed) => {
                self.follows(line, &entry);
                if !sealed.fits() {
                    self.report.fault(
                        line,
                        format!("entry {} was changed: its hash does not fit its text", entry.n),
                    );
                }
                if self.anchor.as_deref() == Some(sealed.hash) {
                    self.report.anchor = Some(entry.n);
                }
                self.prev = Some(sealed.hash.to_owned());
                self.report.head = sealed.hash.to_owned();
                self.chained = true;
            }
            None if self.chained || !entry.hash.is_empty() => {
                self.report.fault(
                    line,
                    format!("entry {} has no hash at its end: it was changed, or put there", entry.n),
                );
                self.prev = None;
            }
            None => {
                self.unchained.add(bytes);
                self.report.unchained_to = entry.n;
            }
        }
        self.verdict(line, &entry);
    }

    fn number(&mut self, line: u64, n: u64) {
        let last = self.report.last;
        // Unreadable lines may be the missing entries, or may have been written again since.
        let next = last.saturating_add(1);
        let what = match n {
            _ if self.report.first == 0 && self.unreadable == 0 && n > 1 => Some(format!(
                "the ledger begins at entry {n}: {} {} missing before it",
                range(1, n - 1),
                if n == 2 { "is" } else { "are" }
            )),
            n if n <= last || n == 0 => {
                Some(format!("entry {n} stands after entry {last}: lines were swapped or put there twice"))
            }
            n if n > next.saturating_add(self.unreadable) => Some(format!(
                "{} {} missing before entry {n}: lines were removed or swapped",
                range(next, n - 1),
                if next == n - 1 { "is" } else { "are" }
            )),
            _ => None,
        };
        if let Some(what) = what {
            self.report.fault(line, what);
            // The predecessor is then unknown.
            self.prev = None;
        }
        if self.report.first == 0 {
            self.report.first = n;
        }
        (self.report.last, self.unreadable) = (last.max(n), 0);
    }

    fn follows(&mut self, line: u64, entry: &LedgerEntry) {
        let n = entry.n;
        if !self.chained && self.report.unchained_to > 0 {
            let unchained = hex(&std::mem::take(&mut self.unchained).finish());
            if entry.prev != unchained {
                let what = format!(
                    "the entries without hashes, up to {}, are not what they were when entry {n} was written",
                    self.report.unchained_to
                );
                self.report.fault(line, what);
            }
        } else if self.prev.as_ref().is_some_and(|prev| *prev != entry.prev) {
            let what = match n {
                1 => "entry 1 is said to follow another one".to_owned(),
                _ => {
                    format!("entry {n} does not follow from the line before it: one of the two was replaced")
                }
            };
            self.report.fault(line, what);
        }
    }

    fn verdict(&mut self, line: u64, entry: &LedgerEntry) {
        let verdict = matches!(&*entry.kind, "trip" | "freeze");
        // Entries from before the field `cause` have the cause in front of the detail.
        let named = || entry.detail.split(':').next().filter(|name| verdict && Cause::parse(name).is_some());
        let found = evidence::again(entry.cause.as_deref().or_else(named), entry.method, &entry.evidence);
        let fault = |why: &dyn Display| format!("the verdict of entry {}: {why}", entry.n);
        match (found, weights(entry)) {
            (RecomputedVerdict::Other(why), _) => self.report.fault(line, fault(&why)),
            (RecomputedVerdict::Same | RecomputedVerdict::ByHand, Some(why)) => {
                self.report.fault(line, fault(&why))
            }
            (RecomputedVerdict::None, _) if verdict => self.report.unknown += 1,
            (RecomputedVerdict::None, _) => {}
            (RecomputedVerdict::ByHand, _) => self.report.by_hand += 1,
            (RecomputedVerdict::Same, _) => self.report.verdicts += 1,
            (RecomputedVerdict::Unknown, _) => self.report.unknown += 1,
            (RecomputedVerdict::OtherMethod(method), _) => {
                *self.report.other_methods.entry(method).or_default() += 1
            }
        }
    }

    /// Ends the verification. `known`: the last entry by the state file, or by the running proxy.
    pub fn finish(mut self, known: Option<&LedgerTail>) -> VerifyReport {
        let (last, report) = (self.report.last, &mut self.report);
        match known {
            Some(known) if known.n > last => {
                let what = match last {
                    0 => format!("the ledger is empty; the state file knows entry {}", known.n),
                    _ => format!(
                        "the ledger ends at entry {last}, the state file knows entry {}: the end was cut off, or a crash lost it (then the next start of the proxy writes it again)",
                        known.n
                    ),
                };
                report.fault(0, what);
            }
            Some(known) if known.n < last => report.fault(
                0,
                format!(
                    "the ledger goes on to entry {last}, the state file knows only {}: one of the two was put back from a copy",
                    known.n
                ),
            ),
            Some(known) if !known.hash.is_empty() && known.hash != report.head => {
                report.fault(0, format!("the last entry, {last}, is not the one that the state file knows"));
            }
            _ => {}
        }
        if let (Some(anchor), None) = (&self.anchor, report.anchor) {
            report.fault(
                0,
                format!(
                    "no entry has the hash {anchor}, which was noted elsewhere: the ledger was written anew"
                ),
            );
        }
        self.report
    }
}

/// Why the weights of an entry do not match its verdict; `None`: they do.
fn weights(entry: &LedgerEntry) -> Option<String> {
    let (before, after) = (entry.weight_before?, entry.weight_after?);
    let decision = entry.evidence["gates"]["decision"].as_str();
    let wanted = match (&*entry.kind, decision) {
        ("trip", _) => 0.0,
        ("freeze", _) | (_, Some("hold")) => before,
        // With the last wave, the users held back join.
        (_, Some("finish")) => entry.evidence["wave"]["weight"].as_f64().unwrap_or(before),
        (_, Some("open" | "promote")) => {
            let held_back = entry.evidence["wave"]["held_back"].as_f64().unwrap_or(0.0);
            entry.evidence["wave"]["weight"].as_f64()? - held_back
        }
        _ => return None,
    };
    // Weights have four decimals.
    ((after - wanted).abs() > 1e-5)
        .then(|| format!("{after}% of users are recorded to be in new after it, {wanted}% follow from it"))
}

fn range(from: u64, to: u64) -> String {
    if from == to { format!("entry {from}") } else { format!("entries {from} to {to}") }
}

#[cfg(test)]
mod tests;
