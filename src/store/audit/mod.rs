//! Readers of the ledger: recompute its chain, its verdicts, and who was in `new`.

pub mod evidence;
pub mod gate_evidence;
pub mod timeline;
pub mod verify;
