//! The page in a real browser: the view of a rollback, and a person's actions.
//! One browser per test, since a start takes seconds.

use crate::world::{
    Behaviour, Browser, Config, Load, Origin, Proxy, RELEASE, World, bucket, eventually, not_tested, seconds,
    turn,
};
use serde_json::Value;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

const TOKEN: &str = "4a6f1bc05d7e4b0f9d52";
const PAUSE: Duration = Duration::from_millis(40);

fn page(proxy: &Proxy) -> String {
    format!("http://{}/", proxy.admin)
}

/// Marks the page, to detect a later reload.
fn mark(browser: &Browser) {
    browser.script("window.marked = true");
}

fn is_marked(browser: &Browser) -> bool {
    browser.script("return window.marked === true") == Value::Bool(true)
}

#[test]
fn a_person_watches_a_rollback_resumes_rolls_back_and_looks_a_user_up() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let config = Config::new(stable.address, new.address);
    let proxy = world.run(&config);
    let load = Load::start(proxy.http, 16, PAUSE);
    let browser = Browser::start(world.folder());
    browser.open(&page(&proxy));
    mark(&browser);

    // Healthy: the four answers.
    browser.reads(".state", "Progressing");
    eventually(seconds(60), "both arms have answered", || {
        (stable.total() > 1_500 && new.total() > 300).then_some(())
    });
    browser.reads(".answers", "No, nothing beyond chance.");
    assert!(browser.text(".answers").contains("Did it act?\nNo"), "{}", browser.text(".answers"));
    browser.reads("#feed", "live");

    // A fault: the page shows the rollback by itself.
    new.behave(Behaviour::Status(500, 0.5));
    let told = browser.reads(".state", "ROLLED BACK");
    assert!(told.starts_with('✖'), "not by a colour alone: {told}");
    let answers = browser.reads(".answers", "rolled back by the watchdog");
    assert!(
        answers.contains("Nobody: every user is on stable") && answers.contains("Users are safe"),
        "{answers}"
    );
    assert_eq!(browser.text(".card .danger"), "Rolled back");
    assert!(browser.script("return document.title").as_str().unwrap().contains("rolled back"));
    assert!(is_marked(&browser), "it was told, not loaded again");

    // The release's view keeps the evidence.
    browser.type_into("body", "2");
    let frozen = browser.reads(".frozen", "Why it was rolled back");
    assert!(frozen.contains("users were in new in the five minutes before"), "{frozen}");
    browser.reads("#figure-errors", "now:");
    browser.reads(".mix", "answers of stable: 2xx");
    eventually(seconds(60), "a graph is drawn", || {
        (browser.script("return document.querySelectorAll('#charts canvas').length") == 4).then_some(())
    });

    // Resume, with a reason that must not act as markup.
    new.behave(Behaviour::Answer);
    browser.type_into("body", "1");
    browser.click(".answers button");
    browser.type_into("#ask-field", "fixed <img src=x onerror=\"document.title='owned'\"> & retested");
    browser.click("#ask-act");
    browser.reads(".state", "Progressing");
    assert_eq!(proxy.api().weight(), 0.2);

    // Roll back: one button, one confirmation, a prefilled reason.
    browser.click(".card .danger");
    browser.reads("#ask-title", &format!("Roll back {RELEASE}?"));
    assert_eq!(proxy.api().weight(), 0.2, "not before it is confirmed");
    browser.click("#ask-act");
    browser.reads(".state", "ROLLED BACK");
    assert_eq!(proxy.api().weight(), 0.0);
    eventually(seconds(10), "the ledger has the rollback with its reason", || {
        let last = proxy.api().json("/api/v1/ledger?last=1");
        let reason = last[0]["reason"].as_str().unwrap_or_default();
        (last[0]["kind"] == "trip" && reason.starts_with("from the page")).then_some(())
    });

    // The ledger, with the reason as text.
    browser.type_into("body", "4");
    browser.reads("#ledger", "fixed <img src=x onerror=");
    assert_eq!(browser.script("return document.querySelectorAll('main img').length"), 0);
    assert!(!browser.script("return document.title").as_str().unwrap().contains("owned"));

    // A user.
    browser.type_into("body", "3");
    browser.type_into("#user", "user-17");
    browser.click("main form button");
    let bucket = bucket(RELEASE, b"user-17");
    let told = browser.reads("#explained", "everybody is on stable");
    let plain = told.replace(',', "");
    assert!(plain.contains(&format!("{bucket} of 1000000")), "{told}");
    let enters = format!("{:.4}", f64::from(bucket + 1) / 10_000.0);
    assert!(told.contains(enters.trim_end_matches('0').trim_end_matches('.')), "{enters}: {told}");

    // A broken file: the faulty lines, with a caret under them.
    world.write_text(&config.text().replace("stable = ", "stabel = "));
    browser.reads("#notices", "The config file is not in force");
    browser.type_into("body", "\u{e004}"); // Tab: out of the field
    browser.click("#views a:nth-child(5)");
    browser.reads("#report", "stabel = \"v1\"");
    assert!(browser.text("#report").contains("^^^^^^"), "{}", browser.text("#report"));
    browser.reads("#beside .differs", "stabel");

    browser.click("#views a:nth-child(6)");
    browser.reads("#resources-none", "No release watches resources");

    // Rolled back, and stable fails too: now it is urgent.
    browser.type_into("body", "1");
    assert!(browser.reads(".answers", "Users are safe").contains("Nobody: every user is on stable"));
    stable.behave(Behaviour::Status(500, 1.0));
    browser.reads(".answers", "Act: stable fails too");
    assert!(!browser.text(".answers").contains("nothing is urgent"), "{}", browser.text(".answers"));

    // A dead connection is shown, and its end.
    proxy.signal("STOP");
    browser.reads("#feed", "STALE");
    proxy.signal("CONT");
    browser.reads("#feed", "live");
    assert!(is_marked(&browser));
    let complaints = browser.complaints();
    assert_eq!(complaints, Vec::<String>::new(), "no violation of the policy, no exception");
    load.stop();
}

