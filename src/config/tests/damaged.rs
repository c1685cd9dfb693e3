//! Deliberately damaged files: the config, and the files that it names.

use super::diagnostics::Location;
use super::*;
use crate::domain::config::{IdentitySource, JwtTrust};
use crate::mutate::{cases, damaged};
use std::time::Duration;

const WORDS: &[&str] = &[
    "\n",
    "\r\n",
    "\r",
    "\"",
    "\"\"\"",
    "'",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    ",",
    ".",
    "#",
    "\\",
    "\\u0000",
    "\\uD800",
    "\0",
    "\u{feff}",
    "é",
    "\u{202e}",
    "true",
    "false",
    "nan",
    "-1",
    "0",
    "5",
    "9223372036854775808",
    "1e400",
    "1979-05-27",
    "[]",
    "{}",
    "\"\"",
    "\"5%\"",
    "\"0.0001%\"",
    "\"100.0001%\"",
    "\"5 %\"",
    "\"10s\"",
    "\"18446744073709551615h\"",
    "\"1KiB\"",
    "\"99999999999GiB\"",
    "\"${PORT}\"",
    "${X}",
    "$",
    "$$",
    "http://",
    "https://[::1]:1",
    "127.0.0.1:0",
    "0.0.0.0/0",
    "::/0",
    "[listen]\n",
    "[upstream.a]\n",
    "[[route]]\n",
    "[release.r]\n",
    "[release.r.watchdog]\n",
    "[upstream.a.resources]\nscrape = \"http://a/metrics\"\n",
    "[[release.r.resource]]\nname = \"cpu\"\nreading = \"rate(a) / b\"\nceiling = 1e300\n",
    "[segment.testers]\n",
    "[identity]\n",
    "[limits]\n",
    "proxy_protocol = true\n",
    "trusted_proxies = [\"10.0.0.1/8\"]\n",
    "https = \"127.0.0.1:1\"\n",
    "weight = \"7%\"\n",
    "from = [{ path = \"/a/{id}\" }]\n",
    "users = [\"x\"]\n",
];

