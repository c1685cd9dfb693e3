//! `[tls]`, and the verification of an upstream's https servers: PEM files → rustls configurations,
//! with every fault named.
//!
//! Invariants: a pair that does not match makes no plan, so the present one stays; no part of a key
//! is ever shown; the crypto provider is named everywhere (rustls panics if it must choose between
//! two); with `client_ca` no session is ever resumed.

use super::files::{at_line, secret, small};
use super::reader::{ConfigReader, SourceSpan, TableScope};
use super::sections::file;
use crate::config::keys::single_sections;
use crate::domain::config::{FromFiles, Listen, Protocol, Scheme, Server, Tls, Transport};
use crate::domain::digest::Digest;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_cert::der::Decode;

type Chain = Vec<CertificateDer<'static>>;

/// The section. `None`: no https listener.
pub fn tls(
    r: &mut ConfigReader<'_>,
    root: &TableScope<'_>,
    listen: &Listen,
    https: Option<&SourceSpan>,
) -> Option<Tls> {
    let scope = r.scope(root, &single_sections::TLS);
    let pair = (file(r, &scope, "certificate"), file(r, &scope, "key"));
    let client_ca = file(r, &scope, "client_ca");
    for (key, found) in [("certificate", &pair.0), ("key", &pair.1)] {
        // A value of the wrong type has been reported already.
        let wanted = https.is_some() || pair.0.is_some() || pair.1.is_some() || client_ca.is_some();
        let unsaid = r.value(&scope, key).is_none_or(|v| v.get_ref().as_str() == Some(""));
        if wanted && found.is_none() && unsaid {
            let span = https.unwrap_or(&scope.span);
            let help = format!(
                "add `{key} = \"tls/{}.pem\"` under `[tls]`",
                if key == "key" { "key" } else { "cert" }
            );
            r.absent(
                span,
                format!("`[tls] {key}` is missing"),
                "https needs a certificate and its key",
                Some(help),
            );
        }
    }
    let (certificate, key) = (pair.0?, pair.1?);
    if listen.https.is_empty() {
        let help = "add `https = \"127.0.0.1:8443\"` under `[listen]`, or remove `[tls]`";
        r.warn(&scope.span, "`[tls]` is not used", "no address listens for https", Some(help.into()));
    }
    let texts = (small(r, &certificate.0, &certificate.1), secret(r, &key.0, &key.1));
    let ca_text = client_ca.as_ref().map(|file| small(r, &file.0, &file.1));
    let (certificate_text, key_text) = (texts.0?, texts.1?);
    let chain = certificates(r, &certificate.0, &certificate_text);
    let private = private_key(r, &key.0, &key_text);
    let mut seen = vec![&certificate_text, &key_text];
    let roots = match (&client_ca, &ca_text) {
        (Some((path, _)), Some(text)) => {
            let text = text.as_ref()?;
            seen.push(text);
            Some(authorities(r, path, text)?)
        }
        _ => None,
    };
    let (chain, private) = (chain?, private?);
    let (not_before_s, not_after_s) = validity(&chain[0]);
    let checked_at_s = now_s();
    if checked_at_s > not_after_s || checked_at_s < not_before_s {
        let state = if checked_at_s > not_after_s { "has expired" } else { "is not valid yet" };
        let message = format!("the certificate of `[tls]` {state}");
        let help = "renew it; the new pair is taken without a restart";
        r.warn(&certificate.1, message, "clients refuse it", Some(help.into()));
    }
    let digest = digest(&seen);
    match server(chain, private, roots) {
        Ok(config) => Some(Tls {
            certificate: certificate.0,
            key: key.0,
            client_ca: client_ca.map(|(path, _)| path),
            not_before_s,
            not_after_s,
            checked_at_s,
            server: FromFiles { config: Arc::new(config), digest },
        }),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let message =
                format!("this is not the key of the certificate in `{}`", r.display(&certificate.0));
            let help = "put the pair in place together; what is in force stays until it fits";
            at_line(r, &key.0, 0, &message, Some(help));
            None
        }
        Err(error) => {
            at_line(r, &certificate.0, 0, &format!("the pair cannot be used: {error}"), None);
            None
        }
    }
}

