//! The last hour of every release, so that a page opened later shows the development.
//!
//! One point each [`STEP`], with the counts since the point before, for both arms.
//! It is kept in memory only.
//!
//! Invariants: memory is bounded (720 points of under 100 bytes for each of at most 256 releases).
//! Times are monotonic inside and converted to wall clock on output, so they ascend whatever the
//! wall clock does. A figure without requests is `null`.

use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::arm::Arm;
use crate::telemetry::clock;
use crate::telemetry::sliding_window::PeriodCounts;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

pub const STEP: Duration = Duration::from_secs(5);
/// An hour.
const POINTS_MAX: usize = 720;
/// Further releases have no history.
const RELEASES_MAX: usize = 256;

#[derive(Default)]
pub struct History(BTreeMap<String, Track>);

#[derive(Default)]
struct Track {
    last: Option<Totals>,
    points: VecDeque<Point>,
}

struct Totals {
    arms: [PeriodCounts; 2],
    at: Duration,
}

struct Point {
    /// Monotonic; the end of the interval.
    at: Duration,
    /// In force, in percent.
    weight: f32,
    /// Of the watchdog's strongest signal: 0 none, 1 trips.
    evidence: Option<f32>,
    /// Distinct users of the last five minutes, as [stable, new].
    users: [u32; 2],
    arms: [HistoryFigures; 2],
}

#[derive(Clone, Copy, Default)]
struct HistoryFigures {
    /// Requests a second.
    rate: f32,
    error_ratio: Option<f32>,
    p50_ms: Option<f32>,
    p99_ms: Option<f32>,
}

impl HistoryFigures {
    fn of(counted: &PeriodCounts, took: Duration) -> HistoryFigures {
        let ms = |q: f64| counted.latency.quantile(q).map(|d| (d.as_secs_f64() * 1e3) as f32);
        let ratio = counted.failures as f64 / counted.requests.max(1) as f64;
        HistoryFigures {
            rate: (counted.requests as f64 / took.as_secs_f64().max(1e-3)) as f32,
            error_ratio: (counted.requests > 0).then_some(ratio as f32),
            p50_ms: ms(0.5),
            p99_ms: ms(0.99),
        }
    }
}

impl History {
    /// Records the counts since the last call, with the `evidence` of the watchdog's strongest
    /// signal by release. Returns the new points as JSON.
    pub fn observe<'a>(
        &mut self,
        releases: impl Iterator<Item = &'a ReleaseSnapshot>,
        evidence: &BTreeMap<String, f64>,
        now: Duration,
    ) -> Value {
        let mut told = Map::new();
        let mut before = std::mem::take(&mut self.0);
        for release in releases.take(RELEASES_MAX) {
            let name = &release.release.name;
            let mut track = before.remove(name).unwrap_or_default();
            let arms = Arm::BOTH.map(|arm| PeriodCounts::of(release.counters.arm(arm)));
            if let Some(last) = track.last.take() {
                let took = now.saturating_sub(last.at);
                let figures = [0, 1].map(|i: usize| HistoryFigures::of(&arms[i].since(&last.arms[i]), took));
                let users = Arm::BOTH
                    .map(|arm| u32::try_from(release.counters.arm(arm).distinct_users()).unwrap_or(u32::MAX));
                let point = Point {
                    at: now,
                    weight: release.effective.weight().percent() as f32,
                    evidence: evidence.get(name).map(|e| *e as f32),
                    users,
                    arms: figures,
                };
                told.insert(name.clone(), columns(std::iter::once(&point), now));
                track.points.push_back(point);
                if track.points.len() > POINTS_MAX {
                    track.points.pop_front();
                }
            }
            track.last = Some(Totals { arms, at: now });
            self.0.insert(name.clone(), track);
        }
        json!({"step_s": STEP.as_secs(), "releases": told})
    }

    /// The whole history, or that of one release, in columns.
    pub fn points(&self, release: Option<&str>, now: Duration) -> Value {
        let wanted = self.0.iter().filter(|(name, _)| release.is_none_or(|r| r == **name));
        let told: Map<String, Value> =
            wanted.map(|(name, track)| (name.clone(), columns(track.points.iter(), now))).collect();
        json!({"step_s": STEP.as_secs(), "releases": told})
    }
}

/// Four significant digits are enough, and halve the size of the response.
fn short(value: f32) -> f64 {
    let unit = 10f64.powi(3 - f64::from(value.abs().max(1e-6)).log10().floor() as i32);
    (f64::from(value) * unit).round() / unit
}

/// `at` in seconds since the Unix epoch.
fn columns<'a>(points: impl Iterator<Item = &'a Point> + Clone, now: Duration) -> Value {
    let wall = clock::at_ms();
    let at = |p: &Point| (wall - now.saturating_sub(p.at).as_millis() as i64) as f64 / 1e3;
    let arm = |i: usize| {
        let of = points.clone().map(move |p| p.arms[i]);
        json!({
            "rate": of.clone().map(|f| short(f.rate)).collect::<Vec<_>>(),
            "error_ratio": of.clone().map(|f| f.error_ratio.map(short)).collect::<Vec<_>>(),
            "p50_ms": of.clone().map(|f| f.p50_ms.map(short)).collect::<Vec<_>>(),
            "p99_ms": of.map(|f| f.p99_ms.map(short)).collect::<Vec<_>>(),
            "users": points.clone().map(|p| p.users[i]).collect::<Vec<_>>(),
        })
    };
    json!({
        "at": points.clone().map(at).collect::<Vec<_>>(),
        "weight": points.clone().map(|p| short(p.weight)).collect::<Vec<_>>(),
        "evidence": points.clone().map(|p| p.evidence.map(short)).collect::<Vec<_>>(),
        "stable": arm(Arm::Stable.index()),
        "new": arm(Arm::New.index()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_short_and_not_bent() {
        let told = [0.0, 1.0, 0.000_583_2, 22.345_678, 99.99, 1234.56, 87_654.3].map(short);
        assert_eq!(told, [0.0, 1.0, 0.000_583_2, 22.35, 99.99, 1235.0, 87_650.0]);
    }

    #[test]
    fn an_arm_without_a_request_has_a_rate_and_nothing_else() {
        let idle = HistoryFigures::of(&PeriodCounts::default(), STEP);
        assert_eq!(idle.rate, 0.0);
        assert!(idle.error_ratio.is_none() && idle.p50_ms.is_none() && idle.p99_ms.is_none());
        let mut busy = PeriodCounts { requests: 50, failures: 5, ..PeriodCounts::default() };
        busy.latency.counts[10] = 50;
        let busy = HistoryFigures::of(&busy, STEP);
        assert_eq!((busy.rate, busy.error_ratio), (10.0, Some(0.1)));
    }
}
