//! The cost of each part of a request: `cargo bench --bench parts [-- NAME]`.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use grayling::config;
use grayling::domain::config::Config;
use grayling::domain::decide::{Effective, decide};
use grayling::domain::segment::{Subject, UserSet};
use grayling::domain::wave::Exposure;
use grayling::proxy::headers::{self, Forwarded, HeadFacts, Peer};
use grayling::proxy::identity;
use grayling::proxy::validate;
use grayling::runtime::event_ring::{EventRing, RequestArrival};
use grayling::runtime::routes::RouteTable;
use grayling::stats::arm::Arm;
use grayling::stats::cohort::Weight;
use grayling::stats::engine::{Engine, EngineSettings, EventKind, RequestEvent, RequestStart};
use grayling::stats::users::{Baseline, UserUnit};
use grayling::telemetry::counters::ArmCounters;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::Empty;
use std::fmt::Write;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Duration;

const CONFIG: &str = r#"
[upstream.v1]
servers = ["http://127.0.0.1:9001"]
[upstream.v2]
servers = ["http://127.0.0.1:9002"]
[segment.staff]
users = ["alice", "bob", "carol"]
[segment.testers]
users_file = "users.txt"
[segment.office]
networks = ["10.1.0.0/16", "10.2.0.0/16"]
[segment.opted]
header = { name = "x-preview", equals = "yes" }
[release.r]
stable = "v1"
new = "v2"
weight = "20%"
segments = ["staff", "testers", "office", "opted"]
[[route]]
path = "/"
release = "r"
"#;

/// A config with four segments, one of 100,000 ids, and this many additional routes.
fn written(routes: usize) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("grayling-parts-{}-{routes}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for a config");
    let (mut text, mut users) = (CONFIG.to_owned(), String::new());
    for n in 0..routes {
        writeln!(text, "[[route]]\npath = \"/route/{n}\"\nrelease = \"r\"").expect("room");
    }
    for n in 0..100_000 {
        writeln!(users, "tester-{n}").expect("room");
    }
    std::fs::write(folder.join("grayling.toml"), text).expect("a config");
    std::fs::write(folder.join("users.txt"), users).expect("a users file");
    folder.join("grayling.toml")
}

fn config(routes: usize) -> Config {
    let path = written(routes);
    let loaded = config::load(&path).result.map_err(|report| report.to_string()).expect("a valid config");
    std::fs::remove_dir_all(path.parent().expect("it is in a folder")).expect("it was there");
    loaded.config
}

fn head() -> HeaderMap {
    let lines = [
        ("host", "billing.example"),
        ("user-agent", "curl/8.5"),
        ("accept", "*/*"),
        ("connection", "keep-alive"),
        ("x-user-id", "account-4711"),
    ];
    lines
        .into_iter()
        .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
        .collect()
}

fn deciding(c: &mut Criterion) {
    let config = config(0);
    let headers = head();
    let address = "192.0.2.1".parse().ok();
    let subject = Subject { user_id: Some(b"account-4711"), headers: Some(&headers), address };
    let segments = config.releases[0].segments.len();
    let effective = Effective::At(Exposure { weight: config.releases[0].weight, segments });
    c.bench_function("decide, 4 segments", |b| {
        b.iter(|| decide(&config.releases[0], effective, black_box(&subject)));
    });
    let uri = "/account".parse().expect("a target");
    c.bench_function("identity, of a header", |b| {
        b.iter(|| identity::user_id(&config.identity, black_box(&headers), &uri, "/account", None).is_some());
    });
}

fn heads(c: &mut Criterion) {
    let config = config(0);
    let request = |headers| {
        let mut request = http::Request::builder().uri("/account").body(()).expect("a request");
        *request.headers_mut() = headers;
        request.into_parts().0
    };
    let parts = request(head());
    c.bench_function("guard", |b| {
        b.iter(|| {
            validate::validate_head(
                black_box(&parts),
                &Empty::<bytes::Bytes>::new(),
                &config.identity,
                &config.limits,
            )
            .is_ok()
        });
    });
    let by = headers::address_value("192.0.2.1".parse().expect("an address"));
    let host = HeaderValue::from_static("billing.example");
    c.bench_function("headers, for an upstream", |b| {
        let forwarded = || Forwarded {
            by: &by,
            peer: Peer::Stranger,
            scheme: "http",
            host: Some(&host),
            facts: HeadFacts::default(),
        };
        b.iter_batched_ref(
            head,
            |headers| headers::for_upstream(headers, &forwarded(), || black_box(7)),
            BatchSize::SmallInput,
        );
    });
}

