//! Servers as clusters: a pause of one server hits all of its users at once, and says nothing about
//! its version. Evidence that comes from such a *spell* is excused.
//!
//! # Spells
//!
//! Each request is one mark of its server: *slow* if it is older than a limit ([`Servers::limit`])
//! without an answer, *fast* if it is answered before; *failed* by then or not. A CUSUM over the
//! marks of one server (Page 1954) finds runs in which far more of them are bad than of stable's
//! usual ones. It counts marks and not time, so it is equally noisy for busy and for quiet servers.
//! A user who is bad again and again counts once in a run: a spell is a matter of many users. A run
//! whose score reaches `SPELL` is a spell, from its first bad mark on, as long as `DENSE` of its
//! marks are bad.
//!
//! # What is excused
//!
//! The rule is the same for both arms, so it does not look at labels. A spell is excused as long as
//! it is not longer than the spells of stable's single servers usually are
//! (`LONGER` × the longest of them + `MORE`; where stable has shown none, `UNSEEN` for slowness
//! and [`RESTART`] for failures). Failures are excused only where each arm has several servers, and
//! while another server of the same arm is sound. A spell that outlasts this counts from its beginning, as far as it has not been scored.
//!
//! How often spells begin is compared by a bet on each of them (a log-rank test with servers as
//! units): a spell begins on a server of `new` with the probability of new's share of the servers
//! that are free of spells, or of the requests, whichever is larger. Where `new` has too many,
//! nothing is excused any more.
//!
//! Assumptions: spells come to every server at one common rate, which may vary with time, and last
//! alike. One worse machine under the only server of `new` cannot be told from a worse version.
//!
//! Invariants: pure, time is an argument; memory is bounded by the number of servers.

mod keeping;
mod warm_up;

use super::save::{Eye, Pen};
use super::users::Unit;
use crate::domain::decide::Arm;
use std::collections::VecDeque;
use std::time::Duration;
pub use warm_up::Warming;

/// A run with this score, in nats, is a spell.
const SPELL: f64 = 6.0;
/// A score is never higher, so that the end of a long spell is seen as soon as that of a short one.
const SCORE_MAX: f64 = SPELL + 1.5;
/// A spell ends below this score: what is slow later is another matter.
const ENDS: f64 = SPELL * 0.8;
/// Spells of one server that are nearer to each other are one: a busy server's marks tell the parts
/// of one spell apart, and a quiet one's do not.
const MERGE: Duration = Duration::from_secs(1);
/// A run that is no spell yet begins anew with a bad mark at a lower score than this.
const STALE: f64 = SPELL / 3.0;
/// The share of bad marks in a spell: of slow ones, of failed ones.
const IN_SPELL: [f64; 2] = [0.35, 0.9];
/// Spells of one server that follow each other within this time are one event of their rate.
const APART: Duration = Duration::from_secs(10);
/// Stable's usual share is taken as at least this and at most that.
const USUAL: [f64; 2] = [0.001, 0.2];
/// Marks further apart are not of one run.
const GAP: Duration = Duration::from_secs(2);
/// Bad marks of a spell, at least: of slow ones, of failed ones.
const ENOUGH: [u32; 2] = [3, 2];
/// A bad mark after so many fine ones begins a run of its own: by chance it would prolong a spell.
const TRAIL: u64 = 8;
/// A run that is no spell yet may become one for so long.
const YOUNG: Duration = Duration::from_millis(500);
/// ... or, on a quiet server, until so many more marks, and for this long at most.
const MARKS_TO_SEE: f64 = 16.0;
const SIGHT_MAX: Duration = Duration::from_secs(3);
/// The rate of a server's requests is a slow average over this time.
const RATE_OVER: Duration = Duration::from_secs(60);
/// How long a spell may be where stable has shown none: a stall of a kind that it has never shown.
const UNSEEN: Duration = Duration::from_millis(500);
/// The same of failures: a restart of one of several servers.
pub const RESTART: Duration = Duration::from_secs(30);
/// A spell may be longer than the longest one of stable by this factor, and by so much more.
const LONGER: f64 = 1.5;
const MORE: Duration = Duration::from_millis(250);
/// Marks are of intervals of at most this length.
const INTERVAL: Duration = Duration::from_millis(250);
/// Failures this near to a spell of failures are of it.
const EDGE: Duration = Duration::from_millis(400);
/// No spell is excused for longer.
const EXCUSED_MAX: Duration = Duration::from_secs(30);
/// Spells of stable that are remembered, and for how long.
const REMEMBERED: usize = 256;
const MEMORY: Duration = Duration::from_secs(2 * 3600);
/// Ended spells of one server that are kept, and for how long: longer than any interval is open.
const KEPT: usize = 32;
const KEPT_FOR: Duration = Duration::from_secs(120);
/// Fewer bad marks are often chance: they say nothing of how long spells are.
const CHANCE: u32 = 3;
/// A server without a request for so long takes no part.
const IDLE: Duration = Duration::from_secs(60);
/// How many times as often the spells of `new` may come, by alternative.
const TIMES: [f64; 3] = [3.0, 10.0, 100.0];
/// Mean wealth of these alternatives at which `new` has too many spells.
const TOO_MANY: f64 = 2000.0;
/// Answers by which a warm-up may end.
const WARM_ANSWERS: u32 = 20;
/// Warm-ups of one server that count as such within [`WARM_SPAN`].
const WARM_TIMES: usize = 3;
const WARM_SPAN: Duration = Duration::from_secs(30 * 60);

