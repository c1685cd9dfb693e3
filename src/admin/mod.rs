//! The admin API: queries and changes, for people and machines. It has its own listener and thread.

pub mod auth;
pub mod config_file;
pub mod connection_limit;
pub mod dto;
pub mod events;
pub mod history;
pub mod maintenance;
pub mod metrics;
pub mod page;
mod progress;
pub mod records;
pub mod routes;
pub mod serve;
pub mod service;
pub mod session;
