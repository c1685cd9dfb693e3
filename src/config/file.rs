//! The exact mirror of the file, without logic: the source of the JSON schema that editors complete
//! and check with.
//!
//! `check` does not read through it, because serde stops at the first fault.
//! Tests hold the two together: the keys here are those of `keys::KNOWN`, and all that `check`
//! accepts, this accepts.

mod release;

pub use release::*;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The config of grayling, a gray-release proxy. Required: `upstream`, one `route`, and the entries
/// that they name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub listen: Option<Listen>,
    pub tls: Option<Tls>,
    pub admin: Option<Admin>,
    pub identity: Option<Identity>,
    /// The versions of the service: `[upstream.NAME]`.
    pub upstream: BTreeMap<String, Upstream>,
    /// Named sets of users: `[segment.NAME]`.
    pub segment: Option<BTreeMap<String, Segment>>,
    /// Gray releases: `[release.NAME]`.
    pub release: Option<BTreeMap<String, Release>>,
    /// The route with the longest matching path wins, then one with a host, then one with methods.
    /// No match: 404.
    #[schemars(length(min = 1))]
    pub route: Vec<Route>,
    pub limits: Option<Limits>,
    pub state: Option<State>,
    pub log: Option<Log>,
    pub metrics: Option<Metrics>,
    pub traces: Option<Traces>,
    /// Receivers of alerts that need an operator: `[alert.NAME]`.
    pub alert: Option<BTreeMap<String, Alert>>,
}

