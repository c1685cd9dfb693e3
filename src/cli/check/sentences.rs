//! The implications of a release's settings as sentences: a line or two about ceilings, pauses and
//! rare routes, and a line for each wave.
//!
//! Invariants: at most four lines besides those of the waves; an unknown value is reported as
//! unknown.

use super::implied::{CeilingFit, FAILING, Implied, ImpliedStep, Pauses, RATE, Rare, shown_seconds};
use crate::admin::{dto, service};
use crate::cli::text::{measured_percent, milliseconds, percent, shown};
use crate::domain::gates::{BAKE, REQUESTS, seconds};
use crate::domain::share;
use std::fmt::Write;
use std::time::Duration;

/// Shorter spells of failures are only a few requests.
const SPELL_TOLD: Duration = Duration::from_millis(100);
/// Maximum of named routes. The others are counted.
const ROUTES_TOLD: usize = 4;

pub fn lines(of: &Implied) -> String {
    let mut out = String::new();
    let name = shown(&of.name);
    if let Some(lack) = &of.lack {
        let _ = writeln!(out, "release `{name}`: nothing is known of its service: {}", shown(lack));
    }
    if of.figures == "example" {
        out.push_str(&example(of));
        return out;
    }
    let p99 = of.p99_ms.map(|ms| format!(", its p99 is {}", milliseconds(ms))).unwrap_or_default();
    let _ = writeln!(
        out,
        "release `{name}`: {}; of stable {} fail{p99} (the last {})",
        requests(of.rate),
        measured_percent(100.0 * of.failing_ratio),
        shown_seconds(of.counted_s.unwrap_or_default())
    );
    if !of.ceilings.is_empty() {
        let each: Vec<String> = of.ceilings.iter().map(ceiling).collect();
        let _ = writeln!(out, "  ceilings  {}", each.join("; "));
    }
    if let Some(pauses) = &of.pauses {
        let _ = writeln!(out, "  pauses    {}", paused(pauses));
    }
    if !of.rare_routes.is_empty() {
        let _ = writeln!(out, "  rare      {}", rare(&of.rare_routes));
    }
    for step in &of.waves {
        let _ = writeln!(out, "  {}", wave(step, of));
    }
    out
}

/// Without figures of a service: the example.
fn example(of: &Implied) -> String {
    let name = shown(&of.name);
    let about = |s: f64| format!("about {}", shown_seconds(s));
    let line = |step: &ImpliedStep| {
        let (Some(doubled), Some(tenfold)) = (step.doubled_s, step.tenfold_s) else {
            let bake = step.bake_s?;
            return Some(format!(
                "  {}: bakes for {}; no control: ceilings only\n",
                place(step),
                shown_seconds(bake)
            ));
        };
        let seen = format!("  {}: {}, {}", place(step), about(doubled), about(tenfold));
        let Some(bake) = step.bake_s else { return Some(format!("{seen}\n")) };
        let warm_up = step.warm_up_s.map(shown_seconds);
        let warm_up = warm_up.map(|s| format!(", of which {s} warm up")).unwrap_or_default();
        let late = match (doubled > bake, tenfold > bake) {
            (_, true) => ": neither is seen in it",
            (true, false) => ": the first is not seen in it",
            _ => "",
        };
        Some(format!("{seen}; bakes for {}{warm_up}{late}\n", shown_seconds(bake)))
    };
    let lines: String = of.waves.iter().filter_map(line).collect();
    if lines.is_empty() {
        return String::new();
    }
    let bakes: Vec<f64> = of.waves.iter().filter_map(|step| step.bake_s).collect();
    let plan = match bakes.len() {
        0 => String::new(),
        1 => format!("its wave takes {} at least; ", shown_seconds(bakes.iter().sum())),
        n => format!("its {n} waves take {} at least; ", shown_seconds(bakes.iter().sum())),
    };
    format!(
        "release `{name}`: {plan}of {RATE} requests/s, a failure rate that doubled from {}%, and one ten times as high, are seen after\n{lines}",
        100.0 * FAILING,
    )
}

