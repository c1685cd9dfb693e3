//! Waves, with the real binary: what opens and holds the next one, the actions of a person, and
//! that no kill loses the position.

mod bake;
mod climb;
mod critical;
mod holdback;

use crate::world::{
    Admin, Client, Config, Origin, Proxy, Random, World, eventually, figure, grayling, never, overload,
    seconds, times, turn, users_in_new,
};
use grayling::store::audit::gate_evidence::recompute;
use serde_json::{Value, json};
use std::time::Duration;

/// `(wave, state, weight in percent)` of the status.
fn stands(api: &Admin) -> (String, String, f64) {
    let release = api.release();
    let text = |key: &str| release[key].as_str().unwrap_or("-").to_owned();
    (text("wave"), text("state"), release["weight"].as_f64().unwrap_or(-1.0))
}

fn is(wave: &str, state: &str, weight: f64) -> (String, String, f64) {
    (wave.to_owned(), state.to_owned(), weight)
}

fn comes_to(api: &Admin, within: Duration, wave: &str, state: &str, weight: f64) {
    let mut last = None;
    let what = format!("{wave} {state} {weight}%");
    let start = std::time::Instant::now();
    while start.elapsed() < within.mul_f64(overload()) {
        let now = stands(api);
        if now == is(wave, state, weight) {
            return;
        }
        last = Some(now);
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within {within:?}: {what}; it is {last:?}; gates {:#}", api.release()["gates"]);
}

/// The verdict of a gate.
fn gate(api: &Admin, name: &str) -> Option<String> {
    let release = api.release();
    let gates = release["gates"].as_array()?.clone();
    gates.iter().find(|g| g["name"] == name).and_then(|g| g["verdict"].as_str().map(str::to_owned))
}

/// Every decision on waves can be recomputed from the numbers in its entry.
fn all_recomputed(ledger: &[Value]) -> usize {
    let mut found = 0;
    for entry in ledger.iter().filter(|e| !e["evidence"]["gates"].is_null()) {
        assert!(["wave", "promote"].contains(&entry["kind"].as_str().unwrap_or_default()), "{entry:#}");
        recompute(&entry["evidence"]).unwrap_or_else(|why| panic!("{why}: {entry:#}"));
        found += 1;
    }
    found
}

/// `pause`, `rollback`, `promote WAVE`, `resume WHAT`.
fn change(api: &Admin, command: &str) -> (u16, String) {
    let answer = match command.split_once(' ') {
        Some(("promote", wave)) => api.promote(wave, "a test"),
        Some(("resume", ends)) => api.resume(ends, "a test"),
        _ => api.change(command, "a test"),
    };
    (answer.status, answer.text())
}

#[test]
fn silence_opens_nothing_and_a_person_does() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let waves = [
        "weight = \"1%\", bake = \"0s\"",
        "weight = \"5%\", bake = \"0s\"",
        "weight = \"100%\", bake = \"0s\", open = \"by-hand\"",
    ];
    let proxy = world.run(&Config::new(stable.address, new.address).waves(&waves));
    let api = proxy.api();
    // The first wave has no previous wave to judge.
    comes_to(&api, seconds(10), "1%", "progressing", 1.0);
    never(Duration::from_millis(1500), "a wave opened on silence", || stands(&api).0 != "1%");
    assert_eq!(gate(&api, "bake").as_deref(), Some("pass"));
    for silent in ["requests", "users", "errors", "latency", "latency_tail", "share", "watchdog"] {
        assert_eq!(gate(&api, silent).as_deref(), Some("inconclusive"), "{silent}");
    }
    let progress = api.release()["progress"].clone();
    assert_eq!((progress["number"].as_u64(), progress["next"].as_str()), (Some(1), Some("5%")));
    assert!(
        progress["held_s"].as_f64().is_some() && progress["missing"].as_array().is_some_and(|m| m.len() >= 6)
    );

    let (status, text) = change(&api, "promote 5%");
    assert_eq!(status, 200, "{text}");
    assert!(
        text.contains("wave `5%` is open") && text.contains("skips requests (inconclusive: 0 of 500 of new)"),
        "{text}"
    );
    assert_eq!(stands(&api), is("5%", "progressing", 5.0));
    assert_eq!(api.metric("grayling_wave", &[]), Some(2.0));
    assert_eq!(api.metric("grayling_weight_configured_ratio", &[]), Some(0.05));
    let users = users_in_new("user", 5, 5);
    assert!(users.iter().all(|u| proxy.client().get_as(u).unwrap().text() == "new"));

    assert_eq!(change(&api, "pause").0, 200);
    assert_eq!(stands(&api), is("5%", "paused", 5.0));
    assert_eq!(api.metric("grayling_release_state", &[("state", "paused")]), Some(1.0));
    assert_eq!(change(&api, "resume pause").0, 200);
    assert_eq!(stands(&api), is("5%", "progressing", 5.0));

    assert_eq!(change(&api, "promote 100%").0, 200);
    assert_eq!(change(&api, "rollback").0, 200);
    let (status, text) = change(&api, "promote 100%");
    assert_eq!((status, text.contains("rolled back")), (409, true), "{text}");
    assert_eq!(stands(&api), is("100%", "rolled_back", 0.0));
    let at = json!({"reason": "a test", "ends": "rollback", "at": "5%"});
    assert_eq!(api.try_post("resume", &at).unwrap().status, 200);
    assert_eq!(stands(&api), is("5%", "progressing", 5.0));
    assert_eq!(change(&api, "rollback").0, 200);
    // Without a wave: in the first one.
    assert_eq!(change(&api, "resume rollback").0, 200);
    assert_eq!(stands(&api), is("1%", "progressing", 1.0));

    let ledger = api.ledger();
    let kinds: Vec<&str> = ledger.iter().filter_map(|e| e["kind"].as_str()).collect();
    let expected = ["start", "wave", "wave", "promote", "pause", "resume", "promote", "trip", "resume"];
    let told: Vec<&str> = kinds.iter().copied().take(expected.len()).collect();
    assert!(expected.iter().all(|k| kinds.contains(k)), "{told:?}");
    let promote = ledger.iter().find(|e| e["kind"] == "promote").unwrap();
    assert_eq!(promote["reason"], "a test");
    assert!(promote["evidence"]["skipped"].as_array().is_some_and(|s| s.len() >= 6), "{promote:#}");
    assert!(all_recomputed(&ledger) >= 3, "{ledger:#?}");
}

#[test]
fn a_weight_set_by_hand_has_no_waves_to_pause_or_promote() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address).weight("5%"));
    for verb in ["pause", "promote 5%"] {
        let (status, text) = change(&proxy.api(), verb);
        assert_eq!((status, text.contains("set by hand")), (409, true), "{text}");
    }
    let mut client = Client::new(proxy.admin);
    let headers = [("host", "127.0.0.1"), ("content-type", "application/json")];
    let answer = client.post("/api/v1/releases/billing/pause", &headers, b"{}").unwrap();
    assert_eq!((answer.status, answer.text().contains("a pause needs a reason")), (400, true));
}

