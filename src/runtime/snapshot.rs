//! The snapshot under which a request is decided, sent and counted, with all handles resolved.
//!
//! Invariants: immutable once published.
//! A request loads it once and keeps it to its end, so a reload or a trip during a request does not
//! affect that request.
//! Every index of the plan is valid here.

use crate::domain::config::{Config, Release, Target};
use crate::domain::decide::Effective;
use crate::domain::maintenance::Maintenance;
use crate::domain::rollout::{Hold, RolloutState};
use crate::domain::wave::{Exposure, Wave};
use crate::runtime::release_counters::ReleaseCounters;
use crate::runtime::routes::RouteTable;
use crate::stats::arm::Arm;
use crate::stats::cohort::Weight;
use crate::stats::engine::STRATA_MAX;
use crate::telemetry::counters::{ArmCounters, OutcomeCounts};
use crate::upstream::server::UpstreamState;
use http::HeaderValue;
use std::sync::Arc;
use std::time::Duration;

pub struct Snapshot {
    /// Increases with each configuration that comes into force.
    pub revision: u64,
    pub config: Arc<Config>,
    pub table: Arc<RouteTable>,
    /// By index of [`Config::routes`].
    pub routes: Arc<Vec<RouteSnapshot>>,
    /// By index of [`Config::upstreams`].
    pub upstreams: Vec<Arc<UpstreamState>>,
    /// By index of [`Config::releases`].
    pub releases: Vec<Arc<ReleaseSnapshot>>,
}

impl Snapshot {
    /// To be called on publication: exchanges on a held `new` have a deadline.
    pub fn publish_holds(&self) {
        for running in &self.releases {
            running.counters.under_way.publish(running.release.attempt, running.effective == Effective::Held);
        }
    }
}

pub struct ReleaseSnapshot {
    pub release: Arc<Release>,
    pub effective: Effective,
    pub hold: Option<Hold>,
    pub state: RolloutState,
    /// The reach that the file gives at this point of its plan; in force unless a hold prevents it.
    pub exposure: Exposure,
    /// Index of the current wave; `None` before the first one, and for a weight set by hand.
    pub present: Option<usize>,
    /// The last wave passed its gates.
    pub finished: bool,
    pub paused: bool,
    /// Ceilings only report, and waves hold; with the monotonic time of its end.
    pub maintenance: Option<(Maintenance, Duration)>,
    /// Constant while one wave bakes, over restarts too; unique in the state directory.
    pub stage: u64,
    /// Since when it is complete; `None`: it is not.
    pub complete_since_ms: Option<i64>,
    pub stable: Arc<UpstreamState>,
    pub new: Arc<UpstreamState>,
    pub counters: Arc<ReleaseCounters>,
    /// Unchanged as long as the inputs of a user's arm are unchanged; unique in the process.
    pub epoch: u64,
    /// The names of its routes that the watchdog judges separately: at most [`STRATA_MAX`].
    pub strata: Arc<[Arc<str>]>,
    /// Identifies the watchdog's evidence: changes with attempt, resume and salt, not with the
    /// weight.
    pub evidence_id: u64,
    /// Value of `x-grayling-release`.
    pub header: HeaderValue,
}

impl ReleaseSnapshot {
    /// The routes of a release (by its index) that are judged separately, each name once, in file
    /// order: its critical ones, and the first of the others while there is room.
    pub fn strata(config: &Config, release: usize) -> Arc<[Arc<str>]> {
        let of = &config.releases[release];
        let is_critical = |name: &str| of.critical.iter().any(|critical| critical == name);
        let mut names: Vec<&str> = vec![];
        for route in config.routes.iter().filter(|route| route.target == Target::Release(release)) {
            if !names.contains(&route.name.as_str()) {
                names.push(&route.name);
            }
        }
        let critical = names.iter().filter(|name| is_critical(name)).count();
        let mut room = if of.watchdog.by_route { STRATA_MAX.saturating_sub(critical) } else { 0 };
        let chosen = names.into_iter().filter(|name| {
            let others = !is_critical(name);
            let has_room = room > 0;
            room = room.saturating_sub(usize::from(others));
            !others || has_room
        });
        chosen.take(STRATA_MAX).map(Arc::from).collect()
    }

