//! Every hold, with every kind of edit under it: the sentences of `check --against` and of the log
//! of a reload.
//!
//! `holds.txt` contains the sentences for review; WHY stands for the explanation of the hold.

use super::*;
use crate::domain::rollout::version;
use crate::domain::rollout::{Freeze, Hold, ManualHold, Pause, PlanProgress, ReleaseState, Trip};
use crate::domain::verdict::Cause;
use std::fmt::Write;
use std::path::Path;

const BASE: &str = r#"
[upstream.v1]
servers = ["http://127.0.0.1:9001"]
[upstream.v2]
servers = ["http://127.0.0.1:9002"]
[segment.testers]
users = ["alice"]
[segment.vip]
users = ["zoe"]
[[route]]
name = "other"
path = "/other"
upstream = "v1"
[[route]]
path = "/"
release = "r"
[release.r]
stable = "v1"
new = "v2"
attempt = 2
"#;
const BY_HAND: &str = "weight = \"20%\"\n";
const WAVES: &str = "wave = [{ weight = \"1%\" }, { weight = \"5%\" }, { weight = \"20%\" }]\n";

fn config(text: &str) -> Config {
    let checked = crate::config::parse(text, Path::new("/g/grayling.toml"));
    checked.map_err(|report| report.to_string()).unwrap().config
}

fn trip() -> Trip {
    Trip {
        cause: Cause::Errors,
        attempt: 2,
        at_ms: 0,
        actor: "watchdog".into(),
        detail: String::new(),
        evidence: "{}".into(),
        onset_to_trip_ms: None,
        stable_same_at_ms: None,
        servers: vec![],
        others: vec![],
        entry: 0,
    }
}

fn freeze(weight: &str) -> Freeze {
    let weight = Weight::parse(weight).unwrap();
    Freeze {
        cause: Cause::Errors,
        at_ms: 0,
        actor: "watchdog".into(),
        detail: String::new(),
        weight,
        entry: 0,
    }
}

type Change = fn(&mut Standings, &mut ReleaseStanding);

const HOLDS: [(&str, Change); 11] = [
    ("nothing holds it", |_, _| {}),
    ("rolled back", |_, s| s.release_state.trip = Some(trip())),
    ("grayling.stop", |all, s| {
        all.now.stop_file = true;
        s.release_state.awaits = Some(ManualHold::StopFile);
    }),
    ("grayling.stop was there", |_, s| s.release_state.awaits = Some(ManualHold::StopFile)),
    ("another version", |_, s| s.release_state.awaits = Some(ManualHold::NewVersion)),
    ("a higher attempt was seen", |_, s| s.release_state.attempt = 3),
    ("the state was lost", |all, s| {
        s.release_state.awaits = Some(ManualHold::StateLost);
        all.stranger.awaits = Some(ManualHold::StateLost);
    }),
    ("no memory", |_, s| s.release_state.awaits = Some(ManualHold::NoMemory)),
    ("another's rollback bars its servers", |all, s| {
        s.barred_by = Some("other".into());
        let release_state = ReleaseState { attempt: 1, trip: Some(trip()), ..ReleaseState::default() };
        all.releases.insert("other".into(), ReleaseStanding { release_state, ..ReleaseStanding::default() });
    }),
    ("frozen", |_, s| s.release_state.freeze = Some(freeze("5%"))),
    ("paused", |_, s| {
        s.release_state.pause =
            Some(Pause { at_ms: 0, actor: "ann".into(), reason: "lunch".into(), entry: 0 })
    }),
];

/// Replacements in the file. The first part names the edit.
const EDITS: [(&str, &str, &str); 17] = [
    ("weight up", "weight = \"20%\"", "weight = \"30%\""),
    ("weight down", "weight = \"20%\"", "weight = \"1%\""),
    ("weight far up", "weight = \"20%\"", "weight = \"60%\""),
    ("a segment joins", "attempt", "segments = [\"testers\"]\nattempt"),
    ("a segment is excluded", "attempt", "excluded = [\"vip\"]\nattempt"),
    ("salt", "attempt", "salt = \"s\"\nattempt"),
    ("attempt up", "attempt = 2", "attempt = 3"),
    ("attempt down", "attempt = 2", "attempt = 1"),
    ("the watchdog's settings", "attempt", "watchdog.errors_max = \"9%\"\nattempt"),
    ("other servers", "9002", "9003"),
    ("the present wave reaches further", "{ weight = \"5%\" }", "{ weight = \"8%\", name = \"5%\" }"),
    ("the present wave is gone", "{ weight = \"5%\" }, ", ""),
    (
        "a segment joins the present wave",
        "{ weight = \"5%\" }",
        "{ weight = \"5%\", segments = [\"testers\"] }",
    ),
    ("waves ahead", "{ weight = \"20%\" }", "{ weight = \"50%\" }"),
    ("the top is held back", "attempt", "holdback = \"1%\"\nattempt"),
    ("another soak", "attempt", "soak = \"1d\"\nattempt"),
    ("removed", "", ""),
];

