//! The PROXY protocol: the bytes of every kind of header, and real proxies that send it (HAProxy,
//! nginx, curl), to http and https.
//!
//! Every client here is 127.0.0.x; of them only 127.0.0.1 is a trusted proxy.

use crate::rows::{Scene, Told, Wire, get, lines};
use crate::world::{
    Authority, Config, Origin, Proxy, Received, Validity, World, eventually, figure, never, not_tested,
    seconds,
};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const LISTEN: &str = "\ntrusted_proxies = [\"127.0.0.1/32\", \"198.51.100.0/24\"]\nproxy_protocol = true";
const OFFICE: &str = "[segment.office]\nnetworks = [\"203.0.113.0/24\", \"2001:db8::/32\"]\n";

/// The address of `new`; it gets no user.
const NOBODY: &str = "127.0.0.1:1";

/// Only the office is in `new`.
fn scene() -> Scene {
    Scene::with(adjust)
}

fn adjust(config: &mut Config) {
    config.listen.push_str(LISTEN);
    config.weight = "0%".into();
    config.release = "segments = [\"office\"]".into();
    config.rest.push_str(OFFICE);
    config.limits = "header_timeout = \"800ms\"".into();
}

fn from(source: &str, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source.parse().unwrap(), 0).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(seconds(10))).unwrap();
    stream
}

fn v2(version_command: u8, family_protocol: u8, block: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([version_command, family_protocol]);
    header.extend((block.len() as u16).to_be_bytes());
    header.extend(block);
    header
}

fn v4_block(source: [u8; 4]) -> Vec<u8> {
    [&source[..], &[127, 0, 0, 1, 0x12, 0x34, 0, 80]].concat()
}

fn v6_block(source: &str) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    [&source.octets()[..], &[0; 15], &[1, 0x12, 0x34, 0, 80]].concat()
}

fn refused(proxy: &Proxy, cause: &str) -> f64 {
    proxy.api().metric("grayling_proxy_headers_refused_total", &[("cause", cause)]).unwrap()
}

#[test]
fn the_address_of_a_header_is_the_clients_for_segments_forwarding_and_the_log() {
    let scene = scene();
    let office_v4 = v4_block([203, 0, 113, 7]);
    let with_tlvs = [&office_v4[..], &[0x04, 0x0b, 0xb8], &[0; 3000]].concat();
    for (header, address, arm) in [
        (b"PROXY TCP4 203.0.113.7 127.0.0.1 4660 80\r\n".to_vec(), "203.0.113.7", "new"),
        (b"PROXY TCP4 192.0.2.9 127.0.0.1 4660 80\r\n".to_vec(), "192.0.2.9", "stable"),
        (b"PROXY TCP6 2001:db8::7 ::1 4660 80\r\n".to_vec(), "2001:db8::7", "new"),
        (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4660 80\r\n".to_vec(), "203.0.113.7", "new"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1", "stable"),
        (v2(0x21, 0x11, &office_v4), "203.0.113.7", "new"),
        (v2(0x21, 0x11, &with_tlvs), "203.0.113.7", "new"),
        (v2(0x21, 0x21, &v6_block("2001:db8::7")), "2001:db8::7", "new"),
        (v2(0x21, 0x21, &v6_block("::ffff:203.0.113.7")), "203.0.113.7", "new"),
        (v2(0x20, 0x00, &[]), "127.0.0.1", "stable"),
        (v2(0x20, 0x11, &office_v4), "127.0.0.1", "stable"),
        (v2(0x21, 0x00, &[]), "127.0.0.1", "stable"),
        (v2(0x21, 0x31, &[b'x'; 216]), "127.0.0.1", "stable"),
    ] {
        let origin = if arm == "new" { &scene.new } else { &scene.stable };
        // Together with two requests right behind it, and byte by byte: nothing is lost, nothing is
        // read twice.
        let (before, both) =
            (origin.requests().len(), [&header[..], get("").as_bytes(), get("").as_bytes()].concat());
        let mut wire = scene.connect();
        wire.send(&both);
        assert_eq!((wire.told().status, wire.told().status), (200, 200), "{header:02x?}");
        let mut wire = scene.connect();
        for byte in header.iter().take(120) {
            wire.send([*byte]);
        }
        wire.send(&header[header.len().min(120)..]);
        wire.send(get(""));
        assert_eq!(wire.told().status, 200, "{header:02x?}");
        wire.send(get("connection: close\r\n"));
        assert_eq!(wire.told().status, 200, "{header:02x?}");
        assert!(wire.is_closed());
        let received = origin.requests();
        assert_eq!(received.len(), before + 4, "{header:02x?}");
        for request in &received[before..] {
            assert_eq!(lines(request, "x-forwarded-for"), [format!("x-forwarded-for: {address}")]);
            assert!(request.starts_with("GET /x HTTP/1.1\r\n"), "{request}");
        }
        eventually(seconds(5), "the log has all four", || {
            let of_client = |l: &&serde_json::Value| l["event"] == "request" && l["client"] == address;
            (scene.proxy.log().iter().filter(of_client).count() % 4 == 0).then_some(())
        });
    }
    scene.nobody_is_blamed();
}

