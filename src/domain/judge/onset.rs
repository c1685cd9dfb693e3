//! The counts behind a trip: since when `new` has been bad, and how many requests of both arms were
//! bad since then, by signal, route and server of `new`.
//!
//! A ring of one-second cells over the last ten minutes has the results of the requests that
//! arrived in each. The onset is the most likely change point: the second from which a separate
//! share explains the bad requests of `new` best, compared with stable's usual share; within that
//! second, its first bad request. Nothing here decides: it describes a decision.
//!
//! Invariants: pure, time is an argument. Memory is bounded by [`CELLS`] cells of `GROUPS_MAX`
//! groups. A request counts in the second of its arrival. A route or server beyond the bound counts
//! as no route and no server.

use crate::stats::arm::Arm;
use crate::stats::engine::{EventKind, RequestEvent, Signal};
use crate::stats::first_event::FirstEventKind;
use std::collections::VecDeque;
use std::time::Duration;

/// Seconds that are kept.
pub const CELLS: usize = 600;
/// Groups (arm, route, server) per second.
const GROUPS_MAX: usize = 64;
/// Seconds for the current share of `new`.
const NOW: usize = 10;
/// Seconds after which a request of stable without an answer counts as bad.
const WAITED: u64 = 1;
/// The trouble is of one server if that has this share of the bad requests beyond the usual ones,
/// and at most `OF_ONE_ALL` of all requests.
const OF_ONE_BAD: f64 = 0.9;
const OF_ONE_ALL: f64 = 0.7;
/// And at its share of bad requests the others would have so many standard errors more than they
/// have.
const OF_ONE_SIGMAS: f64 = 3.0;
const NEVER: u32 = u32::MAX;
const KINDS: usize = 7;

/// Why a request is bad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadReason {
    Signal(Signal),
    /// Above the ceiling of latency.
    OverMax,
}

impl BadReason {
    fn index(self) -> usize {
        match self {
            BadReason::Signal(signal) => signal as usize,
            BadReason::OverMax => KINDS - 1,
        }
    }

    /// Does it count ended exchanges, or all requests?
    fn of_ended(self) -> bool {
        matches!(self, BadReason::Signal(Signal::Duration | Signal::Empty))
    }

    /// Can a request become bad by waiting for its answer?
    fn by_waiting(self) -> bool {
        matches!(self, BadReason::Signal(Signal::Errors | Signal::Latency) | BadReason::OverMax)
    }

    pub fn label(self) -> &'static str {
        match self {
            BadReason::Signal(signal) => signal.cause().label(),
            BadReason::OverMax => "latency_p99_max",
        }
    }
}

/// The limits above which answers are slow.
#[derive(Clone, Copy, Default, Debug)]
pub struct SlowFrom {
    /// By stable's usual latency; `None`: not known yet.
    pub usual: Option<Duration>,
    /// By the ceiling.
    pub max: Option<Duration>,
}

/// Requests of one arm.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct ArmCountsSince {
    pub requests: u64,
    pub bad: u64,
    /// The requests without an answer yet.
    pub waiting: u64,
}

impl ArmCountsSince {
    pub fn ratio(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.bad as f64 / self.requests as f64 }
    }

    fn wait_ratio(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.waiting as f64 / self.requests as f64 }
    }
}

/// The counts behind a decision.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DecisionCounts {
    pub by: BadReason,
    /// Arrival of the first request that counted, and how long before the look.
    pub onset: Duration,
    pub lasted: Duration,
    /// By number; `None`: all routes.
    pub route: Option<u8>,
    /// The one server of `new` that has the trouble, by number; `None`: more than one.
    pub server: Option<u8>,
    pub new: ArmCountsSince,
    pub stable: ArmCountsSince,
    /// Stable's share before the onset.
    pub stable_usual: f64,
    /// The latency above which answers are slow.
    pub limit: Option<Duration>,
}

