//! A real browser, driven over WebDriver (W3C) with plain HTTP: Debian's chromium and its driver.

use super::{Client, eventually, overload};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A browser on a busy machine is slow; a condition of the page that does not hold within this time
/// fails.
pub const PATIENCE: Duration = Duration::from_secs(60);

const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
];

pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
}

impl Browser {
    /// With its own profile, in `folder`.
    pub fn start(folder: &Path) -> Browser {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver; tests/run installs it");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok())
            .expect("chromedriver says its port");
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser =
            Browser { driver, address: SocketAddr::from(([127, 0, 0, 1], port)), session: String::new() };
        let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", folder.join("browser").display()));
        let wanted = json!({
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"pageLoad": PATIENCE.as_millis() as u64},
        });
        let session = browser.ask("POST", "/session", &json!({"capabilities": {"alwaysMatch": wanted}}));
        browser.session = format!("/session/{}", session["sessionId"].as_str().expect("a session"));
        browser
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, value) = self.call(method, path, body);
        assert_eq!(status, 200, "{method} {path} {body}: {}", value["message"]);
        value
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut client = Client::new(self.address);
        client.timeout = PATIENCE;
        let path = format!("{}{path}", self.session);
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let headers = [("host", "127.0.0.1"), ("content-type", "application/json"), ("connection", "close")];
        let answer = client.send(method, &path, &headers, body.as_bytes()).expect("chromedriver answers");
        let told: Value = serde_json::from_slice(&answer.body).expect("JSON");
        (answer.status, told["value"].clone())
    }

    pub fn open(&self, url: &str) {
        self.ask("POST", "/url", &json!({ "url": url }));
    }

    /// The result of a script of the test; the page's own policy does not apply to it.
    pub fn script(&self, script: &str) -> Value {
        self.ask("POST", "/execute/sync", &json!({"script": script, "args": []}))
    }

    fn element(&self, css: &str) -> String {
        eventually(PATIENCE, &format!("there is {css}"), || {
            let found = self.ask("POST", "/elements", &json!({"using": "css selector", "value": css}));
            let first = found.as_array()?.first()?.as_object()?.values().next()?.as_str()?.to_owned();
            Some(first)
        })
    }

    /// Clicks like a person: the element must be visible, and not covered.
    pub fn click(&self, css: &str) {
        self.act(css, "click", &json!({}));
    }

    /// Types into an element, after its current text.
    pub fn type_into(&self, css: &str, text: &str) {
        self.act(css, "value", &json!({ "text": text }));
    }

    /// The page may replace an element between the search and the action: then search again.
    fn act(&self, css: &str, action: &str, body: &Value) {
        eventually(PATIENCE, &format!("{action} of {css}"), || {
            let path = format!("/element/{}/{action}", self.element(css));
            let (status, value) = self.call("POST", &path, body);
            let stale = value["error"] == "stale element reference";
            assert!(status == 200 || stale, "{path} {body}: {}", value["message"]);
            (!stale).then_some(())
        });
    }

    /// The visible text of an element; empty if there is none.
    pub fn text(&self, css: &str) -> String {
        let css = Value::from(css);
        let text =
            self.script(&format!("const e = document.querySelector({css}); return e ? e.innerText : '';"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element has the text.
    pub fn reads(&self, css: &str, text: &str) -> String {
        let start = std::time::Instant::now();
        loop {
            let found = self.text(css);
            if found.contains(text) {
                return found;
            }
            assert!(
                start.elapsed() < PATIENCE.mul_f64(overload()),
                "{css} does not say {text:?} but: {found}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The console errors since the last call: violations of the policy, exceptions, failed
    /// requests.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.ask("POST", "/se/log", &json!({"type": "browser"}));
        let severe = entries.as_array().into_iter().flatten().filter(|e| e["level"] == "SEVERE");
        severe.map(|e| e["message"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() && !std::thread::panicking() {
            self.ask("DELETE", "", &Value::Null);
        } else {
            // The driver ends its browser on a shutdown request.
            let _ = Client::new(self.address).get("/shutdown", &[("host", "127.0.0.1")]);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
