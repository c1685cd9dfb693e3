//! The verbs of a person on a release: `pause`, `promote`, `resume`.
//! (`rollback` is a trip, in [`crate::runtime::shared`].)
//!
//! A verb refers to the state that its caller saw.
//! `promote` names the wave to open and `resume` the hold to end, so a command that is sent twice,
//! or by two people at once, acts once.
//! If the state in force differs from the named one, the verb is refused with the state in force.
//!
//! Invariants: every verb passes the one writer, whose lock makes the check and the change atomic.
//! The ledger entry names every gate that a verb skipped or overruled.

use super::waves::{barred_by, wave_record};
use crate::domain::gates::{self, Gate, GateVerdict, WaveEvidence};
use crate::domain::maintenance::Maintenance;
use crate::domain::rollout::wave_controller::{WaveAction, WaveStatus, WaveTime};
use crate::domain::rollout::{
    self, Hold, HoldKind, ManualHold, Opener, Pause, ReleaseState, RolloutInput, RolloutState, RolloutStep,
};
use crate::domain::verdict::StandingFinding;
use crate::domain::wave::{Strategy, Wave};
use crate::runtime::builder::{EvidenceEffect, SnapshotBuilder};
use crate::runtime::gate_inputs::{promotion, wave_evidence};
use crate::runtime::shared::{ChangeOrigin, ChangeRefused, ChangeResult, ReleaseView, SharedState};
use crate::runtime::snapshot::ReleaseSnapshot;
use crate::stats::cohort::Weight;
use crate::store::audit::gate_evidence::{self, GateDecision};
use crate::store::ledger::LedgerEntry;
use crate::telemetry::clock;
use serde_json::{Value, json};
use std::sync::{Arc, PoisonError};

/// The arguments of a `promote`.
#[derive(Clone, Debug, Default)]
pub struct PromoteCommand {
    /// The wave to open; `None`: the reply has the state and the command to type.
    pub wave: Option<String>,
    /// Gates that may fail.
    pub despite: Vec<String>,
}

/// The arguments of a `resume`.
#[derive(Clone, Debug, Default)]
pub struct ResumeCommand {
    /// `None`: the one hold of the release, if that is no rollback.
    pub ends: Option<HoldKind>,
    /// The wave to continue in after a rollback; `None`: the first one.
    pub at: Option<String>,
    /// Ends this finding instead of a hold.
    pub accepts: Option<StandingFinding>,
}

impl SharedState {
    /// Pauses the waves of a release, for a person.
    pub fn pause(&self, name: &str, origin: &ChangeOrigin) -> Result<ChangeResult, ChangeRefused> {
        let mut writer = self.writer();
        let (running, release_state) = self.with_waves(&writer, name)?;
        if let Some(pause) = &release_state.pause {
            return Ok(ChangeResult {
                state: running.state,
                ledger: pause.entry,
                message: "it was paused before".into(),
                commit: None,
            });
        }
        if matches!(running.state, RolloutState::RolledBack | RolloutState::Frozen | RolloutState::Complete) {
            let stands = match &running.hold {
                Some(hold) => hold.explain(name),
                None => format!("it is complete, {} of users are in new", running.effective.weight()),
            };
            return Err(ChangeRefused::NotNow(format!("{name} has no waves to pause: {stands}")));
        }
        let pause = Pause {
            at_ms: clock::at_ms(),
            actor: origin.actor.clone(),
            reason: origin.reason.clone().unwrap_or_default(),
            entry: 0,
        };
        let (release_state, _) = rollout::step(&release_state, RolloutInput::Pause(pause));
        let detail = match running.wave() {
            Some(wave) => format!("paused in wave `{}`", wave.name),
            None => "paused before the first wave".to_owned(),
        };
        let message =
            format!("{detail}; the weight stays at {}, the watchdog goes on", running.effective.weight());
        Ok(self.change(&mut writer, &running, release_state, "pause", origin, detail, Value::Null, message))
    }

