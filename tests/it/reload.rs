//! Saving the file: in force at once, no request lost; a broken file changes nothing, and is
//! reported.

use crate::world::{
    Config, Nginx, Origin, Proxy, Random, World, eventually, figure, grayling, median, seconds, times, turn,
    wrk,
};
use std::time::{Duration, Instant};

fn in_force(proxy: &Proxy, percent: f64, within: Duration) {
    eventually(within, &format!("{percent}% is in force"), || {
        ((proxy.api().weight() - percent / 100.0).abs() < 1e-9).then_some(())
    });
}

#[test]
fn a_hundred_edits_under_load_lose_no_request_and_are_in_force_at_once() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Nginx::start(&world, "stable"), Nginx::start(&world, "new"));
    let config = Config::new(stable.address, new.address);
    let proxy = world.run(&config.clone().weight("1%"));
    let load = wrk(&world, proxy.http, 16, seconds(120));
    eventually(seconds(10), "the load arrives", || {
        proxy.api().metric("grayling_requests_total", &[]).filter(|n| *n > 1000.0)
    });

    let mut took_ms = Vec::new();
    let edits = times(25, 100) as u32;
    for n in 0..edits {
        let percent = 2 + n * 37 % 60; // up and down, never twice the same in a row
        let config = config.clone().weight(&format!("{percent}%"));
        let start = Instant::now();
        if n % 2 == 0 {
            world.write(&config);
        } else {
            std::fs::write(world.config_file(), config.text()).unwrap(); // in place
        }
        in_force(&proxy, f64::from(percent), seconds(5));
        took_ms.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    let counted = load.stop();
    let worst = took_ms.iter().copied().fold(0.0, f64::max);
    let middle = median(took_ms);
    figure(&format!(
        "{edits} edits: in force after {middle:.0} ms (median), {worst:.0} ms (worst); {counted:?}"
    ));
    assert!(counted.requests > 100 * u64::from(edits), "{counted:?}");
    assert_eq!((counted.non_2xx, counted.socket_errors), (0, 0), "{counted:?}");
    assert!(middle <= 250.0, "median time until in force: {middle:.0} ms");
}

/// Breaks the file in one of several ways; `grayling check` confirms the fault before use.
fn break_file(world: &World, good: &str, kind: u32, random: &mut Random) -> &'static str {
    let file = world.config_file();
    let _ = std::fs::remove_dir(&file);
    let (what, text) = match kind {
        0 => loop {
            let text = &good[..random.below(good.len() as u64) as usize];
            let beside = world.path("truncated.toml");
            std::fs::write(&beside, text).unwrap();
            let check = grayling(&["check", beside.to_str().unwrap()]);
            if check.status.code() == Some(78) {
                assert!(!check.stderr.is_empty() || !check.stdout.is_empty(), "check says why");
                break ("truncated", text.to_owned());
            }
        },
        1 => ("a wrong type", good.replace("attempt = 1", &format!("attempt = \"{}\"", random.next()))),
        2 => (
            "an unknown key",
            good.replace("attempt = 1", &format!("attempt = 1\nwieght{} = 5", random.next())),
        ),
        3 => ("empty", String::new()),
        4 => ("a bare number", good.replace("weight = \"5%\"", &format!("weight = {}", random.below(100)))),
        5 => {
            std::fs::remove_file(&file).unwrap();
            return "deleted";
        }
        6 => ("an unknown upstream", good.replace("new = \"v2\"", &format!("new = \"v{}\"", random.next()))),
        7 => ("not UTF-8", String::new()),
        8 => (
            "more than all",
            good.replace("weight = \"5%\"", &format!("weight = \"{}%\"", 101 + random.below(99))),
        ),
        _ => {
            std::fs::remove_file(&file).unwrap();
            std::fs::create_dir(&file).unwrap();
            return "a directory";
        }
    };
    if kind == 7 {
        std::fs::write(&file, [good.as_bytes(), b"\xff\xfe"].concat()).unwrap();
    } else {
        world.write_text(&text);
    }
    what
}

#[test]
fn a_hundred_broken_files_change_nothing_and_each_says_why() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("5%");
    let good = config.text();
    let proxy = world.run(&config);
    in_force(&proxy, 5.0, seconds(5));
    let revision = proxy.api().status()["config"]["revision"].clone();
    let mut client = proxy.client();
    let seed = 20_261_123;
    let mut random = Random::new(seed);
    println!("seed {seed}");

    for n in 0..times(20, 100) as u32 {
        let attempts =
            |proxy: &Proxy| proxy.api().metric("grayling_config_reloads_total", &[]).unwrap_or(0.0);
        let before = attempts(&proxy);
        let what = break_file(&world, &good, n % 10, &mut random);
        let why = eventually(seconds(5), &format!("file {n} ({what}) is seen and refused"), || {
            if attempts(&proxy) == before {
                return None;
            }
            proxy.api().status()["config"]["last_error"].as_str().map(str::to_owned)
        });
        assert!(why.len() > 10, "{what}: {why}");
        assert_eq!(proxy.api().metric("grayling_config_last_reload_successful", &[]), Some(0.0), "{what}");
        assert!((proxy.api().weight() - 0.05).abs() < 1e-9, "{what}: the weight has changed");
        assert_eq!(proxy.api().status()["config"]["revision"], revision, "{what}");
        assert_eq!(client.get_as("alice").unwrap().status, 200, "{what}");
        let ready = proxy.api().get("/readyz");
        assert_eq!(ready.status, 200, "{what}");
        assert!(ready.body.len() > 10, "readyz says what is wrong: {}", ready.text());
        if n < 10 {
            println!("{what}: {}", why.lines().next().unwrap_or_default());
        }
    }
    let _ = std::fs::remove_dir(world.config_file());
    world.write(&config.weight("7%"));
    in_force(&proxy, 7.0, seconds(5));
    assert!(proxy.api().status()["config"]["last_error"].is_null());
    assert_eq!(proxy.api().metric("grayling_config_last_reload_successful", &[]), Some(1.0));
}

