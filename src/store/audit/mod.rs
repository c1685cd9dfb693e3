//! Readers of the ledger: recompute its chain, its verdicts, and who was in `new`.

pub(crate) mod evidence;
pub mod gate_evidence;
pub(crate) mod timeline;
pub(crate) mod verify;
