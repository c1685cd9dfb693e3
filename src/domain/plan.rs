//! The Plan: what a config file means, after every fault has been reported. Inner code holds only
//! this.
//!
//! Invariants, kept by `config::check`, the only maker: every index points into its vector; every
//! name is unique; paths of routes start with `/` and do not end with one (but for `/` itself);
//! durations and sizes are within their documented bounds; relative file names have been made
//! absolute against the config file's folder.

use super::cohort::{Salt, Weight};
use super::gate::Margins;
use super::hours::OpenHours;
use super::resource;
use super::resource::reading::Expression;
use super::rollout::version::Versions;
use super::segment::Segment;
use super::success;
use super::tokens::Tokens;
use super::wave::{Course, Reach, Wave};
use http::HeaderName;
use ipnet::IpNet;
use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Plan {
    pub listen: Listen,
    /// Iff [`Listen::https`] is there.
    pub tls: Option<Tls>,
    pub admin: Admin,
    pub identity: Identity,
    pub upstreams: Vec<Arc<Upstream>>,
    pub segments: Vec<Arc<Segment>>,
    pub releases: Vec<Arc<Release>>,
    pub routes: Vec<Route>,
    pub limits: Limits,
    pub state: State,
    pub log: Log,
    pub metrics: Detail,
    pub traces: Option<Traces>,
    pub alerts: Vec<Receiver>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    pub http: SocketAddr,
    pub https: Option<SocketAddr>,
    pub admin: SocketAddr,
    /// Data plane threads, each with a runtime, a listener socket, and pools of its own. 0: one per
    /// core.
    pub workers: usize,
    /// Peers whose X-Forwarded-* and PROXY header are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Those of `trusted_proxies` begin every connection with a PROXY header.
    pub proxy_protocol: bool,
    /// `x-grayling-arm` on responses.
    pub expose_arm: bool,
}

/// What the https listener shows to clients, and asks of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Clients must show a certificate that this signed.
    pub client_ca: Option<PathBuf>,
    /// When the certificate holds, in seconds since 1970; and when it was looked at.
    pub not_before_s: u64,
    pub not_after_s: u64,
    pub checked_at_s: u64,
    pub server: Built<rustls::ServerConfig>,
}

/// What was made of files, and a digest of what stood in them: alike iff the files were.
pub struct Built<T> {
    pub config: Arc<T>,
    pub digest: [u8; 32],
}

impl<T> Clone for Built<T> {
    fn clone(&self) -> Self {
        Built { config: self.config.clone(), digest: self.digest }
    }
}

impl<T> PartialEq for Built<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<T> Eq for Built<T> {}

impl<T> std::fmt::Debug for Built<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Built(")?;
        self.digest.iter().take(8).try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Of the token file; none: no file is named.
    pub tokens: Option<Tokens>,
    /// Host values accepted besides IP literals and localhost; lower case, without port.
    pub hosts: Vec<String>,
    /// Without a token file, changes from loopback are taken.
    pub local_changes: bool,
}

impl Listen {
    /// How many there are to be now. Asked once a process: the cores that a process may use can
    /// change.
    pub fn workers(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(256),
            n => n,
        }
    }

    /// Is this a proxy in front, whose word on whom it speaks for is taken?
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(&address))
    }
}

/// Where the user id comes from; the first source that yields one wins.
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
    /// Of the certificate that the client has shown (mutual TLS).
    ClientCert(CertificateName),
}

/// Which name of a certificate.
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
    /// The config said in as many words that an earlier hop has verified the token.
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

/// One user, one id: the form of `user_id` that is hashed. Doing it twice changes nothing more.
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

/// Servers of one upstream: a request remembers which of them it has tried.
pub const SERVERS_MAX: usize = 256;

#[derive(Debug, PartialEq, Eq)]
pub struct Upstream {
    pub name: String,
    /// At least one, at most [`SERVERS_MAX`]; no two alike.
    pub servers: Vec<Server>,
    /// Until a connection stands, or one of those busy comes free.
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
    /// Per server.
    pub connections_max: usize,
    pub requests_in_flight_max: usize,
    pub transport: Transport,
    /// There iff its servers are probed.
    pub health: Option<Health>,
    /// Where its servers tell what they use up.
    pub scrapes: Vec<Page>,
}

/// Metrics of something, over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub address: Address,
    /// There iff it is `https`.
    pub tls: Option<Built<rustls::ClientConfig>>,
}

/// What each server is asked, to be known as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub path: http::uri::PathAndQuery,
    pub interval: Duration,
}

