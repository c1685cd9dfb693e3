//! State of an upstream that the workers share: the addresses and health of its servers, and the
//! requests in flight.
//!
//! Invariants: a server survives reloads as long as its address stays in the upstream with the same
//! transport settings. So a reload loses no health, and no connection outlives the CA that verified
//! it. Two conditions keep a server from being chosen: it refused a connection (aside, for a
//! while), or it failed its health probes (down, until probes succeed). A successful probe ends
//! both; a successful request ends only the first. The limits are plain atomics, shared by every
//! worker. Only failures of the server set it aside, never a local fault.

use crate::config::values::with_real_path;
use crate::domain::config::{FromFiles, Protocol, SERVERS_MAX, Scheme, Server, Transport, Upstream};
use crate::telemetry::backoff::Backoff;
use crate::telemetry::clock;
use crate::telemetry::throttle::Throttle;
use crate::upstream::addresses::ServerAddresses;
use arc_swap::ArcSwapOption;
use rustls::pki_types::ServerName;
use socket2::{Domain, SockAddr, Socket, Type};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The pause of a server that refuses connections.
const ASIDE: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(10) };

pub struct UpstreamState {
    pub config: Arc<Upstream>,
    pub servers: Vec<Arc<ServerState>>,
    pub load: Arc<UpstreamLoad>,
}

/// Shared by all generations of one upstream name.
#[derive(Default)]
pub struct UpstreamLoad {
    pub in_flight: AtomicUsize,
    turn: AtomicUsize,
    /// Requests that were sent again because their server had not processed them.
    pub resent: AtomicU64,
    /// `now_ms` of the last connection accepted or response received; 0: none yet.
    last_sign_ms: AtomicU64,
}

/// How a server authenticates itself.
pub struct ServerTls {
    pub built: FromFiles<rustls::ClientConfig>,
    /// The name that its certificate must have; also the SNI, unless it is an IP address.
    pub name: ServerName<'static>,
}

pub struct ServerState {
    /// Unique in this process: the key of a worker's pool.
    pub id: u64,
    pub server: Server,
    pub protocol: Protocol,
    /// Present iff the server is https.
    pub tls: Option<ServerTls>,
    /// `host:port` for the Host header of an HTTP/1.0 client that sent none.
    pub authority: http::HeaderValue,
    pub addresses: ServerAddresses,
    /// A connection has failed since the last look-up of its name.
    lookup_wanted: AtomicBool,
    pub in_flight: AtomicUsize,
    /// Requests received in full by the server and not answered: they wait for the server, not for
    /// their clients.
    awaited: AtomicUsize,
    /// Requests at once on one of its connections.
    streams_allowed: AtomicUsize,
    refusals_in_a_row: AtomicU32,
    aside_until_ms: AtomicU64,
    told: Throttle,
    /// Down by its health probes.
    down: AtomicBool,
    why_down: ArcSwapOption<String>,
}

/// The use of servers that are down by their health probes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum DownServers {
    /// Used when no other server is left: no alternative exists.
    Last,
    /// Never used: for `new`, whose users stable can serve.
    Never,
}

/// The most concurrent requests on one HTTP/2 connection: as many as most servers allow (RFC 9113,
/// 6.5.2 recommends no less).
pub const STREAMS_MAX: usize = 100;

static NEXT_SERVER: AtomicU64 = AtomicU64::new(1);

/// A response this recent proves that an upstream is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// The most addresses that one probe tries.
const PROBES_MAX: usize = 16;

/// Connect errors that indicate no fault of the other side: descriptors, ports, memory, buffers,
/// permission.
pub fn is_local(error: &std::io::Error) -> bool {
    const EPERM: i32 = 1;
    const ENOMEM: i32 = 12;
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const EADDRNOTAVAIL: i32 = 99;
    const ENOBUFS: i32 = 105;
    matches!(error.raw_os_error(), Some(EPERM | ENOMEM | ENFILE | EMFILE | EADDRNOTAVAIL | ENOBUFS))
}

