//! The path that routes and path identities match: the normal form of RFC 3986 §6.2.2.
//!
//! Invariants: the path is forwarded unchanged; only the match uses the normal form.
//! Normalising is idempotent. A path already in normal form, as nearly all are, costs one pass.
//! Many servers read `%2f`, `\`, `%5c`, `..;` as separators, or cut off parameters (`;x`), which
//! the RFC leaves as data. This module does not guess: it returns further readings, and the caller
//! refuses the path where a route depends on them.

use std::borrow::Cow;

/// A request path as routes see it.
pub struct Reading<'a> {
    pub normal: Cow<'a, str>,
    /// The reading of a server that takes encoded and backward slashes for separators, if it
    /// differs.
    pub lenient: Option<String>,
    /// The reading of a server that also cuts the parameters off every segment, as servlet
    /// containers do. `Some` iff there are any. Parameters are legal, so this matters only if it
    /// takes another route.
    pub bare: Option<String>,
}

pub fn read(path: &str) -> Reading<'_> {
    if is_plain(path.as_bytes()) {
        // No escape, so every parameter is visible.
        let bare = if path.as_bytes().contains(&b';') { bare(path) } else { None };
        return Reading { normal: Cow::Borrowed(path), lenient: None, bare };
    }
    let decoded = decode_unreserved(path);
    let normal = without_dots(&decoded);
    let separated = separated(&decoded);
    let lenient = Some(without_dots(&separated)).filter(|lenient| *lenient != normal);
    Reading { normal: Cow::Owned(normal), lenient, bare: bare(&separated) }
}

/// No escape, no backslash, no empty segment, and no segment that begins with a dot and is no name.
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

/// `.` and `..`, also with parameters (`..;x`), which some servers cut off first.
fn is_dots(segment: &[u8]) -> bool {
    let name = segment.split(|b| *b == b';').next().unwrap_or_default();
    name == b"." || name == b".."
}

