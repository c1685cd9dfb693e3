pub mod admin;
pub mod domain;
