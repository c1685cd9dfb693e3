//! Servers as clusters. A pause of one server hits all of its users at once and is no evidence
//! about its version.
//! Evidence from such a *spell* is excused.
//!
//! # Spells
//!
//! Each request is one mark of its server. It is *slow* if it has no answer at the age
//! [`ServerClusters::limit`], else *fast*; by then it has *failed* or not.
//! A CUSUM over the marks of one server (Page 1954) finds runs with far more bad marks than is
//! usual for stable.
//! The CUSUM counts marks, not time, so it is equally noisy for busy and for quiet servers.
//! Repeated bad marks of one user count once in a run: a spell affects many users.
//! A run whose score reaches `SPELL` is a spell from its first bad mark on, as long as `DENSE` of
//! its marks are bad.
//!
//! # Excuses
//!
//! The rule is the same for both arms, so it does not depend on labels.
//! A spell is excused up to the usual length of the spells of single servers of stable: `LONGER` ×
//! the longest of them + `MORE`. Where stable has shown none, the limit is `UNSEEN` for slowness
//! and [`RESTART`] for failures.
//! Failures are excused only where each arm has several servers, and while another server of the
//! same arm is sound.
//! A spell that outlasts its limit counts from its beginning, as far as it has not been scored.
//!
//! The rate of spells is compared by a bet on each spell (a log-rank test with servers as units).
//! A spell begins on a server of `new` with the probability of new's share of the servers without a
//! spell, or of the requests, whichever is larger.
//! If `new` has too many spells, nothing is excused any more.
//!
//! Assumptions: the rate of spells may vary with time but is the same for all servers, and so is
//! their length. A bad machine under the only server of `new` cannot be distinguished from a bad
//! version.
//!
//! Invariants: pure, time is an argument; memory is bounded by the number of servers.

mod persistence;
mod silence;
mod warm_up;

use super::users::UserUnit;
use crate::stats::arm::Arm;
use crate::stats::codec::{Decoder, Encoder};
use std::collections::VecDeque;
use std::time::Duration;
pub use warm_up::WarmUp;

/// The score of a spell, in nats.
const SPELL: f64 = 6.0;
/// Upper bound of a score, so that the end of a long spell is found as soon as that of a short one.
const SCORE_MAX: f64 = SPELL + 1.5;
/// A spell ends below this score. Later slow marks belong to another run.
const ENDS: f64 = SPELL * 0.8;
/// Spells of one server closer than this are one: only a busy server has enough marks to separate
/// the parts of one spell.
const MERGE: Duration = Duration::from_secs(1);
/// A run that is not a spell restarts at a bad mark while its score is below this.
const STALE: f64 = SPELL / 3.0;
/// The share of bad marks in a spell: slow, failed.
const IN_SPELL: [f64; 2] = [0.35, 0.9];
/// Spells of one server closer than this are one event of the rate.
const APART: Duration = Duration::from_secs(10);
/// Bounds of stable's usual share of bad marks.
const USUAL: [f64; 2] = [0.001, 0.2];
/// A longer gap between marks ends a run.
const GAP: Duration = Duration::from_secs(2);
/// Minimum of bad marks in a spell: slow, failed.
const ENOUGH: [u32; 2] = [3, 2];
/// A bad mark after more fine ones than this starts a new run: chance would otherwise prolong the
/// spell.
const TRAIL: u64 = 8;
/// A run may become a spell up to this age.
const YOUNG: Duration = Duration::from_millis(500);
/// On a quiet server the age is the time of this many marks, and `SIGHT_MAX` at most.
const MARKS_TO_SEE: f64 = 16.0;
const SIGHT_MAX: Duration = Duration::from_secs(3);
/// Averaging time of a server's request rate.
const RATE_OVER: Duration = Duration::from_secs(60);
/// Excused length of a slow spell if stable has shown none.
const UNSEEN: Duration = Duration::from_millis(500);
/// Excused length of a failure spell if stable has shown none: a restart of one of several servers.
pub const RESTART: Duration = Duration::from_secs(30);
/// Factor and addend on stable's longest spell, for the excused length.
const LONGER: f64 = 1.5;
const MORE: Duration = Duration::from_millis(250);
/// Maximum length of the intervals of marks.
const INTERVAL: Duration = Duration::from_millis(250);
/// Failures this close to a spell of failures belong to it.
const EDGE: Duration = Duration::from_millis(400);
/// Upper bound of the excused length.
const EXCUSED_MAX: Duration = Duration::from_secs(30);
/// Remembered spells of stable: number and age.
const REMEMBERED: usize = 256;
const MEMORY: Duration = Duration::from_secs(2 * 3600);
/// Ended spells kept per server: number, and an age above that of any open interval.
const KEPT: usize = 32;
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Fewer bad marks are often chance: the length of such a spell is not learnt.
const CHANCE: u32 = 3;
/// A server without a request for this long is ignored.
const IDLE: Duration = Duration::from_secs(60);
/// Alternatives: the rate of spells of `new` as a multiple of stable's.
const TIMES: [f64; 3] = [3.0, 10.0, 100.0];
/// Mean wealth of the alternatives at which `new` has too many spells.
const TOO_MANY: f64 = 2000.0;
/// Answers required for the end of a warm-up.
const WARM_ANSWERS: u32 = 20;
/// Warm-ups of one server that are accepted within [`WARM_SPAN`].
const WARM_TIMES: usize = 3;
const WARM_SPAN: Duration = Duration::from_secs(30 * 60);

