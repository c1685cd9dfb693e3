//! The state directory: the data that must survive a crash.
//! Owns the format of `grayling.state`, its lock, and how it is saved.
//!
//! ```text
//! grayling-state 2 0123456789abcdef   # name, version, xxh3_64 of all that follows, in hex
//! { "releases": { … }, "ledger": 12, … }
//! ```
//!
//! An open descriptor holds the directory, and every path that is handed out leads through it.
//! So a changed symlink or a moved directory does not affect a running proxy.
//! If the configured path leads elsewhere later, that is an error and is not followed: a restart
//! would not find the decisions.
//!
//! Invariants: a save is write, fsync, rename, fsync of the directory, so that a reader finds the
//! old image or the new one, never a mixture.
//! A file that cannot be parsed to the last byte is [`StateFound::Lost`], never "empty", and a copy
//! is kept for inspection.
//! One process at a time holds the lock.

mod format;

use super::ledger::{self, LedgerEntry, LedgerTail};
use crate::domain::rollout::ReleaseState;
use crate::store::permissions::{private_directory, private_file};
use crate::store::shared_error::SharedError;
pub use crate::store::state::format::UnknownCause;
use crate::store::state::format::{FileImage, FileReleaseState};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

pub const FILE: &str = "grayling.state";
const MAGIC: &str = "grayling-state";
/// The version of the format; a higher one must be refused.
/// Version 1 had no hashes, version 2 no versions of releases, version 3 no time of completion.
const VERSION: u32 = 4;

/// The state that survives a restart.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StateImage {
    pub releases: BTreeMap<String, ReleaseState>,
    /// State was lost, and some releases were not resumed since: a release that is not in
    /// `releases` is held as well.
    pub hold_strangers: bool,
    /// The last ledger entry. Without a hash: a version without hashes wrote it.
    pub ledger: LedgerTail,
    /// The latest entries, from which a line lost in a crash is written again.
    pub recent: Vec<LedgerEntry>,
}

/// The most entries in [`StateImage::recent`].
pub const RECENT_MAX: usize = 32;

/// The state found at start.
#[derive(Debug)]
pub enum StateFound {
    Known(StateImage),
    /// No state file and no ledger.
    Empty,
    /// A valid state, but older than other data; with the reason. Its trips stand, and all is held.
    Behind(StateImage, Loss),
    /// Unusable data; with the reason.
    Lost(Loss),
}

/// Why state is lost.
#[derive(Debug, thiserror::Error)]
pub enum Loss {
    #[error(transparent)]
    Directory(#[from] StateError),
    #[error("{path}: there is a ledger but no state file; earlier rollbacks may be forgotten")]
    NoStateFile { path: PathBuf },
    #[error(
        "{directory}: the state file is older than the ledger (entry {state} of {ledger}): was it restored from a copy?"
    )]
    OlderThanLedger { directory: PathBuf, state: u64, ledger: u64 },
    #[error("{directory}: the ledger: {source}")]
    Ledger { directory: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub struct StateDirectory {
    /// The path in the config.
    configured: PathBuf,
    /// The path through the descriptor.
    path: PathBuf,
    identity: DirectoryIdentity,
    /// Held as long as the process lives.
    _lock: File,
}

/// Identifies a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct DirectoryIdentity(u64, u64);

impl DirectoryIdentity {
    fn of(metadata: &fs::Metadata) -> DirectoryIdentity {
        DirectoryIdentity(metadata.dev(), metadata.ino())
    }
}

/// Where the configured path leads now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PathTarget {
    /// To the directory of the start.
    Here,
    /// The directory of the start was removed, and nothing replaced it.
    Nowhere,
    Elsewhere(Elsewhere),
}

/// The configured path no longer leads to the directory of the start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{configured}: {cause}. Decisions are still written to the directory of the start, where a restart does not find them: put it back"
)]
pub struct Elsewhere {
    configured: PathBuf,
    #[source]
    cause: Strayed,
}

/// Why a path leads elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Strayed {
    #[error("it leads to another directory than at the start, which is not followed")]
    Replaced,
    #[error("the directory was moved")]
    Moved,
    #[error(transparent)]
    Unreachable(SharedError<io::Error>),
}

/// Identifies a saved file by device, inode and length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SavedFile(u64, u64, u64);

impl SavedFile {
    fn of(of: &fs::Metadata) -> SavedFile {
        SavedFile(of.dev(), of.ino(), of.len())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "{path}: another grayling uses this state directory; stop it, or give each its own [state] directory"
    )]
    Locked { path: PathBuf },
    #[error("{path}: {doing}: {source}")]
    Io { path: PathBuf, doing: &'static str, source: io::Error },
    #[error("{path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Damaged { path: PathBuf, source: ParseError },
}

