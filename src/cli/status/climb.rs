//! The progress of a release in its plan, as text: the waves on one line, then the gates that the
//! next one waits for.

use crate::admin::dto::{ProgressBody, ReleaseBody, ReleaseStateLabel};
use crate::cli::text::{self, Colour, Hue, percent, shown};
use std::fmt::Write;

/// `, wave 5% (2 of 4)`.
pub fn place(r: &ReleaseBody) -> String {
    match (&r.wave, &r.progress) {
        (Some(wave), Some(p)) => format!(", wave {} ({} of {})", shown(wave), p.number, r.waves.len()),
        (Some(wave), None) => format!(", wave {}", shown(wave)),
        (None, Some(_)) => format!(", before the first of {} waves", r.waves.len()),
        (None, None) => String::new(),
    }
}

pub fn render(out: &mut String, r: &ReleaseBody, colour: Colour) {
    if let Some(p) = &r.progress {
        waves(out, r, p, colour);
        if let Some(pause) = &p.paused {
            let told =
                format!("by {} at {}: {}", shown(&pause.actor), shown(&pause.at), shown(&pause.reason));
            let _ = writeln!(out, "  paused    {}", colour.paint(Hue::Yellow, &told));
        }
        if let Some(power) = &p.power {
            let _ = writeln!(out, "  to see    {}", shown(power));
        }
        if let Some(slowest) = &p.slowest {
            let _ = writeln!(out, "  slowest   {}", shown(slowest));
        }
    }
    if !r.gates.is_empty() {
        out.push_str("  gates\n");
    }
    for g in &r.gates {
        let verdict = colour.paint(hue(&g.verdict), &format!("{:<12}", shown(&g.verdict)));
        let _ = writeln!(out, "    {:<13} {verdict}  {}", shown(&g.name), shown(&g.detail));
    }
    next(out, r);
}

/// `testers ✓  1% ✓  [5%]  20% by hand  100%`
fn waves(out: &mut String, r: &ReleaseBody, p: &ProgressBody, colour: Colour) {
    let each = r.waves.iter().enumerate().map(|(i, w)| {
        let (name, present) = (shown(&w.name), p.number as usize);
        let reach = if w.name == percent(w.weight) {
            name.clone()
        } else {
            format!("{name} ({})", percent(w.weight))
        };
        let by_hand = if w.open == "by-hand" { " by hand" } else { "" };
        match (i + 1).cmp(&present) {
            std::cmp::Ordering::Less => colour.paint(Hue::Dim, &name),
            std::cmp::Ordering::Equal => colour.paint(Hue::Bold, &format!("[{reach}]")),
            std::cmp::Ordering::Greater => format!("{reach}{by_hand}"),
        }
    });
    let hours = p.open_hours.as_ref().map(|h| format!("   ({})", shown(h))).unwrap_or_default();
    let _ = writeln!(out, "  waves     {}{hours}", each.collect::<Vec<_>>().join(" → "));
    if let Some(held_s) = p.held_s {
        let time = text::seconds(held_s as u64);
        let bakes = (p.number as usize).checked_sub(1).and_then(|i| r.waves.get(i));
        let told = match bakes.is_some_and(|wave| p.baked_s < wave.bake_s) {
            true => format!("bakes late: {time} of its time were not watched; see the gates"),
            false => format!("held for {time}, though it is baked; see the gates"),
        };
        let _ = writeln!(out, "            {}", colour.paint(Hue::Yellow, &told));
    }
}

/// The commands that apply now.
fn next(out: &mut String, r: &ReleaseBody) {
    let Some(p) = &r.progress else { return };
    let name = shown(&r.name);
    match (&p.next, r.state) {
        (_, ReleaseStateLabel::Paused) => {
            let _ = writeln!(
                out,
                "  to let the waves go on:  grayling resume {name} --ends pause --reason \"...\""
            );
        }
        (Some(wave), ReleaseStateLabel::Progressing | ReleaseStateLabel::Pending) if r.held.is_none() => {
            let waits = r.gates.iter().any(|g| g.name == "open" && g.verdict != "pass") || p.held_s.is_some();
            if waits {
                let wave = shown(wave);
                let fails = r.gates.iter().filter(|g| g.verdict == "fail");
                let despite: String = fails.map(|g| format!(" --despite {}", shown(&g.name))).collect();
                let promote = format!("grayling promote {name} --to '{wave}'{despite} --reason \"...\"");
                let _ = writeln!(out, "  to open wave {wave} all the same:  {promote}");
            }
        }
        _ => {}
    }
}

fn hue(verdict: &str) -> Hue {
    match verdict {
        "pass" => Hue::Green,
        "fail" => Hue::Red,
        _ => Hue::Yellow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn release(state: &str, progress: serde_json::Value) -> ReleaseBody {
        let wave = |name: &str, weight: f64, open: &str| json!({"name": name, "weight": weight, "bake_s": 600.0, "open": open});
        let text = json!({
            "name": "v2", "attempt": 1, "state": state, "weight": 5.0, "weight_configured": 5.0, "wave": "5%",
            "waves": [wave("testers", 0.0, "auto"), wave("5%", 5.0, "auto"), wave("half", 50.0, "by-hand")],
            "progress": progress,
            "gates": [{"name": "errors", "verdict": "inconclusive", "detail": "E 3.91 of 20"}],
            "arms": {"stable": {}, "new": {}}, "watchdog": {"state": "quiet"},
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn the_climb_is_told_with_what_it_waits_for_and_what_to_type() {
        let held = release(
            "progressing",
            json!({"number": 2, "next": "half", "baked_s": 600.0, "held_s": 7260.0, "missing": ["errors: E 3.91 of 20"],
                   "power": "0.1 points at 5%: about 40 min at this rate", "open_hours": "Mon 09:00-16:00 UTC"}),
        );
        assert_eq!(place(&held), ", wave 5% (2 of 3)");
        let mut out = String::new();
        render(&mut out, &held, Colour::Plain);
        let expected = "  waves     testers → [5%] → half (50%) by hand   (Mon 09:00-16:00 UTC)
            held for 2h 1m, though it is baked; see the gates
  to see    0.1 points at 5%: about 40 min at this rate
  gates
    errors        inconclusive  E 3.91 of 20
  to open wave half all the same:  grayling promote v2 --to 'half' --reason \"...\"
";
        assert_eq!(out, expected);
    }

    #[test]
    fn a_pause_says_by_whom_and_how_it_ends() {
        let paused = json!({"at": "2026-11-25T10:00:00Z", "actor": "ann", "reason": "month end"});
        let mut out = String::new();
        render(
            &mut out,
            &release("paused", json!({"number": 2, "next": "half", "paused": paused})),
            Colour::Plain,
        );
        assert!(out.contains("  paused    by ann at 2026-11-25T10:00:00Z: month end\n"), "{out}");
        assert!(
            out.ends_with("  to let the waves go on:  grayling resume v2 --ends pause --reason \"...\"\n"),
            "{out}"
        );
    }
}
