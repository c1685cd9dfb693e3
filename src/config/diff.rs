//! The effects of replacing one plan by another: refusals, risks, and the number of moved users.
//! Pure.
//!
//! Shares are exact, in parts per million of the users in no segment. With one salt a weight from
//! `a` to `b` moves |a − b| of them; under another salt a + b − 2·a·b change arms.
//!
//! The progress of a release and its holds are not in the file: the caller passes [`Standings`].
//! The state machine (`domain::rollout`) alone computes the effect of an edit on them. So a finding
//! separates the requested state from the one in force: while a release is held, no user moves.

use crate::domain::config::{Config, Release, Tls, Upstream};
use crate::domain::decide::Effective;
use crate::domain::rollout::version::{self, VersionChange};
use crate::domain::rollout::{self, HoldKind, ManualHold, RolloutInput};
use crate::domain::segment::Segment;
use crate::domain::wave::Exposure;
use crate::stats::cohort::{BUCKETS, Weight};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::Arc;

mod standing;
mod versions;
mod waves;
use standing::{ReachState, ReleaseEdit};
pub use standing::{ReleaseStanding, Standings};
pub use waves::too_short;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PlanFindingKind {
    /// The new plan must not be applied.
    Refused,
    /// Legal, but worth a second look.
    Warning,
    Note,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanFinding {
    pub kind: PlanFindingKind,
    pub message: String,
}

/// A raise by more parts is worth a warning.
const RAISE_NOTABLE: u32 = BUCKETS / 4;

/// Refusals first, then warnings, then notes.
pub fn compare(old: &Config, new: &Config, standings: &Standings) -> Vec<PlanFinding> {
    let mut findings = PlanFindings(Vec::new());
    sockets(&mut findings, old, new);
    for release in &new.releases {
        match old.release(&release.name) {
            Some(before) => {
                let edit = ReleaseEdit::new([old, new], before, release, standings);
                changed(&mut findings, old, new, &edit);
            }
            None => added(&mut findings, old, new, release, standings),
        }
    }
    for release in old.releases.iter().filter(|r| new.release(&r.name).is_none()) {
        removed(&mut findings, release, standings);
    }
    for segment in &new.segments {
        match old.segments.iter().find(|s| s.name == segment.name) {
            Some(before) => changed_segment(&mut findings, before, segment),
            None if chosen_by_client(segment) => findings.warning(format!(
                "segment `{}` is new, and whoever can send `{}` can enter it",
                segment.name,
                header(segment)
            )),
            None => {}
        }
    }
    for upstream in &new.upstreams {
        if let Some(before) = old.upstreams.iter().find(|u| u.name == upstream.name) {
            changed_upstream(&mut findings, before, upstream);
        }
    }
    proxy_protocol(&mut findings, old, new);
    certificate(&mut findings, old, new);
    rest(&mut findings, old, new);
    findings.0.sort_by_key(|f| f.kind);
    findings.0
}

pub(super) struct PlanFindings(Vec<PlanFinding>);

impl PlanFindings {
    fn refused(&mut self, message: String) {
        self.0.push(PlanFinding { kind: PlanFindingKind::Refused, message });
    }

    pub(super) fn warning(&mut self, message: String) {
        self.0.push(PlanFinding { kind: PlanFindingKind::Warning, message });
    }

    pub(super) fn note(&mut self, message: String) {
        self.0.push(PlanFinding { kind: PlanFindingKind::Note, message });
    }
}

/// Settings fixed for the life of the process: sockets, threads, the directory with lock and
/// ledger.
fn sockets(findings: &mut PlanFindings, old: &Config, new: &Config) {
    let mut fixed = |key: &str, before: String, after: String| {
        if before != after {
            findings.refused(format!(
                "`{key}` cannot change while running (`{before}` to `{after}`): restart, or put it back"
            ));
        }
    };
    let list = |addresses: &[SocketAddr]| match addresses {
        [] => "none".to_string(),
        _ => addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", "),
    };
    fixed("[listen] http", list(&old.listen.http), list(&new.listen.http));
    fixed("[listen] https", list(&old.listen.https), list(&new.listen.https));
    fixed("[listen] admin", old.listen.admin.to_string(), new.listen.admin.to_string());
    fixed("[listen] workers", old.listen.workers.to_string(), new.listen.workers.to_string());
    let directory = |config: &Config| config.state.directory.display().to_string();
    fixed("[state] directory", directory(old), directory(new));
}

