//! Tests of the engine: published vectors, exact enumeration, and simulated users who differ.

use super::*;
use crate::stats::cohort::Weight;
use crate::stats::e_process::EProcess;
use crate::stats::histogram;
use crate::stats::hypergeometric_bet::{PerArm, cell};
use crate::stats::latency::{AgeTable, SlotAges};
use crate::stats::users::Baseline;
use crate::stats::{codec, first_request, latency, users};
use proptest::prelude::*;
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/data/watchdog_vectors.json")).expect("vectors are JSON")
}

fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-9 * want.abs().max(1e-3)
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().map(|row| row.iter().filter_map(Value::as_f64).collect()).unwrap_or_default()
}

fn rows(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().map(|rows| rows.iter().map(numbers).collect()).unwrap_or_default()
}

#[test]
fn cells_match_the_reference() {
    let rows = rows(&vectors()["cells"]);
    assert_eq!(rows.len(), 400);
    for r in rows {
        let bet = cell(PerArm::new(r[0] as u64, r[1] as u64), PerArm::new(r[2] as u64, r[3] as u64), r[4]);
        assert!(close(bet.log, r[5]) && close(bet.cost, r[6]), "{r:?}: {bet:?}");
    }
}

#[test]
fn the_errors_of_slots_match_the_reference() {
    let rows = rows(&vectors()["error_seq"]);
    assert_eq!(rows.len(), 600);
    let mut mixture = EProcess::new(ERROR_ODDS.len());
    for r in rows {
        let at_risk = PerArm::new(r[0] as u64, r[1] as u64);
        first_request::bet(&mut mixture, at_risk, PerArm::new(r[2] as u64, r[3] as u64));
        assert!(close(mixture.mean(), r[4]), "{r:?}: {}", mixture.mean());
    }
}

#[test]
fn the_table_of_latencies_and_its_bets_match_the_reference() {
    let v = vectors();
    let table = AgeTable::new(&numbers(&v["edges"]), &numbers(&v["hist"]));
    let want = numbers(&v["cuts"]);
    assert_eq!(table.cuts().len(), want.len());
    assert!(table.cuts().iter().zip(&want).all(|(got, want)| close(*got, *want)), "{:?}", table.cuts());
    let ends: Vec<f64> = table.tail_ends().map(|end| end as f64).collect();
    assert_eq!(ends, numbers(&v["xg"]));

    let mut mixture = EProcess::new(*latency::ROWS);
    let sequence = v["latency_seq"].as_array().expect("a sequence");
    assert_eq!(sequence.len(), 300);
    for slot in sequence {
        let mut ages = SlotAges {
            arrived: PerArm::new(slot[0].as_u64().unwrap_or(0), slot[1].as_u64().unwrap_or(0)),
            ..SlotAges::default()
        };
        for (g, (new, stable)) in numbers(&slot[2]).iter().zip(numbers(&slot[3])).enumerate() {
            ages.done[g] = PerArm::new(*new as u64, stable as u64);
        }
        table.bet_body(&ages, &mut mixture);
        (0..table.tail_ends().count()).for_each(|row| table.bet_tail(row, &ages, &mut mixture));
        let want = slot[4].as_f64().expect("a number");
        assert!(close(mixture.mean(), want), "{} for {want}", mixture.mean());
    }
}

