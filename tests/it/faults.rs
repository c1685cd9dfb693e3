//! Rows of the fault table, one by one: the client's response, the requests at the origins, and the
//! arm that a fault counts against.

use crate::world::{
    Behaviour, Config, Origin, Proxy, RELEASE, World, bucket, eventually, grayling, never, raw, seconds,
    times, users_in_new,
};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

fn pair() -> (World, Origin, Origin) {
    (World::new(), Origin::start("stable"), Origin::start("new"))
}

/// At 20%: a user in `new`, and a user in `stable`.
fn one_of_each() -> (String, String) {
    let stable = (0..).map(|i| format!("user-{i}")).find(|u| bucket(RELEASE, u.as_bytes()) >= 200_000);
    (users_in_new("user", 20, 1)[0].clone(), stable.unwrap())
}

fn outcome(proxy: &Proxy, arm: &str, outcome: &str) -> f64 {
    proxy.api().metric("grayling_requests_total", &[("arm", arm), ("outcome", outcome)]).unwrap_or(0.0)
}

/// Business failures at any status: each rule of `[release.X.outcome]`, checked in the metrics.
#[test]
fn what_the_config_calls_a_failure_counts_as_one() {
    const JSON: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    const GRPC: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n";
    let cases: [(&str, String, &str); 16] = [
        ("", "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".into(), "server_error"),
        ("status = [\"502-504\"]", "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".into(), "ok"),
        ("status = [\"429\"]", "HTTP/1.1 429 No\r\ncontent-length: 0\r\n\r\n".into(), "server_error"),
        (
            "header = { name = \"x-result\", equals = \"FAILED\" }",
            "HTTP/1.1 200 OK\r\nx-result: FAILED\r\ncontent-length: 2\r\n\r\nhm".into(),
            "server_error",
        ),
        (
            "body = { path = \"$.result.code\", not_equals = \"0\" }",
            format!("{JSON}content-length: 24\r\n\r\n{{\"result\": {{\"code\": 17}}}}"),
            "server_error",
        ),
        (
            "body = { path = \"$.result.code\", not_equals = \"0\" }",
            format!(
                "{JSON}transfer-encoding: chunked\r\n\r\nc\r\n{{\"result\": {{\r\nc\r\n\"code\": 170}}\r\n1\r\n}}\r\n0\r\n\r\n"
            ),
            "server_error",
        ),
        (
            "body = { path = \"$.result.code\", not_equals = \"0\" }",
            format!("{JSON}content-length: 23\r\n\r\n{{\"result\": {{\"code\": 0}}}}"),
            "ok",
        ),
        ("", format!("{GRPC}grpc-status: 13\r\ncontent-length: 0\r\n\r\n"), "server_error"),
        ("grpc = true", format!("{GRPC}grpc-status: 13\r\ncontent-length: 0\r\n\r\n"), "server_error"),
        ("grpc = false", format!("{GRPC}grpc-status: 13\r\ncontent-length: 0\r\n\r\n"), "ok"),
        ("", format!("{GRPC}grpc-status: 8\r\ncontent-length: 0\r\n\r\n"), "client_error"),
        ("", format!("{GRPC}grpc-status: 1\r\ncontent-length: 0\r\n\r\n"), "cancelled"),
        ("", "HTTP/1.1 200 OK\r\ngrpc-status: 13\r\ncontent-length: 0\r\n\r\n".into(), "ok"),
        // Without any status.
        ("", format!("{GRPC}content-length: 2\r\n\r\nhi"), "server_error"),
        (
            "",
            format!("{GRPC}transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nother: 0\r\n\r\n"),
            "server_error",
        ),
        (
            "",
            format!(
                "{GRPC}trailer: grpc-status\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\ngrpc-status: 14\r\n\r\n"
            ),
            "server_error",
        ),
    ];
    for (rule, response, outcome) in cases {
        let world = World::new();
        let (stable, new) = (Origin::start("stable"), Origin::start("new"));
        stable.behave(Behaviour::Respond(Box::leak(response.clone().into_boxed_str())));
        let mut config = Config::new(stable.address, new.address).weight("0%");
        config.rest = format!("[release.billing.outcome]\n{rule}\n");
        let proxy = world.run(&config);
        let answer = proxy.client().get_as("alice").unwrap();
        let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(
            body.contains("chunked") || body.len() < 5 || !answer.body.is_empty(),
            "the body comes through"
        );
        let api = proxy.api();
        eventually(seconds(5), &format!("{rule}: {response:?} is counted as {outcome}"), || {
            (api.metric("grayling_requests_total", &[("arm", "stable"), ("outcome", outcome)]) == Some(1.0))
                .then_some(())
        });
    }
}

