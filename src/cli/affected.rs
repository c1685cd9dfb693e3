//! `grayling affected`: the users who were in `new` between two times, and those it has failed.
//!
//! The cohort is a function whose inputs are in the ledger, so it is computed here, from the ledger
//! alone. Failed users are in files beside it. Invariants: whatever these cannot answer is
//! reported, for each release concerned. A ledger that does not verify is reported as such.

use super::client::{AdminArgs, AdminClient, ClientError, encoded, one_of};
use super::text::{self, Colour, Hue, count, shown};
use super::{block_on, config_of, verify};
use crate::admin::dto::HashedBody;
use crate::admin::records::HASHED_MAX;
use crate::domain::config::Config;
use crate::domain::segment::UserSet;
use crate::store::audit::timeline::{LeftOver, Stay, Timeline};
use crate::store::audit::verify::Verifier;
use crate::store::ledger::{self, LedgerEntry};
use crate::store::membership::{Lookup, RecordedSegment};
use crate::store::state_key::StateKey;
use crate::store::{checkpoints, failed_users};
use crate::telemetry::clock;
use anyhow::Context;
use http::StatusCode;
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Users that are printed for people; scripts get all.
const SHOWN_MAX: usize = 1000;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  grayling affected cbs-v2 --since 2h                        the weights of the last two hours, and whom new has failed
  grayling affected --since 2026-11-23T06:00:00Z --until 2026-11-23T09:30:00Z --users subscribers.txt --json
  grayling affected --since 3d -c grayling.toml --users u.txt    from the state directory, without a running proxy

Times are RFC 3339, or how long ago: 90s, 15m, 2h, 3d.")]
pub struct Args {
    /// The release; optional if the ledger has only one.
    release: Option<String>,
    /// Start of the period.
    #[arg(long, value_name = "T", value_parser = a_time)]
    since: i64,
    /// End of the period [default: now].
    #[arg(long, value_name = "T", value_parser = a_time)]
    until: Option<i64>,
    /// Look these users up: one id a line, as sent in requests.
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Read the state directory of this config file, instead of asking a proxy; also its users
    /// files and its key.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["admin", "token_file", "state"])]
    config: Option<PathBuf>,
    /// Read this state directory, instead of asking a proxy.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["admin", "token_file"])]
    state: Option<PathBuf>,
    /// The key that hashed the ids of failed users (`[log] user_key_file`).
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
}

/// Milliseconds since 1970.
fn a_time(text: &str) -> Result<i64, String> {
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Ok(at.as_millisecond());
    }
    let ago = text.find(|c: char| !c.is_ascii_digit()).and_then(|end| {
        let seconds = match &text[end..] {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return None,
        };
        text[..end].parse::<i64>().ok()?.checked_mul(seconds * 1000)
    });
    let at = ago.and_then(|ago| clock::at_ms().checked_sub(ago));
    at.ok_or_else(|| "write a time as 2026-11-23T06:00:00Z, or how long ago: 90s, 15m, 2h, 3d".to_owned())
}

/// Where the records come from.
enum RecordSource {
    Directory(PathBuf),
    Proxy(AdminClient),
}

impl RecordSource {
    fn entries(&self) -> anyhow::Result<(Vec<LedgerEntry>, bool)> {
        let (mut entries, mut verifier) = (vec![], Verifier::new(None));
        let mut take = |line: &[u8]| {
            verifier.line(line);
            entries.extend(serde_json::from_slice::<LedgerEntry>(line));
        };
        match self {
            RecordSource::Proxy(client) => block_on(verify::lines(client, &mut take))?,
            RecordSource::Directory(directory) => {
                let path = directory.join(ledger::FILE);
                let file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
                let (mut input, mut line) = (BufReader::new(file), vec![]);
                while input.read_until(b'\n', &mut line)? > 0 {
                    take(&line);
                    line.clear();
                }
            }
        }
        Ok((entries, verifier.finish(None).sound()))
    }

