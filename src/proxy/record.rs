//! The accounting of one exchange. It opens when a request is decided, and closes once, with the
//! outcome, also on drop.
//!
//! Invariants: each exchange is counted exactly once, under the snapshot of its decision, on the
//! worker that serves it. If it is dropped without an outcome, the client has cancelled it.
//! A fail-over counts as a connect error of `new`, and not at all for stable.

use super::access::{self, AccessRecord, LogContext};
use super::carrier::Carrier;
use super::decision::{Decided, Served};
use super::error::{ErrorForm, RequestError};
use super::on_new::TrackedRequest;
use super::request_body::RequestBodyState;
use super::trace;
use super::tunnel::{OpenTunnel, TunnelTally};
use super::worker::{RequestRoom, Worker};
use crate::domain::config::{FailedUserIds, MetricsDetail, Target};
use crate::domain::failure_rules::{FailureRules, HeadOutcome};
use crate::domain::grpc::GrpcStatus;
use crate::domain::outcome::{Blame, Outcome};
use crate::net::listen::ConnectionState;
use crate::runtime::event_ring::{EventTicket, RequestArrival};
use crate::runtime::snapshot::{ReleaseSnapshot, RouteCounts, Snapshot};
use crate::runtime::traces::{AttemptResult, TracedDecision, TracedExchange};
use crate::stats::arm::Arm;
use crate::stats::engine::{EventKind, SERVER_NUMBER_MAX, size_class};
use crate::store::failed_users::{self, FailedUserId, UserFailure};
use crate::telemetry::clock;
use crate::telemetry::counters::{AnswerClass, WorkerArmCounters};
use crate::upstream::server::{InFlight, ServerLoad, UpstreamState};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The most of a `Content-Encoding` in the log.
const CODING_CHARS_MAX: usize = 40;

/// The account of a request: what is counted and logged at its end.
pub struct RequestRecord {
    worker: Rc<Worker>,
    snapshot: Arc<Snapshot>,
    body_state: Rc<RequestBodyState>,
    route: usize,
    /// `None` on a route that goes to an upstream directly.
    decided: Option<Decided>,
    /// Its entry in the watchdog's evidence.
    event_slot: EventSlot,
    /// The number of its current or last server.
    server: Option<u8>,
    began: Duration,
    log_context: LogContext,
    /// `Some` iff it is traced.
    traced: Option<Box<TracedExchange>>,
    served: Served,
    bytes: u64,
    /// How often it was sent again.
    resent: u8,
    /// Room claimed in upstreams, and the load of a server; released with the exchange.
    rooms: [Option<InFlight>; 2],
    load: Option<ServerLoad>,
    /// Room in the process, until the exchange ends.
    room: Option<RequestRoom>,
    /// Of an HTTP/1 connection, whose next head begins when this exchange has ended.
    progress: Option<Arc<ConnectionState>>,
    carrier: Carrier,
    /// The outcome by the head; body and trailers may change it.
    by_head: Outcome,
    /// It is a gRPC call whose status is in the trailers.
    awaits_grpc_status: bool,
    /// The response has reached the client whole.
    answered_whole: bool,
    /// A reason that the head of the response does not show.
    detail: Option<&'static str>,
    /// Of a gRPC call that is answered with an error of this proxy.
    grpc_status: Option<GrpcStatus>,
    /// By the status in the head alone. `None`: a tunnel, which is in no class.
    class: Option<AnswerClass>,
    /// A response without a body (to a HEAD, or a 304) is no evidence of the size.
    sizeless: bool,
    open: bool,
    /// Set while it is in flight on `new`.
    on_new: Option<TrackedRequest>,
}

/// The facts about a request when its record opens.
pub struct RecordOpening {
    pub worker: Rc<Worker>,
    pub snapshot: Arc<Snapshot>,
    pub body_state: Rc<RequestBodyState>,
    /// Index into the plan's routes.
    pub route: usize,
    /// `None` on a route that goes to an upstream directly.
    pub decided: Option<Decided>,
    /// Monotonic.
    pub began: Duration,
    pub log_context: LogContext,
    /// `Some` iff it is traced.
    pub traced: Option<Box<TracedExchange>>,
    /// Its room in the process.
    pub room: RequestRoom,
    /// Of an HTTP/1 connection.
    pub progress: Option<Arc<ConnectionState>>,
    pub carrier: Carrier,
}

/// The state of a request's entry in the evidence.
enum EventSlot {
    /// Not received whole yet: until then the client may cause a silence.
    Unclaimed,
    Waits(EventTicket),
    /// By its head the arm has not failed; only a truncated body undoes that.
    Answered(EventTicket),
    /// Nothing more will be reported, or there was no room.
    Left,
}

