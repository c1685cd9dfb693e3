//! HTTP/2 clients of users in `new`, with every kind of fault: none of it counts against `new`.

use super::{Fault, Scene, pause};
use crate::rows::wire::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame,
};
use std::time::Duration;

/// Streams per connection: the most that a client may open.
pub const STREAMS: u64 = 100;

pub fn ids() -> impl Iterator<Item = u32> {
    (0..STREAMS as u32).map(|n| 2 * n + 1)
}

pub fn fields<'a>(fault: &Fault<'a>, method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        (":method", method),
        (":scheme", "http"),
        (":authority", "grayling.test"),
        (":path", path),
        ("x-user-id", fault.user),
    ]
}

pub fn headers(id: u32, fields: &[(&str, &str)], flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, id, &block(fields))
}

fn reset(id: u32, error: u64) -> Vec<u8> {
    frame(RST_STREAM, 0, id, &(error as u32).to_be_bytes())
}

fn connect(fault: &Fault<'_>, settings: &[(u16, u32)]) -> Http2 {
    let http2 = Http2::connect(fault.address, settings);
    http2.timeouts(Duration::from_secs(5));
    http2
}

/// Sends the same bytes on every stream of a connection, then reads until no data come for a while.
fn on_each(fault: &Fault<'_>, bytes: impl Fn(u32) -> Vec<u8>) {
    let mut http2 = connect(fault, &[]);
    let all: Vec<u8> = ids().flat_map(bytes).collect();
    let _ = http2.send(&all);
    settle(&mut http2);
}

/// Sends bytes on a connection, and reads until the proxy has ended the stream or the connection.
fn alone(fault: &Fault<'_>, bytes: &[u8]) {
    let mut http2 = connect(fault, &[]);
    let _ = http2.send(bytes);
    let _ = http2.end_of(1);
}

fn settle(http2: &mut Http2) {
    http2.timeouts(Duration::from_millis(100));
    while let Ok(Some(_)) = http2.next() {}
}

#[test]
fn streams_that_are_reset_are_not_held_against_new() {
    let scene = Scene::start(|_, _| {});
    scene.suffers("HTTP/2: reset at once, in a row", 5, STREAMS, |f| {
        on_each(f, |id| {
            [headers(id, &fields(f, "GET", "/"), END_STREAM), reset(id, u64::from(id) % 14)].concat()
        });
    });
    scene.suffers("HTTP/2: reset while new thinks", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[]);
        ids().for_each(|id| drop(http2.send(&headers(id, &fields(f, "GET", "/hang"), END_STREAM))));
        pause(60);
        ids().for_each(|id| drop(http2.send(&reset(id, u64::from(id) % 14))));
        settle(&mut http2);
    });
    scene.suffers("HTTP/2: reset in mid-body", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[]);
        let begun = |id| [headers(id, &fields(f, "POST", "/"), 0), frame(DATA, 0, id, b"a part")].concat();
        ids().for_each(|id| drop(http2.send(&begun(id))));
        pause(60);
        ids().for_each(|id| drop(http2.send(&reset(id, u64::from(id) % 14))));
        settle(&mut http2);
    });
    scene.suffers("HTTP/2: reset in mid-answer", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[(4, 1000)]);
        ids().for_each(|id| drop(http2.send(&headers(id, &fields(f, "GET", "/large"), END_STREAM))));
        pause(150);
        ids().for_each(|id| drop(http2.send(&reset(id, 8))));
        settle(&mut http2);
    });
    scene.suffers("HTTP/2: GOAWAY in mid-stream", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[]);
        ids().for_each(|id| drop(http2.send(&headers(id, &fields(f, "GET", "/hang"), END_STREAM))));
        pause(60);
        let _ = http2.send(&frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, (f.n % 14) as u8]));
    });
    scene.suffers("HTTP/2: cut with 100 streams open", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[]);
        let begun = |id| match id % 4 {
            1 => headers(id, &fields(f, "GET", "/hang"), END_STREAM),
            _ => [headers(id, &fields(f, "POST", "/"), 0), frame(DATA, 0, id, b"a part")].concat(),
        };
        ids().for_each(|id| drop(http2.send(&begun(id))));
        pause(100);
    });
    scene.ends();
}

#[test]
fn streams_that_break_the_protocol_are_not_held_against_new() {
    let scene = Scene::start(|_, config| {
        config.limits = "body_idle_timeout = \"300ms\"\nkeepalive_timeout = \"2s\"".into();
    });
    let with_length = |f: &Fault<'_>, id, data: &[u8], flags| {
        let mut fields = fields(f, "POST", "/");
        fields.push(("content-length", "5"));
        [headers(id, &fields, 0), frame(DATA, flags, id, data)].concat()
    };
    // Few at once: so far the watchdog has seen only calm, and a quarter of a second without an
    // answer counts as none.
    scene.suffers("HTTP/2: DATA beyond content-length", 2, STREAMS, |f| {
        on_each(f, |id| with_length(f, id, b"more than five", END_STREAM));
    });
    scene.suffers("HTTP/2: DATA short of content-length", 2, STREAMS, |f| {
        on_each(f, |id| with_length(f, id, b"few", END_STREAM));
    });
    // The first fault ends its connection: each needs its own.
    scene.suffers("HTTP/2: invalid trailers", 32, 1, |f| {
        let trailer = [("X-Upper", "a"), (":path", "/"), ("connection", "close")][f.n as usize % 3];
        let body = [headers(1, &fields(f, "POST", "/"), 0), frame(DATA, 0, 1, b"body")].concat();
        alone(f, &[body, headers(1, &[trailer], END_STREAM)].concat());
    });
    scene.suffers("HTTP/2: a body that stalls", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[]);
        let begun = |id| [headers(id, &fields(f, "POST", "/"), 0), frame(DATA, 0, id, b"a part")].concat();
        ids().for_each(|id| drop(http2.send(&begun(id))));
        pause(400);
        settle(&mut http2);
    });
    scene.suffers("HTTP/2: a window that stays shut", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[(4, 0)]);
        ids().for_each(|id| drop(http2.send(&headers(id, &fields(f, "GET", "/large"), END_STREAM))));
        pause(400);
        settle(&mut http2);
    });
    scene.suffers("HTTP/2: resets that the proxy is made to send", 32, 1, |f| {
        let shut = frame(WINDOW_UPDATE, 0, 1, &[0; 4]);
        alone(f, &[headers(1, &fields(f, "POST", "/"), 0), shut].concat());
    });
    scene.suffers("HTTP/2: frames that end the connection", 5, STREAMS, |f| {
        let mut http2 = connect(f, &[]);
        ids().for_each(|id| drop(http2.send(&headers(id, &fields(f, "GET", "/hang"), END_STREAM))));
        pause(40);
        let fatal = match f.n % 4 {
            0 => frame(SETTINGS, 0, 1, &[]),
            1 => frame(HEADERS, END_HEADERS, 2, &[]),
            2 => frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            _ => frame(HEADERS, END_HEADERS, 2 * STREAMS as u32 + 1, &[0xff; 8]),
        };
        let _ = http2.send(&fatal);
        settle(&mut http2);
    });
    scene.ends();
}