#[test]
fn waves_keep_to_their_hours_and_a_person_says_so_to_open_one_despite_them() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    // A day that is three days away: closed for the length of this test.
    let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
    let since_monday = jiff::Timestamp::now().as_second() / 86_400 + 3;
    let closed = format!("open_hours = \"{} 00:00-24:00 UTC\"", days[((since_monday + 3) % 7) as usize]);
    let config = Config::new(stable.address, new.address).waves(&["weight = \"1%\""]).release(&closed);
    let proxy = world.run(&config);
    let api = proxy.api();
    eventually(seconds(10), "the door is looked at", || gate(&api, "open_hours"));
    never(Duration::from_millis(600), "a wave opened out of hours", || {
        stands(&api) != is("-", "pending", 0.0)
    });
    assert_eq!(gate(&api, "open_hours").as_deref(), Some("inconclusive"));
    let (status, text) = change(&api, "promote 1%");
    assert_eq!((status, text.contains("--to 1% --despite open_hours --reason")), (409, true), "{text}");
    let despite = json!({"reason": "a test", "wave": "1%", "despite": ["open_hours"]});
    assert_eq!(api.try_post("promote", &despite).unwrap().status, 200);
    assert_eq!(stands(&api), is("1%", "progressing", 1.0));
    let promote = api.ledger().into_iter().find(|e| e["kind"] == "promote").unwrap();
    assert_eq!(promote["evidence"]["despite"], json!(["open_hours"]));
}

