//! The words of keys with a choice, and the values of the domain that they stand for.
//!
//! Invariant: every value has one word; a set has as many words as values.

use crate::domain::config::{
    CertificateName, FailedUserIds, LogFormat, MetricsDetail, Normalise, OnAnomaly, OnStateFailure,
    OnUnreachable, WatchdogMode, WhenEmpty,
};
use crate::domain::resource::ResourceAction;
use crate::domain::wave::Promotion;

/// A word of the file, and its meaning; empty if the documentation of the key says it.
#[derive(Debug)]
pub struct Choice {
    pub word: &'static str,
    pub doc: &'static str,
}

/// The words of a key, and a value for each in the same order.
#[derive(Debug)]
pub struct ChoiceSet<T: 'static> {
    pub words: &'static [Choice],
    pub values: &'static [T],
}

impl<T: Copy> ChoiceSet<T> {
    pub fn value(&self, word: &str) -> Option<T> {
        let index = self.words.iter().position(|choice| choice.word == word)?;
        self.values.get(index).copied()
    }
}

macro_rules! choices {
    ($($name:ident: $type:ident { $($word:literal => $value:ident, $doc:literal;)+ })+) => {$(
        pub const $name: ChoiceSet<$type> = ChoiceSet {
            words: &[$(Choice { word: $word, doc: $doc }),+],
            values: &[$($type::$value),+],
        };
    )+};
}

choices! {
    NORMALISE: Normalise {
        "none" => None, "";
        "trim" => Trim, "without ASCII white space at both ends";
        "lowercase" => Lowercase, "trimmed, with ASCII letters in lower case";
        "digits" => Digits, "only the digits";
    }
    CERTIFICATE_NAME: CertificateName {
        "cn" => Common, "the common name of its subject; no id if there are several";
        "san" => Alternative, "the first alternative name that is a DNS name, a URI or an e-mail address";
    }
    ON_STATE_FAILURE: OnStateFailure {
        "stable_only" => StableOnly, "every release is at 0%, with an error in the log and in the status";
        "refuse" => Refuse, "the process does not start";
    }
    WHEN_EMPTY: WhenEmpty {
        "hold" => Hold, "a release that would let users in is held at 0% until `grayling resume RELEASE --ends hold --reason TEXT`";
        "start" => Start, "users enter as the file says";
    }
    FAILED_USERS: FailedUserIds {
        "hashed" => Hashed, "by the hash under `[log] user_key_file`, as in the log; without a key they are only counted";
        "clear" => Clear, "by their ids; only the user of the proxy's process can read the file";
        "off" => Off, "no list";
    }
    LOG_FORMAT: LogFormat {
        "json" => Json, "one object a line";
        "combined" => Combined, "the combined log format";
    }
    DETAIL: MetricsDetail {
        "full" => Full, "all metrics that the README lists";
        "deciding" => Deciding, "the metrics of decisions, and those that the alerts in config/prometheus need; the others are not shown, and cost a request nothing";
    }
    ON_UNREACHABLE: OnUnreachable {
        "stable" => Stable, "all requests";
        "reads" => Reads, "GET and HEAD";
        "error" => Error, "none";
    }
    ON_ANOMALY: OnAnomaly {
        "rollback" => Rollback, "0% until an operator resumes";
        "freeze" => Freeze, "the weight is held, and an alert is sent";
    }
    ON_RESOURCE: ResourceAction {
        "hold" => Hold, "nothing more";
        "trip" => Trip, "the watchdog takes `new` out, as `on_anomaly` says";
    }
    OPEN: Promotion {
        "auto" => Auto, "by itself";
        "by-hand" => ByHand, "by `grayling promote`";
    }
    WATCHDOG_MODE: WatchdogMode {
        "enforce" => Enforce, "takes `new` out";
        "report" => Report, "reports that it would take `new` out, and does nothing";
    }
}
