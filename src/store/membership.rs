//! The users in `new` beside the weight, in the form that the ledger stores: salt, normalisation of
//! ids, segments. Answers whether a user was in `new` from that alone.
//!
//! Invariants: no user id is stored in clear, and none can be found by trying ids.
//! A list of at most [`LISTED_MAX`] users is stored as hashes under the key of the state directory
//! ([`super::state_key`]), a longer one as its length and a fingerprint under that key.
//! Data of an earlier version have no key, and stay readable.
//! If the data cannot answer, the result is unclear, never a guess.

use super::state_key::StateKey;
use crate::domain::config::{Identity, Normalise, Release, normalise};
use crate::domain::segment::{Segment, UserSet};
use crate::domain::wave::Exposure;
use crate::stats::cohort::{Bucket, Salt, Weight};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// The most users of a list whose hashes are stored.
pub const LISTED_MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    pub salt: String,
    /// `none`, `trim`, `lowercase`, `digits`.
    pub normalise: String,
    /// A longer id is invalid.
    pub id_bytes_max: usize,
    /// In `new` at any weight.
    pub segments: Vec<RecordedSegment>,
    /// Never in `new`.
    pub excluded: Vec<RecordedSegment>,
    /// The name of the key for the hashes of users and lists; empty: an earlier version wrote it,
    /// without a key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
}

/// Distinguishes two memberships without keyed hashes: every change compares it with the last one
/// recorded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MembershipIdentity {
    salt: String,
    normalise: Normalise,
    id_bytes_max: usize,
    segments: Vec<SegmentIdentity>,
    excluded: Vec<SegmentIdentity>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct SegmentIdentity {
    name: String,
    users: usize,
    fingerprint: u64,
    by_request: bool,
}

impl MembershipIdentity {
    /// `reach`: how many of its segments are included so far.
    pub fn of(release: &Release, exposure: Exposure, identity: &Identity) -> MembershipIdentity {
        let rolled = |segments: &[Arc<Segment>]| segments.iter().map(|s| SegmentIdentity::of(s)).collect();
        MembershipIdentity {
            salt: release.salt_text.clone(),
            normalise: identity.normalise,
            id_bytes_max: identity.max_bytes,
            segments: rolled(joined(release, exposure)),
            excluded: rolled(&release.excluded),
        }
    }
}

impl SegmentIdentity {
    fn of(segment: &Segment) -> SegmentIdentity {
        SegmentIdentity {
            name: segment.name.clone(),
            users: segment.users.len(),
            fingerprint: segment.users.fingerprint(),
            by_request: by_request(segment),
        }
    }
}

fn joined(release: &Release, exposure: Exposure) -> &[Arc<Segment>] {
    &release.segments[..exposure.segments.min(release.segments.len())]
}

fn by_request(segment: &Segment) -> bool {
    segment.header.is_some() || !segment.networks.is_empty()
}

/// Resolves users and lists of the ledger for a reader.
pub struct Lookup<'a> {
    /// The hash of a number ([`UserSet::hash`]) under the key of this name; `None`: the key is
    /// missing.
    pub hashed: &'a dyn Fn(&str, u64) -> Option<String>,
    /// The users of a list stored by its fingerprint, under the key of this name.
    pub known: &'a dyn Fn(&str, &RecordedSegment) -> Option<UserSet>,
}

#[cfg(test)]
impl Lookup<'_> {
    /// No key and no list.
    pub const NOTHING: Lookup<'static> = Lookup { hashed: &|_, _| None, known: &|_, _| None };
}

/// A segment as recorded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordedSegment {
    pub name: String,
    /// The number of users in its lists.
    pub users: usize,
    /// Distinguishes lists, under the key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// Its users, hashed under the key; `null`: too many.
    pub numbers: Option<Vec<String>>,
    /// A header or an address can make any user a member: these are in the request, and are not
    /// recorded.
    pub by_request: bool,
}

/// Was a user in `new`?
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WasInNew {
    In,
    Out,
    /// By the ledger alone `otherwise`; but these segments may have decided.
    Unclear {
        otherwise: bool,
        segments: Vec<String>,
    },
}

impl Membership {
    /// `reach`: how many of its segments are included so far.
    pub fn of(release: &Release, exposure: Exposure, identity: &Identity, key: &StateKey) -> Membership {
        let listed =
            |segments: &[Arc<Segment>]| segments.iter().map(|s| RecordedSegment::of(s, key)).collect();
        Membership {
            salt: release.salt_text.clone(),
            normalise: word(identity.normalise).to_owned(),
            id_bytes_max: identity.max_bytes,
            segments: listed(joined(release, exposure)),
            excluded: listed(&release.excluded),
            key: key.name().to_owned(),
        }
    }

