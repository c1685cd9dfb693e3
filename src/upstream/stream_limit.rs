//! The streams that a server allows on an HTTP/2 connection, read from its SETTINGS.
//!
//! Invariants: a limit is known here before the library applies it. The library queues requests
//! above the limit, and a queued request cannot be moved to another connection.
//! No request is sent before the first SETTINGS.
//! A malformed frame ends nothing here: the library refuses it.

use crate::upstream::server::STREAMS_MAX;
use std::cell::Cell;
use std::rc::Rc;
use tokio::sync::Notify;

/// RFC 9113 §4.1, §6.5.
const FRAME_HEAD_BYTES: usize = 9;
const SETTING_BYTES: usize = 6;
const SETTINGS: u8 = 4;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// The limit of one connection.
pub struct StreamLimit {
    /// `None`: no SETTINGS yet.
    allowed: Cell<Option<usize>>,
    /// It was above zero at some time.
    was_open: Cell<bool>,
    ended: Cell<bool>,
    /// Notified by the first SETTINGS, and at the end of the connection.
    known: Notify,
    /// Of the pool: its requests wait for a stream.
    freed: Rc<Notify>,
}

impl StreamLimit {
    pub fn new(freed: Rc<Notify>) -> Rc<Self> {
        Rc::new(StreamLimit {
            allowed: Cell::default(),
            was_open: Cell::default(),
            ended: Cell::default(),
            known: Notify::new(),
            freed,
        })
    }

    /// Streams that may be in flight now; at most [`STREAMS_MAX`].
    pub fn allowed(&self) -> usize {
        self.allowed.get().unwrap_or(0)
    }

    /// Whether the server has allowed no stream so far.
    pub fn was_never_open(&self) -> bool {
        !self.was_open.get()
    }

    /// Waits for the first SETTINGS. `None`: the connection has ended.
    pub async fn until_known(&self) -> Option<usize> {
        loop {
            if self.ended.get() {
                return None;
            }
            if let Some(allowed) = self.allowed.get() {
                return Some(allowed);
            }
            self.known.notified().await;
        }
    }

    /// The connection has ended.
    pub fn end(&self) {
        self.ended.set(true);
        self.known.notify_one();
    }

    fn set(&self, allowed: usize) {
        self.allowed.set(Some(allowed));
        self.was_open.set(self.was_open.get() || allowed > 0);
        self.known.notify_one();
        self.freed.notify_waiters();
    }
}

/// Follows the frames that a server sends, and reads its SETTINGS.
pub struct SettingsReader {
    limit: Rc<StreamLimit>,
    /// The head of a frame, or a setting, as far as it has arrived.
    unit: [u8; FRAME_HEAD_BYTES],
    filled: usize,
    /// Bytes left of a SETTINGS frame.
    settings_left: usize,
    /// Bytes left of another frame.
    skip: usize,
    /// The value in this SETTINGS frame, or in an earlier one.
    streams: usize,
}

impl SettingsReader {
    pub fn new(limit: Rc<StreamLimit>) -> Self {
        // RFC 9113 §6.5.2: without the setting there is no limit.
        let (unit, streams) = ([0; FRAME_HEAD_BYTES], STREAMS_MAX);
        SettingsReader { limit, unit, filled: 0, settings_left: 0, skip: 0, streams }
    }

    /// The next bytes of the server.
    pub fn read(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            if bytes.is_empty() {
                return;
            }
            let wanted = if self.settings_left > 0 { SETTING_BYTES } else { FRAME_HEAD_BYTES };
            let (taken, rest) = bytes.split_at((wanted - self.filled).min(bytes.len()));
            self.unit[self.filled..self.filled + taken.len()].copy_from_slice(taken);
            (self.filled, bytes) = (self.filled + taken.len(), rest);
            if self.filled < wanted {
                return;
            }
            self.filled = 0;
            if self.settings_left > 0 { self.setting() } else { self.frame() }
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.unit;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if kind != SETTINGS || flags & ACK != 0 {
            self.skip = length;
            return;
        }
        match length {
            0 => self.limit.set(self.streams),
            // Malformed.
            _ if !length.is_multiple_of(SETTING_BYTES) => self.skip = length,
            _ => self.settings_left = length,
        }
    }

    fn setting(&mut self) {
        let [i, d, a, b, c, e, ..] = self.unit;
        if u16::from_be_bytes([i, d]) == MAX_CONCURRENT_STREAMS {
            self.streams = (u32::from_be_bytes([a, b, c, e]) as usize).min(STREAMS_MAX);
        }
        self.settings_left -= SETTING_BYTES;
        if self.settings_left == 0 {
            self.limit.set(self.streams);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 0], payload].concat()
    }

    fn setting(id: u8, value: u32) -> Vec<u8> {
        [&[0, id][..], &value.to_be_bytes()].concat()
    }

    #[test]
    fn the_last_value_counts_wherever_the_bytes_are_cut() {
        let ping = [0; 8];
        let other = setting(4, 7);
        for (frames, wanted) in [
            (vec![frame(SETTINGS, 0, &[])], Some(STREAMS_MAX)),
            (vec![frame(SETTINGS, ACK, &[])], None),
            (vec![frame(SETTINGS, 0, &setting(3, 8))], Some(8)),
            (vec![frame(SETTINGS, 0, &setting(3, 0))], Some(0)),
            (vec![frame(SETTINGS, 0, &setting(3, u32::MAX))], Some(STREAMS_MAX)),
            (vec![frame(SETTINGS, 0, &[&other[..], &setting(3, 8), &setting(3, 9)].concat())], Some(9)),
            (
                vec![frame(SETTINGS, 0, &setting(3, 8)), frame(6, 0, &ping), frame(SETTINGS, 0, &other)],
                Some(8),
            ),
            (
                vec![frame(SETTINGS, 0, &[]), frame(0, 1, &[4; 100]), frame(SETTINGS, 0, &setting(3, 1))],
                Some(1),
            ),
            // Not a multiple of six: the library ends the connection.
            (vec![frame(SETTINGS, 0, &[0; 7]), frame(SETTINGS, 0, &setting(3, 5))], Some(5)),
        ] {
            let bytes = frames.concat();
            for piece in 1..=bytes.len() {
                let limit = StreamLimit::new(Rc::default());
                let mut reader = SettingsReader::new(limit.clone());
                bytes.chunks(piece).for_each(|piece| reader.read(piece));
                assert_eq!(limit.allowed.get(), wanted, "{bytes:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_server_that_lowers_its_limit_to_zero_has_been_open() {
        let limit = StreamLimit::new(Rc::default());
        let mut reader = SettingsReader::new(limit.clone());
        reader.read(&frame(SETTINGS, 0, &setting(3, 0)));
        assert!(limit.was_never_open());
        reader.read(&frame(SETTINGS, 0, &setting(3, 2)));
        reader.read(&frame(SETTINGS, 0, &setting(3, 0)));
        assert_eq!((limit.allowed(), limit.was_never_open()), (0, false));
    }
}
