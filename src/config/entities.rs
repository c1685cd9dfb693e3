//! The sections with user-defined names: upstreams, segments, releases, routes; and the rules
//! between them.

use super::combinations::{self, TripThresholds};
use super::keys::choices::{ON_ANOMALY, ON_UNREACHABLE, WATCHDOG_MODE};
use super::keys::release::{BODY, OUTCOME, RELEASE, WATCHDOG};
use super::keys::{Section, closest};
use super::reader::{ConfigReader, SourceSpan, TableScope, WithSpan, article};
use super::sections::{header_match, health, networks};
use super::values::{self, name};
use super::{files, resources, sections, waves};
use crate::config::keys::upstreams_and_routes::{ROUTE, SEGMENT, UPSTREAM};
use crate::domain::config::{
    Identity, Protocol, Release, Route, Server, Target, Upstream, WatchdogConfig, normalise,
};
use crate::domain::failure_rules::{BodyRule, FailureRule, FailureRules};
use crate::domain::gates::Margins;
use crate::domain::segment::{Segment, UserSet};
use crate::stats::cohort::{Salt, Weight};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use toml::Spanned;

/// A named entry and the place of its name.
#[derive(Debug)]
pub struct NamedEntity<T> {
    pub item: T,
    pub span: SourceSpan,
}

fn too_many<T>(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    section: &Section,
    entries: &[NamedEntity<T>],
) {
    let max = r.count_max(root, section.name());
    if let Some(entry) = entries.get(max) {
        let message = format!("more than {max} {}s", section.name());
        r.fault(&entry.span, message, "each of them is a metric label", None);
    }
}

