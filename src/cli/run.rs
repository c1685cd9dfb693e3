//! `grayling run`: the proxy, until a signal ends it.
//!
//! HUP reads the file again. TERM and INT drain and exit 0; a second one ends at once. USR2 is
//! logged and ignored.

use super::InvalidConfig;
use crate::app::{Command, Proxy, StartError};
use crate::telemetry::log::Log;
use anyhow::Context;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

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

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::block_on(async move {
        // First of all: an early signal must not kill the process instead of draining it.
        let mut hangup = signal(SignalKind::hangup())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut upgrade = signal(SignalKind::user_defined2())?;
        let log = Log::to_stdout().context("cannot start the log's thread")?;
        let path = args.config.clone();
        let started = {
            let log = log.clone();
            tokio::task::spawn_blocking(move || Proxy::start(&path, log)).await?
        };
        let proxy = match started {
            Ok(proxy) => proxy,
            Err(error @ StartError::Config(_)) => {
                return Err(InvalidConfig(error.to_string()).into());
            }
            Err(error) => return Err(error.into()),
        };
        let commands = proxy.commands();
        loop {
            tokio::select! {
                _ = hangup.recv() => {
                    // Full: a reload is already queued.
                    let _ = commands.try_send(Command::Reload);
                }
                _ = upgrade.recv() => {
                    log.event("signal_ignored", json!({"signal": "USR2", "reason": "upgrade without a restart is not built yet"}));
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        log.event("draining", json!({}));
        let stop = proxy.stopper();
        let drained = tokio::task::spawn_blocking(move || proxy.finish());
        tokio::pin!(drained);
        tokio::select! {
            _ = &mut drained => {}
            _ = async { tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} } } => {
                stop();
                let _ = drained.await;
            }
        }
        log.event("ended", json!({}));
        log.flush();
        Ok(ExitCode::SUCCESS)
    })
}