impl DecisionCounts {
    /// True if far more requests of `new` than of stable have no answer yet.
    pub fn waits(&self) -> bool {
        let DecisionCounts { new, stable, .. } = self;
        new.waiting > 0
            && new.wait_ratio() >= 0.2
            && new.wait_ratio() >= 3.0 * stable.wait_ratio()
            && self.by.by_waiting()
    }

    /// Does stable show the same, in its `recent` requests?
    pub fn is_shown_by(&self, recent: &ArmCountsSince) -> bool {
        let shown = ArmCountsSince {
            bad: self.new.bad + if self.by.by_waiting() { self.new.waiting } else { 0 },
            ..self.new
        };
        let half = recent.ratio() >= 0.5 * shown.ratio() && shown.bad > 0;
        let unusual = recent.ratio() >= 5.0 * self.stable_usual.max(0.001);
        recent.bad >= 5 && (half || unusual)
    }
}

#[derive(Clone, Copy, Debug)]
struct OnsetCounts {
    arrived: u32,
    excused: u32,
    /// Answered or failed.
    out: u32,
    ended: u32,
    bad: [u32; KINDS],
    /// Arrival of the first bad one within the second, in µs.
    first: [u32; KINDS],
}

impl Default for OnsetCounts {
    fn default() -> Self {
        OnsetCounts { arrived: 0, excused: 0, out: 0, ended: 0, bad: [0; KINDS], first: [NEVER; KINDS] }
    }
}

impl OnsetCounts {
    fn was_bad(&mut self, by: BadReason, at: Duration) {
        let i = by.index();
        self.bad[i] += 1;
        self.first[i] = self.first[i].min(at.subsec_micros());
    }
}

/// Arm, route + 1 and server + 1, packed.
type OnsetKey = u16;
const SERVER_BITS: u32 = 8;
const ARM_BIT: u32 = 15;

fn key(arm: Arm, route: Option<u8>, server: Option<u8>) -> OnsetKey {
    let plus_one = |n: Option<u8>, max: u8| n.filter(|n| *n < max).map_or(0, |n| OnsetKey::from(n) + 1);
    (arm.index() as OnsetKey) << ARM_BIT | plus_one(route, 127) << SERVER_BITS | plus_one(server, 255)
}

fn arm_of(key: OnsetKey) -> usize {
    usize::from(key >> ARM_BIT)
}

fn route_of(key: OnsetKey) -> Option<u8> {
    ((key >> SERVER_BITS & 127) as u8).checked_sub(1)
}

fn server_of(key: OnsetKey) -> Option<u8> {
    ((key & 255) as u8).checked_sub(1)
}

#[derive(Clone, Debug, Default)]
struct OnsetCell {
    keys: Vec<OnsetKey>,
    counts: Vec<OnsetCounts>,
}

impl OnsetCell {
    fn of(&mut self, key: OnsetKey) -> &mut OnsetCounts {
        let known = self.keys.iter().position(|k| *k == key);
        let full = known.is_none() && self.keys.len() + 2 >= GROUPS_MAX;
        // The two groups without route and server always have room.
        let key = if full { key & 1 << ARM_BIT } else { key };
        let known = if full { self.keys.iter().position(|k| *k == key) } else { known };
        let i = known.unwrap_or_else(|| {
            self.keys.push(key);
            self.counts.push(OnsetCounts::default());
            self.keys.len() - 1
        });
        &mut self.counts[i]
    }

    fn groups(&self) -> impl Iterator<Item = (OnsetKey, &OnsetCounts)> {
        self.keys.iter().copied().zip(&self.counts)
    }