pub fn upstreams(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> Vec<NamedEntity<Arc<Upstream>>> {
    let mut entries = Vec::new();
    for (name, s) in r.named(root, &UPSTREAM) {
        let servers = r.list(&s, "servers", values::server);
        let mut seen = BTreeSet::new();
        for server in &servers {
            if !seen.insert(&server.value) {
                r.fault(
                    &server.span,
                    format!("`{}` stands twice in `servers`", server.value),
                    "",
                    Some("remove one".into()),
                );
            }
        }
        let help = || Some("write `servers = [\"http://127.0.0.1:9001\"]`".to_string());
        match r.value(&s, "servers") {
            None if s.table.is_some() => {
                r.absent(&name.span, format!("upstream `{}` has no `servers`", name.value), "", help())
            }
            Some(value) if value.get_ref().as_array().is_some_and(|a| a.is_empty()) => {
                r.fault(&value.span(), format!("upstream `{}` has no `servers`", name.value), "", help());
            }
            _ => {}
        }
        let placed: Vec<_> = servers.iter().map(|s| (s.value.clone(), s.span.clone())).collect();
        let upstream = Upstream {
            transport: super::tls::transport(r, &s, &placed),
            name: name.value,
            servers: servers.into_iter().map(|s| s.value).collect(),
            connect_timeout: r.duration(&s, "connect_timeout"),
            response_timeout: r.duration(&s, "response_timeout"),
            idle_timeout: r.duration(&s, "idle_timeout"),
            total_timeout: r.duration_or_none(&s, "total_timeout"),
            connection_idle: r.duration(&s, "connection_idle"),
            http2_ping: r.duration_or_none(&s, "http2_ping"),
            connection_age_max: r.duration_or_none(&s, "connection_age_max"),
            connections_max: r.integer(&s, "connections_max") as usize,
            requests_in_flight_max: r.integer(&s, "requests_in_flight_max") as usize,
            resend_unprocessed: r.boolean(&s, "resend_unprocessed"),
            health: health(r, &s),
            scrapes: resources::scrapes(r, &s),
        };
        if let Some(value) = r.value(&s, "http2_ping")
            && upstream.http2_ping.is_some()
            && upstream.transport.protocol != Protocol::Http2
        {
            let help = Some("add `http2 = true`".into());
            r.warn(&value.span(), "`http2_ping` is not used", "this upstream is without `http2`", help);
        }
        if let (Some(total), Some(value)) = (upstream.total_timeout, r.value(&s, "total_timeout"))
            && total < upstream.connect_timeout
        {
            r.fault(&value.span(), "`total_timeout` is shorter than `connect_timeout`", "", None);
        }
        entries.push(NamedEntity { item: Arc::new(upstream), span: name.span });
    }
    too_many(r, root, &UPSTREAM, &entries);
    entries
}

pub fn segments(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    identity: &Identity,
) -> Vec<NamedEntity<Arc<Segment>>> {
    let mut entries = Vec::new();
    for (name, s) in r.named(root, &SEGMENT) {
        if ["weight", "none"].contains(&name.value.as_str()) {
            let why = "metrics use this word for the users who are in no segment";
            r.fault(&name.span, format!("a segment cannot be called `{}`", name.value), why, None);
        }
        let listed = r.list(&s, "users", |text| {
            let id = normalise(identity.normalise, text.as_bytes());
            if id.is_empty() {
                return values::bad("an empty user id");
            }
            if id.len() > identity.max_bytes {
                return values::bad("longer than `[identity] max_bytes`, so nobody can have it");
            }
            Ok(UserSet::hash(&id))
        });
        let mut users = UserSet::from_hashes(listed.into_iter().map(|u| u.value).collect());
        if let Some((path, span)) = sections::file(r, &s, "users_file") {
            users = users.and(files::users(r, &path, &span, identity.normalise, identity.max_bytes));
        }
        let header = header_match(r, &s);
        if let (Some(header), Some(value)) = (&header, r.value(&s, "header")) {
            let why = format!("whoever can send `{}` can enter", header.name);
            let help = "make sure that an earlier hop removes it from what clients send";
            let message = format!("segment `{}` is chosen by a header", name.value);
            r.warn(&value.span(), message, &why, Some(help.into()));
        }
        let networks = networks(r, &s, "networks");
        if s.table.is_some_and(|t| t.is_empty()) {
            let help = "give it `users`, `users_file`, `header` or `networks`";
            r.warn(&name.span, format!("segment `{}` holds nobody", name.value), "", Some(help.into()));
        }
        let segment = Segment { name: name.value, users, header, networks };
        entries.push(NamedEntity { item: Arc::new(segment), span: name.span });
    }
    too_many(r, root, &SEGMENT, &entries);
    entries
}

/// The index of the entry that `text` names; else a fault that lists the entries.
pub(super) fn lookup<'n>(
    r: &mut ConfigReader<'_>,
    text: &WithSpan<String>,
    kind: &str,
    names: impl Iterator<Item = &'n str> + Clone,
) -> Option<usize> {
    if let Some(i) = names.clone().position(|n| n == text.value) {
        return Some(i);
    }
    let help = match closest(&text.value, names.clone()) {
        Some(meant) => format!("did you mean `\"{meant}\"`?"),
        None if names.clone().next().is_none() => format!("add `[{kind}.{}]`", text.value),
        None => format!("there is {}", super::reader::quoted(names.take(10))),
    };
    let message = format!("there is no {kind} `{}`", text.value.escape_debug());
    r.absent(&text.span, message, "", Some(help));
    None
}