/// E of L over k₁ ~ Hypergeometric, by enumeration.
fn mean_of_l(n1: u64, n0: u64, k: u64, lambda: f64) -> f64 {
    let ln_choose = |n: u64, k: u64| (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum::<f64>();
    (k.saturating_sub(n0)..=k.min(n1))
        .map(|x| {
            let ln_p = ln_choose(n1, x) + ln_choose(n0, k - x) - ln_choose(n1 + n0, k);
            (ln_p + cell(PerArm::new(n1, n0), PerArm::new(x, k - x), lambda).log).exp()
        })
        .sum()
}

fn arm() -> impl Strategy<Value = Arm> {
    prop_oneof![Just(Arm::New), Just(Arm::Stable)]
}

fn what() -> impl Strategy<Value = EventKind> {
    prop_oneof![
        4 => Just(EventKind::Arrived),
        3 => Just(EventKind::Answered),
        1 => Just(EventKind::ClientError),
        1 => Just(EventKind::Failed),
        1 => Just(EventKind::Excused),
        1 => Just(EventKind::Left { unusual: true }),
        1 => Just(EventKind::Broke),
        1 => Just(EventKind::EndedAsClientError),
    ]
}

proptest! {
    #[test]
    fn a_bet_is_fair_under_the_null(n1 in 1u64..80, n0 in 1u64..400, k in 1u64..479, lambda in -5.0f64..7.0) {
        let k = k.min(n1 + n0 - 1);
        prop_assert!(mean_of_l(n1, n0, k, lambda) <= 1.0 + 1e-9);
        prop_assert!(mean_of_l(n0, n1, k, lambda) <= 1.0 + 1e-9);
    }

    /// Any events, in any order, repeated or missing: no panic, E stays a number, and memory is
    /// freed.
    #[test]
    fn nonsense_is_survived(
        events in prop::collection::vec(
            (0u64..40, 0u64..3000, arm(), prop::option::of(0u32..users::UNITS), any::<bool>(),
             prop::option::of(0u8..20), what(), 0u64..5000, prop::option::weighted(0.05, 0u32..1_000_000)),
            1..200),
    ) {
        let mut engine = Engine::new(settings(3), Weight::from_parts(50_000), Baseline::default(), Duration::ZERO);
        let mut now = Duration::ZERO;
        for (id, at, arm, unit, drawn, stratum, what, after, weight) in events {
            let at = now.saturating_sub(Duration::from_millis(at % 900)) + Duration::from_millis(at / 30);
            let request = RequestStart { id, at, arm, unit: unit.map(UserUnit::from_index), drawn, stratum, server: None };
            engine.push(&RequestEvent { request, what, after: Duration::from_millis(after) });
            if let Some(parts) = weight {
                engine.weigh(Weight::from_parts(parts), now);
            }
            if id % 5 == 0 {
                now += Duration::from_millis(130);
                engine.tick(now, Duration::from_millis(300), |_| {});
            }
            prop_assert!(engine.e_value().is_finite() && engine.e_value() >= 0.0);
            prop_assert!(engine.notice().is_finite() && engine.share() <= 1.0);
        }
        engine.tick(now + Duration::from_secs(60), Duration::from_millis(300), |_| {});
        prop_assert_eq!(engine.in_flight(), 0);
    }
}

/// A reused number and a repeated answer must not hide a request without an answer.
#[test]
fn whoever_waits_is_not_hidden_by_what_is_told_twice() {
    let mut engine =
        Engine::new(settings(0), Weight::from_parts(500_000), Baseline::default(), Duration::ZERO);
    let ms = Duration::from_millis;
    let request = |id, at| RequestStart {
        id,
        at: ms(at),
        arm: Arm::New,
        unit: Some(UserUnit::from_index(id as u32)),
        drawn: true,
        stratum: None,
        server: None,
    };
    let mut tell = |id, at, what| engine.push(&RequestEvent { request: request(id, at), what, after: ms(5) });
    tell(1, 0, EventKind::Arrived);
    tell(2, 0, EventKind::Arrived);
    tell(3, 150, EventKind::Arrived);
    (0..2).for_each(|_| tell(2, 0, EventKind::Answered));
    tell(1, 150, EventKind::Answered);
    engine.tick(ms(500), ms(300), |_| {});
    assert_eq!(engine.in_flight(), 0);
}

fn settings(strata: usize) -> EngineSettings {
    EngineSettings {
        alpha: 0.001,
        tick: Duration::from_millis(100),
        latency_tolerance: 0.2,
        latency_notice: 0.03,
        latency_floor: Duration::ZERO,
        strata,
        warm_up: Duration::ZERO,
        shares: SHARES,
    }
}

/// xorshift64*, seeded: the simulations are the same on every machine.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..4).for_each(|_| _ = dice.uniform());
        dice
    }

    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// The outcome of a request of an arm: (duration, outcome). `None`: never.
pub(crate) type Answer = dyn Fn(&mut Dice, usize, Arm, u8) -> Option<(f64, EventKind)>;

