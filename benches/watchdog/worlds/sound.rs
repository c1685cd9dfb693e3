//! Table N: `new` is no worse. The rows measure how often it is rolled back.

use super::Row;
use super::world::{Account, Pace, Pauses, Service, Shared, Spell, Trouble, Weather, World};
use grayling::stats::arm::Arm;

const HALF_AN_HOUR: f64 = 1800.0;

pub fn rows() -> Vec<Row> {
    let mut rows = vec![];
    let mut add = |id, what: &str, world: World| {
        // `--full` takes an hour: a row has as many runs as its requests allow.
        let runs = match world.rate * world.lasts {
            3_000_000.0.. => [10, 2],
            500_000.0.. => [40, 8],
            _ => [100, 20],
        };
        // Nothing climbs by hundreds of hours, or with a weight that also goes down. Where stable
        // balances its pauses away, the only server of `new` is slower, and its waves hold.
        let climbs = if ["N7", "N11.6", "N11.8"].contains(&id) || world.balanced || world.users > 1_000_000 {
            [0; 2]
        } else {
            [8, 2]
        };
        rows.push(Row { id, what: what.to_owned(), world, limit: None, runs, climbs });
    };
    pauses(&mut add);
    refusals(&mut add);
    cold_starts(&mut add);
    accounts(&mut add);
    shared(&mut add);
    slow_services(&mut add);
    background(&mut add);
    stays(&mut add);
    rows
}

type Add<'a> = dyn FnMut(&'static str, &str, World) + 'a;

fn pauses(add: &mut Add<'_>) {
    let stalls =
        |every, lasts| Pauses { every, poisson: false, lasts, trouble: Trouble::Stalls, alone: false };
    for (id, rate, of, servers) in [
        ("N1.1", 200.0, stalls(60.0, 1.0), [1, 10]),
        ("N1.2", 200.0, stalls(60.0, 1.0), [1, 1]),
        ("N1.3", 200.0, stalls(60.0, 1.0), [3, 30]),
        ("N1.4", 200.0, stalls(30.0, 0.5), [1, 10]),
        ("N1.5", 1000.0, stalls(30.0, 0.3), [1, 10]),
        ("N1.6", 1000.0, stalls(60.0, 0.5), [1, 10]),
        ("N1.7", 1000.0, stalls(120.0, 1.0), [1, 10]),
    ] {
        let Pauses { every, lasts, .. } = of;
        let what =
            format!("pauses of {lasts} s each {every} s, {rate}/s, servers {}:{}", servers[0], servers[1]);
        add(id, &what, World { rate, servers, pauses: Some(of), lasts: HALF_AN_HOUR, ..World::base() });
    }
    let pauses = Some(stalls(30.0, 0.2));
    let (rate, users, servers) = (2000.0, 2_000_000, [1, 20]);
    let world = World { rate, users, servers, pauses, lasts: HALF_AN_HOUR, ..World::base() };
    add("N1.14", "pauses of 0.2 s each 30 s, 2,000/s, 2 million users, servers 1:20", world);
    let poisson = Pauses { poisson: true, ..stalls(300.0, 1.0) };
    let world = World { servers: [1, 10], pauses: Some(poisson), lasts: HALF_AN_HOUR, ..World::base() };
    add("N1.8", "pauses of 1 s, Poisson, each ~300 s, servers 1:10", world);
    for (id, every, rate, percent) in [
        ("N1.10", 60.0, 200.0, 5.0),
        ("N1.11", 60.0, 250.0, 9.0),
        ("N1.12", 60.0, 250.0, 50.0),
        ("N1.13", 60.0, 1000.0, 20.0),
    ] {
        let (pauses, waves) = (Some(stalls(every, 1.0)), vec![(0.0, percent)]);
        let world = World {
            rate,
            waves,
            servers: [1, 10],
            pauses,
            balanced: true,
            lasts: HALF_AN_HOUR,
            ..World::base()
        };
        let what =
            format!("pauses of 1 s each {every} s, {rate}/s, {percent}%, servers 1:10, to the least loaded");
        add(id, &what, world);
    }
    let neighbour = Pauses { trouble: Trouble::Slower(3.0), lasts: 10.0, every: 600.0, ..poisson };
    let world = World { servers: [2, 20], pauses: Some(neighbour), lasts: HALF_AN_HOUR, ..World::base() };
    add("N1.9", "×3 for 10 s by a neighbour each ~10 min, servers 2:20", world);
}

