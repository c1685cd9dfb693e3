//! Who is in `new` beside the weight, as the ledger keeps it: salt, how ids are normalised, segments; and what can be told from that alone.
//!
//! Invariants: no user id in clear: a list of at most [`LISTED_MAX`] users is kept as their numbers (xxh3-64 of the normalised id, as in
//! [`crate::domain::segment::UserSet`]), a longer one by count and fingerprint; what cannot be told is told to be so, never guessed.

use crate::domain::cohort::{Bucket, Salt, Weight};
use crate::domain::plan::{Identity, Normalise, Release, normalise};
use crate::domain::segment::{Segment, UserSet};
use crate::domain::wave::Reach;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;

/// Users of a list whose numbers are written down.
pub const LISTED_MAX: usize = 256;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Membership {
    pub salt: String,
    /// `none`, `trim`, `lowercase`, `digits`.
    pub normalise: String,
    /// A longer id is no id.
    pub id_bytes_max: usize,
    /// In `new` whatever the weight.
    pub segments: Vec<Listed>,
    /// Never in `new`.
    pub excluded: Vec<Listed>,
}

/// A segment as it was.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Listed {
    pub name: String,
    /// How many users its lists have.
    pub users: usize,
    /// Tells two lists apart.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fingerprint: String,
    /// The numbers of its users, in hex; `null`: too many.
    pub numbers: Option<Vec<String>>,
    /// A header or an address can make anyone a member: that was in the request, and is written nowhere.
    pub by_request: bool,
}

/// Was a user in `new`?
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Was {
    In,
    Out,
    /// As far as the ledger tells, `otherwise`; but these segments may have decided.
    Unclear {
        otherwise: bool,
        segments: Vec<String>,
    },
}

impl Membership {
    /// `reach`: how many of its segments are in so far.
    pub fn of(release: &Release, reach: Reach, identity: &Identity) -> Membership {
        let listed = |segments: &[Arc<Segment>]| segments.iter().map(|s| Listed::of(s)).collect();
        let joined = reach.segments.min(release.segments.len());
        Membership {
            salt: release.salt_text.clone(),
            normalise: word(identity.normalise).to_owned(),
            id_bytes_max: identity.max_bytes,
            segments: listed(&release.segments[..joined]),
            excluded: listed(&release.excluded),
        }
    }

    /// The id as it is hashed; `None`: it is no id.
    pub fn normalised<'a>(&self, user: &'a [u8]) -> Option<Cow<'a, [u8]>> {
        let mode = MODES.into_iter().find(|mode| word(*mode) == self.normalise).unwrap_or_default();
        Some(normalise(mode, user)).filter(|id| !id.is_empty() && id.len() <= self.id_bytes_max)
    }

    pub fn bucket(&self, id: &[u8]) -> Bucket {
        Salt::new(&self.salt).bucket(id)
    }

    /// Was this (normalised) id in `new` under that weight, nothing being held? `known`: users of a list that is kept by its fingerprint only.
    pub fn was_in(&self, id: &[u8], weight: Weight, known: &dyn Fn(&Listed) -> Option<UserSet>) -> Was {
        let number = UserSet::hash(id);
        let ask = |listed: &[Listed]| {
            let mut unclear = vec![];
            for segment in listed {
                match segment.has(number, id, known) {
                    Some(true) => return (true, vec![]),
                    Some(false) if !segment.by_request => {}
                    _ => unclear.push(segment.name.clone()),
                }
            }
            (false, unclear)
        };
        let (excluded, perhaps_excluded) = ask(&self.excluded);
        if excluded {
            return Was::Out;
        }
        let (pinned, perhaps_pinned) = ask(&self.segments);
        let drawn = pinned || weight.holds(self.bucket(id));
        let segments = match drawn {
            // Only being excluded could have kept this user out, only being pinned could have brought that one in.
            true => perhaps_excluded,
            false => perhaps_pinned,
        };
        match (segments.is_empty(), drawn) {
            (false, otherwise) => Was::Unclear { otherwise, segments },
            (true, true) => Was::In,
            (true, false) => Was::Out,
        }
    }
}

impl Listed {
    fn of(segment: &Segment) -> Listed {
        let users = &segment.users;
        Listed {
            name: segment.name.clone(),
            users: users.len(),
            fingerprint: if users.is_empty() { String::new() } else { hex(users.fingerprint()) },
            numbers: (users.len() <= LISTED_MAX).then(|| users.hashes().iter().map(|h| hex(*h)).collect()),
            by_request: segment.header.is_some() || !segment.networks.is_empty(),
        }
    }

