//! What opens waves, and holds them: the gates' verdicts and a person's `pause` and `promote`, through the one writer.
//!
//! Invariants: what the gates decided holds only for the stage it was judged in; every decision is a ledger entry with the numbers it was taken on; nothing is opened
//! over a trip, a freeze, a hold or another release's standing trip.

use super::apply::{Changed, Live, Origin, Refused};
use super::clock;
use super::gates::{self, Decision};
use super::ledger::Entry;
use super::scribe::Receipt;
use super::snapshot::ReleaseLive;
use super::writer::{Evidence, Writer};
use crate::config::Standings;
use crate::domain::gate::{self, Verdict};
use crate::domain::rollout::climb::{Act, Outlook};
use crate::domain::rollout::{self, Input, Memory, Opener, Pause, State, Step};
use crate::domain::wave::Wave;
use serde_json::{Value, json};
use std::sync::Arc;

/// For `actor` of what the gates decide.
const ACTOR: &str = "waves";

impl Live {
    /// A person holds the waves of a release where they are.
    pub fn pause(&self, name: &str, origin: &Origin) -> Result<Changed, Refused> {
        let mut writer = self.writer();
        let (live, memory) = self.with_waves(&writer, name)?;
        let pause = Pause {
            at_ms: clock::at_ms(),
            actor: origin.actor.clone(),
            reason: origin.reason.clone().unwrap_or_default(),
        };
        let (memory, what) = rollout::step(&memory, Input::Pause(pause));
        if what == Step::Unchanged {
            return Ok(Changed {
                state: live.state,
                ledger: writer.image.ledger.n,
                message: "it was paused before".into(),
                receipt: None,
            });
        }
        let detail = match live.wave() {
            Some(wave) => format!("paused in wave `{}`", wave.name),
            None => "paused before the first wave".to_owned(),
        };
        let message = format!("{detail}; the weight stays at {}, the watchdog goes on", live.force.weight());
        Ok(self.change(&mut writer, &live, memory, "pause", origin, detail, Value::Null, message))
    }

    /// A person opens the next wave, whatever the gates say.
    pub fn promote(&self, name: &str, origin: &Origin) -> Result<Changed, Refused> {
        let outlook = self.views().get(name).and_then(|view| view.outlook.clone());
        let mut writer = self.writer();
        let (live, memory) = self.with_waves(&writer, name)?;
        if let Some(hold) = &live.hold {
            return Err(Refused::NotNow(format!("{name} cannot be promoted: {}", hold.explain(name))));
        }
        if let Some(by) = barred_by(&writer, &live) {
            return Err(Refused::NotNow(format!(
                "{name} cannot be promoted: its `new` are servers of {by}, which is rolled back; first: grayling resume {by} --reason TEXT"
            )));
        }
        let waves = &live.release.waves;
        let (memory, what) = rollout::step(&memory, Input::Open { waves, opener: Opener::Person });
        let Step::Opened(index) = what else {
            let last = live.wave().map_or("", |w| w.name.as_str());
            return Err(Refused::NotNow(format!("no wave comes after `{last}`: there is nothing to open")));
        };
        // The door is what a person opens; it is not skipped.
        let outlook = outlook.filter(|(stage, _)| *stage == live.stage).map(|(_, outlook)| outlook);
        let skipped: Option<Vec<&gate::Gate>> = outlook
            .as_ref()
            .map(|o| o.gates.iter().filter(|g| g.verdict != Verdict::Pass && g.name != gate::OPEN).collect());
        let told = match &skipped {
            None => "no gate had been judged yet".to_owned(),
            Some(gates) if gates.is_empty() => "skips no gate".to_owned(),
            Some(gates) => {
                let each = gates.iter().map(|g| format!("{} ({}: {})", g.name, g.verdict.label(), g.detail));
                format!("skips {}", each.collect::<Vec<_>>().join(", "))
            }
        };
        let wave = &waves[index];
        let detail = format!("opens wave `{}`; {told}", wave.name);
        let paused = if memory.pause.is_some() { "; still paused" } else { "" };
        let message = format!(
            "wave `{}` is open, {} of users are in new; it {told}{paused}",
            wave.name, wave.reach.weight
        );
        let skipped: Vec<&str> = skipped.unwrap_or_default().iter().map(|g| g.name).collect();
        let mut evidence = json!({"wave": told_wave(&live, index, wave), "skipped": skipped});
        if let Some(outlook) = &outlook {
            evidence["gates"] = gates::written(outlook, Decision::Promote);
        }
        Ok(self.change(&mut writer, &live, memory, "promote", origin, detail, evidence, message))
    }

