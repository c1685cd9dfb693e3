//! Writes the files that may be lost: the watchdog's evidence, and the lists of failed users.
//! A separate small thread beside the state writer, so that no trip waits for it.
//!
//! Evidence shows for each user whether requests of the user were seen and failed, by part of a
//! known hash. It is therefore encrypted under the key of the state directory.
//!
//! Each file of the state directory is written anew and renamed; only the owner may read it. A
//! lost, old or damaged file costs evidence, never safety: all data that a trip needs are in the
//! state file. Invariants: one image per file waits, the latest; a failing or hanging disk is
//! logged once and delays nothing else.

use super::state_key::StateKey;
use crate::store::permissions::private_file;
use crate::telemetry::log::Log;
use crate::telemetry::throttle::{TroubleEdges, Turn};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Larger files are not read: a release's evidence is smaller, for any number of users.
const BYTES_MAX: u64 = 512 << 20;

/// The queue to the writer thread.
#[derive(Default)]
pub struct CheckpointQueue {
    inbox: Mutex<PendingCheckpoints>,
    changed: Condvar,
}

#[derive(Default)]
struct PendingCheckpoints {
    waiting: BTreeMap<String, (Vec<u8>, FileForm)>,
    closed: bool,
}

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FileForm {
    Plain,
    Sealed,
}

impl CheckpointQueue {
    /// Queues a file. Never waits for the disk.
    pub fn enqueue(&self, file: String, bytes: Vec<u8>) {
        self.inbox().waiting.insert(file, (bytes, FileForm::Plain));
        self.changed.notify_all();
    }

    /// The same for a file that is encrypted: [`StateKey::unseal`] reads it.
    pub fn enqueue_sealed(&self, file: String, bytes: Vec<u8>) {
        self.inbox().waiting.insert(file, (bytes, FileForm::Sealed));
        self.changed.notify_all();
    }

    /// Ends the thread once everything is written.
    pub fn close(&self) {
        self.inbox().closed = true;
        self.changed.notify_all();
    }

    fn inbox(&self) -> MutexGuard<'_, PendingCheckpoints> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The body of the thread: runs until [`CheckpointQueue::close`].
pub fn run(checkpoint_queue: &Arc<CheckpointQueue>, directory: &Path, key: &StateKey, log: &Log) {
    let mut trouble = TroubleEdges::default();
    loop {
        let (waiting, closed) = {
            let idle = |inbox: &mut PendingCheckpoints| inbox.waiting.is_empty() && !inbox.closed;
            let waited = checkpoint_queue.changed.wait_while(checkpoint_queue.inbox(), idle);
            let mut inbox = waited.unwrap_or_else(PoisonError::into_inner);
            (std::mem::take(&mut inbox.waiting), inbox.closed)
        };
        let idle = waiting.is_empty();
        for (file, (mut bytes, form)) in waiting {
            let head = match form {
                FileForm::Plain => Some(vec![]),
                FileForm::Sealed => key.seal(&mut bytes),
            };
            let head = head.ok_or_else(|| io::Error::other("it cannot be encrypted"));
            let saved = head.and_then(|head| write(&directory.join(&file), &[&head, &bytes]));
            let turn = trouble.turn(saved.is_err());
            if let Err(error) = &saved
                && turn == Some(Turn::Begins)
            {
                let effect =
                    "a restart would forget what the watchdog has seen so far; rollbacks are kept elsewhere";
                log.event(
                    "evidence_not_kept",
                    json!({"file": file, "error": error.to_string(), "effect": effect}),
                );
            }
        }
        if closed && idle {
            return;
        }
    }
}

/// Reads a kept file; `None`: it is missing or unreadable.
pub fn read(directory: &Path, file: &str) -> Option<Vec<u8>> {
    let file = File::open(directory.join(file)).ok()?;
    let mut bytes = vec![];
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= BYTES_MAX).then_some(bytes)
}

/// No fsync: a power cut costs only the evidence of the last seconds, and a checksum detects a torn
/// file.
fn write(path: &Path, parts: &[&[u8]]) -> io::Result<()> {
    let beside = path.with_extension("new");
    // A file left by an earlier version may be readable by others.
    let _ = std::fs::remove_file(&beside);
    let mut file = private_file().write(true).create(true).truncate(true).open(&beside)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    std::fs::rename(&beside, path)
}

/// The file of the time and the evidence of the current wave.
pub fn wave_file(release: &str) -> String {
    format!("wave-{release}.bin")
}

/// The file of the past figures of `new`, used when there is no control.
pub fn past_file(release: &str) -> String {
    format!("past-{release}.bin")
}

/// Names are letters, digits, `.`, `_` and `-`: valid in a file name.
pub fn evidence_file(release: &str) -> String {
    format!("evidence-{release}.bin")
}