/// The transport to the servers of an upstream.
pub fn transport(
    r: &mut ConfigReader<'_>,
    scope: &TableScope<'_>,
    servers: &[(Server, SourceSpan)],
) -> Transport {
    let http2 = r.boolean(scope, "http2");
    let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
    let ca = file(r, scope, "ca_file");
    let pair = (file(r, scope, "client_certificate"), file(r, scope, "client_key"));
    let Some((_, https)) = servers.iter().find(|(server, _)| server.scheme == Scheme::Https) else {
        for (key, found) in [("ca_file", ca), ("client_certificate", pair.0), ("client_key", pair.1)] {
            if let Some((_, span)) = found {
                let message = format!("`{key}` is not used");
                r.warn(&span, message, "no server of this upstream is https", None);
            }
        }
        return Transport { protocol, tls: None };
    };
    let own = match pair {
        (Some(certificate), Some(key)) => own_pair(r, certificate, key).map(Some),
        (Some((_, span)), None) => half_a_pair(r, &span, "client_certificate", "client_key"),
        (None, Some((_, span))) => half_a_pair(r, &span, "client_key", "client_certificate"),
        (None, None) => Some(None),
    };
    let verified = match ca {
        Some((path, span)) => {
            small(r, &path, &span).and_then(|text| Some((authorities(r, &path, &text)?, digest(&[&text]))))
        }
        None => system(r, https),
    };
    let tls = verified.zip(own).and_then(|((roots, roots_digest), own)| {
        let digest = own.as_ref().map_or(roots_digest, |own| digest(&[&roots_digest.to_vec(), &own.digest]));
        let key_path = own.as_ref().map(|own| own.key_path.clone());
        match (client(roots, protocol, own), key_path) {
            (Ok(config), _) => Some(FromFiles { config: Arc::new(config), digest }),
            (Err(rustls::Error::InconsistentKeys(_)), Some(path)) => {
                let help = "put the pair in place together; what is in force stays until it fits";
                at_line(r, &path, 0, "this is not the key of `client_certificate`", Some(help));
                None
            }
            (Err(error), _) => {
                r.fault(https, "TLS to this server cannot be set up", &error.to_string(), None);
                None
            }
        }
    });
    Transport { protocol, tls }
}

/// The certificate that grayling shows to servers, and its key.
struct OwnPair {
    chain: Chain,
    key: PrivateKeyDer<'static>,
    key_path: PathBuf,
    digest: Vec<u8>,
}

fn own_pair(
    r: &mut ConfigReader<'_>,
    (certificate, certificate_span): (PathBuf, SourceSpan),
    (key_path, key_span): (PathBuf, SourceSpan),
) -> Option<OwnPair> {
    let texts = (small(r, &certificate, &certificate_span), secret(r, &key_path, &key_span));
    let (certificate_text, key_text) = (texts.0?, texts.1?);
    let chain = certificates(r, &certificate, &certificate_text);
    let key = private_key(r, &key_path, &key_text);
    let (chain, key) = (chain?, key?);
    let (not_before_s, not_after_s) = validity(&chain[0]);
    if !(not_before_s..=not_after_s).contains(&now_s()) {
        let state = if now_s() > not_after_s { "has expired" } else { "is not valid yet" };
        let help = "renew it; the new pair is taken without a restart";
        r.warn(
            &certificate_span,
            format!("`client_certificate` {state}"),
            "servers refuse it",
            Some(help.into()),
        );
    }
    Some(OwnPair { chain, key, key_path, digest: digest(&[&certificate_text, &key_text]).to_vec() })
}

/// `None`: it is not known which pair is meant.
fn half_a_pair<T>(r: &mut ConfigReader<'_>, span: &SourceSpan, found: &str, missing: &str) -> Option<T> {
    let help =
        format!("add `{missing} = \"tls/me.{}\"`", if missing == "client_key" { "key" } else { "pem" });
    r.absent(span, format!("`{found}` without `{missing}`"), "a certificate needs its key", Some(help));
    None
}

/// For HTTP/1.1 to servers that a certificate authority of this machine has signed.
pub fn by_the_system(r: &mut ConfigReader<'_>, span: &SourceSpan) -> Option<FromFiles<ClientConfig>> {
    let (roots, digest) = system(r, span)?;
    match client(roots, Protocol::Http1, None) {
        Ok(config) => Some(FromFiles { config: Arc::new(config), digest }),
        Err(error) => {
            r.fault(span, "TLS to this address cannot be set up", &error.to_string(), None);
            None
        }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server(
    chain: Chain,
    key: PrivateKeyDer<'static>,
    clients: Option<RootCertStore>,
) -> Result<ServerConfig, rustls::Error> {
    let mutual = clients.is_some();
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| rustls::Error::General(e.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Early data can be replayed (RFC 8446, 8). Zero is also the library's default.
    config.max_early_data_size = 0;
    // A resumed session is not verified again, although its certificate may have expired or been
    // revoked. With client certificates every handshake is a full one: no tickets, no sessions in
    // memory, TLS 1.2 or 1.3.
    if mutual {
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        // Clients keep their sessions in tickets, so the workers share no state. The keys belong to
        // this configuration.
        config.ticketer = aws_lc_rs::Ticketer::new()?;
    }
    Ok(config)
}

fn client(
    roots: RootCertStore,
    protocol: Protocol,
    own: Option<OwnPair>,
) -> Result<ClientConfig, rustls::Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_auth_cert(own.chain, own.key)?,
    };
    config.alpn_protocols = match protocol {
        Protocol::Http1 => vec![b"http/1.1".to_vec()],
        Protocol::Http2 => vec![b"h2".to_vec()],
    };
    Ok(config)
}

fn certificates(r: &mut ConfigReader<'_>, path: &Path, text: &[u8]) -> Option<Chain> {
    let chain: Result<Chain, _> = CertificateDer::pem_slice_iter(text).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Some(chain),
        Ok(_) => {
            let help = "it begins with `-----BEGIN CERTIFICATE-----`";
            at_line(r, path, 0, "no certificate in it", Some(help));
            None
        }
        Err(_) => {
            at_line(r, path, 0, "not PEM, or cut off", Some("write it again, whole"));
            None
        }
    }
}

