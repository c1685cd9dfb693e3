//! Tests of spells and warm-ups.

use super::*;
use crate::stats::engine::tests::Dice;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(100);

fn at(arm: Arm, server: u8) -> ServerIndex {
    ServerIndex { arm, server }
}

/// Servers with 20 requests a second each, of which a share is slow. Some servers pause.
struct Service {
    servers: ServerClusters,
    dice: Dice,
    now: Duration,
    places: Vec<ServerIndex>,
}

impl Service {
    fn new(new: u8, stable: u8) -> Service {
        let mut servers = ServerClusters::new(Duration::ZERO);
        servers.set_usual(LIMIT, [0.007, 0.001]);
        let of = |arm, n| (0..n).map(move |server| at(arm, server));
        let places = of(Arm::New, new).chain(of(Arm::Stable, stable)).collect();
        Service { servers, dice: Dice::new(1), now: Duration::from_secs(100), places }
    }

    /// `pauses(place, second)`: true if this server pauses at that time.
    fn run(&mut self, seconds: f64, pauses: impl Fn(ServerIndex, f64) -> bool) {
        for _ in 0..(seconds * 20.0) as u32 {
            self.now += 50 * MS;
            self.servers.tick(self.now);
            for place in self.places.clone() {
                // A request that is marked now arrived one limit ago.
                let arrived = self.now - LIMIT;
                self.servers.came(place, self.now);
                let slow = pauses(place, arrived.as_secs_f64()) || self.dice.uniform() < 0.007;
                let user = UserUnit::from_index((self.dice.uniform() * 1e6) as u32);
                let (bad, fine): (&[_], _) = if slow { (&[Some(user)], 0) } else { (&[], 1) };
                self.servers.mark(place, ServerMark::Slow, arrived, bad, fine, self.now);
            }
        }
    }

    fn slow(&self, place: ServerIndex, at: Duration) -> Excuse {
        self.servers.slow(place, at, self.now)
    }
}

#[test]
fn a_pause_as_stable_has_them_is_excused_and_a_longer_one_is_not() {
    let (mut service, new) = (Service::new(1, 10), at(Arm::New, 0));
    let paused = |place: ServerIndex, second: f64| {
        let phase = 5.0 * f64::from(place.server) + 2.5 * f64::from(u8::from(place.arm == Arm::New));
        (second - 100.0 - phase).rem_euclid(60.0) < 1.0
    };
    service.run(300.0, paused);
    let (spells, longest) = service.servers.usual_spells(ServerMark::Slow);
    assert!((45..90).contains(&spells), "{spells}");
    assert!(longest > 800 * MS && longest < 1400 * MS, "{longest:?}");
    // The last pause of `new` began at 102.5 + 240.
    assert_eq!(service.slow(new, Duration::from_millis(343_000)), Excuse::Yes);
    assert_eq!(service.slow(new, Duration::from_millis(350_000)), Excuse::No);
    assert!(!service.servers.too_many(ServerMark::Slow));
    // The next pause does not end.
    let began = service.now;
    service.run(1.0, |place, second| place == new || paused(place, second));
    assert_eq!(service.slow(new, service.now - 300 * MS), Excuse::Undecided);
    service.run(2.0, |place, second| place == new || paused(place, second));
    assert_eq!(service.slow(new, began + 500 * MS), Excuse::No);
}

#[test]
fn where_nothing_pauses_half_a_second_is_all_that_is_excused() {
    let (mut service, new) = (Service::new(1, 10), at(Arm::New, 0));
    service.run(300.0, |_, _| false);
    let allowed = service.servers.allowed(ServerMark::Slow);
    assert!(allowed < 1000 * MS, "{allowed:?}");
    service.run(1.2, |place, _| place == new);
    assert_eq!(service.slow(new, service.now - 400 * MS), Excuse::No);
}

#[test]
fn pauses_of_new_alone_are_too_many_after_a_few() {
    let (mut service, new) = (Service::new(1, 10), at(Arm::New, 0));
    service.run(300.0, |_, _| false);
    service.run(300.0, |place, second| place == new && second.rem_euclid(30.0) < 0.4);
    assert!(service.servers.too_many(ServerMark::Slow), "{:?}", service.servers.usual[0].wealth);
    // At equal rates of both arms, one hour of pauses is not too many.
    let mut service = Service::new(1, 10);
    service.run(3600.0, |place, second| {
        let phase = 7.3 * f64::from(place.server) + 3.1 * f64::from(u8::from(place.arm == Arm::New));
        (second - phase).rem_euclid(60.0) < 0.5
    });
    assert!(!service.servers.too_many(ServerMark::Slow));
}

#[test]
fn failures_are_excused_only_beside_a_sound_server_and_where_stable_has_several_too() {
    let mut servers = ServerClusters::new(Duration::ZERO);
    let mut now = Duration::from_secs(10);
    let fail = |servers: &mut ServerClusters, failing: &[u8], now: Duration| {
        for server in 0..2 {
            servers.came(at(Arm::New, server), now);
            let (bad, fine): (&[_], _) = if failing.contains(&server) { (&[None], 0) } else { (&[], 1) };
            servers.mark(at(Arm::New, server), ServerMark::Failed, now, bad, fine, now);
        }
        servers.tick(now);
    };
    for _ in 0..10 {
        fail(&mut servers, &[0], now);
        now += 100 * MS;
    }
    servers.came(at(Arm::Stable, 0), now);
    assert_eq!(servers.failed(at(Arm::New, 0), now - 500 * MS, now), Excuse::No);
    servers.came(at(Arm::Stable, 1), now);
    assert_ne!(servers.failed(at(Arm::New, 0), now - 500 * MS, now), Excuse::No);
    assert_eq!(servers.failed(at(Arm::New, 1), now - 500 * MS, now), Excuse::No);
    for _ in 0..10 {
        fail(&mut servers, &[0, 1], now);
        now += 100 * MS;
    }
    assert_eq!(servers.failed(at(Arm::New, 0), now - 500 * MS, now), Excuse::No);
}

