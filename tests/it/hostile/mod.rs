//! Misbehaving clients, ten thousand times each way, and their cost: the blamed arm, the memory,
//! the descriptors, the ports.

mod admin;
mod blame;
mod blame_http2;
mod blame_tls;
mod exhaustion;
mod memory;
mod timeouts;

use crate::world::{
    Admin, Behaviour, Config, Load, Origin, Proxy, RELEASE, World, eventually, figure, seconds, times, turn,
    users_in_new,
};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::RwLockWriteGuard;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Faults of each kind, in a short run and in a long one.
const TIMES: [u64; 2] = [1_000, 10_000];
/// The share of users in `new`.
const PERCENT: u32 = 50;
/// Users whose clients misbehave, all of them in `new`: few, like the accounts of one attacker.
/// Hundreds of users, all in `new` and all with slow calls, would make `new` slower than stable,
/// and the comparison would correctly report it.
const RUDE_USERS: usize = 12;
/// The outcomes that an arm is blamed for.
const BLAMED: [&str; 6] = ["server_error", "connect_error", "timeout", "reset", "truncated", "saturated"];

/// Two good versions and a watchdog that judges them by the calls of other users, all of which must
/// be answered.
struct Scene {
    proxy: Proxy,
    load: Load,
    rude: Vec<String>,
    _origins: [Origin; 2],
    world: World,
    _turn: RwLockWriteGuard<'static, ()>,
}

/// The input of one fault.
struct Fault<'a> {
    address: SocketAddr,
    /// A user in `new`.
    user: &'a str,
    n: u64,
}

impl Scene {
    fn start(adjust: impl FnOnce(&World, &mut Config)) -> Scene {
        let turn = turn();
        let world = World::new();
        let origins = ["stable", "new"].map(Origin::start);
        origins.iter().for_each(|o| o.behave(Behaviour::AsAsked));
        let mut config = Config::new(origins[0].address, origins[1].address).weight(&format!("{PERCENT}%"));
        // Room for all misbehaving clients, including those not closed yet: the others must not
        // wait for them.
        config.upstreams =
            "connections_max = 8192\nrequests_in_flight_max = 8192\nconnect_timeout = \"10s\"".into();
        // Report mode, so that a test can see the reason: see `Scene::blames_nobody`.
        config.watchdog = "mode = \"report\"".into();
        adjust(&world, &mut config);
        let proxy = world.run(&config);
        // Some answers are slow, in both versions.
        // So a version counts as silent after seconds only, and a fault that hangs for a moment, on
        // a machine that is busy with ten thousand of them, is no silence.
        let load = Load::start_with(proxy.http, 6, Duration::from_millis(5), |client, user| {
            let slow = user.bytes().map(usize::from).sum::<usize>() % 24 == 0;
            client.get(if slow { "/slow" } else { "/" }, &[("x-user-id", user)])
        });
        eventually(seconds(20), "the watchdog knows both arms", || {
            let requests = |arm| proxy.api().release()["arms"][arm]["requests"].as_u64();
            (requests("stable") > Some(200) && requests("new") > Some(200)).then_some(())
        });
        let rude = users_in_new("rude", PERCENT, RUDE_USERS);
        Scene { proxy, load, rude, _origins: origins, world, _turn: turn }
    }

