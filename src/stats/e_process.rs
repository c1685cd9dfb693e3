//! The restart mixture: one wealth per alternative, bet on each table when it is final.
//!
//! W ← (W + R(τ) − R(τ + dτ)) · L, with R(τ) = ½ / (1 + ln(1 + τ)), from W = ½, τ = 0.
//! The drip of unspent prior mass is a restart at every moment, so a good past cannot hide a late
//! change (Shin, Ramdas, Rinaldo, e-detectors).
//!
//! Invariants: the prior mass is 1 for each granted budget, so the mean of all wealth is at most
//! that at any time; wealth stays finite.

use crate::stats::codec::{Decoder, Encoder};
use crate::stats::hypergeometric_bet::Bet;

/// Wealth without data.
pub const PRIOR: f64 = 0.5;
/// Keeps products finite.
const WEALTH_MAX: f64 = 1e150;

#[derive(Clone, Debug, PartialEq)]
pub struct EProcess {
    wealth: Vec<f64>,
    tau: Vec<f64>,
}

impl EProcess {
    pub fn new(rows: usize) -> EProcess {
        EProcess { wealth: vec![PRIOR; rows], tau: vec![0.0; rows] }
    }

    /// Resets the wealth. Without a `budget` no row has more than it had.
    pub fn restart(&mut self, budget: bool) {
        let fresh = EProcess::new(self.wealth.len());
        let was = std::mem::replace(self, fresh);
        if !budget {
            self.wealth.iter_mut().zip(was.wealth).for_each(|(w, was)| *w = w.min(was));
            self.tau = was.tau;
        }
    }

    /// Row `row` bets on one moment.
    pub fn push(&mut self, row: usize, bet: Bet) {
        let drip = unspent(self.tau[row]) - unspent(self.tau[row] + bet.cost);
        self.tau[row] += bet.cost;
        self.wealth[row] = ((self.wealth[row] + drip) * bet.log.min(600.0).exp()).min(WEALTH_MAX);
    }

    pub fn save(&self, encoder: &mut Encoder) {
        encoder.f64s(&self.wealth);
        encoder.f64s(&self.tau);
    }

    pub fn restore(decoder: &mut Decoder<'_>, rows: usize) -> Option<EProcess> {
        Some(EProcess { wealth: decoder.f64s(rows)?, tau: decoder.f64s(rows)? })
    }

    pub fn mean(&self) -> f64 {
        self.wealth.iter().sum::<f64>() / self.wealth.len() as f64
    }

    /// Wealth per alternative.
    pub fn wealth(&self) -> &[f64] {
        &self.wealth
    }

    /// A new draw of users: the wealth, times `mass`, stays and is bet further.
    /// `budget`: a new budget is added.
    pub fn grant(&mut self, mass: f64, budget: bool) {
        self.wealth.iter_mut().for_each(|w| *w *= mass);
        if budget {
            self.wealth.iter_mut().for_each(|w| *w += PRIOR);
            self.tau.fill(0.0);
        }
    }
}

fn unspent(tau: f64) -> f64 {
    PRIOR / (1.0 + tau.ln_1p())
}
