//! File → Config, with all faults at once. Reads the file, and checks the rules between sections.
//!
//! Invariants: an error anywhere means no Config; warnings never do. `files` is complete even for a
//! faulty file, so that the repair of a named file is noticed.

use super::diagnostics::{Diagnostic, Diagnostics, FAULTS_MAX, Location, Severity, SourceText};
use super::reader::{ConfigReader, TableScope};
use super::{alerts, entities, sections, telemetry, tls};
use crate::domain::config::Config;
use crate::domain::digest::{Digest, hex};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::de::{DeTable, DeValue};

/// A larger file is not a config.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

const NOT_TOML: &str = "this is not TOML";

/// A file without faults.
#[derive(Debug)]
pub struct CheckedConfig {
    pub config: Config,
    pub warnings: Diagnostics,
    /// Of the text, in hexadecimal digits.
    pub sha256: String,
    pub text: String,
}

/// The result of reading a file.
#[derive(Debug)]
pub struct LoadedConfig {
    pub result: Result<CheckedConfig, Diagnostics>,
    /// The files to be watched, also if the result is an error.
    pub files: Vec<PathBuf>,
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> LoadedConfig {
    match read(path) {
        Ok(text) => {
            let (result, files) = examine(&text, path, &|name| std::env::var(name).ok());
            LoadedConfig { result, files }
        }
        Err(fault) => {
            let mut report = Diagnostics::default();
            report.push(*fault);
            LoadedConfig { result: Err(report), files: vec![path.to_path_buf()] }
        }
    }
}

/// Checks a text as the contents of the file `origin`.
pub fn parse(text: &str, origin: &Path) -> Result<CheckedConfig, Diagnostics> {
    examine(text, origin, &|name| std::env::var(name).ok()).0
}

fn read(path: &Path) -> Result<String, Box<Diagnostic>> {
    let fault = |message: String, help: Option<&str>| {
        Box::new(Diagnostic {
            severity: Severity::Error,
            place: Location::Named { path: path.display().to_string(), line: 0 },
            message,
            label: String::new(),
            help: help.map(str::to_string),
        })
    };
    let init = Some("`grayling init > FILE` writes one to start from");
    let meta = std::fs::metadata(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => fault("there is no such config file".into(), init),
        _ => fault(format!("the config file cannot be read: {e}"), None),
    })?;
    if meta.is_dir() {
        return Err(fault("this is a directory, not a config file".into(), Some("name the file in it")));
    }
    if !meta.is_file() {
        return Err(fault("this is not a regular file".into(), None));
    }
    if meta.len() > FILE_BYTES_MAX {
        return Err(fault(
            format!("a config file has at most {} MiB", FILE_BYTES_MAX >> 20),
            Some("put long lists of users into a `users_file`"),
        ));
    }
    let bytes =
        std::fs::read(path).map_err(|e| fault(format!("the config file cannot be read: {e}"), None))?;
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(fault("the config file is UTF-16".into(), Some("save it as UTF-8")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        let mut f = fault(format!("byte {at} is not UTF-8"), Some("save the file as UTF-8"));
        f.place = Location::Named { path: path.display().to_string(), line };
        f
    })
}

pub(super) fn examine(
    text: &str,
    origin: &Path,
    environment: &dyn Fn(&str) -> Option<String>,
) -> (Result<CheckedConfig, Diagnostics>, Vec<PathBuf>) {
    let source = SourceText { path: origin.display().to_string(), text: text.to_string(), line_first: 1 };
    let base = match origin.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let mut reader = ConfigReader {
        source: Arc::new(source),
        report: Diagnostics::default(),
        environment,
        base: std::path::absolute(&base).unwrap_or(base),
        files: BTreeSet::new(),
        recovering: false,
    };
    let config = if text.trim_start_matches('\u{feff}').trim().is_empty() {
        let place = Location::Named { path: reader.source.path.clone(), line: 0 };
        let help = Some("`grayling init > FILE` writes one to start from".to_string());
        reader.fault_elsewhere(Severity::Error, place, "the config file is empty".into(), help);
        None
    } else {
        config(&mut reader, text)
    };
    reader.report.sort();
    let mut files = vec![origin.to_path_buf()];
    files.extend(reader.files);
    let result = match config {
        Some(config) if reader.report.errors() == 0 => Ok(CheckedConfig {
            config,
            warnings: reader.report,
            sha256: hex(&Digest::of(text.as_bytes())),
            text: text.to_string(),
        }),
        _ => Err(reader.report),
    };
    (result, files)
}

