//! Text → value, for every kind of value in the file: durations, sizes, percentages, addresses,
//! servers, names.
//!
//! Invariants: pure; no overflow; a refusal contains the text to type, where it can be derived.

use crate::domain::config::{PathPattern, Scheme, Server};
use crate::domain::failure_rules::JsonStep;
use crate::stats::cohort::{Weight, WeightError};
use http::{HeaderName, Method};
use ipnet::IpNet;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The reason of a refusal (for the caret), and the correction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidValue {
    pub why: String,
    pub help: Option<String>,
}

pub type Parsed<T> = Result<T, InvalidValue>;

pub fn bad<T>(why: impl Into<String>) -> Parsed<T> {
    Err(InvalidValue { why: why.into(), help: None })
}

pub fn bad_help<T>(why: impl Into<String>, help: impl Into<String>) -> Parsed<T> {
    Err(InvalidValue { why: why.into(), help: Some(help.into()) })
}

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

/// `250ms`, `10s`, `15m`, `1h`.
pub fn duration(text: &str) -> Parsed<Duration> {
    let digits_end = text.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(text.len());
    let (digits, unit) = (&text[..digits_end], text[digits_end..].trim());
    if digits.is_empty() {
        return bad_help("not a duration", "write a number and its unit, ms, s, m, h or d, as in `\"10s\"`");
    }
    if unit.is_empty() {
        return bad_help("a duration needs its unit", format!("write `\"{digits}s\"` or `\"{digits}ms\"`"));
    }
    let Some((_, ms)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        let lower = unit.to_lowercase();
        let guess = match lower.as_str() {
            "sec" | "secs" | "second" | "seconds" => "s",
            "min" | "mins" | "minute" | "minutes" => "m",
            "hour" | "hours" | "hr" | "hrs" => "h",
            "day" | "days" => "d",
            "msec" | "millis" | "milliseconds" => "ms",
            other => UNITS.iter().find(|(name, _)| *name == other).map_or("", |(name, _)| name),
        };
        let help = if guess.is_empty() {
            "units are ms, s, m, h and d; one number with one unit".to_string()
        } else {
            format!("write `\"{digits}{guess}\"`")
        };
        return bad_help(format!("`{unit}` is not a unit of time"), help);
    };
    if digits.contains('.') {
        let exact =
            digits.parse::<f64>().ok().map(|n| n * *ms as f64).filter(|n| *n < 1e12 && n.fract() == 0.0);
        return match exact {
            Some(exact) => bad_help("a duration is a whole number", format!("write `\"{exact}ms\"`")),
            None => bad("a duration is a whole number"),
        };
    }
    match digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*ms)) {
        Some(ms) => Ok(Duration::from_millis(ms)),
        None => bad("a duration longer than time itself"),
    }
}

const SIZES: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `512B`, `32KiB`, `1MiB`, `1GiB`.
pub fn size(text: &str) -> Parsed<usize> {
    let digits_end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = (&text[..digits_end], text[digits_end..].trim());
    if digits.is_empty() {
        return bad_help(
            "not a size",
            "write a whole number and its unit, B, KiB, MiB or GiB, as in `\"32KiB\"`",
        );
    }
    if unit.is_empty() {
        return bad_help("a size needs its unit", format!("write `\"{digits}KiB\"` or `\"{digits}B\"`"));
    }
    let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
        let guess = match unit.to_lowercase().trim_end_matches("ib").trim_end_matches('b') {
            "k" => "KiB",
            "m" => "MiB",
            "g" => "GiB",
            _ => return bad_help(format!("`{unit}` is not a unit of size"), "units are B, KiB, MiB and GiB"),
        };
        return bad_help(format!("`{unit}` is not a unit of size"), format!("write `\"{digits}{guess}\"`"));
    };
    match digits.parse::<u64>().ok().and_then(|n| n.checked_mul(*bytes)).and_then(|n| usize::try_from(n).ok())
    {
        Some(n) => Ok(n),
        None => bad("too large"),
    }
}

pub fn show_size(bytes: usize) -> String {
    let bytes = bytes as u64;
    let (unit, size) =
        SIZES.iter().rev().find(|(_, s)| bytes >= *s && bytes.is_multiple_of(*s)).unwrap_or(&("B", 1));
    format!("{}{unit}", bytes / size)
}