/// Replaces the explanation of the hold, which is the state machine's.
fn shortened(mut text: String, standings: &Standings) -> String {
    let release_state = &standings.releases["r"].release_state;
    let holds = [
        Hold::Tripped,
        Hold::StopFile,
        Hold::Awaits(ManualHold::StateLost),
        Hold::Awaits(ManualHold::NoMemory),
        Hold::Awaits(ManualHold::StopFile),
        Hold::Awaits(ManualHold::NewVersion),
        Hold::Barred { by: "other".into() },
        Hold::Frozen,
    ];
    for hold in holds.into_iter().chain([2, 3].map(|seen| Hold::AttemptOld { seen })) {
        text = text.replace(&hold.explain("r"), &format!("WHY {}", word(&hold)));
    }
    assert!(release_state.attempt >= 2);
    text
}

fn word(hold: &Hold) -> String {
    let debug = format!("{hold:?}");
    debug.split([' ', '{', ')']).next().unwrap_or_default().replace("Awaits(", "")
}

fn transcript() -> String {
    let mut out = String::new();
    for (held, hold) in HOLDS {
        for (strategy, text) in [("weight by hand", BY_HAND), ("waves", WAVES)] {
            let by_waves = strategy == "waves";
            if held == "paused" && !by_waves {
                continue;
            }
            let before = format!("{BASE}{text}");
            let exposure =
                Exposure { weight: Weight::parse(if by_waves { "5%" } else { "20%" }).unwrap(), segments: 0 };
            let progress =
                by_waves.then(|| PlanProgress { wave: "5%".into(), exposure, finished: false, entry: 0 });
            let mut standings = Standings::default();
            let mut standing = ReleaseStanding { exposure, ..ReleaseStanding::default() };
            (standing.release_state.attempt, standing.release_state.progress) = (2, progress);
            hold(&mut standings, &mut standing);
            let state = ReachState::of(config(&before).release("r").unwrap(), &standing, standings.now);
            standing.exposure = match state.effective {
                Effective::At(exposure) => exposure,
                Effective::Held => Exposure::NOBODY,
            };
            let held_version = standing.release_state.guards_versions();
            standing.version =
                version::VersionState { complete: false, exposure: standing.exposure, held: held_version };
            standings.releases.insert("r".into(), standing);
            let _ = writeln!(out, "== {held}; {strategy}");
            for (name, from, to) in EDITS {
                if !before.contains(from)
                    || (by_waves && (name.starts_with("weight") || name == "a segment joins"))
                {
                    continue;
                }
                let after = match name {
                    "removed" => before
                        .replace("release = \"r\"", "upstream = \"v1\"")
                        .split("[release.r]")
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                    _ => before.replacen(from, to, 1),
                };
                let _ = writeln!(out, "-- {name}");
                let findings = compare(&config(&before), &config(&after), &standings);
                for f in findings.iter().filter(|f| f.message.contains("release `r`")) {
                    let _ = writeln!(out, "{:?}: {}", f.kind, shortened(f.message.clone(), &standings));
                }
                if name == "removed" {
                    let _ = writeln!(out, "-- removed, and added again");
                    for f in compare(&config(&after), &config(&before), &standings)
                        .iter()
                        .filter(|f| f.message.contains("release `r`"))
                    {
                        let _ = writeln!(out, "{:?}: {}", f.kind, shortened(f.message.clone(), &standings));
                    }
                }
            }
            assert_eq!(
                compare(&config(&before), &config(&before), &standings),
                vec![],
                "{held}: nothing changes"
            );
        }
    }
    out
}

#[test]
fn under_every_hold_an_edit_says_who_moves_now_and_what_waits() {
    let found = transcript();
    let expected = include_str!("holds.txt");
    if let Some((n, (a, b))) = found.lines().zip(expected.lines()).enumerate().find(|(_, (a, b))| a != b) {
        panic!("line {}: \n  found    {a}\n  expected {b}\nAll of it:\n{found}", n + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "{found}");
}

/// For every hold and every edit: a finding that users move into `new` is true, and a hold is never
/// left out.
#[test]
fn no_sentence_moves_users_into_a_version_that_is_held() {
    for paragraph in transcript().split("-- ").filter(|p| p.contains("at 0%: WHY")) {
        assert!(!paragraph.contains("move to `new`"), "{paragraph}");
    }
}
