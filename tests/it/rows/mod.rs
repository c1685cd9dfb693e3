//! The table of requests and faults, row by row: the exact bytes over a socket, and the exact bytes
//! at an origin. Each test is named after its row. No test here may count against an arm, unless
//! its row requires that: [`Scene::nobody_is_blamed`].

mod abandoned;
mod answers;
mod arms;
mod grpc;
mod http2;
mod http2_upstreams;
mod moving;
mod requests;
mod responses;
mod slow;
mod table;
pub mod wire;

use crate::world::{Config, Proxy, RELEASE, World, eventually, read_response, seconds};
use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A proxy with every user in `new`, in front of two origins that record every byte.
pub struct Scene {
    pub proxy: Proxy,
    pub stable: RawOrigin,
    pub new: RawOrigin,
    /// The folder of the proxy, kept while it runs.
    _world: World,
}

impl Scene {
    pub fn start() -> Scene {
        Scene::with(|_| {})
    }

    pub fn with(adjust: impl FnOnce(&mut Config)) -> Scene {
        let (stable, new) = (RawOrigin::start(), RawOrigin::start());
        let world = World::new();
        let mut config = Config::new(stable.address, new.address).weight("100%").watchdog("enabled = false");
        config.listen = "workers = 1".into();
        config.rest = "[log]\nsample = \"100%\"\n".into();
        adjust(&mut config);
        let proxy = world.run(&config);
        Scene { proxy, stable, new, _world: world }
    }

    pub fn connect(&self) -> Wire {
        Wire::connect(self.proxy.http)
    }

    /// Sends the bytes on their own connection; returns the response.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Told {
        let mut wire = self.connect();
        wire.send(bytes);
        wire.told()
    }

    /// Expects a refusal: this status, the end of the connection, and no request at an origin.
    /// The failure message has the bytes.
    pub fn refuses(&self, status: u16, bytes: impl AsRef<[u8]>) {
        let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
        let before = self.received();
        let mut wire = self.connect();
        wire.send(&bytes);
        let told = wire.told();
        assert_eq!(told.status, status, "{shown:?} {told:?}");
        assert!(wire.is_closed(), "left open after {shown:?}");
        assert_eq!(self.received(), before, "an origin has received something of {shown:?}");
    }

    pub fn received(&self) -> usize {
        self.stable.requests().len() + self.new.requests().len()
    }

    /// No request has counted as a failure of an arm.
    pub fn nobody_is_blamed(&self) {
        eventually(seconds(5), "all requests have ended", || {
            let open = self.proxy.api().metric("grayling_requests_in_flight", &[("release", RELEASE)]);
            (open.unwrap_or(0.0) == 0.0).then_some(())
        });
        for outcome in ["server_error", "connect_error", "timeout", "reset", "truncated", "saturated"] {
            let counted = self.outcome(outcome);
            assert_eq!(counted, 0.0, "{outcome} is counted against an arm");
        }
        assert!(self.proxy.api().trip().is_none());
    }

    pub fn outcome(&self, outcome: &str) -> f64 {
        self.proxy.api().metric("grayling_requests_total", &[("outcome", outcome)]).unwrap_or(0.0)
    }

    /// Waits until this many requests have this outcome.
    pub fn counts(&self, outcome: &str, wanted: f64) {
        let what = format!("{wanted} of {outcome}");
        eventually(seconds(5), &what, || (self.outcome(outcome) == wanted).then_some(()));
    }
}

/// The usual request head of the tests, with these lines in it.
pub fn get(lines: &str) -> String {
    format!("GET /x HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: alice\r\n{lines}\r\n")
}

pub fn post(lines: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nhost: grayling.test\r\nx-user-id: alice\r\n{lines}\r\n{body}")
}

/// A client connection that sends raw bytes.
pub struct Wire {
    from: BufReader<TcpStream>,
}

#[derive(Debug)]
pub struct Told {
    /// 0: no response before the end.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Told {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

impl Wire {
    pub fn connect(address: SocketAddr) -> Wire {
        Wire::over(TcpStream::connect(address).expect("the proxy listens"))
    }

    pub fn over(stream: TcpStream) -> Wire {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(seconds(10))).unwrap();
        stream.set_write_timeout(Some(seconds(10))).unwrap();
        Wire { from: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The proxy may have closed already: the response shows that.
        let _ = self.from.get_mut().write_all(bytes.as_ref());
    }

    pub fn told(&mut self) -> Told {
        match read_response(&mut self.from, false) {
            Ok(r) => Told { status: r.status, body: r.text(), headers: r.headers },
            Err(_) => Told { status: 0, headers: vec![], body: String::new() },
        }
    }

    pub fn told_head(&mut self) -> Told {
        match read_response(&mut self.from, true) {
            Ok(r) => Told { status: r.status, body: r.text(), headers: r.headers },
            Err(_) => Told { status: 0, headers: vec![], body: String::new() },
        }
    }

