//! The servers of an upstream: addresses, health, balance, connection pools.

mod addresses;
pub mod connect;
mod connection_origin;
mod grpc_health;
pub mod health;
mod http2_start;
pub mod pool;
pub mod resolve;
pub mod send_error;
pub mod server;
mod silence_detector;
mod stream_limit;
