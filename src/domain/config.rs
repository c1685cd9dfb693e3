//! The plan: the meaning of a config file after all checks.
//! Inner code holds only this.
//!
//! Invariants, kept by `config::check`, the only constructor: every index is valid in its vector;
//! every name is unique; route paths start with `/` and do not end with one (except `/` itself);
//! durations and sizes are within their documented bounds; relative file names are absolute, based
//! on the config file's folder.

use super::digest::hex;
use super::hours::OpenHours;
use super::resource;
use super::resource::reading::Expression;
use super::rollout::version::Versions;
use super::segment::Segment;
use super::server::authority;
pub use super::server::{Scheme, Server};
use super::tokens::Tokens;
use super::wave::{Exposure, Strategy, Wave};
use crate::domain::failure_rules;
use crate::domain::gates::Margins;
use crate::stats::cohort::{Salt, Weight};
use http::HeaderName;
use ipnet::IpNet;
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Config {
    pub listen: Listen,
    /// Present iff [`Listen::https`] is.
    pub tls: Option<Tls>,
    pub admin: Admin,
    pub identity: Identity,
    pub upstreams: Vec<Arc<Upstream>>,
    pub segments: Vec<Arc<Segment>>,
    pub releases: Vec<Arc<Release>>,
    pub routes: Vec<Route>,
    pub limits: RequestLimits,
    pub state: StateConfig,
    pub log: LogConfig,
    pub metrics: MetricsDetail,
    pub traces: Option<TracesConfig>,
    pub alerts: Vec<Receiver>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// At least one.
    pub http: Vec<SocketAddr>,
    /// Empty: no TLS.
    pub https: Vec<SocketAddr>,
    pub admin: SocketAddr,
    /// Data plane threads, each with its own runtime, listener socket and pools. 0: one per core.
    pub workers: usize,
    /// Peers whose X-Forwarded-* and PROXY header are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Connections from `trusted_proxies` begin with a PROXY header.
    pub proxy_protocol: bool,
    /// `x-grayling-arm` on responses.
    pub expose_arm: bool,
}

/// Certificates of the https listener, and its requirements for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must present a certificate signed by this CA.
    pub client_ca: Option<PathBuf>,
    /// The certificate's validity, in seconds since 1970; and the time of the check.
    pub not_before_s: u64,
    pub not_after_s: u64,
    pub checked_at_s: u64,
    pub server: FromFiles<rustls::ServerConfig>,
}

/// A value built from files, with a digest of their contents: equal iff the files are.
pub struct FromFiles<T> {
    pub config: Arc<T>,
    pub digest: [u8; 32],
}

impl<T> Clone for FromFiles<T> {
    fn clone(&self) -> Self {
        FromFiles { config: self.config.clone(), digest: self.digest }
    }
}

impl<T> PartialEq for FromFiles<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<T> Eq for FromFiles<T> {}

impl<T> std::fmt::Debug for FromFiles<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Built({})", hex(&self.digest[..8]))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// From the token file; `None`: no file is configured.
    pub tokens: Option<Tokens>,
    /// Host values accepted besides IP literals and localhost; lower case, without port.
    pub hosts: Vec<String>,
    /// Without a token file, changes from loopback are accepted.
    pub local_changes: bool,
}

impl Listen {
    /// The number of workers.
    /// Call it once per process: the available cores can change.
    pub fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(256),
            n => n,
        }
    }

    /// Whether an IPv4 listener needs the port of the IPv6 listener `address` for itself.
    pub fn is_ipv6_only(&self, address: SocketAddr) -> bool {
        let twin = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
        address.is_ipv6()
            && address.ip().is_unspecified()
            && address.port() != 0
            && self.http.iter().chain(&self.https).chain([&self.admin]).any(|other| *other == twin)
    }

    /// Is this a trusted proxy, whose statement about the client's address is accepted?
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// Sources of the user id; the first one with a result wins.
#[derive(Debug)]
pub struct Identity {
    pub from: Vec<IdentitySource>,
    pub normalise: Normalise,
    pub max_bytes: usize,
}

#[derive(Debug)]
pub enum IdentitySource {
    Header(HeaderName),
    Cookie(String),
    /// Name of a query parameter.
    Query(String),
    Path(PathPattern),
    Jwt(JwtSource),
    /// From the client's certificate (mutual TLS).
    ClientCert(CertificateName),
}

/// The name to take from a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertificateName {
    #[default]
    /// The common name of its subject; none if there are several.
    Common,
    /// The first alternative name that is a DNS name, a URI or an e-mail address.
    Alternative,
}