/// One place that [`UpstreamState::takes_connections`] tries.
enum ProbedPlace {
    Address(SocketAddr),
    Socket(PathBuf),
}

impl ProbedPlace {
    fn connect(&self, within: Duration) -> std::io::Result<()> {
        match self {
            ProbedPlace::Address(address) => TcpStream::connect_timeout(address, within).map(drop),
            ProbedPlace::Socket(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.connect_timeout(&SockAddr::unix(path)?, within)
            }
        }
    }
}

/// Connections to servers over all workers, and the limit of the process.
pub struct ConnectionBudget {
    pub workers: usize,
    pub open: AtomicUsize,
    /// Client connections that the open files limit allows; the same number to servers.
    pub limit: AtomicUsize,
}

impl ConnectionBudget {
    pub fn new(workers: usize) -> Self {
        ConnectionBudget { workers, open: AtomicUsize::default(), limit: AtomicUsize::default() }
    }

    pub fn is_exceeded(&self) -> bool {
        self.open.load(Relaxed) > self.limit.load(Relaxed)
    }
}

/// The canonical spelling of an address: `0.0.0.0` is this machine, and `::ffff:a.b.c.d` is
/// `a.b.c.d`.
pub fn canonical_address(of: SocketAddr) -> String {
    let ip = match of.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, of.port()).to_string()
}

impl UpstreamState {
    /// The running form of `config`; reuses servers and load of `before`, the upstream of the same
    /// name.
    pub fn new(config: Arc<Upstream>, before: Option<&UpstreamState>) -> Self {
        let transport = &config.transport;
        let known = |server: &Server| {
            before
                .filter(|b| b.config.transport == *transport)
                .and_then(|b| b.servers.iter().find(|s| s.server == *server))
        };
        let fresh = |server: &Server| Arc::new(ServerState::new(server, transport));
        let servers = config.servers.iter().map(|s| known(s).cloned().unwrap_or_else(|| fresh(s)));
        UpstreamState {
            servers: servers.collect(),
            load: before.map(|b| b.load.clone()).unwrap_or_default(),
            config,
        }
    }

    /// Every name, known address and real path of its servers.
    pub fn aliases(&self) -> Vec<String> {
        let of = |server: &Arc<ServerState>| {
            let addresses: Vec<String> =
                server.addresses.load().iter().map(|a| canonical_address(*a)).collect();
            let own = server.server.to_string();
            let real_path = Some(with_real_path(&server.server).to_string()).filter(|real| *real != own);
            std::iter::once(own).chain(real_path).chain(addresses)
        };
        self.servers.iter().flat_map(of).collect()
    }

    /// Reserves room for one request, if there is any.
    pub fn enter(&self) -> Option<InFlight> {
        let before = self.load.in_flight.fetch_add(1, Relaxed);
        if before < self.config.requests_in_flight_max {
            return Some(InFlight(self.load.clone()));
        }
        self.load.in_flight.fetch_sub(1, Relaxed);
        None
    }

    /// No room is left: do clients hold it, by unsent request bodies and unread responses?
    /// True unless three quarters of the room wait for the upstream itself, which clients cannot
    /// cause.
    /// In doubt the arm is not blamed: an arm that hangs is detected by its missing responses.
    pub fn is_held_by_clients(&self) -> bool {
        let of_server = |server: &Arc<ServerState>| {
            self.config.connections_max.saturating_mul(server.streams_allowed.load(Relaxed))
        };
        let at_once = self.servers.iter().map(of_server).fold(0, usize::saturating_add);
        let room = self.config.requests_in_flight_max.min(at_once);
        let awaited: usize = self.servers.iter().map(|s| s.awaited.load(Relaxed)).sum();
        awaited.saturating_mul(4) < room.saturating_mul(3)
    }

