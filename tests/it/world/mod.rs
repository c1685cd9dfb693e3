//! The environment of a test of the real binary: a private folder, origins, a config, the proxy,
//! clients, load.
//!
//! No async here: threads and blocking sockets, so that a test reads from top to bottom.
//! Every port is 0, every wait is a condition with a deadline ([`eventually`]), and everything
//! started ends when its value is dropped.

mod admin;
mod browser;
mod certificates;
mod client;
mod config;
mod fleet;
mod h2;
mod load;
mod nginx;
mod origin;
mod proxy;

pub use admin::{Admin, Series};
pub use browser::Browser;
pub use certificates::{Authority, Validity, put};
pub use client::{Client, Response, raw, read_response};
pub use config::{Config, RELEASE};
pub use fleet::{Call, Demand, Fleet, Reply, Traffic, latency};
pub use h2::{H2Behaviour, H2Origin};
pub use load::{Load, wrk};
pub use nginx::Nginx;
pub use origin::{Behaviour, HEALTHZ, Origin, Received, Service};
pub use proxy::{Proxy, grayling};

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// A folder that is deleted with the test, unless the test fails: then it stays, and its path is
/// printed.
pub struct World {
    folder: PathBuf,
}

impl World {
    pub fn new() -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("grayling-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        World { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The path of [`World::write`]: a separate folder, since it is watched.
    pub fn config_file(&self) -> PathBuf {
        self.path("config/grayling.toml")
    }

    /// Saves the config as an editor does: written beside, renamed over.
    pub fn write(&self, config: &Config) -> PathBuf {
        self.write_text(&config.text())
    }

    pub fn write_text(&self, text: &str) -> PathBuf {
        let file = self.config_file();
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let beside = self.path("grayling.toml.saving");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &file).unwrap();
        file
    }

    /// Writes the config and runs the proxy with it.
    pub fn run(&self, config: &Config) -> Proxy {
        Proxy::start(&self.write(config))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.folder.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

static TURN: RwLock<()> = RwLock::new(());

/// Tests that measure time, or load the machine, run one at a time: two cores are too few for two.
pub fn turn() -> RwLockWriteGuard<'static, ()> {
    TURN.write().unwrap_or_else(PoisonError::into_inner)
}

/// Tests that wait for most of their time run beside each other, but not beside those of [`turn`].
pub fn shared_turn() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the condition yields a value; panics with its name if that does not happen within
/// the deadline.
/// A deadline grows on an overloaded machine, because other processes take the time of the test.
pub fn eventually<T>(within: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        let waited = start.elapsed();
        assert!(waited < within || waited < within.mul_f64(overload()), "not within {waited:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runnable threads per core in the last minute, 1 to 6.
pub fn overload() -> f64 {
    let load = std::fs::read_to_string("/proc/loadavg").ok();
    let load = load.and_then(|text| text.split(' ').next()?.parse::<f64>().ok()).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    (load / cores).clamp(1.0, 6.0)
}

/// Checks that something does not happen for a time: the one place where a test waits for a fixed
/// time.
pub fn never(during: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while start.elapsed() < during {
        assert!(!condition(), "after {:?}: {what}", start.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A measured figure, shown also when the test passes; `tests/run` repeats them at its end.
pub fn figure(text: &str) {
    aloud(&format!("figure: {text}"));
}

/// Reports a test that this machine or user cannot run; never silently.
pub fn not_tested(what: &str) {
    aloud(&format!("NOT TESTED: {what}"));
}

/// Whether the long tests run: `tests/run --long` sets the variable.
/// A long test begins with `if !long() { return; }`.
///
/// Prints the name of the skipped test: `tests/run` counts these lines.
pub fn long() -> bool {
    let long = is_long_run();
    if !long {
        let thread = std::thread::current();
        aloud(&format!("LONG: {} left out", thread.name().unwrap_or("unnamed")));
    }
    long
}

/// A count of a test: `full` in the long run, `short` otherwise.
/// The property must stay meaningful at the lower one.
pub fn times(short: u64, full: u64) -> u64 {
    if is_long_run() { full } else { short }
}

fn is_long_run() -> bool {
    std::env::var_os("GRAYLING_TESTS_LONG").is_some()
}

/// Bypasses the capture of the test runner, which catches `println!` only.
fn aloud(line: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A deterministic random source (SplitMix64); a test prints its seed, so it can be repeated.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn chance(&mut self, ratio: f64) -> bool {
        ((self.next() >> 11) as f64) < ratio * (1u64 << 53) as f64
    }
}

/// A second implementation of the published, frozen hash: a test with grayling's own code would
/// prove nothing.
pub fn bucket(salt: &str, user: &[u8]) -> u32 {
    let seed = xxhash_rust::xxh3::xxh3_64(salt.as_bytes());
    let h = xxhash_rust::xxh3::xxh3_64_with_seed(user, seed);
    ((u128::from(h) * 1_000_000) >> 64) as u32
}

/// Users `PREFIX-0`, `PREFIX-1`, … that this weight has in `new`.
pub fn users_in_new(prefix: &str, percent: u32, count: usize) -> Vec<String> {
    let all = (0..).map(|n| format!("{prefix}-{n}"));
    all.filter(|user| bucket(RELEASE, user.as_bytes()) < percent * 10_000).take(count).collect()
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

mod self_test;
