//! `[[release.X.wave]]` and `open_hours`: the steps of a release's plan.
//!
//! Invariants of the result: names are unique; from wave to wave segments only join, and the weight
//! never decreases.

use super::entities::{NamedEntity, lookup};
use super::keys::choices::OPEN;
use super::keys::release::WAVE;
use super::reader::{ConfigReader, SourceSpan, TableScope, WithSpan, found};
use super::values::{self, name};
use crate::domain::hours::{HoursError, OpenHours};
use crate::domain::segment::Segment;
use crate::domain::wave::{Exposure, Wave};
use crate::stats::cohort::Weight;
use std::sync::Arc;
use toml::Spanned;

#[derive(Default)]
pub struct WavePlan {
    pub waves: Vec<Wave>,
    /// In the order in which they join, each once.
    pub segments: Vec<(Arc<Segment>, SourceSpan)>,
    pub open_hours: Option<OpenHours>,
}

pub fn waves(
    r: &mut ConfigReader<'_>,
    release: &TableScope<'_>,
    segments: &[NamedEntity<Arc<Segment>>],
    holdback: &WithSpan<Weight>,
) -> WavePlan {
    let open_hours = r.parsed(release, "open_hours", hours);
    let mut plan = WavePlan::default();
    let Some(value) = r.value(release, "wave") else {
        if let Some(hours) = open_hours {
            let help = "remove it, or write the plan as `[[release.NAME.wave]]`";
            r.warn(
                &hours.span,
                "`open_hours` without waves",
                "a weight set by hand obeys no hours",
                Some(help.into()),
            );
        }
        return plan;
    };
    let title = format!("[{}]", release.title.replace(']', ".wave]"));
    let Some(array) = value.get_ref().as_array() else {
        let help = format!("write `{title}`, with two brackets, for each wave");
        r.fault(&value.span(), "`wave` is not a list", &found(value.get_ref()), Some(help));
        return plan;
    };
    if array.is_empty() {
        r.fault(&value.span(), "a plan without a wave", "", Some("remove `wave`, or add one".into()));
    }
    let max = r.count_max(release, "wave");
    if array.len() > max {
        r.fault(&value.span(), format!("more than {max} waves"), "", None);
    }
    for (key, help) in [
        ("weight", "remove `weight`: the waves have theirs; or remove the waves, to set it by hand"),
        ("segments", "move them into the first wave: segments add up from wave to wave"),
    ] {
        if let Some(both) = r.value(release, key) {
            let message = format!("a release has waves or `{key}`, not both");
            r.fault(&both.span(), message, "", Some(help.into()));
        }
    }
    let mut exposure = Exposure::NOBODY;
    for (i, element) in array.iter().take(max).enumerate() {
        let s = r.table(element, &WAVE, title.clone());
        let wave = wave(r, &s, i, &mut exposure, segments, &mut plan.segments);
        if plan.waves.iter().any(|w| w.name == wave.name) {
            let span = r.value(&s, "name").map_or(s.span.clone(), Spanned::span);
            let help = "give each wave a `name` of its own: progress is remembered by it";
            r.fault(&span, format!("two waves are called `{}`", wave.name), "", Some(help.into()));
        }
        let until_complete = wave.exposure.held_back(holdback.value);
        plan.waves.push(Wave { until_complete, ..wave });
    }
    if let Some(last) = plan.waves.last().filter(|w| w.holds_back() == Weight::ZERO)
        && holdback.value > Weight::ZERO
    {
        let (weight, most) = (last.exposure.weight, Exposure { weight: Weight::FULL, segments: 0 });
        let most = most.held_back(holdback.value).weight;
        let message = format!("`holdback` does nothing: the last wave, `{}`, has {weight}", last.name);
        let why = format!("more than {most} can be held back from");
        r.warn(&holdback.span, message, &why, Some("remove it, or end the plan with 100%".into()));
    }
    plan.open_hours = open_hours.map(|hours| hours.value);
    plan
}