    /// Opens the next wave, which the person must name.
    /// A waiting gate is skipped; a failing gate must be named.
    pub fn promote(
        &self,
        name: &str,
        origin: &ChangeOrigin,
        promotion: &PromoteCommand,
    ) -> Result<ChangeResult, ChangeRefused> {
        let shown = self.shown_now(name);
        let mut writer = self.writer();
        let (running, release_state) = self.with_waves(&writer, name)?;
        let waves = &running.release.waves;
        let Some(wave) = &promotion.wave else {
            return Err(ChangeRefused::Unclear(format!(
                "a promote names the wave to open, which `wave` gives. {}",
                stands(&running)
            )));
        };
        let index = find_wave(waves, wave).ok_or_else(|| no_wave(name, wave, waves))?;
        let wave = &waves[index];
        for gate in &promotion.despite {
            let critical = &running.release.critical;
            if !gates::is_known(gate, critical.iter().map(String::as_str)) {
                let of_routes = match &critical[..] {
                    [] => String::new(),
                    routes => format!(
                        "; of its critical routes ({}) errors, latency and latency_tail, as in `errors:{}`",
                        routes.join(", "),
                        routes[0]
                    ),
                };
                let message =
                    format!("no gate is called `{gate}`: one of {}{of_routes}", gates::NAMES.join(", "));
                return Err(ChangeRefused::Unclear(message));
            }
        }
        if let Some(hold) = &running.hold {
            return Err(ChangeRefused::NotNow(format!("{name} cannot be promoted: {}", hold.explain(name))));
        }
        if running.present == Some(index) {
            return Ok(ChangeResult {
                state: running.state,
                ledger: release_state.progress.as_ref().map_or(0, |p| p.entry),
                message: format!(
                    "wave `{}` is open already, {} of users are in new; nothing changes",
                    wave.name, wave.until_complete.weight
                ),
                commit: None,
            });
        }
        if index != running.present.map_or(0, |i| i + 1) {
            let message = format!("`{}` is not the next wave of {name}. {}", wave.name, stands(&running));
            return Err(ChangeRefused::NotNow(message));
        }
        if let Some((of, _)) = &running.maintenance {
            return Err(ChangeRefused::NotNow(format!(
                "{name} cannot be promoted: waves hold during the maintenance {}; to end it first: {}",
                of.change,
                Maintenance::end_command(name)
            )));
        }
        if let Some(by) = barred_by(&writer, &running) {
            return Err(ChangeRefused::NotNow(format!(
                "{name} cannot be promoted: its `new` are servers of {by}, which is rolled back; first: {}",
                HoldKind::Rollback.command(&by)
            )));
        }
        let shown =
            shown.filter(|(stage, _)| *stage == running.stage).map(|(_, wave_evidence)| wave_evidence);
        let wave_status = self.outlook_now(&running, shown);
        let against: Vec<(&str, String)> = against(&wave_status)
            .into_iter()
            .filter(|(gate, _)| !promotion.despite.iter().any(|d| d == gate))
            .collect();
        if !against.is_empty() {
            let each = against.iter().map(|(gate, detail)| format!("{gate} ({detail})"));
            let despite = promotion.despite.iter().map(String::as_str).chain(against.iter().map(|(g, _)| *g));
            let despite: String = despite.map(|gate| format!(" --despite {gate}")).collect();
            return Err(ChangeRefused::NotNow(format!(
                "wave `{}` is not opened: these gates speak against it: {}. To open it all the same: \
                 grayling promote {name} --to {}{despite} --reason TEXT",
                wave.name,
                each.collect::<Vec<_>>().join("; "),
                quoted(&wave.name),
            )));
        }
        let (release_state, what) =
            rollout::step(&release_state, RolloutInput::Open { waves, opener: Opener::Person });
        if what != RolloutStep::Opened(index) {
            return Err(ChangeRefused::NotNow(format!("{name} cannot be promoted. {}", stands(&running))));
        }
        let skipped = skipped(&wave_status);
        let each = skipped.iter().map(|g| format!("{} ({}: {})", g.name, g.verdict.label(), g.detail));
        let summary = match each.collect::<Vec<_>>() {
            gates if gates.is_empty() => "it skips no gate".to_owned(),
            gates => format!("it skips {}", gates.join(", ")),
        };
        let detail = format!("opens wave `{}`; {summary}", wave.name);
        let paused = if release_state.pause.is_some() { "; still paused" } else { "" };
        let message = format!(
            "wave `{}` is open, {} of users are in new; {summary}{paused}",
            wave.name, wave.until_complete.weight
        );
        let skipped: Vec<&str> = skipped.iter().map(|g| &*g.name).collect();
        let evidence = json!({
            "wave": wave_record(&running, index, wave),
            "skipped": skipped,
            "despite": promotion.despite,
            "gates": gate_evidence::written(&wave_status, GateDecision::Promote),
        });
        Ok(self.change(&mut writer, &running, release_state, "promote", origin, detail, evidence, message))
    }

