//! 100,000 users through the running proxy to real nginx origins: each reaches the arm that the
//! published hash gives.

use crate::world::{Config, Nginx, Proxy, RELEASE, World, bucket, eventually, figure, seconds, turn};
use std::collections::HashSet;

const USERS: u32 = 100_000;
const THREADS: u32 = 4;

/// Ids of several shapes, as in real services; some with header bytes beyond ASCII.
fn user(n: u32) -> String {
    match n % 4 {
        0 => format!("user-{n}"),
        1 => format!("49151{:08}", u64::from(n) * 7919 % 100_000_000),
        2 => format!("{:016x}", u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        _ => format!("Zoë/{n}@example.com"),
    }
}

/// Sends a request of every user; returns those that reached `new`.
/// Panics on a response that belongs to another user.
fn drive(proxy: &Proxy) -> HashSet<u32> {
    let address = proxy.http;
    let threads = (0..THREADS).map(|t| {
        std::thread::spawn(move || {
            let mut client = crate::world::Client::new(address);
            let mut in_new = HashSet::new();
            for n in (t..USERS).step_by(THREADS as usize) {
                let user = user(n);
                let answer = client.get_as(&user).unwrap_or_else(|e| panic!("{user}: {e}"));
                assert_eq!(answer.status, 200, "{user}");
                let text = answer.text();
                let (arm, echoed) = text.trim_end().split_once(' ').unwrap();
                assert_eq!(echoed, user, "the id reaches the origin as it was sent");
                if arm == "new" {
                    in_new.insert(n);
                }
            }
            in_new
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
}

fn expected(percent: u32) -> HashSet<u32> {
    (0..USERS).filter(|n| bucket(RELEASE, user(*n).as_bytes()) < percent * 10_000).collect()
}

#[test]
fn a_hundred_thousand_users_land_where_the_hash_says_and_a_raise_moves_nobody_out() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Nginx::start(&world, "stable"), Nginx::start(&world, "new"));
    let config = Config::new(stable.address, new.address);
    let proxy = world.run(&config.clone().weight("5%"));

    let mut before = HashSet::new();
    for percent in [5, 20, 50, 100] {
        world.write(&config.clone().weight(&format!("{percent}%")));
        eventually(seconds(10), "the weight is in force", || {
            ((proxy.api().weight() - f64::from(percent) / 100.0).abs() < 1e-9).then_some(())
        });
        let in_new = drive(&proxy);
        assert_eq!(in_new, expected(percent), "at {percent}%");

        let (n, p) = (f64::from(USERS), f64::from(percent) / 100.0);
        let deviation = (in_new.len() as f64 - n * p).abs();
        assert!(deviation <= 3.0 * (n * p * (1.0 - p)).sqrt(), "{} of {USERS} at {percent}%", in_new.len());
        figure(&format!("{percent}%: {} of {USERS} users in new", in_new.len()));

        assert_eq!(before.difference(&in_new).count(), 0, "users that {percent}% moved out of new");
        before = in_new;
    }
    let missing = proxy.api().metric("grayling_user_id_missing_total", &[("release", RELEASE)]);
    assert_eq!(missing.unwrap_or(0.0), 0.0);
}

#[test]
fn a_request_without_an_id_goes_to_stable_and_is_counted() {
    let world = World::new();
    let (stable, new) = (Nginx::start(&world, "stable"), Nginx::start(&world, "new"));
    let proxy = world.run(&Config::new(stable.address, new.address).weight("100%"));
    let mut client = proxy.client();
    let too_long = "x".repeat(257);
    for headers in [&[][..], &[("x-user-id", "")], &[("x-user-id", too_long.as_str())]] {
        for _ in 0..10 {
            assert!(client.get("/", headers).unwrap().text().starts_with("stable "));
        }
    }
    assert!(client.get_as("alice").unwrap().text().starts_with("new "));
    eventually(seconds(5), "30 missing ids are counted", || {
        (proxy.api().metric("grayling_user_id_missing_total", &[("release", RELEASE)]) == Some(30.0))
            .then_some(())
    });
}
