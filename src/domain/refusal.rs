//! Why a connection of a proxy in front is closed before its first request: its PROXY header.
//!
//! Invariant: the causes are few and named here, so that they can be counted by cause for as long
//! as the process lives.

/// Why a connection has no header that could be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It begins with something else.
    Absent,
    Malformed,
    /// No end of its line, or a length beyond what is taken.
    TooLong,
    /// The connection ended first.
    Cut,
    /// It was not whole in time.
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
