//! The position of a release in its plan, and the effect of an edit of that plan.
//!
//! Waves are identified by name. Edits to past waves have no effect; the current and later waves
//! take their new settings. If the current name is gone, the release continues in the last wave
//! whose reach does not exceed the current one, or before the first. So an edit that only renames
//! waves raises nothing.

use crate::domain::wave::{Exposure, Strategy, Wave};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlanProgress {
    /// The name of the current wave.
    pub wave: String,
    /// Its reach, or its last reach in the file.
    pub exposure: Exposure,
    /// It is the last one, and passed its gates.
    pub finished: bool,
    /// Number of the ledger entry that records its opening; 0: not recorded yet.
    pub entry: u64,
}

impl PlanProgress {
    pub fn entering(wave: &Wave) -> PlanProgress {
        PlanProgress { wave: wave.name.clone(), exposure: wave.exposure, finished: false, entry: 0 }
    }

    /// The index of the current wave.
    pub fn place(&self, waves: &[Wave]) -> Option<usize> {
        waves.iter().position(|wave| wave.name == self.wave)
    }

    /// The progress after `before` under another file.
    /// `standing`: the reach in force if there is no progress, as for a weight set by hand.
    pub fn under(
        before: Option<&PlanProgress>,
        strategy: Strategy<'_>,
        standing: Exposure,
    ) -> Option<PlanProgress> {
        let Strategy::Waves(waves) = strategy else { return None };
        if let Some((known, place)) = before.and_then(|b| Some((b, b.place(waves)?))) {
            let same = known.exposure == waves[place].exposure && place + 1 == waves.len();
            let finished = known.finished && same;
            return Some(PlanProgress {
                finished,
                entry: known.entry,
                ..PlanProgress::entering(&waves[place])
            });
        }
        let come = before.map_or(standing, |b| b.exposure);
        let no_further =
            |w: &&Wave| w.until_complete.weight <= come.weight && w.exposure.segments <= come.segments;
        waves.iter().rfind(no_further).map(PlanProgress::entering)
    }
}
