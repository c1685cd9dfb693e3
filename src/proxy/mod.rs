//! The data plane. `serve` owns a worker and its connections; `forward` handles one request from
//! top to bottom.

pub mod access;
pub mod body;
mod cancel;
pub mod error;
pub mod exchange;
pub mod forward;
pub mod guard;
pub mod headers;
pub mod identity;
pub mod path;
pub mod respond;
pub mod result_code;
pub mod serve;
pub mod stream;
pub mod trace;
pub mod tunnel;
pub mod websocket;

#[cfg(test)]
mod damaged;
