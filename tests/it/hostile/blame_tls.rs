//! TLS clients that break off: none of it counts against `new`.

use super::blame_http2::{STREAMS, fields, headers, ids};
use super::{Fault, Scene, connect, leave, pause, say};
use crate::rows::wire::{DATA, SETTINGS, frame};
use crate::world::{Authority, Validity};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io::Write;
use std::sync::Arc;

#[test]
fn tls_that_breaks_off_is_not_held_against_new() {
    let scene = Scene::start(|world, config| {
        let ca = Authority::new("test CA");
        ca.server(world, "server", Validity::Now);
        ca.write(world, "ca.pem");
        config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
        config.rest = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
    });
    let address = scene.proxy.https();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(scene.world.path("config/ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);
    let begin = || ClientConnection::new(config.clone(), ServerName::from(address.ip())).unwrap();
    let mut hello = Vec::new();
    begin().write_tls(&mut hello).unwrap();

    scene.suffers("TLS: left in the client's hello", 64, 1, |f| {
        let stream = connect(address);
        say(&stream, &hello[..f.n as usize % hello.len()]);
        leave(stream, f.n);
    });
    scene.suffers("TLS: left after the hello", 32, 1, |f| {
        let stream = connect(address);
        say(&stream, &hello);
        leave(stream, f.n);
    });
    // A hundred streams per connection: the test is about the cut record, not about the handshake.
    scene.suffers("TLS: a record cut or spoilt under an HTTP/2 request", 5, STREAMS, |f: &Fault<'_>| {
        let (mut tls, mut stream) = (begin(), connect(address));
        while tls.is_handshaking() {
            tls.complete_io(&mut stream).expect("a handshake");
        }
        let mut opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        opening.extend(frame(SETTINGS, 0, 0, &[]));
        for id in ids() {
            opening.extend(headers(id, &fields(f, "POST", "/"), 0));
            opening.extend(frame(DATA, 0, id, b"a part"));
        }
        tls.writer().write_all(&opening).unwrap();
        tls.complete_io(&mut stream).expect("it takes the heads");
        pause(100);
        tls.writer().write_all(&frame(DATA, 1, 1, b"the rest")).unwrap();
        let mut record = Vec::new();
        tls.write_tls(&mut record).unwrap();
        match f.n % 3 {
            0 => record[10] ^= 1,
            _ => record.truncate(record.len() / 2),
        }
        say(&stream, &record);
        leave(stream, f.n);
    });
    scene.ends();
}
