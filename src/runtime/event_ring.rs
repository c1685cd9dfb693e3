//! The watchdog's input: one queue of request events per worker, read by the one watchdog thread.
//!
//! Each worker writes into its own ring; the watchdog empties all rings each tick.
//! A request reserves its place with [`EventRing::arrive`], reports events with
//! [`EventRing::record_event`], and releases its place with [`EventRing::leave`].
//! Room for all later events is reserved at arrival, so an accepted request can always report its
//! end: missing events mean that the arm did not answer.
//!
//! Invariants: one writer and one reader per ring, no lock, no allocation after `new`; events of
//! one request stay in order.
//! A full ring accepts no new requests (counted in [`EventRing::lost`]: it affects both arms alike,
//! since the watchdog was starved), and never drops an event of an accepted request.

use crate::stats::arm::Arm;
use crate::stats::engine::{EventKind, RequestEvent, RequestStart, SERVER_NUMBER_MAX};
use crate::stats::users::UserUnit;
use crate::telemetry::counters::PerWorker;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

/// Events per ring: 0.4 s of 50,000 requests a second, with three events each.
const RING: u64 = 1 << 16;
/// The most events of a request after its arrival: answered, and ended or broken.
const MORE: u64 = 2;

type EventWords = [AtomicU64; 3];

struct WorkerRing {
    slots: Box<[EventWords]>,
    /// Written by the worker.
    tail: AtomicU64,
    /// Events that requests in flight may still write.
    reserved: AtomicU64,
    lost: AtomicU64,
    ids: AtomicU64,
    /// Written by the reader.
    head: AtomicU64,
}

pub struct EventRing {
    workers: PerWorker<WorkerRing>,
}

/// A request's place in the evidence.
#[must_use = "to be given back with `Feed::leave`"]
pub struct EventTicket {
    at: Duration,
    place: u64,
    who: u64,
    id: u64,
    left: u64,
}

/// The data of a request at its arrival.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RequestArrival {
    /// The epoch of the release that it was decided in; below 2^32.
    pub epoch: u64,
    pub at: Duration,
    pub arm: Arm,
    pub unit: Option<UserUnit>,
    /// The hash alone chose the arm.
    pub drawn: bool,
    /// Its route, if that is judged separately; below 31.
    pub stratum: Option<u8>,
    /// The number of its server.
    pub server: Option<u8>,
}

// First word: 48 bits of µs, 4 of `EventKind`, 1 of arm, 1 of drawn, 1 of known user, 5 of stratum
// + 1, 4 of the body size. Second: 24 bits of unit, 8 of server + 1, 32 of epoch. Third: 32 bits of
// time after the arrival, 32 of id.
const AT_BITS: u32 = 48;
const WHAT_SHIFT: u32 = 48;
const ARM_SHIFT: u32 = 52;
const DRAWN_SHIFT: u32 = 53;
const KNOWN_SHIFT: u32 = 54;
const STRATUM_SHIFT: u32 = 55;
const SIZE_SHIFT: u32 = 60;
const UNIT_BITS: u32 = 24;
const SERVER_SHIFT: u32 = 24;
const EPOCH_SHIFT: u32 = 32;
/// Resolution of the time after the arrival, in µs: 32 bits are nineteen hours.
const AFTER_US: u64 = 16;

const WHATS: [EventKind; 11] = [
    EventKind::Arrived,
    EventKind::Answered,
    EventKind::ClientError,
    EventKind::Failed,
    EventKind::Excused,
    EventKind::Left { unusual: false },
    EventKind::Broke,
    EventKind::Redirected,
    EventKind::Ended { size: 0, client_slow: false },
    EventKind::Ended { size: 0, client_slow: true },
    EventKind::EndedAsClientError,
];

fn code(what: EventKind) -> u64 {
    match what {
        EventKind::Arrived => 0,
        EventKind::Answered => 1,
        EventKind::ClientError => 2,
        EventKind::Failed => 3,
        EventKind::Excused => 4,
        EventKind::Left { .. } => 5,
        EventKind::Broke => 6,
        EventKind::Redirected => 7,
        EventKind::Ended { client_slow, .. } => 8 + u64::from(client_slow),
        EventKind::EndedAsClientError => 10,
    }
}

fn server_bits(server: Option<u8>) -> u64 {
    server.map_or(0, |server| u64::from(server.min(SERVER_NUMBER_MAX)) + 1) << SERVER_SHIFT
}

impl EventRing {
    pub fn new(workers: usize) -> EventRing {
        EventRing {
            workers: PerWorker::new(workers, || WorkerRing {
                slots: (0..RING).map(|_| EventWords::default()).collect(),
                tail: AtomicU64::new(0),
                reserved: AtomicU64::new(0),
                lost: AtomicU64::new(0),
                ids: AtomicU64::new(0),
                head: AtomicU64::new(0),
            }),
        }
    }

