//! Rule 14: no exchange stays in a held `new`.
//! Exchanges under way at the begin of a hold, with a Python server and curl as a client.

use crate::rows::wire::{DATA, Http2, RST_STREAM, frame};
use crate::world::{
    Authority, Config, H2Behaviour, H2Origin, Origin, Proxy, RELEASE, Validity, World, eventually, grayling,
    never, seconds, users_in_new,
};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const GRACE: Duration = Duration::from_secs(2);
const PROTOCOLS: [&str; 4] = ["--http1.1", "--http2-prior-knowledge", "--http1.1 TLS", "--http2 TLS"];
/// Length of the server's slow responses and uploads.
const LENGTH: usize = 25_000;

/// tests/data/slow_answers.py.
struct SlowAnswers {
    child: Child,
    address: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
}

impl SlowAnswers {
    fn start() -> SlowAnswers {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/slow_answers.py");
        let mut child = Command::new("python3").arg(script).stdout(Stdio::piped()).spawn().expect("python3");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port: u16 = lines.next().and_then(|line| line.parse().ok()).expect("its port");
        let said = Arc::new(Mutex::new(vec![]));
        let into = said.clone();
        std::thread::spawn(move || lines.for_each(|line| into.lock().unwrap().push(line)));
        SlowAnswers { child, address: SocketAddr::from(([127, 0, 0, 1], port)), said }
    }

    fn has_said(&self, line: &str, times: usize) {
        eventually(seconds(10), line, || {
            let said = self.said.lock().unwrap();
            (said.iter().filter(|l| *l == line).count() == times).then_some(())
        });
    }
}

impl Drop for SlowAnswers {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Scene {
    proxy: Proxy,
    new: SlowAnswers,
    _stable: Origin,
    config: Config,
    world: World,
}

impl Scene {
    fn start(adjust: impl FnOnce(&mut Config)) -> Scene {
        let (stable, new) = (Origin::start("stable"), SlowAnswers::start());
        let world = World::new();
        let ca = Authority::new("test CA");
        ca.server(&world, "server", Validity::Now);
        ca.write(&world, "ca.pem");
        let mut config = Config::new(stable.address, new.address).weight("100%").watchdog("enabled = false");
        config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
        config.rest =
            "[log]\nsample = \"100%\"\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
        config.limits = format!("stream_grace = \"{}s\"", GRACE.as_secs());
        adjust(&mut config);
        let proxy = world.run(&config);
        Scene { proxy, new, _stable: stable, config, world }
    }

    /// A curl in the background; at its end it prints its exit code and its byte count.
    fn curl(&self, protocol: &str, path: &str, more: &[&str]) -> Curl {
        let (option, tls) = protocol.split_once(' ').map_or((protocol, false), |(option, _)| (option, true));
        let url = match tls {
            true => format!("https://{}{path}", self.proxy.https()),
            false => format!("http://{}{path}", self.proxy.http),
        };
        let mut command = Command::new("curl");
        command.args(["-sSN", option, "-o", "/dev/null", "--max-time", "60", "-H", "x-user-id: u"]);
        command.args(["-w", "%{size_download} %{http_code}"]).arg("--cacert");
        command.arg(self.world.path("config/ca.pem")).args(more).arg(&url);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Curl { child: Some(command.spawn().expect("curl")), what: format!("{protocol} {path}") }
    }

    fn under_way(&self, count: u64) {
        let what = format!("{count} under way on new");
        eventually(seconds(10), &what, || {
            (self.proxy.api().release()["under_way"]["requests"] == count).then_some(())
        });
    }

    fn outcome(&self, outcome: &str) -> f64 {
        let labels = [("arm", "new"), ("outcome", outcome)];
        self.proxy.api().metric("grayling_requests_total", &labels).unwrap_or(0.0)
    }
}

struct Curl {
    child: Option<Child>,
    what: String,
}

/// How a curl ended.
struct Ended {
    code: i32,
    said: String,
    stderr: String,
}

impl Curl {
    fn ends(mut self) -> Ended {
        let output: Output = self.child.take().unwrap().wait_with_output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}: {}", self.what, text(&output.stdout));
        Ended { code: output.status.code().unwrap_or(-1), said, stderr: text(&output.stderr) }
    }

    /// Its response was broken off: a connection without terminator, or RST_STREAM CANCEL.
    fn ends_cancelled(self) {
        let http2 = self.what.contains("http2");
        let ended = self.ends();
        let by_reset = ended.code == 92 && ended.stderr.contains("CANCEL");
        // Over TLS a connection that ends without `close_notify` is a failed read.
        let by_end = matches!(ended.code, 18 | 56);
        assert!(if http2 { by_reset } else { by_end }, "{} {}", ended.said, ended.stderr);
    }

