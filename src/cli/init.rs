//! `grayling init`: prints a commented config file to start from, or marks a state directory as
//! new.
//!
//! A start with an empty state directory holds releases at 0%, because earlier rollbacks may be
//! lost. In a marked directory no earlier rollbacks exist.

use crate::store::state::{StateDirectory, StateFound};
use anyhow::bail;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Prints a commented config file to start from; or marks a state directory as new.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling init > grayling.toml
  grayling init --state state      before the first start: it has no earlier rollbacks to remember")]
pub struct Args {
    /// Marks this directory as the state directory of a first start. It is created if only its last
    /// part is missing.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(path) = args.state else {
        std::io::stdout().lock().write_all(include_bytes!("../../config/grayling.toml"))?;
        return Ok(ExitCode::SUCCESS);
    };
    let directory = StateDirectory::open(&path)?;
    match directory.load() {
        StateFound::Empty => directory.mark_new()?,
        StateFound::Known(image) if image.releases.is_empty() && image.ledger.n == 0 => {}
        StateFound::Known(image) => bail!(
            "{}: it remembers {} releases and {} decisions, so it is not new; nothing was changed",
            path.display(),
            image.releases.len(),
            image.ledger.n
        ),
        StateFound::Behind(_, why) | StateFound::Lost(why) => {
            bail!("{why}; it is not new, and nothing was changed")
        }
    }
    super::text::print(&format!(
        "{}: marked as new; the next start lets users in as the file has it\n",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