/// Traffic through an engine: a population of users, 500 requests a second, in event order.
pub(crate) struct World {
    pub(crate) engine: Engine,
    dice: Dice,
    users: Vec<UserUnit>,
    weight: Weight,
    routes: u8,
    now: Duration,
    ids: u64,
    /// Future events by time.
    due: std::collections::BTreeMap<(Duration, u64), RequestEvent>,
    new_requests: u64,
}

impl World {
    pub(crate) fn new(seed: u64, users: usize, percent: f64, routes: u8) -> World {
        let mut dice = Dice::new(seed);
        let users = (0..users)
            .map(|_| UserUnit::from_index((dice.uniform() * f64::from(users::UNITS)) as u32))
            .collect();
        let weight = Weight::from_parts((percent * 10_000.0) as u32);
        let engine = Engine::new(settings(usize::from(routes)), weight, Baseline::default(), Duration::ZERO);
        let due = Default::default();
        World { engine, dice, users, weight, routes, now: Duration::ZERO, ids: 0, due, new_requests: 0 }
    }

    fn raise(&mut self, percent: f64) {
        self.weight = Weight::from_parts((percent * 10_000.0) as u32);
        self.engine.weigh(self.weight, self.now);
    }

    /// Returns the requests of new until E ≥ 1000.
    pub(crate) fn run(&mut self, requests: usize, answer: &Answer) -> Option<u64> {
        let before = self.new_requests;
        for i in 0..requests {
            self.now += Duration::from_millis(2);
            let user = (self.users.len() as f64 * self.dice.uniform().powi(2)) as usize;
            let unit = self.users[user];
            let arm = if unit.bucket() < self.weight.parts() { Arm::New } else { Arm::Stable };
            let route = (self.dice.uniform() * f64::from(self.routes.max(1))) as u8;
            self.ids += 1;
            let request = RequestStart {
                id: self.ids,
                at: self.now,
                arm,
                unit: Some(unit),
                drawn: true,
                stratum: Some(route),
                server: None,
            };
            self.new_requests += u64::from(arm == Arm::New);
            self.engine.push(&RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO });
            if let Some((ms, what)) = answer(&mut self.dice, user, arm, route) {
                let after = Duration::from_secs_f64(ms / 1e3);
                self.due.insert((self.now + after, self.ids), RequestEvent { request, what, after });
            }
            while let Some(first) = self.due.first_entry().filter(|e| e.key().0 <= self.now) {
                self.engine.push(&first.remove());
            }
            if i % 50 == 0 {
                self.engine.tick(self.now, Duration::from_millis(1000), |_| {});
                if self.engine.e_value() >= 1000.0 {
                    return Some(self.new_requests - before);
                }
            }
        }
        None
    }
}

/// p50 40 ms, p99.9 about 300 ms, one in a thousand fails.
pub(crate) fn sound(dice: &mut Dice, _user: usize, _arm: Arm, _route: u8) -> Option<(f64, EventKind)> {
    let what = if dice.uniform() < 0.001 { EventKind::Failed } else { EventKind::Answered };
    Some((40.0 * (0.5 * dice.normal()).exp(), what))
}

#[test]
fn versions_that_are_alike_are_left_alone() {
    let trips = (0..12).filter(|seed| World::new(*seed, 5000, 5.0, 3).run(60_000, &sound).is_some()).count();
    assert_eq!(trips, 0);
}

/// All answers take almost the same time, or one of a few times. The tolerance then moves all of
/// `new` out of stable's group.
#[test]
fn no_shape_of_latency_speaks_against_a_new_that_is_no_slower() {
    type Shape = fn(&mut Dice) -> f64;
    let steps: Shape = |dice| [10.0, 20.0, 30.0][(dice.uniform() * 3.0) as usize];
    let shoulder: Shape = |dice| if dice.uniform() < 0.9 { 20.0 } else { 24.5 };
    let at_least: Shape = |dice| 20.0 - 2.0 * (1.0 - dice.uniform()).ln();
    let cases: [(&str, Shape, f64, f64); 5] = [
        ("20 ms", |_| 20.0, 0.1, 1.0),
        ("10, 20 or 30 ms", steps, 0.001, 1.0),
        ("10, 20 or 30 ms, `new` within the tolerance", steps, 0.001, 1.15),
        ("a shoulder, `new` quicker", shoulder, 0.1, 0.8),
        ("20 ms and more, `new` quicker", at_least, 0.1, 0.8),
    ];
    for (what, shape, fails, times) in cases {
        let answer = move |dice: &mut Dice, _: usize, arm: Arm, _: u8| {
            let failed = if dice.uniform() < fails { EventKind::Failed } else { EventKind::Answered };
            Some((shape(dice) * if arm == Arm::New { times } else { 1.0 }, failed))
        };
        for seed in 0..6 {
            let mut world = World::new(seed, 5000, [5.0, 20.0, 50.0][seed as usize % 3], 0);
            assert_eq!(world.run(30_000, &answer), None, "{what}: {:?}", world.engine.rows(Signal::Latency));
        }
    }
}