fn wave(
    r: &mut ConfigReader<'_>,
    s: &TableScope<'_>,
    position: usize,
    exposure: &mut Exposure,
    segments: &[NamedEntity<Arc<Segment>>],
    joined: &mut Vec<(Arc<Segment>, SourceSpan)>,
) -> Wave {
    let before = *exposure;
    let given = r.value(s, "weight").is_some();
    let weight = r.percent_or(s, "weight", before.weight);
    if weight.value < before.weight {
        let message = format!("the weight goes down, from {} to {}", before.weight, weight.value);
        let why = "a wave moves nobody out of `new`";
        r.fault(&weight.span, message, why, Some(format!("write at least \"{}\"", before.weight)));
    }
    let mut names = vec![];
    for text in r.list(s, "segments", |t| Ok(t.to_string())) {
        let known = segments.iter().map(|s| s.item.name.as_str());
        let Some(i) = lookup(r, &text, "segment", known) else { continue };
        names.push(text.value.clone());
        // They add up: a segment of an earlier wave may be repeated.
        if !joined.iter().any(|(s, _)| s.name == text.value) {
            joined.push((segments[i].item.clone(), text.span));
        }
    }
    *exposure = Exposure { weight: weight.value.max(before.weight), segments: joined.len() };
    if *exposure == before && s.table.is_some() {
        let help = "give it a `weight` above that of the wave before, or `segments` that join";
        r.warn(&s.span, "a wave that lets nobody in", "it only waits", Some(help.into()));
    }
    let called = match (given, names.is_empty()) {
        (true, _) => exposure.weight.to_string(),
        (false, false) => names.join("+"),
        (false, true) => (position + 1).to_string(),
    };
    let users_min = r.integer(s, "users_min");
    let listed = |s: &Segment| s.header.is_none() && s.networks.is_empty();
    if exposure.weight == Weight::ZERO && joined.iter().all(|(s, _)| listed(s)) {
        let users: usize = joined.iter().map(|(s, _)| s.users.len()).sum();
        if (users as u64) < users_min {
            let span = r.value(s, "users_min").map_or(s.span.clone(), Spanned::span);
            let message = format!("this wave asks for {users_min} users, and its segments name {users}");
            let help = format!("write `users_min = {}`, or name more users", users.max(1));
            r.warn(&span, message, "it would hold for ever", Some(help));
        }
    }
    Wave {
        name: r.parsed(s, "name", name_of_wave).map_or(called, |n| n.value),
        exposure: *exposure,
        until_complete: *exposure,
        bake: r.duration(s, "bake"),
        requests_min: r.integer(s, "requests_min"),
        users_min,
        promotion: r.choice(s, "open", &OPEN),
    }
}

/// A name, or a percentage used as one.
fn name_of_wave(text: &str) -> values::Parsed<String> {
    match Weight::parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => name(text),
    }
}

fn hours(text: &str) -> values::Parsed<OpenHours> {
    OpenHours::parse(text).map_err(|error| {
        let help = match &error {
            HoursError::Day(_) => "days are Mon, Tue, Wed, Thu, Fri, Sat, Sun; as in `Mon-Thu` or `Mon,Wed`",
            HoursError::Time(_) => {
                "a time is hours and minutes, from `00:00` to `24:00`, as in `09:00-16:00`"
            }
            HoursError::Zone(_) => "a zone of the IANA database, as in `Europe/London` or `UTC`",
            HoursError::Empty => "for the whole day, write `00:00-24:00`",
            HoursError::Shape => {
                "write days, hours and a time zone, as in `\"Mon-Thu 09:00-16:00 Europe/London\"`"
            }
        };
        values::InvalidValue { why: error.to_string(), help: Some(help.into()) }
    })
}

#[cfg(test)]
mod tests {
    use crate::domain::wave::Promotion;
    use crate::stats::cohort::Weight;
    use std::path::Path;
    use std::time::Duration;

    const BASE: &str = r#"
[upstream.v1]
servers = ["http://127.0.0.1:9001"]
[upstream.v2]
servers = ["http://127.0.0.1:9002"]
[segment.testers]
users = ["a", "b", "c", "d", "e"]
[segment.staff]
users = ["f"]
[[route]]
release = "r"
[release.r]
stable = "v1"
new = "v2"
"#;

    fn check(release: &str) -> Result<crate::config::CheckedConfig, Vec<String>> {
        let text = format!("{BASE}{release}");
        crate::config::parse(&text, Path::new("/g/grayling.toml")).map_err(|report| report.lines())
    }

    #[test]
    fn segments_add_up_and_what_is_left_out_is_that_of_the_wave_before() {
        let checked = check(
            r#"
open_hours = "Mon-Thu 09:00-16:00 Europe/London"
[[release.r.wave]]
segments = ["testers"]
bake = "2m"
users_min = 3
open = "by-hand"
[[release.r.wave]]
weight = "5%"
[[release.r.wave]]
name = "colleagues"
segments = ["testers", "staff"]
[[release.r.wave]]
weight = "100%"
requests_min = 9000
"#,
        )
        .unwrap();
        let release = &checked.config.releases[0];
        let told: Vec<_> = release
            .waves
            .iter()
            .map(|w| (w.name.as_str(), w.exposure.weight.to_string(), w.exposure.segments, w.bake.as_secs()))
            .collect();
        assert_eq!(
            told,
            [
                ("testers", "0%".to_owned(), 1, 120),
                ("5%", "5%".to_owned(), 1, 600),
                ("colleagues", "5%".to_owned(), 2, 600),
                ("100%", "100%".to_owned(), 2, 600),
            ]
        );
        assert_eq!((release.weight, release.segments.len()), (Weight::FULL, 2));
        assert_eq!(release.waves[0].promotion, Promotion::ByHand);
        assert_eq!((release.waves[0].users_min, release.waves[3].requests_min), (3, 9000));
        assert_eq!(release.waves[1].bake, Duration::from_secs(600));
        assert!(release.open_hours.is_some() && checked.warnings.lines().len() == 1);
    }

