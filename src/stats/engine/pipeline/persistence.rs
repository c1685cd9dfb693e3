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
    pub fn save(&self, now: Duration, encoder: &mut Encoder) {
        encoder.u64(self.strata.len() as u64);
        for parts in [self.weight, self.highest].map(Weight::parts) {
            encoder.u32(parts);
        }
        for bucket in [self.draw.from, self.draw.new_below, self.draw.stable_from] {
            encoder.u32(bucket);
        }
        encoder.u64((now.saturating_sub(self.drawn_at) + self.drawn_before).as_secs());
        encoder.u32(u32::from(self.raises_left));
        encoder.f64(self.again);
        encoder.f64(self.mass);
        encoder.f64s(&self.carried);
        self.servers.save(now, encoder);
        encoder.f64s(&self.usual);
        for (number, scope) in std::iter::once(&self.pooled).chain(&self.strata).enumerate() {
            let entering: Vec<_> = (self.intervals.iter().enumerate())
                .filter_map(|(i, interval)| {
                    let users = *interval.entered.get(number)?;
                    Some((self.cohort(self.oldest + i as u64), users))
                })
                .collect();
            scope.first.save(encoder);
            scope.once.save(encoder, &entering, self.draw.share());
            scope.marks.save(encoder, UserMark::bits);
        }
        self.windows.save(encoder);
        self.baseline.save(encoder);
    }

    /// The engine as saved, under the weight of that time.
    /// `None`: saved with other strata, or not by [`Engine::save`].
    pub fn restore(settings: EngineSettings, decoder: &mut Decoder<'_>, now: Duration) -> Option<Engine> {
        let strata = apart(settings.strata);
        (decoder.u64()? == strata as u64).then_some(())?;
        let weight = Weight::from_parts(decoder.u32()?);
        let highest = Weight::from_parts(decoder.u32()?).max(weight);
        let draw =
            Randomization { from: decoder.u32()?, new_below: decoder.u32()?, stable_from: decoder.u32()? };
        let sound =
            draw.from <= draw.new_below && draw.new_below <= draw.stable_from && draw.stable_from <= BUCKETS;
        sound.then_some(())?;
        let mut engine = Engine::new(settings, weight, Baseline::default(), now);
        (engine.highest, engine.draw) = (highest, draw);
        engine.drawn_before = Duration::from_secs(decoder.u64()?.min(1 << 40));
        engine.raises_left = decoder.u32()?.min(u32::from(RAISES)) as u8;
        engine.again = decoder.f64()?;
        engine.mass = decoder.f64()?.min(1.0);
        engine.carried = decoder.f64s(Signal::ALL.len() + 1)?.try_into().ok()?;
        engine.servers = ServerClusters::restore(settings.warm_up, now, decoder)?;
        engine.usual = decoder.f64s(histogram::BUCKETS)?;
        for scope in engine.scopes() {
            scope.first = FirstRequestTest::restore(decoder)?;
            scope.once = FirstEventTest::restore(decoder)?;
            scope.marks = PagedTable::restore(decoder, scope.marks.shift(), UserMark::from_bits)?;
        }
        engine.windows = ClusterWindows::new(window_shares(&settings.shares), draw.split(), settings.alpha)
            .restore(decoder)?;
        engine.baseline = Baseline::restore(decoder)?;
        decoder.end()?;
        Some(engine)
    }
}