    /// The normalised id, as it is hashed; `None`: it is no valid id.
    pub fn normalised<'a>(&self, user: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let mode = MODES.into_iter().find(|mode| word(*mode) == self.normalise).unwrap_or_default();
        Some(normalise(mode, user)).filter(|id| !id.is_empty() && id.len() <= self.id_bytes_max)
    }

    pub fn bucket(&self, id: &[u8]) -> Bucket {
        Salt::new(&self.salt).bucket(id)
    }

    /// Was this (normalised) id in `new` at that weight, without a hold?
    pub fn was_in(&self, id: &[u8], weight: Weight, lookup: &Lookup<'_>) -> WasInNew {
        let number = UserSet::hash(id);
        let ask = |listed: &[RecordedSegment]| {
            let mut unclear = vec![];
            for segment in listed {
                match segment.has(number, id, &self.key, lookup) {
                    Some(true) => return (true, vec![]),
                    Some(false) if !segment.by_request => {}
                    _ => unclear.push(segment.name.clone()),
                }
            }
            (false, unclear)
        };
        let (excluded, perhaps_excluded) = ask(&self.excluded);
        if excluded {
            return WasInNew::Out;
        }
        let (pinned, perhaps_pinned) = ask(&self.segments);
        let drawn = pinned || weight.holds(self.bucket(id));
        let segments = match drawn {
            // Only an exclusion could have kept this user out; only a segment could have brought
            // that user in.
            true => perhaps_excluded,
            false => perhaps_pinned,
        };
        match (segments.is_empty(), drawn) {
            (false, otherwise) => WasInNew::Unclear { otherwise, segments },
            (true, true) => WasInNew::In,
            (true, false) => WasInNew::Out,
        }
    }
}

impl RecordedSegment {
    fn of(segment: &Segment, key: &StateKey) -> RecordedSegment {
        let users = &segment.users;
        RecordedSegment {
            name: segment.name.clone(),
            users: users.len(),
            fingerprint: if users.is_empty() { String::new() } else { key.list(users) },
            numbers: (users.len() <= LISTED_MAX)
                .then(|| users.hashes().iter().map(|h| key.user(*h)).collect()),
            by_request: by_request(segment),
        }
    }

    /// Do its lists contain this user? `None`: the lists or the key are missing. `key`: its name;
    /// empty: written without a key.
    fn has(&self, number: u64, id: &[u8], key: &str, lookup: &Lookup<'_>) -> Option<bool> {
        match &self.numbers {
            Some(numbers) if numbers.is_empty() => Some(false),
            Some(numbers) if key.is_empty() => Some(numbers.contains(&hex(number))),
            Some(numbers) => (lookup.hashed)(key, number).map(|hash| numbers.contains(&hash)),
            None => (lookup.known)(key, self).map(|users| users.contains(id)),
        }
    }

    /// Is this list the recorded one?
    /// `key`: the key of the record; `None`: an earlier version wrote it without a key.
    pub fn is_of(&self, users: &UserSet, key: Option<&StateKey>) -> bool {
        let fingerprint = key.map_or_else(|| hex(users.fingerprint()), |key| key.list(users));
        users.len() == self.users && fingerprint == self.fingerprint
    }
}

const MODES: [Normalise; 4] = [Normalise::None, Normalise::Trim, Normalise::Lowercase, Normalise::Digits];

fn word(mode: Normalise) -> &'static str {
    match mode {
        Normalise::None => "none",
        Normalise::Trim => "trim",
        Normalise::Lowercase => "lowercase",
        Normalise::Digits => "digits",
    }
}

