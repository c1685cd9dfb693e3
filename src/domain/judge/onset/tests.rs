//! The counts behind a decision: their begin and their groups.

use super::*;
use crate::stats::engine::RequestStart;
use proptest::prelude::*;

const ERRORS: BadReason = BadReason::Signal(Signal::Errors);
const LATENCY: BadReason = BadReason::Signal(Signal::Latency);

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[derive(Default)]
struct Stream {
    onsets: Onsets,
    id: u64,
}

impl Stream {
    fn request(&mut self, at_ms: u64, arm: Arm, route: Option<u8>, server: Option<u8>) -> RequestStart {
        self.id += 1;
        RequestStart { id: self.id, at: ms(at_ms), arm, unit: None, drawn: true, stratum: route, server }
    }

    fn record_event(&mut self, request: RequestStart, what: EventKind, after_ms: u64) {
        self.onsets.push(&RequestEvent { request, what, after: ms(after_ms) }, |_| false);
    }

    /// A whole exchange of one request.
    fn one(&mut self, at_ms: u64, arm: Arm, server: u8, what: EventKind) {
        let request = self.request(at_ms, arm, Some(0), Some(server));
        self.record_event(request, EventKind::Arrived, 0);
        self.record_event(request, what, 10);
    }

    /// A request of stable each 10 ms, one of new each 50 ms on servers 1 and 2, all good.
    fn calm(&mut self, from_ms: u64, to_ms: u64) {
        for at in (from_ms..to_ms).step_by(10) {
            self.one(at, Arm::Stable, 0, EventKind::Answered);
            if at % 50 == 0 {
                self.one(at, Arm::New, 1 + (at / 50 % 2) as u8, EventKind::Answered);
            }
        }
    }
}

#[test]
fn it_begins_with_the_first_request_that_counted() {
    let mut s = Stream::default();
    s.calm(0, 100_000);
    // One failure of long ago is not part of it.
    s.one(50_020, Arm::New, 1, EventKind::Failed);
    for at in (100_370..104_370).step_by(100) {
        s.one(at, Arm::New, 1 + (at / 100 % 2) as u8, EventKind::Failed);
        (0..10).for_each(|i| s.one(at + i, Arm::Stable, 0, EventKind::Answered));
    }
    s.one(102_000, Arm::Stable, 0, EventKind::Failed);
    let of = s.onsets.decided(ERRORS, None, None, ms(104_400)).unwrap();
    assert_eq!((of.onset, of.lasted), (ms(100_370), ms(4_030)));
    assert_eq!((of.new.bad, of.new.requests, of.stable.bad, of.stable.requests), (40, 40, 1, 401));
    assert_eq!((of.server, of.route, of.stable_usual), (None, None, 0.0));
    assert_eq!(of.counts(), "40 of 40 of new failed, 1 of 401 of stable");
}

#[test]
fn ordinary_failures_before_are_not_its_beginning() {
    let mut s = Stream::default();
    s.calm(0, 300_000);
    // 2% of both fail all the time.
    for at in (0..300_000).step_by(2_500) {
        s.one(at, Arm::New, 1, EventKind::Failed);
        (0..5).for_each(|i| s.one(at + i, Arm::Stable, 0, EventKind::Failed));
    }
    s.calm(300_000, 320_000);
    for at in (300_000..320_000).step_by(200) {
        s.one(at + 3, Arm::New, 1 + (at / 200 % 2) as u8, EventKind::Failed);
    }
    let of = s.onsets.decided(ERRORS, None, None, ms(320_000)).unwrap();
    assert!((ms(297_000)..=ms(301_000)).contains(&of.onset), "{of:?}");
    assert!((0.015..0.025).contains(&of.stable_usual), "{of:?}");
}

/// 4% of both, and a ceiling of 2%: the onset is the beginning, though stable shows the same.
#[test]
fn a_ceiling_is_held_against_itself() {
    let mut s = Stream::default();
    for at in (0..60_000).step_by(20) {
        let what = if at % 500 == 0 { EventKind::Failed } else { EventKind::Answered };
        s.one(at, Arm::New, 1, what);
        s.one(at, Arm::Stable, 0, what);
    }
    let of = s.onsets.decided(ERRORS, None, Some(0.01), ms(60_000)).unwrap();
    assert_eq!((of.onset, of.new.bad, of.new.requests), (ms(0), 120, 3_000));
}

