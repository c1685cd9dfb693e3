//! The table of keys, the mirror, the schema, the reference and the starter file agree.

use super::*;
use crate::domain::plan::SERVERS_MAX;
use crate::domain::plan::Watchdog;

#[test]
fn the_starter_file_and_the_reference_are_fine_and_the_reference_shows_the_defaults() {
    let starter = check(STARTER).map_err(|r| r.render(Color::Plain)).unwrap();
    assert_eq!(starter.warnings.lines(), Vec::<String>::new());
    let reference = check(REFERENCE).map_err(|r| r.render(Color::Plain)).unwrap();
    let (a, b) = (&reference.plan, check(BASE).unwrap().plan);
    assert_eq!(
        format!("{:?}", (&a.listen, &a.admin, &a.limits)),
        format!("{:?}", (&b.listen, &b.admin, &b.limits))
    );
    assert_eq!(
        format!("{:?}", (&a.state, &a.log, a.metrics)),
        format!("{:?}", (&b.state, &b.log, b.metrics))
    );
    // The reference states the ceilings.
    let stated = Watchdog { stated: b.releases[0].watchdog.stated, ..a.releases[0].watchdog.clone() };
    assert_eq!(stated, b.releases[0].watchdog);
    assert_eq!(a.releases[0].warm_up, b.releases[0].warm_up);
    let times = |p: &crate::domain::plan::Plan| {
        let u = &p.upstreams[0];
        let times =
            (u.connect_timeout, u.response_timeout, u.idle_timeout, u.total_timeout, u.connection_idle);
        (times, u.http2_ping, u.connections_max, u.requests_in_flight_max, u.transport.clone())
    };
    assert_eq!(times(a), times(&b));
}

#[test]
fn the_reference_says_default_and_reload_of_every_key() {
    let mut section = String::new();
    let mut comment = String::new();
    let mut told: Vec<(String, String)> = Vec::new();
    for line in REFERENCE.lines() {
        let bare = line.trim().trim_start_matches('#').trim_start_matches([' ', '{']);
        if let Some(header) = line.strip_prefix('[') {
            let parts: Vec<&str> = header.trim_matches(['[', ']']).split('.').collect();
            let named = ["upstream", "segment", "release", "alert"].contains(&parts[0]) && parts.len() > 1;
            section =
                if named { [&[parts[0], "*"], &parts[2..]].concat().join(".") } else { parts.join(".") };
            if parts.len() == 1 || parts.len() == 2 {
                told.push((String::new(), parts[0].to_string()));
            }
            if parts.len() == 3 {
                told.push((format!("{}.*", parts[0]), parts[2].to_string()));
            }
            comment.clear();
            continue;
        }
        if line.trim_start().starts_with('#') {
            comment.push_str(bare);
            // Keys of inline tables, described in a line of their own: "name   description".
            let word: String = bare.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            if bare[word.len()..].starts_with("  ") || bare[word.len()..].starts_with(" ins") {
                assert!(bare.contains("Default: ") && bare.contains("Reload: "), "{bare}");
                told.push(("identity.from.jwt".into(), word.clone()));
                told.push(("release.*.outcome.body".into(), word.clone()));
                told.push(("segment.*.header".into(), word.clone()));
                told.push(("upstream.*.health".into(), word));
            }
        }
        if let Some((key, _)) = bare.split_once(" = ").filter(|(key, _)| !key.contains([' ', '"', '`'])) {
            let complete = comment.contains("Default: ") && comment.contains("Reload: ");
            let again = told.iter().any(|(s, k)| *s == section && k == key);
            if complete || again {
                let inside = line.starts_with("  ");
                told.push((if inside { "identity.from".into() } else { section.clone() }, key.to_string()));
            }
            comment.clear();
        }
    }
    for (section, known) in keys::KNOWN {
        for key in *known {
            let there = told.iter().any(|(s, k)| s == section && k == key);
            assert!(there, "reference.toml says nothing (or not all) of `{key}` in `[{section}]`");
        }
    }
}

/// The properties of each table of the schema are the keys of `keys::KNOWN`.
#[test]
fn the_mirror_has_the_keys_that_the_checker_knows() {
    let schema: serde_json::Value = serde_json::from_str(&file::schema()).unwrap();
    let keys_of = |table: &serde_json::Value| -> Vec<String> {
        let one = |t: &serde_json::Value| -> Vec<String> {
            t["properties"].as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default()
        };
        let mut keys = one(table);
        for variant in table["oneOf"].as_array().into_iter().flatten() {
            keys.extend(one(variant));
        }
        keys.sort();
        keys
    };
    let def = |name: &str| keys_of(&schema["$defs"][name]);
    for (section, known) in keys::KNOWN {
        let mirrored = match *section {
            "" => keys_of(&schema),
            "listen" => def("Listen"),
            "tls" => def("Tls"),
            "admin" => def("Admin"),
            "identity" => def("Identity"),
            "identity.from" => def("IdentitySource"),
            "identity.from.jwt" => def("Jwt"),
            "upstream.*" => def("Upstream"),
            "upstream.*.health" => def("Health"),
            "upstream.*.resources" => def("Resources"),
            "segment.*" => def("Segment"),
            "segment.*.header" => def("HeaderMatch"),
            "release.*" => def("Release"),
            "release.*.wave" => def("Wave"),
            "release.*.resource" => def("Resource"),
            "release.*.outcome" => def("OutcomeRules"),
            "release.*.outcome.body" => def("BodyRule"),
            "release.*.watchdog" => def("Watchdog"),
            "route" => def("Route"),
            "limits" => def("Limits"),
            "state" => def("State"),
            "log" => def("Log"),
            "metrics" => def("Metrics"),
            "traces" => def("Traces"),
            "alert.*" => def("Alert"),
            other => panic!("no mirror of [{other}]"),
        };
        let mut known: Vec<String> = known.iter().map(|k| k.to_string()).collect();
        known.sort();
        assert_eq!(mirrored, known, "[{section}]");
    }
}

#[test]
fn an_upstream_has_at_most_as_many_servers_as_a_request_can_try() {
    let schema: serde_json::Value = serde_json::from_str(&file::schema()).unwrap();
    assert_eq!(schema["$defs"]["Upstream"]["properties"]["servers"]["maxItems"], SERVERS_MAX);
    let with = |count: usize| {
        let servers: Vec<String> =
            (0..count).map(|n| format!("\"http://10.0.{}.{}:1\"", n / 200, n % 200)).collect();
        check(&BASE.replacen("[\"http://127.0.0.1:9001\"]", &format!("[{}]", servers.join(", ")), 1))
    };
    let servers = with(SERVERS_MAX).map_err(|r| r.render(Color::Plain)).unwrap();
    assert_eq!(servers.plan.upstreams[0].servers.len(), SERVERS_MAX);
    let faults = with(SERVERS_MAX + 1).map(|_| ()).unwrap_err().lines();
    assert!(faults.iter().any(|l| l.contains("`servers` has more than 256 elements")), "{faults:?}");
}