impl RequestRecord {
    /// Opens the record of a request that is decided, and counts it as in flight.
    pub fn open(opening: RecordOpening) -> Box<RequestRecord> {
        let RecordOpening { worker, snapshot, body_state, route, decided, began, log_context, .. } = opening;
        let mut on_new = None;
        if let Some(d) = decided {
            let release = &snapshot.releases[d.release];
            match d.user_hash {
                Some(hash) => release.counters.arm(d.arm).saw(hash, began.as_secs() / 60),
                None => release.counters.user_id_missing.of(worker.index).add(1),
            }
            if d.arm == Arm::New {
                on_new =
                    Some(worker.on_new.enter(release, began, body_state.clone(), opening.carrier.clone()));
            }
        }
        // Boxed: it is moved often, and each move would copy it.
        let record = Box::new(RequestRecord {
            worker,
            snapshot,
            body_state,
            route,
            decided,
            event_slot: EventSlot::Unclaimed,
            server: None,
            began,
            log_context,
            traced: opening.traced,
            served: Served::AsDecided,
            bytes: 0,
            resent: 0,
            rooms: [None, None],
            load: None,
            room: Some(opening.room),
            progress: opening.progress,
            carrier: opening.carrier,
            by_head: Outcome::Ok,
            awaits_grpc_status: false,
            answered_whole: false,
            detail: None,
            grpc_status: None,
            class: Some(AnswerClass::None),
            sizeless: false,
            open: true,
            on_new,
        });
        record.count_for_arm(|counts| counts.in_flight.add(1));
        record
    }

    /// Monotonic time of its beginning.
    pub fn began(&self) -> Duration {
        self.began
    }

    /// The request was received whole: from now on the upstream is timed.
    pub fn mark_received(&mut self, now: Duration) {
        if let (EventSlot::Unclaimed, Some(d)) = (&self.event_slot, self.decided) {
            let arrival = RequestArrival {
                epoch: self.snapshot.releases[d.release].epoch,
                at: now,
                arm: d.arm,
                unit: d.unit,
                drawn: d.drawn,
                stratum: self.snapshot.routes[self.route].stratum,
                server: self.server,
            };
            let ticket = self.worker.shared.events.arrive(self.worker.index, &arrival);
            self.event_slot = ticket.map_or(EventSlot::Left, EventSlot::Waits);
        }
    }

    /// Records the server that gets it. If the request was received whole, the upstream is timed
    /// from now.
    pub fn assign_server(&mut self, server: usize, now: Duration) {
        let server = u8::try_from(server).unwrap_or(SERVER_NUMBER_MAX);
        self.server = Some(server);
        if let EventSlot::Waits(ticket) = &mut self.event_slot {
            self.worker.shared.events.moves(ticket, server);
        }
        if self.body_state.is_whole() {
            self.mark_received(now);
        }
    }

    /// The wait that follows is not the upstream's. Withdraws its entry in the evidence until it is
    /// [`Self::mark_received`] again.
    pub fn withdraw_event(&mut self) {
        if let EventSlot::Waits(_) = self.event_slot {
            self.report_event(EventKind::Excused, clock::now());
            self.event_slot = EventSlot::Unclaimed;
        }
    }

    /// The response head has arrived, and a body follows. `sized`: its length is known.
    pub fn track_response(&self, sized: bool, now: Duration) {
        if let Some(on_new) = &self.on_new {
            on_new.track_response(sized, now);
        }
    }

    /// Whether it must end because its release is held.
    pub fn is_cancelled(&self) -> bool {
        self.on_new.as_ref().is_some_and(TrackedRequest::is_cancelled)
    }

    /// The task that carries its response.
    pub fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    pub fn body_state(&self) -> &RequestBodyState {
        &self.body_state
    }

    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub fn release(&self) -> Option<&Arc<ReleaseSnapshot>> {
        self.decided.map(|d| &self.snapshot.releases[d.release])
    }

    /// The success rules of its release.
    pub fn rules(&self) -> Option<&FailureRules> {
        self.decided.map(|d| &self.snapshot.releases[d.release].release.outcome)
    }

    pub fn by_head(&self) -> Outcome {
        self.by_head
    }

