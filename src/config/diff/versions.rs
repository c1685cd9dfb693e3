//! The effect of an edit on the versions of a release, as sentences. The rule is in [`version`].

use super::{PlanFindings, ReleaseStanding};
use crate::domain::config::{Config, Release};
use crate::domain::rollout::ReleaseState;
use crate::domain::rollout::version::{self, VersionChange};
use crate::domain::wave::Exposure;
use crate::stats::cohort::{BUCKETS, Weight};

pub fn change(
    old: &Config,
    new: &Config,
    before: &Release,
    after: &Release,
    standing: &ReleaseStanding,
) -> VersionChange {
    let raised = after.attempt > seen(before, standing);
    before.versions(old).change(&after.versions(new), raised, Some(standing.version))
}

/// The highest attempt so far.
fn seen(before: &Release, standing: &ReleaseStanding) -> u64 {
    before.attempt.max(standing.release_state.attempt)
}

/// A release that the file did not name: its weight may have been earned by another version.
pub fn unnamed(release_state: &ReleaseState) -> version::VersionState {
    version::VersionState { complete: false, exposure: Exposure::NOBODY, held: release_state.attempt != 0 }
}

pub fn changed(
    findings: &mut PlanFindings,
    [old, new]: [&Config; 2],
    [before, after]: [&Release; 2],
    standing: &ReleaseStanding,
    change: VersionChange,
) {
    let name = &after.name;
    let moves = moves(&before.versions(old), &after.versions(new), standing.exposure.weight);
    let start = match after.waves.first() {
        Some(first) => format!("it begins before its first wave, `{}`", first.name),
        None => "it begins at 0%, until a further edit sets the weight".to_owned(),
    };
    let arms = replaced(&before.versions(old), &after.versions(new));
    match change {
        VersionChange::Same => {}
        VersionChange::TakenOver => findings.note(format!(
            "release `{name}`: `stable` gets the version that is complete, and nobody moves"
        )),
        VersionChange::Undeclared => findings.refused(format!(
            "release `{name}`: {arms}, while {}. If that is another build: write `attempt = {}` in [release.{name}] \
             ({moves}; {start}, with fresh evidence). If the same builds have moved: write \
             `same_version = true` there (nothing changes{}){}",
            stands(standing),
            seen(before, standing).saturating_add(1),
            match before.same_version && after.same_version {
                true => "; it declares one move, and stands there since an earlier one: take it out in a save of its own first",
                false => "",
            },
            match standing.version.complete {
                true => ". If `new` is complete, and is to become stable: put its servers behind `stable` in the same edit",
                false => "",
            },
        )),
        VersionChange::Declared | VersionChange::Succeeded => findings.warning(format!(
            "release `{name}`: {arms}: another version; {moves}; {start}, with fresh evidence"
        )),
        VersionChange::Unused => findings.note(format!(
            "release `{name}`: {arms}: another version, with fresh evidence; nobody was in `new`"
        )),
    }
}

/// The users who get other servers when all users are on the `stable` of the file.
fn moves(before: &version::Versions, after: &version::Versions, in_new: Weight) -> String {
    let shares = |servers: &[String]| after.stable.iter().any(|server| servers.contains(server));
    let in_stable = Weight::from_parts(BUCKETS - in_new.parts());
    match (shares(&before.stable), shares(&before.new)) {
        (true, _) => format!("{in_new} of users move to `stable`"),
        (false, true) if in_new == Weight::FULL => {
            "nobody moves: the servers of `new` become those of `stable`".to_owned()
        }
        (false, true) => {
            format!("{in_stable} of users, all of `stable`, move to the servers that were behind `new`")
        }
        (false, false) => "every user moves to other servers".to_owned(),
    }
}

fn stands(standing: &ReleaseStanding) -> String {
    let weight = standing.exposure.weight;
    match (standing.version.held, standing.exposure.segments) {
        (true, _) => "it is rolled back, frozen or held".to_owned(),
        (false, 0) => format!("{weight} of users are in new"),
        (false, _) => format!("{weight} of users and the users of its segments are in new"),
    }
}

