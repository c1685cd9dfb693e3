//! curl as a client, in both protocols, in plain text and over TLS: uploads, ranges, resumption,
//! trailers, unmodified bodies.

use super::{Server, free, run};
use crate::world::{
    Authority, Behaviour, Config, Origin, Proxy, Validity, World, eventually, figure, seconds,
};
use std::path::Path;

const TLS: &str = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";
const PROTOCOLS: [&str; 4] = ["--http1.1", "--http2-prior-knowledge", "--http1.1 TLS", "--http2 TLS"];

struct Scene {
    world: World,
    proxy: Proxy,
}

impl Scene {
    fn before(world: World, origin: std::net::SocketAddr) -> Scene {
        let ca = Authority::new("test CA");
        ca.server(&world, "server", Validity::Now);
        ca.write(&world, "ca.pem");
        let mut config = Config::new(origin, free()).weight("0%").watchdog("enabled = false");
        config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
        config.rest = TLS.into();
        let proxy = world.run(&config);
        Scene { world, proxy }
    }

    /// curl's output, which ends with the status; `%/` stands for scheme and address.
    fn curl(&self, protocol: &str, arguments: &[&str]) -> super::Said {
        let (option, tls) = protocol.split_once(' ').map_or((protocol, false), |(option, _)| (option, true));
        let base = match tls {
            true => format!("https://{}", self.proxy.https()),
            false => format!("http://{}", self.proxy.http),
        };
        let ca = self.world.path("config/ca.pem").display().to_string();
        let fixed =
            ["-sS", option, "--cacert", &ca, "-H", "x-user-id: u", "-w", " %{http_code}"].map(str::to_owned);
        let more = arguments
            .iter()
            .map(|a| a.strip_prefix("%/").map_or(a.to_string(), |path| format!("{base}/{path}")));
        run("curl", fixed.into_iter().chain(more))
    }

    fn no_arm_is_blamed(&self) {
        eventually(seconds(10), "all requests have ended", || {
            (self.proxy.api().metric("grayling_requests_in_flight", &[]).unwrap_or(0.0) == 0.0).then_some(())
        });
        for outcome in ["server_error", "connect_error", "timeout", "reset", "truncated", "saturated"] {
            let n =
                self.proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]).unwrap_or(0.0);
            assert_eq!(n, 0.0, "{outcome}");
        }
    }
}

fn hash(file: &Path) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&std::fs::read(file).unwrap())
}