    /// The share of one arm, on one route or on all.
    fn share(&self, arm: Arm, by: BadReason, route: Option<u8>) -> ArmCountsSince {
        let (mut share, mut came, mut gone) = (ArmCountsSince::default(), 0, 0);
        for (_, counts) in self.groups().filter(|(k, _)| arm_of(*k) == arm.index() && on(*k, route)) {
            share.requests += u64::from(counts.ended);
            share.bad += u64::from(counts.bad[by.index()]);
            came += u64::from(counts.arrived);
            gone += u64::from(counts.excused);
            share.waiting += u64::from(counts.out);
        }
        if !by.of_ended() {
            share.requests = came.saturating_sub(gone);
        }
        // Up to here `waiting` holds the answered and failed ones.
        share.waiting = came.saturating_sub(gone + share.waiting);
        share
    }

    fn first(&self, arm: Arm, by: BadReason, route: Option<u8>) -> Option<u32> {
        let ours = self.groups().filter(|(k, _)| arm_of(*k) == arm.index() && on(*k, route));
        ours.map(|(_, counts)| counts.first[by.index()]).min().filter(|first| *first != NEVER)
    }
}

/// The log-likelihood ratio of `k` bad requests among `n` by their own share against the usual one;
/// 0 if they are not more than usual.
fn against(k: f64, n: f64, usual: f64) -> f64 {
    let share = k / n;
    if share <= usual {
        return 0.0;
    }
    let of_good = if n > k { (n - k) * ((1.0 - share) / (1.0 - usual)).ln() } else { 0.0 };
    k * (share / usual).ln() + of_good
}

fn on(key: OnsetKey, route: Option<u8>) -> bool {
    route.is_none() || route_of(key) == route
}

impl std::ops::AddAssign for ArmCountsSince {
    fn add_assign(&mut self, of: ArmCountsSince) {
        self.requests += of.requests;
        self.bad += of.bad;
        self.waiting += of.waiting;
    }
}

/// The last ten minutes, by second of arrival.
#[derive(Clone, Debug, Default)]
pub struct Onsets {
    cells: VecDeque<OnsetCell>,
    /// The second of the first cell.
    begins: u64,
    slow_from: SlowFrom,
}

impl Onsets {
    /// Later answers are compared with these limits.
    pub fn set_slow_from(&mut self, slow_from: SlowFrom) {
        self.slow_from = slow_from;
    }

    /// `counted`: what the end of an exchange counts as, for [`EventKind::Ended`].
    /// The servers of `new` have other numbers; `before`: the number that each had, if any. A
    /// server that is gone is no server.
    pub fn renumber(&mut self, before: &[Option<u8>]) {
        let is = |server: u8| {
            let number = before.iter().position(|was| *was == Some(server));
            number.and_then(|number| u8::try_from(number).ok())
        };
        for key_of in self.cells.iter_mut().flat_map(|cell| &mut cell.keys) {
            if let Some(server) = server_of(*key_of) {
                *key_of = key(Arm::New, route_of(*key_of), is(server));
            }
        }
    }

    pub fn push(&mut self, event: &RequestEvent, counted: impl Fn(FirstEventKind) -> bool) {
        let request = &event.request;
        let slow_from = self.slow_from;
        let Some(cell) = self.cell(request.at.as_secs()) else { return };
        let server = request.server.filter(|_| request.arm == Arm::New);
        // A request may move to another server, so its arrival counts for none.
        if let EventKind::Arrived = event.what {
            cell.of(key(request.arm, request.stratum, None)).arrived += 1;
            return;
        }
        let counts = cell.of(key(request.arm, request.stratum, server));
        let mut bad = |by: BadReason| counts.was_bad(by, request.at);
        match event.what {
            EventKind::Failed | EventKind::Broke => bad(BadReason::Signal(Signal::Errors)),
            EventKind::ClientError | EventKind::EndedAsClientError => {
                bad(BadReason::Signal(Signal::ClientErrors))
            }
            EventKind::Redirected => bad(BadReason::Signal(Signal::Redirects)),
            EventKind::Ended { .. } => {
                if counted(FirstEventKind::Long) {
                    bad(BadReason::Signal(Signal::Duration));
                }
                if counted(FirstEventKind::Empty) {
                    bad(BadReason::Signal(Signal::Empty));
                }
            }
            EventKind::Arrived | EventKind::Answered | EventKind::Excused | EventKind::Left { .. } => {}
        }
        let answered = matches!(event.what, EventKind::Answered | EventKind::Redirected);
        if answered && slow_from.usual.is_some_and(|limit| event.after > limit) {
            bad(BadReason::Signal(Signal::Latency));
        }
        if answered && slow_from.max.is_some_and(|limit| event.after > limit) {
            bad(BadReason::OverMax);
        }
        match event.what {
            EventKind::Excused | EventKind::Left { .. } => counts.excused += 1,
            EventKind::Ended { .. } | EventKind::EndedAsClientError => counts.ended += 1,
            EventKind::Broke | EventKind::Arrived => {}
            EventKind::Answered | EventKind::ClientError | EventKind::Redirected | EventKind::Failed => {
                counts.out += 1
            }
        }
    }

