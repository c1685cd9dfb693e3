//! The append-only record of decisions: `ledger.jsonl` in the state directory, one JSON object per
//! line, each chained to the one before ([`super::chain`]).
//!
//! Invariants: numbers grow by one. A line is on disk before `append` returns. A torn last line (a
//! crash during a write) is cut off when the file is opened, and the entry is written again from
//! the state file with the same hash. Lines of a version without hashes are read and stay
//! unchanged.

use super::chain;
use super::membership::Membership;
use crate::domain::digest::{Digest, hex};
use crate::store::permissions::private_file;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

pub const FILE: &str = "ledger.jsonl";

/// The most entries in one response of the admin API.
pub const READ_MAX: usize = 10_000;

/// One decision. Weights are percentages, `at` is RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    pub n: u64,
    pub at: String,
    /// `null`: the entry belongs to no single release.
    #[serde(default)]
    pub release: Option<String>,
    #[serde(default)]
    pub attempt: Option<u64>,
    /// The decision: `start`, `weight`, `membership`, `attempt`, `trip`, `freeze`, `resume`,
    /// `wave`, `pause`, `promote`, `stop`, `unstop`, `removed`, `drained`.
    pub kind: String,
    /// The cause of a trip or a freeze.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// `file`, `watchdog`, `breaker`, `waves`, `proxy`, or the name of a token.
    pub actor: String,
    /// As a person entered it.
    #[serde(default)]
    pub reason: Option<String>,
    pub detail: String,
    #[serde(default)]
    pub weight_before: Option<f64>,
    #[serde(default)]
    pub weight_after: Option<f64>,
    /// From here on no user is in `new`, for any weight and segments; absent if no release is
    /// concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<bool>,
    /// Exchanges under way on `new` when `held` began; absent: none.
    /// An entry `drained` follows when the last of them has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under_way: Option<u64>,
    /// The users in `new` beside the weight, from here on; absent: as in the release's previous
    /// entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
    #[serde(default)]
    pub evidence: Value,
    /// [`crate::domain::verdict::METHOD`] of the version that judged.
    /// Absent: method 1, or no verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<u32>,
    /// `hash` of the previous entry; see [`super::chain`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prev: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// Written again from the state file, after a crash lost the line.
    /// The last field, because it is not hashed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rebuilt: bool,
}

pub struct Ledger {
    path: PathBuf,
    file: File,
    end: LedgerTail,
    key: Option<String>,
}

/// The end of the chain, where the next entry continues.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LedgerTail {
    /// Number of the last entry; 0: none.
    pub n: u64,
    /// `prev` of the next entry.
    pub hash: String,
}

impl Default for LedgerTail {
    fn default() -> Self {
        LedgerTail { n: 0, hash: chain::ORIGIN.to_owned() }
    }
}

impl Ledger {
    /// Opens or creates the ledger of a state directory.
    pub fn open(directory: &Path) -> io::Result<Ledger> {
        let path = directory.join(FILE);
        let mut file = private_file().read(true).append(true).create(true).open(&path)?;
        let ScannedLedger { whole, end, key } = scan(&file)?;
        if file.metadata()?.len() > whole {
            file.set_len(whole)?;
            file.sync_data()?;
        }
        file.seek(SeekFrom::End(0))?;
        Ok(Ledger { path, file, end, key })
    }

    pub fn last(&self) -> u64 {
        self.end.n
    }

    pub fn end(&self) -> &LedgerTail {
        &self.end
    }

    /// The name of the latest key for the hashes of segment users, as of opening the file.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// Writes the entries that the file lacks, and waits until they are on disk.
    ///
    /// # Errors
    /// The disk is full or gone.
    /// A partial write is cut off again, so that the next try starts clean.
    pub fn append(&mut self, entries: &[LedgerEntry]) -> io::Result<()> {
        let mut text = Vec::new();
        let mut last = None;
        for entry in entries.iter().filter(|e| e.n > self.end.n) {
            serde_json::to_writer(&mut text, entry)?;
            text.push(b'\n');
            last = Some(entry);
        }
        let Some(last) = last else { return Ok(()) };
        let before = self.file.metadata()?.len();
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) if last.hash.is_empty() => {
                // From an earlier version's state file: the next entry is chained to the whole file
                // so far.
                self.end = scan(&File::open(&self.path)?)?.end;
                Ok(())
            }
            Ok(()) => {
                self.end = LedgerTail { n: last.n, hash: last.hash.clone() };
                Ok(())
            }
            Err(error) => {
                // Best effort: `open` cuts a torn tail as well.
                let _ = self.file.set_len(before);
                Err(error)
            }
        }
    }

    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The entries after number `since`, at most [`READ_MAX`]; none without a ledger.
