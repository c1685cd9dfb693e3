//! The command line: one file per command; the command tree and the exit codes are here.
//!
//! Invariants: a command returns its exit code, and never ends the process itself. Output for
//! people or scripts goes to stdout through [`text::print`]; an error goes to stderr, once, here.
//! A closed pipe (`| head`) is not an error.

mod affected;
mod check;
mod client;
mod completions;
mod demo;
mod explain;
mod health;
mod init;
mod ledger;
mod maintenance;
mod release;
mod run;
mod schema;
mod screen;
mod status;
mod text;
mod verify;

use self::client::ClientError;
use crate::config;
use crate::domain::config::Config;
use clap::{Parser, Subcommand};
use http::StatusCode;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// Runtime failure.
pub const EXIT_FAILURE: u8 = 1;
/// clap's exit code for malformed arguments.
pub const EXIT_USAGE: u8 = 2;
/// A release is rolled back, and `--exit-code` was given.
pub const EXIT_ROLLED_BACK: u8 = 3;
/// The config file is not valid (`EX_CONFIG` of sysexits).
pub const EXIT_INVALID_CONFIG: u8 = 78;

/// A gray-release proxy: splits users between two versions of a service, watches both, and takes
/// the new one out when it is worse.
#[derive(Debug, Parser)]
#[command(
    name = "grayling",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:
  grayling demo                            see it all, with nothing set up
  grayling init > grayling.toml            a commented file to start from
  grayling run -c grayling.toml            the proxy
  grayling status                          how both versions are doing

Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 rolled back (status --exit-code), 78 invalid config."
)]
pub struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Show the main job with nothing set up: a bad release, caught and rolled back.
    Demo(demo::Args),
    /// Run the proxy.
    Run(run::Args),
    /// Report every fault of a config file, each with its line and what to type.
    Check(check::Args),
    /// Print a commented config file to start from.
    Init(init::Args),
    /// Show which version a user gets, and why.
    Explain(explain::Args),
    /// Show how each release is doing, both versions side by side.
    Status(status::Args),
    /// Take all users out of the new version, now.
    Rollback(release::RollbackArgs),
    /// Let users into the new version again after a rollback.
    Resume(release::ResumeArgs),
    /// Hold the waves of a release where they are.
    Pause(release::PauseArgs),
    /// Open the next wave of a release; a gate that fails needs `--despite`.
    Promote(release::PromoteArgs),
    /// Let the ceilings of a release only report for a while, and hold its waves.
    Maintenance(maintenance::Args),
    /// Show the decisions taken, with their evidence.
    Ledger(ledger::Args),
    /// List the users who were in the new version in a period, and those it failed.
    Affected(affected::Args),
    /// Exit 0 if the proxy is ready, else 1: a probe for containers.
    Health(health::Args),
    /// Print the JSON schema of the config file.
    Schema(schema::Args),
    /// Print the completions of a shell.
    Completions(completions::Args),
}

/// Runs the command of the arguments.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        CliCommand::Demo(args) => demo::run(args),
        CliCommand::Run(args) => run::run(args),
        CliCommand::Check(args) => check::run(args, |args| {
            client::AdminClient::running(args.against.as_deref(), args.token_file.as_deref())
        }),
        CliCommand::Init(args) => init::run(args),
        CliCommand::Explain(args) => explain::run(args),
        CliCommand::Status(args) => status::run(args),
        CliCommand::Rollback(args) => release::rollback(args),
        CliCommand::Resume(args) => release::resume(args),
        CliCommand::Pause(args) => release::pause(args),
        CliCommand::Promote(args) => release::promote(args),
        CliCommand::Maintenance(args) => maintenance::run(args),
        CliCommand::Ledger(args) => ledger::run(args),
        CliCommand::Affected(args) => affected::run(args),
        CliCommand::Health(args) => health::run(args),
        CliCommand::Schema(args) => schema::run(args),
        CliCommand::Completions(args) => completions::run(args),
    }
}

/// The config file has faults; the text lists them all, formatted for people.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(pub String);

/// The arguments are incomplete; the text contains what to type.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// The plan of a config file; or its faults, as an error with the matching exit code.
fn config_of(path: &Path) -> anyhow::Result<Config> {
    match config::load(path).result {
        Ok(checked) => Ok(checked.config),
        Err(report) => Err(InvalidConfig(report.render(text::Colour::of_stderr().into())).into()),
    }
}

