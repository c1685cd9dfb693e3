//! In a maintenance no wave opens; it outlives another attempt, and none begins over a trip.

use super::*;

#[test]
fn waves_hold_until_it_ends() {
    script(
        "good
         plan 1%:10m 5%:10m 20%:10m      -> progressing 1% 1%
         maintain
         wait 60m                        -> progressing 1% 1%
         promote                         -> progressing 1% 1%
         restart
         wait 60m                        -> progressing 1% 1%
         # It was baked long ago.
         maintained                      -> progressing 5% 5%",
    );
}

#[test]
fn it_is_about_what_surrounds_the_release() {
    let mut rollout = Rollout::new();
    let mut run = |script: &str| {
        script.split(", ").for_each(|command| rollout.run(command));
        rollout.release_state.maintenance.is_some()
    };
    assert!(run("good, plan 1%:10m 5%:10m, maintain"));
    assert!(run("trip, resume rollback, attempt 2"), "a new attempt does not end it");
    assert!(!run("maintained"));
    assert!(!run("trip, maintain"), "nobody is in new");
}