#[test]
fn row_26_a_body_cut_short_never_ends_cleanly_and_counts_though_the_status_was_200() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    new.behave(Behaviour::CutBody);
    let (in_new, _) = one_of_each();
    assert!(proxy.client().get_as(&in_new).is_err(), "the client must see that something is missing");
    eventually(seconds(2), "it is counted", || (outcome(&proxy, "new", "truncated") == 1.0).then_some(()));
}

#[test]
fn row_27_an_unreachable_new_falls_back_as_the_config_allows_and_counts_once() {
    for (policy, get, post) in [("stable", 200, 200), ("reads", 200, 502), ("error", 502, 502)] {
        let (world, stable, new) = pair();
        // No breaker: the test is about single requests.
        let config = Config::new(stable.address, new.address)
            .release(&format!("on_unreachable = \"{policy}\""))
            .watchdog("enabled = false");
        let proxy = world.run(&config);
        new.refuse();
        let (in_new, _) = one_of_each();
        let user = [("x-user-id", in_new.as_str())];
        let mut client = proxy.client();
        let answer = client.get("/", &user).unwrap();
        assert_eq!(answer.status, get, "GET with {policy}");
        let answer = client.post("/", &user, b"{}").unwrap();
        assert_eq!(answer.status, post, "POST with {policy}");
        eventually(seconds(2), "both are connect errors of new", || {
            (outcome(&proxy, "new", "connect_error") == 2.0).then_some(())
        });
        let of_stable = [("arm", "stable")];
        assert_eq!(proxy.api().metric("grayling_requests_total", &of_stable), Some(0.0), "nothing of stable");
        assert!(stable.received().iter().all(|r| r.arm() == Some("stable")), "stable is told its own arm");
    }
}

#[test]
fn row_27_another_server_of_new_is_tried_before_stable() {
    let (world, stable, new) = pair();
    let other = Origin::start("other");
    let mut config = Config::new(stable.address, new.address);
    config.new.push(other.address);
    let proxy = world.run(&config);
    new.refuse();
    let mut client = proxy.client();
    for user in users_in_new("user", 20, 50) {
        assert_eq!(client.get_as(&user).unwrap().text(), "other");
    }
    assert_eq!(outcome(&proxy, "new", "ok"), 50.0);
    new.listen();
    eventually(seconds(15), "the server that refused is tried again", || {
        let _ = client.get_as(&users_in_new("user", 20, 1)[0]);
        (new.total() > 0).then_some(())
    });
}

#[test]
fn row_29_a_pooled_connection_that_the_upstream_closed_costs_no_client_anything() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    for origin in [&stable, &new] {
        origin.behave(Behaviour::CloseAfter);
    }
    let mut client = proxy.client();
    for i in 0..100 {
        let answer = client.post("/", &[("x-user-id", &format!("u{i}"))], b"x").unwrap();
        assert_eq!(answer.status, 200, "request {i}");
        // The close must have arrived: one that crosses the next request on the wire is row 28, a
        // failure after sending.
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(stable.total() + new.total(), 100, "each was sent once");
}

