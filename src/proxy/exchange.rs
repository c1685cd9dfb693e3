//! One exchange's books: opened when a request is decided, closed once with its outcome, also if it
//! is dropped.
//!
//! Invariants: each exchange is counted exactly once, under the snapshot it was decided under, on
//! the worker that serves it; what is dropped without an outcome was the client's doing; a
//! fail-over counts as a connect error of `new` and as nothing of stable.

use super::body::Upload;
use super::cancel::{Carrier, Tracked};
use super::headers::RequestId;
use super::serve::{RequestRoom, Worker};
use crate::domain::decide::Arm;
use crate::domain::engine::users::Unit;
use crate::domain::engine::{SERVERS_MAX, What, size_class};
use crate::domain::outcome::{Blame, Outcome};
use crate::domain::plan::{Detail, FailedUsers, Target};
use crate::domain::success::Rules;
use crate::live::clock;
use crate::live::failed::{self, Failure, Id};
use crate::live::feed::{Arrival, Ticket};
use crate::live::snapshot::{Cohort, ReleaseLive, RouteCounts, Snapshot};
use crate::live::tally::{AnswerClass, ArmCounts, ArmTally, ReleaseTally};
use crate::live::traces::{Came, Traced, TracedDecision};
use crate::live::upstream::{InFlight, ServerLoad};
use crate::net::listen::Progress;
use http::{HeaderMap, Method, StatusCode, Uri};
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
    /// Its place in the evidence.
    place: Place,
    /// The number of the server that has it, or had it last.
    server: Option<u8>,
    began: Duration,
    story: Story,
    /// Iff it is traced.
    traced: Option<Box<Traced>>,
    served: Served,
    bytes: u64,
    /// Room claimed in upstreams, and a server's load: given back with the exchange.
    rooms: [Option<InFlight>; 2],
    load: Option<ServerLoad>,
    room: Option<RequestRoom>,
    /// Of an HTTP/1 connection: its next head begins when this exchange has ended.
    progress: Option<Arc<Progress>>,
    /// What the head said; more may follow in the body and its trailers.
    by_head: Outcome,
    /// By the status in the head alone. `None`: a tunnel, which is in no class.
    class: Option<AnswerClass>,
    /// An answer without a body says nothing about its size: to a HEAD, or a 304.
    sizeless: bool,
    open: bool,
    /// While it is under way on `new`.
    on_new: Option<Tracked>,
}

/// A request's place in the evidence.
enum Place {
    /// It is not received whole yet: until then silence may be the client's.
    Unclaimed,
    Waits(Ticket),
    /// The head said that the arm has not failed; only a body that breaks undoes that.
    Answered(Ticket),
    /// Nothing more will be told, or there was no room.
    Left,
}

/// What was decided about a request of a release.
#[derive(Clone, Copy)]
pub struct Decided {
    /// Index into the plan's releases.
    pub release: usize,
    pub arm: Arm,
    pub cohort: Cohort,
    pub reason: &'static str,
    pub unit: Option<Unit>,
    /// Tells users apart in sketches; also chooses those whose requests are logged.
    pub user_hash: Option<u64>,
    /// The hash alone chose the arm.
    pub drawn: bool,
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
    pub request_id: RequestId,
    pub address: IpAddr,
    /// Keyed hash of the user id, where the config has a key.
    pub user: Option<Box<str>>,
    /// The user id, where the config wants the users whom `new` fails listed in clear.
    pub clear: Option<ClearId>,
    /// This user's ordinary requests are written.
    pub sampled: bool,
    /// A gRPC call to a server that speaks HTTP/2.
    pub grpc: bool,
}

/// A user id that is kept in place: only a long one takes memory of its own.
pub enum ClearId {
    Short([u8; CLEAR_SHORT], u8),
    Long(Box<[u8]>),
}

const CLEAR_SHORT: usize = 39;

