//! The fast paths below the HTTP library: batched writes, connections polled in line, stale checks.

pub mod inline_connection;
pub mod response_head_limit;
pub mod write_batching;
