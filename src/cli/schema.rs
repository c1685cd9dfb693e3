//! `grayling schema`: the JSON schema of the config file, for editors.

use std::io::Write;
use std::process::ExitCode;

/// Prints the JSON schema of the config file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: grayling schema > grayling.schema.json")]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(crate::config::schema::json_schema().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
