//! The token file of `[admin] token_file`: its one parser, and the tokens in memory.
//!
//! ```text
//! # a comment
//! alice 6f1c0e…      # name, white space, token: the name is the actor in the ledger
//! ```
//!
//! `check`, the start and a reload all call [`Tokens::parse`], so a file that `check` refuses is
//! never in force.
//! The commands read their own `--token-file` with [`token_to_send`], which splits lines the same
//! way.
//!
//! Invariants: a file with one fault yields no tokens. The text of a fault contains no word of the
//! file. Tokens are kept and compared as SHA-256 digests, so the comparison takes the same time for
//! every token of any length.

use crate::domain::digest::{Digest, hex};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use std::collections::BTreeSet;

pub const TOKEN_CHARS_MIN: usize = 16;
/// A cookie holds the token in base64, and a browser keeps no cookie above 4 KiB.
pub const TOKEN_CHARS_MAX: usize = 1024;
pub const NAME_CHARS_MAX: usize = 128;
/// Every request that needs a token is compared with all of them.
pub const TOKENS_MAX: usize = 1000;

/// The actors that grayling itself writes into the ledger. A token must not have such a name.
const RESERVED: [&str; 6] = ["local", "watchdog", "waves", "file", "fuse", "proxy"];

const LINE: &str = "write `NAME TOKEN`";
const MAKE: &str = "make one with `openssl rand -hex 32`";

/// The accepted tokens with the names of their owners.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tokens(Vec<(String, [u8; 32])>);

/// The fault of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFault {
    /// From 1; 0: the file as a whole.
    pub line: usize,
    pub message: &'static str,
    pub help: &'static str,
}

impl Tokens {
    /// # Errors
    /// Every fault of the file. A file without a token is faulty, too.
    pub fn parse(bytes: &[u8]) -> Result<Tokens, Vec<TokenFault>> {
        let Ok(text) = std::str::from_utf8(without_bom(bytes)) else {
            return Err(vec![TokenFault {
                line: 0,
                message: "not UTF-8 text",
                help: "save the file as UTF-8",
            }]);
        };
        let (mut tokens, mut names) = (Tokens::default(), BTreeSet::new());
        let mut faults = vec![];
        for (line, words) in lines(text) {
            let mut fault = |message, help| faults.push(TokenFault { line, message, help });
            let [name, token] = words[..] else {
                fault("not a name and a token", LINE);
                continue;
            };
            if let Some(message) = fault_of_token(token) {
                fault(message, MAKE);
            }
            if let Some((message, help)) = fault_of_name(name) {
                fault(message, help);
            }
            if !names.insert(name) {
                fault("this name has a token already", "give each token a name of its own");
            }
            let token = Digest::of(token.as_bytes());
            if tokens.0.iter().any(|(_, known)| *known == token) {
                fault("this token stands under another name already", MAKE);
            }
            tokens.0.push((name.to_owned(), token));
            if tokens.0.len() > TOKENS_MAX {
                fault("more than 1000 tokens", "remove those that nobody uses");
                break;
            }
        }
        if tokens.0.is_empty() && faults.is_empty() {
            faults.push(TokenFault { line: 0, message: "no token in it", help: "write lines `NAME TOKEN`" });
        }
        if faults.is_empty() { Ok(tokens) } else { Err(faults) }
    }

    /// The name that the token belongs to. Always compares with every token.
    pub fn name_of(&self, token: &[u8]) -> Option<&str> {
        let token = Digest::of(token);
        let mut found = None;
        for (name, known) in &self.0 {
            if verify_slices_are_equal(known, &token).is_ok() {
                found = Some(name.as_str());
            }
        }
        found
    }
}

/// Names, and a digest that differs where tokens differ: a reload compares plans by this text.
impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<u8> = self.0.iter().flat_map(|(_, token)| token.iter().copied()).collect();
        write!(f, "Tokens({:?}, ", self.0.iter().map(|(name, _)| name).collect::<Vec<_>>())?;
        write!(f, "{})", hex(&Digest::of(&all)[..8]))
    }
}

/// The token that a command sends: from the first line that is no comment, which is `TOKEN` or
/// `NAME TOKEN`.
///
/// # Errors
/// The fault of that line.
pub fn token_to_send(bytes: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(without_bom(bytes)).map_err(|_| "it is not UTF-8 text")?;
    let first = lines(text).next().map(|(_, words)| words).unwrap_or_default();
    let ([token] | [_, token]) = first[..] else {
        return Err("its first line must be `TOKEN` or `NAME TOKEN`");
    };
    if !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("the token has characters outside ASCII");
    }
    Ok(token.to_owned())
}

/// Removes a byte order mark (U+FEFF), which editors on Windows write before the text.
pub fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

/// Number and words of each line that is neither blank nor a comment.
fn lines(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    // Three words suffice to find a fault, and a line may be long.
    let lines = text.split('\n').map(|line| line.split_ascii_whitespace().take(3).collect::<Vec<_>>());
    let lines = lines.enumerate().map(|(i, words)| (i + 1, words));
    lines.filter(|(_, words)| words.first().is_some_and(|word| !word.starts_with('#')))
}

