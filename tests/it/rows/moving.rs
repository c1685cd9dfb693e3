//! Row 51: names whose addresses change, and dead addresses. The servers are one real nginx that
//! listens on several addresses of the loopback network and answers with the one it was asked at.

use crate::world::{Config, Nginx, Origin, Proxy, World, eventually, figure, not_tested, overload, seconds};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NAME: &str = "billing.test";
/// The answer to `/where` is the address of the server.
const WHERE: &str = "location = /where { return 200 \"$server_addr\"; }";
const DOWNLOAD_BYTES: usize = 10 << 10;

/// A proxy whose `new` is a name in a hosts file of its own, and the servers behind it.
struct Moving {
    world: World,
    proxy: Proxy,
    hosts: PathBuf,
    port: u16,
    _servers: (Origin, Nginx),
}

impl Moving {
    /// `None`: this machine allows no mount namespaces.
    /// `server`: more lines of nginx's server. `before`: what happens before the proxy starts.
    fn start(upstream: &str, server: &str, addresses: &[&str], before: impl FnOnce(u16)) -> Option<Moving> {
        let world = World::new();
        std::fs::write(world.path("download"), vec![b'.'; DOWNLOAD_BYTES]).unwrap();
        let download = format!(
            "location = /download {{ root {}; limit_rate 1k; limit_rate_after 1; }}",
            world.folder().display()
        );
        let h2 = if upstream.contains("http2 = true") { "http2" } else { "" };
        let server =
            format!("listen 127.0.0.2:PORT {h2}; listen 127.0.0.3:PORT {h2}; {server} {WHERE} {download}");
        let (stable, nginx) = (Origin::start("stable"), Nginx::start_at_more(&world, "new", &server));
        let port = nginx.address.port();
        before(port);
        let hosts = world.path("hosts");
        std::fs::write(&hosts, lines(addresses)).unwrap();
        let mut config = Config::new(stable.address, nginx.address).weight("100%");
        config.watchdog = "enabled = false".into();
        config.upstream_new = Some(upstream.into());
        let servers = [format!("http://{}", nginx.address), format!("http://{NAME}:{port}")];
        let file = world.write_text(&config.text().replace(&servers[0], &servers[1]));
        let proxy = Proxy::start_with_hosts(&file, &hosts)?;
        Some(Moving { world, proxy, hosts, port, _servers: (stable, nginx) })
    }

    /// In place: the file is mounted over another.
    fn leads_to(&self, addresses: &[&str]) {
        std::fs::write(&self.hosts, lines(addresses)).unwrap();
    }
}

fn lines(addresses: &[&str]) -> String {
    addresses.iter().map(|address| format!("{address} {NAME}\n")).collect()
}