/// A layer 4 proxy does not vouch for the forwarded bytes: the address in its header decides.
#[test]
fn what_is_forwarded_is_believed_of_whom_the_header_names_and_not_of_who_sent_the_header() {
    let scene = scene();
    let lie = get("x-forwarded-for: 203.0.113.7\r\nx-forwarded-proto: https\r\n");
    let send = |header: &str| scene.send(format!("{header}{lie}")).status;
    assert_eq!(send("PROXY TCP4 192.0.2.9 127.0.0.1 1 80\r\n"), 200);
    let received = scene.stable.last();
    assert_eq!(lines(&received, "x-forwarded-for"), ["x-forwarded-for: 192.0.2.9"]);
    assert_eq!(lines(&received, "x-forwarded-proto"), ["x-forwarded-proto: http"]);
    // Another trusted proxy, which speaks HTTP, behind the layer 4 proxy: its X-Forwarded-For puts
    // the client in the office.
    assert_eq!(send("PROXY TCP4 198.51.100.3 127.0.0.1 1 80\r\n"), 200);
    let received = scene.new.last();
    let hops = lines(&received, "x-forwarded-for").join(" ");
    assert!(hops.contains("203.0.113.7") && hops.contains("198.51.100.3"), "{received}");
    assert_eq!(lines(&received, "x-forwarded-proto"), ["x-forwarded-proto: https"]);
    // The proxy's own connection: as without a header (§2.1, §2.2).
    assert_eq!(send("PROXY UNKNOWN\r\n"), 200);
    assert_eq!(scene.new.requests().len(), 2);
}

#[test]
fn a_strangers_header_is_bad_http_and_without_one_he_is_served() {
    let scene = scene();
    for header in [
        b"PROXY TCP4 203.0.113.7 127.0.0.1 1 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        v2(0x21, 0x11, &v4_block([203, 0, 113, 7])),
        v2(0x20, 0x00, &[]),
    ] {
        let mut wire = Wire::over(from("127.0.0.2", scene.proxy.http));
        wire.send([&header[..], get("").as_bytes()].concat());
        let told = wire.told();
        assert_eq!(told.status, 400, "{header:02x?} {told:?}");
        assert!(wire.is_closed());
    }
    assert_eq!(scene.received(), 0);
    let mut wire = Wire::over(from("127.0.0.2", scene.proxy.http));
    wire.send(get("x-forwarded-for: 203.0.113.7\r\n"));
    assert_eq!(wire.told().status, 200);
    assert_eq!(lines(&scene.stable.last(), "x-forwarded-for"), ["x-forwarded-for: 127.0.0.2"]);
    let causes = ["absent", "malformed", "too_long", "cut", "slow"];
    assert_eq!(causes.map(|cause| refused(&scene.proxy, cause)), [0.0; 5]);
}