    fn failed(&self, release: &str, attempt: u64) -> anyhow::Result<Vec<u8>> {
        match self {
            RecordSource::Directory(directory) => {
                Ok(checkpoints::read(directory, &failed_users::file(release, attempt)).unwrap_or_default())
            }
            RecordSource::Proxy(client) => {
                let path = format!("/api/v1/failed?release={}&attempt={attempt}", encoded(release));
                Ok(block_on(async { Ok(client.bytes(&path).await?.to_vec()) })?)
            }
        }
    }
}

/// The users that `new` has failed in the period, as far as they are listed.
#[derive(Default)]
struct FailedInPeriod {
    by_hash: HashMap<String, failed_users::ListedUser>,
    by_user: HashMap<String, failed_users::ListedUser>,
    /// Requests of users who are not listed.
    others: u64,
    /// How many lists were found.
    lists: usize,
    key: Option<aws_lc_rs::hmac::Key>,
}

impl FailedInPeriod {
    fn take(&mut self, bytes: &[u8], since_ms: i64, until_ms: i64) {
        let Some((listed, others)) = failed_users::read(bytes) else { return };
        self.others += others;
        self.lists += 1;
        let at = |text: &str| crate::store::audit::timeline::at_ms(text);
        let within = |l: &failed_users::ListedUser| {
            at(&l.last).is_none_or(|last| last >= since_ms)
                && at(&l.first).is_none_or(|first| first < until_ms)
        };
        for one in listed.into_iter().filter(within) {
            let (map, id) = match &one.id {
                failed_users::FailedUserId::Hash(hash) => (&mut self.by_hash, hash.clone()),
                failed_users::FailedUserId::User(user) => (&mut self.by_user, user.clone()),
            };
            match map.get_mut(&id) {
                // In two attempts.
                Some(both) => {
                    both.requests += one.requests;
                    both.first = both.first.clone().min(one.first);
                    both.last = both.last.clone().max(one.last);
                }
                None => _ = map.insert(id, one),
            }
        }
    }

    fn of(&self, user: &[u8]) -> Option<&failed_users::ListedUser> {
        let clear = std::str::from_utf8(user).ok().and_then(|user| self.by_user.get(user));
        clear.or_else(|| self.by_hash.get(&*failed_users::hashed(self.key.as_ref()?, user)))
    }

    fn len(&self) -> usize {
        self.by_hash.len() + self.by_user.len()
    }

    /// Ids are hashed, and the key is not available.
    fn unreadable(&self) -> bool {
        !self.by_hash.is_empty() && self.key.is_none()
    }
}

/// A user who was, or may have been, in `new`.
struct AffectedUser {
    id: String,
    parts: Vec<Stay>,
    failed: Option<failed_users::ListedUser>,
}