/// How the servers of an upstream are spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transport {
    pub protocol: Protocol,
    /// For those that are `https`; there iff one is.
    pub tls: Option<Built<rustls::ClientConfig>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    #[default]
    Http1,
    Http2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// `http://host:port` of the config, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    pub scheme: Scheme,
    /// Lower case; a DNS name, or an IP literal without brackets.
    pub host: String,
    pub port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, host, port) = (self.scheme.as_str(), &self.host, self.port);
        if host.contains(':') {
            write!(f, "{scheme}://[{host}]:{port}")
        } else {
            write!(f, "{scheme}://{host}:{port}")
        }
    }
}

impl Server {
    /// The same program, however it is spoken to.
    pub fn same_place(&self, other: &Server) -> bool {
        self.host == other.host && self.port == other.port
    }
}

#[derive(Debug)]
pub struct Release {
    pub name: String,
    /// Indices into [`Plan::upstreams`].
    pub stable: usize,
    pub new: usize,
    pub salt_text: String,
    pub salt: Salt,
    pub attempt: u64,
    /// As set by hand; with waves, that of the last one: the most that this file may ever put in
    /// force.
    pub weight: Weight,
    /// The most that a reload may raise the weight by.
    pub step_max: Weight,
    /// So much of 100% stays on stable until the release is complete.
    pub holdback: Weight,
    /// After the release is complete, alarms go on for so long.
    pub soak: Duration,
    /// In `new` whatever the weight, unless tripped or excluded. With waves: each from the wave on
    /// that it joins in, in that order.
    pub segments: Vec<Arc<Segment>>,
    /// Empty: the weight is set by hand.
    pub waves: Vec<Wave>,
    /// When waves may open by themselves.
    pub open_hours: Option<OpenHours>,
    /// Names of its routes that are gated each for itself; at most as many as are judged apart.
    pub critical: Vec<String>,
    /// Never in `new`.
    pub excluded: Vec<Arc<Segment>>,
    pub on_unreachable: OnUnreachable,
    pub on_anomaly: OnAnomaly,
    pub on_both_bad: OnAnomaly,
    /// Slowness of `new` is no evidence for so long after a raise, and of a server after its start.
    pub warm_up: Duration,
    /// The servers of this file are the builds that were there before: they have only moved.
    pub same_version: bool,
    /// What counts as a failure of an arm, beside time-outs, resets, truncations.
    pub outcome: success::Rules,
    pub watchdog: Watchdog,
    /// What of the two versions' resources is watched.
    pub resources: Vec<Resource>,
    /// From the beginning of a reading to that of the next.
    pub resource_interval: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// Label in metrics.
    pub name: Arc<str>,
    pub source: ResourceSource,
    pub limits: resource::Limits,
    pub on: resource::On,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ResourceSource {
    /// Of each server's own metrics: [`Upstream::scrapes`] of both arms.
    Scraped(Expression),
    /// A Prometheus server is asked, in PromQL.
    Asked { prometheus: Page, new: String, stable: String },
}

/// What happens to a request of `new` when no connection to it can be made and nothing was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnreachable {
    /// It goes to stable, once.
    #[default]
    Stable,
    /// Only GET and HEAD do.
    Reads,
    /// None does: 502.
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
pub struct Watchdog {
    pub enabled: bool,
    /// Chance of flipping a release that is not worse, per wave (here: per weight set by hand).
    pub alpha: f64,
    /// Share of failures of `new` over the last minute, `0.0 ..= 1.0`.
    pub errors_max: f64,
    pub latency_p99_max: Duration,
    /// The file states these two; a default is set aside where it does not fit the service.
    pub stated: [bool; 2],
    pub mode: WatchdogMode,
    /// `new` may be slower than stable by this share, `0.0 ..= 1.0`; beyond it, and beyond chance,
    /// it flips.
    pub latency_tolerance: f64,
    /// Likewise: beyond it the watchdog says so, and nothing more.
    pub latency_notice: f64,
    /// The worst that `new` may be and still be promoted.
    pub margins: Margins,
    /// Quicker answers count as this quick: differences below it are none.
    pub latency_floor: Duration,
    /// Routes are judged apart as well as together; critical ones always are.
    pub by_route: bool,
    /// Waves hold while a late slowdown by more than the margin of latency would not be seen.
    pub hold_when_blind: bool,
    /// More users failed by `new` than this: out, whatever the rate. 0: no limit.
    pub harm_users_max: u64,
    /// The length of a slot, and the pause between two looks.
    pub tick: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WatchdogMode {
    #[default]
    Enforce,
    /// Says what it would do, and does nothing.
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

/// Indices into [`Plan::releases`] and [`Plan::upstreams`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Release(usize),
    Upstream(usize),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    pub header_bytes: usize,
    pub header_count: usize,
    pub uri_bytes: usize,
    pub connections: usize,
    pub requests_in_flight: usize,
    /// For a request head, from its first byte.
    pub header_timeout: Duration,
    /// Between two pieces of a request body.
    pub body_idle_timeout: Duration,
    /// Between two requests of a connection.
    pub keepalive_timeout: Duration,
    /// For requests in flight, and for WebSockets, after TERM.
    pub drain: Duration,
    /// How long a write whose client has left may wait for its response head; `None`: as long as
    /// the upstream's `response_timeout`.
    pub abandoned_max: Option<Duration>,
    /// For streams and WebSockets of a release's `new`, from when it is held at 0%.
    pub stream_grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub directory: PathBuf,
    pub on_failure: OnStateFailure,
    pub when_empty: WhenEmpty,
    pub failed_users: FailedUsers,
}

/// How the users whom `new` has failed are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailedUsers {
    /// By a hash under the key of the log; without a key they are only counted.
    #[default]
    Hashed,
    Clear,
    Off,
}

/// The state directory cannot be read or written at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnStateFailure {
    /// Every release at 0%.
    #[default]
    StableOnly,
    /// Do not start.
    Refuse,
}

