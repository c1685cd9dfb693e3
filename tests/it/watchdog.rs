//! The watchdog on real sockets: a `new` with any kind of fault is rolled back; faults of clients,
//! and faults of both versions alike, cause no rollback.

use crate::world::{
    Behaviour, Client, Config, Load, Origin, Proxy, World, eventually, figure, long, never, seconds, turn,
    users_in_new,
};
use serde_json::Value;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CALLERS: u32 = 48;
const PAUSE: Duration = Duration::from_millis(40);
const PERCENT: u32 = 20;

struct Scene {
    stable: Origin,
    new: Origin,
    proxy: Proxy,
    load: Load,
    _world: World,
}

/// Two healthy versions under the load of some thousand users, long enough for the watchdog to
/// learn them.
fn scene() -> Scene {
    scene_with(|_| {})
}

fn scene_with(adjust: impl FnOnce(&mut Config)) -> Scene {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address)
        .weight(&format!("{PERCENT}%"))
        .upstreams("response_timeout = \"1s\"\nconnect_timeout = \"1s\"\nidle_timeout = \"1s\"");
    adjust(&mut config);
    let proxy = world.run(&config);
    let load = Load::start(proxy.http, CALLERS, PAUSE);
    eventually(seconds(20), "both arms have had their first requests", || {
        (stable.total() > 1_500 && new.total() > 300).then_some(())
    });
    assert!(proxy.api().trip().is_none(), "tripped before anything happened: {}", proxy.said());
    Scene { stable, new, proxy, load, _world: world }
}

/// Breaks `new`, expects a rollback, and prints the time taken.
fn flips(fault: &str, within: Duration, breaks: impl FnOnce(&Origin)) -> Value {
    let _turn = turn();
    let scene = scene();
    let onset = Instant::now();
    breaks(&scene.new);
    let api = scene.proxy.api();
    let time = eventually(within, &format!("new is at 0% after it began to {fault}"), || {
        (api.weight() == 0.0).then(|| onset.elapsed())
    });
    let trip = api.trip().expect("the status tells the trip");
    figure(&format!(
        "new begins to {fault}: at 0% after {} ms (its own estimate: {} ms); {}: {}",
        time.as_millis(),
        trip["onset_to_trip_ms"],
        trip["cause"],
        trip["detail"]
    ));

    // Requests decided before may still arrive; then none.
    let mut last = (scene.new.total(), Instant::now());
    eventually(seconds(5), "requests to new cease", || {
        if scene.new.total() != last.0 {
            last = (scene.new.total(), Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(200)).then_some(())
    });
    never(Duration::from_millis(500), "a user reached new after the trip", || scene.new.total() != last.0);
    assert_eq!(api.release()["state"], "rolled_back");
    assert_eq!(api.metric("grayling_rollbacks_total", &[]), Some(1.0));
    assert!(
        api.metric("grayling_rollbacks_total", &[("cause", trip["cause"].as_str().unwrap())]) == Some(1.0)
    );
    let mut client = scene.proxy.client();
    for user in users_in_new("after", PERCENT, 20) {
        assert_eq!(client.get_as(&user).unwrap().text(), "stable");
    }
    trip
}

#[test]
fn a_new_that_answers_500_to_everything_is_flipped() {
    flips("answer 500", seconds(3), |new| new.behave(Behaviour::Status(500, 1.0)));
}

#[test]
fn a_new_that_answers_500_to_one_in_five_is_flipped() {
    let trip = flips("answer 500 to 20%", seconds(8), |new| new.behave(Behaviour::Status(500, 0.2)));
    assert!(["errors", "ceiling"].contains(&trip["cause"].as_str().unwrap()), "{trip}");
}

#[test]
fn a_new_that_refuses_is_flipped_by_the_fuse() {
    let trip = flips("refuse", seconds(2), Origin::refuse);
    assert_eq!(trip["cause"], "fuse");
}

#[test]
fn a_new_that_hangs_is_flipped() {
    flips("hang", seconds(5), |new| new.behave(Behaviour::Hang));
}

#[test]
fn a_new_that_cuts_its_bodies_short_is_flipped_though_the_status_was_200() {
    flips("cut bodies", seconds(3), |new| new.behave(Behaviour::CutBody));
}

#[test]
fn a_new_that_resets_is_flipped() {
    flips("reset", seconds(3), |new| new.behave(Behaviour::Reset));
}

/// Breaks both versions in the same way; expects no rollback.
/// Shorter than the 30 s after which `on_both_bad` acts.
fn both_alike(fault: &str, breaks: impl Fn(&Origin)) {
    both_alike_in(scene, fault, breaks);
}

fn both_alike_in(scene: impl FnOnce() -> Scene, fault: &str, breaks: impl Fn(&Origin)) {
    let _turn = turn();
    let scene = scene();
    breaks(&scene.stable);
    breaks(&scene.new);
    let api = scene.proxy.api();
    never(seconds(4), &format!("new was blamed when both began to {fault}"), || api.trip().is_some());
    assert!((api.weight() - f64::from(PERCENT) / 100.0).abs() < 1e-9, "the weight stands");
    // The fault was real, and users saw it.
    let counts = scene.load.stop();
    let failed: u64 = counts.iter().filter(|(result, _)| *result != "200").map(|(_, n)| n).sum();
    assert!(failed >= 50, "{counts:?}");
}

#[test]
fn row_31_both_versions_answering_500_is_nobodys_fault() {
    both_alike("answer 500", |origin| origin.behave(Behaviour::Status(500, 1.0)));
}

#[test]
fn both_versions_answering_500_to_some_is_nobodys_fault() {
    if !long() {
        return;
    }
    both_alike("answer 500 to 20%", |origin| origin.behave(Behaviour::Status(500, 0.2)));
}

#[test]
fn both_versions_refusing_is_nobodys_fault() {
    both_alike("refuse", Origin::refuse);
}

#[test]
fn both_versions_hanging_is_nobodys_fault() {
    both_alike("hang", |origin| origin.behave(Behaviour::Hang));
}

/// Counted as they end, requests of `new` would fail after one second and those of stable not
/// before three.
#[test]
fn both_versions_hanging_with_unequal_time_outs_is_nobodys_fault() {
    let unequal = || {
        scene_with(|config| {
            config.upstreams = "response_timeout = \"3s\"".into();
            config.upstream_new = Some("response_timeout = \"1s\"".into());
        })
    };
    both_alike_in(unequal, "hang", |origin| origin.behave(Behaviour::Hang));
}

#[test]
fn both_versions_cutting_bodies_is_nobodys_fault() {
    if !long() {
        return;
    }
    both_alike("cut bodies", |origin| origin.behave(Behaviour::CutBody));
}

/// Only clients of users in `new` misbehave: the worst case for a watchdog that blames the wrong
/// side.
fn clients_misbehave(what: &str, misbehave: impl Fn(SocketAddr, &str) + Send + Sync + 'static) {
    let _turn = turn();
    let scene = scene_with(|config| config.limits = "body_idle_timeout = \"500ms\"".into());
    for origin in [&scene.stable, &scene.new] {
        origin.behave(Behaviour::Delay(Duration::from_millis(20)));
    }
    // Both arms are slower now; that must have settled before the clients begin.
    let before = scene.load.total();
    eventually(seconds(20), "the load goes on", || (scene.load.total() > before + 500).then_some(()));

    let (stop, count, misbehave) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), Arc::new(misbehave));
    let users = Arc::new(users_in_new("rude", PERCENT, 400));
    let threads: Vec<_> = (0..16)
        .map(|t| {
            let (stop, count, misbehave) = (Arc::clone(&stop), Arc::clone(&count), Arc::clone(&misbehave));
            let (users, address) = (Arc::clone(&users), scene.proxy.http);
            std::thread::spawn(move || {
                for user in users.iter().cycle().skip(t * 25).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    misbehave(address, user);
                    count.fetch_add(1, Ordering::Relaxed);
                    // Many, but no flood: each costs the origin a connection, and another test
                    // covers a starved origin.
                    std::thread::sleep(Duration::from_millis(10));
                }
            })
        })
        .collect();
    let api = scene.proxy.api();
    never(seconds(5), &format!("new was blamed for clients that {what}"), || api.trip().is_some());
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|t| t.join().unwrap());
    let count = count.load(Ordering::Relaxed);
    figure(&format!("clients that {what}: {count} of them, nobody was flipped"));
    assert!(count >= 100, "only {count} of them");
    assert!((api.weight() - f64::from(PERCENT) / 100.0).abs() < 1e-9, "the weight stands");
    let counts = scene.load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["200"], "the other clients were served: {counts:?}");
}

