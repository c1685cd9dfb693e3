//! Resolves the DNS names of upstream servers periodically.
//!
//! Invariants: a name that cannot be resolved keeps its addresses. IP literals are never looked up.
//! Look-ups run concurrently, so a dead name delays no other.

use crate::upstream::server::ServerState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Time between two look-ups of a name. The system's resolver does not report a TTL.
pub const INTERVAL: Duration = Duration::from_secs(5);
const LOOKUP_MAX: Duration = Duration::from_secs(5);

/// The result of one look-up, where it is worth a log line.
#[derive(Debug)]
pub enum LookupResult {
    Changed { name: String, addresses: Vec<SocketAddr> },
    Failed { name: String, error: String },
}

/// Looks up all servers with a DNS name, and stores what changed.
pub async fn refresh(servers: Vec<Arc<ServerState>>) -> Vec<LookupResult> {
    let mut lookups = tokio::task::JoinSet::new();
    for server in servers.into_iter().filter(|s| s.server.host.parse::<std::net::IpAddr>().is_err()) {
        lookups.spawn(lookup(server));
    }
    lookups.join_all().await.into_iter().flatten().collect()
}

async fn lookup(server: Arc<ServerState>) -> Option<LookupResult> {
    let name = server.server.host.clone();
    let looked_up = tokio::time::timeout(
        LOOKUP_MAX,
        tokio::net::lookup_host((server.server.host.as_str(), server.server.port)),
    );
    let mut addresses: Vec<SocketAddr> = match looked_up.await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Some(LookupResult::Failed { name, error: error.to_string() }),
        Err(_) => return Some(LookupResult::Failed { name, error: "no answer from the resolver".into() }),
    };
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.is_empty() || **server.addresses.load() == addresses {
        return None;
    }
    server.addresses.store(Arc::new(addresses.clone()));
    Some(LookupResult::Changed { name, addresses })
}
