//! `config/reference.toml`, from the table of keys: every key with its documentation, value,
//! default, effect of a reload, and an example.
//!
//! Invariant: the text is a config without faults.

use crate::config::keys::{ConfigKey, DefaultValue, FILE, KeyExample, SectionExample, ValueKind};

const COLUMNS_MAX: usize = 100;

const INTRODUCTION: &str = "\
# Every key of this version: its effect, its values, its default, and what a reload of an edited file
# does with it.
#
# This file is generated from the table of keys in src/config/keys/; after an edit of that table:
# UPDATE=1 cargo test --lib config::tests::agreement
# Only [upstream], one [[route]] and the entries that they name are required. A key that is shown
# commented out has no value by default.
# Durations are whole numbers with ms, s, m, h or d; sizes with B, KiB, MiB or GiB; percentages with %
# and up to four decimals.
# In every string ${NAME} is the environment variable NAME (unset: an error), and $$ is a dollar.
# Relative file names are relative to this file. Every file that is named here is watched like this one.
# \"Reload: at once\" means from the next request on; a request ends under the file that it began with.
";

pub fn reference() -> String {
    let mut text = INTRODUCTION.to_owned();
    for key in FILE.keys {
        tables(&mut text, key, "");
    }
    text
}

/// The tables of a key, and the tables inside them.
fn tables(text: &mut String, key: &ConfigKey, parent: &str) {
    const ONE: &[SectionExample] = &[SectionExample { name: "", lines: "" }];
    let Some(section) = key.section() else { return };
    let path = if parent.is_empty() { key.name.to_owned() } else { format!("{parent}.{}", key.name) };
    let examples = if section.examples.is_empty() { ONE } else { section.examples };
    for (index, example) in examples.iter().enumerate() {
        text.push('\n');
        if index == 0 {
            comment(text, "# ", "# ", key.documentation());
            if !matches!(key.default, DefaultValue::Absent("none")) || key.reload != "at once" {
                comment(text, "# ", "# ", &effects(key));
            }
        }
        let path = if example.name.is_empty() { path.clone() } else { format!("{path}.{}", example.name) };
        let list = matches!(key.kind, ValueKind::TableList { .. });
        *text += &if list { format!("[[{path}]]\n") } else { format!("[{path}]\n") };
        *text += example.lines;
        let here = || section.keys.iter().filter(|key| key.table == index);
        here().filter(|key| !has_header(key)).for_each(|key| entry(text, key));
        here().filter(|key| has_header(key)).for_each(|key| tables(text, key, &path));
    }
}

/// True for a section under a header of its own: other tables are written inline.
fn has_header(key: &ConfigKey) -> bool {
    match key.kind {
        ValueKind::Table(_) => matches!(key.example, KeyExample::Default),
        ValueKind::NamedTables { .. } | ValueKind::TableList { .. } => true,
        _ => false,
    }
}

fn effects(key: &ConfigKey) -> String {
    let default = match key.default {
        DefaultValue::Required => "none; required".into(),
        DefaultValue::Value(text) => key.toml(text),
        DefaultValue::Absent(meaning) => meaning.into(),
    };
    format!("Default: {default}. Reload: {}.", key.reload)
}

/// Value, default and reload.
fn properties(key: &ConfigKey) -> String {
    match key.kind {
        ValueKind::Table(_) => effects(key),
        _ => format!("Value: {}. {}", key.value_description(), effects(key)),
    }
}

fn entry(text: &mut String, key: &ConfigKey) {
    comment(text, "# ", "# ", key.documentation());
    comment(text, "# ", "# ", &properties(key));
    if let ValueKind::Alternatives { section, .. } = key.kind {
        *text += &format!("{} = [\n", key.name);
        for key in section.keys {
            comment(text, "  # ", "  # ", key.documentation());
            comment(text, "  # ", "  # ", &properties(key));
            inline_keys(text, "  #", key);
            let (mark, value) = example(key);
            *text += &format!("  {mark}{{ {} = {value} }},\n", key.name);
        }
        *text += "]\n";
        return;
    }
    inline_keys(text, "#", key);
    let (mark, value) = example(key);
    *text += &format!("{mark}{} = {value}\n", key.name);
}

/// The mark of a comment, or nothing; and the value.
fn example(key: &ConfigKey) -> (&'static str, String) {
    match key.example {
        KeyExample::Default => ("", key.toml(key.default_text().unwrap_or_default())),
        KeyExample::Shown(value) => ("", key.toml(value)),
        KeyExample::Commented(value) => ("# ", key.toml(value)),
    }
}

/// The keys of a table that is written inline.
///
/// A key with a documentation of its own uses the section of another key, which lists them.
fn inline_keys(text: &mut String, mark: &str, key: &ConfigKey) {
    let ValueKind::Table(section) = key.kind else { return };
    if !key.doc.is_empty() {
        return;
    }
    *text += &format!("{mark} Its keys:\n");
    for key in section.keys {
        let line = format!("{}: {} {}", key.name, key.documentation(), properties(key));
        comment(text, &format!("{mark}   "), &format!("{mark}     "), &line);
    }
}

/// Writes `words` in lines of at most [`COLUMNS_MAX`] columns.
fn comment(text: &mut String, first: &str, next: &str, words: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in words.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > COLUMNS_MAX {
            *text += &line;
            text.push('\n');
            line = next.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line += word;
        empty = false;
    }
    *text += &line;
    text.push('\n');
}
