//! The fast paths below the HTTP library: batched writes, connections polled in line, stale checks.

pub(crate) mod inline_connection;
pub(crate) mod response_head_limit;
pub(crate) mod write_batching;