    /// The server to try next among those not in `tried`: healthy ones first, then the least
    /// loaded. When all are aside they are tried nevertheless: a refusal is cheap, a wrongly
    /// excluded upstream is not.
    pub fn choose(&self, tried: &TriedServers, down: DownServers) -> Option<(usize, &Arc<ServerState>)> {
        // The common case: one server, no choice.
        if let [only] = self.servers.as_slice() {
            let usable = !tried.has(0) && (down == DownServers::Last || !only.down());
            return usable.then_some((0, only));
        }
        let now = clock::now_ms();
        // Rotates among equals: with requests one by one, all loads are 0.
        let count = self.servers.len();
        let turn = self.load.turn.fetch_add(1, Relaxed).checked_rem(count).unwrap_or(0);
        let open =
            |(i, s): &(usize, &Arc<ServerState>)| !tried.has(*i) && (down == DownServers::Last || !s.down());
        self.servers.iter().enumerate().filter(open).min_by_key(|(i, s)| {
            let aside = s.aside_until_ms.load(Relaxed) > now;
            (s.down(), aside, s.in_flight.load(Relaxed), (i + count - turn) % count)
        })
    }

    pub fn answered(&self, now: Duration) {
        self.load.last_sign_ms.store((now.as_millis() as u64).max(1), Relaxed);
    }

    /// When this upstream last accepted a connection or answered (monotonic).
    pub fn last_sign(&self) -> Option<Duration> {
        let last = self.load.last_sign_ms.load(Relaxed);
        (last != 0).then(|| Duration::from_millis(last))
    }

    /// Does it accept connections? A response within the last second suffices; otherwise all
    /// addresses are tried at once, for at most `within`. Local failures (no descriptor, no port)
    /// do not count against it. Blocks.
    pub fn takes_connections(&self, within: Duration) -> bool {
        if self.last_sign().is_some_and(|at| clock::now().saturating_sub(at) <= SIGN_OF_LIFE) {
            return true;
        }
        let (found, answers) = std::sync::mpsc::channel();
        let addresses: Vec<SocketAddr> =
            self.servers.iter().flat_map(|s| s.addresses.load().as_ref().clone()).collect();
        let mut asked = 0;
        let sockets = self.servers.iter().filter_map(|s| s.server.unix_path().map(Path::to_owned));
        let places = addresses.into_iter().map(ProbedPlace::Address);
        for place in places.chain(sockets.map(ProbedPlace::Socket)).take(PROBES_MAX) {
            let found = found.clone();
            let probe = move || {
                let takes = match place.connect(within) {
                    Ok(()) => true,
                    Err(error) => is_local(&error),
                };
                // The receiver is gone if another address answered first.
                let _ = found.send(takes);
            };
            match std::thread::Builder::new().name("probe".into()).spawn(probe) {
                Ok(_) => asked += 1,
                Err(_) => return true,
            }
        }
        let until = std::time::Instant::now() + within;
        (0..asked).any(|_| {
            let left = until.saturating_duration_since(std::time::Instant::now());
            answers.recv_timeout(left + Duration::from_millis(50)).unwrap_or(false)
        })
    }

    /// The number of servers that are neither aside nor down.
    pub fn healthy(&self) -> usize {
        self.servers.iter().filter(|s| s.healthy()).count()
    }
}