    /// Records an arrival. `None`: no room; the request is not part of the evidence.
    pub fn arrive(&self, worker: usize, arrival: &RequestArrival) -> Option<EventTicket> {
        let ring = self.workers.of(worker);
        let (tail, reserved) = (ring.tail.load(Relaxed), ring.reserved.load(Relaxed));
        if tail - ring.head.load(Acquire) + reserved + 1 + MORE > RING {
            ring.lost.store(ring.lost.load(Relaxed) + 1, Relaxed);
            return None;
        }
        ring.reserved.store(reserved + MORE, Relaxed);
        let id = ring.ids.load(Relaxed);
        ring.ids.store(id.wrapping_add(1), Relaxed);
        let at_us = arrival.at.as_micros() as u64 & ((1 << AT_BITS) - 1);
        let ticket = EventTicket {
            at: arrival.at,
            place: at_us
                | (arrival.arm.index() as u64) << ARM_SHIFT
                | u64::from(arrival.drawn) << DRAWN_SHIFT
                | u64::from(arrival.unit.is_some()) << KNOWN_SHIFT
                | arrival.stratum.map_or(0, |s| u64::from(s) + 1) << STRATUM_SHIFT,
            who: arrival.unit.map_or(0, |unit| u64::from(unit.index()))
                | server_bits(arrival.server)
                | arrival.epoch << EPOCH_SHIFT,
            id: id & u64::from(u32::MAX),
            left: MORE,
        };
        ring.write(&ticket, EventKind::Arrived, Duration::ZERO);
        Some(ticket)
    }

    /// Records a later event. Called on the worker of the arrival, at most twice.
    pub fn record_event(&self, worker: usize, ticket: &mut EventTicket, what: EventKind, now: Duration) {
        if ticket.left == 0 {
            return;
        }
        ticket.left -= 1;
        let ring = self.workers.of(worker);
        ring.reserved.store(ring.reserved.load(Relaxed) - 1, Relaxed);
        ring.write(ticket, what, now.saturating_sub(ticket.at));
    }

    /// Moves the request to another server.
    pub fn moves(&self, ticket: &mut EventTicket, server: u8) {
        ticket.who = ticket.who & !(0xff << SERVER_SHIFT) | server_bits(Some(server));
    }

    /// Ends the request: no further events follow.
    pub fn leave(&self, worker: usize, ticket: EventTicket) {
        let ring = self.workers.of(worker);
        ring.reserved.store(ring.reserved.load(Relaxed).saturating_sub(ticket.left), Relaxed);
    }

    /// The number of requests that found no room.
    pub fn lost(&self) -> u64 {
        self.workers.iter().map(|ring| ring.lost.load(Relaxed)).sum()
    }

    /// Takes all events since the last call. Only the watchdog calls it.
    pub fn drain(&self, mut take: impl FnMut(u64, RequestEvent)) {
        for (worker, ring) in self.workers.iter().enumerate() {
            let (mut head, tail) = (ring.head.load(Relaxed), ring.tail.load(Acquire));
            while head < tail {
                let words = ring.slots[(head % RING) as usize].each_ref().map(|w| w.load(Relaxed));
                head += 1;
                let (epoch, event) = read(words, worker as u64);
                take(epoch, event);
            }
            ring.head.store(head, Release);
        }
    }
}

impl WorkerRing {
    fn write(&self, ticket: &EventTicket, what: EventKind, after: Duration) {
        let tail = self.tail.load(Relaxed);
        let after = (after.as_micros() as u64 / AFTER_US).min(u64::from(u32::MAX));
        let size = if let EventKind::Ended { size, .. } = what { u64::from(size & 15) } else { 0 };
        let place = ticket.place | code(what) << WHAT_SHIFT | size << SIZE_SHIFT;
        let words = [place, ticket.who, after << 32 | ticket.id];
        for (slot, word) in self.slots[(tail % RING) as usize].iter().zip(words) {
            slot.store(word, Relaxed);
        }
        self.tail.store(tail + 1, Release);
    }
}