/// `/accounts/{id}`: matches a prefix on segment boundaries, and yields the segment in braces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    /// Literal segments, with `None` for the one in braces; at least one is `None`.
    pub segments: Vec<Option<String>>,
}

#[derive(Debug)]
pub struct JwtSource {
    pub header: HeaderName,
    pub claim: String,
    pub trust: JwtTrust,
}

pub enum JwtTrust {
    /// Keys of a JWKS file (RFC 7517), with their ids where they have one.
    Keys { file: PathBuf, keys: Vec<JwtKey> },
    /// The config states explicitly that an earlier hop has verified the token.
    Unverified,
}

/// A verification key and the algorithms it may be used with.
#[derive(Clone)]
pub struct JwtKey {
    pub id: Option<String>,
    pub algorithms: Vec<jsonwebtoken::Algorithm>,
    pub key: jsonwebtoken::DecodingKey,
}

impl std::fmt::Debug for JwtTrust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            JwtTrust::Keys { file, keys } => write!(f, "Keys({}, {} keys)", file.display(), keys.len()),
            JwtTrust::Unverified => f.write_str("Unverified"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Normalise {
    #[default]
    None,
    /// ASCII white space at both ends is dropped.
    Trim,
    /// `Trim`, then ASCII letters in lower case.
    Lowercase,
    /// ASCII digits only; everything else is dropped.
    Digits,
}

/// The canonical form of `user_id`, which is hashed: one user, one id. Idempotent.
pub fn normalise(mode: Normalise, user_id: &[u8]) -> Cow<'_, [u8]> {
    match mode {
        Normalise::None => Cow::Borrowed(user_id),
        Normalise::Trim => Cow::Borrowed(user_id.trim_ascii()),
        Normalise::Lowercase => {
            let trimmed = user_id.trim_ascii();
            if trimmed.iter().any(u8::is_ascii_uppercase) {
                Cow::Owned(trimmed.to_ascii_lowercase())
            } else {
                Cow::Borrowed(trimmed)
            }
        }
        Normalise::Digits => {
            if user_id.iter().all(u8::is_ascii_digit) {
                Cow::Borrowed(user_id)
            } else {
                Cow::Owned(user_id.iter().copied().filter(u8::is_ascii_digit).collect())
            }
        }
    }
}

/// The most servers of one upstream: a request records which of them it has tried.
pub const SERVERS_MAX: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: String,
    /// At least one, at most [`SERVERS_MAX`]; no duplicates.
    pub servers: Vec<Server>,
    /// Until a connection is established, or a busy one becomes free.
    pub connect_timeout: Duration,
    /// Until the response head.
    pub response_timeout: Duration,
    /// Between two pieces of a response body.
    pub idle_timeout: Duration,
    /// The whole exchange, if bounded.
    pub total_timeout: Option<Duration>,
    /// A pooled connection unused for longer is closed.
    pub connection_idle: Duration,
    /// Interval of PING frames on HTTP/2 connections that have open streams, if any are sent.
    pub http2_ping: Option<Duration>,
    /// A connection that is older takes no further request.
    pub connection_age_max: Option<Duration>,
    /// Per server.
    pub connections_max: usize,
    pub requests_in_flight_max: usize,
    /// A request that an HTTP/2 server says it has not processed is sent again.
    pub resend_unprocessed: bool,
    pub transport: Transport,
    /// Present iff its servers are probed.
    pub health: Option<Health>,
    /// The metrics pages of its servers, for resource readings.
    pub scrapes: Vec<MetricsPage>,
}

/// A metrics page, over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricsPage {
    pub address: Address,
    /// Present iff it is `https`.
    pub tls: Option<FromFiles<rustls::ClientConfig>>,
}

/// Active health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub path: http::uri::PathAndQuery,
    /// The service that gRPC's health protocol is asked for; "" is the whole server.
    pub grpc: Option<String>,
    pub interval: Duration,
}

/// The transport settings for the servers of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    pub protocol: Protocol,
    /// For the `https` servers; present iff there is one.
    pub tls: Option<FromFiles<rustls::ClientConfig>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Http1,
    Http2,
}

