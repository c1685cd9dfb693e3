//! One receiver of alerts: its queue, the task that empties it, and its protocol.
//!
//! An *Alertmanager* gets states: a standing alert is posted again every `repeat`, an ended one
//! until it is accepted.
//! Each has an expiry time, so the alerts of a grayling that is gone end by themselves.
//! *Slack* and a *webhook* get each begin and each end once, in order.
//!
//! Invariants: adding to a queue never waits. The queue is bounded; on overflow the oldest notice
//! is lost and counted. A slow or absent receiver is retried with exponential backoff from one
//! second, and delays no other. Secrets (paths of addresses, keys) reach no log.

use super::alert::{AlertChange, AlertKind, StandingAlert};
use super::post::{Post, PostError};
use crate::domain::config::{Receiver, ReceiverKind};
use crate::domain::digest::{Digest, hex};
use crate::runtime::shared::SharedState;
use crate::telemetry::backoff::Backoff;
use crate::telemetry::clock;
use crate::telemetry::throttle::{TroubleEdges, Turn};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The most notices in a queue: enough for weeks, except in very abnormal cases.
const WAITING_MAX: usize = 1000;
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30) };
/// A notice that the receiver refuses for this long is dropped: it would delay all later ones.
const REFUSED_MAX: Duration = Duration::from_secs(900);
/// Unrepeated alerts expire after four times `repeat`, but not before this.
const HOLDS_MIN: Duration = Duration::from_secs(300);

