//! Reading a server's own metrics: an expression over named series, and the parser of the metrics
//! page.
//!
//! ```text
//! expression = term [ "/" term ]
//! term       = series | "rate(" series ")"
//! series     = name [ "{" label ( "=" | "!=" ) '"' value '"' { "," … } "}" ]
//! ```
//!
//! A series stands for the sum of all series that match it. `rate` is its growth per second since
//! the previous scrape. The page has the text format of Prometheus (version 0.0.4, and the
//! additions of OpenMetrics 1.0 to a line): one `name{label="value",…} value [timestamp]` per line.
//!
//! Invariants: the text comes from outside, and nothing in it causes a panic. A line of a wanted
//! series that cannot be parsed is a fault, never skipped: half a sum is worse than none. A missing
//! or reset series, and a value that is no number, is a [`NoReading`], never a zero.

use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// As a person wrote it.
    pub text: String,
    /// One, or numerator and denominator.
    terms: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Term {
    rate: bool,
    series: Series,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Series {
    pub name: String,
    matchers: Vec<Matcher>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Matcher {
    label: String,
    equal: bool,
    value: String,
}

/// The sums of an expression's series at one scrape.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesSums {
    /// Monotonic.
    pub at: Duration,
    /// In the order of [`Expression::series`]; `None`: no such series.
    pub of: Vec<Option<f64>>,
}

/// Why there is no reading.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoReading {
    #[error("there is no series {0}")]
    NoSeries(String),
    #[error("a rate needs a second scrape")]
    First,
    #[error("{0} went down: its server was restarted")]
    Reset(String),
    #[error("{0} did not grow: nothing to divide by")]
    Zero(String),
    #[error("{0} is not a number")]
    NotANumber(String),
}

/// The fault of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    #[error("the name of a series is missing, as in `process_cpu_seconds_total`")]
    NameMissing,
    #[error("a reading is one series, or one divided by another")]
    TooManyTerms,
    #[error("`{}` is not expected here", .0.escape_debug())]
    Unexpected(char),
    #[error("`rate(` is never closed: `rate(NAME)`, without a time")]
    RateNotClosed,
    #[error("labels are chosen as in `{{code=\"200\"}}` or `{{code!=\"200\"}}`")]
    Labels,
}

