//! Drives the judge with simulated arms: bad versions must trip, common incidents must not.

use super::super::verdict::SignalResult;
use super::*;
use crate::stats::arm::Arm;
use crate::stats::cohort::Weight;
use crate::stats::engine::tests::Dice;
use crate::stats::engine::{EngineSettings, EventKind, RequestEvent, RequestStart, SHARES};
use crate::stats::users::{Baseline, UNITS, UserUnit};

const LIMITS: VerdictLimits = VerdictLimits {
    alpha: 0.001,
    errors_max: 0.05,
    latency_p99_max: Duration::from_secs(2),
    stated: [false; 2],
    latency_tolerance: 0.2,
    latency_notice: 0.03,
    latency_floor: Duration::ZERO,
};
const TICK: Duration = Duration::from_millis(100);
const DEADLINE: Duration = Duration::from_millis(250);
const STABLE_TAKES: Duration = Duration::from_millis(20);

fn judge(share: f64) -> Judge {
    let settings = EngineSettings {
        alpha: LIMITS.alpha,
        tick: TICK,
        latency_tolerance: 0.2,
        latency_notice: 0.03,
        latency_floor: Duration::ZERO,
        strata: 0,
        warm_up: Duration::ZERO,
        shares: SHARES,
    };
    let weight = Weight::from_parts((share * 1e6) as u32);
    Judge::new(LIMITS, Engine::new(settings, weight, Baseline::default(), Duration::ZERO), [].into())
}

/// A stream of frequent users.
struct Sim {
    dice: Dice,
    judge: Judge,
    pool: Vec<UserUnit>,
    weight: Weight,
    /// Clients of stable give up before it fails.
    impatient: bool,
    /// Latency of `new`.
    new_takes: Duration,
    /// One account of stable fails this many times a second.
    retries: u32,
    i: u32,
    ids: u64,
    histograms: [Histogram; 2],
}

impl Sim {
    fn new(seed: u64, share: f64) -> Sim {
        let mut dice = Dice::new(seed);
        let pool =
            (0..20_000).map(|_| UserUnit::from_index((dice.uniform() * f64::from(UNITS)) as u32)).collect();
        let histograms = [Histogram::default(), Histogram::default()];
        let judge = judge(share);
        let weight = judge.engine().weight();
        Sim {
            dice,
            judge,
            pool,
            weight,
            impatient: false,
            new_takes: STABLE_TAKES,
            retries: 0,
            i: 0,
            ids: 0,
            histograms,
        }
    }

    fn now(&self) -> Duration {
        TICK * self.i
    }

    /// One tick of `n` requests that fail with these probabilities.
    fn tick(&mut self, n: usize, p_new: f64, p_stable: f64) -> Judgement {
        let at = self.now();
        self.i += 1;
        if self.retries > 0 && self.i.is_multiple_of(10 / self.retries.min(10)) {
            self.ids += 1;
            let unit = Some(UserUnit::from_index(UNITS - 1));
            let request = RequestStart {
                id: self.ids,
                at,
                arm: Arm::Stable,
                unit,
                drawn: true,
                stratum: None,
                server: None,
            };
            for what in [EventKind::Arrived, EventKind::Failed] {
                self.judge.push_all(&[RequestEvent { request, what, after: STABLE_TAKES }]);
            }
        }
        for _ in 0..n {
            let unit = self.pool[(self.dice.uniform() * self.pool.len() as f64) as usize];
            let arm = if unit.bucket() < self.weight.parts() { Arm::New } else { Arm::Stable };
            let failed = self.dice.uniform() < if arm == Arm::New { p_new } else { p_stable };
            self.ids += 1;
            let request = RequestStart {
                id: self.ids,
                at,
                arm,
                unit: Some(unit),
                drawn: true,
                stratum: None,
                server: None,
            };
            let what = match failed {
                true if arm == Arm::Stable && self.impatient => EventKind::Left { unusual: true },
                true => EventKind::Failed,
                false => EventKind::Answered,
            };
            for what in [EventKind::Arrived, what] {
                let after = if arm == Arm::New { self.new_takes } else { STABLE_TAKES };
                self.judge.push_all(&[RequestEvent { request, what, after }]);
            }
        }
        self.judge.tick(TICK * self.i, DEADLINE, |_| {});
        self.look(TickSettings::OnTime)
    }