    fn ends_whole(self, length: usize) {
        let ended = self.ends();
        let expected = format!(": {length} 200");
        assert!(ended.code == 0 && ended.said.ends_with(&expected), "{} {}", ended.said, ended.stderr);
    }
}

impl Drop for Curl {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn rule_14_streams_of_a_rolled_back_new_end_after_the_grace_and_what_has_a_length_finishes() {
    let scene = Scene::start(|_| {});
    let upload = scene.world.path("upload");
    std::fs::write(&upload, vec![b'y'; LENGTH * 10]).unwrap();
    let upload = format!("@{}", upload.display());
    let slowly = ["--limit-rate", "50k", "--data-binary", &upload];
    let chunked = [&slowly[..], &["-H", "transfer-encoding: chunked"]].concat();
    let (mut streams, mut finite) = (vec![], vec![]);
    for protocol in PROTOCOLS {
        streams.push(scene.curl(protocol, "/events", &[]));
        streams.push(scene.curl(protocol, "/quiet", &["--data", "a=b"]));
        finite.push((scene.curl(protocol, "/download", &[]), LENGTH));
        finite.push((scene.curl(protocol, "/upload", &slowly), "250000".len()));
        finite.push((scene.curl(protocol, "/brief", &[]), 8_000));
        finite.push((scene.curl(protocol, "/late", &[]), 1));
    }
    let upload = scene.curl("--http1.1", "/upload-chunked", &chunked);
    let all = (streams.len() + finite.len() + 1) as u64;
    scene.under_way(all);
    assert_eq!(scene.proxy.api().metric("grayling_new_under_way", &[("release", RELEASE)]), Some(all as f64));

