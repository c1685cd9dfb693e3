//! HTTP/2 frames as bytes (RFC 9113 §4): no library between a test and the wire, so that a test can
//! send invalid frames.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The status, and the body to its clean end.
    Answer(u16, String),
    Reset,
    Goaway,
    Closed,
    /// No further frame in time.
    Silence,
}

impl End {
    /// This status, or a stream or connection error: the request was not served.
    pub fn is_refusal(&self, status: u16) -> bool {
        match self {
            End::Answer(s, _) => *s == status,
            End::Reset | End::Goaway | End::Closed => true,
            End::Silence => false,
        }
    }
}

pub struct Http2 {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// RFC 7541 §6.2.2: literals without indexing, new names, no Huffman.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// RFC 7541 §5.1, with a prefix of 7 bits.
fn integer(block: &mut Vec<u8>, mut n: usize) {
    if n < 127 {
        return block.push(n as u8);
    }
    block.push(127);
    n -= 127;
    while n >= 128 {
        block.push((n % 128 + 128) as u8);
        n /= 128;
    }
    block.push(n as u8);
}

pub const GET: [(&str, &str); 5] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":authority", "grayling.test"),
    (":path", "/x"),
    ("x-user-id", "alice"),
];

/// `GET` with more fields.
pub fn get_with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    GET.iter().chain(more).copied().collect()
}

impl Http2 {
    /// `settings`: pairs of identifier and value, as in RFC 9113 §6.5.1.
    pub fn connect(address: SocketAddr, settings: &[(u16, u32)]) -> Http2 {
        let mut http2 = Http2::over(TcpStream::connect(address).expect("the proxy listens"));
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &payload));
        let _ = http2.send(&hello);
        http2
    }

    /// The server's side of the next connection, after the client's preface (RFC 9113 §3.4).
    pub fn accept(listener: &TcpListener) -> Http2 {
        let mut http2 = Http2::over(listener.accept().expect("a connection").0);
        let mut preface = [0; 24];
        http2.stream.read_exact(&mut preface).expect("the preface");
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let _ = http2.send(&frame(SETTINGS, 0, 0, &[]));
        http2
    }

    pub fn over(stream: TcpStream) -> Http2 {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        Http2 { stream, buffer: Vec::new() }
    }

    /// The next frame of one of these kinds; panics if none comes.
    pub fn next_of(&mut self, kinds: &[u8]) -> Frame {
        loop {
            match self.next() {
                Ok(Some(frame)) if kinds.contains(&frame.kind) => return frame,
                Ok(Some(_)) => {}
                Ok(None) => panic!("no frame of {kinds:?} in time"),
                Err(error) => panic!("no frame of {kinds:?}: {error}"),
            }
        }
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn headers(&mut self, stream: u32, fields: &[(&str, &str)], flags: u8) {
        let _ = self.send(&frame(HEADERS, END_HEADERS | flags, stream, &block(fields)));
    }

    pub fn timeouts(&self, time: Duration) {
        self.stream.set_read_timeout(Some(time)).unwrap();
    }

    /// The next frame; settings and pings are acknowledged. `Ok(None)`: none in time.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if self.buffer.len() >= 9 {
                let length = u32::from_be_bytes([0, self.buffer[0], self.buffer[1], self.buffer[2]]) as usize;
                if self.buffer.len() >= 9 + length {
                    let bytes: Vec<u8> = self.buffer.drain(..9 + length).collect();
                    let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
                    let frame_ =
                        Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() };
                    if matches!(frame_.kind, SETTINGS | PING) && frame_.flags & 1 == 0 {
                        let payload = if frame_.kind == PING { &frame_.payload[..] } else { &[] };
                        let _ = self.send(&frame(frame_.kind, 1, 0, payload));
                    }
                    return Ok(Some(frame_));
                }
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&piece[..n]),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads until this stream, or the connection, has ended.
    pub fn end_of(&mut self, stream: u32) -> End {
        let (mut status_, mut body) = (0, Vec::new());
        loop {
            match self.next() {
                Err(_) => return End::Closed,
                Ok(None) => return End::Silence,
                Ok(Some(f)) if f.kind == GOAWAY => return End::Goaway,
                Ok(Some(f)) if f.stream == stream => {
                    match f.kind {
                        RST_STREAM => return End::Reset,
                        HEADERS if status_ == 0 => status_ = status(&f.payload),
                        DATA => body.extend(f.payload),
                        _ => {}
                    }
                    if matches!(f.kind, HEADERS | DATA) && f.flags & END_STREAM != 0 {
                        return End::Answer(status_, String::from_utf8_lossy(&body).into_owned());
                    }
                }
                Ok(Some(_)) => {}
            }
        }
    }
}

/// `:status`, which comes first: an entry of the static table, or a literal of three digits (RFC
/// 7541 appendices A and B).
pub fn status(block: &[u8]) -> u16 {
    // A change of the table's size may precede it (§6.3).
    let block = if block[0] & 0xe0 == 0x20 { &block[1..] } else { block };
    match block {
        [first @ 0x88..=0x8e, ..] => [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)],
        [0x48 | 0x08 | 0x18, length, text @ ..] if length & 0x80 == 0 => {
            String::from_utf8_lossy(&text[..usize::from(*length)]).parse().unwrap_or(0)
        }
        [0x48 | 0x08 | 0x18, length, text @ ..] => {
            let bits =
                text[..usize::from(length & 0x7f)].iter().fold(0u64, |bits, b| bits << 8 | u64::from(*b));
            let (mut left, mut number) = (u32::from(length & 0x7f) * 8, 0);
            // Digits are the codes 00000 to 00010 (0, 1, 2) and 011001 to 011111 (3 to 9).
            for _ in 0..3 {
                let short = (bits >> (left - 5)) & 31;
                let digit = if short <= 2 {
                    left -= 5;
                    short
                } else {
                    left -= 6;
                    ((bits >> left) & 63) - 25 + 3
                };
                number = number * 10 + digit as u16;
            }
            number
        }
        _ => 0,
    }
}
