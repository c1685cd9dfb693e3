//! The life of an open WebSocket: silence, ends, limits, a rollback, a drain.

use super::{AGREES, alive, handshake, resident, scene, user};
use crate::world::{eventually, figure, never, seconds};
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

#[test]
fn row_17_a_trip_closes_the_tunnels_of_new_after_the_grace_and_no_others() {
    let scene = scene(|config| config.limits = "websocket_grace = \"1s\"".into());
    let (mut of_new, mut its_server) = scene.opens(true);
    let (mut of_stable, mut other_server) = scene.opens(false);
    // A lowered weight moves users, not tunnels.
    scene.world.write(&scene.config.clone().weight("0%"));
    eventually(seconds(5), "0%", || (scene.proxy.api().weight() == 0.0).then_some(()));
    never(seconds(3), "closed by a lower weight", || scene.websockets() < 2.0);
    alive(&mut of_new, &mut its_server);
    scene.world.write(&scene.config);
    eventually(seconds(5), "50%", || (scene.proxy.api().weight() == 0.5).then_some(()));

    let began = Instant::now();
    scene.rollback();
    alive(&mut of_new, &mut its_server);
    assert!(of_new.is_closed() && its_server.is_closed());
    let took = began.elapsed();
    figure(&format!("websockets: a tunnel of new closed {took:?} after the trip, with a grace of 1 s"));
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&took), "{took:?}");
    // Its client comes back, and is routed to stable.
    let mut again = scene.commands(true);
    let mut stable = scene.stable.next();
    stable.send(AGREES);
    assert_eq!(again.told().status, 101);
    never(seconds(3), "stable's are cut", || scene.websockets() < 2.0);
    alive(&mut of_stable, &mut other_server);
    alive(&mut again, &mut stable);
    assert_eq!(scene.outcome("ok"), 3.0);
}

#[test]
fn row_17_grayling_stop_calls_tunnels_back_and_a_resume_within_the_grace_lets_them_live() {
    let scene = scene(|config| config.limits = "websocket_grace = \"3s\"".into());
    let (mut client, mut server) = scene.opens(true);
    scene.rollback();
    never(Duration::from_millis(1500), "closed before its time", || scene.websockets() < 1.0);
    assert_eq!(scene.proxy.api().resume("rollback", "it was a mistake").status, 200);
    never(seconds(4), "closed although resumed", || scene.websockets() < 1.0);
    alive(&mut client, &mut server);
    std::fs::write(scene.world.path("config/grayling.stop"), "").unwrap();
    assert!(client.is_closed() && server.is_closed());
    scene.has_websockets(0.0);
}

#[test]
fn row_27_a_tunnel_that_stable_took_over_is_stables_and_survives_the_trip() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let scene = scene(|config| {
        config.new = vec![gone];
        config.limits = "websocket_grace = \"0s\"".into();
    });
    let mut client = scene.commands(true);
    let mut server = scene.stable.next();
    server.send(AGREES);
    assert_eq!(client.told().status, 101);
    assert_eq!(scene.metric("grayling_websockets", &[("arm", "stable")]), 1.0);
    scene.rollback();
    never(seconds(3), "stable's are cut", || scene.websockets() < 1.0);
    alive(&mut client, &mut server);
}

#[test]
fn row_42_a_drain_gives_tunnels_its_time_and_then_closes_them() {
    let mut scene = scene(|config| config.limits = "drain = \"2s\"".into());
    let (mut client, mut server) = scene.opens(false);
    let (short, mut its_server) = scene.opens(true);
    let began = Instant::now();
    scene.proxy.signal("TERM");
    eventually(seconds(5), "it listens no more", || {
        TcpStream::connect(scene.proxy.http).is_err().then_some(())
    });
    alive(&mut client, &mut server);
    drop(short);
    assert!(its_server.is_closed());
    assert!(client.is_closed() && server.is_closed());
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    assert!(scene.proxy.ends_within(seconds(5)).success());
}

#[test]
fn row_42_a_handshake_that_a_drain_finds_under_way_is_finished() {
    let mut scene = scene(|config| config.limits = "drain = \"1h\"".into());
    let mut client = scene.commands(true);
    let mut server = scene.new.next();
    scene.proxy.signal("TERM");
    eventually(seconds(5), "it listens no more", || {
        TcpStream::connect(scene.proxy.http).is_err().then_some(())
    });
    server.send(AGREES);
    let told = client.told();
    // The HTTP library adds `close`, since the connection is not kept for HTTP.
    assert!(
        told.status == 101 && told.header("connection").is_some_and(|v| v.starts_with("upgrade")),
        "{told:?}"
    );
    alive(&mut client, &mut server);
    drop((client, server));
    assert!(scene.proxy.ends_within(seconds(5)).success());
}

#[test]
fn row_42_a_drain_ends_with_the_last_tunnel() {
    let mut scene = scene(|config| config.limits = "drain = \"1h\"".into());
    let (client, mut server) = scene.opens(true);
    scene.proxy.signal("TERM");
    drop(client);
    assert!(server.is_closed());
    drop(server);
    assert!(scene.proxy.ends_within(seconds(5)).success());
}

