//! Load: `wrk` for many requests, a few paced threads where each answer is checked.

use super::{Client, Response, World};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The counts of `wrk`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Wrk {
    pub requests: u64,
    pub non_2xx: u64,
    /// Connections refused or broken, time-outs.
    pub socket_errors: u64,
}

/// A running `wrk`; [`WrkRun::finish`] waits for its end.
pub struct WrkRun(Option<Child>);

/// Starts `wrk` with 2,000 users round robin.
pub fn wrk(world: &World, address: SocketAddr, connections: u32, time: Duration) -> WrkRun {
    let script = world.path("wrk.lua");
    std::fs::write(
        &script,
        r#"local requests, n, bad = {}, 0, 0
function init(args)
  for i = 1, 2000 do requests[i] = wrk.format("GET", "/", {["x-user-id"] = "user-" .. i}) end
end
function request() n = n % 2000 + 1; return requests[n] end
function done(s)
  local e = s.errors
  print(string.format("counted %d %d %d", s.requests, e.status, e.connect + e.read + e.write + e.timeout))
end
"#,
    )
    .unwrap();
    let child = Command::new("wrk")
        .args([
            "-t1",
            &format!("-c{connections}"),
            &format!("-d{}s", time.as_secs()),
            "--timeout",
            "10s",
            "-s",
        ])
        .arg(&script)
        .arg(format!("http://{address}/"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("wrk is installed (tests/run installs it)");
    WrkRun(Some(child))
}

impl WrkRun {
    /// Ends it early; the counts so far are kept.
    pub fn stop(self) -> Wrk {
        let pid = self.0.as_ref().expect("not finished yet").id();
        let _ = Command::new("sh").args(["-c", &format!("kill -INT {pid}")]).status();
        self.finish()
    }

    pub fn finish(mut self) -> Wrk {
        let child = self.0.take().expect("finished once");
        let output = child.wait_with_output().expect("our own child");
        let text = String::from_utf8_lossy(&output.stdout);
        let counted = text.lines().find_map(|l| l.strip_prefix("counted "));
        let numbers: Option<Vec<u64>> =
            counted.map(|l| l.split(' ').filter_map(|n| n.parse().ok()).collect());
        let Some(&[requests, non_2xx, socket_errors]) = numbers.as_deref() else {
            panic!("wrk said: {text}{}", String::from_utf8_lossy(&output.stderr))
        };
        Wrk { requests, non_2xx, socket_errors }
    }
}

impl Drop for WrkRun {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Users that send requests repeatedly, each thread on its own connection, with a pause between two
/// calls.
pub struct Load {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(address: SocketAddr, threads: u32, pause: Duration) -> Load {
        Load::start_with(address, threads, pause, |client, user| client.get_as(user))
    }

    /// With a custom call; it gets a client and a user id.
    pub fn start_with(
        address: SocketAddr,
        threads: u32,
        pause: Duration,
        call: impl Fn(&mut Client, &str) -> std::io::Result<Response> + Send + Sync + 'static,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new(Mutex::new(BTreeMap::new()));
        let call = Arc::new(call);
        let threads = (0..threads).map(|t| {
            let (stop, counts, call) = (Arc::clone(&stop), Arc::clone(&counts), Arc::clone(&call));
            std::thread::spawn(move || {
                let mut client = Client::new(address);
                for n in (0u64..).take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let result = match call(&mut client, &format!("user-{t}-{}", n % 500)) {
                        Ok(response) => response.status.to_string(),
                        Err(error) => error.kind().to_string(),
                    };
                    *counts.lock().unwrap().entry(result).or_insert(0) += 1;
                    std::thread::sleep(pause);
                }
            })
        });
        Load { threads: threads.collect(), stop, counts }
    }

    /// Answers so far by status, or by the kind of the error.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }

    pub fn total(&self) -> u64 {
        self.counts().values().sum()
    }

    pub fn stop(mut self) -> BTreeMap<String, u64> {
        self.end();
        self.counts()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
