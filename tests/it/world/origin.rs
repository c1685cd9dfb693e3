//! A scripted HTTP/1.1 origin: one thread per connection, a behaviour that a test changes at run
//! time, and a record of the requests.

use super::client::{read_body, read_headers, read_line};
use super::{Random, eventually, seconds};
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// The path of its resource metrics.
pub const METRICS: &str = "/metrics";
/// The path of health probes.
pub const HEALTHZ: &str = "/healthz";
/// The most recorded requests; more are only counted.
const RECORD_MAX: usize = 50_000;

/// The body of `/large` of [`Behaviour::AsAsked`]: more than the buffers between an origin and a
/// client that does not read.
const LARGE_BYTES: usize = 256 << 10;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// 200, with the origin's name as the body.
    Answer,
    /// This status to a share of the requests, 200 to the rest.
    Status(u16, f64),
    /// Reads the request, never answers.
    Hang,
    Delay(Duration),
    /// A 200 whose body ends before the announced length.
    CutBody,
    /// Reads the request, then resets the connection.
    Reset,
    /// Answers, then closes at once without `connection: close`.
    CloseAfter,
    /// Answers 200 with the request as it was received.
    Echo,
    /// The path decides: `/hang` is never answered, `/slow` late, `/large` has a body of
    /// [`LARGE_BYTES`], any other path is answered.
    AsAsked,
    /// Each request draws one of these: an answer, a reset, a cut body, a 500.
    /// For the test that POSTs are sent once.
    Chaos(f64),
    /// Exactly these bytes.
    Respond(&'static str),
    /// Like a real service: some latency, some failures.
    Service(Service),
}

/// A service with its own latencies and failures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Service {
    pub median_ms: f64,
    /// Standard deviation of the logarithm.
    pub spread: f64,
    /// This share takes `tail_ms` instead.
    pub tail: f64,
    pub tail_ms: f64,
    /// This share is answered with 500.
    pub fails: f64,
    /// Users differ: some are slow, some always fail, by a hash of their id and in either version.
    pub ugly: bool,
    /// This status for every request with this path prefix.
    pub broken: Option<(&'static str, u16)>,
}

impl Default for Service {
    fn default() -> Self {
        let (median_ms, spread) = (8.0, 0.25);
        Service { median_ms, spread, tail: 0.0, tail_ms: 0.0, fails: 0.0, ugly: false, broken: None }
    }
}

impl Service {
    fn serve(&self, request: &Received, random: &Mutex<Random>) -> (Duration, u16) {
        let (normal, slow, fails) = {
            let mut random = random.lock().unwrap();
            let mut uniform = || random.below(1 << 40) as f64 / (1u64 << 40) as f64;
            let radius = (-2.0 * (1.0 - uniform()).ln()).sqrt();
            (
                radius * (std::f64::consts::TAU * uniform()).cos(),
                uniform() < self.tail,
                uniform() < self.fails,
            )
        };
        let user = request.header("x-user-id").unwrap_or_default();
        let trait_of = xxhash_rust::xxh3::xxh3_64(user.as_bytes()) % 200;
        let slower = match trait_of {
            _ if !self.ugly => 1.0,
            0..4 => 10.0,
            of => 0.6 + of as f64 / 150.0,
        };
        let ms = if slow { self.tail_ms } else { self.median_ms * (self.spread * normal).exp() * slower };
        let status = match self.broken {
            Some((path, status)) if request.path.starts_with(path) => status,
            _ if fails || (self.ugly && trait_of == 7) => 500,
            _ => 200,
        };
        (Duration::from_secs_f64(ms / 1e3), status)
    }
}

#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The decision in grayling's header.
    pub fn arm(&self) -> Option<&str> {
        self.header("x-grayling-arm")
    }
}

struct Shared {
    name: String,
    behaviour: Mutex<Behaviour>,
    /// The behaviour for [`HEALTHZ`], if different.
    to_probes: Mutex<Option<Behaviour>>,
    /// The usage reported by [`METRICS`], if any.
    usage: Mutex<Option<Usage>>,
    received: Mutex<Vec<Received>>,
    total: AtomicU64,
    /// Requests whose connection ended before the body was complete.
    unfinished: AtomicU64,
    /// Open connections, so that they can be closed from outside.
    open: Mutex<HashMap<u64, TcpStream>>,
    closing: AtomicBool,
    random: Mutex<Random>,
}

