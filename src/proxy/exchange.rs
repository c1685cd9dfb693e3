//! One exchange's books: opened when a request is decided, closed once with its outcome, also if it is dropped.
//!
//! Invariants: each exchange is counted exactly once, under the snapshot it was decided under, on the worker that
//! serves it; what is dropped without an outcome was the client's doing; a fail-over counts as a connect error of `new`
//! and as nothing of stable.

use super::body::Upload;
use super::serve::{RequestRoom, Worker};
use crate::domain::cohort::Bucket;
use crate::domain::decide::Arm;
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::plan::Target;
use crate::live::clock;
use crate::live::epoch::{Ending, Randomised, Ticket};
use crate::live::snapshot::{Cohort, ReleaseLive, RouteCounts, Snapshot};
use crate::live::tally::ArmCounts;
use crate::live::upstream::{InFlight, ServerLoad};
use crate::net::listen::Progress;
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
    decided: Option<Decided>,
    /// Its place in the evidence: from when the request was received whole. Until then silence may be the client's.
    ticket: Option<Ticket>,
    began: Duration,
    story: Story,
    served: Served,
    bytes: u64,
    /// Room claimed in upstreams, and a server's load: given back with the exchange.
    rooms: [Option<InFlight>; 2],
    load: Option<ServerLoad>,
    room: Option<RequestRoom>,
    /// Of an HTTP/1 connection: its next head begins when this exchange has ended.
    progress: Option<Rc<Progress>>,
    /// Answered, by the evidence: with the ticket under which.
    settled: Option<Ticket>,
    /// The head said 5xx.
    failed_head: bool,
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
        if let Some(d) = decided {
            let release = &snapshot.releases[d.release];
            match d.user_hash {
                Some(hash) => release.tally.arm(d.arm).saw(hash, began.as_secs() / 60),
                None => release.tally.user_id_missing.of(worker.index).add(1),
            }
        }
        let mut exchange = Exchange {
            worker,
            snapshot,
            upload,
            route,
            decided,
            ticket: None,
            began,
            story,
            served: Served::AsDecided,
            bytes: 0,
            rooms: [None, None],
            load: None,
            room: None,
            progress: None,
            settled: None,
            failed_head: false,
            open: true,
        };
        exchange.arm_counts(|counts| counts.in_flight.add(1));
        if exchange.upload.whole() {
            exchange.received();
        }
        exchange
    }

    /// The request is there, whole: from now on the upstream's time counts.
    pub fn received(&mut self) {
        if let Some(d) = self.decided {
            self.ticket = Some(self.ticket_or_now(&d));
        }
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
        self.decided.map(|d| &self.snapshot.releases[d.release])
    }

    pub fn arm(&self) -> Option<Arm> {
        self.decided.map(|d| d.arm)
    }

    /// The arm that answers, where the config says that clients may see it.
    pub fn exposed_arm(&self) -> Option<Arm> {
        let expose = self.snapshot.plan.listen.expose_arm;
        self.arm().filter(|_| expose).map(|arm| match self.served {
            Served::AsDecided => arm,
            Served::ByStable => Arm::Stable,
        })
    }

    /// Keeps room in an upstream for as long as the exchange lasts.
    pub fn hold(&mut self, room: InFlight) {
        match &mut self.rooms {
            [first @ None, _] => *first = Some(room),
            [_, second] => *second = Some(room),
        }
    }

    /// What it takes up until its end: room in the process, and the turn on its connection.
    pub fn occupies(&mut self, room: RequestRoom, progress: Option<Rc<Progress>>) {
        (self.room, self.progress) = (Some(room), progress);
    }

    /// The server that has it now.
    pub fn load(&mut self, load: ServerLoad) {
        self.load = Some(load);
    }

    /// The head of the response is there, `took` after the upstream had the request.
    pub fn answered(&mut self, status: StatusCode, took: Duration) {
        if self.served == Served::ByStable {
            return;
        }
        let succeeded = Outcome::of_status(status).blame() == Blame::Nobody;
        self.failed_head = !succeeded;
        self.arm_counts(|counts| {
            counts.response.record(took);
            if succeeded {
                counts.success.record(took);
            }
        });
        if let Some(d) = self.decided.filter(|_| succeeded) {
            let ticket = self.ticket_or_now(&d);
            self.snapshot.releases[d.release].epoch.head(self.worker.index, ticket);
            self.settled = Some(ticket);
        }
    }

    /// Its place in the evidence; one that was answered before it was received whole takes its place now.
    fn ticket_or_now(&self, d: &Decided) -> Ticket {
        let epoch = &self.snapshot.releases[d.release].epoch;
        let arrive = || epoch.arrive(self.worker.index, d.arm, d.bucket, d.randomised, clock::now());
        self.ticket.unwrap_or_else(arrive)
    }

    pub fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// `new` could not be reached: this is counted now, whatever stable answers.
    pub fn failed_over(&mut self) {
        self.count(Outcome::ConnectError);
        // It takes up no room in `new` any more.
        self.rooms = [None, None];
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
        // A client that leaves after a 500 does not undo it.
        let undone = self.failed_head && outcome == Outcome::Cancelled;
        let outcome = if undone { Outcome::ServerError } else { outcome };
        if self.served == Served::AsDecided {
            self.count(outcome);
        }
        self.arm_counts(|counts| counts.in_flight.subtract(1));
        (self.rooms, self.load, self.room) = ([None, None], None, None);
        if let Some(progress) = self.progress.take() {
            progress.request_ended();
        }
        let took = clock::now().saturating_sub(self.began);
        let log = &self.snapshot.plan.log;
        let failed = outcome.blame() == Blame::Upstream || self.served == Served::ByStable;
        if failed || self.story.sampled || took >= log.slow {
            let told = Told {
                story: &self.story,
                route: &self.snapshot.routes[self.route].name,
                release: self.release().map(|r| r.release.name.as_str()),
                decided: self.decided.as_ref(),
                served: self.served,
                outcome,
                status,
                client_gone: self.upload.client_gone.get() || outcome == Outcome::Cancelled,
                took,
                bytes: self.bytes,
            };
            let identity = &self.snapshot.plan.identity;
            self.worker.live.log.line(super::access::line(&told, identity, log.format));
        }
    }

    fn count(&self, outcome: Outcome) {
        let (worker, now) = (self.worker.index, clock::now());
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (RouteCounts::Release(counts), Some(d)) => {
                let release = &self.snapshot.releases[d.release];
                counts[d.arm.index()][d.cohort.index(&release.release)].count(worker, outcome);
                let end = |ticket: Ticket, ending| release.epoch.end(worker, ticket, ending, now);
                match (outcome.blame(), self.settled) {
                    // It has answered: only a body that breaks makes that undone.
                    (Blame::Upstream, Some(ticket)) => release.epoch.broke(worker, ticket, now),
                    (_, Some(_)) => {}
                    (Blame::Upstream, None) => end(self.ticket_or_now(d), Ending::Failed),
                    (Blame::Client, None) => {
                        self.ticket.into_iter().for_each(|t| end(t, Ending::GaveUp));
                    }
                    (Blame::Nobody | Blame::Proxy, None) => {
                        self.ticket.into_iter().for_each(|t| end(t, Ending::Excused));
                    }
                }
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
            if outcome != Outcome::Cancelled {
                counts.duration.record(now.saturating_sub(self.began));
            }
        });
    }

    fn arm_counts(&self, count: impl FnOnce(&ArmCounts)) {
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (_, Some(d)) => {
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