#[test]
fn the_token_is_asked_for_once_and_no_script_can_read_it() {
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/tokens"), format!("alice {TOKEN}\n")).unwrap();
    let mut config = Config::new(stable.address, new.address);
    config.rest = "[admin]\ntoken_file = \"tokens\"\n".into();
    let proxy = world.run(&config);
    let browser = Browser::start(world.folder());
    browser.open(&page(&proxy));
    browser.reads("#foot", "changes need your token");

    browser.click(".card .danger");
    browser.click("#ask-act");
    browser.reads("#ask-title", "Who are you?");
    browser.type_into("#ask-field", "not the token");
    browser.click("#ask-act");
    browser.reads("#ask .fault", "the token is not known");
    assert_eq!(proxy.api().weight(), 0.2);
    browser.script("document.getElementById('ask-field').value = ''");
    browser.type_into("#ask-field", TOKEN);
    browser.click("#ask-act");
    browser.reads(".answers", "rolled back by alice");
    assert_eq!(browser.script("return document.cookie"), "");

    // The next change, and the next page, have the identity.
    browser.open(&page(&proxy));
    browser.reads("#foot", "signed in as alice");
    browser.click(".answers button");
    browser.type_into("#ask-field", "it was a drill");
    browser.click("#ask-act");
    browser.reads(".state", "Progressing");
    let last = proxy.api().json("/api/v1/ledger?last=1");
    assert_eq!((&last[0]["actor"], &last[0]["reason"]), (&"alice".into(), &"it was a drill".into()));

    browser.click("#foot button");
    browser.reads("#foot", "changes need your token");
}

/// An address of this machine at which it is no loopback peer to itself; found without sending
/// anything.
fn address_of_this_machine() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