/// CPU time that is reported, not used.
#[derive(Clone, Copy, Default)]
struct Usage {
    /// The cost of each request from now on.
    cost_s: f64,
    cpu_s: f64,
    requests: u64,
}

pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Origin {
    pub fn start(name: &str) -> Origin {
        Origin::start_on(name, [127, 0, 0, 1])
    }

    /// On every address of this machine, which has all of 127.0.0.0/8: many servers for the proxy,
    /// one thread for the test.
    pub fn start_on_all(name: &str) -> Origin {
        Origin::start_on(name, [0, 0, 0, 0])
    }

    fn start_on(name: &str, ip: [u8; 4]) -> Origin {
        let listener = TcpListener::bind(SocketAddr::from((ip, 0))).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            behaviour: Mutex::new(Behaviour::Answer),
            to_probes: Mutex::default(),
            usage: Mutex::default(),
            received: Mutex::default(),
            total: AtomicU64::new(0),
            unfinished: AtomicU64::new(0),
            open: Mutex::default(),
            closing: AtomicBool::new(false),
            random: Mutex::new(Random::new(u64::from(address.port()))),
        });
        let origin = Origin { address, shared, accepting: Mutex::new(None) };
        origin.accept(listener);
        origin
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.shared.behaviour.lock().unwrap() = behaviour;
    }

    /// The behaviour for [`HEALTHZ`], independent of other requests.
    pub fn behave_to_probes(&self, behaviour: Behaviour) {
        *self.shared.to_probes.lock().unwrap() = Some(behaviour);
    }

    /// From now on [`METRICS`] reports this CPU time for each request.
    pub fn cost(&self, cost_s: f64) {
        let mut usage = self.shared.usage.lock().unwrap();
        *usage = Some(Usage { cost_s, ..usage.unwrap_or_default() });
    }

    /// [`METRICS`] becomes an ordinary path.
    pub fn tell_no_cost(&self) {
        *self.shared.usage.lock().unwrap() = None;
    }

    /// From now on connections are refused, and open ones are closed.
    pub fn refuse(&self) {
        let Some(thread) = self.accepting.lock().unwrap().take() else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the thread that owns the listener
        let _ = thread.join();
        self.hang_up();
    }

    /// Accepts connections again, on the same port.
    pub fn listen(&self) {
        if self.accepting.lock().unwrap().is_some() {
            return;
        }
        self.shared.closing.store(false, Ordering::SeqCst);
        let address = self.address;
        self.accept(eventually(seconds(5), "the origin's own port is free again", || {
            TcpListener::bind(address).ok()
        }));
    }

    /// Closes every open connection.
    pub fn hang_up(&self) {
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// The number of complete requests, recorded or not.
    pub fn total(&self) -> u64 {
        self.shared.total.load(Ordering::SeqCst)
    }

    pub fn unfinished(&self) -> u64 {
        self.shared.unfinished.load(Ordering::SeqCst)
    }

    fn accept(&self, listener: TcpListener) {
        // A real server's backlog: clients that make the proxy reconnect repeatedly must not
        // overflow it.
        let _ = socket2::SockRef::from(&listener).listen(4096);
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::spawn(move || {
            for (id, stream) in (0..).zip(listener.incoming().map_while(Result::ok)) {
                if shared.closing.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(twin) = stream.try_clone() {
                    shared.open.lock().unwrap().insert(id, twin);
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let end = serve(&shared, &stream).unwrap_or(End::Close);
                    shared.open.lock().unwrap().remove(&id);
                    if let End::Reset = end {
                        // Sent when the last handle of the socket is dropped: now.
                        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                    }
                });
            }
        });
        *self.accepting.lock().unwrap() = Some(thread);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.refuse();
    }
}

enum End {
    Close,
    Reset,
}

