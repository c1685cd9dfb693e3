//! The users of the demo: some thousand over a few keep-alive connections, as behind a load
//! balancer, and the statistics of their responses.
//!
//! Invariants: everything counted here came back over HTTP, outside the proxy.
//! `x-grayling-arm` tells which version answered. The choice of users is skewed: a few are
//! frequent, most are rare.

use crate::telemetry::random::Random;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

pub const USERS: u64 = 5_000;
const CONNECTIONS: usize = 80;
/// Pause between two requests of a connection. With the response time it yields the rate below.
const PAUSE_MS: (u64, u64) = (60, 180);
pub const REQUESTS_PER_SECOND: u64 = 600;
/// One request in this many sends an invoice, the others read the balance.
const INVOICE_EACH: u64 = 5;
/// Latencies kept per arm in one step.
const LATENCIES_MAX: usize = 50_000;

pub fn name(user: u64) -> String {
    format!("user-{user:04}")
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SeenArm {
    Stable,
    New,
}

/// The response to one request.
#[derive(Clone, Copy, Debug)]
pub struct DemoAnswer {
    pub arm: SeenArm,
    pub failed: bool,
    pub took: Duration,
}

/// The responses of one version.
#[derive(Clone, Default, Debug)]
pub struct Side {
    pub requests: u64,
    pub failed: u64,
    latencies: Vec<Duration>,
    users: BTreeSet<u64>,
}

impl Side {
    fn add(&mut self, user: u64, answer: &DemoAnswer) {
        self.requests += 1;
        self.failed += u64::from(answer.failed);
        self.users.insert(user);
        if self.latencies.len() < LATENCIES_MAX {
            self.latencies.push(answer.took);
        }
    }

    pub fn users(&self) -> u64 {
        self.users.len() as u64
    }

    pub fn p99(&self) -> Option<Duration> {
        let mut sorted = self.latencies.clone();
        let at = (sorted.len() * 99 / 100).min(sorted.len().checked_sub(1)?);
        Some(*sorted.select_nth_unstable(at).1)
    }
}

/// The harm of the fault to users.
#[derive(Clone, Default, Debug)]
pub struct DemoHarm {
    pub requests: u64,
    pub users: BTreeSet<u64>,
}

/// The responses to all users.
#[derive(Clone, Default, Debug)]
pub struct DemoAnswers {
    /// Since the weight was last changed.
    pub stable: Side,
    pub new: Side,
    pub harm: DemoHarm,
    /// Responses to requests sent after the rollback was announced.
    pub after_stable: u64,
    pub after_new: u64,
    /// Requests without a response, or with one of neither version, in the whole run.
    pub lost: u64,
    onset: Option<Instant>,
    announced: Option<Instant>,
}

/// The load; it ends when dropped.
pub struct Users {
    seen: Arc<Mutex<DemoAnswers>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Users {
    /// `timeouts`: a slower response of `new` counts as harm, too.
    pub fn start(proxy: SocketAddr, timeouts: Duration) -> io::Result<Users> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let seen = Arc::new(Mutex::new(DemoAnswers::default()));
        let (stop, stopped) = oneshot::channel();
        let noted = seen.clone();
        let body = move || {
            runtime.block_on(async move {
                for _ in 0..CONNECTIONS {
                    tokio::spawn(come_and_go(proxy, timeouts, noted.clone()));
                }
                let _ = stopped.await;
            });
        };
        let thread = std::thread::Builder::new().name("users".into()).spawn(body)?;
        Ok(Users { seen, stop: Some(stop), thread: Some(thread) })
    }

    pub fn seen(&self) -> DemoAnswers {
        lock(&self.seen).clone()
    }

    /// The weight changed: the counts of both sides restart.
    pub fn next_step(&self) {
        let mut seen = lock(&self.seen);
        (seen.stable, seen.new) = (Side::default(), Side::default());
    }

    pub fn fault_began(&self, at: Instant) {
        lock(&self.seen).onset = Some(at);
    }

    pub fn rollback_announced(&self, at: Instant) {
        lock(&self.seen).announced = Some(at);
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}

fn lock(seen: &Mutex<DemoAnswers>) -> MutexGuard<'_, DemoAnswers> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn come_and_go(proxy: SocketAddr, timeouts: Duration, seen: Arc<Mutex<DemoAnswers>>) {
    let random = Random::default();
    let mut connection = DemoConnection::new(proxy);
    // Spreads the first requests over time.
    tokio::time::sleep(Duration::from_millis(random.between((0, PAUSE_MS.1)))).await;
    loop {
        let user = (random.unit().powi(2) * USERS as f64) as u64;
        let invoice = random.between((1, INVOICE_EACH)) == 1;
        let sent = Instant::now();
        let answer = connection.ask(user, if invoice { DemoCall::Invoice } else { DemoCall::Balance }).await;
        note(&mut lock(&seen), user, sent, answer, timeouts);
        tokio::time::sleep(Duration::from_millis(random.between(PAUSE_MS))).await;
    }
}

fn note(seen: &mut DemoAnswers, user: u64, sent: Instant, answer: Option<DemoAnswer>, timeouts: Duration) {
    let Some(answer) = answer else {
        seen.lost += 1;
        return;
    };
    let after = seen.announced.is_some_and(|at| sent >= at);
    match answer.arm {
        SeenArm::Stable => {
            seen.stable.add(user, &answer);
            seen.after_stable += u64::from(after);
        }
        SeenArm::New => {
            seen.new.add(user, &answer);
            seen.after_new += u64::from(after);
            let since = seen.onset.is_some_and(|at| sent + answer.took >= at);
            if since && (answer.failed || answer.took > timeouts) {
                seen.harm.requests += 1;
                seen.harm.users.insert(user);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DemoCall {
    Balance,
    Invoice,
}

/// One keep-alive connection to the proxy; reopened when it is closed.
pub struct DemoConnection {
    proxy: SocketAddr,
    sender: Option<http1::SendRequest<Full<Bytes>>>,
}

impl DemoConnection {
    pub fn new(proxy: SocketAddr) -> DemoConnection {
        DemoConnection { proxy, sender: None }
    }

    /// `None`: no response.
    pub async fn ask(&mut self, user: u64, call: DemoCall) -> Option<DemoAnswer> {
        let began = Instant::now();
        let answered = self.exchange(user, call).await;
        if answered.is_none() {
            self.sender = None;
        }
        let (arm, failed) = answered?;
        Some(DemoAnswer { arm, failed, took: began.elapsed() })
    }

    async fn exchange(&mut self, user: u64, call: DemoCall) -> Option<(SeenArm, bool)> {
        let sender = match self.sender.take().filter(|s| !s.is_closed()) {
            Some(sender) => sender,
            None => connect(self.proxy).await?,
        };
        let sender = self.sender.insert(sender);
        sender.ready().await.ok()?;
        let request = Request::builder().header(header::HOST, "billing.demo").header("x-user-id", name(user));
        let request = match call {
            DemoCall::Balance => request.uri("/balance").body(Full::default()),
            DemoCall::Invoice => request
                .method("POST")
                .uri("/invoices")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::new(Bytes::from_static(b"{\"amount\": \"9.90\", \"currency\": \"EUR\"}"))),
        };
        let response = sender.send_request(request.ok()?).await.ok()?;
        let arm = match response.headers().get("x-grayling-arm")?.as_bytes() {
            b"new" => SeenArm::New,
            b"stable" => SeenArm::Stable,
            _ => return None,
        };
        let failed = response.status().is_server_error();
        response.into_body().collect().await.ok()?;
        Some((arm, failed))
    }
}

async fn connect(proxy: SocketAddr) -> Option<http1::SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(proxy).await.ok()?;
    let _ = stream.set_nodelay(true);
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends with the connection, or with the runtime.
    tokio::spawn(connection);
    Some(sender)
}
