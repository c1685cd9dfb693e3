//! Faults and their messages as a person sees them. No text makes the checker panic.

mod agreement;
mod alerts;
mod damaged;
mod files;
mod limits;
mod schema;
mod secrets;
mod telemetry;

use super::check::examine;
use super::*;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const STARTER: &str = include_str!("../../../config/grayling.toml");
const REFERENCE: &str = include_str!("../../../config/reference.toml");

const BASE: &str = r#"[upstream.a]
servers = ["http://127.0.0.1:9001"]
[upstream.b]
servers = ["http://127.0.0.1:9002"]
[segment.testers]
users = ["alice"]
[release.r]
stable = "a"
new = "b"
segments = ["testers"]
weight = "5%"
[[route]]
release = "r"
"#;

fn environment(name: &str) -> Option<String> {
    match name {
        "WEIGHT" => Some("7%".into()),
        "PORT" => Some("9001".into()),
        _ => None,
    }
}

fn check(text: &str) -> Result<CheckedConfig, Diagnostics> {
    examine(text, Path::new("g.toml"), &environment).0
}

/// The errors, or else the warnings, one line each. Rendering them must not fail.
fn lines(text: &str) -> Vec<String> {
    let report = match check(text) {
        Ok(checked) => checked.warnings,
        Err(report) => report,
    };
    assert_eq!(report.faults().is_empty(), report.render(Color::Plain).is_empty());
    report.render(Color::Ansi);
    of_the_subject(report.lines())
}

/// Without the warning that every text here has, because it names no token file.
fn of_the_subject(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.contains(": every process of this machine may roll back")).collect()
}