pub fn releases(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    upstreams: &[NamedEntity<Arc<Upstream>>],
    segments: &[NamedEntity<Arc<Segment>>],
) -> Vec<NamedEntity<Arc<Release>>> {
    let mut entries: Vec<NamedEntity<Arc<Release>>> = Vec::new();
    for (name, s) in r.named(root, &RELEASE) {
        if name.value == "none" {
            let why = "metrics use this word for routes without a release";
            r.fault(&name.span, "a release cannot be called `none`", why, None);
        }
        let arm = |r: &mut ConfigReader<'_>, key: &str| {
            let Some(text) = r.string(&s, key) else {
                if r.value(&s, key).is_none() && s.table.is_some() {
                    let message = format!("release `{}` has no `{key}`", name.value);
                    let help = format!("add `{key} = \"NAME\"`, with the name of an upstream");
                    r.absent(&name.span, message, "", Some(help));
                }
                return None;
            };
            let names = upstreams.iter().map(|u| u.item.name.as_str());
            lookup(r, &text, "upstream", names).map(|i| (i, text.span))
        };
        let (stable, new) = (arm(r, "stable"), arm(r, "new"));
        if let (Some((stable, _)), Some((new, span))) = (&stable, &new) {
            arms_apart(r, span, upstreams, *stable, *new);
        }
        let salt = r.parsed(&s, "salt", |text| {
            if text.is_empty() || text.len() > 256 {
                return values::bad_help(
                    "a salt is 1 to 256 bytes",
                    "leave it out to use the release's name",
                );
            }
            Ok(text.to_string())
        });
        let salt_text = salt.map_or_else(|| name.value.clone(), |s| s.value);
        let step_max = r.percent(&s, "step_max");
        if step_max.value == Weight::ZERO {
            let help = "write the most that one edit may raise the weight by, as in `\"25%\"`";
            r.fault(&step_max.span, "`step_max` of 0% refuses every raise", "", Some(help.into()));
        }
        let holdback = r.percent(&s, "holdback");
        let most = r.percent_max(&s, "holdback");
        if holdback.value > most {
            let message = format!("`holdback` of {} is more than {most}", holdback.value);
            let help = "write the share that stays on stable, as in `\"1%\"`";
            r.fault(&holdback.span, message, "it is the control of 100%", Some(help.into()));
        }
        let chosen = |r: &mut ConfigReader<'_>, key: &str| {
            let mut list: Vec<(Arc<Segment>, SourceSpan)> = Vec::new();
            for text in r.list(&s, key, |t| Ok(t.to_string())) {
                let names = segments.iter().map(|s| s.item.name.as_str());
                let Some(i) = lookup(r, &text, "segment", names) else { continue };
                if list.iter().any(|(s, _)| s.name == text.value) {
                    let message = format!("`{}` stands twice in `{key}`", text.value);
                    r.fault(&text.span, message, "", Some("remove one".into()));
                    continue;
                }
                list.push((segments[i].item.clone(), text.span));
            }
            list
        };
        let plan = waves::waves(r, &s, segments, &holdback);
        let (mut inside, excluded) = (chosen(r, "segments"), chosen(r, "excluded"));
        inside.extend(plan.segments);
        for (segment, span) in &inside {
            if excluded.iter().any(|(e, _)| e.name == segment.name) {
                let message = format!("segment `{}` is in `segments` and in `excluded`", segment.name);
                r.warn(span, message, "it is excluded", Some("remove it from one of them".into()));
            }
        }
        let by_hand = r.percent(&s, "weight").value;
        let scraped = [&stable, &new].map(|arm| arm.as_ref().map(|(i, _)| &*upstreams[*i].item));
        let resources = resources::resources(r, &s, scraped);
        let release = Release {
            stable: stable.map_or(usize::MAX, |(i, _)| i),
            new: new.map_or(usize::MAX, |(i, _)| i),
            salt: Salt::new(&salt_text),
            attempt: r.integer(&s, "attempt"),
            weight: plan.waves.last().map_or(by_hand, |last| last.exposure.weight),
            step_max: step_max.value,
            holdback: holdback.value,
            soak: r.duration(&s, "soak"),
            segments: inside.into_iter().map(|(s, _)| s).collect(),
            excluded: excluded.into_iter().map(|(s, _)| s).collect(),
            on_unreachable: r.choice(&s, "on_unreachable", &ON_UNREACHABLE),
            on_anomaly: r.choice(&s, "on_anomaly", &ON_ANOMALY),
            on_both_bad: r.choice(&s, "on_both_bad", &ON_ANOMALY),
            warm_up: r.duration(&s, "warm_up"),
            same_version: r.boolean(&s, "same_version"),
            waves: plan.waves,
            open_hours: plan.open_hours,
            resources,
            critical: super::critical::names(r, &s),
            resource_interval: r.duration(&s, "resource_interval"),
            outcome: outcome(r, &s),
            watchdog: watchdog(r, &s, &name.value),
            name: name.value,
            salt_text,
        };
        combinations::bakes(r, &s, &release);
        if let Some(twin) = entries.iter().find(|e| e.item.salt_text == release.salt_text) {
            // The same users would be first in both.
            let message = format!("releases `{}` and `{}` have one salt", twin.item.name, release.name);
            let why = "the same users are the first in both";
            r.warn(&name.span, message, why, Some("leave `salt` out of one of them".into()));
        }
        entries.push(NamedEntity { item: Arc::new(release), span: name.span });
    }
    too_many(r, root, &RELEASE, &entries);
    entries
}

