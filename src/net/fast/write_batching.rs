//! Write batching: short writes of one runtime turn are queued until the ready tasks have run, then
//! sent together.
//!
//! Waking an idle peer costs the kernel about as much as a write; further writes while it runs are
//! cheap. If each piece went out between two tasks, most would find the peer asleep again.
//! In a batch, the first write wakes the peer, and the rest is there before it has read.
//!
//! Invariants:
//! * The bytes of one stream keep their order. Requests go out before responses.
//! * Queued bytes wait at most one turn of the tasks that were ready before.
//! * On a thread without [`run`], writes go out at once.
//! * Bytes that a full socket did not take are sent as it drains, whatever the owner is waiting
//!   for. An owner that has more to send waits for that. It gets a write error at its next
//!   operation.
//! * Queued bytes are sent before a stream is dropped or shut down.

use crate::net::fast::response_head_limit;
use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::{spawn_local, unconstrained};

/// A longer piece is sent at once: it is worth a wake-up, and not worth a copy.
const SHORT_BYTES: usize = 4 * 1024;
/// Bound on the queued bytes of one stream.
const HELD_BYTES_MAX: usize = 16 * 1024;
/// Items of each kind sent in one turn. After them, other tasks run.
const TURN_MAX: usize = 128;
/// Sockets checked by one call to the kernel.
/// A close that arrives between that call and the request is missed, so the number is small.
const ASKED: usize = 8;
/// Empty buffers kept for the next turn.
const SPARE_MAX: usize = TURN_MAX;

thread_local! {
    static WRITE_BATCH: WriteBatch = const {
        WriteBatch { turns: RefCell::new(VecDeque::new()), held: RefCell::new(VecDeque::new()), sender: Cell::new(None), spare: RefCell::new(Vec::new()) }
    };
}

struct WriteBatch {
    turns: RefCell<VecDeque<Rc<dyn Deferred>>>,
    held: RefCell<VecDeque<Arc<Mutex<Buffer>>>>,
    /// Wakes [`run`]; `None` where it does not run.
    sender: Cell<Option<Waker>>,
    spare: RefCell<Vec<BytesMut>>,
}

/// A sender that is called in its turn.
pub trait Deferred {
    /// The socket to check for a close by the peer before the turn, if any.
    fn commands(&self) -> Option<RawFd>;
    fn note_spent(&self, spent: bool);
    fn turn(&self);
}

/// Queues `what` for a turn after the tasks that are ready now.
/// `false`: [`run`] does not run on this thread.
pub fn schedule(what: Rc<dyn Deferred>) -> bool {
    WRITE_BATCH.try_with(|batch| batch.schedule(&batch.turns, what)).unwrap_or(false)
}

/// Sends what is scheduled on this thread. When dropped, it sends what is still queued.
pub async fn run() {
    struct Closing;
    impl Drop for Closing {
        fn drop(&mut self) {
            let _ = WRITE_BATCH.try_with(|batch| {
                batch.sender.set(None);
                while batch.send(Remainder::Leave) {}
            });
        }
    }
    let _closing = Closing;
    // One poll does the work of many tasks: the cooperative budget of one would end it half-way.
    unconstrained(poll_fn(|cx| {
        WRITE_BATCH.with(|batch| {
            batch.sender.set(Some(cx.waker().clone()));
            if batch.send(Remainder::Spawn) {
                cx.waker().wake_by_ref();
            }
        });
        Poll::Pending
    }))
    .await
}

impl WriteBatch {
    /// `false`: nothing sends on this thread.
    fn schedule<T>(&self, queue: &RefCell<VecDeque<T>>, scheduled: T) -> bool {
        let Some(sender) = self.sender.take() else { return false };
        if self.is_empty() {
            sender.wake_by_ref();
        }
        queue.borrow_mut().push_back(scheduled);
        self.sender.set(Some(sender));
        true
    }

    fn is_empty(&self) -> bool {
        self.turns.borrow().is_empty() && self.held.borrow().is_empty()
    }

