//! Every POST is sent once: under resets, truncations and refusals no key reaches two origins, or
//! one origin twice, and every success reported to the client happened once.

use crate::world::{Behaviour, Client, Config, H2Behaviour, H2Origin, Origin, Random, World, figure, turn};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const POSTS: u64 = 5_000;
const THREADS: u64 = 8;

#[test]
fn every_post_is_sent_once_under_resets_truncations_and_refusals() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address)
        .weight("50%")
        .watchdog("enabled = false")
        .upstreams("response_timeout = \"2s\"\nconnect_timeout = \"1s\"");
    let proxy = world.run(&config);
    for origin in [&stable, &new] {
        origin.behave(Behaviour::Chaos(0.2));
    }

    let done = AtomicBool::new(false);
    let address = proxy.http;
    let succeeded: HashSet<String> = std::thread::scope(|scope| {
        let refusals = scope.spawn(|| {
            let mut random = Random::new(7);
            while !done.load(Ordering::Relaxed) {
                let origin = if random.chance(0.7) { &new } else { &stable };
                origin.refuse();
                std::thread::sleep(Duration::from_millis(5 + random.below(40)));
                origin.listen();
                std::thread::sleep(Duration::from_millis(20 + random.below(120)));
            }
        });
        let threads: Vec<_> = (0..THREADS)
            .map(|t| {
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    let mut succeeded = HashSet::new();
                    for n in (t..POSTS).step_by(THREADS as usize) {
                        let (key, user) = (format!("key-{n}"), format!("user-{}", n % 997));
                        let headers = [("x-user-id", user.as_str()), ("x-key", key.as_str())];
                        let answer = client.post("/pay", &headers, key.as_bytes());
                        if answer.is_ok_and(|a| (200..300).contains(&a.status)) {
                            succeeded.insert(key);
                        }
                    }
                    succeeded
                })
            })
            .collect();
        let succeeded = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        refusals.join().unwrap();
        succeeded
    });

    let mut seen: HashMap<String, u32> = HashMap::new();
    let mut arms = [0, 0];
    for (i, origin) in [&stable, &new].into_iter().enumerate() {
        for request in origin.received() {
            let key = request.header("x-key").expect("every request has its key").to_owned();
            assert_eq!(request.body, key.as_bytes(), "the body is the one that belongs to the key");
            *seen.entry(key).or_insert(0) += 1;
            arms[i] += 1;
        }
    }
    figure(&format!(
        "{} of {POSTS} POSTs succeeded; stable received {}, new {}",
        succeeded.len(),
        arms[0],
        arms[1]
    ));
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "sent more than once: {twice:?}");
    let lost: Vec<_> = succeeded.iter().filter(|key| !seen.contains_key(*key)).collect();
    assert!(lost.is_empty(), "answered with 2xx, but at no origin: {lost:?}");
    // The faults occurred, and did not dominate the test.
    assert!(succeeded.len() > 2_000 && succeeded.len() < POSTS as usize, "{} succeeded", succeeded.len());
    assert!(arms.iter().all(|n| *n > 1_000), "{arms:?}");
}

/// The requests of many users share a connection, which breaks repeatedly.
#[test]
fn every_post_is_sent_once_over_http2_too() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (H2Origin::start("stable"), H2Origin::start("new"));
    let config = Config::new(stable.address, new.address)
        .weight("50%")
        .watchdog("enabled = false")
        .upstreams("http2 = true\nresponse_timeout = \"2s\"\nconnect_timeout = \"1s\"");
    let proxy = world.run(&config);
    for origin in [&stable, &new] {
        origin.behave(H2Behaviour::Delay(Duration::from_millis(3)));
    }
    let done = AtomicBool::new(false);
    let address = proxy.http;
    let succeeded: HashSet<String> = std::thread::scope(|scope| {
        let breaks = scope.spawn(|| {
            let mut random = Random::new(11);
            while !done.load(Ordering::Relaxed) {
                let origin = if random.chance(0.5) { &new } else { &stable };
                origin.deaf(random.chance(0.5));
                origin.hang_up();
                std::thread::sleep(Duration::from_millis(2 + random.below(20)));
                origin.deaf(false);
                std::thread::sleep(Duration::from_millis(10 + random.below(60)));
            }
        });
        let threads: Vec<_> = (0..2 * THREADS)
            .map(|t| {
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    let mut succeeded = HashSet::new();
                    for n in (t..POSTS).step_by(2 * THREADS as usize) {
                        let (key, user) = (format!("key-{n}"), format!("user-{}", n % 997));
                        let headers = [("x-user-id", user.as_str()), ("x-key", key.as_str())];
                        if client.post("/pay", &headers, key.as_bytes()).is_ok_and(|a| a.status == 200) {
                            succeeded.insert(key);
                        }
                    }
                    succeeded
                })
            })
            .collect();
        let succeeded = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        done.store(true, Ordering::Relaxed);
        breaks.join().unwrap();
        succeeded
    });
    let mut seen: HashMap<String, u32> = HashMap::new();
    for key in [stable.keys(), new.keys()].concat() {
        *seen.entry(key).or_insert(0) += 1;
    }
    figure(&format!(
        "{} of {POSTS} POSTs over HTTP/2 succeeded; origins received {}",
        succeeded.len(),
        seen.len()
    ));
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    assert!(twice.is_empty(), "sent more than once: {twice:?}");
    let lost: Vec<_> = succeeded.iter().filter(|key| !seen.contains_key(*key)).collect();
    assert!(lost.is_empty(), "answered with 2xx, but at no origin: {lost:?}");
    assert!(succeeded.len() > 2_000 && succeeded.len() < POSTS as usize, "{} succeeded", succeeded.len());
}
