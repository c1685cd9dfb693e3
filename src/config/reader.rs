//! Walks the spanned TOML tree: typed reads that report a fault at its place and yield a default,
//! so that the walk continues.
//!
//! serde would stop at the first wrong key or type, while a person who edits under pressure needs
//! all faults at once.
//! Kinds, ranges and defaults are those of `keys`.
//! Invariants: a key is read only if its section defines it; every fault carries the span of its
//! value or key.

use super::diagnostics::{Diagnostic, Diagnostics, Location, Severity, SourceText};
use super::keys::choices::ChoiceSet;
use super::keys::{self, ConfigKey, DefaultValue, KeyExample, Section, ValueKind};
use super::values::{self, InvalidValue, Parsed};
use crate::stats::cohort::Weight;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub type SourceSpan = Range<usize>;

/// A value and its place.
#[derive(Debug, Clone)]
pub struct WithSpan<T> {
    pub value: T,
    pub span: SourceSpan,
}

/// One table of the file. `None`: absent, so every key has its default.
#[derive(Clone)]
pub struct TableScope<'t> {
    pub section: &'static Section,
    /// The title as a person writes it: `[upstream.a]`.
    pub title: String,
    pub table: Option<&'t DeTable<'t>>,
    /// The span of its header, or of the whole inline table.
    pub span: SourceSpan,
}

pub struct ConfigReader<'e> {
    pub source: Arc<SourceText>,
    pub report: Diagnostics,
    pub environment: &'e dyn Fn(&str) -> Option<String>,
    /// The folder of the config file.
    pub base: PathBuf,
    /// All files that the config names.
    pub files: BTreeSet<PathBuf>,
    /// The text has syntax errors, so a seemingly absent part may only be unreadable.
    pub recovering: bool,
}

impl<'e> ConfigReader<'e> {
    fn push(&mut self, severity: Severity, span: SourceSpan, message: String, bad: InvalidValue) {
        let place = Location::Shown { source: self.source.clone(), span };
        self.report.push(Diagnostic { severity, place, message, label: bad.why, help: bad.help });
    }

    pub fn fault(&mut self, span: &SourceSpan, message: impl Into<String>, why: &str, help: Option<String>) {
        self.push(Severity::Error, span.clone(), message.into(), InvalidValue { why: why.into(), help });
    }

    /// Reports a fault that a syntax error elsewhere may have caused.
    pub fn absent(&mut self, span: &SourceSpan, message: impl Into<String>, why: &str, help: Option<String>) {
        if !self.recovering {
            self.fault(span, message, why, help);
        }
    }

    pub fn warn(&mut self, span: &SourceSpan, message: impl Into<String>, why: &str, help: Option<String>) {
        self.push(Severity::Warning, span.clone(), message.into(), InvalidValue { why: why.into(), help });
    }

    /// Reports a fault in a file that the config names.
    pub fn fault_elsewhere(
        &mut self,
        severity: Severity,
        place: Location,
        message: String,
        help: Option<String>,
    ) {
        self.report.push(Diagnostic { severity, place, message, label: String::new(), help });
    }

    /// The path of a file, relative to the config file. The file is watched from now on.
    pub fn file(&mut self, name: &str) -> PathBuf {
        let path = self.base.join(name);
        self.files.insert(path.clone());
        path
    }

    fn refuse(&mut self, span: &SourceSpan, key: &str, bad: InvalidValue) {
        self.push(Severity::Error, span.clone(), format!("invalid `{key}`"), bad);
    }

    /// The table of `section`, which may be absent.
    pub fn scope<'t>(&mut self, parent: &TableScope<'t>, section: &'static Section) -> TableScope<'t> {
        let key = section.name();
        let title = if parent.title.is_empty() {
            format!("[{key}]")
        } else {
            format!("{}.{key}]", parent.title.trim_end_matches(']'))
        };
        match find(parent, key) {
            Some((_, value)) => self.table(value, section, title),
            None => TableScope { section, title, table: None, span: parent.span.clone() },
        }
    }

