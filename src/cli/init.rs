//! `grayling init`: a commented config file to start from; the very one that `grayling run` takes by default.

use std::io::Write;
use std::process::ExitCode;

/// Prints a commented config file to start from.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: grayling init > grayling.toml")]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(include_bytes!("../../config/grayling.toml"))?;
    Ok(ExitCode::SUCCESS)
}
