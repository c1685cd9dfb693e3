//! Exhaustion: connections, requests, descriptors, ports, the reader of the log.
//! The rest of the users, the admin API and the watchdog continue; no arm is blamed; everything
//! recovers afterwards.

use super::{BLAMED, connect, connect_with, hear, outcomes, resident_kib, say};
use crate::world::{
    Behaviour, Client, Config, Origin, Proxy, World, eventually, figure, not_tested, seconds, turn,
    users_in_new,
};
use socket2::{Domain, Socket, Type};
use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn origins() -> [Origin; 2] {
    let origins = ["stable", "new"].map(Origin::start);
    origins.iter().for_each(|o| o.behave(Behaviour::AsAsked));
    origins
}

fn nobody_is_blamed(proxy: &Proxy) {
    let counted = outcomes(&proxy.api());
    for outcome in BLAMED {
        assert_eq!(counted.get(outcome).copied().unwrap_or(0), 0, "{outcome}: {counted:?}");
    }
    let release = proxy.api().release();
    assert!(release["trip"].is_null() && release["state"] != "frozen", "{release}");
}

fn request(user: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\n\r\n")
}

/// Processor time used by the proxy, in hundredths of a second.
fn ticks(proxy: &Proxy) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().unwrap()).sum()
}

#[test]
fn row_33_without_descriptors_the_proxy_goes_on_and_recovers() {
    let _turn = turn();
    let (world, [stable, new]) = (World::new(), origins());
    let config = Config::new(stable.address, new.address).weight("50%");
    let proxy = Proxy::start_with_descriptors(&world.write(&config), 96);
    let clamped = proxy.event("limit_clamped");
    assert_eq!(clamped["limit"], "connections", "{clamped:?}");
    let in_force = clamped["in_force"].as_u64().unwrap();
    assert!((8..96).contains(&in_force), "{clamped:?}");

    // Far more than available: each needs two.
    let users = users_in_new("user", 50, 200);
    let held: Vec<TcpStream> = users.iter().map(|_| connect(proxy.http)).collect();
    for (stream, user) in held.iter().zip(&users) {
        say(stream, request(user, "/hang"));
    }
    let used = ticks(&proxy);
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut refused = 0;
    while start.elapsed() < seconds(3) {
        let asked = Instant::now();
        assert_eq!(proxy.api().get("/readyz").status, 200);
        assert!(!proxy.api().release()["watchdog"]["state"].is_null());
        slowest = slowest.max(asked.elapsed());
        let answer = Client::new(proxy.http).get_as("someone");
        refused += u32::from(answer.is_ok_and(|a| a.status == 503 && a.header("retry-after") == Some("1")));
        std::thread::sleep(Duration::from_millis(20));
    }
    let share = (ticks(&proxy) - used) as f64 / start.elapsed().as_secs_f64() / 100.0;
    figure(&format!(
        "row 33, 96 descriptors, {in_force} connections allowed, 200 wanted: {refused} were told 503; admin within {} ms; {share:.2} cores used",
        slowest.as_millis()
    ));
    assert!(refused > 0 && slowest < seconds(2));
    assert!(share < 0.8, "it spins: {share:.2} cores");
    nobody_is_blamed(&proxy);
    drop(held);
    eventually(seconds(10), "it serves again", || {
        Client::new(proxy.http).get_as("someone").ok().filter(|a| a.status == 200)
    });
    nobody_is_blamed(&proxy);
}

#[test]
fn row_33_three_times_the_requests_that_are_allowed() {
    let _turn = turn();
    let (world, [stable, new]) = (World::new(), origins());
    let mut config = Config::new(stable.address, new.address).weight("50%");
    config.limits = "requests_in_flight = 300".into();
    config.rest = "[log]\nsample = \"0%\"\n".into();
    let proxy = world.run(&config);
    let users = users_in_new("user", 50, 50);
    let _held: Vec<TcpStream> = (0..300)
        .map(|i| {
            let stream = connect(proxy.http);
            say(&stream, request(&users[i % 50], "/hang"));
            stream
        })
        .collect();
    let api = proxy.api();
    eventually(seconds(10), "there is no room left", || {
        (api.metric("grayling_requests_in_flight", &[("arm", "new")]) == Some(300.0)).then_some(())
    });
    let before = resident_kib(&proxy);
    let end = Instant::now() + seconds(4);
    let (told, slowest) = std::thread::scope(|scope| {
        let overload: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let mut told = 0;
                    while Instant::now() < end {
                        // Fifty at a time, each on its own connection: six hundred more than there
                        // is room for.
                        let all: Vec<_> = (0..50).filter_map(|_| connect_with(proxy.http, None)).collect();
                        let bytes =
                            request("someone", "/").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
                        all.iter().for_each(|s| say(s, &bytes));
                        for stream in all {
                            let said = hear(&stream);
                            assert!(
                                said.starts_with("HTTP/1.1 503 ") && said.contains("retry-after: 1"),
                                "{said}"
                            );
                            told += 1;
                        }
                    }
                    told
                })
            })
            .collect();
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let asked = Instant::now();
            assert_eq!(api.get("/metrics").status, 200);
            assert_eq!(api.get("/livez").status, 200);
            slowest = slowest.max(asked.elapsed());
        }
        (overload.into_iter().map(|t| t.join().unwrap()).sum::<u64>(), slowest)
    });
    let after = resident_kib(&proxy);
    figure(&format!(
        "row 33, three times as many requests as allowed: {told} told 503 in 4 s; metrics and livez within {} ms; memory {before} → {after} KiB",
        slowest.as_millis()
    ));
    assert!(told > 500 && slowest < seconds(2), "{told}, {slowest:?}");
    assert!(after < before + 60_000, "{before} → {after} KiB");
}