#[test]
fn row_30_an_upstream_too_slow_for_the_head_is_504() {
    let (world, stable, new) = pair();
    let config = Config::new(stable.address, new.address).upstreams("response_timeout = \"300ms\"");
    let proxy = world.run(&config);
    stable.behave(Behaviour::Hang);
    let (_, in_stable) = one_of_each();
    let began = Instant::now();
    assert_eq!(proxy.client().get_as(&in_stable).unwrap().status, 504);
    assert!(began.elapsed() < seconds(2));
    assert_eq!(outcome(&proxy, "stable", "timeout"), 1.0);
}

#[test]
fn row_32_a_post_received_whole_goes_on_when_its_client_goes_away_and_counts() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    new.behave(Behaviour::Delay(Duration::from_millis(300)));
    let (in_new, _) = one_of_each();
    for (method, outcome_then) in [("POST", "ok"), ("GET", "cancelled")] {
        let before = new.total();
        let mut stream = TcpStream::connect(proxy.http).unwrap();
        let body = if method == "POST" { "content-length: 2\r\n\r\nhi" } else { "\r\n" };
        write!(stream, "{method} / HTTP/1.1\r\nhost: a\r\nx-user-id: {in_new}\r\n{body}").unwrap();
        eventually(seconds(2), "it is at the origin", || (new.total() > before).then_some(()));
        drop(stream);
        eventually(seconds(3), &format!("the {method} is counted as {outcome_then}"), || {
            (outcome(&proxy, "new", outcome_then) == 1.0).then_some(())
        });
    }
    assert!(proxy.api().trip().is_none());
}

#[test]
fn row_33a_a_hanging_arm_does_not_eat_the_others_room() {
    let (world, stable, new) = pair();
    let config = Config::new(stable.address, new.address)
        .upstreams("requests_in_flight_max = 4\nresponse_timeout = \"20s\"")
        .watchdog("enabled = false");
    let proxy = world.run(&config);
    new.behave(Behaviour::Hang);
    let (in_new, in_stable) = one_of_each();
    let hanging: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.http).unwrap();
            write!(stream, "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {in_new}\r\n\r\n").unwrap();
            stream
        })
        .collect();
    eventually(seconds(5), "four hang in new", || (new.total() == 4).then_some(()));
    let answer = proxy.client().get_as(&in_new).unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(outcome(&proxy, "new", "saturated"), 1.0);
    for _ in 0..20 {
        assert_eq!(proxy.client().get_as(&in_stable).unwrap().text(), "stable");
    }
    drop(hanging);
    eventually(seconds(5), "their room is given back", || {
        (proxy.api().metric("grayling_requests_in_flight", &[("arm", "new")]) == Some(0.0)).then_some(())
    });
}

#[test]
fn row_33_more_requests_than_the_limit_are_503_and_admin_still_answers() {
    let (world, stable, new) = pair();
    let mut config = Config::new(stable.address, new.address).upstreams("response_timeout = \"20s\"");
    config.limits = "requests_in_flight = 3".into();
    let proxy = world.run(&config);
    stable.behave(Behaviour::Hang);
    let (_, in_stable) = one_of_each();
    let hanging: Vec<TcpStream> = (0..3)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.http).unwrap();
            write!(stream, "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {in_stable}\r\n\r\n").unwrap();
            stream
        })
        .collect();
    eventually(seconds(5), "three hang", || (stable.total() == 3).then_some(()));
    let answer = proxy.client().get_as(&in_stable).unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(proxy.api().get("/livez").status, 200);
    drop(hanging);
}

