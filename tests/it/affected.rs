//! `grayling affected`: the users that `new` served and failed, compared with the origins' own
//! records.

use crate::world::{
    Behaviour, Config, Origin, Proxy, RELEASE, World, bucket, eventually, grayling, never, seconds,
    users_in_new,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
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
    // The list is saved in parts: wait for the last one.
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
        // The times come from the entries of the ledger.
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
    // A restart keeps the list.
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

/// The contents of all files of a state directory.
fn all_text(state: &Path) -> String {
    let files = std::fs::read_dir(state).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    files.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

#[test]
fn users_of_segments_stand_in_the_state_under_a_key_and_destroying_it_erases_them() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let mut config =
        Config::new(stable.address, new.address).weight("0%").release("segments = [\"testers\"]");
    config.rest = "[segment.testers]\nusers = [\"33612345678\"]\n\
         [release.other]\nstable = \"v1\"\nnew = \"v2\"\nweight = \"0%\"\nsegments = [\"testers\"]\n\
         [[route]]\nhost = \"other.example\"\nrelease = \"other\"\n"
        .into();
    let tester = "33612345678".to_owned();
    let list = world.path("users.txt");
    std::fs::write(&list, format!("{tester}\n33698765432\n")).unwrap();
    let (list, file, state) = (list.to_str().unwrap(), world.config_file(), world.path("state"));
    let both = |proxy: &Proxy| {
        let url = format!("http://{}", proxy.admin);
        let args = ["billing", "--users", list];
        [
            affected(&[&args[..], &["--admin", &url]].concat()),
            affected(&[&args[..], &["-c", file.to_str().unwrap()]].concat()),
        ]
    };
    let kinds = |proxy: &Proxy| -> Vec<String> {
        proxy.api().ledger().iter().map(|e| e["kind"].as_str().unwrap().to_owned()).collect()
    };

    let mut proxy = world.run(&config);
    assert_eq!(proxy.api().change("rollback", "its claim on the servers of the other is kept").status, 200);
    assert_eq!(proxy.api().resume("rollback", "and taken back").status, 200);
    use std::os::unix::fs::PermissionsExt;
    let key = std::fs::metadata(state.join("key")).unwrap();
    assert_eq!((key.len(), key.permissions().mode() & 0o777), (32, 0o600));
    let number = xxhash_rust::xxh3::xxh3_64(tester.as_bytes());
    // The fingerprint of a list of one user, as for sets of users.
    let fingerprint = 1u64.rotate_left(5) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let text = all_text(&state);
    assert!(text.contains("testers") && !text.contains(&tester));
    for unkeyed in [number, fingerprint] {
        let (hex, padded) = (format!("{unkeyed:x}"), format!("{unkeyed:016x}"));
        assert!(!text.contains(&hex) && !text.contains(&padded), "a hash that can be guessed");
    }

    // A restart with the same key moves no user.
    proxy.kill();
    let mut proxy = world.run(&config);
    assert!(!kinds(&proxy).contains(&"membership".to_owned()), "{:?}", kinds(&proxy));
    for told in both(&proxy) {
        let found = by_user(&told);
        assert_eq!(found.keys().collect::<Vec<_>>(), [&tester], "{told:#}");
        assert_eq!(
            found[&tester]["in_new"].as_array().unwrap().len(),
            2,
            "before the rollback and since: {told:#}"
        );
        assert!(!told["notes"].to_string().contains("hashed under a key"), "{}", told["notes"]);
    }

    // The key is destroyed: the past is unreadable, and nothing else is lost.
    proxy.kill();
    std::fs::remove_file(state.join("key")).unwrap();
    let mut proxy = world.run(&config);
    assert!(proxy.said().contains("state_key_lost"), "{}", proxy.said());
    assert_eq!(ask(&proxy, std::slice::from_ref(&tester)), [200]);
    assert_eq!(new.total(), 1, "the tester is still in new");
    assert!(!kinds(&proxy).contains(&"membership".to_owned()));
    for told in both(&proxy) {
        assert!(told["notes"].to_string().contains("lost or destroyed"), "{}", told["notes"]);
        let parts = by_user(&told)[&tester]["in_new"].as_array().unwrap().clone();
        let unclear = |part: &Value| !part["unclear"].as_array().unwrap().is_empty();
        assert!(unclear(&parts[0]) && !unclear(parts.last().unwrap()), "{parts:#?}");
    }

    // An invalid key file: reported, left unchanged, and no obstacle to the start.
    proxy.kill();
    std::fs::write(state.join("key"), "x").unwrap();
    let proxy = world.run(&config);
    assert!(proxy.said().contains("state_key_unusable"), "{}", proxy.said());
    assert_eq!(std::fs::read(state.join("key")).unwrap(), b"x");
    assert_eq!(ask(&proxy, std::slice::from_ref(&tester)), [200]);
}

#[test]
fn a_ledger_of_a_build_without_a_key_is_read_as_before() {
    let world = World::new();
    std::fs::write(world.path("ledger.jsonl"), include_str!("../data/ledger_before_methods.jsonl")).unwrap();
    let list = world.path("users.txt");
    std::fs::write(&list, (1..=40).map(|n| format!("user-{n}\n")).collect::<String>()).unwrap();
    let output = grayling(&[
        "affected",
        "billing",
        "--json",
        "--since",
        "2026-11-30T00:00:00Z",
        "--until",
        "2026-12-01T00:00:00Z",
        "--users",
        list.to_str().unwrap(),
        "--state",
        world.folder().to_str().unwrap(),
    ]);
    let told: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let first = |user: &str| by_user(&told)[user]["in_new"][0].clone();
    let testers = ["user-1", "user-2", "user-3", "user-4", "user-5"];
    for tester in testers {
        assert_eq!(
            (&first(tester)["unclear"], by_user(&told)[tester]["was"].as_str()),
            (&Value::Array(vec![]), Some("in"))
        );
    }
    // The others came in later, by a weight.
    let late = |user: &String| !testers.contains(&&**user) && bucket(RELEASE, user.as_bytes()) > 500_000;
    let other = by_user(&told).into_keys().find(late).unwrap();
    assert!(first(&other)["from"].as_str() > first("user-1")["from"].as_str(), "{told:#}");
    assert!(!told["notes"].to_string().contains("hashed under a key"), "{}", told["notes"]);
}