/// There is no state file and no ledger: nothing is known of earlier trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenEmpty {
    Start,
    /// 0% until a person ends the hold.
    #[default]
    Hold,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// Share of users whose ordinary requests are written.
    pub sample: Weight,
    /// A request that took longer is always written.
    pub slow: Duration,
    /// Key for the hash under which user ids are written; `None`: ids are left out.
    pub user_key: Option<Vec<u8>>,
}

/// How much is counted and shown as metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    #[default]
    Full,
    /// What decides, and what the alerts need; the rest is neither shown nor, where only metrics
    /// need it, counted.
    Deciding,
}

/// Where spans of requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    pub address: Address,
    /// There iff the address is https.
    pub tls: Option<Built<rustls::ClientConfig>>,
    /// Share of users whose requests are traced.
    pub sample: Weight,
}

/// Who is told of what needs a person.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Label in metrics and logs.
    pub name: String,
    pub kind: ReceiverKind,
    pub address: Address,
    /// There iff the address is https.
    pub tls: Option<Built<rustls::ClientConfig>>,
    /// A wave that is held for longer is told.
    pub stuck_after: Duration,
}

#[derive(Clone, PartialEq, Eq)]
pub enum ReceiverKind {
    /// Told again, so often, while an alert stands.
    Alertmanager {
        repeat: Duration,
    },
    Slack,
    /// Signed with each of the secrets (Standard Webhooks).
    Webhook {
        secrets: Vec<Vec<u8>>,
    },
}

/// Where alerts and spans are posted to, and metrics come from.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub scheme: Scheme,
    pub host: String,
    pub port: u16,
    /// With query. May be a secret: shown nowhere.
    pub path: String,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Address { scheme, host, port, path: _ } = self;
        Server { scheme: *scheme, host: host.clone(), port: *port }.fmt(f)
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

impl Plan {
    /// Takes over what stays the same: clients may resume their TLS sessions after a reload that
    /// had nothing to do with them.
    pub fn inherit(&mut self, before: &Plan) {
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
    pub fn course(&self) -> Course<'_> {
        if self.waves.is_empty() {
            let reach = Reach { weight: self.weight, segments: self.segments.len() };
            Course::ByHand(reach.held_back(self.holdback))
        } else {
            Course::Waves(&self.waves)
        }
    }

    /// As the file has it; `None`: it has waves.
    pub fn weight_by_hand(&self) -> Option<Weight> {
        self.waves.is_empty().then_some(self.weight)
    }

    /// `host:port` of every server of `new`: what a trip remembers.
    pub fn new_servers(&self, plan: &Plan) -> Vec<String> {
        servers(plan, self.new)
    }

    /// The versions of the releases of `before` that `after` does not name.
    pub fn removed(before: &Plan, after: &Plan) -> Vec<Versions> {
        let gone = before.releases.iter().filter(|r| after.release(&r.name).is_none());
        gone.map(|release| release.versions(before)).collect()
    }

    /// The servers behind both arms.
    pub fn versions(&self, plan: &Plan) -> Versions {
        Versions {
            stable: servers(plan, self.stable),
            new: servers(plan, self.new),
            same_declared: self.same_version,
        }
    }
}

fn servers(plan: &Plan, upstream: usize) -> Vec<String> {
    plan.upstreams[upstream].servers.iter().map(Server::to_string).collect()
}