fn routing(c: &mut Criterion) {
    for routes in [1, 10, 100, 1000] {
        let table = RouteTable::new(&config(routes).routes);
        c.bench_function(&format!("route, of {routes}"), |b| {
            b.iter(|| table.find("a", black_box("/route/0/of/many"), &Method::GET));
        });
    }
}

fn counting(c: &mut Criterion) {
    let counters = ArmCounters::new(1);
    c.bench_function("tally", |b| {
        b.iter(|| {
            let counts = counters.workers.of(0);
            counts.requests.add(1);
            counts.duration.record(black_box(Duration::from_micros(1234)));
            counters.saw(black_box(0x9e37_79b9_7f4a_7c15), 1);
        });
    });
    let events = EventRing::new(1);
    let arrival = RequestArrival {
        epoch: 1,
        at: Duration::from_secs(1),
        arm: Arm::New,
        unit: Some(UserUnit::from_index(7)),
        drawn: true,
        stratum: None,
        server: None,
    };
    c.bench_function("feed, a request", |b| {
        let mut n = 0;
        b.iter(|| {
            if let Some(mut ticket) = events.arrive(0, black_box(&arrival)) {
                events.record_event(0, &mut ticket, EventKind::Answered, Duration::from_secs(1));
                events.leave(0, ticket);
            }
            n += 1;
            if n % 1000 == 0 {
                events.drain(|_, event| {
                    black_box(event);
                });
            }
        });
    });
}

/// A tick of 100 ms at 10,000 requests a second.
fn ticking(c: &mut Criterion) {
    const TICK: Duration = Duration::from_millis(100);
    let settings = EngineSettings {
        alpha: 0.001,
        tick: TICK,
        latency_tolerance: 0.2,
        latency_notice: 0.03,
        latency_floor: Duration::from_millis(2),
        strata: 1,
        warm_up: Duration::ZERO,
        shares: grayling::stats::engine::SHARES,
    };
    let mut engine = Engine::new(settings, Weight::ZERO, Baseline::default(), Duration::ZERO);
    engine.weigh(Weight::from_parts(200_000), Duration::ZERO);
    let (mut now, mut id) = (Duration::ZERO, 0u64);
    c.bench_function("watchdog, a tick of 1,000 requests", |b| {
        b.iter(|| {
            for n in 0..1000u32 {
                id += 1;
                let hash = UserSet::hash(&(id % 50_000).to_le_bytes());
                let unit = UserUnit::of_hash(hash);
                let arm = if hash >> 32 < u64::from(u32::MAX) / 5 { Arm::New } else { Arm::Stable };
                let at = now + TICK * n / 1000;
                let request =
                    RequestStart { id, at, arm, unit: Some(unit), drawn: true, stratum: None, server: None };
                engine.push(&RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO });
                let after = Duration::from_micros(500 + hash % 2000);
                engine.push(&RequestEvent { request, what: EventKind::Answered, after });
            }
            now += TICK;
            engine.tick(now, Duration::from_secs(30), |settled| {
                black_box(settled);
            });
        });
    });
}

fn segments(c: &mut Criterion) {
    for ids in [1usize, 1_000, 1_000_000] {
        let set: UserSet = (0..ids).map(|n| format!("account-{n}")).collect();
        c.bench_function(&format!("segment, of {ids} ids"), |b| {
            let mut n = 0;
            b.iter(|| {
                n += 7919;
                set.contains(black_box(format!("account-{n}").as_bytes()))
            });
        });
    }
}

fn loading(c: &mut Criterion) {
    for routes in [1, 1000] {
        let path = written(routes);
        c.bench_function(&format!("config, {routes} routes"), |b| {
            b.iter(|| config::load(black_box(&path)).result.is_ok());
        });
        std::fs::remove_dir_all(path.parent().expect("it is in a folder")).expect("it was there");
    }
}

criterion_group! {
    name = parts;
    config = Criterion::default().sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = deciding, heads, routing, counting, ticking, segments, loading
}
criterion_main!(parts);
