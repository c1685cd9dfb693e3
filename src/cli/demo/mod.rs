//! `grayling demo`: the main use case without any setup. It runs two versions, users and the proxy,
//! raises the weight, breaks `new`, and reports the proxy's reaction.
//!
//! Invariants: only the fault and the weight edits are scripted. The watchdog is the product's, and
//! the report comes from its status and ledger. It ends within `--seconds`; exit 0 iff the expected
//! outcome occurred.

mod origin;
mod screen;
mod stage;
mod story;
mod users;
mod words;

use super::{EXIT_FAILURE, block_on};
use anyhow::Context;
use screen::DemoScreen;
use stage::DemoSetup;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use story::{DemoScript, Ending};
use tokio::signal::unix::{SignalKind, signal};

/// Time for a clean shutdown of the proxy and the versions.
const ENDING: Duration = Duration::from_secs(1);

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

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut screen = DemoScreen::new();
    words::title(&mut screen, args.chaos, args.seconds)?;
    block_on(async move {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (http, admin) = (args.http, args.admin);
        let setting = tokio::task::spawn_blocking(move || DemoSetup::set(http, admin, story::FIRST_WEIGHT));
        let stage = setting.await.context("the demo could not be set up")??;
        let end = screen.start + Duration::from_secs(args.seconds).saturating_sub(ENDING);
        let ending = {
            let mut story = DemoScript::new(&stage, &mut screen, args.chaos, end);
            let broken_off = tokio::select! {
                ending = story.run() => Err(ending),
                _ = interrupt.recv() => Ok(Ending::Interrupted),
                _ = terminate.recv() => Ok(Ending::Interrupted),
                // Only if a step hangs: each has its own time limit.
                () = tokio::time::sleep_until(end.into()) => Ok(Ending::OutOfTime),
            };
            broken_off.map_or_else(|told| told, |why| Ok(story.broken_off(why)))
        };
        let next = words::what_to_try(&stage, ending.as_ref().ok());
        // Also after an interruption: pending requests are answered.
        tokio::task::spawn_blocking(move || stage.strike()).await.context("the demo could not be ended")?;
        let ending = ending?;
        screen.line(next)?;
        Ok(if ending.as_it_should_be(args.chaos) { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
    })
}
