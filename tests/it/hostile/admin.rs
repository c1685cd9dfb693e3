//! Clients that try to block the operator from the admin port: at any number and with any behaviour
//! of them, livez, readyz and a rollback are answered within a second each, and the data plane is
//! not affected.

use super::{connect, connect_with, hear, pause, resident_kib, say};
use crate::world::{
    Behaviour, Client, Config, Origin, Proxy, RELEASE, World, eventually, figure, not_tested, seconds, turn,
    users_in_new,
};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const CROWD: usize = 300;
const WITHIN: Duration = Duration::from_secs(1);
/// A busy machine may itself be late. A probe would retry as well.
const TRIES: usize = 3;
/// The only crowd in which a client with a slow request may lose its connection.
const LOOP: &str = "connections in a loop";
/// Admin connections and streams (448), and the descriptors of the process itself.
const DESCRIPTORS_MAX: usize = 512;

fn scene(world: &World) -> ([Origin; 2], Proxy) {
    let origins = ["stable", "new"].map(Origin::start);
    let proxy = world.run(&Config::new(origins[0].address, origins[1].address));
    (origins, proxy)
}

/// One request on its own connection, from this address if given; returns the status and the time
/// taken.
fn ask(admin: SocketAddr, from: Option<IpAddr>, head: &str, body: &str) -> (u16, Duration) {
    let began = Instant::now();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    if let Some(from) = from {
        socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    }
    let said = socket.connect_timeout(&admin.into(), seconds(10)).map(|()| {
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(seconds(10))).unwrap();
        let length = body.len();
        say(
            &stream,
            format!("{head}\r\nhost: {admin}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"),
        );
        hear(&stream)
    });
    let status = said.unwrap_or_default().split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, began.elapsed())
}

/// Sends the requests that must be answered; returns the longest time.
fn the_operator_is_served(kind: &str, admin: SocketAddr, from: Option<IpAddr>, token: &str) -> Duration {
    let change =
        format!("POST /api/v1/releases/{RELEASE}/rollback HTTP/1.1\r\ncontent-type: application/json{token}");
    let mut slowest = Duration::ZERO;
    for (head, body) in [
        ("GET /livez HTTP/1.1", ""),
        ("GET /readyz HTTP/1.1", ""),
        (&change, r#"{"reason": "an emergency"}"#),
        ("GET /livez HTTP/1.1", ""),
    ] {
        let mut tries = vec![];
        let took = loop {
            let (status, took) = ask(admin, from, head, body);
            assert!(status == 200 || kind == LOOP, "{kind}: {head}: {status} after {took:?}");
            if status == 200 && took < WITHIN {
                break took;
            }
            tries.push((status, took));
            assert!(tries.len() < TRIES, "{kind}: {head}: {tries:?}");
        };
        slowest = slowest.max(took);
    }
    slowest
}

fn descriptors(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count()
}

/// The behaviour of a crowd's member after connecting.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Silent,
    /// A byte at intervals.
    Trickling,
    HalfARequest,
    /// Sends requests repeatedly, and reads nothing.
    Deaf,
    Streams,
    /// Receives a response, and keeps the connection.
    KeptAlive,
}

