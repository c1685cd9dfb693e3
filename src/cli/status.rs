//! `grayling status`: every release with both arms side by side, the watchdog's state, and the next
//! command to type.
//!
//! `-w` repeats it. On a terminal the output is redrawn in place each second, and marked when
//! stale. Into a pipe a line is written for each change (state, weight, trip, watchdog, config),
//! but not for counters.

mod climb;

use super::client::{AdminArgs, AdminClient};
use super::screen::Screen;
use super::text::{self, Colour, Hue, count, measured_percent, milliseconds, percent, shown};
use super::{EXIT_ROLLED_BACK, block_on};
use crate::admin::dto::{
    AnswersBody, ArmStatus, ReleaseBody, ReleaseStateLabel, StatusBody, TripBody, WarmUpBody,
    WatchdogStateLabel,
};
use crate::domain::rollout::HoldKind;
use crate::domain::share;
use crate::domain::verdict::{SignalResult, StandingFinding};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);
/// Age at which the data is marked as stale.
const LATE: Duration = Duration::from_millis(2500);

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling status
  grayling status -w                              redrawn each second; into a pipe: a line per change
  grayling status --exit-code || echo look here   exits 3 if anything is rolled back

With -w and --exit-code it watches until something is rolled back, then exits 3.")]
pub struct Args {
    /// Watch: show it again and again, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// Exit 3 if any release is rolled back.
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the answer as JSON (with -w: a line per change).
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&args.admin)?;
    block_on(async {
        if args.watch {
            return watch(&client, &args).await;
        }
        let status = fetch(&client).await?;
        if args.json {
            text::print_json(&status)?;
        } else {
            text::print(&render(&status, Colour::of_stdout()))?;
        }
        Ok(exit_code(&args, &status))
    })
}

async fn fetch(client: &AdminClient) -> anyhow::Result<StatusBody> {
    Ok(client.get("/api/v1/status").await?)
}

fn exit_code(args: &Args, status: &StatusBody) -> ExitCode {
    let rolled_back = status.releases.iter().any(|r| r.state == ReleaseStateLabel::RolledBack)
        || !status.removed.is_empty();
    if args.exit_code && rolled_back { ExitCode::from(EXIT_ROLLED_BACK) } else { ExitCode::SUCCESS }
}

async fn watch(client: &AdminClient, args: &Args) -> anyhow::Result<ExitCode> {
    let mut status = fetch(client).await?;
    let colour = Colour::of_stdout();
    let mut screen = (text::redraws() && !args.json).then(Screen::default);
    let mut changes = Changes::default();
    let mut heard = Instant::now();
    loop {
        if let Some(screen) = &mut screen {
            screen.draw(&picture(&status, heard.elapsed(), None, colour))?;
        } else if args.json {
            if changes.seen(&status) {
                text::print(&format!("{}\n", serde_json::to_string(&status)?))?;
            }
        } else {
            text::print(&changes.lines(&status))?;
        }
        if exit_code(args, &status) != ExitCode::SUCCESS {
            return Ok(exit_code(args, &status));
        }
        let mut fault = None;
        status = loop {
            tokio::time::sleep(PAUSE).await;
            let mut answer = std::pin::pin!(fetch(client));
            let answer = loop {
                tokio::select! {
                    answer = &mut answer => break answer,
                    // A request that hangs also makes the data stale.
                    () = tokio::time::sleep(PAUSE) => if let Some(screen) = &mut screen {
                        screen.draw(&picture(&status, heard.elapsed(), fault.as_deref(), colour))?;
                    }
                }
            };
            match (answer, &mut screen) {
                (Ok(status), _) => break status,
                // The proxy may come back, so the screen goes on.
                (Err(why), Some(screen)) => {
                    fault = Some(format!("{why:#}"));
                    screen.draw(&picture(&status, heard.elapsed(), fault.as_deref(), colour))?;
                }
                (Err(why), None) => {
                    if changes.failed() {
                        text::complain(&format!("no answer: {why:#}"));
                    }
                }
            }
        };
        heard = Instant::now();
    }
}