fn a_name_is_followed(upstream: &str) {
    let Some(scene) = Moving::start(upstream, "", &["127.0.0.2"], |_| {}) else {
        return not_tested("a name that moves: no mount namespace");
    };
    let downloads: Vec<_> = (0..4)
        .map(|n| {
            let mut client = scene.proxy.client();
            let user = format!("download{n}");
            std::thread::spawn(move || {
                client.get("/download", &[("x-user-id", user.as_str())]).expect("it ends well").body.len()
            })
        })
        .collect();
    let mut client = scene.proxy.client();
    let mut place = || client.get("/where", &[("x-user-id", "alice")]).unwrap().text();
    (0..50).for_each(|_| assert_eq!(place(), "127.0.0.2"));
    scene.leads_to(&["127.0.0.3"]);
    let moved = Instant::now();
    // Too often for the old connection to become idle, too seldom to wear it out.
    while place() != "127.0.0.3" {
        let late = moved.elapsed() > seconds(5).mul_f64(overload());
        assert!(!late, "the old address still gets requests after {:?}", moved.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    figure(&format!("a name that moves ({upstream}): followed after {:.1?}", moved.elapsed()));
    for _ in 0..100 {
        assert_eq!(place(), "127.0.0.3");
        std::thread::sleep(Duration::from_millis(5));
    }
    for download in downloads {
        assert_eq!(download.join().unwrap(), DOWNLOAD_BYTES, "a download of the old server goes on");
    }
    // A name that leads nowhere keeps its addresses.
    scene.leads_to(&[]);
    eventually(seconds(30), "a look-up has failed", || scene.proxy.events("resolve_failed").pop());
    (0..50).for_each(|_| assert_eq!(place(), "127.0.0.3"));
    drop(scene.world);
}

#[test]
fn row_51_a_name_that_moves_takes_new_requests_along_within_five_seconds() {
    a_name_is_followed("");
}

#[test]
fn row_51_a_name_that_moves_takes_streams_of_http2_along_too() {
    a_name_is_followed("http2 = true");
}

#[test]
fn row_51_a_name_that_moves_away_from_a_dead_server_is_looked_up_at_once() {
    let Some(scene) = Moving::start("", "", &["127.0.0.8"], |_| {}) else {
        return not_tested("a name that moves: no mount namespace");
    };
    let mut client = scene.proxy.client();
    let mut ask = || client.get("/where", &[("x-user-id", "alice")]).unwrap().text();
    // Nothing listens there: stable serves, and each failure asks for a look-up.
    assert_eq!(ask(), "stable");
    scene.leads_to(&["127.0.0.2"]);
    let moved = Instant::now();
    eventually(seconds(3), "it is followed", || (ask() == "127.0.0.2").then_some(()));
    figure(&format!("a name that leaves a dead server: followed after {:.1?}", moved.elapsed()));
}

/// A listener that accepts nothing: connections to it hang.
fn black_hole(address: SocketAddr) -> (socket2::Socket, Vec<TcpStream>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(0).unwrap();
    let mut filling = vec![];
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        filling.push(stream);
        assert!(filling.len() < 16, "its queue does not fill");
    }
    (socket, filling)
}

#[test]
fn row_51_a_dead_address_of_two_is_tried_last_once_it_is_known() {
    let mut hole = None;
    // nginx ends the connection after each request, so that every request needs a new one.
    let started = Moving::start("", "keepalive_timeout 0;", &["127.0.0.2", "127.0.0.9"], |port| {
        hole = Some(black_hole(SocketAddr::from(([127, 0, 0, 9], port))));
    });
    let Some(scene) = started else {
        return not_tested("a dead address of two: no mount namespace");
    };
    assert_ne!(scene.port, 0);
    let mut client = scene.proxy.client();
    let mut times = vec![];
    for _ in 0..200 {
        let asked = Instant::now();
        let place = client.get("/where", &[("x-user-id", "alice")]).unwrap().text();
        times.push(asked.elapsed());
        assert_eq!(place, "127.0.0.2");
    }
    // 250 ms is the pause before the next address. The workers share what they know of addresses.
    let delayed = times.iter().filter(|time| **time >= Duration::from_millis(250)).count();
    times.sort_unstable();
    figure(&format!(
        "a dead address of two: p50 {:.1?}, p99 {:.1?}, worst {:.1?}, {delayed} of 200 delayed",
        times[100], times[197], times[199]
    ));
    // A busy machine delays a few more. Without a memory it is every second one.
    assert!(delayed <= 20, "{delayed} of 200 requests waited for the dead address: {times:?}");
}

/// The number of connections to a server over which requests of two seconds went.
fn connections_of_two_seconds(upstream: &str) -> usize {
    let world = World::new();
    let h2 = if upstream.contains("http2 = true") { "http2" } else { "" };
    // nginx counts its connections.
    let lines = format!("listen 127.0.0.2:PORT {h2}; location = /nth {{ return 200 $connection; }}");
    let (stable, nginx) = (Origin::start("stable"), Nginx::start_at_more(&world, "new", &lines));
    let new = SocketAddr::from(([127, 0, 0, 2], nginx.address.port()));
    let mut config = Config::new(stable.address, new).weight("100%");
    config.listen = "workers = 1".into();
    config.watchdog = "enabled = false".into();
    config.upstream_new = Some(upstream.into());
    let proxy = world.run(&config);
    let (mut client, began) = (proxy.client(), Instant::now());
    let mut connections = std::collections::BTreeSet::new();
    while began.elapsed() < seconds(2) {
        connections.insert(client.get("/nth", &[("x-user-id", "alice")]).unwrap().text());
        std::thread::sleep(Duration::from_millis(10));
    }
    connections.len()
}

#[test]
fn a_connection_older_than_connection_age_max_takes_no_further_request() {
    for protocol in ["", "http2 = true\n"] {
        let aged = connections_of_two_seconds(&format!("{protocol}connection_age_max = \"400ms\""));
        assert!((4..=10).contains(&aged), "{aged} connections: {protocol}");
        assert_eq!(connections_of_two_seconds(&format!("{protocol}connection_age_max = \"0s\"")), 1);
    }
}
