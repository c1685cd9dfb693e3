//! nginx and HAProxy on both sides of grayling: in front as its clients, behind as its origins, in
//! every protocol of Debian's versions.

use super::{Server, free, run};
use crate::world::{
    Authority, Behaviour, Client, Config, Origin, Proxy, Validity, World, eventually, figure, long, seconds,
    times, turn, wrk,
};
use std::net::SocketAddr;
use std::time::Duration;

/// The kind of a hop.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Hop {
    Nginx,
    Haproxy,
    HaproxyH2,
    /// Behind grayling only: over TLS with a private CA, HTTP/2 by ALPN.
    NginxTls,
    HaproxyTls,
}

impl Hop {
    fn http2(self) -> bool {
        matches!(self, Hop::HaproxyH2 | Hop::NginxTls | Hop::HaproxyTls)
    }

    fn tls(self) -> bool {
        matches!(self, Hop::NginxTls | Hop::HaproxyTls)
    }
}

/// A server that forwards everything to `to`.
fn hop(world: &World, name: &str, hop: Hop, side: Side, to: SocketAddr) -> (Server, SocketAddr) {
    let at = free();
    let config = world.path("config");
    let config = config.display();
    let server = match hop {
        Hop::Nginx | Hop::NginxTls => {
            let (listen, pair) = match hop {
                Hop::NginxTls => (
                    "ssl http2",
                    format!("ssl_certificate {config}/server.pem; ssl_certificate_key {config}/server.key;"),
                ),
                _ => ("", String::new()),
            };
            let http = format!(
                "upstream next {{ server {to}; keepalive 64; }}\n\
                 server {{ listen {at} {listen} backlog=4096; {pair} client_max_body_size 0; location / {{\n\
                 proxy_pass http://next; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $host;\n\
                 proxy_request_buffering off; proxy_buffering off; proxy_next_upstream off; }} }}"
            );
            Server::nginx(world, name, at, &http)
        }
        Hop::Haproxy | Hop::HaproxyH2 | Hop::HaproxyTls => {
            let bind = match (hop, side) {
                (Hop::HaproxyTls, _) => format!("ssl crt {config}/both.pem alpn h2"),
                (Hop::HaproxyH2, Side::Behind) => "proto h2".into(),
                _ => String::new(),
            };
            let speaks = if hop == Hop::HaproxyH2 && side == Side::Front { "proto h2" } else { "" };
            let sections =
                format!("listen all\n  bind {at} {bind}\n  http-reuse safe\n  server next {to} {speaks}");
            Server::haproxy(world, name, at, &sections)
        }
    };
    (server, at)
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Front,
    Behind,
}

fn world() -> World {
    let world = World::new();
    let ca = Authority::new("test CA");
    let (certificate, key) = ca.server(&world, "server", Validity::Now);
    ca.write(&world, "ca.pem");
    let both = [certificate, key].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(world.path("config/both.pem"), both).unwrap();
    world
}

/// grayling in front of one server, all users in stable.
fn grayling(world: &World, behind: Hop, origin: SocketAddr) -> Proxy {
    let mut config = Config::new(origin, free()).weight("0%").watchdog("enabled = false");
    if behind.http2() {
        config.upstreams = "http2 = true\n".into();
    }
    if behind.tls() {
        config.schemes = ["https", "https"];
        config.upstreams.push_str("ca_file = \"ca.pem\"");
    }
    world.run(&config)
}

/// Outcomes other than `ok`.
fn not_ok(proxy: &Proxy) -> Vec<(String, f64)> {
    let all = proxy.api().metrics().into_iter();
    all.filter(|((name, labels), n)| {
        name == "grayling_requests_total" && *n > 0.0 && labels["outcome"] != "ok"
    })
    .map(|((_, labels), n)| (labels["outcome"].clone(), n))
    .collect()
}

