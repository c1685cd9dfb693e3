//! The latch: after the announcement of a rollback, no kill and no restart puts a user on `new`;
//! and without a trustworthy memory, no user is put there either.

use crate::world::{
    Config, Origin, Proxy, Random, World, eventually, figure, grayling, never, not_tested, seconds, times,
    turn, users_in_new,
};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Kills, in a short run and in a long one.
const ROUNDS: [u64; 2] = [20, 100];

fn ask(proxy: &Proxy, users: &[String], arm: &str) {
    let mut client = proxy.client();
    for user in users {
        let answer = client.get_as(user).unwrap_or_else(|e| panic!("{user}: {e}"));
        assert_eq!((answer.status, answer.text().as_str()), (200, arm), "{user}");
    }
}

#[test]
fn a_kill_at_any_moment_after_the_announcement_never_brings_a_user_back_to_new() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("50%");
    let users = users_in_new("user", 50, 30);
    let seed = 20_261_124;
    let mut random = Random::new(seed);
    println!("seed {seed}");
    // From memory to disk: how long a crash would have lost the rollback.
    let mut gaps_us = vec![];

    let rounds = times(ROUNDS[0], ROUNDS[1]);
    for round in 0..rounds {
        let config = config.clone().state(&format!("directory = \"../state-{round}\""));
        let mut proxy = world.run(&config);
        ask(&proxy, &users[..5], "new");
        let by_fuse = round % 4 == 3;
        std::thread::scope(|scope| {
            let api = proxy.api();
            if by_fuse {
                new.refuse();
                ask(&proxy, &users, "stable"); // each fails to connect, and goes to stable
            } else {
                scope.spawn(move || {
                    // The kill may come before the answer.
                    let _ = api.try_post("rollback", &serde_json::json!({"reason": "a test pulls the cord"}));
                });
            }
            let api = proxy.api();
            eventually(seconds(5), "the rollback is announced", || (api.weight() == 0.0).then_some(()));
            std::thread::sleep(Duration::from_micros(random.below(8_000)));
            proxy.kill();
        });
        // Only rounds whose log line came before the kill.
        gaps_us.extend(proxy.events("trip").iter().filter_map(|trip| trip["in_memory_only_us"].as_u64()));
        if by_fuse {
            new.listen();
        }
        let before = new.total();
        let proxy = world.run(&config);
        ask(&proxy, &users, "stable");
        assert_eq!(new.total(), before, "round {round}: a user reached new after the restart");
        assert_eq!(proxy.api().weight(), 0.0);
        assert!(proxy.api().trip().is_some(), "round {round}: the status has lost the trip");
        if round + 2 == rounds {
            // A person's resume brings it back, and a restart after that keeps the resume.
            assert_eq!(proxy.api().resume("rollback", "it was a test").status, 200);
            ask(&proxy, &users, "new");
            drop(proxy);
            let proxy = world.run(&config);
            ask(&proxy, &users, "new");
        } else if round + 1 == rounds {
            // So does a higher attempt; the old number after that is a revert, and held.
            world.write(&config.clone().attempt(2));
            eventually(seconds(5), "attempt 2 is in force", || (proxy.api().weight() == 0.5).then_some(()));
            ask(&proxy, &users, "new");
            world.write(&config.clone().attempt(1));
            eventually(seconds(5), "attempt 1 is held", || (proxy.api().weight() == 0.0).then_some(()));
            ask(&proxy, &users, "stable");
        }
    }
    gaps_us.sort_unstable();
    let (median, worst) = (gaps_us[gaps_us.len() / 2], gaps_us[gaps_us.len() - 1]);
    figure(&format!(
        "{rounds} kills after the announcement, no user on new; memory to disk: median {median} µs, worst {worst} µs of {}",
        gaps_us.len()
    ));
}

#[test]
fn a_tripped_release_ignores_a_reload_a_touch_and_a_raised_weight() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("50%");
    let users = users_in_new("user", 50, 20);
    let proxy = world.run(&config);
    ask(&proxy, &users, "new");
    let answer = proxy.api().change("rollback", "by hand");
    assert_eq!(answer.status, 200, "{}", answer.text());
    ask(&proxy, &users, "stable");
    world.write(&config);
    proxy.signal("HUP");
    world.write(&config.clone().weight("60%"));
    eventually(seconds(5), "the raised weight has been read", || {
        proxy.api().metric("grayling_weight_configured_ratio", &[]).filter(|w| (w - 0.6).abs() < 1e-9)
    });
    ask(&proxy, &users, "stable");
    let trip = proxy.api().trip().expect("still tripped");
    assert_eq!(trip["cause"], "manual");
}

