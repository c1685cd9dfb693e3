//! The admin API: what people and machines ask, and the changes that people make. Its own listener, its own thread.

pub mod auth;
pub mod dto;
mod progress;
pub mod routes;
pub mod serve;