#[test]
fn users_who_differ_do_not_trip_it() {
    let ugly = |dice: &mut Dice, user: usize, _: Arm, _: u8| {
        let poison = user % 200 == 7;
        let slow = if user % 50 == 3 { 10.0 } else { 1.0 + (user % 7) as f64 / 3.0 };
        let what = if poison || dice.uniform() < 0.001 { EventKind::Failed } else { EventKind::Answered };
        Some((40.0 * slow * (0.5 * dice.normal()).exp(), what))
    };
    let trips = (0..12).filter(|seed| World::new(*seed, 4000, 5.0, 0).run(60_000, &ugly).is_some()).count();
    assert_eq!(trips, 0);
}

/// The users of a wave are compared with their own past, and all of them had the same outage in it.
#[test]
fn an_outage_in_a_wave_does_not_speak_against_the_next() {
    let outage = |dice: &mut Dice, user: usize, arm: Arm, route: u8| match dice.uniform() {
        u if u < 0.4 => Some((30.0, EventKind::Failed)),
        _ => sound(dice, user, arm, route),
    };
    let mut world = World::new(5, 4000, 1.0, 0);
    for weight in [1.0, 5.0, 20.0, 50.0] {
        world.raise(weight);
        assert_eq!(world.run(10_000, &sound), None);
    }
    assert_eq!(world.run(10_000, &outage), None);
    for weight in [5.0, 20.0] {
        world.raise(weight);
        assert_eq!(world.run(25_000, &sound), None, "{weight}");
        assert!(world.engine.notice() < 100.0, "{}", world.engine.notice());
    }
}

/// Both versions get faster with the raise, or `new` loses the advantage of its low load.
#[test]
fn a_load_that_moves_with_a_raise_does_not_speak_against_those_who_stay() {
    type Ms = fn(Arm) -> f64;
    let cases: [(&str, Ms, Ms); 2] = [
        ("both quicker", |_| 40.0, |_| 1.0),
        ("new was quicker", |arm| if arm == Arm::New { 30.0 } else { 40.0 }, |_| 40.0),
    ];
    for (name, before, after) in cases {
        let at = |ms: Ms| {
            move |d: &mut Dice, _: usize, arm: Arm, _: u8| {
                Some((ms(arm) * (0.5 * d.normal()).exp(), EventKind::Answered))
            }
        };
        for seed in 0..3 {
            let mut world = World::new(seed, 5000, 20.0, 0);
            assert_eq!(world.run(60_000, &at(before)), None, "{name}, {seed}: before");
            world.raise(22.0);
            assert_eq!(world.run(60_000, &at(after)), None, "{name}, {seed}: after");
        }
    }
}

/// In a common outage stable fails soon and `new` late, while the first latency table is made. A
/// late failure is not a slow answer.
#[test]
fn a_table_that_comes_into_being_in_an_outage_blames_nobody() {
    let outage = |dice: &mut Dice, user: usize, arm: Arm, route: u8| match dice.uniform() {
        u if u < 0.7 => Some((if arm == Arm::New { 3000.0 } else { 300.0 }, EventKind::Failed)),
        _ => sound(dice, user, arm, route),
    };
    for seed in 0..4 {
        let mut world = World::new(seed, 20_000, 50.0, 0);
        assert_eq!(world.run(8_000, &sound), None);
        assert!(!world.engine.compares_latency());
        assert_eq!(world.run(12_000, &outage), None, "{seed}");
        assert!(world.engine.compares_latency());
        assert_eq!(world.run(5_000, &sound), None, "{seed}");
    }
}

