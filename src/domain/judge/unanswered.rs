//! Users of `new` who wait for an answer while slowness is no evidence: in a warm-up, and without a
//! control.
//!
//! Owns the open requests of `new` in such a time.
//! Invariants: pure; bounded by `OPEN_MAX` requests and `USERS_MAX` users, beyond which further
//! ones are ignored.

use crate::domain::judge::verdict_inputs::WaitingUsers;
use crate::stats::arm::Arm;
use crate::stats::engine::{EventKind, RequestEvent};
use crate::stats::hasher::BuildHasher;
use crate::stats::users::UserUnit;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const OPEN_MAX: usize = 1 << 14;
const USERS_MAX: usize = 1 << 14;
/// A user counts as waiting, and as waiting long, beyond these and beyond the usual time.
const WAITS: Duration = Duration::from_secs(5);
const WAITS_LONG: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Default)]
pub struct Unanswered {
    open: HashMap<u64, (UserUnit, Duration), BuildHasher>,
    users: HashSet<UserUnit>,
    /// When it began, and when `new` last answered.
    since: Option<Duration>,
    answered: Option<Duration>,
}

impl Unanswered {
    /// Follows events while `watches`; otherwise resets.
    pub fn record(&mut self, events: &[RequestEvent], watches: bool, now: Duration) {
        if !watches {
            if self.since.is_some() {
                *self = Unanswered::default();
            }
            return;
        }
        self.since.get_or_insert(now);
        for event in events.iter().filter(|event| event.request.arm == Arm::New) {
            let request = &event.request;
            match event.what {
                EventKind::Arrived => {
                    let Some(unit) = request.unit else { continue };
                    if self.users.len() < USERS_MAX {
                        self.users.insert(unit);
                    }
                    if self.open.len() < OPEN_MAX {
                        self.open.insert(request.id, (unit, request.at));
                    }
                }
                EventKind::Ended { .. } | EventKind::EndedAsClientError | EventKind::Broke => {}
                what => {
                    self.open.remove(&request.id);
                    let answers = matches!(
                        what,
                        EventKind::Answered
                            | EventKind::ClientError
                            | EventKind::Redirected
                            | EventKind::Failed
                    );
                    if answers {
                        self.answered = Some(request.at + event.after);
                    }
                }
            }
        }
    }

    /// `usual`: longer answers are late; `None`: unknown, so no user waits longer than usual.
    pub fn look(&self, now: Duration, usual: Option<Duration>) -> WaitingUsers {
        let (Some(since), Some(usual)) = (self.since, usual) else { return WaitingUsers::default() };
        let mut waiting: HashSet<UserUnit> = HashSet::new();
        let mut long: HashSet<UserUnit> = HashSet::new();
        for (unit, at) in self.open.values() {
            let waits = now.saturating_sub(*at);
            if waits >= WAITS.max(usual) {
                waiting.insert(*unit);
            }
            if waits >= WAITS_LONG.max(2 * usual) {
                long.insert(*unit);
            }
        }
        let silent = now.saturating_sub(self.answered.unwrap_or(since).max(since));
        WaitingUsers {
            silent_ms: silent.as_millis() as u64,
            waiting: waiting.len() as u64,
            waiting_long: long.len() as u64,
            users: self.users.len() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::judge::verdict_inputs::TestResult;
    use crate::stats::engine::RequestStart;

    fn event(id: u64, at: u64, what: EventKind, after: u64) -> RequestEvent {
        let second = Duration::from_secs;
        let request = RequestStart {
            id,
            at: second(at),
            arm: Arm::New,
            unit: Some(UserUnit::from_index(id as u32)),
            drawn: true,
            stratum: None,
            server: None,
        };
        RequestEvent { request, what, after: second(after) }
    }

    #[test]
    fn a_new_that_answers_nobody_is_found_and_one_that_is_slow_for_a_few_is_not() {
        let second = Duration::from_secs;
        let mut silence = Unanswered::default();
        let arrivals: Vec<RequestEvent> = (0..20).map(|id| event(id, 100, EventKind::Arrived, 0)).collect();
        silence.record(&arrivals, true, second(100));
        assert_eq!(silence.look(second(104), Some(second(1))).result(), TestResult::Nothing);
        assert!(matches!(silence.look(second(106), Some(second(1))).result(), TestResult::Trips(_)));
        assert_eq!(silence.look(second(106), Some(second(7))).result(), TestResult::Nothing, "it is usual");
        assert_eq!(silence.look(second(106), None).result(), TestResult::Nothing, "nothing is known");
        let answers: Vec<RequestEvent> = (0..18).map(|id| event(id, 100, EventKind::Answered, 4)).collect();
        silence.record(&answers, true, second(104));
        assert_eq!(
            silence.look(second(108), Some(second(1))).result(),
            TestResult::Nothing,
            "two of twenty wait"
        );
        // Others are answered in time.
        // A tenth of the users waits for more than ten seconds, but they are only two.
        assert_eq!(silence.look(second(111), Some(second(1))).result(), TestResult::Nothing);
        silence.record(&[], false, second(112));
        assert_eq!(silence.look(second(112), Some(second(1))), WaitingUsers::default());
    }
}
