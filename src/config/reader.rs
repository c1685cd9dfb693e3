//! Walks the spanned TOML tree: typed reads that report a fault at its place and yield a default,
//! so that the walk continues.
//!
//! serde would stop at the first wrong key or type, while a person who edits under pressure needs
//! all faults at once.
//! Invariants: a key is read only if `keys::KNOWN` has it; every fault carries the span of its
//! value or key.

use super::diagnostics::{Fault, Place, Report, Severity, Source};
use super::keys;
use super::values::{self, Bad, Parsed};
use crate::domain::cohort::Weight;
use std::collections::BTreeSet;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub type Span = Range<usize>;

/// A value and its place.
#[derive(Debug, Clone)]
pub struct Located<T> {
    pub value: T,
    pub span: Span,
}

/// One table of the file. `None`: absent, so every key has its default.
#[derive(Clone)]
pub struct Scope<'t> {
    /// Its row in `keys::KNOWN`.
    pub section: &'static str,
    /// The title as a person writes it: `[upstream.a]`.
    pub title: String,
    pub table: Option<&'t DeTable<'t>>,
    /// The span of its header, or of the whole inline table.
    pub span: Span,
}

pub struct Reader<'e> {
    pub source: Arc<Source>,
    pub report: Report,
    pub environment: &'e dyn Fn(&str) -> Option<String>,
    /// The folder of the config file.
    pub base: PathBuf,
    /// All files that the config names.
    pub files: BTreeSet<PathBuf>,
    /// The text has syntax errors, so a seemingly absent part may only be unreadable.
    pub recovering: bool,
}

impl<'e> Reader<'e> {
    fn push(&mut self, severity: Severity, span: Span, message: String, bad: Bad) {
        let place = Place::Shown { source: self.source.clone(), span };
        self.report.push(Fault { severity, place, message, label: bad.why, help: bad.help });
    }

    pub fn fault(&mut self, span: &Span, message: impl Into<String>, why: &str, help: Option<String>) {
        self.push(Severity::Error, span.clone(), message.into(), Bad { why: why.into(), help });
    }

    /// Reports a fault that a syntax error elsewhere may have caused.
    pub fn absent(&mut self, span: &Span, message: impl Into<String>, why: &str, help: Option<String>) {
        if !self.recovering {
            self.fault(span, message, why, help);
        }
    }

    pub fn warn(&mut self, span: &Span, message: impl Into<String>, why: &str, help: Option<String>) {
        self.push(Severity::Warning, span.clone(), message.into(), Bad { why: why.into(), help });
    }

    /// Reports a fault in a file that the config names.
    pub fn fault_elsewhere(
        &mut self,
        severity: Severity,
        place: Place,
        message: String,
        help: Option<String>,
    ) {
        self.report.push(Fault { severity, place, message, label: String::new(), help });
    }

    /// The path of a file, relative to the config file. The file is watched from now on.
    pub fn file(&mut self, name: &str) -> PathBuf {
        let path = self.base.join(name);
        self.files.insert(path.clone());
        path
    }

    fn refuse(&mut self, span: &Span, key: &str, bad: Bad) {
        self.push(Severity::Error, span.clone(), format!("invalid `{key}`"), bad);
    }

    /// The table under `key`, which may be absent.
    pub fn scope<'t>(&mut self, parent: &Scope<'t>, key: &str, section: &'static str) -> Scope<'t> {
        let title = if parent.title.is_empty() {
            format!("[{key}]")
        } else {
            format!("{}.{key}]", parent.title.trim_end_matches(']'))
        };
        match find(parent, key) {
            Some((_, value)) => self.table(value, section, title),
            None => Scope { section, title, table: None, span: parent.span.clone() },
        }
    }

