//! Waves: several times a second it looks, for each release with a plan, whether the next wave may open. All thinking is in `domain` (`rollout::climb`, `gate`); here is only the
//! gathering of what they judge from, and the handing over of what they decide.
//!
//! Invariants: what it knows of time is monotonic; what the watchdog has not looked at for a while is not known; it opens nothing by itself but through the one writer,
//! which checks again that the stage is the same.

use crate::domain::decide::Arm;
use crate::domain::engine::Blindness;
use crate::domain::engine::cell::Pair;
use crate::domain::gate::{DoorState, Hours, Input, Proof, Servers, Sight, Watchdog};
use crate::domain::rollout::climb::{Act, Climb, Standing};
use crate::domain::verdict::Verdict;
use crate::domain::wave::Wave;
use crate::live::apply::{Live, Phase, Shown, View};
use crate::live::snapshot::ReleaseLive;
use crate::live::{clock, resources};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const PERIOD: Duration = Duration::from_millis(200);
/// What the watchdog said longer ago is not what it says.
const STALE: Duration = Duration::from_secs(3);

/// Until it is dropped.
pub async fn run(live: Arc<Live>) {
    let mut climbs = BTreeMap::new();
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        period.tick().await;
        // Nothing begins while the proxy starts, or ends.
        if live.gauges.phase() != Phase::Serving {
            continue;
        }
        look(&live, &mut climbs, clock::now(), clock::at_ms());
    }
}

fn look(live: &Live, climbs: &mut BTreeMap<String, Climb>, now: Duration, at_ms: i64) {
    let snapshot = live.snapshot();
    let planned =
        |name: &str| snapshot.releases.iter().any(|r| r.release.name == name && !r.release.waves.is_empty());
    climbs.retain(|name, _| planned(name));
    let durable = live.state_error().is_none();
    for release in snapshot.releases.iter().filter(|r| !r.release.waves.is_empty()) {
        let name = &release.release.name;
        let climb = climbs.entry(name.clone()).or_insert_with(|| Climb::new(release.stage, now));
        // Nothing is judged before the watchdog has taken up this stage.
        let shown =
            live.views().get(name).and_then(|view| view.shown).filter(|shown| shown.stage == release.stage);
        let (watched, before) = shown.map(|shown| (shown.watched, shown.before)).unwrap_or_default();
        let standing = Standing {
            stage: release.stage,
            waves: &release.release.waves,
            present: release.present,
            finished: release.finished,
            held: release.hold.is_some(),
            paused: release.paused,
            watched,
            before,
        };
        let proof = match (release.wave(), shown) {
            (Some(wave), Some(shown)) => {
                live.views().get(name).and_then(|view| proof(release, wave, view, &shown, now)).map(Some)
            }
            (None, Some(_)) => Some(None),
            (_, None) => None,
        };
        let barred_by = live.barred_by(release);
        let input = proof.map(|proof| Input { proof, door: door(release, at_ms), durable, barred_by });
        let outlook = climb.look(&standing, input, now);
        if outlook.act != Act::Wait {
            // Where the stage is over already, the next look sees the next one.
            let _ = live.advance(name, release.stage, &outlook);
        }
        if let Some(view) = live.views().get_mut(name) {
            view.outlook = Some((release.stage, outlook));
        }
    }
}

/// `None` until the wave has shown something.
fn proof(release: &ReleaseLive, wave: &Wave, view: &View, shown: &Shown, now: Duration) -> Option<Proof> {
    let reading = shown.reading?;
    let fresh = view.judgement.as_ref().filter(|_| now.saturating_sub(view.looked) < STALE);
    let watchdog = match fresh {
        Some(judgement) => Watchdog {
            state: Some(judgement.state),
            passes: judgement.verdict == Verdict::Pass,
            reason: judgement.reason.clone(),
            e_value: judgement.evidence.e_value,
            e_notice: judgement.evidence.e_notice,
            alpha: judgement.evidence.alpha,
            sight: sight(release, judgement.evidence.blindness),
        },
        None => Watchdog {
            state: None,
            passes: false,
            reason: String::new(),
            e_value: 0.0,
            e_notice: 0.0,
            alpha: 1.0,
            sight: sight(release, None),
        },
    };
    let of = |arm: Arm| release.upstream(arm);
    Some(Proof {
        controlled: wave.controlled(),
        baked: shown.watched,
        bake: wave.bake,
        requests_min: wave.requests_min,
        users_min: wave.users_min,
        margins: release.release.watchdog.margins,
        share: wave.reach.weight.ratio(),
        reading,
        servers: Servers {
            all: Pair::new(of(Arm::New).servers.len() as u64, of(Arm::Stable).servers.len() as u64),
            healthy: Pair::new(of(Arm::New).healthy() as u64, of(Arm::Stable).healthy() as u64),
        },
        watchdog,
        resources: resources::grounds(release, view, now),
    })
}

fn sight(release: &ReleaseLive, blindness: Option<Blindness>) -> Option<Sight> {
    let of = &release.release.watchdog;
    of.hold_when_blind.then_some(Sight { blindness, latency_notice: of.latency_notice })
}

fn door(release: &ReleaseLive, at_ms: i64) -> Option<DoorState> {
    let next = release.next_wave()?;
    let hours = release.release.open_hours.as_ref().map(|hours| Hours {
        text: hours.to_string(),
        open: hours.hold(at_ms),
        next: hours.next(at_ms),
    });
    Some(DoorState { door: next.door, hours })
}
