//! TLS on both sides, with standard tools: curl and h2load as clients, nginx as origin, and rustls
//! to inspect the bytes of a certificate.

use crate::world::{
    Authority, Behaviour, Config, H2Behaviour, H2Origin, Load, Nginx, Origin, Proxy, Validity, World,
    eventually, figure, never, not_tested, put, seconds, turn, users_in_new,
};
use rcgen::SanType;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const TLS: &str = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n";

/// A proxy with an https listener in front of two origins, and the CA of its certificate.
struct Scene {
    world: World,
    ca: Authority,
    stable: Origin,
    new: Origin,
    config: Config,
}

fn scene() -> Scene {
    let world = World::new();
    let ca = Authority::new("test CA");
    ca.server(&world, "server", Validity::Now);
    ca.write(&world, "ca.pem");
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address);
    config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
    config.rest = TLS.into();
    Scene { world, ca, stable, new, config }
}

/// The response body with a last line `STATUS VERSION`, or curl's exit code.
fn curl(url: &str, arguments: &[&str]) -> Result<String, i32> {
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "10", "-w", "\n%{http_code} %{http_version}"])
        .args(arguments)
        .arg(url)
        .output()
        .expect("curl is installed (tests/run installs it)");
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(output.status.code().unwrap_or(-1)),
    }
}

fn url(address: SocketAddr) -> String {
    format!("https://{address}/")
}

type Session = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn session(address: SocketAddr, ca: &Path) -> std::io::Result<Session> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::from(address.ip());
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(seconds(10)))?;
    let mut connection = connection;
    while connection.is_handshaking() {
        connection.complete_io(&mut tcp)?;
    }
    Ok(rustls::StreamOwned::new(connection, tcp))
}

/// The certificate that a new connection receives.
fn shown(address: SocketAddr, ca: &Path) -> Vec<u8> {
    let session = session(address, ca).unwrap();
    session.conn.peer_certificates().unwrap()[0].to_vec()
}

fn leaf(world: &World, name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(world.path(&format!("config/{name}.pem"))).unwrap().to_vec()
}

