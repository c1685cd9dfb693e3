//! The cost of 50 open pages for the data plane: CPU of the worker threads per request, without
//! event streams and with 50, alternating.
//!
//! `cargo bench --bench streams` (needs `wrk`, as the tests do). The two are measured in pairs, one
//! after the other, and compared by the median of the pairs' ratios, which removes other load of
//! the machine. CPU time is the scheduler's own (`/proc/PID/task/TID/schedstat`).

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const STREAMS: usize = 50;
const PAIRS: usize = 50;
const SLICE: Duration = Duration::from_millis(500);
/// Pause between opening or closing the streams and measuring.
const SETTLE: Duration = Duration::from_millis(100);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Nanoseconds of CPU, by kind of thread, and requests.
#[derive(Clone, Copy, Default)]
struct Spent {
    workers: u64,
    control: u64,
    requests: u64,
}

fn main() -> Result<(), String> {
    let folder = std::env::temp_dir().join(format!("grayling-streams-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let told = measure(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    told
}

fn measure(folder: &Path) -> Result<(), String> {
    let (stable, new) = (origin()?, origin()?);
    let config = format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\n[upstream.v1]\nservers = [\"http://{stable}\"]\n\n\
         [upstream.v2]\nservers = [\"http://{new}\"]\n\n[release.billing]\nstable = \"v1\"\nnew = \"v2\"\nweight = \"20%\"\n\n\
         [[route]]\npath = \"/\"\nrelease = \"billing\"\n\n[state]\ndirectory = \"state\"\nwhen_empty = \"start\"\n"
    );
    std::fs::write(folder.join("grayling.toml"), config).map_err(|e| e.to_string())?;
    let (mut proxy, http, admin) = proxy(folder)?;
    let result = compare(proxy.id(), http, admin);
    let _ = proxy.kill();
    let _ = proxy.wait();
    result
}

fn compare(pid: u32, http: SocketAddr, admin: SocketAddr) -> Result<(), String> {
    let mut load = load(http)?;
    std::thread::sleep(Duration::from_secs(2));
    let result = (0..PAIRS).map(|pair| slices(pair, pid, admin)).collect::<Result<Vec<_>, _>>();
    let _ = load.kill();
    let _ = load.wait();
    let pairs = result?;
    let per_request = |s: &Spent| s.workers as f64 / 1e3 / s.requests.max(1) as f64;
    let a_second = |n: u64| n as f64 / SLICE.as_secs_f64();
    let column = |of: &dyn Fn(&[Spent; 2]) -> f64| median(pairs.iter().map(of).collect());
    let line = |what: &str, of: &dyn Fn(&Spent) -> f64| {
        let (without, with) = (column(&|p| of(&p[0])), column(&|p| of(&p[1])));
        println!("{what:<36} no stream {without:>9.2}   {STREAMS} streams {with:>9.2}");
    };
    println!("{PAIRS} pairs of {SLICE:?} each, one worker, wrk with 32 connections");
    line("CPU of the data plane, us/request:", &per_request);
    line("CPU of the control thread, ms/s:", &|s| a_second(s.control) / 1e6);
    line("requests/s:", &|s| a_second(s.requests));
    let mut ratios: Vec<f64> = pairs.iter().map(|p| per_request(&p[1]) / per_request(&p[0])).collect();
    ratios.sort_by(f64::total_cmp);
    // Ranks that contain the median in 95 of 100 such series (binomial, normal approximation).
    let half = 0.98 * (PAIRS as f64).sqrt();
    let rank = |r: f64| ratios[(r.round().max(0.0) as usize).min(PAIRS - 1)];
    let (low, high) = (rank(PAIRS as f64 / 2.0 - half - 1.0), rank(PAIRS as f64 / 2.0 + half));
    println!(
        "CPU of the data plane, with over without: median {:.3}, between {low:.3} and {high:.3}",
        median(ratios.clone())
    );
    Ok(())
}

/// One slice without streams and one with all of them. The order alternates from pair to pair.
fn slices(pair: usize, pid: u32, admin: SocketAddr) -> Result<[Spent; 2], String> {
    let mut taken = [Spent::default(); 2];
    for which in [pair % 2, 1 - pair % 2] {
        let open: Vec<Reader> =
            (0..which * STREAMS).map(|_| Reader::start(admin)).collect::<Result<_, _>>()?;
        std::thread::sleep(SETTLE);
        let before = spent(pid, admin)?;
        std::thread::sleep(SLICE);
        let after = spent(pid, admin)?;
        taken[which] = Spent {
            workers: after.workers - before.workers,
            control: after.control - before.control,
            requests: after.requests - before.requests,
        };
        let events: u64 = open.into_iter().map(Reader::stop).sum();
        if events < (which * STREAMS) as u64 {
            return Err(format!("the streams gave {events} events only: nothing was measured"));
        }
    }
    Ok(taken)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[half - 1] + values[half]) / 2.0 } else { values[half] }
}

