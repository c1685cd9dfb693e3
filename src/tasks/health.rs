//! Active health checks: each server of an upstream with `health` is probed at intervals.
//!
//! Invariants: probes run on the control plane's thread, never on a worker's.
//! One task per server, one probe of a server at a time, at most `AT_ONCE` in all.
//! Probe results affect only the choice of servers: probes are synthetic and not randomised, so
//! they are no evidence for or against an arm, no sign of life, and do not count for a circuit
//! breaker. Tasks end when this is dropped.

use crate::domain::config::Health;
use crate::runtime::snapshot::Snapshot;
use crate::telemetry::log::Log;
use crate::telemetry::random::Random;
use crate::telemetry::throttle::Throttle;
use crate::upstream::health::{ProbeResult, probe};
use crate::upstream::server::ServerState;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

/// Failures in a row that take a server out, successes that bring it back.
const FALL: u32 = 3;
const RISE: u32 = 2;
/// The time limit of a probe is the interval, within these bounds.
const TIMEOUT_MIN: Duration = Duration::from_secs(1);
const TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// Each probe takes a file descriptor.
const AT_ONCE: usize = 256;

/// All probes; owned by the control plane.
pub struct HealthProbes {
    log: Log,
    room: Arc<Semaphore>,
    /// By the id of the server.
    running: HashMap<u64, RunningProbe>,
    stopped: bool,
}

struct RunningProbe {
    server: Arc<ServerState>,
    health: Health,
    task: AbortHandle,
}

impl Drop for RunningProbe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthProbes {
    pub fn new(log: Log) -> HealthProbes {
        HealthProbes { log, room: Arc::new(Semaphore::new(AT_ONCE)), running: HashMap::new(), stopped: false }
    }

    /// Applies the probes of this snapshot.
    /// A server that stays keeps its state; a server that is no longer probed is up.
    pub fn follow(&mut self, snapshot: &Snapshot) {
        if self.stopped {
            return;
        }
        let mut before = std::mem::take(&mut self.running);
        for upstream in &snapshot.upstreams {
            let Some(health) = &upstream.config.health else { continue };
            for server in &upstream.servers {
                let kept = before.remove(&server.id).filter(|r| r.health == *health);
                let running = kept.unwrap_or_else(|| {
                    let (name, room) = (upstream.config.name.clone(), self.room.clone());
                    let task = watch(self.log.clone(), room, name, server.clone(), health.clone());
                    let task = tokio::spawn(task).abort_handle();
                    RunningProbe { server: server.clone(), health: health.clone(), task }
                });
                self.running.insert(server.id, running);
            }
        }
        // On this thread no code of theirs can run between the two calls.
        for (_, left) in before {
            left.task.abort();
            left.server.set_down(None);
        }
    }

    /// Stops all probes permanently.
    pub fn stop(&mut self) {
        self.stopped = true;
        self.running.clear();
    }

    pub fn stopped(&self) -> bool {
        self.stopped
    }
}

/// Probes one server until it is aborted.
async fn watch(log: Log, room: Arc<Semaphore>, upstream: String, server: Arc<ServerState>, health: Health) {
    let within = health.interval.clamp(TIMEOUT_MIN, TIMEOUT_MAX);
    let mut streak = ProbeStreak::new(server.down());
    // A flapping server does not flood the log, and its last state is still logged.
    let throttle = Throttle::default();
    loop {
        let Ok(permit) = room.acquire().await else { return };
        let began = Instant::now();
        let probed = probe(&server, &health, within).await;
        drop(permit);
        let changed = match &probed {
            ProbeResult::Well => {
                // It has accepted a connection just now.
                server.accepted();
                streak.well()
            }
            ProbeResult::Sick(_) => streak.sick(),
            ProbeResult::Unknown => false,
        };
        match probed {
            ProbeResult::Sick(why) if streak.down => server.set_down(Some(why)),
            ProbeResult::Well if changed => server.set_down(None),
            _ => {}
        }
        if let Some(changes) = throttle.due(changed) {
            let (event, why) =
                if streak.down { ("server_down", server.why_down()) } else { ("server_up", None) };
            let told = json!({"upstream": upstream, "server": server.server.to_string(), "changes": changes,
                              "reason": why.map_or_else(|| "its health probes succeed".to_string(), |w| w.to_string())});
            log.event(event, told);
        }
        sleep_until(began + jittered(health.interval)).await;
    }
}

/// Up to a tenth more or less, so that many proxies, or many servers of one, do not synchronise.
fn jittered(interval: Duration) -> Duration {
    interval * Random::default().between((9_000, 11_000)) as u32 / 10_000
}

/// Results in a row.
struct ProbeStreak {
    down: bool,
    /// The number of results in a row that contradict `down`.
    against: u32,
}

impl ProbeStreak {
    fn new(down: bool) -> ProbeStreak {
        ProbeStreak { down, against: 0 }
    }

    fn well(&mut self) -> bool {
        self.saw(false, RISE)
    }

    fn sick(&mut self) -> bool {
        self.saw(true, FALL)
    }

    /// Adds a result; returns whether `down` changed.
    fn saw(&mut self, sick: bool, enough: u32) -> bool {
        self.against = if sick == self.down { 0 } else { self.against + 1 };
        let changed = self.against >= enough;
        if changed {
            *self = ProbeStreak::new(sick);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_so_many_in_a_row_change_anything(answers in proptest::collection::vec(any::<bool>(), 0..60)) {
            let mut streak = ProbeStreak::new(false);
            for (n, sick) in answers.iter().enumerate() {
                let before = streak.down;
                let changed = if *sick { streak.sick() } else { streak.well() };
                prop_assert_eq!(changed, streak.down != before);
                let enough = if before { RISE } else { FALL } as usize;
                let row = answers[..=n].iter().rev().take_while(|a| **a == *sick).count();
                prop_assert!(!changed || (row >= enough && *sick != before));
                prop_assert!(changed || *sick == before || row < enough);
            }
        }
    }

    #[test]
    fn the_next_probe_comes_after_the_interval_give_or_take_a_tenth() {
        let times: Vec<_> = (0..1000).map(|_| jittered(Duration::from_secs(1)).as_millis()).collect();
        assert!(times.iter().all(|ms| (900..=1100).contains(ms)), "{times:?}");
        assert!(times.iter().any(|ms| *ms < 950) && times.iter().any(|ms| *ms > 1050), "{times:?}");
    }
}