#[derive(Debug)]
pub struct Release {
    pub name: String,
    /// Indices into [`Config::upstreams`].
    pub stable: usize,
    pub new: usize,
    pub salt_text: String,
    pub salt: Salt,
    pub attempt: u64,
    /// The weight set by hand.
    /// With waves, that of the last one: the maximum that this file can bring into force.
    pub weight: Weight,
    /// The most that a reload may raise the weight by.
    pub step_max: Weight,
    /// The part of 100% that stays on stable until the release is complete.
    pub holdback: Weight,
    /// How long alarms stay active after the release is complete.
    pub soak: Duration,
    /// In `new` at any weight, unless tripped or excluded.
    /// With waves, in the order of joining: each from its wave on.
    pub segments: Vec<Arc<Segment>>,
    /// Empty: the weight is set by hand.
    pub waves: Vec<Wave>,
    /// The hours in which gates may open waves.
    pub open_hours: Option<OpenHours>,
    /// Names of its routes with separate gates; at most as many as are judged separately.
    pub critical: Vec<String>,
    /// Never in `new`.
    pub excluded: Vec<Arc<Segment>>,
    pub on_unreachable: OnUnreachable,
    pub on_anomaly: OnAnomaly,
    pub on_both_bad: OnAnomaly,
    /// Slowness of `new` is no evidence for this long after a raise, and of a server after its
    /// start.
    pub warm_up: Duration,
    /// The servers of this file run the previous builds: they have only moved.
    pub same_version: bool,
    /// The failures of an arm, beside time-outs, resets, truncations.
    pub outcome: failure_rules::FailureRules,
    pub watchdog: WatchdogConfig,
    /// The watched resources of the two versions.
    pub resources: Vec<ResourceConfig>,
    /// From the start of a reading to the start of the next.
    pub resource_interval: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ResourceConfig {
    /// Label in metrics.
    pub name: Arc<str>,
    pub source: ResourceSource,
    pub limits: resource::ResourceLimits,
    pub on: resource::ResourceAction,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ResourceSource {
    /// From each server's own metrics: [`Upstream::scrapes`] of both arms.
    Scraped(Expression),
    /// From a Prometheus server, by PromQL queries.
    Asked { prometheus: MetricsPage, new: String, stable: String },
}

/// The handling of a request of `new` when no connection can be made and nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnreachable {
    /// It goes to stable, once.
    #[default]
    Stable,
    /// Only GET and HEAD go to stable.
    Reads,
    /// No request goes to stable: 502.
    Error,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnAnomaly {
    #[default]
    Rollback,
    /// Hold the weight and page.
    Freeze,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WatchdogConfig {
    pub enabled: bool,
    /// Probability of a trip for a release that is not worse, per wave (or per weight set by hand).
    pub alpha: f64,
    /// Share of failures of `new` over the last minute, `0.0 ..= 1.0`.
    pub errors_max: f64,
    pub latency_p99_max: Duration,
    /// The file sets these two; a default is set aside where it does not fit the service.
    pub stated: [bool; 2],
    pub mode: WatchdogMode,
    /// `new` may be slower than stable by this share, `0.0 ..= 1.0`; beyond it, and beyond chance,
    /// it trips.
    pub latency_tolerance: f64,
    /// Likewise: beyond it the watchdog only reports.
    pub latency_notice: f64,
    /// The worst difference at which `new` is still promoted.
    pub margins: Margins,
    /// Quicker answers count as this quick: smaller differences are ignored.
    pub latency_floor: Duration,
    /// Routes are also judged separately; critical ones always are.
    pub by_route: bool,
    /// Waves hold while a late slowdown beyond the latency margin would go undetected.
    pub hold_when_blind: bool,
    /// More failed users than this cause a trip at any rate. 0: no limit.
    pub harm_users_max: u64,
    /// The length of a slot, and the interval of looks.
    pub tick: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchdogMode {
    #[default]
    Enforce,
    /// Only reports its decisions.
    Report,
}

#[derive(Debug, Clone)]
pub struct Route {
    /// Label in metrics and logs.
    pub name: String,
    /// Lower case, without port.
    pub host: Option<String>,
    pub path: String,
    /// Empty: any.
    pub methods: Vec<http::Method>,
    pub target: Target,
}

/// Indices into [`Config::releases`] and [`Config::upstreams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Release(usize),
    Upstream(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseHeadLimits {
    pub bytes: usize,
    pub fields: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestLimits {
    pub header_bytes: usize,
    pub header_count: usize,
    pub response_head: ResponseHeadLimits,
    pub uri_bytes: usize,
    pub connections: usize,
    pub requests_in_flight: usize,
    /// For a request head, from its first byte.
    pub header_timeout: Duration,
    /// Between two pieces of a request body.
    pub body_idle_timeout: Duration,
    /// A request body of a known length up to this one is received before it is sent.
    pub request_buffer: usize,
    /// Between two requests of a connection.
    pub keepalive_timeout: Duration,
    /// Time limit after TERM for requests in flight, and for WebSockets.
    pub drain: Duration,
    /// For the response head of a write whose client has left; `None`: `response_timeout`.
    pub abandoned_max: Option<Duration>,
    /// For streams and WebSockets of a release's `new`, from the start of a hold at 0%.
    pub stream_grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateConfig {
    pub directory: PathBuf,
    pub on_failure: OnStateFailure,
    pub when_empty: WhenEmpty,
    pub failed_users: FailedUserIds,
}

/// How the list of failed users identifies them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailedUserIds {
    /// By a hash under the key of the log; without a key they are only counted.
    #[default]
    Hashed,
    Clear,
    Off,
}

/// The action when the state directory cannot be read or written at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStateFailure {
    /// Every release at 0%.
    #[default]
    StableOnly,
    /// Do not start.
    Refuse,
}

/// The action when there is no state file and no ledger: earlier trips are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenEmpty {
    Start,
    /// 0% until a person ends the hold.
    #[default]
    Hold,
}

#[derive(Debug, Clone, PartialEq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// Share of users whose ordinary requests are logged.
    pub sample: Weight,
    /// A slower request is always logged.
    pub slow: Duration,
    /// Key for the hash of user ids in the log; `None`: ids are left out.
    pub user_key: Option<Vec<u8>>,
}

/// The extent of counting and of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MetricsDetail {
    #[default]
    Full,
    /// Only the metrics behind decisions and alerts; the rest is not exposed, and not counted if
    /// only metrics need it.
    Deciding,
}

/// The destination of spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracesConfig {
    pub address: Address,
    /// Present iff the address is https.
    pub tls: Option<FromFiles<rustls::ClientConfig>>,
    /// Share of users whose requests are traced.
    pub sample: Weight,
}

/// A receiver of alerts.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Label in metrics and logs.
    pub name: String,
    pub kind: ReceiverKind,
    pub address: Address,
    /// Present iff the address is https.
    pub tls: Option<FromFiles<rustls::ClientConfig>>,
    /// A wave held for longer raises an alert.
    pub stuck_after: Duration,
}

