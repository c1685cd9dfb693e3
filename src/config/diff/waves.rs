//! The effect of an edited plan of waves on a release in progress: past and future waves, and where
//! it continues.

use super::{PlanFinding, PlanFindingKind, PlanFindings, ReleaseEdit};
use crate::domain::config::{Config, Release};
use crate::domain::gates::{self, KnownTraffic, points, time_needed};
use crate::domain::rollout::wave_controller;
use crate::domain::rollout::{HoldKind, PlanProgress};
use crate::domain::wave::Wave;
use std::collections::BTreeMap;

pub fn changed(findings: &mut PlanFindings, edit: &ReleaseEdit<'_>) {
    let (before, after) = (edit.before, edit.after);
    let name = &after.name;
    if before.open_hours != after.open_hours {
        let shown = |r: &Release| r.open_hours.as_ref().map_or("none".to_owned(), ToString::to_string);
        findings.note(format!("release `{name}`: open_hours {} to {}", shown(before), shown(after)));
    }
    if before.waves == after.waves {
        return;
    }
    let later = edit.later();
    let place = |p: &Option<PlanProgress>, waves: &[Wave]| p.as_ref().and_then(|p| p.place(waves));
    let going_on = &edit.is.release_state.progress;
    let on = match (going_on, edit.is.hold.is_some()) {
        (Some(progress), false) => format!("it goes on in wave `{}`", progress.wave),
        (Some(progress), true) => format!("its place in the plan is wave `{}`", progress.wave),
        (None, false) => "it begins before its first wave".to_owned(),
        (None, true) => "its place in the plan is before the first wave".to_owned(),
    };
    // A held wave bakes again in any case.
    let bakes = |words: &'static str| if edit.is.hold.is_some() { "" } else { words };
    match (before.waves.is_empty(), after.waves.is_empty()) {
        (true, _) => {
            let message = format!("release `{name}`: waves, and no weight set by hand any more: {on}");
            let reaches_less = edit.is.given.weight < edit.was.given.weight;
            return match (edit.is.hold.is_some(), reaches_less) {
                (false, true) => findings.warning(format!(
                    "{message}, which reaches less than the weight by hand: users of `new` go back to `stable`"
                )),
                _ => findings.note(message),
            };
        }
        (_, true) => {
            return findings.note(format!("release `{name}`: its weight is set by hand from now on{later}"));
        }
        _ => {}
    }
    // The holdback has a sentence of its own.
    let plain = |waves: &[Wave]| -> Vec<Wave> {
        waves.iter().map(|w| Wave { until_complete: w.exposure, ..w.clone() }).collect()
    };
    let (was, is) = (place(&edit.was.release_state.progress, &before.waves), place(going_on, &after.waves));
    let (old, new) = (was.map(|i| &before.waves[i]), is.map(|i| &after.waves[i]));
    match (old, new) {
        (Some(old), Some(new)) if old.name == new.name => {
            let finished = edit.is.release_state.progress.as_ref().is_some_and(|p| p.finished);
            if old.exposure != new.exposure || (old.until_complete != new.until_complete && !finished) {
                findings.note(format!(
                    "release `{name}`: the present wave, `{}`, reaches elsewhere{later}{}",
                    new.name,
                    bakes(": it bakes again")
                ));
            } else if plain(std::slice::from_ref(old)) != plain(std::slice::from_ref(new)) {
                findings.note(format!(
                    "release `{name}`: the present wave, `{}`, is judged by its new gates",
                    new.name
                ));
            }
        }
        (Some(old), _) if !edit.rearmed => {
            findings.warning(format!(
                "release `{name}`: the present wave, `{}`, is gone: {on}{}",
                old.name,
                bakes(", and bakes again")
            ));
        }
        _ => {}
    }
    let names = |waves: &[Wave]| waves.iter().map(|w| format!("`{}`", w.name)).collect::<Vec<_>>().join(", ");
    let behind = |waves: &[Wave], i: Option<usize>| plain(&waves[..i.unwrap_or(0)]);
    let ahead = |waves: &[Wave], i: Option<usize>| plain(&waves[i.map_or(0, |i| i + 1)..]);
    if behind(&before.waves, was) != behind(&after.waves, is) {
        findings.note(format!("release `{name}`: waves behind it change, which is history: nothing happens"));
    }
    let (old, new) = (ahead(&before.waves, was), ahead(&after.waves, is));
    if old != new {
        let left = if new.is_empty() { "none".to_owned() } else { names(&new) };
        findings.note(format!("release `{name}`: waves ahead change; to come: {left}"));
    }
    if edit.is.release_state.pause.is_some() && edit.is.hold.is_none() {
        findings.note(format!(
            "release `{name}` is paused: no wave opens by itself until: {}",
            HoldKind::Pause.command(name)
        ));
    }
}

