//! The servers of an upstream: addresses, health, balance, connection pools.

mod heard;
pub mod pool;
pub mod probe;
pub mod resolve;
pub mod upstream;
