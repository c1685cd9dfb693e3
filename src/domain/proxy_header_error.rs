//! Why a connection from a trusted proxy is closed before its first request: its PROXY header.
//!
//! Invariant: the causes are few and fixed, so that they can be counted by cause for the life of
//! the process.

/// Why a connection has no acceptable header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeaderError {
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

impl ProxyHeaderError {
    pub const ALL: [ProxyHeaderError; 5] = [
        ProxyHeaderError::Absent,
        ProxyHeaderError::Malformed,
        ProxyHeaderError::TooLong,
        ProxyHeaderError::Cut,
        ProxyHeaderError::Slow,
    ];

    pub fn label(self) -> &'static str {
        match self {
            ProxyHeaderError::Absent => "absent",
            ProxyHeaderError::Malformed => "malformed",
            ProxyHeaderError::TooLong => "too_long",
            ProxyHeaderError::Cut => "cut",
            ProxyHeaderError::Slow => "slow",
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}