    /// Sends one batch. Returns whether more is queued.
    /// Requests go first: the servers work on them while the responses go to the clients.
    fn send(&self, rest: Remainder) -> bool {
        // Neither queue is borrowed during a send, because a send may schedule more.
        for _ in 0..TURN_MAX / ASKED {
            let few: [Option<Rc<dyn Deferred>>; ASKED] = {
                let mut turns = self.turns.borrow_mut();
                std::array::from_fn(|_| turns.pop_front())
            };
            if few[0].is_none() {
                break;
            }
            // When the runtime ends, the tasks that wait for the responses end as well.
            if let Remainder::Spawn = rest {
                take_turns(&few);
            }
        }
        for _ in 0..TURN_MAX {
            let held = self.held.borrow_mut().pop_front();
            let Some(held) = held else { break };
            send(&held, self, rest);
        }
        !self.is_empty()
    }

    fn keep(&self, mut spare: BytesMut) {
        let mut kept = self.spare.borrow_mut();
        if kept.len() < SPARE_MAX && spare.capacity() > 0 {
            spare.clear();
            kept.push(spare);
        }
    }
}

/// A client's connection whose short writes are batched with those of others.
pub struct BatchedStream {
    read: OwnedReadHalf,
    held: Arc<Mutex<Buffer>>,
}

struct Buffer {
    /// `None` once its stream is dropped.
    write: Option<OwnedWriteHalf>,
    /// Written by the owner, not sent yet.
    bytes: BytesMut,
    by: FlushedBy,
    error: Option<io::Error>,
    owner: Option<Waker>,
}

/// Which part sends the queued bytes.
enum FlushedBy {
    /// The owner, if there are any.
    Owner,
    /// The write batch, in its turn.
    Outbox,
    /// A task, since the socket was full; the waker is its own.
    Task(Option<Waker>),
}

/// What happens to bytes that a socket did not take in its turn.
#[derive(Clone, Copy)]
enum Remainder {
    Spawn,
    /// Leave them to the owner: the runtime ends.
    Leave,
}

fn lock(held: &Mutex<Buffer>) -> MutexGuard<'_, Buffer> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BatchedStream {
    pub fn new(stream: TcpStream) -> Self {
        let (read, write) = stream.into_split();
        let bytes = BytesMut::new();
        let held = Buffer { write: Some(write), bytes, by: FlushedBy::Owner, error: None, owner: None };
        BatchedStream { read, held: Arc::new(Mutex::new(held)) }
    }

    fn poll_write_pieces(&self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut held = lock(&self.held);
        held.fault()?;
        let length = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        let fits = length <= SHORT_BYTES && held.bytes.len() + length <= HELD_BYTES_MAX;
        let waits = match held.by {
            FlushedBy::Owner => fits && held.bytes.is_empty() && self.schedule(&mut held),
            FlushedBy::Outbox => fits,
            FlushedBy::Task(_) => false,
        };
        if waits {
            pieces.iter().for_each(|piece| held.bytes.extend_from_slice(piece));
            held.owned_by(cx.waker());
            return Poll::Ready(Ok(length));
        }
        ready!(held.poll_sent(cx))?;
        held.poll_write(cx, pieces)
    }

    fn schedule(&self, held: &mut Buffer) -> bool {
        WRITE_BATCH
            .try_with(|batch| {
                if !batch.schedule(&batch.held, self.held.clone()) {
                    return false;
                }
                if let Some(spare) = batch.spare.borrow_mut().pop() {
                    held.bytes = spare;
                }
                held.by = FlushedBy::Outbox;
                true
            })
            .unwrap_or(false)
    }
}

impl Buffer {
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
        crate::net::poll_write_pieces(self.half()?, cx, pieces)
    }

    /// Called by the owner: ready once all queued bytes are sent.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.bytes.is_empty() {
            self.owned_by(cx.waker());
            match self.by {
                FlushedBy::Task(_) => return Poll::Pending,
                FlushedBy::Owner | FlushedBy::Outbox => ready!(self.poll_send(cx))?,
            }
        }
        self.by = FlushedBy::Owner;
        Poll::Ready(Ok(()))
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.bytes.is_empty() {
            let Buffer { write: Some(write), bytes, .. } = self else { break };
            let sent = ready!(Pin::new(write).poll_write(cx, bytes))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            drop(bytes.split_to(sent));
        }
        Poll::Ready(Ok(()))
    }

    /// All bytes are sent, or an error ended that: wakes the owner.
    fn done(&mut self, result: io::Result<()>) {
        self.by = FlushedBy::Owner;
        if let Err(error) = result {
            self.bytes.clear();
            self.error = Some(error);
        }
        if let Some(owner) = self.owner.take() {
            owner.wake();
        }
    }
}

