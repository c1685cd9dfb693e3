//! The composition root: builds the tasks of a proxy, connects them, and orders start and drain.
//!
//! Start: config → state directory (before any weight is used) → sockets → threads → ready.
//! Drain: not ready → workers stop accepting and finish requests in flight → watchdog → admin, the
//! last traces → unannounced changes are made durable → log.
//!
//! Invariants: every thread has an owner here that can stop it. No weight is used before the state
//! has been read.

use crate::admin::auth::AuthState;
use crate::admin::events::Hub;
use crate::admin::room::Capacity;
use crate::admin::routes;
use crate::admin::serve::serve as admin_serve;
use crate::config::{self, Diagnostics, watcher::Watcher};
use crate::domain::plan::{OnStateFailure, Plan};
use crate::live::apply::{Live, Phase, Source};
use crate::live::clock;
use crate::live::keeper::{self, Shelf};
use crate::live::ledger::Ledger;
use crate::live::log::Log;
use crate::live::private;
use crate::live::scribe::Scribe;
use crate::live::state::{Found, Image, StateDirectory, StateError};
use crate::live::state_key::{self, Origin as KeyOrigin, StateKey};
use crate::net::{listen, resolve};
use crate::proxy::serve::{self, Stage};
use crate::watch::probes::Probes;
use crate::watch::watchdog::{self, Archive};
use crate::watch::{alert, conductor, memory, resource, traces};
use serde_json::json;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Tasks of the control plane between two polls of its sockets.
const CONTROL_TASKS_MAX: u32 = 4;
/// How long the first save of the state may take.
const DURABLE_WITHIN: Duration = Duration::from_secs(10);
/// How long the shutdown waits for the disk.
const SCRIBE_GRACE: Duration = Duration::from_secs(5);
/// Bounds on the descriptors reserved from clients and servers: a quarter, within these bounds.
/// The process needs some of them; the rest is for admin connections, so that neither port can
/// starve the other.
const DESCRIPTORS_MIN: u64 = 64;
const DESCRIPTORS_MAX: u64 = 512;
/// The process's own descriptors among them: files, runtimes, probes and calls to receivers; and a
/// few for each worker.
const DESCRIPTORS_OWN: usize = 24;
const DESCRIPTORS_WORKER: usize = 6;
/// How long the shutdown waits for a trace collector.
const COURIER_GRACE: Duration = Duration::from_secs(1);
/// How long one admin connection may delay the shutdown.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{}", .0.render(config::Color::Plain))]
    Config(Diagnostics),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the state directory cannot be used, and [state] on_failure is \"refuse\": {0}")]
    StateRefused(String),
    #[error("cannot listen on {address} ({name} of [listen])")]
    Listen { name: &'static str, address: SocketAddr, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// A running proxy. If it is dropped without [`Proxy::finish`], it stops at once.
pub struct Proxy {
    pub live: Arc<Live>,
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
    stage: watch::Sender<Stage>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
    watchdog: Option<JoinHandle<()>>,
    control: Option<JoinHandle<()>>,
    scribe: Option<JoinHandle<()>>,
    keeper: Option<JoinHandle<()>>,
    shelf: Arc<Shelf>,
    asks: tokio::sync::mpsc::Sender<Ask>,
}

/// A request from a signal handler.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    Reload,
}