/// The terminal's content: the age of the data, then the last status.
fn picture(status: &StatusBody, age: Duration, fault: Option<&str>, colour: Colour) -> String {
    let told = match fault {
        None if age < LATE => colour.paint(Hue::Dim, "live, each second; Ctrl-C ends"),
        fault => {
            let why = fault.map(|why| format!(": {}", shown(why))).unwrap_or_default();
            let told = format!("STALE: nothing heard for {}", text::seconds(age.as_secs()));
            format!("{}{why}", colour.paint(Hue::Red, &told))
        }
    };
    format!("{told}\n{}", render(status, colour))
}

/// The last keys printed, to print only changes.
#[derive(Default)]
struct Changes {
    told: Vec<String>,
    failing: bool,
}

impl Changes {
    /// The lines that differ from the last time; empty if none do.
    fn lines(&mut self, status: &StatusBody) -> String {
        let keys = keys(status);
        let mut out = String::new();
        if self.told.first() != keys.first() || self.failing {
            let _ = writeln!(out, "{}", headline(status, Colour::Plain));
        }
        for (release, key) in status.releases.iter().zip(&keys[1..]) {
            if self.failing || !self.told.contains(key) {
                let _ = writeln!(out, "{}", line(release));
            }
        }
        let gone =
            |told: &&String| !status.releases.iter().any(|r| told.starts_with(&format!("{}\n", r.name)));
        for told in self.told.iter().skip(1).filter(gone) {
            let _ =
                writeln!(out, "{}: no longer in the config", shown(told.split('\n').next().unwrap_or("")));
        }
        self.told = keys;
        self.failing = false;
        out
    }

    /// Records the status; returns whether it differs from the last.
    fn seen(&mut self, status: &StatusBody) -> bool {
        !self.lines(status).is_empty()
    }

    /// Records a failed request; returns whether the last one succeeded.
    fn failed(&mut self) -> bool {
        !std::mem::replace(&mut self.failing, true)
    }
}

/// The keys that are compared for changes: the proxy's first, then one for each release, which
/// begins with its name and a line end.
fn keys(status: &StatusBody) -> Vec<String> {
    let proxy = format!("{:?}{:?}{:?}", status.config.revision, status.config.last_error, status.state_error);
    let release = |r: &ReleaseBody| {
        let trip = r.trip.as_ref().map(|t| (&t.cause, &t.at));
        let (weights, watchdog) = ((r.weight, r.weight_configured), r.watchdog.state);
        let held = r.progress.as_ref().map(|p| p.held_s.is_some());
        let maintenance = r.maintenance.as_ref().map(|m| (&m.change, &m.until));
        format!(
            "{}\n{:?}{weights:?}{trip:?}{watchdog:?}{held:?}{maintenance:?}",
            r.name,
            (r.attempt, r.state, &r.wave, &r.held)
        )
    };
    std::iter::once(proxy).chain(status.releases.iter().map(release)).collect()
}

fn line(r: &ReleaseBody) -> String {
    let mut out =
        format!("{}: {}{}, weight {}", shown(&r.name), r.state.words(), climb::place(r), weights(r));
    let _ = write!(out, ", {}, watchdog {}", failures(r), r.watchdog.state.words());
    if let Some(trip) = &r.trip {
        let _ = write!(out, ", {}", sentence(r, trip));
    }
    if let Some(of) = &r.warming_up {
        let _ = write!(out, ", {}", warming_up(of));
    }
    if let Some(of) = &r.maintenance {
        let _ = write!(out, ", maintenance {} until {}", shown(&of.change), shown(&of.until));
    }
    for missing in r.progress.iter().flat_map(|p| &p.missing) {
        let _ = write!(out, ", held by {}", shown(missing));
    }
    out
}

/// "warming up, 12 s left: slowness is no evidence yet".
fn warming_up(of: &WarmUpBody) -> String {
    let what = of.server.as_deref().map_or(String::new(), |server| format!("{} is ", shown(server)));
    let left = match (of.left_s, of.answers_left) {
        (0, answers) => format!("{answers} answers to come"),
        (left, _) => format!("{} left", text::seconds(left)),
    };
    format!("{what}warming up, {left}: slowness is no evidence yet")
}

