//! The users whose requests failed on `new`: an exact count per user, for one attempt.
//! Used to correct the users' data afterwards, and by `harm_users_max`.
//!
//! ```text
//! failed-RELEASE-ATTEMPT.jsonl in the state directory:
//! {"release":"billing","attempt":3,"users":2,"requests":5,"requests_of_others":0,
//!  "written":"2026-…"}
//! {"hash":"9f2a…16 hex digits","requests":4,"first":"2026-…","last":"2026-…","harm":true}
//! (or "user", with the id in clear, in place of "hash")
//! ```
//!
//! A request counts here if the decision put its user in `new`, its response came from `new` (or
//! there was none), and the outcome counts as a failure of the arm. A fail-over that stable served
//! does not count. Invariants: only failing requests take the lock. At most [`USERS_MAX`] users and
//! 16 MiB of ids are listed; beyond that, requests are only counted. Ids are written as `[state]
//! failed_users` sets, and never in clear by default.

use crate::domain::digest::hex;
use crate::domain::judge::verdict_inputs::FailedUserLimit;
use crate::domain::segment::UserSet;
use crate::telemetry::clock;
use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most users listed per attempt.
pub const USERS_MAX: usize = 100_000;
/// The most bytes of all ids of an attempt.
const ID_BYTES_MAX: usize = 16 << 20;
/// The maximum of `harm_users_max`.
pub const HARM_MAX: usize = 100_000;
/// Attempts kept in memory: requests of the previous one may still be in flight.
const ATTEMPTS: usize = 2;

/// How a user is identified in the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedUserId {
    /// The first 64 bits of the HMAC-SHA256 of the id under the key of `[log] user_key_file`, in
    /// hex, as in the log.
    Hash(String),
    /// In clear.
    User(String),
}

/// A failed request, with its user.
pub struct UserFailure {
    /// The release's attempt at the time of the decision.
    pub attempt: u64,
    pub evidence_id: u64,
    /// Identifies the user; unchanged after a restart.
    pub number: u64,
    /// `None`: users are counted and not listed.
    pub id: Option<FailedUserId>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FailedUser {
    #[serde(flatten)]
    id: FailedUserId,
    requests: u64,
    first: String,
    last: String,
    /// Failed since the evidence began: counts against `harm_users_max`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    harm: bool,
}

#[derive(Serialize, Deserialize)]
struct ListHeader {
    release: String,
    attempt: u64,
    users: usize,
    requests: u64,
    requests_of_others: u64,
    written: String,
}

#[derive(Default)]
struct FailedUserList {
    users: HashMap<u64, FailedUser>,
    id_bytes: usize,
    requests: u64,
    /// Requests of users who are not listed.
    others: u64,
    dirty: bool,
}

#[derive(Default)]
struct FailedUserCounts {
    lists: BTreeMap<u64, FailedUserList>,
    /// Users failed since the evidence with this id began.
    evidence_id: u64,
    harmed: HashSet<u64>,
    requests: u64,
}

/// One per release; shared by the workers.
#[derive(Default)]
pub struct FailedUsers {
    inner: Mutex<FailedUserCounts>,
    /// There is something that was not written yet.
    dirty: AtomicBool,
}

impl FailedUsers {
    pub fn note(&self, failure: UserFailure) {
        let at = clock::rfc3339(clock::at_ms());
        let mut inner = self.inner();
        inner.begin(failure.evidence_id);
        let harm = failure.evidence_id == inner.evidence_id;
        if harm {
            inner.requests += 1;
            if inner.harmed.len() <= HARM_MAX {
                inner.harmed.insert(failure.number);
            }
        }
        let latest = inner.lists.keys().next_back().copied().unwrap_or(0);
        if failure.attempt < latest && !inner.lists.contains_key(&failure.attempt) {
            return;
        }
        inner.lists.entry(failure.attempt).or_default().note(failure, at, harm);
        while inner.lists.len() > ATTEMPTS {
            inner.lists.pop_first();
        }
        self.dirty.store(true, Relaxed);
    }

    /// Users failed since this evidence began, and their failed requests.
    pub fn harm(&self, evidence_id: u64, users_max: u64) -> (FailedUserLimit, u64) {
        let mut inner = self.inner();
        inner.begin(evidence_id);
        let of_now = inner.evidence_id == evidence_id;
        let (users, requests) = if of_now { (inner.harmed.len() as u64, inner.requests) } else { (0, 0) };
        (FailedUserLimit { users, users_max }, requests)
    }

    /// The whole file of each attempt that changed since the last call; empty without changes.
    pub fn to_write(&self, release: &str) -> Vec<(u64, Vec<u8>)> {
        if !self.dirty.swap(false, Relaxed) {
            return vec![];
        }
        let mut inner = self.inner();
        let dirty = inner.lists.iter_mut().filter(|(_, list)| list.dirty && !list.users.is_empty());
        dirty
            .map(|(attempt, list)| {
                list.dirty = false;
                (*attempt, list.write(release, *attempt))
            })
            .collect()
    }