#[test]
fn an_edited_plan_does_what_check_said_it_would() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address);
    let by_hand = |weights: &[&str]| -> Vec<String> {
        weights.iter().map(|w| format!("name = \"w{w}\", weight = \"{w}%\", open = \"by-hand\"")).collect()
    };
    let with = |waves: &[String]| config.clone().waves(&waves.iter().map(String::as_str).collect::<Vec<_>>());
    let proxy = world.run(&with(&by_hand(&["1", "5", "20"])));
    let api = proxy.api();
    for weight in [1.0, 5.0] {
        assert_eq!(change(&api, &format!("promote w{weight}")).0, 200);
        assert_eq!(stands(&api).2, weight);
    }
    let admin = format!("http://{}", proxy.admin);
    let file = world.path("config/edited.toml");
    let edit = |waves: &[String], says: &str, wave: &str, weight: f64| {
        let text = with(waves).text();
        // The ports are those of the running proxy, not those of the file.
        std::fs::write(&file, &text).unwrap();
        let told = grayling(&["check", file.to_str().unwrap(), "--against", &admin]);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(says), "{told}");
        world.write_text(&text);
        comes_to(&api, seconds(10), wave, "progressing", weight);
    };
    edit(&by_hand(&["2", "5", "20"]), "waves behind it change, which is history", "w5", 5.0);
    edit(&by_hand(&["2", "5", "50"]), "to come: `w50`", "w5", 5.0);
    let mut present = by_hand(&["2", "5", "50"]);
    present[1] = present[1].replace("\"5%\"", "\"4%\"");
    edit(&present, "the present wave, `w5`, reaches elsewhere: it bakes again", "w5", 4.0);
    edit(&by_hand(&["2", "50"]), "the present wave, `w5`, is gone: it goes on in wave `w2`", "w2", 2.0);
    world.write(&config.clone().weight("3%"));
    comes_to(&api, seconds(10), "-", "progressing", 3.0);
    edit(
        &by_hand(&["2", "50"]),
        "waves, and no weight set by hand any more: it goes on in wave `w2`",
        "w2",
        2.0,
    );
}

#[test]
fn explain_names_the_wave_in_which_a_user_enters() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let waves = ["segments = [\"testers\"], users_min = 1", "weight = \"5%\"", "weight = \"100%\""];
    let mut config = Config::new(stable.address, new.address).waves(&waves);
    config.rest = "[segment.testers]\nusers = [\"tess\"]\n".into();
    let proxy = world.run(&config);
    comes_to(&proxy.api(), seconds(10), "testers", "progressing", 0.0);
    let at = |user: &str| {
        let told = proxy.api().json(&format!("/api/v1/explain?user={user}"));
        (told["arm"].as_str().unwrap_or("").to_owned(), told["wave"].as_str().unwrap_or("").to_owned())
    };
    let early = users_in_new("u", 5, 1).remove(0);
    assert_eq!(at("tess"), ("new".into(), "testers".into()));
    assert_eq!(at(&early), ("stable".into(), "5%".into()));
    assert_eq!(proxy.client().get_as("tess").unwrap().text(), "new");
    assert_eq!(proxy.client().get_as(&early).unwrap().text(), "stable");
    let file = world.config_file();
    let offline = grayling(&["explain", "--user", &early, "-c", file.to_str().unwrap()]);
    let offline = String::from_utf8_lossy(&offline.stdout).into_owned();
    assert!(offline.contains("gets new in billing from wave `5%` on"), "{offline}");
}