/// Runs the turns one after the other, after one check of all their sockets.
fn take_turns(few: &[Option<Rc<dyn Deferred>>; ASKED]) {
    let sockets = few.each_ref().map(|whose| whose.as_ref()?.commands());
    if sockets.iter().any(Option::is_some)
        && let Some(spent) = response_head_limit::spent(sockets)
    {
        let asked = few.iter().flatten().zip(sockets).zip(spent);
        asked
            .filter(|((_, socket), _)| socket.is_some())
            .for_each(|((whose, _), spent)| whose.note_spent(spent));
    }
    few.iter().flatten().for_each(|whose| whose.turn());
}

/// Sends the queued bytes of one stream, in its turn.
fn send(held: &Arc<Mutex<Buffer>>, batch: &WriteBatch, rest: Remainder) {
    let mut this = lock(held);
    let (FlushedBy::Outbox, Some(write)) = (&this.by, &this.write) else { return };
    match write.try_write(&this.bytes) {
        Ok(sent) if sent == this.bytes.len() => {
            this.by = FlushedBy::Owner;
            return batch.keep(std::mem::take(&mut this.bytes));
        }
        Ok(sent) => drop(this.bytes.split_to(sent)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(error) => return this.done(Err(error)),
    }
    match rest {
        Remainder::Leave => this.done(Ok(())),
        Remainder::Spawn => {
            this.by = FlushedBy::Task(None);
            // The owner must now start its write time-out.
            if let Some(owner) = &this.owner {
                owner.wake_by_ref();
            }
            let held = held.clone();
            spawn_local(poll_fn(move |cx| {
                let mut this = lock(&held);
                match this.poll_send(cx) {
                    Poll::Ready(result) => {
                        this.done(result);
                        Poll::Ready(())
                    }
                    Poll::Pending => {
                        this.by = FlushedBy::Task(Some(cx.waker().clone()));
                        Poll::Pending
                    }
                }
            }));
        }
    }
}

impl AsyncRead for BatchedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BatchedStream {
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

    /// Ready while bytes wait for their turn, which will come. Pending while the socket is full.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.held);
        held.fault()?;
        if let FlushedBy::Outbox = held.by { Poll::Ready(Ok(())) } else { held.poll_sent(cx) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = lock(&self.held);
        held.fault()?;
        ready!(held.poll_sent(cx))?;
        held.half()?.poll_shutdown(cx)
    }
}

impl Drop for BatchedStream {
    fn drop(&mut self) {
        let mut held = lock(&self.held);
        held.owner = None;
        if let FlushedBy::Task(task) = &mut held.by
            && let Some(task) = task.take()
        {
            task.wake();
        }
        if let Some(write) = held.write.take() {
            if !held.bytes.is_empty() {
                // Best effort: no later attempt follows.
                let _ = write.try_write(&held.bytes);
            }
            // Closed, not shut down: the client sees the same, for one system call less.
            write.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::future::Future;
    use std::io::{Read, Write};
    use std::net::TcpStream as StdStream;
    use std::os::fd::AsRawFd;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::{spawn_local, yield_now};

    fn local<T>(future: impl Future<Output = T>) -> T {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default()).unwrap();
        runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(10), future).await.expect("in time") })
    }

    /// Our end, and the peer's.
    async fn pair() -> (BatchedStream, StdStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = StdStream::connect(listener.local_addr().unwrap()).unwrap();
        other.set_nonblocking(true).unwrap();
        let ours = listener.accept().await.unwrap().0;
        ours.set_nodelay(true).unwrap();
        // Small buffers, which are soon full.
        socket2::SockRef::from(&ours).set_send_buffer_size(64 * 1024).unwrap();
        socket2::SockRef::from(&other).set_recv_buffer_size(64 * 1024).unwrap();
        (BatchedStream::new(ours), other)
    }

    /// The bytes that can be read without waiting.
    fn there(other: &mut StdStream) -> Vec<u8> {
        let mut bytes = vec![0; 64 * 1024];
        match other.read(&mut bytes) {
            Ok(n) => bytes.truncate(n),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                bytes.clear();
            }
        }
        bytes
    }

    #[test]
    fn without_a_sender_everything_goes_out_at_once() {
        local(async {
            let (mut ours, mut other) = pair().await;
            ours.write_all(b"head").await.unwrap();
            assert_eq!(there(&mut other), b"head");
        });
    }

    #[test]
    fn what_is_written_in_one_turn_is_sent_when_all_have_had_theirs() {
        local(async {
            spawn_local(run());
            yield_now().await;
            let (mut ours, mut other) = pair().await;
            let ready = spawn_local(async {});
            ours.write_all(b"he").await.unwrap();
            ours.write_all(b"ad").await.unwrap();
            ours.flush().await.unwrap();
            assert_eq!(there(&mut other), b"", "it waits");
            yield_now().await;
            assert!(ready.is_finished(), "whoever was ready came before");
            assert_eq!(there(&mut other), b"head");
            // A long piece does not overtake a short one.
            ours.write_all(b"short").await.unwrap();
            ours.write_all(&[b'l'; SHORT_BYTES + 1]).await.unwrap();
            let sent = there(&mut other);
            assert!(sent.starts_with(b"shortl"), "{:?}", &sent[..6.min(sent.len())]);
        });
    }

    /// Records, in its turn, how much a client has received.
    struct Looks {
        client: RefCell<StdStream>,
        seen: Cell<Option<usize>>,
    }

    impl Deferred for Looks {
        fn commands(&self) -> Option<RawFd> {
            None
        }

        fn note_spent(&self, _: bool) {
            panic!("it does not ask");
        }

        fn turn(&self) {
            self.seen.set(Some(there(&mut self.client.borrow_mut()).len()));
        }
    }

    #[test]
    fn requests_go_out_before_answers_that_were_there_first() {
        local(async {
            spawn_local(run());
            yield_now().await;
            let (mut ours, mut other) = pair().await;
            let request =
                Rc::new(Looks { client: RefCell::new(other.try_clone().unwrap()), seen: Cell::new(None) });
            ours.write_all(b"an answer").await.unwrap();
            assert!(schedule(request.clone()));
            yield_now().await;
            assert_eq!(request.seen.get(), Some(0), "the answer comes after it");
            assert_eq!(there(&mut other), b"an answer", "and in the same turn");
        });
    }

    /// Records the check result that it got before its turn.
    struct Asks {
        socket: Option<StdStream>,
        told: Cell<Option<bool>>,
        told_in_time: Cell<Option<bool>>,
    }

    impl Deferred for Asks {
        fn commands(&self) -> Option<RawFd> {
            self.socket.as_ref().map(StdStream::as_raw_fd)
        }

        fn note_spent(&self, spent: bool) {
            self.told.set(Some(spent));
        }

        fn turn(&self) {
            self.told_in_time.set(self.told.get());
        }
    }

    #[test]
    fn each_is_told_of_its_own_socket_before_its_turn() {
        local(async {
            spawn_local(run());
            yield_now().await;
            // More than one check covers. Every third is closed, every fourth has no socket to
            // check.
            let mut other_ends = vec![];
            let mut all = vec![];
            for n in 0..3 * ASKED {
                let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
                let socket = StdStream::connect(listener.local_addr().unwrap()).unwrap();
                let other_end = listener.accept().unwrap().0;
                let (closed, commands) = (n % 3 == 0, n % 4 != 0);
                if closed {
                    drop(other_end);
                } else {
                    other_ends.push(other_end);
                }
                let socket = commands.then_some(socket);
                let whose = Rc::new(Asks { socket, told: Cell::new(None), told_in_time: Cell::new(None) });
                all.push((whose, commands.then_some(closed)));
            }
            all.iter().for_each(|(whose, _)| assert!(schedule(whose.clone())));
            yield_now().await;
            for (n, (whose, expected)) in all.iter().enumerate() {
                assert_eq!(whose.told_in_time.get(), *expected, "{n}");
            }
        });
    }

    #[test]
    fn what_waits_is_sent_before_an_end() {
        local(async {
            let sender = spawn_local(run());
            yield_now().await;
            let (mut dropped, mut of_dropped) = pair().await;
            dropped.write_all(b"last words").await.unwrap();
            drop(dropped);
            assert_eq!(there(&mut of_dropped), b"last words");
            let (mut shut, mut of_shut) = pair().await;
            shut.write_all(b"last words").await.unwrap();
            shut.shutdown().await.unwrap();
            assert_eq!(there(&mut of_shut), b"last words");
            assert_eq!(of_shut.read(&mut [0]).unwrap(), 0, "and its end");
            let (mut left, mut of_left) = pair().await;
            left.write_all(b"last words").await.unwrap();
            sender.abort();
            let _ = sender.await;
            assert_eq!(there(&mut of_left), b"last words", "also when nobody would send any more");
            left.write_all(b", and after them").await.unwrap();
            assert_eq!(there(&mut of_left), b", and after them");
        });
    }

    #[test]
    fn an_error_is_told_to_the_owner() {
        local(async {
            spawn_local(run());
            yield_now().await;
            let (mut ours, mut other) = pair().await;
            other.write_all(b"unread").unwrap();
            ours.write_all(b"unread").await.unwrap();
            yield_now().await;
            // Closed with unread data: a reset.
            drop(other);
            let error = loop {
                match ours.write_all(b"more").await {
                    Ok(()) => yield_now().await,
                    Err(error) => break error,
                }
            };
            assert!(
                matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
                "{error}"
            );
        });
    }

    #[test]
    fn what_the_socket_does_not_take_follows_whatever_the_owner_waits_for() {
        local(async {
            let (mut ours, other) = pair().await;
            let mut other = TcpStream::from_std(other).unwrap();
            // Full means that it takes nothing for a while: bytes in flight may still find room.
            let mut full = 0;
            let a_while = Duration::from_millis(300);
            while let Ok(n) = tokio::time::timeout(a_while, ours.write(&[b'f'; 1000])).await {
                full += n.unwrap();
            }
            let held = ours.held.clone();
            spawn_local(run());
            yield_now().await;
            let (arrived, seen_whole) = tokio::sync::oneshot::channel();
            let owner = spawn_local(async move {
                ours.write_all(b"the rest").await.unwrap();
                seen_whole.await.unwrap();
                ours.flush().await.unwrap();
                ours
            });
            while !matches!(lock(&held).by, FlushedBy::Task(_)) {
                yield_now().await;
            }
            let mut seen = vec![0; full + b"the rest".len()];
            other.read_exact(&mut seen).await.unwrap();
            assert!(seen.ends_with(b"fthe rest"));
            arrived.send(()).unwrap();
            drop(owner.await.unwrap());
        });
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn whatever_is_written_arrives_whole_and_in_order_also_at_a_slow_reader(
            pieces in prop::collection::vec((1_usize..3 * SHORT_BYTES, any::<bool>()), 1..400),
        ) {
            local(async {
                spawn_local(run());
                yield_now().await;
                let (ours, other) = pair().await;
                let (mut read, mut write) = tokio::io::split(ours);
                let mut other = TcpStream::from_std(other).unwrap();
                let all: usize = pieces.iter().map(|(length, _)| length).sum();
                let writer = spawn_local(async move {
                    let mut at = 0_usize;
                    for (length, rests) in pieces {
                        let piece: Vec<u8> = (at..at + length).map(|n| (n % 251) as u8).collect();
                        write.write_all(&piece).await.unwrap();
                        at += length;
                        if rests {
                            yield_now().await;
                        }
                    }
                    write.flush().await.unwrap();
                    // Held open until the reader has everything.
                    assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
                });
                let mut seen = 0_usize;
                let mut bytes = vec![0; 5_000];
                while seen < all {
                    for _ in 0..5 {
                        yield_now().await;
                    }
                    let n = other.read(&mut bytes).await.unwrap();
                    assert!(n > 0, "{seen} of {all}");
                    assert!(bytes[..n].iter().enumerate().all(|(i, byte)| *byte == ((seen + i) % 251) as u8));
                    seen += n;
                }
                drop(other);
                writer.await.unwrap();
            });
        }
    }
}
