//! Evidence gained against `new` while stable was in trouble is set aside: it justifies no
//! rollback.
//!
//! The engine scores every final interval, in any state of stable. But a shared outage may reach
//! one arm a moment earlier, or leave it a moment later, and the users hit in that moment are not
//! exchangeable. So for each part of each signal's evidence, the rise while the signal was
//! *deferred* is recorded here. The products (first requests, first failures) are divided by it.
//! The gain of earlier draws is reduced by it. Windows that contain deferred time are left out,
//! however late they close. Evidence of other times stays unchanged, and further events after the
//! trouble raise it from there.
//!
//! Validity: the rest is never more than the engine's own evidence, for any choice of what is set
//! aside. So it exceeds 1/α with probability at most α wherever the engine's evidence does.
//!
//! Invariants: pure; nothing in the engine changes; when a part falls, its set-aside share falls
//! with it.

use crate::stats::engine::{SIGNALS, Signal};

/// The parts of a signal's evidence: first requests, first failures, windows, earlier draws.
pub const PARTS: usize = 4;
const WINDOWS: usize = 2;
const CARRIED: usize = 3;

pub type EvidenceParts = [[f64; PARTS]; SIGNALS];

#[derive(Clone, Copy, Debug, Default)]
pub struct SetAside {
    /// The engine's parts at the last look.
    was: EvidenceParts,
    /// Nats for a product, an amount for a sum.
    aside: EvidenceParts,
}

fn is_product(part: usize) -> bool {
    part < 2
}

impl SetAside {
    /// Takes the engine's evidence of a look. `windows`: by signal, the part from deferred windows.
    /// `deferred`: is the signal deferred now? Returns the rest.
    pub fn take(
        &mut self,
        now: &EvidenceParts,
        windows: [f64; SIGNALS],
        deferred: [bool; SIGNALS],
    ) -> EvidenceParts {
        let mut left = *now;
        for signal in 0..SIGNALS {
            self.move_to_carried(signal, now[signal][CARRIED]);
            let nothing = crate::stats::engine::Engine::nothing_of_parts(Signal::ALL[signal]);
            for part in 0..PARTS {
                let (was, is) = (self.was[signal][part], now[signal][part]);
                let aside = &mut self.aside[signal][part];
                if is_product(part) {
                    let gain = if was > 0.0 && is > 0.0 { (is / was).ln() } else { 0.0 };
                    if deferred[signal] && gain.is_finite() {
                        *aside += gain;
                    }
                    *aside = aside.min((is / nothing[part]).ln()).max(0.0);
                    left[signal][part] = is * (-*aside).exp();
                } else {
                    match part {
                        WINDOWS => *aside = windows[signal],
                        _ if deferred[signal] => *aside += is - was,
                        _ => {}
                    }
                    *aside = if aside.is_finite() { aside.clamp(0.0, is.max(0.0)) } else { is };
                    left[signal][part] = if *aside < is { is - *aside } else { 0.0 };
                }
            }
        }
        self.was = *now;
        left
    }

    /// Another draw has begun: the gain of the products is now in the carried part, and so is its
    /// set-aside share.
    fn move_to_carried(&mut self, signal: usize, carried: f64) {
        let (was, aside) = (&self.was[signal], &mut self.aside[signal]);
        if carried <= was[CARRIED] {
            return;
        }
        for part in (0..PARTS).filter(|part| is_product(*part)) {
            aside[CARRIED] += was[part] * (1.0 - (-aside[part]).exp());
            aside[part] = 0.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOTHING: [f64; PARTS] = [0.06, 0.06, 0.0, 0.0];

    fn of_errors(parts: [f64; PARTS]) -> EvidenceParts {
        [parts, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING]
    }

    #[test]
    fn what_rose_in_a_trouble_is_set_aside_and_nothing_else() {
        let (mut aside, errors) = (SetAside::default(), [true, false, false, false, false, false]);
        let calm = [false; SIGNALS];
        let mut late = 0.0;
        let mut left = |aside: &mut SetAside, parts: [f64; PARTS], deferred: [bool; SIGNALS]| {
            late = if parts[2] > 1.0 { 100.0 } else { late };
            aside.take(&of_errors(parts), [late, 0.0, 0.0, 0.0, 0.0, 0.0], deferred)[0]
        };
        left(&mut aside, NOTHING, calm);
        assert_eq!(left(&mut aside, [6.0, 0.06, 1.0, 0.0], calm), [6.0, 0.06, 1.0, 0.0]);
        let [first, once, windows, _] = left(&mut aside, [600.0, 6.0, 101.0, 0.0], errors);
        assert!((first - 6.0).abs() < 1e-9 && (once - 0.0625).abs() < 3e-3 && windows == 1.0);
        // Ten times as much again, in calm times.
        let [first, ..] = left(&mut aside, [6000.0, 6.0, 101.0, 0.0], calm);
        assert!((first - 60.0).abs() < 1e-9);
        // A new draw: the gain is carried, and so is the set-aside share.
        let [first, once, _, carried] = left(&mut aside, [0.06, 0.06, 101.0, 6006.0], calm);
        assert!((first - 0.06).abs() < 1e-9 && (once - 0.06).abs() < 1e-9);
        assert!((50.0..70.0).contains(&carried), "{carried}");
    }

    proptest! {
        #[test]
        fn what_is_left_is_never_more_than_there_is(
            looks in prop::collection::vec((proptest::array::uniform4(prop_oneof![0.0f64..1e3, Just(f64::INFINITY), Just(0.0)]), any::<bool>()), 1..30),
        ) {
            let mut aside = SetAside::default();
            for (parts, deferred) in looks {
                let left = aside.take(&of_errors(parts), [parts[2]; SIGNALS], [deferred; SIGNALS])[0];
                for (left, is) in left.into_iter().zip(parts) {
                    prop_assert!(left <= is && left >= 0.0 || is.is_infinite(), "{} of {}", left, is);
                }
            }
        }
    }
}