    fn cell(&mut self, second: u64) -> Option<&mut OnsetCell> {
        if self.cells.is_empty() || second >= self.begins + (self.cells.len() + CELLS) as u64 {
            self.cells.clear();
            self.begins = second;
        }
        // No event older than the ring is accepted.
        let index = usize::try_from(second.checked_sub(self.begins)?).ok()?;
        while self.cells.len() <= index {
            self.cells.push_back(OnsetCell::default());
        }
        let excess = self.cells.len().saturating_sub(CELLS);
        if excess > 0 {
            self.cells.drain(..excess);
            self.begins += excess as u64;
        }
        self.cells.get_mut(index - excess)
    }

    /// The counts against `new` by this reason, at a look. `route`: the route with the most
    /// evidence, if one. `usual`: the share to compare with, if not stable's own. `None`: `new` has
    /// no bad requests by this reason.
    pub fn decided(
        &self,
        by: BadReason,
        route: Option<u8>,
        usual: Option<f64>,
        now: Duration,
    ) -> Option<DecisionCounts> {
        let start = self.start(by, route, usual)?;
        let route = route.or_else(|| self.one_route(by, start));
        let cell = &self.cells[start];
        let first = cell.first(Arm::New, by, route).unwrap_or(0);
        let onset = Duration::from_secs(self.begins + start as u64) + Duration::from_micros(first.into());
        let sum = |arm: Arm, from: usize, to: usize| {
            let mut sum = ArmCountsSince::default();
            self.cells.range(from..to).for_each(|cell| sum += cell.share(arm, by, route));
            sum
        };
        let end = self.cells.len();
        Some(DecisionCounts {
            by,
            onset,
            lasted: now.saturating_sub(onset),
            route,
            server: self.one_server(by, route, start),
            new: sum(Arm::New, start, end),
            stable: sum(Arm::Stable, start, end),
            stable_usual: sum(Arm::Stable, 0, start).ratio(),
            limit: match by {
                BadReason::OverMax => self.slow_from.max,
                _ => self.slow_from.usual,
            },
        })
    }

    /// The cell in which the current trouble began.
    fn start(&self, by: BadReason, route: Option<u8>, usual: Option<f64>) -> Option<usize> {
        let bad = |share: &ArmCountsSince| share.bad + if by.by_waiting() { share.waiting } else { 0 };
        let of_new: Vec<ArmCountsSince> =
            self.cells.iter().map(|cell| cell.share(Arm::New, by, route)).collect();
        let last_bad = of_new.iter().rposition(|share| bad(share) > 0)?;
        let mut stable = ArmCountsSince::default();
        self.cells.iter().for_each(|cell| stable += cell.share(Arm::Stable, by, route));
        let of_stable = (stable.bad as f64 + 0.5) / (stable.requests as f64 + 1.0);
        let usual = usual.unwrap_or(of_stable).clamp(1e-4, 0.5);
        let (mut n, mut k, mut best) = (0, 0, (0.0, last_bad));
        for (i, share) in of_new.iter().enumerate().rev() {
            (n, k) = (n + share.requests, k + bad(share));
            // It begins with a bad request.
            if bad(share) > 0 {
                let odds = against(k as f64, n.max(k) as f64, usual);
                best = if odds >= best.0 { (odds, i) } else { best };
            }
        }
        Some(best.1)
    }

