//! Alerts to the configured receivers.

pub mod alert;
mod post;
mod receiver;
