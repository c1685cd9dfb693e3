//! `grayling check`: all faults of a config file at once, and what its settings imply; with
//! `--against`, for the service behind a running proxy, with the changes that it would make there.
//!
//! Faults go to stderr in a compiler's format.
//! A summary line, the implications of each release's settings, and the changes go to stdout.
//! Exit 0, or 78 (EX_CONFIG) if the file would be refused at start or as a reload.

mod implied;
mod sentences;

use super::EXIT_INVALID_CONFIG;
use super::text::Colour;
use crate::admin::dto::{self, RunningBody};
use crate::config::diff::too_short;
use crate::config::{
    CheckedConfig, Color, Diagnostic, Diagnostics, PlanFinding, PlanFindingKind, ReleaseStanding, Severity,
    Standings, compare, load, parse,
};
use crate::domain::config::{Config, WhenEmpty};
use crate::domain::gates::KnownTraffic;
use crate::domain::rollout::{Conditions, PlanProgress, ReleaseState, version};
use crate::domain::wave::Exposure;
use crate::stats::cohort::Weight;
use crate::store::state::{self, StateDirectory};
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Reports all faults of a config file, what its settings imply, and what an edit would change.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  grayling check config/grayling.toml\n  \
                        grayling check config/grayling.toml --against http://127.0.0.1:9900")]
pub struct Args {
    /// The file to check.
    #[arg(default_value = "config/grayling.toml")]
    pub file: PathBuf,
    /// The admin address of a running proxy: shows what this file would change there, and what it
    /// implies for that service.
    #[arg(long, value_name = "URL")]
    pub against: Option<String>,
    /// A file whose first token is sent to the proxy.
    #[arg(long, value_name = "FILE", requires = "against")]
    pub token_file: Option<PathBuf>,
    /// Prints faults, warnings, what settings imply, and changes as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// `ask` fetches the config of the proxy at `--against`; it is called only with that option.
pub fn run(args: Args, ask: impl FnOnce(&Args) -> anyhow::Result<RunningBody>) -> anyhow::Result<ExitCode> {
    let running = if args.against.is_some() { Some(ask(&args)?) } else { None };
    let told = examine(&args.file, running.as_ref(), Colour::of_stderr().into());
    if args.json {
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &told.json)?;
        writeln!(out)?;
    } else {
        std::io::stderr().lock().write_all(told.faults.as_bytes())?;
        std::io::stdout().lock().write_all(told.summary.as_bytes())?;
    }
    Ok(if told.refused { ExitCode::from(EXIT_INVALID_CONFIG) } else { ExitCode::SUCCESS })
}

/// The output, and whether the file would be refused.
struct CheckOutput {
    faults: String,
    summary: String,
    json: Json,
    refused: bool,
}

#[derive(Serialize)]
struct Json {
    file: String,
    ok: bool,
    faults: Vec<JsonFault>,
    /// Only with `--against`.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<JsonChange>>,
    /// What the settings of each release imply.
    releases: Vec<implied::Implied>,
}

#[derive(Serialize)]
struct JsonFault {
    severity: &'static str,
    path: String,
    line: usize,
    column: usize,
    message: String,
    reason: String,
    help: Option<String>,
}

#[derive(Serialize)]
struct JsonChange {
    kind: &'static str,
    message: String,
}

fn examine(file: &Path, running: Option<&RunningBody>, color: Color) -> CheckOutput {
    let shown = file.display().to_string();
    let checked = match load(file).result {
        Ok(checked) => checked,
        Err(report) => {
            let summary = format!("{shown}: {}\n", counted(&report));
            let json =
                Json { file: shown, ok: false, faults: faults(&report), changes: None, releases: vec![] };
            return CheckOutput { faults: spaced(report.render(color)), summary, json, refused: true };
        }
    };
    let mut summary = format!("{shown}: {}\n", described(&checked));
    let releases = implied::implied(&checked.config, running);
    releases.iter().for_each(|of| summary.push_str(&sentences::lines(of)));
    if running.is_none() {
        summary.push_str(&first_start(&checked.config));
    }
    let mut refused = false;
    let changes = running.map(|running| {
        let (lines, findings) = differences(running, file, &checked);
        refused = findings.iter().any(|f| f.kind == PlanFindingKind::Refused);
        summary.push_str(&lines);
        if refused {
            summary.push_str(&way_out(running));
        }
        findings
    });
    let changes = changes.map(|findings| {
        let change = |f: PlanFinding| JsonChange { kind: word(f.kind), message: f.message };
        findings.into_iter().map(change).collect()
    });
    let json = Json { file: shown, ok: !refused, faults: faults(&checked.warnings), changes, releases };
    CheckOutput { faults: spaced(checked.warnings.render(color)), summary, json, refused }
}