/// A number and its unit: ms, s, m, h or d, as in "250ms" or "10s".
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^[0-9]+ *(ms|s|m|h|d)$|\$\{"))]
pub struct Duration(pub String);

/// A number and its unit: B, KiB, MiB or GiB, as in "32KiB".
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^[0-9]+ *(B|KiB|MiB|GiB)$|\$\{"))]
pub struct Size(pub String);

/// A number from 0 to 100 with at most four decimals, and its sign, as in "5%" or "0.25%".
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^ *[0-9]+(\.[0-9]{1,4})? *% *$|\$\{"))]
pub struct Percent(pub String);

/// An address to listen on, as in `"127.0.0.1:8080"` or `"[::]:8080"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^([0-9.]+|\[[0-9a-fA-F:.%]+\]):[0-9]+$|\$\{"))]
pub struct Address(pub String);

/// An address and a prefix length, as in "10.1.0.0/16".
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^[0-9a-fA-F:.]+/[0-9]+$|\$\{"))]
pub struct Network(pub String);

/// Scheme, host and port, as in `"http://127.0.0.1:9001"` or `"https://billing.internal:9443"`.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(extend("pattern" = r"^https?://[^/?#@]+$|\$\{"))]
pub struct Server(pub String);

/// The addresses for users and operators.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    #[schemars(extend("default" = "127.0.0.1:8080"))]
    pub http: Option<Address>,
    /// HTTP/1.1 and HTTP/2 by ALPN; needs `[tls]`.
    pub https: Option<Address>,
    /// Metrics and commands. Any address but loopback needs `[admin] token_file`.
    #[schemars(extend("default" = "127.0.0.1:9900"))]
    pub admin: Option<Address>,
    /// Data plane threads. 0: one per core.
    #[schemars(range(min = 0, max = 256), extend("default" = 0))]
    pub workers: Option<u64>,
    /// Peers whose X-Forwarded-* and PROXY headers are trusted.
    #[schemars(extend("default" = []))]
    pub trusted_proxies: Option<Vec<Network>>,
    /// The trusted proxies begin every connection with a PROXY header, version 1 or 2. Needs
    /// `trusted_proxies`.
    #[schemars(extend("default" = false))]
    pub proxy_protocol: Option<bool>,
    /// Adds `x-grayling-arm` to responses.
    #[schemars(extend("default" = false))]
    pub expose_arm: Option<bool>,
}

/// For `[listen] https`. The files are watched: a renewed pair is loaded without a restart.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the certificate, followed by the intermediate ones; relative to this file.
    pub certificate: Option<String>,
    /// PEM: the private key of the certificate; relative to this file.
    pub key: Option<String>,
    /// PEM: the authorities that sign the required client certificates; relative to this file.
    pub client_ca: Option<String>,
}

/// The admin address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Lines "NAME TOKEN"; relative to this file.
    pub token_file: Option<String>,
    /// Accepted Host values besides IP literals and localhost.
    #[schemars(extend("default" = []))]
    pub hosts: Option<Vec<String>>,
    /// Without a token file: changes from this machine need no token. False: every change needs a
    /// token.
    #[schemars(extend("default" = true))]
    pub local_changes: Option<bool>,
}

/// The source of the user id.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The first source with an id wins. Without an id: stable, and counted.
    #[schemars(length(min = 1, max = 16), extend("default" = [{"header": "x-user-id"}]))]
    pub from: Option<Vec<IdentitySource>>,
    /// Normalisation of an id before it is hashed. Changing it moves the users whose id changes.
    #[schemars(extend("default" = "none"))]
    pub normalise: Option<Normalise>,
    /// A longer id counts as no id.
    #[schemars(range(min = 1, max = 4096), extend("default" = 256))]
    pub max_bytes: Option<u64>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum IdentitySource {
    /// The name of a header.
    Header(String),
    /// The name of a cookie.
    Cookie(String),
    /// The name of a query parameter.
    Query(String),
    /// A path with the id in braces, as in "/accounts/{id}".
    Path(String),
    /// A claim of a JSON web token.
    Jwt(Jwt),
    /// A name in the client's certificate. Needs `[tls] client_ca`.
    #[serde(rename = "client_cert")]
    ClientCert(CertificateName),
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CertificateName {
    /// The common name of its subject.
    Cn,
    /// The first alternative name that is a DNS name, a URI or an e-mail address.
    San,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// The header with the token, with or without "Bearer".
    #[schemars(extend("default" = "authorization"))]
    pub header: Option<String>,
    /// The claim with the id.
    #[schemars(extend("default" = "sub"))]
    pub claim: Option<String>,
    /// Keys to verify tokens with (RFC 7517); relative to this file.
    pub jwks_file: Option<String>,
    /// An earlier hop has verified the token: trust it.
    pub unverified: Option<bool>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    None,
    Trim,
    Lowercase,
    Digits,
}

/// One version of the service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    #[schemars(length(min = 1, max = 256))]
    pub servers: Vec<Server>,
    /// Until a connection is established, or a busy one becomes free.
    #[schemars(extend("default" = "1s"))]
    pub connect_timeout: Option<Duration>,
    /// Until the response head.
    #[schemars(extend("default" = "30s"))]
    pub response_timeout: Option<Duration>,
    /// Between two pieces of a response body.
    #[schemars(extend("default" = "60s"))]
    pub idle_timeout: Option<Duration>,
    /// For the whole exchange. "0s": none.
    #[schemars(extend("default" = "0s"))]
    pub total_timeout: Option<Duration>,
    /// A pooled connection unused for longer is closed. Keep it below the server's own keep-alive.
    #[schemars(extend("default" = "4s"))]
    pub connection_idle: Option<Duration>,
    /// Connections per server.
    #[schemars(range(min = 1, max = 65535), extend("default" = 512))]
    pub connections_max: Option<u64>,
    /// Requests in flight of this upstream. Beyond: 503, counted against this arm.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 2000))]
    pub requests_in_flight_max: Option<u64>,
    /// HTTP/2 to its servers: with prior knowledge over http, by ALPN over https.
    #[schemars(extend("default" = false))]
    pub http2: Option<bool>,
    /// PING on an HTTP/2 connection with open streams, after this long without a frame. "0s": none.
    #[schemars(extend("default" = "0s"))]
    pub http2_ping: Option<Duration>,
    /// PEM: the authorities that sign the certificates of its https servers; relative to this file.
    /// Default: the system's.
    pub ca_file: Option<String>,
    /// Active health check of each server. An unhealthy server gets no requests.
    pub health: Option<Health>,
    /// The servers' own metrics, for the resources that releases watch.
    pub resources: Option<Resources>,
}

/// The source of an upstream's resource metrics.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// The metrics of each server, in the text format of Prometheus: one address, or a list of
    /// addresses.
    pub scrape: OneOrMany,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    One(
        #[schemars(extend("pattern" = r"^https?://|\$\{"))]
        String,
    ),
    Many(#[schemars(length(min = 1, max = 64))] Vec<String>),
}

/// Three responses in a row other than 2xx take a server out, two good ones in a row bring it back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Begins with `/`; may have a query.
    pub path: String,
    /// From the start of a probe to the start of the next, ±10%.
    #[schemars(extend("default" = "2s"))]
    pub interval: Option<Duration>,
}

/// A user is in the segment if any of these matches.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    pub users: Option<Vec<String>>,
    /// One id a line; relative to this file, and watched.
    pub users_file: Option<String>,
    /// Any client that can send this header can enter.
    pub header: Option<HeaderMatch>,
    pub networks: Option<Vec<Network>>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderMatch {
    pub name: String,
    pub equals: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Label in metrics and logs. Default: its position.
    pub name: Option<String>,
    /// Default: any.
    pub host: Option<String>,
    /// A prefix on path segment boundaries.
    #[schemars(extend("default" = "/", "pattern" = r"^/|\$\{"))]
    pub path: Option<String>,
    /// Default: any.
    #[schemars(extend("default" = []))]
    pub methods: Option<Vec<String>>,
    /// Either a release or an upstream.
    pub release: Option<String>,
    pub upstream: Option<String>,
}

