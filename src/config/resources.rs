//! `[upstream.X.resources]` and `[[release.X.resource]]`: the watched resources of the two
//! versions.
//!
//! Invariants of the result: names are unique; each resource has a limit; a comparison has both of
//! its sides; every needed scrape exists.

use super::alerts::address;
use super::keys::choices::ON_RESOURCE;
use super::reader::{ConfigReader, TableScope, found};
use super::values;
use crate::config::keys::{release, upstreams_and_routes};
use crate::domain::config::{MetricsPage, ResourceConfig, ResourceSource, Scheme, Upstream};
use crate::domain::resource::ResourceLimits;
use crate::domain::resource::reading::Expression;
use toml::Spanned;
use toml::de::DeValue;

const QUERY_BYTES_MAX: usize = 4096;

/// The sources of an upstream's resource metrics.
pub fn scrapes(r: &mut ConfigReader<'_>, upstream: &TableScope<'_>) -> Vec<MetricsPage> {
    let s = r.scope(upstream, &upstreams_and_routes::SCRAPES);
    if s.table.is_none() {
        return vec![];
    }
    let help = || Some("write `scrape = \"http://127.0.0.1:9001/metrics\"`, or a list of them".to_owned());
    let given = r.value(&s, "scrape");
    let pages = match given.map(Spanned::get_ref) {
        Some(DeValue::String(_)) => r.parsed(&s, "scrape", address).into_iter().collect(),
        Some(DeValue::Array(_)) => r.list(&s, "scrape", address),
        Some(other) => {
            let span = given.map_or(s.span.clone(), Spanned::span);
            r.fault(&span, "`scrape` is not an address", &found(other), help());
            return vec![];
        }
        None => vec![],
    };
    let empty = given.is_none_or(|value| value.get_ref().as_array().is_some_and(|list| list.is_empty()));
    if empty {
        r.absent(&s.span, "`resources` without `scrape`", "nothing would be read", help());
    }
    let mut made: Vec<MetricsPage> = vec![];
    for page in pages {
        if made.iter().any(|other| other.address == page.value) {
            r.fault(&page.span, "an address stands twice in `scrape`", "", Some("remove one".into()));
            continue;
        }
        let tls = match page.value.scheme {
            Scheme::Http => None,
            Scheme::Https => super::tls::by_the_system(r, &page.span),
        };
        made.push(MetricsPage { address: page.value, tls });
    }
    made
}

/// `arms`: stable and new, if known.
pub fn resources(
    r: &mut ConfigReader<'_>,
    release: &TableScope<'_>,
    arms: [Option<&Upstream>; 2],
) -> Vec<ResourceConfig> {
    let Some(value) = r.value(release, "resource") else { return vec![] };
    let title = format!("[{}]", release.title.replace(']', ".resource]"));
    let Some(array) = value.get_ref().as_array() else {
        let help = format!("write `{title}`, with two brackets, for each reading");
        r.fault(&value.span(), "`resource` is not a list", &found(value.get_ref()), Some(help));
        return vec![];
    };
    let max = r.count_max(release, "resource");
    if array.len() > max {
        r.fault(&value.span(), format!("more than {max} resources of one release"), "", None);
    }
    let mut made: Vec<ResourceConfig> = vec![];
    for element in array.iter().take(max) {
        let s = r.table(element, &release::RESOURCE, title.clone());
        let Some(resource) = resource(r, &s, arms) else { continue };
        if made.iter().any(|other| other.name == resource.name) {
            let span = r.value(&s, "name").map_or(s.span.clone(), Spanned::span);
            let message = format!("two resources are called `{}`", resource.name);
            r.fault(&span, message, "", Some("give each a `name` of its own".into()));
            continue;
        }
        made.push(resource);
    }
    made
}

fn resource(
    r: &mut ConfigReader<'_>,
    s: &TableScope<'_>,
    arms: [Option<&Upstream>; 2],
) -> Option<ResourceConfig> {
    s.table?;
    let name = r.parsed(s, "name", values::name);
    if r.value(s, "name").is_none() {
        r.absent(&s.span, "a resource has no `name`", "", Some("add `name = \"cpu\"`".into()));
    }
    let limits = limits(r, s);
    let on = r.choice(s, "on", &ON_RESOURCE);
    let source = match (r.value(s, "reading"), r.value(s, "prometheus")) {
        (Some(_), Some(second)) => {
            let help = "keep `reading` to scrape the servers, or `prometheus` to ask one";
            r.fault(
                &second.span(),
                "a resource has `reading` or `prometheus`, not both",
                "",
                Some(help.into()),
            );
            None
        }
        (None, None) => {
            let help = "add `reading = \"rate(process_cpu_seconds_total) / rate(http_requests_total)\"`, or `prometheus` with `new` and `stable`";
            r.absent(&s.span, "a resource has nothing to read", "", Some(help.into()));
            None
        }
        (Some(_), None) => scraped(r, s, limits.times_stable_max.is_some(), arms),
        (None, Some(_)) => asked(r, s),
    };
    Some(ResourceConfig { name: name?.value.into(), source: source?, limits, on })
}

