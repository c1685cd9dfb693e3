//! Which of many equal events get a log line.
//!
//! Invariants: a [`Throttle`] lets the first event through, and then at most one in `EVERY`.
//! A [`TroubleEdges`] lets the first failure of a series through, and the first success after it.

use super::clock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(10);

/// Rate limit for a log line that could be due at every event.
#[derive(Default)]
pub struct Throttle {
    /// Time of the last line, in milliseconds of [`clock::now`]; 0: none yet.
    last_ms: AtomicU64,
    /// Events since the last line.
    waiting: AtomicU32,
}

impl Throttle {
    pub fn is_due(&self) -> bool {
        self.is_due_at(clock::now_ms())
    }

    /// Counts an event, if one `happened`.
    /// Returns the number of events since the last line, if a line is due.
    pub fn due(&self, happened: bool) -> Option<u32> {
        self.due_at(happened, clock::now_ms())
    }

    fn is_due_at(&self, now_ms: u64) -> bool {
        let (now, last) = (now_ms.max(1), self.last_ms.load(Relaxed));
        (last == 0 || now.saturating_sub(last) >= EVERY.as_millis() as u64)
            && self.last_ms.compare_exchange(last, now, Relaxed, Relaxed).is_ok()
    }

    fn due_at(&self, happened: bool, now_ms: u64) -> Option<u32> {
        let waiting = self.waiting.fetch_add(u32::from(happened), Relaxed) + u32::from(happened);
        (waiting > 0 && self.is_due_at(now_ms)).then(|| self.waiting.swap(0, Relaxed))
    }
}

/// The begin and the end of a series of failures.
#[derive(Default)]
pub struct TroubleEdges {
    fails: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Begins,
    Ends,
}

impl TroubleEdges {
    /// Adds a result; returns what changed.
    pub fn turn(&mut self, fails: bool) -> Option<Turn> {
        match (std::mem::replace(&mut self.fails, fails), fails) {
            (false, true) => Some(Turn::Begins),
            (true, false) => Some(Turn::Ends),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_a_line_in_ten_seconds_and_its_last_event_gets_one_too() {
        let throttle = Throttle::default();
        let due = [0, 1, 9_999, 10_001, 10_002].map(|at| throttle.is_due_at(at));
        assert_eq!(due, [true, false, false, true, false]);
        let throttle = Throttle::default();
        let due = [(false, 0), (true, 5), (true, 6), (true, 7), (false, 10_005), (false, 30_000)]
            .map(|(happened, at)| throttle.due_at(happened, at));
        assert_eq!(due, [None, Some(1), None, None, Some(2), None]);
    }

    #[test]
    fn a_series_of_failures_has_a_begin_and_an_end() {
        let mut edge = TroubleEdges::default();
        let turns = [false, true, true, false, false].map(|fails| edge.turn(fails));
        assert_eq!(turns, [None, Some(Turn::Begins), None, Some(Turn::Ends), None]);
    }
}