    /// Its result code could not be read, because of the coding of its body: counts that, and logs
    /// it once for each arm of a release.
    #[cold]
    pub fn note_unread_code(&self, coding: Option<&HeaderValue>) {
        let (Some(release), Some(arm)) = (self.release(), self.arm()) else { return };
        if !release.counters.codes_unread[arm.index()].count(self.worker.index) {
            return;
        }
        let coding = coding.and_then(|coding| coding.to_str().ok()).unwrap_or("none that fits its body");
        let coding: String = coding.chars().take(CODING_CHARS_MAX).collect();
        let fields = json!({"release": release.release.name, "arm": arm.label(), "content_encoding": coding,
                            "hint": "[release.NAME.outcome] body: result codes are read in plain bodies, and in gzip, br and zstd"});
        self.worker.shared.log.event("result_code_unread", fields);
    }

    /// The response has ended without the gRPC status that it must have.
    pub fn note_no_grpc_status(&mut self) {
        self.detail = Some("no_grpc_status");
    }

    /// Whether the trailers must have a gRPC status.
    pub fn awaits_grpc_status(&self) -> bool {
        self.awaits_grpc_status
    }

    pub fn arm(&self) -> Option<Arm> {
        self.decided.map(|d| d.arm)
    }

    /// The arm that answers, if the config exposes it to clients.
    pub fn exposed_arm(&self) -> Option<Arm> {
        let expose = self.snapshot.config.listen.expose_arm;
        self.serving_arm().filter(|_| expose)
    }

    fn serving_arm(&self) -> Option<Arm> {
        self.arm().map(|arm| match self.served {
            Served::AsDecided => arm,
            Served::ByStable => Arm::Stable,
        })
    }

    /// Keeps room in an upstream until the exchange ends.
    pub fn hold_room(&mut self, room: InFlight) {
        match &mut self.rooms {
            [first @ None, _] => *first = Some(room),
            [_, second] => *second = Some(room),
        }
    }

    /// Records an attempt at a server, if the request is traced.
    pub fn trace_attempt(&mut self, upstream: &Arc<UpstreamState>, server: usize, now: Duration) {
        if let Some(traced) = &mut self.traced {
            trace::add_attempt(traced, &self.worker, upstream, server, now);
        }
    }

    pub fn traced(&mut self) -> Option<&mut TracedExchange> {
        self.traced.as_deref_mut()
    }

    /// Records the load of its current server.
    pub fn hold_load(&mut self, load: ServerLoad) {
        self.load = Some(load);
    }

    /// The response head arrived, `took` after the upstream had the whole request.
    /// `None`: the client was still sending.
    pub fn record_head(
        &mut self,
        status: StatusCode,
        headers: &HeaderMap,
        took: Option<Duration>,
        now: Duration,
    ) {
        let by_head = match self.rules() {
            Some(rules) => rules.of_head(status, headers),
            None => HeadOutcome::Is(Outcome::of_status(status)),
        };
        (self.by_head, self.awaits_grpc_status) = match by_head {
            HeadOutcome::Is(outcome) => (outcome, false),
            HeadOutcome::AwaitsGrpcStatus => (Outcome::Ok, true),
        };
        if self.served == Served::ByStable {
            return;
        }
        self.class = AnswerClass::of(status);
        let unmodified = status == StatusCode::NOT_MODIFIED;
        self.sizeless = unmodified || self.log_context.method == Method::HEAD;
        let succeeded = self.by_head.blame() == Blame::Nobody;
        if let Some(took) = took {
            self.count_for_arm(|counts| {
                counts.response.record(took);
                if succeeded {
                    counts.success.record(took);
                }
            });
        }
        if succeeded {
            let redirects = status.is_redirection() && !unmodified;
            let what = match self.by_head {
                Outcome::ClientError => EventKind::ClientError,
                _ if redirects => EventKind::Redirected,
                _ => EventKind::Answered,
            };
            self.report_event(what, now);
        }
    }

    /// Reports to the watchdog. A request that is answered, or fails, before it was received whole
    /// gets its entry now.
    fn report_event(&mut self, what: EventKind, now: Duration) {
        if matches!(
            what,
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected | EventKind::Failed
        ) {
            self.mark_received(now);
        }
        let (events, worker) = (&self.worker.shared.events, self.worker.index);
        self.event_slot = match (std::mem::replace(&mut self.event_slot, EventSlot::Left), what) {
            (
                EventSlot::Waits(mut ticket),
                EventKind::Answered | EventKind::ClientError | EventKind::Redirected,
            ) => {
                events.record_event(worker, &mut ticket, what, now);
                EventSlot::Answered(ticket)
            }
            (EventSlot::Waits(mut ticket), _) => {
                events.record_event(worker, &mut ticket, what, now);
                events.leave(worker, ticket);
                EventSlot::Left
            }
            (EventSlot::Answered(mut ticket), what) => {
                match what {
                    EventKind::Failed => events.record_event(worker, &mut ticket, EventKind::Broke, now),
                    EventKind::Ended { .. } | EventKind::EndedAsClientError => {
                        events.record_event(worker, &mut ticket, what, now);
                    }
                    _ => {}
                }
                events.leave(worker, ticket);
                EventSlot::Left
            }
            (EventSlot::Unclaimed | EventSlot::Left, _) => EventSlot::Left,
        };
    }

