//! The admin API: queries and changes, for people and machines. It has its own listener and thread.

pub mod auth;
pub mod dto;
pub mod events;
pub mod file;
pub mod history;
pub mod maintenance;
pub mod meter;
pub mod page;
mod progress;
pub mod record;
pub mod room;
pub mod routes;
pub mod serve;
pub mod service;
pub mod session;
