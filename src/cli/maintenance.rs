//! `grayling maintenance`: for a while the ceilings of a release only report, and its waves hold.

use super::block_on;
use super::client::{AdminArgs, AdminClient, encoded};
use super::text::{self, shown};
use crate::admin::dto::{ChangeAnswer, MaintenanceRequest};
use crate::admin::maintenance::length_of;
use crate::domain::maintenance::check_change;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling maintenance cbs-v2 --for 30m --change CHG-123 --reason \"the database moves\"
  grayling maintenance cbs-v2 --end

For that time the ceilings and `both_arms` only report, and waves hold. The comparison with stable, the fuse and harm_users_max go on.
It ends by itself. The same change again lengthens it.")]
pub struct Args {
    /// The release; optional if there is only one.
    release: Option<String>,
    /// How long, as 30m or 2h; at most 24h.
    #[arg(long = "for", value_name = "TIME", value_parser = length, required_unless_present = "end")]
    length: Option<String>,
    /// The id of the change that needs it.
    #[arg(long, value_name = "ID", value_parser = change, required_unless_present = "end")]
    change: Option<String>,
    /// Ends the current one before its time.
    #[arg(long, conflicts_with_all = ["length", "change"])]
    end: bool,
    /// Why; for the ledger.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&args.admin)?;
    let Args { length, change, end, reason, .. } = args;
    let request = MaintenanceRequest { length, change, reason, end };
    let (release, answer) = block_on(ask(&client, args.release, request))?;
    if args.json {
        text::print_json(&answer)?;
    } else {
        text::print(&render(&release, end, &answer))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(
    client: &AdminClient,
    release: Option<String>,
    request: MaintenanceRequest,
) -> anyhow::Result<(String, ChangeAnswer)> {
    let release = client.release(release, "maintenance").await?;
    let path = format!("/api/v1/releases/{}/maintenance", encoded(&release));
    let answer = client.post(&path, &request).await?;
    Ok((release, answer))
}

fn render(release: &str, end: bool, answer: &ChangeAnswer) -> String {
    let release = shown(release);
    let next = match end {
        true => "\n  to see how it does:   grayling status -w".to_owned(),
        false => format!("\n  to end it early:      grayling maintenance {release} --end"),
    };
    let (state, message) = (answer.state.words(), shown(&answer.message));
    format!("{release} is {state}: {message} (ledger entry {}){next}\n", answer.ledger)
}

/// Checked here so that a typing error is reported at once; the text is sent unchanged.
fn length(text: &str) -> Result<String, String> {
    length_of(text).map(|_| text.to_owned()).map_err(|fault| fault.to_string())
}

fn change(text: &str) -> Result<String, String> {
    check_change(text).map(str::to_owned).map_err(|fault| fault.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::client::scripted::admin;
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn it_sends_what_was_typed_and_prints_how_to_end_it() {
        let begun = json!({"state": "progressing", "ledger": 9, "message": "maintenance CHG-1 until T"});
        let path = "POST /api/v1/releases/a/maintenance";
        let server = admin(&[(path, 200, begun)]).await;
        let request = MaintenanceRequest {
            length: Some("30m".into()),
            change: Some("CHG-1".into()),
            ..MaintenanceRequest::default()
        };
        let (release, answer) = ask(&server.client, Some("a".into()), request).await.unwrap();
        assert_eq!(
            render(&release, false, &answer),
            "a is progressing: maintenance CHG-1 until T (ledger entry 9)\n  \
             to end it early:      grayling maintenance a --end\n"
        );
        let sent = server.requests().remove(0);
        assert_eq!(sent, format!("{path} [-] [application/json] {{\"for\":\"30m\",\"change\":\"CHG-1\"}}"));
    }
}
