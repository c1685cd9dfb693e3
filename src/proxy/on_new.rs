//! The exchanges in flight on `new`, and their cancellation when a release holds `new` at 0%.
//!
//! Each worker has a table of its exchanges with `new`, tunnels included.
//! It looks at the table once a second (`Worker::cancel_held`), and cancels those whose time after
//! the hold is over.
//! One mechanism cancels all: the task that carries the response to the client (of an HTTP/1.1
//! connection, or of an HTTP/2 stream) ends, and drops all it owns.
//! Client and server see a connection without terminator, or RST_STREAM CANCEL.
//!
//! Invariants: an exchange is in the table from its decision to its end, once. A failed-over one is
//! not. A request that was received and waits for its response head is never cancelled here.
//! A response or an upload without a known length, and a tunnel, is cancelled `stream_grace` after
//! the hold or its head, whichever is later; those of known length after `FINISH_MAX`.
//! `[limits] requests_in_flight` and `connections` bound the table.

use super::carrier::Carrier;
use super::request_body::RequestBodyState;
use crate::runtime::release_counters::ReleaseCounters;
use crate::runtime::snapshot::{ReleaseSnapshot, Snapshot};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// For an upload or a response of known length, after its release is held.
const FINISH_MAX: Duration = Duration::from_secs(600);

/// All exchanges of one worker with any `new`.
pub struct OnNew {
    worker: usize,
    groups: RefCell<Vec<Rc<Group>>>,
}

/// Those of one release.
struct Group {
    worker: usize,
    counters: Arc<ReleaseCounters>,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    all: Vec<Option<Slot>>,
    /// Indices of the empty slots.
    free: Vec<usize>,
}

struct Slot {
    began: Duration,
    attempt: u64,
    body_state: Rc<RequestBodyState>,
    answer: AnswerProgress,
    carrier: Carrier,
    cancelled: bool,
}

/// Progress of the response, with the monotonic time of its head.
#[derive(Clone, Copy)]
enum AnswerProgress {
    Awaited,
    Sized(Duration),
    /// No known length, or a tunnel.
    Stream(Duration),
}

/// An exchange in the table; dropping it removes the exchange.
pub struct TrackedRequest {
    group: Rc<Group>,
    slot: usize,
}

impl OnNew {
    pub fn new(worker: usize) -> Self {
        OnNew { worker, groups: RefCell::default() }
    }

    /// Adds an exchange that was decided for `new`.
    pub fn enter(
        &self,
        release: &ReleaseSnapshot,
        began: Duration,
        body_state: Rc<RequestBodyState>,
        carrier: Carrier,
    ) -> TrackedRequest {
        // A client may stall in the middle of its upload.
        if !body_state.is_whole() {
            carrier.token().arm();
        }
        let group = self.group(&release.counters);
        group.counters.under_way.began(self.worker);
        let attempt = release.release.attempt;
        let answer = AnswerProgress::Awaited;
        let slot = Slot { began, attempt, body_state, answer, carrier, cancelled: false };
        let slot = group.slots.borrow_mut().insert(slot);
        TrackedRequest { group, slot }
    }

    fn group(&self, counters: &Arc<ReleaseCounters>) -> Rc<Group> {
        let mut groups = self.groups.borrow_mut();
        if let Some(group) = groups.iter().find(|group| Arc::ptr_eq(&group.counters, counters)) {
            return group.clone();
        }
        let (worker, counters) = (self.worker, counters.clone());
        let group = Rc::new(Group { worker, counters, slots: RefCell::default() });
        groups.push(group.clone());
        group
    }

    /// Cancels the exchanges whose time after a hold is over. Returns the next such time
    /// (monotonic).
    pub fn cancel_overdue(&self, snapshot: &Snapshot, now: Duration) -> Option<Duration> {
        let grace = snapshot.config.limits.stream_grace;
        let named =
            |group: &Group| snapshot.releases.iter().any(|r| Arc::ptr_eq(&r.counters, &group.counters));
        let mut groups = self.groups.borrow_mut();
        groups.retain(|group| !group.is_empty() || named(group));
        groups.iter().filter_map(|group| group.cancel_overdue(grace, now)).min()
    }
}

impl Group {
    fn is_empty(&self) -> bool {
        let slots = self.slots.borrow();
        slots.all.len() == slots.free.len()
    }

    fn cancel_overdue(&self, grace: Duration, now: Duration) -> Option<Duration> {
        let under_way = &self.counters.under_way;
        let mut slots = self.slots.borrow_mut();
        under_way.note_oldest(self.worker, slots.all.iter().flatten().map(|slot| slot.began).min());
        let mut next = None::<Duration>;
        for slot in slots.all.iter_mut().flatten() {
            let Some(held) = under_way.held_since(slot.attempt) else { continue };
            let Some(deadline) = slot.deadline(held, grace) else { continue };
            if deadline > now {
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
            } else {
                slot.cancelled = true;
                slot.carrier.token().cancel();
            }
        }
        next
    }
}

impl Slot {
    fn deadline(&self, held: Duration, grace: Duration) -> Option<Duration> {
        let upload_finishes = self.body_state.is_sized() && !self.body_state.is_whole();
        match self.answer {
            // Its `response_timeout` ends it.
            AnswerProgress::Awaited if self.body_state.is_whole() => None,
            AnswerProgress::Awaited if upload_finishes => Some(held + FINISH_MAX),
            AnswerProgress::Awaited => Some(held + grace),
            AnswerProgress::Sized(head) => Some(held.max(head) + FINISH_MAX),
            AnswerProgress::Stream(head) if upload_finishes => Some(held.max(head) + FINISH_MAX),
            AnswerProgress::Stream(head) if self.body_state.is_sized() => {
                Some(held.max(head).max(self.body_state.moved_at()) + grace)
            }
            AnswerProgress::Stream(head) => Some(held.max(head) + grace),
        }
    }
}

impl Slots {
    fn insert(&mut self, slot: Slot) -> usize {
        match self.free.pop() {
            Some(index) => {
                self.all[index] = Some(slot);
                index
            }
            None => {
                self.all.push(Some(slot));
                self.all.len() - 1
            }
        }
    }
}

impl TrackedRequest {
    /// The response head has arrived, and a body follows.
    pub fn track_response(&self, sized: bool, now: Duration) {
        self.change(|slot| {
            slot.answer = if sized { AnswerProgress::Sized(now) } else { AnswerProgress::Stream(now) };
            slot.carrier.token().arm();
        });
    }

    pub fn is_cancelled(&self) -> bool {
        let slots = self.group.slots.borrow();
        slots.all[self.slot].as_ref().is_some_and(|slot| slot.cancelled)
    }

    fn change(&self, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = &mut self.group.slots.borrow_mut().all[self.slot] {
            change(slot);
        }
    }
}

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        self.group.counters.under_way.ended(self.group.worker);
        let slot = {
            let mut slots = self.group.slots.borrow_mut();
            slots.free.push(self.slot);
            slots.all[self.slot].take()
        };
        if let Some(slot) = &slot {
            slot.carrier.token().disarm();
        }
    }
}