/// In a short run and in a long one.
const KILLS: [u64; 2] = [25, 100];

/// The state expected after a restart: for a change in progress at the kill, either side of it.
#[derive(Clone, PartialEq, Debug)]
struct Place {
    wave: usize,
    paused: bool,
    tripped: bool,
}

impl Place {
    fn read(api: &Admin) -> Place {
        let release = api.release();
        let state = release["state"].as_str().unwrap_or_default().to_owned();
        Place {
            wave: release["progress"]["number"].as_u64().unwrap_or(0) as usize,
            paused: !release["progress"]["paused"].is_null(),
            tripped: state == "rolled_back",
        }
    }

    fn after(&self, verb: &str, waves: usize) -> Place {
        let mut next = self.clone();
        match verb {
            "promote" if !self.tripped => next.wave = (self.wave + 1).min(waves),
            "pause" if !self.tripped => next.paused = true,
            "rollback" => next.tripped = true,
            "resume" if self.tripped => (next.tripped, next.wave) = (false, self.wave.min(1)),
            "resume" => next.paused = false,
            _ => {}
        }
        next
    }
}

#[test]
fn killed_at_any_point_it_comes_back_in_the_same_state() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let waves: Vec<String> = (1..=60).map(|w| format!("weight = \"{w}%\", open = \"by-hand\"")).collect();
    let config =
        Config::new(stable.address, new.address).waves(&waves.iter().map(String::as_str).collect::<Vec<_>>());
    let seed = 20_261_125;
    let mut random = Random::new(seed);
    println!("seed {seed}");
    let mut place = Place { wave: 0, paused: false, tripped: false };
    let (mut told, mut took) = (0, 0);
    let mut proxy: Proxy = world.run(&config);
    let kills = times(KILLS[0], KILLS[1]);
    for round in 0..kills {
        let verb = ["promote", "promote", "promote", "pause", "resume", "rollback"][random.below(6) as usize];
        let wanted = place.after(verb, waves.len());
        let ends = if place.tripped { "rollback" } else { "pause" };
        let body = match verb {
            "promote" => json!({"reason": "a test", "wave": format!("{}%", place.wave + 1)}),
            "resume" => json!({"reason": "a test", "ends": ends}),
            _ => json!({"reason": "a test"}),
        };
        let answered = std::thread::scope(|scope| {
            let api = proxy.api();
            let asked = scope.spawn(move || api.try_post(verb, &body).ok().map(|a| a.status));
            std::thread::sleep(Duration::from_micros(random.below(40_000)));
            proxy.kill();
            asked.join().expect("no panic")
        });
        proxy = world.run(&config);
        let api = proxy.api();
        let found = Place::read(&api);
        match answered {
            // It was announced: no kill reverts it.
            Some(200) => {
                assert_eq!(found, wanted, "round {round}: {verb} was answered, then the cord was pulled")
            }
            _ => assert!(
                found == place || found == wanted,
                "round {round}: {verb} of {place:?} left {found:?}"
            ),
        }
        told += u64::from(answered == Some(200));
        took += u64::from(found == wanted && wanted != place);
        let weight = if found.tripped { 0.0 } else { found.wave as f64 };
        assert_eq!(api.release()["weight"].as_f64(), Some(weight), "round {round}: {found:?}");
        place = found;
    }
    assert!(place.wave > 0 && took > 5, "it went nowhere: {place:?}");
    let numbers: Vec<u64> = proxy.api().ledger().iter().filter_map(|e| e["n"].as_u64()).collect();
    assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1), "the ledger has gaps: {numbers:?}");
    figure(&format!(
        "{kills} kills: {told} changes were answered before, and stood after; {took} moved it; wave {} of 60",
        place.wave
    ));
}
