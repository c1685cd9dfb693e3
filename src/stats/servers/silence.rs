//! Silences: a server has requests and answers none of them. A balancer prefers the least loaded
//! server, so a server that pauses beside others keeps one or two requests: too few marks for a
//! spell. The only server of `new` keeps all of its requests. The length and the rate of pauses are
//! therefore known from silences, too.
//!
//! Invariants: constant memory for each server. A silence of most of the servers at once is no
//! pause of a single one. Less than [`KNOWN`] silences say nothing of their usual length.

use super::*;

/// Shorter silences are gaps between requests.
const SILENCE_MIN: Duration = Duration::from_millis(250);
/// Silences of stable from which on their length is known.
const KNOWN: usize = 3;

/// The answers of one server.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ServerAnswers {
    last: Duration,
    /// Start and end of the last silence.
    silence: (Duration, Duration),
}

impl ServerClusters {
    /// A server answers a request of this arrival.
    pub fn answers(&mut self, place: ServerIndex, arrived: Duration, at: Duration) {
        self.answered(place);
        let shortest = self.limit.map(|limit| limit.max(SILENCE_MIN));
        let answers = &mut self.server(place).answers;
        let from = answers.last.max(arrived);
        answers.last = answers.last.max(at);
        let length = at.saturating_sub(from);
        if shortest.is_none_or(|shortest| length < shortest) {
            return;
        }
        answers.silence = (from, at);
        if self.is_silence_shared(place, from, at) || self.was_warming(Some(place), arrived) {
            return;
        }
        self.bet(place, ServerMark::Slow, at);
        if place.arm == Arm::Stable {
            keep(&mut self.silences, at, length);
        }
    }

    /// Were most of the other servers silent at some of that time?
    fn is_silence_shared(&self, place: ServerIndex, from: Duration, until: Duration) -> bool {
        let silent = |server: &ServerHistory| {
            let (began, ended) = server.answers.silence;
            (ended >= from && began <= until) || server.answers.last < from
        };
        let others = || self.active(Some(place));
        let silent = others().filter(|(_, server)| silent(server)).count();
        2 * silent > others().count()
    }

    /// The number of known silences of stable's single servers, and the longest of them.
    pub(super) fn usual_silences(&self) -> Option<(usize, Duration)> {
        let longest = self.silences.iter().map(|(_, length)| *length).max()?;
        (self.silences.len() >= KNOWN).then_some((self.silences.len(), longest))
    }
}
