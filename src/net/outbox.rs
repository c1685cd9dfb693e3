//! What a worker sends in one turn of its runtime: kept until all who were ready have had their turn, then sent together.
//!
//! Whoever sleeps is woken by what comes for him; while he works on that, what more comes wakes nobody. Sent one by one, between the work on one
//! request and that on the next, most pieces find the other side asleep again, and a wake-up costs the kernel about as much as
//! the sending. Together, the first wakes, and the rest is there before he has looked.
//!
//! Invariants: what was written goes out in its order; nothing waits longer than the tasks that were ready before it take for one turn each, and nothing
//! waits on a thread without [`run`]; what a socket does not take at once is its owner's affair again, whom it wakes; an error is told to
//! the owner with what he does next; what waits is sent before a stream is dropped or shut down.

use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::unconstrained;

/// A longer piece is sent at once: it is worth a wake-up, and not worth a copy.
const SHORT_BYTES: usize = 4 * 1024;
/// Of one stream, what waits.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// Sent in one turn; then others have theirs.
const TURN_MAX: usize = 128;
/// Buffers that are kept for the next turn.
const SPARE_MAX: usize = TURN_MAX;

thread_local! {
    static OUTBOX: Outbox = const {
        Outbox { waiting: RefCell::new(VecDeque::new()), sender: Cell::new(None), spare: RefCell::new(Vec::new()) }
    };
}

struct Outbox {
    waiting: RefCell<VecDeque<Posted>>,
    /// Wakes [`run`]; `None` where it does not run.
    sender: Cell<Option<Waker>>,
    spare: RefCell<Vec<BytesMut>>,
}

enum Posted {
    Held(Arc<Mutex<Held>>),
    Turn(Rc<dyn Turn>),
}

/// Something that has something to send, and does so in its turn.
pub trait Turn {
    fn turn(&self);
}

/// Gives `what` its turn when those who are ready have had theirs. `false`: nobody would, on this thread.
pub fn post(what: Rc<dyn Turn>) -> bool {
    OUTBOX.try_with(|outbox| outbox.post(Posted::Turn(what))).unwrap_or(false)
}

/// Sends what is posted on this thread, for as long as it is polled; dropped, it sends what still waits.
pub async fn run() {
    struct Closing;
    impl Drop for Closing {
        fn drop(&mut self) {
            let _ = OUTBOX.try_with(|outbox| {
                outbox.sender.set(None);
                while outbox.send() {}
            });
        }
    }
    let _closing = Closing;
    // Many share its turn: the runtime's budget for one task would end it half-way.
    unconstrained(poll_fn(|cx| {
        OUTBOX.with(|outbox| {
            outbox.sender.set(Some(cx.waker().clone()));
            if outbox.send() {
                cx.waker().wake_by_ref();
            }
        });
        Poll::Pending
    }))
    .await
}

impl Outbox {
    fn post(&self, posted: Posted) -> bool {
        let Some(sender) = self.sender.take() else { return false };
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            sender.wake_by_ref();
        }
        waiting.push_back(posted);
        self.sender.set(Some(sender));
        true
    }

    /// Is there more?
    fn send(&self) -> bool {
        for _ in 0..TURN_MAX {
            // Not borrowed while it is sent: that may post more.
            let posted = self.waiting.borrow_mut().pop_front();
            match posted {
                Some(Posted::Held(held)) => lock(&held).send(self),
                Some(Posted::Turn(whose)) => whose.turn(),
                None => return false,
            }
        }
        !self.waiting.borrow().is_empty()
    }

    fn keep(&self, mut spare: BytesMut) {
        let mut kept = self.spare.borrow_mut();
        if kept.len() < SPARE_MAX && spare.capacity() > 0 {
            spare.clear();
            kept.push(spare);
        }
    }
}

/// A client's connection, whose short pieces are sent together with those of others.
pub struct Outgoing {
    read: OwnedReadHalf,
    held: Arc<Mutex<Held>>,
}

struct Held {
    /// `None` once its stream is gone.
    write: Option<OwnedWriteHalf>,
    /// Written, but not sent. Posted, unless the socket takes no more.
    bytes: BytesMut,
    stuck: bool,
    error: Option<io::Error>,
    owner: Option<Waker>,
}

fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Outgoing {
    pub fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        let bytes = BytesMut::new();
        let held = Held { write: Some(write), bytes, stuck: false, error: None, owner: None };
        Outgoing { read, held: Arc::new(Mutex::new(held)) }
    }

    fn poll_write_pieces(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut held = lock(&self.held);
        held.fault()?;
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let fits = length <= SHORT_BYTES && held.bytes.len() + length <= HELD_BYTES_MAX;
        if fits && !held.stuck && (!held.bytes.is_empty() || self.post(&mut held)) {
            pieces.iter().for_each(|piece| held.bytes.extend_from_slice(piece));
            held.owned_by(cx.waker());
            return Poll::Ready(Ok(length));
        }
        ready!(held.poll_send(cx))?;
        held.poll_write(cx, pieces)
    }

    fn post(&self, held: &mut Held) -> bool {
        OUTBOX
            .try_with(|outbox| {
                if !outbox.post(Posted::Held(self.held.clone())) {
                    return false;
                }
                if let Some(spare) = outbox.spare.borrow_mut().pop() {
                    held.bytes = spare;
                }
                true
            })
            .unwrap_or(false)
    }
}

impl Held {
    fn fault(&mut self) -> io::Result<()> {
        self.error.take().map_or(Ok(()), Err)
    }

    fn owned_by(&mut self, waker: &Waker) {
        if !self.owner.as_ref().is_some_and(|owner| owner.will_wake(waker)) {
            self.owner = Some(waker.clone());
        }
    }

    fn half(&mut self) -> io::Result<Pin<&mut OwnedWriteHalf>> {
        self.write.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        super::poll_write_pieces(self.half()?, cx, pieces)
    }

    /// By the owner: what waits is on its way.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let Held { write: Some(write), bytes, .. } = self else { break };
            let sent = ready!(Pin::new(write).poll_write(cx, bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            drop(bytes.split_to(sent));
        }
        self.stuck = false;
        Poll::Ready(Ok(()))
    }

    /// In its turn.
    fn send(&mut self, outbox: &Outbox) {
        if self.bytes.is_empty() || self.stuck {
            return;
        }
        let Some(write) = &self.write else { return };
        match write.try_write(&self.bytes) {
            Ok(sent) if sent == self.bytes.len() => return outbox.keep(std::mem::take(&mut self.bytes)),
            Ok(sent) => {
                drop(self.bytes.split_to(sent));
                self.stuck = true;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.stuck = true;
            }
            Err(error) => {
                self.bytes.clear();
                self.error = Some(error);
            }
        }
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }
}

impl AsyncRead for Outgoing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ready also while something waits for its turn, which will come; not while the socket takes no more.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.held);
        held.fault()?;
        if held.stuck { held.poll_send(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.held);
        held.fault()?;
        ready!(held.poll_send(cx))?;
        held.half()?.poll_shutdown(cx)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.owner = None;
        if let Some(write) = held.write.take() {
            if !held.bytes.is_empty() {
                // What the socket does not take now it never would have.
                let _ = write.try_write(&held.bytes);
            }
            // Closed, not shut down: that is the same for the client, and one call less.
            write.forget();
        }
    }
}
