//! A worker: the state of one thread of the data plane.
//!
//! Invariant: on the request path workers share only the snapshot and a few atomics.

use super::on_new::OnNew;
use super::request_body::RequestBody;
use crate::domain::config::{LogConfig, RequestLimits};
use crate::runtime::shared::SharedState;
use crate::stats::cohort::{BUCKETS, Weight};
use crate::telemetry::clock;
use crate::telemetry::random::Random;
use crate::telemetry::under_way::LOOK;
use crate::upstream::pool::Pools;
use aws_lc_rs::hmac;
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::task::JoinSet;

const SWEEP: Duration = Duration::from_secs(1);
/// Request bodies in memory, in the whole process; further ones are streamed.
const BODIES_HELD_BYTES_MAX: usize = 64 << 20;

/// The stage of a worker's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServingStage {
    Serving,
    /// Finish what is in flight, within `[limits] drain`.
    Draining,
    /// Stop at once.
    Stopping,
}

pub struct Worker {
    pub index: usize,
    pub shared: Arc<SharedState>,
    pub pools: Pools<RequestBody>,
    random: Random,
    user_key: RefCell<Option<(Vec<u8>, hmac::Key)>>,
    /// Exchanges that continue without their client. `None` at the very end: then none can be
    /// spawned.
    detached: RefCell<Option<JoinSet<()>>>,
    /// The exchanges in flight on any `new`.
    pub on_new: OnNew,
}

impl Worker {
    pub fn new(index: usize, shared: Arc<SharedState>) -> Worker {
        Worker {
            index,
            pools: Pools::new(index, shared.connections.clone()),
            random: Random::default(),
            user_key: RefCell::default(),
            detached: RefCell::new(Some(JoinSet::new())),
            on_new: OnNew::new(index),
            shared,
        }
    }

    /// Takes room for one more request in the whole process.
    pub fn take_request_room(&self, limits: &RequestLimits) -> Option<RequestRoom> {
        let gauges = &self.shared.gauges;
        let before = gauges.requests_in_flight.fetch_add(1, Relaxed);
        // A load is cheaper than `fetch_max`, and mostly enough.
        if before >= gauges.requests_most.load(Relaxed) {
            gauges.requests_most.fetch_max(before + 1, Relaxed);
        }
        // On the error path, dropping it gives the room back.
        let room = RequestRoom(self.shared.clone());
        (before < limits.requests_in_flight).then_some(room)
    }

    /// Takes room for a request body in memory. `None`: the bodies of the process take up all.
    pub fn hold_body(&self, bytes: usize) -> Option<HeldBody> {
        let before = self.shared.gauges.bodies_held_bytes.fetch_add(bytes, Relaxed);
        // On the error path, dropping it gives the room back.
        let held = HeldBody(self.shared.clone(), bytes);
        (before + bytes <= BODIES_HELD_BYTES_MAX).then_some(held)
    }

    /// Lets `future` run on for at most `at_most` after its client has left. The drain waits for
    /// it.
    pub fn detach(&self, at_most: Duration, future: impl Future<Output = ()> + 'static) {
        if let Some(detached) = self.detached.borrow_mut().as_mut() {
            while detached.try_join_next().is_some() {}
            detached.spawn_local(async move {
                let _ = tokio::time::timeout(at_most, future).await;
            });
        }
    }

    /// Whether [`Self::detach`] still works. At the very end, dropped exchanges are cancelled.
    pub fn can_detach(&self) -> bool {
        self.detached.try_borrow().is_ok_and(|d| d.is_some())
    }

    /// Cancels the detached exchanges. From here on none can be spawned.
    pub fn end_detached(&self) {
        // The set leaves the cell first, because a dropped exchange may borrow the cell.
        let detached = self.detached.borrow_mut().take();
        drop(detached);
    }

    pub fn next_detached(&self) -> Option<impl Future<Output = ()> + use<>> {
        let mut detached = self.detached.borrow_mut();
        let set = detached.as_mut().filter(|s| !s.is_empty())?;
        let mut waiting = std::mem::replace(set, JoinSet::new());
        Some(async move { while waiting.join_next().await.is_some() {} })
    }

    /// For request ids and trace ids, not for secrets.
    pub fn random(&self) -> u64 {
        self.random.number()
    }

    /// Whether this user's ordinary requests are logged. The same users are always chosen, so that
    /// their log is complete.
    pub fn is_sampled(&self, share: Weight, user_hash: Option<u64>) -> bool {
        if share == Weight::ZERO {
            return false;
        }
        let place = user_hash.unwrap_or_else(|| self.random());
        ((u128::from(place) * u128::from(BUCKETS)) >> 64) < u128::from(share.parts())
    }

    /// The key that hashes user ids in the log.
    pub fn user_key(&self, log: &LogConfig) -> Option<hmac::Key> {
        let wanted = log.user_key.as_ref()?;
        let mut cached = self.user_key.borrow_mut();
        if cached.as_ref().is_none_or(|(bytes, _)| bytes != wanted) {
            *cached = Some((wanted.clone(), hmac::Key::new(hmac::HMAC_SHA256, wanted)));
        }
        cached.as_ref().map(|(_, key)| key.clone())
    }

    /// Looks at the exchanges on `new` periodically, and cancels those whose time after a hold is
    /// over.
    pub async fn cancel_held(self: Rc<Self>) {
        loop {
            let now = clock::now();
            let next = self.on_new.cancel_overdue(&self.shared.snapshot(), now);
            tokio::time::sleep(next.map_or(LOOK, |next| LOOK.min(next - now))).await;
        }
    }

    /// Closes idle connections to upstreams periodically.
    pub async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let snapshot = self.shared.snapshot();
            let longest = snapshot.config.upstreams.iter().map(|u| u.connection_idle).max();
            self.pools.sweep(longest.unwrap_or(Duration::ZERO));
        }
    }
}

/// A request body that is held in memory.
pub struct HeldBody(Arc<SharedState>, usize);

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.0.gauges.bodies_held_bytes.fetch_sub(self.1, Relaxed);
    }
}

/// One of the requests in flight in the whole process.
pub struct RequestRoom(Arc<SharedState>);

impl Drop for RequestRoom {
    fn drop(&mut self) {
        self.0.gauges.requests_in_flight.fetch_sub(1, Relaxed);
    }
}
