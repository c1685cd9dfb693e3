//! Waves: the steps of a release's plan, and their reach.
//!
//! A wave is identified by its name.
//! Invariants (kept by `config::check`): names are unique within a release; from wave to wave
//! segments are only added and the weight never decreases, so a wave moves no user out of `new`.

use crate::stats::cohort::{Bucket, Weight};
use std::time::Duration;

/// The users in `new`: those of the first `segments` segments of the release, and a share of all
/// others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Exposure {
    pub weight: Weight,
    /// Number of [`crate::domain::config::Release::segments`], in their order.
    pub segments: usize,
}

impl Exposure {
    /// Before any wave.
    pub const NOBODY: Exposure = Exposure { weight: Weight::ZERO, segments: 0 };

    /// Without the users of the highest buckets, of which a share of `holdback` stays on stable.
    pub fn held_back(self, holdback: Weight) -> Exposure {
        let most = Weight::from_parts(Weight::FULL.parts().saturating_sub(holdback.parts()));
        Exposure { weight: self.weight.min(most), ..self }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wave {
    pub name: String,
    pub exposure: Exposure,
    /// The same until the release is complete: without the users that `holdback` keeps on stable.
    pub until_complete: Exposure,
    /// The wave is judged once the watchdog has watched it for this long; a restart keeps that
    /// time.
    pub bake: Duration,
    /// Requests of `new` in this wave.
    pub requests_min: u64,
    /// Distinct users in this wave; of each arm, where there are two.
    pub users_min: u64,
    pub promotion: Promotion,
}

/// What opens a wave, once the previous one passed its gates.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Promotion {
    #[default]
    Auto,
    /// A person's `promote`.
    ByHand,
}

/// How the file controls a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Strategy<'a> {
    /// A weight set by hand.
    ByHand(Exposure),
    Waves(&'a [Wave]),
}

impl Strategy<'_> {
    /// Would the file let users in without a person's decision?
    pub fn lets_in(self) -> bool {
        match self {
            Strategy::ByHand(exposure) => exposure != Exposure::NOBODY,
            Strategy::Waves(waves) => waves.first().is_some_and(|wave| wave.promotion == Promotion::Auto),
        }
    }
}

impl Wave {
    /// Does the hash put users into both arms, so that they can be compared?
    pub fn controlled(&self) -> bool {
        self.until_complete.weight > Weight::ZERO && self.until_complete.weight < Weight::FULL
    }

    /// The share of users that is kept on stable until the release is complete.
    pub fn holds_back(&self) -> Weight {
        Weight::from_parts(self.exposure.weight.parts() - self.until_complete.weight.parts())
    }
}

/// What opens the step after the wave `present` (`None`: before the first one): the next wave, or
/// the move of the users held back. `None`: no step follows.
pub fn door_after(waves: &[Wave], present: Option<usize>) -> Option<Promotion> {
    match waves.get(present.map_or(0, |i| i + 1)) {
        Some(next) => Some(next.promotion),
        None => waves.last().filter(|last| last.holds_back() > Weight::ZERO).map(|_| Promotion::Auto),
    }
}

/// The first wave that has a user in `new`: a user of this bucket and this segment (by index).
pub fn first_with(waves: &[Wave], bucket: Bucket, segment: Option<usize>) -> Option<usize> {
    waves
        .iter()
        .position(|w| w.exposure.weight.holds(bucket) || segment.is_some_and(|s| s < w.exposure.segments))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// `testers:10m 5%:1h:by-hand 100%:1h`: waves named after their weight; a word in place of a
    /// weight is a segment that joins, `5%=3%` has the name 5% and the weight 3%, `100%-1%` holds
    /// 1% back.
    pub fn waves(text: &str) -> Vec<Wave> {
        let mut exposure = Exposure::NOBODY;
        let wave = |word: &str| {
            let mut parts = word.split(':');
            let called = parts.next().unwrap_or_default();
            let (name, weight) = called.split_once('=').unwrap_or((called, called));
            let (weight, back) = weight.split_once('-').unwrap_or((weight, "0%"));
            match Weight::parse(weight) {
                Ok(weight) => exposure.weight = weight,
                Err(_) => exposure.segments += 1,
            }
            let bake = parts.next().and_then(|m| m.strip_suffix('m')?.parse::<u64>().ok());
            Wave {
                name: name.to_owned(),
                exposure,
                until_complete: exposure.held_back(Weight::parse(back).unwrap()),
                bake: Duration::from_secs(60 * bake.unwrap_or(10)),
                requests_min: 500,
                users_min: 5,
                promotion: if parts.next() == Some("by-hand") { Promotion::ByHand } else { Promotion::Auto },
            }
        };
        text.split_whitespace().map(wave).collect()
    }

    #[test]
    fn a_user_enters_in_the_first_wave_that_holds_him() {
        let waves = waves("testers:10m 1%:10m staff:10m 50%:10m");
        let at = |bucket: &str, segment| first_with(&waves, bucket_at(bucket), segment);
        assert_eq!(at("0.5%", None), Some(1));
        assert_eq!(at("0.5%", Some(0)), Some(0));
        assert_eq!(at("30%", Some(1)), Some(2));
        assert_eq!(at("30%", None), Some(3));
        assert_eq!(at("90%", None), None);
    }

    fn bucket_at(percent: &str) -> Bucket {
        let parts = Weight::parse(percent).unwrap().parts();
        Bucket::of_hash(((u128::from(parts) << 64) / 1_000_000 + 1) as u64)
    }
}