#[test]
fn from_elsewhere_the_page_comes_empty_and_asks_for_the_token_first() {
    let _turn = turn();
    let Some(ip) = address_of_this_machine() else {
        return not_tested("the page from elsewhere: this machine has no address but loopback");
    };
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    std::fs::create_dir_all(world.path("config")).unwrap();
    std::fs::write(world.path("config/tokens"), format!("alice {TOKEN}\n")).unwrap();
    let mut config = Config::new(stable.address, new.address);
    config.rest = "[admin]\ntoken_file = \"tokens\"\n".into();
    let text = config.text().replace("admin = \"127.0.0.1:0\"", "admin = \"0.0.0.0:0\"");
    let proxy = Proxy::start(&world.write_text(&text));
    let browser = Browser::start(world.folder());
    let url = format!("http://{ip}:{}/", proxy.admin.port());
    browser.open(&url);
    browser.reads("#ask-title", "Who are you?");
    assert!(!browser.text("body").contains(RELEASE), "{}", browser.text("body"));
    browser.type_into("#ask-field", TOKEN);
    browser.click("#ask-act");
    browser.reads(".state", "Progressing");
    browser.open(&url);
    browser.reads(".state", "Progressing");
    browser.reads("#foot", "signed in as alice");

    // The token is removed from the file, which ends its sessions and the streams of its pages.
    std::fs::write(world.path("config/tokens"), "bob 00112233445566778899\n").unwrap();
    browser.reads("#ask-title", "Who are you?");
    assert!(!browser.text("main").contains(RELEASE), "{}", browser.text("main"));
}

/// The first wave is one of testers; it lacks only requests, until the watchdog's resource lacks
/// too.
#[test]
fn a_wave_that_is_held_is_told_with_what_it_waits_for_and_a_person_may_open_the_next() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let testers: Vec<String> = (0..500).step_by(5).map(|n| format!("\"user-0-{n}\"")).collect();
    let mut config = Config::new(stable.address, new.address).watchdog(
        "margin_errors = \"20%\"\nmargin_latency = \"90%\"\nlatency_notice = \"100%\"\nlatency_tolerance = \"100%\"\nlatency_floor = \"100ms\"\nmargin_latency_tail = \"100%\"",
    );
    config.rest = format!("[segment.testers]\nusers = [{}]\n", testers.join(", "));
    let waves = |requests_min: u64| {
        let first = format!("segments = [\"testers\"], bake = \"1s\", requests_min = {requests_min}");
        config.clone().waves(&[&first, "weight = \"20%\", bake = \"1h\""])
    };
    let proxy = world.run(&waves(1_000_000_000));
    let load = Load::start(proxy.http, 4, Duration::from_millis(5));
    let browser = Browser::start(world.folder());
    browser.open(&page(&proxy));
    mark(&browser);

    // Held, and the reason: in the card, and among the gates.
    let state = browser.reads(".state", "held");
    assert!(state.contains("wave testers"), "{state}");
    let todo = browser.reads(".answers", "has waited for");
    assert!(todo.contains("The next wave, 20%,") && todo.contains("requests"), "{todo}");
    browser.type_into("body", "2");
    browser.reads("main .notice", "Held for");
    assert!(browser.text("main .notice").contains("requests"), "{}", browser.text("main .notice"));
    let gates = browser.reads("main table", "1000000000 of new");
    let row = gates.lines().find(|line| line.starts_with("requests")).unwrap();
    assert!(row.contains("waits"), "not by a colour alone: {gates}");
    assert!(gates.lines().any(|line| line.starts_with("bake") && line.contains("pass")), "{gates}");
    browser.reads("ol.waves li.here", "testers");
    assert_eq!(proxy.api().weight(), 0.0);

    // The missing requests arrive: the page shows the next wave by itself.
    world.write(&waves(20));
    browser.reads("ol.waves li.here", "20%");
    browser.reads(".state", "wave 20%");
    assert_eq!(proxy.api().weight(), 0.2);

    // That wave bakes for an hour.
    // A pause is shown with its author and reason; then a person continues.
    browser.click(".spans button:first-child");
    browser.type_into("#ask-field", "lunch");
    browser.click("#ask-act");
    let paused = browser.reads("main .notice", "Paused");
    assert!(paused.contains("lunch"), "{paused}");
    assert!(is_marked(&browser));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    load.stop();
}

