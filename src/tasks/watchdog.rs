//! The watchdog's thread: each tick it reads the request events, runs the judge of each release,
//! and trips releases in breach.
//! The logic is in `domain`.
//!
//! Invariants: it runs in every state: at every weight, frozen, at 100%.
//! It has its own thread and waits for no lock that is held across I/O.
//! A late tick is counted and passed to the judge, never read as health.
//! No users are moved to a stable that accepts no connection: the trip becomes a freeze.

mod files;

pub use files::EvidenceFiles;

use super::aftermath::Aftermath;
use super::stage::WatchedStage;
use crate::domain::config::WatchdogMode;
use crate::domain::decide::Effective;
use crate::domain::gates::moments::MomentsLearner;
use crate::domain::judge::deadline::AnswerDeadline;
use crate::domain::judge::onset::BadReason;
use crate::domain::judge::suspicion::Suspicion;
use crate::domain::judge::verdict_inputs::FailedUserLimit;
use crate::domain::judge::{ExchangeDurations, Judge, JudgeInput, TickSettings};
use crate::domain::maintenance;
use crate::domain::resource::{self, ResourceResult};
use crate::domain::rollout::{Hold, ManualHold};
use crate::domain::verdict::{Cause, Judgement, SignalResult, Verdict, VerdictLimits, WatchdogState};
use crate::domain::wave::Exposure;
use crate::runtime::decision_counts::DecisionNames;
use crate::runtime::resources;
use crate::runtime::shared::{ChangeOrigin, ReleaseView, SharedState, StableSign, StopFile, TripCall};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::arm::Arm;
use crate::stats::cohort::Salt;
use crate::stats::engine::{
    self, Engine, EngineSettings, EventKind, RequestEvent, SERVER_NUMBER_MAX, SHARES,
};
use crate::stats::hasher::BuildHasher;
use crate::stats::servers::ServerIndex;
use crate::stats::users::Baseline;
use crate::store::audit::evidence;
use crate::store::checkpoints;
use crate::tasks::past_figures;
use crate::tasks::service_profile::{self, RouteRates};
use crate::telemetry::clock;
use files::remember_failed;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const TICK_MIN: Duration = Duration::from_millis(50);
/// A tick is late beyond this.
const LATE: Duration = Duration::from_millis(250);
const OBSERVE: Duration = Duration::from_millis(500);
const RECENT: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// Failures of `new` further apart than this belong to separate troubles.
const ONSET_GAP: Duration = Duration::from_secs(10);
/// E of the comparison below which there is little evidence against `new`: one or two ordinary
/// failures raise it above 1.
const CALM: f64 = 4.0;
/// Epochs of a release whose requests may still be in flight.
const EPOCHS: usize = 64;
/// Time limit for all probes of stable together, before a trip.
const PROBE: Duration = Duration::from_millis(500);
const PROBE_AGAIN: Duration = Duration::from_secs(5);

/// Why saved evidence is not used.
const DOES_NOT_FIT: &str = "what was saved of it is damaged, of another version of grayling, under another key, of another attempt, salt or set of routes, or it ended in a trip";

