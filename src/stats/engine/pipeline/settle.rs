//! Settles a final interval: unanswered requests expire, ONCE and WINDOW take the outcomes.
//!
//! Invariants: an interval is settled once; a late answer of `new` is slow, not failed.

use super::*;

impl Engine {
    /// Ends the unanswered requests of a final interval: those of stable have failed, those of
    /// `new` are slow.
    pub(super) fn expire(&mut self, at: u64, interval: &mut OpenInterval) {
        for id in &interval.kept {
            self.open.remove(id);
        }
        if interval.waiting > 0 {
            let compares_latency = interval.table.is_some();
            let arrived = self.settings.tick * u32::try_from(at).unwrap_or(u32::MAX);
            let kinds = failed_kinds(compares_latency);
            let rank = [f32::from(u8::from(compares_latency)); LEVELS];
            self.open.retain(|_, open| {
                let OpenRequest { unit, arm, stratum, place, .. } = *open;
                let unanswered = open.interval == at && !open.answered;
                if unanswered {
                    // A late answer of `new` is slow, not failed.
                    let kinds = match arm {
                        Arm::New => FirstEventKinds(kinds.0 & SLOWNESS.0),
                        Arm::Stable => kinds,
                    };
                    if arm == Arm::Stable {
                        let (user, server) = (Some(unit), place);
                        interval.fails(FailedRequest { arm, user, server, reported: false, excused: false });
                    }
                    interval.bad.push(UserEffect { unit, arm, stratum, place, arrived, ends: kinds.into() });
                    let cluster = unit.cluster() as u16;
                    interval.scored.push(Scored { cluster, place, rank, kinds, correction: false });
                }
                !unanswered
            });
        }
    }

    /// Puts a final interval into ONCE and WINDOW.
    pub(super) fn settle(&mut self, at: u64, mut interval: OpenInterval) {
        let somebody_is_in_new = self.draw.share() > 0.0;
        if somebody_is_in_new {
            self.settle_once(at, &interval);
        }
        for scored in &interval.scored {
            let cluster = scored.cluster;
            match scored.correction {
                true => self.windows.correct(usize::from(cluster), scored.corrected_row(), 1.0),
                false => self.windows.push(cluster, &scored.rows()),
            }
        }
        self.windows.interval_ends(!somebody_is_in_new);
        interval.clear();
        self.spare = interval;
    }

    pub(super) fn settle_once(&mut self, at: u64, interval: &OpenInterval) {
        let share = self.draw.share();
        let cohort = self.cohort(at);
        let entered = interval.entered.iter().copied().chain(std::iter::repeat(PerArm::default()));
        self.scopes().zip(entered).for_each(|(scope, users)| scope.once.entered(cohort, users, share));
        for UserEffect { unit, arm, stratum, ends, .. } in &interval.bad {
            let of_stratum = stratum.and_then(|s| self.strata.get_mut(usize::from(s)));
            for scope in std::iter::once(&mut self.pooled).chain(of_stratum) {
                // A user who never entered the draw has no mark.
                if scope.marks.read(*unit).seen() {
                    scope.once.event(scope.marks.at(*unit), *arm, *ends);
                }
            }
        }
        self.scopes().for_each(|scope| scope.once.score());
    }

    /// Makes a table of stable's usual latencies. The older half has half weight.
    pub(super) fn tabulate(&mut self, now: Duration) {
        if self.usual.iter().sum::<f64>() >= TABLE_MIN {
            let edges: Vec<f64> = histogram::EDGES.iter().map(|e| f64::from(*e)).collect();
            self.table = Some(Arc::new(AgeTable::new(&edges, &self.usual).monotone()));
            self.table_at = now;
            self.know_usual();
            self.usual.iter_mut().for_each(|n| *n /= 2.0);
        }
    }

    /// The latency table. `None`: too little is known of stable.
    pub(super) fn table(&self) -> Option<&Arc<AgeTable>> {
        self.table.as_ref()
    }
}
