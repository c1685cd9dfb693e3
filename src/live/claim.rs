//! Who leads users to which servers, and whom a standing trip forbids to.
//!
//! A trip remembers the servers of its `new`: while it stands, no release or route of another name may *begin* to send users there. What led
//! there already when it tripped goes on: another release on the same servers has a watchdog of its own, and a restart with the
//! same file must not fail. But such a release may not send more users there either.
//!
//! Invariant: servers are compared by address as well as by name, so another spelling is no way round.

use crate::domain::plan::{Plan, Server, Target};
use crate::domain::rollout::{Memory, Trip};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// One way by which a plan leads users to an upstream.
struct Claim<'a> {
    /// As people are told, and as a trip remembers it.
    label: String,
    upstream: usize,
    /// The release whose `new` it is.
    new_of: Option<&'a str>,
}

fn claims(plan: &Plan) -> Vec<Claim<'_>> {
    let mut claims = vec![];
    for release in &plan.releases {
        let name = &release.name;
        claims.push(Claim {
            label: format!("release `{name}` (new)"),
            upstream: release.new,
            new_of: Some(name.as_str()),
        });
        claims.push(Claim {
            label: format!("release `{name}` (stable)"),
            upstream: release.stable,
            new_of: None,
        });
    }
    for route in &plan.routes {
        if let Target::Upstream(upstream) = route.target {
            claims.push(Claim { label: format!("route `{}`", route.name), upstream, new_of: None });
        }
    }
    claims
}

/// Every spelling of a server: its name in the file, and the addresses that it has now. May ask the resolver.
pub fn spellings(server: &Server) -> Vec<String> {
    let addresses: Vec<SocketAddr> = match server.host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip.to_canonical(), server.port)],
        Err(_) => {
            (server.host.as_str(), server.port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
        }
    };
    let spelled = addresses.iter().map(SocketAddr::to_string);
    std::iter::once(server.to_string()).chain(spelled).collect()
}

/// What leads to these servers now, besides the `new` of `tripped`: what a trip lets be.
pub fn others(plan: &Plan, tripped: &str, servers: &[String]) -> Vec<String> {
    let leads = |claim: &Claim<'_>| {
        plan.upstreams[claim.upstream].servers.iter().any(|s| servers.contains(&s.to_string()))
    };
    let other = claims(plan).into_iter().filter(|c| c.new_of != Some(tripped) && leads(c));
    other.map(|claim| claim.label).collect()
}

/// Everything in `plan` that a standing trip forbids. `before` is the plan in force, if there is one.
pub fn conflicts(plan: &Plan, before: Option<&Plan>, memories: &BTreeMap<String, Memory>) -> Vec<String> {
    let trips: Vec<(&String, &Trip)> =
        memories.iter().filter_map(|(name, m)| Some((name, m.trip.as_ref()?))).collect();
    if trips.is_empty() {
        return vec![];
    }
    let spelled: Vec<Vec<(String, Vec<String>)>> = plan
        .upstreams
        .iter()
        .map(|u| u.servers.iter().map(|s| (s.to_string(), spellings(s))).collect())
        .collect();
    let mut found = vec![];
    for (tripped, trip) in trips {
        for claim in claims(plan).iter().filter(|c| c.new_of != Some(tripped.as_str())) {
            let leads =
                spelled[claim.upstream].iter().find(|(_, all)| all.iter().any(|s| trip.servers.contains(s)));
            let Some((server, _)) = leads else { continue };
            let known = trip.others.contains(&claim.label);
            let more = claim.new_of.is_some_and(|name| raises(name, plan, before));
            if known && !more {
                continue;
            }
            let what = if known { "would send more users" } else { "would send users" };
            found.push(format!(
                "{} {what} to {server}, the `new` of release `{tripped}`, which is rolled back; \
                 resume `{tripped}` first (grayling resume {tripped} --reason TEXT), or point it elsewhere",
                claim.label
            ));
        }
    }
    found
}

fn raises(release: &str, plan: &Plan, before: Option<&Plan>) -> bool {
    let weight = |plan: &Plan| plan.release(release).map(|r| r.weight);
    before.is_some_and(|before| weight(plan) > weight(before))
}