/// Runs until `stop`.
/// `config` is the file beside which `grayling.stop` may appear.
pub fn run(shared: &SharedState, config: &Path, stop: &AtomicBool, archive: Option<&EvidenceFiles>) {
    // The evidence that an earlier process kept of the releases present at start.
    let kept = |release: &Arc<ReleaseSnapshot>| {
        let (name, now) = (&release.release.name, clock::now());
        // The evidence is about another version: start again.
        let another = release.hold == Some(Hold::Awaits(ManualHold::NewVersion));
        let saved = archive
            .filter(|_| !another)
            .and_then(|archive| checkpoints::read(&archive.directory, &checkpoints::evidence_file(name)));
        let was_saved = saved.is_some();
        let restored = saved
            .and_then(|bytes| shared.key.unseal(bytes))
            .and_then(|bytes| WatchedRelease::restored(release, &bytes, now));
        if let Some(dog) = &restored {
            let e_value = dog.judge.engine().e_value();
            shared.log.event("evidence_restored", json!({"release": name, "e_value": e_value}));
        } else if was_saved {
            shared.log.event("evidence_begins_anew", json!({"release": name, "why": DOES_NOT_FIT}));
        }
        let mut dog = restored.unwrap_or_else(|| WatchedRelease::new(release, Baseline::default(), now));
        let past = archive.filter(|_| !another).and_then(|a| past_figures::read(release, &a.directory, now));
        if let Some(past) = past {
            dog.judge.knows_own_past(past);
        }
        if let Some(checkpoint) = shared.views().get_mut(name).and_then(|view| view.checkpoint.take()) {
            dog.stage = WatchedStage::restored(release, checkpoint);
        }
        (name.clone(), Box::new(dog))
    };
    if let Some(archive) = archive {
        shared.snapshot().releases.iter().for_each(|release| remember_failed(shared, release, archive));
    }
    // Boxed: they are large, and move on every tick.
    let mut watched: BTreeMap<String, Box<WatchedRelease>> =
        shared.snapshot().releases.iter().map(kept).collect();
    let mut minute = 0;
    let mut last = clock::now();
    let mut observed = Duration::ZERO;
    let mut lost = 0;
    // Events since the last tick, by epoch.
    let mut events: HashMap<u64, Vec<RequestEvent>, BuildHasher> = HashMap::default();
    while !stop.load(Relaxed) {
        let snapshot = shared.snapshot();
        let tick = snapshot.releases.iter().map(|r| r.release.watchdog.tick).min();
        std::thread::sleep(tick.unwrap_or(LATE).max(TICK_MIN));
        let now = clock::now();
        let starved = shared.events.lost() > std::mem::replace(&mut lost, shared.events.lost());
        let ticks = if starved || now.saturating_sub(last) > tick.unwrap_or(LATE) + LATE {
            shared.gauges.ticks_late.fetch_add(1, Relaxed);
            TickSettings::Late
        } else {
            TickSettings::OnTime
        };
        last = now;
        shared.heed_stop_file(StopFile::beside(config));
        shared.note_drained();
        shared.end_maintenances();

        shared.events.drain(|epoch, event| events.entry(epoch).or_default().push(event));
        // Loaded after the events were taken: it has all of their epochs, except those of removed
        // releases.
        let snapshot = shared.snapshot();
        if now.as_secs() / 60 != minute {
            minute = now.as_secs() / 60;
            for release in &snapshot.releases {
                Arm::BOTH.iter().for_each(|arm| release.counters.arm(*arm).clear_users(minute + 1));
            }
        }
        let observe = now >= observed + OBSERVE;
        if observe {
            observed = now;
        }
        watched.retain(|name, _| snapshot.releases.iter().any(|r| r.release.name == *name));
        shared.views().retain(|name, _| snapshot.releases.iter().any(|r| r.release.name == *name));
        for release in &snapshot.releases {
            let name = &release.release.name;
            let dog = match watched.remove(name) {
                Some(dog) if dog.evidence_id == release.evidence_id => dog,
                Some(dog) => Box::new(dog.renewed(release, now)),
                None => Box::new(WatchedRelease::new(release, Baseline::default(), now)),
            };
            let dog = watched.entry(name.clone()).or_insert(dog);
            dog.events(release, &mut events, now);
            dog.tick(shared, release, now, ticks, observe);
            if let Some(archive) = archive {
                dog.keep(release, archive, now);
                dog.keep_stage(shared, release, archive, now);
                dog.keep_past(release, archive, now);
                dog.keep_failed(release, archive, now);
            }
        }
        // Entries of a removed epoch are dropped; the others keep their allocation.
        events.retain(|_, events| {
            let lives = !events.is_empty();
            events.clear();
            lives
        });
    }
    for release in &shared.snapshot().releases {
        if let (Some(dog), Some(archive)) = (watched.get_mut(&release.release.name), archive) {
            (dog.keep_by, dog.keep_failed_by, dog.stage.keep_by) = Default::default();
            dog.keep_past_by = Duration::ZERO;
            dog.keep_past(release, archive, clock::now());
            dog.keep(release, archive, clock::now());
            dog.keep_stage(shared, release, archive, clock::now());
            dog.keep_failed(release, archive, clock::now());
        }
    }
}