/// For reports of the config, which hold texts.
impl From<SyntaxError> for String {
    fn from(fault: SyntaxError) -> Self {
        fault.to_string()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of its metrics is not in the text format of Prometheus")]
pub struct Malformed {
    pub line: usize,
}

impl Expression {
    /// # Errors
    /// The first fault of the text.
    pub fn parse(text: &str) -> Result<Expression, SyntaxError> {
        let mut rest = text.trim_start();
        let mut terms = vec![];
        loop {
            terms.push(term(&mut rest)?);
            rest = rest.trim_start();
            match rest.chars().next() {
                None => break,
                Some('/') if terms.len() == 1 => rest = rest[1..].trim_start(),
                Some('/') => return Err(SyntaxError::TooManyTerms),
                Some(other) => return Err(SyntaxError::Unexpected(other)),
            }
        }
        Ok(Expression { text: text.trim().to_owned(), terms })
    }

    pub fn series(&self) -> impl Iterator<Item = &Series> {
        self.terms.iter().map(|term| &term.series)
    }

    /// Does it grow with the traffic alone? True for a rate that is not divided.
    pub fn is_bare_rate(&self) -> bool {
        matches!(&self.terms[..], [Term { rate: true, .. }])
    }

    /// # Errors
    /// Why there is no reading now.
    pub fn value(&self, before: Option<&SeriesSums>, now: &SeriesSums) -> Result<f64, NoReading> {
        let mut values = vec![];
        for (i, Term { rate, series }) in self.terms.iter().enumerate() {
            let name = || series.name.clone();
            let at = |sums: &SeriesSums| sums.of.get(i).copied().flatten();
            let sum = at(now).ok_or_else(|| NoReading::NoSeries(name()))?;
            values.push(match rate {
                false => sum,
                true => {
                    // A counter with labels appears with the first event that it counts.
                    let before = before.ok_or(NoReading::First)?;
                    let (grown, time) = (sum - at(before).unwrap_or(0.0), now.at.saturating_sub(before.at));
                    match () {
                        () if grown < 0.0 => return Err(NoReading::Reset(name())),
                        () if time.is_zero() => return Err(NoReading::First),
                        () => grown / time.as_secs_f64(),
                    }
                }
            });
        }
        let value = match values[..] {
            [_, 0.0] => return Err(NoReading::Zero(self.terms[1].series.name.clone())),
            [top, below] => top / below,
            _ => values[0],
        };
        if value.is_finite() { Ok(value) } else { Err(NoReading::NotANumber(self.text.clone())) }
    }
}

fn term(rest: &mut &str) -> Result<Term, SyntaxError> {
    let inner = rest.strip_prefix("rate").map(str::trim_start).and_then(|r| r.strip_prefix('('));
    let Some(inner) = inner else { return Ok(Term { rate: false, series: series(rest)? }) };
    *rest = inner.trim_start();
    let series = series(rest)?;
    *rest = rest.trim_start().strip_prefix(')').ok_or(SyntaxError::RateNotClosed)?;
    Ok(Term { rate: true, series })
}

fn series(rest: &mut &str) -> Result<Series, SyntaxError> {
    let name = word(rest, true).ok_or(SyntaxError::NameMissing)?;
    let mut matchers = vec![];
    if let Some(mut inner) = rest.trim_start().strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(after) = inner.strip_prefix('}') {
                *rest = after;
                break;
            }
            let shape = SyntaxError::Labels;
            let label = word(&mut inner, false).ok_or(shape)?.to_owned();
            inner = inner.trim_start();
            let equal = !inner.starts_with("!=");
            inner = inner.strip_prefix("!=").or_else(|| inner.strip_prefix('=')).ok_or(shape)?.trim_start();
            let value = quoted(&mut inner).ok_or(shape)?;
            matchers.push(Matcher { label, equal, value });
            inner = inner.trim_start();
            inner = inner.strip_prefix(',').unwrap_or(inner);
        }
    }
    Ok(Series { name: name.to_owned(), matchers })
}

/// A name: letters, digits, `_`, and `:` in the name of a metric; no leading digit.
fn word<'t>(rest: &mut &'t str, colon: bool) -> Option<&'t str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    let end = rest.find(|c| !fits(c)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    if word.is_empty() || word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    *rest = after;
    Some(word)
}

/// `"value"`, with the escapes `\\`, `\"` and `\n`.
fn quoted(rest: &mut &str) -> Option<String> {
    let inner = rest.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = inner.char_indices();
    loop {
        match chars.next()? {
            (at, '"') => {
                *rest = &inner[at + 1..];
                return Some(value);
            }
            (_, '\\') => value.push(match chars.next()?.1 {
                'n' => '\n',
                other => other,
            }),
            (_, c) => value.push(c),
        }
    }
}

/// The sums of `wanted` in the text of a scrape, in the same order.
///
/// # Errors
/// A line of one of them that cannot be parsed.
pub fn sums(text: &str, wanted: &[&Series]) -> Result<Vec<Option<f64>>, Malformed> {
    let mut sums = vec![None; wanted.len()];
    for (n, line) in text.lines().enumerate() {
        let mut rest = line.trim_start();
        // Comments, and names in quotes, which no expression can have.
        let Some(name) = word(&mut rest, true) else { continue };
        if !wanted.iter().any(|series| series.name == name) {
            continue;
        }
        let (labels, value) = labels_and_value(rest).ok_or(Malformed { line: n + 1 })?;
        for (series, sum) in wanted.iter().zip(&mut sums) {
            if series.name == name && series.matches(&labels) {
                *sum = Some(sum.unwrap_or(0.0) + value);
            }
        }
    }
    Ok(sums)
}