#[test]
fn a_config_map_swap_is_taken() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).state("directory = \"STATE\"");
    let put = |version: &str, weight: &str| {
        let folder = world.path(&format!("mounted/{version}"));
        std::fs::create_dir_all(&folder).unwrap();
        let state = world.path("state");
        let text = config.clone().weight(weight).text().replace("STATE", state.to_str().unwrap());
        std::fs::write(folder.join("grayling.toml"), text).unwrap();
        // Like the kubelet: a new symlink beside, renamed over `..data`.
        let (next, data) = (world.path("mounted/..data_tmp"), world.path("mounted/..data"));
        std::os::unix::fs::symlink(version, &next).unwrap();
        std::fs::rename(next, data).unwrap();
    };
    put("..2026_1", "5%");
    let file = world.path("mounted/grayling.toml");
    std::os::unix::fs::symlink("..data/grayling.toml", &file).unwrap();
    let proxy = Proxy::start(&file);
    in_force(&proxy, 5.0, seconds(5));
    put("..2026_2", "6%");
    in_force(&proxy, 6.0, seconds(2));
    std::fs::remove_dir_all(world.path("mounted/..2026_1")).unwrap();
    put("..2026_3", "7%");
    in_force(&proxy, 7.0, seconds(2));
}

#[test]
fn a_raise_beyond_step_max_is_refused_and_a_hangup_reads_the_file_again() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).release("step_max = \"10%\"");
    let proxy = world.run(&config.clone().weight("5%"));
    in_force(&proxy, 5.0, seconds(5));
    world.write(&config.clone().weight("50%"));
    let why = eventually(seconds(5), "the step is refused", || {
        proxy.api().status()["config"]["last_error"].as_str().map(str::to_owned)
    });
    assert!(why.contains("step_max"), "{why}");
    assert!((proxy.api().weight() - 0.05).abs() < 1e-9);
    world.write(&config.weight("15%"));
    proxy.signal("HUP");
    in_force(&proxy, 15.0, seconds(5));
}

#[test]
fn an_edit_under_a_hold_is_told_as_what_waits_and_not_as_users_who_move() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("5%");
    let proxy = world.run(&config);
    let admin = format!("http://{}", proxy.admin);
    let against = |config: &Config| {
        let file = world.path("config/edited.toml");
        std::fs::write(&file, config.text()).unwrap();
        let told = grayling(&["check", file.to_str().unwrap(), "--against", &admin]);
        String::from_utf8_lossy(&told.stdout).into_owned()
    };
    let edited = config.clone().weight("20%");
    assert!(against(&edited).contains("15% of users move to `new`"), "{}", against(&edited));

    assert_eq!(proxy.api().change("rollback", "a test").status, 200);
    let told = against(&edited);
    let held = "release `billing`: nobody moves: it stays held at 0%: rolled back";
    let waits = "release `billing`: the file's weight, 5% to 20%, waits for the end of the hold";
    assert!(told.contains(held) && told.contains(waits) && !told.contains("of users move"), "{told}");
    // A new attempt moves them, and the output shows it.
    let rearmed = against(&edited.clone().attempt(2));
    assert!(rearmed.contains("weight 0% to 20%: 20% of users move to `new`"), "{rearmed}");

    // The reload logs the same, and does it.
    world.write(&edited);
    let reloaded = proxy.event("reloaded").to_string();
    assert!(reloaded.contains(held) && reloaded.contains(waits), "{reloaded}");
    assert!(!reloaded.contains("of users move"), "{reloaded}");
    assert_eq!(proxy.api().weight(), 0.0);
    eventually(seconds(5), "the file's weight is announced", || {
        (proxy.api().release()["weight_configured"] == 20.0).then_some(())
    });

    // A release that is removed and added again is still rolled back.
    let text = edited.text();
    let (without, _) = text.split_once("[release.billing]").unwrap();
    world.write_text(&format!(
        "{without}\n[[route]]\npath = \"/\"\nupstream = \"v1\"\n[state]\ndirectory = \"../state\"\n"
    ));
    eventually(seconds(5), "it is not in the file any more", || {
        proxy.api().status()["releases"].as_array().is_some_and(Vec::is_empty).then_some(())
    });
    let back = against(&edited);
    assert!(back.contains("is new to the file, and held at 0%: rolled back"), "{back}");

    // grayling.stop holds everything.
    world.write(&edited.clone().attempt(2));
    eventually(seconds(5), "it is back, as another attempt", || {
        (proxy.api().status()["releases"][0]["weight"] == 20.0).then_some(())
    });
    std::fs::write(world.path("config/grayling.stop"), "").unwrap();
    in_force(&proxy, 0.0, seconds(5));
    let told = against(&edited.attempt(2).weight("50%"));
    assert!(told.contains("nobody moves: it stays held at 0%: a file grayling.stop"), "{told}");
}
