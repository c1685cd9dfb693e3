//! The watchdog's thread: each tick it takes the intervals that have become final, lets the judge of each release
//! look at them, and trips what is in breach. All thinking is in `domain::judge`; here is only the feeding.
//!
//! Invariants: it never sleeps through anything: in every weight, frozen, at 100%; it has a thread of its own and waits
//! for no lock that is held across I/O; a late tick is counted and told to the judge, never read as health; nobody is sent to a stable that
//! takes no connection: the trip becomes a freeze.

use crate::domain::cohort::Weight;
use crate::domain::decide::Arm;
use crate::domain::evidence::{Pair, Round, Users};
use crate::domain::judge::{Interval, Judge, Latency, Look, Ticks};
use crate::domain::verdict::{Cause, Evidence, Judgement, Limits, State, Verdict};
use crate::live::apply::{Live, Origin, StableSign, StopFile, TripCall};
use crate::live::clock;
use crate::live::epoch::{Epoch, Final};
use crate::live::snapshot::ReleaseLive;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const TICK_MIN: Duration = Duration::from_millis(50);
/// A tick that comes later than this is late.
const LATE: Duration = Duration::from_millis(250);
/// The shortest wait until an interval is final, and the one while too little is known of stable.
const DEADLINE_MIN: Duration = Duration::from_millis(250);
const DEADLINE_UNKNOWN: Duration = Duration::from_secs(2);
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// Successes of stable in five minutes from which on its tail is known.
const KNOWN_SUCCESSES: u64 = 100;
const OBSERVE: Duration = Duration::from_millis(500);
const RECENT: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// Failures of `new` further apart than this are not one trouble.
const ONSET_GAP: Duration = Duration::from_secs(10);
/// E of the comparison at which little speaks against `new`: an ordinary failure or two bring it above 1.
const CALM: f64 = 4.0;
/// For all probes of stable together, before a trip.
const PROBE: Duration = Duration::from_millis(500);
const PROBE_AGAIN: Duration = Duration::from_secs(5);

/// Runs until `stop`. `config` is the file beside which `grayling.stop` may appear.
pub fn run(live: &Live, config: &Path, stop: &AtomicBool) {
    let mut watched: BTreeMap<String, Watched> = BTreeMap::new();
    let mut minute = 0;
    let mut last = clock::now();
    let mut observed = Duration::ZERO;
    while !stop.load(Relaxed) {
        let snapshot = live.snapshot();
        let tick = snapshot.releases.iter().map(|r| r.release.watchdog.tick).min();
        std::thread::sleep(tick.unwrap_or(LATE).max(TICK_MIN));
        let now = clock::now();
        let ticks = if now.saturating_sub(last) > tick.unwrap_or(LATE) + LATE {
            live.gauges.ticks_late.fetch_add(1, Relaxed);
            Ticks::Late
        } else {
            Ticks::OnTime
        };
        last = now;
        live.heed_stop_file(StopFile::beside(config));

        let snapshot = live.snapshot();
        if now.as_secs() / 60 != minute {
            minute = now.as_secs() / 60;
            for release in &snapshot.releases {
                Arm::BOTH.iter().for_each(|arm| release.tally.arm(*arm).clear_users(minute + 1));
            }
        }
        let observe = now >= observed + OBSERVE;
        if observe {
            observed = now;
        }
        watched.retain(|name, _| snapshot.releases.iter().any(|r| r.release.name == *name));
        live.views().retain(|name, _| snapshot.releases.iter().any(|r| r.release.name == *name));
        for release in &snapshot.releases {
            let name = &release.release.name;
            let fresh = || Watched::new(release);
            let dog = watched.entry(name.clone()).or_insert_with(fresh);
            if dog.evidence_id != release.evidence_id {
                *dog = Watched::new(release);
            }
            dog.tick(live, release, now, ticks, observe);
        }
    }
}

/// What is kept of one release, as long as its evidence is the same.
struct Watched {
    evidence_id: u64,
    judge: Judge,
    /// The round being judged, and those that began after it.
    rounds: VecDeque<RoundOfEpoch>,
    /// Why the next round begins, if the judge asked for it.
    renewing: Option<Round>,
    /// How long after its end an interval is final.
    deadline: Duration,
    /// When the present failures of `new` began, if there are any.
    onset: Option<Onset>,
    /// End of the last interval after which the comparison had nothing against `new`.
    calm_until: Duration,
    /// When stable was last asked whether it takes connections.
    probed: Duration,
    told: State,
}

