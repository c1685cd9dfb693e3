//! The real binary as a child process: start, log, signals, kill.

use super::{Admin, Client, eventually, seconds};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// cargo's build, or another one: `GRAYLING_BINARY=target/dist/grayling tests/run`.
fn binary() -> PathBuf {
    std::env::var_os("GRAYLING_BINARY").map_or_else(|| env!("CARGO_BIN_EXE_grayling").into(), PathBuf::from)
}

/// The most log lines kept.
const LOG_LINES_MAX: usize = 20_000;

pub struct Proxy {
    child: Child,
    pub http: SocketAddr,
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
    stderr: Arc<Mutex<String>>,
    unread: Arc<AtomicBool>,
}

impl Proxy {
    /// Runs `grayling run -c FILE` and waits until it logs its listeners; panics with its stderr on
    /// a failure.
    pub fn start(config: &Path) -> Proxy {
        match Proxy::try_start(config) {
            Ok(proxy) => proxy,
            Err(why) => panic!("grayling did not start: {why}"),
        }
    }

    pub fn try_start(config: &Path) -> Result<Proxy, String> {
        Proxy::try_start_by(Command::new(binary()), config)
    }

    /// With at most `max` open files.
    pub fn start_with_descriptors(config: &Path, max: u32) -> Proxy {
        Proxy::start_after(&format!("ulimit -n {max}"), config)
    }

    /// With this file mode creation mask, in octal.
    pub fn start_under_umask(config: &Path, umask: &str) -> Proxy {
        Proxy::start_after(&format!("umask {umask}"), config)
    }

    /// After a command of the shell that starts it.
    fn start_after(command: &str, config: &Path) -> Proxy {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{command}; exec \"$0\" \"$@\"")]).arg(binary());
        Proxy::try_start_by(shell, config).unwrap_or_else(|why| panic!("grayling did not start: {why}"))
    }

    /// In a mount namespace of its own, where this file is `/etc/hosts`.
    /// `None`: the machine does not allow that.
    pub fn start_with_hosts(config: &Path, hosts: &Path) -> Option<Proxy> {
        let in_namespace = |command: &str| {
            let mut unshare = Command::new("unshare");
            unshare.args(["--mount", "sh", "-c", command]).arg(hosts);
            unshare
        };
        let mount = "mount --bind \"$0\" /etc/hosts";
        if !in_namespace(mount).output().is_ok_and(|tried| tried.status.success()) {
            return None;
        }
        let mut command = in_namespace(&format!("{mount} && exec \"$@\""));
        command.arg(binary());
        let started = Proxy::try_start_by(command, config);
        Some(started.unwrap_or_else(|why| panic!("grayling did not start: {why}")))
    }

    /// With these authorities as the only trusted ones of the machine.
    pub fn start_trusting(config: &Path, authorities: &Path) -> Proxy {
        let mut command = Command::new(binary());
        command.env("SSL_CERT_FILE", authorities).env_remove("SSL_CERT_DIR");
        Proxy::try_start_by(command, config).unwrap_or_else(|why| panic!("grayling did not start: {why}"))
    }

    fn try_start_by(mut command: Command, config: &Path) -> Result<Proxy, String> {
        let mut child = command
            .args(["run", "-c"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary that cargo has built starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = Arc::new(Mutex::new(String::new()));
        let unread = Arc::new(AtomicBool::new(false));
        collect_lines(child.stdout.take().expect("piped"), Arc::clone(&log), Arc::clone(&unread));
        collect_text(child.stderr.take().expect("piped"), Arc::clone(&stderr));

        let start = std::time::Instant::now();
        loop {
            let (http, admin) = (listening(&log, "http"), listening(&log, "admin"));
            if let (Some(http), Some(admin)) = (http, admin) {
                return Ok(Proxy { child, http, admin, log, stderr, unread });
            }
            let ended = child.try_wait().expect("our own child").map(|s| s.to_string());
            if ended.is_some() || start.elapsed() > seconds(20) {
                let _ = child.kill();
                let _ = child.wait();
                std::thread::sleep(Duration::from_millis(20)); // for the end of stderr
                let said = stderr.lock().unwrap().clone();
                let log = log.lock().unwrap().join("\n");
                return Err(format!(
                    "{}\n{said}{log}",
                    ended.as_deref().unwrap_or("not listening after 20 s")
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The address of its TLS listener; panics if there is none.
    pub fn https(&self) -> SocketAddr {
        listening(&self.log, "https").expect("it listens for https")
    }

    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    pub fn api(&self) -> Admin {
        Admin::new(self.admin)
    }

    /// Stops reading its log, like a hanging log shipper.
    pub fn leave_log_unread(&self) {
        self.unread.store(true, Ordering::Relaxed);
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `TERM`, `HUP`, … through the shell's own `kill`, which avoids another crate.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid())]).status();
        assert!(status.expect("sh").success(), "kill -{name}");
    }

    /// SIGKILL and wait: when this returns the process is gone and its ports are free.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn ends_within(&mut self, within: Duration) -> ExitStatus {
        eventually(within, "grayling ends", || self.child.try_wait().expect("our own child"))
    }

    /// The lines of stdout so far, as JSON; panics on any other line.
    pub fn log(&self) -> Vec<Value> {
        let lines = self.log.lock().unwrap();
        lines.iter().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// Raw stdout and stderr.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.log.lock().unwrap().join("\n"), self.stderr.lock().unwrap())
    }

    pub fn events(&self, name: &str) -> Vec<Value> {
        self.log().into_iter().filter(|l| l["event"] == name).collect()
    }

    /// The first event of that name; waits for it, since a line may be written after its effect is
    /// visible elsewhere.
    pub fn event(&self, name: &str) -> Value {
        eventually(seconds(10), &format!("the log has `{name}`"), || self.events(name).first().cloned())
    }

    /// Waits until the log or stderr has `text`.
    pub fn tells(&self, text: &str) {
        eventually(seconds(10), &format!("the log tells of `{text}`"), || {
            self.said().contains(text).then_some(())
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said();
            let tail: Vec<&str> = said.lines().rev().take(30).collect();
            eprintln!("--- the last of what grayling said");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
        self.kill();
    }
}

/// Runs a command of grayling to its end.
pub fn grayling(args: &[&str]) -> Output {
    Command::new(binary())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the binary that cargo has built starts")
}

fn listening(log: &Mutex<Vec<String>>, name: &str) -> Option<SocketAddr> {
    log.lock().unwrap().iter().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        let ours = line["event"] == "listening" && line["name"] == name;
        ours.then(|| line["address"].as_str()?.parse().ok())?
    })
}

fn collect_lines(from: impl Read + Send + 'static, into: Arc<Mutex<Vec<String>>>, unread: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            while unread.load(Ordering::Relaxed) && Arc::strong_count(&unread) > 1 {
                std::thread::sleep(Duration::from_millis(50));
            }
            let mut lines = into.lock().unwrap();
            if lines.len() < LOG_LINES_MAX {
                lines.push(line);
            }
        }
    });
}

fn collect_text(mut from: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = from.read(&mut piece) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
}