/// Starts with an unusable state directory: stable is served, `new` gets no users, and every view
/// reports the reason.
fn starts_with_bad_state(world: &World, config: &Config, what: &str) -> Proxy {
    let users = users_in_new("user", 50, 20);
    let proxy = world.run(config);
    ask(&proxy, &users, "stable");
    let api = proxy.api();
    assert_eq!(api.weight(), 0.0, "{what}");
    assert_eq!(api.metric("grayling_state_durable", &[]), Some(0.0), "{what}");
    let ready = api.get("/readyz");
    assert_eq!(ready.status, 200, "{what}: stable is served, so it is ready");
    assert!(ready.text().contains("state"), "{what}: readyz says why: {}", ready.text());
    let held = serde_json::from_str::<serde_json::Value>(&ready.text()).unwrap()["releases_held"][0]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(held.contains("--ends hold"), "{what}: readyz says what to type: {held}");
    let status = api.get("/api/v1/status").text();
    println!("{what}: {}", ready.text());
    proxy.tells("state");
    assert!(
        !status.contains("\"state\":\"progressing\""),
        "{what}: the status does not call this progress: {status}"
    );
    never(Duration::from_millis(300), "the hold went away by itself", || api.weight() != 0.0);
    proxy
}

#[test]
fn a_state_directory_that_is_a_file_holds_every_release() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    std::fs::write(world.path("state"), "not a directory").unwrap();
    let config = Config::new(stable.address, new.address).weight("50%");
    starts_with_bad_state(&world, &config, "a file in the directory's place");
    assert_eq!(new.total(), 0);
}

#[test]
fn a_corrupt_state_file_holds_every_release() {
    for (what, spoil) in [
        ("overwritten", (|_| b"\0\0\0 garbage".to_vec()) as fn(Vec<u8>) -> Vec<u8>),
        ("cut in half", |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            bytes
        }),
        ("emptied", |_| Vec::new()),
    ] {
        let world = World::new();
        let (stable, new) = (Origin::start("stable"), Origin::start("new"));
        let config = Config::new(stable.address, new.address).weight("50%");
        let mut proxy = world.run(&config);
        assert_eq!(proxy.api().change("rollback", "so that there is something to lose").status, 200);
        proxy.kill();
        let mut spoiled = 0;
        for entry in std::fs::read_dir(world.path("state")).unwrap() {
            let path = entry.unwrap().path();
            let is_ledger = path.file_name().unwrap().to_string_lossy().contains("ledger");
            if path.is_file() && !is_ledger {
                let bytes = std::fs::read(&path).unwrap();
                if !bytes.is_empty() {
                    std::fs::write(&path, spoil(bytes)).unwrap();
                    spoiled += 1;
                }
            }
        }
        assert!(spoiled > 0, "there is a state file");
        let before = new.total();
        starts_with_bad_state(&world, &config, &format!("a state file {what}"));
        assert_eq!(new.total(), before);
    }
}

