//! The steps of the demo in their order, and their texts.
//!
//! Invariants: facts about the watchdog come from the admin API, facts about users from their
//! responses. The time from the fault is measured from the instant it was switched on.
//! Every wait ends at the demo's time limit.

use super::Chaos;
use super::origin::{DemoFault, FAILS, FAULT_FAILS, FAULT_SLOWER_MS};
use super::screen::DemoScreen;
use super::stage::{DemoSetup, LATENCY_P99_MAX, ListenAddress, RELEASE};
use super::users::{self, DemoAnswers, DemoCall, DemoConnection, REQUESTS_PER_SECOND, SeenArm, Side};
use super::words::{admin_option, alias, by_latency, evidence, first_user, plain_cause, wrapped};
use crate::admin::dto::{ReleaseBody, ReleaseStateLabel, StatusBody};
use crate::cli::text::{Hue, count, milliseconds, percent, shown};
use crate::domain::share;
use crate::stats::cohort::Weight;
use crate::telemetry::random::Random;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

pub const FIRST_WEIGHT: &str = "1%";
const WEIGHTS: [&str; 3] = [FIRST_WEIGHT, "5%", "20%"];
/// Reached only if nothing is wrong.
const LAST_WEIGHT: &str = "50%";
/// How long users are on a weight before it is raised.
const STEP: Duration = Duration::from_secs(6);
/// Range of the random delay from the last raise to the fault.
const CALM_MS: (u64, u64) = (3000, 6000);
/// Time for the steps. With less time, they are shorter.
const STEPS: Duration = Duration::from_secs(24);
/// Time always left for the watchdog and the report.
const NOTICING: Duration = Duration::from_millis(2500);
/// Time for the report after the rollback.
const TELLING: Duration = Duration::from_millis(800);
/// A response in flight arrives within this time.
const IN_FLIGHT: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(40);
const REDRAW: Duration = Duration::from_millis(200);
const RELOAD: Duration = Duration::from_secs(5);
/// Connections that check users at once, and the maximum of users checked.
const ASK_AT_ONCE: usize = 8;
const ASK_MAX: usize = 400;
const WIDTH: usize = 78;

pub enum Ending {
    RolledBack,
    /// Before anything was wrong.
    FalseAlarm,
    /// Not within the time limit.
    Stayed,
    Interrupted,
    /// In the middle of a step.
    OutOfTime,
}

impl Ending {
    pub fn as_it_should_be(&self, chaos: Chaos) -> bool {
        match self {
            Ending::RolledBack => chaos != Chaos::None,
            Ending::Stayed => chaos == Chaos::None,
            Ending::FalseAlarm | Ending::Interrupted | Ending::OutOfTime => false,
        }
    }
}

pub struct DemoScript<'a> {
    stage: &'a DemoSetup,
    screen: &'a mut DemoScreen,
    chaos: Chaos,
    end: Instant,
    /// 1: normal pace; less if time is short.
    pace: f64,
    weight: &'static str,
    /// Rolled back after the fault, as expected.
    rolled_back: bool,
    drawn: Instant,
}

impl<'a> DemoScript<'a> {
    pub fn new(stage: &'a DemoSetup, screen: &'a mut DemoScreen, chaos: Chaos, end: Instant) -> Self {
        let left = end.saturating_duration_since(Instant::now()).saturating_sub(NOTICING);
        let pace = left.div_duration_f64(STEPS).min(1.0);
        let (weight, rolled_back) = (FIRST_WEIGHT, false);
        DemoScript { stage, screen, chaos, end, pace, weight, rolled_back, drawn: Instant::now() }
    }

    /// The ending of an interrupted story: the rollback may have happened before.
    pub fn broken_off(&self, ending: Ending) -> Ending {
        if self.rolled_back { Ending::RolledBack } else { ending }
    }

    pub async fn run(&mut self) -> anyhow::Result<Ending> {
        self.cast()?;
        for weight in WEIGHTS {
            if weight != FIRST_WEIGHT {
                self.raise(weight).await?;
            }
            let fault_follows = self.chaos != Chaos::None && WEIGHTS.last() == Some(&weight);
            let time = match fault_follows {
                true => Duration::from_millis(Random::default().between(CALM_MS)),
                false => STEP,
            };
            let trip = self.watch(Instant::now() + time.mul_f64(self.pace)).await?;
            self.row()?;
            if let Some(release) = trip {
                return self.false_alarm(&release);
            }
        }
        if self.chaos == Chaos::None {
            return self.stays().await;
        }
        self.breaks().await
    }

