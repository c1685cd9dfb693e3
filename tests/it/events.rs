//! The event stream of the page: its content and delay, and that neither readers nor idle
//! connections affect others.

use crate::world::{Config, Origin, Proxy, RELEASE, World, eventually, long, seconds};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

/// As in `admin/room.rs`, if there are enough descriptors.
const STREAMS_MAX: usize = 64;

/// One open stream.
struct Stream(BufReader<TcpStream>);

impl Stream {
    /// The status of the response; the stream if that is 200.
    fn open(admin: SocketAddr) -> Result<Stream, u16> {
        let mut stream = TcpStream::connect(admin).unwrap();
        stream.set_read_timeout(Some(seconds(30))).unwrap();
        stream.write_all(format!("GET /api/v1/events HTTP/1.1\r\nhost: {admin}\r\n\r\n").as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 200 { Ok(Stream(reader)) } else { Err(status) }
    }

    /// Reads up to the next event of this name; returns its data.
    fn next(&mut self, name: &str) -> Value {
        loop {
            let line = self.line();
            if line == format!("event: {name}") {
                let data = self.line();
                return serde_json::from_str(data.strip_prefix("data: ").expect("data")).expect("JSON");
            }
        }
    }

    /// Chunk sizes are separate lines here: each event is a chunk.
    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).expect("the stream goes on") > 0, "the stream has ended");
        line.trim_end().to_owned()
    }
}

fn scene(world: &World) -> (Origin, Origin, Proxy) {
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address));
    (stable, new, proxy)
}

#[test]
fn a_stream_tells_summaries_and_changes_as_the_api_does() {
    let world = World::new();
    let (_stable, _new, proxy) = scene(&world);
    let mut stream = Stream::open(proxy.admin).unwrap();
    let first = stream.next("status");
    assert_eq!(first["releases"][0]["state"], "progressing");
    let again = stream.next("status");
    assert!(again["at"].as_str() > first["at"].as_str(), "a summary each second: {first} {again}");
    proxy.api().change("rollback", "a test");
    let change = stream.next("change");
    assert_eq!(
        (&change["kind"], &change["reason"], &change["actor"]),
        (&"trip".into(), &"a test".into(), &"local".into())
    );
    let ledger = proxy.api().json("/api/v1/ledger?last=1");
    assert_eq!(ledger[0], change, "what was told is what was written");
    let again = stream.next("status");
    assert_eq!(again["releases"][0]["state"], "rolled_back", "the change is in the summary that follows it");
    assert_eq!(again["releases"][0]["trip"], proxy.api().release()["trip"]);
}

#[test]
fn the_history_has_a_point_each_five_seconds_also_while_nobody_looks() {
    let world = World::new();
    let (_stable, _new, proxy) = scene(&world);
    let mut client = proxy.client();
    for user in (0..40).map(|n| format!("user-{n}")) {
        client.get_as(&user).unwrap();
    }
    let told = eventually(seconds(60), "two points", || {
        let told = proxy.api().json("/api/v1/history");
        (told["releases"][RELEASE]["at"].as_array()?.len() >= 2).then_some(told)
    });
    let of = &told["releases"][RELEASE];
    let points = of["at"].as_array().unwrap().len();
    let columns =
        [&of["weight"], &of["evidence"], &of["stable"]["rate"], &of["new"]["p99_ms"], &of["new"]["users"]];
    assert!(columns.iter().all(|c| c.as_array().unwrap().len() == points), "{told}");
    let sum = |arm: &str| of[arm]["rate"].as_array().unwrap().iter().filter_map(Value::as_f64).sum::<f64>();
    assert!(sum("stable") > sum("new") && sum("new") > 0.0, "{told}");
    let times: Vec<f64> = of["at"].as_array().unwrap().iter().filter_map(Value::as_f64).collect();
    assert!(times.windows(2).all(|w| w[1] > w[0]), "{times:?}");
    // The same figures come over a stream, one point at a time.
    let point = Stream::open(proxy.admin).unwrap().next("point");
    assert_eq!(point["releases"][RELEASE]["at"].as_array().unwrap().len(), 1);
    assert_eq!(proxy.api().json("/api/v1/history?release=nobody")["releases"], serde_json::json!({}));
}

#[test]
fn streams_are_bounded_and_leave_room_for_commands() {
    let world = World::new();
    let (_stable, _new, proxy) = scene(&world);
    let mut streams: Vec<Stream> = (0..STREAMS_MAX).map(|_| Stream::open(proxy.admin).unwrap()).collect();
    assert_eq!(Stream::open(proxy.admin).err(), Some(503));
    // Each of them is alive, and commands still get a connection.
    for stream in &mut streams {
        stream.next("status");
    }
    assert_eq!(proxy.api().metric("grayling_event_streams", &[]), Some(STREAMS_MAX as f64));
    assert_eq!(proxy.api().change("rollback", "while 64 pages look on").status, 200);
    for stream in &mut streams {
        assert_eq!(stream.next("change")["kind"], "trip");
    }
    drop(streams);
    eventually(seconds(30), "the room is given back", || Stream::open(proxy.admin).ok());
    eventually(seconds(30), "and counted", || {
        (proxy.api().metric("grayling_event_streams", &[])? <= 1.0).then_some(())
    });
}

#[test]
fn a_stream_outlives_the_age_of_ordinary_connections() {
    if !long() {
        return;
    }
    // An ordinary connection is closed after a minute at the latest (`admin/serve.rs`); a page must
    // not reconnect then.
    let world = World::new();
    let (_stable, _new, proxy) = scene(&world);
    let mut stream = Stream::open(proxy.admin).unwrap();
    let start = std::time::Instant::now();
    while start.elapsed() < seconds(63) {
        stream.next("status");
    }
}

#[test]
fn a_reader_that_reads_nothing_is_let_go_and_holds_up_nobody() {
    let world = World::new();
    let (_stable, _new, proxy) = scene(&world);
    let deaf = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    deaf.set_recv_buffer_size(2048).unwrap();
    deaf.connect(&proxy.admin.into()).unwrap();
    let mut deaf = TcpStream::from(deaf);
    deaf.write_all(b"GET /api/v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut other = Stream::open(proxy.admin).unwrap();
    let streams = |n: f64| (proxy.api().metric("grayling_event_streams", &[])? == n).then_some(());
    eventually(seconds(30), "both are there", || streams(2.0));
    // Others get events all the time, until the data for the reader that does not read are too old.
    eventually(seconds(120), "the deaf one is let go", || {
        other.next("status");
        streams(1.0)
    });
}
