//! A client of the admin API for tests: status, metrics, changes.

use super::config::RELEASE;
use super::{Client, Response};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;

pub struct Admin {
    address: SocketAddr,
}

pub type Series = (String, BTreeMap<String, String>);

impl Admin {
    pub fn new(address: SocketAddr) -> Admin {
        Admin { address }
    }

    pub fn get(&self, path: &str) -> Response {
        let mut client = Client::new(self.address);
        client.get(path, &[("host", "127.0.0.1"), ("connection", "close")]).expect("the admin answers")
    }

    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {}", answer.text()))
    }

    pub fn status(&self) -> Value {
        self.json("/api/v1/status")
    }

    /// The status of the one release of these tests.
    pub fn release(&self) -> Value {
        let status = self.status();
        let releases = status["releases"].as_array().cloned().unwrap_or_default();
        let ours = releases.into_iter().find(|r| r["name"] == RELEASE);
        ours.unwrap_or_else(|| panic!("no release {RELEASE} in {status}"))
    }

    /// `rollback` or `pause`: the raw response.
    pub fn change(&self, verb: &str, reason: &str) -> Response {
        self.try_post(verb, &json!({ "reason": reason })).expect("the admin answers")
    }

    /// Ends `rollback`, `freeze`, `hold` or `pause`.
    pub fn resume(&self, ends: &str, reason: &str) -> Response {
        self.try_post("resume", &json!({ "reason": reason, "ends": ends })).expect("the admin answers")
    }

    /// Opens the wave of this name.
    pub fn promote(&self, wave: &str, reason: &str) -> Response {
        self.try_post("promote", &json!({ "reason": reason, "wave": wave })).expect("the admin answers")
    }

    /// A verb with this body, for cases where the proxy may be killed meanwhile.
    pub fn try_post(&self, verb: &str, body: &Value) -> std::io::Result<Response> {
        let body = body.to_string();
        let headers = [("host", "127.0.0.1"), ("content-type", "application/json"), ("connection", "close")];
        let path = format!("/api/v1/releases/{RELEASE}/{verb}");
        Client::new(self.address).post(&path, &headers, body.as_bytes())
    }

    pub fn metrics(&self) -> BTreeMap<Series, f64> {
        let text = self.get("/metrics").text();
        text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).filter_map(parse_sample).collect()
    }

    /// The sum of all series of this name that have these labels; `None` when there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let all = self.metrics();
        let mut matching = all
            .iter()
            .filter(|((n, has), _)| {
                n == name && labels.iter().all(|(k, v)| has.get(*k).is_some_and(|h| h == v))
            })
            .map(|(_, value)| *value)
            .peekable();
        matching.peek()?;
        Some(matching.sum())
    }

    /// The weight in force, `0.0 ..= 1.0`.
    pub fn weight(&self) -> f64 {
        self.metric("grayling_weight_ratio", &[("release", RELEASE)]).expect("grayling_weight_ratio is there")
    }

    /// Every decision so far.
    pub fn ledger(&self) -> Vec<Value> {
        self.json("/api/v1/ledger?since=0").as_array().cloned().unwrap_or_default()
    }

    pub fn trip(&self) -> Option<Value> {
        let trip = self.release()["trip"].clone();
        (!trip.is_null()).then_some(trip)
    }
}

/// One line of the Prometheus text format, version 0.0.4.
fn parse_sample(line: &str) -> Option<(Series, f64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some(((series.to_owned(), BTreeMap::new()), value));
    };
    let labels = labels.strip_suffix('}')?;
    let mut parsed = BTreeMap::new();
    for pair in labels.split("\",") {
        if let Some((key, value)) = pair.split_once("=\"") {
            parsed.insert(key.to_owned(), value.trim_end_matches('"').to_owned());
        }
    }
    Some(((name.to_owned(), parsed), value))
}