/// A browser opens six connections to one server, and keeps pages for the back button.
#[test]
fn pages_that_were_left_do_not_keep_the_next_one_waiting() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address));
    let browser = Browser::start(world.folder());
    for _ in 0..8 {
        browser.open(&page(&proxy));
        browser.reads(".state", "Progressing");
        browser.open("about:blank");
    }
    browser.open(&format!("{}#/ledger", page(&proxy)));
    browser.reads("#ledger", "started");
    // A page reached by the back button is live again.
    browser.script("history.go(-2)");
    browser.reads("#feed", "live");
    let streams = || proxy.api().metric("grayling_event_streams", &[]).unwrap_or(0.0);
    eventually(seconds(15), "one page has one stream", || (streams() == 1.0).then_some(()));
}

/// A page served from another port of this machine tries every cross-origin request: the answers
/// must change nothing, and hold no connection open.
#[test]
fn a_page_of_another_port_changes_nothing_and_holds_no_stream_open() {
    let _turn = turn();
    let world = World::new();
    let (stable, new) = (Origin::start("stable"), Origin::start("new"));
    let proxy = world.run(&Config::new(stable.address, new.address));
    stable.behave(Behaviour::Respond(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 15\r\n\r\n<!doctype html>",
    ));
    let browser = Browser::start(world.folder());
    browser.open(&format!("http://127.0.0.1:{}/", stable.address.port()));
    let tried = browser.script(&format!(
        r#"
        const admin = 'http://{}', url = admin + '/api/v1/releases/{RELEASE}/rollback', body = '{{"reason": "x"}}';
        const json = {{ 'content-type': 'application/json' }}, plain = {{ 'content-type': 'text/plain' }};
        const sent = (init) => fetch(url, {{ method: 'POST', body, ...init }}).then((r) => r.type + r.status, () => 'refused');
        const element = (name, more) => document.body.appendChild(Object.assign(document.createElement(name), more));
        const form = element('form', {{ action: url, method: 'post', enctype: 'text/plain', target: 'frame' }});
        element('iframe', {{ name: 'frame' }});
        form.appendChild(Object.assign(document.createElement('input'), {{ name: '{{"reason": "x', value: '"}}' }}));
        form.submit();
        for (const path of ['/api/v1/events', '/api/v1/events?2', '/api/v1/status']) {{
            element('img', {{ src: admin + path }});
            element('script', {{ src: admin + path }});
            element('iframe', {{ src: admin + path }});
        }}
        navigator.sendBeacon(url, new Blob([body], {{ type: 'text/plain' }}));
        new EventSource(admin + '/api/v1/events');
        return Promise.all([
            sent({{ headers: json }}),
            sent({{ headers: json, credentials: 'include' }}),
            sent({{ headers: plain, mode: 'no-cors' }}),
            sent({{ mode: 'no-cors', headers: {{ 'content-type': 'text/plain; application/json' }} }}),
            fetch(admin + '/api/v1/status').then((r) => r.type + r.status, () => 'refused'),
        ]);
        "#,
        proxy.admin
    ));
    // An opaque response was a 403 that the page cannot read.
    assert_eq!(tried, serde_json::json!(["refused", "refused", "opaque0", "opaque0", "refused"]));
    let loaded =
        "return performance.getEntriesByType('resource').filter((e) => e.name.includes('/api/v1/')).length";
    eventually(seconds(60), "the browser has tried all of it", || {
        (browser.script(loaded).as_u64()? >= 11).then_some(())
    });
    assert!(proxy.api().trip().is_none());
    assert!(proxy.api().ledger().iter().all(|entry| entry["kind"] == "start"), "{:?}", proxy.api().ledger());
    assert_eq!(proxy.api().metric("grayling_event_streams", &[]), Some(0.0));
}
