//! The users that `holdback` keeps on stable, and for how long; and since when a release is
//! complete.

use super::super::*;
use super::Rollout;

fn weights(commands: &str) -> Vec<String> {
    let mut rollout = Rollout::new();
    let each = commands.split(", ").map(|command| {
        rollout.run(command);
        rollout.weight().to_string()
    });
    each.collect()
}

#[test]
fn what_is_held_back_moves_when_the_last_wave_has_passed() {
    let plan = "plan 20%:10m all=100%-1%:10m";
    assert_eq!(weights(&format!("{plan}, touch, good, wait 11m")), ["20%", "20%", "20%", "99%"]);
    assert_eq!(
        weights(&format!("{plan}, touch, good, wait 11m, silence, wait 60m, good, wait 1m")).last().unwrap(),
        "100%"
    );
    // Nothing raises it while the gates do not pass, or during a pause.
    for stop in ["worse", "silence", "pause", "hours closed", "disk broken", "blind yes"] {
        let told = weights(&format!("{plan}, touch, good, wait 11m, {stop}, wait 60m"));
        assert_eq!(told.last().unwrap(), "99%", "{stop}");
    }
}

#[test]
fn an_edit_of_what_is_held_back_changes_nothing_once_it_is_complete() {
    let complete = "plan 20%:10m all=100%-1%:10m, touch, good, wait 11m, wait 11m";
    for after in ["plan 20%:10m all=100%-5%:10m", "plan 20%:10m all=100%:10m", "touch"] {
        assert_eq!(weights(&format!("{complete}, {after}"))[4..], ["100%", "100%"], "{after}");
    }
    let baking = "plan 20%:10m all=100%-1%:10m, touch, good, wait 11m, silence";
    assert_eq!(weights(&format!("{baking}, plan 20%:10m all=100%-5%:10m")).last().unwrap(), "95%");
    assert_eq!(weights(&format!("{baking}, plan 20%:10m all=100%:10m")).last().unwrap(), "100%");
}

#[test]
fn a_rollback_at_100_goes_back_to_stable_and_ends_the_soak() {
    let mut rollout = Rollout::new();
    for command in ["plan 20%:10m all=100%-1%:10m", "touch", "good", "wait 11m", "wait 11m"] {
        rollout.run(command);
    }
    let state = |rollout: &Rollout| {
        let (effective, hold) = rollout.effective();
        RolloutState::of(&rollout.release_state, rollout.strategy(), hold.as_ref(), effective)
    };
    assert_eq!(state(&rollout), RolloutState::Complete);
    let mut release_state = rollout.release_state.clone();
    release_state.note_complete(RolloutState::Complete, 5);
    release_state.note_complete(RolloutState::Complete, 9);
    assert_eq!(release_state.complete_since_ms, Some(5), "it has been since then");
    rollout.run("trip");
    assert_eq!((state(&rollout), rollout.weight()), (RolloutState::RolledBack, Weight::ZERO));
    release_state.note_complete(state(&rollout), 12);
    assert_eq!(release_state.complete_since_ms, None);
}

#[test]
fn a_weight_set_by_hand_stays_below_until_the_file_says_otherwise() {
    let exposure = Exposure { weight: Weight::FULL, segments: 2 };
    let back = Weight::from_parts(10_000);
    assert_eq!(exposure.held_back(back), Exposure { weight: Weight::from_parts(990_000), segments: 2 });
    assert_eq!(exposure.held_back(Weight::ZERO), exposure);
    let half = Exposure { weight: Weight::from_parts(500_000), segments: 0 };
    assert_eq!(half.held_back(back), half, "it is the top of 100% alone");
    let strategy = Strategy::ByHand(exposure.held_back(back));
    let release_state = ReleaseState { attempt: 1, ..ReleaseState::default() };
    let (effective, hold) =
        effective(&release_state, release_state.exposure(strategy), 1, Conditions::default());
    assert_eq!(
        RolloutState::of(&release_state, strategy, hold.as_ref(), effective),
        RolloutState::Progressing
    );
}