#[test]
fn a_tunnel_may_be_silent_for_longer_than_any_request() {
    let short = "connect_timeout = \"200ms\"\nidle_timeout = \"200ms\"\nresponse_timeout = \"200ms\"\ntotal_timeout = \"300ms\"\nconnection_idle = \"200ms\"";
    let scene = scene(|config| {
        config.upstreams = short.into();
        config.limits =
            "header_timeout = \"200ms\"\nkeepalive_timeout = \"200ms\"\nbody_idle_timeout = \"300ms\"".into();
    });
    let (mut client, mut server) = scene.opens(true);
    never(seconds(3), "closed for silence", || scene.websockets() < 1.0);
    alive(&mut client, &mut server);
    client.send("one word only");
    server.hears("one word only");
    never(seconds(1), "closed for silence", || scene.websockets() < 1.0);
    alive(&mut client, &mut server);
}

#[test]
fn one_side_may_end_while_the_other_goes_on() {
    let scene = scene(|_| {});
    let (mut client, mut server) = scene.opens(true);
    client.send("the last word");
    client.socket().shutdown(Shutdown::Write).unwrap();
    server.hears("the last word");
    assert!(server.is_closed());
    server.send("one more");
    assert_eq!(client.hear(8), "one more");
    server.send("and another");
    assert_eq!(client.hear(11), "and another");
    drop(server);
    assert!(client.is_closed());
    scene.has_websockets(0.0);

    let (mut client, mut server) = scene.opens(false);
    server.socket().shutdown(Shutdown::Write).unwrap();
    assert!(client.is_closed());
    // No message is lost, for any number of them.
    for n in 0..50 {
        let words = format!("still here {n:02}");
        client.send(&words);
        server.hears(&words);
    }
    drop(client);
    assert!(server.is_closed());
    scene.has_websockets(0.0);
}

#[test]
fn a_side_that_neither_speaks_nor_ends_after_the_other_has_ended_is_not_waited_for_for_ever() {
    let scene = scene(|config| config.limits = "body_idle_timeout = \"500ms\"".into());
    let (client, mut server) = scene.opens(true);
    client.socket().shutdown(Shutdown::Write).unwrap();
    assert!(server.is_closed());
    // It keeps its side open, and sends nothing more.
    scene.has_websockets(0.0);
}

#[test]
fn a_peer_that_reads_no_more_costs_little_memory_and_is_closed() {
    let scene = scene(|config| config.limits = "body_idle_timeout = \"1s\"".into());
    let piece = vec![7; 64 << 10];
    let flood = |to: &TcpStream| {
        let mut to = to.try_clone().unwrap();
        to.set_write_timeout(Some(seconds(10))).unwrap();
        // Until no more bytes are accepted, and then until it is closed.
        while to.write_all(&piece).is_ok() {}
    };
    drop(scene.opens(true));
    scene.has_websockets(0.0);
    let before = resident(&scene.proxy);
    let (client, server) = scene.opens(true);
    flood(server.socket());
    scene.has_websockets(0.0);
    drop((client, server));
    let (client, server) = scene.opens(true);
    flood(client.socket());
    scene.has_websockets(0.0);
    drop((client, server));
    let grown = resident(&scene.proxy).saturating_sub(before);
    // Part of that is the watchdog's own tables, allocated meanwhile: some 6 MiB.
    assert!(grown < 12 << 10, "{grown} KiB more than before");
    for blamed in ["timeout", "reset", "truncated", "server_error"] {
        assert_eq!(scene.outcome(blamed), 0.0, "{blamed}");
    }
}

#[test]
fn tunnels_leave_a_quarter_of_a_servers_connections_to_requests() {
    let scene = scene(|config| config.upstreams = "connections_max = 4".into());
    let mut open: Vec<_> = (0..3).map(|_| scene.opens(true)).collect();
    let mut refused = scene.commands(true);
    let told = refused.told();
    assert_eq!((told.status, told.header("retry-after")), (503, Some("1")), "{told:?}");
    assert!(told.body.contains("websockets"), "{told:?}");
    assert_eq!(scene.metric("grayling_requests_total", &[("arm", "new"), ("outcome", "rejected")]), 1.0);
    // Requests have room, and the client's connection continues.
    refused.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {}\r\n\r\n", user(true)));
    let mut server = scene.new.next();
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(refused.told().status, 200);
    drop(open.pop());
    scene.has_websockets(2.0);
    // On the connection that is free by now.
    refused.send(handshake(&user(true), ""));
    server.head = server.request();
    server.send(AGREES);
    assert_eq!(refused.told().status, 101);
    for blamed in ["saturated", "connect_error"] {
        assert_eq!(scene.outcome(blamed), 0.0, "{blamed}");
    }
}

#[test]
fn tunnels_take_up_no_room_for_requests_but_count_as_connections() {
    let scene = scene(|config| {
        config.limits = "requests_in_flight = 1\nconnections = 3".into();
        config.upstreams = "requests_in_flight_max = 1".into();
    });
    let _open = [scene.opens(true), scene.opens(true)];
    let mut client = scene.connect();
    client.send(format!("GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {}\r\n\r\n", user(true)));
    scene.new.next().send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    assert_eq!(client.told().status, 200);
    assert_eq!(scene.connect().told().status, 503, "a fourth connection");
}