#[test]
fn row_36_and_rule_3_no_other_name_leads_to_the_servers_of_a_tripped_new() {
    let (world, stable, new) = pair();
    let config = Config::new(stable.address, new.address);
    let proxy = world.run(&config);
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    let text = config.text();
    for (what, edited) in [
        ("renamed", text.replace(RELEASE, "renamed")),
        ("a route of its own", format!("{text}\n[[route]]\npath = \"/direct\"\nupstream = \"v2\"\n")),
    ] {
        let failures = proxy.api().metric("grayling_config_reloads_total", &[("result", "failure")]);
        world.write_text(&edited);
        eventually(seconds(5), &format!("{what}: the reload is refused"), || {
            let now = proxy.api().metric("grayling_config_reloads_total", &[("result", "failure")]);
            (now > failures).then_some(())
        });
        let error = proxy.api().status()["config"]["last_error"].to_string();
        assert!(error.contains("rolled back") && error.contains("resume"), "{what}: {error}");
    }
    // Removed, and added again: still rolled back.
    let without = text.replace(&format!("release = \"{RELEASE}\""), "upstream = \"v1\"");
    let cut = without.find(&format!("[release.{RELEASE}]")).unwrap();
    let end = without.find("[[route]]").unwrap();
    world.write_text(&format!("{}{}", &without[..cut], &without[end..]));
    eventually(seconds(5), "it is gone", || {
        (proxy.api().status()["releases"].as_array().map(Vec::len) == Some(0)).then_some(())
    });
    assert_eq!(proxy.api().status()["removed"][0]["name"], RELEASE, "its trip is not forgotten");
    world.write(&config);
    eventually(seconds(5), "it is there again", || {
        (proxy.api().status()["releases"].as_array().map(Vec::len) == Some(1)).then_some(())
    });
    assert_eq!((proxy.api().weight(), proxy.api().release()["state"].as_str()), (0.0, Some("rolled_back")));
}

#[test]
fn rule_10_nobody_is_sent_to_a_stable_that_is_not_there() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    stable.refuse();
    let (in_new, _) = one_of_each();
    std::thread::sleep(Duration::from_millis(1_100)); // earlier answers are too old to count
    let answer = proxy.api().change("rollback", "a test");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(proxy.api().release()["state"], "frozen", "{}", answer.text());
    assert_eq!(proxy.client().get_as(&in_new).unwrap().text(), "new");
    stable.listen();
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    assert_eq!(proxy.api().release()["state"], "rolled_back");
}

#[test]
fn row_43_an_admin_path_on_the_data_port_is_just_a_path() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    let (_, in_stable) = one_of_each();
    let answer = proxy.client().get("/metrics", &[("x-user-id", &in_stable)]).unwrap();
    assert_eq!(answer.text(), "stable");
    assert_eq!(proxy.api().get("/api/v1/releases/billing/rollback").status, 405);
    assert!(proxy.api().trip().is_none());
}

#[test]
fn row_44_ten_thousand_different_requests_make_no_new_series() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    let mut client = proxy.client();
    let mut ask = |i: u32| {
        let (method, path) = (format!("M{}", i % 500), format!("/{i}/{}", i * 7));
        let (host, user) = (format!("h{i}.test"), format!("user-{i}"));
        client.send(&method, &path, &[("host", &host), ("x-user-id", &user)], b"").map(|a| a.status)
    };
    for i in 0..200 {
        assert_eq!(ask(i).unwrap(), 200);
    }
    eventually(seconds(5), "the share is known", || proxy.api().metric("grayling_share_ratio", &[]));
    let names = || proxy.api().metrics().into_keys().collect::<std::collections::BTreeSet<_>>();
    let before = names();
    for i in 200..200 + times(1_000, 10_000) as u32 {
        assert_eq!(ask(i).unwrap(), 200);
    }
    assert_eq!(names().difference(&before).collect::<Vec<_>>(), Vec::<&(String, _)>::new());
}

