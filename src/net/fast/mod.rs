//! The fast paths below the HTTP library: batched writes, connections polled in line, stale checks.

pub mod driven;
pub mod head_room;
pub mod outbox;
