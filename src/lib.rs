pub mod admin;
pub mod cli;
pub mod domain;
