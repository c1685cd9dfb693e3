//! Sockets: listening, TLS, resolving names, connections to upstreams.

pub mod head_room;
pub mod listen;
pub mod pool;
pub mod resolve;
pub mod tls;

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
