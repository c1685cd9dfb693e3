//! Servers and the evidence: marks of each request, stable's usual values, and excused evidence.
//! [`crate::stats::servers`] has the rules.
//!
//! Invariants: the usual values are learnt from stable alone; a request is marked slow or fast
//! once.

use super::*;
use crate::stats::engine::{RequestEvent, SIZE_CLASSES, size_class};
use crate::stats::servers::{Excuse, ServerMark};

/// A request is slow, for a spell, above this multiple of stable's p90.
const SLOW_TIMES_P90: f64 = 2.0;
/// Ended exchanges of stable after which their usual durations and sizes are known.
const ENDS_KNOWN: f64 = 500.0;
/// A body is small this many size classes below the usual one.
const FAR_SMALLER: u8 = 2;
/// Rank of a request that is no evidence.
const NEUTRAL: f32 = 0.5;

/// Whole exchanges of stable: durations, and sizes of bodies by route.
#[derive(Clone, Debug)]
pub(super) struct WholeExchanges {
    durations: Vec<f64>,
    /// Bucket of p99.
    long_from: Option<usize>,
    sizes: Vec<[f64; SIZE_CLASSES as usize]>,
    usual_sizes: Vec<Option<u8>>,
}

impl WholeExchanges {
    pub(super) fn new() -> WholeExchanges {
        WholeExchanges {
            durations: vec![0.0; histogram::BUCKETS],
            long_from: None,
            sizes: vec![Default::default(); STRATA_MAX + 1],
            usual_sizes: vec![None; STRATA_MAX + 1],
        }
    }

    /// Applies the counts from here on, and halves the weight of older ones.
    fn settle(&mut self) {
        if self.durations.iter().sum::<f64>() >= ENDS_KNOWN {
            self.long_from = quantile(&self.durations, 0.99);
            self.durations.iter_mut().for_each(|n| *n /= 2.0);
        }
        for (sizes, usual) in self.sizes.iter_mut().zip(&mut self.usual_sizes) {
            if sizes.iter().sum::<f64>() >= ENDS_KNOWN {
                *usual = quantile(sizes, 0.5).map(|class| class as u8);
                sizes.iter_mut().for_each(|n| *n /= 2.0);
            }
        }
    }
}

/// The first index at which this share of the sum is reached.
fn quantile(counts: &[f64], share: f64) -> Option<usize> {
    let total: f64 = counts.iter().sum();
    let mut sum = 0.0;
    counts.iter().position(|n| {
        sum += n;
        total > 0.0 && sum >= share * total
    })
}

fn stratum_index(stratum: Option<u8>) -> usize {
    stratum.map_or(0, |s| 1 + usize::from(s)).min(STRATA_MAX)
}

impl Engine {
    /// The events of the end of a body, against the usual values of stable.
    pub fn ended(&self, event: &RequestEvent, size: u8, client_slow: bool) -> FirstEvents {
        let RequestEvent { request, after, .. } = event;
        let mut ends = FirstEvents::default();
        if let Some(long_from) = self.exchanges.long_from.filter(|_| !client_slow) {
            let factor = self.factor(request.unit);
            let is_long = |by: f64| bucket(self.settings.compared_us(*after, by) / factor) > long_from;
            // What is tolerated only makes it shorter; few are long.
            if is_long(1.0) && !self.late_heads.contains(&request.id) {
                let [flip, _] = self.settings.divisors();
                ends.all = ends.all.with(FirstEventKind::Long);
                if request.arm == Arm::Stable || is_long(flip) {
                    ends.counted = ends.counted.with(FirstEventKind::Long);
                }
            }
        }
        if let Some(Some(usual)) = self.exchanges.usual_sizes.get(stratum_index(request.stratum)) {
            let is_small = (size == 0 && *usual > 0) || size + FAR_SMALLER <= *usual;
            if is_small {
                ends.all = ends.all.with(FirstEventKind::Empty);
                ends.counted = ends.counted.with(FirstEventKind::Empty);
            }
        }
        ends
    }