    /// The current wave's evidence so far, and its stage; `None`: no wave is open.
    fn shown_now(&self, name: &str) -> Option<(u64, WaveEvidence)> {
        let snapshot = self.snapshot();
        let release = snapshot.releases.iter().find(|r| r.release.name == name)?;
        let wave = release.wave()?;
        let (views, nothing) = (self.views(), ReleaseView::default());
        let view = views.get(name).unwrap_or(&nothing);
        Some((release.stage, wave_evidence(release, wave, view, clock::now())))
    }

    /// The gates at this moment, even if none were judged since the stage began.
    fn outlook_now(&self, running: &ReleaseSnapshot, shown: Option<WaveEvidence>) -> WaveStatus {
        let nothing =
            || running.wave().map(|wave| wave_evidence(running, wave, &ReleaseView::default(), clock::now()));
        let input = gates::GateInput {
            wave_evidence: shown.or_else(nothing),
            promotion: promotion(running, clock::at_ms()),
            durable: self.state_error().is_none(),
            barred_by: None,
        };
        let gates = gates::judge(&input);
        WaveStatus {
            spent: WaveTime::default(),
            gates,
            input: Some(input),
            held: None,
            act: WaveAction::Wait,
        }
    }

    /// Ends one hold of a release, for a person.
    /// Unless that is a pause, new evidence begins.
    pub fn resume(
        &self,
        name: &str,
        origin: &ChangeOrigin,
        resumption: &ResumeCommand,
    ) -> Result<ChangeResult, ChangeRefused> {
        if let Some(finding) = resumption.accepts {
            return self.accept(name, origin, finding, resumption.at.as_deref());
        }
        let mut writer = self.writer();
        let before = self.snapshot();
        let running = before.releases.iter().find(|r| r.release.name == name);
        let Some(release_state) = writer.image.releases.get(name).cloned() else {
            return Err(ChangeRefused::UnknownRelease(name.to_owned()));
        };
        if let Some(running) = running.filter(|r| r.release.attempt < release_state.attempt) {
            let why = Hold::AttemptOld { seen: release_state.attempt }.explain(name);
            return Err(ChangeRefused::NotNow(format!(
                "attempt {} cannot be resumed: {why}",
                running.release.attempt
            )));
        }
        let ends = which(name, &release_state, resumption.ends, &writer)?;
        if ends == HoldKind::Hold && writer.stop_file {
            return Err(ChangeRefused::NotNow(format!(
                "{name} stays held: {}",
                Hold::StopFile.explain(name)
            )));
        }
        let by_hand = running.map_or(Weight::ZERO, |running| match running.release.strategy() {
            Strategy::ByHand(exposure) => exposure.weight,
            Strategy::Waves(_) => Weight::ZERO,
        });
        if ends == HoldKind::Hold
            && release_state.awaits == Some(ManualHold::NewVersion)
            && by_hand > Weight::ZERO
        {
            return Err(ChangeRefused::NotNow(format!(
                "{name} stays at 0%: the file's {by_hand} stood there for the version before; write another weight into the file"
            )));
        }
        let waves = running.map_or(&[][..], |running| &running.release.waves);
        let at = resumed_wave(name, &release_state, ends, waves, resumption.at.as_deref())?;
        let (cleared, what) = rollout::step(&release_state, RolloutInput::Resume { ends, at });
        let evidence = match what {
            RolloutStep::Unpaused => EvidenceEffect::Keeps,
            _ => EvidenceEffect::StartsAfresh,
        };
        let left = cleared.ends();
        match running {
            // A release that the file no longer names is forgotten: its servers are free again.
            None => writer.image.releases.remove(name),
            Some(_) => writer.image.releases.insert(name.to_owned(), cleared),
        };
        if writer.image.releases.values().all(|m| m.awaits.is_none()) {
            writer.image.hold_strangers = false;
            *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        let next = Arc::new(writer.reforce(&before, self.workers, |r| r == name, evidence));
        let after = next.releases.iter().find(|r| r.release.name == name);
        let weight = |r: Option<&Arc<ReleaseSnapshot>>| r.map(|r| r.effective.weight().percent());
        let detail = match what {
            RolloutStep::Unpaused => "the pause is over, the waves go on".to_owned(),
            _ => format!("the {} is over; evidence starts afresh", ends.label()),
        };
        let entry = LedgerEntry {
            weight_before: weight(running),
            weight_after: weight(after),
            evidence: json!({"ends": ends.label()}),
            ..writer.entry("resume", running.map(|r| &*r.release), origin, detail)
        };
        let entry = writer.record(LedgerEntry { release: Some(name.to_owned()), ..entry }, &next);
        let ledger = entry.n;
        let state = after.map_or(RolloutState::Pending, |r| r.state);
        let message = match after {
            None => "forgotten: the file does not name it, and its servers are free again".to_owned(),
            Some(after) => resumed(after, what, &left),
        };
        let commit = self.publish(&mut writer, next, vec![entry], None);
        if writer.source.last_error.is_some() {
            // The obstacle to the current file may be gone.
            self.reload_wanted.notify_one();
        }
        Ok(ChangeResult { state, ledger, message, commit: Some(commit) })
    }
}

impl SharedState {
    /// Ends a finding, for a person who accepts it: its evidence starts again.
    fn accept(
        &self,
        name: &str,
        origin: &ChangeOrigin,
        finding: StandingFinding,
        at: Option<&str>,
    ) -> Result<ChangeResult, ChangeRefused> {
        let snapshot = self.snapshot();
        let Some(running) = snapshot.releases.iter().find(|r| r.release.name == name) else {
            return Err(ChangeRefused::UnknownRelease(name.to_owned()));
        };
        if at.is_some() {
            return Err(ChangeRefused::Unclear(format!(
                "a wave to go on in (`at`) belongs to the end of a rollback, not to that of a finding (`{}`)",
                finding.label()
            )));
        }
        let level = 100.0 * running.release.watchdog.latency_notice;
        let stood = self.views().get_mut(name).is_some_and(|view| {
            let stands = view.has_found(finding);
            view.accepted.extend(stands.then_some(finding));
            stands
        });
        if !stood {
            return Err(ChangeRefused::NotNow(match finding {
                StandingFinding::Notice => format!(
                    "no notice of {name} stands: its new is not known to be slower than stable by more than {level:.0}% (latency_notice)"
                ),
                StandingFinding::Alarm => format!(
                    "no alarm of {name} stands: its new is not known to do worse than in its own past (worse_than_before)"
                ),
            }));
        }
        let mut writer = self.writer();
        let release_state = writer.image.releases.get(name).cloned().unwrap_or_default();
        let detail = match finding {
            StandingFinding::Notice => {
                format!("the notice \"slower by more than {level:.0}%\" is over; its evidence starts afresh")
            }
            StandingFinding::Alarm => "the alarm \"worse than before\" is over; the present level counts as the usual one, and is learnt anew".to_owned(),
        };
        let message = format!("{detail}; nothing else changes");
        let evidence = json!({"ends": finding.label()});
        Ok(self.change(&mut writer, running, release_state, "resume", origin, detail, evidence, message))
    }
}

/// The state in force of a plan, and the command that opens its next wave.
pub fn stands(running: &ReleaseSnapshot) -> String {
    let name = &running.release.name;
    let present = match running.wave() {
        Some(wave) => format!("the present wave is `{}`", wave.name),
        None => "no wave is open yet".to_owned(),
    };
    let next = match running.next_wave() {
        Some(wave) => format!(
            "the next is `{}`: grayling promote {name} --to {} --reason TEXT",
            wave.name,
            quoted(&wave.name)
        ),
        None => "no wave comes after it".to_owned(),
    };
    format!(
        "{name} is {}, {} of users are in new; {present}; {next}",
        running.state.label().replace('_', " "),
        running.effective.weight()
    )
}

/// Quotes a name for a shell.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "%.-_+:/@".contains(c);
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}

