//! The servers of an upstream: addresses, health, balance, connection pools.

pub mod connect;
pub mod health;
pub mod pool;
pub mod resolve;
pub mod send_error;
pub mod server;
mod silence_detector;
mod stream_limit;