fn connect(address: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(seconds(3))).ok()?;
    Some(stream)
}

#[test]
fn clients_that_abort_flip_nothing() {
    clients_misbehave("abort", |address, user| {
        let Some(mut stream) = connect(address) else { return };
        let _ = write!(stream, "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\n\r\n");
        std::thread::sleep(Duration::from_millis(5)); // leaves before the response
    });
}

#[test]
fn clients_that_send_broken_chunks_flip_nothing() {
    clients_misbehave("send broken chunks", |address, user| {
        let Some(mut stream) = connect(address) else { return };
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nx-user-id:";
        let _ = write!(stream, "{head} {user}\r\n\r\n5\r\nhello\r\nzz\r\nrubbish\r\n");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
}

#[test]
fn clients_with_slow_bodies_flip_nothing() {
    clients_misbehave("send slow bodies", |address, user| {
        let Some(mut stream) = connect(address) else { return };
        let _ = write!(
            stream,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\nx-user-id: {user}\r\n\r\nslow"
        );
        let _ = std::io::copy(&mut stream, &mut std::io::sink()); // until the proxy closes
    });
}

#[test]
fn one_failing_user_flips_nothing() {
    let _turn = turn();
    let scene = scene();
    // Only the calls of this user fail: the origin answers 500 while the user is the only caller of
    // new.
    drop(scene.load);
    scene.new.behave(Behaviour::Status(500, 1.0));
    let user = &users_in_new("unlucky", PERCENT, 1)[0];
    let mut client = Client::new(scene.proxy.http);
    for _ in 0..200 {
        assert_eq!(client.get_as(user).unwrap().status, 500);
    }
    let api = scene.proxy.api();
    never(seconds(2), "one user's retries flipped a release", || api.trip().is_some());
}