#[test]
fn a_proxy_without_a_header_that_can_be_believed_is_closed_and_counted_by_cause() {
    let scene = scene();
    let closed = |bytes: &[u8]| {
        let mut wire = scene.connect();
        wire.send(bytes);
        assert_eq!(wire.told().status, 0, "{bytes:02x?}");
        wire
    };
    for (cause, kinds) in [
        (
            "absent",
            vec![
                get("").into_bytes(),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
                vec![0x16, 3, 1],
                vec![0; 5000],
            ],
        ),
        (
            "malformed",
            vec![
                b"PROXY TCP4 203.0.113.7\r\n".to_vec(),
                b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\n\r\n".to_vec(),
                v2(0x21, 0x11, &[1, 2, 3]),
                v2(0x3f, 0x11, &v4_block([1, 1, 1, 1])),
            ],
        ),
        (
            "too_long",
            vec![
                [&b"PROXY UNKNOWN "[..], &[b'x'; 10_000]].concat(),
                b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\n".repeat(4),
                v2(0x21, 0x11, &[0; 4081]),
                v2(0x21, 0x11, &[0; 65535]),
            ],
        ),
    ] {
        for (n, bytes) in kinds.iter().enumerate() {
            let mut wire = closed(&[&bytes[..], get("").as_bytes()].concat());
            assert!(wire.is_closed());
            assert_eq!(refused(&scene.proxy, cause), (n + 1) as f64, "{cause} {bytes:02x?}");
        }
    }
    // Half a header, then the end; and no bytes at all.
    for half in ["PROXY TCP4 203.0.", "\r\n\r\n\0\r\nQU"] {
        let mut stream = TcpStream::connect(scene.proxy.http).unwrap();
        stream.write_all(half.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 9]).unwrap_or(0), 0);
    }
    eventually(seconds(5), "both are counted", || (refused(&scene.proxy, "cut") == 2.0).then_some(()));
    let start = Instant::now();
    let mut silent = [closed(b""), closed(b"PROXY TCP4 "), closed(&v2(0x21, 0x11, &[0; 12])[..20])];
    assert!(silent.iter_mut().all(Wire::is_closed));
    assert!(start.elapsed() < seconds(8), "header_timeout is 800 ms");
    assert_eq!(refused(&scene.proxy, "slow"), 3.0);
    assert_eq!(scene.received(), 0);
    // One log line in ten seconds, for any number of them, with the remedy.
    scene.proxy.event("proxy_header_refused");
    let told = scene.proxy.events("proxy_header_refused");
    assert!(!told.is_empty() && told.len() <= 3, "{told:?}");
    assert_eq!((told[0]["cause"].as_str(), told[0]["peer"].as_str()), (Some("absent"), Some("127.0.0.1")));
    assert!(told[0]["hint"].as_str().unwrap().contains("send-proxy-v2"));
    eventually(seconds(5), "every connection is given back", || {
        (scene.proxy.api().metric("grayling_connections", &[]) == Some(0.0)).then_some(())
    });
    scene.nobody_is_blamed();
}

/// Slower than a request head may arrive: the time limit applies to the whole header.
#[test]
fn a_header_that_trickles_in_has_the_time_of_a_head_and_no_more() {
    let scene = scene();
    let mut stream = TcpStream::connect(scene.proxy.http).unwrap();
    stream.set_read_timeout(Some(seconds(10))).unwrap();
    let start = Instant::now();
    let mut sent = stream.write_all(b"PROXY UNKNOWN ");
    while sent.is_ok() && start.elapsed() < seconds(5) {
        std::thread::sleep(std::time::Duration::from_millis(100)); // the pace of the trickle
        sent = stream.write_all(b"x");
    }
    assert!(sent.is_err(), "never closed");
    assert!(start.elapsed() >= std::time::Duration::from_millis(700), "{:?}", start.elapsed());
    assert_eq!(refused(&scene.proxy, "slow"), 1.0);
}

#[test]
fn a_reload_switches_it_for_new_connections_and_says_so() {
    let world = World::new();
    let origin = Origin::start("stable");
    let mut config = Config::new(origin.address, NOBODY.parse().unwrap()).weight("0%");
    config.listen = "workers = 1\ntrusted_proxies = [\"127.0.0.1/32\"]".into();
    let proxy = world.run(&config);
    let mut old = Wire::connect(proxy.http);
    old.send(get(""));
    assert_eq!(old.told().status, 200);

    config.listen.push_str("\nproxy_protocol = true");
    world.write(&config);
    let findings = proxy.event("reloaded")["findings"].to_string();
    assert!(findings.contains("`[listen] proxy_protocol`: new connections"), "{findings}");
    old.send(get(""));
    assert_eq!(old.told().status, 200, "a connection goes on as it began");
    let ask = |bytes: String| -> Told {
        let mut wire = Wire::connect(proxy.http);
        wire.send(bytes);
        wire.told()
    };
    assert_eq!(ask(get("")).status, 0);
    assert_eq!(ask(format!("PROXY UNKNOWN\r\n{}", get(""))).status, 200);

    config.listen = config.listen.replace("true", "false");
    world.write(&config);
    eventually(seconds(5), "the other reload", || (proxy.events("reloaded").len() == 2).then_some(()));
    assert_eq!(ask(get("")).status, 200);
    assert_eq!(ask(format!("PROXY UNKNOWN\r\n{}", get(""))).status, 400);
}

