//! The bad requests of one arm in a trailing span, by user: each user counts at most [`OF_ONE`]
//! times.
//!
//! A client that retries makes many bad requests from one fault of its own.
//! Shares therefore use [`BadRequests::count`], and conditions on several users use
//! [`BadRequests::users`].
//!
//! Invariants: pure. Memory is bounded by the cells of the span and [`NAMED_MAX`] users in each. If
//! a cell has more bad requests, those with recorded users represent the rest. A request without a
//! user counts fully.

use crate::stats::users::UserUnit;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The most bad requests of one user that count.
pub const OF_ONE: u32 = 2;
/// The most users of bad requests recorded in a cell.
pub const NAMED_MAX: usize = 64;
/// The most cells in a span: 60 s of 50 ms, and some.
const CELLS_MAX: usize = 1300;

#[derive(Clone, Debug, Default)]
struct BadRequestCell {
    end: Duration,
    requests: u64,
    /// Bad requests with a user, and without.
    of_users: u64,
    of_nobody: u64,
    users: Vec<UserUnit>,
}

#[derive(Clone, Debug)]
pub struct BadRequests {
    span: Duration,
    /// Counts since the last [`BadRequests::close`].
    open: BadRequestCell,
    cells: VecDeque<BadRequestCell>,
    /// Sums over the closed cells.
    requests: u64,
    of_users: u64,
    of_nobody: u64,
    named: u64,
    counted: u64,
    times: HashMap<UserUnit, u32>,
}

impl BadRequests {
    pub fn new(span: Duration) -> BadRequests {
        BadRequests {
            span,
            open: BadRequestCell::default(),
            cells: VecDeque::new(),
            requests: 0,
            of_users: 0,
            of_nobody: 0,
            named: 0,
            counted: 0,
            times: HashMap::new(),
        }
    }

    /// Adds requests, including the bad ones.
    pub fn came(&mut self, requests: u64) {
        self.open.requests += requests;
    }

    /// Marks one of them as bad.
    pub fn was_bad(&mut self, user: Option<UserUnit>) {
        match user {
            Some(user) => {
                self.open.of_users += 1;
                if self.open.users.len() < NAMED_MAX {
                    self.open.users.push(user);
                }
            }
            None => self.open.of_nobody += 1,
        }
    }

    /// Adds `n` bad requests, with users distributed like the recorded ones.
    pub fn more_were_bad(&mut self, n: u64) {
        match self.open.users.is_empty() {
            true => self.open.of_nobody += n,
            false => self.open.of_users += n,
        }
    }

    /// Closes the cell; drops cells older than the span.
    pub fn close(&mut self, end: Duration) {
        if self.open.requests > 0 || self.open.of_users + self.open.of_nobody > 0 {
            let cell = BadRequestCell { end, ..std::mem::take(&mut self.open) };
            self.requests += cell.requests;
            self.of_users += cell.of_users;
            self.of_nobody += cell.of_nobody;
            self.named += cell.users.len() as u64;
            for user in &cell.users {
                let times = self.times.entry(*user).or_default();
                *times += 1;
                self.counted += u64::from(*times <= OF_ONE);
            }
            self.cells.push_back(cell);
        }
        while self.cells.len() > CELLS_MAX
            || self.cells.front().is_some_and(|first| end.saturating_sub(first.end) >= self.span)
        {
            let Some(cell) = self.cells.pop_front() else { return };
            self.forget(&cell);
        }
    }

    fn forget(&mut self, cell: &BadRequestCell) {
        self.requests -= cell.requests;
        self.of_users -= cell.of_users;
        self.of_nobody -= cell.of_nobody;
        self.named -= cell.users.len() as u64;
        for user in &cell.users {
            let Some(times) = self.times.get_mut(user) else { continue };
            self.counted -= u64::from(*times <= OF_ONE);
            *times -= 1;
            if *times == 0 {
                self.times.remove(user);
            }
        }
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Bad requests, at most [`OF_ONE`] of each user.
    pub fn count(&self) -> u64 {
        let of_users = u128::from(self.of_users) * u128::from(self.counted) / u128::from(self.named.max(1));
        of_users as u64 + self.of_nobody
    }

    /// Number of recorded users with bad requests.
    pub fn users(&self) -> u64 {
        self.times.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_user_counts_twice_however_often_he_fails() {
        let mut bad = BadRequests::new(10 * SECOND);
        for i in 0..100 {
            bad.came(10);
            bad.was_bad(Some(UserUnit::from_index(7)));
            bad.close(SECOND / 10 * i);
        }
        assert_eq!((bad.requests(), bad.count(), bad.users()), (1000, 2, 1));
        (0..5).for_each(|i| bad.was_bad(Some(UserUnit::from_index(i))));
        bad.was_bad(None);
        bad.close(10 * SECOND);
        assert_eq!((bad.count(), bad.users()), (8, 6));
        bad.close(60 * SECOND);
        assert_eq!((bad.requests(), bad.count(), bad.users()), (0, 0, 0));
    }

    #[test]
    fn the_users_that_are_known_stand_for_the_rest() {
        let mut bad = BadRequests::new(10 * SECOND);
        bad.came(100_000);
        (0..50_000).for_each(|i| bad.was_bad(Some(UserUnit::from_index(i))));
        bad.close(SECOND);
        assert_eq!(bad.count(), 50_000);
        (0..50_000).for_each(|_| bad.was_bad(Some(UserUnit::from_index(9))));
        bad.close(2 * SECOND);
        assert!((50_000..53_000).contains(&bad.count()), "{}", bad.count());
    }

    proptest! {
        #[test]
        fn what_has_left_the_span_has_left_the_sums(cells in prop::collection::vec((0u64..9, prop::collection::vec(0u32..6, 0..5)), 0..60)) {
            let mut bad = BadRequests::new(5 * SECOND);
            for (i, (requests, users)) in cells.iter().enumerate() {
                bad.came(*requests);
                users.iter().for_each(|u| bad.was_bad(Some(UserUnit::from_index(*u))));
                bad.close(SECOND * i as u32);
                let kept = &cells[(i + 1).saturating_sub(5)..=i];
                let mut times = [0u64; 6];
                kept.iter().flat_map(|(_, users)| users).for_each(|u| times[*u as usize] += 1);
                prop_assert_eq!(bad.count(), times.iter().map(|n| (*n).min(2)).sum::<u64>());
                prop_assert_eq!(bad.users(), times.iter().filter(|n| **n > 0).count() as u64);
                prop_assert_eq!(bad.requests(), kept.iter().map(|(n, _)| n).sum::<u64>());
            }
        }
    }
}