#[test]
fn a_fault_is_seen_within_requests_of_new() {
    type Fault = fn(&mut Dice) -> Option<(f64, EventKind)>;
    let cases: [(&str, Fault, u64); 5] = [
        (
            "half fail",
            |d| Some((40.0, if d.uniform() < 0.5 { EventKind::Failed } else { EventKind::Answered })),
            60,
        ),
        ("404 to everyone", |_| Some((5.0, EventKind::ClientError)), 60),
        ("all hang", |_| None, 80),
        ("half slower", |d| Some((60.0 * (0.5 * d.normal()).exp(), EventKind::Answered)), 1500),
        (
            "a tenth stalls",
            |d| Some((if d.uniform() < 0.1 { 900.0 } else { 40.0 }, EventKind::Answered)),
            800,
        ),
    ];
    for (name, fault, limit) in cases {
        for late in [false, true] {
            let mut world = World::new(3, 20_000, 5.0, 0);
            // Early: before the fault there is only time to learn stable's usual latency. Late:
            // most users have been seen.
            assert_eq!(world.run(if late { 80_000 } else { 12_000 }, &sound), None, "{name}: {late}");
            let answer = move |d: &mut Dice, u: usize, arm: Arm, r: u8| match arm {
                Arm::New => fault(d),
                Arm::Stable => sound(d, u, arm, r),
            };
            let seen = world.run(200_000, &answer);
            eprintln!("{name}, late {late}: {seen:?}");
            assert!(seen.is_some_and(|n| n <= limit), "{name}, late {late}: {seen:?} of {limit}");
        }
    }
}

/// The arm with few users is always colder by microseconds. A real delay is still detected.
#[test]
fn a_difference_below_the_floor_is_none() {
    let floor = Duration::from_millis(2);
    let cold = |d: &mut Dice, _: usize, arm: Arm, _: u8| {
        let ms = if arm == Arm::New { 0.45 } else { 0.2 };
        Some((ms * (0.5 * d.normal()).exp(), EventKind::Answered))
    };
    let tried = |floor: Duration, answer: &Answer| {
        let mut world = World::new(7, 5000, 5.0, 0);
        world.engine.set_levels(0.2, 0.03, floor);
        let flipped = world.run(30_000, answer).is_some();
        (flipped, world.engine.notice() >= 1000.0)
    };
    assert_eq!(tried(floor, &cold), (false, false));
    assert!(tried(Duration::ZERO, &cold).0, "with no floor every difference counts");
    let slow = move |d: &mut Dice, u: usize, arm: Arm, r: u8| match arm {
        Arm::New => Some((4.0, EventKind::Answered)),
        Arm::Stable => cold(d, u, arm, r),
    };
    assert!(tried(floor, &slow).0, "twice the floor");
}

