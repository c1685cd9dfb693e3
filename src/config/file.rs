//! The exact mirror of the file, without logic: the source of the JSON schema that editors complete
//! and check with.
//!
//! `check` does not read through it, since serde stops at the first fault. Tests hold the two
//! together: the keys here are those of `keys::KNOWN`, and whatever `check` accepts, this accepts.

mod release;

pub use release::*;
use schemars::{JsonSchema, schema_for};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The config of grayling, a gray-release proxy. Only `upstream`, one `route` and what they name
/// are required.
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
    /// The longest matching path wins, then the route with a host, then the one with methods; none:
    /// 404.
    #[schemars(length(min = 1))]
    pub route: Vec<Route>,
    pub limits: Option<Limits>,
    pub state: Option<State>,
    pub log: Option<Log>,
    pub metrics: Option<Metrics>,
    pub traces: Option<Traces>,
    /// Who is told of what needs a person: `[alert.NAME]`.
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

/// Where users and operators come in.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    #[schemars(extend("default" = "127.0.0.1:8080"))]
    pub http: Option<Address>,
    /// HTTP/1.1 and HTTP/2 by ALPN; needs `[tls]`.
    pub https: Option<Address>,
    /// Metrics, commands. Anything but loopback needs `[admin] token_file`.
    #[schemars(extend("default" = "127.0.0.1:9900"))]
    pub admin: Option<Address>,
    /// Data plane threads; 0: one per core.
    #[schemars(range(min = 0, max = 256), extend("default" = 0))]
    pub workers: Option<u64>,
    /// Peers whose X-Forwarded-* and PROXY header are believed.
    #[schemars(extend("default" = []))]
    pub trusted_proxies: Option<Vec<Network>>,
    /// Those peers begin every connection with a PROXY header, version 1 or 2. Needs
    /// `trusted_proxies`.
    #[schemars(extend("default" = false))]
    pub proxy_protocol: Option<bool>,
    /// `x-grayling-arm` on responses.
    #[schemars(extend("default" = false))]
    pub expose_arm: Option<bool>,
}

/// For `[listen] https`. The files are watched: a renewed pair is taken without a restart.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// PEM: the certificate, then those between it and the root; relative to this file.
    pub certificate: Option<String>,
    /// PEM: its private key; relative to this file.
    pub key: Option<String>,
    /// PEM: who signs the certificates that clients must show; relative to this file.
    pub client_ca: Option<String>,
}

/// The admin address.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Lines "NAME TOKEN"; relative to this file.
    pub token_file: Option<String>,
    /// Host values accepted besides IP literals and localhost.
    #[schemars(extend("default" = []))]
    pub hosts: Option<Vec<String>>,
    /// Without a token file: changes from this machine need no token. False: no change without a
    /// token.
    #[schemars(extend("default" = true))]
    pub local_changes: Option<bool>,
}

/// Where the user id comes from.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The first source that yields an id wins; none: stable, counted.
    #[schemars(length(min = 1, max = 16), extend("default" = [{"header": "x-user-id"}]))]
    pub from: Option<Vec<IdentitySource>>,
    /// What is done to an id before it is hashed. Changing it moves the users whose id changes.
    #[schemars(extend("default" = "none"))]
    pub normalise: Option<Normalise>,
    /// A longer id is no id.
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
    /// A name of the certificate that the client has shown; needs `[tls] client_ca`.
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
    /// The header that carries the token, with or without "Bearer".
    #[schemars(extend("default" = "authorization"))]
    pub header: Option<String>,
    /// The claim that is the id.
    #[schemars(extend("default" = "sub"))]
    pub claim: Option<String>,
    /// Keys to verify tokens with (RFC 7517); relative to this file.
    pub jwks_file: Option<String>,
    /// An earlier hop has verified the token: believe it.
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
    /// Until a connection stands, or a busy one comes free.
    #[schemars(extend("default" = "1s"))]
    pub connect_timeout: Option<Duration>,
    /// Until the response head.
    #[schemars(extend("default" = "30s"))]
    pub response_timeout: Option<Duration>,
    /// Between two pieces of a response body.
    #[schemars(extend("default" = "60s"))]
    pub idle_timeout: Option<Duration>,
    /// The whole exchange; "0s": none.
    #[schemars(extend("default" = "0s"))]
    pub total_timeout: Option<Duration>,
    /// A pooled connection unused for longer is closed: keep it below the server's own keep-alive.
    #[schemars(extend("default" = "4s"))]
    pub connection_idle: Option<Duration>,
    /// Per server.
    #[schemars(range(min = 1, max = 65535), extend("default" = 512))]
    pub connections_max: Option<u64>,
    /// Of this upstream; beyond: 503, counted against this arm.
    #[schemars(range(min = 1, max = 1_000_000), extend("default" = 2000))]
    pub requests_in_flight_max: Option<u64>,
    /// HTTP/2 to its servers: with prior knowledge over http, by ALPN over https.
    #[schemars(extend("default" = false))]
    pub http2: Option<bool>,
    /// PING on an HTTP/2 connection with open streams after so long without a frame; "0s": none.
    #[schemars(extend("default" = "0s"))]
    pub http2_ping: Option<Duration>,
    /// PEM: who signs the certificates of its https servers; relative to this file. Default: the
    /// system's.
    pub ca_file: Option<String>,
    /// Asks each server by itself whether it is well; one that is not is left out.
    pub health: Option<Health>,
    /// Its own metrics, for the resources that releases watch.
    pub resources: Option<Resources>,
}

