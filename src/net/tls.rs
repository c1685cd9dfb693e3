//! TLS on both sides of a connection: the handshake, its ALPN result, and the names in a client
//! certificate.
//!
//! Invariants: a handshake belongs to one connection, and its caller sets the deadline.
//! The protocol is what ALPN selected, and is never guessed.
//! A certificate is parsed once a connection, and no content of it can panic.

use crate::net::fast::write_batching::BatchedStream;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::{Decode, Tag, Tagged};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// RFC 4519, 2.3.
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// The protocol of a connection.
/// Without ALPN it is HTTP/1.1 (RFC 9113 §3.3: HTTP/2 over TLS requires ALPN).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgreedProtocol {
    Http1,
    Http2,
}

impl AgreedProtocol {
    fn from_alpn(protocol: Option<&[u8]>) -> AgreedProtocol {
        if protocol == Some(b"h2") { AgreedProtocol::Http2 } else { AgreedProtocol::Http1 }
    }
}

/// The names of a client's certificate that may be a user id.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CertificateNames {
    /// The common name of the subject, if there is exactly one.
    pub common: Option<Vec<u8>>,
    /// The first alternative name that is a DNS name, a URI or an e-mail address.
    pub alternative: Option<Vec<u8>>,
}

/// A client's connection after its handshake.
pub struct AcceptedConnection {
    pub stream: server::TlsStream<BatchedStream>,
    pub agreed: AgreedProtocol,
    /// Names of the verified certificate; present iff the listener requires certificates.
    pub names: Option<CertificateNames>,
}

/// The server's side of a handshake.
///
/// # Errors
/// The client aborted, or the two sides have no version, cipher or protocol in common.
pub async fn accept(config: Arc<ServerConfig>, stream: BatchedStream) -> io::Result<AcceptedConnection> {
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let session = stream.get_ref().1;
    let agreed = AgreedProtocol::from_alpn(session.alpn_protocol());
    let names = session.peer_certificates().and_then(|chain| chain.first()).map(names);
    Ok(AcceptedConnection { stream, agreed, names })
}

/// The client's side of a handshake with an upstream's server.
/// `config` holds the trusted roots and the protocols to offer.
///
/// # Errors
/// The server cannot be verified as `name`, or does not speak an offered protocol.
pub async fn connect(
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
) -> io::Result<(client::TlsStream<TcpStream>, AgreedProtocol)> {
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let agreed = AgreedProtocol::from_alpn(stream.get_ref().1.alpn_protocol());
    Ok((stream, agreed))
}

fn names(certificate: &CertificateDer<'_>) -> CertificateNames {
    let Ok(parsed) = Certificate::from_der(certificate) else { return CertificateNames::default() };
    let subject = &parsed.tbs_certificate.subject;
    let mut common =
        subject.0.iter().flat_map(|rdn| rdn.0.iter()).filter(|a| a.oid == COMMON_NAME).map(|a| {
            // Only string types whose bytes are ASCII or UTF-8; older types would need a conversion
            // table.
            match a.value.tag() {
                Tag::Utf8String => {
                    a.value.decode_as::<Utf8StringRef<'_>>().ok().map(|t| t.as_bytes().to_vec())
                }
                Tag::PrintableString => {
                    a.value.decode_as::<PrintableStringRef<'_>>().ok().map(|t| t.as_bytes().to_vec())
                }
                _ => None,
            }
        });
    let common = match (common.next(), common.next()) {
        (Some(only), None) => only,
        // With several it is unknown which one is the user.
        _ => None,
    };
    let alternative = match parsed.tbs_certificate.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.into_iter().find_map(|name| match name {
            GeneralName::DnsName(text)
            | GeneralName::UniformResourceIdentifier(text)
            | GeneralName::Rfc822Name(text) => Some(text.as_bytes().to_vec()),
            _ => None,
        }),
        _ => None,
    };
    CertificateNames { common, alternative }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn made(edit: impl FnOnce(&mut CertificateParams)) -> CertificateNames {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        edit(&mut params);
        names(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
    }

    #[test]
    fn the_names_of_a_certificate_are_its_common_name_and_the_first_alternative_that_is_text() {
        let found = made(|p| {
            p.distinguished_name.push(DnType::OrganizationName, "Billing");
            p.distinguished_name.push(DnType::CommonName, "älice");
            p.subject_alt_names = vec![
                SanType::IpAddress("127.0.0.1".parse().unwrap()),
                SanType::URI("spiffe://billing/alice".try_into().unwrap()),
                SanType::DnsName("alice.example".try_into().unwrap()),
            ];
        });
        assert_eq!(found.common.as_deref(), Some("älice".as_bytes()));
        assert_eq!(found.alternative.as_deref(), Some(&b"spiffe://billing/alice"[..]));
        assert_eq!(made(|_| {}), CertificateNames::default());
    }

    #[test]
    fn no_bytes_in_place_of_a_certificate_panic_however_damaged() {
        let signed = |edit: &dyn Fn(&mut CertificateParams)| {
            let mut params = CertificateParams::new(vec!["a.example".to_string()]).unwrap();
            edit(&mut params);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
        };
        let seeds = [
            signed(&|_| {}),
            signed(&|p| p.distinguished_name.push(DnType::CommonName, "alice")),
            signed(&|p| p.subject_alt_names = vec![SanType::URI("spiffe://a/b".try_into().unwrap())]),
        ];
        // DER tags and lengths, and the object identifiers of a common name and of alternative
        // names.
        let words: [&[u8]; 12] = [
            &[0x30],
            &[0x31],
            &[0x0c],
            &[0x13],
            &[0x1e],
            &[0x80],
            &[0x84, 0xff, 0xff, 0xff, 0xff],
            &[0],
            &[0xff],
            &[6, 3, 0x55, 4, 3],
            &[6, 3, 0x55, 0x1d, 0x11],
            &[0x86],
        ];
        let mut runner = proptest::test_runner::TestRunner::new(crate::mutate::cases(400));
        let held = runner.run(&crate::mutate::damaged(seeds, words), |bytes| {
            let found = names(&CertificateDer::from(bytes.clone()));
            let of = [found.common, found.alternative];
            prop_assert!(
                of.iter()
                    .flatten()
                    .all(|name| bytes.windows(name.len().max(1)).any(|w| w == name) || name.is_empty())
            );
            Ok(())
        });
        held.unwrap();
    }
}
