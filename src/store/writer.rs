//! Makes changes durable, then announces them: one thread that owns the state directory and the
//! ledger.
//!
//! Order of every change: memory (the next request already uses it), then the state file (write,
//! fsync, rename, fsync of the directory), then the *announcement*: status, metrics, ledger, log.
//! After the announcement no crash reverts it.
//!
//! Invariants: the data plane never waits for a disk. At most one image waits (the latest wins),
//! and the entries since the last save. If the disk fails, changes are announced nevertheless, with
//! `durable` false, and saving is retried every second. An entry whose line is not on disk stays in
//! the image, from which it is written again: a ledger that cannot be written loses no change.

use super::ledger::{Ledger, LedgerEntry};
use super::state::{Elsewhere, PathTarget, SavedFile, StateDirectory, StateImage};
use super::state_key::StateKey;
use crate::store::shared_error::SharedError;
use crate::telemetry::clock;
use crate::telemetry::log::Log;
use arc_swap::ArcSwap;
use serde_json::json;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Interval of retries, and of checks that the saved file still exists.
const RETRY: Duration = Duration::from_secs(1);
const HANGS: Duration = Duration::from_secs(2);
/// The most entries that wait for a ledger that cannot be written.
/// Beyond that the oldest are lost, and the log reports it.
const UNWRITTEN_MAX: usize = 4096;
/// The most announced entries that a subscriber may be behind.
const TOLD: usize = 64;

/// The queue of changes to the writer thread. `T` is what is announced: the snapshot in force.
pub struct CommitQueue<T> {
    inbox: Mutex<PendingCommits<T>>,
    changed: Condvar,
    announced: ArcSwap<T>,
    /// Broadcast of announced entries; a subscriber that is too slow misses the oldest.
    pub told: tokio::sync::broadcast::Sender<LedgerEntry>,
}

