//! Whom `new` has served and whom it has failed, told afterwards: held against what the origins themselves have seen.

use crate::world::{
    Behaviour, Config, Origin, Proxy, RELEASE, World, bucket, eventually, grayling, never, seconds,
    users_in_new,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn affected(args: &[&str]) -> Value {
    let output = grayling(&[&["affected", "--json", "--since", "1h"], args].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)))
}

fn by_user(told: &Value) -> BTreeMap<String, Value> {
    let users = told["users"].as_array().unwrap_or_else(|| panic!("no users: {told}")).iter();
    users.map(|u| (u["user"].as_str().unwrap().to_owned(), u.clone())).collect()
}

fn ask(proxy: &Proxy, users: &[String]) -> Vec<u16> {
    let mut client = proxy.client();
    users.iter().map(|user| client.get_as(user).unwrap().status).collect()
}

fn with_key(world: &World, config: &Config) -> Config {
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/user.key"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let mut config = config.clone();
    config.rest.push_str("[log]\nuser_key_file = \"user.key\"\n");
    config
}

#[test]
fn who_was_in_new_is_told_from_the_ledger_alone_and_who_was_failed_by_the_hash_of_his_id() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut plain = Config::new(stable.address, new.address)
        .weight("5%")
        .release("segments = [\"testers\"]\nexcluded = [\"vip\"]");
    let all: Vec<String> = (0..400).map(|i| format!("user-{i}")).collect();
    let at = |user: &String| bucket(RELEASE, user.as_bytes());
    let tester = all.iter().find(|u| at(u) > 500_000).unwrap().clone();
    let vip = all.iter().find(|u| at(u) < 50_000).unwrap().clone();
    plain.rest = format!("[segment.testers]\nusers = [\"{tester}\"]\n[segment.vip]\nusers = [\"{vip}\"]\n");
    let config = with_key(&world, &plain);
    let proxy = world.run(&config);
    let api = proxy.api();
    ask(&proxy, &all);
    world.write(&Config { weight: "20%".into(), ..config.clone() });
    eventually(SOON, "20% are in new", || (api.weight() == 0.2).then_some(()));
    new.behave(Behaviour::Status(500, 1.0));
    let failing = users_in_new("user", 20, 3).into_iter().filter(|u| *u != vip).collect::<Vec<_>>();
    assert!(ask(&proxy, &failing).iter().all(|status| *status == 500));
    ask(&proxy, &failing[..1]);
    assert_eq!(api.change("rollback", "cents are wrong").status, 200);
    new.behave(Behaviour::Answer);
    ask(&proxy, &all);

    let list = world.path("users.txt");
    std::fs::write(&list, all.join("\r\n")).unwrap();
    let (list, file) = (list.to_str().unwrap(), world.config_file());
    let url = format!("http://{}", proxy.admin);
    let state = world.path("state");
    eventually(SOON, "the failed users are on the disk", || {
        std::fs::metadata(state.join("failed-billing-1.jsonl")).ok()
    });
    let key = world.path("config/user.key");
    // The list is saved in pieces: wait for the last one.
    let online = eventually(SOON, "both failed requests of the first one are on the disk", || {
        let online = affected(&["--users", list, "--admin", &url, "--key-file", key.to_str().unwrap()]);
        let twice = by_user(&online).get(&failing[0]).is_some_and(|u| u["failed"]["requests"] == 2);
        twice.then_some(online)
    });
    let offline = affected(&["--users", list, "-c", file.to_str().unwrap()]);
    for told in [&online, &offline] {
        let found = by_user(told);
        assert_eq!(told["asked"], 400);
        for user in &all {
            let (bucket, was) = (at(user), found.get(user));
            let wanted = *user == tester || (bucket < 200_000 && *user != vip);
            assert_eq!(was.is_some_and(|w| w["was"] == "in"), wanted, "{user}, bucket {bucket}: {was:?}");
            let failed = was.map_or(&Value::Null, |w| &w["failed"]);
            match failing.iter().position(|f| f == user) {
                Some(0) => assert_eq!(failed["requests"], 2, "{user}"),
                Some(_) => assert_eq!(failed["requests"], 1, "{user}"),
                None => assert!(failed.is_null(), "{user}: {failed}"),
            }
        }
        // From when on, and until when: by the entries of the ledger.
        let entries = api.json("/api/v1/ledger");
        let time = |kind: &str| {
            entries.as_array().unwrap().iter().find(|e| e["kind"] == kind).unwrap()["at"].clone()
        };
        let late = all.iter().find(|u| (50_000..200_000).contains(&at(u))).unwrap();
        let part = &found[late]["in_new"][0];
        assert_eq!([&part["from"], &part["to"]], [&time("weight"), &time("trip")]);
        assert_eq!(found[&tester]["in_new"][0]["from"], time("start"));
    }
    // No id in clear anywhere in the state directory.
    for entry in std::fs::read_dir(&state).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains(&failing[0]), "an id in clear");
    }
    let text = grayling(&["affected", "--since", "1h", "--users", list, "-c", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(
        text.contains("were in new") && text.contains("failed 2 times") && text.contains("on_unreachable"),
        "{text}"
    );
    let without_key = affected(&["--users", list, "--admin", &url]);
    assert!(without_key["notes"].to_string().contains("give the key"), "{}", without_key["notes"]);
}

#[test]
fn users_in_clear_are_listed_where_the_file_says_so_and_survive_a_kill() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config =
        Config::new(stable.address, new.address).state("directory = \"../state\"\nfailed_users = \"clear\"");
    let mut proxy = world.run(&config);
    new.behave(Behaviour::Status(500, 1.0));
    let mut users = users_in_new("user", 20, 3);
    users.push(users_in_new(&"long".repeat(20), 20, 1).remove(0));
    ask(&proxy, &users);
    let file = world.path("state/failed-billing-1.jsonl");
    let lines = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually(SOON, "they are on the disk", || {
        users.iter().all(|u| lines().contains(u.as_str())).then_some(())
    });
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "others may read it");
    proxy.kill();
    let proxy = world.run(&config);
    ask(&proxy, &users[..1]);
    eventually(SOON, "the list goes on", || lines().contains("\"requests\":2,").then_some(()));
    let told = affected(&["--admin", &format!("http://{}", proxy.admin)]);
    assert_eq!(told["failed_users"].as_array().unwrap().len(), 4, "{told}");
}