fn config(reader: &mut ConfigReader<'_>, text: &str) -> Option<Config> {
    let (root, syntax) = DeTable::parse_recoverable(text);
    let mut broken_lines = BTreeSet::new();
    let first = syntax.iter().find_map(toml::de::Error::span).map(|span| span.start);
    // All text after an unclosed bracket was read as its contents, so its faults are meaningless.
    let cut = first.and_then(|at| unclosed(root.get_ref(), text, at)).unwrap_or(usize::MAX);
    if cut < text.len() {
        let close = if text.as_bytes()[cut] == b'[' { "]" } else { "}" };
        reader.fault(&(cut..cut + 1), NOT_TOML, "this is never closed", Some(format!("add `{close}`")));
    }
    for error in syntax.iter().take(FAULTS_MAX) {
        let span = error.span().unwrap_or(0..0);
        if span.start < cut {
            broken_lines.insert(line_of(text, span.start));
            reader.fault(&span, NOT_TOML, error.message(), syntax_help(error.message()));
        }
    }
    reader.recovering = !syntax.is_empty();
    let scope = TableScope {
        section: &super::keys::FILE,
        title: String::new(),
        table: Some(root.get_ref()),
        span: 0..0,
    };
    reader.unknown_keys(&scope, root.get_ref());
    let config = sections(reader, &scope);
    // The recovery from a broken line may cause faults that are not the user's.
    let mut seen = BTreeSet::new();
    reader.report.retain(|fault| match &fault.place {
        Location::Shown { source, span } if source.line_first == 1 && fault.message != NOT_TOML => {
            span.start < cut && !broken_lines.contains(&line_of(text, span.start))
        }
        Location::Shown { span, .. } if fault.message == NOT_TOML => seen.insert(line_of(text, span.start)),
        // Of another file.
        Location::Shown { .. } => true,
        Location::Named { .. } => true,
    });
    config
}

fn sections(reader: &mut ConfigReader<'_>, root: &TableScope<'_>) -> Option<Config> {
    let (listen, places) = sections::listen(reader, root);
    let tls = tls::tls(reader, root, &listen, places.https.as_ref());
    let admin = sections::admin(reader, root, &listen, places.admin);
    // A faulty section has been reported already.
    let mutual = !listen.https.is_empty() && tls.as_ref().is_none_or(|tls| tls.client_ca.is_some());
    let identity = sections::identity(reader, root, mutual);
    let limits = sections::limits(reader, root);
    let state = sections::state(reader, root);
    let log = sections::log(reader, root);
    let metrics = telemetry::metrics(reader, root);
    let traces = telemetry::traces(reader, root);
    let alerts = alerts::receivers(reader, root);
    let upstreams = entities::upstreams(reader, root);
    let segments = entities::segments(reader, root, &identity);
    let releases = entities::releases(reader, root, &upstreams, &segments);
    let routes = entities::routes(reader, root, &upstreams, &releases);
    super::critical::check(reader, root, &releases, routes.as_deref().unwrap_or_default());
    entities::unused(reader, root, &upstreams, &segments, &releases, &routes);
    let https = !listen.https.is_empty();
    let bare = |list: Vec<entities::NamedEntity<_>>| list.into_iter().map(|e| e.item).collect();
    Some(Config {
        listen,
        tls: tls.filter(|_| https),
        admin,
        identity,
        upstreams: bare(upstreams),
        segments: segments.into_iter().map(|e| e.item).collect(),
        releases: releases.into_iter().map(|e| e.item).collect(),
        routes: routes?,
        limits,
        state,
        log,
        metrics,
        traces,
        alerts,
    })
}

/// The start of an array or inline table that contains `at` and the header of a later section.
fn unclosed(table: &DeTable<'_>, text: &str, at: usize) -> Option<usize> {
    table.values().find_map(|value| {
        let span = value.span();
        let inside = text.get(span.clone()).unwrap_or("");
        if inside.starts_with(['[', '{']) && span.contains(&at) && inside.contains("\n[") {
            return Some(span.start);
        }
        match value.get_ref() {
            DeValue::Table(inner) => unclosed(inner, text, at),
            DeValue::Array(list) => list
                .iter()
                .filter_map(|element| element.get_ref().as_table())
                .find_map(|inner| unclosed(inner, text, at)),
            _ => None,
        }
    })
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn syntax_help(message: &str) -> Option<String> {
    if message.contains("duplicate key") {
        return Some("keep one of the two".into());
    }
    if message.starts_with("carriage return must be followed") {
        return Some("end lines with LF or CR LF; a CR alone is not a line end".into());
    }
    if message.contains("string values must be quoted") {
        return Some("put the value in double quotes".into());
    }
    None
}
