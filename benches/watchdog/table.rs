//! Runs on a few threads, progress on stderr, and rows of Markdown on stdout.
//!
//! Invariants: the result of a run depends on its seed alone, and results are in the order of
//! seeds.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

pub struct Bench {
    pub full: bool,
    /// The requested rows. Empty: all rows.
    pub only: Vec<String>,
    /// The only run, with a replay; for worlds.
    pub seed: Option<u64>,
    /// Number of runs of each row; for worlds.
    pub count: Option<u64>,
    pub threads: usize,
    pub started: Instant,
}

impl Bench {
    pub fn wants(&self, id: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|o| o == id)
    }

    pub fn pick<T>(&self, full: T, reduced: T) -> T {
        if self.full { full } else { reduced }
    }

    pub fn runs<T: Send>(&self, what: &str, n: u64, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
        let (next, began) = (AtomicU64::new(0), Instant::now());
        let mut all: Vec<(u64, T)> = std::thread::scope(|scope| {
            let work = || {
                let mut mine = Vec::new();
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= n {
                        return mine;
                    }
                    mine.push((seed, run(seed)));
                }
            };
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().flat_map(|t| t.join().unwrap_or_default()).collect()
        });
        assert_eq!(all.len() as u64, n, "a run panicked: {what}");
        all.sort_by_key(|(seed, _)| *seed);
        eprintln!(
            "{:6.0} s  {what}: {n} runs in {:.0?}",
            self.started.elapsed().as_secs_f64(),
            began.elapsed()
        );
        all.into_iter().map(|(_, t)| t).collect()
    }
}

pub fn row(id: &str, scenario: &str, limit: &str, runs: usize, reached: &str, met: Option<bool>) {
    let met = match met {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "",
    };
    println!("| {id} | {scenario} | {limit} | {runs} | {reached} | {met} |");
}

/// The quantile by nearest rank, where `None` counts as the largest.
pub fn quantile(delays: &[Option<u64>], q: f64) -> Option<u64> {
    let mut sorted: Vec<u64> = delays.iter().map(|d| d.unwrap_or(u64::MAX)).collect();
    sorted.sort_unstable();
    let rank = ((sorted.len() as f64 * q).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().filter(|d| *d < u64::MAX)
}

pub fn thousands(n: Option<u64>) -> String {
    let Some(n) = n else { return "not seen".to_owned() };
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