impl Proxy {
    /// Starts the proxy of a config file; returns once it serves.
    pub fn start(path: &Path, log: Log) -> Result<Proxy, StartError> {
        let path = std::path::absolute(path)?;
        // The watch starts before the first load, so that no edit is missed.
        let (watcher, changes) = Watcher::start(vec![path.clone()])?;
        let loaded = config::load(&path);
        let checked = loaded.result.map_err(StartError::Config)?;
        watcher.replace(loaded.files);
        for warning in checked.warnings.lines() {
            log.event("config_warning", json!({"message": warning}));
        }
        let (room, admin_capacity) = descriptors(&checked.plan, &log);
        let plan_state = checked.plan.state.clone();
        let source = source(&path, &checked);

        let (directory, ledger, found) = open_state(&checked.plan, &log)?;
        if let (Found::Lost(why) | Found::Behind(_, why), OnStateFailure::Refuse) =
            (&found, plan_state.on_failure)
        {
            return Err(StartError::StateRefused(why.clone()));
        }
        let lost = matches!(found, Found::Lost(_) | Found::Behind(..));
        let ledger_end = ledger.as_ref().map(|ledger| ledger.end().clone()).unwrap_or_default();
        if let Found::Lost(why) | Found::Behind(_, why) = &found {
            tell_lost(&log, why);
        }
        let (listen_http, listen_admin) = (checked.plan.listen.http, checked.plan.listen.admin);
        let workers = checked.plan.listen.workers();
        let (http, sockets) = listen::bind_workers(listen_http, workers)
            .map_err(|source| StartError::Listen { name: "http", address: listen_http, source })?;
        let (https, tls_sockets) = match checked.plan.listen.https {
            None => (None, vec![]),
            Some(address) => {
                let (address, sockets) = listen::bind_workers(address, workers)
                    .map_err(|source| StartError::Listen { name: "https", address, source })?;
                (Some(address), sockets)
            }
        };
        let (admin, admin_sockets) = listen::bind_workers(listen_admin, 1)
            .map_err(|source| StartError::Listen { name: "admin", address: listen_admin, source })?;

        let key = open_key(directory.as_ref(), ledger.as_ref(), &log)?;
        let kept = directory.as_ref().map(StateDirectory::path);
        let mut live = Live::new(checked, source, found, ledger_end, key.clone(), log.clone(), kept);
        live.gauges.connections_room.store(room, Relaxed);
        live.directory = directory.as_ref().map(|directory| directory.path().to_owned());
        let live = Arc::new(live);

        if let (Some(directory), true) = (&directory, lost)
            && let Err(error) = directory.keep_aside()
        {
            log.event(
                "state_not_kept",
                json!({"error": error.to_string(), "effect": "what was lost is overwritten"}),
            );
        }
        // Before the first request is decided, the state is on disk, or known not to be.
        let shelf = Arc::new(Shelf::default());
        let archive = directory
            .as_ref()
            .map(|directory| Archive { directory: directory.path().to_owned(), shelf: shelf.clone() });
        let keeper = match &archive {
            None => None,
            Some(Archive { directory, .. }) => {
                let (shelf, directory, log) = (shelf.clone(), directory.clone(), log.clone());
                let key = key.clone();
                let body = move || keeper::run(&shelf, &directory, &key, &log);
                Some(Builder::new().name("keeper".into()).spawn(body)?)
            }
        };
        let scribe = Scribe { directory, ledger, key, log: log.clone() };
        let desk = live.desk.clone();
        let scribe = Builder::new().name("scribe".into()).spawn(move || scribe.run(&desk))?;
        let durable = live.hold_unless_durable(DURABLE_WITHIN);

        let (stage, staged) = watch::channel(Stage::Serving);
        let stop = Arc::new(AtomicBool::new(false));
        let (asks, asked) = tokio::sync::mpsc::channel(4);
        let mut proxy = Proxy {
            live: live.clone(),
            http,
            https,
            admin,
            stage,
            stop: stop.clone(),
            workers: vec![],
            watchdog: None,
            control: None,
            scribe: Some(scribe),
            keeper,
            shelf,
            asks,
        };
        if let Err(why) = durable {
            if plan_state.on_failure == OnStateFailure::Refuse {
                return Err(StartError::StateRefused(why));
            }
            tell_lost(&log, &why);
        }
        let control =
            Control { live: live.clone(), watcher, changes, asked, path: path.clone(), admin_capacity };
        let (resolved, wait) = std::sync::mpsc::sync_channel(1);
        let control_stage = staged.clone();
        let sockets_admin = admin_sockets;
        proxy.control = Some(
            Builder::new()
                .name("control".into())
                .spawn(move || control.run(sockets_admin, control_stage, resolved))?,
        );
        // Names are resolved before the first user comes. The wait is bounded, since one name may
        // not resolve.
        let _ = wait.recv_timeout(Duration::from_secs(6));
        let mut tls_sockets = tls_sockets.into_iter();
        for (index, http) in sockets.into_iter().enumerate() {
            let doors = serve::Doors { http, https: tls_sockets.next() };
            let (live, staged) = (live.clone(), staged.clone());
            let name = format!("worker-{index}");
            let body = move || {
                if let Err(error) = serve::run(index, doors, live.clone(), staged) {
                    live.log.event("worker_failed", json!({"worker": index, "error": error.to_string()}));
                }
            };
            proxy.workers.push(Builder::new().name(name).spawn(body)?);
        }
        let watched = live.clone();
        let run = move || watchdog::run(&watched, &path, &stop, archive.as_ref());
        proxy.watchdog = Some(Builder::new().name("watchdog".into()).spawn(run)?);
        for (name, address) in [("http", Some(http)), ("https", https), ("admin", Some(admin))] {
            let Some(address) = address else { continue };
            log.event("listening", json!({"name": name, "address": address.to_string()}));
        }
        live.gauges.enter(Phase::Serving);
        Ok(proxy)
    }