    fn look(&mut self, ticks: TickSettings) -> Judgement {
        let latency = ExchangeDurations { new: &self.histograms[1], stable: &self.histograms[0] };
        let judgement =
            self.judge.look(&JudgeInput { now: TICK * self.i, ticks, minute: latency, recent: latency });
        // Each verdict of these simulations follows from its grounds alone.
        let cause = match judgement.verdict {
            Verdict::Breach(cause) => Some(cause),
            Verdict::Pass | Verdict::Inconclusive => None,
        };
        let inputs = judgement.evidence.inputs;
        assert_eq!(inputs.cause(), cause, "{inputs:?}");
        assert!(inputs.comparison.adds_up(), "{:?}", inputs.comparison);
        judgement
    }

    /// The ticks of a phase, until the first trip.
    fn run(&mut self, seconds: f64, n: usize, p_new: f64, p_stable: f64) -> Result<Judgement, (Cause, f64)> {
        let start = self.now();
        let mut last = self.look(TickSettings::OnTime);
        for _ in 0..(seconds * 10.0) as usize {
            last = self.tick(n, p_new, p_stable);
            if let Verdict::Breach(cause) = last.verdict {
                assert_eq!(last.state, WatchdogState::Tripped);
                return Err((cause, (self.now() - start).as_secs_f64()));
            }
        }
        Ok(last)
    }
}

#[test]
fn a_new_that_fails_is_out_within_a_second_or_two() {
    for (share, p) in [(0.05, 0.5), (0.05, 1.0), (0.5, 0.5)] {
        for seed in 0..10 {
            let mut sim = Sim::new(seed, share);
            assert!(sim.run(20.0, 80, 0.001, 0.001).is_ok());
            let trip = sim.run(30.0, 80, p, 0.001);
            assert!(
                matches!(trip, Err((Cause::Errors | Cause::Ceiling, after)) if after <= 2.0),
                "{share} {p}: {trip:?}"
            );
        }
    }
}

#[test]
fn a_shared_outage_blames_nobody() {
    let mut tripped = Vec::new();
    for seed in 0..300 {
        // Various shares, loads and depths. The arms' time-outs differ, which a final interval does
        // not show.
        let share = [0.02, 0.05, 0.2, 0.5][seed as usize % 4];
        let load = [8, 20, 60][seed as usize % 3];
        let depth = [1.0, 0.6, 0.2, 0.08][seed as usize / 7 % 4];
        let seconds = [2.0, 8.0, 25.0][seed as usize / 31 % 3];
        let mut sim = Sim::new(seed, share);
        let run = |sim: &mut Sim| -> Result<(), (Cause, f64)> {
            sim.run(8.0, load, 0.001, 0.001)?;
            sim.run(seconds, load, depth, depth)?;
            sim.run(15.0, load, 0.001, 0.001)?;
            Ok(())
        };
        if let Err(trip) = run(&mut sim) {
            tripped.push((seed, trip));
        }
    }
    assert!(tripped.is_empty(), "{tripped:?}");
}

#[test]
fn an_outage_that_ends_in_stable_a_little_earlier_blames_nobody() {
    for seed in 0..60 {
        let gap = [0.3, 1.0, 2.0][seed as usize % 3];
        let mut sim = Sim::new(seed, [0.05, 0.3][seed as usize % 2]);
        assert!(sim.run(6.0, 60, 0.001, 0.001).is_ok());
        let outage = sim.run([3.0, 20.0][seed as usize / 2 % 2], 60, 0.9, 0.9);
        assert!(outage.is_ok_and(|j| j.state == WatchdogState::BothArms), "{seed}");
        assert!(sim.run(gap, 60, 0.9, 0.001).is_ok(), "{seed} {gap}");
        // Windows that reach back to the end of the outage close minutes later.
        let after = sim.run(if seed < 6 { 240.0 } else { 30.0 }, 60, 0.001, 0.001);
        assert!(after.is_ok(), "{seed} {gap}: {after:?}");
    }
}