#[test]
fn a_restart_forgets_no_evidence() {
    let mut world = World::new(11, 4000, 5.0, 3);
    let bad = |d: &mut Dice, u: usize, arm: Arm, r: u8| match arm {
        Arm::New if d.uniform() < 0.02 => Some((30.0, EventKind::Failed)),
        _ => sound(d, u, arm, r),
    };
    world.run(20_000, &sound);
    world.raise(10.0);
    world.run(6_000, &bad);
    let saved = |engine: &Engine, now| {
        let mut encoder = codec::Encoder::new();
        engine.save(now, &mut encoder);
        encoder.finish()
    };
    let bytes = saved(&world.engine, world.now);
    let restore = |bytes: &[u8], strata| {
        Engine::restore(settings(strata), &mut codec::Decoder::open(bytes)?, Duration::from_secs(1))
    };
    let engine = restore(&bytes, 3).expect("as it was written");
    // Not exactly equal: requests in flight are left out, which may have let a cohort close.
    let (is, was) = (engine.e_value(), world.engine.e_value());
    assert!(was > 10.0 && is > was / 4.0 && is < was * 4.0, "{is} of {was}");
    let again = restore(&saved(&engine, Duration::from_secs(1)), 3).expect("as it was written");
    assert_eq!((again.e_value(), again.notice()), (engine.e_value(), engine.notice()));
    assert_eq!(engine.weight(), Weight::from_parts(100_000));
    assert_eq!(saved(&engine, Duration::from_secs(1)).len(), bytes.len());
    assert!(restore(&bytes, 2).is_none(), "other strata");

    // The restored engine continues: seen users are known, and the rest of the fault trips it.
    (world.engine, world.now) = (engine, Duration::from_secs(1));
    world.due.clear();
    assert!(world.run(400_000, &bad).is_some());
    for cut in [0, 1, 20, 1000, bytes.len() - 1] {
        assert!(restore(&bytes[..cut], 3).is_none(), "cut at {cut}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A file with a valid checksum and arbitrary content.
    #[test]
    fn nonsense_in_a_file_is_survived(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let world = World::new(3, 10, 5.0, 0);
        let mut encoder = codec::Encoder::new();
        world.engine.save(Duration::ZERO, &mut encoder);
        let mut bytes = encoder.finish();
        let body = bytes.len() - 8;
        for (at, value) in changes {
            // The clusters' sums are most of the file, so change what stands before them.
            let at = 20 + at.index(body.min(3000) - 20);
            bytes[at] = value;
        }
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes[..body]).to_le_bytes();
        bytes[body..].copy_from_slice(&sum);
        if let Some(mut decoder) = codec::Decoder::open(&bytes)
            && let Some(mut engine) = Engine::restore(settings(0), &mut decoder, Duration::ZERO)
        {
            engine.tick(Duration::from_secs(2), Duration::from_millis(250), |_| {});
            engine.weigh(Weight::from_parts(77_000), Duration::from_secs(3));
            prop_assert!(engine.e_value() >= 0.0);
        }
    }
}

#[test]
fn a_shift_of_ranks_is_told_as_the_slowdown_that_makes_it() {
    let edges: Vec<f64> = histogram::EDGES.iter().map(|e| f64::from(*e)).collect();
    let mut dice = Dice::new(9);
    let mut counts = vec![0.0; histogram::BUCKETS];
    let answers: Vec<f64> = (0..40_000).map(|_| 40_000.0 * (0.5 * dice.normal()).exp()).collect();
    answers.iter().for_each(|us| counts[histogram::index(*us as u64)] += 1.0);
    let table = latency::AgeTable::new(&edges, &counts);
    let mean_rank = |slower: f64| {
        let rank = |us: &f64| f64::from(table.rank(histogram::index((us * slower) as u64)));
        answers.iter().map(rank).sum::<f64>() / answers.len() as f64
    };
    for slower in [1.02, 1.05, 1.2, 2.0, 10.0] {
        let told = 1.0 + table.stretch_of(mean_rank(slower) - mean_rank(1.0)).unwrap();
        assert!((0.8..1.25).contains(&((told - 1.0) / (slower - 1.0))), "{slower}: {told}");
    }
    assert_eq!(table.stretch_of(0.51), None, "no rank is above 1");
    assert!((0.48..0.53).contains(&table.spread()), "{}", table.spread());
}

/// Within its number of requests, a third of the effect is rarely detected, and three times the
/// effect almost always.
#[test]
fn what_a_late_change_would_have_to_be_is_told_and_true() {
    let at = |late: f64| {
        move |d: &mut Dice, _: usize, arm: Arm, _: u8| {
            let slower = if arm == Arm::New { 1.0 + late } else { 1.0 };
            Some((40.0 * slower * (0.5 * d.normal()).exp(), EventKind::Answered))
        }
    };
    let told = |users: usize, late: Option<f64>| {
        let mut world = World::new(4, users, 0.0, 0);
        world.run(20_000, &at(0.0));
        assert_eq!(world.engine.detection_limit(), None, "nobody is in new");
        world.raise(20.0);
        assert_eq!(world.engine.detection_limit(), None, "no window is full");
        world.run(60_000, &at(0.0));
        let told = world.engine.detection_limit().unwrap();
        if let Some(times) = late {
            let notice = settings(0).latency_notice;
            let all = (1.0 + times * told.below) * (1.0 + notice) - 1.0;
            world.run(told.requests as usize + 4096, &at(all));
        }
        (told, world.engine.notice() >= 1000.0)
    };
    let (few, _) = told(300, None);
    let (many, seen) = told(6000, None);
    assert!(!seen);
    assert!(many.below < few.below, "{many:?} {few:?}");
    assert!(!told(6000, Some(0.33)).1);
    assert!(told(6000, Some(3.0)).1);
}
