//! An edited level starts its evidence anew: what was won against 3% says nothing about 15%.
//!
//! What a level's evidence is: FIRST's latency of that level, ONCE's very slow answers, WINDOW's
//! rows, and what earlier draws had won of it; of [`Level::Flip`] whole exchanges, too. Users who
//! were slow before are clean again for it. Everything else goes on as it was.
//!
//! A fresh start of what may trip is a budget of its own: it takes one of the ten. Where none is
//! left, no bet has more than it had. A notice never trips, so one that has ended costs nothing.
//!
//! Invariants: the evidence of the other level, and of all other signals, is untouched; no bet is
//! made on what was in flight under the old level.

use super::*;

impl Engine {
    /// This level was edited: its evidence starts anew, and takes a budget.
    pub fn restart_level(&mut self, level: Level) {
        let budget = self.raises_left > 0;
        self.raises_left = self.raises_left.saturating_sub(1);
        self.forget_level(level, budget);
    }

    /// `alpha` was edited: evidence is evidence at any alpha, and stays. The promise is for each
    /// alpha, so this takes a budget, too.
    pub fn edit_alpha(&mut self, alpha: f64) {
        self.settings.alpha = alpha;
        self.raises_left = self.raises_left.saturating_sub(1);
    }

    /// The notice is over: the next one needs evidence of its own.
    pub fn end_notice(&mut self) {
        self.forget_level(Level::Notice, true);
    }

    /// `budget`: with the wealth of no data; else with that at most.
    fn forget_level(&mut self, level: Level, budget: bool) {
        let kinds = kinds_of(level);
        self.scopes().for_each(|scope| {
            scope.first.restart(level, budget);
            for kind in kinds {
                scope.once.restart_kind(*kind, budget);
            }
            let had: Vec<_> = scope.marks.iter().filter(|(_, mark)| mark.has_any(kinds)).collect();
            for (unit, mark) in had {
                *scope.marks.at(unit) = mark.without(kinds);
            }
        });
        for interval in &mut self.intervals {
            for (.., ends) in &mut interval.bad {
                *ends = Ends { all: ends.all.without(kinds), counted: ends.counted.without(kinds) };
            }
            for scored in &mut interval.scored {
                scored.rank[level as usize] = 0.0;
                scored.kinds = scored.kinds.without(kinds);
            }
        }
        match level {
            Level::Flip => {
                self.windows.forget(window_rows(Signal::Latency));
                self.carried[Signal::Latency as usize] = 0.0;
                self.carried[Signal::Duration as usize] = 0.0;
            }
            Level::Notice => {
                self.windows.forget(NOTICE_ROWS);
                self.carried[NOTICE] = 0.0;
            }
        }
    }
}

fn kinds_of(level: Level) -> &'static [Kind] {
    const FLIP: &[Kind] =
        &[Kind::Slow98(Level::Flip as usize), Kind::Slow999(Level::Flip as usize), Kind::Long];
    const NOTICE: &[Kind] = &[Kind::Slow98(Level::Notice as usize), Kind::Slow999(Level::Notice as usize)];
    match level {
        Level::Flip => FLIP,
        Level::Notice => NOTICE,
    }
}
