//! The sections that exist once: listen, admin, identity, limits, state, log, with their defaults
//! and bounds.

use super::files;
use super::keys::choices::{
    CERTIFICATE_NAME, FAILED_USERS, LOG_FORMAT, NORMALISE, ON_STATE_FAILURE, WHEN_EMPTY,
};
use super::reader::{ConfigReader, SourceSpan, TableScope, WithSpan, found};
use super::values;
use crate::config::keys::{ConfigKey, single_sections, upstreams_and_routes};
use crate::domain::config::{
    Admin, Health, Identity, IdentitySource, JwtSource, JwtTrust, Listen, LogConfig, RequestLimits,
    ResponseHeadLimits, StateConfig,
};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The address of a listener whose table entry has no valid default, which tests exclude.
const UNKNOWN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The places of the addresses, for faults of other sections.
pub struct ListenSpans {
    pub admin: SourceSpan,
    pub https: Option<SourceSpan>,
}

pub fn listen(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> (Listen, ListenSpans) {
    let scope = r.scope(root, &single_sections::LISTEN);
    let http = r.one_or_list(&scope, "http", values::address);
    let https = r.one_or_list(&scope, "https", values::address);
    for key in ["http", "https"] {
        let value = r.value(&scope, key).filter(|v| v.get_ref().as_array().is_some_and(|a| a.is_empty()));
        if let Some(span) = value.map(Spanned::span) {
            r.fault(&span, format!("`{key}` is an empty list"), "", Some("remove it".into()));
        }
    }
    let admin = r.parsed_or_default(&scope, "admin", values::address);
    let admin_span = admin.as_ref().map_or(scope.span.clone(), |a| a.span.clone());
    let workers = r.integer(&scope, "workers") as usize;
    let proxy_protocol = r.stated_boolean(&scope, "proxy_protocol").filter(|p| p.value);
    let listen = Listen {
        http: http.iter().map(|a| a.value).collect(),
        https: https.iter().map(|a| a.value).collect(),
        admin: admin.as_ref().map_or(UNKNOWN_ADDRESS, |a| a.value),
        workers,
        trusted_proxies: networks(r, &scope, "trusted_proxies"),
        proxy_protocol: proxy_protocol.is_some(),
        expose_arm: r.boolean(&scope, "expose_arm"),
    };
    let named = |name, list: &[WithSpan<SocketAddr>]| {
        list.iter().map(|a| (name, a.value, a.span.clone())).collect::<Vec<_>>()
    };
    let admin_place = admin.map(|a| ("admin", a.value, a.span));
    let places: Vec<_> =
        named("http", &http).into_iter().chain(admin_place).chain(named("https", &https)).collect();
    for (i, (name, address, span)) in places.iter().enumerate().filter(|(_, place)| place.1.port() != 0) {
        match places[..i].iter().find(|earlier| earlier.1 == *address) {
            Some((other, ..)) if other == name => {
                let message = format!("`{address}` stands twice in `{name}`");
                r.fault(span, message, "", Some("remove one".into()));
            }
            Some((other, ..)) => {
                let message = format!("`{other}` and `{name}` are the same address");
                r.fault(span, message, "", Some(format!("give `{name}` another port")));
            }
            None => {}
        }
    }
    // Unreadable networks have been reported already.
    let named = r
        .value(&scope, "trusted_proxies")
        .is_some_and(|v| !v.get_ref().as_array().is_some_and(|a| a.is_empty()));
    if let Some(on) = proxy_protocol.filter(|_| !named) {
        let why = "nobody's PROXY header would be believed";
        let help =
            "name the networks of the proxies that send it, as in `trusted_proxies = [\"10.0.0.0/8\"]`";
        r.absent(&on.span, "`proxy_protocol` without `trusted_proxies`", why, Some(help.into()));
    }
    if let Some(net) = listen.trusted_proxies.iter().find(|n| n.prefix_len() == 0) {
        let span = r.value(&scope, "trusted_proxies").map_or(scope.span.clone(), Spanned::span);
        r.warn(
            &span,
            format!("`{net}` trusts everybody"),
            "any client can choose the address it seems to come from",
            Some("name the networks of your own proxies".into()),
        );
    }
    (listen, ListenSpans { admin: admin_span, https: https.into_iter().next().map(|a| a.span) })
}

pub fn networks(r: &mut ConfigReader<'_>, scope: &TableScope<'_>, key: &str) -> Vec<IpNet> {
    let list = r.list(scope, key, values::network);
    for net in list.iter().filter(|n| n.value.1) {
        let help = Some(format!("write `\"{}\"`", net.value.0));
        r.warn(&net.span, "the address has bits beyond its prefix", "they are ignored", help);
    }
    list.into_iter().map(|n| n.value.0).collect()
}

pub fn admin(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    listen: &Listen,
    admin_span: SourceSpan,
) -> Admin {
    let scope = r.scope(root, &single_sections::ADMIN);
    let token_file = file(r, &scope, "token_file");
    // A value that is not a file name has been reported already.
    let named = token_file.is_some()
        || r.value(&scope, "token_file").is_some_and(|v| v.get_ref().as_str() != Some(""));
    let tokens = token_file.and_then(|(path, span)| files::tokens(r, &path, &span));
    let local_changes = r.stated_boolean(&scope, "local_changes");
    match (named, &local_changes) {
        (false, _) if !listen.admin.ip().is_loopback() => r.absent(
            &admin_span,
            "`[admin] token_file` is missing",
            "the admin address can be reached from other machines",
            Some("add `token_file = \"admin.tokens\"` under `[admin]` (lines `NAME TOKEN`), or listen on 127.0.0.1".into()),
        ),
        (false, None) if !r.recovering => r.warn(
            &admin_span,
            "every process of this machine may roll back, resume and promote",
            "without a `token_file` no token is asked for on loopback",
            Some("add `token_file = \"admin.tokens\"` under `[admin]`, or `local_changes = false`, or `local_changes = true` if it is meant".into()),
        ),
        (false, Some(local)) if !local.value => r.warn(
            &local.span,
            "the admin API takes no change at all",
            "`local_changes` is false, and there is no `token_file`",
            Some("change weights in this file; to roll back create `grayling.stop` beside it; to end the hold that this leaves, and for all else, add `token_file = \"admin.tokens\"`".into()),
        ),
        (true, Some(local)) if local.value => r.warn(
            &local.span,
            "`local_changes` is not used",
            "with a `token_file` every change needs a token",
            Some("remove `local_changes`".into()),
        ),
        _ => {}
    }
    let hosts = r.list(&scope, "hosts", values::host);
    Admin {
        tokens,
        hosts: hosts.into_iter().map(|h| h.value).collect(),
        local_changes: local_changes.is_none_or(|local| local.value),
    }
}

/// The file that a key names. `""` means none.
pub fn file(
    r: &mut ConfigReader<'_>,
    scope: &TableScope<'_>,
    key: &str,
) -> Option<(std::path::PathBuf, SourceSpan)> {
    let text = r.string(scope, key)?;
    if text.value.is_empty() {
        return None;
    }
    if text.value.contains('\0') {
        r.fault(&text.span, format!("invalid `{key}`"), "a file name has no NUL", None);
        return None;
    }
    Some((r.file(&text.value), text.span))
}

/// `mutual`: clients show a certificate.
pub fn identity(r: &mut ConfigReader<'_>, root: &TableScope<'_>, mutual: bool) -> Identity {
    let scope = r.scope(root, &single_sections::IDENTITY);
    let normalise = r.choice(&scope, "normalise", &NORMALISE);
    let max_bytes = r.integer(&scope, "max_bytes") as usize;
    let mut from = Vec::new();
    match r.value(&scope, "from") {
        None => {
            let default = scope.section.key("from").and_then(ConfigKey::default_text);
            let document = format!("from = {}", default.unwrap_or("[]"));
            let table = DeTable::parse(&document);
            let list = table.iter().find_map(|table| table.get_ref().get("from")?.get_ref().as_array());
            from.extend(list.into_iter().flatten().filter_map(|element| source(r, element)));
        }
        Some(value) => {
            for element in r.array(&scope, "from") {
                let source = source(r, element);
                if !mutual && matches!(source, Some(IdentitySource::ClientCert(_))) {
                    let why = "no client shows a certificate";
                    let help = "add `client_ca = \"tls/ca.pem\"` under `[tls]`, or remove `client_cert`";
                    r.absent(
                        &element.span(),
                        "`client_cert` without `[tls] client_ca`",
                        why,
                        Some(help.into()),
                    );
                }
                from.extend(source);
            }
            if value.get_ref().as_array().is_some_and(|a| a.is_empty()) {
                let why = "without a user id everybody goes to stable";
                let help = "write a source, as in `from = [{ header = \"x-user-id\" }]`";
                r.fault(&value.span(), "`from` names no source", why, Some(help.into()));
            }
        }
    }
    Identity { from, normalise, max_bytes }
}

fn source<'t>(r: &mut ConfigReader<'_>, element: &'t Spanned<DeValue<'t>>) -> Option<IdentitySource> {
    let scope = r.table(element, &single_sections::IDENTITY_SOURCE, "an element of `from`".into());
    let table = scope.table?;
    let kinds: Vec<&str> = scope.section.names().filter(|k| table.contains_key(*k)).collect();
    match kinds[..] {
        [] if table.is_empty() => {
            let help = "write one source in braces, as in `{ header = \"x-user-id\" }`";
            r.fault(&scope.span, "an element of `from` is empty", "", Some(help.into()));
            None
        }
        [] => None,
        ["header"] => {
            let name = r.parsed(&scope, "header", values::header_name)?;
            Some(IdentitySource::Header(name.value))
        }
        ["cookie"] => Some(IdentitySource::Cookie(r.parsed(&scope, "cookie", values::token)?.value)),
        ["query"] => Some(IdentitySource::Query(r.parsed(&scope, "query", values::parameter)?.value)),
        ["path"] => Some(IdentitySource::Path(r.parsed(&scope, "path", values::path_pattern)?.value)),
        ["client_cert"] => {
            Some(IdentitySource::ClientCert(r.choice(&scope, "client_cert", &CERTIFICATE_NAME)))
        }
        ["jwt"] => jwt(r, &scope).map(IdentitySource::Jwt),
        _ => {
            let help = "write one pair of braces for each, in the order they are tried";
            r.fault(&scope.span, "an element of `from` names two sources", "", Some(help.into()));
            None
        }
    }
}