fn limits(r: &mut ConfigReader<'_>, s: &TableScope<'_>) -> ResourceLimits {
    let there = |r: &ConfigReader<'_>, key: &str| r.value(s, key).is_some();
    let [has_ceiling, has_times] = ["ceiling", "times_stable_max"].map(|key| there(r, key));
    let ceiling = r.number(s, "ceiling");
    let times = r.number(s, "times_stable_max");
    if !has_ceiling && !has_times && s.table.is_some() {
        let help = "add `ceiling`, in the unit of the reading, or `times_stable_max = 1.5`, or both";
        r.absent(&s.span, "a resource has no limit", "nothing would ever be over it", Some(help.into()));
    }
    if let (Some(floor), false) = (r.value(s, "floor").map(Spanned::span), has_times) {
        r.warn(&floor, "`floor` is not used", "it is for the comparison by `times_stable_max`", None);
    }
    ResourceLimits {
        ceiling: has_ceiling.then_some(ceiling),
        times_stable_max: has_times.then_some(times),
        floor: r.number(s, "floor"),
        in_a_row: r.integer(s, "in_a_row") as usize,
    }
}

fn scraped(
    r: &mut ConfigReader<'_>,
    s: &TableScope<'_>,
    compared: bool,
    arms: [Option<&Upstream>; 2],
) -> Option<ResourceSource> {
    for key in ["new", "stable"] {
        if let Some(value) = r.value(s, key) {
            let help = "remove it: a `reading` is the same for both";
            r.fault(&value.span(), format!("`{key}` goes with `prometheus`"), "", Some(help.into()));
        }
    }
    let read = r.parsed(s, "reading", |text| match Expression::parse(text) {
        Ok(expression) => Ok(expression),
        Err(why) => values::bad_help(
            why,
            "a series, `rate(SERIES)`, or one of these divided by another; labels as in `{code=\"500\"}`; more than that: ask a Prometheus server",
        ),
    })?;
    for upstream in arms.into_iter().flatten().filter(|upstream| upstream.scrapes.is_empty()) {
        let message = format!("upstream `{}` is not scraped", upstream.name);
        let help = format!(
            "add `[upstream.{}.resources]` with `scrape = \"http://127.0.0.1:9001/metrics\"`",
            upstream.name
        );
        r.absent(&read.span, message, "both versions are read", Some(help));
    }
    if compared && read.value.is_bare_rate() {
        let why =
            "the two versions do not get the same number of requests, and what it counts grows with them";
        let help = "divide it by the rate of requests: `rate(process_cpu_seconds_total) / rate(http_requests_total)`";
        r.warn(&read.span, "a rate of `new` is compared with one of `stable`", why, Some(help.into()));
    }
    Some(ResourceSource::Scraped(read.value))
}

fn asked(r: &mut ConfigReader<'_>, s: &TableScope<'_>) -> Option<ResourceSource> {
    let base = r.parsed(s, "prometheus", address);
    let mut query = |key: &str| {
        if r.value(s, key).is_none() {
            let help = format!("add `{key} = 'sum(process_resident_memory_bytes{{version=\"…\"}})'`");
            r.absent(&s.span, format!("`prometheus` without `{key}`"), "both versions are read", Some(help));
        }
        r.parsed(s, key, |text| match text.trim().len() {
            0 => values::bad("an empty query"),
            n if n > QUERY_BYTES_MAX => values::bad(format!("longer than {QUERY_BYTES_MAX} bytes")),
            _ => Ok(text.trim().to_owned()),
        })
    };
    let (new, stable) = (query("new"), query("stable"));
    let base = base?;
    let tls = match base.value.scheme {
        Scheme::Http => None,
        Scheme::Https => super::tls::by_the_system(r, &base.span),
    };
    let prometheus = MetricsPage { address: base.value, tls };
    Some(ResourceSource::Asked { prometheus, new: new?.value, stable: stable?.value })
}