/// `5%`, `0.25%`.
pub fn percent(text: &str) -> Parsed<Weight> {
    Weight::parse(text).or_else(|e| match e {
        WeightError::NoPercentSign if text.parse::<f64>().is_ok() => {
            bad_help("a percentage needs its sign", format!("write `\"{text}%\"`"))
        }
        WeightError::NoPercentSign | WeightError::NotANumber => bad_help(
            "not a percentage",
            "write a number from 0 to 100 and its sign, as in `\"5%\"` or `\"0.25%\"`",
        ),
        WeightError::TooFine => bad("more than four decimals"),
        WeightError::TooLarge => bad("more than 100%"),
    })
}

pub fn address(text: &str) -> Parsed<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("localhost:").filter(|p| p.parse::<u16>().is_ok()) {
        return bad_help("an address to listen on is numeric", format!("write `\"127.0.0.1:{port}\"`"));
    }
    let port = text.strip_prefix("*:").or(text.strip_prefix(':')).unwrap_or(text);
    if port.parse::<u16>().is_ok() {
        return bad_help(
            "an address to listen on names its interface",
            format!(
                "write `\"0.0.0.0:{port}\"` for every interface, `\"127.0.0.1:{port}\"` for this machine only"
            ),
        );
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        let shown = SocketAddr::new(ip, 8080);
        return bad_help("the port is missing", format!("write `\"{shown}\"`"));
    }
    bad_help("not an address to listen on", "write an IP address and a port, as in `\"127.0.0.1:8080\"`")
}

/// A network, and whether bits beyond its prefix were set (they are dropped).
pub fn network(text: &str) -> Parsed<(IpNet, bool)> {
    if let Ok(net) = text.parse::<IpNet>() {
        let kept = net.trunc();
        return Ok((kept, kept.addr() != net.addr()));
    }
    match text.parse::<IpAddr>() {
        Ok(ip) => bad_help(
            "a network needs its prefix length",
            format!("write `\"{ip}/{}\"` for this one address", if ip.is_ipv4() { 32 } else { 128 }),
        ),
        Err(_) => bad_help("not a network", "write an address and a prefix length, as in `\"10.1.0.0/16\"`"),
    }
}

/// `http://host:port` or `https://host:port`, without a path; or `unix:/path`.
pub fn server(text: &str) -> Parsed<Server> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_server(path);
    }
    let (scheme, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
        (Some(rest), _) => (Scheme::Http, rest),
        (_, Some(rest)) => (Scheme::Https, rest),
        _ if text.contains("://") => {
            return bad_help("only http:// and https:// are known", "write `\"http://host:port\"`");
        }
        _ => {
            return bad_help(
                "a server starts with http:// or https://",
                format!("write `\"http://{text}\"`"),
            );
        }
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    if end < rest.len() {
        return bad_help("a server has no path", format!("write `\"{}://{authority}\"`", scheme.as_str()));
    }
    if authority.contains('@') {
        return bad("a server has no user name or password");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => match v6.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, port)) if port.starts_with(':') => (host, Some(&port[1..])),
            _ => return bad("the bracket of the address is not closed"),
        },
        None => match authority.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return bad_help("an IPv6 address stands in brackets", "write `\"http://[::1]:9001\"`");
            }
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port.map(str::parse::<u16>) {
        None if scheme == Scheme::Https => 443,
        None => 80,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return bad("the port is a number from 1 to 65535"),
    };
    if authority.starts_with('[') && host.parse::<std::net::Ipv6Addr>().is_err() {
        return bad("not an IPv6 address");
    }
    // `::1` and `0:0:0:0:0:0:0:1` are one server.
    let host = match host.parse::<IpAddr>() {
        Ok(ip) => ip.to_string(),
        Err(_) => dns_name(host)?,
    };
    if scheme == Scheme::Https && ServerName::try_from(host.trim_end_matches('.')).is_err() {
        return bad(format!("no certificate can be for `{host}`"));
    }
    Ok(Server { scheme, host, port })
}

/// Bytes of a path in `sockaddr_un`, without its end (unix(7)).
const UNIX_PATH_BYTES_MAX: usize = 107;

