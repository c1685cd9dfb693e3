//! Many servers in one thread, and an open-loop load in another.
//!
//! A [`Fleet`] answers each request by a function of the test.
//! A [`Traffic`] sends requests at a rate, even if earlier ones are not answered.
//! Both are small async loops, each on its own thread, so that two cores suffice for eleven servers
//! and a thousand requests a second.

use super::Random;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A request at a server of a fleet.
pub struct Call<'c> {
    pub server: usize,
    /// Number of the request over all servers, from 0 on.
    pub number: u64,
    pub user: &'c str,
    pub path: &'c str,
    /// Since the fleet began.
    pub at: Duration,
    /// Each uniform in 0 to 1.
    pub draws: [f64; 3],
}

#[derive(Clone, Debug)]
pub enum Reply {
    /// The head after `after`, and the body of `bytes` bytes after `body_after` more.
    Answer {
        status: u16,
        after: Duration,
        bytes: usize,
        body_after: Duration,
    },
    Redirect(Duration),
    Hang,
    CutBody,
    Reset,
}

impl Reply {
    pub fn ok(after: Duration) -> Reply {
        Reply::status(200, after)
    }

    pub fn status(status: u16, after: Duration) -> Reply {
        Reply::Answer { status, after, bytes: 40, body_after: Duration::ZERO }
    }
}

/// Log-normal, from two uniform numbers.
pub fn latency(call: &Call<'_>, median_ms: f64, spread: f64) -> Duration {
    let radius = (-2.0 * (1.0 - call.draws[0]).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * call.draws[1]).cos();
    Duration::from_secs_f64(median_ms * (spread * normal).exp() / 1e3)
}

