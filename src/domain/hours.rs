//! Hours in which waves may open: `Mon-Thu 09:00-16:00 Europe/London`.
//!
//! The hours are local time in that zone: daylight saving time moves them, as it moves the staff on
//! duty. A span that ends before it begins (`22:00-04:00`) ends on the next day and belongs to the
//! day on which it begins.
//!
//! Invariants: pure, the time is an argument; the time zone database is compiled in, so that a
//! minimal container has it.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan, ZonedDateTime};
use std::fmt;

#[derive(Clone, PartialEq, Debug)]
pub struct OpenHours {
    text: String,
    /// From Monday.
    days: [bool; 7],
    from: Time,
    until: Until,
    zone: TimeZone,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Until {
    SameDay(Time),
    /// `24:00`.
    Midnight,
    NextDay(Time),
}

const DAYS: [(&str, Weekday); 7] = [
    ("Mon", Weekday::Monday),
    ("Tue", Weekday::Tuesday),
    ("Wed", Weekday::Wednesday),
    ("Thu", Weekday::Thursday),
    ("Fri", Weekday::Friday),
    ("Sat", Weekday::Saturday),
    ("Sun", Weekday::Sunday),
];

/// Why a text cannot be parsed; for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HoursError {
    #[error("not days, hours and a time zone")]
    Shape,
    #[error("`{0}` is not a day")]
    Day(String),
    #[error("`{0}` is not a time of day")]
    Time(String),
    #[error("`{0}` is not a time zone")]
    Zone(String),
    #[error("hours that begin and end at the same time")]
    Empty,
}

impl fmt::Display for OpenHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl OpenHours {
    pub fn parse(text: &str) -> Result<OpenHours, HoursError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [days, hours, zone] = words[..] else { return Err(HoursError::Shape) };
        let (from, until) = hours.split_once('-').ok_or_else(|| HoursError::Time(hours.to_owned()))?;
        let from = time(from)?;
        let until = match until {
            "24:00" => Until::Midnight,
            until => match time(until)? {
                until if until == from => return Err(HoursError::Empty),
                until if until < from => Until::NextDay(until),
                until => Until::SameDay(until),
            },
        };
        let bad_zone = |_| HoursError::Zone(zone.to_owned());
        Ok(OpenHours {
            text: words.join(" "),
            days: parse_days(days)?,
            from,
            until,
            zone: TimeZone::get(zone).map_err(bad_zone)?,
        })
    }

    /// Milliseconds since the Unix epoch.
    pub fn hold(&self, at_ms: i64) -> bool {
        Timestamp::from_millisecond(at_ms)
            .is_ok_and(|at| self.holds_at(&at.to_zoned_datetime(self.zone.clone())))
    }

    fn holds_at(&self, local: &ZonedDateTime) -> bool {
        let (day, time) = (local.weekday().to_monday_zero_offset() as usize % 7, local.time());
        let (today, yesterday) = (self.days[day], self.days[(day + 6) % 7]);
        match self.until {
            Until::SameDay(until) => today && self.from <= time && time < until,
            Until::Midnight => today && self.from <= time,
            Until::NextDay(until) => (today && self.from <= time) || (yesterday && time < until),
        }
    }

    /// The next begin, in local time: `Mon 2026-11-30 09:00`.
    pub fn next(&self, at_ms: i64) -> Option<String> {
        let now = Timestamp::from_millisecond(at_ms).ok()?.to_zoned_datetime(self.zone.clone());
        // A begin inside a gap of the local time is moved by it, as jiff does.
        let begins = (0..8).filter_map(|days| {
            let date = now.date().checked_add(days.days()).ok()?;
            let at = date.to_datetime(self.from).to_zoned_datetime(self.zone.clone()).ok()?;
            (self.days[at.weekday().to_monday_zero_offset() as usize % 7] && at > now).then_some(at)
        });
        begins.min().map(|at| at.strftime("%a %Y-%m-%d %H:%M").to_string())
    }
}