fn unix_server(path: &str) -> Parsed<Server> {
    if !path.starts_with('/') || path.starts_with("//") {
        return bad_help("the path of a socket is absolute", "write `\"unix:/run/app.sock\"`");
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        return bad(format!("the path of a socket has at most {UNIX_PATH_BYTES_MAX} bytes"));
    }
    if path.bytes().any(|b| b.is_ascii_control()) {
        return bad("a path has no control characters");
    }
    // `/run/./app.sock` and `/run//app.sock` are one server.
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.is_empty() || names.contains(&"..") {
        return bad("not the path of a socket");
    }
    Ok(Server { scheme: Scheme::Http, host: format!("/{}", names.join("/")), port: 0 })
}

/// `server` with symbolic links of its socket's path resolved, so that equal servers have equal
/// paths. The socket itself may not exist yet.
pub(crate) fn with_real_path(server: &Server) -> Server {
    let real = server.unix_path().and_then(|path| {
        let parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
        path.canonicalize().ok().or_else(parent)
    });
    match real.and_then(|path| path.into_os_string().into_string().ok()) {
        Some(host) => Server { host, ..server.clone() },
        None => server.clone(),
    }
}

fn dns_name(text: &str) -> Parsed<String> {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !l.starts_with('-')
            && !l.ends_with('-')
    };
    if text.is_empty() {
        return bad("the host is missing");
    }
    // A last label of only digits is a mistyped address, `10.0.0.256`: no DNS name ends so.
    let last_is_number = text.rsplit('.').next().is_some_and(|l| l.bytes().all(|b| b.is_ascii_digit()));
    if text.len() > 253 || last_is_number || !text.strip_suffix('.').unwrap_or(text).split('.').all(label) {
        return bad(format!("`{text}` is neither a DNS name nor an IP address"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A Host value: a name or an IP literal (IPv6 in brackets), lower case, without port.
pub fn host(text: &str) -> Parsed<String> {
    if let Some(v6) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
        return match v6.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => Ok(format!("[{ip}]")),
            Err(_) => bad("not an IPv6 address"),
        };
    }
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return bad_help("an IPv6 address stands in brackets", format!("write `\"[{text}]\"`"));
    }
    if let Some((name, port)) = text.rsplit_once(':')
        && port.bytes().all(|b| b.is_ascii_digit())
        && !name.is_empty()
    {
        return bad_help("a host has no port here", format!("write `\"{name}\"`"));
    }
    if text.starts_with("*.") {
        return bad("a host is one exact name, without `*`");
    }
    if text.parse::<std::net::Ipv4Addr>().is_ok() {
        return Ok(text.to_string());
    }
    dns_name(text)
}

/// The target of a probe: a path, possibly with a query, in its wire form.
pub fn probe_path(text: &str) -> Parsed<http::uri::PathAndQuery> {
    if let Some((_, rest)) = text.split_once("://") {
        let path = rest.find('/').map_or("/", |at| &rest[at..]);
        return bad_help(
            "a path, not a URL: every server is asked by its own address",
            format!("write `\"{path}\"`"),
        );
    }
    if !text.starts_with('/') {
        return bad_help("a path begins with `/`", format!("write `\"/{text}\"`"));
    }
    if text.contains('#') {
        return bad("a fragment (`#`) is never sent to a server");
    }
    match text.parse() {
        Ok(path) if text.bytes().all(|b| b.is_ascii_graphic()) && text.len() <= 1024 => Ok(path),
        _ if text.len() > 1024 => bad("longer than 1024 bytes"),
        _ => bad_help("not a path", "write other than letters, digits and punctuation of ASCII as %XX"),
    }
}

/// The path of a route: it starts with `/`, and does not end with one unless it is `/`.
pub fn route_path(text: &str) -> Parsed<String> {
    if !text.starts_with('/') {
        return bad_help("a path starts with `/`", format!("write `\"/{text}\"`"));
    }
    if text.len() > 1024 {
        return bad("longer than 1024 bytes");
    }
    if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic() || "%?#\\".contains(*c)) {
        return bad(format!("a path of a route cannot have `{}`", c.escape_default()));
    }
    if let Some((path, _)) = text.split_once(';') {
        let why =
            "a path of a route cannot have `;`: many servers cut parameters off before they look at the path";
        return bad_help(why, format!("write `\"{}\"`", if path.is_empty() { "/" } else { path }));
    }
    if text.contains('*') {
        return bad_help(
            "a path is a prefix by itself, without `*`",
            format!("write `\"{}\"`", prefix_of(text)),
        );
    }
    if text.contains("//") || text.split('/').any(|s| s == "." || s == "..") {
        return bad("a path of a route cannot have `//`, `/.` or `/..`");
    }
    let kept = text.trim_end_matches('/');
    Ok(if kept.is_empty() { "/".to_string() } else { kept.to_string() })
}

