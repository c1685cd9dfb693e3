//! The address of a server as the config has it: `http://host:port`, `https://host:port` or
//! `unix:/path`.
//!
//! Invariant: a unix socket is a server whose host is an absolute path. No DNS name begins with a
//! slash.

use std::net::IpAddr;
use std::path::Path;

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

/// `http://host:port` or `unix:/path` of the config, parsed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Server {
    pub scheme: Scheme,
    /// Lower case; a DNS name, or an IP literal without brackets.
    /// Or the absolute path of a unix socket, which no DNS name can look like.
    pub host: String,
    /// 0 for a unix socket.
    pub port: u16,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(path) = self.unix_path() {
            return write!(f, "unix:{}", path.display());
        }
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

impl Server {
    /// `host:port`; an IPv6 literal has brackets. `localhost` for a unix socket.
    pub fn authority(&self) -> String {
        match self.unix_path() {
            Some(_) => "localhost".into(),
            None => authority(&self.host, self.port),
        }
    }

    /// The path of its socket, if it is a unix socket.
    pub fn unix_path(&self) -> Option<&Path> {
        self.host.starts_with('/').then(|| Path::new(&self.host))
    }

    /// Whether its host has to be looked up.
    pub fn is_dns_name(&self) -> bool {
        self.unix_path().is_none() && self.host.parse::<IpAddr>().is_err()
    }

    /// The same host and port, with any scheme.
    pub fn same_place(&self, other: &Server) -> bool {
        self.host == other.host && self.port == other.port
    }
}

/// `host:port`; an IPv6 literal has brackets.
pub(super) fn authority(host: &str, port: u16) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}
