//! Compares the two arms: events of requests in, evidence out.
//! The evidence may be read ten times a second for days without loss of validity.
//!
//! # Parts
//!
//! E = ¼ FIRST + ¼ ONCE + ½ WINDOW. E ≥ 1/α is a trip.
//!
//! - [`crate::stats::first_request`]: a safe log-rank test over each user's first request. It
//!   judges latency while requests hang.
//! - [`crate::stats::first_event`]: a log-rank test over each user's first failure, first client
//!   error, first very slow answer.
//! - [`crate::stats::cluster_window`]: compares clusters of users with their own past. It also
//!   covers users who were seen before, or failed before.
//!
//! Each signal has its share of E ([`SHARES`]).
//!
//! With several strata (routes), E is half the pooled E and half the mean over the strata.
//! Each stratum has its own FIRST and ONCE, so that a fault on a rare route is not diluted by a
//! busy one.
//! Any such average keeps α.
//!
//! # Draws
//!
//! The hash assigns *users* to arms.
//! H₀, "new is no worse", means: arrivals and outcomes do not depend on the arm, so the labels of
//! users are exchangeable.
//! A *draw* is a set of users whose labels are freshly randomised, with the side of each:
//!
//! - The first weight: all users.
//! - A weight above the highest so far: the users at or above that highest, movers against stayers.
//!   The wealth won so far stays and is bet further. A new budget of α is added, ten times at most
//!   in an attempt.
//! - A lower weight: users who leave `new` leave the comparison. The rest stays (a thinned sample).
//! - A weight raised again below the highest: no fresh randomisation is left. All users are drawn
//!   again. The wealth won before becomes a *summand*, because one randomisation is never
//!   multiplied twice. All such draws of an attempt share one more budget.
//!
//! # Time
//!
//! Requests are grouped by *arrival*, in intervals.
//! An interval is *final* at its end + the deadline. A request of stable that is unanswered by then
//! has failed, one of `new` is slow.
//! Counting outcomes when they happen would blame the arm with the shorter time-out.
//!
//! # Two levels
//!
//! The latency of `new` is divided by 1 + tolerance for trips, and by 1 + notice for alerts.
//! H₀ is then "no slower than that".
//!
//! Invariants: pure, time is an argument; a request counts in the draw under which it was decided,
//! or in none; closing rules never read labels; memory is bounded by the users, the requests in
//! flight and the deadline.

mod pipeline;

pub use crate::stats::engine::pipeline::{AT_ONCE, Engine};

use crate::stats::arm::Arm;
use crate::stats::cohort::Weight;
use crate::stats::servers::ServerIndex;
use crate::stats::users::UserUnit;
use std::time::Duration;

/// Odds ratios of failure, one alternative each.
pub const ERROR_ODDS: [f64; 8] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 40.0, 1000.0];
pub const LEVELS: usize = 2;
/// Routes judged as strata. Further routes are in the pooled comparison only.
pub const STRATA_MAX: usize = 16;

/// How much slower `new` may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// `latency_tolerance`. Slower is a trip.
    Flip,
    /// `latency_notice`. Slower is an alert only.
    Notice,
}

impl Level {
    pub const ALL: [Level; LEVELS] = [Level::Flip, Level::Notice];
}

/// A compared outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    Errors,
    ClientErrors,
    Latency,
    /// A redirect to another place.
    Redirects,
    /// The whole exchange, body included, is slow.
    Duration,
    /// The body is empty, or far smaller than usual.
    Empty,
}

/// Number of [`Signal::ALL`].
pub const SIGNALS: usize = 6;

/// The maximum share of E by signal, in the order of [`Signal::ALL`]. The shares sum to 1.
pub type Shares = [f64; SIGNALS];

/// The default shares of an attempt.
pub const SHARES: Shares = [0.40, 0.15, 0.20, 0.10, 0.10, 0.05];

impl Signal {
    pub const ALL: [Signal; SIGNALS] = [
        Signal::Errors,
        Signal::ClientErrors,
        Signal::Latency,
        Signal::Redirects,
        Signal::Duration,
        Signal::Empty,
    ];
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EngineSettings {
    pub alpha: f64,
    /// Length of an interval.
    pub tick: Duration,
    /// `0.2`: 20% slower is tolerated.
    pub latency_tolerance: f64,
    pub latency_notice: f64,
    /// Faster answers count as this fast, in both arms.
    /// The arm with less traffic is colder (connections, caches, the scheduler), and a difference
    /// of microseconds is no reason for a trip.
    pub latency_floor: Duration,
    /// Number of strata. 0 or 1: pooled only.
    pub strata: usize,
    /// Warm-up of a server after its start, and of `new` after a raise.
    pub warm_up: Duration,
    /// Fixed at the start of an attempt.
    pub shares: Shares,
}

impl EngineSettings {
    fn divisors(&self) -> [f64; LEVELS] {
        [1.0 + self.latency_tolerance, 1.0 + self.latency_notice]
    }

