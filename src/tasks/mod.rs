//! Slow background tasks, one file each: watchdog, waves, health probes, resources, alerts (with
//! their receivers), traces, memory.
//!
//! Never imports `proxy`: they meet in `shared`.

mod aftermath;
pub mod alerts;
mod call;
pub mod health;
pub mod memory;
mod past_figures;
pub mod resources;
mod service_profile;
mod stage;
pub mod trace_export;
pub mod watchdog;
pub mod wave_controller;