struct AffectedAnswer {
    release: String,
    since_ms: i64,
    until_ms: i64,
    timeline: Timeline,
    /// `None`: without `--users`.
    users: Option<Vec<AffectedUser>>,
    asked: usize,
    failed: FailedInPeriod,
    notes: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.as_deref().map(config_of).transpose()?;
    let source = match (&args.state, &config) {
        (Some(directory), _) => RecordSource::Directory(directory.clone()),
        (None, Some(config)) => RecordSource::Directory(config.state.directory.clone()),
        (None, None) => RecordSource::Proxy(AdminClient::new(&args.admin)?),
    };
    let key = match (&args.key_file, &config) {
        (Some(path), _) => Some(read_key(path)?),
        (None, config) => config.as_ref().and_then(|config| config.log.user_key.clone()),
    };
    let answer = work_out(&args, &source, config.as_ref(), key)?;
    if args.json {
        text::print_json(&answer.json())?;
    } else {
        text::print(&answer.text(Colour::of_stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn work_out(
    args: &Args,
    source: &RecordSource,
    config: Option<&Config>,
    key: Option<Vec<u8>>,
) -> anyhow::Result<AffectedAnswer> {
    let (since_ms, until_ms) = (args.since, args.until.unwrap_or_else(clock::at_ms));
    anyhow::ensure!(since_ms < until_ms, "--since must be before --until, which is now unless it is given");
    let (entries, sound) = source.entries()?;
    let mut names: Vec<String> = entries.iter().filter_map(|e| e.release.clone()).collect();
    names.sort_unstable();
    names.dedup();
    let release = match &args.release {
        Some(name) if names.contains(name) => name.clone(),
        Some(name) => {
            let listed = names.iter().map(|n| shown(n)).collect::<Vec<_>>().join(", ");
            anyhow::bail!("the ledger knows no release `{}`; it knows: {listed}", shown(name))
        }
        None => one_of(names, "affected")?,
    };
    let timeline = Timeline::of(entries.iter(), &release, since_ms, until_ms);
    let mut failed =
        FailedInPeriod { key: key.as_deref().map(failed_users::key), ..FailedInPeriod::default() };
    for attempt in timeline.attempts() {
        failed.take(&source.failed(&release, attempt)?, since_ms, until_ms);
    }
    let keys = Keys::of(source)?;
    let known = |key: &str, listed: &RecordedSegment| -> Option<UserSet> {
        let key = if key.is_empty() { None } else { Some(keys.local.as_ref().filter(|k| k.name() == key)?) };
        let segments = config?.segments.iter();
        segments.map(|s| s.users.clone()).find(|users| listed.is_of(users, key))
    };
    let (mut users, mut asked) = (None, 0);
    if let Some(path) = &args.users {
        let mut found = vec![];
        each_users(path, |users| {
            asked += users.len();
            let hashes = keys.hashes(users.iter().flat_map(|user| timeline.numbers(user)).collect())?;
            let hashed = |key: &str, number: u64| hashes.get(&number).filter(|_| keys.has(key)).cloned();
            let lookup = Lookup { hashed: &hashed, known: &known };
            for user in users {
                let parts = timeline.follow(user, &lookup);
                // In the form that was hashed: the normalisation of the newest entry.
                let membership = timeline.stretches.iter().rev().find_map(|s| s.membership.as_ref());
                let normal = membership.and_then(|m| m.normalised(user).map(|id| id.into_owned()));
                let was_failed = failed.of(normal.as_deref().unwrap_or(user)).cloned();
                if !parts.is_empty() || was_failed.is_some() {
                    let id = String::from_utf8_lossy(user).into_owned();
                    found.push(AffectedUser { id, parts, failed: was_failed });
                }
            }
            Ok(())
        })?;
        users = Some(found);
    }
    let notes = notes(&timeline, &keys, &known, &failed, sound, since_ms);
    Ok(AffectedAnswer { release, since_ms, until_ms, timeline, users, asked, failed, notes })
}

/// The limits of the result.
fn notes(
    timeline: &Timeline,
    keys: &Keys<'_>,
    known: &dyn Fn(&str, &RecordedSegment) -> Option<UserSet>,
    failed: &FailedInPeriod,
    sound: bool,
    since_ms: i64,
) -> Vec<String> {
    let mut notes = vec![];
    notes.extend(keys.fault.clone());
    if !sound {
        notes.push("the ledger has faults, so this may be wrong: see `grayling ledger --verify`".to_owned());
    }
    match timeline.begins_ms {
        None => {}
        Some(begins) if begins > since_ms => {
            notes.push(format!(
                "the ledger tells of this release from {} on, and of nothing before",
                clock::rfc3339(begins)
            ));
        }
        Some(_) => {}
    }
    if timeline.stretches.iter().any(|s| s.held != Some(true) && s.membership.is_none()) {
        notes.push(
            "entries of an earlier version do not say who was in new: those times are unclear for everybody"
                .to_owned(),
        );
    }
    let mut seen: Vec<&str> = vec![];
    for stretch in timeline.stretches.iter().filter(|s| s.held != Some(true)) {
        let Some(membership) = &stretch.membership else { continue };
        for (listed, brings) in membership
            .segments
            .iter()
            .map(|l| (l, "into"))
            .chain(membership.excluded.iter().map(|l| (l, "out of")))
        {
            if seen.contains(&&*listed.name) {
                continue;
            }
            if listed.by_request {
                notes.push(format!(
                    "segment {}: a header or an address of the request brought users {brings} new; the ledger does not know whose",
                    listed.name
                ));
                seen.push(&listed.name);
            } else if listed.users > 0 && !membership.key.is_empty() && !keys.has(&membership.key) {
                notes.push(format!(
                    "segment {}: its {} users are hashed under a key that was lost or destroyed: who they were cannot be told",
                    listed.name,
                    count(listed.users as u64)
                ));
                seen.push(&listed.name);
            } else if listed.numbers.is_none() && known(&membership.key, listed).is_none() {
                notes.push(format!(
                    "segment {}: its list of {} users is known by count and fingerprint only; with -c FILE, whose list is still that one, its users are told apart",
                    listed.name,
                    count(listed.users as u64)
                ));
                seen.push(&listed.name);
            }
        }
    }
    if !timeline.clock_went_back.is_empty() {
        let entries = timeline.clock_went_back.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        notes
            .push(format!("the clock was put back before entry {entries}: times about then are not certain"));
    }
    if !timeline.starts_ms.is_empty() {
        notes.push("the proxy was started within this time: until when it had been running before, the ledger does not know".to_owned());
    }
    if timeline.stretches.iter().any(|s| s.held != Some(true)) {
        notes.push("single requests of users in new went to stable where new could not be connected to (on_unreachable); a request under way when something changed was decided by what stood before".to_owned());
    }
    if failed.unreadable() {
        notes.push("failed users are listed by keyed hash: give the key (--key-file FILE, or -c FILE) to tell who they are".to_owned());
    }
    if failed.lists == 0 {
        notes.push("no list of failed users was found: new has failed nobody, or ids are only counted (they are listed with `[log] user_key_file`, or `[state] failed_users = \"clear\"`)".to_owned());
    }
    if failed.others > 0 {
        notes.push(format!(
            "{} failed requests were of users who are not listed: there was no room, or no key (`[log] user_key_file`, or `[state] failed_users = \"clear\"`)",
            count(failed.others)
        ));
    }
    notes
}

/// Reads the users of a file in batches.
fn each_users(path: &Path, mut take: impl FnMut(&[Vec<u8>]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    let mut input = BufReader::new(File::open(path).with_context(cannot)?);
    let (mut line, mut users) = (vec![], vec![]);
    loop {
        line.clear();
        let end = input.read_until(b'\n', &mut line).with_context(cannot)? == 0;
        let user = line.trim_ascii();
        if !user.is_empty() {
            users.push(user.to_vec());
        }
        if end || users.len() == HASHED_MAX {
            take(&users)?;
            users.clear();
        }
        if end {
            return Ok(());
        }
    }
}

/// The key that hashes segment users in the ledger. It is in the state directory, or in the proxy,
/// which does not disclose it.
struct Keys<'a> {
    local: Option<StateKey>,
    proxy: Option<&'a AdminClient>,
    /// The name of the available key.
    name: Option<String>,
    fault: Option<String>,
}

impl Keys<'_> {
    fn of(source: &RecordSource) -> anyhow::Result<Keys<'_>> {
        match source {
            RecordSource::Directory(directory) => {
                let (local, fault) = match StateKey::read(directory) {
                    Ok(key) => (key, None),
                    Err(why) => (None, Some(format!("{}: {why}", directory.display()))),
                };
                let name = local.as_ref().map(|key| key.name().to_owned());
                Ok(Keys { local, proxy: None, name, fault })
            }
            RecordSource::Proxy(client) => {
                let name = block_on(ask_hashes(client, &[0]))?.map(|hashed| hashed.key);
                Ok(Keys { local: None, proxy: Some(client), name, fault: None })
            }
        }
    }

    fn has(&self, key: &str) -> bool {
        self.name.as_deref() == Some(key)
    }

    /// The hashes of these numbers under the available key; empty without one.
    fn hashes(&self, numbers: BTreeSet<u64>) -> anyhow::Result<HashMap<u64, String>> {
        let mut hashes = HashMap::new();
        if let Some(key) = &self.local {
            hashes.extend(numbers.iter().map(|number| (*number, key.user(*number))));
        } else if let (Some(client), Some(_)) = (self.proxy, &self.name) {
            let numbers: Vec<u64> = numbers.into_iter().collect();
            for some in numbers.chunks(HASHED_MAX) {
                let hashed = block_on(ask_hashes(client, some))?.filter(|hashed| self.has(&hashed.key));
                let hashed = hashed.context("the proxy was started anew meanwhile: ask again")?;
                hashes.extend(some.iter().copied().zip(hashed.hashes));
            }
        }
        Ok(hashes)
    }
}

/// `None`: a proxy of an earlier version, which has no key.
async fn ask_hashes(client: &AdminClient, numbers: &[u64]) -> anyhow::Result<Option<HashedBody>> {
    let numbers = numbers.iter().map(|number| format!("{number:016x}")).collect::<Vec<_>>().join(",");
    match client.get(&format!("/api/v1/ledger/hashed?numbers={numbers}")).await {
        Ok(hashed) => Ok(Some(hashed)),
        Err(ClientError::Answer { status: StatusCode::NOT_FOUND, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_key(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut key = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    while key.last().is_some_and(|b| b"\r\n".contains(b)) {
        key.pop();
    }
    Ok(key)
}

impl AffectedAnswer {
    fn counts(&self) -> (usize, usize, usize) {
        let users = self.users.as_deref().unwrap_or_default();
        let surely = users.iter().filter(|u| u.parts.iter().any(|p| p.unclear.is_empty())).count();
        let perhaps = users
            .iter()
            .filter(|u| !u.parts.is_empty() && u.parts.iter().all(|p| !p.unclear.is_empty()))
            .count();
        (surely, perhaps, users.iter().filter(|u| u.failed.is_some()).count())
    }

    fn json(&self) -> Value {
        let time = clock::rfc3339;
        let listed =
            |l: &failed_users::ListedUser| json!({"requests": l.requests, "first": l.first, "last": l.last});
        let user = |u: &AffectedUser| {
            let part = |p: &Stay| json!({"from": time(p.from_ms), "to": time(p.to_ms), "unclear": p.unclear});
            let surely = u.parts.iter().any(|p| p.unclear.is_empty());
            let was = if surely {
                "in"
            } else if u.parts.is_empty() {
                "out"
            } else {
                "unclear"
            };
            json!({"user": u.id, "was": was, "in_new": u.parts.iter().map(part).collect::<Vec<_>>(),
                   "failed": u.failed.as_ref().map(listed)})
        };
        let left_over = |l: &LeftOver| json!({"from": time(l.from_ms), "to": l.until_ms.map(time), "requests": l.requests});
        let (surely, perhaps, failed) = self.counts();
        let names = |listed: &[RecordedSegment]| listed.iter().map(|l| l.name.clone()).collect::<Vec<_>>();
        let stretches = self.timeline.stretches.iter().map(|s| {
            json!({"from": time(s.from_ms), "to": time(s.to_ms), "entry": s.entry, "attempt": s.attempt, "weight": s.weight.percent(), "held": s.held,
                   "segments": s.membership.as_ref().map(|m| names(&m.segments)), "excluded": s.membership.as_ref().map(|m| names(&m.excluded))})
        });
        let all_failed = self.failed.by_hash.values().chain(self.failed.by_user.values()).map(|l| {
            let mut told = listed(l);
            match &l.id {
                failed_users::FailedUserId::Hash(hash) => told["hash"] = hash.as_str().into(),
                failed_users::FailedUserId::User(user) => told["user"] = user.as_str().into(),
            }
            told
        });
        json!({
            "release": self.release, "since": time(self.since_ms), "until": time(self.until_ms),
            "weights": stretches.collect::<Vec<_>>(),
            "under_way": self.timeline.left_over.iter().map(left_over).collect::<Vec<_>>(),
            "asked": self.users.as_ref().map(|_| self.asked),
            "in_new": self.users.as_ref().map(|_| surely),
            "unclear": self.users.as_ref().map(|_| perhaps),
            "failed": self.users.as_ref().map(|_| failed),
            // Without --users: all that are listed.
            "failed_users": self.users.is_none().then(|| all_failed.collect::<Vec<_>>()),
            "users": self.users.as_ref().map(|users| users.iter().map(user).collect::<Vec<_>>()),
            "notes": self.notes,
        })
    }

    fn text(&self, colour: Colour) -> String {
        let time = clock::rfc3339;
        let title = format!("{}  {} to {}", shown(&self.release), time(self.since_ms), time(self.until_ms));
        let mut out = format!("{}\n\n", colour.paint(Hue::Bold, &title));
        if self.timeline.stretches.is_empty() {
            let _ = writeln!(out, "  the ledger tells of nobody in new in this time");
        }
        for stretch in &self.timeline.stretches {
            let who = match (stretch.held, &stretch.membership) {
                (Some(true), _) => "nobody".to_owned(),
                (_, membership) => {
                    let names = |listed: &[RecordedSegment]| {
                        listed.iter().map(|l| shown(&l.name)).collect::<Vec<_>>().join(", ")
                    };
                    let mut who = stretch.weight.to_string();
                    match membership {
                        None => who.push_str(", and who else is not known"),
                        Some(m) => {
                            if !m.segments.is_empty() {
                                _ = write!(who, ", and {}", names(&m.segments));
                            }
                            if !m.excluded.is_empty() {
                                _ = write!(who, ", but not {}", names(&m.excluded));
                            }
                        }
                    }
                    who
                }
            };
            let _ = writeln!(
                out,
                "  {}  {}  entry {:<5} in new: {who}",
                time(stretch.from_ms),
                time(stretch.to_ms),
                stretch.entry
            );
        }
        for left in &self.timeline.left_over {
            let until = match left.until_ms {
                Some(end) => format!("the last of them until {}", time(end)),
                None => "and the ledger does not say yet that they have ended".to_owned(),
            };
            let _ = writeln!(
                out,
                "  {}  {} requests that were under way on new went on, {until}",
                time(left.from_ms),
                count(left.requests)
            );
        }
        out.push('\n');
        match &self.users {
            None => {
                let _ = writeln!(
                    out,
                    "{} users are listed as failed by new in this time.",
                    count(self.failed.len() as u64)
                );
            }
            Some(users) => {
                let (surely, perhaps, failed) = self.counts();
                let number = |n: usize| count(n as u64);
                let _ = writeln!(
                    out,
                    "Of {} users, {} were in new, {} may have been, {} were failed by it.",
                    number(self.asked),
                    number(surely),
                    number(perhaps),
                    if self.failed.unreadable() { "? ".trim_end().to_owned() } else { number(failed) }
                );
                for user in users.iter().take(SHOWN_MAX) {
                    let _ = writeln!(out, "\n  {}", colour.paint(Hue::Bold, &shown(&user.id)));
                    for part in &user.parts {
                        let unclear = if part.unclear.is_empty() {
                            String::new()
                        } else {
                            format!("  perhaps: {}", shown(&part.unclear.join("; ")))
                        };
                        let _ = writeln!(out, "    {}  {}{unclear}", time(part.from_ms), time(part.to_ms));
                    }
                    if let Some(failed) = &user.failed {
                        let told = format!(
                            "failed {} times, first {}, last {}",
                            count(failed.requests),
                            failed.first,
                            failed.last
                        );
                        let _ = writeln!(out, "    {}", colour.paint(Hue::Red, &shown(&told)));
                    }
                }
                if users.len() > SHOWN_MAX {
                    let _ = writeln!(
                        out,
                        "\n  and {} more: --json has them all",
                        number(users.len() - SHOWN_MAX)
                    );
                }
            }
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {}", shown(note));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(a_time("1970-01-01T00:00:01Z"), Ok(1000));
        assert_eq!(a_time("1970-01-01T01:00:01.5+01:00"), Ok(1500));
        let ago = clock::at_ms() - a_time("2h").unwrap();
        assert!((7_140_000..=7_200_000).contains(&ago), "{ago}");
        for wrong in ["", "2", "h", "2w", "-2h", "yesterday", "99999999999999999999h", "2026-11-23"] {
            assert!(a_time(wrong).is_err(), "{wrong}");
        }
    }
}
