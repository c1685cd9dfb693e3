//! Certificate authorities and their certificates, made for one test.

use super::World;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

#[derive(Clone, Copy, PartialEq)]
pub enum Validity {
    Now,
    Expired,
    /// From now on for this duration.
    For(Duration),
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Writes the authority's own certificate.
    pub fn write(&self, world: &World, name: &str) -> PathBuf {
        put(world, name, &self.0.pem())
    }

    /// A pair for a server or a client: PEM of the certificate and of the key.
    pub fn sign(&self, common: &str, alternatives: Vec<SanType>, validity: Validity) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = alternatives;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        match validity {
            Validity::Now => {}
            Validity::Expired => {
                (params.not_before, params.not_after) =
                    (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
            }
            Validity::For(time) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
                params.not_after = date_time_ymd(1970, 1, 1) + now + time;
            }
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A pair for a server on this machine, written to `config/NAME.pem` and `config/NAME.key`.
    pub fn server(&self, world: &World, name: &str, validity: Validity) -> (PathBuf, PathBuf) {
        let (certificate, key) = self.sign(name, here(), validity);
        (put(world, &format!("{name}.pem"), &certificate), put(world, &format!("{name}.key"), &key))
    }
}

/// The names of this machine.
fn here() -> Vec<SanType> {
    let ip = SanType::IpAddress("127.0.0.1".parse().unwrap());
    vec![ip, SanType::DnsName("localhost".try_into().unwrap())]
}

/// Beside the config; written whole, by a rename.
pub fn put(world: &World, name: &str, text: &str) -> PathBuf {
    let file = world.path(&format!("config/{name}"));
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let beside = world.path(&format!("{name}.saving"));
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, &file).unwrap();
    file
}
