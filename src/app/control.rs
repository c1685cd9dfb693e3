//! The thread of the control plane: the admin API, the file, names, alerts, probes, traces.
//!
//! Invariants: one thread and one runtime. It ends at [`ServingStage::Stopping`], and one
//! connection delays that by [`ADMIN_GRACE`] at most. A file with faults changes nothing.

use crate::admin::auth::AuthState;
use crate::admin::connection_limit::Capacity;
use crate::admin::events::EventHub;
use crate::admin::routes;
use crate::admin::serve::serve as admin_serve;
use crate::app::Command;
use crate::app::start::{Edits, source};
use crate::config;
use crate::proxy::worker::ServingStage;
use crate::runtime::shared::SharedState;
use crate::tasks::alerts::alert;
use crate::tasks::health::HealthProbes;
use crate::tasks::{memory, resources, trace_export, wave_controller};
use crate::upstream::resolve;
use crate::upstream::server::ServerState;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Tasks of the control plane between two polls of its sockets.
const CONTROL_TASKS_MAX: u32 = 4;
/// How long the shutdown waits for a trace collector.
const COURIER_GRACE: Duration = Duration::from_secs(1);
/// How long one admin connection may delay the shutdown.
const ADMIN_GRACE: Duration = Duration::from_secs(1);

/// The control plane: admin, the file, names, alerts. One thread, one runtime.
pub(super) struct Control {
    pub shared: Arc<SharedState>,
    pub edits: Edits,
    pub asked: tokio::sync::mpsc::Receiver<Command>,
    pub admin_capacity: Capacity,
}

impl Control {
    /// The body of the thread.
    /// `resolved` gets a message once the names of servers have been resolved for the first time.
    pub(super) fn run(
        self,
        sockets: Vec<TcpListener>,
        stage: watch::Receiver<ServingStage>,
        resolved: std::sync::mpsc::SyncSender<()>,
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        // Sockets are polled after this many tasks: one that computes for milliseconds must not
        // delay new connections.
        runtime.enable_all().event_interval(CONTROL_TASKS_MAX);
        let runtime = match runtime.build() {
            Ok(runtime) => runtime,
            Err(error) => {
                self.shared.log.event("control_failed", json!({"error": error.to_string()}));
                return;
            }
        };
        let auth = Arc::new(AuthState::new(&self.shared.snapshot().config.admin));
        runtime.block_on(self.serve(auth, sockets, stage, resolved));
        runtime.shutdown_timeout(ADMIN_GRACE);
    }

    async fn serve(
        self,
        auth: Arc<AuthState>,
        sockets: Vec<TcpListener>,
        stage: watch::Receiver<ServingStage>,
        resolved: std::sync::mpsc::SyncSender<()>,
    ) {
        let hub = EventHub::new(self.shared.clone(), self.admin_capacity.streams);
        tokio::spawn(hub.clone().run());
        self.open_admin(sockets, &auth, &hub);
        tokio::spawn(names(self.shared.clone(), resolved));
        tokio::spawn(alert::run(self.shared.clone()));
        tokio::spawn(wave_controller::run(self.shared.clone()));
        tokio::spawn(resources::run(self.shared.clone()));
        tokio::spawn(memory::run(self.shared.clone()));
        let span_exporter = tokio::spawn(send_traces(self.shared.clone(), stage.clone()));
        let mut stopping = stage.clone();
        tokio::select! {
            () = self.follow(auth, hub, stage) => {}
            _ = stopping.wait_for(|s| *s == ServingStage::Stopping) => {}
        }
        let _ = tokio::time::timeout(COURIER_GRACE, span_exporter).await;
    }