/// The data of one release, as long as its evidence id is the same.
struct WatchedRelease {
    evidence_id: u64,
    salt: Salt,
    judge: Judge,
    strata: Arc<[Arc<str>]>,
    /// The current epoch last, after the earlier ones.
    epochs: VecDeque<u64>,
    /// The servers of both arms, and whether each was down at the last tick.
    servers: [Vec<(String, bool)>; 2],
    /// How long after its end an interval is final.
    deadline: AnswerDeadline,
    /// When the current failures of `new` began, if there are any.
    onset: Option<Onset>,
    /// End of the last interval after which the comparison had little against `new`.
    calm_until: Duration,
    /// When stable's connections were last probed.
    probed: Duration,
    /// The last state in the log, and whether a decision was withheld.
    logged: (WatchdogState, bool),
    /// After a trip on little evidence: does stable show the same?
    aftermath: Aftermath,
    suspicion: Suspicion,
    /// When the evidence is next written, and the list of failed users.
    keep_by: Duration,
    keep_failed_by: Duration,
    /// When the past figures of `new` are next written.
    keep_past_by: Duration,
    /// Time of the last look.
    looked: Duration,
    stage: WatchedStage,
    /// Requests by route, and the moments of stable's servers.
    rates: RouteRates,
    moments: MomentsLearner,
}

#[derive(Clone, Copy)]
struct Onset {
    first: Duration,
    last: Duration,
}

impl WatchedRelease {
    fn new(release: &ReleaseSnapshot, baseline: Baseline, now: Duration) -> Self {
        let engine = Engine::new(settings(release), release.effective.weight(), baseline, now);
        WatchedRelease {
            evidence_id: release.evidence_id,
            salt: release.release.salt,
            judge: Judge::new(limits(release), engine, release.strata.clone()),
            strata: release.strata.clone(),
            epochs: VecDeque::from([release.epoch]),
            servers: servers(release),
            deadline: AnswerDeadline::new(release.stable.config.response_timeout),
            onset: None,
            calm_until: now,
            probed: Duration::ZERO,
            logged: (WatchdogState::Quiet, false),
            aftermath: Aftermath::new(release),
            suspicion: Suspicion::default(),
            keep_by: now,
            keep_failed_by: now,
            keep_past_by: now,
            looked: now,
            stage: WatchedStage::new(release.stage, vec![]),
            rates: RouteRates::default(),
            moments: MomentsLearner::default(),
        }
    }

    /// Starts new evidence; the data about users are kept, if users are distinguished as before.
    fn renewed(self, release: &ReleaseSnapshot, now: Duration) -> Self {
        let known = self.salt == release.release.salt;
        let (stable, critical) = (self.judge.stable().clone(), self.stage.into_critical());
        let moments = self.moments;
        let known_servers = self.judge.engine().servers().clone();
        let before = self.judge.before();
        let baseline = if known { self.judge.into_engine().into_baseline() } else { Baseline::default() };
        let mut dog = WatchedRelease::new(release, baseline, now);
        dog.judge.knows_stable(stable, before);
        dog.judge.engine_mut().knows_servers(known_servers);
        dog.stage = WatchedStage::new(release.stage, critical);
        dog.moments = moments;
        dog
    }

    /// Takes the release's events; first those of earlier epochs, which are not part of the current
    /// comparison.
    fn events(
        &mut self,
        release: &ReleaseSnapshot,
        events: &mut HashMap<u64, Vec<RequestEvent>, BuildHasher>,
        now: Duration,
    ) {
        let timeouts = self.deadline.now() / 4;
        let floor = release.release.watchdog.latency_floor;
        let mut stage = std::mem::replace(&mut self.stage, WatchedStage::new(0, vec![])).follow(release, now);
        let (mut rates, mut moments) = (std::mem::take(&mut self.rates), std::mem::take(&mut self.moments));
        if self.strata != release.strata {
            rates.forget();
        }
        rates.push_all(&[], now);
        let mut push = |judge: &mut Judge, epoch: u64, drawn: bool| {
            let Some(events) = events.get_mut(&epoch) else { return };
            for event in &mut *events {
                event.request.drawn &= drawn;
                if let EventKind::Left { unusual } = &mut event.what {
                    *unusual = event.after > timeouts;
                }
            }
            judge.push_all(events);
            rates.push_all(events, now);
            service_profile::learn(&mut moments, events, judge.engine(), floor);
            stage.push_all(events, judge.engine(), floor);
        };
        let mut present = self.epochs.back().copied();
        for epoch in &self.epochs {
            push(&mut self.judge, *epoch, Some(*epoch) == present);
        }
        if present != Some(release.epoch) {
            present = Some(release.epoch);
            self.epochs.push_back(release.epoch);
            if self.epochs.len() > EPOCHS {
                self.epochs.pop_front();
            }
            self.follow(release, now);
            push(&mut self.judge, release.epoch, Some(release.epoch) == present);
        }
        (self.stage, self.rates, self.moments) = (stage, rates, moments);
    }

