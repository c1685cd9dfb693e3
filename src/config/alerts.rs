//! `[alert.NAME]`: receivers of alerts. Exactly one of `alertmanager`, `slack_file`, `webhook`.
//!
//! Invariants: secrets (the address of a Slack webhook, the key of a signature) are in files of
//! their own, and no fault shows them.

use super::files::{at_line, secret};
use super::reader::{ConfigReader, SourceSpan, TableScope, WithSpan};
use super::sections::file;
use super::values::{self, Parsed, bad, bad_help};
use crate::config::keys::single_sections::ALERT;
use crate::domain::config::{Address, Receiver, ReceiverKind, Scheme};
use base64::Engine;
use std::path::Path;

/// Two at a time during a rotation. A few more do no harm.
const SECRETS_MAX: usize = 4;
const KINDS: [&str; 3] = ["alertmanager", "slack_file", "webhook"];

pub fn receivers(r: &mut ConfigReader<'_>, root: &TableScope<'_>) -> Vec<Receiver> {
    let mut receivers = vec![];
    let mut spans = vec![];
    for (name, s) in r.named(root, &ALERT) {
        spans.push(name.span.clone());
        receivers.extend(receiver(r, name, &s));
    }
    let max = r.count_max(root, "alert");
    if let Some(span) = spans.get(max) {
        r.fault(span, format!("more than {max} alert receivers"), "", None);
    }
    receivers
}

fn receiver(r: &mut ConfigReader<'_>, name: WithSpan<String>, s: &TableScope<'_>) -> Option<Receiver> {
    s.table?;
    let given: Vec<&str> = KINDS.into_iter().filter(|key| r.value(s, key).is_some()).collect();
    let secret = file(r, s, "secret_file");
    let repeat = r.value(s, "repeat").map(toml::Spanned::span);
    let repeats = r.duration(s, "repeat");
    let (kind, address) = match given[..] {
        [] => {
            let why = "nobody would be told";
            let help = "add `alertmanager = \"http://127.0.0.1:9093\"`, or `slack_file`, or `webhook` with `secret_file`";
            r.absent(&name.span, format!("alert `{}` has no receiver", name.value), why, Some(help.into()));
            return None;
        }
        [_, second, ..] => {
            let span = r.value(s, second).map_or(s.span.clone(), toml::Spanned::span);
            let help = "give each receiver an `[alert.NAME]` of its own";
            r.fault(&span, format!("alert `{}` has two receivers", name.value), "", Some(help.into()));
            return None;
        }
        ["alertmanager"] => {
            let base = r.parsed(s, "alertmanager", address)?;
            let path = format!("{}/api/v2/alerts", base.value.path.trim_end_matches('/'));
            (
                ReceiverKind::Alertmanager { repeat: repeats },
                WithSpan { value: Address { path, ..base.value }, span: base.span },
            )
        }
        ["slack_file"] => {
            let (path, span) = file(r, s, "slack_file")?;
            (ReceiverKind::Slack, WithSpan { value: slack(r, &path, &span)?, span })
        }
        _ => {
            let address = r.parsed(s, "webhook", address)?;
            let Some((path, span)) = &secret else {
                let why = "the receiver could not tell grayling's calls from anybody's";
                let help = "add `secret_file = \"webhook.secret\"`; make one with `echo whsec_$(openssl rand -base64 32)`";
                r.absent(&address.span, "`webhook` without `secret_file`", why, Some(help.into()));
                return None;
            };
            (ReceiverKind::Webhook { secrets: secrets(r, path, span)? }, address)
        }
    };
    if let (Some((_, span)), false) = (&secret, matches!(kind, ReceiverKind::Webhook { .. })) {
        r.warn(span, "`secret_file` is not used", "only `webhook` is signed", None);
    }
    if let (Some(span), false) = (&repeat, matches!(kind, ReceiverKind::Alertmanager { .. })) {
        r.warn(
            span,
            "`repeat` is not used",
            "only an Alertmanager is told again while an alert stands",
            None,
        );
    }
    let tls = match address.value.scheme {
        Scheme::Http => None,
        Scheme::Https => Some(super::tls::by_the_system(r, &address.span)?),
    };
    let stuck_after = r.duration(s, "stuck_after");
    Some(Receiver { name: name.value, kind, address: address.value, tls, stuck_after })
}

/// `http://host:port/path`, or https.
pub(super) fn address(text: &str) -> Parsed<Address> {
    let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| *scheme != "unix") else {
        return bad_help("an address starts with http:// or https://", "write `\"http://127.0.0.1:9093\"`");
    };
    if text.bytes().any(|b| b.is_ascii_control() || b == b' ' || b == b'#') {
        return bad("an address has no white space, and no `#`");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    if rest[..end].contains('@') {
        return bad_help("an address has no user name or password", "secrets do not belong into this file");
    }
    let server = values::server(&format!("{scheme}://{}", &rest[..end]))?;
    let path =
        if rest[end..].starts_with('/') { rest[end..].to_owned() } else { format!("/{}", &rest[end..]) };
    if path.parse::<http::uri::PathAndQuery>().is_err() {
        return bad("not the path of an address");
    }
    Ok(Address { scheme: server.scheme, host: server.host, port: server.port, path })
}

/// The first line is the address of an incoming webhook.
fn slack(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<Address> {
    let bytes = secret(r, path, span)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().next().unwrap_or_default().trim();
    let found = address(line).ok();
    if found.is_none() {
        let help =
            "write the address of the incoming webhook on the first line: https://hooks.slack.com/services/…";
        at_line(r, path, 1, "not an address", Some(help));
    }
    found
}

/// Lines `whsec_BASE64`, as in Standard Webhooks: each call is signed with each secret.
fn secrets(r: &mut ConfigReader<'_>, path: &Path, span: &SourceSpan) -> Option<Vec<Vec<u8>>> {
    let bytes = secret(r, path, span)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut secrets = vec![];
    let help = Some("make one with `echo whsec_$(openssl rand -base64 32)`");
    for (i, line) in
        text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    {
        let coded = line.strip_prefix("whsec_");
        let key = coded.and_then(|coded| base64::engine::general_purpose::STANDARD.decode(coded).ok());
        match key {
            Some(key) if (24..=64).contains(&key.len()) => secrets.push(key),
            Some(_) => at_line(r, path, i + 1, "the secret of a webhook has 24 to 64 bytes", help),
            None => at_line(r, path, i + 1, "not the secret of a webhook: `whsec_`, then base64", help),
        }
        if secrets.len() > SECRETS_MAX {
            at_line(r, path, i + 1, &format!("more than {SECRETS_MAX} secrets"), None);
            return None;
        }
    }
    if secrets.is_empty() {
        at_line(r, path, 0, "no secret in it", help);
    }
    Some(secrets).filter(|secrets| !secrets.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        let of = |text: &str| address(text).ok().map(|a| (a.to_string(), a.path));
        let some = |server: &str, path: &str| Some((server.to_owned(), path.to_owned()));
        assert_eq!(of("http://127.0.0.1:9093"), some("http://127.0.0.1:9093", "/"));
        assert_eq!(of("https://alerts.example/am/?x=1"), some("https://alerts.example:443", "/am/?x=1"));
        assert_eq!(of("http://[::1]:80/a"), some("http://[::1]:80", "/a"));
        for wrong in ["", "alerts.example", "ftp://a", "http://u:p@a", "http://a b", "http://a/\n", "http://"]
        {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
