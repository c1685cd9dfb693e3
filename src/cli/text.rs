//! Text output of commands: figures, colour, and the two streams.
//!
//! Invariants: colour only on a terminal, without NO_COLOR and without TERM=dumb.
//! Output is redrawn in place only if [`redraws`] allows it.
//! External text (a reason, a user id, a server's response) is printed through [`shown`], so that
//! it cannot inject escape sequences.

use crate::config;
use crate::domain::share;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write as _};

/// Whether escape sequences may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Ansi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hue {
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
}

impl Colour {
    pub fn of_stdout() -> Colour {
        Colour::of(&io::stdout())
    }

    pub fn of_stderr() -> Colour {
        Colour::of(&io::stderr())
    }

    fn of(stream: &impl IsTerminal) -> Colour {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Colour::decide(stream.is_terminal(), set("NO_COLOR").is_some(), set("TERM").as_deref())
    }

    /// See no-color.org.
    fn decide(terminal: bool, no_color: bool, term: Option<&OsStr>) -> Colour {
        if terminal && !no_color && term.is_none_or(|t| t != "dumb") { Colour::Ansi } else { Colour::Plain }
    }

    pub fn paint(self, hue: Hue, text: &str) -> String {
        let code = match hue {
            Hue::Bold => 1,
            Hue::Dim => 2,
            Hue::Red => 31,
            Hue::Green => 32,
            Hue::Yellow => 33,
        };
        match self {
            Colour::Plain => text.to_owned(),
            Colour::Ansi => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

impl From<Colour> for config::Color {
    fn from(colour: Colour) -> Self {
        match colour {
            Colour::Plain => config::Color::Plain,
            Colour::Ansi => config::Color::Ansi,
        }
    }
}

/// Whether stdout may be redrawn in place: it is a terminal that understands cursor movements.
pub fn redraws() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|t| !t.is_empty() && t != "dumb")
}

/// Writes to stdout at once. Returns the plain I/O error, so that the caller can detect a closed
/// pipe.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A value as indented JSON, with a line end.
pub fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    Ok(print(&text)?)
}

/// Writes a line to stderr. An error is ignored, because it could not be reported.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", text.trim_end());
}

/// External text, with control characters made visible. Line ends become spaces.
pub fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// `15,432`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `5%`, `4.97%`, `0.0001%`: at most four decimals, as in weights.
pub fn percent(value: f64) -> String {
    let text = share::percent(value, 4);
    match text.strip_suffix('%').filter(|text| text.starts_with(|c: char| c.is_ascii_digit())) {
        Some(digits) => format!("{}%", digits.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    }
}

/// `0.06%`: two decimals, for measured values; see [`share::percent`].
pub fn measured_percent(value: f64) -> String {
    share::percent(value, 2)
}

/// `3.1 ms`, `22 ms`, `1.24 s`.
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// `42s`, `13m 32s`, `2h 5m`, `3d 4h`.
pub fn seconds(s: u64) -> String {
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m {}s", s / 60, s % 60),
        3600..86_400 => format!("{}h {}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d {}h", s / 86_400, s % 86_400 / 3600),
    }
}

/// JSON evidence as one line of text: `new_failed 41, new_requests 812`; empty for null and `{}`.
pub fn evidence(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => String::new(),
        Value::String(text) => shown(text),
        Value::Object(fields) => {
            let mut out = String::new();
            // The grounds are for `ledger --verify`; the text beside them already contains their
            // content.
            for (name, field) in fields.iter().filter(|(name, field)| *name != "grounds" && !field.is_null())
            {
                let told = match field {
                    Value::Object(_) => format!("({})", evidence(field)),
                    _ => evidence(field),
                };
                let _ = write!(out, "{}{} {told}", if out.is_empty() { "" } else { ", " }, shown(name));
            }
            out
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(evidence).collect::<Vec<_>>().join(", "))
        }
        plain => plain.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_that_has_it_and_the_users_consent() {
        let decide =
            |terminal, no_color, term: Option<&str>| Colour::decide(terminal, no_color, term.map(OsStr::new));
        for term in [None, Some("xterm-256color")] {
            assert_eq!(decide(true, false, term), Colour::Ansi);
            assert_eq!(decide(true, true, term), Colour::Plain);
            assert_eq!(decide(false, false, term), Colour::Plain);
        }
        assert_eq!(decide(true, false, Some("dumb")), Colour::Plain);
    }

    #[test]
    fn figures_are_written_as_people_read_them() {
        assert_eq!(
            [0, 12, 999, 1000, 15_432, 1_000_000].map(count),
            ["0", "12", "999", "1,000", "15,432", "1,000,000"]
        );
        assert_eq!(
            [0.0, 5.0, 0.0001, 33.3333, 100.0].map(percent),
            ["0%", "5%", "0.0001%", "33.3333%", "100%"]
        );
        assert_eq!([0.04, 3.1, 22.0, 1240.0].map(milliseconds), ["0.0 ms", "3.1 ms", "22 ms", "1.24 s"]);
        assert_eq!([42, 812, 7500, 273_600].map(seconds), ["42s", "13m 32s", "2h 5m", "3d 4h"]);
    }

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(shown("slow\x1b[2J\nand\u{9b}m bad ü"), "slow\\u{1b}[2J and\\u{9b}m bad ü");
    }

    #[test]
    fn evidence_is_one_line() {
        let value =
            serde_json::json!({"new": {"failed": 41, "of": 812}, "alpha": 0.001, "s": "a\nb", "l": [1, 2]});
        assert_eq!(evidence(&value), "alpha 0.001, l [1, 2], new (failed 41, of 812), s a b");
        assert_eq!(evidence(&serde_json::Value::Null), "");
        let unknown = serde_json::json!({"blind_below": null, "p99_ms": 3});
        assert_eq!(evidence(&unknown), "p99_ms 3", "what is not known is not told");
    }

    #[test]
    fn colour_is_only_written_where_it_may_be() {
        assert_eq!(Colour::Plain.paint(Hue::Red, "x"), "x");
        assert_eq!(Colour::Ansi.paint(Hue::Red, "x"), "\x1b[31mx\x1b[0m");
    }
}