    /// The route that has nearly all bad requests, but not nearly all requests.
    fn one_route(&self, by: BadReason, start: usize) -> Option<u8> {
        self.one(by, None, start, route_of, |counts| counts.out + counts.ended, false)
    }

    /// The server of `new` that has nearly all bad requests, or the only server.
    fn one_server(&self, by: BadReason, route: Option<u8>, start: usize) -> Option<u8> {
        self.one(by, route, start, server_of, |counts| counts.out + counts.ended, true)
    }

    fn one(
        &self,
        by: BadReason,
        route: Option<u8>,
        start: usize,
        name: impl Fn(OnsetKey) -> Option<u8>,
        all: impl Fn(&OnsetCounts) -> u32,
        only: bool,
    ) -> Option<u8> {
        let mut stable = ArmCountsSince::default();
        self.cells.range(start..).for_each(|cell| stable += cell.share(Arm::Stable, by, route));
        let usual = stable.ratio();
        let mut each = [(0u64, 0u64); 256];
        for (key, counts) in self.cells.range(start..).flat_map(OnsetCell::groups) {
            let named = name(key).filter(|_| arm_of(key) == Arm::New.index() && on(key, route));
            if let Some(i) = named {
                each[usize::from(i)].0 += u64::from(all(counts));
                each[usize::from(i)].1 += u64::from(counts.bad[by.index()]);
            }
        }
        let (n, k) = each.iter().fold((0, 0), |(n, k), one| (n + one.0, k + one.1));
        let (i, (of_n, of_k)) = each.iter().enumerate().max_by_key(|(_, one)| (one.1, one.0))?;
        let seen = each.iter().filter(|one| one.0 > 0).count();
        // Bad requests that stable has, too, come to every server.
        let beyond = |n: u64, k: u64| k as f64 - usual * n as f64;
        let rest = (*of_k as f64 / (*of_n as f64).max(1.0) * (n - of_n) as f64).max(1.0);
        let rest_is_better = ((k - of_k) as f64) + OF_ONE_SIGMAS * rest.sqrt() < rest;
        let has_it = *of_k as f64 >= OF_ONE_BAD * k as f64
            || (rest_is_better && beyond(*of_n, *of_k) >= OF_ONE_BAD * beyond(n, k));
        let stands_out = k > 0 && has_it && *of_n as f64 <= OF_ONE_ALL * n as f64;
        (stands_out || (only && seen == 1)).then_some(i as u8)
    }

    /// Stable's share of the same, in at most its last ten seconds since the onset, with requests
    /// that have waited for a second as bad ones; and the arrival of the first bad one.
    pub fn of_stable(&self, decided: &DecisionCounts, now: Duration) -> (ArmCountsSince, Option<Duration>) {
        let (by, route) = (decided.by, decided.route);
        let from = decided.onset.as_secs().max(now.as_secs().saturating_sub(NOW as u64 - 1));
        let skip = usize::try_from(from.saturating_sub(self.begins)).unwrap_or(usize::MAX);
        let (mut sum, mut first) = (ArmCountsSince::default(), None);
        for (i, cell) in self.cells.iter().enumerate().skip(skip) {
            let second = self.begins + i as u64;
            let mut share = cell.share(Arm::Stable, by, route);
            if by.by_waiting() && second + WAITED < now.as_secs() {
                share.bad += share.waiting;
            }
            if share.bad > 0 && first.is_none() {
                let within = cell.first(Arm::Stable, by, route).unwrap_or(0);
                first = Some(Duration::from_secs(second) + Duration::from_micros(within.into()));
            }
            sum += share;
        }
        (sum, first)
    }
}

#[cfg(test)]
mod tests;
