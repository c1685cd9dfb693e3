//! Changes without a token, and the permissions of secret files: who may read them, and how they
//! are written.

use super::{BASE, Folder, edited};
use crate::config::load;
use std::os::unix::fs::PermissionsExt;

#[test]
fn who_may_change_what_without_a_token_is_told() {
    let folder = Folder::new();
    folder.write("tokens", "ops 0123456789abcdef\n");
    let admin = |listen: &str, text: &str| {
        folder.write("g.toml", format!("[listen]\nadmin = \"{listen}:9900\"\n[admin]\n{text}\n{BASE}"));
        let loaded = load(&folder.0.join("g.toml")).result;
        let report = loaded.map_or_else(|report| report, |checked| checked.warnings);
        report.lines().join("\n")
    };
    let near = |text: &str| admin("127.0.0.1", text);
    for (text, told) in [
        ("", "every process of this machine may roll back"),
        ("token_file = \"\"", "every process of this machine may roll back"),
        ("local_changes = false", "the admin API takes no change at all"),
        ("local_changes = false", "create `grayling.stop` beside it"),
        ("local_changes = true\ntoken_file = \"tokens\"", "`local_changes` is not used"),
        ("local_changes = 1", "`local_changes` is neither true nor false"),
    ] {
        assert!(near(text).contains(told), "{text}: {}", near(text));
    }
    for text in
        ["local_changes = true", "token_file = \"tokens\"", "local_changes = false\ntoken_file = \"tokens\""]
    {
        assert_eq!(near(text), "", "{text}");
    }
    for text in ["", "local_changes = true", "local_changes = false"] {
        assert!(admin("0.0.0.0", text).contains("`[admin] token_file` is missing"), "{text}");
    }
}

#[test]
fn a_secret_that_every_user_of_the_machine_may_read_is_a_warning() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5\n";
    let secrets = [
        ("tokens", "ops 0123456789abcdef\n".to_owned()),
        ("tls.key", key.serialize_pem()),
        ("user.key", "0123456789abcdef\n".to_owned()),
        ("hook", secret.to_owned()),
        ("slack", "http://127.0.0.1:1/x\n".to_owned()),
    ];
    let public = [
        ("tls.pem", certificate.pem()),
        ("jwks", r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#.into()),
    ];
    let text = format!(
        "[listen]\nhttps = \"127.0.0.1:8443\"\n[tls]\ncertificate = \"tls.pem\"\nkey = \"tls.key\"\n[admin]\ntoken_file = \"tokens\"\n\
         [log]\nuser_key_file = \"user.key\"\n[identity]\nfrom = [{{ jwt = {{ jwks_file = \"jwks\" }} }}]\n\
         [alert.a]\nwebhook = \"http://127.0.0.1:1/\"\nsecret_file = \"hook\"\n[alert.b]\nslack_file = \"slack\"\n{BASE}"
    );
    folder.write("g.toml", text);
    let all = || secrets.iter().chain(&public);
    all().for_each(|(name, text)| drop(folder.write(name, text)));
    let set = |mode| {
        for (name, _) in all() {
            std::fs::set_permissions(folder.0.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set(0o640);
    assert_eq!(folder.lines("g.toml"), Vec::<String>::new());
    set(0o644);
    let told = folder.lines("g.toml");
    assert_eq!(told.len(), secrets.len(), "{told:?}");
    for (name, _) in &secrets {
        let of = format!("every user of this machine may read `{name}`");
        let line = told.iter().find(|line| line.contains(&of)).unwrap_or_else(|| panic!("{name}: {told:?}"));
        assert!(line.contains(&format!("chmod 600 {name}")), "{line}");
    }
}

#[test]
fn a_byte_order_mark_is_no_part_of_any_file_that_the_config_names() {
    let folder = Folder::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["a.example".into()]).unwrap().self_signed(&key).unwrap();
    let files = [
        ("tokens", "ops 0123456789abcdef\r\n".to_owned()),
        ("tls.key", key.serialize_pem()),
        ("tls.pem", certificate.pem()),
        ("user.key", "0123456789abcdef\r\n".to_owned()),
        ("hook", "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5\r\n".to_owned()),
        ("slack", "http://127.0.0.1:1/x\r\n".to_owned()),
        ("users", "alice\r\nbob\r\n".to_owned()),
        ("jwks", r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#.into()),
    ];
    let text = format!(
        "\u{feff}[listen]\nhttps = \"127.0.0.1:8443\"\n[tls]\ncertificate = \"tls.pem\"\nkey = \"tls.key\"\n[admin]\ntoken_file = \"tokens\"\n\
         [log]\nuser_key_file = \"user.key\"\n[identity]\nfrom = [{{ jwt = {{ jwks_file = \"jwks\" }} }}]\n\
         [alert.a]\nwebhook = \"http://127.0.0.1:1/\"\nsecret_file = \"hook\"\n[alert.b]\nslack_file = \"slack\"\n{}",
        edited(&[("users = [\"alice\"]", "users_file = \"users\"")])
    );
    folder.write("g.toml", text);
    for mark in ["", "\u{feff}"] {
        files.iter().for_each(|(name, text)| drop(folder.write(name, format!("{mark}{text}"))));
        assert_eq!(folder.lines("g.toml"), Vec::<String>::new(), "{mark:?}");
        let config = load(&folder.0.join("g.toml")).result.map_err(|r| r.to_string()).unwrap().config;
        assert_eq!(config.log.user_key.as_deref(), Some(&b"0123456789abcdef"[..]));
        assert!(config.segments[0].users.contains(b"alice") && config.segments[0].users.len() == 2);
        assert_eq!(config.admin.tokens.unwrap().name_of(b"0123456789abcdef"), Some("ops"));
    }
}
