//! `critical`: the routes of a release with gates of their own.
//!
//! Invariants: every name in a Config is a route of the release and appears once; there are at most
//! as many as strata.

use super::entities::NamedEntity;
use super::keys::closest;
use super::reader::{ConfigReader, TableScope};
use super::values;
use crate::domain::config::{Release, Route, Target};
use crate::stats::engine::STRATA_MAX;
use std::ops::Range;
use std::sync::Arc;

/// A list with more names than a file has routes is a mistake.
const NAMES_MAX: usize = 1_000;

pub fn names(r: &mut ConfigReader<'_>, release: &TableScope<'_>) -> Vec<String> {
    let list = r.list_up_to(release, "critical", NAMES_MAX, values::name);
    for (i, name) in list.iter().enumerate() {
        if list[..i].iter().any(|other| other.value == name.value) {
            let message = format!("`{}` stands twice in `critical`", name.value);
            r.fault(&name.span, message, "", Some("remove one".into()));
        }
    }
    if let Some(first) = list.get(STRATA_MAX) {
        let message = format!("more than {STRATA_MAX} critical routes ({})", list.len());
        let why = "no more routes of a release are judged apart";
        let help = format!("name the {STRATA_MAX} that matter most; the others are judged with all");
        r.fault(&first.span, message, why, Some(help));
    }
    list.into_iter().map(|name| name.value).collect()
}

/// Checks the names against the routes of this release.
pub fn check(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    releases: &[NamedEntity<Arc<Release>>],
    routes: &[Route],
) {
    for (index, entry) in releases.iter().enumerate() {
        let of = &entry.item;
        let spans = spans(r, root, &of.name);
        for (i, name) in of.critical.iter().enumerate() {
            let span = spans.get(i).unwrap_or(&entry.span).clone();
            let found = routes.iter().find(|route| route.name == *name);
            let own = || {
                let own = routes.iter().filter(|route| route.target == Target::Release(index));
                own.map(|route| route.name.as_str())
            };
            let known = || match own().next() {
                None => format!("no route leads to `{}`: add one, or remove `critical`", of.name),
                Some(_) => format!(
                    "its routes are {}",
                    own().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                ),
            };
            match found.map(|route| route.target) {
                Some(Target::Release(to)) if to == index => {}
                Some(target) => {
                    let message = format!("route `{name}` does not lead to release `{}`", of.name);
                    let to = match target {
                        Target::Release(to) => releases.get(to).map(|e| format!("release `{}`", e.item.name)),
                        Target::Upstream(_) => None,
                    };
                    let why = format!("it leads to {}", to.unwrap_or_else(|| "an upstream".into()));
                    r.fault(&span, message, &why, Some(known()));
                }
                None => {
                    let message = format!("there is no route `{name}`");
                    let help = match closest(name, own()) {
                        Some(meant) => format!("did you mean `\"{meant}\"`?"),
                        None => format!(
                            "{}; a route is called by its `name`, or by its position in the file",
                            known()
                        ),
                    };
                    r.absent(&span, message, "", Some(help));
                }
            }
        }
    }
}

/// The places of the names in this release's list.
fn spans(r: &ConfigReader<'_>, root: &TableScope<'_>, release: &str) -> Vec<Range<usize>> {
    let list = r
        .value(root, "release")
        .and_then(|group| group.get_ref().as_table()?.get(release)?.get_ref().as_table()?.get("critical"))
        .and_then(|list| list.get_ref().as_array());
    list.map(|list| list.iter().map(|name| name.span()).collect()).unwrap_or_default()
}
