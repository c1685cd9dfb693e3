//! One file, one slow task each: the watchdog, the waves, health probes, alerts (and each of their receivers).
//!
//! Never imports `proxy`: they meet in `live`.

pub mod alert;
pub mod conductor;
mod post;
pub mod probes;
mod receiver;
pub mod watchdog;
