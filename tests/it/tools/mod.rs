//! Third-party clients and servers against the data plane: curl, nghttp2, python3-h2, grpcio,
//! nginx, HAProxy, slowhttptest, sslscan, testssl.sh.
//!
//! One file per kind of tool.
//! A tool's output is parsed as far as the test needs it, and shown in full on a failure.

mod chains;
mod clients;
mod grpc;
mod http2;
mod scanners;
mod slow;

use crate::world::{Client, World, eventually, seconds};
use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Debian's Python, which has python3-h2; another may be first in the path.
const PYTHON: &str = "/usr/bin/python3";

/// A tool's output on both streams, and whether it succeeded.
#[derive(Debug)]
struct Said {
    ok: bool,
    text: String,
}

/// Runs a tool to its end, for at most five minutes.
fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Said {
    let mut command = Command::new("timeout");
    let output = command.arg("300").arg(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|e| panic!("{program}: {e}; tests/run installs it"));
    assert_ne!(output.status.code(), Some(127), "{program} is missing; tests/run installs it");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Said { ok: output.status.success(), text }
}

/// The number before a word of the output, as in `10000 succeeded`.
fn number_before(text: &str, word: &str) -> Option<u64> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| *w == word)?;
    words.get(at.checked_sub(1)?)?.parse().ok()
}

/// A script of tests/data.
fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port")
}

/// nginx or HAProxy with a master process, so that it can reload.
struct Server {
    child: Child,
    /// The signal for a reload.
    signal: &'static str,
}

impl Server {
    /// `http`: the contents of that block. Waits until `address` accepts connections.
    fn nginx(world: &World, name: &str, address: SocketAddr, http: &str) -> Server {
        let folder = world.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let (at, file) = (folder.display(), folder.join("nginx.conf"));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/{kind};\n"))
            .concat();
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {at}/pid; error_log {at}/error.log;\n\
             events {{ worker_connections 4096; }}\nhttp {{ access_log off; default_type text/plain;\n{temporary}{http}\n}}\n"
        );
        // As another user the master could not read the test's folder; without root the line only
        // causes a warning.
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/nginx");
        command.arg("-c").arg(&file).arg("-p").arg(&folder).arg("-e").arg(folder.join("error.log"));
        Server::start(command, address, "HUP")
    }

    fn haproxy(world: &World, name: &str, address: SocketAddr, sections: &str) -> Server {
        let file = world.path(&format!("{name}.cfg"));
        let config = format!(
            "global\n  nbthread 1\n  maxconn 4000\n  hard-stop-after 20s\n\
             defaults\n  mode http\n  timeout connect 2s\n  timeout client 30s\n  timeout server 30s\n  retries 0\n{sections}\n"
        );
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-W").arg("-db").arg("-f").arg(&file);
        Server::start(command, address, "USR2")
    }

    fn start(mut command: Command, address: SocketAddr, signal: &'static str) -> Server {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut server = Server { child: child.expect("tests/run installs it"), signal };
        eventually(seconds(10), "the server listens", || {
            let ended = server.child.try_wait().expect("our own child");
            assert!(ended.is_none(), "{command:?} has ended: {ended:?}");
            std::net::TcpStream::connect(address).ok()
        });
        server
    }

    fn reload(&self) {
        tell(&self.child, self.signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The master ends its workers; KILL would leave them running.
        tell(&self.child, "TERM");
        let _ = self.child.wait();
    }
}

fn tell(child: &Child, signal: &str) {
    let _ = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
}

/// Is another user served meanwhile?
fn serves(address: SocketAddr) -> bool {
    Client::new(address).get_as("somebody-else").is_ok_and(|answer| answer.status == 200)
}