impl ServerState {
    fn new(server: &Server, transport: &Transport) -> Self {
        // A DNS name may end with a dot; the name in a certificate does not (RFC 6066, 3).
        let name = ServerName::try_from(server.host.trim_end_matches('.').to_string()).ok();
        let built = transport.tls.clone().filter(|_| server.scheme == Scheme::Https);
        let literal =
            server.host.parse().map(|ip| vec![SocketAddr::new(ip, server.port)]).unwrap_or_default();
        ServerState {
            id: NEXT_SERVER.fetch_add(1, Relaxed),
            authority: http::HeaderValue::try_from(server.authority())
                .unwrap_or(http::HeaderValue::from_static("upstream")),
            server: server.clone(),
            protocol: transport.protocol,
            tls: built.zip(name).map(|(built, name)| ServerTls { built, name }),
            addresses: ServerAddresses::new(literal),
            lookup_wanted: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            streams_allowed: AtomicUsize::new(match transport.protocol {
                Protocol::Http1 => 1,
                Protocol::Http2 => STREAMS_MAX,
            }),
            refusals_in_a_row: AtomicU32::new(0),
            aside_until_ms: AtomicU64::new(0),
            told: Throttle::default(),
            down: AtomicBool::new(false),
            why_down: ArcSwapOption::empty(),
        }
    }

    /// A connection failed: the name may lead elsewhere by now.
    pub fn want_lookup(&self) {
        self.lookup_wanted.store(true, Relaxed);
    }

    pub fn is_lookup_wanted(&self) -> bool {
        self.lookup_wanted.load(Relaxed)
    }

    pub fn begin_lookup(&self) {
        self.lookup_wanted.store(false, Relaxed);
    }

    /// Counts one exchange as this server's load.
    pub fn enter(self: &Arc<Self>) -> ServerLoad {
        self.in_flight.fetch_add(1, Relaxed);
        ServerLoad(self.clone())
    }

    /// The server allows this many streams on an HTTP/2 connection.
    pub fn allow_streams(&self, streams: usize) {
        self.streams_allowed.store(streams, Relaxed);
    }

    /// The server has a whole request, until the returned value is dropped.
    pub fn awaited(self: &Arc<Self>) -> AwaitedAnswer {
        self.awaited.fetch_add(1, Relaxed);
        AwaitedAnswer(self.clone())
    }

    /// A connection was established, or a response arrived.
    pub fn accepted(&self) {
        if self.refusals_in_a_row.load(Relaxed) != 0 {
            self.refusals_in_a_row.store(0, Relaxed);
            self.aside_until_ms.store(0, Relaxed);
        }
    }

    /// No connection could be made, without a local fault: sets the server aside for a while.
    pub fn refused(&self) {
        let before = self.refusals_in_a_row.fetch_add(1, Relaxed);
        let pause = ASIDE.after(before.saturating_add(1));
        self.aside_until_ms.store(clock::now_ms() + pause.as_millis() as u64, Relaxed);
    }

    /// Is a log line about the refusal due?
    pub fn worth_telling(&self) -> bool {
        self.told.is_due()
    }

    pub fn healthy(&self) -> bool {
        !self.down() && self.aside_until_ms.load(Relaxed) <= clock::now_ms()
    }

    /// Is it down by its health probes? Never true for a server without probes.
    pub fn down(&self) -> bool {
        self.down.load(Relaxed)
    }

    pub fn why_down(&self) -> Option<Arc<String>> {
        self.why_down.load_full()
    }

    /// `None`: up.
    pub fn set_down(&self, why: Option<String>) {
        self.down.store(why.is_some(), Relaxed);
        self.why_down.store(why.map(Arc::new));
    }
}