/// A kind of mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ServerMark {
    Slow,
    Failed,
}

/// Whether the evidence of a request is excused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excuse {
    No,
    Yes,
    /// Its server is in a run that may become a spell, or in a spell that may end within its limit.
    Undecided,
}

/// A server of an arm, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServerIndex {
    pub arm: Arm,
    pub server: u8,
}

impl ServerIndex {
    /// A dense index: the servers of both arms alternate.
    pub fn index(self) -> usize {
        2 * usize::from(self.server) + self.arm.index()
    }

    pub fn from_index(index: usize) -> ServerIndex {
        let arm = Arm::BOTH[index % 2];
        ServerIndex { arm, server: (index / 2).min(255) as u8 }
    }
}

#[derive(Clone, Copy, Debug)]
struct SpellSpan {
    from: Duration,
    until: Duration,
    bad: u32,
    from_mark: u64,
    last_mark: u64,
    excused: bool,
    /// Its end is certain. A spell of stable may then count as usual.
    is_over: bool,
}

/// The marks of one kind of one server.
#[derive(Clone, Debug, Default)]
struct MarkRun {
    score: f64,
    /// Arrival of its first and of its last bad mark.
    from: Duration,
    last: Duration,
    marked: Duration,
    is_spell: bool,
    /// It is separate from the spell before it, and its beginning has not been bet on.
    apart: bool,
    /// Number of bad marks, and the users of the last ones.
    bad: u32,
    users: [Option<UserUnit>; USERS],
    /// Number of marks so far, at the run's first bad mark, and at its last one.
    marks: u64,
    from_mark: u64,
    last_mark: u64,
    /// Ended spells, oldest first.
    past: VecDeque<SpellSpan>,
}

#[derive(Clone, Debug, Default)]
struct ServerHistory {
    runs: [MarkRun; 2],
    /// When the beginning of a spell was last bet on, by kind.
    bet_at: [Option<Duration>; 2],
    answers: silence::ServerAnswers,
    seen: Duration,
    requests: f64,
    warm: ServerWarmUps,
}

/// Warm-ups of one server.
#[derive(Clone, Debug, Default)]
struct ServerWarmUps {
    /// Start of the present warm-up.
    since: Option<Duration>,
    /// Of that, what passed before a restart.
    before: Duration,
    answers: u32,
    /// The last warm-ups: start and end.
    past: VecDeque<(Duration, Duration)>,
}