/// Finds a wave by its name, or by its weight if no other wave has that weight.
fn find_wave(waves: &[Wave], text: &str) -> Option<usize> {
    if let Some(index) = waves.iter().position(|wave| wave.name == text) {
        return Some(index);
    }
    let weight = Weight::parse(text).ok()?;
    let mut with = waves.iter().enumerate().filter(|(_, wave)| wave.exposure.weight == weight);
    with.next().map(|(index, _)| index).filter(|_| with.next().is_none())
}

fn no_wave(release: &str, wave: &str, waves: &[Wave]) -> ChangeRefused {
    let names: Vec<String> = waves.iter().map(|wave| format!("`{}`", wave.name)).collect();
    ChangeRefused::Unclear(format!("the plan of {release} has no wave `{wave}`: one of {}", names.join(", ")))
}

/// The gates that a promote must name to overrule: failing ones, and closed hours.
fn against(wave_status: &WaveStatus) -> Vec<(&str, String)> {
    let named = |gate: &&Gate| {
        gate.verdict == GateVerdict::Fail
            || (gate.name == gates::OPEN_HOURS && gate.verdict != GateVerdict::Pass)
    };
    wave_status.gates.iter().filter(named).map(|g| (&*g.name, g.detail.clone())).collect()
}

/// The gates that do not pass. The gate that waits for a person is not among them: a person acts.
fn skipped(wave_status: &WaveStatus) -> Vec<&Gate> {
    wave_status.gates.iter().filter(|g| g.verdict != GateVerdict::Pass && g.name != gates::OPEN).collect()
}

