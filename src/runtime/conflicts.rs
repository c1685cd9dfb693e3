//! Which routes and releases lead users to which servers, and which of them a standing trip
//! forbids.
//!
//! A trip records the servers of its `new`. While it stands, no other route or release may *begin*
//! to send users there, or send more of them. Those that led there when it tripped continue
//! unchanged: another release on the same servers has its own watchdog, and a restart with the same
//! file must change nothing. A reload that breaks this is refused. A start is not, since stable
//! must be served: a conflicting release is held at 0%, and a conflicting route is answered 503.
//!
//! Invariants: a claim is allowed only if it is equal to, or narrower than, the one that the trip
//! recorded, in routes, salt, segments and weight. Servers are compared by address as well as by
//! name, so another spelling does not bypass the trip.

use crate::config::values::with_real_path;
use crate::domain::config::{Config, Release, Route, Scheme, Server, Target};
use crate::domain::rollout::{OtherPath, ReleaseState, Trip};
use crate::domain::segment::UserSet;
use crate::stats::cohort::Weight;
use crate::store::state_key::{DIGITS, StateKey};
use crate::upstream::server::canonical_address;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One path by which a plan leads users to an upstream.
struct ServerClaim<'a> {
    /// For messages.
    label: String,
    upstream: usize,
    /// The release, if this is its `new`.
    new_of: Option<&'a str>,
    /// In the form that a trip records.
    other: OtherPath,
    /// `other.claim` in the form of earlier versions, without a key.
    unkeyed: String,
    bars: Block,
}

/// What a start takes out of service because of a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Block {
    /// This release is held at 0%; `by`: the release whose trip forbids it.
    Release { name: String, by: String },
    /// These routes (by index) are answered 503.
    Routes(Vec<usize>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub message: String,
    pub bars: Block,
}

fn claims<'a>(config: &'a Config, key: &StateKey) -> Vec<ServerClaim<'a>> {
    let mut claims = vec![];
    for (index, release) in config.releases.iter().enumerate() {
        let name = &release.name;
        let own = |r: &Route| r.target == Target::Release(index);
        let routes: Vec<usize> =
            config.routes.iter().enumerate().filter(|(_, r)| own(r)).map(|(i, _)| i).collect();
        let patterns: Vec<String> = routes.iter().map(|i| pattern(&config.routes[*i])).collect();
        claims.push(ServerClaim {
            label: format!("release `{name}` (new)"),
            upstream: release.new,
            new_of: Some(name.as_str()),
            other: OtherPath {
                claim: users(release, |set| format!("{}@{}:{}", set.len(), key.name(), key.list(set))),
                routes: patterns.clone(),
                weight: release.weight,
            },
            unkeyed: users(release, |set| format!("{:x}", set.fingerprint())),
            bars: Block::Release { name: name.clone(), by: String::new() },
        });
        claims.push(ServerClaim {
            label: format!("release `{name}` (stable)"),
            upstream: release.stable,
            new_of: None,
            other: OtherPath { claim: format!("stable of {name}"), routes: patterns, weight: Weight::FULL },
            unkeyed: format!("stable of {name}"),
            bars: Block::Routes(routes),
        });
    }
    for (index, route) in config.routes.iter().enumerate() {
        if let Target::Upstream(upstream) = route.target {
            let other =
                OtherPath { claim: "route".into(), routes: vec![pattern(route)], weight: Weight::FULL };
            claims.push(ServerClaim {
                label: format!("route `{}`", route.name),
                upstream,
                new_of: None,
                unkeyed: other.claim.clone(),
                other,
                bars: Block::Routes(vec![index]),
            });
        }
    }
    claims
}

/// The match conditions of a route; its name does not matter.
fn pattern(route: &Route) -> String {
    let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
    format!("{} {} {}", route.host.as_deref().unwrap_or("*"), route.path, methods.join(","))
}

/// The users that a release sends to `new`, apart from the weight.
/// `list` formats the users of a segment.
fn users(release: &Release, list: impl Fn(&UserSet) -> String) -> String {
    let mut text = format!("new of {} by {:?}", release.name, release.salt_text);
    for segment in &release.segments {
        let (users, header) = (list(&segment.users), &segment.header);
        text.push_str(&format!(" + {} {users} {header:?} {:?}", segment.name, segment.networks));
    }
    text
}

