//! Selects the route of a request: the longest matching path wins, then a route with a host, then
//! one with methods.
//!
//! A path is a prefix on segment boundaries. The table is one hash map from path to its routes. The
//! lookup tries the request's path, then that path without its last segment, and so on. So the cost
//! grows with the depth of the path and not with the number of routes. A route whose host or method
//! does not match falls back to a shorter one, which a plain radix tree does not do.

use crate::domain::config::Route;
use crate::stats::hasher::BuildHasher;
use std::collections::HashMap;

pub struct RouteTable {
    by_path: HashMap<String, Vec<RouteEntry>, BuildHasher>,
    /// The lengths in bytes that occur among the paths: most lookups match none of them.
    lengths: Vec<bool>,
    /// Number of segments of the deepest path: deeper prefixes need no lookup.
    depth_max: usize,
}

struct RouteEntry {
    route: usize,
    host: Option<String>,
    methods: Vec<http::Method>,
}

impl RouteTable {
    pub fn new(routes: &[Route]) -> Self {
        let mut by_path: HashMap<String, Vec<RouteEntry>, BuildHasher> = HashMap::default();
        for (index, route) in routes.iter().enumerate() {
            by_path.entry(route.path.clone()).or_default().push(RouteEntry {
                route: index,
                host: route.host.clone(),
                methods: route.methods.clone(),
            });
        }
        for entries in by_path.values_mut() {
            entries.sort_by_key(|e| (e.host.is_none(), e.methods.is_empty(), e.route));
        }
        let longest = by_path.keys().map(String::len).max().unwrap_or(0);
        let mut lengths = vec![false; longest + 1];
        by_path.keys().for_each(|path| lengths[path.len()] = true);
        let depth_max = routes.iter().map(|r| depth(&r.path)).max().unwrap_or(0);
        RouteTable { by_path, lengths, depth_max }
    }

    /// Index of the route for this request.
    /// `host` in lower case, without port.
    pub fn find(&self, host: &str, path: &str, method: &http::Method) -> Option<usize> {
        let mut prefix = truncate(path, self.depth_max);
        loop {
            let has_length = self.lengths.get(prefix.len()).is_some_and(|has| *has);
            if let Some(entries) = has_length.then(|| self.by_path.get(prefix)).flatten() {
                let fits = |e: &&RouteEntry| {
                    e.host.as_deref().is_none_or(|h| h.eq_ignore_ascii_case(host))
                        && (e.methods.is_empty() || e.methods.contains(method))
                };
                if let Some(entry) = entries.iter().find(fits) {
                    return Some(entry.route);
                }
            }
            match prefix.bytes().rposition(|byte| byte == b'/') {
                Some(0) if prefix.len() > 1 => prefix = "/",
                Some(0) | None => return None,
                Some(end) => prefix = &prefix[..end],
            }
        }
    }
}

fn depth(path: &str) -> usize {
    path.bytes().filter(|b| *b == b'/').count()
}

/// The first `segments` segments of `path`.
fn truncate(path: &str, segments: usize) -> &str {
    let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/');
    match slashes.nth(segments) {
        Some((end, _)) if end > 0 => &path[..end],
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::config::Target;
    use http::Method;

    fn route(name: &str, host: Option<&str>, path: &str, methods: &[Method]) -> Route {
        Route {
            name: name.into(),
            host: host.map(str::to_owned),
            path: path.into(),
            methods: methods.to_vec(),
            target: Target::Upstream(0),
        }
    }

    #[test]
    fn the_longest_path_wins_then_host_then_methods() {
        let routes = [
            route("root", None, "/", &[]),
            route("a", None, "/a", &[]),
            route("a-host", Some("x.example"), "/a", &[]),
            route("a-post", None, "/a", &[Method::POST]),
            route("deep", None, "/a/b/c", &[Method::GET]),
        ];
        let table = RouteTable::new(&routes);
        let name = |host: &str, path: &str, method: Method| {
            table.find(host, path, &method).map(|i| routes[i].name.as_str())
        };
        assert_eq!(name("h", "/", Method::GET), Some("root"));
        assert_eq!(name("h", "/ab", Method::GET), Some("root"));
        assert_eq!(name("h", "/a", Method::GET), Some("a"));
        assert_eq!(name("h", "/a/", Method::GET), Some("a"));
        assert_eq!(name("h", "/a/b", Method::POST), Some("a-post"));
        assert_eq!(name("X.example", "/a/b", Method::POST), Some("a-host"));
        assert_eq!(name("h", "/a/b/c/d/e/f", Method::GET), Some("deep"));
        assert_eq!(name("h", "/a/b/c", Method::PUT), Some("a"));
        assert_eq!(name("h", "*", Method::OPTIONS), None);
    }

    #[test]
    fn without_a_root_some_paths_have_no_route() {
        let routes = [route("a", None, "/a", &[])];
        let table = RouteTable::new(&routes);
        assert_eq!(table.find("h", "/b", &Method::GET), None);
        assert_eq!(table.find("h", "/", &Method::GET), None);
    }
}
