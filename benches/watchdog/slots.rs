//! Only the slots: tables and mixtures of FIRST without users. Fast enough for a million requests
//! of `new`, and without the loss of power that users cause.

use crate::dice::{Dice, Latencies};
use crate::world::ALPHA;
use grayling::stats::e_process::EProcess;
use grayling::stats::engine::ERROR_ODDS;
use grayling::stats::first_request;
use grayling::stats::histogram::EDGES;
use grayling::stats::hypergeometric_bet::PerArm;
use grayling::stats::latency::{AgeTable, GROUPS_MAX, ROWS, SlotAges};

/// Stable's latency table, and the share of requests in each of its groups.
pub struct Law {
    table: AgeTable,
    groups: Vec<f64>,
}

impl Law {
    pub fn new(latencies: &Latencies) -> Law {
        let shares = latencies.buckets(1.0);
        let edges: Vec<f64> = EDGES.iter().map(|e| f64::from(*e)).collect();
        let table = AgeTable::new(&edges, &shares.iter().map(|s| s * 1e6).collect::<Vec<_>>()).monotone();
        let mut groups = vec![0.0; table.groups()];
        for (bucket, share) in shares.iter().enumerate() {
            groups[table.group(bucket)] += share;
        }
        Law { table, groups }
    }

    fn answers(&self, dice: &mut Dice, mut n: u64) -> [u64; GROUPS_MAX] {
        let (mut rest, mut out) = (1.0, [0; GROUPS_MAX]);
        for (group, share) in self.groups.iter().enumerate() {
            let hits =
                if group + 1 == self.groups.len() { n } else { dice.binomial(n, (share / rest).min(1.0)) };
            (out[group], n, rest) = (hits, n - hits, (rest - share).max(1e-12));
        }
        out
    }
}

/// Without any difference: the supremum of ½ errors + ¼ latency + ¼ client errors, over this many
/// requests of new.
pub fn sup(law: &Law, seed: u64, share: f64, requests: u64) -> f64 {
    let mut dice = Dice::new(seed);
    // Large enough for two of new and two of stable. A hundred of new make it faster without other
    // effects.
    let rate = (100.0 / share).max(500.0);
    let [mut errors, mut refused] = [(); 2].map(|()| EProcess::new(ERROR_ODDS.len()));
    let mut latency = EProcess::new(*ROWS);
    let (mut seen, mut sup) = (0, 0.0f64);
    while seen < requests {
        let mut take = || (dice.poisson(rate * share), dice.poisson(rate * (1.0 - share)));
        let (new, stable) = take();
        let arrived = PerArm::new(new, stable);
        seen += arrived.new;
        let failed = PerArm::new(dice.binomial(arrived.new, 0.001), dice.binomial(arrived.stable, 0.001));
        first_request::bet(&mut errors, arrived, failed);
        let client = PerArm::new(dice.binomial(arrived.new, 0.01), dice.binomial(arrived.stable, 0.01));
        first_request::bet(&mut refused, arrived, client);
        let new = law.answers(&mut dice, arrived.new - failed.new);
        let stable = law.answers(&mut dice, arrived.stable - failed.stable);
        let mut ages = SlotAges { arrived, ..SlotAges::default() };
        for (done, (new, stable)) in ages.done.iter_mut().zip(new.into_iter().zip(stable)) {
            *done = PerArm::new(new, stable);
        }
        law.table.bet_body(&ages, &mut latency);
        (0..law.table.tail_ends().count()).for_each(|row| law.table.bet_tail(row, &ages, &mut latency));
        sup = sup.max(0.5 * errors.mean() + 0.25 * (latency.mean() + refused.mean()));
    }
    sup
}

/// Requests of new until more frequent failures are detected, as in the simulation of the limits: E
/// is half errors, half latency (which shows nothing here).
pub fn until_seen(seed: u64, share: f64, fails: f64, of_new: f64, most: u64) -> Option<u64> {
    let mut dice = Dice::new(seed);
    // As many in an interval as in the rows of the whole engine.
    let rate = 100.0;
    let mut errors = EProcess::new(ERROR_ODDS.len());
    let (mut seen, mut slot, mut failed) = (0, PerArm::default(), PerArm::default());
    while seen < most {
        let arrived = PerArm::new(dice.poisson(rate * share), dice.poisson(rate * (1.0 - share)));
        seen += arrived.new;
        slot = PerArm::new(slot.new + arrived.new, slot.stable + arrived.stable);
        let [new, stable] = [dice.binomial(arrived.new, of_new), dice.binomial(arrived.stable, fails)];
        failed = PerArm::new(failed.new + new, failed.stable + stable);
        let n = (slot.new + slot.stable) as f64;
        let wide = n * share >= 2.0 && n * (1.0 - share) >= 2.0;
        if slot.new == 0 || slot.stable == 0 || !(wide || failed.new + failed.stable >= 8) {
            continue;
        }
        first_request::bet(&mut errors, slot, failed);
        (slot, failed) = (PerArm::default(), PerArm::default());
        if 0.5 * errors.mean() + 0.25 >= 1.0 / ALPHA {
            return Some(seen);
        }
    }
    None
}
