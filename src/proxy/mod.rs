//! The data plane. `listener` owns a worker's sockets; `forward` handles one request from top to
//! bottom.

mod access;
mod cancel_token;
mod client;
mod connection;
mod deadline;
mod decision;
mod detached;
pub mod error;
mod exchange;
mod forward;
pub mod guard;
pub mod headers;
pub mod identity;
pub mod listener;
mod on_new;
mod path;
mod request_body;
mod respond;
mod response_body;
mod result_code;
mod stream;
mod trace;
mod tunnel;
mod upgrade;
mod websocket;
pub mod worker;

#[cfg(test)]
mod damaged;