fn jwt(r: &mut ConfigReader<'_>, parent: &TableScope<'_>) -> Option<JwtSource> {
    let value = r.value(parent, "jwt")?;
    let scope = r.table(value, &single_sections::JWT, "`jwt`".into());
    scope.table?;
    let header = r.parsed_or_default(&scope, "header", values::header_name).map(|h| h.value);
    let claim = r.parsed_or_default(&scope, "claim", values::parameter).map(|c| c.value);
    let unverified = r.stated_boolean(&scope, "unverified");
    let named = r.value(&scope, "jwks_file").is_some();
    let file = file(r, &scope, "jwks_file");
    let trust = match (file, unverified) {
        (Some((_, span)), Some(u)) if u.value => {
            let help = "keep `jwks_file`, and remove `unverified`";
            r.fault(&span, "`jwks_file` and `unverified = true` exclude each other", "", Some(help.into()));
            None
        }
        (Some((path, span)), _) => {
            let keys = files::jwks(r, &path, &span);
            Some(JwtTrust::Keys { file: path, keys })
        }
        (None, Some(u)) if u.value => {
            let why = "whoever can reach this proxy can be any user";
            let help = "make sure that an earlier hop has verified the token, or name a `jwks_file`";
            r.warn(&u.span, "tokens are believed without a look at their signature", why, Some(help.into()));
            Some(JwtTrust::Unverified)
        }
        (None, _) => {
            // A `jwks_file` of the wrong type has been reported already.
            if !named {
                let help = "add `jwks_file = \"jwks.json\"`, or `unverified = true` if an earlier hop has verified the token";
                r.absent(&scope.span, "`jwt` says nothing of how tokens are verified", "", Some(help.into()));
            } else if r.value(&scope, "jwks_file").is_some_and(|v| v.get_ref().as_str() == Some("")) {
                let span = r.value(&scope, "jwks_file").map_or(scope.span.clone(), Spanned::span);
                r.fault(&span, "`jwks_file` names no file", "", None);
            }
            None
        }
    };
    Some(JwtSource { header: header?, claim: claim?, trust: trust? })
}

