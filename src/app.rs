//! The composition root: builds the tasks of a proxy, connects them, and orders start and drain.
//!
//! [`Proxy::start`] lists the steps of a start, and `Proxy::end` those of a drain.
//! * `start`: the config, descriptors, sockets, the shared state
//! * `state`: the state directory
//! * `control`: the thread of the control plane
//!
//! Invariants: every thread has an owner here that can stop it. No weight is used before the state
//! has been read.

mod control;
mod start;
mod state;

use self::control::Control;
use self::start::{Addresses, ConfigFile, Descriptors, Edits, Sockets, shared_state};
use self::state::{Disk, OpenedState, tell_lost};
use crate::admin::connection_limit::Capacity;
use crate::config::{self, Diagnostics};
use crate::domain::config::OnStateFailure;
use crate::proxy::listener;
use crate::proxy::worker::ServingStage;
use crate::runtime::shared::{ServingPhase, SharedState};
use crate::store::checkpoints::{self, CheckpointQueue};
use crate::store::state::{Loss, StateError};
use crate::store::state_key::StateKey;
use crate::store::writer::{NotDurable, StateWriter};
use crate::tasks::watchdog::{self, EvidenceFiles};
use crate::telemetry::log::Log;
use serde_json::json;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long the first save of the state may take.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);
/// How long the start waits for the first resolution of names: one name may not resolve.
const RESOLVED_WITHIN: Duration = Duration::from_secs(6);
/// How long the shutdown waits for the disk.
const SCRIBE_GRACE: Duration = Duration::from_secs(5);
/// Requests of signal handlers that may wait.
const ASKS_MAX: usize = 4;

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", .0.render(config::Color::Plain))]
    Config(Diagnostics),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the state directory cannot be used, and [state] on_failure is \"refuse\": {0}")]
    StateRefused(#[source] StateFault),
    #[error("cannot listen on {address} ({name} of [listen])")]
    Listen { name: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFault {
    #[error(transparent)]
    Lost(#[from] Loss),
    #[error(transparent)]
    NotDurable(#[from] NotDurable),
}

/// A running proxy. If it is dropped without [`Proxy::finish`], it stops at once.
pub struct Proxy {
    pub shared: Arc<SharedState>,
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    pub admin: SocketAddr,
    stage: watch::Sender<ServingStage>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    state_writer: Option<JoinHandle<()>>,
    checkpoint_writer: Option<JoinHandle<()>>,
    /// Evidence that waits to be written.
    checkpoint_queue: Arc<CheckpointQueue>,
    commands: tokio::sync::mpsc::Sender<Command>,
}

/// A request from a signal handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Reload,
}

impl Proxy {
    /// Starts the proxy of a config file; returns once it serves.
    pub fn start(path: &Path, log: Log) -> Result<Proxy, StartError> {
        let ConfigFile { checked, source, edits } = ConfigFile::read(path, &log)?;
        let on_failure = checked.config.state.on_failure;
        let descriptors = Descriptors::reserve(&checked.config, &log);
        let OpenedState { disk, found } = OpenedState::open(&checked.config.state, &log)?;
        let (addresses, sockets) = Sockets::bind(&checked.config.listen)?;
        let key = disk.open_key(&log)?;
        let shared = shared_state((checked, source), (found, &disk), key.clone(), &descriptors, log);

        let (commands, asked) = tokio::sync::mpsc::channel(ASKS_MAX);
        let mut proxy = Proxy::without_threads(shared, addresses, commands);
        let archive = proxy.start_writers(disk, key)?;
        proxy.wait_until_durable(on_failure)?;
        proxy.start_control(edits, asked, sockets.admin, descriptors.admin)?;
        proxy.start_workers(sockets.workers)?;
        proxy.start_watchdog(archive)?;
        proxy.announce();
        Ok(proxy)
    }

    fn without_threads(
        shared: Arc<SharedState>,
        Addresses { http, https, admin }: Addresses,
        commands: tokio::sync::mpsc::Sender<Command>,
    ) -> Proxy {
        Proxy {
            shared,
            http,
            https,
            admin,
            stage: watch::Sender::new(ServingStage::Serving),
            stop: Arc::default(),
            workers: vec![],
            watchdog: None,
            control: None,
            state_writer: None,
            checkpoint_writer: None,
            checkpoint_queue: Arc::default(),
            commands,
        }
    }

    /// Starts the threads that write to the disk: the state and the ledger, and the evidence.
    /// Returns the watchdog's archive of evidence.
    fn start_writers(&mut self, disk: Disk, key: StateKey) -> io::Result<Option<EvidenceFiles>> {
        let log = self.shared.log.clone();
        disk.keep_lost_aside(&log);
        let archive = disk.path().map(|path| EvidenceFiles {
            directory: path.to_owned(),
            checkpoint_queue: self.checkpoint_queue.clone(),
        });
        if let Some(directory) = disk.path().map(Path::to_owned) {
            let (checkpoint_queue, key, log) = (self.checkpoint_queue.clone(), key.clone(), log.clone());
            self.checkpoint_writer = Some(thread("checkpoints", move || {
                checkpoints::run(&checkpoint_queue, &directory, &key, &log)
            })?);
        }
        let state_writer = StateWriter { directory: disk.directory, ledger: disk.ledger, key, log };
        let commits = self.shared.commits.clone();
        self.state_writer = Some(thread("state-writer", move || state_writer.run(&commits))?);
        Ok(archive)
    }

    /// Before the first request is decided, the state is on disk, or known not to be.
    fn wait_until_durable(&self, on_failure: OnStateFailure) -> Result<(), StartError> {
        match (self.shared.hold_unless_durable(DURABLE_WITHIN), on_failure) {
            (Ok(()), _) => {}
            (Err(why), OnStateFailure::Refuse) => return Err(StartError::StateRefused(why.into())),
            (Err(why), _) => tell_lost(&self.shared.log, &why),
        }
        Ok(())
    }

    /// Starts the control plane; returns once the names of servers are resolved, so that the first
    /// user finds them.
    fn start_control(
        &mut self,
        edits: Edits,
        asked: tokio::sync::mpsc::Receiver<Command>,
        sockets: Vec<TcpListener>,
        admin_capacity: Capacity,
    ) -> io::Result<()> {
        let control = Control { shared: self.shared.clone(), edits, asked, admin_capacity };
        let (resolved, wait) = std::sync::mpsc::sync_channel(1);
        let stage = self.stage.subscribe();
        self.control = Some(thread("control", move || control.run(sockets, stage, resolved))?);
        // A control plane that failed sends nothing, and has logged why.
        let _ = wait.recv_timeout(RESOLVED_WITHIN);
        Ok(())
    }

    /// Starts the thread of each worker.
    fn start_workers(&mut self, workers: Vec<listener::Listeners>) -> io::Result<()> {
        for (index, listeners) in workers.into_iter().enumerate() {
            let (shared, stage) = (self.shared.clone(), self.stage.subscribe());
            let body = move || {
                if let Err(error) = listener::run(index, listeners, shared.clone(), stage) {
                    shared.log.event("worker_failed", json!({"worker": index, "error": error.to_string()}));
                }
            };
            self.workers.push(thread(format!("worker-{index}"), body)?);
        }
        Ok(())
    }

    fn start_watchdog(&mut self, archive: Option<EvidenceFiles>) -> io::Result<()> {
        let (shared, stop, config) = (self.shared.clone(), self.stop.clone(), self.shared.source().path);
        let body = move || watchdog::run(&shared, &config, &stop, archive.as_ref());
        self.watchdog = Some(thread("watchdog", body)?);
        Ok(())
    }

    fn announce(&self) {
        let http = self.http.iter().map(|address| ("http", address));
        let https = self.https.iter().map(|address| ("https", address));
        for (name, address) in http.chain(https).chain([("admin", &self.admin)]) {
            self.shared.log.event("listening", json!({"name": name, "address": address.to_string()}));
        }
        self.shared.gauges.enter(ServingPhase::Serving);
    }

    /// For HUP: reads the file again, even if it has not changed.
    pub fn commands(&self) -> tokio::sync::mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Finishes requests in flight, within `[limits] drain`, and ends every thread.
    pub fn finish(mut self) {
        self.shared.gauges.enter(ServingPhase::Draining);
        let _ = self.stage.send(ServingStage::Draining);
        self.end();
    }

    /// Ends a drain on another thread at once.
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let stage = self.stage.clone();
        move || {
            let _ = stage.send(ServingStage::Stopping);
        }
    }

    /// Ends every thread, in the order of the drain.
    fn end(&mut self) {
        self.join_workers();
        self.stop_watchdog();
        self.stop_control();
        self.stop_writers();
        self.shared.log.flush();
    }

    /// A worker ends once its requests in flight are finished, or at [`ServingStage::Stopping`].
    fn join_workers(&mut self) {
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }

    fn stop_watchdog(&mut self) {
        self.stop.store(true, Relaxed);
        self.watchdog.take().map(JoinHandle::join);
    }

    /// Closes the admin API, and sends the last traces.
    fn stop_control(&mut self) {
        let _ = self.stage.send(ServingStage::Stopping);
        self.control.take().map(JoinHandle::join);
    }

    /// Makes the unannounced changes durable.
    /// A disk that hangs must not block the exit: its pending writes are reported as not durable.
    fn stop_writers(&mut self) {
        self.shared.commits.close();
        self.checkpoint_queue.close();
        let until = Instant::now() + SCRIBE_GRACE;
        for writer in [self.state_writer.take(), self.checkpoint_writer.take()].into_iter().flatten() {
            while !writer.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.stage.send(ServingStage::Stopping);
        self.end();
    }
}

fn thread(name: impl Into<String>, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.into()).spawn(body)
}