#[test]
fn a_server_of_the_attempt_before_excuses_no_failure_of_this_one() {
    let mut servers = ServerClusters::new(Duration::ZERO);
    let mut now = Duration::from_secs(10);
    let both = [Arm::Stable, Arm::New].map(|arm| [at(arm, 0), at(arm, 1)]);
    both.into_iter().flatten().for_each(|place| servers.came(place, now));
    servers.begin_anew(Duration::ZERO);
    for _ in 0..10 {
        now += 100 * MS;
        both[0].into_iter().chain([both[1][0]]).for_each(|place| servers.came(place, now));
        servers.mark(both[1][0], ServerMark::Failed, now, &[None], 0, now);
        servers.tick(now);
    }
    assert_eq!(servers.failed(both[1][0], now - 500 * MS, now), Excuse::No);
}

#[test]
fn a_warm_up_takes_its_time_and_twenty_answers_and_ends_in_any_case() {
    let minute = Duration::from_secs(60);
    let mut servers = ServerClusters::new(minute);
    let new = at(Arm::New, 0);
    let mut now = Duration::from_secs(1000);
    servers.tick(now);
    servers.release_warms_up(now);
    let began = now;
    let pass = |servers: &mut ServerClusters, now: &mut Duration, seconds: u32, answers: u32| {
        for second in 0..seconds {
            *now += Duration::from_secs(1);
            servers.tick(*now);
            if second < answers {
                servers.came(new, *now);
                servers.answered(new);
            }
        }
    };
    pass(&mut servers, &mut now, 61, 0);
    assert_eq!(servers.warming(now).map(|w| w.answers_left), Some(20));
    pass(&mut servers, &mut now, 30, 20);
    assert_eq!(servers.warming(now), None);
    assert_eq!(servers.slow(new, began + minute, now), Excuse::Yes);
    assert_eq!(servers.slow(new, now, now), Excuse::No);
    assert!(!servers.is_warming(at(Arm::Stable, 0), began + minute));
    // A server that never answers counts after five minutes of the wave.
    servers.release_warms_up(now);
    pass(&mut servers, &mut now, 299, 0);
    assert!(servers.warming(now).is_some());
    pass(&mut servers, &mut now, 3, 0);
    assert_eq!(servers.warming(now), None);
    // A server restarts repeatedly: the fourth start within half an hour has no warm-up.
    servers.wave();
    for times in 0..4 {
        servers.server_warms_up(new, now);
        assert_eq!(servers.warming(now).is_some(), times < 3, "{times}");
        pass(&mut servers, &mut now, 62, 30);
    }
}

#[test]
fn what_is_known_of_a_server_stays_with_it_when_others_come_and_go() {
    let mut servers = ServerClusters::new(60 * SECOND);
    servers.server_warms_up(at(Arm::New, 2), 10 * SECOND);
    servers.server_warms_up(at(Arm::Stable, 0), 10 * SECOND);
    // The first of three is gone.
    servers.renumber(Arm::New, &[Some(1), Some(2)]);
    assert_eq!(servers.warming(20 * SECOND).map(|of| (of.server, of.left)), Some((Some(1), 50 * SECOND)));
    // One comes in front of them, and the one that warms up is gone.
    servers.renumber(Arm::New, &[None, Some(0)]);
    assert_eq!(servers.warming(20 * SECOND), None);
    assert!(servers.is_warming(at(Arm::Stable, 0), 20 * SECOND), "those of the other arm stay");
}

#[test]
fn a_restart_in_a_warm_up_goes_on_with_it() {
    let mut servers = ServerClusters::new(60 * SECOND);
    servers.release_warms_up(1000 * SECOND);
    servers.server_warms_up(at(Arm::New, 1), 1010 * SECOND);
    let restart = |servers: &ServerClusters, now: Duration| {
        let mut encoder = Encoder::with(b"");
        servers.save(now, &mut encoder);
        let bytes = encoder.finish();
        ServerClusters::restore(60 * SECOND, SECOND, &mut Decoder::open_with(b"", &bytes).unwrap()).unwrap()
    };
    let servers = restart(&servers, 1030 * SECOND);
    assert_eq!(servers.warming(SECOND).map(|of| of.left), Some(30 * SECOND));
    assert_eq!(servers.warming(11 * SECOND).map(|of| of.left), Some(20 * SECOND));
    // And through another one.
    let mut servers = restart(&servers, 11 * SECOND);
    assert_eq!(servers.warming(SECOND).map(|of| of.left), Some(20 * SECOND));
    (0..20).for_each(|_| servers.answered(at(Arm::New, 1)));
    servers.tick(20 * SECOND);
    assert!(servers.warming(20 * SECOND).is_some());
    servers.tick(21 * SECOND);
    assert_eq!(servers.warming(21 * SECOND).map(|of| (of.server, of.left)), Some((Some(1), 10 * SECOND)));
    servers.tick(31 * SECOND);
    assert_eq!(servers.warming(31 * SECOND), None);
}