#[test]
fn a_ledger_without_its_latch_holds_every_release() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("50%");
    let mut proxy = world.run(&config);
    assert_eq!(proxy.api().change("rollback", "so that there is something to lose").status, 200);
    proxy.kill();
    for entry in std::fs::read_dir(world.path("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.file_name().unwrap().to_string_lossy().contains("ledger") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let proxy = world.run(&config);
    ask(&proxy, &users_in_new("user", 50, 20), "stable");
    assert_eq!(proxy.api().weight(), 0.0);
}

#[test]
fn an_empty_memory_is_held_unless_the_directory_was_marked_as_new() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let users = users_in_new("user", 50, 20);
    let hold = |weight: &str| {
        let config = Config::new(stable.address, new.address).weight(weight);
        config.state("directory = \"../state\"\nwhen_empty = \"hold\"")
    };
    let state = world.path("state");
    let init = || {
        let ended = grayling(&["init", "--state", state.to_str().unwrap()]);
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    assert_eq!(init().0, Some(0));
    let proxy = world.run(&hold("50%"));
    ask(&proxy, &users, "new");
    let (code, says) = init();
    assert!(code == Some(1) && says.contains("another grayling uses this state directory"), "{says}");
    assert_eq!(proxy.api().change("rollback", "cents are wrong").status, 200);
    drop(proxy);
    let (code, says) = init();
    assert!(code == Some(1) && says.contains("it is not new"), "{says}");
    // A lost volume: no user returns to the version that was rolled back.
    std::fs::remove_dir_all(&state).unwrap();
    let proxy = world.run(&hold("50%"));
    ask(&proxy, &users, "stable");
    let held = proxy.api().release()["held"].as_str().unwrap_or_default().to_owned();
    assert!(held.contains("grayling resume billing --ends hold"), "{held}");
    assert_eq!(proxy.api().resume("hold", "looked at it").status, 200);
    ask(&proxy, &users, "new");
    drop(proxy);
    // No user would be in `new`: nothing is held, and a later edit is a person's decision.
    std::fs::remove_dir_all(&state).unwrap();
    let proxy = world.run(&hold("0%"));
    assert!(proxy.api().release()["held"].is_null());
    world.write(&hold("50%"));
    eventually(seconds(5), "the weight is in force", || (proxy.api().weight() == 0.5).then_some(()));
    drop(proxy);
    // A plan whose first wave opens by itself lets users in as well.
    std::fs::remove_dir_all(&state).unwrap();
    let proxy = world.run(&hold("0%").waves(&["weight = \"50%\", bake = \"0s\""]));
    never(seconds(2), "the first wave opened", || proxy.api().weight() > 0.0);
}

#[test]
fn a_start_that_cannot_save_does_not_make_the_next_one_forget() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("100%");
    let users = users_in_new("user", 50, 5);
    let proxy = world.run(&config);
    assert_eq!(proxy.api().change("rollback", "cents are wrong").status, 200);
    drop(proxy);
    // Like a full disk: the state file cannot be saved, and the ledger could be written.
    let beside = world.path("state/grayling.state.new");
    std::fs::create_dir(&beside).unwrap();
    let lines = || std::fs::read_to_string(world.path("state/ledger.jsonl")).unwrap().lines().count();
    let before = lines();
    let proxy = world.run(&config);
    ask(&proxy, &users, "stable");
    assert_eq!(lines(), before, "the ledger knows more than the state");
    drop(proxy);
    std::fs::remove_dir(&beside).unwrap();
    let proxy = world.run(&config);
    ask(&proxy, &users, "stable");
    assert!(proxy.api().trip().is_some());
    assert!(proxy.api().status()["state_error"].is_null());
    drop(proxy);
    // A ledger that is ahead nevertheless: held, and the remembered state stands.
    let mut ledger = std::fs::read_to_string(world.path("state/ledger.jsonl")).unwrap();
    let last = ledger.lines().last().unwrap().to_owned();
    let n: u64 = serde_json::from_str::<serde_json::Value>(&last).unwrap()["n"].as_u64().unwrap();
    ledger.push_str(&last.replacen(&format!("\"n\":{n},"), &format!("\"n\":{},", n + 1), 1));
    ledger.push('\n');
    std::fs::write(world.path("state/ledger.jsonl"), ledger).unwrap();
    let proxy = world.run(&config);
    ask(&proxy, &users, "stable");
    assert!(proxy.api().trip().is_some(), "the trip is forgotten");
}

#[test]
fn a_state_directory_that_is_switched_while_running_is_not_followed() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let users = users_in_new("user", 50, 5);
    let config = Config::new(stable.address, new.address)
        .weight("100%")
        .state("directory = \"../current\"\nwhen_empty = \"hold\"");
    let link = |to: &str| {
        let beside = world.path("beside");
        std::os::unix::fs::symlink(to, &beside).unwrap();
        std::fs::rename(&beside, world.path("current")).unwrap();
    };
    for directory in ["a", "b"] {
        assert!(grayling(&["init", "--state", world.path(directory).to_str().unwrap()]).status.success());
    }
    link("a");
    let mut proxy = world.run(&config);
    ask(&proxy, &users, "new");
    link("b");
    let error = eventually(seconds(5), "the switch is seen", || {
        proxy.api().status()["state_error"].as_str().map(str::to_owned)
    });
    assert!(error.contains("leads to another directory than at the start"), "{error}");
    assert_eq!(proxy.api().metric("grayling_state_durable", &[]), Some(0.0));
    assert_eq!(proxy.api().change("rollback", "cents are wrong").status, 200);
    assert_eq!(proxy.api().ledger().last().unwrap()["kind"], "trip");
    assert!(std::fs::read_to_string(world.path("a/ledger.jsonl")).unwrap().contains("cents are wrong"));
    assert!(!world.path("b/ledger.jsonl").exists());
    proxy.kill();
    link("a");
    let proxy = world.run(&config);
    ask(&proxy, &users, "stable");
    assert!(proxy.api().trip().is_some());
    assert!(proxy.api().status()["state_error"].is_null());
}

