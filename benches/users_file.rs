//! The cost of a users file of ten million ids: load, memory, look-up, and a reload beside it.
//!
//! `cargo bench --bench users_file [-- IDS]`. Targets: load ≤ 3 s, ≤ 16 bytes an id, look-up ≤ 100
//! ns.

use grayling::config;
use std::error::Error;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

const CONFIG: &str = r#"
[upstream.v1]
servers = ["http://127.0.0.1:9001"]
[upstream.v2]
servers = ["http://127.0.0.1:9002"]
[segment.big]
users_file = "users.txt"
[release.r]
stable = "v1"
new = "v2"
segments = ["big"]
[[route]]
path = "/"
release = "r"
"#;

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`.
    let ids: usize = std::env::args().skip(1).find_map(|a| a.parse().ok()).unwrap_or(10_000_000);
    let folder = std::env::temp_dir().join(format!("grayling-users-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut text = String::with_capacity(ids * 16);
    for i in 0..ids {
        writeln!(text, "account-{i}")?;
    }
    std::fs::write(folder.join("users.txt"), text)?;
    std::fs::write(folder.join("grayling.toml"), CONFIG)?;
    let load = || config::load(&folder.join("grayling.toml")).result.map_err(|report| report.to_string());

    let begun = Instant::now();
    let first = load()?;
    let loaded = begun.elapsed();
    let begun = Instant::now();
    black_box(load()?);
    let reloaded = begun.elapsed();

    let users = &first.config.segments[0].users;
    let asked: Vec<String> = (0..1_000_000).map(|i| format!("account-{}", i * 37 % (2 * ids))).collect();
    let begun = Instant::now();
    let found = asked.iter().filter(|id| users.contains(black_box(id.as_bytes()))).count();
    let each = begun.elapsed().as_nanos() as f64 / asked.len() as f64;
    std::fs::remove_dir_all(&folder)?;

    println!("| ids | load | reload, file unchanged | bytes an id | look-up |\n|---:|---:|---:|---:|---:|");
    let bytes = size_of::<u64>();
    println!("| {} | {loaded:.2?} | {reloaded:.2?} | {bytes} | {each:.0} ns ({found} found) |", users.len());
    Ok(())
}