fn get(session: &mut Session) -> std::io::Result<String> {
    session.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\nx-user-id: bob\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.windows(4).any(|w| w == b"\r\n\r\n") {
        match session.read(&mut piece)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => answer.extend_from_slice(&piece[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[test]
fn http1_and_http2_are_agreed_on_by_alpn_and_the_upstream_learns_that_it_was_https() {
    let scene = scene();
    let proxy = scene.world.run(&scene.config);
    let ca = scene.world.path("config/ca.pem");
    let ca = ca.to_str().unwrap();
    let https = url(proxy.https());
    let user = format!("x-user-id: {}", users_in_new("user", 20, 1)[0]);
    assert_eq!(curl(&https, &["--cacert", ca, "--http1.1"]).unwrap(), "stable\n200 1.1");
    assert_eq!(curl(&https, &["--cacert", ca, "--http2", "-H", &user]).unwrap(), "new\n200 2");
    // A full upload, over both.
    scene.stable.behave(Behaviour::Echo);
    for version in ["--http1.1", "--http2"] {
        let answer = curl(&https, &["--cacert", ca, version, "--data", "forty-two"]).unwrap();
        assert!(answer.contains("POST /") && answer.contains("forty-two"), "{answer}");
    }
    let received = &scene.new.received()[0];
    assert_eq!(received.header("x-forwarded-proto"), Some("https"));
    assert_eq!(received.header("x-forwarded-for"), Some("127.0.0.1"));
    // Fails without the CA; no plain text on the TLS port; TLS 1.0 and 1.1 are disabled.
    assert_eq!(curl(&https, &[]), Err(60));
    assert!(curl(&https.replace("https", "http"), &[]).is_err());
    assert_eq!(curl(&https, &["--cacert", ca, "--tls-max", "1.1"]), Err(35));
    scene.stable.behave(Behaviour::Answer);
    for version in ["1.2", "1.3"] {
        assert_eq!(curl(&https, &["--cacert", ca, "--tls-max", version]).unwrap(), "stable\n200 2");
    }
    assert_eq!(proxy.client().get("/", &[]).unwrap().text(), "stable", "http goes on beside it");
}

#[test]
fn a_renewed_pair_is_taken_under_load_and_no_request_fails() {
    let _turn = turn();
    let scene = scene();
    let proxy = scene.world.run(&scene.config);
    let (https, ca) = (proxy.https(), scene.world.path("config/ca.pem"));
    let mut kept = session(https, &ca).unwrap();
    assert!(get(&mut kept).unwrap().starts_with("HTTP/1.1 200"));
    // Long connections by h2load, and new ones that check the certificate.
    let h2load = Command::new("h2load")
        .args(["-c8", "-m10", "-t1", "-D6", &url(https)])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn();
    let (stop, fresh) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let visitors = std::thread::spawn({
        let (stop, fresh, ca) = (stop.clone(), fresh.clone(), ca.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                let mut session = session(https, &ca).expect("a handshake");
                assert!(get(&mut session).expect("an answer").starts_with("HTTP/1.1 200"));
                fresh.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let before = fresh.load(Ordering::Relaxed);
        let began = std::time::Instant::now();
        // The two files are not renewed atomically: between them the pair does not match, and the
        // old pair stays.
        scene.ca.server(&scene.world, "server", Validity::Now);
        let wanted = leaf(&scene.world, "server");
        eventually(seconds(10), "the renewed pair is shown", || (shown(https, &ca) == wanted).then_some(()));
        slowest = slowest.max(began.elapsed());
        eventually(seconds(10), "visitors go on", || (fresh.load(Ordering::Relaxed) > before).then_some(()));
    }
    assert!(get(&mut kept).unwrap().starts_with("HTTP/1.1 200"), "a connection of the first pair lives on");
    stop.store(true, Ordering::Relaxed);
    visitors.join().expect("no visitor failed");
    match h2load {
        Ok(child) => {
            let said = String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).into_owned();
            assert!(said.contains(" 0 failed, 0 errored, 0 timeout"), "{said}");
            let requests = said.lines().find(|l| l.starts_with("requests:")).unwrap_or_default();
            figure(&format!(
                "5 certificate swaps under h2load, the slowest in {} ms: {requests}",
                slowest.as_millis()
            ));
        }
        Err(_) => not_tested("certificate swaps under h2load, which is not installed"),
    }
}

#[test]
fn a_bad_pair_keeps_the_old_one_and_says_why() {
    let scene = scene();
    let proxy = scene.world.run(&scene.config);
    let (https, ca) = (proxy.https(), scene.world.path("config/ca.pem"));
    let (good, good_key) = ("config/server.pem", "config/server.key");
    let good = [good, good_key].map(|f| std::fs::read_to_string(scene.world.path(f)).unwrap());
    let first = shown(https, &ca);
    let other = scene.ca.sign("other", vec![], Validity::Now);
    let expired = scene.ca.sign("old", vec![], Validity::Expired);
    let cut = &good[0][..good[0].len() / 2];
    let cases: [(&str, &str, &str); 6] = [
        (&other.0, &good[1], "not the key of the certificate"),
        (cut, &good[1], "not PEM, or cut off"),
        ("", &good[1], "no certificate in it"),
        (&good[0], "no key", "no private key in it"),
        (
            &good[0],
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "the key is encrypted",
        ),
        (&expired.0, &expired.1, "has expired: the old one stays"),
    ];
    for (certificate, key, why) in cases {
        put(&scene.world, "server.key", key);
        put(&scene.world, "server.pem", certificate);
        eventually(seconds(10), why, || {
            let last = proxy.events("reload_failed").last().cloned()?;
            last.to_string().contains(why).then_some(())
        });
        assert_eq!(shown(https, &ca), first, "{why}");
        assert!(proxy.api().status()["config"].to_string().contains("server") || proxy.said().contains(why));
    }
    std::fs::remove_file(scene.world.path("config/server.key")).unwrap();
    eventually(seconds(10), "a missing key is told", || {
        proxy.events("reload_failed").last()?.to_string().contains("there is no file").then_some(())
    });
    put(&scene.world, "server.pem", &good[0]);
    put(&scene.world, "server.key", &good[1]);
    assert_eq!(shown(https, &ca), first);
}

#[test]
fn what_is_wrong_with_tls_at_start_is_told_and_ends_with_78() {
    let mut scene = scene();
    scene.config.rest = String::new();
    let start = |config: &Config| Proxy::try_start(&scene.world.write(config)).map(|_| ()).unwrap_err();
    let why = start(&scene.config);
    assert!(why.contains("`[tls] certificate` is missing") && why.contains("78"), "{why}");
    let mut mutual = scene.config.clone();
    mutual.rest = format!("{TLS}[identity]\nfrom = [{{ client_cert = \"cn\" }}]\n");
    let why = start(&mutual);
    assert!(why.contains("`client_cert` without `[tls] client_ca`"), "{why}");
    let mut unready = scene.config.clone();
    unready.rest = TLS.replace("server.key", "ca.pem");
    let why = start(&unready);
    assert!(why.contains("no private key in it"), "{why}");
    // An expired certificate must not keep the proxy, and its http users, down.
    scene.ca.server(&scene.world, "server", Validity::Expired);
    scene.config.rest = TLS.into();
    let proxy = scene.world.run(&scene.config);
    proxy.tells("has expired");
    assert_eq!(proxy.client().get("/", &[]).unwrap().text(), "stable");
}

#[test]
fn a_client_certificate_is_asked_for_and_its_name_is_the_user() {
    let mut scene = scene();
    let clients = Authority::new("clients");
    clients.write(&scene.world, "clients.pem");
    let identity = |name: &str| {
        format!("{TLS}client_ca = \"clients.pem\"\n[identity]\nfrom = [{{ client_cert = \"{name}\" }}]\n")
    };
    scene.config.rest = identity("cn");
    let proxy = scene.world.run(&scene.config);
    let (https, ca) = (url(proxy.https()), scene.world.path("config/ca.pem"));
    let ca = ca.to_str().unwrap().to_owned();
    let pair = |of: &Authority, name: &str, alternatives, validity| {
        let (certificate, key) = of.sign(name, alternatives, validity);
        let file = put(&scene.world, "client.pem", &format!("{certificate}{key}"));
        file.to_str().unwrap().to_owned()
    };
    let ask = |pair: &str, version: &str| curl(&https, &["--cacert", &ca, "--cert", pair, version]);
    let inside = users_in_new("subscriber", 20, 20);
    let outside: Vec<String> = (0..)
        .map(|n| format!("outsider-{n}"))
        .filter(|u| crate::world::bucket("billing", u.as_bytes()) >= 200_000)
        .take(5)
        .collect();
    for (users, arm) in [(&inside[..5], "new"), (&outside[..], "stable")] {
        for user in users {
            let pair = pair(&clients, user, vec![], Validity::Now);
            assert_eq!(ask(&pair, "--http1.1").unwrap(), format!("{arm}\n200 1.1"));
            assert_eq!(ask(&pair, "--http2").unwrap(), format!("{arm}\n200 2"));
        }
    }
    // No certificate, one of another CA, an expired one: no request is served.
    let before = scene.stable.total() + scene.new.total();
    assert!(curl(&https, &["--cacert", &ca]).is_err());
    for (of, validity) in [(&scene.ca, Validity::Now), (&clients, Validity::Expired)] {
        assert!(ask(&pair(of, &inside[0], vec![], validity), "--http2").is_err());
    }
    assert_eq!(scene.stable.total() + scene.new.total(), before);
    // The same by an alternative name: the first text one.
    let mut config = scene.config.clone();
    config.rest = identity("san");
    scene.world.write(&config);
    eventually(seconds(10), "the edit is in force", || {
        proxy.events("reloaded").into_iter().find(|e| e.to_string().contains("[identity]"))
    });
    let names = vec![
        SanType::IpAddress("10.0.0.1".parse().unwrap()),
        SanType::URI(inside[0].as_str().try_into().unwrap()),
        SanType::DnsName("other.example".try_into().unwrap()),
    ];
    assert_eq!(ask(&pair(&clients, &outside[0], names, Validity::Now), "--http2").unwrap(), "new\n200 2");
    // Without such a name, and over plain http: no id, so stable.
    assert_eq!(ask(&pair(&clients, &inside[0], vec![], Validity::Now), "--http2").unwrap(), "stable\n200 2");
    assert_eq!(proxy.client().get("/", &[("x-user-id", &inside[0])]).unwrap().text(), "stable");
    // Another client CA: clients with a certificate of the old one are refused.
    Authority::new("others").write(&scene.world, "clients.pem");
    let old = pair(&clients, &inside[0], vec![], Validity::Now);
    eventually(seconds(10), "the old CA is out", || ask(&old, "--http2").err());
}

#[test]
fn a_client_that_says_nothing_is_closed_and_blocks_nobody() {
    let mut scene = scene();
    scene.config.limits = "header_timeout = \"500ms\"\nconnections = 12\n".into();
    let proxy = scene.world.run(&scene.config);
    let ca = scene.world.path("config/ca.pem");
    let half: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
    let silent: Vec<TcpStream> = (0..6)
        .map(|n| {
            let address = if n < 4 { proxy.https() } else { proxy.http };
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(if n < 2 { half } else { b"" }).unwrap();
            stream.set_read_timeout(Some(seconds(5))).unwrap();
            stream
        })
        .collect();
    assert!(get(&mut session(proxy.https(), &ca).unwrap()).unwrap().starts_with("HTTP/1.1 200"));
    for mut stream in silent {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let timed_out = ended.as_ref().is_err_and(|e| {
            matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
        });
        assert!(!timed_out, "it was not closed");
    }
    // The same for a client that shakes hands and then is silent, and for one that sends half an
    // HTTP/2 preface.
    let mut mute = session(proxy.https(), &ca).unwrap();
    let mut half = TcpStream::connect(proxy.http).unwrap();
    half.write_all(b"PRI * HT").unwrap();
    half.set_read_timeout(Some(seconds(5))).unwrap();
    for ended in [mute.read(&mut [0; 9]), half.read(&mut [0; 99])] {
        let open = ended.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!open, "it was not closed");
    }
    // Beyond `connections` TLS clients are closed before a handshake; those in a handshake count.
    // (They are silent, so they are closed after a time: each try fills the room again.)
    eventually(seconds(10), "no more room", || {
        let full: Vec<TcpStream> = (0..12).filter_map(|_| TcpStream::connect(proxy.https()).ok()).collect();
        let refused = session(proxy.https(), &ca).err();
        drop(full);
        refused
    });
    eventually(seconds(5), "room again", || session(proxy.https(), &ca).ok());
}

#[test]
fn a_term_lets_what_is_in_flight_over_tls_finish() {
    let _turn = turn();
    let scene = scene();
    let mut proxy = scene.world.run(&scene.config);
    scene.stable.behave(Behaviour::Delay(Duration::from_millis(500)));
    let ca = scene.world.path("config/ca.pem").to_str().unwrap().to_owned();
    let https = url(proxy.https());
    let commands = ["--http1.1", "--http2"].map(|version| {
        let (https, ca) = (https.clone(), ca.clone());
        std::thread::spawn(move || curl(&https, &["--cacert", &ca, version]))
    });
    eventually(seconds(5), "both are at the origin", || (scene.stable.total() == 2).then_some(()));
    let idle = TcpStream::connect(proxy.https()).unwrap();
    drop(idle);
    proxy.signal("TERM");
    for ask in commands {
        assert!(ask.join().unwrap().expect("an answer").starts_with("stable\n200"));
    }
    assert_eq!(proxy.ends_within(seconds(15)).code(), Some(0));
}

/// Both arms behind TLS: nginx with `pair` of `new`, signed by `ca`.
fn upstreams(
    world: &World,
    ca: &Authority,
    new: &(std::path::PathBuf, std::path::PathBuf),
    lines: &str,
) -> (Nginx, Nginx, Config) {
    let good = ca.server(world, "stable", Validity::Now);
    let stable = Nginx::start_tls(world, "stable", &good.0, &good.1);
    let new = Nginx::start_tls(world, "new", &new.0, &new.1);
    let mut config = Config::new(stable.address, new.address).upstreams(lines);
    config.schemes = ["https", "https"];
    (stable, new, config)
}

#[test]
fn servers_are_reached_over_tls_and_verified_with_a_ca_of_ones_own() {
    let world = World::new();
    let ca = Authority::new("internal");
    ca.write(&world, "internal.pem");
    let pair = ca.server(&world, "new", Validity::Now);
    let (stable, _new, config) = upstreams(&world, &ca, &pair, "ca_file = \"internal.pem\"");
    let proxy = world.run(&config);
    let user = &users_in_new("user", 20, 1)[0];
    let mut client = proxy.client();
    let text = |client: &mut crate::world::Client, user: &str| client.get_as(user).unwrap().text();
    // An IP address is verified, and not sent as SNI (RFC 6066).
    assert_eq!(text(&mut client, user), format!("new {user} HTTP/1.1 grayling.test \n"));
    assert!(client.get("/", &[]).unwrap().text().starts_with("stable"));
    // A name is verified and sent.
    let config = config.release("same_version = true");
    let named = config.text().replace("https://127.0.0.1", "https://localhost");
    world.write_text(&named);
    eventually(seconds(10), "the name is sent", || {
        (text(&mut client, user) == format!("new {user} HTTP/1.1 grayling.test localhost\n")).then_some(())
    });
    // HTTP/2 by ALPN.
    world.write_text(&named.replace("ca_file", "http2 = true\nca_file"));
    eventually(seconds(10), "HTTP/2 is spoken", || {
        (text(&mut client, user) == format!("new {user} HTTP/2.0 grayling.test localhost\n")).then_some(())
    });
    // A WebSocket needs HTTP/1.1. This nginx does not upgrade; its answer names the protocol.
    let upgrade = [
        ("x-user-id", user.as_str()),
        ("connection", "upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let answer = client.get("/", &upgrade).unwrap();
    assert_eq!(answer.text(), format!("new {user} HTTP/1.1 grayling.test localhost\n"));
    let load = Load::start(proxy.http, 8, Duration::from_millis(1));
    // More than nginx accepts on one connection.
    eventually(seconds(60), "six thousand answers", || (load.total() > 6_000).then_some(()));
    let counts = load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["200"], "{counts:?}");
    drop(stable);
}

#[test]
fn a_server_that_cannot_be_verified_is_a_connection_error_and_nothing_was_sent() {
    let world = World::new();
    let (ca, stranger) = (Authority::new("internal"), Authority::new("stranger"));
    ca.write(&world, "internal.pem");
    let wrong_ca = stranger.server(&world, "new", Validity::Now);
    let (certificate, key) =
        ca.sign("new", vec![SanType::DnsName("elsewhere.example".try_into().unwrap())], Validity::Now);
    let wrong_name = (put(&world, "named.pem", &certificate), put(&world, "named.key", &key));
    let expired = ca.server(&world, "expired", Validity::Expired);
    for (pair, on_unreachable) in [(&wrong_ca, "stable"), (&wrong_name, "error"), (&expired, "stable")] {
        let (_stable, _new, config) = upstreams(&world, &ca, pair, "ca_file = \"internal.pem\"");
        let config =
            config.release(&format!("on_unreachable = \"{on_unreachable}\"")).watchdog("enabled = false");
        let _ = std::fs::remove_dir_all(world.path("state"));
        let proxy = world.run(&config);
        let user = &users_in_new("user", 20, 1)[0];
        let answer = proxy.client().post("/pay", &[("x-user-id", user)], b"42").unwrap();
        match on_unreachable {
            "stable" => assert!(answer.text().starts_with("stable"), "{}", answer.text()),
            _ => assert_eq!(answer.status, 502),
        }
        eventually(seconds(5), "counted against new", || {
            let failed = proxy
                .api()
                .metric("grayling_requests_total", &[("arm", "new"), ("outcome", "connect_error")]);
            (failed == Some(1.0)).then_some(())
        });
        proxy.event("server_refused");
        let told = proxy.events("server_refused");
        assert!(told.len() == 1 && told[0].to_string().contains("certificate"), "{told:?}");
    }
}

#[test]
fn a_handshake_that_hangs_ends_with_connect_timeout_and_a_broken_new_blows_the_fuse() {
    let world = World::new();
    let ca = Authority::new("internal");
    ca.write(&world, "internal.pem");
    let pair = ca.server(&world, "new", Validity::Now);
    let (_stable, _new, mut config) =
        upstreams(&world, &ca, &pair, "connect_timeout = \"200ms\"\nca_file = \"internal.pem\"");
    // It accepts connections, and never shakes hands.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config.new = vec![mute.local_addr().unwrap()];
    let proxy = world.run(&config);
    let user = &users_in_new("user", 20, 1)[0];
    let began = std::time::Instant::now();
    assert!(proxy.client().get_as(user).unwrap().text().starts_with("stable"));
    assert!(began.elapsed() < seconds(2), "{:?}", began.elapsed());
    let load = Load::start(proxy.http, 4, Duration::from_millis(2));
    let trip = eventually(seconds(20), "the fuse blows", || proxy.api().trip());
    assert!(trip.to_string().contains("fuse"), "{trip}");
    let counts = load.stop();
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["200"], "{counts:?}");
}

#[test]
fn requests_share_one_http2_connection_to_a_server_and_a_cut_body_fails_its_own_stream_only() {
    let world = World::new();
    let (stable, new) = (H2Origin::start("stable"), H2Origin::start("new"));
    let mut config = Config::new(stable.address, new.address)
        .upstreams("http2 = true\nresponse_timeout = \"1s\"\nconnection_idle = \"60s\"")
        .watchdog("enabled = false");
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    let user = &users_in_new("user", 20, 1)[0];
    let post = proxy.client().post("/pay?x=1", &[("x-user-id", user)], b"forty-two").unwrap();
    assert_eq!(post.text(), "new POST grayling.test /pay 9");
    assert_eq!(proxy.client().get("/", &[]).unwrap().text(), "stable GET grayling.test / 0");
    new.behave(H2Behaviour::Delay(Duration::from_millis(300)));
    let commands: Vec<_> = (0..50)
        .map(|_| {
            let (mut client, user) = (proxy.client(), user.clone());
            std::thread::spawn(move || client.get_as(&user).unwrap().status)
        })
        .collect();
    assert!(commands.into_iter().all(|ask| ask.join().unwrap() == 200));
    assert_eq!((new.connections(), new.requests()), (1, 51));
    // A cut body ends uncleanly for the client, and counts against the arm; other streams of the
    // connection continue.
    new.behave(H2Behaviour::Stall);
    let mut stalled = TcpStream::connect(proxy.http).unwrap();
    stalled.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\n\r\n").as_bytes()).unwrap();
    eventually(seconds(5), "it stalls", || (new.requests() == 52).then_some(()));
    new.behave(H2Behaviour::CutBody);
    assert!(proxy.client().get_as(user).is_err());
    eventually(seconds(5), "counted as truncated", || {
        let cut = proxy.api().metric("grayling_requests_total", &[("arm", "new"), ("outcome", "truncated")]);
        (cut == Some(1.0)).then_some(())
    });
    // A late response ends its own stream only, too.
    new.behave(H2Behaviour::Delay(seconds(5)));
    assert_eq!(proxy.client().get_as(user).unwrap().status, 504);
    new.behave(H2Behaviour::Answer);
    assert_eq!(proxy.client().get_as(user).unwrap().status, 200);
    stalled.set_nonblocking(true).unwrap();
    never(Duration::from_millis(100), "the stalled stream was ended", || {
        matches!(stalled.peek(&mut [0]), Ok(0))
    });
    assert_eq!(new.connections(), 1);
    // Clients that leave are no fault of the arm, and end their stream only.
    drop(stalled);
    eventually(seconds(5), "counted as cancelled", || {
        proxy
            .api()
            .metric("grayling_requests_total", &[("arm", "new"), ("outcome", "cancelled")])
            .filter(|n| *n == 1.0)
    });
    // A stopped server refuses connections; one new connection is made when it is back.
    drop(new);
    assert_eq!(proxy.client().get_as(user).unwrap().text(), "stable GET grayling.test / 0");
}

#[test]
fn clients_that_do_not_read_stall_nobody_else_on_the_http2_connection_they_share() {
    let world = World::new();
    let (stable, new) = (H2Origin::start("stable"), H2Origin::start("new"));
    let mut config = Config::new(stable.address, new.address).upstreams("http2 = true").weight("0%");
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    stable.behave(H2Behaviour::Endless);
    let stuck: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.http).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            stream
        })
        .collect();
    eventually(seconds(5), "all are at the origin", || (stable.requests() == 20).then_some(()));
    stable.behave(H2Behaviour::Answer);
    // The kernel's buffers fill first: meanwhile and afterwards, others are answered.
    let mut client = proxy.client();
    client.timeout = seconds(5);
    let began = std::time::Instant::now();
    while began.elapsed() < seconds(3) {
        assert_eq!(client.get("/", &[]).unwrap().status, 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(stable.connections(), 1);
    drop(stuck);
}
