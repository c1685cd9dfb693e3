//! The watchdog with realistic services: servers that pause, versions that start cold, background
//! errors, one account that retries, reports that take seconds.
//! Long tests; each prints its figure.

use crate::world::{
    Admin, Call, Config, Demand, Fleet, Proxy, Reply, Traffic, World, eventually, figure, grayling, latency,
    long, median, never, seconds, turn, users_in_new,
};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const USERS: u64 = 20_000;
/// If the file supports it: short, so that a test need not wait for a minute.
pub const WARM_UP_S: u64 = 20;

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Median 30 ms.
pub fn calm(call: &Call<'_>) -> Reply {
    Reply::ok(latency(call, 30.0, 0.5))
}

/// This share fails.
pub fn fails(share: f64) -> impl Fn(&Call<'_>) -> Reply + Send + Sync + 'static {
    move |call| {
        let status = if call.draws[2] < share { 500 } else { 200 };
        Reply::status(status, latency(call, 30.0, 0.5))
    }
}

pub struct Scene {
    pub stable: Fleet,
    pub new: Fleet,
    pub proxy: Proxy,
    pub config: Config,
    pub traffic: Traffic,
    pub world: World,
}

impl Scene {
    /// Both versions behind a weight of 0%, for long enough that stable is known.
    fn at_nothing(stable: Fleet, new: Fleet, demand: Demand, known_after: Duration, watchdog: &str) -> Scene {
        Scene::of(stable, new, demand, known_after, |config| config.watchdog(watchdog))
    }

    pub fn of(
        stable: Fleet,
        new: Fleet,
        demand: Demand,
        known_after: Duration,
        change: impl FnOnce(Config) -> Config,
    ) -> Scene {
        let world = World::new();
        let mut config = Config::new(stable.addresses[0], new.addresses[0]).weight("0%");
        config.stable = stable.addresses.clone();
        config.new = new.addresses.clone();
        let config = change(config.watchdog("").release(&warm_up()));
        let proxy = world.run(&config);
        let traffic = Traffic::start(proxy.http, demand);
        std::thread::sleep(known_after);
        Scene { stable, new, proxy, config, traffic, world }
    }

    /// Moves users to new; returns when the weight is in force.
    fn raise(&self, weight: &str) -> Instant {
        self.world.write(&self.config.clone().weight(weight));
        eventually(seconds(10), "the weight is in force", || {
            (self.api().weight() > 0.0 || self.new.count() > 0).then(Instant::now)
        })
    }

    /// Puts other servers behind `new`, at 0%.
    fn next_attempt(&mut self, new: Fleet) {
        self.config.attempt += 1;
        self.config.new = new.addresses.clone();
        self.new = new;
        self.world.write(&self.config);
        eventually(seconds(10), "the attempt is in force", || {
            (self.api().release()["attempt"] == self.config.attempt).then_some(())
        });
    }

    pub fn api(&self) -> Admin {
        self.proxy.api()
    }

    /// The trip within a time; `None`: none.
    fn trip_within(&self, within: Duration) -> Option<(Duration, Value)> {
        let (start, api) = (Instant::now(), self.api());
        while start.elapsed() < within {
            if let Some(trip) = api.trip() {
                return Some((start.elapsed(), trip));
            }
            std::thread::sleep(ms(50));
        }
        None
    }

    /// Expects no rollback; prints the observation.
    fn stays(&self, what: &str, during: Duration) {
        let found = self.trip_within(during).filter(|_| self.api().release()["state"] == "rolled_back");
        let dog = self.api().release()["watchdog"].clone();
        match &found {
            None => figure(&format!(
                "{what}: no trip in {} s; {} requests of new, {} of stable; {}: {}",
                during.as_secs(),
                self.new.count(),
                self.stable.count(),
                dog["state"],
                dog["detail"]
            )),
            Some((after, trip)) => figure(&format!(
                "{what}: TRIPPED after {:.1} s, {}: {}",
                after.as_secs_f64(),
                trip["cause"],
                trip["detail"]
            )),
        }
        assert!(found.is_none(), "{what}: {found:?}\n{:?}", self.traffic.counts());
    }

    /// Expects a rollback within a time; returns the trip.
    fn trips(&self, what: &str, within: Duration) -> (Duration, Value) {
        let found = self.trip_within(within);
        let dog = self.api().release()["watchdog"].clone();
        let Some((after, trip)) = found else {
            figure(&format!(
                "{what}: NOT FOUND in {} s; {}: {}",
                within.as_secs(),
                dog["state"],
                dog["detail"]
            ));
            panic!("{what}: not found in {within:?}: {dog}");
        };
        figure(&format!(
            "{what}: trip after {:.1} s, {}: {}",
            after.as_secs_f64(),
            trip["cause"],
            trip["detail"]
        ));
        (after, trip)
    }
}

/// The key that sets the warm-up, if this version has it.
fn warm_up() -> String {
    let schema = String::from_utf8(grayling(&["schema"]).stdout).unwrap();
    match schema.contains("\"warm_up\"") {
        true => format!("warm_up = \"{WARM_UP_S}s\""),
        false => String::new(),
    }
}

pub fn demand(per_second: f64) -> Demand {
    Demand::steady(per_second, USERS)
}

/// A server stops for 0.7 s each 30 s, each at a different time.
fn pausing(call: &Call<'_>) -> Reply {
    pauses(call, 30.0, 0.7)
}

pub fn pauses(call: &Call<'_>, period: f64, length: f64) -> Reply {
    let phase = (call.at.as_secs_f64() + 3.37 * call.server as f64).rem_euclid(period);
    let waits = if phase < length { length - phase } else { 0.0 };
    Reply::ok(latency(call, 30.0, 0.5) + Duration::from_secs_f64(waits))
}

#[test]
fn a_server_of_new_that_pauses_as_those_of_stable_do_is_left_in() {
    if !long() {
        return;
    }
    let _turn = turn();
    let (stable, new) = (Fleet::start(8, pausing), Fleet::start(1, pausing));
    let scene = Scene::at_nothing(stable, new, demand(200.0), seconds(150), "");
    scene.raise("20%");
    scene.stays("0.7 s each 30 s, one server beside eight", seconds(300));
}

#[test]
fn a_cold_start_is_warming_up_and_no_trip() {
    if !long() {
        return;
    }
    let _turn = turn();
    let cold = |call: &Call<'_>| if call.number < 20 { Reply::ok(seconds(3)) } else { calm(call) };
    let scene =
        Scene::at_nothing(Fleet::start(2, calm), Fleet::start(1, cold), demand(100.0), seconds(60), "");
    let raised = scene.raise("20%");
    let told = std::iter::from_fn(|| {
        std::thread::sleep(ms(100));
        (raised.elapsed() < seconds(5)).then(|| scene.api().release().to_string())
    });
    let told =
        told.filter(|status| status.contains("warming up") || status.contains("warming_up\":{")).count();
    figure(&format!("the first 20 requests take 3 s: {told} of 50 looks in 5 s say that it warms up"));
    scene.stays("the first 20 requests take 3 s", seconds(90));
    assert!(told > 0, "the status says that it warms up");
}

#[test]
fn one_user_with_a_slow_report_takes_nobody_out() {
    if !long() {
        return;
    }
    let _turn = turn();
    let analyst = users_in_new("analyst", 20, 1).remove(0);
    let slow = analyst.clone();
    let report = move |call: &Call<'_>| if call.user == slow { Reply::ok(ms(2_500)) } else { calm(call) };
    let scene =
        Scene::at_nothing(Fleet::start(2, calm), Fleet::start(1, report), demand(20.0), seconds(60), "");
    scene.raise("20%");
    let (address, analyst_asks) =
        (scene.proxy.http, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let commands = std::sync::Arc::clone(&analyst_asks);
    let thread = std::thread::spawn(move || {
        let mut number = 0;
        while commands.load(std::sync::atomic::Ordering::Relaxed) {
            let analyst = analyst.clone();
            // Each on its own connection: the next begins before the previous one has ended.
            std::thread::spawn(move || drop(crate::world::Client::new(address).get_as(&analyst)));
            number += 1;
            std::thread::sleep(seconds(2));
        }
        number
    });
    scene.stays("one user with a report of 2.5 s each 2 s", seconds(180));
    analyst_asks.store(false, std::sync::atomic::Ordering::Relaxed);
    assert!(thread.join().unwrap() >= 80);
}

/// Three at a time: they wait for their users more than for the processor.
#[test]
fn twelve_percent_beside_two_is_found() {
    if !long() {
        return;
    }
    let _turn = turn();
    let found: Vec<f64> = std::thread::scope(|scope| {
        let one = |i: u64| {
            scope.spawn(move || {
                let (stable, new) = (Fleet::start(2, fails(0.02)), Fleet::start(1, fails(0.12)));
                let scene = Scene::at_nothing(stable, new, demand(20.0), seconds(120 + i), "");
                scene.raise("5%");
                let (after, trip) = scene.trips("stable 2%, new 12%, 20/s, 5%", seconds(1_800));
                assert!(["errors", "ceiling"].contains(&trip["cause"].as_str().unwrap()), "{trip}");
                after.as_secs_f64()
            })
        };
        let runs: Vec<_> = (0..3).map(one).collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    let middle = median(found.clone());
    figure(&format!("stable 2%, new 12%, 20/s: median of 3 is {middle:.0} s"));
    assert!(middle <= 900.0, "{found:?}");
}

#[test]
fn an_account_of_stable_that_retries_hides_nothing() {
    if !long() {
        return;
    }
    let _turn = turn();
    let bot = in_stable("bot", 20);
    let (one, two) = (bot.clone(), bot.clone());
    let stable =
        move |call: &Call<'_>| if call.user == one { Reply::status(500, ms(5)) } else { fails(0.001)(call) };
    let new =
        move |call: &Call<'_>| if call.user == two { Reply::status(500, ms(5)) } else { fails(0.031)(call) };
    let demand = Demand { heavy: Some((bot, 0.03)), ..demand(150.0) };
    let scene = Scene::at_nothing(Fleet::start(2, stable), Fleet::start(1, new), demand, seconds(120), "");
    scene.raise("20%");
    let (after, trip) =
        scene.trips("an account of stable retries, new +3 points, 150/s, 20%", seconds(60 + WARM_UP_S));
    assert!(["errors", "ceiling"].contains(&trip["cause"].as_str().unwrap()), "{after:?} {trip}");
}

fn in_stable(prefix: &str, percent: u32) -> String {
    let users: Vec<String> = users_in_new(prefix, percent, 1_000);
    (0..).map(|n| format!("{prefix}-{n}")).find(|user| !users.contains(user)).unwrap()
}

fn shared_outage(what: &str, time_outs: [&str; 2]) {
    let _turn = turn();
    let (stable, new) = (Fleet::start(2, calm), Fleet::start(2, calm));
    let scene = Scene::of(stable, new, demand(100.0), seconds(60), |mut config| {
        config.upstreams = format!("response_timeout = \"{}\"", time_outs[0]);
        config.upstream_new = Some(format!("response_timeout = \"{}\"", time_outs[1]));
        config
    });
    scene.raise("20%");
    std::thread::sleep(seconds(60 + WARM_UP_S));
    // The shared database hangs for a third of the requests.
    let sick = |call: &Call<'_>| if call.draws[2] < 0.3 { Reply::Hang } else { calm(call) };
    scene.stable.behave(sick);
    scene.new.behave(sick);
    scene.stays(what, seconds(60));
    scene.stable.behave(calm);
    scene.new.behave(calm);
    scene.stays(&format!("{what}, afterwards"), seconds(30));
}

#[test]
fn a_shared_outage_with_a_short_time_out_of_new_is_not_blamed_on_it() {
    if !long() {
        return;
    }
    shared_outage("a shared outage, time-outs of 3 s in stable and 1 s in new", ["3s", "1s"]);
}

#[test]
fn a_shared_outage_with_a_long_time_out_of_new_is_not_blamed_on_it() {
    if !long() {
        return;
    }
    shared_outage("a shared outage, time-outs of 1 s in stable and 3 s in new", ["1s", "3s"]);
}

/// A fault that users notice, in all responses of new, once it is warm.
fn broken(what: &str, cause: &str, rule: impl Fn(&Call<'_>) -> Reply + Send + Sync + 'static) {
    let _turn = turn();
    let scene =
        Scene::at_nothing(Fleet::start(2, calm), Fleet::start(1, calm), demand(60.0), seconds(60), "");
    scene.raise("20%");
    // The default is a minute, if the file cannot set it.
    std::thread::sleep(seconds(if warm_up().is_empty() { 60 } else { WARM_UP_S } + 10));
    scene.new.behave(rule);
    let (_, trip) = scene.trips(what, seconds(20));
    assert_eq!(trip["cause"], cause, "{trip}");
    let by = &trip["decided_by"];
    assert_eq!(by["signal"], cause, "{trip}");
    assert_eq!(by["one_server"], true, "{trip}");
    assert_eq!(by["server"], scene.new.addresses[0].to_string(), "{trip}");
}

#[test]
fn redirects_to_everybody_are_found() {
    if !long() {
        return;
    }
    broken("302 to everybody of new, 60/s, 20%", "redirects", |call| {
        Reply::Redirect(latency(call, 30.0, 0.5))
    });
}

#[test]
fn empty_bodies_are_found() {
    if !long() {
        return;
    }
    broken("empty 200s to everybody of new, 60/s, 20%", "empty", |call| Reply::Answer {
        status: 200,
        after: latency(call, 30.0, 0.5),
        bytes: 0,
        body_after: Duration::ZERO,
    });
}

#[test]
fn bodies_that_come_late_are_found() {
    if !long() {
        return;
    }
    broken("bodies of new 3 s after the head, 60/s, 20%", "duration", |call| Reply::Answer {
        status: 200,
        after: latency(call, 30.0, 0.5),
        bytes: 40,
        body_after: seconds(3),
    });
}

#[test]
fn slow_answers_below_a_stated_ceiling_are_no_failures_at_100_percent() {
    if !long() {
        return;
    }
    let _turn = turn();
    let slow = |call: &Call<'_>| {
        let after = if call.draws[2] < 0.065 { 2_000.0 + 3_000.0 * call.draws[0] } else { 300.0 };
        Reply::ok(Duration::from_secs_f64(after / 1e3))
    };
    let (stable, new) = (Fleet::start(2, slow), Fleet::start(2, slow));
    let scene = Scene::at_nothing(stable, new, demand(50.0), seconds(60), "latency_p99_max = \"10s\"");
    scene.raise("50%");
    std::thread::sleep(seconds(30));
    scene.raise("100%");
    scene.stays("6.5% of answers over 2 s, latency_p99_max 10 s, at 100%", seconds(180));
}

/// Three attempts of a fault, each with fresh servers of `new`; returns the delays in seconds from
/// the onset to the moment when the weight is 0.
fn gross(scene: &mut Scene, servers: usize, what: &str, breaks: impl Fn(&Fleet)) -> Vec<f64> {
    let once = |number: u32| {
        scene.next_attempt(Fleet::start(servers, quick));
        scene.raise("20%");
        std::thread::sleep(seconds(WARM_UP_S + 10));
        assert!(scene.api().trip().is_none(), "{what}: tripped before: {:?}", scene.api().trip());
        let (onset, api) = (Instant::now(), scene.api());
        breaks(&scene.new);
        let took = eventually(seconds(30), what, || (api.weight() == 0.0).then(|| onset.elapsed()));
        let trip = api.trip().unwrap();
        figure(&format!(
            "M9 {what}, {number} of 3: {} ms from onset to rollback ({} by its own clock), {}: {}",
            took.as_millis(),
            trip["onset_to_trip_ms"],
            trip["cause"],
            trip["detail"]
        ));
        took.as_secs_f64()
    };
    (1..=3).map(once).collect()
}

fn quick(call: &Call<'_>) -> Reply {
    Reply::ok(latency(call, 5.0, 0.3))
}

fn half_fails(call: &Call<'_>) -> Reply {
    Reply::status(if call.draws[2] < 0.5 { 500 } else { 200 }, latency(call, 5.0, 0.3))
}

type Breaks = fn(&Fleet);

/// In the order of the limits, in seconds: +50 points, hang, cut bodies, resets, refused.
fn gross_faults(servers: usize, limits: [f64; 5]) {
    let _turn = turn();
    let faults: [(&str, Breaks); 5] = [
        ("+50 points of failures", |new| new.behave(half_fails)),
        ("hang", |new| new.behave(|_| Reply::Hang)),
        ("cut bodies", |new| new.behave(|_| Reply::CutBody)),
        ("resets", |new| new.behave(|_| Reply::Reset)),
        ("refused", Fleet::refuse),
    ];
    let (stable, new) = (Fleet::start(10, quick), Fleet::start(servers, quick));
    let mut scene = Scene::at_nothing(stable, new, demand(1_000.0), seconds(60), "");
    let mut late = vec![];
    for ((fault, breaks), limit) in faults.into_iter().zip(limits) {
        let what = format!("{fault}, servers {servers}:10");
        let delays = gross(&mut scene, servers, &what, breaks);
        let middle = median(delays.clone());
        figure(&format!("M9 {what}: median of 3 is {:.0} ms, limit {:.0} ms", middle * 1e3, limit * 1e3));
        if middle > limit {
            late.push(format!("{what}: {delays:.3?} s, limit {limit} s"));
        }
    }
    assert!(late.is_empty(), "{late:#?}");
}

#[test]
fn gross_faults_are_found_at_once() {
    if !long() {
        return;
    }
    gross_faults(1, [0.8, 1.0, 0.8, 0.8, 0.1]);
}

/// Failures of one of several servers may be a restart: it takes half a second more to see that
/// they are those of all.
#[test]
fn gross_faults_of_two_servers_are_found_half_a_second_later() {
    if !long() {
        return;
    }
    gross_faults(2, [1.3, 1.5, 1.3, 1.3, 0.1]);
}

/// A fault of both versions that reaches new a moment earlier.
#[test]
fn a_trip_on_little_evidence_says_that_stable_shows_the_same() {
    let _turn = turn();
    let down = |call: &Call<'_>| Reply::status(500, latency(call, 5.0, 0.3));
    let scene =
        Scene::at_nothing(Fleet::start(1, quick), Fleet::start(2, quick), demand(150.0), seconds(10), "");
    scene.raise("20%");
    std::thread::sleep(seconds(15));
    scene.new.behave(down);
    let (_, trip) = scene.trips("new fails, and stable after it", seconds(20));
    let by = &trip["decided_by"];
    let (bad, all) = (by["new"]["bad"].as_u64().unwrap(), by["new"]["requests"].as_u64().unwrap());
    assert!(bad >= 5 && bad <= all && by["stable"]["bad"] == 0, "{trip}");
    assert!(trip["detail"].as_str().unwrap().contains(" UTC ("), "{trip}");
    assert_eq!(trip["stable_shows_the_same"], false);
    assert!(trip["onset_to_trip_ms"].as_u64().unwrap() < 10_000, "{trip}");
    scene.stable.behave(down);
    let api = scene.api();
    let trip = eventually(seconds(20), "the status says that stable shows the same", || {
        api.trip().filter(|trip| trip["stable_shows_the_same"] == true)
    });
    let entry = eventually(seconds(10), "the ledger says so", || {
        api.ledger().into_iter().find(|e| e["kind"] == "stable_shows_the_same")
    });
    assert!(entry["detail"].as_str().unwrap().starts_with("stable shows the same since "), "{entry}");
    assert!(trip["stable_same_since"].is_string(), "{trip}");
    never(seconds(1), "it is told once", || {
        api.ledger().iter().filter(|e| e["kind"] == "stable_shows_the_same").count() != 1
    });
}

#[test]
fn a_fleet_and_its_users_do_as_they_are_told() {
    let fleet = Fleet::start(3, |call| Reply::status(if call.user == "user-0" { 503 } else { 200 }, ms(1)));
    let address: SocketAddr = fleet.addresses[1];
    let traffic = Traffic::start(address, Demand { heavy: Some(("user-0".into(), 0.5)), ..demand(200.0) });
    eventually(seconds(20), "a hundred of each", || {
        let counts = traffic.counts();
        let of = |status: &str| counts.get(status).copied().unwrap_or(0);
        (of("200") > 100 && of("503") > 100).then_some(())
    });
    assert!(fleet.count() >= 200 && fleet.now() > Duration::ZERO);
    fleet.refuse();
    eventually(seconds(5), "it refuses", || {
        traffic.counts().contains_key("connection refused").then_some(())
    });
}