    fn open_admin(&self, sockets: Vec<TcpListener>, auth: &Arc<AuthState>, hub: &Arc<EventHub>) {
        let router = routes::router(self.shared.clone(), auth.clone(), hub.clone());
        for socket in sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(listener) => {
                    tokio::spawn(admin_serve(listener, router.clone(), self.admin_capacity));
                }
                Err(error) => self.shared.log.event("admin_failed", json!({"error": error.to_string()})),
            }
        }
    }

    async fn follow(
        mut self,
        auth: Arc<AuthState>,
        hub: Arc<EventHub>,
        mut stage: watch::Receiver<ServingStage>,
    ) {
        let mut probes = HealthProbes::new(self.shared.log.clone());
        probes.follow(&self.shared.snapshot());
        loop {
            tokio::select! {
                // No new requests come, so the last probe results hold until the end.
                _ = stage.wait_for(|s| *s != ServingStage::Serving), if !probes.stopped() => probes.stop(),
                change = self.edits.changes.recv() => match change {
                    Some(_) => {
                        self.reload(&auth, &hub).await;
                        probes.follow(&self.shared.snapshot());
                    }
                    None => std::future::pending().await,
                },
                () = self.shared.reload_wanted.notified() => self.edits.watcher.kick(),
                ask = self.asked.recv() => match ask {
                    Some(Command::Reload) => self.edits.watcher.kick(),
                    None => std::future::pending().await,
                },
            }
        }
    }

    async fn reload(&mut self, auth: &AuthState, hub: &EventHub) {
        let path = self.edits.path.clone();
        // A users file of ten million lines takes a while: the admin API answers meanwhile.
        let Ok(loaded) = tokio::task::spawn_blocking(move || config::load(&path)).await else { return };
        self.edits.watcher.replace(loaded.files);
        let failed = |errors: Vec<String>| {
            self.shared.log.event("reload_failed", json!({"errors": errors, "effect": "nothing changed"}));
        };
        let checked = match loaded.result {
            Ok(mut checked) => {
                checked.config.inherit(&self.shared.snapshot().config);
                checked
            }
            Err(report) => {
                let lines = report.lines();
                self.shared.reload_failed(lines.join("\n"), Some(report.render(config::Color::Plain)));
                failed(lines);
                return;
            }
        };
        for warning in checked.warnings.lines() {
            self.shared.log.event("config_warning", json!({"message": warning}));
        }
        let source = source(&self.edits.path, &checked);
        let sha256 = source.sha256.clone();
        // DNS names of servers may have to be resolved.
        let shared = self.shared.clone();
        let Ok(applied) = tokio::task::spawn_blocking(move || shared.reload(checked, source)).await else {
            return;
        };
        match applied {
            Ok(findings) => {
                let snapshot = self.shared.snapshot();
                if auth.replace(&snapshot.config.admin) {
                    hub.close_streams();
                }
                self.shared.log.event(
                    "reloaded",
                    json!({"revision": snapshot.revision, "sha256": sha256, "findings": findings}),
                );
                resolve_now(&self.shared).await;
            }
            Err(errors) => failed(errors),
        }
    }
}

/// Sends traces until the drain is over, then the last ones.
async fn send_traces(shared: Arc<SharedState>, mut stage: watch::Receiver<ServingStage>) {
    let mut span_exporter = trace_export::SpanExporter::new(shared);
    tokio::select! {
        () = span_exporter.run() => {}
        _ = stage.wait_for(|s| *s == ServingStage::Stopping) => {}
    }
    span_exporter.last().await;
}

/// Resolves the names of servers again and again.
async fn names(shared: Arc<SharedState>, first: std::sync::mpsc::SyncSender<()>) {
    resolve_now(&shared).await;
    let _ = first.try_send(());
    resolve::follow(|| servers(&shared), |resolved| log_lookup(&shared, resolved)).await;
}

async fn resolve_now(shared: &SharedState) {
    for resolved in resolve::refresh(servers(shared)).await {
        log_lookup(shared, resolved);
    }
}

fn servers(shared: &SharedState) -> Vec<Arc<ServerState>> {
    shared.snapshot().upstreams.iter().flat_map(|u| u.servers.clone()).collect()
}

fn log_lookup(shared: &SharedState, resolved: resolve::LookupResult) {
    match resolved {
        resolve::LookupResult::Changed { name, addresses } => {
            let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
            shared.log.event("resolved", json!({"name": name, "addresses": addresses}));
        }
        resolve::LookupResult::Failed { name, error } => {
            shared.log.event("resolve_failed", json!({"name": name, "error": error}));
        }
    }
}
