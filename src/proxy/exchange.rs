//! One exchange's books: opened when a request is decided, closed once with its outcome, also if it is dropped.
//!
//! Invariants: each exchange is counted exactly once, under the snapshot it was decided under, on the worker that
//! serves it; what is dropped without an outcome was the client's doing; a fail-over counts as a connect error of `new`
//! and as nothing of stable.

use super::body::Upload;
use super::serve::Worker;
use crate::domain::cohort::Bucket;
use crate::domain::decide::Arm;
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::plan::Target;
use crate::live::clock;
use crate::live::epoch::{Ending, Randomised, Ticket};
use crate::live::snapshot::{Cohort, ReleaseLive, RouteCounts, Snapshot};
use crate::live::tally::ArmCounts;
use crate::live::upstream::{InFlight, ServerLoad};
use http::{HeaderValue, Method, StatusCode, Uri};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

pub struct Exchange {
    worker: Rc<Worker>,
    snapshot: Arc<Snapshot>,
    upload: Rc<Upload>,
    route: usize,
    /// `None` on a route that goes to an upstream directly.
    decided: Option<(Decided, Ticket)>,
    began: Duration,
    story: Story,
    served: Served,
    bytes: u64,
    /// Room claimed in upstreams, and a server's load: given back with the exchange.
    rooms: [Option<InFlight>; 2],
    load: Option<ServerLoad>,
    /// The head of the response has come.
    headed: bool,
    open: bool,
}

/// What was decided about a request of a release.
#[derive(Clone, Copy)]
pub struct Decided {
    /// Index into the plan's releases.
    pub release: usize,
    pub arm: Arm,
    pub cohort: Cohort,
    pub reason: &'static str,
    pub bucket: Option<Bucket>,
    /// Tells users apart in sketches; also chooses those whose requests are logged.
    pub user_hash: Option<u64>,
    pub randomised: Randomised,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Served {
    AsDecided,
    /// Counted as a connect error of `new`; stable answered.
    ByStable,
}

/// What the log may tell of a request. Cheap to keep: nothing is formatted unless it is written.
pub struct Story {
    pub method: Method,
    pub uri: Uri,
    /// The path segment that is a user id, and must not be written.
    pub id_in_path: Option<usize>,
    pub request_id: Option<HeaderValue>,
    pub address: IpAddr,
    /// Keyed hash of the user id, where the config has a key.
    pub user: Option<Box<str>>,
    /// This user's ordinary requests are written.
    pub sampled: bool,
}

/// A closed exchange, as the log tells it.
pub struct Told<'a> {
    pub story: &'a Story,
    pub route: &'a str,
    pub release: Option<&'a str>,
    pub decided: Option<&'a Decided>,
    pub served: Served,
    pub outcome: Outcome,
    pub status: StatusCode,
    pub client_gone: bool,
    pub took: Duration,
    pub bytes: u64,
}