/// A tiny file system for the state; `None` if this user may not mount.
struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Tmpfs> {
        std::fs::create_dir_all(at).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=64k", "tmpfs", at.to_str()?]).then(|| Tmpfs(at.to_owned()))
    }

    fn fill(&self) {
        // Writes until the file system has no byte left; the error is expected.
        let mut size = 64 * 1024;
        for n in 0.. {
            if std::fs::write(self.0.join(format!("ballast-{n}")), vec![0; size]).is_err() {
                size /= 2;
                if size == 0 {
                    return;
                }
            }
        }
    }

    fn read_only(&self) -> bool {
        run("mount", &["-o", "remount,ro", self.0.to_str().unwrap()])
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn run(command: &str, args: &[&str]) -> bool {
    Command::new(command).args(args).output().is_ok_and(|o| o.status.success())
}

#[test]
fn a_full_state_directory_holds_every_release() {
    let world = World::new();
    let Some(tmpfs) = Tmpfs::mount(&world.path("small")) else {
        not_tested("a full disk (this user may not mount a tmpfs)");
        return;
    };
    tmpfs.fill();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("50%").state("directory = \"../small\"");
    starts_with_bad_state(&world, &config, "a full disk");
    assert_eq!(new.total(), 0);
}

#[test]
fn a_read_only_state_directory_holds_every_release() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("50%").state("directory = \"../small\"");
    // Mode bits stop every user but root, who needs a read-only file system.
    let at = world.path("small");
    let tmpfs = Tmpfs::mount(&at);
    match &tmpfs {
        Some(tmpfs) if tmpfs.read_only() => {}
        _ => {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(0o555)).unwrap();
            if std::fs::write(at.join("probe"), "").is_ok() {
                eprintln!(
                    "NOT TESTED: a read-only state directory (this user writes everywhere, and may not mount)"
                );
                return;
            }
        }
    }
    starts_with_bad_state(&world, &config, "a read-only state directory");
    assert_eq!(new.total(), 0);
}

#[test]
fn a_disk_that_fills_up_while_running_does_not_stop_a_rollback() {
    let world = World::new();
    let Some(tmpfs) = Tmpfs::mount(&world.path("small")) else {
        not_tested("a disk that fills up (this user may not mount a tmpfs)");
        return;
    };
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let users = users_in_new("user", 50, 20);
    let config = Config::new(stable.address, new.address).weight("50%").state("directory = \"../small\"");
    let proxy = world.run(&config);
    ask(&proxy, &users, "new");
    tmpfs.fill();
    let _ = proxy.api().change("rollback", "on a full disk");
    ask(&proxy, &users, "stable");
    assert_eq!(proxy.api().weight(), 0.0);
    assert!(proxy.api().trip().is_some(), "in memory it is a trip all the same");
    eventually(seconds(3), "the metric says that it is in memory only", || {
        proxy.api().metric("grayling_state_durable", &[]).filter(|v| *v == 0.0)
    });
}

/// Two releases on the same two versions, each with its own route.
fn shared(stable: &Origin, new: &Origin, weight_b: &str) -> String {
    format!(
        "[listen]\nhttp = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nworkers = 1\n\
         [upstream.v1]\nservers = [\"http://{}\"]\n[upstream.v2]\nservers = [\"http://{}\"]\n\
         [release.a]\nstable = \"v1\"\nnew = \"v2\"\nweight = \"100%\"\n\
         [release.b]\nstable = \"v1\"\nnew = \"v2\"\nweight = \"{weight_b}\"\n\
         [[route]]\npath = \"/a\"\nrelease = \"a\"\n[[route]]\npath = \"/b\"\nrelease = \"b\"\n\
         [state]\ndirectory = \"../state\"\nwhen_empty = \"start\"\n",
        stable.address, new.address
    )
}

#[test]
fn a_trip_leaves_alone_what_led_to_its_servers_before_and_lets_no_more_go_there() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let file = world.write_text(&shared(&stable, &new, "50%"));
    let proxy = Proxy::start(&file);
    let arm =
        |proxy: &Proxy, path: &str| proxy.client().get(path, &[("x-user-id", "user-of-b-1")]).unwrap().text();
    let of_b = arm(&proxy, "/b");
    let mut admin = crate::world::Client::new(proxy.admin);
    let json = [("host", "127.0.0.1"), ("content-type", "application/json")];
    let rollback = |client: &mut crate::world::Client, verb: &str| {
        client
            .send("POST", &format!("/api/v1/releases/a/{verb}"), &json, b"{\"reason\":\"a test\"}")
            .unwrap()
            .status
    };
    assert_eq!(rollback(&mut admin, "rollback"), 200);
    assert_eq!((arm(&proxy, "/a").as_str(), arm(&proxy, "/b")), ("stable", of_b.clone()));

    let refused = || proxy.api().metric("grayling_config_reloads_total", &[("result", "failure")]);
    world.write_text(&shared(&stable, &new, "60%"));
    eventually(seconds(5), "a raise of the other is refused", || (refused() == Some(1.0)).then_some(()));
    world.write_text(&shared(&stable, &new, "40%"));
    let weight = |name: &str| proxy.api().metric("grayling_weight_ratio", &[("release", name)]);
    eventually(seconds(5), "a lower weight is obeyed", || (weight("b") == Some(0.4)).then_some(()));
    drop(proxy);
    let proxy = Proxy::start(&file);
    assert_eq!(arm(&proxy, "/a"), "stable");
}