/// A reader of events on a thread of its own.
struct Reader {
    stream: TcpStream,
    thread: std::thread::JoinHandle<u64>,
}

impl Reader {
    fn start(admin: SocketAddr) -> Result<Reader, String> {
        let mut stream = TcpStream::connect(admin).map_err(|e| e.to_string())?;
        let head = format!("GET /api/v1/events HTTP/1.1\r\nhost: {admin}\r\n\r\n");
        stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
        let mut reading = stream.try_clone().map_err(|e| e.to_string())?;
        let thread = std::thread::spawn(move || {
            let (mut piece, mut events) = ([0; 16384], 0);
            while let Ok(n @ 1..) = reading.read(&mut piece) {
                events += piece[..n].windows(14).filter(|w| w == b"event: status\n").count() as u64;
            }
            events
        });
        Ok(Reader { stream, thread })
    }

    /// Stops, and returns the number of events read.
    fn stop(self) -> u64 {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.thread.join().unwrap_or(0)
    }
}

/// A minimal origin: a thread for each connection, the same answer to every request.
fn origin() -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut piece = [0; 4096];
                // A GET of the proxy comes in one piece.
                while let Ok(1..) = stream.read(&mut piece) {
                    if stream.write_all(ANSWER).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(address)
}

fn proxy(folder: &Path) -> Result<(Child, SocketAddr, SocketAddr), String> {
    let log = folder.join("log");
    let out = std::fs::File::create(&log).map_err(|e| e.to_string())?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_grayling"));
    let command = command.args(["run", "-c"]).arg(folder.join("grayling.toml")).stdout(out);
    let child = command.spawn().map_err(|e| e.to_string())?;
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let listens = |name: &str| {
            let line = text.lines().find(|l| l.contains(&format!("\"name\":\"{name}\"")))?;
            line.split("\"address\":\"").nth(1)?.split('"').next()?.parse().ok()
        };
        if let (Some(http), Some(admin)) = (listens("http"), listens("admin")) {
            return Ok((child, http, admin));
        }
        if Instant::now() > until {
            return Err(format!("the proxy does not listen: {text}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts more load than needed. The caller ends it.
fn load(http: SocketAddr) -> Result<Child, String> {
    let mut wrk = Command::new("wrk");
    let wrk = wrk.args(["-t1", "-c32", "-d300s", &format!("http://{http}/")]).stdout(Stdio::null());
    wrk.spawn().map_err(|e| format!("wrk: {e}"))
}

fn spent(pid: u32, admin: SocketAddr) -> Result<Spent, String> {
    let mut spent = Spent { requests: requests(admin)?, ..Spent::default() };
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| e.to_string())?;
    for task in tasks.flatten() {
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let ns: u64 = read("schedstat").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        match read("comm").trim() {
            name if name.starts_with("worker-") => spent.workers += ns,
            "control" => spent.control += ns,
            _ => {}
        }
    }
    Ok(spent)
}

fn requests(admin: SocketAddr) -> Result<u64, String> {
    let mut stream = TcpStream::connect(admin).map_err(|e| e.to_string())?;
    let head = format!("GET /metrics HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(|e| e.to_string())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(|e| e.to_string())?;
    let ours = text.lines().filter(|l| l.starts_with("grayling_requests_total{"));
    Ok(ours.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
}