    /// Restores the list that an earlier process wrote.
    /// `number` maps an id to the current user number; `None`: no mapping.
    pub fn restore(
        &self,
        attempt: u64,
        evidence_id: u64,
        bytes: &[u8],
        number: impl Fn(&FailedUserId) -> Option<u64>,
    ) {
        let mut inner = self.inner();
        inner.begin(evidence_id);
        let mut lines = bytes.split(|b| *b == b'\n');
        let Some(head) = lines.next().and_then(|line| serde_json::from_slice::<ListHeader>(line).ok()) else {
            return;
        };
        let list = inner.lists.entry(attempt).or_default();
        (list.requests, list.others) = (list.requests + head.requests, list.others + head.requests_of_others);
        let mut harmed = vec![];
        for user in lines.filter_map(|line| serde_json::from_slice::<FailedUser>(line).ok()).take(USERS_MAX) {
            // Written under another key: counts as a separate user.
            let known = number(&user.id);
            let place =
                known.unwrap_or_else(|| xxhash_rust::xxh3::xxh3_64(format!("{:?}", user.id).as_bytes()));
            harmed.extend(known.filter(|_| user.harm));
            list.id_bytes += user.id.text().len();
            match list.users.entry(place) {
                Entry::Vacant(vacant) => _ = vacant.insert(user),
                Entry::Occupied(mut both) => {
                    let both = both.get_mut();
                    (both.requests, both.first) = (both.requests + user.requests, user.first);
                }
            }
        }
        inner.harmed.extend(harmed);
    }

    fn inner(&self) -> MutexGuard<'_, FailedUserCounts> {
        // Counts and texts only: a panic elsewhere leaves nothing inconsistent that matters.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FailedUserCounts {
    /// Starts the count of harmed users again when new evidence begins.
    fn begin(&mut self, evidence_id: u64) {
        if evidence_id > self.evidence_id {
            self.evidence_id = evidence_id;
            self.harmed.clear();
            self.requests = 0;
            for user in self.lists.values_mut().flat_map(|list| list.users.values_mut()) {
                user.harm = false;
            }
        }
    }
}

impl FailedUserList {
    fn note(&mut self, failure: UserFailure, at: String, harm: bool) {
        (self.requests, self.dirty) = (self.requests + 1, true);
        let full = self.users.len() >= USERS_MAX || self.id_bytes >= ID_BYTES_MAX;
        match (self.users.entry(failure.number), failure.id) {
            (Entry::Occupied(mut known), _) => {
                let user = known.get_mut();
                (user.requests, user.last, user.harm) = (user.requests + 1, at, user.harm || harm);
            }
            (Entry::Vacant(vacant), Some(id)) if !full => {
                self.id_bytes += id.text().len();
                vacant.insert(FailedUser { id, requests: 1, first: at.clone(), last: at, harm });
            }
            _ => self.others += 1,
        }
    }

    fn write(&self, release: &str, attempt: u64) -> Vec<u8> {
        let head = ListHeader {
            release: release.to_owned(),
            attempt,
            users: self.users.len(),
            requests: self.requests,
            requests_of_others: self.others,
            written: clock::rfc3339(clock::at_ms()),
        };
        let mut users: Vec<&FailedUser> = self.users.values().collect();
        users.sort_by(|a, b| (&a.first, a.id.text()).cmp(&(&b.first, b.id.text())));
        let mut bytes = vec![];
        // Numbers and texts always serialize, and a `Vec` accepts every write.
        let _ = serde_json::to_writer(&mut bytes, &head);
        bytes.push(b'\n');
        for user in users {
            let _ = serde_json::to_writer(&mut bytes, user);
            bytes.push(b'\n');
        }
        bytes
    }
}

impl FailedUserId {
    pub fn text(&self) -> &str {
        match self {
            FailedUserId::Hash(text) | FailedUserId::User(text) => text,
        }
    }
}

/// The key for [`hashed`].
pub fn key(bytes: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, bytes)
}

/// A user id as the log writes it: the first 64 bits of its HMAC-SHA256 under the config's key, in
/// hex.
pub fn hashed(key: &hmac::Key, user_id: &[u8]) -> Box<str> {
    hex(&hmac::sign(key, user_id).as_ref()[..8]).into()
}

/// The number that identifies a user: the keyed hash where there is a key, else a plain hash, which
/// is never written.
pub fn number(hash: Option<&str>, user_hash: u64) -> u64 {
    hash.and_then(|hash| u64::from_str_radix(hash, 16).ok()).unwrap_or(user_hash)
}