fn render(status: &StatusBody, colour: Colour) -> String {
    let mut out = headline(status, colour);
    out.push('\n');
    if status.releases.is_empty() {
        out.push_str("no release in the config\n");
    }
    for r in &status.releases {
        out.push('\n');
        release(&mut out, r, colour);
    }
    for r in &status.removed {
        let (name, cause, at) = (shown(&r.name), shown(&r.cause), shown(&r.at));
        let told = colour.paint(Hue::Red, "still rolled back");
        let _ = write!(
            out,
            "\n{name}  {told} ({cause}, {at}), though the config does not name it any more\n  \
             nobody may be sent to {}; to forget it:  grayling resume {name} --ends rollback --reason TEXT\n",
            shown(&r.servers.join(", "))
        );
    }
    out
}

fn headline(status: &StatusBody, colour: Colour) -> String {
    let config = &status.config;
    let (version, up) = (shown(&status.version), text::seconds(status.uptime_s));
    let mut out = format!(
        "grayling {version}, up {up}, config revision {} of {}",
        config.revision,
        shown(&config.loaded_at)
    );
    if let Some(fault) = &config.last_error {
        let told = colour.paint(Hue::Red, "The last reload failed");
        let _ = write!(out, "\n{told}, revision {} stays in force: {}", config.revision, shown(fault));
    }
    if let Some(fault) = &status.state_error {
        let told = colour.paint(Hue::Red, "Rollbacks may be forgotten");
        let _ = write!(out, "\n{told}: {}", shown(fault));
    }
    out
}

fn release(out: &mut String, r: &ReleaseBody, colour: Colour) {
    let state = colour.paint(hue(r.state), r.state.words());
    let name = colour.paint(Hue::Bold, &shown(&r.name));
    let soak = match r.soak_left_s {
        Some(left) if left > 0 => format!(", soaking, {} left", text::seconds(left)),
        _ => String::new(),
    };
    let _ = writeln!(out, "{name}  {state}{soak}, attempt {}{}", r.attempt, climb::place(r));
    let share = match r.share_actual {
        Some(share) => format!("{} of the last minute's requests went to new", measured_percent(share)),
        None => "no request in the last minute".to_owned(),
    };
    let _ = writeln!(out, "  weight    {}; {share}", weights(r));
    if let Some(of) = &r.warming_up {
        let _ = writeln!(out, "  warm-up   {}", colour.paint(Hue::Yellow, &warming_up(of)));
    }
    if let Some(of) = &r.maintenance {
        let told = format!("{} until {}, by {}", shown(&of.change), shown(&of.until), shown(&of.actor));
        let effect = "ceilings and both_arms only report, waves hold";
        let _ = writeln!(out, "  maintenance {}: {effect}", colour.paint(Hue::Yellow, &told));
    }
    if let Some(held) = &r.held {
        let _ = writeln!(out, "  held      {}", colour.paint(Hue::Yellow, &shown(held)));
        if let Some(since) = r.under_way.since.as_deref().filter(|_| r.under_way.requests > 0) {
            let told = format!(
                "{} not ended on new, the oldest since {}",
                count(r.under_way.requests),
                shown(since)
            );
            let _ = writeln!(out, "  under way {}", colour.paint(Hue::Yellow, &told));
        }
    }
    let _ = writeln!(out, "  failures  {}, in the last five minutes", failures(r));
    table(out, r, colour);
    let watchdog = colour.paint(watchdog_hue(r.watchdog.state), r.watchdog.state.words());
    let _ = writeln!(out, "  watchdog  {watchdog}");
    for unfit in &r.watchdog.unfit {
        let _ = writeln!(out, "    {}", colour.paint(Hue::Yellow, &shown(unfit)));
    }
    for s in &r.watchdog.signals {
        let evidence = match s.evidence_ratio {
            Some(ratio) => format!("{:>4} of {:<9}", share::progress(ratio), towards(&s.signal)),
            None => " ".repeat(17),
        };
        let _ = writeln!(
            out,
            "    {:<15} {:<8} {evidence}{}",
            shown(&s.signal),
            shown(&s.stratum),
            shown(&s.detail)
        );
    }
    if r.ends.iter().any(|ends| ends == StandingFinding::Alarm.label()) {
        let name = shown(&r.name);
        let accept = StandingFinding::Alarm.command(&name);
        let choice = format!("accept: {accept}; or roll back: grayling rollback {name} --reason TEXT");
        let _ = writeln!(out, "    {}", colour.paint(Hue::Yellow, &choice));
    }
    for of in &r.resources {
        // The numbers stand beside the signal; these lines give the reason for a missing one.
        for (arm, lack) in [("stable", &of.stable.lack), ("new", &of.new.lack)] {
            if let Some(lack) = lack {
                let told = format!("resource {} of {arm} is not known: {}", shown(&of.name), shown(lack));
                let _ = writeln!(out, "    {}", colour.paint(Hue::Yellow, &told));
            }
        }
    }
    climb::render(out, r, colour);
    if let Some(trip) = &r.trip {
        tripped(out, r, trip, colour);
    }
}

