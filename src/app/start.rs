//! The steps of a start before its first thread: the config, descriptors, sockets, shared state.
//!
//! Invariants: none of them serves a request. The watch of the file begins before its first load,
//! so that no edit is missed.

use crate::admin::connection_limit::Capacity;
use crate::app::StartError;
use crate::app::state::Disk;
use crate::config::watcher::{FileChange, Watcher};
use crate::config::{self, CheckedConfig};
use crate::domain::config::{Config, Listen};
use crate::net::listen::{self, DualStack};
use crate::proxy::listener::Listeners;
use crate::runtime::shared::{ConfigSource, SharedState};
use crate::store::state::StateFound;
use crate::store::state_key::StateKey;
use crate::telemetry::clock;
use crate::telemetry::log::Log;
use serde_json::json;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Bounds on the descriptors reserved from clients and servers: a quarter, within these bounds.
/// The process needs some of them; the rest is for admin connections, so that neither port can
/// starve the other.
const DESCRIPTORS_MIN: u64 = 64;
const DESCRIPTORS_MAX: u64 = 512;
/// The process's own descriptors among them: files, runtimes, probes and calls to receivers; and a
/// few for each worker, besides its listeners.
const DESCRIPTORS_OWN: usize = 24;
const DESCRIPTORS_WORKER: usize = 4;

/// The config file as checked, and its later edits.
pub(super) struct ConfigFile {
    pub checked: CheckedConfig,
    pub source: ConfigSource,
    pub edits: Edits,
}

/// The watch of the config file and of the files that it names.
pub(super) struct Edits {
    pub path: PathBuf,
    pub watcher: Watcher,
    pub changes: tokio::sync::mpsc::Receiver<FileChange>,
}

impl ConfigFile {
    pub(super) fn read(path: &Path, log: &Log) -> Result<ConfigFile, StartError> {
        let path = std::path::absolute(path)?;
        let (watcher, changes) = Watcher::start(vec![path.clone()])?;
        let loaded = config::load(&path);
        let checked = loaded.result.map_err(StartError::Config)?;
        watcher.replace(loaded.files);
        for warning in checked.warnings.lines() {
            log.event("config_warning", json!({"message": warning}));
        }
        let source = source(&path, &checked);
        Ok(ConfigFile { checked, source, edits: Edits { path, watcher, changes } })
    }
}

pub(super) fn source(path: &Path, checked: &config::CheckedConfig) -> ConfigSource {
    ConfigSource {
        path: path.to_owned(),
        text: checked.text.clone(),
        sha256: checked.sha256.clone(),
        loaded_at_ms: clock::at_ms(),
        last_error: None,
        last_report: None,
    }
}

/// How many connections the limit of open files allows.
pub(super) struct Descriptors {
    /// Of clients, and as many of servers.
    pub connections: usize,
    pub admin: Capacity,
}

impl Descriptors {
    /// Raises the limit of open files to its maximum, and divides it.
    pub(super) fn reserve(config: &Config, log: &Log) -> Descriptors {
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
        let sockets = config.listen.http.len() + config.listen.https.len();
        let own = DESCRIPTORS_OWN + (DESCRIPTORS_WORKER + sockets) * config.listen.workers();
        let admin = Capacity::within(usize::try_from(kept).unwrap_or(usize::MAX).saturating_sub(own));
        if room < config.limits.connections {
            log.event(
                "limit_clamped",
                json!({"limit": "connections", "configured": config.limits.connections, "in_force": room,
                       "hint": "raise the limit of open files (ulimit -n, LimitNOFILE)"}),
            );
        }
        Descriptors { connections: room, admin }
    }
}

/// The bound sockets.
pub(super) struct Sockets {
    /// Of each worker.
    pub workers: Vec<Listeners>,
    pub admin: Vec<TcpListener>,
}

/// The addresses of the sockets, with the ports that the system chose.
#[derive(Clone)]
pub(super) struct Addresses {
    pub http: Vec<SocketAddr>,
    pub https: Vec<SocketAddr>,
    pub admin: SocketAddr,
}

impl Sockets {
    pub(super) fn bind(config: &Listen) -> Result<(Addresses, Sockets), StartError> {
        let bind = |name, address, sockets| {
            let stack = if config.is_ipv6_only(address) { DualStack::Ipv6Only } else { DualStack::System };
            listen::bind_workers(address, sockets, stack).map_err(|source| StartError::Listen {
                name,
                address,
                source,
            })
        };
        let mut workers: Vec<Listeners> = (0..config.workers()).map(|_| Listeners::default()).collect();
        let (mut http, mut https) = (vec![], vec![]);
        for address in &config.http {
            let (bound, sockets) = bind("http", *address, workers.len())?;
            http.push(bound);
            workers.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.http.push(socket));
        }
        for address in &config.https {
            let (bound, sockets) = bind("https", *address, workers.len())?;
            https.push(bound);
            workers.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.https.push(socket));
        }
        let (admin, admin_sockets) = bind("admin", config.admin, 1)?;
        Ok((Addresses { http, https, admin }, Sockets { workers, admin: admin_sockets }))
    }
}

/// The state shared by all threads: the config in force over the state that was found.
pub(super) fn shared_state(
    (checked, source): (CheckedConfig, ConfigSource),
    (found, disk): (StateFound, &Disk),
    key: StateKey,
    descriptors: &Descriptors,
    log: Log,
) -> Arc<SharedState> {
    let mut shared = SharedState::new(checked, source, found, disk.ledger_end(), key, log, disk.path());
    shared.connections.limit.store(descriptors.connections, Relaxed);
    shared.directory = disk.path().map(Path::to_owned);
    Arc::new(shared)
}
