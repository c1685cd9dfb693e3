//! `grayling completions`: prints a shell's completion script.

use super::{Cli, text};
use clap::CommandFactory;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  source <(grayling completions bash)
  grayling completions zsh > ~/.zfunc/_grayling
  grayling completions fish > ~/.config/fish/completions/grayling.fish")]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    text::print(&script(args.shell))?;
    Ok(ExitCode::SUCCESS)
}

fn script(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "grayling", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_completes_our_commands() {
        for shell in clap_complete::Shell::value_variants() {
            let script = script(*shell);
            assert!(script.contains("rollback") && script.contains("exit-code"), "{shell}");
        }
    }
}
