//! WebSockets through the proxy: with a third-party client and server (python3-websockets), and
//! byte by byte, with the test on both sides.

mod handshake;
mod peers;
mod tunnel;

use crate::rows::Wire;
use crate::world::{Config, Proxy, RELEASE, World, bucket, eventually, seconds};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

const AGREES: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn handshake(user: &str, lines: &str) -> String {
    format!(
        "GET /feed?x=1 HTTP/1.1\r\nHost: grayling.test\r\nx-user-id: {user}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{lines}\r\n"
    )
}

/// An upstream whose connections the test handles directly.
struct Peer {
    address: SocketAddr,
    connections: Mutex<Receiver<TcpStream>>,
}

/// The upstream's side of one connection.
struct Side {
    head: String,
    from: BufReader<TcpStream>,
}

impl Peer {
    fn start() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (taken, connections) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if taken.send(stream).is_err() {
                    return;
                }
            }
        });
        Peer { address, connections: Mutex::new(connections) }
    }

    /// The next connection with a request.
    fn next(&self) -> Side {
        loop {
            let stream = self.connections.lock().unwrap().recv_timeout(seconds(10)).expect("a connection");
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(seconds(10))).unwrap();
            stream.set_write_timeout(Some(seconds(10))).unwrap();
            let mut side = Side { head: String::new(), from: BufReader::new(stream) };
            side.head = side.request();
            // A connection without a request may be a probe.
            if !side.head.is_empty() {
                return side;
            }
        }
    }

    fn nobody_came(&self) -> bool {
        self.connections.lock().unwrap().try_recv().is_err()
    }
}

impl Side {
    /// The next head on this connection; empty at its end.
    fn request(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") && self.from.read_line(&mut head).unwrap_or(0) > 0 {}
        head
    }

    fn lines(&self, name: &str) -> Vec<&str> {
        crate::rows::lines(&self.head, name)
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.from.get_mut().write_all(bytes.as_ref());
    }

    fn hears(&mut self, words: &str) {
        assert_eq!(hear(&mut self.from, words.len()), words);
    }

    fn is_closed(&mut self) -> bool {
        is_closed(&mut self.from)
    }

    fn socket(&self) -> &TcpStream {
        self.from.get_ref()
    }
}

fn hear(from: &mut impl Read, length: usize) -> String {
    let mut bytes = vec![0; length];
    match from.read_exact(&mut bytes) {
        Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("({error})"),
    }
}

fn is_closed(from: &mut impl Read) -> bool {
    match from.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// No byte comes, and nothing ends, for a while.
fn is_silent(socket: &TcpStream, during: Duration) -> bool {
    socket.set_read_timeout(Some(during)).unwrap();
    let peeked = socket.peek(&mut [0; 1]);
    socket.set_read_timeout(Some(seconds(10))).unwrap();
    peeked.is_err_and(|e| matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

struct Scene {
    proxy: Proxy,
    stable: Peer,
    new: Peer,
    config: Config,
    world: World,
}

fn scene(adjust: impl FnOnce(&mut Config)) -> Scene {
    let (stable, new) = (Peer::start(), Peer::start());
    let world = World::new();
    let mut config = Config::new(stable.address, new.address).weight("50%").watchdog("enabled = false");
    config.listen = "workers = 1".into();
    adjust(&mut config);
    let proxy = world.run(&config);
    Scene { proxy, stable, new, config, world }
}

/// A user that a weight of 50% puts in `new`, or one that it does not.
fn user(of_new: bool) -> String {
    let names = (0..).map(|n| format!("user-{n}"));
    names.into_iter().find(|u| (bucket(RELEASE, u.as_bytes()) < 500_000) == of_new).unwrap()
}

impl Scene {
    fn connect(&self) -> Wire {
        Wire::connect(self.proxy.http)
    }

    fn commands(&self, of_new: bool) -> Wire {
        let mut wire = self.connect();
        wire.send(handshake(&user(of_new), ""));
        wire
    }

    /// An open tunnel, with both its ends.
    fn opens(&self, of_new: bool) -> (Wire, Side) {
        let mut client = self.commands(of_new);
        let mut server = if of_new { &self.new } else { &self.stable }.next();
        server.send(AGREES);
        assert_eq!(client.told().status, 101);
        (client, server)
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.proxy.api().metric(name, labels).unwrap_or(0.0)
    }

    fn outcome(&self, outcome: &str) -> f64 {
        self.metric("grayling_requests_total", &[("outcome", outcome)])
    }

    fn websockets(&self) -> f64 {
        self.metric("grayling_websockets", &[])
    }

    fn has_websockets(&self, count: f64) {
        let what = format!("{count} open WebSockets");
        eventually(seconds(10), &what, || (self.websockets() == count).then_some(()));
    }

    fn rollback(&self) {
        assert_eq!(self.proxy.api().change("rollback", "a test").status, 200);
    }
}

/// Data flow in both directions now.
fn alive(client: &mut Wire, server: &mut Side) {
    client.send("to the server");
    server.hears("to the server");
    server.send("to the client");
    assert_eq!(client.hear("to the client".len()), "to the client");
}

/// KiB.
fn resident(proxy: &Proxy) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn descriptors(proxy: &Proxy) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", proxy.pid())).unwrap().count()
}