/// A third-party proxy in front of ours: a child process that ends with the test.
struct Front {
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Front {
    /// `config` gets free ports for its listeners; `command` runs the file with the text it
    /// returns.
    fn start(
        world: &World,
        ports: &[&str],
        config: impl Fn(&[SocketAddr]) -> String,
        command: impl Fn(&Path) -> Command,
    ) -> Front {
        // They do not support port 0: free ports are searched, and others if these were taken
        // meanwhile.
        for attempt in 0..5 {
            let held: Vec<_> = ports.iter().map(|ip| TcpListener::bind(format!("{ip}:0")).unwrap()).collect();
            let addresses: Vec<SocketAddr> = held.iter().map(|l| l.local_addr().unwrap()).collect();
            drop(held);
            let file = world.path(&format!("front-{attempt}.conf"));
            std::fs::write(&file, config(&addresses)).unwrap();
            let mut child = command(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(world.path("front.stderr")).unwrap())
                .spawn()
                .expect("it is installed (tests/run installs it)");
            let up = eventually(seconds(20), "the proxy in front listens, or ends", || {
                if child.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                addresses.iter().all(|a| TcpStream::connect(a).is_ok()).then_some(true)
            });
            if up {
                return Front { child, addresses };
            }
        }
        let said = std::fs::read_to_string(world.path("front.stderr")).unwrap_or_default();
        panic!("the proxy in front does not start: {said}");
    }
}

fn haproxy(file: &Path) -> Command {
    let installed =
        ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].into_iter().find(|p| Path::new(p).exists());
    let mut command = Command::new(installed.unwrap_or("haproxy"));
    command.args(["-db", "-f"]).arg(file);
    command
}

/// Both listeners of a proxy that trusts 127.0.0.1, in front of one origin.
fn both_doors(world: &World) -> (Proxy, Origin) {
    let ca = Authority::new("test CA");
    ca.server(world, "server", Validity::Now);
    ca.write(world, "ca.pem");
    let origin = Origin::start("stable");
    let mut config = Config::new(origin.address, NOBODY.parse().unwrap()).weight("0%");
    config.listen = format!("workers = 2\nhttps = \"127.0.0.1:0\"{LISTEN}");
    config.rest = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
    (world.run(&config), origin)
}

/// Runs curl from this address; returns the status.
fn curl(world: &World, source: &str, url: &str, more: &[&str]) -> String {
    let output = Command::new("curl")
        .args([
            "-sS",
            "-o",
            "/dev/null",
            "--max-time",
            "10",
            "-w",
            "%{http_code} %{http_version}",
            "--cacert",
        ])
        .arg(world.path("config/ca.pem"))
        .args(["--interface", source])
        .args(more)
        .arg(url)
        .output()
        .expect("curl is installed (tests/run installs it)");
    let (told, error) = (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned());
    format!("{}{error}", String::from_utf8_lossy(&told))
}

/// The client address of curl's last request; skips the checks of the proxy in front.
fn last_client(origin: &Origin) -> String {
    let received = origin.received();
    let by_curl = |r: &&Received| r.header("user-agent").is_some_and(|agent| agent.starts_with("curl"));
    received.iter().rfind(by_curl).and_then(|r| r.header("x-forwarded-for")).unwrap_or_default().to_owned()
}

