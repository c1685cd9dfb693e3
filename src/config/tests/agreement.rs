//! The table of keys agrees with itself, and with the files that are generated from it.

use super::*;
use crate::config::keys::{ConfigKey, KeyExample, ValueKind, sections};
use crate::domain::config::{Config, SERVERS_MAX, WatchdogConfig};
use crate::domain::failure_rules::FailureRules;

/// Compares a file of the repository with its generated text; writes it if `UPDATE` is set.
fn generated(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    let again = "UPDATE=1 cargo test --lib config::tests::agreement";
    assert!(stored == text, "{name} is not that of the table of keys; write it: {again}");
}

#[test]
fn the_schema_in_the_repository_is_that_of_the_table() {
    generated("config/grayling.schema.json", &crate::config::schema::json_schema());
}

#[test]
fn the_reference_in_the_repository_is_that_of_the_table() {
    generated("config/reference.toml", &crate::config::reference::reference());
}

#[test]
fn the_starter_file_and_the_reference_are_fine_and_the_reference_shows_the_defaults() {
    let starter = check(STARTER).map_err(|r| r.render(Color::Plain)).unwrap();
    assert_eq!(starter.warnings.lines(), Vec::<String>::new());
    let reference = check(REFERENCE).map_err(|r| r.render(Color::Plain)).unwrap();
    let (a, b) = (&reference.config, check(BASE).unwrap().config);
    assert_eq!(
        format!("{:?}", (&a.listen, &a.admin, &a.limits)),
        format!("{:?}", (&b.listen, &b.admin, &b.limits))
    );
    assert_eq!(
        format!("{:?}", (&a.state, &a.log, a.metrics)),
        format!("{:?}", (&b.state, &b.log, b.metrics))
    );
    // The reference states the ceilings.
    let stated = WatchdogConfig { stated: b.releases[0].watchdog.stated, ..a.releases[0].watchdog.clone() };
    assert_eq!(stated, b.releases[0].watchdog);
    assert_eq!(a.releases[0].warm_up, b.releases[0].warm_up);
    assert_eq!(b.releases[0].outcome, FailureRules::default());
    let times = |p: &Config| {
        let u = &p.upstreams[0];
        let times =
            (u.connect_timeout, u.response_timeout, u.idle_timeout, u.total_timeout, u.connection_idle);
        (
            times,
            u.http2_ping,
            (u.connection_age_max, u.connections_max, u.requests_in_flight_max, u.resend_unprocessed),
            u.transport.clone(),
        )
    };
    assert_eq!(times(a), times(&b));
    for text in [STARTER, REFERENCE, BASE] {
        assert_eq!(schema::check(text), Ok(()));
    }
}

#[test]
fn a_section_has_one_path_and_a_key_one_definition() {
    let sections = sections();
    assert!(sections.len() > 20, "{}", sections.len());
    for (i, section) in sections.iter().enumerate() {
        assert!(!section.keys.is_empty() && !section.doc.is_empty(), "[{}]", section.path);
        for (k, key) in section.keys.iter().enumerate() {
            let name = format!("`{}` of [{}]", key.name, section.path);
            assert!(section.keys[..k].iter().all(|other| other.name != key.name), "{name} stands twice");
            assert!(key.table < section.examples.len().max(1), "{name} is not in the reference");
            if let Some(inner) = key.section() {
                let same = sections.iter().filter(|other| other.path == inner.path);
                assert!(same.count() == 1 && (inner.name() == key.name), "{name} is not [{}]", inner.path);
            }
        }
        assert!(sections[..i].iter().all(|other| other.path != section.path), "[{}]", section.path);
    }
}

#[test]
fn every_key_is_documented() {
    for section in sections() {
        for key in section.keys {
            let name = format!("`{}` of [{}]", key.name, section.path);
            for text in [key.documentation(), section.doc] {
                assert!(text.ends_with('.') && !text.contains("  "), "{name}: {text}");
            }
            assert!(!key.reload.is_empty() && !key.reload.ends_with('.'), "{name}: {}", key.reload);
            let shown = [format!("{} = ", key.name), format!("#   {}: ", key.name)];
            let shown = shown.iter().any(|text| REFERENCE.contains(text));
            assert!(shown || key.section().is_some(), "{name} is not in the reference");
        }
    }
}

