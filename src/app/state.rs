//! Opens the state directory at start: its lock, its state, its ledger, its key.
//!
//! Invariants: lost state is reported and holds every release, or refuses the start; it is never
//! taken for an empty state. Only a lock of another process, and a fault with `on_failure =
//! "refuse"`, end the start.

use crate::app::{StartError, StateFault};
use crate::domain::config::{OnStateFailure, StateConfig};
use crate::store::ledger::{Ledger, LedgerTail};
use crate::store::permissions;
use crate::store::state::{Loss, StateDirectory, StateError, StateFound, StateImage};
use crate::store::state_key::{self, KeyOrigin, StateKey};
use crate::telemetry::log::Log;
use serde_json::json;
use std::fmt::Display;
use std::io;
use std::path::Path;

/// The state directory as opened, and what was found in it.
pub(super) struct OpenedState {
    pub disk: Disk,
    pub found: StateFound,
}

/// What the writer threads write to; `None` where it is unusable.
pub(super) struct Disk {
    pub directory: Option<StateDirectory>,
    pub ledger: Option<Ledger>,
    /// State was lost, so that the file of the start is kept aside.
    lost: bool,
}

impl OpenedState {
    /// Opens the directory and its ledger, and loads the state.
    pub(super) fn open(config: &StateConfig, log: &Log) -> Result<OpenedState, StartError> {
        for message in permissions::tighten(&config.directory) {
            log.event("state_not_private", json!({"message": message}));
        }
        let (directory, ledger, found) = load(config, log)?;
        let lost = matches!(found, StateFound::Lost(_) | StateFound::Behind(..));
        let found = match found {
            StateFound::Lost(loss) | StateFound::Behind(_, loss)
                if config.on_failure == OnStateFailure::Refuse =>
            {
                return Err(StartError::StateRefused(StateFault::Lost(loss)));
            }
            found => found,
        };
        if let StateFound::Lost(loss) | StateFound::Behind(_, loss) = &found {
            tell_lost(log, loss);
        }
        Ok(OpenedState { disk: Disk { directory, ledger, lost }, found })
    }
}

impl Disk {
    pub(super) fn path(&self) -> Option<&Path> {
        self.directory.as_ref().map(StateDirectory::path)
    }

    pub(super) fn ledger_end(&self) -> LedgerTail {
        self.ledger.as_ref().map(|ledger| ledger.end().clone()).unwrap_or_default()
    }

    /// Opens the key. A fault is logged and limits answers about the past; it stops nothing.
    pub(super) fn open_key(&self, log: &Log) -> io::Result<StateKey> {
        let Some(directory) = &self.directory else { return StateKey::random() };
        let (key, origin) = StateKey::open(directory.path())?;
        let before = self.ledger.as_ref().and_then(Ledger::key).filter(|name| *name != key.name());
        match origin {
            KeyOrigin::Temporary(why) => log.event(
                "state_key_unusable",
                json!({
                    "error": why.to_string(),
                    "directory": directory.configured(),
                    "effect": "a key that ends with this process is used: after a restart `grayling affected` cannot say \
                        which users a segment listed meanwhile, and the watchdog's evidence begins anew",
                    "hint": "mend or remove the file, then restart; routing and rollbacks need no key",
                }),
            ),
            KeyOrigin::Found | KeyOrigin::Made if before.is_some() => log.event(
                "state_key_lost",
                json!({
                    "file": directory.configured().join(state_key::FILE),
                    "effect": "the ledger has entries under an earlier key: `grayling affected` cannot say which users a \
                        segment listed then; the watchdog's evidence begins anew",
                    "hint": "if the key was not destroyed on purpose, put the file back from a copy and restart; \
                        routing and rollbacks need no key",
                }),
            ),
            KeyOrigin::Found | KeyOrigin::Made => {}
        }
        Ok(key)
    }

    /// Keeps a copy of lost state, which the first save overwrites.
    pub(super) fn keep_lost_aside(&self, log: &Log) {
        if let (Some(directory), true) = (&self.directory, self.lost)
            && let Err(error) = directory.keep_aside()
        {
            log.event(
                "state_not_kept",
                json!({"error": error.to_string(), "effect": "what was lost is overwritten"}),
            );
        }
    }
}

/// Failures are returned as [`StateFound::Lost`], except for a lock of another process.
fn load(
    config: &StateConfig,
    log: &Log,
) -> Result<(Option<StateDirectory>, Option<Ledger>, StateFound), StateError> {
    let directory = match StateDirectory::open(&config.directory) {
        Ok(directory) => directory,
        Err(locked @ StateError::Locked { .. }) => return Err(locked),
        Err(error) => return Ok((None, None, StateFound::Lost(error.into()))),
    };
    let found = directory.load();
    let (ledger, found) = match Ledger::open(directory.path()) {
        Ok(mut ledger) => {
            let found = compare(&mut ledger, found, &directory, log);
            (Some(ledger), found)
        }
        Err(source) => {
            let directory = directory.configured().to_owned();
            (None, StateFound::Lost(Loss::Ledger { directory, source }))
        }
    };
    Ok((Some(directory), ledger, found))
}

/// Compares the state with the ledger.
/// The state is saved before its ledger entries are written, so a ledger with more entries belongs
/// to another state.
fn compare(ledger: &mut Ledger, found: StateFound, directory: &StateDirectory, log: &Log) -> StateFound {
    match found {
        StateFound::Known(image) if image.ledger.n < ledger.last() => {
            let (state, ledger) = (image.ledger.n, ledger.last());
            let directory = directory.configured().to_owned();
            StateFound::Behind(image, Loss::OlderThanLedger { directory, state, ledger })
        }
        StateFound::Known(image) => {
            rebuild(ledger, &image, log);
            StateFound::Known(image)
        }
        StateFound::Empty | StateFound::Behind(..) | StateFound::Lost(_) => found,
    }
}

/// Writes the entries again that a crash lost after the state was saved.
fn rebuild(ledger: &mut Ledger, image: &StateImage, log: &Log) {
    let mut lost: Vec<_> = image.recent.iter().filter(|e| e.n > ledger.last()).cloned().collect();
    lost.iter_mut().for_each(|entry| entry.rebuilt = true);
    if !lost.is_empty() {
        let result = ledger.append(&lost).map_err(|e| e.to_string());
        log.event("ledger_rebuilt", json!({"entries": lost.len(), "error": result.err()}));
    }
}

pub(super) fn tell_lost(log: &Log, why: &dyn Display) {
    log.event(
        "state_lost",
        json!({"error": why.to_string(), "effect": "every release is held at 0%; stable is served",
               "hint": "mend the state directory, then: grayling resume RELEASE --ends hold --reason TEXT"}),
    );
}