/// One row an arm, because one column an arm would be wider than a terminal.
fn table(out: &mut String, r: &ReleaseBody, colour: Colour) {
    let head = ["", "requests", "failed", "ratio", "p50", "p99", "users", "in flight", "servers"];
    let row = |name: &str, arm: &ArmStatus| {
        let name = if arm.upstream.is_empty() {
            name.to_owned()
        } else {
            format!("{name} {}", shown(&arm.upstream))
        };
        let servers = match arm.servers.len() {
            0 => arm.servers_healthy.to_string(),
            all => format!("{} of {all}", arm.servers_healthy),
        };
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), milliseconds);
        [
            name,
            count(arm.requests),
            count(arm.failures),
            arm.error_ratio.map_or("-".to_owned(), |e| measured_percent(e * 100.0)),
            ms(arm.p50_ms),
            ms(arm.p99_ms),
            count(arm.users),
            count(arm.in_flight),
            servers,
        ]
    };
    let rows = [head.map(str::to_owned), row("stable", &r.arms.stable), row("new", &r.arms.new)];
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    for (i, row) in rows.iter().enumerate() {
        let mut text = format!("    {:<1$}", row[0], widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(text, "  {cell:>width$}");
        }
        let _ = writeln!(out, "{}", if i == 0 { colour.paint(Hue::Dim, &text) } else { text });
    }
    for (name, arm) in [("stable", &r.arms.stable), ("new", &r.arms.new)] {
        if let Some(mix) = answers(&arm.answers) {
            let _ = writeln!(out, "    answers of {name}: {mix}");
        }
    }
    for (name, arm) in [("stable", &r.arms.stable), ("new", &r.arms.new)] {
        for server in arm.servers.iter().filter(|s| !s.healthy) {
            let told = match &server.down {
                Some(why) => {
                    format!("{name}: {} fails its health probe: {}", shown(&server.name), shown(why))
                }
                None => format!("{name}: {} does not accept connections", shown(&server.name)),
            };
            let _ = writeln!(out, "    {}", colour.paint(Hue::Yellow, &told));
        }
    }
}

/// The status classes that occur, with their shares.
fn answers(of: &AnswersBody) -> Option<String> {
    let occur = || of.labelled().into_iter().filter(|(_, n)| *n > 0);
    let all: u64 = occur().map(|(_, n)| n).sum();
    let told = occur().map(|(class, n)| {
        let share = 100.0 * n as f64 / all as f64;
        // A partial share is not rounded to 0% or 100%.
        let share = if n < all { share.clamp(0.01, 99.99) } else { share };
        format!("{class} {} ({})", count(n), measured_percent(share))
    });
    (all > 0).then(|| told.collect::<Vec<_>>().join(", "))
}