/// The proxies in front must switch at the same moment: connections of the others are refused.
fn proxy_protocol(findings: &mut PlanFindings, old: &Config, new: &Config) {
    match (old.listen.proxy_protocol, new.listen.proxy_protocol) {
        (false, true) => findings.warning(
            "`[listen] proxy_protocol`: new connections from `trusted_proxies` are closed unless they begin with a PROXY header".into(),
        ),
        (true, false) => findings.warning(
            "`[listen] proxy_protocol`: new connections that begin with a PROXY header are answered 400".into(),
        ),
        _ => {}
    }
}

/// A renewed pair is accepted. One that clients would refuse is not, while the present one is
/// better.
fn certificate(findings: &mut PlanFindings, old: &Config, new: &Config) {
    let (Some(before), Some(after)) = (&old.tls, &new.tls) else { return };
    if before.server == after.server {
        return;
    }
    let now = after.checked_at_s;
    let holds = |tls: &Tls| (tls.not_before_s..=tls.not_after_s).contains(&now);
    if holds(before) && !holds(after) {
        let state = if now > after.not_after_s { "has expired" } else { "is not valid yet" };
        findings.refused(format!(
            "the new certificate of `[tls]` {state}: the old one stays; put a valid pair in its place"
        ));
    } else {
        if before.client_ca.is_some() && after.client_ca.is_none() {
            findings.warning("`[tls]`: clients are no longer asked for a certificate".into());
        }
        findings.note("`[tls]`: another certificate, key or client CA, for new connections".into());
    }
}

/// Of the users in no segment, the parts that change arms.
pub fn moved(old: Weight, new: Weight, same_salt: bool) -> Weight {
    let (a, b) = (u64::from(old.parts()), u64::from(new.parts()));
    let parts = if same_salt {
        a.abs_diff(b)
    } else {
        // In parts²: a·N + b·N − 2·a·b, at most N²/1 = 10¹²; halves round up.
        let all = u64::from(BUCKETS);
        (a * all + b * all - 2 * a * b + all / 2) / all
    };
    Weight::from_parts(parts as u32)
}

fn changed(findings: &mut PlanFindings, old: &Config, new: &Config, edit: &ReleaseEdit<'_>) {
    let mut of_release = PlanFindings(Vec::new());
    changes(&mut of_release, old, new, edit);
    if let (Some(why), false) = (edit.is.why_held(&edit.after.name), of_release.0.is_empty()) {
        let (name, at) = (&edit.after.name, edit.is.effective.weight());
        let stays = match (edit.was.hold.is_some(), edit.moves_nobody()) {
            (true, true) => format!("nobody moves: it stays held at {at}"),
            (true, false) => format!("it stays held, at {at}"),
            (false, _) => format!("it is held from now on, at {at}"),
        };
        findings.warning(format!("release `{name}`: {stays}: {why}"));
    }
    findings.0.extend(of_release.0);
}

/// The evidence of an edited level restarts.
fn levels(findings: &mut PlanFindings, edit: &ReleaseEdit<'_>) {
    let (was, is) = (&edit.before.watchdog, &edit.after.watchdog);
    let floor = was.latency_floor != is.latency_floor;
    let edited = [
        ("`latency_tolerance`", floor || was.latency_tolerance != is.latency_tolerance),
        ("`latency_notice`", floor || was.latency_notice != is.latency_notice),
    ];
    for (key, _) in edited.into_iter().filter(|(_, edited)| *edited) {
        findings.note(format!(
            "release `{}`: the evidence of {key} starts anew; what was won under the level before says nothing of this one",
            edit.after.name
        ));
    }
}

