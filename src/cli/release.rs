//! `grayling rollback`, `resume`, `pause` and `promote`: manual decisions on a release.

use super::client::{AdminArgs, AdminClient, encoded};
use super::text::{self, shown};
use super::{Usage, block_on};
use crate::admin::dto::{ChangeAnswer, ChangeRequest, StatusBody};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling rollback
  grayling rollback cbs-v2 --reason \"invoices are wrong\"

No user is in the new version from the next request on, until `resume` or a raised `attempt`.")]
pub struct RollbackArgs {
    /// The release; optional if there is only one.
    release: Option<String>,
    /// The reason, for the ledger; optional.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  grayling resume cbs-v2 --ends rollback --reason \"fixed in build 1142, checked by hand\"

Ends one thing that holds the release; or what the watchdog has found, where that is accepted: the notice that `new` is slower, which holds nothing, or the alarm
that it does worse than in its own past, which keeps the release from becoming complete. After a rollback, a freeze or a hold the evidence starts afresh. After a rollback the weight of the
config file is in force again; a release with waves goes on in its first one, or in the one that --at names.")]
pub struct ResumeArgs {
    /// The release; optional if there is only one.
    release: Option<String>,
    /// What it ends: rollback, freeze, hold, pause, notice or alarm. Optional if exactly one thing
    /// holds the release and it is not a rollback.
    #[arg(long, value_name = "WHAT", value_parser = ["rollback", "freeze", "hold", "pause", "notice", "alarm"])]
    ends: Option<String>,
    /// The wave to go on in after a rollback [default: the first one]
    #[arg(long, value_name = "WAVE")]
    at: Option<String>,
    /// Why it is safe now; for the ledger.
    #[arg(long, value_name = "TEXT", value_parser = not_blank)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  grayling pause cbs-v2 --reason \"month end: nothing moves\"

Holds the waves where they are, until `resume`. The weight stays, and the watchdog goes on.")]
pub struct PauseArgs {
    /// The release; optional if there is only one.
    release: Option<String>,
    /// Why; for the ledger.
    #[arg(long, value_name = "TEXT", value_parser = not_blank)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  grayling promote cbs-v2 --to 5% --reason \"testers are content\"

Opens the next wave, which --to names, and prints the gates that it skips. A wave that is open already stays open, and nothing changes.
A gate that fails needs --despite. Refused while the release is rolled back, frozen or held.")]
pub struct PromoteArgs {
    /// The release; optional if there is only one.
    release: Option<String>,
    /// The wave to open, by name or by weight: the next one. Without it, the state is printed.
    #[arg(long, value_name = "WAVE")]
    to: Option<String>,
    /// A gate that may fail; may be given more than once.
    #[arg(long, value_name = "GATE")]
    despite: Vec<String>,
    /// Why it may; for the ledger.
    #[arg(long, value_name = "TEXT", value_parser = not_blank)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub fn rollback(args: RollbackArgs) -> anyhow::Result<ExitCode> {
    let request = ChangeRequest { reason: args.reason, ..ChangeRequest::default() };
    change("rollback", args.release, request, args.common)
}

pub fn resume(args: ResumeArgs) -> anyhow::Result<ExitCode> {
    let request =
        ChangeRequest { reason: Some(args.reason), ends: args.ends, at: args.at, ..ChangeRequest::default() };
    change("resume", args.release, request, args.common)
}

pub fn pause(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let request = ChangeRequest { reason: Some(args.reason), ..ChangeRequest::default() };
    change("pause", args.release, request, args.common)
}

pub fn promote(args: PromoteArgs) -> anyhow::Result<ExitCode> {
    let request = ChangeRequest {
        reason: Some(args.reason),
        wave: args.to,
        despite: args.despite,
        ..ChangeRequest::default()
    };
    change("promote", args.release, request, args.common)
}

fn change(
    verb: &str,
    release: Option<String>,
    request: ChangeRequest,
    common: Common,
) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&common.admin)?;
    let (release, answer) = block_on(ask(&client, verb, release, request))?;
    if common.json {
        text::print_json(&answer)?;
    } else {
        text::print(&render(verb, &release, &answer))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(
    client: &AdminClient,
    verb: &str,
    release: Option<String>,
    request: ChangeRequest,
) -> anyhow::Result<(String, ChangeAnswer)> {
    let release = client.release(release, verb).await?;
    if verb == "promote" && request.wave.is_none() {
        return Err(next_wave(client, &release).await?.into());
    }
    let path = format!("/api/v1/releases/{}/{verb}", encoded(&release));
    let answer = client.post(&path, &request).await?;
    Ok((release, answer))
}

/// The usage error of a promote without `--to`. An older server would open the next wave instead,
/// so the request is not sent.
async fn next_wave(client: &AdminClient, release: &str) -> anyhow::Result<Usage> {
    let status: StatusBody = client.get("/api/v1/status").await?;
    let Some(found) = status.releases.into_iter().find(|r| r.name == release) else {
        return Ok(Usage(format!("no release is called `{}`", shown(release))));
    };
    let present = match &found.wave {
        Some(wave) => format!("the present wave is `{}`", shown(wave)),
        None => "no wave is open yet".to_owned(),
    };
    let next = match found.progress.as_ref().and_then(|p| p.next.as_ref()) {
        Some(next) => format!(
            "the next is `{0}`; to open it:\n  grayling promote {1} --to '{0}' --reason \"...\"",
            shown(next),
            shown(release)
        ),
        None => "no wave comes after it".to_owned(),
    };
    let (state, weight) = (found.state.words(), found.weight);
    Ok(Usage(format!(
        "a promote names the wave to open (--to WAVE)\n  {} is {state}, {weight}% of users are in new; {present}; {next}",
        shown(release)
    )))
}

fn render(verb: &str, release: &str, answer: &ChangeAnswer) -> String {
    let release = shown(release);
    let next = match verb {
        "rollback" => {
            format!("\n  to let users in again:  grayling resume {release} --ends rollback --reason \"...\"")
        }
        "pause" => {
            format!("\n  to let the waves go on: grayling resume {release} --ends pause --reason \"...\"")
        }
        _ => "\n  to see how it does:     grayling status -w".to_owned(),
    };
    let (state, message) = (answer.state.words(), shown(&answer.message));
    format!("{release} is {state}: {message} (ledger entry {}){next}\n", answer.ledger)
}

fn not_blank(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("say why: it is what people read in the ledger later".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::scripted::admin;
    use super::*;
    use serde_json::{Value, json};

    fn because(reason: &str) -> ChangeRequest {
        ChangeRequest { reason: Some(reason.into()), ..ChangeRequest::default() }
    }

    fn status(names: &[&str]) -> Value {
        let release = |name: &&str| {
            json!({"name": name, "attempt": 1, "state": "progressing", "weight": 5.0, "weight_configured": 5.0,
                   "arms": {"stable": {}, "new": {}}, "watchdog": {"state": "quiet"}})
        };
        let releases: Vec<_> = names.iter().map(release).collect();
        json!({"version": "0.1.0", "uptime_s": 1, "releases": releases,
               "config": {"revision": 1, "sha256": "", "loaded_at": "", "last_error": null}})
    }

    #[tokio::test]
    async fn a_rollback_finds_the_one_release_and_needs_no_reason() {
        let tripped = json!({"state": "rolled_back", "ledger": 17, "message": "no user is in new"});
        let path = "POST /api/v1/releases/cbs%2Dv2/rollback";
        let server = admin(&[("GET /api/v1/status", 200, status(&["cbs-v2"])), (path, 200, tripped)]).await;
        let (release, answer) =
            ask(&server.client, "rollback", None, ChangeRequest::default()).await.unwrap();
        assert_eq!(
            render("rollback", &release, &answer),
            "cbs-v2 is rolled back: no user is in new (ledger entry 17)\n  \
             to let users in again:  grayling resume cbs-v2 --ends rollback --reason \"...\"\n"
        );
        assert_eq!(server.requests()[1], format!("{path} [-] [application/json] {{}}"));
    }

    #[tokio::test]
    async fn a_resume_sends_its_reason_and_asks_for_nothing_it_was_told() {
        let resumed = json!({"state": "progressing", "ledger": 18, "message": "5% in force"});
        let server = admin(&[("POST /api/v1/releases/a%2Fb/resume", 200, resumed)]).await;
        let (release, answer) =
            ask(&server.client, "resume", Some("a/b".into()), because("fixed")).await.unwrap();
        assert_eq!(
            render("resume", &release, &answer),
            "a/b is progressing: 5% in force (ledger entry 18)\n  to see how it does:     grayling status -w\n"
        );
        assert_eq!(
            server.requests(),
            [r#"POST /api/v1/releases/a%2Fb/resume [-] [application/json] {"reason":"fixed"}"#]
        );
    }

    #[tokio::test]
    async fn a_promote_tells_what_it_skips_and_a_pause_how_it_ends() {
        let promoted =
            json!({"state": "progressing", "ledger": 19, "message": "wave `5%` is open; it skips bake"});
        let paused = json!({"state": "paused", "ledger": 20, "message": "paused in wave `5%`"});
        let server = admin(&[
            ("POST /api/v1/releases/a/promote", 200, promoted),
            ("POST /api/v1/releases/a/pause", 200, paused),
        ])
        .await;
        let asked = |verb: &'static str| {
            let request = ChangeRequest { wave: Some("5%".into()), ..because("why") };
            ask(&server.client, verb, Some("a".into()), request)
        };
        let (release, answer) = asked("promote").await.unwrap();
        assert_eq!(
            render("promote", &release, &answer),
            "a is progressing: wave `5%` is open; it skips bake (ledger entry 19)\n  to see how it does:     grayling status -w\n"
        );
        let (release, answer) = asked("pause").await.unwrap();
        assert!(
            render("pause", &release, &answer).ends_with("grayling resume a --ends pause --reason \"...\"\n")
        );
    }

    #[tokio::test]
    async fn a_promote_without_a_wave_opens_nothing_and_prints_the_command_to_type() {
        let mut told = status(&["a"]);
        told["releases"][0]["wave"] = json!("1%");
        told["releases"][0]["progress"] = json!({"number": 1, "next": "5%"});
        let server = admin(&[("GET /api/v1/status", 200, told)]).await;
        let fault = ask(&server.client, "promote", Some("a".into()), because("why")).await.unwrap_err();
        assert!(fault.downcast_ref::<Usage>().is_some());
        assert!(fault.to_string().contains("the present wave is `1%`"), "{fault}");
        assert!(fault.to_string().contains("grayling promote a --to '5%' --reason"), "{fault}");
        assert_eq!(server.requests().len(), 1);
    }

    #[tokio::test]
    async fn several_releases_are_never_guessed_from() {
        let server = admin(&[("GET /api/v1/status", 200, status(&["a", "b"]))]).await;
        let fault = ask(&server.client, "rollback", None, ChangeRequest::default()).await.unwrap_err();
        assert!(fault.to_string().contains("as in `grayling rollback a`"), "{fault}");
        assert_eq!(server.requests().len(), 1);
    }
}
