//! Delivery counts per alert receiver.
//! The senders update them; the metrics read them.
//!
//! Invariants: names are those of the config; a receiver that left the file loses its counts.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct AlertCount {
    /// Calls that the receiver accepted, and calls that failed. Every attempt counts once.
    pub taken: u64,
    pub failed: u64,
    /// Dropped: the receiver was unreachable for too long.
    pub dropped: u64,
    /// Not delivered yet.
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
        // Every change is an addition or an assignment, so a panic elsewhere leaves valid counts.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