#[test]
fn haproxy_in_front_sends_both_versions_to_both_doors_and_its_checks_pass() {
    let world = World::new();
    let (proxy, origin) = both_doors(&world);
    let (http, https) = (proxy.http, proxy.https());
    let ports = ["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "[::1]", "127.0.0.1"];
    let config = |at: &[SocketAddr]| {
        let mut text = "global\n  maxconn 200\n  stats socket STATS mode 600\n\
            defaults\n  timeout connect 2s\n  timeout client 10s\n  timeout server 10s\n"
            .replace("STATS", world.path("haproxy.sock").to_str().unwrap());
        for (name, listen, mode, server) in [
            ("v1", at[0], "tcp", format!("{http} send-proxy check-send-proxy")),
            ("v2", at[1], "tcp", format!("{http} send-proxy-v2 check-send-proxy")),
            ("v2-tls", at[2], "tcp", format!("{https} send-proxy-v2 check-send-proxy")),
            ("v1-tls", at[3], "tcp", format!("{https} send-proxy check-send-proxy")),
            ("v2-ipv6", at[4], "tcp", format!("{http} send-proxy-v2 check-send-proxy")),
            (
                "http-mode",
                at[5],
                "http",
                format!("{http} send-proxy-v2 check-send-proxy proxy-v2-options crc32c,unique-id"),
            ),
        ] {
            let id = if name == "http-mode" {
                "  unique-id-format %[uuid()]\n  option httpchk GET /\n  http-check send hdr host a\n"
            } else {
                ""
            };
            text += &format!(
                "listen {name}\n  mode {mode}\n  bind {listen}\n{id}  server s {server} check inter 200ms rise 1 fall 2\n"
            );
        }
        text
    };
    let front = Front::start(&world, &ports, config, haproxy);
    let at = |n: usize| front.addresses[n];
    let expect = |url: String, more: &[&str], version: &str| {
        assert_eq!(curl(&world, "127.0.0.7", &url, more), format!("200 {version}"), "{url} {more:?}");
        assert_eq!(last_client(&origin), "127.0.0.7", "{url}");
    };
    for n in [0, 1] {
        expect(format!("http://{}/", at(n)), &[], "1.1");
        expect(format!("http://{}/", at(n)), &["--http2-prior-knowledge"], "2");
    }
    for n in [2, 3] {
        expect(format!("https://{}/", at(n)), &["--http2"], "2");
        expect(format!("https://{}/", at(n)), &["--http1.1"], "1.1");
    }
    expect(format!("http://{}/", at(5)), &["-H", "x-forwarded-for: 203.0.113.7"], "1.1");
    assert_eq!(curl(&world, "::1", &format!("http://{}/", at(4)), &[]), "200 1.1");
    assert_eq!(last_client(&origin), "::1");
    // Its checks are separate connections (LOCAL in version 2): the servers are up, and stay up.
    let up = |name: &str| show_stat(&world, name) == "UP";
    for name in ["v1", "v2", "v2-tls", "v1-tls", "v2-ipv6", "http-mode"] {
        eventually(seconds(10), name, || up(name).then_some(()));
    }
    never(seconds(1), "a server is taken out by its check", || !up("v2-tls") || !up("http-mode"));
    // A layer 4 check sends only its header, or not even that: no fault but "cut".
    for cause in ["absent", "malformed", "too_long", "slow"] {
        assert_eq!(refused(&proxy, cause), 0.0, "{cause}");
    }
}

/// `UP`, `DOWN` or the like for the server of this section.
fn show_stat(world: &World, name: &str) -> String {
    let Ok(mut socket) = std::os::unix::net::UnixStream::connect(world.path("haproxy.sock")) else {
        return String::new();
    };
    let mut answer = String::new();
    let _ = socket.write_all(b"show stat\n").and_then(|()| socket.read_to_string(&mut answer));
    let line = answer.lines().find(|l| l.starts_with(&format!("{name},s,")));
    line.and_then(|l| l.split(',').nth(17)).unwrap_or_default().to_owned()
}

#[test]
fn haproxy_that_does_not_send_the_header_is_told_why_it_is_closed() {
    let world = World::new();
    let (proxy, origin) = both_doors(&world);
    let config = |at: &[SocketAddr]| {
        format!(
            "defaults\n  mode tcp\n  timeout connect 2s\n  timeout client 5s\n  timeout server 5s\n\
             listen plain\n  bind {}\n  server s {}\n",
            at[0], proxy.http
        )
    };
    let front = Front::start(&world, &["127.0.0.1"], config, haproxy);
    let before = origin.received().len();
    let told = curl(&world, "127.0.0.7", &format!("http://{}/", front.addresses[0]), &[]);
    assert!(told.starts_with("000"), "{told}");
    assert_eq!(origin.received().len(), before);
    assert!(refused(&proxy, "absent") >= 1.0);
    eventually(seconds(5), "the log says why", || proxy.events("proxy_header_refused").pop());
}

#[test]
fn nginx_in_front_sends_the_header_to_both_doors() {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !Path::new(module).exists() {
        return not_tested("nginx as a proxy that sends the PROXY header: no ngx_stream_module.so");
    }
    let world = World::new();
    let (proxy, origin) = both_doors(&world);
    let config = |at: &[SocketAddr]| {
        let server = |listen: SocketAddr, to: SocketAddr| {
            format!("  server {{ listen {listen}; proxy_pass {to}; proxy_protocol on; }}\n")
        };
        let folder = world.folder().display();
        format!(
            "load_module {module};\ndaemon off;\nmaster_process off;\npid {folder}/front.pid;\nerror_log {folder}/front.log;\n\
             events {{}}\nstream {{\n{}{}{}}}\n",
            server(at[0], proxy.http),
            server(at[1], proxy.https()),
            server(at[2], proxy.http)
        )
    };
    let nginx = |file: &Path| {
        let installed =
            ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].into_iter().find(|p| Path::new(p).exists());
        let mut command = Command::new(installed.unwrap_or("nginx"));
        command.arg("-c").arg(file).arg("-p").arg(world.folder()).arg("-e").arg(world.path("front.log"));
        command
    };
    let front = Front::start(&world, &["127.0.0.1", "127.0.0.1", "[::1]"], config, nginx);
    let at = |n: usize| front.addresses[n];
    for (url, source, more, version) in [
        (format!("http://{}/", at(0)), "127.0.0.7", "--http1.1", "1.1"),
        (format!("http://{}/", at(0)), "127.0.0.7", "--http2-prior-knowledge", "2"),
        (format!("https://{}/", at(1)), "127.0.0.7", "--http2", "2"),
        (format!("https://{}/", at(1)), "127.0.0.7", "--http1.1", "1.1"),
        (format!("http://{}/", at(2)), "::1", "--http1.1", "1.1"),
    ] {
        assert_eq!(curl(&world, source, &url, &[more]), format!("200 {version}"), "{url} {more}");
        assert_eq!(last_client(&origin), source);
    }
}

