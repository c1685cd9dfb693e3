//! The two arms of a release.

#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Arm {
    Stable,
    New,
}

impl Arm {
    pub const BOTH: [Arm; 2] = [Arm::Stable, Arm::New];

    pub fn label(self) -> &'static str {
        match self {
            Arm::Stable => "stable",
            Arm::New => "new",
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}