/// The commands that work while the file is refused: a rollback is never refused.
fn way_out(running: &RunningBody) -> String {
    let occupied = running.releases.iter().filter(|(_, s)| s.weight > 0.0 || s.segments > 0);
    occupied.map(|(name, _)| format!("to take users out now: grayling rollback {name}\n")).collect()
}

fn differences(running: &RunningBody, file: &Path, checked: &CheckedConfig) -> (String, Vec<PlanFinding>) {
    // Parsed as if it stood in the place of the checked file, which will replace it. Otherwise
    // every relative name would differ.
    let before = match parse(&running.text, file) {
        Ok(before) => before,
        // It was in force once: a file that it names is gone or differs on this machine.
        Err(report) => {
            let message = format!(
                "the running config cannot be read on this machine, so nothing is compared: {}",
                report.lines().join("; ")
            );
            return (
                format!("warning: {message}\n"),
                vec![PlanFinding { kind: PlanFindingKind::Warning, message }],
            );
        }
    };
    let mut findings = compare(&before.config, &checked.config, &standings(running));
    if knows_more(running) {
        let message = "the proxy is of another version: whether something holds a release is not known here; see: grayling status";
        findings.insert(0, PlanFinding { kind: PlanFindingKind::Warning, message: message.to_owned() });
    }
    let mut told = match findings.is_empty() {
        true => "nothing would change\n".to_owned(),
        false => String::new(),
    };
    // A release with known properties gets its figures by wave instead.
    let others = running.releases.iter().filter(|(_, s)| s.service.is_none());
    let traffic = others.map(|(name, s)| {
        let (rate, requests, failures) = (s.rate, s.requests, s.failures);
        (name.clone(), KnownTraffic { rate, requests, failures })
    });
    findings.extend(too_short(&checked.config, &traffic.collect()));
    told.extend(findings.iter().map(|f| format!("{}: {}\n", word(f.kind), f.message)));
    (told, findings)
}

fn standings(running: &RunningBody) -> Standings {
    // Percentages with four decimals: exact in a double.
    let exposure = |percent: f64, segments| Exposure {
        weight: Weight::from_parts((percent * 10_000.0).round().clamp(0.0, 1e6) as u32),
        segments,
    };
    // Another version of the proxy may keep state that this one cannot read.
    let standing = |s: &dto::StandingBody| {
        let progress = s.wave.as_ref().map(|wave| PlanProgress {
            wave: wave.clone(),
            exposure: exposure(s.weight_configured, s.segments_configured),
            finished: s.finished,
            entry: 0,
        });
        let release_state = state::release_state_of_json(&s.memory);
        ReleaseStanding {
            release_state: release_state
                .unwrap_or_else(|| ReleaseState { progress, ..ReleaseState::default() }),
            exposure: exposure(s.weight, s.segments),
            version: version::VersionState {
                complete: s.complete,
                exposure: exposure(s.weight, s.segments),
                held: s.guarded,
            },
            barred_by: s.barred_by.clone(),
        }
    };
    Standings {
        releases: running.releases.iter().map(|(name, s)| (name.clone(), standing(s))).collect(),
        stranger: state::release_state_of_json(&running.stranger).unwrap_or_default(),
        now: Conditions { stop_file: running.stop_file },
    }
}

/// True if the proxy has state of a release that this version cannot read.
fn knows_more(running: &RunningBody) -> bool {
    running
        .releases
        .values()
        .any(|s| !s.memory.is_null() && state::release_state_of_json(&s.memory).is_none())
}

fn word(kind: PlanFindingKind) -> &'static str {
    match kind {
        PlanFindingKind::Refused => "refused",
        PlanFindingKind::Warning => "warning",
        PlanFindingKind::Note => "note",
    }
}

