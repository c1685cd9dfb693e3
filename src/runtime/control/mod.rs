//! Changes of the state in force: by the verbs of a person, by the gates, by the watchdog.

mod aftermath;
pub(crate) mod maintenance;
pub(crate) mod verbs;
mod waves;