/// A torn last line is skipped.
pub fn read(directory: &Path, since: u64) -> io::Result<Vec<LedgerEntry>> {
    let file = match File::open(directory.join(FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    let mut entries = vec![];
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(entry) = serde_json::from_slice::<LedgerEntry>(&line?)
            && entry.n > since
        {
            entries.push(entry);
            if entries.len() == READ_MAX {
                break;
            }
        }
    }
    Ok(entries)
}

/// At most `bytes_max` bytes of the file from `from`; none at its end, or without a ledger.
pub fn piece(directory: &Path, from: u64, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut file = match File::open(directory.join(FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(e) => return Err(e),
    };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = vec![];
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The latest `n` entries after number `since`, oldest first.
pub fn read_last(directory: &Path, since: u64, n: usize) -> io::Result<Vec<LedgerEntry>> {
    let mut latest = VecDeque::new();
    let mut since = since;
    loop {
        let page = read(directory, since)?;
        let Some(last) = page.iter().map(|e| e.n).max() else { return Ok(latest.into()) };
        since = last;
        latest.extend(page);
        let excess = latest.len().saturating_sub(n);
        latest.drain(..excess);
    }
}

/// Does the directory have a ledger that is not empty?
pub fn exists(directory: &Path) -> bool {
    std::fs::metadata(directory.join(FILE)).is_ok_and(|m| m.len() > 0)
}

struct ScannedLedger {
    /// Length of the complete lines.
    whole: u64,
    /// The end of the chain after them.
    end: LedgerTail,
    key: Option<String>,
}

fn scan(file: &File) -> io::Result<ScannedLedger> {
    let (mut whole, mut end, mut chained, mut key) = (0, LedgerTail::default(), false, None);
    let mut unchained = Digest::default();
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let n = reader.read_until(b'\n', &mut line)?;
        if n == 0 || line.last() != Some(&b'\n') {
            if !chained && whole > 0 {
                end.hash = hex(&unchained.finish());
            }
            return Ok(ScannedLedger { whole, end, key });
        }
        whole += n as u64;
        if !chained {
            unchained.add(&line);
        }
        // A line damaged in the middle stays for inspection and is ignored; only a torn tail is
        // cut.
        let Ok(entry) = serde_json::from_slice::<LedgerEntry>(&line) else { continue };
        if let Some(membership) = entry.membership.filter(|m| !m.key.is_empty()) {
            key = Some(membership.key);
        }
        let fits = chain::split(line.trim_ascii_end()).is_some_and(|sealed| sealed.fits());
        match (entry.hash.is_empty(), fits) {
            (true, _) => end.n = end.n.max(entry.n),
            (false, true) => (end, chained) = (LedgerTail { n: end.n.max(entry.n), hash: entry.hash }, true),
            (false, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(n: u64) -> LedgerEntry {
        LedgerEntry {
            n,
            at: "2026-01-01T00:00:00Z".into(),
            release: Some("r".into()),
            attempt: Some(1),
            kind: "trip".into(),
            cause: Some("errors".into()),
            actor: "watchdog".into(),
            reason: None,
            detail: "d".into(),
            weight_before: Some(5.0),
            weight_after: Some(0.0),
            held: Some(true),
            under_way: None,
            membership: None,
            evidence: Value::Null,
            method: None,
            prev: String::new(),
            hash: String::new(),
            rebuilt: false,
        }
    }

    #[test]
    fn entries_survive_and_a_torn_tail_is_cut() {
        let dir = crate::store::state::tests::scratch("ledger");
        let mut ledger = Ledger::open(&dir).unwrap();
        ledger.append(&[entry(1), entry(2)]).unwrap();
        ledger.append(&[entry(2), entry(3)]).unwrap();
        let mut file = File::options().append(true).open(ledger.path()).unwrap();
        file.write_all(b"{\"n\":4,\"at\":\"2026").unwrap();
        let mut ledger = Ledger::open(&dir).unwrap();
        assert_eq!(ledger.last(), 3);
        ledger.append(&[entry(4)]).unwrap();
        let numbers: Vec<u64> = read(&dir, 1).unwrap().iter().map(|e| e.n).collect();
        assert_eq!(numbers, [2, 3, 4]);
        let numbers = |since, n| read_last(&dir, since, n).unwrap().iter().map(|e| e.n).collect::<Vec<_>>();
        assert_eq!((numbers(0, 2), numbers(3, 2), numbers(4, 2)), (vec![3, 4], vec![4], vec![]));
    }

    proptest! {
        #![proptest_config(crate::mutate::cases(128))]

        #[test]
        fn a_damaged_ledger_is_opened_and_goes_on(bytes in crate::mutate::damaged(
            [(1..4).map(|n| serde_json::to_string(&entry(n)).unwrap() + "\n").collect::<String>(), String::new()],
            ["\n", "\r\n", "{", "}", "\"n\":", "\"n\":7,", "\"n\":18446744073709551615,", "-1", "1e99", "null", "\0", ",", "\"", "\\"],
        )) {
            let dir = crate::store::state::tests::scratch("ledger-damaged");
            std::fs::write(dir.join(FILE), &bytes).unwrap();
            let mut ledger = Ledger::open(&dir).unwrap();
            let kept = std::fs::read(ledger.path()).unwrap();
            prop_assert!(bytes.starts_with(&kept) && (kept.is_empty() || kept.ends_with(b"\n")), "more than a torn tail is gone");
            let last = ledger.last();
            prop_assert!(read(&dir, 0).unwrap().iter().all(|e| e.n <= last));
            let Some(next) = last.checked_add(1) else { return Ok(()) };
            ledger.append(&[entry(next)]).unwrap();
            prop_assert_eq!(read(&dir, last).unwrap(), vec![entry(next)]);
            prop_assert_eq!(Ledger::open(&dir).unwrap().last(), next);
        }
    }
}