    /// Checks that `value` is a table with known keys only.
    pub fn table<'t>(
        &mut self,
        value: &'t Spanned<DeValue<'t>>,
        section: &'static str,
        title: String,
    ) -> Scope<'t> {
        let span = value.span();
        let Some(table) = value.get_ref().as_table() else {
            let help = format!("write `{title}` on a line of its own, and its keys below");
            let help = if title.starts_with('[') { help } else { format!("write {title} as `{{ … }}`") };
            self.fault(
                &span,
                format!("`{}` is not a table", title.trim_matches(['[', ']'])),
                &found(value.get_ref()),
                Some(help),
            );
            return Scope { section, title, table: None, span };
        };
        let scope = Scope { section, title, table: Some(table), span };
        self.unknown_keys(&scope, table);
        scope
    }

    pub fn unknown_keys(&mut self, scope: &Scope<'_>, table: &DeTable<'_>) {
        let known = keys::known(scope.section);
        for key in table.keys() {
            let (span, key) = (key.span(), key.get_ref().as_ref());
            if known.contains(&key) {
                continue;
            }
            let message = format!("unknown key `{}`", key.escape_debug());
            if keys::is_of_later_version(scope.section, key) {
                self.fault(&span, message, "this version does not have it yet", Some("remove it".into()));
            } else if let Some(meant) = keys::closest(key, known.iter().copied()) {
                self.fault(&span, message, "", Some(format!("did you mean `{meant}`?")));
            } else if let Some(home) = keys::home(key).filter(|h| *h != scope.section) {
                let home = home.replace('*', "NAME");
                self.fault(&span, message, "", Some(format!("`{key}` belongs into `[{home}]`")));
            } else {
                self.fault(&span, message, "", Some(format!("known here: {}", known.join(", "))));
            }
        }
    }

    /// The named tables under `key` (`[upstream.a]`, `[upstream.b]`), in the order of the file.
    pub fn named<'t>(
        &mut self,
        root: &Scope<'t>,
        key: &'static str,
        section: &'static str,
    ) -> Vec<(Located<String>, Scope<'t>)> {
        let Some((_, group)) = find(root, key) else { return Vec::new() };
        let Some(table) = group.get_ref().as_table() else {
            let help = format!("write `[{key}.NAME]` on a line of its own, and its keys below");
            self.fault(&group.span(), format!("`{key}` is not a table"), &found(group.get_ref()), Some(help));
            return Vec::new();
        };
        let mut found = Vec::new();
        for (name, value) in table.iter() {
            let (span, text) = (name.span(), name.get_ref().as_ref());
            // `[release]` directly followed by `weight = …`: the name was forgotten.
            if !value.get_ref().is_table() && keys::known(section).contains(&text) {
                let help = format!("write `[{key}.NAME]` with a name of your choice");
                self.fault(&span, format!("`{text}` stands in `[{key}]`, which has no name"), "", Some(help));
                continue;
            }
            let name = match values::name(text) {
                Ok(name) => name,
                Err(bad) => {
                    self.push(
                        Severity::Error,
                        span.clone(),
                        format!("invalid name of {}", article(key)),
                        bad,
                    );
                    text.to_string()
                }
            };
            let scope = self.table(value, section, format!("[{key}.{name}]"));
            found.push((Located { value: name, span }, scope));
        }
        found.sort_by_key(|(name, _)| name.span.start);
        found
    }

    /// The value of a key, if present.
    pub fn value<'t>(&self, scope: &Scope<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(
            keys::known(scope.section).contains(&key),
            "`{key}` is not in KNOWN[{}]",
            scope.section
        );
        find(scope, key).map(|(_, value)| value)
    }

    /// A string with the environment expanded.
    pub fn expanded(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Option<Located<String>> {
        let span = value.span();
        let DeValue::String(text) = value.get_ref() else {
            let help = match value.get_ref() {
                DeValue::Integer(n) => Some(format!("write `\"{n}\"`")),
                DeValue::Float(n) => Some(format!("write `\"{n}\"`")),
                DeValue::Boolean(b) => Some(format!("write `\"{b}\"`")),
                _ => None,
            };
            self.fault(&span, format!("`{key}` is not a string"), &found(value.get_ref()), help);
            return None;
        };
        match values::expand(text, self.environment) {
            Ok(value) => Some(Located { value, span }),
            Err(bad) => {
                self.refuse(&span, key, bad);
                None
            }
        }
    }

    pub fn string(&mut self, scope: &Scope<'_>, key: &str) -> Option<Located<String>> {
        let value = self.value(scope, key)?;
        self.expanded(value, key)
    }

    /// A string that is parsed into a value.
    pub fn parsed<T>(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<Located<T>> {
        let text = self.string(scope, key)?;
        self.parse(text, key, parse)
    }

    pub fn parse<T>(
        &mut self,
        text: Located<String>,
        key: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<Located<T>> {
        match parse(&text.value) {
            Ok(value) => Some(Located { value, span: text.span }),
            Err(bad) => {
                self.refuse(&text.span, key, bad);
                None
            }
        }
    }

    /// A string with a unit. A bare number is refused with a correction.
    fn with_unit<T>(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        parse: fn(&str) -> Parsed<T>,
    ) -> Option<Located<T>> {
        let value = self.value(scope, key)?;
        let bare = match value.get_ref() {
            DeValue::Integer(n) => n.to_string(),
            DeValue::Float(n) => n.to_string(),
            _ => return self.parsed(scope, key, parse),
        };
        match parse(&bare) {
            Ok(_) => self.fault(&value.span(), format!("invalid `{key}`"), "not a string", None),
            Err(bad) => self.refuse(&value.span(), key, bad),
        }
        None
    }

    pub fn duration(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        default: &str,
        bounds: RangeInclusive<&str>,
    ) -> Duration {
        // The literals of the table of defaults are durations: a test reads them all.
        let literal = |text: &str| values::duration(text).unwrap_or_default();
        let Some(read) = self.with_unit(scope, key, values::duration) else { return literal(default) };
        let (low, high) = (literal(bounds.start()), literal(bounds.end()));
        if read.value < low || read.value > high {
            let why = if read.value < low { "too short" } else { "too long" };
            let help = format!("from `\"{}\"` to `\"{}\"`", bounds.start(), bounds.end());
            self.fault(&read.span, format!("`{key}` is out of bounds"), why, Some(help));
        }
        read.value
    }

    /// As [`Reader::duration`], where 0 means "none".
    pub fn duration_or_none(&mut self, scope: &Scope<'_>, key: &str, high: &str) -> Option<Duration> {
        let read = self.duration(scope, key, "0s", "0s"..=high);
        (!read.is_zero()).then_some(read)
    }

    /// As [`Reader::duration`], where absent and empty mean "not set".
    pub fn duration_unless_empty(&mut self, scope: &Scope<'_>, key: &str, high: &str) -> Option<Duration> {
        let empty = |value: &Spanned<DeValue<'_>>| value.get_ref().as_str() == Some("");
        if self.value(scope, key).is_none_or(empty) {
            return None;
        }
        Some(self.duration(scope, key, "0s", "0s"..=high))
    }

    pub fn size(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        default: &str,
        bounds: RangeInclusive<&str>,
    ) -> usize {
        let literal = |text: &str| values::size(text).unwrap_or_default();
        let Some(read) = self.with_unit(scope, key, values::size) else { return literal(default) };
        let (low, high) = (literal(bounds.start()), literal(bounds.end()));
        if read.value < low || read.value > high {
            let why = if read.value < low { "too small" } else { "too large" };
            let help = format!("from `\"{}\"` to `\"{}\"`", bounds.start(), bounds.end());
            self.fault(&read.span, format!("`{key}` is out of bounds"), why, Some(help));
        }
        read.value
    }

    pub fn percent(&mut self, scope: &Scope<'_>, key: &str, default: Weight) -> Located<Weight> {
        let read = self.with_unit(scope, key, values::percent);
        read.unwrap_or_else(|| Located { value: default, span: scope.span.clone() })
    }

    pub fn integer(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> u64 {
        let Some(value) = self.value(scope, key) else { return default };
        let span = value.span();
        let (low, high) = (bounds.start(), bounds.end());
        let help = Some(format!("a whole number from {low} to {high}"));
        let DeValue::Integer(n) = value.get_ref() else {
            let unquoted = value.get_ref().as_str().filter(|s| s.parse::<u64>().is_ok());
            let help = unquoted.map(|s| format!("write `{key} = {s}`, without quotes")).or(help);
            self.fault(&span, format!("`{key}` is not a whole number"), &found(value.get_ref()), help);
            return default;
        };
        match u64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) if bounds.contains(&n) => n,
            _ => {
                self.fault(&span, format!("`{key}` is out of bounds"), "", help);
                default
            }
        }
    }

    /// A float in `(0, high]`.
    pub fn fraction(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        default: f64,
        bounds: RangeInclusive<f64>,
    ) -> f64 {
        let Some(value) = self.value(scope, key) else { return default };
        let read = match value.get_ref() {
            DeValue::Float(n) => n.as_str().parse::<f64>().ok(),
            DeValue::Integer(n) => n.as_str().parse::<f64>().ok(),
            _ => None,
        };
        match read {
            Some(n) if bounds.contains(&n) => n,
            Some(_) => {
                let help = format!("a number from {} to {}", bounds.start(), bounds.end());
                self.fault(&value.span(), format!("`{key}` is out of bounds"), "", Some(help));
                default
            }
            None => {
                let help = format!("write `{key} = {default}`");
                self.fault(
                    &value.span(),
                    format!("`{key}` is not a number"),
                    &found(value.get_ref()),
                    Some(help),
                );
                default
            }
        }
    }

    pub fn boolean(&mut self, scope: &Scope<'_>, key: &str) -> Option<Located<bool>> {
        let value = self.value(scope, key)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::Boolean(b) => Some(Located { value: *b, span }),
            other => {
                let help = format!("write `{key} = true` or `{key} = false`");
                self.fault(&span, format!("`{key}` is neither true nor false"), &found(other), Some(help));
                None
            }
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy + Default>(&mut self, scope: &Scope<'_>, key: &str, words: &[(&str, T)]) -> T {
        let Some(text) = self.string(scope, key) else { return T::default() };
        if let Some((_, choice)) = words.iter().find(|(word, _)| *word == text.value) {
            return *choice;
        }
        let help = match keys::closest(&text.value, words.iter().map(|(word, _)| *word)) {
            Some(meant) => format!("did you mean `\"{meant}\"`?"),
            None => format!("one of {}", quoted(words.iter().map(|(word, _)| *word))),
        };
        self.fault(&text.span, format!("invalid `{key}`"), "no such choice", Some(help));
        T::default()
    }

    /// The elements of an array. A single value without brackets is reported as such.
    pub fn array<'t>(&mut self, scope: &Scope<'t>, key: &str, max: usize) -> Vec<&'t Spanned<DeValue<'t>>> {
        let Some(value) = self.value(scope, key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            let source = self.source.clone();
            let typed = source.text.get(value.span()).filter(|t| t.len() < 60 && !t.contains('\n'));
            let help = typed.map(|t| format!("write `{key} = [{t}]`"));
            self.fault(&value.span(), format!("`{key}` is not an array"), &found(value.get_ref()), help);
            return Vec::new();
        };
        if array.len() > max {
            self.fault(&value.span(), format!("`{key}` has more than {max} elements"), "", None);
        }
        array.iter().take(max).collect()
    }

    /// An array of strings that are parsed into values.
    pub fn list<T>(
        &mut self,
        scope: &Scope<'_>,
        key: &str,
        max: usize,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<Located<T>> {
        let mut list = Vec::new();
        for element in self.array(scope, key, max) {
            let text = self.expanded(element, key);
            list.extend(text.and_then(|text| self.parse(text, key, &parse)));
        }
        list
    }

    pub fn display(&self, path: &Path) -> String {
        path.display().to_string()
    }
}

pub fn find<'t>(
    scope: &Scope<'t>,
    key: &str,
) -> Option<(&'t Spanned<toml::de::DeString<'t>>, &'t Spanned<DeValue<'t>>)> {
    scope.table?.get_key_value(key)
}

/// The kind of a value, with an article: "found a string".
pub fn found(value: &DeValue<'_>) -> String {
    let article = match value {
        DeValue::Integer(_) | DeValue::Array(_) => "an",
        _ => "a",
    };
    format!("found {article} {}", value.type_str())
}

pub fn quoted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|w| format!("`\"{w}\"`")).collect::<Vec<_>>().join(", ")
}

pub fn article(noun: &str) -> String {
    let vowel = noun.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {noun}", if vowel { "an" } else { "a" })
}