fn changes(findings: &mut PlanFindings, old: &Config, new: &Config, edit: &ReleaseEdit<'_>) {
    let (before, after) = (edit.before, edit.after);
    let name = &after.name;
    guard(findings, edit);
    weight(findings, edit);
    waves::changed(findings, edit);
    if before.watchdog.enabled && !after.watchdog.enabled {
        findings.warning(format!("release `{name}`: the watchdog is switched off"));
    } else if before.watchdog != after.watchdog {
        findings.note(format!("release `{name}`: the watchdog's settings change"));
        levels(findings, edit);
    }
    if before.critical != after.critical {
        let list = |of: &[String]| match of {
            [] => "none".to_owned(),
            names => names.join(", "),
        };
        findings.note(format!(
            "release `{name}`: critical routes {} to {}: one that is added has shown nothing yet, and holds the wave until it has",
            list(&before.critical),
            list(&after.critical)
        ));
    }
    if before.attempt != after.attempt {
        let begins = match (edit.rearmed, after.waves.is_empty()) {
            (false, _) => "",
            (true, true) => ": it begins anew, with fresh evidence",
            (true, false) => ": it begins anew before its first wave, with fresh evidence",
        };
        findings.note(format!("release `{name}`: attempt {} to {}{begins}", before.attempt, after.attempt));
    }
    versions::changed(findings, [old, new], [before, after], &edit.standing, edit.change);
    arms(findings, old, new, before, after, edit.change);
    membership(findings, edit, "segments", &before.segments, &after.segments);
    membership(findings, edit, "excluded", &before.excluded, &after.excluded);
    if (&before.resources, before.resource_interval) != (&after.resources, after.resource_interval) {
        findings.note(format!("release `{name}`: what is watched of resources changes"));
    }
    setting(findings, name, "on_unreachable", &before.on_unreachable, &after.on_unreachable);
    setting(findings, name, "on_anomaly", &before.on_anomaly, &after.on_anomaly);
    setting(findings, name, "on_both_bad", &before.on_both_bad, &after.on_both_bad);
    setting(findings, name, "warm_up", &before.warm_up, &after.warm_up);
    waves::completion(findings, edit);
    if before.step_max != after.step_max {
        findings.note(format!("release `{name}`: step_max {} to {}", before.step_max, after.step_max));
    }
}

/// Refuses a raise beyond `step_max`, and an edit that would let users into a frozen `new`.
fn guard(findings: &mut PlanFindings, edit: &ReleaseEdit<'_>) {
    let (before, after) = (edit.before, edit.after);
    let name = &after.name;
    // The file's weight: the one in force may be lower now, and as high later. A version that
    // waited for its weight comes from 0%: the file's weight was another version's.
    let waits = |of: &ReachState| of.release_state.awaits == Some(ManualHold::NewVersion);
    let was = match waits(&edit.was) && !waits(&edit.is) {
        true => Weight::ZERO,
        false => edit.was.given.weight,
    };
    let is = edit.is.given.weight;
    let raise = is.parts().saturating_sub(was.parts());
    // The lower of the two: an edit that raises the weight cannot also raise its guard.
    let step_max = before.step_max.min(after.step_max);
    if raise > step_max.parts() {
        let also = if after.step_max > before.step_max {
            "; raise `step_max` in an edit of its own first"
        } else {
            "; go there in smaller steps, or raise `step_max` in an edit of its own first"
        };
        let highest = Weight::from_parts(was.parts() + step_max.parts());
        findings.refused(format!(
            "release `{name}`: from {} to {} is more than `step_max` ({step_max}) allows: {highest} at most{also}",
            was, is
        ));
    }
    let given = |of: &ReachState, release: &Release| {
        release.segments[..of.given.segments.min(release.segments.len())].to_vec()
    };
    let (known, then) = (given(&edit.was, before), given(&edit.is, after));
    let joins = then.iter().any(|segment| !known.iter().any(|k| k.same(segment)));
    let frozen = edit.is.release_state.freeze.is_some() && edit.is.release_state.trip.is_none();
    if frozen && (before.salt != after.salt || joins) {
        findings.refused(format!(
            "release `{name}` is frozen: its salt cannot change, and no segment can join; \
             first: {}",
            HoldKind::Freeze.command(name)
        ));
    }
}

