//! A maintenance: a span in which the ceilings and `both_arms` of one release only report, because
//! a change outside the release is known to affect both versions.
//!
//! Waves hold meanwhile. The comparison with stable, the breaker and `harm_users_max` stay active:
//! a `new` that is worse than stable is still taken out.
//!
//! Invariants: pure; it lasts at most [`MAX`] from the request, and ends by itself; it never turns
//! a verdict of the comparison into a report.

use super::verdict::{Cause, Judgement, Verdict, WatchdogState};
use std::time::Duration;

/// The longest duration.
pub const MAX: Duration = Duration::from_secs(24 * 3600);
/// Bytes of the name of a change.
pub const CHANGE_MAX: usize = 128;
/// A repeated request that extends the end by less than this is the same maintenance.
pub const SAME: Duration = Duration::from_secs(10);

/// The record of a maintenance in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maintenance {
    /// The name of the change that it is for.
    pub change: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    pub until_ms: i64,
    pub actor: String,
    pub reason: String,
    /// Number of the ledger entry that records it; 0: not recorded yet.
    pub entry: u64,
}

impl Maintenance {
    /// The remaining time at a wall clock time. A clock that went back extends nothing.
    pub fn left(&self, at_ms: i64) -> Duration {
        let whole = self.until_ms.saturating_sub(self.at_ms).max(0);
        let left = self.until_ms.saturating_sub(at_ms).clamp(0, whole);
        Duration::from_millis(left as u64).min(MAX)
    }

    /// The command that ends it.
    pub fn end_command(release: &str) -> String {
        format!("grayling maintenance {release} --end")
    }
}

/// Why a length or a change is not one that a maintenance may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MaintenanceError {
    #[error("a maintenance of no time has no effect: give `for`, as in \"30m\"")]
    NoTime,
    #[error(
        "a maintenance lasts 24 h at most, and `for` is {} h: begin another one when this one has ended",
        tenths_of_hours(*.0)
    )]
    TooLong(Duration),
    #[error("a maintenance names its change: give `change`, as in \"CHG-123\"")]
    NoChange,
    #[error("`change` is a name of {CHANGE_MAX} bytes at most; the rest belongs into `reason`")]
    ChangeTooLong,
    #[error("`change` has control characters")]
    ControlCharacters,
}

/// Rounded up.
fn tenths_of_hours(length: Duration) -> f64 {
    (length.as_secs() as f64 / 360.0).ceil() / 10.0
}

/// Checks the length of a maintenance.
///
/// # Errors
/// It is zero, or longer than [`MAX`].
pub fn check_length(length: Duration) -> Result<Duration, MaintenanceError> {
    match length {
        Duration::ZERO => Err(MaintenanceError::NoTime),
        length if length > MAX => Err(MaintenanceError::TooLong(length)),
        length => Ok(length),
    }
}

/// The name of a change in its stored form.
///
/// # Errors
/// It is empty, too long, or has control characters.
pub fn check_change(change: &str) -> Result<&str, MaintenanceError> {
    match change.trim() {
        "" => Err(MaintenanceError::NoChange),
        change if change.len() > CHANGE_MAX => Err(MaintenanceError::ChangeTooLong),
        change if change.chars().any(char::is_control) => Err(MaintenanceError::ControlCharacters),
        change => Ok(change),
    }
}

/// What a decision would have done without the maintenance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Would {
    TakeOut,
    Alarm,
}

/// Turns a decision of a ceiling or of `both_arms` into a report.
pub fn report_only(change: &str, judgement: &mut Judgement) {
    let would = match (judgement.verdict, judgement.state) {
        (Verdict::Breach(Cause::Ceiling | Cause::BothArms), _) => Would::TakeOut,
        (_, WatchdogState::BothArms) => Would::Alarm,
        _ => return,
    };
    (judgement.state, judgement.verdict) = (WatchdogState::Suspicious, Verdict::Inconclusive);
    judgement.withheld = true;
    judgement.reason = would.sentence(change, &judgement.reason);
}

#[cfg(test)]
mod tests {
    use super::super::verdict::JudgementEvidence;
    use super::*;
    use crate::domain::judge::ceiling::CeilingSample;
    use crate::domain::judge::verdict_inputs::VerdictInputs;
    use crate::stats::hypergeometric_bet::PerArm;

    fn judgement(state: WatchdogState, verdict: Verdict) -> Judgement {
        let evidence = JudgementEvidence {
            window: Duration::ZERO,
            minute: CeilingSample::default(),
            recent: CeilingSample::default(),
            errors_max: 0.02,
            latency_p99_max: Duration::ZERO,
            slow: CeilingSample::default(),
            p99_new: None,
            p99_stable: None,
            alpha: 0.001,
            e_value: 1.0,
            e: Default::default(),
            e_notice: 1.0,
            e_small: Default::default(),
            detection_limit: None,
            client_errors: PerArm::default(),
            rows: vec![],
            clean: PerArm::default(),
            share: 0.2,
            warming: None,
            inputs: VerdictInputs::default(),
        };
        Judgement {
            state,
            verdict,
            withheld: false,
            reason: "much fails".into(),
            signals: vec![],
            decided: None,
            evidence,
        }
    }

    #[test]
    fn ceilings_and_both_arms_report_and_the_comparison_goes_on() {
        for cause in [Cause::Ceiling, Cause::BothArms] {
            let mut of = judgement(WatchdogState::Tripped, Verdict::Breach(cause));
            report_only("CHG-1", &mut of);
            assert_eq!((of.state, of.verdict), (WatchdogState::Suspicious, Verdict::Inconclusive));
            assert_eq!(of.reason, "maintenance CHG-1: it would have taken new out: much fails");
        }
        let mut of = judgement(WatchdogState::BothArms, Verdict::Inconclusive);
        report_only("CHG-1", &mut of);
        assert_eq!(of.state, WatchdogState::Suspicious);
        for cause in Cause::ALL.into_iter().filter(|c| ![Cause::Ceiling, Cause::BothArms].contains(c)) {
            let mut of = judgement(WatchdogState::Tripped, Verdict::Breach(cause));
            let before = of.clone();
            report_only("CHG-1", &mut of);
            assert_eq!(of, before);
        }
    }

    #[test]
    fn a_length_is_some_time_and_a_day_at_most() {
        let fault = |s| check_length(Duration::from_secs(s)).unwrap_err().to_string();
        assert_eq!(check_length(MAX), Ok(MAX));
        assert!(fault(0).contains("no time"), "{}", fault(0));
        assert!(fault(90_000).contains("24 h at most, and `for` is 25 h"), "{}", fault(90_000));
    }

    #[test]
    fn a_change_has_a_name_of_one_line() {
        assert_eq!(check_change(" CHG-1 "), Ok("CHG-1"));
        for bad in ["", "  ", "a\nb", &"x".repeat(129)] {
            assert!(check_change(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_lengthens_nothing() {
        let of = Maintenance {
            change: "c".into(),
            at_ms: 1_000_000,
            until_ms: 1_060_000,
            actor: String::new(),
            reason: String::new(),
            entry: 0,
        };
        let left = [0, 1_000_000, 1_030_000, 1_060_000, i64::MAX].map(|at| of.left(at).as_secs());
        assert_eq!(left, [60, 60, 30, 0, 0]);
        let far = Maintenance { until_ms: i64::MAX, at_ms: i64::MIN, ..of };
        assert_eq!(far.left(0), MAX);
    }
}