fn edited(edits: &[(&str, &str)]) -> String {
    edits.iter().fold(BASE.to_string(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

#[test]
fn each_fault_says_where_why_and_what_to_type() {
    let weight = "weight = \"5%\"";
    let servers = "[\"http://127.0.0.1:9002\"]";
    let table: &[(&str, &str, &[&str])] = &[
        (
            weight,
            "weight = 5",
            &["g.toml:11:10: invalid `weight`: a percentage needs its sign; write `\"5%\"`"],
        ),
        (
            weight,
            "weight = \"5\"",
            &["g.toml:11:10: invalid `weight`: a percentage needs its sign; write `\"5%\"`"],
        ),
        (weight, "weight = \"101%\"", &["g.toml:11:10: invalid `weight`: more than 100%"]),
        (weight, "weight = \"0.00001%\"", &["g.toml:11:10: invalid `weight`: more than four decimals"]),
        (
            weight,
            "weight = true",
            &["g.toml:11:10: `weight` is not a string: found a boolean; write `\"true\"`"],
        ),
        (weight, "wieght = \"5%\"", &["g.toml:11:1: unknown key `wieght`; did you mean `weight`?"]),
        (weight, "drain = \"5s\"", &["g.toml:11:1: unknown key `drain`; `drain` belongs into `[limits]`"]),
        (
            weight,
            "weight = \"${NOPE}\"",
            &["g.toml:11:10: invalid `weight`: the environment variable `NOPE` is not set; \
            set it (`export NOPE=…`), or write the value here; `$${` for a dollar and a brace"],
        ),
        (
            weight,
            "weight = \"$5\"",
            &["g.toml:11:10: invalid `weight`: a `$` stands alone; \
            write `$$` for a dollar, `${NAME}` for an environment variable"],
        ),
        (
            weight,
            "on_unreachable = \"read\"",
            &["g.toml:11:18: invalid `on_unreachable`: no such choice; did you mean `\"reads\"`?"],
        ),
        (
            weight,
            "on_anomaly = \"explode\"",
            &["g.toml:11:14: invalid `on_anomaly`: no such choice; one of `\"rollback\"`, `\"freeze\"`"],
        ),
        (
            weight,
            "attempt = 0",
            &["g.toml:11:11: `attempt` is out of bounds; a whole number from 1 to 1000000000"],
        ),
        (
            weight,
            "attempt = \"2\"",
            &[
                "g.toml:11:11: `attempt` is not a whole number: found a string; write `attempt = 2`, without quotes",
            ],
        ),
        (
            weight,
            "watchdog.tick = \"1s\"",
            &["g.toml:11:17: `tick` is out of bounds: too long; from `\"50ms\"` to `\"250ms\"`"],
        ),
        (
            weight,
            "watchdog.tick = 100",
            &["g.toml:11:17: invalid `tick`: a duration needs its unit; write `\"100s\"` or `\"100ms\"`"],
        ),
        (
            weight,
            "watchdog.tick = \"0.1s\"",
            &["g.toml:11:17: invalid `tick`: a duration is a whole number; write `\"100ms\"`"],
        ),
        (
            weight,
            "watchdog.alpha = 0.5",
            &["g.toml:11:18: `alpha` is out of bounds; a number from 0.000000001 to 0.1"],
        ),
        (
            weight,
            "watchdog.alpha = nan",
            &["g.toml:11:18: `alpha` is out of bounds; a number from 0.000000001 to 0.1"],
        ),
        (
            weight,
            "watchdog.enabled = \"no\"",
            &["g.toml:11:20: `enabled` is neither true nor false: found a string; \
            write `enabled = true` or `enabled = false`"],
        ),
        (
            weight,
            "watchdog = \"off\"",
            &["g.toml:11:12: `release.r.watchdog` is not a table: found a string; \
            write `[release.r.watchdog]` on a line of its own, and its keys below"],
        ),
        (
            weight,
            "weight = \"5%\"\nweight = \"6%\"",
            &["g.toml:12:1: this is not TOML: duplicate key; keep one of the two"],
        ),
        ("new = \"b\"", "new = \"bb\"", &["g.toml:9:7: there is no upstream `bb`; did you mean `\"b\"`?"]),
        (
            "new = \"b\"",
            "new = \"a\"",
            &["g.toml:9:7: `stable` and `new` are the same upstream; \
            name the upstream of the version to be released"],
        ),
        (
            "new = \"b\"",
            "",
            &["g.toml:7:10: release `r` has no `new`; add `new = \"NAME\"`, with the name of an upstream"],
        ),
        (
            weight,
            "critical = [\"1\", \"refunds\", \"1\"]",
            &[
                "g.toml:11:18: there is no route `refunds`; its routes are `1`; \
                a route is called by its `name`, or by its position in the file",
                "g.toml:11:29: `1` stands twice in `critical`; remove one",
            ],
        ),
        (
            "\"testers\"",
            "\"tester\"",
            &["g.toml:10:13: there is no segment `tester`; did you mean `\"testers\"`?"],
        ),
        (
            "[\"testers\"]",
            "\"testers\"",
            &["g.toml:10:12: `segments` is not an array: found a string; write `segments = [\"testers\"]`"],
        ),
        (
            servers,
            "[]",
            &["g.toml:4:11: upstream `b` has no `servers`; write `servers = [\"http://127.0.0.1:9001\"]`"],
        ),
        (
            servers,
            "[\"http://127.0.0.1:9001\"]",
            &["g.toml:9:7: `http://127.0.0.1:9001` is a server of `stable` and of `new`: \
            a rollback would not take it out; give the two versions servers of their own"],
        ),
        (
            servers,
            "[\"ftp://x\"]",
            &[
                "g.toml:4:12: invalid `servers`: only http:// and https:// are known; write `\"http://host:port\"`",
            ],
        ),
        (
            servers,
            "[\"localhost:9002\"]",
            &[
                "g.toml:4:12: invalid `servers`: a server starts with http:// or https://; write `\"http://localhost:9002\"`",
            ],
        ),
        (
            servers,
            "[\"http://x:9002/\"]",
            &["g.toml:4:12: invalid `servers`: a server has no path; write `\"http://x:9002\"`"],
        ),
        (
            servers,
            "[\"http://10.0.0.256:1\"]",
            &["g.toml:4:12: invalid `servers`: `10.0.0.256` is neither a DNS name nor an IP address"],
        ),
        (
            servers,
            "[\"http://x:1\", \"http://X:1\"]",
            &["g.toml:4:26: `http://x:1` stands twice in `servers`; remove one"],
        ),
        ("release = \"r\"", "release = \"q\"", &["g.toml:13:11: there is no release `q`; there is `\"r\"`"]),
        (
            "release = \"r\"",
            "",
            &["g.toml:12:1: a route without a target; add `release = \"NAME\"`, or `upstream = \"NAME\"`"],
        ),
        (
            "release = \"r\"",
            "release = \"r\"\nupstream = \"a\"",
            &["g.toml:14:12: a route has a `release` or an `upstream`, not both; keep one of the two"],
        ),
        (
            "release = \"r\"",
            "release = \"r\"\nmethods = [\"get\"]",
            &["g.toml:14:12: invalid `methods`: methods are upper case; write `\"GET\"`"],
        ),
        (
            "release = \"r\"",
            "release = \"r\"\n[[route]]\nrelease = \"r\"\npath = \"/\"",
            &[
                "g.toml:14:1: two routes for the same requests: `1` and `2`; remove one, or tell them apart by `host`, `path` or `methods`",
            ],
        ),
        (
            "[[route]]",
            "[route]",
            &[
                "g.toml:12:1: `route` is not a list: found a table; write `[[route]]`, with two brackets, for each route",
            ],
        ),
        (
            "[[route]]\nrelease = \"r\"\n",
            "",
            &["g.toml:11:1: the file has no route: nothing would be served; \
            add `[[route]]` with `path = \"/\"` and `release = \"NAME\"`"],
        ),
        (
            "[release.r]",
            "[release]",
            &[
                "g.toml:8:1: `stable` stands in `[release]`, which has no name; write `[release.NAME]` with a name of your choice",
                "g.toml:9:1: `new` stands in `[release]`, which has no name; write `[release.NAME]` with a name of your choice",
                "g.toml:10:1: `segments` stands in `[release]`, which has no name; write `[release.NAME]` with a name of your choice",
                "g.toml:11:1: `weight` stands in `[release]`, which has no name; write `[release.NAME]` with a name of your choice",
                "g.toml:13:11: there is no release `r`; add `[release.r]`",
            ],
        ),
        (
            "[release.r]",
            "[listen]\nproxy_protocol = true\ntrusted_proxies = []\n[release.r]",
            &[
                "g.toml:8:18: `proxy_protocol` without `trusted_proxies`: nobody's PROXY header would be believed; \
                name the networks of the proxies that send it, as in `trusted_proxies = [\"10.0.0.0/8\"]`",
            ],
        ),
        (
            "[release.r]",
            "[listen]\nproxy_protocol = \"yes\"\n[release.r]",
            &[
                "g.toml:8:18: `proxy_protocol` is neither true nor false: found a string; write `proxy_protocol = true` or `proxy_protocol = false`",
            ],
        ),
        (
            "[release.r]",
            "[listen]\nadmin = \"0.0.0.0:9900\"\n[release.r]",
            &["g.toml:8:9: `[admin] token_file` is missing: \
            the admin address can be reached from other machines; \
            add `token_file = \"admin.tokens\"` under `[admin]` (lines `NAME TOKEN`), or listen on 127.0.0.1"],
        ),
        (
            "[release.r]",
            "[listen]\nhttp = \":80\"\n[release.r]",
            &["g.toml:8:8: invalid `http`: an address to listen on names its interface; \
            write `\"0.0.0.0:80\"` for every interface, `\"127.0.0.1:80\"` for this machine only"],
        ),
        (
            "[release.r]",
            "[limits]\nheader_bytes = \"32KB\"\n[release.r]",
            &["g.toml:8:16: invalid `header_bytes`: `KB` is not a unit of size; write `\"32KiB\"`"],
        ),
        (
            "[release.r]",
            "[limits]\nheader_bytes = \"99999999999GiB\"\n[release.r]",
            &["g.toml:8:16: invalid `header_bytes`: too large"],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ heder = \"x\" }]\n[release.r]",
            &["g.toml:8:11: unknown key `heder`; did you mean `header`?"],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ header = \"x\", cookie = \"y\" }]\n[release.r]",
            &[
                "g.toml:8:9: an element of `from` names two sources; write one pair of braces for each, in the order they are tried",
            ],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ header = \"X-Grayling-Arm\" }]\n[release.r]",
            &[
                "g.toml:8:20: invalid `header`: headers `x-grayling-*` are removed from every request before anything reads them",
            ],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ header = \"Proxy-Authorization\" }]\n[release.r]",
            &[
                "g.toml:8:20: invalid `header`: `proxy-authorization` is for one connection and never forwarded: \
            no upstream could see what it says; write a header that reaches the upstream, as in `\"x-user-id\"`",
            ],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ path = \"/a/id\" }]\n[release.r]",
            &["g.toml:8:18: invalid `path`: no segment of the path is in braces; \
            write a path with the id in braces, as in `\"/accounts/{id}\"`"],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ jwt = {} }]\n[release.r]",
            &["g.toml:8:17: `jwt` says nothing of how tokens are verified; \
            add `jwks_file = \"jwks.json\"`, or `unverified = true` if an earlier hop has verified the token"],
        ),
        (
            "[release.r]",
            "[segment.x]\nnetworks = [\"10.0.0.1\"]\n[release.r]",
            &["g.toml:8:13: invalid `networks`: a network needs its prefix length; \
            write `\"10.0.0.1/32\"` for this one address"],
        ),
        (
            "[release.r]",
            "[gadget]\n[release.r]",
            &[
                "g.toml:7:2: unknown key `gadget`; known here: listen, tls, admin, identity, upstream, segment, \
            release, route, limits, state, log, metrics, traces, alert",
            ],
        ),
        // Warnings only.
        (
            weight,
            "watchdog.enabled = false",
            &["g.toml:11:20: the watchdog of `r` is off: nothing takes `new` out when it is worse; \
            remove the line, unless something else watches"],
        ),
        (
            weight,
            "excluded = [\"testers\"]",
            &[
                "g.toml:10:13: segment `testers` is in `segments` and in `excluded`: it is excluded; remove it from one of them",
            ],
        ),
        (
            "users = [\"alice\"]",
            "header = { name = \"X-Plan\", equals = \"i\" }",
            &["g.toml:6:10: segment `testers` is chosen by a header: \
            whoever can send `x-plan` can enter; make sure that an earlier hop removes it from what clients send"],
        ),
        (
            "[release.r]",
            "[upstream.c]\nservers = [\"http://c\"]\n[release.r]",
            &["g.toml:7:11: an upstream that is not used: `c`: no release and no route names it"],
        ),
        (
            servers,
            "[\"http://127.0.0.1:9002\"]\nhttp2_ping = \"10s\"",
            &["g.toml:5:14: `http2_ping` is not used: this upstream is without `http2`; add `http2 = true`"],
        ),
        (
            servers,
            "[\"http://127.0.0.1:9002\"]\nclient_key = \"me.key\"",
            &["g.toml:5:14: `client_key` is not used: no server of this upstream is https"],
        ),
        (
            "[release.r]",
            "[identity]\nfrom = [{ jwt = { unverified = true } }]\n[release.r]",
            &[
                "g.toml:8:32: tokens are believed without a look at their signature: whoever can reach this proxy can be any user; \
            make sure that an earlier hop has verified the token, or name a `jwks_file`",
            ],
        ),
        (
            "release = \"r\"",
            "release = \"r\"\n[[route]]\npath = \"/x\"\nupstream = \"b\"",
            &["g.toml:3:11: a route sends everybody to `b`, \
            which has servers of `new` of release `r`: a rollback does not stop that route"],
        ),
        // Neither.
        (weight, "weight = \"${WEIGHT}\"", &[]),
        (
            servers,
            "[\"http://127.0.0.1:${PORT}9\", \"http://[::1]:80\"]",
            &["g.toml:4:12: invalid `servers`: the port is a number from 1 to 65535"],
        ),
    ];
    let mut wrong = String::new();
    for (from, to, expected) in table {
        let found = lines(&edited(&[(from, to)]));
        if found != *expected {
            wrong += &format!("\n--- {to}\n  found    {found:#?}\n  expected {expected:#?}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn all_faults_are_told_at_once_as_a_compiler_would() {
    let text =
        edited(&[("weight = \"5%\"", "wieght = \"5%\""), ("new = \"b\"", "new = 5"), ("9002\"", "9002")]);
    let text = text.replace("9002]", "9002\"]");
    let report = check(&text).unwrap_err();
    let expected = "\
error: `new` is not a string
 --> g.toml:9:7
  |
9 | new = 5
  |       ^ found an integer
  |
  = help: write `\"5\"`

error: unknown key `wieght`
  --> g.toml:11:1
   |
11 | wieght = \"5%\"
   | ^^^^^^
   |
   = help: did you mean `weight`?

warning: every process of this machine may roll back, resume and promote
 --> g.toml:1:1
  |
1 | [upstream.a]
  | ^ without a `token_file` no token is asked for on loopback
  |
  = help: add `token_file = \"admin.tokens\"` under `[admin]`, or `local_changes = false`, or `local_changes = true` if it is meant
";
    assert_eq!(report.render(Color::Plain), expected);
}

#[test]
fn syntax_errors_do_not_hide_the_other_faults_nor_cause_any() {
    let found = lines(&edited(&[("weight = \"5%\"", "weight = 5%"), ("stable = \"a\"", "stabel = \"a\"")]));
    assert!(found.iter().any(|l| l.starts_with("g.toml:8:1: unknown key `stabel`")), "{found:#?}");
    assert!(found.iter().any(|l| l.starts_with("g.toml:11:") && l.contains("not TOML")), "{found:#?}");
    assert_eq!(found.len(), 2, "{found:#?}");
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("grayling-config-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        // Many of them stand for secrets.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// The lines of a load, without the folder's name.
    fn lines(&self, name: &str) -> Vec<String> {
        let report = match load(&self.0.join(name)).result {
            Ok(checked) => checked.warnings,
            Err(report) => report,
        };
        report.render(Color::Plain);
        let lines = of_the_subject(report.lines());
        lines.iter().map(|l| l.replace(&format!("{}/", self.0.display()), "")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_file_that_cannot_be_read_says_why() {
    let folder = Folder::new();
    let init = "`grayling init > FILE` writes one to start from";
    assert_eq!(folder.lines("x"), [format!("x: there is no such config file; {init}")]);
    std::fs::create_dir(folder.0.join("d")).unwrap();
    assert_eq!(folder.lines("d"), ["d: this is a directory, not a config file; name the file in it"]);
    for empty in ["", " \n\t\n", "\u{feff}"] {
        folder.write("e", empty);
        assert_eq!(folder.lines("e"), [format!("e: the config file is empty; {init}")]);
    }
    folder.write("u", b"a = 1\nb = \"\xff\"");
    assert_eq!(folder.lines("u"), ["u:2: byte 11 is not UTF-8; save the file as UTF-8"]);
    folder.write("w", b"\xff\xfea\0");
    assert_eq!(folder.lines("w"), ["w: the config file is UTF-16; save it as UTF-8"]);
    folder.write("cr", BASE.replace('\n', "\r"));
    assert!(folder.lines("cr")[0].contains("a CR alone is not a line end"), "{:?}", folder.lines("cr"));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine_and_do_not_shift_the_caret() {
    let text = format!("\u{feff}{}", BASE.replace('\n', "\r\n"));
    assert_eq!(lines(&text), Vec::<String>::new());
    let found = lines(&text.replace("weight", "wieght"));
    assert_eq!(found, ["g.toml:11:1: unknown key `wieght`; did you mean `weight`?"]);
    let found = lines("\u{feff}tsate = 1\r\n");
    assert!(found.iter().any(|l| l.starts_with("g.toml:1:1: unknown key `tsate`")), "{found:?}");
}

#[test]
fn faults_of_named_files_name_the_file_and_the_line_and_show_no_secret() {
    let folder = Folder::new();
    folder.write("users", "alice\n\n  bob \r\nx\u{7}y\n");
    folder.write("tokens", "ops 0123456789abcdef0123\nshort secret\nthree words here\n");
    folder.write("jwks", "{\n \"keys\": [\n }");
    folder.write("key", "short\n");
    let text = edited(&[
        ("users = [\"alice\"]", "users_file = \"users\""),
        (
            "[release.r]",
            "[admin]\ntoken_file = \"tokens\"\n[log]\nuser_key_file = \"key\"\n[identity]\nfrom = [{ jwt = { jwks_file = \"jwks\" } }]\n[release.r]",
        ),
    ]);
    folder.write("g.toml", &text);
    let found = folder.lines("g.toml");
    let expected = [
        "tokens:2: the token is shorter than 16 characters; make one with `openssl rand -hex 32`",
        "tokens:3: not a name and a token; write `NAME TOKEN`",
        "jwks:3: not JSON: expected value at line 3 column 2",
        "key: the key for user ids has 16 to 4096 bytes; make one with `openssl rand -hex 32`",
        "users:4:1: a user id with a control character; write one user id a line",
    ];
    assert_eq!(found, expected);
    assert!(!found.join("").contains("secret"));
    let loaded = load(&folder.0.join("g.toml"));
    assert_eq!(loaded.files.len(), 5, "{:?}", loaded.files);

    folder.write("users", "alice\n\n  bob \r\nÄ");
    folder.write("tokens", "# who\nops 0123456789abcdef0123\n");
    folder.write("key", "0123456789abcdef\n");
    folder.write(
        "jwks",
        r#"{"keys": [{"kty": "oct", "kid": "s", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"},
        {"kty": "RSA", "alg": "HS256", "n": "AQAB", "e": "AQAB"}]}"#,
    );
    assert_eq!(folder.lines("g.toml"), ["jwks: key 3: `alg` HS256 does not go with its kind of key"]);
    let keys = std::fs::read_to_string(folder.0.join("jwks")).unwrap().replace("\"alg\": \"HS256\", ", "");
    folder.write("jwks", keys);
    let checked = load(&folder.0.join("g.toml")).result.map_err(|r| r.to_string()).unwrap();
    let config = &checked.config;
    assert_eq!(config.log.user_key.as_deref(), Some(&b"0123456789abcdef"[..]));
    assert_eq!(config.segments[0].users.len(), 3);
    assert!(config.segments[0].users.contains(b"bob") && config.segments[0].users.contains("Ä".as_bytes()));
    let crate::domain::config::IdentitySource::Jwt(jwt) = &config.identity.from[0] else { panic!() };
    let crate::domain::config::JwtTrust::Keys { keys, .. } = &jwt.trust else { panic!() };
    let hmac = |a: &jsonwebtoken::Algorithm| a.family() == jsonwebtoken::AlgorithmFamily::Hmac;
    let families: Vec<bool> = keys.iter().map(|k| k.algorithms.iter().any(hmac)).collect();
    assert_eq!(families, [true, false, false]);
}

#[test]
fn ids_of_segments_are_normalised_like_those_of_requests() {
    let text = edited(&[
        ("\"alice\"", "\" Alice\""),
        ("[release.r]", "[identity]\nnormalise = \"lowercase\"\n[release.r]"),
    ]);
    let checked = check(&text).unwrap();
    assert!(checked.config.segments[0].users.contains(b"alice"));
}

/// Damages the text at random: cuts it, removes or doubles a part, or overwrites it with a
/// meaningful token.
fn mutated(text: &str, cuts: &[(u16, u8, u8)]) -> String {
    const SPICE: [&str; 14] =
        ["", "\"", "[", "]", "{", "}", "=", "\n", "5", "true", "${X}", "\u{feff}", "é", "[[route]]\n"];
    let mut text: Vec<char> = text.chars().collect();
    for (at, length, spice) in cuts {
        let at = usize::from(*at) % (text.len() + 1);
        let end = (at + usize::from(*length) % 24).min(text.len());
        if *spice == 255 {
            text.truncate(at);
        } else {
            let new: Vec<char> = SPICE[usize::from(*spice) % SPICE.len()].chars().collect();
            text.splice(at..end, new);
        }
    }
    text.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn no_text_makes_it_panic_and_what_it_accepts_the_schema_accepts(
        which in 0usize..3,
        cuts in proptest::collection::vec((any::<u16>(), any::<u8>(), any::<u8>()), 1..4),
    ) {
        let text = mutated([STARTER, REFERENCE, BASE][which], &cuts);
        match check(&text) {
            Ok(checked) => {
                prop_assert_eq!(schema::check(&text), Ok(()));
                let again = check(&checked.text).unwrap();
                prop_assert_eq!(format!("{:?}", again.config), format!("{:?}", checked.config));
                prop_assert_eq!(compare(&again.config, &checked.config, &Standings::default()), vec![]);
            }
            Err(report) => {
                prop_assert!(report.errors() > 0);
                prop_assert!(!report.render(Color::Plain).is_empty() && !report.render(Color::Ansi).is_empty());
                prop_assert!(report.lines().iter().all(|l| l.starts_with("g.toml") || l.starts_with("and ")), "{report}");
            }
        }
    }
}

#[test]
fn a_quote_that_swallows_the_file_is_told_in_one_line() {
    let text = edited(&[("[\"http://127.0.0.1:9002\"]", "[\"\"\"//127.0.0.1:9002\"]")]);
    let found = lines(&text);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains(r#"9002"]\n[segment.testers]\nusers"#), "{found:?}");
    let escape = lines(&edited(&[("\"5%\"", "\"\\u001b[31m%\"")]));
    assert!(!escape.concat().contains('\u{1b}'), "{escape:?}");
}

#[test]
fn a_file_full_of_faults_is_told_in_part() {
    let text: String = (0..5000).map(|i| format!("k{i} = 1\n")).collect();
    let found = lines(&(text + BASE));
    assert_eq!(found.len(), diagnostics::FAULTS_MAX + 1);
    assert_eq!(found[diagnostics::FAULTS_MAX], "and 4800 more");
    lines(&"[".repeat(200_000));
    lines(&"a = [\n".repeat(20_000));
    lines(&"= \n".repeat(50_000));
}

#[test]
fn a_bracket_that_is_never_closed_is_one_fault() {
    for (from, to, column, expected) in [
        ("hosts = []", "hosts = [", 9, "this is never closed; add `]`"),
        ("hosts = []", "hosts = {", 9, "this is never closed; add `}`"),
        ("[identity]", "[identity", 1, "this is never closed; add `]`"),
        ("workers = 0", "workers = \"", 12, "invalid basic string, expected `\"`"),
    ] {
        let line = 1 + REFERENCE.lines().position(|line| line == from).unwrap();
        let text = REFERENCE.replacen(&format!("\n{from}\n"), &format!("\n{to}\n"), 1);
        assert_eq!(lines(&text), [format!("g.toml:{line}:{column}: this is not TOML: {expected}")]);
    }
}