/// The defaults are safe for the open internet.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[schemars(extend("default" = "32KiB"))]
    pub header_bytes: Option<Size>,
    #[schemars(range(min = 8, max = 1024), extend("default" = 100))]
    pub header_count: Option<u64>,
    #[schemars(extend("default" = "8KiB"))]
    pub uri_bytes: Option<Size>,
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 20000))]
    pub connections: Option<u64>,
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 10000))]
    pub requests_in_flight: Option<u64>,
    /// For a request head, from its first byte.
    #[schemars(extend("default" = "10s"))]
    pub header_timeout: Option<Duration>,
    /// Between two pieces of a request body.
    #[schemars(extend("default" = "30s"))]
    pub body_idle_timeout: Option<Duration>,
    /// Between two requests of a connection.
    #[schemars(extend("default" = "75s"))]
    pub keepalive_timeout: Option<Duration>,
    /// For requests in flight and WebSockets, after TERM.
    #[schemars(extend("default" = "30s"))]
    pub drain: Option<Duration>,
    /// For the response head of a write after its client has left. Empty: the upstream's
    /// `response_timeout`.
    pub abandoned_max: Option<String>,
    /// For WebSockets and other streams of `new`, after a rollback.
    #[schemars(extend("default" = "30s"))]
    pub stream_grace: Option<Duration>,
    pub websocket_grace: Option<Duration>,
}

/// The storage of rollbacks and progress over restarts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Relative to this file. Created if only its last part is missing.
    #[schemars(extend("default" = "state"))]
    pub directory: Option<String>,
    /// If it cannot be read or written at start: every release at 0%, or no start.
    #[schemars(extend("default" = "stable_only"))]
    pub on_failure: Option<OnFailure>,
    /// If it has no record of earlier rollbacks: 0% until an operator ends the hold, or start.
    #[schemars(extend("default" = "hold"))]
    pub when_empty: Option<WhenEmpty>,
    /// The list of users with failures in `new`, in `failed-RELEASE-ATTEMPT.jsonl`: by a hash under
    /// the key of `[log] user_key_file` (without a key they are only counted), by their ids in
    /// clear, or no list.
    #[schemars(extend("default" = "hashed"))]
    pub failed_users: Option<FailedUsers>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FailedUsers {
    Hashed,
    Clear,
    Off,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    StableOnly,
    Refuse,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenEmpty {
    Start,
    Hold,
}

/// The access log.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    #[schemars(extend("default" = "json"))]
    pub format: Option<LogFormat>,
    /// Share of users whose ordinary requests are logged. Failures and slow requests are always
    /// logged.
    #[schemars(extend("default" = "1%"))]
    pub sample: Option<Percent>,
    /// A request that took longer is always logged.
    #[schemars(extend("default" = "1s"))]
    pub slow: Option<Duration>,
    /// Key for the hash of logged user ids. Without a key they are left out.
    pub user_key_file: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Combined,
}

/// The content of `/metrics`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// "deciding": only the metrics of decisions, and those that the alerts need.
    #[schemars(extend("default" = "full"))]
    pub detail: Option<Detail>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    Full,
    Deciding,
}

/// OpenTelemetry traces. Without this section there are none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// The address where a collector accepts OTLP over HTTP, as in
    /// `"http://127.0.0.1:4318/v1/traces"`.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub endpoint: String,
    /// Share of users with traces. All of their requests are traced.
    #[schemars(extend("default" = "1%"))]
    pub sample: Option<Percent>,
}

/// Exactly one of `alertmanager`, `slack_file` and `webhook`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// The address of an Alertmanager, as in `"http://127.0.0.1:9093"`. It is notified repeatedly
    /// while an alert stands, and when it ends.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub alertmanager: Option<String>,
    /// A file whose first line is the address of an incoming webhook of Slack; relative to this
    /// file.
    pub slack_file: Option<String>,
    /// An address for signed calls (Standard Webhooks). Needs `secret_file`.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub webhook: Option<String>,
    /// Lines `whsec_BASE64`. Calls are signed with each secret; relative to this file.
    pub secret_file: Option<String>,
    /// Time between two notifications of an Alertmanager about a standing alert.
    #[schemars(extend("default" = "30s"))]
    pub repeat: Option<Duration>,
    /// A wave is reported if it is held for longer than this although it is baked, or if its bake
    /// was unwatched for longer.
    #[schemars(extend("default" = "2h"))]
    pub stuck_after: Option<Duration>,
}

/// The JSON schema of the file, with a line end.
pub fn schema() -> String {
    let mut schema = schema_for!(File).to_value();
    without_null(&mut schema);
    // A map of JSON values with string keys can always be written.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

/// TOML has no null: an absent key is absent.
fn without_null(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(map) => {
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [one] = &types[..] {
                    let one = one.clone();
                    map.insert("type".into(), one);
                }
            }
            if let Some(Value::Array(any)) = map.get_mut("anyOf") {
                any.retain(|s| s.get("type") != Some(&Value::from("null")));
                if let [Value::Object(one)] = &any[..] {
                    let one = one.clone();
                    map.remove("anyOf");
                    map.extend(one);
                }
            }
            map.values_mut().for_each(without_null);
        }
        Value::Array(list) => list.iter_mut().for_each(without_null),
        _ => {}
    }
}
