//! The data that a restart needs to continue the current wave: its time and its evidence.
//!
//! `wave-RELEASE.bin` in the state directory, written every few seconds by the watchdog, without
//! fsync. A restart loses the time since the last write. A power cut may lose the file, and the
//! wave then bakes again.
//!
//! Invariants: a checkpoint applies to one stage of one attempt, wave and reach, or not at all.
//! Another version begins another stage, so the servers are not part of the key. A checkpoint that
//! is damaged, of another format, newer than the state file or impossible is not used, and the
//! reason is reported. No wall clock is read or written: time is the sum of what processes have
//! counted.

use super::snapshot::ReleaseSnapshot;
use crate::domain::decide::Effective;
use crate::domain::gates::critical_route::{CriticalRoute, CriticalRouteCheckpoint};
use crate::domain::gates::trial::{Margins, Trial};
use crate::domain::rollout::wave_controller::WaveTime;
use crate::domain::wave::Exposure;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::cohort::Weight;
use crate::stats::engine::STRATA_MAX;
use crate::store::checkpoints;
use std::path::Path;
use std::time::Duration;

/// The number is the version of the format and of the method.
/// A change of either makes earlier files unreadable.
const MAGIC: &[u8] = b"grayling-wave 2\n";

pub struct WaveCheckpoint {
    pub spent: WaveTime,
    /// Under the margins in force when it was written.
    pub trial: Option<Trial>,
    /// The critical routes when it was written.
    pub critical: Vec<CriticalRouteCheckpoint>,
}

/// Why a wave bakes again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("nothing was saved of it")]
    Nothing,
    #[error("what was saved of it is damaged, or of another version of grayling")]
    Unreadable,
    #[error("what was saved is of another wave, plan or attempt")]
    Another,
    #[error("what was saved is newer than the state file; was that restored from a copy?")]
    Newer,
    #[error("what was saved cannot be true")]
    Impossible,
    #[error("the evidence against `new` stood at a rollback when it was saved")]
    Tripping,
}

/// Reads the checkpoint of the stage that `release` is in.
pub fn read(directory: Option<&Path>, release: &ReleaseSnapshot) -> Result<WaveCheckpoint, CheckpointError> {
    let file = checkpoints::wave_file(&release.release.name);
    let bytes = directory
        .and_then(|directory| checkpoints::read(directory, &file))
        .ok_or(CheckpointError::Nothing)?;
    parse(&bytes, &ExpectedCheckpoint::of(release))
}

/// `e_value`: the watchdog's evidence against `new`.
pub fn render(
    release: &ReleaseSnapshot,
    spent: &WaveTime,
    trial: Option<&Trial>,
    critical: &[CriticalRoute],
    e_value: f64,
) -> Vec<u8> {
    write(&CheckpointKey::of(release), spent, trial, critical, e_value)
}

fn write(
    key: &CheckpointKey,
    spent: &WaveTime,
    trial: Option<&Trial>,
    critical: &[CriticalRoute],
    e_value: f64,
) -> Vec<u8> {
    let mut encoder = Encoder::with(MAGIC);
    key.write(&mut encoder);
    encoder.f64(e_value.clamp(0.0, f64::MAX));
    for time in [spent.watched, spent.open, spent.held] {
        encoder.u64(time.as_micros() as u64);
    }
    encoder.u32(u32::from(trial.is_some()));
    if let Some(trial) = trial {
        let Margins { errors, latency, tail } = trial.margins();
        encoder.f64s(&[errors, latency, tail]);
        trial.save(&mut encoder);
        encoder.u64(critical.len() as u64);
        critical.iter().for_each(|route| route.save(&mut encoder));
    }
    encoder.finish()
}

fn parse(bytes: &[u8], wanted: &ExpectedCheckpoint) -> Result<WaveCheckpoint, CheckpointError> {
    let mut decoder = Decoder::open_with(MAGIC, bytes).ok_or(CheckpointError::Unreadable)?;
    CheckpointKey::read(&mut decoder).ok_or(CheckpointError::Unreadable)?.fits(&wanted.key)?;
    let (e_value, spent) = times(&mut decoder).ok_or(CheckpointError::Impossible)?;
    if e_value >= 1.0 / wanted.alpha {
        return Err(CheckpointError::Tripping);
    }
    let (trial, critical) = trials(&mut decoder, wanted).ok_or(CheckpointError::Impossible)?;
    Ok(WaveCheckpoint { spent, trial, critical })
}

/// The key and limits that a checkpoint must match.
struct ExpectedCheckpoint {
    key: CheckpointKey,
    alpha: f64,
    /// The weight of the current wave, if there is one to judge.
    weight: Option<Weight>,
    tick: Duration,
}

