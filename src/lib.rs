//! stub
pub mod admin;
pub mod cli;
pub mod config;
pub mod domain;
pub mod live;
pub mod net;
pub mod proxy;
pub mod watch;