    /// Called when the inputs of a user's arm have changed.
    fn follow(&mut self, release: &ReleaseSnapshot, now: Duration) {
        if self.strata != release.strata {
            self.strata = release.strata.clone();
            self.judge.stratify(release.strata.clone(), now);
        }
        self.judge.engine_mut().weigh(release.effective.weight(), now);
    }

    fn tick(
        &mut self,
        shared: &SharedState,
        release: &ReleaseSnapshot,
        now: Duration,
        ticks: TickSettings,
        observe: bool,
    ) {
        self.judge.set_limits(limits(release));
        self.note_starts(release, now);
        let accepted = |view: &mut ReleaseView| std::mem::take(&mut view.accepted);
        let accepted = shared.views().get_mut(&release.release.name).map(accepted);
        accepted.iter().flatten().for_each(|finding| self.judge.accept(*finding));
        self.judge.set_soaked(release.is_soaked(clock::at_ms()));
        self.take_final(release, now);
        let (minute, recent, used) = {
            let mut views = shared.views();
            let view = views.entry(release.release.name.clone()).or_default();
            if observe {
                for arm in Arm::BOTH {
                    view.recent[arm.index()].observe(release.counters.arm(arm), now);
                }
                let [stable, new] = Arm::BOTH.map(|arm| view.recent[arm.index()].last(FIVE_MINUTES).success);
                self.deadline.observe(&stable, &new, release.stable.config.response_timeout);
            }
            let last = |window| Arm::BOTH.map(|arm| view.recent[arm.index()].last(window).latency);
            (last(MINUTE), last(RECENT), resources::inputs(release, view, now))
        };
        let [minute, recent] = [&minute, &recent].map(|[stable, new]| ExchangeDurations { new, stable });
        let look = JudgeInput { now, ticks, minute, recent };
        let mut judgement = self.judge.look(&look);
        let names = DecisionNames { release, strata: &self.strata };
        names.name(&mut judgement);
        if let Some((of, _)) = release.maintenance.as_ref().filter(|(_, until)| *until > now) {
            maintenance::report_only(&of.change, &mut judgement);
        }
        let harm = self.harm(release, &mut judgement);
        let too_much = weigh_resources(&used, &mut judgement);
        let passed = now.saturating_sub(std::mem::replace(&mut self.looked, now));
        if ticks == TickSettings::OnTime && judgement.state != WatchdogState::Blind {
            self.stage.watched += passed;
        }
        self.act(shared, release, &mut judgement, (harm, too_much), now);
        self.aftermath.look(shared, release, self.judge.onsets(), now);
        let suspicion = self.suspicion.look(&judgement.evidence.e, now);
        if let Some(ended) = self.judge.notice().take_ended() {
            let stood_s = now.saturating_sub(ended.since).as_secs();
            shared.log.event(
                "notice_ended",
                json!({"release": release.release.name, "stood_s": stood_s, "why": ended.why}),
            );
        }
        let logged = (judgement.state, judgement.withheld);
        if logged != self.logged {
            self.logged = logged;
            shared.log.event(
                "watchdog",
                json!({"release": release.release.name, "state": judgement.state.label(), "detail": judgement.reason}),
            );
        }
        if let Some(view) = shared.views().get_mut(&release.release.name) {
            view.judgement = Some(judgement);
            view.notice_since = self.judge.notice().since();
            view.looked = now;
            view.suspicion = suspicion;
            view.shown = Some(self.stage.shown(view, observe));
            if observe {
                let known =
                    service_profile::of(release, &self.judge, view, (&self.rates, &self.moments), now);
                service_profile::log_unfit(shared, release, view.known.as_ref(), &known);
                view.known = Some(known);
            }
        }
    }