    /// What the gates of this stage decided: brought into force, and written down. `None`: the stage is over, or something stands in the way.
    pub fn advance(&self, name: &str, stage: u64, outlook: &Outlook) -> Option<Receipt> {
        let mut writer = self.writer();
        let (live, memory) = self.with_waves(&writer, name).ok()?;
        if live.stage != stage || live.hold.is_some() || barred_by(&writer, &live).is_some() {
            return None;
        }
        let waves = &live.release.waves;
        let (memory, what) = match outlook.act {
            Act::Wait => return None,
            Act::Open => rollout::step(&memory, Input::Open { waves, opener: Opener::Gates }),
            Act::Finish => rollout::step(&memory, Input::Finish { waves }),
            Act::TellHold => (memory, Step::Unchanged),
        };
        let present = live.wave().map_or("the start", |w| w.name.as_str());
        let (decision, detail, index) = match what {
            Step::Opened(index) => {
                let after = match live.wave() {
                    Some(before) => format!("`{}` has passed every gate: ", before.name),
                    None => String::new(),
                };
                (Decision::Open, format!("{after}wave `{}` opens", waves[index].name), Some(index))
            }
            Step::Finished => (
                Decision::Finish,
                format!("`{present}` has passed every gate: the plan is fulfilled"),
                live.present,
            ),
            _ if outlook.act == Act::TellHold => {
                let missing = outlook.held.as_ref().map(|h| h.missing.join("; ")).unwrap_or_default();
                (Decision::Hold, format!("held in `{present}`: {missing}"), live.present)
            }
            _ => return None,
        };
        let wave = index.and_then(|i| Some(told_wave(&live, i, waves.get(i)?)));
        let evidence = json!({"wave": wave, "gates": gates::written(outlook, decision)});
        let origin = Origin { actor: ACTOR.into(), reason: None };
        self.change(&mut writer, &live, memory, "wave", &origin, detail, evidence, String::new()).receipt
    }

    /// Where each release stands.
    pub fn standings(&self) -> Standings {
        self.writer().standings(&self.snapshot())
    }

    /// Another release's standing trip that forbids more users on the servers of this one's `new`.
    pub fn barred_by(&self, release: &ReleaseLive) -> Option<String> {
        barred_by(&self.writer(), release)
    }

    fn with_waves(&self, writer: &Writer, name: &str) -> Result<(Arc<ReleaseLive>, Memory), Refused> {
        let snapshot = self.snapshot();
        let Some(live) = snapshot.releases.iter().find(|r| r.release.name == name) else {
            return Err(Refused::UnknownRelease(name.to_owned()));
        };
        if live.release.waves.is_empty() {
            return Err(Refused::NotNow(format!(
                "the weight of {name} is set by hand: edit `weight` in [release.{name}], or give it waves"
            )));
        }
        Ok((live.clone(), writer.image.releases.get(name).cloned().unwrap_or_default()))
    }

    #[allow(clippy::too_many_arguments)]
    fn change(
        &self,
        writer: &mut Writer,
        live: &ReleaseLive,
        memory: Memory,
        kind: &str,
        origin: &Origin,
        detail: String,
        evidence: Value,
        message: String,
    ) -> Changed {
        let name = &live.release.name;
        writer.image.releases.insert(name.clone(), memory);
        let before = self.snapshot();
        let next = Arc::new(writer.reforce(&before, self.workers, |r| r == name, Evidence::Keeps));
        let after = next.releases.iter().find(|r| r.release.name == *name);
        let entry = Entry {
            weight_before: Some(live.force.weight().percent()),
            weight_after: after.map(|r| r.force.weight().percent()),
            evidence,
            ..writer.entry(kind, Some(&live.release), origin, detail)
        };
        let entry = writer.record(entry, &next);
        let (state, ledger) = (after.map_or(State::Pending, |r| r.state), entry.n);
        let receipt = self.publish(writer, next, vec![entry], None);
        Changed { state, ledger, message, receipt: Some(receipt) }
    }
}

/// What led there when it tripped goes on as it was, but gets no more users.
fn barred_by(writer: &Writer, release: &ReleaseLive) -> Option<String> {
    let name = &release.release.name;
    let mut trips = writer.image.releases.iter().filter_map(|(n, m)| Some((n, m.trip.as_ref()?)));
    let servers = release.new.spellings();
    trips
        .find(|(n, trip)| *n != name && trip.servers.iter().any(|s| servers.contains(s)))
        .map(|(n, _)| n.clone())
}

fn told_wave(live: &ReleaseLive, index: usize, wave: &Wave) -> Value {
    let segments = live.release.segments.iter().take(wave.reach.segments).map(|s| s.name.as_str());
    json!({
        "number": index + 1,
        "of": live.release.waves.len(),
        "name": wave.name,
        "weight": wave.reach.weight.percent(),
        "segments": segments.collect::<Vec<_>>(),
    })
}