/// Stable's spells of one kind.
#[derive(Clone, Debug, Default)]
struct UsualSpells {
    /// Usual share of bad marks.
    share: f64,
    /// End and length of each.
    spells: VecDeque<(Duration, Duration)>,
    /// Wealth of the bets on the rate of spells, by alternative.
    wealth: [f64; TIMES.len()],
    began: [u64; 2],
}

#[derive(Clone, Debug)]
pub struct ServerClusters {
    all: Vec<ServerHistory>,
    /// End and length of silences of stable's single servers.
    silences: VecDeque<(Duration, Duration)>,
    usual: [UsualSpells; 2],
    limit: Option<Duration>,
    /// When the limit became known. Slow spells are found from then on.
    limit_since: Option<Duration>,
    warm_up: Duration,
    /// Warm-up time left in this wave.
    warm_left: Duration,
    /// Start of the present warm-up of all of `new`.
    release_since: Option<Duration>,
    /// Of that warm-up, what passed before a restart.
    release_before: Duration,
    release_answers: u32,
    release_past: Option<(Duration, Duration)>,
    at: Duration,
}

/// Maximum total time of the warm-ups of a wave.
const WARM_WAVE: Duration = Duration::from_secs(300);

impl ServerClusters {
    pub fn new(warm_up: Duration) -> ServerClusters {
        let usual = || UsualSpells { wealth: [1.0; TIMES.len()], ..UsualSpells::default() };
        ServerClusters {
            all: vec![],
            silences: VecDeque::new(),
            usual: [usual(), usual()],
            limit: None,
            limit_since: None,
            warm_up,
            warm_left: WARM_WAVE,
            release_since: None,
            release_before: Duration::ZERO,
            release_answers: 0,
            release_past: None,
            at: Duration::ZERO,
        }
    }

    /// The age at which a request without an answer is slow. `None`: too little is known of stable.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Sets stable's limit and its usual shares of slow and of failed requests.
    pub fn set_usual(&mut self, limit: Duration, shares: [f64; 2]) {
        self.limit = Some(limit);
        self.limit_since.get_or_insert(self.at);
        self.usual.iter_mut().zip(shares).for_each(|(usual, share)| usual.share = share);
    }

    /// Starts another attempt: resets the bets on the rate of spells, and all warm-ups.
    /// Forgets the servers of `new`: a sound one of the attempt before would excuse a failing one
    /// of this attempt.
    pub fn begin_anew(&mut self, warm_up: Duration) {
        (self.warm_up, self.warm_left) = (warm_up, WARM_WAVE);
        (self.release_since, self.release_past) = (None, None);
        for (index, server) in self.all.iter_mut().enumerate() {
            match ServerIndex::from_index(index).arm {
                Arm::New => *server = ServerHistory::default(),
                Arm::Stable => server.warm = ServerWarmUps::default(),
            }
        }
        for usual in &mut self.usual {
            usual.wealth = [1.0; TIMES.len()];
            usual.began = [0; 2];
        }
    }

    fn server(&mut self, place: ServerIndex) -> &mut ServerHistory {
        let index = place.index();
        if index >= self.all.len() {
            self.all.resize_with(index + 1, ServerHistory::default);
        }
        &mut self.all[index]
    }

    /// Counts the arrival of a request at a server.
    pub fn came(&mut self, place: ServerIndex, now: Duration) {
        let server = self.server(place);
        // An exponential average, used for the share of requests by server.
        if now > server.seen {
            let passed = now.saturating_sub(server.seen).as_secs_f64();
            server.requests *= (-passed / RATE_OVER.as_secs_f64()).exp();
            server.seen = now;
        }
        server.requests += 1.0;
    }