type Rule = dyn Fn(&Call<'_>) -> Reply + Send + Sync;

struct Shared {
    rule: Mutex<Arc<Rule>>,
    began: Instant,
    random: Mutex<Random>,
    count: AtomicU64,
    /// By server: it accepts connections.
    open: watch::Sender<Vec<bool>>,
}

pub struct Fleet {
    pub addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    pub fn start(servers: usize, rule: impl Fn(&Call<'_>) -> Reply + Send + Sync + 'static) -> Fleet {
        let listeners: Vec<std::net::TcpListener> =
            (0..servers).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
        let seed = u64::from(addresses[0].port());
        let shared = Arc::new(Shared {
            rule: Mutex::new(Arc::new(rule)),
            began: Instant::now(),
            random: Mutex::new(Random::new(seed)),
            count: AtomicU64::new(0),
            open: watch::Sender::new(vec![true; servers]),
        });
        let ends = Arc::new(AtomicBool::new(false));
        let thread = {
            let (shared, ends) = (Arc::clone(&shared), Arc::clone(&ends));
            std::thread::spawn(move || {
                alone(async move {
                    for (server, listener) in listeners.into_iter().enumerate() {
                        listener.set_nonblocking(true).unwrap();
                        let listener = TcpListener::from_std(listener).unwrap();
                        tokio::task::spawn_local(accept(server, listener, Arc::clone(&shared)));
                    }
                    while !ends.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                });
            })
        };
        Fleet { addresses, shared, ends, thread: Some(thread) }
    }

    pub fn behave(&self, rule: impl Fn(&Call<'_>) -> Reply + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap() = Arc::new(rule);
    }

    /// From now on connections are refused, and open ones are closed.
    pub fn refuse(&self) {
        self.shared.open.send_modify(|open| open.fill(false));
    }

    /// The same for one server.
    pub fn refuse_at(&self, server: usize) {
        self.shared.open.send_modify(|open| open[server] = false);
    }

    /// A server accepts connections again, at the same address.
    pub fn listen_at(&self, server: usize) {
        self.shared.open.send_modify(|open| open[server] = true);
    }

    /// Requests so far.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Time since it began.
    pub fn now(&self) -> Duration {
        self.shared.began.elapsed()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn alone(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, work);
}

async fn accept(server: usize, mut listener: TcpListener, shared: Arc<Shared>) {
    let address = listener.local_addr().unwrap();
    let mut state = shared.open.subscribe();
    loop {
        tokio::select! {
            taken = listener.accept() => {
                let Ok((stream, _)) = taken else { continue };
                let (shared, mut open) = (Arc::clone(&shared), shared.open.subscribe());
                tokio::task::spawn_local(async move {
                    tokio::select! {
                        _ = serve(server, stream, &shared) => {}
                        _ = open.wait_for(|open| !open[server]) => {}
                    }
                });
            }
            _ = closed(&mut state, server) => {
                drop(listener);
                if state.wait_for(|open| open[server]).await.is_err() {
                    return;
                }
                listener = TcpListener::bind(address).await.unwrap();
            }
        }
    }
}

async fn closed(state: &mut watch::Receiver<Vec<bool>>, server: usize) {
    let _ = state.wait_for(|open| !open[server]).await;
}

async fn serve(server: usize, stream: TcpStream, shared: &Shared) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let (first, headers) = read_head(&mut stream).await?;
        let path = first.split(' ').nth(1).unwrap_or("/");
        let user = headers.get("x-user-id").cloned().unwrap_or_default();
        let draws = {
            let mut random = shared.random.lock().unwrap();
            std::array::from_fn(|_| random.below(1 << 40) as f64 / (1u64 << 40) as f64)
        };
        let number = shared.count.fetch_add(1, Ordering::Relaxed);
        let rule = Arc::clone(&shared.rule.lock().unwrap());
        let at = shared.began.elapsed();
        match rule(&Call { server, number, user: &user, path, at, draws }) {
            Reply::Answer { status, after, bytes, body_after } => {
                tokio::time::sleep(after).await;
                let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {bytes}\r\n\r\n");
                let body = vec![b'x'; bytes];
                if body_after > Duration::ZERO {
                    stream.write_all(head.as_bytes()).await?;
                    tokio::time::sleep(body_after).await;
                    stream.write_all(&body).await?;
                } else {
                    stream.write_all(&[head.as_bytes(), &body].concat()).await?;
                }
            }
            Reply::Redirect(after) => {
                tokio::time::sleep(after).await;
                let head = "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(head.as_bytes()).await?;
            }
            Reply::Hang => {
                let _ = stream.fill_buf().await;
                return Ok(());
            }
            Reply::CutBody => {
                return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nso much").await;
            }
            Reply::Reset => {
                let _ = socket2::SockRef::from(stream.get_ref()).set_linger(Some(Duration::ZERO));
                return Ok(());
            }
        }
    }
}

async fn read_head(from: &mut BufReader<TcpStream>) -> Result<(String, BTreeMap<String, String>)> {
    let (mut first, mut headers) = (String::new(), BTreeMap::new());
    loop {
        let mut line = String::new();
        if from.read_line(&mut line).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        match line.split_once(':') {
            _ if line.is_empty() => return Ok((first, headers)),
            _ if first.is_empty() => first = line.to_owned(),
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => return Err(Error::other("a header without a colon")),
        }
    }
}

/// The users and their request rate.
#[derive(Clone)]
pub struct Demand {
    pub per_second: f64,
    /// Few of them make most of the requests.
    pub users: u64,
    /// One account that makes this share of all requests.
    pub heavy: Option<(String, f64)>,
    /// Requests that a user sends at once, each on its own connection.
    pub at_once: u32,
    /// So many paths, `/0`, `/1`, …, are equally likely. Zero: only `/`.
    pub paths: u64,
    /// The rate is multiplied by this, by the time since the start.
    pub swing: Arc<dyn Fn(Duration) -> f64 + Send + Sync>,
}

impl Demand {
    /// A steady rate of single requests.
    pub fn steady(per_second: f64, users: u64) -> Demand {
        Demand { per_second, users, heavy: None, at_once: 1, paths: 0, swing: Arc::new(|_| 1.0) }
    }
}

/// Users that send requests at a rate, for any result of earlier ones.
pub struct Traffic {
    ends: Arc<AtomicBool>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Traffic {
    pub fn start(address: SocketAddr, demand: Demand) -> Traffic {
        let (ends, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeMap::new())));
        let thread = {
            let (ends, counts) = (Arc::clone(&ends), Arc::clone(&counts));
            std::thread::spawn(move || alone(ask_on(address, demand, ends, counts)))
        };
        Traffic { ends, counts, thread: Some(thread) }
    }

    /// Answers so far by status, or by the kind of the error.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().unwrap().clone()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn ask_on(
    address: SocketAddr,
    demand: Demand,
    ends: Arc<AtomicBool>,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
) {
    let mut random = Random::new(u64::from(address.port()) ^ demand.users);
    let mut uniform = move || random.below(1 << 40) as f64 / (1u64 << 40) as f64;
    let idle = std::rc::Rc::new(std::cell::RefCell::new(Vec::<BufReader<TcpStream>>::new()));
    let per_second = |at| ((demand.swing)(at) * demand.per_second / f64::from(demand.at_once)).max(1e-3);
    let began = tokio::time::Instant::now();
    let mut due = began;
    while !ends.load(Ordering::Relaxed) {
        due += Duration::from_secs_f64(-(1.0 - uniform()).ln() / per_second(due - began));
        // A starved thread does not send all overdue requests at once.
        due = due.max(tokio::time::Instant::now() - Duration::from_millis(100));
        tokio::time::sleep_until(due).await;
        let user = match &demand.heavy {
            Some((user, share)) if uniform() < *share => user.clone(),
            _ => format!("user-{}", (demand.users as f64 * uniform().powi(3)) as u64),
        };
        for _ in 0..demand.at_once {
            let path = match demand.paths {
                0 => "/".to_owned(),
                paths => format!("/{}", (uniform() * paths as f64) as u64),
            };
            let (idle, counts) = (std::rc::Rc::clone(&idle), Arc::clone(&counts));
            let user = user.clone();
            tokio::task::spawn_local(async move {
                let known = idle.borrow_mut().pop();
                let asked = tokio::time::timeout(Duration::from_secs(30), ask(address, known, &user, &path));
                let result = match asked.await {
                    Ok(Ok((status, connection))) => {
                        idle.borrow_mut().extend(connection);
                        status
                    }
                    Ok(Err(error)) => error.kind().to_string(),
                    Err(_) => "no answer".to_owned(),
                };
                *counts.lock().unwrap().entry(result).or_default() += 1;
            });
        }
    }
}

type Connection = BufReader<TcpStream>;

async fn ask(
    address: SocketAddr,
    known: Option<Connection>,
    user: &str,
    path: &str,
) -> Result<(String, Option<Connection>)> {
    let mut connection = match known {
        Some(connection) => connection,
        None => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            BufReader::new(stream)
        }
    };
    let head = format!("GET {path} HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: {user}\r\n\r\n");
    connection.write_all(head.as_bytes()).await?;
    let (line, headers) = read_head(&mut connection).await?;
    let status = line.split(' ').nth(1).unwrap_or("?").to_owned();
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    let closes = headers.get("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let delimited = headers.contains_key("content-length");
    Ok((status, (delimited && !closes).then_some(connection)))
}
