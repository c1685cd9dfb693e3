//! The JSON schema of the file, from the table of keys: editors complete and check with it.
//!
//! Invariants: it accepts every file that `check` accepts; every string may name an environment
//! variable.

use crate::config::keys::{self, ConfigKey, DefaultValue, FILE, Section, TextFormat, ValueKind};
use serde_json::{Map, Value, json};

/// A string with an environment variable: its value is not known.
const VARIABLE: &str = r"\$\{";

/// The JSON schema of the file, with a line end.
pub fn json_schema() -> String {
    let mut definitions = Map::new();
    for (name, unit, pattern) in [
        (
            "Duration",
            "A whole number and its unit: ms, s, m, h or d, as in \"250ms\" or \"10s\".",
            r"^[0-9]+\s*(ms|s|m|h|d)\s*$",
        ),
        (
            "Size",
            "A whole number and its unit: B, KiB, MiB or GiB, as in \"32KiB\".",
            r"^[0-9]+\s*(B|KiB|MiB|GiB)\s*$",
        ),
        (
            "Percent",
            "A number from 0 to 100 with at most four decimals, and its sign, as in \"5%\" or \"0.25%\".",
            r"^\s*[0-9]+(\.[0-9]{1,4})?\s*%\s*$",
        ),
    ] {
        definitions.insert(name.into(), text(Some(pattern), unit));
    }
    for section in keys::sections() {
        if !section.path.is_empty() {
            definitions.insert(definition_name(section), object(section));
        }
        for key in section.keys {
            if let ValueKind::Text(format)
            | ValueKind::TextList { format, .. }
            | ValueKind::TextOrList { format, .. } = key.kind
                && let Some(pattern) = format.pattern()
            {
                definitions.insert(format!("{format:?}"), text(Some(pattern), format.description()));
            }
        }
    }
    let mut schema = object(&FILE);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("grayling");
    schema["$defs"] = Value::Object(definitions);
    // A map of JSON values with string keys can always be written.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

fn text(pattern: Option<&str>, description: &str) -> Value {
    match pattern {
        Some(pattern) => {
            json!({ "type": "string", "pattern": format!("{pattern}|{VARIABLE}"), "description": description })
        }
        None => json!({ "type": "string" }),
    }
}

fn definition_name(section: &Section) -> String {
    let capitalised = |word: &str| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    };
    section.path.split(['.', '_']).filter(|word| *word != "*").map(capitalised).collect()
}

fn reference(name: impl std::fmt::Display) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// The schema of a table.
fn object(section: &'static Section) -> Value {
    let one_of = keys::sections().iter().flat_map(|section| section.keys).any(|key| {
        matches!(key.kind, ValueKind::Alternatives { section: inner, .. } if inner.path == section.path)
    });
    if one_of {
        let single = |key: &ConfigKey| {
            json!({
                "type": "object",
                "description": key.documentation(),
                "properties": { key.name: property(key) },
                "required": [key.name],
                "additionalProperties": false,
            })
        };
        let tables: Vec<Value> = section.keys.iter().map(single).collect();
        return json!({ "description": section.doc, "oneOf": tables });
    }
    let properties: Map<String, Value> =
        section.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut object = json!({
        "type": "object",
        "description": section.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<&str> = section
        .keys
        .iter()
        .filter(|key| matches!(key.default, DefaultValue::Required))
        .map(|key| key.name)
        .collect();
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

/// The schema of a key's value, with its documentation and default.
fn property(key: &ConfigKey) -> Value {
    let mut schema = value(key.kind);
    let mut description = key.documentation().to_owned();
    if let ValueKind::Duration { .. } | ValueKind::Size { .. } | ValueKind::Percent { .. } = key.kind {
        description += &format!(" Value: {}.", key.value_description());
    }
    match key.default {
        DefaultValue::Value(text) => {
            let default = key.toml(text).parse::<toml::Value>().ok();
            schema["default"] = serde_json::to_value(default).unwrap_or_default();
        }
        DefaultValue::Absent(meaning) if !meaning.starts_with("none") => {
            description += &format!(" Default: {meaning}.");
        }
        DefaultValue::Absent(_) | DefaultValue::Required => {}
    }
    schema["description"] = json!(description);
    schema
}

fn value(kind: ValueKind) -> Value {
    match kind {
        ValueKind::Boolean => json!({ "type": "boolean" }),
        ValueKind::BooleanOr(word) => {
            let variable = json!({ "type": "string", "pattern": VARIABLE });
            json!({ "anyOf": [{ "type": "boolean" }, { "const": word }, variable] })
        }
        ValueKind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        ValueKind::Number { min, max } => {
            let mut schema = json!({ "type": "number" });
            // The largest numbers stand for no limit.
            if min > -1e300 {
                schema["minimum"] = json!(min);
            }
            if max < 1e300 {
                schema["maximum"] = json!(max);
            }
            schema
        }
        ValueKind::Duration { .. } => reference("Duration"),
        ValueKind::DurationOrEmpty { .. } => json!({ "anyOf": [{ "const": "" }, reference("Duration")] }),
        ValueKind::Size { .. } => reference("Size"),
        ValueKind::Percent { .. } => reference("Percent"),
        ValueKind::Choice(words) => {
            let word = |choice: &keys::choices::Choice| match choice.doc {
                "" => json!({ "const": choice.word }),
                doc => json!({ "const": choice.word, "description": doc }),
            };
            let variable = json!({ "type": "string", "pattern": VARIABLE });
            json!({ "oneOf": words.iter().map(word).chain([variable]).collect::<Vec<_>>() })
        }
        ValueKind::Text(format) => string(format),
        ValueKind::TextList { format, min, max } => list(string(format), min, max),
        ValueKind::TextOrList { format, max } => {
            json!({ "anyOf": [string(format), list(string(format), 1, max)] })
        }
        ValueKind::Table(section) => reference(definition_name(section)),
        ValueKind::NamedTables { section, max } => {
            let tables = reference(definition_name(section));
            json!({ "type": "object", "additionalProperties": tables, "maxProperties": max })
        }
        ValueKind::TableList { section, min, max } | ValueKind::Alternatives { section, min, max } => {
            list(reference(definition_name(section)), min, max)
        }
    }
}

fn string(format: TextFormat) -> Value {
    match format.pattern() {
        Some(_) => reference(format!("{format:?}")),
        None => json!({ "type": "string" }),
    }
}

fn list(items: Value, min: usize, max: usize) -> Value {
    let mut schema = json!({ "type": "array", "items": items, "maxItems": max });
    if min > 0 {
        schema["minItems"] = json!(min);
    }
    schema
}
