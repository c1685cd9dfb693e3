//! Holds the evidence to the published vectors, to exact enumeration, and to users who differ.

use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// xorshift64*, seeded: the simulations are the same on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..4).for_each(|_| _ = dice.bits());
        dice
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.uniform() * n as f64) as usize
    }
}

fn vectors() -> serde_json::Value {
    serde_json::from_str(include_str!("../../tests/data/watchdog_vectors.json")).expect("vectors are JSON")
}

fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-9 * want.abs().max(1e-3)
}

fn rows(value: &serde_json::Value) -> Vec<Vec<f64>> {
    let row = |r: &serde_json::Value| r.as_array().map(|r| r.iter().filter_map(|x| x.as_f64()).collect());
    value.as_array().map(|rows| rows.iter().filter_map(row).collect()).unwrap_or_default()
}

#[test]
fn cells_match_the_reference() {
    let rows = rows(&vectors()["cells"]);
    assert_eq!(rows.len(), 400);
    for r in rows {
        let (l, d) = cell(Pair::new(r[0] as u64, r[1] as u64), Pair::new(r[2] as u64, r[3] as u64), r[4]);
        assert!(close(l, r[5]) && close(d, r[6]), "{r:?}: {l}, {d}");
    }
}

#[test]
fn the_restart_mixture_matches_the_reference() {
    let rows = rows(&vectors()["error_seq"]);
    assert_eq!(rows.len(), 600);
    let mut mixture = Mixture::default();
    for r in rows {
        mixture.update(&[(Pair::new(r[0] as u64, r[1] as u64), Pair::new(r[2] as u64, r[3] as u64))]);
        assert!(close(mixture.mean(), r[4]), "{r:?}: {}", mixture.mean());
    }
}

