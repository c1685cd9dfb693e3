//! Which time counts as baked, and how long a wave is held.

use super::*;
use crate::domain::rollout::wave_controller::{HeldBy, baked_of};

#[test]
fn what_is_not_watched_does_not_bake() {
    script(
        "good
         plan 1%:10m 5%:10m 20%:10m      -> progressing 1% 1%
         wait 9m
         blind yes
         wait 600m                       -> progressing 1% 1%
         restart
         wait 600m                       -> progressing 1% 1%
         blind no
         wait 1m                         -> progressing 5% 5%
         wait 9m
         # Held in between: that begins anew, with a restart and without.
         stop on                         -> pending 5% 0%
         restart
         stop off                        -> pending 5% 0%
         resume hold                     -> progressing 5% 5%
         wait 9m                         -> progressing 5% 5%
         wait 1m                         -> progressing 20% 20%",
    );
}

#[test]
fn how_long_a_wave_is_held_is_known_over_restarts() {
    let held = |rollout: &Rollout| rollout.held.as_ref().map(|held| (held.cause, held.lasting));
    let mut rollout = Rollout::new();
    let mut run = |script: &str| {
        script.split(", ").for_each(|command| rollout.run(command));
        held(&rollout)
    };
    // No traffic: each night it starts again, and the hold time adds up to nine hours.
    assert_eq!(run("plan 1%:10m 5%:10m, wait 10m"), Some((HeldBy::Gates, Duration::ZERO)));
    assert_eq!(run("wait 300m, restart, wait 240m"), Some((HeldBy::Gates, 540 * MINUTE)));
    assert_eq!(run("good, wait 1m"), None);
    // In the next wave the watchdog is blind: the bake does not progress, and that counts as a
    // hold.
    assert_eq!(run("blind yes, wait 5m"), Some((HeldBy::Unwatched, 5 * MINUTE)));
    assert_eq!(run("restart, wait 115m"), Some((HeldBy::Unwatched, 120 * MINUTE)));
    let missing = rollout.held.as_ref().map(|held| held.missing.clone()).unwrap_or_default();
    assert!(missing.iter().any(|m| m.starts_with("bake: 60 s of 10 min")), "{missing:?}");
    let mut run = |script: &str| {
        script.split(", ").for_each(|command| rollout.run(command));
        held(&rollout)
    };
    assert_eq!(run("blind no, wait 8m"), Some((HeldBy::Unwatched, 120 * MINUTE)));
    assert_eq!(run("wait 1m"), None, "it is baked");
    assert_eq!(baked_of(192 * MINUTE, 24 * 60 * MINUTE), "baked 3 h 12 min of 24 h");
}
