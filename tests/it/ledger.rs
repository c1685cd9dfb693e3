//! The ledger of a real run: valid for its own verifier, online and without a proxy; and every
//! change of it is detected.

use crate::world::{
    Behaviour, Config, Load, Origin, Proxy, Random, World, eventually, figure, grayling, seconds, times,
    turn, users_in_new,
};
use grayling::store::chain;
use grayling::store::ledger::LedgerEntry;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Runs `ledger --verify` on a state directory: the exit code, and the JSON.
fn verified(directory: &Path) -> (i32, Value) {
    let output = grayling(&["ledger", "--verify", "--json", "--state", directory.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout);
    let told = serde_json::from_str(&text)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), told)
}

fn ask(proxy: &Proxy, users: &[String]) {
    let mut client = proxy.client();
    users.iter().for_each(|user| _ = client.get_as(user));
}

/// A run with all kinds of decisions: start, weights, a segment, an open breaker, a resume, the
/// watchdog's verdict, a person's, a kill.
fn eventful(world: &World) -> Proxy {
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("50%");
    let users = users_in_new("user", 20, 30);
    let proxy = world.run(&config);
    let api = proxy.api();
    world.write(&config.clone().weight("20%"));
    eventually(seconds(10), "the weight is in force", || (api.weight() == 0.2).then_some(()));
    let mut listed = config.clone().weight("20%").release("segments = [\"testers\"]");
    listed.rest = "[segment.testers]\nusers = [\"alice\", \"bob\"]\n".into();
    world.write(&listed);
    eventually(seconds(10), "the segment is in the ledger", || {
        let entries = api.json("/api/v1/ledger");
        entries.as_array()?.iter().any(|e| e["kind"] == "membership").then_some(())
    });
    new.refuse();
    ask(&proxy, &users);
    eventually(seconds(10), "the fuse has blown", || api.trip());
    new.listen();
    assert_eq!(api.resume("rollback", "it listens again").status, 200);
    let load = Load::start(proxy.http, 24, Duration::from_millis(30));
    eventually(seconds(30), "both have had requests", || {
        (stable.total() > 800 && new.total() > 200).then_some(())
    });
    new.behave(Behaviour::Status(500, 0.7));
    eventually(seconds(30), "the watchdog has tripped it", || api.trip());
    drop(load);
    new.behave(Behaviour::Answer);
    assert_eq!(api.resume("rollback", "mended").status, 200);
    assert_eq!(api.change("rollback", "a person's word").status, 200);
    drop(proxy);
    world.run(&listed)
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

#[test]
fn the_ledger_of_an_eventful_life_is_sound_and_every_change_of_it_is_found() {
    let _turn = turn();
    let world = World::new();
    let mut proxy = eventful(&world);
    // While it runs: fetched, and verified here.
    let url = format!("http://{}", proxy.admin);
    let online = grayling(&["ledger", "--verify", "--admin", &url]);
    let text = String::from_utf8_lossy(&online.stdout).into_owned();
    assert_eq!(online.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&online.stderr));
    assert!(text.contains("2 found again from the evidence; 1 taken by a person"), "{text}");
    figure(&format!("ledger --verify:\n{text}"));
    let state = world.path("state");
    assert_eq!(verified(&state).0, 0, "beside the running proxy");
    proxy.kill();
    let (code, told) = verified(&state);
    assert_eq!((code, &told["sound"], &told["faults"]), (0, &json!(true), &json!([])));
    let by_anchor = |hash: &str| {
        let args = ["ledger", "--verify", "--anchor", hash, "--state", state.to_str().unwrap()];
        grayling(&args).status.code()
    };
    assert_eq!(by_anchor(told["head"].as_str().unwrap()), Some(0));
    assert_eq!(by_anchor(&"ab".repeat(32)), Some(1));

    let file = state.join("ledger.jsonl");
    let whole = std::fs::read(&file).unwrap();
    let spoiled = |what: &str, bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let (code, told) = verified(&state);
        assert_eq!((code, &told["sound"]), (1, &json!(false)), "{what} was not found");
        told["faults"][0].clone()
    };
    let seed = 20_261_125;
    let mut random = Random::new(seed);
    println!("seed {seed}");
    let lines = lines(&whole);
    let line_of = |at: usize| whole[..at].iter().filter(|b| **b == b'\n').count() + 1;
    for _ in 0..times(40, 150) {
        let (at, bit) = (random.below(whole.len() as u64) as usize, random.below(8));
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << bit;
        let fault = spoiled(&format!("byte {at}, bit {bit}"), &bytes);
        let line = fault["line"].as_u64().unwrap_or(0) as usize;
        assert!(line.abs_diff(line_of(at)) <= 1, "byte {at} is in line {}: {fault}", line_of(at));
    }
    for i in 0..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(i);
        spoiled(&format!("line {} removed", i + 1), &fewer.concat());
        if i > 0 {
            let mut swapped = lines.clone();
            swapped.swap(i - 1, i);
            spoiled(&format!("lines {i} and {} swapped", i + 1), &swapped.concat());
        }
        let fault = spoiled("the end cut off", &lines[..i].concat());
        assert!(fault["what"].as_str().unwrap().contains("the state file knows"), "{fault}");
    }
    std::fs::remove_file(&file).unwrap();
    assert_eq!(verified(&state).0, 1, "the whole ledger gone");
    std::fs::write(&file, &whole).unwrap();
    assert_eq!(verified(&state).0, 0);
}

