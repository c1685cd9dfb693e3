//! Ends a task from outside: the task of a connection, or of an HTTP/2 stream.
//!
//! Invariant: a token costs one load per poll, unless it is armed.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

/// Ends the task that polls it. Unless it is armed, a poll costs one load.
#[derive(Default)]
pub struct CancelToken {
    stage: Cell<CancelStage>,
    waker: Cell<Option<Waker>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum CancelStage {
    #[default]
    Idle,
    /// Each poll stores its waker.
    Armed,
    Cancelled,
}

impl CancelToken {
    pub fn is_cancelled(&self) -> bool {
        self.stage.get() == CancelStage::Cancelled
    }

    /// Ready once it is cancelled. Only an armed token wakes the task for that.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        match self.stage.get() {
            CancelStage::Idle => Poll::Pending,
            CancelStage::Armed => {
                let waker = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
                self.waker.set(waker.or_else(|| Some(cx.waker().clone())));
                Poll::Pending
            }
            CancelStage::Cancelled => Poll::Ready(()),
        }
    }

    pub async fn cancelled(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }

    /// From now on each poll stores its waker.
    pub fn arm(&self) {
        self.stage.set(CancelStage::Armed);
    }

    pub fn disarm(&self) {
        self.stage.set(CancelStage::Idle);
    }

    pub fn cancel(&self) {
        self.stage.set(CancelStage::Cancelled);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
