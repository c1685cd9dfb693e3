//! Tests of single gates, and trials of simulated crowds: what they count, how often they promote a
//! bad `new`, and how soon a good one.

use super::*;
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::cohort::Weight;
use crate::stats::engine::{EventKind, RequestEvent, RequestStart};
use crate::stats::histogram;
use crate::stats::latency::AgeTable;
use crate::stats::noninferiority;
use crate::stats::noninferiority::BETA;
use crate::stats::noninferiority::tests::Dice;
use crate::stats::users::UserUnit;
use std::sync::Arc;
use trial::{Reference, Trial};

/// A wave at 20% in which everything is well.
pub fn good() -> WaveEvidence {
    WaveEvidence {
        controlled: true,
        baked: Duration::from_secs(3600),
        bake: Duration::from_secs(600),
        requests_min: 500,
        users_min: 5,
        margins: Margins { errors: 0.001, latency: 0.1, tail: 0.5 },
        share: 0.2,
        reading: TrialReading {
            requests: PerArm::new(20_000, 80_000),
            users: PerArm::new(900, 4_000),
            compared: PerArm::new(20_000, 80_000),
            failed: PerArm::new(20, 80),
            timed: PerArm::new(20_000, 80_000),
            slow: PerArm::new(200, 800),
            e_errors: 40.0,
            e_body: 900.0,
            e_tail: 33.0,
            design_errors: 1.0,
            design_latency: 1.0,
            design_tail: 1.0,
            spread_latency: 0.6,
            share_z: 0.1,
        },
        critical: vec![],
        servers: HealthyServers { all: PerArm::new(2, 3), healthy: PerArm::new(2, 3) },
        watchdog: WatchdogReport {
            state: Some(WatchdogState::Quiet),
            passes: true,
            reason: "new 20 of 20000".into(),
            e_value: 0.3,
            e_notice: 0.2,
            alpha: 0.001,
            detection_limit: None,
        },
        resources: vec![],
    }
}

/// A wave without any observation.
pub fn silent() -> WaveEvidence {
    let watchdog = WatchdogReport {
        passes: false,
        reason: "no request of new in the last minute".into(),
        ..good().watchdog
    };
    let reading = TrialReading { e_errors: 1.0, e_body: 1.0, e_tail: 1.0, ..TrialReading::default() };
    WaveEvidence { reading, watchdog, ..good() }
}

pub fn input(wave_evidence: Option<WaveEvidence>) -> GateInput {
    let promotion = Some(PromotionState { promotion: Promotion::Auto, hours: None });
    GateInput { wave_evidence, promotion, durable: true, barred_by: None }
}

fn seen(below: f64) -> Option<WaveDetectionLimit> {
    Some(WaveDetectionLimit {
        detection_limit: Some(DetectionLimit { below, requests: 8192 }),
        latency_notice: 0.03,
        margin: 0.1,
    })
}

fn verdicts(wave_evidence: WaveEvidence) -> Vec<(Cow<'static, str>, GateVerdict)> {
    let gates = judge(&input(Some(wave_evidence)));
    gates.iter().filter(|g| g.verdict != GateVerdict::Pass).map(|g| (g.name.clone(), g.verdict)).collect()
}