/// The queue of a receiver; its task ends with it.
pub struct AlertQueue {
    receiver: Receiver,
    queue: Arc<QueueState>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct QueueState {
    waiting: Mutex<VecDeque<AlertChange>>,
    notify: Notify,
    /// Dropped at the old end, and not counted yet.
    dropped: AtomicU64,
}

impl AlertQueue {
    pub fn open(receiver: Receiver, shared: Arc<SharedState>) -> AlertQueue {
        let queue = Arc::new(QueueState::default());
        shared.alerts.change(&receiver.name, |_| {});
        let sender = AlertSender {
            receiver: receiver.clone(),
            queue: queue.clone(),
            shared,
            trouble: TroubleEdges::default(),
        };
        let task = match receiver.kind {
            ReceiverKind::Alertmanager { repeat } => tokio::spawn(sender.tell_states(repeat)),
            ReceiverKind::Slack | ReceiverKind::Webhook { .. } => tokio::spawn(sender.tell_events()),
        };
        AlertQueue { receiver, queue, task }
    }

    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    pub fn put(&self, notice: AlertChange) {
        self.queue.put(notice);
    }
}

impl Drop for AlertQueue {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl QueueState {
    fn put(&self, notice: AlertChange) {
        let mut waiting = self.waiting();
        waiting.push_back(notice);
        let excess = waiting.len().saturating_sub(WAITING_MAX);
        waiting.drain(..excess);
        drop(waiting);
        self.dropped.fetch_add(excess as u64, Relaxed);
        self.notify.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<AlertChange>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AlertSender {
    receiver: Receiver,
    queue: Arc<QueueState>,
    shared: Arc<SharedState>,
    trouble: TroubleEdges,
}

impl AlertSender {
    /// Slack, webhook.
    async fn tell_events(mut self) {
        let (mut failures, mut refused_since) = (0u32, None);
        loop {
            let (next, left) = {
                let waiting = self.queue.waiting();
                (waiting.front().cloned(), waiting.len() as u64)
            };
            let dropped = self.queue.dropped.swap(0, Relaxed);
            self.shared.alerts.change(&self.receiver.name, |count| {
                count.dropped += dropped;
                count.waiting = left;
            });
            let Some(notice) = next else {
                self.queue.notify.notified().await;
                continue;
            };
            let post = match &self.receiver.kind {
                ReceiverKind::Webhook { secrets } => webhook(&notice, secrets, clock::at_ms() / 1000),
                _ => slack(&notice),
            };
            let told = post.send(&self.receiver.address, self.receiver.tls.as_ref()).await;
            self.count(&told);
            let done = match &told {
                Ok(()) => true,
                Err(PostError::Refused { lasting: true, .. }) => {
                    let since = *refused_since.get_or_insert_with(Instant::now);
                    since.elapsed() > REFUSED_MAX
                }
                Err(_) => false,
            };
            if done {
                if told.is_err() {
                    self.shared.alerts.change(&self.receiver.name, |count| count.dropped += 1);
                }
                (failures, refused_since) = (0, None);
                // The old end may have been cut off during the call.
                let mut waiting = self.queue.waiting();
                if waiting.front() == Some(&notice) {
                    waiting.pop_front();
                }
                continue;
            }
            failures = failures.saturating_add(1);
            let asked = told.err().and_then(|e| e.retry_after());
            tokio::time::sleep(asked.unwrap_or_else(|| BACKOFF.after(failures))).await;
        }
    }

    /// Alertmanager.
    async fn tell_states(mut self, repeat: Duration) {
        let mut states: BTreeMap<(AlertKind, Option<String>), AlertChange> = BTreeMap::new();
        let mut failures = 0u32;
        loop {
            for notice in self.queue.waiting().drain(..) {
                let key = (notice.alert.kind, notice.alert.release.clone());
                states.insert(key, notice);
            }
            if states.is_empty() {
                self.queue.notify.notified().await;
                continue;
            }
            let post = alertmanager(states.values(), (4 * repeat).max(HOLDS_MIN), clock::at_ms());
            let told = post.send(&self.receiver.address, self.receiver.tls.as_ref()).await;
            self.count(&told);
            let pause = match told {
                Ok(()) => {
                    self.shared.alerts.change(&self.receiver.name, |count| count.waiting = 0);
                    states.retain(|_, notice| notice.over_ms.is_none());
                    failures = 0;
                    repeat
                }
                Err(error) => {
                    let waiting = states.len() as u64;
                    self.shared.alerts.change(&self.receiver.name, |count| count.waiting = waiting);
                    failures = failures.saturating_add(1);
                    let pause = error.retry_after().unwrap_or_else(|| BACKOFF.after(failures));
                    // Notices that arrive meanwhile are sent with the rest.
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            let _ = tokio::time::timeout(pause, self.queue.notify.notified()).await;
        }
    }

    fn count(&mut self, told: &Result<(), PostError>) {
        let name = &self.receiver.name;
        self.shared.alerts.change(name, |count| match told {
            Ok(()) => count.taken += 1,
            Err(_) => count.failed += 1,
        });
        let place = self.receiver.address.to_string();
        match (told, self.trouble.turn(told.is_err())) {
            (Err(error), Some(Turn::Begins)) => self.shared.log.event(
                "alert_not_told",
                json!({"receiver": name, "address": place, "error": error.to_string(), "effect": "it is tried again"}),
            ),
            (Ok(()), Some(Turn::Ends)) => self.shared.log.event("alert_told_again", json!({"receiver": name, "address": place})),
            _ => {}
        }
    }
}

/// Alertmanager's API, version 2: `POST /api/v2/alerts`.
fn alertmanager<'a>(notices: impl Iterator<Item = &'a AlertChange>, holds: Duration, at_ms: i64) -> Post {
    let alerts: Vec<Value> = notices
        .map(|notice| {
            let StandingAlert { kind, release, attempt, cause, since_ms, summary, detail, update, held: _ } =
                &notice.alert;
            let mut labels =
                json!({"alertname": kind.alertname(), "severity": kind.severity(), "source": "grayling"});
            let more = [("release", release.clone()), ("cause", cause.map(str::to_owned))];
            for (name, value) in more.into_iter().filter_map(|(name, value)| Some((name, value?))) {
                labels[name] = value.into();
            }
            let command = kind.first_command(release.as_deref());
            let mut annotations = json!({"summary": summary, "description": detail,
                "first_command": command, "runbook": kind.runbook()});
            if *update > 0 {
                annotations["update"] = update.to_string().into();
            }
            if let Some(attempt) = attempt {
                annotations["attempt"] = attempt.to_string().into();
            }
            let ends_ms = notice.over_ms.unwrap_or(at_ms.saturating_add(holds.as_millis() as i64));
            json!({"labels": labels, "annotations": annotations, "startsAt": clock::rfc3339(*since_ms),
                   "endsAt": clock::rfc3339(ends_ms.max(since_ms.saturating_add(1)))})
        })
        .collect();
    Post::json(&Value::Array(alerts))
}

/// Slack's incoming webhook.
/// Its text format has three special characters.
fn slack(notice: &AlertChange) -> Post {
    let plain = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let StandingAlert { kind, release, summary, detail, since_ms, .. } = &notice.alert;
    let text = match notice.over_ms {
        None => format!(
            "*{}*\n{}\nfirst: {}\n(since {})",
            plain(summary),
            plain(detail),
            plain(&kind.first_command(release.as_deref())),
            clock::rfc3339(*since_ms)
        ),
        Some(over) => format!("over at {}: {}", clock::rfc3339(over), plain(summary)),
    };
    Post::json(&json!({ "text": text }))
}

/// Standard Webhooks, version 1: the id is the same for every retry, the time is that of the call.
fn webhook(notice: &AlertChange, secrets: &[Vec<u8>], at_s: i64) -> Post {
    let StandingAlert { kind, release, attempt, cause, since_ms, summary, detail, update, held: _ } =
        &notice.alert;
    let state = if notice.over_ms.is_some() { "resolved" } else { "firing" };
    let told_of = clock::rfc3339(notice.over_ms.unwrap_or(*since_ms));
    let mut post = Post::json(&json!({
        "type": format!("grayling.alert.{state}"),
        "timestamp": told_of,
        "data": {
            "alert": kind.label(), "state": state, "severity": kind.severity(), "release": release, "attempt": attempt,
            "cause": cause, "summary": summary, "detail": detail, "since": clock::rfc3339(*since_ms),
            "first_command": kind.first_command(release.as_deref()), "runbook": kind.runbook(), "update": update,
            "resolved_at": notice.over_ms.map(clock::rfc3339),
        },
    }));
    let release = release.as_deref().unwrap_or_default();
    // An update of a standing alert is another message.
    let update = if *update > 0 { format!("\n{update}") } else { String::new() };
    let of = format!("{}\n{release}\n{since_ms}\n{state}{update}", kind.label());
    let id = format!("msg_{}", hex(&Digest::of(of.as_bytes())[..16]));
    let signed = [format!("{id}.{at_s}.").as_bytes(), &post.body].concat();
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| {
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), &signed);
            format!("v1,{}", STANDARD.encode(tag))
        })
        .collect();
    post.header("webhook-id", id);
    post.header("webhook-timestamp", at_s.to_string());
    post.header("webhook-signature", signatures.join(" "));
    post
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(over_ms: Option<i64>) -> AlertChange {
        let alert = StandingAlert {
            kind: AlertKind::Trip,
            release: Some("billing".into()),
            attempt: Some(3),
            cause: Some("errors"),
            since_ms: 1_700_000_000_000,
            summary: "billing <out> & about".into(),
            detail: "new 41 of 812".into(),
            update: 0,
            held: None,
        };
        AlertChange { alert, over_ms }
    }

