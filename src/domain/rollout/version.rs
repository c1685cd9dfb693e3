//! Versions of a release: the effect of a file edit on the builds behind `new` and `stable`.
//!
//! The servers as written in the file identify a version; the names of upstreams do not.
//! An arm gets another version when none of its servers stays.
//! Adding or removing single servers is no new version.
//!
//! Invariants: pure; no user meets a version at a weight that another version earned.
//! A change that would do that is [`VersionChange::Undeclared`], which a reload refuses and a start
//! holds at 0%.

use super::{ManualHold, ReleaseState};
use crate::domain::wave::{Exposure, Strategy};

/// The servers behind both arms, as written in the file.
/// Empty: unknown.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Versions {
    pub stable: Vec<String>,
    pub new: Vec<String>,
    /// The file has `same_version = true`.
    pub same_declared: bool,
}

/// The effect of an edit on the versions of a release.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VersionChange {
    /// Both arms keep their version.
    Same,
    /// `stable` takes over the version of a complete release; `new` keeps it, so no user moves.
    TakenOver,
    /// Another version, declared by a higher attempt.
    Declared,
    /// Another version of a release without users in `new` and without a hold.
    Unused,
    /// `stable` takes over the version of a complete release, and `new` gets another one.
    Succeeded,
    /// Another version without a declaration, while users are in `new` or the release is held.
    Undeclared,
}

/// The state of the release before the edit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VersionState {
    pub complete: bool,
    /// In force.
    pub exposure: Exposure,
    /// It is held in a way that forbids another version without a declaration.
    pub held: bool,
}

impl ReleaseState {
    /// Is there a hold that another version must not pass without a declaration?
    /// A version that waits for its weight is no such hold: no user has met that version.
    pub fn guards_versions(&self) -> bool {
        self.trip.is_some()
            || self.freeze.is_some()
            || self.awaits.is_some_and(|a| a != ManualHold::NewVersion)
    }
}

impl Versions {
    /// The effect of a file on the versions `self`. `standing`: the state of the release; `None` if
    /// unknown, at a start. `raised`: the file has a higher attempt.
    pub fn change(&self, file: &Versions, raised: bool, standing: Option<VersionState>) -> VersionChange {
        let new = is_another(&self.new, &file.new);
        if !new && !is_another(&self.stable, &file.stable) {
            return VersionChange::Same;
        }
        if raised {
            return VersionChange::Declared;
        }
        // It declares one change only: if left in the file, it must not let the next version pass
        // as well.
        if file.same_declared && !self.same_declared {
            return VersionChange::Same;
        }
        let complete = standing.is_some_and(|s| s.complete);
        let taken_over = !is_another(&self.new, &file.stable);
        match standing {
            _ if complete && taken_over && new => VersionChange::Succeeded,
            _ if complete && taken_over => VersionChange::TakenOver,
            Some(s) if s.exposure == Exposure::NOBODY && !s.held => VersionChange::Unused,
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
    /// Does the release start again?
    pub fn is_another(self) -> bool {
        !matches!(self, VersionChange::Same | VersionChange::TakenOver)
    }

    /// The hold of a version that begins. Waves begin before the first one, and need no hold; a
    /// weight set by hand counts once a person has chosen it for this version.
    pub fn holds(self, strategy: Strategy<'_>) -> Option<ManualHold> {
        let hold = match self {
            VersionChange::Same | VersionChange::TakenOver | VersionChange::Unused => false,
            VersionChange::Declared | VersionChange::Succeeded => {
                matches!(strategy, Strategy::ByHand(exposure) if exposure != Exposure::NOBODY)
            }
            VersionChange::Undeclared => strategy != Strategy::ByHand(Exposure::NOBODY),
        };
        hold.then_some(ManualHold::NewVersion)
    }
}

/// Does a release with a new name replace one that the same edit removes?
/// True if they share a server: the written weight was then earned by the other release.
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
    use crate::stats::cohort::Weight;

    fn versions(stable: &str, new: &str) -> Versions {
        let servers = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Versions { stable: servers(stable), new: servers(new), same_declared: false }
    }

    fn standing(percent: &str) -> VersionState {
        let exposure = Exposure { weight: Weight::parse(percent).unwrap(), segments: 0 };
        VersionState { complete: false, exposure, held: false }
    }

    #[test]
    fn an_edit_of_servers_is_another_version_only_where_none_stays() {
        use VersionChange::*;
        let at_5 = Some(standing("5%"));
        let at_0 = Some(standing("0%"));
        let complete = Some(VersionState { complete: true, ..standing("100%") });
        let rolled_back = Some(VersionState { held: true, ..standing("0%") });
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
