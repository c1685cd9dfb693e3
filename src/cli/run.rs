//! STUB, to be replaced at the merge: `grayling run`. The arguments are as they should stay.

use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling run
  grayling run -c /etc/grayling/grayling.toml

Save the file, and the new weights are in force. HUP reads it again; TERM drains and exits.")]
pub struct Args {
    /// The config file.
    #[arg(short, long, value_name = "FILE", default_value = "config/grayling.toml")]
    pub config: PathBuf,
}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`run` is not built yet")
}
