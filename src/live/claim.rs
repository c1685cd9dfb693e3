//! Who leads users to which servers, and whom a standing trip forbids to.
//!
//! A trip remembers the servers of its `new`: while it stands, nothing of another name may *begin* to send users there, and nothing may send
//! more of them. What led there already when it tripped goes on as it was: another release on the same servers has a watchdog of its
//! own, and a restart with the same file must not change anything. A reload that breaks this is refused; a start is not, since stable must be
//! served: what conflicts is held at 0%, or answered 503.
//!
//! Invariants: a claim is let be only if it is the same as, or narrower than, the one that the trip remembers: routes, salt, segments, weight;
//! servers are compared by address as well as by name, so another spelling is no way round.

use crate::domain::cohort::Weight;
use crate::domain::plan::{Plan, Release, Route, Scheme, Server, Target};
use crate::domain::rollout::{Memory, Other, Trip};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// One way by which a plan leads users to an upstream.
struct Claim<'a> {
    /// For people.
    label: String,
    upstream: usize,
    /// The release whose `new` it is.
    new_of: Option<&'a str>,
    /// As a trip remembers it.
    other: Other,
    bars: Bar,
}

/// What is taken out of service where a start finds a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bar {
    /// This release is held at 0%; by whose trip.
    Release { name: String, by: String },
    /// These routes (by index) are answered 503.
    Routes(Vec<usize>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    pub message: String,
    pub bars: Bar,
}

fn claims(plan: &Plan) -> Vec<Claim<'_>> {
    let mut claims = vec![];
    for (index, release) in plan.releases.iter().enumerate() {
        let name = &release.name;
        let own = |r: &Route| r.target == Target::Release(index);
        let routes: Vec<usize> =
            plan.routes.iter().enumerate().filter(|(_, r)| own(r)).map(|(i, _)| i).collect();
        let patterns: Vec<String> = routes.iter().map(|i| pattern(&plan.routes[*i])).collect();
        claims.push(Claim {
            label: format!("release `{name}` (new)"),
            upstream: release.new,
            new_of: Some(name.as_str()),
            other: Other { claim: users(release), routes: patterns.clone(), weight: release.weight },
            bars: Bar::Release { name: name.clone(), by: String::new() },
        });
        claims.push(Claim {
            label: format!("release `{name}` (stable)"),
            upstream: release.stable,
            new_of: None,
            other: Other { claim: format!("stable of {name}"), routes: patterns, weight: Weight::FULL },
            bars: Bar::Routes(routes),
        });
    }
    for (index, route) in plan.routes.iter().enumerate() {
        if let Target::Upstream(upstream) = route.target {
            let other = Other { claim: "route".into(), routes: vec![pattern(route)], weight: Weight::FULL };
            claims.push(Claim {
                label: format!("route `{}`", route.name),
                upstream,
                new_of: None,
                other,
                bars: Bar::Routes(vec![index]),
            });
        }
    }
    claims
}

/// What a route matches; its name does not matter.
fn pattern(route: &Route) -> String {
    let methods: Vec<&str> = route.methods.iter().map(http::Method::as_str).collect();
    format!("{} {} {}", route.host.as_deref().unwrap_or("*"), route.path, methods.join(","))
}

/// Which users a release sends to `new`, but for the weight.
fn users(release: &Release) -> String {
    let mut text = format!("new of {} by {:?}", release.name, release.salt_text);
    for segment in &release.segments {
        let (users, header) = (segment.users.fingerprint(), &segment.header);
        text.push_str(&format!(" + {} {users:x} {header:?} {:?}", segment.name, segment.networks));
    }
    text
}

/// What leads to these servers now, besides the `new` of `tripped`: what a trip lets be.
pub fn others(plan: &Plan, tripped: &str, servers: &[String]) -> Vec<Other> {
    let leads = |claim: &Claim<'_>| {
        plan.upstreams[claim.upstream].servers.iter().any(|s| literal(s).iter().any(|l| servers.contains(l)))
    };
    let other = claims(plan).into_iter().filter(|c| c.new_of != Some(tripped) && leads(c));
    other.map(|claim| claim.other).collect()
}

/// Every spelling of every server of a plan, by upstream and server. Made before any lock is taken: it may ask the resolver.
pub struct Spellings(Vec<Vec<Vec<String>>>);

impl Spellings {
    /// Names that are not resolved within `at_most`, all together, are known by their text only.
    pub fn of(plan: &Plan, at_most: Duration) -> Spellings {
        let mut all: Vec<Vec<Vec<String>>> = vec![];
        let (found, answers) = mpsc::channel();
        let mut asked = 0;
        for (u, upstream) in plan.upstreams.iter().enumerate() {
            all.push(upstream.servers.iter().map(literal).collect());
            for (i, server) in upstream.servers.iter().enumerate() {
                if server.host.parse::<IpAddr>().is_err() {
                    let (found, name) = (found.clone(), (server.host.clone(), server.port));
                    let look_up = move || {
                        let addresses = name.to_socket_addrs().map(Iterator::collect::<Vec<_>>);
                        // Nobody listens any more if it took too long.
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
            all[u][i].extend(addresses.into_iter().map(address));
        }
        Spellings(all)
    }
}

/// What is known of a server without asking anybody. With and without TLS it is the same one.
fn literal(server: &Server) -> Vec<String> {
    let ip = server.host.parse::<IpAddr>().ok();
    let spelled = ip.map(|ip| address(SocketAddr::new(ip, server.port)));
    let texts = [Scheme::Http, Scheme::Https].map(|scheme| Server { scheme, ..server.clone() }.to_string());
    texts.into_iter().chain(spelled).collect()
}

/// One spelling for one address: `0.0.0.0` is this machine, and `::ffff:a.b.c.d` is `a.b.c.d`.
pub fn address(of: SocketAddr) -> String {
    let ip = match of.ip().to_canonical() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, of.port()).to_string()
}

/// Everything in `plan` that a standing trip forbids.
pub fn conflicts(plan: &Plan, spellings: &Spellings, memories: &BTreeMap<String, Memory>) -> Vec<Conflict> {
    let mut found = vec![];
    for (tripped, trip) in memories.iter().filter_map(|(name, m)| Some((name, m.trip.as_ref()?))) {
        for claim in claims(plan).into_iter().filter(|c| c.new_of != Some(tripped.as_str())) {
            let servers = plan.upstreams[claim.upstream].servers.iter().zip(&spellings.0[claim.upstream]);
            let mut led = servers.filter(|(_, all)| all.iter().any(|s| trip.servers.contains(s)));
            let Some((server, _)) = led.next().filter(|_| !lets_be(trip, &claim.other)) else { continue };
            let message = format!(
                "{} would send users to {server}, the `new` of release `{tripped}`, which is rolled back; \
                 resume `{tripped}` first (grayling resume {tripped} --ends rollback --reason TEXT), or point it elsewhere",
                claim.label
            );
            let bars = match claim.bars {
                Bar::Release { name, .. } => Bar::Release { name, by: tripped.clone() },
                routes => routes,
            };
            found.push(Conflict { message, bars });
        }
    }
    found
}

fn lets_be(trip: &Trip, claim: &Other) -> bool {
    trip.others.iter().any(|known| {
        known.claim == claim.claim
            && claim.weight <= known.weight
            && claim.routes.iter().all(|r| known.routes.contains(r))
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
}
