//! What is known of servers over a restart, and over an edit of their list.
//!
//! Invariants: what is read back is what was written; what is known of a server is never taken for
//! what is known of another one of the same list.

use super::*;

impl ServerClusters {
    /// What a restart must not forget: how long stable's spells are, and a warm-up that goes on.
    pub fn save(&self, now: Duration, encoder: &mut Encoder) {
        for usual in &self.usual {
            encoder.u64(usual.spells.len() as u64);
            for (at, length) in &usual.spells {
                encoder.u64(now.saturating_sub(*at).as_millis() as u64);
                encoder.u64(length.as_millis() as u64);
            }
            encoder.f64s(&usual.wealth);
            usual.began.iter().for_each(|n| encoder.u64(*n));
        }
        encoder.u64(self.all.len() as u64);
        self.save_warm_up(now, encoder);
    }

    /// Ages are counted back from `now`; what is older than this clock counts from its beginning.
    pub fn restore(warm_up: Duration, now: Duration, decoder: &mut Decoder<'_>) -> Option<ServerClusters> {
        let mut servers = ServerClusters::new(warm_up);
        for usual in &mut servers.usual {
            for _ in 0..decoder.length(16)?.min(REMEMBERED) {
                let age = Duration::from_millis(decoder.u64()?);
                let length = Duration::from_millis(decoder.u64()?.min(3_600_000));
                usual.spells.push_back((now.saturating_sub(age), length));
            }
            usual.wealth = decoder.f64s(TIMES.len())?.try_into().ok()?;
            usual.began = [decoder.u64()?, decoder.u64()?];
        }
        let n = decoder.length(16)?;
        (n <= 2 * 256).then_some(())?;
        servers.restore_warm_up(n, now, decoder)?;
        Some(servers)
    }

    /// The servers of an arm have other numbers; `before`: the number that each had, if any. What
    /// is known of a server stays with it, and what is known of one that is gone is dropped.
    pub fn renumber(&mut self, arm: Arm, before: &[Option<u8>]) {
        let was = self.all.clone();
        let of_arm = |(index, _): &(usize, &mut ServerHistory)| ServerIndex::from_index(*index).arm == arm;
        self.all
            .iter_mut()
            .enumerate()
            .filter(of_arm)
            .for_each(|(_, server)| *server = ServerHistory::default());
        for (number, before) in before.iter().enumerate() {
            let known = before.and_then(|server| was.get(ServerIndex { arm, server }.index()));
            if let (Some(known), Ok(server)) = (known, u8::try_from(number)) {
                *self.server(ServerIndex { arm, server }) = known.clone();
            }
        }
    }
}
