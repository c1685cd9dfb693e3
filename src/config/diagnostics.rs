//! Diagnostics: every fault and warning of a file, with its place, its reason, and the correction.
//!
//! Invariants: faults are in the order of the file; a fault never shows a line of a secret file
//! (token and key files are named by line only); rendering cannot fail.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use std::ops::Range;
use std::sync::Arc;

/// A text with faults: the config file, or one line of a file that it names.
#[derive(Debug)]
pub struct SourceText {
    pub path: String,
    pub text: String,
    /// The number of the first line of `text`, from 1.
    pub line_first: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// The place of a fault.
#[derive(Debug, Clone)]
pub enum Location {
    /// Bytes of a source that may be shown.
    Shown { source: Arc<SourceText>, span: Range<usize> },
    /// A file, or a line of it (0: none), whose text is not shown: secret, unreadable, or not text.
    Named { path: String, line: usize },
}

#[derive(Debug, Clone)]
pub struct Diagnostic {
    pub severity: Severity,
    pub place: Location,
    /// One sentence, without a full stop.
    pub message: String,
    /// Text beside the caret, may be empty.
    pub label: String,
    /// The correction.
    pub help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Color {
    Plain,
    Ansi,
}

/// Maximum of kept faults by severity. A file with a million faults is one fault, and each costs a
/// scan of the whole text.
pub const FAULTS_MAX: usize = 200;

#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    faults: Vec<Diagnostic>,
    /// Number of faults beyond [`FAULTS_MAX`].
    more: usize,
}

/// Maximum length of the words of a fault. A quoted value of the file may be a whole page, if a
/// quote was never closed.
const WORDS_CHARS_MAX: usize = 400;

/// A fault is one line, and the contents of a file cannot write control characters to a terminal.
fn one_line(text: &mut String) {
    if text.chars().any(char::is_control) {
        *text = text
            .chars()
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() })
            .collect();
    }
    if let Some((end, _)) = text.char_indices().nth(WORDS_CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
}

impl Diagnostics {
    pub fn push(&mut self, mut fault: Diagnostic) {
        for text in [&mut fault.message, &mut fault.label].into_iter().chain(&mut fault.help) {
            one_line(text);
        }
        let alike = self.faults.iter().filter(|f| f.severity == fault.severity).count();
        if alike < FAULTS_MAX {
            self.faults.push(fault);
        } else {
            self.more += 1;
        }
    }

    pub fn faults(&self) -> &[Diagnostic] {
        &self.faults
    }

    pub fn errors(&self) -> usize {
        self.faults.iter().filter(|f| f.severity == Severity::Error).count()
    }

    pub fn warnings(&self) -> usize {
        self.faults.len() - self.errors()
    }

    /// One line a fault: `grayling.toml:12:1: unknown key `wieght`; did you mean `weight`?`
    pub fn lines(&self) -> Vec<String> {
        let more = (self.more > 0).then(|| format!("and {} more", self.more));
        self.faults.iter().map(Diagnostic::line).chain(more).collect()
    }

    /// In the format of rustc, one block a fault.
    pub fn render(&self, color: Color) -> String {
        let renderer = match color {
            Color::Plain => Renderer::plain(),
            Color::Ansi => Renderer::styled(),
        };
        let blocks: Vec<String> = self.faults.iter().map(|f| f.render(&renderer)).collect();
        let mut text = blocks.join("\n\n");
        if !text.is_empty() {
            text.push('\n');
        }
        if self.more > 0 {
            text.push_str(&format!("\nand {} more\n", self.more));
        }
        text
    }

    pub(super) fn retain(&mut self, keep: impl FnMut(&Diagnostic) -> bool) {
        self.faults.retain(keep);
    }

    /// Errors before warnings, then by place. Faults of other files stay where they were found.
    pub(super) fn sort(&mut self) {
        self.faults.sort_by_key(|f| match &f.place {
            Location::Shown { source, span } if source.line_first == 1 => (f.severity, span.start),
            _ => (f.severity, usize::MAX),
        });
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Diagnostics {}

impl Diagnostic {
    pub fn path(&self) -> &str {
        match &self.place {
            Location::Shown { source, .. } => &source.path,
            Location::Named { path, .. } => path,
        }
    }

    /// Line and column from 1, in characters; 0 where there is none.
    pub fn position(&self) -> (usize, usize) {
        match &self.place {
            Location::Shown { source, span } => {
                let start = floor(&source.text, span.start);
                let before = &source.text[..start];
                let line_start = before.rfind('\n').map_or(0, |i| i + 1);
                let line = before.bytes().filter(|b| *b == b'\n').count();
                let column = before[line_start..].trim_start_matches('\u{feff}').chars().count();
                (source.line_first + line, column + 1)
            }
            Location::Named { line, .. } => (*line, 0),
        }
    }

    pub fn line(&self) -> String {
        let place = match self.position() {
            (0, _) => self.path().to_string(),
            (line, 0) => format!("{}:{line}", self.path()),
            (line, column) => format!("{}:{line}:{column}", self.path()),
        };
        let label = if self.label.is_empty() { String::new() } else { format!(": {}", self.label) };
        match &self.help {
            Some(help) => format!("{place}: {}{label}; {help}", self.message),
            None => format!("{place}: {}{label}", self.message),
        }
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(self.message.as_str());
        let group = match &self.place {
            Location::Shown { source, span } => {
                let start = floor(&source.text, span.start);
                let end = floor(&source.text, span.end).max(start);
                let mark = AnnotationKind::Primary.span(start..end);
                let mark = if self.label.is_empty() { mark } else { mark.label(self.label.as_str()) };
                let snippet = Snippet::source(source.text.as_str())
                    .path(source.path.as_str())
                    .line_start(source.line_first)
                    .annotation(mark);
                title.element(snippet)
            }
            Location::Named { path, line } => {
                let origin = Origin::path(path.as_str());
                let group = title.element(if *line > 0 { origin.line(*line) } else { origin });
                if self.label.is_empty() {
                    group
                } else {
                    group.element(Level::NOTE.message(self.label.as_str()))
                }
            }
        };
        let group: Group<'_> = match &self.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        };
        renderer.render(&[group])
    }
}

/// The start of the character that contains byte `at`.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
