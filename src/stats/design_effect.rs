//! The design effect of server × time: how much less evidence a request is than an independent one,
//! because a pause hits all users of one server at once.
//!
//! A *cell* is the outcomes of one server in one time span.
//! The cell's mean, less the mean of all other servers in that span, varies by chance and by the
//! server's own moments: `Var = σ²·(1/n + 1/N) + v·(1 + Σ(n_j/N)²)`, where N are the others.
//! The sum of squares of the *differences* between consecutive cells of a server gives `v` (von
//! Neumann's ratio).
//! A lasting difference (a slower machine, a slower version) is in both cells and cancels; an
//! incident of all servers is in the mean of the others and cancels, too.
//! All servers of both arms share one `v`: a server of `new` that has not paused yet is assumed to
//! pause like those of stable.
//!
//! A spell may be longer than a cell, so there are cells of several lengths, and the largest effect
//! counts.
//! The effects of users and of cells are crossed, and variances add: the total is `1 + (d of users
//! − 1) + (d of cells − 1)`.
//!
//! Invariants: constant memory, one cell of each length for each server; a cell closes when its
//! span is over; no pair of cells is kept longer than until the next one.

use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use std::time::Duration;

/// Lengths of cells, in seconds.
const SPANS: [u64; 3] = [1, 4, 16];
/// Places of an arm: server numbers, and one for unknown servers.
const PLACES: usize = 256;
/// Minimum of independent pairs of cells for an estimate.
const PAIRS_MIN: f64 = 64.0;
/// The variance of a squared difference, as a multiple of its own square. It is used to subtract
/// what chance alone adds to the largest of several estimates.
const CHANCE: f64 = 3.0;

/// The part of the variance of single requests from servers' moments, by length of cell.
pub type ServerMoments = [f64; SPANS.len()];

/// The expected effect of these moments in a wave.
/// `rate`: requests a second of both arms; `share`: of `new`; `servers`: of `new` and of stable.
pub fn expected(moments: &ServerMoments, rate: f64, share: f64, servers: [f64; 2]) -> f64 {
    let alone: f64 = servers.iter().map(|n| 1.0 / n.max(1.0)).sum();
    let crowd = rate * share * (1.0 - share) * alone;
    let effects = moments.iter().zip(SPANS).map(|(part, seconds)| 1.0 + part * seconds as f64 * crowd);
    effects.filter(|effect| effect.is_finite()).fold(1.0, f64::max)
}

/// The index of a server's cells.
pub fn place(arm: Arm, server: Option<u8>) -> usize {
    PLACES * arm.index() + server.map_or(PLACES - 1, usize::from)
}

/// One score of requests, in cells of every length.
#[derive(Clone, Debug, Default)]
pub struct ServerTimeCells {
    spans: [CellLength; SPANS.len()],
}

#[derive(Clone, Debug, Default)]
struct CellLength {
    /// Number of the open cells.
    number: u64,
    /// By [`place`], as many as needed.
    open: Vec<OpenCell>,
    last: Vec<Option<ClosedCell>>,
    sums: CellSums,
}

#[derive(Clone, Copy, Debug, Default)]
struct OpenCell {
    n: f64,
    sum: f64,
}

/// A closed cell, for the comparison with its successor.
#[derive(Clone, Copy, Debug)]
struct ClosedCell {
    n: f64,
    /// Its mean, less that of the others.
    apart: f64,
    /// The factors of σ² and of v in the variance of `apart`.
    by_chance: f64,
    by_cells: f64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct CellSums {
    squares: f64,
    by_chance: f64,
    by_cells: f64,
    pairs: f64,
    /// Requests of closed cells, and the squares of their numbers, by arm.
    requests: [f64; 2],
    crowded: [f64; 2],
}

impl ServerTimeCells {
    /// Takes an outcome: `n` requests (0 or 1) whose scores sum to `sum`.
    pub fn push(&mut self, at: Duration, place: usize, n: f64, sum: f64) {
        for (span, seconds) in self.spans.iter_mut().zip(SPANS) {
            let number = at.as_secs() / seconds;
            // A late outcome belongs to the open cell.
            if number > span.number {
                span.close();
                span.number = number;
            }
            if span.open.len() <= place {
                span.open.resize(place + 1, OpenCell::default());
                span.last.resize(place + 1, None);
            }
            span.open[place].n += n;
            span.open[place].sum += sum;
        }
    }

    /// The design effect. `variance`: of the score of single requests, within an arm.
    pub fn effect(&self, variance: f64) -> f64 {
        self.spans.iter().map(|span| span.sums.effect(variance)).fold(1.0, f64::max)
    }

