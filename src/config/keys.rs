//! All keys of a config file, by section.
//!
//! Invariants: `check` reads no other key; `file` has the same keys; `config/reference.toml`
//! contains them all.

/// Keys by section name. `*` stands for a user-defined name.
pub const KNOWN: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "listen", "tls", "admin", "identity", "upstream", "segment", "release", "route", "limits",
            "state", "log", "metrics", "traces", "alert",
        ],
    ),
    ("listen", &["http", "https", "admin", "workers", "trusted_proxies", "proxy_protocol", "expose_arm"]),
    ("tls", &["certificate", "key", "client_ca"]),
    ("admin", &["token_file", "hosts", "local_changes"]),
    ("identity", &["from", "normalise", "max_bytes"]),
    ("identity.from", &["header", "cookie", "query", "path", "jwt", "client_cert"]),
    ("identity.from.jwt", &["header", "claim", "jwks_file", "unverified"]),
    (
        "upstream.*",
        &[
            "servers",
            "connect_timeout",
            "response_timeout",
            "idle_timeout",
            "total_timeout",
            "connection_idle",
            "connections_max",
            "requests_in_flight_max",
            "http2",
            "http2_ping",
            "ca_file",
            "health",
            "resources",
        ],
    ),
    ("upstream.*.health", &["path", "interval"]),
    ("upstream.*.resources", &["scrape"]),
    ("segment.*", &["users", "users_file", "header", "networks"]),
    ("segment.*.header", &["name", "equals"]),
    (
        "release.*",
        &[
            "stable",
            "new",
            "salt",
            "attempt",
            "weight",
            "step_max",
            "holdback",
            "soak",
            "segments",
            "excluded",
            "on_unreachable",
            "on_anomaly",
            "on_both_bad",
            "warm_up",
            "same_version",
            "open_hours",
            "critical",
            "wave",
            "resource",
            "resource_interval",
            "outcome",
            "watchdog",
        ],
    ),
    ("release.*.wave", &["name", "segments", "weight", "bake", "requests_min", "users_min", "open"]),
    (
        "release.*.resource",
        &[
            "name",
            "reading",
            "prometheus",
            "new",
            "stable",
            "ceiling",
            "times_stable_max",
            "floor",
            "in_a_row",
            "on",
        ],
    ),
    ("release.*.outcome", &["status", "header", "body", "grpc"]),
    ("release.*.outcome.body", &["path", "equals", "not_equals", "max"]),
    (
        "release.*.watchdog",
        &[
            "enabled",
            "mode",
            "alpha",
            "errors_max",
            "latency_p99_max",
            "latency_tolerance",
            "latency_notice",
            "hold_when_blind",
            "margin_errors",
            "margin_latency",
            "margin_latency_tail",
            "latency_floor",
            "strata",
            "harm_users_max",
            "tick",
        ],
    ),
    ("route", &["name", "host", "path", "methods", "release", "upstream"]),
    (
        "limits",
        &[
            "header_bytes",
            "header_count",
            "uri_bytes",
            "connections",
            "requests_in_flight",
            "header_timeout",
            "body_idle_timeout",
            "keepalive_timeout",
            "drain",
            "abandoned_max",
            "stream_grace",
            "websocket_grace",
        ],
    ),
    ("state", &["directory", "on_failure", "when_empty", "failed_users"]),
    ("log", &["format", "sample", "slow", "user_key_file"]),
    ("metrics", &["detail"]),
    ("traces", &["endpoint", "sample"]),
    ("alert.*", &["alertmanager", "slack_file", "webhook", "secret_file", "repeat", "stuck_after"]),
];

pub fn known(section: &str) -> &'static [&'static str] {
    KNOWN.iter().find(|(name, _)| *name == section).map_or(&[], |(_, keys)| keys)
}

/// The candidate that is closest to `typed`.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = typed.to_lowercase().replace('-', "_");
    let scored =
        candidates.into_iter().map(|c| (strsim::damerau_levenshtein(&lower, &c.replace('-', "_")), c));
    let (distance, best) = scored.min_by_key(|(distance, _)| *distance)?;
    let length = typed.chars().count();
    (distance <= 1 + length / 4 && distance < length).then_some(best)
}

/// The section (and key) where an unknown key belongs.
pub fn home(key: &str) -> Option<&'static str> {
    let mut homes = KNOWN.iter().filter(|(name, keys)| !name.is_empty() && keys.contains(&key));
    match (homes.next(), homes.next()) {
        (Some((name, _)), None) => Some(name),
        _ => None,
    }
}