impl ExpectedCheckpoint {
    fn of(release: &ReleaseSnapshot) -> ExpectedCheckpoint {
        let of = &release.release.watchdog;
        ExpectedCheckpoint {
            key: CheckpointKey::of(release),
            alpha: of.alpha,
            weight: release.wave().filter(|_| !release.finished).map(|wave| wave.until_complete.weight),
            tick: of.tick,
        }
    }
}

/// Identifies the stage that a checkpoint belongs to.
#[derive(Clone, PartialEq, Debug)]
struct CheckpointKey {
    name: String,
    salt: String,
    attempt: u64,
    stage: u64,
    /// Empty: before the first wave.
    wave: String,
    /// The weight in force.
    weight: u32,
    segments: u64,
    held: bool,
}

impl CheckpointKey {
    fn of(release: &ReleaseSnapshot) -> CheckpointKey {
        let of = &release.release;
        let (exposure, held) = match release.effective {
            Effective::At(exposure) => (exposure, false),
            Effective::Held => (Exposure::NOBODY, true),
        };
        CheckpointKey {
            name: of.name.clone(),
            salt: of.salt_text.clone(),
            attempt: of.attempt,
            stage: release.stage,
            wave: release.wave().map_or_else(String::new, |wave| wave.name.clone()),
            weight: exposure.weight.parts(),
            segments: exposure.segments as u64,
            held,
        }
    }

    fn write(&self, encoder: &mut Encoder) {
        encoder.text(&self.name);
        encoder.text(&self.salt);
        encoder.u64(self.attempt);
        encoder.u64(self.stage);
        encoder.text(&self.wave);
        encoder.u32(self.weight);
        encoder.u64(self.segments);
        encoder.u32(u32::from(self.held));
    }

    fn read(decoder: &mut Decoder<'_>) -> Option<CheckpointKey> {
        let (name, salt) = (decoder.text()?, decoder.text()?);
        let (attempt, stage, wave) = (decoder.u64()?, decoder.u64()?, decoder.text()?);
        let (weight, segments, held) = (decoder.u32()?, decoder.u64()?, decoder.u32()? != 0);
        Some(CheckpointKey { name, salt, attempt, stage, wave, weight, segments, held })
    }

    fn fits(&self, wanted: &CheckpointKey) -> Result<(), CheckpointError> {
        if (self.attempt, self.stage) > (wanted.attempt, wanted.stage) {
            return Err(CheckpointError::Newer);
        }
        if wanted == self { Ok(()) } else { Err(CheckpointError::Another) }
    }
}

fn times(decoder: &mut Decoder<'_>) -> Option<(f64, WaveTime)> {
    let e_value = decoder.f64()?;
    let mut time = || decoder.u64().map(Duration::from_micros);
    let spent = WaveTime { watched: time()?, open: time()?, held: time()? };
    spent.is_plausible().then_some((e_value, spent))
}

