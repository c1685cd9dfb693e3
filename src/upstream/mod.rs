//! The servers of an upstream: addresses, health, balance, connection pools.

pub mod connect;
mod grpc_health;
pub mod health;
pub mod pool;
pub mod resolve;
pub mod server;
mod silence_detector;