struct RoundOfEpoch {
    epoch: Arc<Epoch>,
    weight: Weight,
    why: Round,
    /// When the next one began.
    ended: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Onset {
    first: Duration,
    last: Duration,
}

impl Watched {
    fn new(release: &ReleaseLive) -> Self {
        let weight = release.force.weight();
        let round = RoundOfEpoch { epoch: release.epoch.clone(), weight, why: Round::Other, ended: None };
        Watched {
            evidence_id: release.evidence_id,
            judge: Judge::new(limits(release), weight.ratio()),
            rounds: VecDeque::from([round]),
            renewing: None,
            deadline: DEADLINE_UNKNOWN,
            onset: None,
            calm_until: clock::now(),
            probed: Duration::ZERO,
            told: State::Quiet,
        }
    }

    fn tick(&mut self, live: &Live, release: &ReleaseLive, now: Duration, ticks: Ticks, observe: bool) {
        self.judge.set_limits(limits(release));
        self.follow(release, now);
        self.take_final(now);
        let (minute, recent) = {
            let mut views = live.views();
            let view = views.entry(release.release.name.clone()).or_default();
            if observe {
                for arm in Arm::BOTH {
                    view.recent[arm.index()].observe(release.tally.arm(arm), now);
                }
                let usual = &view.recent[Arm::Stable.index()].last(FIVE_MINUTES).success;
                self.deadline = match usual.quantile(0.999).filter(|_| usual.total() >= KNOWN_SUCCESSES) {
                    Some(p999) => (p999 * 4).clamp(DEADLINE_MIN, DEADLINE_MAX),
                    None => DEADLINE_UNKNOWN,
                };
            }
            let last = |window| Arm::BOTH.map(|arm| view.recent[arm.index()].last(window).latency);
            (last(MINUTE), last(RECENT))
        };
        let [minute, recent] = [&minute, &recent].map(|[stable, new]| Latency { new, stable });
        let look = Look { now, ticks, minute, recent };
        let mut judgement = self.judge.look(&look);
        if let Some(why) = judgement.renew
            && self.renewing.is_none()
            && self.rounds.len() == 1
        {
            self.renewing = Some(why);
            live.renew_epoch(&release.release.name);
        }
        self.act(live, release, &mut judgement, now);
        if judgement.state != self.told {
            self.told = judgement.state;
            live.log.event(
                "watchdog",
                json!({"release": release.release.name, "state": judgement.state.label(), "detail": judgement.reason}),
            );
        }
        if let Some(view) = live.views().get_mut(&release.release.name) {
            view.judgement = Some(judgement);
        }
    }

    /// A new epoch in the snapshot is the next round.
    fn follow(&mut self, release: &ReleaseLive, now: Duration) {
        let Some(last) = self.rounds.back_mut() else { return };
        if last.epoch.id == release.epoch.id {
            return;
        }
        let weight = release.force.weight();
        last.ended = Some(now);
        let raised = if weight > last.weight { Round::Raised } else { Round::Other };
        let why = if weight == last.weight { self.renewing.take().unwrap_or(Round::Other) } else { raised };
        self.rounds.push_back(RoundOfEpoch { epoch: release.epoch.clone(), weight, why, ended: None });
    }

    /// Feeds the judge with what has become final, round by round.
    fn take_final(&mut self, now: Duration) {
        while let Some(round) = self.rounds.front() {
            let (judge, onset, calm_until) = (&mut self.judge, &mut self.onset, &mut self.calm_until);
            round.epoch.judge(now, self.deadline, |of| {
                let interval = interval(&of);
                if interval.failed.new > 0 {
                    note_failure(onset, interval.end.saturating_sub(round.epoch.tick()));
                }
                judge.push(&interval);
                if judge.errors().e_value() <= CALM {
                    *calm_until = interval.end;
                }
            });
            let over = round.ended.is_some_and(|ended| round.epoch.judged_beyond(ended));
            if !over || self.rounds.len() == 1 {
                return;
            }
            self.rounds.pop_front();
            if let Some(next) = self.rounds.front() {
                self.judge.round(next.why, next.weight.ratio());
            }
        }
    }