fn prefix_of(pattern: &str) -> &str {
    let kept = pattern.split('*').next().unwrap_or("/").trim_end_matches('/');
    if kept.is_empty() { "/" } else { kept }
}

/// `/accounts/{id}`.
pub fn path_pattern(text: &str) -> Parsed<PathPattern> {
    let example = "write a path with the id in braces, as in `\"/accounts/{id}\"`";
    let Some(rest) = text.strip_prefix('/') else {
        return bad_help("a path starts with `/`", example);
    };
    let mut segments = Vec::new();
    for part in rest.strip_suffix('/').unwrap_or(rest).split('/') {
        let braced = part.strip_prefix('{').and_then(|p| p.strip_suffix('}'));
        match braced {
            Some(name) if !name.is_empty() && !name.contains(['{', '}']) => segments.push(None),
            Some(_) => return bad_help("the braces hold one name", example),
            None if part.contains(['{', '}']) => {
                return bad_help("braces stand round a whole segment of the path", example);
            }
            None => {
                route_path(&format!("/{part}"))?;
                if part.is_empty() {
                    return bad("a path cannot have `//`");
                }
                segments.push(Some(part.to_string()));
            }
        }
    }
    match segments.iter().filter(|s| s.is_none()).count() {
        1 => Ok(PathPattern { segments }),
        0 => bad_help("no segment of the path is in braces", example),
        _ => bad_help("more than one segment of the path is in braces", example),
    }
}

/// The name of a header that a client may send and that is not removed before it is read.
pub fn header_name(text: &str) -> Parsed<HeaderName> {
    let Ok(name) = text.parse::<HeaderName>() else {
        return bad("not the name of a header");
    };
    // CGI and others treat `_` as `-`, and so does the removal of these headers.
    if name.as_str().replace('_', "-").starts_with("x-grayling-") {
        return bad("headers `x-grayling-*` are removed from every request before anything reads them");
    }
    // proxy/headers.rs removes these headers. A test there compares the two lists.
    const NOT_FORWARDED: [&str; 11] = [
        "connection",
        "expect",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    if NOT_FORWARDED.contains(&name.as_str()) {
        let why =
            format!("`{name}` is for one connection and never forwarded: no upstream could see what it says");
        return bad_help(why, "write a header that reaches the upstream, as in `\"x-user-id\"`");
    }
    if name == http::header::HOST || name == http::header::CONTENT_LENGTH {
        return bad(format!("`{name}` belongs to the request, not to the user"));
    }
    Ok(name)
}

pub fn method(text: &str) -> Parsed<Method> {
    match Method::from_bytes(text.as_bytes()) {
        Ok(Method::CONNECT | Method::TRACE) => bad("CONNECT and TRACE are never forwarded"),
        Ok(method) if text.bytes().all(|b| !b.is_ascii_lowercase()) => Ok(method),
        Ok(_) => bad_help("methods are upper case", format!("write `\"{}\"`", text.to_ascii_uppercase())),
        Err(_) => bad("not a method"),
    }
}

/// `"500-599"` or `"429"`, inclusive.
pub fn status_range(text: &str) -> Parsed<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|s| (100..=599).contains(s));
    match (status(low), status(high)) {
        (Some(low), Some(high)) if low <= high => Ok((low, high)),
        (Some(low), Some(high)) => bad_help("the range is empty", format!("write `\"{high}-{low}\"`")),
        _ => bad_help("statuses are 100 to 599", "write `\"500-599\"` or `\"429\"`"),
    }
}