#[test]
fn a_line_that_a_crash_lost_is_written_again_and_fits_the_chain() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address);
    let state = world.path("state");
    let file = state.join("ledger.jsonl");
    type Loss = fn(&[u8]) -> Vec<u8>;
    let losses: [Loss; 3] = [
        |whole| lines(whole).split_last().map(|(_, rest)| rest.concat()).unwrap(),
        |whole| whole[..whole.len() - 40].to_vec(),
        |whole| lines(whole)[0].clone(),
    ];
    for lose in losses {
        let _ = std::fs::remove_dir_all(&state);
        let mut proxy = world.run(&config);
        assert_eq!(proxy.api().change("rollback", "a test").status, 200);
        proxy.kill();
        std::fs::write(&file, lose(&std::fs::read(&file).unwrap())).unwrap();
        assert_eq!(verified(&state).0, 1, "lost, and said so");
        let mut proxy = world.run(&config);
        proxy.kill();
        let (code, told) = verified(&state);
        assert_eq!(code, 0, "{told}");
        let again = std::fs::read_to_string(&file).unwrap();
        assert!(again.contains("\"rebuilt\":true"), "{again}");
    }
}

#[test]
fn killed_at_any_moment_the_ledger_is_sound_after_the_next_start() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address);
    let mut random = Random::new(7);
    for round in 0..times(6, 20) {
        let mut proxy = world.run(&config);
        std::thread::scope(|scope| {
            let api = proxy.api();
            let (verb, body) = match round % 2 {
                0 => ("rollback", json!({"reason": "a test"})),
                _ => ("resume", json!({"reason": "a test", "ends": "rollback"})),
            };
            scope.spawn(move || _ = api.try_post(verb, &body));
            std::thread::sleep(Duration::from_micros(random.below(6_000)));
            proxy.kill();
        });
        let mut proxy = world.run(&config);
        proxy.kill();
        let (code, told) = verified(&world.path("state"));
        assert_eq!(code, 0, "round {round}: {told}");
    }
}