fn tripped(out: &mut String, r: &ReleaseBody, trip: &TripBody, colour: Colour) {
    let name = shown(&r.name);
    let _ = writeln!(out, "  {}", colour.paint(Hue::Red, &capital(&sentence(r, trip))));
    if let Some(since) = &trip.stable_same_since {
        let told = format!("stable shows the same since {}: the cause may be what both share", shown(since));
        let _ = writeln!(out, "    {}", colour.paint(Hue::Yellow, &told));
    }
    let evidence = text::evidence(&trip.evidence);
    if !evidence.is_empty() {
        let _ = writeln!(out, "    evidence: {evidence}");
    }
    let frozen = r.state == ReleaseStateLabel::Frozen;
    let effect = if frozen { "it goes on" } else { "users come back" };
    let ends = if frozen { HoldKind::Freeze } else { HoldKind::Rollback };
    let resume = format!("grayling resume {name} --ends {} --reason \"...\"", ends.label());
    let attempt = format!("attempt = {}", r.attempt.max(r.attempt_seen) + 1);
    let ledger = "grayling ledger";
    let width = resume.len();
    let _ = writeln!(out, "  What to type next:");
    let _ = writeln!(out, "    {ledger:<width$}   what was decided, and on what evidence");
    let at = match r.waves.first().filter(|_| !frozen) {
        Some(first) => format!("in the first wave, {}", shown(&first.name)),
        None => format!("at {} as the file has it", percent(r.weight_configured)),
    };
    let _ = writeln!(out, "    {resume:<width$}   {effect}, {at}");
    let _ = writeln!(
        out,
        "    {attempt:<width$}   in the config, under [release.{name}]: for a new build behind `new`"
    );
}

/// The trip as a sentence.
fn sentence(r: &ReleaseBody, trip: &TripBody) -> String {
    let done = if r.state == ReleaseStateLabel::Frozen { "frozen" } else { "tripped" };
    let onset = trip.onset_to_trip_ms.map(|ms| format!(", {} after onset", milliseconds(ms as f64)));
    let (actor, at, cause) = (shown(&trip.actor), shown(&trip.at), shown(&trip.cause));
    let detail = shown(&trip.detail);
    format!("{done} by {actor} at {at}, cause {cause}{}: {detail}", onset.unwrap_or_default())
}

fn weights(r: &ReleaseBody) -> String {
    let in_file = match r.weight == r.weight_configured {
        true => String::new(),
        false => format!(", {} in the file", percent(r.weight_configured)),
    };
    let back = match r.held_back {
        Some(back) => {
            // A weight set by hand is never complete by itself.
            let until = if r.waves.is_empty() { "`holdback` is lowered" } else { "it is complete" };
            format!(" ({} stays on stable until {until})", percent(back))
        }
        None => String::new(),
    };
    format!("{} in force{in_file}{back}", percent(r.weight))
}

fn failures(r: &ReleaseBody) -> String {
    let arm = |a: &ArmStatus| format!("{} of {}", count(a.failures), count(a.requests));
    format!("new {} failed, stable {}", arm(&r.arms.new), arm(&r.arms.stable))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str()).unwrap_or_default()
}

fn hue(state: ReleaseStateLabel) -> Hue {
    match state {
        ReleaseStateLabel::Progressing | ReleaseStateLabel::Complete => Hue::Green,
        ReleaseStateLabel::Pending | ReleaseStateLabel::Paused => Hue::Yellow,
        ReleaseStateLabel::Frozen | ReleaseStateLabel::RolledBack => Hue::Red,
    }
}

/// The effect of a signal whose evidence is full.
fn towards(signal: &str) -> &'static str {
    match signal {
        SignalResult::LATENCY_NOTICE => "a notice",
        SignalResult::WORSE_THAN_BEFORE => "an alarm",
        SignalResult::RESOURCE_HOLD => "a hold",
        _ => "a trip",
    }
}

