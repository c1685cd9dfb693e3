//! What the settings of a release imply, as sentences: a line or two about ceilings, pauses and
//! rare routes, and a line a wave.
//!
//! Invariants: at most four lines beside those of the waves; what is not known is said to be so.

use super::implied::{Ceiling, FAILING, Implied, Pauses, RATE, Rare, Step, shown_seconds};
use crate::admin::{dto, service};
use crate::cli::text::{measured_percent, milliseconds, percent, shown};
use crate::domain::gate::{BAKE, REQUESTS, seconds};
use crate::domain::share;
use std::fmt::Write;
use std::time::Duration;

/// Routes that are named; more are counted.
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
        "release `{name}`: {}, of stable {} fail{p99} (the last {})",
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

/// Without figures of a service: as it was imagined.
fn example(of: &Implied) -> String {
    let name = shown(&of.name);
    let about = |s: f64| format!("about {}", shown_seconds(s));
    let line = |step: &Step| {
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

/// `wave 2 (5%)`, `wave 1 (testers, 0%)`; of a weight set by hand, the weight.
fn place(step: &Step) -> String {
    let (name, weight) = (shown(&step.name), percent(step.weight));
    match step.number {
        None => weight,
        Some(number) if name == weight => format!("wave {number} ({weight})"),
        Some(number) => format!("wave {number} ({name}, {weight})"),
    }
}

fn wave(step: &Step, of: &Implied) -> String {
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
    let takes = match (&**slowest, step.needs_s) {
        (BAKE, _) => format!("{}, its bake", shown_seconds(bake)),
        (REQUESTS, None) => {
            format!(
                "{} (bake) or longer: how many requests its segments have is not known",
                shown_seconds(bake)
            )
        }
        (gate, None) => format!(
            "{gate} may hold it for ever, for none of its requests come; bake {}",
            shown_seconds(bake)
        ),
        (gate, Some(s)) => {
            let least = if of.of_wave || gate == REQUESTS { "about" } else { "at least" };
            format!("{least} {} for {}; bake {}", shown_seconds(s), shown(gate), shown_seconds(bake))
        }
    };
    let found = match (step.controlled, step.found_failing_ratio, step.found_slower_ratio) {
        (false, ..) => "no control: ceilings only".to_owned(),
        (_, None, None) => "in its bake neither failures nor slowness would be found".to_owned(),
        (_, failing, slower) => {
            let failing = failing.map_or("no rate of failures".to_owned(), |ratio| {
                format!("failures of {}", measured_percent(100.0 * ratio))
            });
            let slower = slower.map_or("no slowdown".to_owned(), |ratio| {
                format!("a slowdown by {}", share::percent((100.0 * ratio).ceil(), 0))
            });
            format!("in its bake it finds {failing} and {slower}, or more")
        }
    };
    format!("{at}: {takes}; {found}")
}

fn ceiling(of: &Ceiling) -> String {
    let Ceiling { key, given, .. } = of;
    let errors = *key == "errors_max";
    let share = |ratio: Option<f64>| share::percent(100.0 * ratio.unwrap_or_default(), 1);
    let own = match errors {
        true => format!("stable itself fails {} of its requests", share(of.own_ratio)),
        false => format!("{} of stable's own answers take longer", share(of.own_ratio)),
    };
    match of.verdict {
        "fits" => format!("{key} {given} fits ({own})"),
        "set_aside" => format!("{key} {given} does not fit: {own}, so the default is set aside"),
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
        _ => format!("servers of stable pause: {}", spells(&of.slow)),
    };
    match slow.too_many {
        true => out.push_str("; no spell of new is excused any more, it has far more of them"),
        false => {
            let _ = write!(out, "; spells of new of up to {} are excused", seconds(slow.allowed));
        }
    }
    let failed = service::spells(&of.failed);
    if failed.n > 0 {
        let _ = write!(out, "; of failures {}, ", spells(&of.failed));
        match (failed.too_many, of.servers_of_new > 1) {
            (true, _) => out.push_str("none is excused any more"),
            (_, false) => out.push_str("none is excused, as new has one server"),
            _ => {
                let _ = write!(out, "{} are excused where another server is sound", seconds(failed.allowed));
            }
        }
    }
    out
}

/// `31 spells in the last 58 min, the longest 1.0 s`.
fn spells(of: &dto::Spells) -> String {
    let known = service::spells(of);
    let over = seconds(known.over.unwrap_or(Duration::ZERO));
    let longest = seconds(known.longest);
    match known.n {
        1 => format!("1 spell, {over} ago, {longest} long"),
        n => format!("{n} spells in the last {over}, the longest {longest}"),
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