#[test]
fn what_a_trip_lets_be_cannot_be_widened_and_a_start_with_a_conflict_serves_stable() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("100%");
    let text = |path: &str| {
        let direct = format!("\n[[route]]\npath = \"{path}\"\nupstream = \"v2\"\n");
        config.text().replace("[limits]", &format!("{direct}\n[limits]"))
    };
    let file = world.write_text(&text("/beta"));
    let proxy = Proxy::start(&file);
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    assert_eq!(proxy.client().get("/beta", &[]).unwrap().text(), "new", "it led there before the trip");
    let refused = || proxy.api().metric("grayling_config_reloads_total", &[("result", "failure")]);
    world.write_text(&text("/app"));
    eventually(seconds(5), "the wider route is refused", || (refused() == Some(1.0)).then_some(()));
    drop(proxy);

    // The same file at a start: stable is served, and no user reaches the tripped version.
    let proxy = Proxy::start(&file);
    assert_eq!(proxy.client().get("/app", &[]).unwrap().status, 503);
    ask(&proxy, &users_in_new("user", 50, 5), "stable");
    assert!(proxy.api().status()["config"]["last_error"].to_string().contains("rolled back"));
    assert_eq!(proxy.api().resume("rollback", "mended").status, 200);
    eventually(seconds(5), "the route is open again", || {
        (proxy.client().get("/app", &[]).unwrap().status == 200).then_some(())
    });
}

#[test]
fn another_spelling_of_a_tripped_server_is_refused_too() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address);
    let proxy = world.run(&config);
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    let port = new.address.port();
    for spelling in
        [format!("localhost:{port}"), format!("LOCALHOST:{port}"), format!("[::ffff:127.0.0.1]:{port}")]
    {
        let text = config.text().replace("billing", "renamed").replace(&new.address.to_string(), &spelling);
        let refused = || proxy.api().metric("grayling_config_reloads_total", &[("result", "failure")]);
        let before = refused();
        world.write_text(&text);
        eventually(seconds(5), &format!("{spelling} is refused"), || (refused() > before).then_some(()));
        assert!(
            proxy.api().status()["config"]["last_error"].to_string().contains("rolled back"),
            "{spelling}"
        );
    }
}

#[test]
fn a_state_restored_from_an_old_copy_holds_every_release() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("100%");
    let proxy = world.run(&config);
    let file = world.path("state/grayling.state");
    let old = std::fs::read(&file).unwrap();
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    drop(proxy);
    std::fs::write(&file, old).unwrap();
    let proxy = world.run(&config);
    ask(&proxy, &users_in_new("user", 50, 5), "stable");
    assert_eq!(proxy.api().metric("grayling_state_durable", &[]), Some(0.0));
    assert_eq!(proxy.api().resume("hold", "looked at it").status, 200);
    ask(&proxy, &users_in_new("user", 50, 5), "new");
    let numbers: Vec<u64> = proxy
        .api()
        .json("/api/v1/ledger")
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["n"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no number twice, none missing");
}

#[test]
fn a_state_directory_removed_while_running_is_written_again() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("100%");
    let mut proxy = world.run(&config);
    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    std::fs::remove_dir_all(world.path("state")).unwrap();
    eventually(seconds(10), "it is there again", || {
        world.path("state/grayling.state").exists().then_some(())
    });
    proxy.kill();
    let proxy = world.run(&config);
    ask(&proxy, &users_in_new("user", 50, 5), "stable");
    assert!(proxy.api().trip().is_some());
}

#[test]
fn a_damaged_state_is_found_again_by_the_start_after_a_failed_one() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("100%");
    drop(world.run(&config));
    std::fs::write(world.path("state/grayling.state"), "damaged").unwrap();
    let refusing = config.clone().state("directory = \"../state\"\non_failure = \"refuse\"");
    assert!(Proxy::try_start(&world.write(&refusing)).is_err());
    let proxy = world.run(&config);
    ask(&proxy, &users_in_new("user", 50, 5), "stable");
}