    /// Checks that `value` is a table with known keys only.
    pub fn table<'t>(
        &mut self,
        value: &'t Spanned<DeValue<'t>>,
        section: &'static Section,
        title: String,
    ) -> TableScope<'t> {
        let span = value.span();
        let Some(table) = value.get_ref().as_table() else {
            let help = format!("write `{title}` on a line of its own, and its keys below");
            let help = if title.starts_with('[') { help } else { format!("write {title} as `{{ … }}`") };
            self.fault(
                &span,
                format!("`{}` is not a table", title.trim_matches(['[', ']', '`'])),
                &found(value.get_ref()),
                Some(help),
            );
            return TableScope { section, title, table: None, span };
        };
        let scope = TableScope { section, title, table: Some(table), span };
        self.unknown_keys(&scope, table);
        scope
    }

    pub fn unknown_keys(&mut self, scope: &TableScope<'_>, table: &DeTable<'_>) {
        for key in table.keys() {
            let (span, key) = (key.span(), key.get_ref().as_ref());
            if scope.section.key(key).is_some() {
                continue;
            }
            let message = format!("unknown key `{}`", key.escape_debug());
            if let Some(meant) = keys::closest(key, scope.section.names()) {
                self.fault(&span, message, "", Some(format!("did you mean `{meant}`?")));
            } else if let Some(home) = keys::home(key).filter(|h| *h != scope.section.path) {
                let home = home.replace('*', "NAME");
                self.fault(&span, message, "", Some(format!("`{key}` belongs into `[{home}]`")));
            } else {
                let known: Vec<&str> = scope.section.names().collect();
                self.fault(&span, message, "", Some(format!("known here: {}", known.join(", "))));
            }
        }
    }

    /// The named tables of `section` (`[upstream.a]`, `[upstream.b]`), in the order of the file.
    pub fn named<'t>(
        &mut self,
        root: &TableScope<'t>,
        section: &'static Section,
    ) -> Vec<(WithSpan<String>, TableScope<'t>)> {
        let key = section.name();
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
            if !value.get_ref().is_table() && section.key(text).is_some() {
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
            found.push((WithSpan { value: name, span }, scope));
        }
        found.sort_by_key(|(name, _)| name.span.start);
        found
    }

    /// The value of a key, if present.
    pub fn value<'t>(&self, scope: &TableScope<'t>, key: &str) -> Option<&'t Spanned<DeValue<'t>>> {
        debug_assert!(scope.section.key(key).is_some(), "`[{}]` has no `{key}`", scope.section.path);
        find(scope, key).map(|(_, value)| value)
    }

    /// The most elements of a list, or tables of a kind.
    pub fn count_max(&self, scope: &TableScope<'_>, key: &str) -> usize {
        match definition(scope, key).kind {
            ValueKind::TextList { max, .. }
            | ValueKind::TextOrList { max, .. }
            | ValueKind::NamedTables { max, .. }
            | ValueKind::TableList { max, .. }
            | ValueKind::Alternatives { max, .. } => max,
            kind => unexpected(key, kind, usize::MAX),
        }
    }

    /// Whether the array of this key holds strings.
    fn holds_texts(&self, scope: &TableScope<'_>, key: &str) -> bool {
        matches!(definition(scope, key).kind, ValueKind::TextList { .. } | ValueKind::TextOrList { .. })
    }

    /// A string with the environment expanded.
    pub fn expanded(&mut self, value: &Spanned<DeValue<'_>>, key: &str) -> Option<WithSpan<String>> {
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
            Ok(value) => Some(WithSpan { value, span }),
            Err(bad) => {
                self.refuse(&span, key, bad);
                None
            }
        }
    }

    pub fn string(&mut self, scope: &TableScope<'_>, key: &str) -> Option<WithSpan<String>> {
        let value = self.value(scope, key)?;
        self.expanded(value, key)
    }

    /// A string that is parsed into a value.
    pub fn parsed<T>(
        &mut self,
        scope: &TableScope<'_>,
        key: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<WithSpan<T>> {
        let text = self.string(scope, key)?;
        self.parse(text, key, parse)
    }

    pub fn parse<T>(
        &mut self,
        text: WithSpan<String>,
        key: &str,
        parse: impl FnOnce(&str) -> Parsed<T>,
    ) -> Option<WithSpan<T>> {
        match parse(&text.value) {
            Ok(value) => Some(WithSpan { value, span: text.span }),
            Err(bad) => {
                self.refuse(&text.span, key, bad);
                None
            }
        }
    }

    /// As [`ConfigReader::parsed`]; the default of the table, if the key is absent or faulty.
    ///
    /// `None` only if the table has no default.
    pub fn parsed_or_default<T>(
        &mut self,
        scope: &TableScope<'_>,
        key: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<WithSpan<T>> {
        self.parsed(scope, key, &parse).or_else(|| {
            let value = parse(definition(scope, key).default_text()?).ok()?;
            Some(WithSpan { value, span: scope.span.clone() })
        })
    }

    /// A string or a list of them, parsed into values; the default of the table if it is absent.
    pub fn one_or_list<T>(
        &mut self,
        scope: &TableScope<'_>,
        key: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<WithSpan<T>> {
        match self.value(scope, key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.list(scope, key, parse),
            _ => self.parsed_or_default(scope, key, parse).into_iter().collect(),
        }
    }

    /// A string with a unit. A bare number is refused with a correction.
    fn with_unit<T>(
        &mut self,
        scope: &TableScope<'_>,
        key: &str,
        parse: fn(&str) -> Parsed<T>,
    ) -> Option<WithSpan<T>> {
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

    pub fn duration(&mut self, scope: &TableScope<'_>, key: &str) -> Duration {
        let definition = definition(scope, key);
        let literal = |text: &str| values::duration(text).unwrap_or_default();
        let default = literal(definition.default_text().unwrap_or_default());
        let (min, max) = match definition.kind {
            ValueKind::Duration { min, max } => (min, max),
            ValueKind::DurationOrEmpty { max } => ("0s", max),
            kind => return unexpected(key, kind, default),
        };
        let Some(read) = self.with_unit(scope, key, values::duration) else { return default };
        if read.value < literal(min) || read.value > literal(max) {
            let why = if read.value < literal(min) { "too short" } else { "too long" };
            let help = format!("from `\"{min}\"` to `\"{max}\"`");
            self.fault(&read.span, format!("`{key}` is out of bounds"), why, Some(help));
        }
        read.value
    }

    /// As [`ConfigReader::duration`], where 0 means "none".
    pub fn duration_or_none(&mut self, scope: &TableScope<'_>, key: &str) -> Option<Duration> {
        let read = self.duration(scope, key);
        (!read.is_zero()).then_some(read)
    }

    /// As [`ConfigReader::duration`], where absent and empty mean "not set".
    pub fn duration_unless_empty(&mut self, scope: &TableScope<'_>, key: &str) -> Option<Duration> {
        let empty = |value: &Spanned<DeValue<'_>>| value.get_ref().as_str() == Some("");
        if self.value(scope, key).is_none_or(empty) {
            return None;
        }
        Some(self.duration(scope, key))
    }

    pub fn size(&mut self, scope: &TableScope<'_>, key: &str) -> usize {
        let definition = definition(scope, key);
        let literal = |text: &str| values::size(text).unwrap_or_default();
        let default = literal(definition.default_text().unwrap_or_default());
        let ValueKind::Size { min, max } = definition.kind else {
            return unexpected(key, definition.kind, default);
        };
        let Some(read) = self.with_unit(scope, key, values::size) else { return default };
        if read.value < literal(min) || read.value > literal(max) {
            let why = if read.value < literal(min) { "too small" } else { "too large" };
            let help = format!("from `\"{min}\"` to `\"{max}\"`");
            self.fault(&read.span, format!("`{key}` is out of bounds"), why, Some(help));
        }
        read.value
    }

    pub fn percent(&mut self, scope: &TableScope<'_>, key: &str) -> WithSpan<Weight> {
        let default = definition(scope, key).default_text().and_then(|text| values::percent(text).ok());
        self.percent_or(scope, key, default.unwrap_or(Weight::ZERO))
    }

    /// As [`ConfigReader::percent`], with a default that depends on other keys.
    pub fn percent_or(&mut self, scope: &TableScope<'_>, key: &str, default: Weight) -> WithSpan<Weight> {
        let read = self.with_unit(scope, key, values::percent);
        read.unwrap_or_else(|| WithSpan { value: default, span: scope.span.clone() })
    }

    pub fn percent_max(&self, scope: &TableScope<'_>, key: &str) -> Weight {
        match definition(scope, key).kind {
            ValueKind::Percent { max, .. } => values::percent(max).unwrap_or(Weight::FULL),
            kind => unexpected(key, kind, Weight::FULL),
        }
    }

    pub fn integer(&mut self, scope: &TableScope<'_>, key: &str) -> u64 {
        let definition = definition(scope, key);
        let default = definition.default_text().and_then(|text| text.parse().ok()).unwrap_or_default();
        let ValueKind::Integer { min, max } = definition.kind else {
            return unexpected(key, definition.kind, default);
        };
        let Some(value) = self.value(scope, key) else { return default };
        let span = value.span();
        let help = Some(format!("a whole number from {min} to {max}"));
        let DeValue::Integer(n) = value.get_ref() else {
            let unquoted = value.get_ref().as_str().filter(|s| s.parse::<u64>().is_ok());
            let help = unquoted.map(|s| format!("write `{key} = {s}`, without quotes")).or(help);
            self.fault(&span, format!("`{key}` is not a whole number"), &found(value.get_ref()), help);
            return default;
        };
        match u64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) if (min..=max).contains(&n) => n,
            _ => {
                self.fault(&span, format!("`{key}` is out of bounds"), "", help);
                default
            }
        }
    }

    /// A number, with or without a fraction.
    pub fn number(&mut self, scope: &TableScope<'_>, key: &str) -> f64 {
        let definition = definition(scope, key);
        let shown = match (definition.default, definition.example) {
            (DefaultValue::Value(text), _) => text,
            (_, KeyExample::Shown(text) | KeyExample::Commented(text)) => text,
            _ => "1",
        };
        let default = shown.parse().unwrap_or_default();
        let ValueKind::Number { min, max } = definition.kind else {
            return unexpected(key, definition.kind, default);
        };
        let Some(value) = self.value(scope, key) else { return default };
        let read = match value.get_ref() {
            DeValue::Float(n) => n.as_str().parse::<f64>().ok(),
            DeValue::Integer(n) if n.radix() == 10 => n.as_str().parse::<f64>().ok(),
            DeValue::Integer(n) => u64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
            _ => None,
        };
        match read {
            Some(n) if (min..=max).contains(&n) => n,
            Some(_) => {
                let help = format!("a number from {min} to {max}");
                self.fault(&value.span(), format!("`{key}` is out of bounds"), "", Some(help));
                default
            }
            None => {
                let help = Some(format!("write `{key} = {shown}`"));
                let message = format!("`{key}` is not a number");
                self.fault(&value.span(), message, &found(value.get_ref()), help);
                default
            }
        }
    }

    pub fn boolean(&mut self, scope: &TableScope<'_>, key: &str) -> bool {
        let read = self.stated_boolean(scope, key);
        read.map_or(definition(scope, key).default_text() == Some("true"), |read| read.value)
    }

    /// As [`ConfigReader::boolean`]; `None` if the file does not state it.
    pub fn stated_boolean(&mut self, scope: &TableScope<'_>, key: &str) -> Option<WithSpan<bool>> {
        let value = self.value(scope, key)?;
        let span = value.span();
        match value.get_ref() {
            DeValue::Boolean(b) => Some(WithSpan { value: *b, span }),
            other => {
                let help = format!("write `{key} = true` or `{key} = false`");
                self.fault(&span, format!("`{key}` is neither true nor false"), &found(other), Some(help));
                None
            }
        }
    }

    /// True, false, or `None` for the word that the key has besides, which is its default.
    pub fn boolean_or_word(&mut self, scope: &TableScope<'_>, key: &str) -> Option<bool> {
        let ValueKind::BooleanOr(word) = definition(scope, key).kind else {
            return unexpected(key, definition(scope, key).kind, None);
        };
        if let DeValue::Boolean(stated) = self.value(scope, key)?.get_ref() {
            return Some(*stated);
        }
        let text = self.string(scope, key)?;
        if text.value != word {
            let help = format!("write `{key} = \"{word}\"`, `{key} = true` or `{key} = false`");
            self.fault(&text.span, format!("invalid `{key}`"), "no such choice", Some(help));
        }
        None
    }

    /// One of the words of `set`.
    pub fn choice<T: Copy>(&mut self, scope: &TableScope<'_>, key: &str, set: &ChoiceSet<T>) -> T {
        let default = definition(scope, key).default_text().and_then(|word| set.value(word));
        let default = default.unwrap_or(set.values[0]);
        let Some(text) = self.string(scope, key) else { return default };
        if let Some(value) = set.value(&text.value) {
            return value;
        }
        let words = || set.words.iter().map(|choice| choice.word);
        let help = match keys::closest(&text.value, words()) {
            Some(meant) => format!("did you mean `\"{meant}\"`?"),
            None => format!("one of {}", quoted(words())),
        };
        self.fault(&text.span, format!("invalid `{key}`"), "no such choice", Some(help));
        default
    }

    /// The elements of an array, as many as the table allows.
    ///
    /// A single value without brackets is reported as such.
    pub fn array<'t>(&mut self, scope: &TableScope<'t>, key: &str) -> Vec<&'t Spanned<DeValue<'t>>> {
        self.array_up_to(scope, key, self.count_max(scope, key))
    }

    fn array_up_to<'t>(
        &mut self,
        scope: &TableScope<'t>,
        key: &str,
        max: usize,
    ) -> Vec<&'t Spanned<DeValue<'t>>> {
        let Some(value) = self.value(scope, key) else { return Vec::new() };
        let Some(array) = value.get_ref().as_array() else {
            let source = self.source.clone();
            let typed = source.text.get(value.span()).filter(|t| t.len() < 60 && !t.contains('\n'));
            // A text without quotes would be the next error.
            let quoted = |t: &str| t.starts_with(['"', '\'', '{', '[']) || !self.holds_texts(scope, key);
            let help = typed.map(|t| match quoted(t) {
                true => format!("write `{key} = [{t}]`"),
                false => format!("write `{key} = [\"{t}\"]`"),
            });
            self.fault(&value.span(), format!("`{key}` is not an array"), &found(value.get_ref()), help);
            return Vec::new();
        };
        if array.len() > max {
            self.fault(&value.span(), format!("`{key}` has more than {max} elements"), "", None);
        }
        array.iter().take(max).collect()
    }

    /// An array of strings that are parsed into values; the default of the table if it is absent.
    pub fn list<T>(
        &mut self,
        scope: &TableScope<'_>,
        key: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<WithSpan<T>> {
        if self.value(scope, key).is_some() {
            return self.list_up_to(scope, key, self.count_max(scope, key), parse);
        }
        let default = definition(scope, key).default_list();
        let values = default.iter().filter_map(|text| parse(text).ok());
        values.map(|value| WithSpan { value, span: scope.span.clone() }).collect()
    }

    /// As [`ConfigReader::list`], with a length that another check limits further.
    pub fn list_up_to<T>(
        &mut self,
        scope: &TableScope<'_>,
        key: &str,
        max: usize,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<WithSpan<T>> {
        let mut list = Vec::new();
        for element in self.array_up_to(scope, key, max) {
            let text = self.expanded(element, key);
            list.extend(text.and_then(|text| self.parse(text, key, &parse)));
        }
        list
    }

    pub fn display(&self, path: &Path) -> String {
        path.display().to_string()
    }
}

/// The definition of a key that a reader asks for.
fn definition(scope: &TableScope<'_>, key: &str) -> &'static ConfigKey {
    let found = scope.section.key(key);
    debug_assert!(found.is_some(), "`[{}]` has no `{key}`", scope.section.path);
    found.unwrap_or(&keys::UNDEFINED)
}

/// The fallback for a reader that asks for another kind than the table has: tests do not pass.
fn unexpected<T>(key: &str, kind: ValueKind, fallback: T) -> T {
    debug_assert!(false, "`{key}` is read as another kind than {kind:?}");
    fallback
}

pub fn find<'t>(
    scope: &TableScope<'t>,
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
