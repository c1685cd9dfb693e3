//! grpcio as client and as server: the four kinds of call, complete and broken off.

use super::{PYTHON, run, script};
use crate::world::{
    Authority, Config, Proxy, Validity, World, eventually, figure, long, seconds, turn, users_in_new,
};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// tests/data/grpc_peers.py as a server, ended with the test.
struct GrpcServer(Child, SocketAddr);

impl GrpcServer {
    /// `pair`: certificate and key, if it uses TLS.
    fn start(pair: &[&Path]) -> GrpcServer {
        let mut command = Command::new(PYTHON);
        command.arg(script("grpc_peers.py")).arg("server").args(pair);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        let mut told = BufReader::new(child.stdout.take().expect("piped"));
        told.read_line(&mut line).expect("it says where it listens");
        let address = line.trim().parse().expect("python3-grpcio is there (tests/run installs it)");
        GrpcServer(child, address)
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Security {
    Plain,
    /// TLS on both sides of the proxy.
    Tls,
}

/// Makes a group of calls as a user of `new` and as a user of `stable`.
/// Each must have the same result as without a proxy, and none may count against an arm.
/// Returns the number of calls of one user.
fn battery(group: &str, security: Security, upstreams: &str, limits: &str) -> usize {
    let world = World::new();
    let authority = Authority::new("test CA");
    authority.server(&world, "server", Validity::Now);
    let (certificate, key) = authority.server(&world, "grpc", Validity::Now);
    let ca = authority.write(&world, "ca.pem");
    let pair = if security == Security::Tls { vec![certificate.as_path(), key.as_path()] } else { vec![] };
    let (stable, new) = (GrpcServer::start(&pair), GrpcServer::start(&pair));
    let mut config = Config::new(stable.1, new.1).weight("20%");
    config.upstreams = format!("http2 = true\n{upstreams}");
    config.limits = limits.into();
    // Calls fail on purpose here.
    config.release = "[release.billing.outcome]\ngrpc = false".into();
    config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
    config.rest = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
    if security == Security::Tls {
        config.schemes = ["https", "https"];
        config.upstreams.push_str("\nca_file = \"ca.pem\"");
    }
    let proxy = world.run(&config);

    let (target, ca) = match security {
        Security::Plain => (proxy.http, vec![]),
        Security::Tls => (proxy.https(), vec![ca.as_os_str()]),
    };
    let target = target.to_string();
    let calls = |user: &str| {
        let arguments = ["calls", group, &target, user].map(Into::into);
        let said = run(
            PYTHON,
            [script("grpc_peers.py").into_os_string()]
                .iter()
                .chain(&arguments)
                .map(|a| a.as_os_str())
                .chain(ca.iter().copied()),
        );
        let cases: Vec<Value> =
            said.text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let bad: Vec<&Value> = cases.iter().filter(|case| case["ok"] != true).collect();
        assert!(!cases.is_empty() && bad.is_empty(), "{bad:#?}\n{}", said.text);
        cases.len()
    };
    let made = calls(&users_in_new("user", 20, 1)[0]);
    if group == "quick" {
        assert_eq!(calls("nobody-in-new"), made);
    }
    nobody_is_blamed(&proxy);
    made
}

#[test]
fn a_server_of_grpcio_is_probed_by_the_health_protocol() {
    let (stable, new) = (GrpcServer::start(&[]), GrpcServer::start(&[]));
    for (service, reason) in [("sick", "NOT_SERVING"), ("unheard", "grpc-status 5")] {
        let world = World::new();
        let probe = |service: &str| {
            format!("http2 = true\nhealth = {{ grpc = \"{service}\", interval = \"100ms\" }}")
        };
        let mut config = Config::new(stable.1, new.1).weight("0%").upstreams(&probe(""));
        config.upstream_new = Some(probe(service));
        let proxy = world.run(&config);
        let told = proxy.event("server_down");
        assert_eq!((told["upstream"].as_str(), told["reason"].as_str()), (Some("v2"), Some(reason)));
        let healthy = |arm: &str| proxy.api().release()["arms"][arm]["servers_healthy"].as_u64();
        eventually(seconds(5), "the status says so", || (healthy("new") == Some(0)).then_some(()));
        assert_eq!(healthy("stable"), Some(1));
        assert_eq!(proxy.events("server_down").len(), 1);
    }
}

fn nobody_is_blamed(proxy: &Proxy) {
    eventually(seconds(10), "nothing is left in flight", || {
        (proxy.api().metric("grayling_requests_in_flight", &[]).unwrap_or(0.0) == 0.0).then_some(())
    });
    let of = |outcome| proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]).unwrap_or(0.0);
    for outcome in
        ["client_error", "server_error", "connect_error", "timeout", "reset", "truncated", "saturated"]
    {
        assert_eq!(of(outcome), 0.0, "{outcome}");
    }
    assert_eq!((of("rejected"), of("proxy_error")), (0.0, 0.0));
    assert!(of("ok") > 0.0);
    assert!(proxy.api().trip().is_none());
}

#[test]
fn grpcio_calls_of_all_four_kinds_come_out_as_without_a_proxy() {
    let _turn = turn();
    let made = battery("quick", Security::Plain, "", "");
    assert_eq!(made, 28);
    assert_eq!(battery("quick", Security::Tls, "", ""), made);
    figure(&format!("gRPC calls of python3-grpcio, in plain text and over TLS: {made} of {made} as wanted"));
}

#[test]
fn grpcio_calls_that_are_silent_for_75_s_go_on() {
    if !long() {
        return;
    }
    // A unary call sends nothing before its answer, which `response_timeout` bounds.
    // The client gets a PING every second, which gRPC clients accept.
    let limits = "keepalive_timeout = \"1s\"";
    let made = battery("silent", Security::Plain, "response_timeout = \"120s\"", limits);
    assert_eq!(made, 4);
}