#[test]
fn both_arms_bad_for_half_a_minute_is_a_precaution_that_says_so() {
    let mut sim = Sim::new(1, 0.2);
    assert!(sim.run(20.0, 40, 0.001, 0.001).is_ok());
    let trip = sim.run(60.0, 40, 0.5, 0.5);
    assert!(matches!(trip, Err((Cause::BothArms, after)) if (30.0..40.0).contains(&after)), "{trip:?}");
    assert!(sim.look(TickSettings::OnTime).reason.starts_with("precaution"));
}

#[test]
fn a_new_that_stays_down_when_stable_is_back_is_out() {
    let mut sim = Sim::new(2, 0.2);
    assert!(sim.run(20.0, 40, 0.001, 0.001).is_ok());
    assert!(sim.run(10.0, 40, 0.9, 0.9).is_ok());
    let trip = sim.run(40.0, 40, 0.9, 0.001);
    assert!(matches!(trip, Err((Cause::Errors | Cause::Ceiling, after)) if after <= 21.0), "{trip:?}");
}

#[test]
fn a_new_that_is_far_worse_than_an_ailing_stable_is_out() {
    let mut sim = Sim::new(3, 0.2);
    assert!(sim.run(20.0, 40, 0.06, 0.06).is_ok());
    let trip = sim.run(60.0, 40, 0.7, 0.06);
    assert!(matches!(trip, Err((Cause::Errors | Cause::Ceiling, after)) if after <= 31.0), "{trip:?}");
}

#[test]
fn few_failures_or_few_users_do_not_cross_a_ceiling() {
    let none = Histogram::default();
    let latency = ExchangeDurations { new: &none, stable: &none };
    // (users of `new`, failures in total)
    let verdict = |users: u32, failures: u32| {
        let mut judge = judge(0.5);
        for arm in Arm::BOTH {
            judge.failures.came(arm, 100);
        }
        (0..failures).for_each(|i| judge.failures.was_bad(Arm::New, Some(UserUnit::from_index(i % users))));
        judge.failures.close(TICK);
        judge.push(&CeilingInterval {
            end: TICK,
            requests: PerArm::new(100, 100),
            ..CeilingInterval::default()
        });
        judge
            .look(&JudgeInput { now: TICK, ticks: TickSettings::OnTime, minute: latency, recent: latency })
            .verdict
    };
    assert_eq!(verdict(4, 400), Verdict::Pass, "four clients' retries");
    assert_eq!(verdict(9, 9), Verdict::Pass, "nine failures");
    assert_eq!(verdict(5, 400), Verdict::Breach(Cause::Ceiling));
}

#[test]
fn a_slow_new_crosses_the_latency_ceiling_unless_stable_is_slow_too() {
    for (slow_new, slow_stable, want) in
        [(0, 0, WatchdogState::Quiet), (60, 0, WatchdogState::Tripped), (60, 60, WatchdogState::BothArms)]
    {
        let mut sim = Sim::new(4, 0.5);
        for i in 0..1000 {
            for (arm, slow) in [(Arm::New, slow_new), (Arm::Stable, slow_stable)] {
                sim.judge.slow.came(arm, 1);
                if i < slow {
                    sim.judge.slow.was_bad(arm, Some(UserUnit::from_index(i)));
                }
            }
        }
        let got = sim.tick(40, 0.0, 0.0);
        assert_eq!(got.state, want, "{}", got.reason);
    }
}

