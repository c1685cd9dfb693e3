//! STUB, to be replaced at the merge.

use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  grayling schema")]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`schema` is not built yet")
}