    /// It is sent again: its server has not processed it.
    pub fn count_resent(&mut self) {
        self.resent += 1;
    }

    pub fn add_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// `new` could not be reached: counts that now, whatever stable answers.
    pub fn record_fail_over(&mut self) {
        self.count_outcome(Outcome::ConnectError, clock::now(), EventKind::Excused);
        // It occupies no room in `new` any more.
        (self.rooms, self.on_new) = ([None, None], None);
        self.served = Served::ByStable;
    }

    /// A gRPC call to an HTTP/2 server: neither side is at fault for silence, and a cancel is a
    /// message of the protocol.
    pub fn is_grpc(&self) -> bool {
        self.log_context.grpc
    }

    /// Whether the request may have side effects. If so, a client that leaves does not cancel it
    /// once it was received whole. A gRPC cancel is meant for the server, so it is always
    /// forwarded.
    pub fn may_change_something(&self) -> bool {
        !self.log_context.method.is_safe() && !self.is_grpc()
    }

    /// Its body has ended without a fault. `client_slow`: see [`EventKind::Ended`].
    pub fn end_with_body(&mut self, outcome: Outcome, status: StatusCode, client_slow: bool, now: Duration) {
        let what = match (outcome, self.by_head) {
            (Outcome::ClientError, Outcome::Ok) => EventKind::EndedAsClientError,
            _ if self.sizeless => EventKind::Excused,
            _ => EventKind::Ended { size: size_class(self.bytes), client_slow },
        };
        self.answered_whole = true;
        self.close(outcome, status, now, what, None);
    }

    /// The form in which its client gets an error.
    pub fn error_form(&self) -> ErrorForm {
        self.log_context.error_form
    }

    /// Ends it with an error that the client gets in this form.
    pub fn end_with_own_response(&mut self, error: RequestError, form: ErrorForm) {
        self.grpc_status = (form == ErrorForm::Grpc).then(|| error.grpc_status());
        self.answered_whole = true;
        self.end_with_error(error, form.status(error));
    }

    /// Ends it with an error, and with the status that the client has got.
    pub fn end_with_error(&mut self, error: RequestError, status: StatusCode) {
        self.worker.shared.errors.count(self.worker.index, error.detail());
        self.close(error.outcome(), status, clock::now(), EventKind::Excused, Some(error));
    }

    /// Closes the accounting. `status`: what the client got, or would have got.
    pub fn end(&mut self, outcome: Outcome, status: StatusCode) {
        self.close(outcome, status, clock::now(), EventKind::Excused, None);
    }

