//! `grayling health`: a readiness probe for containers, which have no curl.
//!
//! The exit code follows the status of `/readyz` alone. Other faults are printed only, because they
//! must not take the proxy out of service.

use super::client::{AdminArgs, AdminClient};
use super::text::{self, shown};
use super::{EXIT_FAILURE, block_on};
use crate::admin::dto::{PhaseLabel, ReadyDetails};
use std::fmt::Write;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling health
  grayling health --admin http://127.0.0.1:9900 || echo not ready

Exits 0 if the proxy is ready, 1 if it starts, drains or does not answer.")]
pub struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print the details as JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = AdminClient::new(&args.admin)?;
    let (status, details) =
        block_on(async { Ok(client.fetch_in_any_status::<ReadyDetails>("/readyz").await?) })?;
    if args.json {
        text::print_json(&details)?;
    } else {
        text::print(&render(&details))?;
    }
    Ok(if status.is_success() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

fn render(details: &ReadyDetails) -> String {
    let mut out = String::from(match details.phase {
        PhaseLabel::Serving => "ready\n",
        PhaseLabel::Starting => "not ready: starting\n",
        PhaseLabel::Draining => "not ready: draining\n",
    });
    if let Some(fault) = &details.last_reload_error {
        let _ = writeln!(out, "the last reload failed, the config before serves on: {}", shown(fault));
    }
    for arm in &details.arms_without_server {
        let _ = writeln!(out, "no healthy server: {}", shown(arm));
    }
    for held in &details.releases_held {
        let _ = writeln!(out, "held: {}", shown(held));
    }
    if let Some(fault) = &details.state_error {
        let _ = writeln!(out, "the state is not durable: {}", shown(fault));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::client::scripted::admin;
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn readiness_is_the_status_and_the_details_are_told() {
        let body = json!({"phase": "serving", "last_reload_error": "line 3: unknown key",
                          "arms_without_server": ["cbs-v2/new"], "releases_held": ["v2: rolled back"],
                          "state_error": "disk full"});
        for (code, body, told) in [
            (200, json!({"phase": "serving"}), "ready\n"),
            (503, json!({"phase": "starting"}), "not ready: starting\n"),
            (503, json!({"phase": "draining"}), "not ready: draining\n"),
            (
                200,
                body,
                "ready\nthe last reload failed, the config before serves on: line 3: unknown key\n\
                 no healthy server: cbs-v2/new\nheld: v2: rolled back\nthe state is not durable: disk full\n",
            ),
        ] {
            let server = admin(&[("GET /readyz", code, body)]).await;
            let (status, details) = server.client.fetch_in_any_status("/readyz").await.unwrap();
            assert_eq!((status.as_u16(), render(&details).as_str()), (code, told));
        }
    }
}