/// What marks are about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    Slow,
    Failed,
}

/// Is evidence of a request excused?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excuse {
    No,
    Yes,
    /// Its server is in a run that may become a spell, or end as one.
    Undecided,
}

/// A server of an arm, by number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub arm: Arm,
    pub server: u8,
}

impl Place {
    /// Dense: both arms' servers alternate.
    pub fn index(self) -> usize {
        2 * usize::from(self.server) + self.arm.index()
    }

    pub fn from_index(index: usize) -> Place {
        let arm = Arm::BOTH[index % 2];
        Place { arm, server: (index / 2).min(255) as u8 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    from: Duration,
    until: Duration,
    bad: u32,
    from_mark: u64,
    last_mark: u64,
    excused: bool,
    /// It is known that it has ended, and is among stable's usual ones.
    is_over: bool,
}

/// The marks of one kind of one server.
#[derive(Clone, Debug, Default)]
struct Run {
    score: f64,
    /// Arrival of its first bad mark and of its last one.
    from: Duration,
    last: Duration,
    marked: Duration,
    is_spell: bool,
    /// Its beginning has not been bet on yet, and it is no part of the spell before it.
    apart: bool,
    /// Bad marks in it, and the users of the last ones.
    bad: u32,
    users: [Option<Unit>; USERS],
    /// Marks so far; at the first bad mark of the run, and at the last one.
    marks: u64,
    from_mark: u64,
    last_mark: u64,
    /// Ended spells, oldest first.
    past: VecDeque<Span>,
}

#[derive(Clone, Debug, Default)]
struct Server {
    runs: [Run; 2],
    seen: Duration,
    requests: f64,
    warm: Warm,
}

/// Warm-ups of one server.
#[derive(Clone, Debug, Default)]
struct Warm {
    /// Since when it is warming up.
    since: Option<Duration>,
    /// Of that, what passed before a restart.
    before: Duration,
    answers: u32,
    /// The last warm-ups: beginning and end.
    past: VecDeque<(Duration, Duration)>,
}

/// What stable's spells of one kind were like.
#[derive(Clone, Debug, Default)]
struct Usual {
    /// Share of bad marks.
    share: f64,
    /// When each ended, and how long it was.
    spells: VecDeque<(Duration, Duration)>,
    /// Wealth of the bets on how often they begin.
    wealth: [f64; TIMES.len()],
    began: [u64; 2],
}

#[derive(Clone, Debug)]
pub struct Servers {
    all: Vec<Server>,
    usual: [Usual; 2],
    limit: Option<Duration>,
    /// Since when the limit is known, and slow spells can be seen.
    limit_since: Option<Duration>,
    warm_up: Duration,
    /// Time that is left for warm-ups in this wave.
    warm_left: Duration,
    /// All of `new` warms up since then.
    release_since: Option<Duration>,
    /// Of that warm-up, what passed before a restart.
    release_before: Duration,
    release_answers: u32,
    release_past: Option<(Duration, Duration)>,
    at: Duration,
}

/// Warm-ups of a wave last for so long in all.
const WARM_WAVE: Duration = Duration::from_secs(300);

impl Servers {
    pub fn new(warm_up: Duration) -> Servers {
        let usual = || Usual { wealth: [1.0; TIMES.len()], ..Usual::default() };
        Servers {
            all: vec![],
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

    /// A request without an answer after this time is slow; `None`: nothing is known of stable yet.
    pub fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// What is usual for stable: its limit, and the shares of slow and of failed requests.
    pub fn set_usual(&mut self, limit: Duration, shares: [f64; 2]) {
        self.limit = Some(limit);
        self.limit_since.get_or_insert(self.at);
        self.usual.iter_mut().zip(shares).for_each(|(usual, share)| usual.share = share);
    }

    pub fn set_failed_share(&mut self, share: f64) {
        self.usual[Mark::Failed as usize].share = share;
    }

    /// Another attempt begins: how often spells begin is counted anew, and nothing warms up.
    pub fn begin_anew(&mut self, warm_up: Duration) {
        (self.warm_up, self.warm_left) = (warm_up, WARM_WAVE);
        (self.release_since, self.release_past) = (None, None);
        self.all.iter_mut().for_each(|server| server.warm = Warm::default());
        for usual in &mut self.usual {
            usual.wealth = [1.0; TIMES.len()];
            usual.began = [0; 2];
        }
    }

    fn server(&mut self, place: Place) -> &mut Server {
        let index = place.index();
        if index >= self.all.len() {
            self.all.resize_with(index + 1, Server::default);
        }
        &mut self.all[index]
    }

    /// A request came to a server.
    pub fn came(&mut self, place: Place, now: Duration) {
        let server = self.server(place);
        // A slow average: the share of requests by server.
        if now > server.seen {
            let passed = now.saturating_sub(server.seen).as_secs_f64();
            server.requests *= (-passed / RATE_OVER.as_secs_f64()).exp();
            server.seen = now;
        }
        server.requests += 1.0;
    }

    /// The requests of one interval of a server: the users of bad ones, and how many were fine. All
    /// of them, so that the order in which they come out does not matter.
    pub fn mark(
        &mut self,
        place: Place,
        kind: Mark,
        arrived: Duration,
        bad: &[Option<Unit>],
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
        let mut users: Vec<Option<Unit>> = vec![];
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
            // What follows at once is the same spell, however its marks lie.
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

    /// The run of a server has ended.
    fn close(&mut self, place: Place, kind: Mark, now: Duration) {
        let allowed = self.allowed(kind);
        let run = &mut self.server(place).runs[kind as usize];
        let (was_spell, from, until, bad) = (run.is_spell, run.from, run.last, run.bad);
        let (from_mark, last_mark, is_dense) = (run.from_mark, run.last_mark, run.is_dense());
        (run.score, run.is_spell) = (0.0, false);
        if !was_spell {
            return;
        }
        let length = until.saturating_sub(from);
        run.past.push_back(Span {
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

    /// Spells after which enough time has passed have ended. Those of stable say what is usual.
    fn end_spells(&mut self, place: Place, kind: Mark, now: Duration) {
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
        let Span { from, until, bad, from_mark, last_mark, .. } = *span;
        let sparse = !is_dense(bad, from_mark, last_mark);
        if place.arm == Arm::New || bad < CHANCE || sparse || self.is_shared(place, kind, from, until) {
            return;
        }
        let spells = &mut self.usual[kind as usize].spells;
        spells.push_back((now, until.saturating_sub(from)));
        while spells.len() > REMEMBERED
            || spells.front().is_some_and(|(at, _)| now.saturating_sub(*at) > MEMORY)
        {
            spells.pop_front();
        }
    }

    /// Were most of the servers in a spell at some of that time? Then it was no matter of single
    /// servers.
    fn is_shared(&self, place: Place, kind: Mark, from: Duration, until: Duration) -> bool {
        let mut others = [0, 0];
        for (_, server) in self.active(Some(place)) {
            others[usize::from(server.overlaps(kind, from, until))] += 1;
        }
        others[1] > others[0]
    }

    fn active(&self, without: Option<Place>) -> impl Iterator<Item = (Place, &Server)> {
        let skip = without.map(Place::index);
        self.all.iter().enumerate().filter_map(move |(index, server)| {
            let is_active = server.requests > 0.0 && self.at.saturating_sub(server.seen) <= IDLE;
            (is_active && Some(index) != skip).then(|| (Place::from_index(index), server))
        })
    }

    /// A spell begins here: is that what new's share of the servers lets expect?
    fn bet(&mut self, place: Place, kind: Mark, now: Duration) {
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

    /// How long a spell may be.
    pub fn allowed(&self, kind: Mark) -> Duration {
        let least = if kind == Mark::Slow { UNSEEN } else { RESTART };
        let longest = self.usual[kind as usize].spells.iter().map(|(_, length)| *length).max();
        let longest = longest.map_or(Duration::ZERO, |longest| longest.mul_f64(LONGER) + MORE);
        longest.clamp(least, EXCUSED_MAX.max(least))
    }

    /// Have spells of `new` begun so much more often than stable's that none is excused any more?
    pub fn too_many(&self, kind: Mark) -> bool {
        let wealth = &self.usual[kind as usize].wealth;
        wealth.iter().sum::<f64>() / wealth.len() as f64 >= TOO_MANY
    }

    /// Spells that have begun on servers of this arm since the attempt began.
    pub fn spells(&self, kind: Mark, arm: Arm) -> u64 {
        self.usual[kind as usize].began[arm.index()]
    }

    /// Spells of single servers of stable that are remembered, and the longest of them.
    pub fn usual_spells(&self, kind: Mark) -> (usize, Duration) {
        let spells = &self.usual[kind as usize].spells;
        (spells.len(), spells.iter().map(|(_, length)| *length).max().unwrap_or_default())
    }

    /// For so long spells of slowness could be seen; `None`: not yet.
    pub fn seen_for(&self, now: Duration) -> Option<Duration> {
        self.limit_since.map(|since| now.saturating_sub(since))
    }

    /// How long ago the first of the spells in [`Servers::usual_spells`] ended.
    pub fn usual_for(&self, kind: Mark, now: Duration) -> Option<Duration> {
        let first = self.usual[kind as usize].spells.front();
        first.map(|(at, _)| now.saturating_sub(*at))
    }

    /// Was nothing out of the ordinary on any server since this time?
    pub fn calm_since(&self, since: Duration) -> bool {
        let margin = self.limit.unwrap_or_default() + EDGE;
        let warm = self.release_since.is_some()
            || self.release_past.is_some_and(|(_, end)| end >= since)
            || self.all.iter().any(|server| server.warm.touches(since));
        !warm
            && self.all.iter().all(|server| {
                let calm = |run: &Run| {
                    run.score == 0.0 && run.past.back().is_none_or(|span| span.until + margin < since)
                };
                server.runs.iter().all(calm)
            })
    }

    /// Is the slowness of a request that arrived at that time excused?
    pub fn slow(&self, place: Place, arrived: Duration, now: Duration) -> Excuse {
        // While all of `new` warms up there is nothing to compare with.
        if self.release_was_warming(arrived) || self.is_warming(place, arrived) {
            return Excuse::Yes;
        }
        // A failure is no answer in time either.
        match self.failed(place, arrived, now) {
            Excuse::No => {}
            found => return found,
        }
        if self.too_many(Mark::Slow) {
            return Excuse::No;
        }
        self.in_spell(place, Mark::Slow, arrived, now)
    }

    /// Is the failure of a request that arrived at that time excused?
    pub fn failed(&self, place: Place, arrived: Duration, now: Duration) -> Excuse {
        if self.too_many(Mark::Failed) {
            return Excuse::No;
        }
        let found = self.in_spell(place, Mark::Failed, arrived, now);
        match found {
            Excuse::No => found,
            _ if self.both_have_others() && self.others_are_sound(place, arrived) => found,
            _ => Excuse::No,
        }
    }

    /// Is evidence of this kind excused, as far as is known now? A spell that goes on is, until it
    /// outlasts what is allowed.
    pub fn is_excused(&self, kind: Mark, place: Place, arrived: Duration, now: Duration) -> bool {
        let found = match kind {
            Mark::Slow => self.slow(place, arrived, now),
            Mark::Failed => self.failed(place, arrived, now),
        };
        let is_spell =
            || self.all.get(place.index()).is_some_and(|server| server.runs[kind as usize].is_spell);
        match found {
            Excuse::No => false,
            Excuse::Yes => true,
            // Slowness that is left out now is held, and counts later if no spell comes of it.
            Excuse::Undecided => kind == Mark::Slow || is_spell(),
        }
    }

    /// Has each arm another server? Else the failures of one arm would be excused, and those of the
    /// other would not.
    fn both_have_others(&self) -> bool {
        let servers = |arm: Arm| self.active(None).filter(|(place, _)| place.arm == arm).count();
        Arm::BOTH.into_iter().all(|arm| servers(arm) > 1)
    }

    /// Was another server of the same arm free of failures at that time?
    fn others_are_sound(&self, place: Place, at: Duration) -> bool {
        let mut others =
            self.active(Some(place)).filter(|(other, _)| other.arm == place.arm).map(|(_, server)| server);
        others.any(|server| !server.runs[Mark::Failed as usize].touches(at))
    }

    fn in_spell(&self, place: Place, kind: Mark, arrived: Duration, now: Duration) -> Excuse {
        let Some(server) = self.all.get(place.index()) else { return Excuse::No };
        let run = &server.runs[kind as usize];
        // Before its first bad mark, and after its last one, a spell may have begun and not ended.
        let slow = kind == Mark::Slow;
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
        let within = |span: &&Span| arrived + margin >= span.from && arrived <= span.until + margin;
        match run.past.iter().rev().find(within) {
            Some(span) if span.excused => Excuse::Yes,
            _ => Excuse::No,
        }
    }

    /// Time goes on.
    pub fn tick(&mut self, now: Duration) {
        let passed = now.saturating_sub(std::mem::replace(&mut self.at, now));
        for index in 0..self.all.len() {
            for kind in [Mark::Slow, Mark::Failed] {
                let run = &self.all[index].runs[kind as usize];
                if run.score > 0.0 && now.saturating_sub(run.marked) > GAP {
                    self.close(Place::from_index(index), kind, now);
                }
                self.end_spells(Place::from_index(index), kind, now);
            }
        }
        self.warm_tick(now, passed);
    }
}

impl Server {
    /// How long it takes to see a spell of slowness, or its end.
    fn sight(&self) -> Duration {
        let rate = self.requests / RATE_OVER.as_secs_f64();
        Duration::from_secs_f64(MARKS_TO_SEE / rate.max(0.1)).min(SIGHT_MAX)
    }

    /// How long a run that is no spell yet may become one.
    fn young(&self, kind: Mark) -> Duration {
        if kind == Mark::Slow { self.sight().max(YOUNG) } else { YOUNG }
    }

    /// Spells that are nearer to each other than this are one.
    fn merge(&self, kind: Mark) -> Duration {
        if kind == Mark::Slow { self.sight().max(MERGE) } else { MERGE }
    }

    /// Was it in a spell at some time between these?
    fn overlaps(&self, kind: Mark, from: Duration, until: Duration) -> bool {
        let run = &self.runs[kind as usize];
        (run.is_spell && run.from <= until)
            || run.past.iter().any(|span| span.from <= until && span.until >= from)
    }

    fn is_in_spell(&self, kind: Mark, at: Duration) -> bool {
        let run = &self.runs[kind as usize];
        (run.is_spell && at >= run.from) || run.past.iter().any(|span| at >= span.from && at <= span.until)
    }
}

/// So many of the marks of a spell are bad, at least.
const DENSE: f64 = 0.08;
/// Users of a run that are known.
const USERS: usize = 4;

fn is_dense(bad: u32, from: u64, last: u64) -> bool {
    f64::from(bad) >= DENSE * (last.saturating_sub(from) + 1) as f64
}

impl Run {
    fn is_dense(&self) -> bool {
        is_dense(self.bad, self.from_mark, self.last_mark)
    }

    /// Is there a spell at that time? A single failure by chance is none.
    fn touches(&self, at: Duration) -> bool {
        (self.is_spell && at + YOUNG >= self.from)
            || self.past.iter().any(|span| at >= span.from && at <= span.until)
    }
}

#[cfg(test)]
#[path = "servers_tests.rs"]
mod tests;
