//! The past figures of `new` on disk: `past-RELEASE.bin` in the state directory, written every few
//! seconds by the watchdog, without fsync.
//!
//! Invariants: the file has no users.
//! It applies to one release, salt, attempt and set of servers of `new`, or not at all.
//! Lost or damaged data start again, and the signal `worse_than_before` reports that at 100%.

use crate::domain::judge::own_past::OwnPast;
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::codec::{Decoder, Encoder};
use crate::store::checkpoints;
use std::path::Path;
use std::time::Duration;

/// The number is the version of format and method.
const MAGIC: &[u8] = b"grayling-past 1\n";

/// Identifies the data. Servers as configured: other servers may be another version.
fn key(release: &ReleaseSnapshot) -> [String; 4] {
    let of = &release.release;
    let servers: Vec<String> = release.new.config.servers.iter().map(ToString::to_string).collect();
    [of.name.clone(), of.salt_text.clone(), of.attempt.to_string(), servers.join(" ")]
}

pub fn render(release: &ReleaseSnapshot, past: &OwnPast) -> Vec<u8> {
    let mut encoder = Encoder::with(MAGIC);
    key(release).iter().for_each(|text| encoder.text(text));
    past.save(&mut encoder);
    encoder.finish()
}

/// Reads the file of an earlier process.
pub fn read(release: &ReleaseSnapshot, directory: &Path, now: Duration) -> Option<OwnPast> {
    let bytes = checkpoints::read(directory, &checkpoints::past_file(&release.release.name))?;
    let mut decoder = Decoder::open_with(MAGIC, &bytes)?;
    for text in key(release) {
        (decoder.text()? == text).then_some(())?;
    }
    let past = OwnPast::restore(&mut decoder, now)?;
    decoder.end().map(|()| past)
}