impl ClearId {
    pub fn of(id: &[u8]) -> ClearId {
        let mut short = [0; CLEAR_SHORT];
        match short.get_mut(..id.len()) {
            Some(place) => {
                place.copy_from_slice(id);
                ClearId::Short(short, id.len() as u8)
            }
            None => ClearId::Long(id.into()),
        }
    }

    fn text(&self) -> String {
        let bytes = match self {
            ClearId::Short(bytes, length) => &bytes[..usize::from(*length)],
            ClearId::Long(bytes) => bytes,
        };
        String::from_utf8_lossy(bytes).into_owned()
    }
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
    /// Its release holds `new`, and it had outlived its time.
    pub cancelled: bool,
    pub took: Duration,
    pub bytes: u64,
    /// Iff it is traced.
    pub trace_id: Option<u128>,
}

impl Exchange {
    pub fn begin(
        worker: Rc<Worker>,
        snapshot: Arc<Snapshot>,
        upload: Rc<Upload>,
        route: usize,
        decided: Option<Decided>,
        story: Story,
        began: Duration,
    ) -> Box<Exchange> {
        if let Some(d) = decided {
            let release = &snapshot.releases[d.release];
            match d.user_hash {
                Some(hash) => release.tally.arm(d.arm).saw(hash, began.as_secs() / 60),
                None => release.tally.user_id_missing.of(worker.index).add(1),
            }
        }
        // Boxed: it passes through many hands, and each would copy it.
        let exchange = Box::new(Exchange {
            worker,
            snapshot,
            upload,
            route,
            decided,
            place: Place::Unclaimed,
            server: None,
            began,
            story,
            traced: None,
            served: Served::AsDecided,
            bytes: 0,
            rooms: [None, None],
            load: None,
            room: None,
            progress: None,
            by_head: Outcome::Ok,
            class: Some(AnswerClass::None),
            sizeless: false,
            open: true,
            on_new: None,
        });
        exchange.arm_counts(|counts| counts.in_flight.add(1));
        exchange
    }

    /// Monotonic time of its beginning.
    pub fn began(&self) -> Duration {
        self.began
    }

    /// The request is there, whole: from now on the upstream's time counts.
    pub fn received(&mut self, now: Duration) {
        if let (Place::Unclaimed, Some(d)) = (&self.place, self.decided) {
            let arrival = Arrival {
                epoch: self.snapshot.releases[d.release].epoch,
                at: now,
                arm: d.arm,
                unit: d.unit,
                drawn: d.drawn,
                stratum: self.snapshot.routes[self.route].stratum,
                server: self.server,
            };
            let ticket = self.worker.live.feed.arrive(self.worker.index, &arrival);
            self.place = ticket.map_or(Place::Left, Place::Waits);
        }
    }

    /// This server of the upstream is to have it. If it is there, whole, the upstream's time
    /// counts.
    pub fn goes_to(&mut self, server: usize, now: Duration) {
        let server = u8::try_from(server).unwrap_or(SERVERS_MAX);
        self.server = Some(server);
        if let Place::Waits(ticket) = &mut self.place {
            self.worker.live.feed.moves(ticket, server);
        }
        if self.upload.whole() {
            self.received(now);
        }
    }

    /// What follows is a wait that is not the upstream's: gives its place in the evidence back,
    /// until it is [`Self::received`] again.
    pub fn excuse(&mut self) {
        if let Place::Waits(_) = self.place {
            self.tell(What::Excused, clock::now());
            self.place = Place::Unclaimed;
        }
    }

    /// The task that carries its answer runs for the first time.
    pub fn runs(&self) {
        if let Some(on_new) = &self.on_new {
            on_new.runs();
        }
    }

    /// The head of its answer is there, and a body follows. `sized`: its length is known.
    pub fn answers(&self, sized: bool, now: Duration) {
        if let Some(on_new) = &self.on_new {
            on_new.answers(sized, now);
        }
    }

