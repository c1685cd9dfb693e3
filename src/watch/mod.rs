//! One file, one slow task each: the watchdog, the waves, the health probes.
//!
//! Never imports `proxy`: they meet in `live`.

pub mod conductor;
pub mod probes;
pub mod watchdog;