impl Series {
    /// A missing label is empty, as in Prometheus.
    fn matches(&self, labels: &[(&str, String)]) -> bool {
        self.matchers.iter().all(|m| {
            let value = labels.iter().find(|(label, _)| *label == m.label).map_or("", |(_, value)| value);
            (value == m.value) == m.equal
        })
    }
}

type Labels<'t> = Vec<(&'t str, String)>;

fn labels_and_value(mut rest: &str) -> Option<(Labels<'_>, f64)> {
    let mut labels = vec![];
    let bare = rest.trim_start();
    if let Some(mut inner) = bare.strip_prefix('{') {
        loop {
            inner = inner.trim_start();
            if let Some(after) = inner.strip_prefix('}') {
                rest = after;
                break;
            }
            let label = word(&mut inner, false)?;
            inner = inner.trim_start().strip_prefix('=')?.trim_start();
            labels.push((label, quoted(&mut inner)?));
            inner = inner.trim_start();
            if !inner.starts_with('}') {
                inner = inner.strip_prefix(',')?;
            }
        }
    } else if bare.len() == rest.len() {
        // Other characters follow the name directly.
        return None;
    }
    // A timestamp and an exemplar may follow.
    let value = rest.split_ascii_whitespace().next()?;
    Some((labels, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{cases, damaged};
    use proptest::prelude::*;

    const PAGE: &str = "# HELP http_requests_total Requests.\n# TYPE http_requests_total counter\n\
        http_requests_total{code=\"200\",path=\"/a \\\"b\\\" \\\\ }\\n,\"} 1027 1395066363000\n\
        http_requests_total{code=\"500\", path=\"/\",} 3\nhttp_requests_total_other 9\n\
        process_cpu_seconds_total 12.5\nprocess_resident_memory_bytes 1.5e+09\n\
        temperature -4\nratio NaN\nforever +Inf\nwith_exemplar_total 7 # {trace_id=\"x\"} 1\n";

    fn expression(text: &str) -> Expression {
        Expression::parse(text).unwrap()
    }

    fn sums_of(text: &str, of: &Expression) -> Vec<Option<f64>> {
        sums(text, &of.series().collect::<Vec<_>>()).unwrap()
    }

    fn gauge(text: &str) -> Result<f64, NoReading> {
        let of = expression(text);
        of.value(None, &SeriesSums { at: Duration::ZERO, of: sums_of(PAGE, &of) })
    }

    #[test]
    fn series_are_summed_by_what_they_are_called_and_by_their_labels() {
        assert_eq!(gauge("http_requests_total"), Ok(1030.0));
        assert_eq!(gauge("http_requests_total{code=\"200\"}"), Ok(1027.0));
        assert_eq!(gauge("http_requests_total{code!=\"200\"}"), Ok(3.0));
        assert_eq!(gauge(r#"http_requests_total{path="/a \"b\" \\ }\n,"}"#), Ok(1027.0));
        assert_eq!(gauge("http_requests_total{host=\"\"}"), Ok(1030.0));
        assert_eq!(gauge("process_resident_memory_bytes"), Ok(1.5e9));
        assert_eq!(gauge("temperature"), Ok(-4.0));
        assert_eq!(gauge("with_exemplar_total / process_cpu_seconds_total"), Ok(0.56));
        assert_eq!(gauge("nothing"), Err(NoReading::NoSeries("nothing".into())));
        assert_eq!(
            gauge("http_requests_total{code=\"404\"}"),
            Err(NoReading::NoSeries("http_requests_total".into()))
        );
        for wrong in ["ratio", "forever", "temperature/forever{}/"] {
            assert!(Expression::parse(wrong).map_or(true, |_| gauge(wrong).is_err()), "{wrong}");
        }
    }

    #[test]
    fn a_rate_is_the_growth_since_the_scrape_before() {
        let of = expression("rate(a_total) / rate(b_total{x=\"1\"})");
        let at = |s: u64, a: Option<f64>, b: Option<f64>| SeriesSums {
            at: Duration::from_secs(s),
            of: vec![a, b],
        };
        let (first, second) = (at(10, Some(5.0), Some(100.0)), at(20, Some(6.0), Some(120.0)));
        assert_eq!(of.value(None, &first), Err(NoReading::First));
        assert_eq!(of.value(Some(&first), &second), Ok(0.05));
        assert_eq!(of.value(Some(&second), &first), Err(NoReading::Reset("a_total".into())));
        let still = at(30, Some(7.0), Some(120.0));
        assert_eq!(of.value(Some(&second), &still), Err(NoReading::Zero("b_total".into())));
        let appeared = expression("rate(a_total)");
        assert_eq!(appeared.value(Some(&at(0, None, None)), &at(10, Some(5.0), None)), Ok(0.5));
        assert_eq!(appeared.value(Some(&first), &at(10, Some(9.0), None)), Err(NoReading::First));
        assert!(appeared.is_bare_rate() && !of.is_bare_rate() && !expression("a").is_bare_rate());
    }

    #[test]
    fn what_is_no_expression_says_why() {
        for (text, why) in [
            ("", "name of a series"),
            ("1", "name of a series"),
            ("a / ", "name of a series"),
            ("a / b / c", "one divided by another"),
            ("a + b", "`+` is not expected"),
            ("rate(a[1m])", "never closed"),
            ("rate(a", "never closed"),
            ("a{code=200}", "labels are chosen"),
            ("a{code=~\"2..\"}", "labels are chosen"),
            ("a{code=\"2", "labels are chosen"),
            ("sum(a)", "`(` is not expected"),
        ] {
            let told = Expression::parse(text).expect_err(text).to_string();
            assert!(told.contains(why), "{text}: {told}");
        }
        assert_eq!(expression(" rate( a ) / rate (b{ x = \"1\" , y != \"2\" , }) ").terms.len(), 2);
        // A series may have this name.
        assert!(!expression("rate").is_bare_rate() && !expression("rate_total").is_bare_rate());
    }

    #[test]
    fn a_line_that_was_asked_for_and_cannot_be_read_is_a_fault() {
        let of = expression("a");
        let wanted: Vec<_> = of.series().collect();
        for text in
            ["b 1\na", "b 1\na x", "b 1\na{x=\"1\" 2", "b 1\na{x=1} 2", "b 1\na{x=\"1\"y=\"2\"} 2", "\na-b 1"]
        {
            assert_eq!(sums(text, &wanted), Err(Malformed { line: 2 }), "{text}");
        }
        // Other lines may have any content.
        assert_eq!(sums("b\n{\"a\"} 1\n\0\n9a 2\na 1", &wanted), Ok(vec![Some(1.0)]));
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn a_damaged_page_is_read_or_refused_and_never_panics(bytes in damaged([PAGE], [
            "\n", "\r\n", "\"", "\\", "\\\"", "{", "}", "{}", "=", "!=", ",", " ", "\t", "#", "/", "(", "rate(", "NaN", "+Inf", "-1e999", "1e400", "0x1p3", "_", ":",
            "é", "\u{a0}", "\u{2028}", "\0", "http_requests_total", "http_requests_total 1\n", "ratio 1\n", "code=\"200\"", "process_cpu_seconds_total{",
        ])) {
            let text = String::from_utf8_lossy(&bytes);
            let of = ["http_requests_total{code!=\"500\"} / ratio", "rate(process_cpu_seconds_total)", "forever"].map(expression);
            for of in &of {
                let wanted: Vec<_> = of.series().collect();
                let Ok(found) = sums(&text, &wanted) else { continue };
                prop_assert_eq!(found.len(), wanted.len());
                let now = SeriesSums { at: Duration::from_secs(1), of: found };
                for before in [None, Some(&SeriesSums { at: Duration::ZERO, of: vec![Some(0.0); 2] })] {
                    prop_assert!(of.value(before, &now).is_ok_and(f64::is_finite) || of.value(before, &now).is_err());
                }
            }
            // And as an expression.
            if let Ok(of) = Expression::parse(&text) {
                prop_assert!((1..=2).contains(&of.series().count()));
            }
        }
    }
}
