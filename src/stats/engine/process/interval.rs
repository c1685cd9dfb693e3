//! The requests of an interval until it is final: those in flight, their outcomes, their users.
//!
//! Invariants: plain values; an interval's memory is reused by the next one.

use super::*;

/// A drawn request in flight, or an answered first request that may still break.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) interval: u64,
    pub(super) unit: Unit,
    pub(super) arm: Arm,
    pub(super) stratum: Option<u8>,
    pub(super) place: Option<Place>,
    pub(super) factor: f64,
    /// Its index in [`Interval::pending`].
    pub(super) pending: u32,
    /// The slot number of a user's first request, in the pooled scope and in its stratum.
    pub(super) first: [Option<u32>; 2],
    pub(super) answered: bool,
}

/// The outcome of a drawn request, until its interval is final.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    pub(super) cluster: u16,
    pub(super) place: Option<Place>,
    pub(super) rank: [f32; LEVELS],
    pub(super) kinds: Kinds,
    /// Only corrects a counted request: it failed after all, or, by `kinds`, was a client error.
    pub(super) correction: bool,
}

impl Scored {
    pub(super) fn correction(unit: Unit) -> Scored {
        let cluster = unit.cluster() as u16;
        Scored { cluster, place: None, rank: [0.0; LEVELS], kinds: Kinds::default(), correction: true }
    }

    pub(super) fn rows(&self) -> [f32; cluster_window::ROWS] {
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
    /// Answered later than the limit.
    Late,
    Failed,
    Excused,
}

/// The effect of one request on its user.
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

/// The server of a request.
pub(super) fn place(request: &Request) -> Option<Place> {
    request.server.map(|server| Place { arm: request.arm, server })
}

#[derive(Clone, Debug, Default)]
pub(super) struct Interval {
    pub(super) counts: [Counts; 2],
    /// The table at its first event. A table made while its requests fail would count against those
    /// that failed last.
    pub(super) table: Option<Arc<Table>>,
    /// Users who entered the draw, pooled and by stratum.
    pub(super) entered: Vec<Pair>,
    /// Events of drawn requests.
    pub(super) bad: Vec<Bad>,
    /// Drawn requests of servers, in the order of arrival.
    pub(super) pending: Vec<Pending>,
    pub(super) scored: Vec<Scored>,
    pub(super) failures: Vec<Failure>,
    /// Number of drawn requests without an answer.
    pub(super) waiting: u32,
    /// Answered first requests that are still in `Engine::open`.
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

    /// Counts a reported failure.
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