fn time(text: &str) -> Result<Time, HoursError> {
    let bad = || HoursError::Time(text.to_owned());
    let (hour, minute) = text.split_once(':').ok_or_else(bad)?;
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
    if !digits(hour) || !digits(minute) {
        return Err(bad());
    }
    let number = |part: &str| part.parse::<i8>().map_err(|_| bad());
    Time::new(number(hour)?, number(minute)?, 0, 0).map_err(|_| bad())
}

/// `Mon-Thu`, `Mon,Wed,Sat-Sun`.
fn parse_days(text: &str) -> Result<[bool; 7], HoursError> {
    let day = |name: &str| {
        let found = DAYS.iter().position(|(known, _)| *known == name);
        found.ok_or_else(|| HoursError::Day(name.to_owned()))
    };
    let mut days = [false; 7];
    for span in text.split(',') {
        let (first, last) = span.split_once('-').unwrap_or((span, span));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + 7 - first) % 7;
        (0..=length).for_each(|i| days[(first + i) % 7] = true);
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn no_wave_opens_on_sunday_at_three() {
        let hours = OpenHours::parse("Mon-Thu 09:00-16:00 Europe/London").unwrap();
        for (when, open) in [
            ("2026-11-29T03:00:00Z", false),
            ("2026-11-23T08:59:59Z", false),
            ("2026-11-23T09:00:00Z", true),
            ("2026-11-26T15:59:59Z", true),
            ("2026-11-26T16:00:00Z", false),
            ("2026-11-27T10:00:00Z", false),
            // In summer London is an hour ahead of UTC.
            ("2026-07-06T08:00:00Z", true),
            ("2026-07-06T07:59:59Z", false),
            ("2026-07-06T15:00:00Z", false),
        ] {
            assert_eq!(hours.hold(at(when)), open, "{when}");
        }
        assert_eq!(hours.next(at("2026-11-26T16:00:00Z")).as_deref(), Some("Mon 2026-11-30 09:00"));
        assert_eq!(hours.next(at("2026-11-23T08:00:00Z")).as_deref(), Some("Mon 2026-11-23 09:00"));
    }

    #[test]
    fn a_night_belongs_to_the_day_it_begins_on() {
        let hours = OpenHours::parse("Sat 22:00-04:00 America/New_York").unwrap();
        for (when, open) in [
            ("2026-11-22T03:00:00Z", true),
            ("2026-11-22T08:59:00Z", true),
            ("2026-11-22T09:00:00Z", false),
            ("2026-11-21T08:00:00Z", false),
            // The hour from one to two comes twice in the night to 1 November 2026; both are in it.
            ("2026-11-01T05:30:00Z", true),
            ("2026-11-01T06:30:00Z", true),
        ] {
            assert_eq!(hours.hold(at(when)), open, "{when}");
        }
        let all = OpenHours::parse("Fri-Mon,Wed 00:00-24:00 UTC").unwrap();
        assert_eq!(all.days, [true, false, true, false, true, true, true]);
        assert!(all.hold(at("2026-11-29T23:59:59.999Z")));
    }

    #[test]
    fn what_is_no_hours_says_why() {
        let why = |text: &str| OpenHours::parse(text).unwrap_err();
        assert_eq!(why("Mon-Thu 09:00-16:00"), HoursError::Shape);
        assert_eq!(why("Mo-Do 09:00-16:00 UTC"), HoursError::Day("Mo".into()));
        assert_eq!(why("Mon 9-16 UTC"), HoursError::Time("9".into()));
        assert_eq!(why("Mon 09:00-25:00 UTC"), HoursError::Time("25:00".into()));
        assert_eq!(why("Mon 09:00-09:00 UTC"), HoursError::Empty);
        assert_eq!(why("Mon 09:00-16:00 Europe/Lundon"), HoursError::Zone("Europe/Lundon".into()));
    }
}