/// `None`: unreadable. `Some((None, []))`: none for this wave.
fn trials(
    decoder: &mut Decoder<'_>,
    wanted: &ExpectedCheckpoint,
) -> Option<(Option<Trial>, Vec<CriticalRouteCheckpoint>)> {
    if decoder.u32()? == 0 {
        return decoder.end().map(|()| (None, vec![]));
    }
    let mut numbers = [0.0; 3];
    decoder.logs(&mut numbers)?;
    let sound = |margin: &f64| *margin > 0.0 && *margin <= 1.0;
    numbers.iter().all(sound).then_some(())?;
    let [errors, latency, tail] = numbers;
    let margins = Margins { errors, latency, tail };
    let Some(weight) = wanted.weight else { return Some((None, vec![])) };
    let (tick, now) = (wanted.tick, crate::telemetry::clock::now());
    let trial = Trial::restore(margins, weight, tick, now, decoder)?;
    let routes = decoder.length(1).filter(|routes| *routes <= STRATA_MAX)?;
    let kept = (0..routes).map(|_| CriticalRouteCheckpoint::restore(margins, weight, tick, now, decoder));
    let kept = kept.collect::<Option<Vec<_>>>()?;
    decoder.end().map(|()| (Some(trial), kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const MARGINS: Margins = Margins { errors: 0.001, latency: 0.1, tail: 0.5 };

    fn key() -> CheckpointKey {
        CheckpointKey {
            name: "billing".into(),
            salt: "billing".into(),
            attempt: 2,
            stage: 40,
            wave: "5%".into(),
            weight: 50_000,
            segments: 1,
            held: false,
        }
    }

    fn wanted(key: CheckpointKey) -> ExpectedCheckpoint {
        let tick = Duration::from_millis(100);
        ExpectedCheckpoint { key, alpha: 0.001, weight: Some(Weight::from_parts(50_000)), tick }
    }

    fn trial() -> Trial {
        Trial::new(MARGINS, Weight::from_parts(50_000), Duration::from_millis(100), Duration::ZERO)
    }

    fn routes() -> [CriticalRoute; 1] {
        let mut refunds = CriticalRoute::new("refunds".into(), 1);
        refunds.trial = Some(trial());
        [refunds]
    }

    fn spent() -> WaveTime {
        WaveTime { watched: 192 * MINUTE, open: 200 * MINUTE, held: Duration::ZERO }
    }

    #[test]
    fn a_checkpoint_is_of_one_stage_and_of_no_other() {
        let bytes = write(&key(), &spent(), Some(&trial()), &routes(), 0.5);
        let found = |key: CheckpointKey| {
            parse(&bytes, &wanted(key)).map(|found| (found.spent, found.trial.is_some()))
        };
        assert_eq!(found(key()), Ok((spent(), true)));
        type Edit = (fn(&mut CheckpointKey), CheckpointError);
        let others: [Edit; 10] = [
            (|k| k.name = "invoices".into(), CheckpointError::Another),
            (|k| k.salt = "other".into(), CheckpointError::Another),
            (|k| k.attempt = 3, CheckpointError::Another),
            (|k| k.attempt = 1, CheckpointError::Newer),
            (|k| k.stage = 41, CheckpointError::Another),
            (|k| k.stage = 39, CheckpointError::Newer),
            (|k| k.wave = "20%".into(), CheckpointError::Another),
            (|k| k.weight = 60_000, CheckpointError::Another),
            (|k| k.segments = 2, CheckpointError::Another),
            (|k| k.held = true, CheckpointError::Another),
        ];
        for (change, why) in others {
            let mut other = key();
            change(&mut other);
            assert_eq!(found(other.clone()).err(), Some(why), "{other:?}");
        }
        let found = parse(&bytes, &wanted(key())).unwrap();
        assert_eq!(found.trial.map(|trial| trial.margins()), Some(MARGINS));
        assert_eq!(found.critical.iter().map(|kept| &*kept.name).collect::<Vec<_>>(), ["refunds"]);
        let tripping = write(&key(), &spent(), None, &[], 1000.0);
        assert_eq!(parse(&tripping, &wanted(key())).err(), Some(CheckpointError::Tripping));
    }

    #[test]
    fn impossible_times_are_not_used() {
        let possible = spent();
        for impossible in [
            WaveTime { watched: possible.open + MINUTE, ..possible },
            WaveTime { held: possible.open + MINUTE, ..possible },
            WaveTime { open: Duration::from_secs(1 << 40), ..possible },
        ] {
            let bytes = write(&key(), &impossible, None, &[], 0.0);
            assert_eq!(
                parse(&bytes, &wanted(key())).err(),
                Some(CheckpointError::Impossible),
                "{impossible:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_saved_is_read_again_and_a_damaged_file_is_nothing(
            times in prop::array::uniform3(0u64..1 << 50), with_trial: bool,
            at: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index,
        ) {
            let [a, b, c] = times.map(Duration::from_micros);
            let spent = WaveTime { watched: a.min(b), open: b, held: c.min(b) };
            let trial = with_trial.then(trial);
            let mut bytes = write(&key(), &spent, trial.as_ref(), &routes(), 0.0);
            let found = parse(&bytes, &wanted(key())).map(|f| (f.spent, f.trial.is_some()));
            let expected = if spent.is_plausible() { Ok((spent, with_trial)) } else { Err(CheckpointError::Impossible) };
            prop_assert_eq!(found, expected);
            let short = &bytes[..cut.index(bytes.len())];
            prop_assert_eq!(parse(short, &wanted(key())).err(), Some(CheckpointError::Unreadable));
            let i = at.index(bytes.len());
            bytes[i] ^= flip;
            prop_assert_eq!(parse(&bytes, &wanted(key())).err(), Some(CheckpointError::Unreadable));
        }

        /// Any bytes under a valid checksum (another version's, or an editor's) cause no panic, and
        /// give possible values only.
        #[test]
        fn any_bytes_under_a_good_checksum_are_understood_or_refused(
            body in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, with_trial: bool,
        ) {
            let trial = with_trial.then(trial);
            let whole = write(&key(), &spent(), trial.as_ref(), &routes(), 0.0);
            let (kept, _) = whole.split_at(whole.len() - 8);
            let at = MAGIC.len() + at.index(kept.len() - MAGIC.len());
            let mut bytes = kept.to_vec();
            bytes.truncate(at.max(kept.len().saturating_sub(body.len())).max(at));
            let end = (at + body.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&body[..end - at]);
            let sum = xxhash_rust::xxh3::xxh3_64(&bytes);
            bytes.extend(sum.to_le_bytes());
            if let Ok(found) = parse(&bytes, &wanted(key())) {
                prop_assert!(found.spent.is_plausible());
                let reading = found.trial.map(|trial| trial.reading()).unwrap_or_default();
                prop_assert!(reading.e_errors.is_finite() && reading.e_body.is_finite() && reading.e_tail.is_finite());
            }
        }
    }
}
