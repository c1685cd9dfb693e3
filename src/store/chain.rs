//! The ledger as a hash chain: each line carries the hash of the line before it, and its own.
//!
//! ```text
//! {"n":42, …, "prev":"64 hex digits","hash":"64 hex digits"}⏎
//! {"n":43, …, "prev":"64 hex digits","hash":"64 hex digits","rebuilt":true}⏎
//! ```
//!
//! `hash` is the SHA-256 of the line's bytes before `,"hash":`; `prev` is the `hash` of the line
//! before. The first line has zeros in `prev`. The first line after lines of a version without
//! hashes has the SHA-256 of all bytes of those lines. `rebuilt` is not hashed: a line lost in a
//! crash is written again with the same hash.
//!
//! The chain detects any change by an author who cannot also write the state file and recompute all
//! later hashes. It cannot detect a complete rewrite by an author who can. Against that, copy a
//! hash to another place.

use super::ledger::LedgerEntry;
use crate::domain::digest::{Digest, hex};

/// `prev` of the first line.
pub const ORIGIN: &str = "0000000000000000000000000000000000000000000000000000000000000000";
const DIGITS: usize = ORIGIN.len();

/// Links `entry` to the line with the hash `prev`.
pub fn seal(entry: &mut LedgerEntry, prev: &str) -> serde_json::Result<()> {
    (entry.prev, entry.hash, entry.rebuilt) = (prev.to_owned(), String::new(), false);
    let open = serde_json::to_vec(entry)?;
    // Without the closing brace.
    entry.hash = hex(&Digest::of(open.strip_suffix(b"}").unwrap_or(&open)));
    Ok(())
}

/// The parts of a line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct SealedLine<'a> {
    pub body: &'a [u8],
    pub hash: &'a str,
}

impl SealedLine<'_> {
    pub fn fits(&self) -> bool {
        hex(&Digest::of(self.body)) == self.hash
    }
}

/// Splits a line; `None`: it has no hash in the expected place.
pub fn split(line: &[u8]) -> Option<SealedLine<'_>> {
    let line = line.strip_suffix(br#","rebuilt":true}"#).or_else(|| line.strip_suffix(b"}"))?;
    let line = line.strip_suffix(b"\"")?;
    let (body, hash) = line.split_at_checked(line.len().checked_sub(DIGITS)?)?;
    let digit = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    let hash = std::str::from_utf8(hash).ok().filter(|hash| hash.as_bytes().iter().all(digit))?;
    Some(SealedLine { body: body.strip_suffix(br#","hash":""#)?, hash })
}