fn refusals(add: &mut Add<'_>) {
    let trouble = Trouble::Refuses;
    let refuses = Pauses { every: 600.0, poisson: true, lasts: 2.0, trouble, alone: true };
    let world = World { servers: [2, 20], pauses: Some(refuses), lasts: HALF_AN_HOUR, ..World::base() };
    add("N2.1", "a server refuses for 2 s each ~10 min, servers 2:20", world);
    let resets = Pauses { trouble: Trouble::Resets, ..refuses };
    let world = World { servers: [2, 20], pauses: Some(resets), lasts: HALF_AN_HOUR, ..World::base() };
    add("N2.4", "a server resets for 2 s each ~10 min, servers 2:20", world);
    let restart = |arm, server, at| Spell { arm, server, at, lasts: 20.0, trouble: Trouble::Refuses };
    let rolling = |arm| (0..2).map(|i| restart(arm, i, 120.0 + 30.0 * i as f64)).collect();
    for (id, arm) in [("N2.2", Arm::New), ("N2.3", Arm::Stable)] {
        let world = World { servers: [2, 2], spells: rolling(arm), ..World::base() };
        add(id, &format!("a rolling restart of {}, 2 servers, 20 s each", arm.label()), world);
    }
    for (id, arm) in [("N2.5", Arm::New), ("N2.6", Arm::Stable)] {
        let spells =
            (0..2).map(|i| Spell { trouble: Trouble::Resets, ..restart(arm, i, 120.0 + 30.0 * i as f64) });
        let world = World { servers: [2, 2], spells: spells.collect(), ..World::base() };
        add(id, &format!("the same of {}, connections are reset", arm.label()), world);
    }
}

fn cold_starts(add: &mut Add<'_>) {
    let cold = |lasts, trouble| vec![Spell { arm: Arm::New, server: 0, at: 0.0, lasts, trouble }];
    let spells = cold(25.0, Trouble::SlowerAtFirst(5.0));
    add("N3.1", "cold: ×5 falling to ×1 over 25 s, 1,000/s", World { rate: 1000.0, spells, ..World::base() });
    let spells = cold(10.0, Trouble::Slower(3.0));
    add("N3.2", "cold: ×3 for 10 s, 20%", World { waves: vec![(0.0, 20.0)], spells, ..World::base() });
    let at = 180.0;
    let spells = vec![Spell { arm: Arm::New, server: 0, at, lasts: 20.0, trouble: Trouble::Slower(2.0) }];
    add(
        "N3.3",
        "5 to 50%, ×2 for 20 s",
        World { waves: vec![(0.0, 5.0), (at, 50.0)], spells, ..World::base() },
    );
    let spells = cold(60.0, Trouble::SlowerAtFirst(5.0));
    let world = World { rate: 1000.0, warm_up: 90.0, spells, ..World::base() };
    add("N3.6", "cold: ×5 falling to ×1 over 60 s, 1,000/s, `warm_up` 90 s", world);
    let spells = vec![Spell { at: 180.0, ..cold(20.0, Trouble::Started(3.0))[0] }];
    let world = World { servers: [2, 2], spells, ..World::base() };
    add("N3.7", "one of two servers of new restarts, ×3 for 20 s", world);
    let service = Service { medians: vec![10.0], ..World::base().service };
    let spells = cold(15.0, Trouble::Slower(30.0));
    add("N3.8", "cold: 300 ms for 15 s where 10 ms is usual", World { service, spells, ..World::base() });
    for (id, n, takes) in [("N3.4", 8, 1500.0), ("N3.5", 20, 3000.0)] {
        let world = World { first: Some((n, takes)), ..World::base() };
        add(id, &format!("the first {n} requests take {} s", takes / 1e3), world);
    }
}

fn accounts(add: &mut Add<'_>) {
    let of_new = |rate, takes| vec![Account { arm: Arm::New, pace: Pace::PerSecond(rate), takes }];
    let world = World { accounts: of_new(0.5, Some(2500.0)), ..World::base() };
    add("N4.1", "one user of new asks for a 2.5 s report every 2 s", world);
    add(
        "N4.2",
        "one bot with half of new's traffic fails always",
        World { accounts: of_new(10.0, None), ..World::base() },
    );
}

fn shared(add: &mut Add<'_>) {
    let outage =
        |share, after, lasts, lead| Shared { at: 120.0, lasts, lead, what: Weather::Fails(share, after) };
    for (id, share, [a, b]) in [
        ("N5.1", 0.3, [1.0, 3.0]),
        ("N5.2", 0.3, [3.0, 1.0]),
        ("N5.3", 0.9, [1.0, 3.0]),
        ("N5.4", 0.9, [3.0, 1.0]),
        ("N5.5", 0.3, [0.05, 1.5]),
        ("N5.6", 0.3, [1.5, 0.05]),
        ("N5.7", 0.9, [0.05, 1.5]),
        ("N5.8", 0.9, [1.5, 0.05]),
    ] {
        let what =
            format!("shared outage of {share} for 60 s, failing after {a} s in new and {b} s in stable");
        let of = outage(share, [1e3 * a, 1e3 * b], 60.0, 0.0);
        add(id, &what, World { shared: vec![of], lasts: 400.0, ..World::base() });
    }
    for (id, lead) in [("N9.1", 0.2), ("N9.2", 0.5), ("N9.3", 1.0)] {
        let of = outage(0.5, [20.0, 20.0], 30.0, lead);
        let world = World { shared: vec![of], lasts: 400.0, ..World::base() };
        add(id, &format!("shared outage of 0.5 for 30 s, {lead} s earlier in new"), world);
    }
    for (id, lead) in [("N9.4", 0.2), ("N9.5", 0.5), ("N9.6", 1.0)] {
        let of = Shared { at: 120.0, lasts: 60.0, lead, what: Weather::Slower(4.0) };
        let world = World { shared: vec![of], lasts: 400.0, ..World::base() };
        add(id, &format!("brown-out ×4 for 60 s, {lead} s earlier in new"), world);
    }
    let spike = Shared { at: 120.0, lasts: 4.0, lead: 0.0, what: Weather::Load(4.0) };
    let world = World { shared: vec![spike], capacity: Some(1.5), lasts: 400.0, ..World::base() };
    add("N10", "a spike of 4 s beyond what both can take, capacity in proportion", world);
}

