//! The notice "slower by more than `latency_notice`": its begin and its end.
//!
//! Gained evidence does not decrease, so without an end rule a notice would stand for days after
//! `new` was fixed. It begins at the look at which its evidence suffices. It ends when `new` was
//! not slower by the level over a stretch after the begin: the last 5,000 answers of `new`, or the
//! last 15 minutes with at least 1,000 answers, whichever is shorter. Over the stretch the answers
//! of `new`, each divided by the level, must not be slower than those of stable: by rank in each
//! half of it, and in the share above stable's p90 and p98. Each answer is relative to its user's
//! factor, as in the comparison. At the end the evidence starts again, so a `new` that becomes slow
//! again is noticed again.
//!
//! Invariants: pure; nothing is counted while no notice stands; constant memory.

use crate::stats::arm::Arm;
use crate::stats::engine::{EventKind, RequestEvent};
use crate::stats::histogram;
use std::collections::VecDeque;
use std::time::Duration;

/// Answers of `new` per block.
const BLOCK: u64 = 250;
const ANSWERS_ENOUGH: u64 = 5_000;
const ANSWERS_MIN: u64 = 1_000;
const TIME_ENOUGH: Duration = Duration::from_secs(900);
/// The quantiles at which the tails of the arms are compared.
const TAILS: [f64; 2] = [0.9, 0.98];

/// A notice that has ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedNotice {
    /// When it began.
    pub since: Duration,
    pub why: &'static str,
}

/// The reasons for an end.
pub const BY_MENDING: &str = "new has not been slower by that much for a while";
pub const BY_EDIT: &str = "the level was edited";
pub const BY_HAND: &str = "a person ended it";

#[derive(Clone, Debug, Default)]
pub struct LatencyNotice {
    since: Option<Duration>,
    blocks: VecDeque<NoticeBlock>,
    /// A block was filled after the last look.
    filled: bool,
    ended: Option<EndedNotice>,
}

#[derive(Clone, Debug)]
struct NoticeBlock {
    from: Duration,
    answers: [u64; 2],
    /// By arm: relative µs, those of `new` divided by the level.
    counts: [Vec<u64>; 2],
}

impl NoticeBlock {
    fn new(from: Duration) -> NoticeBlock {
        NoticeBlock { from, answers: [0; 2], counts: Arm::BOTH.map(|_| vec![0; histogram::BUCKETS]) }
    }

    fn is_full(&self) -> bool {
        self.answers[Arm::New.index()] >= BLOCK
    }

    fn add(&mut self, other: &NoticeBlock) {
        for arm in Arm::BOTH.map(Arm::index) {
            self.answers[arm] += other.answers[arm];
            self.counts[arm].iter_mut().zip(&other.counts[arm]).for_each(|(a, b)| *a += b);
        }
    }

    /// Does an answer of `new` take longer than one of stable in at most half of the pairs?
    fn fits_by_rank(&self) -> bool {
        let [stable, new] = Arm::BOTH.map(|arm| &self.counts[arm.index()]);
        let [n0, n1] = Arm::BOTH.map(|arm| self.answers[arm.index()] as f64);
        let (mut below, mut slower) = (0.0, 0.0);
        for (stable, new) in stable.iter().zip(new) {
            slower += *new as f64 * (below + *stable as f64 / 2.0);
            below += *stable as f64;
        }
        n0 > 0.0 && n1 > 0.0 && slower <= 0.5 * n0 * n1
    }

    /// Has `new` no heavier tail than stable?
    fn fits_by_tail(&self) -> bool {
        let [stable, new] = Arm::BOTH.map(|arm| &self.counts[arm.index()]);
        let [n0, n1] = Arm::BOTH.map(|arm| self.answers[arm.index()] as f64);
        if n0 < ANSWERS_MIN as f64 || n1 < ANSWERS_MIN as f64 {
            return false;
        }
        let above = |of: &[u64], edge: usize, n: f64| of[edge + 1..].iter().sum::<u64>() as f64 / n;
        TAILS.iter().all(|level| {
            let mut sum = 0.0;
            let edge = stable.iter().position(|count| {
                sum += *count as f64;
                sum >= level * n0
            });
            let Some(edge) = edge else { return true };
            let (of_stable, of_new) = (above(stable, edge, n0), above(new, edge, n1));
            let error = (of_stable * (1.0 - of_stable) * (1.0 / n0 + 1.0 / n1)).sqrt();
            of_new <= of_stable + error
        })
    }
}