proptest! {
    #![proptest_config(cases(400))]

    /// It is refused with every fault in its place, or the schema accepts it, and it means the same
    /// twice.
    #[test]
    fn a_damaged_config_is_refused_in_its_place_or_has_one_meaning(bytes in damaged([STARTER, REFERENCE, BASE], WORDS)) {
        let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
        let report = match check(&text) {
            Ok(checked) => {
                prop_assert_eq!(schema::check(&text), Ok(()));
                prop_assert!(compare(&checked.config, &check(&text).unwrap().config, &Standings::default()).is_empty());
                prop_assert!(checked.config.releases.iter().all(|r| r.weight <= crate::stats::cohort::Weight::FULL));
                prop_assert!(!checked.config.routes.is_empty());
                checked.warnings
            }
            Err(report) => {
                prop_assert!(report.errors() > 0);
                report
            }
        };
        for fault in report.faults() {
            let Location::Shown { source, span } = &fault.place else { continue };
            prop_assert!(span.start <= span.end && span.end <= source.text.len(), "{span:?} of {}", source.text.len());
            prop_assert!(source.text.is_char_boundary(span.start) && source.text.is_char_boundary(span.end), "{span:?}");
            for word in [&fault.message, &fault.label].into_iter().chain(&fault.help) {
                prop_assert!(!word.chars().any(char::is_control) && word.len() < 2000, "{word:?}");
            }
        }
        prop_assert_eq!(report.faults().is_empty(), report.render(Color::Plain).is_empty());
        report.render(Color::Ansi);
        prop_assert!(report.lines().iter().all(|line| !line.contains('\n')));
    }

    /// An accepted value is its number times its unit.
    #[test]
    fn a_damaged_value_is_refused_or_is_its_number_times_its_unit(bytes in damaged(
        ["250ms", "10s", "15m", "1h", "32KiB", "1MiB", "64B", "2GiB", "5%", "0.25%", "100%", "12.3456%"],
        ["ms", "s", "m", "h", "B", "KiB", "MiB", "GiB", "%", " ", ".", "-", "+", "0", "00000000", "9999999999999999999", "e3", "_", "\u{a0}", "\u{ff11}"],
    )) {
        let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(()) };
        let digits: String = text.trim().chars().take_while(char::is_ascii_digit).collect();
        let (unit, number) = (text.trim()[digits.len()..].trim(), digits.parse::<u128>().ok());
        if let Ok(duration) = values::duration(text) {
            let scale = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)].into_iter().find(|(name, _)| *name == unit);
            let wanted = number.zip(scale).map(|(n, (_, scale))| n * scale);
            prop_assert_eq!(Some(duration.as_millis()), wanted, "{:?}", text);
            prop_assert!(duration.subsec_nanos() % 1_000_000 == 0 && duration < Duration::MAX);
        }
        if let Ok(size) = values::size(text) {
            let scale = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30)].into_iter().find(|(name, _)| *name == unit);
            prop_assert_eq!(Some(size as u128), number.zip(scale).map(|(n, (_, bits))| n << bits), "{:?}", text);
            prop_assert_eq!(values::size(&values::show_size(size)).ok(), Some(size));
        }
        if let Ok(weight) = values::percent(text) {
            let fraction = unit.strip_suffix('%').map(str::trim).unwrap_or("?");
            let decimals = format!("{:0<4}", fraction.strip_prefix('.').unwrap_or(fraction));
            let wanted = number.zip(decimals.parse::<u128>().ok()).map(|(n, d)| n * 10_000 + d);
            prop_assert!(decimals.len() == 4 && Some(u128::from(weight.parts())) == wanted, "{text:?} is {weight}");
            prop_assert_eq!(values::percent(&weight.to_string()).ok(), Some(weight));
        }
    }

    #[test]
    fn no_damaged_word_makes_a_reader_of_values_panic_or_take_what_it_could_not_use(bytes in damaged(
        ["127.0.0.1:8080", "[::1]:80", "10.0.0.0/8", "::/0", "http://a.example:9001", "https://[::1]:1", "/accounts/{id}/x", "x-user-id", "a.example", "GET", "${A}$$", "uid"],
        [":", "/", "//", "[", "]", "{", "}", "{id}", "%", "%2f", "..", ".", "@", "?", "#", " ", "$", "${", "0", "65536", "::", "é", "\0", "\n", "-", "_", "HTTP://", "x-grayling-"],
    )) {
        let Ok(text) = std::str::from_utf8(&bytes) else { return Ok(()) };
        if let Ok(path) = values::route_path(text) {
            prop_assert!(path.starts_with('/') && !path.contains("//") && (path == "/" || !path.ends_with('/')), "{path}");
        }
        if let Ok(pattern) = values::path_pattern(text) {
            prop_assert_eq!(pattern.segments.iter().filter(|s| s.is_none()).count(), 1);
        }
        if let Ok(server) = values::server(text) {
            prop_assert_eq!(values::server(&server.to_string()).ok(), Some(server));
        }
        if let Ok(name) = values::header_name(text) {
            prop_assert!(!name.as_str().starts_with("x-grayling-"));
        }
        if let Ok((network, _)) = values::network(text) {
            prop_assert!(network.contains(&network.network()));
        }
        let _ = (values::address(text), values::host(text), values::method(text), values::name(text), values::token(text), values::parameter(text));
        let _ = values::expand(text, &environment);
    }
}