    /// Runs the fault [`TIMES`] times, `at_once` in parallel, and checks the counts, the judgement
    /// and the leftovers. `faults`: the number of faults per call.
    fn suffers(&self, kind: &str, at_once: u64, faults: u64, fault: impl Fn(&Fault<'_>) + Sync) {
        let api = self.proxy.api();
        let before = outcomes(&api);
        let next = AtomicU64::new(0);
        let times = times(TIMES[0], TIMES[1]);
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..at_once {
                let work = || {
                    loop {
                        let n = next.fetch_add(1, Relaxed);
                        if n >= times / faults {
                            return;
                        }
                        let user = &self.rude[n as usize % self.rude.len()];
                        fault(&Fault { address: self.proxy.http, user, n });
                    }
                };
                let small = std::thread::Builder::new().stack_size(256 * 1024);
                small.spawn_scoped(scope, work).expect("a thread");
            }
        });
        let took = began.elapsed();
        let gauge = |name: &str, labels: &[(&str, &str)]| api.metric(name, labels).unwrap_or(0.0);
        // Those of the load come and go.
        eventually(seconds(20), &format!("{kind}: nothing of it is left in flight"), || {
            (gauge("grayling_requests_in_flight", &[("release", RELEASE)]) <= 6.0).then_some(())
        });
        eventually(seconds(20), &format!("{kind}: no connection of it is left"), || {
            (gauge("grayling_connections", &[]) <= 6.0).then_some(())
        });
        let after = outcomes(&api);
        let counted: Vec<String> = after
            .iter()
            .map(|(outcome, n)| (outcome, n - before.get(outcome).unwrap_or(&0)))
            .filter(|(_, n)| *n > 0)
            .map(|(outcome, n)| format!("{outcome} {n}"))
            .collect();
        let release = api.release();
        let evidence = evidence_ratio(&release);
        figure(&format!(
            "{times} × {kind}: {:.1} s; counted {}; evidence against new {evidence:.2} of 1",
            took.as_secs_f64(),
            counted.join(", ")
        ));
        for outcome in BLAMED {
            let [had, has] = [&before, &after].map(|all| all.get(outcome).copied().unwrap_or(0));
            assert_eq!(has, had, "{kind}: counted as {outcome} of new");
        }
        self.blames_nobody(kind);
        assert!(
            !["rolled_back", "frozen"].contains(&release["state"].as_str().unwrap()),
            "{kind}: {release}"
        );
        assert!(evidence < EVIDENCE_MAX, "{kind}: {release}");
    }

    /// The watchdog would not have acted, except for latency: here all misbehaving clients are in
    /// `new`, and thousands of their calls a second do make it slower than stable for all users.
    /// That is a real difference, and no false blame.
    fn blames_nobody(&self, kind: &str) {
        let told = self.proxy.events("watchdog");
        let acts = told
            .iter()
            .filter_map(|event| event["detail"].as_str())
            .filter(|d| d.contains("would have taken"));
        let blamed: Vec<&str> = acts.filter(|detail| !detail.contains("new is slower than stable")).collect();
        assert!(blamed.is_empty(), "{kind}: {blamed:?}");
    }

    /// Every request of the others was served.
    fn ends(self) {
        let counts = self.load.stop();
        figure(&format!("other clients meanwhile: {counts:?}"));
        assert!(counts.keys().all(|k| k == "200"), "{counts:?}");
    }
}

/// The limit for signals that trip; the first chance failure of a good version is below.
const EVIDENCE_MAX: f64 = 0.3;

/// The strongest of the signals against `new`.
fn evidence_ratio(release: &serde_json::Value) -> f64 {
    let signals = release["watchdog"]["signals"].as_array().cloned().unwrap_or_default();
    let comparison = signals.iter().filter(|s| s["signal"] == "errors");
    comparison.filter_map(|s| s["evidence_ratio"].as_f64()).fold(0.0, f64::max)
}

/// The counts for `new`, and for requests refused before any decision.
fn outcomes(api: &Admin) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for ((name, labels), value) in api.metrics() {
        let arm = labels.get("arm").map(String::as_str);
        if name == "grayling_requests_total" && matches!(arm, Some("new" | "none")) {
            let outcome = labels["outcome"].clone();
            *counts.entry(outcome).or_insert(0) += value as u64;
        }
    }
    counts
}

/// A client; with a receive buffer of this many bytes, if its reads must be limited.
fn connect_with(address: SocketAddr, receive_bytes: Option<usize>) -> Option<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).ok()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes).ok()?;
    }
    socket.connect(&address.into()).ok()?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).ok()?;
    stream.set_read_timeout(Some(seconds(10))).ok()?;
    stream.set_write_timeout(Some(seconds(10))).ok()?;
    Some(stream)
}

/// Clients that one thread runs together.
const CROWD: u64 = 50;

/// Connects them, and sends these bytes on each.
fn crowd(fault: &Fault<'_>, bytes: &str, receive_bytes: Option<usize>) -> Vec<TcpStream> {
    let all: Vec<_> = (0..CROWD).filter_map(|_| connect_with(fault.address, receive_bytes)).collect();
    assert_eq!(all.len() as u64, CROWD, "the proxy takes connections");
    all.iter().for_each(|stream| say(stream, bytes));
    all
}

/// An ordinary request is answered.
/// So the earlier data were forwarded, except for the last of them, and clients that leave without
/// waiting are no flood that overloads the proxy.
fn keep_pace(fault: &Fault<'_>) {
    let stream = connect(fault.address);
    say(&stream, "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: pace\r\nconnection: close\r\n\r\n");
    hear(&stream);
}

fn connect(address: SocketAddr) -> TcpStream {
    connect_with(address, None).expect("the proxy takes connections")
}

/// Sends as much as possible: the proxy may have closed already.
fn say(mut stream: &TcpStream, bytes: impl AsRef<[u8]>) {
    let _ = stream.write_all(bytes.as_ref());
}

/// Closes: every other time with a RST, otherwise with a FIN.
fn leave(stream: TcpStream, n: u64) {
    if n.is_multiple_of(2) {
        let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}

/// Reads until the proxy has closed; returns the first bytes.
fn hear(mut stream: &TcpStream) -> String {
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        if said.len() < 4096 {
            said.extend_from_slice(&piece[..n]);
        }
    }
    let _ = stream.shutdown(Shutdown::Both);
    String::from_utf8_lossy(&said).into_owned()
}

fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Resident memory of the proxy, in KiB.
fn resident_kib(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