/// Bytes that do not repeat.
fn noise(length: usize) -> Vec<u8> {
    let mut random = crate::world::Random::new(7);
    (0..length / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

#[test]
fn curl_uploads_in_every_protocol_and_the_origin_receives_what_was_sent() {
    let (world, origin) = (World::new(), Origin::start("origin"));
    std::fs::write(world.path("body"), noise(24 << 20)).unwrap();
    let scene = Scene::before(world, origin.address);
    let file = scene.world.path("body");
    let (name, data) = (file.display().to_string(), format!("@{}", file.display()));
    let mut sent = 0;
    for protocol in PROTOCOLS {
        // With a length and Expect: 100-continue, which curl sends by default; chunked (in HTTP/2:
        // without a length); slowly.
        for how in [
            vec!["-T", &name, "%/pay"],
            vec!["-T", &name, "-H", "transfer-encoding: chunked", "%/pay"],
            vec!["-H", "expect: 100-continue", "--data-binary", &data, "%/pay"],
        ] {
            let said = scene.curl(protocol, &how);
            assert_eq!(said.text, "origin 200", "{protocol} {how:?}");
            sent += 1;
        }
    }
    let wanted = hash(&file);
    let received = origin.received();
    assert_eq!(received.len(), sent);
    assert!(received.iter().all(|r| xxhash_rust::xxh3::xxh3_64(&r.body) == wanted));
    figure(&format!("curl: {sent} uploads of 24 MiB in 4 protocols, each received whole"));

    // An h2c upgrade is served as HTTP/1.1; the path is forwarded unchanged; a head of 24 KiB, and
    // one beyond the limit.
    origin.behave(Behaviour::Echo);
    let answer = scene.curl("--http2", &["-w", " %{http_version}", "%/a"]).text;
    assert!(answer.ends_with(" 1.1") && !answer.to_lowercase().contains("upgrade"), "{answer}");
    for protocol in PROTOCOLS {
        let answer = scene.curl(protocol, &["--path-as-is", "%/a/./b/../c//d?q=%41"]).text;
        assert!(
            answer.starts_with("GET /a/./b/../c//d?q=%41 HTTP/1.1") && answer.ends_with(" 200"),
            "{answer}"
        );
        let big = format!("x-big: {}", "b".repeat(24 << 10));
        assert!(scene.curl(protocol, &["-H", &big, "%/"]).text.ends_with(" 200"), "{protocol}");
        let too_big = format!("x-big: {}", "b".repeat(60 << 10));
        assert!(scene.curl(protocol, &["-H", &too_big, "%/"]).text.ends_with("431"), "{protocol}");
        // Three requests on one connection, except for a case that curl does not support: see
        // below.
        if protocol != "--http2-prior-knowledge" {
            let said = scene.curl(
                protocol,
                &[
                    "-o",
                    "/dev/null",
                    "-o",
                    "/dev/null",
                    "-o",
                    "/dev/null",
                    "-w",
                    "%{num_connects} ",
                    "%/1",
                    "%/2",
                    "%/3",
                ],
            );
            assert_eq!(said.text, "1 0 0 ", "{protocol}");
        }
    }
    scene.no_arm_is_blamed();
}

#[test]
fn curl_takes_ranges_resumes_and_goes_in_the_middle_and_bodies_are_left_as_they_are() {
    let world = World::new();
    let (at, root) = (free(), world.path("files"));
    std::fs::create_dir_all(&root).unwrap();
    std::fs::write(root.join("big"), noise(24 << 20)).unwrap();
    std::fs::write(root.join("text"), "a line of text\n".repeat(20_000)).unwrap();
    let http = format!(
        "gzip on; gzip_types text/plain; gzip_proxied any; server {{ listen {at} backlog=4096; root {}; }}",
        root.display()
    );
    let _nginx = Server::nginx(&world, "files-origin", at, &http);
    let scene = Scene::before(world, at);
    let out = scene.world.path("out").display().to_string();
    let big = std::fs::read(root.join("big")).unwrap();
    for protocol in PROTOCOLS {
        let said = scene.curl(protocol, &["-o", &out, "%/big"]);
        assert_eq!((said.text.as_str(), hash(out.as_ref())), (" 200", hash(&root.join("big"))), "{protocol}");
        let said = scene.curl(protocol, &["-o", &out, "-r", "1000000-1999999", "%/big"]);
        assert_eq!(said.text, " 206", "{protocol}");
        assert_eq!(std::fs::read(&out).unwrap(), big[1_000_000..2_000_000], "{protocol}");
        std::fs::write(&out, &big[..5_000_000]).unwrap();
        let said = scene.curl(protocol, &["-o", &out, "-C", "-", "%/big"]);
        assert_eq!((said.text.as_str(), hash(out.as_ref())), (" 206", hash(&root.join("big"))), "{protocol}");
        let said = scene.curl(protocol, &["-I", "%/big"]);
        assert!(
            said.text.to_lowercase().contains("content-length: 25165824") && said.text.ends_with(" 200"),
            "{}",
            said.text
        );
        // Compressed by the origin, forwarded unchanged; and not compressed without
        // Accept-Encoding.
        let said = scene.curl(protocol, &["-o", &out, "-H", "accept-encoding: gzip", "%/text"]);
        assert!(said.ok && std::fs::read(&out).unwrap().starts_with(&[0x1f, 0x8b]), "{protocol} {said:?}");
        assert!(scene.curl(protocol, &["--compressed", "-o", &out, "%/text"]).ok);
        assert_eq!(hash(out.as_ref()), hash(&root.join("text")), "{protocol}");
        // The client leaves during the body.
        let said = scene.curl(protocol, &["-o", &out, "--limit-rate", "1M", "--max-time", "0.5", "%/big"]);
        assert!(!said.ok && said.text.contains("(28)"), "{protocol}: {}", said.text);
        // Forty at once. (With prior knowledge curl 7.88 sends its preface again on an open
        // connection, to nginx as well as to grayling.)
        if protocol != "--http2-prior-knowledge" {
            // Its progress meter prints figures too.
            let told = ["-w", " code:%{http_code}", "-o", "/dev/null", "%/text?[1-40]"];
            let many = scene.curl(protocol, &[&["-Z", "--parallel-max", "40"][..], &told].concat());
            assert_eq!(many.text.matches(" code:200").count(), 40, "{protocol}: {}", many.text);
        }
        assert!(scene.proxy.client().get("/text", &[]).is_ok_and(|a| a.status == 200));
    }
    scene.no_arm_is_blamed();
    let aborted = scene.proxy.api().metric("grayling_requests_total", &[("outcome", "cancelled")]);
    assert_eq!(aborted, Some(4.0), "who went in the middle, once a protocol");
}
