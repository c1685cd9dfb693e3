//! The upstream's deadlines: for the response head, and for each piece of the response body.
//!
//! Invariant: an upstream gets extra time if this thread was late.

use super::request_body::RequestBodyState;
use crate::net::lazy_timer::LazyTimer;
use crate::telemetry::clock;
use crate::upstream::server::UpstreamState;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Ready when the upstream has exceeded its time for the response head. The time restarts with each
/// piece of the client's body, and stops while the client is slow. (An `async` block is larger.)
pub struct HeadDeadline<'a> {
    body_state: &'a RequestBodyState,
    upstream: &'a UpstreamState,
    /// Of the whole exchange.
    total: Option<Duration>,
    until: Duration,
    alarm: LazyTimer,
}

impl<'a> HeadDeadline<'a> {
    pub fn new(
        body_state: &'a RequestBodyState,
        upstream: &'a UpstreamState,
        began: Duration,
        sent: Duration,
    ) -> Self {
        let total = upstream.config.total_timeout.map(|total| began + total);
        let until = sent + upstream.config.response_timeout;
        HeadDeadline { body_state, upstream, total, until, alarm: LazyTimer::default() }
    }
}

impl Future for HeadDeadline<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let timeouts = this.upstream.config.response_timeout;
        loop {
            let next = this.total.map_or(this.until, |total| total.min(this.until));
            ready!(this.alarm.poll(cx, clock::instant(next).into()));
            let now = clock::now();
            if woke_late(next, now) {
                // This thread was starved: first read what the upstream has sent meanwhile.
                this.until = now + GRACE;
                continue;
            }
            if this.total.is_some_and(|total| total <= now) {
                return Poll::Ready(());
            }
            this.until = match this.body_state.upstream_waits_since() {
                Some(since) if since + timeouts > this.until => since + timeouts,
                Some(_) => return Poll::Ready(()),
                None => now + timeouts,
            };
        }
    }
}

/// Extra time for an upstream when this thread was late.
pub const GRACE: Duration = Duration::from_millis(250);

/// Whether this thread woke up long after the deadline it slept for.
pub fn woke_late(deadline: Duration, now: Duration) -> bool {
    now.saturating_sub(deadline) > Duration::from_millis(100)
}

/// The upstream's time-outs that apply to a response body.
#[derive(Clone, Copy)]
pub struct Deadlines {
    /// Between two pieces, if bounded.
    pub idle: Option<Duration>,
    /// Of the whole exchange. Monotonic.
    pub total: Option<Duration>,
    /// The length of that time-out, from the beginning.
    pub whole: Option<Duration>,
}

impl Deadlines {
    /// The deadline for the next piece, from now; `None`: none.
    pub fn next(&self, now: Duration) -> Option<Duration> {
        let idle = self.idle.map(|idle| now + idle);
        idle.into_iter().chain(self.total).min()
    }
}
