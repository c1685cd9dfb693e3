//! Sockets: listening, resolving names, connections to upstreams.

pub mod listen;
pub mod pool;
pub mod resolve;
