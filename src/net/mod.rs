//! Sockets: listening, TLS, resolving names, connections to upstreams.

pub mod head_room;
pub mod listen;
pub mod pool;
pub mod probe;
pub mod proxy_protocol;
pub mod resolve;
pub mod tls;

use socket2::TcpKeepalive;
use std::time::Duration;

/// A connection may be silent for long, a tunnel for ever. That the other machine is still there is asked by TCP: one that is gone
/// without a word is known after two minutes.
pub fn keepalive() -> TcpKeepalive {
    let (idle, interval, retries) = (Duration::from_secs(60), Duration::from_secs(15), 4);
    TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(retries)
}

/// hyper's tasks (HTTP/2 streams) run where their connection does.
#[derive(Clone, Copy)]
pub struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}
