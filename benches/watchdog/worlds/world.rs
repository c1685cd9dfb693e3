//! What a world is: plain data, from which [`super::sim::Sim`] makes traffic.
//!
//! Invariants: a world has no behaviour of its own; times are seconds since the first raise
//! (before it `new` has nobody), latencies are milliseconds.

use grayling::domain::decide::Arm;

/// Half of a wandering is forgotten in so many seconds.
pub const FORGETS: f64 = 60.0;
/// Before the first raise, seconds.
pub const LEARN: f64 = 300.0;
/// The warm-up of a release: a fault of `new` sets in when it is over.
pub const WARM_UP: f64 = 60.0;

#[derive(Clone)]
pub struct World {
    /// Requests a second of both arms.
    pub rate: f64,
    /// (At, percent in `new`).
    pub waves: Vec<(f64, f64)>,
    pub users: usize,
    pub service: Service,
    /// Servers of `new` and of stable.
    pub servers: [usize; 2],
    pub pauses: Option<Pauses>,
    /// Trouble of single servers of one arm, once each.
    pub spells: Vec<Spell>,
    /// So many first requests of `new` take so long.
    pub first: Option<(usize, f64)>,
    pub accounts: Vec<Account>,
    pub shared: Vec<Shared>,
    /// Load and latency of both arms wander by so much (σ of the logarithm, half of it forgotten in
    /// [`FORGETS`] seconds).
    pub wanders: f64,
    /// Requests that a user sends at once.
    pub parallel: usize,
    /// Every request comes with another id.
    pub rotating: bool,
    /// Share of users who fail always, in both arms.
    pub poisoned: f64,
    /// Requests that an arm serves at most, as a multiple of its usual load.
    pub capacity: Option<f64>,
    /// What is wrong with `new`, from the end of the warm-up on.
    pub fault: Fault,
    pub latency_p99_max: f64,
    /// Seconds.
    pub warm_up: f64,
    /// How long a run goes on, from the first raise.
    pub lasts: f64,
}

#[derive(Clone)]
pub struct Service {
    /// Median, by route; a route is one of these with equal chances.
    pub medians: Vec<f64>,
    pub sigma: f64,
    /// Between users.
    pub sigma_users: f64,
    pub fails: f64,
    pub client_errors: f64,
    /// Share that takes so long instead.
    pub tail: (f64, f64),
}

/// What a server does while it is in trouble.
#[derive(Clone, Copy)]
pub enum Trouble {
    /// Its requests wait for the end.
    Stalls,
    /// They take so many times as long.
    Slower(f64),
    /// They take so many times as long at first, and then less and less.
    SlowerAtFirst(f64),
    /// No connection.
    Refuses,
    /// Every connection breaks before an answer.
    Resets,
}

/// Each server of both arms, at equal rates.
#[derive(Clone, Copy)]
pub struct Pauses {
    /// Seconds between starts: with 20% of jitter, or exponential.
    pub every: f64,
    pub poisson: bool,
    pub lasts: f64,
    pub trouble: Trouble,
    /// Never two servers of an arm at once: that is an outage of the arm.
    pub alone: bool,
}

#[derive(Clone, Copy)]
pub struct Spell {
    pub arm: Arm,
    pub server: usize,
    pub at: f64,
    pub lasts: f64,
    pub trouble: Trouble,
}

/// One user of his own, beside the others.
#[derive(Clone, Copy)]
pub struct Account {
    pub arm: Arm,
    pub pace: Pace,
    /// Takes so long, or fails always.
    pub takes: Option<f64>,
}

#[derive(Clone, Copy)]
pub enum Pace {
    /// Requests a second.
    PerSecond(f64),
    /// So many within so many seconds, each so many seconds.
    Bursts { of: f64, within: f64, each: f64 },
}

/// What befalls both arms; `new` earlier by `lead`.
#[derive(Clone, Copy)]
pub struct Shared {
    pub at: f64,
    pub lasts: f64,
    pub lead: f64,
    pub what: Weather,
}

#[derive(Clone, Copy)]
pub enum Weather {
    /// A share fails, after so long in `new` and in stable.
    Fails(f64, [f64; 2]),
    Slower(f64),
    Load(f64),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// So many more of the requests fail: 0.01 is a point.
    Points(f64),
    /// So many more take so long.
    Slow(f64, f64),
    /// All take so many times as long.
    Stretch(f64),
    /// Never answers.
    Hang,
    /// Redirects everybody.
    Redirects,
    /// Answers 200 with an empty body.
    Empties,
    /// Bodies take so long after the head, milliseconds.
    SlowBodies(f64),
    /// So large a share of its users fail always.
    Users(f64),
    /// One of the routes fails always.
    Route,
}

impl World {
    /// 200 requests a second, 5% in `new`, a calm service.
    pub fn base() -> World {
        World {
            rate: 200.0,
            waves: vec![(0.0, 5.0)],
            users: 20_000,
            service: Service {
                medians: vec![30.0],
                sigma: 0.5,
                sigma_users: 0.3,
                fails: 0.001,
                client_errors: 0.005,
                tail: (0.0, 0.0),
            },
            servers: [1, 1],
            pauses: None,
            spells: vec![],
            first: None,
            accounts: vec![],
            shared: vec![],
            wanders: 0.0,
            parallel: 1,
            rotating: false,
            poisoned: 0.0,
            capacity: None,
            fault: Fault::None,
            latency_p99_max: 2000.0,
            warm_up: WARM_UP,
            lasts: 600.0,
        }
    }
}