fn private_key(r: &mut ConfigReader<'_>, path: &Path, text: &[u8]) -> Option<PrivateKeyDer<'static>> {
    let key = PrivateKeyDer::from_pem_slice(text);
    if key.is_err() {
        let encrypted = text.windows(9).any(|w| w == b"ENCRYPTED");
        let (message, help) = match encrypted {
            true => {
                ("the key is encrypted", "write it without a password: `openssl pkey -in KEY -out PLAIN`")
            }
            false => ("no private key in it", "it begins with `-----BEGIN PRIVATE KEY-----`"),
        };
        at_line(r, path, 0, message, Some(help));
    }
    key.ok()
}

fn authorities(r: &mut ConfigReader<'_>, path: &Path, text: &[u8]) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(r, path, text)? {
        if let Err(error) = roots.add(certificate) {
            at_line(r, path, 0, &format!("not a certificate authority: {error}"), None);
            return None;
        }
    }
    Some(roots)
}

/// The certificate authorities of this machine.
fn system(r: &mut ConfigReader<'_>, span: &SourceSpan) -> Option<(RootCertStore, [u8; 32])> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let texts: Vec<Vec<u8>> = found.certs.iter().map(|c| c.to_vec()).collect();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let help = "install the package ca-certificates; for an upstream, `ca_file = \"ca.pem\"` does too";
        r.fault(
            span,
            "this machine knows no certificate authority",
            "the server cannot be verified",
            Some(help.into()),
        );
        return None;
    }
    Some((roots, digest(&texts.iter().collect::<Vec<_>>())))
}

/// Seconds since 1970. An unreadable certificate counts as always valid: rustls has checked it
/// already.
fn validity(certificate: &CertificateDer<'_>) -> (u64, u64) {
    match x509_cert::Certificate::from_der(certificate) {
        Ok(parsed) => {
            let validity = parsed.tbs_certificate.validity;
            (
                validity.not_before.to_unix_duration().as_secs(),
                validity.not_after.to_unix_duration().as_secs(),
            )
        }
        Err(_) => (0, u64::MAX),
    }
}

fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn digest(texts: &[&Vec<u8>]) -> [u8; 32] {
    let mut digest = Digest::default();
    for text in texts {
        digest.add(&(text.len() as u64).to_le_bytes());
        digest.add(text);
    }
    digest.finish()
}

#[cfg(test)]
mod tests {
    use crate::config::{PlanFindingKind, compare, parse};
    use crate::domain::config::Config;
    use rcgen::{CertificateParams, KeyPair};
    use std::path::Path;
    use std::sync::Arc;

    const REST: &str = "[upstream.a]\nservers = [\"http://127.0.0.1:9001\"]\n[[route]]\nupstream = \"a\"\n";

    fn config(folder: &Path, more: &str) -> Config {
        let text = format!(
            "[listen]\nhttps = \"127.0.0.1:8443\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n{more}{REST}"
        );
        parse(&text, &folder.join("g.toml")).map_err(|r| r.to_string()).unwrap().config
    }

    fn renew(folder: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["a.example".to_string()]).unwrap();
        std::fs::write(folder.join("c.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        std::fs::write(folder.join("k.pem"), key.serialize_pem()).unwrap();
    }

    #[test]
    fn sessions_outlive_a_reload_that_has_nothing_to_do_with_them_and_no_other() {
        let folder = std::env::temp_dir().join(format!("grayling-tls-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        renew(&folder);
        let first = config(&folder, "");
        let mut second = config(&folder, "");
        assert!(compare(&first, &second, &Default::default()).is_empty());
        second.inherit(&first);
        let same = |a: &Config, b: &Config| {
            let config = |p: &Config| p.tls.as_ref().unwrap().server.config.clone();
            Arc::ptr_eq(&config(a), &config(b))
        };
        assert!(same(&first, &second));
        std::fs::copy(folder.join("c.pem"), folder.join("ca.pem")).unwrap();
        let mut mutual = config(&folder, "client_ca = \"ca.pem\"\n");
        mutual.inherit(&first);
        assert!(!same(&first, &mutual), "who was let in without a certificate must not come back so");
        let lifted = compare(&mutual, &first, &Default::default());
        assert!(
            lifted
                .iter()
                .any(|f| f.kind == PlanFindingKind::Warning && f.message.contains("no longer asked"))
        );
        renew(&folder);
        let mut renewed = config(&folder, "");
        renewed.inherit(&first);
        assert!(!same(&first, &renewed));
        assert!(
            compare(&first, &renewed, &Default::default()).iter().all(|f| f.kind == PlanFindingKind::Note)
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