fn same_place(a: &Server, b: &Server) -> bool {
    a.same_place(b) || values::with_real_path(a).same_place(&values::with_real_path(b))
}

/// Checks that `new` is another program: a trip that sends users from a server to itself has no
/// effect.
fn arms_apart(
    r: &mut ConfigReader<'_>,
    span: &SourceSpan,
    upstreams: &[NamedEntity<Arc<Upstream>>],
    stable: usize,
    new: usize,
) {
    let (a, b) = (&upstreams[stable].item, &upstreams[new].item);
    if stable == new {
        let help = "name the upstream of the version to be released";
        r.fault(span, "`stable` and `new` are the same upstream", "", Some(help.into()));
    } else if let Some(both) =
        a.servers.iter().find(|server| b.servers.iter().any(|other| same_place(server, other)))
    {
        let message = format!("`{both}` is a server of `stable` and of `new`");
        let why = "a rollback would not take it out";
        r.fault(span, message, why, Some("give the two versions servers of their own".into()));
    }
}

/// The failure rules of a release.
fn outcome(r: &mut ConfigReader<'_>, release: &TableScope<'_>) -> FailureRules {
    let s = r.scope(release, &OUTCOME);
    let status = r.list(&s, "status", values::status_range).into_iter().map(|range| range.value).collect();
    let header = match r.value(&s, "header") {
        Some(_) => sections::header_match(r, &s),
        None => None,
    };
    FailureRules {
        status,
        header: header.map(|h| (h.name, h.equals)),
        body: body_rule(r, &s),
        // Judged, unless it is switched off.
        grpc: r.boolean_or_word(&s, "grpc").unwrap_or(true),
    }
}

fn body_rule(r: &mut ConfigReader<'_>, outcome: &TableScope<'_>) -> Option<BodyRule> {
    let value = r.value(outcome, "body")?;
    let example = "write `body = { path = \"$.resultCode\", not_equals = \"0\" }`";
    let s = r.table(value, &BODY, "`body`".into());
    s.table?;
    if r.value(&s, "path").is_none() {
        r.absent(&s.span, "`body` has no `path`", "", Some(example.into()));
    }
    // A path begins with a dollar, so it is not expanded.
    let written = r
        .value(&s, "path")
        .and_then(|v| Some(WithSpan { value: v.get_ref().as_str()?.to_string(), span: v.span() }));
    let path = match written {
        Some(text) => r.parse(text, "path", values::json_path),
        None => r.parsed(&s, "path", values::json_path),
    };
    let (equals, not_equals) = (r.string(&s, "equals"), r.string(&s, "not_equals"));
    let fails = match (equals, not_equals) {
        (Some(bad), None) => Some(FailureRule::If(bad.value)),
        (None, Some(good)) => Some(FailureRule::Unless(good.value)),
        (Some(_), Some(second)) => {
            let help = "keep the one that tells a failure";
            r.fault(&second.span, "`body` has `equals` and `not_equals`", "", Some(help.into()));
            None
        }
        (None, None) => {
            if r.value(&s, "equals").or(r.value(&s, "not_equals")).is_none() {
                let message = "`body` has neither `equals` nor `not_equals`";
                r.absent(&s.span, message, "", Some(example.into()));
            }
            None
        }
    };
    let bytes_max = r.size(&s, "max");
    Some(BodyRule { path: path?.value, fails: fails?, bytes_max })
}

