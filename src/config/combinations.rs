//! Warns of keys of a release that are each legal but do not work together, at the one that the
//! file states.
//!
//! Invariant: no warning repeats the finding of another check.

use super::reader::{ConfigReader, TableScope, WithSpan};
use crate::domain::config::Release;
use crate::domain::gates::seconds;
use crate::stats::cohort::Weight;
use crate::stats::engine::warms_up;
use std::time::Duration;

/// The levels of slowness and failures of a release.
pub struct TripThresholds {
    pub errors_max: WithSpan<Weight>,
    pub latency_tolerance: WithSpan<Weight>,
    pub latency_notice: WithSpan<Weight>,
    pub margin_errors: WithSpan<Weight>,
    pub margin_latency: WithSpan<Weight>,
    pub hold_when_blind: bool,
}

/// Checks gates against trip levels. Without waves there are no gates.
pub fn levels(
    r: &mut ConfigReader<'_>,
    release: &TableScope<'_>,
    watchdog: &TableScope<'_>,
    of: &TripThresholds,
) {
    if r.value(release, "wave").is_none() {
        return;
    }
    for (gate, by_gate, trip, by_trip) in [
        ("margin_errors", &of.margin_errors, "errors_max", &of.errors_max),
        ("margin_latency", &of.margin_latency, "latency_tolerance", &of.latency_tolerance),
    ] {
        if by_gate.value > by_trip.value {
            let span = if r.value(watchdog, gate).is_some() { &by_gate.span } else { &by_trip.span };
            let (a, b) = (by_gate.value, by_trip.value);
            let message = format!("`{gate}` ({a}) is above `{trip}` ({b})");
            let why = "a wave may open for a `new` that is then taken out";
            r.warn(span, message, why, Some(format!("write `{gate} = \"{b}\"` at most, or raise `{trip}`")));
        }
    }
    if of.hold_when_blind && of.margin_latency.value <= of.latency_notice.value {
        let given = r.value(watchdog, "margin_latency").is_some();
        let span = if given { &of.margin_latency.span } else { &of.latency_notice.span };
        let (a, b) = (of.margin_latency.value, of.latency_notice.value);
        let message =
            format!("`hold_when_blind`, while `margin_latency` ({a}) is not above `latency_notice` ({b})");
        let why =
            "every wave that is compared would hold for ever: no slowdown below the notice is ever seen";
        r.warn(span, message, why, Some("lower `latency_notice`, or raise `margin_latency`".into()));
    }
}

/// Checks for waves whose bake ends before slowness counts.
pub fn bakes(r: &mut ConfigReader<'_>, release: &TableScope<'_>, of: &Release) {
    let warm_up = of.warm_up;
    let mut was = Weight::ZERO;
    let mut cold: Vec<(&str, Duration)> = vec![];
    for wave in &of.waves {
        let warms = wave.controlled() && warms_up(was, wave.until_complete.weight);
        was = wave.until_complete.weight;
        if warms && wave.bake <= warm_up && !warm_up.is_zero() {
            cold.push((&wave.name, wave.bake));
        }
    }
    let Some((name, bake)) = cold.first() else { return };
    let span = ["warm_up", "wave"].into_iter().find_map(|key| r.value(release, key)).map(|v| v.span());
    let span = span.unwrap_or_else(|| release.span.clone());
    let others = match cold.len() {
        1 => String::new(),
        n => format!(", and of {} more", n - 1),
    };
    let (bake, warm_up) = (seconds(*bake), seconds(warm_up));
    let message = format!("`warm_up` ({warm_up}) lasts for the whole bake of wave `{name}` ({bake}){others}");
    let why = "slowness does not trip in a warm-up: it would be baked before any is seen";
    r.warn(&span, message, why, Some("raise `bake`, or lower `warm_up`".into()));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn warnings(release: &str, watchdog: &str) -> Vec<String> {
        let text = format!(
            "[upstream.v1]\nservers = [\"http://127.0.0.1:9001\"]\n[upstream.v2]\nservers = [\"http://127.0.0.1:9002\"]\n\
             [[route]]\nrelease = \"r\"\n[release.r]\nstable = \"v1\"\nnew = \"v2\"\n{release}\n\
             [release.r.watchdog]\n{watchdog}\n"
        );
        let checked = crate::config::parse(&text, Path::new("/g/grayling.toml"));
        let lines = checked.map_err(|report| report.lines()).unwrap().warnings.lines();
        lines.into_iter().filter(|line| !line.contains("token_file")).collect()
    }

    const WAVES: &str = "wave = [{ weight = \"5%\" }, { weight = \"100%\" }]";

    #[test]
    fn keys_that_cannot_work_together_are_warned_of() {
        for (watchdog, says) in [
            ("margin_latency = \"30%\"", "`margin_latency` (30%) is above `latency_tolerance` (20%)"),
            ("latency_tolerance = \"5%\"", "`margin_latency` (10%) is above `latency_tolerance` (5%)"),
            ("margin_errors = \"3%\"", "`margin_errors` (3%) is above `errors_max` (2%)"),
            (
                "hold_when_blind = true\nmargin_latency = \"3%\"",
                "`margin_latency` (3%) is not above `latency_notice` (3%)",
            ),
        ] {
            let found = warnings(WAVES, watchdog);
            assert!(found.len() == 1 && found[0].contains(says), "{watchdog}: {found:?}");
            assert_eq!(warnings("weight = \"5%\"", watchdog), Vec::<String>::new(), "no gates: {watchdog}");
        }
        for watchdog in ["", "margin_latency = \"20%\"", "hold_when_blind = true", "margin_latency = \"3%\""]
        {
            assert_eq!(warnings(WAVES, watchdog), Vec::<String>::new(), "{watchdog}");
        }
    }

    #[test]
    fn a_bake_within_the_warm_up_is_warned_of() {
        let bakes = |first: &str, second: &str| {
            let wave = |weight: &str, bake: &str| format!("{{ weight = \"{weight}\", bake = \"{bake}\" }}");
            format!("wave = [{}, {}, {}]", wave("5%", first), wave("8%", "1s"), wave("50%", second))
        };
        let found = warnings(&bakes("60s", "1s"), "");
        let says = "`warm_up` (60 s) lasts for the whole bake of wave `5%` (60 s), and of 1 more";
        assert!(found.len() == 1 && found[0].contains(says), "{found:?}");
        assert!(warnings(&bakes("61s", "10s"), "")[0].contains("whole bake of wave `50%` (10 s)"));
        // From 5% to 8% there is no warm-up.
        assert_eq!(warnings(&bakes("61s", "61s"), ""), Vec::<String>::new());
        let cold = format!("warm_up = \"0s\"\n{}", bakes("1s", "1s"));
        assert_eq!(warnings(&cold, ""), Vec::<String>::new());
    }
}