    fn cast(&mut self) -> std::io::Result<()> {
        let stage = self.stage;
        let moved = |place: &ListenAddress| match place.instead_of {
            Some(taken) => format!(" ({taken} is taken)"),
            None => String::new(),
        };
        let fails = percent(FAILS * 100.0);
        self.screen.line(format!("  folder  {}: config, state and log; it stays", stage.folder.display()))?;
        self.screen.line(format!(
            "  users   http://{}{}, {REQUESTS_PER_SECOND} requests a second",
            stage.http.address,
            moved(&stage.http)
        ))?;
        self.screen.line(format!("  admin   http://{}{}", stage.admin.address, moved(&stage.admin)))?;
        self.screen.line(format!(
            "  stable  v1 on {}; {fails} of its answers are a 500, as in life",
            stage.stable.address
        ))?;
        self.screen.line(format!("  new     v2 on {}; the same, so far\n", stage.new.address))?;
        let user = users::name(first_user());
        self.screen.line(format!("While it runs, in a browser:  http://{}\n", stage.admin.address))?;
        self.screen.line("or from another terminal:\n")?;
        self.screen.line(format!("{}  grayling status -w{}", alias(), admin_option(stage)))?;
        self.screen
            .line(format!("  curl -i -H 'x-user-id: {user}' http://{}/balance\n", stage.http.address))?;
        let head = "                   -------- stable ---------   ------------- new --------------";
        let columns = "   time  weight    requests  failed     p99    requests  failed     p99   users";
        self.screen.line(self.screen.paint(Hue::Dim, head))?;
        self.screen.line(self.screen.paint(Hue::Dim, columns))
    }

    /// A row of the table: the users' responses since the weight was raised.
    fn row_text(&self, seen: &DemoAnswers) -> String {
        let side = |side: &Side| {
            let p99 = side.p99().map_or("-".to_owned(), |p| milliseconds(p.as_secs_f64() * 1e3));
            format!("{:>12}{:>8}{p99:>8}", count(side.requests), count(side.failed))
        };
        let (stable, new) = (side(&seen.stable), side(&seen.new));
        format!("{}{:>8}{stable}{new}{:>8}", self.screen.time(), self.weight, count(seen.new.users()))
    }

    fn row(&mut self) -> std::io::Result<()> {
        let text = self.row_text(&self.stage.users.seen());
        self.screen.line(text)
    }

    fn draw(&mut self) -> std::io::Result<()> {
        if self.drawn.elapsed() < REDRAW {
            return Ok(());
        }
        self.drawn = Instant::now();
        let text = self.row_text(&self.stage.users.seen());
        self.screen.draw(&text)
    }

    async fn release(&self) -> anyhow::Result<ReleaseBody> {
        let status: StatusBody = self.stage.client.get("/api/v1/status").await?;
        let found = status.releases.into_iter().find(|r| r.name == RELEASE);
        found.ok_or_else(|| anyhow::anyhow!("the status names no release `{RELEASE}`"))
    }

    async fn revision(&self) -> anyhow::Result<u64> {
        let status: StatusBody = self.stage.client.get("/api/v1/status").await?;
        Ok(status.config.revision)
    }

