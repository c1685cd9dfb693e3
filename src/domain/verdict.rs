//! stub until the engine is merged
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause { Fuse, Ceiling, Errors, BothArms, Manual }
impl Cause {
    pub fn label(self) -> &'static str { match self { Cause::Fuse => "fuse", Cause::Ceiling => "ceiling", Cause::Errors => "errors", Cause::BothArms => "both_arms", Cause::Manual => "manual" } }
    pub fn parse(s: &str) -> Option<Cause> { [Cause::Fuse, Cause::Ceiling, Cause::Errors, Cause::BothArms, Cause::Manual].into_iter().find(|c| c.label() == s) }
}
