//! Scripts of whole rollouts with simulated time; and random ones, against the rules of state.

mod bake;
mod holdback;
mod maintenance;
mod rules;
mod versions;

use super::*;
use crate::domain::gates::tests::{good, silent};
use crate::domain::gates::{GateInput as Facts, OpenHoursState, PromotionState, WaveEvidence};
use crate::domain::rollout::wave_controller::{HeldWave, WaveAction, WaveController, WavePosition, WaveTime};
use crate::domain::wave::door_after;
use crate::domain::wave::tests::waves;
use std::time::Duration;

fn trip() -> Trip {
    Trip {
        cause: Cause::Errors,
        attempt: 1,
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

fn freeze(weight: Weight) -> Freeze {
    Freeze {
        cause: Cause::Errors,
        at_ms: 0,
        actor: "watchdog".into(),
        detail: String::new(),
        weight,
        entry: 0,
    }
}

/// A proxy without sockets: the memory, the time of this process, the file, and simulated watchdog
/// results.
#[derive(Clone)]
struct Rollout {
    release_state: ReleaseState,
    climb: WaveController,
    now: Duration,
    attempt: u64,
    plan: Vec<Wave>,
    by_hand: Weight,
    stop_file: bool,
    /// Servers of stable and new.
    servers: (String, String),
    same_version: bool,
    /// The last edit was refused.
    refused: bool,
    /// `good`, `worse`, or no evidence.
    shows: Shows,
    hours_open: bool,
    durable: bool,
    stage: u64,
    /// The inputs of the current stage.
    staged: (Effective, Option<String>),
    told: Vec<WaveAction>,
    /// The watched time of the stage, until when, and whether the watchdog is blind now.
    watched: Duration,
    looked: Duration,
    blind: bool,
    before: WaveTime,
    spent: WaveTime,
    held: Option<HeldWave>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Shows {
    Good,
    Worse,
    Nothing,
}

const MINUTE: Duration = Duration::from_secs(60);

impl Rollout {
    fn new() -> Rollout {
        Rollout {
            release_state: ReleaseState::default(),
            climb: WaveController::new(0, Duration::ZERO),
            now: Duration::ZERO,
            attempt: 1,
            plan: vec![],
            by_hand: Weight::ZERO,
            stop_file: false,
            servers: ("a".into(), "b".into()),
            same_version: false,
            refused: false,
            shows: Shows::Nothing,
            hours_open: true,
            durable: true,
            stage: 0,
            staged: (Effective::Held, None),
            told: vec![],
            watched: Duration::ZERO,
            looked: Duration::ZERO,
            blind: false,
            before: WaveTime::default(),
            spent: WaveTime::default(),
            held: None,
        }
    }

    fn strategy(&self) -> Strategy<'_> {
        match self.plan.is_empty() {
            true => Strategy::ByHand(Exposure { weight: self.by_hand, segments: 0 }),
            false => Strategy::Waves(&self.plan),
        }
    }

    fn effective(&self) -> (Effective, Option<Hold>) {
        let now = Conditions { stop_file: self.stop_file };
        effective(&self.release_state, self.release_state.exposure(self.strategy()), self.attempt, now)
    }

    fn weight(&self) -> Weight {
        self.effective().0.weight()
    }

    fn wave(&self) -> Option<&Wave> {
        self.plan.get(self.release_state.present(&self.plan)?)
    }

    /// Starts another stage if the force has changed.
    fn restage(&mut self, afresh: bool) {
        let staged = (self.effective().0, self.wave().map(|w| w.name.clone()));
        if afresh || staged != self.staged {
            self.stage += 1;
            (self.watched, self.looked) = (Duration::ZERO, self.now);
            (self.before, self.spent) = Default::default();
        }
        self.staged = staged;
    }

    fn apply(&mut self, input: RolloutInput<'_>) -> RolloutStep {
        let (release_state, what) = step(&self.release_state, input);
        self.release_state = release_state;
        self.restage(matches!(what, RolloutStep::Resumed | RolloutStep::Rearmed | RolloutStep::VersionBegun));
        what
    }

    /// Applies an edit like a reload: a refused edit changes nothing.
    /// `weight_before`: the file's previous weight, if set by hand.
    fn edit(&mut self, change: impl FnOnce(&mut Rollout)) {
        let before = self.clone();
        change(self);
        let standing = version::VersionState {
            complete: before.is_complete(),
            exposure: match before.effective().0 {
                Effective::At(exposure) => exposure,
                Effective::Held => Exposure::NOBODY,
            },
            held: before.release_state.guards_versions(),
        };
        let raised = self.attempt > before.release_state.attempt;
        let change = before.release_state.versions.change(&self.versions(), raised, Some(standing));
        if change == VersionChange::Undeclared {
            *self = Rollout { refused: true, ..before };
            return;
        }
        self.refused = false;
        let by_hand = |rollout: &Rollout| rollout.plan.is_empty().then_some(rollout.by_hand);
        let edited = by_hand(self) != by_hand(&before);
        self.configure(change, edited);
    }

    fn versions(&self) -> Versions {
        let servers = |text: &str| text.split('+').map(str::to_owned).collect();
        Versions {
            stable: servers(&self.servers.0),
            new: servers(&self.servers.1),
            same_declared: self.same_version,
        }
    }

    fn configure(&mut self, change: VersionChange, weight_edited: bool) {
        let standing = match self.staged.0 {
            Effective::At(exposure) => exposure,
            Effective::Held => Exposure::NOBODY,
        };
        let plan = self.plan.clone();
        let strategy = match plan.is_empty() {
            true => Strategy::ByHand(Exposure { weight: self.by_hand, segments: 0 }),
            false => Strategy::Waves(&plan),
        };
        let (attempt, versions) = (self.attempt, self.versions());
        let configured =
            RolloutInput::Configure { attempt, strategy, standing, versions, change, weight_edited };
        let (release_state, what) = step(&self.release_state, configured);
        self.release_state = release_state;
        if self.stop_file {
            self.release_state = step(&self.release_state, RolloutInput::Stop { strategy }).0;
        }
        self.restage(matches!(what, RolloutStep::Rearmed | RolloutStep::VersionBegun));
    }

    fn look(&mut self) -> WaveAction {
        let passed = self.now - std::mem::replace(&mut self.looked, self.now);
        if !self.blind {
            self.watched += passed;
        }
        let plan = self.plan.clone();
        let standing = WavePosition {
            stage: self.stage,
            waves: &plan,
            present: self.release_state.present(&plan),
            finished: self.release_state.progress.as_ref().is_some_and(|p| p.finished),
            held: self.effective().1.is_some(),
            paused: self.release_state.pause.is_some() || self.release_state.maintenance.is_some(),
            watched: self.watched,
            before: self.before,
        };
        if plan.is_empty() {
            return WaveAction::Wait;
        }
        let baked = self.watched;
        let wave_evidence = standing.present.map(|i| WaveEvidence {
            baked,
            bake: plan[i].bake,
            controlled: plan[i].controlled(),
            ..match self.shows {
                Shows::Good => good(),
                Shows::Nothing => silent(),
                Shows::Worse => {
                    let mut worse = good();
                    (worse.reading.e_errors, worse.reading.failed.new) = (0.01, 400);
                    worse
                }
            }
        });
        let hours = Some(OpenHoursState { text: "hours".into(), open: self.hours_open, next: None });
        let promotion =
            door_after(&plan, standing.present).map(|promotion| PromotionState { promotion, hours });
        let facts = Facts { wave_evidence, promotion, durable: self.durable, barred_by: None };
        let wave_status = self.climb.look(&standing, Some(facts), self.now);
        (self.spent, self.held) = (wave_status.spent, wave_status.held);
        assert!(self.spent.is_plausible(), "{:?}", self.spent);
        match wave_status.act {
            WaveAction::Open => assert!(matches!(
                self.apply(RolloutInput::Open { waves: &plan, opener: Opener::Gates }),
                RolloutStep::Opened(_)
            )),
            WaveAction::Finish => {
                assert_eq!(self.apply(RolloutInput::Finish { waves: &plan }), RolloutStep::Finished)
            }
            WaveAction::Wait | WaveAction::TellHold => {}
        }
        if wave_status.act != WaveAction::Wait {
            self.told.push(wave_status.act);
        }
        // The clock of another stage starts at its beginning.
        if wave_status.act == WaveAction::Open {
            self.climb = WaveController::new(self.stage, self.now);
        }
        wave_status.act
    }

    /// Runs one line of a script.
    fn run(&mut self, command: &str) {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        let plan = self.plan.clone();
        match verb {
            "plan" => {
                let plan = waves(rest);
                self.edit(|r| r.plan = plan);
            }
            "weight" => {
                let weight = Weight::parse(rest).unwrap();
                self.edit(|r| (r.plan, r.by_hand) = (vec![], weight));
            }
            "attempt" => {
                // An attempt, and other changes of the same edit.
                let (attempt, servers) = rest.split_once(' ').unwrap_or((rest, ""));
                self.edit(|r| {
                    r.attempt = attempt.parse().unwrap();
                    r.set_servers(servers);
                });
            }
            "servers" => self.edit(|r| {
                r.same_version = false;
                r.set_servers(rest);
            }),
            "same_version" => self.edit(|r| {
                r.same_version = true;
                r.set_servers(rest);
            }),
            "touch" => self.edit(|_| ()),
            "good" => self.shows = Shows::Good,
            "worse" => self.shows = Shows::Worse,
            "silence" => self.shows = Shows::Nothing,
            "hours" => self.hours_open = rest == "open",
            "blind" => self.blind = rest == "yes",
            "disk" => self.durable = rest == "fine",
            "stop" => {
                self.stop_file = rest == "on";
                if self.stop_file {
                    let plan = self.plan.clone();
                    let strategy = match plan.is_empty() {
                        true => Strategy::ByHand(Exposure { weight: self.by_hand, segments: 0 }),
                        false => Strategy::Waves(&plan),
                    };
                    self.release_state = step(&self.release_state, RolloutInput::Stop { strategy }).0;
                }
                self.restage(false);
            }
            "wait" => {
                let minutes: u32 = rest.trim_end_matches('m').parse().unwrap();
                for _ in 0..minutes {
                    self.now += MINUTE;
                    self.look();
                }
            }
            "restart" => {
                // Memory is on disk, and so is the time of the stage, if it continues.
                (self.now, self.looked) = (Duration::ZERO, Duration::ZERO);
                self.climb = WaveController::new(u64::MAX, Duration::ZERO);
                (self.before, self.watched) = (self.spent, self.spent.watched);
                // The file may have been edited while the process was down.
                self.set_servers(rest);
                let change = self.release_state.versions.change(
                    &self.versions(),
                    self.attempt > self.release_state.attempt,
                    None,
                );
                self.configure(change, false);
            }
            "trip" => drop(self.apply(RolloutInput::Trip(trip()))),
            "freeze" => drop(self.apply(RolloutInput::Freeze(freeze(self.weight())))),
            "resume" => {
                let (ends, at) = rest.split_once(' ').unwrap_or((rest, ""));
                // Like the writer: no further than the current wave.
                let come = self.release_state.present(&plan).map_or(0, |i| i + 1);
                let named = plan[..come].iter().find(|w| w.name == at);
                let at = named.or(plan.first().filter(|_| self.release_state.progress.is_some()));
                let ends = HoldKind::parse(ends).unwrap();
                // Like the writer: an existing stop file is removed first.
                if !(ends == HoldKind::Hold && self.stop_file) {
                    self.apply(RolloutInput::Resume { ends, at });
                }
            }
            "pause" => {
                let (actor, reason) = ("ann".into(), "lunch".into());
                self.apply(RolloutInput::Pause(Pause { at_ms: 0, actor, reason, entry: 0 }));
            }
            "maintain" => {
                let (change, actor, reason) = ("CHG-1".into(), "ann".into(), String::new());
                let of = Maintenance { change, at_ms: 0, until_ms: 1, actor, reason, entry: 0 };
                self.apply(RolloutInput::Maintain(of));
            }
            "maintained" => drop(self.apply(RolloutInput::EndMaintenance)),
            "promote" => {
                // Like the writer: not during a hold.
                if self.effective().1.is_none() {
                    self.apply(RolloutInput::Open { waves: &plan, opener: Opener::Person });
                }
            }
            other => panic!("no command `{other}`"),
        }
        self.look();
    }

    fn is_complete(&self) -> bool {
        let (effective, hold) = self.effective();
        RolloutState::of(&self.release_state, self.strategy(), hold.as_ref(), effective)
            == RolloutState::Complete
    }

    fn set_servers(&mut self, text: &str) {
        if let Some((stable, new)) = text.split_once(' ') {
            self.servers = (stable.to_owned(), new.to_owned());
        }
    }

    fn shown(&self) -> String {
        if self.refused {
            return "refused".to_owned();
        }
        let (effective, hold) = self.effective();
        let state = RolloutState::of(&self.release_state, self.strategy(), hold.as_ref(), effective);
        let wave = self.wave().map_or("-", |w| w.name.as_str());
        format!("{} {wave} {}", state.label(), effective.weight())
    }
}

/// Runs a script: `command   -> state wave weight`, one per line.
fn script(text: &str) -> Rollout {
    let mut rollout = Rollout::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (command, expected) = line.split_once("->").unwrap_or((line, ""));
        rollout.run(command.trim());
        if !expected.is_empty() {
            assert_eq!(rollout.shown(), expected.trim(), "after `{line}`");
        }
    }
    rollout
}

const PLAN: &str = "plan testers:10m 1%:10m 5%:60m 20%:60m:by-hand 100%:60m";

#[test]
fn the_whole_climb() {
    let rollout = script(&format!(
        "good
         {PLAN}         -> progressing testers 0%
         wait 9m        -> progressing testers 0%
         wait 1m        -> progressing 1% 1%
         wait 10m       -> progressing 5% 5%
         wait 59m       -> progressing 5% 5%
         # The next one has a door that a person opens.
         wait 600m      -> progressing 5% 5%
         promote        -> progressing 20% 20%
         wait 59m       -> progressing 20% 20%
         wait 1m        -> progressing 100% 100%
         # The last wave bakes too.
         wait 59m       -> progressing 100% 100%
         wait 1m        -> complete 100% 100%
         wait 600m      -> complete 100% 100%
         restart        -> complete 100% 100%
         trip           -> rolled_back 100% 0%
         resume rollback 100%   -> progressing 100% 100%
         trip
         resume rollback        -> progressing testers 0%"
    ));
    assert_eq!(rollout.told.iter().filter(|a| **a == WaveAction::Open).count(), 4, "{:?}", rollout.told);
}

#[test]
fn a_wave_that_only_a_person_opens_waits_before_the_first_too() {
    script(
        "good
         plan testers:10m:by-hand 100%:10m   -> pending - 0%
         wait 600m                           -> pending - 0%
         promote                             -> progressing testers 0%",
    );
}

#[test]
fn a_restart_goes_on_in_the_same_wave_and_in_the_same_bake() {
    script(&format!(
        "good
         {PLAN}
         wait 10m       -> progressing 1% 1%
         wait 9m
         restart        -> progressing 1% 1%
         wait 1m        -> progressing 5% 5%
         # Restarted every twenty minutes, an hour is an hour.
         wait 20m
         restart
         wait 20m
         restart        -> progressing 5% 5%
         wait 18m       -> progressing 5% 5%
         pause          -> paused 5% 5%
         restart        -> paused 5% 5%
         wait 600m      -> paused 5% 5%
         resume pause   -> progressing 5% 5%
         trip           -> rolled_back 5% 0%
         restart        -> rolled_back 5% 0%
         wait 600m      -> rolled_back 5% 0%"
    ));
}

#[test]
fn silence_and_what_is_worse_hold_and_a_hold_is_told_once() {
    let rollout = script(&format!(
        "{PLAN}         -> progressing testers 0%
         wait 600m      -> progressing testers 0%
         good           -> progressing 1% 1%
         worse
         wait 600m      -> progressing 1% 1%
         good           -> progressing 5% 5%
         disk broken
         wait 600m      -> progressing 5% 5%
         disk fine
         promote        -> progressing 20% 20%
         hours closed
         wait 600m      -> progressing 20% 20%
         hours open     -> progressing 100% 100%"
    ));
    let holds = rollout.told.iter().filter(|a| **a == WaveAction::TellHold).count();
    assert!((3..=6).contains(&holds), "silent, worse, the disk and the door: {:?}", rollout.told);
}

#[test]
fn after_a_trip_nothing_but_a_person_raises_and_the_wave_bakes_again() {
    script(&format!(
        "good
         {PLAN}
         wait 10m
         wait 10m       -> progressing 5% 5%
         trip           -> rolled_back 5% 0%
         wait 600m      -> rolled_back 5% 0%
         promote        -> rolled_back 5% 0%
         touch          -> rolled_back 5% 0%
         pause          -> rolled_back 5% 0%
         resume hold    -> rolled_back 5% 0%
         resume rollback 5%     -> paused 5% 5%
         resume pause   -> progressing 5% 5%
         wait 9m        -> progressing 5% 5%
         trip           -> rolled_back 5% 0%
         resume rollback        -> progressing testers 0%
         wait 9m        -> progressing testers 0%
         wait 1m        -> progressing 1% 1%
         trip           -> rolled_back 1% 0%
         attempt 2      -> progressing testers 0%
         attempt 1      -> pending testers 0%
         wait 600m      -> pending testers 0%
         attempt 2      -> progressing testers 0%"
    ));
}

#[test]
fn a_freeze_holds_the_wave_and_obeys_a_lower_weight_only() {
    script(
        "good
         plan 1%:10m 5%:10m 20%:10m      -> progressing 1% 1%
         wait 10m                        -> progressing 5% 5%
         freeze                          -> frozen 5% 5%
         wait 600m                       -> frozen 5% 5%
         promote                         -> frozen 5% 5%
         plan 1%:10m 5%=3%:10m 20%:10m   -> frozen 5% 3%
         plan 1%:10m 5%:10m 20%:10m      -> frozen 5% 3%
         resume freeze                   -> progressing 5% 5%
         wait 9m                         -> progressing 5% 5%
         wait 1m                         -> progressing 20% 20%",
    );
}

#[test]
fn a_pause_holds_the_plan_and_a_promote_opens_one_wave() {
    script(
        "good
         plan 1%:10m 5%:10m 20%:10m      -> progressing 1% 1%
         pause                           -> paused 1% 1%
         wait 600m                       -> paused 1% 1%
         promote                         -> paused 5% 5%
         wait 600m                       -> paused 5% 5%
         resume pause                    -> progressing 20% 20%
         promote                         -> progressing 20% 20%
         stop on                         -> pending 20% 0%
         wait 600m                       -> pending 20% 0%
         resume hold                     -> pending 20% 0%
         # Whatever removes the file, a person lets users in again.
         stop off                        -> pending 20% 0%
         restart                         -> pending 20% 0%
         wait 600m                       -> pending 20% 0%
         resume hold                     -> progressing 20% 20%
         # What was held bakes again.
         wait 9m                         -> progressing 20% 20%
         wait 1m                         -> complete 20% 20%",
    );
}

#[test]
fn an_edited_plan_does_what_one_expects() {
    script(
        "good
         plan 1%:10m 5%:10m 20%:10m 50%:10m
         wait 10m                                -> progressing 5% 5%
         # Behind: history. Ahead: changes. Nothing is lost of the bake.
         wait 5m
         plan 2%:10m 5%:10m 10%:10m 50%:10m      -> progressing 5% 5%
         wait 5m                                 -> progressing 10% 10%
         # The present one: in force as edited, and it bakes again.
         wait 5m
         plan 5%:10m 10%=8%:10m 50%:10m          -> progressing 10% 8%
         wait 9m                                 -> progressing 10% 8%
         # A longer bake is waited for, a shorter one is over.
         plan 5%:10m 10%=8%:30m 50%:10m
         wait 19m                                -> progressing 10% 8%
         plan 5%:10m 10%=8%:20m 50%:10m          -> progressing 50% 50%
         # Gone: on in the last that reaches no further.
         plan 5%:10m 20%:10m 60%:10m             -> progressing 20% 20%
         plan 30%:10m 60%:10m:by-hand            -> progressing 30% 30%
         # By hand and back: where it stands.
         weight 40%                              -> progressing - 40%
         plan 30%:60m 60%:60m                    -> progressing 30% 30%
         plan 30%:60m                            -> progressing 30% 30%
         wait 60m                                -> complete 30% 30%
         plan 30%:60m 60%:60m:by-hand            -> progressing 30% 30%",
    );
}

#[test]
fn a_plan_whose_waves_all_reach_further_begins_anew() {
    script(
        "plan 5%:10m:by-hand 20%:10m   -> pending - 0%
         promote                       -> progressing 5% 5%
         plan 10%=50%:10m:by-hand      -> pending - 0%",
    );
}

#[test]
fn an_older_attempt_than_was_seen_is_held() {
    let none = Strategy::ByHand(Exposure { weight: Weight::FULL, segments: 0 });
    let configure = |attempt| RolloutInput::Configure {
        attempt,
        strategy: none,
        standing: Exposure::NOBODY,
        versions: Versions::default(),
        change: VersionChange::Same,
        weight_edited: false,
    };
    let (release_state, what) = step(&ReleaseState::default(), configure(3));
    assert_eq!(what, RolloutStep::Met);
    let (release_state, what) = step(&release_state, configure(2));
    assert_eq!((what, release_state.attempt), (RolloutStep::Unchanged, 3));
    let (held, why) = effective(&release_state, release_state.exposure(none), 2, Conditions::default());
    assert_eq!((held, why), (Effective::Held, Some(Hold::AttemptOld { seen: 3 })));
}

#[test]
fn a_frozen_weight_set_by_hand_goes_down_but_not_up() {
    script(
        "weight 5%     -> progressing - 5%
         freeze        -> frozen - 5%
         weight 50%    -> frozen - 5%
         weight 1%     -> frozen - 1%
         weight 5%     -> frozen - 1%
         resume freeze -> progressing - 5%
         weight 100%   -> complete - 100%",
    );
}

/// The state machine itself, for any caller.
#[test]
fn gates_open_nothing_while_a_person_or_a_trip_holds() {
    let plan = waves("1%:10m 5%:10m");
    let open = |release_state: &ReleaseState, opener| {
        step(release_state, RolloutInput::Open { waves: &plan, opener }).1
    };
    let started = ReleaseState {
        progress: Some(PlanProgress::entering(&plan[0])),
        attempt: 1,
        ..ReleaseState::default()
    };
    let pause = Pause { at_ms: 0, actor: "ann".into(), reason: String::new(), entry: 0 };
    let paused = ReleaseState { pause: Some(pause), ..started.clone() };
    assert_eq!(open(&started, Opener::Gates), RolloutStep::Opened(1));
    assert_eq!(
        (open(&paused, Opener::Gates), open(&paused, Opener::Person)),
        (RolloutStep::Unchanged, RolloutStep::Opened(1))
    );
    for held in [
        ReleaseState { trip: Some(trip()), ..started.clone() },
        ReleaseState { freeze: Some(freeze(Weight::FULL)), ..started.clone() },
        ReleaseState { awaits: Some(ManualHold::StateLost), ..started.clone() },
    ] {
        assert_eq!(
            (open(&held, Opener::Gates), open(&held, Opener::Person)),
            (RolloutStep::Unchanged, RolloutStep::Unchanged)
        );
        assert_eq!(step(&held, RolloutInput::Finish { waves: &plan[..1] }).1, RolloutStep::Unchanged);
    }
    assert_eq!(
        step(&started, RolloutInput::Finish { waves: &plan }).1,
        RolloutStep::Unchanged,
        "it is not the last one"
    );
    assert_eq!(step(&started, RolloutInput::Finish { waves: &plan[..1] }).1, RolloutStep::Finished);
}
