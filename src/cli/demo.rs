//! STUB, to be replaced at the merge: `grayling demo`. The arguments are as they should stay.

use std::net::SocketAddr;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling demo                    the new version starts to fail; see it taken out
  grayling demo --chaos latency    it becomes slow instead
  grayling demo --chaos none       nothing is wrong; see it stay

Exits 0 if the rollback happened (with `--chaos none`: if it did not).")]
pub struct Args {
    /// What is wrong with the new version.
    #[arg(long, value_enum, default_value_t = Chaos::Errors)]
    pub chaos: Chaos,
    /// How long the demo may take.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(5..=3600))]
    pub seconds: u64,
    /// Where the proxy listens; a free port if this one is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub http: SocketAddr,
    /// Where the admin API listens; a free port if this one is taken.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9900")]
    pub admin: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Chaos {
    /// It answers 500.
    Errors,
    /// It becomes so slow that the latency ceiling trips.
    Latency,
    /// Nothing.
    None,
}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("`demo` is not built yet")
}