/// The holdback until the release is complete, and how long it is watched after that.
pub fn completion(findings: &mut PlanFindings, edit: &ReleaseEdit<'_>) {
    let (before, after, name) = (edit.before, edit.after, &edit.after.name);
    if before.holdback != after.holdback {
        let done = edit.is.release_state.progress.as_ref().is_some_and(|p| p.finished);
        let done = if done { ": nothing, the release is complete" } else { "" };
        let (was, is) = (before.holdback, after.holdback);
        findings.note(format!("release `{name}`: holdback {was} to {is}{done}"));
    }
    if before.soak != after.soak {
        let [was, is] = [before.soak, after.soak].map(wave_controller::hours);
        findings.note(format!("release `{name}`: soak {was} to {is}"));
    }
}

/// Waves that cannot prove their margin within their bake, at the present traffic. They hold until
/// they can.
pub fn too_short(config: &Config, traffic: &BTreeMap<String, KnownTraffic>) -> Vec<PlanFinding> {
    let mut findings = vec![];
    for release in &config.releases {
        let Some(traffic) = traffic.get(&release.name) else { continue };
        let margin = release.watchdog.margins.errors;
        for wave in release.waves.iter().filter(|w| w.controlled()) {
            let needed = time_needed(traffic, margin, wave.until_complete.weight.ratio());
            if let Some(needed) = needed.filter(|needed| *needed > wave.bake) {
                let message = format!(
                    "release `{}`: wave `{}` bakes for {}, and needs about {} to show {} points at the present traffic: it will hold until then",
                    release.name,
                    wave.name,
                    gates::seconds(wave.bake),
                    gates::seconds(needed),
                    points(margin)
                );
                findings.push(PlanFinding { kind: PlanFindingKind::Warning, message });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::diff::{ReleaseStanding, Standings, compare};
    use crate::domain::rollout::ReleaseState;
    use crate::domain::wave::Exposure;
    use crate::stats::cohort::Weight;
    use std::path::Path;

    const BASE: &str = r#"
[upstream.v1]
servers = ["http://127.0.0.1:9001"]
[upstream.v2]
servers = ["http://127.0.0.1:9002"]
[[route]]
release = "r"
[release.r]
stable = "v1"
new = "v2"
step_max = "40%"
"#;
    const WAVES: &str =
        "wave = [{ weight = \"1%\" }, { weight = \"5%\" }, { weight = \"20%\" }, { weight = \"100%\" }]";

    fn config(release: &str) -> Config {
        let text = format!("{BASE}{release}");
        crate::config::parse(&text, Path::new("/g/grayling.toml")).map_err(|r| r.to_string()).unwrap().config
    }

    /// A standing in the wave of this weight, which is also its name.
    fn at(weight: &str) -> Standings {
        let exposure = Exposure { weight: Weight::parse(weight).unwrap(), segments: 0 };
        let progress = Some(PlanProgress { wave: weight.into(), exposure, finished: false, entry: 0 });
        let release_state = ReleaseState { attempt: 1, progress, ..ReleaseState::default() };
        standings(ReleaseStanding { release_state, exposure, ..ReleaseStanding::default() })
    }

    fn standings(standing: ReleaseStanding) -> Standings {
        Standings { releases: [("r".to_owned(), standing)].into(), ..Standings::default() }
    }

    fn findings(before: &str, after: &str, standings: &Standings) -> Vec<String> {
        let found = compare(&config(before), &config(after), standings);
        found.into_iter().map(|f| format!("{:?}: {}", f.kind, f.message)).collect()
    }

    #[test]
    fn an_edited_plan_says_what_becomes_of_the_present_wave() {
        let edit = |from: &str, to: &str| {
            assert!(WAVES.contains(from), "{from}");
            findings(WAVES, &WAVES.replacen(from, to, 1), &at("5%"))
        };
        assert_eq!(edit("1%", "1%"), Vec::<String>::new());
        assert_eq!(
            edit("{ weight = \"1%\" }, ", ""),
            ["Note: release `r`: waves behind it change, which is history: nothing happens"]
        );
        assert_eq!(
            edit("\"20%\"", "\"50%\""),
            ["Note: release `r`: waves ahead change; to come: `50%`, `100%`"]
        );
        assert_eq!(
            edit("\"5%\"", "\"8%\", name = \"5%\""),
            [
                "Note: release `r`: weight 5% to 8%: 3% of users move to `new`",
                "Note: release `r`: the present wave, `5%`, reaches elsewhere: it bakes again",
            ]
        );
        assert_eq!(
            edit("\"5%\"", "\"5%\", bake = \"1h\""),
            ["Note: release `r`: the present wave, `5%`, is judged by its new gates"]
        );
        assert_eq!(
            edit("\"5%\"", "\"4%\""),
            [
                "Warning: release `r`: the present wave, `5%`, is gone: it goes on in wave `4%`, and bakes again",
                "Note: release `r`: weight 5% to 4%: 1% of users move to `stable`",
            ]
        );
        let last = WAVES.replacen("\"20%\" }, { weight = \"100%\"", "\"46%\", name = \"5%\"", 1).replacen(
            "{ weight = \"5%\" }, ",
            "",
            1,
        );
        assert_eq!(
            findings(WAVES, &last, &at("5%"))[0],
            "Refused: release `r`: from 5% to 46% is more than `step_max` (40%) allows: 45% at most; go there in smaller steps, or raise `step_max` in an edit of its own first"
        );
    }

    #[test]
    fn from_a_weight_set_by_hand_to_waves_that_reach_less_is_a_warning() {
        let exposure = Exposure { weight: Weight::from_parts(30_000), segments: 0 };
        let standings = standings(ReleaseStanding { exposure, ..ReleaseStanding::default() });
        assert_eq!(
            findings("weight = \"3%\"", WAVES, &standings),
            [
                "Warning: release `r`: waves, and no weight set by hand any more: it goes on in wave `1%`, \
                 which reaches less than the weight by hand: users of `new` go back to `stable`",
                "Note: release `r`: weight 3% to 1%: 2% of users move to `stable`",
            ]
        );
    }

    #[test]
    fn from_a_weight_set_by_hand_to_waves_and_back_it_stays_where_it_is() {
        let exposure = Exposure { weight: Weight::from_parts(50_000), segments: 0 };
        let standings = standings(ReleaseStanding { exposure, ..ReleaseStanding::default() });
        assert_eq!(
            findings("weight = \"5%\"", WAVES, &standings),
            ["Note: release `r`: waves, and no weight set by hand any more: it goes on in wave `5%`"]
        );
        assert_eq!(
            findings(WAVES, "weight = \"5%\"", &at("5%")),
            ["Note: release `r`: its weight is set by hand from now on"]
        );
        assert_eq!(
            findings(WAVES, &format!("attempt = 2\n{WAVES}"), &at("5%")),
            [
                "Note: release `r`: weight 5% to 0%: 5% of users move to `stable`",
                "Note: release `r`: attempt 1 to 2: it begins anew before its first wave, with fresh evidence",
            ]
        );
    }

    #[test]
    fn less_is_held_back_by_a_raise_and_of_a_complete_release_nothing_is() {
        let with = |holdback: &str| format!("holdback = \"{holdback}\"\n{WAVES}");
        let held = |finished: bool, weight: &str| {
            let mut all = at("100%");
            let standing = all.releases.get_mut("r").unwrap();
            standing.release_state.progress.as_mut().unwrap().finished = finished;
            standing.exposure.weight = Weight::parse(weight).unwrap();
            all
        };
        let baking = held(false, "99%");
        assert_eq!(
            findings(&with("1%"), &with("0%"), &baking),
            [
                "Note: release `r`: weight 99% to 100%: 1% of users move to `new`",
                "Note: release `r`: the present wave, `100%`, reaches elsewhere: it bakes again",
                "Note: release `r`: holdback 1% to 0%",
            ]
        );
        assert_eq!(
            findings(&with("50%"), &with("1%"), &held(false, "50%"))[0],
            "Refused: release `r`: from 50% to 99% is more than `step_max` (40%) allows: 90% at most; go there in smaller steps, or raise `step_max` in an edit of its own first"
        );
        assert_eq!(
            findings(&with("1%"), &with("5%"), &baking)[0],
            "Note: release `r`: weight 99% to 95%: 4% of users move to `stable`"
        );
        assert_eq!(
            findings(&with("1%"), &with("5%"), &held(true, "100%")),
            ["Note: release `r`: holdback 1% to 5%: nothing, the release is complete"]
        );
        // By hand it is also a raise.
        let by_hand = |holdback: &str| format!("holdback = \"{holdback}\"\nweight = \"100%\"");
        let exposure = Exposure { weight: Weight::from_parts(990_000), segments: 0 };
        assert_eq!(
            findings(
                &by_hand("1%"),
                &by_hand("0%"),
                &standings(ReleaseStanding { exposure, ..ReleaseStanding::default() })
            ),
            [
                "Note: release `r`: weight 99% to 100%: 1% of users move to `new`",
                "Note: release `r`: holdback 1% to 0%",
            ]
        );
    }

    #[test]
    fn a_bake_too_short_for_its_margin_is_warned_of() {
        let traffic = KnownTraffic { rate: 100.0, requests: 30_000, failures: 30 };
        let told = |rate: f64| {
            let all = [("r".to_owned(), KnownTraffic { rate, ..traffic })].into();
            too_short(&config(WAVES), &all).into_iter().map(|f| f.message).collect::<Vec<_>>()
        };
        let slow = told(100.0);
        assert_eq!(slow.len(), 3, "{slow:?}");
        assert!(slow[1].starts_with("release `r`: wave `5%` bakes for 10 min, and needs about "), "{slow:?}");
        assert!(
            slow[1].ends_with("to show 0.1 points at the present traffic: it will hold until then"),
            "{slow:?}"
        );
        assert_eq!(told(100_000.0), Vec::<String>::new());
    }
}