    /// Takes the end of a body.
    pub(super) fn take_end(
        &mut self,
        event: &RequestEvent,
        size: u8,
        client_slow: bool,
        ends: FirstEvents,
        index: usize,
    ) {
        let request = &event.request;
        if request.arm == Arm::Stable {
            if !client_slow {
                let us = self.settings.compared_us(event.after, 1.0) / self.factor(request.unit);
                self.exchanges.durations[bucket(us)] += 1.0;
            }
            let class = size.min(size_class(u64::MAX));
            self.exchanges.sizes[stratum_index(request.stratum)][usize::from(class)] += 1.0;
        }
        if !self.late_heads.is_empty() {
            self.late_heads.remove(&request.id);
        }
        if ends == FirstEvents::default() {
            return;
        }
        if let Some(unit) = self.placed(request) {
            self.intervals[index].bad.push(UserEffect::by(request, unit, ends));
        }
    }

    /// Marks the requests of intervals older than the limit. A request without an answer by then is
    /// slow.
    pub(super) fn mark_servers(&mut self, now: Duration) {
        let tick = self.settings.tick;
        let limit = self.servers.limit();
        let until = number(now.saturating_sub(limit.unwrap_or(LIMIT_UNKNOWN)), tick);
        while self.marked_until < until {
            let at = self.marked_until;
            self.marked_until += 1;
            let index = at.checked_sub(self.oldest).map(|index| index as usize);
            let Some(interval) = index.and_then(|index| self.intervals.get_mut(index)) else { continue };
            let arrived = tick * u32::try_from(at).unwrap_or(u32::MAX);
            interval.pending.sort_unstable_by_key(|of| of.place.index());
            if self.late_heads.len() > LATE_HEADS_MAX {
                self.late_heads.clear();
            }
            let late = interval.pending.iter().filter(|of| of.came_out == RequestOutcome::Not);
            self.late_heads.extend(late.map(|of| of.id));
            for of_server in interval.pending.chunk_by(|a, b| a.place == b.place) {
                let place = of_server[0].place;
                let users = |came_out: RequestOutcome| {
                    let of = of_server.iter().filter(move |of| of.came_out == came_out);
                    of.map(|of| (Some(of.unit), of.factor))
                };
                let late: Vec<_> = users(RequestOutcome::Late).map(|(user, _)| user).collect();
                let fine = users(RequestOutcome::Answered).count() as u64;
                let failed: Vec<_> = users(RequestOutcome::Failed).map(|(user, _)| user).collect();
                let succeeded = fine + late.len() as u64;
                self.servers.mark(place, ServerMark::Failed, arrived, &failed, succeeded, now);
                if limit.is_some() {
                    // A user far slower than others may still be in time.
                    let waiting = users(RequestOutcome::Not).filter(|(_, f)| *f <= FAR_SLOWER);
                    let slow: Vec<_> = waiting.map(|(user, _)| user).chain(late).collect();
                    self.servers.mark(place, ServerMark::Slow, arrived, &slow, fine, now);
                }
            }
            interval.pending.clear();
        }
    }

    /// Updates stable's usual values, once a minute.
    pub(super) fn know_usual(&mut self) {
        let total: f64 = self.answers.iter().sum();
        if let Some(p90) = quantile(&self.answers, 0.9)
            && let Some(edge) = histogram::EDGES.get(p90)
        {
            let limit_us = (f64::from(*edge) * SLOW_TIMES_P90)
                .max(4.0 * self.settings.latency_floor.as_secs_f64() * 1e6);
            let slow: f64 = self.answers.iter().skip(bucket(limit_us) + 1).sum();
            let [requests, failed] = self.failing;
            let shares = [slow / total, if requests > 0.0 { failed / requests } else { 0.0 }];
            self.servers.set_usual(Duration::from_micros(limit_us as u64), shares);
        }
        self.answers.iter_mut().for_each(|n| *n /= 2.0);
        self.failing = self.failing.map(|n| n / 2.0);
        self.exchanges.settle();
    }

