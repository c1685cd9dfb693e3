//! Segments: named sets of users, by list, file, header or network; and the compact set that holds
//! ten million ids.
//!
//! Invariant: membership by user id is a function of the id alone.
//! Membership by header or network depends on the request, and is the one declared exception to "a
//! user's arm is a function".

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use xxhash_rust::xxh3::xxh3_64;

/// A user is a member if any of its sources matches.
#[derive(Debug, Default)]
pub struct Segment {
    pub name: String,
    pub users: UserSet,
    pub header: Option<HeaderMatch>,
    pub networks: Vec<IpNet>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderMatch {
    pub name: HeaderName,
    pub equals: Vec<u8>,
}

/// The data of a request that decide membership.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// After `normalise`; `None` if no source of the config yielded an id.
    pub user_id: Option<&'a [u8]>,
    pub headers: Option<&'a HeaderMap>,
    /// The client's address: the peer's, or the one given by a trusted proxy.
    pub address: Option<IpAddr>,
}

/// Odd, with its bits well spread (2^64 / golden ratio).
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

impl Segment {
    /// Would this and `other` hold the same users?
    pub fn same(&self, other: &Segment) -> bool {
        self.name == other.name
            && self.users.fingerprint() == other.users.fingerprint()
            && self.header == other.header
            && self.networks == other.networks
    }

    pub fn holds(&self, subject: &Subject<'_>) -> bool {
        self.holds_numbered(subject.user_id.map(UserSet::hash), subject)
    }

    /// The same; `number`: [`UserSet::hash`] of the subject's id, for checks of several segments.
    pub fn holds_numbered(&self, number: Option<u64>, subject: &Subject<'_>) -> bool {
        number.is_some_and(|number| self.users.contains_number(number))
            || self.header.as_ref().is_some_and(|wanted| {
                let sent =
                    |h: &HeaderMap| h.get_all(&wanted.name).iter().any(|v| v.as_bytes() == wanted.equals);
                subject.headers.is_some_and(sent)
            })
            || subject.address.is_some_and(|ip| self.networks.iter().any(|n| n.contains(&ip)))
    }
}

/// A set of user ids, kept as sorted 64-bit hashes: at most 8.5 bytes per id, for any id length.
///
/// The chance that two of ten million ids share a hash is 3 in a million; such an id would count as
/// a member. Hashes are uniform, so their first bits give an approximate position: a lookup reads
/// one place of an index, and one of the hashes.
///
/// Cloning shares the ids.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct UserSet {
    ids: Arc<Ids>,
    fingerprint: u64,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Ids {
    /// Ascending.
    hashes: Box<[u64]>,
    /// Start positions of the hashes by their first bits, and last the total number.
    /// Empty: the set is small.
    starts: Box<[u32]>,
    /// Number of the remaining bits.
    shift: u32,
}

/// The approximate number of hashes with the same first bits.
const TOGETHER: usize = 16;

impl Ids {
    fn new(hashes: Vec<u64>) -> Ids {
        let bits = (hashes.len() / TOGETHER).checked_ilog2().map_or(0, |log| log + 1);
        let shift = u64::BITS - bits;
        if bits == 0 || u32::try_from(hashes.len()).is_err() {
            return Ids { hashes: hashes.into(), starts: Box::default(), shift };
        }
        let mut starts = Vec::with_capacity((1 << bits) + 1);
        for (at, hash) in hashes.iter().enumerate() {
            let place = (hash >> shift) as usize;
            starts.resize(starts.len().max(place + 1), at as u32);
        }
        starts.resize((1 << bits) + 1, hashes.len() as u32);
        Ids { hashes: hashes.into(), starts: starts.into(), shift }
    }

    fn contains(&self, hash: u64) -> bool {
        let near = match self.starts.is_empty() {
            true => &self.hashes[..],
            false => {
                let place = (hash >> self.shift) as usize;
                &self.hashes[self.starts[place] as usize..self.starts[place + 1] as usize]
            }
        };
        // Only a deliberate choice makes hashes less uniform than this.
        if near.len() > 4 * TOGETHER { near.binary_search(&hash).is_ok() } else { near.contains(&hash) }
    }
}

impl UserSet {
    pub fn from_hashes(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let fingerprint =
            hashes.iter().fold(hashes.len() as u64, |f, h| f.rotate_left(5) ^ h.wrapping_mul(PRIME));
        UserSet { ids: Arc::new(Ids::new(hashes)), fingerprint }
    }

    /// The union of both sets.
    pub fn and(self, other: UserSet) -> UserSet {
        match (self.is_empty(), other.is_empty()) {
            (_, true) => self,
            (true, false) => other,
            (false, false) => {
                Self::from_hashes(self.hashes().iter().chain(other.hashes()).copied().collect())
            }
        }
    }

    /// A weak reference: does not keep the ids alive.
    pub fn downgrade(&self) -> WeakUserSet {
        WeakUserSet(Arc::downgrade(&self.ids), self.fingerprint)
    }

    /// Compares two sets without comparing ten million ids.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The number under which `user_id` (normalised) is stored.
    pub fn hash(user_id: &[u8]) -> u64 {
        xxh3_64(user_id)
    }

    /// The stored numbers of its users, in order.
    pub fn hashes(&self) -> &[u64] {
        &self.ids.hashes
    }

    pub fn len(&self) -> usize {
        self.hashes().len()
    }

    pub fn is_empty(&self) -> bool {
        self.hashes().is_empty()
    }

    pub fn contains(&self, user_id: &[u8]) -> bool {
        self.contains_number(Self::hash(user_id))
    }

    /// Contains the user with this [`UserSet::hash`]?
    pub fn contains_number(&self, number: u64) -> bool {
        self.ids.contains(number)
    }
}

/// See [`UserSet::downgrade`].
#[derive(Debug, Clone)]
pub struct WeakUserSet(Weak<Ids>, u64);

impl WeakUserSet {
    pub fn upgrade(&self) -> Option<UserSet> {
        self.0.upgrade().map(|ids| UserSet { ids, fingerprint: self.1 })
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for UserSet {
    fn from_iter<I: IntoIterator<Item = T>>(ids: I) -> Self {
        Self::from_hashes(ids.into_iter().map(|id| Self::hash(id.as_ref())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_holds_what_was_put_in_and_nothing_else(n in 0usize..3000, asked in 0usize..6000) {
            let set: UserSet = (0..n).map(|i| format!("user-{i}")).collect();
            prop_assert_eq!(set.len(), n);
            prop_assert_eq!(set.contains(format!("user-{asked}").as_bytes()), asked < n);
        }

        #[test]
        fn clustered_hashes_are_found(mut hashes in proptest::collection::vec(0u64..500, 0..200)) {
            hashes.push(UserSet::hash(b"x"));
            let set = UserSet::from_hashes(hashes);
            prop_assert!(set.contains(b"x"));
            prop_assert!(!set.contains(b"y"));
        }

        #[test]
        fn any_hashes_are_found(
            hashes in proptest::collection::vec(prop_oneof![any::<u64>(), Just(0), Just(u64::MAX), 0u64..9], 0..2000), other: u64,
        ) {
            let ids = UserSet::from_hashes(hashes.clone()).ids;
            prop_assert!(hashes.iter().all(|hash| ids.contains(*hash)));
            prop_assert_eq!(ids.contains(other), hashes.contains(&other));
        }
    }
}