/// RFC 3986 §6.2.2.2: decodes escapes of unreserved characters. §6.2.2.1: writes the others in
/// upper case.
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
            // Not an escape. Unchanged, it could become one together with the character that is
            // decoded next.
            None if *byte == b'%' => {
                decoded.push_str("%25");
                at += 1;
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

/// Turns all that some server takes for a slash into one; cuts parameters off dot segments.
fn separated(decoded: &str) -> String {
    let slashes = decoded.replace("%2F", "/").replace("%5C", "/").replace('\\', "/");
    let cut = |segment: &str| match is_dots(segment.as_bytes()) {
        true => segment.split(';').next().unwrap_or_default().to_owned(),
        false => segment.to_owned(),
    };
    slashes.split('/').map(cut).collect::<Vec<_>>().join("/")
}

/// Without the parameters of any segment. Some servers decode before they search for them.
fn bare(separated: &str) -> Option<String> {
    const ENCODED: &str = "%3B";
    if !separated.contains(';') && !separated.contains(ENCODED) {
        return None;
    }
    let decoded = separated.replace(ENCODED, ";");
    let names = decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    Some(without_dots(&names.collect::<Vec<_>>().join("/")))
}

/// RFC 3986 §5.2.4, with empty segments merged.
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
            ("/%zz%4", "/%25zz%254"),
            // Otherwise this would be an escaped slash.
            ("/a%%32fb", "/a%252fb"),
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

    #[test]
    fn a_path_with_parameters_has_a_reading_without_them() {
        for (path, wanted) in [
            ("/admin;x/y", Some("/admin/y")),
            ("/admin%3bx/y", Some("/admin/y")),
            ("/;x/admin", Some("/admin")),
            ("/x/..%3bx/admin;y", Some("/admin")),
            ("/x%2fadmin;y/", Some("/x/admin/")),
            ("/api/cars;color=red/1", Some("/api/cars/1")),
            ("/a/b", None),
            ("/a%20b", None),
        ] {
            assert_eq!(read(path).bare.as_deref(), wanted, "{path}");
        }
        // Legal characters: the path stays in normal form.
        assert!(matches!(read("/cars;color=red/1").normal, Cow::Borrowed(_)));
    }

    /// The most lenient server: decodes everything once, takes every kind of slash, cuts parameters
    /// off.
    fn leniently(path: &str) -> String {
        let decoded: Vec<u8> = percent_encoding::percent_decode_str(path).collect();
        let mut kept: Vec<&[u8]> = Vec::new();
        for segment in decoded.split(|b| *b == b'/' || *b == b'\\') {
            match segment.split(|b| *b == b';').next().unwrap_or_default() {
                b".." => drop(kept.pop()),
                b"" | b"." => {}
                name => kept.push(name),
            }
        }
        format!("/{}", String::from_utf8_lossy(&kept.join(&b"/"[..])))
    }

    fn is_below(path: &str, prefix: &str) -> bool {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Another spelling of the same path (RFC 3986 §6.2.2): one choice for each of its characters.
    fn spelled(path: &str, choices: &[u8]) -> String {
        let mut spelled = String::new();
        for (i, c) in path.chars().enumerate() {
            match (c, choices.get(i).copied().unwrap_or(0) % 6) {
                ('/', 1) => spelled.push_str("//"),
                ('/', 2) => spelled.push_str("/./"),
                ('/', 3) => spelled.push_str("/x/../"),
                ('/', 4) => spelled.push_str("/%2e/"),
                ('/', 5) => spelled.push_str("/y/%2E%2e/"),
                (c, 1 | 2) if c != '/' => spelled.push_str(&format!("%{:02x}", c as u32)),
                (c, 3) if c != '/' => spelled.push_str(&format!("%{:02X}", c as u32)),
                (c, _) => spelled.push(c),
            }
        }
        spelled
    }

    proptest! {
        #![proptest_config(crate::mutate::cases(512))]

        #[test]
        fn a_damaged_path_has_one_normal_form_and_no_server_leads_it_elsewhere_unnoticed(bytes in crate::mutate::damaged(
            ["/admin/users/42", "/a/b/../../admin/x", "/a/%2e%2e/admin", "/a%2f..%2fadmin", "/a\\..\\admin", "/a/..;x/admin;y/z", "/%61dmin//x/./"],
            ["/", "//", "%2f", "%2F", "%5c", "\\", ".", "..", "/../", "/./", "%2e", "%252e", "%", "%6", ";", "%3b", "..;", "admin", "%61", "%00", "é", "%c3%a9", "~"],
        )) {
            let text = String::from_utf8_lossy(&bytes);
            let path = format!("/{}", text.trim_start_matches('/'));
            let reading = read(&path);
            let normal = reading.normal.into_owned();
            prop_assert_eq!(&*read(&normal).normal, &normal);
            prop_assert!(normal.starts_with('/') && !normal.contains("//"), "{normal}");
            prop_assert!(normal.split('/').all(|s| s != "." && s != ".."), "{normal}");
            if let Some(lenient) = &reading.lenient {
                prop_assert!(lenient.starts_with('/') && *lenient != normal);
            }
            if let Ok(route) = crate::config::values::route_path(&path) {
                prop_assert_eq!(&*read(&route).normal, &route, "a route that no request matches");
            }
            // If some server reads it as a path below the prefix, so does this module, or a further
            // reading does.
            let elsewhere = is_below(&leniently(&path), "/admin") && !is_below(&normal, "/admin");
            let seen = [&reading.lenient, &reading.bare].into_iter().flatten().any(|other| is_below(other, "/admin"));
            prop_assert!(!elsewhere || seen, "{path} is {normal}");
        }

        #[test]
        fn spellings_of_one_path_have_one_normal_form(path in "(/[a-zA-Z0-9~_-]{1,5}){1,4}/?", choices: [u8; 28]) {
            let other = spelled(&path, &choices);
            let reading = read(&other);
            prop_assert_eq!(&*reading.normal, &path, "{}", other);
            prop_assert_eq!(reading.lenient, None, "{}", other);
        }

        #[test]
        fn normalising_twice_changes_nothing_more(path in "/(\\.|/|%2[eEfF]|%5c|%|[a-c;]|é){0,24}") {
            let once = normal(&path);
            prop_assert_eq!(normal(&once), once.clone());
            prop_assert!(once.starts_with('/') && !once.contains("//"));
        }
    }
}