fn hex(number: u64) -> String {
    format!("{number:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::decide::{Effective, decide};
    use crate::domain::segment::Subject;
    use crate::stats::arm::Arm;
    use proptest::prelude::*;

    fn release(text: &str) -> (Arc<Release>, Identity) {
        let head = "[upstream.a]\nservers = [\"http://127.0.0.1:1\"]\n[upstream.b]\nservers = [\"http://127.0.0.1:2\"]\n\
                    [[route]]\nrelease = \"r\"\n";
        let checked = crate::config::parse(&format!("{head}{text}"), std::path::Path::new("x.toml")).unwrap();
        (checked.config.releases[0].clone(), checked.config.identity)
    }

    fn key() -> StateKey {
        StateKey::new([7; 32])
    }

    fn under_key(name: &str, number: u64) -> Option<String> {
        (name == key().name()).then(|| key().user(number))
    }

    const KEYED: Lookup<'static> = Lookup { hashed: &under_key, known: &|_, _| None };

    /// A reach as a weight set by hand gives it: all segments.
    fn all(release: &Release, weight: Weight) -> Exposure {
        Exposure { weight, segments: release.segments.len() }
    }

    const LISTS: &str = "[identity]\nnormalise = \"lowercase\"\n[segment.testers]\nusers = [\"u1\", \"u2\", \"U3\"]\n[segment.vip]\nusers = [\"u3\", \"u4\"]\n\
                         [release.r]\nstable = \"a\"\nnew = \"b\"\nsalt = \"s\"\nsegments = [\"testers\"]\nexcluded = [\"vip\"]\n";

    proptest! {
        #[test]
        fn what_is_told_afterwards_is_what_was_decided(user in "[uU ][0-9]{1,3} ?", weight in 0u32..=1_000_000) {
            let (release, identity) = release(LISTS);
            let kept = serde_json::to_string(&Membership::of(&release, all(&release, Weight::ZERO), &identity, &key())).unwrap();
            let kept: Membership = serde_json::from_str(&kept).unwrap();
            let id = kept.normalised(user.as_bytes()).unwrap();
            prop_assert_eq!(&id, &normalise(identity.normalise, user.as_bytes()));
            let weight = Weight::from_parts(weight);
            let subject = Subject { user_id: Some(&id), headers: None, address: None };
            let arm = decide(&release, Effective::At(all(&release, weight)), &subject).arm;
            let was = kept.was_in(&id, weight, &KEYED);
            prop_assert_eq!(was, if arm == Arm::New { WasInNew::In } else { WasInNew::Out });
        }
    }

    #[test]
    fn what_a_request_decided_is_not_guessed() {
        let text = "[segment.inside]\nnetworks = [\"10.0.0.0/8\"]\n[release.r]\nstable = \"a\"\nnew = \"b\"\nsegments = [\"inside\"]\n";
        let (release, identity) = release(text);
        let kept = Membership::of(&release, all(&release, Weight::ZERO), &identity, &key());
        let was = |weight| kept.was_in(b"alice", weight, &Lookup::NOTHING);
        assert_eq!(was(Weight::FULL), WasInNew::In);
        assert_eq!(
            was(Weight::ZERO),
            WasInNew::Unclear { otherwise: false, segments: vec!["inside".into()] }
        );
    }

    #[test]
    fn a_long_list_is_kept_by_its_fingerprint_and_known_again() {
        let users: UserSet = (0..=LISTED_MAX).map(|i| format!("u{i}")).collect();
        let segment = Segment { name: "many".into(), users: users.clone(), ..Segment::default() };
        let (release, identity) = release("[release.r]\nstable = \"a\"\nnew = \"b\"\n");
        let kept = Membership {
            segments: vec![RecordedSegment::of(&segment, &key())],
            ..Membership::of(&release, all(&release, Weight::ZERO), &identity, &key())
        };
        assert_eq!(kept.segments[0].numbers, None);
        let unclear = WasInNew::Unclear { otherwise: false, segments: vec!["many".into()] };
        assert_eq!(kept.was_in(b"u7", Weight::ZERO, &KEYED), unclear);
        let known =
            |_: &str, listed: &RecordedSegment| listed.is_of(&users, Some(&key())).then(|| users.clone());
        let lookup = Lookup { known: &known, ..KEYED };
        assert_eq!(kept.was_in(b"u7", Weight::ZERO, &lookup), WasInNew::In);
        assert_eq!(kept.was_in(b"x", Weight::ZERO, &lookup), WasInNew::Out);
        let known = |_: &str, listed: &RecordedSegment| listed.is_of(&users, None).then(|| users.clone());
        assert_eq!(kept.was_in(b"u7", Weight::ZERO, &Lookup { known: &known, ..KEYED }), unclear);
    }

    #[test]
    fn without_the_key_nobody_can_be_told_and_nothing_can_be_guessed() {
        let (release, identity) = release(LISTS);
        let kept = Membership::of(&release, all(&release, Weight::ZERO), &identity, &key());
        let text = serde_json::to_string(&kept).unwrap();
        for user in ["u1", "u2", "u3", "u4"] {
            assert!(!text.contains(&hex(UserSet::hash(user.as_bytes()))), "{user}: {text}");
        }
        for segment in [&release.segments[0], &release.excluded[0]] {
            assert!(!text.contains(&hex(segment.users.fingerprint())), "{text}");
        }
        assert_eq!(kept.was_in(b"u1", Weight::ZERO, &KEYED), WasInNew::In);
        for lost in [&Lookup::NOTHING, &Lookup { hashed: &|_, _| None, ..KEYED }] {
            let was = |user: &[u8], weight| kept.was_in(user, weight, lost);
            assert_eq!(
                was(b"u1", Weight::ZERO),
                WasInNew::Unclear { otherwise: false, segments: vec!["testers".into()] }
            );
            assert_eq!(
                was(b"u9", Weight::FULL),
                WasInNew::Unclear { otherwise: true, segments: vec!["vip".into()] }
            );
        }
    }

    #[test]
    fn what_a_version_without_a_key_wrote_is_read() {
        let (release, identity) = release(LISTS);
        let mut kept = Membership::of(&release, all(&release, Weight::ZERO), &identity, &key());
        let numbers = release.segments[0].users.hashes().iter().map(|h| hex(*h)).collect();
        (kept.key, kept.segments[0].numbers) = (String::new(), Some(numbers));
        kept.excluded.clear();
        let text = serde_json::to_string(&kept).unwrap();
        assert!(!text.contains("\"key\""), "{text}");
        let kept: Membership = serde_json::from_str(&text).unwrap();
        assert_eq!(kept.was_in(b"u2", Weight::ZERO, &Lookup::NOTHING), WasInNew::In);
        assert_eq!(kept.was_in(b"u4", Weight::ZERO, &Lookup::NOTHING), WasInNew::Out);
    }
}