#[test]
fn one_user_too_many_is_a_trip_whatever_the_rate_and_one_user_many_times_is_not() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = with_key(
        &world,
        &Config::new(stable.address, new.address).watchdog("harm_users_max = 3\nerrors_max = \"100%\""),
    );
    let mut proxy = world.run(&config);
    let users = users_in_new("user", 20, 8);
    new.behave(Behaviour::Status(500, 1.0));
    for _ in 0..5 {
        ask(&proxy, &users[..3]);
    }
    never(Duration::from_millis(500), "three users are allowed", || proxy.api().trip().is_some());
    eventually(SOON, "they are on the disk", || {
        std::fs::read_to_string(world.path("state/failed-billing-1.jsonl"))
            .ok()
            .filter(|t| t.lines().count() == 4)
    });
    // A restart does not forget them.
    proxy.kill();
    let proxy = world.run(&config);
    ask(&proxy, &users[1..2]);
    never(Duration::from_millis(500), "one of the same three users", || proxy.api().trip().is_some());
    ask(&proxy, &users[3..4]);
    let trip = eventually(SOON, "the fourth is one too many", || proxy.api().trip());
    assert_eq!(trip["cause"], "harm", "{trip}");
    assert_eq!([&trip["evidence"]["users_failed"], &trip["evidence"]["harm_users_max"]], [4, 3]);
    let verified = grayling(&["ledger", "--verify", "--admin", &format!("http://{}", proxy.admin)]);
    let text = String::from_utf8_lossy(&verified.stdout);
    assert!(verified.status.success() && text.contains("1 found again"), "{text}");
    // After a resume three more are allowed.
    assert_eq!(proxy.api().resume("rollback", "mended").status, 200);
    ask(&proxy, &users[4..7]);
    never(seconds(1), "counted anew", || proxy.api().trip().is_some());
    ask(&proxy, &users[7..8]);
    eventually(SOON, "and no more", || proxy.api().trip());
}

#[test]
fn a_user_whom_stable_has_served_after_all_was_not_failed() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = with_key(&world, &Config::new(stable.address, new.address).watchdog("harm_users_max = 1"));
    let proxy = world.run(&config);
    new.refuse();
    let users = users_in_new("user", 20, 10);
    assert!(ask(&proxy, &users).iter().all(|status| *status == 200));
    let trip = eventually(SOON, "the fuse has blown", || proxy.api().trip());
    assert_eq!(trip["cause"], "fuse");
    drop(proxy);
    assert!(!world.path("state/failed-billing-1.jsonl").exists());
}
