//! python3-h2 and nghttp2: invalid and valid HTTP/2, as a client and as an origin.

use super::{PYTHON, number_before, run, script, serves};
use crate::world::{
    Authority, Client, Config, Origin, Proxy, Validity, World, eventually, figure, seconds, turn,
};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// The sum of all outcomes that count against an arm.
fn faults_of_arms(proxy: &Proxy) -> f64 {
    let of = |outcome| proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]).unwrap_or(0.0);
    ["server_error", "connect_error", "timeout", "reset", "truncated", "saturated"].into_iter().map(of).sum()
}

#[test]
fn each_rule_of_http2_that_a_client_breaks_ends_its_stream_or_its_connection_and_no_other() {
    let (world, stable, new) = (World::new(), Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address).watchdog("enabled = false");
    // One client may hold as many of a worker's connections as it may have streams, 256: the rest
    // serve other clients.
    config.upstreams = "connections_max = 1024".into();
    let proxy = world.run(&config);
    let said = run(PYTHON, [script("h2_client.py").as_os_str(), proxy.http.to_string().as_ref()]);
    assert!(said.ok, "{}", said.text);
    let cases: Vec<Value> = said.text.lines().map(|l| serde_json::from_str(l).expect(l)).collect();
    assert!(cases.len() > 90, "{}", said.text);
    for case in &cases {
        println!(
            "{:8} {:60} {}",
            case["section"].as_str().unwrap(),
            case["case"].as_str().unwrap(),
            case["did"]
        );
    }
    let bad: Vec<&Value> = cases.iter().filter(|case| case["ok"] != true).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(serves(proxy.http));
    eventually(seconds(10), "nobody is left in flight", || {
        (proxy.api().metric("grayling_requests_in_flight", &[]).unwrap_or(0.0) == 0.0).then_some(())
    });
    assert_eq!(faults_of_arms(&proxy), 0.0, "a client's fault is no arm's");
    figure(&format!(
        "HTTP/2 cases of RFC 9113 from python3-h2: {} of {} as wanted",
        cases.len() - bad.len(),
        cases.len()
    ));
}

/// tests/data/h2_origin.py, ended with the test.
struct PythonOrigin(Child, std::net::SocketAddr);

impl PythonOrigin {
    fn start(streams_max: u32) -> PythonOrigin {
        let mut child = Command::new(PYTHON)
            .arg(script("h2_origin.py"))
            .arg(streams_max.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped"))
            .read_line(&mut line)
            .expect("it says where it listens");
        let address = line.trim().parse().expect("python3-h2 is there (tests/run installs it)");
        PythonOrigin(child, address)
    }
}

impl Drop for PythonOrigin {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_http2_origin_that_goes_away_refuses_resets_and_opens_its_windows_slowly_hangs_nobody() {
    let (world, origin) = (World::new(), PythonOrigin::start(100));
    let other = Origin::start("other");
    let mut config = Config::new(origin.1, other.address).weight("0%").watchdog("enabled = false");
    config.upstreams = "http2 = true\nresponse_timeout = \"3s\"\nidle_timeout = \"2s\"".into();
    config.upstream_new = Some(String::new());
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    let ask = |path: &str, body: &[u8]| {
        let mut client = proxy.client();
        client.timeout = seconds(8);
        client.post(path, &[("x-user-id", "u")], body)
    };
    let counts =
        |outcome| proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]).unwrap_or(0.0);