    /// Is it to end because its release is held?
    pub fn is_cancelled(&self) -> bool {
        self.on_new.as_ref().is_some_and(Tracked::is_cancelled)
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

    /// What the release calls a success.
    pub fn rules(&self) -> Option<&Rules> {
        self.decided.map(|d| &self.snapshot.releases[d.release].release.outcome)
    }

    pub fn by_head(&self) -> Outcome {
        self.by_head
    }

    pub fn arm(&self) -> Option<Arm> {
        self.decided.map(|d| d.arm)
    }

    /// The arm that answers, where the config says that clients may see it.
    pub fn exposed_arm(&self) -> Option<Arm> {
        let expose = self.snapshot.plan.listen.expose_arm;
        self.serving_arm().filter(|_| expose)
    }

    fn serving_arm(&self) -> Option<Arm> {
        self.arm().map(|arm| match self.served {
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
    pub fn occupies(&mut self, room: RequestRoom, progress: Option<Arc<Progress>>) {
        (self.room, self.progress) = (Some(room), progress);
    }

    /// Enters it among what is under way on `new`, if it was decided for that. `carrier`: of
    /// HTTP/1.1.
    pub fn enters_new(&mut self, carrier: Option<Carrier>) {
        let Some(release) = self.release().filter(|_| self.arm() == Some(Arm::New)) else { return };
        let on_new = self.worker.on_new.enter(release, self.began, self.upload.clone(), carrier);
        self.on_new = Some(on_new);
    }

    pub fn trace(&mut self, traced: Option<Box<Traced>>) {
        self.traced = traced;
    }

    pub fn traced(&mut self) -> Option<&mut Traced> {
        self.traced.as_deref_mut()
    }

    /// The server that has it now.
    pub fn load(&mut self, load: ServerLoad) {
        self.load = Some(load);
    }

    /// The head of the response is there, `took` after the upstream had the request; `None`: it
    /// still waited for the client.
    pub fn answered(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        took: Option<Duration>,
        now: Duration,
    ) {
        self.by_head = match self.rules() {
            Some(rules) => rules.of_head(status, headers),
            None => Outcome::of_status(status),
        };
        if self.served == Served::ByStable {
            return;
        }
        self.class = AnswerClass::of(status);
        let unmodified = status == StatusCode::NOT_MODIFIED;
        self.sizeless = unmodified || self.story.method == Method::HEAD;
        let succeeded = self.by_head.blame() == Blame::Nobody;
        if let Some(took) = took {
            self.arm_counts(|counts| {
                counts.response.record(took);
                if succeeded {
                    counts.success.record(took);
                }
            });
        }
        if succeeded {
            let redirects = status.is_redirection() && !unmodified;
            let what = match self.by_head {
                Outcome::ClientError => What::ClientError,
                _ if redirects => What::Redirected,
                _ => What::Answered,
            };
            self.tell(what, now);
        }
    }

    /// Tells the watchdog. A request that is answered, or fails, before it was received whole takes
    /// its place now.
    fn tell(&mut self, what: What, now: Duration) {
        if matches!(what, What::Answered | What::ClientError | What::Redirected | What::Failed) {
            self.received(now);
        }
        let (feed, worker) = (&self.worker.live.feed, self.worker.index);
        self.place = match (std::mem::replace(&mut self.place, Place::Left), what) {
            (Place::Waits(mut ticket), What::Answered | What::ClientError | What::Redirected) => {
                feed.tell(worker, &mut ticket, what, now);
                Place::Answered(ticket)
            }
            (Place::Waits(mut ticket), _) => {
                feed.tell(worker, &mut ticket, what, now);
                feed.leave(worker, ticket);
                Place::Left
            }
            (Place::Answered(mut ticket), what) => {
                match what {
                    What::Failed => feed.tell(worker, &mut ticket, What::Broke, now),
                    What::Ended { .. } | What::EndedAsClientError => {
                        feed.tell(worker, &mut ticket, what, now);
                    }
                    _ => {}
                }
                feed.leave(worker, ticket);
                Place::Left
            }
            (Place::Unclaimed | Place::Left, _) => Place::Left,
        };
    }

    pub fn passed(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// `new` could not be reached: this is counted now, whatever stable answers.
    pub fn failed_over(&mut self) {
        self.count(Outcome::ConnectError, clock::now(), What::Excused);
        // It takes up no room in `new` any more.
        (self.rooms, self.on_new) = ([None, None], None);
        self.served = Served::ByStable;
    }

    /// A gRPC call to a server that speaks HTTP/2: silence is no fault of either side, and a cancel
    /// is a message of the protocol.
    pub fn is_grpc(&self) -> bool {
        self.story.grpc
    }

    /// May carrying it out change something? Then a client that goes away does not cancel it, once
    /// it was received whole. A gRPC client that cancels a call means to cancel it at the server.
    pub fn may_change_something(&self) -> bool {
        !self.story.method.is_safe() && !self.is_grpc()
    }

    /// Its body has come to its end, and nothing was wrong with how it came. `client_slow`: see
    /// [`What::Ended`].
    pub fn end_whole(&mut self, outcome: Outcome, status: StatusCode, client_slow: bool, now: Duration) {
        let what = match (outcome, self.by_head) {
            (Outcome::ClientError, Outcome::Ok) => What::EndedAsClientError,
            _ if self.sizeless => What::Excused,
            _ => What::Ended { size: size_class(self.bytes), client_slow },
        };
        self.close(outcome, status, now, what);
    }

    /// Closes the books. `status`: what the client was told, or would have been.
    pub fn end(&mut self, outcome: Outcome, status: StatusCode) {
        self.end_at(outcome, status, clock::now());
    }

    pub fn end_at(&mut self, outcome: Outcome, status: StatusCode, now: Duration) {
        self.close(outcome, status, now, What::Excused);
    }

    /// `sound`: what the watchdog is told where nobody is to blame.
    fn close(&mut self, outcome: Outcome, status: StatusCode, now: Duration, sound: What) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        // A client that leaves after a 500 does not undo it.
        let undone = self.by_head.blame() == Blame::Upstream && outcome == Outcome::Cancelled;
        let outcome = if undone { self.by_head } else { outcome };
        if self.served == Served::AsDecided {
            self.count(outcome, now, sound);
            if outcome.blame() == Blame::Upstream {
                self.note_failed();
            }
        }
        self.arm_counts(|counts| counts.in_flight.subtract(1));
        (self.rooms, self.load, self.room) = ([None, None], None, None);
        if let Some(progress) = self.progress.take() {
            progress.request_ended();
        }
        let cancelled = self.is_cancelled();
        self.on_new = None;
        let took = now.saturating_sub(self.began);
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
                client_gone: !cancelled && self.client_gone(outcome),
                cancelled,
                took,
                bytes: self.bytes,
                trace_id: self.traced.as_ref().map(|traced| traced.trace_id),
            };
            let identity = &self.snapshot.plan.identity;
            self.worker.live.log.line(super::access::line(&told, identity, log.format));
        }
        if let Some(traced) = self.traced.take() {
            self.hand_in(traced, outcome, status, now);
        }
    }

    fn client_gone(&self, outcome: Outcome) -> bool {
        self.upload.client_gone.get() || outcome == Outcome::Cancelled
    }

    /// What came of it, for whoever delivers traces.
    #[cold]
    fn hand_in(&self, mut traced: Box<Traced>, outcome: Outcome, status: StatusCode, now: Duration) {
        traced.came(Came::Failed(outcome), now);
        (traced.began, traced.ended, traced.bytes) = (self.began, now, self.bytes);
        traced.outcome = outcome;
        traced.status = (!self.client_gone(outcome)).then(|| status.as_u16());
        traced.decided = self.decided.map(|Decided { release, arm, cohort, reason, .. }| TracedDecision {
            release,
            arm,
            cohort,
            reason,
            by_stable: self.served == Served::ByStable,
        });
        self.worker.live.traces.hand_in(self.worker.index, traced);
    }

    /// The upstream has agreed to a tunnel: with that the exchange has ended well. What counts the
    /// tunnel instead; and, if it leads to `new`, its place among what is under way there.
    pub fn switched(mut self, now: Duration) -> (Switched, Option<Tracked>) {
        let arm = self.serving_arm();
        self.answers(false, now);
        let on_new = self.on_new.take();
        let tally = match (&self.snapshot.routes[self.route].counts, self.release(), arm) {
            (_, Some(release), Some(arm)) => Tallied::Release(release.tally.clone(), arm),
            (RouteCounts::Upstream { tally, .. }, ..) => Tallied::Upstream(tally.clone()),
            (RouteCounts::Release(_), ..) => Tallied::Nowhere,
        };
        self.end(Outcome::Ok, StatusCode::SWITCHING_PROTOCOLS);
        (Switched::begin(tally, self.worker.index), on_new)
    }

    /// `new` has failed this user: for the list.
    fn note_failed(&self) {
        let Some(Decided { release, arm: Arm::New, user_hash: Some(user_hash), .. }) = self.decided else {
            return;
        };
        let live = &self.snapshot.releases[release];
        let story = &self.story;
        live.tally.failed.note(Failure {
            attempt: live.release.attempt,
            evidence_id: live.evidence_id,
            number: failed::number(story.user.as_deref(), user_hash),
            id: match self.snapshot.plan.state.failed_users {
                FailedUsers::Hashed => story.user.as_deref().map(|hash| Id::Hash(hash.to_owned())),
                FailedUsers::Clear => story.clear.as_ref().map(|id| Id::User(id.text())),
                FailedUsers::Off => None,
            },
        });
    }

    fn count(&mut self, outcome: Outcome, now: Duration, sound: What) {
        let worker = self.worker.index;
        let what = match outcome.blame() {
            Blame::Upstream => What::Failed,
            Blame::Client => What::Left { unusual: false },
            Blame::Nobody => sound,
            Blame::Proxy => What::Excused,
        };
        self.tell(what, now);
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (RouteCounts::Release(counts), Some(d)) => {
                let release = &self.snapshot.releases[d.release];
                counts[d.arm.index()][d.cohort.index(&release.release)].count(worker, outcome);
            }
            (RouteCounts::Upstream { counts, .. }, _) => counts.count(worker, outcome),
            (RouteCounts::Release(_), None) => {}
        }
        self.arm_counts(|counts| {
            counts.requests.add(1);
            if let Some(class) = self.class {
                counts.answers[class as usize].add(1);
            }
            if outcome.blame() == Blame::Upstream {
                counts.failures.add(1);
            }
            // A client that gave up says nothing about how long the answer would have taken.
            if outcome != Outcome::Cancelled && self.snapshot.plan.metrics == Detail::Full {
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

/// An open tunnel, counted for the arm that has agreed to it; until dropped. Holds the counters
/// only: a tunnel outlives many snapshots.
pub struct Switched {
    tally: Tallied,
    worker: usize,
}

enum Tallied {
    Release(Arc<ReleaseTally>, Arm),
    Upstream(Arc<ArmTally>),
    /// A route to a release without a decision: there is none.
    Nowhere,
}

impl Switched {
    fn begin(tally: Tallied, worker: usize) -> Self {
        let switched = Switched { tally, worker };
        switched.counts(|counts| counts.tunnels.add(1));
        switched
    }

    fn counts(&self, count: impl FnOnce(&ArmCounts)) {
        match &self.tally {
            Tallied::Release(tally, arm) => count(tally.arm(*arm).workers.of(self.worker)),
            Tallied::Upstream(tally) => count(tally.workers.of(self.worker)),
            Tallied::Nowhere => {}
        }
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        self.counts(|counts| counts.tunnels.subtract(1));
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // 499, as nginx has it: the client closed the request.
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        self.end(Outcome::Cancelled, status);
    }
}