    #[test]
    fn every_fault_of_a_plan_says_what_to_type() {
        for (release, word) in [
            ("weight = \"5%\"\n[[release.r.wave]]\nweight = \"5%\"", "waves or `weight`, not both"),
            (
                "segments = [\"testers\"]\n[[release.r.wave]]\nweight = \"5%\"",
                "waves or `segments`, not both",
            ),
            (
                "[[release.r.wave]]\nweight = \"5%\"\n[[release.r.wave]]\nweight = \"1%\"",
                "write at least \"5%\"",
            ),
            (
                "[[release.r.wave]]\nweight = \"5%\"\n[[release.r.wave]]\nweight = \"5%\"",
                "two waves are called `5%`",
            ),
            ("[[release.r.wave]]\nsegments = [\"tester\"]", "did you mean `\"testers\"`?"),
            ("[[release.r.wave]]\nweight = \"5%\"\nopen = \"byhand\"", "did you mean `\"by-hand\"`?"),
            ("[[release.r.wave]]\nwieght = \"5%\"", "did you mean `weight`?"),
            ("[release.r.wave]\nweight = \"5%\"", "with two brackets"),
            ("wave = []", "a plan without a wave"),
            ("holdback = \"51%\"", "`holdback` of 51% is more than 50%"),
            ("soak = \"91d\"", "`soak` is out of bounds"),
            ("soak = \"1week\"", "units are ms, s, m, h and d"),
            (
                "open_hours = \"9-5\"\n[[release.r.wave]]\nweight = \"5%\"",
                "Mon-Thu 09:00-16:00 Europe/London",
            ),
            ("[release.r.watchdog]\nmargin_errors = \"0%\"", "holds every wave for ever"),
        ] {
            let faults = check(release).map(|_| ()).expect_err(release);
            assert!(faults.iter().any(|f| f.contains(word)), "{release}: {faults:?}");
        }
    }

    #[test]
    fn a_holdback_is_of_the_top_of_all_waves() {
        let plan =
            "holdback = \"1%\"\n[[release.r.wave]]\nweight = \"5%\"\n[[release.r.wave]]\nweight = \"100%\"";
        let checked = check(plan).unwrap();
        assert!(!checked.warnings.lines().iter().any(|w| w.contains("holdback")));
        let release = &checked.config.releases[0];
        let told = |w: &crate::domain::wave::Wave| (w.until_complete.weight.to_string(), w.controlled());
        let waves: Vec<_> = release.waves.iter().map(told).collect();
        assert_eq!(waves, [("5%".to_owned(), true), ("99%".to_owned(), true)]);
        assert_eq!((release.weight, release.soak.as_secs()), (Weight::FULL, 7 * 86_400));
        let by_hand = check("holdback = \"1%\"\nweight = \"100%\"").unwrap();
        let exposure = by_hand.config.releases[0].strategy();
        let most = crate::domain::wave::Exposure { weight: Weight::from_parts(990_000), segments: 0 };
        assert_eq!(exposure, crate::domain::wave::Strategy::ByHand(most));
    }

    #[test]
    fn a_wave_that_can_never_pass_or_does_nothing_is_warned_of() {
        for (release, word) in [
            ("[[release.r.wave]]\nsegments = [\"staff\"]", "asks for 5 users, and its segments name 1"),
            (
                "[[release.r.wave]]\nweight = \"5%\"\n[[release.r.wave]]\nbake = \"1h\"",
                "a wave that lets nobody in",
            ),
            ("weight = \"5%\"\nopen_hours = \"Mon 09:00-16:00 UTC\"", "`open_hours` without waves"),
            (
                "holdback = \"1%\"\n[[release.r.wave]]\nweight = \"50%\"",
                "`holdback` does nothing: the last wave, `50%`, has 50%",
            ),
        ] {
            let warnings = check(release).unwrap().warnings.lines();
            assert!(warnings.iter().any(|w| w.contains(word)), "{release}: {warnings:?}");
        }
    }
}
