//! The one definition of every config key: its kind, range, default, effect of a reload, and
//! documentation.
//!
//! The reader, the JSON schema and `config/reference.toml` are derived from it.
//! * `server`: the sections that exist once
//! * `service`: upstreams, segments, routes
//! * `release`: releases
//! * `choices`: the words of keys with a choice, and their values in the domain
//!
//! Invariants (tests hold them): every default and every example is a valid value of its key; a
//! section has one path.

pub(crate) mod choices;
pub(crate) mod release;
pub(crate) mod single_sections;
pub(crate) mod upstreams_and_routes;

pub use crate::config::keys::single_sections::FILE;

use choices::Choice;

/// A table of the file.
#[derive(Debug)]
pub struct Section {
    /// `*` stands for a name of the user's choice; empty for the file itself.
    pub path: &'static str,
    pub doc: &'static str,
    pub keys: &'static [ConfigKey],
    /// The tables of this section in the reference. Empty: one, with all keys.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test generates the reference"))]
    pub examples: &'static [SectionExample],
}

/// A table in the reference.
#[derive(Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "a test generates the reference"))]
pub struct SectionExample {
    /// Its name, if the user chooses it.
    pub name: &'static str,
    /// TOML lines before its documented keys.
    pub lines: &'static str,
}

#[derive(Debug)]
pub struct ConfigKey {
    pub name: &'static str,
    pub kind: ValueKind,
    pub default: DefaultValue,
    /// The effect of a changed value on a reload.
    pub reload: &'static str,
    /// Empty for a table: that of its section holds.
    pub doc: &'static str,
    pub example: KeyExample,
    /// The index of the table in [`Section::examples`] that documents it.
    pub table: usize,
    /// The unit of a number or of a percentage; empty: none, or the usual one.
    pub unit: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub enum DefaultValue {
    Required,
    /// As in the file, a string without its quotes.
    Value(&'static str),
    /// No value, and the meaning of that.
    Absent(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub enum KeyExample {
    /// The reference shows the default, or the table of the section.
    Default,
    /// Written like [`DefaultValue::Value`].
    Shown(&'static str),
    /// Shown as a comment.
    Commented(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub enum ValueKind {
    Boolean,
    /// A boolean, or this word.
    BooleanOr(&'static str),
    Integer {
        min: u64,
        max: u64,
    },
    Number {
        min: f64,
        max: f64,
    },
    Duration {
        min: &'static str,
        max: &'static str,
    },
    /// A duration, or `""` for none.
    DurationOrEmpty {
        max: &'static str,
    },
    Size {
        min: &'static str,
        max: &'static str,
    },
    Percent {
        above_zero: bool,
        max: &'static str,
    },
    Choice(&'static [Choice]),
    Text(TextFormat),
    TextList {
        format: TextFormat,
        min: usize,
        max: usize,
    },
    /// One string, or a list of them.
    TextOrList {
        format: TextFormat,
        max: usize,
    },
    Table(&'static Section),
    /// Tables under names of the user's choice.
    NamedTables {
        section: &'static Section,
        max: usize,
    },
    TableList {
        section: &'static Section,
        min: usize,
        max: usize,
    },
    /// A list of tables with one key each.
    Alternatives {
        section: &'static Section,
        min: usize,
        max: usize,
    },
}

/// What a string contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextFormat {
    Free,
    File,
    Directory,
    SocketAddress,
    Network,
    Server,
    Url,
    Path,
    Stratum,
}

impl TextFormat {
    /// A regular expression that every accepted string matches after the expansion of `${NAME}`.
    pub fn pattern(self) -> Option<&'static str> {
        match self {
            TextFormat::Free | TextFormat::File | TextFormat::Directory => None,
            TextFormat::SocketAddress => Some(r"^([0-9.]+|\[[0-9a-fA-F:.%]+\]):[0-9]+$"),
            TextFormat::Network => Some(r"^[0-9a-fA-F:.]+/[0-9]+$"),
            TextFormat::Server => Some(r"^(https?://[^/?#@]+|unix:/.+)$"),
            TextFormat::Url => Some(r"^https?://"),
            TextFormat::Path => Some(r"^/"),
            TextFormat::Stratum => Some(r"^route$"),
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            TextFormat::Free => "string",
            TextFormat::File => "name of a file",
            TextFormat::Directory => "name of a directory",
            TextFormat::SocketAddress => "IP address and port",
            TextFormat::Network => "network in CIDR notation",
            TextFormat::Server => "`http://host:port`, `https://host:port` or `unix:/path`",
            TextFormat::Url => "address that begins with `http://` or `https://`",
            TextFormat::Path => "path that begins with `/`",
            TextFormat::Stratum => "\"route\"",
        }
    }
}

const fn key(name: &'static str, kind: ValueKind) -> ConfigKey {
    ConfigKey {
        name,
        kind,
        default: DefaultValue::Absent("none"),
        reload: "at once",
        doc: "",
        example: KeyExample::Default,
        table: 0,
        unit: "",
    }
}

/// Stands for a key that no section has. No reader gets it: tests read every key.
pub static UNDEFINED: ConfigKey = key("", ValueKind::Boolean);

impl ConfigKey {
    const fn required(mut self) -> ConfigKey {
        self.default = DefaultValue::Required;
        self
    }

    const fn default(mut self, value: &'static str) -> ConfigKey {
        self.default = DefaultValue::Value(value);
        self
    }

    /// Without a value, and with this meaning of its absence.
    const fn absent(mut self, meaning: &'static str) -> ConfigKey {
        self.default = DefaultValue::Absent(meaning);
        self
    }

    const fn reload(mut self, effect: &'static str) -> ConfigKey {
        self.reload = effect;
        self
    }

    const fn doc(mut self, doc: &'static str) -> ConfigKey {
        self.doc = doc;
        self
    }

    const fn shown(mut self, example: &'static str) -> ConfigKey {
        self.example = KeyExample::Shown(example);
        self
    }

    const fn commented(mut self, example: &'static str) -> ConfigKey {
        self.example = KeyExample::Commented(example);
        self
    }

    const fn in_table(mut self, index: usize) -> ConfigKey {
        self.table = index;
        self
    }

    const fn unit(mut self, unit: &'static str) -> ConfigKey {
        self.unit = unit;
        self
    }

    /// The section of its table or tables.
    pub fn section(&self) -> Option<&'static Section> {
        match self.kind {
            ValueKind::Table(section)
            | ValueKind::NamedTables { section, .. }
            | ValueKind::TableList { section, .. }
            | ValueKind::Alternatives { section, .. } => Some(section),
            _ => None,
        }
    }

    pub fn documentation(&self) -> &'static str {
        match self.section() {
            Some(section) if self.doc.is_empty() => section.doc,
            _ => self.doc,
        }
    }

    /// The default, as in the file, a string without its quotes.
    pub fn default_text(&self) -> Option<&'static str> {
        match self.default {
            DefaultValue::Value(text) => Some(text),
            DefaultValue::Required | DefaultValue::Absent(_) => None,
        }
    }

    /// What a value is made of: its kind, range and unit.
    pub fn value_description(&self) -> String {
        let unit = self.unit;
        let number = |kind: &str| if unit.is_empty() { kind.to_owned() } else { format!("{kind} of {unit}") };
        match self.kind {
            ValueKind::Boolean => "true or false".into(),
            ValueKind::BooleanOr(word) => format!("\"{word}\", true or false"),
            ValueKind::Integer { min, max } => format!("{}, {min} to {max}", number("whole number")),
            ValueKind::Number { min, max } if min <= -1e300 && max >= 1e300 => number("number"),
            ValueKind::Number { min, max } if max >= 1e300 => format!("{}, from {min}", number("number")),
            ValueKind::Number { min, max } => format!("{}, {min} to {max}", number("number")),
            ValueKind::Duration { min, max } => format!("duration, {min} to {max}"),
            ValueKind::DurationOrEmpty { max } => format!("duration to {max}, or \"\""),
            ValueKind::Size { min, max } => format!("size, {min} to {max}"),
            ValueKind::Percent { above_zero, max } => {
                let kind = if unit.is_empty() { "percentage" } else { unit };
                let above = if above_zero { ", above 0%" } else { "" };
                let most = if max == "100%" { String::new() } else { format!(", at most {max}") };
                format!("{kind}{above}{most}")
            }
            ValueKind::Choice(words) => {
                let meaning = |choice: &Choice| match choice.doc {
                    "" => format!("\"{}\"", choice.word),
                    doc => format!("\"{}\" ({doc})", choice.word),
                };
                words.iter().map(meaning).collect::<Vec<_>>().join(", ")
            }
            ValueKind::Text(format) => format.description().into(),
            ValueKind::TextList { format, max, .. } => {
                format!("list of at most {max}: {}", format.description())
            }
            ValueKind::TextOrList { format, max } => {
                format!("{}, or a list of at most {max}", format.description())
            }
            ValueKind::Table(_) => "table".into(),
            ValueKind::NamedTables { max, .. } => format!("at most {max} tables"),
            ValueKind::TableList { max, .. } | ValueKind::Alternatives { max, .. } => {
                format!("list of at most {max} tables")
            }
        }
    }

    /// The default of a list of strings.
    pub fn default_list(&self) -> Vec<String> {
        let default = self.default_text().and_then(|text| self.toml(text).parse::<toml::Value>().ok());
        let elements = default.as_ref().and_then(|value| value.as_array()).into_iter().flatten();
        elements.filter_map(|element| Some(element.as_str()?.to_owned())).collect()
    }

    /// The text of a value as the file has it: strings get quotes.
    pub fn toml(&self, text: &str) -> String {
        let quoted = || {
            let quote = if text.contains('"') { '\'' } else { '"' };
            format!("{quote}{text}{quote}")
        };
        match self.kind {
            ValueKind::Duration { .. }
            | ValueKind::DurationOrEmpty { .. }
            | ValueKind::Size { .. }
            | ValueKind::Percent { .. }
            | ValueKind::Choice(_)
            | ValueKind::Text(_) => quoted(),
            ValueKind::BooleanOr(_) if !matches!(text, "true" | "false") => quoted(),
            // Unless it is a list.
            ValueKind::TextOrList { .. } if !text.starts_with("[\"") => quoted(),
            _ => text.to_owned(),
        }
    }
}

impl Section {
    /// The key of its tables in the section around it.
    pub fn name(&self) -> &'static str {
        self.path.trim_end_matches(".*").rsplit('.').next().unwrap_or_default()
    }

    pub fn key(&self, name: &str) -> Option<&'static ConfigKey> {
        self.keys.iter().find(|key| key.name == name)
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> + Clone {
        self.keys.iter().map(|key| key.name)
    }
}

/// All sections, each before those inside it.
pub fn sections() -> Vec<&'static Section> {
    fn collect(section: &'static Section, found: &mut Vec<&'static Section>) {
        if !found.iter().any(|other| other.path == section.path) {
            found.push(section);
            section.keys.iter().filter_map(ConfigKey::section).for_each(|inner| collect(inner, found));
        }
    }
    let mut found = Vec::new();
    collect(&FILE, &mut found);
    found
}

/// The candidate that is closest to `typed`.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = typed.to_lowercase().replace('-', "_");
    let scored =
        candidates.into_iter().map(|c| (strsim::damerau_levenshtein(&lower, &c.replace('-', "_")), c));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    let length = typed.chars().count();
    (distance <= 1 + length / 4 && distance < length).then_some(best)
}

/// The path of the only section with this key.
pub fn home(key: &str) -> Option<&'static str> {
    let sections = sections();
    let mut homes = sections.iter().filter(|section| !section.path.is_empty() && section.key(key).is_some());
    match (homes.next(), homes.next()) {
        (Some(section), None) => Some(section.path),
        _ => None,
    }
}