/// Room reserved in an upstream; released when dropped.
pub struct InFlight(Arc<UpstreamLoad>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// One exchange with a server; ends when dropped.
pub struct ServerLoad(Arc<ServerState>);

impl Drop for ServerLoad {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// A request that a server has in full and has not answered; ends when dropped.
pub struct AwaitedAnswer(Arc<ServerState>);

impl Drop for AwaitedAnswer {
    fn drop(&mut self) {
        self.0.awaited.fetch_sub(1, Relaxed);
    }
}

/// The servers of an upstream that a request has tried: a bit each.
#[derive(Default)]
pub struct TriedServers([u64; SERVERS_MAX.div_ceil(64)]);

impl TriedServers {
    pub fn add(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    /// An index without a bit counts as tried, so that every loop over servers ends.
    fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_none_or(|word| word & (1 << (index % 64)) != 0)
    }
}

/// An upstream for tests: HTTP/1.1, with a second for everything.
#[cfg(test)]
pub(super) fn test_upstream(servers: Vec<Server>) -> Upstream {
    let second = Duration::from_secs(1);
    Upstream {
        name: "u".into(),
        servers,
        connect_timeout: second,
        response_timeout: second,
        idle_timeout: second,
        total_timeout: None,
        connection_idle: second,
        http2_ping: None,
        connection_age_max: None,
        connections_max: 1,
        requests_in_flight_max: 1,
        resend_unprocessed: true,
        transport: Transport { protocol: Protocol::Http1, tls: None },
        health: None,
        scrapes: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(servers: usize) -> UpstreamState {
        let server = |i| Server { scheme: Scheme::Http, host: "127.0.0.1".into(), port: 9000 + i as u16 };
        let config = Upstream {
            connections_max: 4,
            requests_in_flight_max: 2,
            ..test_upstream((0..servers).map(server).collect())
        };
        UpstreamState::new(Arc::new(config), None)
    }

    #[test]
    fn the_least_loaded_healthy_server_is_chosen() {
        let up = upstream(3);
        up.servers[0].in_flight.store(2, Relaxed);
        up.servers[1].in_flight.store(1, Relaxed);
        up.servers[2].refused();
        let mut tried = TriedServers::default();
        let mut order = vec![];
        while let Some((i, _)) = up.choose(&tried, DownServers::Last) {
            order.push(i);
            tried.add(i);
        }
        assert_eq!(order, [1, 0, 2]);
        assert_eq!(up.healthy(), 2);
        up.servers[2].accepted();
        assert_eq!(up.healthy(), 3);
    }

    #[test]
    fn a_server_that_is_down_comes_after_all_others_or_never() {
        let up = upstream(3);
        up.servers[0].set_down(Some("status 503".into()));
        up.servers[1].refused();
        let order = |down| {
            let (mut tried, mut order) = (TriedServers::default(), vec![]);
            while let Some((i, _)) = up.choose(&tried, down) {
                order.push(i);
                tried.add(i);
            }
            order
        };
        assert_eq!((order(DownServers::Last), order(DownServers::Never)), (vec![2, 1, 0], vec![2, 1]));
        assert_eq!(up.healthy(), 1);
        up.servers.iter().for_each(|s| s.set_down(Some("refused".into())));
        assert_eq!((order(DownServers::Last).len(), order(DownServers::Never).len()), (3, 0));
        // A served request proves that the server accepts connections, not that it is healthy.
        up.servers[1].accepted();
        assert!(up.servers[1].down());
    }

    #[test]
    fn each_server_is_tried_once_however_many_the_config_allows() {
        let up = upstream(SERVERS_MAX);
        let (mut tried, mut order) = (TriedServers::default(), vec![]);
        while let Some((i, _)) = up.choose(&tried, DownServers::Last) {
            order.push(i);
            tried.add(i);
            assert!(order.len() <= SERVERS_MAX, "a server comes again: {order:?}");
        }
        order.sort_unstable();
        assert_eq!(order, Vec::from_iter(0..SERVERS_MAX));
    }

    #[test]
    fn room_is_bounded_and_given_back() {
        let up = upstream(1);
        let (a, b) = (up.enter(), up.enter());
        assert!(a.is_some() && b.is_some() && up.enter().is_none());
        drop(a);
        assert!(up.enter().is_some());
    }

    #[test]
    fn a_reload_forgets_neither_health_nor_load() {
        let up = upstream(2);
        up.servers[1].refused();
        let _room = up.enter();
        let next = UpstreamState::new(up.config.clone(), Some(&up));
        assert_eq!(next.healthy(), 1);
        assert_eq!(next.load.in_flight.load(Relaxed), 1);
        assert_eq!(next.servers[0].id, up.servers[0].id);
    }
}
