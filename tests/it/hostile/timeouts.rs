//! Clients so slow that another time-out ends first: the upstream's own, or its `total_timeout`.
//! None of it counts against `new`.

use super::{BLAMED, Scene, connect_with, hear, outcomes, pause, say};
use crate::world::{RELEASE, eventually, figure, seconds};
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// The server's read and write time-outs: as short as common ones.
const PATIENCE: Duration = Duration::from_secs(4);
const BODY_BYTES: usize = 100;
const LARGE_BYTES: usize = 16 << 20;
/// Per kind: twenty failures of five users are enough for a rollback.
const CLIENTS: usize = 60;

/// A good server that closes a connection after a time-out, without a response, as many do.
fn impatient() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || drop(serve(&stream)));
        }
    });
    address
}

fn serve(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    SockRef::from(stream).set_send_buffer_size(64 << 10)?;
    let mut from = BufReader::new(stream);
    loop {
        let (mut head, mut fields) = (String::new(), usize::MAX);
        while fields > 2 {
            fields = from.read_line(&mut head)?;
        }
        if head.is_empty() {
            return Ok(());
        }
        if head.starts_with("POST") {
            stream.set_read_timeout(Some(PATIENCE))?;
            from.read_exact(&mut [0; BODY_BYTES])?;
            stream.set_read_timeout(None)?;
        }
        let length = if head.starts_with("GET /large") { LARGE_BYTES } else { 2 };
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
        stream.write_all(&vec![b'x'; length])?;
    }
}

#[test]
fn clients_that_outlast_the_patience_of_others_are_not_held_against_new() {
    let scene = Scene::start(|_, config| {
        config.new = vec![impatient()];
        config.upstreams = "total_timeout = \"6s\"".into();
    });
    let before = outcomes(&scene.proxy.api());
    let clients = |line: &str, body: &str, receive_bytes| -> Vec<TcpStream> {
        let users = scene.rude.iter().cycle().take(CLIENTS);
        let connected = users.map(|user| {
            let stream = connect_with(scene.proxy.http, receive_bytes).expect("the proxy takes connections");
            say(&stream, format!("{line} HTTP/1.1\r\nhost: a\r\nx-user-id: {user}\r\n{body}"));
            stream
        });
        connected.collect()
    };
    let body = format!("content-length: {BODY_BYTES}\r\n\r\nx");
    let silent = clients("POST /", &body, None);
    let trickling = clients("POST /", &body, None);
    let reading = clients("GET /large", "\r\n", Some(64 << 10));
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(7) {
        trickling.iter().for_each(|stream| say(stream, "x"));
        reading.iter().for_each(|mut stream| drop(stream.read(&mut [0; 512])));
        pause(200);
    }
    for stream in silent.iter().chain(&trickling) {
        let said = hear(stream);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "the client's own fault: {said}");
    }
    reading.iter().for_each(|stream| drop(hear(stream)));
    eventually(seconds(10), "they are counted", || {
        let counted = |all: &BTreeMap<String, u64>| all.values().sum::<u64>();
        let gauge =
            scene.proxy.api().metric("grayling_requests_in_flight", &[("release", RELEASE), ("arm", "new")]);
        (counted(&outcomes(&scene.proxy.api())) > counted(&before) && gauge <= Some(6.0)).then_some(())
    });
    let after = outcomes(&scene.proxy.api());
    let more = |outcome: &str| {
        let [had, has] = [&before, &after].map(|all| all.get(outcome).copied().unwrap_or(0));
        has - had
    };
    figure(&format!(
        "{} clients outlasted the patience of others: cancelled {}",
        3 * CLIENTS,
        more("cancelled")
    ));
    for outcome in BLAMED {
        assert_eq!(more(outcome), 0, "counted as {outcome} of new: {after:?}");
    }
    // A large response may have been read completely after all.
    assert!(more("cancelled") > 5 * CLIENTS as u64 / 2, "{after:?}");
    let release = scene.proxy.api().release();
    assert!(release["trip"].is_null(), "{release}");
    scene.blames_nobody("patience");
    scene.ends();
}
