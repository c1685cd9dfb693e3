//! Resource use of the two versions (processor, memory, a database), compared with ceilings and
//! with each other: readings in, a verdict out.
//!
//! A single reading is noise: a garbage collection, a scrape in a busy second.
//! Only [`ResourceLimits::in_a_row`] readings that agree have a result: all over a limit is *over*,
//! all within is *within*, and any other combination, including a failed reading, is *unclear*.
//! So an unreachable server is never healthy, and never a trip.
//!
//! Invariants: pure and total, so that a reader of the ledger recomputes the same verdict. A limit
//! exceeded in both arms is not blamed on `new`. If the hash does not put users into both arms
//! there is no control: stable is ignored, and only ceilings apply.

pub(crate) mod reading;

use std::sync::Arc;

/// The action when a limit is exceeded; waves hold in either case.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ResourceAction {
    #[default]
    Hold,
    /// The watchdog takes `new` out.
    Trip,
}

impl ResourceAction {
    pub fn label(self) -> &'static str {
        match self {
            ResourceAction::Hold => "hold",
            ResourceAction::Trip => "trip",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ResourceLimits {
    /// For the highest of the servers of `new`.
    pub ceiling: Option<f64>,
    /// The most that `new` may use as a multiple of stable, on an average of their servers.
    pub times_stable_max: Option<f64>,
    /// Smaller readings count as this much, so that differences below it are ignored.
    pub floor: f64,
    /// The number of readings that must agree; at least one.
    pub in_a_row: usize,
}

/// The use of one arm, over its servers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ArmUse {
    pub mean: f64,
    pub highest: f64,
}

impl ArmUse {
    /// `None` without a server.
    pub fn of(servers: &[f64]) -> Option<ArmUse> {
        let mean = servers.iter().sum::<f64>() / servers.len() as f64;
        let highest = servers.iter().copied().max_by(f64::total_cmp)?;
        Some(ArmUse { mean, highest }).filter(ArmUse::is_a_number)
    }

    fn is_a_number(&self) -> bool {
        self.mean.is_finite() && self.highest.is_finite()
    }
}

/// Both arms at one time; `None`: unreadable.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct ResourceReading {
    pub new: Option<ArmUse>,
    pub stable: Option<ArmUse>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResourceResult {
    Within,
    Over(Limit),
    /// Both arms are over the ceiling: not blamed on `new`.
    Both,
    /// Too few readings that agree, or none.
    Unclear,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    Ceiling,
    TimesStable,
}

/// All data that a verdict depends on.
#[derive(Clone, PartialEq, Debug)]
pub struct ResourceInputs {
    pub name: Arc<str>,
    pub on: ResourceAction,
    pub limits: ResourceLimits,
    /// Does the hash put users into both arms?
    pub controlled: bool,
    /// The last readings, of which [`ResourceLimits::in_a_row`] count; the newest last.
    /// Empty: none is recent.
    pub readings: Vec<ResourceReading>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Within,
    Over,
    Both,
    Unknown,
}

impl ResourceInputs {
    pub fn result(&self) -> ResourceResult {
        let needed = self.limits.in_a_row.max(1);
        let Some(from) = self.readings.len().checked_sub(needed) else { return ResourceResult::Unclear };
        let all = |stands: Stands, how: fn(&ResourceInputs, &ResourceReading) -> Stands| {
            self.readings[from..].iter().all(|reading| how(self, reading) == stands)
        };
        match () {
            () if all(Stands::Over, ResourceInputs::by_ceiling) => ResourceResult::Over(Limit::Ceiling),
            () if all(Stands::Over, ResourceInputs::by_stable) => ResourceResult::Over(Limit::TimesStable),
            () if all(Stands::Both, ResourceInputs::by_ceiling) => ResourceResult::Both,
            () if all(Stands::Within, ResourceInputs::by_ceiling)
                && all(Stands::Within, ResourceInputs::by_stable) =>
            {
                ResourceResult::Within
            }
            () => ResourceResult::Unclear,
        }
    }

    /// Is it a reason to take `new` out?
    pub fn trips(&self) -> bool {
        self.on == ResourceAction::Trip && matches!(self.result(), ResourceResult::Over(_))
    }

    /// The number of the newest readings in a row that exceed one of the limits; at most
    /// [`ResourceLimits::in_a_row`].
    pub fn over(&self) -> usize {
        let row = |how: fn(&ResourceInputs, &ResourceReading) -> Stands| {
            self.readings.iter().rev().take_while(|r| how(self, r) == Stands::Over).count()
        };
        row(ResourceInputs::by_ceiling).max(row(ResourceInputs::by_stable)).min(self.limits.in_a_row.max(1))
    }

