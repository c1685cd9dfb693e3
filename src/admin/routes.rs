//! The routes of the admin API, and the assembly of the status.
//!
//! Invariants: GET changes nothing. Weights and states are the *announced* ones.
//! A change is answered once it is durable, or the response reports that it is not.
//! Every error is JSON with a hint.

use super::auth::{Actor, AuthState, guard, refuse};
use super::events::{self, EventHub};
use crate::admin::metrics;
use crate::admin::{config_file, dto, maintenance, page, records, session};
use crate::domain::config::{self, normalise};
use crate::domain::decide::{decide, enters, is_held_back};
use crate::domain::rollout::{self, HoldKind};
use crate::domain::segment::Subject;
use crate::domain::share;
use crate::domain::verdict::{self, StandingFinding};
use crate::runtime::control::verbs::{PromoteCommand, ResumeCommand};
use crate::runtime::shared::{
    ChangeOrigin, ChangeRefused, ChangeResult, ReleaseView, ServingPhase, SharedState, StableSign, TripCall,
};
use crate::runtime::snapshot::{ReleaseSnapshot, Snapshot};
use crate::stats::arm::Arm;
use crate::store::state;
use crate::store::writer::NotDurable;
use crate::telemetry::clock;
use crate::telemetry::under_way::UnderWayNow;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

const REASON_BYTES_MAX: usize = 4096;
const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// How long a change waits for the disk.
const DURABLE_WITHIN: Duration = Duration::from_secs(3);
/// How long stable may take to accept a connection before a rollback by hand becomes a freeze.
const PROBE: Duration = Duration::from_secs(1);

