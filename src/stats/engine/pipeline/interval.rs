//! The requests of an interval until it is final: those in flight, their outcomes, their users.
//!
//! Invariants: plain values; an interval's memory is reused by the next one.

use super::*;

/// A drawn request in flight, or an answered first request that may still break.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenRequest {
    pub(super) interval: u64,
    pub(super) unit: UserUnit,
    pub(super) arm: Arm,
    pub(super) stratum: Option<u8>,
    pub(super) place: Option<ServerIndex>,
    pub(super) factor: f64,
    /// Its index in [`OpenInterval::pending`].
    pub(super) pending: u32,
    /// The slot number of a user's first request, in the pooled scope and in its stratum.
    pub(super) first: [Option<u32>; 2],
    pub(super) answered: bool,
}

/// The outcome of a drawn request, until its interval is final.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scored {
    pub(super) cluster: u16,
    pub(super) place: Option<ServerIndex>,
    pub(super) rank: [f32; LEVELS],
    pub(super) kinds: FirstEventKinds,
    /// Only corrects a counted request: it failed after all, or, by `kinds`, was a client error.
    pub(super) correction: bool,
}

impl Scored {
    pub(super) fn correction(unit: UserUnit) -> Scored {
        let cluster = unit.cluster() as u16;
        Scored {
            cluster,
            place: None,
            rank: [0.0; LEVELS],
            kinds: FirstEventKinds::default(),
            correction: true,
        }
    }

    pub(super) fn rows(&self) -> [f32; cluster_window::ROWS] {
        let has = |kind| f32::from(u8::from(self.kinds.has(kind)));
        let [flip, notice] = Level::ALL.map(|level| level as usize);
        [
            self.rank[flip],
            has(FirstEventKind::Slow98(flip)),
            has(FirstEventKind::Slow999(flip)),
            has(FirstEventKind::Failed),
            has(FirstEventKind::ClientError),
            self.rank[notice],
            has(FirstEventKind::Slow98(notice)),
            has(FirstEventKind::Slow999(notice)),
        ]
    }
}

/// A request of a server, until its interval is marked.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnmarkedRequest {
    pub(super) id: u64,
    pub(super) place: ServerIndex,
    pub(super) unit: UserUnit,
    pub(super) factor: f32,
    pub(super) came_out: RequestOutcome,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RequestOutcome {
    Not,
    Answered,
    /// Answered later than the limit.
    Late,
    Failed,
    Excused,
}

/// The effect of one request on its user.
#[derive(Clone, Copy, Debug)]
pub(super) struct UserEffect {
    pub(super) unit: UserUnit,
    pub(super) arm: Arm,
    pub(super) stratum: Option<u8>,
    pub(super) place: Option<ServerIndex>,
    pub(super) arrived: Duration,
    pub(super) ends: FirstEvents,
}

impl UserEffect {
    pub(super) fn by(request: &RequestStart, unit: UserUnit, ends: impl Into<FirstEvents>) -> UserEffect {
        let RequestStart { arm, stratum, .. } = *request;
        let (place, arrived) = (place(request), request.at);
        UserEffect { unit, arm, stratum, place, arrived, ends: ends.into() }
    }
}

/// The server of a request.
pub(super) fn place(request: &RequestStart) -> Option<ServerIndex> {
    request.server.map(|server| ServerIndex { arm: request.arm, server })
}

#[derive(Clone, Debug, Default)]
pub(super) struct OpenInterval {
    pub(super) counts: [IntervalCounts; 2],
    /// The table at its first event. A table made while its requests fail would count against those
    /// that failed last.
    pub(super) table: Option<Arc<AgeTable>>,
    /// Users who entered the draw, pooled and by stratum.
    pub(super) entered: Vec<PerArm>,
    /// Events of drawn requests.
    pub(super) bad: Vec<UserEffect>,
    /// Drawn requests of servers, in the order of arrival.
    pub(super) pending: Vec<UnmarkedRequest>,
    pub(super) scored: Vec<Scored>,
    pub(super) failures: Vec<FailedRequest>,
    /// Number of drawn requests without an answer.
    pub(super) waiting: u32,
    /// Answered first requests that are still in `Engine::open`.
    pub(super) kept: Vec<u64>,
}

impl OpenInterval {
    pub(super) fn clear(&mut self) {
        let OpenInterval { counts, table, entered, bad, pending, scored, failures, waiting, kept } = self;
        (*counts, *table, *waiting) = ([IntervalCounts::default(); 2], None, 0);
        entered.clear();
        bad.clear();
        scored.clear();
        failures.clear();
        kept.clear();
        pending.clear();
    }

    /// Counts a reported failure.
    pub(super) fn failed(&mut self, request: &RequestStart) {
        self.counts[request.arm.index()].mark(request.unit);
        let server = place(request);
        self.fails(FailedRequest {
            arm: request.arm,
            user: request.unit,
            server,
            reported: true,
            excused: false,
        });
    }

    pub(super) fn fails(&mut self, failure: FailedRequest) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }
}
