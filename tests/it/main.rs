//! The tests that run the real binary, and those that hold the house in order: one test binary, a module a subject.
//!
//! `tests/run` installs what they need (nginx, wrk, …) and runs them.

mod cohort;
mod world;