    let admin = format!("http://{}", scene.proxy.admin);
    let rolled_back = Instant::now();
    let said = grayling(&["rollback", "--admin", &admin, "--reason", "cents are wrong"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("rolled back: new requests go to stable; "), "{said}");
    assert!(said.contains(&format!("{all} are still under way on new, the oldest ")), "{said}");
    assert!(said.contains("streams among them end within 2 s"), "{said}");
    for stream in streams {
        stream.ends_cancelled();
    }
    assert_ne!(upload.ends().code, 0, "an upload without a known length is a stream, too");
    let took = rolled_back.elapsed();
    assert!(took >= GRACE && took < GRACE + seconds(3), "streams ended {took:?} after the rollback");
    for line in ["/events gone", "/quiet gone"] {
        scene.new.has_said(line, PROTOCOLS.len());
    }
    for (curl, length) in finite {
        curl.ends_whole(length);
    }
    scene.under_way(0);
    assert_eq!((scene.outcome("cancelled"), scene.outcome("ok")), (9.0, all as f64 - 9.0));
    let ended: Vec<Value> =
        scene.proxy.events("request").into_iter().filter(|e| e["outcome"] == "cancelled").collect();
    let as_held = |e: &Value| {
        e["ended_by"] == "hold"
            && (e["status"] == 200 || e["path"] == "/upload-chunked")
            && e["client_gone"].is_null()
    };
    assert!(ended.len() == 9 && ended.iter().all(as_held), "{ended:?}");

    let drained = eventually(seconds(5), "the ledger says that all have ended", || {
        scene.proxy.api().ledger().into_iter().find(|e| e["kind"] == "drained")
    });
    assert_eq!(drained["evidence"]["requests"], all);
    let users = scene.world.path("users");
    std::fs::write(&users, "u\n").unwrap();
    let users = users.display().to_string();
    let told = grayling(&["affected", "--json", "--since", "1h", "--admin", &admin, "--users", &users]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["under_way"][0]["requests"], all, "{told}");
    assert_eq!(told["under_way"][0]["to"], drained["at"], "{told}");
    let after = &told["users"][0]["in_new"][1];
    assert!(
        after["to"] == drained["at"] && after["unclear"][0].as_str().unwrap().contains("under way"),
        "{told}"
    );
}

#[test]
fn rule_14_grayling_stop_ends_streams_too_and_a_resume_within_the_grace_lets_them_live() {
    let scene = Scene::start(|_| {});
    let stream = scene.curl("--http2-prior-knowledge", "/events", &[]);
    scene.under_way(1);
    scene.proxy.api().change("rollback", "a mistake");
    assert_eq!(scene.proxy.api().resume("rollback", "it was a mistake").status, 200);
    never(GRACE + seconds(2), "ended although resumed", || {
        scene.proxy.api().release()["under_way"]["requests"] == 0
    });
    std::fs::write(scene.world.path("config/grayling.stop"), "").unwrap();
    stream.ends_cancelled();
    scene.under_way(0);
}

#[test]
fn rule_14_a_stream_of_an_attempt_that_was_rolled_back_ends_though_the_next_one_has_begun() {
    let scene = Scene::start(|_| {});
    let stream = scene.curl("--http1.1", "/quiet", &[]);
    scene.under_way(1);
    scene.proxy.api().change("rollback", "cents are wrong");
    scene.world.write(&scene.config.clone().attempt(2));
    eventually(seconds(5), "the next attempt", || (scene.proxy.api().weight() == 1.0).then_some(()));
    stream.ends_cancelled();
}

#[test]
fn rule_14_a_client_that_does_not_read_is_no_way_to_stay() {
    let scene = Scene::start(|_| {});
    let mut client = TcpStream::connect(scene.proxy.http).unwrap();
    client.write_all(b"GET /flood HTTP/1.1\r\nhost: a\r\nx-user-id: u\r\n\r\n").unwrap();
    client.read_exact(&mut [0; 8]).unwrap();
    scene.under_way(1);
    scene.proxy.api().change("rollback", "cents are wrong");
    let began = Instant::now();
    scene.under_way(0);
    assert!(began.elapsed() < GRACE + seconds(3), "{:?}", began.elapsed());
    scene.new.has_said("/flood gone", 1);
}

#[test]
fn rule_14_streams_of_an_http2_server_are_reset_and_those_of_stable_go_on() {
    let (stable, new) = (H2Origin::start("stable"), H2Origin::start("new"));
    for origin in [&stable, &new] {
        origin.behave(H2Behaviour::Stall);
    }
    let world = World::new();
    let mut config = Config::new(stable.address, new.address)
        .weight("50%")
        .watchdog("enabled = false")
        .upstreams("http2 = true\nidle_timeout = \"10m\"");
    config.limits = "websocket_grace = \"1s\"".into();
    let proxy = world.run(&config);
    let of_new = users_in_new("u", 50, 1).remove(0);
    let of_stable = (0..).map(|i| format!("u-{i}")).find(|u| !in_new(u)).unwrap();
    let mut streams: Vec<TcpStream> = [&of_new, &of_stable]
        .iter()
        .map(|user| {
            let mut client = TcpStream::connect(proxy.http).unwrap();
            client.set_read_timeout(Some(seconds(10))).unwrap();
            write!(client, "POST / HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\ncontent-length: 0\r\n\r\n")
                .unwrap();
            client.read_exact(&mut [0; 20]).unwrap();
            client
        })
        .collect();
    proxy.api().change("rollback", "cents are wrong");
    let mut rest = vec![];
    let _ = streams[0].read_to_end(&mut rest);
    assert!(!rest.ends_with(b"0\r\n\r\n"), "a clean end");
    eventually(seconds(5), "the server is told", || (new.broken_off() == 1).then_some(()));
    never(seconds(2), "stable's stream has ended", || stable.broken_off() > 0);
    assert_eq!(proxy.api().metric("grayling_requests_in_flight", &[("arm", "stable")]), Some(1.0));
}

#[test]
fn rule_14_a_stream_in_both_directions_is_reset_on_both_sides() {
    let (stable, new) = (Origin::start("stable"), H2Origin::start("new"));
    new.behave(H2Behaviour::StallAtOnce);
    let world = World::new();
    let mut config = Config::new(stable.address, new.address).weight("100%").watchdog("enabled = false");
    config.upstream_new = Some("http2 = true".into());
    config.limits = "stream_grace = \"1s\"".into();
    let proxy = world.run(&config);
    let mut client = Http2::connect(proxy.http, &[]);
    let fields =
        [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a"), ("x-user-id", "u")];
    client.headers(1, &fields, 0);
    client.send(&frame(DATA, 0, 1, b"hello")).unwrap();
    eventually(seconds(10), "an answer has begun", || {
        client.next().unwrap().filter(|f| f.kind == DATA && f.stream == 1)
    });
    proxy.api().change("rollback", "cents are wrong");
    let reset = eventually(seconds(10), "the client's stream is reset", || {
        client.next().unwrap().filter(|f| f.kind == RST_STREAM && f.stream == 1)
    });
    assert_eq!(reset.payload, 8u32.to_be_bytes(), "CANCEL");
    eventually(seconds(5), "so is the server's", || (new.broken_off() == 1).then_some(()));
}

fn in_new(user: &str) -> bool {
    crate::world::bucket(RELEASE, user.as_bytes()) < 500_000
}