    /// The moments by length of cell. `variance`: of the score of single requests. Zero if too
    /// little is known.
    pub fn moments(&self, variance: f64) -> ServerMoments {
        std::array::from_fn(|i| self.spans[i].sums.of_cells(variance).map_or(0.0, |of| of / variance))
    }

    pub fn save(&self, encoder: &mut Encoder) {
        for CellLength { sums, .. } in &self.spans {
            encoder.f64s(&[sums.squares, sums.by_chance, sums.by_cells, sums.pairs]);
            encoder.f64s(&[sums.requests, sums.crowded].concat());
        }
    }

    pub fn restore(decoder: &mut Decoder<'_>) -> Option<ServerTimeCells> {
        let mut cells = ServerTimeCells::default();
        for span in &mut cells.spans {
            let [squares, by_chance, by_cells, pairs]: [f64; 4] = decoder.f64s(4)?.try_into().ok()?;
            let [a, b, c, d]: [f64; 4] = decoder.f64s(4)?.try_into().ok()?;
            span.sums = CellSums { squares, by_chance, by_cells, pairs, requests: [a, b], crowded: [c, d] };
        }
        Some(cells)
    }
}

impl CellLength {
    fn close(&mut self) {
        let of_all = self.open.iter().fold((0.0, 0.0, 0.0), |(n, sum, squares), cell| {
            (n + cell.n, sum + cell.sum, squares + cell.n * cell.n)
        });
        let places = self.open.iter().filter(|cell| cell.n > 0.0).count() as f64;
        for (place, (cell, last)) in self.open.iter_mut().zip(&mut self.last).enumerate() {
            let OpenCell { n, sum } = std::mem::take(cell);
            if n == 0.0 {
                continue;
            }
            self.sums.requests[place / PLACES] += n;
            self.sums.crowded[place / PLACES] += n * n;
            let rest = of_all.0 - n;
            if rest <= 0.0 {
                continue;
            }
            let closed = ClosedCell {
                n,
                apart: sum / n - (of_all.1 - sum) / rest,
                by_chance: 1.0 / n + 1.0 / rest,
                by_cells: 1.0 + (of_all.2 - n * n) / (rest * rest),
            };
            if let Some(before) = last.replace(closed) {
                // The places' deviations from each other sum to zero.
                self.sums.pair(&before, &closed, (places - 1.0) / places);
            }
        }
    }
}

impl CellSums {
    fn pair(&mut self, a: &ClosedCell, b: &ClosedCell, independent: f64) {
        let weight = a.n * b.n / 2.0;
        self.squares += weight * (a.apart - b.apart) * (a.apart - b.apart);
        self.by_chance += weight * (a.by_chance + b.by_chance);
        self.by_cells += weight * (a.by_cells + b.by_cells);
        self.pairs += independent;
    }

    /// `v`, if enough is known.
    fn of_cells(&self, variance: f64) -> Option<f64> {
        // The variance of single requests is σ² + v, so the chance part is σ² = variance − v.
        let by_servers = self.by_cells - self.by_chance;
        if self.pairs < PAIRS_MIN || by_servers <= 0.0 || variance <= 0.0 {
            return None;
        }
        let squares = self.squares * (1.0 - (CHANCE / self.pairs).sqrt());
        Some(((squares - variance * self.by_chance) / by_servers).clamp(0.0, variance))
    }

