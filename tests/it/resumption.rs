//! Resumption of TLS sessions, with OpenSSL as the client: never with client certificates, because
//! a resumed session is not verified again (the certificate may have expired since, or its CA may
//! no longer be trusted).

use crate::world::{Authority, Config, Origin, Proxy, Validity, World, eventually, put, seconds};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];

struct Scene {
    world: World,
    clients: Authority,
    proxy: Proxy,
    _origins: [Origin; 2],
}

fn scene(tls: &str) -> Scene {
    let world = World::new();
    let (servers, clients) = (Authority::new("servers"), Authority::new("clients"));
    servers.server(&world, "server", Validity::Now);
    clients.write(&world, "clients.pem");
    let origins = ["stable", "new"].map(Origin::start);
    let mut config = Config::new(origins[0].address, origins[1].address);
    config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
    config.rest = format!("\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n{tls}");
    let proxy = world.run(&config);
    Scene { world, clients, proxy, _origins: origins }
}

impl Scene {
    /// Certificate and key in one file.
    fn client(&self, name: &str, validity: Validity) -> PathBuf {
        let (certificate, key) = self.clients.sign("alice", vec![], validity);
        put(&self.world, name, &format!("{certificate}{key}"))
    }
}

/// One request on its own connection: OpenSSL's output, which includes the response.
fn s_client(address: SocketAddr, version: &str, client: Option<&Path>, more: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-ign_eof", version, "-connect", &address.to_string()]).args(more);
    if let Some(client) = client {
        command.arg("-cert").arg(client).arg("-key").arg(client);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed (curl needs its library; tests/run installs it)");
    // It may have been refused already.
    let _ = child.stdin.take().unwrap().write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn is_served(told: &str) -> bool {
    told.contains("HTTP/1.1 200")
}

/// The session of a first visit, which is served; `None` if there was none.
fn visit(scene: &Scene, version: &str, client: &Path) -> Option<PathBuf> {
    let session = scene.world.path(&format!("session{version}"));
    let told =
        s_client(scene.proxy.https(), version, Some(client), &["-sess_out", session.to_str().unwrap()]);
    assert!(is_served(&told), "{told}");
    let early = told.lines().filter_map(|l| l.trim().strip_prefix("Max Early Data: "));
    assert!(early.clone().all(|bytes| bytes == "0"), "early data can be replayed: {told}");
    session.exists().then_some(session)
}

/// Tries to resume the session, if there is one.
fn comes_back(scene: &Scene, version: &str, session: Option<&Path>, client: Option<&Path>) -> bool {
    let Some(session) = session else { return false };
    let told = s_client(scene.proxy.https(), version, client, &["-sess_in", session.to_str().unwrap()]);
    assert!(!told.contains("Reused, "), "{version}: a session was resumed: {told}");
    is_served(&told)
}

#[test]
fn row_55_an_expired_certificate_does_not_come_back_by_its_session() {
    let scene = scene("client_ca = \"clients.pem\"\n");
    let https = scene.proxy.https();
    let client = scene.client("short.pem", Validity::For(Duration::from_secs(8)));
    let sessions = VERSIONS.map(|version| (version, visit(&scene, version, &client)));
    eventually(seconds(20), "the certificate has expired", || {
        (!is_served(&s_client(https, VERSIONS[1], Some(&client), &[]))).then_some(())
    });
    for (version, session) in &sessions {
        for shown in [Some(client.as_path()), None] {
            assert!(!comes_back(&scene, version, session.as_deref(), shown), "{version}: it has expired");
        }
    }
}

#[test]
fn row_55_a_client_ca_that_is_trusted_no_longer_lets_no_session_back_in() {
    let scene = scene("client_ca = \"clients.pem\"\n");
    let https = scene.proxy.https();
    let client = scene.client("client.pem", Validity::Now);
    let sessions = VERSIONS.map(|version| (version, visit(&scene, version, &client)));
    // While the CA is trusted the client is accepted, by a full handshake each time.
    for (version, session) in &sessions {
        assert!(is_served(&s_client(https, version, Some(&client), &[])));
        comes_back(&scene, version, session.as_deref(), Some(&client));
    }
    Authority::new("others").write(&scene.world, "clients.pem");
    eventually(seconds(10), "the old CA is out", || {
        (!is_served(&s_client(https, VERSIONS[1], Some(&client), &[]))).then_some(())
    });
    for (version, session) in &sessions {
        for shown in [Some(client.as_path()), None] {
            assert!(!comes_back(&scene, version, session.as_deref(), shown), "{version}: another CA");
        }
    }
}

/// Proves that the tests above are valid: without client certificates, this client does resume.
#[test]
fn without_client_certificates_sessions_are_resumed() {
    let scene = scene("");
    let session = scene.world.path("session");
    let session = session.to_str().unwrap();
    for version in VERSIONS {
        let https = scene.proxy.https();
        assert!(is_served(&s_client(https, version, None, &["-sess_out", session])));
        let told = s_client(https, version, None, &["-sess_in", session]);
        assert!(is_served(&told) && told.contains("Reused, "), "{version}: {told}");
    }
}