    /// The current wave.
    pub fn wave(&self) -> Option<&Wave> {
        self.release.waves.get(self.present?)
    }

    /// A short text for the point of the plan that the file gives now.
    pub fn sentence(&self) -> String {
        let weight = self.exposure.weight;
        match self.wave() {
            Some(wave) => format!("wave `{}` of the file: {weight}{}", wave.name, self.told_back()),
            None if self.release.waves.is_empty() => {
                format!("the file says {}{}", self.weight_in_file(), self.told_back())
            }
            None => "before the first wave of the file".to_owned(),
        }
    }

    /// The weight that the file gives at this point of its plan, including the users held back.
    pub fn weight_in_file(&self) -> Weight {
        match self.release.weight_by_hand() {
            Some(weight) => weight,
            None => self.wave().map_or(Weight::ZERO, |wave| wave.exposure.weight),
        }
    }

    /// The share of users that `holdback` keeps on stable now.
    pub fn held_back(&self) -> Weight {
        Weight::from_parts(self.weight_in_file().parts().saturating_sub(self.exposure.weight.parts()))
    }

    fn told_back(&self) -> String {
        match self.held_back() {
            Weight::ZERO => String::new(),
            back => format!(" ({back} is held back on stable)"),
        }
    }

    /// Remaining time of the alarms; `None`: it is not complete.
    pub fn soak_left(&self, at_ms: i64) -> Option<Duration> {
        let since = self.complete_since_ms?;
        let passed = Duration::from_millis(u64::try_from(at_ms.saturating_sub(since)).unwrap_or(0));
        Some(self.release.soak.saturating_sub(passed))
    }

    /// It is complete, and the time of its alarms is over.
    pub fn is_soaked(&self, at_ms: i64) -> bool {
        self.soak_left(at_ms).is_some_and(|left| left.is_zero())
    }

    /// The wave after the current one.
    pub fn next_wave(&self) -> Option<&Wave> {
        self.release.waves.get(self.present.map_or(0, |i| i + 1))
    }

    pub fn upstream(&self, arm: Arm) -> &Arc<UpstreamState> {
        match arm {
            Arm::Stable => &self.stable,
            Arm::New => &self.new,
        }
    }
}

pub struct RouteSnapshot {
    pub name: Arc<str>,
    pub target: Target,
    pub counts: RouteCounts,
    /// It would lead users to the servers of a standing trip: answered 503.
    pub barred: bool,
    /// Its number among the routes of its release that the watchdog judges separately.
    pub stratum: Option<u8>,
}

/// `grayling_requests_total` of a route.
pub enum RouteCounts {
    /// By arm, then by cohort: each of the release's segments, then "weight", then "none".
    Release([Vec<Arc<OutcomeCounts>>; 2]),
    /// Routed to an upstream directly: release, arm and cohort are "none".
    Upstream { counts: Arc<OutcomeCounts>, counters: Arc<ArmCounters> },
}

/// The users of a count: the label `cohort`, and an index into [`RouteCounts::Release`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CohortLabel {
    Segment(usize),
    Weight,
    None,
}

impl CohortLabel {
    pub fn index(self, release: &Release) -> usize {
        match self {
            CohortLabel::Segment(i) => i,
            CohortLabel::Weight => release.segments.len(),
            CohortLabel::None => release.segments.len() + 1,
        }
    }

    pub fn all(release: &Release) -> impl Iterator<Item = CohortLabel> + use<'_> {
        (0..release.segments.len()).map(CohortLabel::Segment).chain([CohortLabel::Weight, CohortLabel::None])
    }

    pub fn label(self, release: &Release) -> &str {
        match self {
            CohortLabel::Segment(i) => &release.segments[i].name,
            CohortLabel::Weight => "weight",
            CohortLabel::None => "none",
        }
    }
}