#[test]
fn bodies_come_through_nginx_and_haproxy_on_both_sides_byte_for_byte() {
    use Hop::{Haproxy, HaproxyH2, HaproxyTls, Nginx, NginxTls};
    let chains = [
        (Nginx, Nginx),
        (Haproxy, Haproxy),
        (HaproxyH2, HaproxyH2),
        (Nginx, NginxTls),
        (HaproxyH2, HaproxyTls),
        (Haproxy, NginxTls),
    ];
    let body: Vec<u8> =
        (0..6_000_000u32).map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 24) as u8 % 26).collect();
    for (front, behind) in chains {
        let world = world();
        let origin = Origin::start("origin");
        origin.behave(Behaviour::Echo);
        let (_behind, address) = hop(&world, "behind", behind, Side::Behind, origin.address);
        let proxy = grayling(&world, behind, address);
        let (_front, address) = hop(&world, "front", front, Side::Front, proxy.http);
        std::fs::write(world.path("body"), &body).unwrap();
        let (sent, came) = (world.path("body"), world.path("came"));
        // With a length, and chunked: once each.
        for how in ["content-length: 6000000", "transfer-encoding: chunked"] {
            let file = format!("@{}", sent.display());
            let url = format!("http://{address}/pay");
            let said = run(
                "curl",
                [
                    "-sS",
                    "-H",
                    how,
                    "--data-binary",
                    &file,
                    "-o",
                    came.to_str().unwrap(),
                    "-w",
                    "%{http_code}",
                    &url,
                ],
            );
            assert_eq!(said.text, "200", "{front:?} → {behind:?}, {how}");
            let back = std::fs::read(&came).unwrap();
            assert!(back.ends_with(&body), "{front:?} → {behind:?}, {how}: {} bytes came back", back.len());
        }
        let received = origin.received();
        assert!(received.iter().all(|r| r.body == body), "{front:?} → {behind:?}");
        assert_eq!(received.len(), 2, "{front:?} → {behind:?}");
        assert_eq!(not_ok(&proxy), [], "{front:?} → {behind:?}");
    }
    figure("nginx and HAProxy on both sides, 6 chains, h1, h2c and TLS: 12 bodies of 6 MB intact both ways");
}

/// A server with its own response and short keep-alive.
fn answering(world: &World, kind: Hop) -> (Server, SocketAddr) {
    let at = free();
    let config = world.path("config");
    let config = config.display();
    let server = match kind {
        Hop::Nginx | Hop::NginxTls => {
            let (listen, pair) = match kind {
                Hop::NginxTls => (
                    "ssl http2",
                    format!("ssl_certificate {config}/server.pem; ssl_certificate_key {config}/server.key;"),
                ),
                _ => ("", String::new()),
            };
            // Over HTTP/2 nginx's own limit of a thousand requests: at it, nginx drops requests in
            // flight, and grayling closes before.
            let keep = if kind == Hop::Nginx { "keepalive_requests 50; keepalive_timeout 1s;" } else { "" };
            let http = format!(
                "{keep}\n\
                 server {{ listen {at} {listen} backlog=4096; {pair} location / {{ return 200 \"ok\\n\"; }} }}"
            );
            Server::nginx(world, "origin", at, &http)
        }
        Hop::Haproxy | Hop::HaproxyH2 | Hop::HaproxyTls => {
            let bind = match kind {
                Hop::HaproxyTls => format!("ssl crt {config}/both.pem alpn h2"),
                Hop::HaproxyH2 => "proto h2".into(),
                _ => String::new(),
            };
            let sections = format!(
                "frontend all\n  bind {at} {bind}\n  timeout http-keep-alive 1s\n  http-request return status 200 content-type text/plain string ok"
            );
            Server::haproxy(world, "origin", at, &sections)
        }
    };
    (server, at)
}

/// If the machine stalls for a moment, everything in flight crosses at once, for any proxy.
/// So a limit on crossings must hold in one run of a few; a fault loses requests in every run.
/// `Err`: the result of each run.
fn unless_stalled<T>(run: impl Fn() -> T, fits: impl Fn(&T) -> bool) -> Result<(), Vec<T>> {
    let mut each = vec![];
    for _ in 0..4 {
        each.push(run());
        if each.last().is_some_and(&fits) {
            return Ok(());
        }
    }
    Err(each)
}

