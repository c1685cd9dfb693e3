//! A scripted HTTP/1.1 origin: a thread a connection, a behaviour that a test switches at run time, a record of what came.

use super::client::{read_body, read_headers, read_line};
use super::{Random, eventually, seconds};
use std::collections::HashMap;
use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests that are kept; more are only counted.
const RECORD_MAX: usize = 50_000;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Behaviour {
    /// 200, with the origin's name as the body.
    Answer,
    /// This status to a share of the requests, 200 to the rest.
    Status(u16, f64),
    /// Reads the request, never answers.
    Hang,
    Delay(Duration),
    /// A 200 whose body ends before the length it promised.
    CutBody,
    /// Reads the request, then resets the connection.
    Reset,
    /// Answers, then closes at once without having said so.
    CloseAfter,
    /// Answers 200 with the request as it was received.
    Echo,
    /// Each request draws one of these: an answer, a reset, a cut body, a 500. For the POSTs that are sent once.
    Chaos(f64),
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

    /// What grayling said of the decision.
    pub fn arm(&self) -> Option<&str> {
        self.header("x-grayling-arm")
    }
}

struct Shared {
    name: String,
    behaviour: Mutex<Behaviour>,
    received: Mutex<Vec<Received>>,
    total: AtomicU64,
    /// Requests whose connection ended before the body was whole.
    unfinished: AtomicU64,
    /// Connections that stand, so that they can be closed from outside.
    open: Mutex<HashMap<u64, TcpStream>>,
    closing: AtomicBool,
    random: Mutex<Random>,
}

pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Origin {
    pub fn start(name: &str) -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            behaviour: Mutex::new(Behaviour::Answer),
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

    /// From now on connections are refused, and those that stand are closed.
    pub fn refuse(&self) {
        let Some(thread) = self.accepting.lock().unwrap().take() else { return };
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address); // wakes the accepting thread, which then drops the listener
        let _ = thread.join();
        self.hang_up();
    }

    /// Takes connections again, on the same port.
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

    /// Closes every connection that stands.
    pub fn hang_up(&self) {
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    /// How many whole requests came, recorded or not.
    pub fn total(&self) -> u64 {
        self.shared.total.load(Ordering::SeqCst)
    }

    pub fn unfinished(&self) -> u64 {
        self.shared.unfinished.load(Ordering::SeqCst)
    }

    fn accept(&self, listener: TcpListener) {
        // A real server's backlog: clients that make the proxy reconnect all the time must not overflow it.
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
                        // Sent when the last handle of the socket goes: now.
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
        let echo = format!("{line}\n{:?}\n{}", request.headers, String::from_utf8_lossy(&request.body));
        let head_only = request.method == "HEAD";
        shared.total.fetch_add(1, Ordering::SeqCst);
        {
            let mut received = shared.received.lock().unwrap();
            if received.len() < RECORD_MAX {
                received.push(request);
            }
        }
        let behaviour = *shared.behaviour.lock().unwrap();
        match draw(shared, behaviour) {
            Behaviour::Hang => {
                // Until the peer gives up, the origin is told to stop, or the behaviour has changed for a new request.
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
            Behaviour::CloseAfter => {
                answer(stream, 200, &shared.name, head_only)?;
                return Ok(End::Close);
            }
            Behaviour::Answer | Behaviour::Chaos(_) => answer(stream, 200, &shared.name, head_only)?,
        }
    }
}

/// What of a random behaviour this request gets.
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
