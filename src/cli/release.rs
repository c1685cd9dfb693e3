//! `grayling rollback`, `resume`, `pause` and `promote`: a person's decisions on a release.

use super::block_on;
use super::client::{AdminArgs, Client, encoded};
use super::text::{self, shown};
use crate::admin::dto::{ChangeAnswer, ChangeRequest};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling rollback
  grayling rollback cbs-v2 --reason \"invoices are wrong\"

No user is in the new version from the next request on, until `resume` or a raised `attempt`.")]
pub struct RollbackArgs {
    /// The release; may be left out where there is one.
    release: Option<String>,
    /// Why; for the ledger. It may wait.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  grayling resume cbs-v2 --reason \"fixed in build 1142, checked by hand\"

Clears a rollback or a freeze: the weight of the config file is in force again, and the evidence starts afresh; with waves, the
one that was rolled back bakes again. If there is neither, it ends a pause.")]
pub struct ResumeArgs {
    /// The release; may be left out where there is one.
    release: Option<String>,
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
    /// The release; may be left out where there is one.
    release: Option<String>,
    /// Why; for the ledger.
    #[arg(long, value_name = "TEXT", value_parser = not_blank)]
    reason: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  grayling promote cbs-v2 --reason \"testers are content\"

Opens the next wave, whatever the gates say, and tells which of them it skips. Refused while the release is rolled back, frozen or held.")]
pub struct PromoteArgs {
    /// The release; may be left out where there is one.
    release: Option<String>,
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
    change("rollback", args.release, args.reason, args.common)
}

pub fn resume(args: ResumeArgs) -> anyhow::Result<ExitCode> {
    change("resume", args.release, Some(args.reason), args.common)
}

pub fn pause(args: PauseArgs) -> anyhow::Result<ExitCode> {
    change("pause", args.release, Some(args.reason), args.common)
}

pub fn promote(args: PromoteArgs) -> anyhow::Result<ExitCode> {
    change("promote", args.release, Some(args.reason), args.common)
}

fn change(
    verb: &str,
    release: Option<String>,
    reason: Option<String>,
    common: Common,
) -> anyhow::Result<ExitCode> {
    let client = Client::new(&common.admin)?;
    let (release, answer) = block_on(ask(&client, verb, release, reason))?;
    if common.json {
        text::print_json(&answer)?;
    } else {
        text::print(&render(verb, &release, &answer))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(
    client: &Client,
    verb: &str,
    release: Option<String>,
    reason: Option<String>,
) -> anyhow::Result<(String, ChangeAnswer)> {
    let release = client.release(release, verb).await?;
    let path = format!("/api/v1/releases/{}/{verb}", encoded(&release));
    let answer = client.post(&path, &ChangeRequest { reason }).await?;
    Ok((release, answer))
}

fn render(verb: &str, release: &str, answer: &ChangeAnswer) -> String {
    let release = shown(release);
    let next = match verb {
        "rollback" => format!("\n  to let users in again:  grayling resume {release} --reason \"...\""),
        "pause" => format!("\n  to let the waves go on: grayling resume {release} --reason \"...\""),
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
        let (release, answer) = ask(&server.client, "rollback", None, None).await.unwrap();
        assert_eq!(
            render("rollback", &release, &answer),
            "cbs-v2 is rolled back: no user is in new (ledger entry 17)\n  \
             to let users in again:  grayling resume cbs-v2 --reason \"...\"\n"
        );
        assert_eq!(server.requests()[1], format!("{path} [-] [application/json] {{}}"));
    }

    #[tokio::test]
    async fn a_resume_sends_its_reason_and_asks_for_nothing_it_was_told() {
        let resumed = json!({"state": "progressing", "ledger": 18, "message": "5% in force"});
        let server = admin(&[("POST /api/v1/releases/a%2Fb/resume", 200, resumed)]).await;
        let (release, answer) =
            ask(&server.client, "resume", Some("a/b".into()), Some("fixed".into())).await.unwrap();
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
        let asked = |verb: &'static str| ask(&server.client, verb, Some("a".into()), Some("why".into()));
        let (release, answer) = asked("promote").await.unwrap();
        assert_eq!(
            render("promote", &release, &answer),
            "a is progressing: wave `5%` is open; it skips bake (ledger entry 19)\n  to see how it does:     grayling status -w\n"
        );
        let (release, answer) = asked("pause").await.unwrap();
        assert!(render("pause", &release, &answer).ends_with("grayling resume a --reason \"...\"\n"));
    }

    #[tokio::test]
    async fn several_releases_are_never_guessed_from() {
        let server = admin(&[("GET /api/v1/status", 200, status(&["a", "b"]))]).await;
        let fault = ask(&server.client, "rollback", None, None).await.unwrap_err();
        assert!(fault.to_string().contains("as in `grayling rollback a`"), "{fault}");
        assert_eq!(server.requests().len(), 1);
    }
}
