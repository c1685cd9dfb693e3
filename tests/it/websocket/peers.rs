//! WebSockets with a third-party client and server: python3-websockets.

use super::{descriptors, resident, user};
use crate::world::{Authority, Config, Validity, World, eventually, figure, seconds, turn};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// python3-websockets, through the interpreter of Debian's packages.
fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/websocket_peers.py")).args(arguments);
    command
}

/// A child process with a line protocol; ends with the value.
struct Talker {
    child: Child,
    told: BufReader<ChildStdout>,
    asked: Option<ChildStdin>,
}

impl Talker {
    fn start(arguments: &[&str]) -> Talker {
        let mut command = python(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let told = BufReader::new(child.stdout.take().unwrap());
        Talker { asked: child.stdin.take(), child, told }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn go_on(&mut self) {
        self.asked.as_mut().unwrap().write_all(b"\n").unwrap();
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server for each arm.
fn servers() -> (Talker, [SocketAddr; 2]) {
    let mut talker = Talker::start(&["server", "stable", "new"]);
    let addresses = ["stable", "new"].map(|name| {
        let line = talker.line();
        let port =
            line.strip_prefix(name).unwrap_or_else(|| panic!("python3-websockets (tests/run): {line}"));
        SocketAddr::from(([127, 0, 0, 1], port.trim().parse().unwrap()))
    });
    (talker, addresses)
}

#[test]
fn a_real_client_talks_to_a_real_server_through_both_arms_in_plain_text_and_over_tls() {
    let (_servers, [stable, new]) = servers();
    let world = World::new();
    let ca = Authority::new("test CA");
    ca.server(&world, "server", Validity::Now);
    let ca = ca.write(&world, "ca.pem");
    let mut config = Config::new(stable, new).weight("50%");
    config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
    config.rest = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
    let proxy = world.run(&config);
    let (plain, tls) = (format!("ws://{}/feed", proxy.http), format!("wss://{}/feed", proxy.https()));
    for (of_new, arm) in [(true, "new"), (false, "stable")] {
        let user = user(of_new);
        let ca = ca.to_str().unwrap();
        for arguments in [&["talk", &plain, &user][..], &["talk", &tls, &user, ca]] {
            let output = python(arguments).output().unwrap();
            let (said, error) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(said.trim(), format!("ok {arm}"), "{arguments:?}: {error}");
        }
    }
    let ok = |arm| proxy.api().metric("grayling_requests_total", &[("arm", arm), ("outcome", "ok")]);
    assert_eq!((ok("new"), ok("stable")), (Some(2.0), Some(2.0)));
    eventually(seconds(5), "all closed", || {
        (proxy.api().metric("grayling_websockets", &[]) == Some(0.0)).then_some(())
    });
}

#[test]
fn five_hundred_tunnels_at_once_again_and_again_leave_nothing_behind() {
    let _turn = turn();
    let (_servers, [stable, new]) = servers();
    let world = World::new();
    let mut config = Config::new(stable, new).weight("50%");
    config.upstreams = "connections_max = 2000".into();
    let proxy = world.run(&config);
    let url = format!("ws://{}/feed", proxy.http);
    let gauge = |name: &str| proxy.api().metric(name, &[]).unwrap();
    let idle = || {
        eventually(seconds(20), "everything is closed", || {
            let open = gauge("grayling_websockets") + gauge("grayling_requests_in_flight");
            (open == 0.0 && gauge("grayling_connections") == 0.0).then_some(())
        });
    };
    let mut seen: Vec<(usize, u64, u64)> = vec![];
    for _ in 0..4 {
        let before = resident(&proxy);
        let mut crowd = Talker::start(&["crowd", &url, "500"]);
        assert_eq!(crowd.line(), "open");
        assert_eq!((gauge("grayling_websockets"), gauge("grayling_connections")), (500.0, 500.0));
        assert_eq!(gauge("grayling_requests_in_flight"), 0.0);
        let grown = resident(&proxy).saturating_sub(before);
        crowd.go_on();
        assert_eq!(crowd.line(), "closed");
        idle();
        // Pooled connections to upstreams have been closed as well.
        let left = eventually(seconds(15), "descriptors are given back", || {
            let left = descriptors(&proxy);
            (left <= seen.first().map_or(usize::MAX, |(first, ..)| *first)).then_some(left)
        });
        seen.push((left, grown, resident(&proxy)));
    }
    let share =
        |arm| proxy.api().metric("grayling_requests_total", &[("arm", arm), ("outcome", "ok")]).unwrap();
    assert_eq!(share("new") + share("stable"), 2000.0);
    assert_eq!(gauge("grayling_requests_total"), 2000.0, "nothing but ok");
    assert!((800.0..1200.0).contains(&share("new")), "{}", share("new"));
    let (first, last) = (seen[0], seen[3]);
    // The allocator keeps some for later use, and the watchdog's tables are allocated; a leaked
    // tunnel would cost 18 KiB.
    assert!(last.2 < first.2 + 1500 * 11 + (10 << 10), "KiB resident after each round: {seen:?}");
    figure(&format!(
        "websockets: 500 open tunnels cost {} KiB at first, {} KiB when they come again; {} descriptors and {} KiB resident after 2000",
        first.1, last.1, last.0, last.2
    ));
}

#[test]
fn a_real_client_is_told_by_the_end_of_its_connection_that_it_is_to_come_back() {
    let (_servers, [stable, new]) = servers();
    let world = World::new();
    let mut config = Config::new(stable, new).weight("50%");
    config.limits = "websocket_grace = \"1s\"".into();
    let proxy = world.run(&config);
    let url = format!("ws://{}/feed", proxy.http);
    let mut waits = Talker::start(&["wait", &url, &user(true)]);
    assert_eq!(waits.line(), "open");
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    // RFC 6455 §7.1.5: no close frame came.
    assert_eq!(waits.line(), "1006");
    let output = python(&["talk", &url, &user(true)]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "ok stable");
}