    /// Takes all requests of one interval of a server at once, so that the order of outcomes does
    /// not matter: the users of the bad ones, and the number of fine ones.
    pub fn mark(
        &mut self,
        place: ServerIndex,
        kind: ServerMark,
        arrived: Duration,
        bad: &[Option<UserUnit>],
        fine: u64,
        now: Duration,
    ) {
        let usual = self.usual[kind as usize].share.clamp(USUAL[0], USUAL[1]);
        let spell = IN_SPELL[kind as usize].max(2.0 * usual);
        let (up, down) = ((spell / usual).ln(), ((1.0 - spell) / (1.0 - usual)).ln());
        let run = &mut self.server(place).runs[kind as usize];
        let trails = run.is_spell && !bad.is_empty() && run.marks - run.last_mark > TRAIL;
        let late = trails || now.saturating_sub(run.marked) > GAP;
        run.marked = now;
        run.marks += bad.len() as u64 + fine;
        if run.score == 0.0 && bad.is_empty() {
            return;
        }
        if late {
            self.close(place, kind, now);
        }
        let server = self.server(place);
        let merge = server.merge(kind);
        let run = &mut server.runs[kind as usize];
        let known = if run.score > 0.0 { run.users } else { [None; USERS] };
        let mut users: Vec<Option<UserUnit>> = vec![];
        for user in bad {
            if user.is_none() || !(known.contains(user) || users.contains(user)) {
                users.push(*user);
            }
        }
        let step = users.len() as f64 * up + fine as f64 * down;
        if !users.is_empty() && step > 0.0 {
            let begins = run.score == 0.0 || (!run.is_spell && run.score < STALE);
            if begins {
                (run.score, run.bad, run.users) = (0.0, 0, [None; USERS]);
                run.from_mark = run.marks - bad.len() as u64 - fine;
            }
            for user in &users {
                run.users[run.bad as usize % USERS] = *user;
                run.bad += 1;
            }
            run.last_mark = run.marks;
            run.from = if begins { arrived } else { run.from.min(arrived) };
            run.last = if begins { arrived } else { run.last.max(arrived) };
        }
        run.score = (run.score + step).clamp(0.0, SCORE_MAX);
        let ended = run.score == 0.0 || (run.is_spell && run.score < ENDS);
        let enough = run.bad >= ENOUGH[kind as usize];
        let begins = run.score >= SPELL && enough && !run.is_spell;
        if begins {
            run.is_spell = true;
            run.apart = run.past.back().is_none_or(|span| run.from.saturating_sub(span.until) >= APART);
            // A run that follows at once belongs to the same spell.
            if let Some(span) = run.past.back().copied()
                && !span.is_over
                && run.from <= span.until + merge
            {
                run.past.pop_back();
                run.from = run.from.min(span.from);
                run.bad = run.bad.saturating_add(span.bad);
                run.from_mark = span.from_mark;
            }
        }
        // Fewer bad marks are often chance.
        if run.is_spell && run.apart && run.bad >= CHANCE {
            run.apart = false;
            self.bet(place, kind, now);
        }
        if ended {
            self.close(place, kind, now);
        }
    }

    /// Ends the run of a server.
    fn close(&mut self, place: ServerIndex, kind: ServerMark, now: Duration) {
        let allowed = self.allowed(kind);
        let run = &mut self.server(place).runs[kind as usize];
        let (was_spell, from, until, bad) = (run.is_spell, run.from, run.last, run.bad);
        let (from_mark, last_mark, is_dense) = (run.from_mark, run.last_mark, run.is_dense());
        (run.score, run.is_spell) = (0.0, false);
        if !was_spell {
            return;
        }
        let length = until.saturating_sub(from);
        run.past.push_back(SpellSpan {
            from,
            until,
            bad,
            from_mark,
            last_mark,
            excused: length <= allowed && is_dense,
            is_over: false,
        });
        while run.past.len() > KEPT
            || run.past.front().is_some_and(|span| now.saturating_sub(span.until) > KEPT_FOR)
        {
            run.past.pop_front();
        }
    }