impl Kind {
    fn join(self, admin: SocketAddr) -> Option<TcpStream> {
        let stream = connect_with(admin, (self == Kind::Deaf).then_some(2048))?;
        match self {
            Kind::Silent | Kind::Trickling => {}
            Kind::HalfARequest => say(
                &stream,
                format!(
                    "POST /api/v1/releases/{RELEASE}/rollback HTTP/1.1\r\nhost: {admin}\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{{"
                ),
            ),
            Kind::Deaf => say(&stream, format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\n\r\n").repeat(40)),
            Kind::Streams => say(&stream, format!("GET /api/v1/events HTTP/1.1\r\nhost: {admin}\r\n\r\n")),
            Kind::KeptAlive => say(&stream, format!("GET /livez HTTP/1.1\r\nhost: {admin}\r\n\r\n")),
        }
        Some(stream)
    }
}

#[test]
fn row_56_a_crowd_on_the_admin_port_keeps_nobody_out() {
    let _turn = turn();
    for kind in
        [Kind::Silent, Kind::Trickling, Kind::HalfARequest, Kind::Deaf, Kind::Streams, Kind::KeptAlive]
    {
        let world = World::new();
        let (_origins, proxy) = scene(&world);
        let before = resident_kib(&proxy);
        let mut crowd: Vec<_> = (0..CROWD).filter_map(|_| kind.join(proxy.admin)).collect();
        assert_eq!(crowd.len(), CROWD, "{kind:?}: the port takes connections");
        if kind == Kind::Trickling {
            for byte in "GET /livez HTTP/1.1".bytes() {
                crowd.iter_mut().for_each(|stream| drop(stream.write_all(&[byte])));
            }
        }
        let slowest = the_operator_is_served(&format!("{kind:?}"), proxy.admin, None, "");
        let (open, grown) = (descriptors(&proxy), resident_kib(&proxy).saturating_sub(before));
        figure(&format!(
            "row 56, {CROWD} × {kind:?}: answered within {} ms; {open} descriptors; {grown} KiB more",
            slowest.as_millis()
        ));
        assert!(open < DESCRIPTORS_MAX, "{kind:?}: {open} descriptors");
        assert!(grown < 64 << 10, "{kind:?}: {grown} KiB");
        assert_eq!(proxy.client().get_as("someone").unwrap().status, 200, "{kind:?}");
    }
}

#[test]
fn row_56_connections_opened_in_a_loop_keep_nobody_out() {
    let _turn = turn();
    let world = World::new();
    let (_origins, proxy) = scene(&world);
    let (stop, made) = (AtomicBool::new(false), AtomicU64::new(0));
    let slowest = std::thread::scope(|scope| {
        for kind in [Kind::Silent, Kind::HalfARequest] {
            let (stop, made) = (&stop, &made);
            scope.spawn(move || {
                // The server must close: then it has the time-wait state, and not this machine's
                // few ports.
                let mut held = std::collections::VecDeque::new();
                while !stop.load(Relaxed) {
                    held.extend(kind.join(proxy.admin));
                    made.fetch_add(1, Relaxed);
                    // Not faster: a test build on a busy machine would have no time left to answer.
                    pause(1);
                    if held.len() > 1000 {
                        held.pop_front();
                    }
                }
            });
        }
        eventually(seconds(20), "the loop runs", || (made.load(Relaxed) > 1000).then_some(()));
        let served = std::panic::catch_unwind(|| the_operator_is_served(LOOP, proxy.admin, None, ""));
        let open = descriptors(&proxy);
        stop.store(true, Relaxed);
        assert!(open < DESCRIPTORS_MAX, "{open} descriptors");
        served.unwrap_or_else(|why| std::panic::resume_unwind(why))
    });
    figure(&format!(
        "row 56, a loop of {} connections: answered within {} ms",
        made.load(Relaxed),
        slowest.as_millis()
    ));
}

#[test]
fn the_admin_port_and_the_data_plane_do_not_take_each_others_descriptors() {
    let _turn = turn();
    let world = World::new();
    let origins = ["stable", "new"].map(Origin::start);
    origins.iter().for_each(|origin| origin.behave(Behaviour::AsAsked));
    let config = Config::new(origins[0].address, origins[1].address);
    let proxy = Proxy::start_with_descriptors(&world.write(&config), 256);
    let room = proxy.event("limit_clamped")["in_force"].as_u64().unwrap() as usize;
    let _crowds: Vec<_> = [Kind::Silent, Kind::Streams]
        .into_iter()
        .flat_map(|kind| (0..CROWD).filter_map(move |_| kind.join(proxy.admin)))
        .collect();
    // All connections that the data plane may have, and one more for the last request.
    let users = users_in_new("user", 20, room - 1);
    let held: Vec<TcpStream> = users.iter().map(|_| connect(proxy.http)).collect();
    for (stream, user) in held.iter().zip(&users) {
        say(stream, format!("GET /hang HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\n\r\n"));
    }
    eventually(seconds(30), "all of them are with their server", || {
        (origins[1].total() as usize >= room - 1).then_some(())
    });
    assert_eq!(Client::new(proxy.http).get_as("someone").unwrap().status, 200);
    let slowest = the_operator_is_served("256 descriptors", proxy.admin, None, "");
    figure(&format!(
        "256 descriptors, {} in use, {room} clients, {CROWD} silent and {CROWD} streams at the admin port: answered within {} ms",
        descriptors(&proxy),
        slowest.as_millis()
    ));
}

/// Other machines from the proxy's view: a network namespace whose loopback interface has more
/// addresses.
#[test]
fn row_56_a_crowd_from_other_machines_keeps_no_other_machine_out() {
    let script = "ip link set lo up && for i in 1 2 3 4; do ip addr add 10.77.0.$i/32 dev lo; done && exec \"$0\" \"$@\"";
    let probe = Command::new("unshare").args(["-rn", "sh", "-c", script, "true"]).output();
    if !probe.is_ok_and(|p| p.status.success()) {
        return not_tested(
            "a crowd from elsewhere: no network namespace of one's own here (unshare -rn, ip)",
        );
    }
    let inner = "hostile::admin::in_a_network_of_four_machines";
    let output = Command::new("unshare")
        .args(["-rn", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", inner, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    said.lines().filter_map(|l| l.split_once("figure: ")).for_each(|(_, told)| figure(told));
}

#[test]
#[ignore = "run by the test above, in a network namespace"]
fn in_a_network_of_four_machines() {
    let world = World::new();
    let origins = ["stable", "new"].map(Origin::start);
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/tokens"), "ann 0123456789abcdef\n").unwrap();
    let mut config = Config::new(origins[0].address, origins[1].address);
    config.rest = "[admin]\ntoken_file = \"tokens\"\n".into();
    let text = config.text().replace("admin = \"127.0.0.1:0\"", "admin = \"0.0.0.0:0\"");
    let proxy = Proxy::start(&world.write_text(&text));
    // An own address, so that the peer is no loopback address either.
    let admin: SocketAddr = format!("10.77.0.1:{}", proxy.admin.port()).parse().unwrap();
    let token = "\r\nauthorization: Bearer 0123456789abcdef";
    let machine = |i: u8| IpAddr::from([10, 77, 0, i]);
    let mut crowd = vec![];
    for i in 0..CROWD {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(machine(2 + (i % 2) as u8), 0).into()).unwrap();
        socket.connect(&admin.into()).unwrap();
        crowd.push(socket);
    }
    // A waiting connection of another machine: it is not the one that is closed.
    let waits = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    waits.bind(&SocketAddr::new(machine(4), 0).into()).unwrap();
    waits.connect(&admin.into()).unwrap();
    for i in 0..CROWD {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(machine(2 + (i % 2) as u8), 0).into()).unwrap();
        socket.connect(&admin.into()).unwrap();
        crowd.push(socket);
    }
    let slowest = the_operator_is_served("from elsewhere", admin, Some(machine(4)), token);
    let here = format!("127.0.0.1:{}", proxy.admin.port()).parse().unwrap();
    assert_eq!(ask(here, None, "GET /livez HTTP/1.1", "").0, 200);
    let waits = TcpStream::from(waits);
    waits.set_read_timeout(Some(seconds(10))).unwrap();
    say(&waits, format!("GET /livez HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n"));
    assert!(hear(&waits).starts_with("HTTP/1.1 200"), "a machine with one connection keeps it");
    figure(&format!(
        "row 56, {} silent connections of two other machines: a third is answered within {} ms",
        crowd.len(),
        slowest.as_millis()
    ));
}
