//! Faults of `[alert.NAME]`, and of the files with secrets that it names.

use super::*;
use crate::domain::config::ReceiverKind;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

fn with(more: &str) -> Vec<String> {
    lines(&format!("{BASE}{more}"))
}

#[test]
fn each_fault_of_an_alert_says_where_and_what_to_type() {
    let table: &[(&str, &str)] = &[
        (
            "[alert.a]\n",
            "g.toml:14:8: alert `a` has no receiver: nobody would be told; add `alertmanager = \"http://127.0.0.1:9093\"`, or `slack_file`, or `webhook` with `secret_file`",
        ),
        (
            "[alert.a]\nalertmanager = \"http://h:1\"\nwebhook = \"http://h:2\"\n",
            "g.toml:16:11: alert `a` has two receivers; give each receiver an `[alert.NAME]` of its own",
        ),
        (
            "[alert.a]\nalertmanger = \"http://h:1\"\n",
            "g.toml:15:1: unknown key `alertmanger`; did you mean `alertmanager`?",
        ),
        (
            "[alert.a]\nalertmanager = \"h:9093\"\n",
            "g.toml:15:16: invalid `alertmanager`: an address starts with http:// or https://; write `\"http://127.0.0.1:9093\"`",
        ),
        (
            "[alert.a]\nalertmanager = \"http://me:secret@h\"\n",
            "g.toml:15:16: invalid `alertmanager`: an address has no user name or password; secrets do not belong into this file",
        ),
        (
            "[alert.a]\nalertmanager = \"http://h\"\nrepeat = \"1h\"\n",
            "g.toml:16:10: `repeat` is out of bounds: too long",
        ),
        (
            "[alert.a]\nwebhook = \"http://h\"\n",
            "g.toml:15:11: `webhook` without `secret_file`: the receiver could not tell grayling's calls from anybody's; add `secret_file = \"webhook.secret\"`; make one with `echo whsec_$(openssl rand -base64 32)`",
        ),
    ];
    for (text, wanted) in table {
        let told = with(text);
        assert!(told.iter().any(|line| line.starts_with(wanted)), "{text}\n{told:?}");
    }
}

#[test]
fn files_with_secrets_are_read_and_their_lines_are_shown_in_no_fault() {
    let folder = Folder::new();
    folder.write("good", format!("# the old one beside the new one\n{SECRET}\n{SECRET}\n"));
    folder.write("short", "whsec_c2hvcnQ=\n");
    folder.write("bare", "hunter2hunter2hunter2hunter2\n");
    folder.write("slack", "https://hooks.slack.com/services/T0/B0/secret\n");
    folder.write("no-slack", "hooks.slack.com/services/T0/B0/secret\n");
    let of = |text: &str| {
        let origin = folder.0.join("g.toml");
        examine(&format!("{BASE}{text}"), &origin, &environment).0
    };
    let hook = |file: &str| of(&format!("[alert.a]\nwebhook = \"http://h:1/x\"\nsecret_file = \"{file}\"\n"));
    let config = hook("good").map_err(|r| r.lines()).unwrap().config;
    assert!(matches!(&config.alerts[0].kind, ReceiverKind::Webhook { secrets } if secrets.len() == 2));
    for (file, wanted) in
        [("short", "24 to 64 bytes"), ("bare", "`whsec_`, then base64"), ("none", "there is no file")]
    {
        let told = hook(file).map(|_| ()).unwrap_err().lines().join("\n");
        assert!(told.contains(wanted) && !told.contains("hunter2") && !told.contains("c2hvcnQ"), "{told}");
    }
    let slack = |file: &str| of(&format!("[alert.a]\nslack_file = \"{file}\"\n"));
    let config = slack("slack").map_err(|r| r.lines()).unwrap().config;
    assert_eq!(config.alerts[0].address.path, "/services/T0/B0/secret");
    assert!(!format!("{config:?}").contains("secret"), "a secret in what may be logged");
    let told = slack("no-slack").map(|_| ()).unwrap_err().lines().join("\n");
    assert!(told.contains("no-slack:1: not an address") && !told.contains("secret"), "{told}");
}
