//! The servers of an upstream: addresses, health, balance, connection pools.

mod addresses;
pub mod connect;
mod connection_origin;
pub mod health;
pub mod pool;
pub mod resolve;
pub mod send_error;
pub mod server;
mod silence_detector;
mod stream_limit;