#[test]
fn a_second_term_ends_at_once() {
    let (world, stable, new) = pair();
    let mut proxy = world.run(&Config::new(stable.address, new.address));
    stable.behave(Behaviour::Hang);
    let (_, in_stable) = one_of_each();
    let mut stream = TcpStream::connect(proxy.http).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {in_stable}\r\n\r\n").unwrap();
    eventually(seconds(5), "it hangs", || (stable.total() == 1).then_some(()));
    proxy.signal("TERM");
    eventually(seconds(2), "it drains", || (proxy.api().get("/readyz").status == 503).then_some(()));
    proxy.signal("TERM");
    assert_eq!(proxy.ends_within(seconds(5)).code(), Some(0));
}

#[test]
fn http2_with_prior_knowledge_is_served() {
    let (world, stable, new) = pair();
    let proxy = world.run(&Config::new(stable.address, new.address));
    let (in_new, _) = one_of_each();
    let url = format!("http://{}/a", proxy.http);
    let user = format!("x-user-id: {in_new}");
    let options =
        ["-s", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}", "-H", &user, "-d", "body"];
    let out = Command::new("curl").args(options).arg(&url).output().expect("curl");
    assert_eq!(String::from_utf8_lossy(&out.stdout), "new 2 200");
    let received = &new.received()[0];
    assert_eq!((received.method.as_str(), received.body.as_slice()), ("POST", b"body".as_slice()));
    assert_eq!(received.header("host"), Some(proxy.http.to_string().as_str()));
}

#[test]
fn a_large_body_streams_through_both_ways_in_little_memory() {
    let (world, stable, new) = pair();
    for origin in [&stable, &new] {
        origin.behave(Behaviour::Echo);
    }
    let proxy = world.run(&Config::new(stable.address, new.address));
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    let before = resident();
    let body = vec![b'x'; 64 << 20];
    let mut stream = TcpStream::connect(proxy.http).unwrap();
    write!(
        stream,
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .unwrap();
    stream.write_all(&body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.len() > body.len(), "{} bytes came back", answer.len());
    let after = resident();
    assert!(after < before + 48, "{before} MiB before, {after} MiB after 64 MiB");
}

#[test]
fn explain_on_the_command_line_agrees_with_the_proxy() {
    let (world, stable, new) = pair();
    let file = world.write(&Config::new(stable.address, new.address).weight("37.5%"));
    let proxy = Proxy::start(&file);
    let admin = format!("http://{}", proxy.admin);
    for i in 0..20 {
        let user = format!("user {i} é/?&");
        let online = grayling(&["explain", "--user", &user, "--admin", &admin, "--json"]);
        let offline = grayling(&["explain", "--user", &user, "-c", file.to_str().unwrap(), "--json"]);
        let arm = |out: &std::process::Output| {
            let answer: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
            (answer["arm"].as_str().unwrap().to_owned(), answer["bucket"].as_u64().unwrap())
        };
        assert_eq!(arm(&online), arm(&offline), "{user}");
        assert_eq!(arm(&online).1, u64::from(bucket(RELEASE, user.as_bytes())), "{user}");
        let answer = proxy.client().get("/", &[("x-user-id", &user)]).unwrap();
        assert_eq!(answer.text(), arm(&online).0, "{user}");
    }
}

#[test]
fn a_slow_request_head_is_closed_and_an_idle_connection_is_not() {
    let (world, stable, new) = pair();
    let mut config = Config::new(stable.address, new.address);
    config.limits = "header_timeout = \"500ms\"\nkeepalive_timeout = \"10s\"".into();
    let proxy = world.run(&config);
    let began = Instant::now();
    raw(proxy.http, b"GET / HTTP/1.1\r\nhos", seconds(5));
    assert!(began.elapsed() < seconds(3), "a half-sent head was kept for {:?}", began.elapsed());
    let mut client = proxy.client();
    assert_eq!(client.get_as("a").unwrap().status, 200);
    never(Duration::from_millis(1_500), "the idle connection ended", || false);
    assert_eq!(client.get_as("a").unwrap().status, 200);
    assert_eq!(stable.unfinished() + new.unfinished(), 0);
}