    /// Removes excused evidence from a final interval.
    pub(super) fn excuse(&mut self, at: u64, interval: &mut OpenInterval, now: Duration) {
        let arrived = self.settings.tick * u32::try_from(at).unwrap_or(u32::MAX);
        let slow = |place: Option<ServerIndex>, arrived: Duration| {
            place.is_some_and(|place| self.servers.is_excused(ServerMark::Slow, place, arrived, now))
        };
        let failed = |place: Option<ServerIndex>, arrived: Duration| {
            place.is_some_and(|place| self.servers.is_excused(ServerMark::Failed, place, arrived, now))
        };
        let without = |kinds: FirstEventKinds, place: Option<ServerIndex>, arrived: Duration| {
            let failure = FirstEventKinds::default().with(FirstEventKind::Failed).0 | SLOWNESS.0;
            match () {
                () if kinds.has(FirstEventKind::Failed) && failed(place, arrived) => {
                    FirstEventKinds(kinds.0 & !failure)
                }
                () if kinds.0 & SLOWNESS.0 != 0 && slow(place, arrived) => {
                    FirstEventKinds(kinds.0 & !SLOWNESS.0)
                }
                () => kinds,
            }
        };
        let mut held = vec![];
        for bad in &mut interval.bad {
            let FirstEvents { all, counted } = bad.ends;
            let was = *bad;
            bad.ends = FirstEvents {
                all: without(all, bad.place, bad.arrived),
                counted: without(counted, bad.place, bad.arrived),
            };
            if bad.ends != was.ends && self.is_undecided(&was, now) {
                held.push(was);
            }
        }
        for scored in &mut interval.scored {
            let kinds = without(scored.kinds, scored.place, arrived);
            if kinds != scored.kinds || slow(scored.place, arrived) {
                (scored.kinds, scored.rank) = (kinds, [NEUTRAL; LEVELS]);
            }
        }
        for failure in &mut interval.failures {
            failure.excused = failed(failure.server, arrived);
            interval.counts[failure.arm.index()].spells += u64::from(failure.excused);
        }
        held.truncate(HELD_MAX.saturating_sub(self.held.len()));
        self.held.append(&mut held);
    }

    fn is_undecided(&self, bad: &UserEffect, now: Duration) -> bool {
        bad.place.is_some_and(|place| self.servers.slow(place, bad.arrived, now) == Excuse::Undecided)
    }

    /// Decides held requests. Those of spells that outlasted their limit count from the spell's
    /// beginning and are settled with the next interval. Those of spells that ended in time are
    /// dropped.
    pub(super) fn decide_held(&mut self, now: Duration) {
        let servers = &self.servers;
        let outlasted = &mut self.outlasted;
        self.held.retain(|bad| {
            let found = bad.place.map_or(Excuse::Yes, |place| servers.slow(place, bad.arrived, now));
            if found == Excuse::No {
                outlasted.push(*bad);
            }
            found == Excuse::Undecided
        });
    }

    /// Counts stable's requests and failures of a final interval.
    pub(super) fn learn_failures(&mut self, counts: &IntervalCounts) {
        self.failing[0] += counts.requests.saturating_sub(counts.excused) as f64;
        self.failing[1] += counts.failed_stable() as f64;
    }
}

/// Maximum of held requests.
const HELD_MAX: usize = 1 << 14;
/// The slowness of a user whose usual latency is this multiple of others' is no evidence of a
/// spell.
const FAR_SLOWER: f32 = 1.5;
/// Maximum of remembered requests with a late head.
const LATE_HEADS_MAX: usize = 1 << 15;
/// Age at which requests are marked while too little is known of stable.
const LIMIT_UNKNOWN: Duration = Duration::from_secs(1);
