//! The engine as bytes and back. [`crate::stats::codec`] has the format.
//!
//! Invariants: a restored engine has the wealth and the knowledge of the saved one; requests in
//! flight are not saved.

use super::*;
use crate::stats::cluster_window::ClusterWindows;
use crate::stats::codec::{Decoder, Encoder};
use crate::stats::cohort::BUCKETS;
use crate::stats::engine::{EngineSettings, Signal};
use crate::stats::first_event::{FirstEventTest, UserMark};
use crate::stats::first_request::FirstRequestTest;
use crate::stats::users::{Baseline, PagedTable};

impl Engine {
    /// Saves the evidence without the requests in flight, in the format of
    /// [`crate::stats::codec`].
    pub fn save(&self, now: Duration, pen: &mut Encoder) {
        pen.u64(self.strata.len() as u64);
        for parts in [self.weight, self.highest].map(Weight::parts) {
            pen.u32(parts);
        }
        for bucket in [self.draw.from, self.draw.new_below, self.draw.stable_from] {
            pen.u32(bucket);
        }
        pen.u64((now.saturating_sub(self.drawn_at) + self.drawn_before).as_secs());
        pen.u32(u32::from(self.raises_left));
        pen.f64(self.again);
        pen.f64(self.mass);
        pen.f64s(&self.carried);
        self.servers.save(now, pen);
        pen.f64s(&self.usual);
        for (number, scope) in std::iter::once(&self.pooled).chain(&self.strata).enumerate() {
            let entering: Vec<_> = (self.intervals.iter().enumerate())
                .filter_map(|(i, interval)| {
                    let users = *interval.entered.get(number)?;
                    Some((self.cohort(self.oldest + i as u64), users))
                })
                .collect();
            scope.first.save(pen);
            scope.once.save(pen, &entering, self.draw.share());
            scope.marks.save(pen, UserMark::bits);
        }
        self.windows.save(pen);
        self.baseline.save(pen);
    }

    /// The engine as saved, under the weight of that time.
    /// `None`: saved with other strata, or not by [`Engine::save`].
    pub fn restore(settings: EngineSettings, eye: &mut Decoder<'_>, now: Duration) -> Option<Engine> {
        let strata = apart(settings.strata);
        (eye.u64()? == strata as u64).then_some(())?;
        let weight = Weight::from_parts(eye.u32()?);
        let highest = Weight::from_parts(eye.u32()?).max(weight);
        let draw = Randomization { from: eye.u32()?, new_below: eye.u32()?, stable_from: eye.u32()? };
        let sound =
            draw.from <= draw.new_below && draw.new_below <= draw.stable_from && draw.stable_from <= BUCKETS;
        sound.then_some(())?;
        let mut engine = Engine::new(settings, weight, Baseline::default(), now);
        (engine.highest, engine.draw) = (highest, draw);
        engine.drawn_before = Duration::from_secs(eye.u64()?.min(1 << 40));
        engine.raises_left = eye.u32()?.min(u32::from(RAISES)) as u8;
        engine.again = eye.f64()?;
        engine.mass = eye.f64()?.min(1.0);
        engine.carried = eye.f64s(Signal::ALL.len() + 1)?.try_into().ok()?;
        engine.servers = ServerClusters::restore(settings.warm_up, now, eye)?;
        engine.usual = eye.f64s(histogram::BUCKETS)?;
        for scope in engine.scopes() {
            scope.first = FirstRequestTest::restore(eye)?;
            scope.once = FirstEventTest::restore(eye)?;
            scope.marks = PagedTable::restore(eye, scope.marks.shift(), UserMark::from_bits)?;
        }
        engine.windows = ClusterWindows::new(window_shares(&settings.shares), draw.split(), settings.alpha)
            .restore(eye)?;
        engine.baseline = Baseline::restore(eye)?;
        eye.end()?;
        Some(engine)
    }
}
