//! Slow background tasks, one file each: watchdog, waves, health probes, resources, alerts (with
//! their receivers), traces, memory.
//!
//! Never imports `proxy`: they meet in `live`.

mod aftermath;
pub mod alerts;
mod call;
pub mod conductor;
mod known;
pub mod memory;
mod past;
pub mod probes;
pub mod resource;
mod stage;
pub mod traces;
pub mod watchdog;