#[test]
fn a_ledger_and_state_of_the_version_before_are_taken_over() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let state = world.path("state");
    std::fs::create_dir_all(&state).unwrap();
    let old = |n: u64, kind: &str, detail: &str| {
        json!({"n": n, "at": "2025-11-01T00:00:00.000Z", "release": "billing", "attempt": 1, "kind": kind, "actor": "watchdog",
               "reason": null, "detail": detail, "weight_before": 20.0, "weight_after": 0.0, "evidence": {"e_value": 1234.5}})
    };
    let entries = [old(1, "start", "started"), old(2, "trip", "errors: new 41 of 812")];
    let text: String = entries.iter().map(|e| format!("{e}\n")).collect();
    std::fs::write(state.join("ledger.jsonl"), text).unwrap();
    let trip = json!({"cause": "errors", "attempt": 1, "at_ms": 1_761_955_200_000i64, "actor": "watchdog", "detail": "new 41 of 812",
                      "evidence": "{}", "onset_to_trip_ms": 412, "servers": [format!("http://{}", new.address)], "others": []});
    let image = json!({"releases": {"billing": {"attempt": 1, "trip": trip, "freeze": null, "awaits": null}},
                       "hold_strangers": false, "ledger": 2, "recent": entries});
    let body = serde_json::to_string_pretty(&image).unwrap() + "\n";
    let sum = xxhash_rust::xxh3::xxh3_64(body.as_bytes());
    std::fs::write(state.join("grayling.state"), format!("grayling-state 1 {sum:016x}\n{body}")).unwrap();
    let (code, told) = verified(&state);
    assert_eq!((code, &told["unchained_to"]), (0, &json!(2)), "{told}");

    let mut proxy = world.run(&Config::new(stable.address, new.address));
    assert_eq!(proxy.api().weight(), 0.0, "its trip is remembered");
    proxy.kill();
    let (code, told) = verified(&state);
    assert_eq!((code, &told["unchained_to"], &told["last"]), (0, &json!(2), &json!(3)), "{told}");
    let file = state.join("ledger.jsonl");
    let forged = std::fs::read_to_string(&file).unwrap().replacen("41 of 812", "14 of 812", 1);
    std::fs::write(&file, forged).unwrap();
    let (code, told) = verified(&state);
    assert!(code == 1 && told.to_string().contains("without hashes"), "{told}");
}

/// A real ledger, with waves, holds, a promotion, trips and a freeze, from a build without method
/// numbers. Its verdicts have sentences beside their numbers.
fn of_a_build_without_methods() -> Vec<LedgerEntry> {
    let text = include_str!("../data/ledger_before_methods.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Chains the entries again, and verifies them.
fn verified_anew(directory: &Path, mut entries: Vec<LedgerEntry>) -> (i32, Value) {
    let (mut prev, mut text) = (chain::ORIGIN.to_owned(), String::new());
    for entry in &mut entries {
        chain::seal(entry, &prev).unwrap();
        prev = entry.hash.clone();
        text.push_str(&(serde_json::to_string(entry).unwrap() + "\n"));
    }
    std::fs::write(directory.join("ledger.jsonl"), text).unwrap();
    verified(directory)
}

fn is_sentence(key: &str) -> bool {
    ["detail", "reason", "text"].contains(&key)
}

fn reword(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match field {
                    Value::String(text) if is_sentence(key) => {
                        *text = format!("In other words: {}", text.len())
                    }
                    field => reword(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(reword),
        _ => {}
    }
}

#[test]
fn a_ledger_of_another_method_is_whole_in_its_hashes_and_says_what_was_not_recomputed() {
    let world = World::new();
    let entries = of_a_build_without_methods();
    let (code, told) = verified_anew(world.folder(), entries.clone());
    assert_eq!((code, &told["faults"]), (0, &json!([])));
    assert_eq!(told["head"], json!(entries.last().unwrap().hash), "sealing changes nothing");
    let verdicts = told["verdicts"].clone();
    assert_eq!((&verdicts["same"], &verdicts["by_hand"]), (&json!(0), &json!(1)), "{verdicts}");
    assert!(verdicts["other_methods"]["1"].as_u64().is_some_and(|n| n >= 15), "{verdicts}");

    // With other sentences it is still valid: no sentence is compared.
    let mut reworded = entries.clone();
    for entry in &mut reworded {
        entry.detail = "In other words".into();
        entry.reason = entry.reason.as_ref().map(|_| "for another reason".into());
        reword(&mut entry.evidence);
    }
    let (code, told) = verified_anew(world.folder(), reworded);
    assert_eq!((code, &told["faults"], &told["verdicts"]), (0, &json!([]), &verdicts));

    // A changed line is detected by its hash, for any method.
    let file = world.folder().join("ledger.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"verdict\":\"pass\"", "\"verdict\":\"fail\"", 1)).unwrap();
    let (code, told) = verified(world.folder());
    assert_eq!((code, told["faults"].as_array().map(Vec::len)), (1, Some(1)), "{told}");
}
