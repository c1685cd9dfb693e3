//! Traces as a collector receives them: the traced requests, the contents and the omissions, and
//! their fate without a collector.

use crate::world::{
    Behaviour, Client, Config, Origin, Proxy, World, bucket, eventually, never, seconds, turn, users_in_new,
};
use grayling::runtime::traces::WAITING_MAX;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

fn with_traces(stable: &Origin, new: &Origin, collector: &Origin, sample: &str) -> Config {
    let mut config = Config::new(stable.address, new.address);
    // With several workers, the order of spans would be undefined.
    config.listen = "workers = 1".into();
    config.rest = traces(collector, sample);
    config
}

fn traces(collector: &Origin, sample: &str) -> String {
    format!("[traces]\nendpoint = \"http://{}/v1/traces\"\nsample = \"{sample}\"\n", collector.address)
}

/// Every span received so far.
fn spans(collector: &Origin) -> Vec<Value> {
    let mut all = vec![];
    for call in collector.received() {
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/v1/traces"));
        assert_eq!(call.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&call.body).expect("JSON");
        let resource = attributes(&body["resourceSpans"][0]["resource"]);
        assert_eq!(resource["service.name"], "grayling");
        all.extend(body["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().iter().cloned());
    }
    all
}

fn attributes(of: &Value) -> BTreeMap<String, String> {
    let list = of["attributes"].as_array().unwrap();
    let text = |v: &Value| v["stringValue"].as_str().or(v["intValue"].as_str()).unwrap().to_owned();
    list.iter().map(|a| (a["key"].as_str().unwrap().to_owned(), text(&a["value"]))).collect()
}

fn of_kind(spans: &[Value], kind: u64) -> Vec<Value> {
    spans.iter().filter(|s| s["kind"] == kind).cloned().collect()
}

/// Waits until this many requests have arrived.
fn told(collector: &Origin, requests: usize) -> Vec<Value> {
    eventually(seconds(30), &format!("{requests} requests are told"), || {
        Some(spans(collector)).filter(|spans| of_kind(spans, SERVER).len() >= requests)
    })
}

fn nanoseconds(of: &Value) -> u128 {
    of.as_str().unwrap().parse().unwrap()
}

#[test]
fn a_trace_that_came_is_continued_to_the_upstream_and_says_nothing_of_who_the_user_is() {
    let world = World::new();
    let (stable, new, collector) =
        (Origin::start("stable"), Origin::start("new"), Origin::start("collector"));
    let mut config = with_traces(&stable, &new, &collector, "100%");
    config.rest += "[log]\nsample = \"100%\"\n";
    let proxy = world.run(&config);
    let user = &users_in_new("secret-user", 20, 1)[0];
    let parent = format!("00-{TRACE}-{PARENT}-00");
    let headers = [
        ("x-user-id", user.as_str()),
        ("traceparent", &parent),
        ("tracestate", "vendor=1"),
        ("x-token", "hunter2"),
    ];
    let answer = proxy.client().get("/accounts/secret-user?card=4111", &headers).unwrap();
    assert_eq!(answer.status, 200);

    let spans = told(&collector, 1);
    let [server, client] = [SERVER, CLIENT].map(|kind| of_kind(&spans, kind)[0].clone());
    assert_eq!([&server["traceId"], &client["traceId"]], [TRACE, TRACE]);
    assert_eq!(server["parentSpanId"], PARENT);
    assert_eq!(client["parentSpanId"], server["spanId"]);
    let has = attributes(&server);
    let wanted = [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("http.route", "/"),
        ("grayling.release", "billing"),
        ("grayling.arm", "new"),
        ("grayling.cohort", "weight"),
        ("grayling.reason", "weight"),
        ("grayling.route", "1"),
        ("grayling.outcome", "ok"),
    ];
    for (key, value) in wanted {
        assert_eq!(has.get(key).map(String::as_str), Some(value), "{key}: {server:#}");
    }
    let of_attempt = attributes(&client);
    assert_eq!(of_attempt["server.port"], new.address.port().to_string());
    assert_eq!(of_attempt["grayling.upstream"], "v2");
    let [begins, ends] =
        ["startTimeUnixNano", "endTimeUnixNano"].map(|t| [nanoseconds(&server[t]), nanoseconds(&client[t])]);
    assert!(begins[0] <= begins[1] && begins[1] < ends[1] && ends[1] <= ends[0], "{server:#} {client:#}");
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    assert!(now.abs_diff(begins[0]) < 60_000_000_000, "{now} {begins:?}");

    // The upstream's span is the child of the attempt, in the same trace; other vendors' entries
    // are forwarded.
    let received = new.received().into_iter().find(|r| r.path.starts_with("/accounts")).unwrap();
    let span = client["spanId"].as_str().unwrap();
    assert_eq!(received.header("traceparent"), Some(format!("00-{TRACE}-{span}-01").as_str()));
    assert_eq!(received.header("tracestate"), Some("vendor=1"));
    // The log line has the trace id.
    let line = eventually(seconds(10), "the log names the trace", || {
        proxy.events("request").into_iter().find(|line| line["trace_id"] == TRACE)
    });
    assert_eq!(line["arm"], "new");

    let everything: String =
        collector.received().iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
    for secret in ["secret-user", "4111", "hunter2", "vendor", "accounts"] {
        assert!(!everything.contains(secret), "{secret}: {everything}");
    }
}

#[test]
fn a_user_who_is_traced_is_traced_always_and_others_are_passed_on_as_they_came() {
    let world = World::new();
    let (stable, new, collector) =
        (Origin::start("stable"), Origin::start("new"), Origin::start("collector"));
    let config = with_traces(&stable, &new, &collector, "30%");
    let proxy = world.run(&config);
    let mut client = proxy.client();
    let mark = |n: usize, round: u64| format!("00-{:032x}-{PARENT}-01", (round << 32) + n as u64 + 1);
    for round in 0..3 {
        for n in 0..100 {
            let parent = mark(n, round);
            client.get("/", &[("x-user-id", &format!("user-{n}")), ("traceparent", &parent)]).unwrap();
        }
    }
    let passed: Vec<_> = [&stable, &new].iter().flat_map(|o| o.received()).collect();
    assert_eq!(passed.len(), 300);
    let untouched = passed.iter().filter(|r| r.header("traceparent").unwrap().contains(PARENT)).count();
    let servers = of_kind(&told(&collector, 300 - untouched), SERVER);
    assert_eq!(servers.len(), 300 - untouched);
    eventually(seconds(10), "they are counted", || {
        let sent = proxy.api().metric("grayling_trace_spans_sent_total", &[])?;
        (sent as usize == 2 * servers.len()).then_some(())
    });
    assert_eq!(metric(&proxy, "grayling_traces_waiting", &[]), 0.0);
    // A stranger's `traceparent` does not select a user for tracing.
    let mut rounds: [BTreeSet<u64>; 3] = Default::default();
    for span in &servers {
        let id = u64::from_str_radix(&span["traceId"].as_str().unwrap()[16..], 16).unwrap();
        rounds[(id >> 32) as usize].insert(id & 0xffff_ffff);
    }
    assert_eq!(rounds[0], rounds[1]);
    assert_eq!(rounds[1], rounds[2]);
    assert!((10..60).contains(&rounds[0].len()), "{rounds:?}");
}

#[test]
fn a_proxy_in_front_may_mark_a_request_and_a_parent_that_cannot_be_read_begins_anew() {
    let world = World::new();
    let (stable, new, collector) =
        (Origin::start("stable"), Origin::start("new"), Origin::start("collector"));
    let mut config = with_traces(&stable, &new, &collector, "0%");
    config.listen = "workers = 1\ntrusted_proxies = [\"127.0.0.0/8\"]".into();
    let proxy = world.run(&config);
    let mut client = proxy.client();
    let [marked, unmarked] = ["01", "00"].map(|flags| format!("00-{TRACE}-{PARENT}-{flags}"));
    client.get("/", &[("x-user-id", "a"), ("traceparent", &unmarked)]).unwrap();
    client.get("/", &[("x-user-id", "a"), ("traceparent", &marked)]).unwrap();
    let first = told(&collector, 1);
    assert_eq!((of_kind(&first, SERVER).len(), &first[0]["traceId"]), (1, &TRACE.into()));

    // From now on every user is traced, without a restart.
    config.rest = traces(&collector, "100%");
    world.write(&config);
    eventually(seconds(20), "a broken parent is traced", || {
        let headers = [("x-user-id", "a"), ("traceparent", "00-broken"), ("tracestate", "v=2")];
        client.get("/broken", &headers).unwrap();
        let anew = |s: &Value| s["parentSpanId"].is_null() && s["traceId"] != TRACE;
        of_kind(&spans(&collector), SERVER).iter().any(anew).then_some(())
    });
    let last = [&stable, &new].iter().flat_map(|o| o.received()).rfind(|r| r.path == "/broken").unwrap();
    assert!(last.header("traceparent").unwrap().ends_with("-01"), "{last:?}");
    assert_eq!(last.header("tracestate"), None);

    // And none, when the section is removed.
    config.rest.clear();
    world.write(&config);
    eventually(seconds(20), "the metrics of traces are gone", || {
        proxy.api().metric("grayling_traces_waiting", &[]).is_none().then_some(())
    });
    let before = collector.total();
    client.get("/", &[("x-user-id", "a"), ("traceparent", &marked)]).unwrap();
    never(seconds(1), "a span was sent", || collector.total() != before);
}

#[test]
fn each_server_that_was_asked_has_a_span_with_what_came_of_it() {
    let world = World::new();
    let (stable, new, collector) =
        (Origin::start("stable"), Origin::start("new"), Origin::start("collector"));
    let proxy = world.run(&with_traces(&stable, &new, &collector, "100%").watchdog("mode = \"report\""));
    let user = &users_in_new("user", 20, 1)[0];
    new.refuse();
    assert_eq!(proxy.client().get_as(user).unwrap().text(), "stable");
    new.listen();
    stable.behave(Behaviour::Status(503, 1.0));
    let other =
        (0..).map(|n| format!("other-{n}")).find(|u| bucket("billing", u.as_bytes()) > 900_000).unwrap();
    assert_eq!(proxy.client().get_as(&other).unwrap().status, 503);

    let spans = told(&collector, 2);
    let servers = of_kind(&spans, SERVER);
    let over = attributes(&servers[0]);
    assert_eq!([over["grayling.arm"].as_str(), &over["grayling.served_by"]], ["new", "stable"]);
    assert!(servers[0]["status"].is_null(), "its client was served: {:#}", servers[0]);
    assert_eq!(attributes(&servers[1])["error.type"], "503");
    assert_eq!(servers[1]["status"]["code"], 2);
    let clients = of_kind(&spans, CLIENT);
    let came: Vec<_> = clients
        .iter()
        .map(|s| {
            let a = attributes(s);
            (a["grayling.upstream"].clone(), a.get("error.type").cloned().unwrap_or_default())
        })
        .collect();
    let wanted = [("v2", "connect_error"), ("v2", "connect_error"), ("v1", ""), ("v1", "503")];
    // A server that has just closed its listener may get one or two tries.
    let wanted: Vec<_> = wanted.iter().map(|(u, e)| (u.to_string(), e.to_string())).collect();
    assert!(came == wanted || came == wanted[1..], "{came:?}");
    assert_eq!(
        attributes(&clients[clients.len() - 2])["http.request.resend_count"],
        (clients.len() - 2).to_string()
    );
}

fn metric(proxy: &Proxy, name: &str, labels: &[(&str, &str)]) -> f64 {
    proxy.api().metric(name, labels).unwrap_or_default()
}

#[test]
fn a_collector_that_is_away_holds_up_nobody_costs_a_bounded_queue_and_is_told_of_once() {
    let _turn = turn();
    let world = World::new();
    let (stable, new, collector) =
        (Origin::start("stable"), Origin::start("new"), Origin::start("collector"));
    let config = with_traces(&stable, &new, &collector, "100%");
    let proxy = world.run(&config);
    collector.refuse();
    // The queue of one worker, the batch in flight, and some.
    let most = 4 * WAITING_MAX;
    let mut client = proxy.client();
    let sent = eventually(seconds(120), "there is no room any more", || {
        for n in 0..100 {
            assert_eq!(client.get_as(&format!("user-{n}")).unwrap().status, 200);
        }
        (metric(&proxy, "grayling_trace_spans_dropped_total", &[("cause", "no_room")]) > 0.0)
            .then(|| stable.total() + new.total())
    });
    assert!(sent as usize <= most, "{sent} requests before the queue was full");
    let waiting = metric(&proxy, "grayling_traces_waiting", &[]) as usize;
    assert!(waiting <= 2 * WAITING_MAX, "{waiting}");
    assert!(metric(&proxy, "grayling_trace_calls_failed_total", &[]) >= 1.0);
    let told = proxy.event("traces_not_delivered");
    assert!(told["error"].as_str().unwrap().contains("no connection"), "{told:?}");

    // A hanging collector is no better, and the proxy ends nevertheless. A busy one is retried.
    collector.behave(Behaviour::Status(503, 1.0));
    collector.listen();
    eventually(seconds(60), "it has been asked", || (collector.total() > 0).then_some(()));
    collector.behave(Behaviour::Answer);
    eventually(seconds(90), "all that waited is told", || {
        (metric(&proxy, "grayling_traces_waiting", &[]) == 0.0
            && !proxy.events("traces_delivered_again").is_empty())
        .then_some(())
    });
    assert_eq!(proxy.events("traces_not_delivered").len(), 1);
}

#[test]
fn what_a_collector_refuses_is_dropped_and_counted_and_the_end_of_the_process_tells_what_waits() {
    let world = World::new();
    let (stable, new, collector) =
        (Origin::start("stable"), Origin::start("new"), Origin::start("collector"));
    collector.behave(Behaviour::Status(400, 1.0));
    let mut proxy = world.run(&with_traces(&stable, &new, &collector, "100%"));
    let mut client: Client = proxy.client();
    client.get_as("a").unwrap();
    eventually(seconds(30), "they are dropped", || {
        (metric(&proxy, "grayling_trace_spans_dropped_total", &[("cause", "refused")]) == 2.0).then_some(())
    });
    assert_eq!(metric(&proxy, "grayling_trace_spans_sent_total", &[]), 0.0);
    let before = collector.total();
    never(seconds(1), "it was asked again", || collector.total() != before);

    collector.behave(Behaviour::Answer);
    client.get_as("the-last").unwrap();
    drop(client);
    proxy.signal("TERM");
    assert!(proxy.ends_within(seconds(30)).success());
    let calls = collector.received();
    assert!(calls.len() as u64 > before, "the last one was told");
}