/// `wave 2 (5%)`, `wave 1 (testers, 0%)`. For a weight set by hand, the weight.
fn place(step: &ImpliedStep) -> String {
    let (name, weight) = (shown(&step.name), percent(step.weight));
    match step.number {
        None => weight,
        Some(number) if name == weight => format!("wave {number} ({weight})"),
        Some(number) => format!("wave {number} ({name}, {weight})"),
    }
}

fn wave(step: &ImpliedStep, of: &Implied) -> String {
    let at = place(step);
    let (Some(bake), Some(slowest)) = (step.bake_s, &step.slowest) else {
        return match (step.doubled_s, step.tenfold_s) {
            (Some(doubled), Some(tenfold)) => format!(
                "{at}: a failure rate that doubled is seen after about {}, one ten times as high after about {}",
                shown_seconds(doubled),
                shown_seconds(tenfold)
            ),
            _ => format!("{at}: no control: ceilings only"),
        };
    };
    let baked = shown_seconds(bake);
    let takes = match (&**slowest, step.needs_s) {
        (BAKE, _) => format!("{baked} (bake)"),
        (REQUESTS, None) => {
            format!("{baked} (bake) or longer, for how many requests its segments have is not known")
        }
        (gate, None) => {
            format!("no end in sight for {}, of which no request comes; bake {baked}", shown(gate))
        }
        (gate, Some(s)) => {
            let least = if of.of_wave || gate == REQUESTS { "about" } else { "at least" };
            format!("{least} {} for {}{}; bake {baked}", shown_seconds(s), shown(gate), margin(step, gate))
        }
    };
    let found = match (step.controlled, step.found_failing_ratio, step.found_slower_ratio) {
        (false, ..) => "no control: ceilings only".to_owned(),
        (_, None, None) => "its bake finds neither failures nor slowdowns, however large".to_owned(),
        (_, failing, slower) => {
            let failing = failing.map_or("no failures, even if all fail,".to_owned(), |ratio| {
                format!("failures from {} on", measured_percent(100.0 * ratio))
            });
            let slower = slower.map_or("no slowdown up to ten times".to_owned(), |ratio| {
                format!("slowdowns from {:.0}% on", (100.0 * ratio).ceil())
            });
            format!("its bake finds {failing} and {slower}")
        }
    };
    format!("{at}: {takes}; {found}")
}

/// ` (margin_errors 0.1%)`: the purpose of a longer wave.
fn margin(step: &ImpliedStep, gate: &str) -> String {
    let of = step.gates.iter().find(|takes| takes.name == gate);
    let margin = of.and_then(|of| of.key.zip(of.margin_ratio));
    margin.map(|(key, ratio)| format!(" ({key} {})", percent(100.0 * ratio))).unwrap_or_default()
}

/// The fit of a ceiling, with the action to take, if any.
fn ceiling(of: &CeilingFit) -> String {
    let CeilingFit { key, given, .. } = of;
    let errors = *key == "errors_max";
    let share = |ratio: Option<f64>| match ratio.unwrap_or_default() {
        0.0 => "none".to_owned(),
        ratio => share::percent(100.0 * ratio, 1),
    };
    let own = match errors {
        true => format!("stable itself fails {} of its requests", share(of.own_ratio)),
        false => format!("{} of stable's own answers take longer", share(of.own_ratio)),
    };
    match of.verdict {
        "fits" => format!("{key} {given} fits"),
        "set_aside" => {
            format!(
                "{key} {given} does not fit: {own}, so the default is set aside until the file states one"
            )
        }
        "raised" => {
            let unit = if errors { "" } else { " of answers" };
            let at = share(of.in_force_ratio);
            format!(
                "{key} {given} does not fit: {own}, so it is in force at {at}{unit}, twice stable's own share"
            )
        }
        _ => {
            format!("whether {key} {given} fits is not known: {}", of.why.as_deref().unwrap_or("no figures"))
        }
    }
}

