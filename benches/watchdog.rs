//! What the comparison of failures reaches, beside the figures it is to reach: a Markdown table.
//!
//! `cargo bench --bench watchdog` (reduced: seconds) or `-- --full` (the runs and lengths of the
//! design: minutes). Only errors are here: what needs latency rows, windows or gates comes with them. Seeded: the same numbers on
//! every machine, but for the cost. Delays are in requests of `new`, p95 over the runs.

use grayling::domain::evidence::{Errors, Pair, Round, Users, entry_cohort};
use grayling::domain::histogram::Histogram;
use grayling::domain::judge::{Interval, Judge, Latency, Look, Ticks};
use grayling::domain::verdict::{Limits, Verdict};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(100);
const LIMITS: Limits = Limits { alpha: 0.001, errors_max: 0.05, latency_p99_max: Duration::from_secs(2) };

struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            dice.uniform();
        }
        dice
    }

    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// By inversion; above a mean of 60, a rounded normal.
    fn poisson(&mut self, mean: f64) -> u64 {
        if mean > 60.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u64;
        }
        let (floor, mut product, mut n) = ((-mean).exp(), self.uniform(), 0);
        while product > floor {
            product *= self.uniform();
            n += 1;
        }
        n
    }

    fn failures(&mut self, n: u64, p: f64) -> u64 {
        if n <= 200 {
            (0..n).filter(|_| self.chance(p)).count() as u64
        } else {
            self.poisson(n as f64 * p).min(n)
        }
    }
}

/// Strangers: each request is a user of his own (FIRST alone sees them). → (requests of new until the trip, sup E).
fn strangers(
    seed: u64,
    share: f64,
    rate: f64,
    p: (f64, f64),
    requests: u64,
    trip: f64,
) -> (Option<u64>, f64) {
    let mut dice = Dice::new(seed);
    let mut errors = Errors::new(share);
    let (mut seen, mut sup) = (0, 0.0f64);
    while seen < requests {
        let entered = Pair::new(dice.poisson(rate * share), dice.poisson(rate * (1.0 - share)));
        seen += entered.new;
        let entered_failed = Pair::new(dice.failures(entered.new, p.1), dice.failures(entered.stable, p.0));
        errors.push(&Users { entered, entered_failed, ..Users::default() });
        sup = sup.max(errors.e_value());
        if sup >= trip {
            return (Some(seen), sup);
        }
    }
    (None, sup)
}

#[derive(Clone, Copy)]
struct User {
    new: bool,
    fails: f64,
    cohort: Option<usize>,
    entered: bool,
    failed: bool,
}

/// Regulars: a pool of users who come again and again, some far oftener than others.
struct Regulars {
    dice: Dice,
    pool: Vec<User>,
    share: f64,
    judge: Judge,
    interval: u32,
    began: Duration,
    none: Histogram,
}

impl Regulars {
    fn new(seed: u64, users: usize, share: f64, fails: impl Fn(&mut Dice) -> f64) -> Regulars {
        let mut dice = Dice::new(seed);
        let user = |dice: &mut Dice| User {
            new: dice.chance(share),
            fails: fails(dice),
            cohort: None,
            entered: false,
            failed: false,
        };
        let pool = (0..users).map(|_| user(&mut dice)).collect();
        let (judge, none) = (Judge::new(LIMITS, share), Histogram::default());
        Regulars { dice, pool, share, judge, interval: 0, began: Duration::ZERO, none }
    }

    /// → requests of new in this interval.
    fn tick(&mut self, requests: usize, heavy: bool, p: impl Fn(&User) -> f64) -> u64 {
        let entered_as = entry_cohort(TICK * self.interval - self.began);
        self.interval += 1;
        let mut at = Interval { end: TICK * self.interval, ..Interval::default() };
        at.users.entered_as = entered_as;
        let one = |pair: &mut Pair, new| *if new { &mut pair.new } else { &mut pair.stable } += 1;
        for _ in 0..requests {
            let u = self.dice.uniform();
            let who = (if heavy { u * u } else { u } * self.pool.len() as f64) as usize;
            let user = &mut self.pool[who];
            let failed = self.dice.chance(p(user));
            one(&mut at.requests, user.new);
            if !user.entered {
                (user.entered, user.cohort) = (true, entered_as);
                one(&mut at.users.entered, user.new);
                if failed {
                    one(&mut at.users.entered_failed, user.new);
                }
            }
            if failed {
                one(&mut at.failed, user.new);
                if user.new {
                    at.users_failed |= 1 << (who % 64);
                }
                if let (false, Some(cohort)) = (user.failed, user.cohort) {
                    one(&mut at.users.first_failures[cohort], user.new);
                }
                user.failed = true;
            }
        }
        self.judge.push(&at);
        at.requests.new
    }