fn replaced(before: &version::Versions, after: &version::Versions) -> String {
    let list = |servers: &[String]| servers.join(" ");
    let arm = |arm: &str, was: &[String], is: &[String]| {
        let other = !is.iter().any(|server| was.contains(server));
        other.then(|| format!("other servers are behind `{arm}` ({}; before: {})", list(is), list(was)))
    };
    let arms = [arm("stable", &before.stable, &after.stable), arm("new", &before.new, &after.new)];
    arms.into_iter().flatten().collect::<Vec<_>>().join(", and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diff::{PlanFindingKind, Standings, compare};
    use std::path::Path;

    fn config(release: &str, new: &str) -> Config {
        let text = format!(
            "[upstream.v1]\nservers = [\"http://127.0.0.1:9001\"]\n\
             [upstream.v2]\nservers = [{new}]\n\
             [release.r]\nstable = \"v1\"\nnew = \"v2\"\n{release}\n\
             [[route]]\npath = \"/\"\nrelease = \"r\"\n"
        );
        crate::config::parse(&text, Path::new("grayling.toml")).unwrap().config
    }

    fn findings(after: &Config, held: bool) -> Vec<(PlanFindingKind, String)> {
        let before = config("weight = \"20%\"", "\"http://127.0.0.1:9002\"");
        let exposure = Exposure { weight: Weight::from_parts(if held { 0 } else { 200_000 }), segments: 0 };
        let version = version::VersionState { complete: false, exposure, held };
        let standing = ReleaseStanding { exposure, version, ..ReleaseStanding::default() };
        let releases = [("r".to_owned(), standing)].into();
        let standings = Standings { releases, ..Standings::default() };
        compare(&before, after, &standings).into_iter().map(|f| (f.kind, f.message)).collect()
    }

    #[test]
    fn who_meets_other_servers_is_said_of_those_who_do() {
        let versions = |stable: &str, new: &str| version::Versions {
            stable: vec![stable.to_owned()],
            new: vec![new.to_owned()],
            same_declared: false,
        };
        let at = |percent: &str| Weight::parse(percent).unwrap();
        for ((before, after, weight), says) in [
            ((("a", "b"), ("a", "c"), "5%"), "5% of users move to `stable`"),
            ((("a", "b"), ("b", "c"), "100%"), "nobody moves"),
            ((("a", "b"), ("b", "c"), "5%"), "95% of users, all of `stable`, move"),
            ((("a", "b"), ("z", "b"), "5%"), "every user moves to other servers"),
        ] {
            let (before, after) = (versions(before.0, before.1), versions(after.0, after.1));
            let moves = moves(&before, &after, at(weight));
            assert!(moves.starts_with(says), "{moves}");
        }
    }

    #[test]
    fn a_version_that_waits_for_its_weight_is_guarded_from_nothing_on() {
        let server = "\"http://127.0.0.1:9002\"";
        let at = |weight: &str| config(&format!("weight = \"{weight}\"\nstep_max = \"10%\""), server);
        let before = at("100%");
        let waits = crate::domain::rollout::ManualHold::NewVersion;
        let release_state = ReleaseState { attempt: 1, awaits: Some(waits), ..ReleaseState::default() };
        let standing = ReleaseStanding { release_state, ..ReleaseStanding::default() };
        let releases = [("r".to_owned(), standing)].into();
        let standings = Standings { releases, ..Standings::default() };
        let refused = |weight: &str| {
            let found = compare(&before, &at(weight), &standings);
            found.iter().any(|f| f.kind == PlanFindingKind::Refused && f.message.contains("step_max"))
        };
        assert_eq!(["95%", "11%", "10%", "1%", "100%"].map(refused), [true, true, false, false, false]);
    }

    #[test]
    fn another_version_is_refused_with_both_ways_to_declare_it() {
        let other = "\"http://127.0.0.1:9003\"";
        for (held, stands) in [(false, "20% of users are in new"), (true, "rolled back, frozen or held")] {
            let found = findings(&config("weight = \"20%\"", other), held);
            let (kind, message) = &found[0];
            assert_eq!(*kind, PlanFindingKind::Refused);
            for part in ["127.0.0.1:9003; before: ", "`attempt = 2`", "`same_version = true`", stands] {
                assert!(message.contains(part), "{part}: {message}");
            }
        }
        let found = findings(&config("weight = \"20%\"\nattempt = 2", other), false);
        assert!(found.iter().all(|(kind, _)| *kind != PlanFindingKind::Refused), "{found:?}");
        let told = found.iter().find(|(_, m)| m.contains("another version;")).unwrap();
        assert!(told.1.contains("20% of users move to `stable`; it begins at 0%"), "{}", told.1);
        let same = findings(&config("weight = \"20%\"\nsame_version = true", other), false);
        assert!(
            same.iter().all(|(kind, m)| *kind == PlanFindingKind::Note && !m.contains("another")),
            "{same:?}"
        );
        let grown =
            findings(&config("weight = \"20%\"", &format!("{other}, \"http://127.0.0.1:9002\"")), false);
        assert!(grown.iter().all(|(kind, _)| *kind == PlanFindingKind::Note), "{grown:?}");
    }
}