    /// Marks spells as over after enough time. Those of stable define the usual length.
    fn end_spells(&mut self, place: ServerIndex, kind: ServerMark, now: Duration) {
        let limit = self.limit.unwrap_or_default();
        let server = self.server(place);
        let merge = limit + server.merge(kind);
        let run = &mut server.runs[kind as usize];
        let Some(span) =
            run.past.back_mut().filter(|span| !span.is_over && now.saturating_sub(span.until) > merge)
        else {
            return;
        };
        span.is_over = true;
        let SpellSpan { from, until, bad, from_mark, last_mark, .. } = *span;
        let sparse = !is_dense(bad, from_mark, last_mark);
        if place.arm == Arm::New || bad < CHANCE || sparse || self.is_shared(place, kind, from, until) {
            return;
        }
        let spells = &mut self.usual[kind as usize].spells;
        keep(spells, now, until.saturating_sub(from));
    }

    /// True if most other servers were in a spell during that time: it is not a spell of a single
    /// server.
    fn is_shared(&self, place: ServerIndex, kind: ServerMark, from: Duration, until: Duration) -> bool {
        let mut others = [0, 0];
        for (_, server) in self.active(Some(place)) {
            others[usize::from(server.overlaps(kind, from, until))] += 1;
        }
        others[1] > others[0]
    }

    fn active(&self, without: Option<ServerIndex>) -> impl Iterator<Item = (ServerIndex, &ServerHistory)> {
        let skip = without.map(ServerIndex::index);
        self.all.iter().enumerate().filter_map(move |(index, server)| {
            let is_active = server.requests > 0.0 && self.at.saturating_sub(server.seen) <= IDLE;
            (is_active && Some(index) != skip).then(|| (ServerIndex::from_index(index), server))
        })
    }

    /// Bets on the arm in which a spell begins, against new's share of the servers.
    /// Spells that follow each other soon are one event.
    fn bet(&mut self, place: ServerIndex, kind: ServerMark, now: Duration) {
        let last = &mut self.server(place).bet_at[kind as usize];
        if last.is_some_and(|last| now.saturating_sub(last) < APART) {
            return;
        }
        *last = Some(now);
        let mut free = [0.0, 0.0];
        let mut requests = [0.0, 0.0];
        for (at, server) in self.active(None) {
            if at == place || !server.is_in_spell(kind, now) {
                free[at.arm.index()] += 1.0;
            }
            requests[at.arm.index()] += server.requests;
        }
        self.usual[kind as usize].began[place.arm.index()] += 1;
        let share = |of: [f64; 2]| of[Arm::New.index()] / (of[0] + of[1]).max(1.0);
        let p = f64::max(share(free), share(requests));
        if p <= 0.0 || p >= 1.0 {
            return;
        }
        for (wealth, times) in self.usual[kind as usize].wealth.iter_mut().zip(TIMES) {
            let won = if place.arm == Arm::New { times } else { 1.0 };
            *wealth = (*wealth * won / (1.0 + (times - 1.0) * p)).clamp(1e-6, 1e12);
        }
    }

    /// Excused length of a spell.
    pub fn allowed(&self, kind: ServerMark) -> Duration {
        let least = if kind == ServerMark::Slow { UNSEEN } else { RESTART };
        let longest = self.usual[kind as usize].spells.iter().map(|(_, length)| *length).max();
        let silences = self.usual_silences().filter(|_| kind == ServerMark::Slow);
        let longest = longest.max(silences.map(|(_, longest)| longest));
        let longest = longest.map_or(Duration::ZERO, |longest| longest.mul_f64(LONGER) + MORE);
        longest.clamp(least, EXCUSED_MAX.max(least))
    }

    /// Spells of `new` begin so much more often than stable's that none is excused any more.
    pub fn too_many(&self, kind: ServerMark) -> bool {
        let wealth = &self.usual[kind as usize].wealth;
        wealth.iter().sum::<f64>() / wealth.len() as f64 >= TOO_MANY
    }

    /// Spells that began in this arm since the attempt began.
    pub fn spells(&self, kind: ServerMark, arm: Arm) -> u64 {
        self.usual[kind as usize].began[arm.index()]
    }