impl LatencyNotice {
    /// Monotonic.
    pub fn since(&self) -> Option<Duration> {
        self.since
    }

    /// Adds an answer; `factor`: that of its user, `level`: `latency_notice`.
    pub fn push(&mut self, event: &RequestEvent, factor: f64, level: f64, floor: Duration) {
        let RequestEvent { request, what, after } = *event;
        let answered = matches!(what, EventKind::Answered | EventKind::ClientError | EventKind::Redirected);
        let Some(since) = self.since else { return };
        if !answered || !request.drawn || request.unit.is_none() || request.at < since {
            return;
        }
        let by = if request.arm == Arm::New { 1.0 + level } else { 1.0 };
        let us = 1e6 * (after.as_secs_f64() / by).max(floor.as_secs_f64()) / factor;
        if self.blocks.back().is_none_or(NoticeBlock::is_full) {
            self.blocks.push_back(NoticeBlock::new(request.at));
        }
        if let Some(block) = self.blocks.back_mut() {
            let arm = request.arm.index();
            block.answers[arm] += 1;
            block.counts[arm][histogram::index(us.max(0.0).round() as u64)] += 1;
            self.filled |= block.is_full();
        }
    }

    /// `crossed`: its evidence suffices. Returns true at its end, when its evidence starts again.
    pub fn look(&mut self, now: Duration, crossed: bool) -> bool {
        if self.since.is_none() {
            self.since = crossed.then_some(now);
            return false;
        }
        // By now the newest block may be another one: many answers come between two looks.
        let over = std::mem::take(&mut self.filled) && self.is_mended(now);
        if over {
            self.end(BY_MENDING);
        }
        over
    }

    /// Checks the newest full blocks that form a stretch; drops older ones.
    fn is_mended(&mut self, now: Duration) -> bool {
        let full = self.blocks.iter().take_while(|block| block.is_full()).count();
        let mut answers = 0;
        let ends = self.blocks.iter().take(full).rposition(|block| {
            answers += block.answers[Arm::New.index()];
            let long = now.saturating_sub(block.from) >= TIME_ENOUGH && answers >= ANSWERS_MIN;
            long || answers >= ANSWERS_ENOUGH
        });
        let Some(older) = ends else { return false };
        self.blocks.drain(..older);
        let full = full - older;
        let half = full / 2;
        let sum = |blocks: &mut dyn Iterator<Item = &NoticeBlock>| {
            let mut sum = NoticeBlock::new(now);
            blocks.for_each(|block| sum.add(block));
            sum
        };
        let halves =
            [sum(&mut self.blocks.iter().take(half)), sum(&mut self.blocks.iter().take(full).skip(half))];
        halves.iter().all(NoticeBlock::fits_by_rank) && sum(&mut halves.iter()).fits_by_tail()
    }

    /// Ends the notice.
    pub fn end(&mut self, why: &'static str) {
        self.blocks.clear();
        self.filled = false;
        if let Some(since) = self.since.take() {
            self.ended = Some(EndedNotice { since, why });
        }
    }