impl Exchange {
    pub fn begin(
        worker: Rc<Worker>,
        snapshot: Arc<Snapshot>,
        upload: Rc<Upload>,
        route: usize,
        decided: Option<Decided>,
        story: Story,
    ) -> Exchange {
        let began = clock::now();
        let decided = decided.map(|d| {
            let release = &snapshot.releases[d.release];
            match d.user_hash {
                Some(hash) => release.tally.arm(d.arm).saw(hash, began.as_secs() / 60),
                None => release.tally.user_id_missing.of(worker.index).add(1),
            }
            (d, release.epoch.arrive(worker.index, d.arm, d.bucket, d.randomised, began))
        });
        let exchange = Exchange {
            worker,
            snapshot,
            upload,
            route,
            decided,
            began,
            story,
            served: Served::AsDecided,
            bytes: 0,
            rooms: [None, None],
            load: None,
            headed: false,
            open: true,
        };
        exchange.arm_counts(|counts| counts.in_flight.add(1));
        exchange
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub fn release(&self) -> Option<&Arc<ReleaseLive>> {
        self.decided.as_ref().map(|(d, _)| &self.snapshot.releases[d.release])
    }

    pub fn arm(&self) -> Option<Arm> {
        self.decided.as_ref().map(|(d, _)| d.arm)
    }

    /// Keeps room in an upstream for as long as the exchange lasts.
    pub fn hold(&mut self, room: InFlight) {
        match &mut self.rooms {
            [first @ None, _] => *first = Some(room),
            [_, second] => *second = Some(room),
        }
    }

    /// The server that has it now.
    pub fn load(&mut self, load: ServerLoad) {
        self.load = Some(load);
    }

    /// The head of the response is there.
    pub fn answered(&mut self) {
        self.headed = true;
        if self.served == Served::AsDecided {
            let took = clock::now().saturating_sub(self.began);
            self.arm_counts(|counts| counts.response.record(took));
        }
    }

    pub fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// `new` could not be reached: this is counted now, whatever stable answers.
    pub fn failed_over(&mut self) {
        self.count(Outcome::ConnectError);
        self.served = Served::ByStable;
    }

    /// May carrying it out change something? Then a client that goes away does not cancel it, once it was received whole.
    pub fn may_change_something(&self) -> bool {
        !self.story.method.is_safe()
    }

    /// Closes the books. `status`: what the client was told, or would have been.
    pub fn end(&mut self, outcome: Outcome, status: StatusCode) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        if self.served == Served::AsDecided {
            self.count(outcome);
        }
        self.arm_counts(|counts| counts.in_flight.subtract(1));
        (self.rooms, self.load) = ([None, None], None);
        let took = clock::now().saturating_sub(self.began);
        let log = &self.snapshot.plan.log;
        let failed = outcome.blame() == Blame::Upstream || self.served == Served::ByStable;
        if failed || self.story.sampled || took >= log.slow {
            let told = Told {
                story: &self.story,
                route: &self.snapshot.routes[self.route].name,
                release: self.release().map(|r| r.release.name.as_str()),
                decided: self.decided.as_ref().map(|(d, _)| d),
                served: self.served,
                outcome,
                status,
                client_gone: self.upload.client_gone.get() || outcome == Outcome::Cancelled,
                took,
                bytes: self.bytes,
            };
            self.worker.live.log.line(super::access::line(&told, log.format));
        }
    }

    fn count(&self, outcome: Outcome) {
        let (worker, now) = (self.worker.index, clock::now());
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (RouteCounts::Release(counts), Some((d, ticket))) => {
                let release = &self.snapshot.releases[d.release];
                counts[d.arm.index()][d.cohort.index(&release.release)].count(worker, outcome);
                let ending = match outcome.blame() {
                    Blame::Nobody => Ending::Answered,
                    Blame::Upstream => Ending::Failed,
                    Blame::Client if !self.headed => Ending::GaveUp,
                    Blame::Client | Blame::Proxy => Ending::Excused,
                };
                release.epoch.end(worker, *ticket, ending, now);
            }
            (RouteCounts::Upstream { counts, .. }, _) => counts.count(worker, outcome),
            (RouteCounts::Release(_), None) => {}
        }
        self.arm_counts(|counts| {
            counts.requests.add(1);
            if outcome.blame() == Blame::Upstream {
                counts.failures.add(1);
            }
            // A client that gave up says nothing about how long the answer would have taken.
            let took = now.saturating_sub(self.began);
            if outcome != Outcome::Cancelled {
                counts.duration.record(took);
            }
            if outcome.blame() == Blame::Nobody {
                counts.success.record(took);
            }
        });
    }

    fn arm_counts(&self, count: impl FnOnce(&ArmCounts)) {
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (_, Some((d, _))) => {
                let tally = &self.snapshot.releases[d.release].tally;
                count(tally.arm(d.arm).workers.of(self.worker.index));
            }
            (RouteCounts::Upstream { tally, .. }, None) => count(tally.workers.of(self.worker.index)),
            (RouteCounts::Release(_), None) => {}
        }
        debug_assert!(matches!(route.target, Target::Release(_)) == self.decided.is_some());
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // 499, as nginx has it: the client closed the request.
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        self.end(Outcome::Cancelled, status);
    }
}
