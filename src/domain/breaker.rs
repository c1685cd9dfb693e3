//! The circuit breaker: connections to `new` fail. Trips inline, before any statistics.
//!
//! It opens on [`IN_A_ROW`] consecutive failures of `new` to connect, before any byte, with at
//! least two attempts to every server of it. Servers down by their health probes are excepted: they
//! get no request, and probes alone do not open the breaker. Also, stable must have accepted or
//! answered within the last second, *after* `new` was found dead: the fail-over is the probe, and
//! an older answer proves nothing when both die together. The caller must not report local causes
//! (no descriptor, no port). Invariants: one success clears it; without a living stable it never
//! blows, so it cannot switch to an arm that does not answer.
//!
//! This type is small enough for a lock on the failure path.
//! A success needs only an atomic check for failures to clear.

use std::time::Duration;

pub const IN_A_ROW: u32 = 5;
pub const TRIES_PER_SERVER: u32 = 2;
pub const STABLE_ALIVE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Breaker {
    in_a_row: u32,
    /// Failed tries per server of `new` since the last success.
    tried: Vec<u32>,
    /// When the failures became enough, and which servers were down by their probes then.
    dead: Option<(Duration, Vec<bool>)>,
}

/// Why the breaker has opened: times are whole milliseconds of one clock.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BreakerTrip {
    pub in_a_row: u32,
    /// By server of `new`: failed tries, and whether it was down by its probes.
    pub servers: Vec<(u32, bool)>,
    /// When the failures became enough.
    pub dead_ms: u64,
    /// When stable last accepted or answered.
    pub stable_ms: u64,
    pub now_ms: u64,
}

impl BreakerTrip {
    /// Whether these numbers open the breaker.
    pub fn follows(&self) -> bool {
        self.in_a_row >= IN_A_ROW
            && self.servers.iter().all(|(tries, out)| *tries >= TRIES_PER_SERVER || *out)
            && self.stable_ms >= self.dead_ms
            && self.now_ms.saturating_sub(self.stable_ms) <= STABLE_ALIVE.as_millis() as u64
    }
}

impl Breaker {
    pub fn new(servers: usize) -> Breaker {
        Breaker { in_a_row: 0, tried: vec![0; servers], dead: None }
    }

    /// Number of watched servers of `new`.
    pub fn servers(&self) -> usize {
        self.tried.len()
    }

    /// A connection to any server of `new` was established, or `new` answered.
    pub fn connected(&mut self) {
        *self = Breaker::new(self.tried.len());
    }

    /// A connection to this server of `new` failed. `out`: servers down by their probes, which need
    /// no attempt. `stable_alive`: when stable last accepted or answered.
    pub fn refused(
        &mut self,
        server: usize,
        out: &[bool],
        now: Duration,
        stable_alive: Option<Duration>,
    ) -> Option<BreakerTrip> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if let Some(tries) = self.tried.get_mut(server) {
            *tries = tries.saturating_add(1);
        }
        let is_out = |i: usize| out.get(i).copied().unwrap_or(false);
        let tried = self.tried.iter().enumerate().all(|(i, tries)| *tries >= TRIES_PER_SERVER || is_out(i));
        if self.in_a_row >= IN_A_ROW && tried && self.dead.is_none() {
            self.dead = Some((now, (0..self.tried.len()).map(is_out).collect()));
        }
        self.judge(now, stable_alive)
    }

    /// Also called when stable answers: the failures may have come first.
    pub fn judge(&self, now: Duration, stable_alive: Option<Duration>) -> Option<BreakerTrip> {
        let ((since, out), alive) = (self.dead.as_ref()?, stable_alive?);
        let ms = |at: Duration| at.as_millis() as u64;
        let breaker_trip = BreakerTrip {
            in_a_row: self.in_a_row,
            servers: self.tried.iter().copied().zip(out.iter().copied()).collect(),
            dead_ms: ms(*since),
            stable_ms: ms(alive),
            now_ms: ms(now),
        };
        Some(breaker_trip).filter(BreakerTrip::follows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);
    const ALIVE: Option<Duration> = Some(NOW);

    #[test]
    fn it_blows_at_the_fifth_refusal_in_a_row() {
        let mut breaker = Breaker::new(1);
        assert!((0..4).all(|_| breaker.refused(0, &[], NOW, ALIVE).is_none()));
        assert!(breaker.refused(0, &[], NOW, ALIVE).is_some_and(|breaker_trip| breaker_trip.follows()));
    }

    #[test]
    fn every_server_must_have_been_tried_twice() {
        let mut breaker = Breaker::new(2);
        (0..9).for_each(|_| assert_eq!(breaker.refused(0, &[], NOW, ALIVE), None));
        assert_eq!(breaker.refused(1, &[], NOW, ALIVE), None);
        assert!(breaker.refused(1, &[], NOW, ALIVE).is_some());
    }

    #[test]
    fn a_server_that_is_down_by_its_probes_need_not_have_been_tried() {
        let mut breaker = Breaker::new(2);
        assert!((0..4).all(|_| breaker.refused(0, &[false, true], NOW, ALIVE).is_none()));
        assert!(breaker.refused(0, &[false, true], NOW, ALIVE).is_some());
    }

    #[test]
    fn a_connection_clears_it() {
        let mut breaker = Breaker::new(1);
        (0..4).for_each(|_| _ = breaker.refused(0, &[], NOW, ALIVE));
        breaker.connected();
        assert!((0..4).all(|_| breaker.refused(0, &[], NOW, ALIVE).is_none()));
    }

    #[test]
    fn it_never_blows_while_stable_is_silent() {
        let mut breaker = Breaker::new(1);
        for alive in [None, NOW.checked_sub(Duration::from_millis(1))] {
            (0..20).for_each(|_| assert_eq!(breaker.refused(0, &[], NOW, alive), None));
        }
        assert!(breaker.judge(NOW, ALIVE).is_some());
    }
}
