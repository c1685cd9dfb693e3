//! The thread of a worker: its sockets, the accept loop, and the drain.
//!
//! Invariants: no error ends the accept loop.
//! On drain the worker accepts the backlog, closes the socket and asks every connection to finish.
//! What is still open after `drain` is dropped.

use super::connection::{self, Arrival, Counted};
use super::worker::{ServingStage, Worker};
use crate::net::fast::write_batching;
use crate::runtime::shared::SharedState;
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_local};

/// A worker's sockets.
#[derive(Default)]
pub struct Listeners {
    pub http: Vec<StdListener>,
    pub https: Vec<StdListener>,
}

/// The same within its runtime.
struct OpenListeners {
    listeners: Vec<(ListenerKind, TcpListener)>,
    /// The one that is asked first, so that a busy one does not starve the others.
    first: Cell<usize>,
}

/// The socket through which a client came in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListenerKind {
    Http,
    Https,
}

/// The body of a worker thread: serves until the stage changes.
///
/// # Errors
/// The runtime or the socket cannot be set up.
pub fn run(
    index: usize,
    listeners: Listeners,
    shared: Arc<SharedState>,
    stage: watch::Receiver<ServingStage>,
) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker::new(index, shared));
    let listeners = {
        let _context = runtime.enter();
        OpenListeners::new(listeners)?
    };
    let served = runtime.block_on(accept_all(worker.clone(), listeners, stage));
    worker.end_detached();
    drop(runtime);
    served
}

/// Accepts connections until the stage changes, and drains.
async fn accept_all(
    worker: Rc<Worker>,
    listeners: OpenListeners,
    mut stage: watch::Receiver<ServingStage>,
) -> io::Result<()> {
    let sweeper = spawn_local(worker.clone().sweep());
    let canceller = spawn_local(worker.clone().cancel_held());
    // Sends what this thread's connections and pools have queued. They find the queue through a
    // thread-local of `net::fast::write_batching`, because hyper wants a connection that may become
    // a tunnel to be `Send`.
    spawn_local(write_batching::run());
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            (kind, accepted) = listeners.accept() => match accepted {
                Ok((stream, address)) => spawn_connection(&worker, &mut connections, stream, address.ip(), kind, &stage),
                // Out of descriptors, or the client was gone before accept: neither ends the
                // worker.
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            },
            _ = stage.changed() => break,
            Some(_) = connections.join_next() => {}
        }
    }
    // The kernel has already completed the handshake with clients in the backlog.
    while let Some((kind, Ok((stream, address)))) = now_or_never(listeners.accept()).await {
        spawn_connection(&worker, &mut connections, stream, address.ip(), kind, &stage);
    }
    drop(listeners);
    let drain = worker.shared.snapshot().config.limits.drain;
    let finished = async {
        while connections.join_next().await.is_some() {}
        while let Some(detached) = worker.next_detached() {
            detached.await;
        }
    };
    tokio::select! {
        () = finished => {}
        () = tokio::time::sleep(drain) => {}
        _ = stage.wait_for(|s| *s == ServingStage::Stopping) => {}
    }
    sweeper.abort();
    canceller.abort();
    Ok(())
}

/// Counts an accepted connection and spawns its task, if there is room for it.
fn spawn_connection(
    worker: &Rc<Worker>,
    connections: &mut JoinSet<()>,
    stream: TcpStream,
    address: IpAddr,
    kind: ListenerKind,
    stage: &watch::Receiver<ServingStage>,
) {
    let snapshot = worker.shared.snapshot();
    let limits = &snapshot.config.limits;
    let room = limits.connections.min(worker.shared.connections.limit.load(Relaxed));
    let before = worker.shared.gauges.connections.fetch_add(1, Relaxed);
    worker.shared.gauges.connections_most.fetch_max(before + 1, Relaxed);
    if before >= room {
        worker.shared.gauges.connections.fetch_sub(1, Relaxed);
        // A TLS client could read no response before its handshake, for which there is no room.
        if kind == ListenerKind::Http {
            refuse(&stream);
        }
        return;
    }
    let tls = match (kind, &snapshot.config.tls) {
        (ListenerKind::Http, _) => None,
        (ListenerKind::Https, Some(tls)) => Some(tls.server.config.clone()),
        // No plan that removes [tls] from a listener comes into force.
        (ListenerKind::Https, None) => {
            worker.shared.gauges.connections.fetch_sub(1, Relaxed);
            return;
        }
    };
    let counted = Counted(worker.shared.clone());
    let address = address.to_canonical();
    let listen = &snapshot.config.listen;
    let announced = listen.proxy_protocol && listen.trusts(address);
    let arrival = Arrival { stream, address, announced, tls, counted };
    connections.spawn_local(connection::run(worker.clone(), arrival, limits.clone(), stage.clone()));
}

/// Over `[limits] connections`: a cheap response, then close.
fn refuse(stream: &TcpStream) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    // The socket is new: its buffer takes these few bytes, or the client is gone.
    let _ = stream.try_write(FULL);
}

impl OpenListeners {
    fn new(of: Listeners) -> io::Result<OpenListeners> {
        let http = of.http.into_iter().map(|listener| (ListenerKind::Http, listener));
        let https = of.https.into_iter().map(|listener| (ListenerKind::Https, listener));
        let open = |(kind, listener)| Ok((kind, TcpListener::from_std(listener)?));
        let listeners = http.chain(https).map(open).collect::<io::Result<_>>()?;
        Ok(OpenListeners { listeners, first: Cell::new(0) })
    }

    async fn accept(&self) -> (ListenerKind, io::Result<(TcpStream, SocketAddr)>) {
        poll_fn(|cx| {
            let (before, from) = self.listeners.split_at(self.first.get().min(self.listeners.len()));
            for (asked, (kind, listener)) in from.iter().chain(before).enumerate() {
                if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                    self.first.set((self.first.get() + asked + 1) % self.listeners.len());
                    return Poll::Ready((*kind, accepted));
                }
            }
            Poll::Pending
        })
        .await
    }
}

async fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}
