//! Resolves the DNS names of upstream servers periodically, and tries their dead addresses again.
//!
//! Invariants: a name that cannot be resolved keeps its addresses. IP literals and unix sockets are
//! never looked up.
//! Look-ups run concurrently, so a slow name delays no other. A name has one look-up at a time.
//! Servers of one host share its look-ups.

use crate::telemetry::random::Random;
use crate::telemetry::throttle::Throttle;
use crate::upstream::connect::retry_dead;
use crate::upstream::server::ServerState;
use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Time between two look-ups of a name, shortened by up to a quarter at random.
/// The system's resolver does not report a TTL.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same after a connection has failed.
const INTERVAL_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// How often it is checked which look-ups are due.
const TICK: Duration = Duration::from_millis(200);
/// How long a start or a reload waits for a look-up.
const LOOKUP_MAX: Duration = Duration::from_secs(5);
/// Each takes a thread while the resolver waits.
const LOOKUPS_AT_ONCE: usize = 64;

/// The result of one look-up, where it is worth a log line.
#[derive(Debug)]
pub enum LookupResult {
    Changed { name: String, addresses: Vec<SocketAddr> },
    Failed { name: String, error: String },
}

/// The servers of one host name.
type HostServers = BTreeMap<String, Vec<Arc<ServerState>>>;

/// The look-ups of one host name.
struct HostLookups {
    is_running: bool,
    began: Instant,
    due: Instant,
    /// Of log lines about failures.
    failures: Throttle,
}

/// Looks up all servers with a DNS name, and stores what changed.
pub async fn refresh(servers: Vec<Arc<ServerState>>) -> Vec<LookupResult> {
    let mut lookups = JoinSet::new();
    for (host, servers) in by_host(servers) {
        lookups.spawn(async move {
            match tokio::time::timeout(LOOKUP_MAX, lookup(host.clone(), servers)).await {
                Ok(results) => results,
                Err(_) => {
                    vec![LookupResult::Failed { name: host, error: "no answer from the resolver".into() }]
                }
            }
        });
    }
    lookups.join_all().await.into_iter().flatten().collect()
}

/// Looks up the names of the current servers again and again, and tries their dead addresses.
/// Never ends.
pub async fn follow(servers: impl Fn() -> Vec<Arc<ServerState>>, report: impl Fn(LookupResult)) {
    let mut hosts: HashMap<String, HostLookups> = HashMap::new();
    let (mut lookups, mut retries) = (JoinSet::new(), JoinSet::new());
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(ended) = lookups.join_next() => {
                if let Ok((host, results)) = ended {
                    end_lookup(&mut hosts, host, results, &report);
                }
                continue;
            }
            Some(_) = retries.join_next() => continue,
        }
        let now = Instant::now();
        let by_host = by_host(servers());
        hosts.retain(|host, lookups| lookups.is_running || by_host.contains_key(host));
        for (host, servers) in by_host {
            for server in servers.iter().filter(|s| s.addresses.is_retry_due()) {
                let server = server.clone();
                retries.spawn(async move { retry_dead(&server).await });
            }
            let state = hosts.entry(host.clone()).or_insert_with(|| HostLookups::new(now));
            let is_wanted = || servers.iter().any(|s| s.is_lookup_wanted());
            let is_due = now >= state.due || (now >= state.began + INTERVAL_AFTER_FAILURE && is_wanted());
            if is_due && !state.is_running && lookups.len() < LOOKUPS_AT_ONCE {
                state.begin(now);
                servers.iter().for_each(|s| s.begin_lookup());
                lookups.spawn(async move { (host.clone(), lookup(host, servers).await) });
            }
        }
    }
}

fn end_lookup(
    hosts: &mut HashMap<String, HostLookups>,
    host: String,
    results: Vec<LookupResult>,
    report: &impl Fn(LookupResult),
) {
    let Some(state) = hosts.get_mut(&host) else { return };
    state.is_running = false;
    let is_reported = |result: &LookupResult| match result {
        LookupResult::Changed { .. } => true,
        LookupResult::Failed { .. } => state.failures.is_due(),
    };
    results.into_iter().filter(is_reported).for_each(report);
}

impl HostLookups {
    /// Of a name that was looked up by [`refresh`] just now.
    fn new(now: Instant) -> Self {
        HostLookups { is_running: false, began: now, due: due_after(now), failures: Throttle::default() }
    }

    fn begin(&mut self, now: Instant) {
        self.is_running = true;
        self.began = now;
        self.due = due_after(now);
    }
}

fn due_after(now: Instant) -> Instant {
    now + INTERVAL.mul_f64(1.0 - Random::default().unit() / 4.0)
}

fn by_host(servers: Vec<Arc<ServerState>>) -> HostServers {
    let mut hosts = HostServers::new();
    for server in servers.into_iter().filter(|s| s.server.is_dns_name()) {
        hosts.entry(server.server.host.clone()).or_default().push(server);
    }
    hosts
}

/// Looks up one host, and stores the addresses of its servers that changed.
async fn lookup(host: String, servers: Vec<Arc<ServerState>>) -> Vec<LookupResult> {
    let name = host.clone();
    let found = spawn_blocking(move || (host.as_str(), 0).to_socket_addrs()).await;
    let found: Vec<SocketAddr> = match found.map_err(std::io::Error::other).flatten() {
        Ok(found) => found.collect(),
        Err(error) => return vec![LookupResult::Failed { name, error: error.to_string() }],
    };
    let mut changes: Vec<LookupResult> = vec![];
    for server in servers {
        let port = server.server.port;
        let mut addresses: Vec<SocketAddr> = found.iter().map(|a| with_port(*a, port)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.is_empty() || **server.addresses.load() == addresses {
            continue;
        }
        server.addresses.store(addresses.clone());
        // Servers of several upstreams may be one address.
        let is_known =
            |c: &LookupResult| matches!(c, LookupResult::Changed { addresses: a, .. } if *a == addresses);
        if !changes.iter().any(is_known) {
            changes.push(LookupResult::Changed { name: name.clone(), addresses });
        }
    }
    changes
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}
