//! An edited level starts its evidence anew: evidence against 3% is none against 15%.
//!
//! The evidence of a level: FIRST's latency of that level, ONCE's very slow answers, WINDOW's rows,
//! and its part of earlier draws. For [`Level::Flip`] also whole exchanges.
//! Users who were slow before are clean again for it. All other evidence is kept.
//!
//! A fresh start of evidence that may trip takes one of the ten budgets. If none is left, no bet
//! has more than it had.
//! A notice never trips, so its restart costs no budget.
//!
//! Invariants: the evidence of the other level and of all other signals is unchanged; no bet uses
//! requests in flight under the old level.

use super::*;

impl Engine {
    /// Restarts the evidence of an edited level, and takes a budget.
    pub fn restart_level(&mut self, level: Level) {
        let budget = self.raises_left > 0;
        self.raises_left = self.raises_left.saturating_sub(1);
        self.forget_level(level, budget);
    }

    /// Applies an edited `alpha`. The evidence is valid at any alpha and stays. The error bound
    /// holds for each alpha, so this also takes a budget.
    pub fn edit_alpha(&mut self, alpha: f64) {
        self.settings.alpha = alpha;
        self.raises_left = self.raises_left.saturating_sub(1);
    }

    /// Ends a notice. The next one needs evidence of its own.
    pub fn end_notice(&mut self) {
        self.forget_level(Level::Notice, true);
    }

    /// `budget`: restart with the wealth of no data; else with at most the present wealth.
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
            for UserEffect { ends, .. } in &mut interval.bad {
                *ends = FirstEvents { all: ends.all.without(kinds), counted: ends.counted.without(kinds) };
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

fn kinds_of(level: Level) -> &'static [FirstEventKind] {
    const FLIP: &[FirstEventKind] = &[
        FirstEventKind::Slow98(Level::Flip as usize),
        FirstEventKind::Slow999(Level::Flip as usize),
        FirstEventKind::Long,
    ];
    const NOTICE: &[FirstEventKind] =
        &[FirstEventKind::Slow98(Level::Notice as usize), FirstEventKind::Slow999(Level::Notice as usize)];
    match level {
        Level::Flip => FLIP,
        Level::Notice => NOTICE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::engine::tests::{Dice, World, sound};

    /// 20% slower, with a notice of 3% and a tolerance of 50%.
    fn noticed() -> World {
        let mut world = World::new(11, 5000, 20.0, 0);
        world.engine.set_levels(0.5, 0.03, Duration::ZERO);
        assert_eq!(world.run(12_000, &sound), None);
        let slower = |dice: &mut Dice, user: usize, arm: Arm, route: u8| {
            let by = if arm == Arm::New { 1.2 } else { 1.0 };
            sound(dice, user, arm, route).map(|(ms, what)| (by * ms, what))
        };
        assert_eq!(world.run(40_000, &slower), None, "it is tolerated");
        assert!(world.engine.notice() >= 1000.0, "{}", world.engine.notice());
        world
    }

    #[test]
    fn an_edited_notice_starts_its_evidence_anew_and_leaves_the_rest() {
        let mut world = noticed();
        let parts = |engine: &Engine| Signal::ALL.map(|signal| engine.parts(signal));
        let before = parts(&world.engine);
        world.engine.restart_level(Level::Notice);
        assert_eq!(parts(&world.engine), before, "all that may trip is as it was");
        assert!(world.engine.notice() <= 0.3, "{:?}", world.engine.notice_parts());
        assert_eq!(world.engine.raises_left, RAISES - 1);
        // 20% is above 3% and below 30%.
        world.engine.set_levels(0.5, 0.3, Duration::ZERO);
        let slower = |dice: &mut Dice, user: usize, arm: Arm, route: u8| {
            let by = if arm == Arm::New { 1.2 } else { 1.0 };
            sound(dice, user, arm, route).map(|(ms, what)| (by * ms, what))
        };
        world.run(40_000, &slower);
        assert!(world.engine.notice() < 20.0, "{:?}", world.engine.notice_parts());
        world.engine.restart_level(Level::Notice);
        world.engine.set_levels(0.5, 0.03, Duration::ZERO);
        world.run(60_000, &slower);
        assert!(world.engine.notice() >= 1000.0, "it is noticed again: {:?}", world.engine.notice_parts());
    }

    #[test]
    fn an_edited_tolerance_starts_the_latency_that_trips_anew_and_no_budget_is_made_up() {
        let mut world = noticed();
        let (errors, notice) = (world.engine.parts(Signal::Errors), world.engine.notice());
        for edit in 0..RAISES {
            world.engine.restart_level(Level::Flip);
            assert_eq!(world.engine.raises_left, RAISES - 1 - edit);
        }
        let nothing = Engine::nothing_of_parts(Signal::Latency);
        let [first, once, windows, carried] = world.engine.parts(Signal::Latency);
        assert!((first - nothing[0]).abs() < 1e-12 && (once - nothing[1]).abs() < 1e-12);
        assert_eq!((windows, carried), (0.0, 0.0));
        assert_eq!((world.engine.parts(Signal::Errors), world.engine.notice()), (errors, notice));
        // All budgets are spent, so wealth lost from here on stays lost.
        world.run(20_000, &sound);
        let [first, once, ..] = world.engine.parts(Signal::Latency);
        world.engine.restart_level(Level::Flip);
        let [then_first, then_once, ..] = world.engine.parts(Signal::Latency);
        assert!(then_first <= first.min(nothing[0]) + 1e-12 && then_once <= once.min(nothing[1]) + 1e-12);
        // An edited alpha takes a budget and resets nothing.
        let before = world.engine.e_value();
        world.engine.edit_alpha(0.01);
        assert_eq!(world.engine.e_value(), before);
    }
}