    /// The notice that has ended since the last call.
    pub fn take_ended(&mut self) -> Option<EndedNotice> {
        self.ended.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::engine::RequestStart;
    use crate::stats::engine::tests::Dice;
    use crate::stats::users::UserUnit;

    const LEVEL: f64 = 0.15;

    /// Log-normal latencies, median 30 ms; `rate` answers of each arm a second.
    struct World {
        notice: LatencyNotice,
        dice: Dice,
        now: f64,
        rate: f64,
        /// Seconds between two looks; 0: after each answer.
        tick: f64,
        looked: f64,
    }

    impl World {
        fn noticed(rate: f64) -> World {
            let mut notice = LatencyNotice::default();
            assert!(!notice.look(Duration::ZERO, true) && notice.since().is_some());
            World { notice, dice: Dice::new(7), now: 0.0, rate, tick: 0.0, looked: 0.0 }
        }

        /// Seconds until the end, if within `seconds`.
        fn over(&mut self, seconds: f64, slower: f64, tail: f64) -> Option<f64> {
            let from = self.now;
            while self.now < from + seconds {
                self.now += 1.0 / self.rate;
                // Answers of stable follow one that fills a block.
                for arm in [Arm::New, Arm::Stable] {
                    let of_new = arm == Arm::New;
                    let normal = (-2.0 * (1.0 - self.dice.uniform()).ln()).sqrt()
                        * (std::f64::consts::TAU * self.dice.uniform()).cos();
                    let slow = of_new && self.dice.uniform() < tail;
                    let ms = 30.0
                        * (0.5 * normal).exp()
                        * if of_new { slower } else { 1.0 }
                        * if slow { 10.0 } else { 1.0 };
                    let request = RequestStart {
                        id: 0,
                        at: Duration::from_secs_f64(self.now),
                        arm,
                        unit: Some(UserUnit::from_index(1)),
                        drawn: true,
                        stratum: None,
                        server: None,
                    };
                    let event = RequestEvent {
                        request,
                        what: EventKind::Answered,
                        after: Duration::from_secs_f64(ms / 1e3),
                    };
                    self.notice.push(&event, 1.0, LEVEL, Duration::from_millis(2));
                }
                let looks = self.now - self.looked >= self.tick;
                self.looked = if looks { self.now } else { self.looked };
                if looks && self.notice.look(Duration::from_secs_f64(self.now), true) {
                    return Some(self.now - from);
                }
            }
            None
        }
    }

    #[test]
    fn a_notice_ends_when_what_it_says_has_not_been_so_for_a_while() {
        for (rate, soonest, latest) in [(100.0, 25.0, 70.0), (10.0, 250.0, 700.0), (2.0, 450.0, 1_400.0)] {
            let mut world = World::noticed(rate);
            assert_eq!(world.over(2_000.0, 1.2, 0.0), None, "as slow as it says");
            let over = world.over(4_000.0, 1.0, 0.0).expect("it is mended");
            assert!((soonest..latest).contains(&over), "{rate}/s: {over}");
            assert_eq!(world.notice.take_ended().map(|ended| ended.why), Some(BY_MENDING));
            assert_eq!((world.notice.since(), world.notice.take_ended()), (None, None));
        }
    }

    #[test]
    fn a_notice_ends_in_time_though_many_answers_come_between_two_looks() {
        for (rate, latest) in [(100.0, 70.0), (1_000.0, 7.0), (5_000.0, 1.5)] {
            let mut world = World { tick: 0.1, ..World::noticed(rate) };
            assert_eq!(world.over(1e4 / rate, 1.2, 0.0), None, "as slow as it says");
            let over = world.over(1e6 / rate, 1.0, 0.0).expect("it is mended");
            assert!(over < latest, "{rate}/s: {over}");
        }
    }

    #[test]
    fn a_notice_of_a_tail_stands_as_long_as_the_tail_is_there() {
        let mut world = World::noticed(50.0);
        assert_eq!(world.over(1_500.0, 1.0, 0.03), None);
        assert!(world.over(600.0, 1.0, 0.0).is_some());
    }

    #[test]
    fn silence_ends_no_notice() {
        let mut world = World::noticed(0.5);
        assert_eq!(world.over(900.0, 1.0, 0.0), None);
        assert!(!world.notice.look(Duration::from_secs(1 << 20), false));
        world.notice.end(BY_HAND);
        assert_eq!(world.notice.take_ended(), Some(EndedNotice { since: Duration::ZERO, why: BY_HAND }));
    }
}
