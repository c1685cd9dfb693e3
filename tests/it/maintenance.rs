//! The verb `maintenance`: ceilings only report and waves hold, for the requested time.

use crate::world::{Admin, Config, Load, Origin, Proxy, World, eventually, grayling, never, seconds, turn};
use crate::world::{Behaviour, users_in_new};
use serde_json::{Value, json};
use std::time::Duration;

fn maintain(api: &Admin, body: Value) -> (u16, Value) {
    let answer = api.try_post("maintenance", &body).unwrap();
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

fn begin(api: &Admin, length: &str) -> (u16, Value) {
    maintain(api, json!({"for": length, "change": "CHG-123", "reason": "the database moves"}))
}

fn refused(answer: (u16, Value), status: u16, says: &str) {
    let error = answer.1["error"].as_str().unwrap_or_default();
    assert!(answer.0 == status && error.contains(says), "not {status} with `{says}`: {} {error}", answer.0);
}

/// At 100% there is no control: only the ceiling takes `new` out.
#[test]
fn a_ceiling_only_reports_until_the_maintenance_ends_and_a_restart_does_not_end_it() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address).weight("100%");
    let mut proxy = world.run(&config);
    let (status, answer) = begin(&proxy.api(), "30m");
    assert_eq!(status, 200, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("waves hold"), "{answer}");
    let told = proxy.api().release()["maintenance"].clone();
    assert_eq!((&told["change"], &told["reason"]), (&json!("CHG-123"), &json!("the database moves")));
    proxy.kill();
    let proxy = Proxy::start(&world.config_file());
    let api = proxy.api();
    assert_eq!(api.release()["maintenance"], told, "a restart changes nothing");
    let left = api.metric("grayling_maintenance_left_seconds", &[]).unwrap();
    assert!((1_700.0..1_800.0).contains(&left), "{left}");

    let load = Load::start(proxy.http, 16, Duration::from_millis(20));
    // The usual duration of an answer must be known.
    eventually(seconds(20), "new has answered", || (new.total() > 1_000).then_some(()));
    new.behave(Behaviour::Status(500, 1.0));
    eventually(seconds(20), "the watchdog reports", || {
        let dog = api.release()["watchdog"].clone();
        let detail = dog["detail"].as_str().unwrap_or_default();
        (dog["state"] == "suspicious"
            && detail.starts_with("maintenance CHG-123: it would have taken new out"))
        .then_some(())
    });
    never(seconds(3), "a ceiling acted in a maintenance", || api.trip().is_some());
    let admin = format!("http://{}", proxy.admin);
    let text = String::from_utf8(grayling(&["status", "--admin", &admin]).stdout).unwrap();
    assert!(text.contains("maintenance CHG-123 until"), "{text}");

    let ended = grayling(&["maintenance", "--end", "--admin", &admin]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    eventually(seconds(10), "the ceiling acts again", || api.trip().filter(|t| t["cause"] == "ceiling"));
    drop(load);
    let kinds: Vec<(String, String)> = api
        .ledger()
        .iter()
        .filter(|e| e["kind"] == "maintenance")
        .map(|e| (e["detail"].as_str().unwrap().to_owned(), e["actor"].as_str().unwrap().to_owned()))
        .collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(kinds[0].0.starts_with("maintenance CHG-123 begins, until 20"), "{kinds:?}");
    assert_eq!(kinds[1].0, "maintenance CHG-123 ends before its time");
    assert_eq!(proxy.events("maintenance").len(), 1, "each process logs its own");
    refused(begin(&api, "30m"), 409, "grayling resume billing --ends rollback");
}

#[test]
fn it_ends_by_itself_and_waves_hold_until_then() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let waves = ["weight = \"1%\", bake = \"1h\"", "weight = \"20%\", bake = \"1h\""];
    let held = ["weight = \"1%\", bake = \"1h\", open = \"by-hand\"", waves[1]];
    let proxy = world.run(&Config::new(stable.address, new.address).waves(&held));
    let api = proxy.api();
    assert_eq!(begin(&api, "4s").0, 200);
    // Without the maintenance the first wave would open at once.
    world.write(&Config::new(stable.address, new.address).waves(&waves));
    never(seconds(3), "a wave opened in a maintenance", || !api.release()["wave"].is_null());
    let promoted = api.promote("1%", "r");
    assert_eq!(promoted.status, 409, "{}", promoted.text());
    assert!(promoted.text().contains("grayling maintenance billing --end"), "{}", promoted.text());
    eventually(seconds(6), "it ends, and the wave opens", || {
        let release = api.release();
        (release["maintenance"].is_null() && release["wave"] == "1%").then_some(())
    });
    let entry = api.ledger().into_iter().rfind(|e| e["kind"] == "maintenance").unwrap();
    assert_eq!(
        (&entry["actor"], &entry["detail"]),
        (&json!("proxy"), &json!("maintenance CHG-123 has ended: ceilings and both_arms act again"))
    );
    assert_eq!(api.metric("grayling_maintenance_left_seconds", &[]), Some(0.0));
}

#[test]
fn what_is_asked_for_is_understood_or_refused_with_what_to_send() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address));
    let api = proxy.api();
    refused(maintain(&api, json!({"change": "c"})), 400, "`for` is missing");
    refused(maintain(&api, json!({"for": "25h", "change": "c"})), 400, "24 h at most");
    refused(maintain(&api, json!({"end": true})), 409, "no maintenance of billing is in force");
    assert_eq!(begin(&api, "10m").0, 200);
    // The same again, by two people.
    let (first, again) = (api.ledger().len(), begin(&api, "10m"));
    assert_eq!((again.0, api.ledger().len()), (200, first));
    refused(maintain(&api, json!({"for": "1h", "change": "CHG-9"})), 409, "CHG-123 of billing stands until");
    let until = api.release()["maintenance"]["until"].clone();
    assert_eq!(begin(&api, "1h").0, 200);
    assert_ne!(api.release()["maintenance"]["until"], until, "the same change lengthens it");

    // The breaker stays active.
    new.refuse();
    let users = users_in_new("user", 20, 40);
    eventually(seconds(10), "the fuse acts", || {
        users.iter().for_each(|user| drop(proxy.client().get_as(user)));
        api.trip().filter(|trip| trip["cause"] == "fuse")
    });
    assert_eq!(maintain(&api, json!({"end": true})).0, 200);
}
