//! The binary: parses the arguments, runs a command, and maps its result to an exit code.

use clap::Parser;
use grayling::cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Usage errors end here, with exit code 2.
    let arguments = cli::Cli::parse();
    cli::run(arguments).unwrap_or_else(|fault| cli::exit_code_of(&fault))
}
