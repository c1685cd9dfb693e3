//! A config file as a value: a test sets its own values; the rest is the shortest valid file.

use std::net::SocketAddr;

#[derive(Clone)]
pub struct Config {
    pub stable: Vec<SocketAddr>,
    pub new: Vec<SocketAddr>,
    /// `http` or `https`, of stable and of new.
    pub schemes: [&'static str; 2],
    /// With its percent sign.
    pub weight: String,
    /// Instead of a weight: each wave as an inline table.
    pub waves: Vec<String>,
    pub attempt: u64,
    /// More lines for the respective table.
    pub listen: String,
    pub upstreams: String,
    /// For `new` alone, instead of `upstreams`.
    pub upstream_new: Option<String>,
    pub release: String,
    pub watchdog: String,
    pub limits: String,
    pub state: String,
    /// After everything else: whole tables.
    pub rest: String,
}

/// The name of the one release, everywhere in these tests.
pub const RELEASE: &str = "billing";

impl Config {
    pub fn new(stable: SocketAddr, new: SocketAddr) -> Config {
        Config {
            stable: vec![stable],
            new: vec![new],
            schemes: ["http", "http"],
            weight: "20%".into(),
            waves: vec![],
            attempt: 1,
            listen: "workers = 2".into(),
            upstreams: String::new(),
            upstream_new: None,
            release: String::new(),
            // On a busy machine a version with microsecond answers and few users really is the
            // slower one. Tests of latency override this.
            watchdog: "latency_floor = \"20ms\"".into(),
            limits: String::new(),
            state: "directory = \"../state\"".into(),
            rest: String::new(),
        }
    }

    pub fn weight(mut self, weight: &str) -> Config {
        self.weight = weight.into();
        self
    }

    /// Each as in `weight = "5%", bake = "1s"`.
    pub fn waves(mut self, waves: &[&str]) -> Config {
        self.waves = waves.iter().map(|w| format!("{{ {w} }}")).collect();
        self
    }

    pub fn attempt(mut self, attempt: u64) -> Config {
        self.attempt = attempt;
        self
    }

    pub fn upstreams(mut self, lines: &str) -> Config {
        self.upstreams = lines.into();
        self
    }

    pub fn watchdog(mut self, lines: &str) -> Config {
        self.watchdog = lines.into();
        self
    }

    pub fn release(mut self, lines: &str) -> Config {
        self.release = lines.into();
        self
    }

    pub fn state(mut self, lines: &str) -> Config {
        self.state = lines.into();
        self
    }

    pub fn text(&self) -> String {
        let Config { attempt, listen, upstreams, release, watchdog, limits, state, rest, .. } = self;
        let servers = |scheme: &str, all: &[SocketAddr]| {
            all.iter().map(|a| format!("\"{scheme}://{a}\"")).collect::<Vec<_>>().join(", ")
        };
        let [stable, new] = self.schemes;
        let (stable, new) = (servers(stable, &self.stable), servers(new, &self.new));
        let climb = match self.waves.is_empty() {
            true => format!("weight = \"{}\"", self.weight),
            false => format!("wave = [\n  {}\n]", self.waves.join(",\n  ")),
        };
        let when_empty = match state.contains("when_empty") {
            true => "",
            // Each test starts with a new directory.
            false => "when_empty = \"start\"",
        };
        let warm_up = match release.contains("warm_up") {
            true => "",
            // Tests are shorter than a warm-up.
            false => "warm_up = \"0s\"",
        };
        let upstream_new = self.upstream_new.as_ref().unwrap_or(upstreams);
        format!(
            r#"[listen]
http = "127.0.0.1:0"
admin = "127.0.0.1:0"
{listen}

[upstream.v1]
servers = [{stable}]
{upstreams}

[upstream.v2]
servers = [{new}]
{upstream_new}

[release.{RELEASE}]
stable = "v1"
new = "v2"
{climb}
attempt = {attempt}
{warm_up}
{release}

[release.{RELEASE}.watchdog]
{watchdog}

[[route]]
path = "/"
release = "{RELEASE}"

[limits]
{limits}

[state]
{state}
{when_empty}
{rest}"#
        )
    }
}