/// Users, tokens, keys: for any contents, faults name the file and never show secrets.
#[test]
fn damaged_files_that_the_config_names_are_refused_by_line_and_tell_no_secret() {
    const SECRET: &str = "5ecret0123456789";
    let folder = Folder::new();
    let text = edited(&[
        ("users = [\"alice\"]", "users_file = \"users\""),
        (
            "[release.r]",
            "[admin]\ntoken_file = \"tokens\"\n[log]\nuser_key_file = \"key\"\n[identity]\nnormalise = \"trim\"\nfrom = [{ jwt = { jwks_file = \"jwks\" } }]\n[release.r]",
        ),
    ]);
    folder.write("g.toml", &text);
    let good = [
        ("users", "alice\nbob\r\n  carol \n\nälice\n".to_string()),
        ("tokens", format!("# who\nops {SECRET}{SECRET}\nann {SECRET}{SECRET}x\n")),
        ("key", format!("{SECRET}\n")),
        ("jwks", r#"{"keys": [{"kty": "oct", "kid": "s", "k": "NWVjcmV0MDEyMzQ1Njc4OTVlY3JldDAxMjM0NTY3ODk"}, {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}, {"kty": "RSA", "n": "AQAB", "e": "AQAB", "use": "sig"}, {"kty": "EC", "crv": "P-256", "x": "AQAB", "y": "AQAB"}]}"#.to_string()),
    ];
    let put = |name: &str, bytes: &[u8]| drop(folder.write(name, bytes));
    good.iter().for_each(|(name, text)| put(name, text.as_bytes()));
    let words = [
        "\n",
        "\r",
        "\0",
        " ",
        "\t",
        "#",
        "\u{feff}",
        "\u{ff}",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "1e999",
        "\"kty\": \"oct\"",
        "\"alg\": \"HS256\"",
        "\"alg\": \"none\"",
        "\"use\": \"enc\"",
        "\"k\": \"\"",
        "\"keys\"",
        "RSA",
        "EC",
        "P-384",
        "====",
        SECRET,
    ];
    let which = 0..good.len();
    let strategy = (which, damaged(good.iter().map(|(_, text)| text.clone()), words));
    let mut runner = proptest::test_runner::TestRunner::new(cases(300));
    let held = runner.run(&strategy, |(which, bytes)| {
        let name = good[which].0;
        put(name, &bytes);
        let loaded = load(&folder.0.join("g.toml"));
        put(name, good[which].1.as_bytes());
        prop_assert_eq!(loaded.files.len(), 5);
        match loaded.result {
            Err(report) => {
                let told = report.render(Color::Plain) + &report.lines().join("\n");
                prop_assert!(
                    report
                        .lines()
                        .iter()
                        .any(|l| l.contains(&format!("/{name}")) || l.contains(&format!("`{name}"))),
                    "{told}"
                );
                // The list of users is not secret, and the only file whose lines are shown.
                prop_assert!(name == "users" || !told.contains(&SECRET[..8]), "{told}");
            }
            Ok(checked) => {
                let users = &checked.config.segments[0].users;
                prop_assert!(users.len() <= bytes.split(|b| *b == b'\n').count().max(4));
                if name == "users" {
                    let ids =
                        bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii).filter(|id| !id.is_empty());
                    for (i, id) in ids.enumerate() {
                        // A byte order mark at the start is not part of the first id.
                        let id =
                            if i == 0 { id.strip_prefix("\u{feff}".as_bytes()).unwrap_or(id) } else { id };
                        prop_assert!(
                            users.contains(id.trim_ascii()) || id.trim_ascii().is_empty(),
                            "{:?}",
                            String::from_utf8_lossy(id)
                        );
                    }
                }
                let IdentitySource::Jwt(jwt) = &checked.config.identity.from[0] else { return Ok(()) };
                let JwtTrust::Keys { keys, .. } = &jwt.trust else { return Ok(()) };
                prop_assert!(!keys.is_empty() && keys.iter().all(|k| !k.algorithms.is_empty()));
                let families = |key: &crate::domain::config::JwtKey| -> Vec<_> {
                    key.algorithms.iter().map(|a| a.family()).collect()
                };
                let one_family = keys.iter().all(|key| families(key).windows(2).all(|w| w[0] == w[1]));
                prop_assert!(one_family, "a key for two kinds of algorithm");
            }
        }
        Ok(())
    });
    held.unwrap();
}