/// E of L over k₁ ~ Hypergeometric, by enumeration.
fn mean_of_l(n1: u64, n0: u64, k: u64, lambda: f64) -> f64 {
    let ln_choose = |n: u64, k: u64| (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>();
    (k.saturating_sub(n0)..=k.min(n1))
        .map(|x| {
            let ln_p = ln_choose(n1, x) + ln_choose(n0, k - x) - ln_choose(n1 + n0, k);
            (ln_p + cell(Pair::new(n1, n0), Pair::new(x, k - x), lambda).0).exp()
        })
        .sum()
}

proptest! {
    #[test]
    fn a_bet_is_fair_under_the_null(n1 in 1u64..80, n0 in 1u64..400, k in 1u64..479, row in 0usize..ROWS, sign: bool) {
        let lambda = if sign { ODDS[row].ln() } else { -ODDS[row].ln() };
        let k = k.min(n1 + n0 - 1);
        prop_assert!(mean_of_l(n1, n0, k, lambda) <= 1.0 + 1e-9);
        prop_assert!(mean_of_l(n0, n1, k, lambda) <= 1.0 + 1e-9);
    }

    #[test]
    fn nothing_that_is_fed_makes_it_infinite_or_panic(
        tables in proptest::collection::vec((0u64..3000, 0u64..3000, 0u64..3000, 0u64..3000, 0usize..17, 0usize..COHORTS), 1..60),
        share in 0.0f64..=1.0)
    {
        let mut e = Errors::new(share);
        for (n1, n0, k1, k0, cohort, of) in tables {
            let mut users = Users {
                entered: Pair::new(n1, n0),
                entered_failed: Pair::new(k1, k0),
                entered_as: (cohort < COHORTS).then_some(cohort),
                ..Users::default()
            };
            users.first_failures[of] = Pair::new(k1, k0);
            e.push(&users);
            prop_assert!(e.e_value().is_finite() && e.e_value() >= 0.0);
            if n1 % 7 == 0 { e.round(Round::Raised, share); }
            if n1 % 11 == 0 { e.round(Round::Other, share); }
        }
    }
}

#[test]
fn cohorts_grow_with_the_age_of_the_round() {
    let at = |s| entry_cohort(Duration::from_secs(s));
    assert_eq!([at(0), at(1), at(2), at(3), at(4), at(5), at(7)], [0, 2, 3, 4, 4, 5, 6].map(Some));
    assert_eq!((at(65_534), at(65_535), at(u64::MAX)), (Some(31), None, None));
}

/// The model of the counters: what the data plane is to feed.
pub(crate) struct World {
    pub users: Vec<User>,
    pub errors: Errors,
    pub interval: u64,
}

#[derive(Clone, Copy)]
pub(crate) struct User {
    pub new: bool,
    /// Chance of a request to fail.
    pub fails: f64,
    cohort: Option<usize>,
    entered: bool,
    failed: bool,
}

impl World {
    pub fn new(dice: &mut Dice, n: usize, share: f64, fails: impl Fn(usize, &mut Dice) -> f64) -> World {
        let user = |i, dice: &mut Dice| User {
            new: dice.chance(share),
            fails: fails(i, dice),
            cohort: None,
            entered: false,
            failed: false,
        };
        let users = (0..n).map(|i| user(i, dice)).collect();
        World { users, errors: Errors::new(share), interval: 0 }
    }

    /// One interval of 100 ms: `requests` of users whom `who` picks; → requests of new that stood for a user.
    pub fn tick(
        &mut self,
        dice: &mut Dice,
        requests: usize,
        who: impl Fn(&mut Dice) -> usize,
        p: impl Fn(&User) -> f64,
    ) -> u64 {
        let cohort = entry_cohort(Duration::from_millis(100 * self.interval));
        self.interval += 1;
        let mut out = Users { entered_as: cohort, ..Users::default() };
        let mut stood = 0;
        let add = |pair: &mut Pair, new| *if new { &mut pair.new } else { &mut pair.stable } += 1;
        for _ in 0..requests {
            let user = &mut self.users[who(dice)];
            let failed = dice.chance(p(user));
            stood += u64::from(user.new && !user.failed);
            if !user.entered {
                user.entered = true;
                user.cohort = cohort;
                add(&mut out.entered, user.new);
                if failed {
                    add(&mut out.entered_failed, user.new);
                }
            }
            if failed && !user.failed {
                user.failed = true;
                if let Some(c) = user.cohort {
                    add(&mut out.first_failures[c], user.new);
                }
            }
        }
        self.errors.push(&out);
        stood
    }
}

/// sup E of a run.
fn sup(
    world: &mut World,
    dice: &mut Dice,
    ticks: usize,
    requests: usize,
    who: impl Fn(&mut Dice) -> usize,
) -> f64 {
    let mut sup: f64 = 0.0;
    for _ in 0..ticks {
        world.tick(dice, requests, &who, |u| u.fails);
        sup = sup.max(world.errors.e_value());
    }
    sup
}

#[test]
fn versions_that_are_alike_trip_no_oftener_than_alpha() {
    let runs = 300;
    for share in [0.05, 0.5] {
        let sups: Vec<f64> = (0..runs)
            .map(|seed| {
                let mut dice = Dice::new(seed);
                let mut world = World::new(&mut dice, 3000, share, |_, _| 0.01);
                sup(&mut world, &mut dice, 300, 50, |d| d.below(3000))
            })
            .collect();
        let over = |e: f64| sups.iter().filter(|s| **s >= e).count();
        // The bounds of 15 and 3 in 300, with two standard deviations of the count.
        assert!(over(20.0) <= 22 && over(100.0) <= 6, "{share}: {} and {}", over(20.0), over(100.0));
        assert!(over(1.0) >= 1, "a bound that nothing ever comes near tests nothing");
    }
}

/// Few users who are always there and never fail, many who come and fail: the population that fools a comparison of requests.
#[test]
fn users_who_differ_do_not_inflate_it() {
    for (kind, fails) in [
        ("poison", (|i: usize| if i % 100 == 99 { 1.0 } else { 0.001 }) as fn(usize) -> f64),
        ("frail", |i| if i % 50 == 49 { 0.2 } else { 0.001 }),
        ("steady and sporadic", |i| if i < 30 { 0.0 } else { 0.03 }),
    ] {
        let mut over = 0;
        for seed in 0..200 {
            let mut dice = Dice::new(1000 + seed);
            let mut world = World::new(&mut dice, 4000, 0.05, |i, _| fails(i));
            // Half of the traffic is of thirty users.
            let who = |d: &mut Dice| if d.chance(0.5) { d.below(30) } else { d.below(4000) };
            over += usize::from(sup(&mut world, &mut dice, 300, 40, who) >= 20.0);
        }
        assert!(over <= 15, "{kind}: {over} of 200, expected at most 10 and noise");
    }
}

/// Why the cohorts: the same users, with "at risk" taken as the clean users of the interval.
#[test]
fn the_simpler_table_of_an_interval_would_be_fooled() {
    let mut over = 0;
    for seed in 0..40 {
        let mut dice = Dice::new(seed);
        let mut mixture = Mixture::default();
        let share = 0.2;
        let steady: Vec<bool> = (0..10).map(|_| dice.chance(share)).collect();
        for _ in 0..2000 {
            let mut n = Pair::new(0, 0);
            steady.iter().for_each(|new| if *new { n.new += 1 } else { n.stable += 1 });
            let mut k = Pair::new(0, 0);
            for _ in 0..10 {
                let (new, failed) = (dice.chance(share), dice.chance(0.1));
                if new {
                    n.new += 1
                } else {
                    n.stable += 1
                }
                if failed {
                    if new { k.new += 1 } else { k.stable += 1 }
                }
            }
            mixture.update(&[(n, k)]);
        }
        over += usize::from(mixture.mean() >= 1000.0);
    }
    assert!(over >= 5, "{over} of 40 at α = 0.001");
}

#[test]
fn one_user_who_retries_a_thousand_times_is_one_failure() {
    let mut dice = Dice::new(5);
    let mut world = World::new(&mut dice, 500, 0.05, |_, _| 0.0);
    for user in &mut world.users {
        user.new = false;
    }
    (0..25).for_each(|u| world.users[u].new = true);
    world.users[0].fails = 1.0;
    let mut sup: f64 = 0.0;
    for _ in 0..300 {
        world.tick(&mut dice, 20, |d| if d.chance(0.5) { 0 } else { d.below(500) }, |u| u.fails);
        sup = sup.max(world.errors.e_value());
    }
    assert!(sup < 40.0, "{sup}");
}

/// Requests of new that stood for a user, from the onset to the trip.
fn delay(seed: u64, users: usize, before: usize, share: f64, p0: f64, p1: f64) -> Option<u64> {
    let mut dice = Dice::new(seed);
    let mut world = World::new(&mut dice, users, share, |_, _| p0);
    for _ in 0..before {
        world.tick(&mut dice, 40, |d| d.below(users), |u| u.fails);
    }
    let mut stood = 0;
    for _ in 0..20_000 {
        stood += world.tick(&mut dice, 40, |d| d.below(users), |u| if u.new { p1 } else { p0 });
        if world.errors.e_value() >= 1000.0 {
            return Some(stood);
        }
    }
    None
}

fn p95(mut delays: Vec<Option<u64>>) -> u64 {
    delays.sort_by_key(|d| d.unwrap_or(u64::MAX));
    delays[delays.len() * 95 / 100].unwrap_or(u64::MAX)
}

#[test]
fn half_of_the_requests_failing_is_seen_within_a_few() {
    let at_once = p95((0..100).map(|s| delay(s, 200_000, 0, 0.05, 0.001, 0.501)).collect());
    let late = p95((0..60).map(|s| delay(s, 20_000, 600, 0.05, 0.001, 0.501)).collect());
    assert!(at_once <= 20, "at once: {at_once}, late: {late}");
    assert!(late <= 36, "late: {late}");
}

#[test]
fn ten_times_the_failures_is_seen() {
    let late = p95((0..20).map(|s| delay(s, 50_000, 600, 0.2, 0.001, 0.01)).collect());
    assert!(late <= 4_000, "{late}");
}

#[test]
fn edits_without_traffic_add_no_evidence_beyond_ten_budgets() {
    let mut e = Errors::new(0.05);
    assert_eq!(e.e_value(), PRIOR);
    (0..2000).for_each(|_| e.round(Round::Raised, 0.1));
    assert!(e.e_value() <= 6.5, "{}", e.e_value());
    (0..2000).for_each(|_| e.round(Round::Other, 0.1));
    assert!(e.e_value() <= 6.5, "{}", e.e_value());
}

/// Ten raises with the same frail users, who mostly stay where they are: were evidence multiplied across rounds, chance would be too.
#[test]
fn raised_weights_do_not_count_one_coin_twice() {
    let mut over = 0;
    for seed in 0..150 {
        let mut dice = Dice::new(7000 + seed);
        let mut world = World::new(&mut dice, 1000, 0.1, |i, _| if i % 4 == 0 { 0.7 } else { 0.0 });
        let mut best: f64 = 0.0;
        let mut from = 0.1;
        for _ in 0..10 {
            for _ in 0..60 {
                world.tick(&mut dice, 40, |d| d.below(1000), |u| u.fails);
                best = best.max(world.errors.e_value());
            }
            let to = from + 0.001;
            for user in &mut world.users {
                user.new |= dice.chance((to - from) / (1.0 - from));
                (user.cohort, user.entered, user.failed) = (None, false, false);
            }
            world.errors.round(Round::Raised, to);
            (world.interval, from) = (0, to);
        }
        over += usize::from(best >= 1000.0);
    }
    // Eleven budgets of 1/1000 each: 2 expected at the very most.
    assert!(over <= 4, "{over} of 150");
}

#[test]
fn a_population_that_has_all_failed_asks_for_a_new_round() {
    let mut dice = Dice::new(11);
    let mut world = World::new(&mut dice, 2000, 0.1, |_, _| 0.0);
    (0..100).for_each(|_| _ = world.tick(&mut dice, 60, |d| d.below(2000), |_| 0.0));
    assert!(!world.errors.exhausted() && world.errors.clean().total() > 500);
    (0..300).for_each(|_| _ = world.tick(&mut dice, 60, |d| d.below(2000), |_| 1.0));
    assert!(world.errors.exhausted() && world.errors.e_value() < 1000.0);
}

#[test]
fn what_was_won_is_kept_when_the_weight_rises() {
    let mut e = Errors::new(0.5);
    for _ in 0..4 {
        let users = Users { entered: Pair::new(10, 10), entered_failed: Pair::new(2, 0), ..Users::default() };
        e.push(&users);
    }
    let before = e.e_value();
    e.round(Round::Raised, 0.7);
    assert!(before > 2.0 && e.e_value() > before && e.e_value() <= before + 0.5 + 1e-9);
}