/// The users who move.
fn weight(findings: &mut PlanFindings, edit: &ReleaseEdit<'_>) {
    let (before, after, name) = (edit.before, edit.after, &edit.after.name);
    let [was, is] = [&edit.was, &edit.is].map(|state| state.effective.weight());
    let [asked_before, asked] = [&edit.was, &edit.is].map(|state| state.given.weight);
    let raise = is.parts().saturating_sub(was.parts());
    let share = moved(was, is, before.salt == after.salt);
    let held = edit.is.hold.is_some();
    if before.salt != after.salt {
        let moves = match (held, share) {
            (true, Weight::ZERO) => ": every user is dealt anew when the hold ends".to_owned(),
            _ => format!(", every user is dealt anew: {share} of users change arms"),
        };
        findings.warning(format!("release `{name}`: the salt changed{moves}"));
    } else if raise > RAISE_NOTABLE {
        findings.warning(format!(
            "release `{name}`: the weight goes up by more than 25 points, from {was} to {is}: {share} of users move to `new`"
        ));
    } else if was != is {
        let arm = if raise > 0 { "new" } else { "stable" };
        findings.note(format!("release `{name}`: weight {was} to {is}: {share} of users move to `{arm}`"));
    }
    if held && asked != asked_before && asked != is {
        findings.note(format!(
            "release `{name}`: the file's weight, {asked_before} to {asked}, waits for the end of the hold"
        ));
    }
    if let (Some(hold), false) = (&edit.was.hold, held) {
        findings.note(format!(
            "release `{name}`: this edit ends the {}, which held it at {was}",
            hold.kind().label()
        ));
    }
}

fn setting<T: Debug + PartialEq>(
    findings: &mut PlanFindings,
    release: &str,
    key: &str,
    before: &T,
    after: &T,
) {
    if before != after {
        let word = |value: &T| format!("{value:?}").to_lowercase();
        findings.note(format!("release `{release}`: {key} {} to {}", word(before), word(after)));
    }
}

fn arms(
    findings: &mut PlanFindings,
    old: &Config,
    new: &Config,
    before: &Release,
    after: &Release,
    change: VersionChange,
) {
    let name = |config: &Config, i: usize| config.upstreams[i].name.clone();
    for (arm, was, is) in [("stable", before.stable, after.stable), ("new", before.new, after.new)] {
        let (was, is) = (name(old, was), name(new, is));
        if was != is {
            let message = format!("release `{}`: `{arm}` is `{is}` and no longer `{was}`", after.name);
            let known = change == VersionChange::Same;
            if arm == "new" && before.attempt == after.attempt && known {
                findings.warning(format!("{message}, with the same `attempt`: raise it for a new build"));
            } else {
                findings.note(message);
            }
        }
    }
}