/// The text of an error, then those of its causes that it does not end with.
fn with_causes(fault: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in fault.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints an error to stderr, and returns its exit code. The only place where errors of commands
/// end.
pub fn exit_code_of(fault: &anyhow::Error) -> ExitCode {
    // Only stdout leaves a plain I/O error at the top: errors of files and connections have a
    // context.
    if fault.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    if let Some(InvalidConfig(report)) = fault.downcast_ref() {
        text::complain(report);
        return ExitCode::from(EXIT_INVALID_CONFIG);
    }
    text::complain(&format!("error: {}", with_causes(fault)));
    let bad_request = StatusCode::BAD_REQUEST;
    let refused = |e: &ClientError| matches!(e, ClientError::Answer { status, .. } if *status == bad_request);
    if fault.is::<Usage>() || fault.downcast_ref().is_some_and(refused) {
        return ExitCode::from(EXIT_USAGE);
    }
    ExitCode::from(EXIT_FAILURE)
}

/// Runs a client of the proxy; one thread is enough for that.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_help_with_an_example() {
        let tree = Cli::command();
        tree.clone().debug_assert();
        for command in tree.get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let example = format!("grayling {}", command.get_name());
            assert!(help.contains(&example), "{} has no example", command.get_name());
        }
    }

    #[test]
    fn what_is_typed_is_understood_or_refused() {
        let understood =
            |line: &str| Cli::try_parse_from(line.split(' ')).map(|_| ()).map_err(|e| e.exit_code());
        for line in [
            "grayling status",
            "grayling status -w --exit-code --json",
            "grayling status --admin http://[::1]:9900 --token-file t",
            "grayling explain --user alice",
            "grayling explain --user alice --release r -c grayling.toml",
            "grayling rollback",
            "grayling rollback r --reason slow",
            "grayling resume --reason fixed",
            "grayling resume r --reason fixed",
            "grayling pause --reason lunch",
            "grayling promote r --reason content",
            "grayling maintenance --for 30m --change CHG-123",
            "grayling maintenance r --for 30m --change CHG-123 --reason moves --json",
            "grayling maintenance r --end",
            "grayling ledger --since 4 --json",
            "grayling ledger --verify --json",
            "grayling affected --since 2h",
            "grayling affected r --since 2026-11-23T06:00:00Z --until 30m --users u.txt -c grayling.toml --json",
            "grayling ledger --verify -c grayling.toml",
            "grayling ledger --verify --state state --anchor 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
            "grayling health --admin http://127.0.0.1:1",
            "grayling completions zsh",
            "grayling demo --chaos latency --seconds 20 --http 127.0.0.1:0 --admin 127.0.0.1:0",
            "grayling run -c grayling.toml",
        ] {
            assert_eq!(understood(line), Ok(()), "{line}");
        }
        for line in [
            "grayling",
            "grayling explain",
            "grayling explain --user alice -c f --admin http://127.0.0.1:9900",
            "grayling resume r",
            "grayling resume r --reason ",
            "grayling ledger --state state",
            "grayling affected",
            "grayling affected --since yesterday",
            "grayling affected --since 2h --key-file k --state state -c grayling.toml",
            "grayling ledger --verify --state state --admin http://127.0.0.1:1",
            "grayling ledger --verify --anchor 12",
            "grayling ledger --since -1",
            "grayling pause r",
            "grayling maintenance r",
            "grayling maintenance r --for 30m",
            "grayling maintenance r --change CHG-123",
            "grayling maintenance r --for 25h --change CHG-123",
            "grayling maintenance r --for 30 --change CHG-123",
            "grayling maintenance r --end --for 30m --change CHG-123",
            "grayling promote r",
            "grayling affected r",
            "grayling demo --chaos cents",
            "grayling completions cobol",
        ] {
            assert_eq!(understood(line), Err(2), "{line}");
        }
    }

    #[test]
    fn a_cause_is_printed_once() {
        let full = || io::Error::other("disk full");
        let has_it = anyhow::Error::new(full()).context("cannot save: disk full");
        assert_eq!(with_causes(&has_it), "cannot save: disk full");
        assert_eq!(with_causes(&anyhow::Error::new(full()).context("cannot save")), "cannot save: disk full");
    }

    #[test]
    fn exit_codes_tell_a_broken_pipe_an_invalid_config_and_the_rest_apart() {
        let code = |fault: anyhow::Error| format!("{:?}", exit_code_of(&fault));
        let is = |n: u8| format!("{:?}", ExitCode::from(n));
        assert_eq!(code(io::Error::from(io::ErrorKind::BrokenPipe).into()), is(0));
        assert_eq!(code(InvalidConfig("no".into()).into()), is(78));
        assert_eq!(code(anyhow::anyhow!("no")), is(1));
        assert_eq!(code(io::Error::from(io::ErrorKind::NotFound).into()), is(1));
    }
}
