//! The judge's own counts beside the engine: redirects, long exchanges, small bodies, slow answers,
//! and failures by user.
//!
//! Invariants: events are counted as they come, failures when their interval is final.

use super::*;
use crate::stats::engine::AT_ONCE;

impl Judge {
    /// Renumbers the servers of an arm; `before`: the number that each had, if any.
    pub fn servers_renumbered(&mut self, arm: Arm, before: &[Option<u8>]) {
        self.engine.servers_renumbered(arm, before);
        if arm == Arm::New {
            self.onsets.renumber(before);
        }
    }

    /// Learns stable's values before `new` has users.
    pub(super) fn learn_before(&mut self, now: Duration) {
        if now.saturating_sub(self.learnt) >= RECENT && self.engine.has_had_nobody() {
            self.learnt = now;
            let [errors, slow] = &mut self.before;
            errors.learn(self.failures.last());
            slow.learn(self.slow.last());
        }
    }

    /// The fit of the ceilings of errors and of latency for this service.
    pub fn fitted(&self) -> [FittedCeiling; 2] {
        let [errors, slow] = &self.before;
        let [errors_stated, slow_stated] = self.limits.stated;
        [errors.fit(self.limits.errors_max, errors_stated), slow.fit(SLOW_SHARE, slow_stated)]
    }

    /// Takes events of requests, in the order of time.
    pub fn push_all(&mut self, events: &[RequestEvent]) {
        self.stable.record(events, self.engine.reference().map(|table| table.slow_from()));
        self.onsets.set_slow_from(SlowFrom {
            usual: self.engine.reference().map(|table| table.slow_from()),
            max: Some(self.limits.latency_p99_max),
        });
        // The judge counts an event first: the engine drops the state of an exchange at its end.
        let [redirects, long, small] = &mut self.seen;
        for few in events.chunks(AT_ONCE) {
            self.engine.prefetch(few);
            for event in few {
                let (arm, user) = (event.request.arm.index(), event.request.unit);
                if !matches!(event.what, EventKind::Ended { .. }) {
                    self.onsets.push(event, |_| false);
                }
                if self.notice.since().is_some() {
                    let VerdictLimits { latency_notice, latency_floor, .. } = self.limits;
                    self.notice.push(event, self.engine.factor(user), latency_notice, latency_floor);
                }
                let mut ends = None;
                match event.what {
                    EventKind::Answered | EventKind::ClientError => redirects[arm].came(1),
                    EventKind::Redirected => {
                        redirects[arm].came(1);
                        redirects[arm].was_bad(user);
                    }
                    EventKind::Ended { size, client_slow } => {
                        let ended = self.engine.ended(event, size, client_slow);
                        ends = Some(ended);
                        self.onsets.push(event, |kind| ended.counted.has(kind));
                        long[arm].came(1);
                        small[arm].came(1);
                        self.small_now[arm].came(1);
                        if ended.counted.has(FirstEventKind::Long) {
                            long[arm].was_bad(user);
                        }
                        if ended.counted.has(FirstEventKind::Empty) {
                            small[arm].was_bad(user);
                            self.small_now[arm].was_bad(user);
                        }
                    }
                    _ => {}
                }
                self.engine.push_with(event, ends);
            }
        }
        self.own_past.record(events);
        self.hear_answers(events);
        let watches = !self.engine.has_had_nobody()
            && (self.engine.servers().warming(self.ticked).is_some() || !self.controlled());
        self.silence.record(events, watches, self.ticked);
    }

    /// Counts successes above the latency ceiling, except on a server that warms up or is in a
    /// spell.
    fn hear_answers(&mut self, events: &[RequestEvent]) {
        let limit = self.limits.latency_p99_max;
        for event in events {
            if !matches!(event.what, EventKind::Answered | EventKind::Redirected) {
                continue;
            }
            self.has_answered = true;
            let request = &event.request;
            if event.after <= limit {
                self.slow.came(request.arm, 1);
                continue;
            }
            let place = request.server.map(|server| ServerIndex { arm: request.arm, server });
            let now = request.at + event.after;
            let servers = self.engine.servers();
            if !place.is_some_and(|place| servers.is_excused(ServerMark::Slow, place, request.at, now)) {
                self.slow.came(request.arm, 1);
                self.slow.was_bad(request.arm, request.unit);
            }
        }
    }

    /// The counts of the last minute. Repeated events of one account count by the rule of
    /// `crate::domain::judge::bad_requests`.
    pub(super) fn by_user(&self, signal: engine::Signal) -> CeilingSample {
        let [stable, new] = &self.seen[usize::from(signal == engine::Signal::Duration)
            + 2 * usize::from(signal == engine::Signal::Empty)];
        CeilingSample {
            requests: PerArm::new(new.requests(), stable.requests()),
            bad: PerArm::new(new.count(), stable.count()),
        }
    }
}

/// A client that gave up on stable counts as a failure of stable.
/// If the time-out of `new` is shorter than the patience of clients, and that of stable longer, a
/// shared outage would look like a failure of `new` alone.
/// This can only exonerate `new`.
pub(super) fn take_failures(failures: &mut TrailingWindows, of: &FinalInterval<'_>) {
    for (arm, counts) in [(Arm::Stable, &of.stable), (Arm::New, &of.new)] {
        let (gave_up, failed) = match arm {
            Arm::Stable => (counts.gave_up, counts.failed_stable()),
            Arm::New => (0, counts.failed_new()),
        };
        failures.came(arm, (counts.requests + gave_up).saturating_sub(counts.excused + counts.spells));
        let mut known = 0;
        for failure in of.failures.iter().filter(|failure| failure.arm == arm && !failure.excused) {
            failures.was_bad(arm, failure.user);
            known += 1;
        }
        failures.more_were_bad(arm, (failed + gave_up).saturating_sub(known));
    }
    failures.close(of.end);
}

/// The interval for the window of the ceilings.
pub(super) fn interval(of: &FinalInterval<'_>) -> CeilingInterval {
    let both = |read: fn(&engine::IntervalCounts) -> u64| PerArm::new(read(&of.new), read(&of.stable));
    CeilingInterval {
        end: of.end,
        requests: both(|c| c.requests.saturating_sub(c.excused)),
        failed: PerArm::new(of.new.failed_new(), of.stable.failed_stable()),
        client_errors: both(|c| c.client_errors),
    }
}