fn added(
    findings: &mut PlanFindings,
    old: &Config,
    config: &Config,
    release: &Release,
    standings: &Standings,
) {
    // A removed release is remembered: its rollback still holds.
    let ReleaseStanding { release_state, .. } = standings.of(release);
    let versions = release.versions(config);
    let raised = release.attempt > release_state.attempt;
    let renamed = !standings.releases.contains_key(&release.name)
        && version::takes_place(Release::removed(old, config), &versions);
    let change = match renamed {
        true => VersionChange::Declared,
        false => release_state.versions.change(&versions, raised, Some(versions::unnamed(&release_state))),
    };
    let configured = RolloutInput::Configure {
        attempt: release.attempt,
        strategy: release.strategy(),
        standing: Exposure::NOBODY,
        versions,
        change,
        weight_edited: false,
    };
    let (release_state, _) = rollout::step(&release_state, configured);
    let is = ReachState::of(
        release,
        &ReleaseStanding { release_state, ..ReleaseStanding::default() },
        standings.now,
    );
    let (name, weight) = (&release.name, is.given.weight);
    let message = match (is.why_held(name), &is.release_state.progress, release.waves.first()) {
        (Some(why), ..) => {
            format!("release `{name}` is new to the file, and held at {}: {why}", is.effective.weight())
        }
        (None, Some(progress), Some(_)) => {
            format!("release `{name}` is back, in wave `{}`: {weight} of users go to `new`", progress.wave)
        }
        (None, None, Some(first)) => {
            format!("release `{name}` is new, before its first wave, `{}`", first.name)
        }
        (None, _, None) => format!("release `{name}` is new: {weight} of users go to `new`"),
    };
    // Otherwise a release that is removed and added again would be raised past its guard.
    if weight > release.step_max {
        let step_max = release.step_max;
        findings.refused(format!(
            "release `{}` is new: from nothing to {weight} is more than its `step_max` ({step_max}) allows",
            release.name
        ));
    } else if weight.parts() > RAISE_NOTABLE || is.hold.is_some() {
        findings.warning(message);
    } else {
        findings.note(message);
    }
    if !release.watchdog.enabled {
        findings.warning(format!("release `{}` starts with its watchdog off", release.name));
    }
}

fn removed(findings: &mut PlanFindings, release: &Release, standings: &Standings) {
    let was = ReachState::of(release, &standings.of(release), standings.now);
    let name = &release.name;
    let leave = match (was.effective, was.why_held(name)) {
        (Effective::Held, Some(why)) => format!("nobody is in its `new`, which is held at 0%: {why}"),
        (effective, Some(why)) => {
            format!("{} of users are in its `new`, which is held: {why}", effective.weight())
        }
        (effective, None) => format!("{} of users are in its `new`", effective.weight()),
    };
    let known = if was.release_state.trip.is_some() { "; the rollback is remembered" } else { "" };
    findings.warning(format!(
        "release `{name}` is removed: its users go where the routes now say{known}; {leave}"
    ));
}

fn membership(
    findings: &mut PlanFindings,
    edit: &ReleaseEdit<'_>,
    key: &str,
    before: &[Arc<Segment>],
    after: &[Arc<Segment>],
) {
    let release = &edit.after.name;
    // During a freeze the lists apply at once.
    let later = if edit.is.effective == Effective::Held { edit.later() } else { "" };
    let absent = |list: &[Arc<Segment>], name: &str| !list.iter().any(|s| s.name == name);
    for segment in after.iter().filter(|s| absent(before, &s.name)) {
        let message = format!("release `{release}`: `{}` joins `{key}`{later}", segment.name);
        if key == "segments" && chosen_by_client(segment) {
            findings.warning(format!("{message}, and whoever can send `{}` can enter", header(segment)));
        } else {
            findings.note(message);
        }
    }
    for segment in before.iter().filter(|s| absent(after, &s.name)) {
        findings.note(format!("release `{release}`: `{}` leaves `{key}`{later}", segment.name));
    }
}

fn chosen_by_client(segment: &Segment) -> bool {
    segment.header.is_some()
}

fn header(segment: &Segment) -> &str {
    segment.header.as_ref().map_or("", |h| h.name.as_str())
}

fn changed_segment(findings: &mut PlanFindings, before: &Segment, after: &Segment) {
    if before.users != after.users {
        findings.note(format!(
            "segment `{}`: {} users, {} before",
            after.name,
            after.users.len(),
            before.users.len()
        ));
    }
    if after.header.is_some() && before.header != after.header {
        findings.warning(format!(
            "segment `{}`: whoever can send `{}` can now enter",
            after.name,
            header(after)
        ));
    } else if before.header != after.header || before.networks != after.networks {
        findings.note(format!("segment `{}` changes", after.name));
    }
}

