//! What became of alerts, by receiver: counted by those who send them, read by the metrics.
//!
//! Invariants: names are those of the config; a receiver that has left the file is forgotten.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AlertCount {
    /// Calls that the receiver took, and those that failed; each is one try.
    pub taken: u64,
    pub failed: u64,
    /// Told to nobody: the receiver was away for too long.
    pub dropped: u64,
    /// Not told yet.
    pub waiting: u64,
}

#[derive(Default)]
pub struct AlertCounts(Mutex<BTreeMap<String, AlertCount>>);

impl AlertCounts {
    pub fn change(&self, receiver: &str, change: impl FnOnce(&mut AlertCount)) {
        let mut all = self.all();
        match all.get_mut(receiver) {
            Some(count) => change(count),
            None => change(all.entry(receiver.to_owned()).or_default()),
        }
    }

    pub fn keep(&self, named: impl Fn(&str) -> bool) {
        self.all().retain(|name, _| named(name));
    }

    pub fn read(&self) -> Vec<(String, AlertCount)> {
        self.all().iter().map(|(name, count)| (name.clone(), *count)).collect()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, AlertCount>> {
        // Every change is an addition or an assignment, so a panic elsewhere leaves the counts
        // whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
