//! Inputs for every parser that reads what came from outside: good ones, damaged on purpose. Used
//! by the tests beside the code and by those that run the binary.
//!
//! Random bytes seldom get beyond the first check of a parser. So a seed that it accepts is taken
//! apart: bits flipped, bytes set, stretches removed, doubled, exchanged, joined with those of
//! another seed, and words put in that mean something to it. What fails is shrunk by `proptest` to
//! the fewest changes.
//!
//! Few cases by default, so that the tests are quick. A long run is one command:
//! `PROPTEST_CASES=100000 cargo test damaged`

use proptest::collection::vec;
use proptest::prelude::*;

/// Of one input.
const CHANGES_MAX: usize = 6;
/// A stretch that is removed, doubled or exchanged.
const STRETCH_MAX: usize = 48;

/// So many cases by default; `PROPTEST_CASES` says otherwise.
pub fn cases(few: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases: few, ..config },
    }
}

#[derive(Debug, Clone)]
enum Change {
    Flip {
        at: usize,
        bit: u8,
    },
    Set {
        at: usize,
        byte: u8,
    },
    Insert {
        at: usize,
        bytes: Vec<u8>,
    },
    Word {
        at: usize,
        over: usize,
        word: prop::sample::Index,
    },
    /// At the beginning of the line that follows: a whole line has a meaning nowhere else.
    Line {
        at: usize,
        word: prop::sample::Index,
    },
    Remove {
        at: usize,
        length: usize,
    },
    Double {
        at: usize,
        length: usize,
        times: usize,
    },
    Exchange {
        at: usize,
        with: usize,
        length: usize,
    },
    /// The rest is that of another seed.
    Splice {
        at: usize,
        seed: prop::sample::Index,
        from: usize,
    },
    Cut {
        at: usize,
    },
}

fn change() -> impl Strategy<Value = Change> {
    // Places are taken modulo the length: small numbers are the beginning, where most is decided.
    let at = || prop_oneof![0usize..64, 0usize..65536];
    let length = || 1..STRETCH_MAX;
    let word = || any::<prop::sample::Index>();
    prop_oneof![
        2 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip { at, bit }),
        2 => (at(), any::<u8>()).prop_map(|(at, byte)| Change::Set { at, byte }),
        1 => (at(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Change::Insert { at, bytes }),
        6 => (at(), prop_oneof![Just(0), 0..STRETCH_MAX], word()).prop_map(|(at, over, word)| Change::Word { at, over, word }),
        4 => (at(), word()).prop_map(|(at, word)| Change::Line { at, word }),
        2 => (at(), length()).prop_map(|(at, length)| Change::Remove { at, length }),
        2 => (at(), length(), 1usize..4).prop_map(|(at, length, times)| Change::Double { at, length, times }),
        1 => (at(), at(), length()).prop_map(|(at, with, length)| Change::Exchange { at, with, length }),
        1 => (at(), word(), at()).prop_map(|(at, seed, from)| Change::Splice { at, seed, from }),
        1 => at().prop_map(|at| Change::Cut { at }),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change, seeds: &[Vec<u8>], words: &[Vec<u8>]) {
    let place = |at: usize, bytes: &Vec<u8>| at % (bytes.len() + 1);
    let stretch = |at: usize, length: usize, bytes: &Vec<u8>| {
        let at = place(at, bytes);
        at..(at + length).min(bytes.len())
    };
    match change {
        Change::Flip { at, bit } => {
            let at = place(*at, bytes);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        Change::Set { at, byte } => {
            let at = place(*at, bytes);
            if let Some(old) = bytes.get_mut(at) {
                *old = *byte;
            }
        }
        Change::Insert { at, bytes: new } => {
            let at = place(*at, bytes);
            bytes.splice(at..at, new.iter().copied());
        }
        Change::Word { at, over, word } => {
            let over = stretch(*at, *over, bytes);
            bytes.splice(over, word.get(words).iter().copied());
        }
        Change::Line { at, word } => {
            let at = place(*at, bytes);
            let at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |end| at + end + 1);
            bytes.splice(at..at, word.get(words).iter().copied());
        }
        Change::Remove { at, length } => drop(bytes.drain(stretch(*at, *length, bytes))),
        Change::Double { at, length, times } => {
            let stretch = stretch(*at, *length, bytes);
            let copy = bytes[stretch.clone()].repeat(*times);
            bytes.splice(stretch.end..stretch.end, copy);
        }
        Change::Exchange { at, with, length } => {
            let (a, b) = (place(*at, bytes), place(*with, bytes));
            for i in 0..*length {
                if a + i < bytes.len() && b + i < bytes.len() {
                    bytes.swap(a + i, b + i);
                }
            }
        }
        Change::Splice { at, seed, from } => {
            let (at, seed) = (place(*at, bytes), seed.get(seeds));
            bytes.truncate(at);
            bytes.extend_from_slice(&seed[from % (seed.len() + 1)..]);
        }
        Change::Cut { at } => {
            let at = place(*at, bytes);
            bytes.truncate(at);
        }
    }
}

/// One of the seeds, with up to some changes; now and then without any. `words` mean something to
/// the parser.
pub fn damaged<S: AsRef<[u8]>, W: AsRef<[u8]>>(
    seeds: impl IntoIterator<Item = S>,
    words: impl IntoIterator<Item = W>,
) -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|s| s.as_ref().to_vec()).collect();
    let words: Vec<Vec<u8>> = words.into_iter().map(|w| w.as_ref().to_vec()).collect();
    (any::<prop::sample::Index>(), vec(change(), 0..=CHANGES_MAX)).prop_map(move |(seed, changes)| {
        let mut bytes = seed.get(&seeds).clone();
        for change in &changes {
            apply(&mut bytes, change, &seeds, &words);
        }
        bytes
    })
}