    /// For HUP: reads the file again, even if it has not changed.
    pub fn asks(&self) -> tokio::sync::mpsc::Sender<Ask> {
        self.asks.clone()
    }

    /// Finishes requests in flight, within `[limits] drain`, and ends every thread.
    pub fn finish(mut self) {
        self.live.gauges.enter(Phase::Draining);
        let _ = self.stage.send(Stage::Draining);
        self.join();
    }

    /// Ends a drain on another thread at once.
    pub fn stopper(&self) -> impl Fn() + Send + use<> {
        let stage = self.stage.clone();
        move || {
            let _ = stage.send(Stage::Stopping);
        }
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
        self.stop.store(true, Relaxed);
        self.watchdog.take().map(JoinHandle::join);
        let _ = self.stage.send(Stage::Stopping);
        self.control.take().map(JoinHandle::join);
        self.live.desk.close();
        self.shelf.close();
        // A disk that hangs must not block the exit. Its pending writes are reported as not
        // durable.
        let until = Instant::now() + SCRIBE_GRACE;
        for writes in [self.scribe.take(), self.keeper.take()].into_iter().flatten() {
            while !writes.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.live.log.flush();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.stage.send(Stage::Stopping);
        self.join();
    }
}

fn tell_lost(log: &Log, why: &str) {
    log.event(
        "state_lost",
        json!({"error": why, "effect": "every release is held at 0%; stable is served",
               "hint": "mend the state directory, then: grayling resume RELEASE --ends hold --reason TEXT"}),
    );
}

fn source(path: &Path, checked: &config::CheckedConfig) -> Source {
    Source {
        path: path.to_owned(),
        text: checked.text.clone(),
        sha256: checked.sha256.clone(),
        loaded_at_ms: clock::at_ms(),
        last_error: None,
        last_report: None,
    }
}

/// Opens the state directory and its ledger, and loads the state. Failures are returned as
/// [`Found::Lost`], except for a lock of another process.
fn open_state(plan: &Plan, log: &Log) -> Result<(Option<StateDirectory>, Option<Ledger>, Found), StartError> {
    for message in private::tighten(&plan.state.directory) {
        log.event("state_not_private", json!({"message": message}));
    }
    let directory = match StateDirectory::open(&plan.state.directory) {
        Ok(directory) => directory,
        Err(locked @ StateError::Locked { .. }) => return Err(locked.into()),
        Err(error) => return Ok((None, None, Found::Lost(error.to_string()))),
    };
    let mut found = directory.load();
    let ledger = match Ledger::open(directory.path()) {
        Ok(mut ledger) => {
            match &mut found {
                // The state is saved before its ledger entries are written, so a ledger with more
                // entries belongs to another state.
                Found::Known(image) if image.ledger.n < ledger.last() => {
                    let (path, last) = (directory.configured().display(), ledger.last());
                    let why = format!(
                        "{path}: the state file is older than the ledger (entry {} of {last}): was it restored from a copy?",
                        image.ledger.n
                    );
                    found = Found::Behind(std::mem::take(image), why);
                }
                Found::Known(image) => rebuild(&mut ledger, image, log),
                Found::Empty | Found::Behind(..) | Found::Lost(_) => {}
            }
            Some(ledger)
        }
        Err(error) => {
            found = Found::Lost(format!("{}: the ledger: {error}", directory.configured().display()));
            None
        }
    };
    Ok((Some(directory), ledger, found))
}

/// Opens the key of the state directory. A fault is logged and limits answers about the past; it
/// stops nothing.
fn open_key(directory: Option<&StateDirectory>, ledger: Option<&Ledger>, log: &Log) -> io::Result<StateKey> {
    let Some(directory) = directory else { return StateKey::random() };
    let (key, origin) = StateKey::open(directory.path())?;
    let before = ledger.and_then(Ledger::key).filter(|name| *name != key.name());
    match origin {
        KeyOrigin::Temporary(why) => log.event(
            "state_key_unusable",
            json!({
                "error": why,
                "directory": directory.configured(),
                "effect": "a key that ends with this process is used: after a restart `grayling affected` cannot say \
                    which users a segment listed meanwhile, and the watchdog's evidence begins anew",
                "hint": "mend or remove the file, then restart; routing and rollbacks need no key",
            }),
        ),
        KeyOrigin::Found | KeyOrigin::Made if before.is_some() => log.event(
            "state_key_lost",
            json!({
                "file": directory.configured().join(state_key::FILE),
                "effect": "the ledger has entries under an earlier key: `grayling affected` cannot say which users a \
                    segment listed then; the watchdog's evidence begins anew",
                "hint": "if the key was not destroyed on purpose, put the file back from a copy and restart; \
                    routing and rollbacks need no key",
            }),
        ),
        KeyOrigin::Found | KeyOrigin::Made => {}
    }
    Ok(key)
}

/// Writes the entries again that a crash lost after the state was saved.
fn rebuild(ledger: &mut Ledger, image: &Image, log: &Log) {
    let mut lost: Vec<_> = image.recent.iter().filter(|e| e.n > ledger.last()).cloned().collect();
    lost.iter_mut().for_each(|entry| entry.rebuilt = true);
    if !lost.is_empty() {
        let result = ledger.append(&lost).map_err(|e| e.to_string());
        log.event("ledger_rebuilt", json!({"entries": lost.len(), "error": result.err()}));
    }
}

/// Raises the limit of open files to its maximum. Returns how many client connections (and as many
/// server connections) fit in, and the capacity of the admin API.
fn descriptors(plan: &Plan, log: &Log) -> (usize, Capacity) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let open_max = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    // Half for clients, half for servers, after a part for files, sockets and the admin API.
    let kept = open_max.map_or(DESCRIPTORS_MAX, |n| (n / 4).clamp(DESCRIPTORS_MIN, DESCRIPTORS_MAX));
    let room = open_max
        .map_or(usize::MAX, |n| usize::try_from(n.saturating_sub(kept) / 2).unwrap_or(usize::MAX).max(1));
    let own = DESCRIPTORS_OWN + DESCRIPTORS_WORKER * plan.listen.workers();
    let admin = Capacity::within(usize::try_from(kept).unwrap_or(usize::MAX).saturating_sub(own));
    if room < plan.limits.connections {
        log.event(
            "limit_clamped",
            json!({"limit": "connections", "configured": plan.limits.connections, "in_force": room,
                   "hint": "raise the limit of open files (ulimit -n, LimitNOFILE)"}),
        );
    }
    (room, admin)
}

