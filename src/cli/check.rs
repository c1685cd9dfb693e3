//! STUB, to be replaced at the merge.

use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  grayling check")]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`check` is not built yet")
}