    fn effect(&self, variance: f64) -> f64 {
        let alone: f64 = self.requests.iter().filter(|n| **n > 0.0).map(|n| 1.0 / n).sum();
        let Some(of_cells) = self.of_cells(variance).filter(|_| alone > 0.0) else { return 1.0 };
        let arms = self.requests.iter().zip(self.crowded).filter(|(n, _)| **n > 0.0);
        let together: f64 = arms.map(|(n, squares)| squares / (n * n)).sum();
        1.0 + of_cells / variance * (together / alone - 1.0).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::noninferiority::tests::Dice;

    struct World {
        /// (servers, requests a second of each) of new and of stable.
        servers: [(u8, u64); 2],
        /// Share of slow requests at all times; rate of pauses per second.
        slow: f64,
        pauses: f64,
        lasting: u64,
        /// In some seconds all servers pause.
        all: bool,
        /// Additional share of slow requests on servers of `new`.
        more: f64,
    }

    const CALM: World =
        World { servers: [(1, 10), (10, 19)], slow: 0.02, pauses: 0.0, lasting: 1, all: false, more: 0.0 };

    impl World {
        fn effect(&self, seconds: u64, seed: u64) -> f64 {
            let (cells, variance) = self.cells(seconds, seed);
            cells.effect(variance)
        }

        fn cells(&self, seconds: u64, seed: u64) -> (ServerTimeCells, f64) {
            let (mut cells, mut dice) = (ServerTimeCells::default(), Dice(seed));
            let (mut n, mut bad) = (0.0, 0.0);
            let mut until = [0; 32];
            let mut all_until = 0;
            for second in 0..seconds {
                if dice.uniform() < self.pauses {
                    all_until = second + self.lasting;
                }
                let mut number = 0;
                for (arm, (servers, rate)) in [Arm::New, Arm::Stable].into_iter().zip(self.servers) {
                    for server in 0..servers {
                        if dice.uniform() < self.pauses {
                            until[number] = second + self.lasting;
                        }
                        let end = if self.all { all_until } else { until[number] };
                        number += 1;
                        let more = if arm == Arm::New { self.more } else { 0.0 };
                        let p = if second < end { 0.9 } else { self.slow + more };
                        for _ in 0..rate {
                            let slow = f64::from(u8::from(dice.uniform() < p));
                            cells.push(Duration::from_secs(second), place(arm, Some(server)), 1.0, slow);
                            (n, bad) = (n + 1.0, bad + slow);
                        }
                    }
                }
            }
            let p = bad / n;
            (cells, p * (1.0 - p))
        }
    }

    #[test]
    fn where_nothing_pauses_little_is_paid() {
        for seed in 0..5 {
            let calm = CALM.effect(600, seed);
            assert!((1.0..1.4).contains(&calm), "{calm}");
            // Another rate in `new` is no moment, and neither is an incident of all servers.
            let worse = World { more: 0.05, ..CALM }.effect(600, seed);
            assert!(worse < 1.4, "{worse}");
            let shared = World { pauses: 1.0 / 60.0, all: true, ..CALM }.effect(600, seed);
            assert!(shared < 1.6, "{shared}");
            let one_each = World { servers: [(1, 10), (1, 190)], ..CALM }.effect(600, seed);
            assert!(one_each < 2.0, "{one_each}");
        }
    }

    /// 1 in 60 seconds is 0.9 slow: v = 0.0127, σ² = 0.033; cells of 10 requests in `new`, of 19 in
    /// stable.
    #[test]
    fn a_pause_is_one_event_and_not_ten() {
        for seed in 0..5 {
            let pauses = World { pauses: 1.0 / 60.0, ..CALM }.effect(1_800, seed);
            assert!((3.0..8.0).contains(&pauses), "{pauses}");
            let longer = World { pauses: 1.0 / 600.0, lasting: 10, ..CALM }.effect(3_600, seed);
            assert!((10.0..80.0).contains(&longer), "{longer}");
            let one_each =
                World { servers: [(1, 10), (1, 190)], pauses: 1.0 / 60.0, ..CALM }.effect(1_800, seed);
            assert!(one_each > 3.0, "{one_each}");
        }
    }

    /// The moments of stable's servers predict the effect in a wave.
    #[test]
    fn the_effect_in_a_wave_is_expected_of_stables_servers() {
        for (servers, lasting, pauses) in [
            ([(1, 10), (10, 19)], 1, 1.0 / 60.0),
            ([(1, 10), (10, 19)], 10, 1.0 / 600.0),
            ([(3, 20), (9, 20)], 1, 1.0 / 60.0),
            ([(1, 10), (10, 19)], 1, 0.0),
        ] {
            let world = World { servers, lasting, pauses, ..CALM };
            let alone = World { servers: [(0, 0), (servers[1].0, servers[1].1)], ..world };
            let (cells, variance) = alone.cells(3_600, 3);
            let [new, stable] = servers.map(|(n, each)| f64::from(n) * each as f64);
            let rate = new + stable;
            let of_servers = servers.map(|(n, _)| f64::from(n));
            let estimate = expected(&cells.moments(variance), rate, new / rate, of_servers);
            let came = world.effect(3_600, 4);
            assert!(
                (0.5..2.0).contains(&(estimate / came)),
                "{servers:?} {lasting}: {estimate:.2}, {came:.2}"
            );
        }
    }

    #[test]
    fn sums_that_were_saved_are_read_again() {
        let mut cells = ServerTimeCells::default();
        for second in 0..200 {
            for server in 0..3 {
                let bad = f64::from(u8::from(second % 50 == 7 && server == 1));
                (0..5).for_each(|_| {
                    cells.push(Duration::from_secs(second), place(Arm::Stable, Some(server)), 1.0, bad);
                });
            }
        }
        let mut encoder = Encoder::new();
        cells.save(&mut encoder);
        let bytes = encoder.finish();
        let mut decoder = Decoder::open(&bytes).unwrap();
        let again = ServerTimeCells::restore(&mut decoder).unwrap();
        assert_eq!(decoder.end(), Some(()));
        assert!(cells.effect(0.007) > 1.5);
        assert_eq!(cells.effect(0.007), again.effect(0.007));
    }
}
