//! `grayling schema`: the JSON schema of the config file, for editors.

use std::io::Write;
use std::process::ExitCode;

/// Prints the JSON schema of the config file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: grayling schema > grayling.schema.json")]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    std::io::stdout().lock().write_all(crate::config::file::schema().as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_in_the_repository_is_this_one() {
        let stored = include_str!("../../config/grayling.schema.json");
        let now = crate::config::file::schema();
        assert!(stored == now, "write it anew: cargo run -- schema > config/grayling.schema.json");
    }
}
