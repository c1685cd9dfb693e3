//! `grayling ledger --verify`: checks whether the ledger was changed, and whether its verdicts
//! follow from their evidence.
//!
//! It reads a state directory without any proxy, or fetches the ledger of a running proxy byte by
//! byte: the check always runs here, not in the proxy that keeps the ledger. Invariants: a ledger
//! that a proxy writes to is read again until it is stable. Nothing is changed or locked.

use super::client::AdminClient;
use super::text::{self, Colour, Hue, count, shown};
use crate::admin::dto::LedgerEnd;
use crate::store::audit::verify::{Verifier, VerifyReport};
use crate::store::ledger::{self, LedgerTail};
use crate::store::state::StateDirectory;
use anyhow::Context;
use serde_json::json;
use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::Path;
use std::time::Duration;

/// Attempts to read a ledger that grows meanwhile, and the pause between two.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_millis(250);

/// The place and the result of a verification.
pub struct Verified {
    place: String,
    /// Why the state file, which records the last entry, could not be read.
    state_error: Option<String>,
    report: VerifyReport,
}

/// Verifies the ledger in a state directory.
pub fn offline(directory: &Path, anchor: Option<&str>) -> anyhow::Result<Verified> {
    let path = directory.join(ledger::FILE);
    let place = path.display().to_string();
    let mut looks = 0;
    loop {
        looks += 1;
        let state = StateDirectory::look(directory);
        let mut verifier = Verifier::new(anchor.map(str::to_owned));
        match File::open(&path) {
            Ok(file) => {
                let mut input = BufReader::with_capacity(1 << 18, file);
                let mut line = vec![];
                while input.read_until(b'\n', &mut line).with_context(|| format!("cannot read {place}"))? > 0
                {
                    verifier.line(&line);
                    line.clear();
                }
            }
            // A missing ledger is a fault if the state has one.
            Err(e) if e.kind() == ErrorKind::NotFound && state.is_ok() => {}
            Err(e) => return Err(e).with_context(|| format!("cannot read {place}")),
        }
        let (known, state_error) = match state {
            Ok(image) => (Some(image.ledger), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let report = verifier.finish(known.as_ref());
        if !report.may_be_unfinished() || looks >= LOOKS {
            return Ok(Verified { place, state_error, report });
        }
        std::thread::sleep(PAUSE);
    }
}

/// Verifies the ledger of a running proxy.
pub async fn online(client: &AdminClient, anchor: Option<&str>) -> anyhow::Result<Verified> {
    let place = client.address();
    let mut looks = 0;
    loop {
        looks += 1;
        let end: LedgerEnd = client.get("/api/v1/ledger/end").await?;
        let mut verifier = Verifier::new(anchor.map(str::to_owned));
        lines(client, |line| verifier.line(line)).await?;
        let report = verifier.finish(Some(&LedgerTail { n: end.n, hash: end.hash }));
        if !report.may_be_unfinished() || looks >= LOOKS {
            return Ok(Verified { place, state_error: None, report });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// All lines of a running proxy's ledger, byte for byte, each with its line end.
pub async fn lines(client: &AdminClient, mut take: impl FnMut(&[u8])) -> anyhow::Result<()> {
    let (mut from, mut rest) = (0u64, Vec::new());
    loop {
        let piece = client.bytes(&format!("/api/v1/ledger/lines?from={from}")).await?;
        if piece.is_empty() {
            break;
        }
        from += piece.len() as u64;
        rest.extend_from_slice(&piece);
        let whole = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        rest[..whole].split_inclusive(|b| *b == b'\n').for_each(&mut take);
        rest.drain(..whole);
    }
    if !rest.is_empty() {
        take(&rest);
    }
    Ok(())
}

impl Verified {
    pub fn sound(&self) -> bool {
        self.report.sound()
    }

    pub fn json(&self) -> serde_json::Value {
        let of = &self.report;
        let number = |n: u64| (n > 0).then_some(n);
        json!({
            "ledger": self.place,
            "sound": of.sound(),
            "lines": of.lines,
            "first": number(of.first),
            "last": number(of.last),
            "unchained_to": number(of.unchained_to),
            "head": (!of.head.is_empty()).then_some(&of.head),
            "verdicts": {"same": of.verdicts, "by_hand": of.by_hand, "not_recorded": of.unknown, "other_methods": of.other_methods},
            "state_error": self.state_error,
            "faults": of.faults.iter().map(|f| json!({"line": number(f.line), "what": f.what})).collect::<Vec<_>>(),
            "faults_more": of.more,
        })
    }

    pub fn text(&self, colour: Colour) -> String {
        let of = &self.report;
        let mut out = format!("ledger    {}\n", shown(&self.place));
        let mut line = |name: &str, told: String| _ = writeln!(out, "{name:<9} {told}");
        match (of.first, of.last) {
            (0, _) => line("entries", "none".into()),
            (first, last) if of.unchained_to == 0 => {
                line("entries", format!("{first} to {last}, chained from {first} on"));
            }
            (first, last) if of.unchained_to == last => {
                line(
                    "entries",
                    format!(
                        "{first} to {last}, without hashes: an earlier version wrote them, and nothing holds them"
                    ),
                );
            }
            (first, last) => {
                let to = of.unchained_to;
                line("entries", format!("{first} to {last}, chained from {} on", to + 1));
                line(
                    "",
                    format!(
                        "up to {to} unchained: an earlier version wrote them; entry {} holds what stood there when it was written",
                        to + 1
                    ),
                );
            }
        }
        let mut verdicts = format!("{} found again from the evidence", count(of.verdicts));
        if of.by_hand > 0 {
            _ = write!(verdicts, "; {} taken by a person", count(of.by_hand));
        }
        if of.unknown > 0 {
            _ = write!(verdicts, "; {} of an earlier version, which kept too little", count(of.unknown));
        }
        line("verdicts", verdicts);
        for (method, n) in &of.other_methods {
            let whole = if of.sound() { "; their hashes are whole" } else { "" };
            line("", format!("{} entries of method {method} were not recomputed{whole}", count(*n)));
        }
        if !of.head.is_empty() {
            line("head", format!("{} {}", of.last, of.head));
        }
        if of.sound() && !of.head.is_empty() {
            line(
                "",
                "A chain finds changes, not a rewrite by someone who can compute it anew: note the".into(),
            );
            line("", "head elsewhere, and check later with --anchor that it is still there.".into());
        }
        if let Some(n) = of.anchor {
            line("anchor", format!("there: entry {n}"));
        }
        if let Some(why) = &self.state_error {
            line("warning", format!("{}: an end that was cut off cannot be found", shown(why)));
        }
        if of.sound() {
            let _ = writeln!(out, "{}", colour.paint(Hue::Green, "sound"));
            return out;
        }
        let faults = of.faults.len() as u64 + of.more;
        let title = format!("{} {}:", count(faults), if faults == 1 { "fault" } else { "faults" });
        let _ = writeln!(out, "{}", colour.paint(Hue::Red, &title));
        for fault in &of.faults {
            let place = if fault.line > 0 { format!("line {}: ", fault.line) } else { String::new() };
            let _ = writeln!(out, "  {place}{}", text::shown(&fault.what));
        }
        if of.more > 0 {
            let _ = writeln!(out, "  and {} more", count(of.more));
        }
        out
    }
}
