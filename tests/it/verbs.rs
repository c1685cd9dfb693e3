//! A verb refers to the state that its caller saw: sent twice, or by two people at once, it acts
//! once; and it ends or opens only what it names.

use crate::world::{
    Admin, Config, Origin, Proxy, Random, World, eventually, grayling, long, never, seconds, users_in_new,
};
use serde_json::{Value, json};

const WAVES: [&str; 4] = [
    "weight = \"1%\", bake = \"1h\", open = \"by-hand\"",
    "weight = \"5%\", bake = \"1h\"",
    "weight = \"20%\", bake = \"1h\"",
    "weight = \"100%\", bake = \"1h\"",
];

fn scene(change: impl FnOnce(Config) -> Config) -> (World, Origin, Origin, Proxy) {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&change(Config::new(stable.address, new.address)));
    (world, stable, new, proxy)
}

fn post(api: &Admin, verb: &str, body: Value) -> (u16, Value) {
    let answer = api.try_post(verb, &body).unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

/// Expects a refusal with this text in the response.
fn refused(answer: (u16, Value), status: u16, says: &str) {
    let error = answer.1["error"].as_str().unwrap_or_default();
    assert!(answer.0 == status && error.contains(says), "not {status} with `{says}`: {} {error}", answer.0);
}

fn wave(api: &Admin) -> String {
    api.release()["wave"].as_str().unwrap_or("-").to_owned()
}

#[test]
fn promotes_at_once_and_promotes_again_open_one_wave() {
    let (_world, _stable, _new, proxy) = scene(|config| config.waves(&WAVES));
    for wave in ["1%", "5%", "20%", "100%"] {
        let entries: Vec<Value> = std::thread::scope(|scope| {
            let promote = || {
                let api = proxy.api();
                scope.spawn(move || post(&api, "promote", json!({"reason": "ready", "wave": wave})))
            };
            let asked: Vec<_> = (0..4).map(|_| promote()).collect();
            let answers = asked.into_iter().map(|asked| asked.join().unwrap());
            answers
                .map(|(status, answer)| {
                    assert_eq!(status, 200, "{answer}");
                    answer["ledger"].clone()
                })
                .collect()
        });
        assert_eq!(self::wave(&proxy.api()), wave);
        assert!(entries.iter().all(|n| *n == entries[0]), "{entries:?}");
        // A second operator, a day later.
        let again = post(&proxy.api(), "promote", json!({"reason": "ready", "wave": wave}));
        assert_eq!((again.0, &again.1["ledger"]), (200, &entries[0]));
        let entry = proxy.api().ledger().into_iter().find(|e| e["n"] == entries[0]).unwrap();
        assert_eq!((&entry["kind"], &entry["evidence"]["wave"]["name"]), (&json!("promote"), &json!(wave)));
    }
}

#[test]
fn a_promote_names_the_next_wave_or_is_answered_with_what_is_in_force() {
    let (_world, _stable, _new, proxy) = scene(|config| config.waves(&WAVES));
    let api = proxy.api();
    let promote = |body| post(&api, "promote", body);
    refused(promote(json!({"reason": "r"})), 400, "grayling promote billing --to 1% --reason TEXT");
    refused(
        promote(json!({"reason": "r", "wave": "2%"})),
        400,
        "no wave `2%`: one of `1%`, `5%`, `20%`, `100%`",
    );
    refused(
        promote(json!({"reason": "r", "wave": "1%", "despite": ["eros"]})),
        400,
        "no gate is called `eros`",
    );
    refused(promote(json!({"reason": "r", "wave": "20%"})), 409, "the next is `1%`");
    // By weight as well as by name.
    assert_eq!(promote(json!({"reason": "r", "wave": "1.0%"})).0, 200);
    refused(
        promote(json!({"reason": "r", "wave": "20%"})),
        409,
        "the present wave is `1%`; the next is `5%`",
    );
    assert_eq!(wave(&api), "1%");

    let admin = format!("http://{}", proxy.admin);
    let shell = |args: &[&str]| {
        let ended = grayling(&[args, &["--reason", "r", "--admin", &admin]].concat());
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, says) = shell(&["promote", "billing"]);
    assert!(code == Some(2) && says.contains("grayling promote billing --to '5%'"), "{code:?} {says}");
    let (code, says) = shell(&["promote", "billing", "--to", "100%"]);
    assert!(code == Some(1) && says.contains("the next is `5%`"), "{code:?} {says}");
    assert_eq!(shell(&["promote", "billing", "--to", "5%"]).0, Some(0));
    assert_eq!(wave(&api), "5%");
}

#[test]
fn a_gate_that_fails_must_be_named_to_open_a_wave() {
    let world = World::new();
    let (stable, new, gone) = (Origin::start("stable"), Origin::start("new"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address)
        .waves(&WAVES)
        .upstreams("health = { path = \"/healthz\", interval = \"200ms\" }");
    config.new.push(gone.address);
    let proxy = world.run(&config);
    let api = proxy.api();
    assert_eq!(api.promote("1%", "a test").status, 200);
    gone.refuse();
    let verdict = |gate: &str| {
        let gates = api.release()["gates"].as_array().cloned().unwrap_or_default();
        gates.iter().find(|g| g["name"] == gate).and_then(|g| g["verdict"].as_str().map(str::to_owned))
    };
    eventually(seconds(10), "the gate of the servers fails", || {
        (verdict("servers").as_deref() == Some("fail")).then_some(())
    });
    // Waiting gates are skipped; this one fails.
    let promote =
        |despite: Value| post(&api, "promote", json!({"reason": "r", "wave": "5%", "despite": despite}));
    refused(promote(json!([])), 409, "grayling promote billing --to 5% --despite servers --reason TEXT");
    refused(promote(json!(["errors"])), 409, "--despite errors --despite servers");
    assert_eq!(wave(&api), "1%");
    let (status, answer) = promote(json!(["servers"]));
    assert_eq!(status, 200, "{answer}");
    let entry = api.ledger().into_iter().find(|e| e["n"] == answer["ledger"]).unwrap();
    assert_eq!(entry["evidence"]["despite"], json!(["servers"]));
    assert!(entry["evidence"]["skipped"].as_array().unwrap().contains(&json!("bake")), "{entry:#}");
}

#[test]
fn a_resume_ends_the_one_thing_that_it_names() {
    let (_world, _stable, new, proxy) =
        scene(|config| config.waves(&WAVES).release("on_anomaly = \"freeze\""));
    let api = proxy.api();
    let resume = |body| post(&api, "resume", body);
    let ends = || api.release()["ends"].clone();
    refused(resume(json!({"reason": "r"})), 409, "neither rolled back nor frozen nor held nor paused");
    refused(
        resume(json!({"reason": "r", "ends": "everything"})),
        400,
        "`rollback`, `freeze`, `hold`, `pause`",
    );
    assert_eq!(api.promote("1%", "r").status, 200);
    assert_eq!(api.promote("5%", "r").status, 200);
    assert_eq!(api.promote("20%", "r").status, 200);

    // One hold, and no rollback: it need not be named.
    assert_eq!(api.change("pause", "lunch").status, 200);
    assert_eq!(ends(), json!(["pause"]));
    refused(resume(json!({"reason": "r", "ends": "rollback"})), 409, "no rollback of billing is in force");
    assert_eq!(resume(json!({"reason": "r"})).0, 200);

    // Two holds: each by its name.
    assert_eq!(api.change("pause", "lunch").status, 200);
    new.refuse();
    let users = users_in_new("user", 20, 40);
    eventually(seconds(10), "the fuse freezes it", || {
        users.iter().for_each(|user| drop(proxy.client().get_as(user)));
        (api.release()["state"] == "frozen").then_some(())
    });
    new.listen();
    refused(resume(json!({"reason": "r"})), 409, "grayling resume billing --ends freeze --reason TEXT, or: ");
    assert_eq!(resume(json!({"reason": "r", "ends": "freeze"})).0, 200);
    assert_eq!(ends(), json!(["pause"]));
    assert_eq!(api.release()["state"], "paused");

    // A rollback must always be named; nothing progresses during it, so nothing can be paused.
    assert_eq!(resume(json!({"reason": "r", "ends": "pause"})).0, 200);
    assert_eq!(api.change("rollback", "r").status, 200);
    refused(post(&api, "pause", json!({"reason": "r"})), 409, "no waves to pause");
    refused(resume(json!({"reason": "r"})), 409, "--ends rollback");
    refused(resume(json!({"reason": "r", "ends": "rollback", "at": "100%"})), 409, "opens by promote only");
    assert_eq!(api.weight(), 0.0);
    assert_eq!(resume(json!({"reason": "r", "ends": "rollback", "at": "5%"})).0, 200);
    assert_eq!((wave(&api).as_str(), api.weight()), ("5%", 0.05));
    // The same again: the rollback that the caller saw is over.
    refused(resume(json!({"reason": "r", "ends": "rollback"})), 409, "neither rolled back");
    assert_eq!(api.change("rollback", "r").status, 200);
    assert_eq!(resume(json!({"reason": "r", "ends": "rollback"})).0, 200);
    assert_eq!((wave(&api).as_str(), api.weight()), ("1%", 0.01));
}

#[test]
fn the_removal_of_a_stop_file_lets_nobody_in_until_a_person_does() {
    let (world, _stable, _new, proxy) = scene(|config| config.weight("50%"));
    let users = users_in_new("user", 50, 10);
    let arm = |proxy: &Proxy| {
        let mut client = proxy.client();
        let mut arms: Vec<String> = users.iter().map(|u| client.get_as(u).unwrap().text()).collect();
        arms.dedup();
        arms.join(" ")
    };
    assert_eq!(arm(&proxy), "new");
    let stop = world.config_file().with_file_name("grayling.stop");
    std::fs::write(&stop, "").unwrap();
    eventually(seconds(3), "everybody is held", || (proxy.api().weight() == 0.0).then_some(()));
    refused(post(&proxy.api(), "resume", json!({"reason": "r", "ends": "hold"})), 409, "remove it, then");
    // With a restart in between, and the removal while no proxy runs.
    drop(proxy);
    std::fs::remove_file(&stop).unwrap();
    let proxy = Proxy::start(&world.config_file());
    assert_eq!(arm(&proxy), "stable");
    std::fs::write(&stop, "").unwrap();
    eventually(seconds(3), "the stop file is seen", || {
        proxy.api().release()["held"].as_str().filter(|held| held.contains("grayling.stop stands")).map(drop)
    });
    std::fs::remove_file(&stop).unwrap();
    let held = eventually(seconds(3), "the removal is seen", || {
        proxy.api().release()["held"].as_str().filter(|h| h.contains("the file is gone")).map(str::to_owned)
    });
    assert!(held.contains("grayling resume billing --ends hold --reason TEXT"), "{held}");
    never(seconds(2), "somebody was let in", || proxy.api().weight() > 0.0);
    assert_eq!(arm(&proxy), "stable");
    assert_eq!(proxy.api().resume("hold", "the cause is mended").status, 200);
    assert_eq!(arm(&proxy), "new");
    let resumed = proxy.api().ledger().into_iter().rfind(|e| e["kind"] == "resume").unwrap();
    assert_eq!(
        (&resumed["evidence"]["ends"], &resumed["reason"]),
        (&json!("hold"), &json!("the cause is mended"))
    );
}

#[test]
fn a_stop_file_outlasts_a_rollback_that_was_lifted_while_it_was_there() {
    let (world, _stable, _new, proxy) = scene(|config| config.weight("50%"));
    let api = proxy.api();
    let stop = world.config_file().with_file_name("grayling.stop");
    assert_eq!(api.change("rollback", "r").status, 200);
    std::fs::write(&stop, "").unwrap();
    eventually(seconds(3), "the stop file is seen", || {
        (api.release()["ends"] == json!(["rollback", "hold"])).then_some(())
    });
    assert_eq!(api.resume("rollback", "r").status, 200);
    std::fs::remove_file(&stop).unwrap();
    never(seconds(2), "the removal let somebody in", || api.weight() > 0.0);
    assert_eq!(api.resume("hold", "r").status, 200);
    assert_eq!(api.weight(), 0.5);
}

#[test]
fn promotes_in_a_row_name_every_gate_that_they_skip_and_pass_none_that_fails() {
    let world = World::new();
    let (stable, new, gone) = (Origin::start("stable"), Origin::start("new"), Origin::start("new"));
    let mut config = Config::new(stable.address, new.address)
        .waves(&WAVES)
        .upstreams("health = { path = \"/healthz\", interval = \"200ms\" }");
    config.new.push(gone.address);
    let proxy = world.run(&config);
    let api = proxy.api();
    for wave in ["1%", "5%"] {
        let (status, answer) = post(&api, "promote", json!({"reason": "r", "wave": wave}));
        assert_eq!(status, 200, "{answer}");
        let entry = api.ledger().into_iter().find(|e| e["n"] == answer["ledger"]).unwrap();
        let skipped = entry["evidence"]["skipped"].as_array().unwrap().len();
        // Before the first wave only the door and the state are judged.
        assert!(if wave == "1%" { skipped == 0 } else { skipped >= 8 }, "{entry:#}");
    }
    gone.refuse();
    eventually(seconds(10), "the server is out", || {
        (api.release()["arms"]["new"]["servers_healthy"] == 1).then_some(())
    });
    assert_eq!(api.change("rollback", "r").status, 200);
    assert_eq!(api.resume("rollback", "r").status, 200);
    // At once: the gates of this stage have not been judged yet.
    refused(post(&api, "promote", json!({"reason": "r", "wave": "5%"})), 409, "--despite servers");
}

#[test]
fn racing_operators_leave_a_ledger_that_says_what_is_in_force() {
    let (world, _stable, _new, proxy) = scene(|config| config.waves(&WAVES));
    let names: Vec<&str> = vec!["1%", "5%", "20%", "100%"];
    let seed = 20_261_130;
    println!("seed {seed}");
    for round in 0..if long() { 60 } else { 6 } {
        std::thread::scope(|scope| {
            for operator in 0..4 {
                let (api, names) = (proxy.api(), &names);
                let mut random = Random::new(seed + 10 * round + operator);
                scope.spawn(move || {
                    for _ in 0..6 {
                        // Each names the wave that it expects to be next.
                        let seen = api.release()["progress"]["number"].as_u64().unwrap_or(0) as usize;
                        let next = names[seen.min(names.len() - 1)];
                        let (verb, body) = match random.below(6) {
                            0..=2 => ("promote", json!({"reason": "r", "wave": next})),
                            3 => ("pause", json!({"reason": "r"})),
                            4 => ("rollback", json!({"reason": "r"})),
                            _ => {
                                let ends = ["rollback", "pause"][random.below(2) as usize];
                                ("resume", json!({"reason": "r", "ends": ends}))
                            }
                        };
                        let (status, answer) = post(&api, verb, body);
                        assert!([200, 400, 409].contains(&status), "{verb}: {status} {answer}");
                    }
                });
            }
        });
        // The ledger alone leads to the state in force.
        let (mut at, mut tripped, mut paused) = (0, false, false);
        for entry in proxy.api().ledger() {
            match entry["kind"].as_str().unwrap_or_default() {
                "promote" => {
                    assert!(!tripped, "opened while rolled back: {entry:#}");
                    assert_eq!(entry["evidence"]["wave"]["name"], names[at], "not the next one: {entry:#}");
                    at += 1;
                }
                "trip" => tripped = true,
                "pause" => paused = true,
                "resume" if entry["evidence"]["ends"] == "rollback" => (tripped, at) = (false, at.min(1)),
                "resume" => paused = false,
                _ => {}
            }
        }
        let release = proxy.api().release();
        let weight = [0.0, 1.0, 5.0, 20.0, 100.0][at];
        assert_eq!(release["weight"].as_f64(), Some(if tripped { 0.0 } else { weight }), "round {round}");
        assert_eq!(!release["progress"]["paused"].is_null(), paused, "round {round}");
        assert_eq!(release["state"] == "rolled_back", tripped, "round {round}");
    }
    let state = world.path("state");
    let verified = grayling(&["ledger", "--verify", "--state", state.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}