/// The one hold that a resume ends.
fn which(
    name: &str,
    release_state: &ReleaseState,
    named: Option<HoldKind>,
    writer: &SnapshotBuilder,
) -> Result<HoldKind, ChangeRefused> {
    let holds = release_state.ends();
    let list = || holds.iter().map(|ends| ends.command(name)).collect::<Vec<_>>().join(", or: ");
    match (named, &holds[..]) {
        (Some(ends), _) if holds.contains(&ends) => Ok(ends),
        (_, []) if writer.stop_file => Err(ChangeRefused::NotNow(Hold::StopFile.explain(name))),
        (_, []) => Err(ChangeRefused::NotNow(format!(
            "{name} is neither rolled back nor frozen nor held nor paused"
        ))),
        (Some(ends), _) => {
            let message = format!("no {} of {name} is in force; to end what is: {}", ends.label(), list());
            Err(ChangeRefused::NotNow(message))
        }
        (None, [HoldKind::Rollback]) => {
            let message = format!("{name} is rolled back; a resume says that it ends that: {}", list());
            Err(ChangeRefused::NotNow(message))
        }
        (None, [one]) => Ok(*one),
        (None, _) => {
            let message =
                format!("more than one thing holds {name}; a resume names the one it ends: {}", list());
            Err(ChangeRefused::NotNow(message))
        }
    }
}

/// The wave in which a release continues; `None`: the current one.
fn resumed_wave<'a>(
    name: &str,
    release_state: &ReleaseState,
    ends: HoldKind,
    waves: &'a [Wave],
    at: Option<&str>,
) -> Result<Option<&'a Wave>, ChangeRefused> {
    let present = release_state.present(waves);
    match at {
        None if ends == HoldKind::Rollback => Ok(waves.first().filter(|_| present.is_some())),
        None => Ok(None),
        Some(_) if ends != HoldKind::Rollback || waves.is_empty() => Err(ChangeRefused::Unclear(format!(
            "a wave to go on in (`at`) belongs to the end of a rollback of a release with waves; {name} is not that"
        ))),
        Some(at) => {
            let index = find_wave(waves, at).ok_or_else(|| no_wave(name, at, waves))?;
            if present.is_none_or(|present| index > present) {
                let come =
                    present.map_or("before the first wave".to_owned(), |i| format!("in `{}`", waves[i].name));
                return Err(ChangeRefused::NotNow(format!(
                    "{name} was {come} when it was rolled back; `{}` opens by promote only",
                    waves[index].name
                )));
            }
            Ok(Some(&waves[index]))
        }
    }
}

/// The result of a resume.
fn resumed(after: &ReleaseSnapshot, what: RolloutStep, left: &[HoldKind]) -> String {
    let name = &after.release.name;
    let weight = after.effective.weight();
    let users = match (what, after.wave()) {
        (RolloutStep::Unpaused, _) if after.hold.is_some() => {
            format!("the pause is over; {weight} of users are in new")
        }
        (RolloutStep::Unpaused, _) => format!("the waves go on; {weight} of users are in new"),
        (_, None) if after.hold.is_none() && !after.release.waves.is_empty() => {
            let first = after.next_wave().map_or("", |wave| wave.name.as_str());
            format!("its first wave, `{first}`, opens next, once its gates pass")
        }
        (_, Some(wave)) => {
            format!("{weight} of users are in new; wave `{}` bakes from the beginning", wave.name)
        }
        (_, None) => format!("{weight} of users are in new"),
    };
    match (&after.hold, left) {
        (Some(hold), _) => format!("{users}: {}", hold.explain(name)),
        (None, []) => users,
        (None, left) => {
            let commands: Vec<String> = left.iter().map(|ends| ends.command(name)).collect();
            format!("{users}; still in force: {}", commands.join(", "))
        }
    }
}
