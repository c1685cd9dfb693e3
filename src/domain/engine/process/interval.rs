//! Requests of an interval until it is final: those in flight, what befell them, and whom they had.
//!
//! Invariants: plain values; an interval keeps its room for the next one.

use super::*;

/// A drawn request that is in flight, or is a user's first and may still break.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) interval: u64,
    pub(super) unit: Unit,
    pub(super) arm: Arm,
    pub(super) stratum: Option<u8>,
    pub(super) place: Option<Place>,
    pub(super) factor: f64,
    /// Its number in [`Interval::pending`].
    pub(super) pending: u32,
    /// First of its user in the pooled scope, in its stratum: its number in the slot.
    pub(super) first: [Option<u32>; 2],
    pub(super) answered: bool,
}

/// A drawn request's outcome, until its interval is final.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    pub(super) cluster: u16,
    pub(super) place: Option<Place>,
    pub(super) rank: [f32; LEVELS],
    pub(super) kinds: Kinds,
    /// Only a correction of one that was counted: it failed after all; or, if that is its kind, it
    /// was a client error.
    pub(super) correction: bool,
}

impl Scored {
    pub(super) fn correction(unit: Unit) -> Scored {
        let cluster = unit.cluster() as u16;
        Scored { cluster, place: None, rank: [0.0; LEVELS], kinds: Kinds::default(), correction: true }
    }

    pub(super) fn rows(&self) -> [f32; window::ROWS] {
        let has = |kind| f32::from(u8::from(self.kinds.has(kind)));
        let [flip, notice] = Level::ALL.map(|level| level as usize);
        [
            self.rank[flip],
            has(Kind::Slow98(flip)),
            has(Kind::Slow999(flip)),
            has(Kind::Failed),
            has(Kind::ClientError),
            self.rank[notice],
            has(Kind::Slow98(notice)),
            has(Kind::Slow999(notice)),
        ]
    }
}

/// A request of a server, until its interval is marked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) id: u64,
    pub(super) place: Place,
    pub(super) unit: Unit,
    pub(super) factor: f32,
    pub(super) came_out: CameOut,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CameOut {
    Not,
    Answered,
    /// Answered, but later than the limit.
    Late,
    Failed,
    Excused,
}

/// What one request did to its user.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bad {
    pub(super) unit: Unit,
    pub(super) arm: Arm,
    pub(super) stratum: Option<u8>,
    pub(super) place: Option<Place>,
    pub(super) arrived: Duration,
    pub(super) ends: Ends,
}

impl Bad {
    pub(super) fn by(request: &Request, unit: Unit, ends: impl Into<Ends>) -> Bad {
        let Request { arm, stratum, .. } = *request;
        let (place, arrived) = (place(request), request.at);
        Bad { unit, arm, stratum, place, arrived, ends: ends.into() }
    }
}

/// The server that has a request.
pub(super) fn place(request: &Request) -> Option<Place> {
    request.server.map(|server| Place { arm: request.arm, server })
}

#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    pub(super) counts: [Counts; 2],
    /// As of its first event: a table that came into being while its requests failed would be held
    /// against those who failed last.
    pub(super) table: Option<Arc<Table>>,
    /// Users who entered the draw, pooled and by stratum.
    pub(super) entered: Vec<Pair>,
    /// Drawn requests that something befell.
    pub(super) bad: Vec<Bad>,
    /// Drawn requests of servers, in the order of arrival.
    pub(super) pending: Vec<Pending>,
    pub(super) scored: Vec<Scored>,
    pub(super) failures: Vec<Failure>,
    /// Drawn and unanswered.
    pub(super) waiting: u32,
    /// Answered first requests that are still in the table of open ones.
    pub(super) kept: Vec<u64>,
}

impl Interval {
    pub(super) fn clear(&mut self) {
        let Interval { counts, table, entered, bad, pending, scored, failures, waiting, kept } = self;
        (*counts, *table, *waiting) = ([Counts::default(); 2], None, 0);
        entered.clear();
        bad.clear();
        scored.clear();
        failures.clear();
        kept.clear();
        pending.clear();
    }

    /// A request came out as a failure.
    pub(super) fn failed(&mut self, request: &Request) {
        self.counts[request.arm.index()].mark(request.unit);
        let server = place(request);
        self.fails(Failure { arm: request.arm, user: request.unit, server, reported: true, excused: false });
    }

    pub(super) fn fails(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }
}
