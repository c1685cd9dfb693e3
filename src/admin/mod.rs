//! The admin API: who may ask (`auth`), and what goes over the wire (`dto`).

pub mod auth;
pub mod dto;
