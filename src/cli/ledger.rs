//! `grayling ledger`: the decisions, oldest first, with their actors and evidence.

use super::client::{AdminArgs, AdminClient};
use super::text::{self, Colour, Hue, percent, shown};
use super::{EXIT_FAILURE, block_on, config_of, verify};
use crate::admin::dto::LedgerEntry;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling ledger
  grayling ledger --since 17 --json          the entries after number 17, for scripts
  grayling ledger --verify                   computes the chain and every verdict again; exit 1 if something is wrong
  grayling ledger --verify -c grayling.toml  the same of the file's state directory, without a running proxy")]
pub struct Args {
    /// Only the entries after this number.
    #[arg(long, value_name = "N")]
    since: Option<u64>,
    /// Compute the hashes and every verdict again, and report faults.
    #[arg(long, conflicts_with = "since")]
    verify: bool,
    /// Verify the ledger in the state directory of this config file, without asking a proxy.
    #[arg(short, long, value_name = "FILE", requires = "verify", conflicts_with_all = ["admin", "token_file", "state"])]
    config: Option<PathBuf>,
    /// Verify the ledger in this state directory.
    #[arg(long, value_name = "DIR", requires = "verify", conflicts_with_all = ["admin", "token_file"])]
    state: Option<PathBuf>,
    /// A hash (an earlier head of the ledger, noted elsewhere) that must still be there.
    #[arg(long, value_name = "HASH", requires = "verify", value_parser = a_hash)]
    anchor: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the entries as a JSON array; with --verify, the result.
    #[arg(long)]
    json: bool,
}

fn a_hash(text: &str) -> Result<String, String> {
    let hash = text.to_ascii_lowercase();
    let fits = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then_some(hash)
        .ok_or_else(|| "64 hexadecimal digits, as --verify prints them after `head`".to_owned())
}

fn run_verify(args: &Args) -> anyhow::Result<ExitCode> {
    let anchor = args.anchor.as_deref();
    let directory = match (&args.state, &args.config) {
        (Some(directory), _) => Some(directory.clone()),
        (None, Some(file)) => Some(config_of(file)?.state.directory),
        (None, None) => None,
    };
    let verified = match directory {
        Some(directory) => verify::offline(&directory, anchor)?,
        None => {
            let client = AdminClient::new(&args.admin)?;
            block_on(verify::online(&client, anchor))?
        }
    };
    if args.json {
        text::print_json(&verified.json())?;
    } else {
        text::print(&verified.text(Colour::of_stdout()))?;
    }
    Ok(if verified.sound() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if args.verify {
        return run_verify(&args);
    }
    let client = AdminClient::new(&args.admin)?;
    let entries = block_on(entries(&client, args.since))?;
    if args.json {
        text::print_json(&entries)?;
    } else {
        text::print(&render(&entries, args.since, Colour::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn entries(client: &AdminClient, since: Option<u64>) -> anyhow::Result<Vec<LedgerEntry>> {
    let (mut all, mut last) = (Vec::new(), since.unwrap_or(0));
    loop {
        // The server truncates long lists, so the end is a page without new entries.
        let page: Vec<LedgerEntry> = client.get(&format!("/api/v1/ledger?since={last}")).await?;
        let fresh: Vec<LedgerEntry> = page.into_iter().filter(|e| e.n > last).collect();
        let Some(n) = fresh.iter().map(|e| e.n).max() else {
            return Ok(all);
        };
        last = n;
        all.extend(fresh);
    }
}

fn render(entries: &[LedgerEntry], since: Option<u64>, colour: Colour) -> String {
    if entries.is_empty() {
        return match since {
            Some(n) => format!("no decision after number {n}\n"),
            None => "no decision yet\n".to_owned(),
        };
    }
    let mut out = String::new();
    for entry in entries {
        let _ = write!(
            out,
            "{:>4}  {}  {}",
            entry.n,
            shown(&entry.at),
            colour.paint(Hue::Bold, &shown(&entry.kind))
        );
        if let Some(release) = &entry.release {
            let _ = write!(out, "  {}", shown(release));
        }
        if let Some(attempt) = entry.attempt {
            let _ = write!(out, " attempt {attempt}");
        }
        if let Some(after) = entry.weight_after {
            match entry.weight_before {
                Some(before) => _ = write!(out, "  {} -> {}", percent(before), percent(after)),
                None => _ = write!(out, "  {}", percent(after)),
            }
        }
        let rebuilt = if entry.rebuilt { "  (written again after a crash)" } else { "" };
        let _ = writeln!(out, "  by {}{rebuilt}", shown(&entry.actor));
        let evidence = text::evidence(&entry.evidence);
        let detail = shown(&entry.detail);
        let reason = entry.reason.as_deref().map(|r| format!("reason: {}", shown(r))).unwrap_or_default();
        let evidence = if evidence.is_empty() { evidence } else { format!("evidence: {evidence}") };
        for line in [detail, reason, evidence].iter().filter(|line| !line.is_empty()) {
            let _ = writeln!(out, "      {line}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::client::scripted::admin;
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn decisions_are_told_oldest_first_with_their_evidence() {
        let listed = json!([
            {"n": 16, "at": "2026-11-23T06:02:11Z", "release": "cbs-v2", "attempt": 1, "kind": "weight",
             "actor": "config", "detail": "the file raised the weight", "weight_before": 1.0, "weight_after": 5.0},
            {"n": 17, "at": "2026-11-23T06:10:02Z", "release": "cbs-v2", "attempt": 1, "kind": "trip",
             "actor": "watchdog", "detail": "new 41 of 812 failed, stable 9 of 15,432", "weight_before": 5.0,
             "weight_after": 0.0, "evidence": {"new_failed": 41, "new_requests": 812}},
            {"n": 18, "at": "2026-11-23T07:00:00Z", "kind": "state", "actor": "alice", "reason": "disk\u{1b}[2J full",
             "detail": "trips are in memory only", "rebuilt": true},
        ]);
        let (first, rest) = (json!([listed[0], listed[1]]), json!([listed[2]]));
        let server = admin(&[
            ("GET /api/v1/ledger?since=15", 200, first),
            ("GET /api/v1/ledger?since=17", 200, rest.clone()),
            ("GET /api/v1/ledger?since=18", 200, rest),
        ])
        .await;
        let entries = entries(&server.client, Some(15)).await.unwrap();
        let expected = "  16  2026-11-23T06:02:11Z  weight  cbs-v2 attempt 1  1% -> 5%  by config
      the file raised the weight
  17  2026-11-23T06:10:02Z  trip  cbs-v2 attempt 1  5% -> 0%  by watchdog
      new 41 of 812 failed, stable 9 of 15,432
      evidence: new_failed 41, new_requests 812
  18  2026-11-23T07:00:00Z  state  by alice  (written again after a crash)
      trips are in memory only
      reason: disk\\u{1b}[2J full
";
        assert_eq!(render(&entries, Some(15), Colour::Plain), expected);
    }

    #[tokio::test]
    async fn an_empty_ledger_says_so() {
        let server = admin(&[("GET /api/v1/ledger?since=0", 200, json!([]))]).await;
        let entries = entries(&server.client, None).await.unwrap();
        assert_eq!(render(&entries, None, Colour::Plain), "no decision yet\n");
        assert_eq!(render(&entries, Some(3), Colour::Plain), "no decision after number 3\n");
    }
}
