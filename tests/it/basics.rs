//! The first contact of a user and of an upstream: start, stop, exit codes, the headers of a
//! forwarded request, a log that parses.

use crate::world::{Behaviour, Config, Load, Origin, Proxy, World, eventually, seconds, turn, users_in_new};
use std::time::Duration;

#[test]
fn a_term_drains_what_is_in_flight_and_ends_with_0() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut proxy = world.run(&Config::new(stable.address, new.address));
    stable.behave(Behaviour::Delay(Duration::from_millis(400)));
    let mut client = proxy.client();
    let in_flight = std::thread::spawn(move || client.get("/", &[]));
    eventually(seconds(5), "the request is at the origin", || (stable.total() == 1).then_some(()));
    proxy.signal("TERM");
    let answer = in_flight.join().unwrap().expect("what was in flight is answered");
    assert_eq!((answer.status, answer.text().as_str()), (200, "stable"));
    assert_eq!(proxy.ends_within(seconds(5)).code(), Some(0), "{}", proxy.said());
}

#[test]
fn a_config_that_is_wrong_ends_with_78_and_says_where() {
    let world = World::new();
    let file = world.write_text("[listen]\nhtpp = \"127.0.0.1:0\"\n");
    let why = match Proxy::try_start(&file) {
        Ok(_) => panic!("it started"),
        Err(why) => why,
    };
    assert!(why.contains("78") && why.contains("htpp") && why.contains("http"), "{why}");
}

#[test]
fn the_upstream_learns_arm_and_release_and_what_the_client_claims_is_dropped() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address).weight("20%"));
    let user = &users_in_new("user", 20, 1)[0];
    let spoofed = [
        ("x-user-id", user.as_str()),
        ("x-grayling-arm", "stable"),
        ("x-grayling-release", "another"),
        ("x-forwarded-for", "203.0.113.9"),
    ];
    assert_eq!(proxy.client().get("/a?b=c", &spoofed).unwrap().text(), "new");
    let received = &new.received()[0];
    assert_eq!((received.method.as_str(), received.path.as_str()), ("GET", "/a?b=c"));
    assert_eq!(received.arm(), Some("new"));
    assert_eq!(received.header("x-grayling-release"), Some("billing"));
    assert_eq!(received.headers.iter().filter(|(n, _)| n == "x-grayling-arm").count(), 1);
    assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(received.header("x-forwarded-proto"), Some("http"));
    assert_eq!(received.header("x-forwarded-host"), Some("grayling.test"));
    assert!(received.header("via").is_some_and(|v| v.contains("grayling")));
    assert!(received.header("x-request-id").is_some() && received.header("traceparent").is_some());
}

#[test]
fn the_log_stays_one_json_object_a_line_and_keeps_ids_out() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    for origin in [&stable, &new] {
        origin.behave(Behaviour::Status(500, 1.0)); // failures are always logged
    }
    let proxy = world.run(&Config::new(stable.address, new.address));
    let headers = [
        ("x-user-id", "secret-user-9"),
        ("authorization", "Bearer s3cr3t"),
        ("user-agent", "a \"quoted\" \\ agent"),
    ];
    for _ in 0..5 {
        let _ = proxy.client().get("/path", &headers);
    }
    eventually(seconds(5), "the failures are in the log", || (proxy.log().len() >= 5).then_some(()));
    assert_eq!(proxy.events("listening").len(), 2);
    let said = proxy.said();
    assert!(!said.contains("secret-user-9") && !said.contains("s3cr3t"), "{said}");
}

#[test]
fn two_workers_serve_and_their_counts_add_up() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address);
    config.listen = "workers = 2".into();
    let proxy = world.run(&config);
    let load = Load::start(proxy.http, 16, Duration::from_millis(5));
    eventually(seconds(20), "a thousand answers", || (load.total() > 1_000).then_some(()));
    let counts = load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["200"], "{counts:?}");
    let sent = counts["200"] as f64;
    eventually(seconds(5), "every request is counted once", || {
        (proxy.api().metric("grayling_requests_total", &[("outcome", "ok")]) == Some(sent)).then_some(())
    });
    assert_eq!((stable.total() + new.total()) as f64, sent);
}