fn expected(of: &[(&'static str, GateVerdict)]) -> Vec<(Cow<'static, str>, GateVerdict)> {
    of.iter().map(|(name, verdict)| (Cow::Borrowed(*name), *verdict)).collect()
}

#[test]
fn each_thing_that_is_missing_holds_and_says_so() {
    use GateVerdict::{Fail, Inconclusive};
    type Spoil = fn(&mut WaveEvidence);
    let sharp = WatchdogReport { detection_limit: seen(0.067), ..good().watchdog };
    assert_eq!(verdicts(WaveEvidence { watchdog: sharp, ..good() }), []);
    let table: [(Spoil, &[(&str, GateVerdict)]); 17] = [
        (|_| {}, &[]),
        (|p| p.baked = Duration::from_secs(599), &[("bake", Inconclusive)]),
        (|p| p.reading.requests.new = 499, &[("requests", Inconclusive)]),
        (|p| p.reading.users.stable = 4, &[("users", Inconclusive)]),
        (|p| p.reading.e_errors = 19.9, &[("errors", Inconclusive)]),
        (|p| (p.reading.e_errors, p.reading.failed.new) = (0.1, 200), &[("errors", Fail)]),
        (|p| p.reading.e_body = 19.0, &[("latency", Inconclusive)]),
        (|p| p.reading.e_tail = 19.0, &[("latency_tail", Inconclusive)]),
        (|p| (p.reading.e_tail, p.reading.slow.new) = (0.0, 700), &[("latency_tail", Fail)]),
        (|p| (p.reading.compared.new, p.reading.share_z) = (10_000, -20.0), &[("share", Fail)]),
        (|p| p.servers.healthy.new = 1, &[("servers", Fail)]),
        (|p| p.watchdog.e_value = 10.0, &[("watchdog", Fail)]),
        // A notice only informs. It holds nothing.
        (|p| (p.watchdog.e_notice, p.watchdog.state) = (1_000.0, Some(WatchdogState::Suspicious)), &[]),
        (|p| p.watchdog.state = Some(WatchdogState::Blind), &[("watchdog", Inconclusive)]),
        (
            |p| {
                p.watchdog.detection_limit =
                    Some(WaveDetectionLimit { detection_limit: None, latency_notice: 0.03, margin: 0.1 })
            },
            &[("sight", Inconclusive)],
        ),
        (|p| p.watchdog.detection_limit = seen(0.07), &[("sight", Inconclusive)]),
        (|p| p.watchdog.detection_limit = seen(f64::INFINITY), &[("sight", Inconclusive)]),
    ];
    for (spoil, expected) in table {
        let mut wave_evidence = good();
        spoil(&mut wave_evidence);
        assert_eq!(verdicts(wave_evidence), self::expected(expected));
    }
    let says = |wave_evidence: WaveEvidence, name: &str| {
        judge(&input(Some(wave_evidence)))
            .into_iter()
            .find(|g| g.name == name)
            .map(|g| g.detail)
            .unwrap_or_default()
    };
    let mut off = good();
    (off.reading.compared.new, off.reading.share_z) = (10_000, -20.0);
    assert!(says(off, "share").contains("a fault of the set-up and not of new"));
    let mut few = good();
    (few.reading.e_errors, few.reading.compared.new) = (1.5, 4_000);
    assert_eq!(
        says(few, "errors"),
        "new 20 of 4000 failed, stable 80 of 80000; no worse than 0.1 points by E 1.50 of 20; about 13000 more requests of new, 3.2 h at this rate"
    );
}

/// All is well, except for this reading of a critical route.
fn with_route(reading: TrialReading) -> WaveEvidence {
    WaveEvidence { critical: vec![RouteEvidence { name: "refunds".into(), reading }], ..good() }
}

#[test]
fn a_critical_route_has_gates_of_its_own() {
    use GateVerdict::{Fail, Inconclusive};
    assert_eq!(verdicts(with_route(good().reading)), []);
    let worse = TrialReading { e_errors: 0.01, failed: PerArm::new(1_000, 80), ..good().reading };
    let gates = judge(&input(Some(with_route(worse))));
    let failed: Vec<_> = gates.iter().filter(|g| g.verdict == Fail).map(|g| &*g.name).collect();
    assert_eq!(failed, ["errors:refunds"]);
    // No requests: it waits, without an estimate of the time.
    let nothing = TrialReading { e_errors: 1.0, e_body: 1.0, e_tail: 1.0, ..TrialReading::default() };
    let waits = verdicts(with_route(nothing));
    let names = ["errors:refunds", "latency:refunds", "latency_tail:refunds"];
    assert_eq!(waits, names.map(|name| (Cow::Borrowed(name), Inconclusive)));
    let gates = judge(&input(Some(with_route(nothing))));
    let (_, needs) = slowest(&gates).unwrap();
    assert_eq!(needs.time, None);
    assert!(gates.iter().any(|g| g.detail.ends_with("more requests of new, none has come yet")));
    // Few requests: it takes days.
    let few = TrialReading {
        e_errors: 1.1,
        compared: PerArm::new(60, 1_200),
        failed: PerArm::new(0, 1),
        ..good().reading
    };
    let gates = judge(&input(Some(with_route(few))));
    let (gate, needs) = slowest(&gates).unwrap();
    assert_eq!(&*gate.name, "errors:refunds");
    assert!(needs.time.unwrap() > Duration::from_secs(86_400 * 7), "{needs:?}");
    let of_route = [figures::figures("errors:refunds", &input(Some(with_route(few)))), vec![]].concat();
    assert!(
        of_route.iter().any(|(name, f)| name == "new_requests" && *f == figures::GateFigure::Number(60.0))
    );
    assert!(is_known("errors:refunds", ["refunds"]) && is_known("bake", []));
    for unknown in ["errors:other", "bake:refunds", "refunds", "errors:"] {
        assert!(!is_known(unknown, ["refunds"]), "{unknown}");
    }
}

#[test]
fn the_tail_has_a_margin_of_its_own_and_says_what_it_needs() {
    let at = |tail: f64| {
        let mut wave_evidence = good();
        (wave_evidence.margins.tail, wave_evidence.reading.e_tail, wave_evidence.reading.timed.new) =
            (tail, 1.2, 4_000);
        wave_evidence.reading.slow.new = 60;
        judge(&input(Some(wave_evidence))).into_iter().find(|g| g.name == margin_gates::TAIL).unwrap()
    };
    let (half, tenth) = (at(0.5), at(0.1));
    assert_eq!((half.verdict, tenth.verdict), (GateVerdict::Inconclusive, GateVerdict::Fail));
    assert!(half.detail.contains("less than 1.5 times as many by E 1.20 of 20; about"), "{}", half.detail);
    assert!(tenth.detail.contains("less than 1.1 times as many"), "{}", tenth.detail);
    assert!(half.needs.unwrap().requests > 1_000);
    let needed = |ratio| noninferiority::tail_needed(0.01, ratio, 0.2);
    assert!(needed(1.1) > 10.0 * needed(1.5) && needed(1.5) > needed(2.0));
}

#[test]
fn an_edited_margin_starts_what_was_shown_of_it_anew_and_only_that() {
    let table = table();
    let (mut trial, _) = CROWD.trial(3, MARGINS, 20_000, Some(&table), |_| false);
    let before = trial.reading();
    trial.set_margins(MARGINS);
    assert_eq!(trial.reading(), before);
    trial.set_margins(Margins { latency: 0.2, ..MARGINS });
    let of_body = trial.reading();
    assert_eq!((of_body.e_body, of_body.e_errors, of_body.e_tail), (1.0, before.e_errors, before.e_tail));
    trial.set_margins(Margins { latency: 0.2, errors: 0.02, ..MARGINS });
    let of_errors = trial.reading();
    assert_eq!(
        (of_errors.e_errors, of_errors.compared, of_errors.e_tail),
        (1.0, PerArm::default(), before.e_tail)
    );
    assert_eq!((of_errors.users, of_errors.requests), (before.users, before.requests));
}

#[test]
fn silence_never_passes() {
    let missing: Vec<_> = verdicts(silent()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(missing, ["requests", "users", "errors", "latency", "latency_tail", "share", "watchdog"]);
    // Earlier evidence does not pass either, once the traffic has stopped.
    let late = WaveEvidence { watchdog: silent().watchdog, ..good() };
    assert_eq!(verdicts(late), expected(&[("watchdog", GateVerdict::Inconclusive)]));
    assert!(!passes(&[]));
}

#[test]
fn a_wave_without_a_control_passes_on_what_there_is_and_says_so() {
    let reading =
        TrialReading { requests: PerArm::new(700, 9_000), users: PerArm::new(5, 0), ..silent().reading };
    let gates = judge(&input(Some(WaveEvidence { controlled: false, reading, ..good() })));
    assert!(passes(&gates), "{gates:?}");
    let no_control = gates.iter().filter(|g| g.detail == NO_CONTROL).map(|g| &*g.name);
    assert_eq!(no_control.collect::<Vec<_>>(), ["errors", "latency", "latency_tail", "share"]);
    let alone = WaveEvidence { controlled: false, ..silent() };
    assert_eq!(verdicts(alone).len(), 3, "requests, users, and the watchdog's silence");
}

#[test]
fn resources_are_a_gate_of_their_own_that_silence_does_not_pass() {
    use crate::domain::resource::tests::inputs;
    let (within, over) = (inputs(&[(1.0, 1.0); 3]), inputs(&[(11.0, 1.0); 3]));
    let (unread, both) = (inputs(&[]), inputs(&[(11.0, 11.0); 3]));
    let gate = |of: &[&ResourceInputs]| {
        let resources = of.iter().map(|g| (*g).clone()).collect();
        let gates = judge(&input(Some(WaveEvidence { resources, ..good() })));
        gates.into_iter().find(|g| g.name == "resources").map(|g| g.verdict)
    };
    assert_eq!(gate(&[]), None);
    assert_eq!(gate(&[&within, &within]), Some(GateVerdict::Pass));
    assert_eq!(gate(&[&within, &unread]), Some(GateVerdict::Inconclusive));
    assert_eq!(gate(&[&unread, &over]), Some(GateVerdict::Fail));
    assert_eq!(gate(&[&within, &both]), Some(GateVerdict::Fail));
}

#[test]
fn doors_are_gates_too() {
    let at = |promotion, hours: Option<bool>| {
        let hours = hours.map(|open| OpenHoursState {
            text: "Mon-Thu 09:00-16:00 UTC".into(),
            open,
            next: Some("Mon 09:00".into()),
        });
        let gates =
            judge(&GateInput { promotion: Some(PromotionState { promotion, hours }), ..input(Some(good())) });
        gates.into_iter().filter(|g| g.verdict != GateVerdict::Pass).map(|g| g.detail).collect::<Vec<_>>()
    };
    assert_eq!(at(Promotion::Auto, None), Vec::<String>::new());
    assert_eq!(at(Promotion::Auto, Some(true)), Vec::<String>::new());
    assert_eq!(at(Promotion::ByHand, None), ["a person opens it: grayling promote"]);
    assert_eq!(at(Promotion::Auto, Some(false)), ["closed now: Mon-Thu 09:00-16:00 UTC; next Mon 09:00"]);
    let forgetful = judge(&GateInput { durable: false, ..input(None) });
    assert!(!passes(&forgetful) && passes(&judge(&input(None))));
    assert!(!passes(&judge(&GateInput { barred_by: Some("other".into()), ..input(Some(good())) })));
}

#[test]
fn power_is_told_in_the_time_that_the_traffic_takes() {
    let traffic = KnownTraffic { rate: 100.0, requests: 30_000, failures: 30 };
    let told = power(&traffic, 0.002, 0.05).unwrap();
    assert!(told.starts_with("0.2 points at 5%: about ") && told.ends_with(" min at this rate"), "{told}");
    assert_eq!(power(&KnownTraffic { rate: 0.0, ..traffic }, 0.002, 0.05), None);
    assert_eq!(power(&traffic, 0.002, 1.0), None);
    let minutes = |rate| time_needed(&KnownTraffic { rate, ..traffic }, 0.002, 0.05).unwrap().as_secs() / 60;
    assert!((10..40).contains(&minutes(100.0)) && minutes(50.0) >= 2 * minutes(100.0) - 1);
}

/// Users who return, 500 requests a second in all, with their events as the watchdog receives them.
#[derive(Clone, Copy)]
struct Crowd {
    users: u32,
    share: f64,
    /// A share of users who always fail, in either arm.
    poisoned: f64,
    /// Shares of failed requests, in stable and in new.
    fails: [f64; 2],
    /// The slowdown of `new` as a factor; σ of the logarithm between users.
    slower: f64,
    users_differ: f64,
}

const CROWD: Crowd =
    Crowd { users: 1_000, share: 0.2, poisoned: 0.0, fails: [0.0; 2], slower: 1.0, users_differ: 0.0 };

/// Of a log-normal latency: median 40 ms, σ 0.5.
fn table() -> Arc<AgeTable> {
    let edges: Vec<f64> = histogram::EDGES.iter().map(|e| f64::from(*e)).collect();
    let (mut counts, mut dice) = (vec![0.0; histogram::BUCKETS], Dice(11));
    (0..50_000).for_each(|_| counts[histogram::index(latency_us(&mut dice) as u64)] += 1.0);
    Arc::new(AgeTable::new(&edges, &counts))
}

fn normal(dice: &mut Dice) -> f64 {
    (-2.0 * (1.0 - dice.uniform()).ln()).sqrt() * (std::f64::consts::TAU * dice.uniform()).cos()
}

fn latency_us(dice: &mut Dice) -> f64 {
    40e3 * (0.5 * normal(dice)).exp()
}

impl Crowd {
    /// Runs this many requests, or until `passes`. Returns the number of requests of both arms by
    /// then.
    fn trial(
        &self,
        seed: u64,
        margins: Margins,
        requests: u64,
        table: Option<&Arc<AgeTable>>,
        passes: impl Fn(&TrialReading) -> bool,
    ) -> (Trial, Option<u64>) {
        let (tick, weight) = (Duration::from_millis(100), Weight::from_parts((self.share * 1e6) as u32));
        let (mut trial, mut dice) = (Trial::new(margins, weight, tick, Duration::ZERO), Dice(seed));
        for n in 0..requests {
            let at = Duration::from_micros(2_000 * n);
            let user = (dice.uniform() * f64::from(self.users)) as u64;
            // The users' places and properties are drawn again in each run.
            let place = Dice(seed << 32 | user).uniform();
            let mut of_user = Dice(!(seed << 32 | user));
            let poisoned = of_user.uniform() < self.poisoned;
            let usual = (self.users_differ * normal(&mut of_user)).exp();
            let unit = UserUnit::from_index((place * 16e6) as u32);
            let arm = if unit.bucket() < weight.parts() { Arm::New } else { Arm::Stable };
            let request =
                RequestStart { id: n, at, arm, unit: Some(unit), drawn: true, stratum: None, server: None };
            let failed = poisoned || dice.uniform() < self.fails[arm.index()];
            let what = if failed { EventKind::Failed } else { EventKind::Answered };
            let slower = if arm == Arm::New { self.slower } else { 1.0 };
            let after = Duration::from_secs_f64(latency_us(&mut dice) * slower * usual / 1e6);
            let reference = Reference { table, factor: 1.0, floor: Duration::ZERO, is_warming: false };
            trial
                .push(&RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO }, &reference);
            trial.push(&RequestEvent { request, what, after }, &reference);
            trial.tick(at, Duration::from_millis(250));
            if n % 1_000 == 0 && passes(&trial.reading()) {
                return (trial, Some(n));
            }
        }
        (trial, None)
    }
}

const MARGINS: Margins = Margins { errors: 0.001, latency: 0.1, tail: 0.5 };

#[test]
fn a_trial_counts_what_came_and_whom_it_befell() {
    let crowd = Crowd { fails: [0.01, 0.03], ..CROWD };
    let (trial, _) = crowd.trial(5, MARGINS, 20_000, None, |_| false);
    let r = trial.reading();
    assert!((3_000..5_000).contains(&r.requests.new) && r.requests.total() > 19_700, "{r:?}");
    assert!((80..170).contains(&r.failed.new) && (110..210).contains(&r.failed.stable), "{r:?}");
    assert!((150..250).contains(&r.users.new) && (700..900).contains(&r.users.stable), "{r:?}");
    assert!(r.share_z.abs() < 4.0 && r.e_errors < 1.0 && (0.8..1.4).contains(&r.design_errors), "{r:?}");
}

#[test]
fn a_trial_that_was_saved_goes_on_as_if_nothing_had_happened() {
    let table = table();
    let crowd = Crowd { fails: [0.002, 0.002], ..CROWD };
    let (mut trial, _) = crowd.trial(9, MARGINS, 20_000, Some(&table), |_| false);
    let (tick, weight) = (Duration::from_millis(100), Weight::from_parts((crowd.share * 1e6) as u32));
    // Makes all intervals final.
    trial.tick(Duration::from_secs(100), Duration::ZERO);
    let mut encoder = Encoder::new();
    trial.save(&mut encoder);
    let bytes = encoder.finish();
    let restored = |weight, bytes: &[u8]| {
        Trial::restore(MARGINS, weight, tick, Duration::from_secs(7), &mut Decoder::open(bytes)?)
    };
    let again = restored(weight, &bytes).expect("it is whole");
    assert_eq!(again.reading(), trial.reading());
    assert!(again.reading().e_body > 1.5 && again.reading().users.new > 100, "{:?}", again.reading());
    assert!(restored(Weight::FULL, &bytes).is_none(), "of another weight");
    // Later events count the same for both.
    let (mut trial, mut again) = (trial, again);
    for trial in [&mut trial, &mut again] {
        let at = Duration::from_secs(101);
        let unit = Some(UserUnit::from_index(3));
        let request =
            RequestStart { id: 1, at, arm: Arm::New, unit, drawn: true, stratum: None, server: None };
        for what in [EventKind::Arrived, EventKind::Failed] {
            let reference = Reference { table: None, factor: 1.0, floor: Duration::ZERO, is_warming: false };
            trial.push(&RequestEvent { request, what, after: Duration::ZERO }, &reference);
        }
        trial.tick(Duration::from_secs(110), Duration::ZERO);
    }
    assert_eq!(again.reading(), trial.reading());
}

/// A report that takes longer than the deadline is slow. A time-out after it is a failure.
#[test]
fn a_late_answer_is_no_failure_of_a_wave_and_a_late_failure_is_one() {
    let (tick, weight) = (Duration::from_millis(100), Weight::from_parts(500_000));
    let failed = |late: EventKind| {
        let mut trial = Trial::new(MARGINS, weight, tick, Duration::ZERO);
        for id in 0..400u32 {
            let unit = UserUnit::from_index(id * 40_000);
            let arm = if unit.bucket() < weight.parts() { Arm::New } else { Arm::Stable };
            let at = Duration::from_millis(u64::from(id));
            let (id, unit) = (u64::from(id), Some(unit));
            let request = RequestStart { id, at, arm, unit, drawn: true, stratum: None, server: None };
            let is_late = id.is_multiple_of(10);
            let mut push = |what, after| {
                let floor = Duration::ZERO;
                trial.push(
                    &RequestEvent { request, what, after },
                    &Reference { table: None, factor: 1.0, floor, is_warming: false },
                );
            };
            push(EventKind::Arrived, Duration::ZERO);
            match is_late {
                false => push(EventKind::Answered, tick),
                true => {
                    trial.tick(Duration::from_secs(1) + at, Duration::from_millis(500));
                    let after = Duration::from_secs(1);
                    let floor = Duration::ZERO;
                    let reference = Reference { table: None, factor: 1.0, floor, is_warming: false };
                    trial.push(&RequestEvent { request, what: late, after }, &reference);
                }
            }
        }
        trial.tick(Duration::from_secs(10), Duration::from_millis(500));
        trial.reading().failed.total()
    };
    assert_eq!(failed(EventKind::Answered), 0);
    assert!(failed(EventKind::Failed) > 30, "{}", failed(EventKind::Failed));
}

#[test]
fn a_share_that_lost_half_of_new_is_beyond_chance() {
    let crowd = Crowd { users: 20_000, ..CROWD };
    let (trial, _) = crowd.trial(7, MARGINS, 10_000, None, |_| false);
    assert!(trial.reading().share_z.abs() < 4.0, "{:?}", trial.reading());
    let (tick, weight) = (Duration::from_millis(100), Weight::from_parts(400_000));
    let mut lost =
        Trial::new(Margins { errors: 0.01, latency: 0.1, tail: 0.5 }, weight, tick, Duration::ZERO);
    let mut dice = Dice(1);
    for n in 0..10_000u64 {
        let unit = UserUnit::from_index((dice.uniform() * 16e6) as u32);
        let arm = if unit.bucket() < 200_000 { Arm::New } else { Arm::Stable };
        let request = RequestStart {
            id: n,
            at: Duration::from_millis(n),
            arm,
            unit: Some(unit),
            drawn: true,
            stratum: None,
            server: None,
        };
        lost.push(
            &RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO },
            &Reference { table: None, factor: 1.0, floor: Duration::ZERO, is_warming: false },
        );
    }
    assert!(lost.reading().share_z < -SHARE_Z, "{:?}", lost.reading());
}

/// The users who always fail are few and their arms are chance: no number of their requests proves
/// that `new` is no worse.
#[test]
fn few_users_who_repeat_themselves_promote_a_new_at_its_margin_seldom() {
    // 0.5 points more failures in `new`, and 1% of users who always fail, in either arm.
    let crowd = Crowd { users: 2_000, poisoned: 0.01, fails: [0.001, 0.006], ..CROWD };
    let margins = Margins { errors: 0.005, ..MARGINS };
    let runs = 60;
    let passes = |r: &TrialReading| r.e_errors >= 1.0 / BETA;
    let passed =
        (0..runs).filter(|seed| crowd.trial(*seed, margins, 60_000, None, passes).1.is_some()).count();
    assert!(passed as u64 <= runs / 20 + 4, "{passed} of {runs}");
}

/// The same for latency: equal users, and users who are slow or fast by nature.
#[test]
fn a_new_slower_by_its_very_margin_is_promoted_in_one_of_twenty_at_most() {
    let table = table();
    let passes = |r: &TrialReading| r.e_body >= 1.0 / BETA;
    for users_differ in [0.0, 0.6] {
        let crowd = Crowd { slower: 1.1, users_differ, ..CROWD };
        let runs = 60;
        let passed = (0..runs)
            .filter(|seed| crowd.trial(*seed, MARGINS, 20_000, Some(&table), passes).1.is_some())
            .count();
        assert!(passed as u64 <= runs / 20 + 4, "{passed} of {runs}, users differ by {users_differ}");
    }
}

#[test]
fn a_new_as_fast_as_stable_passes_soon_and_with_it_its_tail() {
    let table = table();
    let both = |r: &TrialReading| r.e_body >= 1.0 / BETA && r.e_tail >= 1.0 / BETA;
    let body = |r: &TrialReading| r.e_body >= 1.0 / BETA;
    for seed in 0..10 {
        let (_, soon) = CROWD.trial(seed, MARGINS, 20_000, Some(&table), body);
        assert!(soon.is_some(), "body");
        let (trial, later) = CROWD.trial(seed, MARGINS, 80_000, Some(&table), both);
        assert!(later.is_some(), "body and tail: {:?}", trial.reading());
    }
}
