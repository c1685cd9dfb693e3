//! The data plane. `listener` owns a worker's sockets; `handle` handles one request from top to
//! bottom.

mod access;
mod breaker;
mod cancel_token;
mod carrier;
mod client;
mod connection;
mod content_coding;
mod deadline;
mod decision;
mod detached;
pub(crate) mod error;
mod forward;
mod handle;
pub mod headers;
pub mod identity;
pub mod listener;
mod on_new;
mod path;
mod record;
mod request_body;
mod respond;
mod response_body;
mod result_code;
mod rewrite;
mod routing;
mod stream;
mod trace;
mod tunnel;
mod upgrade;
pub mod validate;
mod websocket;
pub mod worker;

#[cfg(test)]
mod damaged;