/// Why the bytes of a state file are no image.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("not a state file of grayling")]
    NoStateFile,
    #[error("written by a newer grayling (format {format}, this one reads {known})", known = VERSION)]
    Newer { format: u32 },
    #[error("its version is not readable")]
    NoVersion,
    #[error("its checksum does not match: it is damaged")]
    Checksum,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Cause(#[from] UnknownCause),
}

impl StateDirectory {
    /// Creates the directory if only its last part is missing, and takes its lock.
    pub fn open(path: &Path) -> Result<StateDirectory, StateError> {
        let failed = |doing| move |source| StateError::Io { path: path.to_owned(), doing, source };
        private_directory(path).map_err(failed("cannot make the state directory"))?;
        let directory = File::open(path).map_err(failed("cannot open the state directory"))?;
        let metadata = directory.metadata().map_err(failed("cannot look at the state directory"))?;
        if !metadata.is_dir() {
            return Err(failed("cannot open the state directory")(io::ErrorKind::NotADirectory.into()));
        }
        let identity = DirectoryIdentity::of(&metadata);
        let configured = path.to_owned();
        // The descriptor is never closed: other threads keep paths through it, and its number must
        // not be reused.
        let held = PathBuf::from(format!("/proc/self/fd/{}", directory.into_raw_fd()));
        // Without /proc use the real path: a symlink changed later does not affect it.
        let path = match fs::metadata(&held).is_ok_and(|m| DirectoryIdentity::of(&m) == identity) {
            true => held,
            false => fs::canonicalize(path).map_err(failed("cannot find the state directory"))?,
        };
        let lock_path = path.join("lock");
        let lock = private_file()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("cannot open the lock file"))?;
        match lock.try_lock() {
            Ok(()) => Ok(StateDirectory { configured, path, identity, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path: configured }),
            Err(TryLockError::Error(e)) => Err(failed("cannot lock")(e)),
        }
    }

    /// Would a start find neither a state nor a ledger in it? Needs no lock.
    pub fn is_empty(path: &Path) -> bool {
        !path.join(FILE).exists() && !ledger::exists(path)
    }

    /// The path for reading and writing.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path for messages.
    pub fn configured(&self) -> &Path {
        &self.configured
    }

    /// Marks a directory as new: a start finds an empty state, and not an empty directory.
    pub fn mark_new(&self) -> io::Result<()> {
        self.save(&StateImage::default()).map(drop)
    }

    pub fn leads(&self) -> PathTarget {
        let elsewhere =
            |cause| PathTarget::Elsewhere(Elsewhere { configured: self.configured.clone(), cause });
        match fs::metadata(&self.configured) {
            Ok(now) if DirectoryIdentity::of(&now) == self.identity => PathTarget::Here,
            Ok(_) => elsewhere(Strayed::Replaced),
            Err(e) if e.kind() != io::ErrorKind::NotFound => elsewhere(Strayed::Unreachable(e.into())),
            // A directory without a link was removed; one that has a link was moved.
            Err(_) => match fs::metadata(&self.path) {
                Ok(held) if held.nlink() > 0 => elsewhere(Strayed::Moved),
                _ => PathTarget::Nowhere,
            },
        }
    }

    pub fn load(&self) -> StateFound {
        let path = self.configured.join(FILE);
        match fs::read(self.path.join(FILE)) {
            Ok(bytes) => match parse(&bytes) {
                Ok(image) => StateFound::Known(image),
                Err(source) => StateFound::Lost(StateError::Damaged { path, source }.into()),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound && !ledger::exists(&self.path) => StateFound::Empty,
            Err(e) if e.kind() == io::ErrorKind::NotFound => StateFound::Lost(Loss::NoStateFile { path }),
            Err(source) => StateFound::Lost(StateError::Read { path, source }.into()),
        }
    }

    /// Reads the state file of a directory without its lock.
    pub fn look(path: &Path) -> Result<StateImage, StateError> {
        let path = path.join(FILE);
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|source| StateError::Damaged { path, source }),
            Err(source) => Err(StateError::Read { path, source }),
        }
    }

    /// Durable when it returns `Ok`.
    pub fn save(&self, image: &StateImage) -> io::Result<SavedFile> {
        let (path, fresh) = (self.path.join(FILE), self.path.join("grayling.state.new"));
        let mut file = private_file().create(true).write(true).truncate(true).open(&fresh)?;
        file.write_all(&render(image)?)?;
        file.sync_all()?;
        let saved = SavedFile::of(&file.metadata()?);
        fs::rename(&fresh, &path)?;
        File::open(&self.path)?.sync_all()?;
        Ok(saved)
    }

    /// Keeps a copy of an unreadable file for inspection.
    /// The file itself stays until the next save: a start that fails in between must find it again.
    pub fn keep_aside(&self) -> io::Result<()> {
        let (path, aside) = (
            self.path.join(FILE),
            self.path.join(format!("{FILE}.unreadable-{}", crate::telemetry::clock::at_ms())),
        );
        match fs::hard_link(&path, &aside).or_else(|_| fs::copy(&path, &aside).map(drop)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Is the last saved file still there?
    /// The directory may be removed or replaced under a running proxy.
    pub fn holds(&self, saved: &SavedFile) -> bool {
        fs::metadata(self.path.join(FILE)).is_ok_and(|m| SavedFile::of(&m) == *saved)
    }
}

fn render(image: &StateImage) -> io::Result<Vec<u8>> {
    let mut body = serde_json::to_vec_pretty(&FileImage::from(image))?;
    body.push(b'\n');
    let mut bytes = format!("{MAGIC} {VERSION} {:016x}\n", xxh3_64(&body)).into_bytes();
    bytes.extend(body);
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<StateImage, ParseError> {
    let end = bytes.iter().position(|b| *b == b'\n').ok_or(ParseError::NoStateFile)?;
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| ParseError::NoStateFile)?;
    let body = &bytes[end + 1..];
    let mut words = head.split(' ');
    if words.next() != Some(MAGIC) {
        return Err(ParseError::NoStateFile);
    }
    match words.next().map(str::parse::<u32>) {
        Some(Ok(1..=VERSION)) => {}
        Some(Ok(format)) if format > VERSION => return Err(ParseError::Newer { format }),
        _ => return Err(ParseError::NoVersion),
    }
    if words.next() != Some(format!("{:016x}", xxh3_64(body)).as_str()) || words.next().is_some() {
        return Err(ParseError::Checksum);
    }
    let image: FileImage = serde_json::from_slice(body)?;
    Ok(image.try_into()?)
}

/// The memory of one release, as in the state file: for [`crate::config::compare()`] in another
/// process.
pub fn release_state_json(release_state: &ReleaseState) -> serde_json::Value {
    let releases = BTreeMap::from([(String::new(), release_state.clone())]);
    let mut file = FileImage::from(&StateImage { releases, ..StateImage::default() });
    // Numbers, words and lists of them always serialize.
    file.releases
        .remove("")
        .and_then(|release_state| serde_json::to_value(release_state).ok())
        .unwrap_or_default()
}

/// The inverse; `None`: another version wrote it.
pub fn release_state_of_json(json: &serde_json::Value) -> Option<ReleaseState> {
    let release_state = FileReleaseState::deserialize(json).ok()?;
    let mut file = FileImage::from(&StateImage::default());
    file.releases.insert(String::new(), release_state);
    StateImage::try_from(file).ok()?.releases.remove("")
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::domain::maintenance::Maintenance;
    use crate::domain::rollout::version::Versions;
    use crate::domain::rollout::{Freeze, ManualHold, OtherPath, Pause, PlanProgress, Trip};
    use crate::domain::verdict::Cause;
    use crate::domain::wave::Exposure;
    use crate::stats::cohort::Weight;
    use proptest::prelude::*;

    /// A fresh empty directory for a test.
    pub fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("grayling-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        dir
    }

    fn image() -> StateImage {
        let trip = Trip {
            cause: Cause::Errors,
            attempt: 2,
            at_ms: 1_700_000_000_000,
            actor: "watchdog".into(),
            detail: "new 41 of 812".into(),
            evidence: "{\"e\":1}".into(),
            onset_to_trip_ms: Some(412),
            stable_same_at_ms: Some(1_700_000_001_000),
            servers: vec!["http://127.0.0.1:9002".into()],
            others: vec![OtherPath {
                claim: "route".into(),
                routes: vec!["* /b ".into()],
                weight: Weight::FULL,
            }],
            entry: 4,
        };
        let freeze = Freeze {
            cause: Cause::Ceiling,
            at_ms: 5,
            actor: "watchdog".into(),
            detail: "d".into(),
            weight: Weight::from_parts(50_000),
            entry: 5,
        };
        let mut image = StateImage {
            hold_strangers: true,
            ledger: LedgerTail { n: 7, ..LedgerTail::default() },
            ..StateImage::default()
        };
        image
            .releases
            .insert("a".into(), ReleaseState { attempt: 2, trip: Some(trip), ..ReleaseState::default() });
        image.releases.insert(
            "b".into(),
            ReleaseState {
                attempt: 1,
                freeze: Some(freeze),
                awaits: Some(ManualHold::StateLost),
                ..ReleaseState::default()
            },
        );
        let exposure = Exposure { weight: Weight::from_parts(50_000), segments: 2 };
        let progress = PlanProgress { wave: "5%".into(), exposure, finished: true, entry: 6 };
        let pause = Pause { at_ms: 9, actor: "ann".into(), reason: "lunch".into(), entry: 7 };
        let maintenance = Maintenance {
            change: "CHG-1".into(),
            at_ms: 10,
            until_ms: 20,
            actor: "ann".into(),
            reason: "the database moves".into(),
            entry: 7,
        };
        let versions = Versions { stable: vec!["a:1".into()], new: vec!["b:2".into()], same_declared: true };
        image.releases.insert(
            "c".into(),
            ReleaseState {
                attempt: 1,
                progress: Some(progress),
                pause: Some(pause),
                maintenance: Some(maintenance),
                versions,
                stage: 12,
                complete_since_ms: Some(1_700_000_000_000),
                ..ReleaseState::default()
            },
        );
        image
    }

    #[test]
    fn what_is_saved_is_found_again() {
        let dir = scratch("state");
        let state = StateDirectory::open(&dir).unwrap();
        assert!(matches!(state.load(), StateFound::Empty));
        state.save(&image()).unwrap();
        match state.load() {
            StateFound::Known(found) => assert_eq!(found, image()),
            other => panic!("{other:?}"),
        }
        assert!(matches!(StateDirectory::open(&dir), Err(StateError::Locked { .. })));
    }

    #[test]
    fn what_is_remembered_of_a_release_passes_through_json() {
        for release_state in image().releases.values() {
            assert_eq!(
                release_state_of_json(&release_state_json(release_state)).as_ref(),
                Some(release_state)
            );
        }
        assert_eq!(release_state_of_json(&serde_json::Value::Null), None);
    }

    #[test]
    fn an_older_format_knows_no_time_of_completion() {
        let known = ReleaseState { complete_since_ms: None, ..image().releases["c"].clone() };
        let image = StateImage { releases: [("c".to_owned(), known)].into(), ..StateImage::default() };
        let older = String::from_utf8(render(&image).unwrap()).unwrap();
        let older = older.replacen(&format!("grayling-state {VERSION}"), "grayling-state 3", 1);
        assert_eq!(parse(older.as_bytes()).unwrap(), image);
    }

    #[test]
    fn a_ledger_without_a_state_file_is_lost_state() {
        let dir = scratch("state-gone");
        let state = StateDirectory::open(&dir).unwrap();
        fs::write(dir.join(ledger::FILE), "{}\n").unwrap();
        assert!(matches!(state.load(), StateFound::Lost(_)));
    }

    #[test]
    fn a_newer_format_is_not_guessed_at() {
        let bytes = render(&image()).unwrap();
        let newer = String::from_utf8(bytes).unwrap().replacen(
            &format!("grayling-state {VERSION}"),
            &format!("grayling-state {}", VERSION + 1),
            1,
        );
        assert!(matches!(parse(newer.as_bytes()), Err(ParseError::Newer { .. })));
    }

    /// A file of the previous version, without maintenance.
    #[test]
    fn a_file_of_an_earlier_version_is_read() {
        let mut without = image();
        without.releases.values_mut().for_each(|release_state| release_state.maintenance = None);
        let bytes = render(&without).unwrap();
        assert!(!String::from_utf8(bytes.clone()).unwrap().contains("maintenance"));
        assert_eq!(parse(&bytes).unwrap(), without);
    }

    proptest! {
        #![proptest_config(crate::mutate::cases(512))]

        #[test]
        fn a_damaged_file_means_what_was_saved_or_nothing(bytes in crate::mutate::damaged(
            [render(&image()).unwrap(), render(&StateImage::default()).unwrap()],
            ["\n", " ", "0", "1", "+1", "2", "\"", "null", "true", "false", "{", "}", "[]", ",", "\"trip\": null", "\"a\"", "errors", "fuse", "weight_ppm", "ledger"],
        )) {
            if let Ok(found) = parse(&bytes) {
                prop_assert!(found == image() || found == StateImage::default(), "{found:?}");
            }
            // The same under a valid checksum (an editor's, or another version's): never a panic,
            // and a parsed image survives another round trip.
            let body = bytes.splitn(2, |b| *b == b'\n').nth(1).unwrap_or_default();
            let fits = [format!("{MAGIC} {VERSION} {:016x}\n", xxh3_64(body)).as_bytes(), body].concat();
            if let Ok(found) = parse(&fits) {
                prop_assert_eq!(&parse(&render(&found).unwrap()).unwrap(), &found);
                prop_assert!(found.releases.values().filter_map(|m| m.freeze.as_ref()).all(|f| f.weight <= Weight::FULL));
            }
        }

        #[test]
        fn a_damaged_file_is_never_taken_for_a_good_one(at in 0usize..2000, bit in 0u8..8, cut in any::<bool>()) {
            let mut bytes = render(&image()).unwrap();
            let at = at % bytes.len();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            prop_assert!(parse(&bytes).is_err());
        }
    }
}