pub fn router(shared: Arc<SharedState>, auth: Arc<AuthState>, hub: Arc<EventHub>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/", get(page::page))
        .route("/api/v1/status", get(status))
        .route("/api/v1/explain", get(explain))
        .route("/api/v1/config", get(config))
        .route("/api/v1/config/file", get(config_file::file))
        .route("/api/v1/ledger", get(records::entries))
        .route("/api/v1/ledger/lines", get(records::lines))
        .route("/api/v1/ledger/end", get(records::end))
        .route("/api/v1/ledger/hashed", get(records::hashed))
        .route("/api/v1/failed", get(records::failed))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/history", get(events::history))
        .route(session::PATH, get(session::show).post(session::begin).delete(session::end))
        .route("/api/v1/releases/{release}/rollback", post(rollback))
        .route("/api/v1/releases/{release}/resume", post(resume))
        .route("/api/v1/releases/{release}/pause", post(pause))
        .route("/api/v1/releases/{release}/promote", post(promote))
        .route("/api/v1/releases/{release}/maintenance", post(maintenance::maintain))
        .fallback(|| async {
            refuse(
                StatusCode::NOT_FOUND,
                "there is nothing at this path",
                Some("the page is at /, the API under /api/v1/ (README.md, \"The admin API\")".into()),
            )
        })
        .method_not_allowed_fallback(|| async {
            refuse(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method", None)
        })
        .layer(Extension(hub))
        .layer(Extension(auth.clone()))
        .layer(axum::middleware::from_fn_with_state(auth, guard))
        .with_state(shared)
}

async fn readyz(State(shared): State<Arc<SharedState>>) -> Response {
    let phase = shared.gauges.phase();
    let snapshot = shared.snapshot();
    let without = snapshot.releases.iter().flat_map(|r| {
        let empty = Arm::BOTH.into_iter().filter(|arm| r.upstream(*arm).healthy() == 0);
        empty.map(|arm| format!("{}/{}", r.release.name, arm.label())).collect::<Vec<_>>()
    });
    let held = snapshot.releases.iter().filter_map(|r| {
        let hold = r.hold.as_ref()?;
        Some(format!("{}: {}", r.release.name, hold.explain(&r.release.name)))
    });
    let details = dto::ReadyDetails {
        phase: match phase {
            ServingPhase::Starting => dto::PhaseLabel::Starting,
            ServingPhase::Serving => dto::PhaseLabel::Serving,
            ServingPhase::Draining => dto::PhaseLabel::Draining,
        },
        last_reload_error: shared.source().last_error,
        arms_without_server: without.collect(),
        releases_held: held.collect(),
        state_error: shared.state_error(),
    };
    let code = if phase == ServingPhase::Serving { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(details)).into_response()
}

async fn metrics(State(shared): State<Arc<SharedState>>) -> Response {
    let text = metrics::render(&shared);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn config(State(shared): State<Arc<SharedState>>) -> Response {
    let source = shared.source();
    let standings = shared.standings();
    let snapshot = shared.snapshot();
    let views = shared.views();
    let traffic = |name: &str| views.get(name).map(|view| view.traffic());
    let service = |name: &str| {
        let release = snapshot.config.release(name)?;
        super::service::figures(views.get(name)?, &release.watchdog)
    };
    let releases = standings
        .releases
        .iter()
        .map(|(name, s)| (name.clone(), super::progress::standing(s, traffic(name), service(name))));
    let running = dto::RunningBody {
        text: source.text,
        path: source.path,
        sha256: source.sha256,
        releases: releases.collect(),
        stranger: state::release_state_json(&standings.stranger),
        stop_file: standings.now.stop_file,
    };
    Json(running).into_response()
}

async fn status(State(shared): State<Arc<SharedState>>) -> Json<dto::StatusBody> {
    Json(status_of(&shared))
}

/// The body of `/api/v1/status`.
pub fn status_of(shared: &SharedState) -> dto::StatusBody {
    let source = shared.source();
    let snapshot = shared.commits.announced();
    let views = shared.views();
    let empty = ReleaseView::default();
    let release =
        |r: &Arc<ReleaseSnapshot>| release_status(shared, r, views.get(&r.release.name).unwrap_or(&empty));
    let releases = snapshot.releases.iter().map(release).collect();
    dto::StatusBody {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        uptime_s: clock::now().as_secs(),
        at: clock::rfc3339(clock::at_ms()),
        config: dto::ConfigStatus {
            revision: snapshot.revision,
            sha256: source.sha256,
            loaded_at: clock::rfc3339(source.loaded_at_ms),
            last_error: source.last_error,
        },
        state_error: shared.state_error(),
        releases,
        removed: shared
            .removed_trips()
            .into_iter()
            .map(|(name, trip)| dto::RemovedRelease {
                name,
                cause: trip.cause.label().to_owned(),
                at: clock::rfc3339(trip.at_ms),
                servers: trip.servers,
            })
            .collect(),
    }
}

fn release_status(
    shared: &SharedState,
    live_release: &ReleaseSnapshot,
    view: &ReleaseView,
) -> dto::ReleaseBody {
    let release = &live_release.release;
    // From the announced snapshot: changes that are not durable yet are not shown.
    let release_state = shared.release_state(&release.name).unwrap_or_default();
    let holds = release_state.ends().into_iter().map(HoldKind::label);
    let alarm = view.has_found(StandingFinding::Alarm).then_some(StandingFinding::Alarm.label());
    let ends = holds.chain(alarm).map(str::to_owned).collect();
    let tripped = release_state.trip.filter(|_| live_release.state == rollout::RolloutState::RolledBack);
    let frozen = release_state.freeze.filter(|_| live_release.state == rollout::RolloutState::Frozen);
    let trip = super::progress::trip(tripped, frozen);
    let arm = |arm: Arm| arm_status(live_release, view, arm);
    let unfit = view.known.iter().flat_map(|known| known.unfit(&release.watchdog));
    let unfit = unfit.map(|(key, what)| format!("{key} is {what}")).collect();
    let watchdog = match &view.judgement {
        Some(judgement) => dto::WatchdogBody {
            state: judgement.state.into(),
            detail: judgement.reason.clone(),
            signals: judgement
                .signals
                .iter()
                .map(|s| dto::SignalBody {
                    signal: s.signal.to_owned(),
                    stratum: s.stratum.to_string(),
                    evidence_ratio: Some(s.evidence_ratio),
                    detail: s.detail.clone(),
                })
                .collect(),
            limits: Some(limits(release)),
            notice_s: view.notice_since.map(|since| view.looked.saturating_sub(since).as_secs_f64().round()),
            unfit,
        },
        // The watchdog has not run yet.
        None => dto::WatchdogBody {
            state: dto::WatchdogStateLabel::Blind,
            detail: "it has not looked yet".to_owned(),
            signals: vec![],
            limits: Some(limits(release)),
            notice_s: None,
            unfit,
        },
    };
    dto::ReleaseBody {
        name: release.name.clone(),
        attempt: release.attempt,
        attempt_seen: release_state.attempt.max(release.attempt),
        state: live_release.state.into(),
        weight: live_release.effective.weight().percent(),
        weight_configured: live_release.weight_in_file().percent(),
        held_back: Some(live_release.held_back().percent()).filter(|back| *back > 0.0),
        soak_left_s: live_release.soak_left(clock::at_ms()).map(|left| left.as_secs()),
        wave: live_release.wave().map(|w| w.name.clone()),
        waves: super::progress::waves(live_release),
        progress: super::progress::progress(live_release, view, release_state.pause),
        share_actual: view.share(Duration::from_secs(60)).map(|s| share::rounded(100.0 * s, 2)),
        warming_up: view.judgement.as_ref().and_then(|of| of.evidence.warming).map(|of| dto::WarmUpBody {
            left_s: of.left.as_millis().div_ceil(1000) as u64,
            answers_left: of.answers_left,
            server: of.server.map(|server| {
                let server = live_release.new.servers.get(usize::from(server));
                server.map_or_else(|| "?".to_owned(), |server| server.server.to_string())
            }),
        }),
        maintenance: live_release.maintenance.as_ref().map(|(of, _)| dto::MaintenanceBody {
            change: of.change.clone(),
            at: clock::rfc3339(of.at_ms),
            until: clock::rfc3339(of.until_ms),
            actor: of.actor.clone(),
            reason: of.reason.clone(),
        }),
        held: live_release.hold.as_ref().map(|hold| hold.explain(&release.name)),
        ends,
        trip,
        arms: dto::ArmsBody { stable: arm(Arm::Stable), new: arm(Arm::New) },
        under_way: under_way(live_release.counters.under_way.present()),
        gates: super::progress::gates(live_release, view),
        resources: super::progress::resources(live_release, view),
        watchdog,
    }
}

fn limits(release: &config::Release) -> dto::LimitsBody {
    let of = &release.watchdog;
    dto::LimitsBody {
        enabled: of.enabled,
        report_only: of.mode == config::WatchdogMode::Report,
        alpha: of.alpha,
        errors_max: of.errors_max,
        latency_p99_max_ms: of.latency_p99_max.as_secs_f64() * 1e3,
        latency_tolerance: of.latency_tolerance,
    }
}

fn arm_status(release: &ReleaseSnapshot, view: &ReleaseView, arm: Arm) -> dto::ArmStatus {
    let counters = release.counters.arm(arm);
    let upstream = release.upstream(arm);
    let recent = view.recent[arm.index()].last(FIVE_MINUTES);
    let ms = |q: f64| recent.latency.quantile(q).map(|d| (d.as_secs_f64() * 1e5).round() / 1e2);
    let ratio = recent.failures as f64 / recent.requests.max(1) as f64;
    dto::ArmStatus {
        upstream: upstream.config.name.clone(),
        requests: recent.requests,
        failures: recent.failures,
        error_ratio: (recent.requests > 0).then_some((ratio * 1e6).round() / 1e6),
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        answers: recent.answers.into(),
        users: counters.distinct_users(),
        in_flight: counters.in_flight(),
        servers_healthy: upstream.healthy() as u64,
        servers: upstream
            .servers
            .iter()
            .map(|s| dto::ServerStatus {
                name: s.server.to_string(),
                healthy: s.healthy(),
                down: s.why_down().map(|why| why.to_string()),
            })
            .collect(),
    }
}

#[derive(Deserialize)]
struct ExplainQuery {
    user: Option<String>,
    release: Option<String>,
}

async fn explain(
    State(shared): State<Arc<SharedState>>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(fault) => {
            return refuse(StatusCode::BAD_REQUEST, fault.body_text(), Some("?user=ID&release=R".into()));
        }
    };
    let snapshot = shared.commits.announced();
    let release = match &query.release {
        Some(name) => snapshot.releases.iter().find(|r| r.release.name == *name),
        None if snapshot.releases.len() == 1 => snapshot.releases.first(),
        None => {
            let hint = format!("one of {}", names(&snapshot));
            return refuse(StatusCode::BAD_REQUEST, "which release? add &release=NAME", Some(hint));
        }
    };
    let Some(release) = release else {
        let name = query.release.unwrap_or_default();
        return unknown(&snapshot, &name);
    };
    let identity = &snapshot.config.identity;
    let typed = query.user.unwrap_or_default();
    let id = normalise(identity.normalise, typed.as_bytes());
    let known = !id.is_empty() && id.len() <= identity.max_bytes;
    let subject = Subject { user_id: known.then_some(&*id), headers: None, address: None };
    let decision = decide(&release.release, release.effective, &subject);
    let segment = match decision.reason {
        crate::domain::decide::Reason::Segment(i) => Some(release.release.segments[i].name.clone()),
        crate::domain::decide::Reason::Excluded(i) => Some(release.release.excluded[i].name.clone()),
        _ => None,
    };
    let explained = dto::ExplainBody {
        release: release.release.name.clone(),
        bucket: decision.bucket.map(|b| b.index()),
        arm: decision.arm.label().to_owned(),
        reason: decision.reason.label().to_owned(),
        enters_at: decision.bucket.map(|b| b.enters_at().percent()),
        weight: Some(release.effective.weight().percent()),
        segment,
        wave: enters(&release.release, &subject).map(|i| release.release.waves[i].name.clone()),
        held_back: release.state != rollout::RolloutState::Complete
            && is_held_back(&release.release, &subject),
        power: shared.views().get(&release.release.name).and_then(|v| super::progress::power(release, v)),
    };
    Json(explained).into_response()
}

type RequestBodyOf = Result<Json<dto::JsonObject<dto::ChangeRequest>>, JsonRejection>;

async fn rollback(
    State(shared): State<Arc<SharedState>>,
    Extension(Actor(actor)): Extension<Actor>,
    Path(name): Path<String>,
    body: RequestBodyOf,
) -> Response {
    let reason = match request("rollback", &[], body) {
        Ok(request) => request.reason,
        Err(answer) => return *answer,
    };
    let snapshot = shared.snapshot();
    let Some(release) = snapshot.releases.iter().find(|r| r.release.name == name) else {
        return unknown(&snapshot, &name);
    };
    let stable = release.stable.clone();
    let call = TripCall {
        cause: verdict::Cause::Manual,
        detail: reason.clone().unwrap_or_else(|| "by hand".to_owned()),
        origin: ChangeOrigin { actor, reason },
        evidence: Value::Null,
        onset: None,
        stable: StableSign::Answers,
    };
    // A task of its own: a client that disconnects must not cancel the rollback.
    let change = tokio::spawn(async move {
        let probed = tokio::task::spawn_blocking(move || stable.takes_connections(PROBE)).await;
        let sign = if probed.unwrap_or(true) { StableSign::Answers } else { StableSign::Silent };
        let changed = shared.trip(&name, TripCall { stable: sign, ..call });
        rolled_back(&shared, &name, changed).await
    });
    match change.await {
        Ok(answer) => answer,
        Err(_) => refuse(StatusCode::INTERNAL_SERVER_ERROR, "the rollback was broken off", None),
    }
}

async fn resume(
    State(shared): State<Arc<SharedState>>,
    actor: Extension<Actor>,
    Path(name): Path<String>,
    body: RequestBodyOf,
) -> Response {
    let (request, origin) = match reasoned(
        "resume",
        &["ends", "at"],
        "why users may go to new again, or the waves go on",
        actor,
        body,
    ) {
        Ok(reasoned) => reasoned,
        Err(answer) => return *answer,
    };
    let accepts = request.ends.as_deref().and_then(StandingFinding::parse);
    let ends = match request.ends.as_deref().map(|label| (label, HoldKind::parse(label))) {
        Some(_) if accepts.is_some() => None,
        Some((label, None)) => {
            let findings = StandingFinding::ALL.map(StandingFinding::label);
            let known = HoldKind::ALL.map(HoldKind::label).into_iter().chain(findings);
            let known = known.map(|ends| format!("`{ends}`")).collect::<Vec<_>>().join(", ");
            return refuse(
                StatusCode::BAD_REQUEST,
                format!("a resume ends no `{label}`: one of {known}"),
                None,
            );
        }
        known => known.and_then(|(_, ends)| ends),
    };
    let resumption = ResumeCommand { ends, at: request.at, accepts };
    answered(&shared, &name, shared.resume(&name, &origin, &resumption)).await
}

async fn pause(
    State(shared): State<Arc<SharedState>>,
    actor: Extension<Actor>,
    Path(name): Path<String>,
    body: RequestBodyOf,
) -> Response {
    match reasoned("pause", &[], "why the waves stay where they are", actor, body) {
        Ok((_, origin)) => answered(&shared, &name, shared.pause(&name, &origin)).await,
        Err(answer) => *answer,
    }
}

async fn promote(
    State(shared): State<Arc<SharedState>>,
    actor: Extension<Actor>,
    Path(name): Path<String>,
    body: RequestBodyOf,
) -> Response {
    let example = "why the next wave may open now";
    let (request, origin) = match reasoned("promote", &["wave", "despite"], example, actor, body) {
        Ok(reasoned) => reasoned,
        Err(answer) => return *answer,
    };
    let promotion = PromoteCommand { wave: request.wave, despite: request.despite };
    answered(&shared, &name, shared.promote(&name, &origin, &promotion)).await
}

/// Parses a change. `taken`: the fields of the verb besides `reason`.
fn request(verb: &str, taken: &[&str], body: RequestBodyOf) -> Result<dto::ChangeRequest, Box<Response>> {
    let request = match body {
        Ok(Json(dto::JsonObject(request))) => request,
        Err(fault) => return Err(malformed(&fault).into()),
    };
    if let Some(field) = request.foreign_field(taken) {
        let known: Vec<String> = ["reason"].iter().chain(taken).map(|name| format!("`{name}`")).collect();
        let error = format!("a {verb} takes no `{field}`: its fields are {}", known.join(", "));
        return Err(refuse(StatusCode::BAD_REQUEST, error, None).into());
    }
    match too_long(request.reason.as_deref()) {
        Some(answer) => Err(answer.into()),
        None => Ok(request),
    }
}

/// Parses a change that requires a reason: the request, and its actor.
fn reasoned(
    verb: &str,
    taken: &[&str],
    example: &str,
    Extension(Actor(actor)): Extension<Actor>,
    body: RequestBodyOf,
) -> Result<(dto::ChangeRequest, ChangeOrigin), Box<Response>> {
    let mut request = request(verb, taken, body)?;
    let Some(reason) = request.reason.take().filter(|r| !r.trim().is_empty()) else {
        let hint = format!("{{\"reason\": \"{example}\"}}");
        return Err(refuse(StatusCode::BAD_REQUEST, format!("a {verb} needs a reason"), Some(hint)).into());
    };
    Ok((request, ChangeOrigin { actor, reason: Some(reason) }))
}

pub(super) async fn answered(
    shared: &Arc<SharedState>,
    name: &str,
    changed: Result<ChangeResult, ChangeRefused>,
) -> Response {
    match changed {
        Err(ChangeRefused::UnknownRelease(_)) => unknown(&shared.snapshot(), name),
        changed => change_response(shared, changed).await,
    }
}

async fn change_response(
    shared: &Arc<SharedState>,
    changed: Result<ChangeResult, ChangeRefused>,
) -> Response {
    match answer(shared, changed).await {
        Ok(answer) => Json(answer).into_response(),
        Err(refused) => refused,
    }
}

/// No further user enters `new`; the response also counts the exchanges still in flight there.
async fn rolled_back(
    shared: &Arc<SharedState>,
    name: &str,
    changed: Result<ChangeResult, ChangeRefused>,
) -> Response {
    let mut answer = match answer(shared, changed).await {
        Ok(answer) => answer,
        Err(refused) => return refused,
    };
    let snapshot = shared.snapshot();
    let release = snapshot.releases.iter().find(|r| r.release.name == name);
    if let Some(release) = release.filter(|r| r.state == rollout::RolloutState::RolledBack) {
        let present = release.counters.under_way.present();
        let sentence = present.sentence(snapshot.config.limits.stream_grace);
        answer.message.push_str(&format!("; {sentence}"));
        answer.under_way = Some(under_way(present));
    }
    Json(answer).into_response()
}

fn under_way(present: UnderWayNow) -> dto::UnderWayBody {
    let began = |oldest: Duration| clock::rfc3339(clock::at_ms() - oldest.as_millis() as i64);
    dto::UnderWayBody { requests: present.count, since: present.oldest.map(began) }
}

async fn answer(
    shared: &Arc<SharedState>,
    changed: Result<ChangeResult, ChangeRefused>,
) -> Result<dto::ChangeAnswer, Response> {
    let changed = match changed {
        Ok(changed) => changed,
        Err(refused @ ChangeRefused::Unclear(_)) => {
            return Err(refuse(StatusCode::BAD_REQUEST, refused.to_string(), None));
        }
        Err(refused) => return Err(refuse(StatusCode::CONFLICT, refused.to_string(), None)),
    };
    let mut message = changed.message;
    if let Some(commit) = changed.commit {
        let commits = shared.commits.clone();
        let durable = tokio::task::spawn_blocking(move || commits.wait(commit, DURABLE_WITHIN)).await;
        if let Ok(Err(why)) = durable {
            message.push_str(&match why {
                NotDurable::Ledger(_) => {
                    format!("; saved; its entry in the ledger is still to be written: {why}")
                }
                _ => format!("; in memory only, a restart forgets it: {why}"),
            });
        }
    }
    let (state, ledger) = (changed.state.into(), changed.ledger);
    Ok(dto::ChangeAnswer { state, ledger, message, under_way: None })
}

/// A reason is kept for ever, in the state file too.
pub(super) fn too_long(reason: Option<&str>) -> Option<Response> {
    let hint = format!("at most {REASON_BYTES_MAX} bytes; link to the rest");
    let long = reason.is_some_and(|reason| reason.len() > REASON_BYTES_MAX);
    long.then(|| refuse(StatusCode::BAD_REQUEST, "the reason is too long", Some(hint)))
}

fn malformed(fault: &JsonRejection) -> Response {
    let hint = Some("{\"reason\": \"...\"}".to_owned());
    refuse(StatusCode::BAD_REQUEST, fault.body_text(), hint)
}

fn unknown(snapshot: &Snapshot, name: &str) -> Response {
    let hint = Some(format!("one of {}", names(snapshot)));
    refuse(StatusCode::NOT_FOUND, format!("no release is called `{name}`"), hint)
}

fn names(snapshot: &Snapshot) -> String {
    snapshot.releases.iter().map(|r| format!("`{}`", r.release.name)).collect::<Vec<_>>().join(", ")
}