/// The same number for a user read from a file.
pub fn number_of(key: Option<&hmac::Key>, id: &FailedUserId) -> Option<u64> {
    match (id, key) {
        (FailedUserId::Hash(hash), Some(_)) => u64::from_str_radix(hash, 16).ok(),
        (FailedUserId::Hash(_), None) => None,
        (FailedUserId::User(user), key) => {
            let hash = key.map(|key| hashed(key, user.as_bytes()));
            Some(number(hash.as_deref(), UserSet::hash(user.as_bytes())))
        }
    }
}

/// The file name of an attempt.
/// Release names are letters, digits, `.`, `_` and `-`.
pub fn file(release: &str, attempt: u64) -> String {
    format!("failed-{release}-{attempt}.jsonl")
}

/// A user read from such a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedUser {
    pub id: FailedUserId,
    pub requests: u64,
    /// RFC 3339.
    pub first: String,
    pub last: String,
}

/// Reads a file: its users, and the number of requests of users who are not listed.
/// Unreadable lines are skipped.
pub fn read(bytes: &[u8]) -> Option<(Vec<ListedUser>, u64)> {
    let mut lines = bytes.split(|b| *b == b'\n');
    let head: ListHeader = serde_json::from_slice(lines.next()?).ok()?;
    let users = lines.filter_map(|line| serde_json::from_slice::<FailedUser>(line).ok());
    let listed = users.map(|FailedUser { id, requests, first, last, harm: _ }| ListedUser {
        id,
        requests,
        first,
        last,
    });
    Some((listed.collect(), head.requests_of_others))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(user: u64, attempt: u64, evidence_id: u64) -> UserFailure {
        UserFailure { attempt, evidence_id, number: user, id: Some(FailedUserId::User(format!("u{user}"))) }
    }

    #[test]
    fn users_are_counted_once_however_often_they_are_failed_and_anew_with_new_evidence() {
        let failed = FailedUsers::default();
        for user in [1, 2, 1, 1, 3] {
            failed.note(failure(user, 1, 1));
        }
        let harm = |evidence_id| failed.harm(evidence_id, 2);
        assert_eq!(harm(1), (FailedUserLimit { users: 3, users_max: 2 }, 5));
        assert!(harm(1).0.is_too_much());
        // Resumed.
        assert_eq!(harm(2).0.users, 0);
        failed.note(failure(1, 1, 2));
        // A request still in flight counts for nothing now, and is listed all the same.
        failed.note(failure(9, 1, 1));
        assert_eq!(harm(2), (FailedUserLimit { users: 1, users_max: 2 }, 1));
        let written = failed.to_write("r");
        let (listed, others) = read(&written[0].1).unwrap();
        assert_eq!((written[0].0, listed.len(), others), (1, 4, 0));
        assert_eq!(listed.iter().find(|l| l.id.text() == "u1").unwrap().requests, 4);
        assert!(failed.to_write("r").is_empty(), "nothing has happened since");
    }

    #[test]
    fn a_restart_goes_on_where_it_stood() {
        let number = |id: &FailedUserId| id.text().strip_prefix('u')?.parse().ok();
        let failed = FailedUsers::default();
        (1..3).for_each(|user| failed.note(failure(user, 4, 1)));
        failed.harm(2, 1);
        (2..4).for_each(|user| failed.note(failure(user, 4, 2)));
        let (attempt, bytes) = failed.to_write("r").remove(0);
        let again = FailedUsers::default();
        again.note(failure(3, 4, 1));
        again.restore(attempt, 1, &bytes, number);
        assert_eq!(again.harm(1, 9).0.users, 2, "2 and 3; 1 was before the resume");
        again.note(failure(5, 4, 1));
        let (listed, _) = read(&again.to_write("r")[0].1).unwrap();
        let of = |user: &str| listed.iter().find(|l| l.id.text() == user).map(|l| l.requests);
        assert_eq!([of("u1"), of("u2"), of("u3"), of("u5")], [Some(1), Some(2), Some(2), Some(1)]);
    }

    #[test]
    fn what_is_not_to_be_listed_is_counted() {
        let failed = FailedUsers::default();
        (1..3).for_each(|user| failed.note(UserFailure { id: None, ..failure(user, 1, 1) }));
        assert_eq!(failed.harm(1, 1).0.users, 2);
        assert!(failed.to_write("r").is_empty(), "no user in it, no file");
    }

    #[test]
    fn no_more_users_are_kept_than_there_is_room_for_and_harm_is_still_exact() {
        let failed = FailedUsers::default();
        let users = USERS_MAX as u64 + 5;
        (0..users).for_each(|user| failed.note(failure(user, 1, 1)));
        failed.harm(2, 1);
        (users..users + 7).for_each(|user| failed.note(failure(user, 1, 2)));
        assert_eq!(failed.harm(2, 1).0.users, 7);
        let (listed, others) = read(&failed.to_write("r")[0].1).unwrap();
        assert_eq!((listed.len(), others), (USERS_MAX, 12));
    }
}
