//! Where a release stands in its plan, and what an edited plan makes of that.
//!
//! A wave behind is history; a wave ahead changes; the present one, known by its name, is what it
//! now says. Where its name is gone, the release goes on in the last wave that reaches no further
//! than it had come, or before the first: an edit that only moves names about raises nothing.

use crate::domain::wave::{Course, Reach, Wave};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The present wave's name.
    pub wave: String,
    /// How far it reaches, or did when the file last had it.
    pub reach: Reach,
    /// It is the last one, and has proved itself.
    pub finished: bool,
    /// Number of the ledger entry that records its opening; 0: not recorded yet.
    pub entry: u64,
}

impl Progress {
    pub fn entering(wave: &Wave) -> Progress {
        Progress { wave: wave.name.clone(), reach: wave.reach, finished: false, entry: 0 }
    }

    /// The index of the present wave.
    pub fn place(&self, waves: &[Wave]) -> Option<usize> {
        waves.iter().position(|wave| wave.name == self.wave)
    }

    /// What becomes of `before` under another file. `standing`: what is in force, where nothing is
    /// remembered, as a weight set by hand.
    pub fn under(before: Option<&Progress>, course: Course<'_>, standing: Reach) -> Option<Progress> {
        let Course::Waves(waves) = course else { return None };
        if let Some((known, place)) = before.and_then(|b| Some((b, b.place(waves)?))) {
            let same = known.reach == waves[place].reach && place + 1 == waves.len();
            let finished = known.finished && same;
            return Some(Progress { finished, entry: known.entry, ..Progress::entering(&waves[place]) });
        }
        let come = before.map_or(standing, |b| b.reach);
        let no_further =
            |w: &&Wave| w.until_complete.weight <= come.weight && w.reach.segments <= come.segments;
        waves.iter().rfind(no_further).map(Progress::entering)
    }
}