/// The control plane: admin, the file, names, alerts. One thread, one runtime.
struct Control {
    live: Arc<Live>,
    watcher: Watcher,
    changes: tokio::sync::mpsc::Receiver<config::watcher::FileChange>,
    asked: tokio::sync::mpsc::Receiver<Ask>,
    path: PathBuf,
    admin_capacity: Capacity,
}

impl Control {
    fn run(
        self,
        sockets: Vec<TcpListener>,
        stage: watch::Receiver<Stage>,
        resolved: std::sync::mpsc::SyncSender<()>,
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // Sockets are polled after this many tasks: one that computes for milliseconds must not
        // delay new connections.
        runtime.enable_all().event_interval(CONTROL_TASKS_MAX);
        let runtime = match runtime.build() {
            Ok(runtime) => runtime,
            Err(error) => {
                self.live.log.event("control_failed", json!({"error": error.to_string()}));
                return;
            }
        };
        let auth = Arc::new(AuthState::new(&self.live.snapshot().plan.admin));
        runtime.block_on(async move {
            let hub = Hub::new(self.live.clone(), self.admin_capacity.streams);
            tokio::spawn(hub.clone().run());
            let router = routes::router(self.live.clone(), auth.clone(), hub.clone());
            let mut stopping = stage.clone();
            for socket in sockets {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(listener) => {
                        tokio::spawn(admin_serve(listener, router.clone(), self.admin_capacity));
                    }
                    Err(error) => self.live.log.event("admin_failed", json!({"error": error.to_string()})),
                }
            }
            tokio::spawn(names(self.live.clone(), resolved));
            tokio::spawn(alert::run(self.live.clone()));
            tokio::spawn(conductor::run(self.live.clone()));
            tokio::spawn(resource::run(self.live.clone()));
            tokio::spawn(memory::run(self.live.clone()));
            let mut courier = traces::Courier::new(self.live.clone());
            let mut ends = stage.clone();
            let couriers = tokio::spawn(async move {
                tokio::select! {
                    () = courier.run() => {}
                    _ = ends.wait_for(|s| *s == Stage::Stopping) => {}
                }
                courier.last().await;
            });
            let follow = self.follow(auth, hub, stage);
            tokio::select! {
                () = follow => {}
                _ = stopping.wait_for(|s| *s == Stage::Stopping) => {}
            }
            let _ = tokio::time::timeout(COURIER_GRACE, couriers).await;
        });
        runtime.shutdown_timeout(ADMIN_GRACE);
    }

    async fn follow(mut self, auth: Arc<AuthState>, hub: Arc<Hub>, mut stage: watch::Receiver<Stage>) {
        let mut probes = Probes::new(self.live.log.clone());
        probes.follow(&self.live.snapshot());
        loop {
            tokio::select! {
                // No new requests come, so the last probe results hold until the end.
                _ = stage.wait_for(|s| *s != Stage::Serving), if !probes.stopped() => probes.stop(),
                change = self.changes.recv() => match change {
                    Some(_) => {
                        self.reload(&auth, &hub).await;
                        probes.follow(&self.live.snapshot());
                    }
                    None => std::future::pending().await,
                },
                () = self.live.reload_wanted.notified() => self.watcher.kick(),
                ask = self.asked.recv() => match ask {
                    Some(Ask::Reload) => self.watcher.kick(),
                    None => std::future::pending().await,
                },
            }
        }
    }

    async fn reload(&mut self, auth: &AuthState, hub: &Hub) {
        let path = self.path.clone();
        // A users file of ten million lines takes a while: the admin API answers meanwhile.
        let Ok(loaded) = tokio::task::spawn_blocking(move || config::load(&path)).await else { return };
        self.watcher.replace(loaded.files);
        let failed = |errors: Vec<String>| {
            self.live.log.event("reload_failed", json!({"errors": errors, "effect": "nothing changed"}));
        };
        let checked = match loaded.result {
            Ok(mut checked) => {
                checked.plan.inherit(&self.live.snapshot().plan);
                checked
            }
            Err(report) => {
                let lines = report.lines();
                self.live.reload_failed(lines.join("\n"), Some(report.render(config::Color::Plain)));
                failed(lines);
                return;
            }
        };
        for warning in checked.warnings.lines() {
            self.live.log.event("config_warning", json!({"message": warning}));
        }
        let source = source(&self.path, &checked);
        let sha256 = source.sha256.clone();
        // DNS names of servers may have to be resolved.
        let live = self.live.clone();
        let Ok(applied) = tokio::task::spawn_blocking(move || live.reload(checked, source)).await else {
            return;
        };
        match applied {
            Ok(findings) => {
                let snapshot = self.live.snapshot();
                if auth.replace(&snapshot.plan.admin) {
                    hub.close_streams();
                }
                self.live.log.event(
                    "reloaded",
                    json!({"revision": snapshot.revision, "sha256": sha256, "findings": findings}),
                );
                resolve_now(&self.live).await;
            }
            Err(errors) => failed(errors),
        }
    }
}

async fn names(live: Arc<Live>, first: std::sync::mpsc::SyncSender<()>) {
    resolve_now(&live).await;
    let _ = first.try_send(());
    loop {
        tokio::time::sleep(resolve::INTERVAL).await;
        resolve_now(&live).await;
    }
}

async fn resolve_now(live: &Live) {
    let servers = live.snapshot().upstreams.iter().flat_map(|u| u.servers.clone()).collect();
    for resolved in resolve::refresh(servers).await {
        match resolved {
            resolve::Resolved::Changed { name, addresses } => {
                let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
                live.log.event("resolved", json!({"name": name, "addresses": addresses}));
            }
            resolve::Resolved::Failed { name, error } => {
                live.log.event("resolve_failed", json!({"name": name, "error": error}));
            }
        }
    }
}