fn watchdog_hue(state: WatchdogStateLabel) -> Hue {
    match state {
        WatchdogStateLabel::Quiet => Hue::Green,
        WatchdogStateLabel::Suspicious | WatchdogStateLabel::Blind => Hue::Yellow,
        WatchdogStateLabel::Tripped | WatchdogStateLabel::BothArms => Hue::Red,
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::scripted::admin;
    use super::*;
    use serde_json::{Value, json};

    fn answer() -> Value {
        json!({"version": "0.1.0", "uptime_s": 812,
         "config": {"revision": 4, "sha256": "ab", "loaded_at": "2026-11-23T06:02:11Z", "last_error": null},
         "releases": [{"name": "cbs-v2", "attempt": 1, "state": "progressing", "weight": 5.0, "weight_configured": 5.0,
           "wave": null, "share_actual": 4.97, "trip": null,
           "arms": {
             "stable": {"upstream": "cbs-v1", "requests": 15432, "failures": 9, "error_ratio": 0.000583, "p50_ms": 3.1,
               "p99_ms": 22.0, "answers": {"2xx": 15422, "4xx": 1, "none": 9}, "users": 8112, "in_flight": 3, "servers_healthy": 1,
               "servers": [{"name": "http://127.0.0.1:9001", "healthy": true},
                           {"name": "http://127.0.0.1:9011", "healthy": false}]},
             "new": {"upstream": "cbs-v2", "requests": 812, "failures": 41, "error_ratio": 0.050493, "p50_ms": 3.4,
               "p99_ms": 1240.0, "users": 431, "in_flight": 0, "servers_healthy": 1,
               "servers": [{"name": "http://127.0.0.1:9002", "healthy": true}]}},
           "watchdog": {"state": "suspicious", "signals": [
             {"signal": "errors", "stratum": "all", "evidence_ratio": 0.61, "detail": "new 41 of 812, stable 9 of 15432"},
             {"signal": "fuse", "stratum": "all", "detail": "0 of 5 refusals in a row"}]}}]})
    }

    fn tripped() -> Value {
        let mut answer = answer();
        let release = &mut answer["releases"][0];
        release["state"] = json!("rolled_back");
        release["weight"] = json!(0.0);
        release["share_actual"] = Value::Null;
        release["held"] = json!("tripped");
        release["watchdog"] = json!({"state": "tripped", "signals": []});
        release["trip"] = json!({"cause": "errors", "at": "2026-11-23T06:10:02Z", "actor": "watchdog",
            "detail": "new 41 of 812 failed, stable 9 of 15,432", "onset_to_trip_ms": 240,
            "evidence": {"e": 1042.5, "alpha": 0.001}});
        answer
    }

    async fn fetched(answer: Value) -> StatusBody {
        let server = admin(&[("GET /api/v1/status", 200, answer)]).await;
        fetch(&server.client).await.unwrap()
    }

    #[tokio::test]
    async fn both_arms_stand_side_by_side() {
        let expected = "\
grayling 0.1.0, up 13m 32s, config revision 4 of 2026-11-23T06:02:11Z

cbs-v2  progressing, attempt 1
  weight    5% in force; 4.97% of the last minute's requests went to new
  failures  new 41 of 812 failed, stable 9 of 15,432, in the last five minutes
                   requests  failed  ratio     p50     p99  users  in flight  servers
    stable cbs-v1    15,432       9  0.06%  3.1 ms   22 ms  8,112          3   1 of 2
    new cbs-v2          812      41  5.05%  3.4 ms  1.24 s    431          0   1 of 1
    answers of stable: 2xx 15,422 (99.94%), 4xx 1 (0.01%), none 9 (0.06%)
    stable: http://127.0.0.1:9011 does not accept connections
  watchdog  suspicious
    errors          all       61% of a trip   new 41 of 812, stable 9 of 15432
    fuse            all                       0 of 5 refusals in a row
";
        assert_eq!(render(&fetched(answer()).await, Colour::Plain), expected);
    }

    #[tokio::test]
    async fn a_trip_is_told_with_its_evidence_and_what_to_type() {
        let text = render(&fetched(tripped()).await, Colour::Plain);
        let from = text.find("  weight").unwrap();
        let to = text.find("  failures").unwrap();
        let held =
            "  weight    0% in force, 5% in the file; no request in the last minute\n  held      tripped\n";
        assert_eq!(&text[from..to], held);
        let expected = "
  Tripped by watchdog at 2026-11-23T06:10:02Z, cause errors, 240 ms after onset: new 41 of 812 failed, stable 9 of 15,432
    evidence: alpha 0.001, e 1042.5
  What to type next:
    grayling ledger                                         what was decided, and on what evidence
    grayling resume cbs-v2 --ends rollback --reason \"...\"   users come back, at 5% as the file has it
    attempt = 2                                             in the config, under [release.cbs-v2]: for a new build behind `new`
";
        assert!(text.ends_with(expected), "{text}");
    }

    #[tokio::test]
    async fn a_freeze_is_not_told_as_a_rollback() {
        let mut answer = tripped();
        answer["releases"][0]["state"] = json!("frozen");
        let text = render(&fetched(answer).await, Colour::Plain);
        assert!(
            text.contains("cbs-v2  frozen, attempt 1") && text.contains("Frozen by watchdog at"),
            "{text}"
        );
        assert!(
            text.contains("it goes on, at 5% as the file has it") && !text.contains("ripped by"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn faults_of_the_proxy_itself_stand_on_top() {
        let mut answer = answer();
        answer["config"]["last_error"] = json!("grayling.toml:3:1: unknown key");
        answer["state_error"] = json!("state/latch.json: no space left");
        answer["releases"] = json!([]);
        let expected = "\
grayling 0.1.0, up 13m 32s, config revision 4 of 2026-11-23T06:02:11Z
The last reload failed, revision 4 stays in force: grayling.toml:3:1: unknown key
Rollbacks may be forgotten: state/latch.json: no space left
no release in the config
";
        assert_eq!(render(&fetched(answer).await, Colour::Plain), expected);
    }

    #[tokio::test]
    async fn arms_without_a_request_show_no_figure_that_looks_like_health() {
        let mut answer = answer();
        answer["releases"][0]["arms"] = json!({"stable": {}, "new": {}});
        let text = render(&fetched(answer).await, Colour::Plain);
        assert!(
            text.contains("    new            0       0      -    -    -      0          0        0\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn a_stale_picture_says_so_above_what_was_last_heard() {
        let status = fetched(answer()).await;
        let of = |seconds, fault| picture(&status, Duration::from_secs(seconds), fault, Colour::Plain);
        assert!(
            of(1, None).starts_with("live, each second; Ctrl-C ends\ngrayling 0.1.0, up"),
            "{}",
            of(1, None)
        );
        assert!(of(7, None).starts_with("STALE: nothing heard for 7s\ngrayling"), "{}", of(7, None));
        let told = of(75, Some("nothing listens\nhere"));
        assert!(
            told.starts_with("STALE: nothing heard for 1m 15s: nothing listens here\ngrayling"),
            "{told}"
        );
        assert!(told.ends_with(&render(&status, Colour::Plain)));
    }

    #[tokio::test]
    async fn the_exit_code_is_3_only_if_asked_and_rolled_back() {
        let code = |exit_code: bool, status: &StatusBody| {
            let args = Args { watch: false, exit_code, admin: AdminArgs::default(), json: false };
            super::exit_code(&args, status) == ExitCode::from(3)
        };
        let (well, ill) = (fetched(answer()).await, fetched(tripped()).await);
        assert_eq!((code(true, &well), code(true, &ill), code(false, &ill)), (false, true, false));
    }

    #[tokio::test]
    async fn a_watch_into_a_pipe_tells_changes_only() {
        let mut changes = Changes::default();
        let well = fetched(answer()).await;
        let first = "\
grayling 0.1.0, up 13m 32s, config revision 4 of 2026-11-23T06:02:11Z
cbs-v2: progressing, weight 5% in force, new 41 of 812 failed, stable 9 of 15,432, watchdog suspicious
";
        assert_eq!(changes.lines(&well), first);
        let mut counted = well.clone();
        counted.uptime_s += 1;
        counted.releases[0].arms.new.requests += 7;
        counted.releases[0].watchdog.signals[0].evidence_ratio = Some(0.62);
        assert_eq!(changes.lines(&counted), "", "counters alone are no change");

        let ill = fetched(tripped()).await;
        let told = "cbs-v2: rolled back, weight 0% in force, 5% in the file, new 41 of 812 failed, \
                    stable 9 of 15,432, watchdog tripped, tripped by watchdog at 2026-11-23T06:10:02Z, cause errors, \
                    240 ms after onset: new 41 of 812 failed, stable 9 of 15,432\n";
        assert_eq!(changes.lines(&ill), told);

        let mut gone = ill.clone();
        gone.releases.clear();
        assert_eq!(changes.lines(&gone), "cbs-v2: no longer in the config\n");
        assert_eq!(changes.lines(&gone), "");

        assert!(changes.failed() && !changes.failed(), "an outage is told once");
        assert!(changes.lines(&well).starts_with(first), "and so is its end");
    }
}
