//! One file, one slow task each: the watchdog.
//!
//! Never imports `proxy`: they meet in `live`.

pub mod probes;
pub mod watchdog;