/// Where the servers of an upstream tell what they use up.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// The metrics of each server, in the text format of Prometheus: one address, or a list of
    /// them.
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

/// Three answers in a row other than 2xx take a server out, two in a row bring it back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Begins with `/`; may have a query.
    pub path: String,
    /// From the beginning of a probe to that of the next, give or take a tenth.
    #[schemars(extend("default" = "2s"))]
    pub interval: Option<Duration>,
}

/// A user is in it if any of these says so.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    pub users: Option<Vec<String>>,
    /// One id a line; relative to this file, and watched.
    pub users_file: Option<String>,
    /// Whoever can send it can enter.
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
    /// Label in metrics and logs; default: its position.
    pub name: Option<String>,
    /// Default: any.
    pub host: Option<String>,
    /// A prefix on segment boundaries.
    #[schemars(extend("default" = "/", "pattern" = r"^/|\$\{"))]
    pub path: Option<String>,
    /// Default: any.
    #[schemars(extend("default" = []))]
    pub methods: Option<Vec<String>>,
    /// A release, or else an upstream.
    pub release: Option<String>,
    pub upstream: Option<String>,
}

/// Safe for the open internet.
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
    /// For requests in flight, and for WebSockets, after TERM.
    #[schemars(extend("default" = "30s"))]
    pub drain: Option<Duration>,
    /// For the response head of a write whose client has left. Empty: the upstream's
    /// `response_timeout`.
    pub abandoned_max: Option<String>,
    /// For WebSockets and other streams of `new`, after a rollback.
    #[schemars(extend("default" = "30s"))]
    pub stream_grace: Option<Duration>,
    pub websocket_grace: Option<Duration>,
}

/// What remembers a rollback over restarts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Relative to this file; created if only its last part is missing.
    #[schemars(extend("default" = "state"))]
    pub directory: Option<String>,
    /// It cannot be read or written at start: every release at 0%, or do not start.
    #[schemars(extend("default" = "stable_only"))]
    pub on_failure: Option<OnFailure>,
    /// Nothing is known of earlier rollbacks: 0% until a person ends the hold, or start.
    #[schemars(extend("default" = "hold"))]
    pub when_empty: Option<WhenEmpty>,
    /// How the users whom `new` has failed are listed, in `failed-RELEASE-ATTEMPT.jsonl`: by a hash
    /// under the key of `[log] user_key_file` (without a key they are only counted), by their ids
    /// in clear, or not at all.
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
    /// Share of users whose ordinary requests are written; failures and slow ones always are.
    #[schemars(extend("default" = "1%"))]
    pub sample: Option<Percent>,
    /// A request that took longer is always written.
    #[schemars(extend("default" = "1s"))]
    pub slow: Option<Duration>,
    /// Key for the hash under which user ids are written; without one they are left out.
    pub user_key_file: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Json,
    Combined,
}

/// What `/metrics` shows.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// "deciding": only what decides, and what the alerts need.
    #[schemars(extend("default" = "full"))]
    pub detail: Option<Detail>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    Full,
    Deciding,
}

/// OpenTelemetry traces; without this section there are none.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// Where a collector takes OTLP over HTTP, as in `"http://127.0.0.1:4318/v1/traces"`.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub endpoint: String,
    /// Share of users whose requests are traced, all of them.
    #[schemars(extend("default" = "1%"))]
    pub sample: Option<Percent>,
}

/// Exactly one of `alertmanager`, `slack_file` and `webhook`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Its address, as in `"http://127.0.0.1:9093"`; told again while an alert stands, and when it
    /// is over.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub alertmanager: Option<String>,
    /// Its first line is the address of an incoming webhook of Slack; relative to this file.
    pub slack_file: Option<String>,
    /// An address that takes signed calls (Standard Webhooks); needs `secret_file`.
    #[schemars(extend("pattern" = r"^https?://|\$\{"))]
    pub webhook: Option<String>,
    /// Lines `whsec_BASE64`; calls are signed with each; relative to this file.
    pub secret_file: Option<String>,
    /// How often an Alertmanager is told again of an alert that stands.
    #[schemars(extend("default" = "30s"))]
    pub repeat: Option<Duration>,
    /// A wave that is held for longer than this although it is baked, or whose bake went unwatched
    /// for longer, is reported.
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