    /// Do its lists have this user? `None`: they are not here.
    fn has(&self, number: u64, id: &[u8], known: &dyn Fn(&Listed) -> Option<UserSet>) -> Option<bool> {
        match &self.numbers {
            Some(numbers) => Some(numbers.contains(&hex(number))),
            None => known(self).map(|users| users.contains(id)),
        }
    }

    /// Is this the list that it was?
    pub fn is_of(&self, users: &UserSet) -> bool {
        users.len() == self.users && hex(users.fingerprint()) == self.fingerprint
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
    use crate::domain::decide::{Arm, Force, decide};
    use crate::domain::segment::Subject;
    use proptest::prelude::*;

    fn release(text: &str) -> (Arc<Release>, Identity) {
        let head = "[upstream.a]\nservers = [\"http://127.0.0.1:1\"]\n[upstream.b]\nservers = [\"http://127.0.0.1:2\"]\n\
                    [[route]]\nrelease = \"r\"\n";
        let checked = crate::config::parse(&format!("{head}{text}"), std::path::Path::new("x.toml")).unwrap();
        (checked.plan.releases[0].clone(), checked.plan.identity)
    }

    /// As a weight set by hand has it: all segments.
    fn all(release: &Release, weight: Weight) -> Reach {
        Reach { weight, segments: release.segments.len() }
    }

    const LISTS: &str = "[identity]\nnormalise = \"lowercase\"\n[segment.testers]\nusers = [\"u1\", \"u2\", \"U3\"]\n[segment.vip]\nusers = [\"u3\", \"u4\"]\n\
                         [release.r]\nstable = \"a\"\nnew = \"b\"\nsalt = \"s\"\nsegments = [\"testers\"]\nexcluded = [\"vip\"]\n";

    proptest! {
        #[test]
        fn what_is_told_afterwards_is_what_was_decided(user in "[uU ][0-9]{1,3} ?", weight in 0u32..=1_000_000) {
            let (release, identity) = release(LISTS);
            let kept = serde_json::to_string(&Membership::of(&release, all(&release, Weight::ZERO), &identity)).unwrap();
            let kept: Membership = serde_json::from_str(&kept).unwrap();
            let id = kept.normalised(user.as_bytes()).unwrap();
            prop_assert_eq!(&id, &normalise(identity.normalise, user.as_bytes()));
            let weight = Weight::from_parts(weight);
            let subject = Subject { user_id: Some(&id), headers: None, address: None };
            let arm = decide(&release, Force::At(all(&release, weight)), &subject).arm;
            let was = kept.was_in(&id, weight, &|_| None);
            prop_assert_eq!(was, if arm == Arm::New { Was::In } else { Was::Out });
        }
    }

    #[test]
    fn what_a_request_decided_is_not_guessed() {
        let text = "[segment.inside]\nnetworks = [\"10.0.0.0/8\"]\n[release.r]\nstable = \"a\"\nnew = \"b\"\nsegments = [\"inside\"]\n";
        let (release, identity) = release(text);
        let kept = Membership::of(&release, all(&release, Weight::ZERO), &identity);
        let was = |weight| kept.was_in(b"alice", weight, &|_| None);
        assert_eq!(was(Weight::FULL), Was::In);
        assert_eq!(was(Weight::ZERO), Was::Unclear { otherwise: false, segments: vec!["inside".into()] });
    }

    #[test]
    fn a_long_list_is_kept_by_its_fingerprint_and_known_again() {
        let users: UserSet = (0..=LISTED_MAX).map(|i| format!("u{i}")).collect();
        let segment = Segment { name: "many".into(), users: users.clone(), ..Segment::default() };
        let (release, identity) = release("[release.r]\nstable = \"a\"\nnew = \"b\"\n");
        let kept = Membership {
            segments: vec![Listed::of(&segment)],
            ..Membership::of(&release, all(&release, Weight::ZERO), &identity)
        };
        assert_eq!(kept.segments[0].numbers, None);
        let unclear = Was::Unclear { otherwise: false, segments: vec!["many".into()] };
        assert_eq!(kept.was_in(b"u7", Weight::ZERO, &|_| None), unclear);
        let known = |listed: &Listed| listed.is_of(&users).then(|| users.clone());
        assert_eq!(kept.was_in(b"u7", Weight::ZERO, &known), Was::In);
        assert_eq!(kept.was_in(b"x", Weight::ZERO, &known), Was::Out);
    }
}