    fn by_ceiling(&self, of: &ResourceReading) -> Stands {
        let Some(ceiling) = self.limits.ceiling else { return Stands::Within };
        let over = |used: Option<ArmUse>| used.filter(ArmUse::is_a_number).map(|used| used.highest > ceiling);
        match (over(of.new), over(of.stable), self.controlled) {
            (None, ..) => Stands::Unknown,
            (Some(false), ..) => Stands::Within,
            (Some(true), Some(false), _) | (Some(true), _, false) => Stands::Over,
            (Some(true), Some(true), true) => Stands::Both,
            (Some(true), None, true) => Stands::Unknown,
        }
    }

    fn by_stable(&self, of: &ResourceReading) -> Stands {
        let Some(times) = self.limits.times_stable_max.filter(|_| self.controlled) else {
            return Stands::Within;
        };
        let known =
            |used: Option<ArmUse>| used.filter(ArmUse::is_a_number).map(|u| u.mean.max(self.limits.floor));
        match (known(of.new), known(of.stable)) {
            (Some(new), Some(stable)) if new > times * stable => Stands::Over,
            (Some(_), Some(_)) => Stands::Within,
            _ => Stands::Unknown,
        }
    }

    /// A description for people, with the numbers.
    pub fn detail(&self) -> String {
        let ResourceLimits { ceiling, times_stable_max, in_a_row, .. } = self.limits;
        let newest = self.readings.last().copied().unwrap_or_default();
        let shown = |used: Option<ArmUse>| match used {
            Some(used) if used.mean != used.highest => {
                format!("{} (highest {})", short(used.mean), short(used.highest))
            }
            Some(used) => short(used.mean),
            None => "unknown".to_owned(),
        };
        let mut limits = vec![];
        limits.extend(ceiling.map(|ceiling| format!("at most {}", short(ceiling))));
        limits.extend(times_stable_max.map(|times| match self.controlled {
            true => format!("at most {} times stable", short(times)),
            false => "no control: ceiling only".to_owned(),
        }));
        let told = match self.result() {
            ResourceResult::Over(_) => format!("over it in {in_a_row} readings in a row"),
            ResourceResult::Both => "both versions are over it: not blamed on new".to_owned(),
            ResourceResult::Within => format!("within it in {in_a_row} readings in a row"),
            ResourceResult::Unclear if self.readings.is_empty() => "no reading yet".to_owned(),
            ResourceResult::Unclear => format!("{} of {in_a_row} readings in a row are over it", self.over()),
        };
        let (name, limits) = (&self.name, limits.join(", "));
        format!("{name}: new {}, stable {}; {limits}; {told}", shown(newest.new), shown(newest.stable))
    }
}

/// Three or four digits; millions as `1.53 M`, then G and T.
pub fn short(value: f64) -> String {
    let (size, unit) = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1.0, "")]
        .into_iter()
        .find(|(size, _)| value.abs() >= *size)
        .unwrap_or((1.0, ""));
    let value = value / size;
    if value == 0.0 || !value.is_finite() {
        return format!("{value}{unit}");
    }
    let decimals = (2 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn used(mean: f64) -> Option<ArmUse> {
        ArmUse::of(&[mean])
    }

    pub(crate) fn inputs(readings: &[(f64, f64)]) -> ResourceInputs {
        let reading = |(new, stable): &(f64, f64)| ResourceReading { new: used(*new), stable: used(*stable) };
        ResourceInputs {
            name: "cpu".into(),
            on: ResourceAction::Trip,
            limits: ResourceLimits {
                ceiling: Some(10.0),
                times_stable_max: Some(2.0),
                floor: 0.5,
                in_a_row: 3,
            },
            controlled: true,
            readings: readings.iter().map(reading).collect(),
        }
    }

    #[test]
    fn only_readings_that_all_say_the_same_say_anything() {
        let nan = f64::NAN;
        let table: &[(&[(f64, f64)], ResourceResult)] = &[
            (&[], ResourceResult::Unclear),
            (&[(1.0, 1.0); 2], ResourceResult::Unclear),
            (&[(1.0, 1.0); 3], ResourceResult::Within),
            (&[(11.0, 9.0); 3], ResourceResult::Over(Limit::Ceiling)),
            (&[(3.0, 1.0); 3], ResourceResult::Over(Limit::TimesStable)),
            // One spike, at either end.
            (&[(3.0, 1.0), (1.0, 1.0), (1.0, 1.0)], ResourceResult::Unclear),
            (&[(1.0, 1.0), (1.0, 1.0), (30.0, 1.0)], ResourceResult::Unclear),
            // Older ones are dropped.
            (&[(3.0, 1.0), (1.0, 1.0), (1.0, 1.0), (1.0, 1.0)], ResourceResult::Within),
            // A failed reading is neither.
            (&[(1.0, 1.0), (nan, 1.0), (1.0, 1.0)], ResourceResult::Unclear),
            (&[(11.0, 1.0), (11.0, 1.0), (nan, 1.0)], ResourceResult::Unclear),
            (&[(11.0, nan); 3], ResourceResult::Unclear),
            (&[(11.0, 11.0); 3], ResourceResult::Both),
            // Below the floor there is no difference.
            (&[(0.4, 0.01); 3], ResourceResult::Within),
            (&[(1.0, 0.0); 3], ResourceResult::Within),
            (&[(1.1, 0.0); 3], ResourceResult::Over(Limit::TimesStable)),
        ];
        for (readings, say) in table {
            assert_eq!(inputs(readings).result(), *say, "{readings:?}");
        }
        assert_eq!(inputs(&[(1.0, 1.0), (3.0, 1.0), (3.0, 1.0)]).over(), 2);
    }

    #[test]
    fn without_a_control_only_the_ceiling_holds_and_stable_is_not_asked_about() {
        let of = |readings| ResourceInputs { controlled: false, ..inputs(readings) }.result();
        assert_eq!(of(&[(3.0, 1.0); 3]), ResourceResult::Within);
        assert_eq!(of(&[(3.0, f64::NAN); 3]), ResourceResult::Within);
        assert_eq!(of(&[(11.0, f64::NAN); 3]), ResourceResult::Over(Limit::Ceiling));
        assert_eq!(of(&[(11.0, 11.0); 3]), ResourceResult::Over(Limit::Ceiling));
        assert_eq!(of(&[(f64::NAN, 1.0); 3]), ResourceResult::Unclear);
    }

    #[test]
    fn the_comparison_is_of_averages_and_the_ceiling_of_the_highest() {
        let of = |new: &[f64], stable: &[f64]| {
            let reading = ResourceReading { new: ArmUse::of(new), stable: ArmUse::of(stable) };
            ResourceInputs { readings: vec![reading; 3], ..inputs(&[]) }.result()
        };
        assert_eq!(of(&[1.0, 11.0], &[6.0, 6.0]), ResourceResult::Over(Limit::Ceiling));
        assert_eq!(of(&[1.0, 5.0], &[2.0, 2.0]), ResourceResult::Within);
        assert_eq!(of(&[], &[2.0]), ResourceResult::Unclear);
    }

    #[test]
    fn numbers_are_told_short() {
        let told = [0.0, 0.001_234, 0.5, 1.5, 12.0, 999.6, 123_456.0, 1.53e9, -2e6].map(short);
        assert_eq!(told, ["0", "0.00123", "0.5", "1.5", "12", "1000", "123456", "1.53 G", "-2 M"]);
        let told = inputs(&[(3.0, 1.0); 3]).detail();
        assert_eq!(
            told,
            "cpu: new 3, stable 1; at most 10, at most 2 times stable; over it in 3 readings in a row"
        );
    }

    proptest! {
        #[test]
        fn forged_numbers_say_something_and_never_panic(
            ceiling: Option<f64>, times: Option<f64>, floor: f64, in_a_row in 0usize..9, controlled: bool,
            readings in proptest::collection::vec((any::<f64>(), any::<f64>(), any::<f64>()), 0..9),
        ) {
            let limits = ResourceLimits { ceiling, times_stable_max: times, floor, in_a_row };
            let reading = |(a, b, c): &(f64, f64, f64)| ResourceReading {
                new: Some(ArmUse { mean: *a, highest: *b }),
                stable: Some(ArmUse { mean: *c, highest: *c }),
            };
            let readings = readings.iter().map(reading).collect();
            let of = ResourceInputs { name: "x".into(), on: ResourceAction::Trip, limits, controlled, readings };
            prop_assert_eq!(of.result(), of.result());
            prop_assert!(of.over() <= in_a_row.max(1) && !of.detail().is_empty());
        }
    }
}