    /// Has the proxy closed, without further bytes?
    pub fn is_closed(&mut self) -> bool {
        match self.from.read(&mut [0; 64]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    pub fn socket(&self) -> &TcpStream {
        self.from.get_ref()
    }

    /// Reads this many bytes, or returns the error.
    pub fn hear(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        match self.from.read_exact(&mut bytes) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => format!("({error})"),
        }
    }

    pub fn read_some(&mut self) -> Vec<u8> {
        let mut piece = [0; 4096];
        let n = self.from.read(&mut piece).unwrap_or(0);
        piece[..n].to_vec()
    }
}

/// An origin that records each raw request, and answers with bytes from the test.
pub struct RawOrigin {
    pub address: SocketAddr,
    shared: Arc<Mutex<Recorded>>,
}

#[derive(Clone)]
struct Recorded {
    requests: Vec<(u32, Vec<u8>)>,
    connections: u32,
    script: Script,
}

/// An origin's behaviour for each request.
#[derive(Clone)]
pub struct Script {
    /// Sent piece by piece, with a pause between, so that each is its own segment.
    pub pieces: Vec<Vec<u8>>,
    pub then: Then,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Keep,
    Close,
}

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

impl RawOrigin {
    pub fn start() -> RawOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        // A real server's backlog: four hundred streams connect at once.
        let _ = socket2::SockRef::from(&listener).listen(4096);
        let address = listener.local_addr().unwrap();
        let script = Script { pieces: vec![OK.into()], then: Then::Keep };
        let shared = Arc::new(Mutex::new(Recorded { requests: vec![], connections: 0, script }));
        let of_thread = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = of_thread.clone();
                std::thread::spawn(move || serve(stream, &shared));
            }
        });
        RawOrigin { address, shared }
    }

    pub fn answers(&self, bytes: impl Into<Vec<u8>>) {
        self.follows(Script { pieces: vec![bytes.into()], then: Then::Keep });
    }

    pub fn follows(&self, script: Script) {
        self.shared.lock().unwrap().script = script;
    }

    /// Each whole request, byte for byte.
    pub fn requests(&self) -> Vec<String> {
        let recorded = self.shared.lock().unwrap();
        recorded.requests.iter().map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    /// Each whole request since the last call.
    pub fn take(&self) -> Vec<Vec<u8>> {
        self.shared.lock().unwrap().requests.drain(..).map(|(_, bytes)| bytes).collect()
    }

    pub fn last(&self) -> String {
        eventually(seconds(5), "the origin has received a request", || self.requests().pop())
    }

    /// The connection of each request.
    pub fn connections(&self) -> Vec<u32> {
        self.shared.lock().unwrap().requests.iter().map(|(connection, _)| *connection).collect()
    }
}

/// The lines of this name in a recorded request, `name: value` each.
pub fn lines<'a>(request: &'a str, name: &str) -> Vec<&'a str> {
    let head = request.split("\r\n\r\n").next().unwrap_or_default();
    let is = |line: &&str| line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name));
    head.split("\r\n").skip(1).filter(is).collect()
}

pub fn body(request: &str) -> &str {
    request.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

fn serve(mut stream: TcpStream, shared: &Mutex<Recorded>) {
    let _ = stream.set_nodelay(true);
    let id = {
        let mut recorded = shared.lock().unwrap();
        recorded.connections += 1;
        recorded.connections
    };
    let (mut buffer, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        buffer.extend_from_slice(&piece[..n]);
        while let Some(length) = whole(&buffer) {
            let request: Vec<u8> = buffer.drain(..length).collect();
            let script = {
                let mut recorded = shared.lock().unwrap();
                recorded.requests.push((id, request));
                recorded.script.clone()
            };
            for (i, piece) in script.pieces.iter().enumerate() {
                if i > 0 {
                    std::thread::sleep(Duration::from_millis(30)); // a separate segment
                }
                if stream.write_all(piece).is_err() {
                    return;
                }
            }
            if script.then == Then::Close {
                return;
            }
        }
    }
}

/// The length of the first request in `buffer`, if it is complete.
fn whole(buffer: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(buffer);
    let head = buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    if !lines(&text, "transfer-encoding").is_empty() {
        return Some(head + chunked(&buffer[head..])?);
    }
    let length = lines(&text, "content-length").first().map_or(0, |line| {
        line.split(':').nth(1).and_then(|v| v.trim().parse().ok()).expect("a length that is a number")
    });
    (buffer.len() >= head + length).then_some(head + length)
}

/// The length of a chunked body (RFC 9112 §7.1), if it is complete.
/// Parsed chunk by chunk, since a chunk may contain the bytes of an end.
fn chunked(body: &[u8]) -> Option<usize> {
    let line = |at: usize| Some(at + body.get(at..)?.windows(2).position(|w| w == b"\r\n")?);
    let mut at = 0;
    loop {
        let end = line(at)?;
        let size = String::from_utf8_lossy(&body[at..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default(), 16).expect("a size");
        at = end + 2;
        if size == 0 {
            break;
        }
        at += size + 2;
    }
    loop {
        let end = line(at)?;
        let last = end == at;
        at = end + 2;
        if last {
            return Some(at);
        }
    }
}
