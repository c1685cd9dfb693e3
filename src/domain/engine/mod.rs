//! The comparison of the two arms that may be looked at ten times a second for days: what happened,
//! event by event, in; evidence out.
//!
//! # Parts
//!
//! E = ¼ FIRST + ¼ ONCE + ½ WINDOW; beyond 1/α is a trip. [`first`] is a safe log-rank test over
//! each user's first request, with latency judged while requests hang; [`once`] is one over users'
//! first failure, client error, very slow answer; [`window`] compares clusters of users with their
//! own past, and sees what happens to users who have been seen, and have failed, before. Within
//! each, errors have half of the weight, latency and client errors a quarter.
//!
//! With several strata (routes), E is half the pooled one and half the mean over strata, of which
//! each has a FIRST and a ONCE of its own: a bug in refunds does not drown in reads. Any such
//! average keeps α.
//!
//! # Draws
//!
//! The hash draws *users*. H₀, "new is no worse", says that who comes when, and what befalls him,
//! does not depend on the arm: the labels of users are exchangeable. A *draw* is a set of users
//! whose labels are a fresh coin, and the side of each:
//!
//! - The first weight: everybody. A weight above the highest before: those at or above that
//!   highest; movers against stayers. What was won stays and is bet on, and a budget of α of its
//!   own is added, ten times at most in an attempt.
//! - A lower weight: those who leave `new` leave the comparison. The rest is as it was (a thinned
//!   sample).
//! - A weight raised again below the highest: no fresh coin is left. Everybody is drawn again, what
//!   was won before is kept as a *summand* (one coin is never multiplied twice), and all such draws
//!   of an attempt share one more budget.
//!
//! # Time
//!
//! Requests are grouped by *arrival*, in intervals. An interval is *final* at its end + the
//! deadline; what is unanswered by then has failed. Counting as things happen would blame whichever
//! arm has the shorter time-out.
//!
//! # Two levels
//!
//! The latency of `new` is divided by 1 + tolerance for what trips, and by 1 + notice for what
//! alerts. H₀ is then "no slower than that".
//!
//! Invariants: pure, time is an argument; a request counts in the draw under which it was decided,
//! or in none; closing rules never look at labels; what is kept is bounded by the users, the
//! requests in flight and the deadline.

pub mod cell;
pub mod first;
pub mod latency;
pub mod mixture;
pub mod once;
mod process;
pub mod save;
pub mod servers;
pub mod users;
pub mod window;

pub use process::Engine;

use crate::domain::cohort::Weight;
use crate::domain::decide::Arm;
use crate::domain::verdict::Cause;
use servers::Place;
use std::time::Duration;
use users::Unit;

/// Odds of failing that are bet on.
pub const ERROR_ODDS: [f64; 8] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 40.0, 1000.0];
pub const LEVELS: usize = 2;
/// Routes that are judged apart; more are in the pooled comparison only.
pub const STRATA_MAX: usize = 16;

/// How much slower `new` may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// By `latency_tolerance`: beyond it, a trip.
    Flip,
    /// By `latency_notice`: beyond it, an alert, and nothing more.
    Notice,
}

impl Level {
    pub const ALL: [Level; LEVELS] = [Level::Flip, Level::Notice];
}

/// What is compared.
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

/// What each signal may add to E at most, by [`Signal::ALL`]; the shares sum to 1.
pub type Shares = [f64; SIGNALS];

/// The shares of an attempt.
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

    /// Of a trip that it brings about.
    pub fn cause(self) -> Cause {
        match self {
            Signal::Errors => Cause::Errors,
            Signal::ClientErrors => Cause::ClientErrors,
            Signal::Latency => Cause::Latency,
            Signal::Redirects => Cause::Redirects,
            Signal::Duration => Cause::Duration,
            Signal::Empty => Cause::Empty,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Settings {
    pub alpha: f64,
    /// Length of an interval.
    pub tick: Duration,
    /// `0.2`: a fifth slower is tolerated.
    pub latency_tolerance: f64,
    pub latency_notice: f64,
    /// Quicker answers count as this quick, in both arms. An arm that few use is the colder one
    /// (connections, caches, the scheduler), and a difference of microseconds is nobody's reason to
    /// go back.
    pub latency_floor: Duration,
    /// Routes judged apart; 0 or 1: pooled only.
    pub strata: usize,
    /// Of a server after its start, and of `new` after a raise.
    pub warm_up: Duration,
    /// Fixed at the start of an attempt.
    pub shares: Shares,
}

impl Settings {
    fn divisors(&self) -> [f64; LEVELS] {
        [1.0 + self.latency_tolerance, 1.0 + self.latency_notice]
    }

    /// An answer's µs as they are compared: `by` times quicker, and never quicker than the floor.
    /// It is monotone, and the same for both arms but for `by`, so H₀, "no slower than `by` times
    /// stable", stays what it was.
    fn compared_us(&self, after: Duration, by: f64) -> f64 {
        (after.as_secs_f64() / by).max(self.latency_floor.as_secs_f64()) * 1e6
    }
}

/// A request of the release, as it arrived.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Request {
    /// Told apart from all others in flight.
    pub id: u64,
    pub at: Duration,
    pub arm: Arm,
    /// `None`: no user id.
    pub unit: Option<Unit>,
    /// The hash alone chose the arm, under the weight that is in force here.
    pub drawn: bool,
    /// Its route, if that is judged apart.
    pub stratum: Option<u8>,
    /// The server of its arm that has it, by number; `None`: none yet, or not known. Numbers above
    /// [`SERVERS_MAX`] share the last one.
    pub server: Option<u8>,
}

/// Servers of an arm that are told apart.
pub const SERVERS_MAX: u8 = 254;

/// What happened to it, and how long after it arrived.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Event {
    pub request: Request,
    pub what: What,
    pub after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    Arrived,
    /// The head of a response that is no failure of the arm.
    Answered,
    /// The same, with a status that blames the client.
    ClientError,
    /// The same, with a redirect to another place (a 3xx other than 304).
    Redirected,
    /// Failed without such a head.
    Failed,
    /// The client, or the proxy, ended it before.
    Excused,
    /// As `Excused`, by a client who went away without a head; after a wait that is unusual for
    /// stable?
    Left {
        unusual: bool,
    },
    /// After `Answered`, `ClientError` or `Redirected`: it failed all the same.
    Broke,
    /// After `Answered`, `ClientError` or `Redirected`: its body is complete. `size`: see
    /// [`size_class`]. `client_slow`: most of the time of the body was spent waiting for the
    /// client.
    Ended {
        size: u8,
        client_slow: bool,
    },
    /// In place of `Ended`, after `Answered` or `Redirected`: what follows the head says that the
    /// client is to blame (a gRPC status in the trailers).
    EndedAsClientError,
}

