//! The two tiers of metrics: the deciding ones are always served; the rest can be switched off at
//! run time, and is not counted then.

use crate::world::{Client, Config, Origin, World, eventually, seconds};
use std::collections::BTreeSet;
use std::path::Path;

const DURATION: &str = "grayling_request_duration_seconds";

/// The names in the README's table under a heading.
fn documented(heading: &str) -> BTreeSet<String> {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, after) = readme.split_once(heading).unwrap_or_else(|| panic!("README.md has no {heading:?}"));
    let rows = after.lines().skip_while(|l| !l.starts_with("| `")).take_while(|l| l.starts_with('|'));
    let names = rows.map(|row| row.split('`').nth(1).unwrap().to_owned());
    names.filter(|name| name.starts_with("grayling_")).collect()
}

/// The served names; the parts of a histogram count as the histogram.
fn served(client: &mut Client) -> BTreeSet<String> {
    let page = client.get("/metrics", &[]).unwrap().text();
    let lines = page.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let name = line.split(['{', ' ']).next().unwrap();
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
            base.filter(|_| name.contains("seconds")).unwrap_or(name).to_owned()
        })
        .collect()
}

#[test]
fn what_decides_is_always_served_and_the_rest_can_be_switched_off_while_it_runs() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address);
    config.listen = "workers = 1".into();
    let proxy = world.run(&config);
    let (mut users, mut admin) = (proxy.client(), Client::new(proxy.admin));
    let mut ask = |times: u64| (0..times).for_each(|n| drop(users.get_as(&format!("user-{n}")).unwrap()));
    let api = proxy.api();
    let count = |name: &str| {
        eventually(seconds(10), name, || api.metric(name, &[("release", "billing")]).map(|n| n as u64))
    };

    ask(100);
    let decides = documented("### What decides");
    let rest = documented("### The rest");
    assert!(decides.len() > 15 && rest.len() > 8 && decides.is_disjoint(&rest), "{decides:?} {rest:?}");
    let all = served(&mut admin);
    // Metrics of alert receivers and the like are served only if configured.
    let absent_here = |name: &&String| name.starts_with("grayling_alerts_");
    let missing: Vec<_> = rest.iter().filter(|n| !all.contains(*n) && !absent_here(n)).collect();
    assert!(missing.is_empty(), "documented, not served: {missing:?}");
    eventually(seconds(10), "the hundred are counted", || {
        (count(&format!("{DURATION}_count")) == 100).then_some(())
    });

    config.rest = "[metrics]\ndetail = \"deciding\"\n".into();
    world.write(&config);
    let few = eventually(seconds(10), "the rest is not served", || {
        Some(served(&mut admin)).filter(|names| !names.contains(DURATION))
    });
    let beyond: Vec<_> = few.difference(&decides).collect();
    assert!(beyond.is_empty(), "served, although it does not decide: {beyond:?}");
    let lost: Vec<_> = all.intersection(&decides).filter(|n| !few.contains(*n)).collect();
    assert!(lost.is_empty(), "decides, and is not served: {lost:?}");
    ask(50);
    eventually(seconds(10), "what decides counts on", || {
        (count("grayling_requests_total") == 150 && count("grayling_upstream_response_seconds_count") == 150)
            .then_some(())
    });

    // Switched on again: the time off was not counted, and no earlier count is lost.
    config.rest.clear();
    world.write(&config);
    eventually(seconds(10), "all is served again", || {
        served(&mut admin).contains("process_cpu_seconds_total").then_some(())
    });
    assert_eq!(count(&format!("{DURATION}_count")), 100);
    ask(1);
    eventually(seconds(10), "it counts again", || (count(&format!("{DURATION}_count")) == 101).then_some(()));
}
