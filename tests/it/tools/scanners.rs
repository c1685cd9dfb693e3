//! sslscan and testssl.sh against the TLS listener.

use super::run;
use crate::world::{Authority, Config, Origin, Validity, World, figure, put};
use serde_json::Value;
use std::path::Path;

/// Expected findings of testssl.sh: about a test's certificate (a private authority, no expiry
/// limit, no revocation, a name without DNS); about the order of suites: rustls uses the client's,
/// as Mozilla's profiles advise where no suite is weak; and about this machine's own openssl, which
/// it runs.
const EXPLAINED: [&str; 7] = [
    "engine_problem",
    "cert_chain_of_trust",
    "cert_crl",
    "cert_revocation",
    "cert_validityPeriod",
    "DNS_CAArecord",
    "cipher_order",
];

#[test]
fn scanners_find_no_old_protocol_no_weak_suite_and_no_known_hole() {
    let (world, origin) = (World::new(), Origin::start("origin"));
    let ca = Authority::new("test CA");
    let (certificate, _) = ca.server(&world, "server", Validity::Now);
    // In the order that the file should have: the certificate, then its signer's.
    let authority = std::fs::read_to_string(ca.write(&world, "ca.pem")).unwrap();
    put(&world, "server.pem", &(std::fs::read_to_string(certificate).unwrap() + &authority));
    let mut config = Config::new(origin.address, super::free()).weight("0%");
    config.listen.push_str("\nhttps = \"127.0.0.1:0\"");
    config.rest = "\n[tls]\ncertificate = \"server.pem\"\nkey = \"server.key\"\n".into();
    let proxy = world.run(&config);
    let target = format!("localhost:{}", proxy.https().port());

    let said = run("sslscan", ["--no-colour", &target]).text;
    let states: Vec<&str> = ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1", "TLSv1.2", "TLSv1.3"]
        .into_iter()
        .map(|version| {
            let line =
                said.lines().find(|l| l.starts_with(version)).unwrap_or_else(|| panic!("{version}: {said}"));
            line.split_whitespace().last().unwrap()
        })
        .collect();
    assert_eq!(states, ["disabled", "disabled", "disabled", "disabled", "enabled", "enabled"], "{said}");
    let suites: Vec<&str> =
        said.lines().filter(|l| l.starts_with("Accepted") || l.starts_with("Preferred")).collect();
    assert!(
        suites.len() >= 6 && suites.iter().all(|s| s.contains("GCM") || s.contains("CHACHA20")),
        "{suites:#?}"
    );
    assert!(
        said.contains("Session renegotiation not supported") && !said.contains(" vulnerable to heartbleed\n")
            || said.contains("not vulnerable"),
        "{said}"
    );

    // Checks that failed for lack of a connection in time are repeated.
    let found = (0..3)
        .map(|n| testssl(&world.path(&format!("testssl-{n}.json")), &target))
        .find(|found| {
            let looked = |f: &Value| !f["finding"].as_str().unwrap_or_default().contains("connect problem");
            found.iter().all(looked)
        })
        .expect("three times it could not connect");
    let good = found.iter().filter(|f| f["severity"] == "OK").count();
    let bad: Vec<&Value> = found
        .iter()
        .filter(|f| {
            ["LOW", "MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL"].iter().any(|s| f["severity"] == *s)
        })
        .filter(|f| !EXPLAINED.iter().any(|known| f["id"].as_str().is_some_and(|id| id.starts_with(known))))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(good >= 13, "{found:#?}");
    figure(&format!(
        "testssl.sh: {good} findings good, none bad but those that are explained; sslscan: TLS 1.2 and 1.3 only, {} suites, all AEAD",
        suites.len()
    ));
}

/// The findings of testssl.sh: protocols (other checks depend on them), the server's defaults, its
/// certificate, and the vulnerabilities of no particular suite.
/// Suites and renegotiation take it half a minute; sslscan checks them in a second.
fn testssl(report: &Path, target: &str) -> Vec<Value> {
    let to = report.display().to_string();
    let fixed = [
        "--quiet",
        "--warnings",
        "off",
        "-n",
        "none",
        "--ip",
        "127.0.0.1",
        "--color",
        "0",
        "--jsonfile",
        &to,
    ];
    let checks = ["-p", "-S", "-C", "-H", "-I", "-T"];
    let said = run("testssl", fixed.iter().chain(&checks).chain(&[target]));
    let text = std::fs::read_to_string(report).unwrap_or_else(|e| panic!("{e}: {}", said.text));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}