    /// A server that is new, or was down, has started: it warms up.
    fn note_starts(&mut self, release: &ReleaseSnapshot, now: Duration) {
        let is = servers(release);
        let was = std::mem::replace(&mut self.servers, is);
        for arm in Arm::BOTH {
            let (is, was) = (&self.servers[arm.index()], &was[arm.index()]);
            if !is.iter().map(|(name, _)| name).eq(was.iter().map(|(name, _)| name)) {
                let before = is.iter().map(|(name, _)| {
                    let number = was.iter().position(|(other, _)| other == name)?;
                    u8::try_from(number).ok()
                });
                self.judge.servers_renumbered(arm, &before.collect::<Vec<_>>());
            }
            for (number, (name, down)) in is.iter().enumerate() {
                let before = was.iter().find(|(other, _)| other == name);
                let starts = !*down && before.is_none_or(|(_, was_down)| *was_down);
                if starts {
                    let server = u8::try_from(number).unwrap_or(SERVER_NUMBER_MAX);
                    self.judge.engine_mut().server_starts(ServerIndex { arm, server }, now);
                }
            }
        }
    }

    /// Passes the final intervals to the judge.
    fn take_final(&mut self, release: &ReleaseSnapshot, now: Duration) {
        let (onset, tick) = (&mut self.onset, release.release.watchdog.tick);
        self.judge.tick(now, self.deadline.now(), |interval| {
            if interval.failed.new > 0 {
                note_failure(onset, interval.end.saturating_sub(tick));
            }
        });
        self.stage.tick(now, self.deadline.now());
        if self.judge.engine().e_value() <= CALM {
            self.calm_until = now.saturating_sub(self.deadline.now());
        }
    }

    /// Too many failed users are a breach at any evidence; a breach found by the comparison takes
    /// precedence.
    fn harm(&self, release: &ReleaseSnapshot, judgement: &mut Judgement) -> (FailedUserLimit, u64) {
        let users_max = release.release.watchdog.harm_users_max;
        let (harm, requests) = release.counters.failed.harm(release.evidence_id, users_max);
        if harm.is_too_much() && !matches!(judgement.verdict, Verdict::Breach(_)) {
            (judgement.state, judgement.verdict) = (WatchdogState::Tripped, Verdict::Breach(Cause::Harm));
            judgement.reason = format!(
                "new has failed {} users, and harm_users_max is {users_max} ({requests} requests; {})",
                harm.users, judgement.reason
            );
        }
        (harm, requests)
    }

    fn act(
        &mut self,
        shared: &SharedState,
        release: &ReleaseSnapshot,
        judgement: &mut Judgement,
        ((harm, requests), too_much): ((FailedUserLimit, u64), Option<&resource::ResourceInputs>),
        now: Duration,
    ) {
        let held = match release.effective {
            Effective::Held => true,
            Effective::At(exposure) => exposure == Exposure::NOBODY,
        };
        if release.state == crate::domain::rollout::RolloutState::RolledBack {
            judgement.state = WatchdogState::Tripped;
            return;
        }
        let Verdict::Breach(cause) = judgement.verdict else { return };
        let watchdog = &release.release.watchdog;
        let report = watchdog.mode == WatchdogMode::Report;
        if held || report || !watchdog.enabled {
            judgement.withheld = !held;
            judgement.state = if report { WatchdogState::Suspicious } else { WatchdogState::Quiet };
            judgement.reason = match (held, report) {
                (true, _) => "nobody is in new".to_owned(),
                (_, true) => format!("report only; it would have taken new out: {}", judgement.reason),
                _ => format!("switched off; it would have acted: {}", judgement.reason),
            };
            return;
        }
        // Frozen already: only a stable that is back makes a difference, and probing takes a while.
        let frozen = release.state == crate::domain::rollout::RolloutState::Frozen;
        if frozen && now < self.probed + PROBE_AGAIN {
            return;
        }
        self.probed = now;
        let sign =
            if release.stable.takes_connections(PROBE) { StableSign::Answers } else { StableSign::Silent };
        let mut evidence = match cause {
            Cause::Harm => evidence::failed_users_evidence(harm, requests),
            Cause::Resource => too_much.map(|of| evidence::of_resource(of, harm.users)).unwrap_or_default(),
            _ => evidence::of_watchdog(&judgement.evidence, cause, harm.users),
        };
        let users = |arm| release.counters.arm(arm).distinct_users();
        let errors = BadReason::Signal(engine::Signal::Errors);
        let decided = match cause {
            Cause::Resource => None,
            Cause::Harm => self.judge.onsets().decided(errors, None, None, now),
            _ => judgement.decided.as_ref().and_then(|told| told.by),
        };
        let names = DecisionNames { release, strata: &self.strata };
        evidence["decided_by"] = decided.as_ref().map_or(Value::Null, |of| names.evidence(of));
        self.aftermath.decided_by(decided);
        // The number of users concerned: those of five minutes.
        evidence["users"] = json!({"new": users(Arm::New), "stable": users(Arm::Stable)});
        let call = TripCall {
            cause,
            origin: ChangeOrigin { actor: "watchdog".into(), reason: None },
            detail: judgement.reason.clone(),
            evidence,
            onset: decided.map(|of| of.onset).or(self.onset.filter(|_| cause != Cause::Resource).map(|o| {
                if matches!(
                    cause,
                    Cause::Errors
                        | Cause::ClientErrors
                        | Cause::Latency
                        | Cause::Redirects
                        | Cause::Duration
                        | Cause::Empty
                ) {
                    o.first.max(self.calm_until)
                } else {
                    o.first
                }
            })),
            stable: sign,
        };
        // A release that has just left the plan needs no trip.
        let _ = shared.trip(&release.release.name, call);
        // The list of failed users is needed now.
        self.keep_failed_by = now;
    }
}