#[test]
fn curl_sends_the_header_itself_and_from_elsewhere_in_vain() {
    let world = World::new();
    let (proxy, origin) = both_doors(&world);
    let (http, https) = (format!("http://{}/", proxy.http), format!("https://{}/", proxy.https()));
    for (url, more, version) in [
        (&http, "--http1.1", "1.1"),
        (&http, "--http2-prior-knowledge", "2"),
        (&https, "--http1.1", "1.1"),
        (&https, "--http2", "2"),
    ] {
        assert_eq!(curl(&world, "127.0.0.1", url, &["--haproxy-protocol", more]), format!("200 {version}"));
        assert_eq!(last_client(&origin), "127.0.0.1");
        // Without the header: a trusted proxy is refused, and a stranger is served as before.
        assert!(curl(&world, "127.0.0.1", url, &[more]).starts_with("000"), "{url} {more}");
        assert_eq!(curl(&world, "127.0.0.2", url, &[more]), format!("200 {version}"));
        assert_eq!(last_client(&origin), "127.0.0.2");
    }
    assert!(curl(&world, "127.0.0.2", &http, &["--haproxy-protocol", "--http1.1"]).starts_with("400"));
    assert!(curl(&world, "127.0.0.2", &https, &["--haproxy-protocol"]).starts_with("000"));
    // Over https the header precedes the handshake, which may arrive with it, in pieces.
    let handshakes = 40;
    let start = Instant::now();
    for _ in 0..handshakes {
        assert_eq!(curl(&world, "127.0.0.1", &https, &["--haproxy-protocol", "--http1.1"]), "200 1.1");
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / f64::from(handshakes);
    figure(&format!(
        "PROXY header, TLS handshake, one request, by curl: {each:.0} ms each, process start included"
    ));
}
