//! A blocking HTTP/1.1 client that hides nothing: one connection, no retry, no redirect.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
    pub timeout: Duration,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// Names in lower case, in the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address, connection: None, timeout: Duration::from_secs(30) }
    }

    pub fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> io::Result<Response> {
        self.send("GET", path, headers, b"")
    }

    /// GET as a user.
    pub fn get_as(&mut self, user: &str) -> io::Result<Response> {
        self.get("/", &[("x-user-id", user)])
    }

    pub fn post(&mut self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Response> {
        self.send("POST", path, headers, body)
    }

    /// Sends one request and reads its answer; the connection is kept for the next, unless either
    /// side closed it.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("host")) {
            head.push_str("host: grayling.test\r\n");
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        let answer = self.exchange(&bytes, method == "HEAD");
        match &answer {
            Ok(r) if !r.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close")) => {}
            _ => self.connection = None,
        }
        answer
    }

    fn exchange(&mut self, bytes: &[u8], head_only: bool) -> io::Result<Response> {
        if self.connection.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(self.timeout))?;
            stream.set_write_timeout(Some(self.timeout))?;
            self.connection = Some(BufReader::new(stream));
        }
        let Some(connection) = self.connection.as_mut() else { unreachable!("made above") };
        connection.get_mut().write_all(bytes)?;
        loop {
            let response = read_response(connection, head_only)?;
            if response.status >= 200 || response.status == 101 {
                return Ok(response);
            }
        }
    }
}

/// Sends raw bytes, and returns all that comes back until the peer closes or the time is over.
pub fn raw(address: SocketAddr, bytes: &[u8], within: Duration) -> Vec<u8> {
    let mut answer = Vec::new();
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.set_read_timeout(Some(within));
        let _ = stream.write_all(bytes);
        let mut piece = [0; 16 * 1024];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            answer.extend_from_slice(&piece[..n]);
        }
    }
    answer
}

pub fn broken(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_owned())
}

/// A line without its end; an end of stream before the line's end is an error.
pub fn read_line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.pop() != Some(b'\n') {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

pub fn read_headers(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let line = read_line(from)?;
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

/// Reads a body by `transfer-encoding` or `content-length`; `None` when neither is there.
pub fn read_body(from: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Option<Vec<u8>>> {
    let find = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut body = Vec::new();
    if find("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        loop {
            let line = read_line(from)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| broken("chunk size"))?;
            if size == 0 {
                read_headers(from)?;
                return Ok(Some(body));
            }
            let end = body.len();
            body.resize(end + size, 0);
            from.read_exact(&mut body[end..])?;
            if !read_line(from)?.is_empty() {
                return Err(broken("chunk without its end"));
            }
        }
    }
    let Some(length) = find("content-length") else { return Ok(None) };
    body.resize(length.parse().map_err(|_| broken("content-length"))?, 0);
    from.read_exact(&mut body)?;
    Ok(Some(body))
}

pub fn read_response(from: &mut BufReader<TcpStream>, head_only: bool) -> io::Result<Response> {
    let line = read_line(from)?;
    let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| broken("status line"))?;
    let headers = read_headers(from)?;
    let mut body = Vec::new();
    if !head_only && status >= 200 && status != 204 && status != 304 {
        match read_body(from, &headers)? {
            Some(whole) => body = whole,
            None => drop(from.read_to_end(&mut body)?),
        }
    }
    Ok(Response { status, headers, body })
}
