//! The path that routes and path identities match: the normal form of RFC 3986 §6.2.2.
//!
//! Invariants: the path itself is forwarded as it came, only the match sees this; normalising twice changes nothing more; a path that is in
//! normal form already, which nearly all are, costs one look at its bytes. What the RFC leaves as data but many servers read as a separator
//! (`%2f`, `\`, `%5c`, `..;`) is not guessed at: it yields two readings, and the caller refuses it where a route depends on them.

use std::borrow::Cow;

/// A request path as routes see it.
pub struct Reading<'a> {
    pub normal: Cow<'a, str>,
    /// How a server would read it that takes encoded and backward slashes for separators, where that is another path.
    pub lenient: Option<String>,
}

pub fn read(path: &str) -> Reading<'_> {
    if is_plain(path.as_bytes()) {
        return Reading { normal: Cow::Borrowed(path), lenient: None };
    }
    let decoded = decode_unreserved(path);
    let normal = without_dots(&decoded);
    let lenient = Some(without_dots(&separated(&decoded))).filter(|lenient| *lenient != normal);
    Reading { normal: Cow::Owned(normal), lenient }
}

/// No escape, no backslash, no empty segment, none that begins with a dot and is no name.
fn is_plain(path: &[u8]) -> bool {
    let mut segment_began = false;
    for (i, byte) in path.iter().enumerate() {
        match byte {
            b'%' | b'\\' => return false,
            b'/' if segment_began => return false,
            b'.' if segment_began && is_dots(path[i..].split(|b| *b == b'/').next().unwrap_or_default()) => {
                return false;
            }
            _ => {}
        }
        segment_began = *byte == b'/';
    }
    true
}

/// `.` and `..`, perhaps with parameters (`..;x`), which some servers cut off first.
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|b| *b == b';').next().unwrap_or_default();
    name == b"." || name == b".."
}

/// RFC 3986 §6.2.2.2: escapes of unreserved characters mean those characters; §6.2.2.1: the others are written in upper case.
fn decode_unreserved(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = String::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let escape = (*byte == b'%').then(|| hex(bytes.get(at + 1)).zip(hex(bytes.get(at + 2)))).flatten();
        match escape {
            Some((high, low)) => {
                let value = high * 16 + low;
                if value.is_ascii_alphanumeric() || b"-._~".contains(&value) {
                    decoded.push(value as char);
                } else {
                    decoded.push('%');
                    decoded.extend(path[at + 1..at + 3].chars().map(|c| c.to_ascii_uppercase()));
                }
                at += 3;
            }
            None => {
                let length = path[at..].chars().next().map_or(1, char::len_utf8);
                decoded.push_str(&path[at..at + length]);
                at += length;
            }
        }
    }
    decoded
}

fn hex(byte: Option<&u8>) -> Option<u8> {
    byte.and_then(|b| (*b as char).to_digit(16)).map(|d| d as u8)
}

/// Everything that some server takes for a slash is one; parameters of dot segments are cut off.
fn separated(decoded: &str) -> String {
    let slashes = decoded.replace("%2F", "/").replace("%5C", "/").replace('\\', "/");
    let cut = |segment: &str| match is_dots(segment.as_bytes()) {
        true => segment.split(';').next().unwrap_or_default().to_owned(),
        false => segment.to_owned(),
    };
    slashes.split('/').map(cut).collect::<Vec<_>>().join("/")
}

/// RFC 3986 §5.2.4, and empty segments merged.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let segments = path.strip_prefix('/').unwrap_or(path);
    let mut open_end = false;
    for segment in segments.split('/') {
        open_end = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut normal = String::with_capacity(path.len());
    for segment in &kept {
        normal.push('/');
        normal.push_str(segment);
    }
    if open_end || kept.is_empty() {
        normal.push('/');
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(path: &str) -> String {
        read(path).normal.into_owned()
    }

    #[test]
    fn a_path_is_matched_in_its_normal_form() {
        for (path, wanted) in [
            ("/a/b", "/a/b"),
            ("//a///b", "/a/b"),
            ("/a/./b/", "/a/b/"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/../../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/%61%7Eb", "/a~b"),
            ("/a%2fb", "/a%2Fb"),
            ("/%zz%4", "/%zz%4"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
        ] {
            assert_eq!(normal(path), wanted, "{path}");
        }
        assert!(matches!(read("/.well-known/..x/a.b").normal, Cow::Borrowed(_)));
    }

    #[test]
    fn what_some_servers_take_for_a_separator_has_two_readings() {
        for (path, wanted) in [
            ("/a%2fb", Some("/a/b")),
            ("/a/..%2f..%5cadmin", Some("/admin")),
            ("/a\\b", Some("/a/b")),
            ("/a/..;x/b", Some("/b")),
            ("/a//b", None),
            ("/a/../b", None),
            ("/a%20b", None),
            ("/a%252fb", None),
        ] {
            assert_eq!(read(path).lenient.as_deref(), wanted, "{path}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing_more(path in "/(\\.|/|%2[eEfF]|%5c|%|[a-c;]|é){0,24}") {
            let once = normal(&path);
            prop_assert_eq!(normal(&once), once.clone());
            prop_assert!(once.starts_with('/') && !once.contains("//"));
        }
    }
}
