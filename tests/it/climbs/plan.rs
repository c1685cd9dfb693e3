//! A plan of 5, 20, 50 and 100% that is driven to its end, with trouble at given times of its
//! waves.
//!
//! A climb ends when the release is complete, when the plan is over its bound, or when it is rolled
//! back, which no test expects.

use crate::services::{Scene, WARM_UP_S, ms};
use crate::world::{Config, Demand, Fleet, eventually, figure, seconds};
use serde_json::Value;
use std::time::{Duration, Instant};

pub const WAVES: [&str; 4] = ["5%", "20%", "50%", "100%"];

/// What a test does to its servers, once, at a time of a wave.
pub struct Act {
    wave: usize,
    after: Duration,
    act: Box<dyn FnOnce(&Scene) + Send>,
}

/// A service, its margins, and its trouble.
pub struct Climb {
    pub what: String,
    pub bake_s: u64,
    /// At 0%, so that stable is known.
    pub learns_s: u64,
    /// More keys of each wave.
    pub wave: &'static str,
    pub watchdog: String,
    pub demand: Demand,
    /// A freeze is expected, and a person ends it once all acts are over.
    pub resumes: bool,
    pub acts: Vec<Act>,
}

#[derive(Debug)]
pub struct Climbed {
    /// Name, seconds, and the gates that held it last.
    waves: Vec<(&'static str, f64, String)>,
    pub complete: bool,
    /// The wave that it has reached.
    pub wave: &'static str,
    /// The gates that do not pass at the end, with their numbers.
    pub missing: Vec<(String, String)>,
    pub freezes: usize,
}

impl Climbed {
    #[track_caller]
    pub fn is_complete(&self) {
        assert!(self.complete, "held at {}: {:#?}", self.wave, self.missing);
    }

    /// The evidence may take longer than the plan: then this gate holds it, and nothing is rolled
    /// back.
    #[track_caller]
    pub fn is_complete_or_held_by(&self, gate: &str) {
        assert!(self.complete || self.held_by().contains(&gate), "{self:#?}");
    }

    /// The gates that hold it.
    fn held_by(&self) -> Vec<&str> {
        self.missing.iter().map(|(gate, _)| &**gate).collect()
    }
}

impl Climb {
    pub fn new(what: &str, demand: Demand) -> Climb {
        Climb {
            what: what.to_owned(),
            bake_s: 60,
            learns_s: 60,
            wave: "",
            watchdog: "margin_errors = \"1%\"\nmargin_latency_tail = \"100%\"".to_owned(),
            demand,
            resumes: false,
            acts: vec![],
        }
    }

    /// Acts once, so many seconds after the start of a wave.
    pub fn at(mut self, wave: usize, after_s: f64, act: impl FnOnce(&Scene) + Send + 'static) -> Climb {
        self.acts.push(Act { wave, after: Duration::from_secs_f64(after_s), act: Box::new(act) });
        self
    }

    /// Runs the plan; prints the time of each wave.
    pub fn run(self, stable: Fleet, new: Fleet) -> Climbed {
        self.run_with(stable, new, |config| config)
    }

    pub fn run_with(self, stable: Fleet, new: Fleet, change: impl FnOnce(Config) -> Config) -> Climbed {
        let Climb { what, bake_s, learns_s, wave, watchdog, demand, resumes, mut acts } = self;
        let scene = Scene::of(stable, new, demand, seconds(learns_s), |config| {
            let mut config = change(config);
            config.watchdog = format!("{watchdog}\n{}", config.watchdog);
            config
        });
        let waves = WAVES.map(|weight| format!("weight = \"{weight}\", bake = \"{bake_s}s\"{wave}"));
        scene.world.write(&scene.config.clone().waves(&waves.each_ref().map(String::as_str)));
        let api = scene.api();
        eventually(seconds(10), "the first wave is open", || {
            (api.release()["wave"] == WAVES[0]).then_some(())
        });
        let start = Instant::now();
        let bound = seconds(3 * bake_s * WAVES.len() as u64);
        let (mut present, mut begun) = (0, start);
        let mut climbed =
            Climbed { waves: vec![], complete: false, wave: WAVES[0], missing: vec![], freezes: 0 };
        let (mut held_by, mut looks_at) = (String::new(), start);
        while start.elapsed() < bound {
            std::thread::sleep(ms(20));
            let due = |act: &mut Act| (act.wave, act.after) <= (present, begun.elapsed());
            acts.extract_if(.., due).for_each(|act| (act.act)(&scene));
            if Instant::now() < looks_at {
                continue;
            }
            looks_at = Instant::now() + ms(250);
            let release = api.release();
            let state = release["state"].as_str().unwrap_or_default();
            if state == "rolled_back" {
                figure(&format!("{what}: ROLLED BACK at {}: {}", WAVES[present], release["trip"]["detail"]));
                panic!("{what}: rolled back at {}: {:#}", WAVES[present], release["trip"]);
            }
            if state == "frozen" {
                assert!(resumes, "{what}: frozen at {}: {:#}", WAVES[present], release["trip"]);
                if acts.is_empty() {
                    climbed.freezes += 1;
                    let resumed = api.resume("freeze", "the shared outage is over");
                    assert_eq!(resumed.status, 200, "{}", resumed.text());
                }
            }
            let reached = WAVES.iter().position(|wave| release["wave"] == *wave).unwrap_or(present);
            if reached > present || state == "complete" {
                let took = begun.elapsed().as_secs_f64();
                climbed.waves.push((WAVES[present], took, std::mem::take(&mut held_by)));
                (present, begun) = (reached, Instant::now());
                climbed.wave = WAVES[present];
                climbed.missing.clear();
            }
            if state == "complete" {
                climbed.complete = true;
                break;
            }
            climbed.missing = missing(&release);
            if !climbed.missing.is_empty() {
                held_by = climbed.held_by().join(", ");
            }
        }
        let late = api.metric("grayling_watchdog_ticks_late_total", &[]).unwrap_or_default();
        let what = format!("{what} ({late} late looks)");
        climbed.tell(&what, start.elapsed(), bound, begun.elapsed());
        climbed
    }
}

fn missing(release: &Value) -> Vec<(String, String)> {
    let gates = release["gates"].as_array().cloned().unwrap_or_default();
    let text = |gate: &Value, key: &str| gate[key].as_str().unwrap_or_default().to_owned();
    let missing = gates.iter().filter(|gate| gate["verdict"] != "pass");
    missing.map(|gate| (text(gate, "name"), text(gate, "detail"))).collect()
}

impl Climbed {
    fn tell(&self, what: &str, took: Duration, bound: Duration, in_last: Duration) {
        let waves: Vec<String> =
            self.waves.iter().map(|(wave, s, by)| format!("{wave} {s:.0} s ({by})")).collect();
        let end = match self.complete {
            true => "complete".to_owned(),
            false => format!(
                "held at {} for {} s by {}",
                self.wave,
                in_last.as_secs(),
                self.missing
                    .iter()
                    .map(|(gate, why)| format!("{gate}: {why}"))
                    .collect::<Vec<_>>()
                    .join("; ")
            ),
        };
        let freezes = if self.freezes > 0 { format!(", {} freezes", self.freezes) } else { String::new() };
        figure(&format!(
            "{what}: {}; {end} after {} s of {} s{freezes} (warm-up {WARM_UP_S} s)",
            waves.join(", "),
            took.as_secs(),
            bound.as_secs()
        ));
    }
}
