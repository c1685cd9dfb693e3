//! Answers with a head of success that end as the client's error.
//!
//! Invariants: FIRST keeps them as successes, because it has bet on them; ONCE and WINDOW count
//! each once; there are never more client errors than answers.

use super::*;

const CLIENT_ERROR_ROW: usize = 4;

impl Scored {
    /// The row of WINDOW for a correction.
    pub(super) fn corrected_row(&self) -> usize {
        if self.kinds.has(FirstEventKind::ClientError) { CLIENT_ERROR_ROW } else { FAILED_ROW }
    }
}

impl Engine {
    /// `index`: of its interval, which is not final.
    pub(super) fn end_as_client_error(&mut self, request: &RequestStart, index: usize) {
        self.intervals[index].counts[request.arm.index()].client_errors += 1;
        let Some(unit) = self.placed(request) else { return };
        let kinds = FirstEventKinds::default().with(FirstEventKind::ClientError);
        let interval = &mut self.intervals[index];
        interval.bad.push(UserEffect::by(request, unit, kinds));
        interval.scored.push(Scored { kinds, ..Scored::correction(unit) });
    }

    /// As above after its interval was final. As a request that breaks late, it counts once more,
    /// in the interval of `index`.
    pub(super) fn end_late_as_client_error(&mut self, request: &RequestStart, index: usize) {
        let counts = &mut self.intervals[index].counts[request.arm.index()];
        (counts.requests, counts.answered) = (counts.requests + 1, counts.answered + 1);
        self.end_as_client_error(request, index);
    }
}