#[test]
fn a_log_that_nobody_reads_stalls_nobody_and_is_counted() {
    let (world, [stable, new]) = (World::new(), origins());
    let mut config = Config::new(stable.address, new.address);
    config.rest = "[log]\nsample = \"100%\"\n".into();
    let proxy = world.run(&config);
    proxy.leave_log_unread();
    let mut client = proxy.client();
    let dropped = || proxy.api().metric("grayling_log_lines_dropped_total", &[]).unwrap_or(0.0);
    let mut slowest = Duration::ZERO;
    eventually(seconds(60), "lines are dropped", || {
        for i in 0..500 {
            let asked = Instant::now();
            assert_eq!(client.get_as(&format!("user-{i}")).unwrap().status, 200);
            slowest = slowest.max(asked.elapsed());
        }
        (dropped() > 500.0).then_some(())
    });
    figure(&format!("a log that nobody reads: {} lines dropped, slowest answer {slowest:?}", dropped()));
    assert!(slowest < seconds(2));
    nobody_is_blamed(&proxy);
}

/// Needs its own port range: the proxy, its origins and clients run in a network namespace with
/// thirty ports.
/// Time-wait is disabled there: the repeated connections to the admin port would use up all ports.
#[test]
fn row_33_without_ports_requests_are_503_and_new_is_not_blamed() {
    let script = "ip link set lo up && echo '50000 50029' > /proc/sys/net/ipv4/ip_local_port_range && echo 0 > /proc/sys/net/ipv4/tcp_max_tw_buckets && exec \"$0\" \"$@\"";
    let probe = Command::new("unshare").args(["-rn", "sh", "-c", script, "true"]).output();
    if !probe.is_ok_and(|p| p.status.success()) {
        return not_tested("ports that run out: no network namespace of one's own here (unshare -rn, ip)");
    }
    let inner = "hostile::exhaustion::in_a_network_of_thirty_ports";
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
fn in_a_network_of_thirty_ports() {
    let (world, [stable, new]) = (World::new(), origins());
    // The ports of the test come from the same thirty: three listeners of the proxy, two of
    // origins.
    let proxy = world.run(&Config::new(stable.address, new.address).weight("50%"));
    let users = users_in_new("user", 50, 60);
    // Clients with other addresses: only the proxy has no port left.
    let held: Vec<TcpStream> = (0..60u8)
        .map(|i| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let from = std::net::SocketAddr::from(([127, 0, 1, 1 + i], 0));
            socket.bind(&from.into()).unwrap();
            socket.connect(&proxy.http.into()).unwrap();
            let mut stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(seconds(5))).unwrap();
            stream.write_all(request(&users[usize::from(i)], "/hang").as_bytes()).unwrap();
            stream
        })
        .collect();
    let (api, labels) = (proxy.api(), [("arm", "new"), ("outcome", "proxy_error")]);
    let refused = eventually(seconds(10), "the ports have run out", || {
        api.metric("grayling_requests_total", &labels).filter(|n| *n >= 20.0)
    });
    let said = hear(held.last().unwrap());
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("retry-after: 1"), "{said}");
    figure(&format!(
        "row 33, thirty ports: {refused} of 60 requests to new were told 503, none counted against it"
    ));
    nobody_is_blamed(&proxy);
    drop(held);
    eventually(seconds(10), "it serves again", || {
        Client::new(proxy.http).get_as(&users[0]).ok().filter(|a| a.status == 200)
    });
    nobody_is_blamed(&proxy);
}