fn paused(of: &Pauses) -> String {
    let Some(seen) = of.seen_s else {
        let missing = of.answers_missing;
        return format!("not known yet: {missing} more answers of stable are needed to see them");
    };
    let slow = service::spells(&of.slow);
    let mut out = match slow.n {
        0 => format!("no pauses seen in {}", shown_seconds(seen)),
        _ => format!("servers of stable pause: {}", spells(&of.slow, "")),
    };
    match slow.too_many {
        true => out.push_str("; no spell of new is excused any more, it has far more of them"),
        false => {
            let _ = write!(out, "; spells of new of up to {} are excused", seconds(slow.allowed));
        }
    }
    let failed = service::spells(&of.failed);
    if failed.longest >= SPELL_TOLD {
        let _ = write!(out, "; {}: ", spells(&of.failed, " of failures"));
        match (failed.too_many, of.servers_of_new > 1) {
            (true, _) => out.push_str("none of new is excused any more"),
            (_, false) => out.push_str("none of new is excused, as it has one server"),
            _ => {
                let _ = write!(out, "up to {} while another server of new is sound", seconds(failed.allowed));
            }
        }
    }
    out
}

/// `31 spells in the last 58 min, the longest 1.0 s`.
fn spells(of: &dto::SpellsBody, kind: &str) -> String {
    let known = service::spells(of);
    let over = seconds(known.over.unwrap_or_default());
    let longest = seconds(known.longest);
    match known.n {
        1 => format!("1 spell{kind}, {over} ago, {longest} long"),
        n => format!("{n} spells{kind} in the last {over}, the longest {longest}"),
    }
}

fn rare(of: &[Rare]) -> String {
    let each = of.iter().take(ROUTES_TOLD).map(|route| {
        let waves: Vec<String> = route.waves.iter().map(|wave| format!("`{}`", shown(wave))).collect();
        let rate = if route.rate > 0.0 { requests(route.rate) } else { "no request".to_owned() };
        format!("`{}` ({rate}) in {}", shown(&route.name), waves.join(", "))
    });
    let named: Vec<String> = each.collect();
    let more = match of.len() - named.len() {
        0 => String::new(),
        n => format!(", and {n} more routes"),
    };
    format!("too rare to be judged for itself in the bake of a wave: {}{more}", named.join("; "))
}

/// `212 requests/s`, `0.5 requests/s`, `3 requests/min`.
fn requests(rate: f64) -> String {
    match rate {
        rate if rate >= 10.0 => format!("{rate:.0} requests/s"),
        rate if rate >= 0.5 => format!("{rate:.1} requests/s"),
        rate => format!("{:.1} requests/min", 60.0 * rate),
    }
}

#[cfg(test)]
mod tests {
    use super::super::implied::implied;
    use super::*;
    use crate::domain::config::Config;
    use serde_json::{Value, json};
    use std::path::Path;

    const WAVES: &str = "wave = [{ segments = [\"testers\"], users_min = 1 }, { weight = \"1%\", bake = \"5m\" }, { weight = \"50%\", bake = \"1h\" }, { weight = \"100%\" }]";

    fn config(release: &str, watchdog: &str) -> Config {
        let text = format!(
            "[upstream.v1]\nservers = [\"http://127.0.0.1:9001\"]\n[upstream.v2]\nservers = [\"http://127.0.0.1:9002\"]\n\
             [segment.testers]\nusers = [\"tess\"]\n\
             [[route]]\nname = \"all\"\nrelease = \"r\"\n[[route]]\nname = \"refunds\"\npath = \"/refunds\"\nrelease = \"r\"\n\
             [release.r]\nstable = \"v1\"\nnew = \"v2\"\n{release}\n[release.r.watchdog]\n{watchdog}\n"
        );
        crate::config::parse(&text, Path::new("/g/grayling.toml")).map_err(|r| r.to_string()).unwrap().config
    }

