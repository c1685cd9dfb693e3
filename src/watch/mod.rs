//! Slow background tasks, one file each: watchdog, waves, health probes, resources, alerts (with
//! their receivers), traces, memory.
//!
//! Never imports `proxy`: they meet in `live`.

mod aftermath;
pub mod alert;
mod call;
pub mod conductor;
mod known;
pub mod memory;
mod past;
mod post;
pub mod probes;
mod receiver;
pub mod resource;
mod stage;
pub mod traces;
pub mod watchdog;