fn fault_of_token(token: &str) -> Option<&'static str> {
    match token.len() {
        _ if !token.bytes().all(|b| b.is_ascii_graphic()) => Some("the token has characters outside ASCII"),
        ..TOKEN_CHARS_MIN => Some("the token is shorter than 16 characters"),
        TOKEN_CHARS_MIN..=TOKEN_CHARS_MAX => None,
        _ => Some("the token is longer than 1024 characters"),
    }
}

fn fault_of_name(name: &str) -> Option<(&'static str, &'static str)> {
    // White space, controls and invisible characters: two names that look alike must be equal.
    let unseen = |c: char| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if name.contains(unseen) {
        return Some(("the name has a character that cannot be seen", "type the name again"));
    }
    if name.chars().count() > NAME_CHARS_MAX {
        return Some(("the name is longer than 128 characters", LINE));
    }
    let reserved = RESERVED.iter().any(|own| own.eq_ignore_ascii_case(name));
    reserved.then_some((
        "grayling itself acts under this name in the ledger",
        "choose a name other than local, watchdog, waves, file, fuse, proxy",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbb";

    fn faults(text: &str) -> Vec<(usize, &'static str)> {
        Tokens::parse(text.as_bytes()).err().unwrap_or_default().iter().map(|f| (f.line, f.message)).collect()
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let good = format!("\u{feff}# people\r\n\r\nalice  {A}\r\n\tjosé\t{B} \n");
        let tokens = Tokens::parse(good.as_bytes()).unwrap();
        assert_eq!((tokens.0.len(), tokens.name_of(A.as_bytes())), (2, Some("alice")));
        assert_eq!(tokens.name_of(B.as_bytes()), Some("josé"));
        for unknown in ["", "alice", "bbbbbbbbbbbbbbb", "bbbbbbbbbbbbbbbbb"] {
            assert_eq!(tokens.name_of(unknown.as_bytes()), None);
        }
        let x = "x".repeat(TOKEN_CHARS_MAX);
        for (text, expected) in [
            (format!("alice {A}\nbob x"), vec![(2, "the token is shorter than 16 characters")]),
            (format!("a {A}\nb {A}"), vec![(2, "this token stands under another name already")]),
            (format!("a {A}\na {B}"), vec![(2, "this name has a token already")]),
            (
                format!("a {A}\nsecret\nb {B} c"),
                vec![(2, "not a name and a token"), (3, "not a name and a token")],
            ),
            (format!("a {A}\rb {B}"), vec![(1, "not a name and a token")]),
            (format!("a {A}\u{e9}"), vec![(1, "the token has characters outside ASCII")]),
            (format!("a\u{a0}{A}"), vec![(1, "not a name and a token")]),
            (format!("a {x}"), vec![]),
            (format!("a {x}x"), vec![(1, "the token is longer than 1024 characters")]),
            (format!("# c\n\u{feff}a {A}"), vec![(2, "the name has a character that cannot be seen")]),
            (format!("Watchdog {A}"), vec![(1, "grayling itself acts under this name in the ledger")]),
            ("# nobody\n".into(), vec![(0, "no token in it")]),
            (String::new(), vec![(0, "no token in it")]),
        ] {
            assert_eq!(faults(&text), expected, "{text:?}");
        }
        assert_eq!(Tokens::parse(b"a \xff\xfe").unwrap_err()[0].message, "not UTF-8 text");
    }

    #[test]
    fn a_command_sends_the_first_token_of_the_file() {
        for text in ["t0ken", "bob t0ken\nann other", "\u{feff}t0ken\r\n", "# who\n\n bob\tt0ken "] {
            assert_eq!(token_to_send(text.as_bytes()).as_deref(), Ok("t0ken"), "{text:?}");
        }
        for text in ["", "# only", "a b c", "bob t\u{f6}ken"] {
            assert!(token_to_send(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_shown_of_tokens_holds_none_and_differs_where_they_do() {
        let shown = |text: String| format!("{:?}", Tokens::parse(text.as_bytes()).unwrap());
        let (a, b) = (shown(format!("alice {A}")), shown(format!("alice {B}")));
        assert!(a != b && a.contains("alice") && !a.contains(&A[..8]), "{a} {b}");
    }

    proptest! {
        #![proptest_config(crate::mutate::cases(512))]

        /// Compared with a simple reference parser: two words per line.
        #[test]
        fn an_accepted_file_lets_in_each_of_its_lines_and_nobody_else(bytes in crate::mutate::damaged(
            [format!("alice {A}\n# c\nbob {B}\n"), format!("\u{feff}ann {A}x\r\n\r\nben {B}y\r\n")],
            ["\n", "\r", " ", "\t", "#", "\u{feff}", "\u{a0}", "\u{200b}", A, B, "alice ", "local ", "\u{85}"],
        )) {
            let Ok(tokens) = Tokens::parse(&bytes) else { return Ok(()) };
            let text = String::from_utf8(bytes).unwrap();
            let text = text.trim_start_matches('\u{feff}');
            let mut lines = 0;
            for line in text.split('\n').map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                let (name, token) = line.split_once([' ', '\t', '\r', '\x0c']).unwrap();
                prop_assert!(token.trim().len() >= 16);
                prop_assert_eq!(tokens.name_of(token.trim().as_bytes()), Some(name));
                lines += 1;
            }
            prop_assert_eq!(tokens.0.len(), lines);
            let of_bom = |line: &str| line.contains('\u{feff}') && !line.starts_with('#');
            prop_assert!(!text.lines().any(of_bom), "a mark within a name");
        }
    }
}
