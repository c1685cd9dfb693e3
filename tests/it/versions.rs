//! Another version is another attempt: no user meets a build at a weight that another build earned.

use crate::world::{Config, Origin, Proxy, World, eventually, grayling, never, seconds, users_in_new};

/// The arms of these users, each once.
fn arms(proxy: &Proxy, users: &[String]) -> Vec<String> {
    let mut client = proxy.client();
    let mut arms: Vec<String> = users.iter().map(|user| client.get_as(user).unwrap().text()).collect();
    arms.sort();
    arms.dedup();
    arms
}

fn refusal(proxy: &Proxy, failures: f64) -> String {
    let count = || proxy.api().metric("grayling_config_reloads_total", &[("result", "failure")]);
    eventually(seconds(5), "the edit is refused", || (count() == Some(failures)).then_some(()));
    proxy.api().status()["config"]["last_error"].as_str().unwrap_or_default().to_owned()
}

fn kinds(proxy: &Proxy) -> Vec<String> {
    let ledger = proxy.api().ledger();
    ledger.iter().filter_map(|entry| entry["kind"].as_str().map(str::to_owned)).collect()
}

#[test]
fn a_complete_version_that_becomes_stable_sends_nobody_to_the_next_one() {
    let world = World::new();
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(Origin::start);
    let proxy = world.run(&Config::new(v1.address, v2.address).weight("100%"));
    let users: Vec<String> = (0..50).map(|n| format!("user-{n}")).collect();
    assert_eq!(arms(&proxy, &users), ["v2"]);
    assert_eq!(proxy.api().release()["state"], "complete");
    let next = Config::new(v2.address, v3.address).weight("100%");
    let file = world.path("config/next.toml");
    std::fs::write(&file, next.text()).unwrap();
    let admin = format!("http://{}", proxy.admin);
    let told = grayling(&["check", file.to_str().unwrap(), "--against", &admin]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(
        told.contains(
            "another version; nobody moves: the servers of `new` become those of `stable`; it begins at 0%"
        ),
        "{told}"
    );
    world.write(&next);
    eventually(seconds(5), "the edit is in force", || {
        kinds(&proxy).contains(&"version".to_owned()).then_some(())
    });
    // The figures of v2 do not appear under v3's name.
    let release = proxy.api().release();
    let (requests, users_of) = (&release["arms"]["new"]["requests"], &release["arms"]["new"]["users"]);
    assert_eq!((requests.as_u64(), users_of.as_u64()), (Some(0), Some(0)), "{:#}", release["arms"]);
    never(seconds(1), "somebody meets v3", || arms(&proxy, &users) != ["v2"]);
    let release = proxy.api().release();
    assert_eq!((&release["state"], release["weight"].as_f64()), (&"pending".into(), Some(0.0)));
    assert!(release["held"].as_str().unwrap_or_default().contains("another version"), "{release:#}");
    // A restart, a touched file: no person has chosen a weight for it yet.
    drop(proxy);
    let proxy = world.run(&next);
    assert_eq!(arms(&proxy, &users), ["v2"]);
    // A person chooses one.
    world.write(&next.clone().weight("50%"));
    eventually(seconds(5), "the weight is in force", || (proxy.api().weight() == 0.5).then_some(()));
    assert_eq!(arms(&proxy, &users), ["v2", "v3"]);
}

#[test]
fn other_servers_behind_a_version_in_use_need_an_attempt_or_a_declaration() {
    let world = World::new();
    let [v1, v2, v3, moved] = ["v1", "v2", "v3", "v3"].map(Origin::start);
    let config = Config::new(v1.address, v2.address).weight("20%");
    let proxy = world.run(&config);
    let users = users_in_new("user", 20, 20);
    assert_eq!(arms(&proxy, &users), ["v2"]);
    let other = Config::new(v1.address, v3.address).weight("20%");
    world.write(&other);
    let why = refusal(&proxy, 1.0);
    for part in
        ["20% of users are in new", "`attempt = 2`", "`same_version = true`", "grayling rollback billing"]
    {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert_eq!(arms(&proxy, &users), ["v2"]);
    // After a rollback it is refused as well: the trip records its version.
    assert_eq!(proxy.api().change("rollback", "cents are wrong").status, 200);
    world.write(&other.clone().weight("10%"));
    assert!(refusal(&proxy, 2.0).contains("rolled back, frozen or held"));
    world.write(&other.clone().attempt(2));
    eventually(seconds(5), "attempt 2 is in force", || (proxy.api().release()["attempt"] == 2).then_some(()));
    assert_eq!(arms(&proxy, &users), ["v1"]);
    world.write(&other.clone().attempt(2).weight("20.5%"));
    eventually(seconds(5), "its weight is in force", || (proxy.api().weight() == 0.205).then_some(()));
    assert_eq!(arms(&proxy, &users), ["v3"]);
    // The same build on another server: nothing changes.
    let moved =
        Config::new(v1.address, moved.address).weight("20.5%").attempt(2).release("same_version = true");
    world.write(&moved);
    let server = moved.new[0].to_string();
    eventually(seconds(5), "the move is in force", || {
        proxy.api().release().to_string().contains(&server).then_some(())
    });
    assert_eq!((proxy.api().weight(), arms(&proxy, &users)), (0.205, vec!["v3".to_owned()]));
}

#[test]
fn servers_edited_while_nothing_runs_are_held_at_the_start() {
    let world = World::new();
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(Origin::start);
    let users = users_in_new("user", 20, 20);
    let config = Config::new(v1.address, v2.address).weight("20%");
    let proxy = world.run(&config);
    assert_eq!(arms(&proxy, &users), ["v2"]);
    drop(proxy);
    let proxy = world.run(&Config::new(v1.address, v3.address).weight("20%"));
    assert_eq!(arms(&proxy, &users), ["v1"]);
    let held = proxy.api().release()["held"].as_str().unwrap_or_default().to_owned();
    assert!(held.contains("another version") && held.contains("--ends hold"), "{held}");
    // The weight was the other version's: a person writes one for this version.
    let refused = proxy.api().resume("hold", "v3 it is");
    assert!(refused.status == 409 && refused.text().contains("write another weight"), "{}", refused.text());
    world.write(&Config::new(v1.address, v3.address).weight("21%"));
    eventually(seconds(5), "the weight is in force", || (proxy.api().weight() == 0.21).then_some(()));
    assert_eq!(arms(&proxy, &users), ["v3"]);
}

#[test]
fn no_detour_leads_a_version_to_a_weight_that_another_has_earned() {
    let world = World::new();
    let [v1, v2, v3] = ["v1", "v2", "v3"].map(Origin::start);
    let users = users_in_new("user", 20, 20);
    let at_2 = Config::new(v1.address, v2.address).weight("50%").attempt(2);
    let with_v3 = Config::new(v1.address, v3.address).weight("50%");
    let proxy = world.run(&at_2);
    assert_eq!(arms(&proxy, &users), ["v2"]);
    // By a revert of the attempt: held at 0%, which does not make the version unused.
    world.write(&at_2.clone().attempt(1));
    eventually(seconds(5), "the revert is held", || (proxy.api().weight() == 0.0).then_some(()));
    world.write(&with_v3.clone().attempt(2));
    assert!(refusal(&proxy, 1.0).contains("rolled back, frozen or held"));
    world.write(&at_2);
    eventually(seconds(5), "v2 is back", || (proxy.api().weight() == 0.5).then_some(()));
    // By another name, in place of this one.
    let renamed = with_v3.clone().attempt(2).text().replace("billing", "next");
    let file = world.path("config/next.toml");
    std::fs::write(&file, &renamed).unwrap();
    let admin = format!("http://{}", proxy.admin);
    let told = grayling(&["check", file.to_str().unwrap(), "--against", &admin]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("release `next` is new to the file, and held at 0%"), "{told}");
    world.write_text(&renamed);
    eventually(seconds(5), "the other name is in force", || {
        (proxy.api().status()["releases"][0]["name"] == "next").then_some(())
    });
    never(seconds(1), "v3 at the weight of v2", || arms(&proxy, &users) != ["v1"]);
    world.write(&at_2);
    eventually(seconds(5), "the first name is back", || {
        (proxy.api().status()["releases"][0]["name"] == "billing").then_some(())
    });
    // By a release that is removed and added again with other servers.
    let out = at_2.text().replace("release = \"billing\"", "upstream = \"v1\"");
    let (before, rest) = out.split_once("[release.billing]").unwrap();
    let after = &rest[rest.find("[[route]]").unwrap()..];
    world.write_text(&format!("{before}{after}"));
    eventually(seconds(5), "the release is out", || {
        proxy.api().status()["releases"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    world.write(&with_v3.clone().attempt(2));
    eventually(seconds(5), "the release is back", || {
        proxy.api().status()["releases"].as_array().is_some_and(|r| r.len() == 1).then_some(())
    });
    never(seconds(1), "v3 at the weight of v2", || arms(&proxy, &users) != ["v1"]);
}