fn spaced(mut text: String) -> String {
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

fn counted(report: &Diagnostics) -> String {
    match report.warnings() {
        0 => count(report.errors(), "error"),
        n => format!("{}, {}", count(report.errors(), "error"), count(n, "warning")),
    }
}

fn described(checked: &CheckedConfig) -> String {
    let config = &checked.config;
    let mut text =
        format!("ok, {}, {}", count(config.releases.len(), "release"), count(config.routes.len(), "route"));
    match checked.warnings.warnings() {
        0 => {}
        n => text.push_str(&format!(", {}", count(n, "warning"))),
    }
    text
}

/// Warns that a start with an empty state directory holds the releases that would let users in.
fn first_start(config: &Config) -> String {
    let held = config.releases.iter().filter(|release| release.strategy().lets_in());
    let names: Vec<String> = held.map(|release| format!("`{}`", release.name)).collect();
    let holds = config.state.when_empty == WhenEmpty::Hold && !names.is_empty();
    if !holds || !StateDirectory::is_empty(&config.state.directory) {
        return String::new();
    }
    format!(
        "a start here holds {} at 0%, since {} remembers nothing; if it is a first start: grayling init --state {}\n",
        names.join(", "),
        config.state.directory.display(),
        config.state.directory.display()
    )
}

fn faults(report: &Diagnostics) -> Vec<JsonFault> {
    let fault = |f: &Diagnostic| {
        let (line, column) = f.position();
        JsonFault {
            severity: match f.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            path: f.path().to_string(),
            line,
            column,
            message: f.message.clone(),
            reason: f.label.clone(),
            help: f.help.clone(),
        }
    };
    report.faults().iter().map(fault).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(text: &str) -> RunningBody {
        let path = "config/grayling.toml".into();
        let (releases, stranger) = Default::default();
        RunningBody { text: text.into(), path, sha256: String::new(), releases, stranger, stop_file: false }
    }

    fn starter() -> (PathBuf, &'static str) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/grayling.toml");
        (file, include_str!("../../config/grayling.toml"))
    }

    #[test]
    fn a_good_file_is_summed_up_with_what_its_watchdog_will_see() {
        let file = crate::store::state::tests::scratch("check").join("grayling.toml");
        std::fs::write(&file, starter().1.replace("0%", "5%")).unwrap();
        let told = examine(&file, None, Color::Plain).summary;
        assert!(
            told.contains("a start here holds `v2` at 0%") && told.contains("grayling init --state"),
            "{told}"
        );
        std::fs::create_dir(file.with_file_name("state")).unwrap();
        std::fs::write(file.with_file_name("state").join(state::FILE), "").unwrap();
        let told = examine(&file, None, Color::Plain);
        let seen = "release `v2`: of 500 requests/s, a failure rate that doubled from 0.1%, and one ten times as high, are seen after\n  5%: about 17 min, about 31 s\n";
        assert_eq!(told.summary, format!("{}: ok, 1 release, 1 route\n{seen}", file.display()));
        assert_eq!((told.faults.as_str(), told.refused), ("", false));
    }

    #[test]
    fn against_a_running_proxy_it_says_what_would_change() {
        let (file, text) = starter();
        let at = |text: String| examine(&file, Some(&running(&text)), Color::Plain);
        assert!(at(text.into()).summary.ends_with("\nnothing would change\n"));
        let told = at(text.replace("\"0%\"", "\"1%\""));
        assert!(
            told.summary.contains("\nnote: release `v2`: weight 1% to 0%: 1% of users move to `stable`\n"),
            "{}",
            told.summary
        );
        assert!(!told.refused);
        let told = at(text.replace("8080", "8081"));
        assert!(told.summary.contains("\nrefused: `[listen] http`"), "{}", told.summary);
        assert!(told.refused && !told.json.ok);
        let told = at("broken".into());
        assert!(told.summary.contains("warning: the running config cannot be read"), "{}", told.summary);
    }

    #[test]
    fn a_missing_file_says_how_to_write_one() {
        let told = examine(Path::new("/nonexistent/grayling.toml"), None, Color::Plain);
        assert!(told.refused);
        assert_eq!(told.summary, "/nonexistent/grayling.toml: 1 error\n");
        assert!(told.faults.contains("grayling init"), "{}", told.faults);
    }
}