struct PendingCommits<T> {
    work: Option<PendingCommit<T>>,
    /// Numbers of the last queued change, and of the last announced one.
    handed_in: u64,
    done: u64,
    /// The newest queued snapshot, and since when part of it is not announced.
    latest: Arc<T>,
    behind_since: Option<Instant>,
    /// Why the last save failed, or the last append to the ledger.
    error: Option<NotDurable>,
    /// How long the last durable change was in memory only.
    gap: Option<Duration>,
    /// Causes of announced rollbacks, for the metric: (release, cause) → count.
    rollbacks: std::collections::BTreeMap<(String, &'static str), u64>,
    closed: bool,
}

impl<T> PendingCommits<T> {
    /// A disk that takes this long may never return; status and metrics must not show old state
    /// meanwhile.
    fn hangs(&self) -> bool {
        self.behind_since.is_some_and(|since| since.elapsed() > HANGS)
    }
}

struct PendingCommit<T> {
    image: StateImage,
    entries: Vec<LedgerEntry>,
    rollbacks: Vec<(String, &'static str)>,
    snapshot: Arc<T>,
    since: Instant,
}

/// Why changes are in memory only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotDurable {
    #[error("the state directory does not answer")]
    Hangs,
    #[error("the state directory could not be used at start; mend it and restart")]
    NoDirectory,
    #[error("{directory}: cannot save the state: {source}")]
    Save { directory: PathBuf, source: SharedError<io::Error> },
    #[error(transparent)]
    Elsewhere(#[from] Elsewhere),
    #[error("cannot write the ledger of the state directory: {0}")]
    Ledger(#[source] SharedError<io::Error>),
}

/// Identifies a queued change, for [`CommitQueue::wait`].
#[derive(Clone, Copy, Debug)]
pub struct CommitId(u64);

impl<T> CommitQueue<T> {
    pub fn new(snapshot: Arc<T>, error: Option<NotDurable>) -> Arc<CommitQueue<T>> {
        Arc::new(CommitQueue {
            inbox: Mutex::new(PendingCommits {
                work: None,
                handed_in: 0,
                done: 0,
                latest: snapshot.clone(),
                behind_since: None,
                error,
                gap: None,
                rollbacks: Default::default(),
                closed: false,
            }),
            changed: Condvar::new(),
            announced: ArcSwap::new(snapshot),
            told: tokio::sync::broadcast::Sender::new(TOLD),
        })
    }

    fn inbox(&self) -> MutexGuard<'_, PendingCommits<T>> {
        // Every change to the inbox is one assignment, so a panic elsewhere leaves it valid.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a change; never waits for the disk.
    pub fn enqueue(
        &self,
        image: StateImage,
        entries: Vec<LedgerEntry>,
        rollback: Option<(String, &'static str)>,
        snapshot: Arc<T>,
    ) -> CommitId {
        let mut inbox = self.inbox();
        inbox.handed_in += 1;
        inbox.latest = snapshot.clone();
        inbox.behind_since.get_or_insert_with(Instant::now);
        let work = match inbox.work.take() {
            None => {
                let rollbacks = rollback.into_iter().collect();
                PendingCommit { image, entries, rollbacks, snapshot, since: Instant::now() }
            }
            Some(mut earlier) => {
                earlier.entries.extend(entries);
                earlier.rollbacks.extend(rollback);
                PendingCommit { image, snapshot, ..earlier }
            }
        };
        inbox.work = Some(work);
        self.changed.notify_all();
        CommitId(inbox.handed_in)
    }

    /// Waits until a change is announced; returns why it is not durable, if so.
    pub fn wait(&self, commit: CommitId, at_most: Duration) -> Result<(), NotDurable> {
        let (inbox, timeout) = self
            .changed
            .wait_timeout_while(self.inbox(), at_most, |i| i.done < commit.0)
            .unwrap_or_else(PoisonError::into_inner);
        match &inbox.error {
            Some(why) => Err(why.clone()),
            None if timeout.timed_out() => Err(NotDurable::Hangs),
            None => Ok(()),
        }
    }

    /// The snapshot that status and metrics show: the last announced one; the newest, if the disk
    /// hangs.
    pub fn announced(&self) -> Arc<T> {
        let inbox = self.inbox();
        if inbox.hangs() { inbox.latest.clone() } else { self.announced.load_full() }
    }

    /// Why changes are in memory only; `None`: they are durable.
    pub fn error(&self) -> Option<NotDurable> {
        let inbox = self.inbox();
        let hangs = || inbox.hangs().then_some(NotDurable::Hangs);
        inbox.error.clone().or_else(hangs)
    }

    pub fn gap(&self) -> Option<Duration> {
        self.inbox().gap
    }

    pub fn rollbacks(&self) -> Vec<((String, &'static str), u64)> {
        self.inbox().rollbacks.iter().map(|(k, n)| (k.clone(), *n)).collect()
    }

    /// Ends the thread once all queued changes are announced.
    pub fn close(&self) {
        self.inbox().closed = true;
        self.changed.notify_all();
    }
}

/// The disk side; `None` where the directory was unusable at start.
pub struct StateWriter {
    pub directory: Option<StateDirectory>,
    pub ledger: Option<Ledger>,
    pub key: StateKey,
    pub log: Log,
}

impl StateWriter {
    /// The body of the thread: runs until [`CommitQueue::close`].
    pub fn run<T>(mut self, commits: &CommitQueue<T>) {
        // The last image, and its file; `None` if saving failed.
        let mut last: Option<(StateImage, Option<SavedFile>)> = None;
        let mut unwritten: Vec<LedgerEntry> = vec![];
        let mut elsewhere: Option<Elsewhere> = None;
        let mut state_error = commits.inbox().error.clone();
        loop {
            let (work, handed_in, closed) = {
                let idle = |i: &mut PendingCommits<T>| i.work.is_none() && !i.closed;
                let waited = commits.changed.wait_timeout_while(commits.inbox(), RETRY, idle);
                let mut inbox = waited.unwrap_or_else(PoisonError::into_inner).0;
                (inbox.work.take(), inbox.handed_in, inbox.closed)
            };
            if work.is_none() && closed {
                return;
            }
            let image = match (&work, &last) {
                (Some(work), _) => Some(work.image.clone()),
                // A write failed, or the saved file is gone: try again.
                (None, Some((image, saved)))
                    if !self.holds(saved) || !unwritten.is_empty() || self.elsewhere() != elsewhere =>
                {
                    Some(image.clone())
                }
                _ => None,
            };
            if let Some(image) = image {
                let gone = |saved: &Option<SavedFile>| saved.is_some() && !self.holds(saved);
                if work.is_none() && last.as_ref().is_some_and(|(_, saved)| gone(saved)) {
                    self.log.event(
                        "state_gone",
                        json!({"effect": "it was removed or replaced; it is written again"}),
                    );
                    unwritten.extend(self.reopen_ledger(&image));
                }
                let saved = self.save(&image);
                if let (Ok(_), Some(work)) = (&saved, &work) {
                    commits.inbox().gap = Some(work.since.elapsed());
                }
                elsewhere = self.elsewhere();
                state_error =
                    saved.as_ref().err().cloned().or_else(|| elsewhere.clone().map(NotDurable::from));
                last = Some((image, saved.ok()));
            }
            if let Some(work) = work {
                // A change that is not saved has no such time yet.
                let in_memory_only = state_error.is_none().then(|| work.since.elapsed().as_micros() as u64);
                commits.announced.store(work.snapshot);
                {
                    let mut inbox = commits.inbox();
                    for key in work.rollbacks {
                        *inbox.rollbacks.entry(key).or_default() += 1;
                    }
                }
                for entry in &work.entries {
                    self.log.event(
                        &entry.kind,
                        json!({
                            "release": entry.release, "attempt": entry.attempt, "actor": entry.actor,
                            "reason": entry.reason, "detail": entry.detail, "ledger": entry.n,
                            "weight_before": entry.weight_before, "weight_after": entry.weight_after,
                            "in_memory_only_us": in_memory_only,
                        }),
                    );
                    // There may be no subscriber.
                    let _ = commits.told.send(entry.clone());
                }
                unwritten.extend(work.entries);
            }
            // The ledger must never be ahead of the state file: a start would take the state for an
            // old copy.
            let saved = last.as_ref().is_none_or(|(_, saved)| saved.is_some()) || self.directory.is_none();
            let appended = if saved { self.append(&unwritten) } else { Ok(()) };
            if saved && appended.is_ok() {
                unwritten.clear();
            }
            // One comparison for the state file and the ledger: where one of them works again and
            // the other does not, nothing is durable yet.
            let error = state_error.clone().or(appended.err());
            {
                let mut inbox = commits.inbox();
                if error != inbox.error {
                    self.tell_durability(error.as_ref());
                    inbox.error = error;
                }
            }
            let excess = unwritten.len().saturating_sub(UNWRITTEN_MAX);
            if excess > 0 {
                let lost: Vec<u64> = unwritten.drain(..excess).map(|entry| entry.n).collect();
                self.log.event("ledger_entries_lost", json!({"first": lost.first(), "last": lost.last()}));
            }
            let mut inbox = commits.inbox();
            inbox.done = handed_in;
            if inbox.work.is_none() {
                inbox.behind_since = None;
            }
            drop(inbox);
            commits.changed.notify_all();
        }
    }

    fn holds(&self, saved: &Option<SavedFile>) -> bool {
        match (&self.directory, saved) {
            (Some(directory), Some(saved)) => directory.holds(saved),
            // Saving is impossible, so there is no file to check.
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// Reopens the ledger of the directory as it is now.
    /// Returns the remembered entries that it has lost.
    fn reopen_ledger(&mut self, image: &StateImage) -> Vec<LedgerEntry> {
        let Some(directory) = &self.directory else { return vec![] };
        // A directory that was removed as a whole is created and locked again, so that no other
        // process takes it.
        // Where only the file is gone, this process still holds the lock and cannot take it twice.
        if directory.leads() == PathTarget::Nowhere
            && let Ok(again) = StateDirectory::open(directory.configured())
        {
            self.directory = Some(again);
        }
        let Some(directory) = &self.directory else { return vec![] };
        // Entries written again are hashed under this key.
        // If it cannot be stored now, the next start reports it.
        let _ = self.key.keep(directory.path());
        let Ok(ledger) = Ledger::open(directory.path()) else { return vec![] };
        let lost = image.recent.iter().filter(|e| e.n > ledger.last()).cloned();
        let lost = lost.map(|entry| LedgerEntry { rebuilt: true, ..entry }).collect();
        self.ledger = Some(ledger);
        lost
    }

    fn save(&self, image: &StateImage) -> Result<SavedFile, NotDurable> {
        let Some(directory) = &self.directory else {
            return Err(NotDurable::NoDirectory);
        };
        directory.save(image).map_err(|error| NotDurable::Save {
            directory: directory.configured().to_owned(),
            source: error.into(),
        })
    }

    /// Why the configured path no longer leads to the directory of the start; `None`: it does.
    fn elsewhere(&self) -> Option<Elsewhere> {
        match self.directory.as_ref()?.leads() {
            PathTarget::Elsewhere(why) => Some(why),
            PathTarget::Here | PathTarget::Nowhere => None,
        }
    }

    fn append(&mut self, entries: &[LedgerEntry]) -> Result<(), NotDurable> {
        match &mut self.ledger {
            Some(ledger) => ledger.append(entries).map_err(|error| NotDurable::Ledger(error.into())),
            // Reported before: the directory was unusable at start.
            None => Ok(()),
        }
    }

    fn tell_durability(&self, error: Option<&NotDurable>) {
        match error {
            Some(why) => {
                let hint = match why {
                    NotDurable::Ledger(_) => {
                        "the state is saved, and entries of the ledger wait; free or mend the state directory"
                    }
                    _ => "rollbacks are in memory only; free or mend the state directory",
                };
                self.log.event("state_not_durable", json!({"error": why.to_string(), "hint": hint}));
            }
            None => self.log.event("state_durable", json!({"at_ms": clock::at_ms()})),
        }
    }
}