fn watchdog(r: &mut ConfigReader<'_>, release: &TableScope<'_>, name: &str) -> WatchdogConfig {
    let s = r.scope(release, &WATCHDOG);
    let enabled = r.stated_boolean(&s, "enabled");
    if let Some(off) = enabled.as_ref().filter(|e| !e.value) {
        let why = "nothing takes `new` out when it is worse";
        let help = "remove the line, unless something else watches";
        r.warn(&off.span, format!("the watchdog of `{name}` is off"), why, Some(help.into()));
    }
    let stated = ["errors_max", "latency_p99_max"].map(|key| r.value(&s, key).is_some());
    let errors_max = r.percent(&s, "errors_max");
    if errors_max.value == Weight::ZERO {
        let help = "write a ceiling above 0%, as in `\"2%\"`";
        r.fault(&errors_max.span, "`errors_max` of 0% trips at the first failure", "", Some(help.into()));
    }
    let tolerance = r.percent(&s, "latency_tolerance");
    let notice = r.percent(&s, "latency_notice");
    if notice.value > tolerance.value {
        let (a, b) = (notice.value, tolerance.value);
        let message = format!("`latency_notice` ({a}) is above `latency_tolerance` ({b})");
        let help = format!("write at most \"{b}\", or raise `latency_tolerance`");
        r.fault(&notice.span, message, "what flips would never be noticed before", Some(help));
    }
    let (margins, [margin_errors, margin_latency]) = margins(r, &s);
    let hold_when_blind = r.boolean(&s, "hold_when_blind");
    let levels = TripThresholds {
        errors_max,
        latency_tolerance: tolerance,
        latency_notice: notice,
        margin_errors,
        margin_latency,
        hold_when_blind,
    };
    combinations::levels(r, release, &s, &levels);
    let strata = r.list(&s, "strata", values::stratum);
    WatchdogConfig {
        mode: r.choice(&s, "mode", &WATCHDOG_MODE),
        latency_tolerance: levels.latency_tolerance.value.ratio(),
        latency_notice: levels.latency_notice.value.ratio(),
        hold_when_blind,
        harm_users_max: r.integer(&s, "harm_users_max"),
        latency_floor: r.duration(&s, "latency_floor"),
        by_route: !strata.is_empty(),
        enabled: enabled.is_none_or(|e| e.value),
        alpha: r.number(&s, "alpha"),
        errors_max: levels.errors_max.value.ratio(),
        latency_p99_max: r.duration(&s, "latency_p99_max"),
        stated,
        margins,
        tick: r.duration(&s, "tick"),
    }
}

/// The margins. A margin of zero can never be proved. Those of errors and of latency with their
/// places.
fn margins(r: &mut ConfigReader<'_>, watchdog: &TableScope<'_>) -> (Margins, [WithSpan<Weight>; 2]) {
    let mut margin = |key: &str| {
        let read = r.percent(watchdog, key);
        if read.value == Weight::ZERO {
            let message = format!("`{key}` of 0% holds every wave for ever");
            let example = watchdog.section.key(key).and_then(|key| key.default_text());
            let help = format!("write a margin above 0%, as in `\"{}\"`", example.unwrap_or("1%"));
            r.fault(&read.span, message, "no number of requests shows that nothing differs", Some(help));
        }
        read
    };
    let errors = margin("margin_errors");
    let latency = margin("margin_latency");
    let tail = margin("margin_latency_tail").value.ratio();
    let margins = Margins { errors: errors.value.ratio(), latency: latency.value.ratio(), tail };
    (margins, [errors, latency])
}