fn changed_upstream(findings: &mut PlanFindings, before: &Upstream, after: &Upstream) {
    let list = |servers: Vec<String>| servers.join(", ");
    let missing = |from: &Upstream, of: &Upstream| {
        list(of.servers.iter().filter(|s| !from.servers.contains(s)).map(ToString::to_string).collect())
    };
    let (joined, left) = (missing(before, after), missing(after, before));
    if !joined.is_empty() {
        findings.note(format!("upstream `{}`: gains {joined}", after.name));
    }
    if !left.is_empty() {
        findings.note(format!("upstream `{}`: loses {left}", after.name));
    }
    let limits = |u: &Upstream| {
        (
            (u.connect_timeout, u.response_timeout, u.idle_timeout, u.total_timeout, u.connection_idle),
            (u.http2_ping, u.connection_age_max, u.connections_max, u.requests_in_flight_max),
            u.resend_unprocessed,
        )
    };
    if limits(before) != limits(after) {
        findings.note(format!("upstream `{}`: time-outs or limits change", after.name));
    }
    let health = match (&before.health, &after.health) {
        (None, Some(after)) => Some(format!("its servers are probed at {}", after.path)),
        (Some(_), None) => Some("its servers are no longer probed; all count as up".to_string()),
        (before, after) if before != after => Some("`health` changes".to_string()),
        _ => None,
    };
    if let Some(health) = health {
        findings.note(format!("upstream `{}`: {health}", after.name));
    }
    if before.scrapes != after.scrapes {
        findings.note(format!("upstream `{}`: where its resources are read changes", after.name));
    }
    if before.transport != after.transport {
        findings.note(format!(
            "upstream `{}`: `http2`, the CA of its servers, or the own certificate changes",
            after.name
        ));
    }
}

/// All other sections: in force with the reload, with a note only.
fn rest(findings: &mut PlanFindings, old: &Config, new: &Config) {
    let mut section = |name: &str, before: String, after: String| {
        if before != after {
            findings.note(format!("`{name}` changes"));
        }
    };
    let routes = |config: &Config| -> String {
        let target = |t| match t {
            crate::domain::config::Target::Release(i) => format!("release {}", config.releases[i].name),
            crate::domain::config::Target::Upstream(i) => format!("upstream {}", config.upstreams[i].name),
        };
        let line = |r: &crate::domain::config::Route| {
            format!("{} {:?} {} {:?} {}\n", r.name, r.host, r.path, r.methods, target(r.target))
        };
        config.routes.iter().map(line).collect()
    };
    section("[[route]]", routes(old), routes(new));
    section("[identity]", format!("{:?}", old.identity), format!("{:?}", new.identity));
    section("[limits]", format!("{:?}", old.limits), format!("{:?}", new.limits));
    section("[log]", format!("{:?}", old.log), format!("{:?}", new.log));
    section("[admin]", format!("{:?}", old.admin), format!("{:?}", new.admin));
    let listen = |p: &Config| format!("{:?} {:?}", p.listen.trusted_proxies, p.listen.expose_arm);
    section("[listen] trusted_proxies or expose_arm", listen(old), listen(new));
    let state =
        |p: &Config| format!("{:?} {:?} {:?}", p.state.on_failure, p.state.when_empty, p.state.failed_users);
    section("[state] on_failure, when_empty or failed_users", state(old), state(new));
    section("[metrics]", format!("{:?}", old.metrics), format!("{:?}", new.metrics));
    // Addresses and keys of receivers are not shown.
    if old.alerts != new.alerts {
        findings.note("`[alert]` changes".into());
    }
    if old.traces != new.traces {
        findings.note("`[traces]` changes".into());
    }
}

#[cfg(test)]
mod holds;

#[cfg(test)]
mod tests;
