//! A world: plain data, from which [`super::sim::Sim`] makes traffic.
//!
//! Invariants: a world has no behaviour of its own; times are seconds since the first raise (before
//! it `new` has no users), latencies are milliseconds.

use grayling::stats::arm::Arm;

/// Half of a wandering is forgotten in so many seconds.
pub const FORGETS: f64 = 60.0;
/// Seconds before the first raise.
pub const LEARN: f64 = 300.0;
/// Warm-up of a release. A fault of `new` begins at its end.
pub const WARM_UP: f64 = 60.0;

#[derive(Clone)]
pub struct World {
    /// Requests a second of both arms.
    pub rate: f64,
    /// (time, percent in `new`)
    pub waves: Vec<(f64, f64)>,
    pub users: usize,
    pub service: Service,
    /// Servers of `new` and of stable.
    pub servers: [usize; 2],
    /// The least loaded server takes a request, as in the product. Else any.
    pub balanced: bool,
    pub pauses: Option<Pauses>,
    /// Trouble of single servers of one arm, once each.
    pub spells: Vec<Spell>,
    /// (n, ms): the first n requests of `new` take this long.
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
    /// The maximum throughput of an arm, as a multiple of its usual load.
    pub capacity: Option<f64>,
    /// The fault of `new`, from the end of the warm-up on.
    pub fault: Fault,
    pub latency_p99_max: f64,
    /// Seconds.
    pub warm_up: f64,
    /// Length of a run, from the first raise.
    pub lasts: f64,
}

#[derive(Clone)]
pub struct Service {
    /// Median by route. All routes are equally likely.
    pub medians: Vec<f64>,
    pub sigma: f64,
    /// σ between users.
    pub sigma_users: f64,
    pub fails: f64,
    pub client_errors: f64,
    /// (share, ms): this share takes this long instead.
    pub tail: (f64, f64),
}

/// The behaviour of a server in trouble.
#[derive(Clone, Copy)]
pub enum Trouble {
    /// Its requests wait for the end.
    Stalls,
    /// Its latencies are multiplied by this.
    Slower(f64),
    /// Its latencies are multiplied by this at first, and then by less and less.
    SlowerAtFirst(f64),
    /// The server has started, and requests take this many times as long.
    Started(f64),
    /// Refuses connections.
    Refuses,
    /// Every connection breaks before an answer.
    Resets,
}

/// Pauses of each server of both arms, at equal rates.
#[derive(Clone, Copy)]
pub struct Pauses {
    /// Seconds between starts: with 20% of jitter, or exponential.
    pub every: f64,
    pub poisson: bool,
    pub lasts: f64,
    pub trouble: Trouble,
    /// Never two servers of an arm at once: that would be an outage of the arm.
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

/// One user besides the others.
#[derive(Clone, Copy)]
pub struct Account {
    pub arm: Arm,
    pub pace: Pace,
    /// Its latency. `None`: it always fails.
    pub takes: Option<f64>,
}

#[derive(Clone, Copy)]
pub enum Pace {
    /// Requests a second.
    PerSecond(f64),
    /// `of` requests within `within` seconds, one burst every `each` seconds.
    Bursts { of: f64, within: f64, each: f64 },
}

/// An incident of both arms, which begins in `new` earlier by `lead`.
#[derive(Clone, Copy)]
pub struct Shared {
    pub at: f64,
    pub lasts: f64,
    pub lead: f64,
    pub what: Weather,
}

#[derive(Clone, Copy)]
pub enum Weather {
    /// (share that fails, time until then in `new` and in stable)
    Fails(f64, [f64; 2]),
    Slower(f64),
    Load(f64),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Fault {
    None,
    /// Additional share of failed requests: 0.01 is a percentage point.
    Points(f64),
    /// (additional share, ms): requests that take this long.
    Slow(f64, f64),
    /// All latencies are multiplied by this.
    Stretch(f64),
    /// Never answers.
    Hang,
    /// Redirects all requests.
    Redirects,
    /// Responds with 200 and an empty body.
    Empties,
    /// Bodies take this many milliseconds after the head.
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
            balanced: false,
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