/// Adds the results for resources to a judgement.
/// Returns the resource that decided the verdict, if any: evidence from responses takes precedence.
fn weigh_resources<'g>(
    used: &'g [resource::ResourceInputs],
    judgement: &mut Judgement,
) -> Option<&'g resource::ResourceInputs> {
    let mut too_much = None;
    for of in used {
        let say = of.result();
        judgement.signals.push(SignalResult {
            signal: match of.on {
                resource::ResourceAction::Trip => Cause::Resource.label(),
                resource::ResourceAction::Hold => SignalResult::RESOURCE_HOLD,
            },
            stratum: of.name.clone(),
            evidence_ratio: of.over() as f64 / of.limits.in_a_row.max(1) as f64,
            detail: of.detail(),
        });
        let breach = matches!(judgement.verdict, Verdict::Breach(_));
        if of.trips() && !breach {
            (judgement.state, judgement.verdict) = (WatchdogState::Tripped, Verdict::Breach(Cause::Resource));
            judgement.reason = format!("new uses more than it may of {}", of.detail());
            too_much = Some(of);
        } else if matches!(say, ResourceResult::Over(_) | ResourceResult::Both)
            && !breach
            && (judgement.state == WatchdogState::Quiet || judgement.verdict == Verdict::Pass)
        {
            (judgement.state, judgement.verdict) = (WatchdogState::Suspicious, Verdict::Inconclusive);
            judgement.reason = format!("{}: waves hold", of.detail());
        }
    }
    too_much
}

/// The servers of both arms, and whether each is down or aside.
fn servers(release: &ReleaseSnapshot) -> [Vec<(String, bool)>; 2] {
    [&release.stable, &release.new]
        .map(|arm| arm.servers.iter().map(|server| (server.server.to_string(), !server.healthy())).collect())
}

/// The levels that evidence of latency depends on; stored with it.
fn levels(of: &VerdictLimits) -> [f64; 3] {
    [of.latency_tolerance, of.latency_notice, of.latency_floor.as_secs_f64()]
}

fn limits(release: &ReleaseSnapshot) -> VerdictLimits {
    let of = &release.release.watchdog;
    VerdictLimits {
        alpha: of.alpha,
        errors_max: of.errors_max,
        latency_p99_max: of.latency_p99_max,
        stated: of.stated,
        latency_tolerance: of.latency_tolerance,
        latency_notice: of.latency_notice,
        latency_floor: of.latency_floor,
    }
}

fn settings(release: &ReleaseSnapshot) -> EngineSettings {
    let of = &release.release.watchdog;
    EngineSettings {
        alpha: of.alpha,
        tick: of.tick,
        latency_tolerance: of.latency_tolerance,
        latency_notice: of.latency_notice,
        latency_floor: of.latency_floor,
        warm_up: release.release.warm_up,
        strata: release.strata.len(),
        shares: SHARES,
    }
}

fn note_failure(onset: &mut Option<Onset>, at: Duration) {
    *onset = Some(match *onset {
        Some(o) if at.saturating_sub(o.last) <= ONSET_GAP => Onset { first: o.first, last: at },
        _ => Onset { first: at, last: at },
    });
}