#[test]
fn blindness_is_never_health() {
    let mut sim = Sim::new(5, 0.999);
    sim.pool = vec![UserUnit::from_index(0)];
    let last = sim.run(15.0, 20, 0.0, 0.0).expect("no trip");
    assert_eq!((last.state, last.verdict), (WatchdogState::Blind, Verdict::Inconclusive));
    let mut sim = Sim::new(6, 0.5);
    assert_eq!(sim.run(5.0, 20, 0.0, 0.0).map(|j| j.verdict), Ok(Verdict::Pass));
    assert_eq!(sim.look(TickSettings::Late).state, WatchdogState::Blind);
    sim.i += 2000;
    assert_eq!(sim.look(TickSettings::OnTime).state, WatchdogState::Blind);
    assert_eq!(Sim::new(7, 0.5).look(TickSettings::OnTime).verdict, Verdict::Inconclusive);
}

#[test]
fn at_full_weight_the_ceiling_decides_alone_and_says_so() {
    let mut sim = Sim::new(8, 1.0);
    let fine = sim.run(5.0, 20, 0.001, 0.0).expect("no trip");
    assert_eq!(fine.verdict, Verdict::Pass);
    assert!(fine.signals[0].detail.contains("no control"), "{:?}", fine.signals);
    assert!(matches!(sim.run(10.0, 20, 0.5, 0.0), Err((Cause::Ceiling, after)) if after <= 2.0));
}

/// After a restart: what holds is that nothing has come, and no notice holds anything.
#[test]
fn a_notice_is_not_what_holds_while_nothing_has_come() {
    let mut sim = Sim::new(9, 0.2);
    sim.judge.notice().look(Duration::ZERO, true);
    let judgement = sim.look(TickSettings::OnTime);
    assert_eq!(judgement.verdict, Verdict::Inconclusive);
    assert_eq!(judgement.reason, "no request of new in the last minute");
    let judgement = sim.run(10.0, 40, 0.0, 0.0).expect("no trip");
    assert_eq!(judgement.verdict, Verdict::Pass);
    assert!(judgement.reason.contains("a notice, which holds nothing"), "{}", judgement.reason);
}

#[test]
fn a_judgement_tells_its_numbers() {
    let mut sim = Sim::new(9, 0.2);
    let judgement = sim.run(10.0, 40, 0.0, 0.0).expect("no trip");
    let (new, stable) = (judgement.evidence.minute.requests.new, judgement.evidence.minute.requests.stable);
    // The last intervals are not final yet.
    assert!((3800..=4000).contains(&(new + stable)), "{new} {stable}");
    assert_eq!(judgement.signals[0].detail, format!("new 0 of {new}, stable 0 of {stable}"));
    assert!(judgement.signals.iter().all(|s| (0.0..=1.0).contains(&s.evidence_ratio)));
}

#[test]
fn a_shared_outage_in_which_clients_give_up_on_stable_first_blames_nobody() {
    for seed in 0..20 {
        let mut sim = Sim::new(seed, [0.05, 0.3][seed as usize % 2]);
        assert!(sim.run(10.0, 60, 0.001, 0.001).is_ok());
        // New fails after 1 s. Stable would fail after 3 s, but its clients leave after 2 s.
        sim.impatient = true;
        let outage = sim.run(15.0, 60, 0.9, 0.9);
        assert!(outage.is_ok(), "{seed}: {outage:?} {:?}", sim.look(TickSettings::OnTime));
        let after = sim.run(30.0, 60, 0.001, 0.001);
        assert!(after.is_ok(), "{seed}: {after:?}");
    }
}

#[test]
fn a_slow_new_is_not_said_to_fail_because_both_do() {
    for seed in 0..4 {
        let mut sim = Sim::new(seed, 0.2);
        assert!(sim.run(4.0, 1600, 0.005, 0.005).is_ok());
        sim.new_takes = 3 * STABLE_TAKES;
        let (cause, _) = sim.run(4.0, 1600, 0.005, 0.005).expect_err("it is three times slower");
        assert_eq!(cause, Cause::Latency);
    }
}