    /// `sound`: the report to the watchdog if neither side is to blame.
    fn close(
        &mut self,
        outcome: Outcome,
        status: StatusCode,
        now: Duration,
        sound: EventKind,
        error: Option<RequestError>,
    ) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        // A client that leaves after a 500 does not undo it.
        let undone = self.by_head.blame() == Blame::Upstream && outcome == Outcome::Cancelled;
        let (outcome, error) = if undone { (self.by_head, None) } else { (outcome, error) };
        let detail = error.map(RequestError::detail).or(self.detail);
        if self.served == Served::AsDecided {
            self.count_outcome(outcome, now, sound);
            if outcome.blame() == Blame::Upstream {
                self.list_failed_user();
            }
        }
        self.count_for_arm(|counts| counts.in_flight.subtract(1));
        (self.rooms, self.load, self.room) = ([None, None], None, None);
        if let Some(progress) = self.progress.take() {
            progress.request_ended();
        }
        let cancelled = self.is_cancelled();
        self.on_new = None;
        let took = now.saturating_sub(self.began);
        let log = &self.snapshot.config.log;
        let failed = outcome.blame() == Blame::Upstream || self.served == Served::ByStable;
        if failed || self.resent > 0 || self.log_context.user.sampled || took >= log.slow {
            let record = AccessRecord {
                log_context: &self.log_context,
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
                resent: self.resent,
                trace_id: self.traced.as_ref().map(|traced| traced.trace_id),
                detail,
                why: error.map(RequestError::text),
                grpc_status: self.grpc_status,
            };
            let identity = &self.snapshot.config.identity;
            self.worker.shared.log.line(access::format_line(&record, identity, log.format));
        }
        if let Some(mut traced) = self.traced.take() {
            traced.detail = detail;
            self.export_trace(traced, outcome, status, now);
        }
    }

    fn client_gone(&self, outcome: Outcome) -> bool {
        // A server may answer that the call was cancelled, and a client may get 400 or 408.
        self.body_state.client_gone.get() || (outcome == Outcome::Cancelled && !self.answered_whole)
    }

    /// Passes the finished trace to the exporter.
    #[cold]
    fn export_trace(
        &self,
        mut traced: Box<TracedExchange>,
        outcome: Outcome,
        status: StatusCode,
        now: Duration,
    ) {
        traced.came(AttemptResult::Failed(outcome), now);
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
        self.worker.shared.traces.enqueue(self.worker.index, traced);
    }

    /// The upstream has agreed to a tunnel, so the exchange has ended well.
    /// Returns the tunnel's counter and, for `new`, its entry in the table of exchanges.
    pub fn end_with_tunnel(mut self, now: Duration) -> (OpenTunnel, Option<TrackedRequest>) {
        let arm = self.serving_arm();
        self.track_response(false, now);
        let on_new = self.on_new.take();
        let counters = match (&self.snapshot.routes[self.route].counts, self.release(), arm) {
            (_, Some(release), Some(arm)) => TunnelTally::Release(release.counters.clone(), arm),
            (RouteCounts::Upstream { counters, .. }, ..) => TunnelTally::Upstream(counters.clone()),
            (RouteCounts::Release(_), ..) => TunnelTally::Nowhere,
        };
        self.end(Outcome::Ok, StatusCode::SWITCHING_PROTOCOLS);
        (OpenTunnel::begin(counters, self.worker.index), on_new)
    }

    /// `new` has failed this user: notes it for the list.
    fn list_failed_user(&self) {
        let Some(Decided { release, arm: Arm::New, user_hash: Some(user_hash), .. }) = self.decided else {
            return;
        };
        let running = &self.snapshot.releases[release];
        let log_context = &self.log_context;
        running.counters.failed.note(UserFailure {
            attempt: running.release.attempt,
            evidence_id: running.evidence_id,
            number: failed_users::number(log_context.user.hash.as_deref(), user_hash),
            id: match self.snapshot.config.state.failed_users {
                FailedUserIds::Hashed => {
                    log_context.user.hash.as_deref().map(|hash| FailedUserId::Hash(hash.to_owned()))
                }
                FailedUserIds::Clear => {
                    log_context.user.clear.as_ref().map(|id| FailedUserId::User(id.text()))
                }
                FailedUserIds::Off => None,
            },
        });
    }

    fn count_outcome(&mut self, outcome: Outcome, now: Duration, sound: EventKind) {
        let worker = self.worker.index;
        let what = match outcome.blame() {
            Blame::Upstream => EventKind::Failed,
            Blame::Client => EventKind::Left { unusual: false },
            Blame::Nobody => sound,
            Blame::Proxy => EventKind::Excused,
        };
        self.report_event(what, now);
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (RouteCounts::Release(counts), Some(d)) => {
                let release = &self.snapshot.releases[d.release];
                counts[d.arm.index()][d.cohort.index(&release.release)].count(worker, outcome);
            }
            (RouteCounts::Upstream { counts, .. }, _) => counts.count(worker, outcome),
            (RouteCounts::Release(_), None) => {}
        }
        self.count_for_arm(|counts| {
            counts.requests.add(1);
            if let Some(class) = self.class {
                counts.answers[class as usize].add(1);
            }
            if outcome.blame() == Blame::Upstream {
                counts.failures.add(1);
            }
            // A cancelled request is no sample of the response time.
            if outcome != Outcome::Cancelled && self.snapshot.config.metrics == MetricsDetail::Full {
                counts.duration.record(now.saturating_sub(self.began));
            }
        });
    }

    fn count_for_arm(&self, count: impl FnOnce(&WorkerArmCounters)) {
        let route = &self.snapshot.routes[self.route];
        match (&route.counts, &self.decided) {
            (_, Some(d)) => {
                let counters = &self.snapshot.releases[d.release].counters;
                count(counters.arm(d.arm).workers.of(self.worker.index));
            }
            (RouteCounts::Upstream { counters, .. }, None) => count(counters.workers.of(self.worker.index)),
            (RouteCounts::Release(_), None) => {}
        }
        debug_assert!(matches!(route.target, Target::Release(_)) == self.decided.is_some());
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        // nginx's 499: the client closed the request.
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        self.end(Outcome::Cancelled, status);
    }
}