    /// The whole judge, with the renewals that it asks for.
    fn tripped(&mut self) -> bool {
        let latency = Latency { new: &self.none, stable: &self.none };
        let now = TICK * self.interval;
        let judged = self.judge.look(&Look { now, ticks: Ticks::OnTime, minute: latency, recent: latency });
        if let Some(why) = judged.renew {
            self.round(why, self.share);
        }
        matches!(judged.verdict, Verdict::Breach(_))
    }

    fn round(&mut self, why: Round, share: f64) {
        for user in &mut self.pool {
            (user.cohort, user.entered, user.failed) = (None, false, false);
        }
        self.judge.round(why, share);
        (self.share, self.began) = (share, TICK * self.interval);
    }
}

/// Late: nine in ten of the users have been seen before the onset.
fn late(seed: u64, users: usize, share: f64, p: (f64, f64), requests: u64) -> Option<u64> {
    let mut world = Regulars::new(seed, users, share, |_| p.0);
    let rate = (users / 200).max(40);
    for _ in 0..(users * 23 / 10 / rate) {
        world.tick(rate, false, |u| u.fails);
    }
    let mut seen = 0;
    while seen < requests {
        seen += world.tick(20, false, |u| if u.new { p.1 } else { p.0 });
        if world.judge.errors().e_value() >= 1000.0 {
            return Some(seen);
        }
    }
    None
}

fn p95(mut delays: Vec<Option<u64>>) -> String {
    delays.sort_by_key(|d| d.unwrap_or(u64::MAX));
    let at = |q: usize| delays[(delays.len() * q / 100).min(delays.len() - 1)];
    let show = |d: Option<u64>| d.map_or("not seen".to_owned(), |d| d.to_string());
    format!("{} (median {})", show(at(95)), show(at(50)))
}

fn row(id: &str, scenario: &str, limit: &str, figure: &str) {
    println!("| {id} | {scenario} | {limit} | {figure} |");
}