/// `$.a.b[0]`: names and positions, without filters.
pub fn json_path(text: &str) -> Parsed<Vec<JsonStep>> {
    let help = "write the way from the root, as in `\"$.result.code\"` or `\"$.items[0].code\"`";
    let Some(mut rest) = text.strip_prefix('$') else {
        return bad_help("a path begins with `$`", help);
    };
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let key = &after[..end];
            if key.is_empty() || key.contains(['*', '?', ']', '\'', '"']) || key.chars().any(char::is_control)
            {
                return bad_help("only plain names and positions are understood", help);
            }
            steps.push(JsonStep::Key(key.to_string()));
            rest = &after[end..];
        } else if let Some((index, after)) = rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            let Ok(index) = index.parse() else {
                return bad_help("only plain names and positions are understood", help);
            };
            steps.push(JsonStep::Index(index));
            rest = after;
        } else {
            return bad_help("only plain names and positions are understood", help);
        }
    }
    match steps.len() {
        0 => bad_help("it names the whole body", help),
        1..=32 => Ok(steps),
        _ => bad("more than 32 steps"),
    }
}

/// A kind of stratum.
pub fn stratum(text: &str) -> Parsed<()> {
    match text {
        "route" => Ok(()),
        _ => bad_help("only routes can be judged apart", "write `[\"route\"]`, or `[]` for none"),
    }
}

/// A name that becomes a metric label and a part of a URL.
pub fn name(text: &str) -> Parsed<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
        return bad("a name is 1 to 64 letters, digits, `.`, `_` or `-`");
    }
    Ok(text.to_string())
}

/// A name of a cookie or query parameter: visible characters without separators.
pub fn token(text: &str) -> Parsed<String> {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"()<>@,;:\\\"/?={}".contains(&b);
    if text.is_empty() || text.len() > 128 || !text.bytes().all(allowed) {
        return bad("a name is 1 to 128 visible characters without separators");
    }
    Ok(text.to_string())
}

pub fn parameter(text: &str) -> Parsed<String> {
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return bad("a name is 1 to 128 characters");
    }
    Ok(text.to_string())
}

/// Replaces `${NAME}` by the environment variable, and `$$` by a dollar.
pub fn expand(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Parsed<String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('{').and_then(|r| r.split_once('}')) {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
            if name.is_empty() || !name.bytes().all(allowed) || name.as_bytes()[0].is_ascii_digit() {
                return bad(format!("`${{{name}}}` does not name an environment variable"));
            }
            match environment(name) {
                Some(value) => expanded.push_str(&value),
                None => {
                    return bad_help(
                        format!("the environment variable `{name}` is not set"),
                        format!(
                            "set it (`export {name}=…`), or write the value here; `$${{` for a dollar and a brace"
                        ),
                    );
                }
            }
            rest = after;
        } else {
            return bad_help(
                "a `$` stands alone",
                "write `$$` for a dollar, `${NAME}` for an environment variable",
            );
        }
    }
    expanded.push_str(rest);
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_of_a_socket_is_absolute_and_has_one_form_and_a_bound() {
        assert_eq!(server("unix:/run//app.sock").unwrap(), server("unix:/run/./app.sock").unwrap());
        for bad in
            ["unix:app.sock", "unix://app.sock", "unix:/run/../app.sock", "unix:/", "unix:", "unix:/a\0b"]
        {
            assert!(server(bad).is_err(), "{bad}");
        }
        let path = |bytes: usize| format!("unix:/{}", "a".repeat(bytes - 1));
        assert_eq!(server(&path(107)).unwrap().host.len(), 107);
        assert!(server(&path(108)).is_err());
        let server = server("unix:/run/app.sock").unwrap();
        assert_eq!(
            (server.to_string().as_str(), server.authority().as_str()),
            ("unix:/run/app.sock", "localhost")
        );
    }

    #[test]
    fn a_socket_is_one_server_by_every_path_to_it_and_before_it_exists() {
        let folder = std::env::temp_dir().join(format!("grayling-sockets-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("real")).unwrap();
        let _ = std::os::unix::fs::symlink(folder.join("real"), folder.join("link"));
        let at = |path: &str| server(&format!("unix:{}", folder.join(path).display())).unwrap();
        assert_ne!(at("real/app.sock"), at("link/app.sock"));
        assert_eq!(with_real_path(&at("real/app.sock")), with_real_path(&at("link/app.sock")));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
