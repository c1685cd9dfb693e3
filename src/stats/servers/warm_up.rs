//! Warm-ups of a server after its start, and of `new` after a raise.
//!
//! Invariants: a warm-up needs its time and [`WARM_ANSWERS`] answers; the warm-ups of one wave take
//! [`WARM_WAVE`] at most; a server that restarts repeatedly has [`WARM_TIMES`] of them.

use super::*;

impl ServerClusters {
    /// All of `new` warms up: it may take more of the traffic than before.
    pub fn release_warms_up(&mut self, now: Duration) {
        self.warm_left = WARM_WAVE;
        (self.release_since, self.release_answers) = (Some(now), 0);
        self.release_before = Duration::ZERO;
    }

    /// Starts another wave without a warm-up of its own.
    pub fn wave(&mut self) {
        self.warm_left = WARM_WAVE;
    }

    /// A server that has started warms up, unless it did so too often.
    pub fn server_warms_up(&mut self, place: ServerIndex, now: Duration) {
        let warm = &mut self.server(place).warm;
        warm.past.retain(|(since, _)| now.saturating_sub(*since) < WARM_SPAN);
        if warm.past.len() < WARM_TIMES && warm.since.is_none() {
            (warm.since, warm.before, warm.answers) = (Some(now), Duration::ZERO, 0);
        }
    }

    /// Counts an answer of a server.
    pub fn answered(&mut self, place: ServerIndex) {
        let release = place.arm == Arm::New && self.release_since.is_some();
        self.release_answers += u32::from(release);
        if let Some(server) = self.all.get_mut(place.index())
            && server.warm.since.is_some()
        {
            server.warm.answers += 1;
        }
    }

    pub(super) fn warm_tick(&mut self, now: Duration, passed: Duration) {
        let (warm_up, spent) = (self.warm_up, self.warm_left.is_zero());
        let ends = |since: Duration, before: Duration, answers: u32| {
            spent || (now.saturating_sub(since) + before >= warm_up && answers >= WARM_ANSWERS)
        };
        let mut warming = false;
        if let Some(since) = self.release_since {
            warming = true;
            if ends(since, self.release_before, self.release_answers) {
                (self.release_since, self.release_past) = (None, Some((since, now)));
            }
        }
        for (index, server) in self.all.iter_mut().enumerate() {
            let Some(since) = server.warm.since else { continue };
            warming |= ServerIndex::from_index(index).arm == Arm::New;
            if ends(since, server.warm.before, server.warm.answers) {
                server.warm.since = None;
                server.warm.past.push_back((since, now));
            }
        }
        if warming {
            self.warm_left = self.warm_left.saturating_sub(passed);
        }
    }

    /// Warm-ups that go on: their time so far, and their answers. A restart is no new warm-up.
    pub(super) fn save_warm_up(&self, now: Duration, encoder: &mut Encoder) {
        let mut one = |since: Option<Duration>, before: Duration, answers: u32| {
            encoder.u32(u32::from(since.is_some()));
            encoder.u64(since.map_or(0, |since| (now.saturating_sub(since) + before).as_millis() as u64));
            encoder.u32(answers);
        };
        one(self.release_since, self.release_before, self.release_answers);
        self.all.iter().for_each(|ServerHistory { warm, .. }| one(warm.since, warm.before, warm.answers));
        encoder.u64(self.warm_left.as_millis() as u64);
    }

    /// The counterpart of [`ServerClusters::save_warm_up`], for `servers` of both arms.
    pub(super) fn restore_warm_up(
        &mut self,
        servers: usize,
        now: Duration,
        decoder: &mut Decoder<'_>,
    ) -> Option<()> {
        let mut one = || -> Option<(Option<Duration>, Duration, u32)> {
            let goes_on = decoder.u32()? > 0;
            Some((
                goes_on.then_some(now),
                Duration::from_millis(decoder.u64()?.min(3_600_000)),
                decoder.u32()?,
            ))
        };
        (self.release_since, self.release_before, self.release_answers) = one()?;
        self.all = vec![ServerHistory::default(); servers];
        for ServerHistory { warm, .. } in &mut self.all {
            (warm.since, warm.before, warm.answers) = one()?;
        }
        self.warm_left = Duration::from_millis(decoder.u64()?).min(WARM_WAVE);
        Some(())
    }

    pub(super) fn release_was_warming(&self, at: Duration) -> bool {
        self.release_since.is_some_and(|since| at >= since)
            || self.release_past.is_some_and(|(since, until)| at >= since && at < until)
    }

    /// True if this server was warming up at that time.
    pub fn is_warming(&self, place: ServerIndex, at: Duration) -> bool {
        let release = place.arm == Arm::New && self.release_was_warming(at);
        let server = self.all.get(place.index());
        release || server.is_some_and(|server| server.warm.was_on(at))
    }

    /// True if all of `new`, or this server of either arm, was warming up at that time.
    pub fn was_warming(&self, place: Option<ServerIndex>, at: Duration) -> bool {
        let server = place.and_then(|place| self.all.get(place.index()));
        self.release_was_warming(at) || server.is_some_and(|server| server.warm.was_on(at))
    }

    /// The present warm-up of all of `new`, else the one of its servers with the longest time left.
    pub fn warming(&self, now: Duration) -> Option<WarmUp> {
        let left = |since: Duration, before: Duration, answers: u32| WarmUp {
            left: (since + self.warm_up).saturating_sub(now + before),
            answers_left: WARM_ANSWERS.saturating_sub(answers),
            server: None,
        };
        let release = self.release_since.map(|since| left(since, self.release_before, self.release_answers));
        let of_servers = self.all.iter().enumerate().filter_map(|(index, server)| {
            let place = ServerIndex::from_index(index);
            let since = server.warm.since.filter(|_| place.arm == Arm::New)?;
            Some(WarmUp {
                server: Some(place.server),
                ..left(since, server.warm.before, server.warm.answers)
            })
        });
        release.or_else(|| of_servers.max_by_key(|warming| warming.left))
    }
}

/// A warm-up in progress.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WarmUp {
    /// Time left.
    pub left: Duration,
    /// Answers still needed.
    pub answers_left: u32,
    /// The server. `None`: all of `new`.
    pub server: Option<u8>,
}

impl ServerWarmUps {
    pub(super) fn was_on(&self, at: Duration) -> bool {
        self.since.is_some_and(|since| at >= since)
            || self.past.iter().any(|(since, until)| at >= *since && at < *until)
    }

    pub(super) fn touches(&self, since: Duration) -> bool {
        self.since.is_some() || self.past.iter().any(|(_, until)| *until >= since)
    }
}
