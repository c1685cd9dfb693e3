//! Timers for deadlines that rarely expire.
//!
//! A runtime timer takes a lock when it is set, and again when it is dropped.
//! A request sets several, and nearly all are cancelled.
//! So an [`LazyTimer`] that is postponed leaves its timer in the wheel.
//! The timer fires early, and is then set again if a task still waits for it.
//! A dropped alarm leaves its timer to the next one.
//!
//! Invariants: an alarm is never ready before its deadline, and wakes the task that polled it last.
//! A thread keeps at most `SPARE_MAX` unused timers.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep_until};

const SPARE_MAX: usize = 256;

thread_local! {
    static SPARE: RefCell<Vec<Pin<Box<Sleep>>>> = const { RefCell::new(Vec::new()) };
}

/// A deadline that can be moved at no cost.
#[derive(Default)]
pub struct LazyTimer {
    timer: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Ready once `deadline` has passed; each call may pass a different one.
    pub fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let spare = || SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| Box::pin(sleep_until(deadline)));
        let timer = self.timer.get_or_insert_with(spare);
        loop {
            if timer.deadline() > deadline {
                timer.as_mut().reset(deadline);
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }
}

impl Drop for LazyTimer {
    fn drop(&mut self) {
        let Some(timer) = self.timer.take() else { return };
        // Fails while the thread ends, when the spare timers are gone.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(timer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::time::Duration;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(20);

    fn run(future: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future);
        SPARE.with_borrow_mut(Vec::clear);
    }

    /// Resolves once `deadline` has passed.
    async fn passed(alarm: &mut LazyTimer, deadline: Instant) {
        poll_fn(|cx| alarm.poll(cx, deadline)).await;
    }

    #[test]
    fn an_alarm_rings_after_its_deadline_however_it_was_moved() {
        run(async {
            let mut alarm = LazyTimer::default();
            let began = Instant::now();
            let mut moves = [LONG, SHORT, 2 * SHORT, LONG].into_iter();
            let pending = poll_fn(|cx| {
                for until in moves.by_ref() {
                    assert!(alarm.poll(cx, began + until).is_pending());
                }
                Poll::Ready(())
            });
            pending.await;
            // Its timer fires early, at the shortest deadline.
            passed(&mut alarm, began + 3 * SHORT).await;
            assert!(began.elapsed() >= 3 * SHORT);
        });
    }

    #[test]
    fn the_next_alarm_takes_the_timer_over_and_has_a_deadline_of_its_own() {
        run(async {
            for (first, then) in [(LONG, SHORT), (SHORT, 3 * SHORT)] {
                let mut alarm = LazyTimer::default();
                poll_fn(|cx| Poll::Ready(alarm.poll(cx, Instant::now() + first).is_pending())).await;
                drop(alarm);
                assert_eq!(SPARE.with_borrow(Vec::len), 1);
                let began = Instant::now();
                passed(&mut LazyTimer::default(), began + then).await;
                assert!(began.elapsed() >= then);
                // A timer that has fired already works as well.
                passed(&mut LazyTimer::default(), began + then + SHORT).await;
                assert!(began.elapsed() >= then + SHORT);
                assert_eq!(SPARE.with_borrow(Vec::len), 1);
            }
        });
    }
}
