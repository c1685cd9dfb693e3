//! Why a connection from a trusted proxy is closed before its first request: its PROXY header.
//!
//! Invariant: the causes are few and fixed, so that they can be counted by cause for the life of
//! the process.

/// Why a connection has no acceptable header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It begins with other data.
    Absent,
    Malformed,
    /// No end of its line, or a length beyond the limit.
    TooLong,
    /// The connection ended first.
    Cut,
    /// It was not complete in time.
    Slow,
}

impl Refusal {
    pub const ALL: [Refusal; 5] =
        [Refusal::Absent, Refusal::Malformed, Refusal::TooLong, Refusal::Cut, Refusal::Slow];

    pub fn label(self) -> &'static str {
        match self {
            Refusal::Absent => "absent",
            Refusal::Malformed => "malformed",
            Refusal::TooLong => "too_long",
            Refusal::Cut => "cut",
            Refusal::Slow => "slow",
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}