/// `None` only if there is no route at all.
pub fn routes(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    upstreams: &[NamedEntity<Arc<Upstream>>],
    releases: &[NamedEntity<Arc<Release>>],
) -> Option<Vec<Route>> {
    let value = r.value(root, "route");
    let example = || Some("add `[[route]]` with `path = \"/\"` and `release = \"NAME\"`".to_string());
    let Some(value) = value else {
        let end = r.source.text.trim_end().len();
        let start = r.source.text[..end].rfind('\n').map_or(0, |i| i + 1);
        r.absent(&(start..end), "the file has no route", "nothing would be served", example());
        return None;
    };
    let Some(array) = value.get_ref().as_array() else {
        let help = "write `[[route]]`, with two brackets, for each route";
        let why = super::reader::found(value.get_ref());
        r.fault(&value.span(), "`route` is not a list", &why, Some(help.into()));
        return None;
    };
    if array.is_empty() {
        r.absent(&value.span(), "the file has no route", "nothing would be served", example());
    }
    let mut routes: Vec<Route> = Vec::new();
    let mut labels: BTreeMap<String, SourceSpan> = BTreeMap::new();
    for (i, element) in array.iter().enumerate() {
        let s = r.table(element, &ROUTE, "[[route]]".into());
        let route = route(r, &s, i, upstreams, releases);
        if let Some(first) = routes.iter().find(|other| same(other, &route)) {
            let message = format!("two routes for the same requests: `{}` and `{}`", first.name, route.name);
            r.fault(
                &s.span,
                message,
                "",
                Some("remove one, or tell them apart by `host`, `path` or `methods`".into()),
            );
        }
        let span = r.value(&s, "name").map_or(s.span.clone(), Spanned::span);
        if labels.insert(route.name.clone(), span.clone()).is_some() {
            let help = "give each route a `name` of its own (without one, its position is its name)";
            r.fault(&span, format!("two routes are called `{}`", route.name), "", Some(help.into()));
        }
        routes.push(route);
    }
    let max = r.count_max(root, "route");
    if routes.len() > max {
        r.fault(&value.span(), format!("more than {max} routes"), "", None);
    }
    Some(routes)
}

fn route(
    r: &mut ConfigReader<'_>,
    s: &TableScope<'_>,
    position: usize,
    upstreams: &[NamedEntity<Arc<Upstream>>],
    releases: &[NamedEntity<Arc<Release>>],
) -> Route {
    let label = r.parsed(s, "name", name).map_or_else(|| (position + 1).to_string(), |n| n.value);
    let (release, upstream) = (r.string(s, "release"), r.string(s, "upstream"));
    let target = match (release, upstream) {
        (Some(_), Some(upstream)) => {
            let help = "keep one of the two";
            r.fault(
                &upstream.span,
                "a route has a `release` or an `upstream`, not both",
                "",
                Some(help.into()),
            );
            None
        }
        (Some(text), None) => {
            lookup(r, &text, "release", releases.iter().map(|e| e.item.name.as_str())).map(Target::Release)
        }
        (None, Some(text)) => {
            lookup(r, &text, "upstream", upstreams.iter().map(|e| e.item.name.as_str())).map(Target::Upstream)
        }
        (None, None) => {
            let named = r.value(s, "release").is_some() || r.value(s, "upstream").is_some();
            if !named && s.table.is_some() {
                let help = "add `release = \"NAME\"`, or `upstream = \"NAME\"`";
                r.absent(&s.span, "a route without a target", "", Some(help.into()));
            }
            None
        }
    };
    let mut methods = Vec::new();
    for method in r.list(s, "methods", values::method) {
        if methods.contains(&method.value) {
            let message = format!("`{}` stands twice in `methods`", method.value);
            r.fault(&method.span, message, "", Some("remove one".into()));
        } else {
            methods.push(method.value);
        }
    }
    Route {
        name: label,
        host: r.parsed(s, "host", values::host).map(|h| h.value),
        path: r.parsed_or_default(s, "path", values::route_path).map(|p| p.value).unwrap_or_default(),
        methods,
        target: target.unwrap_or(Target::Upstream(usize::MAX)),
    }
}