/// The size of a body: 0 is empty, and each class above is four times as large as the one below.
/// The last one has no upper bound.
pub fn size_class(bytes: u64) -> u8 {
    match bytes {
        0 => 0,
        bytes => (1 + bytes.ilog2() / 2).min(u32::from(SIZE_CLASSES) - 1) as u8,
    }
}

/// Classes of [`size_class`].
pub const SIZE_CLASSES: u8 = 16;

/// All requests of one arm in one final interval, pinned users too.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    pub requests: u64,
    pub answered: u64,
    /// Of those: with a 4xx.
    pub client_errors: u64,
    /// Ended by the client or the proxy: neither a success nor a failure.
    pub excused: u64,
    /// Of those: clients who left without a head after an unusual wait.
    pub gave_up: u64,
    /// Told to have failed, before the deadline or after.
    pub told_failed: u64,
    /// Failures that are excused, for their servers were in a spell.
    pub spells: u64,
    /// A bit in 64 for each user who was failed.
    pub users_failed: u64,
}

impl Counts {
    fn mark(&mut self, unit: Option<Unit>) {
        self.told_failed += 1;
        if let Some(unit) = unit {
            // Buckets are evenly spread: their low bits make a fair choice of one bit in 64.
            self.users_failed |= 1 << (unit.bucket() % 64);
        }
    }

    /// Of `new`: came out as a failure, and no server was in a spell then. A late answer of `new`
    /// is late, and nothing more.
    pub fn failed_new(&self) -> u64 {
        self.told_failed.saturating_sub(self.spells)
    }

    /// Of stable: failed, or not answered by the deadline. This can only exonerate `new`.
    pub fn failed_stable(&self) -> u64 {
        self.requests.saturating_sub(self.answered + self.excused).saturating_sub(self.spells)
    }
}

/// What would go unseen of a change that comes late in a wave, when most of its users have been
/// seen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Blindness {
    /// Slower by less than this, beyond what is allowed (`latency_notice`): not seen in half of all
    /// cases. `0.05`: 5%.
    pub below: f64,
    /// Within so many requests of both arms.
    pub requests: u64,
}

impl Blindness {
    /// For people; `notice`: `latency_notice`.
    pub fn told(&self, notice: f64) -> String {
        let within = format!("in the next {} requests", self.requests);
        match (1.0 + self.below) * (1.0 + notice) - 1.0 {
            all if all.is_finite() => {
                format!("a late change below {:.1}% would not be seen {within}", 100.0 * all)
            }
            _ => format!("no late change of latency would be seen {within}"),
        }
    }
}

/// Does all of `new` warm up after such a change? Users who come to it by the thousand find it
/// cold.
pub fn warms_up(was: Weight, is: Weight) -> bool {
    is > Weight::ZERO && u64::from(is.parts()) >= 2 * u64::from(was.parts())
}

/// A request that failed, of an interval that is final.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Failure {
    pub arm: Arm,
    pub user: Option<Unit>,
    pub server: Option<Place>,
    /// It came out as a failure; else it had not come out by the deadline, and is one of stable.
    pub reported: bool,
    /// Its server was in a spell: see [`servers`].
    pub excused: bool,
}

/// A final interval.
#[derive(Clone, Copy, Debug)]
pub struct Final<'f> {
    pub end: Duration,
    pub new: Counts,
    pub stable: Counts,
    /// Those whose users are known, as far as [`FAILURES_MAX`] goes; in [`Counts`] are all.
    pub failures: &'f [Failure],
}

/// Failures of an interval that are kept one by one.
pub const FAILURES_MAX: usize = 256;

#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod trailer_tests;