pub fn limits(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> RequestLimits {
    let scope = r.scope(root, &single_sections::LIMITS);
    let limits = RequestLimits {
        header_bytes: r.size(&scope, "header_bytes"),
        header_count: r.integer(&scope, "header_count") as usize,
        response_head: ResponseHeadLimits {
            bytes: r.size(&scope, "response_header_bytes"),
            fields: r.integer(&scope, "response_header_count") as usize,
        },
        uri_bytes: r.size(&scope, "uri_bytes"),
        connections: r.integer(&scope, "connections") as usize,
        requests_in_flight: r.integer(&scope, "requests_in_flight") as usize,
        header_timeout: r.duration(&scope, "header_timeout"),
        body_idle_timeout: r.duration(&scope, "body_idle_timeout"),
        request_buffer: r.size(&scope, "request_buffer"),
        keepalive_timeout: r.duration(&scope, "keepalive_timeout"),
        drain: r.duration(&scope, "drain"),
        abandoned_max: r.duration_unless_empty(&scope, "abandoned_max"),
        stream_grace: stream_grace(r, &scope),
    };
    if limits.uri_bytes > limits.header_bytes {
        let span =
            ["uri_bytes", "header_bytes"].into_iter().find_map(|k| r.value(&scope, k)).map(Spanned::span);
        let help = format!("lower `uri_bytes` to `\"{}\"` or less", values::show_size(limits.header_bytes));
        let span = span.unwrap_or(scope.span.clone());
        r.fault(&span, "`uri_bytes` is more than `header_bytes`, which it is a part of", "", Some(help));
    }
    limits
}

/// `websocket_grace` is the earlier name of `stream_grace`.
fn stream_grace(r: &mut ConfigReader<'_>, scope: &TableScope<'_>) -> Duration {
    const NAMES: [&str; 2] = ["stream_grace", "websocket_grace"];
    let [now, earlier] = NAMES.map(|name| r.value(scope, name).map(Spanned::span));
    if let (Some(_), Some(span)) = (&now, &earlier) {
        let help = "delete `websocket_grace`: `stream_grace` holds for WebSockets too".to_owned();
        r.fault(span, "`websocket_grace` and `stream_grace` are one setting", "", Some(help));
    }
    let name = if now.is_none() && earlier.is_some() { NAMES[1] } else { NAMES[0] };
    r.duration(scope, name)
}

pub fn state(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> StateConfig {
    let scope = r.scope(root, &single_sections::STATE);
    let directory = r.parsed_or_default(&scope, "directory", |text| {
        if text.is_empty() || text.contains('\0') {
            return values::bad_help("not a directory", "write `\"state\"`, or an absolute path");
        }
        Ok(text.to_string())
    });
    let directory = directory.map(|d| d.value).unwrap_or_default();
    StateConfig {
        directory: r.base.join(directory),
        on_failure: r.choice(&scope, "on_failure", &ON_STATE_FAILURE),
        when_empty: r.choice(&scope, "when_empty", &WHEN_EMPTY),
        failed_users: r.choice(&scope, "failed_users", &FAILED_USERS),
    }
}

pub fn log(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> LogConfig {
    let scope = r.scope(root, &single_sections::LOG);
    let format = r.choice(&scope, "format", &LOG_FORMAT);
    let sample = r.percent(&scope, "sample").value;
    let slow = r.duration(&scope, "slow");
    let key_file = file(r, &scope, "user_key_file");
    let user_key = key_file.and_then(|(path, span)| files::user_key(r, &path, &span));
    LogConfig { format, sample, slow, user_key }
}

/// A table with `path` and `interval`.
/// The method of gRPC's health protocol.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

pub fn health(r: &mut ConfigReader<'_>, parent: &TableScope<'_>) -> Option<Health> {
    let value = r.value(parent, "health")?;
    let help = || Some("write `health = { path = \"/healthz\", interval = \"2s\" }`".to_string());
    if let DeValue::String(_) = value.get_ref() {
        r.fault(&value.span(), "`health` is not a table", &found(value.get_ref()), help());
        return None;
    }
    let scope = r.table(value, &upstreams_and_routes::HEALTH, "`health`".into());
    scope.table?;
    let interval = r.duration(&scope, "interval");
    if let Some(grpc) = r.string(&scope, "grpc") {
        if let Some(path) = r.value(&scope, "path") {
            let help = Some("remove one of them".to_owned());
            r.fault(&path.span(), "`path` and `grpc` are two kinds of probe", "", help);
        }
        if !r.boolean(parent, "http2") {
            let help = Some("add `http2 = true`".to_owned());
            r.fault(&grpc.span, "gRPC needs HTTP/2", "this upstream is without `http2`", help);
        }
        let path = http::uri::PathAndQuery::from_static(GRPC_HEALTH);
        return Some(Health { path, grpc: Some(grpc.value), interval });
    }
    if r.value(&scope, "path").is_none() {
        r.absent(&scope.span, "`health` has no `path`", "", help());
    }
    let path = r.parsed(&scope, "path", values::probe_path)?;
    Some(Health { path: path.value, grpc: None, interval })
}

/// A table with `name` and `equals`.
pub fn header_match(
    r: &mut ConfigReader<'_>,
    parent: &TableScope<'_>,
) -> Option<crate::domain::segment::HeaderMatch> {
    let value = r.value(parent, "header")?;
    if let DeValue::String(_) = value.get_ref() {
        let help = "write `header = { name = \"x-plan\", equals = \"internal\" }`";
        r.fault(&value.span(), "`header` is not a table", &found(value.get_ref()), Some(help.into()));
        return None;
    }
    let scope = r.table(value, &upstreams_and_routes::HEADER_MATCH, "`header`".into());
    scope.table?;
    for key in ["name", "equals"] {
        if r.value(&scope, key).is_none() {
            let help = "write `header = { name = \"x-plan\", equals = \"internal\" }`";
            r.absent(&scope.span, format!("`header` has no `{key}`"), "", Some(help.into()));
        }
    }
    let name = r.parsed(&scope, "name", values::header_name);
    let equals = r.parsed(&scope, "equals", |text| {
        let sendable = http::HeaderValue::from_str(text).is_ok() && text.trim() == text && !text.is_empty();
        if sendable { Ok(text.as_bytes().to_vec()) } else { values::bad("no header can have this value") }
    });
    Some(crate::domain::segment::HeaderMatch { name: name?.value, equals: equals?.value })
}