    /// Watches until `until`; returns early if `new` is rolled back.
    async fn watch(&mut self, until: Instant) -> anyhow::Result<Option<ReleaseBody>> {
        let until = until.min(self.end);
        loop {
            let release = self.release().await?;
            if release.state == ReleaseStateLabel::RolledBack {
                return Ok(Some(release));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            self.draw()?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Edits the file, and waits until the status shows it in force.
    async fn raise(&mut self, weight: &'static str) -> anyhow::Result<()> {
        let saved = Instant::now();
        self.stage.edit_weight(weight)?;
        let wanted = Weight::parse(weight).map(Weight::percent)?;
        while self.release().await?.weight_configured != wanted {
            anyhow::ensure!(saved.elapsed() < RELOAD, "weight = \"{weight}\" was saved and is not in force");
            tokio::time::sleep(LOOK / 10).await;
        }
        self.weight = weight;
        self.stage.users.next_step();
        let took = milliseconds(saved.elapsed().as_secs_f64() * 1e3);
        self.screen.event(None, &format!("saved weight = \"{weight}\"; in force after {took}"))?;
        Ok(())
    }

    async fn breaks(&mut self) -> anyhow::Result<Ending> {
        let (fault, told) = match self.chaos {
            Chaos::Errors => {
                let share = percent(FAULT_FAILS * 100.0);
                (DemoFault::Errors, format!("v2 starts to answer 500 to {share} of its requests"))
            }
            Chaos::Latency | Chaos::None => {
                let (low, high) = FAULT_SLOWER_MS;
                (DemoFault::Latency, format!("v2 becomes slow: {low} to {high} ms more for each answer"))
            }
        };
        let onset = Instant::now();
        self.stage.users.fault_began(onset);
        self.stage.new.break_with(fault);
        self.screen.event(Some(Hue::Yellow), &format!("FAULT: {told}"))?;
        let Some(release) = self.watch(self.end - TELLING).await? else {
            return self.too_late(onset).await;
        };
        let announced = Instant::now();
        self.rolled_back = true;
        self.stage.users.rollback_announced(announced);
        let took = announced - onset;
        self.screen
            .event(Some(Hue::Red), "ROLLED BACK: v2 is at 0%; the watchdog did it, nobody was asked")?;
        self.screen.line("")?;
        self.verdict(&release, Some(took))?;
        self.aftermath().await?;
        Ok(Ending::RolledBack)
    }

    /// Cause, evidence and time, from the product's own status.
    fn verdict(&mut self, release: &ReleaseBody, took: Option<Duration>) -> std::io::Result<()> {
        let Some(trip) = &release.trip else { return Ok(()) };
        let evidence = evidence(trip);
        self.fact("cause", &format!("{}: {}", shown(&trip.cause), plain_cause(trip)))?;
        for (i, line) in evidence.iter().enumerate() {
            self.fact(if i == 0 { "evidence" } else { "" }, line)?;
        }
        if let Some(took) = took {
            let mut told = format!("{} after the fault", milliseconds(took.as_secs_f64() * 1e3));
            // The product dates an onset by failures; slowness alone has none.
            if let Some(ms) = trip.onset_to_trip_ms.filter(|_| !by_latency(trip)) {
                let _ = write!(told, "; grayling's own guess by failures: {}", milliseconds(ms as f64));
            }
            self.fact("time", &told)?;
        }
        Ok(())
    }

    /// The harm to users, their new arm, and that saving the file does not undo the rollback.
    async fn aftermath(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(IN_FLIGHT.mul_f64(self.pace.max(0.5))).await;
        let harm = self.stage.users.seen().harm;
        let (requests, hurt) = (count(harm.requests), count(harm.users.len() as u64));
        let mut told = format!("in all, {requests} requests of {hurt} users failed in new");
        if self.chaos == Chaos::Latency {
            let _ = write!(told, " or took over {} ms", LATENCY_P99_MAX.as_millis());
        }
        self.fact("harm", &told)?;

        let hurt: Vec<u64> = harm.users.into_iter().take(ASK_MAX).collect();
        let stable = self.ask_after(&hurt).await;
        let (all, each) = (count(hurt.len() as u64), count(stable));
        self.fact("now", &format!("the next request of each of them: {each} of {all} served by stable"))?;

        let before = self.revision().await?;
        self.stage.save_again()?;
        let saved = Instant::now();
        while self.revision().await? == before {
            anyhow::ensure!(saved.elapsed() < RELOAD, "the file was saved again, and was not read");
            tokio::time::sleep(LOOK).await;
        }
        let release = self.release().await?;
        let (configured, effective) = (percent(release.weight_configured), percent(release.weight));
        self.fact(
            "file",
            &format!("grayling.toml says {configured}, and was saved again just now; in force: {effective}"),
        )?;
        self.fact("", "it stays so over saves and restarts, until a person resumes it")?;
        let seen = self.stage.users.seen();
        let (stable, new) = (count(seen.after_stable), count(seen.after_new));
        self.fact("since", &format!("{stable} requests went to stable, {new} to new"))?;
        let entries: Vec<Value> = self.stage.client.get("/api/v1/ledger?since=0").await?;
        let number = entries.iter().find(|e| e["kind"] == "trip" || e["kind"] == "rollback");
        let number =
            number.and_then(|e| e["n"].as_u64()).map(|n| format!("entry {n} of ")).unwrap_or_default();
        self.fact("record", &format!("{number}state/ledger.jsonl, with every number it was decided on"))?;
        Ok(())
    }

    /// How many of these users get stable with their next request.
    async fn ask_after(&self, users: &[u64]) -> u64 {
        let proxy = self.stage.http.address;
        let share = users.len().div_ceil(ASK_AT_ONCE).max(1);
        let asking: Vec<_> = users
            .chunks(share)
            .map(|users| {
                let users = users.to_vec();
                tokio::spawn(async move {
                    let mut connection = DemoConnection::new(proxy);
                    let mut stable = 0;
                    for user in users {
                        let answer = connection.ask(user, DemoCall::Balance).await;
                        stable += u64::from(answer.is_some_and(|a| a.arm == SeenArm::Stable));
                    }
                    stable
                })
            })
            .collect();
        let mut stable = 0;
        for asked in asking {
            stable += asked.await.unwrap_or(0);
        }
        stable
    }

    async fn stays(&mut self) -> anyhow::Result<Ending> {
        self.raise(LAST_WEIGHT).await?;
        let trip = self.watch(Instant::now() + STEP.mul_f64(self.pace)).await?;
        self.row()?;
        if let Some(release) = trip {
            return self.false_alarm(&release);
        }
        let release = self.release().await?;
        self.screen
            .event(Some(Hue::Green), "nothing was wrong with new, and nothing was done: it is at 50%")?;
        self.screen.line("")?;
        self.so_far(&release)?;
        self.fact("next", "100% would be the same edit. To see a bad one: grayling demo")?;
        Ok(Ending::Stayed)
    }

    fn false_alarm(&mut self, release: &ReleaseBody) -> anyhow::Result<Ending> {
        self.screen.event(Some(Hue::Red), "ROLLED BACK, though nothing was wrong: a false alarm")?;
        self.screen.line("")?;
        self.verdict(release, None)?;
        Ok(Ending::FalseAlarm)
    }

    async fn too_late(&mut self, onset: Instant) -> anyhow::Result<Ending> {
        self.row()?;
        let waited = onset.elapsed().as_secs_f64();
        let told = format!("NOT rolled back within {waited:.1} s of the fault. What was seen:");
        self.screen.event(Some(Hue::Red), &told)?;
        self.screen.line("")?;
        let release = self.release().await?;
        self.so_far(&release)?;
        self.fact("advice", "give it more time (--seconds), or look why this machine is so busy")?;
        Ok(Ending::Stayed)
    }

    /// Both arms and the watchdog, without a trip.
    fn so_far(&mut self, release: &ReleaseBody) -> std::io::Result<()> {
        let (new, stable) = (&release.arms.new, &release.arms.stable);
        let told = format!(
            "new {} of {} failed, stable {} of {}, in the whole run",
            count(new.failures),
            count(new.requests),
            count(stable.failures),
            count(stable.requests)
        );
        self.fact("evidence", &told)?;
        let strongest = release.watchdog.signals.iter().filter_map(|s| s.evidence_ratio).fold(0.0, f64::max);
        let state = release.watchdog.state.words();
        self.fact(
            "watchdog",
            &format!("{state}; its strongest signal is at {} of a trip", share::progress(strongest)),
        )
    }

    /// `  name      text`, wrapped.
    fn fact(&mut self, name: &str, text: &str) -> std::io::Result<()> {
        let name = match name {
            "" => " ".repeat(12),
            name => self.screen.paint(Hue::Bold, &format!("  {name:<10}")),
        };
        let mut lines = wrapped(text, WIDTH - 12).into_iter();
        self.screen.line(format!("{name}{}", lines.next().unwrap_or_default()))?;
        for line in lines {
            self.screen.line(format!("{:12}{line}", ""))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_should_happen_is_a_success() {
        assert!(Ending::RolledBack.as_it_should_be(Chaos::Errors));
        assert!(Ending::Stayed.as_it_should_be(Chaos::None));
        for chaos in [Chaos::Errors, Chaos::Latency, Chaos::None] {
            assert!(!Ending::FalseAlarm.as_it_should_be(chaos));
            assert!(!Ending::Interrupted.as_it_should_be(chaos));
        }
        assert!(!Ending::RolledBack.as_it_should_be(Chaos::None));
        assert!(!Ending::Stayed.as_it_should_be(Chaos::Errors));
    }
}
