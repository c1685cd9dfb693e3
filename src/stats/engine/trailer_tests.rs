//! Trailers that blame the client: the answer counts as a 4xx, once.

use super::tests::Dice;
use super::*;
use crate::stats::cohort::Weight;
use crate::stats::users::{Baseline, UserUnit};

const HALF: u32 = 500_000;
const DEADLINE: Duration = Duration::from_secs(1);

fn engine() -> Engine {
    let settings = EngineSettings {
        alpha: 0.001,
        tick: Duration::from_millis(100),
        latency_tolerance: 0.2,
        latency_notice: 0.03,
        latency_floor: Duration::ZERO,
        strata: 0,
        warm_up: Duration::ZERO,
        shares: SHARES,
    };
    Engine::new(settings, Weight::from_parts(HALF), Baseline::default(), Duration::ZERO)
}

/// 100 requests a second of 3,000 users. Each is answered after 10 ms. A share of those of `new`
/// ends as a client error, `after` the arrival.
/// Returns the engine, its count of client errors, and the requests of `new`.
fn run(share: f64, after: Duration, requests: u64) -> (Engine, u64, u64) {
    let (mut engine, mut dice) = (engine(), Dice::new(7));
    let (mut counted, mut all) = (0, 0);
    let mut due = std::collections::VecDeque::new();
    for id in 0..requests {
        let at = Duration::from_millis(10 * id);
        let unit = UserUnit::from_index((dice.uniform() * 3000.0) as u32 * 5000);
        let arm = if unit.bucket() < HALF { Arm::New } else { Arm::Stable };
        let request =
            RequestStart { id, at, arm, unit: Some(unit), drawn: true, stratum: None, server: None };
        let answered = Duration::from_millis(10);
        engine.push(&RequestEvent { request, what: EventKind::Arrived, after: Duration::ZERO });
        engine.push(&RequestEvent { request, what: EventKind::Answered, after: answered });
        if arm == Arm::New && dice.uniform() < share {
            due.push_back(RequestEvent { request, what: EventKind::EndedAsClientError, after });
        }
        while let Some(event) = due.pop_front_if(|event| event.request.at + event.after <= at) {
            engine.push(&event);
        }
        engine.tick(at, DEADLINE, |of| {
            counted += of.new.client_errors;
            all += of.new.requests;
            assert!(of.new.client_errors <= of.new.answered, "{:?}", of.new);
            assert_eq!((of.new.failed_new(), of.stable.client_errors), (0, 0));
        });
    }
    (engine, counted, all)
}

#[test]
fn client_errors_of_the_trailers_trip_as_client_errors_before_and_after_the_interval_is_final() {
    for after in [Duration::from_millis(20), Duration::from_secs(5)] {
        let (engine, counted, _) = run(0.2, after, 6000);
        let evidence = engine.evidence(Signal::ClientErrors);
        assert!(evidence > 1000.0, "{after:?}: {evidence}");
        assert!(engine.evidence(Signal::Errors) < 1.0 && engine.evidence(Signal::Latency) < 1.0);
        assert!(counted > 400, "{after:?}: {counted}");
    }
}

#[test]
fn one_that_ends_late_counts_once_more_as_one_that_breaks_does() {
    let (_, none, plain) = run(0.0, Duration::ZERO, 2000);
    let (_, counted, all) = run(1.0, Duration::from_secs(5), 2000);
    assert_eq!(none, 0);
    assert_eq!(all, plain + counted);
}