    /// Number of the remembered spells of single servers of stable, and the longest.
    pub fn usual_spells(&self, kind: ServerMark) -> (usize, Duration) {
        let spells = &self.usual[kind as usize].spells;
        let longest = spells.iter().map(|(_, length)| *length).max().unwrap_or_default();
        let silences = self.usual_silences().filter(|_| kind == ServerMark::Slow).unwrap_or_default();
        (spells.len().max(silences.0), longest.max(silences.1))
    }

    /// Time since slow spells can be found. `None`: not yet.
    pub fn seen_for(&self, now: Duration) -> Option<Duration> {
        self.limit_since.map(|since| now.saturating_sub(since))
    }

    /// Time since the end of the oldest spell in [`ServerClusters::usual_spells`].
    pub fn usual_for(&self, kind: ServerMark, now: Duration) -> Option<Duration> {
        let first = self.usual[kind as usize].spells.front();
        first.map(|(at, _)| now.saturating_sub(*at))
    }

    /// No spell, run or warm-up on any server since this time.
    pub fn calm_since(&self, since: Duration) -> bool {
        let margin = self.limit.unwrap_or_default() + EDGE;
        let warm = self.release_since.is_some()
            || self.release_past.is_some_and(|(_, end)| end >= since)
            || self.all.iter().any(|server| server.warm.touches(since));
        !warm
            && self.all.iter().all(|server| {
                let calm = |run: &MarkRun| {
                    run.score == 0.0 && run.past.back().is_none_or(|span| span.until + margin < since)
                };
                server.runs.iter().all(calm)
            })
    }

    /// Excuse for the slowness of a request that arrived at that time.
    pub fn slow(&self, place: ServerIndex, arrived: Duration, now: Duration) -> Excuse {
        // While all of `new` warms up there is no comparison.
        if self.release_was_warming(arrived) || self.is_warming(place, arrived) {
            return Excuse::Yes;
        }
        // A failed request has no answer in time either.
        match self.failed(place, arrived, now) {
            Excuse::No => {}
            found => return found,
        }
        if self.too_many(ServerMark::Slow) {
            return Excuse::No;
        }
        self.in_spell(place, ServerMark::Slow, arrived, now)
    }

    /// Excuse for the failure of a request that arrived at that time.
    pub fn failed(&self, place: ServerIndex, arrived: Duration, now: Duration) -> Excuse {
        if self.too_many(ServerMark::Failed) {
            return Excuse::No;
        }
        let found = self.in_spell(place, ServerMark::Failed, arrived, now);
        match found {
            Excuse::No => found,
            _ if self.both_have_others() && self.others_are_sound(place, arrived) => found,
            _ => Excuse::No,
        }
    }

    /// True if this evidence is excused as of now. A spell in progress is excused until it outlasts
    /// its limit.
    pub fn is_excused(&self, kind: ServerMark, place: ServerIndex, arrived: Duration, now: Duration) -> bool {
        let found = match kind {
            ServerMark::Slow => self.slow(place, arrived, now),
            ServerMark::Failed => self.failed(place, arrived, now),
        };
        let is_spell =
            || self.all.get(place.index()).is_some_and(|server| server.runs[kind as usize].is_spell);
        match found {
            Excuse::No => false,
            Excuse::Yes => true,
            // Undecided slowness is held, and counts later if no spell comes of it.
            Excuse::Undecided => kind == ServerMark::Slow || is_spell(),
        }
    }

    /// True if each arm has another server. Otherwise the failures of one arm alone would be
    /// excused.
    fn both_have_others(&self) -> bool {
        let servers = |arm: Arm| self.active(None).filter(|(place, _)| place.arm == arm).count();
        Arm::BOTH.into_iter().all(|arm| servers(arm) > 1)
    }

    /// True if another server of the same arm had no failure spell at that time.
    fn others_are_sound(&self, place: ServerIndex, at: Duration) -> bool {
        let mut others =
            self.active(Some(place)).filter(|(other, _)| other.arm == place.arm).map(|(_, server)| server);
        others.any(|server| !server.runs[ServerMark::Failed as usize].touches(at))
    }

