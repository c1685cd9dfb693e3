//! One file, one slow task each: the watchdog.
//!
//! Never imports `proxy`: they meet in `live`.

pub mod alert;
mod post;
pub mod probes;
mod receiver;
pub mod watchdog;
