//! The fuse: `new` cannot be connected to. Flips inline, before any statistics.
//!
//! Blown by [`IN_A_ROW`] consecutive failures of `new` to connect, before any byte, over at least two attempts to every server
//! of it (but those that are down by their health probes, which get no request: probes alone blow no fuse), while stable has
//! accepted or answered within the last second, *after* `new` was found dead: the fail-over is the probe, and an answer from
//! before proves nothing when both die together. Local causes (no descriptor, no port) are not to be reported. Invariants: one
//! success clears it; without a living stable it never blows, so it cannot flip to an arm that is not answering.
//!
//! This is the definition, and it is small enough to be used under a lock on the failure path; a success needs only an
//! atomic check that there is something to clear.

use std::time::Duration;

pub const IN_A_ROW: u32 = 5;
pub const TRIES_PER_SERVER: u32 = 2;
pub const STABLE_ALIVE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fuse {
    in_a_row: u32,
    /// Failed tries per server of `new` since the last success.
    tried: Vec<u32>,
    /// When the failures became enough.
    dead_since: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blown {
    Yes,
    No,
}

impl Fuse {
    pub fn new(servers: usize) -> Fuse {
        Fuse { in_a_row: 0, tried: vec![0; servers], dead_since: None }
    }

    /// How many servers of `new` it watches.
    pub fn servers(&self) -> usize {
        self.tried.len()
    }

    /// A connection to any server of `new` stands, or `new` answered.
    pub fn connected(&mut self) {
        *self = Fuse::new(self.tried.len());
    }

    /// No connection to this server of `new`. `out`: servers that are down by their probes, and need not have been tried.
    /// `stable_alive`: when stable last accepted or answered.
    pub fn refused(
        &mut self,
        server: usize,
        out: &[bool],
        now: Duration,
        stable_alive: Option<Duration>,
    ) -> Blown {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if let Some(tries) = self.tried.get_mut(server) {
            *tries = tries.saturating_add(1);
        }
        let is_out = |i: usize| out.get(i).copied().unwrap_or(false);
        let tried = self.tried.iter().enumerate().all(|(i, tries)| *tries >= TRIES_PER_SERVER || is_out(i));
        let dead = self.in_a_row >= IN_A_ROW && tried;
        if dead {
            self.dead_since.get_or_insert(now);
        }
        self.judge(now, stable_alive)
    }

    /// Also to be asked when stable answers: the failures may have come first.
    pub fn judge(&self, now: Duration, stable_alive: Option<Duration>) -> Blown {
        // Signs of life are kept in whole milliseconds.
        let proven = |since: Duration, at: Duration| at.as_millis() >= since.as_millis();
        match (self.dead_since, stable_alive) {
            (Some(since), Some(at)) if proven(since, at) && now.saturating_sub(at) <= STABLE_ALIVE => {
                Blown::Yes
            }
            _ => Blown::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const ALIVE: Option<Duration> = Some(NOW);

    #[test]
    fn it_blows_at_the_fifth_refusal_in_a_row() {
        let mut fuse = Fuse::new(1);
        assert!((0..4).all(|_| fuse.refused(0, &[], NOW, ALIVE) == Blown::No));
        assert_eq!(fuse.refused(0, &[], NOW, ALIVE), Blown::Yes);
    }

    #[test]
    fn every_server_must_have_been_tried_twice() {
        let mut fuse = Fuse::new(2);
        (0..9).for_each(|_| assert_eq!(fuse.refused(0, &[], NOW, ALIVE), Blown::No));
        assert_eq!(fuse.refused(1, &[], NOW, ALIVE), Blown::No);
        assert_eq!(fuse.refused(1, &[], NOW, ALIVE), Blown::Yes);
    }

    #[test]
    fn a_server_that_is_down_by_its_probes_need_not_have_been_tried() {
        let mut fuse = Fuse::new(2);
        assert!((0..4).all(|_| fuse.refused(0, &[false, true], NOW, ALIVE) == Blown::No));
        assert_eq!(fuse.refused(0, &[false, true], NOW, ALIVE), Blown::Yes);
    }

    #[test]
    fn a_connection_clears_it() {
        let mut fuse = Fuse::new(1);
        (0..4).for_each(|_| _ = fuse.refused(0, &[], NOW, ALIVE));
        fuse.connected();
        assert!((0..4).all(|_| fuse.refused(0, &[], NOW, ALIVE) == Blown::No));
    }

    #[test]
    fn it_never_blows_while_stable_is_silent() {
        let mut fuse = Fuse::new(1);
        for alive in [None, NOW.checked_sub(Duration::from_millis(1))] {
            (0..20).for_each(|_| assert_eq!(fuse.refused(0, &[], NOW, alive), Blown::No));
        }
        assert_eq!(fuse.judge(NOW, ALIVE), Blown::Yes);
    }
}
