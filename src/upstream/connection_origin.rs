//! The address that a connection leads to, and when it was opened: whether it may take another
//! request.
//!
//! Invariant: a connection to an address that has left its server's name takes no further request.
//! The check costs a comparison while the addresses stay the same.

use crate::telemetry::clock;
use crate::telemetry::random::Random;
use crate::upstream::server::ServerState;
use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Connections opened together must not end together: each lives for this share of
/// `connection_age_max` at least.
const AGE_MIN_SHARE: f64 = 0.8;

pub struct ConnectionOrigin {
    server: Arc<ServerState>,
    /// `None`: a unix socket, which has no other address.
    address: Option<SocketAddr>,
    /// The addresses of this generation include `address`; 0: of none yet.
    checked: Cell<u64>,
    /// From then on it takes no further request. Monotonic.
    retires_at: Option<Duration>,
}

impl ConnectionOrigin {
    pub fn new(server: &Arc<ServerState>, address: Option<SocketAddr>, age_max: Option<Duration>) -> Self {
        let share = AGE_MIN_SHARE + (1.0 - AGE_MIN_SHARE) * Random::default().unit();
        ConnectionOrigin {
            server: server.clone(),
            address,
            checked: Cell::new(0),
            retires_at: age_max.map(|age| clock::now() + age.mul_f64(share)),
        }
    }

    /// Whether its address has left the server's name.
    pub fn has_left(&self) -> bool {
        let generation = self.server.addresses.generation();
        if self.checked.get() == generation {
            return false;
        }
        if self.address.is_some_and(|address| !self.server.addresses.load().contains(&address)) {
            return true;
        }
        self.checked.set(generation);
        false
    }

    pub fn is_too_old(&self, now: Duration) -> bool {
        self.retires_at.is_some_and(|at| now >= at)
    }
}
