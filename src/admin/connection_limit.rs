//! Chooses the admin connections that stay open when there are too many.
//!
//! There are two rooms, for this machine and for all others, so that no other machine can keep a
//! local operator out. A full room refuses no one: a new connection replaces another.
//! The victim belongs to the source with the most connections. Of these it is the one in the
//! earliest [`AdminStage`], and of those the one that has waited longest.
//!
//! So a silent connection is closed before a working one, however many there are. A source that
//! opens connections in a loop closes its own. A request that arrives with its connection, as those
//! of probes and commands do, is answered.
//!
//! Invariants: a room never holds more than its maximum. A connection's place is free as soon as
//! its [`ConnectionSlot`] is dropped, or is given to another.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::Notify;

/// The maximum number of connections, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// From this machine.
    pub local: usize,
    /// From all others.
    pub remote: usize,
    /// Event streams, which take no place in either.
    pub streams: usize,
}

impl Capacity {
    /// A larger room gives a client more time to send its request while another connects in a loop:
    /// at 5,000 connections a second and 192 places, 38 ms.
    const MOST: Capacity = Capacity { local: 192, remote: 192, streams: 64 };
    const LEAST: Capacity = Capacity { local: 8, remote: 8, streams: 8 };

    /// Divides this number of descriptors.
    pub fn within(descriptors: usize) -> Capacity {
        let share =
            |most: usize, least: usize| (descriptors * most / Capacity::MOST.total()).clamp(least, most);
        let (most, least) = (Capacity::MOST, Capacity::LEAST);
        Capacity {
            local: share(most.local, least.local),
            remote: share(most.remote, least.remote),
            streams: share(most.streams, least.streams),
        }
    }

    fn total(self) -> usize {
        self.local + self.remote + self.streams
    }
}

/// The party a connection waits for. The first stage is evicted first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AdminStage {
    /// The client: a request has not arrived, or not whole.
    Receiving,
    /// The client: it has yet to read the response.
    Sending,
    /// The server: the response is being made.
    Working,
}

/// The connections of one kind.
pub struct ConnectionLimit {
    max: usize,
    next: u64,
    held: HashMap<u64, AdmittedConnection>,
}

struct AdmittedConnection {
    source: ClientSource,
    stage: AdminStage,
    since: Instant,
    evicted: Arc<Notify>,
}

/// Addresses that one client can easily get are one source: all of loopback, and a /64 of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct ClientSource(IpAddr);

impl ClientSource {
    fn new(address: IpAddr) -> ClientSource {
        let address = address.to_canonical();
        ClientSource(match address {
            _ if address.is_loopback() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        })
    }
}

/// A connection's place in its room.
pub struct ConnectionSlot {
    room: Arc<Mutex<ConnectionLimit>>,
    number: u64,
}

impl ConnectionLimit {
    pub fn new(max: usize) -> Arc<Mutex<ConnectionLimit>> {
        Arc::new(Mutex::new(ConnectionLimit { max, next: 0, held: HashMap::new() }))
    }

    /// Takes a place for a connection from `address`. `evicted` is notified when the place is taken
    /// away. Also returns whether another connection was evicted for it.
    pub fn enter(
        room: &Arc<Mutex<ConnectionLimit>>,
        address: IpAddr,
        evicted: Arc<Notify>,
        now: Instant,
    ) -> (ConnectionSlot, bool) {
        let mut inside = lock(room);
        let full = inside.held.len() >= inside.max && inside.evict();
        let number = inside.next;
        inside.next += 1;
        let held = AdmittedConnection {
            source: ClientSource::new(address),
            stage: AdminStage::Receiving,
            since: now,
            evicted,
        };
        inside.held.insert(number, held);
        (ConnectionSlot { room: room.clone(), number }, full)
    }

    /// Closes the victim defined above. False: there is none.
    pub fn evict(&mut self) -> bool {
        let mut counts: HashMap<ClientSource, usize> = HashMap::new();
        self.held.values().for_each(|held| *counts.entry(held.source).or_default() += 1);
        let most = counts.values().copied().max().unwrap_or_default();
        let greedy = self.held.iter().filter(|(_, held)| counts.get(&held.source) == Some(&most));
        let victim = greedy.min_by_key(|(_, held)| (held.stage, held.since)).map(|(number, _)| *number);
        let victim = victim.and_then(|number| self.held.remove(&number));
        victim.inspect(|held| held.evicted.notify_one()).is_some()
    }
}

impl ConnectionSlot {
    pub fn enter_stage(&self, stage: AdminStage, now: Instant) {
        if let Some(held) = lock(&self.room).held.get_mut(&self.number) {
            (held.stage, held.since) = (stage, now);
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.room).held.remove(&self.number);
    }
}

pub fn lock(room: &Mutex<ConnectionLimit>) -> MutexGuard<'_, ConnectionLimit> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Visits {
        room: Arc<Mutex<ConnectionLimit>>,
        now: Instant,
    }

    impl Visits {
        fn new(max: usize) -> Visits {
            Visits { room: ConnectionLimit::new(max), now: Instant::now() }
        }

        fn come(&mut self, address: &str) -> ConnectionSlot {
            self.now += Duration::from_millis(1);
            ConnectionLimit::enter(&self.room, address.parse().unwrap(), Arc::default(), self.now).0
        }

        fn goes_on(&mut self, place: &ConnectionSlot, stage: AdminStage) {
            self.now += Duration::from_millis(1);
            place.enter_stage(stage, self.now);
        }
    }

    fn is_in(place: &ConnectionSlot) -> bool {
        lock(&place.room).held.contains_key(&place.number)
    }

    #[test]
    fn the_one_that_has_waited_longest_for_its_client_gives_way() {
        let mut visits = Visits::new(3);
        let [works, sends, waits] = [(); 3].map(|()| visits.come("127.0.0.1"));
        visits.goes_on(&works, AdminStage::Working);
        visits.goes_on(&sends, AdminStage::Sending);
        let new = visits.come("::1");
        assert!(!is_in(&waits) && is_in(&works) && is_in(&sends) && is_in(&new));
        // The newest, but it is evicted before one that is being answered.
        let newer = visits.come("127.0.0.9");
        assert!(!is_in(&new) && is_in(&sends) && is_in(&newer));
        visits.goes_on(&newer, AdminStage::Sending);
        let newest = visits.come("127.0.0.1");
        assert!(!is_in(&sends) && is_in(&newer) && is_in(&newest));
        drop((works, newer, new));
        assert_eq!(lock(&visits.room).held.len(), 1, "a place is given back once, by its own connection");
    }

    #[test]
    fn a_source_with_many_connections_closes_its_own() {
        let mut visits = Visits::new(6);
        let others = ["10.0.0.1", "10.0.0.2"].map(|address| visits.come(address));
        let many: Vec<_> = (0..40)
            .map(|i| {
                let place = visits.come(&format!("2001:db8::{i:x}"));
                visits.goes_on(&place, AdminStage::Working);
                place
            })
            .collect();
        let again = visits.come("10.0.0.3");
        assert!(others.iter().chain([&again]).all(is_in));
        assert_eq!(many.iter().filter(|place| is_in(place)).count(), 3);
    }

    #[test]
    fn few_descriptors_are_shared() {
        assert_eq!(Capacity::within(10_000), Capacity::MOST);
        assert_eq!(Capacity::within(0), Capacity::LEAST);
        assert!(Capacity::within(224).total() <= 224);
    }
}