/// A claim without the hashes of its lists, `@KEY:HASH`; their lengths stay.
fn without_hashes(claim: &str) -> String {
    let mut parts = claim.split('@');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let hash = |text: &str| text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        let after = part.split_at_checked(2 * DIGITS + 1).filter(|(hashes, _)| {
            hashes.split_once(':').is_some_and(|(name, list)| hash(name) && hash(list))
        });
        match after {
            Some((_, rest)) => text.push_str(rest),
            None => _ = write!(text, "@{part}"),
        }
    }
    text
}

/// Claims on these servers besides the `new` of `tripped`; the trip allows them.
pub fn others(config: &Config, tripped: &str, servers: &[String], key: &StateKey) -> Vec<OtherPath> {
    let leads = |claim: &ServerClaim<'_>| {
        config.upstreams[claim.upstream]
            .servers
            .iter()
            .any(|s| literal(s).iter().any(|l| servers.contains(l)))
    };
    let other = claims(config, key).into_iter().filter(|c| c.new_of != Some(tripped) && leads(c));
    other.map(|claim| claim.other).collect()
}

/// Every spelling of every server of a plan, by upstream and server.
/// Made before any lock is taken, because it may call the resolver.
pub struct ServerAliases(Vec<Vec<Vec<String>>>);

impl ServerAliases {
    /// Names not resolved within `at_most`, for all together, are compared as text only.
    pub fn of(config: &Config, at_most: Duration) -> ServerAliases {
        let mut all: Vec<Vec<Vec<String>>> = vec![];
        let (found, answers) = mpsc::channel();
        let mut asked = 0;
        for (u, upstream) in config.upstreams.iter().enumerate() {
            all.push(upstream.servers.iter().map(literal).collect());
            for (i, server) in upstream.servers.iter().enumerate() {
                if server.is_dns_name() {
                    let (found, name) = (found.clone(), (server.host.clone(), server.port));
                    let look_up = move || {
                        let addresses = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                        // The receiver is gone if the lookup took too long.
                        let _ = found.send((u, i, addresses.unwrap_or_default()));
                    };
                    if std::thread::Builder::new().name("resolve".into()).spawn(look_up).is_ok() {
                        asked += 1;
                    }
                }
            }
        }
        let until = Instant::now() + at_most;
        for _ in 0..asked {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((u, i, addresses)) = answers.recv_timeout(left) else { break };
            all[u][i].extend(addresses.into_iter().map(canonical_address));
        }
        ServerAliases(all)
    }
}

/// The spellings of a server without a lookup. TLS makes no difference.
fn literal(server: &Server) -> Vec<String> {
    if server.unix_path().is_some() {
        return vec![server.to_string(), with_real_path(server).to_string()];
    }
    let ip = server.host.parse::<IpAddr>().ok();
    let spelled = ip.map(|ip| canonical_address(SocketAddr::new(ip, server.port)));
    let texts = [Scheme::Http, Scheme::Https].map(|scheme| Server { scheme, ..server.clone() }.to_string());
    texts.into_iter().chain(spelled).collect()
}

/// Every part of `plan` that a standing trip forbids.
pub fn conflicts(
    config: &Config,
    aliases: &ServerAliases,
    states: &BTreeMap<String, ReleaseState>,
    key: &StateKey,
) -> Vec<Conflict> {
    let mut found = vec![];
    for (tripped, trip) in states.iter().filter_map(|(name, m)| Some((name, m.trip.as_ref()?))) {
        for claim in claims(config, key).into_iter().filter(|c| c.new_of != Some(tripped.as_str())) {
            let servers = config.upstreams[claim.upstream].servers.iter().zip(&aliases.0[claim.upstream]);
            let mut led = servers.filter(|(_, all)| all.iter().any(|s| trip.servers.contains(s)));
            let Some((server, _)) = led.next().filter(|_| !is_grandfathered(trip, &claim, key)) else {
                continue;
            };
            let message = format!(
                "{} would send users to {server}, the `new` of release `{tripped}`, which is rolled back; \
                 resume `{tripped}` first (grayling resume {tripped} --ends rollback --reason TEXT), or point it elsewhere",
                claim.label
            );
            let bars = match claim.bars {
                Block::Release { name, .. } => Block::Release { name, by: tripped.clone() },
                routes => routes,
            };
            found.push(Conflict { message, bars });
        }
    }
    found
}