fn main() {
    let full = std::env::args().any(|a| a == "--full");
    let runs: u64 = if full { 300 } else { 100 };
    println!("| # | scenario | limit | reached |\n|---|---|---|---|");

    let (null_runs, null_requests) = if full { (1000, 1_000_000) } else { (200, 50_000) };
    for share in [0.01, 0.05, 0.2, 0.5] {
        let sups: Vec<f64> = (0..null_runs)
            .map(|s| {
                strangers(s, share, 500.0_f64.max(20.0 / share), (0.001, 0.001), null_requests, f64::MAX).1
            })
            .collect();
        let over = |e: f64| sups.iter().filter(|s| **s >= e).count() as f64 / null_runs as f64;
        row(
            "T1",
            &format!(
                "no difference, errors only, share {}%, {null_requests} requests, {null_runs} runs",
                share * 100.0
            ),
            ".05 / .015 / .003",
            &format!("{:.3} / {:.3} / {:.4}", over(20.0), over(100.0), over(2000.0)),
        );
    }

    let new_users = |share: f64, p, requests| {
        p95((0..runs).map(|s| strangers(s, share, 500.0, p, requests, 1000.0).0).collect())
    };
    for (share, t3, t4) in [(0.01, 15, 1900), (0.05, 18, 2300), (0.2, 30, 2600), (0.5, 55, 4700)] {
        // A slot of a hundred requests a tick: the delay in requests is not the tick's.
        let at_once =
            p95((0..runs).map(|s| strangers(s, share, 40.0, (0.001, 0.501), 5000, 1000.0).0).collect());
        row("T3", &format!("+50 points, new users, share {}%", share * 100.0), &t3.to_string(), &at_once);
        row(
            "T4",
            &format!("×10, new users, share {}%", share * 100.0),
            &t4.to_string(),
            &new_users(share, (0.001, 0.01), 50_000),
        );
    }
    row("T5", "×5, new users, share 5%", "6,900", &new_users(0.05, (0.001, 0.005), 100_000));
    row("T5", "×2, new users, share 5%", "60,000", &new_users(0.05, (0.001, 0.002), 400_000));
    row("T6", "1%, ×2, new users, share 5%", "6,700", &new_users(0.05, (0.01, 0.02), 100_000));
    row("T7", "+1 point, new users, share 1%", "1,750", &new_users(0.01, (0.001, 0.011), 50_000));
    row("T7", "+1 point, new users, share 50%", "4,000", &new_users(0.5, (0.001, 0.011), 50_000));

    let few = if full { 300 } else { 40 };
    for (users, anchor) in [(20_000, "14/24 simulated"), (100_000, "15/29 simulated")] {
        let delays = (0..few).map(|s| late(s, users, 0.05, (0.001, 0.501), 5000)).collect();
        row("T3", &format!("+50 points late, {} users in new", users / 20), anchor, &p95(delays));
    }
    let delays = (0..few).map(|s| late(s, 100_000, 0.05, (0.001, 0.005), 40_000)).collect();
    row("T10", "×5 late, 90% of 5,000 users seen", "6,500", &p95(delays));

    let outages = if full { 300 } else { 100 };
    let blamed = (0..outages)
        .filter(|&s| {
            let mut world = Regulars::new(s, 20_000, [0.02, 0.05, 0.2, 0.5][s as usize % 4], |_| 0.001);
            let mut any = false;
            for (ticks, p) in [(100, 0.001), (100, [1.0, 0.3, 0.08][s as usize % 3]), (300, 0.001)] {
                for _ in 0..ticks {
                    world.tick(60, true, |_| p);
                    any |= world.tripped();
                }
            }
            any
        })
        .count();
    row(
        "T12",
        &format!(
            "shared outage, whole judge, final intervals (time-outs do not show in them), {outages} runs"
        ),
        "no trip",
        &format!("{blamed} trips"),
    );

    let better = (0..runs)
        .filter(|s| strangers(*s, 0.05, 500.0, (0.001, 0.0005), 100_000, 1000.0).0.is_some())
        .count();
    row("T15", &format!("new fails half as often, {runs} runs"), "no trip", &format!("{better} trips"));

    let ugly = |dice: &mut Dice| match dice.uniform() {
        u if u < 0.002 => 1.0,
        u if u < 0.02 => 0.2,
        u if u < 0.3 => 0.0,
        _ => 0.001,
    };
    let ugly_runs = if full { 300 } else { 60 };
    for users in [4_000, 40_000, 500_000] {
        let ticks = if full { 6000 } else { 1500 };
        let tripped = (0..ugly_runs)
            .filter(|s| {
                let mut world = Regulars::new(*s, users, 0.05, ugly);
                (0..ticks).any(|i| {
                    if i == ticks / 2 {
                        // A wave: 5% to 20%, stayers stay, movers move.
                        for user in &mut world.pool {
                            user.new |= world.dice.chance(0.15 / 0.95);
                        }
                        world.round(Round::Raised, 0.2);
                    }
                    world.tick(60, true, |u| u.fails);
                    world.judge.errors().e_value() >= 1000.0
                })
            })
            .count();
        row(
            "T18",
            &format!(
                "alike versions, users differ (poison, frail, heavy), {} in new, a wave in between, {ugly_runs} runs",
                users / 20
            ),
            "≤ 1 in 300",
            &format!("{tripped} trips"),
        );
    }

    let mut world = Regulars::new(1, 50_000, 0.05, |_| 0.002);
    (0..600).for_each(|_| _ = world.tick(500, false, |u| u.fails));
    let mut judge = world.judge.clone();
    let mut users = Users {
        entered: Pair::new(25, 475),
        entered_failed: Pair::new(1, 1),
        entered_as: None,
        ..Users::default()
    };
    users.first_failures[3] = Pair::new(0, 1);
    let interval = Interval {
        end: TICK * 700,
        requests: Pair::new(25, 475),
        failed: Pair::new(1, 1),
        users,
        ..Interval::default()
    };
    let started = Instant::now();
    let slots = 20_000u32;
    (0..slots).for_each(|i| judge.push(&Interval { end: TICK * (700 + i), ..interval }));
    let push = started.elapsed() / slots;
    let started = Instant::now();
    let latency = Latency { new: &world.none, stable: &world.none };
    for i in 0..1000 {
        judge.look(&Look {
            now: TICK * (700 + slots + i),
            ticks: Ticks::OnTime,
            minute: latency,
            recent: latency,
        });
    }
    let look = started.elapsed() / 1000;
    row(
        "T17",
        "an interval with failures of either arm; a look (with its texts)",
        "20 µs a slot",
        &format!("{push:?}; {look:?}"),
    );
}
