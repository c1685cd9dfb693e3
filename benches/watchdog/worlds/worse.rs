//! Table M: `new` is worse from the end of its warm-up on. The rows measure the time until it is
//! out.

use super::Row;
use super::world::{Account, Fault, Pace, Pauses, Service, Trouble, World};
use grayling::stats::arm::Arm;

/// Runs last for four times the limit of p95.
const PATIENCE: f64 = 4.0;

pub fn rows() -> Vec<Row> {
    let mut rows = vec![];
    let mut add = |id, what: &str, limit: [f64; 2], world: World| {
        let lasts = super::world::WARM_UP + PATIENCE * limit[1];
        let reduced = if limit[1] > 900.0 { 12 } else { 20 };
        let (what, world) = (what.to_owned(), World { lasts, ..world });
        rows.push(Row { id, what, world, limit: Some(limit), runs: [100, reduced], climbs: [0; 2] });
    };
    let fails = |share| Service { fails: share, ..World::base().service };
    let account = |pace, takes| vec![Account { arm: Arm::Stable, pace, takes }];

    let retries = World { accounts: account(Pace::PerSecond(6.0), None), ..World::base() };
    for (id, points, limit) in
        [("M1.1", 1.0, [350.0, 700.0]), ("M1.2", 3.0, [60.0, 120.0]), ("M1.3", 4.5, [40.0, 80.0])]
    {
        let what =
            format!("one account of stable makes 3% of all requests and fails always; +{points} points");
        add(id, &what, limit, World { fault: Fault::Points(points / 100.0), ..retries.clone() });
    }

    let bursts = account(Pace::Bursts { of: 5.0, within: 5.0, each: 50.0 }, None);
    let bursts = World { rate: 20.0, accounts: bursts, ..World::base() };
    for (id, points, limit) in
        [("M2.1", 3.0, [500.0, 1000.0]), ("M2.2", 10.0, [110.0, 200.0]), ("M2.3", 20.0, [70.0, 120.0])]
    {
        let what = format!("20/s, an account of stable fails 5 times in 5 s each 50 s; +{points} points");
        add(id, &what, limit, World { fault: Fault::Points(points / 100.0), ..bursts.clone() });
    }

    let background = World { rate: 20.0, service: fails(0.02), ..World::base() };
    for (id, to, limit) in [("M3.1", 0.07, [1500.0, 3000.0]), ("M3.2", 0.12, [900.0, 1800.0])] {
        let what = format!("20/s, stable fails 2%, new {:.0}%", 100.0 * to);
        add(id, &what, limit, World { fault: Fault::Points(to - 0.02), ..background.clone() });
    }

    let tail = Service { tail: (0.007, 3000.0), ..World::base().service };
    let tail = World { service: tail, ..World::base() };
    for (id, points, limit) in [
        ("M4.1", 0.5, [1100.0, 2200.0]),
        ("M4.2", 1.0, [700.0, 1400.0]),
        ("M4.3", 3.0, [60.0, 120.0]),
        ("M4.4", 50.0, [3.0, 6.0]),
    ] {
        let what = format!("0.7% of both take 3 s, {points} points more of new");
        add(id, &what, limit, World { fault: Fault::Slow(points / 100.0, 3000.0), ..tail.clone() });
    }

    let third = World { service: fails(0.03), fault: Fault::Points(0.018), ..World::base() };
    add("M5", "stable fails 3%, new 4.8%", [900.0, 1800.0], third);

    let busy = World { rate: 60.0, waves: vec![(0.0, 20.0)], ..World::base() };
    for (id, what, fault) in [
        ("M6.1", "302 to all", Fault::Redirects),
        ("M6.2", "empty 200 to all", Fault::Empties),
        ("M6.3", "bodies take 3 s after the head", Fault::SlowBodies(3000.0)),
    ] {
        add(id, &format!("20% of 60/s: {what}"), [10.0, 20.0], World { fault, ..busy.clone() });
    }

    // Learnt in a wave of 20%, before the raise from which all rows count.
    let last = |percent| World { waves: vec![(-280.0, 20.0), (0.0, percent)], ..World::base() };
    for (id, what, percent, limit, fault) in [
        ("M7.1", "+4 points, told as an alarm", 100.0, [120.0, 120.0], Fault::Points(0.04)),
        ("M7.2", "×10 slower, told as an alarm", 100.0, [300.0, 300.0], Fault::Stretch(10.0)),
        ("M7.3", "+4 points, `holdback` 1%", 99.0, [900.0, 1800.0], Fault::Points(0.04)),
        ("M7.4", "×10 slower, `holdback` 1%", 99.0, [900.0, 1800.0], Fault::Stretch(10.0)),
    ] {
        add(id, &format!("at {percent}%: {what}"), limit, World { fault, ..last(percent) });
    }

    let users = World { fault: Fault::Users(0.01), ..World::base() };
    add("M8.1", "1% of the users of new fail always", [99.0, 2383.0], users);
    let service = Service { medians: vec![30.0; 200], ..World::base().service };
    let route = World { service, fault: Fault::Route, ..World::base() };
    add("M8.2", "a route of 0.5% of the traffic fails", [83.0, 166.0], route);

    let one_percent = World { users: 20_000, ..World::base() };
    let gross = [
        ("M9.1", "+50 points", [3.0, 5.0], Fault::Points(0.5)),
        ("M9.2", "hangs", [3.0, 5.0], Fault::Hang),
        ("M9.3", "five times as slow", [10.0, 20.0], Fault::Stretch(5.0)),
    ];
    for (id, what, limit, fault) in gross {
        add(id, &format!("gross, nothing pauses: {what}"), limit, World { fault, ..one_percent.clone() });
    }
    // The limits of the table are medians.
    let fast = Service { medians: vec![5.0], ..World::base().service };
    let waves = vec![(0.0, 20.0)];
    let fast = World { rate: 1000.0, waves, service: fast, servers: [1, 10], ..World::base() };
    let trouble = Trouble::Stalls;
    let pauses = Some(Pauses { every: 60.0, poisson: false, lasts: 1.0, trouble, alone: false });
    for (id, what, seconds, fault) in [
        ("M9.4", "+50 points", 0.8, Fault::Points(0.5)),
        ("M9.5", "hangs", 1.0, Fault::Hang),
        ("M9.6", "five times as slow", 1.0, Fault::Stretch(5.0)),
    ] {
        let what = format!("1,000/s, 20%, 5 ms, servers 1:10: {what}");
        add(id, &what, [seconds, 2.0 * seconds], World { fault, ..fast.clone() });
        let id = ["M10.1", "M10.2", "M10.3"][usize::from(id.as_bytes()[3] - b'4')];
        let limit = [1.0 + seconds, 2.0 * (1.0 + seconds)];
        let paused = World { fault, pauses, ..fast.clone() };
        add(id, &format!("{what}; each server pauses 1 s a minute"), limit, paused);
    }
    rows
}
