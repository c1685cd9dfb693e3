//! Segments: named sets of users, by list, file, header or network; and the compact set that holds ten million ids.
//!
//! Invariant: membership by user id is a function of the id alone. Membership by header or network looks at the
//! request, and is the one declared exception to "a user's arm is a function".

use http::{HeaderMap, HeaderName};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use xxhash_rust::xxh3::xxh3_64;

/// A user is in it if any of its sources says so.
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

/// What is known of the one who asks.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// After `normalise`; `None` if no source of the config yielded an id.
    pub user_id: Option<&'a [u8]>,
    pub headers: Option<&'a HeaderMap>,
    /// The client's address: the peer's, or the one that a trusted proxy vouches for.
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
        subject.user_id.is_some_and(|id| self.users.contains(id))
            || self.header.as_ref().is_some_and(|wanted| {
                let sent =
                    |h: &HeaderMap| h.get_all(&wanted.name).iter().any(|v| v.as_bytes() == wanted.equals);
                subject.headers.is_some_and(sent)
            })
            || subject.address.is_some_and(|ip| self.networks.iter().any(|n| n.contains(&ip)))
    }
}

/// A set of user ids, kept as sorted 64-bit hashes: 8 bytes an id, whatever their length.
///
/// Two ids in ten million share a hash with a chance of 3 in a million; such a stranger would be taken for a member.
/// Hashes are uniform, so interpolation finds one in a handful of probes (Perl, Itai, Avni 1978).
///
/// Cloning shares the ids.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct UserSet(Arc<[u64]>, u64);

impl UserSet {
    pub fn from_hashes(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let fingerprint =
            hashes.iter().fold(hashes.len() as u64, |f, h| f.rotate_left(5) ^ h.wrapping_mul(PRIME));
        UserSet(hashes.into(), fingerprint)
    }

    /// Those of both.
    pub fn and(self, other: UserSet) -> UserSet {
        match (self.is_empty(), other.is_empty()) {
            (_, true) => self,
            (true, false) => other,
            (false, false) => Self::from_hashes(self.0.iter().chain(other.0.iter()).copied().collect()),
        }
    }

    /// Holds on to the ids only as long as somebody else does.
    pub fn downgrade(&self) -> WeakUserSet {
        WeakUserSet(Arc::downgrade(&self.0), self.1)
    }

    /// Tells two sets apart without comparing ten million ids.
    pub fn fingerprint(&self) -> u64 {
        self.1
    }

    /// The number under which `user_id` (normalised) is kept.
    pub fn hash(user_id: &[u8]) -> u64 {
        xxh3_64(user_id)
    }

    /// The numbers under which its users are kept, in order.
    pub fn hashes(&self) -> &[u64] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, user_id: &[u8]) -> bool {
        let wanted = Self::hash(user_id);
        let (mut low, mut high) = (0usize, self.0.len());
        while high - low > 16 {
            let (first, last) = (self.0[low], self.0[high - 1]);
            if wanted < first || wanted > last {
                return false;
            }
            let span = u128::from(last - first) + 1;
            let guess = low + (u128::from(wanted - first) * (high - low) as u128 / span) as usize;
            match self.0[guess].cmp(&wanted) {
                std::cmp::Ordering::Equal => return true,
                std::cmp::Ordering::Less => low = guess + 1,
                std::cmp::Ordering::Greater => high = guess,
            }
        }
        self.0[low..high].contains(&wanted)
    }
}

/// See [`UserSet::downgrade`].
#[derive(Debug, Clone)]
pub struct WeakUserSet(Weak<[u64]>, u64);

impl WeakUserSet {
    pub fn upgrade(&self) -> Option<UserSet> {
        self.0.upgrade().map(|ids| UserSet(ids, self.1))
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
    }
}