#[test]
fn the_trouble_of_one_server_names_it_and_so_does_the_only_one() {
    let mut s = Stream::default();
    s.calm(0, 60_000);
    for at in (60_000..70_000).step_by(100) {
        s.one(at, Arm::New, 2, EventKind::Failed);
        s.one(at, Arm::New, 1, EventKind::Answered);
        s.one(at, Arm::Stable, 0, EventKind::Answered);
    }
    let of = s.onsets.decided(ERRORS, None, None, ms(70_000)).unwrap();
    assert_eq!((of.server, of.new.bad, of.new.requests), (Some(2), 100, 200));

    let mut s = Stream::default();
    (0..100).for_each(|at| s.one(at, Arm::New, 7, EventKind::Failed));
    assert_eq!(s.onsets.decided(ERRORS, None, None, ms(100)).unwrap().server, Some(7));
}

/// One of two servers pauses: the other has the slow answers that stable has, too.
#[test]
fn usual_slow_answers_of_the_others_do_not_hide_the_one_server() {
    let named = |paused: &[u8]| {
        let mut s = Stream::default();
        for at in (0..60_000).step_by(10) {
            // 2% of all are slow.
            let what = |slow| if slow { EventKind::Failed } else { EventKind::Answered };
            s.one(at, Arm::Stable, 0, what(at / 10 % 50 == 0));
            let server = 1 + (at / 10 % 2) as u8;
            let pause = at % 10_000 < 400 && paused.contains(&server);
            s.one(at, Arm::New, server, what(at / 20 % 50 == 0 || pause));
        }
        s.onsets.decided(ERRORS, None, None, ms(60_000)).unwrap().server
    };
    assert_eq!(named(&[2]), Some(2));
    assert_eq!(named(&[1, 2]), None);
    assert_eq!(named(&[]), None);
}

#[test]
fn a_server_keeps_its_failures_when_another_is_removed() {
    let mut s = Stream::default();
    for at in (0..10_000).step_by(100) {
        s.one(at, Arm::New, 2, EventKind::Failed);
        s.one(at, Arm::New, 1, EventKind::Answered);
        s.one(at, Arm::Stable, 0, EventKind::Answered);
    }
    // Number 0 is gone.
    s.onsets.renumber(&[Some(1), Some(2)]);
    let of = s.onsets.decided(ERRORS, None, None, ms(10_000)).unwrap();
    assert_eq!((of.server, of.new.bad, of.new.requests), (Some(1), 100, 200));
}

#[test]
fn a_route_that_nearly_all_of_it_is_on_is_named_with_its_own_counts() {
    let mut s = Stream::default();
    for at in (0..60_000).step_by(10) {
        for (route, arm) in [(0, Arm::Stable), (0, Arm::New), (3, Arm::New), (3, Arm::Stable)] {
            if route == 3 && at % 100 != 0 {
                continue;
            }
            let request = s.request(at, arm, Some(route), Some(1));
            s.record_event(request, EventKind::Arrived, 0);
            let fails = route == 3 && arm == Arm::New && at >= 55_000;
            s.record_event(request, if fails { EventKind::Failed } else { EventKind::Answered }, 1);
        }
    }
    let of = s.onsets.decided(ERRORS, None, None, ms(60_000)).unwrap();
    assert_eq!((of.route, of.onset), (Some(3), ms(55_000)));
    assert_eq!((of.new.bad, of.new.requests, of.stable.requests), (50, 50, 50));
}

#[test]
fn requests_that_hang_are_told_as_waiting() {
    let mut s = Stream::default();
    s.onsets.set_slow_from(SlowFrom { usual: Some(ms(80)), max: None });
    s.calm(0, 30_000);
    for at in (30_000..32_000).step_by(100) {
        let request = s.request(at, Arm::New, Some(0), None);
        s.record_event(request, EventKind::Arrived, 0);
        s.one(at, Arm::Stable, 0, EventKind::Answered);
    }
    let of = s.onsets.decided(LATENCY, None, None, ms(32_000)).unwrap();
    assert_eq!((of.new.waiting, of.new.requests, of.onset), (20, 20, ms(30_000)));
    assert_eq!(
        of.counts(),
        "0 of 20 of new took longer than 80 ms, 0 of 20 of stable; 20 of new have no answer yet, 0 of stable"
    );
}

