//! Scripts of edits that put another version behind a release.

use super::{PLAN, script};
use crate::domain::rollout::Hold;

#[test]
fn another_version_begins_at_nothing_and_with_fresh_evidence() {
    script(&format!(
        "good
         {PLAN}
         wait 10m
         wait 10m                -> progressing 5% 5%
         # Servers join and leave: the same version.
         servers a b+b2          -> progressing 5% 5%
         servers a b2            -> progressing 5% 5%
         # Another version, undeclared.
         servers a c             -> refused
         servers z b2            -> refused
         attempt 2 a c           -> progressing testers 0%
         wait 10m                -> progressing 1% 1%
         # The same build moved; that declares one move.
         same_version a d        -> progressing 1% 1%
         same_version a e        -> refused
         servers a d             -> progressing 1% 1%
         trip                    -> rolled_back 1% 0%
         servers a f             -> refused
         attempt 3 a f           -> progressing testers 0%"
    ));
    script(
        "good
         weight 0%
         servers a c             -> progressing - 0%
         weight 100%             -> complete - 100%
         # Only `new` is replaced: everybody would move.
         servers a d             -> refused
         # The complete version becomes stable: nobody meets the next one.
         servers c d             -> pending - 0%
         touch                   -> pending - 0%
         restart                 -> pending - 0%
         weight 1%               -> progressing - 1%
         weight 5%               -> progressing - 5%
         attempt 2 c e           -> pending - 0%
         resume hold             -> progressing - 5%",
    );
    script(
        "good
         plan 5%:10m 100%:10m    -> progressing 5% 5%
         wait 10m                -> progressing 100% 100%
         wait 10m                -> complete 100% 100%
         servers b c             -> progressing 5% 5%",
    );
}

#[test]
fn an_edit_while_the_process_is_down_lets_nobody_meet_another_version() {
    script(
        "weight 20%              -> progressing - 20%
         restart a b+c           -> progressing - 20%
         restart a d             -> pending - 0%
         restart                 -> pending - 0%
         touch                   -> pending - 0%
         resume hold             -> progressing - 20%",
    );
}

#[test]
fn a_trip_follows_the_build_to_the_servers_that_it_moves_to() {
    let rollout = script(
        "weight 20%
         trip                    -> rolled_back - 0%
         same_version a c        -> rolled_back - 0%
         servers a c+d           -> rolled_back - 0%",
    );
    let trip = rollout.release_state.trip.clone().unwrap();
    assert_eq!(trip.servers, ["c", "d"]);
    assert_eq!(rollout.effective().1, Some(Hold::Tripped));
}