fn is_grandfathered(trip: &Trip, claim: &ServerClaim<'_>, key: &StateKey) -> bool {
    let OtherPath { claim: now, routes, weight } = &claim.other;
    trip.others.iter().any(|known| {
        // Lists hashed under another key cannot be compared: that key is lost or destroyed.
        // Their lengths can.
        let of_another_key = || {
            known.claim.contains('@')
                && !known.claim.contains(&format!("@{}:", key.name()))
                && without_hashes(&known.claim) == without_hashes(now)
        };
        (known.claim == *now || known.claim == claim.unkeyed || of_another_key())
            && *weight <= known.weight
            && routes.iter().all(|r| known.routes.contains(r))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_the_same_with_and_without_tls_also_where_its_name_does_not_resolve() {
        let server = |scheme| Server { scheme, host: "billing.invalid".into(), port: 9001 };
        let remembered = server(Scheme::Http).to_string();
        assert!(literal(&server(Scheme::Https)).contains(&remembered));
        assert_eq!(literal(&server(Scheme::Https)), literal(&server(Scheme::Http)));
    }

    #[test]
    fn a_claim_is_known_again_by_its_key_without_one_and_after_the_key_is_lost() {
        let config = |users: &str| {
            let text = format!(
                "[upstream.a]\nservers = [\"http://127.0.0.1:1\"]\n[upstream.b]\nservers = [\"http://127.0.0.1:2\"]\n\
                 [segment.testers]\nusers = [{users}]\nheader = {{ name = \"x-plan\", equals = \"a@b\" }}\n\
                 [release.one]\nstable = \"a\"\nnew = \"b\"\nweight = \"1%\"\n\
                 [release.two]\nstable = \"a\"\nnew = \"b\"\nweight = \"1%\"\nsegments = [\"testers\"]\n\
                 [[route]]\npath = \"/one\"\nrelease = \"one\"\n[[route]]\npath = \"/two\"\nrelease = \"two\"\n"
            );
            crate::config::parse(&text, std::path::Path::new("x.toml")).unwrap().config
        };
        let (key, other_key) = (StateKey::new([7; 32]), StateKey::new([8; 32]));
        let before = config("\"ann\", \"bob\"");
        let servers = vec!["http://127.0.0.1:2".to_owned()];
        let bars = |others: Vec<OtherPath>, config: &Config, key: &StateKey| {
            let trip = Trip {
                cause: crate::domain::verdict::Cause::Manual,
                attempt: 1,
                at_ms: 0,
                actor: String::new(),
                detail: String::new(),
                evidence: String::new(),
                onset_to_trip_ms: None,
                stable_same_at_ms: None,
                servers: servers.clone(),
                others,
                entry: 0,
            };
            let states =
                [("one".to_owned(), ReleaseState { trip: Some(trip), ..ReleaseState::default() })].into();
            !conflicts(config, &ServerAliases::of(config, Duration::ZERO), &states, key).is_empty()
        };
        let others = others(&before, "one", &servers, &key);
        assert!(!others[0].claim.contains(&format!("{:x}", before.segments[0].users.fingerprint())));
        let (another, longer) = (config("\"ann\", \"carl\""), config("\"ann\", \"bob\", \"carl\""));
        assert!(!bars(others.clone(), &before, &key));
        assert!(bars(others.clone(), &another, &key), "another list");
        assert!(!bars(others.clone(), &before, &other_key), "the key is lost: nobody is taken out for that");
        assert!(bars(others.clone(), &longer, &other_key), "more users");
        let unkeyed = claims(&before, &key).remove(2).unkeyed;
        let of_an_earlier_version = vec![OtherPath { claim: unkeyed, ..others[0].clone() }];
        assert!(!bars(of_an_earlier_version.clone(), &before, &key));
        assert!(bars(of_an_earlier_version, &another, &key));
    }
}
