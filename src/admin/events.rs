//! Server-sent events (WHATWG HTML, section 9.2) for the page: `GET /api/v1/events`.
//!
//! | event | data |
//! |---|---|
//! | `status` | the body of `/api/v1/status`: each second, and right after a change |
//! | `change` | an entry of the ledger, when it is announced |
//! | `point` | the newest point of `/api/v1/history`, every five seconds |
//! | `dropped` | `{"events": N}` were lost to this reader: read ledger and history again |
//!
//! Invariants: a summary is computed once for all streams, and only while there are any.
//! The number of streams is bounded, and each has a queue of 16 events. An event that finds a full
//! queue is dropped and counted; the sender never waits for a reader.
//! A stream does not outlive the token that opened it: a reload that changes who is admitted ends
//! all streams.

use super::auth::refuse;
use super::history::{History, STEP};
use super::routes::status_of;
use super::serve::AdminConnection;
use crate::runtime::shared::SharedState;
use crate::telemetry::clock;
use axum::body::Body;
use axum::extract::Query;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use http_body::Frame;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval};

/// Bound on the events queued for a stream.
const QUEUE: usize = 16;
const EVERY: Duration = Duration::from_secs(1);
/// A stream whose reader has taken nothing for this long is closed.
const STALLED: Duration = Duration::from_secs(30);

/// Makes the events, once for all streams.
pub struct EventHub {
    shared: Arc<SharedState>,
    history: Mutex<History>,
    streams: Mutex<EventStreams>,
    room: Arc<Semaphore>,
    streams_max: usize,
    /// Notified when a stream opens without a fresh summary.
    wanted: Notify,
}

#[derive(Default)]
struct EventStreams {
    open: Vec<EventStream>,
    /// The last summary, and when it was made.
    latest: Option<(Duration, Bytes)>,
}

struct EventStream {
    to: mpsc::Sender<Bytes>,
    /// Events lost since the last `dropped` event.
    lost: u64,
}

impl EventHub {
    pub fn new(shared: Arc<SharedState>, streams_max: usize) -> Arc<EventHub> {
        Arc::new(EventHub {
            shared,
            history: Mutex::default(),
            streams: Mutex::default(),
            room: Arc::new(Semaphore::new(streams_max)),
            streams_max,
            wanted: Notify::new(),
        })
    }

    /// The only task; it runs as long as the control plane.
    pub async fn run(self: Arc<Self>) {
        let mut told = self.shared.commits.told.subscribe();
        let (mut second, mut step) = (interval(EVERY), interval(STEP));
        second.set_missed_tick_behavior(MissedTickBehavior::Delay);
        step.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                entry = told.recv() => {
                    match entry {
                        Ok(entry) => self.send(&event("change", &entry)),
                        Err(RecvError::Lagged(n)) => self.send(&event("dropped", &json!({"events": n}))),
                        Err(RecvError::Closed) => return,
                    }
                    // A change is sent at once; several at once share one summary.
                    if told.is_empty() {
                        self.summarise();
                    }
                }
                () = self.wanted.notified() => self.summarise(),
                _ = second.tick() => self.summarise(),
                _ = step.tick() => self.note(),
            }
        }
    }

    fn summarise(&self) {
        if self.streams().open.is_empty() {
            return;
        }
        let summary = event("status", &status_of(&self.shared));
        self.streams().latest = Some((clock::now(), summary.clone()));
        self.send(&summary);
    }

    /// Records the next point of the history, also without streams.
    fn note(&self) {
        let strongest = |view: &crate::runtime::shared::ReleaseView| {
            let signals = view.judgement.as_ref()?.signals.iter();
            signals.filter(|s| s.can_trip()).map(|s| s.evidence_ratio).max_by(f64::total_cmp)
        };
        let evidence: BTreeMap<String, f64> = {
            let views = self.shared.views();
            views.iter().filter_map(|(name, view)| Some((name.clone(), strongest(view)?))).collect()
        };
        let snapshot = self.shared.commits.announced();
        let releases = snapshot.releases.iter().map(Arc::as_ref);
        let point = self.history().observe(releases, &evidence, clock::now());
        self.send(&event("point", &point));
    }

    /// Sends an event to every stream without waiting.
    fn send(&self, event: &Bytes) {
        let lost = self.streams().send(event);
        self.shared.gauges.events_dropped.fetch_add(lost, Relaxed);
    }

    /// Ends every stream: those that are still admitted come back.
    pub fn close_streams(&self) {
        self.streams().open.clear();
    }

    /// Opens a stream; `None`: there are too many.
    fn open(&self) -> Option<(mpsc::Receiver<Bytes>, OwnedSemaphorePermit)> {
        let room = self.room.clone().try_acquire_owned().ok()?;
        let (from, fresh) = self.streams().open(clock::now());
        if !fresh {
            self.wanted.notify_one();
        }
        Some((from, room))
    }

    fn streams(&self) -> MutexGuard<'_, EventStreams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventStreams {
    /// Opens a stream; also returns whether it got a summary that is fresh at `now`.
    fn open(&mut self, now: Duration) -> (mpsc::Receiver<Bytes>, bool) {
        let (to, from) = mpsc::channel(QUEUE);
        // A new queue has room for both.
        let _ = to.try_send(Bytes::from_static(b"retry: 1000\n\n"));
        let latest = self.latest.as_ref().filter(|(at, _)| now.saturating_sub(*at) < EVERY);
        let fresh = latest.is_some_and(|(_, summary)| to.try_send(summary.clone()).is_ok());
        self.open.push(EventStream { to, lost: 0 });
        (from, fresh)
    }

    /// Returns how many streams had no room for the event.
    fn send(&mut self, event: &Bytes) -> u64 {
        let mut full = 0;
        self.open.retain_mut(|stream| {
            if stream.lost > 0 && stream.to.try_send(dropped(stream.lost)).is_ok() {
                stream.lost = 0;
            }
            match stream.to.try_send(event.clone()) {
                Ok(()) => true,
                Err(TrySendError::Full(_)) => {
                    stream.lost += 1;
                    full += 1;
                    true
                }
                Err(TrySendError::Closed(_)) => false,
            }
        });
        full
    }
}