    fn in_spell(&self, place: ServerIndex, kind: ServerMark, arrived: Duration, now: Duration) -> Excuse {
        let Some(server) = self.all.get(place.index()) else { return Excuse::No };
        let run = &server.runs[kind as usize];
        // A spell may begin before its first bad mark and end after its last one.
        let slow = kind == ServerMark::Slow;
        let margin = if slow { self.limit.unwrap_or_default() + INTERVAL } else { EDGE };
        if run.score > 0.0 && arrived + margin >= run.from {
            let length = run.last.saturating_sub(run.from);
            return match run.is_spell {
                true if length > self.allowed(kind) || !run.is_dense() => Excuse::No,
                true => Excuse::Undecided,
                false if now.saturating_sub(run.from) < margin + server.young(kind) => Excuse::Undecided,
                false => Excuse::No,
            };
        }
        let within = |span: &&SpellSpan| arrived + margin >= span.from && arrived <= span.until + margin;
        match run.past.iter().rev().find(within) {
            Some(span) if span.excused => Excuse::Yes,
            _ => Excuse::No,
        }
    }

    /// Ends runs and spells whose time has passed.
    pub fn tick(&mut self, now: Duration) {
        let passed = now.saturating_sub(std::mem::replace(&mut self.at, now));
        for index in 0..self.all.len() {
            for kind in [ServerMark::Slow, ServerMark::Failed] {
                let run = &self.all[index].runs[kind as usize];
                if run.score > 0.0 && now.saturating_sub(run.marked) > GAP {
                    self.close(ServerIndex::from_index(index), kind, now);
                }
                self.end_spells(ServerIndex::from_index(index), kind, now);
            }
        }
        self.warm_tick(now, passed);
    }
}

/// Remembers a spell of stable.
fn keep(spells: &mut VecDeque<(Duration, Duration)>, now: Duration, length: Duration) {
    spells.push_back((now, length));
    while spells.len() > REMEMBERED || spells.front().is_some_and(|(at, _)| now.saturating_sub(*at) > MEMORY)
    {
        spells.pop_front();
    }
}

impl ServerHistory {
    /// The time needed to find a slow spell or its end.
    fn detection_limit(&self) -> Duration {
        let rate = self.requests / RATE_OVER.as_secs_f64();
        Duration::from_secs_f64(MARKS_TO_SEE / rate.max(0.1)).min(SIGHT_MAX)
    }

    /// The age up to which a run may become a spell.
    fn young(&self, kind: ServerMark) -> Duration {
        if kind == ServerMark::Slow { self.detection_limit().max(YOUNG) } else { YOUNG }
    }

    /// Spells closer than this are one.
    fn merge(&self, kind: ServerMark) -> Duration {
        if kind == ServerMark::Slow { self.detection_limit().max(MERGE) } else { MERGE }
    }

    /// True if it was in a spell at some time between these.
    fn overlaps(&self, kind: ServerMark, from: Duration, until: Duration) -> bool {
        let run = &self.runs[kind as usize];
        (run.is_spell && run.from <= until)
            || run.past.iter().any(|span| span.from <= until && span.until >= from)
    }

    fn is_in_spell(&self, kind: ServerMark, at: Duration) -> bool {
        let run = &self.runs[kind as usize];
        (run.is_spell && at >= run.from) || run.past.iter().any(|span| at >= span.from && at <= span.until)
    }
}

/// Minimum share of bad marks in a spell.
const DENSE: f64 = 0.08;
/// Remembered users of a run.
const USERS: usize = 4;

fn is_dense(bad: u32, from: u64, last: u64) -> bool {
    f64::from(bad) >= DENSE * (last.saturating_sub(from) + 1) as f64
}

impl MarkRun {
    fn is_dense(&self) -> bool {
        is_dense(self.bad, self.from_mark, self.last_mark)
    }

    /// True if there is a spell at that time. A single chance failure is no spell.
    fn touches(&self, at: Duration) -> bool {
        (self.is_spell && at + YOUNG >= self.from)
            || self.past.iter().any(|span| at >= span.from && at <= span.until)
    }
}

#[cfg(test)]
mod tests;
