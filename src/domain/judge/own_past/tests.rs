//! Simulated days of ordinary traffic, and a worse `new`, through [`OwnPast`] alone.

use super::*;
use crate::stats::engine::RequestStart;
use crate::stats::users::{UNITS, UserUnit};
use proptest::prelude::*;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        (-2.0 * (1.0 - self.uniform()).ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// The behaviour of the service at a moment.
#[derive(Clone, Copy)]
struct Weather {
    /// Requests a second of both arms.
    rate: f64,
    fails: f64,
    client_errors: f64,
    redirects: f64,
    median_ms: f64,
    /// Requests a second of one account that always fails.
    retries: f64,
}

const BASE: Weather = Weather {
    rate: 200.0,
    fails: 0.001,
    client_errors: 0.005,
    redirects: 0.02,
    median_ms: 30.0,
    retries: 0.0,
};

struct World {
    dice: Dice,
    before: OwnPast,
    second: u64,
}

fn event(unit: UserUnit, what: EventKind, after_ms: f64) -> RequestEvent {
    let request = RequestStart {
        id: 0,
        at: Duration::ZERO,
        arm: Arm::New,
        unit: Some(unit),
        drawn: true,
        stratum: None,
        server: None,
    };
    RequestEvent { request, what, after: Duration::from_secs_f64(after_ms / 1e3) }
}

impl World {
    fn new(seed: u64) -> World {
        World { dice: Dice(seed * 2 + 0x9e37_79b9), before: OwnPast::default(), second: 0 }
    }

    /// Simulates one second; `share` of the users are in `new`.
    fn second(&mut self, share: f64, of: Weather) {
        let dice = &mut self.dice;
        let expected = of.rate * share;
        let n = (expected + expected.sqrt() * dice.normal()).round().max(0.0) as u64;
        let mut events = vec![];
        for _ in 0..n {
            // Few users make most of the traffic.
            let user = (20_000.0 * dice.uniform() * dice.uniform()) as u32;
            let unit = UserUnit::from_index(user * (UNITS / 20_001));
            let what = match dice.uniform() {
                u if u < of.fails => EventKind::Failed,
                u if u < of.fails + of.client_errors => EventKind::ClientError,
                u if u < of.fails + of.client_errors + of.redirects => EventKind::Redirected,
                _ => EventKind::Answered,
            };
            events.push(event(unit, what, of.median_ms * (0.58 * dice.normal()).exp()));
        }
        let retries = (of.retries + dice.uniform()) as u64;
        (0..retries).for_each(|_| events.push(event(UserUnit::from_index(7), EventKind::Failed, 5.0)));
        self.before.record(&events);
        self.second += 1;
        self.before.tick(Duration::from_secs(self.second), share);
    }

    fn wave(&mut self, seconds: u64, share: f64, of: Weather) {
        (0..seconds).for_each(|_| self.second(share, of));
    }

    /// Seconds until the alarm.
    fn until_worse(&mut self, limit: u64, of: Weather) -> Option<u64> {
        (1..=limit).find(|_| {
            self.second(1.0, of);
            matches!(self.before.result(), PastResult::Worse(_))
        })
    }
}

#[test]
fn a_worse_version_at_100_is_told_within_the_limits_of_the_design() {
    for seed in 1..=10 {
        for (what, limit, of) in [
            ("+4 points", 120, Weather { fails: 0.041, ..BASE }),
            ("ten times slower", 300, Weather { median_ms: 300.0, ..BASE }),
            ("+10 points of 4xx", 120, Weather { client_errors: 0.105, ..BASE }),
            ("half redirected", 120, Weather { redirects: 0.5, ..BASE }),
        ] {
            let mut world = World::new(seed);
            world.wave(600, 0.2, BASE);
            world.wave(60, 1.0, BASE);
            assert_eq!(
                world.before.result(),
                PastResult::Usual,
                "{what}: {}",
                world.before.report().sentence()
            );
            let delay = world.until_worse(limit, of);
            assert!(delay.is_some(), "{what}, seed {seed}: {}", world.before.report().sentence());
        }
    }
}

#[test]
fn a_slow_tail_is_told() {
    let mut world = World::new(3);
    world.wave(600, 0.2, BASE);
    world.wave(120, 1.0, BASE);
    for _ in 0..120 {
        world.second(1.0, Weather { rate: 190.0, ..BASE });
        let slow: Vec<RequestEvent> = (0..10)
            .map(|i| event(UserUnit::from_index(1000 * i + world.second as u32), EventKind::Answered, 1500.0))
            .collect();
        world.before.record(&slow);
    }
    assert_eq!(
        world.before.result(),
        PastResult::Worse(PastMeasure::Tail),
        "{}",
        world.before.report().sentence()
    );
}

#[test]
fn it_stands_until_it_has_been_calm_and_learns_nothing_meanwhile() {
    let mut world = World::new(4);
    world.wave(600, 0.2, BASE);
    world.wave(120, 1.0, BASE);
    let worse = Weather { fails: 0.041, ..BASE };
    assert!(world.until_worse(120, worse).is_some());
    world.wave(4 * 3600, 1.0, Weather { rate: 20.0, ..worse });
    assert_eq!(world.before.result(), PastResult::Worse(PastMeasure::Errors), "it is no past of its own");
    world.wave(200, 1.0, BASE);
    assert!(matches!(world.before.result(), PastResult::Worse(_)));
    world.wave(800, 1.0, BASE);
    assert_eq!(world.before.result(), PastResult::Usual, "{}", world.before.report().sentence());
}

#[test]
fn one_account_that_begins_to_retry_and_a_short_pause_say_nothing() {
    let mut world = World::new(5);
    world.wave(600, 0.2, BASE);
    world.wave(120, 1.0, BASE);
    let retries = Weather { retries: 20.0, ..BASE };
    assert_eq!(world.until_worse(3600, retries), None);
    world.wave(3, 1.0, Weather { fails: 1.0, ..BASE });
    assert_eq!(world.until_worse(600, BASE), None);
}

#[test]
fn without_a_past_it_says_so_and_begins_one() {
    let mut world = World::new(6);
    world.wave(300, 1.0, BASE);
    assert_eq!(world.before.result(), PastResult::Unknown);
    assert!(
        world.before.report().sentence().contains("its past is not known"),
        "{}",
        world.before.report().sentence()
    );
    world.wave(900, 1.0, BASE);
    assert_eq!(world.before.result(), PastResult::Usual);
    assert!(world.until_worse(120, Weather { fails: 0.041, ..BASE }).is_some());
    world.wave(1, 0.99, BASE);
    assert_eq!(world.before.result(), PastResult::Learns, "there is a control again");
}

#[test]
fn a_slow_decline_is_held_against_the_last_wave() {
    let mut world = World::new(7);
    let of = Weather { rate: 20.0, ..BASE };
    world.wave(600, 0.5, of);
    // Over half a day, slower than the average fades.
    let told = (0..12 * 60).find(|minute| {
        let fails = 0.001 + 0.1 * f64::from(*minute) / 720.0;
        world.wave(60, 1.0, Weather { fails, ..of });
        matches!(world.before.result(), PastResult::Worse(PastMeasure::Errors))
    });
    assert!(told.is_some_and(|minute| minute < 8 * 60), "{told:?}");
}

/// Load, latency and failures by the hour of the day.
fn day(second: u64, of: Weather, fails: [f64; 2]) -> Weather {
    let phase = (std::f64::consts::TAU * second as f64 / 86_400.0).sin();
    let between = |low: f64, high: f64| low + (high - low) * (0.5 + 0.5 * phase);
    Weather {
        rate: of.rate * between(0.3, 1.0),
        median_ms: of.median_ms * between(1.0, 1.5),
        fails: between(fails[0], fails[1]),
        ..of
    }
}

/// Alarms in `days` days of each background, with the retrying account in all or in some.
fn days(days: u64, rate: f64, all: bool) -> Vec<String> {
    let mut alarms = vec![];
    let backgrounds = [[0.001; 2], [0.005; 2], [0.01; 2], [0.02; 2], [0.03; 2], [0.001, 0.03]];
    for (seed, fails) in (1..).zip(backgrounds).filter(|(seed, _)| all || [1, 5, 6].contains(seed)) {
        for retries in [0.0, 6.0].into_iter().filter(|r| all || (seed % 2 == 0) == (*r > 0.0)) {
            // The wave is at the worst hour: the past covers the quietest time only.
            let begins = 64_800 - 600;
            let mut world = World::new(seed);
            let of = Weather { rate, retries: retries * rate / 200.0, ..BASE };
            let mut was = false;
            for second in 0..days * 86_400 {
                let share = if second < 600 { 0.2 } else { 1.0 };
                world.second(share, day(begins + second, of, fails));
                let is = matches!(world.before.result(), PastResult::Worse(_));
                if is && !was {
                    alarms.push(format!(
                        "{fails:?} {retries} at {second}: {}",
                        world.before.report().sentence()
                    ));
                }
                was = is;
            }
        }
    }
    alarms
}

/// `tests/run --long` also runs a week, and a busy day: minutes of CPU time.
#[test]
fn ordinary_days_alarm_nobody() {
    assert_eq!(days(1, 4.0, false), Vec::<String>::new());
    if std::env::var_os("GRAYLING_TESTS_LONG").is_some() {
        assert_eq!(days(7, 60.0, true), Vec::<String>::new());
        assert_eq!(days(1, 200.0, true), Vec::<String>::new());
    }
}

fn saved(before: &OwnPast) -> Vec<u8> {
    let mut encoder = Encoder::with(b"before\n");
    before.save(&mut encoder);
    encoder.finish()
}

fn restored(bytes: &[u8], now: Duration) -> Option<OwnPast> {
    OwnPast::restore(&mut Decoder::open_with(b"before\n", bytes)?, now)
}

#[test]
fn a_restart_keeps_the_past_and_what_stands() {
    let mut world = World::new(8);
    world.wave(600, 0.2, BASE);
    world.wave(120, 1.0, BASE);
    let mut again = restored(&saved(&world.before), Duration::ZERO).unwrap();
    assert_eq!(again.past, world.before.past);
    assert_eq!(again.result(), PastResult::Usual);
    let worse = Weather { fails: 0.041, ..BASE };
    std::mem::swap(&mut again, &mut world.before);
    world.second = 0;
    assert!(world.until_worse(120, worse).is_some());
    let again = restored(&saved(&world.before), Duration::ZERO).unwrap();
    assert_eq!(again.result(), PastResult::Worse(PastMeasure::Errors));
}

#[test]
fn an_accepted_change_is_the_usual_level_from_then_on() {
    let mut world = World::new(9);
    world.wave(600, 0.2, BASE);
    world.wave(120, 1.0, BASE);
    let worse = Weather { fails: 0.041, median_ms: 70.0, ..BASE };
    assert!(world.until_worse(200, worse).is_some());
    world.before.begin_anew();
    assert_eq!((world.before.result(), world.before.ratio()), (PastResult::Unknown, 0.0));
    let detail = world.before.report().sentence();
    assert!(detail.contains("0 of 10 minutes"), "{detail}");
    // A restart does not bring the alarm back.
    assert_eq!(restored(&saved(&world.before), Duration::ZERO).unwrap().result(), PastResult::Unknown);
    assert_eq!(world.until_worse(1_800, worse), None, "{}", world.before.report().sentence());
    assert_eq!(world.before.result(), PastResult::Usual);
    // Worse than the accepted level is an alarm again.
    let worse_still = Weather { fails: 0.12, ..worse };
    assert!(world.until_worse(200, worse_still).is_some(), "{}", world.before.report().sentence());
}

proptest! {
    /// Any bytes in the file: no panic, and parsed values are possible ones.
    #[test]
    fn any_bytes_are_understood_or_refused(mut body in prop::collection::vec(any::<u8>(), 0..400), own: bool, at: prop::sample::Index) {
        if own {
            let whole = saved(&OwnPast::default());
            let kept = &whole[b"before\n".len()..whole.len() - 8];
            let at = at.index(kept.len());
            body.truncate(kept.len() - at);
            body = [&kept[..at], &body, &kept[at + body.len()..]].concat();
        }
        let mut bytes = [b"before\n".as_slice(), &body].concat();
        let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
        bytes.extend(sum.to_le_bytes());
        if let Some(mut before) = restored(&bytes, Duration::ZERO) {
            before.record(&[event(UserUnit::from_index(1), EventKind::Answered, 3.0)]);
            before.tick(Duration::from_secs(61), 1.0);
            prop_assert!((0.0..=1.0).contains(&before.ratio()));
        }
    }
}