fn slow_services(add: &mut Add<'_>) {
    let tail = Service { tail: (0.065, 2500.0), ..World::base().service };
    for (id, percent) in [("N6.1", 50.0), ("N6.2", 90.0), ("N6.3", 99.0), ("N6.4", 100.0)] {
        let (service, waves) = (tail.clone(), vec![(0.0, percent)]);
        let world = World { service, waves, latency_p99_max: 10_000.0, ..World::base() };
        add(id, &format!("6.5% of answers take 2.5 s, `latency_p99_max` 10 s, {percent}%"), world);
    }
    let slow = Service { medians: vec![2500.0], ..World::base().service };
    let world = World {
        rate: 3.0,
        service: slow,
        waves: vec![(0.0, 90.0)],
        latency_p99_max: 10_000.0,
        ..World::base()
    };
    add("N6.5", "3/s, median 2.5 s, 90%", world);
    let rare = Service { medians: vec![1700.0], sigma: 0.05, sigma_users: 0.0, ..World::base().service };
    let (rate, waves) = (0.25, vec![(0.0, 50.0)]);
    let world = World { rate, waves, service: rare, lasts: 4.0 * 3600.0, ..World::base() };
    add(
        "N7",
        "15 requests a minute, 50%, answers 1.7 s, new 10% slower",
        World { fault: super::world::Fault::Stretch(1.1), ..world },
    );
    let medians: Vec<f64> = (0..20).map(|i| 5.0 * (600.0f64).powf(f64::from(i) / 19.0)).collect();
    let service = Service { medians, sigma: 0.05, sigma_users: 0.0, ..World::base().service };
    add("N8.1", "20 routes from 5 ms to 3 s", World { service, ..World::base() });
    let service = Service { tail: (0.012, 3000.0), ..World::base().service };
    add("N8.2", "1.2% of both take 3 s", World { service, ..World::base() });
}

/// Worlds that were harmless before servers were clusters.
fn stays(add: &mut Add<'_>) {
    let half_an_hour = World { lasts: HALF_AN_HOUR, ..World::base() };
    let world = World { wanders: 0.3, ..half_an_hour.clone() };
    add("N11.1", "load and latency wander, σ 0.3, half forgotten in a minute", world);
    add("N11.2", "users send 6 requests at once", World { parallel: 6, ..half_an_hour.clone() });
    add("N11.3", "every request has another id", World { rotating: true, ..half_an_hour.clone() });
    add("N11.4", "1% of the users fail always", World { poisoned: 0.01, ..half_an_hour.clone() });
    let bots = (0..4).map(|_| Account { arm: Arm::New, pace: Pace::PerSecond(2.0), takes: Some(300.0) });
    let world = World { accounts: bots.collect(), ..half_an_hour.clone() };
    add("N11.5", "four bots of new at 300 ms", world);
    let (rate, waves) = (1.0 / 60.0, vec![(0.0, 50.0)]);
    add(
        "N11.6",
        "1 request a minute for a day, 50%",
        World { rate, waves, lasts: 86_400.0, ..World::base() },
    );
    let service = Service { medians: vec![5.0, 20.0, 30.0, 60.0, 200.0, 900.0], ..World::base().service };
    let world = World { rate: 20.0, service, lasts: 86_400.0, ..World::base() };
    add("N11.7", "20/s, 6 routes, a day", world);
    let waves = (0..60).map(|i| (30.0 * f64::from(i), if i % 2 == 0 { 5.0 } else { 7.0 })).collect();
    add("N11.8", "60 changes of the weight, each 30 s", World { waves, ..half_an_hour });
}

fn background(add: &mut Add<'_>) {
    let retries = vec![Account { arm: Arm::Stable, pace: Pace::PerSecond(6.0), takes: None }];
    for (id, percent, accounts) in [
        ("N12.1", 0.1, vec![]),
        ("N12.2", 0.5, vec![]),
        ("N12.3", 1.0, vec![]),
        ("N12.4", 2.0, vec![]),
        ("N12.5", 3.0, vec![]),
        ("N12.6", 0.1, retries.clone()),
        ("N12.7", 3.0, retries),
    ] {
        let beside = if accounts.is_empty() { "" } else { ", and an account of stable that retries" };
        let service = Service { fails: percent / 100.0, ..World::base().service };
        let what = format!("{percent}% of both fail{beside}");
        add(id, &what, World { service, accounts, lasts: HALF_AN_HOUR, ..World::base() });
    }
}