    fn act(&mut self, live: &Live, release: &ReleaseLive, judgement: &mut Judgement, now: Duration) {
        let held = release.force.weight() == Weight::ZERO && release.release.segments.is_empty();
        if release.state == crate::domain::rollout::State::RolledBack {
            judgement.state = State::Tripped;
            return;
        }
        let Verdict::Breach(cause) = judgement.verdict else { return };
        if held || !release.release.watchdog.enabled {
            judgement.state = State::Quiet;
            judgement.reason = match held {
                true => "nobody is in new".to_owned(),
                false => format!("switched off; it would have acted: {}", judgement.reason),
            };
            return;
        }
        // Frozen already: only a stable that has come back makes a difference, and asking it takes a while.
        let frozen = release.state == crate::domain::rollout::State::Frozen;
        if frozen && now < self.probed + PROBE_AGAIN {
            return;
        }
        self.probed = now;
        let sign =
            if release.stable.takes_connections(PROBE) { StableSign::Answers } else { StableSign::Silent };
        let call = TripCall {
            cause,
            origin: Origin { actor: "watchdog".into(), reason: None },
            detail: judgement.reason.clone(),
            evidence: evidence(&judgement.evidence, cause),
            onset: self
                .onset
                .map(|o| if cause == Cause::Errors { o.first.max(self.calm_until) } else { o.first }),
            stable: sign,
        };
        // A release that has just left the plan needs no trip.
        let _ = live.trip(&release.release.name, call);
    }
}

fn limits(release: &ReleaseLive) -> Limits {
    let of = &release.release.watchdog;
    Limits { alpha: of.alpha, errors_max: of.errors_max, latency_p99_max: of.latency_p99_max }
}

fn note_failure(onset: &mut Option<Onset>, at: Duration) {
    *onset = Some(match *onset {
        Some(o) if at.saturating_sub(o.last) <= ONSET_GAP => Onset { first: o.first, last: at },
        _ => Onset { first: at, last: at },
    });
}

fn interval(of: &Final) -> Interval {
    let both = |read: fn(&crate::live::epoch::FinalCounts) -> u64| Pair::new(read(&of.new), read(&of.stable));
    Interval {
        end: of.end,
        requests: both(|c| c.requests - c.excused.min(c.requests)),
        failed: both(|c| c.failed),
        users_failed: of.new.users_failed,
        gave_up_stable: of.stable.gave_up,
        users: Users {
            entered: both(|c| c.entered),
            entered_failed: both(|c| c.entered_failed),
            entered_as: of.entered_as,
            first_failures: std::array::from_fn(|i| {
                Pair::new(of.new.first_failures[i], of.stable.first_failures[i])
            }),
        },
    }
}

/// The numbers behind a verdict, as the ledger keeps them.
fn evidence(of: &Evidence, cause: Cause) -> Value {
    let ms = |d: Option<Duration>| d.map(|d| d.as_secs_f64() * 1e3);
    let arm = |requests: u64, bad: u64, p99: Option<Duration>| json!({"requests": requests, "failures": bad, "p99_ms": ms(p99)});
    json!({
        "cause": cause.label(),
        "window_s": of.window.as_secs(),
        "new": arm(of.minute.requests.new, of.minute.bad.new, of.p99_new),
        "stable": arm(of.minute.requests.stable, of.minute.bad.stable, of.p99_stable),
        "last_10s": {
            "new": {"requests": of.recent.requests.new, "failures": of.recent.bad.new},
            "stable": {"requests": of.recent.requests.stable, "failures": of.recent.bad.stable},
        },
        "slow": {"new": of.slow.bad.new, "of_new": of.slow.requests.new, "stable": of.slow.bad.stable, "of_stable": of.slow.requests.stable},
        "errors_max": of.errors_max,
        "latency_p99_max_ms": ms(Some(of.latency_p99_max)),
        "alpha": of.alpha,
        "e_value": of.e_value,
        "e_value_carried": of.carried,
        "wealth_first": of.first,
        "wealth_once": of.once,
        "users_clean": {"new": of.clean.new, "stable": of.clean.stable},
        "share": of.share,
    })
}