    #[test]
    fn an_alertmanager_is_told_until_when_an_alert_holds_and_when_it_was_over() {
        let sent = |over_ms| {
            let notice = notice(over_ms);
            let post = alertmanager([&notice].into_iter(), Duration::from_secs(300), 1_700_000_100_000);
            serde_json::from_slice::<Value>(&post.body).unwrap()[0].clone()
        };
        let stands = sent(None);
        assert_eq!(
            stands["labels"],
            json!({"alertname": "GraylingRolledBack", "severity": "page", "source": "grayling", "release": "billing", "cause": "errors"})
        );
        assert_eq!(
            [&stands["startsAt"], &stands["endsAt"]],
            ["2023-11-14T22:13:20.000Z", "2023-11-14T22:20:00.000Z"]
        );
        let over = sent(Some(1_700_000_050_000));
        assert_eq!(
            (&over["labels"], &over["endsAt"]),
            (&stands["labels"], &json!("2023-11-14T22:14:10.000Z"))
        );
    }

    #[test]
    fn a_full_box_loses_its_old_end_and_counts_it() {
        let queue = QueueState::default();
        (0..WAITING_MAX as i64 + 3).for_each(|i| queue.put(notice(Some(i))));
        let first = queue.waiting().front().and_then(|n| n.over_ms);
        assert_eq!((queue.waiting().len(), first, queue.dropped.load(Relaxed)), (WAITING_MAX, Some(3), 3));
    }

    #[test]
    fn what_slack_would_take_for_markup_is_text() {
        let post = slack(&notice(None));
        let text = serde_json::from_slice::<Value>(&post.body).unwrap()["text"].as_str().unwrap().to_owned();
        assert!(text.starts_with("*billing &lt;out&gt; &amp; about*\nnew 41 of 812\n"), "{text}");
    }

    #[test]
    fn a_webhook_keeps_its_id_over_tries_and_has_one_of_its_own_when_it_is_over() {
        let id = |over, at| webhook(&notice(over), &[vec![7; 32]], at).headers[0].clone();
        assert_eq!(id(None, 1), id(None, 2));
        assert_ne!(id(None, 1), id(Some(1_700_000_050_000), 1));
    }
}
