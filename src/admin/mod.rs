//! The admin API: what people and machines ask, and the changes that people make. Its own listener,
//! its own thread.

pub mod auth;
pub mod dto;
pub mod events;
pub mod file;
pub mod history;
pub mod maintenance;
pub mod page;
mod progress;
pub mod record;
pub mod room;
pub mod routes;
pub mod serve;
pub mod service;
pub mod session;