#[test]
fn an_origin_that_closes_idle_connections_at_the_rhythm_of_the_calls_loses_next_to_none() {
    if !long() {
        return;
    }
    let _turn = turn();
    let world = world();
    let (_origin, address) = answering(&world, Hop::Nginx);
    let proxy = grayling(&world, Hop::Nginx, address);
    let at = proxy.http;
    // Three hundred callers, each with a call a second: the connections that nginx closes after a
    // second are used at that very moment.
    let call = || {
        let callers: Vec<_> = (0..300)
            .map(|n| {
                std::thread::spawn(move || {
                    let mut client = Client::new(at);
                    let mut failed = 0;
                    for _ in 0..8 {
                        failed += u64::from(!client.get_as(&format!("u{n}")).is_ok_and(|a| a.status == 200));
                        std::thread::sleep(Duration::from_millis(985 + n % 30));
                    }
                    failed
                })
            })
            .collect();
        let failed: u64 = callers.into_iter().map(|c| c.join().unwrap()).sum();
        figure(&format!("nginx closing after 1 s, called every second: {failed} of 2400 failed"));
        failed
    };
    // A close still on the wire cannot be detected; a close that has arrived can.
    assert!(unless_stalled(call, |failed| *failed <= 2).is_ok(), "each time more than 2 of 2400 failed");
}

#[test]
fn a_graceful_reload_of_an_origin_or_of_a_front_fails_no_request_that_the_protocol_can_save() {
    use Hop::{Haproxy, HaproxyH2, HaproxyTls, Nginx, NginxTls};
    let _turn = turn();
    let (reloads, callers) = (3, 16);
    // One of each protocol; in a long run each server, with and without TLS, too.
    let kinds = [Nginx, HaproxyH2, Haproxy, NginxTls, HaproxyTls];
    for kind in kinds.into_iter().take(times(2, 5) as usize) {
        let reload = || {
            let world = world();
            let (origin, address) = answering(&world, kind);
            let proxy = grayling(&world, kind, address);
            let load = wrk(&world, proxy.http, callers, seconds(3));
            for _ in 0..reloads {
                std::thread::sleep(Duration::from_millis(750)); // load between reloads
                origin.reload();
            }
            let counted = load.finish();
            let failed = counted.non_2xx + counted.socket_errors;
            let not_ok = not_ok(&proxy);
            figure(&format!(
                "{kind:?} as origin, reloaded 3 times: {failed} of {} failed {not_ok:?}",
                counted.requests
            ));
            (counted.requests, failed, not_ok)
        };
        // Requests that cross the end of a connection cannot be detected.
        // For HTTP/1.1 that is rarely one request; for HTTP/2, with one shared connection, it is
        // all requests in flight when GOAWAY came.
        let crossing = if kind.http2() { u64::from(callers) } else { 1 };
        let fits = |(requests, failed, _): &(u64, u64, _)| *requests > 1000 && *failed <= reloads * crossing;
        if let Err(each) = unless_stalled(reload, fits) {
            panic!("{kind:?}: {each:?}");
        }
    }
    for kind in [Nginx, HaproxyH2] {
        let world = world();
        let (_origin, address) = answering(&world, Nginx);
        let proxy = grayling(&world, Nginx, address);
        let (front, address) = hop(&world, "front", kind, Side::Front, proxy.http);
        let load = wrk(&world, address, 16, seconds(2));
        std::thread::sleep(seconds(1)); // during the load
        front.reload();
        let counted = load.finish();
        figure(&format!(
            "{kind:?} in front, reloaded: {} answered, {} of them no 2xx, {} connections lost, grayling {:?}",
            counted.requests,
            counted.non_2xx,
            counted.socket_errors,
            not_ok(&proxy)
        ));
        // If the front closes a connection as a request arrives on it, the front is responsible.
        let lost = counted.socket_errors * 100 > counted.requests;
        assert!(counted.requests > 200 && counted.non_2xx == 0 && !lost, "{kind:?}: {counted:?}");
        eventually(seconds(5), "nothing is left in flight", || {
            (proxy.api().metric("grayling_requests_in_flight", &[]).unwrap_or(0.0) == 0.0).then_some(())
        });
    }
}