fn read([place, who, rest]: [u64; 3], worker: u64) -> (u64, RequestEvent) {
    let bit = |shift: u32| place >> shift & 1 == 1;
    let unit = (who & ((1 << UNIT_BITS) - 1)) as u32;
    let request = RequestStart {
        id: worker << 32 | rest & u64::from(u32::MAX),
        at: Duration::from_micros(place & ((1 << AT_BITS) - 1)),
        arm: if bit(ARM_SHIFT) { Arm::New } else { Arm::Stable },
        unit: bit(KNOWN_SHIFT).then(|| UserUnit::from_index(unit)),
        drawn: bit(DRAWN_SHIFT),
        stratum: ((place >> STRATUM_SHIFT & 31) as u8).checked_sub(1),
        server: ((who >> SERVER_SHIFT & 0xff) as u8).checked_sub(1),
    };
    let mut what = WHATS[(place >> WHAT_SHIFT & 15).min(WHATS.len() as u64 - 1) as usize];
    if let EventKind::Ended { size, .. } = &mut what {
        *size = (place >> SIZE_SHIFT) as u8;
    }
    let after = Duration::from_micros((rest >> 32) * AFTER_US);
    (who >> EPOCH_SHIFT, RequestEvent { request, what, after })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: Duration = Duration::from_micros(123_456_789);

    fn arrival(unit: u32) -> RequestArrival {
        RequestArrival {
            epoch: 7,
            at: AT,
            arm: Arm::New,
            unit: Some(UserUnit::from_index(unit)),
            drawn: true,
            stratum: Some(15),
            server: None,
        }
    }

    fn drained(events: &EventRing) -> Vec<(u64, RequestEvent)> {
        let mut all = vec![];
        events.drain(|epoch, event| all.push((epoch, event)));
        all
    }

    proptest! {
        #[test]
        fn what_is_told_is_what_is_read(
            epoch in 0u64..1 << 32, at in 0u64..1 << 48, new: bool, unit in prop::option::of(0u32..16_000_000),
            drawn: bool, stratum in prop::option::of(0u8..16), server in prop::option::of(0u8..=254), size in 0u8..16,
            what in 1usize..WHATS.len(), after in 0u64..3_600_000_000,
        ) {
            let events = EventRing::new(2);
            let arm = if new { Arm::New } else { Arm::Stable };
            let unit = unit.map(UserUnit::from_index);
            let at = Duration::from_micros(at);
            let mut ticket = events.arrive(1, &RequestArrival { epoch, at, arm, unit, drawn, stratum, server }).expect("room");
            let mut what = WHATS[what];
            if let EventKind::Ended { size: of, .. } = &mut what {
                *of = size;
            }
            events.record_event(1, &mut ticket, what, at + Duration::from_micros(after));
            events.leave(1, ticket);
            let all = drained(&events);
            prop_assert_eq!(all.len(), 2);
            for (of, event) in &all {
                prop_assert_eq!(*of, epoch);
                let r = event.request;
                prop_assert_eq!((r.at, r.arm, r.unit, r.drawn), (at, arm, unit, drawn));
                prop_assert_eq!((r.stratum, r.server), (stratum, server));
            }
            prop_assert_eq!(all[1].1.what, what);
            prop_assert_eq!(all[0].1.request.id, all[1].1.request.id);
            prop_assert!(Duration::from_micros(after) - all[1].1.after < Duration::from_micros(AFTER_US));
        }
    }

    #[test]
    fn a_full_ring_takes_nobody_in_but_lets_those_inside_tell_their_end() {
        let events = EventRing::new(1);
        let mut inside = vec![];
        while let Some(ticket) = events.arrive(0, &arrival(inside.len() as u32)) {
            inside.push(ticket);
        }
        assert_eq!((inside.len() as u64, events.lost()), (RING / 3, 1));
        for mut ticket in inside {
            events.record_event(0, &mut ticket, EventKind::Answered, AT);
            events.record_event(0, &mut ticket, EventKind::Broke, AT);
            events.record_event(0, &mut ticket, EventKind::Broke, AT);
            events.leave(0, ticket);
        }
        let all = drained(&events);
        assert_eq!(all.len() as u64, RING / 3 * 3);
        assert_eq!(all.iter().filter(|(_, e)| e.what == EventKind::Broke).count() as u64, RING / 3);
        assert!(events.arrive(0, &arrival(1)).is_some_and(|ticket| {
            events.leave(0, ticket);
            true
        }));
    }

    #[test]
    fn a_reader_beside_the_writer_misses_nothing() {
        const N: u32 = 300_000;
        let events = EventRing::new(1);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut i = 0;
                while i < N {
                    match events.arrive(0, &arrival(i)) {
                        Some(mut ticket) => {
                            events.record_event(0, &mut ticket, EventKind::Answered, AT);
                            events.leave(0, ticket);
                            i += 1;
                        }
                        None => std::thread::yield_now(),
                    }
                }
            });
            let (mut arrived, mut answered) = (0, 0);
            while answered < N {
                events.drain(|_, event| {
                    assert_eq!(
                        event.request.unit.map(UserUnit::index),
                        Some(arrived.max(answered) - u32::from(event.what == EventKind::Answered))
                    );
                    match event.what {
                        EventKind::Arrived => arrived += 1,
                        _ => answered += 1,
                    }
                });
            }
            assert_eq!((arrived, answered), (N, N));
        });
    }
}