#[derive(Clone, PartialEq, Eq)]
pub enum ReceiverKind {
    /// Repeated at this interval while an alert stands.
    Alertmanager {
        repeat: Duration,
    },
    Slack,
    /// Signed with each of the secrets (Standard Webhooks).
    Webhook {
        secrets: Vec<Vec<u8>>,
    },
}

/// The address for alerts, spans and metrics.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// With query. May be a secret: never displayed.
    pub path: String,
}

impl Address {
    /// `host:port`; an IPv6 literal has brackets.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Receiver({} at {})", self.name, self.address)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Json,
    Combined,
}

impl Config {
    /// Reuses unchanged parts: clients may resume their TLS sessions after a reload that did not
    /// change TLS.
    pub fn inherit(&mut self, before: &Config) {
        if let (Some(tls), Some(old)) = (&mut self.tls, &before.tls)
            && tls.server == old.server
        {
            tls.server = old.server.clone();
        }
    }

    pub fn release(&self, name: &str) -> Option<&Arc<Release>> {
        self.releases.iter().find(|r| r.name == name)
    }
}

impl Release {
    pub fn strategy(&self) -> Strategy<'_> {
        if self.waves.is_empty() {
            let exposure = Exposure { weight: self.weight, segments: self.segments.len() };
            Strategy::ByHand(exposure.held_back(self.holdback))
        } else {
            Strategy::Waves(&self.waves)
        }
    }

    /// The weight in the file; `None`: it has waves.
    pub fn weight_by_hand(&self) -> Option<Weight> {
        self.waves.is_empty().then_some(self.weight)
    }

    /// Every server of `new`, as a trip records them.
    pub fn new_servers(&self, config: &Config) -> Vec<String> {
        servers(config, self.new)
    }

    /// The versions of the releases of `before` that `after` does not name.
    pub fn removed(before: &Config, after: &Config) -> Vec<Versions> {
        let gone = before.releases.iter().filter(|r| after.release(&r.name).is_none());
        gone.map(|release| release.versions(before)).collect()
    }

    /// The servers behind both arms.
    pub fn versions(&self, config: &Config) -> Versions {
        Versions {
            stable: servers(config, self.stable),
            new: servers(config, self.new),
            same_declared: self.same_version,
        }
    }
}

fn servers(config: &Config, upstream: usize) -> Vec<String> {
    config.upstreams[upstream].servers.iter().map(Server::to_string).collect()
}
