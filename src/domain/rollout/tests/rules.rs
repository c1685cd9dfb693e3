//! The rules of state, over random sequences of events.

use super::super::*;
use super::{MINUTE, Rollout, Shows};
use proptest::prelude::*;
use proptest::strategy::Strategy;

fn any_command() -> impl Strategy<Value = String> {
    let plans = prop_oneof![
        Just("plan testers:10m 1%:10m 5%:10m 20%:10m 100%:10m"),
        Just("plan 1%:5m 5%:5m:by-hand 50%:5m"),
        Just("plan 5%=7%:10m 20%:10m"),
        Just("plan testers:1m staff:1m 30%:1m"),
        Just("plan 5%:10m all=100%-1%:10m"),
    ];
    prop_oneof![
        2 => plans.prop_map(str::to_owned),
        8 => (1u32..30).prop_map(|m| format!("wait {m}m")),
        1 => (0u32..=100).prop_map(|w| format!("weight {w}%")),
        1 => (1u64..4).prop_map(|a| format!("attempt {a}")),
        10 => prop::sample::select(&[
            "good", "good", "good", "worse", "silence", "touch", "restart", "trip", "freeze", "resume rollback",
            "resume rollback 5%", "resume freeze", "resume hold", "resume pause", "pause", "promote", "maintain", "maintained",
            "servers a b", "servers a b+c", "servers a c", "servers c d", "same_version a d", "restart a c",
            "stop on", "stop off", "hours closed", "hours open", "disk broken", "disk fine", "blind yes", "blind no",
        ][..]).prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(crate::mutate::cases(10_000))]

    /// The rules of state hold for any events in any order.
    #[test]
    fn no_sequence_of_events_breaks_the_rules_of_state(commands in prop::collection::vec(any_command(), 1..25)) {
        let mut rollout = Rollout::new();
        rollout.run("plan testers:10m 1%:10m 5%:10m 20%:10m 100%:10m");
        for command in &commands {
            let before = rollout.clone();
            let verb = command.split(' ').next().unwrap_or_default();
            // Minute by minute, so that the effect of time alone is visible.
            if let Some(minutes) = command.strip_prefix("wait ") {
                rollout.now += MINUTE * minutes.trim_end_matches('m').parse::<u32>().unwrap();
                let shows = rollout.shows;
                let index = rollout.release_state.present(&rollout.plan);
                rollout.look();
                let (was, is) = (index.map_or(0, |i| i + 1), rollout.release_state.present(&rollout.plan).map_or(0, |i| i + 1));
                prop_assert!(is == was || is == was + 1, "a look opens one wave at most");
                if before.release_state.maintenance.is_some() {
                    prop_assert_eq!(was, is, "opened a wave in a maintenance");
                }
                let compared = index.is_some_and(|i| rollout.plan[i].controlled());
                if was > 0 && (shows == Shows::Nothing || (shows == Shows::Worse && compared)) {
                    prop_assert_eq!(is, was, "opened a wave though {:?}", shows);
                }
            } else {
                rollout.run(command);
            }
            let (was, is) = (before.weight(), rollout.weight());
            // Never above the plan's current wave.
            prop_assert!(is <= rollout.release_state.exposure(rollout.strategy()).weight);
            // The users held back stay on stable until the plan is finished.
            let finished = rollout.release_state.progress.as_ref().is_some_and(|p| p.finished);
            let most = rollout.wave().map_or(Weight::FULL, |wave| wave.until_complete.weight);
            prop_assert!(is <= most || finished, "{command} took in what was held back: {is}");
            // Only a person lifts a trip, and meanwhile no user is in `new`.
            if before.release_state.trip.is_some() && rollout.release_state.trip.is_none() {
                prop_assert!(command.starts_with("resume rollback") || verb == "attempt", "{command} lifted a trip");
                prop_assert!(verb == "resume" || rollout.attempt > before.release_state.attempt);
            }
            // A resume ends only the hold that it names.
            if verb == "resume" {
                let ended = before.release_state.ends().len() - rollout.release_state.ends().len();
                prop_assert!(ended <= 1, "{command} ended more than one thing");
            }
            // Users of `new` never meet another version without a declaration, and never at once.
            let another = before.release_state.versions.change(&rollout.versions(), false, None) == VersionChange::Undeclared;
            if another && !rollout.refused && before.weight() > Weight::ZERO {
                let begins = rollout.weight() == Weight::ZERO || rollout.release_state.present(&rollout.plan) == Some(0);
                prop_assert!(begins, "{command} gave another version {}", rollout.weight());
                prop_assert!(
                    rollout.attempt > before.release_state.attempt || before.is_complete() || verb == "restart",
                    "{command} brought an undeclared version"
                );
            }
            if rollout.release_state.trip.is_some() || rollout.stop_file || rollout.attempt < rollout.release_state.attempt {
                prop_assert_eq!(rollout.effective().0, Effective::Held);
            }
            // Only the file, a person, or passed gates raise the weight.
            let by_gates = rollout.shows != Shows::Nothing && rollout.hours_open && rollout.durable && rollout.release_state.pause.is_none();
            // The first wave has no previous wave to judge.
            let first = before.release_state.progress.is_none();
            let by = ["plan", "weight", "attempt", "promote", "resume"].contains(&verb);
            if is > was {
                prop_assert!(by || by_gates || first, "{command} raised {was} to {is}");
                prop_assert!(!(verb == "touch" && !by_gates && !first), "a touched file raised {was} to {is}");
            }
            prop_assert!(verb != "stop" || is <= was, "a stop file's removal raised {was} to {is}");
            if verb == "restart" && !by_gates && !first {
                prop_assert!(is <= was, "a restart raised {was} to {is}");
            }
            if before.release_state.freeze.is_some() && rollout.release_state.freeze.is_some() {
                let uncovered = before.effective().0 == Effective::Held && is <= rollout.release_state.freeze.as_ref().unwrap().weight;
                prop_assert!(is <= was || uncovered, "raised while frozen");
            }
        }
    }
}