    /// The compared latency in µs: divided by `by`, and never below the floor.
    /// The map is monotone and differs between the arms by `by` only, so H₀ is still "no slower
    /// than `by` times stable".
    fn compared_us(&self, after: Duration, by: f64) -> f64 {
        (after.as_secs_f64() / by).max(self.latency_floor.as_secs_f64()) * 1e6
    }
}

/// A request of the release, as it arrived.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RequestStart {
    /// Unique among the requests in flight.
    pub id: u64,
    pub at: Duration,
    pub arm: Arm,
    /// `None`: no user id.
    pub unit: Option<UserUnit>,
    /// The hash alone chose the arm, under the weight in force here.
    pub drawn: bool,
    /// The stratum of its route, if any.
    pub stratum: Option<u8>,
    /// Number of the server within its arm. `None`: none yet, or unknown.
    /// Numbers above [`SERVER_NUMBER_MAX`] share the last one.
    pub server: Option<u8>,
}

/// Distinguished servers of an arm.
pub const SERVER_NUMBER_MAX: u8 = 254;

/// An outcome of a request, `after` its arrival.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct RequestEvent {
    pub request: RequestStart,
    pub what: EventKind,
    pub after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    Arrived,
    /// A response head that is no failure of the arm.
    Answered,
    /// As `Answered`, with a status that blames the client.
    ClientError,
    /// As `Answered`, with a redirect to another place (a 3xx other than 304).
    Redirected,
    /// Failed without such a head.
    Failed,
    /// Ended by the client or the proxy before a head.
    Excused,
    /// As `Excused`, ended by a client who left before a head.
    /// `unusual`: after a wait that is unusual for stable.
    Left {
        unusual: bool,
    },
    /// After `Answered`, `ClientError` or `Redirected`: the exchange failed after the head.
    Broke,
    /// After `Answered`, `ClientError` or `Redirected`: the body is complete.
    /// `size`: see [`size_class`]. `client_slow`: most of the body's time was spent waiting for the
    /// client.
    Ended {
        size: u8,
        client_slow: bool,
    },
    /// In place of `Ended`, after `Answered` or `Redirected`: the trailers blame the client (a gRPC
    /// status).
    EndedAsClientError,
}

/// The size class of a body: 0 is empty, each further class is four times as large as the one
/// below.
/// The last class has no upper bound.
pub fn size_class(bytes: u64) -> u8 {
    match bytes {
        0 => 0,
        bytes => (1 + bytes.ilog2() / 2).min(u32::from(SIZE_CLASSES) - 1) as u8,
    }
}

/// Number of [`size_class`] values.
pub const SIZE_CLASSES: u8 = 16;

/// Counts of all requests of one arm in one final interval, pinned users included.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct IntervalCounts {
    pub requests: u64,
    pub answered: u64,
    /// Of `answered`: with a 4xx.
    pub client_errors: u64,
    /// Ended by the client or the proxy. Neither a success nor a failure.
    pub excused: u64,
    /// Of `excused`: the client left before a head after an unusual wait.
    pub gave_up: u64,
    /// Reported failures, before the deadline or after.
    pub told_failed: u64,
    /// Failures that are excused because their server was in a spell.
    pub spells: u64,
    /// One of 64 bits for each user with a failure.
    pub users_failed: u64,
}

impl IntervalCounts {
    fn mark(&mut self, unit: Option<UserUnit>) {
        self.told_failed += 1;
        if let Some(unit) = unit {
            // Buckets are evenly spread: their low bits choose one of 64 bits evenly.
            self.users_failed |= 1 << (unit.bucket() % 64);
        }
    }

    /// Failures of `new`: reported as such, with no server in a spell.
    /// A late answer of `new` is slow, not failed.
    pub fn failed_new(&self) -> u64 {
        self.told_failed.saturating_sub(self.spells)
    }

    /// Failures of stable: failed, or not answered by the deadline.
    /// This can only exonerate `new`.
    pub fn failed_stable(&self) -> u64 {
        self.requests.saturating_sub(self.answered + self.excused).saturating_sub(self.spells)
    }
}

/// The smallest change that a late look in a wave can detect, when most of the wave's users have
/// been seen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct DetectionLimit {
    /// A slowdown of less than this, beyond `latency_notice`, is detected in less than half of all
    /// cases. `0.05`: 5%.
    pub below: f64,
    /// Requests of both arms within which it is detected.
    pub requests: u64,
}

/// True if all of `new` warms up after this change: its weight at least doubles, so its new users
/// find it cold.
pub fn warms_up(was: Weight, is: Weight) -> bool {
    is > Weight::ZERO && u64::from(is.parts()) >= 2 * u64::from(was.parts())
}

/// A failed request of a final interval.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FailedRequest {
    pub arm: Arm,
    pub user: Option<UserUnit>,
    pub server: Option<ServerIndex>,
    /// True: reported as failed. False: a request of stable without an answer at the deadline.
    pub reported: bool,
    /// Its server was in a spell: see [`crate::stats::servers`].
    pub excused: bool,
}

/// A final interval.
#[derive(Clone, Copy, Debug)]
pub struct FinalInterval<'f> {
    pub end: Duration,
    pub new: IntervalCounts,
    pub stable: IntervalCounts,
    /// Failures with a known user, [`FAILURES_MAX`] at most. [`IntervalCounts`] has all.
    pub failures: &'f [FailedRequest],
}

/// Failures kept individually per interval.
pub const FAILURES_MAX: usize = 256;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod trailer_tests;
