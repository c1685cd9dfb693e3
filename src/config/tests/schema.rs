//! The JSON schema: a small validator for it, and what it accepts.

use super::*;
use regex::Regex;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::LazyLock;

struct Validator {
    schema: Value,
    patterns: HashMap<String, Regex>,
}

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(&crate::config::schema::json_schema()).unwrap();
    let mut patterns = HashMap::new();
    collect_patterns(&schema, &mut patterns);
    Validator { schema, patterns }
});

fn collect_patterns(schema: &Value, found: &mut HashMap<String, Regex>) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(pattern)) = map.get("pattern") {
                found.insert(pattern.clone(), Regex::new(pattern).unwrap());
            }
            map.values().for_each(|inner| collect_patterns(inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| collect_patterns(inner, found)),
        _ => {}
    }
}

/// Checks the text of a config against the schema.
pub fn check(text: &str) -> Result<(), String> {
    let file: Value = toml::from_str(text).map_err(|error| error.to_string())?;
    VALIDATOR.check(&VALIDATOR.schema, &file, "")
}

impl Validator {
    fn check(&self, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
        let fail = |keyword: &str| Err(format!("`{path}` is against {keyword}"));
        let branches = |list: &Value| {
            let branches = list.as_array().unwrap().iter();
            branches.filter(|branch| self.check(branch, value, path).is_ok()).count()
        };
        for (keyword, wanted) in schema.as_object().unwrap() {
            let holds = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" | "default" => true,
                "$ref" => {
                    let target = self.schema.pointer(wanted.as_str().unwrap().trim_start_matches('#'));
                    self.check(target.unwrap(), value, path)?;
                    true
                }
                "type" => match wanted.as_str().unwrap() {
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "number" => value.is_number(),
                    "string" => value.is_string(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    other => panic!("an unknown type {other}"),
                },
                "const" => value == wanted,
                "oneOf" => branches(wanted) == 1,
                "anyOf" => branches(wanted) > 0,
                "pattern" => {
                    value.as_str().is_none_or(|s| self.patterns[wanted.as_str().unwrap()].is_match(s))
                }
                "minimum" => value.as_f64().is_none_or(|n| n >= wanted.as_f64().unwrap()),
                "maximum" => value.as_f64().is_none_or(|n| n <= wanted.as_f64().unwrap()),
                "minItems" => value.as_array().is_none_or(|a| a.len() as u64 >= wanted.as_u64().unwrap()),
                "maxItems" => value.as_array().is_none_or(|a| a.len() as u64 <= wanted.as_u64().unwrap()),
                "maxProperties" => {
                    value.as_object().is_none_or(|o| o.len() as u64 <= wanted.as_u64().unwrap())
                }
                "items" => {
                    for (index, element) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(wanted, element, &format!("{path}[{index}]"))?;
                    }
                    true
                }
                "required" => {
                    let mut names = wanted.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                    value.as_object().is_none_or(|object| names.all(|name| object.contains_key(name)))
                }
                "properties" => {
                    for (name, inner) in value.as_object().into_iter().flatten() {
                        if let Some(schema) = wanted.get(name) {
                            self.check(schema, inner, &format!("{path}.{name}"))?;
                        }
                    }
                    true
                }
                "additionalProperties" => {
                    let known = |name: &String| schema["properties"].get(name).is_some();
                    for (name, inner) in
                        value.as_object().into_iter().flatten().filter(|(name, _)| !known(name))
                    {
                        if wanted == &Value::Bool(false) {
                            return fail(&format!("{keyword} ({name})"));
                        }
                        self.check(wanted, inner, &format!("{path}.{name}"))?;
                    }
                    true
                }
                other => panic!("the validator does not know the keyword {other}"),
            };
            if !holds {
                return fail(keyword);
            }
        }
        Ok(())
    }
}

#[test]
fn it_refuses_what_no_environment_makes_valid() {
    assert_eq!(check(BASE), Ok(()));
    let weight = "weight = \"5%\"";
    for line in [
        "wieght = \"5%\"",
        "weight = 5",
        "weight = \"5\"",
        "weight = \"0.00001%\"",
        "attempt = 0",
        "attempt = \"2\"",
        "on_unreachable = \"read\"",
        "soak = \"1week\"",
        "segments = \"testers\"",
        "wave = []",
        "wave = [{ weight = \"5%\", opne = \"auto\" }]",
        "watchdog.alpha = 0.2",
        "watchdog.enabled = \"true\"",
        "watchdog.strata = [\"user\"]",
        "resource = [{ reading = \"a\" }]",
        "outcome.body = { equals = \"0\" }",
        "outcome.body = { path = \"$.a\", max = \"16kB\" }",
    ] {
        assert!(check(&edited(&[(weight, line)])).is_err(), "{line}");
    }
    for lines in [
        "[listen]\nhttp = \"localhost:80\"",
        "[listen]\ntrusted_proxies = [\"10.0.0.1\"]",
        "[identity]\nfrom = []",
        "[identity]\nfrom = [{ header = \"a\", cookie = \"b\" }]",
        "[identity]\nfrom = [{ client_cert = \"dn\" }]",
        "[limits]\nabandoned_max = \"5\"",
        "[traces]\nsample = \"1%\"",
        "[alert.a]\nwebhook = \"alerts.example\"",
        "[flag.a]\n",
    ] {
        assert!(check(&format!("{BASE}{lines}\n")).is_err(), "{lines}");
    }
    assert!(check(&edited(&[("servers = [\"http://127.0.0.1:9001\"]", "")])).is_err());
    assert!(check(&edited(&[("\"http://127.0.0.1:9001\"", "\"127.0.0.1:9001\"")])).is_err());
}

#[test]
fn every_string_may_be_an_environment_variable() {
    let weight = "weight = \"5%\"";
    for line in [
        "weight = \"${WEIGHT}\"",
        "on_unreachable = \"${REACH}\"",
        "soak = \"${SOAK}\"",
        "outcome.body = { path = \"$.a\", equals = \"0\", max = \"${MAX}\" }",
    ] {
        assert_eq!(check(&edited(&[(weight, line)])), Ok(()), "{line}");
    }
}