    // It announces windows of a thousand bytes, and treats larger data sent before the announcement
    // arrived as a fault: the first request has no body.
    assert_eq!(ask("/", b"").unwrap().text(), "ok");
    // The origin gives credit a thousand bytes at a time; all bytes arrive.
    let body: Vec<u8> = (0..300_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let answer = ask("/count", &body).unwrap();
    assert_eq!(answer.text(), format!("{} {}", body.len(), body.iter().map(|b| u64::from(*b)).sum::<u64>()));
    // Trailers end the response cleanly.
    assert_eq!(ask("/trailers", b"x").unwrap().text(), "with trailers");
    assert_eq!(counts("reset") + counts("truncated"), 0.0);
    // Reported as unprocessed each of the three times that it is sent.
    assert_eq!(ask("/refuse", b"x").unwrap().status, 502);
    assert_eq!(ask("/reset", b"x").unwrap().status, 502);
    assert!(ask("/reset-after-head", b"x").is_err(), "never a clean end");
    assert_eq!(ask("/hang", b"x").unwrap().status, 504);
    assert!(ask("/hang-after-head", b"x").is_err());
    // Open streams are answered after GOAWAY; the next request has a new connection.
    for _ in 0..20 {
        assert_eq!(ask("/goaway", b"x").unwrap().text(), "the last");
        assert_eq!(ask("/", b"x").unwrap().text(), "ok");
    }
    // Cut silently, with other streams on the connection.
    assert_eq!(ask("/cut", b"x").unwrap().status, 502);
    assert_eq!(ask("/", b"x").unwrap().text(), "ok");
    eventually(seconds(5), "each is counted for what it was", || {
        let seen = (counts("reset"), counts("truncated"), counts("timeout"));
        (seen.0 + seen.1 + seen.2 == 6.0 && seen.2 >= 1.0).then_some(())
    });
}

#[test]
fn an_http2_origin_that_takes_one_stream_at_a_time_is_given_one_at_a_time_and_answers_all() {
    let (world, origin) = (World::new(), PythonOrigin::start(1));
    let other = Origin::start("other");
    let mut config = Config::new(origin.1, other.address).weight("0%").watchdog("enabled = false");
    config.upstreams = "http2 = true\nresponse_timeout = \"20s\"".into();
    let proxy = world.run(&config);
    let address = proxy.http;
    let clients: Vec<_> = (0..60)
        .map(|_| {
            std::thread::spawn(move || {
                let answer = Client::new(address).get("/slow", &[("x-user-id", "u")]);
                answer.map(|a| a.status).unwrap_or(0)
            })
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|c| c.join().unwrap()).collect();
    assert!(statuses.iter().all(|s| *s == 200), "{statuses:?}");
}

#[test]
fn h2load_with_many_streams_in_plain_text_and_over_tls_counts_what_the_origins_count() {
    let _turn = turn();
    let (world, stable, new) = (World::new(), Origin::start("stable"), Origin::start("new"));
    Authority::new("test CA").server(&world, "server", Validity::Now);
    let mut config = Config::new(stable.address, new.address).weight("50%").watchdog("enabled = false");
    // Five thousand streams wait for five hundred connections.
    config.upstreams = "requests_in_flight_max = 6000\nconnect_timeout = \"30s\"".into();
    config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
    config.rest = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
    let proxy = world.run(&config);
    let body = world.path("body");
    std::fs::write(&body, vec![b'x'; 5000]).unwrap();
    let mut asked = 0;
    for (what, url, more) in [
        ("h2c", format!("http://{}/", proxy.http), vec![]),
        ("TLS", format!("https://{}/", proxy.https()), vec![]),
        ("TLS, uploads", format!("https://{}/", proxy.https()), vec!["-d", body.to_str().unwrap()]),
        ("HTTP/1.1 over TLS", format!("https://{}/", proxy.https()), vec!["--h1"]),
    ] {
        let n = 4000;
        let users =
            ["-H", "x-user-id: alice", "-H", "x-padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"];
        let count = n.to_string();
        let streams = if what.starts_with("HTTP/1.1") { "1" } else { "100" };
        let base = ["-n", &count, "-c", "50", "-m", streams];
        let said = run("h2load", base.iter().chain(&users).chain(&more).chain(&[url.as_str()]));
        assert_eq!(number_before(&said.text, "succeeded"), Some(n), "{what}: {}", said.text);
        assert_eq!(number_before(&said.text, "2xx"), Some(n), "{what}: {}", said.text);
        asked += n;
    }
    assert_eq!(stable.total() + new.total(), asked, "each request once, and none lost");
    assert!(
        stable
            .received()
            .iter()
            .chain(&new.received())
            .filter(|r| r.method == "POST")
            .all(|r| r.body.len() == 5000)
    );
    let said = run(
        "nghttp",
        ["-v", "--trailer", "x-sum: 1", "-d", body.to_str().unwrap(), &format!("http://{}/", proxy.http)],
    );
    assert!(
        said.ok && said.text.contains(":status: 200") && !said.text.contains("PUSH_PROMISE"),
        "{}",
        said.text
    );
    assert_eq!(stable.received().last().unwrap().body.len(), 5000);
    assert_eq!(faults_of_arms(&proxy), 0.0);
    figure(&format!(
        "h2load, 50 connections of 100 streams: {asked} requests, {asked} of 2xx, as many at the origins"
    ));
}