/// True if some request matches both, and neither is the closer match.
fn same(a: &Route, b: &Route) -> bool {
    let methods = match (a.methods.is_empty(), b.methods.is_empty()) {
        (true, true) => true,
        (false, false) => a.methods.iter().any(|m| b.methods.contains(m)),
        _ => false,
    };
    a.host == b.host && a.path == b.path && methods
}

/// Reports unused entries, and a missing required section.
pub fn unused(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    upstreams: &[NamedEntity<Arc<Upstream>>],
    segments: &[NamedEntity<Arc<Segment>>],
    releases: &[NamedEntity<Arc<Release>>],
    routes: &Option<Vec<Route>>,
) {
    if upstreams.is_empty() && r.value(root, "upstream").is_none() {
        let help = "add `[upstream.NAME]` with `servers = [\"http://127.0.0.1:9001\"]`";
        r.absent(&(0..0), "the file has no upstream", "", Some(help.into()));
    }
    // If there are errors, an entry that seems unused may be named by a part that could not be
    // read.
    let Some(routes) = routes.as_ref().filter(|_| r.report.errors() == 0) else { return };
    let targets: Vec<Target> = routes.iter().map(|route| route.target).collect();
    let idle = |r: &mut ConfigReader<'_>, kind: &str, name: &str, span: &SourceSpan, by: &str| {
        r.warn(span, format!("{} that is not used: `{name}`", article(kind)), by, None);
    };
    for (i, entry) in releases.iter().enumerate() {
        if !targets.contains(&Target::Release(i)) {
            idle(r, "release", &entry.item.name, &entry.span, "no route names it");
        }
    }
    for (i, entry) in upstreams.iter().enumerate() {
        let arm = releases.iter().any(|e| e.item.stable == i || e.item.new == i);
        if !arm && !targets.contains(&Target::Upstream(i)) {
            idle(r, "upstream", &entry.item.name, &entry.span, "no release and no route names it");
        }
    }
    for entry in segments {
        let named = |list: &[Arc<Segment>]| list.iter().any(|s| s.name == entry.item.name);
        if !releases.iter().any(|e| named(&e.item.segments) || named(&e.item.excluded)) {
            idle(r, "segment", &entry.item.name, &entry.span, "no release names it");
        }
    }
    shared_servers(r, upstreams, releases, &targets);
}

/// Reports a server of `new` that a route or another release reaches without the watchdog of this
/// one.
fn shared_servers(
    r: &mut ConfigReader<'_>,
    upstreams: &[NamedEntity<Arc<Upstream>>],
    releases: &[NamedEntity<Arc<Release>>],
    targets: &[Target],
) {
    for entry in releases {
        let Some(new) = upstreams.get(entry.item.new) else { continue };
        let shares = |i: usize| {
            let servers: &[Server] = &upstreams[i].item.servers;
            servers.iter().any(|s| new.item.servers.iter().any(|n| same_place(n, s)))
        };
        for (i, upstream) in upstreams.iter().enumerate() {
            if targets.contains(&Target::Upstream(i)) && shares(i) {
                let message = format!(
                    "a route sends everybody to `{}`, which has servers of `new` of release `{}`",
                    upstream.item.name, entry.item.name
                );
                r.warn(&upstream.span, message, "a rollback does not stop that route", None);
            }
        }
    }
}