    /// As in the API, whose names scripts rely on.
    fn service() -> Value {
        json!({
            "counted_s": 300.0, "rate": 200.0, "requests": 60_000, "failures": 60, "p99_ms": 410.0, "learns": true,
            "errors_max": {"given": 0.02, "requests": 100_000.0, "bad": 100.0},
            "latency_p99_max": {"given": 2000.0, "requests": 100_000.0, "bad": 0.0},
            "seen_s": 7200.0,
            "spells_slow": {"n": 0, "longest_s": 0.0, "over_s": null, "excused_s": 0.5, "too_many": false},
            "spells_failed": {"n": 0, "longest_s": 0.0, "over_s": null, "excused_s": 30.0, "too_many": false},
            "answers_missing": 0,
            "gates": {"of_wave": false, "failing_ratio": 0.001, "slow_ratio": 0.01, "spread": 0.5,
                      "design_errors": 1.0, "design_latency": 1.0, "design_latency_tail": 1.0},
            "moments": [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
            "routes": [{"name": "all", "rate": 199.9}, {"name": "refunds", "rate": 0.02}],
        })
    }

    fn text_of(config: &Config, service: &Value) -> String {
        let standing = json!({"service": service});
        let running = json!({"text": "", "path": "", "sha256": "", "releases": {"r": standing}});
        let running: dto::RunningBody = serde_json::from_value(running).unwrap();
        implied(config, Some(&running)).iter().map(lines).collect()
    }

    /// The line with this start, for a service that differs in this.
    fn line(watchdog: &str, differs: &[(&str, Value)], begins: &str) -> String {
        let mut service = service();
        differs.iter().for_each(|(at, value)| *service.pointer_mut(at).unwrap() = value.clone());
        let text = text_of(&config(WAVES, watchdog), &service);
        let line = text.lines().find(|line| line.trim_start().starts_with(begins));
        line.unwrap_or_else(|| panic!("{begins}: {text}")).trim().to_owned()
    }

    #[test]
    fn of_a_service_it_says_what_fits_what_pauses_and_what_each_wave_takes() {
        let expected = "\
release `r`: 200 requests/s; of stable 0.10% fail, its p99 is 410 ms (the last 5 min)
  ceilings  errors_max 2% fits; latency_p99_max 2 s fits
  pauses    no pauses seen in 2.0 h; spells of new of up to 0.5 s are excused
  rare      too rare to be judged for itself in the bake of a wave: `refunds` (1.2 requests/min) in `1%`
  wave 1 (testers, 0%): 10 min (bake) or longer, for how many requests its segments have is not known; no control: ceilings only
";
        let text = text_of(&config(WAVES, ""), &service());
        assert!(text.starts_with(expected), "{text}");
        let waves: Vec<&str> = text.lines().skip(5).collect();
        assert_eq!(waves.len(), 3, "{text}");
        assert!(
            waves[0].starts_with("  wave 2 (1%): at least ")
                && waves[0]
                    .contains(" for errors (margin_errors 0.1%); bake 5 min; its bake finds failures from "),
            "{text}"
        );
        assert_eq!(waves[2], "  wave 4 (100%): 10 min (bake); no control: ceilings only");
    }

    /// Names that scripts rely on: new ones may be added, existing ones must not be renamed.
    #[test]
    fn the_json_has_the_published_names() {
        let running =
            json!({"text": "", "path": "", "sha256": "", "releases": {"r": {"service": service()}}});
        let running: dto::RunningBody = serde_json::from_value(running).unwrap();
        let text = serde_json::to_value(implied(&config(WAVES, ""), Some(&running))).unwrap();
        for name in [
            "/0/name",
            "/0/figures",
            "/0/lack",
            "/0/rate",
            "/0/failing_ratio",
            "/0/p99_ms",
            "/0/counted_s",
            "/0/of_wave",
            "/0/ceilings/0/key",
            "/0/ceilings/0/given",
            "/0/ceilings/0/verdict",
            "/0/ceilings/0/own_ratio",
            "/0/ceilings/1/in_force_ratio",
            "/0/ceilings/1/why",
            "/0/pauses/seen_s",
            "/0/pauses/answers_missing",
            "/0/pauses/slow/n",
            "/0/pauses/slow/longest_s",
            "/0/pauses/slow/over_s",
            "/0/pauses/slow/excused_s",
            "/0/pauses/failed/too_many",
            "/0/pauses/servers_of_new",
            "/0/rare_routes/0/name",
            "/0/rare_routes/0/rate",
            "/0/rare_routes/0/waves/0",
            "/0/waves/1/name",
            "/0/waves/1/number",
            "/0/waves/1/weight",
            "/0/waves/1/controlled",
            "/0/waves/1/bake_s",
            "/0/waves/1/warm_up_s",
            "/0/waves/1/slowest",
            "/0/waves/1/needs_s",
            "/0/waves/1/gates/2/name",
            "/0/waves/1/gates/2/key",
            "/0/waves/1/gates/2/margin_ratio",
            "/0/waves/1/gates/2/needs_s",
            "/0/waves/1/doubled_s",
            "/0/waves/1/tenfold_s",
            "/0/waves/1/found_failing_ratio",
            "/0/waves/1/found_slower_ratio",
        ] {
            assert!(text.pointer(name).is_some(), "{name}: {text:#}");
        }
    }

    #[test]
    fn the_readme_shows_what_it_says() {
        let mut service = service();
        (service["rate"], service["requests"], service["failures"]) =
            (json!(212.0), json!(63_600), json!(1_959));
        service["errors_max"] = json!({"given": 0.02, "requests": 100_000.0, "bad": 3_100.0});
        service["spells_slow"] =
            json!({"n": 31, "longest_s": 1.0, "over_s": 3500.0, "excused_s": 1.75, "too_many": false});
        service["gates"]["failing_ratio"] = json!(0.0308);
        let waves = "wave = [{ weight = \"5%\" }, { weight = \"20%\" }, { weight = \"100%\" }]";
        let text = text_of(&config(waves, ""), &service).replace("release `r`", "release `v2`");
        let text: String =
            text.lines().filter(|line| !line.starts_with("  rare")).map(|line| format!("{line}\n")).collect();
        assert!(include_str!("../../../README.md").contains(&text), "{text}");
    }

    #[test]
    fn a_ceiling_that_does_not_fit_says_what_is_in_force() {
        let fails = [("/errors_max/bad", json!(3_100.0))];
        assert!(line("", &fails, "ceilings").starts_with(
            "ceilings  errors_max 2% does not fit: stable itself fails 3.1% of its requests, so the default is set aside until the file states one; "
        ));
        assert!(line("errors_max = \"2%\"", &fails, "ceilings").contains(
            "errors_max 2% does not fit: stable itself fails 3.1% of its requests, so it is in force at 6.2%, twice stable's own share; "
        ));
        assert!(line("errors_max = \"3%\"", &fails, "ceilings").contains("errors_max 3% fits; "));
        let slow = [("/latency_p99_max/bad", json!(4_200.0))];
        assert!(line("", &slow, "ceilings").ends_with(
            "latency_p99_max 2 s does not fit: 4.2% of stable's own answers take longer, so the default is set aside until the file states one"
        ));
        assert!(
            line("latency_p99_max = \"2s\"", &slow, "ceilings")
                .ends_with("so it is in force at 8.4% of answers, twice stable's own share")
        );
        assert!(
            line("latency_p99_max = \"5s\"", &slow, "ceilings")
                .contains("whether latency_p99_max 5 s fits is not known: it is not the running one, and is learnt from the reload on")
        );
        let few = [("/errors_max/requests", json!(120.0))];
        assert!(
            line("", &few, "ceilings").contains(
                "whether errors_max 2% fits is not known: 120 of 200 requests of stable are counted"
            )
        );
        let late = [few[0].clone(), ("/learns", json!(false))];
        assert!(
            line("", &late, "ceilings").contains("users were in new before enough of stable had been seen")
        );
    }

    #[test]
    fn pauses_are_told_with_what_is_excused() {
        let spells = |n: u64, too_many: bool| json!({"n": n, "longest_s": 1.0, "over_s": 3500.0, "excused_s": 1.75, "too_many": too_many});
        let slow = |n, too_many| ("/spells_slow", spells(n, too_many));
        assert_eq!(
            line("", &[slow(31, false)], "pauses"),
            "pauses    servers of stable pause: 31 spells in the last 58 min, the longest 1.0 s; spells of new of up to 1.7 s are excused"
        );
        assert!(
            line("", &[slow(1, true)], "pauses")
                .contains("1 spell, 58 min ago, 1.0 s long; no spell of new is excused any more")
        );
        let failed = [("/spells_failed", spells(2, false))];
        assert!(line("", &failed, "pauses").ends_with("; 2 spells of failures in the last 58 min, the longest 1.0 s: none of new is excused, as it has one server"));
        let young = [("/seen_s", Value::Null), ("/answers_missing", json!(3_200))];
        assert_eq!(
            line("", &young, "pauses"),
            "pauses    not known yet: 3200 more answers of stable are needed to see them"
        );
    }

    #[test]
    fn a_critical_route_is_named_where_it_is_what_a_wave_waits_for() {
        let critical = format!("critical = [\"refunds\"]\n{WAVES}");
        let text = text_of(&config(&critical, ""), &service());
        assert!(
            !text.contains("too rare")
                && text.contains("for errors:refunds (margin_errors 0.1%); bake 60 min"),
            "{text}"
        );
        let mut silent = service();
        silent["routes"][1]["rate"] = json!(0.0);
        let text = text_of(&config(&critical, ""), &silent);
        assert!(
            text.contains(
                "wave 3 (50%): no end in sight for latency_tail:refunds, of which no request comes; bake"
            ),
            "{text}"
        );
    }

    #[test]
    fn where_nothing_is_known_of_the_service_it_says_so_and_tells_an_example() {
        let waves = config(WAVES, "");
        let example = implied(&waves, None).iter().map(lines).collect::<String>();
        let expected = "\
release `r`: its 4 waves take 85 min at least; of 500 requests/s, a failure rate that doubled from 0.1%, and one ten times as high, are seen after
  wave 1 (testers, 0%): bakes for 10 min; no control: ceilings only
  wave 2 (1%): about 83 min, about 2 min; bakes for 5 min, of which 60 s warm up: the first is not seen in it
";
        assert!(example.starts_with(expected), "{example}");
        let mut young = service();
        (young["rate"], young["requests"], young["counted_s"]) = (json!(0.0), json!(0), json!(40.0));
        for (service, why) in [
            (young, "no request of stable in the last 40 s"),
            (Value::Null, "the proxy has no figures of it yet"),
        ] {
            let text = text_of(&waves, &service);
            let expected = format!("release `r`: nothing is known of its service: {why}\n{example}");
            assert_eq!(text, expected);
        }
        let by_hand = config("weight = \"5%\"", "");
        let text = text_of(&by_hand, &service());
        assert!(text.ends_with("\n  5%: a failure rate that doubled is seen after about 43 min, one ten times as high after about 77 s\n"), "{text}");
        assert_eq!(text_of(&config(WAVES, "enabled = false"), &service()), "");
    }

    #[test]
    fn no_figure_of_another_proxy_panics() {
        let numbers = [0.0, -1.0, 1e-308, 1e308, 0.5, 2.0];
        let (waves, by_hand) =
            (config(&format!("critical = [\"refunds\"]\n{WAVES}"), ""), config("weight = \"5%\"", ""));
        for number in numbers {
            let mut service: dto::ServiceBody = serde_json::from_value(service()).unwrap();
            let gates = dto::GatesBody {
                of_wave: true,
                failing_ratio: number,
                slow_ratio: number,
                spread: number,
                design_errors: number,
                design_latency: number,
                design_latency_tail: number,
            };
            let ceiling = dto::CeilingBody { given: number, requests: number, bad: number };
            let spells = dto::SpellsBody {
                n: u64::MAX,
                longest_s: number,
                over_s: Some(number),
                excused_s: number,
                too_many: false,
            };
            (service.gates, service.errors_max, service.latency_p99_max) = (gates, ceiling, ceiling);
            (service.spells_slow, service.spells_failed, service.seen_s) = (spells, spells, Some(number));
            (service.counted_s, service.p99_ms, service.answers_missing) = (number, Some(number), u64::MAX);
            service.rate = number.max(1e-300);
            service.moments = [[number; 3]; 3];
            service.routes.iter_mut().for_each(|route| (route.rate, route.gates) = (number, Some(gates)));
            let service = serde_json::to_value(service).unwrap();
            text_of(&waves, &service);
            text_of(&by_hand, &service);
        }
    }
}
