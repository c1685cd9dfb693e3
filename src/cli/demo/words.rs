//! The longer texts of the demo: the title, a trip in plain words, and what to try next.
//!
//! Invariants: the counts of a trip are those of its evidence. Every command can be pasted
//! unchanged, and works after the demo has ended.

use super::Chaos;
use super::screen::DemoScreen;
use super::stage::{DemoSetup, LATENCY_P99_MAX, RELEASE};
use super::story::{Ending, FIRST_WEIGHT};
use super::users::{self, USERS};
use crate::admin::dto::TripBody;
use crate::cli::text::{Hue, count, milliseconds, shown};
use crate::stats::cohort::{Salt, Weight};
use serde_json::Value;

/// The first output; nothing has been started yet.
pub fn title(screen: &mut DemoScreen, chaos: Chaos, seconds: u64) -> std::io::Result<()> {
    let (what, usual) = match chaos {
        Chaos::Errors | Chaos::Latency => ("a bad release, noticed and taken back.", 20),
        Chaos::None => ("a good release, left alone.", 25),
    };
    let title = screen.paint(Hue::Bold, "grayling demo:");
    screen.line(format!("{title} {what} About {} seconds.\n", usual.min(seconds)))?;
    let staged = match chaos {
        Chaos::Errors => "the new version starts to answer 500; the proxy is not told when",
        Chaos::Latency => "the new version becomes slow; the proxy is not told when",
        Chaos::None => "nothing; both versions work",
    };
    screen.line(format!(
        "  Real    the proxy, its watchdog, two versions of a small billing service,\n          \
         {} users over HTTP, the config file that sets the weight\n  Staged  {staged}\n",
        count(USERS)
    ))
}

/// The first user that the first weight sends to `new`.
pub fn first_user() -> u64 {
    let weight = Weight::parse(FIRST_WEIGHT).unwrap_or(Weight::FULL);
    let salt = Salt::new(RELEASE);
    (0..USERS).find(|user| weight.holds(salt.bucket(users::name(*user).as_bytes()))).unwrap_or(0)
}

/// The option that commands need to reach this proxy.
pub fn admin_option(stage: &DemoSetup) -> String {
    let address = stage.admin.address.to_string();
    if address == "127.0.0.1:9900" { String::new() } else { format!(" --admin http://{address}") }
}

fn of<'a>(trip: &'a TripBody, path: &[&str]) -> &'a Value {
    path.iter().fold(&trip.evidence, |value, key| &value[*key])
}

/// Whether the latency ceiling tripped, and not the failure ceiling.
pub fn by_latency(trip: &TripBody) -> bool {
    trip.cause == "ceiling" && trip.detail.starts_with("p99")
}

/// The cause in words; the counts follow.
pub fn plain_cause(trip: &TripBody) -> String {
    match trip.cause.as_str() {
        "errors" => "new fails its users more often, beyond chance".to_owned(),
        "ceiling" if by_latency(trip) => {
            format!("the p99 of new is above latency_p99_max, {} ms", LATENCY_P99_MAX.as_millis())
        }
        "ceiling" => "more of new fails than errors_max allows, and stable is better".to_owned(),
        _ => shown(&trip.detail),
    }
}

/// The counts behind the decision.
pub fn evidence(trip: &TripBody) -> Vec<String> {
    let n = |path: &[&str]| of(trip, path).as_u64().map_or("?".to_owned(), count);
    let ms = |path: &[&str]| of(trip, path).as_f64().map_or("?".to_owned(), milliseconds);
    if by_latency(trip) {
        let above = format!(
            "new {} of {} above {} ms, stable {} of {}, in the last minute",
            n(&["slow", "new"]),
            n(&["slow", "of_new"]),
            LATENCY_P99_MAX.as_millis(),
            n(&["slow", "stable"]),
            n(&["slow", "of_stable"])
        );
        let p99 = format!("p99 of new {}, of stable {}", ms(&["new", "p99_ms"]), ms(&["stable", "p99_ms"]));
        return vec![above, p99];
    }
    if let (Some(by), "errors" | "ceiling") = (&trip.decided_by, trip.cause.as_str()) {
        let stable = by.stable.unwrap_or_default();
        return vec![format!(
            "new {} of {} failed, stable {} of {}, since the onset",
            count(by.new.bad),
            count(by.new.requests),
            count(stable.bad),
            count(stable.requests)
        )];
    }
    let counts = format!(
        "new {} of {} failed, stable {} of {}, in the last minute",
        n(&["new", "failures"]),
        n(&["new", "requests"]),
        n(&["stable", "failures"]),
        n(&["stable", "requests"])
    );
    // The current failures are not in the counts of the minute yet.
    let failing = of(trip, &["grounds", "watchdog", "comparison", "failing"]).as_u64();
    let just_now = failing.filter(|n| *n > 0).map(|n| format!("{} more of new failed just now", count(n)));
    std::iter::once(counts).chain(just_now).collect()
}

/// The end of the demo: the remaining files, and commands to try.
pub fn what_to_try(stage: &DemoSetup, ending: Option<&Ending>) -> String {
    let folder = stage.folder.display();
    match ending {
        Some(Ending::RolledBack) => {}
        Some(Ending::OutOfTime) => {
            return format!(
                "\nOut of time in the middle of it: give it more with --seconds.\nConfig, state and log are in {folder}."
            );
        }
        Some(Ending::Interrupted) => return format!("\nInterrupted. Config, state and log are in {folder}."),
        _ => return format!("\nThe demo has ended. Config, state and log are in {folder}."),
    }
    let user = users::name(first_user());
    let (alias, admin) = (alias(), admin_option(stage));
    format!(
        "
The demo has ended, and its two versions with it. What to try next:

{alias}  cd {folder}
  grayling explain --user {user} -c grayling.toml
  grayling run -c grayling.toml          # a restart does not forget: 0%

While that runs, from another terminal:

{alias}  grayling status{admin}
  grayling ledger{admin}
  curl -i -H 'x-user-id: {user}' http://{}/balance
      # 502 until {} answers again

To let users into new again, either of:

  grayling resume {RELEASE} --ends rollback --reason 'v2 is mended'{admin}
  attempt = 2                            # in grayling.toml, for the next build",
        stage.http.address, stage.stable.address
    )
}

/// An alias that defines `grayling`, for a binary that is not installed.
pub fn alias() -> String {
    let called = std::env::args().next().unwrap_or_default();
    match std::env::current_exe() {
        Ok(path) if called.contains('/') => format!("  alias grayling={}\n", path.display()),
        _ => String::new(),
    }
}

/// Wraps the text at spaces into lines of at most `width` characters.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_facts_are_wrapped_at_spaces() {
        assert_eq!(wrapped("one two three", 7), ["one two", "three"]);
        assert_eq!(wrapped("incomprehensible", 7), ["incomprehensible"]);
    }
}