#[test]
fn stable_shows_the_same_where_half_of_it_or_far_more_than_its_usual_is_seen() {
    let mut s = Stream::default();
    s.calm(0, 60_000);
    (60_000..61_000).step_by(50).for_each(|at| s.one(at, Arm::New, 1, EventKind::Failed));
    (60_000..61_000).step_by(10).for_each(|at| s.one(at, Arm::Stable, 0, EventKind::Answered));
    let of = s.onsets.decided(ERRORS, None, None, ms(61_000)).unwrap();
    let shows = |s: &Stream, now| of.is_shown_by(&s.onsets.of_stable(&of, ms(now)).0);
    assert!(!shows(&s, 61_000));
    // 10% of stable: far above its usual share, which is 0.
    for at in (61_000..63_000).step_by(10) {
        let fails = at % 100 == 40;
        s.one(at, Arm::Stable, 0, if fails { EventKind::Failed } else { EventKind::Answered });
    }
    assert!(shows(&s, 63_000));
    assert_eq!(s.onsets.of_stable(&of, ms(63_000)).1, Some(ms(61_040)));
    // Failures before the onset do not count.
    let mut s = Stream::default();
    (0..59_000).step_by(10).for_each(|at| s.one(at, Arm::Stable, 0, EventKind::Failed));
    (60_000..61_000).step_by(10).for_each(|at| s.one(at, Arm::Stable, 0, EventKind::Answered));
    (60_000..61_000).step_by(50).for_each(|at| s.one(at, Arm::New, 1, EventKind::Failed));
    let of = s.onsets.decided(ERRORS, None, None, ms(61_000)).unwrap();
    assert!(of.onset >= ms(60_000), "{of:?}");
    assert!(!of.is_shown_by(&s.onsets.of_stable(&of, ms(61_000)).0));
}

#[test]
fn nothing_bad_is_decided_by_nothing() {
    let mut s = Stream::default();
    assert_eq!(s.onsets.decided(ERRORS, None, None, ms(5)), None);
    s.calm(0, 20_000);
    assert_eq!(s.onsets.decided(BadReason::OverMax, None, None, ms(20_000)), None);
}

#[test]
fn a_second_knows_a_bounded_number_of_groups_and_counts_all() {
    let mut s = Stream::default();
    for i in 0..2_000u64 {
        let request = s.request(i % 1_000, Arm::New, Some((i % 16) as u8), Some((i / 16 % 250) as u8));
        s.record_event(request, EventKind::Arrived, 0);
        s.record_event(request, EventKind::Failed, 1);
    }
    assert!(s.onsets.cells[0].keys.len() <= GROUPS_MAX);
    let of = s.onsets.decided(ERRORS, None, None, ms(1_000)).unwrap();
    assert_eq!((of.new.bad, of.new.requests, of.new.waiting), (2_000, 2_000, 0));
}

proptest! {
    #[test]
    fn no_order_of_events_breaks_it(events in prop::collection::vec((0u64..2_000_000, any::<bool>(), 0usize..8, 0u8..3, 0u8..3), 0..400), now in 0u64..3_000_000) {
        let mut s = Stream::default();
        s.onsets.set_slow_from(SlowFrom { usual: Some(ms(5)), max: Some(ms(8)) });
        for (at, new, what, route, server) in events {
            let whats = [EventKind::Arrived, EventKind::Answered, EventKind::ClientError, EventKind::Redirected, EventKind::Failed,
                EventKind::Broke, EventKind::Left { unusual: true }, EventKind::Ended { size: 0, client_slow: false }];
            let arm = if new { Arm::New } else { Arm::Stable };
            let request = s.request(at, arm, route.checked_sub(1), server.checked_sub(1));
            s.record_event(request, whats[what], 9);
        }
        prop_assert!(s.onsets.cells.len() <= CELLS);
        for by in Signal::ALL.map(BadReason::Signal).into_iter().chain([BadReason::OverMax]) {
            if let Some(of) = s.onsets.decided(by, None, None, ms(now)) {
                prop_assert!(of.new.bad + of.new.waiting > 0);
                s.onsets.of_stable(&of, ms(now));
            }
        }
    }
}