fn serve(shared: &Shared, stream: &TcpStream) -> io::Result<End> {
    stream.set_nodelay(true)?;
    let mut from = BufReader::new(stream);
    loop {
        let line = read_line(&mut from)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let body = read_headers(&mut from).and_then(|headers| Ok((read_body(&mut from, &headers)?, headers)));
        let Ok((body, headers)) = body else {
            shared.unfinished.fetch_add(1, Ordering::SeqCst);
            return Ok(End::Close);
        };
        let request = Received { method, path, headers, body: body.unwrap_or_default() };
        if request.path == METRICS
            && let Some(Usage { cpu_s, requests, .. }) = *shared.usage.lock().unwrap()
        {
            let page = format!(
                "process_cpu_seconds_total {cpu_s}\nhttp_requests_total{{code=\"200\"}} {requests}\n"
            );
            answer(stream, 200, &page, false)?;
            continue;
        }
        if let Some(usage) = &mut *shared.usage.lock().unwrap() {
            usage.requests += 1;
            usage.cpu_s += usage.cost_s;
        }
        let behaviour = *shared.behaviour.lock().unwrap();
        let service = match behaviour {
            Behaviour::Service(service) => Some(service.serve(&request, &shared.random)),
            _ => None,
        };
        let echo = format!("{line}\n{:?}\n{}", request.headers, String::from_utf8_lossy(&request.body));
        let head_only = request.method == "HEAD";
        let probed = request.path == HEALTHZ;
        shared.total.fetch_add(1, Ordering::SeqCst);
        {
            let mut received = shared.received.lock().unwrap();
            if received.len() < RECORD_MAX {
                received.push(request);
            }
        }
        if let Some((time, status)) = service.filter(|_| !probed) {
            std::thread::sleep(time);
            answer(stream, status, &shared.name, head_only)?;
            continue;
        }
        let to_probes = shared.to_probes.lock().unwrap().filter(|_| probed);
        let behaviour = to_probes.unwrap_or(behaviour);
        let behaviour = match (behaviour, line.split(' ').nth(1)) {
            (Behaviour::AsAsked, Some("/hang")) => Behaviour::Hang,
            (Behaviour::AsAsked, Some("/slow")) => Behaviour::Delay(Duration::from_millis(600)),
            (Behaviour::AsAsked, Some("/large")) => {
                answer(stream, 200, large(), head_only)?;
                continue;
            }
            (Behaviour::AsAsked, _) => Behaviour::Answer,
            (other, _) => other,
        };
        match draw(shared, behaviour) {
            Behaviour::Hang => {
                // Until the peer gives up, the origin is stopped, or the behaviour has changed for
                // a new request.
                let _ = read_line(&mut from);
                return Ok(End::Close);
            }
            Behaviour::Reset => return Ok(End::Reset),
            Behaviour::CutBody => {
                write_all(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly so much")?;
                return Ok(End::Close);
            }
            Behaviour::Delay(time) => {
                std::thread::sleep(time);
                answer(stream, 200, &shared.name, head_only)?;
            }
            Behaviour::Status(status, _) => answer(stream, status, &shared.name, head_only)?,
            Behaviour::Echo => answer(stream, 200, &echo, head_only)?,
            Behaviour::Respond(bytes) => write_all(stream, bytes.as_bytes())?,
            Behaviour::CloseAfter => {
                answer(stream, 200, &shared.name, head_only)?;
                return Ok(End::Close);
            }
            Behaviour::Answer | Behaviour::AsAsked | Behaviour::Chaos(_) | Behaviour::Service(_) => {
                answer(stream, 200, &shared.name, head_only)?
            }
        }
    }
}

/// Draws the behaviour of this request from a random behaviour.
fn draw(shared: &Shared, behaviour: Behaviour) -> Behaviour {
    let mut random = shared.random.lock().unwrap();
    match behaviour {
        Behaviour::Status(_, ratio) if !random.chance(ratio) => Behaviour::Answer,
        Behaviour::Chaos(ratio) if random.chance(ratio) => match random.below(4) {
            0 => Behaviour::Reset,
            1 => Behaviour::CutBody,
            2 => Behaviour::CloseAfter,
            _ => Behaviour::Status(500, 1.0),
        },
        other => other,
    }
}

fn large() -> &'static str {
    static BODY: OnceLock<String> = OnceLock::new();
    BODY.get_or_init(|| "x".repeat(LARGE_BYTES))
}

fn answer(stream: &TcpStream, status: u16, body: &str, head_only: bool) -> io::Result<()> {
    let reason = if status < 400 { "OK" } else { "Failed" };
    let mut text = format!("HTTP/1.1 {status} {reason}\r\ncontent-length: {}\r\n\r\n", body.len());
    if !head_only {
        text.push_str(body);
    }
    write_all(stream, text.as_bytes())
}

fn write_all(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes)
}