fn event(name: &str, data: &impl Serialize) -> Bytes {
    // JSON escapes line ends. Plain values with text keys always serialise.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn dropped(events: u64) -> Bytes {
    event("dropped", &json!({ "events": events }))
}

pub async fn events(
    Extension(hub): Extension<Arc<EventHub>>,
    lease: Option<Extension<AdminConnection>>,
) -> Response {
    let Some((from, room)) = hub.open() else {
        let hint = "close a page, or poll /api/v1/status".to_owned();
        let error = format!("there are {} streams already", hub.streams_max);
        return refuse(StatusCode::SERVICE_UNAVAILABLE, error, Some(hint));
    };
    hub.shared.gauges.event_streams.fetch_add(1, Relaxed);
    let lease = lease.map(|Extension(lease)| lease);
    if let Some(lease) = &lease {
        lease.becomes_stream();
    }
    let body = EventBody { from, lease, shared: hub.shared.clone(), _room: room };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx in front would otherwise buffer events.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(body)).into_response()
}

#[derive(Deserialize)]
pub struct HistoryQuery {
    release: Option<String>,
}

pub async fn history(
    Extension(hub): Extension<Arc<EventHub>>,
    Query(query): Query<HistoryQuery>,
) -> Response {
    let told = hub.history().points(query.release.as_deref(), clock::now());
    Json(told).into_response()
}

/// The response body of a stream; it never ends by itself.
struct EventBody {
    from: mpsc::Receiver<Bytes>,
    lease: Option<AdminConnection>,
    shared: Arc<SharedState>,
    _room: OwnedSemaphorePermit,
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = std::task::ready!(self.from.poll_recv(cx));
        // hyper polls for the next event when there is room for it, so the reader is alive.
        if let Some(lease) = &self.lease {
            lease.extend(STALLED);
        }
        Poll::Ready(event.map(|event| Ok(Frame::data(event))))
    }
}

impl Drop for EventBody {
    fn drop(&mut self) {
        self.shared.gauges.event_streams.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(from: &mut mpsc::Receiver<Bytes>) -> Vec<String> {
        std::iter::from_fn(|| from.try_recv().ok()).map(|b| String::from_utf8(b.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_reader_that_takes_nothing_loses_events_that_others_get_and_is_told_how_many() {
        let mut streams = EventStreams::default();
        let ((mut slow, _), (mut quick, _)) = (streams.open(EVERY), streams.open(EVERY));
        let mut got = taken(&mut quick);
        let mut lost = 0;
        for n in 0..40 {
            lost += streams.send(&event("n", &n));
            got.extend(taken(&mut quick));
        }
        assert_eq!((got.len(), got[40].as_str()), (41, "event: n\ndata: 39\n\n"));
        // One place of its queue holds the greeting.
        let kept = QUEUE as u64 - 1;
        assert_eq!((taken(&mut slow).len() as u64, lost), (QUEUE as u64, 40 - kept));
        streams.send(&event("n", &40));
        let told = format!("event: dropped\ndata: {{\"events\":{}}}\n\n", 40 - kept);
        assert_eq!(taken(&mut slow), [told, "event: n\ndata: 40\n\n".to_owned()]);
    }

    #[test]
    fn who_is_gone_is_forgotten_and_who_comes_begins_with_what_is_fresh() {
        let mut streams = EventStreams::default();
        drop(streams.open(Duration::ZERO));
        streams.send(&event("n", &1));
        assert!(streams.open.is_empty());
        streams.latest = Some((Duration::from_secs(10), event("status", &1)));
        let (mut from, fresh) = streams.open(Duration::from_millis(10_900));
        assert!(fresh && taken(&mut from).last().unwrap().starts_with("event: status"));
        assert!(!streams.open(Duration::from_millis(11_000)).1, "a second old: a new one is made");
    }
}