/// A value that its kind allows.
fn fits(key: &ConfigKey, text: &str) -> bool {
    let Ok(value) = key.toml(text).parse::<toml::Value>() else { return false };
    let within = |min: Option<u128>, low: Option<u128>, high: Option<u128>| min >= low && min <= high;
    let duration = |text: &str| values::duration(text).ok().map(|duration| duration.as_millis());
    let size = |text: &str| values::size(text).ok().map(|size| size as u128);
    match key.kind {
        ValueKind::Boolean => value.is_bool(),
        ValueKind::BooleanOr(word) => value.is_bool() || value.as_str() == Some(word),
        ValueKind::Integer { min, max } => text.parse::<u64>().is_ok_and(|n| (min..=max).contains(&n)),
        ValueKind::Number { min, max } => text.parse::<f64>().is_ok_and(|n| (min..=max).contains(&n)),
        ValueKind::Duration { min, max } => {
            duration(text).is_some() && within(duration(text), duration(min), duration(max))
        }
        ValueKind::DurationOrEmpty { max } => {
            text.is_empty() || duration(text).is_some() && duration(text) <= duration(max)
        }
        ValueKind::Size { min, max } => size(text).is_some() && within(size(text), size(min), size(max)),
        ValueKind::Percent { above_zero, max } => values::percent(text).is_ok_and(|share| {
            share <= values::percent(max).unwrap() && !(above_zero && share == values::percent("0%").unwrap())
        }),
        ValueKind::Choice(words) => words.iter().any(|choice| choice.word == text),
        ValueKind::Text(format) => {
            format.pattern().is_none_or(|pattern| regex::Regex::new(pattern).unwrap().is_match(text))
        }
        ValueKind::TextList { min, max, .. } => {
            value.as_array().is_some_and(|list| (min..=max).contains(&list.len()) || list.is_empty())
        }
        ValueKind::TextOrList { .. } => value.is_array() || value.is_str(),
        ValueKind::Table(_) => value.is_table(),
        ValueKind::Alternatives { .. } => value.is_array(),
        ValueKind::NamedTables { .. } | ValueKind::TableList { .. } => false,
    }
}

#[test]
fn every_default_and_every_example_is_a_value_of_its_key() {
    let mut defaults = 0;
    for section in sections() {
        for key in section.keys {
            let name = format!("`{}` of [{}]", key.name, section.path);
            if let Some(text) = key.default_text() {
                defaults += 1;
                assert!(fits(key, text), "{name}: default {text}");
            }
            if let KeyExample::Shown(text) | KeyExample::Commented(text) = key.example {
                assert!(fits(key, text), "{name}: example {text}");
            }
        }
    }
    assert!(defaults > 70, "{defaults}");
}

#[test]
fn an_upstream_has_at_most_as_many_servers_as_a_request_can_try() {
    let with = |count: usize| {
        let servers: Vec<String> =
            (0..count).map(|n| format!("\"http://10.0.{}.{}:1\"", n / 200, n % 200)).collect();
        BASE.replacen("[\"http://127.0.0.1:9001\"]", &format!("[{}]", servers.join(", ")), 1)
    };
    let servers = check(&with(SERVERS_MAX)).map_err(|r| r.render(Color::Plain)).unwrap();
    assert_eq!(servers.config.upstreams[0].servers.len(), SERVERS_MAX);
    let faults = check(&with(SERVERS_MAX + 1)).map(|_| ()).unwrap_err().lines();
    assert!(faults.iter().any(|l| l.contains("`servers` has more than 256 elements")), "{faults:?}");
    assert!(schema::check(&with(SERVERS_MAX)).is_ok() && schema::check(&with(SERVERS_MAX + 1)).is_err());
}