/// Five failures of stable in ten seconds must not switch off the comparison.
#[test]
fn background_errors_of_stable_do_not_hide_a_new_that_fails_more() {
    for (retries, p_new, p_stable) in [(0, 0.12, 0.02), (6, 0.03, 0.001)] {
        let mut sim = Sim::new(11, 0.1);
        sim.retries = retries;
        assert!(sim.run(120.0, 20, p_stable, p_stable).is_ok());
        let trip = sim.run(300.0, 20, p_new, p_stable);
        assert!(matches!(trip, Err((Cause::Errors, _))), "{retries}: {trip:?}");
    }
}

#[test]
fn a_trouble_of_stable_that_lasts_does_not_hide_a_worse_new() {
    let mut sim = Sim::new(12, 0.2);
    assert!(sim.run(20.0, 40, 0.001, 0.001).is_ok());
    assert!(sim.run(60.0, 40, 0.01, 0.01).is_ok());
    // Stable is always in trouble, and `new` fails three times as often.
    let trip = sim.run(120.0, 40, 0.045, 0.015);
    assert!(matches!(trip, Err((Cause::Errors, _))), "{trip:?}");
}

/// A wave of 20%, then 100%: without a control it alerts and holds, but never trips.
#[test]
fn at_100_a_new_that_fails_more_than_before_is_told_and_does_not_trip() {
    let mut sim = Sim::new(1, 0.2);
    sim.run(270.0, 20, 0.001, 0.001).unwrap();
    sim.weight = Weight::FULL;
    let now = sim.now();
    sim.judge.engine_mut().weigh(Weight::FULL, now);
    let ratio = |judgement: &Judgement| {
        let past = judgement.signals.iter().find(|s| s.signal == SignalResult::WORSE_THAN_BEFORE).unwrap();
        (past.evidence_ratio, past.detail.clone())
    };
    let quiet = sim.run(90.0, 20, 0.001, 0.0).unwrap();
    assert!(quiet.verdict == Verdict::Pass && ratio(&quiet).0 < 1.0, "{quiet:?}");
    let worse = sim.run(120.0, 20, 0.041, 0.0).unwrap();
    let (full, detail) = ratio(&worse);
    assert_eq!(full, 1.0, "{detail}");
    assert_eq!((worse.state, worse.verdict), (WatchdogState::Suspicious, Verdict::Inconclusive));
    assert!(worse.reason.starts_with("new does worse than in its own past"), "{}", worse.reason);
    assert!(worse.alarm().is_some());
    let kept = sim.judge.clone();
    sim.judge.accept(StandingFinding::Alarm);
    let ended = sim.look(TickSettings::OnTime);
    assert!(ended.verdict == Verdict::Pass && ended.alarm().is_none(), "{ended:?}");
    sim.judge = kept;
    sim.judge.set_soaked(true);
    let soaked = sim.look(TickSettings::OnTime);
    assert!(soaked.verdict == Verdict::Pass && ratio(&soaked).0 == 0.0, "{soaked:?}");
}

#[test]
fn how_a_ceiling_of_latency_fits_is_learnt_anew_when_it_is_edited() {
    let mut judge = judge(0.0);
    judge.before = [StableBefore::from_parts([1_000.0, 80.0]); 2];
    let [errors, latency] = judge.fitted();
    assert!(
        matches!(errors, FittedCeiling::SetAside { .. }) && matches!(latency, FittedCeiling::SetAside { .. })
    );
    judge.set_limits(VerdictLimits { errors_max: 0.06, ..LIMITS });
    assert_eq!(judge.before(), [StableBefore::from_parts([1_000.0, 80.0]); 2], "failures are the same");
    judge.set_limits(VerdictLimits { latency_p99_max: Duration::from_secs(5), ..LIMITS });
    assert_eq!(judge.before(), [StableBefore::from_parts([1_000.0, 80.0]), StableBefore::default()]);
    assert_eq!(judge.fitted(), [errors, FittedCeiling::AsGiven]);
}
