//! Versions of a release: what an edit of the file does to the builds behind `new` and `stable`.
//!
//! The servers, as the file writes them, tell versions apart; the names of upstreams do not. An arm
//! gets another version when none of its servers stays. Adding or removing single servers is no new
//! version.
//!
//! Invariants: pure; no user meets a version at a weight that another version has earned; a change
//! that would do that is [`VersionChange::Undeclared`], which a reload refuses and a start holds at
//! 0%.

use super::{Awaits, Memory};
use crate::domain::wave::{Course, Reach};

/// The servers behind both arms, as the file writes them. Empty: not known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Versions {
    pub stable: Vec<String>,
    pub new: Vec<String>,
    /// The file says `same_version = true`.
    pub same_declared: bool,
}

/// How an edit bears on the versions of a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionChange {
    /// Both arms keep their version.
    Same,
    /// `stable` takes over the version of a complete release; `new` keeps it, so nobody moves.
    TakenOver,
    /// Another version, declared by a higher attempt.
    Declared,
    /// Another version of a release that has nobody in `new`, and that nothing holds.
    Unused,
    /// `stable` takes over the version of a complete release, and `new` gets another one.
    Succeeded,
    /// Another version that nothing declares, while users are in `new` or something holds the
    /// release.
    Undeclared,
}

/// How the release stood before the edit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Standing {
    pub complete: bool,
    /// In force.
    pub reach: Reach,
    /// Something holds it that forbids another version without a declaration.
    pub held: bool,
}

impl Memory {
    /// Does something stand that another version must not pass without a declaration? The wait of a
    /// version for its weight does not: nobody has met that version.
    pub fn guards_versions(&self) -> bool {
        self.trip.is_some() || self.freeze.is_some() || self.awaits.is_some_and(|a| a != Awaits::NewVersion)
    }
}

impl Versions {
    /// What a file does to the versions `self`. `standing`: how the release stood; `None` where
    /// that is not known, at a start. `raised`: the file has a higher attempt.
    pub fn change(&self, file: &Versions, raised: bool, standing: Option<Standing>) -> VersionChange {
        let new = is_another(&self.new, &file.new);
        if !new && !is_another(&self.stable, &file.stable) {
            return VersionChange::Same;
        }
        if raised {
            return VersionChange::Declared;
        }
        // It declares one change only: left in the file, it would let the next version pass as
        // well.
        if file.same_declared && !self.same_declared {
            return VersionChange::Same;
        }
        let complete = standing.is_some_and(|s| s.complete);
        let taken_over = !is_another(&self.new, &file.stable);
        match standing {
            _ if complete && taken_over && new => VersionChange::Succeeded,
            _ if complete && taken_over => VersionChange::TakenOver,
            Some(s) if s.reach == Reach::NOBODY && !s.held => VersionChange::Unused,
            _ => VersionChange::Undeclared,
        }
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stable {}, new {}", self.stable.join(" "), self.new.join(" "))
    }
}

impl VersionChange {
    /// Does the release begin anew?
    pub fn is_another(self) -> bool {
        !matches!(self, VersionChange::Same | VersionChange::TakenOver)
    }

    /// What a version that begins waits for. Waves begin before the first one, and need no hold; a
    /// weight set by hand counts once a person has chosen it for this version.
    pub fn holds(self, course: Course<'_>) -> Option<Awaits> {
        let hold = match self {
            VersionChange::Same | VersionChange::TakenOver | VersionChange::Unused => false,
            VersionChange::Declared | VersionChange::Succeeded => {
                matches!(course, Course::ByHand(reach) if reach != Reach::NOBODY)
            }
            VersionChange::Undeclared => course != Course::ByHand(Reach::NOBODY),
        };
        hold.then_some(Awaits::NewVersion)
    }
}

/// Does a release of a new name take the place of one that the same edit removes? They have a
/// server in common then, and what the written weight was earned by is another one's.
pub fn takes_place(removed: impl IntoIterator<Item = Versions>, added: &Versions) -> bool {
    let servers: Vec<String> = removed.into_iter().flat_map(|v| [v.stable, v.new]).flatten().collect();
    [&added.stable, &added.new].into_iter().flatten().any(|server| servers.contains(server))
}

/// Do both lists name servers, and none in common?
fn is_another(before: &[String], after: &[String]) -> bool {
    !before.is_empty() && !after.is_empty() && !after.iter().any(|server| before.contains(server))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::cohort::Weight;

    fn versions(stable: &str, new: &str) -> Versions {
        let servers = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Versions { stable: servers(stable), new: servers(new), same_declared: false }
    }

    fn standing(percent: &str) -> Standing {
        let reach = Reach { weight: Weight::parse(percent).unwrap(), segments: 0 };
        Standing { complete: false, reach, held: false }
    }

    #[test]
    fn an_edit_of_servers_is_another_version_only_where_none_stays() {
        use VersionChange::*;
        let at_5 = Some(standing("5%"));
        let at_0 = Some(standing("0%"));
        let complete = Some(Standing { complete: true, ..standing("100%") });
        let rolled_back = Some(Standing { held: true, ..standing("0%") });
        for (before, after, now, change) in [
            (("a", "b"), ("a", "b"), at_5, Same),
            (("a", "b"), ("a", "b c"), at_5, Same),
            (("a a2", "b c"), ("a2", "c"), at_5, Same),
            (("a", "b"), ("a", "c"), at_5, Undeclared),
            (("a", "b"), ("z", "b"), at_5, Undeclared),
            (("a", "b"), ("a", "c"), at_0, Unused),
            (("a", "b"), ("a", "c"), rolled_back, Undeclared),
            (("a", "b"), ("a", "c"), complete, Undeclared),
            (("a", "b"), ("b", "c"), complete, Succeeded),
            (("a", "b"), ("b", "c"), at_5, Undeclared),
            (("a", "b"), ("b", "b"), complete, TakenOver),
            (("a", "b"), ("a", "c"), None, Undeclared),
            (("", ""), ("a", "c"), at_5, Same),
        ] {
            let (old, file) = (versions(before.0, before.1), versions(after.0, after.1));
            assert_eq!(old.change(&file, false, now), change, "{before:?} {after:?} {now:?}");
            let declared = if change == Same { Same } else { Declared };
            assert_eq!(old.change(&file, true, now), declared, "{before:?} {after:?} {now:?}");
        }
    }

    #[test]
    fn same_version_declares_one_change() {
        let declared = |stable, new| Versions { same_declared: true, ..versions(stable, new) };
        let now = Some(standing("5%"));
        assert_eq!(versions("a", "b").change(&declared("a", "c"), false, now), VersionChange::Same);
        assert_eq!(declared("a", "c").change(&declared("a", "d"), false, now), VersionChange::Undeclared);
    }
}
